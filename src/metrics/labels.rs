//! The bound of the label `host`.
//!
//! Hosts are chosen by clients, so their number has no end, and each value of a label costs memory here and in Prometheus.
//! So there are `max_host_labels` places: configured hosts have theirs from the start, others take one when they first
//! come. Who finds none counts under `_other`. A place nobody used for `idle_series` is freed and its series end; a host
//! that comes back takes a new place, and its series start anew, which Prometheus reads as a restart. Handles outlive
//! that: a holder sees that its cells were dropped, or that a place has become free since it was sent to `_other`, and
//! asks again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cells::{ACTIONS, Cells, Tally};
use crate::core::key::Key;
use crate::core::time::Instant;

/// The value that hosts without a place share. No host name has an underscore at its start and no dot and passes for it,
/// because a configured or asked host of that name is refused a place.
pub(super) const OTHER: &str = "_other";

/// When all places are taken, idle ones are looked for at most that often.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// The value of the label `host` of a key: the host, with the port unless it is the default one of the scheme. So http
/// and https of one host share it, and whatever is narrower than the host. A group has its name: `group:uploads`.
pub(super) fn label(key: &Key) -> String {
    if key.is_group() {
        return key.whole().to_string();
    }
    let host = if key.host().contains(':') { format!("[{}]", key.host()) } else { key.host().to_owned() };
    if key.port() == key.scheme().default_port() { host } else { format!("{host}:{}", key.port()) }
}

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    inner: Mutex<Inner>,
    max: usize,
    idle: Duration,
    other: Arc<Cells>,
    /// Raised when a place becomes free.
    generation: AtomicU64,
    overflow: AtomicU64,
    /// Actions of dropped series, for totals.
    retired: Tally<ACTIONS>,
}

#[derive(Debug)]
struct Inner {
    places: BTreeMap<Box<str>, Place>,
    next_sweep: Instant,
}

#[derive(Debug)]
struct Place {
    cells: Arc<Cells>,
    configured: bool,
    /// The activity at the last look, and when it last differed.
    activity: u64,
    used: Instant,
}

impl Places {
    pub(super) fn new(max: usize, idle: Duration, configured: impl Iterator<Item = String>) -> Self {
        let mut places = BTreeMap::new();
        for host in configured {
            if places.len() < max && host != OTHER {
                let place = Place::new(&host, true, Instant::ZERO);
                places.entry(host.into_boxed_str()).or_insert(place);
            }
        }
        Self {
            inner: Mutex::new(Inner { places, next_sweep: Instant::ZERO }),
            max,
            idle,
            other: Arc::new(Cells::new(OTHER, true)),
            generation: AtomicU64::new(0),
            overflow: AtomicU64::new(0),
            retired: Tally::default(),
        }
    }

    /// The cells of a host: its own, or those of `_other`.
    pub(super) fn find(&self, label: &str, now: Instant) -> Arc<Cells> {
        let mut inner = self.lock();
        if let Some(place) = inner.places.get(label) {
            return Arc::clone(&place.cells);
        }
        if inner.places.len() >= self.max && now >= inner.next_sweep {
            inner.next_sweep = now.saturating_add(SWEEP_PAUSE);
            self.drop_idle(&mut inner, &[], now);
        }
        if inner.places.len() >= self.max || label == OTHER {
            return Arc::clone(&self.other);
        }
        let place = Place::new(label, false, now);
        let cells = Arc::clone(&place.cells);
        inner.places.insert(label.into(), place);
        cells
    }

    /// Frees the places nobody used for long; `live` are labels in use that show no activity.
    pub(super) fn sweep(&self, live: &[&str], now: Instant) {
        self.drop_idle(&mut self.lock(), live, now);
    }

    /// What is exported: every place, and `_other` once somebody had to use it.
    pub(super) fn exported(&self) -> Vec<Arc<Cells>> {
        let mut cells: Vec<_> = self.lock().places.values().map(|place| Arc::clone(&place.cells)).collect();
        if self.overflow() > 0 {
            cells.push(Arc::clone(&self.other));
        }
        cells
    }

    /// Actions since the start, those of dropped series included.
    pub(super) fn actions(&self) -> [u64; ACTIONS] {
        let inner = self.lock();
        let mut totals = self.retired.values();
        for cells in inner.places.values().map(|place| &place.cells).chain([&self.other]) {
            for (total, value) in totals.iter_mut().zip(cells.actions.values()) {
                *total = total.saturating_add(value);
            }
        }
        totals
    }

    pub(super) fn count_overflow(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn taken(&self) -> usize {
        self.lock().places.len()
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    fn drop_idle(&self, inner: &mut Inner, live: &[&str], now: Instant) {
        let before = inner.places.len();
        inner.places.retain(|label, place| {
            let activity = place.cells.activity();
            if place.configured || activity != place.activity || place.cells.is_busy() || live.contains(&&**label) {
                place.activity = activity;
                place.used = now;
            }
            let keep = now.saturating_since(place.used) < self.idle;
            if !keep {
                place.cells.dropped.store(true, Ordering::Release);
                for (at, value) in place.cells.actions.values().into_iter().enumerate() {
                    self.retired.add(at, value);
                }
            }
            keep
        });
        if inner.places.len() < before {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn new(label: &str, configured: bool, now: Instant) -> Self {
        Self { cells: Arc::new(Cells::new(label, false)), configured, activity: 0, used: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn places(max: usize, configured: &[&str]) -> Places {
        Places::new(max, HOUR, configured.iter().map(ToString::to_string))
    }

    #[test]
    fn a_label_is_the_host_and_a_port_that_is_not_the_default() {
        for (key, expected) in [
            ("https://peer.example", "peer.example"),
            ("http://peer.example", "peer.example"),
            ("http://peer.example:443", "peer.example:443"),
            ("https://peer.example:8080", "peer.example:8080"),
            ("https://[::1]:9", "[::1]:9"),
            ("http://[::1]", "[::1]"),
        ] {
            assert_eq!(label(&Key::parse(key).unwrap()), expected);
        }
    }

    #[test]
    fn configured_hosts_have_a_place_whoever_comes_first() {
        let places = places(2, &["mine.example"]);
        assert_eq!(&*places.find("a.example", Instant::ZERO).label, "a.example");
        assert_eq!(&*places.find("b.example", Instant::ZERO).label, OTHER);
        assert_eq!(&*places.find("mine.example", Instant::ZERO).label, "mine.example");
    }

    #[test]
    fn a_host_that_calls_itself_other_gets_no_place() {
        let places = places(9, &[OTHER]);
        assert!(places.find(OTHER, Instant::ZERO).is_other);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn an_idle_place_is_freed_and_a_used_or_busy_one_is_not() {
        let places = places(3, &[]);
        let [idle, used, busy] =
            ["idle.example", "used.example", "busy.example"].map(|host| places.find(host, Instant::ZERO));
        busy.in_flight.fetch_add(1, Ordering::Relaxed);
        idle.actions.add(0, 5);
        places.sweep(&[], Instant::from_secs(1));
        used.actions.add(0, 1);
        places.sweep(&[], Instant::from_secs(3600));
        assert!(!idle.dropped.load(Ordering::Relaxed), "59 minutes are not an hour");
        places.sweep(&[], Instant::from_secs(3601));
        let dropped = [&idle, &used, &busy].map(|cells| cells.dropped.load(Ordering::Relaxed));
        assert_eq!(dropped, [true, false, false]);
        assert_eq!(places.actions()[0], 6, "totals keep what was counted");
        assert_eq!(places.generation(), 1);
    }

    #[test]
    fn a_live_key_keeps_its_place() {
        let places = places(1, &[]);
        let cells = places.find("cools.example", Instant::ZERO);
        places.sweep(&["cools.example"], Instant::from_secs(9000));
        assert!(!cells.dropped.load(Ordering::Relaxed));
    }

    #[test]
    fn a_newcomer_frees_idle_places_itself() {
        let places = places(1, &[]);
        let old = places.find("old.example", Instant::ZERO);
        assert_eq!(&*places.find("new.example", Instant::from_secs(7200)).label, "new.example");
        assert!(old.dropped.load(Ordering::Relaxed));
    }
}
