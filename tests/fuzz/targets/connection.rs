//! The `Connection` field: what it takes off, in heads and trailers, and what it may not.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| holdoff::proxy::properties::connection(input));
