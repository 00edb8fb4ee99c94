//! Whether files have changed, by what the file system says of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What a set of files looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<[i64; 4]>>);

impl Stamp {
    pub(super) fn of(files: &[PathBuf]) -> Self {
        let look = |file: &PathBuf| {
            let found = fs::metadata(file).ok()?;
            let whole = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
            Some([found.mtime(), found.mtime_nsec(), whole(found.ino()), whole(found.size())])
        };
        Self(files.iter().map(look).collect())
    }
}
