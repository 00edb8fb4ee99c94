//! `[defaults.tls]` and `[host.tls]`: how TLS towards a host is spoken.

use std::net::IpAddr;
use std::path::PathBuf;

use super::diagnostic::Diagnostic;
use super::reader::{Reader, Section};
use super::secrets;
use super::settings::{ClientCert, ExpectedSan, Tls, TlsVersion};
use super::value::Text;

impl Default for Tls {
    fn default() -> Self {
        Self {
            upgrade: false,
            min_version: TlsVersion::Tls12,
            ca_files: Vec::new(),
            client_cert: None,
            expected_san: Vec::new(),
            insecure: false,
        }
    }
}

/// A name with places for the host: `{host}`, or one of its labels, `{host.1}` being the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SanTemplate(String);

impl SanTemplate {
    /// Reads a template. `None`: a brace that belongs to no place.
    pub fn new(text: &str) -> Option<Self> {
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (place, behind) = after.split_once('}')?;
            if before.contains('}') || !(place == "host" || label(place).is_some()) {
                return None;
            }
            rest = behind;
        }
        (!rest.contains('}') && !text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name for `host`. `None`: the host has no such label.
    pub fn fill(&self, host: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (place, behind) = after.split_once('}')?;
            out.push_str(before);
            out.push_str(match label(place) {
                // An address has no labels.
                Some(_) if host.parse::<IpAddr>().is_ok() => return None,
                Some(number) => host.split('.').nth(number.checked_sub(1)?)?,
                None => host,
            });
            rest = behind;
        }
        out.push_str(rest);
        Some(out)
    }
}

/// The number in `host.1`.
fn label(place: &str) -> Option<usize> {
    let digit = place.strip_prefix("host.")?;
    (digit.len() == 1).then(|| digit.parse().ok()).flatten().filter(|&number| number > 0)
}

/// Reads the table.
pub(super) fn read<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &Tls) -> Tls {
    let mut section = reader.section(parent, "tls");
    let s = &mut section;
    let tls = Tls {
        upgrade: reader.get(s, "upgrade", base.upgrade),
        min_version: reader.get(s, "min_version", base.min_version),
        ca_files: ca_files(reader, s, &base.ca_files),
        client_cert: client_cert(reader, s, base.client_cert.as_ref()),
        expected_san: reader.get(s, "expected_san", base.expected_san.clone()),
        insecure: reader.get(s, "insecure", base.insecure),
    };
    if tls.insecure && !tls.expected_san.is_empty() {
        let place = reader.place_at(&s.key("expected_san"), None).or_else(|| reader.place_at(&s.key("insecure"), None));
        let error =
            Diagnostic::new(place, "`expected_san`: expected without `insecure = true`, which verifies nothing");
        reader.errors.push(error.help("leave out `insecure`; a CA of your own goes into `ca_files`"));
    }
    reader.finish(section);
    tls
}

/// `ca_files` of a table: each must be there and hold certificates. What a flag or the environment names is added to what
/// the file says.
pub(super) fn ca_files<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>, inherited: &[PathBuf]) -> Vec<PathBuf> {
    let key = section.key("ca_files");
    let files = reader.added(section, "ca_files", inherited.to_vec());
    if reader.is_said(&key) {
        for (index, file) in files.iter().enumerate() {
            if let Err(cause) = secrets::certificates(file) {
                let place = reader.place_at(&key, Some(index));
                let message = format!("`ca_files`: expected certificates in PEM in `{}`: {cause}", file.display());
                reader.errors.push(Diagnostic::new(place, message));
            }
        }
    }
    files
}

/// The client certificate and its key: both or none, and they must belong together.
fn client_cert<'a>(
    reader: &mut Reader<'a>,
    section: &mut Section<'a>,
    inherited: Option<&ClientCert>,
) -> Option<ClientCert> {
    let (cert_key, key_key) = (section.key("client_cert_file"), section.key("client_key_file"));
    let cert_file: Option<PathBuf> =
        reader.optional(section, "client_cert_file", inherited.map(|cert| cert.cert_file.clone()));
    let key_file: Option<PathBuf> =
        reader.optional(section, "client_key_file", inherited.map(|cert| cert.key_file.clone()));
    let (said_cert, said_key) = (reader.is_said(&cert_key), reader.is_said(&key_key));
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => {
            let cert = ClientCert { cert_file, key_file };
            if (said_cert || said_key)
                && let Err((of_key, cause)) = secrets::client_certificate(&cert)
            {
                let (path, name, file) = if of_key {
                    (&key_key, "client_key_file", &cert.key_file)
                } else {
                    (&cert_key, "client_cert_file", &cert.cert_file)
                };
                let place = reader.place_at(path, None);
                let message = format!("`{name}`: expected {cause}, in `{}`", file.display());
                reader.errors.push(Diagnostic::new(place, message));
            }
            Some(cert)
        }
        (None, None) => None,
        (Some(_), None) => lacks(reader, &cert_key, "client_key_file", "client_cert_file"),
        (None, Some(_)) => lacks(reader, &key_key, "client_cert_file", "client_key_file"),
    }
}

fn lacks(reader: &mut Reader<'_>, said: &str, missing: &str, beside: &str) -> Option<ClientCert> {
    if !reader.is_refused(said) {
        let place = reader.place_at(said, None);
        let message = format!("`{beside}`: expected `{missing}` beside it, found none");
        reader.errors.push(Diagnostic::new(place, message));
    }
    None
}

impl Text for ExpectedSan {
    const EXPECTED: &'static str = "a name such as `DNS:peer.example` or `URI:spiffe://mesh/{host.1}`";
    const PATTERN: Option<&'static str> = Some("^(DNS|URI):");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let (make, name): (fn(SanTemplate) -> Self, _) = if let Some(name) = text.strip_prefix("DNS:") {
            (Self::Dns, name)
        } else if let Some(name) = text.strip_prefix("URI:") {
            (Self::Uri, name)
        } else {
            return Err(Some("put `DNS:` or `URI:` before it".to_owned()));
        };
        let places = "the places for the host are `{host}`, and `{host.1}` to `{host.9}` for its labels";
        SanTemplate::new(name).map(make).ok_or_else(|| Some(places.to_owned()))
    }

    fn show(&self) -> String {
        match self {
            Self::Dns(name) => format!("DNS:{}", name.as_str()),
            Self::Uri(name) => format!("URI:{}", name.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_with_the_host_or_a_label_of_it() {
        for (template, host, expected) in [
            ("spiffe://mesh/{host.1}", "users.prod.example", Some("spiffe://mesh/users")),
            ("spiffe://{host.2}/{host.1}/{host}", "users.prod", Some("spiffe://prod/users/users.prod")),
            ("plain", "a.b", Some("plain")),
            ("{host.3}", "a.b", None),
            ("{host.1}", "10.0.0.1", None),
            ("{host}", "10.0.0.1", Some("10.0.0.1")),
        ] {
            assert_eq!(SanTemplate::new(template).unwrap().fill(host).as_deref(), expected, "{template} {host}");
        }
        for bad in ["", "{", "}", "{host", "{name}", "{host.0}", "{host.10}", "{host.x}", "a}b{host}"] {
            assert_eq!(SanTemplate::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["DNS:{host}", "URI:spiffe://mesh/{host.1}"] {
            assert_eq!(ExpectedSan::parse(text).unwrap().show(), text);
        }
        assert!(ExpectedSan::parse("peer.example").is_err());
        assert!(ExpectedSan::parse("DNS:{peer}").is_err());
    }
}
