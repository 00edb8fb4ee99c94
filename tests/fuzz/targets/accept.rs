//! `Accept`, as far as the choice between two bodies needs it.
#![no_main]

// A file of an adapter that stands alone, and private to it.
#[path = "../../../src/synthetic/accept.rs"]
mod accept;

use accept::prefers_text;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let (problem, text) = (prefers_text(Some(&value), false), prefers_text(Some(&value), true));
    assert!(text || !problem, "the default decides between equals only");
    let upper = HeaderValue::from_bytes(&input.to_ascii_uppercase()).unwrap();
    assert_eq!(prefers_text(Some(&upper), false), problem, "case says nothing");
    assert_eq!(prefers_text(Some(&upper), true), text, "case says nothing");
});
