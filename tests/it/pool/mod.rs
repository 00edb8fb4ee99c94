//! The connection pool against peers that misbehave. Judged are what the client gets, what arrives at the peer and on which
//! connection, and that nothing stays behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};

use self::peer::{Line, Peer};
use crate::support::client::{Answer, Client};
use crate::support::sidecar::Holdoff;
use crate::support::{until, within};

mod peer;
mod schedules;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

/// Bytes that nobody asked for.
const SURPLUS: [&str; 7] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 2",
    "0\r\n\r\n",
    "\r\n",
    "x",
];

/// A sidecar with one connection for each host, so that who asks next is given the connection at hand.
async fn sidecar() -> Holdoff {
    Holdoff::start("[upstream]\nmax_connections_per_host = 1\n").await
}

/// Waits until no request is worked on and no connection is left.
async fn is_at_rest(holdoff: &Holdoff) {
    within("a pool at rest", async {
        loop {
            let page = holdoff.ask_admin("GET", "/metrics", "").await;
            let mut left = page.text().lines().filter(|line| {
                (line.starts_with("holdoff_requests_in_flight") || line.starts_with("holdoff_upstream_connections"))
                    && !line.ends_with(" 0")
            });
            if left.next().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Waits until that many connections are idle.
async fn are_idle(holdoff: &Holdoff, count: f64) {
    within("idle connections", async {
        while holdoff.metric("holdoff_upstream_connections{state=\"idle\"}").await != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Asks with a body that is sent whole.
async fn post(client: &mut Client, url: &str, body: &str) -> Answer {
    start_post(client, url, body.len(), body).await;
    client.answer("POST").await
}

async fn start_post(client: &mut Client, url: &str, length: usize, body: &str) {
    let host = url.split('/').nth(2).unwrap();
    client.send(format!("POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")).await;
}

/// Asks with either method.
async fn ask(holdoff: &Holdoff, method: &str, url: &str) -> Answer {
    let mut client = holdoff.client().await;
    match method {
        "GET" => client.get(url).await,
        _ => post(&mut client, url, "body").await,
    }
}

fn is_ours(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}\n{}", answer.head, answer.text());
    assert!(answer.field("holdoff").starts_with("error;"), "{}", answer.head);
}

/// Reads one request whole.
async fn request(line: &mut Line) -> Option<String> {
    let head = line.head().await?;
    line.body(&head).await?;
    Some(head)
}

#[tokio::test]
async fn surplus_bytes_in_one_piece_with_a_response_end_its_connection() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n";
    let empty = "HTTP/1.1 204 No Content\r\n\r\n";
    let holdoff = sidecar().await;
    for response in [OK, chunked, empty] {
        for surplus in SURPLUS {
            let (tell, mut told) = mpsc::unbounded_channel();
            let peer = Peer::start(move |mut line| {
                let tell = tell.clone();
                async move {
                    request(&mut line).await;
                    line.write(format!("{response}{surplus}")).await;
                    tell.send(line.rest().await).unwrap();
                }
            })
            .await;
            for turn in 1..=2 {
                let answer = holdoff.get(&peer.url()).await;
                let body = if response == empty { "" } else { "good" };
                assert!(answer.status / 100 == 2 && answer.text() == body && answer.complete, "{surplus}: {answer:?}");
                assert_eq!(within("the end", told.recv()).await.unwrap(), b"", "{response}{surplus}");
                assert_eq!(peer.connections(), turn);
            }
        }
    }
    is_at_rest(&holdoff).await;
}

/// A peer that answers, and does `disturb` to the first connection when told; then it says so.
async fn disturbed<F>(disturb: impl Fn(Line) -> F + Clone + Send + 'static) -> (Peer, Arc<Notify>, Arc<Semaphore>)
where
    F: Future<Output = Option<Line>> + Send + 'static,
{
    let (now, done) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (when, tell) = (Arc::clone(&now), Arc::clone(&done));
    let peer = Peer::start(move |mut line| {
        let (disturb, when, tell) = (disturb.clone(), Arc::clone(&when), Arc::clone(&tell));
        async move {
            if line.number == 0 {
                request(&mut line).await;
                line.write(OK).await;
                when.notified().await;
                let mut left = disturb(line).await;
                tell.add_permits(1);
                if let Some(line) = &mut left {
                    assert_eq!(line.rest().await, b"");
                    tell.add_permits(1);
                }
                return;
            }
            while request(&mut line).await.is_some() {
                line.write(OK).await;
            }
        }
    })
    .await;
    (peer, now, done)
}

#[tokio::test]
async fn surplus_bytes_on_an_idle_connection_are_never_the_next_response() {
    let holdoff = sidecar().await;
    for surplus in SURPLUS {
        for method in ["GET", "POST"] {
            let (peer, now, done) = disturbed(move |mut line: Line| async move {
                line.write(surplus).await;
                Some(line)
            })
            .await;
            assert_eq!(holdoff.get(&format!("{}/first", peer.url())).await.text(), "good");
            are_idle(&holdoff, 1.0).await;
            now.notify_one();
            within("the surplus", done.acquire()).await.unwrap().forget();
            let answer = ask(&holdoff, method, &format!("{}/second", peer.url())).await;
            assert_eq!((answer.status, answer.text()), (200, "good"), "{surplus}");
            assert_eq!((peer.connections(), peer.arrivals("/second")), (2, 1), "{surplus}");
            within("the end of the first connection, without another byte", done.acquire()).await.unwrap().forget();
            drop(peer);
            is_at_rest(&holdoff).await;
        }
    }
}

#[tokio::test]
async fn a_408_on_an_idle_connection_is_nobodys_answer() {
    let holdoff = sidecar().await;
    for method in ["GET", "POST"] {
        let (peer, now, done) = disturbed(|mut line: Line| async move {
            line.write("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            line.finish().await;
            None
        })
        .await;
        assert_eq!(holdoff.get(&format!("{}/first", peer.url())).await.text(), "good");
        are_idle(&holdoff, 1.0).await;
        now.notify_one();
        within("the 408", done.acquire()).await.unwrap().forget();
        let answer = ask(&holdoff, method, &format!("{}/second", peer.url())).await;
        assert_eq!((answer.status, answer.text()), (200, "good"));
        assert_eq!((peer.connections(), peer.arrivals("/second")), (2, 1));
        drop(peer);
        is_at_rest(&holdoff).await;
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_without_a_word() {
    let holdoff = sidecar().await;
    for method in ["GET", "POST"] {
        for reset in [false, true] {
            let (peer, now, done) = disturbed(move |line: Line| async move {
                if reset {
                    line.reset();
                }
                None
            })
            .await;
            assert_eq!(holdoff.get(&format!("{}/first", peer.url())).await.text(), "good");
            are_idle(&holdoff, 1.0).await;
            now.notify_one();
            within("the close", done.acquire()).await.unwrap().forget();
            let answer = ask(&holdoff, method, &format!("{}/second", peer.url())).await;
            assert_eq!((answer.status, answer.text()), (200, "good"), "{method}, reset: {reset}");
            assert_eq!((peer.connections(), peer.arrivals("/second")), (2, 1));
            drop(peer);
            is_at_rest(&holdoff).await;
        }
    }
}

/// How far a request gets on a connection that was used before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    /// Bytes come, and the peer closes without reading them.
    There,
    HeadRead,
    Read,
}

#[tokio::test]
async fn a_request_that_was_sent_is_never_sent_again() {
    let holdoff = sidecar().await;
    for method in ["GET", "POST"] {
        for gets in [Gets::There, Gets::HeadRead, Gets::Read] {
            for reset in [false, true] {
                let peer = Peer::start(move |mut line| async move {
                    if line.number == 0 {
                        request(&mut line).await;
                        line.write(OK).await;
                    }
                    assert!(line.pending().await);
                    match gets {
                        Gets::There => {}
                        Gets::HeadRead => drop(line.head().await),
                        Gets::Read => drop(request(&mut line).await),
                    }
                    if reset {
                        line.reset();
                    }
                })
                .await;
                // On a connection that was used before, and on a new one.
                assert_eq!(holdoff.get(&format!("{}/first", peer.url())).await.text(), "good");
                are_idle(&holdoff, 1.0).await;
                for (path, connections) in [("/old", 1), ("/new", 2)] {
                    is_ours(&ask(&holdoff, method, &format!("{}{path}", peer.url())).await, 502);
                    let arrivals = usize::from(gets != Gets::There);
                    assert_eq!(peer.arrivals(path), arrivals, "{method} {path} {gets:?}");
                    assert_eq!(peer.connections(), connections, "{method} {path} {gets:?}");
                }
                is_at_rest(&holdoff).await;
            }
        }
    }
}

/// Where a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaks {
    AfterAccept,
    InTheRequestHead,
    AfterTheRequestHead,
    InTheRequestBody,
    /// After so many bytes of the response; `whole`: they are a response.
    After {
        bytes: &'static str,
        whole: bool,
    },
}

#[tokio::test]
async fn a_break_at_any_stage_is_an_error_or_a_visible_cut_and_the_next_request_is_served() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    let after = |bytes, whole| Breaks::After { bytes, whole };
    // What the client is to see: a status, and whether the answer is whole.
    let stages = [
        (Breaks::AfterAccept, 502, true),
        (Breaks::InTheRequestHead, 502, true),
        (Breaks::AfterTheRequestHead, 502, true),
        (Breaks::InTheRequestBody, 502, true),
        (after("", false), 502, true),
        (after("HTTP/1.1 1", false), 502, true),
        (after("HTTP/1.1 103 Early Hints\r\n\r\n", false), 502, true),
        (after("HTTP/1.1 200 OK\r\nContent-Le", false), 502, true),
        (after("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r", false), 502, true),
        (after(head, false), 200, false),
        (after("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoo", false), 200, false),
        (after(OK, true), 200, true),
        (after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false), 200, false),
        (after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngo", false), 200, false),
        (after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n", false), 200, false),
        (after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n", false), 200, false),
        (after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n", true), 200, true),
    ];
    let holdoff = sidecar().await;
    for (stage, status, complete) in stages {
        for reset in [false, true] {
            let peer = Peer::start(move |mut line| async move {
                if line.number > 0 {
                    while request(&mut line).await.is_some() {
                        line.write(OK).await;
                    }
                    return;
                }
                match stage {
                    Breaks::AfterAccept => {}
                    Breaks::InTheRequestHead => drop(line.take(10).await),
                    Breaks::AfterTheRequestHead => drop(line.head().await),
                    Breaks::InTheRequestBody => {
                        line.head().await;
                        line.take(1_000).await;
                    }
                    Breaks::After { bytes, .. } => {
                        request(&mut line).await;
                        line.write(bytes).await;
                    }
                }
                if reset {
                    line.reset();
                }
            })
            .await;
            let mut client = holdoff.client().await;
            let url = format!("{}/broken", peer.url());
            let body = "b".repeat(200_000);
            start_post(&mut client, &url, body.len(), "").await;
            let _ = client.try_send(&body).await;
            let answer = loop {
                let answer = client.answer("POST").await;
                if answer.status != 103 {
                    break answer;
                }
            };
            assert_eq!((answer.status, answer.complete), (status, complete), "{stage:?}, reset: {reset}\n{answer:?}");
            if status == 502 {
                is_ours(&answer, 502);
            }
            assert!(peer.arrivals("/broken") <= 1 && peer.connections() == 1, "{stage:?}");
            if matches!(stage, Breaks::After { whole: true, .. }) {
                // The close may still be on its way to the pool.
                within("no connection", async {
                    while holdoff.metric("holdoff_upstream_connections{state=\"open\"}").await != 0.0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
                .await;
            }
            assert_eq!(holdoff.get(&format!("{}/next", peer.url())).await.text(), "good", "{stage:?}");
            drop(peer);
            is_at_rest(&holdoff).await;
        }
    }
}

#[tokio::test]
async fn a_body_until_the_close_that_is_reset_is_cut_also_behind_an_unread_request_body() {
    let peer = Peer::start(|mut line| async move {
        line.head().await;
        // The rest of the request is on its way, and is answered with a reset.
        line.write("HTTP/1.1 200 OK\r\n\r\nbegun").await;
        line.take(100_000).await;
        line.reset();
    })
    .await;
    let holdoff = sidecar().await;
    for _ in 0..10 {
        let mut client = holdoff.client().await;
        start_post(&mut client, &peer.url(), 10_000_000, &"b".repeat(100_000)).await;
        let sent = tokio::time::timeout(Duration::from_millis(20), async {
            while client.try_send("b".repeat(100_000)).await {}
        });
        let _ = sent.await;
        let answer = client.answer("POST").await;
        assert!(!answer.complete, "{answer:?}");
    }
    is_at_rest(&holdoff).await;
}

#[tokio::test]
async fn a_half_read_body_closes_its_connection() {
    let framings = ["Content-Length: 1000000", "Transfer-Encoding: chunked", "X-Until: close"];
    let holdoff = sidecar().await;
    for framing in framings {
        let ended = Arc::new(Semaphore::new(0));
        let tell = Arc::clone(&ended);
        let peer = Peer::start(move |mut line| {
            let tell = Arc::clone(&tell);
            async move {
                let head = request(&mut line).await.unwrap();
                if head.contains("/next") {
                    line.write(OK).await;
                    return drop(line.rest().await);
                }
                line.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\nf\r\nhalf and no more")).await;
                assert_eq!(line.rest().await, b"");
                tell.add_permits(1);
            }
        })
        .await;
        let mut client = holdoff.client().await;
        let host = peer.url();
        client.send(format!("GET {host}/half HTTP/1.1\r\nHost: {}\r\n\r\n", &host[7..])).await;
        client.bytes(30).await;
        drop(client);
        within("the end of the connection", ended.acquire()).await.unwrap().forget();
        assert_eq!(holdoff.get(&format!("{}/next", peer.url())).await.text(), "good");
        assert_eq!(peer.connections(), 2);
        drop(peer);
        is_at_rest(&holdoff).await;
    }
}

#[tokio::test]
async fn an_early_answer_that_closes_reaches_a_client_that_is_still_sending() {
    let answer = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch";
    let holdoff = sidecar().await;
    for (said, reset) in [(true, false), (false, false), (true, true)] {
        let peer = Peer::start(move |mut line| async move {
            line.head().await;
            line.take(1_000).await;
            let answer = if said { answer.to_owned() } else { answer.replace("Connection: close\r\n", "") };
            line.write(answer).await;
            if reset {
                line.reset();
            }
        })
        .await;
        for turn in 1..=3 {
            let mut client = holdoff.client().await;
            start_post(&mut client, &format!("{}/{turn}", peer.url()), 1_000_000, &"b".repeat(10_000)).await;
            let answer = client.answer("POST").await;
            assert_eq!((answer.status, answer.text(), answer.complete), (413, "much", true), "{said} {reset}");
            drop(client);
            assert_eq!((peer.connections(), peer.arrivals(&format!("/{turn}"))), (turn, 1));
            is_at_rest(&holdoff).await;
        }
    }
}

#[tokio::test]
async fn an_early_answer_keeps_its_connection_only_when_the_body_follows() {
    let holdoff = sidecar().await;
    for follows in [true, false] {
        let peer = Peer::start(move |mut line| async move {
            while let Some(head) = line.head().await {
                line.write(OK).await;
                if line.body(&head).await.is_none() {
                    return;
                }
            }
        })
        .await;
        let mut client = holdoff.client().await;
        start_post(&mut client, &format!("{}/first", peer.url()), 100_000, &"b".repeat(50_000)).await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.text(), answer.complete), ("good", true));
        if follows {
            client.send("b".repeat(50_000)).await;
            are_idle(&holdoff, 1.0).await;
        }
        assert_eq!(holdoff.get(&format!("{}/second", peer.url())).await.text(), "good");
        assert_eq!(peer.connections(), if follows { 1 } else { 2 });
        drop((peer, client));
        is_at_rest(&holdoff).await;
    }
}

#[tokio::test]
async fn surplus_behind_an_early_answer_ends_the_connection_too() {
    let peer = Peer::start(|mut line| async move {
        let head = line.head().await.unwrap();
        line.write(format!("{OK}{}", SURPLUS[0])).await;
        line.body(&head).await;
        assert_eq!(line.rest().await, b"");
    })
    .await;
    let holdoff = sidecar().await;
    for turn in 1..=3 {
        let mut client = holdoff.client().await;
        start_post(&mut client, &format!("{}/{turn}", peer.url()), 100_000, &"b".repeat(50_000)).await;
        assert_eq!(client.answer("POST").await.text(), "good");
        let _ = client.try_send("b".repeat(50_000)).await;
        is_at_rest(&holdoff).await;
        assert_eq!(peer.connections(), turn);
    }
}

#[tokio::test]
async fn pieces_of_one_byte_are_put_together() {
    let responses = [
        OK,
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\ng\r\n3;x=\"y\"\r\nood\r\n0\r\nX-Check: 1\r\n\r\n",
    ];
    let holdoff = sidecar().await;
    for response in responses {
        let peer = Peer::start(move |mut line| async move {
            while request(&mut line).await.is_some() {
                line.drip(response).await;
            }
        })
        .await;
        let mut client = holdoff.client().await;
        for method in ["GET", "POST", "GET"] {
            let mut answer = match method {
                "GET" => client.get(&peer.url()).await,
                _ => post(&mut client, &peer.url(), "body").await,
            };
            if answer.status == 103 {
                answer = client.answer(method).await;
            }
            assert_eq!((answer.status, answer.text(), answer.complete), (200, "good", true));
            are_idle(&holdoff, 1.0).await;
        }
        assert_eq!(peer.connections(), 1);
        drop((peer, client));
        is_at_rest(&holdoff).await;
    }
}

#[tokio::test]
async fn an_http_1_0_peer_is_asked_once_on_each_connection_whatever_it_says() {
    let responses = [
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.0 200 OK\r\n\r\ngood",
    ];
    let holdoff = sidecar().await;
    for (at, response) in responses.into_iter().enumerate() {
        let peer = Peer::start(move |mut line| async move {
            let head = request(&mut line).await.unwrap();
            assert!(head.contains(" HTTP/1.1\r\n"), "{head}");
            line.write(response).await;
            if at == 2 {
                line.finish().await;
            }
            assert_eq!(line.rest().await, b"");
        })
        .await;
        for turn in 1..=3 {
            let answer = ask(&holdoff, ["GET", "POST", "GET"][turn - 1], &format!("{}/{turn}", peer.url())).await;
            assert_eq!((answer.status, answer.text(), answer.complete), (200, "good", true));
            is_at_rest(&holdoff).await;
            assert_eq!((peer.connections(), peer.arrivals(&format!("/{turn}"))), (turn, 1));
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_behind_connection_close_whatever_follows() {
    let responses = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: x, CLOSE\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    ];
    let holdoff = sidecar().await;
    for response in responses {
        for more in ["", SURPLUS[0], SURPLUS[6]] {
            // The peer itself keeps the connection open.
            let peer = Peer::start(move |mut line| async move {
                request(&mut line).await;
                line.write(format!("{response}{more}")).await;
                assert_eq!(line.rest().await, b"");
            })
            .await;
            for turn in 1..=2 {
                let answer = holdoff.get(&peer.url()).await;
                assert_eq!((answer.status, answer.text(), answer.complete), (200, "good", true));
                assert_eq!(peer.connections(), turn);
                is_at_rest(&holdoff).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_connection_gets_the_next_however_the_last_one_ended() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let peer = Peer::start(move |mut line| {
        let count = Arc::clone(&count);
        async move {
            while request(&mut line).await.is_some() {
                // Each way of ending that is known before the next request can be sent.
                match count.fetch_add(1, Ordering::SeqCst) % 5 {
                    0 => drop(line.write(format!("{OK}{}", SURPLUS[0])).await),
                    1 => drop(line.write(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await),
                    2 => drop(line.write(OK.replace("1.1", "1.0")).await),
                    3 => {
                        line.write("HTTP/1.1 200 OK\r\n\r\ngood").await;
                        return;
                    }
                    _ => {
                        line.write(OK).await;
                        continue;
                    }
                }
                assert_eq!(line.rest().await, b"");
            }
        }
    })
    .await;
    let holdoff = Arc::new(sidecar().await);
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..60 {
        let (holdoff, url) = (Arc::clone(&holdoff), format!("{}/{n}", peer.url()));
        asking.spawn(async move { holdoff.get(&url).await });
    }
    for answer in asking.join_all().await {
        assert_eq!((answer.status, answer.text(), answer.complete), (200, "good", true));
    }
    assert!((0..60).all(|n| peer.arrivals(&format!("/{n}")) == 1));
    assert_eq!(served.load(Ordering::SeqCst), 60);
    drop(peer);
    until("nobody else", || Arc::strong_count(&holdoff) == 1).await;
    is_at_rest(&holdoff).await;
}
