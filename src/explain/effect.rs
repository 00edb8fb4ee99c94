//! What an outcome starts, now and when it comes again: tried out on a copy of the state machine of the key.
//!
//! Nothing of the arithmetic is here. Which bounds mattered is found by leaving each of them out and trying again.

use std::time::Duration;

use super::question::span;
use super::view::{Bound, Effect, Row, Schedule, seconds};
use crate::core::cooldown::{Cooldown, Event, Events};
use crate::core::decision::{Admission, AdmissionKind, Decision, Purpose, Reason, Source, State};
use crate::core::policy::{BreakerLimits, CooldownLimits, Mode, Policy};
use crate::core::signal::Outcome;
use crate::core::time::Instant;

/// The most times that a request is turned away before it is the probe: the deadline, a probe that is out, the floor.
const MAX_WAITS: u32 = 8;

/// A hair, where a floor of nothing would not be one.
const NO_FLOOR: Duration = Duration::from_nanos(1);

/// A cooldown that was started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) reason: Reason,
    pub(super) source: Source,
    pub(super) length: Duration,
    pub(super) step: u32,
}

/// What is tried out.
#[derive(Clone, Debug)]
pub(super) struct Trial<'a> {
    pub(super) policy: &'a Policy,
    pub(super) outcome: &'a Outcome,
    pub(super) machine: &'a Cooldown,
    pub(super) now: Instant,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) effect: Effect,
    pub(super) schedule: Option<Schedule>,
    pub(super) started: Option<Started>,
}

impl Trial<'_> {
    /// Tries it out, `times` times.
    pub(super) fn run(&self, times: u32) -> Tried {
        // Jitter is shown as a range and left out of the rest.
        let steady = Policy {
            cooldown: CooldownLimits { jitter: 0.0, hint_jitter: false, ..self.policy.cooldown.clone() },
            ..self.policy.clone()
        };
        if self.policy.mode == Mode::Off {
            let why = "nothing: the mode is off, in which holdoff neither reads answers nor acts on them".to_owned();
            return Tried { effect: nothing("nothing", why), schedule: None, started: None };
        }
        let mut machine = self.machine.clone();
        let mut now = self.now;
        let (mut rows, mut first) = (Vec::new(), None);
        let (mut effect, mut started_first) = (None, None);
        let mut total_end = self.now;
        for answer in 1..=times {
            let Some((admission, at)) = admitted(&mut machine, &steady, now) else { break };
            let before = machine.clone();
            let from = first.unwrap_or(at);
            first = Some(from);
            let (started, cleared) = observe(&mut machine, &steady, admission, self.outcome, at, 0);
            let bounds =
                started.as_ref().map_or_else(Vec::new, |started| self.bounds(&steady, &before, admission, at, started));
            let failures = machine.view(&steady, at).failures_in_row;
            let is_failure = matches!(self.outcome, Outcome::Failing(_));
            rows.push(Row {
                answer,
                at_seconds: seconds(at.saturating_since(from)),
                step: started.as_ref().map_or(0, |started| started.step),
                length_seconds: started.as_ref().map(|started| seconds(started.length)),
                decided_by: started.as_ref().map(|started| started.source.as_str().to_owned()),
                bounds: bounds.iter().map(|bound| bound.key.clone()).collect(),
                failures: is_failure.then_some(failures),
            });
            if effect.is_none() {
                effect = Some(match &started {
                    Some(started) => self.starts(&before, admission, at, started, bounds),
                    None => self.starts_nothing(failures, cleared),
                });
                started_first.clone_from(&started);
            }
            now = at;
            if let Some(started) = started {
                now = at.saturating_add(started.length);
                // Later ones tell more of the same key: the first that starts is what the program sees.
                started_first = started_first.or(Some(started));
            } else if !is_failure {
                break;
            }
            total_end = now;
        }
        let first = first.unwrap_or(self.now);
        let schedule = (!rows.is_empty()).then(|| Schedule {
            starts_in_seconds: seconds(first.saturating_since(self.now)),
            rows,
            total_seconds: seconds(total_end.saturating_since(first)),
        });
        let effect = effect.unwrap_or_else(|| {
            nothing("nothing", "nothing can be said: no request is let through, whatever the wait".to_owned())
        });
        Tried { effect, schedule, started: started_first }
    }

    /// What an answer to a request that was sent before does to the live cooldown; `None` when none is live.
    pub(super) fn late(&self) -> Option<String> {
        let mut machine = self.machine.clone();
        if machine.state(self.now) != State::Cooling {
            return None;
        }
        let epoch = machine.summary().epoch.checked_sub(1)?;
        let admission = Admission { epoch, kind: AdmissionKind::Plain, purpose: Purpose::Request };
        let mut events = Events::default();
        machine.observe(self.policy, admission, self.outcome, self.now, 0, &mut events);
        let extended = events.iter().find_map(|event| match event {
            Event::Extended { length, .. } => Some(*length),
            _ => None,
        });
        Some(match extended {
            Some(length) => format!(
                "if a request that was sent before gets this answer now, the cooldown is extended: it ends in {}",
                span(length)
            ),
            None => {
                "if a request that was sent before gets this answer now, nothing changes: a live cooldown is never \
                     shortened, and only a longer wait extends it"
                    .to_owned()
            }
        })
    }

    fn starts(
        &self,
        before: &Cooldown,
        admission: Admission,
        at: Instant,
        started: &Started,
        bounds: Vec<Bound>,
    ) -> Effect {
        let with = |draw| {
            let (started, _) = observe(&mut before.clone(), self.policy, admission, self.outcome, at, draw);
            started.map_or(0.0, |started| seconds(started.length))
        };
        let (least, most) = (with(0), with(u64::MAX));
        let from = match (started.source, self.outcome.signal().and_then(|signal| signal.hint)) {
            (Source::Ladder, Some(hint)) => format!(
                "the host named {}, and step {} of the ladder makes {} of it",
                span(hint.wait),
                started.step,
                span(started.length)
            ),
            (Source::Ladder, None) => {
                format!("the host names no wait that counts, so it is step {} of our own ladder", started.step)
            }
            (Source::Breaker, _) => format!("the breaker opens, step {} of its ladder", started.step),
            (Source::BodyRule, Some(hint)) => format!("the rule about bodies says {}", span(hint.wait)),
            (_, Some(hint)) if hint.wait.is_zero() => "the host named no further wait".to_owned(),
            (_, Some(hint)) => format!("the host named {}", span(hint.wait)),
            (_, None) => "nobody named a wait".to_owned(),
        };
        let climbs = if started.step == 0 { "; it climbs no ladder" } else { "" };
        Effect {
            what: "starts".to_owned(),
            why: format!("a cooldown of {}, reason {}: {from}{climbs}", span(started.length), started.reason.as_str()),
            length_seconds: Some(seconds(started.length)),
            jitter_seconds: Some([least.min(most), least.max(most)]),
            bounds,
        }
    }

    fn starts_nothing(&self, failures: u32, cleared: bool) -> Effect {
        let breaker = &self.policy.breaker;
        let (what, why) = match self.outcome {
            Outcome::Failing(_) if breaker.failure_threshold == 0 => (
                "nothing",
                "nothing: the breaker is off (`breaker.failure_threshold = 0`), so failures are counted and passed on"
                    .to_owned(),
            ),
            Outcome::Failing(_) => (
                "counts",
                format!(
                    "nothing yet: it is failure {failures} in a row, and {} open the breaker (`breaker.failure_threshold`{})",
                    breaker.failure_threshold,
                    if breaker.failure_window.is_zero() {
                        String::new()
                    } else {
                        format!(", within `breaker.failure_window` = {}", span(breaker.failure_window))
                    }
                ),
            ),
            Outcome::Neutral => ("nothing", "nothing: it says nothing about the key".to_owned()),
            _ if cleared => ("clears", "no cooldown: the probe is answered, and the key is clear again".to_owned()),
            Outcome::Answered => ("nothing", "nothing: the host is there".to_owned()),
            _ => ("nothing", "nothing: the key stays clear, and its ladders begin anew".to_owned()),
        };
        nothing(what, why)
    }

    /// The bounds without which the cooldown would last another time.
    fn bounds(
        &self,
        steady: &Policy,
        before: &Cooldown,
        admission: Admission,
        at: Instant,
        started: &Started,
    ) -> Vec<Bound> {
        let (c, b) = (&steady.cooldown, &steady.breaker);
        let of_cooldown = |limits: CooldownLimits| Policy { cooldown: limits, ..steady.clone() };
        let trials = [
            (
                "cooldown.max_retry_after",
                c.max_retry_after,
                of_cooldown(CooldownLimits { max_retry_after: Duration::MAX, ..c.clone() }),
            ),
            (
                "cooldown.min_cooldown",
                c.min_cooldown,
                of_cooldown(CooldownLimits { min_cooldown: NO_FLOOR, ..c.clone() }),
            ),
            (
                "cooldown.max_overwait",
                c.max_overwait,
                of_cooldown(CooldownLimits { max_overwait: Duration::MAX, ..c.clone() }),
            ),
            (
                "cooldown.max_backoff",
                c.max_backoff,
                of_cooldown(CooldownLimits { max_backoff: Duration::MAX, ..c.clone() }),
            ),
            (
                "breaker.max",
                b.max,
                Policy { breaker: BreakerLimits { max: Duration::MAX, ..b.clone() }, ..steady.clone() },
            ),
        ];
        let mut bounds = Vec::new();
        for (key, value, without) in trials {
            let (tried, _) = observe(&mut before.clone(), &without, admission, self.outcome, at, 0);
            let Some(tried) = tried.filter(|tried| tried.length != started.length) else { continue };
            // What no bound holds ends where the clock does.
            let is_endless = tried.length > Duration::from_secs(100 * 365 * 24 * 60 * 60);
            bounds.push(Bound {
                key: key.to_owned(),
                seconds: seconds(value),
                without_seconds: (!is_endless).then(|| seconds(tried.length)),
            });
        }
        bounds
    }
}

fn nothing(what: &str, why: String) -> Effect {
    Effect { what: what.to_owned(), why, length_seconds: None, jitter_seconds: None, bounds: Vec::new() }
}

/// Waits until a request is let through.
fn admitted(machine: &mut Cooldown, policy: &Policy, now: Instant) -> Option<(Admission, Instant)> {
    let mut at = now;
    for _ in 0..MAX_WAITS {
        let mut events = Events::default();
        match machine.admit(policy, Purpose::Request, at, &mut events) {
            Decision::Forward(admission) => return Some((admission, at)),
            Decision::ShortCircuit(refusal) => at = refusal.until,
            Decision::Pass => return None,
        }
    }
    None
}

/// Tells the machine what came; gives the cooldown that starts, and whether the key is clear by it.
fn observe(
    machine: &mut Cooldown,
    policy: &Policy,
    admission: Admission,
    outcome: &Outcome,
    at: Instant,
    draw: u64,
) -> (Option<Started>, bool) {
    let mut events = Events::default();
    machine.observe(policy, admission, outcome, at, draw, &mut events);
    let (mut started, mut cleared) = (None, false);
    for event in events.iter() {
        match event {
            Event::Started { reason, source, length, step, .. } => {
                started = Some(Started { reason: *reason, source: *source, length: *length, step: *step });
            }
            Event::Ended { .. } => cleared = true,
            _ => {}
        }
    }
    (started, cleared)
}
