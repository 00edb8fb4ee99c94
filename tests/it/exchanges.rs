//! The client's side of an exchange, byte by byte: framing, 1xx, Expect, upgrades, old clients, local answers behind
//! bodies, and the life of a connection between requests.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::origin::{Origin, Reply, answer, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::{DEADLINE, within};

const MOMENT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order_also_when_pipelined() {
    let origin = Origin::start(|seen| ok(seen.target())).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    let ask = |path: &str| format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let upload = format!("POST http://{host}/b HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc");
    client.send(format!("{}{upload}{}", ask("/a"), ask("/c"))).await;
    for expected in ["/a", "/b", "/c"] {
        assert_eq!(client.answer("GET").await.text(), expected);
    }
    client.send(ask("/d")).await;
    assert_eq!(client.answer("GET").await.text(), "/d");
    assert_eq!(origin.connections(), 1, "the upstream connection was used again");
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_both_ways() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client
        .send(format!(
            "POST http://{}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\
             Trailer: X-Sum\r\n\r\n3\r\nabc\r\n",
            host.address
        ))
        .await;
    let mut line = host.accept().await;
    let head = line.until("\r\n\r\n").await.to_lowercase();
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && head.contains("\r\nte: trailers\r\n"), "{head}");
    line.until("3\r\nabc\r\n").await;
    client.send("0\r\nX-Sum: 7\r\n\r\n").await;
    line.until("0\r\n").await;
    assert_eq!(line.until("\r\n\r\n").await.to_lowercase(), "x-sum: 7\r\n\r\n");
    line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n2\r\nhi\r\n").await;
    line.send("0\r\nX-End: 1\r\n\r\n").await;
    let mut raw = String::new();
    while !raw.ends_with("\r\n0\r\nx-end: 1\r\n\r\n") {
        raw.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
        assert!(raw.len() < 1000, "{raw}");
    }
}

#[tokio::test]
async fn a_stream_is_passed_on_piece_by_piece() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\n").await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.bytes(1).await);
    }
    for _ in 0..5 {
        line.send("x\n").await;
        assert_eq!(client.bytes(2).await, b"x\n");
    }
}

#[tokio::test]
async fn informational_answers_pass_before_the_final_one() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("[limits]\nmax_interim_responses = 2\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\nHoldoff: fake\r\n\r\n").await;
    let early = client.answer("GET").await;
    assert_eq!((early.status, early.field("link")), (103, "</a>"));
    assert!(early.fields("x-hop").is_empty() && early.fields("connection").is_empty(), "{}", early.head);
    assert!(early.fields("holdoff").is_empty() && early.fields("date").is_empty(), "{}", early.head);
    line.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </too-many>\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer("GET").await.status, 102);
    let last = client.answer("GET").await;
    assert_eq!((last.status, last.text()), (200, "ok"));
    assert_eq!(holdoff.metric("holdoff_bounds_reached_total{bound=\"max_interim_responses\"}").await, 1.0);
}

#[tokio::test]
async fn informational_answers_without_end_are_a_fault_of_the_upstream() {
    let requests = [
        ("1.1", "", "103 Early Hints"),
        ("1.0", "", "103 Early Hints"),
        ("1.1", "Content-Length: 2\r\nExpect: 100-continue\r\n", "100 Continue"),
    ];
    for (version, fields, interim) in requests {
        let host = Host::start().await;
        let holdoff = Holdoff::start("").await;
        let mut client = holdoff.client().await;
        client.send(format!("POST http://{}/ HTTP/{version}\r\nHost: {0}\r\n{fields}\r\n", host.address)).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        // Written until we close, which is what is to be seen.
        let flood = format!("HTTP/1.1 {interim}\r\n\r\n");
        let flooding = tokio::spawn(async move { while line.stream.write_all(flood.as_bytes()).await.is_ok() {} });
        let last = loop {
            let answer = client.answer("POST").await;
            if answer.status >= 200 {
                break answer;
            }
        };
        assert_eq!(last.status, 502, "{version} {interim}: {}", last.head);
        assert!(last.field("holdoff").contains("kind=upstream_protocol"), "{}", last.head);
        within("the end of the flood", flooding).await.unwrap();
    }
}

#[tokio::test]
async fn an_old_client_gets_no_informational_answer_no_chunks_and_no_second_request() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    let head = line.until("\r\n\r\n").await;
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && head.contains(&format!("ost: {}\r\n", host.address)), "{head}");
    assert!(head.contains("1.0 holdoff-"), "the version we received is in `Via`: {head}");
    line.send(
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    )
    .await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.text()), (200, "ok"), "read to the end of the connection");
    assert!(answer.fields("transfer-encoding").is_empty(), "{}", answer.head);
    assert_ne!(answer.fields("connection"), ["keep-alive"], "{}", answer.head);
}

#[tokio::test]
async fn the_client_is_asked_for_its_body_only_when_the_host_asks() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let upload = format!(
        "PUT http://{}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        host.address
    );
    client.send(&upload).await;
    let mut line = host.accept().await;
    assert!(line.until("\r\n\r\n").await.to_lowercase().contains("\r\nexpect: 100-continue\r\n"));
    line.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send("body").await;
    line.until("body").await;
    line.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer("PUT").await.status, 201, "one 100 and no second");
    // The same connection; this time the host wants no body.
    client.send(&upload).await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let refused = client.answer("PUT").await;
    assert_eq!((refused.status, refused.text(), refused.field("connection")), (403, "no", "close"));
    assert_eq!(client.rest().await, b"");
    line.ends().await;
    assert_eq!(line.buffer, b"", "no byte of the body went out");
}

#[tokio::test]
async fn a_host_that_does_not_know_the_expectation_gets_the_body_after_a_second() {
    let origin = Origin::start(|seen| ok(std::str::from_utf8(&seen.body).unwrap())).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    client
        .send(format!(
            "PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send("body").await;
    assert_eq!(client.answer("PUT").await.text(), "body");
}

#[tokio::test]
async fn a_cut_body_looks_cut() {
    let origin = Origin::start(|seen| match seen.target() {
        "/length" => Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec()),
        _ => Reply::Close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec()),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    for path in ["/length", "/chunked"] {
        let answer = holdoff.get(&format!("{}{path}", origin.url())).await;
        assert_eq!((answer.status, answer.text(), answer.complete), (200, "abc", false), "{path}");
    }
    // Without a length the end of the connection is the end of the body, so only a reset can tell.
    let mut stream = TcpStream::connect(holdoff.proxy()).await.unwrap();
    stream.write_all(format!("GET {}/chunked HTTP/1.0\r\n\r\n", origin.url()).as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let end = within("the end", stream.read_to_end(&mut all)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    drop(client);
    line.ends().await;
    let sample = format!("holdoff_requests_total{{action=\"cancelled\",host=\"{}\"}}", host.address);
    within("the request to be counted", async {
        while holdoff.metric(&sample).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_passes_and_early_bytes_wait_for_it() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client
        .send(format!(
            "GET http://{}/ws HTTP/1.1\r\nHost: {0}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
            host.address
        ))
        .await;
    let mut line = host.accept().await;
    let head = line.until("\r\n\r\n").await.to_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(line.is_silent(MOMENT).await, "nothing may pass before the 101");
    line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst").await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.field("upgrade")), (101, "websocket"));
    assert_eq!(client.bytes(5).await, b"first");
    line.until("early").await;
    client.send("up").await;
    line.until("up").await;
    client.finish().await;
    line.ends().await;
    drop(line);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_opens_nothing() {
    let origin = Origin::start(|_| {
        Reply::Bytes(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n".to_vec())
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let answer = holdoff.get(&format!("{}/", origin.url())).await;
    assert_eq!(answer.status, 502, "{}", answer.head);
}

#[tokio::test]
async fn a_short_circuit_reads_a_small_body_and_keeps_the_connection() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    assert_eq!(client.get(&format!("http://{host}/")).await.status, 429);
    let small = "x".repeat(10_000);
    for _ in 0..2 {
        client
            .send(format!(
                "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{small}",
                small.len()
            ))
            .await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, 429);
        assert!(answer.field("holdoff").starts_with("short-circuit"), "{}", answer.head);
        assert!(answer.fields("connection").is_empty(), "{}", answer.head);
    }
    // Too much to read behind an answer; yet the answer arrives, while the client still sends.
    let large = vec![b'x'; 8 << 20];
    client
        .send(format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", large.len()))
        .await;
    let answer = client.answer("POST").await;
    assert_eq!((answer.status, answer.field("connection")), (429, "close"));
    assert_eq!(origin.count(), 1);
}

/// wget and many a hand-written client read no answer before they have sent all of their upload.
#[tokio::test]
async fn a_refused_upload_may_go_on_until_it_ends_but_not_for_ever() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    client.get(&format!("http://{host}/")).await;
    let upload =
        |length: u64| format!("PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    let body = vec![b'x'; 16 << 20];
    client.send(upload(16 << 20)).await;
    client.send(&body).await;
    let answer = client.answer("PUT").await;
    assert_eq!((answer.status, answer.field("connection")), (429, "close"));
    let mut endless = within("a connection", TcpStream::connect(holdoff.proxy())).await.unwrap();
    endless.write_all(upload(u64::MAX >> 1).as_bytes()).await.unwrap();
    within("the end of the connection", async { while endless.write_all(&body[..4096]).await.is_ok() {} }).await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_short_circuit_comes_before_100_continue() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    client.get(&format!("http://{host}/")).await;
    client
        .send(format!(
            "PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    let answer = client.answer("PUT").await;
    assert_eq!((answer.status, answer.field("connection")), (429, "close"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn ambiguous_heads_are_refused_and_the_connection_closes() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let host = origin.address();
    let chunk = "Transfer-Encoding: chunked\r\n";
    for (line, fields) in [
        ("POST", format!("{chunk}Content-Length: 5\r\n")),
        ("POST", format!("Content-Length: 5\r\n{chunk}")),
        ("POST", format!("{chunk}{chunk}")),
        ("POST", "Transfer-Encoding: gzip, chunked\r\n".to_owned()),
        ("POST", "Transfer-Encoding: gzip\r\n".to_owned()),
        ("POST", "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned()),
        ("POST", "Content-Length: +5\r\n".to_owned()),
        ("GET", "Connection: close, content-length\r\n".to_owned()),
        ("GET", "Connection: Host\r\n".to_owned()),
        ("GET", format!("Host: {host}\r\n")),
        ("GET", "X-A: 1\n".to_owned()),
        ("GET", "X-A : 1\r\n".to_owned()),
        ("GET", "X-A: 1\r\n folded\r\n".to_owned()),
        ("GET", "X-A: a\0b\r\n".to_owned()),
        ("GET", "X-A: a\rb\r\n".to_owned()),
    ] {
        let mut client = holdoff.client().await;
        client.send(format!("{line} http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n0\r\n\r\n")).await;
        let answer = client.answer(line).await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{fields:?}");
        assert!(answer.field("holdoff").starts_with("error; kind=bad_request"), "{fields:?} {}", answer.head);
        assert_eq!(client.rest().await, b"", "{fields:?}");
    }
    for (target, fields) in
        [("http://u@a/", "Host: a\r\n"), ("http://a/", ""), ("a:80", "Host: a\r\n"), ("*", "Host: a\r\n")]
    {
        let mut client = holdoff.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\n{fields}\r\n")).await;
        assert_eq!(client.answer("GET").await.status, 400, "{target} {fields}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn heads_beyond_a_bound_get_an_answer_of_ours() {
    let holdoff =
        Holdoff::start("[limits]\nmax_header_bytes = \"16KiB\"\nmax_header_fields = 20\nheader_timeout = \"400ms\"\n")
            .await;
    let many: String = (0..30).map(|n| format!("X-{n}: 1\r\n")).collect();
    let long = "x".repeat(20_000);
    for (head, status) in [
        (format!("GET http://a/ HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (format!("GET http://a/ HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET http://a/{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        ("GET http://a/ HTTP/1.1\r\nHost:".to_owned(), 408),
    ] {
        let mut client = holdoff.client().await;
        client.send(&head).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.field("connection")), (status, "close"));
        assert!(answer.field("content-type").starts_with("application/problem+json"), "{}", answer.head);
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn an_idle_connection_lives_beyond_the_header_timeout_and_ends_at_its_own() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[limits]\nheader_timeout = \"200ms\"\nkeepalive_timeout = \"1s\"\n").await;
    let url = format!("{}/", origin.url());
    let mut client = holdoff.client().await;
    let mut fresh = holdoff.client().await;
    for _ in 0..3 {
        assert_eq!(client.get(&url).await.text(), "fine");
        // Longer than a head may take, also on a connection that has had no request at all.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(fresh.rest().await, b"");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn max_forwards_is_counted_down_and_ends_here_at_zero() {
    let origin = Origin::start(|_| ok("far")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for (method, left, far) in [("OPTIONS", 0, false), ("OPTIONS", 3, true), ("TRACE", 0, false), ("GET", 0, true)] {
        client
            .send(format!(
                "{method} http://{host} HTTP/1.1\r\nHost: {host}\r\nMax-Forwards: {left}\r\nCookie: secret\r\n\r\n"
            ))
            .await;
        let answer = client.answer(method).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text() == "far", far, "{method} {left}");
        assert!(!answer.text().contains("secret"));
    }
    let seen = origin.seen();
    assert_eq!((seen[0].line(), seen[0].field("max-forwards")), ("OPTIONS * HTTP/1.1", Some("2")));
    assert_eq!((seen[1].line(), seen[1].field("max-forwards")), ("GET / HTTP/1.1", Some("0")));
}

#[tokio::test]
async fn a_request_body_beyond_the_bound_is_refused_by_its_length_or_when_it_gets_there() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nmax_request_body = \"10B\"\n").await;
    let mut client = holdoff.client().await;
    client
        .send(format!("POST http://{}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 11\r\n\r\n01234567890", host.address))
        .await;
    assert_eq!(client.answer("POST").await.status, 413);
    client
        .send(format!("POST http://{}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n", host.address))
        .await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    client.send("8\r\n01234567\r\n8\r\n01234567\r\n").await;
    assert_eq!(client.answer("POST").await.status, 413);
}

#[tokio::test]
async fn proxy_credentials_are_checked_and_go_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("ann:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start(&format!("[listen]\naddress = [\"127.0.0.1:0\"]\nauth_file = {file:?}\n")).await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    let denied = client.get(&format!("http://{host}/")).await;
    assert_eq!(denied.status, 407);
    assert!(denied.field("proxy-authenticate").starts_with("Basic realm="), "{}", denied.head);
    // ann:word
    client
        .send(format!(
            "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic YW5uOndvcmQ=\r\nAuthorization: x\r\n\r\n"
        ))
        .await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    let seen = origin.last();
    assert_eq!((seen.field("proxy-authorization"), seen.field("authorization")), (None, Some("x")));
    client.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.answer("HEAD").await.status, 407);
}

#[tokio::test]
async fn other_clients_than_those_named_are_refused() {
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nclients = [\"192.0.2.0/24\"]\n").await;
    let mut client = holdoff.client().await;
    client.send("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.field("connection")), (403, "close"));
    assert!(answer.field("holdoff").contains("kind=client_denied"), "{}", answer.head);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn connections_and_tunnels_beyond_their_bounds_are_told_so() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("[limits]\nmax_connections = 2\nmax_tunnels = 1\n").await;
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address());
    let mut first = holdoff.client().await;
    first.send(&connect).await;
    assert_eq!(first.answer("CONNECT").await.status, 200);
    let mut second = holdoff.client().await;
    second.send(&connect).await;
    let refused = second.answer("GET").await;
    // It lingers, so that it has its place until the client closes as well.
    assert_eq!(refused.status, 503);
    assert!(refused.field("holdoff").contains("kind=overload"), "{}", refused.head);
    let mut third = holdoff.client().await;
    assert_eq!(third.answer("GET").await.status, 503);
    // A place that is given back is a place.
    drop((first, second));
    within("the tunnel's place", async {
        loop {
            // A refused CONNECT is the last request of its connection.
            let mut again = holdoff.client().await;
            again.try_send(&connect).await;
            if again.try_answer("CONNECT").await.is_some_and(|answer| answer.status == 200) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_reverse_listener_maps_paths_and_locations_and_opens_no_tunnels() {
    let origin = Origin::start(|seen| match seen.target() {
        "/v1/moved" => {
            let there = format!("http://{}/v1/new?q", seen.field("host").unwrap());
            answer(302, "Found", &[("Location", &there), ("Content-Location", "/v1/x")], "")
        }
        other => ok(&format!("{other} {}", seen.field("host").unwrap())),
    })
    .await;
    let host = origin.address();
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"http://{host}/v1\"\npath = \"/api\"\n"
    ))
    .await;
    let own = holdoff.reverse(0);
    let mut client = Client::connect(own).await;
    client.send(format!("GET /api/a%2Fb?c=%20 HTTP/1.1\r\nHost: {own}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.text(), format!("/v1/a%2Fb?c=%20 {host}"));
    client.send(format!("GET http://{own}/api HTTP/1.1\r\nHost: {own}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.text(), format!("/v1 {host}"));
    client.send(format!("GET /api/moved HTTP/1.1\r\nHost: node.local:{}\r\n\r\n", own.port())).await;
    let moved = client.answer("GET").await;
    assert_eq!(moved.field("location"), format!("http://node.local:{}/api/new?q", own.port()));
    assert_eq!(moved.field("content-location"), "/api/x");
    client.send(format!("GET /apix HTTP/1.1\r\nHost: {own}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.status, 404);
    client.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.status, 501);
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn a_large_body_passes_both_ways_unchanged() {
    let origin = Origin::start(|seen| {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len()).into_bytes();
        bytes.extend_from_slice(&seen.body);
        Reply::Bytes(bytes)
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client
        .send(format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len()))
        .await;
    client.send(&body).await;
    let answer = client.answer("POST").await;
    assert!(answer.complete && answer.body == body);
}

#[tokio::test]
async fn at_the_end_idle_connections_close_at_once_and_running_requests_are_finished() {
    let host = Host::start().await;
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[shutdown]\ndelay = \"0s\"\ngrace = \"10s\"\n").await;
    let (mut idle, mut fresh, mut busy) = (holdoff.client().await, holdoff.client().await, holdoff.client().await);
    assert_eq!(idle.get(&format!("{}/", origin.url())).await.text(), "fine");
    busy.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    let ending = tokio::spawn(holdoff.shutdown());
    assert_eq!(idle.rest().await, b"");
    assert_eq!(fresh.rest().await, b"");
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").await;
    let answer = busy.answer("GET").await;
    assert_eq!((answer.text(), answer.field("connection")), ("last", "close"));
    assert_eq!(busy.rest().await, b"");
    tokio::time::timeout(DEADLINE / 2, ending).await.expect("the end before the grace is over").unwrap();
}

#[tokio::test]
async fn half_a_head_is_kept_while_the_client_pauses() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for _ in 0..2 {
        client.send(format!("GET http://{host}/ HTTP/1.1\r\nHo")).await;
        // Longer than an idle connection stays with hyper.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        client.send(format!("st: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.text(), "fine");
    }
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_cut() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("[defaults.timeouts]\ntunnel_idle = \"400ms\"\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    let mut line = host.accept().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.send("still here").await;
        line.until("still here").await;
    }
    line.ends().await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(holdoff.metric("holdoff_bounds_reached_total{bound=\"tunnel_idle\"}").await, 1.0);
}

#[tokio::test]
async fn a_tunnel_closes_one_direction_at_a_time() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    let mut line = host.accept().await;
    client.send("question").await;
    client.finish().await;
    line.until("question").await;
    line.ends().await;
    line.send("answer").await;
    drop(line);
    assert_eq!(client.rest().await, b"answer");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"500ms\"\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", host.address)).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    let flood = async {
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        let piece = vec![b'x'; 1 << 16];
        while line.stream.write_all(&piece).await.is_ok() {}
    };
    within("the host to be let go", flood).await;
    drop(client);
}
