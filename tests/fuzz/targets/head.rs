//! Head in, head out, through a whole sidecar: see `heads`. The longest way, and the slowest: a connection an input.
#![no_main]

use std::time::Duration;

use holdoff_fuzz::heads::Arena;
use libfuzzer_sys::fuzz_target;

thread_local! {
    // Never taken down: the threads of the runtime have things of their own to take down first.
    static ARENA: &'static Arena = Box::leak(Box::new(Arena::new(Duration::from_millis(50))));
}

fuzz_target!(|input: &[u8]| {
    ARENA.with(|arena| arena.play(input));
});
