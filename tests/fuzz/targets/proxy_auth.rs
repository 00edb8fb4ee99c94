//! Proxy credentials, and the file of those who may use the proxy.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| holdoff::proxy::properties::proxy_auth(input));
