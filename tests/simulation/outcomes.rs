//! The table of 3.5, an outcome at a time.

use std::time::Duration;

use holdoff::core::cooldown::{EndCause, Event, ProbeResult};
use holdoff::core::decision::{Reason, Source};
use holdoff::core::policy::{Mode, Policy};
use holdoff::core::signal::{Failure, Outcome, Signal};
use holdoff::core::time::Instant;

use super::{Kind, Model, Phase, Ticket};
use crate::range::{Range, jittered, seconds};

impl Model {
    /// The table of 3.5. `heard` is the deadline the library chose, if it set one: where jitter is on, only its range is
    /// known here.
    pub(crate) fn complete(
        &mut self,
        policy: &Policy,
        ticket: Ticket,
        outcome: &Outcome,
        now: Instant,
        heard: Option<(Instant, Source)>,
    ) {
        if policy.mode == Mode::Off {
            // It feeds nothing, but a slot must not stay taken.
            return self.cancel(policy, ticket);
        }
        let older = ticket.epoch != self.epoch;
        if ticket.kind == Kind::Plain {
            let nothing = match outcome {
                Outcome::Answered | Outcome::Neutral => true,
                Outcome::Success | Outcome::Connected => older || !self.success_matters(),
                _ => false,
            };
            if nothing {
                // Time is noticed by those who need it.
                return;
            }
        }
        self.settle(policy, now);
        if ticket.epoch < self.released {
            return;
        }
        let older = ticket.epoch != self.epoch;
        match outcome {
            Outcome::Signal(signal) => {
                self.limited(now);
                self.signal(policy, ticket, older, signal, now, heard);
            }
            Outcome::OffLadder(signal) => {
                self.limited(now);
                if !older && ticket.is_probe() {
                    self.events.push(Event::ProbeEnded(ProbeResult::Limited));
                }
                // Whoever brought it: its hint is all that counts.
                self.signal(policy, ticket, true, signal, now, heard);
            }
            Outcome::Exhausted(signal) => {
                // 2.10: a success first; of an older epoch it may extend a live cooldown and never starts one.
                if !older {
                    self.success(policy, ticket, outcome, now);
                }
                if !older || self.is_cooling(now) {
                    self.signal(policy, ticket, true, signal, now, heard);
                }
            }
            Outcome::Failing(failure) => self.failing(policy, ticket, older, *failure, now, heard),
            _ if older => {}
            Outcome::Success | Outcome::Connected => self.success(policy, ticket, outcome, now),
            Outcome::Answered if ticket.is_probe() => {
                self.events.push(Event::ProbeEnded(ProbeResult::Answered));
                self.clear(policy, now, EndCause::Probe);
                // The steps are kept until quiet time, which this verdict starts anew.
                self.quiet_from = self.quiet_from.max(now);
            }
            _ => self.leave(policy, ticket, ProbeResult::Neutral),
        }
    }

    fn success(&mut self, policy: &Policy, ticket: Ticket, outcome: &Outcome, now: Instant) {
        if self.phase == Phase::Clear {
            self.forget_failures();
            if *outcome != Outcome::Connected {
                self.forget_signals();
            }
            if ticket.kind == Kind::Ramp
                && let Some(ramp) = &mut self.ramp
            {
                ramp.out = ramp.out.saturating_sub(1);
                ramp.successes += 1;
            }
            return;
        }
        self.probe_successes += 1;
        self.events.push(Event::ProbeEnded(ProbeResult::Success));
        if self.probe_successes >= policy.cooldown.success_threshold {
            // Reaching a host proves nothing about its rate limit (7.3).
            self.breaker_step = 0;
            self.forget_failures();
            if *outcome != Outcome::Connected {
                self.forget_signals();
            }
            self.clear(policy, now, EndCause::Probe);
        } else {
            if let Kind::Probe(number) = ticket.kind {
                self.probe.take_if(|probe| probe.number == number);
            }
        }
        self.quiet_from = self.quiet_from.max(now);
    }

    fn limited(&mut self, now: Instant) {
        self.totals.signals += 1;
        self.limited_in_row += 1;
        self.quiet_from = self.quiet_from.max(now);
    }

    fn is_cooling(&self, now: Instant) -> bool {
        self.cool.as_ref().is_some_and(|cool| now < cool.shown.deadline)
    }

    fn signal(
        &mut self,
        policy: &Policy,
        ticket: Ticket,
        older: bool,
        signal: &Signal,
        now: Instant,
        heard: Option<(Instant, Source)>,
    ) {
        let live = self.cool.as_ref().map(|cool| cool.shown.deadline).filter(|deadline| now < *deadline);
        if !older {
            if ticket.is_probe() {
                self.events.push(Event::ProbeEnded(ProbeResult::Limited));
            }
            self.rate_step += 1;
            let range = Range::signal(policy, signal, self.rate_step);
            return self.start(policy, signal.reason, &range, Some(signal), self.rate_step, now, heard);
        }
        if signal.hint.is_none() {
            return;
        }
        let range = Range::hint(policy, signal);
        match (&mut self.cool, live) {
            (Some(cool), Some(deadline)) => {
                let highest = now.saturating_add(seconds(range.high));
                let Some((until, _)) = heard else {
                    let lowest = now.saturating_add(seconds(range.low * (1.0 - 1e-9)));
                    if lowest > deadline.saturating_add(Duration::from_micros(2)) {
                        self.complaint = Some(format!("expected an extension to {lowest:?}, found {deadline:?} kept"));
                    }
                    return;
                };
                if until <= deadline || highest < deadline {
                    self.complaint = Some(format!("expected {deadline:?} to stay, found {until:?}"));
                }
                if let Some(why) = range.misfit(until.saturating_since(now)) {
                    self.complaint = Some(why);
                }
                if let (Some(share), Some(hint), true) = (cool.share, signal.hint, policy.cooldown.hint_jitter) {
                    let expected = jittered(hint.wait, share).min(policy.cooldown.max_retry_after.as_secs_f64());
                    let found = until.saturating_since(now).as_secs_f64();
                    if (expected - found).abs() > 1e-3 && found > policy.cooldown.min_cooldown.as_secs_f64() {
                        self.complaint = Some(format!("expected the jitter kept: {expected} s, found {found} s"));
                    }
                }
                cool.shown.deadline = until;
                cool.shown.reason = signal.reason;
                cool.shown.source = range.source.unwrap_or(cool.shown.source);
                cool.shown.hint = signal.hint.map(|hint| hint.wait);
                cool.shown.received = signal.received.clone();
                self.last_length = until.saturating_since(cool.shown.started);
                self.quiet_from = until;
                self.events.push(Event::Extended {
                    reason: signal.reason,
                    source: cool.shown.source,
                    until,
                    length: until.saturating_since(now),
                    clamped: range.clamped,
                    received: signal.received.clone(),
                });
            }
            _ => self.start(policy, signal.reason, &range, Some(signal), 0, now, heard),
        }
    }

    fn failing(
        &mut self,
        policy: &Policy,
        ticket: Ticket,
        older: bool,
        failure: Failure,
        now: Instant,
        heard: Option<(Instant, Source)>,
    ) {
        self.totals.failures += 1;
        self.last_failure = Some((now, failure));
        // Shown, whoever it was; what opens the breaker is counted apart.
        self.failures_in_row += 1;
        if older {
            return;
        }
        let threshold = policy.breaker.failure_threshold;
        if self.phase == Phase::Clear {
            if ticket.kind == Kind::Ramp {
                self.leave(policy, ticket, ProbeResult::Neutral);
            }
            if threshold == 0 {
                return;
            }
            let window = policy.breaker.failure_window;
            self.streak.push(now);
            self.streak.retain(|at| window.is_zero() || now.saturating_since(*at) <= window);
            if self.streak.len() < usize::try_from(threshold).unwrap_or(usize::MAX) {
                return;
            }
        } else if threshold == 0 {
            return self.leave(policy, ticket, ProbeResult::Failed);
        } else {
            self.events.push(Event::ProbeEnded(ProbeResult::Failed));
        }
        // Each opening counts anew.
        self.streak.clear();
        self.breaker_step += 1;
        let range = Range::breaker(policy, failure, self.breaker_step);
        self.start(policy, Reason::Failing, &range, None, self.breaker_step, now, heard);
    }
}
