//! How long a cooldown may be: the second reading of the sums.

use std::time::Duration;

use holdoff::core::decision::Source;
use holdoff::core::policy::{Ladder, Policy};
use holdoff::core::signal::{Failure, Signal};

/// 3.2 to 3.4 and 3.9: between what lengths a cooldown may be, in seconds.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Who said so; none where jitter decides.
    pub(crate) source: Option<Source>,
    pub(crate) clamped: bool,
}

impl Range {
    pub(crate) fn signal(policy: &Policy, signal: &Signal, step: u32) -> Self {
        let limits = &policy.cooldown;
        let floor = limits.min_cooldown.as_secs_f64();
        let told = signal.hint.map(|_| Self::told(policy, signal));
        let ladder = |hint: Option<f64>| {
            let (base, cap) = match (hint, limits.ladder) {
                (Some(hint), Ladder::FromHint | Ladder::Off) => {
                    (hint.max(floor), hint.max(limits.max_overwait.as_secs_f64()))
                }
                _ => (limits.default_cooldown.as_secs_f64(), limits.max_backoff.as_secs_f64()),
            };
            let n = if limits.ladder == Ladder::Off { 1 } else { step };
            (climb(base, limits.growth, n, cap), cap)
        };
        let Some(told) = told else {
            let (length, cap) = ladder(None);
            return Self {
                low: (length * (1.0 - limits.jitter)).max(floor),
                high: (length * (1.0 + limits.jitter)).min(cap).max(floor),
                source: Some(Source::Ladder),
                clamped: false,
            };
        };
        let (low, _) = ladder(Some(told.low));
        let (high, cap) = ladder(Some(told.high));
        let (ladder_low, ladder_high) = (low * (1.0 - limits.jitter), (high * (1.0 + limits.jitter)).min(cap));
        // The floor is no ladder.
        let source = if ladder_low > told.high.max(floor) + 1e-7 {
            Some(Source::Ladder)
        } else if ladder_high <= told.low.max(floor) + 1e-7 {
            told.source
        } else {
            None
        };
        Self {
            low: told.low.max(ladder_low).max(floor),
            high: told.high.max(ladder_high).max(floor),
            source,
            clamped: told.clamped,
        }
    }

    /// A hint alone, for those who do not climb.
    pub(crate) fn hint(policy: &Policy, signal: &Signal) -> Self {
        let told = Self::told(policy, signal);
        let floor = policy.cooldown.min_cooldown.as_secs_f64();
        Self { low: told.low.max(floor), high: told.high.max(floor), ..told }
    }

    fn told(policy: &Policy, signal: &Signal) -> Self {
        let limits = &policy.cooldown;
        let wait = signal.hint.map(|hint| hint.wait).unwrap_or_default();
        let cap = limits.max_retry_after.as_secs_f64();
        let most = if limits.hint_jitter { jittered(wait, 1.0) } else { wait.as_secs_f64() };
        Self {
            low: wait.as_secs_f64().min(cap),
            high: most.min(cap),
            source: signal.hint.map(|hint| hint.source),
            clamped: wait > limits.max_retry_after,
        }
    }

    pub(crate) fn breaker(policy: &Policy, failure: Failure, step: u32) -> Self {
        let limits = &policy.breaker;
        let (first, growth, cap) = match failure {
            _ if !limits.classes => (limits.initial.as_secs_f64(), limits.growth, limits.max.as_secs_f64()),
            Failure::Refused | Failure::Reset | Failure::Dns | Failure::Unreachable => (0.05, 1.5, 5.0),
            Failure::Timeout | Failure::Status(502 | 504) => (0.1, 2.0, 30.0),
            Failure::Tls | Failure::Malformed | Failure::Status(503) => (1.0, 3.0, 60.0),
            other => panic!("expected a failure that has a class, found {other:?}"),
        };
        let length = climb(first, growth, step, cap);
        let jitter = policy.cooldown.jitter;
        Self {
            low: length * (1.0 - jitter),
            high: (length * (1.0 + jitter)).min(cap),
            source: Some(Source::Breaker),
            clamped: false,
        }
    }

    pub(crate) fn misfit(&self, length: Duration) -> Option<String> {
        let length = length.as_secs_f64();
        let slack = 1e-6 + 1e-9 * self.high;
        let fits = length >= self.low - slack && length <= self.high + slack;
        (!fits).then(|| format!("expected {} s to {} s, found {length} s", self.low, self.high))
    }
}

fn climb(base: f64, growth: f64, step: u32, cap: f64) -> f64 {
    let mut length = base;
    for _ in 1..step.min(10_000) {
        length = (length * growth).min(cap);
    }
    length.min(cap)
}

pub(crate) fn jittered(hint: Duration, share: f64) -> f64 {
    let hint = hint.as_secs_f64();
    hint + share * (hint * 0.1).min(30.0)
}

pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds * (1.0 + 1e-9))
        .unwrap_or(Duration::MAX)
        .saturating_add(Duration::from_micros(2))
}
