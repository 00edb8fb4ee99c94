//! Connections to upstreams: from a key to a response, through our own pool over hyper's HTTP/1 client.
//!
//! A request takes an idle connection if there is one. Else the name is looked up, every address is checked against
//! [`Egress`], and one that passed is dialled. The connection goes back when the response body has ended cleanly.
//!
//! **Again or not.** An idle connection may have died unnoticed. A request is sent a second time, once, on a fresh
//! connection, when hyper gives it back: that proves that no byte of it was written. A connection that breaks after that is
//! an error whatever the method, since the upstream may have acted on the request (RFC 9110 §9.2.2) and the client knows
//! better than we do whether again makes sense. hyper looks for the peer's close before it writes, so that the window is
//! the time a packet needs.

mod dial;
mod exchange;
mod pool;
mod resolve;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::exchange::{Line, Outgoing, await_head};
use self::pool::{Bounds, Checkout, Grant, HostRef, Lease, Pool, Slot};
use self::resolve::Resolver;
use self::stream::Patient;
use self::tls::{TlsClients, TlsId};
use crate::config::settings::{self, HostSettings, Hosts, Limits};
use crate::core::key::{Key, Scheme};
use crate::metrics::{Bound, Metrics};
use crate::proxy::egress::Egress;
use crate::proxy::error::{ErrorKind, ProxyError};

pub use self::exchange::ResponseBody;
pub use self::pool::PoolStats;
pub use self::tls::TlsSetupError;

/// The most hyper reads ahead of a slow reader.
const READ_BUFFER: usize = 64 * 1024;

/// hyper's own bound on fields. Staying at it keeps hyper's parser on the stack.
const HYPER_MAX_FIELDS: usize = 100;

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Scheme, host and port.
    pub key: &'a Key,
    /// The host's settings: TLS and timeouts are read.
    pub host: &'a HostSettings,
}

/// All connections to upstreams. `B` is the type of request bodies.
pub struct Upstreams<B: Send + 'static> {
    inner: Arc<Inner<B>>,
}

struct Inner<B: Send + 'static> {
    egress: Egress,
    resolver: Resolver,
    tls: TlsClients,
    http: http1::Builder,
    pool: Pool<Line<B>>,
    swept: AtomicBool,
}

impl<B: Send + 'static> Clone for Upstreams<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Send + 'static> fmt::Debug for Upstreams<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("egress", &self.inner.egress).finish_non_exhaustive()
    }
}

/// A request that got no response.
pub struct SendError<B> {
    /// Why.
    pub error: ProxyError,
    /// The request, when nothing of it was sent.
    pub request: Option<Box<Request<B>>>,
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).field("unsent", &self.request.is_some()).finish()
    }
}

impl<B> From<SendError<B>> for ProxyError {
    fn from(sent: SendError<B>) -> Self {
        sent.error
    }
}

impl<B: Send + 'static> Upstreams<B> {
    /// Reads every CA file of the settings. Opens nothing.
    ///
    /// # Errors
    /// When a CA file cannot be read or has no certificate in it.
    pub fn new(
        settings: &settings::Upstream,
        limits: &Limits,
        hosts: &Hosts,
        egress: Egress,
    ) -> Result<Self, TlsSetupError> {
        let mut http = http1::Builder::new();
        http.preserve_header_case(true)
            // White space between a name and its colon is for a proxy to remove (RFC 9112 §5.1).
            .allow_spaces_after_header_name_in_responses(true)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(READ_BUFFER.max(limits.max_header_bytes));
        if limits.max_header_fields != HYPER_MAX_FIELDS {
            http.max_headers(limits.max_header_fields);
        }
        let bounds = Bounds {
            max_connections: settings.max_connections_per_host.max(1),
            max_idle: settings.max_idle_per_host,
            idle_timeout: settings.idle_timeout,
            max_lifetime: settings.max_lifetime,
        };
        let upstreams = Self {
            inner: Arc::new(Inner {
                egress,
                resolver: Resolver::new(settings.dns_ttl, settings.dns_timeout),
                tls: TlsClients::new(settings)?,
                http,
                pool: Pool::new(bounds),
                swept: AtomicBool::new(false),
            }),
        };
        upstreams.prepare(hosts)?;
        Ok(upstreams)
    }

    /// Makes the TLS configurations of `hosts` ready, as is needed before a request may carry settings of theirs.
    ///
    /// # Errors
    /// When a CA file cannot be read or has no certificate in it; what was ready stays so.
    pub fn prepare(&self, hosts: &Hosts) -> Result<(), TlsSetupError> {
        self.inner.tls.prepare(&hosts.defaults.tls)?;
        for host in &hosts.hosts {
            self.inner.tls.prepare(&host.settings.tls)?;
            if host.settings.tls.insecure {
                let patterns: Vec<&str> = host.patterns.iter().map(|pattern| pattern.text.as_str()).collect();
                tracing::warn!(?patterns, "`tls.insecure`: the certificates of these hosts are not verified");
            }
        }
        Ok(())
    }

    /// Counts the bounds reached in looking up names, for as long as `metrics` is there.
    pub fn count_with(&self, metrics: &Arc<Metrics>) {
        self.inner.resolver.count_with(Arc::downgrade(metrics));
    }

    /// What the pool holds now.
    pub fn stats(&self) -> PoolStats {
        self.inner.pool.stats()
    }

    /// The rules on destinations.
    pub fn egress(&self) -> &Egress {
        &self.inner.egress
    }

    /// Resolves, checks and connects for a tunnel (CONNECT). The connection is not the pool's.
    ///
    /// # Errors
    /// Of the stages destination, DNS and connect.
    pub async fn connect(&self, to: &Target<'_>) -> Result<TcpStream, ProxyError> {
        self.inner.egress.check_connect_port(to.key.port())?;
        self.inner.dial(to).await
    }
}

impl<B> Upstreams<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Sends one request whose URI is in origin-form already and whose headers, `Host` included, are final. Extensions are
    /// passed on to hyper (`on_informational`, header case). Dropping the future closes the connection it used.
    ///
    /// With a 101, `hyper::upgrade::on` the response gives the connection; a 101 to a request without `Upgrade` is an error.
    /// An upgraded connection no longer counts for the pool.
    ///
    /// # Errors
    /// Every kind of the stages destination to head, and what the request body reported: a [`ProxyError`] of its own, else
    /// [`ErrorKind::RequestBody`].
    pub async fn send(&self, to: &Target<'_>, request: Request<B>) -> Result<Response<ResponseBody<B>>, SendError<B>> {
        let mut request = request;
        *request.version_mut() = Version::HTTP_11;
        let timeouts = &to.host.timeouts;
        let asked_upgrade = request.headers().contains_key(UPGRADE);
        let mut again = false;
        loop {
            let (mut lease, reused) = match self.acquire(to, again).await {
                Ok(acquired) => acquired,
                Err(error) => return Err(SendError { error, request: Some(Box::new(request)) }),
            };
            let Some(line) = lease.begin() else {
                let error = ProxyError::new(ErrorKind::Internal, "a connection without a connection");
                return Err(SendError { error, request: Some(Box::new(request)) });
            };
            let (parts, body) = request.into_parts();
            let (body, watch) = Outgoing::new(body, &line.pressure);
            let sent = line.sender.try_send_request(Request::from_parts(parts, body));
            let pressure = Arc::clone(&line.pressure);
            let answered = tokio::select! {
                answered = await_head(sent, timeouts.head, watch.as_deref()) => answered
                    .map_err(|_| ProxyError::new(ErrorKind::HeadTimeout, "no response head in time")),
                // Without `head` nothing else would end it: not even that the client leaves can be seen behind what is unread.
                () = pressure.stands_still(timeouts.body_idle), if watch.is_some() => Err(ProxyError::new(
                    ErrorKind::HeadTimeout,
                    "the upstream neither takes the request body nor answers",
                )
                .at(Some(Bound::BodyIdle))),
            };
            let answered = match answered {
                Ok(answered) => answered,
                Err(error) => return Err(SendError { error, request: None }),
            };
            let mut failure = match answered {
                Ok(response) => {
                    return match check_head(&response, asked_upgrade) {
                        Ok(()) => Ok(deliver(response, lease, to.host)),
                        Err(error) => Err(SendError { error, request: None }),
                    };
                }
                Err(failure) => failure,
            };
            let unsent = failure.take_message().map(|message| message.map(Outgoing::into_inner));
            let error = exchange::classify(failure.error(), watch.as_deref());
            match unsent {
                Some(unsent) if reused && !again => {
                    again = true;
                    request = unsent;
                }
                unsent => return Err(SendError { error, request: unsent.map(Box::new) }),
            }
        }
    }

    /// A connection, and whether it was used before.
    async fn acquire(&self, to: &Target<'_>, fresh: bool) -> Result<(Lease<Line<B>>, bool), ProxyError> {
        let inner = &self.inner;
        let tls = match to.key.scheme() {
            Scheme::Http => TlsId::PLAIN,
            Scheme::Https => inner
                .tls
                .find(&to.host.tls)
                .ok_or_else(|| ProxyError::new(ErrorKind::Internal, "the host's TLS settings were not prepared"))?,
        };
        let slot = match inner.pool.checkout(HostRef { key: to.key, tls }, Instant::now(), fresh) {
            Checkout::Reuse(lease) => return Ok((lease, true)),
            Checkout::Open(slot) => slot,
            Checkout::Wait(mut waiting) => {
                match tokio::time::timeout(to.host.timeouts.connect, waiting.granted()).await {
                    Ok(Some(Grant::Connection(lease))) => return Ok((lease, true)),
                    Ok(Some(Grant::Slot(slot))) => slot,
                    Ok(None) => return Err(ProxyError::new(ErrorKind::Internal, "the pool is gone")),
                    Err(_) => {
                        return Err(ProxyError::new(ErrorKind::PoolTimeout, "every connection to the host is in use"));
                    }
                }
            }
        };
        // Boxed: seldom needed, and large.
        Box::pin(inner.open(to, tls, slot)).await.map(|lease| (lease, false))
    }
}

impl<B: Send + 'static> Inner<B> {
    async fn dial(&self, to: &Target<'_>) -> Result<TcpStream, ProxyError> {
        let (host, port) = (to.key.host(), to.key.port());
        self.egress.check_name(host, port)?;
        let addresses = self.resolver.resolve(host).await?;
        let checked = self.egress.check_addresses(host, port, &addresses)?;
        dial::dial(&checked, to.host.timeouts.connect).await
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    async fn open(&self, to: &Target<'_>, tls: TlsId, slot: Slot<Line<B>>) -> Result<Lease<Line<B>>, ProxyError> {
        let stream = self.dial(to).await?;
        if tls == TlsId::PLAIN {
            return self.start(stream, slot).await;
        }
        let agreed = tokio::time::timeout(to.host.timeouts.tls, self.tls.handshake(tls, to.key.host(), stream)).await;
        match agreed {
            Ok(stream) => self.start(stream?, slot).await,
            Err(_) => Err(ProxyError::new(ErrorKind::TlsTimeout, "TLS was not agreed on in time")),
        }
    }

    async fn start<T>(&self, stream: T, slot: Slot<Line<B>>) -> Result<Lease<Line<B>>, ProxyError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.pool.sweeper().run());
        }
        let internal = |detail: String| ProxyError::new(ErrorKind::Internal, detail);
        let stream = Patient::new(stream);
        let pressure = stream.pressure();
        let (sender, connection) =
            self.http.handshake(TokioIo::new(stream)).await.map_err(|error| internal(error.to_string()))?;
        let place = slot.place().ok_or_else(|| internal("a slot without a host".to_owned()))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an upstream ended with an error");
            }
            drop(slot);
        });
        let line = Line { sender, task: task.abort_handle(), in_order: false, pressure };
        Ok(place.lease(line))
    }
}

/// Refuses what hyper lets pass and two readers could read as two things (RFC 9112 §6.1, §6.3), and a 101 that nobody asked
/// for.
fn check_head<T>(response: &Response<T>, asked_upgrade: bool) -> Result<(), ProxyError> {
    let refuse = |why: &'static str| Err(ProxyError::new(ErrorKind::UpstreamProtocol, why));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !asked_upgrade {
        return refuse("a response with status 101 to a request without `Upgrade`");
    }
    let headers = response.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|length| length.as_bytes().contains(&b',')) {
        return refuse("a response with several values of `Content-Length`");
    }
    // hyper reads it only where there is a body.
    if length.is_some_and(|length| !is_length(length.as_bytes())) {
        return refuse("a response with a `Content-Length` that is no length");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if length.is_some() {
        return refuse("a response with both `Content-Length` and `Transfer-Encoding`");
    }
    if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return refuse("a response with a `Transfer-Encoding` other than `chunked`");
    }
    Ok(())
}

fn is_length(value: &[u8]) -> bool {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.is_some_and(|digits| digits.parse::<u64>().is_ok())
}

/// Puts the lease into the body, so that the connection goes back at its end.
fn deliver<B: Send + 'static>(
    response: Response<hyper::body::Incoming>,
    lease: Lease<Line<B>>,
    host: &HostSettings,
) -> Response<ResponseBody<B>> {
    let (parts, incoming) = response.into_parts();
    let reusable = parts.version == Version::HTTP_11 && !says_close(&parts.headers);
    let lease = if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        lease.detach();
        None
    } else {
        Some(lease)
    };
    let body = ResponseBody::new(incoming, lease, reusable, host.timeouts.body_idle);
    Response::from_parts(parts, body)
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}
