//! Whole response heads: what a status and its fields mean, and what a key makes of it.
#![no_main]

use std::time::Duration;

use holdoff::core::classify;
use holdoff::core::cooldown::{Cooldown, Events};
use holdoff::core::decision::{Decision, Purpose, Reason};
use holdoff::core::policy::{Hintless, Policy};
use holdoff::core::signal::grpc::{self, Code, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS, is_grpc};
use holdoff::core::signal::{Failure, Field, MAX_RECEIVED, MAX_WAIT, Outcome};
use holdoff::core::time::Instant;
use holdoff_fuzz::Head;
use http::header::{AGE, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Head { status, wall, rules, fields } = Head::read(input);
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let head = classify::response(&rules, status, &headers, wall);
    assert_eq!(head.status, status);
    assert_eq!(head.awaits_trailers(), status.is_success() && is_grpc(&headers) && grpc::read(&headers).is_none());

    // The same fields again as trailers, a second later, and none; where nothing is awaited neither has a say.
    let second = Duration::from_secs(1);
    let without = head.clone().with_trailers(&rules, None, second);
    if head.awaits_trailers() {
        assert_eq!((&head.outcome, &without.outcome), (&Outcome::Success, &Outcome::Answered));
        headers.insert(GRPC_STATUS, HeaderValue::from(wall.as_secs() % 17));
    } else {
        assert_eq!(without, head);
    }
    let reading = head.clone().with_trailers(&rules, Some(&headers), second);
    assert!(!reading.awaits_trailers() && reading.hint_seen.is_none_or(|hint| hint.wait <= MAX_WAIT));

    let named = reading.hint_seen.is_some();
    let status = reading.grpc_code().map_or(status, Code::counts_as);
    let (is_limited, may_be_unavailable) = (rules.statuses.contains(&status), rules.unavailable.contains(&status));
    match &reading.outcome {
        Outcome::Signal(signal) => {
            let expected = if is_limited { Reason::RateLimited } else { Reason::Unavailable };
            assert_eq!(signal.reason, expected);
            assert!(is_limited || (may_be_unavailable && named));
            assert_eq!(signal.hint, reading.hint_seen.filter(|_| rules.trust_hints));
            let shown = signal.received.as_deref().unwrap_or_default();
            assert!(shown.len() <= MAX_RECEIVED && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{shown}");
            let has_pushback = reading.grpc_code().is_some() && headers.contains_key(GRPC_RETRY_PUSHBACK_MS);
            assert_eq!(shown.is_empty(), !headers.contains_key(RETRY_AFTER) && !has_pushback);
        }
        Outcome::Neutral => assert!(is_limited && !named && rules.hintless == Hintless::Ignore),
        Outcome::Failing(failure) => {
            assert_eq!(*failure, Failure::Status(status.as_u16()));
            assert!(matches!(status.as_u16(), 502..=504) && !is_limited && !named);
        }
        Outcome::Answered => assert!(status.is_server_error() && !is_limited && !named),
        Outcome::Success => assert!(!status.is_server_error() && !is_limited),
        other => panic!("{status} is {other:?}"),
    }
    if !is_limited && !may_be_unavailable {
        let odd = reading.errors().any(|(field, _)| field != Field::GrpcStatus);
        assert!(!named && !odd, "a field that does not matter is not read");
    }

    // Nothing but six fields has a say.
    let mut fewer = HeaderMap::new();
    for name in [RETRY_AFTER, DATE, AGE, CONTENT_TYPE, GRPC_STATUS, GRPC_RETRY_PUSHBACK_MS] {
        for value in headers.get_all(&name) {
            fewer.append(&name, value.clone());
        }
    }
    let again = if head.awaits_trailers() {
        head.with_trailers(&rules, Some(&fewer), second)
    } else {
        classify::response(&rules, head.status, &fewer, wall)
    };
    assert_eq!(again, reading);

    // The key cools if and only if it is a signal, within the caps.
    let policy = Policy { signals: rules, ..Policy::default() };
    policy.check().unwrap();
    let (mut key, now, mut events) = (Cooldown::new(), Instant::from_secs(1000), Events::default());
    let Decision::Forward(admission) = key.admit(&policy, Purpose::Request, now, &mut events) else {
        panic!("nothing is known of the key yet");
    };
    key.observe(&policy, admission, &reading.outcome, now, u64::MAX, &mut events);
    key.check_invariants(&policy).unwrap();
    let cooling = key.summary().cooling;
    assert_eq!(cooling.is_some(), matches!(reading.outcome, Outcome::Signal(_)));
    if let Some((deadline, _)) = cooling {
        let length = deadline.saturating_since(now);
        assert!(length >= policy.cooldown.min_cooldown && length <= policy.cooldown.max_retry_after, "{length:?}");
        let told = reading.hint_seen.filter(|_| policy.signals.trust_hints).map_or(Duration::ZERO, |hint| hint.wait);
        assert!(length >= told.min(policy.cooldown.max_retry_after), "earlier than told");
    }
});
