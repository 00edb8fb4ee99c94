//! Response head → outcome (SPEC 2.7 to 2.10, 4.3): what a status and its fields mean for the key that was asked.
//!
//! Fields are read only where they can matter, which is on statuses that may be a signal; a good answer costs no more
//! than its `Date`, unless the policy asks what is left. Transport failures need no reading and are made where they happen.
//!
//! A gRPC response that went well so far says what became of the call only behind its body: its reading awaits trailers
//! (SPEC 2.12), and is a success until they come.

use std::time::Duration;

use http::header::{AGE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::decision::Reason;
use super::policy::{Hintless, SignalRules};
use super::signal::date::{host_clock, is_fresh, trim};
use super::signal::grpc;
use super::signal::retry_after::Context;
use super::signal::{Cause, Failure, Field, Hint, Outcome, Signal};
use super::time::UnixTime;

mod fields;

use fields::{Fields, Oddities};

/// What a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it means for the key.
    pub outcome: Outcome,
    /// The status.
    pub status: StatusCode,
    /// The host's clock minus ours in milliseconds, where the response tells it.
    pub clock_offset: Option<i64>,
    /// The wait the host named, before any bound and whether or not it is trusted.
    pub hint_seen: Option<Hint>,
    /// Which of [`SignalRules::scopes`] says what the signal is about: the first whose field is as it says. None where the
    /// response is no signal.
    pub scope: Option<usize>,
    errors: Oddities,
    /// The code of the call, where it is gRPC.
    code: Option<grpc::Code>,
    /// What of the head matters when the trailers come.
    unfinished: Option<Box<Fields>>,
    /// The request had a method whose signals say nothing about the key.
    is_ignored: bool,
}

impl Reading {
    /// What the response means when another holdoff made it (SPEC 2.13): its hint only, and nothing without one.
    pub fn relayed(mut self) -> Self {
        self.outcome = match self.outcome {
            Outcome::Signal(signal) | Outcome::OffLadder(signal) | Outcome::Exhausted(signal)
                if signal.hint.is_some() =>
            {
                Outcome::OffLadder(signal)
            }
            _ => Outcome::Neutral,
        };
        self
    }

    /// What the response means when the request had one of [`SignalRules::ignore_methods`]: a signal is about that request
    /// only, and says nothing about the key. It holds for trailers that are still to come, too.
    #[must_use]
    pub fn of_ignored_method(mut self) -> Self {
        self.is_ignored = true;
        self.without_ignored()
    }

    fn without_ignored(mut self) -> Self {
        if !self.is_ignored {
            return self;
        }
        self.outcome = match self.outcome {
            Outcome::Signal(_) | Outcome::OffLadder(_) => Outcome::Neutral,
            Outcome::Exhausted(_) => Outcome::Success,
            other => return Self { outcome: other, ..self },
        };
        self.scope = None;
        self
    }

    /// What was odd or could not be read, by field; each pair at most once.
    pub fn errors(&self) -> impl Iterator<Item = (Field, Cause)> {
        self.errors.iter()
    }

    /// The gRPC status, where there is one.
    pub const fn grpc_code(&self) -> Option<grpc::Code> {
        self.code
    }

    /// Whether trailers will say what the response means (gRPC). Until then it is a success.
    pub const fn awaits_trailers(&self) -> bool {
        self.unfinished.is_some()
    }

    /// What the response says now that its trailers have come, `since` its head. `None`: it has ended without any; then
    /// the host has answered, and that is all. A reading that awaits no trailers stays as it is.
    #[must_use]
    pub fn with_trailers(mut self, rules: &SignalRules, trailers: Option<&HeaderMap>, since: Duration) -> Self {
        let Some(mut fields) = self.unfinished.take() else { return self };
        let Some((trailers, call)) = trailers.and_then(|trailers| Some((trailers, grpc::read(trailers)?))) else {
            return Self { outcome: Outcome::Answered, ..self };
        };
        // A wait counts from the arrival of what names it.
        fields.let_pass(since);
        self.of_call(rules, &call, *fields, trailers)
    }

    fn of_call(mut self, rules: &SignalRules, call: &grpc::Reading, mut fields: Fields, trailers: &HeaderMap) -> Self {
        self.code = Some(call.code);
        self.errors.add(Field::GrpcStatus, call.status);
        fields.add_pushback(call, trailers);
        fields.scope = fields.scope.or_else(|| scope(rules, trailers));
        self.of_status(rules, call.code.counts_as(), fields)
    }

    /// Decides by a status, an HTTP one or that for which a gRPC one stands.
    fn of_status(mut self, rules: &SignalRules, status: StatusCode, fields: Fields) -> Self {
        if !may_be_signal(rules, status) {
            return Self { outcome: without_signal(status), ..self };
        }
        self.hint_seen = fields.hint();
        self.errors.merge(&fields.errors);
        let reason = match self.hint_seen {
            None if rules.statuses.contains(&status) && rules.hintless == Hintless::Ignore => {
                return Self { outcome: Outcome::Neutral, ..self };
            }
            _ if rules.statuses.contains(&status) => Reason::RateLimited,
            None => return Self { outcome: without_signal(status), ..self },
            Some(_) if rules.unavailable.contains(&status) => Reason::Unavailable,
            Some(_) => Reason::RateLimited,
        };
        self.scope = fields.scope;
        let steps = fields.scope.and_then(|at| rules.scopes.get(at)).is_none_or(|rule| rule.step);
        // An untrusted hint says that the host wants a pause; how long, our ladder says.
        let hint = self.hint_seen.filter(|_| rules.trust_hints);
        let signal = Signal { reason, hint, received: fields.into_received() };
        self.outcome = if steps { Outcome::Signal(signal) } else { Outcome::OffLadder(signal) };
        self.without_ignored()
    }

    /// A good answer may say that it was the last for now (SPEC 2.10).
    fn of_good_answer(mut self, rules: &SignalRules, headers: &HeaderMap, context: &Context) -> Self {
        let fields = Fields::of_good_answer(rules, headers, context);
        self.errors.merge(&fields.errors);
        // What is over by now keeps nobody waiting.
        let Some(hint) = fields.hint().filter(|hint| !hint.wait.is_zero()) else { return self };
        self.hint_seen = Some(hint);
        if rules.trust_hints {
            self.scope = scope(rules, headers);
            let received = fields.into_received();
            self.outcome = Outcome::Exhausted(Signal { reason: Reason::QuotaExhausted, hint: Some(hint), received });
        }
        self
    }
}

/// Reads a final response head that arrived when our wall clock said `wall`.
pub fn response(rules: &SignalRules, status: StatusCode, headers: &HeaderMap, wall: UnixTime) -> Reading {
    let date = host_clock(values(headers, &DATE), values(headers, &AGE), wall);
    let head = Reading {
        outcome: Outcome::Success,
        status,
        clock_offset: date.map(|date| offset(date, wall)),
        hint_seen: None,
        scope: None,
        errors: Oddities::default(),
        code: None,
        unfinished: None,
        is_ignored: false,
    };
    let context = Context { wall, date, fractional: rules.fractional_seconds };
    // Any other status is of whoever stands before the server; it decides alone.
    if status.is_success() && grpc::is_grpc(headers) {
        let fields = Fields::read(rules, headers, &context);
        return match grpc::read(headers) {
            Some(call) => head.of_call(rules, &call, fields, headers),
            None => Reading { unfinished: Some(Box::new(fields)), ..head },
        };
    }
    if may_be_signal(rules, status) {
        return head.of_status(rules, status, Fields::read(rules, headers, &context));
    }
    let head = Reading { outcome: without_signal(status), ..head };
    // What a cache kept says what was left then.
    if rules.proactive && (status.is_success() || status.is_redirection()) && is_fresh(values(headers, &AGE)) {
        return head.of_good_answer(rules, headers, &context);
    }
    head
}

/// Whether a status is a signal, perhaps only with a hint.
fn may_be_signal(rules: &SignalRules, status: StatusCode) -> bool {
    [&rules.statuses, &rules.unavailable, &rules.limited_with_hint].into_iter().any(|list| list.contains(&status))
}

fn without_signal(status: StatusCode) -> Outcome {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Outcome::Failing(Failure::Status(status.as_u16()))
        }
        status if status.is_server_error() => Outcome::Answered,
        _ => Outcome::Success,
    }
}

/// The first of the scopes whose field is as it says.
fn scope(rules: &SignalRules, headers: &HeaderMap) -> Option<usize> {
    rules.scopes.iter().position(|rule| {
        let expected = rule.equals.trim_ascii().as_bytes();
        values(headers, &rule.field).any(|value| trim(value).eq_ignore_ascii_case(expected))
    })
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}

fn offset(date: UnixTime, wall: UnixTime) -> i64 {
    let millis = |time: UnixTime| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    millis(date).saturating_sub(millis(wall))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::{CONTENT_TYPE, RETRY_AFTER};

    use super::*;
    use crate::core::decision::Source;
    use crate::core::policy::{FieldRule, ScopeRule, Unit};
    use crate::core::signal::grpc::{Code, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS};
    use crate::core::signal::{MAX_RECEIVED, retry_after};

    const WALL: UnixTime = UnixTime::from_secs(1_795_168_800); // 2026-11-20T10:00:00Z

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn outcome(rules: &SignalRules, status: u16, retry_after: Option<&str>) -> Outcome {
        let headers = headers(&retry_after.map(|value| (RETRY_AFTER, value)).into_iter().collect::<Vec<_>>());
        response(rules, StatusCode::from_u16(status).unwrap(), &headers, WALL).outcome
    }

    fn signal(reason: Reason, secs: Option<u64>, received: Option<&str>) -> Outcome {
        let hint = secs.map(|secs| Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds });
        Outcome::Signal(Signal { reason, hint, received: received.map(Into::into) })
    }

    #[test]
    fn a_429_is_a_signal_with_or_without_a_hint() {
        let rules = SignalRules::default();
        assert_eq!(outcome(&rules, 429, None), signal(Reason::RateLimited, None, None));
        assert_eq!(outcome(&rules, 429, Some("120")), signal(Reason::RateLimited, Some(120), Some("Retry-After: 120")));
        assert_eq!(outcome(&rules, 429, Some("soon")), signal(Reason::RateLimited, None, Some("Retry-After: soon")));
    }

    /// What a gRPC call means whose status comes behind its body, three seconds after the head, or in the head.
    fn calls(rules: &SignalRules, head: &[(HeaderName, &str)], trailers: &[(HeaderName, &str)]) -> [Outcome; 2] {
        let of_type = [(CONTENT_TYPE, "application/grpc+proto")];
        let head = [&of_type[..], head].concat();
        let open = response(rules, StatusCode::OK, &headers(&head), WALL);
        assert!(open.awaits_trailers() && open.outcome == Outcome::Success && open.errors().count() == 0);
        let closed = open.with_trailers(rules, Some(&headers(trailers)), Duration::from_secs(3));
        let only = response(rules, StatusCode::OK, &headers(&[&head[..], trailers].concat()), WALL);
        assert!(!closed.awaits_trailers() && !only.awaits_trailers());
        assert_eq!(closed.grpc_code(), only.grpc_code());
        [closed.outcome, only.outcome]
    }

    fn pushed(reason: Reason, millis: u64) -> Outcome {
        let hint = Some(Hint { wait: Duration::from_millis(millis), source: Source::GrpcPushback });
        Outcome::Signal(Signal { reason, hint, received: Some(format!("grpc-retry-pushback-ms: {millis}").into()) })
    }

    #[test]
    fn the_status_of_a_grpc_call_counts_as_the_http_status_it_stands_for() {
        let rules = SignalRules::default();
        let failing = Outcome::Failing(Failure::Status(503));
        for code in Code::ALL {
            let bare = match code.number() {
                8 => signal(Reason::RateLimited, None, None),
                14 => failing.clone(),
                2 | 4 | 12 | 13 | 15 => Outcome::Answered,
                _ => Outcome::Success,
            };
            let named = match code.number() {
                8 => pushed(Reason::RateLimited, 1500),
                14 => pushed(Reason::Unavailable, 1500),
                _ => bare.clone(),
            };
            let number = code.number().to_string();
            assert_eq!(calls(&rules, &[], &[(GRPC_STATUS, &number)]), [bare.clone(), bare], "{code:?}");
            let trailers = [(GRPC_STATUS, number.as_str()), (GRPC_RETRY_PUSHBACK_MS, "1500")];
            assert_eq!(calls(&rules, &[], &trailers), [named.clone(), named], "{code:?} with a pushback");
        }
        for (code, pushback, expected) in [
            ("8", "0", pushed(Reason::RateLimited, 0)),
            ("14", "0", pushed(Reason::Unavailable, 0)),
            ("14", "-1", failing.clone()),
            ("14", "soon", failing),
            ("99", "1500", Outcome::Answered),
            ("eight", "1500", Outcome::Answered),
        ] {
            let trailers = [(GRPC_STATUS, code), (GRPC_RETRY_PUSHBACK_MS, pushback)];
            assert_eq!(calls(&rules, &[], &trailers), [expected.clone(), expected], "{code} {pushback}");
        }
        for pushback in ["-1", "soon"] {
            let expected = signal(Reason::RateLimited, None, Some(&format!("grpc-retry-pushback-ms: {pushback}")));
            let trailers = [(GRPC_STATUS, "8"), (GRPC_RETRY_PUSHBACK_MS, pushback)];
            assert_eq!(calls(&rules, &[], &trailers), [expected.clone(), expected], "{pushback}");
        }
    }

    #[test]
    fn the_rules_of_a_policy_hold_for_grpc_too() {
        let limited = [(GRPC_STATUS, "8"), (GRPC_RETRY_PUSHBACK_MS, "1500")];
        let gone = [(GRPC_STATUS, "14"), (GRPC_RETRY_PUSHBACK_MS, "1500")];
        let rules = SignalRules { hintless: Hintless::Ignore, ..SignalRules::default() };
        assert_eq!(calls(&rules, &[], &limited[..1]), [Outcome::Neutral, Outcome::Neutral]);
        assert_eq!(calls(&rules, &[], &limited)[0], pushed(Reason::RateLimited, 1500));
        let rules = SignalRules { trust_hints: false, ..SignalRules::default() };
        for (trailers, reason) in [(&limited, Reason::RateLimited), (&gone, Reason::Unavailable)] {
            let untrusted = signal(reason, None, Some("grpc-retry-pushback-ms: 1500"));
            assert_eq!(calls(&rules, &[], trailers), [untrusted.clone(), untrusted]);
        }
        let rules = SignalRules { statuses: vec![], unavailable: vec![], ..SignalRules::default() };
        assert_eq!(calls(&rules, &[], &limited), [Outcome::Success, Outcome::Success], "an operator's word");
        assert_eq!(calls(&rules, &[], &gone)[0], Outcome::Failing(Failure::Status(503)));
    }

    #[test]
    fn retry_after_goes_before_the_pushback_and_counts_from_the_head() {
        let rules = SignalRules::default();
        let trailers = [(GRPC_STATUS, "8"), (GRPC_RETRY_PUSHBACK_MS, "60000")];
        let expected = |secs| signal(Reason::RateLimited, Some(secs), Some("Retry-After: 10"));
        assert_eq!(calls(&rules, &[(RETRY_AFTER, "10")], &trailers), [expected(7), expected(10)]);
        let pushback = pushed(Reason::RateLimited, 60_000);
        assert_eq!(calls(&rules, &[(RETRY_AFTER, "soon")], &trailers), [pushback.clone(), pushback]);
        assert_eq!(
            calls(&rules, &[(RETRY_AFTER, "10")], &[(GRPC_STATUS, "0")]),
            [Outcome::Success, Outcome::Success],
            "where all went well nobody has to wait"
        );
    }

    #[test]
    fn only_a_grpc_response_that_went_well_so_far_awaits_trailers() {
        let rules = SignalRules::default();
        let grpc = headers(&[(CONTENT_TYPE, "application/grpc"), (GRPC_RETRY_PUSHBACK_MS, "1500")]);
        let limited = response(&rules, StatusCode::TOO_MANY_REQUESTS, &grpc, WALL);
        assert_eq!(limited.outcome, signal(Reason::RateLimited, None, None), "a signal in the head decides at once");
        let missing = response(&rules, StatusCode::NOT_FOUND, &grpc, WALL);
        assert_eq!((missing.awaits_trailers(), missing.outcome), (false, Outcome::Success));
        let open = response(&rules, StatusCode::OK, &grpc, WALL);
        let other = headers(&[(CONTENT_TYPE, "application/json"), (GRPC_STATUS, "8")]);
        let plain = response(&rules, StatusCode::OK, &other, WALL);
        assert!(open.awaits_trailers() && !plain.awaits_trailers() && plain.outcome == Outcome::Success);
        assert_eq!(plain.clone().with_trailers(&rules, Some(&other), Duration::ZERO), plain);
        for trailers in [None, Some(headers(&[(GRPC_RETRY_PUSHBACK_MS, "1500")]))] {
            let closed = open.clone().with_trailers(&rules, trailers.as_ref(), Duration::ZERO);
            assert_eq!((closed.outcome, closed.hint_seen), (Outcome::Answered, None), "it ended without a status");
        }
    }

    #[test]
    fn what_is_odd_about_grpc_fields_is_counted_by_field() {
        let errors = |fields: &[(HeaderName, &str)]| {
            let head = headers(&[&[(CONTENT_TYPE, "application/grpc")][..], fields].concat());
            response(&SignalRules::default(), StatusCode::OK, &head, WALL).errors().collect::<Vec<_>>()
        };
        assert_eq!(errors(&[(GRPC_STATUS, "x")]), [(Field::GrpcStatus, Cause::Malformed)]);
        assert_eq!(
            errors(&[(GRPC_STATUS, "8"), (GRPC_RETRY_PUSHBACK_MS, "-1"), (RETRY_AFTER, "soon")]),
            [(Field::RetryAfter, Cause::Malformed), (Field::GrpcRetryPushback, Cause::Negative)]
        );
        assert_eq!(errors(&[(GRPC_STATUS, "0"), (GRPC_RETRY_PUSHBACK_MS, "x"), (RETRY_AFTER, "soon")]), []);
    }

    #[test]
    fn of_what_another_holdoff_says_only_the_hint_counts() {
        let relayed = |rules: &SignalRules, status: u16, retry_after: Option<&str>| {
            let headers = headers(&retry_after.map(|value| (RETRY_AFTER, value)).into_iter().collect::<Vec<_>>());
            response(rules, StatusCode::from_u16(status).unwrap(), &headers, WALL).relayed().outcome
        };
        let rules = SignalRules::default();
        let Outcome::Signal(inner) = signal(Reason::RateLimited, Some(9), Some("Retry-After: 9")) else { panic!() };
        assert_eq!(relayed(&rules, 429, Some("9")), Outcome::OffLadder(inner));
        for (status, retry_after) in [(429, None), (429, Some("soon")), (503, None), (502, None), (504, Some("9"))] {
            assert_eq!(relayed(&rules, status, retry_after), Outcome::Neutral, "{status} {retry_after:?}");
        }
        let untrusted = SignalRules { trust_hints: false, ..SignalRules::default() };
        assert_eq!(relayed(&untrusted, 429, Some("9")), Outcome::Neutral);
    }

    #[test]
    fn a_policy_may_name_more_statuses() {
        let rules = SignalRules {
            statuses: vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::FORBIDDEN],
            unavailable: vec![StatusCode::INTERNAL_SERVER_ERROR],
            ..SignalRules::default()
        };
        assert_eq!(outcome(&rules, 403, None), signal(Reason::RateLimited, None, None));
        assert_eq!(outcome(&rules, 500, Some("5")), signal(Reason::Unavailable, Some(5), Some("Retry-After: 5")));
        assert_eq!(outcome(&rules, 500, None), Outcome::Answered);
        assert_eq!(outcome(&rules, 503, Some("5")), Outcome::Failing(Failure::Status(503)), "no longer named");
    }

    #[test]
    fn a_429_without_a_hint_can_mean_the_one_request() {
        let rules = SignalRules { hintless: Hintless::Ignore, ..SignalRules::default() };
        assert_eq!(outcome(&rules, 429, None), Outcome::Neutral);
        assert_eq!(outcome(&rules, 429, Some("soon")), Outcome::Neutral);
        assert_eq!(outcome(&rules, 429, Some("0")), signal(Reason::RateLimited, Some(0), Some("Retry-After: 0")));
    }

    #[test]
    fn a_503_is_unavailable_with_a_hint_and_failing_without() {
        let rules = SignalRules::default();
        assert_eq!(outcome(&rules, 503, Some("30")), signal(Reason::Unavailable, Some(30), Some("Retry-After: 30")));
        assert_eq!(outcome(&rules, 503, None), Outcome::Failing(Failure::Status(503)));
        assert_eq!(outcome(&rules, 503, Some("later")), Outcome::Failing(Failure::Status(503)));
    }

    #[test]
    fn statuses_that_are_no_signal_ignore_retry_after() {
        let rules = SignalRules::default();
        for (status, expected) in [
            (200, Outcome::Success),
            (204, Outcome::Success),
            (301, Outcome::Success),
            (307, Outcome::Success),
            (401, Outcome::Success),
            (403, Outcome::Success),
            (404, Outcome::Success),
            (413, Outcome::Success),
            (500, Outcome::Answered),
            (501, Outcome::Answered),
            (529, Outcome::Answered),
            (502, Outcome::Failing(Failure::Status(502))),
            (504, Outcome::Failing(Failure::Status(504))),
        ] {
            assert_eq!(outcome(&rules, status, None), expected, "{status}");
            assert_eq!(outcome(&rules, status, Some("60")), expected, "{status} with a hint");
            let odd = headers(&[(RETRY_AFTER, "soon")]);
            let reading = response(&rules, StatusCode::from_u16(status).unwrap(), &odd, WALL);
            assert_eq!(reading.errors().count(), 0, "{status}: a field that does not matter is not read");
        }
    }

    #[test]
    fn a_hint_that_is_not_trusted_leaves_the_ladder() {
        let rules = SignalRules { trust_hints: false, ..SignalRules::default() };
        assert_eq!(outcome(&rules, 429, Some("9")), signal(Reason::RateLimited, None, Some("Retry-After: 9")));
        assert_eq!(outcome(&rules, 503, Some("9")), signal(Reason::Unavailable, None, Some("Retry-After: 9")));
        assert_eq!(outcome(&rules, 503, None), Outcome::Failing(Failure::Status(503)));
        let reading = response(&rules, StatusCode::TOO_MANY_REQUESTS, &headers(&[(RETRY_AFTER, "9")]), WALL);
        assert_eq!(reading.hint_seen.unwrap().wait, Duration::from_secs(9), "it is still seen");
        let rules = SignalRules { hintless: Hintless::Ignore, ..rules };
        assert_eq!(
            outcome(&rules, 429, Some("9")),
            signal(Reason::RateLimited, None, Some("Retry-After: 9")),
            "the host did name a wait, so it does not mean the one request"
        );
    }

    #[test]
    fn the_clock_offset_is_the_hosts_date_minus_ours() {
        let offset = |fields: &[(HeaderName, &str)]| {
            response(&SignalRules::default(), StatusCode::OK, &headers(fields), WALL).clock_offset
        };
        assert_eq!(offset(&[(DATE, "Fri, 20 Nov 2026 10:00:07 GMT")]), Some(7_000));
        assert_eq!(offset(&[(DATE, "Fri, 20 Nov 2026 09:00:00 GMT"), (AGE, "0")]), Some(-3_600_000));
        assert_eq!(offset(&[(DATE, "Fri, 20 Nov 2026 09:00:00 GMT"), (AGE, "9")]), None);
        assert_eq!(offset(&[]), None);
    }

    #[test]
    fn what_was_received_is_shown_printable_and_cut() {
        let mut map = HeaderMap::new();
        map.append(RETRY_AFTER, HeaderValue::from_bytes(b"1\xff\t2").unwrap());
        map.append(RETRY_AFTER, HeaderValue::from_static("3"));
        let received =
            |map: &HeaderMap| match response(&SignalRules::default(), StatusCode::TOO_MANY_REQUESTS, map, WALL).outcome
            {
                Outcome::Signal(signal) => signal.received.unwrap(),
                other => panic!("{other:?}"),
            };
        assert_eq!(&*received(&map), "Retry-After: 1??2, 3");
        let date = headers(&[(RETRY_AFTER, "Fri, 20 Nov 2026 10:01:00 GMT")]);
        assert_eq!(&*received(&date), "Retry-After: Fri, 20 Nov 2026 10:01:00 GMT");
        for _ in 0..50 {
            map.append(RETRY_AFTER, HeaderValue::from_str(&"x".repeat(5000)).unwrap());
        }
        assert_eq!(received(&map).len(), MAX_RECEIVED);
    }

    /// One row of `tests/data/retry_after.tsv`.
    struct Row<'t> {
        clause: &'t str,
        name: &'t str,
        retry_after: Vec<Vec<u8>>,
        date: Vec<Vec<u8>>,
        age: Vec<Vec<u8>>,
        wall: UnixTime,
        fractional: bool,
        wait: Option<Duration>,
        causes: Vec<&'t str>,
    }

    impl<'t> Row<'t> {
        fn read(line: &'t str) -> Self {
            let cells: Vec<&str> = line.split('\t').collect();
            let [clause, name, retry_after, date, age, wall, fractional, wait, causes] = cells[..] else {
                panic!("expected 9 columns, found {}: {line}", cells.len());
            };
            let wall = match wall {
                "-" => WALL,
                text => httpdate::parse_http_date(text).unwrap_or_else(|e| panic!("{name}: {e}")).into(),
            };
            Self {
                clause,
                name,
                retry_after: fields(retry_after),
                date: fields(date),
                age: fields(age),
                wall,
                fractional: match fractional {
                    "-" => false,
                    "yes" => true,
                    other => panic!("{name}: expected `-` or `yes`, found {other}"),
                },
                wait: (wait != "-").then(|| Duration::from_secs(wait.parse().unwrap())),
                causes: if causes == "-" { Vec::new() } else { causes.split(',').collect() },
            }
        }

        /// The headers of the row, unless a value has bytes that no response head can have.
        fn headers(&self) -> Option<HeaderMap> {
            let mut headers = HeaderMap::new();
            for (name, values) in [(RETRY_AFTER, &self.retry_after), (DATE, &self.date), (AGE, &self.age)] {
                for value in values {
                    headers.append(name.clone(), HeaderValue::from_bytes(value).ok()?);
                }
            }
            Some(headers)
        }
    }

    fn fields(cell: &str) -> Vec<Vec<u8>> {
        if cell == "-" { Vec::new() } else { cell.split('|').map(unescape).collect() }
    }

    fn unescape(cell: &str) -> Vec<u8> {
        if cell == "∅" {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        let mut rest = cell;
        while let Some((before, after)) = rest.split_once('\\') {
            bytes.extend_from_slice(before.as_bytes());
            rest = if let Some(after) = after.strip_prefix('t') {
                bytes.push(b'\t');
                after
            } else {
                let digits = after.strip_prefix('x').unwrap_or_else(|| panic!("unknown escape in {cell}"));
                bytes.push(u8::from_str_radix(&digits[..2], 16).unwrap());
                &digits[2..]
            };
        }
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    #[test]
    fn every_row_of_the_table_of_retry_after_values_reads_as_it_says() {
        let table = include_str!("../../tests/data/retry_after.tsv");
        let rows: Vec<Row<'_>> =
            table.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(Row::read).collect();
        assert!(rows.len() >= 146, "expected at least 146 rows, found {}", rows.len());
        for clause in ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6"] {
            assert!(rows.iter().filter(|row| row.clause == clause).count() >= 8, "too few rows for clause {clause}");
        }
        let mut failed = Vec::new();
        for row in &rows {
            let date = host_clock(row.date.iter().map(Vec::as_slice), row.age.iter().map(Vec::as_slice), row.wall);
            let context = Context { wall: row.wall, date, fractional: row.fractional };
            let reading = retry_after::read(row.retry_after.iter().map(Vec::as_slice), &context);
            let causes: Vec<&str> = reading.causes.iter().map(Cause::as_str).collect();
            let wait = reading.hint.map(|hint| hint.wait);
            if wait != row.wait || causes != row.causes {
                failed.push(format!("{} {}: {wait:?} {causes:?}", row.clause, row.name));
            }
            // And the same through the whole reading of a head, on both kinds of statuses.
            let Some(headers) = row.headers() else { continue };
            let rules = SignalRules { fractional_seconds: row.fractional, ..SignalRules::default() };
            for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
                let head = response(&rules, status, &headers, row.wall);
                let expected = match (status.as_u16(), wait) {
                    (429, _) => "rate_limited",
                    (_, Some(_)) => "unavailable",
                    (_, None) => "failing",
                };
                let errors: Vec<_> = head.errors().map(|(field, cause)| (field.as_str(), cause.as_str())).collect();
                let fields: Vec<_> = causes.iter().map(|cause| ("retry_after", *cause)).collect();
                if head.outcome.as_str() != expected || head.hint_seen != reading.hint || errors != fields {
                    failed.push(format!("{} {} as {status}: {head:?}", row.clause, row.name));
                }
            }
        }
        assert!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));
    }

    const LEFT: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
    const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
    const SCOPE: HeaderName = HeaderName::from_static("x-ratelimit-scope");

    /// A vendor whose window ends at a time, and one whose field is there when it matters.
    fn vendor_rules() -> SignalRules {
        SignalRules {
            limited_with_hint: vec![StatusCode::FORBIDDEN, StatusCode::BAD_GATEWAY],
            fields: vec![
                FieldRule { reset: RESET, unit: Unit::EpochSeconds, remaining: Some(LEFT) },
                FieldRule { reset: HeaderName::from_static("x-pause"), unit: Unit::Seconds, remaining: None },
            ],
            ..SignalRules::default()
        }
    }

    fn read(rules: &SignalRules, status: u16, fields: &[(HeaderName, &str)]) -> Reading {
        response(rules, StatusCode::from_u16(status).unwrap(), &headers(fields), WALL)
    }

    fn named(reason: Reason, millis: u64, source: Source, received: &str) -> Signal {
        let hint = Some(Hint { wait: Duration::from_millis(millis), source });
        Signal { reason, hint, received: Some(received.into()) }
    }

    #[test]
    #[cfg(feature = "fields")]
    fn clause_2_8_the_families_go_before_each_other_and_inside_one_the_largest_counts() {
        const MILLIS: HeaderName = HeaderName::from_static("retry-after-ms");
        const AZURE: HeaderName = HeaderName::from_static("x-ms-retry-after-ms");
        const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
        let mut fields = vec![
            (RETRY_AFTER, "1"),
            (MILLIS, "1500"),
            (AZURE, "900"),
            (LEFT, "0"),
            (RESET, "1795168830"),
            (LIMIT, "\"d\";r=0;t=60"),
        ];
        let limited = |fields: &[(HeaderName, &str)]| read(&vendor_rules(), 429, fields).outcome;
        let of = |millis, source, received| Outcome::Signal(named(Reason::RateLimited, millis, source, received));
        assert_eq!(limited(&fields), of(1500, Source::RetryAfterMs, "retry-after-ms: 1500"));
        fields[1].1 = "560";
        assert_eq!(limited(&fields), of(1000, Source::RetryAfterSeconds, "Retry-After: 1"));
        fields[2].1 = "3000";
        assert_eq!(limited(&fields), of(3000, Source::RetryAfterMs, "x-ms-retry-after-ms: 3000"));
        assert_eq!(limited(&fields[3..]), of(30_000, Source::VendorReset, "x-ratelimit-reset: 1795168830"));
        assert_eq!(limited(&fields[5..]), of(60_000, Source::RateLimit, "RateLimit: \"d\";r=0;t=60"));
        fields[0].1 = "soon";
        fields.drain(1..3);
        assert_eq!(
            limited(&fields),
            of(30_000, Source::VendorReset, "x-ratelimit-reset: 1795168830"),
            "junk is no hint"
        );
    }

    #[test]
    fn the_pushback_of_grpc_is_of_the_vendors_family() {
        let rules = vendor_rules();
        let head = [(LEFT, "0"), (RESET, "1795168830")];
        let trailers = |millis: &'static str| [(GRPC_STATUS, "8"), (GRPC_RETRY_PUSHBACK_MS, millis)];
        let of = |millis, source, received| Outcome::Signal(named(Reason::RateLimited, millis, source, received));
        let reset = |millis| of(millis, Source::VendorReset, "x-ratelimit-reset: 1795168830");
        assert_eq!(calls(&rules, &head, &trailers("5000")), [reset(27_000), reset(30_000)]);
        let pushback = of(90_000, Source::GrpcPushback, "grpc-retry-pushback-ms: 90000");
        assert_eq!(calls(&rules, &head, &trailers("90000")), [pushback.clone(), pushback]);
    }

    #[test]
    #[cfg(feature = "fields")]
    fn what_is_odd_about_each_field_is_counted() {
        let errors = |fields: &[(HeaderName, &str)]| {
            read(&vendor_rules(), 429, fields).errors().map(|(field, cause)| (field.as_str(), cause.as_str())).collect()
        };
        let odd: Vec<_> = errors(&[
            (RETRY_AFTER, "soon"),
            (HeaderName::from_static("retry-after-ms"), "1.5"),
            (HeaderName::from_static("x-ms-retry-after-ms"), "-1"),
            (HeaderName::from_static("x-pause"), ""),
            (LEFT, "few"),
            (HeaderName::from_static("ratelimit"), "limit=5"),
            (HeaderName::from_static("ratelimit-policy"), "\"a\";q=-1"),
        ]);
        assert_eq!(
            odd,
            [
                ("retry_after", "malformed"),
                ("retry_after_ms", "malformed"),
                ("x_ms_retry_after_ms", "negative"),
                ("vendor_reset", "empty"),
                ("vendor_remaining", "malformed"),
                ("rate_limit", "malformed"),
                ("rate_limit_policy", "negative"),
            ]
        );
        let good: Vec<_> = errors(&[(LEFT, "5"), (RESET, "junk")]);
        assert_eq!(good, [], "a window that does not count is not read");
    }

    #[test]
    #[cfg(feature = "fields")]
    fn clause_2_7_what_a_cache_kept_has_no_say_about_quotas() {
        const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
        let rules = SignalRules { proactive: true, ..vendor_rules() };
        let hint = |status, age| read(&rules, status, &[(LIMIT, "\"d\";r=0;t=60"), (AGE, age)]).hint_seen;
        let fresh = Some(Hint { wait: Duration::from_secs(60), source: Source::RateLimit });
        assert_eq!((hint(429, "0"), hint(429, "7")), (fresh, None));
        assert_eq!((hint(200, "0"), hint(200, "7")), (fresh, None));
        let window = [(LEFT, "0"), (RESET, "1795168830"), (AGE, "7")];
        assert_eq!(read(&rules, 200, &window).outcome, Outcome::Success);
    }

    #[test]
    fn some_statuses_are_limits_only_when_they_carry_a_hint() {
        let rules = vendor_rules();
        let window = [(LEFT, "0"), (RESET, "1795168830")];
        let limit = named(Reason::RateLimited, 30_000, Source::VendorReset, "x-ratelimit-reset: 1795168830");
        assert_eq!(read(&rules, 403, &window).outcome, Outcome::Signal(limit));
        let left = [(LEFT, "1"), (RESET, "1795168830")];
        assert_eq!(read(&rules, 403, &left).outcome, Outcome::Success);
        assert_eq!(read(&rules, 403, &[]).outcome, Outcome::Success);
        assert_eq!(read(&rules, 502, &left).outcome, Outcome::Failing(Failure::Status(502)));
        assert_eq!(read(&rules, 403, &[(RETRY_AFTER, "60")]).outcome, {
            Outcome::Signal(named(Reason::RateLimited, 60_000, Source::RetryAfterSeconds, "Retry-After: 60"))
        });
        assert_eq!(read(&SignalRules::default(), 403, &window).outcome, Outcome::Success);
        let untrusted = SignalRules { trust_hints: false, ..rules };
        let received = Some("x-ratelimit-reset: 1795168830".into());
        let limit = Signal { reason: Reason::RateLimited, hint: None, received };
        assert_eq!(read(&untrusted, 403, &window).outcome, Outcome::Signal(limit));
    }

    #[test]
    #[cfg(feature = "fields")]
    fn clause_2_10_a_good_answer_that_was_the_last_is_exhausted_where_the_policy_asks() {
        let rules = SignalRules { proactive: true, ..vendor_rules() };
        let window = [(LEFT, "0"), (RESET, "1795168830")];
        let last = Outcome::Exhausted(named(
            Reason::QuotaExhausted,
            30_000,
            Source::VendorReset,
            "x-ratelimit-reset: 1795168830",
        ));
        for status in [200, 204, 302, 304] {
            assert_eq!(read(&rules, status, &window).outcome, last, "{status}");
        }
        for status in [404, 500] {
            let reading = read(&rules, status, &window);
            assert!(reading.outcome.signal().is_none() && reading.hint_seen.is_none(), "{status} is no good answer");
        }
        assert_eq!(read(&vendor_rules(), 200, &window).outcome, Outcome::Success);
        assert_eq!(read(&vendor_rules(), 200, &[(LEFT, "junk")]).errors().count(), 0, "nobody has asked");
        assert_eq!(read(&rules, 200, &[(LEFT, "junk")]).errors().count(), 1);
        assert_eq!(read(&rules, 200, &[(LEFT, "1"), (RESET, "1795168830")]).outcome, Outcome::Success);
        let pause = [(HeaderName::from_static("x-pause"), "30"), (RETRY_AFTER, "30")];
        assert_eq!(read(&rules, 200, &pause).outcome, Outcome::Success, "it does not say that nothing is left");
        assert_eq!(read(&rules, 200, &[(LEFT, "0"), (RESET, "1795168800")]).outcome, Outcome::Success, "it is over");
        let ietf = [(HeaderName::from_static("ratelimit"), "\"d\";r=0;t=60")];
        let last = named(Reason::QuotaExhausted, 60_000, Source::RateLimit, "RateLimit: \"d\";r=0;t=60");
        assert_eq!(read(&rules, 200, &ietf).outcome, Outcome::Exhausted(last));
        let untrusted = SignalRules { trust_hints: false, ..rules };
        let reading = read(&untrusted, 200, &window);
        assert_eq!((reading.outcome, reading.hint_seen.is_some()), (Outcome::Success, true), "it is still seen");
    }

    fn scope_rules() -> SignalRules {
        let scope = |equals: &str, level: &str, step| ScopeRule {
            field: SCOPE,
            equals: equals.into(),
            level: level.into(),
            step,
        };
        SignalRules {
            proactive: true,
            scopes: vec![scope(" Global ", "host", true), scope("shared", "route", false), scope("global", "x", true)],
            ..vendor_rules()
        }
    }

    #[test]
    fn clause_4_3_the_first_scope_whose_field_is_as_it_says_tells_what_a_signal_is_about() {
        let scope = |status, fields: &[(HeaderName, &str)]| read(&scope_rules(), status, fields).scope;
        assert_eq!(scope(429, &[(SCOPE, "global")]), Some(0));
        assert_eq!(scope(429, &[(SCOPE, " GLOBAL\t")]), Some(0));
        assert_eq!(scope(429, &[(SCOPE, "user"), (SCOPE, "shared")]), Some(1));
        assert_eq!(scope(429, &[(SCOPE, "user")]), None);
        assert_eq!(scope(429, &[]), None);
        assert_eq!(scope(403, &[(SCOPE, "global"), (RETRY_AFTER, "5")]), Some(0));
        for status in [200, 403, 500, 503] {
            assert_eq!(scope(status, &[(SCOPE, "global")]), None, "{status} is no signal");
        }
        let last = [(LEFT, "0"), (RESET, "1795168830"), (SCOPE, "shared")];
        assert_eq!(scope(200, &last), Some(1));
        let of_type = (CONTENT_TYPE, "application/grpc");
        let in_head = scope(200, &[of_type.clone(), (GRPC_STATUS, "8"), (SCOPE, "global")]);
        let open = read(&scope_rules(), 200, &[of_type.clone(), (SCOPE, "shared")]);
        let trailers = headers(&[(GRPC_STATUS, "8"), (SCOPE, "global")]);
        let late = read(&scope_rules(), 200, &[of_type]);
        let closed = [open, late].map(|open| {
            assert_eq!(open.scope, None);
            open.with_trailers(&scope_rules(), Some(&trailers), Duration::ZERO).scope
        });
        assert_eq!((in_head, closed), (Some(0), [Some(1), Some(0)]));
    }

    #[test]
    fn clause_4_3_a_scope_without_a_step_is_off_the_ladder_with_a_hint_and_without() {
        let shared = named(Reason::RateLimited, 9000, Source::RetryAfterSeconds, "Retry-After: 9");
        let rules = scope_rules();
        let with_hint = [(SCOPE, "shared"), (RETRY_AFTER, "9")];
        assert_eq!(read(&rules, 429, &with_hint).outcome, Outcome::OffLadder(shared.clone()));
        assert_eq!(read(&rules, 429, &[(SCOPE, "global"), (RETRY_AFTER, "9")]).outcome, Outcome::Signal(shared));
        let without = |received: Option<&str>| {
            let received = received.map(Into::into);
            Outcome::OffLadder(Signal { reason: Reason::RateLimited, hint: None, received })
        };
        assert_eq!(read(&rules, 429, &[(SCOPE, "shared")]).outcome, without(None));
        let untrusted = SignalRules { trust_hints: false, ..rules };
        assert_eq!(read(&untrusted, 429, &with_hint).outcome, without(Some("Retry-After: 9")));
    }

    #[test]
    fn a_signal_of_an_ignored_method_says_nothing_about_the_key() {
        let rules = scope_rules();
        let ignored = |status, fields: &[(HeaderName, &str)]| read(&rules, status, fields).of_ignored_method();
        for fields in [&[(RETRY_AFTER, "9")][..], &[], &[(SCOPE, "shared"), (RETRY_AFTER, "9")]] {
            let reading = ignored(429, fields);
            assert_eq!((reading.outcome, reading.scope), (Outcome::Neutral, None));
        }
        assert_eq!(ignored(429, &[(RETRY_AFTER, "9")]).relayed().outcome, Outcome::Neutral);
        assert_eq!(ignored(200, &[(LEFT, "0"), (RESET, "1795168830")]).outcome, Outcome::Success);
        assert_eq!(ignored(200, &[]).outcome, Outcome::Success);
        assert_eq!(ignored(500, &[]).outcome, Outcome::Answered);
        assert_eq!(ignored(502, &[]).outcome, Outcome::Failing(Failure::Status(502)));
        let open = ignored(200, &[(CONTENT_TYPE, "application/grpc")]);
        assert!(open.awaits_trailers());
        let limited = open.with_trailers(&rules, Some(&headers(&[(GRPC_STATUS, "8")])), Duration::ZERO);
        assert_eq!(limited.outcome, Outcome::Neutral, "it holds for what comes behind the body, too");
    }
}
