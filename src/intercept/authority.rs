//! Both halves of the authority: made at first use, opened ever after, checked against the configuration.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::certificate::{Certificate, MAKE_NEW};
use super::constraints::Constraints;
use super::error::AuthorityError;
use super::files::{self, Lock};
use super::leaf::{self, Leaf};
use crate::config::settings::HostPattern;
use crate::core::time::UnixTime;

/// How long an authority is valid: it is renewed by hand, at every client.
const LIFETIME: Duration = Duration::from_secs(3650 * 86_400);

/// How far back the validity begins, for clients whose clocks are behind.
pub(super) const BACKDATED: Duration = Duration::from_secs(86_400);

/// A certificate authority: a certificate and its key.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("file", &self.certificate.file())
            .field("subject", &self.certificate.subject())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in a directory, and makes it, bound to `hosts`, when there is none.
    ///
    /// # Errors
    /// As [`Authority::open`] and [`Authority::create`], and when it does not permit every one of `hosts`.
    pub fn open_or_create(directory: &Path, hosts: &[HostPattern], now: UnixTime) -> Result<Self, AuthorityError> {
        let authority = match Self::open(directory, now) {
            Ok(opened) => opened,
            Err(error) => Self::open_or_make_alone(directory, hosts, now, error)?,
        };
        authority.certificate.check_permits(hosts)?;
        Ok(authority)
    }

    /// As [`Authority::open_or_create`], once whoever writes there is done: what was found without waiting, `found`, may be
    /// half of it.
    fn open_or_make_alone(
        directory: &Path,
        hosts: &[HostPattern],
        now: UnixTime,
        found: AuthorityError,
    ) -> Result<Self, AuthorityError> {
        let lock = match Lock::take(directory) {
            Ok(lock) => lock,
            Err(error) if found.is_missing() => return Err(error),
            Err(_) => return Err(found),
        };
        match Self::open(directory, now) {
            Err(error) if error.is_missing() => {
                let made = Self::make(&lock, directory, hosts, now)?;
                tracing::info!(
                    certificate = %made.certificate.file().display(),
                    fingerprint = made.certificate.fingerprint(),
                    "made a certificate authority; clients must trust it: `holdoff ca export`"
                );
                Ok(made)
            }
            opened => opened,
        }
    }

    /// Makes an authority that is bound to `hosts`. With `replace` in the place of one that is there.
    ///
    /// # Errors
    /// When it cannot be written, or there is one and it shall not be replaced.
    pub fn create(
        directory: &Path,
        hosts: &[HostPattern],
        now: UnixTime,
        replace: bool,
    ) -> Result<Self, AuthorityError> {
        let lock = Lock::take(directory)?;
        let exists = |path: &Path| path.symlink_metadata().is_ok();
        if !replace && (exists(&files::key(directory)) || exists(&files::certificate(directory))) {
            let message = format!("there is a certificate authority in `{}` already", directory.display());
            return Err(AuthorityError::new(message).mend(MAKE_NEW));
        }
        Self::make(&lock, directory, hosts, now)
    }

    fn make(lock: &Lock, directory: &Path, hosts: &[HostPattern], now: UnixTime) -> Result<Self, AuthorityError> {
        let refused = |error| AuthorityError::new("expected to make a certificate authority").caused_by(error);
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params(hosts, now)?.self_signed(&key).map_err(refused)?;
        let file = files::certificate(directory);
        let certificate = Certificate::parse(file, super::certificate::pem(certificate.der()).as_bytes())?;
        lock.write(key_pem(&key).as_bytes(), certificate.pem().as_bytes())?;
        Self::new(certificate, key)
    }

    /// Opens the authority in a directory.
    ///
    /// # Errors
    /// When there is none ([`AuthorityError::is_missing`]), when it has ended, when certificate and key are not those of an
    /// authority or do not belong together, and when anybody else may read the key or replace it.
    pub fn open(directory: &Path, now: UnixTime) -> Result<Self, AuthorityError> {
        files::check_directory(directory)?;
        let file = files::key(directory);
        let shown = file.display();
        let certificate = match Certificate::read(directory) {
            Err(error) if error.is_missing() && file.symlink_metadata().is_ok() => {
                let message =
                    format!("expected `{}` beside `{shown}`, found none", files::certificate(directory).display());
                return Err(AuthorityError::new(message).mend(format!("restore the file, or {MAKE_NEW}")));
            }
            read => read?,
        };
        // The cause may quote the file: it is left out.
        let odd = |found: &str| {
            let message = format!("`{shown}`: expected a private key in PEM (PKCS #8), found {found}");
            AuthorityError::new(message).mend(format!("restore the file, or {MAKE_NEW}"))
        };
        let pem = files::read_key(directory)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| odd("something else"))?;
        let key = KeyPair::try_from(&key).map_err(|_| odd("a key that cannot be used"))?;
        certificate.check_time(now)?;
        Self::new(certificate, key)
    }

    fn new(certificate: Certificate, key: KeyPair) -> Result<Self, AuthorityError> {
        if key.public_key_raw() != certificate.public_key() {
            let message = format!("`{}` is not the certificate of the key beside it", certificate.file().display());
            return Err(AuthorityError::new(message).mend(format!("restore the files, or {MAKE_NEW}")));
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).map_err(|error| {
            let message = format!("`{}`: expected a certificate that can sign others", certificate.file().display());
            AuthorityError::new(message).mend(MAKE_NEW).caused_by(error)
        })?;
        Ok(Self { certificate, issuer })
    }

    /// Makes a certificate for a host in the normal form of a key, valid for `lifetime`.
    ///
    /// # Errors
    /// When clients would refuse it: the host is not permitted, or the authority has ended.
    pub fn mint(&self, host: &str, lifetime: Duration, now: UnixTime) -> Result<Leaf, AuthorityError> {
        self.certificate.check_time(now)?;
        leaf::mint(&self.certificate, &self.issuer, host, lifetime, now)
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

fn params(hosts: &[HostPattern], now: UnixTime) -> Result<CertificateParams, AuthorityError> {
    let serial = random_serial()?;
    let id: String = serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "holdoff");
    name.push(DnType::CommonName, format!("holdoff interception CA {id}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(Constraints::of_hosts(hosts).to_rcgen());
    params.not_before = date_time(now.saturating_sub(BACKDATED))?;
    params.not_after = date_time(now.saturating_add(LIFETIME))?;
    Ok(params)
}

/// A serial number of 126 random bits: positive, and never shorter than 16 bytes.
pub(super) fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::new("expected random bytes of the system, found none"))?;
    let [first, ..] = &mut bytes;
    *first = *first & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn date_time(at: UnixTime) -> Result<OffsetDateTime, AuthorityError> {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .ok_or_else(|| AuthorityError::new("expected a time that a certificate can hold"))
}

/// A key in PEM, for its file.
fn key_pem(key: &KeyPair) -> String {
    super::certificate::armoured("PRIVATE KEY", key.serialized_der())
}
