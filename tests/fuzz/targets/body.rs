//! Bodies that body rules look at: codings, streams of events, JSON, in pieces.
#![no_main]

use holdoff_fuzz::bodies;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    bodies::check(input);
});
