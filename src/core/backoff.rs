//! How long a cooldown lasts: the host's hint, our own ladder, and jitter.
//!
//! The delay of a signal is max(`min_cooldown`, H, L). H is the hint, clamped by `max_retry_after`; L is the ladder,
//! b · growth^(n−1) up to a cap. A host that names its time is believed first; only when it keeps repeating itself does
//! the ladder go past it, and then never by more than `max_overwait`. Everything is clamped before it becomes time.

use std::time::Duration;

use super::policy::{BreakerLadder, CooldownLimits, Ladder};

/// The longest lengthening of a hint by jitter.
const MAX_HINT_JITTER: Duration = Duration::from_secs(30);

/// How long a cooldown lasts and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// From now to the deadline.
    pub length: Duration,
    /// The ladder, not the hint, decided the length.
    pub by_ladder: bool,
    /// The hint was beyond `max_retry_after`.
    pub clamped: bool,
}

/// The delay of a signal at `step` (1 for the first). `draw` is a random word: one a cooldown, kept for its extensions.
pub fn signal_delay(limits: &CooldownLimits, hint: Option<Duration>, step: u32, draw: u64) -> Delay {
    let step = if limits.ladder == Ladder::Off { 1 } else { step.max(1) };
    let told = hint.map(|wait| wait.min(limits.max_retry_after));
    let (first, cap) = match (limits.ladder, told) {
        (Ladder::FromHint | Ladder::Off, Some(told)) => (told.max(limits.min_cooldown), told.max(limits.max_overwait)),
        _ => (limits.default_cooldown, limits.max_backoff),
    };
    let mut rung = climb(first, limits.growth, cap, step);
    // The first step from a hint is the hint itself, not a guess.
    if told.is_none() || limits.ladder == Ladder::Fixed || step > 1 {
        rung = shake(rung, limits.jitter, draw).min(cap);
    }
    let floor = hint.map_or(Duration::ZERO, |wait| hint_delay(limits, wait, draw).length).max(limits.min_cooldown);
    Delay {
        length: floor.max(rung),
        by_ladder: hint.is_none() || rung > floor,
        clamped: hint.is_some_and(|wait| wait > limits.max_retry_after),
    }
}

/// The delay of a hint alone, without a ladder: what extends a live cooldown.
pub fn hint_delay(limits: &CooldownLimits, hint: Duration, draw: u64) -> Delay {
    let jitter =
        if limits.hint_jitter { hint.mul_f64(0.1).min(MAX_HINT_JITTER).mul_f64(unit(draw)) } else { Duration::ZERO };
    Delay {
        length: hint.saturating_add(jitter).min(limits.max_retry_after).max(limits.min_cooldown),
        by_ladder: false,
        clamped: hint > limits.max_retry_after,
    }
}

/// The delay of a breaker that opens at `step` (1 for the first).
pub fn breaker_delay(ladder: &BreakerLadder, jitter: f64, step: u32, draw: u64) -> Delay {
    let rung = climb(ladder.initial, ladder.growth, ladder.max, step.max(1));
    Delay { length: shake(rung, jitter, draw).min(ladder.max), by_ladder: true, clamped: false }
}

/// first · growth^(step−1), at most `cap`.
fn climb(first: Duration, growth: f64, cap: Duration, step: u32) -> Duration {
    let power = i32::try_from(step.saturating_sub(1)).unwrap_or(i32::MAX);
    scale(first, growth.powi(power), cap)
}

/// A guess, longer or shorter by up to `share`.
fn shake(guess: Duration, share: f64, draw: u64) -> Duration {
    scale(guess, 1.0 + share * (2.0 * unit(draw) - 1.0), Duration::MAX)
}

/// `duration` · `factor`, at most `cap`; a factor that is not a number counts as infinite.
fn scale(duration: Duration, factor: f64, cap: Duration) -> Duration {
    if duration.is_zero() {
        // Infinitely often nothing is not a number.
        return duration;
    }
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(cap).min(cap)
}

/// A random word as a number from 0 to below 1.
fn unit(draw: u64) -> f64 {
    // 53 bits fit a float exactly.
    #[expect(clippy::cast_precision_loss, reason = "at most 53 bits are left")]
    let numerator = (draw >> 11) as f64;
    numerator / 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::BreakerLimits;
    use crate::core::signal::FailureClass;

    const NO_DRAW: u64 = 0;

    fn limits() -> CooldownLimits {
        CooldownLimits { hint_jitter: false, ..CooldownLimits::default() }
    }

    /// Seconds of the delays of a series of hints.
    fn series(limits: &CooldownLimits, hints: &[Option<u64>]) -> Vec<u64> {
        (1..)
            .zip(hints)
            .map(|(step, hint)| signal_delay(limits, hint.map(Duration::from_secs), step, NO_DRAW).length.as_secs())
            .collect()
    }

    #[test]
    fn clause_3_3_no_hint() {
        assert_eq!(series(&limits(), &[None; 7]), [60, 120, 240, 480, 960, 1800, 1800]);
    }

    #[test]
    fn clause_3_3_always_two_seconds() {
        assert_eq!(series(&limits(), &[Some(2); 7]), [2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn clause_3_3_always_zero() {
        assert_eq!(series(&limits(), &[Some(0); 8]), [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn clause_3_3_a_long_hint_then_short_ones() {
        assert_eq!(series(&limits(), &[Some(3600), Some(5), Some(5), Some(5)]), [3600, 10, 20, 40]);
    }

    #[test]
    fn clause_3_3_fixed_is_the_larger_of_hint_and_ladder() {
        let fixed = CooldownLimits { ladder: Ladder::Fixed, ..limits() };
        assert_eq!(series(&fixed, &[Some(5), Some(500), Some(5), None, Some(3600)]), [60, 500, 240, 480, 3600]);
    }

    #[test]
    fn clause_3_2_without_a_ladder_the_step_is_always_the_first() {
        let off = CooldownLimits { ladder: Ladder::Off, ..limits() };
        assert_eq!(series(&off, &[Some(2), Some(2), None, None]), [2, 2, 60, 60]);
    }

    #[test]
    fn clause_3_2_a_hint_is_clamped_and_a_floor_held() {
        let delay = signal_delay(&limits(), Some(Duration::MAX), 1, NO_DRAW);
        assert_eq!(delay, Delay { length: Duration::from_secs(3600), by_ladder: false, clamped: true });
        let delay = signal_delay(&limits(), Some(Duration::ZERO), 1, NO_DRAW);
        assert_eq!(delay, Delay { length: Duration::from_secs(1), by_ladder: false, clamped: false });
    }

    #[test]
    fn clause_3_2_steps_without_end_stay_at_the_cap() {
        assert_eq!(signal_delay(&limits(), None, u32::MAX, NO_DRAW).length, Duration::from_secs(1800));
        let steep = CooldownLimits { growth: 100.0, ..limits() };
        assert_eq!(signal_delay(&steep, None, u32::MAX, NO_DRAW).length, Duration::from_secs(1800));
    }

    #[test]
    fn clause_3_2_a_ladder_that_begins_at_nothing_never_leaves_the_floor() {
        let from_nothing = CooldownLimits { default_cooldown: Duration::ZERO, ..limits() };
        for growth in [1.0, 2.0, 100.0] {
            let limits = CooldownLimits { growth, ..from_nothing.clone() };
            for step in [1, 155, 1024, 1025, u32::MAX] {
                assert_eq!(
                    signal_delay(&limits, None, step, NO_DRAW).length,
                    Duration::from_secs(1),
                    "{growth} {step}"
                );
            }
        }
    }

    #[test]
    fn clause_3_4_a_hint_is_only_lengthened_by_a_tenth_or_thirty_seconds_and_never_past_the_cap() {
        let jittery = CooldownLimits::default();
        let at = |hint, draw| hint_delay(&jittery, Duration::from_secs(hint), draw).length;
        assert_eq!(at(100, 0), Duration::from_secs(100));
        assert!(at(100, u64::MAX) > Duration::from_millis(109_999) && at(100, u64::MAX) <= Duration::from_secs(110));
        assert!(
            at(3000, u64::MAX) > Duration::from_millis(3_029_999) && at(3000, u64::MAX) <= Duration::from_secs(3030)
        );
        assert_eq!(at(3600, u64::MAX), Duration::from_secs(3600));
        assert_eq!(at(3599, u64::MAX), Duration::from_secs(3600));
    }

    #[test]
    fn clause_3_4_a_guess_is_shaken_both_ways_and_never_past_the_cap() {
        let jittery = CooldownLimits { jitter: 0.2, ..limits() };
        let at = |hint: Option<u64>, step, draw| {
            signal_delay(&jittery, hint.map(Duration::from_secs), step, draw).length.as_secs_f64()
        };
        assert!((at(None, 1, 0) - 48.0).abs() < 1e-6);
        assert!((at(None, 1, u64::MAX) - 72.0).abs() < 1e-6);
        assert!((at(None, 9, u64::MAX) - 1800.0).abs() < 1e-6);
        // The first step from a hint is no guess; later ones are, but never shorter than told.
        assert!((at(Some(5), 1, 0) - 5.0).abs() < 1e-6);
        assert!((at(Some(5), 2, 0) - 8.0).abs() < 1e-6);
        let shaky = CooldownLimits { jitter: 1.0, ..limits() };
        assert_eq!(signal_delay(&shaky, Some(Duration::from_secs(5)), 2, 0).length, Duration::from_secs(5));
    }

    #[test]
    fn clause_3_9_the_breaker_has_its_own_ladder() {
        let breaker = BreakerLimits::default().ladder(FailureClass::Transient);
        let secs: Vec<u64> = (1..=8).map(|step| breaker_delay(&breaker, 0.0, step, NO_DRAW).length.as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn clause_3_4_the_first_step_from_a_hint_is_no_guess_and_a_fixed_one_is() {
        let jittery = CooldownLimits { jitter: 0.2, ..limits() };
        let fixed = CooldownLimits { ladder: Ladder::Fixed, ..jittery.clone() };
        let hint = Some(Duration::from_secs(50));
        assert_eq!(signal_delay(&jittery, hint, 1, u64::MAX).length, Duration::from_secs(50));
        // 60 s, longer by a fifth, rounded to a nanosecond.
        assert_eq!(signal_delay(&fixed, hint, 1, u64::MAX).length, Duration::from_secs(72));
    }

    #[test]
    fn clause_3_4_a_draw_in_the_middle_leaves_a_guess_as_it_is() {
        let jittery = CooldownLimits { jitter: 0.2, ..limits() };
        assert_eq!(signal_delay(&jittery, None, 1, 1 << 63).length, Duration::from_secs(60));
        assert_eq!(
            breaker_delay(&BreakerLimits::default().ladder(FailureClass::Severe), 0.5, 1, 1 << 62).length,
            Duration::from_millis(750)
        );
    }

    #[test]
    fn clause_3_2_only_a_hint_beyond_the_bound_is_clamped() {
        for (secs, clamped) in [(3599, false), (3600, false), (3601, true)] {
            let hint = Duration::from_secs(secs);
            assert_eq!(hint_delay(&limits(), hint, NO_DRAW).clamped, clamped, "{secs}");
            assert_eq!(signal_delay(&limits(), Some(hint), 1, NO_DRAW).clamped, clamped, "{secs}");
        }
    }

    #[test]
    fn clause_3_9_with_classes_each_has_the_ladder_of_the_mesh() {
        let limits = BreakerLimits { classes: true, ..BreakerLimits::default() };
        let millis = |class, steps: u32| -> Vec<f64> {
            let length = |step| breaker_delay(&limits.ladder(class), 0.0, step, NO_DRAW).length;
            (1..=steps).map(|step| (length(step).as_secs_f64() * 10_000.0).round() / 10.0).collect()
        };
        assert_eq!(
            millis(FailureClass::Transient, 13),
            [50.0, 75.0, 112.5, 168.8, 253.1, 379.7, 569.5, 854.3, 1281.4, 1922.2, 2883.3, 4324.9, 5000.0]
        );
        assert_eq!(
            millis(FailureClass::Recoverable, 10),
            [100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, 12800.0, 25600.0, 30000.0]
        );
        assert_eq!(millis(FailureClass::Severe, 6), [1000.0, 3000.0, 9000.0, 27000.0, 60000.0, 60000.0]);
        assert_eq!(limits.longest(), Duration::from_secs(60));
        let own = BreakerLimits { max: Duration::from_secs(7200), ..BreakerLimits::default() };
        assert_eq!(own.longest(), Duration::from_secs(7200), "without classes there is one ladder");
        assert!(FailureClass::ALL.iter().all(|class| own.ladder(*class).max == own.max));
    }
}
