//! Mode observe changes nothing on the wire, and `on_cooldown = "close"` says nothing on it (SPEC 4.5, 5.6).

use std::time::Duration;

use crate::support::client::Answer;
use crate::support::http2::{self, Session};
use crate::support::origin::{Origin, answer, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::{until, within};

/// What a host that is busy for its first five requests, and a client of it, saw of twelve requests.
async fn twelve(config: &str) -> (Vec<String>, Vec<Answer>, Holdoff, String) {
    let origin = Origin::start(|seen| {
        if seen.number < 5 {
            let fields = [("Retry-After", "3600"), ("Date", "Fri, 20 Nov 2026 10:00:00 GMT"), ("X-Odd", "a,  b")];
            return answer(429, "Slow Down Please", &fields, "{\"wait\": true}");
        }
        ok("fine")
    })
    .await;
    let holdoff = Holdoff::start(&format!("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"here\"\n{config}")).await;
    let host = origin.address().to_string();
    let mut client = holdoff.client().await;
    let mut answers = Vec::new();
    for number in 0..12 {
        client
            .send(format!(
                "POST http://{host}/{number}?a=%2f HTTP/1.1\r\nHost: {host}\r\nX-Sign: abc\r\nContent-Length: 3\r\n\r\nxyz"
            ))
            .await;
        answers.push(client.answer("POST").await);
    }
    let seen = origin.seen().iter().map(|seen| seen.head.replace(&host, "HOST")).collect();
    (seen, answers, holdoff, host)
}

#[tokio::test]
async fn mode_observe_changes_no_byte() {
    let (off_seen, off_answers, ..) = twelve("[defaults]\nmode = \"off\"\n").await;
    let (seen, answers, holdoff, host) = twelve("[defaults]\nmode = \"observe\"\n").await;
    assert_eq!(seen, off_seen);
    let bytes = |answers: &[Answer]| -> Vec<(String, Vec<u8>)> {
        // The origin sends no date with what is well.
        let head = |head: &str| head.lines().filter(|line| !line.starts_with("date: S")).collect::<Vec<_>>().join("\n");
        answers.iter().map(|answer| (head(&answer.head), answer.body.clone())).collect()
    };
    assert_eq!(bytes(&answers), bytes(&off_answers));
    // The first started a cooldown; enforcing would have answered the eleven others.
    let would = format!("holdoff_would_have_short_circuited_total{{host=\"{host}\",reason=\"rate_limited\"}}");
    assert_eq!(holdoff.metric(&would).await, 11.0);
    let (enforced_seen, _, holdoff, host) = twelve("").await;
    assert_eq!(enforced_seen.len(), 1);
    let saved = format!("holdoff_short_circuited_total{{host=\"{host}\",reason=\"rate_limited\"}}");
    assert_eq!(holdoff.metric(&saved).await, 11.0, "the count of observe is what enforcing saves");
}

const CLOSE: &str = "[defaults.answer]\non_cooldown = \"close\"\n";

#[tokio::test]
async fn close_ends_the_connection_without_a_byte() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start(CLOSE).await;
    let (host, mut client) = (origin.address(), holdoff.client().await);
    let first = client.get(&origin.url()).await;
    assert_eq!(first.status, 429, "the host's own answer passes");
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.rest().await, b"");
    // A body that is on its way makes no difference, nor does one that waits for leave.
    for fields in ["Content-Length: 5\r\n\r\nabc", "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"] {
        let mut client = holdoff.client().await;
        client.send(format!("PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}")).await;
        assert_eq!(client.try_answer("PUT").await.map(|answer| answer.head), None);
    }
    let saved = format!("holdoff_short_circuited_total{{host=\"{host}\",reason=\"rate_limited\"}}");
    assert_eq!(holdoff.metric(&saved).await, 3.0);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn close_ends_the_connection_behind_the_answers_that_were_asked_for_before() {
    const LENGTH: usize = 8 << 20;
    let busy = Origin::start(|_| limited("60")).await;
    let body = "x".repeat(LENGTH);
    let fine = Origin::start(move |_| ok(&body)).await;
    let holdoff = Holdoff::start(CLOSE).await;
    assert_eq!(holdoff.get(&busy.url()).await.status, 429);
    let (one, two) = (fine.address(), busy.address());
    for rest in ["GET", "PUT"] {
        let mut client = holdoff.client().await;
        let length = if rest == "PUT" { "Content-Length: 100000\r\n" } else { "" };
        client
            .send(format!(
                "GET http://{one}/ HTTP/1.1\r\nHost: {one}\r\n\r\n\
                 {rest} http://{two}/ HTTP/1.1\r\nHost: {two}\r\n{length}\r\nxyz"
            ))
            .await;
        // The client takes its time; meanwhile the second request is read and not answered.
        until("the request", || fine.count() > 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, LENGTH), "{rest}");
        assert_eq!(client.rest().await, b"", "{rest}");
    }
    let in_flight = holdoff.metric(&format!("holdoff_requests_in_flight{{host=\"{two}\"}}")).await;
    assert_eq!(in_flight, 0.0);
    assert_eq!(busy.seen().len(), 1);
}

#[tokio::test]
async fn close_holds_for_connect() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start(CLOSE).await;
    let key = format!("https://{}", origin.address());
    let frozen = holdoff.ask_admin("PUT", &format!("/api/v1/cooldowns?key={key}"), "{\"for\":\"60s\"}").await;
    assert_eq!(frozen.status, 200, "{}", frozen.text());
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address())).await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn close_resets_the_stream_and_leaves_the_others_of_the_connection() {
    let origin = Origin::start(|seen| if seen.target() == "/busy" { limited("60") } else { ok("fine") }).await;
    let other = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start(CLOSE).await;
    let mut client = Session::connect(holdoff.proxy()).await;
    assert_eq!(client.get(&format!("{}/busy", origin.url())).await.status, 429);
    let refused = client.ask(http2::request("GET", &origin.url()), None).await.unwrap_err();
    assert!(refused.is_reset() && refused.is_remote(), "{refused:?}");
    assert_ne!(refused.reason(), Some(h2::Reason::REFUSED_STREAM), "that would ask for the request again");
    assert_eq!(client.get(&other.url()).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_hintless_429_can_mean_the_one_request() {
    let origin = Origin::start(|seen| {
        if seen.target() == "/named" { limited("60") } else { answer(429, "Too Many Requests", &[], "this one") }
    })
    .await;
    let holdoff = Holdoff::start("[defaults.signals]\nhintless = \"ignore\"\n").await;
    for _ in 0..3 {
        assert!(holdoff.get(&origin.url()).await.fields("holdoff").is_empty());
    }
    holdoff.get(&format!("{}/named", origin.url())).await;
    assert!(!holdoff.get(&origin.url()).await.fields("holdoff").is_empty());
    assert_eq!(origin.seen().len(), 4);
}

#[tokio::test]
async fn the_class_of_a_failure_chooses_the_ladder() {
    let (_held, refusing) = crate::support::refusing();
    let origin = Origin::start(|_| answer(503, "Service Unavailable", &[], "")).await;
    let holdoff = Holdoff::start("[defaults.breaker]\nfailure_threshold = 1\nclasses = true\n").await;
    let transient = format!("http://{}", refusing);
    assert_eq!(holdoff.get(&transient).await.status, 502);
    // 50 ms; a moment later one request tests it, and fails anew.
    within("a second test", async {
        while holdoff.get(&transient).await.status != 502 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let severe = format!("{}/", origin.url());
    assert_eq!(holdoff.get(&severe).await.status, 503);
    let refused = holdoff.get(&severe).await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, "1"));
    assert!(refused.field("holdoff").contains("reason=failing"), "{}", refused.head);
    let shown = holdoff.key(&format!("http://{}", origin.address())).await;
    assert_eq!((&shown["reason"], &shown["source"]), (&"failing".into(), &"breaker".into()), "{shown}");
}
