//! What a request pays for being asked about: `cargo bench --no-default-features --features table --bench core`.
//!
//! One figure is one exchange: asked before it is sent, and completed with a success, unless the name says otherwise.
//! `permit` is `Table::admit`, which counts every request at its key; `free` is `Table::admit_free`; `held` is a caller that
//! keeps the entry, as a connection does that goes on asking for one host. With two threads the figure is the time of one
//! exchange on each of them, while the other does the same.

#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, reason = "a bench")]
#![expect(clippy::cast_possible_truncation, reason = "figures far below 32 bits")]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use holdoff::core::decision::{Purpose, Reason, Source};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{CooldownLimits, Policy};
use holdoff::core::signal::{Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff::table::{Quick, Report, Table, Verdict};

const KEYS: usize = 100_000;

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn table(max_keys: usize) -> Table<()> {
    let cooldown = CooldownLimits { hint_jitter: false, ramp: Duration::ZERO, ..CooldownLimits::default() };
    let policy = Arc::new(Policy { cooldown, ..Policy::default() });
    Table::new(max_keys, move |_| (Arc::clone(&policy), ()), ())
}

fn key(number: usize) -> Key {
    let host = format!("peer-{number:07}.mesh.example");
    KeyRef::new(Scheme::Https, &host, 443).unwrap().to_key()
}

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(key).collect()
}

fn limited(secs: u64) -> Outcome {
    let hint = Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds };
    Outcome::Signal(Signal { reason: Reason::RateLimited, hint: Some(hint), received: None })
}

fn report(outcome: &Outcome, now: Instant) -> Report<'_> {
    Report { outcome, status: Some(200), error: None, now, draw: 0 }
}

fn permit_exchange(table: &Table<()>, key: &KeyRef<'_>, outcome: &Outcome, now: Instant) -> bool {
    let (_entry, verdict) = table.admit(key, Purpose::Request, now);
    match verdict {
        Verdict::Forward(permit) => {
            permit.complete(outcome, Some(200), None, now, 0);
            true
        }
        _ => false,
    }
}

fn free_exchange(table: &Table<()>, key: &KeyRef<'_>, outcome: &Outcome, now: Instant) -> bool {
    match table.admit_free(key, Purpose::Request, now) {
        Quick::Forward(pass) => {
            table.complete_free(key, pass, &report(outcome, now));
            true
        }
        Quick::Other(Verdict::Forward(permit)) => {
            permit.complete(outcome, Some(200), None, now, 0);
            true
        }
        _ => false,
    }
}

fn cool(table: &Table<()>, key: &Key, secs: u64, now: u64) {
    permit_exchange(table, &key.as_ref(), &limited(secs), at(now));
}

/// A table that holds `keys`, clear, and one other key that cools, so that every look-up is made.
fn filled(keys: &[Key]) -> Table<()> {
    let table = table(KEYS * 2);
    for key in keys {
        permit_exchange(&table, &key.as_ref(), &Outcome::Success, at(100));
    }
    cool(&table, &Key::parse("https://cooling.example").unwrap(), 3600, 100);
    table
}

/// Runs `exchange` on two threads at once; the time of the slower.
#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn on_two_threads(rounds: u64, exchange: impl Fn(u64) + Sync) -> Duration {
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let run = || {
            start.wait();
            let began = std::time::Instant::now();
            (0..rounds).for_each(&exchange);
            began.elapsed()
        };
        let other = scope.spawn(run);
        run().max(other.join().unwrap())
    })
}

fn on_one_and_two(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, exchange: impl Fn(u64) + Sync) {
    group.bench_function(format!("{name}/1 thread"), |b| b.iter(|| exchange(0)));
    group.bench_function(format!("{name}/2 threads"), |b| b.iter_custom(|rounds| on_two_threads(rounds, &exchange)));
}

fn hot(c: &mut Criterion) {
    let keys = keys(1000);
    let peer = keys[500].as_ref();

    let quiet = table(KEYS);
    let mut group = c.benchmark_group("nothing cooling anywhere");
    on_one_and_two(&mut group, "ask", |_| {
        let _ = black_box(quiet.admit_free(black_box(&peer), Purpose::Request, at(100)));
    });
    on_one_and_two(&mut group, "free", |_| {
        black_box(free_exchange(&quiet, black_box(&peer), &Outcome::Success, at(100)));
    });
    group.finish();

    let busy = filled(&keys);
    let entry = busy.find(&keys[500]).unwrap();
    let mut group = c.benchmark_group("hot clear");
    on_one_and_two(&mut group, "permit, dropped", |_| {
        let _ = black_box(busy.admit(black_box(&peer), Purpose::Request, at(100)));
    });
    on_one_and_two(&mut group, "permit", |_| {
        black_box(permit_exchange(&busy, black_box(&peer), &Outcome::Success, at(100)));
    });
    on_one_and_two(&mut group, "free, dropped", |_| {
        let _ = black_box(busy.admit_free(black_box(&peer), Purpose::Request, at(100)));
    });
    on_one_and_two(&mut group, "free", |_| {
        black_box(free_exchange(&busy, black_box(&peer), &Outcome::Success, at(100)));
    });
    on_one_and_two(&mut group, "held, dropped", |_| {
        let _ = black_box(black_box(&entry).admit_free(Purpose::Request, at(100)));
    });
    on_one_and_two(&mut group, "held", |_| {
        if let Some(Quick::Forward(pass)) = black_box(&entry).admit_free(Purpose::Request, at(100)) {
            black_box(entry.complete_free(pass, &report(&Outcome::Success, at(100))));
        }
    });
    group.finish();

    cool(&busy, &keys[500], 3600, 100);
    let mut group = c.benchmark_group("hot cooling");
    on_one_and_two(&mut group, "permit", |_| {
        let _ = black_box(busy.admit(black_box(&peer), Purpose::Request, at(101)));
    });
    on_one_and_two(&mut group, "free", |_| {
        let _ = black_box(busy.admit_free(black_box(&peer), Purpose::Request, at(101)));
    });
    group.finish();

    let mut group = c.benchmark_group("key");
    group.bench_function("normalise", |b| {
        b.iter(|| KeyRef::from_authority(Scheme::Https, black_box("peer-0000500.mesh.example:443")).is_ok());
    });
    group.finish();
}

/// Numbers below `KEYS`, all alike or after Zipf's law with exponent 1.
fn picks(zipf: bool) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(4290);
    let mut sums = vec![0.0_f64];
    for rank in 1..=u32::try_from(KEYS).unwrap() {
        sums.push(sums[sums.len() - 1] + 1.0 / f64::from(rank));
    }
    let whole = sums[KEYS];
    (0..1 << 20)
        .map(|_| {
            let at = if zipf {
                let drawn = random.f64() * whole;
                sums.partition_point(|sum| *sum <= drawn).saturating_sub(1).min(KEYS - 1)
            } else {
                random.usize(..KEYS)
            };
            // Neighbours in rank are no neighbours in memory.
            u32::try_from((at * 48_271) % KEYS).unwrap()
        })
        .collect()
}

fn many(c: &mut Criterion) {
    let keys = keys(KEYS);
    let table = filled(&keys);
    let mut group = c.benchmark_group("100 000 clear keys");
    for (law, picks) in [("uniform", picks(false)), ("Zipf", picks(true))] {
        let mut next = picks.iter().cycle();
        group.bench_function(format!("permit/{law}"), |b| {
            b.iter(|| {
                let key = &keys[*next.next().unwrap() as usize];
                permit_exchange(&table, &key.as_ref(), &Outcome::Success, at(100))
            });
        });
        group.bench_function(format!("free/{law}"), |b| {
            b.iter(|| {
                let key = &keys[*next.next().unwrap() as usize];
                free_exchange(&table, &key.as_ref(), &Outcome::Success, at(100))
            });
        });
    }
    let unknown: Vec<Key> = (KEYS..KEYS + 1000).map(key).collect();
    let mut next = unknown.iter().cycle();
    group.bench_function("miss/free", |b| {
        b.iter(|| free_exchange(&table, &next.next().unwrap().as_ref(), &Outcome::Success, at(100)));
    });
    group.finish();

    let mut group = c.benchmark_group("100 000 keys, Zipf, with 429s");
    let picks = picks(true);
    for share in [1_u64, 10] {
        for way in ["permit", "free"] {
            let table = filled(&keys);
            let exchange = |now: u64, offset: usize| {
                let key = keys[picks[(now as usize + offset) % picks.len()] as usize].as_ref();
                let limited = limited(1);
                let outcome = if now % 100 < share { &limited } else { &Outcome::Success };
                // A request each 10 µs: a cooldown of 1 s is 100 000 requests long.
                let now = Instant::from_nanos(200_000_000_000 + now * 10_000);
                match way {
                    "permit" => permit_exchange(&table, &key, outcome, now),
                    _ => free_exchange(&table, &key, outcome, now),
                }
            };
            let mut now = 0;
            group.bench_function(format!("{share} %/{way}/1 thread"), |b| {
                b.iter(|| {
                    now += 1;
                    exchange(now, 0)
                });
            });
            group.bench_function(format!("{share} %/{way}/2 threads"), |b| {
                b.iter_custom(|rounds| {
                    let from = now;
                    now += rounds;
                    on_two_threads(rounds, |round| {
                        black_box(exchange(from + round, 0));
                    })
                });
            });
        }
    }
    group.finish();
}

fn rare(c: &mut Criterion) {
    let mut group = c.benchmark_group("rare");
    group.sample_size(10);

    let keys = keys(10_000);
    group.bench_function("expiry storm of 10 000 keys", |b| {
        b.iter_batched(
            || {
                let table = table(KEYS);
                keys.iter().for_each(|key| cool(&table, key, 5, 100));
                table
            },
            |table| {
                // The probe, the one it keeps waiting, and the verdict.
                for key in &keys {
                    let (_, verdict) = table.admit(&key.as_ref(), Purpose::Request, at(105));
                    let _ = black_box(table.admit(&key.as_ref(), Purpose::Request, at(105)));
                    if let Verdict::Forward(permit) = verdict {
                        permit.complete(&Outcome::Success, Some(200), None, at(105), 0);
                    }
                }
                table
            },
            BatchSize::PerIteration,
        );
    });

    let full = table(KEYS);
    (0..KEYS).for_each(|number| drop(full.admit(&key(number).as_ref(), Purpose::Request, at(100))));
    let mut number = KEYS;
    group.bench_function("insert at the bound", |b| {
        b.iter_batched(
            || {
                number += 1;
                key(number)
            },
            |key| permit_exchange(&full, &key.as_ref(), &Outcome::Success, at(101)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("worst of 5 000 inserts at the bound", |b| {
        b.iter_custom(|rounds| {
            let mut sum = Duration::ZERO;
            for _ in 0..rounds {
                let worst = (0..5_000).map(|_| {
                    number += 1;
                    let key = key(number);
                    timed(|| permit_exchange(&full, &key.as_ref(), &Outcome::Success, at(101)))
                });
                sum += worst.max().unwrap();
            }
            sum
        });
    });
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let began = std::time::Instant::now();
    black_box(run());
    began.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500)).nresamples(2000).without_plots();
    targets = hot, many, rare
}
criterion_main!(benches);
