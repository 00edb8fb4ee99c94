//! One request and its response on one connection: the bodies on both sides, the wait for the head, and what an error of
//! hyper means.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::pool::{Connection, Lease};
use super::tls;
use crate::core::key::{Key, Scheme};
use crate::metrics::Bound;
use crate::proxy::backpressure::Backpressure;
use crate::proxy::error::{ErrorKind, ProxyError};
use crate::proxy::framing;
use crate::proxy::target::authority;

/// How long a broken connection's own end is waited for.
const LAST_WORD: Duration = Duration::from_millis(250);

/// A connection.
pub(super) enum Line<B> {
    /// One exchange at a time.
    Http1(Http1<B>),
    /// Several at once.
    Http2(Http2<B>),
}

/// hyper's sender, and the task that drives the socket.
pub(super) struct Http1<B> {
    pub(super) sender: http1::SendRequest<Outgoing<B>>,
    pub(super) task: AbortHandle,
    pub(super) in_order: bool,
    pub(super) pressure: Arc<Backpressure>,
}

/// hyper's sender. Without one, the connection's task ends it when the last exchange is over.
pub(super) struct Http2<B> {
    pub(super) sender: http2::SendRequest<Outgoing<B>>,
    /// Whether it ended because the upstream asks for less. The connection's task has the other end.
    pub(super) calmed: watch::Receiver<bool>,
    pub(super) turns: Arc<Turns>,
    /// This exchange's stream among those that the upstream allows.
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

/// The streams that an upstream allows at a time (SETTINGS_MAX_CONCURRENT_STREAMS). hyper lets the others wait on its own;
/// this says until when they do, so that nobody holds a wait for one's turn against the upstream. Both lines are first come,
/// first served.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// How many there are in all.
    allowed: Mutex<usize>,
}

/// As good as no bound.
const MOST_TURNS: usize = 1 << 20;

impl Turns {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(0)), allowed: Mutex::new(0) }
    }

    /// Takes what the upstream says now.
    pub(super) fn allow(&self, allowed: usize) {
        let allowed = allowed.min(MOST_TURNS);
        let mut known = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = allowed.checked_sub(*known) {
            self.free.add_permits(more);
            *known = allowed;
        } else {
            // Those in use are taken away another time.
            let gone = self.free.forget_permits(known.saturating_sub(allowed));
            *known = known.saturating_sub(gone);
        }
    }

    /// Takes a place in line.
    fn next(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let free = Arc::clone(&self.free);
        async move { free.acquire_owned().await.ok() }
    }
}

impl<B> Http2<B> {
    /// The turn of a request that is in line now.
    pub(super) fn next_turn(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<B> {
        self.turns.next()
    }

    /// Whether a connection that broke off under a request did so because the upstream asks for less. An upstream that says
    /// so and goes away has often accepted the stream before, which then only sees the end.
    pub(super) async fn was_calmed(&mut self) -> bool {
        matches!(tokio::time::timeout(LAST_WORD, self.calmed.wait_for(|calmed| *calmed)).await, Ok(Ok(_)))
    }
}

impl<B: Send + 'static> Connection for Line<B> {
    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(line) => line.sender.is_ready(),
            Self::Http2(line) => line.sender.is_ready(),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Http1(line) => line.sender.poll_ready(cx).map(|ready| ready.is_ok()),
            Self::Http2(line) => line.sender.poll_ready(cx).map(|ready| ready.is_ok()),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(line) => line.sender.is_closed(),
            Self::Http2(line) => line.sender.is_closed(),
        }
    }

    fn retire(self) {
        if let Self::Http1(mut line) = self {
            // Without its sender the task closes the connection, or hands it over after a 101.
            line.in_order = true;
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(line) => Some(Self::Http2(Http2 {
                sender: line.sender.clone(),
                calmed: line.calmed.clone(),
                turns: Arc::clone(&line.turns),
                turn: None,
            })),
        }
    }
}

impl<B> Drop for Http1<B> {
    fn drop(&mut self) {
        if !self.in_order {
            self.task.abort();
        }
    }
}

/// The caller's request body, watched: whose fault a broken exchange is, and who is waiting for whom.
pub(super) struct Outgoing<B> {
    /// `None`: empty, and kept for another attempt.
    body: Option<B>,
    watch: Option<Arc<Watch>>,
    /// `None`: HTTP/2 has its own.
    pressure: Option<Arc<Backpressure>>,
}

/// What is known of a request body on its way.
#[derive(Debug)]
pub(super) struct Watch {
    state: Mutex<Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    failed: bool,
    /// The connection waits for the client, not the other way round.
    starved: bool,
    moved: Instant,
}

impl<B: Body> Outgoing<B> {
    /// Watches `body` if there is anything to watch.
    pub(super) fn new(body: B, pressure: Option<&Arc<Backpressure>>) -> (Self, Option<Arc<Watch>>) {
        let watch = (!body.is_end_stream()).then(|| {
            let state = Watched { failed: false, starved: false, moved: Instant::now() };
            Arc::new(Watch { state: Mutex::new(state) })
        });
        (Self { body: Some(body), watch: watch.clone(), pressure: pressure.cloned() }, watch)
    }

    /// Stands for an empty body.
    pub(super) const fn empty() -> Self {
        Self { body: None, watch: None, pressure: None }
    }

    pub(super) fn into_inner(self) -> Option<B> {
        self.body
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, Watched> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, starved: bool, failed: bool) {
        let mut state = self.state();
        state.failed |= failed;
        state.starved = starved;
        if !starved {
            state.moved = Instant::now();
        }
    }

    fn failed(&self) -> bool {
        self.state().failed
    }

    /// When to look again, if the upstream has not been silent for `bound`.
    fn later(&self, bound: Duration) -> Option<Instant> {
        let Watched { starved, moved, .. } = *self.state();
        let now = Instant::now();
        let until = if starved { now } else { moved }.checked_add(bound)?;
        (until > now).then_some(until)
    }
}

impl<B> Body for Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.pressure.as_ref().is_some_and(|pressure| pressure.holds(cx)) {
            return Poll::Pending;
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Some(watch) = &self.watch {
            watch.note(polled.is_pending(), matches!(polled, Poll::Ready(Some(Err(_)))));
        }
        if let (Poll::Ready(Some(Ok(frame))), Some(pressure)) = (&polled, &self.pressure) {
            pressure.take(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

/// Waits for a response head. The time runs while the upstream is to move: from the request's last piece on, and between
/// pieces that it does not take, not while the client is slow with its body.
pub(super) async fn await_head<F: Future>(
    head: F,
    bound: Duration,
    watch: Option<&Watch>,
) -> Result<F::Output, ProxyError> {
    if bound.is_zero() {
        return Ok(head.await);
    }
    let mut head = pin!(head);
    let mut wait = bound;
    loop {
        match tokio::time::timeout(wait, &mut head).await {
            Ok(answered) => return Ok(answered),
            Err(_) => match watch.and_then(|watch| watch.later(bound)) {
                Some(until) => wait = until.saturating_duration_since(Instant::now()),
                None => return Err(ProxyError::new(ErrorKind::HeadTimeout, "no response head in time")),
            },
        }
    }
}

/// A request's head as HTTP/2 has it: a whole URL, no fields of the connection (RFC 9113 §8.2.2, §8.3.1).
pub(super) fn stream_head(parts: &Parts, key: &Key) -> Request<()> {
    let mut request = Request::new(());
    let mut headers = parts.headers.clone();
    headers.remove(CONNECTION);
    let host = headers.remove(HOST);
    let authority = host
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| Authority::try_from(authority(key)).ok());
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if key.scheme() == Scheme::Https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    uri.authority = authority;
    uri.path_and_query = parts.uri.path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(uri) {
        *request.uri_mut() = uri;
    }
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = headers;
    *request.version_mut() = Version::HTTP_2;
    request
}

/// Refuses what hyper lets pass and two readers could read as two things (RFC 9112 §6.1, §6.3), and a 101 that nobody asked
/// for.
pub(super) fn check_head<T>(response: &Response<T>, asked_upgrade: bool) -> Result<(), ProxyError> {
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

/// Whether the upstream ends the connection behind the response.
pub(super) fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// Whether the upstream says that it has not looked at the request, so that it may be sent again whatever its method
/// (RFC 9113 §8.7).
pub(super) fn was_refused(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
                // Of the streams that a GOAWAY ends, these are the ones it says were not looked at.
                || error.is_go_away() && error.reason() != Some(h2::Reason::ENHANCE_YOUR_CALM))
    })
}

/// Whether the upstream asks for less.
pub(super) fn is_calm(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(says_calm)
}

fn says_calm(error: &h2::Error) -> bool {
    error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

/// What that means.
pub(super) fn calm() -> ProxyError {
    ProxyError::new(ErrorKind::UpstreamCalm, "the upstream asks for less (ENHANCE_YOUR_CALM)")
}

/// Whether a stream ended with its connection, without a word about why.
pub(super) fn broke_off(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(h2::Error::is_io) || find::<io::Error>(error).is_some()
}

fn classify_h2(error: &h2::Error) -> ProxyError {
    if says_calm(error) {
        return calm();
    }
    if error.is_remote() || error.is_io() {
        return ProxyError::new(ErrorKind::UpstreamReset, error.to_string());
    }
    ProxyError::new(ErrorKind::UpstreamProtocol, error.to_string())
}

/// What an error before the response head means.
pub(super) fn classify(error: &hyper::Error, watch: Option<&Watch>) -> ProxyError {
    if watch.is_some_and(Watch::failed) || error.is_body_write_aborted() {
        // The caller's body may have said itself what is wrong.
        return match find::<ProxyError>(error) {
            Some(own) => ProxyError::new(own.kind(), own.detail().to_owned()).at(own.bound()),
            None => ProxyError::new(ErrorKind::RequestBody, "the request body broke off"),
        };
    }
    if let Some(error) = find::<h2::Error>(error) {
        return classify_h2(error);
    }
    if let Some(io) = find::<io::Error>(error) {
        return match tls::tls_error(io) {
            Some(_) => tls::classify(io),
            None => ProxyError::new(ErrorKind::UpstreamReset, io.to_string()),
        };
    }
    // A request that was not sent is `canceled`; its source is the connection's own error.
    let cause = match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(cause) if error.is_canceled() => cause,
        _ => error,
    };
    if cause.is_parse() {
        let bound = cause.is_parse_too_large().then_some(Bound::UpstreamHead);
        return ProxyError::new(ErrorKind::UpstreamProtocol, format!("the response is not HTTP/1.1: {cause}"))
            .at(bound);
    }
    if cause.is_timeout() {
        return ProxyError::new(ErrorKind::UpstreamReset, "the upstream no longer answers on the connection (PING)");
    }
    if cause.is_incomplete_message() || cause.is_canceled() || cause.is_closed() {
        return ProxyError::new(ErrorKind::UpstreamReset, "the upstream closed the connection before a response head");
    }
    if cause.is_user() {
        return ProxyError::new(ErrorKind::Internal, cause.to_string());
    }
    // What is left is data that nobody asked for.
    ProxyError::new(ErrorKind::UpstreamProtocol, cause.to_string())
}

fn find<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An `io::Error` may carry another error and shows that one's source, not itself.
        next = error.source();
    }
    None
}

/// A response body. It gives the connection back when it has ended cleanly; dropped earlier, it closes it.
///
/// Its errors are [`ErrorKind::UpstreamBody`] and [`ErrorKind::BodyTimeout`].
pub struct ResponseBody<B: Send + 'static> {
    incoming: Incoming,
    lease: Option<Lease<Line<B>>>,
    /// The upstream lets the connection live on.
    reusable: bool,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    timer_runs: bool,
    failed: bool,
}

impl<B: Send + 'static> ResponseBody<B> {
    pub(super) fn new(incoming: Incoming, lease: Option<Lease<Line<B>>>, reusable: bool, idle: Duration) -> Self {
        let mut body = Self { incoming, lease, reusable, idle, timer: None, timer_runs: false, failed: false };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take()
            && self.reusable
        {
            lease.finish();
        }
    }

    fn fail(&mut self, error: ProxyError) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        self.failed = true;
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Whether nothing has come for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.idle.is_zero() {
            return Poll::Pending;
        }
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if !self.timer_runs {
            self.timer_runs = true;
            let now = Instant::now();
            timer.as_mut().reset(now.checked_add(idle).unwrap_or(now));
        }
        timer.as_mut().poll(cx)
    }
}

impl<B: Send + 'static> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.timer_runs = false;
                // Nobody asks for more behind trailers.
                if self.incoming.is_end_stream() || frame.is_trailers() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let detail = match error.source() {
                    Some(cause) => format!("the response body broke off: {cause}"),
                    None => format!("the response body broke off: {error}"),
                };
                self.fail(ProxyError::new(ErrorKind::UpstreamBody, detail).at(framing::bound(&error)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => match self.poll_idle(cx) {
                Poll::Ready(()) => {
                    self.fail(ProxyError::new(ErrorKind::BodyTimeout, "no piece of the response body for too long"))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl<B: Send + 'static> Drop for ResponseBody<B> {
    fn drop(&mut self) {
        if !self.failed && self.incoming.is_end_stream() {
            self.finish();
        }
    }
}

impl<B: Send + 'static> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("lease", &self.lease).field("failed", &self.failed).finish_non_exhaustive()
    }
}
