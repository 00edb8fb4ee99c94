//! TLS interception: a client that trusts our authority is seen inside its CONNECT, and only for hosts that are named.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, RootCertStore};
use tokio::sync::Notify;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::support::client::{Answer, Client, Stream};
use crate::support::origin::{Origin, Reply, Seen, answer, limited, message, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::{Authority, Tls, roots, secure};
use crate::support::within;

/// A host that is named, a sidecar that ends its TLS, and whom a client trusts.
struct Inside {
    origin: Origin,
    holdoff: Holdoff,
    ca: tempfile::TempDir,
    theirs: Authority,
}

impl Inside {
    async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with("", script).await
    }

    async fn with(more: &str, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let theirs = Authority::new();
        let origin = Origin::start_tls(theirs.acceptor(&["localhost", "127.0.0.1"]), script).await;
        let (ca, file) = (tempfile::tempdir().unwrap(), theirs.file());
        let holdoff = Holdoff::start(&format!(
            "[intercept]\nhosts = [\"localhost\", \"127.0.0.1:{}\"]\nca_dir = {:?}\n[upstream]\nca_files = [{file:?}]\n{more}",
            origin.address().port(),
            ca.path().join("ca"),
        ))
        .await;
        Self { origin, holdoff, ca, theirs }
    }

    fn port(&self) -> u16 {
        self.origin.address().port()
    }

    fn key(&self) -> String {
        format!("https://localhost:{}", self.port())
    }

    fn trust(&self) -> RootCertStore {
        roots(&self.ca.path().join("ca/ca.pem"))
    }

    /// A CONNECT to `host`, and its answer.
    async fn connect(&self, host: &str) -> (Client, Answer) {
        let target = format!("{host}:{}", self.port());
        connect(&self.holdoff, &target).await
    }

    /// TLS in a CONNECT to `host`, with a client that asks TLS for `name`.
    async fn tls(&self, host: &str, name: &str, alpn: &[&[u8]]) -> io::Result<Tls> {
        let (client, answer) = self.connect(host).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        secure(client, name, self.trust(), alpn).await
    }

    /// A client inside a session.
    async fn client(&self) -> Client {
        Client::over(self.tls("localhost", "localhost", &[b"http/1.1"]).await.unwrap())
    }

    async fn h2(&self) -> SendRequest<Empty<Bytes>> {
        let stream = self.tls("localhost", "localhost", &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A request in a session.
    fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", self.port())
    }

    async fn sessions(&self, result: &str) -> f64 {
        self.holdoff.metric(&format!("holdoff_intercepted_sessions_total{{result=\"{result}\"}}")).await
    }

    /// Waits until a session has ended so.
    async fn counted(&self, result: &str) {
        within(result, async {
            while self.sessions(result).await == 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

async fn connect(holdoff: &Holdoff, target: &str) -> (Client, Answer) {
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    let answer = client.answer("CONNECT").await;
    (client, answer)
}

fn leaf(stream: &Tls) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn is_ours(answer: &Answer) -> bool {
    answer.fields("holdoff").first().is_some_and(|marks| marks.starts_with("short-circuit; reason=rate_limited;"))
}

/// 429 with a wait of two seconds, then good answers.
fn limited_once(seen: &Seen) -> Reply {
    if seen.number == 0 { limited("2") } else { ok("fine") }
}

#[tokio::test]
async fn a_request_inside_is_forwarded_and_its_session_is_no_blind_spot() {
    let inside = Inside::start(|_| ok("fine")).await;
    let mut client = inside.client().await;
    for path in ["/a?b", "/"] {
        client.send(inside.get(path)).await;
        assert_eq!(client.answer("GET").await.text(), "fine");
        assert_eq!(inside.origin.last().target(), path);
    }
    let seen = inside.origin.last();
    assert_eq!(seen.field("host"), Some(&*format!("localhost:{}", inside.port())));
    assert!(seen.field("via").is_some());
    assert_eq!(inside.origin.connections(), 1, "kept alive on both sides");
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["only_connect"], &key["totals"]["tunnels"]), (&false.into(), &0.into()), "{key}");
    assert_eq!(key["totals"]["successes"], 2);
    let host = format!("localhost:{}", inside.port());
    assert_eq!(inside.holdoff.metric(&format!("holdoff_tunnels_total{{host=\"{host}\"}}")).await, 0.0);
    for (action, count) in [("forwarded", 2.0), ("cancelled", 0.0), ("refused", 0.0)] {
        let requests = format!("holdoff_requests_total{{action=\"{action}\",host=\"{host}\"}}");
        assert_eq!(inside.holdoff.metric(&requests).await, count, "{action}: the CONNECT asks nobody");
    }
    assert_eq!(inside.sessions("opened").await, 1.0);
    assert_eq!(inside.holdoff.metric("holdoff_intercepted_sessions_open").await, 1.0);
    assert_eq!(inside.holdoff.metric("holdoff_certificates_minted_total").await, 1.0);
}

#[tokio::test]
async fn a_request_inside_over_http2_is_forwarded() {
    let inside = Inside::start(|seen| if seen.number < 2 { ok("fine") } else { limited("60") }).await;
    let mut sender = inside.h2().await;
    let mut ask = async |url: String| -> (Response<()>, Bytes) {
        let request = Request::get(url).version(Version::HTTP_2).body(Empty::new()).unwrap();
        let (head, body) = within("an answer", sender.send_request(request)).await.unwrap().into_parts();
        (Response::from_parts(head, ()), body.collect().await.unwrap().to_bytes())
    };
    let url = |path: &str| format!("{}{path}", inside.key());
    let (head, body) = ask(url("/x")).await;
    assert_eq!((head.status().as_u16(), &body[..]), (200, &b"fine"[..]));
    assert_eq!(inside.origin.last().field("host"), Some(&*format!("localhost:{}", inside.port())));
    // Another host, another port, another scheme: none of them is the one of the CONNECT.
    for url in [
        format!("https://other.example:{}/", inside.port()),
        "https://localhost/".to_owned(),
        format!("http://localhost:{}/", inside.port()),
    ] {
        assert_eq!(ask(url.clone()).await.0.status(), 400, "{url}");
    }
    assert_eq!(inside.origin.count(), 1);
    assert_eq!(ask(url("/y")).await.0.status(), 200);
    assert_eq!(ask(url("/limited")).await.0.status(), 429);
    let (head, _) = ask(url("/again")).await;
    assert!(head.headers()["holdoff"].to_str().unwrap().contains("reason=rate_limited"));
    assert_eq!(inside.origin.count(), 3);
}

#[tokio::test]
async fn a_429_inside_cools_the_host_for_the_session_and_for_other_connects() {
    let inside = Inside::start(limited_once).await;
    let mut client = inside.client().await;
    client.send(inside.get("/limited")).await;
    let first = client.answer("GET").await;
    assert_eq!((first.status, first.field("retry-after"), first.text()), (429, "2", "slow down\n"));
    assert!(first.fields("holdoff").is_empty(), "the host's own answer");
    client.send(inside.get("/again")).await;
    let again = client.answer("GET").await;
    assert!(again.status == 429 && is_ours(&again), "{}", again.head);
    assert!(again.field("proxy-status").contains("proxy_internal_response"));
    let (_, refused) = inside.connect("localhost").await;
    assert!(refused.status == 429 && is_ours(&refused), "{}", refused.head);
    assert_eq!(inside.origin.count(), 1);
    // The same session goes on: after the deadline its request is the probe. A CONNECT is none, and does not wait for it.
    within("the end of the cooldown", async {
        while inside.connect("localhost").await.1.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut other = inside.client().await;
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["state"], &key["totals"]["probes"]), (&"probing".into(), &0.into()), "{key}");
    assert_eq!(inside.origin.count(), 1, "no CONNECT has asked the host");
    other.send(inside.get("/probe")).await;
    assert_eq!(other.answer("GET").await.status, 200);
    client.send(inside.get("/after")).await;
    assert_eq!(client.answer("GET").await.status, 200);
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["state"], &key["totals"]["probes"]), (&"clear".into(), &1.into()), "{key}");
    assert_eq!(inside.origin.count(), 3);
}

#[tokio::test]
async fn no_spelling_of_a_named_host_is_a_tunnel_or_escapes_its_cooldown() {
    let inside = Inside::start(|_| limited("60")).await;
    let spellings = ["LocalHost", "localhost.", "LOCALHOST."];
    for host in spellings {
        let stream = inside.tls(host, host.trim_end_matches('.'), &[]).await.unwrap();
        assert_eq!(leaf(&stream), leaf(&inside.tls("localhost", "localhost", &[]).await.unwrap()), "{host}");
    }
    let mut client = inside.client().await;
    client.send(inside.get("/")).await;
    assert!(!is_ours(&client.answer("GET").await));
    for host in spellings {
        let (_, refused) = inside.connect(host).await;
        assert!(refused.status == 429 && is_ours(&refused), "{host}: {}", refused.head);
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}:{}\r\n\r\n", inside.port())).await;
        assert!(is_ours(&client.answer("GET").await), "{host}");
    }
    // Neither host nor address, whatever a dialler would make of it.
    for host in ["localhost..", "0x7f.1", "2130706433", "user@localhost"] {
        assert_eq!(inside.connect(host).await.1.status, 400, "{host}");
    }
    assert_eq!(inside.origin.count(), 1);
}

#[tokio::test]
async fn a_connect_is_not_the_probe_of_a_frozen_host_either() {
    let inside = Inside::start(|_| ok("fine")).await;
    let path = format!("/api/v1/cooldowns?key={}", inside.key());
    let mut client = inside.client().await;
    assert_eq!(inside.holdoff.ask_admin("PUT", &path, r#"{"for": "1s"}"#).await.status, 200);
    assert_eq!(inside.connect("localhost").await.1.status, 503);
    client.send(inside.get("/")).await;
    assert_eq!(client.answer("GET").await.status, 503, "the session that is open is answered, too");
    within("the end of the freeze", async {
        while inside.connect("localhost").await.1.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["state"], &key["totals"]["probes"]), (&"probing".into(), &0.into()), "{key}");
    client.send(inside.get("/")).await;
    assert_eq!(client.answer("GET").await.status, 200);
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["state"], &key["totals"]["probes"]), (&"clear".into(), &1.into()), "{key}");
}

#[tokio::test]
async fn a_host_that_is_not_named_is_a_tunnel_to_its_own_certificate() {
    let theirs = Authority::new();
    let origin = Origin::start_tls(theirs.acceptor(&["localhost"]), |_| limited("60")).await;
    let ca = tempfile::tempdir().unwrap();
    let holdoff = Holdoff::start(&format!(
        "[intercept]\nhosts = [\"peer.example\", \"localhost:1\"]\nca_dir = {:?}\n",
        ca.path().join("ca")
    ))
    .await;
    let target = format!("localhost:{}", origin.address().port());
    for _ in 0..2 {
        let (client, answer) = connect(&holdoff, &target).await;
        assert_eq!(answer.status, 200);
        // A client that trusts the host's authority, and not ours.
        let mut client = Client::over(secure(client, "localhost", roots(&theirs.file()), &[]).await.unwrap());
        client.send(format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        let answer = client.answer("GET").await;
        assert_eq!(
            format!("{}\r\n\r\n{}", answer.head, answer.text()).into_bytes(),
            message(429, "Too Many Requests", &[("Retry-After", "60")], "slow down\n"),
        );
        let seen = origin.last();
        assert_eq!(seen.head, format!("GET / HTTP/1.1\r\nHost: {target}"), "not a byte is ours");
    }
    assert_eq!(origin.count(), 2, "what happens inside is not seen");
    assert_eq!(holdoff.metric(&format!("holdoff_tunnels_total{{host=\"{target}\"}}")).await, 2.0);
    assert_eq!(holdoff.metric("holdoff_intercepted_sessions_total{result=\"opened\"}").await, 0.0);
}

#[tokio::test]
async fn a_bad_certificate_of_the_host_is_a_502_inside_and_never_signed_anew() {
    let inside = Inside::start(|_| ok("never")).await;
    let stranger = Authority::new();
    let origin = Origin::start_tls(stranger.acceptor(&["localhost"]), |_| ok("never")).await;
    let target = format!("localhost:{}", origin.address().port());
    let (client, answer) = connect(&inside.holdoff, &target).await;
    assert_eq!(answer.status, 200);
    let mut client = Client::over(secure(client, "localhost", inside.trust(), &[]).await.unwrap());
    for _ in 0..2 {
        client.send(format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        let answer = client.answer("GET").await;
        assert_eq!(answer.status, 502);
        assert!(answer.field("proxy-status").contains("tls_certificate_error"), "{}", answer.head);
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn the_name_in_tls_must_be_that_of_the_connect() {
    let inside = Inside::start(|_| ok("fine")).await;
    let error = inside.tls("localhost", "other.example", &[]).await.unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap();
    assert!(
        matches!(error, rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)),
        "expected a refusal in words of TLS, found {error:?}"
    );
    inside.counted("name_mismatch").await;
    // The CONNECT to an address says no name that TLS could have.
    let error = inside.tls("127.0.0.1", "localhost", &[]).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    // In another spelling it is the same name.
    let stream = inside.tls("LocalHost.", "localhost", &[]).await.unwrap();
    let mut client = Client::over(stream);
    client.send(inside.get("/")).await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    assert_eq!(inside.sessions("opened").await, 1.0);
}

#[tokio::test]
async fn the_host_of_a_request_must_be_that_of_the_connect() {
    let inside = Inside::start(|_| ok("fine")).await;
    let port = inside.port();
    for (target, host) in [
        ("/".to_owned(), "other.example".to_owned()),
        ("/".to_owned(), "localhost".to_owned()),
        ("/".to_owned(), format!("127.0.0.1:{port}")),
        (format!("https://other.example:{port}/"), format!("localhost:{port}")),
        (format!("http://localhost:{port}/"), format!("localhost:{port}")),
    ] {
        let mut client = inside.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let answer = client.answer("GET").await;
        assert_eq!(answer.status, 400, "{target} {host}: {}", answer.text());
        assert_eq!(client.rest().await, b"", "closed in order");
    }
    assert_eq!(inside.origin.count(), 0);
    for (target, host) in [
        ("/".to_owned(), format!("LOCALHOST.:{port}")),
        (format!("https://localhost:{port}/"), format!("localhost:{port}")),
    ] {
        let mut client = inside.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.status, 200, "{target} {host}");
        assert_eq!(inside.origin.last().target(), "/");
        assert_eq!(inside.origin.last().field("host"), Some(&*host), "as the client wrote it");
    }
}

#[tokio::test]
async fn inside_is_no_way_to_anywhere_else() {
    let inside = Inside::start(|_| ok("fine")).await;
    let port = inside.port();
    let mut client = inside.client().await;
    client.send(format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")).await;
    assert_eq!(client.answer("CONNECT").await.status, 501);
    let mut client = inside.client().await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nProxy-Authorization: Basic YTpi\r\nConnection: x-a\r\nX-A: b\r\n\r\n"))
        .await;
    assert_eq!(client.answer("GET").await.status, 200);
    let seen = inside.origin.last();
    assert_eq!((seen.field("proxy-authorization"), seen.field("x-a")), (None, None), "{}", seen.head);
    let via = seen.field("via").unwrap().to_owned();
    client.send(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nVia: {via}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.status, 508);
    client.send(format!("TRACE / HTTP/1.1\r\nHost: localhost:{port}\r\nMax-Forwards: 0\r\n\r\n")).await;
    assert!(client.answer("TRACE").await.text().starts_with("TRACE /"));
    // Without ALPN there is no HTTP/2, whatever the bytes say.
    let mut client = inside.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(client.answer("PRI").await.status, 400);
    assert_eq!(inside.origin.count(), 1);
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_never_tunnelled() {
    let inside = Inside::with("[limits]\nheader_timeout = \"300ms\"\n", |_| ok("fine")).await;
    let (mut client, _) = inside.connect("localhost").await;
    client.send(inside.get("/")).await;
    assert_eq!(client.rest().await, b"");
    inside.counted("not_tls").await;
    // A record of TLS with nonsense in it.
    let (mut client, _) = inside.connect("localhost").await;
    client.send([22, 3, 1, 0, 4, 1, 0, 0, 0]).await;
    client.rest().await;
    inside.counted("handshake_failed").await;
    // Half of one, and nothing at all.
    for start in [&[22, 3][..], &[]] {
        let (mut client, _) = inside.connect("localhost").await;
        client.send(start).await;
        assert_eq!(client.rest().await, b"");
    }
    assert_eq!(inside.sessions("timed_out").await, 2.0);
    // Bytes that came with the CONNECT count as well.
    let mut client = inside.holdoff.client().await;
    let target = format!("localhost:{}", inside.port());
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nSSH-2.0-x\r\n")).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    assert_eq!(client.rest().await, b"");
    assert_eq!(inside.sessions("not_tls").await, 2.0);
    assert_eq!(inside.origin.connections(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_apart() {
    let inside = Inside::start(|_| ok("fine")).await;
    let (client, _) = inside.connect("localhost").await;
    assert!(secure(client, "localhost", roots(&inside.theirs.file()), &[]).await.is_err());
    inside.counted("distrusted").await;
    assert_eq!(inside.sessions("opened").await, 0.0);
}

#[tokio::test]
async fn the_certificate_of_an_address_has_the_address_in_it() {
    let inside = Inside::start(|_| ok("fine")).await;
    let names = |stream: &Tls| {
        let leaf = leaf(stream);
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        names
            .value
            .general_names
            .iter()
            .map(|name| match name {
                GeneralName::DNSName(name) => format!("DNS:{name}"),
                GeneralName::IPAddress(address) => format!("IP:{address:?}"),
                other => format!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let stream = inside.tls("127.0.0.1", "127.0.0.1", &[]).await.unwrap();
    assert_eq!(names(&stream), ["IP:[127, 0, 0, 1]"]);
    let mut client = Client::over(stream);
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", inside.origin.address())).await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    let stream = inside.tls("localhost", "localhost", &[]).await.unwrap();
    assert_eq!(names(&stream), ["DNS:localhost"]);
}

#[tokio::test]
async fn a_websocket_inside_passes_both_ways() {
    let inside = Inside::start(|_| {
        Reply::Echo(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec())
    })
    .await;
    let mut client = inside.client().await;
    client
        .send(format!(
            "GET /ws HTTP/1.1\r\nHost: localhost:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            inside.port()
        ))
        .await;
    assert_eq!(client.answer("GET").await.status, 101);
    for word in ["ping", "once more"] {
        client.send(word).await;
        assert_eq!(client.bytes(word.len()).await, word.as_bytes());
    }
    client.finish().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn events_inside_arrive_one_by_one() {
    let gate = Arc::new(Notify::new());
    let held = Arc::clone(&gate);
    let inside = Inside::start(move |seen| {
        if seen.target() == "/slow" {
            return Reply::Gate(Arc::clone(&held), message(200, "OK", &[], "late"));
        }
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n".to_vec();
        Reply::Slow(vec![head, b"data: 2\n\n".to_vec(), b"data: 3\n\n".to_vec()], Duration::from_millis(50))
    })
    .await;
    let mut client = inside.client().await;
    client.send(inside.get("/events")).await;
    let mut text = String::new();
    while !text.contains("data: 1\n\n") {
        text.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
    }
    assert!(!text.contains("data: 2"), "each as it comes");
    while !text.contains("data: 3\n\n") {
        text.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
    }
    // The answer of another session does not wait behind it.
    let mut other = inside.client().await;
    other.send(inside.get("/slow")).await;
    gate.notify_one();
    assert_eq!(other.answer("GET").await.text(), "late");
}

#[tokio::test]
async fn a_body_behind_an_answer_of_ours_is_drained_and_the_session_goes_on() {
    let inside = Inside::start(|seen| if seen.number == 0 { limited("60") } else { ok("fine") }).await;
    let mut client = inside.client().await;
    client.send(inside.get("/limited")).await;
    assert_eq!(client.answer("GET").await.status, 429);
    let (port, body) = (inside.port(), "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100));
    for _ in 0..2 {
        client
            .send(format!("POST /x HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
            .await;
        let answer = client.answer("POST").await;
        assert!(is_ours(&answer) && answer.fields("connection").is_empty(), "{}", answer.head);
    }
    assert_eq!(
        inside.holdoff.ask_admin("DELETE", &format!("/api/v1/cooldowns?key={}", inside.key()), "").await.status,
        200
    );
    client.send(inside.get("/after")).await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    assert_eq!(inside.origin.count(), 2);
    assert_eq!(inside.origin.last().target(), "/after");
}

#[tokio::test]
async fn an_expectation_and_early_answers_inside_pass() {
    let inside = Inside::start(|_| {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
        bytes.extend(message(200, "OK", &[], "done"));
        Reply::Bytes(bytes)
    })
    .await;
    let mut client = inside.client().await;
    client.send(inside.get("/hints")).await;
    assert_eq!(client.answer("GET").await.status, 103);
    assert_eq!(client.answer("GET").await.text(), "done");
}

#[tokio::test]
async fn an_idle_session_ends_with_the_words_of_tls() {
    let inside = Inside::with("[limits]\nkeepalive_timeout = \"200ms\"\n", |_| ok("fine")).await;
    let mut stream = inside.tls("localhost", "localhost", &[]).await.unwrap();
    let mut rest = Vec::new();
    // Without a `close_notify` this is an error of rustls.
    let read = within("the end", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
    assert_eq!((read.unwrap(), rest), (0, Vec::new()));
}

#[tokio::test]
async fn a_drain_ends_idle_sessions_and_finishes_busy_ones() {
    let gate = Arc::new(Notify::new());
    let (held, asked) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let inside = Inside::start(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Reply::Gate(Arc::clone(&held), message(200, "OK", &[], "late"))
    })
    .await;
    let (mut idle, mut busy) = (inside.client().await, inside.client().await);
    let (mut half, _) = inside.connect("localhost").await;
    busy.send(inside.get("/")).await;
    crate::support::until("the request at the host", || asked.load(Ordering::SeqCst) == 1).await;
    let Inside { holdoff, origin: _origin, ca: _ca, .. } = inside;
    let ending = tokio::spawn(holdoff.shutdown());
    assert_eq!(idle.rest().await, b"");
    assert_eq!(half.rest().await, b"");
    gate.notify_one();
    let answer = busy.answer("GET").await;
    assert_eq!((answer.text(), answer.field("connection")), ("late", "close"));
    within("the end", ending).await.unwrap();
}

#[tokio::test]
async fn a_connect_inside_http2_is_a_session_as_well() {
    let inside = Inside::start(limited_once).await;
    let stream = tokio::net::TcpStream::connect(inside.holdoff.proxy()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request =
        Request::connect(format!("localhost:{}", inside.port())).version(Version::HTTP_2).body(Empty::new()).unwrap();
    let response = within("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let upgraded: Box<dyn Stream> = Box::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap()));
    let stream = secure(Client::over(upgraded), "localhost", inside.trust(), &[b"http/1.1"]).await.unwrap();
    let mut client = Client::over(stream);
    client.send(inside.get("/")).await;
    assert_eq!(client.answer("GET").await.status, 429);
    client.send(inside.get("/")).await;
    assert!(is_ours(&client.answer("GET").await));
    assert_eq!(inside.origin.count(), 1);
}

#[tokio::test]
async fn a_host_in_mode_observe_is_forwarded_and_what_would_be_saved_is_counted_once() {
    let inside = Inside::with("[defaults]\nmode = \"observe\"\n", |seen| {
        if seen.number == 0 { limited("60") } else { answer(200, "OK", &[], "fine") }
    })
    .await;
    for status in [429, 200] {
        let mut client = inside.client().await;
        client.send(inside.get("/")).await;
        assert_eq!(client.answer("GET").await.status, status);
    }
    let key = inside.holdoff.key(&inside.key()).await;
    assert_eq!((&key["totals"]["would_have"], &key["state"]), (&1.into(), &"cooling".into()), "{key}");
}
