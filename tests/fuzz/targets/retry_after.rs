//! `Retry-After` with the `Date` and `Age` beside it, as raw values. The input is a [`Head`].
#![no_main]

use std::time::Duration;

use holdoff::core::signal::date::host_clock;
use holdoff::core::signal::retry_after::{self, Context};
use holdoff::core::signal::{Cause, MAX_WAIT};
use holdoff_fuzz::Head;
use libfuzzer_sys::fuzz_target;

/// The longest value that is read.
const MAX_VALUE: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let head = Head::read(input);
    let date = host_clock(head.values("date"), head.values("age"), head.wall);
    let context = Context { wall: head.wall, date, fractional: head.rules.fractional_seconds };
    let wait = |values: &[&[u8]]| {
        let reading = retry_after::read(values.iter().copied(), &context);
        assert!(reading.hint.is_none_or(|hint| hint.wait <= MAX_WAIT), "{reading:?}");
        assert!(reading.hint.is_none_or(|hint| hint.wait == MAX_WAIT) || !reading.causes.contains(Cause::Saturated));
        // What could not be read is counted, and what was not there is not.
        assert_eq!(reading.hint.is_none() && reading.causes.is_empty(), values.is_empty(), "{reading:?}");
        reading.hint.map(|hint| hint.wait)
    };
    let values = head.values("retry-after");
    let all = wait(&values);

    // One more field, and one more member of the last one, never shorten.
    for more in [&b"5"[..], b"", b"-1", b"soon", b"Fri, 20 Nov 2026 10:00:05 GMT", b"20 Nov 2026 10:00:05 GMT"] {
        assert!(wait(&[&values[..], &[more]].concat()) >= all, "another field {:?}", String::from_utf8_lossy(more));
        let Some((last, others)) = values.split_last() else { continue };
        let longer = [*last, b", ", more].concat();
        if longer.len() <= MAX_VALUE {
            let read = wait(&[others, &[&longer]].concat());
            assert!(read >= all, "another member {:?}: {read:?}, not {all:?}", String::from_utf8_lossy(more));
        }
    }
    // Fewer never lengthen.
    for at in 0..values.len() {
        assert!(wait(&values[..at]) <= all);
    }

    // More digits are more seconds.
    for value in &values {
        if !value.is_empty() && value.len() < MAX_VALUE && value.iter().all(u8::is_ascii_digit) {
            let seconds = wait(&[value]);
            let text = std::str::from_utf8(value).unwrap();
            let expected = text.parse().map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
            assert_eq!(seconds, Some(expected));
            for digit in [b'0', b'9'] {
                assert!(wait(&[&[*value, &[digit]].concat()]) >= seconds);
            }
            if context.fractional && value.len() < MAX_VALUE - 3 {
                assert_eq!(wait(&[&[*value, b".00"].concat()]), seconds);
                assert!(wait(&[&[*value, b".01"].concat()]) >= seconds);
            }
        }
    }
});
