//! What an entry says without its lock: that it can is what these tests hold, since the lock would say the same.

use std::time::Duration;

use super::*;
use crate::core::policy::CooldownLimits;
use crate::core::signal::Failure;
use crate::table::tests::{at, cool, forward, limited, name, table};

fn policy(mode: Mode) -> Arc<Policy> {
    Arc::new(Policy { mode, cooldown: CooldownLimits::default(), ..Policy::default() })
}

fn glance_is_refused(entry: &Entry<()>, mode: Mode) -> bool {
    let expected =
        NotUntil { until: at(105), wait: Duration::from_secs(1), reason: Reason::RateLimited, state: State::Cooling };
    matches!(entry.glance(at(104)), Glance::Refused(found, refusal) if (found, refusal) == (mode, expected))
}

#[test]
fn a_clear_and_a_cooling_key_need_no_lock() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    assert!(matches!(entry.glance(at(100)), Glance::Clear { epoch: 1 }));
    cool(&table, "peer", 5, 100);
    assert!(glance_is_refused(&entry, Mode::Enforce));
    assert!(matches!(entry.glance(at(105)), Glance::Locked));
    entry.set_policy(policy(Mode::Observe), at(100));
    assert!(glance_is_refused(&entry, Mode::Observe));
    entry.set_policy(policy(Mode::Off), at(100));
    assert!(matches!(entry.glance(at(104)), Glance::Off));
}

#[test]
fn a_frozen_key_needs_the_lock_unless_its_cooldown_is_enforced() {
    let (table, _) = table(10, Mode::Enforce);
    table.freeze(&name("peer"), Duration::from_secs(5), at(100)).unwrap();
    let entry = table.find(&name("peer")).unwrap();
    assert!(matches!(entry.glance(at(104)), Glance::Refused(Mode::Enforce, _)));
    for mode in [Mode::Observe, Mode::Off] {
        entry.set_policy(policy(mode), at(100));
        assert!(matches!(entry.glance(at(104)), Glance::Locked), "{mode:?}");
    }
}

#[test]
fn a_refusal_that_is_only_asked_for_is_that_of_an_admission_and_changes_nothing() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    assert_eq!(entry.refusal(Purpose::Request, at(100)), None);
    cool(&table, "peer", 5, 100);
    assert_eq!(entry.refusal(Purpose::Request, at(104)).unwrap().until, at(105));
    // The probe is free, and stays so.
    assert_eq!(entry.refusal(Purpose::Request, at(105)), None);
    assert_eq!(entry.epoch(), 2);
    assert_eq!(entry.snapshot(at(104)).short_circuited, 0);
    let _probe = forward(&table, "peer", 105);
    let refused = entry.refusal(Purpose::Request, at(105)).unwrap();
    assert_eq!((refused.until, refused.state), (at(106), State::Probing));
    assert_eq!(entry.refusal(Purpose::Tunnel, at(105)), None);
    entry.set_policy(policy(Mode::Observe), at(105));
    assert_eq!(entry.refusal(Purpose::Request, at(105)), None);
    table.freeze(&name("peer"), Duration::from_secs(9), at(105)).unwrap();
    assert_eq!(entry.refusal(Purpose::Request, at(106)).unwrap().reason, Reason::Manual);
}

#[test]
fn an_evicted_entry_says_so_in_every_mode() {
    for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
        let (table, _) = table(10, mode);
        let entry = table.entry(&name("peer").as_ref(), at(100));
        assert!(entry.try_evict(at(100), &mut Events::default()));
        assert!(matches!(entry.glance(at(100)), Glance::Evicted), "{mode:?}");
    }
}

#[test]
fn the_epoch_counts_changes_of_state() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    assert_eq!(entry.epoch(), 1);
    cool(&table, "peer", 5, 100);
    assert_eq!(entry.epoch(), 2);
    let _probe = forward(&table, "peer", 105);
    assert_eq!(entry.epoch(), 3);
}

#[test]
fn an_outcome_that_changes_nothing_needs_no_lock() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    let held = |epoch, kind| Claim::Held(Admission { epoch, kind, purpose: Purpose::Request });
    let claims = [held(1, AdmissionKind::Plain), held(0, AdmissionKind::Plain), Claim::Free(FreePass::of_era(0))];
    let says_nothing = |outcome| claims.each_ref().map(|claim| entry.says_nothing(claim, &outcome));
    for outcome in [Outcome::Success, Outcome::Connected, Outcome::Answered, Outcome::Neutral] {
        assert_eq!(says_nothing(outcome.clone()), [true; 3], "{outcome:?}");
        for kind in [AdmissionKind::Ramp, AdmissionKind::Probe(1)] {
            assert!(!entry.says_nothing(&held(1, kind), &outcome), "{outcome:?} {kind:?}");
        }
    }
    assert_eq!(says_nothing(limited(5)), [false; 3]);
    assert_eq!(says_nothing(Outcome::Failing(Failure::Refused)), [false; 3]);
    // A failure makes a success matter, unless it was admitted in another epoch.
    forward(&table, "peer", 100).complete(&Outcome::Failing(Failure::Refused), None, None, at(100), 0);
    assert_eq!(says_nothing(Outcome::Success), [false, true, false]);
    assert_eq!(says_nothing(Outcome::Connected), [false, true, false]);
    assert_eq!(says_nothing(Outcome::Answered), [true; 3]);
}

#[test]
fn time_is_let_pass_only_where_it_may_change_something() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    assert!(!entry.is_due(at(100)), "plain");
    cool(&table, "peer", 5, 100);
    assert_eq!([100, 104, 105, 106].map(|secs| entry.is_due(at(secs))), [false, false, true, true]);
    let probe = forward(&table, "peer", 105);
    assert!(entry.is_due(at(104)) && entry.is_due(at(105)), "a probe is out");
    probe.complete(&Outcome::Success, None, None, at(105), 0);
    assert!(entry.is_due(at(105)), "a ramp");
    entry.settle(at(200));
    assert!(!entry.is_due(at(200)), "plain again");
    forward(&table, "peer", 200).complete(&Outcome::Failing(Failure::Refused), None, None, at(200), 0);
    assert!(entry.is_due(at(200)), "a failure");
    assert!(entry.try_evict(at(200), &mut Events::default()));
    assert!(!entry.is_due(at(200)), "gone");
}

#[test]
fn under_the_lock_enforcing_tells_the_longer_cooldown_and_the_other_modes_the_freeze() {
    let (table, _) = table(10, Mode::Enforce);
    let older = forward(&table, "peer", 100);
    table.freeze(&name("peer"), Duration::from_secs(10), at(100)).unwrap();
    older.complete(&limited(60), None, None, at(100), 0);
    let entry = table.find(&name("peer")).unwrap();
    for (mode, until, reason) in [
        (Mode::Enforce, 160, Reason::RateLimited),
        (Mode::Observe, 110, Reason::Manual),
        (Mode::Off, 110, Reason::Manual),
    ] {
        entry.set_policy(policy(mode), at(100));
        let wait = Duration::from_secs(until - 101);
        let expected = NotUntil { until: at(until), wait, reason, state: State::Cooling };
        let verdict = entry.admit_locked(Purpose::Request, at(101));
        assert!(matches!(verdict, Some(Verdict::ShortCircuit(refusal)) if refusal == expected), "{verdict:?}");
    }
}
