use super::*;

/// 2026-11-20T09:59:18.250Z
const NOW: UnixTime = UnixTime::from_millis(1_795_168_758_250);

const CURL: HeaderValue = HeaderValue::from_static("*/*");

fn facts(accept: &HeaderValue) -> RequestFacts<'_> {
    RequestFacts { head: false, accept: Some(accept), grpc: false, now: NOW }
}

fn key() -> Key {
    Key::parse("https://peer.example").unwrap()
}

/// A short-circuit as `change` leaves it, asked for with `accept`.
fn short(accept: &'static str, change: impl FnOnce(&mut ShortCircuit<'_>, &mut Answer)) -> Response<Bytes> {
    let key = key();
    let untouched = Answer::default();
    let mut answer = Answer::default();
    let mut what = ShortCircuit {
        name: "holdoff-1a2b3c4d",
        key: &key,
        reason: Reason::RateLimited,
        wait: Duration::from_millis(41_750),
        state: State::Cooling,
        last_error: Some("HTTP 429 from peer.example (retry_after=120s): slow down"),
        answer: &untouched,
    };
    change(&mut what, &mut answer);
    let what = ShortCircuit { answer: &answer, ..what };
    short_circuit(&what, &facts(&HeaderValue::from_static(accept)))
}

fn header(response: &Response<Bytes>, name: impl http::header::AsHeaderName) -> &str {
    response.headers().get(name).unwrap().to_str().unwrap()
}

fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn text(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

#[test]
fn a_short_circuit_has_every_header_of_the_contract() {
    let response = short("*/*", |_, _| ());
    assert_eq!(response.status(), 429);
    assert_eq!(header(&response, RETRY_AFTER), "42");
    assert_eq!(
        header(&response, PROXY_STATUS),
        "holdoff-1a2b3c4d; error=proxy_internal_response; \
         details=\"rate_limited: https://peer.example:443 is not asked until 2026-11-20T10:00:00Z\""
    );
    assert_eq!(
        header(&response, HOLDOFF),
        "short-circuit; reason=rate_limited; until=\"2026-11-20T10:00:00Z\"; key=\"https://peer.example:443\""
    );
    assert_eq!(header(&response, CACHE_CONTROL), "no-store");
    assert_eq!(header(&response, DATE), "Fri, 20 Nov 2026 09:59:18 GMT");
    assert_eq!(header(&response, CONTENT_TYPE), "application/problem+json");
    assert_eq!(header(&response, CONTENT_LENGTH), response.body().len().to_string());
}

#[test]
fn the_body_is_problem_details_that_a_person_understands() {
    let response = short("*/*", |_, _| ());
    assert_eq!(
        json(&response),
        serde_json::json!({
            "type": "about:blank",
            "title": "Too Many Requests",
            "status": 429,
            "detail": "holdoff answered this request itself and did not contact https://peer.example:443: the host said \
                       that it gets too many requests, so it is left alone until 2026-11-20T10:00:00Z. Ask again in 42 s. \
                       The last error was: HTTP 429 from peer.example (retry_after=120s): slow down",
            "host": "peer.example",
            "reason": "rate_limited",
            "retry_after": 42,
            "until": "2026-11-20T10:00:00Z",
        })
    );
    assert!(text(&response).starts_with("{\n"), "one member a line");
    assert!(text(&response).ends_with("}\n"), "the prompt of a shell comes on a line of its own");
}

#[test]
fn the_status_follows_the_reason_and_the_policy() {
    for (reason, status, token) in [
        (Reason::RateLimited, 429, "proxy_internal_response"),
        (Reason::QuotaExhausted, 429, "proxy_internal_response"),
        (Reason::Unavailable, 503, "destination_unavailable"),
        (Reason::BackendBusy, 503, "destination_unavailable"),
        (Reason::Failing, 503, "destination_unavailable"),
        (Reason::Manual, 503, "destination_unavailable"),
    ] {
        let response = short("*/*", |what, _| what.reason = reason);
        assert_eq!(response.status(), status, "{reason:?}");
        assert!(header(&response, PROXY_STATUS).contains(&format!("error={token};")), "{reason:?}");
        assert!(header(&response, HOLDOFF).contains(&format!("reason={};", reason.as_str())), "{reason:?}");
        assert_eq!(json(&response)["status"], status);
        assert_eq!(json(&response)["reason"], reason.as_str());
    }
    let response = short("*/*", |_, answer| answer.status = Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(response.status(), 503);
    assert!(header(&response, PROXY_STATUS).contains("error=destination_unavailable;"));
    assert_eq!(json(&response)["reason"], "rate_limited");
    let response = short("*/*", |_, answer| answer.status = Some(StatusCode::NO_CONTENT));
    assert_eq!(response.status(), 429, "a status without a body cannot carry our answer");
}

#[test]
fn retry_after_is_rounded_up_at_least_one_and_at_most_what_the_policy_says() {
    let says = |wait: Duration, most: Option<u64>| {
        let response = short("*/*", |what, answer| {
            what.wait = wait;
            answer.max_advertised = most.map(Duration::from_secs);
        });
        let secs: u64 = header(&response, RETRY_AFTER).parse().unwrap();
        assert_eq!(json(&response)["retry_after"], secs);
        secs
    };
    assert_eq!(says(Duration::from_nanos(1), None), 1);
    assert_eq!(says(Duration::from_secs(4), None), 4);
    assert_eq!(says(Duration::from_nanos(4_000_000_001), None), 5);
    assert_eq!(says(Duration::from_secs(3600), Some(59)), 59);
    assert_eq!(says(Duration::from_secs(3600), Some(0)), 1);
    assert_eq!(says(Duration::MAX, None), u64::MAX);
}

#[test]
fn until_is_the_deadline_rounded_up_whatever_is_advertised() {
    let until = |wait: u64, most: Option<u64>| {
        let response = short("*/*", |what, answer| {
            what.wait = Duration::from_millis(wait);
            answer.max_advertised = most.map(Duration::from_secs);
        });
        json(&response)["until"].as_str().unwrap().to_owned()
    };
    assert_eq!(until(41_750, None), "2026-11-20T10:00:00Z", "on the second");
    assert_eq!(until(41_751, None), "2026-11-20T10:00:01Z", "a millisecond later");
    assert_eq!(until(41_750, Some(5)), "2026-11-20T10:00:00Z", "not cut");
}

#[test]
fn the_words_say_whether_a_host_cools_is_tested_or_has_just_cleared() {
    let detail = |state| {
        let response = short("*/*", |what, _| what.state = state);
        json(&response)["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail(State::Cooling).contains("left alone until 2026-11-20T10:00:00Z"));
    assert!(detail(State::Probing).contains("one request is finding out"));
    assert!(detail(State::Clear).contains("little by little"));
}

#[test]
fn plain_text_is_sent_by_accept_or_by_policy() {
    let response = short("text/plain", |_, _| ());
    assert_eq!(header(&response, CONTENT_TYPE), "text/plain; charset=utf-8");
    assert_eq!(
        text(&response),
        "429 Too Many Requests\n\n\
         holdoff answered this request itself and did not contact https://peer.example:443: the host said that it gets \
         too many requests, so it is left alone until 2026-11-20T10:00:00Z. Ask again in 42 s. \
         The last error was: HTTP 429 from peer.example (retry_after=120s): slow down\n\n\
         host: peer.example\nreason: rate_limited\nretry after: 42 s\nuntil: 2026-11-20T10:00:00Z\n"
    );
    let response = short("application/json", |_, answer| answer.format = AnswerFormat::Text);
    assert_eq!(header(&response, CONTENT_TYPE), "text/plain; charset=utf-8");
    let response = short("text/plain", |_, answer| answer.format = AnswerFormat::Problem);
    assert_eq!(header(&response, CONTENT_TYPE), "application/problem+json");
}

#[test]
fn a_policy_may_bring_its_own_body_and_headers_but_not_our_marks_or_the_framing() {
    let response = short("*/*", |_, answer| {
        answer.format = AnswerFormat::Custom;
        answer.body = Some(r#"{"error":"busy"}"#.to_owned());
        answer.content_type = Some(HeaderValue::from_static("application/json"));
        answer.headers = [
            ("x-node", "a"),
            ("x-node", "b"),
            ("holdoff", "forwarded"),
            ("proxy-status", "x"),
            ("retry-after", "9"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
        ]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into();
    });
    assert_eq!(text(&response), r#"{"error":"busy"}"#);
    assert_eq!(header(&response, CONTENT_TYPE), "application/json");
    assert_eq!(header(&response, CONTENT_LENGTH), "16");
    assert_eq!(header(&response, RETRY_AFTER), "42");
    assert_eq!(response.headers().get_all("x-node").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(response.headers().get_all(HOLDOFF).iter().count(), 1);
    assert_eq!(response.headers().get_all(PROXY_STATUS).iter().count(), 1);
    assert!(header(&response, HOLDOFF).starts_with("short-circuit;"));
    assert!(!response.headers().contains_key(TRANSFER_ENCODING) && !response.headers().contains_key(CONNECTION));
}

#[test]
fn head_gets_the_length_and_no_body() {
    let key = key();
    let answer = Answer::default();
    let what = ShortCircuit {
        name: "holdoff",
        key: &key,
        reason: Reason::Failing,
        wait: Duration::from_secs(3),
        state: State::Cooling,
        last_error: None,
        answer: &answer,
    };
    let get = short_circuit(&what, &facts(&CURL));
    let head = short_circuit(&what, &RequestFacts { head: true, ..facts(&CURL) });
    assert!(head.body().is_empty());
    assert_eq!(head.headers(), get.headers());
    assert_eq!(header(&head, CONTENT_LENGTH), get.body().len().to_string());
    assert!(!text(&get).contains("last error"), "there was none");
}

#[test]
fn a_hostile_error_line_or_name_cannot_break_out() {
    let response = short("text/plain", |what, _| {
        what.name = "evil\"\r\nset-cookie: a=b";
        what.last_error = Some("a\r\nb\u{1b}[31m\"}");
    });
    assert!(text(&response).contains("The last error was: a??b?[31m\"}\n"));
    assert!(header(&response, PROXY_STATUS).starts_with(r#""evil\"??set-cookie: a=b"; error="#));
    let long = "x".repeat(100_000);
    let response = short("*/*", |what, _| what.last_error = Some(Box::leak(long.into_boxed_str())));
    assert!(response.body().len() < 2000);
}

#[test]
fn an_ipv6_key_is_shown_in_brackets() {
    let key = Key::parse("http://[2001:db8::1]:8080").unwrap();
    let value = annotate(&key, Some(&Outcome::Success), None);
    assert_eq!(value, r#"forwarded; outcome=success; key="http://[2001:db8::1]:8080""#);
    assert_eq!(annotate(&key, None, None), r#"forwarded; key="http://[2001:db8::1]:8080""#, "trailers will tell");
}

#[test]
fn a_forwarded_answer_says_what_it_was_and_what_enforcing_would_have_done() {
    let signal =
        Outcome::Signal(crate::core::signal::Signal { reason: Reason::RateLimited, hint: None, received: None });
    assert_eq!(
        annotate(&key(), Some(&signal), Some(Reason::RateLimited)),
        "forwarded; outcome=rate_limited; would=short-circuit; reason=rate_limited; key=\"https://peer.example:443\""
    );
}

fn dns_error<'a>(key: Option<&'a Key>) -> LocalError<'a> {
    LocalError {
        name: "holdoff",
        status: StatusCode::BAD_GATEWAY,
        kind: "dns",
        stage: "dns",
        fault: "upstream",
        grpc: Code::Unavailable,
        proxy_status: "dns_error",
        detail: "the name `peer.example` does not resolve",
        key,
        prefer_text: false,
    }
}

#[test]
fn an_error_names_its_kind_stage_and_fault() {
    let key = key();
    let extra = [(CONNECTION, HeaderValue::from_static("close"))];
    let response = error(&dns_error(Some(&key)), &facts(&CURL), &extra);
    assert_eq!(response.status(), 502);
    assert_eq!(
        header(&response, HOLDOFF),
        "error; kind=dns; stage=dns; fault=upstream; key=\"https://peer.example:443\""
    );
    assert_eq!(
        header(&response, PROXY_STATUS),
        "holdoff; error=dns_error; details=\"the name `peer.example` does not resolve\""
    );
    assert_eq!(header(&response, CACHE_CONTROL), "no-store");
    assert_eq!(header(&response, DATE), "Fri, 20 Nov 2026 09:59:18 GMT");
    assert_eq!(header(&response, CONNECTION), "close");
    assert_eq!(header(&response, CONTENT_LENGTH), response.body().len().to_string());
    assert!(!response.headers().contains_key(RETRY_AFTER) && !response.headers().contains_key(PROXY_AUTHENTICATE));
    assert_eq!(
        json(&response),
        serde_json::json!({
            "type": "about:blank",
            "title": "Bad Gateway",
            "status": 502,
            "detail": "the name `peer.example` does not resolve. This answer is from holdoff (stage: dns, fault: upstream).",
            "host": "peer.example",
            "kind": "dns",
            "stage": "dns",
            "fault": "upstream",
        })
    );
    let text_response = error(&dns_error(None), &facts(&HeaderValue::from_static("text/plain")), &[]);
    assert!(text(&text_response).starts_with("502 Bad Gateway\n\nthe name `peer.example` does not resolve. "));
    assert_eq!(header(&text_response, HOLDOFF), "error; kind=dns; stage=dns; fault=upstream");
    let head = error(&dns_error(None), &RequestFacts { head: true, ..facts(&CURL) }, &[]);
    assert!(head.body().is_empty() && header(&head, CONTENT_LENGTH) != "0");
}

#[test]
fn a_407_has_its_challenge() {
    let what = LocalError { status: StatusCode::PROXY_AUTHENTICATION_REQUIRED, ..dns_error(None) };
    let response = error(&what, &facts(&CURL), &[]);
    assert_eq!(header(&response, PROXY_AUTHENTICATE), "Basic realm=\"holdoff\", charset=\"UTF-8\"");
}

#[test]
fn a_request_without_a_host_is_told_both_ways_in_plain_text() {
    let help = how_to_use(&"127.0.0.1:4290");
    let what = LocalError {
        status: StatusCode::BAD_REQUEST,
        kind: "not_proxy_request",
        stage: "request",
        fault: "client",
        proxy_status: "http_request_error",
        detail: &help,
        prefer_text: true,
        ..dns_error(None)
    };
    let response = error(&what, &facts(&CURL), &[]);
    assert_eq!(header(&response, CONTENT_TYPE), "text/plain; charset=utf-8");
    let body = text(&response);
    assert!(
        body.contains("\n    export http_proxy=http://127.0.0.1:4290 https_proxy=http://127.0.0.1:4290\n"),
        "{body}"
    );
    assert!(body.contains("\n    [[reverse]]\n    address = [\"127.0.0.1:4300\"]\n"), "{body}");
    assert!(header(&response, PROXY_STATUS).ends_with("two ways to use holdoff.\""), "the first line only");
    let response = error(&what, &facts(&HeaderValue::from_static("application/json")), &[]);
    assert!(json(&response)["detail"].as_str().unwrap().contains("[[reverse]]"));
}

#[test]
fn what_we_write_is_what_we_strip() {
    let mut response = short("*/*", |_, _| ());
    strip_marks(response.headers_mut(), "holdoff-1a2b3c4d");
    assert!(!response.headers().contains_key(PROXY_STATUS) && !response.headers().contains_key(HOLDOFF));
    let mut response = short("*/*", |_, _| ());
    strip_marks(response.headers_mut(), "holdoff-another");
    assert!(response.headers().contains_key(PROXY_STATUS), "well-formed, and another's");
}

fn to_grpc(accept: &HeaderValue) -> RequestFacts<'_> {
    RequestFacts { grpc: true, ..facts(accept) }
}

#[test]
fn a_grpc_caller_gets_the_whole_answer_in_a_head_with_status_200() {
    let (key, answer) = (key(), Answer { status: Some(StatusCode::IM_A_TEAPOT), ..Answer::default() });
    let what = ShortCircuit {
        name: "holdoff-1a2b3c4d",
        key: &key,
        reason: Reason::RateLimited,
        wait: Duration::from_nanos(41_750_000_001),
        state: State::Cooling,
        last_error: Some("gRPC 8 from peer.example (retry_after=120s): 100 % used"),
        answer: &answer,
    };
    let response = short_circuit(&what, &to_grpc(&CURL));
    assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
    for (name, expected) in [
        ("content-type", "application/grpc"),
        ("grpc-status", "8"),
        ("grpc-retry-pushback-ms", "41751"),
        ("retry-after", "42"),
        ("cache-control", "no-store"),
        ("date", "Fri, 20 Nov 2026 09:59:18 GMT"),
        (
            "grpc-message",
            "holdoff answered this request itself and did not contact https://peer.example:443: the host said that it \
             gets too many requests, so it is left alone until 2026-11-20T10:00:00Z. Ask again in 42 s. The last error \
             was: gRPC 8 from peer.example (retry_after=120s): 100 %25 used",
        ),
        (
            "holdoff",
            "short-circuit; reason=rate_limited; until=\"2026-11-20T10:00:00Z\"; key=\"https://peer.example:443\"",
        ),
    ] {
        assert_eq!(header(&response, name), expected, "{name}");
    }
    assert!(header(&response, PROXY_STATUS).starts_with("holdoff-1a2b3c4d; error=proxy_internal_response; "));
    assert!(!response.headers().contains_key(CONTENT_LENGTH), "there is no body, and none to measure");

    for reason in Reason::ALL {
        let response = short_circuit(&ShortCircuit { reason, ..what }, &to_grpc(&CURL));
        let limited = matches!(reason, Reason::RateLimited | Reason::QuotaExhausted);
        assert_eq!(header(&response, "grpc-status"), if limited { "8" } else { "14" }, "{reason:?}");
        assert_eq!(
            header(&response, PROXY_STATUS).contains("destination_unavailable"),
            !limited,
            "as the answer to others"
        );
    }
}

#[test]
fn a_pushback_is_never_zero_and_fits_what_clients_read() {
    let (key, answer) = (key(), Answer { max_advertised: Some(Duration::from_secs(30)), ..Answer::default() });
    for (wait, state, most, expected) in [
        (Duration::from_nanos(1), State::Cooling, false, "1"),
        (Duration::from_nanos(1), State::Probing, false, "1000"),
        (Duration::from_millis(1500), State::Clear, false, "2000"),
        (Duration::MAX, State::Cooling, false, "2147483647"),
        (Duration::MAX, State::Cooling, true, "30000"),
    ] {
        let untouched = Answer::default();
        let what = ShortCircuit {
            name: "holdoff",
            key: &key,
            reason: Reason::Unavailable,
            wait,
            state,
            last_error: None,
            answer: if most { &answer } else { &untouched },
        };
        let response = short_circuit(&what, &to_grpc(&CURL));
        assert_eq!(header(&response, "grpc-retry-pushback-ms"), expected, "{wait:?} {state:?}");
    }
}

#[test]
fn a_policy_adds_headers_to_answers_to_grpc_callers_but_no_word_of_the_protocol() {
    let key = key();
    let named = |name: &'static str| (HeaderName::from_static(name), HeaderValue::from_static("mine"));
    let names = ["x-a", "grpc-status", "grpc-message", "grpc-retry-pushback-ms"];
    let answer = Answer {
        format: AnswerFormat::Custom,
        body: Some("mine".to_owned()),
        headers: names.map(named).to_vec(),
        ..Answer::default()
    };
    let what = ShortCircuit {
        name: "holdoff",
        key: &key,
        reason: Reason::RateLimited,
        wait: Duration::from_secs(1),
        state: State::Cooling,
        last_error: None,
        answer: &answer,
    };
    for request in [facts(&CURL), to_grpc(&CURL)] {
        let response = short_circuit(&what, &request);
        assert_eq!(header(&response, "x-a"), "mine");
        assert_eq!(response.headers().values().filter(|value| *value == "mine").count(), 1);
        assert_eq!(response.body().is_empty(), request.grpc);
    }
}

#[test]
fn an_error_to_a_grpc_caller_has_its_status_and_no_wait() {
    let response = error(&dns_error(None), &to_grpc(&CURL), &[]);
    assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
    assert_eq!(header(&response, "grpc-status"), "14");
    assert_eq!(
        header(&response, "grpc-message"),
        "the name `peer.example` does not resolve. This answer is from holdoff (stage: dns, fault: upstream)."
    );
    assert_eq!(header(&response, HOLDOFF), "error; kind=dns; stage=dns; fault=upstream");
    assert!(!response.headers().contains_key("grpc-retry-pushback-ms"));
    let what = LocalError {
        status: StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        grpc: Code::Unauthenticated,
        detail: "two\nlines",
        ..dns_error(None)
    };
    let response = error(&what, &to_grpc(&CURL), &[]);
    assert_eq!(header(&response, "grpc-status"), "16");
    assert!(header(&response, "grpc-message").starts_with("two%0Alines. "), "{:?}", response.headers());
    assert!(!response.headers().contains_key(PROXY_AUTHENTICATE));
}
