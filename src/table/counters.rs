//! What is counted of a key without its lock.
//!
//! A count that every request raises would make two threads on one hot host wait for each other's cache line. So a key
//! counts in place until raising has collided often enough, and then in stripes, one for each thread. Few keys are that
//! hot, and only they pay the kilobyte.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::core::decision::Purpose;
use crate::core::time::Instant;

const NANOS_A_SECOND: u64 = 1_000_000_000;

/// Collisions after which a key counts in stripes.
const COLLISIONS: u8 = 64;

/// Set in the collisions: something else than a tunnel was asked for.
const REQUESTS_SEEN: u8 = 1 << 7;

const STRIPES: usize = 8;

/// The counts of one key.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Counts,
    stripes: OnceLock<Box<[Stripe; STRIPES]>>,
    /// Successes at the last signal or failure.
    successes_before: AtomicU64,
    tunnels: AtomicU32,
    /// Seconds of the last success, 0 is none: precise enough for people, and saves a write on most requests.
    last_success: AtomicU32,
    /// Seconds of the last admission, for eviction.
    used: AtomicU32,
    last_status: AtomicU16,
    /// Collisions so far, and [`REQUESTS_SEEN`].
    collisions: AtomicU8,
    /// Whether the key is in the table. It stands here because there is room.
    pub(super) tracked: bool,
}

/// What every request may raise.
#[derive(Debug, Default)]
struct Counts {
    successes: AtomicU64,
    short_circuited: AtomicU64,
    would_have: AtomicU64,
}

/// Counts with a pair of cache lines to themselves: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Counts);

type Which = fn(&Counts) -> &AtomicU64;

impl Counters {
    pub(super) fn new(tracked: bool) -> Self {
        Self { tracked, ..Self::default() }
    }

    pub(super) fn count_success(&self, now: Instant) {
        self.raise(|counts| &counts.successes);
        let secs = secs_of(now).max(1);
        if self.last_success.load(Ordering::Relaxed) != secs {
            self.last_success.store(secs, Ordering::Relaxed);
        }
    }

    pub(super) fn count_short_circuit(&self) {
        self.raise(|counts| &counts.short_circuited);
    }

    pub(super) fn count_would_have(&self) {
        self.raise(|counts| &counts.would_have);
    }

    pub(super) fn count_tunnel(&self) {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_status(&self, status: u16) {
        if self.last_status.load(Ordering::Relaxed) != status {
            self.last_status.store(status, Ordering::Relaxed);
        }
    }

    /// A signal or failure ends the row of successes.
    pub(super) fn end_row(&self) {
        self.successes_before.store(self.successes(), Ordering::Relaxed);
    }

    pub(super) fn touch(&self, purpose: Purpose, now: Instant) {
        let secs = secs_of(now);
        if self.used.load(Ordering::Relaxed) != secs {
            self.used.store(secs, Ordering::Relaxed);
        }
        if purpose == Purpose::Request && !self.requests_seen() {
            self.collisions.fetch_or(REQUESTS_SEEN, Ordering::Relaxed);
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn successes(&self) -> u64 {
        self.sum(|counts| &counts.successes)
    }

    pub(super) fn successes_in_row(&self) -> u64 {
        self.successes().saturating_sub(self.successes_before.load(Ordering::Relaxed))
    }

    pub(super) fn short_circuited(&self) -> u64 {
        self.sum(|counts| &counts.short_circuited)
    }

    pub(super) fn would_have(&self) -> u64 {
        self.sum(|counts| &counts.would_have)
    }

    pub(super) fn tunnels(&self) -> u64 {
        self.tunnels.load(Ordering::Relaxed).into()
    }

    pub(super) fn only_tunnels(&self) -> bool {
        !self.requests_seen() && self.tunnels() > 0
    }

    fn requests_seen(&self) -> bool {
        self.collisions.load(Ordering::Relaxed) & REQUESTS_SEEN != 0
    }

    pub(super) fn last_success(&self) -> Option<Instant> {
        match self.last_success.load(Ordering::Relaxed) {
            0 => None,
            secs => Some(Instant::from_secs(secs.into())),
        }
    }

    pub(super) fn last_status(&self) -> Option<u16> {
        match self.last_status.load(Ordering::Relaxed) {
            0 => None,
            status => Some(status),
        }
    }

    fn raise(&self, which: Which) {
        if let Some(stripes) = self.stripes.get() {
            raise_in(stripes, which);
            return;
        }
        let count = which(&self.counts);
        let seen = count.load(Ordering::Relaxed);
        if count.compare_exchange(seen, seen.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
        // Another thread was faster.
        count.fetch_add(1, Ordering::Relaxed);
        self.note_collision();
    }

    fn note_collision(&self) {
        if self.collisions.load(Ordering::Relaxed) & !REQUESTS_SEEN < COLLISIONS {
            self.collisions.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = self.stripes.set(Box::default());
        }
    }

    fn sum(&self, which: Which) -> u64 {
        let stripes = self.stripes.get().into_iter().flat_map(|stripes| stripes.iter());
        stripes.fold(which(&self.counts).load(Ordering::Relaxed), |sum, stripe| {
            sum.saturating_add(which(&stripe.0).load(Ordering::Relaxed))
        })
    }
}

/// Seconds since boot, of which 32 bits hold 136 years.
fn secs_of(now: Instant) -> u32 {
    u32::try_from(now.as_nanos() / NANOS_A_SECOND).unwrap_or(u32::MAX)
}

fn raise_in(stripes: &[Stripe; STRIPES], which: Which) {
    /// Numbers the threads; the numbers only spread them over the stripes.
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
    }
    let at = STRIPE.try_with(|at| *at).unwrap_or_default();
    if let Some(stripe) = stripes.get(at) {
        which(&stripe.0).fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_a_hot_key_begins_to_count_in_stripes() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50_000).for_each(|_| counters.count_success(Instant::ZERO)));
            }
        });
        assert_eq!(counters.successes(), 200_000);
        let _ = counters.stripes.set(Box::default());
        counters.count_success(Instant::ZERO);
        counters.count_short_circuit();
        assert_eq!((counters.successes(), counters.short_circuited(), counters.would_have()), (200_001, 1, 0));
    }

    #[test]
    fn stripes_begin_after_as_many_collisions_whether_or_not_requests_were_seen() {
        for purpose in [Purpose::Tunnel, Purpose::Request] {
            let counters = Counters::default();
            counters.touch(purpose, Instant::ZERO);
            for _ in 0..COLLISIONS {
                assert!(counters.stripes.get().is_none());
                counters.note_collision();
            }
            assert!(counters.stripes.get().is_none());
            counters.note_collision();
            assert!(counters.stripes.get().is_some());
            assert_eq!(counters.requests_seen(), purpose == Purpose::Request);
        }
    }

    #[test]
    fn only_tunnels_are_seen_until_something_else_is_asked_for() {
        let counters = Counters::default();
        counters.touch(Purpose::Tunnel, Instant::from_secs(7));
        assert_eq!((counters.only_tunnels(), counters.tunnels(), counters.used()), (false, 0, 7), "none was opened");
        counters.count_tunnel();
        counters.count_tunnel();
        assert_eq!((counters.only_tunnels(), counters.tunnels()), (true, 2));
        counters.touch(Purpose::Request, Instant::from_secs(9));
        assert_eq!((counters.only_tunnels(), counters.tunnels(), counters.used()), (false, 2, 9));
    }

    #[test]
    fn times_are_kept_to_the_second_and_a_success_at_the_start_of_time_is_one() {
        let counters = Counters::default();
        assert_eq!((counters.last_success(), counters.last_status()), (None, None));
        counters.count_success(Instant::ZERO);
        assert_eq!(counters.last_success(), Some(Instant::from_secs(1)));
        counters.count_success(Instant::from_nanos(5_999_999_999));
        counters.note_status(204);
        assert_eq!((counters.last_success(), counters.last_status()), (Some(Instant::from_secs(5)), Some(204)));
    }

    #[test]
    fn a_row_of_successes_ends() {
        let counters = Counters::default();
        (0..3).for_each(|_| counters.count_success(Instant::ZERO));
        counters.end_row();
        assert_eq!((counters.successes(), counters.successes_in_row()), (3, 0));
        counters.count_success(Instant::ZERO);
        counters.count_would_have();
        assert_eq!((counters.successes(), counters.successes_in_row(), counters.would_have()), (4, 1, 1));
    }
}
