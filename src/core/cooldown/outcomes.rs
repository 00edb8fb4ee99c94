//! The table of SPEC 3.5: what an outcome does, a method for each column.

use std::time::Duration;

use super::event::{Event, Events, ProbeResult};
use super::{Cooldown, Live, Phase};
use crate::core::backoff;
use crate::core::decision::{Admission, AdmissionKind, Reason, Source, State};
use crate::core::policy::Policy;
use crate::core::signal::{Failure, Hint, Outcome, Signal};
use crate::core::time::Instant;

impl Cooldown {
    pub(super) fn observe_clear(
        &mut self,
        policy: &Policy,
        outcome: &Outcome,
        now: Instant,
        draw: u64,
        events: &mut Events,
    ) {
        match outcome {
            Outcome::Signal(signal) => self.climb(policy, signal, now, draw, events),
            Outcome::OffLadder(signal) => self.cool_off_ladder(policy, signal, now, draw, events),
            Outcome::Success => {
                self.reset_steps();
                self.ramp_success();
            }
            Outcome::Exhausted(signal) => {
                self.reset_steps();
                self.ramp_success();
                self.cool_for_hint(policy, signal, now, draw, events);
            }
            Outcome::Connected => {
                self.reset_streak();
                self.ramp_success();
            }
            Outcome::Failing(failure) => {
                if self.streak_is_full(policy, now) {
                    self.open_breaker(policy, *failure, State::Clear, now, draw, events);
                }
            }
            Outcome::Answered | Outcome::Neutral => {}
        }
    }

    pub(super) fn observe_cooling(&mut self, policy: &Policy, outcome: &Outcome, now: Instant, events: &mut Events) {
        let Some((signal, hint)) = outcome.signal().and_then(|signal| Some((signal, signal.hint?))) else { return };
        let draw = self.last().map_or(0, |live| live.draw);
        let delay = backoff::hint_delay(&policy.cooldown, hint.wait, draw);
        let until = now.saturating_add(delay.length);
        // On a tie the older stays.
        if until <= self.deadline() {
            return;
        }
        self.extend(until, signal.reason, hint.source, Some(hint.wait), signal.received.clone());
        events.push(Event::Extended {
            reason: signal.reason,
            source: hint.source,
            until,
            length: delay.length,
            clamped: delay.clamped,
            received: signal.received.clone(),
        });
    }

    pub(super) fn observe_probe(
        &mut self,
        policy: &Policy,
        admission: Admission,
        outcome: &Outcome,
        now: Instant,
        draw: u64,
        events: &mut Events,
    ) {
        match outcome {
            Outcome::Signal(signal) => {
                events.push(Event::ProbeEnded(ProbeResult::Limited));
                self.climb(policy, signal, now, draw, events);
            }
            Outcome::OffLadder(signal) => {
                events.push(Event::ProbeEnded(ProbeResult::Limited));
                self.cool_off_ladder(policy, signal, now, draw, events);
            }
            Outcome::Success | Outcome::Connected => self.probe_succeeded(policy, admission, outcome, now, events),
            Outcome::Exhausted(signal) => {
                self.probe_succeeded(policy, admission, outcome, now, events);
                self.cool_for_hint(policy, signal, now, draw, events);
            }
            Outcome::Answered => {
                events.push(Event::ProbeEnded(ProbeResult::Answered));
                self.clear_by_probe(policy, now, events);
            }
            Outcome::Failing(failure) if policy.breaker.failure_threshold > 0 => {
                events.push(Event::ProbeEnded(ProbeResult::Failed));
                self.open_breaker(policy, *failure, State::Probing, now, draw, events);
            }
            Outcome::Failing(_) => self.free_probe_slot(policy, admission, ProbeResult::Failed, events),
            Outcome::Neutral => self.free_probe_slot(policy, admission, ProbeResult::Neutral, events),
        }
    }

    /// A probe succeeded: the key is clear when enough of them have.
    fn probe_succeeded(
        &mut self,
        policy: &Policy,
        admission: Admission,
        outcome: &Outcome,
        now: Instant,
        events: &mut Events,
    ) {
        events.push(Event::ProbeEnded(ProbeResult::Success));
        let Phase::Probing { out, successes, .. } = &mut self.phase else { return };
        *successes = successes.saturating_add(1);
        if *successes >= policy.cooldown.success_threshold {
            self.clear_by_probe(policy, now, events);
            if *outcome == Outcome::Connected {
                self.breaker_step = 0;
                self.reset_streak();
            } else {
                self.reset_steps();
            }
            return;
        }
        if out.is_some_and(|probe| AdmissionKind::Probe(probe.number) == admission.kind) {
            *out = None;
        }
        self.verdict_at(now);
    }

    /// Clear or probing, but the admission is of an older epoch: a named wait counts. What a good answer names only extends
    /// a live cooldown, and there is none.
    pub(super) fn observe_older(
        &mut self,
        policy: &Policy,
        outcome: &Outcome,
        now: Instant,
        draw: u64,
        events: &mut Events,
    ) {
        if let Outcome::Signal(signal) | Outcome::OffLadder(signal) = outcome {
            self.cool_for_hint(policy, signal, now, draw, events);
        }
    }

    /// A cooldown without a step: as long as the hint says, or as long as the first step is.
    fn cool_off_ladder(&mut self, policy: &Policy, signal: &Signal, now: Instant, draw: u64, events: &mut Events) {
        if signal.hint.is_some() {
            return self.cool_for_hint(policy, signal, now, draw, events);
        }
        let length = backoff::signal_delay(&policy.cooldown, None, 1, draw).length;
        let live = Self::live(signal, None, Source::Ladder, now, length, draw);
        self.cool(self.state(now), live, (0, false), events);
    }

    /// A cooldown as long as the hint says, without a step.
    fn cool_for_hint(&mut self, policy: &Policy, signal: &Signal, now: Instant, draw: u64, events: &mut Events) {
        let Some(hint) = signal.hint else { return };
        let delay = backoff::hint_delay(&policy.cooldown, hint.wait, draw);
        let from = self.state(now);
        self.cool(
            from,
            Self::live(signal, Some(hint), hint.source, now, delay.length, draw),
            (0, delay.clamped),
            events,
        );
    }

    /// A signal that climbs: step + 1, delay.
    fn climb(&mut self, policy: &Policy, signal: &Signal, now: Instant, draw: u64, events: &mut Events) {
        self.rate_step = self.rate_step.saturating_add(1);
        let hint = signal.hint;
        let delay = backoff::signal_delay(&policy.cooldown, hint.map(|h| h.wait), self.rate_step, draw);
        let source = match hint {
            Some(hint) if !delay.by_ladder => hint.source,
            _ => Source::Ladder,
        };
        let from = self.state(now);
        let live = Self::live(signal, hint, source, now, delay.length, draw);
        self.cool(from, live, (self.rate_step, delay.clamped), events);
    }

    /// The ladder may be that of the failure's class; the step is the same for all.
    fn open_breaker(
        &mut self,
        policy: &Policy,
        failure: Failure,
        from: State,
        now: Instant,
        draw: u64,
        events: &mut Events,
    ) {
        self.breaker_step = self.breaker_step.saturating_add(1);
        let ladder = policy.breaker.ladder(failure.class());
        let delay = backoff::breaker_delay(&ladder, policy.cooldown.jitter, self.breaker_step, draw);
        let history = self.history();
        history.streak.clear();
        let live = Live {
            started: now,
            deadline: now.saturating_add(delay.length),
            reason: Reason::Failing,
            source: Source::Breaker,
            hint: None,
            received: None,
            draw,
        };
        self.cool(from, live, (self.breaker_step, false), events);
    }

    fn live(signal: &Signal, hint: Option<Hint>, source: Source, now: Instant, length: Duration, draw: u64) -> Live {
        Live {
            started: now,
            deadline: now.saturating_add(length),
            reason: signal.reason,
            source,
            hint: hint.map(|h| h.wait),
            received: signal.received.clone(),
            draw,
        }
    }

    pub(super) fn cool(&mut self, from: State, live: Live, (step, clamped): (u32, bool), events: &mut Events) {
        events.push(Event::Started {
            from,
            reason: live.reason,
            source: live.source,
            until: live.deadline,
            length: live.deadline.saturating_since(live.started),
            step,
            clamped,
            received: live.received.clone(),
        });
        self.enter(Phase::Cooling);
        let history = self.history();
        history.totals.cooldowns = history.totals.cooldowns.saturating_add(1);
        history.quiet_from = live.deadline;
        history.last = Some(live);
    }

    pub(super) fn count(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Signal(_) | Outcome::OffLadder(_) => {
                let history = self.history();
                history.limited_in_row = history.limited_in_row.saturating_add(1);
                history.totals.signals = history.totals.signals.saturating_add(1);
                history.quiet_from = history.quiet_from.max(now);
            }
            Outcome::Failing(failure) => {
                let history = self.history();
                history.failures_in_row = history.failures_in_row.saturating_add(1);
                history.totals.failures = history.totals.failures.saturating_add(1);
                history.last_failure = Some((now, *failure));
            }
            Outcome::Success | Outcome::Connected | Outcome::Exhausted(_) | Outcome::Answered | Outcome::Neutral => {}
        }
    }

    /// Counts a failure in clear; true when the breaker must open.
    fn streak_is_full(&mut self, policy: &Policy, now: Instant) -> bool {
        let breaker = &policy.breaker;
        if breaker.failure_threshold == 0 {
            return false;
        }
        let window = breaker.failure_window;
        let history = self.history();
        history.streak.push_back(now);
        if !window.is_zero() {
            history.streak.retain(|at| now.saturating_since(*at) <= window);
        }
        u32::try_from(history.streak.len()).unwrap_or(u32::MAX) >= breaker.failure_threshold
    }
}
