//! Whole response heads: what a status and its fields mean, and what a key makes of it.
#![no_main]

use std::time::Duration;

use holdoff::core::classify;
use holdoff::core::cooldown::{Cooldown, Events};
use holdoff::core::decision::{Decision, Purpose, Reason};
use holdoff::core::policy::{Hintless, Policy, SignalRules};
use holdoff::core::signal::grpc::{self, Code, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS, is_grpc};
use holdoff::core::signal::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY};
use holdoff::core::signal::retry_after::{RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use holdoff::core::signal::{Failure, Field, MAX_RECEIVED, MAX_WAIT, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff_fuzz::{Head, SCOPE, VENDOR_FIELDS};
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
    let with_hint = rules.limited_with_hint.contains(&status);
    let of_signal = |signal: &Signal| {
        let expected = if may_be_unavailable { Reason::Unavailable } else { Reason::RateLimited };
        assert_eq!(signal.reason, expected);
        assert!(is_limited || ((may_be_unavailable || with_hint) && named));
        is_told(signal, &rules, &reading);
        if !named {
            let has_pushback = reading.grpc_code().is_some() && headers.contains_key(GRPC_RETRY_PUSHBACK_MS);
            let fields = [RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS];
            let has_any = has_pushback || fields.iter().any(|name| headers.contains_key(name));
            assert_eq!(signal.received.is_some(), has_any);
        }
    };
    match &reading.outcome {
        Outcome::Signal(signal) => {
            of_signal(signal);
            assert!(steps(&rules, reading.scope));
        }
        Outcome::OffLadder(signal) => {
            of_signal(signal);
            assert!(!steps(&rules, reading.scope));
        }
        Outcome::Exhausted(signal) => {
            assert!(rules.proactive && (status.is_success() || status.is_redirection()));
            assert_eq!(signal.reason, Reason::QuotaExhausted);
            assert!(signal.hint.is_some_and(|hint| !hint.wait.is_zero()));
            is_told(signal, &rules, &reading);
        }
        Outcome::Neutral => assert!(is_limited && !named && rules.hintless == Hintless::Ignore),
        Outcome::Failing(failure) => {
            assert_eq!(*failure, Failure::Status(status.as_u16()));
            assert!(matches!(status.as_u16(), 502..=504) && !is_limited && !named);
        }
        Outcome::Answered => assert!(status.is_server_error() && !is_limited && !named),
        Outcome::Success => {
            assert!(!status.is_server_error() && !is_limited);
            assert!(!named || (rules.proactive && !rules.trust_hints), "what is named counts");
        }
        other => panic!("{status} is {other:?}"),
    }
    assert!(reading.scope.is_none() || reading.outcome.signal().is_some());
    if !is_limited && !may_be_unavailable && !with_hint && !rules.proactive {
        let odd = reading.errors().any(|(field, _)| field != Field::GrpcStatus);
        assert!(!named && !odd, "a field that does not matter is not read");
    }

    // What was asked by a method that does not count is no signal, and by its hint alone counts what another holdoff said.
    assert!(reading.clone().of_ignored_method().outcome.signal().is_none());
    let early = head.clone().of_ignored_method().with_trailers(&rules, Some(&headers), second);
    assert_eq!(early.outcome, reading.clone().of_ignored_method().outcome);
    match reading.clone().relayed().outcome {
        Outcome::OffLadder(signal) => assert!(signal.hint.is_some()),
        other => assert_eq!(other, Outcome::Neutral),
    }

    // Nothing but these fields has a say.
    let mut fewer = HeaderMap::new();
    let vendor = VENDOR_FIELDS.iter().flat_map(|(reset, _, left)| [Some(*reset), *left]).flatten();
    let mut known: Vec<HeaderName> = vendor.map(HeaderName::from_static).collect();
    known.extend([RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS, RATE_LIMIT, RATE_LIMIT_POLICY, SCOPE]);
    known.extend([DATE, AGE, CONTENT_TYPE, GRPC_STATUS, GRPC_RETRY_PUSHBACK_MS]);
    known.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    known.dedup();
    for name in known {
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
    assert_eq!(cooling.is_some(), reading.outcome.signal().is_some());
    if let Some((deadline, _)) = cooling {
        let length = deadline.saturating_since(now);
        assert!(length >= policy.cooldown.min_cooldown && length <= policy.cooldown.max_retry_after, "{length:?}");
        let told = reading.hint_seen.filter(|_| policy.signals.trust_hints).map_or(Duration::ZERO, |hint| hint.wait);
        assert!(length >= told.min(policy.cooldown.max_retry_after), "earlier than told");
    }
});

/// Whether signals of a scope climb the ladder.
fn steps(rules: &SignalRules, scope: Option<usize>) -> bool {
    scope.is_none_or(|at| rules.scopes[at].step)
}

/// What a signal says is what was read, and fit to be shown.
fn is_told(signal: &Signal, rules: &SignalRules, reading: &classify::Reading) {
    assert_eq!(signal.hint, reading.hint_seen.filter(|_| rules.trust_hints));
    let shown = signal.received.as_deref().unwrap_or_default();
    assert!(shown.len() <= MAX_RECEIVED && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{shown}");
    assert!(reading.hint_seen.is_none() || !shown.is_empty());
}
