//! Bodies on their way through: never held back, never buffered whole, never boxed. Backpressure is hyper's: a frame is
//! taken when the other side has room.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::error::{ErrorKind, ProxyError};
use super::framing;
use super::headers::Trailers;
use super::keys::Line;
use super::pending::Pending;
use super::record::Record;
use super::shared::Host;
use super::tap::MALFORMED;
use super::upstream;
use super::wire::Wire;
use crate::core::signal::printable;
use crate::table::Entry;

/// How long a client with `Expect: 100-continue` waits for an upstream that does not know the expectation (RFC 9110
/// §10.1.1: a client does not wait for ever either).
const CONTINUE_ANYWAY: Duration = Duration::from_secs(1);

/// The most of a throttling answer's body that is kept for people.
pub(super) const EXCERPT: usize = 200;

/// The body of a client's request, on its way to the upstream.
pub struct RequestBody {
    incoming: Incoming,
    /// Not polled before this opens: polling makes hyper send `100 Continue`.
    gate: Option<Gate>,
    /// How many more bytes may come.
    room: u64,
    idle: Idle,
    /// `None`: there are none that hyper passes.
    trailers: Option<Box<Trailers>>,
    ended: bool,
    /// Taken when the end was told.
    wire: Option<Arc<Wire>>,
}

/// Opens when the upstream says `100 Continue`, or when it says nothing for a while.
struct Gate {
    /// Taken when nobody is left to open it: the final answer has come without the body, and then it stays closed.
    opened: Option<oneshot::Receiver<()>>,
    anyway: Pin<Box<Sleep>>,
}

impl RequestBody {
    /// `most`: the largest body in bytes, 0 for no bound. `idle`: the longest pause, zero for none. With `expects` the
    /// client waits for a 100, and the sender returned opens the gate.
    pub(super) fn new(
        incoming: Incoming,
        most: u64,
        idle: Duration,
        expects: bool,
        trailers: Option<Box<Trailers>>,
        wire: Arc<Wire>,
    ) -> (Self, Option<oneshot::Sender<()>>) {
        let (open, gate) = if expects {
            let (open, opened) = oneshot::channel();
            let anyway = Box::pin(tokio::time::sleep(CONTINUE_ANYWAY));
            wire.set_unasked(true);
            (Some(open), Some(Gate { opened: Some(opened), anyway }))
        } else {
            (None, None)
        };
        let ended = incoming.is_end_stream();
        let room = if most == 0 { u64::MAX } else { most };
        let mut body = Self { incoming, gate, room, idle: Idle::new(idle), trailers, ended, wire: Some(wire) };
        if ended {
            body.tell();
        }
        (body, open)
    }

    fn tell(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.body_done(self.ended);
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.tell();
    }
}

impl Gate {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(opened) = &mut self.opened else { return Poll::Pending };
        match Pin::new(opened).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) => {
                self.opened = None;
                Poll::Pending
            }
            Poll::Pending => self.anyway.as_mut().poll(cx),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(gate.poll(cx));
            this.gate = None;
            if let Some(wire) = &this.wire {
                wire.set_unasked(false);
            }
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        // hyper passes some of what another reader takes for an end.
        let malformed = this.wire.as_ref().is_some_and(|wire| wire.body_is_malformed());
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                let length = frame.data_ref().map_or(0, Bytes::len);
                match this.room.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                    Some(room) => this.room = room,
                    None => return Poll::Ready(Some(Err(too_large()))),
                }
                if malformed {
                    return Poll::Ready(Some(Err(ProxyError::new(ErrorKind::RequestBody, MALFORMED))));
                }
                if this.incoming.is_end_stream() || frame.is_trailers() {
                    this.end();
                }
                Poll::Ready(Some(Ok(filtered(frame, this.trailers.as_deref()))))
            }
            _ if malformed => Poll::Ready(Some(Err(ProxyError::new(ErrorKind::RequestBody, MALFORMED)))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(ProxyError::new(
                ErrorKind::RequestBody,
                "the request body broke off or is malformed",
            )
            .at(framing::bound(&error))))),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(this.idle.poll(cx));
                Poll::Ready(Some(Err(ProxyError::new(
                    ErrorKind::RequestTimeout,
                    "no piece of the request body for too long",
                ))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.ended |= self.incoming.is_end_stream();
        self.tell();
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("gated", &self.gate.is_some()).field("ended", &self.ended).finish()
    }
}

/// The frame without trailers that may not pass.
fn filtered(frame: Frame<Bytes>, trailers: Option<&Trailers>) -> Frame<Bytes> {
    let Some(trailers) = trailers else { return frame };
    match frame.into_trailers() {
        Ok(found) => Frame::trailers(trailers.pass(found)),
        Err(data) => data,
    }
}

/// What a request body beyond the bound is answered with.
pub(super) fn too_large() -> ProxyError {
    ProxyError::new(ErrorKind::RequestTooLarge, "the request body is larger than `timeouts.max_request_body`")
}

/// The longest pause between two pieces of a body. The timer is made at the first pause.
#[derive(Debug)]
struct Idle {
    bound: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    runs: bool,
}

impl Idle {
    const fn new(bound: Duration) -> Self {
        Self { bound, timer: None, runs: false }
    }

    fn moved(&mut self) {
        self.runs = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bound.is_zero() {
            return Poll::Pending;
        }
        let bound = self.bound;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
        if !self.runs {
            self.runs = true;
            let now = Instant::now();
            timer.as_mut().reset(now.checked_add(bound).unwrap_or(now));
        }
        timer.as_mut().poll(cx)
    }
}

/// The body of an answer to a client.
pub(super) struct ResponseBody {
    kind: Kind,
    /// `None`: there are none that hyper passes.
    trailers: Option<Box<Trailers>>,
    wire: Arc<Wire>,
    record: Option<Record>,
    /// What the rest of the body decides.
    pending: Option<Box<Pending>>,
}

enum Kind {
    /// Ours.
    Local(Bytes),
    /// The upstream's.
    Upstream(upstream::ResponseBody<RequestBody>),
    /// The upstream's broke off. What came before is written first, then hyper is told, which cuts the connection: so a
    /// short body looks short.
    Broken(Option<ProxyError>),
}

impl ResponseBody {
    /// A body of our own making.
    pub(super) fn local(bytes: Bytes, wire: &Arc<Wire>, record: Option<Record>) -> Self {
        wire.stream_waits();
        Self { kind: Kind::Local(bytes), trailers: None, wire: Arc::clone(wire), record, pending: None }
    }

    /// An upstream's body.
    pub(super) fn upstream(
        body: upstream::ResponseBody<RequestBody>,
        trailers: Option<Box<Trailers>>,
        wire: &Arc<Wire>,
        record: Record,
        pending: Option<Box<Pending>>,
    ) -> Self {
        wire.stream_waits();
        Self { kind: Kind::Upstream(body), trailers, wire: Arc::clone(wire), record: Some(record), pending }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = &mut *self;
        this.wire.stream_moves();
        match &mut this.kind {
            Kind::Local(bytes) => {
                if bytes.is_empty() {
                    return Poll::Ready(None);
                }
                let bytes = std::mem::take(bytes);
                if let Some(record) = &mut this.record {
                    record.sent(&bytes);
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Upstream(body) => {
                let polled = if this.wire.holds_body(cx) { Poll::Pending } else { Pin::new(&mut *body).poll_frame(cx) };
                if this.pending.as_mut().is_some_and(|pending| pending.see(&polled, body.is_end_stream(), cx)) {
                    this.pending = None;
                }
                match ready!(polled) {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            this.wire.takes_body(data.len());
                            if let Some(record) = &mut this.record {
                                record.sent(data);
                            }
                        }
                        this.wire.stream_waits();
                        Poll::Ready(Some(Ok(filtered(frame, this.trailers.as_deref()))))
                    }
                    Some(Err(error)) => {
                        this.wire.set_broken();
                        if let Some(record) = &mut this.record {
                            record.broke(&error);
                        }
                        this.kind = Kind::Broken(Some(error));
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    None => Poll::Ready(None),
                }
            }
            Kind::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Local(bytes) => bytes.is_empty(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Local(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Broken(_) => SizeHint::new(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.wire.answered();
    }
}

/// Keeps the first bytes of a throttling answer's body as they pass, for `last_error`.
pub(super) struct Excerpt {
    entry: Arc<Entry<Host>>,
    number: u64,
    bytes: Vec<u8>,
}

impl Excerpt {
    /// For an error line.
    pub(super) fn new((entry, number): Line) -> Self {
        Self { entry, number, bytes: Vec::new() }
    }

    /// Some of the body passes.
    pub(super) fn add(&mut self, data: &[u8]) {
        let room = EXCERPT.saturating_sub(self.bytes.len());
        if room > 0 {
            self.bytes.extend(data.iter().take(room));
        }
        if self.bytes.len() >= EXCERPT {
            self.keep();
        }
    }

    fn keep(&mut self) {
        if self.number != 0 && !self.bytes.is_empty() {
            self.entry.add_error_body(self.number, &printable(self.bytes.trim_ascii_end(), EXCERPT));
        }
        self.number = 0;
    }
}

impl Drop for Excerpt {
    fn drop(&mut self) {
        self.keep();
    }
}
