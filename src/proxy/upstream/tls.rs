//! TLS towards upstreams: one rustls configuration for each different `[tls]` of the settings, read at start so that a bad
//! file stops the program and not a request. When one of its files changes, as they do where certificates live for hours, it
//! is made anew for the connections to come; what cannot be used then is said, and the old one stays.

mod stamp;
mod verify;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::stamp::Stamp;
use self::verify::{Accepts, Identity, Verifier, WrongIdentity};
use crate::config::secrets;
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

/// How many hosts' sessions are kept for the next handshake, of each configuration.
const SESSIONS: usize = 256;

/// How often the files of a configuration are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Every TLS configuration in use.
pub(super) struct TlsClients {
    provider: Arc<CryptoProvider>,
    /// The machine's roots, if they are trusted.
    platform: RootCertStore,
    ca_files: Vec<PathBuf>,
    /// Few; only ever added to, so that a position stays an identity.
    clients: ArcSwap<Vec<(Tls, Arc<Client>)>>,
}

/// One `[tls]`.
struct Client {
    files: Vec<PathBuf>,
    configs: ArcSwap<Configs>,
    seen: Mutex<Seen>,
}

/// By what is offered.
struct Configs {
    /// HTTP/2, or else HTTP/1.1.
    any: Arc<ClientConfig>,
    /// HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
}

/// What is known of the files.
struct Seen {
    /// As they were when the configuration was made.
    stamp: Stamp,
    looked: Instant,
    /// What was said of files that cannot be used.
    complaint: Option<String>,
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
        let mut platform = RootCertStore::empty();
        if settings.platform_roots {
            add_platform_roots(&mut platform);
        }
        if platform.is_empty() && settings.ca_files.is_empty() {
            tracing::warn!(
                "no root certificate is trusted: the machine has none and `upstream.ca_files` is empty; \
                 TLS to upstreams without their own `tls.ca_files` will fail"
            );
        }
        let clients = Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            platform,
            ca_files: settings.ca_files.clone(),
            clients: ArcSwap::default(),
        };
        clients.roots(&[])?;
        Ok(clients)
    }

    /// Makes the configuration of `tls` ready. What is ready already is kept.
    ///
    /// # Errors
    /// When a file cannot be read or has nothing of use in it.
    pub(super) fn prepare(&self, tls: &Tls) -> Result<(), TlsSetupError> {
        if self.find(tls).is_some() {
            return Ok(());
        }
        let mut files = if tls.ca_files.is_empty() { self.ca_files.clone() } else { tls.ca_files.clone() };
        files.extend(tls.client_cert.iter().flat_map(|cert| [cert.cert_file.clone(), cert.key_file.clone()]));
        // Looked at first, so that a change while they are read is seen later.
        let seen = Seen { stamp: Stamp::of(&files), looked: Instant::now(), complaint: None };
        let configs = ArcSwap::from_pointee(self.configs(tls)?);
        let client = Arc::new(Client { files, configs, seen: Mutex::new(seen) });
        self.clients.rcu(|clients| {
            let mut clients = clients.to_vec();
            if !clients.iter().any(|(known, _)| known == tls) {
                clients.push((tls.clone(), Arc::clone(&client)));
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
    pub(super) async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        id: TlsId,
        host: &str,
        stream: T,
        multiplex: bool,
    ) -> Result<TlsStream<T>, ProxyError> {
        let Some((tls, client)) = self.clients.load().get(id.0).cloned() else {
            return Err(ProxyError::new(ErrorKind::Internal, "the host's TLS settings were not prepared"));
        };
        self.renew(&tls, &client);
        let configs = client.configs.load();
        let config = Arc::clone(if multiplex { &configs.any } else { &configs.http1 });
        drop(configs);
        let name = server_name(host)?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let error = classify(&error);
            if error.kind() == ErrorKind::Identity {
                tracing::warn!(target: "audit", host, "not the host that was expected: {}", error.detail());
            }
            error
        })
    }

    /// Makes a configuration anew if its files have changed.
    fn renew(&self, tls: &Tls, client: &Client) {
        if client.files.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut seen = client.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(seen.looked) < LOOK {
            return;
        }
        seen.looked = now;
        let stamp = Stamp::of(&client.files);
        if stamp == seen.stamp {
            return;
        }
        match self.configs(tls) {
            Ok(configs) => {
                client.configs.store(Arc::new(configs));
                (seen.stamp, seen.complaint) = (stamp, None);
                tracing::info!(files = ?client.files, "certificates were read again");
            }
            // The files may be on their way, one after the other: they are looked at again.
            Err(error) => {
                let complaint = error.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("certificates have changed and cannot be used, so the old ones stay: {complaint}");
                    seen.complaint = Some(complaint);
                }
            }
        }
    }

    fn configs(&self, tls: &Tls) -> Result<Configs, TlsSetupError> {
        let http1 = self.config(tls)?;
        let mut any = http1.clone();
        any.alpn_protocols.insert(0, b"h2".to_vec());
        // A session in which HTTP/2 was agreed on must not be resumed where it is not offered.
        any.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Configs { any: Arc::new(any), http1: Arc::new(http1) })
    }

    fn config(&self, tls: &Tls) -> Result<ClientConfig, TlsSetupError> {
        let versions: &[&SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let provider = Arc::clone(&self.provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(TlsSetupError::Versions)?;
        let builder = if tls.insecure {
            let verifier = Arc::new(Verifier { provider, accepts: Accepts::Anything });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            let roots = Arc::new(self.roots(&tls.ca_files)?);
            if tls.expected_san.is_empty() {
                builder.with_root_certificates(roots)
            } else {
                let expected = tls.expected_san.clone();
                let accepts = Accepts::Identity(Identity { roots, expected });
                let verifier = Arc::new(Verifier { provider, accepts });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match &tls.client_cert {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (certificates, key) = secrets::client_certificate(files).map_err(|(of_key, expected)| {
                    let file = if of_key { &files.key_file } else { &files.cert_file };
                    TlsSetupError::ClientCertificate { file: file.clone(), expected }
                })?;
                builder.with_client_auth_cert(certificates, key).map_err(TlsSetupError::Versions)?
            }
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The roots in `files`, or the global ones.
    fn roots(&self, files: &[PathBuf]) -> Result<RootCertStore, TlsSetupError> {
        let (mut roots, files) = match files {
            [] => (self.platform.clone(), self.ca_files.as_slice()),
            own => (RootCertStore::empty(), own),
        };
        for file in files {
            add_file(&mut roots, file)?;
        }
        Ok(roots)
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
    if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = tls_error(error)
        && let Some(wrong) = other.0.downcast_ref::<WrongIdentity>()
    {
        return ProxyError::new(ErrorKind::Identity, wrong.to_string());
    }
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
    /// A client certificate or its key cannot be used.
    ClientCertificate {
        /// The file.
        file: PathBuf,
        /// What was expected in it.
        expected: String,
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
            Self::ClientCertificate { file, expected } => {
                write!(f, "expected {expected}, in `{}`", file.display())
            }
            Self::Versions(error) => write!(f, "no usable TLS version: {error}"),
        }
    }
}

impl std::error::Error for TlsSetupError {}
