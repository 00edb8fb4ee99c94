//! What a library user takes along: the core alone and the core with the tower layer stay small.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates below this one, by name and version.
fn crates(features: &str) -> BTreeSet<String> {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .args(["--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut crates: BTreeSet<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    crates.retain(|line| !line.starts_with("holdoff "));
    assert!(crates.iter().any(|line| line.starts_with("http v")), "expected a tree, found {crates:?}");
    crates
}

#[test]
fn the_core_alone_takes_at_most_10_crates_along() {
    let crates = crates("");
    assert!(crates.len() <= 10, "{} crates: {crates:#?}", crates.len());
}

#[test]
fn the_tower_layer_takes_at_most_15_crates_along() {
    let crates = crates("tower");
    assert!(crates.len() <= 15, "{} crates: {crates:#?}", crates.len());
}

#[test]
fn the_numbers_in_the_crate_documents_are_true() {
    let documents = include_str!("../../src/lib.rs");
    let rows = [
        ("", "//! | none |"),
        ("fields", "//! | `fields` |"),
        ("body", "//! | `body` |"),
        ("table", "//! | `table` |"),
        ("tower", "//! | `tower` |"),
    ];
    for (features, row) in rows {
        let row = documents.lines().find(|line| line.starts_with(row)).unwrap();
        let crates = crates(features).len();
        assert!(row.ends_with(&format!("| {crates} |")), "expected {crates} crates in the row `{row}`");
    }
}
