//! The state machine of one key.
//!
//! **Invariant.** A live cooldown is only ever extended; no ordinary response ends it. After its deadline the key clears
//! by a probe or by quiet time. An operator may end it at any moment.
//!
//! Calling order: [`Cooldown::admit`] before something is sent, and for each [`Decision::Forward`] exactly one of
//! [`Cooldown::observe`] (what became of it) or [`Cooldown::cancel`] (nobody will know). `now` must not run backwards; if it
//! does, nothing breaks, it only counts as no time passed. What changed is returned as [`Events`].
//!
//! Each change of state raises the epoch, and an admission carries the epoch it was made in. That is what makes a burst of
//! parallel 429s one step, and what keeps a late success from ending a cooldown that began after it was sent.

use std::collections::VecDeque;
use std::time::Duration;

use super::decision::{Admission, AdmissionKind, Decision, Freeze, NotUntil, Purpose, Reason, Source, State};
use super::policy::{MAX_FREEZE, Mode, Policy};
use super::signal::{Failure, Outcome};
use super::time::Instant;

mod event;
mod outcomes;
mod view;

pub use event::{EndCause, Event, Events, ProbeResult};
pub use view::{CooldownView, Summary, Totals, View};

/// What a request is told while a probe is out or the ramp is full (SPEC 3.6, 3.7).
pub const SHORT_WAIT: Duration = Duration::from_secs(1);

/// The state machine of one key.
#[derive(Clone, Debug, Default)]
pub struct Cooldown {
    epoch: u64,
    /// Admissions of an epoch before this one change nothing.
    released: u64,
    phase: Phase,
    rate_step: u32,
    breaker_step: u32,
    /// Set by the first trouble; most keys never have any.
    history: Option<Box<History>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Clear,
    /// Clear, but requests are let in one by one until then.
    Ramp { until: Instant, in_flight: u32, successes: u32 },
    /// The deadline is in the history. Past it the key is shown as probing; the first admission makes it so.
    Cooling,
    Probing {
        /// The probe that holds the slot.
        out: Option<Probe>,
        /// The next probe starts at the earliest then.
        not_before: Instant,
        /// Probes that succeeded in this epoch.
        successes: u32,
        /// Probes that started in this epoch.
        started: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u32,
    started: Instant,
}

/// What is remembered of a key that had trouble.
#[derive(Clone, Debug)]
struct History {
    /// The live cooldown, or the last one. `None`: failures only.
    last: Option<Live>,
    /// Quiet time counts from then: the deadline, or a later signal or verdict.
    quiet_from: Instant,
    /// An operator's freeze, enforced in every mode.
    frozen_until: Option<Instant>,
    /// When the failures since the breaker last opened or a success came, as far as the window goes. Never more than the
    /// threshold: that many open it. Times are kept without a window too, so that a reload that sets one loses nothing.
    streak: VecDeque<Instant>,
    limited_in_row: u32,
    failures_in_row: u32,
    last_failure: Option<(Instant, Failure)>,
    totals: Totals,
}

/// One cooldown: what decided its deadline.
#[derive(Clone, Debug)]
struct Live {
    started: Instant,
    deadline: Instant,
    reason: Reason,
    source: Source,
    hint: Option<Duration>,
    received: Option<Box<str>>,
    draw: u64,
}

impl Cooldown {
    /// A key of which nothing is known.
    pub fn new() -> Self {
        // Not the first epoch, so that an admission can be older than it.
        Self { epoch: 1, ..Self::default() }
    }

    /// Asks before something is sent.
    pub fn admit(&mut self, policy: &Policy, purpose: Purpose, now: Instant, events: &mut Events) -> Decision {
        self.settle(policy, now, events);
        let Some((reason, deadline)) = self.last().map(|live| (live.reason, live.deadline)) else {
            return self.forward(AdmissionKind::Plain, purpose);
        };
        let short = |until: Instant, state| {
            let until = until.max(now.saturating_add(SHORT_WAIT));
            Decision::ShortCircuit(NotUntil { until, wait: until.saturating_since(now), reason, state })
        };
        // A tunnel proves nothing about a rate limit: after the deadline it neither tests the host nor waits for the test.
        let pass = match purpose {
            Purpose::Request => false,
            Purpose::Tunnel => !reason.is_about_reachability(),
            Purpose::Session => true,
        };
        match &mut self.phase {
            Phase::Clear => self.forward(AdmissionKind::Plain, purpose),
            Phase::Ramp { .. } if pass => Decision::Pass,
            Phase::Ramp { in_flight, successes, .. } => {
                if *in_flight > *successes {
                    return short(now, State::Clear);
                }
                *in_flight = in_flight.saturating_add(1);
                self.forward(AdmissionKind::Ramp, purpose)
            }
            Phase::Cooling if now < deadline => Decision::ShortCircuit(NotUntil {
                until: deadline,
                wait: deadline.saturating_since(now),
                reason,
                state: State::Cooling,
            }),
            Phase::Cooling | Phase::Probing { .. } if pass => Decision::Pass,
            Phase::Cooling => {
                self.enter(Phase::Probing { out: None, not_before: deadline, successes: 0, started: 0 });
                self.start_probe(State::Cooling, reason, purpose, now, events)
            }
            Phase::Probing { out, not_before, .. } => {
                if let Some(probe) = out {
                    if now < probe.started.saturating_add(policy.cooldown.probe_lease) {
                        return short(now, State::Probing);
                    }
                    *not_before = probe.started.saturating_add(policy.cooldown.min_cooldown);
                    *out = None;
                    events.push(Event::ProbeEnded(ProbeResult::LeaseOver));
                }
                if now < *not_before {
                    return short(*not_before, State::Probing);
                }
                self.start_probe(State::Probing, reason, purpose, now, events)
            }
        }
    }

    /// Hands an admission back with what became of it. `now` is the arrival of the response head; `draw` a random word.
    pub fn observe(
        &mut self,
        policy: &Policy,
        admission: Admission,
        outcome: &Outcome,
        now: Instant,
        draw: u64,
        events: &mut Events,
    ) {
        self.settle(policy, now, events);
        self.free_ramp_slot(admission);
        if self.is_void(admission) {
            return;
        }
        let current = admission.epoch == self.epoch;
        self.count(outcome, now);
        match self.phase {
            Phase::Clear | Phase::Ramp { .. } if current => self.observe_clear(policy, outcome, now, draw, events),
            Phase::Cooling if self.deadline() > now => self.observe_cooling(policy, outcome, now, events),
            Phase::Probing { .. } if current => {
                self.observe_probe(policy, admission, outcome, now, draw, events);
            }
            _ => self.observe_older(policy, outcome, now, draw, events),
        }
    }

    /// Hands an admission back of which nothing will be known.
    pub fn cancel(&mut self, policy: &Policy, admission: Admission, events: &mut Events) {
        self.free_ramp_slot(admission);
        if admission.epoch == self.epoch {
            self.free_probe_slot(policy, admission, ProbeResult::Cancelled, events);
        }
    }

    /// An operator sets a cooldown of `length`, at most [`MAX_FREEZE`].
    pub fn freeze(&mut self, policy: &Policy, length: Duration, now: Instant, events: &mut Events) -> Freeze {
        self.settle(policy, now, events);
        let length = length.min(MAX_FREEZE);
        let until = now.saturating_add(length);
        let cooling = matches!(self.phase, Phase::Cooling) && self.deadline() > now;
        if cooling && self.deadline() >= until {
            // Where the longer cooldown is not enforced, the freeze is all the same (SPEC 4.5).
            let held = if policy.mode == Mode::Enforce { Some(self.deadline()) } else { self.frozen_until(now) };
            if let Some(held) = held.filter(|held| *held >= until) {
                return Freeze::AlreadyLonger { until: held };
            }
            self.history().frozen_until = Some(until);
            return Freeze::Set { until };
        }
        let state = self.state(now);
        self.history().frozen_until = Some(until);
        if cooling {
            self.extend(until, Reason::Manual, Source::Operator, None, None);
            events.push(Event::Extended {
                reason: Reason::Manual,
                source: Source::Operator,
                until,
                length,
                clamped: false,
                received: None,
            });
        } else {
            self.cool(
                state,
                Live {
                    started: now,
                    deadline: until,
                    reason: Reason::Manual,
                    source: Source::Operator,
                    hint: None,
                    received: None,
                    draw: 0,
                },
                (0, false),
                events,
            );
        }
        Freeze::Set { until }
    }

    /// An operator ends the cooldown. Says whether there was one to end; admissions made before change nothing any more.
    pub fn release(&mut self, policy: &Policy, now: Instant, events: &mut Events) -> bool {
        self.settle(policy, now, events);
        let from = self.state(now);
        let live = !matches!(self.phase, Phase::Clear | Phase::Ramp { .. });
        self.reset_steps();
        if let Some(history) = &mut self.history {
            history.frozen_until = None;
        }
        if live {
            self.clear(policy, now);
            if let Some(reason) = self.last().map(|live| live.reason) {
                events.push(Event::Ended { reason, from, cause: EndCause::Release });
            }
        } else {
            self.epoch = self.epoch.saturating_add(1);
            if let Phase::Ramp { in_flight, .. } = &mut self.phase {
                *in_flight = 0;
            }
        }
        self.released = self.epoch;
        live
    }

    /// Lets time pass: ends a ramp, and a cooldown by quiet time. Called by every other method; call it on its own so that
    /// a key nobody asks for is reported in time.
    pub fn settle(&mut self, policy: &Policy, now: Instant, events: &mut Events) {
        if let Phase::Ramp { until, .. } = self.phase
            && now >= until
        {
            self.phase = Phase::Clear;
        }
        let Some(history) = &mut self.history else { return };
        if history.frozen_until.is_some_and(|until| now >= until) {
            history.frozen_until = None;
        }
        let Some(live) = &history.last else { return };
        let length = live.deadline.saturating_since(live.started);
        if now < history.quiet_from.saturating_add(length.max(policy.cooldown.quiet_time)) {
            return;
        }
        let (reason, from) = (live.reason, self.state(now));
        match self.phase {
            // The failures in a row since then are none of the old cooldown's, and this is passed again and again.
            Phase::Clear | Phase::Ramp { .. } => self.reset_ladders(),
            Phase::Cooling | Phase::Probing { .. } => {
                self.reset_steps();
                self.enter(Phase::Clear);
                events.push(Event::Ended { reason, from, cause: EndCause::Quiet });
            }
        }
    }

    /// The state as it is shown at `now`.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Clear | Phase::Ramp { .. } => State::Clear,
            Phase::Cooling if now < self.deadline() => State::Cooling,
            Phase::Cooling | Phase::Probing { .. } => State::Probing,
        }
    }

    /// Whether a release came after an admission, so that its outcome changes nothing.
    pub const fn is_void(&self, admission: Admission) -> bool {
        admission.epoch < self.released
    }

    /// Everything that is shown. Call [`Cooldown::settle`] first.
    pub fn view(&self, policy: &Policy, now: Instant) -> View {
        let history = self.history.as_deref();
        let clear = matches!(self.phase, Phase::Clear | Phase::Ramp { .. });
        View {
            state: self.state(now),
            probe_out: matches!(self.phase, Phase::Probing { out: Some(probe), .. }
                if now < probe.started.saturating_add(policy.cooldown.probe_lease)),
            ramping: matches!(self.phase, Phase::Ramp { .. }),
            cooldown: self.last().filter(|_| !clear).map(|live| CooldownView {
                started: live.started,
                deadline: live.deadline,
                reason: live.reason,
                source: live.source,
                hint: live.hint,
                received: live.received.clone(),
            }),
            rate_step: self.rate_step,
            breaker_step: self.breaker_step,
            limited_in_row: history.map_or(0, |h| h.limited_in_row),
            failures_in_row: history.map_or(0, |h| h.failures_in_row),
            last_failure: history.and_then(|h| h.last_failure),
            frozen_until: self.frozen_until(now),
            totals: history.map(|h| h.totals).unwrap_or_default(),
        }
    }

    /// What the hot path needs.
    pub fn summary(&self) -> Summary {
        Summary {
            epoch: self.epoch,
            clear: matches!(self.phase, Phase::Clear),
            ramping: matches!(self.phase, Phase::Ramp { .. }),
            cooling: match self.phase {
                Phase::Cooling => self.last().map(|live| (live.deadline, live.reason)),
                _ => None,
            },
            // A step on the ladder of signals implies a signal in a row, and a streak a failure in a row.
            success_matters: self.breaker_step > 0
                || self.history.as_ref().is_some_and(|h| h.limited_in_row > 0 || h.failures_in_row > 0),
            frozen_until: self.history.as_ref().and_then(|h| h.frozen_until),
        }
    }

    /// The invariants that hold between any two calls; the first that does not, by name.
    ///
    /// # Errors
    /// Names the broken invariant.
    pub fn check_invariants(&self, policy: &Policy) -> Result<(), &'static str> {
        match self.phase {
            Phase::Clear => {}
            Phase::Ramp { in_flight, successes, .. } => {
                // Successes only grow in a ramp, so the places taken never exceed them by more than one.
                if in_flight > successes.saturating_add(1) {
                    return Err("more requests in the ramp than successes allow");
                }
            }
            Phase::Cooling => {
                let Some(live) = self.last() else { return Err("cooling without a cooldown") };
                let length = live.deadline.saturating_since(live.started);
                if live.reason == Reason::Failing && length > policy.breaker.longest() {
                    return Err("a breaker cooldown longer than its cap");
                }
            }
            Phase::Probing { out, started, .. } => {
                if self.last().is_none() {
                    return Err("probing without a cooldown");
                }
                if out.is_some_and(|probe| probe.number > started) {
                    return Err("a probe that never started is out");
                }
            }
        }
        if self.released > self.epoch {
            return Err("a release from the future");
        }
        let history = self.history.as_ref();
        if self.rate_step > history.map_or(0, |h| h.limited_in_row) {
            return Err("more steps than signals in a row");
        }
        if history.is_some_and(|h| h.failures_in_row == 0 && !h.streak.is_empty()) {
            return Err("a streak without failures in a row");
        }
        Ok(())
    }

    fn extend(
        &mut self,
        until: Instant,
        reason: Reason,
        source: Source,
        hint: Option<Duration>,
        received: Option<Box<str>>,
    ) {
        let history = self.history();
        history.quiet_from = until;
        if let Some(live) = &mut history.last {
            live.deadline = until;
            live.reason = reason;
            live.source = source;
            live.hint = hint;
            live.received = received;
        }
    }

    fn start_probe(
        &mut self,
        from: State,
        reason: Reason,
        purpose: Purpose,
        now: Instant,
        events: &mut Events,
    ) -> Decision {
        let mut number = 0;
        if let Phase::Probing { out, started, .. } = &mut self.phase {
            *started = started.saturating_add(1);
            number = *started;
            *out = Some(Probe { number, started: now });
        }
        let totals = &mut self.history().totals;
        totals.probes = totals.probes.saturating_add(1);
        events.push(Event::ProbeStarted { from, reason });
        self.forward(AdmissionKind::Probe(number), purpose)
    }

    /// A verdict that says nothing about the host frees the slot; the next probe waits out the floor.
    fn free_probe_slot(&mut self, policy: &Policy, admission: Admission, result: ProbeResult, events: &mut Events) {
        let AdmissionKind::Probe(number) = admission.kind else { return };
        let Phase::Probing { out, not_before, .. } = &mut self.phase else { return };
        match out {
            Some(probe) if probe.number == number => {
                *not_before = probe.started.saturating_add(policy.cooldown.min_cooldown);
                *out = None;
                events.push(Event::ProbeEnded(result));
            }
            // It had lost its slot to the lease.
            _ => {}
        }
    }

    fn free_ramp_slot(&mut self, admission: Admission) {
        if admission.kind == AdmissionKind::Ramp
            && admission.epoch == self.epoch
            && let Phase::Ramp { in_flight, .. } = &mut self.phase
        {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    fn ramp_success(&mut self) {
        if let Phase::Ramp { successes, .. } = &mut self.phase {
            *successes = successes.saturating_add(1);
        }
    }

    fn clear_by_probe(&mut self, policy: &Policy, now: Instant, events: &mut Events) {
        self.clear(policy, now);
        self.verdict_at(now);
        if let Some(reason) = self.last().map(|live| live.reason) {
            events.push(Event::Ended { reason, from: State::Probing, cause: EndCause::Probe });
        }
    }

    /// Clear, with a ramp when there is one.
    fn clear(&mut self, policy: &Policy, now: Instant) {
        let ramp = policy.cooldown.ramp;
        self.enter(if ramp.is_zero() {
            Phase::Clear
        } else {
            Phase::Ramp { until: now.saturating_add(ramp), in_flight: 0, successes: 0 }
        });
    }

    fn enter(&mut self, phase: Phase) {
        self.epoch = self.epoch.saturating_add(1);
        self.phase = phase;
    }

    fn forward(&self, kind: AdmissionKind, purpose: Purpose) -> Decision {
        if purpose == Purpose::Session {
            return Decision::Pass;
        }
        Decision::Forward(Admission { epoch: self.epoch, kind, purpose })
    }

    fn reset_steps(&mut self) {
        self.reset_ladders();
        self.reset_streak();
    }

    fn reset_ladders(&mut self) {
        self.rate_step = 0;
        self.breaker_step = 0;
        if let Some(history) = &mut self.history {
            history.limited_in_row = 0;
        }
    }

    fn reset_streak(&mut self) {
        if let Some(history) = &mut self.history {
            history.streak.clear();
            history.failures_in_row = 0;
        }
    }

    fn verdict_at(&mut self, now: Instant) {
        let history = self.history();
        history.quiet_from = history.quiet_from.max(now);
    }

    fn last(&self) -> Option<&Live> {
        self.history.as_ref().and_then(|history| history.last.as_ref())
    }

    fn frozen_until(&self, now: Instant) -> Option<Instant> {
        self.history.as_ref()?.frozen_until.filter(|until| now < *until)
    }

    fn deadline(&self) -> Instant {
        self.last().map_or(Instant::ZERO, |live| live.deadline)
    }

    fn history(&mut self) -> &mut History {
        self.history.get_or_insert_with(|| {
            Box::new(History {
                last: None,
                quiet_from: Instant::ZERO,
                frozen_until: None,
                streak: VecDeque::new(),
                limited_in_row: 0,
                failures_in_row: 0,
                last_failure: None,
                totals: Totals::default(),
            })
        })
    }
}

#[cfg(test)]
mod tests;
