//! What a key costs, and that the bound holds with a million hosts. Prints its figures: `cargo test --test memory -- --nocapture`.

#![expect(clippy::arithmetic_side_effects, clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use holdoff::core::decision::{Purpose, Reason, Source, State};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{CooldownLimits, Policy};
use holdoff::core::signal::{Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff::table::{Table, Verdict};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The goal, per key, as asked of the allocator.
const GOAL: usize = 320;

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn table(max_keys: usize) -> Table<()> {
    let cooldown = CooldownLimits { hint_jitter: false, ..CooldownLimits::default() };
    let policy = Arc::new(Policy { cooldown, ..Policy::default() });
    Table::new(max_keys, move |_| (Arc::clone(&policy), ()), ())
}

/// Names of 25 bytes.
fn key(number: u32) -> Key {
    let host = format!("peer-{number:07}.mesh.example");
    assert_eq!(host.len(), 25);
    KeyRef::new(Scheme::Https, &host, 443).unwrap().to_key()
}

fn exchange(table: &Table<()>, key: &Key, outcome: &Outcome, now: Instant) {
    let (_, verdict) = table.admit(&key.as_ref(), Purpose::Request, now);
    let Verdict::Forward(permit) = verdict else { panic!("expected a permit for {key}, found {verdict:?}") };
    permit.complete(outcome, None, None, now, 0);
}

fn limited(secs: u64) -> Outcome {
    let hint = Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds };
    Outcome::Signal(Signal {
        reason: Reason::RateLimited,
        hint: Some(hint),
        received: Some("Retry-After: 3600".into()),
    })
}

/// Bytes that stay allocated after `fill`, shared by `keys`.
fn bytes_a_key(keys: u32, fill: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    fill();
    let change = region.change();
    (change.bytes_allocated - change.bytes_deallocated) / keys as usize
}

/// One test, because the allocator counts for the whole process.
#[test]
fn a_key_costs_what_is_stated_and_a_million_hosts_stay_within_the_bound() {
    // Just below and just above a doubling of the map, the cheapest and the dearest.
    for keys in [90_000, 100_000, 140_000] {
        let full = table(1_000_000);
        let clear = bytes_a_key(keys, || {
            (0..keys).for_each(|number| exchange(&full, &key(number), &Outcome::Success, at(100)));
        });
        let cooled = bytes_a_key(keys, || {
            (0..keys).for_each(|number| exchange(&full, &key(number), &limited(3600), at(100)));
        });
        println!("{keys} keys: {clear} bytes a clear key, {cooled} more for one that has cooled");
        assert!(clear <= GOAL, "{clear} bytes a key, expected at most {GOAL}");
    }

    const BOUND: usize = 10_000;
    const LIVE: u32 = 1_000;
    let small = table(BOUND);
    (0..LIVE).for_each(|number| exchange(&small, &key(number), &limited(3600), at(100)));
    let mut most = 0;
    let grown = bytes_a_key(1, || {
        for number in LIVE..1_000_000 {
            exchange(&small, &key(number), &Outcome::Success, at(101 + u64::from(number / 1000)));
            most = most.max(small.stats().keys);
        }
    });
    let stats = small.stats();
    println!("a million hosts at a bound of {BOUND}: at most {most} keys, {grown} bytes in all, {stats:?}");
    assert!(most <= BOUND, "{most} keys");
    assert_eq!(stats.untracked, 0);
    // What waits to be freed by the map is bounded, too.
    assert!(grown < BOUND * GOAL * 2, "{grown} bytes");
    for number in 0..LIVE {
        let (_, verdict) = small.admit(&key(number).as_ref(), Purpose::Request, at(1200));
        let Verdict::ShortCircuit(refusal) = verdict else { panic!("a cooldown was evicted: {verdict:?}") };
        assert_eq!(refusal.state, State::Cooling);
    }
}
