//! The layers of the house: a file uses its own layer and those below, never above.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library by layer (ARCHITECTURE: 0 core, 1 table, 2 adapters, 3 service, 4 command line).
const LAYERS: &[(&str, u8)] = &[
    ("core", 0),
    ("table", 1),
    ("layer", 2),
    ("metrics", 2),
    ("synthetic", 2),
    ("config", 3),
    ("intercept", 3),
    ("proxy", 3),
    ("state", 3),
    ("explain", 3),
    ("admin", 3),
    ("observe", 3),
    ("telemetry", 3),
    ("sidecar", 3),
    ("cli", 4),
];

/// Upward uses that are wanted, each with its reason.
const WANTED: &[(&str, &str, &str)] = &[
    ("metrics", "config", "its own settings, as plain checked values"),
    ("metrics", "proxy", "the closed set of error kinds, and the table as the sidecar keeps it"),
];

/// Words that have no place in the pure core.
const IMPURE: &[&str] = &[
    "::now(",
    "std::fs",
    "std::thread",
    "std::net::Tcp",
    "std::sync",
    "tokio",
    "hyper",
    "tracing",
    "fastrand",
    "std::env",
    "std::process",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap();
            let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
            (first.trim_end_matches(".rs").to_owned(), path.clone(), code(&path))
        })
        .collect()
}

#[test]
fn every_module_has_a_layer() {
    for (module, path, _) in files() {
        let known = LAYERS.iter().any(|(name, _)| *name == module) || ["lib", "main"].contains(&module.as_str());
        assert!(known, "{}: give `{module}` a layer in this test", path.display());
    }
}

#[test]
fn no_file_uses_a_layer_above_its_own() {
    let mut used = vec![false; WANTED.len()];
    for (module, path, code) in files() {
        let Some((_, own)) = LAYERS.iter().find(|(name, _)| *name == module) else { continue };
        for (other, layer) in LAYERS {
            if layer <= own || !code.contains(&format!("crate::{other}::")) {
                continue;
            }
            let wanted = WANTED.iter().position(|(from, to, _)| *from == module && to == other);
            let Some(at) = wanted else {
                panic!("{}: `{module}` (layer {own}) uses `{other}` (layer {layer})", path.display());
            };
            used[at] = true;
        }
    }
    for (at, used) in used.iter().enumerate() {
        assert!(used, "nothing needs the exception {:?} any more: take it out", WANTED[at]);
    }
}

#[test]
fn the_core_is_pure() {
    for (module, path, code) in files() {
        if module != "core" {
            continue;
        }
        // A value that is shared is no lock.
        let code = code.replace("use std::sync::Arc;", "");
        for word in IMPURE {
            assert!(!code.contains(word), "{}: `{word}` has no place in the core", path.display());
        }
    }
}

#[test]
fn no_file_is_longer_than_600_lines_without_its_tests() {
    for (_, path, _) in files() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().count();
        assert!(lines <= 600, "{}: {lines} lines; split it", path.display());
    }
}
