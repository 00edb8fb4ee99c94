//! A second reading of the contract (SPEC 3.1 to 3.11, 4.5, 7.3): one key, as plainly as it can be said. It shares no code
//! with the library except the words of its answers, and it is slow where that is plainer.

use std::time::Duration;

use holdoff::core::cooldown::{CooldownView, EndCause, Event, ProbeResult, Totals, View};
use holdoff::core::decision::{Freeze, Purpose, Reason, Source, State};
use holdoff::core::policy::{MAX_FREEZE, Mode, Policy};
use holdoff::core::signal::{Failure, Signal};
use holdoff::core::time::Instant;

use crate::range::Range;

mod outcomes;

/// What the synthetic answer says to those who find a probe out or the ramp full (3.6, 3.7).
const SHORT: Duration = Duration::from_secs(1);

/// What a permit knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    epoch: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Ramp,
    Probe(u64),
}

impl Ticket {
    pub(crate) fn is_probe(&self) -> bool {
        matches!(self.kind, Kind::Probe(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Forward(Ticket),
    Pass,
    WouldHave(Refusal),
    ShortCircuit(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) until: Instant,
    pub(crate) reason: Reason,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Clear,
    /// Nobody was let through since the deadline was set; the deadline may have passed.
    Cooling,
    /// A probe was let through since the deadline.
    Probing,
}

#[derive(Clone, Debug)]
struct Cool {
    shown: CooldownView,
    /// The jitter of the cooldown as a share of the most there can be, where it can be told from its length.
    share: Option<f64>,
}

#[derive(Clone, Debug)]
struct Ramp {
    ends: Instant,
    out: u32,
    successes: u32,
    reason: Reason,
}

#[derive(Clone, Debug)]
struct Probe {
    number: u64,
    started: Instant,
}

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    epoch: u64,
    /// Permits of earlier epochs change nothing.
    released: u64,
    phase: Phase,
    cool: Option<Cool>,
    ramp: Option<Ramp>,
    probe: Option<Probe>,
    probes: u64,
    probe_successes: u32,
    next_probe: Instant,
    rate_step: u32,
    breaker_step: u32,
    limited_in_row: u32,
    failures_in_row: u32,
    /// When the failures in a row came.
    streak: Vec<Instant>,
    last_failure: Option<(Instant, Failure)>,
    frozen_until: Option<Instant>,
    totals: Totals,
    /// Quiet time is counted from here: the last deadline, signal or verdict.
    quiet_from: Instant,
    last_length: Duration,
    /// What should have been told since the last look.
    pub(crate) events: Vec<Event>,
    /// What does not fit the contract by itself.
    pub(crate) complaint: Option<String>,
    pub(crate) short_circuited: u64,
    pub(crate) would_have: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            epoch: 0,
            released: 0,
            phase: Phase::Clear,
            cool: None,
            ramp: None,
            probe: None,
            probes: 0,
            probe_successes: 0,
            next_probe: Instant::ZERO,
            rate_step: 0,
            breaker_step: 0,
            limited_in_row: 0,
            failures_in_row: 0,
            streak: Vec::new(),
            last_failure: None,
            frozen_until: None,
            totals: Totals::default(),
            quiet_from: Instant::ZERO,
            last_length: Duration::ZERO,
            events: Vec::new(),
            complaint: None,
            short_circuited: 0,
            would_have: 0,
        }
    }

    /// 4.5 and 3.11: what the mode makes of the decision.
    pub(crate) fn admit(&mut self, policy: &Policy, purpose: Purpose, now: Instant) -> Answer {
        let frozen = self.frozen_until.filter(|until| now < *until);
        if policy.mode == Mode::Off && frozen.is_none() {
            return Answer::Pass;
        }
        match self.decide(policy, purpose, now) {
            Answer::ShortCircuit(refusal) if policy.mode == Mode::Enforce => {
                self.short_circuited += 1;
                Answer::ShortCircuit(refusal)
            }
            Answer::ShortCircuit(refusal) => {
                if let Some(until) = frozen {
                    self.short_circuited += 1;
                    return Answer::ShortCircuit(Refusal { until, reason: Reason::Manual, ..refusal });
                }
                self.would_have += 1;
                Answer::WouldHave(refusal)
            }
            answer => answer,
        }
    }

    fn decide(&mut self, policy: &Policy, purpose: Purpose, now: Instant) -> Answer {
        self.settle(policy, now);
        let refuse = |until, reason, state| Answer::ShortCircuit(Refusal { until, reason, state });
        let Some(cool) = &self.cool else {
            let Some(ramp) = self.ramp.as_mut().filter(|ramp| now < ramp.ends) else {
                self.ramp = None;
                return Answer::Forward(Ticket { epoch: self.epoch, kind: Kind::Plain });
            };
            // 7.3: after the deadline it passes without a permit, and needs no place.
            if purpose == Purpose::Tunnel && !proves_something(ramp.reason) {
                return Answer::Pass;
            }
            if ramp.out < 1 + ramp.successes {
                ramp.out += 1;
                return Answer::Forward(Ticket { epoch: self.epoch, kind: Kind::Ramp });
            }
            return refuse(now.saturating_add(SHORT), ramp.reason, State::Clear);
        };
        let (deadline, reason) = (cool.shown.deadline, cool.shown.reason);
        if now < deadline {
            return refuse(deadline, reason, State::Cooling);
        }
        // 7.3: a tunnel is only the probe where connecting proves something.
        if purpose == Purpose::Tunnel && !proves_something(reason) {
            return Answer::Pass;
        }
        if let Some(probe) = &self.probe {
            if !self.lease_is_over(policy, now) {
                return refuse(now.saturating_add(SHORT), reason, State::Probing);
            }
            self.free_slot(policy, probe.number, ProbeResult::LeaseOver);
        }
        if self.phase == Phase::Probing && now < self.next_probe {
            return refuse(self.next_probe.max(now.saturating_add(SHORT)), reason, State::Probing);
        }
        let from = if self.phase == Phase::Cooling { State::Cooling } else { State::Probing };
        if self.phase == Phase::Cooling {
            self.phase = Phase::Probing;
            self.epoch += 1;
            self.probe_successes = 0;
        }
        self.probes += 1;
        self.totals.probes += 1;
        self.probe = Some(Probe { number: self.probes, started: now });
        self.events.push(Event::ProbeStarted { from, reason });
        Answer::Forward(Ticket { epoch: self.epoch, kind: Kind::Probe(self.probes) })
    }

    /// A permit that was dropped. There is no clock where things are dropped.
    pub(crate) fn cancel(&mut self, policy: &Policy, ticket: Ticket) {
        if ticket.epoch == self.epoch {
            self.leave(policy, ticket, ProbeResult::Cancelled);
        }
    }

    fn success_matters(&self) -> bool {
        self.cool.is_some()
            || self.ramp.is_some()
            || self.rate_step > 0
            || self.breaker_step > 0
            || self.limited_in_row > 0
            || self.failures_in_row > 0
            || !self.streak.is_empty()
    }

    /// Frees a slot and says nothing about the host.
    fn leave(&mut self, policy: &Policy, ticket: Ticket, result: ProbeResult) {
        match ticket.kind {
            Kind::Plain => {}
            Kind::Ramp => {
                if let Some(ramp) = &mut self.ramp {
                    ramp.out = ramp.out.saturating_sub(1);
                }
            }
            Kind::Probe(number) => self.free_slot(policy, number, result),
        }
    }

    fn free_slot(&mut self, policy: &Policy, number: u64, result: ProbeResult) {
        if let Some(probe) = self.probe.take_if(|probe| probe.number == number) {
            self.next_probe = probe.started.saturating_add(policy.cooldown.min_cooldown);
            self.events.push(Event::ProbeEnded(result));
        }
    }

    /// 3.8 says both steps where 3.5 names one.
    fn forget_signals(&mut self) {
        self.rate_step = 0;
        self.breaker_step = 0;
        self.limited_in_row = 0;
    }

    #[expect(clippy::too_many_arguments, reason = "a cooldown has that many sides")]
    fn start(
        &mut self,
        policy: &Policy,
        reason: Reason,
        range: &Range,
        signal: Option<&Signal>,
        step: u32,
        now: Instant,
        heard: Option<(Instant, Source)>,
    ) {
        let Some((until, source)) = heard else {
            self.complaint = Some(format!("expected a cooldown of {range:?} to start"));
            return;
        };
        let length = until.saturating_since(now);
        if let Some(why) = range.misfit(length) {
            self.complaint = Some(why);
        }
        let from = self.state(now);
        let source = range.source.unwrap_or(source);
        let hint = signal.and_then(|signal| signal.hint).map(|hint| hint.wait);
        let received = signal.and_then(|signal| signal.received.clone());
        let share = match hint {
            Some(hint)
                if policy.cooldown.hint_jitter
                    && source != Source::Ladder
                    && hint >= Duration::from_secs(10)
                    && length < policy.cooldown.max_retry_after
                    && length > policy.cooldown.min_cooldown =>
            {
                let most = (hint.as_secs_f64() * 0.1).min(30.0);
                Some((length.as_secs_f64() - hint.as_secs_f64()) / most)
            }
            _ => None,
        };
        self.cool = Some(Cool {
            shown: CooldownView { started: now, deadline: until, reason, source, hint, received: received.clone() },
            share,
        });
        self.phase = Phase::Cooling;
        self.epoch += 1;
        self.ramp = None;
        self.probe = None;
        self.totals.cooldowns += 1;
        self.last_length = length;
        self.quiet_from = until;
        self.events.push(Event::Started {
            from,
            reason,
            source,
            until,
            length,
            step,
            clamped: range.clamped,
            received,
        });
    }

    fn clear(&mut self, policy: &Policy, now: Instant, cause: EndCause) {
        let from = self.state(now);
        let Some(cool) = self.cool.take() else { return };
        let reason = cool.shown.reason;
        self.phase = Phase::Clear;
        self.epoch += 1;
        self.probe = None;
        self.frozen_until = None;
        if cause != EndCause::Quiet && !policy.cooldown.ramp.is_zero() {
            let ends = now.saturating_add(policy.cooldown.ramp);
            self.ramp = Some(Ramp { ends, out: 0, successes: 0, reason });
        }
        self.events.push(Event::Ended { reason, from, cause });
    }

    /// 3.11.
    pub(crate) fn freeze(&mut self, policy: &Policy, length: Duration, now: Instant) -> Freeze {
        self.settle(policy, now);
        let length = length.min(MAX_FREEZE);
        let until = now.saturating_add(length);
        if let Some(cool) = &mut self.cool
            && now < cool.shown.deadline
        {
            if until <= cool.shown.deadline {
                if policy.mode == Mode::Enforce {
                    return Freeze::AlreadyLonger { until: cool.shown.deadline };
                }
                // 4.5: a freeze is enforced in every mode, the cooldown is not.
                if let Some(longer) = self.frozen_until.filter(|longer| *longer >= until) {
                    return Freeze::AlreadyLonger { until: longer };
                }
                self.frozen_until = Some(until);
                return Freeze::Set { until };
            }
            let shown = &mut cool.shown;
            (shown.deadline, shown.reason, shown.source) = (until, Reason::Manual, Source::Operator);
            (shown.hint, shown.received) = (None, None);
            self.last_length = until.saturating_since(shown.started);
            self.quiet_from = until;
            self.frozen_until = Some(until);
            self.events.push(Event::Extended {
                reason: Reason::Manual,
                source: Source::Operator,
                until,
                length,
                clamped: false,
                received: None,
            });
            return Freeze::Set { until };
        }
        let range = Range {
            low: length.as_secs_f64(),
            high: length.as_secs_f64(),
            source: Some(Source::Operator),
            clamped: false,
        };
        self.start(policy, Reason::Manual, &range, None, 0, now, Some((until, Source::Operator)));
        self.frozen_until = Some(until);
        Freeze::Set { until }
    }

    /// 3.11.
    pub(crate) fn release(&mut self, policy: &Policy, now: Instant) -> bool {
        self.settle(policy, now);
        let cooled = self.cool.is_some();
        self.forget_signals();
        self.forget_failures();
        self.frozen_until = None;
        if let Some(ramp) = &mut self.ramp {
            // None of the new epoch is in flight.
            ramp.out = 0;
        }
        if cooled {
            self.clear(policy, now, EndCause::Release);
        } else {
            self.epoch += 1;
        }
        self.released = self.epoch;
        cooled
    }

    /// What time alone does (3.6 the lease, 3.8 quiet time).
    pub(crate) fn settle(&mut self, policy: &Policy, now: Instant) {
        if self.frozen_until.is_some_and(|until| now >= until) {
            self.frozen_until = None;
        }
        if self.ramp.as_ref().is_some_and(|ramp| now >= ramp.ends) {
            self.ramp = None;
        }
        if self.last_length.is_zero() || now < self.quiet_over(policy) {
            return;
        }
        self.rate_step = 0;
        self.breaker_step = 0;
        self.limited_in_row = 0;
        if self.cool.is_some() {
            self.forget_failures();
            self.clear(policy, now, EndCause::Quiet);
        }
    }

    /// The lease is noticed by who asks for the slot, and by who looks.
    pub(crate) fn lease_is_over(&self, policy: &Policy, now: Instant) -> bool {
        let lease = policy.cooldown.probe_lease;
        self.probe.as_ref().is_some_and(|probe| now >= probe.started.saturating_add(lease))
    }

    fn forget_failures(&mut self) {
        self.failures_in_row = 0;
        self.streak.clear();
    }

    /// When quiet time will have passed if nothing happens.
    pub(crate) fn quiet_over(&self, policy: &Policy) -> Instant {
        self.quiet_from.saturating_add(self.last_length.max(policy.cooldown.quiet_time))
    }

    pub(crate) fn state(&self, now: Instant) -> State {
        match &self.cool {
            None => State::Clear,
            Some(cool) if now < cool.shown.deadline => State::Cooling,
            Some(_) => State::Probing,
        }
    }

    pub(crate) fn view(&self, policy: &Policy, now: Instant) -> View {
        View {
            state: self.state(now),
            probe_out: self.probe.is_some() && !self.lease_is_over(policy, now),
            ramping: self.ramp.is_some(),
            cooldown: self.cool.as_ref().map(|cool| cool.shown.clone()),
            rate_step: self.rate_step,
            breaker_step: self.breaker_step,
            limited_in_row: self.limited_in_row,
            failures_in_row: self.failures_in_row,
            last_failure: self.last_failure,
            frozen_until: self.frozen_until,
            totals: self.totals,
        }
    }

    /// The deadline of the cooldown that runs or is being tested.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cool.as_ref().map(|cool| cool.shown.deadline)
    }

    /// Points in time at which something changes by itself, for a clock that likes to hit them.
    pub(crate) fn edges(&self, policy: &Policy) -> Vec<Instant> {
        let mut edges = vec![self.next_probe];
        edges.extend(self.deadline());
        edges.extend(self.ramp.as_ref().map(|ramp| ramp.ends));
        edges.extend(self.frozen_until);
        edges.extend(self.probe.as_ref().map(|probe| probe.started.saturating_add(policy.cooldown.probe_lease)));
        edges.extend(self.streak.first().map(|first| first.saturating_add(policy.breaker.failure_window)));
        edges
    }
}

fn proves_something(reason: Reason) -> bool {
    matches!(reason, Reason::Failing | Reason::Manual)
}
