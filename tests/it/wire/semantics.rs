//! What an intermediary owes the meaning of messages (RFC 9110 §4, §7 to §15, RFC 6585, RFC 9209).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peer::Echo;
use crate::support::client::{Answer, Client};
use crate::support::host::Host;
use crate::support::origin::{Origin, Reply, answer, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::within;

const MOMENT: Duration = Duration::from_millis(150);

/// A GET of `/` with more fields.
fn ask(host: SocketAddr, more: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

#[tokio::test]
async fn rfc9110_4_2_empty_host_is_refused() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    for target in ["http:///", "http://:80/", "http://", "http://@/", "http://?q", "http:"] {
        let mut client = holdoff.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).await;
        let refused = client.answer("GET").await;
        assert_eq!(refused.status, 400, "{target}: {}", refused.head);
    }
    assert_eq!(origin.connections(), 0, "`Host` does not stand in for it");
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn rfc9110_4_3_4_upstream_certificate_is_verified() {
    let (known, stranger) = (Authority::new(), Authority::new());
    let good = Origin::start_tls(known.acceptor(&["127.0.0.1"]), |_| ok("fine")).await;
    let bad = [
        Origin::start_tls(stranger.acceptor(&["127.0.0.1"]), |_| ok("evil")).await,
        Origin::start_tls(known.acceptor(&["other.example"]), |_| ok("evil")).await,
        Origin::start_tls(known.acceptor_until(&["127.0.0.1"], Some(2020)), |_| ok("evil")).await,
    ];
    let mut toml = format!("[upstream]\nplatform_roots = false\nca_files = [{:?}]\n", known.file());
    for (path, origin) in ["/0", "/1", "/2", "/good"].into_iter().zip(bad.iter().chain([&good])) {
        // One address for all, so that one connection of the client meets all of them.
        toml.push_str(&format!(
            "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://{}\"\npath = \"{path}\"\n",
            origin.address()
        ));
    }
    let holdoff = Holdoff::start(&toml).await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    for path in ["/0", "/good", "/1", "/good", "/2", "/good"] {
        client.send(format!("GET {path}/ HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n")).await;
        let got = client.answer("GET").await;
        let expected = if path == "/good" { (200, true) } else { (502, false) };
        assert_eq!((got.status, got.text() == "fine"), expected, "{path}: {}", got.head);
    }
    assert!(bad.iter().all(|origin| origin.count() == 0), "no request goes to a host that is not who it should be");
}

#[tokio::test]
async fn rfc9110_7_6_never_to_itself() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n").await;
    let mut client = holdoff.client().await;
    for at in [holdoff.proxy(), holdoff.admin()] {
        for host in ["127.0.0.1", "localhost", "LOCALHOST.", "[::ffff:127.0.0.1]"] {
            let got = client.get(&format!("http://{host}:{}/", at.port())).await;
            assert_eq!(got.status, 508, "{host}: {}", got.head);
        }
    }
    // Also through somebody else: the message says where it has been.
    for via in ["1.1 edge-7", "1.0 a, 1.1 EDGE-7 (x)", "1.1 a\r\nVia: 1.1 edge-7"] {
        client.send(ask(origin.address(), &format!("Via: {via}\r\n"))).await;
        assert_eq!(client.answer("GET").await.status, 508, "{via}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(client.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn rfc9110_7_6_2_max_forwards() {
    let origin = Origin::start(|_| ok("far")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for (method, given, sent) in [
        ("OPTIONS", "0", None),
        ("TRACE", "0", None),
        ("OPTIONS", "1", Some("0")),
        ("TRACE", "1", Some("0")),
        ("OPTIONS", "10", Some("9")),
        // For other methods it means nothing.
        ("GET", "0", Some("0")),
        ("POST", "1", Some("1")),
    ] {
        let before = origin.count();
        client
            .send(format!(
                "{method} http://{host}/x HTTP/1.1\r\nHost: {host}\r\nMax-Forwards: {given}\r\nAuthorization: secret\r\n\
                 Cookie: secret\r\nX-Seen: 1\r\n\r\n"
            ))
            .await;
        let got = client.answer(method).await;
        assert_eq!(got.status, 200, "{method} {given}");
        assert_eq!(origin.count() - before, usize::from(sent.is_some()), "{method} {given}");
        match sent {
            Some(sent) => assert_eq!(origin.last().field("max-forwards"), Some(sent), "{method} {given}"),
            None if method == "TRACE" => {
                assert_eq!(got.field("content-type"), "message/http");
                assert!(got.text().contains("x-seen: 1") && !got.text().contains("secret"), "{}", got.text());
            }
            None => assert!(got.field("allow").contains("OPTIONS"), "{}", got.head),
        }
    }
    // An answer of ours behind a body is no other than a synthetic one.
    let evil = ask(host, "");
    client
        .send(format!(
            "OPTIONS http://{host}/ HTTP/1.1\r\nHost: {host}\r\nMax-Forwards: 0\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n{evil}",
            evil.len()
        ))
        .await;
    let before = origin.count();
    let got = client.answer("OPTIONS").await;
    assert_eq!((got.status, got.field("connection")), (200, "close"), "no 100 for a body that nobody reads");
    assert_eq!((client.rest().await.len(), origin.count()), (0, before));
}

#[tokio::test]
async fn rfc9110_7_6_3_via_both_directions() {
    let origin = Origin::start(|seen| {
        let version = if seen.target() == "/old" { "1.0" } else { "1.1" };
        Reply::Close(format!("HTTP/{version} 200 OK\r\nVia: 1.1 far\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n").await;
    let host = origin.address();
    for (path, version, sent, got) in [
        ("/new", "1.1", "1.1 near, 1.1 edge-7", "1.1 far, 1.1 edge-7"),
        ("/new", "1.0", "1.1 near, 1.0 edge-7", "1.1 far, 1.1 edge-7"),
        ("/old", "1.1", "1.1 near, 1.1 edge-7", "1.1 far, 1.0 edge-7"),
    ] {
        let mut client = holdoff.client().await;
        client.send(format!("GET http://{host}{path} HTTP/{version}\r\nHost: {host}\r\nVia: 1.1 near\r\n\r\n")).await;
        let answer = client.answer("GET").await;
        assert_eq!((origin.last().field("via"), answer.field("via")), (Some(sent), got), "{path} {version}");
    }
}

#[tokio::test]
async fn rfc9110_7_7_target_unchanged() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for (target, sent) in [
        ("/", "/"),
        ("", "/"),
        ("?q=1", "/?q=1"),
        ("/?", "/?"),
        ("/a/../b/./c//d", "/a/../b/./c//d"),
        ("/%7Euser/%2f%2F/%41", "/%7Euser/%2f%2F/%41"),
        ("/a;b=c,d:e@f!$&'()*+=~", "/a;b=c,d:e@f!$&'()*+=~"),
        ("/?b=2&a=1&&a=%20+&=", "/?b=2&a=1&&a=%20+&="),
        ("//double", "//double"),
        ("/q?http://evil/?x", "/q?http://evil/?x"),
    ] {
        client.send(format!("GET http://{host}{target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.status, 200, "{target}");
        assert_eq!((origin.last().target(), origin.last().field("host")), (sent, Some(host.to_string().as_str())));
    }
    // The host is named as the client names it.
    let named = format!("LocalHost:{}", host.port());
    client.send(format!("GET http://{named}/ HTTP/1.1\r\nHost: {named}\r\n\r\n")).await;
    assert_eq!(client.answer("GET").await.status, 200);
    assert_eq!(origin.last().field("host"), Some(named.as_str()));
}

#[tokio::test]
async fn rfc9110_7_7_target_unchanged_so_that_one_with_a_fragment_is_refused() {
    let echo = Echo::start().await;
    for door in echo.stage.doors() {
        for path in ["/#", "/a#b", "/a?x#y", "#b", "#/a"] {
            // On a reverse port `#b` alone is no target at all.
            echo.refuses(door, door.head("GET", path, ""), 400).await;
        }
        echo.refuses(door, format!("GET http://{}#b HTTP/1.1\r\nHost: {}\r\n\r\n", door.host, door.host), 400).await;
        echo.refuses(door, door.head("OPTIONS", "/#", ""), 400).await;
    }
}

#[tokio::test]
async fn rfc9110_7_7_no_transform() {
    let bytes: Vec<u8> = (0..=255).collect();
    let (sent, expected) = (bytes.clone(), bytes.clone());
    let fields = "Content-Type: text/html; charset=x-odd\r\nContent-Encoding: gzip\r\nContent-MD5: odd\r\nETag: W/\"1\"\r\n\
                  Cache-Control: no-transform\r\nWarning: 199 - \"x\"\r\nAccept-Ranges: bytes";
    let origin = Origin::start(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n", sent.len());
        Reply::Bytes([head.as_bytes(), &sent].concat())
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    let head = format!(
        "PUT http://{host}/ HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: br;q=0, identity\r\n{fields}\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    client.send([head.as_bytes(), &bytes].concat()).await;
    let got = client.answer("PUT").await;
    let seen = origin.last();
    assert!(got.body == expected && seen.body == expected);
    assert_eq!(seen.field("accept-encoding"), Some("br;q=0, identity"));
    for line in fields.split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        assert_eq!((got.field(name), seen.field(name)), (value, Some(value)));
    }
    // The length of what a GET would bring.
    let head = Origin::start(|_| Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec())).await;
    for _ in 0..2 {
        client.send(format!("HEAD {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", head.url(), head.address())).await;
        let got = client.answer("HEAD").await;
        assert_eq!((got.status, got.field("content-length")), (200, "1234"));
    }
}

#[tokio::test]
async fn rfc9110_7_8_upgrade_only_with_connection() {
    let origin = Origin::start(|seen| ok(seen.field("upgrade").unwrap_or("none"))).await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    for (version, fields, sent) in [
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("Upgrade")),
        ("1.1", "Connection: keep-alive, uPGRADE\r\nUpgrade: websocket\r\n", Some("Upgrade")),
        ("1.1", "Upgrade: websocket\r\n", None),
        ("1.1", "Connection: keep-alive\r\nUpgrade: websocket\r\n", None),
        ("1.1", "Connection: Upgrade\r\n", None),
        // Inside it nothing could be seen.
        ("1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", None),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
    ] {
        client.send(format!("GET http://{host}/ HTTP/{version}\r\nHost: {host}\r\n{fields}\r\n")).await;
        let got = client.answer("GET").await;
        assert_eq!(got.text(), if sent.is_some() { "websocket" } else { "none" }, "{fields:?}");
        assert_eq!(
            (origin.last().field("connection"), origin.last().field("http2-settings")),
            (sent, None),
            "{fields:?}"
        );
    }
}

#[tokio::test]
async fn rfc9110_7_8_bytes_after_an_upgrade_request_wait_for_the_101() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(host.address, "Connection: Upgrade\r\nUpgrade: websocket\r\n")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    client.send("early").await;
    line.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 103);
    assert!(line.is_silent(MOMENT).await, "nothing may pass before the 101");
    line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nfirst").await;
    assert_eq!(client.answer("GET").await.status, 101);
    assert_eq!(client.bytes(5).await, b"first");
    line.until("early").await;
    drop(client);
    line.ends().await;
}

#[tokio::test]
async fn rfc9110_7_8_bytes_after_an_upgrade_request_wait_for_the_101_however_many() {
    // More than any buffer of ours: what does not fit waits with the client, and none is lost.
    let early: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(host.address, "Connection: Upgrade\r\nUpgrade: websocket\r\n")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    let sent = early.clone();
    let sending = tokio::spawn(async move {
        client.send(&sent).await;
        client.answer("GET").await
    });
    assert!(line.is_silent(MOMENT).await);
    line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let mut read = vec![0; early.len()];
    within("the early bytes", line.stream.read_exact(&mut read)).await.unwrap();
    assert!(read == early);
    assert_eq!(sending.await.unwrap().status, 101);
}

#[tokio::test]
async fn rfc9110_7_8_unsolicited_101_opens_nothing() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(host.address, "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nevil").await;
    let got = client.answer("GET").await;
    assert_eq!((got.status, got.text().contains("evil")), (502, false), "{}", got.head);
    client.send(ask(host.address, "X-Next: 1\r\n")).await;
    // Nothing more is said on a connection of which nobody knows what it speaks.
    line.ends().await;
    assert!(line.buffer.is_empty());
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
    assert_eq!(client.answer("GET").await.text(), "fine");
}

#[tokio::test]
async fn rfc9110_8_6_no_cl_in_1xx() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(host.address, "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\nLink: </a>\r\n\r\n").await;
    let early = client.answer("GET").await;
    assert_eq!((early.status, early.field("link"), early.fields("content-length").len()), (103, "</a>", 0));
    line.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    // And in the one that ends as a tunnel.
    client.send(ask(host.address, "Connection: Upgrade\r\nUpgrade: x\r\n")).await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 101 Switching Protocols\r\nContent-Length: 4\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw")
        .await;
    let switched = client.answer("GET").await;
    assert_eq!((switched.status, switched.fields("content-length").len()), (101, 0));
    assert_eq!(client.bytes(3).await, b"raw");
}

#[tokio::test]
async fn rfc9110_8_6_no_cl_in_204() {
    let origin = Origin::start(|seen| match seen.target() {
        "/none" => Reply::Bytes(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => ok("fine"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for _ in 0..3 {
        let got = client.get(&format!("{}/none", origin.url())).await;
        assert_eq!(
            (got.status, got.fields("content-length").len(), got.fields("transfer-encoding").len()),
            (204, 0, 0)
        );
        assert_eq!(client.get(&format!("{}/", origin.url())).await.text(), "fine");
    }
    assert_eq!(origin.connections(), 1, "a 204 is whole without a body");
}

#[tokio::test]
async fn rfc9110_9_2_2_no_automatic_retry() {
    // Each takes a used connection and breaks it with the request read: the host may have acted on it.
    for method in ["POST", "PATCH", "DELETE", "GET"] {
        for reset in [false, true] {
            let origin = Origin::start(move |seen| match seen.target() {
                "/" => ok("fine"),
                _ if reset => Reply::Reset,
                _ => Reply::Close(Vec::new()),
            })
            .await;
            let holdoff = Holdoff::start("").await;
            let (mut client, host) = (holdoff.client().await, origin.address());
            assert_eq!(client.get(&format!("http://{host}/")).await.text(), "fine");
            client
                .send(format!("{method} http://{host}/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nok"))
                .await;
            let got = client.answer(method).await;
            assert_eq!(got.status, 502, "{method} {reset}: {}", got.head);
            assert_eq!((origin.count(), origin.connections()), (2, 1), "{method} {reset}: sent once");
            assert_eq!(holdoff.get(&format!("http://{host}/")).await.text(), "fine");
        }
    }
}

#[tokio::test]
async fn rfc9110_10_1_1_expect() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let upload = |more: &str| {
        format!(
            "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n{more}\r\n",
            host.address
        )
    };
    client.send(upload("")).await;
    let mut line = host.accept().await;
    let head = line.until("\r\n\r\n").await;
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "the expectation is the host's to meet: {head}");
    assert!(line.is_silent(MOMENT).await);
    line.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.answer("PUT").await.status, 100);
    client.send("body").await;
    line.until("body").await;
    line.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer("PUT").await.status, 201, "one 100 and no second");
    // A final answer instead: no 100, and the body that was not sent is not waited for.
    client.send(upload("")).await;
    line.until("\r\n\r\n").await;
    line.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let got = client.answer("PUT").await;
    assert_eq!((got.status, got.text(), got.field("connection")), (417, "no", "close"));
    assert_eq!(client.rest().await, b"");
    line.ends().await;
    assert_eq!(line.buffer, b"");
    // Of several expectations the last one counts, for who sends the 100 and for who waits for it.
    for (more, asked) in [("Expect: x\r\n", false), ("Expect: x\r\nExpect: 100-continue\r\n", true)] {
        let echo = Origin::start(|seen| ok(std::str::from_utf8(&seen.body).unwrap())).await;
        let mut client = holdoff.client().await;
        client.send(upload(more).replace(&host.address.to_string(), &echo.address().to_string())).await;
        if asked {
            assert_eq!(client.answer("PUT").await.status, 100);
        }
        client.send("body").await;
        assert_eq!(client.answer("PUT").await.text(), "body", "{more:?}");
    }
    // Other expectations are the host's business.
    let origin = Origin::start(|seen| ok(&seen.fields("expect").join("|"))).await;
    let mut client = holdoff.client().await;
    client.send(ask(origin.address(), "Expect: x-odd=1\r\n")).await;
    assert_eq!(client.answer("GET").await.text(), "x-odd=1");
    // An old client knows no 100 and gets none, whatever it says.
    let mut client = holdoff.client().await;
    client.send(upload("").replace("HTTP/1.1", "HTTP/1.0") + "body").await;
    let mut line = host.accept().await;
    line.until("body").await;
    line.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
    assert_eq!(client.answer("PUT").await.text(), "fine");
}

#[tokio::test]
async fn rfc9110_11_6_www_authenticate_and_authorization_are_untouched() {
    const CHALLENGES: [&str; 3] = ["Basic realm=\"a, b\", Digest nonce=\"x\"", "Negotiate", "Bearer"];
    let origin = Origin::start(|_| {
        let fields: Vec<(&str, &str)> = CHALLENGES
            .map(|value| ("WWW-Authenticate", value))
            .into_iter()
            .chain([("Authentication-Info", "x=1")])
            .collect();
        answer(401, "Unauthorized", &fields, "no")
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(origin.address(), "Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=0f\r\n")).await;
    let got = client.answer("GET").await;
    assert_eq!((got.status, got.text(), got.field("authentication-info")), (401, "no", "x=1"));
    assert_eq!(got.fields("www-authenticate"), CHALLENGES);
    assert_eq!(origin.last().field("authorization"), Some("AWS4-HMAC-SHA256 Credential=a/b, Signature=0f"));
}

async fn with_users() -> (Holdoff, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("ann:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    (Holdoff::start(&format!("[listen]\naddress = [\"127.0.0.1:0\"]\nauth_file = {file:?}\n")).await, dir)
}

#[tokio::test]
async fn rfc9110_11_7_proxy_authorization_is_consumed() {
    let origin = Origin::start(|_| ok("fine")).await;
    let (guarded, _dir) = with_users().await;
    // Also where nobody asked for it: it is meant for a proxy and for no host.
    for holdoff in [guarded, Holdoff::start("").await] {
        let mut client = holdoff.client().await;
        // ann:word
        let more = "Proxy-Authorization: Basic YW5uOndvcmQ=\r\nAuthorization: kept\r\n";
        client.send(ask(origin.address(), more)).await;
        assert_eq!(client.answer("GET").await.text(), "fine");
        let seen = origin.last();
        assert_eq!((seen.field("proxy-authorization"), seen.field("authorization")), (None, Some("kept")));
    }
}

#[tokio::test]
async fn rfc9110_11_7_407_carries_proxy_authenticate() {
    let origin = Origin::start(|_| ok("fine")).await;
    let (holdoff, _dir) = with_users().await;
    for more in [
        "",
        "Proxy-Authorization: Basic YW5uOndyb25n\r\n",
        "Proxy-Authorization: Bearer x\r\n",
        "Authorization: Basic YW5uOndvcmQ=\r\n",
    ] {
        let mut client = holdoff.client().await;
        client.send(ask(origin.address(), more)).await;
        let got = client.answer("GET").await;
        assert_eq!((got.status, got.fields("www-authenticate").len()), (407, 0), "{more:?}");
        assert!(got.field("proxy-authenticate").starts_with("Basic realm="), "{}", got.head);
        // A client asks again on the same connection.
        client.send(ask(origin.address(), "Proxy-Authorization: Basic YW5uOndvcmQ=\r\n")).await;
        assert_eq!(client.answer("GET").await.text(), "fine");
        let mut client = holdoff.client().await;
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{more}\r\n", origin.address())).await;
        let got = client.answer("GET").await;
        assert_eq!(got.status, 407);
        assert!(got.field("proxy-authenticate").starts_with("Basic realm="), "{}", got.head);
    }
}

#[tokio::test]
async fn rfc9110_11_7_407_carries_proxy_authenticate_of_ours_and_never_a_hosts() {
    let fields = [
        ("Proxy-Authenticate", "Basic realm=\"host\""),
        ("Proxy-Authentication-Info", "nextnonce=1"),
        ("Authentication-Info", "nextnonce=2"),
    ];
    let origin = Origin::start(move |_| answer(407, "Proxy Authentication Required", &fields, "whose?")).await;
    let got = Holdoff::start("").await.get(&origin.url()).await;
    assert_eq!((got.status, got.text(), got.field("authentication-info")), (407, "whose?", "nextnonce=2"));
    assert!(got.fields("proxy-authenticate").is_empty(), "{}", got.head);
    assert!(got.fields("proxy-authentication-info").is_empty(), "{}", got.head);
}

#[tokio::test]
async fn rfc9110_13_2_1_conditionals_are_untouched() {
    const CONDITIONS: [(&str, &str); 6] = [
        ("If-Match", "\"a\", W/\"b\""),
        ("If-None-Match", "*"),
        ("If-Modified-Since", "Friday, 20-Nov-20 10:00:00 GMT"),
        ("If-Unmodified-Since", "junk"),
        ("If-Range", "\"a\""),
        ("Range", "bytes=0-1,5-"),
    ];
    let origin = Origin::start(|seen| match seen.target() {
        "/304" => Reply::Bytes(
            b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nCache-Control: max-age=5\r\nVary: x\r\nExpires: 0\r\nContent-Length: 9\r\n\r\n"
                .to_vec(),
        ),
        "/206" => answer(206, "Partial Content", &[("Content-Range", "bytes 0-1/9")], "ab"),
        "/416" => answer(416, "Range Not Satisfiable", &[("Content-Range", "bytes */9")], ""),
        _ => answer(412, "Precondition Failed", &[("ETag", "W/\"b\"")], "no"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let (mut client, host) = (holdoff.client().await, origin.address());
    let more: String = CONDITIONS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for path in ["/304", "/206", "/416", "/412"] {
        client.send(format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await;
        let got = client.answer("GET").await;
        assert_eq!(format!("/{}", got.status), path);
        for (name, value) in CONDITIONS {
            assert_eq!(origin.last().field(name), Some(value));
        }
        match got.status {
            304 => {
                // hyper leaves it out, which RFC 9110 §8.6 allows; another would be wrong.
                assert!(got.fields("content-length").iter().all(|length| *length == "9"), "{}", got.head);
                assert_eq!((got.field("etag"), got.field("cache-control")), ("\"a\"", "max-age=5"));
                assert_eq!((got.field("vary"), got.field("expires")), ("x", "0"));
            }
            206 => assert_eq!((got.field("content-range"), got.text()), ("bytes 0-1/9", "ab")),
            416 => assert_eq!(got.field("content-range"), "bytes */9"),
            _ => assert_eq!((got.field("etag"), got.text()), ("W/\"b\"", "no")),
        }
    }
}

#[tokio::test]
async fn rfc9110_15_2_1xx_are_forwarded_never_to_http_1_0() {
    let early = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-A: 1\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n";
    let origin = Origin::start(move |_| {
        Reply::Bytes(format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").into_bytes())
    })
    .await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    for _ in 0..2 {
        client.send(ask(origin.address(), "")).await;
        let all: Vec<Answer> =
            [client.answer("GET").await, client.answer("GET").await, client.answer("GET").await].into();
        assert_eq!(all.iter().map(|early| early.status).collect::<Vec<_>>(), [102, 103, 199]);
        assert_eq!((all[1].field("link"), all[1].field("x-a")), ("</a>", "1"));
        assert_eq!(client.answer("GET").await.text(), "fine");
    }
    for more in ["", "Connection: keep-alive\r\n"] {
        let mut old = holdoff.client().await;
        old.send(ask(origin.address(), more).replace("HTTP/1.1", "HTTP/1.0")).await;
        let got = old.answer("GET").await;
        assert_eq!((got.status, got.text()), (200, "fine"));
    }
}

#[tokio::test]
async fn rfc9110_15_5_20_never_makes_a_421() {
    let origin = Origin::start(|_| answer(421, "Misdirected Request", &[], "theirs")).await;
    let (_held, closed) = crate::support::refusing();
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://{closed}\"\npath = \"/only\"\n"
    ))
    .await;
    let host = origin.address();
    // Whatever looks misdirected to us is told so in another way.
    for (at, head) in [
        (holdoff.proxy(), "GET / HTTP/1.1\r\nHost: peer.example\r\n\r\n".to_owned()),
        (holdoff.proxy(), "GET http://169.254.169.254/ HTTP/1.1\r\nHost: other\r\n\r\n".to_owned()),
        (holdoff.proxy(), format!("GET http://{}/ HTTP/1.1\r\nHost: other\r\n\r\n", holdoff.proxy())),
        (holdoff.proxy(), format!("GET http://{closed}/ HTTP/1.1\r\nHost: other\r\n\r\n")),
        (holdoff.proxy(), "GET https://peer.example/ HTTP/1.1\r\nHost: other\r\n\r\n".to_owned()),
        (holdoff.reverse(0), "GET /elsewhere HTTP/1.1\r\nHost: other\r\n\r\n".to_owned()),
        (holdoff.reverse(0), "GET http://other/only HTTP/1.1\r\nHost: another\r\n\r\n".to_owned()),
    ] {
        let mut client = Client::connect(at).await;
        client.send(&head).await;
        let got = client.answer("GET").await;
        assert!(got.status >= 400 && got.status != 421, "{head:?}: {}", got.head);
    }
    // An origin's own passes, and nobody asks again.
    let got = holdoff.get(&format!("http://{host}/")).await;
    assert_eq!((got.status, got.text(), origin.count()), (421, "theirs", 1));
}

#[tokio::test]
async fn rfc6585_4_synthetic_429_carries_no_store() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    let url = origin.url();
    let theirs = client.get(&url).await;
    assert!((theirs.status, theirs.fields("cache-control").len()) == (429, 0), "the host's own passes unchanged");
    for accept in ["*/*", "text/plain", "application/json"] {
        client.send(ask(origin.address(), &format!("Accept: {accept}\r\n"))).await;
        let ours = client.answer("GET").await;
        assert_eq!((ours.status, ours.field("cache-control")), (429, "no-store"), "{}", ours.head);
        assert!(ours.field("retry-after").parse::<u64>().is_ok_and(|wait| (1..=60).contains(&wait)), "{}", ours.head);
        assert_eq!(ours.field("content-length"), ours.body.len().to_string());
    }
    client.send(format!("HEAD {url}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).await;
    let ours = client.answer("HEAD").await;
    assert_eq!((ours.status, ours.field("cache-control")), (429, "no-store"));
    assert_eq!((client.get(&url).await.status, origin.count()), (429, 1), "no byte of a body behind a HEAD");
}

#[tokio::test]
async fn rfc9209_2_proxy_status() {
    let origin = Origin::start(|seen| match seen.target() {
        "/limit" => limited("60"),
        _ => answer(200, "OK", &[("Proxy-Status", "far; received-status=200, edge-7; error=dns_error")], ""),
    })
    .await;
    let (_held, closed) = crate::support::refusing();
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n").await;
    let mut client = holdoff.client().await;
    // What others say passes; what claims to be ours does not.
    assert_eq!(client.get(&format!("{}/", origin.url())).await.field("proxy-status"), "far; received-status=200");
    let member =
        |got: &Answer| got.field("proxy-status").split(';').take(2).map(str::trim).collect::<Vec<_>>().join("; ");
    for (url, error) in [
        (format!("http://{closed}/"), "connection_refused"),
        ("http://no-such-host.invalid/".to_owned(), "dns_error"),
        ("http://169.254.169.254/".to_owned(), "destination_ip_prohibited"),
        (format!("http://{}/", holdoff.admin()), "proxy_loop_detected"),
        ("https://a/".to_owned(), "http_request_error"),
    ] {
        assert_eq!(member(&client.get(&url).await), format!("edge-7; error={error}"), "{url}");
    }
    assert_eq!(client.get(&format!("{}/limit", origin.url())).await.fields("proxy-status").len(), 0);
    let ours = client.get(&format!("{}/", origin.url())).await;
    assert_eq!((ours.status, member(&ours)), (429, "edge-7; error=proxy_internal_response".to_owned()));
    // Quotes in details are escaped: the field is one member.
    assert!(ours.field("proxy-status").ends_with('"'), "{}", ours.head);
}

#[tokio::test]
async fn rfc9209_2_proxy_status_is_not_in_an_answer_that_was_cut() {
    // The head has gone out; what is left is to end the connection so that it looks cut.
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(ask(host.address, "")).await;
    let mut line = host.accept().await;
    line.until("\r\n\r\n").await;
    line.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    drop(line);
    let got = client.answer("GET").await;
    assert_eq!((got.status, got.text(), got.complete, got.fields("proxy-status").len()), (200, "abc", false, 0));
    let mut none = [0; 1];
    let mut fresh = tokio::net::TcpStream::connect(holdoff.proxy()).await.unwrap();
    fresh.shutdown().await.unwrap();
    assert_eq!(fresh.read(&mut none).await.unwrap(), 0);
}
