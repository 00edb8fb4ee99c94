//! Request targets, CONNECT authorities and `Host` fields: where a request goes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| holdoff::proxy::properties::authority(input));
