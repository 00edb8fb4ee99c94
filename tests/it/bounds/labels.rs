//! One test for each value of the label `bound`: it is reached over real sockets, and its counter says so. The tests are
//! named after the label, so that one without a test is missed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdoff::metrics::Bound;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::{Peer, connect_twice};
use crate::support::client::{Answer, Client};
use crate::support::http2::frame;
use crate::support::origin::{Origin, Reply, message, ok};
use crate::support::program::Program;
use crate::support::sidecar::Holdoff;
use crate::support::{until, within};

#[test]
fn every_bound_has_a_test() {
    let tests = include_str!("labels.rs");
    let missing: Vec<&str> = Bound::ALL
        .iter()
        .map(|bound| bound.as_str())
        .filter(|bound| !tests.contains(&format!("#[tokio::test]\nasync fn {bound}_")))
        .collect();
    assert!(missing.is_empty(), "expected a test whose name begins with each of {missing:?}");
}

async fn reached(holdoff: &Holdoff, bound: Bound) -> f64 {
    holdoff.metric(&format!("holdoff_bounds_reached_total{{bound=\"{}\"}}", bound.as_str())).await
}

/// The counter, once it is as high as that.
async fn reaches(holdoff: &Holdoff, bound: Bound, count: f64) {
    within(&format!("{} to be counted {count} times", bound.as_str()), async {
        while reached(holdoff, bound).await < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(reached(holdoff, bound).await, count);
}

/// Asks for `url` and sends `rest` behind the first fields.
async fn ask(holdoff: &Holdoff, method: &str, url: &str, rest: &str) -> (Client, Answer) {
    let mut client = holdoff.client().await;
    let host = url.split('/').nth(2).unwrap();
    client.send(format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\n{rest}")).await;
    let answer = client.answer(method).await;
    (client, answer)
}

#[tokio::test]
async fn max_connections_is_counted_and_told() {
    let holdoff = Holdoff::start("[limits]\nmax_connections = 1\n").await;
    let _first = holdoff.client().await;
    let answer = holdoff.client().await.answer("GET").await;
    assert_eq!((answer.status, answer.field("connection")), (503, "close"));
    assert!(answer.text().contains("limits.max_connections"), "{}", answer.text());
    reaches(&holdoff, Bound::MaxConnections, 1.0).await;
}

#[tokio::test]
async fn max_tunnels_is_counted_once_for_each_that_is_refused() {
    let peer = Peer::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let holdoff = Holdoff::start("[limits]\nmax_tunnels = 1\n").await;
    let url = peer.address.to_string();
    let mut open = Vec::new();
    for expected in [200, 503, 503] {
        let mut client = holdoff.client().await;
        client.send(format!("CONNECT {url} HTTP/1.1\r\nHost: {url}\r\n\r\n")).await;
        assert_eq!(client.answer("CONNECT").await.status, expected);
        open.push(client);
    }
    reaches(&holdoff, Bound::MaxTunnels, 2.0).await;
}

#[tokio::test]
async fn header_timeout_ends_a_head_that_comes_byte_by_byte() {
    let holdoff = Holdoff::start("[limits]\nheader_timeout = \"300ms\"\n").await;
    let mut client = holdoff.client().await;
    let trickle = async {
        for byte in b"GET http://peer.example/ HTTP/1.1\r\nHost: peer.example\r\nX-Long: ".iter().cycle() {
            client.try_send([*byte]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = trickle => {}
        () = reaches(&holdoff, Bound::HeaderTimeout, 1.0) => {}
    }
    assert_eq!(client.answer("GET").await.status, 408);
}

#[tokio::test]
async fn keepalive_timeout_ends_an_idle_connection() {
    let holdoff = Holdoff::start("[limits]\nkeepalive_timeout = \"100ms\"\n").await;
    assert_eq!(holdoff.client().await.rest().await, b"");
    reaches(&holdoff, Bound::KeepaliveTimeout, 1.0).await;
}

#[tokio::test]
async fn max_header_bytes_ends_a_line_of_64_kib() {
    let holdoff = Holdoff::start("").await;
    let long = format!("X: {}\r\n\r\n", "x".repeat(65_536));
    let (mut client, answer) = ask(&holdoff, "GET", "http://peer.example/", &long).await;
    assert_eq!((answer.status, answer.field("connection")), (431, "close"));
    assert_eq!(client.rest().await, b"");
    reaches(&holdoff, Bound::HeaderBytes, 1.0).await;
    let (_, answer) = ask(&holdoff, "GET", &format!("http://peer.example/{}", "x".repeat(65_536)), "\r\n").await;
    assert_eq!(answer.status, 414);
    reaches(&holdoff, Bound::HeaderBytes, 2.0).await;
}

#[tokio::test]
async fn max_header_fields_ends_a_head_of_1000_fields() {
    let holdoff = Holdoff::start("").await;
    let many = "X: 1\r\n".repeat(1000) + "\r\n";
    let (mut client, answer) = ask(&holdoff, "GET", "http://peer.example/", &many).await;
    assert_eq!((answer.status, answer.field("connection")), (431, "close"));
    assert_eq!(client.rest().await, b"");
    reaches(&holdoff, Bound::HeaderFields, 1.0).await;
}

#[tokio::test]
async fn upstream_head_ends_an_answer_with_a_line_of_64_kib_or_1000_fields() {
    let origin = Origin::start(|seen| match seen.target() {
        "/line" => Reply::Bytes(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(65_536)).into_bytes()),
        "/fields" => Reply::Bytes(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(1000)).into_bytes()),
        // Without an end.
        "/endless" => Reply::Bytes(format!("HTTP/1.1 200 OK\r\n{}", "X: 1234567890\r\n".repeat(100_000)).into_bytes()),
        _ => ok("fine"),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    for (path, count) in [("line", 1.0), ("fields", 2.0), ("endless", 3.0)] {
        let mut client = holdoff.client().await;
        let answer = client.get(&format!("{}/{path}", origin.url())).await;
        assert_eq!(answer.status, 502, "{path}");
        assert!(answer.field("proxy-status").contains("http_protocol_error"), "{}", answer.head);
        reaches(&holdoff, Bound::UpstreamHead, count).await;
        assert_eq!(client.get(&format!("{}/", origin.url())).await.text(), "fine");
    }
}

/// The start of a chunked message, and then the same without end.
async fn endless(stream: &mut (impl AsyncWriteExt + Unpin), start: &str, more: &str) {
    let more = more.repeat(1024);
    let _ = stream.write_all(start.as_bytes()).await;
    while stream.write_all(more.as_bytes()).await.is_ok() {}
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A peer that reads a little and answers without end; asked for `/` it answers well.
async fn endless_peer(start: String, more: &'static str) -> Peer {
    Peer::start(move |mut stream| {
        let start = start.clone();
        async move {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            if head[..read].starts_with(b"GET / ") {
                stream.write_all(&message(200, "OK", &[], "fine")).await.unwrap();
            } else {
                endless(&mut stream, &start, more).await;
            }
        }
    })
    .await
}

/// A client uploads without end to a peer that reads everything. Returns the answer.
async fn endless_upload(holdoff: &Holdoff, start: &str, more: &'static str) -> Answer {
    let peer = Peer::start(|mut stream| async move {
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let (reader, mut writer) = super::connect_twice(holdoff.proxy()).await;
    let start =
        format!("POST http://{}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n{start}", peer.address);
    let upload = tokio::spawn(async move { endless(&mut writer, &start, more).await });
    let answer = Client::over(reader).answer("POST").await;
    upload.abort();
    answer
}

#[tokio::test]
async fn max_chunk_extension_bytes_end_a_body_of_either_side() {
    let holdoff = Holdoff::start("").await;
    for (count, chunk) in [(1.0, "1;"), (3.0, "1;a=b\r\nx\r\n")] {
        let start = if chunk == "1;" { "1;" } else { "" };
        let more = if chunk == "1;" { "extension" } else { "1;a=b\r\nx\r\n" };
        let answer = endless_upload(&holdoff, start, more).await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"));
        reaches(&holdoff, Bound::ChunkExtensions, count).await;

        let peer = endless_peer(format!("{CHUNKED}{start}"), more).await;
        let mut client = holdoff.client().await;
        let answer = client.get(&format!("http://{}/x", peer.address)).await;
        assert_eq!((answer.status, answer.complete), (200, false), "cut, and so that it is seen");
        reaches(&holdoff, Bound::ChunkExtensions, count + 1.0).await;
        assert_eq!(holdoff.get(&format!("http://{}/", peer.address)).await.text(), "fine");
    }
}

#[tokio::test]
async fn trailers_without_end_end_a_body_of_either_side() {
    let holdoff = Holdoff::start("").await;
    for (count, more) in [(1.0, "long"), (3.0, "X: 1\r\n")] {
        let start = if more == "long" { "1\r\nx\r\n0\r\nX: " } else { "1\r\nx\r\n0\r\n" };
        let answer = endless_upload(&holdoff, start, more).await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"));
        reaches(&holdoff, Bound::Trailers, count).await;

        let peer = endless_peer(format!("{CHUNKED}{start}"), more).await;
        let answer = holdoff.client().await.get(&format!("http://{}/x", peer.address)).await;
        assert_eq!((answer.status, answer.complete), (200, false), "cut, and so that it is seen");
        reaches(&holdoff, Bound::Trailers, count + 1.0).await;
        assert_eq!(holdoff.get(&format!("http://{}/", peer.address)).await.text(), "fine");
    }
}

#[tokio::test]
async fn max_request_body_ends_a_larger_one() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nmax_request_body = \"10B\"\n").await;
    let url = format!("{}/", origin.url());
    let (_, answer) = ask(&holdoff, "POST", &url, "Content-Length: 11\r\n\r\n01234567890").await;
    assert_eq!(answer.status, 413);
    reaches(&holdoff, Bound::RequestBody, 1.0).await;
    let chunks = "Transfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n";
    let (_, answer) = ask(&holdoff, "POST", &url, chunks).await;
    assert_eq!(answer.status, 413);
    reaches(&holdoff, Bound::RequestBody, 2.0).await;
}

#[tokio::test]
async fn drain_body_ends_an_upload_behind_a_local_answer() {
    let holdoff = Holdoff::start("[limits]\ndrain_body = \"8KiB\"\n").await;
    let frozen = holdoff.ask_admin("PUT", "/api/v1/cooldowns?key=http://peer.example&for=60s", "").await;
    assert_eq!(frozen.status, 200);
    let body = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n", 9000, "x".repeat(9000));
    let (mut client, answer) = ask(&holdoff, "POST", "http://peer.example/", &body).await;
    assert_eq!((answer.status, answer.field("connection")), (503, "close"));
    assert_eq!(client.rest().await, b"");
    reaches(&holdoff, Bound::DrainBody, 1.0).await;
}

#[tokio::test]
async fn max_interim_responses_bound_1xx_without_end() {
    let peer = endless_peer(String::new(), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET http://{}/x HTTP/1.1\r\nHost: {0}\r\n\r\n", peer.address)).await;
    for _ in 0..16 {
        assert_eq!(client.answer("GET").await.status, 103);
    }
    let answer = client.answer("GET").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("1xx"), "{}", answer.text());
    assert!(reached(&holdoff, Bound::InterimResponses).await >= 1.0);
    assert_eq!(client.get(&format!("http://{}/", peer.address)).await.text(), "fine");
}

#[tokio::test]
async fn max_connections_per_host_bound_what_one_host_can_hold() {
    let gate = Arc::new(Notify::new());
    let origin = Origin::start({
        let gate = Arc::clone(&gate);
        move |_| Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "late"))
    })
    .await;
    let other = Origin::start(|_| ok("other")).await;
    let holdoff =
        Holdoff::start("[upstream]\nmax_connections_per_host = 1\n[defaults.timeouts]\nconnect = \"200ms\"\n").await;
    let mut first = holdoff.client().await;
    first.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    until("the first request", || origin.count() == 1).await;
    let answer = holdoff.get(&format!("{}/", origin.url())).await;
    assert_eq!(answer.status, 503);
    assert!(answer.field("proxy-status").contains("connection_limit_reached"), "{}", answer.head);
    assert_eq!(holdoff.get(&format!("{}/", other.url())).await.text(), "other");
    reaches(&holdoff, Bound::UpstreamConnections, 1.0).await;
    gate.notify_one();
    assert_eq!(first.answer("GET").await.text(), "late");
}

#[tokio::test]
async fn body_idle_ends_a_body_of_either_side_that_stands_still() {
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"200ms\"\n").await;
    let origin =
        Origin::start(|_| Reply::Slow(vec![format!("{CHUNKED}1\r\nx\r\n").into_bytes()], Duration::from_secs(60)))
            .await;
    let url = format!("{}/", origin.url());
    // A request body.
    let (_, answer) = ask(&holdoff, "POST", &url, "Content-Length: 11\r\n\r\n0").await;
    assert_eq!((answer.status, origin.count()), (408, 0));
    reaches(&holdoff, Bound::BodyIdle, 1.0).await;
    // The body of an answer.
    let answer = holdoff.get(&url).await;
    assert_eq!((answer.status, answer.text(), answer.complete), (200, "x", false));
    reaches(&holdoff, Bound::BodyIdle, 2.0).await;
    // Bytes that come, but are no piece of a body: a chunk size without end.
    for (at, more) in [(3.0, "0"), (5.0, " ")] {
        assert_eq!(endless_upload(&holdoff, "0", more).await.status, 408);
        reaches(&holdoff, Bound::BodyIdle, at).await;
        let peer = endless_peer(format!("{CHUNKED}1\r\nx\r\n0"), more).await;
        let answer = holdoff.get(&format!("http://{}/x", peer.address)).await;
        assert_eq!((answer.status, answer.text(), answer.complete), (200, "x", false));
        reaches(&holdoff, Bound::BodyIdle, at + 1.0).await;
    }
}

#[tokio::test]
async fn body_idle_ends_an_upload_that_the_host_neither_takes_nor_answers() {
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"400ms\"\n").await;
    let peer = Peer::start(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let head = format!("POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: {1}\r\n\r\n", peer.address, 1 << 30);
    let piece = vec![b'x'; 1 << 16];
    // The client goes on for as long as it can.
    let (read, mut write) = connect_twice(holdoff.proxy()).await;
    write.write_all(head.as_bytes()).await.unwrap();
    let upload = {
        let piece = piece.clone();
        tokio::spawn(async move { while write.write_all(&piece).await.is_ok() {} })
    };
    let answer = Client::over(read).answer("POST").await;
    assert_eq!((answer.status, answer.field("connection")), (504, "close"), "{}", answer.head);
    assert!(answer.field("holdoff").contains("kind=head_timeout"), "{}", answer.head);
    upload.abort();
    reaches(&holdoff, Bound::BodyIdle, 1.0).await;
    // It leaves; its end stands behind what nobody reads.
    let (_, mut write) = connect_twice(holdoff.proxy()).await;
    write.write_all(head.as_bytes()).await.unwrap();
    while tokio::time::timeout(Duration::from_millis(100), write.write(&piece)).await.is_ok() {}
    drop(write);
    reaches(&holdoff, Bound::BodyIdle, 2.0).await;
}

#[tokio::test]
async fn tunnel_idle_ends_a_silent_tunnel() {
    let peer = Peer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let holdoff = Holdoff::start("[defaults.timeouts]\ntunnel_idle = \"200ms\"\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {} HTTP/1.1\r\nHost: {0}\r\n\r\n", peer.address)).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    assert_eq!(client.rest().await, b"");
    reaches(&holdoff, Bound::TunnelIdle, 1.0).await;
}

#[tokio::test]
async fn proxy_auth_bounds_the_credentials_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    // What it costs to verify is what takes the places.
    std::fs::write(&file, format!("ann:{}\n", bcrypt::hash("word", 4).unwrap())).unwrap();
    let holdoff = Holdoff::start(&format!("[listen]\naddress = [\"127.0.0.1:0\"]\nauth_file = {file:?}\n")).await;
    let mut clients = Vec::new();
    for n in 0..300 {
        let mut client = holdoff.client().await;
        // bob:0, bob:1 …: nobody.
        let credentials = STANDARD.encode(format!("bob:{n}"));
        client
            .send(format!(
                "GET http://peer.example/ HTTP/1.1\r\nHost: peer.example\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
            ))
            .await;
        clients.push(client);
    }
    within("the bound to be counted", async {
        while reached(&holdoff, Bound::ProxyAuth).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let last = clients.pop().unwrap().answer("GET").await;
    assert_eq!(last.status, 503);
    assert!(last.text().contains("credentials"), "{}", last.text());
}

#[tokio::test]
async fn admin_connections_are_bounded_on_their_own() {
    let holdoff = Holdoff::start("").await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Client::connect(holdoff.admin()).await);
    }
    assert_eq!(Client::connect(holdoff.admin()).await.rest().await, b"");
    // One of those that have a place.
    let client = &mut open[0];
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", holdoff.admin())).await;
    let metrics = client.answer("GET").await;
    assert!(metrics.text().contains("holdoff_bounds_reached_total{bound=\"admin_connections\"} 1\n"));
    assert_eq!(holdoff.get("http://169.254.169.254/").await.status, 403, "the data path has its own");
}

#[tokio::test]
async fn admin_body_is_bounded() {
    let holdoff = Holdoff::start("").await;
    let answer = holdoff.ask_admin("PUT", "/api/v1/cooldowns?key=https://peer.example", &" ".repeat(20_000)).await;
    assert_eq!(answer.status, 413);
    reaches(&holdoff, Bound::AdminBody, 1.0).await;
}

#[tokio::test]
async fn grace_ends_what_does_not_end_by_itself() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("[shutdown]\ngrace = \"200ms\"\n").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    until("the request", || origin.count() == 1).await;
    let shared = holdoff.shared();
    within("the end", holdoff.shutdown()).await;
    assert_eq!(client.rest().await, b"");
    let (now, wall) = (holdoff::table::clock::now(), holdoff::table::clock::wall());
    let metrics = String::from_utf8(shared.metrics.render(&shared.table, now, wall)).unwrap();
    assert!(metrics.contains("holdoff_bounds_reached_total{bound=\"grace\"} 1\n"), "{metrics}");
}

/// A machine on which every look-up takes for ever: reading the hosts file waits for somebody to write it.
#[tokio::test]
async fn lookups_are_bounded_when_names_take_long() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("hosts");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", fifo.display());
    let origin = Origin::start(|_| ok("other")).await;
    let sidecar = Program::start_configured(
        "[upstream]\ndns_timeout = \"300ms\"\n",
        &["unshare", "--map-root-user", "--mount", "sh", "-c", &script, "sh"],
    );
    let proxy = sidecar.address("proxy");
    let mut asked = Vec::new();
    for n in 0..80 {
        let mut client = Client::connect(proxy).await;
        client.send(format!("GET http://n{n}.example/ HTTP/1.1\r\nHost: n{n}.example\r\n\r\n")).await;
        asked.push(client);
    }
    assert_eq!(Client::connect(proxy).await.get(&format!("{}/", origin.url())).await.text(), "other");
    let mut statuses = Vec::new();
    for client in &mut asked {
        statuses.push(client.answer("GET").await.status);
    }
    // Those that had a turn, and those that waited for one.
    assert!(statuses.iter().all(|status| [503, 504].contains(status)), "{statuses:?}");
    let mut late = Client::connect(proxy).await;
    late.send("GET http://late.example/ HTTP/1.1\r\nHost: late.example\r\n\r\n").await;
    assert!([503, 504].contains(&late.answer("GET").await.status));
    let counted = super::sample(sidecar.address("admin"), "holdoff_bounds_reached_total{bound=\"lookups\"}").await;
    assert!(counted >= 1.0, "{statuses:?}");
}

/// A machine whose hosts file gives one name a hundred addresses.
#[tokio::test]
async fn addresses_of_one_name_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let lines: String = (1..=100).map(|n| format!("127.0.0.{n} many.example\n")).collect();
    std::fs::write(&hosts, lines).unwrap();
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let origin = Origin::start(|_| ok("one of them")).await;
    let sidecar = Program::start_configured("", &["unshare", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    let url = format!("http://many.example:{}/", origin.address().port());
    let answer = Client::connect(sidecar.address("proxy")).await.get(&url).await;
    assert!([200, 502].contains(&answer.status), "{}", answer.text());
    let counted = super::sample(sidecar.address("admin"), "holdoff_bounds_reached_total{bound=\"addresses\"}").await;
    assert_eq!(counted, 1.0);
}

#[tokio::test]
async fn http2_flood_is_counted_and_ends_the_connection() {
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frame(4, 0, 0, &[])).await;
    // A head that goes on and on, in pieces without anything in them, and never ends.
    client.send(frame(1, 0, 1, &[0x82])).await;
    let _ = client.try_send(frame(9, 0, 1, &[]).repeat(10_000)).await;
    reaches(&holdoff, Bound::Http2Flood, 1.0).await;
    client.finish().await;
}
