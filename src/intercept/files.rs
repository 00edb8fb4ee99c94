//! The directory of the authority and its files: who may read them, and how they are written.
//!
//! A key that others can read is no secret, and a directory that others can write to lets them put a key of theirs in its
//! place: both are refused, with the command that mends it. Files are written beside their place, synced and renamed, so
//! that a crash leaves the old one or the new one. Whoever writes holds a lock on the directory: two programs that start
//! together on a new machine must end with the same authority.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::error::AuthorityError;

/// The largest file read.
const MAX_FILE: u64 = 256 << 10;

/// The certificate's file.
pub(super) fn certificate(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

/// The key's file.
pub(super) fn key(directory: &Path) -> PathBuf {
    directory.join("ca.key")
}

/// Reads a file of a sound size.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?)
}

fn read_open(file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(content)
}

/// Reads the key, when nobody else can.
///
/// # Errors
/// When it is not there, not ours, or others may read or change it.
pub(super) fn read_key(directory: &Path) -> Result<Vec<u8>, AuthorityError> {
    let path = key(directory);
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let message = format!("expected to read the key of the certificate authority, `{shown}`");
        AuthorityError::new(message).caused_by(error)
    };
    let file = File::open(&path).map_err(unreadable)?;
    // Of what was opened, not of what the name says by now.
    let found = file.metadata().map_err(unreadable)?;
    if found.uid() != geteuid().as_raw() {
        let message = format!(
            "`{shown}`: expected the key to belong to the user that holdoff runs as ({}), found user {}",
            geteuid().as_raw(),
            found.uid()
        );
        return Err(AuthorityError::new(message).mend(format!("`chown {} {shown}`", geteuid().as_raw())));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o177 != 0 {
        let message = format!("`{shown}`: expected mode 0600 or narrower, found {mode:04o}: others may know the key");
        return Err(AuthorityError::new(message).mend(format!(
            "`chmod 600 {shown}` if nobody else can have read it, otherwise {}",
            super::certificate::MAKE_NEW
        )));
    }
    read_open(file).map_err(unreadable)
}

/// Refuses a directory in which others could put a key of theirs in the place of ours.
///
/// # Errors
/// When others may write to it. It is no error when it does not exist.
pub(super) fn check_directory(directory: &Path) -> Result<(), AuthorityError> {
    let shown = directory.display();
    let found = match fs::metadata(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(AuthorityError::new(format!("expected to look at `{shown}`")).caused_by(error)),
    };
    if !found.is_dir() {
        return Err(AuthorityError::new(format!("`{shown}`: expected a directory, found a file")));
    }
    let (ours, owner) = (geteuid().as_raw(), found.uid());
    if owner != ours && owner != 0 {
        let message =
            format!("`{shown}`: expected a directory of the user that holdoff runs as ({ours}), found {owner}'s");
        return Err(
            AuthorityError::new(message).mend(format!("`chown {ours} {shown}`, or another `[intercept] ca_dir`"))
        );
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let message =
            format!("`{shown}`: expected a directory that only its owner can write to, found mode {mode:04o}");
        return Err(AuthorityError::new(message).mend(format!("`chmod 700 {shown}`, or another `[intercept] ca_dir`")));
    }
    Ok(())
}

/// A lock on the directory, until it is dropped.
pub(super) struct Lock {
    directory: PathBuf,
    open: File,
}

impl Lock {
    /// Makes the directory (0700) if it is not there, and waits for whoever writes to it.
    ///
    /// # Errors
    /// When it cannot be made or locked, or others may write to it.
    pub(super) fn take(directory: &Path) -> Result<Self, AuthorityError> {
        let shown = directory.display();
        let failed = |error: io::Error| {
            AuthorityError::new(format!("expected to make a certificate authority in `{shown}`"))
                .mend("say where it may be: `[intercept] ca_dir` (`--ca-dir`)")
                .caused_by(error)
        };
        check_directory(directory)?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        check_directory(directory)?;
        let open = File::open(directory).map_err(failed)?;
        flock(&open, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(Self { directory: directory.to_owned(), open })
    }

    /// Puts key and certificate in their places, whatever is there.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self, key_pem: &[u8], certificate_pem: &[u8]) -> Result<(), AuthorityError> {
        let shown = self.directory.display();
        let failed = |error: io::Error| AuthorityError::new(format!("expected to write to `{shown}`")).caused_by(error);
        let new_key = Unfinished::write(key(&self.directory), 0o600, key_pem).map_err(failed)?;
        let new_certificate =
            Unfinished::write(certificate(&self.directory), 0o644, certificate_pem).map_err(failed)?;
        new_key.finish().map_err(failed)?;
        new_certificate.finish().map_err(failed)?;
        self.open.sync_all().map_err(failed)
    }
}

/// Writes a file that anybody may read, atomically.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    Unfinished::write(path.to_owned(), 0o644, content)?.finish()
}

/// A file beside its place. Removed when it does not get there.
struct Unfinished {
    place: PathBuf,
    temporary: Option<PathBuf>,
}

impl Unfinished {
    fn write(place: PathBuf, mode: u32, content: &[u8]) -> io::Result<Self> {
        let name = place.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file has a name"))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}", crate::table::clock::draw()));
        let temporary = place.with_file_name(temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let unfinished = Self { place, temporary: Some(temporary) };
        file.write_all(content)?;
        file.sync_all()?;
        Ok(unfinished)
    }

    fn finish(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.place)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What cannot be removed is a file nobody reads.
            let _ = fs::remove_file(temporary);
        }
    }
}
