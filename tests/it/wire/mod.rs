//! The wire, byte by byte, against scripted peers. Judged are only the bytes at the upstream and the bytes at the client,
//! and that the next request is served.
//!
//! `items.txt` lists what the specifications ask of an intermediary and the traps that caught others; each line names its
//! test.

mod connect;
mod connections;
mod destinations;
mod fields;
mod framing;
mod http2;
mod messages;
mod peer;
mod semantics;
mod traps;

use std::fs;
use std::path::Path;

/// Names of the tests in this directory.
fn tests() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/wire");
    let mut found = Vec::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[tokio::test") || line == "#[test]" {
                is_test = true;
            } else if line.starts_with("#[ignore") {
                panic!("{}: a test that is never run is none", path.display());
            } else if let Some((_, name)) = line.split_once("fn ") {
                if is_test {
                    found.push(name.split(['(', '<']).next().unwrap().to_owned());
                }
                is_test = false;
            }
        }
    }
    found
}

#[test]
fn every_item_has_a_test() {
    let tests = tests();
    let items = include_str!("items.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let missing: Vec<&str> = items
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|item| !tests.iter().any(|test| test.starts_with(item)))
        .collect();
    assert!(missing.is_empty(), "expected a test whose name begins with each of {missing:#?}");
}

#[test]
fn every_test_stands_for_an_item() {
    let items = include_str!("items.txt");
    let named =
        |test: &str| items.lines().filter_map(|line| line.split_whitespace().next()).any(|item| test.starts_with(item));
    let stray: Vec<String> = tests()
        .into_iter()
        .filter(|test| test.starts_with("rfc") || test.starts_with("trap"))
        .filter(|t| !named(t))
        .collect();
    assert!(stray.is_empty(), "expected a line in items.txt for {stray:#?}");
}
