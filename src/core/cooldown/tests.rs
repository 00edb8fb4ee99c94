//! SPEC 3.5 to 3.11: every row and column of the table and every clause, by name. Jitter is zero; times are seconds.

use std::time::Duration;

use super::*;
use crate::core::policy::{BreakerLimits, CooldownLimits, Mode};
use crate::core::signal::{Hint, Signal};

/// A key with a policy, driven by seconds.
struct Fixture {
    machine: Cooldown,
    policy: Policy,
    events: Vec<Event>,
}

/// What a test says of a signal.
fn limited(hint: Option<u64>) -> Outcome {
    signal(Reason::RateLimited, hint)
}

fn signal(reason: Reason, hint: Option<u64>) -> Outcome {
    Outcome::Signal(Signal {
        reason,
        hint: hint.map(|secs| Hint { wait: secs_of(secs), source: Source::RetryAfterSeconds }),
        received: hint.map(|secs| format!("Retry-After: {secs}").into()),
    })
}

const FAILING: Outcome = Outcome::Failing(Failure::Refused);

const fn secs_of(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

impl Fixture {
    fn new() -> Self {
        let cooldown = CooldownLimits { hint_jitter: false, ..CooldownLimits::default() };
        Self { machine: Cooldown::new(), policy: Policy { cooldown, ..Policy::default() }, events: Vec::new() }
    }

    /// A breaker that opens at `threshold` failures, without a window.
    fn with_breaker(threshold: u32) -> Self {
        let mut fixture = Self::new();
        fixture.policy.breaker =
            BreakerLimits { failure_threshold: threshold, failure_window: Duration::ZERO, ..BreakerLimits::default() };
        fixture
    }

    fn checked<T>(&mut self, events: &Events, result: T) -> T {
        self.events.extend(events.iter().cloned());
        self.machine.check_invariants(&self.policy).unwrap();
        result
    }

    fn admit(&mut self, now: u64) -> Decision {
        self.admit_for(Purpose::Request, at(now))
    }

    fn admit_for(&mut self, purpose: Purpose, now: Instant) -> Decision {
        let mut events = Events::default();
        let decision = self.machine.admit(&self.policy, purpose, now, &mut events);
        self.checked(&events, decision)
    }

    /// Admits and takes the admission; panics on a refusal.
    fn forward(&mut self, now: u64) -> Admission {
        match self.admit(now) {
            Decision::Forward(admission) => admission,
            other => panic!("expected a forward at {now} s, found {other:?}"),
        }
    }

    /// Admits and takes the refusal's wait in seconds; panics on a forward.
    fn refused(&mut self, now: u64) -> u64 {
        match self.admit(now) {
            Decision::ShortCircuit(refusal) => refusal.wait.as_secs(),
            other => panic!("expected a refusal at {now} s, found {other:?}"),
        }
    }

    fn observe(&mut self, admission: Admission, outcome: &Outcome, now: u64) {
        let mut events = Events::default();
        self.machine.observe(&self.policy, admission, outcome, at(now), 0, &mut events);
        self.checked(&events, ());
    }

    /// One whole exchange.
    fn exchange(&mut self, outcome: &Outcome, now: u64) {
        let admission = self.forward(now);
        self.observe(admission, outcome, now);
    }

    fn cancel(&mut self, admission: Admission) {
        let mut events = Events::default();
        self.machine.cancel(&self.policy, admission, &mut events);
        self.checked(&events, ());
    }

    fn freeze(&mut self, length: Duration, now: u64) -> Freeze {
        let mut events = Events::default();
        let result = self.machine.freeze(&self.policy, length, at(now), &mut events);
        self.checked(&events, result)
    }

    fn release(&mut self, now: u64) -> bool {
        let mut events = Events::default();
        let result = self.machine.release(&self.policy, at(now), &mut events);
        self.checked(&events, result)
    }

    fn view(&mut self, now: u64) -> View {
        let mut events = Events::default();
        self.machine.settle(&self.policy, at(now), &mut events);
        self.checked(&events, ());
        self.machine.view(&self.policy, at(now))
    }

    fn state(&mut self, now: u64) -> State {
        self.view(now).state
    }

    /// The live deadline in seconds.
    fn deadline(&mut self, now: u64) -> u64 {
        self.view(now).cooldown.unwrap().deadline.as_nanos() / 1_000_000_000
    }

    fn reason(&mut self, now: u64) -> Reason {
        self.view(now).cooldown.unwrap().reason
    }

    /// A key that cools from `now` for `hint` seconds, and an admission of the epoch before.
    fn cooling(now: u64, hint: u64) -> (Self, Admission) {
        let mut fixture = Self::new();
        let older = fixture.forward(now);
        fixture.exchange(&limited(Some(hint)), now);
        (fixture, older)
    }

    /// A key whose probe is out since `now`, the probe, and an admission of an older epoch.
    fn probing(now: u64) -> (Self, Admission, Admission) {
        let (mut fixture, older) = Self::cooling(now - 10, 10);
        let probe = fixture.forward(now);
        assert!(matches!(probe.kind(), AdmissionKind::Probe(_)));
        (fixture, probe, older)
    }
}

// ---------------------------------------------------------------- 3.5, row "signal with hint"

#[test]
fn signal_with_hint_in_clear_cools_one_step_up() {
    let mut key = Fixture::new();
    key.exchange(&limited(Some(5)), 100);
    assert_eq!((key.state(100), key.deadline(100), key.view(100).rate_step), (State::Cooling, 105, 1));
    assert!(matches!(
        key.events.as_slice(),
        [Event::Started {
            from: State::Clear,
            reason: Reason::RateLimited,
            source: Source::RetryAfterSeconds,
            step: 1,
            ..
        }]
    ));
}

#[test]
fn signal_with_hint_in_cooling_extends_if_later_and_keeps_the_step() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &limited(Some(5)), 102);
    assert_eq!((key.deadline(102), key.view(102).rate_step), (107, 1));
    assert!(matches!(key.events.last(), Some(Event::Extended { length, .. }) if *length == secs_of(5)));
}

#[test]
fn signal_with_hint_of_the_own_probe_cools_one_step_up() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &limited(Some(5)), 111);
    // Step 2 of a hint of 5 s is 10 s.
    assert_eq!((key.state(111), key.deadline(111), key.view(111).rate_step), (State::Cooling, 121, 2));
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::Limited)));
}

#[test]
fn signal_with_hint_of_an_older_permit_in_clear_cools_for_the_hint_and_keeps_the_step() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(probe, &Outcome::Success, 111);
    assert_eq!(key.state(111), State::Clear);
    key.observe(older, &limited(Some(7)), 112);
    assert_eq!((key.state(112), key.deadline(112), key.view(112).rate_step), (State::Cooling, 119, 0));
}

#[test]
fn signal_with_hint_of_an_older_permit_in_probing_cools_and_makes_the_probe_older() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(older, &limited(Some(7)), 111);
    assert_eq!((key.state(111), key.deadline(111), key.view(111).rate_step), (State::Cooling, 118, 1));
    // The probe's own verdict now finds a live cooldown: a success ends nothing.
    key.observe(probe, &Outcome::Success, 112);
    assert_eq!((key.state(112), key.deadline(112)), (State::Cooling, 118));
}

#[test]
fn signal_with_hint_of_an_older_permit_after_the_deadline_cools_for_the_hint() {
    let (mut key, older) = Fixture::cooling(100, 5);
    assert_eq!(key.state(106), State::Probing);
    key.observe(older, &limited(Some(7)), 106);
    assert_eq!((key.deadline(106), key.view(106).rate_step), (113, 1));
}

#[test]
fn signal_with_hint_of_an_older_permit_at_the_deadline_is_a_cooldown_of_its_own() {
    for now in [105, 106] {
        let (mut key, older) = Fixture::cooling(100, 5);
        key.observe(older, &limited(Some(7)), now);
        let started = matches!(key.events.last(), Some(Event::Started { from: State::Probing, step: 0, .. }));
        assert!(started, "{now}: {:?}", key.events);
        assert_eq!(key.view(now).totals.cooldowns, 2);
    }
}

// ---------------------------------------------------------------- 3.5, row "signal without hint"

#[test]
fn what_another_holdoff_relays_opens_and_extends_but_is_no_step() {
    let relayed = |hint| match limited(Some(hint)) {
        Outcome::Signal(signal) => Outcome::OffLadder(signal),
        other => other,
    };
    let mut fixture = Fixture::new();
    let (early, late) = (fixture.forward(0), fixture.forward(0));
    fixture.observe(early, &relayed(10), 0);
    assert_eq!((fixture.refused(0), fixture.machine.rate_step), (10, 0), "opens");
    fixture.observe(late, &relayed(20), 1);
    assert_eq!((fixture.refused(1), fixture.machine.rate_step), (20, 0), "extends");
    let probe = fixture.forward(21);
    fixture.observe(probe, &relayed(2), 21);
    assert_eq!((fixture.refused(21), fixture.machine.rate_step), (2, 0), "by the probe, again for the hint alone");
    let probe = fixture.forward(23);
    fixture.observe(probe, &limited(Some(2)), 23);
    assert_eq!(fixture.machine.rate_step, 1, "the host's own is the first step");
}

#[test]
fn signal_without_hint_in_clear_cools_one_step_up() {
    let mut key = Fixture::new();
    key.exchange(&limited(None), 100);
    assert_eq!((key.deadline(100), key.view(100).rate_step), (160, 1));
    assert!(matches!(key.events.as_slice(), [Event::Started { source: Source::Ladder, .. }]));
}

#[test]
fn signal_without_hint_in_cooling_is_only_counted() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &limited(None), 104);
    let view = key.view(104);
    assert_eq!((key.deadline(104), view.rate_step, view.totals.signals, view.limited_in_row), (105, 1, 2, 2));
}

#[test]
fn signal_without_hint_of_the_own_probe_cools_one_step_up() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &limited(None), 110);
    // Step 2 without a hint is 120 s.
    assert_eq!((key.deadline(110), key.view(110).rate_step), (230, 2));
}

#[test]
fn signal_without_hint_of_an_older_permit_is_only_counted_in_probing_and_in_clear() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(older, &limited(None), 110);
    assert_eq!((key.state(110), key.view(110).totals.signals), (State::Probing, 2));
    key.observe(probe, &Outcome::Success, 111);
    key.observe(older, &limited(None), 112);
    assert_eq!((key.state(112), key.view(112).totals.signals), (State::Clear, 3));
}

// ---------------------------------------------------------------- 3.5, row "success"

#[test]
fn success_in_clear_resets_the_failure_streak_and_the_steps() {
    let mut key = Fixture::with_breaker(2);
    key.exchange(&FAILING, 100);
    key.exchange(&Outcome::Success, 101);
    key.exchange(&FAILING, 102);
    assert_eq!(key.state(102), State::Clear);
    // Steps that a 500 of the probe kept are reset as well.
    key.exchange(&limited(Some(1)), 103);
    let probe = key.forward(104);
    key.observe(probe, &Outcome::Answered, 104);
    assert_eq!(key.view(104).rate_step, 1);
    key.exchange(&Outcome::Success, 105);
    assert_eq!(key.view(105).rate_step, 0);
}

#[test]
fn success_in_cooling_changes_nothing() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &Outcome::Success, 101);
    assert_eq!((key.state(101), key.deadline(101), key.view(101).rate_step), (State::Cooling, 105, 1));
}

#[test]
fn success_of_the_own_probe_clears_with_a_ramp_and_resets_the_steps() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &Outcome::Success, 111);
    let view = key.view(111);
    assert_eq!((view.state, view.ramping, view.rate_step, view.breaker_step), (State::Clear, true, 0, 0));
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::Success)));
    assert!(matches!(key.events.last(), Some(Event::Ended { cause: EndCause::Probe, .. })));
}

#[test]
fn success_of_the_own_probe_clears_only_at_the_threshold() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.cooldown.success_threshold = 2;
    key.observe(probe, &Outcome::Success, 110);
    assert_eq!(key.state(110), State::Probing);
    let second = key.forward(110);
    key.observe(second, &Outcome::Success, 110);
    assert_eq!(key.state(110), State::Clear);
}

#[test]
fn success_of_an_older_permit_changes_nothing_in_probing_and_in_clear() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(older, &Outcome::Success, 110);
    assert_eq!((key.state(110), key.view(110).rate_step), (State::Probing, 1));
    key.observe(probe, &Outcome::Answered, 111);
    key.observe(older, &Outcome::Success, 112);
    assert_eq!((key.state(112), key.view(112).rate_step), (State::Clear, 1));
}

// ---------------------------------------------------------------- 3.5, row "other 5xx"

#[test]
fn other_5xx_in_clear_and_in_cooling_changes_nothing() {
    let mut key = Fixture::with_breaker(2);
    key.exchange(&FAILING, 100);
    let older = key.forward(100);
    key.exchange(&Outcome::Answered, 100);
    // The streak stands: one more failure opens the breaker.
    key.exchange(&FAILING, 101);
    assert_eq!((key.state(101), key.deadline(101)), (State::Cooling, 102));
    key.observe(older, &Outcome::Answered, 101);
    assert_eq!((key.state(101), key.deadline(101)), (State::Cooling, 102));
}

#[test]
fn other_5xx_of_the_own_probe_clears_with_a_ramp_and_keeps_the_steps() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &Outcome::Answered, 111);
    let view = key.view(111);
    assert_eq!((view.state, view.ramping, view.rate_step), (State::Clear, true, 1));
    // The next signal climbs on: step 2 of a hint of 5 s.
    key.exchange(&limited(Some(5)), 112);
    assert_eq!(key.deadline(112), 122);
}

#[test]
fn other_5xx_of_an_older_permit_changes_nothing() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(older, &Outcome::Answered, 110);
    assert_eq!(key.state(110), State::Probing);
    key.observe(probe, &Outcome::Success, 111);
    key.observe(older, &Outcome::Answered, 111);
    assert!(key.view(111).ramping);
}

// ---------------------------------------------------------------- 3.5, row "failing"

#[test]
fn failing_in_clear_counts_and_opens_the_breaker_at_the_threshold() {
    let mut key = Fixture::with_breaker(3);
    key.exchange(&FAILING, 100);
    key.exchange(&FAILING, 101);
    assert_eq!(key.state(101), State::Clear);
    key.exchange(&FAILING, 102);
    let view = key.view(102);
    assert_eq!((view.state, view.breaker_step, view.rate_step), (State::Cooling, 1, 0));
    assert_eq!((key.reason(102), key.deadline(102)), (Reason::Failing, 103));
}

#[test]
fn failing_in_cooling_changes_nothing() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.policy.breaker.failure_threshold = 1;
    key.observe(older, &FAILING, 101);
    assert_eq!((key.deadline(101), key.reason(101), key.view(101).breaker_step), (105, Reason::RateLimited, 0));
}

#[test]
fn failing_of_the_own_probe_cools_by_the_breaker_and_keeps_the_rate_step() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.breaker.failure_threshold = 5;
    key.observe(probe, &FAILING, 111);
    let view = key.view(111);
    assert_eq!((view.state, view.breaker_step, view.rate_step), (State::Cooling, 1, 1));
    assert_eq!((key.reason(111), key.deadline(111)), (Reason::Failing, 112));
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::Failed)));
}

#[test]
fn failing_of_the_own_probe_without_a_breaker_only_frees_the_slot() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &FAILING, 110);
    assert_eq!(key.state(110), State::Probing);
    assert_eq!(key.refused(110), 1);
    key.forward(111);
}

#[test]
fn failing_of_an_older_permit_changes_nothing() {
    let (mut key, probe, older) = Fixture::probing(110);
    key.policy.breaker.failure_threshold = 1;
    key.observe(older, &FAILING, 110);
    assert_eq!((key.state(110), key.view(110).breaker_step), (State::Probing, 0));
    key.observe(probe, &Outcome::Success, 111);
    key.observe(older, &FAILING, 111);
    assert_eq!((key.state(111), key.view(111).breaker_step), (State::Clear, 0));
}

// ---------------------------------------------------------------- 3.5, row "neutral, cancelled, lease over"

#[test]
fn neutral_in_clear_and_in_cooling_changes_nothing() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &Outcome::Neutral, 101);
    assert_eq!(key.deadline(101), 105);
    let mut clear = Fixture::with_breaker(2);
    clear.exchange(&FAILING, 100);
    clear.exchange(&Outcome::Neutral, 100);
    clear.exchange(&FAILING, 100);
    assert_eq!(clear.state(100), State::Cooling);
}

#[test]
fn neutral_of_the_own_probe_frees_the_slot_and_the_next_starts_min_cooldown_after_it_did() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.cooldown.min_cooldown = secs_of(5);
    key.observe(probe, &Outcome::Neutral, 112);
    assert_eq!(key.refused(112), 3);
    assert_eq!(key.refused(114), 1);
    assert!(matches!(key.forward(115).kind(), AdmissionKind::Probe(_)));
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::Neutral)));
}

#[test]
fn cancelled_probe_frees_the_slot_in_the_same_way() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.cancel(probe);
    assert_eq!(key.refused(110), 1);
    key.forward(111);
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::Cancelled)));
}

#[test]
fn a_lease_that_is_over_frees_the_slot_and_nothing_else() {
    let (mut key, _, _) = Fixture::probing(110);
    assert_eq!(key.refused(139), 1);
    assert!(matches!(key.forward(140).kind(), AdmissionKind::Probe(_)));
    assert!(key.events.contains(&Event::ProbeEnded(ProbeResult::LeaseOver)));
    assert_eq!(key.view(140).rate_step, 1);
}

#[test]
fn neutral_of_an_older_permit_changes_nothing() {
    let (mut key, _, older) = Fixture::probing(110);
    key.observe(older, &Outcome::Neutral, 110);
    key.cancel(older);
    assert!(key.view(110).probe_out);
}

// ---------------------------------------------------------------- 3.5 with 2.10: "success first, then a cooldown"

fn exhausted(hint: u64) -> Outcome {
    match signal(Reason::QuotaExhausted, Some(hint)) {
        Outcome::Signal(signal) => Outcome::Exhausted(signal),
        other => other,
    }
}

#[test]
fn exhausted_in_clear_is_a_success_first_and_then_cools_for_its_hint_without_a_step() {
    let mut key = Fixture::with_breaker(2);
    key.exchange(&limited(Some(1)), 100);
    let probe = key.forward(101);
    key.observe(probe, &Outcome::Answered, 101);
    key.exchange(&FAILING, 102);
    assert_eq!((key.view(102).rate_step, key.view(102).failures_in_row), (1, 1));
    key.exchange(&exhausted(30), 103);
    let view = key.view(103);
    assert_eq!((view.rate_step, view.breaker_step, view.limited_in_row, view.failures_in_row), (0, 0, 0, 0));
    assert_eq!((key.deadline(103), key.reason(103)), (133, Reason::QuotaExhausted));
    assert_eq!(view.totals.signals, 1, "nobody said slow down");
    assert!(matches!(
        key.events.last(),
        Some(Event::Started { from: State::Clear, reason: Reason::QuotaExhausted, step: 0, clamped: false, .. })
    ));
    key.exchange(&Outcome::Success, 133);
    key.exchange(&FAILING, 200);
    assert_eq!(key.state(200), State::Clear, "the streak before it is over");
}

#[test]
fn exhausted_is_clamped_like_a_hint() {
    let mut key = Fixture::new();
    key.exchange(&exhausted(100_000), 100);
    assert_eq!(key.deadline(100), 3700);
    assert!(matches!(key.events.last(), Some(Event::Started { clamped: true, .. })));
    let mut key = Fixture::new();
    key.exchange(&exhausted(0), 100);
    assert_eq!(key.deadline(100), 101, "the floor");
}

#[test]
fn exhausted_in_cooling_extends_if_later_and_keeps_the_steps() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &exhausted(5), 102);
    assert_eq!((key.deadline(102), key.reason(102), key.view(102).rate_step), (107, Reason::QuotaExhausted, 1));
    assert!(matches!(key.events.last(), Some(Event::Extended { reason: Reason::QuotaExhausted, .. })));
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &exhausted(2), 102);
    assert_eq!((key.deadline(102), key.reason(102), key.view(102).rate_step), (105, Reason::RateLimited, 1));
}

#[test]
fn exhausted_of_the_own_probe_clears_first_and_then_cools() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &exhausted(30), 111);
    let view = key.view(111);
    assert_eq!((view.state, view.rate_step, view.limited_in_row), (State::Cooling, 0, 0));
    assert_eq!((key.deadline(111), key.reason(111)), (141, Reason::QuotaExhausted));
    let [.., verdict, end, start] = key.events.as_slice() else { panic!("three events") };
    assert_eq!(*verdict, Event::ProbeEnded(ProbeResult::Success));
    assert!(matches!(end, Event::Ended { reason: Reason::RateLimited, cause: EndCause::Probe, .. }));
    assert!(matches!(start, Event::Started { from: State::Clear, reason: Reason::QuotaExhausted, step: 0, .. }));
    assert_eq!(key.refused(112), 29);
}

#[test]
fn exhausted_of_the_own_probe_below_the_threshold_counts_and_cools_with_the_steps_kept() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.cooldown.success_threshold = 2;
    key.observe(probe, &exhausted(30), 111);
    assert_eq!((key.deadline(111), key.view(111).rate_step), (141, 1));
    let [.., verdict, start] = key.events.as_slice() else { panic!("two events") };
    assert_eq!(*verdict, Event::ProbeEnded(ProbeResult::Success));
    assert!(matches!(start, Event::Started { from: State::Probing, step: 0, .. }));
    let probe = key.forward(141);
    assert!(matches!(probe.kind(), AdmissionKind::Probe(_)), "the slot is free");
}

#[test]
fn exhausted_of_an_older_permit_never_starts_a_cooldown() {
    let (mut key, probe, older) = Fixture::probing(110);
    let again = older;
    key.observe(older, &exhausted(30), 111);
    assert_eq!((key.state(111), key.view(111).probe_out), (State::Probing, true));
    key.observe(probe, &Outcome::Success, 112);
    key.observe(again, &exhausted(30), 113);
    assert_eq!(key.state(113), State::Clear);
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &exhausted(30), 105);
    assert_eq!((key.state(105), key.view(105).rate_step), (State::Probing, 1), "the deadline has passed");
}

#[test]
fn exhausted_in_the_ramp_cools_as_in_clear() {
    let mut key = ramping();
    let admission = key.forward(111);
    assert_eq!(admission.kind(), AdmissionKind::Ramp);
    key.observe(admission, &exhausted(30), 112);
    assert_eq!((key.deadline(112), key.reason(112)), (142, Reason::QuotaExhausted));
}

// ---------------------------------------------------------------- 3.5, what follows from it

#[test]
fn parallel_signals_of_one_epoch_are_one_step() {
    let mut key = Fixture::new();
    let burst: Vec<Admission> = (0..100).map(|_| key.forward(100)).collect();
    for admission in burst {
        key.observe(admission, &limited(Some(5)), 100);
    }
    let view = key.view(100);
    assert_eq!((view.rate_step, view.totals.signals, view.totals.cooldowns, key.deadline(100)), (1, 100, 1, 105));
}

#[test]
fn a_shorter_hint_never_shortens() {
    let (mut key, older) = Fixture::cooling(100, 50);
    key.observe(older, &limited(Some(5)), 101);
    assert_eq!(key.deadline(101), 150);
}

#[test]
fn a_late_success_clears_nothing() {
    let (mut key, older) = Fixture::cooling(100, 50);
    key.observe(older, &Outcome::Success, 149);
    assert_eq!(key.refused(149), 1);
}

// ---------------------------------------------------------------- 3.1 to 3.4

#[test]
fn clause_3_1_a_clock_that_runs_backwards_breaks_nothing() {
    let (mut key, older) = Fixture::cooling(100, 5);
    assert_eq!(key.refused(50), 55);
    key.observe(older, &limited(Some(5)), 40);
    assert_eq!(key.deadline(40), 105);
    let probe = key.forward(105);
    key.observe(probe, &Outcome::Success, 90);
    assert_eq!(key.state(90), State::Clear);
}

#[test]
fn clause_3_2_the_wait_counts_from_the_arrival_of_the_head() {
    let mut key = Fixture::new();
    let admission = key.forward(100);
    key.observe(admission, &limited(Some(5)), 130);
    assert_eq!(key.deadline(130), 135);
}

#[test]
fn clause_3_2_the_longer_of_hint_and_ladder_counts_and_says_who_it_was() {
    let mut key = Fixture::new();
    key.exchange(&limited(Some(5)), 100);
    assert_eq!(key.view(100).cooldown.unwrap().source, Source::RetryAfterSeconds);
    key.exchange(&limited(Some(5)), 105);
    let cooldown = key.view(105).cooldown.unwrap();
    assert_eq!((cooldown.source, cooldown.deadline), (Source::Ladder, at(115)));
    // The signal as received stays the peer's.
    assert_eq!((cooldown.hint, cooldown.received.as_deref()), (Some(secs_of(5)), Some("Retry-After: 5")));
}

#[test]
fn clause_3_4_one_draw_a_cooldown_is_kept_for_its_extensions() {
    let mut key = Fixture::new();
    key.policy.cooldown.hint_jitter = true;
    let older = key.forward(100);
    let first = key.forward(100);
    let mut events = Events::default();
    // The largest draw lengthens a hint of 100 s to 110 s, rounded to a nanosecond.
    key.machine.observe(&key.policy, first, &limited(Some(100)), at(100), u64::MAX, &mut events);
    assert_eq!(key.deadline(100), 210);
    key.machine.observe(&key.policy, older, &limited(Some(200)), at(100), 0, &mut events);
    assert_eq!(key.deadline(100), 320);
}

// ---------------------------------------------------------------- 3.6

#[test]
fn clause_3_6_probing_starts_at_admission_not_by_a_timer_or_an_error() {
    let (mut key, older) = Fixture::cooling(100, 5);
    // The deadline itself is late enough.
    assert_eq!(key.refused(104), 1);
    key.observe(older, &FAILING, 105);
    assert_eq!(key.view(105).totals.probes, 0);
    assert!(matches!(key.forward(105).kind(), AdmissionKind::Probe(1)));
}

#[test]
fn clause_3_6_at_most_one_probe_is_out_and_the_rest_wait_a_second() {
    let (mut key, _, _) = Fixture::probing(110);
    for _ in 0..100 {
        let Decision::ShortCircuit(refusal) = key.admit(110) else { panic!("a second probe is out") };
        assert_eq!((refusal.wait, refusal.state), (SHORT_WAIT, State::Probing));
    }
    assert_eq!(key.view(110).totals.probes, 1);
}

#[test]
fn clause_3_6_a_probe_past_its_lease_still_decides_and_the_first_verdict_counts() {
    let (mut key, slow, _) = Fixture::probing(110);
    let second = key.forward(140);
    key.observe(slow, &Outcome::Success, 141);
    assert_eq!(key.state(141), State::Clear);
    // The second probe is of an older epoch now: without a hint it only counts.
    key.observe(second, &limited(None), 142);
    assert_eq!(key.state(142), State::Clear);
}

#[test]
fn clause_3_6_a_lost_lease_holder_does_not_free_the_slot_of_the_next() {
    let (mut key, slow, _) = Fixture::probing(110);
    key.forward(140);
    key.observe(slow, &Outcome::Neutral, 141);
    key.cancel(slow);
    assert!(key.view(141).probe_out);
    assert_eq!(key.refused(141), 1);
}

// ---------------------------------------------------------------- 3.7

/// A key that cleared at 110 s.
fn ramping() -> Fixture {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &Outcome::Success, 110);
    key
}

#[test]
fn clause_3_7_the_ramp_lets_in_one_more_for_each_success() {
    let mut key = ramping();
    let first = key.forward(110);
    assert_eq!(key.refused(110), 1);
    key.observe(first, &Outcome::Success, 110);
    let second = key.forward(110);
    key.forward(110);
    assert_eq!(key.refused(110), 1);
    key.observe(second, &Outcome::Success, 110);
    key.forward(110);
    key.forward(110);
    assert_eq!(key.refused(110), 1);
}

#[test]
fn clause_3_7_what_exceeds_the_ramp_is_told_the_reason_just_ended() {
    let mut key = ramping();
    key.forward(110);
    let Decision::ShortCircuit(refusal) = key.admit(110) else { panic!("the ramp is full") };
    assert_eq!((refusal.reason, refusal.wait, refusal.state), (Reason::RateLimited, SHORT_WAIT, State::Clear));
}

#[test]
fn clause_3_7_the_ramp_is_over_after_its_time() {
    let mut key = ramping();
    key.forward(110);
    assert_eq!(key.refused(119), 1);
    for _ in 0..100 {
        assert_eq!(key.forward(120).kind(), AdmissionKind::Plain);
    }
}

#[test]
fn clause_3_7_neutral_and_cancelled_give_their_place_back_without_a_success() {
    let mut key = ramping();
    let first = key.forward(110);
    key.cancel(first);
    let second = key.forward(110);
    key.observe(second, &Outcome::Neutral, 110);
    key.forward(110);
    assert_eq!(key.refused(110), 1);
}

#[test]
fn clause_3_7_a_signal_in_the_ramp_is_an_ordinary_signal() {
    let mut key = ramping();
    key.exchange(&limited(Some(5)), 111);
    assert_eq!((key.deadline(111), key.view(111).rate_step), (116, 1));
}

#[test]
fn clause_3_7_a_ramp_of_zero_is_off() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.cooldown.ramp = Duration::ZERO;
    key.observe(probe, &Outcome::Success, 110);
    for _ in 0..100 {
        assert_eq!(key.forward(110).kind(), AdmissionKind::Plain);
    }
}

// ---------------------------------------------------------------- 3.8

#[test]
fn clause_3_8_quiet_time_is_at_least_ten_minutes_from_the_deadline() {
    let (mut key, _) = Fixture::cooling(100, 5);
    assert_eq!((key.state(704), key.view(704).rate_step), (State::Probing, 1));
    let view = key.view(705);
    assert_eq!((view.state, view.rate_step, view.ramping), (State::Clear, 0, false));
    assert!(matches!(key.events.last(), Some(Event::Ended { cause: EndCause::Quiet, .. })));
    assert_eq!(key.forward(705).kind(), AdmissionKind::Plain);
}

#[test]
fn clause_3_8_quiet_time_is_as_long_as_the_last_cooldown() {
    let (mut key, _) = Fixture::cooling(100, 3600);
    assert_eq!(key.state(3700 + 3599), State::Probing);
    assert_eq!(key.state(3700 + 3600), State::Clear);
}

#[test]
fn clause_3_8_a_signal_or_a_verdict_starts_the_quiet_time_anew() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &limited(None), 600);
    assert_eq!((key.state(1199), key.state(1200)), (State::Probing, State::Clear));
    let (mut key, probe, _) = Fixture::probing(110);
    key.policy.cooldown.success_threshold = 2;
    key.observe(probe, &Outcome::Success, 500);
    assert_eq!((key.state(1099), key.state(1100)), (State::Probing, State::Clear));
}

#[test]
fn clause_3_8_steps_kept_in_clear_return_to_zero_by_quiet_time() {
    let (mut key, probe, _) = Fixture::probing(110);
    key.observe(probe, &Outcome::Answered, 110);
    assert_eq!(key.view(709).rate_step, 1);
    assert_eq!(key.view(710).rate_step, 0);
}

#[test]
fn clause_3_8_quiet_time_that_ends_in_the_ramp_returns_the_steps_to_zero() {
    let (mut key, probe, _) = Fixture::probing(110);
    (key.policy.cooldown.quiet_time, key.policy.cooldown.ramp) = (secs_of(10), secs_of(60));
    key.observe(probe, &Outcome::Answered, 110);
    let (before, after) = (key.view(119), key.view(120));
    assert_eq!((before.ramping, before.rate_step), (true, 1));
    assert_eq!((after.ramping, after.rate_step), (true, 0));
}

#[test]
fn clause_3_8_nothing_else_resets_the_steps() {
    let (mut key, older) = Fixture::cooling(100, 5);
    for outcome in [Outcome::Success, Outcome::Answered, Outcome::Connected, Outcome::Neutral, FAILING] {
        key.observe(older, &outcome, 101);
        assert_eq!(key.view(101).rate_step, 1, "{outcome:?}");
    }
}

// ---------------------------------------------------------------- 3.9

#[test]
fn clause_3_9_the_breaker_still_opens_after_the_quiet_time_of_an_old_cooldown() {
    let mut key = Fixture::with_breaker(3);
    key.exchange(&limited(Some(5)), 0);
    key.exchange(&Outcome::Success, 5);
    for now in [10_000, 10_001, 10_002] {
        assert_eq!(key.state(now), State::Clear);
        key.exchange(&FAILING, now);
    }
    assert_eq!(key.view(10_002).failures_in_row, 3);
    assert_eq!(key.reason(10_002), Reason::Failing);
}

#[test]
fn clause_3_9_a_window_set_by_a_reload_still_knows_the_failures_before() {
    let mut key = Fixture::with_breaker(3);
    key.exchange(&FAILING, 100);
    key.exchange(&FAILING, 101);
    key.policy.breaker.failure_window = secs_of(60);
    key.exchange(&FAILING, 102);
    assert_eq!(key.reason(102), Reason::Failing);
}

#[test]
fn clause_3_9_the_breaker_is_off_by_default() {
    let mut key = Fixture::new();
    for second in 0..1000 {
        key.exchange(&FAILING, second);
    }
    assert_eq!((key.state(1000), key.view(1000).failures_in_row), (State::Clear, 1000));
}

#[test]
fn clause_3_9_only_failures_inside_the_window_count() {
    let mut key = Fixture::with_breaker(3);
    key.policy.breaker.failure_window = secs_of(5);
    for second in [100, 103, 106, 109, 112] {
        key.exchange(&FAILING, second);
    }
    assert_eq!(key.state(112), State::Clear);
    key.exchange(&FAILING, 113);
    assert_eq!(key.state(113), State::Cooling);
}

#[test]
fn clause_3_9_a_signal_is_neutral_for_the_breaker() {
    let mut key = Fixture::with_breaker(2);
    key.exchange(&FAILING, 100);
    key.exchange(&limited(Some(1)), 100);
    let probe = key.forward(101);
    key.observe(probe, &Outcome::Answered, 101);
    key.exchange(&FAILING, 102);
    assert_eq!((key.state(102), key.reason(102)), (State::Cooling, Reason::Failing));
}

#[test]
fn clause_3_9_the_breakers_own_ladder_climbs_while_probes_fail() {
    let mut key = Fixture::with_breaker(1);
    key.exchange(&FAILING, 100);
    let mut now = 100;
    for length in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(key.deadline(now), now + length);
        now += length;
        key.exchange(&FAILING, now);
    }
}

#[test]
fn clause_3_9_min_cooldown_does_not_apply_to_the_breaker_but_an_answer_says_at_least_a_second() {
    let mut key = Fixture::with_breaker(1);
    key.policy.breaker.initial = Duration::from_millis(50);
    key.exchange(&FAILING, 100);
    let deadline = key.view(100).cooldown.unwrap().deadline;
    assert_eq!(deadline, at(100).saturating_add(Duration::from_millis(50)));
    let Decision::ShortCircuit(refusal) = key.admit(100) else { panic!("the breaker is open") };
    assert_eq!(crate::core::time::ceil_secs(refusal.wait), 1);
}

/// Lengths in milliseconds of a series of outcomes, each as soon as the one before it is over.
fn lengths(key: &mut Fixture, outcomes: &[Outcome]) -> Vec<u64> {
    let mut now = at(100);
    let mut lengths = Vec::new();
    for outcome in outcomes {
        let Decision::Forward(admission) = key.admit_for(Purpose::Request, now) else { panic!("it is over") };
        let mut events = Events::default();
        key.machine.observe(&key.policy, admission, outcome, now, 0, &mut events);
        key.checked(&events, ());
        let Some((deadline, _)) = key.machine.summary().cooling else { continue };
        lengths.push(u64::try_from(deadline.saturating_since(now).as_micros().div_ceil(1000)).unwrap());
        now = deadline;
    }
    lengths
}

/// PRIOR-ART §1: one ladder for everything, a breaker that opens at once and has the same ladder.
fn peer_sync() -> Fixture {
    let mut key = Fixture::with_breaker(1);
    key.policy.cooldown.ladder = crate::core::policy::Ladder::Fixed;
    key.policy.breaker.initial = secs_of(60);
    key.policy.breaker.max = secs_of(1800);
    key.policy.check().unwrap();
    key
}

#[test]
fn prior_art_1_429s_and_failures_alike_climb_from_a_minute_to_half_an_hour() {
    let expected = [60, 120, 240, 480, 960, 1800, 1800].map(|secs| secs * 1000);
    for outcome in [limited(None), FAILING, Outcome::Failing(Failure::Status(502)), limited(Some(5))] {
        assert_eq!(lengths(&mut peer_sync(), &vec![outcome.clone(); 7]), expected, "{outcome:?}");
    }
    assert_eq!(lengths(&mut peer_sync(), &[limited(Some(500)), limited(Some(500))]), [500_000, 500_000], "or the hint");
}

#[test]
fn clause_3_5_signals_and_failures_climb_ladders_of_their_own() {
    let mixed = [limited(None), FAILING, limited(None), FAILING, FAILING, limited(None)];
    assert_eq!(lengths(&mut peer_sync(), &mixed), [60, 60, 120, 120, 240, 240].map(|secs| secs * 1000));
    let mixed = [FAILING, limited(None), FAILING, limited(None)];
    assert_eq!(lengths(&mut peer_sync(), &mixed), [60, 60, 120, 120].map(|secs| secs * 1000));
    let mut key = peer_sync();
    assert_eq!(lengths(&mut key, &[FAILING, limited(None)]), [60_000, 60_000]);
    let probe = key.forward(220);
    key.observe(probe, &Outcome::Success, 220);
    let view = key.view(220);
    assert_eq!((view.rate_step, view.breaker_step), (0, 0), "a success ends both");
}

/// PRIOR-ART §3: five failures in five seconds, two successes.
fn mesh() -> Fixture {
    let mut key = Fixture::with_breaker(5);
    key.policy.breaker.failure_window = secs_of(5);
    key.policy.cooldown.success_threshold = 2;
    key
}

#[test]
fn prior_art_3_five_failures_in_five_seconds_open_one_opens_again_and_two_successes_close() {
    let mut key = mesh();
    (key.policy.breaker.initial, key.policy.breaker.max) = (secs_of(5), secs_of(5));
    for second in [100, 101, 102, 103] {
        key.exchange(&FAILING, second);
        assert_eq!(key.state(second), State::Clear);
    }
    key.exchange(&FAILING, 105);
    assert_eq!((key.state(105), key.deadline(105)), (State::Cooling, 110));
    // Time alone lets a probe through, not the next error.
    key.exchange(&FAILING, 110);
    assert_eq!((key.state(110), key.deadline(110)), (State::Cooling, 115));
    key.exchange(&Outcome::Success, 115);
    assert_eq!(key.state(115), State::Probing);
    key.exchange(&Outcome::Success, 116);
    assert_eq!((key.state(116), key.view(116).breaker_step), (State::Clear, 0));
}

#[test]
fn prior_art_3_the_class_of_the_failure_that_opens_it_chooses_the_ladder() {
    let of = |failure, times| {
        let mut key = mesh();
        key.policy.breaker.classes = true;
        // Four that do not open it, of another class.
        let other = if failure == Failure::Tls { Failure::Dns } else { Failure::Tls };
        let mut outcomes = vec![Outcome::Failing(other); 4];
        outcomes.extend(vec![Outcome::Failing(failure); times]);
        lengths(&mut key, &outcomes)
    };
    for failure in [Failure::Refused, Failure::Reset, Failure::Dns, Failure::Unreachable] {
        let expected = [50, 75, 113, 169, 254, 380, 570, 855, 1282, 1923, 2884, 4325, 5000, 5000];
        assert_eq!(of(failure, 14), expected, "{failure:?}");
    }
    for failure in [Failure::Timeout, Failure::Status(502), Failure::Status(504)] {
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(of(failure, 11), expected, "{failure:?}");
    }
    for failure in [Failure::Tls, Failure::Malformed, Failure::Status(503)] {
        assert_eq!(of(failure, 6), [1000, 3000, 9000, 27_000, 60_000, 60_000], "{failure:?}");
    }
}

#[test]
fn clause_3_9_classes_share_one_step() {
    let mut key = Fixture::with_breaker(1);
    key.policy.breaker.classes = true;
    let failures = [Failure::Refused, Failure::Timeout, Failure::Tls, Failure::Refused].map(Outcome::Failing);
    assert_eq!(lengths(&mut key, &failures), [50, 200, 9000, 169]);
}

// ---------------------------------------------------------------- 3.10

#[test]
fn clause_3_10_the_latest_deadline_brings_its_reason_source_and_signal() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &signal(Reason::Unavailable, Some(30)), 100);
    let cooldown = key.view(100).cooldown.unwrap();
    assert_eq!((cooldown.reason, cooldown.deadline), (Reason::Unavailable, at(130)));
    assert_eq!(cooldown.received.as_deref(), Some("Retry-After: 30"));
    assert_eq!(cooldown.started, at(100));
}

#[test]
fn clause_3_10_on_a_tie_the_older_stays() {
    let (mut key, older) = Fixture::cooling(100, 5);
    key.observe(older, &signal(Reason::Unavailable, Some(5)), 100);
    assert_eq!(key.reason(100), Reason::RateLimited);
}

#[test]
fn clause_3_10_past_its_deadline_a_key_is_reported_as_probing_without_a_probe() {
    let (mut key, _) = Fixture::cooling(100, 5);
    let view = key.view(105);
    assert_eq!((view.state, view.probe_out), (State::Probing, false));
}

#[test]
fn clause_3_10_counts_in_a_row_are_kept_and_end_with_a_success() {
    let mut key = Fixture::new();
    key.exchange(&limited(Some(1)), 100);
    key.exchange(&limited(Some(1)), 101);
    let view = key.view(101);
    assert_eq!((view.limited_in_row, view.totals.signals, view.totals.cooldowns), (2, 2, 2));
    let probe = key.forward(103);
    key.observe(probe, &FAILING, 103);
    let view = key.view(103);
    assert_eq!((view.failures_in_row, view.last_failure), (1, Some((at(103), Failure::Refused))));
    let probe = key.forward(104);
    key.observe(probe, &Outcome::Success, 104);
    let view = key.view(104);
    assert_eq!((view.limited_in_row, view.failures_in_row, view.totals.probes), (0, 0, 3));
}

// ---------------------------------------------------------------- 3.11

#[test]
fn clause_3_11_a_freeze_cools_a_clear_key_as_manual() {
    let mut key = Fixture::new();
    assert_eq!(key.freeze(secs_of(600), 100), Freeze::Set { until: at(700) });
    assert_eq!((key.reason(100), key.refused(100), key.view(100).rate_step), (Reason::Manual, 600, 0));
    assert_eq!(key.view(100).frozen_until, Some(at(700)));
}

#[test]
fn clause_3_11_a_freeze_is_cut_only_by_its_own_cap() {
    let mut key = Fixture::new();
    key.freeze(secs_of(2 * 3600), 100);
    assert_eq!(key.deadline(100), 7300);
    key.freeze(Duration::MAX, 100);
    assert_eq!(key.deadline(100), 100 + 30 * 24 * 3600);
}

#[test]
fn clause_3_11_a_freeze_shorter_than_the_live_cooldown_changes_nothing_and_says_so() {
    let (mut key, _) = Fixture::cooling(100, 50);
    assert_eq!(key.freeze(secs_of(10), 100), Freeze::AlreadyLonger { until: at(150) });
    assert_eq!((key.reason(100), key.view(100).frozen_until), (Reason::RateLimited, None));
    assert_eq!(key.freeze(secs_of(60), 100), Freeze::Set { until: at(160) });
    assert_eq!(key.reason(100), Reason::Manual);
}

#[test]
fn clause_3_11_a_release_clears_with_a_ramp_and_resets_both_steps() {
    let mut key = Fixture::with_breaker(1);
    key.exchange(&limited(Some(5)), 100);
    let probe = key.forward(105);
    key.observe(probe, &FAILING, 105);
    assert_eq!((key.view(105).rate_step, key.view(105).breaker_step), (1, 1));
    assert!(key.release(105));
    let view = key.view(105);
    assert_eq!((view.state, view.ramping, view.rate_step, view.breaker_step), (State::Clear, true, 0, 0));
    assert!(matches!(key.events.last(), Some(Event::Ended { cause: EndCause::Release, .. })));
}

#[test]
fn clause_3_11_a_release_ends_a_freeze() {
    let mut key = Fixture::new();
    key.freeze(secs_of(600), 100);
    assert!(key.release(101));
    assert_eq!((key.view(101).frozen_until, key.state(101)), (None, State::Clear));
    key.forward(101);
}

#[test]
fn clause_3_11_permits_admitted_before_the_latest_release_change_nothing() {
    let (mut key, older) = Fixture::cooling(100, 50);
    key.release(101);
    key.observe(older, &limited(Some(500)), 102);
    assert_eq!(key.state(102), State::Clear);
    // Also when there was nothing to release.
    let before = key.forward(102);
    assert!(!key.release(103));
    key.observe(before, &limited(Some(500)), 104);
    assert_eq!(key.state(104), State::Clear);
    // One admitted after it counts.
    key.exchange(&limited(Some(5)), 105);
    assert_eq!(key.deadline(105), 110);
}

#[test]
fn clause_3_11_a_release_gives_the_places_of_the_ramp_back() {
    let mut key = ramping();
    key.forward(110);
    assert_eq!(key.refused(110), 1);
    key.release(110);
    key.forward(110);
    assert_eq!(key.refused(110), 1);
}

#[test]
fn clause_3_11_a_freeze_from_the_deadline_on_is_a_cooldown_of_its_own() {
    for now in [105, 106] {
        let (mut key, _) = Fixture::cooling(100, 5);
        key.freeze(secs_of(10), now);
        let started = matches!(key.events.last(), Some(Event::Started { from: State::Probing, step: 0, .. }));
        assert!(started, "{now}: {:?}", key.events);
        assert_eq!((key.view(now).totals.cooldowns, key.refused(now)), (2, 10));
    }
}

#[test]
fn clause_3_11_a_freeze_after_a_release_does_not_count_the_deadline_that_was_released() {
    let (mut key, _) = Fixture::cooling(100, 50);
    key.release(101);
    assert_eq!(key.freeze(secs_of(10), 102), Freeze::Set { until: at(112) });
    assert_eq!((key.reason(102), key.deadline(102), key.view(102).totals.cooldowns), (Reason::Manual, 112, 2));
}

#[test]
fn clause_3_11_a_freeze_is_shown_up_to_its_end_although_nothing_settled_it() {
    let mut key = Fixture::new();
    key.freeze(secs_of(10), 100);
    let shown = |secs| key.machine.view(&key.policy, at(secs)).frozen_until;
    assert_eq!((shown(109), shown(110)), (Some(at(110)), None));
}

// ---------------------------------------------------------------- 7.3, tunnels

fn tunnel(key: &mut Fixture, now: u64) -> Decision {
    key.admit_for(Purpose::Tunnel, at(now))
}

#[test]
fn clause_7_3_a_tunnel_is_refused_while_the_host_cools() {
    let (mut key, _) = Fixture::cooling(100, 5);
    assert!(matches!(tunnel(&mut key, 104), Decision::ShortCircuit(_)));
}

#[test]
fn clause_7_3_after_a_rate_limit_a_tunnel_passes_without_a_permit_and_takes_no_probe() {
    let (mut key, _) = Fixture::cooling(100, 5);
    assert_eq!(tunnel(&mut key, 105), Decision::Pass);
    assert!(matches!(key.forward(105).kind(), AdmissionKind::Probe(1)));
    assert_eq!(tunnel(&mut key, 105), Decision::Pass);
    let mut key = ramping();
    key.forward(110);
    assert_eq!(tunnel(&mut key, 110), Decision::Pass);
}

#[test]
fn clause_7_3_for_failing_and_manual_a_tunnel_is_the_probe_and_connecting_its_success() {
    let mut key = Fixture::with_breaker(1);
    key.exchange(&FAILING, 100);
    let Decision::Forward(probe) = tunnel(&mut key, 101) else { panic!("a tunnel tests a failing host") };
    assert!(matches!(probe.kind(), AdmissionKind::Probe(_)));
    assert!(matches!(tunnel(&mut key, 101), Decision::ShortCircuit(_)));
    key.observe(probe, &Outcome::Connected, 101);
    assert_eq!(key.state(101), State::Clear);
    let mut key = Fixture::new();
    key.freeze(secs_of(5), 100);
    let Decision::Forward(probe) = tunnel(&mut key, 105) else { panic!("a tunnel ends a freeze") };
    key.observe(probe, &Outcome::Connected, 105);
    assert_eq!(key.state(105), State::Clear);
}

#[test]
fn clause_7_3_a_tunnel_never_resets_the_ladder_of_rate_limits() {
    let mut key = Fixture::with_breaker(1);
    key.exchange(&limited(Some(1)), 100);
    let probe = key.forward(101);
    key.observe(probe, &FAILING, 101);
    let Decision::Forward(probe) = tunnel(&mut key, 102) else { panic!("a tunnel tests a failing host") };
    key.observe(probe, &Outcome::Connected, 102);
    assert_eq!((key.state(102), key.view(102).rate_step, key.view(102).breaker_step), (State::Clear, 1, 0));
    // In clear as well: only the streak of failures ends.
    let Decision::Forward(admission) = tunnel(&mut key, 113) else { panic!("clear") };
    key.observe(admission, &Outcome::Connected, 113);
    assert_eq!(key.view(113).rate_step, 1);
}

// ---------------------------------------------------------------- 7.3, sessions whose TLS ends here

fn session(key: &mut Fixture, now: u64) -> Decision {
    key.admit_for(Purpose::Session, at(now))
}

#[test]
fn clause_7_3_a_session_is_refused_while_the_host_cools_and_otherwise_passes_without_a_permit() {
    assert_eq!(session(&mut Fixture::new(), 100), Decision::Pass);
    let (mut key, _) = Fixture::cooling(100, 5);
    assert!(matches!(session(&mut key, 104), Decision::ShortCircuit(_)));
    assert_eq!(session(&mut key, 105), Decision::Pass);
    assert_eq!(key.state(105), State::Probing);
    let probe = key.forward(105);
    assert!(matches!(probe.kind(), AdmissionKind::Probe(1)), "the request inside is the probe");
    assert_eq!(session(&mut key, 105), Decision::Pass);
    key.observe(probe, &Outcome::Success, 105);
    key.forward(105);
    assert!(matches!(key.admit(105), Decision::ShortCircuit(_)), "the ramp has one place");
    assert_eq!(session(&mut key, 105), Decision::Pass);
    assert_eq!(session(&mut key, 500), Decision::Pass);
}

#[test]
fn clause_7_3_a_session_is_no_probe_of_a_failing_or_frozen_host_either() {
    let mut failing = Fixture::with_breaker(1);
    failing.exchange(&FAILING, 100);
    let mut frozen = Fixture::new();
    frozen.freeze(secs_of(1), 100);
    for mut key in [failing, frozen] {
        assert!(matches!(session(&mut key, 100), Decision::ShortCircuit(_)));
        assert_eq!(session(&mut key, 101), Decision::Pass);
        assert!(!key.view(101).probe_out);
        assert!(matches!(key.forward(101).kind(), AdmissionKind::Probe(1)));
    }
}

// ---------------------------------------------------------------- policy

#[test]
fn a_policy_that_changes_in_between_only_changes_what_comes() {
    let (mut key, _) = Fixture::cooling(100, 50);
    key.policy.cooldown.max_retry_after = secs_of(10);
    key.policy.mode = Mode::Observe;
    assert_eq!(key.deadline(100), 150);
    assert_eq!(key.refused(100), 50);
}

// ---------------------------------------------------------------- what callers without the lock are told

#[test]
fn a_success_matters_while_there_is_something_that_it_resets() {
    let matters = |key: &Fixture| key.machine.summary().success_matters;
    let mut key = Fixture::new();
    assert!(!matters(&key));
    key.exchange(&Outcome::Success, 100);
    assert!(!matters(&key));
    // A failure, although the breaker is off.
    key.exchange(&FAILING, 100);
    assert!(matters(&key));
    key.exchange(&Outcome::Success, 101);
    assert!(!matters(&key));
    // A step on the ladder of signals, kept by a probe that was answered.
    key.exchange(&limited(Some(5)), 102);
    key.exchange(&Outcome::Answered, 107);
    assert!(matters(&key));
    key.exchange(&Outcome::Success, 107);
    assert!(!matters(&key));
    // A step on the ladder of failures, after the row of them has ended.
    let mut key = Fixture::with_breaker(1);
    key.exchange(&FAILING, 100);
    key.exchange(&Outcome::Answered, 101);
    key.exchange(&Outcome::Connected, 101);
    assert_eq!((key.view(101).breaker_step, key.view(101).failures_in_row), (1, 0));
    assert!(matters(&key));
    // A signal of an older epoch, which is no step.
    let (mut key, probe, older) = Fixture::probing(110);
    key.observe(probe, &Outcome::Success, 110);
    key.observe(older, &limited(None), 110);
    assert_eq!((key.view(110).rate_step, key.view(110).limited_in_row), (0, 1));
    assert!(matters(&key));
}

#[test]
fn a_summary_names_the_phase_and_the_deadline() {
    let phase = |key: &Fixture| {
        let summary = key.machine.summary();
        (summary.epoch, summary.clear, summary.ramping, summary.cooling, summary.frozen_until)
    };
    let mut key = Fixture::new();
    assert_eq!(phase(&key), (1, true, false, None, None));
    key.exchange(&limited(Some(5)), 100);
    assert_eq!(phase(&key), (2, false, false, Some((at(105), Reason::RateLimited)), None));
    let probe = key.forward(105);
    assert_eq!(phase(&key), (3, false, false, None, None));
    key.observe(probe, &Outcome::Success, 105);
    assert_eq!(phase(&key), (4, false, true, None, None));
    key.freeze(secs_of(5), 106);
    assert_eq!(phase(&key), (5, false, false, Some((at(111), Reason::Manual)), Some(at(111))));
}

// ---------------------------------------------------------------- 4.3, signals off the ladder

#[test]
fn clause_4_3_a_signal_off_the_ladder_without_a_hint_is_always_the_first_step() {
    let Outcome::Signal(signal) = limited(None) else { panic!("a signal") };
    let shared = Outcome::OffLadder(signal);
    let mut key = Fixture::new();
    key.exchange(&shared, 100);
    assert_eq!((key.deadline(100), key.view(100).rate_step), (160, 0));
    for start in [160, 220, 280] {
        key.exchange(&shared, start);
        assert_eq!((key.deadline(start), key.view(start).rate_step), (start + 60, 0));
    }
    // What was sent before counts, and changes nothing.
    let (mut key, older) = Fixture::cooling(100, 90);
    key.observe(older, &shared, 110);
    assert_eq!(key.deadline(110), 190);
}

// ---------------------------------------------------------------- the check itself

#[test]
fn a_broken_invariant_is_named_and_its_bound_is_not() {
    let policy = Policy::default();
    let check = |machine: &Cooldown| machine.check_invariants(&policy).err().unwrap_or("");
    let with = |phase, history: Option<History>| Cooldown { phase, history: history.map(Box::new), ..Cooldown::new() };
    let history = |reason, secs| {
        let (key, _) = Fixture::cooling(100, secs);
        let mut history = *key.machine.history.unwrap();
        history.last.as_mut().unwrap().reason = reason;
        Some(history)
    };
    let ramp = |in_flight| Phase::Ramp { until: at(100), in_flight, successes: 2 };
    assert_eq!(check(&with(ramp(3), None)), "");
    assert_eq!(check(&with(ramp(4), None)), "more requests in the ramp than successes allow");
    assert_eq!(check(&with(Phase::Cooling, None)), "cooling without a cooldown");
    assert_eq!(check(&with(Phase::Cooling, history(Reason::Failing, 60))), "");
    assert_eq!(check(&with(Phase::Cooling, history(Reason::RateLimited, 61))), "");
    assert_eq!(check(&with(Phase::Cooling, history(Reason::Failing, 61))), "a breaker cooldown longer than its cap");
    let classes = Policy {
        breaker: BreakerLimits { classes: true, max: secs_of(1), ..BreakerLimits::default() },
        ..Policy::default()
    };
    let of_class = |secs| with(Phase::Cooling, history(Reason::Failing, secs)).check_invariants(&classes).is_ok();
    assert!(of_class(60) && !of_class(61));
    let probing = |number| {
        let out = Some(Probe { number, started: at(100) });
        Phase::Probing { out, not_before: at(100), successes: 0, started: 2 }
    };
    assert_eq!(check(&with(probing(2), None)), "probing without a cooldown");
    assert_eq!(check(&with(probing(1), history(Reason::RateLimited, 5))), "");
    assert_eq!(check(&with(probing(2), history(Reason::RateLimited, 5))), "");
    assert_eq!(check(&with(probing(3), history(Reason::RateLimited, 5))), "a probe that never started is out");
    let released = |released| Cooldown { released, ..Cooldown::new() };
    assert_eq!((check(&released(0)), check(&released(1))), ("", ""));
    assert_eq!(check(&released(2)), "a release from the future");
    let stepped = |rate_step| {
        let (key, _) = Fixture::cooling(100, 5);
        Cooldown { rate_step, ..key.machine }
    };
    assert_eq!((check(&stepped(0)), check(&stepped(1))), ("", ""));
    assert_eq!(check(&stepped(2)), "more steps than signals in a row");
    let mut key = Fixture::with_breaker(3);
    key.exchange(&FAILING, 100);
    key.machine.history().failures_in_row = 0;
    assert_eq!(check(&key.machine), "a streak without failures in a row");
    key.machine.history().streak.clear();
    assert_eq!(check(&key.machine), "");
}
