//! A second reading of the contract (SPEC 3.1 to 3.11, 4.5, 7.3): one key, as plainly as it can be said. It shares no code
//! with the library except the words of its answers, and it is slow where that is plainer.

use std::time::Duration;

use holdoff::core::cooldown::{CooldownView, EndCause, Event, ProbeResult, Totals, View};
use holdoff::core::decision::{Freeze, Purpose, Reason, Source, State};
use holdoff::core::policy::{Ladder, MAX_FREEZE, Mode, Policy};
use holdoff::core::signal::{Failure, Outcome, Signal};
use holdoff::core::time::Instant;

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
            Outcome::Signal(signal) => self.signal(policy, ticket, older, signal, now, heard),
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

    fn success(&mut self, policy: &Policy, ticket: Ticket, outcome: &Outcome, now: Instant) {
        if self.phase == Phase::Clear {
            self.forget_failures();
            if *outcome == Outcome::Success {
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
            if *outcome == Outcome::Success {
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

    /// 3.8 says both steps where 3.5 names one.
    fn forget_signals(&mut self) {
        self.rate_step = 0;
        self.breaker_step = 0;
        self.limited_in_row = 0;
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
        self.totals.signals += 1;
        self.limited_in_row += 1;
        let live = self.cool.as_ref().map(|cool| cool.shown.deadline).filter(|deadline| now < *deadline);
        self.quiet_from = self.quiet_from.max(now);
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
        let range = Range::breaker(policy, self.breaker_step);
        self.start(policy, Reason::Failing, &range, None, self.breaker_step, now, heard);
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
                return Freeze::AlreadyLonger { until: cool.shown.deadline };
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
        let mut edges = vec![self.quiet_over(policy), self.next_probe];
        edges.extend(self.deadline());
        edges.extend(self.ramp.as_ref().map(|ramp| ramp.ends));
        edges.extend(self.frozen_until);
        edges.extend(self.probe.as_ref().map(|probe| probe.started.saturating_add(policy.cooldown.probe_lease)));
        edges.extend(self.streak.first().map(|first| first.saturating_add(policy.breaker.failure_window)));
        edges
    }
}

/// 3.2 to 3.4 and 3.9: between what lengths a cooldown may be, in seconds.
#[derive(Debug)]
struct Range {
    low: f64,
    high: f64,
    /// Who said so; none where jitter decides.
    source: Option<Source>,
    clamped: bool,
}

impl Range {
    fn signal(policy: &Policy, signal: &Signal, step: u32) -> Self {
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
    fn hint(policy: &Policy, signal: &Signal) -> Self {
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

    fn breaker(policy: &Policy, step: u32) -> Self {
        let limits = &policy.breaker;
        let cap = limits.max.as_secs_f64();
        let length = climb(limits.initial.as_secs_f64(), limits.growth, step, cap);
        let jitter = policy.cooldown.jitter;
        Self {
            low: length * (1.0 - jitter),
            high: (length * (1.0 + jitter)).min(cap),
            source: Some(Source::Breaker),
            clamped: false,
        }
    }

    fn misfit(&self, length: Duration) -> Option<String> {
        let length = length.as_secs_f64();
        let slack = 1e-6 + 1e-9 * self.high;
        let fits = length >= self.low - slack && length <= self.high + slack;
        (!fits).then(|| format!("expected {} s to {} s, found {length} s", self.low, self.high))
    }
}

fn proves_something(reason: Reason) -> bool {
    matches!(reason, Reason::Failing | Reason::Manual)
}

fn climb(base: f64, growth: f64, step: u32, cap: f64) -> f64 {
    let mut length = base;
    for _ in 1..step.min(10_000) {
        length = (length * growth).min(cap);
    }
    length.min(cap)
}

fn jittered(hint: Duration, share: f64) -> f64 {
    let hint = hint.as_secs_f64();
    hint + share * (hint * 0.1).min(30.0)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds * (1.0 + 1e-9))
        .unwrap_or(Duration::MAX)
        .saturating_add(Duration::from_micros(2))
}
