//! Points in time as plain numbers, with arithmetic that saturates.
//!
//! Two clocks matter and are never mixed: [`Instant`] runs on and counts the time a machine was suspended, so it times
//! cooldowns; [`UnixTime`] is the wall clock, which can be stepped, so it is only used to read dates that peers send and
//! to show deadlines to people. Neither reads a clock: the caller says what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on a monotonic clock that counts suspend, in nanoseconds since an arbitrary start (the boot of the machine).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// The point `nanos` nanoseconds after the start of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `secs` seconds after the start of the clock, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// This point moved into the future, saturating at the end of the clock (584 years).
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }

    /// The time from `earlier` to this point, zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A point on the wall clock, in milliseconds since 1970-01-01T00:00:00Z. Times before that are that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The point `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The point `secs` seconds after the epoch, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This point moved into the future, saturating.
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This point moved into the past, saturating at the epoch.
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this point, zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<UnixTime> for SystemTime {
    fn from(time: UnixTime) -> Self {
        // A time that the platform cannot hold is shown as the last one every RFC 3339 writer can hold.
        UNIX_EPOCH.checked_add(Duration::from_millis(time.0.min(253_402_300_799_000))).unwrap_or(UNIX_EPOCH)
    }
}

/// Whole seconds of a wait, rounded up: what a `Retry-After` must say so that nobody comes early.
pub fn ceil_secs(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

/// Nanoseconds of a duration, saturating.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Instant::from_nanos(5).saturating_since(Instant::from_nanos(9)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(u64::MAX - 1).saturating_add(Duration::MAX).as_nanos(), u64::MAX);
        assert_eq!(UnixTime::from_secs(u64::MAX).as_millis(), u64::MAX);
        assert_eq!(UnixTime::from_secs(1).saturating_sub(Duration::from_secs(2)).as_millis(), 0);
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(ceil_secs(Duration::from_millis(4001)), 5);
        assert_eq!(ceil_secs(Duration::from_secs(4)), 4);
        assert_eq!(ceil_secs(Duration::ZERO), 0);
        assert_eq!(ceil_secs(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_wall_time_beyond_the_calendar_is_cut_to_the_year_9999() {
        let shown = SystemTime::from(UnixTime::from_millis(u64::MAX));
        assert_eq!(UnixTime::from(shown).as_secs(), 253_402_300_799);
    }

    #[test]
    fn units_are_what_they_say() {
        assert_eq!(Instant::from_secs(3).as_nanos(), 3_000_000_000);
        assert_eq!(Instant::from_secs(3).saturating_add(Duration::from_nanos(7)).as_nanos(), 3_000_000_007);
        assert_eq!(Instant::from_secs(3).saturating_since(Instant::from_secs(1)), Duration::from_secs(2));
        let time = UnixTime::from_millis(5_999);
        assert_eq!((time.as_millis(), time.as_secs()), (5_999, 5));
        assert_eq!(time.saturating_add(Duration::from_millis(2)).as_millis(), 6_001);
        assert_eq!(time.saturating_sub(Duration::from_millis(2)).as_millis(), 5_997);
        assert_eq!(time.saturating_since(UnixTime::from_secs(5)), Duration::from_millis(999));
        assert_eq!(SystemTime::from(time), UNIX_EPOCH + Duration::from_millis(5_999));
        assert_eq!(UnixTime::from(UNIX_EPOCH + Duration::from_millis(5_999)), time);
    }
}
