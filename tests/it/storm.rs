//! On real input: a peer that says "slow down", a storm of clients, the deadline, the probe, the ramp.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, Reply, limited, message, ok};
use crate::support::sidecar::Holdoff;
use crate::support::{DEADLINE, until, within};

/// Asks once from each of `count` clients at the same time.
async fn ask_all(holdoff: &Holdoff, url: &str, count: usize) -> Vec<Answer> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (address, url) = (holdoff.proxy(), url.to_owned());
        tasks.spawn(async move { Client::connect(address).await.get(&url).await });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_meets_silence_then_one_probe_then_the_ramp() {
    let gate = Arc::new(Notify::new());
    let (calm, hold) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let origin = Origin::start({
        let (gate, calm, hold) = (Arc::clone(&gate), Arc::clone(&calm), Arc::clone(&hold));
        move |_| {
            if !calm.load(Ordering::SeqCst) {
                limited("5")
            } else if hold.swap(false, Ordering::SeqCst) {
                Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "good"))
            } else {
                ok("good")
            }
        }
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let url = format!("{}/feed?page=1", origin.url());

    // The peer's own answer passes unchanged.
    let first = holdoff.get(&url).await;
    let learned = Instant::now();
    assert_eq!((first.status, first.text(), first.field("retry-after")), (429, "slow down\n", "5"));
    assert_eq!(first.fields("holdoff"), Vec::<&str>::new());
    assert_eq!(origin.count(), 1);

    // Until the deadline the peer sees none of the storm, and every answer says the true remaining time.
    calm.store(true, Ordering::SeqCst);
    let mut answered = 0;
    while learned.elapsed() < Duration::from_millis(4_400) {
        let before = learned.elapsed();
        let answers = ask_all(&holdoff, &url, 100).await;
        let after = learned.elapsed();
        // The head arrived at holdoff up to a few milliseconds before we saw it.
        let slack = Duration::from_millis(250);
        let latest = (Duration::from_secs(5) - before.min(Duration::from_secs(5))).as_secs_f64().ceil();
        let earliest = Duration::from_secs(5).saturating_sub(after + slack).as_secs_f64().ceil();
        for answer in answers {
            assert_eq!(answer.status, 429);
            let wait: f64 = answer.field("retry-after").parse().unwrap();
            assert!((earliest.max(1.0)..=latest.max(1.0)).contains(&wait), "{wait} s at {before:?} to {after:?}");
            assert!(answer.field("proxy-status").contains("proxy_internal_response"), "{}", answer.head);
            let mark = answer.field("holdoff");
            assert!(mark.starts_with("short-circuit; reason=rate_limited; until=\""), "{mark}");
            assert!(mark.ends_with(&format!("key=\"{}\"", origin.url())), "{mark}");
            assert_eq!(answer.field("cache-control"), "no-store");
            answered += 1;
        }
    }
    assert_eq!(origin.count(), 1, "the peer sees none of the storm");
    assert!(answered >= 100);

    // After it exactly one probe; everybody else is told to wait a second.
    tokio::time::sleep_until(learned + Duration::from_millis(5_050)).await;
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        let (address, url) = (holdoff.proxy(), url.clone());
        waiting.spawn(async move { Client::connect(address).await.get(&url).await });
    }
    for _ in 0..99 {
        let answer = within("a refusal", waiting.join_next()).await.unwrap().unwrap();
        assert_eq!((answer.status, answer.field("retry-after")), (429, "1"));
    }
    assert_eq!(origin.count(), 2, "exactly one probe");
    gate.notify_one();
    let probe = within("the probe", waiting.join_next()).await.unwrap().unwrap();
    assert_eq!((probe.status, probe.text()), (200, "good"));

    // Then the ramp: full rate within its ten seconds.
    let cleared = Instant::now();
    loop {
        let answers = ask_all(&holdoff, &url, 100).await;
        if answers.iter().all(|answer| answer.status == 200) {
            break;
        }
        assert!(answers.iter().all(|answer| answer.status == 200 || answer.field("retry-after") == "1"));
        assert!(cleared.elapsed() < Duration::from_secs(11), "full rate within the ramp");
    }
    let seen = holdoff.key(&origin.url()).await;
    assert_eq!(seen["state"], "clear");
    assert!(seen["totals"]["short_circuited"].as_u64().unwrap() >= answered, "{seen}");
    holdoff.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_in_flight_at_the_first_429_are_one_step() {
    let gate = Arc::new(Notify::new());
    let arrived = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start({
        let (gate, arrived) = (Arc::clone(&gate), Arc::clone(&arrived));
        move |_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            Reply::Gate(Arc::clone(&gate), message(429, "Too Many Requests", &[("Retry-After", "60")], ""))
        }
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (address, url) = (holdoff.proxy(), origin.url());
        tasks.spawn(async move { Client::connect(address).await.get(&format!("{url}/")).await });
    }
    until("a hundred requests at the peer", || arrived.load(Ordering::SeqCst) == 100).await;
    gate.notify_waiters();
    for answer in within("every answer", tasks.join_all()).await {
        assert_eq!((answer.status, answer.field("retry-after")), (429, "60"));
    }
    let seen = holdoff.key(&origin.url()).await;
    assert_eq!((&seen["state"], &seen["rate_step"]), (&"cooling".into(), &1.into()), "{seen}");
    assert_eq!((&seen["totals"]["signals"], &seen["totals"]["cooldowns"]), (&100.into(), &1.into()), "{seen}");
}

#[tokio::test]
async fn a_503_with_a_hint_cools_and_one_without_does_not() {
    let origin = Origin::start(|seen| match seen.target() {
        "/maintenance" => {
            crate::support::origin::answer(503, "Service Unavailable", &[("Retry-After", "30")], "back soon")
        }
        _ => crate::support::origin::answer(503, "Service Unavailable", &[], "broken"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&format!("{}/", origin.url())).await.text(), "broken");
    assert_eq!(holdoff.get(&format!("{}/maintenance", origin.url())).await.text(), "back soon");
    let answer = holdoff.get(&format!("{}/", origin.url())).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "30"));
    assert!(answer.field("proxy-status").contains("destination_unavailable"));
    let seen = holdoff.key(&origin.url()).await;
    assert_eq!((&seen["reason"], &seen["source"]), (&"unavailable".into(), &"retry_after_seconds".into()));
    assert!(seen["last_error"].as_str().unwrap().contains("HTTP 503 from 127.0.0.1"), "{seen}");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn the_error_line_names_host_hint_and_the_first_bytes_of_the_body() {
    let origin = Origin::start(|_| limited("120")).await;
    let holdoff = Holdoff::start("").await;
    holdoff.get(&format!("{}/", origin.url())).await;
    let line = format!("HTTP 429 from {} (retry_after=120s): slow down", origin.address());
    for _ in 0..400 {
        if holdoff.key(&origin.url()).await["last_error"].as_str().is_some_and(|found| found.starts_with(&line)) {
            let answer = holdoff.get(&format!("{}/", origin.url())).await;
            assert!(answer.json()["detail"].as_str().unwrap().contains("HTTP 429 from 127.0.0.1"), "{}", answer.text());
            return;
        }
    }
    panic!("expected `{line}…`, found {}", holdoff.key(&origin.url()).await);
}

#[tokio::test]
async fn hosts_do_not_share_a_cooldown() {
    let throttling = Origin::start(|_| limited("60")).await;
    let calm = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    assert_eq!(client.get(&format!("{}/", throttling.url())).await.status, 429);
    assert_eq!(client.get(&format!("{}/", calm.url())).await.text(), "fine");
    // Two names of one address are two keys.
    let named = format!("http://localhost:{}/", throttling.address().port());
    assert_eq!(client.get(&named).await.text(), "slow down\n");
    assert_eq!(throttling.count(), 2);
}

#[tokio::test]
async fn mode_observe_forwards_everything_and_counts_what_it_would_have_saved() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("[defaults]\nmode = \"observe\"\n").await;
    for _ in 0..5 {
        let answer = holdoff.get(&format!("{}/", origin.url())).await;
        assert_eq!((answer.status, answer.text()), (429, "slow down\n"));
        assert_eq!(answer.fields("holdoff"), Vec::<&str>::new());
    }
    assert_eq!(origin.count(), 5);
    let seen = holdoff.key(&origin.url()).await;
    assert_eq!(seen["totals"]["would_have"], 4);
    // What was forwarded against the cooldown feeds nothing.
    assert_eq!((&seen["totals"]["signals"], &seen["rate_step"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn a_breaker_opens_at_its_threshold_and_a_probe_closes_it() {
    let healthy = Arc::new(AtomicBool::new(false));
    let origin = Origin::start({
        let healthy = Arc::clone(&healthy);
        move |_| if healthy.load(Ordering::SeqCst) { ok("well") } else { Reply::Reset }
    })
    .await;
    let holdoff = Holdoff::start("[defaults.breaker]\nfailure_threshold = 3\ninitial = \"1s\"\n").await;
    let url = format!("{}/", origin.url());
    for _ in 0..3 {
        let answer = holdoff.get(&url).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
    let answer = holdoff.get(&url).await;
    assert_eq!(answer.status, 503);
    assert!(answer.field("holdoff").contains("reason=failing"));
    assert_eq!(origin.count(), 3);
    healthy.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(holdoff.get(&url).await.text(), "well");
    assert_eq!(holdoff.key(&origin.url()).await["state"], "clear");
}

#[tokio::test]
async fn an_operator_freezes_and_releases() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let url = format!("{}/", origin.url());
    let path = format!("/api/v1/cooldowns?key={}", origin.url());
    let frozen = holdoff.ask_admin("PUT", &path, r#"{"for": "10m", "reason": "maintenance"}"#).await;
    assert_eq!(frozen.status, 200, "{}", frozen.text());
    let answer = holdoff.get(&url).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, "600"));
    assert!(answer.field("holdoff").contains("reason=manual"));
    assert_eq!(holdoff.ask_admin("DELETE", &path, "").await.status, 200);
    assert_eq!(holdoff.get(&url).await.text(), "fine");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_probe_gives_the_slot_back() {
    let asked = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Bytes(message(429, "Too Many Requests", &[("Retry-After", "1")], "")),
        1 => Reply::Hang,
        _ => ok("well again"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let key = format!("http://{}", origin.address());
    let deadline = Instant::now() + Duration::from_millis(1050);
    tokio::time::sleep_until(deadline).await;
    let mut probing = holdoff.client().await;
    probing.send(format!("GET {}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.url())).await;
    until("the probe at the origin", || origin.count() == 2).await;
    assert_eq!(holdoff.key(&key).await["probe_out"], true);
    drop(probing);
    let start = Instant::now();
    while holdoff.key(&key).await["probe_out"] == true {
        assert!(start.elapsed() < DEADLINE, "expected the slot back long before the lease of 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The next probe starts `min_cooldown` after this one did.
    while holdoff.get(&origin.url()).await.status != 200 {
        assert!(start.elapsed() < DEADLINE, "expected the next probe");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(origin.count(), 3);
}
