//! CONNECT (RFC 9110 §9.3.6), byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::{Answer, Client};
use crate::support::host::Host;
use crate::support::origin::{Origin, ok};
use crate::support::sidecar::Holdoff;
use crate::support::within;

async fn connect(holdoff: &Holdoff, target: &str) -> (Client, Answer) {
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    let answer = client.answer("CONNECT").await;
    (client, answer)
}

#[tokio::test]
async fn rfc9110_8_6_no_cl_in_an_answer_to_connect() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let (mut client, answer) = connect(&holdoff, &host.address.to_string()).await;
    assert_eq!(answer.status, 200);
    for name in ["content-length", "transfer-encoding", "trailer", "connection"] {
        assert!(answer.fields(name).is_empty(), "{}", answer.head);
    }
    // The first byte behind the head is the host's.
    let mut line = host.accept().await;
    line.send("x").await;
    assert_eq!(client.bytes(1).await, b"x");
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_port_is_required() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    for target in
        ["127.0.0.1", "127.0.0.1:", "[::1]", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", ":443", "/", "*"]
    {
        let mut client = holdoff.client().await;
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{target}: {}", answer.head);
        assert_eq!(client.rest().await, b"", "{target}");
    }
    // The port of `Host` does not stand in for it.
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT 127.0.0.1 HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).await;
    assert_eq!(client.answer("GET").await.status, 400);
    assert_eq!(origin.connections(), 0);
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_policy_on_name_address_and_port() {
    let origin = Origin::start(|_| ok("fine")).await;
    let port = origin.address().port();
    for (toml, target, status) in [
        ("deny = [\"localhost\"]", format!("localhost:{port}"), 403),
        ("deny = [\"localhost\"]", format!("LOCALHOST.:{port}"), 403),
        ("deny = [\"127.0.0.0/8\", \"::1/128\"]", format!("localhost:{port}"), 403),
        ("deny = [\"127.0.0.0/8\"]", format!("[::ffff:127.0.0.1]:{port}"), 403),
        ("private = \"deny\"", format!("localhost:{port}"), 403),
        ("allow = [\"peer.example\"]", format!("127.0.0.1:{port}"), 403),
        ("connect_ports = [\"443\"]", format!("127.0.0.1:{port}"), 403),
        ("", "127.0.0.1:25".to_owned(), 403),
        ("", "169.254.169.254:443".to_owned(), 403),
        ("", "0.0.0.0:8443".to_owned(), 403),
        ("allow = [\"localhost\"]", format!("localhost:{port}"), 200),
        ("", format!("127.0.0.1:{port}"), 200),
    ] {
        let holdoff = Holdoff::start(&format!("[egress]\n{toml}\n")).await;
        let before = origin.connections();
        let (_client, answer) = connect(&holdoff, &target).await;
        assert_eq!(answer.status, status, "{toml} {target}: {}", answer.head);
        if status != 200 {
            assert_eq!(origin.connections(), before, "{toml} {target}");
            assert!(answer.field("holdoff").contains("stage=destination"), "{}", answer.head);
        }
    }
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_before_200() {
    // Nobody there: no 200.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let holdoff = Holdoff::start("[defaults.timeouts]\nconnect = \"500ms\"\n").await;
    drop(listener);
    let (mut client, answer) = connect(&holdoff, &address.to_string()).await;
    assert_eq!((answer.status, answer.field("connection")), (502, "close"));
    assert!(answer.field("holdoff").contains("kind=connect_refused"), "{}", answer.head);
    assert_eq!(client.rest().await, b"");
    // Nobody who answers: a backlog that is full drops what comes.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let dialled = tokio::time::timeout(Duration::from_millis(50), tokio::net::TcpStream::connect(address)).await;
        waiting.push(dialled);
    }
    assert!(waiting.iter().any(Result::is_err), "expected a full backlog");
    let (_client, answer) = connect(&holdoff, &address.to_string()).await;
    assert_eq!(answer.status, 504, "{}", answer.head);
    assert!(answer.field("holdoff").contains("kind=connect_timeout"), "{}", answer.head);
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_half_close_of_either_side() {
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let target = host.address.to_string();
    // The client's side first: the host reads the end and can still answer.
    let (mut client, _) = connect(&holdoff, &target).await;
    let mut line = host.accept().await;
    client.send("question").await;
    client.finish().await;
    line.until("question").await;
    line.ends().await;
    for _ in 0..3 {
        line.send("answer").await;
        assert_eq!(client.bytes(6).await, b"answer");
    }
    drop(line);
    assert_eq!(client.rest().await, b"");
    // The host's side first: the client reads the end and can still send.
    let (mut client, _) = connect(&holdoff, &target).await;
    let mut line = host.accept().await;
    line.send("greeting").await;
    line.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"greeting");
    for _ in 0..3 {
        client.send("more").await;
        line.until("more").await;
    }
    client.finish().await;
    line.ends().await;
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_drains_what_is_under_way() {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    let target = host.address.to_string();
    // The host writes and is gone before the client reads a byte of it.
    let (mut client, _) = connect(&holdoff, &target).await;
    let mut line = host.accept().await;
    let (written, gone) = tokio::sync::oneshot::channel();
    let sent = bytes.clone();
    tokio::spawn(async move {
        line.stream.write_all(&sent).await.unwrap();
        drop(line);
        let _ = written.send(());
    });
    let _ = tokio::time::timeout(Duration::from_millis(300), gone).await;
    assert!(client.rest().await == bytes, "to the client");
    // And the other way.
    let (mut client, _) = connect(&holdoff, &target).await;
    let mut line = host.accept().await;
    let sent = bytes.clone();
    tokio::spawn(async move {
        client.send(&sent).await;
        client.finish().await;
        client.rest().await;
    });
    let mut read = Vec::new();
    within("all bytes", line.stream.read_to_end(&mut read)).await.unwrap();
    assert!(read == bytes, "to the host");
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_early_bytes_go_into_the_tunnel() {
    let host = Host::start().await;
    let witness = Origin::start(|_| ok("evil")).await;
    let holdoff = Holdoff::start("").await;
    // Even when they look like a request to somebody else, and more than one buffer of them.
    let early = format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", witness.address()).repeat(2000);
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n{early}", host.address)).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    let mut line = host.accept().await;
    let mut read = vec![0; early.len()];
    within("the early bytes", line.stream.read_exact(&mut read)).await.unwrap();
    assert!(read == early.as_bytes());
    client.send("late").await;
    line.until("late").await;
    assert_eq!(witness.count(), 0);
}

#[tokio::test]
async fn rfc9110_9_3_6_connect_early_bytes_are_not_a_body() {
    // A length says that there is a body; CONNECT has none, and two readers would disagree on where the tunnel begins.
    let host = Host::start().await;
    let holdoff = Holdoff::start("").await;
    for fields in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        let mut client = holdoff.client().await;
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{fields}\r\n\r\n0\r\n\r\n", host.address)).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.field("connection")), (400, "close"), "{fields}");
        assert_eq!(client.rest().await, b"", "{fields}");
    }
}
