//! What must hold of any body that body rules look at, said once: for `tests/fuzz`, for the properties and for this binary.

use std::time::Duration;

use holdoff::core::signal::MAX_RECEIVED;
use holdoff::core::signal::body::{BodyRule, BodyRules, Condition, Cools, Pointer, Scalar, Test, Verdict, When};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

/// A body and what is said of it, the body behind the first line:
///
/// ```text
/// gzip json 16384 65536 7
/// ```
///
/// The coding, `json` or `stream`, how many bytes are kept, how many are decoded, and the length of the pieces. Whatever
/// cannot be read is a default. Returns whether a rule matched.
pub fn check(input: &[u8]) -> bool {
    let line = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let body = input.get(line + 1..).unwrap_or_default();
    let mut words = input.get(..line).unwrap_or_default().split(|&byte| byte == b' ');
    let coding = words.next().and_then(|word| HeaderValue::from_bytes(word).ok());
    let media_type = if words.next() == Some(b"stream") { "text/event-stream" } else { "application/json" };
    let mut number = |or: usize| {
        let number = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        number.unwrap_or(or).min(1 << 17)
    };
    let (prefix, decoded, size) = (number(16 << 10), number(64 << 10), number(1).max(1));
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
    let is_identity = coding.as_ref().is_none_or(|coding| coding == "identity");
    headers.extend(coding.map(|coding| (CONTENT_ENCODING, coding)));

    let rules = BodyRules::new(rules(), prefix, decoded);
    let whole = judge(&rules, &headers, [body]);
    assert_eq!(judge(&rules, &headers, body.chunks(size)), whole, "pieces of {size}");
    let (one, two) = body.split_at(size.min(body.len()));
    assert_eq!(judge(&rules, &headers, [one, two]), whole, "cut at {size}");
    for (_, saw) in whole.matched.iter().flat_map(|found| &found.seen) {
        assert!(saw.len() <= MAX_RECEIVED && saw.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{saw}");
    }
    if is_identity {
        let begun = judge(&rules, &headers, [one]).matched.is_some();
        assert!(!begun || whole.matched.is_some(), "more of a body undoes no match");
        if media_type == "application/json" && body.len() < prefix.min(decoded) {
            against_a_whole_reading(&headers, body);
        }
    }
    whole.matched.is_some()
}

fn judge<'p>(rules: &BodyRules, headers: &HeaderMap, pieces: impl IntoIterator<Item = &'p [u8]>) -> Verdict {
    let mut watch = rules.watch(StatusCode::OK, headers).unwrap();
    let mut is_done = false;
    for piece in pieces {
        let says = watch.see(piece);
        assert!(says || !is_done, "it was done already");
        is_done = says;
    }
    watch.finish()
}

/// What a reader of whole JSON finds at a place is found there, by this rule alone.
fn against_a_whole_reading(headers: &HeaderMap, body: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    for rule in rules() {
        let holds = rule.conditions.iter().map(|condition| match condition {
            Condition::Pointer { pointer, test } => {
                value.pointer(&pointer.to_string()).is_some_and(|found| match test {
                    Test::Contains(text) => found.as_str().is_some_and(|found| found.contains(&**text)),
                    Test::Equals(Scalar::Text(text)) => found.as_str() == Some(text),
                    Test::Equals(Scalar::Integer(number)) => found.as_i64() == Some(*number),
                    Test::Equals(_) => false,
                })
            }
            _ => false,
        });
        let holds: Vec<bool> = holds.collect();
        let expected = match rule.when {
            When::All => holds.iter().all(|&holds| holds),
            When::Any => holds.iter().any(|&holds| holds),
        };
        let verdict = judge(&BodyRules::new(vec![rule], usize::MAX, usize::MAX), headers, [body]);
        assert!(!expected || verdict.matched.is_some(), "found in {value}");
        assert!(verdict.problems.is_empty(), "{value} is JSON");
    }
}

fn rules() -> Vec<BodyRule> {
    let pointer = |pointer, test| Condition::Pointer { pointer: Pointer::parse(pointer).unwrap(), test };
    let failed = || pointer("/status", Test::Equals(Scalar::Text("failed".into())));
    let conditions = [
        (When::All, vec![failed(), Condition::Text("background worker likely died".into())]),
        (When::All, vec![failed(), pointer("/totalSegments", Test::Equals(Scalar::Integer(0)))]),
        (
            When::Any,
            vec![Condition::regex("queue_(full|depth)\\b").unwrap(), pointer("/a/0/b", Test::Contains("x".into()))],
        ),
    ];
    conditions
        .map(|(when, conditions)| BodyRule {
            name: "a rule".into(),
            statuses: Vec::new(),
            media_types: Vec::new(),
            when,
            conditions,
            cooldown: Duration::from_secs(600),
            cools: Cools::Host,
        })
        .into()
}
