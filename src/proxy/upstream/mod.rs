//! Connections to upstreams: from a key to a response, through our own pool over hyper's clients.
//!
//! A request takes an idle connection if there is one. Else the name is looked up, every address is checked against
//! [`Egress`], and one that passed is dialled. The connection goes back when the response body has ended cleanly.
//!
//! **Again or not.** An idle connection may have died unnoticed. A request is sent again when hyper gives it back,
//! with HTTP/1.1 on a fresh connection: that proves that no byte of it was written. A connection that breaks after that is
//! an error whatever the method, since the upstream may have acted on the request (RFC 9110 §9.2.2) and the client knows
//! better than we do whether again makes sense. hyper looks for the peer's close before it writes, so that the window is
//! the time a packet needs. On HTTP/2 an upstream can say itself that it has not looked at a request (RFC 9113 §8.7); then
//! it is sent again if it has no body. A busy host may renew its connection under several requests at once, so that there
//! may be a few such attempts.
//!
//! **HTTP/2.** It is offered by ALPN where TLS is spoken. Then one connection carries everything to the host; requests for
//! an upgrade go over connections of their own, with HTTP/1.1.
//!
//! **Parents.** Where a proxy comes after this one, `parent` says how a request gets through it.

mod attempt;
mod dial;
mod exchange;
mod link;
mod parent;
mod pool;
mod resolve;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response};
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use self::attempt::{Attempt, deliver, over_http1, over_http2, whole};
use self::exchange::{Http1, Http2, Line, Turns, check_head};
use self::link::Hop;
use self::parent::{Parent, Parents, Way, through};
use self::pool::{Bounds, Checkout, Grant, HostRef, Lease, Pool, Slot};
use self::resolve::Resolver;
use self::stream::Patient;
use self::tls::{TlsClients, TlsId};
use crate::config::settings::{self, HostSettings, Hosts, Limits};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::metrics::Metrics;
use crate::proxy::egress::Egress;
use crate::proxy::error::{AtParent, ErrorKind, ProxyError};

pub use self::exchange::ResponseBody;
pub use self::link::Link;
pub use self::parent::Through;
pub use self::pool::PoolStats;
pub use self::tls::TlsSetupError;

/// The most hyper reads ahead of a slow reader.
const READ_BUFFER: usize = 64 * 1024;

/// What may be on its way to us on one stream of HTTP/2, and on all of a connection; and from us. The connection's is that of
/// many streams: clients that are slow to take their answers must not hold up the others that share it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;
const SEND_BUFFER: usize = 64 * 1024;

/// When a connection with streams on it is asked for a sign of life, and how long the upstream may take for it. gRPC servers
/// end a connection whose client asks more often than every five minutes. Machines that are gone are noticed by TCP.
const PING_INTERVAL: Duration = Duration::from_secs(360);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a request is given to a connection at most. With HTTP/1.1 the second is a fresh one, and there is no third.
const MAX_ATTEMPTS: u32 = 5;

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
    http1: http1::Builder,
    http2: Option<http2::Builder<TokioExecutor>>,
    dns_timeout: Duration,
    parents: Parents,
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
        let mut http1 = http1::Builder::new();
        http1
            .preserve_header_case(true)
            // White space between a name and its colon is for a proxy to remove (RFC 9112 §5.1).
            .allow_spaces_after_header_name_in_responses(true)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(READ_BUFFER.max(limits.max_header_bytes));
        if limits.max_header_fields != HYPER_MAX_FIELDS {
            http1.max_headers(limits.max_header_fields);
        }
        let http2 = settings.http2.then(|| {
            let mut http2 = http2::Builder::new(TokioExecutor::new());
            http2
                .timer(TokioTimer::new())
                .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT);
            http2
        });
        let bounds = Bounds {
            max_connections: settings.max_connections_per_host.max(1),
            max_idle: settings.max_idle_per_host,
            idle_timeout: settings.idle_timeout,
            max_lifetime: settings.max_lifetime,
        };
        let tls = TlsClients::new(settings)?;
        let upstreams = Self {
            inner: Arc::new(Inner {
                egress,
                resolver: Resolver::new(settings.dns_ttl, settings.dns_timeout),
                parents: Parents::new(&settings.parents, &tls)?,
                tls,
                http1,
                http2,
                dns_timeout: settings.dns_timeout,
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

    /// The key of the parent proxy that a key is reached through.
    pub fn parent(&self, key: &KeyRef<'_>) -> Option<&Key> {
        self.inner.parents.of(key).map(|parent| &parent.key)
    }

    /// Resolves, checks and connects for a tunnel (CONNECT), or asks the parent for one. The connection is not the pool's.
    ///
    /// # Errors
    /// Of the stages destination, DNS and connect.
    pub async fn connect(&self, to: &Target<'_>) -> Result<Link, ProxyError> {
        self.inner.egress.check_connect_port(to.key.port())?;
        let parent = self.inner.parents.of(&to.key.as_ref());
        self.inner.dial(to, parent.map(|parent| (parent, Way::Tunnel))).await
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
        let timeouts = &to.host.timeouts;
        let asked_upgrade = request.headers().contains_key(UPGRADE);
        let is_for_host = asked_upgrade || request.uri().path() == "*";
        let hop = self.inner.parents.of(&to.key.as_ref()).map(|p| (p, p.way(to.key.scheme(), is_for_host)));
        let mut request = match hop {
            Some((parent, Way::Forward)) => {
                let (mut head, body) = request.into_parts();
                parent.address(to.key, &mut head);
                Request::from_parts(head, body)
            }
            _ => request,
        };
        let mut attempts = 1_u32;
        loop {
            let (mut lease, reused) = match self.acquire(to, hop, attempts > 1, asked_upgrade).await {
                Ok(acquired) => acquired,
                Err(error) => return Err(SendError { error, request: Some(Box::new(request)) }),
            };
            let Some(line) = lease.begin() else {
                let error = ProxyError::new(ErrorKind::Internal, "a connection without a connection");
                return Err(SendError { error, request: Some(Box::new(request)) });
            };
            let Attempt { answered, kept, watch, calmed } = match line {
                Line::Http1(line) => over_http1(line, request, timeouts).await,
                Line::Http2(line) => {
                    over_http2(line, to.key, request, timeouts.head, self.patience(to, hop, true)).await
                }
            };
            let answered = match answered {
                Ok(answered) => answered,
                Err(error) if error.kind() == ErrorKind::PoolTimeout => {
                    return Err(SendError { error, request: None });
                }
                Err(error) => {
                    // Who gives no answer on it may never give one again.
                    lease.distrust();
                    let error = if is_forward(hop) { error.at_parent(AtParent::Unknown) } else { error };
                    return Err(SendError { error, request: None });
                }
            };
            let mut failure = match answered {
                Ok(response) => {
                    return match check_head(&response, asked_upgrade) {
                        Ok(()) => through(deliver(response, lease, to.host), hop, reused),
                        // Who passes it on should have refused it (RFC 9112 §6.3).
                        Err(error) => {
                            let error = match hop {
                                Some((parent, Way::Forward)) => parent.failed(error),
                                _ => error,
                            };
                            Err(SendError { error, request: None })
                        }
                    };
                }
                Err(failure) => failure,
            };
            let mut error =
                if calmed { exchange::calm() } else { exchange::classify(failure.error(), watch.as_deref()) };
            if let Some((parent, Way::Forward)) = hop
                && matches!(error.kind(), ErrorKind::UpstreamReset | ErrorKind::UpstreamProtocol)
            {
                error = parent.failed(error);
            }
            let was_refused = exchange::was_refused(failure.error());
            let unsent = whole(failure.take_message(), kept, was_refused);
            match unsent {
                Some(unsent) if (reused || was_refused) && attempts < MAX_ATTEMPTS => {
                    attempts = attempts.saturating_add(1);
                    request = unsent;
                }
                unsent => return Err(SendError { error, request: unsent.map(Box::new) }),
            }
        }
    }

    /// How long a request waits for its turn.
    fn patience(&self, to: &Target<'_>, hop: Option<(&Parent, Way)>, multiplex: bool) -> Duration {
        let timeouts = &to.host.timeouts;
        let opening = if multiplex { timeouts.tls.saturating_add(self.inner.dns_timeout) } else { Duration::ZERO };
        let hop = if hop.is_some() { timeouts.connect.saturating_add(opening) } else { Duration::ZERO };
        timeouts.connect.saturating_add(opening).saturating_add(hop)
    }

    /// A connection, and whether it was used before.
    async fn acquire(
        &self,
        to: &Target<'_>,
        hop: Option<(&Parent, Way)>,
        fresh: bool,
        upgrade: bool,
    ) -> Result<(Lease<Line<B>>, bool), ProxyError> {
        let inner = &self.inner;
        let tls = match to.key.scheme() {
            Scheme::Http => TlsId::PLAIN,
            Scheme::Https => inner
                .tls
                .find(&to.host.tls)
                .ok_or_else(|| ProxyError::new(ErrorKind::Internal, "the host's TLS settings were not prepared"))?,
        };
        // There are no upgrades inside HTTP/2.
        let multiplex = inner.http2.is_some() && tls != TlsId::PLAIN && !upgrade;
        let way = hop.map_or(Way::Direct, |(_, way)| way);
        let host = HostRef { key: to.key, tls, way, multiplex };
        let slot = match inner.pool.checkout(host, Instant::now(), fresh) {
            Checkout::Reuse(lease) => return Ok((lease, true)),
            Checkout::Open(slot) => slot,
            Checkout::Wait(mut waiting) => {
                // In line for a connection that somebody else is opening, perhaps.
                let wait = self.patience(to, hop, multiplex);
                match tokio::time::timeout(wait, waiting.granted()).await {
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
        Box::pin(inner.open(to, hop, host, slot)).await.map(|lease| (lease, false))
    }
}

impl<B: Send + 'static> Inner<B> {
    async fn dial(&self, to: &Target<'_>, hop: Option<(&Parent, Way)>) -> Result<Link, ProxyError> {
        let (host, port) = (to.key.host(), to.key.port());
        let Some((parent, way)) = hop else {
            self.egress.check_name(host, port)?;
            let addresses = self.resolver.resolve(host).await?;
            let checked = self.egress.check_addresses(host, port, &addresses)?;
            let socket = dial::dial(&checked, to.host.timeouts.connect).await?;
            return Ok(Link::new(Hop::Socket(socket), Bytes::new()));
        };
        self.egress.check_unresolved(host, port)?;
        let hop = self.dial_parent(parent, to).await.map_err(|error| parent.failed(error))?;
        match way {
            Way::Tunnel => parent.tunnel(&self.http1, hop, to).await,
            Way::Forward | Way::Direct => Ok(Link::new(hop, Bytes::new())),
        }
    }

    async fn dial_parent(&self, parent: &Parent, to: &Target<'_>) -> Result<Hop, ProxyError> {
        let (host, port) = (parent.key.host(), parent.key.port());
        let addresses = self.resolver.resolve(host).await?;
        let checked = self.egress.check_parent(port, &addresses)?;
        let socket = dial::dial(&checked, to.host.timeouts.connect).await?;
        if parent.tls == TlsId::PLAIN {
            return Ok(Hop::Socket(socket));
        }
        let handshake = self.tls.handshake(parent.tls, host, socket, false);
        let stream = tokio::time::timeout(to.host.timeouts.tls, handshake).await.map_err(|_| tls_late())?;
        Ok(Hop::Secure(Box::new(stream?)))
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    async fn open(
        &self,
        to: &Target<'_>,
        hop: Option<(&Parent, Way)>,
        host: HostRef<'_>,
        slot: Slot<Line<B>>,
    ) -> Result<Lease<Line<B>>, ProxyError> {
        let stream = self.dial(to, hop).await?;
        if host.tls == TlsId::PLAIN {
            return self.start_http1(stream, slot).await;
        }
        let handshake = self.tls.handshake(host.tls, to.key.host(), stream, host.multiplex);
        let stream = match tokio::time::timeout(to.host.timeouts.tls, handshake).await {
            Ok(agreed) => agreed?,
            Err(_) => return Err(tls_late()),
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        match &self.http2 {
            Some(http2) if is_http2 => {
                let _ = dial::notice_death(stream.get_ref().0.socket());
                self.start_http2(http2, stream, slot).await
            }
            _ => self.start_http1(stream, slot).await,
        }
    }

    async fn start_http1<T>(&self, stream: T, mut slot: Slot<Line<B>>) -> Result<Lease<Line<B>>, ProxyError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.sweep();
        let stream = Patient::new(stream);
        let pressure = stream.pressure();
        let handshake = self.http1.handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|error| internal(error.to_string()))?;
        let place = slot.place().ok_or_else(|| internal("a slot without a host".to_owned()))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an upstream ended with an error");
            }
            drop(slot);
        });
        Ok(place.lease(Line::Http1(Http1 { sender, task: task.abort_handle(), in_order: false, pressure })))
    }

    async fn start_http2<T>(
        &self,
        http2: &http2::Builder<TokioExecutor>,
        stream: T,
        mut slot: Slot<Line<B>>,
    ) -> Result<Lease<Line<B>>, ProxyError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.sweep();
        let handshake = http2.handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(|error| {
            ProxyError::new(ErrorKind::UpstreamReset, format!("the upstream does not begin HTTP/2: {error}"))
        })?;
        let place = slot.place().ok_or_else(|| internal("a slot without a host".to_owned()))?;
        let (calm, calmed) = watch::channel(false);
        let turns = Arc::new(Turns::new());
        turns.allow(connection.current_max_send_streams());
        let driven = Arc::clone(&turns);
        tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                if polled.is_pending() {
                    driven.allow(connection.current_max_send_streams());
                }
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "a connection to an upstream ended with an error");
                calm.send_replace(exchange::is_calm(&error));
            }
            drop(calm);
            drop(slot);
        });
        Ok(place.lease(Line::Http2(Http2 { sender, calmed, turns, turn: None })))
    }

    fn sweep(&self) {
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.pool.sweeper().run());
        }
    }
}

fn tls_late() -> ProxyError {
    ProxyError::new(ErrorKind::TlsTimeout, "TLS was not agreed on in time")
}

fn is_forward(hop: Option<(&Parent, Way)>) -> bool {
    matches!(hop, Some((_, Way::Forward)))
}

fn internal(detail: String) -> ProxyError {
    ProxyError::new(ErrorKind::Internal, detail)
}
