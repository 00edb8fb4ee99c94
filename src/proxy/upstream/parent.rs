//! The way through a parent proxy.
//!
//! Plain http goes to an HTTP parent as it is, with the whole URL in the request line; everything else goes through a tunnel
//! that the parent is asked for, by CONNECT or by SOCKS. So does what must reach the host itself: an upgrade (RFC 6455
//! §4.1), and `OPTIONS *`.
//!
//! Names are not looked up here but by the parent. What can be said of a host by its name and port is checked all the same;
//! rules about addresses can only be held against literals. The parent itself is the operator's word: only our own
//! listeners are refused.
//!
//! **Whose fault.** Who cannot reach the parent, or gets no sense out of it, has learned nothing of the host. A parent that
//! says nothing while it should connect leaves open who is slow; the host is taken to be. What a parent answers to CONNECT
//! is kept with the error, for the caller to read as a signal.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

use super::link::{Hop, Link};
use super::tls::{TlsClients, TlsId, TlsSetupError};
use super::{ResponseBody, SendError, Target, exchange};
use crate::config::settings::{self, Credentials, ParentScheme, Tls};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::proxy::error::{AtParent, ErrorKind, ProxyError};
use crate::proxy::target;

/// The parents, ready to be used.
#[derive(Debug)]
pub(super) struct Parents {
    settings: settings::Parents,
    http: Option<Parent>,
    https: Option<Parent>,
}

/// One of them.
pub(super) struct Parent {
    pub(super) scheme: ParentScheme,
    pub(super) key: Key,
    /// TLS with it.
    pub(super) tls: TlsId,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

/// How a host is reached; part of what a pooled connection is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Without a parent.
    Direct,
    /// Requests go to the parent as they are.
    Forward,
    /// A tunnel through the parent.
    Tunnel,
}

/// That an answer came through a parent; among the extensions of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The parent passed it on, or made it.
    Forward,
    /// It came through a tunnel.
    Tunnel {
        /// The tunnel was opened for this request.
        fresh: bool,
    },
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parent").field("scheme", &self.scheme).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Parents {
    pub(super) fn new(settings: &settings::Parents, tls: &TlsClients) -> Result<Self, TlsSetupError> {
        let ready = |parent: &Option<settings::Parent>| parent.as_ref().map(|p| Parent::new(p, tls)).transpose();
        Ok(Self { http: ready(&settings.http)?, https: ready(&settings.https)?, settings: settings.clone() })
    }

    /// The parent that a key is reached through.
    pub(super) fn of(&self, key: &KeyRef<'_>) -> Option<&Parent> {
        let parent = if key.scheme() == Scheme::Https { &self.https } else { &self.http };
        parent.as_ref().filter(|_| self.settings.of(key).is_some())
    }
}

impl Parent {
    fn new(parent: &settings::Parent, tls: &TlsClients) -> Result<Self, TlsSetupError> {
        let authorization = match (&parent.credentials, parent.scheme) {
            (Some(Credentials { user, password }), ParentScheme::Http | ParentScheme::Https) => {
                let word = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                HeaderValue::try_from(word).ok().map(|mut value| {
                    value.set_sensitive(true);
                    value
                })
            }
            _ => None,
        };
        let id = if parent.scheme == ParentScheme::Https {
            let plain = Tls::default();
            tls.prepare(&plain)?;
            tls.find(&plain).unwrap_or(TlsId::PLAIN)
        } else {
            TlsId::PLAIN
        };
        let (scheme, key, credentials) = (parent.scheme, parent.key.clone(), parent.credentials.clone());
        Ok(Self { scheme, key, tls: id, credentials, authorization })
    }

    /// How a request goes.
    pub(super) fn way(&self, scheme: Scheme, is_for_host: bool) -> Way {
        match (self.scheme, scheme) {
            (ParentScheme::Http | ParentScheme::Https, Scheme::Http) if !is_for_host => Way::Forward,
            _ => Way::Tunnel,
        }
    }

    /// Makes a request in origin-form one that the parent passes on.
    pub(super) fn address(&self, key: &Key, head: &mut Parts) {
        // `Host` repeats the authority (RFC 9112 §3.2.2): the client's spelling, where it names this host.
        let spelled = head
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .filter(|host| KeyRef::from_authority(key.scheme(), host).is_ok_and(|named| named.to_key() == *key));
        let authority = spelled.map_or_else(|| target::authority(key), str::to_owned);
        if let Ok(value) = HeaderValue::from_str(&authority) {
            head.headers.insert(HOST, value);
        }
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Authority::try_from(authority).ok();
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        // The answer to a TRACE shows its fields, the parent's own to one with `Max-Forwards` as well: nothing secret goes into
        // it (RFC 9110 §9.3.8).
        if let Some(authorization) = self.authorization.as_ref().filter(|_| head.method != Method::TRACE) {
            head.headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
    }

    /// An error on the way to the parent.
    pub(super) fn failed(&self, error: ProxyError) -> ProxyError {
        self.error(error.kind(), error.detail(), AtParent::Failed)
    }

    fn error(&self, kind: ErrorKind, what: &str, at: AtParent) -> ProxyError {
        ProxyError::new(kind, format!("the parent proxy `{}`: {what}", self.key)).at_parent(at)
    }

    /// Asks for a tunnel to the host.
    pub(super) async fn tunnel(&self, http1: &http1::Builder, hop: Hop, to: &Target<'_>) -> Result<Link, ProxyError> {
        let bound = to.host.timeouts.connect;
        let asked = async {
            match self.scheme {
                ParentScheme::Http | ParentScheme::Https => self.connect(http1, hop, to.key).await,
                ParentScheme::Socks5 => self.socks(hop, to.key).await,
            }
        };
        let bound = if bound.is_zero() { Duration::MAX } else { bound };
        match tokio::time::timeout(bound, asked).await {
            Ok(asked) => asked,
            Err(_) => Err(self.error(ErrorKind::ConnectTimeout, "no tunnel to the host in time", AtParent::Unknown)),
        }
    }

    async fn connect(&self, http1: &http1::Builder, hop: Hop, key: &Key) -> Result<Link, ProxyError> {
        let authority = full_authority(key);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        let uri = Uri::try_from(authority.as_str());
        let (Ok(uri), Ok(host)) = (uri, HeaderValue::from_str(&authority)) else {
            return Err(ProxyError::new(ErrorKind::Internal, "the host cannot stand in a CONNECT"));
        };
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, host);
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let broke = |error: &hyper::Error| self.failed(exchange::classify(error, None));
        let (mut sender, connection) = http1.handshake(TokioIo::new(hop)).await.map_err(|error| broke(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broke(&error))?;
            let status = response.status();
            if !status.is_success() {
                return Err(self.refused(status, response.into_parts().0.headers));
            }
            // hyper sees no tunnel behind a 204 or 205.
            let odd = |_| self.failed(ProxyError::new(ErrorKind::UpstreamProtocol, no_tunnel(status)));
            hyper::upgrade::on(response).await.map_err(odd)
        };
        // The connection's end is told to the exchange by what it waits for.
        let drive = async {
            let _ = connection.with_upgrades().await;
            std::future::pending::<()>().await;
        };
        let upgraded = tokio::select! {
            biased;
            upgraded = pin!(exchange) => upgraded?,
            () = pin!(drive) => return Err(ProxyError::new(ErrorKind::Internal, "a connection without an end")),
        };
        match upgraded.downcast::<TokioIo<Hop>>() {
            Ok(parts) => Ok(Link::new(parts.io.into_inner(), parts.read_buf)),
            Err(_) => Err(ProxyError::new(ErrorKind::Internal, "a tunnel over an unknown connection")),
        }
    }

    /// What a parent says instead of opening a tunnel.
    fn refused(&self, status: StatusCode, headers: HeaderMap) -> ProxyError {
        let kind = match status {
            // Some say 401; there is nobody else who could.
            StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => ErrorKind::ParentAuth,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::ParentLimited,
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(http::header::RETRY_AFTER) => {
                ErrorKind::ParentUnavailable
            }
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => ErrorKind::ConnectFailed,
            StatusCode::GATEWAY_TIMEOUT => ErrorKind::ConnectTimeout,
            _ => ErrorKind::ParentRefused,
        };
        let what = match kind {
            ErrorKind::ParentAuth => self.credentials_wanted(),
            _ => format!("CONNECT was answered with {}", status.as_u16()),
        };
        self.error(kind, &what, AtParent::Answered { status, headers: Box::new(headers) })
    }

    /// That our credentials are missing or wrong.
    pub(super) fn unauthorized(&self, headers: HeaderMap) -> ProxyError {
        let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let at = AtParent::Answered { status, headers: Box::new(headers) };
        self.error(ErrorKind::ParentAuth, &self.credentials_wanted(), at)
    }

    fn credentials_wanted(&self) -> String {
        if self.credentials.is_some() {
            "it does not take our user and password".to_owned()
        } else {
            "it wants a user and a password, and `upstream.proxy` names none".to_owned()
        }
    }

    async fn socks(&self, hop: Hop, key: &Key) -> Result<Link, ProxyError> {
        let to = match key.ip() {
            Some(address) => TargetAddr::Ip((address, key.port()).into()),
            None => TargetAddr::Domain(key.host().into(), key.port()),
        };
        let asked = match &self.credentials {
            Some(Credentials { user, password }) => {
                Socks5Stream::connect_with_password_and_socket(hop, to, user, password).await
            }
            None => Socks5Stream::connect_with_socket(hop, to).await,
        };
        match asked {
            // Nothing is read beyond the parent's word.
            Ok(stream) => Ok(Link::new(stream.into_inner(), Bytes::new())),
            Err(error) => Err(self.socks_error(&error)),
        }
    }

    fn socks_error(&self, error: &tokio_socks::Error) -> ProxyError {
        use tokio_socks::Error;
        let (kind, at) = match error {
            Error::NoAcceptableAuthMethods | Error::PasswordAuthFailure(_) | Error::AuthorizationRequired => {
                return self.error(ErrorKind::ParentAuth, &self.credentials_wanted(), AtParent::Unknown);
            }
            Error::NetworkUnreachable | Error::HostUnreachable => (ErrorKind::ConnectFailed, AtParent::Served),
            Error::ConnectionRefused => (ErrorKind::ConnectRefused, AtParent::Served),
            Error::TtlExpired => (ErrorKind::ConnectTimeout, AtParent::Served),
            Error::GeneralSocksServerFailure
            | Error::ConnectionNotAllowedByRuleset
            | Error::CommandNotSupported
            | Error::AddressTypeNotSupported => (ErrorKind::ParentRefused, AtParent::Served),
            Error::Io(_) => (ErrorKind::UpstreamReset, AtParent::Failed),
            _ => (ErrorKind::UpstreamProtocol, AtParent::Failed),
        };
        let text = match error {
            Error::Io(error) => format!("the connection broke off: {error}"),
            _ if kind == ErrorKind::UpstreamProtocol => format!("this is not SOCKS 5: {error}"),
            _ => format!("it says: {error}"),
        };
        self.error(kind, &text, at)
    }
}

/// Notes how an answer came, and takes a parent's wish for credentials, which is no answer for the client.
pub(super) fn through<B: Send + 'static>(
    mut response: Response<ResponseBody<B>>,
    hop: Option<(&Parent, Way)>,
    reused: bool,
) -> Result<Response<ResponseBody<B>>, SendError<B>> {
    let Some((parent, way)) = hop else { return Ok(response) };
    let through = match way {
        Way::Forward if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let error = parent.unauthorized(std::mem::take(response.headers_mut()));
            return Err(SendError { error, request: None });
        }
        Way::Forward => Through::Forward,
        Way::Tunnel | Way::Direct => Through::Tunnel { fresh: !reused },
    };
    response.extensions_mut().insert(through);
    Ok(response)
}

fn no_tunnel(status: StatusCode) -> String {
    format!("CONNECT was answered with {}, behind which there is no tunnel", status.as_u16())
}

/// `host:port`, the port never left out.
fn full_authority(key: &Key) -> String {
    if key.host().contains(':') {
        format!("[{}]:{}", key.host(), key.port())
    } else {
        format!("{}:{}", key.host(), key.port())
    }
}
