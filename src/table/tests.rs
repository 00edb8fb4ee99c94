use std::sync::Mutex as StdMutex;

use super::*;
use crate::core::cooldown::{EndCause, Event, Events};
use crate::core::decision::{NotUntil, Reason, Source, State};
use crate::core::key::Scheme;
use crate::core::policy::{CooldownLimits, Mode};
use crate::core::signal::{Failure, Hint, Outcome, Signal};

#[derive(Default)]
pub(super) struct Told(StdMutex<Vec<Event>>);

impl Observer<()> for Arc<Told> {
    fn event(&self, _: &Entry<()>, event: &Event, _: Instant) {
        self.0.lock().unwrap().push(event.clone());
    }
}

pub(super) fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

pub(super) fn table(max_keys: usize, mode: Mode) -> (Table<()>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let policy = Arc::new(Policy {
        mode,
        cooldown: CooldownLimits { hint_jitter: false, ..CooldownLimits::default() },
        ..Policy::default()
    });
    (Table::new(max_keys, move |_| (Arc::clone(&policy), ()), Arc::clone(&told)), told)
}

pub(super) fn name(host: &str) -> Key {
    KeyRef::new(Scheme::Http, host, 80).unwrap().to_key()
}

fn admit(table: &Table<()>, host: &str, now: u64) -> Verdict<()> {
    table.admit(&name(host).as_ref(), Purpose::Request, at(now)).1
}

pub(super) fn forward(table: &Table<()>, host: &str, now: u64) -> Permit<()> {
    match admit(table, host, now) {
        Verdict::Forward(permit) => permit,
        other => panic!("expected a permit, found {other:?}"),
    }
}

pub(super) fn limited(secs: u64) -> Outcome {
    Outcome::Signal(Signal {
        reason: Reason::RateLimited,
        hint: Some(Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds }),
        received: None,
    })
}

fn refusal(verdict: Verdict<()>) -> NotUntil {
    match verdict {
        Verdict::ShortCircuit(refusal) => refusal,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

pub(super) fn cool(table: &Table<()>, host: &str, secs: u64, now: u64) {
    let permit = forward(table, host, now);
    permit.complete(&limited(secs), Some(429), Some("HTTP 429"), at(now), 0);
}

fn snapshot(table: &Table<()>, host: &str, now: u64) -> Snapshot {
    table.find(&name(host)).unwrap().snapshot(at(now))
}

#[test]
fn the_fast_path_and_the_lock_agree_on_a_cooling_key() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let refused = refusal(admit(&table, "peer", 101));
    assert_eq!(refused.wait, Duration::from_secs(4));
    assert_eq!((refused.reason, refused.state, refused.until), (Reason::RateLimited, State::Cooling, at(105)));
    assert_eq!(snapshot(&table, "peer", 101).short_circuited, 1);
    assert!(forward(&table, "peer", 105).is_probe());
    assert!(!forward(&table, "other", 105).is_probe());
}

#[test]
fn a_borrowed_key_finds_the_owned_one() {
    let (table, _) = table(10, Mode::Enforce);
    let owned = Key::parse("https://peer.example").unwrap();
    drop(table.admit(&owned.as_ref(), Purpose::Request, at(100)));
    for (scheme, authority, keys) in [
        (Scheme::Https, "PEER.example.", 1),
        (Scheme::Http, "peer.example:443", 2),
        (Scheme::Https, "peer.example:444", 3),
        (Scheme::Https, "other.example", 4),
    ] {
        let asked = KeyRef::from_authority(scheme, authority).unwrap();
        assert_eq!(*table.entry(&asked, at(100)).key(), asked.to_key());
        assert_eq!(table.stats().keys, keys, "{authority}");
    }
}

#[test]
fn another_key_is_not_touched() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let _permit = forward(&table, "other", 100);
    let https = KeyRef::new(Scheme::Https, "peer", 80).unwrap();
    assert!(matches!(table.admit(&https, Purpose::Request, at(100)).1, Verdict::Forward(_)));
}

#[test]
fn a_dropped_probe_gives_its_slot_back() {
    let (table, told) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    drop(forward(&table, "peer", 105));
    assert_eq!(refusal(admit(&table, "peer", 105)).state, State::Probing);
    assert!(forward(&table, "peer", 106).is_probe());
    assert!(told.0.lock().unwrap().iter().any(|event| matches!(event, Event::ProbeEnded(_))));
}

#[test]
fn an_early_success_gives_its_place_back_once_and_may_yet_turn_out_to_be_a_signal() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let mut probe = forward(&table, "peer", 105);
    let success = Report { outcome: &Outcome::Success, status: Some(200), error: None, now: at(106), draw: 0 };
    probe.report_early(&success);
    assert!(!probe.is_probe() && snapshot(&table, "peer", 106).view.ramping);
    let mut first = forward(&table, "peer", 106);
    assert_eq!(refusal(admit(&table, "peer", 106)).state, State::Clear, "the ramp has one place");
    first.report_early(&success);
    let _two = [forward(&table, "peer", 106), forward(&table, "peer", 106)];
    drop(first);
    assert_eq!(refusal(admit(&table, "peer", 106)).state, State::Clear, "its place was given back before");
    probe.complete(&limited(9), Some(200), Some("gRPC 8"), at(107), 0);
    let shown = snapshot(&table, "peer", 107);
    assert_eq!((shown.view.state, shown.view.cooldown.unwrap().deadline), (State::Cooling, at(116)));
    assert_eq!(shown.successes, 2);
}

#[test]
fn a_success_on_a_clear_key_is_counted_and_resets_what_there_is_to_reset() {
    let (table, _) = table(10, Mode::Enforce);
    let failing = forward(&table, "peer", 100);
    failing.complete(&Outcome::Failing(Failure::Refused), None, Some("refused"), at(100), 0);
    assert_eq!(snapshot(&table, "peer", 100).view.failures_in_row, 1);
    for _ in 0..3 {
        forward(&table, "peer", 101).complete(&Outcome::Success, Some(200), None, at(101), 0);
    }
    let shown = snapshot(&table, "peer", 101);
    assert_eq!((shown.view.failures_in_row, shown.successes, shown.successes_in_row), (0, 3, 3));
    assert_eq!((shown.last_status, shown.last_success), (Some(200), Some(at(101))));
    assert_eq!(shown.last_error.as_deref(), Some("refused"));
}

#[test]
fn mode_observe_forwards_without_a_permit_what_enforcing_would_refuse() {
    let (table, _) = table(10, Mode::Observe);
    cool(&table, "peer", 5, 100);
    for _ in 0..3 {
        assert!(matches!(admit(&table, "peer", 101), Verdict::WouldHave(_)));
    }
    let shown = snapshot(&table, "peer", 101);
    assert_eq!((shown.would_have, shown.short_circuited), (3, 0));
    assert!(forward(&table, "peer", 105).is_probe());
    assert!(matches!(admit(&table, "peer", 105), Verdict::Forward(_) | Verdict::WouldHave(_)));
}

/// State, successes and deadline.
type Known = (State, u64, Option<Instant>);

/// A node that asks in a rhythm of its own while its host is busy at times; what the key knew after each step.
fn scripted(seed: u64, mode: Mode) -> (Vec<Known>, u64, u64) {
    let (table, _) = table(10, mode);
    let mut state = seed;
    let mut chance = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut now = 100_000_u64;
    // Busy from time to time, whoever asks; and what is on its way has its answer after a while.
    let busy_until = |now: u64| (now / 60_000).is_multiple_of(3).then(|| (now / 60_000 + 1) * 60_000);
    let mut under_way: Vec<(u64, u64, Option<Permit<()>>)> = Vec::new();
    let mut known = Vec::new();
    for _ in 0..3000 {
        now += chance(400);
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        under_way.sort_by_key(|(ends, ..)| *ends);
        while under_way.first().is_some_and(|(ends, ..)| *ends <= now) {
            let (ends, sent, permit) = under_way.remove(0);
            let Some(permit) = permit else { continue };
            let outcome = match busy_until(sent) {
                Some(until) if sent % 5 != 0 => limited((until - sent).div_ceil(1000)),
                Some(_) => Outcome::Failing(Failure::Timeout),
                None => Outcome::Success,
            };
            permit.complete(&outcome, Some(200), None, at(ends), 0);
        }
        let permit = match table.admit(&name("peer").as_ref(), Purpose::Request, at(now)).1 {
            Verdict::Forward(permit) => Some(permit),
            Verdict::Pass | Verdict::WouldHave(_) | Verdict::ShortCircuit(_) => None,
        };
        // The same chances in both modes, whether or not the request was sent.
        let takes = chance(1500);
        under_way.push((now + takes, now, permit));
        let shown = table.find(&name("peer")).unwrap().snapshot(at(now));
        known.push((shown.view.state, shown.successes, shown.view.cooldown.map(|cooldown| cooldown.deadline)));
    }
    let shown = table.find(&name("peer")).unwrap().snapshot(Instant::from_nanos(now * 1_000_000));
    (known, shown.short_circuited, shown.would_have)
}

#[test]
fn mode_observe_counts_exactly_what_enforcing_saves_on_the_same_host() {
    for seed in 0..40 {
        let (enforced, saved, none) = scripted(seed, Mode::Enforce);
        let (observed, also_none, counted) = scripted(seed, Mode::Observe);
        assert_eq!((none, also_none), (0, 0), "seed {seed}");
        assert!(saved > 100, "seed {seed}: nothing happened");
        assert_eq!(counted, saved, "seed {seed}");
        assert_eq!(observed, enforced, "seed {seed}");
    }
}

#[test]
fn mode_off_neither_reads_nor_feeds() {
    let (table, _) = table(10, Mode::Off);
    assert!(matches!(admit(&table, "peer", 100), Verdict::Pass));
    assert_eq!(snapshot(&table, "peer", 100).successes, 0);
}

#[test]
fn what_was_sent_before_the_mode_became_off_feeds_nothing() {
    let (table, _) = table(10, Mode::Enforce);
    let permit = forward(&table, "peer", 100);
    let entry = table.find(&name("peer")).unwrap();
    entry.set_policy(Arc::new(Policy { mode: Mode::Off, ..Policy::default() }), at(101));
    permit.complete(&limited(60), Some(429), Some("HTTP 429"), at(101), 0);
    let shown = snapshot(&table, "peer", 101);
    assert_eq!((shown.view.state, shown.view.totals.signals), (State::Clear, 0));
    assert_eq!((shown.last_status, shown.last_error), (None, None));
}

#[test]
fn a_probe_that_ends_in_mode_off_frees_its_slot() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let probe = forward(&table, "peer", 105);
    let entry = table.find(&name("peer")).unwrap();
    entry.set_policy(Arc::new(Policy { mode: Mode::Off, ..Policy::default() }), at(105));
    probe.complete(&Outcome::Success, Some(200), None, at(105), 0);
    let view = snapshot(&table, "peer", 105).view;
    assert_eq!((view.state, view.probe_out), (State::Probing, false));
}

#[test]
fn other_settings_keep_the_state_and_count_from_the_next_question_on() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 60, 100);
    let entry = table.find(&name("peer")).unwrap();
    for (mode, is_expected) in [
        (Mode::Observe, (|verdict| matches!(verdict, Verdict::WouldHave(_))) as fn(&Verdict<()>) -> bool),
        (Mode::Off, |verdict| matches!(verdict, Verdict::Pass)),
        (Mode::Enforce, |verdict| matches!(verdict, Verdict::ShortCircuit(_))),
    ] {
        entry.set_policy(Arc::new(Policy { mode, ..Policy::default() }), at(101));
        assert!(is_expected(&admit(&table, "peer", 101)), "{mode:?}");
        let shown = snapshot(&table, "peer", 101);
        assert_eq!((shown.mode, shown.view.cooldown.unwrap().deadline), (mode, at(160)));
    }
}

#[test]
fn quiet_time_that_was_over_under_the_old_settings_stays_over() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let entry = table.find(&name("peer")).unwrap();
    let limits = CooldownLimits { quiet_time: Duration::from_secs(6000), ..CooldownLimits::default() };
    entry.set_policy(Arc::new(Policy { cooldown: limits, ..Policy::default() }), at(705));
    assert_eq!(snapshot(&table, "peer", 705).view.state, State::Clear);
}

#[test]
fn a_freeze_is_enforced_in_every_mode() {
    for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
        let (table, _) = table(10, mode);
        table.freeze(&name("peer"), Duration::from_secs(10), at(100)).unwrap();
        let refused = refusal(admit(&table, "peer", 101));
        assert_eq!((refused.reason, refused.wait), (Reason::Manual, Duration::from_secs(9)), "{mode:?}");
        table.release(&name("peer"), at(102)).unwrap();
        assert!(!matches!(admit(&table, "peer", 102), Verdict::ShortCircuit(_)), "{mode:?}");
    }
}

#[test]
fn a_freeze_in_mode_observe_ends_with_the_freeze_although_a_longer_cooldown_goes_on() {
    let (table, _) = table(10, Mode::Observe);
    let older = forward(&table, "peer", 100);
    table.freeze(&name("peer"), Duration::from_secs(10), at(100)).unwrap();
    older.complete(&limited(60), Some(429), None, at(100), 0);
    let refused = refusal(admit(&table, "peer", 101));
    assert_eq!((refused.until, refused.wait, refused.reason), (at(110), Duration::from_secs(9), Reason::Manual));
    assert!(matches!(admit(&table, "peer", 111), Verdict::WouldHave(_)));
}

#[test]
fn a_freeze_under_a_longer_cooldown_is_enforced_where_the_cooldown_is_not() {
    for mode in [Mode::Observe, Mode::Off] {
        let (table, _) = table(10, Mode::Enforce);
        cool(&table, "peer", 60, 100);
        table.find(&name("peer")).unwrap().set_policy(Arc::new(Policy { mode, ..Policy::default() }), at(100));
        let freeze = |secs| table.freeze(&name("peer"), Duration::from_secs(secs), at(100)).unwrap();
        assert_eq!(freeze(10), Freeze::Set { until: at(110) }, "{mode:?}");
        assert_eq!(freeze(5), Freeze::AlreadyLonger { until: at(110) }, "{mode:?}");
        assert_eq!(freeze(10), Freeze::AlreadyLonger { until: at(110) }, "{mode:?}");
        let refused = refusal(admit(&table, "peer", 101));
        assert_eq!((refused.until, refused.reason), (at(110), Reason::Manual), "{mode:?}");
        assert!(!matches!(admit(&table, "peer", 110), Verdict::ShortCircuit(_)), "{mode:?}");
        assert_eq!(snapshot(&table, "peer", 110).view.cooldown.unwrap().deadline, at(160), "{mode:?}");
    }
}

#[test]
fn a_body_decorates_only_the_error_it_belongs_to() {
    let (table, _) = table(10, Mode::Enforce);
    let (first, second) = (forward(&table, "peer", 100), forward(&table, "peer", 100));
    let early = first.complete(&limited(5), Some(429), Some("first"), at(100), 0);
    let late = second.complete(&limited(5), Some(429), Some("second"), at(100), 0);
    let entry = table.find(&name("peer")).unwrap();
    entry.add_error_body(early, "slow");
    assert_eq!(entry.last_error().as_deref(), Some("second"));
    entry.add_error_body(late, "calm down");
    assert_eq!(entry.last_error().as_deref(), Some("second: calm down"));
}

#[test]
fn idle_clear_keys_make_room_and_running_cooldowns_stay() {
    let (table, _) = table(100, Mode::Enforce);
    for host in 0..50 {
        cool(&table, &format!("cooling{host}"), 3600, 100);
    }
    for host in 0..1000 {
        drop(forward(&table, &format!("idle{host}"), 100 + host));
    }
    let stats = table.stats();
    assert!(stats.keys <= 100, "{stats:?}");
    assert_eq!((stats.untracked, stats.evicted), (0, 1050 - stats.keys as u64), "{stats:?}");
    for host in 0..50 {
        assert_eq!(refusal(admit(&table, &format!("cooling{host}"), 1200)).state, State::Cooling);
    }
}

#[test]
fn full_of_live_cooldowns_new_keys_are_forwarded_untracked_and_counted() {
    let (table, _) = table(10, Mode::Enforce);
    for host in 0..10 {
        cool(&table, &format!("cooling{host}"), 3600, 100);
    }
    cool(&table, "new", 3600, 101);
    assert!(matches!(admit(&table, "new", 101), Verdict::Forward(_)));
    let stats = table.stats();
    assert_eq!((stats.keys, stats.untracked, stats.evicted), (10, 2, 0));
    assert!(table.freeze(&name("new"), Duration::from_secs(5), at(101)).is_none());
}

#[test]
fn a_key_whose_quiet_time_is_over_makes_room_although_nobody_asked_for_it() {
    let (table, told) = table(10, Mode::Enforce);
    for host in 0..10 {
        cool(&table, &format!("cooling{host}"), 5, 100);
    }
    drop(forward(&table, "early", 704));
    assert_eq!((table.stats().untracked, table.stats().evicted), (1, 0));
    drop(forward(&table, "new", 705));
    assert_eq!((table.stats().untracked, table.stats().evicted), (1, 1));
    let ended = |event: &Event| matches!(event, Event::Ended { cause: EndCause::Quiet, .. });
    assert!(told.0.lock().unwrap().iter().any(ended), "the end is told");
}

#[test]
fn a_key_with_a_permit_out_is_not_evicted() {
    let (table, _) = table(2, Mode::Enforce);
    let permit = forward(&table, "busy", 100);
    drop(forward(&table, "idle", 200));
    drop(forward(&table, "new", 300));
    assert!(table.find(&name("busy")).is_some());
    assert!(table.find(&name("idle")).is_none());
    permit.complete(&limited(3600), Some(429), None, at(300), 0);
    assert_eq!(refusal(admit(&table, "busy", 301)).reason, Reason::RateLimited);
}

#[test]
fn release_all_counts_what_it_ended() {
    let (table, _) = table(10, Mode::Enforce);
    for host in ["one", "two"] {
        cool(&table, host, 60, 100);
    }
    drop(forward(&table, "clear", 100));
    assert_eq!(table.release_all(at(101)), 2);
    let _permit = forward(&table, "one", 101);
    assert_eq!(table.release(&name("unknown"), at(101)), None);
}

#[test]
fn a_host_that_is_only_seen_as_connect_is_told_apart() {
    let (table, _) = table(10, Mode::Enforce);
    let (entry, verdict) = table.admit(&name("tunnel").as_ref(), Purpose::Tunnel, at(100));
    assert!(matches!(verdict, Verdict::Forward(_)));
    entry.count_tunnel();
    assert!(snapshot(&table, "tunnel", 100).only_tunnels);
    drop(forward(&table, "tunnel", 101));
    assert!(!snapshot(&table, "tunnel", 101).only_tunnels);
}

#[test]
fn a_session_takes_no_permit_and_is_neither_a_tunnel_nor_saved_twice() {
    for (mode, refused) in [(Mode::Enforce, true), (Mode::Observe, false), (Mode::Off, false)] {
        let (table, _) = table(10, mode);
        let session = |now| table.admit(&name("session").as_ref(), Purpose::Session, at(now)).1;
        assert!(matches!(session(100), Verdict::Pass), "{mode:?}");
        if let Verdict::Forward(permit) = admit(&table, "session", 100) {
            permit.complete(&limited(60), Some(429), None, at(100), 0);
        }
        assert_eq!(matches!(session(101), Verdict::ShortCircuit(_)), refused, "{mode:?}");
        let snapshot = snapshot(&table, "session", 101);
        assert_eq!((snapshot.would_have, snapshot.tunnels, snapshot.only_tunnels), (0, 0, false), "{mode:?}");
    }
}

#[test]
fn one_signal_among_parallel_requests_stops_every_thread() {
    let (table, _) = table(10, Mode::Enforce);
    let table = &table;
    cool(table, "peer", 60, 100);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    assert_eq!(refusal(admit(table, "peer", 101)).wait, Duration::from_secs(59));
                }
            });
        }
    });
    assert_eq!(snapshot(table, "peer", 101).short_circuited, 20_000);
}

#[test]
fn exactly_one_probe_is_out_on_two_threads() {
    for _ in 0..200 {
        let (table, _) = table(10, Mode::Enforce);
        let table = &table;
        cool(table, "peer", 5, 100);
        let permits: Vec<_> = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| (0..10).map(|_| admit(table, "peer", 105)).collect::<Vec<_>>());
            let threads = [ask(), ask()];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.iter().filter(|verdict| matches!(verdict, Verdict::Forward(_))).count(), 1);
    }
}

fn pass(table: &Table<()>, host: &str, now: u64) -> FreePass {
    match table.admit_free(&name(host).as_ref(), Purpose::Request, at(now)) {
        Quick::Forward(pass) => pass,
        other => panic!("expected a pass, found {other:?}"),
    }
}

fn complete_free(table: &Table<()>, host: &str, pass: FreePass, outcome: &Outcome, now: u64) {
    let report = Report { outcome, status: None, error: Some("a line"), now: at(now), draw: 0 };
    table.complete_free(&name(host).as_ref(), pass, &report);
}

fn hintless() -> Outcome {
    Outcome::Signal(Signal { reason: Reason::RateLimited, hint: None, received: None })
}

#[test]
fn a_pass_leaves_no_key_behind_until_there_is_something_to_remember() {
    let (table, _) = table(10, Mode::Enforce);
    let (good, limited_later) = (pass(&table, "peer", 100), pass(&table, "peer", 100));
    complete_free(&table, "peer", good, &Outcome::Success, 100);
    assert_eq!(table.stats().keys, 0);
    complete_free(&table, "peer", limited_later, &limited(5), 100);
    assert_eq!(refusal(admit(&table, "peer", 101)).until, at(105));
    assert!(table.nothing_live().is_none());
    assert_eq!(table.find(&name("peer")).unwrap().last_error().as_deref(), Some("a line"));
    // Another host passes by its own word; the cooling one is refused.
    complete_free(&table, "other", pass(&table, "other", 101), &Outcome::Success, 101);
    let quick = table.admit_free(&name("peer").as_ref(), Purpose::Request, at(101));
    assert!(matches!(quick, Quick::ShortCircuit(NotUntil { until, .. }) if until == at(105)), "{quick:?}");
}

#[test]
fn a_burst_of_passes_is_one_step_and_the_next_epoch_is_the_next() {
    let (table, _) = table(10, Mode::Enforce);
    let burst: Vec<_> = (0..5).map(|_| pass(&table, "peer", 100)).collect();
    for pass in burst {
        complete_free(&table, "peer", pass, &hintless(), 100);
    }
    assert_eq!(snapshot(&table, "peer", 100).view.rate_step, 1);
    // The probe answers; the ramp ends; steps are kept, so that the next signal is the second step.
    forward(&table, "peer", 200).complete(&Outcome::Answered, Some(500), None, at(200), 0);
    table.find(&name("peer")).unwrap().settle(at(220));
    let pass = pass(&table, "peer", 220);
    complete_free(&table, "peer", pass, &hintless(), 220);
    assert_eq!(snapshot(&table, "peer", 220).view.rate_step, 2);
}

#[test]
fn a_pass_of_an_older_epoch_neither_climbs_nor_clears_but_may_name_a_wait() {
    let (table, _) = table(10, Mode::Enforce);
    let (success, unnamed, named) = (pass(&table, "peer", 100), pass(&table, "peer", 100), pass(&table, "peer", 100));
    cool(&table, "peer", 5, 100);
    let probe = forward(&table, "peer", 105);
    complete_free(&table, "peer", success, &Outcome::Success, 105);
    complete_free(&table, "peer", unnamed, &hintless(), 105);
    let shown = snapshot(&table, "peer", 105).view;
    assert_eq!((shown.state, shown.probe_out, shown.rate_step), (State::Probing, true, 1));
    complete_free(&table, "peer", named, &limited(7), 105);
    assert_eq!(refusal(admit(&table, "peer", 105)).until, at(112));
    drop(probe);
}

#[test]
fn a_success_by_pass_ends_a_row_of_failures() {
    let (table, _) = table(10, Mode::Enforce);
    let failing = forward(&table, "peer", 100);
    failing.complete(&Outcome::Failing(Failure::Refused), None, None, at(100), 0);
    assert!(table.nothing_live().is_none());
    complete_free(&table, "peer", pass(&table, "peer", 101), &Outcome::Success, 101);
    assert_eq!(snapshot(&table, "peer", 101).view.failures_in_row, 0);
    assert!(table.nothing_live().is_some());
}

#[test]
fn a_release_voids_the_passes_before_it() {
    let (table, _) = table(10, Mode::Enforce);
    let early = pass(&table, "peer", 100);
    cool(&table, "peer", 60, 100);
    table.release(&name("peer"), at(101)).unwrap();
    complete_free(&table, "peer", early, &limited(60), 102);
    assert_eq!(snapshot(&table, "peer", 102).view.state, State::Clear);
}

#[test]
fn mode_off_takes_nothing_from_a_pass() {
    let (table, _) = table(10, Mode::Off);
    complete_free(&table, "peer", pass(&table, "peer", 100), &limited(60), 100);
    assert!(matches!(admit(&table, "peer", 101), Verdict::Pass));
    assert_eq!(snapshot(&table, "peer", 101).view.state, State::Clear);
}

#[test]
fn what_an_evicted_entry_is_told_goes_to_the_next_one() {
    let (table, _) = table(10, Mode::Enforce);
    let permit = forward(&table, "peer", 100);
    let entry = Arc::clone(permit.entry());
    assert!(entry.try_evict(at(100), &mut Events::default()) && !entry.try_evict(at(100), &mut Events::default()));
    permit.complete(&limited(60), Some(429), None, at(101), 0);
    assert_eq!(refusal(admit(&table, "peer", 102)).until, at(161));
    assert!(!Arc::ptr_eq(&entry, &table.find(&name("peer")).unwrap()));
    assert!(entry.release(at(103)), "the live entry is released");
    entry.freeze(Duration::from_secs(50), at(104));
    assert_eq!(refusal(admit(&table, "peer", 105)).reason, Reason::Manual);
}

#[test]
fn a_pass_older_than_an_eviction_does_not_climb() {
    let (table, _) = table(10, Mode::Enforce);
    let late = pass(&table, "peer", 100);
    cool(&table, "peer", 5, 100);
    forward(&table, "peer", 105).complete(&Outcome::Success, None, None, at(105), 0);
    assert!(table.find(&name("peer")).unwrap().try_evict(at(200), &mut Events::default()));
    complete_free(&table, "peer", late, &hintless(), 200);
    assert_eq!(snapshot(&table, "peer", 200).view.rate_step, 0);
    assert!(table.nothing_live().is_some() || table.stats().live == 1);
}

#[test]
fn a_cooldown_over_by_quiet_time_makes_room() {
    let (table, _) = table(1, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    drop(forward(&table, "new", 10_000));
    assert!(table.find(&name("new")).is_some());
    assert_eq!(table.stats().live, 0);
}

#[test]
fn two_threads_at_a_full_table_leave_the_counts_right() {
    let (table, _) = table(4, Mode::Enforce);
    let work = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        for now in 100..20_000 {
            let host = format!("peer{}", random.u8(..8));
            let outcome = match random.u8(..16) {
                0 => limited(1),
                1 => hintless(),
                2 => Outcome::Failing(Failure::Refused),
                3 => Outcome::Answered,
                _ => Outcome::Success,
            };
            match random.u8(..8) {
                0 => drop(admit(&table, &host, now)),
                1 => drop(table.release(&name(&host), at(now))),
                2 => drop(table.freeze(&name(&host), Duration::from_secs(2), at(now))),
                3 | 4 => {
                    if let Verdict::Forward(permit) = admit(&table, &host, now) {
                        permit.complete(&outcome, None, Some("a line"), at(now), now);
                    }
                }
                _ => match table.admit_free(&name(&host).as_ref(), Purpose::Request, at(now)) {
                    Quick::Forward(pass) => complete_free(&table, &host, pass, &outcome, now),
                    Quick::Other(Verdict::Forward(permit)) => {
                        permit.complete(&outcome, None, None, at(now), now);
                    }
                    _ => {}
                },
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        scope.spawn(|| work(2));
    });
    assert!(table.stats().keys <= 4, "{:?}", table.stats());
    table.release_all(at(30_000));
    table.for_each(|entry| entry.settle(at(40_000)));
    assert_eq!(table.stats().live, 0);
    assert!(table.nothing_live().is_some());
}

#[test]
fn every_key_is_shown() {
    let (table, _) = table(10, Mode::Enforce);
    for host in ["one", "two", "three"] {
        drop(forward(&table, host, 100));
    }
    let mut shown: Vec<_> = table.snapshots(at(100)).into_iter().map(|snapshot| snapshot.key.to_string()).collect();
    shown.sort();
    assert_eq!(shown, ["http://one:80", "http://three:80", "http://two:80"]);
}

#[test]
fn a_cooldown_that_nobody_asks_for_is_told_as_ended() {
    let (table, told) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    let ended = || told.0.lock().unwrap().iter().any(|event| matches!(event, Event::Ended { .. }));
    table.settle(at(704));
    assert!(!ended());
    assert_eq!(table.stats().live, 1);
    table.settle(at(705));
    assert!(ended());
    assert_eq!(table.stats().live, 0);
}

#[test]
fn a_ramp_that_nobody_asks_for_does_not_keep_the_table_busy() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    forward(&table, "peer", 105).complete(&Outcome::Success, None, None, at(105), 0);
    table.settle(at(114));
    assert!(table.nothing_live().is_none());
    table.settle(at(115));
    assert!(table.nothing_live().is_some());
}

#[test]
fn steps_that_quiet_time_resets_do_not_keep_the_table_busy() {
    let (table, _) = table(10, Mode::Enforce);
    cool(&table, "peer", 5, 100);
    forward(&table, "peer", 105).complete(&Outcome::Answered, Some(500), None, at(105), 0);
    table.settle(at(704));
    assert!(table.nothing_live().is_none());
    table.settle(at(705));
    assert!(table.nothing_live().is_some());
}

#[test]
fn slots_are_equal_where_their_keys_are() {
    let slot = |host: &str| Slot(table(10, Mode::Enforce).0.entry(&name(host).as_ref(), at(100)));
    assert!(slot("peer") == slot("peer"));
    assert!(slot("peer") != slot("other"));
}

#[test]
fn tables_and_entries_can_be_shown_to_programmers() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    assert_eq!(format!("{table:?}"), "Table { max_keys: 10, .. }");
    assert!(format!("{entry:?}").contains("peer"), "{entry:?}");
}

#[test]
fn a_pass_that_changes_nothing_is_neither_counted_nor_makes_a_key() {
    let (table, _) = table(10, Mode::Enforce);
    for outcome in [Outcome::Success, Outcome::Connected, Outcome::Answered, Outcome::Neutral] {
        complete_free(&table, "peer", pass(&table, "peer", 100), &outcome, 100);
    }
    assert_eq!(table.stats().keys, 0);
    drop(forward(&table, "peer", 100));
    complete_free(&table, "peer", pass(&table, "peer", 100), &Outcome::Success, 100);
    assert_eq!(snapshot(&table, "peer", 100).successes, 0);
}

#[test]
fn a_failure_ends_the_row_of_successes() {
    let (table, _) = table(10, Mode::Enforce);
    let complete = |outcome| forward(&table, "peer", 100).complete(&outcome, None, None, at(100), 0);
    complete(Outcome::Success);
    complete(Outcome::Failing(Failure::Refused));
    complete(Outcome::Success);
    complete(Outcome::Answered);
    complete(Outcome::Success);
    let shown = snapshot(&table, "peer", 100);
    assert_eq!((shown.successes, shown.successes_in_row), (3, 2));
}

#[test]
fn a_freeze_in_mode_off_ends_without_a_probe() {
    let (table, _) = table(10, Mode::Off);
    table.freeze(&name("peer"), Duration::from_secs(10), at(100)).unwrap();
    assert_eq!(refusal(admit(&table, "peer", 109)).until, at(110));
    assert!(matches!(admit(&table, "peer", 110), Verdict::Pass));
}

#[test]
fn the_longest_unused_key_goes_first() {
    let (table, _) = table(4, Mode::Enforce);
    for (host, now) in [("third", 103), ("first", 100), ("fourth", 104), ("second", 101)] {
        drop(forward(&table, host, now));
    }
    for (new, gone) in [("new", "first"), ("newer", "second"), ("newest", "third")] {
        drop(forward(&table, new, 200));
        assert!(table.find(&name(gone)).is_none(), "{gone}");
        assert_eq!(table.stats().keys, 4);
    }
    assert!(table.find(&name("fourth")).is_some());
}

#[test]
fn a_key_that_remembers_something_goes_after_those_that_do_not() {
    let (table, _) = table(2, Mode::Enforce);
    forward(&table, "failed", 100).complete(&Outcome::Failing(Failure::Refused), None, None, at(100), 0);
    drop(forward(&table, "plain", 150));
    drop(forward(&table, "new", 200));
    assert!(table.find(&name("failed")).is_some());
    assert!(table.find(&name("plain")).is_none());
}

#[test]
fn the_least_useful_of_the_next_eight_goes() {
    let (table, _) = table(12, Mode::Enforce);
    for (host, now) in [110, 111, 112, 113, 114, 105, 116, 117, 118, 100, 119, 120].into_iter().enumerate() {
        drop(forward(&table, &format!("peer{host}"), now));
    }
    drop(forward(&table, "new", 200));
    assert!(table.find(&name("peer5")).is_none());
    assert_eq!(table.stats().evicted, 1);
}

#[test]
fn after_a_search_in_vain_the_next_one_waits_a_second() {
    let (table, _) = table(2, Mode::Enforce);
    for host in ["one", "two"] {
        cool(&table, host, 3600, 100);
    }
    let counts = |nanos| {
        drop(table.admit(&name("new").as_ref(), Purpose::Request, Instant::from_nanos(nanos)));
        (table.stats().untracked, table.stats().evicted)
    };
    assert_eq!(counts(101_000_000_000), (1, 0));
    table.release(&name("one"), at(101)).unwrap();
    assert_eq!(counts(101_999_999_999), (2, 0));
    assert_eq!(counts(102_000_000_000), (2, 1));
}

/// A key that cooled and cleared, a permit from before, and one from after.
fn cleared(table: &Table<()>) -> (Permit<()>, Permit<()>) {
    let older = forward(table, "peer", 100);
    cool(table, "peer", 5, 100);
    forward(table, "peer", 105).complete(&Outcome::Success, None, None, at(105), 0);
    (older, forward(table, "peer", 120))
}

#[test]
fn a_permit_of_an_evicted_entry_counts_at_the_next_one_as_it_would_have() {
    for (take_current, outcome, expected) in [
        (true, hintless(), (State::Cooling, 1)),
        (false, hintless(), (State::Clear, 0)),
        (false, limited(7), (State::Cooling, 0)),
    ] {
        let (table, _) = table(10, Mode::Enforce);
        let (older, current) = cleared(&table);
        assert!(current.entry().try_evict(at(200), &mut Events::default()));
        let permit = if take_current { current } else { older };
        permit.complete(&outcome, None, None, at(200), 0);
        let view = snapshot(&table, "peer", 200).view;
        assert_eq!((view.state, view.rate_step), expected, "{take_current} {outcome:?}");
    }
}

#[test]
fn a_permit_from_before_a_release_counts_nowhere_after_an_eviction() {
    let (table, _) = table(10, Mode::Enforce);
    let early = forward(&table, "peer", 100);
    cool(&table, "peer", 60, 100);
    table.release(&name("peer"), at(101)).unwrap();
    assert!(early.entry().try_evict(at(200), &mut Events::default()));
    early.complete(&limited(60), None, None, at(200), 0);
    assert_eq!(refusal_or_none(admit(&table, "peer", 200)), None);
}

fn refusal_or_none(verdict: Verdict<()>) -> Option<NotUntil> {
    match verdict {
        Verdict::ShortCircuit(refusal) => Some(refusal),
        _ => None,
    }
}

#[test]
fn a_pass_is_handed_back_to_the_entry_that_gave_it() {
    let (table, _) = table(10, Mode::Enforce);
    let entry = table.entry(&name("peer").as_ref(), at(100));
    let report = |outcome, now| Report { outcome, status: Some(429), error: Some("HTTP 429"), now: at(now), draw: 0 };
    let pass = || match entry.admit_free(Purpose::Request, at(100)) {
        Some(Quick::Forward(pass)) => pass,
        other => panic!("expected a pass, found {other:?}"),
    };
    let (first, second, third) = (pass(), pass(), pass());
    let (early, late) = (limited(5), limited(7));
    assert_eq!(entry.complete_free(first, &report(&Outcome::Success, 100)), 0, "a success has no line");
    assert_eq!(entry.complete_free(second, &report(&early, 100)), 1);
    assert_eq!(entry.complete_free(third, &report(&late, 100)), 2);
    entry.add_error_body(2, "calm down");
    assert_eq!(entry.last_error().as_deref(), Some("HTTP 429: calm down"));
    let refused = entry.admit_free(Purpose::Request, at(101)).unwrap();
    assert!(matches!(refused, Quick::ShortCircuit(NotUntil { until, .. }) if until == at(107)), "{refused:?}");
}

#[test]
fn who_is_told_of_an_end_at_the_bound_may_ask_for_another_key() {
    struct Asks(std::sync::OnceLock<std::sync::Weak<Table<()>>>);
    impl Observer<()> for Arc<Asks> {
        fn event(&self, _: &Entry<()>, event: &Event, now: Instant) {
            if matches!(event, Event::Ended { .. })
                && let Some(table) = self.0.get().and_then(std::sync::Weak::upgrade)
            {
                table.freeze(&name("sibling"), Duration::from_secs(5), now);
            }
        }
    }
    let asks = Arc::new(Asks(std::sync::OnceLock::new()));
    let table = Arc::new(Table::new(1, |_| (Arc::new(Policy::default()), ()), Arc::clone(&asks)));
    asks.0.set(Arc::downgrade(&table)).unwrap();
    cool(&table, "peer", 5, 100);

    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Its quiet time is over, so that its place is free.
        let entry = table.entry(&name("other").as_ref(), at(10_000));
        done.send(entry.is_tracked()).unwrap();
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true), "the ring is locked for good");
}

#[test]
fn a_policy_or_an_observer_that_panics_takes_no_place_away() {
    struct Panics;
    impl Observer<()> for Panics {
        fn event(&self, _: &Entry<()>, event: &Event, _: Instant) {
            assert!(!matches!(event, Event::Ended { .. }), "an observer that panics");
        }
    }
    let attach = |key: &Key| {
        assert!(!key.host().starts_with("bad"), "a policy that panics");
        (Arc::new(Policy::default()), ())
    };
    let table = Table::new(1, attach, Panics);
    let tracked = |host: &str, now| {
        let ask = || table.entry(&name(host).as_ref(), at(now)).is_tracked();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).ok()
    };
    assert_eq!(tracked("bad", 100), None);
    assert_eq!(tracked("peer", 100), Some(true));
    cool(&table, "peer", 5, 100);
    assert_eq!(tracked("other", 10_000), None, "the observer panics");
    assert_eq!(tracked("other", 10_000), Some(true));
}

#[test]
fn a_key_that_came_and_went_while_its_next_entry_was_made_is_remembered_by_it() {
    let (table, _) = table(1, Mode::Enforce);
    let stale = pass(&table, "peer", 100);
    let policy = Arc::new(Policy::default());
    let late = Entry::new(name("peer"), policy, (), Arc::clone(&table.common), true);
    // Another thread's entry of the key cools, clears by quiet time and is evicted meanwhile.
    cool(&table, "peer", 5, 100);
    drop(table.entry(&name("other").as_ref(), at(10_000)));
    assert!(table.find(&name("peer")).is_none());

    assert!(late.join(|| true));
    let signal = hintless();
    let report = Report { outcome: &signal, status: Some(429), error: None, now: at(10_000), draw: 0 };
    late.complete_free(stale, &report);
    assert_eq!(late.snapshot(at(10_000)).view.rate_step, 0, "a pass from before those changes does not climb");
}
