//! HTTP/2, frame by frame: malformed messages, CONNECT, and what a client may not make us do for nothing (RFC 9113).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::http2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, HEADERS, PING, Peer, RST_STREAM, Raw, RawPeer, SETTINGS,
    Session, block, frame, request, reverse_to,
};
use crate::support::origin::{Origin, Reply, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::within;

type Fields<'a> = [(&'a str, &'a str)];

/// A head with these fields, and a body if there is one.
fn message(stream: u32, fields: &Fields<'_>, body: Option<&str>) -> Vec<u8> {
    let ends = if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, END_HEADERS | ends, stream, &block(fields));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, stream, body.as_bytes()));
    }
    bytes
}

/// A good head for `authority`, and more fields.
fn head<'a>(method: &'a str, authority: &'a str, more: &Fields<'a>) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":authority", authority), (":path", "/")];
    fields.extend_from_slice(more);
    fields
}

async fn fate(address: SocketAddr, fields: &Fields<'_>, body: Option<&str>) -> Fate {
    let mut raw = Raw::connect(address).await;
    raw.send(&message(1, fields, body)).await;
    raw.fate(1).await
}

fn is_refusal(fate: Fate) -> bool {
    matches!(fate, Fate::Answered(400 | 431 | 501) | Fate::Reset(_) | Fate::GoAway(_))
}

/// Refused, and nothing of it at the origin; the next client is served.
async fn is_refused(holdoff: &Holdoff, origin: &Origin, fields: &Fields<'_>, body: Option<&str>) {
    let before = origin.count();
    let fate = fate(holdoff.proxy(), fields, body).await;
    assert!(is_refusal(fate), "{fate:?} for {fields:?}");
    let answer = Session::connect(holdoff.proxy()).await.get(&origin.url()).await;
    assert_eq!((answer.status, answer.text()), (200, "fine"), "{fields:?}");
    assert_eq!(origin.count(), before + 1, "{fields:?}");
}

async fn fixture() -> (Origin, Holdoff, String) {
    let origin = Origin::start(|_| ok("fine")).await;
    let authority = origin.address().to_string();
    (origin, Holdoff::start("").await, authority)
}

#[tokio::test]
async fn rfc9113_8_1_1_content_length_of_a_request_that_disagrees() {
    let (origin, holdoff, authority) = fixture().await;
    for (length, body) in
        [("5", Some("abc")), ("2", Some("abcdef")), ("5", None), ("x", Some("a")), ("+3", Some("abc"))]
    {
        is_refused(&holdoff, &origin, &head("POST", &authority, &[("content-length", length)]), body).await;
    }
    for lengths in [["3", "4"], ["3", "3"]] {
        let fields = head("POST", &authority, &lengths.map(|length| ("content-length", length)));
        is_refused(&holdoff, &origin, &fields, Some("abc")).await;
    }
    let good = head("POST", &authority, &[("content-length", "3")]);
    assert_eq!(fate(holdoff.proxy(), &good, Some("abc")).await, Fate::Answered(200));
    assert_eq!(origin.last().body, b"abc");
}

/// What a client of HTTP/1.1 gets from a peer that answers with these frames: the status, the body, whether it is whole.
async fn through(script: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> (u16, String, bool) {
    let authority = Authority::new();
    let peer = RawPeer::start(authority.acceptor(&["localhost"]), script).await;
    let holdoff = Holdoff::start(&reverse_to(peer.address.port(), &authority, "")).await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", holdoff.reverse(0))).await;
    let answer = client.answer("GET").await;
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned(), answer.complete)
}

#[tokio::test]
async fn rfc9113_8_1_1_content_length_of_a_response_that_disagrees() {
    for (length, body) in [("5", "abc"), ("2", "abcdef")] {
        let (status, _, complete) = through(move |stream| {
            let fields = [(":status", "200"), ("content-length", length)];
            message(stream, &fields, Some(body))
        })
        .await;
        assert!(status == 502 || !complete, "{length} for {body}: {status}");
    }
    let good = |stream| message(stream, &[(":status", "200"), ("content-length", "3")], Some("abc"));
    assert_eq!(through(good).await, (200, "abc".to_owned(), true));
}

#[tokio::test]
async fn rfc9113_8_2_1_bad_names_and_values_in_a_request() {
    let (origin, holdoff, authority) = fixture().await;
    for field in [
        ("X-Upper", "1"),
        ("x y", "1"),
        ("x:y", "1"),
        ("", "1"),
        ("x\r\ny", "1"),
        ("x-é", "1"),
        ("x-a", "1\r\nx-b: 2"),
        ("x-a", "1\nx-b: 2"),
        ("x-a", "1\rx-b: 2"),
        ("x-a", "1\0"),
        ("x-a", " 1"),
        ("x-a", "1\t"),
    ] {
        is_refused(&holdoff, &origin, &head("GET", &authority, &[field]), None).await;
    }
    for path in ["/a\r\nx-b: 2", "/a b", "/a\0", "/a HTTP/1.1\r\nx: y"] {
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", authority.as_str()), (":path", path)];
        is_refused(&holdoff, &origin, &fields, None).await;
    }
    for method in ["GET /x", "GE T", "G\r\nET", ""] {
        is_refused(&holdoff, &origin, &head(method, &authority, &[]), None).await;
    }
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| !seen.head.to_lowercase().contains("x-b")), "{seen:?}");
}

#[tokio::test]
async fn rfc9113_8_2_1_bad_names_and_values_in_a_response() {
    for field in [("X-Upper", "1"), ("x y", "1"), ("x-a", "1\r\nx-b: 2"), ("x-a", "1\0"), (":path ", "/"), ("", "1")] {
        let fields = [(":status", "200"), field];
        let (status, body, _) = through(move |stream| message(stream, &fields, Some("abc"))).await;
        assert_eq!(status, 502, "{field:?}: {body}");
    }
    let (status, ..) = through(|stream| message(stream, &[("x-a", "1")], Some("abc"))).await;
    assert_eq!(status, 502, "without a status");
}

#[tokio::test]
async fn rfc9113_8_2_2_connection_specific_fields() {
    let (origin, holdoff, authority) = fixture().await;
    for field in [
        ("connection", "close"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
    ] {
        is_refused(&holdoff, &origin, &head("POST", &authority, &[field]), Some("abc")).await;
    }
    let fields = head("GET", &authority, &[("te", "trailers")]);
    assert_eq!(fate(holdoff.proxy(), &fields, None).await, Fate::Answered(200));
    assert_eq!((origin.last().field("te"), origin.last().field("connection")), (Some("trailers"), Some("TE")));
    for field in [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c")] {
        let fields = [(":status", "200"), field];
        let (status, body, _) = through(move |stream| message(stream, &fields, Some("abc"))).await;
        assert_eq!(status, 502, "{field:?}: {body}");
    }
}

#[tokio::test]
async fn rfc9113_8_2_3_cookie_crumbs_are_joined_for_http_1_1() {
    let (origin, holdoff, authority) = fixture().await;
    let crumbs =
        head("GET", &authority, &[("cookie", "a=1"), ("x-between", "1"), ("cookie", "b=2"), ("cookie", "c=3")]);
    assert_eq!(fate(holdoff.proxy(), &crumbs, None).await, Fate::Answered(200));
    assert_eq!(origin.last().field("cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn rfc9113_8_3_1_pseudo_header_fields() {
    let (origin, holdoff, authority) = fixture().await;
    let good: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":authority", authority.as_str()), (":path", "/")];
    for without in [0, 1, 2, 3] {
        let fields: Vec<_> =
            good.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, field)| *field).collect();
        is_refused(&holdoff, &origin, &fields, None).await;
    }
    for twice in good {
        is_refused(&holdoff, &origin, &[&good[..], &[twice]].concat(), None).await;
    }
    for odd in [(":status", "200"), (":unknown", "1"), (":protocol", "websocket"), (":", "1")] {
        is_refused(&holdoff, &origin, &[&good[..], &[odd]].concat(), None).await;
    }
    // Behind a regular field.
    is_refused(&holdoff, &origin, &[&good[..3], &[("x-a", "1"), good[3]]].concat(), None).await;
    for (at, value) in [
        (3, ""),
        (3, "*"),
        (3, "x"),
        (3, "?q"),
        (3, "http://127.0.0.1/"),
        (1, "ftp"),
        (1, "https"),
        (1, ""),
        (2, ""),
        (2, "127.0.0.1:x"),
        (2, "a b"),
        (2, "a/b"),
    ] {
        let mut fields = good;
        fields[at].1 = value;
        is_refused(&holdoff, &origin, &fields, None).await;
    }
    let mut fields = good;
    (fields[0].1, fields[3].1) = ("OPTIONS", "*");
    assert_eq!(fate(holdoff.proxy(), &fields, None).await, Fate::Answered(200));
    assert_eq!(origin.last().line(), "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn rfc9113_8_3_1_authority_and_host() {
    let (origin, holdoff, authority) = fixture().await;
    for more in [
        &[("host", "other.example")][..],
        &[("host", "127.0.0.1")],
        &[("host", authority.as_str()), ("host", authority.as_str())],
        &[("host", "")],
    ] {
        is_refused(&holdoff, &origin, &head("GET", &authority, more), None).await;
    }
    for user in ["user@", "user:word@", "@"] {
        is_refused(&holdoff, &origin, &head("GET", &format!("{user}{authority}"), &[]), None).await;
    }
    let fields = head("GET", &authority, &[("host", authority.as_str())]);
    assert_eq!(fate(holdoff.proxy(), &fields, None).await, Fate::Answered(200));
    assert_eq!(origin.last().field("host"), Some(authority.as_str()));
    assert_eq!(origin.last().field("via").map(|via| via.starts_with("2.0 ")), Some(true));
}

fn connect(authority: &str) -> http::Request<()> {
    let uri = http::Uri::builder().authority(authority).build().unwrap();
    http::Request::builder().method("CONNECT").uri(uri).body(()).unwrap()
}

#[tokio::test]
async fn rfc9113_8_5_connect_carries_bytes_both_ways() {
    let host = Host::start().await;
    let (origin, holdoff, _) = fixture().await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let (response, mut send) = session.begin(connect(&host.address.to_string()), false).await;
    let mut line = host.accept().await;
    let answer = within("an answer", response).await.unwrap();
    assert_eq!(answer.status(), 200);
    for name in ["content-length", "transfer-encoding", "connection"] {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    let mut body = answer.into_body();
    send.send_data(Bytes::from_static(b"hello\0there"), false).unwrap();
    assert_eq!(line.until("there").await, "hello\0there");
    line.send("and back").await;
    let piece = within("bytes", body.data()).await.unwrap().unwrap();
    assert_eq!(&piece[..], b"and back");
    let _ = body.flow_control().release_capacity(piece.len());
    // Other streams go on beside it.
    assert_eq!(session.get(&origin.url()).await.text(), "fine");
    // The client's half ends; the host's goes on, and is drained.
    send.send_data(Bytes::from_static(b"last"), true).unwrap();
    line.ends().await;
    assert_eq!(line.buffer, b"last");
    let rest = vec![b'x'; 300_000];
    let writing = tokio::spawn(async move {
        line.stream.write_all(&rest).await.unwrap();
        line.stream.shutdown().await.unwrap();
        line
    });
    let (read, end) = within("the rest", http2::read(&mut body)).await;
    assert_eq!((read.len(), end.is_ok()), (300_000, true));
    drop(writing.await.unwrap());
    assert!(holdoff.metric("holdoff_tunnels_active").await < 1.0);
}

#[tokio::test]
async fn rfc9113_8_5_the_hosts_half_ends_first_and_a_reset_is_no_end() {
    let host = Host::start().await;
    let (_origin, holdoff, _) = fixture().await;
    let mut session = Session::connect(holdoff.proxy()).await;
    let (response, mut send) = session.begin(connect(&host.address.to_string()), false).await;
    let mut line = host.accept().await;
    let mut body = within("an answer", response).await.unwrap().into_body();
    line.send("bye").await;
    line.stream.shutdown().await.unwrap();
    let (read, end) = within("the end", http2::read(&mut body)).await;
    assert_eq!((&read[..], end.is_ok()), (&b"bye"[..], true));
    send.send_data(Bytes::from_static(b"still here"), true).unwrap();
    line.ends().await;
    assert_eq!(line.buffer, b"still here");

    // RFC 9113 §8.5: a TCP error is a stream error.
    let (response, _send) = session.begin(connect(&host.address.to_string()), false).await;
    let line = host.accept().await;
    let mut body = within("an answer", response).await.unwrap().into_body();
    line.stream.set_zero_linger().unwrap();
    drop(line);
    let (_, end) = within("the end", http2::read(&mut body)).await;
    assert!(end.is_err(), "a broken tunnel looked whole");

    // And the other way round.
    let (response, mut send) = session.begin(connect(&host.address.to_string()), false).await;
    let mut line = host.accept().await;
    let _body = within("an answer", response).await.unwrap().into_body();
    send.send_reset(h2::Reason::CANCEL);
    within("the end at the host", async {
        let mut piece = [0; 16];
        while line.stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    })
    .await;
}

#[tokio::test]
async fn rfc9113_8_5_connect_is_refused_where_it_may_not_lead() {
    let host = Host::start().await;
    let (origin, holdoff, _) = fixture().await;
    let strict = Holdoff::start("[egress]\nconnect_ports = [\"443\"]\n").await;
    let mut session = Session::connect(strict.proxy()).await;
    let answer = session.ask(connect(&host.address.to_string()), None).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.field("holdoff").is_some_and(|mark| mark.starts_with("error;")), "{answer:?}");
    let mut session = Session::connect(holdoff.proxy()).await;
    assert_eq!(session.ask(connect("127.0.0.1"), None).await.unwrap().status, 400, "a port is required");
    // A refused tunnel leaves the connection to the others.
    assert_eq!(session.get(&origin.url()).await.text(), "fine");
    let reverse =
        Holdoff::start(&format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n", origin.url())).await;
    let mut session = Session::connect(reverse.reverse(0)).await;
    assert_eq!(session.ask(connect(&host.address.to_string()), None).await.unwrap().status, 501);
}

#[tokio::test]
async fn rfc9113_8_5_pseudo_fields_of_connect() {
    let (origin, holdoff, authority) = fixture().await;
    for fields in [
        &[(":method", "CONNECT")][..],
        &[(":method", "CONNECT"), (":authority", authority.as_str()), (":path", "/")],
        &[(":method", "CONNECT"), (":authority", authority.as_str()), (":scheme", "http")],
        &[(":method", "CONNECT"), (":authority", authority.as_str()), ("content-length", "5")],
    ] {
        is_refused(&holdoff, &origin, fields, None).await;
    }
}

#[tokio::test]
async fn rfc9113_8_5_extended_connect_is_refused() {
    let (origin, holdoff, authority) = fixture().await;
    let fields = head("CONNECT", &authority, &[]);
    let websocket = [&[(":protocol", "websocket")][..], &fields[..]].concat();
    // A pseudo-header field that was not agreed on: malformed.
    assert_eq!(fate(holdoff.proxy(), &websocket, None).await, Fate::Reset(1));
    assert_eq!(fate(holdoff.proxy(), &websocket, Some("x")).await, Fate::Reset(1));
    assert_eq!(origin.connections(), 0);
    // Nor is it offered (RFC 8441 §3).
    let mut raw = Raw::connect(holdoff.proxy()).await;
    let settings = within("settings", raw.frame()).await.unwrap();
    assert_eq!(settings.kind, SETTINGS);
    assert!(settings.payload.chunks(6).all(|setting| setting[..2] != [0, 8]), "{settings:?}");
}

/// How long another client waits while something else goes on.
async fn latency(holdoff: &Holdoff, origin: &Origin) -> Duration {
    let start = Instant::now();
    assert_eq!(holdoff.get(&origin.url()).await.status, 200);
    start.elapsed()
}

const FLOODS: &str = "holdoff_bounds_reached_total{bound=\"http2_flood\"}";

/// Writes pieces until the other side ends or does not take any more, at most `most` bytes, while another client asks.
/// Says what became of the connection; `None`: it was not ended.
async fn flood(
    (holdoff, origin): (&Holdoff, &Origin),
    hello: &[u8],
    mut piece: impl FnMut(usize) -> Vec<u8>,
    (most, reads): (usize, bool),
) -> Option<Fate> {
    let mut raw = Raw::connect(holdoff.proxy()).await;
    raw.send(hello).await;
    let (mut read, mut write) = raw.split();
    let writing = async {
        let mut sent = 0;
        for at in 0.. {
            let bytes = piece(at);
            sent += bytes.len();
            match tokio::time::timeout(Duration::from_millis(500), write.write_all(&bytes)).await {
                Ok(Ok(())) if sent < most => {}
                Ok(Ok(())) => return sent,
                // Nothing is taken any more, or the end.
                Ok(Err(_)) | Err(_) => return sent,
            }
            tokio::task::yield_now().await;
        }
        unreachable!()
    };
    let ended = async {
        if !reads {
            return None;
        }
        loop {
            match read.frame().await {
                None => return Some(Fate::End),
                Some(frame) if frame.kind == http2::GOAWAY => return Some(Fate::GoAway(frame.code())),
                Some(_) => {}
            }
        }
    };
    let others = async {
        let mut worst = Duration::ZERO;
        for _ in 0..5 {
            worst = worst.max(latency(holdoff, origin).await);
        }
        worst
    };
    let (sent, fate, worst) = within("the end of a flood", async {
        let moment = tokio::time::sleep(Duration::from_millis(700));
        let reading = async {
            tokio::select! {
                fate = ended => fate,
                () = async { if reads { std::future::pending::<()>().await } else { moment.await } } => None,
            }
        };
        if reads {
            let (fate, worst) = tokio::join!(
                async {
                    tokio::select! {
                        fate = reading => fate,
                        _ = async { writing.await; tokio::time::sleep(Duration::from_secs(2)).await } => None,
                    }
                },
                others
            );
            (0, fate, worst)
        } else {
            let (sent, worst) = tokio::join!(writing, others);
            (sent, None, worst)
        }
    })
    .await;
    assert!(worst < Duration::from_secs(2), "another client waited {worst:?}");
    assert!(reads || sent < most, "{sent} bytes were taken from a client that reads nothing");
    fate
}

const CALM: Option<Fate> = Some(Fate::GoAway(11));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_bounds_rapid_reset() {
    let (origin, holdoff, _) = fixture().await;
    let silent = Origin::start(|_| Reply::Hang).await;
    let authority = silent.address().to_string();
    let fields = block(&head("GET", &authority, &[]));
    let pieces = |at: usize| {
        let mut bytes = Vec::new();
        for number in 0..100 {
            let stream = u32::try_from(2 * (at * 100 + number) + 1).unwrap();
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        bytes
    };
    let fate = flood((&holdoff, &origin), &[], pieces, (16 << 20, true)).await;
    assert_eq!(fate, CALM);
    assert!(holdoff.metric(FLOODS).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_bounds_continuation_flood() {
    let (origin, holdoff, authority) = fixture().await;
    let start = frame(HEADERS, END_STREAM, 1, &block(&head("GET", &authority, &[])));
    for piece in [Vec::new(), block(&[("x-a", "1")])] {
        let before = holdoff.metric(FLOODS).await;
        let pieces = |_| frame(CONTINUATION, 0, 1, &piece).repeat(16);
        assert_eq!(flood((&holdoff, &origin), &start, pieces, (16 << 20, true)).await, CALM);
        assert!(holdoff.metric(FLOODS).await > before);
    }
    assert_eq!(origin.count(), 10, "only the other client's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_bounds_empty_data_flood() {
    let (origin, holdoff, _) = fixture().await;
    let silent = Origin::start(|_| Reply::Hang).await;
    let authority = silent.address().to_string();
    let start = frame(HEADERS, END_HEADERS, 1, &block(&head("POST", &authority, &[])));
    let pieces = |_| frame(DATA, 0, 1, &[]).repeat(32);
    assert_eq!(flood((&holdoff, &origin), &start, pieces, (16 << 20, true)).await, CALM);
    assert!(holdoff.metric(FLOODS).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_bounds_settings_flood() {
    let (origin, holdoff, _) = fixture().await;
    let pieces = |_| frame(SETTINGS, 0, 0, &[]).repeat(400);
    // Answers that nobody reads are not kept: nothing more is taken.
    assert_eq!(flood((&holdoff, &origin), &[], pieces, (64 << 20, false)).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_bounds_ping_flood() {
    let (origin, holdoff, _) = fixture().await;
    let pieces = |_| frame(PING, 0, 0, &[0; 8]).repeat(400);
    assert_eq!(flood((&holdoff, &origin), &[], pieces, (64 << 20, false)).await, None);
}

#[tokio::test]
async fn rfc9113_bounds_oversized_header_list() {
    let (origin, holdoff, authority) = fixture().await;
    // Too long for `limits.max_header_bytes`, too many for `limits.max_header_fields`.
    let long = "x".repeat(5000);
    let fields: Vec<(String, String)> = (0..30).map(|n| (format!("x-{n}"), long.clone())).collect();
    let mut session = Session::connect(holdoff.proxy()).await;
    let mut large = request("GET", &origin.url());
    let mut many = request("GET", &origin.url());
    for (name, value) in &fields {
        large.headers_mut().append(http::HeaderName::try_from(name.as_str()).unwrap(), value.parse().unwrap());
    }
    for n in 0..200 {
        many.headers_mut().append(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    assert_eq!(session.ask(many, None).await.unwrap().status, 431);
    assert_eq!(session.get(&origin.url()).await.status, 200);
    // The h2 crate would not send it, so it is written by hand.
    drop(large);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let whole = block(&head("GET", &authority, &fields));
    let mut raw = Raw::connect(holdoff.proxy()).await;
    let mut pieces = whole.chunks(16_000).peekable();
    let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap());
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, piece));
    }
    let _ = raw.stream.write_all(&bytes).await;
    let fate = raw.fate(1).await;
    assert!(matches!(fate, Fate::Answered(431) | Fate::GoAway(11) | Fate::GoAway(9)), "{fate:?}");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn rfc9113_bounds_streams_that_never_end() {
    let (origin, holdoff, _) = fixture().await;
    let silent = Origin::start(|_| Reply::Hang).await;
    let fields = block(&head("GET", &silent.address().to_string(), &[]));
    let mut raw = Raw::connect(holdoff.proxy()).await;
    let mut bytes = Vec::new();
    for number in 0..140_u32 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &fields));
    }
    raw.send(&bytes).await;
    // Beyond what was allowed, a stream is refused.
    assert_eq!(raw.fate(2 * 139 + 1).await, Fate::Reset(7));
    assert!(silent.connections() <= 128);
    assert!(latency(&holdoff, &origin).await < Duration::from_secs(2));
}

#[tokio::test]
async fn rfc9113_bounds_streams_that_are_faulty() {
    let (_origin, holdoff, authority) = fixture().await;
    let fields = block(&head("GET", &authority, &[("connection", "close")]));
    let mut raw = Raw::connect(holdoff.proxy()).await;
    let bytes: Vec<u8> =
        (0..1200_u32).flat_map(|number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &fields)).collect();
    let _ = raw.stream.write_all(&bytes).await;
    assert_eq!(raw.fate(u32::MAX).await, Fate::GoAway(11));
    crate::support::within("the count", async {
        while holdoff.metric(FLOODS).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn rfc9113_8_3_1_to_a_peer_that_speaks_it() {
    let authority = Authority::new();
    let peer =
        Peer::start(authority.acceptor(&["localhost"]), |mut stream| async move { stream.answer(200, &[], "h2") })
            .await;
    let port = peer.address.port();
    let holdoff = Holdoff::start(&reverse_to(port, &authority, "")).await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client
        .send("GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: x-hop, TE\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\nCookie: a=1; b=2\r\n\r\n")
        .await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.text()), (200, "h2"));
    assert!(answer.field("via").starts_with("2.0 "), "{}", answer.head);
    let seen = &peer.seen()[0];
    assert_eq!(seen.uri.to_string(), format!("https://localhost:{port}/a?b"));
    for name in ["host", "connection", "x-hop", "keep-alive"] {
        assert!(!seen.fields.contains_key(name), "{seen:?}");
    }
    assert_eq!(seen.fields.get("te").map(|te| te.to_str().unwrap()), Some("trailers"));
    assert!(seen.fields["via"].to_str().unwrap().starts_with("1.1 "));
}
