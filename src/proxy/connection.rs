//! One client connection.
//!
//! It waits on the bare socket, without a buffer, for the first byte; hands the socket to hyper while there are requests;
//! and takes it back when nothing has come for a moment, so that thousands of idle connections cost little and the header
//! timeout counts from the first byte of a head. What comes after a 101 or a 200 to CONNECT is carried here as well, by the
//! same task. A connection that we end is ended so that the client can still read its answer.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::answers;
use super::auth::Authenticator;
use super::body::{RequestBody, ResponseBody};
use super::error::{ErrorKind, ProxyError};
use super::forward;
use super::headers::Via;
use super::intercept::{self, Interceptor};
use super::multiplex;
use super::reverse::{self, Routes};
use super::shared::Shared;
use super::tap::{Head, Partial};
use super::transport::Transport;
use super::tunnel::Ended;
use super::upstream::Upstreams;
use super::wire::{ClientIo, HandOver, Refuse, Wire};
use crate::core::key::Key;
use crate::intercept::Interception;
use crate::metrics::{Bound, Listener};
use crate::table::clock;

/// The most hyper reads ahead, and writes behind, of a slow side.
const BUFFER: usize = 64 * 1024;

/// hyper's own bound on fields. Staying at it keeps hyper's parser on the stack.
const HYPER_MAX_FIELDS: usize = 100;

/// How long hyper keeps an idle connection, at least; also how often a connection with a request is looked after.
const TICK: Duration = Duration::from_secs(1);

/// How long a client may go on sending behind its last answer. Time alone bounds it: many clients read the answer to an
/// upload only after the last byte of the upload, and what they send meanwhile costs one buffer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BUFFER: usize = 16 * 1024;

/// What every connection of the data path shares.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) upstreams: Upstreams<RequestBody>,
    pub(super) via: Via,
    pub(super) auth: Option<Authenticator>,
    pub(super) interceptor: Option<Interceptor>,
    tunnels: Arc<Semaphore>,
    http: http1::Builder,
    refuse: Arc<Refuse>,
    /// No request is taken any more but on connections that have one.
    closing: AtomicBool,
    drain: watch::Sender<bool>,
}

/// What a connection came in by.
#[derive(Debug)]
pub(super) enum Port {
    /// The forward proxy.
    Proxy,
    /// A `[[reverse]]` address.
    Reverse(Routes),
    /// A CONNECT on the forward proxy to the host of this key, whose TLS ends here.
    Inside(Key),
}

impl Port {
    pub(super) const fn listener(&self) -> Listener {
        match self {
            Self::Proxy | Self::Inside(_) => Listener::Proxy,
            Self::Reverse(_) => Listener::Reverse,
        }
    }
}

impl Context {
    pub(super) fn new(
        shared: Arc<Shared>,
        upstreams: Upstreams<RequestBody>,
        interception: Option<Arc<Interception>>,
    ) -> Arc<Self> {
        let limits = &shared.settings.limits;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout((!limits.header_timeout.is_zero()).then_some(limits.header_timeout))
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(BUFFER.max(limits.max_header_bytes))
            .preserve_header_case(true)
            .auto_date_header(false);
        if limits.max_header_fields != HYPER_MAX_FIELDS {
            http.max_headers(limits.max_header_fields);
        }
        let refuse: Arc<Refuse> = {
            let shared = Arc::clone(&shared);
            Arc::new(move |status: StatusCode, seen: Partial| {
                let (error, bound) = answers::unreadable(status, seen, shared.settings.limits.max_header_fields);
                if let Some(bound) = bound {
                    shared.metrics.bound_reached(bound);
                }
                answers::raw(&shared, &error, seen.no_body)
            })
        };
        Arc::new(Self {
            via: Via::new(&shared.name, shared.settings.listen.via),
            auth: shared.settings.listen.auth.as_ref().map(Authenticator::new),
            interceptor: interception.map(Interceptor::new),
            tunnels: Arc::new(Semaphore::new(limits.max_tunnels.min(Semaphore::MAX_PERMITS))),
            http,
            refuse,
            closing: AtomicBool::new(false),
            drain: watch::channel(false).0,
            shared,
            upstreams,
        })
    }

    /// Tells every connection to end when it has finished what it is doing.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.drain.send_replace(true);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// A place among `max_tunnels`.
    pub(super) fn tunnel_place(&self) -> Result<OwnedSemaphorePermit, ProxyError> {
        Arc::clone(&self.tunnels).try_acquire_owned().map_err(|_| {
            ProxyError::new(ErrorKind::Overload, "as many tunnels are open as `limits.max_tunnels` allows")
                .at(Some(Bound::MaxTunnels))
        })
    }

    fn allows(&self, port: &Port, peer: SocketAddr) -> bool {
        match port {
            Port::Proxy | Port::Inside(_) => reverse::allows(&self.shared.settings.listen.clients, peer.ip()),
            Port::Reverse(routes) => routes.allows(peer.ip()),
        }
    }
}

/// A client, as its requests see it.
pub(super) struct Client {
    pub(super) context: Arc<Context>,
    pub(super) wire: Arc<Wire>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) port: Arc<Port>,
}

impl Client {
    /// Whether the answer that is being made has to be the last one.
    pub(super) fn must_close(&self) -> bool {
        !self.wire.is_stream() && (self.context.is_closing() || self.wire.is_unasked())
    }

    pub(super) async fn serve(&self, request: Request<Incoming>, seen: Head) -> Response<ResponseBody> {
        let arrived = clock::now();
        match &*self.port {
            Port::Proxy => forward::serve(self, request, seen, arrived).await,
            Port::Reverse(routes) => reverse::serve(self, routes, request, seen, arrived).await,
            Port::Inside(key) => intercept::serve(self, key, request, seen, arrived).await,
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn run(context: Arc<Context>, port: Arc<Port>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let mut drain = context.drain.subscribe();
    serve(context, port, Transport::Socket(stream), (peer, local), &mut drain).await;
}

/// Serves what a client has handed over after CONNECT, or an upgrade, to its end. Boxed without its type: a session is a
/// connection in a connection.
pub(super) fn go_on(
    context: Arc<Context>,
    next: HandOver,
    stream: Transport,
    early: Bytes,
    ends: (SocketAddr, SocketAddr),
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match next {
        HandOver::Tunnel(tunnel) => Box::pin(async move {
            if tunnel.run(stream, early).await == Ended::Idle {
                context.shared.metrics.bound_reached(Bound::TunnelIdle);
            }
        }),
        HandOver::Session(session) => Box::pin(async move {
            let mut drain = context.drain.subscribe();
            session.run(context, stream, early, ends, &mut drain).await;
        }),
    }
}

/// Serves requests over HTTP/1, or HTTP/2 by prior knowledge, to the end of the connection.
pub(super) async fn serve(
    context: Arc<Context>,
    port: Arc<Port>,
    mut stream: Transport,
    (peer, local): (SocketAddr, SocketAddr),
    drain: &mut watch::Receiver<bool>,
) {
    let mut early = Bytes::new();
    // Over TLS, HTTP/2 is agreed on by ALPN and by nothing else (RFC 9113 §3.2).
    let mut is_fresh = matches!(*port, Port::Proxy | Port::Reverse(_));
    loop {
        if early.is_empty() {
            match wait(&context, &mut stream, drain).await {
                Some(first) => early = first,
                None => return stream.close().await,
            }
        }
        if !context.allows(&port, peer) {
            let error = ProxyError::new(ErrorKind::ClientDenied, "the client's address is not in `clients`");
            return end_with(&context, stream, &error).await;
        }
        let within = context.shared.settings.limits.header_timeout;
        if std::mem::take(&mut is_fresh) && multiplex::is_preface(&mut stream, &mut early, within).await {
            return Box::pin(multiplex::run(context, port, stream, early, (peer, local), drain)).await;
        }
        let client = Arc::new(Client {
            context: Arc::clone(&context),
            wire: Wire::new(context.shared.settings.limits.max_header_bytes),
            peer,
            local,
            port: Arc::clone(&port),
        });
        // Boxed, so that an idle connection does not keep the room for a busy one.
        match Box::pin(converse(client, stream, early, drain)).await {
            Next::Wait(idle, rest) => (stream, early) = (idle, rest),
            Next::Other(next, stream, early) => return go_on(context, next, stream, early, (peer, local)).await,
            Next::Over => return,
        }
    }
}

/// Waits for the first bytes of a request; see [`Transport::first`].
async fn wait(context: &Context, stream: &mut Transport, drain: &mut watch::Receiver<bool>) -> Option<Bytes> {
    let idle = context.shared.settings.limits.keepalive_timeout;
    let until = (!idle.is_zero()).then(|| Instant::now().checked_add(idle)).flatten();
    let late = async {
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        first = stream.first() => first,
        () = late => {
            context.shared.metrics.bound_reached(Bound::KeepaliveTimeout);
            None
        }
        _ = drain.wait_for(|closing| *closing) => None,
    }
}

/// What a connection does when hyper is done with it.
enum Next {
    /// It is idle.
    Wait(Transport, Bytes),
    /// It has become something else.
    Other(HandOver, Transport, Bytes),
    /// It is over.
    Over,
}

/// Why hyper is done.
enum Done {
    /// hyper says so.
    Served(hyper::Result<()>),
    /// Nothing has come for a while.
    Idle,
    /// The end has begun, and there is nothing to finish.
    Drained,
    /// The client does not read its answer.
    Stalled,
}

async fn converse(client: Arc<Client>, stream: Transport, early: Bytes, drain: &mut watch::Receiver<bool>) -> Next {
    let (context, wire) = (Arc::clone(&client.context), Arc::clone(&client.wire));
    wire.set_patience(context.shared.settings.limits.keepalive_timeout);
    let io = ClientIo::new(stream, early, Arc::clone(&wire), Arc::clone(&context.refuse));
    let service = service_fn(move |request: Request<Incoming>| {
        let length = if request.body().is_end_stream() { Some(0) } else { request.body().size_hint().exact() };
        let seen = client.wire.begin(length, request.version());
        let client = Arc::clone(&client);
        // Boxed, so that its room is given back when the answer begins: its body may take long.
        Box::pin(async move {
            let answer = client.serve(request, seen).await;
            client.wire.passes(answer)
        })
    });
    let mut connection = context.http.serve_connection(TokioIo::new(io), service);
    let done = {
        let mut watch = Watch::new(&context, &wire);
        let mut draining = pin!(drain.wait_for(|closing| *closing));
        let mut asked = false;
        poll_fn(|cx| {
            if !asked {
                // Polled once, to be woken; what it says is read from `closing`.
                asked = true;
                let _ = draining.as_mut().poll(cx);
            }
            if watch.has_drained() {
                if wire.is_quiet() && !wire.has_partial_head() {
                    return Poll::Ready(Done::Drained);
                }
                if !wire.is_quiet() {
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
            if let Poll::Ready(served) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Done::Served(served));
            }
            watch.poll(cx)
        })
        .await
    };
    let parts = connection.into_parts();
    let (stream, unread) = parts.io.into_inner().into_parts();
    // What hyper has not parsed comes before what it has not seen. Copied, or nothing: a piece of hyper's buffer, be it
    // empty, would keep all of it for as long as the connection is idle.
    let rest = [parts.read_buf, unread].concat().into();
    end(&context, &wire, done, stream, rest).await
}

async fn end(context: &Context, wire: &Wire, done: Done, stream: Transport, rest: Bytes) -> Next {
    match done {
        Done::Idle => return Next::Wait(stream, rest),
        Done::Drained => stream.close().await,
        Done::Stalled => {
            context.shared.metrics.bound_reached(Bound::BodyIdle);
            stream.set_reset();
        }
        Done::Served(Ok(())) => match wire.take_over() {
            Some(next) => return Next::Other(next, stream, rest),
            None => linger(stream).await,
        },
        Done::Served(Err(error)) => {
            tracing::debug!(%error, "a client connection ended with an error");
            if wire.must_reset() {
                stream.set_reset();
            } else if error.is_timeout() && wire.is_quiet() {
                context.shared.metrics.bound_reached(Bound::HeaderTimeout);
                if wire.has_partial_head() {
                    let error = ProxyError::new(ErrorKind::RequestTimeout, "no whole request head in time");
                    end_with(context, stream, &error).await;
                }
            } else if error.is_parse() && wire.has_refused() {
                linger(stream).await;
            } else if error.is_parse() && wire.is_quiet() {
                end_with(context, stream, &answers::malformed()).await;
            }
        }
    }
    Next::Over
}

/// Looks after a connection while hyper has it.
struct Watch<'a> {
    context: &'a Context,
    wire: &'a Wire,
    tick: Pin<Box<tokio::time::Sleep>>,
    every: Duration,
    /// The number of requests at the last tick, if it was idle.
    idle_at: Option<u64>,
    /// The same, if there was a request without its whole answer.
    asked_at: Option<u64>,
    /// Bytes written at the last tick, if a write was waiting, and since when.
    stalled: Option<(u64, Instant)>,
    drained: bool,
}

impl<'a> Watch<'a> {
    fn new(context: &'a Context, wire: &'a Wire) -> Self {
        let header = context.shared.settings.limits.header_timeout;
        // hyper counts the header timeout from the end of the last answer, so that it must be given back before.
        let every = if header.is_zero() {
            TICK
        } else {
            TICK.min(header.checked_div(4).unwrap_or(TICK)).max(Duration::from_millis(5))
        };
        let tick = Box::pin(tokio::time::sleep(every));
        Self { context, wire, tick, every, idle_at: None, asked_at: None, stalled: None, drained: false }
    }

    /// Whether the end has begun; says so once per state of the connection.
    fn has_drained(&mut self) -> bool {
        if !self.context.is_closing() {
            return false;
        }
        let first = !self.drained;
        self.drained = true;
        first || self.wire.is_quiet()
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Done> {
        while self.tick.as_mut().poll(cx).is_ready() {
            if let Some(done) = self.look() {
                return Poll::Ready(done);
            }
            let now = Instant::now();
            self.tick.as_mut().reset(now.checked_add(self.every).unwrap_or(now));
        }
        Poll::Pending
    }

    fn look(&mut self) -> Option<Done> {
        if self.wire.is_quiet() && !self.wire.has_partial_head() {
            let exchanges = self.wire.exchanges();
            if self.idle_at.replace(exchanges) == Some(exchanges) {
                return Some(Done::Idle);
            }
        } else {
            self.idle_at = None;
        }
        let asked = self.wire.awaits_answer().then(|| self.wire.exchanges());
        if asked.is_some() && self.asked_at == asked {
            self.wire.doubt();
        }
        self.asked_at = asked;
        self.stalled = match (self.wire.stalled_at(), self.stalled) {
            (Some(at), Some((before, since))) if at == before => Some((at, since)),
            (Some(at), _) => Some((at, Instant::now())),
            (None, _) => None,
        };
        let (_, since) = self.stalled?;
        let patience = self.wire.patience()?;
        (since.elapsed() >= patience).then_some(Done::Stalled)
    }
}

/// Answers what is no request, and ends the connection.
pub(super) async fn end_with(context: &Context, mut stream: Transport, error: &ProxyError) {
    let answer = answers::raw(&context.shared, error, false);
    if matches!(tokio::time::timeout(LINGER, stream.write_all(&answer)).await, Ok(Ok(()))) {
        linger(stream).await;
    }
}

/// Ends a connection so that the client can read its answer: closing a socket with unread bytes in it would send a reset,
/// and a reset can overtake the answer (RFC 9112 §9.6).
async fn linger(mut stream: Transport) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let rest = async {
        let mut buffer = vec![0; LINGER_BUFFER];
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_has_no_room_for_a_busy_one() {
        assert!(size(run) < 1536, "{}", size(run));
    }
}
