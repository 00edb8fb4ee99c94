//! The tower layer over a scripted service, under paused time: every decision, every outcome, every way to leave.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdoff::core::cooldown::{Event, ProbeResult};
use holdoff::core::decision::{Freeze, Reason, State};
use holdoff::core::key::Key;
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Mode, Policy, SignalRules};
use holdoff::core::signal::{Failure, Outcome};
use holdoff::core::time::{Instant, UnixTime};
use holdoff::layer::{
    Clock, Holdoff, HoldoffError, HoldoffLayer, HoldoffService, ResponseFuture, ShortCircuit, failure_of,
};
use http::{Method, Request, Response, StatusCode};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_test::mock::{Handle, Mock, SendResponse};

type Body = Vec<u8>;
type Inner = Mock<Request<()>, Response<Body>>;
type Host = Handle<Request<()>, Response<Body>>;

const PEER: &str = "https://peer.example/";
const OTHER: &str = "https://other.example/";
/// 2026-11-20T10:00:00Z
const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);

/// The runtime's clock, so that it is paused when the runtime's is.
struct RuntimeClock {
    start: tokio::time::Instant,
    draw: u64,
}

impl RuntimeClock {
    fn drawing(draw: u64) -> Self {
        Self { start: tokio::time::Instant::now(), draw }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Instant {
        Instant::from_secs(1000).saturating_add(self.start.elapsed())
    }

    fn wall(&self) -> UnixTime {
        WALL.saturating_add(self.start.elapsed())
    }

    fn draw(&self) -> u64 {
        self.draw
    }
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let cooldown = CooldownLimits { hint_jitter: false, ..CooldownLimits::default() };
    let mut policy = Policy { cooldown, ..Policy::default() };
    change(&mut policy);
    policy
}

fn breaker(policy: &mut Policy) {
    let initial = Duration::from_secs(5);
    policy.breaker = BreakerLimits { failure_threshold: 2, initial, ..BreakerLimits::default() };
}

type Told = Arc<Mutex<Vec<(String, Event)>>>;

fn holdoff(policy: Policy) -> (Holdoff, Told) {
    let told = Told::default();
    let holdoff = Holdoff::builder()
        .policy(policy)
        .unwrap()
        .clock(RuntimeClock::drawing(0))
        .on_event({
            let told = Arc::clone(&told);
            move |key, event| told.lock().unwrap().push((key.to_string(), event.clone()))
        })
        .build();
    (holdoff, told)
}

/// The default layer over a scripted host.
fn client(policy: Policy) -> (HoldoffService<Inner>, Host, Holdoff) {
    let (inner, host) = tower_test::mock::pair();
    let (holdoff, _) = holdoff(policy);
    (HoldoffLayer::sharing(&holdoff).layer(inner), host, holdoff)
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

fn key(uri: &str) -> Key {
    Key::parse(uri).unwrap()
}

fn answer(status: u16, retry_after: Option<&str>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    if let Some(value) = retry_after {
        response = response.header("retry-after", value);
    }
    response.body(b"from the host".to_vec()).unwrap()
}

async fn start<S: Service<Request<()>>>(client: &mut S, request: Request<()>) -> S::Future
where
    S::Error: std::fmt::Debug,
{
    client.ready().await.unwrap().call(request)
}

async fn ask<S: Service<Request<()>>>(client: &mut S, uri: &str) -> S::Future
where
    S::Error: std::fmt::Debug,
{
    start(client, get(uri)).await
}

/// The request that reached the host.
fn sent(host: &mut Host) -> SendResponse<Response<Body>> {
    match host.poll_request() {
        Poll::Ready(Some((_, send))) => send,
        _ => panic!("expected the request to be sent"),
    }
}

fn nothing_sent(host: &mut Host) {
    assert!(host.poll_request().is_pending(), "expected the host not to be asked");
}

/// Sends one request and has the host answer it.
async fn exchange<S>(client: &mut S, host: &mut Host, uri: &str, response: Response<Body>) -> Response<Body>
where
    S: Service<Request<()>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let future = ask(client, uri).await;
    sent(host).send_response(response);
    let response = end(future).await.unwrap();
    assert!(response.extensions().get::<ShortCircuit>().is_none(), "expected the host's own answer");
    response
}

/// Sends one request that must be refused.
async fn refused<S>(client: &mut S, host: &mut Host, uri: &str) -> ShortCircuit
where
    S: Service<Request<()>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let response = end(ask(client, uri).await).await.unwrap();
    nothing_sent(host);
    response.extensions().get::<ShortCircuit>().expect("an answer of the layer").clone()
}

/// The end of a request that needs nobody's help to end. Paused time runs on when everybody waits, so this waits for nothing.
async fn end<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("an end of the request")
}

async fn secs(secs: u64) {
    tokio::time::advance(Duration::from_secs(secs)).await;
}

fn state(holdoff: &Holdoff, uri: &str) -> State {
    holdoff.snapshot(&key(uri)).unwrap().view.state
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_clear_host_is_sent_and_its_answer_passes_unchanged() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    let first = exchange(&mut client, &mut host, PEER, answer(429, Some("120"))).await;
    assert_eq!(first.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((first.headers().len(), first.headers()["retry-after"].to_str().unwrap()), (1, "120"));
    assert_eq!(first.body(), b"from the host");
    assert_eq!(state(&holdoff, PEER), State::Cooling);
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_cooling_host_is_answered_by_a_response() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("120"))).await;
    tokio::time::advance(Duration::from_millis(30_500)).await;
    let response = end(ask(&mut client, PEER).await).await.unwrap();
    nothing_sent(&mut host);
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let field = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!(field("retry-after"), "90");
    assert_eq!(field("cache-control"), "no-store");
    assert_eq!(field("content-type"), "text/plain; charset=utf-8");
    let until = "2026-11-20T10:02:00Z";
    assert_eq!(
        field("holdoff"),
        format!("short-circuit; reason=rate_limited; until=\"{until}\"; key=\"https://peer.example:443\"")
    );
    assert_eq!(
        field("proxy-status"),
        format!(
            "holdoff; error=proxy_internal_response; \
             details=\"rate_limited: https://peer.example:443 is not asked until {until}\""
        )
    );
    let line = String::from_utf8(response.body().clone()).unwrap();
    assert_eq!(line, "`https://peer.example:443` was not contacted: rate_limited, ask again in 90 s\n");
    let refusal = response.extensions().get::<ShortCircuit>().unwrap();
    assert_eq!((refusal.key(), refusal.retry_after()), (&key(PEER), 90));
    assert_eq!(refusal.until(), UnixTime::from_secs(WALL.as_secs() + 120));
    assert_eq!(refusal.not_until().wait, Duration::from_millis(89_500));
    assert_eq!(refusal.not_until().until, Instant::from_secs(1120));
    assert_eq!(holdoff.snapshot(&key(PEER)).unwrap().short_circuited, 1);
}

#[tokio::test(start_paused = true)]
async fn a_503_with_a_hint_is_answered_as_503_and_a_head_without_a_body() {
    let (mut client, mut host, _) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(503, Some("10"))).await;
    let head = Request::builder().method(Method::HEAD).uri(PEER).body(()).unwrap();
    let response = end(start(&mut client, head).await).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers()["proxy-status"].to_str().unwrap().contains("error=destination_unavailable"));
    assert!(response.body().is_empty() && !response.headers().contains_key("content-type"));
}

#[tokio::test(start_paused = true)]
async fn the_body_is_made_as_the_program_says() {
    let (holdoff, _) = holdoff(policy(|_| ()));
    holdoff.freeze(&key(PEER), Duration::from_secs(60)).unwrap();
    let (inner, _host) = tower_test::mock::pair::<Request<()>, Response<Body>>();
    let client = HoldoffLayer::sharing(&holdoff).short_circuit_without_body().layer(inner);
    let response = end(client.oneshot(get(PEER))).await;
    let response = response.unwrap();
    assert!(response.body().is_empty() && !response.headers().contains_key("content-type"));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);

    let (inner, _host) = tower_test::mock::pair::<Request<()>, Response<String>>();
    let layer = HoldoffLayer::sharing(&holdoff)
        .short_circuit_with_body(|line: Bytes| format!("<{}>", String::from_utf8_lossy(&line).trim_end()));
    let response = end(layer.layer(inner).oneshot(get(PEER))).await.unwrap();
    assert_eq!(response.body(), "<`https://peer.example:443` was not contacted: manual, ask again in 60 s>");
}

#[tokio::test(start_paused = true)]
async fn by_option_a_refused_request_is_an_error_and_so_is_a_failed_one() {
    let (holdoff, _) = holdoff(policy(|_| ()));
    let (inner, mut host) = tower_test::mock::pair();
    let inner = inner.map_err(|error: BoxError| *error.downcast::<io::Error>().unwrap());
    let mut client = HoldoffLayer::sharing(&holdoff).short_circuit_as_error().layer(inner);

    exchange(&mut client, &mut host, PEER, answer(429, Some("7"))).await;
    let error = end(ask(&mut client, PEER).await).await.unwrap_err();
    nothing_sent(&mut host);
    assert!(error.is_short_circuited() && error.inner().is_none() && error.source().is_none());
    let not_until = error.not_until().unwrap();
    assert_eq!((not_until.reason, not_until.wait), (Reason::RateLimited, Duration::from_secs(7)));
    assert_eq!(error.short_circuit().unwrap().key(), &key(PEER));
    assert_eq!(error.to_string(), "`https://peer.example:443` was not contacted: rate_limited, ask again in 7 s");
    assert!(error.into_inner().is_none());

    let future = ask(&mut client, OTHER).await;
    sent(&mut host).send_error(io::Error::from(io::ErrorKind::ConnectionReset));
    let error = end(future).await.unwrap_err();
    assert!(!error.is_short_circuited() && error.not_until().is_none() && error.short_circuit().is_none());
    assert_eq!(error.to_string(), "the request failed");
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(error.inner().unwrap().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(error.into_inner().unwrap().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn after_the_deadline_one_probe_is_sent_and_everybody_else_is_answered() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("5"))).await;
    secs(5).await;
    let probe = ask(&mut client, PEER).await;
    let at_the_host = sent(&mut host);
    let told = refused(&mut client, &mut host, PEER).await;
    assert_eq!((told.not_until().state, told.retry_after()), (State::Probing, 1));

    at_the_host.send_response(answer(200, None));
    assert_eq!(end(probe).await.unwrap().status(), StatusCode::OK);
    assert_eq!(state(&holdoff, PEER), State::Clear);
    assert_eq!(holdoff.snapshot(&key(PEER)).unwrap().view.totals.probes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_limited_again_climbs_the_ladder() {
    let (mut client, mut host, _) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("2"))).await;
    for (wait, next) in [(2, 4), (4, 8), (8, 16)] {
        secs(wait).await;
        exchange(&mut client, &mut host, PEER, answer(429, Some("2"))).await;
        assert_eq!(refused(&mut client, &mut host, PEER).await.retry_after(), next);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_frees_its_place_after_the_floor() {
    let (holdoff, told) = holdoff(policy(|_| ()));
    let (inner, mut host) = tower_test::mock::pair();
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    exchange(&mut client, &mut host, PEER, answer(429, Some("5"))).await;
    secs(5).await;
    let probe = ask(&mut client, PEER).await;
    let _at_the_host = sent(&mut host);
    drop(probe);
    let result = (key(PEER).to_string(), Event::ProbeEnded(ProbeResult::Cancelled));
    assert!(told.lock().unwrap().contains(&result));
    assert_eq!(refused(&mut client, &mut host, PEER).await.retry_after(), 1);
    secs(1).await;
    exchange(&mut client, &mut host, PEER, answer(200, None)).await;
    assert_eq!(state(&holdoff, PEER), State::Clear);
}

#[tokio::test(start_paused = true)]
async fn after_clearing_requests_are_let_in_little_by_little_and_leaving_frees_a_place() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("5"))).await;
    secs(5).await;
    exchange(&mut client, &mut host, PEER, answer(200, None)).await;

    let first = ask(&mut client, PEER).await;
    let _at_the_host = sent(&mut host);
    let told = refused(&mut client, &mut host, PEER).await;
    assert_eq!((told.not_until().state, told.not_until().reason), (State::Clear, Reason::RateLimited));
    drop(first);
    // The place is free, and each success adds one.
    exchange(&mut client, &mut host, PEER, answer(200, None)).await;
    let two = [ask(&mut client, PEER).await, ask(&mut client, PEER).await];
    let _at_the_host = [sent(&mut host), sent(&mut host)];
    refused(&mut client, &mut host, PEER).await;
    drop(two);

    secs(10).await;
    let all: Vec<ResponseFuture<_, _, _, _>> = {
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(ask(&mut client, PEER).await);
        }
        all
    };
    for _ in &all {
        let _at_the_host = sent(&mut host);
    }
    assert!(!holdoff.snapshot(&key(PEER)).unwrap().view.ramping);
}

#[tokio::test(start_paused = true)]
async fn parallel_429s_are_one_step_and_a_late_success_ends_nothing() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    let futures = [ask(&mut client, PEER).await, ask(&mut client, PEER).await, ask(&mut client, PEER).await];
    let [first, second, third] = futures;
    sent(&mut host).send_response(answer(429, Some("30")));
    sent(&mut host).send_response(answer(429, Some("30")));
    sent(&mut host).send_response(answer(200, None));
    for future in [first, second, third] {
        end(future).await.unwrap();
    }
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert_eq!((shown.view.state, shown.view.rate_step, shown.view.totals.signals), (State::Cooling, 1, 2));
    assert_eq!(shown.last_error.as_deref(), Some("HTTP 429 from peer.example (retry_after=30s)"));
}

#[tokio::test(start_paused = true)]
async fn the_outcome_is_noted_at_the_head_and_not_before_the_future_is_polled() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    let future = ask(&mut client, PEER).await;
    sent(&mut host).send_response(answer(429, Some("30")));
    assert_eq!(state(&holdoff, PEER), State::Clear);
    secs(3).await;
    end(future).await.unwrap();
    let cooldown = holdoff.snapshot(&key(PEER)).unwrap().view.cooldown.unwrap();
    assert_eq!((cooldown.started, cooldown.deadline), (Instant::from_secs(1003), Instant::from_secs(1033)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_date_is_read_against_the_wall_clock() {
    let (mut client, mut host, _) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("Fri, 20 Nov 2026 10:00:40 GMT"))).await;
    assert_eq!(refused(&mut client, &mut host, PEER).await.retry_after(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_lengthened_by_the_word_that_the_clock_draws() {
    let holdoff = Holdoff::builder().clock(RuntimeClock::drawing(u64::MAX)).build();
    let (inner, mut host) = tower_test::mock::pair();
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    exchange(&mut client, &mut host, PEER, answer(429, Some("100"))).await;
    assert_eq!(refused(&mut client, &mut host, PEER).await.retry_after(), 110);
}

#[tokio::test(start_paused = true)]
async fn statuses_that_are_no_signal_cool_nothing() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    for status in [200, 204, 301, 404, 500, 501] {
        exchange(&mut client, &mut host, PEER, answer(status, Some("60"))).await;
        assert_eq!(state(&holdoff, PEER), State::Clear, "{status}");
    }
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert_eq!((shown.successes, shown.last_status, shown.last_error), (4, Some(501), None));
}

#[tokio::test(start_paused = true)]
async fn a_signal_of_an_ignored_method_cools_nothing_and_one_of_another_method_does() {
    let (mut client, mut host, holdoff) = client(policy(|policy| policy.signals.ignore_methods = vec![Method::POST]));
    for (method, expected) in [(Method::POST, State::Clear), (Method::GET, State::Cooling)] {
        let request = Request::builder().method(method).uri(PEER).body(()).unwrap();
        let future = start(&mut client, request).await;
        sent(&mut host).send_response(answer(429, Some("120")));
        assert_eq!(end(future).await.unwrap().status(), 429);
        assert_eq!(state(&holdoff, PEER), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_that_was_the_last_cools_by_a_jittered_hint_and_counts_as_a_success() {
    let (holdoff, told) = {
        let told = Told::default();
        let holdoff = Holdoff::builder()
            .policy(Policy { signals: SignalRules { proactive: true, ..SignalRules::default() }, ..Policy::default() })
            .unwrap()
            .clock(RuntimeClock::drawing(u64::MAX))
            .on_event({
                let told = Arc::clone(&told);
                move |key, event| told.lock().unwrap().push((key.to_string(), event.clone()))
            })
            .build();
        (holdoff, told)
    };
    let (inner, mut host) = tower_test::mock::pair();
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    let last = Response::builder().header("ratelimit", "\"d\";r=0;t=100").body(Vec::new()).unwrap();
    exchange(&mut client, &mut host, PEER, last).await;
    let [(_, Event::Started { reason: Reason::QuotaExhausted, length, .. })] = &told.lock().unwrap()[..] else {
        panic!("expected a cooldown")
    };
    assert!(*length > Duration::from_secs(109), "{length:?}");
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert!(shown.last_success.is_some() && shown.last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn errors_pass_as_they_are_and_open_the_breaker_where_there_is_one() {
    let (mut client, mut host, holdoff) = client(policy(breaker));
    for _ in 0..2 {
        let future = ask(&mut client, PEER).await;
        sent(&mut host).send_error("no route");
        assert_eq!(end(future).await.unwrap_err().to_string(), "no route");
    }
    let told = refused(&mut client, &mut host, PEER).await;
    assert_eq!((told.not_until().reason, told.retry_after()), (Reason::Failing, 5));
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert_eq!(shown.last_error.as_deref(), Some("no answer from peer.example (unreachable)"));
    assert_eq!(shown.view.last_failure.unwrap().1, Failure::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_503_without_a_hint_is_a_failure_and_a_success_ends_the_streak() {
    let (mut client, mut host, holdoff) = client(policy(breaker));
    for status in [503, 200, 502] {
        exchange(&mut client, &mut host, PEER, answer(status, None)).await;
        assert_eq!(state(&holdoff, PEER), State::Clear, "{status}");
    }
    exchange(&mut client, &mut host, PEER, answer(504, None)).await;
    assert_eq!(state(&holdoff, PEER), State::Cooling);
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert_eq!(shown.last_error.as_deref(), Some("HTTP 504 from peer.example"));
}

#[tokio::test(start_paused = true)]
async fn the_program_says_what_its_errors_mean() {
    let (holdoff, _) = holdoff(policy(breaker));
    let (inner, mut host) = tower_test::mock::pair();
    let layer = HoldoffLayer::sharing(&holdoff).classify_error(|error: &BoxError| match error.to_string().as_str() {
        "bad request body" => Outcome::Neutral,
        _ => Outcome::Failing(failure_of(&**error)),
    });
    let mut client = layer.layer(inner);
    for _ in 0..3 {
        let future = ask(&mut client, PEER).await;
        sent(&mut host).send_error("bad request body");
        end(future).await.unwrap_err();
    }
    assert_eq!(state(&holdoff, PEER), State::Clear);
    for _ in 0..2 {
        let future = ask(&mut client, PEER).await;
        sent(&mut host).send_error(io::Error::from(io::ErrorKind::TimedOut));
        end(future).await.unwrap_err();
    }
    assert_eq!(holdoff.snapshot(&key(PEER)).unwrap().view.last_failure.unwrap().1, Failure::Timeout);
    assert_eq!(state(&holdoff, PEER), State::Cooling);
}

#[tokio::test(start_paused = true)]
async fn a_cooling_host_does_not_block_another() {
    let (mut client, mut host, _) = client(policy(|_| ()));
    exchange(&mut client, &mut host, PEER, answer(429, Some("120"))).await;
    let ready = poll_ready_once(&mut client);
    assert!(ready.is_ready(), "a cooling host is nothing that `poll_ready` knows of");
    exchange(&mut client, &mut host, OTHER, answer(200, None)).await;
    // The same host over plain http is another one.
    exchange(&mut client, &mut host, "http://peer.example/", answer(200, None)).await;
    refused(&mut client, &mut host, PEER).await;
}

/// Polls readiness once, outside any task's context.
fn poll_ready_once(client: &mut HoldoffService<Inner>) -> Poll<Result<(), BoxError>> {
    client.poll_ready(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn readiness_and_its_errors_are_those_of_the_inner_service() {
    let (mut client, mut host, holdoff) = client(policy(breaker));
    host.allow(0);
    assert!(poll_ready_once(&mut client).is_pending());
    host.allow(1);
    assert!(poll_ready_once(&mut client).is_ready());
    // A refused request leaves the one permitted call to the next request.
    holdoff.freeze(&key(PEER), Duration::from_secs(60)).unwrap();
    assert_eq!(end(client.call(get(PEER))).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    exchange(&mut client, &mut host, OTHER, answer(200, None)).await;
    assert!(poll_ready_once(&mut client).is_pending());
    host.send_error("gone");
    match poll_ready_once(&mut client) {
        Poll::Ready(Err(error)) => assert_eq!(error.to_string(), "gone"),
        other => panic!("expected the error, found {other:?}"),
    }
    assert_eq!(holdoff.snapshot(&key(OTHER)).unwrap().view.totals.failures, 0, "that was no host's fault");
}

#[tokio::test(start_paused = true)]
async fn a_freeze_and_a_release_by_the_handle_count_at_once() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    let until = holdoff.now().saturating_add(Duration::from_secs(60));
    assert_eq!(holdoff.freeze(&key(PEER), Duration::from_secs(60)), Some(Freeze::Set { until }));
    assert_eq!(holdoff.wall_of(until), UnixTime::from_secs(WALL.as_secs() + 60));
    assert_eq!(refused(&mut client, &mut host, PEER).await.not_until().reason, Reason::Manual);
    assert!(holdoff.release(&key(PEER)));
    assert!(!holdoff.release(&key(PEER)) && !holdoff.release(&key(OTHER)));
    exchange(&mut client, &mut host, PEER, answer(200, None)).await;

    for uri in [PEER, OTHER] {
        holdoff.freeze(&key(uri), Duration::from_secs(60)).unwrap();
    }
    assert_eq!((holdoff.release_all(), holdoff.stats().keys, holdoff.snapshots().len()), (2, 2, 2));
    assert!(holdoff.snapshot(&key("https://unknown.example")).is_none());
}

#[tokio::test(start_paused = true)]
async fn mode_observe_forwards_and_counts_and_learns_nothing_from_what_it_would_have_refused() {
    let (mut client, mut host, holdoff) = client(policy(|policy| policy.mode = Mode::Observe));
    exchange(&mut client, &mut host, PEER, answer(429, Some("30"))).await;
    exchange(&mut client, &mut host, PEER, answer(429, Some("3000"))).await;
    exchange(&mut client, &mut host, PEER, answer(200, None)).await;
    let shown = holdoff.snapshot(&key(PEER)).unwrap();
    assert_eq!((shown.would_have, shown.short_circuited, shown.view.totals.signals), (2, 0, 1));
    assert_eq!(shown.view.cooldown.unwrap().deadline, Instant::from_secs(1030));
    // A freeze is enforced in every mode.
    holdoff.freeze(&key(OTHER), Duration::from_secs(60)).unwrap();
    refused(&mut client, &mut host, OTHER).await;
}

#[tokio::test(start_paused = true)]
async fn mode_off_neither_reads_nor_feeds() {
    let (mut client, mut host, holdoff) = client(policy(|policy| policy.mode = Mode::Off));
    for _ in 0..2 {
        exchange(&mut client, &mut host, PEER, answer(429, Some("30"))).await;
    }
    assert_eq!(holdoff.snapshot(&key(PEER)).unwrap().view.totals.signals, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_passes_untouched_and_is_counted() {
    let (mut client, mut host, holdoff) = client(policy(breaker));
    for response in [answer(429, Some("30")), answer(429, Some("30"))] {
        exchange(&mut client, &mut host, "/no-host", response).await;
    }
    let future = ask(&mut client, "/no-host").await;
    sent(&mut host).send_error("no route");
    assert_eq!(end(future).await.unwrap_err().to_string(), "no route");
    assert_eq!((holdoff.without_key(), holdoff.stats().keys), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn the_program_says_what_a_cooldown_is_held_against() {
    let (holdoff, _) = holdoff(policy(|_| ()));
    let (inner, mut host) = tower_test::mock::pair();
    let layer = HoldoffLayer::sharing(&holdoff).key_for(|request: &Request<()>| {
        let tenant = request.headers().get("x-tenant")?.to_str().ok()?;
        Key::parse(&format!("https://{tenant}.example")).ok()
    });
    let mut client = layer.layer(inner);
    let request = |tenant: &str| Request::get(PEER).header("x-tenant", tenant).body(()).unwrap();
    let future = start(&mut client, request("one")).await;
    sent(&mut host).send_response(answer(429, Some("30")));
    end(future).await.unwrap();
    let response = end(start(&mut client, request("one")).await).await.unwrap();
    assert_eq!(response.extensions().get::<ShortCircuit>().unwrap().key(), &key("https://one.example"));
    let _two = start(&mut client, request("two")).await;
    let _at_the_host = sent(&mut host);
    exchange(&mut client, &mut host, PEER, answer(429, Some("30"))).await;
    assert_eq!((holdoff.stats().keys, holdoff.without_key()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn clones_and_layers_with_one_handle_share_their_cooldowns_and_others_do_not() {
    let (mut client, mut host, holdoff) = client(policy(|_| ()));
    let mut twin = client.clone();
    exchange(&mut client, &mut host, PEER, answer(429, Some("30"))).await;
    refused(&mut twin, &mut host, PEER).await;

    let (inner, mut other_host) = tower_test::mock::pair();
    let layer = HoldoffLayer::sharing(&holdoff).clone();
    refused(&mut layer.layer(inner), &mut other_host, PEER).await;
    assert_eq!(layer.holdoff().snapshot(&key(PEER)).unwrap().short_circuited, 2);

    let (inner, mut other_host) = tower_test::mock::pair();
    let mut stranger = HoldoffLayer::new().layer(inner);
    exchange(&mut stranger, &mut other_host, PEER, answer(200, None)).await;
    assert_eq!(stranger.holdoff().stats().keys, 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_differ_from_host_to_host_and_a_bad_one_is_refused() {
    let holdoff = Holdoff::builder()
        .policy_for(|key| {
            let mode = if key.host() == "other.example" { Mode::Observe } else { Mode::Enforce };
            Arc::new(policy(|policy| policy.mode = mode))
        })
        .clock(RuntimeClock::drawing(0))
        .build();
    let (inner, mut host) = tower_test::mock::pair();
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    for uri in [PEER, OTHER] {
        exchange(&mut client, &mut host, uri, answer(429, Some("30"))).await;
    }
    refused(&mut client, &mut host, PEER).await;
    exchange(&mut client, &mut host, OTHER, answer(200, None)).await;

    let bad = policy(|policy| policy.cooldown.min_cooldown = Duration::ZERO);
    assert_eq!(Holdoff::builder().policy(bad).unwrap_err().key, "cooldown.min_cooldown");
}

#[tokio::test(start_paused = true)]
async fn a_table_full_of_live_cooldowns_forwards_new_hosts() {
    let holdoff = Holdoff::builder().max_keys(1).clock(RuntimeClock::drawing(0)).build();
    let (inner, mut host) = tower_test::mock::pair();
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    for uri in [PEER, OTHER, OTHER] {
        exchange(&mut client, &mut host, uri, answer(429, Some("30"))).await;
    }
    assert_eq!((holdoff.stats().keys, holdoff.stats().untracked), (1, 2));
    assert_eq!(holdoff.freeze(&key(OTHER), Duration::from_secs(5)), None);
}

#[test]
fn the_future_and_the_service_can_be_sent_to_another_thread() {
    fn is_send<T: Send + 'static>(_: &T) {}
    fn future_is_send<S: Service<Request<()>>>(_: &S)
    where
        S::Future: Future + Send + 'static,
    {
    }
    let (inner, _host) = tower_test::mock::pair::<Request<()>, Response<Body>>();
    let client = HoldoffLayer::new().layer(inner);
    is_send(&client);
    future_is_send(&client);
}

#[test]
fn the_service_fits_where_tower_and_its_users_put_services() {
    use tower::util::{BoxCloneService, BoxCloneSyncService, BoxService};

    fn is_shared<T: Clone + Send + Sync + Unpin + 'static>(_: &T) {}
    let (inner, _host) = tower_test::mock::pair::<Request<()>, Response<Body>>();
    let client = HoldoffLayer::new().layer(inner.clone());
    is_shared(&client);
    drop((BoxService::new(client.clone()), BoxCloneService::new(client.clone()), BoxCloneSyncService::new(client)));

    // The errors of most services of tower are boxed, which is not an `Error`; layers above want them boxed again.
    let told = HoldoffLayer::new().short_circuit_as_error().layer(inner).map_err(HoldoffError::into_boxed);
    is_shared(&told);
    drop(BoxCloneSyncService::<Request<()>, Response<Body>, BoxError>::new(told));
}

#[tokio::test(start_paused = true)]
async fn a_boxed_error_is_the_refusal_or_the_error_of_the_inner_service() {
    let (holdoff, _) = holdoff(policy(|_| ()));
    let (inner, mut host) = tower_test::mock::pair();
    let mut client =
        HoldoffLayer::sharing(&holdoff).short_circuit_as_error().layer(inner).map_err(HoldoffError::into_boxed);
    exchange(&mut client, &mut host, PEER, answer(429, Some("7"))).await;
    let error = end(ask(&mut client, PEER).await).await.unwrap_err();
    assert_eq!(error.downcast::<ShortCircuit>().unwrap().retry_after(), 7);
    let future = ask(&mut client, OTHER).await;
    sent(&mut host).send_error(io::Error::from(io::ErrorKind::ConnectionReset));
    assert!(end(future).await.unwrap_err().is::<io::Error>());
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_frees_the_place_of_the_probe() {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let (holdoff, _) = holdoff(policy(|_| ()));
    let status = Arc::new(Mutex::new(Some(429)));
    let inner = tower::service_fn(move |_: Request<()>| {
        let status = status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let status = status.expect("a service that panics in `call`");
        async move { Ok::<_, BoxError>(answer(status, Some("5"))) }
    });
    let mut client = HoldoffLayer::sharing(&holdoff).layer(inner);
    end(ask(&mut client, PEER).await).await.unwrap();
    secs(5).await;
    let panicked = catch_unwind(AssertUnwindSafe(|| drop(client.call(get(PEER)))));
    assert!(panicked.is_err());
    let shown = holdoff.snapshot(&key(PEER)).unwrap().view;
    assert_eq!((shown.state, shown.probe_out), (State::Probing, false));
}
