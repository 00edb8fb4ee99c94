//! CONNECT to a host that the operator named (`[intercept] hosts`): TLS ends here, with a certificate of ours, and what is
//! inside are requests like any other, whose answers are seen (SPEC 7.4).
//!
//! The client names the host three times, and all must agree: CONNECT, which decided where this goes and what it may; the
//! name in TLS (SNI); and `Host` in each request. Otherwise a client could be shown to one host and forwarded to another.
//! There is no quiet way out of a session: what is not TLS is closed, not tunnelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use rustls::{AlertDescription, ServerConfig};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::ResponseBody;
use super::connection::{self, Client, Context, Port};
use super::error::{ErrorKind, ProxyError};
use super::exchange::{self, Outbound, refuse};
use super::forward::{self, Passage};
use super::multiplex;
use super::record::Record;
use super::tap::Head;
use super::target::{self, Form};
use super::transport::{Prefixed, Transport};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::time::Instant;
use crate::intercept::Interception;
use crate::metrics;
use crate::table::clock;

/// The first byte of TLS: a record of the handshake.
const HANDSHAKE: u8 = 22;

/// A fatal `unrecognized_name` (RFC 6066 §3), as the one record that may come before a `ServerHello`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What ends the TLS of named hosts.
#[derive(Debug)]
pub(super) struct Interceptor {
    interception: Arc<Interception>,
    /// The second of the last warning: clients choose how often there would be one.
    warned: AtomicU64,
}

impl Interceptor {
    pub(super) fn new(interception: Arc<Interception>) -> Self {
        Self { interception, warned: AtomicU64::new(0) }
    }

    pub(super) fn names(&self, key: &KeyRef<'_>) -> bool {
        self.interception.names(key.host(), key.port())
    }

    /// A session for a CONNECT to `key`.
    ///
    /// # Errors
    /// When there can be no certificate for the host.
    pub(super) async fn session(&self, key: &Key, place: Option<OwnedSemaphorePermit>) -> Result<Session, ProxyError> {
        let server = self.interception.server(key.host(), clock::wall()).await.map_err(|error| {
            tracing::error!(host = %key, %error, "there is no certificate for an intercepted host");
            ProxyError::new(ErrorKind::Internal, "holdoff has no certificate for this host; its log says why")
        })?;
        Ok(Session { key: key.clone(), server, place })
    }

    fn may_warn(&self) -> bool {
        let now = clock::now().as_nanos() / 1_000_000_000;
        self.warned.swap(now, Ordering::Relaxed) != now
    }
}

/// What a CONNECT to a named host has opened.
pub(super) struct Session {
    key: Key,
    server: Arc<ServerConfig>,
    /// Among `max_tunnels`, of a session inside one of several streams.
    place: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why there is no TLS with a client.
#[derive(Debug)]
enum NoTls {
    Abandoned,
    NotTls,
    /// The client's SNI.
    Name(String),
    Handshake(io::Error),
    TimedOut,
}

impl Session {
    /// Agrees on TLS and serves what is inside to the end. `early` came from the client behind its CONNECT.
    pub(super) async fn run(
        self,
        context: Arc<Context>,
        stream: Transport,
        early: Bytes,
        ends: (SocketAddr, SocketAddr),
        drain: &mut watch::Receiver<bool>,
    ) {
        let within = context.shared.settings.limits.header_timeout;
        let accepted = tokio::select! {
            accepted = async {
                let accepting = self.accept(stream, early);
                if within.is_zero() {
                    return accepting.await;
                }
                tokio::time::timeout(within, accepting).await.unwrap_or(Err(NoTls::TimedOut))
            } => accepted,
            _ = drain.wait_for(|closing| *closing) => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(why) => return self.tell(&context, &why, ends.0),
        };
        let _open = (context.shared.metrics.session_opened(), self.place);
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (port, stream) = (Arc::new(Port::Inside(self.key)), Transport::Secure(Box::new(stream)));
        if is_h2 {
            multiplex::run(context, port, stream, Bytes::new(), ends, drain).await;
        } else {
            connection::serve(context, port, stream, ends, drain).await;
        }
    }

    async fn accept(&self, mut stream: Transport, early: Bytes) -> Result<TlsStream<Prefixed>, NoTls> {
        let mut early = BytesMut::from(early);
        if early.is_empty() && stream.read_buf(&mut early).await.map_err(|_| NoTls::Abandoned)? == 0 {
            return Err(NoTls::Abandoned);
        }
        if early.first() != Some(&HANDSHAKE) {
            return Err(NoTls::NotTls);
        }
        let stream = Prefixed::new(early.freeze(), stream);
        let mut hello =
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.map_err(NoTls::Handshake)?;
        // None from old clients, and where the host is an address.
        let name = hello.client_hello().server_name().filter(|name| !self.is_for(name)).map(str::to_owned);
        if let Some(name) = name {
            if hello.io.write_all(&UNRECOGNIZED_NAME).await.is_ok() {
                let _ = hello.io.shutdown().await;
            }
            return Err(NoTls::Name(name));
        }
        hello.into_stream(Arc::clone(&self.server)).await.map_err(NoTls::Handshake)
    }

    /// Whether a name in TLS is that of the host.
    fn is_for(&self, name: &str) -> bool {
        KeyRef::new(Scheme::Https, name, self.key.port()).is_ok_and(|named| named.host() == self.key.host())
    }

    fn tell(&self, context: &Context, why: &NoTls, peer: SocketAddr) {
        use metrics::Session as Counted;
        let (counted, what, error): (_, _, &dyn fmt::Display) = match why {
            NoTls::Abandoned => (Counted::Abandoned, "the client left before TLS", &""),
            NoTls::NotTls => (
                Counted::NotTls,
                "what the client sends after CONNECT is no TLS: closed. Take the host out of `[intercept] hosts` if it \
                 speaks something else",
                &"",
            ),
            NoTls::Name(name) => (
                Counted::NameMismatch,
                "the client names another host in TLS (SNI) than in its CONNECT: refused",
                name as &dyn fmt::Display,
            ),
            NoTls::Handshake(error) if is_distrust(error) => (
                Counted::Distrusted,
                "the client does not trust our certificate authority: give it the one that `holdoff ca export` prints",
                error,
            ),
            NoTls::Handshake(error) => (Counted::HandshakeFailed, "no TLS with the client", error),
            NoTls::TimedOut => (Counted::TimedOut, "the client did not finish TLS within `limits.header_timeout`", &""),
        };
        context.shared.metrics.session(counted);
        if counted == Counted::TimedOut {
            context.shared.metrics.bound_reached(metrics::Bound::HeaderTimeout);
        }
        let is_news = counted != Counted::Abandoned && context.interceptor.as_ref().is_some_and(Interceptor::may_warn);
        if is_news {
            tracing::warn!(host = %self.key, %peer, error = %error, "{what}");
        } else {
            tracing::debug!(host = %self.key, %peer, error = %error, "{what}");
        }
    }
}

/// Whether a client has ended TLS because of our certificate.
fn is_distrust(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate
        ))
    )
}

/// Serves a request inside the session of `key`.
pub(super) async fn serve(
    client: &Client,
    key: &Key,
    mut request: Request<Incoming>,
    seen: Head,
    arrived: Instant,
) -> Response<ResponseBody> {
    let (path, host) = match read(client, key, &request, &seen) {
        Ok(read) => read,
        Err(error) => {
            let record = Record::new(&client.context.shared, None, &request, arrived);
            return refuse(client, request, &error, record).await;
        }
    };
    if let Passage::Answer(answer) = forward::passage(client, &mut request) {
        return forward::own(client, request, answer, arrived).await;
    }
    let to = Outbound { key: key.as_ref(), path, host, mapping: None };
    exchange::run(client, request, to, arrived).await
}

/// Path, and `Host` where it is not the client's field.
fn read(
    client: &Client,
    key: &Key,
    request: &Request<Incoming>,
    seen: &Head,
) -> Result<(PathAndQuery, Option<HeaderValue>), ProxyError> {
    let (headers, uri, version) = (request.headers(), request.uri(), request.version());
    target::check_head(version, headers, seen)?;
    target::check_stream(request, client.context.shared.settings.limits.max_header_fields)?;
    if request.method() == Method::CONNECT {
        return Err(ProxyError::new(ErrorKind::NoTunnel, "this is inside a CONNECT already: it opens no tunnels"));
    }
    // The target first: where it names a host, `Host` is not looked at (RFC 9112 §3.2.2).
    let named = match uri.authority() {
        Some(authority) if uri.scheme_str() == Some(Scheme::Https.as_str()) => {
            agree(key, authority.as_str(), "the target")?;
            Some(value(authority)?)
        }
        Some(_) => return Err(bad("this is inside TLS: expected a path, or a target that starts with `https://`")),
        None => {
            let form = target::form(request.method(), uri)?;
            debug_assert!(matches!(form, Form::Origin | Form::Asterisk), "there is no authority");
            None
        }
    };
    let host = match (named, headers.get(HOST)) {
        (Some(named), _) => Some(named),
        (None, Some(host)) => {
            agree(key, host.to_str().unwrap_or_default(), "`Host`")?;
            None
        }
        // HTTP/1.0 has none; HTTP/2 has `:authority` (RFC 9113 §8.3.1).
        (None, None) if version == Version::HTTP_2 => return Err(bad("the request names no host")),
        (None, None) => HeaderValue::try_from(target::authority(key)).ok(),
    };
    if client.context.via.is_loop(headers) {
        return Err(ProxyError::new(ErrorKind::Loop, "the request has been here before: `Via` has our name"));
    }
    let path =
        if seen.no_path || uri.path() == "*" { PathAndQuery::from_static("*") } else { target::origin_form(uri) };
    Ok((path, host))
}

/// Refuses a request for another host than that of the session. Never by a 421, on which a client may ask again in some
/// other way (RFC 9110 §15.5.20).
fn agree(key: &Key, named: &str, place: &str) -> Result<(), ProxyError> {
    if KeyRef::from_authority(Scheme::Https, named).is_ok_and(|named| named.to_key() == *key) {
        return Ok(());
    }
    let detail =
        format!("{place} names another host than the CONNECT around it: expected `{}`", target::authority(key));
    Err(ProxyError::new(ErrorKind::BadRequest, detail))
}

fn value(authority: &Authority) -> Result<HeaderValue, ProxyError> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the target's host cannot stand in a field"))
}

fn bad(detail: &'static str) -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, detail)
}
