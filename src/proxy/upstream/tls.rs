//! TLS towards upstreams: one rustls configuration for each different `[tls]` of the settings, read at start so that a bad
//! file stops the program and not a request.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::settings::{self, Tls, TlsVersion};
use crate::proxy::error::{ErrorKind, ProxyError};

/// Which configuration a connection was made with: part of what a pooled connection is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TlsId(usize);

impl TlsId {
    /// No TLS.
    pub(super) const PLAIN: Self = Self(usize::MAX);

    /// The configuration at a position.
    pub(super) const fn position(at: usize) -> Self {
        Self(at)
    }
}

/// Every TLS configuration in use.
pub(super) struct TlsClients {
    provider: Arc<CryptoProvider>,
    global: Arc<RootCertStore>,
    /// Few; only ever added to, so that a position stays an identity.
    clients: ArcSwap<Vec<(Tls, Arc<Client>)>>,
}

/// One `[tls]`, by what is offered.
struct Client {
    /// HTTP/2, or else HTTP/1.1.
    any: Arc<ClientConfig>,
    /// HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
}

impl fmt::Debug for TlsClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClients").field("clients", &self.clients.load().len()).finish_non_exhaustive()
    }
}

impl TlsClients {
    /// Reads the machine's roots and the CA files of `[upstream]`.
    ///
    /// # Errors
    /// When a CA file cannot be read or has no certificate in it.
    pub(super) fn new(settings: &settings::Upstream) -> Result<Self, TlsSetupError> {
        let mut global = RootCertStore::empty();
        if settings.platform_roots {
            add_platform_roots(&mut global);
        }
        for file in &settings.ca_files {
            add_file(&mut global, file)?;
        }
        if global.is_empty() {
            tracing::warn!(
                "no root certificate is trusted: the machine has none and `upstream.ca_files` is empty; \
                 TLS to upstreams without their own `tls.ca_files` will fail"
            );
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { provider, global: Arc::new(global), clients: ArcSwap::default() })
    }

    /// Makes the configuration of `tls` ready. What is ready already is kept.
    ///
    /// # Errors
    /// When a CA file cannot be read or has no certificate in it.
    pub(super) fn prepare(&self, tls: &Tls) -> Result<(), TlsSetupError> {
        if self.find(tls).is_some() {
            return Ok(());
        }
        let http1 = self.config(tls)?;
        let mut any = http1.clone();
        any.alpn_protocols.insert(0, b"h2".to_vec());
        let config = Arc::new(Client { any: Arc::new(any), http1: Arc::new(http1) });
        self.clients.rcu(|clients| {
            let mut clients = clients.to_vec();
            if !clients.iter().any(|(known, _)| known == tls) {
                clients.push((tls.clone(), Arc::clone(&config)));
            }
            clients
        });
        Ok(())
    }

    /// The identity of `tls`, if it was prepared.
    pub(super) fn find(&self, tls: &Tls) -> Option<TlsId> {
        self.clients.load().iter().position(|(known, _)| known == tls).map(TlsId::position)
    }

    /// Agrees on TLS with `host` over `stream`; with `multiplex`, HTTP/2 is offered.
    pub(super) async fn handshake(
        &self,
        id: TlsId,
        host: &str,
        stream: TcpStream,
        multiplex: bool,
    ) -> Result<TlsStream<TcpStream>, ProxyError> {
        let config = self
            .clients
            .load()
            .get(id.0)
            .map(|(_, client)| Arc::clone(if multiplex { &client.any } else { &client.http1 }));
        let Some(config) = config else {
            return Err(ProxyError::new(ErrorKind::Internal, "the host's TLS settings were not prepared"));
        };
        let name = server_name(host)?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| classify(&error))
    }

    fn config(&self, tls: &Tls) -> Result<ClientConfig, TlsSetupError> {
        let versions: &[&SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(TlsSetupError::Versions)?;
        let mut config = if tls.insecure {
            let anyone = Arc::new(AnyCertificate { provider: Arc::clone(&self.provider) });
            builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth()
        } else {
            builder.with_root_certificates(self.roots(tls)?).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self, tls: &Tls) -> Result<Arc<RootCertStore>, TlsSetupError> {
        if tls.ca_files.is_empty() {
            return Ok(Arc::clone(&self.global));
        }
        let mut roots = RootCertStore::empty();
        for file in &tls.ca_files {
            add_file(&mut roots, file)?;
        }
        Ok(Arc::new(roots))
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, ProxyError> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|_| {
            ProxyError::new(ErrorKind::TlsProtocol, "the host's name cannot be in a certificate (RFC 6125)")
        }),
    }
}

/// A bad certificate is told apart from everything else that can go wrong.
pub(super) fn classify(error: &io::Error) -> ProxyError {
    let kind = match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ErrorKind::TlsCertificate
        }
        _ => ErrorKind::TlsProtocol,
    };
    ProxyError::new(kind, error.to_string())
}

/// What rustls said, if it was rustls.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn add_platform_roots(roots: &mut RootCertStore) {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the machine's root certificates cannot be read");
    }
    let (_, odd) = roots.add_parsable_certificates(found.certs);
    if odd > 0 {
        tracing::debug!(odd, "some of the machine's root certificates cannot be used");
    }
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), TlsSetupError> {
    let unreadable = |error| TlsSetupError::Read { file: file.to_owned(), error };
    let mut found = false;
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        roots.add(certificate).map_err(|error| TlsSetupError::Certificate { file: file.to_owned(), error })?;
        found = true;
    }
    if found { Ok(()) } else { Err(TlsSetupError::Empty { file: file.to_owned() }) }
}

/// Why TLS cannot be set up.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// A CA file cannot be read as PEM.
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// A CA file has no certificate in it.
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A CA file has a certificate that cannot be a root.
    Certificate {
        /// The file.
        file: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// The protocol versions asked for are not there.
    Versions(rustls::Error),
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, error } => write!(f, "expected PEM certificates in `{}`: {error}", file.display()),
            Self::Empty { file } => {
                write!(f, "expected PEM certificates in `{}`, found none", file.display())
            }
            Self::Certificate { file, error } => {
                write!(f, "expected CA certificates in `{}`, found one that cannot be used: {error}", file.display())
            }
            Self::Versions(error) => write!(f, "no usable TLS version: {error}"),
        }
    }
}

impl std::error::Error for TlsSetupError {}

/// Accepts every certificate, for hosts with `insecure`. The handshake itself is still verified.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
