//! The state machine of one key under any policy that passes `check`, any times, any order of calls.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use holdoff::core::cooldown::{Cooldown, Events, SHORT_WAIT};
use holdoff::core::decision::{Admission, AdmissionKind, Decision, Freeze, Purpose, Reason, Source, State};
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Ladder, MAX_FREEZE, Policy};
use holdoff::core::signal::{Failure, Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use libfuzzer_sys::fuzz_target;

/// A time in nanoseconds, of every size: a word and how much of it is cut off.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Span {
    Nanos(u64, u8),
    Seconds(u16),
    Max,
}

impl Span {
    fn get(self) -> Duration {
        match self {
            Self::Nanos(nanos, shift) => Duration::from_nanos(nanos >> (shift % 64)),
            Self::Seconds(secs) => Duration::from_secs(secs.into()),
            Self::Max => Duration::MAX,
        }
    }

    /// More than nothing.
    fn some(self) -> Duration {
        self.get().max(Duration::from_nanos(1))
    }
}

#[derive(Arbitrary, Debug)]
struct RawPolicy {
    min_cooldown: Span,
    default_cooldown: Span,
    max_backoff: Span,
    max_overwait: Span,
    max_retry_after: Span,
    growth: (u8, u8),
    ladder: u8,
    jitter: u8,
    hint_jitter: bool,
    probe_lease: Span,
    success_threshold: u8,
    ramp: Span,
    quiet_time: Span,
    failure_threshold: u8,
    failure_window: Span,
    initial: Span,
}

impl RawPolicy {
    /// Passes `check`. The breaker's caps do not change with the policy: an invariant speaks of them.
    fn resolve(&self, breaker_max: Duration, classes: bool) -> Policy {
        let factor = |percent: u8| 1.0 + f64::from(percent) * 99.0 / 255.0;
        let min_cooldown = self.min_cooldown.some();
        let max_backoff = self.max_backoff.get().max(min_cooldown);
        let policy = Policy {
            cooldown: CooldownLimits {
                min_cooldown,
                default_cooldown: self.default_cooldown.get().min(max_backoff),
                growth: factor(self.growth.0),
                max_backoff,
                max_overwait: self.max_overwait.get().max(min_cooldown),
                max_retry_after: self.max_retry_after.get().max(min_cooldown),
                ladder: [Ladder::FromHint, Ladder::Fixed, Ladder::Off][usize::from(self.ladder % 3)],
                jitter: f64::from(self.jitter) / 255.0,
                hint_jitter: self.hint_jitter,
                probe_lease: self.probe_lease.some(),
                success_threshold: u32::from(self.success_threshold % 4) + 1,
                ramp: self.ramp.get(),
                quiet_time: self.quiet_time.get(),
            },
            breaker: BreakerLimits {
                failure_threshold: u32::from(self.failure_threshold % 5),
                failure_window: self.failure_window.get(),
                initial: self.initial.some().min(breaker_max),
                growth: factor(self.growth.1),
                max: breaker_max,
                classes,
            },
            ..Policy::default()
        };
        policy.check().unwrap();
        policy
    }
}

#[derive(Arbitrary, Debug)]
enum RawOutcome {
    Success,
    Answered,
    Connected,
    Neutral,
    Failing { how: u8 },
    Signal { is_limited: bool, hint: Option<Span> },
    OffLadder { hint: Span },
    Exhausted { hint: Span },
}

impl RawOutcome {
    fn resolve(&self) -> Outcome {
        match *self {
            Self::Success => Outcome::Success,
            Self::Answered => Outcome::Answered,
            Self::Connected => Outcome::Connected,
            Self::Neutral => Outcome::Neutral,
            Self::Failing { how } => {
                Outcome::Failing([Failure::Timeout, Failure::Refused, Failure::Status(503)][usize::from(how % 3)])
            }
            Self::OffLadder { hint } => Outcome::OffLadder(told(Reason::BackendBusy, hint)),
            Self::Exhausted { hint } => Outcome::Exhausted(told(Reason::QuotaExhausted, hint)),
            Self::Signal { is_limited, hint } => Outcome::Signal(Signal {
                reason: if is_limited { Reason::RateLimited } else { Reason::Unavailable },
                hint: hint.map(|wait| Hint { wait: wait.get(), source: Source::RetryAfterSeconds }),
                received: None,
            }),
        }
    }
}

fn told(reason: Reason, wait: Span) -> Signal {
    Signal { reason, hint: Some(Hint { wait: wait.get(), source: Source::VendorReset }), received: None }
}

#[derive(Arbitrary, Debug)]
enum Clock {
    Stay,
    Ahead(Span),
    Back(Span),
    /// To the deadline, just before it, or just after.
    Deadline(i8),
    At(u64),
}

#[derive(Arbitrary, Debug)]
enum Call {
    Admit { what: u8 },
    Observe { which: u8, outcome: RawOutcome, draw: u64 },
    Cancel { which: u8 },
    Freeze(Span),
    Release,
    Settle,
    Reload,
}

#[derive(Arbitrary, Debug)]
struct Input {
    breaker_max: Span,
    classes: bool,
    policies: (RawPolicy, RawPolicy),
    calls: Vec<(Clock, Call)>,
}

/// The most admissions that are out at a time.
const MAX_OUT: usize = 32;

fuzz_target!(|input: Input| {
    let breaker_max = input.breaker_max.some();
    let policies = [&input.policies.0, &input.policies.1].map(|policy| policy.resolve(breaker_max, input.classes));
    let mut policy = &policies[0];
    let mut machine = Cooldown::new();
    let mut now = Instant::from_secs(1_000_000);
    let mut out: Vec<Admission> = Vec::new();

    for (clock, call) in &input.calls {
        now = moved(now, clock, &machine);
        let before = machine.summary();
        let live = before.cooling.filter(|(deadline, _)| now < *deadline);
        let events = &mut Events::default();
        match call {
            Call::Admit { what } => {
                let purpose = [Purpose::Request, Purpose::Tunnel, Purpose::Session][usize::from(*what % 3)];
                let decision = machine.admit(policy, purpose, now, events);
                if let Some((deadline, reason)) = live {
                    let Decision::ShortCircuit(refusal) = decision else { panic!("admitted before the deadline") };
                    assert_eq!((refusal.until, refusal.reason, refusal.state), (deadline, reason, State::Cooling));
                }
                if before.clear {
                    let plain =
                        matches!(decision, Decision::Forward(admission) if admission.kind() == AdmissionKind::Plain);
                    assert!(plain || (decision == Decision::Pass && purpose == Purpose::Session));
                }
                match decision {
                    Decision::Forward(admission) => {
                        assert_eq!(admission.epoch(), machine.summary().epoch);
                        if out.len() < MAX_OUT {
                            out.push(admission);
                        } else {
                            machine.cancel(policy, admission, events);
                        }
                    }
                    Decision::Pass => assert_ne!(purpose, Purpose::Request),
                    Decision::ShortCircuit(refusal) => {
                        assert_eq!(refusal.wait, refusal.until.saturating_since(now));
                        let ends = now.as_nanos() > u64::MAX - 1_000_000_000;
                        assert!(refusal.wait > Duration::ZERO || ends);
                        assert!(refusal.state == State::Cooling || refusal.wait >= SHORT_WAIT || ends);
                    }
                }
            }
            Call::Observe { which, outcome, draw } => {
                let Some(admission) = take(&mut out, *which) else { continue };
                let (is_void, outcome) = (machine.is_void(admission), outcome.resolve());
                // Time that passed may have made it older.
                let mut settled = machine.clone();
                settled.settle(policy, now, &mut Events::default());
                let is_older = admission.epoch() != settled.summary().epoch;
                machine.observe(policy, admission, &outcome, now, *draw, events);
                let after = machine.summary();
                if is_void {
                    assert!(after.cooling == before.cooling || live.is_none(), "a release made it void");
                    assert!(after.cooling.is_none() || before.cooling.is_some(), "a release made it void");
                } else if let Outcome::Exhausted(_) = &outcome
                    && is_older
                    && live.is_none()
                {
                    assert!(after.cooling.is_none() || after.cooling == before.cooling, "it never starts a cooldown");
                } else if let Some(hint) = outcome.signal().and_then(|signal| signal.hint) {
                    // Whoever says how long is heard, in every state.
                    let (deadline, _) = after.cooling.expect("a hint cools");
                    let told = hint.wait.min(policy.cooldown.max_retry_after);
                    assert!(deadline >= now.saturating_add(told), "earlier than told");
                }
            }
            Call::Cancel { which } => {
                let Some(admission) = take(&mut out, *which) else { continue };
                machine.cancel(policy, admission, events);
                assert_eq!(machine.summary().cooling, before.cooling);
            }
            Call::Freeze(length) => {
                let until = now.saturating_add(length.get().min(MAX_FREEZE));
                match machine.freeze(policy, length.get(), now, events) {
                    Freeze::Set { until: set } => {
                        assert_eq!((set, machine.summary().cooling), (until, Some((until, Reason::Manual))));
                    }
                    Freeze::AlreadyLonger { until: longer } => {
                        assert!(longer >= until && live.is_some_and(|(deadline, _)| deadline == longer));
                    }
                }
            }
            Call::Release => {
                machine.release(policy, now, events);
                assert_eq!(machine.state(now), State::Clear);
                assert!(out.iter().all(|admission| machine.is_void(*admission)), "what was out says nothing any more");
            }
            Call::Settle => machine.settle(policy, now, events),
            Call::Reload => {
                policy = if std::ptr::eq(policy, &policies[0]) { &policies[1] } else { &policies[0] };
            }
        }
        machine.check_invariants(policy).unwrap();
        let after = machine.summary();
        assert!(after.epoch >= before.epoch);
        if let (Some((deadline, _)), false) = (live, matches!(call, Call::Release)) {
            let (kept, _) = after.cooling.expect("a live cooldown ends by a release only");
            assert!(kept >= deadline, "a live deadline never gets earlier");
        }
        if let Some((deadline, _)) = after.cooling.filter(|_| after.cooling != before.cooling) {
            assert!(deadline.saturating_since(now) <= longest(policy), "a deadline is within the caps");
        }
        let view = machine.view(policy, now);
        assert_eq!(view.state, machine.state(now));
        assert_eq!(view.cooldown.is_some(), !(after.clear || after.ramping));
    }

    // Whatever happened, a key left alone is clear in the end.
    let end = Instant::from_nanos(u64::MAX);
    machine.settle(policy, end, &mut Events::default());
    let view = machine.view(policy, end);
    assert_eq!((view.state, view.rate_step, view.breaker_step), (State::Clear, 0, 0));
    machine.check_invariants(policy).unwrap();
});

fn moved(now: Instant, clock: &Clock, machine: &Cooldown) -> Instant {
    match clock {
        Clock::Stay => now,
        Clock::Ahead(by) => now.saturating_add(by.get()),
        Clock::Back(by) => {
            let by = u64::try_from(by.get().as_nanos()).unwrap_or(u64::MAX);
            Instant::from_nanos(now.as_nanos().saturating_sub(by))
        }
        Clock::Deadline(off) => machine.summary().cooling.map_or(now, |(deadline, _)| {
            Instant::from_nanos(deadline.as_nanos().saturating_add_signed(i64::from(*off)))
        }),
        Clock::At(nanos) => Instant::from_nanos(*nanos),
    }
}

fn take(out: &mut Vec<Admission>, which: u8) -> Option<Admission> {
    (!out.is_empty()).then(|| out.swap_remove(usize::from(which) % out.len()))
}

/// No cooldown of a policy is longer.
fn longest(policy: &Policy) -> Duration {
    let limits = &policy.cooldown;
    let caps = [limits.max_backoff, limits.max_overwait, limits.max_retry_after, policy.breaker.longest(), MAX_FREEZE];
    caps.into_iter().fold(Duration::ZERO, Duration::max)
}
