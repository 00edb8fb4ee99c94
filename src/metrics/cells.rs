//! The numbers of one host, indexed by closed enums, so that counting needs no label look-up.
//!
//! Times are histograms of the crate `prometheus`. Its counters carry their name and help text each; with seventy series
//! a host that would be far more text than numbers, so the counts are plain atomics and meet the crate's model at scrape.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Number;
use prometheus::{Histogram, HistogramOpts};

use super::names::{self, Family};
use crate::core::cooldown::{EndCause, ProbeResult};
use crate::core::decision::{Reason, Source};
use crate::proxy::error::ErrorKind;

/// Bounds of request and head times, in seconds.
const REQUEST_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Bounds of the time we add.
const ADDED_BUCKETS: &[f64] = &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

/// Bounds of waits, from a second to a month.
pub(super) const WAIT_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 86_400.0, 604_800.0, 2_592_000.0];

/// Status classes; the first five are always shown.
pub(super) const CLASSES: [&str; 7] = ["2xx", "4xx", "5xx", "429", "503", "3xx", "1xx"];

/// The place of a status in [`CLASSES`].
pub(super) const fn class(status: u16) -> usize {
    match status {
        200..=299 => 0,
        429 => 3,
        400..=499 => 1,
        503 => 4,
        300..=399 => 5,
        100..=199 => 6,
        // Statuses from 600 on exist in the wild; they are treated as 5xx (RFC 9110 §15).
        _ => 2,
    }
}

/// Counters of a closed set.
#[derive(Debug)]
pub(super) struct Tally<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Tally<N> {
    pub(super) fn add(&self, at: usize, by: u64) {
        if let Some(cell) = self.0.get(at) {
            cell.fetch_add(by, Ordering::Relaxed);
        }
    }

    pub(super) fn values(&self) -> [u64; N] {
        std::array::from_fn(|at| self.0.get(at).map_or(0, |cell| cell.load(Ordering::Relaxed)))
    }

    pub(super) fn sum(&self) -> u64 {
        self.values().iter().fold(0, |sum: u64, value| sum.saturating_add(*value))
    }
}

/// A histogram of times. There always is one: what the crate refuses are odd names and bounds, and ours are constant.
#[derive(Debug)]
pub(super) struct Times(pub(super) Option<Histogram>);

impl Times {
    pub(super) fn new(family: &Family, bounds: &[f64], values: &[&str]) -> Self {
        let labels = family.labels.iter().zip(values).map(|(name, value)| ((*name).into(), (*value).into()));
        let options = family.options().const_labels(labels.collect());
        Self(Histogram::with_opts(HistogramOpts::from(options).buckets(bounds.to_vec())).ok())
    }

    pub(super) fn observe(&self, value: Duration) {
        if let Some(histogram) = &self.0 {
            histogram.observe(value.as_secs_f64());
        }
    }
}

/// No clock offset is known.
const UNKNOWN: i64 = i64::MIN;

/// The number of actions, see `Action`.
pub(super) const ACTIONS: usize = 5;

/// All numbers of one value of the label `host`.
#[derive(Debug)]
pub(super) struct Cells {
    pub(super) label: Box<str>,
    /// Shared by hosts without a place of their own.
    pub(super) is_other: bool,
    /// No longer exported; who still holds it must look for another.
    pub(super) dropped: AtomicBool,
    pub(super) actions: Tally<ACTIONS>,
    pub(super) short_circuited: Tally<{ Reason::ALL.len() }>,
    pub(super) would_have: Tally<{ Reason::ALL.len() }>,
    pub(super) in_flight: AtomicI64,
    pub(super) request: Times,
    pub(super) added: Times,
    pub(super) head: Times,
    pub(super) responses: Tally<{ CLASSES.len() }>,
    pub(super) errors: Tally<{ ErrorKind::ALL.len() }>,
    /// One for each source, and one for none.
    pub(super) signals: Tally<{ Source::ALL.len() + 1 }>,
    pub(super) started: Tally<{ Reason::ALL.len() }>,
    pub(super) extended: Tally<1>,
    pub(super) ended: Tally<{ EndCause::ALL.len() }>,
    pub(super) clamped: Tally<1>,
    pub(super) probes: Tally<{ ProbeResult::ALL.len() }>,
    pub(super) tunnels_open: AtomicI64,
    pub(super) tunnels: Tally<1>,
    pub(super) tunnel_bytes: Tally<2>,
    clock_offset: AtomicI64,
    last_success: AtomicU64,
}

impl Cells {
    pub(super) fn new(label: &str, is_other: bool) -> Self {
        Self {
            label: label.into(),
            is_other,
            dropped: AtomicBool::new(false),
            actions: Tally::default(),
            short_circuited: Tally::default(),
            would_have: Tally::default(),
            in_flight: AtomicI64::new(0),
            request: Times::new(&names::REQUEST_SECONDS, REQUEST_BUCKETS, &[label]),
            added: Times::new(&names::ADDED_SECONDS, ADDED_BUCKETS, &[label]),
            head: Times::new(&names::HEAD_SECONDS, REQUEST_BUCKETS, &[label]),
            responses: Tally::default(),
            errors: Tally::default(),
            signals: Tally::default(),
            started: Tally::default(),
            extended: Tally::default(),
            ended: Tally::default(),
            clamped: Tally::default(),
            probes: Tally::default(),
            tunnels_open: AtomicI64::new(0),
            tunnels: Tally::default(),
            tunnel_bytes: Tally::default(),
            clock_offset: AtomicI64::new(UNKNOWN),
            last_success: AtomicU64::new(0),
        }
    }

    /// A number that changes with every use.
    pub(super) fn activity(&self) -> u64 {
        [
            self.actions.sum(),
            self.started.sum(),
            self.extended.sum(),
            self.ended.sum(),
            self.tunnels.sum(),
            self.responses.sum(),
            self.errors.sum(),
        ]
        .iter()
        .fold(0, |sum: u64, part| sum.wrapping_add(*part))
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) != 0 || self.tunnels_open.load(Ordering::Relaxed) != 0
    }

    pub(super) fn set_clock_offset(&self, millis: i64) {
        if self.clock_offset.load(Ordering::Relaxed) != millis {
            self.clock_offset.store(millis, Ordering::Relaxed);
        }
    }

    /// Seconds.
    pub(super) fn clock_offset(&self) -> Option<f64> {
        let millis = self.clock_offset.load(Ordering::Relaxed);
        (millis != UNKNOWN && !self.is_other).then(|| millis.into_f64() / 1000.0)
    }

    /// A second is precise enough and saves a write on most requests.
    pub(super) fn set_last_success(&self, secs: u64) {
        if self.last_success.load(Ordering::Relaxed) != secs {
            self.last_success.store(secs, Ordering::Relaxed);
        }
    }

    pub(super) fn last_success(&self) -> Option<u64> {
        Some(self.last_success.load(Ordering::Relaxed)).filter(|secs| *secs != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_429_and_503_apart() {
        let class = |status| CLASSES[super::class(status)];
        for (status, expected) in [
            (101, "1xx"),
            (204, "2xx"),
            (304, "3xx"),
            (404, "4xx"),
            (429, "429"),
            (500, "5xx"),
            (503, "503"),
            (504, "5xx"),
            (999, "5xx"),
        ] {
            assert_eq!(class(status), expected, "{status}");
        }
    }

    #[test]
    fn a_hostile_wait_wraps_nothing() {
        let times = Times::new(&names::HINT_SECONDS, WAIT_BUCKETS, &[]);
        for _ in 0..100 {
            times.observe(Duration::MAX);
        }
        let histogram = times.0.unwrap();
        let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
        assert_eq!(count, 100);
        assert!(sum > 1e21 && sum.is_finite());
    }
}
