//! What chance may bring: settings of every kind, and hosts with moods.

use std::time::Duration;

use fastrand::Rng;
use holdoff::core::decision::{Purpose, Reason, Source};
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Ladder, Mode, Policy};
use holdoff::core::signal::{Failure, Hint, Outcome, Signal};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    Calm,
    Limiting,
    Broken,
    Mixed,
}

pub(crate) fn any_outcome(rng: &mut Rng, mood: Mood, purpose: Purpose) -> Outcome {
    if purpose == Purpose::Tunnel {
        return match rng.u8(..4) {
            0 => any_failure(rng),
            1 => Outcome::Neutral,
            _ => Outcome::Connected,
        };
    }
    // Out of a hundred: success, signal, failure, other 5xx; the rest is neutral.
    let (success, signal, failing, answered) = match mood {
        Mood::Calm => (85, 3, 3, 3),
        Mood::Limiting => (15, 75, 2, 3),
        Mood::Broken => (10, 5, 75, 5),
        Mood::Mixed => (25, 25, 25, 15),
    };
    let at = rng.u32(..100);
    if at < success {
        if rng.u8(..8) == 0 { any_quota(rng) } else { Outcome::Success }
    } else if at < success + signal {
        any_signal(rng)
    } else if at < success + signal + failing {
        any_failure(rng)
    } else if at < success + signal + failing + answered {
        Outcome::Answered
    } else {
        Outcome::Neutral
    }
}

fn any_failure(rng: &mut Rng) -> Outcome {
    const FAILURES: [Failure; 6] =
        [Failure::Refused, Failure::Timeout, Failure::Dns, Failure::Status(502), Failure::Tls, Failure::Status(503)];
    Outcome::Failing(FAILURES[rng.usize(..FAILURES.len())])
}

pub(crate) fn any_signal(rng: &mut Rng) -> Outcome {
    let wait = match rng.u8(..10) {
        0 | 1 => None,
        2 => Some(Duration::ZERO),
        3 | 4 => Some(Duration::from_secs(rng.u64(1..5))),
        5 | 6 => Some(Duration::from_secs(rng.u64(5..120))),
        7 => Some(Duration::from_millis(rng.u64(..10_000_000))),
        8 => Some(Duration::from_secs(rng.u64(3000..100_000))),
        _ => Some(Duration::from_secs(1 << rng.u32(..=31))),
    };
    let source = if rng.bool() { Source::RetryAfterSeconds } else { Source::RetryAfterDate };
    let hint = wait.map(|wait| Hint { wait, source });
    let reason = if hint.is_some() && rng.u8(..4) == 0 { Reason::Unavailable } else { Reason::RateLimited };
    let received = wait.map(|wait| format!("{wait:?}").into_boxed_str());
    // Off the ladder with a hint; what happens without one is always the same, and a unit test of the state machine.
    match rng.u8(..10) {
        0 if hint.is_some() => Outcome::OffLadder(Signal { reason: Reason::BackendBusy, hint, received }),
        1 if hint.is_some() => Outcome::OffLadder(Signal { reason, hint, received }),
        _ => Outcome::Signal(Signal { reason, hint, received }),
    }
}

/// A good answer that was the last for now.
fn any_quota(rng: &mut Rng) -> Outcome {
    let wait = match rng.u8(..4) {
        0 => Duration::from_millis(rng.u64(..2000)),
        1 => Duration::from_secs(rng.u64(3000..100_000)),
        _ => Duration::from_secs(rng.u64(1..120)),
    };
    let hint = Some(Hint { wait, source: Source::VendorReset });
    Outcome::Exhausted(Signal { reason: Reason::QuotaExhausted, hint, received: Some(format!("{wait:?}").into()) })
}

pub(crate) fn any_mode(rng: &mut Rng) -> Mode {
    [Mode::Enforce, Mode::Enforce, Mode::Enforce, Mode::Observe, Mode::Off][rng.usize(..5)]
}

pub(crate) fn any_policy(rng: &mut Rng) -> Policy {
    let secs = Duration::from_secs;
    let min_cooldown = [secs(1), Duration::from_millis(100), secs(5)][rng.usize(..3)];
    let jittery = rng.u8(..4) == 0;
    let policy = Policy {
        mode: any_mode(rng),
        cooldown: CooldownLimits {
            min_cooldown,
            default_cooldown: [secs(60), secs(10), secs(2)][rng.usize(..3)],
            growth: [2.0, 1.0, 1.5, 3.0][rng.usize(..4)],
            max_backoff: [secs(1800), secs(90)][rng.usize(..2)],
            max_overwait: [secs(60), secs(20)][rng.usize(..2)],
            max_retry_after: [secs(3600), secs(300), secs(86_400)][rng.usize(..3)],
            ladder: [Ladder::FromHint, Ladder::FromHint, Ladder::Fixed, Ladder::Off][rng.usize(..4)],
            jitter: if jittery { 0.2 } else { 0.0 },
            hint_jitter: jittery,
            probe_lease: [secs(30), secs(2), secs(300)][rng.usize(..3)],
            success_threshold: [1, 1, 2, 3][rng.usize(..4)],
            ramp: [secs(10), Duration::ZERO, secs(1)][rng.usize(..3)],
            quiet_time: [secs(600), secs(600), secs(5)][rng.usize(..3)],
        },
        breaker: BreakerLimits {
            failure_threshold: [0, 1, 2, 5][rng.usize(..4)],
            failure_window: [Duration::ZERO, secs(60), secs(5)][rng.usize(..3)],
            initial: [secs(1), Duration::from_millis(50)][rng.usize(..2)],
            growth: [2.0, 1.5][rng.usize(..2)],
            max: secs(60),
            classes: rng.u8(..3) == 0,
        },
        ..Policy::default()
    };
    policy.check().unwrap();
    policy
}
