//! Any text as a configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    holdoff_fuzz::configuration::check(text);
});
