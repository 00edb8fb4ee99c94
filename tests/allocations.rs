//! The request path allocates nothing, on a clear key and on a cooling one.

#![expect(clippy::arithmetic_side_effects, clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use holdoff::core::decision::{Purpose, Reason, Source};
use holdoff::core::key::{KeyRef, Scheme};
use holdoff::core::policy::Policy;
use holdoff::core::signal::{Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff::table::{Quick, Report, Table, Verdict};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: Instant = Instant::from_secs(100);
const SUCCESS: Report<'_> = Report { outcome: &Outcome::Success, status: Some(200), error: None, now: NOW, draw: 0 };

/// Allocations of a thousand runs. The test harness has a thread of its own, so that the least of a few tries counts.
fn allocations(mut run: impl FnMut()) -> usize {
    // What a thread allocates once, it has allocated.
    run();
    let try_once = |_| {
        let region = Region::new(ALLOCATOR);
        (0..1000).for_each(|_| run());
        let change = region.change();
        change.allocations + change.reallocations
    };
    (0..5).map(try_once).min().unwrap()
}

/// One test, because the allocator counts for the whole process.
#[test]
fn neither_a_clear_nor_a_cooling_key_costs_an_allocation() {
    let policy = Arc::new(Policy::default());
    let table: Table<()> = Table::new(10, move |_| (Arc::clone(&policy), ()), ());
    let ask = |authority: &'static str| KeyRef::from_authority(Scheme::Https, authority).unwrap();

    let clear_by_permit = || {
        let (_, Verdict::Forward(permit)) = table.admit(&ask("clear.example"), Purpose::Request, NOW) else {
            panic!("expected a permit")
        };
        permit.complete(&Outcome::Success, Some(200), None, NOW, 0);
    };
    let clear_by_pass = || {
        let key = ask("clear.example:443");
        let Quick::Forward(pass) = table.admit_free(&key, Purpose::Request, NOW) else { panic!("expected a pass") };
        table.complete_free(&key, pass, &SUCCESS);
    };
    assert_eq!(allocations(clear_by_pass), 0, "a pass while nothing is live");
    assert_eq!(table.stats().keys, 0, "a pass left a key behind");
    assert_eq!(allocations(clear_by_permit), 0, "a permit of a clear key");

    let (_, Verdict::Forward(permit)) = table.admit(&ask("cooling.example"), Purpose::Request, NOW) else {
        panic!("expected a permit")
    };
    let hint = Hint { wait: Duration::from_secs(60), source: Source::RetryAfterSeconds };
    let limited = Outcome::Signal(Signal { reason: Reason::RateLimited, hint: Some(hint), received: None });
    permit.complete(&limited, Some(429), None, NOW, 0);
    assert_eq!(allocations(clear_by_permit), 0, "a permit of a clear key beside one that cools");
    assert_eq!(allocations(clear_by_pass), 0, "a pass of a clear key beside one that cools");

    let cooling_by_permit = || {
        let (_, verdict) = table.admit(&ask("cooling.example"), Purpose::Request, NOW);
        assert!(matches!(verdict, Verdict::ShortCircuit(_)));
    };
    let cooling_by_pass = || {
        let quick = table.admit_free(&ask("cooling.example"), Purpose::Request, NOW);
        assert!(matches!(quick, Quick::ShortCircuit(_)));
    };
    assert_eq!(allocations(cooling_by_permit), 0, "a refusal");
    assert_eq!(allocations(cooling_by_pass), 0, "a refusal without a share of the entry");

    // The counter counts: spelling a host in capitals costs the one allocation of its normal form.
    assert_eq!(allocations(|| drop(ask("CLEAR.example"))), 1000);
}
