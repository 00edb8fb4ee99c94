//! One certificate for one host.
//!
//! Each leaf has a key of its own: an ECDSA key is made in the time of the signature that follows it, and nothing has to be
//! said of a key that several hosts share. Leaves live in memory only; their keys are never written anywhere.
//!
//! The validity begins a day before now, for clients whose clocks are behind (a tenth of the lifetime when that is less), and
//! the lifetime counts from there: 398 days stay 398 days. It never reaches beyond the authority's own.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::authority::{BACKDATED, date_time, random_serial};
use super::certificate::Certificate;
use super::error::AuthorityError;
use crate::core::time::UnixTime;

/// How long a leaf is used at the least: a clock that jumps about, or an authority about to end, must not have us mint for
/// every connection.
const USED_AT_LEAST: Duration = Duration::from_secs(60);

/// A certificate for one host, with its key.
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    not_before: UnixTime,
    not_after: UnixTime,
    renew_at: UnixTime,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("renew_at", &self.renew_at)
            .finish_non_exhaustive()
    }
}

impl Leaf {
    /// The certificate, and the authority's own unless it is a root that clients know anyway.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key of the certificate.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// From when it is valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// From when on another one is made for new connections: when three quarters of its time are over.
    pub fn renew_at(&self) -> UnixTime {
        self.renew_at
    }
}

pub(super) fn mint(
    authority: &Certificate,
    issuer: &Issuer<'static, KeyPair>,
    host: &str,
    lifetime: Duration,
    now: UnixTime,
) -> Result<Leaf, AuthorityError> {
    let permitted = authority.constraints().is_none_or(|constraints| constraints.permits(host));
    if !permitted {
        let message = format!("the certificate authority does not permit a certificate for `{host}`");
        return Err(AuthorityError::new(message));
    }
    let backdated = BACKDATED.min(lifetime.checked_div(10).unwrap_or_default());
    let not_before = now.saturating_sub(backdated).max(authority.not_before());
    let not_after = not_before.saturating_add(lifetime).min(authority.not_after());
    let used = not_after.saturating_since(not_before).mul_f64(0.75);
    let renew_at = not_before.saturating_add(used).max(now.saturating_add(USED_AT_LEAST)).min(not_after);
    let refused = |error| AuthorityError::new(format!("expected to make a certificate for `{host}`")).caused_by(error);
    let key = KeyPair::generate().map_err(refused)?;
    let mut params = CertificateParams::default();
    // No common name: clients of today ignore it, those of yesterday take it for the host's, and it ends at 64 characters.
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "holdoff");
    params.distinguished_name = name;
    params.subject_alt_names = vec![alternative_name(host)?];
    params.serial_number = Some(random_serial()?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time(not_before)?;
    params.not_after = date_time(not_after)?;
    let certificate = params.signed_by(&key, issuer).map_err(refused)?;
    let mut chain = vec![certificate.der().clone()];
    if !authority.is_self_signed() {
        chain.push(authority.der().clone());
    }
    Ok(Leaf { chain, key, not_before, not_after, renew_at })
}

/// A literal is an address and never a name: clients look for it among the addresses only. A name is one name: with a `*` in
/// it the certificate would be good for others, too.
fn alternative_name(host: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return Err(AuthorityError::new("expected a host in the normal form of a key"));
    }
    host.try_into().map(SanType::DnsName).map_err(|error: rcgen::Error| {
        AuthorityError::new(format!("expected a name that can be in a certificate, found `{host}`")).caused_by(error)
    })
}
