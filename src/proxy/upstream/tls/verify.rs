//! What is asked of a host's certificate beyond the machine's own rules: another name than the host's, or nothing at all.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use webpki::EndEntityCert;

use crate::config::settings::ExpectedSan;
use crate::core::signal::printable;

/// The most of a certificate's names that is shown.
const SHOWN: usize = 200;

/// A good certificate of somebody else.
#[derive(Debug)]
pub(in crate::proxy::upstream) struct WrongIdentity {
    expected: Vec<String>,
    found: Box<str>,
}

impl fmt::Display for WrongIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.expected.is_empty() {
            return write!(f, "the host has not the labels that `expected_san` asks for, so no name can be expected");
        }
        write!(f, "expected a certificate with {}, found one with {}", self.expected.join(" or "), self.found)
    }
}

impl std::error::Error for WrongIdentity {}

/// Verifies a host's certificate in another way than by the host's name. The handshake itself is always verified.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) accepts: Accepts,
}

/// Which certificates are good.
#[derive(Debug)]
pub(super) enum Accepts {
    /// All, for hosts with `insecure`.
    Anything,
    /// Those whose chain is as for any host and that have one of the expected names.
    Identity(Identity),
}

/// Who a host is expected to be.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) expected: Vec<ExpectedSan>,
}

impl Identity {
    fn check(&self, certificate: &CertificateDer<'_>, host: &str) -> Result<(), WrongIdentity> {
        let parsed = EndEntityCert::try_from(certificate);
        let mut expected = Vec::new();
        for san in &self.expected {
            let (kind, template) = match san {
                ExpectedSan::Dns(template) => ("DNS", template),
                ExpectedSan::Uri(template) => ("URI", template),
            };
            let Some(name) = template.fill(host) else { continue };
            let is_there = parsed.as_ref().is_ok_and(|certificate| match san {
                ExpectedSan::Uri(_) => certificate.valid_uri_names().any(|uri| uri == name),
                ExpectedSan::Dns(_) => ServerName::try_from(name.as_str())
                    .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok()),
            });
            if is_there {
                return Ok(());
            }
            expected.push(format!("{kind}:{name}"));
        }
        let mut found = String::new();
        if let Ok(certificate) = &parsed {
            let uris = certificate.valid_uri_names().map(|uri| ("URI", uri));
            for (kind, name) in certificate.valid_dns_names().map(|name| ("DNS", name)).chain(uris) {
                if found.len() < SHOWN {
                    let comma = if found.is_empty() { "" } else { ", " };
                    found.push_str(&format!("{comma}{kind}:{name}"));
                }
            }
        }
        let found = if found.is_empty() { Box::from("no name") } else { printable(found.as_bytes(), SHOWN) };
        Err(WrongIdentity { expected, found })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Accepts::Identity(identity) = &self.accepts else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &identity.roots, intermediates, now, algorithms)?;
        match identity.check(end_entity, &server_name.to_str()) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(wrong) => Err(CertificateError::Other(OtherError(Arc::new(wrong))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
