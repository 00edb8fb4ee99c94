//! The table beside a second reading of the contract, under seeded chance.
//!
//! Every seed makes a world: a table with a small bound, policies of every kind, hosts with moods, and a clock that stands
//! still, hits deadlines to the nanosecond and jumps by hours. Every step does one thing to it and compares the table with
//! the model: answers, events, state. At the end every key must clear again.
//!
//! `HOLDOFF_SIM_SEEDS=20000` runs more seeds, `HOLDOFF_SIM_SEED=7` one; `HOLDOFF_SIM_STEPS=100` begins the end after so
//! many steps. A failure prints its last steps and the line that repeats it.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the sums of a test may fail loudly"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

#[path = "simulation/chance.rs"]
mod chance;
#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/end.rs"]
mod end;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/range.rs"]
mod range;
#[path = "simulation/tale.rs"]
mod tale;
#[path = "simulation/world.rs"]
mod world;

use world::World;

const SEEDS: u64 = 256;
const STEPS: u64 = 600;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("`{name}`: expected a number, found `{text}`")))
}

#[test]
fn the_table_does_what_the_contract_says_and_every_key_clears_again() {
    let steps = number("HOLDOFF_SIM_STEPS").unwrap_or(STEPS);
    let seeds = match number("HOLDOFF_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 0..=number("HOLDOFF_SIM_SEEDS").unwrap_or(SEEDS).saturating_sub(1),
    };
    let mut seen = tale::Seen::default();
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        let run = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..steps {
                world.step();
            }
            world.everything_clears();
        }));
        if let Err(panic) = run {
            eprintln!("{}", world.story());
            // The steps of the end come by themselves.
            let again = world.steps().min(steps);
            eprintln!("seed {seed}, step {}; again by:", world.steps());
            eprintln!("HOLDOFF_SIM_SEED={seed} HOLDOFF_SIM_STEPS={again} cargo test --test simulation");
            resume_unwind(panic);
        }
        seen.add(world.seen());
    }
    eprintln!("{} seeds of {steps} steps: {seen:?}", seeds.clone().count());
    // A simulation that never gets somewhere proves nothing about it.
    if seeds.count() >= 64 && steps >= STEPS {
        seen.assert_everything_happened();
    }
}
