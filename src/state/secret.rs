//! What credentials are hashed with (SPEC 4.2).
//!
//! Keys are shown in logs, metrics and answers, and a plain hash of a short credential is soon guessed. So values go in
//! under a key of 32 random bytes that is made at first use and never leaves its file (0600), or is shared by the sidecars
//! of a fleet. Whoever knows that file can check guesses; nobody else can.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::geteuid;

/// The bytes of a secret; in its file they are written in hexadecimal.
const LENGTH: usize = 32;

/// Hashes values so that nobody without the secret can tell what they were.
pub struct Secret(hmac::Key);

impl Secret {
    /// One that lives as long as the program.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn fresh() -> Result<Self, SecretError> {
        Ok(Self::of(&random()?))
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The one in a file, which is made when there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, belongs to somebody else, can be read by others, or is no secret.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let failed = |doing, error| SecretError::Io { path: path.to_owned(), doing, error };
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = random()?;
                if let Some(directory) = path.parent() {
                    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
                    made.map_err(|error| failed("make the directory of", error))?;
                }
                match make(path, &bytes) {
                    Ok(()) => Ok(Self::of(&bytes)),
                    // Another program that starts with us was quicker.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        let file = File::open(path).map_err(|error| failed("read", error))?;
                        Self::read(path, file)
                    }
                    Err(error) => Err(failed("make", error)),
                }
            }
            Err(error) => Err(failed("read", error)),
        }
    }

    fn read(path: &Path, file: File) -> Result<Self, SecretError> {
        let failed = |error| SecretError::Io { path: path.to_owned(), doing: "read", error };
        // Of what was opened, not of what the name says by now.
        let found = file.metadata().map_err(failed)?;
        let ours = geteuid().as_raw();
        if found.uid() != ours && found.uid() != 0 {
            return Err(SecretError::Owner { path: path.to_owned(), ours, found: found.uid() });
        }
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Mode { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(1024).read_to_string(&mut text).map_err(failed)?;
        let text = text.trim_ascii();
        let is_secret = text.len() == LENGTH * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_secret {
            return Err(SecretError::Malformed { path: path.to_owned() });
        }
        // The text is as random as what it stands for.
        Ok(Self::of(&from_hex(text)))
    }

    /// The hash of a value.
    pub fn hash(&self, value: &[u8]) -> u64 {
        let tag = hmac::sign(&self.0, value);
        let mut first = [0; 8];
        for (byte, of_tag) in first.iter_mut().zip(tag.as_ref()) {
            *byte = *of_tag;
        }
        u64::from_be_bytes(first)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn random() -> Result<[u8; LENGTH], SecretError> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

/// Puts a new secret in its place whole, unless there is one by now.
fn make(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}", crate::table::clock::draw()));
    let unfinished = path.with_file_name(name);
    let written = write(&unfinished, bytes).and_then(|()| std::fs::hard_link(&unfinished, path));
    let removed = std::fs::remove_file(&unfinished);
    written.and(removed)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or_default();
    let byte = |pair: &[u8]| pair.iter().fold(0_u8, |sum, byte| sum.wrapping_shl(4) | digit(byte));
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Why there is no secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum SecretError {
    /// The system gives no random bytes.
    Random,
    /// A file cannot be read or made.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// It belongs to somebody else.
    Owner {
        /// The file.
        path: PathBuf,
        /// The user that holdoff runs as.
        ours: u32,
        /// The file's.
        found: u32,
    },
    /// Others can read it.
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no secret.
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("expected random bytes from the system, found none"),
            Self::Io { path, doing, .. } => {
                write!(
                    f,
                    "expected to {doing} `{}`, what credentials are hashed with ([state] secret_file)",
                    path.display()
                )
            }
            Self::Owner { path, ours, found } => write!(
                f,
                "`{0}`: expected a file of the user that holdoff runs as ({ours}), found user {found}'s; `chown {ours} {0}`",
                path.display()
            ),
            Self::Mode { path, mode } => write!(
                f,
                "`{0}`: expected mode 0600 or narrower, found {mode:04o}: others may know the secret; `chmod 600 {0}`",
                path.display()
            ),
            Self::Malformed { path } => write!(
                f,
                "`{0}`: expected 64 hexadecimal digits; `openssl rand -hex 32 > {0}` makes them, and without the file \
                 holdoff makes it",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/secret");
        let first = Secret::open(&path).unwrap().hash(b"value");
        assert_eq!(Secret::open(&path).unwrap().hash(b"value"), first);
        assert_ne!(Secret::open(&path).unwrap().hash(b"valuf"), first);
        assert_ne!(Secret::fresh().unwrap().hash(b"value"), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_hash_is_that_of_the_bytes_that_the_file_stands_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, &[0xab; LENGTH]).unwrap();
        let upper = std::fs::read_to_string(&path).unwrap().to_uppercase();
        let lower = Secret::open(&path).unwrap().hash(b"value");
        std::fs::write(&path, upper).unwrap();
        assert_eq!(Secret::open(&path).unwrap().hash(b"value"), lower);
        assert_eq!(Secret::of(&[0xab; LENGTH]).hash(b"value"), lower);
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_with_the_mend() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, &[1; LENGTH]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Secret::open(&path).unwrap_err().to_string();
        assert!(error.contains("found 0640") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            std::fs::write(&path, text).unwrap();
            let error = Secret::open(&path).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        let error = Secret::open(&path.join("below")).unwrap_err();
        assert!(error.to_string().contains("expected to read"), "{error}");
    }
}
