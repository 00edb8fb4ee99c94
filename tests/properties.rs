//! What must hold for every input: parsers, delays, admission, keys, the bound of the table.
//!
//! The cases are drawn from a fixed seed, so that a run says the same thing twice.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "the sums of a test may fail loudly"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdoff::core::backoff::{breaker_delay, hint_delay, signal_delay};
use holdoff::core::classify;
use holdoff::core::cooldown::{Cooldown, Events};
use holdoff::core::decision::{Decision, Purpose, Reason, Source, State};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{
    BreakerLimits, CooldownLimits, FieldRule, Hintless, Ladder, Policy, ScopeRule, SignalRules, Unit,
};
use holdoff::core::signal::date::{host_clock, http_date};
use holdoff::core::signal::retry_after::{self, Context};
use holdoff::core::signal::vendor;
use holdoff::core::signal::{
    Cause, Failure, FailureClass, Hint, MAX_RECEIVED, MAX_WAIT, Outcome, Signal, printable, rate_limit,
};
use holdoff::core::time::{Instant, UnixTime};
use holdoff::table::{Table, Verdict};
use http::header::{AGE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// 2026-11-20T10:00:00Z
const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);

/// The last second of the year 9999, the last that an HTTP-date can name.
const LAST_SECOND: u64 = 253_402_300_799;

const YEAR: u64 = 365 * 86_400;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(2026), ..ProptestConfig::default() }
}

fn read(values: &[&[u8]], context: &Context) -> retry_after::Reading {
    retry_after::read(values.iter().copied(), context)
}

fn context(date: Option<UnixTime>, fractional: bool) -> Context {
    Context { wall: WALL, date, fractional }
}

// ---------------------------------------------------------------- what is drawn

/// Bytes that get deep into the parsers: pieces of what they read, and anything else.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"Fri, 20 Nov 2026 10:00:10 GMT".to_vec()),
        Just(b"Friday, 20-Nov-26 10:00:10 GMT".to_vec()),
        Just(b"Fri Nov 20 10:00:10 2026".to_vec()),
        Just(b"Fri, 31 Feb 2026 23:59:60 GMT".to_vec()),
        Just(b", ".to_vec()),
        Just(b"-".to_vec()),
        Just(b".".to_vec()),
        Just(b"\t ".to_vec()),
        "[0-9]{1,30}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const LEFT: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");

fn unit() -> impl Strategy<Value = Unit> {
    proptest::sample::select(&Unit::ALL[..])
}

/// What vendors write, pieces of it, and anything else.
fn vendor_value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"0".to_vec()),
        Just(b"6m0s".to_vec()),
        Just(b"8.64s".to_vec()),
        Just(b"1795168830.123".to_vec()),
        Just(b"2026-11-20T10:01:00.5+01:00".to_vec()),
        Just(b"PT1M30S".to_vec()),
        "[0-9]{1,30}".prop_map(String::into_bytes),
        "[-+.,:TZPhms ]{1,2}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

/// Structured fields, whole and broken.
fn quotas() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "\"[a-c]\";r=[0-1];t=[0-9]{1,16}".prop_map(String::into_bytes),
        3 => "\"[a-c]\";q=[0-9]{1,3}(;w=[0-9]{1,3})?".prop_map(String::into_bytes),
        4 => Just(b", ".to_vec()),
        1 => ";(pk|r|t|x)=(:cHM=:|-1|0|1.5|\"y\")".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// From a nanosecond to the end of time, with no size preferred.
fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0_u32..64, any::<u64>()).prop_map(|(shift, nanos)| Duration::from_nanos(nanos >> shift)),
        2 => (0_u64..100_000).prop_map(Duration::from_secs),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::MAX),
    ]
}

fn some_duration() -> impl Strategy<Value = Duration> {
    any_duration().prop_map(|duration| duration.max(Duration::from_nanos(1)))
}

prop_compose! {
    fn limits()(
        min_cooldown in some_duration(),
        bounds in (any_duration(), any_duration(), any_duration(), any_duration()),
        growth in 1.0..=100.0,
        ladder in prop_oneof![Just(Ladder::FromHint), Just(Ladder::Fixed), Just(Ladder::Off)],
        jitter in 0.0..=1.0,
        hint_jitter in any::<bool>(),
        times in (some_duration(), any_duration(), any_duration()),
        success_threshold in 1_u32..4,
    ) -> CooldownLimits {
        let max_backoff = bounds.0.max(min_cooldown);
        CooldownLimits {
            min_cooldown,
            default_cooldown: bounds.1.min(max_backoff),
            growth,
            max_backoff,
            max_overwait: bounds.2.max(min_cooldown),
            max_retry_after: bounds.3.max(min_cooldown),
            ladder,
            jitter,
            hint_jitter,
            probe_lease: times.0,
            success_threshold,
            ramp: times.1,
            quiet_time: times.2,
        }
    }
}

prop_compose! {
    fn breaker()(
        failure_threshold in 0_u32..5,
        failure_window in any_duration(),
        initial in some_duration(),
        growth in 1.0..=100.0,
        max in any_duration(),
        classes in any::<bool>(),
    ) -> BreakerLimits {
        BreakerLimits { failure_threshold, failure_window, initial, growth, max: max.max(initial), classes }
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    (limits(), breaker()).prop_map(|(cooldown, breaker)| {
        let policy = Policy { cooldown, breaker, ..Policy::default() };
        policy.check().unwrap();
        policy
    })
}

fn signal(wait: Option<Duration>) -> Outcome {
    let hint = wait.map(|wait| Hint { wait, source: Source::RetryAfterSeconds });
    Outcome::Signal(Signal { reason: Reason::RateLimited, hint, received: None })
}

fn hinted(reason: Reason, wait: Duration) -> Signal {
    Signal { reason, hint: Some(Hint { wait, source: Source::VendorReset }), received: None }
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![Just(Failure::Refused), Just(Failure::Timeout), Just(Failure::Tls), Just(Failure::Status(503))]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        1 => any_duration().prop_map(|wait| Outcome::OffLadder(hinted(Reason::BackendBusy, wait))),
        2 => any_duration().prop_map(|wait| Outcome::Exhausted(hinted(Reason::QuotaExhausted, wait))),
        3 => Just(Outcome::Success),
        1 => Just(Outcome::Answered),
        1 => Just(Outcome::Connected),
        1 => Just(Outcome::Neutral),
        2 => failure().prop_map(Outcome::Failing),
        2 => Just(signal(None)),
        4 => any_duration().prop_map(|wait| signal(Some(wait))),
    ]
}

/// What may be done to a key.
#[derive(Clone, Debug)]
enum Step {
    Exchange(Outcome),
    /// A permit that is kept until the end of the history.
    Ask,
    /// The oldest of those.
    Answer(Outcome),
    Freeze(Duration),
    Release,
}

fn history() -> impl Strategy<Value = Vec<(Duration, Step, u64)>> {
    let step = prop_oneof![
        5 => outcome().prop_map(Step::Exchange),
        3 => Just(Step::Ask),
        3 => outcome().prop_map(Step::Answer),
        1 => any_duration().prop_map(Step::Freeze),
        1 => Just(Step::Release),
    ];
    let pause = prop_oneof![Just(Duration::ZERO), (0_u64..200_000).prop_map(Duration::from_millis)];
    vec((pause, step, any::<u64>()), 0..12)
}

/// A machine to which all that happened, and when the last of it did.
fn live_through(policy: &Policy, steps: &[(Duration, Step, u64)]) -> (Cooldown, Instant) {
    let (mut machine, mut now, mut out) = (Cooldown::new(), Instant::from_secs(1000), Vec::new());
    for (pause, step, draw) in steps {
        now = now.saturating_add(*pause);
        let mut events = Events::default();
        match step {
            Step::Exchange(_) | Step::Ask => {
                let decision = machine.admit(policy, Purpose::Request, now, &mut events);
                match (decision, step) {
                    (Decision::Forward(admission), Step::Exchange(outcome)) => {
                        machine.observe(policy, admission, outcome, now, *draw, &mut Events::default());
                    }
                    (Decision::Forward(admission), _) => out.insert(0, admission),
                    _ => {}
                }
            }
            Step::Answer(outcome) => {
                if let Some(admission) = out.pop() {
                    machine.observe(policy, admission, outcome, now, *draw, &mut events);
                }
            }
            Step::Freeze(length) => drop(machine.freeze(policy, *length, now, &mut events)),
            Step::Release => drop(machine.release(policy, now, &mut events)),
        }
        machine.check_invariants(policy).unwrap();
    }
    (machine, now)
}

fn admit(machine: &Cooldown, policy: &Policy, now: Instant) -> Decision {
    machine.clone().admit(policy, Purpose::Request, now, &mut Events::default())
}

// ---------------------------------------------------------------- parsers

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn nothing_in_retry_after_panics_or_passes_the_largest_wait(
        values in vec(value(), 0..4), date in proptest::option::of(any::<u64>()), wall in any::<u64>(), fractional in any::<bool>(),
    ) {
        let context = Context { wall: UnixTime::from_millis(wall), date: date.map(UnixTime::from_millis), fractional };
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let reading = read(&values, &context);
        prop_assert!(reading.hint.is_none_or(|hint| hint.wait <= MAX_WAIT));
        // What could not be read is counted, and what was not there is not.
        prop_assert_eq!(reading.hint.is_none() && reading.causes.is_empty(), values.is_empty());
    }

    #[test]
    fn another_field_or_part_never_shortens(values in vec(value(), 1..4), fractional in any::<bool>()) {
        let context = context(None, fractional);
        let alone = values.iter().filter_map(|value| read(&[value], &context).hint).map(|hint| hint.wait).max();
        let fields: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(read(&fields, &context).hint.map(|hint| hint.wait), alone);
        // Members that are read whole, as a list.
        let members: Vec<&[u8]> =
            fields.iter().copied().filter(|value| !value.contains(&b',') && read(&[value], &context).hint.is_some()).collect();
        let longest = members.iter().filter_map(|value| read(&[value], &context).hint).map(|hint| hint.wait).max();
        prop_assert_eq!(read(&[&members.join(&b", "[..])], &context).hint.map(|hint| hint.wait), longest);
    }

    #[test]
    fn any_number_of_digits_is_that_number_or_the_largest(zeros in 0_usize..40, digits in prop_oneof![
        "[1-9][0-9]{0,300}",
        "[1-9]0{0,100}",
        // What is small again once 64 bits are full.
        (1_u128..1000, 0_u128..1000).prop_map(|(times, more)| ((times << 64) + more).to_string()),
    ]) {
        let text = format!("{}{digits}", "0".repeat(zeros));
        let expected = digits.parse::<u64>().map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT);
        let reading = read(&[text.as_bytes()], &context(None, false));
        prop_assert_eq!(reading.hint, Some(Hint { wait: expected, source: Source::RetryAfterSeconds }));
        let is_larger = digits.parse::<u64>().map_or(true, |secs| Duration::from_secs(secs) > MAX_WAIT);
        prop_assert_eq!(reading.causes.contains(Cause::Saturated), is_larger);
    }

    #[test]
    fn seconds_written_are_the_seconds_read(secs in 0..=MAX_WAIT.as_secs(), space in "[ \t]{0,3}") {
        let reading = read(&[format!("{space}{secs}{space}").as_bytes()], &context(None, false));
        prop_assert_eq!(reading.hint.map(|hint| hint.wait), Some(Duration::from_secs(secs)));
        prop_assert!(reading.causes.is_empty());
    }

    #[test]
    fn a_fraction_is_rounded_up(secs in 0_u64..1_000_000, part in "[0-9]{1,9}") {
        let up = u64::from(part.bytes().any(|digit| digit != b'0'));
        let text = format!("{secs}.{part}");
        let reading = read(&[text.as_bytes()], &context(None, true));
        prop_assert_eq!(reading.hint.map(|hint| hint.wait), Some(Duration::from_secs(secs + up)));
        let refused = read(&[text.as_bytes()], &context(None, false));
        prop_assert!(refused.hint.is_none() && refused.causes.contains(Cause::Fraction));
    }

    #[test]
    fn a_date_written_is_the_date_read_in_every_syntax(
        secs in prop_oneof![0..=LAST_SECOND, WALL.as_secs() - 49 * YEAR..WALL.as_secs() + 49 * YEAR],
    ) {
        let date = UnixTime::from_secs(secs);
        let fix = httpdate::fmt_http_date(SystemTime::from(date));
        prop_assert_eq!(http_date(fix.as_bytes(), WALL), Some(date), "{}", fix);
        let (name, day, month, year, time) = (&fix[..3], &fix[5..7], &fix[8..11], &fix[12..16], &fix[17..25]);
        let padded = day.strip_prefix('0').map_or(day.to_owned(), |digit| format!(" {digit}"));
        let asctime = format!("{name} {month} {padded} {time} {year}");
        prop_assert_eq!(http_date(asctime.as_bytes(), WALL), Some(date), "{}", asctime);
        if secs.abs_diff(WALL.as_secs()) < 49 * YEAR {
            let long = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
                .into_iter()
                .find(|long| long.starts_with(name))
                .unwrap();
            let old = format!("{long}, {day}-{month}-{} {time} GMT", &year[2..]);
            prop_assert_eq!(http_date(old.as_bytes(), WALL), Some(date), "{}", old);
        }
    }

    #[test]
    fn a_date_waits_as_long_as_the_clock_of_the_host_says(
        now in 0..LAST_SECOND, ahead in 0_u64..10_000_000, wall in 0..LAST_SECOND,
    ) {
        let (then, host) = (UnixTime::from_secs((now + ahead).min(LAST_SECOND)), UnixTime::from_secs(now));
        let text = httpdate::fmt_http_date(SystemTime::from(then));
        let context = Context { wall: UnixTime::from_secs(wall), date: Some(host), fractional: false };
        let expected = then.saturating_since(host).min(MAX_WAIT);
        prop_assert_eq!(
            read(&[text.as_bytes()], &context).hint,
            Some(Hint { wait: expected, source: Source::RetryAfterDate })
        );
    }

    #[test]
    fn no_bytes_make_the_date_parsers_panic(
        text in value(), others in vec(value(), 0..3), ages in vec(value(), 0..3), wall in any::<u64>(),
    ) {
        let wall = UnixTime::from_millis(wall);
        let read = http_date(&text, wall);
        prop_assert!(read.is_none_or(|date| date.as_secs() <= LAST_SECOND + 1));
        let _ = host_clock(others.iter().map(Vec::as_slice), ages.iter().map(Vec::as_slice), wall);
    }

    #[test]
    fn a_date_with_a_byte_changed_never_panics(secs in 0..=LAST_SECOND, at in 0_usize..29, byte in any::<u8>(), wall in any::<u64>()) {
        let mut text = httpdate::fmt_http_date(SystemTime::from(UnixTime::from_secs(secs))).into_bytes();
        text[at] = byte;
        let _ = http_date(&text, UnixTime::from_millis(wall));
    }

    #[test]
    fn any_response_is_classified_and_no_signal_is_lost(
        status in 100_u16..1000, values in vec(value(), 0..3), date in value(), age in proptest::option::of(value()),
        wall in any::<u64>(), fractional in any::<bool>(), trust in any::<bool>(), cool in any::<bool>(),
    ) {
        let rules = SignalRules {
            hintless: if cool { Hintless::Cool } else { Hintless::Ignore },
            trust_hints: trust,
            fractional_seconds: fractional,
            ..SignalRules::default()
        };
        let mut headers = HeaderMap::new();
        let fields = values.iter().map(|value| (RETRY_AFTER, value));
        for (name, value) in fields.chain([(DATE, &date)]).chain(age.as_ref().map(|age| (AGE, age))) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name, value);
            }
        }
        let status = StatusCode::from_u16(status).unwrap();
        let reading = classify::response(&rules, status, &headers, UnixTime::from_millis(wall));
        prop_assert!(reading.hint_seen.is_none_or(|hint| hint.wait <= MAX_WAIT));
        match (status.as_u16(), &reading.outcome) {
            (429, Outcome::Signal(signal)) => prop_assert_eq!(signal.reason, Reason::RateLimited),
            (429, Outcome::Neutral) => prop_assert!(!cool && reading.hint_seen.is_none()),
            (503, Outcome::Signal(signal)) => prop_assert_eq!(signal.reason, Reason::Unavailable),
            (503, Outcome::Failing(_)) => prop_assert!(reading.hint_seen.is_none()),
            (502 | 504, Outcome::Failing(_)) | (500..=599, Outcome::Answered) => {}
            (100..=499 | 600.., Outcome::Success) => {}
            (_, other) => prop_assert!(false, "{status} is {other:?}"),
        }
        if let Outcome::Signal(signal) = &reading.outcome {
            prop_assert_eq!(signal.hint, reading.hint_seen.filter(|_| trust));
            let shown = signal.received.as_deref().unwrap_or_default();
            prop_assert!(shown.len() <= MAX_RECEIVED && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }

    #[test]
    fn any_bytes_in_a_vendors_field_are_a_bounded_wait_or_none(
        text in vendor_value(), left in proptest::option::of(vendor_value()), unit in unit(), wall in any::<u64>(),
        date in proptest::option::of(any::<u64>()), is_limited in any::<bool>(),
    ) {
        let wall = UnixTime::from_millis(wall);
        let context = Context { wall, date: date.map(UnixTime::from_millis), fractional: false };
        let alone = vendor::wait(&text, unit, &context);
        let rules = [FieldRule { reset: RESET, unit, remaining: left.is_some().then_some(LEFT) }];
        let mut headers = HeaderMap::new();
        for (name, value) in [(RESET, Some(&text)), (LEFT, left.as_ref())] {
            if let Some(Ok(value)) = value.map(|value| HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        let reading = vendor::read(&rules, &headers, &context, is_limited);
        prop_assert!(reading.hint.is_none_or(|hint| hint.wait <= MAX_WAIT));
        prop_assert_eq!(reading.hint.is_some(), reading.rule.is_some());
        prop_assert!(reading.hint.is_none() || left.is_some() || is_limited, "nothing says that nothing is left");
        if let (None, true, false, true) = (&left, is_limited, text.contains(&b','), headers.contains_key(RESET)) {
            prop_assert_eq!(reading.hint.map(|hint| hint.wait), alone.ok().map(|wait| wait.min(MAX_WAIT)));
            prop_assert_eq!(reading.hint.is_some(), !reading.reset.iter().any(|cause| cause != Cause::Saturated));
        }
    }

    #[test]
    fn a_larger_number_in_a_vendors_field_is_never_a_shorter_wait(
        one in "[0-9]{1,25}", other in "[0-9]{1,25}", parts in ("(\\.[0-9]{1,6})?", "(\\.[0-9]{1,6})?"), wall in any::<u64>(),
        unit in prop_oneof![
            Just(Unit::Seconds), Just(Unit::Milliseconds), Just(Unit::EpochSeconds), Just(Unit::EpochMilliseconds),
        ],
    ) {
        let size = |number: &str| number.parse::<u128>().unwrap();
        let (less, more) = if size(&one) <= size(&other) { (one, other) } else { (other, one) };
        let context = Context { wall: UnixTime::from_millis(wall), date: None, fractional: false };
        let wait = |text: String| vendor::wait(text.as_bytes(), unit, &context).unwrap();
        let (with_part, more_with_part) = (format!("{less}{}", parts.0), format!("{more}{}", parts.1));
        let is_more = size(&less) < size(&more);
        let (alone, with_part, more) = (wait(less), wait(with_part), wait(more_with_part));
        prop_assert!(alone <= with_part && (!is_more || with_part <= more));
    }

    #[test]
    fn a_longer_duration_is_never_a_shorter_wait(one in 0_u64..10_000_000, other in 0_u64..10_000_000) {
        let text = |millis: u64| format!("{}h{}m{}.{:03}s", millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60, millis % 1000);
        for millis in [one, other] {
            let wait = vendor::wait(text(millis).as_bytes(), Unit::Duration, &context(None, false));
            prop_assert_eq!(wait, Ok(Duration::from_millis(millis)), "{}", text(millis));
        }
    }

    #[test]
    fn a_time_written_out_is_the_same_in_every_unit(secs in 0..=LAST_SECOND - 86_400, wall in 0..=LAST_SECOND) {
        let context = Context { wall: UnixTime::from_secs(wall), date: None, fractional: false };
        let date = rfc3339(secs);
        let expected = Ok(Duration::from_secs(secs.saturating_sub(wall)));
        prop_assert_eq!(vendor::wait(date.as_bytes(), Unit::Rfc3339, &context), expected, "{}", &date);
        prop_assert_eq!(vendor::wait(date.as_bytes(), Unit::Iso8601, &context), expected, "{}", &date);
        prop_assert_eq!(vendor::wait(secs.to_string().as_bytes(), Unit::EpochSeconds, &context), expected);
    }

    #[test]
    fn any_bytes_in_the_fields_of_the_ietf_are_a_bounded_wait_or_none(
        limits in vec(quotas(), 0..3), policies in vec(quotas(), 0..2),
    ) {
        let reading = rate_limit::read(limits.iter().map(Vec::as_slice), policies.iter().map(Vec::as_slice));
        prop_assert!(reading.hint.is_none_or(|hint| hint.wait <= MAX_WAIT && hint.source == Source::RateLimit));
        prop_assert_eq!(reading.hint.is_some(), reading.window.is_some());
        let is_odd = reading.limit.iter().any(|cause| cause != Cause::Saturated);
        prop_assert!(!(is_odd && reading.hint.is_some()), "a field that is odd is ignored as a whole");
        let alone = rate_limit::read(limits.iter().map(Vec::as_slice), []);
        prop_assert_eq!(alone.hint, reading.hint, "a policy names no wait");
    }

    #[test]
    fn one_more_exhausted_quota_is_never_a_shorter_wait(waits in vec(0_u64..=999_999_999_999_999, 1..6)) {
        let mut text = String::new();
        let mut before = None;
        for (at, wait) in waits.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            text.push_str(&format!("{comma}\"q{at}\";r=0;t={wait}"));
            let hint = rate_limit::read([text.as_bytes()], []).hint.map(|hint| hint.wait);
            prop_assert!(hint >= before && hint.is_some_and(|hint| hint >= Duration::from_secs(*wait).min(MAX_WAIT)));
            before = hint;
        }
    }

    #[test]
    fn any_head_with_every_rule_on_is_read_and_holds_what_each_outcome_promises(
        status in 100_u16..1000, retry_after in proptest::option::of(value()), reset in vendor_value(),
        left in proptest::option::of(vendor_value()), limit in quotas(), unit in unit(), scope in "[a-c]{1}", trust in any::<bool>(),
        ignored in any::<bool>(),
    ) {
        let rules = SignalRules {
            limited_with_hint: vec![StatusCode::FORBIDDEN],
            trust_hints: trust,
            proactive: true,
            fields: vec![FieldRule { reset: RESET, unit, remaining: Some(LEFT) }],
            scopes: vec![
                ScopeRule { field: SCOPE, equals: "A".into(), level: "host".into(), step: true },
                ScopeRule { field: SCOPE, equals: "B".into(), level: "route".into(), step: false },
            ],
            ..SignalRules::default()
        };
        let mut headers = HeaderMap::new();
        let fields = [(RETRY_AFTER, retry_after), (RESET, Some(reset)), (LEFT, left), (rate_limit::RATE_LIMIT, Some(limit)), (SCOPE, Some(scope.clone().into_bytes()))];
        for (name, value) in fields {
            if let Some(Ok(value)) = value.map(|value| HeaderValue::from_bytes(&value)) {
                headers.append(name, value);
            }
        }
        let status = StatusCode::from_u16(status).unwrap();
        let reading = classify::response(&rules, status, &headers, WALL);
        prop_assert!(reading.hint_seen.is_none_or(|hint| hint.wait <= MAX_WAIT));
        prop_assert_eq!(reading.scope, reading.outcome.signal().and_then(|_| ["a", "b"].iter().position(|known| *known == scope)));
        match &reading.outcome {
            Outcome::Signal(_) => prop_assert!(scope != "b"),
            Outcome::OffLadder(_) => prop_assert!(scope == "b"),
            Outcome::Exhausted(signal) => {
                prop_assert!(status.is_success() || status.is_redirection());
                prop_assert!(trust && signal.hint.is_some_and(|hint| !hint.wait.is_zero()));
                prop_assert_eq!(signal.reason, Reason::QuotaExhausted);
            }
            _ => {}
        }
        if let Some(signal) = reading.outcome.signal() {
            prop_assert_eq!(signal.hint, reading.hint_seen.filter(|_| trust));
            let shown = signal.received.as_deref().unwrap_or_default();
            prop_assert!(shown.len() <= MAX_RECEIVED && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
        if ignored {
            prop_assert!(reading.of_ignored_method().outcome.signal().is_none());
        } else {
            let relayed = reading.relayed().outcome;
            let by_hint = matches!(&relayed, Outcome::OffLadder(signal) if signal.hint.is_some());
            prop_assert!(by_hint || relayed == Outcome::Neutral);
        }
    }

    #[test]
    fn what_is_shown_of_the_wire_is_printable_and_bounded(bytes in vec(any::<u8>(), 0..300), limit in 0_usize..300) {
        let shown = printable(&bytes, limit);
        prop_assert!(shown.len() <= limit && shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
}

/// A time as RFC 3339 writes it, by a calendar that is not the one under test.
fn rfc3339(secs: u64) -> String {
    let date = httpdate::fmt_http_date(SystemTime::from(UnixTime::from_secs(secs)));
    let [_, day, month, year, time, _] = date.split(' ').collect::<Vec<_>>()[..] else { return date };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|known| *known == month).unwrap();
    format!("{year}-{month:02}-{day}T{time}Z")
}

// ---------------------------------------------------------------- keys

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn a_key_shown_is_the_key_read(text in prop_oneof![
        ".{0,40}",
        "(http|HTTPS|ftp)?(://)?[a-zA-Z0-9.:@%\\[\\]_-]{0,30}(:[0-9]{0,6})?(/.{0,5})?",
        "(https?://)?[a-z0-9-]{1,10}(\\.[A-Za-z0-9]{1,5}){0,3}\\.?(:[1-9][0-9]{0,3})?(/x)?",
    ]) {
        let Ok(key) = Key::parse(&text) else { return Ok(()) };
        prop_assert_eq!(Key::parse(&key.to_string()), Ok(key.clone()), "{}", text);
        prop_assert!(key.port() > 0 && key.host().len() <= 253);
        prop_assert!(!key.host().bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_whitespace()));
        let again = KeyRef::new(key.scheme(), key.host(), key.port());
        prop_assert_eq!(again.map(|again| again.to_key()), Ok(key));
    }

    #[test]
    fn an_address_is_its_own_key(v6 in any::<u128>(), v4 in any::<u32>(), port in 1_u16..) {
        for (address, text) in [
            (std::net::IpAddr::from(v6.to_be_bytes()), format!("http://[{}]:{port}", std::net::Ipv6Addr::from(v6))),
            (std::net::IpAddr::from(v4.to_be_bytes()), format!("http://{}:{port}", std::net::Ipv4Addr::from(v4))),
        ] {
            let key = Key::parse(&text).unwrap();
            prop_assert_eq!(key.ip(), Some(address));
            prop_assert_eq!(key.to_string(), text);
        }
        let groups = std::net::Ipv6Addr::from(v6).segments().map(|group| format!("{group:04X}"));
        let long = Key::parse(&format!("http://[{}]:{port}", groups.join(":"))).unwrap();
        prop_assert_eq!(long.to_string(), format!("http://[{}]:{port}", std::net::Ipv6Addr::from(v6)));
    }

    #[test]
    fn letters_case_and_the_last_dot_make_no_other_key(host in "[a-z][a-z0-9]{0,9}(\\.[a-z][a-z0-9]{0,5}){0,3}") {
        let plain = Key::parse(&format!("https://{host}")).unwrap();
        for other in [format!("HTTPS://{}", host.to_uppercase()), format!("{host}."), format!("https://{host}:443/path")] {
            prop_assert_eq!(Key::parse(&other).unwrap(), plain.clone());
        }
        prop_assert_ne!(Key::parse(&format!("http://{host}")).unwrap(), plain);
    }
}

// ---------------------------------------------------------------- delays

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn a_delay_is_within_its_caps(
        limits in limits(), hint in proptest::option::of(any_duration()), step in prop_oneof![0_u32..12, any::<u32>()], draw in any::<u64>(),
    ) {
        let delay = signal_delay(&limits, hint, step, draw);
        prop_assert!(delay.length >= limits.min_cooldown);
        let told = hint.map(|hint| hint.min(limits.max_retry_after));
        // Never earlier than told.
        prop_assert!(told.is_none_or(|told| delay.length >= told));
        let ladder = match (told, limits.ladder) {
            (Some(told), Ladder::FromHint | Ladder::Off) => told.max(limits.max_overwait),
            _ => limits.max_backoff,
        };
        let most = told.map_or(ladder, |_| ladder.max(limits.max_retry_after));
        prop_assert!(delay.length <= most, "{:?} is more than {most:?}", delay.length);
        if limits.jitter == 0.0 && !limits.hint_jitter {
            prop_assert!(delay.length <= told.map_or(ladder, |told| told.max(ladder)));
        }
        if let Some(hint) = hint {
            // Upward only, a tenth or 30 s at most; a nanosecond for rounding.
            let alone = hint_delay(&limits, hint, draw).length;
            let most = hint.saturating_add((hint / 10).min(Duration::from_secs(30)) + Duration::from_nanos(1 + hint.as_nanos() as u64 / (1 << 50)));
            prop_assert!(alone >= hint.min(limits.max_retry_after).max(limits.min_cooldown));
            prop_assert!(alone <= most.min(limits.max_retry_after).max(limits.min_cooldown));
            prop_assert!(delay.length >= alone);
        }
    }

    #[test]
    fn a_breaker_delay_is_within_its_cap(
        limits in breaker(), class in prop_oneof![
            Just(FailureClass::Transient), Just(FailureClass::Recoverable), Just(FailureClass::Severe),
        ],
        jitter in 0.0..=1.0, step in any::<u32>(), draw in any::<u64>(),
    ) {
        let ladder = limits.ladder(class);
        let delay = breaker_delay(&ladder, jitter, step, draw);
        prop_assert!(delay.length <= ladder.max && ladder.max <= limits.longest());
        // To the precision of a float.
        prop_assert!(delay.length.as_secs_f64() >= ladder.initial.as_secs_f64() * (1.0 - jitter) * (1.0 - 1e-9) - 2e-9);
        prop_assert!(limits.classes || (ladder.initial, ladder.max) == (limits.initial, limits.max));
    }

    #[test]
    fn a_larger_hint_or_a_higher_step_never_gives_a_shorter_delay(
        limits in limits(), one in any_duration(), other in any_duration(), step in 0_u32..12, draw in any::<u64>(),
    ) {
        let (less, more) = (one.min(other), one.max(other));
        let delay = |hint, step| signal_delay(&limits, Some(hint), step, draw).length;
        prop_assert!(delay(less, step) <= delay(more, step));
        prop_assert!(hint_delay(&limits, less, draw).length <= hint_delay(&limits, more, draw).length);
        let steady = CooldownLimits { jitter: 0.0, ..limits.clone() };
        prop_assert!(signal_delay(&steady, Some(less), step, draw).length <= signal_delay(&steady, Some(less), step + 1, draw).length);
        prop_assert!(signal_delay(&steady, None, step, draw).length <= signal_delay(&steady, None, step + 1, draw).length);
    }
}

// ---------------------------------------------------------------- the state machine

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn a_larger_hint_never_gives_an_earlier_deadline(
        policy in policy(), steps in history(), one in any_duration(), other in any_duration(), draw in any::<u64>(), at in any_duration(),
    ) {
        let (mut machine, now) = live_through(&policy, &steps);
        let Decision::Forward(admission) = machine.admit(&policy, Purpose::Request, now, &mut Events::default()) else {
            return Ok(());
        };
        // The verdict may be its own, or one that comes late.
        if draw % 2 == 0 {
            let _ = machine.freeze(&policy, at, now, &mut Events::default());
        }
        let deadline = |hint| {
            let mut machine = machine.clone();
            machine.observe(&policy, admission, &signal(Some(hint)), now, draw, &mut Events::default());
            machine.view(&policy, now).cooldown.map(|cooldown| cooldown.deadline)
        };
        let before = machine.view(&policy, now).cooldown.map(|cooldown| cooldown.deadline).filter(|deadline| now < *deadline);
        prop_assert!(deadline(one.min(other)) <= deadline(one.max(other)));
        prop_assert!(deadline(one.min(other)) >= before);
        prop_assert!(deadline(one).is_some());
    }

    #[test]
    fn a_cooling_key_refuses_until_its_deadline_and_never_after(
        policy in policy(), steps in history(), ahead in any_duration(), share in 0.0..1.0,
    ) {
        let (machine, last) = live_through(&policy, &steps);
        let now = last.saturating_add(ahead.min(Duration::from_secs(1000)));
        let Decision::ShortCircuit(refusal) = admit(&machine, &policy, now) else { return Ok(()) };
        prop_assert!(refusal.wait > Duration::ZERO && refusal.until > now);
        prop_assert_eq!(refusal.until.saturating_since(now), refusal.wait);
        if refusal.state != State::Cooling {
            return Ok(());
        }
        // Not earlier, and every refusal names the same end.
        let inside = now.saturating_add(refusal.wait.mul_f64(share).min(refusal.wait - Duration::from_nanos(1)));
        for earlier in [inside, Instant::from_nanos(refusal.until.as_nanos() - 1)] {
            let Decision::ShortCircuit(again) = admit(&machine, &policy, earlier) else {
                panic!("admitted {:?} before the deadline", refusal.until.saturating_since(earlier));
            };
            prop_assert_eq!((again.until, again.reason, again.state), (refusal.until, refusal.reason, refusal.state));
        }
        // From then on at any time.
        for later in [refusal.until, refusal.until.saturating_add(ahead), refusal.until.saturating_add(Duration::MAX)] {
            prop_assert!(matches!(admit(&machine, &policy, later), Decision::Forward(_)));
        }
    }

    #[test]
    fn a_clock_that_runs_back_shortens_no_cooldown(
        policy in policy(), steps in history(), back in vec((any_duration(), any::<u64>()), 1..8),
    ) {
        let (mut machine, now) = live_through(&policy, &steps);
        let mut deadline = machine.view(&policy, now).cooldown.map(|cooldown| cooldown.deadline);
        for (back, draw) in back {
            // Two threads read the clock and come to the key in the other order.
            let then = Instant::from_nanos(now.as_nanos().saturating_sub(back.as_nanos() as u64));
            let decision = machine.admit(&policy, Purpose::Request, then, &mut Events::default());
            if let Decision::Forward(admission) = decision {
                prop_assert!(deadline.is_none_or(|deadline| then >= deadline), "admitted before the deadline");
                let wait = signal(Some(Duration::from_millis(draw % 100_000)));
                let outcome = if draw % 2 == 0 { wait } else { Outcome::Success };
                machine.observe(&policy, admission, &outcome, then, draw, &mut Events::default());
                deadline = machine.view(&policy, then).cooldown.map(|cooldown| cooldown.deadline);
            }
            machine.check_invariants(&policy).unwrap();
        }
    }

    #[test]
    fn whatever_happened_a_key_left_alone_is_clear_in_the_end(policy in policy(), steps in history()) {
        let (mut machine, now) = live_through(&policy, &steps);
        let end = now.saturating_add(Duration::MAX);
        machine.settle(&policy, end, &mut Events::default());
        let view = machine.view(&policy, end);
        prop_assert_eq!((view.state, view.rate_step, view.breaker_step), (State::Clear, 0, 0));
        prop_assert!(matches!(admit(&machine, &policy, end), Decision::Forward(_)));
    }
}

// ---------------------------------------------------------------- the table

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn the_table_never_holds_more_than_its_bound_and_never_loses_a_live_cooldown(
        max_keys in 1_usize..12, asked in vec((0_u8..30, 0_u8..6, 0_u64..5), 0..200),
    ) {
        let policy = Arc::new(Policy {
            cooldown: CooldownLimits { hint_jitter: false, ..CooldownLimits::default() },
            ..Policy::default()
        });
        let table = Table::new(max_keys, move |_| (Arc::clone(&policy), ()), ());
        let (mut now, mut kept, mut live) = (Instant::from_secs(1000), Vec::new(), std::collections::HashMap::new());
        for (host, action, pause) in asked {
            now = now.saturating_add(Duration::from_secs(pause));
            let key = KeyRef::new(Scheme::Http, &format!("host{host}"), 80).unwrap().to_key();
            let (entry, verdict) = table.admit(&key.as_ref(), Purpose::Request, now);
            let cools = live.get(&host).is_some_and(|deadline| now < *deadline);
            match (verdict, action) {
                (Verdict::Forward(permit), _) if cools => {
                    drop(permit);
                    prop_assert!(false, "host {host} cools and was asked");
                }
                (Verdict::Forward(permit), 0..3) => {
                    let wait = Duration::from_secs(u64::from(action) * 50 + 5);
                    permit.complete(&signal(Some(wait)), None, None, now, 0);
                    let deadline = entry.snapshot(now).view.cooldown.map(|cooldown| cooldown.deadline);
                    if entry.is_tracked() {
                        live.insert(host, deadline.unwrap());
                    }
                }
                (Verdict::Forward(permit), 3) if kept.len() < 4 => kept.push(permit),
                _ => {}
            }
            prop_assert!(table.stats().keys <= max_keys);
        }
    }
}

// ---------------------------------------------------------------- bodies

#[cfg(feature = "body")]
#[expect(unreachable_pub, reason = "others use it from another crate")]
#[path = "it/support/bodies.rs"]
mod bodies;

#[cfg(feature = "body")]
mod body {
    use super::*;

    /// JSON with what the rules look for in most of its places.
    fn value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("0".to_owned()),
            Just("-0.0".to_owned()),
            Just("12".to_owned()),
            Just("1e999".to_owned()),
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just(r#""failed""#.to_owned()),
            Just(r#""background worker likely died""#.to_owned()),
            Just(r#""x \u00e9 \ud83d""#.to_owned()),
            "[a-z\"{},:\\[\\]]{0,4}",
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            let name = prop_oneof![Just("status"), Just("totalSegments"), Just("a"), Just("b"), Just("0")];
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
                vec((name, inner), 0..4).prop_map(|parts| {
                    let parts: Vec<String> =
                        parts.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                    format!("{{{}}}", parts.join(","))
                }),
            ]
        })
    }

    fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
        match coding {
            "br" => {
                let (mut out, mut body) = (Vec::new(), body);
                brotli::BrotliCompress(&mut body, &mut out, &brotli::enc::BrotliEncoderParams::default()).unwrap();
                out
            }
            "gzip" => {
                let mut out = Vec::new();
                let mut encoder = flate2::bufread::GzEncoder::new(body, flate2::Compression::fast());
                std::io::Read::read_to_end(&mut encoder, &mut out).unwrap();
                out
            }
            "zstd" => ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest),
            _ => body.to_vec(),
        }
    }

    proptest! {
        #![proptest_config(config(500))]

        #[test]
        fn the_pieces_of_a_body_change_nothing_about_what_its_rules_say(
            coding in prop_oneof![Just("identity"), Just("gzip"), Just("br"), Just("zstd"), Just("deflate")],
            values in vec(value(), 1..4),
            is_stream in any::<bool>(),
            line_end in prop_oneof![Just("\n"), Just("\r"), Just("\r\n")],
            sizes in (0_usize..400, 0_usize..400, 1_usize..100),
            (at, noise, cut) in (any::<prop::sample::Index>(), vec(any::<u8>(), 0..3), any::<prop::sample::Index>()),
        ) {
            let body = if is_stream {
                values.iter().map(|value| format!("data: {value}{line_end}{line_end}")).collect()
            } else {
                values.concat()
            };
            let mut body = coded(coding, body.as_bytes());
            let at = at.index(body.len() + 1);
            let end = (at + noise.len()).min(body.len());
            body.splice(at..end, noise);
            body.truncate(cut.index(2 * body.len() + 2));
            let kind = if is_stream { "stream" } else { "json" };
            let (prefix, decoded, size) = sizes;
            for bounds in [format!("{prefix} {decoded}"), "16384 65536".to_owned()] {
                bodies::check(&[format!("{coding} {kind} {bounds} {size}\n").as_bytes(), &body].concat());
            }
        }
    }
}
