//! What passes through unchanged: bytes, values and order of fields, and how connections are used.

use std::time::Duration;

use crate::support::origin::{Origin, Reply, answer, message, ok};
use crate::support::sidecar::Holdoff;

#[tokio::test]
async fn a_signed_request_arrives_as_it_was_signed() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let host = origin.address();
    client
        .send(format!(
            "POST {}/a%2Fb/../c;x?b=2&a=1&&q=%20 HTTP/1.1\r\nHost: {host}\r\nX-Peer-HMAC: 5f\r\nx-first: 1\r\n\
             X-Amz-Date: 20261120T000000Z\r\nx-second: 2\r\nX-Peer-HMAC: 60\r\nConnection: x-hop, close\r\nX-Hop: gone\r\n\
             Proxy-Authorization: Basic Zm9v\r\nKeep-Alive: 5\r\nContent-Length: 5\r\nAccept-Encoding: br\r\n\r\n\x00\x01\r\n\x02",
            origin.url()
        ))
        .await;
    let reply = client.answer("POST").await;
    assert_eq!((reply.status, reply.field("connection")), (200, "close"));
    let seen = origin.last();
    assert_eq!(seen.target(), "/a%2Fb/../c;x?b=2&a=1&&q=%20");
    assert_eq!(seen.body, b"\x00\x01\r\n\x02");
    assert_eq!(seen.fields("x-peer-hmac"), ["5f", "60"]);
    assert_eq!(seen.field("host"), Some(host.to_string().as_str()));
    for gone in ["x-hop", "proxy-authorization", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
    // Case and order of what passes are the client's.
    let names: Vec<&str> = seen.head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
    let kept: Vec<&str> = names.into_iter().filter(|n| n.to_lowercase().starts_with("x-")).collect();
    assert_eq!(kept, ["X-Peer-HMAC", "X-Peer-HMAC", "x-first", "X-Amz-Date", "x-second"]);
}

#[tokio::test]
async fn connections_are_reused_on_both_sides() {
    let origin = Origin::start(|seen| ok(&seen.number.to_string())).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for number in 0..20 {
        assert_eq!(client.get(&format!("{}/", origin.url())).await.text(), number.to_string());
    }
    assert!(origin.seen().iter().all(|seen| seen.connection == 0), "{} connections", origin.connections());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|seen| ok(seen.target())).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let one = |path: &str| format!("GET {}{path} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address());
    client.send(["/1", "/2", "/3"].map(one).concat()).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer("GET").await.text(), path);
    }
}

#[tokio::test]
async fn a_stream_arrives_piece_by_piece() {
    let pieces = vec![
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
            .to_vec(),
        b"6\r\nsecond\r\n0\r\n\r\n".to_vec(),
    ];
    let pause = Duration::from_millis(1500);
    let origin = Origin::start(move |_| Reply::Slow(pieces.clone(), pause)).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let start = std::time::Instant::now();
    client.send(format!("GET {}/events HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    let mut head = Vec::new();
    while !head.ends_with(b"5\r\nfirst\r\n") {
        head.extend(client.bytes(1).await);
    }
    assert!(start.elapsed() < Duration::from_millis(1000), "the first piece was held back for {:?}", start.elapsed());
    assert_eq!(client.bytes(16).await, b"6\r\nsecond\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_upgrade_passes_after_its_handshake_was_admitted() {
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello".to_vec();
    let origin = Origin::start(move |_| Reply::Echo(switching.clone())).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client
        .send(format!(
            "GET {}/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
            origin.url(),
            origin.address()
        ))
        .await;
    let reply = client.answer("GET").await;
    assert_eq!((reply.status, reply.field("upgrade")), (101, "websocket"));
    assert_eq!(client.bytes(5).await, b"hello");
    client.send("frame").await;
    assert_eq!(client.bytes(5).await, b"frame");
}

#[tokio::test]
async fn our_marks_cannot_be_spoofed_by_a_peer_or_a_client() {
    let origin = Origin::start(|seen| {
        let name = seen.field("via").unwrap().split(' ').nth(1).unwrap().to_owned();
        answer(
            200,
            "OK",
            &[
                ("Holdoff", "short-circuit; reason=rate_limited"),
                ("Proxy-Status", &format!("other; error=dns_error, {name}; error=proxy_internal_response, cdn")),
            ],
            "",
        )
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let host = origin.address();
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {host}\r\nHoldoff: short-circuit\r\n\r\n", origin.url())).await;
    let reply = client.answer("GET").await;
    assert_eq!(origin.last().field("holdoff"), None);
    assert!(reply.fields("holdoff").is_empty(), "{}", reply.head);
    let status = reply.fields("proxy-status").join(", ");
    assert_eq!(status, "other; error=dns_error, cdn");
}

#[tokio::test]
async fn our_marks_are_taken_off_requests_and_off_interim_answers_in_every_spelling() {
    const MARKS: &str = "hOLDOFF: short-circuit\r\nProxy-Status: cdn, EDGE-7; error=x\r\nPROXY-status: \"edge-7\"\r\n";
    let origin = Origin::start(|_| {
        let early = format!("HTTP/1.1 103 Early Hints\r\n{MARKS}Link: </a>\r\n\r\n");
        Reply::Bytes([early.into_bytes(), message(200, "OK", &[], "fine")].concat())
    })
    .await;
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n{MARKS}\r\n", origin.url(), origin.address())).await;
    let early = client.answer("GET").await;
    assert_eq!(
        (early.status, early.field("link"), early.field("proxy-status")),
        (103, "</a>", "cdn"),
        "{}",
        early.head
    );
    assert!(early.fields("holdoff").is_empty(), "{}", early.head);
    assert_eq!(client.answer("GET").await.text(), "fine");
    let seen = origin.last();
    assert_eq!((seen.field("holdoff"), seen.fields("proxy-status")), (None, vec!["cdn"]));
}

#[tokio::test]
async fn a_body_behind_a_short_circuit_is_never_read_as_the_next_request() {
    let origin =
        Origin::start(|seen| if seen.number == 0 { crate::support::origin::limited("60") } else { ok("no") }).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let (url, host) = (origin.url(), origin.address());
    assert_eq!(client.get(&format!("{url}/")).await.status, 429);
    let smuggled = format!("GET {url}/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // Small: drained, and the connection goes on with what follows.
    client
        .send(format!("POST {url}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()))
        .await;
    assert_eq!(client.answer("POST").await.status, 429);
    client
        .send(format!(
            "POST {url}/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
            smuggled.len()
        ))
        .await;
    assert_eq!(client.answer("POST").await.status, 429);
    assert_eq!(client.get(&format!("{url}/after")).await.status, 429);
    // Large: answered and closed.
    client.send(format!("POST {url}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n{smuggled}")).await;
    let reply = client.answer("POST").await;
    assert_eq!((reply.status, reply.field("connection")), (429, "close"));
    client.send(vec![b'x'; 300_000]).await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn interim_answers_pass_to_new_clients_and_never_to_old_ones() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n".to_vec();
    let origin = Origin::start(move |_| Reply::Bytes([hints.clone(), message(200, "OK", &[], "done")].concat())).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    let early = client.answer("GET").await;
    assert_eq!((early.status, early.field("link")), (103, "</a.css>; rel=preload"));
    assert_eq!(client.answer("GET").await.text(), "done");
    let mut old = holdoff.client().await;
    old.send(format!("GET {}/ HTTP/1.0\r\n\r\n", origin.url())).await;
    assert_eq!(old.answer("GET").await.text(), "done");
}
