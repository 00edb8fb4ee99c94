//! The public half of the authority: `ca.pem`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;

use super::constraints::Constraints;
use super::error::AuthorityError;
use super::files;
use crate::config::settings::HostPattern;
use crate::core::time::UnixTime;

/// How long before its end an authority is warned of.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);

/// What makes a new authority.
pub(super) const MAKE_NEW: &str = "`holdoff ca init --force` makes a new one, which clients must then be told to trust";

/// An authority's certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    file: PathBuf,
    der: CertificateDer<'static>,
    subject: String,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
    constraints: Option<Constraints>,
    is_self_signed: bool,
    /// The key as it stands in the certificate.
    public_key: Vec<u8>,
}

impl Certificate {
    /// Reads the certificate in a directory. The key is not needed for it.
    ///
    /// # Errors
    /// When there is none, or it is no certificate of an authority.
    pub fn read(directory: &Path) -> Result<Self, AuthorityError> {
        let file = files::certificate(directory);
        let pem = match files::read(&file) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("expected a certificate authority in `{}`, found none", directory.display());
                return Err(AuthorityError::missing(message).mend("`holdoff ca init` makes it"));
            }
            Err(error) => {
                return Err(AuthorityError::new(format!("expected to read `{}`", file.display())).caused_by(error));
            }
        };
        Self::parse(file, &pem)
    }

    /// Reads the text of a certificate file.
    pub(super) fn parse(file: PathBuf, pem: &[u8]) -> Result<Self, AuthorityError> {
        let refuse = |expected: &str, found: &str| {
            let message = format!("`{}`: expected {expected}, found {found}", file.display());
            AuthorityError::new(message).mend(format!("restore the file, or {MAKE_NEW}"))
        };
        let mut found = CertificateDer::pem_slice_iter(pem);
        let der = match found.next() {
            None => return Err(refuse("one certificate in PEM", "none")),
            Some(Err(error)) => return Err(refuse("one certificate in PEM", "something else").caused_by(error)),
            Some(Ok(der)) => der,
        };
        if found.next().is_some() {
            return Err(refuse("one certificate in PEM", "more"));
        }
        let (rest, read) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| refuse("a certificate", "something else").caused_by(error))?;
        if !rest.is_empty() {
            return Err(refuse("a certificate", "something after it"));
        }
        let constraints =
            check_is_authority(&read).map_err(|found| refuse("the certificate of an authority", &found))?;
        let subject = read.subject().to_string();
        let serial = read.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        let (not_before, not_after) = (time(read.validity().not_before), time(read.validity().not_after));
        let is_self_signed = read.subject().as_raw() == read.issuer().as_raw();
        let public_key = read.public_key().subject_public_key.data.to_vec();
        drop(read);
        Ok(Self { file, der, subject, serial, not_before, not_after, constraints, is_self_signed, public_key })
    }

    /// Whether it can be used now.
    ///
    /// # Errors
    /// When it has ended, or not begun.
    pub(super) fn check_time(&self, now: UnixTime) -> Result<(), AuthorityError> {
        let file = self.file.display();
        if now > self.not_after {
            let message = format!("`{file}`: the certificate authority ended on {}", date(self.not_after));
            return Err(AuthorityError::new(message).mend(MAKE_NEW));
        }
        if now < self.not_before {
            let message = format!(
                "`{file}`: the certificate authority begins on {}, and by the clock it is {}",
                date(self.not_before),
                date(now)
            );
            return Err(AuthorityError::new(message).mend("set the clock"));
        }
        Ok(())
    }

    /// Whether it permits certificates for every one of these hosts.
    ///
    /// # Errors
    /// When it does not: clients would refuse what it signs for them.
    pub fn check_permits(&self, hosts: &[HostPattern]) -> Result<(), AuthorityError> {
        let Some(constraints) = &self.constraints else { return Ok(()) };
        let outside: Vec<String> = hosts
            .iter()
            .filter(|pattern| !constraints.permits_pattern(pattern))
            .map(|pattern| format!("`{}`", pattern.text))
            .collect();
        if outside.is_empty() {
            return Ok(());
        }
        let permitted: Vec<String> = constraints.permitted.iter().map(ToString::to_string).collect();
        let permitted = if permitted.is_empty() { "everything else".to_owned() } else { permitted.join(", ") };
        let message = format!(
            "`[intercept] hosts` names {}, but the certificate authority `{}` is bound to {permitted}: clients would refuse \
             its certificates for the others",
            outside.join(", "),
            self.file.display(),
        );
        Err(AuthorityError::new(message).mend(MAKE_NEW))
    }

    /// What an operator should know but can be run with.
    pub fn warnings(&self, now: UnixTime) -> Vec<String> {
        let mut warnings = Vec::new();
        let file = self.file.display();
        if self.not_after.saturating_since(now) < ENDS_SOON {
            warnings.push(format!("the certificate authority `{file}` ends on {}; {MAKE_NEW}", date(self.not_after)));
        }
        if self.constraints.as_ref().is_none_or(|constraints| *constraints == Constraints::default()) {
            warnings.push(format!(
                "the certificate authority `{file}` has no name constraints: whoever gets its key can pose as any host to \
                 those who trust it"
            ));
        }
        warnings
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate in PEM, and nothing else of the file.
    pub fn pem(&self) -> String {
        pem(&self.der)
    }

    /// Whose it is, as RFC 4514 writes names.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// From when it is valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The hosts it is bound to; `None`: it is not.
    pub fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_ref()
    }

    /// The SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.der);
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// Whether it is a root; otherwise clients must be shown it, too.
    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_signed
    }

    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

/// Whether a certificate may sign others, and within which constraints. The error says what was found instead.
fn check_is_authority(read: &X509Certificate<'_>) -> Result<Option<Constraints>, String> {
    let odd = |error: x509_parser::error::X509Error| format!("an extension that cannot be read ({error})");
    if !read.basic_constraints().map_err(odd)?.is_some_and(|basic| basic.value.ca) {
        return Err("one that may not sign certificates (no `CA:TRUE`)".to_owned());
    }
    if read.key_usage().map_err(odd)?.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("one whose key may not sign certificates (no `keyCertSign`)".to_owned());
    }
    Ok(read.name_constraints().map_err(odd)?.map(|found| Constraints::read(found.value)))
}

fn time(time: ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}

/// A time as people read it.
pub(super) fn date(at: UnixTime) -> String {
    humantime::format_rfc3339_seconds(at.into()).to_string()
}

/// A certificate in PEM.
pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    armoured("CERTIFICATE", der)
}

/// PEM as RFC 7468 has it.
pub(super) fn armoured(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
