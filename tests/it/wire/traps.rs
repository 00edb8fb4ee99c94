//! The traps that caught other proxies, above all a request body that nobody reads behind an answer made here.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::client::{Answer, Client};
use crate::support::host::Host;
use crate::support::origin::{Origin, Reply, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::within;

/// A moment in which a wrong byte would have come.
const MOMENT: Duration = Duration::from_millis(150);

/// What a client sends behind the line and the host of a request.
#[derive(Clone, Debug)]
struct Upload {
    name: &'static str,
    fields: String,
    body: Vec<u8>,
    /// More of the body, again and again.
    endless: Vec<u8>,
    /// The client closes its side behind the body.
    cut: bool,
    /// A short-circuit can be followed by another request.
    keeps: bool,
}

impl Upload {
    fn new(name: &'static str, fields: impl Into<String>, body: impl Into<Vec<u8>>, keeps: bool) -> Self {
        Self { name, fields: fields.into(), body: body.into(), endless: Vec::new(), cut: false, keeps }
    }

    fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    fn endless(mut self, piece: impl Into<Vec<u8>>) -> Self {
        self.endless = piece.into();
        self
    }
}

/// A request that only a proxy which mistakes a body for requests would send to `witness`.
fn smuggled(witness: SocketAddr) -> String {
    format!("GET http://{witness}/smuggled HTTP/1.1\r\nHost: {witness}\r\n\r\n")
}

/// Every framing of a body; all of them look like requests to `witness`.
fn uploads(witness: SocketAddr) -> Vec<Upload> {
    let evil = smuggled(witness);
    let length = evil.len();
    let chunk = format!("{length:x}\r\n{evil}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let tiny: String = evil.chars().map(|c| format!("1;x=\"{witness}\"\r\n{c}\r\n")).collect();
    let large = evil.repeat(200_000 / length + 1);
    let expect = "Expect: 100-continue\r\n";
    vec![
        Upload::new("a small length", format!("Content-Length: {length}\r\n"), evil.as_str(), true),
        Upload::new("a large length", format!("Content-Length: {}\r\n", large.len()), large.as_str(), false),
        Upload::new("a large length, begun", "Content-Length: 100000000\r\n", evil.as_str(), false),
        Upload::new("a length that is not kept", "Content-Length: 5000\r\n", evil.as_str(), false).cut(),
        Upload::new("small chunks", chunked, format!("{chunk}{chunk}0\r\n\r\n"), true),
        Upload::new("tiny chunks with extensions", chunked, format!("{tiny}0\r\n\r\n"), true),
        Upload::new("chunks with trailers", chunked, format!("{chunk}0\r\nX-Sum: 1\r\nHost: {witness}\r\n\r\n"), true),
        Upload::new("chunks that are not ended", chunked, chunk.as_str(), false).cut(),
        Upload::new("chunks that end in no chunk", chunked, format!("{chunk}zz\r\n{evil}"), false),
        Upload::new("chunks without end", chunked, chunk.as_str(), false).endless(chunk.repeat(50)),
        Upload::new("an expectation", format!("Content-Length: {length}\r\n{expect}"), "", false),
        Upload::new(
            "an expectation not waited for",
            format!("Content-Length: {length}\r\n{expect}"),
            evil.as_str(),
            false,
        ),
        Upload::new("chunks with an expectation", format!("{chunked}{expect}"), format!("{chunk}0\r\n\r\n"), false),
    ]
}

/// Sends `upload` behind `request` and reads the answer. What comes behind it is the end of the connection, or the answer to
/// the next request and nothing else.
async fn send(at: SocketAddr, request: &str, upload: &Upload, next: &str) -> (Answer, Option<Answer>) {
    let mut client = Client::connect(at).await;
    let head = format!("{request}{}\r\n", upload.fields);
    client.send([head.as_bytes(), &upload.body].concat()).await;
    if !upload.endless.is_empty() {
        for _ in 0..30 {
            client.try_send(&upload.endless).await;
        }
    }
    if upload.cut {
        client.finish().await;
    }
    let answer = client.answer("POST").await;
    if answer.fields("connection") == ["close"] {
        // Whatever is sent now is read by nobody.
        if !upload.cut {
            client.try_send(next).await;
        }
        while !upload.endless.is_empty() && client.try_send(&upload.endless).await {}
        let rest = client.rest().await;
        assert_eq!(String::from_utf8_lossy(&rest), "", "{request:?} {}", upload.name);
        return (answer, None);
    }
    client.send(next).await;
    let second = client.answer("GET").await;
    client.finish().await;
    let rest = client.rest().await;
    assert_eq!(String::from_utf8_lossy(&rest), "", "{request:?} {}", upload.name);
    (answer, Some(second))
}

fn get(host: SocketAddr, path: &str) -> String {
    format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_is_drained_or_the_connection_closes() {
    let (origin, witness) = (Origin::start(|_| limited("60")).await, Origin::start(|_| ok("evil")).await);
    let holdoff =
        Holdoff::start(&format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n", origin.url())).await;
    let host = origin.address();
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let mut all = JoinSet::new();
    let ports = [(holdoff.proxy(), format!("http://{host}")), (holdoff.reverse(0), String::new())];
    for (upload, (at, base)) in
        uploads(witness.address()).into_iter().flat_map(|upload| ports.clone().map(|port| (upload.clone(), port)))
    {
        all.spawn(async move {
            let request = format!("POST {base}/ HTTP/1.1\r\nHost: {host}\r\n");
            let next = format!("GET {base}/next HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let (answer, second) = send(at, &request, &upload, &next).await;
            assert_eq!(answer.status, 429, "{}: {}", upload.name, answer.head);
            assert!(answer.field("holdoff").starts_with("short-circuit"), "{}: {}", upload.name, answer.head);
            assert_eq!(second.is_some(), upload.keeps, "{}: {}", upload.name, answer.head);
            assert!(second.is_none_or(|second| second.status == 429), "{}", upload.name);
        });
    }
    all.join_all().await;
    assert_eq!((origin.count(), witness.count()), (1, 0), "a body was read as a request");
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_requests_behind_a_drained_body_are_served_in_order() {
    let (origin, other) = (Origin::start(|_| limited("60")).await, Origin::start(|seen| ok(seen.target())).await);
    let witness = Origin::start(|_| ok("evil")).await;
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    let length = evil.len();
    for (fields, body) in [
        (format!("Content-Length: {length}\r\n"), evil.clone()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{length:x}\r\n{evil}\r\n0\r\nX-Sum: 1\r\n\r\n")),
    ] {
        let post = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n{body}");
        let mut client = holdoff.client().await;
        let (a, b) = (get(other.address(), "/a"), get(other.address(), "/b"));
        // All of it at once, and the last body in two pieces.
        let (begun, ended) = post.split_at(post.len() - 20);
        client.send(format!("{post}{a}{post}{b}{begun}")).await;
        assert_eq!(client.answer("POST").await.status, 429);
        assert_eq!(client.answer("GET").await.text(), "/a");
        assert_eq!(client.answer("POST").await.status, 429);
        assert_eq!(client.answer("GET").await.text(), "/b");
        client.send(format!("{ended}{a}")).await;
        assert_eq!(client.answer("POST").await.status, 429);
        assert_eq!(client.answer("GET").await.text(), "/a");
    }
    assert_eq!((origin.count(), witness.count()), (1, 0));
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_a_body_of_exactly_the_bound_is_drained() {
    let (origin, witness) = (Origin::start(|_| limited("60")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("[limits]\ndrain_body = \"1KiB\"\n").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    for (size, keeps) in [(1024, true), (1025, false)] {
        let body: String = evil.chars().cycle().take(size).collect();
        for (fields, body) in [
            (format!("Content-Length: {size}\r\n"), body.clone()),
            ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{size:x}\r\n{body}\r\n0\r\n\r\n")),
        ] {
            let upload = Upload::new("a body at the bound", fields, body, keeps);
            let request = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
            let (answer, second) = send(holdoff.proxy(), &request, &upload, &get(host, "/")).await;
            assert_eq!((answer.status, second.is_some()), (429, keeps), "{size} {}", upload.fields);
        }
    }
    assert_eq!((origin.count(), witness.count()), (1, 0));
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_a_client_that_stalls_gets_its_answer() {
    let (origin, witness) = (Origin::start(|_| limited("60")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    let mut all = JoinSet::new();
    for fields in ["Content-Length: 5000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let at = holdoff.proxy();
        let upload = Upload::new("a body that stops", fields, format!("{:x}\r\n{evil}\r\n", evil.len()), false);
        all.spawn(async move {
            let request = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
            send(at, &request, &upload, &get(host, "/")).await
        });
    }
    for (answer, second) in all.join_all().await {
        assert_eq!((answer.status, answer.field("connection"), second.is_none()), (429, "close", true));
    }
    assert_eq!((origin.count(), witness.count()), (1, 0));
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_to_a_connect_is_not_a_request() {
    // A client that does not wait sends what is meant for the tunnel; read as requests it would be another's (RFC 9931).
    let witness = Origin::start(|_| ok("evil")).await;
    let holdoff = Holdoff::start("").await;
    let frozen = holdoff.ask_admin("PUT", "/api/v1/cooldowns?key=https://127.0.0.1:9443", "{\"for\":\"60s\"}").await;
    assert!(frozen.status < 300, "{}", frozen.text());
    let evil = smuggled(witness.address());
    for (target, status) in [("127.0.0.1:9443", 503), ("127.0.0.1:22", 403), ("169.254.169.254:443", 403)] {
        for late in [false, true] {
            let mut client = holdoff.client().await;
            let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            client.send(if late { connect } else { format!("{connect}{evil}") }).await;
            let answer = client.answer("GET").await;
            assert_eq!((answer.status, answer.field("connection")), (status, "close"), "{target}");
            client.try_send(&evil).await;
            assert_eq!(client.rest().await, b"", "{target}");
        }
    }
    assert_eq!(witness.count(), 0);
}

#[tokio::test]
async fn trap_undrained_body_behind_a_synthetic_answer_to_every_method_and_version() {
    let (origin, witness) = (Origin::start(|_| limited("60")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    let length = evil.len();
    for (method, version, fields, keeps) in [
        ("GET", "1.1", "", true),
        ("HEAD", "1.1", "", true),
        ("DELETE", "1.1", "", true),
        ("ODD", "1.1", "", true),
        ("GET", "1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true),
        ("POST", "1.1", "Connection: close\r\n", false),
        ("POST", "1.0", "", false),
    ] {
        for (framing, body) in [
            (format!("Content-Length: {length}\r\n"), evil.clone()),
            ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{length:x}\r\n{evil}\r\n0\r\n\r\n")),
        ] {
            if version == "1.0" && framing.starts_with('T') {
                continue;
            }
            let mut client = holdoff.client().await;
            let head = format!("{method} http://{host}/ HTTP/{version}\r\nHost: {host}\r\n{fields}{framing}\r\n{body}");
            client.send(format!("{head}{}", get(host, "/next"))).await;
            let first = client.answer(method).await;
            assert_eq!(first.status, 429, "{head}");
            if keeps {
                let next = client.answer("GET").await;
                assert!(next.status == 429 && next.complete, "{head}");
                client.finish().await;
            }
            assert_eq!(client.rest().await, b"", "{head}");
        }
    }
    assert_eq!((origin.count(), witness.count()), (1, 0));
}

/// A way to be refused.
struct Refusal {
    status: u16,
    toml: String,
    /// Line and fields of the request, without the fields of its body.
    request: String,
    /// Not for bodies without end.
    ends: bool,
}

#[tokio::test]
async fn trap_undrained_body_behind_a_refusal_is_drained_or_the_connection_closes() {
    let (origin, witness) = (Origin::start(|_| ok("fine")).await, Origin::start(|_| ok("evil")).await);
    let silent = Origin::start(|_| Reply::Hang).await;
    let (_held, closed) = crate::support::refusing();
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, format!("ann:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let post = |target: &str, host: &str| format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n");
    let to = |host: SocketAddr| post(&format!("http://{host}/"), &host.to_string());
    let own = "[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n";
    let refusal =
        |status: u16, toml: &str, request: String| Refusal { status, toml: toml.to_owned(), request, ends: false };
    let auth = format!("[listen]\naddress = [\"127.0.0.1:0\"]\nauth_file = {users:?}\n");
    let refusals = [
        refusal(400, "", post("http://user@a/", "a")),
        refusal(400, "", post("/path", "a")),
        refusal(400, "", format!("{}Host: other\r\n", to(origin.address()))),
        refusal(403, "", post("http://169.254.169.254/", "169.254.169.254")),
        refusal(407, &auth, to(origin.address())),
        refusal(501, "", post("https://a/", "a")),
        refusal(502, "", to(closed)),
        refusal(502, "", post("http://no-such-host.invalid/", "no-such-host.invalid")),
        refusal(508, own, format!("{}Via: 1.1 edge-7\r\n", to(origin.address()))),
        Refusal { ends: true, ..refusal(504, "[defaults.timeouts]\nhead = \"300ms\"\n", to(silent.address())) },
    ];
    for refusal in refusals {
        let holdoff = Holdoff::start(&refusal.toml).await;
        let mut all = JoinSet::new();
        for upload in uploads(witness.address()) {
            if refusal.ends && (!upload.keeps || upload.cut) {
                continue;
            }
            let (at, request, status) = (holdoff.proxy(), refusal.request.clone(), refusal.status);
            let next = get(origin.address(), "/next");
            all.spawn(async move {
                let (answer, second) = send(at, &request, &upload, &next).await;
                // A body that is malformed is found out before or behind the rest.
                let broken = upload.cut || upload.name.contains("no chunk");
                let expected = answer.status == status || (broken && answer.status == 400);
                assert!(expected, "{request:?} {}: {}", upload.name, answer.head);
                assert!(answer.field("holdoff").starts_with("error"), "{}", answer.head);
                let served = if status == 407 { 407 } else { 200 };
                assert!(second.is_none_or(|second| second.status == served), "{request:?} {}", upload.name);
            });
        }
        all.join_all().await;
        if refusal.status != 407 {
            assert_eq!(holdoff.get(&origin.url()).await.text(), "fine", "the next request is served");
        }
        holdoff.shutdown().await;
    }
    assert_eq!(witness.count(), 0, "a body was read as a request");
    assert!(origin.seen().iter().all(|seen| seen.line().starts_with("GET /")), "{:?}", origin.seen());
}

#[tokio::test]
async fn trap_undrained_body_behind_a_refusal_of_a_body_that_is_too_large() {
    let (origin, witness) = (Origin::start(|_| ok("fine")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("[defaults.timeouts]\nmax_request_body = \"10B\"\n").await;
    let host = origin.address();
    let mut all = JoinSet::new();
    for upload in uploads(witness.address()) {
        // With an expectation the host is asked first, which waits for the body.
        if upload.fields.contains("chunked\r\nExpect") {
            continue;
        }
        let at = holdoff.proxy();
        all.spawn(async move {
            let request = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
            let (answer, second) = send(at, &request, &upload, &get(host, "/next")).await;
            assert_eq!(answer.status, 413, "{}: {}", upload.name, answer.head);
            assert!(second.is_none_or(|second| second.status == 200), "{}", upload.name);
        });
    }
    all.join_all().await;
    assert_eq!(witness.count(), 0);
    assert!(origin.seen().iter().all(|seen| seen.line() == "GET /next HTTP/1.1"), "{:?}", origin.seen());
}

#[tokio::test]
async fn trap_undrained_body_behind_a_refusal_by_our_own_timeout() {
    let (origin, witness) = (Origin::start(|_| ok("fine")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"300ms\"\n").await;
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    for fields in ["Content-Length: 5000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let upload = Upload::new("a body that stops", fields, format!("{:x}\r\n{evil}\r\n", evil.len()), false);
        let request = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
        let (answer, second) = send(holdoff.proxy(), &request, &upload, &get(host, "/")).await;
        assert_eq!((answer.status, answer.field("connection"), second.is_none()), (408, "close", true), "{fields}");
    }
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine");
    assert_eq!((origin.count(), witness.count()), (1, 0));
}

#[tokio::test]
async fn trap_undrained_body_behind_a_refusal_by_the_upstream_which_does_not_wait() {
    for (goes_on, length) in [(true, 3_000), (true, 100_000), (false, 3_000), (false, 100_000)] {
        for chunked in [false, true] {
            let witness = Origin::start(|_| ok("evil")).await;
            let host = Host::start().await;
            let holdoff = Holdoff::start("").await;
            let mut client = holdoff.client().await;
            let address = host.address;
            let body: String = smuggled(witness.address()).chars().cycle().take(length).collect();
            let (fields, bytes) = if chunked {
                ("Transfer-Encoding: chunked".to_owned(), format!("{length:x}\r\n{body}\r\n0\r\n\r\n"))
            } else {
                (format!("Content-Length: {length}"), body)
            };
            let (begun, ended) = bytes.split_at(1000);
            client.send(format!("POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n\r\n{begun}")).await;
            let mut line = host.accept().await;
            line.until("\r\n\r\n").await;
            line.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
            let kept = goes_on.then_some(line);
            let answer = client.answer("POST").await;
            assert_eq!((answer.status, answer.text()), (403, "no"), "{goes_on} {fields}");
            // What is left of the body and a request behind it: the one is never read as the other.
            let next = format!("GET http://{address}/next HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let serving = tokio::spawn(async move {
                // The request comes on this connection behind the whole body, or on a new one.
                let first = async {
                    let Some(mut line) = kept else { return std::future::pending().await };
                    line.until(if chunked { "\r\n0\r\n\r\n" } else { "GET /next" }).await;
                    if chunked {
                        line.until("GET /next").await;
                    }
                    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
                    std::future::pending::<()>().await;
                };
                let second = async {
                    let mut line = host.accept().await;
                    assert!(line.until("\r\n\r\n").await.starts_with("GET /next HTTP/1.1\r\n"));
                    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
                };
                tokio::select! { () = first => {}, () = second => {} }
            });
            if client.try_send(ended).await
                && client.try_send(next).await
                && let Some(second) = client.try_answer("GET").await
            {
                assert_eq!((second.status, second.text()), (200, "next"), "{goes_on} {fields}");
            }
            assert_eq!(witness.count(), 0, "{goes_on} {fields}");
            serving.abort();
        }
    }
}

#[tokio::test]
async fn trap_undrained_body_behind_a_refusal_by_the_upstream_is_nobody_elses_request() {
    // The answer is whole, the request is not: its connection is not free for others.
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let address = host.address;
    for fields in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut client = holdoff.client().await;
        client
            .send(format!("POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n\r\n4\r\nbody\r\n"))
            .await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        line.until("body").await;
        line.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        assert_eq!(client.answer("POST").await.text(), "no");
        for _ in 0..2 {
            let mut other = holdoff.client().await;
            other.send(get(address, "/other")).await;
            let mut second = host.accept().await;
            assert!(second.until("\r\n\r\n").await.starts_with("GET /other HTTP/1.1\r\n"));
            second.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nother").await;
            assert_eq!(other.answer("GET").await.text(), "other");
        }
        drop(client);
        line.ends().await;
        assert!(!String::from_utf8_lossy(&line.buffer).contains("GET"), "{fields}");
    }
}

#[tokio::test]
async fn trap_body_bytes_before_the_101_wait_and_are_never_the_hosts_when_it_refuses() {
    let witness = Origin::start(|_| ok("evil")).await;
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let address = host.address;
    let upgrade = format!(
        "GET http://{address}/ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    // To the host these bytes would be a request that nobody has checked.
    let early = "GET /internal HTTP/1.1\r\nHost: internal\r\n\r\n";
    let mut client = holdoff.client().await;
    client.send(format!("{upgrade}{early}")).await;
    let mut line = host.accept().await;
    assert!(line.until("\r\n\r\n").await.starts_with("GET /ws HTTP/1.1\r\n"));
    assert!(line.is_silent(MOMENT).await, "nothing may pass before the 101");
    line.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(client.answer("GET").await.status, 426);
    // To us they are a request on the proxy port, and not a good one.
    assert_eq!(client.answer("GET").await.status, 400);
    assert!(line.is_silent(MOMENT).await, "no byte of it goes to the host");
    // When the host agrees they follow.
    let mut client = holdoff.client().await;
    client.send(format!("{upgrade}{}", smuggled(witness.address()))).await;
    line.until("\r\n\r\n").await;
    assert!(line.is_silent(MOMENT).await);
    line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 101);
    assert_eq!(line.until("\r\n\r\n").await, smuggled(witness.address()));
    assert_eq!(witness.count(), 0);
}

#[tokio::test]
async fn trap_body_bytes_before_the_101_of_a_request_with_a_body_are_its_body() {
    // An upgrade behind a body is not passed on, so that there is nothing to switch to before the body's end.
    let origin = Origin::start(|seen| ok(std::str::from_utf8(&seen.body).unwrap())).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for (fields, body) in [("Content-Length: 4", "body"), ("Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n")] {
        client
            .send(format!(
                "POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(client.answer("POST").await.text(), "body");
        assert_eq!((origin.last().field("upgrade"), origin.last().field("connection")), (None, None));
    }
}

#[tokio::test]
async fn trap_http_1_0_with_transfer_encoding_in_a_request_is_refused() {
    let (origin, witness) = (Origin::start(|_| ok("fine")).await, Origin::start(|_| ok("evil")).await);
    let holdoff = Holdoff::start("").await;
    let (host, evil) = (origin.address(), smuggled(witness.address()));
    for fields in
        ["", "Connection: keep-alive\r\n", "Content-Length: 5\r\n", "Content-Length: 5\r\nConnection: keep-alive\r\n"]
    {
        let mut client = holdoff.client().await;
        client
            .send(format!(
                "POST http://{host}/ HTTP/1.0\r\nHost: {host}\r\n{fields}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}"
            ))
            .await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{fields:?}");
        assert_eq!(client.rest().await, b"", "{fields:?}");
    }
    assert_eq!((origin.count(), witness.count()), (0, 0));
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn trap_http_1_0_with_transfer_encoding_in_a_response_is_refused() {
    let origin = Origin::start(|seen| match seen.target() {
        "/" => ok("fine"),
        path => Reply::Bytes(
            format!(
                "HTTP/1.0 200 OK\r\n{}Transfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
                if path == "/keep" { "Connection: keep-alive\r\n" } else { "" }
            )
            .into_bytes(),
        ),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for path in ["/keep", "/close"] {
        let answer = client.get(&format!("{}{path}", origin.url())).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.head);
        assert!(!answer.text().contains("evil"));
        assert_eq!(client.get(&format!("{}/", origin.url())).await.text(), "fine", "{path}");
    }
}

/// Answers of `status` that have a body where none may be, and what is asked behind them.
async fn body_after(status: &'static str) {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for fields in [
        format!("Content-Length: {}\r\n\r\n{evil}", evil.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len()),
        format!("\r\n{evil}"),
        "Content-Length: 4\r\n\r\nevil".to_owned(),
    ] {
        let reply = format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\n{fields}").into_bytes();
        let origin = Origin::start(move |seen| match seen.target() {
            "/none" => Reply::Bytes(reply.clone()),
            other => ok(other),
        })
        .await;
        let holdoff = Holdoff::start("").await;
        let (mut client, host) = (holdoff.client().await, origin.address());
        for _ in 0..10 {
            client.send(format!("{}{}", get(host, "/none"), get(host, "/next"))).await;
            let none = client.answer("GET").await;
            assert_eq!(format!("{}", none.status), status.split(' ').next().unwrap(), "{fields:?}");
            assert!(none.fields("transfer-encoding").is_empty(), "{}", none.head);
            let next = client.answer("GET").await;
            assert_eq!((next.status, next.text()), (200, "/next"), "{fields:?}: {}", next.head);
        }
        // And behind a pause, when the bytes have had the time to lie in wait.
        assert_eq!(
            client.get(&format!("http://{host}/none")).await.status.to_string(),
            status.split(' ').next().unwrap()
        );
        tokio::time::sleep(MOMENT / 3).await;
        assert_eq!(client.get(&format!("http://{host}/later")).await.text(), "/later", "{fields:?}");
        client.finish().await;
        assert_eq!(client.rest().await, b"", "{fields:?}");
    }
}

#[tokio::test]
async fn trap_body_after_204_is_neither_passed_on_nor_an_answer() {
    body_after("204 No Content").await;
}

#[tokio::test]
async fn trap_body_after_304_is_neither_passed_on_nor_an_answer() {
    body_after("304 Not Modified").await;
}

#[tokio::test]
async fn trap_cut_chunked_body_is_not_reframed_wherever_it_is_cut() {
    const BODY: &str = "5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
    let origin = Origin::start(|seen| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
        match seen.target()[1..].parse::<usize>() {
            Ok(cut) => Reply::Close(format!("{head}{}", &BODY[..cut]).into_bytes()),
            Err(_) => Reply::Bytes(format!("{head}{BODY}").into_bytes()),
        }
    })
    .await;
    let holdoff = Holdoff::start("").await;
    for cut in 0..BODY.len() {
        let mut client = holdoff.client().await;
        let host = origin.address();
        client
            .send(format!("GET http://{host}/{cut} HTTP/1.1\r\nHost: {host}\r\nConnection: TE\r\nTE: trailers\r\n\r\n"))
            .await;
        let raw = String::from_utf8(client.rest().await).unwrap();
        assert!(raw.starts_with("HTTP/1.1 200 OK\r\n"), "{cut}: {raw}");
        assert!(!raw.contains("\r\n0\r\n"), "cut after {cut} bytes, ended for the client: {raw}");
    }
    // A reset says the same; and with a whole body all is well.
    let host = Host::start().await;
    let mut client = holdoff.client().await;
    client.send(get(host.address, "/")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    let mut raw = Vec::new();
    while !raw.ends_with(b"hello\r\n") {
        raw.extend(client.bytes(1).await);
    }
    line.stream.set_zero_linger().unwrap();
    drop(line);
    assert_eq!(client.rest().await, b"");
    let whole = holdoff.get(&format!("{}/whole", origin.url())).await;
    assert_eq!((whole.text(), whole.complete), ("helloabc", true));
}

#[tokio::test]
async fn trap_cut_chunked_body_is_not_reframed_in_a_request() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    for reset in [false, true] {
        let mut client = TcpStream::connect(holdoff.proxy()).await.unwrap();
        let head = format!("POST http://{}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n", host.address);
        client.write_all(format!("{head}5\r\nhello\r\n").as_bytes()).await.unwrap();
        let mut line = host.accept().await;
        line.until("5\r\nhello\r\n").await;
        if reset {
            client.set_zero_linger().unwrap();
        } else {
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = within("an answer", client.read_to_end(&mut answer)).await;
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
        }
        drop(client);
        let mut rest = Vec::new();
        let _ = within("the end", line.stream.read_to_end(&mut rest)).await;
        line.buffer.extend(rest);
        assert_eq!(String::from_utf8_lossy(&line.buffer), "", "nothing may end the body");
    }
}

#[tokio::test]
async fn trap_unsolicited_101_opens_nothing() {
    let origin = Origin::start(|seen| match seen.target() {
        "/" => ok("fine"),
        path => {
            let protocol = match path {
                "/other" => "Upgrade: h2c\r\n",
                "/more" => "Upgrade: websocket, h2c\r\n",
                "/none" => "",
                _ => "Upgrade: websocket\r\n",
            };
            let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{protocol}\r\n");
            Reply::Echo(format!("{head}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").into_bytes())
        }
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let host = origin.address();
    let asks = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (method, path, version, fields) in [
        ("GET", "/plain", "1.1", String::new()),
        ("GET", "/without-connection", "1.1", "Upgrade: websocket\r\n".to_owned()),
        ("GET", "/named-only", "1.1", "Connection: Upgrade\r\n".to_owned()),
        ("GET", "/old", "1.0", asks.to_owned()),
        ("POST", "/body", "1.1", format!("{asks}Content-Length: 2\r\n")),
        ("GET", "/other", "1.1", asks.to_owned()),
        ("GET", "/more", "1.1", asks.to_owned()),
        ("GET", "/none", "1.1", asks.to_owned()),
    ] {
        let mut client = holdoff.client().await;
        let body = if method == "POST" { "{}" } else { "" };
        client.send(format!("{method} http://{host}{path} HTTP/{version}\r\nHost: {host}\r\n{fields}\r\n{body}")).await;
        let answer = client.answer(method).await;
        assert_eq!(answer.status, 502, "{path} {fields:?}: {}", answer.head);
        assert!(!answer.text().contains("evil"));
        if answer.fields("connection") == ["close"] || version == "1.0" {
            assert_eq!(client.rest().await, b"", "{path}");
        } else {
            assert_eq!(client.get(&format!("http://{host}/")).await.text(), "fine", "{path}");
        }
    }
}

const DECLARED: usize = 1 << 30;

/// The most that may be under way between two ends that do not move: fixed buffers of ours, and those of the kernel for our
/// two sockets, which are the larger part and differ from machine to machine.
fn under_way() -> usize {
    let kernel = ["tcp_rmem", "tcp_wmem"].map(|name| {
        let sizes = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        sizes.split_whitespace().last().unwrap().parse::<usize>().unwrap()
    });
    let all = kernel[0] + kernel[1] + (2 << 20);
    assert!(all < DECLARED / 4, "expected kernel buffers that are small beside the body, found {all} bytes");
    all
}

/// Writes until nobody takes more for a moment; how much it was.
async fn fill(stream: &mut TcpStream) -> usize {
    let piece = vec![b'x'; 1 << 16];
    let (mut written, most) = (0, under_way());
    while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(400), stream.write(&piece)).await {
        written += wrote.unwrap();
        assert!(written <= most, "{written} bytes were taken that nobody reads");
    }
    written
}

/// Sockets with small buffers, so that what is under way is in the middle.
fn small_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1 << 16).unwrap();
    socket.set_send_buffer_size(1 << 16).unwrap();
    socket
}

async fn small_host() -> TcpListener {
    let socket = small_socket();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    within("a head", async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    })
    .await;
    head
}

#[tokio::test]
async fn trap_whole_body_buffering_of_a_download_that_nobody_reads() {
    let quick = Origin::start(|_| ok("quick")).await;
    let holdoff = Holdoff::start("").await;
    let host = small_host().await;
    let at = host.local_addr().unwrap();
    let (mut readers, mut senders) = (Vec::new(), Vec::new());
    for head in [format!("Content-Length: {DECLARED}\r\n\r\n"), "Connection: close\r\n\r\n".to_owned(), String::new()] {
        let mut client = small_socket().connect(holdoff.proxy()).await.unwrap();
        // The last is a tunnel.
        let request =
            if head.is_empty() { format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n") } else { get(at, "/") };
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = within("a connection", host.accept()).await.unwrap();
        if !head.is_empty() {
            read_head(&mut stream).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
        }
        read_head(&mut client).await;
        readers.push(client);
        senders.push(tokio::spawn(async move {
            let before = fill(&mut stream).await;
            (stream, before)
        }));
    }
    let mut stopped = Vec::new();
    for sender in senders {
        stopped.push(within("the host to be stopped", sender).await.unwrap());
    }
    // Nobody else waits for the slow ones.
    assert_eq!(holdoff.get(&quick.url()).await.text(), "quick");
    // They were stopped, not cut: what the client reads makes room.
    for (mut client, (mut stream, before)) in readers.into_iter().zip(stopped) {
        let mut piece = vec![0; 1 << 16];
        let mut read = 0;
        within("the rest of what was written", async {
            while read < before {
                read += client.read(&mut piece).await.unwrap();
            }
        })
        .await;
        within("room", stream.write_all(b"more")).await.unwrap();
    }
}

#[tokio::test]
async fn trap_whole_body_buffering_of_an_upload_that_nobody_reads() {
    let quick = Origin::start(|_| ok("quick")).await;
    let holdoff = Holdoff::start("").await;
    let host = small_host().await;
    let at = host.local_addr().unwrap();
    let mut client = small_socket().connect(holdoff.proxy()).await.unwrap();
    let head = format!("POST http://{at}/ HTTP/1.1\r\nHost: {at}\r\nContent-Length: {DECLARED}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut stream, _) = within("a connection", host.accept()).await.unwrap();
    read_head(&mut stream).await;
    let before = within("the client to be stopped", fill(&mut client)).await;
    assert_eq!(holdoff.get(&quick.url()).await.text(), "quick");
    let mut piece = vec![0; 1 << 16];
    let mut read = 0;
    within("the rest of what was written", async {
        while read < before {
            read += stream.read(&mut piece).await.unwrap();
        }
    })
    .await;
    within("room", client.write_all(b"more")).await.unwrap();
}
