//! HTTP/2 with clients and with upstreams: many streams on one connection that do not disturb each other, and connections
//! that come to their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore};

use crate::support::client::Client;
use crate::support::http2::{Order, Peer, Session, Stream, answer, request, reverse_to};
use crate::support::origin::{Origin, Reply, limited, message, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::{Authority, offering};
use crate::support::{until, within};

// With clients.

fn reverse(origin: &Origin) -> String {
    format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n", origin.url())
}

#[tokio::test]
async fn many_streams_at_once_on_one_connection_forward_and_reverse() {
    let gate = Arc::new(Notify::new());
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::start(move |seen| {
            let body = seen.target().to_owned();
            if seen.number < 60 { Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], &body)) } else { ok(&body) }
        })
        .await
    };
    let holdoff = Holdoff::start(&reverse(&origin)).await;
    for (address, base) in
        [(holdoff.proxy(), origin.url()), (holdoff.reverse(0), format!("http://{}", holdoff.reverse(0)))]
    {
        let mut session = Session::connect(address).await;
        let before = origin.count();
        let mut answers = Vec::new();
        for n in 0..60 {
            answers.push((n, session.begin(request("GET", &format!("{base}/{n}")), true).await.0));
        }
        until("every request at the origin", || origin.count() == before + 60).await;
        gate.notify_waiters();
        // In another order than they were asked for.
        for (n, response) in answers.into_iter().rev() {
            let answer = answer(response).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, format!("/{n}").as_str()));
            assert!(answer.field("via").is_some_and(|via| via.starts_with("1.1 ")), "{answer:?}");
            assert!(answer.field("date").is_some() && answer.error.is_none(), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_cooldown_on_a_stream_is_ours_marked_and_small() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let first = session.get(&origin.url()).await;
    assert_eq!((first.status, first.field("retry-after"), first.field("holdoff")), (429, Some("60"), None));
    for method in ["GET", "HEAD", "POST"] {
        let answer = session.ask(request(method, &origin.url()), None).await.unwrap();
        assert_eq!(answer.status, 429);
        assert!(answer.field("holdoff").is_some_and(|mark| mark.starts_with("short-circuit; reason=rate_limited")));
        assert!(matches!(answer.field("retry-after"), Some("60" | "59")), "{answer:?}");
        assert!(answer.field("proxy-status").is_some() && answer.field("cache-control") == Some("no-store"));
        for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"] {
            assert!(answer.field(name).is_none(), "{answer:?}");
        }
        assert_eq!(answer.body.is_empty(), method == "HEAD");
        assert!(answer.body.len() < 1024);
        let length = answer.body.len().to_string();
        assert!(method == "HEAD" || answer.field("content-length") == Some(length.as_str()), "{answer:?}");
    }
    assert_eq!(origin.count(), 1);
}

/// Uploads behind an answer of ours, more of them than the h2 crate remembers or forgives.
#[tokio::test]
async fn bodies_behind_answers_of_ours_do_not_disturb_other_streams() {
    let cold = Origin::start(|_| limited("60")).await;
    let warm = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    holdoff.get(&cold.url()).await;
    let mut session = Session::connect(holdoff.proxy()).await;
    // The last are too large to be read off.
    for (size, count) in [(3, 300), (20_000, 300), (400_000, 100)] {
        let body = Bytes::from(vec![b'x'; size]);
        let mut running = Vec::new();
        for _ in 0..count {
            let (response, mut send) = session.begin(request("POST", &cold.url()), false).await;
            // The answer may be there, and the stream reset, before the body is written.
            let _ = send.send_data(body.clone(), false);
            let _ = send.send_data(body.clone(), true);
            running.push((response, send));
        }
        for (response, _send) in running {
            let answer = answer(response).await.unwrap_or_else(|error| panic!("{size}: {error}"));
            assert_eq!(answer.status, 429, "{size}");
            assert!(answer.body.len() > 10);
        }
        assert_eq!(session.get(&warm.url()).await.text(), "fine", "{size}");
    }
    // One window's worth on another stream still fits.
    let body = vec![b'y'; 300_000];
    let answer = session.ask(request("POST", &warm.url()), Some(&body)).await.unwrap();
    assert_eq!((answer.status, warm.last().body.len()), (200, body.len()));
    assert_eq!(cold.count(), 1);
}

#[tokio::test]
async fn a_slow_reader_on_a_stream_holds_up_nobody_and_its_origin_is_held_up() {
    let size = 64 << 20;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap();
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let task = {
        let written = Arc::clone(&written);
        tokio::spawn(async move {
            let (mut stream, _) = origin.accept().await.unwrap();
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await.unwrap();
            let piece = vec![b'x'; 64 * 1024];
            while stream.write_all(&piece).await.is_ok() {
                written.fetch_add(piece.len(), Ordering::SeqCst);
            }
        })
    };
    let other = Origin::start(|_| ok(&"y".repeat(200_000))).await;
    let holdoff = Holdoff::start("").await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(64 * 1024).initial_connection_window_size(16 << 20);
    let mut session = Session::start(&builder, holdoff.proxy()).await;
    let (response, _send) = session.begin(request("GET", &format!("http://{address}/")), true).await;
    let mut slow = within("a head", response).await.unwrap().into_body();
    // Until nothing moves any more.
    let mut before = usize::MAX;
    within("the origin to block", async {
        while before != written.load(Ordering::SeqCst) {
            before = written.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    })
    .await;
    assert!(before < 16 << 20, "{before} bytes are kept somewhere");
    for _ in 0..3 {
        assert_eq!(session.get(&other.url()).await.body.len(), 200_000);
    }
    let piece = within("a piece", slow.data()).await.unwrap().unwrap();
    assert!(piece.iter().all(|byte| *byte == b'x'));
    task.abort();
}

#[tokio::test]
async fn uploads_that_an_origin_does_not_take_hold_up_no_other_stream() {
    let stuck = TcpSocket::new_v4().unwrap();
    stuck.set_recv_buffer_size(4096).unwrap();
    stuck.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let stuck = stuck.listen(64).unwrap();
    let address = stuck.local_addr().unwrap();
    let taken = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(stuck.accept().await.unwrap());
        }
    });
    let other = Origin::start(|_| ok("stored")).await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    // More than a megabyte among them that nobody takes.
    let mut uploads = Vec::new();
    for _ in 0..24 {
        let (response, mut send) = session.begin(request("POST", &format!("http://{address}/")), false).await;
        send.send_data(Bytes::from(vec![b'x'; 12 << 20]), false).unwrap();
        uploads.push((response, send));
    }
    // Until they have filled whatever they can.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let body = vec![b'y'; 100_000];
    let answer = session.ask(request("POST", &other.url()), Some(&body)).await.unwrap();
    assert_eq!((answer.text(), other.last().body.len()), ("stored", 100_000));
    taken.abort();
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_reset_after_body_idle() {
    let origin = Origin::start(|seen| ok(&"x".repeat(if seen.target() == "/small" { 10 } else { 2 << 20 }))).await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"1s\"\n").await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(16 * 1024);
    let mut session = Session::start(&builder, holdoff.proxy()).await;
    let (response, _send) = session.begin(request("GET", &origin.url()), true).await;
    let mut body = within("a head", response).await.unwrap().into_body();
    let end = within("a reset", async {
        loop {
            // Taken, but no room is made for more.
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("an answer that was not taken looked whole"),
            }
        }
    })
    .await;
    assert_eq!((end.is_reset(), end.is_remote()), (true, true), "{end}");
    assert_eq!(session.get(&format!("{}/small", origin.url())).await.body.len(), 10);
    assert!(holdoff.metric("holdoff_bounds_reached_total{bound=\"body_idle\"}").await >= 1.0);
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_and_a_busy_one_is_not() {
    let gate = Arc::new(Notify::new());
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::start(move |_| Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "late"))).await
    };
    let holdoff = Holdoff::start("[limits]\nkeepalive_timeout = \"1s\"\n").await;
    let mut idle = Session::connect(holdoff.proxy()).await;
    let mut busy = Session::connect(holdoff.proxy()).await;
    let (response, _send) = busy.begin(request("GET", &origin.url()), true).await;
    let ended = idle.is_ended().await;
    assert!(ended.is_ok(), "GOAWAY without an error: {ended:?}");
    gate.notify_one();
    assert_eq!(answer(response).await.unwrap().text(), "late");
    assert!(holdoff.metric("holdoff_bounds_reached_total{bound=\"keepalive_timeout\"}").await >= 1.0);
}

#[tokio::test]
async fn the_end_finishes_running_streams_and_takes_no_new_ones() {
    let gate = Arc::new(Notify::new());
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::start(move |_| Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "in time"))).await
    };
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let (response, _send) = session.begin(request("GET", &origin.url()), true).await;
    until("the request at the origin", || origin.count() == 1).await;
    let ending = tokio::spawn(holdoff.shutdown());
    // GOAWAY comes while the stream is running.
    within("GOAWAY", async {
        let mut sender = session.sender.clone();
        while let Ok(ready) = sender.ready().await {
            sender = ready;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gate.notify_one();
    let answer = answer(response).await.unwrap();
    assert_eq!((answer.text(), answer.error.is_none()), ("in time", true));
    within("the end", ending).await.unwrap();
    assert!(session.ended().await.is_ok());
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_broken_body_resets_its_stream_and_never_looks_whole() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec();
    let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec();
    let origin = Origin::start(move |seen| match seen.target() {
        "/length" => Reply::Close(half.clone()),
        "/chunks" => Reply::Close(chunks.clone()),
        _ => ok("fine"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    for path in ["/length", "/chunks"] {
        let answer = session.get(&format!("{}{path}", origin.url())).await;
        let error = answer.error.unwrap_or_else(|| panic!("{path} looked whole"));
        assert!(error.is_reset() && error.is_remote(), "{path}: {error}");
        assert_eq!(answer.body, b"half", "{path}: what came before passes");
    }
    assert_eq!(session.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn a_body_without_a_length_reaches_an_origin_whatever_the_method() {
    let origin = Origin::start(|seen| ok(&String::from_utf8_lossy(&seen.body))).await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST"] {
        let answer = session.ask(request(method, &origin.url()), Some(b"query")).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "query"), "{method}");
        let mut client = Client::connect(holdoff.proxy()).await;
        let url = origin.url();
        let head =
            format!("{method} {url}/ HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", origin.address());
        client.send(head + "5\r\nquery\r\n0\r\n\r\n").await;
        assert_eq!(client.answer(method).await.text(), "query", "{method} by HTTP/1.1");
    }
    // None is made up.
    session.get(&origin.url()).await;
    assert!(origin.last().field("transfer-encoding").is_none() && origin.last().field("content-length").is_none());
}

#[tokio::test]
async fn informational_answers_are_dropped_and_the_final_one_passes() {
    let origin = Origin::start(|_| {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
        Reply::Bytes([early, message(200, "OK", &[], "final")].concat())
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let answer = session.get(&origin.url()).await;
    assert_eq!((answer.status, answer.text(), answer.field("link")), (200, "final", None));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_the_origin() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("").await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let (response, mut send) = session.begin(request("GET", &origin.url()), true).await;
    until("the request at the origin", || origin.count() == 1).await;
    let open = "holdoff_upstream_connections{state=\"open\"}";
    assert_eq!(holdoff.metric(open).await, 1.0);
    send.send_reset(Reason::CANCEL);
    drop(response);
    within("the connection to the origin to end", async {
        while holdoff.metric(open).await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

// With upstreams.

struct Fixture {
    peer: Peer,
    holdoff: Holdoff,
    key: String,
}

impl Fixture {
    async fn new<F: Future<Output = ()> + Send + 'static>(
        upstream: &str,
        handler: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::with(h2::server::Builder::new(), upstream, handler).await
    }

    async fn with<F: Future<Output = ()> + Send + 'static>(
        builder: h2::server::Builder,
        upstream: &str,
        handler: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Self {
        let authority = Authority::new();
        let peer = Peer::start_with(authority.acceptor(&["localhost"]), builder, handler).await;
        let holdoff = Holdoff::start(&reverse_to(peer.address.port(), &authority, upstream)).await;
        let key = format!("https://localhost:{}", peer.address.port());
        Self { peer, holdoff, key }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> crate::support::client::Answer {
        ask(&self.holdoff, method, path, body).await
    }

    /// So many at once, each by a client of its own.
    async fn burst(&self, count: usize) -> Vec<crate::support::client::Answer> {
        let mut clients = Vec::new();
        for n in 0..count {
            clients.push(begin(&self.holdoff, "GET", &format!("/{n}"), "").await);
        }
        let mut answers = Vec::new();
        for mut client in clients {
            answers.push(client.answer("GET").await);
        }
        answers
    }
}

async fn begin(holdoff: &Holdoff, method: &str, path: &str, body: &str) -> Client {
    let mut client = Client::connect(holdoff.reverse(0)).await;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n{body}")).await;
    client
}

async fn ask(holdoff: &Holdoff, method: &str, path: &str, body: &str) -> crate::support::client::Answer {
    begin(holdoff, method, path, body).await.answer(method).await
}

#[tokio::test]
async fn a_burst_on_a_cold_pool_is_one_dial() {
    let all = Arc::new(Semaphore::new(0));
    let fixture = {
        let all = Arc::clone(&all);
        Fixture::new("", move |mut stream| {
            let all = Arc::clone(&all);
            async move {
                // All at once, or never.
                all.add_permits(1);
                let _ = all.acquire_many(50).await.map(|permits| permits.forget());
                all.add_permits(50);
                let path = stream.path().to_owned();
                stream.answer(200, &[], path);
            }
        })
        .await
    };
    for (n, answer) in fixture.burst(50).await.iter().enumerate() {
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}").as_str()));
    }
    assert_eq!(fixture.peer.connections(), 1);
    fixture.burst(20).await;
    assert_eq!((fixture.peer.connections(), fixture.peer.seen().len()), (1, 70));
}

#[tokio::test]
async fn slow_readers_of_a_shared_connection_do_not_hold_up_the_others() {
    let fixture = Fixture::new("", |mut stream| async move {
        if stream.path() == "/small" {
            return stream.answer(200, &[], "small");
        }
        let mut send = stream.head(200, &[], false);
        let _ = send.send_data(Bytes::from(vec![b'x'; 16 << 20]), true);
        let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
    })
    .await;
    let mut slow = Vec::new();
    for n in 0..24 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(fixture.holdoff.reverse(0)).await.unwrap();
        client.write_all(format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        slow.push(client);
    }
    until("every request at the peer", || fixture.peer.seen().len() == 24).await;
    // Until they have filled whatever they can.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(fixture.ask("GET", "/small", "").await.text(), "small");
    assert_eq!(fixture.peer.connections(), 1);
    drop(slow);
}

#[tokio::test]
async fn goaway_in_order_loses_no_request() {
    let fixture = Fixture::new("", |mut stream| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        stream.answer(200, &[], "fine");
    })
    .await;
    for round in 0..4 {
        let before = fixture.peer.seen().len();
        let (answers, ()) = tokio::join!(fixture.burst(40), async {
            until("some requests at the peer", || fixture.peer.seen().len() > before + 5).await;
            fixture.peer.order(Order::Retire);
        });
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200; 40], "round {round}");
    }
    assert!((2..=9).contains(&fixture.peer.connections()), "{}", fixture.peer.connections());
}

/// A request that the peer has looked at is never sent again.
#[tokio::test]
async fn goaway_at_once_and_a_dropped_connection_send_nothing_twice() {
    for order in [Order::GoAway(Reason::NO_ERROR), Order::GoAway(Reason::INTERNAL_ERROR), Order::Drop] {
        let fixture = Fixture::new("", |mut stream| async move {
            if stream.path() == "/stay" {
                let _ = stream.body().await;
                std::future::pending::<()>().await;
            }
            stream.answer(200, &[], "fine");
        })
        .await;
        let mut post = begin(&fixture.holdoff, "POST", "/stay", "pay").await;
        let mut get = begin(&fixture.holdoff, "GET", "/stay", "").await;
        until("both requests at the peer", || fixture.peer.seen().len() == 2).await;
        fixture.peer.order(order);
        for (client, method) in [(&mut post, "POST"), (&mut get, "GET")] {
            let answer = client.answer(method).await;
            assert_eq!(answer.status, 502, "{order:?} {method}");
            assert!(answer.field("holdoff").contains("stage=head"), "{}", answer.head);
        }
        // The half-dead connection is replaced.
        assert_eq!(fixture.ask("GET", "/", "").await.text(), "fine", "{order:?}");
        assert_eq!((fixture.peer.seen().len(), fixture.peer.connections()), (3, 2), "{order:?}");
    }
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_without_a_body_and_named_with_one() {
    let fixture = Fixture::new("", |mut stream| async move {
        match stream.number {
            0 | 1 | 3 => stream.respond.send_reset(Reason::REFUSED_STREAM),
            _ => stream.answer(200, &[], "fine"),
        }
    })
    .await;
    assert_eq!(fixture.ask("GET", "/", "").await.text(), "fine");
    assert_eq!(fixture.peer.seen().len(), 3);
    let answer = fixture.ask("POST", "/", "pay").await;
    assert_eq!(answer.status, 502);
    assert!(answer.field("holdoff").contains("fault=upstream"), "{}", answer.head);
    assert_eq!(fixture.peer.seen().len(), 4);
}

#[tokio::test]
async fn a_peer_that_refuses_for_ever_is_not_asked_for_ever() {
    let fixture = Fixture::new("", |mut stream| async move { stream.respond.send_reset(Reason::REFUSED_STREAM) }).await;
    assert_eq!(fixture.ask("GET", "/", "").await.status, 502);
    assert!((2..=5).contains(&fixture.peer.seen().len()), "{}", fixture.peer.seen().len());
}

#[tokio::test]
async fn enhance_your_calm_starts_a_cooldown_on_a_stream_and_on_a_connection() {
    for on_stream in [true, false] {
        let fixture = Fixture::new("", move |mut stream| async move {
            if on_stream {
                return stream.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            }
            std::future::pending::<()>().await;
        })
        .await;
        let mut client = begin(&fixture.holdoff, "GET", "/", "").await;
        until("the request at the peer", || fixture.peer.seen().len() == 1).await;
        if !on_stream {
            fixture.peer.order(Order::GoAway(Reason::ENHANCE_YOUR_CALM));
        }
        let answer = client.answer("GET").await;
        assert_eq!(answer.status, 503, "{}\n{}", answer.head, answer.text());
        assert!(answer.text().contains("ENHANCE_YOUR_CALM"), "{}", answer.text());
        let next = fixture.ask("GET", "/", "").await;
        assert!(next.field("holdoff").starts_with("short-circuit; reason=rate_limited"), "{}", next.head);
        assert_eq!(fixture.peer.seen().len(), 1, "on a stream: {on_stream}");
        let key = fixture.holdoff.key(&fixture.key).await;
        assert!(key.to_string().contains("ENHANCE_YOUR_CALM"), "{key}");
    }
}

#[tokio::test]
async fn a_peer_that_allows_one_stream_gets_one_at_a_time() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let busy = Arc::new(AtomicBool::new(false));
    let fixture = {
        let busy = Arc::clone(&busy);
        Fixture::with(builder, "", move |mut stream| {
            let busy = Arc::clone(&busy);
            async move {
                let status = if busy.swap(true, Ordering::SeqCst) { 500 } else { 200 };
                tokio::time::sleep(Duration::from_millis(3)).await;
                busy.store(false, Ordering::SeqCst);
                stream.answer(status, &[], "fine");
            }
        })
        .await
    };
    // The peer's word is known from then on.
    assert_eq!(fixture.ask("GET", "/", "").await.status, 200);
    let statuses: Vec<u16> = fixture.burst(20).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 20]);
}

#[tokio::test]
async fn a_wait_for_a_stream_is_not_held_against_the_peer() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    // The second keeps the only stream for longer than a head may take, and then for longer than anybody waits.
    let gate = Arc::new(Semaphore::new(0));
    let fixture = {
        let gate = Arc::clone(&gate);
        let waits = "[defaults.timeouts]\nhead = \"500ms\"\nconnect = \"1s\"\ntls = \"1s\"\n\
                     [defaults.breaker]\nfailure_threshold = 1";
        Fixture::with(builder, &format!("dns_timeout = \"500ms\"\n{waits}"), move |mut stream| {
            let gate = Arc::clone(&gate);
            async move {
                if stream.path() != "/long" {
                    return stream.answer(200, &[], "fine");
                }
                let mut body = stream.head(200, &[], false);
                gate.acquire().await.unwrap().forget();
                let _ = body.send_data(Bytes::from_static(b"end"), true);
            }
        })
        .await
    };
    // The peer's word is known from then on.
    assert_eq!(fixture.ask("GET", "/", "").await.status, 200);
    for is_freed in [true, false] {
        let before = fixture.peer.seen().len();
        let mut long = begin(&fixture.holdoff, "GET", "/long", "").await;
        until("the long one at the peer", || fixture.peer.seen().len() == before + 1).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(begin(&fixture.holdoff, "GET", "/", "").await);
        }
        if is_freed {
            tokio::time::sleep(Duration::from_secs(1)).await;
            gate.add_permits(1);
        }
        for client in &mut waiting {
            let answer = client.answer("GET").await;
            assert_eq!(answer.status, if is_freed { 200 } else { 503 }, "{}", answer.head);
            assert!(is_freed || answer.text().contains("no more streams"), "{}", answer.text());
        }
        if !is_freed {
            gate.add_permits(1);
        }
        assert_eq!(long.answer("GET").await.text(), "end");
        assert_eq!(fixture.ask("GET", "/", "").await.text(), "fine");
    }
    assert_eq!(fixture.peer.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_gives_no_answer_is_not_used_again() {
    let fixture = Fixture::new("[defaults.timeouts]\nhead = \"200ms\"", |mut stream| async move {
        if stream.path() == "/hang" {
            std::future::pending::<()>().await;
        }
        let mut body = stream.head(200, &[], false);
        if stream.path() == "/long" {
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        let _ = body.send_data(Bytes::from_static(b"fine"), true);
    })
    .await;
    let mut long = begin(&fixture.holdoff, "GET", "/long", "").await;
    until("the long one at the peer", || fixture.peer.seen().len() == 1).await;
    assert_eq!(fixture.ask("GET", "/hang", "").await.status, 504);
    assert_eq!(fixture.peer.connections(), 1);
    assert_eq!(fixture.ask("GET", "/", "").await.text(), "fine");
    assert_eq!(fixture.peer.connections(), 2);
    // What is under way goes on, and then the connection ends.
    assert_eq!(long.answer("GET").await.text(), "fine");
    until("the end of the old connection", || fixture.peer.open() == 1).await;
}

#[tokio::test]
async fn a_first_dial_that_fails_keeps_nobody_waiting() {
    let authority = Authority::new();
    let tls = offering(&authority.acceptor(&["localhost"]), &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        // The first connection ends during the handshake, when others are in line for it.
        let (first, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(first);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tls.accept(stream).await.unwrap()).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    send.send_data(Bytes::from_static(b"fine"), true).unwrap();
                }
            });
        }
    });
    let holdoff = Holdoff::start(&reverse_to(port, &authority, "")).await;
    let start = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(begin(&holdoff, "GET", "/", "").await);
    }
    let mut statuses = Vec::new();
    for mut client in clients {
        statuses.push(client.answer("GET").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 502]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    task.abort();
}

#[tokio::test]
async fn upgrades_go_over_http_1_1_and_all_does_when_http2_is_off() {
    let authority = Authority::new();
    let tls = offering(&authority.acceptor(&["localhost"]), &["h2", "http/1.1"]);
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let origin = Origin::start_tls(tls.clone(), move |seen| {
        if seen.field("upgrade").is_some() { Reply::Echo(switch.clone()) } else { ok("one") }
    })
    .await;
    let port = origin.address().port();
    let holdoff = Holdoff::start(&reverse_to(port, &authority, "")).await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 101);
    client.send("echo").await;
    assert_eq!(client.bytes(4).await, b"echo");
    // The origin would not understand the preface that `h2` agrees on.
    assert_ne!(ask(&holdoff, "GET", "/", "").await.status, 200);
    let holdoff = Holdoff::start(&reverse_to(port, &authority, "http2 = false")).await;
    assert_eq!(ask(&holdoff, "GET", "/", "").await.text(), "one");
}

#[tokio::test]
async fn a_shared_connection_ends_when_idle_and_is_renewed_when_old() {
    let fixture =
        Fixture::new("idle_timeout = \"300ms\"", |mut stream| async move { stream.answer(200, &[], "x") }).await;
    assert_eq!(fixture.ask("GET", "/", "").await.status, 200);
    until("the idle connection to end", || fixture.peer.open() == 0).await;
    assert_eq!(fixture.ask("GET", "/", "").await.status, 200);
    assert_eq!(fixture.peer.connections(), 2);

    let gate = Arc::new(Notify::new());
    let fixture = {
        let gate = Arc::clone(&gate);
        Fixture::new("max_lifetime = \"300ms\"", move |mut stream| {
            let gate = Arc::clone(&gate);
            async move {
                if stream.path() == "/long" {
                    gate.notified().await;
                }
                stream.answer(200, &[], "x");
            }
        })
        .await
    };
    let mut long = begin(&fixture.holdoff, "GET", "/long", "").await;
    until("the request at the peer", || fixture.peer.seen().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(fixture.ask("GET", "/", "").await.status, 200);
    assert_eq!(fixture.peer.connections(), 2);
    gate.notify_one();
    assert_eq!(long.answer("GET").await.text(), "x", "what was under way goes on");
    until("the old connection to end", || fixture.peer.open() == 1).await;
}

#[tokio::test]
async fn trailers_pass_from_end_to_end_both_ways() {
    let got = Arc::new(std::sync::Mutex::new(None));
    let fixture = {
        let got = Arc::clone(&got);
        Fixture::new("", move |mut stream| {
            let got = Arc::clone(&got);
            async move {
                let (body, end) = stream.body().await;
                let trailers = stream.request.body_mut().trailers().await.unwrap().unwrap_or_default();
                *got.lock().unwrap() = Some((body, end.is_ok(), trailers));
                let mut send = stream.head(200, &[], false);
                send.send_data(Bytes::from_static(b"down"), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("set-cookie", "a=1".parse().unwrap());
                send.send_trailers(trailers).unwrap();
            }
        })
        .await
    };
    let mut session = Session::connect(fixture.holdoff.reverse(0)).await;
    let mut asked = request("POST", &format!("http://{}/", fixture.holdoff.reverse(0)));
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    let (response, mut send) = session.begin(asked, false).await;
    send.send_data(Bytes::from_static(b"up"), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("authorization", "no".parse().unwrap());
    send.send_trailers(trailers).unwrap();
    let answer = answer(response).await.unwrap();
    assert_eq!((answer.text(), answer.field("te")), ("down", None));
    let trailers = answer.trailers.unwrap();
    assert_eq!((trailers.len(), trailers.get("grpc-status").map(|v| v.as_bytes())), (1, Some(&b"0"[..])));
    let (body, whole, trailers) = got.lock().unwrap().take().unwrap();
    assert_eq!((body.as_slice(), whole), (&b"up"[..], true));
    assert_eq!((trailers.len(), trailers.get("x-sum").map(|v| v.as_bytes())), (1, Some(&b"1"[..])));
}

#[tokio::test]
async fn a_body_that_a_peer_breaks_off_is_broken_for_the_client() {
    let fixture = Fixture::new("", |mut stream| async move {
        let mut send = stream.head(200, &[], false);
        send.send_data(Bytes::from_static(b"half"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        send.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let answer = fixture.ask("GET", "/", "").await;
    assert_eq!((answer.text(), answer.complete), ("half", false));
    let mut session = Session::connect(fixture.holdoff.reverse(0)).await;
    let answer = session.get(&format!("http://{}/", fixture.holdoff.reverse(0))).await;
    assert_eq!((answer.text(), answer.error.is_some()), ("half", true));
    assert_eq!(fixture.peer.connections(), 1, "a stream's end is not the connection's");
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_at_the_peer_and_no_other() {
    let reset = Arc::new(Notify::new());
    let fixture = {
        let reset = Arc::clone(&reset);
        Fixture::new("", move |mut stream| {
            let reset = Arc::clone(&reset);
            async move {
                if stream.path() == "/stay" {
                    let _ = std::future::poll_fn(|cx| stream.respond.poll_reset(cx)).await;
                    reset.notify_one();
                    return;
                }
                stream.answer(200, &[], "fine");
            }
        })
        .await
    };
    let leaves = begin(&fixture.holdoff, "GET", "/stay", "").await;
    until("the request at the peer", || fixture.peer.seen().len() == 1).await;
    drop(leaves);
    within("a reset at the peer", reset.notified()).await;
    assert_eq!(fixture.ask("GET", "/", "").await.text(), "fine");
    assert_eq!(fixture.peer.connections(), 1);
}

#[tokio::test]
async fn an_upload_to_a_peer_is_held_up_by_it_and_arrives_whole() {
    let gate = Arc::new(Notify::new());
    let fixture = {
        let gate = Arc::clone(&gate);
        Fixture::new("", move |mut stream| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                let (body, end) = stream.body().await;
                stream.answer(200, &[], format!("{} {}", body.len(), end.is_ok()));
            }
        })
        .await
    };
    let mut session = Session::connect(fixture.holdoff.reverse(0)).await;
    let (response, mut send) =
        session.begin(request("POST", &format!("http://{}/", fixture.holdoff.reverse(0))), false).await;
    let size = 4 << 20;
    send.send_data(Bytes::from(vec![b'x'; size]), true).unwrap();
    until("the request at the peer", || fixture.peer.seen().len() == 1).await;
    gate.notify_one();
    assert_eq!(answer(response).await.unwrap().text(), format!("{size} true"));
}
