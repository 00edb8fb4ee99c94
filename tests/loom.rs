//! Every interleaving of two or three threads at one key, within a few preemptions:
//!
//! ```text
//! RUSTFLAGS="--cfg holdoff_loom" cargo test --no-default-features --features table --test loom --target-dir target/loom
//! ```
//!
//! Within two minutes on two cores, the build included. Without that flag this file is empty.

#![cfg(holdoff_loom)]
#![expect(clippy::arithmetic_side_effects, clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdoff::core::cooldown::Event;
use holdoff::core::decision::{NotUntil, Purpose, Reason, Source, State};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Policy};
use holdoff::core::signal::{Failure, Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff::table::{Entry, Observer, Permit, Quick, Report, Snapshot, Table, Verdict};
use loom::thread::{self, JoinHandle};

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Event>>>);

impl Observer<()> for Told {
    fn event(&self, _: &Entry<()>, event: &Event, _: Instant) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Told {
    fn count(&self, wanted: fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }
}

/// A table that threads share; everything is `Arc` of `std`, which loom need not explore.
#[derive(Clone)]
struct Fixture {
    table: Arc<Table<()>>,
    told: Told,
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn key(host: &str) -> Key {
    KeyRef::new(Scheme::Http, host, 80).unwrap().to_key()
}

fn limited(hint: Option<u64>) -> Outcome {
    let hint = hint.map(|secs| Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds });
    Outcome::Signal(Signal { reason: Reason::RateLimited, hint, received: None })
}

fn unavailable(secs: u64) -> Outcome {
    let hint = Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds };
    Outcome::Signal(Signal { reason: Reason::Unavailable, hint: Some(hint), received: None })
}

impl Fixture {
    fn new(max_keys: usize) -> Self {
        let cooldown = CooldownLimits { hint_jitter: false, ramp: Duration::ZERO, ..CooldownLimits::default() };
        let breaker =
            BreakerLimits { failure_threshold: 3, failure_window: Duration::ZERO, ..BreakerLimits::default() };
        let policy = Arc::new(Policy { cooldown, breaker, ..Policy::default() });
        let told = Told::default();
        Self { table: Arc::new(Table::new(max_keys, move |_| (Arc::clone(&policy), ()), told.clone())), told }
    }

    fn spawn<T: 'static>(&self, run: impl FnOnce(&Self) -> T + 'static) -> JoinHandle<T> {
        let fixture = self.clone();
        thread::spawn(move || run(&fixture))
    }

    fn admit(&self, host: &str, now: u64) -> Verdict<()> {
        self.table.admit(&key(host).as_ref(), Purpose::Request, at(now)).1
    }

    fn forward(&self, host: &str, now: u64) -> Permit<()> {
        match self.admit(host, now) {
            Verdict::Forward(permit) => permit,
            other => panic!("expected a permit, found {other:?}"),
        }
    }

    fn refused(&self, host: &str, now: u64) -> NotUntil {
        match self.admit(host, now) {
            Verdict::ShortCircuit(refusal) => refusal,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }

    fn cool(&self, host: &str, secs: u64, now: u64) {
        complete(self.forward(host, now), &limited(Some(secs)), now);
    }

    fn snapshot(&self, host: &str, now: u64) -> Snapshot {
        self.table.find(&key(host)).unwrap().snapshot(at(now))
    }

    /// One exchange by a pass, with whatever the table answers.
    fn free(&self, host: &str, outcome: &Outcome, now: u64) -> bool {
        let key = key(host);
        match self.table.admit_free(&key.as_ref(), Purpose::Request, at(now)) {
            Quick::Forward(pass) => {
                let report = Report { outcome, status: None, error: None, now: at(now), draw: 0 };
                self.table.complete_free(&key.as_ref(), pass, &report);
                true
            }
            Quick::ShortCircuit(_) => false,
            Quick::Other(other) => panic!("expected a pass or a refusal, found {other:?}"),
        }
    }
}

fn complete(permit: Permit<()>, outcome: &Outcome, now: u64) {
    permit.complete(outcome, None, None, at(now), 0);
}

fn explore(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

#[test]
fn one_probe_is_out_whoever_asks_first() {
    explore(|| {
        let fixture = Fixture::new(10);
        fixture.cool("peer", 5, 100);
        let other = fixture.spawn(|f| f.admit("peer", 105));
        let verdicts = [fixture.admit("peer", 105), other.join().unwrap()];
        assert_eq!(verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Forward(_))).count(), 1);
        assert_eq!(fixture.told.count(|event| matches!(event, Event::ProbeStarted { .. })), 1);
    });
}

#[test]
fn a_probe_dropped_on_another_thread_gives_its_slot_back() {
    explore(|| {
        let fixture = Fixture::new(10);
        fixture.cool("peer", 5, 100);
        let probe = fixture.forward("peer", 105);
        let other = fixture.spawn(move |_| drop(probe));
        let meanwhile = fixture.admit("peer", 106);
        other.join().unwrap();
        // No wake is lost: either the slot was free by then, or it is now.
        match meanwhile {
            Verdict::Forward(permit) => assert!(permit.is_probe()),
            Verdict::ShortCircuit(_) => assert!(fixture.forward("peer", 106).is_probe()),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn two_signals_of_one_epoch_are_one_step_and_the_longer_wait() {
    explore(|| {
        let fixture = Fixture::new(10);
        let (one, two) = (fixture.forward("peer", 100), fixture.forward("peer", 100));
        let other = fixture.spawn(move |_| complete(one, &limited(Some(5)), 100));
        complete(two, &unavailable(9), 100);
        other.join().unwrap();
        let refused = fixture.refused("peer", 101);
        assert_eq!((refused.until, refused.reason), (at(109), Reason::Unavailable));
        assert_eq!(fixture.snapshot("peer", 101).view.rate_step, 1);
    });
}

#[test]
fn a_reader_never_pairs_a_word_with_the_deadline_of_another() {
    explore(|| {
        let fixture = Fixture::new(10);
        let late = fixture.forward("peer", 100);
        let later = fixture.forward("peer", 100);
        fixture.cool("peer", 5, 100);
        // Extends in place, with another reason; then begins anew after quiet time has ended the first, in one call.
        let writer = fixture.spawn(move |_| {
            complete(late, &unavailable(50), 101);
            complete(later, &limited(Some(30)), 2000);
        });
        let known = [(105, Reason::RateLimited), (151, Reason::Unavailable), (2030, Reason::RateLimited)];
        for _ in 0..2 {
            let refused = fixture.refused("peer", 102);
            assert!(known.contains(&(refused.until.as_nanos() / 1_000_000_000, refused.reason)), "{refused:?}");
        }
        writer.join().unwrap();
        assert_eq!(fixture.refused("peer", 2001).until, at(2030));
    });
}

#[test]
fn a_success_that_races_a_failure_loses_neither() {
    explore(|| {
        let fixture = Fixture::new(10);
        complete(fixture.forward("peer", 100), &Outcome::Failing(Failure::Refused), 100);
        let (good, bad) = (fixture.forward("peer", 101), fixture.forward("peer", 101));
        let other = fixture.spawn(move |_| complete(good, &Outcome::Success, 101));
        complete(bad, &Outcome::Failing(Failure::Refused), 101);
        other.join().unwrap();
        // Failure then success is 0, success then failure 1; 2 would be a lost success.
        assert!(fixture.snapshot("peer", 101).view.failures_in_row < 2);
        assert_eq!(fixture.snapshot("peer", 101).view.totals.failures, 2);
    });
}

#[test]
fn a_freeze_that_races_a_signal_is_enforced() {
    explore(|| {
        let fixture = Fixture::new(10);
        let permit = fixture.forward("peer", 100);
        let other = fixture.spawn(move |_| complete(permit, &limited(Some(60)), 100));
        fixture.table.freeze(&key("peer"), Duration::from_secs(10), at(100)).unwrap();
        other.join().unwrap();
        assert_eq!(fixture.refused("peer", 101).until, at(160));
        assert_eq!(fixture.told.count(|event| matches!(event, Event::Started { .. })), 1);
    });
}

#[test]
fn what_was_admitted_before_a_release_changes_nothing_after_it() {
    explore(|| {
        let fixture = Fixture::new(10);
        let permit = fixture.forward("peer", 100);
        let other = fixture.spawn(move |_| complete(permit, &limited(Some(60)), 100));
        fixture.table.release(&key("peer"), at(100)).unwrap();
        other.join().unwrap();
        // Before the release it was ended, after it void.
        let _permit = fixture.forward("peer", 101);
        assert_eq!(fixture.table.stats().live, 0);
    });
}

#[test]
fn a_signal_whose_entry_is_evicted_meanwhile_is_not_lost() {
    explore(|| {
        let fixture = Fixture::new(1);
        let key = key("peer");
        let entry = fixture.table.entry(&key.as_ref(), at(100));
        let Some(Quick::Forward(pass)) = entry.admit_free(Purpose::Request, at(100)) else { panic!("expected a pass") };
        drop(entry);
        // The bound is one key, so that this evicts the other, unless it cools by then.
        let other = fixture.spawn(|f| drop(f.admit("new", 101)));
        let report = Report { outcome: &limited(Some(60)), status: None, error: None, now: at(101), draw: 0 };
        fixture.table.complete_free(&key.as_ref(), pass, &report);
        other.join().unwrap();
        let Quick::ShortCircuit(refusal) = fixture.table.admit_free(&key.as_ref(), Purpose::Request, at(102)) else {
            // The one way out: the table is full of what the other thread holds, and says so.
            assert!(fixture.table.stats().untracked > 0, "the signal was lost");
            return;
        };
        assert_eq!(refusal.until, at(161));
    });
}

#[test]
fn a_permit_of_an_entry_that_is_evicted_under_it_still_counts() {
    explore(|| {
        let fixture = Fixture::new(2);
        drop(fixture.admit("idle", 50));
        drop(fixture.admit("peer", 49));
        // Asks for `peer` while the other thread evicts it, the longest unused.
        let other = fixture.spawn(|f| drop(f.admit("new", 101)));
        let permit = fixture.forward("peer", 101);
        complete(permit, &limited(Some(60)), 101);
        other.join().unwrap();
        if fixture.table.stats().untracked == 0 {
            assert_eq!(fixture.refused("peer", 102).until, at(161));
        }
        assert!(fixture.table.stats().keys <= 2);
    });
}

#[test]
fn passes_that_race_a_signal_count_as_its_burst() {
    explore(|| {
        let fixture = Fixture::new(10);
        // Hintless: an older one is only counted, so that a second step would be seen.
        let other = fixture.spawn(|f| f.free("peer", &limited(None), 100));
        let mine = fixture.free("peer", &limited(None), 100);
        let theirs = other.join().unwrap();
        assert!(mine || theirs);
        let shown = fixture.snapshot("peer", 100);
        assert_eq!((shown.view.rate_step, shown.view.totals.cooldowns), (1, 1));
        assert_eq!(fixture.table.stats().live, 1);
    });
}

#[test]
fn no_pass_is_taken_for_a_probe_and_none_passes_a_cooling_key() {
    explore(|| {
        let fixture = Fixture::new(10);
        let first = fixture.table.nothing_live().unwrap();
        let other = fixture.spawn(|f| {
            f.cool("peer", 5, 100);
            f.forward("peer", 105)
        });
        let passed = match fixture.table.admit_free(&key("peer").as_ref(), Purpose::Request, at(104)) {
            Quick::Forward(pass) => Some(pass),
            _ => None,
        };
        let probe = other.join().unwrap();
        assert!(probe.is_probe());
        // Both are older than the cooldown: no success of theirs is the probe's verdict.
        for pass in [Some(first), passed].into_iter().flatten() {
            let entry = fixture.table.find(&key("peer")).unwrap();
            let report = Report { outcome: &limited(None), status: None, error: None, now: at(105), draw: 0 };
            entry.complete_free(pass, &report);
            assert_eq!(entry.snapshot(at(105)).view.state, State::Probing);
            assert_eq!(entry.snapshot(at(105)).view.rate_step, 1);
        }
        complete(probe, &Outcome::Success, 105);
        assert_eq!(fixture.table.stats().live, 0);
    });
}
