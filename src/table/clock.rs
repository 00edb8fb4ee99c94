//! The one place that reads clocks and draws random words.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use crate::core::time::{Instant, UnixTime};

/// Now, on the clock that counts the time a machine was suspended (`CLOCK_BOOTTIME`): a cooldown that ended while a laptop
/// slept has ended.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Instant::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Now, on the wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

/// A random word, for jitter. Not for secrets.
///
/// The standard library keys each [`RandomState`] of a thread anew, from a seed of the system's, so that the keyed hash of
/// nothing is a random word.
pub fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The wall time of a point on the monotonic clock, as the wall clock stands now.
pub fn wall_of(at: Instant, now: Instant, wall: UnixTime) -> UnixTime {
    if at >= now {
        wall.saturating_add(at.saturating_since(now))
    } else {
        wall.saturating_sub(now.saturating_since(at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let first = now();
        assert!(first > Instant::ZERO);
        assert!(now() >= first);
        assert!(wall() > UnixTime::from_secs(1_700_000_000), "the wall clock is past 2023");
    }

    #[test]
    fn drawn_words_spread_evenly() {
        let mut quarters = [0_u32; 4];
        for _ in 0..4000 {
            quarters[usize::try_from(draw() >> 62).unwrap()] += 1;
        }
        // Six standard deviations: a false alarm in a thousand million runs.
        assert!(quarters.iter().all(|count| (835..=1165).contains(count)), "{quarters:?}");
    }

    #[test]
    fn wall_times_are_relative_to_now_in_both_directions() {
        let (now, wall) = (Instant::from_secs(100), UnixTime::from_secs(1000));
        assert_eq!(wall_of(Instant::from_secs(160), now, wall), UnixTime::from_secs(1060));
        assert_eq!(wall_of(Instant::from_secs(40), now, wall), UnixTime::from_secs(940));
        assert!(wall_of(now.saturating_add(Duration::MAX), now, wall) > UnixTime::from_secs(1060));
    }
}
