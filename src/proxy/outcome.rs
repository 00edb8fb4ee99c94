//! What a response means for its key, told to the table: at its head, or, for gRPC, when its trailers come.
//!
//! A gRPC call that goes well so far keeps its permit inside the response body ([`Pending`]). Only the success waits, and
//! at most the probe lease (SPEC 2.12): a stream that lives for hours must not keep its host from being clear. A signal
//! behind such a stream counts all the same.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Sleep;

use super::body::EXCERPT;
use super::error::ProxyError;
use super::keys::{Keys, Line, Told};
use super::shared::{Host, Shared};
use super::target;
use crate::core::classify::Reading;
use crate::core::key::Key;
use crate::core::signal::{Outcome, grpc, printable};
use crate::core::time::{Instant, UnixTime, ceil_secs};
use crate::table::{Entry, Permit, clock};

/// Counts what a response says, and tells the keys of its request. `entry` is the host's. Gives the error line, if there
/// is one.
pub(super) fn complete(
    shared: &Shared,
    entry: &Entry<Host>,
    keys: &mut Keys,
    reading: &Reading,
    now: Instant,
    wall: UnixTime,
) -> Option<Line> {
    let metrics = &entry.attached().metrics;
    metrics.reading(reading);
    if reading.outcome.is_success() {
        metrics.success(wall);
    }
    let line = reading.outcome.is_trouble().then(|| line(entry.key(), reading));
    let told = Told {
        outcome: &reading.outcome,
        status: Some(reading.status.as_u16()),
        line: line.as_deref(),
        scope: reading.scope,
        now,
    };
    keys.tell(shared, &told)
}

/// Completes a permit of one key with what a response says. Returns the number of the error line, 0 when there is none.
pub(super) fn finish(permit: Permit<Host>, reading: &Reading, key: &Key, now: Instant) -> u64 {
    let line = reading.outcome.is_trouble().then(|| line(key, reading));
    let number = permit.complete(&reading.outcome, Some(reading.status.as_u16()), line.as_deref(), now, clock::draw());
    if line.is_some() { number } else { 0 }
}

/// Tells the keys of a request of an error that means `outcome`. What says nothing about the host is as if nothing had
/// been sent. `key` is the host's.
pub(super) fn fail(shared: &Shared, keys: &mut Keys, outcome: &Outcome, error: &ProxyError, key: &Key, now: Instant) {
    let line = failure_line(outcome, error, key);
    let _ = keys.tell(shared, &Told { outcome, status: None, line: line.as_deref(), scope: None, now });
}

/// The error line of a failure.
pub(super) fn failure_line(outcome: &Outcome, error: &ProxyError, key: &Key) -> Option<String> {
    let line = || format!("{} from {}: {}", error.kind().as_str(), target::authority(key), error.detail());
    outcome.is_trouble().then(line)
}

/// Adds the message of a gRPC call to its error line.
pub(super) fn keep_message(line: Option<&Line>, trailers: &HeaderMap) {
    let Some((entry, number)) = line else { return };
    let message = grpc::message(trailers, EXCERPT);
    if !message.is_empty() {
        entry.add_error_body(*number, &printable(message.trim_ascii_end(), EXCERPT));
    }
}

/// `HTTP 429 from peer.example (retry_after=120s)` (SPEC 3.10), or `gRPC 8 from …`
fn line(key: &Key, reading: &Reading) -> String {
    let host = target::authority(key);
    let mut line = match reading.grpc_code() {
        Some(code) => format!("gRPC {} from {host}", code.number()),
        None => format!("HTTP {} from {host}", reading.status.as_u16()),
    };
    if let Some(hint) = reading.hint_seen {
        line.push_str(&format!(" (retry_after={}s)", ceil_secs(hint.wait)));
    }
    line
}

/// The permit of a gRPC call whose status is still to come.
pub(super) struct Pending {
    shared: Arc<Shared>,
    entry: Arc<Entry<Host>>,
    keys: Keys,
    /// Taken when the call is decided.
    reading: Option<Reading>,
    head_at: Instant,
    /// Taken when it is over: the success has been counted.
    lease: Option<Pin<Box<Sleep>>>,
    keeps_message: bool,
}

impl Pending {
    /// For a reading that awaits trailers, of a response whose head came at `head_at`. `keeps_message`: whether
    /// `grpc-message` may be shown to people.
    pub(super) fn new(
        shared: &Arc<Shared>,
        entry: &Arc<Entry<Host>>,
        keys: Keys,
        reading: Reading,
        head_at: Instant,
        keeps_message: bool,
    ) -> Self {
        let lease = keys.settings(entry).policy.cooldown.probe_lease;
        Self {
            shared: Arc::clone(shared),
            entry: Arc::clone(entry),
            keys,
            reading: Some(reading),
            head_at,
            lease: Some(Box::pin(tokio::time::sleep(lease))),
            keeps_message,
        }
    }

    /// Looks at what the body gave. `ended`: nothing comes behind it.
    pub(super) fn see(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, ProxyError>>>,
        ended: bool,
        cx: &mut Context<'_>,
    ) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => self.decide(Some(trailers)),
                None if ended => self.decide(None),
                // A body that always has more is never waited for.
                None => self.look_at_lease(cx),
            },
            Poll::Ready(Some(Err(error))) => self.broke(error),
            Poll::Ready(None) => self.decide(None),
            Poll::Pending => self.look_at_lease(cx),
        }
    }

    fn look_at_lease(&mut self, cx: &mut Context<'_>) {
        if self.lease.as_mut().is_some_and(|lease| lease.as_mut().poll(cx).is_ready()) {
            self.succeed(clock::now());
        }
    }

    /// The trailers have come, or the end without any.
    pub(super) fn decide(&mut self, trailers: Option<&HeaderMap>) {
        let Some(reading) = self.reading.take() else { return };
        let now = clock::now();
        let rules = &self.keys.settings(&self.entry).policy.signals;
        let reading = reading.with_trailers(rules, trailers, now.saturating_since(self.head_at));
        // A success is counted once.
        if self.lease.is_none() && !reading.outcome.is_trouble() {
            self.keys.cancel();
        }
        let line = complete(&self.shared, &self.entry, &mut self.keys, &reading, now, clock::wall());
        if let Some(trailers) = trailers.filter(|_| self.keeps_message) {
            keep_message(line.as_ref(), trailers);
        }
    }

    fn broke(&mut self, error: &ProxyError) {
        self.reading = None;
        let means = error.kind().outcome();
        fail(&self.shared, &mut self.keys, &means, error, self.entry.key(), clock::now());
    }

    /// The lease is over.
    fn succeed(&mut self, now: Instant) {
        self.lease = None;
        self.entry.attached().metrics.success(clock::wall());
        if let Some(reading) = &self.reading {
            self.keys.succeed_early(reading.status.as_u16(), now);
        }
    }
}

impl Drop for Pending {
    /// The client has left, which says nothing; but a body that is not asked for does not notice the end of its lease.
    fn drop(&mut self) {
        let lease = self.keys.settings(&self.entry).policy.cooldown.probe_lease;
        if self.lease.is_some() && self.keys.feeds() {
            let now = clock::now();
            if now.saturating_since(self.head_at) >= lease {
                self.succeed(now);
            }
        }
    }
}
