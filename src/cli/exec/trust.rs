//! With interception the command must trust our certificate authority: the files and variables that tell it so.
//!
//! Most of these variables replace the roots a program trusts, so their file has this machine's roots as well. What the
//! caller has put into one of them is neither lost nor in the way: its file is copied behind our authority. A variable that
//! names something other than a readable file (requests takes a directory, too) stays as it is, with a warning.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::cli::{Error, ca, warn};
use crate::intercept::{self, Certificate};
use crate::table::clock;

/// Variables that add to a program's roots: Node, Deno.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Variables that replace them: OpenSSL and with it most of Python, Ruby, Go and Rust; requests; curl; git; the AWS SDKs.
const REPLACED: [&str; 5] =
    ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"];

/// A directory of our own with the files; removed at the end.
#[derive(Debug)]
pub(super) struct Trust {
    directory: PathBuf,
    /// Variables and the files they name.
    pub(super) variables: Vec<(&'static str, PathBuf)>,
}

impl Trust {
    /// Writes the files.
    pub(super) fn new(certificate: &Certificate, caller: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let bundle = intercept::bundle(certificate).map_err(|error| ca::failed(&error))?;
        let directory = env::temp_dir().join(format!("holdoff-exec-{:016x}", clock::draw()));
        let unwritable = |error: std::io::Error| {
            Error::failed(format!("expected to write files for the command to `{}`", env::temp_dir().display()))
                .caused_by(&error)
        };
        // Refused when it is there: then it is not ours.
        DirBuilder::new().mode(0o700).create(&directory).map_err(unwritable)?;
        let mut trust = Self { directory, variables: Vec::new() };
        let ours = certificate.pem();
        for (names, text) in [(&ADDED[..], &ours), (&REPLACED, &bundle)] {
            for name in names {
                trust.set(name, text, &ours, &caller).map_err(unwritable)?;
            }
        }
        Ok(trust)
    }

    /// Sets one variable: to `text` when the caller has not set it, else to our authority and what the caller trusts.
    fn set(
        &mut self,
        name: &'static str,
        text: &str,
        ours: &str,
        caller: impl Fn(&str) -> Option<OsString>,
    ) -> std::io::Result<()> {
        let text = match caller(name).filter(|value| !value.is_empty()) {
            None => text.to_owned(),
            Some(value) => match theirs(&value) {
                Ok(theirs) => format!("{ours}{theirs}"),
                Err(error) => {
                    warn(&format!(
                        "`{name}` is `{}`, to which our certificate authority cannot be added ({error}): it stays as it is",
                        Path::new(&value).display()
                    ));
                    return Ok(());
                }
            },
        };
        let file = self.directory.join(format!("{name}.pem"));
        fs::write(&file, text)?;
        self.variables.push((name, file));
        Ok(())
    }
}

/// What the caller's file says.
fn theirs(file: &OsStr) -> std::io::Result<String> {
    fs::read_to_string(file)
}

impl Drop for Trust {
    fn drop(&mut self) {
        // What may be left are certificates, and nothing of the key.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::intercept::Authority;

    #[test]
    fn what_the_caller_trusts_is_kept_beside_our_authority() {
        let work = tempfile::tempdir().unwrap();
        let hosts = config::parse("intercept.hosts = [\"peer.example\"]").unwrap().settings.intercept.hosts;
        let authority = Authority::open_or_create(&work.path().join("ca"), &hosts, clock::wall()).unwrap();
        let own = work.path().join("own.pem");
        fs::write(&own, "the caller's\n").unwrap();
        let caller = |name: &str| match name {
            "CURL_CA_BUNDLE" | "NODE_EXTRA_CA_CERTS" => Some(own.clone().into()),
            "REQUESTS_CA_BUNDLE" => Some(work.path().into()),
            "GIT_SSL_CAINFO" => Some(OsString::new()),
            _ => None,
        };
        let trust = Trust::new(authority.certificate(), caller).unwrap();
        let ours = authority.certificate().pem();
        let read = |wanted: &str| {
            let (_, file) = trust.variables.iter().find(|(name, _)| *name == wanted)?;
            Some(fs::read_to_string(file).unwrap())
        };
        for name in ["CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            assert_eq!(read(name), Some(format!("{ours}the caller's\n")), "{name}");
        }
        assert_eq!(read("REQUESTS_CA_BUNDLE"), None, "a directory cannot be added to");
        assert_eq!(read("DENO_CERT"), Some(ours.clone()));
        for name in ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"] {
            let text = read(name).unwrap();
            assert!(text.starts_with(&ours) && text.matches("BEGIN CERTIFICATE").count() > 1, "{name}");
        }
        let directory = trust.directory.clone();
        drop(trust);
        assert!(!directory.exists());
    }
}
