//! Files with secrets: the users of the proxy and the token of the operators' door.
//!
//! Their content is never shown, not even in the error about it: errors name the file and the line only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bcrypt::HashParts;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::diagnostic::{Diagnostic, Place};
use super::settings::{Auth, ClientCert, Token};

/// The largest file with secrets.
const MAX_FILE: u64 = 1 << 20;

/// The longest token.
const MAX_TOKEN: usize = 4096;

/// The highest bcrypt cost taken: each step doubles the work of every request with a new password.
const MAX_COST: u32 = 16;

const MAKE_USER: &str = "make a line with `htpasswd -nB USER`";

/// Reads a file that must not be larger than `most`.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("expected at most {} KiB, found more", most / 1024),
        ));
    }
    Ok(content)
}

fn read(path: &Path, what: &str) -> Result<String, Diagnostic> {
    let place = || Some(Place::File { file: path.to_owned(), line: None });
    let content = read_bounded(path, MAX_FILE)
        .map_err(|error| Diagnostic::new(place(), format!("expected a readable file with {what}: {error}")))?;
    String::from_utf8(content).map_err(|_| Diagnostic::new(place(), format!("expected {what}, found binary data")))
}

/// Reads a file of `user:hash` lines. Empty lines and lines that start with `#` are skipped.
pub(super) fn auth(path: &Path) -> Result<Auth, Diagnostic> {
    users(path, &read(path, "`user:hash` lines")?)
}

/// The users in `text`, which is the content of the file `path`.
pub(crate) fn users(path: &Path, text: &str) -> Result<Auth, Diagnostic> {
    let mut users = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |message: String| {
            let place = Place::File { file: path.to_owned(), line: Some(index.saturating_add(1)) };
            Err(Diagnostic::new(Some(place), message).help(MAKE_USER))
        };
        let Some((user, hash)) = line.split_once(':') else {
            return refuse("expected `user:hash`, found a line without `:`".to_owned());
        };
        if user.is_empty() || user.chars().any(char::is_control) {
            return refuse("expected a user name before `:`".to_owned());
        }
        let known = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix));
        let cost = hash.parse::<HashParts>().map(|parts| parts.get_cost());
        match cost {
            Ok(cost) if known && (4..=MAX_COST).contains(&cost) => {}
            Ok(cost) if known => {
                return refuse(format!("expected a bcrypt cost from 4 to {MAX_COST}, found {cost}"));
            }
            _ => return refuse("expected a bcrypt hash (`$2y$…`) after `:`, found something else".to_owned()),
        }
        if users.insert(user.to_owned(), hash.to_owned()).is_some() {
            return refuse("expected each user once, found one for the second time".to_owned());
        }
    }
    if users.is_empty() {
        let place = Place::File { file: path.to_owned(), line: None };
        return Err(Diagnostic::new(Some(place), "expected at least one user, found none").help(MAKE_USER));
    }
    Ok(Auth { file: path.to_owned(), users })
}

/// Reads a file with one token.
///
/// # Errors
/// When the file cannot be read, is empty, or has more than one word of visible ASCII characters.
pub fn token(path: &Path) -> Result<Token, Diagnostic> {
    let text = read(path, "a token")?;
    let secret = text.trim();
    let refuse = |message: &str| {
        let place = Place::File { file: path.to_owned(), line: None };
        Err(Diagnostic::new(Some(place), message).help("make one with `openssl rand -hex 32`"))
    };
    if secret.is_empty() {
        return refuse("expected a token, found an empty file");
    }
    if secret.len() > MAX_TOKEN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("expected one token of at most 4096 visible ASCII characters without spaces");
    }
    Ok(Token { file: path.to_owned(), secret: secret.to_owned() })
}

/// Reads a file with one password: its first line, as it stands.
///
/// # Errors
/// When the file cannot be read, or its first line is empty.
pub(super) fn password(path: &Path) -> Result<String, Diagnostic> {
    let text = read(path, "a password")?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() || password.len() > MAX_TOKEN || password.chars().any(char::is_control) {
        let place = Place::File { file: path.to_owned(), line: None };
        return Err(Diagnostic::new(Some(place), "expected a password of at most 4096 bytes in the first line"));
    }
    Ok(password.to_owned())
}

/// Checks that a file has certificates in PEM.
pub(super) fn certificates(path: &Path) -> Result<(), String> {
    let content = read_bounded(path, 16 << 20).map_err(|error| error.to_string())?;
    let mut found = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(&content) {
        certificate.map_err(|_| "the PEM is malformed".to_owned())?;
        found = found.saturating_add(1);
    }
    if found == 0 { Err("there is no `-----BEGIN CERTIFICATE-----` in it".to_owned()) } else { Ok(()) }
}

/// Reads a client certificate and its key. The error says whether it is about the key, and what was expected.
///
/// # Errors
/// When a file cannot be read, holds nothing of use, or the two do not belong together.
pub fn client_certificate(
    files: &ClientCert,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), (bool, String)> {
    let content = |file: &Path, of_key| {
        read_bounded(file, MAX_FILE).map_err(|error| (of_key, format!("a readable PEM file ({error})")))
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(&files.cert_file, false)?).collect();
    let certificates = certificates.map_err(|_| (false, "well-formed PEM".to_owned()))?;
    if certificates.is_empty() {
        return Err((false, "a certificate in PEM, found none".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&content(&files.key_file, true)?)
        .map_err(|_| (true, "a private key in PEM, found none".to_owned()))?;
    let provider = rustls::crypto::ring::default_provider();
    match rustls::sign::CertifiedKey::from_der(certificates.clone(), key.clone_key(), &provider) {
        Ok(_) => Ok((certificates, key)),
        Err(rustls::Error::InconsistentKeys(_)) => Err((true, "the key of the client certificate".to_owned())),
        Err(error) => Err((true, format!("a key and certificate that can be used ({error})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuM0PYYYQVf5i3cRbwYPMs8bXQ0pBrkPW";

    fn auth_of(text: &str) -> Result<Auth, Diagnostic> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, text).unwrap();
        auth(&path)
    }

    #[test]
    fn users_are_read_and_blank_lines_and_comments_skipped() {
        let auth = auth_of(&format!("# users\n\nann:{HASH}\nbob:{HASH}\n")).unwrap();
        assert_eq!(auth.users.keys().collect::<Vec<_>>(), ["ann", "bob"]);
    }

    #[test]
    fn a_bad_line_is_named_and_its_content_never_shown() {
        for (text, line, expected) in [
            ("ann:secret\n".to_owned(), 1, "bcrypt hash"),
            (format!("ann:{HASH}\nhunter2\n"), 2, "without `:`"),
            (format!(":{HASH}\n"), 1, "user name"),
            (format!("ann:{HASH}\nann:{HASH}\n"), 2, "second time"),
            ("ann:$2y$05$short\n".to_owned(), 1, "bcrypt hash"),
            (format!("ann:{}\n", HASH.replace("$05$", "$31$")), 1, "cost"),
            ("ann:$apr1$abcdefgh$hunter2hunter2hunter2\n".to_owned(), 1, "bcrypt hash"),
        ] {
            let error = auth_of(&text).unwrap_err();
            let Some(Place::File { line: found, .. }) = error.place() else { panic!("{error}") };
            assert_eq!(*found, Some(line), "{error}");
            assert!(error.message().contains(expected), "{error}");
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("secret\n"), "{error}");
        }
    }

    #[test]
    fn an_empty_or_missing_file_is_refused() {
        assert!(auth_of("# nobody\n").unwrap_err().message().contains("at least one user"));
        assert!(auth(Path::new("/nonexistent/users")).unwrap_err().message().contains("readable"));
    }

    #[test]
    fn a_token_is_one_trimmed_word() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (text, good) in [("abc123\n", true), ("", false), (" \n", false), ("a b", false), ("a\nb", false)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(token(&path).is_ok(), good, "{text:?}");
        }
        std::fs::write(&path, "abc123\n").unwrap();
        assert_eq!(token(&path).unwrap().secret, "abc123");
        assert!(!format!("{:?}", token(&path).unwrap()).contains("abc123"));
    }
}
