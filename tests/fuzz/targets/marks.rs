//! The marks of our answers: what is taken off what others send. A line with our name, then `Proxy-Status` values.
#![no_main]

// Two files of an adapter that stand alone, and private to it.
#[path = "../../../src/synthetic/marks.rs"]
mod marks;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use marks::{HOLDOFF, PROXY_STATUS, proxy_status, strip_marks};

const OTHER: HeaderName = HeaderName::from_static("x-other");

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n');
    let name = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let values: Vec<HeaderValue> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let strip = |values: &[HeaderValue], name: &str| {
        let mut headers = HeaderMap::new();
        headers.append(OTHER, HeaderValue::from_static("stays"));
        for value in values {
            headers.append(PROXY_STATUS, value.clone());
            headers.append(HOLDOFF, value.clone());
        }
        strip_marks(&mut headers, name);
        assert!(!headers.contains_key(HOLDOFF));
        assert_eq!(headers.get(OTHER), Some(&HeaderValue::from_static("stays")));
        headers.get_all(PROXY_STATUS).iter().cloned().collect::<Vec<_>>()
    };
    let left = strip(&values, &name);
    assert!(left.len() <= values.len());
    assert_eq!(strip(&left, &name), left, "stripping twice is stripping once");
    let length = |values: &[HeaderValue]| values.iter().map(HeaderValue::len).sum::<usize>();
    assert!(length(&left) <= length(&values) + 2 * values.len(), "it only takes away, but for the space after a comma");

    // Ours goes in any case of letters, before, between and after what others wrote, and what they wrote stays.
    for name_as in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
        let ours = proxy_status(&name_as, "dns_error", &name, 20);
        assert_eq!(strip(&[ours], &name), [HeaderValue::from_static(""); 0]);
    }
    let ours = proxy_status(&name, "dns_error", &name, 20);
    for value in &left {
        let join = |one: &HeaderValue, other: &HeaderValue| {
            HeaderValue::from_bytes(&[one.as_bytes(), b", ", other.as_bytes()].concat()).unwrap()
        };
        let (before, after) = (strip(&[join(&ours, value)], &name), strip(&[join(value, &ours)], &name));
        assert_eq!(before.len(), 1, "{value:?}");
        assert_eq!(before, after);
        assert_eq!(without_space(&before[0]), without_space(value));
        assert_eq!(strip(&[ours.clone(), value.clone(), ours.clone()], &name), std::slice::from_ref(value));
    }
});

fn without_space(value: &HeaderValue) -> Vec<u8> {
    value.as_bytes().iter().copied().filter(|byte| !b" \t".contains(byte)).collect()
}
