//! Whole response heads: what a status and its fields mean, and what a key makes of it.
#![no_main]

use std::time::Duration;

use holdoff::core::classify;
use holdoff::core::cooldown::{Cooldown, Events};
use holdoff::core::decision::{Decision, Purpose, Reason};
use holdoff::core::policy::{Hintless, Policy};
use holdoff::core::signal::{Failure, MAX_RECEIVED, MAX_WAIT, Outcome};
use holdoff::core::time::Instant;
use holdoff_fuzz::Head;
use http::header::{AGE, DATE, RETRY_AFTER};
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
    let reading = classify::response(&rules, status, &headers, wall);
    assert_eq!(reading.status, status);
    assert!(reading.hint_seen.is_none_or(|hint| hint.wait <= MAX_WAIT));

    let named = reading.hint_seen.is_some();
    let (is_limited, may_be_unavailable) = (rules.statuses.contains(&status), rules.unavailable.contains(&status));
    match &reading.outcome {
        Outcome::Signal(signal) => {
            let expected = if is_limited { Reason::RateLimited } else { Reason::Unavailable };
            assert_eq!(signal.reason, expected);
            assert!(is_limited || (may_be_unavailable && named));
            assert_eq!(signal.hint, reading.hint_seen.filter(|_| rules.trust_hints));
            let shown = signal.received.as_deref().unwrap_or_default();
            assert!(shown.len() <= MAX_RECEIVED && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{shown}");
            assert_eq!(shown.is_empty(), !headers.contains_key(RETRY_AFTER));
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
        assert!(!named && reading.errors().next().is_none(), "a field that does not matter is not read");
    }

    // Nothing but three fields has a say.
    let mut fewer = HeaderMap::new();
    for name in [RETRY_AFTER, DATE, AGE] {
        for value in headers.get_all(&name) {
            fewer.append(&name, value.clone());
        }
    }
    assert_eq!(classify::response(&rules, status, &fewer, wall), reading);

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
