//! What hyper's server cannot do, between it and the socket.
//!
//! [`ClientIo`] is the socket as hyper sees it. It knows from the service, through the shared [`Wire`], whether an exchange
//! is going on, and with that it does five things:
//!
//! - It writes the 1xx answers of the upstream before the final one. hyper flushes its transport whenever it has nothing
//!   of its own to write, and every byte of hyper's passes here, so queued bytes always go out first and between messages.
//! - It gives the answers that hyper makes itself for heads it cannot read (an empty 400, 414 or 431) the form of ours.
//!   Whatever hyper writes while no exchange is going on is such an answer.
//! - It keeps the bytes of the head until the service has looked at them: hyper drops what a strict reader has to refuse
//!   (`Content-Length` beside `Transfer-Encoding`, bare line feeds). A chunked body that is malformed breaks off here.
//! - It keeps account of writes that do not move, for the driver to end.
//! - It notices that a client has left which has sent more requests than one: hyper looks for the end of a connection only
//!   when nothing is left to parse, and would wait for the upstream as long as that likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backpressure::{Backpressure, FROM_CLIENT, Pieces};
use super::hang_up::HungUp;
use super::intercept::Session;
use super::tap::{Head, MALFORMED, Partial, Tap};
use super::transport::Transport;
use super::tunnel::Tunnel;

/// The most bytes of 1xx answers that wait for a client which does not read.
const MAX_QUEUE: usize = 64 * 1024;

/// How many 1xx answers beyond the bound are dropped before the upstream is taken for one that never comes to its answer.
const MAX_DROPPED: usize = 256;

/// What goes on between hyper and us on one connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// One stream of several: how the connection goes on does not depend on it.
    is_stream: bool,
    phase: AtomicU8,
    /// The request body is still being read, or may be.
    body_open: AtomicBool,
    /// The request body is not chunked as its head says.
    malformed: AtomicBool,
    /// The request body was dropped before its end, so that hyper closes.
    body_left: AtomicBool,
    /// The answer broke off, and only the way the connection ends can tell the client.
    broken: AtomicBool,
    /// The answer's body ends with the connection.
    until_close: AtomicBool,
    /// The client waits for a 100 that has not come.
    unasked: AtomicBool,
    /// The status line to come is hyper's, of the client's version; ours is HTTP/1.1 (RFC 9112 §2.3).
    respell: AtomicBool,
    /// An answer of hyper's own making was replaced by ours.
    refused: AtomicBool,
    /// The upstream sends 1xx answers without end.
    flooded: AtomicBool,
    /// The client may have left: to be looked for.
    doubted: AtomicBool,
    /// There is to be no answer.
    hung_up: AtomicBool,
    /// Whether a write is waiting for the client.
    pressure: Backpressure,
    /// For how long a write may wait, in milliseconds; 0: for ever.
    patience: AtomicU64,
    /// Bytes written; read by the driver to see whether anything moves.
    written: AtomicU64,
    has_queue: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tap: Tap,
    queue: Vec<u8>,
    exchange: u64,
    /// How many more 1xx answers the exchange may pass on; none while no head is awaited.
    interim: Option<usize>,
    /// How many of the exchange were dropped.
    dropped: usize,
    waker: Option<Waker>,
    next: Option<HandOver>,
    read_some: bool,
}

/// What a connection, or a stream, is after a 101 or a 200 to CONNECT.
#[derive(Debug)]
pub(super) enum HandOver {
    /// Bytes both ways.
    Tunnel(Tunnel),
    /// TLS that ends here, with requests inside.
    Session(Session),
}

/// No exchange; everything is written.
const QUIET: u8 = 0;
/// hyper has handed a request to the service.
const ASKED: u8 = 1;
/// hyper has taken the answer whole; some of it may still have to be written.
const ANSWERED: u8 = 2;

/// What became of a 1xx answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interim {
    /// On its way.
    Queued,
    /// Nobody waits for it any more.
    Late,
    /// There were too many.
    TooMany,
}

impl Wire {
    pub(super) fn new(max_head: usize) -> Arc<Self> {
        Arc::new(Self::with(max_head, false))
    }

    /// For one stream of HTTP/2, whose client may leave an answer alone for `patience`.
    pub(super) fn of_stream(patience: Duration) -> Arc<Self> {
        let wire = Self::with(0, true);
        wire.set_patience(patience);
        Arc::new(wire)
    }

    fn with(max_head: usize, is_stream: bool) -> Self {
        Self {
            is_stream,
            phase: AtomicU8::new(QUIET),
            body_open: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            body_left: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            until_close: AtomicBool::new(false),
            unasked: AtomicBool::new(false),
            respell: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            pressure: Backpressure::default(),
            patience: AtomicU64::new(0),
            written: AtomicU64::new(0),
            has_queue: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                tap: Tap::new(max_head),
                queue: Vec::new(),
                exchange: 0,
                interim: None,
                dropped: 0,
                waker: None,
                next: None,
                read_some: false,
            }),
        }
    }

    /// The request gets no answer: its connection, or its stream, ends without one.
    pub(super) fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Relaxed);
    }

    /// The answer, unless there is to be none.
    ///
    /// # Errors
    /// For hyper, which then ends the connection or resets the stream.
    pub(super) fn passes<T>(&self, answer: T) -> Result<T, HungUp> {
        if self.hung_up.load(Ordering::Relaxed) { Err(HungUp) } else { Ok(answer) }
    }

    /// Whether this is one stream of several.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// A stream's client has room for more of the answer.
    pub(super) fn stream_moves(&self) {
        if self.is_stream {
            self.moved(1);
        }
    }

    /// A stream's client is to take a piece of the answer.
    pub(super) fn stream_waits(&self) {
        if self.is_stream {
            self.pressure.stall();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// hyper has read a head. Says what was seen of it. `body` is the length of its body, `None` when chunked.
    pub(super) fn begin(&self, body: Option<u64>, version: Version) -> Head {
        self.respell.store(version < Version::HTTP_11, Ordering::Relaxed);
        self.phase.store(ASKED, Ordering::Relaxed);
        self.body_open.store(body != Some(0), Ordering::Relaxed);
        self.unasked.store(false, Ordering::Relaxed);
        let mut inner = self.lock();
        inner.exchange = inner.exchange.wrapping_add(1);
        inner.read_some = false;
        let seen = inner.tap.take(body);
        self.malformed.store(inner.tap.is_malformed(), Ordering::Relaxed);
        seen
    }

    /// From now on up to `most` 1xx answers are passed on. Returns what [`Wire::interim`] has to be called with.
    pub(super) fn await_head(&self, most: usize, waker: &Waker) -> u64 {
        let mut inner = self.lock();
        inner.interim = Some(most);
        inner.dropped = 0;
        self.flooded.store(false, Ordering::Relaxed);
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        inner.exchange
    }

    /// The final head has come, or none will.
    pub(super) fn head_came(&self) {
        self.lock().interim = None;
    }

    /// Passes a 1xx answer on. Called from the upstream's task.
    pub(super) fn interim(&self, exchange: u64, status: StatusCode, headers: &HeaderMap) -> Interim {
        let waker = {
            let mut inner = self.lock();
            if inner.exchange != exchange {
                return Interim::Late;
            }
            match inner.interim {
                None => return Interim::Late,
                Some(left) => match left.checked_sub(1) {
                    None => return self.dropped(inner),
                    Some(left) => inner.interim = Some(left),
                },
            }
            if inner.queue.len() > MAX_QUEUE {
                return self.dropped(inner);
            }
            write_interim(&mut inner.queue, status, headers);
            self.has_queue.store(true, Ordering::Release);
            inner.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Interim::Queued
    }

    /// Counts a 1xx answer that is for nobody. Called from the upstream's task.
    pub(super) fn drop_interim(&self, exchange: u64) {
        let inner = self.lock();
        if inner.exchange == exchange && inner.interim.is_some() {
            self.dropped(inner);
        }
    }

    fn dropped(&self, mut inner: MutexGuard<'_, Inner>) -> Interim {
        inner.dropped = inner.dropped.saturating_add(1);
        if inner.dropped > MAX_DROPPED && !self.flooded.swap(true, Ordering::Relaxed) {
            let waker = inner.waker.clone();
            drop(inner);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Interim::TooMany
    }

    /// Whether the upstream sends 1xx answers without end. The task of the connection is woken when it turns out so.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// hyper has taken the answer whole, or given up on it.
    pub(super) fn answered(&self) {
        self.phase.store(ANSWERED, Ordering::Relaxed);
    }

    /// The answer broke off after its head.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// The end of the answer's body is the end of the connection (HTTP/1.0).
    pub(super) fn set_until_close(&self) {
        self.until_close.store(true, Ordering::Relaxed);
    }

    /// Whether a client could take a broken answer for a whole one if the connection ended in order.
    pub(super) fn must_reset(&self) -> bool {
        self.broken.load(Ordering::Relaxed) && self.until_close.load(Ordering::Relaxed)
    }

    /// Whether the client waits for a 100 that has not come.
    pub(super) fn set_unasked(&self, unasked: bool) {
        self.unasked.store(unasked, Ordering::Relaxed);
    }

    pub(super) fn is_unasked(&self) -> bool {
        self.unasked.load(Ordering::Relaxed)
    }

    /// Whether a head that hyper could not read has had its answer.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many requests there were.
    pub(super) fn exchanges(&self) -> u64 {
        self.lock().exchange
    }

    /// The request body is no longer read; `ended`: it was read whole.
    pub(super) fn body_done(&self, ended: bool) {
        if !ended {
            self.body_left.store(true, Ordering::Relaxed);
        }
        self.body_open.store(false, Ordering::Relaxed);
    }

    /// Whether the request body is not chunked as its head says.
    pub(super) fn body_is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Whether the request body has been read whole, so that the next request can be found behind it.
    pub(super) fn body_is_read(&self) -> bool {
        !self.body_open.load(Ordering::Relaxed) && !self.body_left.load(Ordering::Relaxed)
    }

    /// No exchange, nothing to write, nothing to read but the next head.
    pub(super) fn is_quiet(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == QUIET && self.body_is_read()
    }

    /// Whether some bytes of a head have come.
    pub(super) fn has_partial_head(&self) -> bool {
        self.lock().read_some
    }

    /// Whether the request was read whole, and its answer is still to come or to end.
    pub(super) fn awaits_answer(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == ASKED && self.body_is_read()
    }

    /// When the connection is next polled, it is looked whether the client is still there.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_patience(&self, patience: Duration) {
        self.patience.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long a write may wait.
    pub(super) fn patience(&self) -> Option<Duration> {
        let millis = self.patience.load(Ordering::Relaxed);
        (millis != 0).then(|| Duration::from_millis(millis))
    }

    /// Bytes written so far, if a write is waiting for the client.
    pub(super) fn stalled_at(&self) -> Option<u64> {
        self.pressure.is_stalled().then(|| self.written.load(Ordering::Relaxed))
    }

    /// So much of the answer's body is going to be written.
    pub(super) fn takes_body(&self, bytes: usize) {
        self.pressure.take(bytes);
    }

    /// Whether the answer's body has to wait for the client; then its task is woken when it may go on.
    pub(super) fn holds_body(&self, cx: &Context<'_>) -> bool {
        self.pressure.holds(cx)
    }

    /// After this answer the connection is something else.
    pub(super) fn hand_over(&self, to: HandOver) {
        self.lock().next = Some(to);
    }

    /// What the connection has become.
    pub(super) fn take_over(&self) -> Option<HandOver> {
        self.lock().next.take()
    }
}

fn write_interim(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Informational").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Makes the answer to a head that hyper could not read, by the status that hyper chose and what was seen.
pub(super) type Refuse = dyn Fn(StatusCode, Partial) -> Vec<u8> + Send + Sync;

/// A client's socket as hyper sees it.
pub(super) struct ClientIo {
    stream: Transport,
    pieces: Pieces,
    /// Bytes that were read before hyper was there.
    early: Bytes,
    wire: Arc<Wire>,
    refuse: Arc<Refuse>,
    /// hyper has something left to write, and nothing may come between.
    mid: bool,
}

impl ClientIo {
    pub(super) fn new(stream: Transport, early: Bytes, wire: Arc<Wire>, refuse: Arc<Refuse>) -> Self {
        Self { stream, pieces: Pieces::of(FROM_CLIENT), early, wire, refuse, mid: false }
    }

    /// The connection, and what was never given to hyper.
    pub(super) fn into_parts(self) -> (Transport, Bytes) {
        (self.stream, self.early)
    }

    /// Writes what is queued before anything else.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.wire.has_queue.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let mut inner = self.wire.lock();
        if self.mid {
            // The answer before this one is not written yet. When the final head is behind it already, it is too late.
            if inner.interim.is_none() {
                inner.queue.clear();
            }
            return Poll::Ready(Ok(()));
        }
        while !inner.queue.is_empty() {
            let written = match Pin::new(&mut self.stream).poll_write(cx, &inner.queue) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.wire.pressure.stall();
                    return Poll::Pending;
                }
            };
            inner.queue.drain(..written);
            self.wire.moved(written);
        }
        self.wire.has_queue.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    /// Whether hyper is writing an answer of its own. Then ours is queued in its place.
    fn replaces(&self, bufs: &[IoSlice<'_>]) -> Option<usize> {
        if self.wire.phase.load(Ordering::Relaxed) != QUIET {
            return None;
        }
        let first = bufs.iter().find(|buf| !buf.is_empty())?;
        // `HTTP/1.1 431 …`
        let status = first.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok())?;
        let mut inner = self.wire.lock();
        let partial = inner.tap.partial();
        let answer = (self.refuse)(status, partial);
        inner.queue.extend_from_slice(&answer);
        self.wire.has_queue.store(true, Ordering::Release);
        self.wire.answered();
        self.wire.refused.store(true, Ordering::Relaxed);
        Some(bufs.iter().map(|buf| buf.len()).fold(0, usize::saturating_add))
    }

    /// Queues our version in place of the client's, and says how many bytes of hyper's that stands for.
    fn respells(&self, bufs: &[IoSlice<'_>]) -> Option<usize> {
        const THEIRS: &[u8] = b"HTTP/1.0";
        if self.mid || !self.wire.respell.load(Ordering::Relaxed) {
            return None;
        }
        let first = bufs.iter().find(|buf| !buf.is_empty())?;
        self.wire.respell.store(false, Ordering::Relaxed);
        first.starts_with(THEIRS).then(|| {
            self.wire.lock().queue.extend_from_slice(b"HTTP/1.1");
            self.wire.has_queue.store(true, Ordering::Release);
            THEIRS.len()
        })
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(written)) => self.wire.moved(*written),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.wire.pressure.stall(),
        }
        result
    }
}

impl Wire {
    fn moved(&self, written: usize) {
        self.pressure.moved();
        self.written.fetch_add(u64::try_from(written).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.early.is_empty() {
            ready!(this.pieces.poll_read(&mut this.stream, cx, buf))?;
        } else {
            let take = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.get(..take).unwrap_or_default());
            this.early.advance(take);
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            let mut inner = this.wire.lock();
            inner.read_some = true;
            inner.tap.feed(new);
            if inner.tap.is_malformed() {
                this.wire.malformed.store(true, Ordering::Relaxed);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, MALFORMED)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(replaced) = this.replaces(bufs) {
            return Poll::Ready(Ok(replaced));
        }
        if let Some(respelt) = this.respells(bufs) {
            return Poll::Ready(Ok(respelt));
        }
        match this.poll_queue(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        this.mid = true;
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.wire.doubted.swap(false, Ordering::Relaxed) && this.wire.awaits_answer() && this.stream.has_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // What was queued while hyper was writing is thrown away here if its final head was among what hyper wrote.
        if this.mid && this.poll_queue(cx).is_ready() {
            this.mid = false;
        }
        match this.poll_queue(cx) {
            // hyper flushes its transport only when it has nothing left to write.
            Poll::Ready(Ok(())) => {
                let _ = this.wire.phase.compare_exchange(ANSWERED, QUIET, Ordering::Relaxed, Ordering::Relaxed);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }

    /// Only writes what is left: how the connection ends is the driver's to say.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
