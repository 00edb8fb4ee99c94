//! The handles of one host, held by its keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};

use super::cells::{Cells, class};
use super::{Bound, Common, words};
use crate::core::classify::Reading;
use crate::core::cooldown::{EndCause, Event, ProbeResult};
use crate::core::decision::{Reason, Source};
use crate::core::signal::{Cause, Field};
use crate::core::time::{Instant, UnixTime};
use crate::proxy::error::ErrorKind;
use crate::table::clock;

words! {
    /// What holdoff did with a request.
    Action {
        /// The upstream answered, or began to.
        Forwarded = "forwarded",
        /// Answered locally, because the key cools.
        ShortCircuited = "short_circuited",
        /// Answered locally, because the request may not pass (bad, denied, too large).
        Refused = "refused",
        /// No answer of the upstream could be had.
        Failed = "failed",
        /// The client left before there was an answer.
        Cancelled = "cancelled",
    }
}

words! {
    /// Which way bytes go.
    Direction {
        /// From the client to the upstream.
        ToUpstream = "to_upstream",
        /// From the upstream to the client.
        ToClient = "to_client",
    }
}

/// The handles of one host. Cheap to use: a load and an addition.
#[derive(Debug)]
pub struct HostMetrics {
    label: Box<str>,
    cells: ArcSwap<Cells>,
    /// The generation of places when this host was sent to `_other`.
    asked: AtomicU64,
    common: Arc<Common>,
}

impl HostMetrics {
    pub(super) fn new(label: String, common: Arc<Common>, now: Instant) -> Self {
        let asked = common.places.generation();
        let cells = common.places.find(&label, now);
        if cells.is_other {
            common.places.count_overflow();
        }
        Self { label: label.into_boxed_str(), cells: ArcSwap::new(cells), asked: AtomicU64::new(asked), common }
    }

    /// A request was answered, or will not be.
    pub fn action(&self, action: Action) {
        self.cells().actions.add(action.at(), 1);
    }

    /// A request was answered locally. Counts the action too.
    pub fn short_circuit(&self, reason: Reason) {
        let cells = self.cells();
        cells.actions.add(Action::ShortCircuited.at(), 1);
        cells.short_circuited.add(reason_at(reason), 1);
    }

    /// Mode observe forwarded what enforcing would have answered.
    pub fn would_have(&self, reason: Reason) {
        self.cells().would_have.add(reason_at(reason), 1);
    }

    /// A request is being worked on until the guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        let cells = Guard::into_inner(self.cells());
        cells.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(cells)
    }

    /// The time from a request head to the end of its answer.
    pub fn request_seconds(&self, took: Duration) {
        self.cells().request.observe(took);
    }

    /// The time we added to a forwarded request.
    pub fn added_seconds(&self, took: Duration) {
        self.cells().added.observe(took);
    }

    /// The time from sending a request to the response head.
    pub fn head_seconds(&self, took: Duration) {
        self.cells().head.observe(took);
    }

    /// A final response head of the upstream.
    pub fn response(&self, status: u16) {
        self.cells().responses.add(class(status), 1);
    }

    /// A request failed.
    pub fn upstream_error(&self, kind: ErrorKind) {
        self.cells().errors.add(place(ErrorKind::ALL, kind), 1);
    }

    /// A bound was reached in an exchange with the host.
    pub fn bound_reached(&self, bound: Bound) {
        self.common.bound_reached(bound);
    }

    /// What a response head said about waiting.
    pub fn reading(&self, reading: &Reading) {
        let cells = self.cells();
        if let Some(offset) = reading.clock_offset {
            cells.set_clock_offset(offset);
        }
        if reading.outcome.signal().is_some() {
            let source = reading.hint_seen.map_or(Source::ALL.len(), |hint| place(&Source::ALL, hint.source));
            cells.signals.add(source, 1);
        }
        if let Some(hint) = reading.hint_seen {
            self.common.hints.observe(hint.wait);
        }
        for (field, cause) in reading.errors() {
            self.signal_error(field, cause);
        }
    }

    /// A body rule matched. The wait is that of the rule, not one that the host named.
    pub fn body_matched(&self) {
        self.cells().signals.add(place(&Source::ALL, Source::BodyRule), 1);
    }

    /// Something about waiting was odd or could not be read.
    pub fn signal_error(&self, field: Field, cause: Cause) {
        let at = place(&Field::ALL, field).saturating_mul(Cause::ALL.len()).saturating_add(place(&Cause::ALL, cause));
        if let Some(count) = self.common.signal_errors.get(at) {
            count.inc();
        }
    }

    /// The upstream answered well at `wall`.
    pub fn success(&self, wall: UnixTime) {
        self.cells().set_last_success(wall.as_secs());
    }

    /// A tunnel was opened; it is open until the guard is dropped.
    pub fn tunnel(&self) -> TunnelGuard {
        let cells = Guard::into_inner(self.cells());
        cells.tunnels.add(0, 1);
        cells.tunnels_open.fetch_add(1, Ordering::Relaxed);
        TunnelGuard(cells)
    }

    /// Something happened to a key of the host.
    pub fn event(&self, event: &Event) {
        let cells = self.cells();
        match event {
            Event::Started { reason, length, clamped, .. } => {
                cells.started.add(reason_at(*reason), 1);
                cells.clamped.add(0, u64::from(*clamped));
                self.common.lengths.observe(*length);
            }
            Event::Extended { clamped, .. } => {
                cells.extended.add(0, 1);
                cells.clamped.add(0, u64::from(*clamped));
            }
            Event::ProbeEnded(result) => cells.probes.add(place(&ProbeResult::ALL, *result), 1),
            Event::Ended { cause, .. } => cells.ended.add(place(&EndCause::ALL, *cause), 1),
            Event::ProbeStarted { .. } => {}
        }
    }

    /// The value of the label `host` that counts now.
    pub(super) fn label(&self) -> Arc<Cells> {
        Guard::into_inner(self.cells())
    }

    /// The cells that count now.
    fn cells(&self) -> Guard<Arc<Cells>> {
        let cells = self.cells.load();
        let stale = if cells.is_other {
            self.asked.load(Ordering::Relaxed) != self.common.places.generation()
        } else {
            cells.dropped.load(Ordering::Acquire)
        };
        if stale { self.ask_again(clock::now()) } else { cells }
    }

    #[cold]
    pub(super) fn ask_again(&self, now: Instant) -> Guard<Arc<Cells>> {
        // Read before asking: a place that is freed meanwhile is then seen next time.
        self.asked.store(self.common.places.generation(), Ordering::Relaxed);
        let was_other = self.cells.load().is_other;
        let cells = self.common.places.find(&self.label, now);
        if cells.is_other && !was_other {
            self.common.places.count_overflow();
        }
        self.cells.store(cells);
        self.cells.load()
    }
}

fn reason_at(reason: Reason) -> usize {
    place(&Reason::ALL, reason)
}

/// The place of a word in its closed set.
fn place<T: PartialEq + Copy>(all: &[T], word: T) -> usize {
    all.iter().position(|other| *other == word).unwrap_or(usize::MAX)
}

/// A request being worked on.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct InFlight(Arc<Cells>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open tunnel.
#[derive(Debug)]
#[must_use = "dropping it ends the tunnel"]
pub struct TunnelGuard(Arc<Cells>);

impl TunnelGuard {
    /// Bytes went through.
    pub fn bytes(&self, direction: Direction, count: u64) {
        self.0.tunnel_bytes.add(direction.at(), count);
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.0.tunnels_open.fetch_sub(1, Ordering::Relaxed);
    }
}
