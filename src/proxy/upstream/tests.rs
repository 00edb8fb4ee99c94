//! The pool against raw-socket origins.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

use super::*;
use crate::config::settings::{Answer, OnCooldown, Timeouts, Tls, TlsVersion};
use crate::core::signal::body::BodyRules;

const LONG: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request body that does as told.
#[derive(Default)]
struct Told {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
}

enum Step {
    Data(&'static [u8]),
    Wait(Duration),
    Stop,
    Fail(ErrorKind),
    Break,
}

impl Told {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), sleep: None }
    }
}

impl Body for Told {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            return Poll::Ready(match self.steps.pop_front() {
                None => None,
                Some(Step::Data(data)) => Some(Ok(Frame::data(Bytes::from_static(data)))),
                Some(Step::Fail(kind)) => Some(Err(ProxyError::new(kind, "told to").into())),
                Some(Step::Break) => Some(Err("told to".into())),
                Some(Step::Stop) => {
                    self.steps.push_front(Step::Stop);
                    return Poll::Pending;
                }
                Some(Step::Wait(time)) => {
                    self.sleep = Some(Box::pin(tokio::time::sleep(time)));
                    continue;
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.sleep.is_none()
    }
}

fn settings() -> settings::Upstream {
    settings::Upstream {
        http2: true,
        max_connections_per_host: 256,
        max_idle_per_host: 32,
        idle_timeout: LONG,
        max_lifetime: Duration::ZERO,
        dns_ttl: LONG,
        dns_timeout: LONG,
        platform_roots: false,
        ca_files: Vec::new(),
        parents: settings::Parents::default(),
        trusted_holdoffs: Vec::new(),
    }
}

fn limits() -> Limits {
    Limits {
        max_connections: 1,
        header_timeout: LONG,
        keepalive_timeout: LONG,
        max_header_bytes: 16 * 1024,
        max_header_fields: 20,
        max_interim_responses: 1,
        drain_body: 0,
        max_tunnels: 1,
        max_keys: 1,
    }
}

fn egress(allow_private: bool, own: Vec<SocketAddr>) -> Egress {
    let settings =
        settings::Egress { allow_private, allow: Vec::new(), deny: Vec::new(), connect_ports: vec![(1024, u16::MAX)] };
    Egress::new(&settings, own)
}

fn tls() -> Tls {
    Tls {
        upgrade: false,
        min_version: TlsVersion::Tls12,
        ca_files: Vec::new(),
        client_cert: None,
        expected_san: Vec::new(),
        insecure: false,
    }
}

fn host() -> HostSettings {
    HostSettings {
        preset: None,
        paths: Vec::new(),
        group: None,
        levels: Arc::default(),
        policy: Arc::default(),
        bodies: Arc::new(BodyRules::new(Vec::new(), 0, 0)),
        on_cooldown: OnCooldown::Answer,
        answer: Answer::default(),
        tls: tls(),
        timeouts: Timeouts {
            connect: LONG,
            tls: LONG,
            head: LONG,
            body_idle: LONG,
            tunnel_idle: LONG,
            max_request_body: 0,
        },
    }
}

fn upstreams_with(change: impl FnOnce(&mut settings::Upstream)) -> Upstreams<Told> {
    let mut settings = settings();
    change(&mut settings);
    let hosts = Hosts::new(Arc::new(host()), Vec::new());
    Upstreams::new(&settings, &limits(), &hosts, egress(true, Vec::new())).unwrap()
}

fn upstreams() -> Upstreams<Told> {
    upstreams_with(|_| {})
}

fn get() -> Request<Told> {
    Request::get("/").header("host", "peer.example").body(Told::default()).unwrap()
}

fn put(steps: impl IntoIterator<Item = Step>) -> Request<Told> {
    Request::put("/").header("host", "peer.example").body(Told::new(steps)).unwrap()
}

type Sent = Result<Response<ResponseBody<Told>>, SendError<Told>>;

async fn send_as(upstreams: &Upstreams<Told>, key: &Key, host: &HostSettings, request: Request<Told>) -> Sent {
    let target = Target { key, host };
    tokio::time::timeout(LONG, upstreams.send(&target, request)).await.expect("an answer in time")
}

async fn send(upstreams: &Upstreams<Told>, key: &Key) -> Sent {
    send_as(upstreams, key, &host(), get()).await
}

async fn body(response: Response<ResponseBody<Told>>) -> Result<String, ErrorKind> {
    let body = tokio::time::timeout(LONG, response.into_body().collect()).await.expect("a body in time");
    body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()).map_err(|error| error.kind())
}

async fn ask(upstreams: &Upstreams<Told>, key: &Key) -> Result<String, ErrorKind> {
    match send(upstreams, key).await {
        Ok(response) => body(response).await,
        Err(failed) => Err(failed.error.kind()),
    }
}

fn kind(sent: Sent) -> ErrorKind {
    sent.unwrap_err().error.kind()
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LONG, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An origin whose connections are served by a closure, and how many there were.
struct Origin {
    key: Key,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    async fn new<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = Key::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, number));
            }
        });
        Self { key, connections }
    }

    /// Answers every request with `answer`.
    async fn answering(answer: &'static str) -> Self {
        Self::new(move |mut stream, _| async move {
            while head(&mut stream).await?.is_some() {
                stream.write_all(answer.as_bytes()).await?;
            }
            Ok(())
        })
        .await
    }

    /// Sends `answer` to the first request of a connection and closes it.
    async fn once(answer: &'static str) -> Self {
        Self::new(move |mut stream, _| async move {
            head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One request head; `None` at the end.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

#[tokio::test]
async fn requests_in_turn_share_a_connection() {
    for answer in [
        OK,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (origin, upstreams) = (Origin::answering(answer).await, upstreams());
        for _ in 0..5 {
            ask(&upstreams, &origin.key).await.unwrap();
            until("the connection comes back", || upstreams.stats().idle == 1).await;
        }
        assert_eq!(origin.connections(), 1, "{answer}");
        assert_eq!(upstreams.stats(), PoolStats { hosts: 1, open: 1, idle: 1, waiting: 0 });
    }
}

#[tokio::test]
async fn interim_responses_reach_the_callers_callback() {
    let origin =
        Origin::answering("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let mut request = get();
    hyper::ext::on_informational(&mut request, move |interim| {
        count.fetch_add(usize::from(interim.status().as_u16()), Ordering::SeqCst);
    });
    send_as(&upstreams(), &origin.key, &host(), request).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 103);
}

#[tokio::test]
async fn a_connection_that_says_close_is_closed() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (origin, upstreams) = (Origin::answering(answer).await, upstreams());
        assert_eq!(ask(&upstreams, &origin.key).await.unwrap(), "ok");
        until("nothing is left", || upstreams.stats() == PoolStats::default()).await;
        assert_eq!(ask(&upstreams, &origin.key).await.unwrap(), "ok");
        assert_eq!(origin.connections(), 2, "{answer}");
    }
}

#[tokio::test]
async fn our_own_version_is_sent_whatever_the_client_spoke() {
    let origin = Origin::new(|mut stream, _| async move {
        let request = head(&mut stream).await?.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
        stream.write_all(answer.as_bytes()).await
    })
    .await;
    let request = Request::get("/a?b").version(Version::HTTP_10).header("host", "x").body(Told::default()).unwrap();
    let response = send_as(&upstreams(), &origin.key, &host(), request).await.unwrap();
    assert_eq!(body(response).await.unwrap(), "GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n");
}

#[tokio::test]
async fn over_the_cap_requests_wait_for_their_turn() {
    let (origin, upstreams) = (Origin::answering(OK).await, upstreams_with(|s| s.max_connections_per_host = 1));
    let first = send(&upstreams, &origin.key).await.unwrap();
    let (also, key) = (upstreams.clone(), origin.key.clone());
    let second = tokio::spawn(async move { ask(&also, &key).await });
    until("the second waits", || upstreams.stats().waiting == 1).await;
    let mut hurried = host();
    hurried.timeouts.connect = Duration::from_millis(20);
    assert_eq!(kind(send_as(&upstreams, &origin.key, &hurried, get()).await), ErrorKind::PoolTimeout);
    assert_eq!(upstreams.stats().waiting, 1);
    body(first).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), "ok");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_half_read_body_closes_its_connection() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let (origin, upstreams) = (Origin::answering(answer).await, upstreams());
    let mut response = send(&upstreams, &origin.key).await.unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    drop(response);
    until("it is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn a_request_that_is_given_up_closes_its_connection() {
    let origin = Origin::answering("").await;
    let upstreams = upstreams();
    let (also, key) = (upstreams.clone(), origin.key.clone());
    let asked = tokio::spawn(async move { ask(&also, &key).await });
    until("it is under way", || origin.connections() == 1).await;
    asked.abort();
    until("it is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let (closed, origin) = {
        let closed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&closed);
        let origin = Origin::new(move |mut stream, _| {
            let count = Arc::clone(&count);
            async move {
                while head(&mut stream).await?.is_some() {
                    stream.write_all(OK.as_bytes()).await?;
                }
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        (closed, origin.await)
    };
    let upstreams = upstreams_with(|s| s.idle_timeout = Duration::from_millis(100));
    ask(&upstreams, &origin.key).await.unwrap();
    until("the origin sees the close", || closed.load(Ordering::SeqCst) == 1).await;
    until("nothing is left", || upstreams.stats() == PoolStats::default()).await;
    ask(&upstreams, &origin.key).await.unwrap();
    drop(upstreams);
    until("a dropped pool lets go", || closed.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() {
    let (origin, upstreams) =
        (Origin::answering(OK).await, upstreams_with(|s| s.max_lifetime = Duration::from_nanos(1)));
    ask(&upstreams, &origin.key).await.unwrap();
    ask(&upstreams, &origin.key).await.unwrap();
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_unnoticed() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let key = Key::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let (close, may_close) = std::sync::mpsc::channel();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let origin = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).unwrap() > 0);
            stream.write_all(OK.as_bytes()).unwrap();
            may_close.recv().unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let upstreams = upstreams();
    assert_eq!(ask(&upstreams, &key).await.unwrap(), "ok");
    until("the connection comes back", || upstreams.stats().idle == 1).await;
    close.send(()).unwrap();
    is_closed.recv().unwrap();
    // One turn of the runtime, in which it learns of the close, but the connection's task has not yet run.
    tokio::task::yield_now().await;
    assert_eq!(upstreams.stats().idle, 1, "the test is about an idle connection");
    // With a body: nothing of it was taken, so it is sent whole to the second connection.
    let response = send_as(&upstreams, &key, &host(), put([Step::Data(b"body")])).await.unwrap();
    assert_eq!(body(response).await.unwrap(), "ok");
    close.send(()).unwrap();
    origin.join().unwrap();
}

#[tokio::test]
async fn a_request_that_was_read_is_never_sent_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let origin = Origin::new(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            head(&mut stream).await?;
            stream.write_all(OK.as_bytes()).await?;
            head(&mut stream).await?;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await;
    let upstreams = upstreams();
    ask(&upstreams, &origin.key).await.unwrap();
    until("the connection comes back", || upstreams.stats().idle == 1).await;
    let failed = send(&upstreams, &origin.key).await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::UpstreamReset);
    assert!(failed.request.is_none());
    assert_eq!((requests.load(Ordering::SeqCst), origin.connections()), (1, 1));
}

#[tokio::test]
async fn broken_heads_are_told_apart() {
    let fields: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(21)).into_boxed_str());
    let large: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(20_000)).into_boxed_str());
    for (answer, expected) in [
        ("", ErrorKind::UpstreamReset),
        ("HTTP/1.1 200 OK\r\nContent-", ErrorKind::UpstreamReset),
        ("SSH-2.0-OpenSSH\r\n\r\n", ErrorKind::UpstreamProtocol),
        ("HTTP/2.0 200 OK\r\n\r\n", ErrorKind::UpstreamProtocol),
        ("HTTP/1.1 2x0 OK\r\n\r\n", ErrorKind::UpstreamProtocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ErrorKind::UpstreamProtocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", ErrorKind::UpstreamProtocol),
        ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", ErrorKind::UpstreamProtocol),
        (fields, ErrorKind::UpstreamProtocol),
        (large, ErrorKind::UpstreamProtocol),
    ] {
        let origin = Origin::once(answer).await;
        assert_eq!(kind(send(&upstreams(), &origin.key).await), expected, "{:.60}", answer);
    }
}

#[tokio::test]
async fn ambiguous_framing_and_an_unasked_upgrade_are_refused() {
    let chunks = "2\r\nok\r\n0\r\n\r\n";
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 15",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
    ] {
        let answer: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{chunks}").into_boxed_str());
        let (origin, upstreams) = (Origin::answering(answer).await, upstreams());
        assert_eq!(kind(send(&upstreams, &origin.key).await), ErrorKind::UpstreamProtocol, "{fields}");
        until("it is closed", || upstreams.stats() == PoolStats::default()).await;
    }
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n";
    let (origin, upstreams) = (Origin::answering(answer).await, upstreams());
    assert_eq!(kind(send(&upstreams, &origin.key).await), ErrorKind::UpstreamProtocol);
    until("it is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn a_cut_body_is_an_error_and_no_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n",
    ] {
        let (origin, upstreams) = (Origin::once(answer).await, upstreams());
        assert_eq!(ask(&upstreams, &origin.key).await, Err(ErrorKind::UpstreamBody), "{answer}");
        until("it is closed", || upstreams.stats() == PoolStats::default()).await;
    }
    let origin = Origin::once("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    assert_eq!(ask(&upstreams(), &origin.key).await.unwrap(), "until the end");
}

#[tokio::test]
async fn surplus_bytes_are_never_a_response() {
    let bad = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad";
    for (answer, later) in [(bad, ""), (OK, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")] {
        let origin = Origin::new(move |mut stream, _| async move {
            while head(&mut stream).await?.is_some() {
                stream.write_all(answer.as_bytes()).await?;
                if !later.is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(later.as_bytes()).await?;
                }
            }
            Ok(())
        })
        .await;
        let upstreams = upstreams();
        for turn in 1..4 {
            assert_eq!(ask(&upstreams, &origin.key).await.unwrap(), "ok");
            until("it is closed", || upstreams.stats() == PoolStats::default()).await;
            assert_eq!(origin.connections(), turn);
        }
    }
}

#[tokio::test]
async fn a_late_head_and_a_stalled_body_time_out() {
    let mut hurried = host();
    hurried.timeouts.head = Duration::from_millis(50);
    hurried.timeouts.body_idle = Duration::from_millis(50);
    let (silent, upstreams) = (Origin::answering("").await, upstreams());
    assert_eq!(kind(send_as(&upstreams, &silent.key, &hurried, get()).await), ErrorKind::HeadTimeout);
    let taken = put([Step::Data(b"all of it")]);
    assert_eq!(kind(send_as(&upstreams, &silent.key, &hurried, taken).await), ErrorKind::HeadTimeout);
    let stalled = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    let response = send_as(&upstreams, &stalled.key, &hurried, get()).await.unwrap();
    assert_eq!(body(response).await, Err(ErrorKind::BodyTimeout));
    until("all is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn a_body_may_be_slow_as_long_as_it_moves() {
    let origin = Origin::new(|mut stream, _| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await?;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            stream.write_all(b"x").await?;
        }
        Ok(())
    })
    .await;
    let mut hurried = host();
    hurried.timeouts.body_idle = Duration::from_millis(200);
    let response = send_as(&upstreams(), &origin.key, &hurried, get()).await.unwrap();
    assert_eq!(body(response).await.unwrap(), "xxxxx");
}

#[tokio::test]
async fn a_slow_client_is_not_a_late_head() {
    let origin = Origin::new(|mut stream, _| async move {
        head(&mut stream).await?;
        let mut received = Vec::new();
        while !received.ends_with(b"0\r\n\r\n") {
            received.push(stream.read_u8().await?);
        }
        stream.write_all(OK.as_bytes()).await
    })
    .await;
    let mut hurried = host();
    hurried.timeouts.head = Duration::from_millis(100);
    let slow = put([Step::Data(b"one"), Step::Wait(Duration::from_millis(350)), Step::Data(b"two")]);
    let response = send_as(&upstreams(), &origin.key, &hurried, slow).await.unwrap();
    assert_eq!(body(response).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_broken_request_body_is_the_clients_fault() {
    let (origin, upstreams) = (Origin::answering("").await, upstreams());
    for (step, expected) in
        [(Step::Break, ErrorKind::RequestBody), (Step::Fail(ErrorKind::RequestTooLarge), ErrorKind::RequestTooLarge)]
    {
        let failed = send_as(&upstreams, &origin.key, &host(), put([Step::Data(b"half"), step])).await.unwrap_err();
        assert_eq!(failed.error.kind(), expected);
        assert!(failed.request.is_none());
    }
    let mut short = put([Step::Data(b"half"), Step::Wait(Duration::from_millis(1))]);
    short.headers_mut().insert("content-length", "5".parse().unwrap());
    assert_eq!(kind(send_as(&upstreams, &origin.key, &host(), short).await), ErrorKind::RequestBody);
    until("all is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn an_early_response_is_delivered_and_its_connection_closed() {
    let (origin, upstreams) = (Origin::answering(OK).await, upstreams());
    let endless = put([Step::Data(b"half"), Step::Stop]);
    let response = send_as(&upstreams, &origin.key, &host(), endless).await.unwrap();
    assert_eq!(body(response).await.unwrap(), "ok");
    until("it is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_not_lost_when_the_upstream_closes_on_an_upload() {
    static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let answer = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno";
    let origin = Origin::new(move |mut stream, number| async move {
        head(&mut stream).await?;
        let mut some = vec![0; (number % 50) * 10_000];
        stream.read_exact(&mut some).await?;
        stream.write_all(answer.as_bytes()).await
    })
    .await;
    let upstreams = upstreams();
    for _ in 0..200 {
        let upload = put((0..1000).map(|_| Step::Data(&PIECE)));
        let response = send_as(&upstreams, &origin.key, &host(), upload).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(body(response).await.unwrap(), "no");
    }
    until("all is closed", || upstreams.stats() == PoolStats::default()).await;
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_and_leaves_the_pool() {
    let origin = Origin::new(|mut stream, _| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nhi").await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await
    })
    .await;
    let upstreams = upstreams();
    let mut request = get();
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    let response = send_as(&upstreams, &origin.key, &host(), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    until("the pool has let go", || upstreams.stats() == PoolStats::default()).await;
    io.write_all(b"echo").await.unwrap();
    let mut all = String::new();
    tokio::time::timeout(LONG, io.read_to_string(&mut all)).await.unwrap().unwrap();
    assert_eq!(all, "hiecho");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_leak_no_slot() {
    let now_open = Arc::new(AtomicUsize::new(0));
    let most_open = Arc::new(AtomicUsize::new(0));
    let (now, most) = (Arc::clone(&now_open), Arc::clone(&most_open));
    let origin = Origin::new(move |mut stream, number| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut served = 0;
            let served_all = async {
                while head(&mut stream).await?.is_some() {
                    stream.write_all(OK.as_bytes()).await?;
                    served += 1;
                    if served == 5 + number % 7 {
                        break;
                    }
                }
                io::Result::Ok(())
            };
            let served_all = served_all.await;
            now.fetch_sub(1, Ordering::SeqCst);
            served_all
        }
    })
    .await;
    let upstreams = upstreams_with(|s| s.max_connections_per_host = 8);
    let asked: Vec<_> = (0..1000)
        .map(|number: usize| {
            let (upstreams, key) = (upstreams.clone(), origin.key.clone());
            tokio::spawn(async move {
                let patience =
                    Duration::from_micros(if number.is_multiple_of(5) { 300 * number as u64 } else { 20_000_000 });
                match tokio::time::timeout(patience, send(&upstreams, &key)).await {
                    // Some leave early, some do not read.
                    Err(_) => {}
                    Ok(Ok(_unread)) if number.is_multiple_of(7) => {}
                    Ok(Ok(response)) => drop(body(response).await),
                    // The origin closes without a word; a request may meet that.
                    Ok(Err(failed)) => assert_eq!(failed.error.kind(), ErrorKind::UpstreamReset),
                }
            })
        })
        .collect();
    for asked in asked {
        asked.await.unwrap();
    }
    until("nothing waits and nothing is in use", || {
        let stats = upstreams.stats();
        stats.waiting == 0 && stats.open == stats.idle && stats.open <= 8
    })
    .await;
    // An origin may not have noticed a close yet when the next connection is there.
    assert!(most_open.load(Ordering::SeqCst) <= 16, "{most_open:?}");
    // Every slot is still there.
    let mut held = Vec::new();
    for _ in 0..8 {
        loop {
            match send(&upstreams, &origin.key).await {
                Ok(response) => break held.push(response),
                Err(failed) => assert_eq!(failed.error.kind(), ErrorKind::UpstreamReset),
            }
        }
    }
    drop(held);
    until("all is closed", || upstreams.stats().open == upstreams.stats().idle).await;
}

#[tokio::test]
async fn what_fails_before_a_connection_gives_the_request_back() {
    let upstreams = upstreams();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Key::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
    };
    for (key, expected) in [
        (closed, ErrorKind::ConnectRefused),
        (Key::parse("http://nonexistent.invalid").unwrap(), ErrorKind::Dns),
        (Key::parse("http://169.254.169.254").unwrap(), ErrorKind::DestinationDenied),
    ] {
        let failed = send(&upstreams, &key).await.unwrap_err();
        assert_eq!(failed.error.kind(), expected, "{key}");
        assert!(failed.request.is_some(), "{key}");
    }
    assert_eq!(upstreams.stats(), PoolStats::default());
}

#[tokio::test]
async fn names_are_judged_by_what_they_resolve_to() {
    let origin = Origin::answering(OK).await;
    let hosts = Hosts::new(Arc::new(host()), Vec::new());
    let by_name = Key::parse(&format!("http://localhost:{}", origin.key.port())).unwrap();
    let own = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), origin.key.port());
    let wildcard = SocketAddr::new(IpAddr::from([0; 16]), origin.key.port());
    for (egress, expected) in [
        (egress(true, Vec::new()), Ok("ok".to_owned())),
        (egress(false, Vec::new()), Err(ErrorKind::DestinationDenied)),
        (egress(true, vec![wildcard]), Err(ErrorKind::OwnListener)),
    ] {
        let upstreams: Upstreams<Told> = Upstreams::new(&settings(), &limits(), &hosts, egress).unwrap();
        assert_eq!(ask(&upstreams, &by_name).await, expected);
        let target = Target { key: &by_name, host: &host() };
        assert_eq!(upstreams.connect(&target).await.is_ok(), expected.is_ok());
    }
    let upstreams: Upstreams<Told> = Upstreams::new(&settings(), &limits(), &hosts, egress(true, vec![own])).unwrap();
    assert_eq!(ask(&upstreams, &origin.key).await, Err(ErrorKind::OwnListener));
    let port = Key::parse("https://127.0.0.1:443").unwrap();
    let refused = upstreams.connect(&Target { key: &port, host: &host() }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DestinationPort);
}

/// An authority of our own and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file, _directory: directory }
    }

    async fn origin(&self, names: &[&str], expired: bool, version: &'static SupportedVersion) -> Origin {
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut origin = Origin::new(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await?;
                while head(&mut stream).await?.is_some() {
                    stream.write_all(OK.as_bytes()).await?;
                }
                Ok(())
            }
        })
        .await;
        origin.key = Key::parse(&format!("https://localhost:{}", origin.key.port())).unwrap();
        origin
    }
}

type SupportedVersion = rustls::SupportedProtocolVersion;

fn with_tls(change: impl FnOnce(&mut Tls)) -> HostSettings {
    let mut host = host();
    change(&mut host.tls);
    host
}

fn trusting(file: &Path) -> HostSettings {
    with_tls(|tls| tls.ca_files = vec![file.to_owned()])
}

async fn ask_tls(upstreams: &Upstreams<Told>, key: &Key, host: &HostSettings) -> Result<String, ErrorKind> {
    upstreams.prepare(&Hosts::new(Arc::new(host.clone()), Vec::new())).unwrap();
    match send_as(upstreams, key, host, get()).await {
        Ok(response) => body(response).await,
        Err(failed) => Err(failed.error.kind()),
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (v12, v13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    let good = ours.origin(&["localhost", "127.0.0.1"], false, v13).await;
    let old = ours.origin(&["localhost"], false, v12).await;
    let upstreams = upstreams();

    let ok = Ok("ok".to_owned());
    let bad = Err(ErrorKind::TlsCertificate);
    let trusted = trusting(&ours.file);
    assert_eq!(ask_tls(&upstreams, &good.key, &trusted).await, ok);
    assert_eq!(ask_tls(&upstreams, &good.key, &trusted).await, ok);
    assert_eq!(good.connections(), 1);
    let by_address = Key::parse(&format!("https://127.0.0.1:{}", good.key.port())).unwrap();
    assert_eq!(ask_tls(&upstreams, &by_address, &trusted).await, ok);
    assert_eq!(ask_tls(&upstreams, &old.key, &trusted).await, ok);

    // A connection made under one trust is not used under another.
    assert_eq!(ask_tls(&upstreams, &good.key, &trusting(&theirs.file)).await, bad);
    assert_eq!(ask_tls(&upstreams, &good.key, &host()).await, bad, "no roots at all");
    let name = ours.origin(&["other.example"], false, v13).await;
    assert_eq!(ask_tls(&upstreams, &name.key, &trusted).await, bad);
    let by_address = Key::parse(&format!("https://127.0.0.1:{}", old.key.port())).unwrap();
    assert_eq!(ask_tls(&upstreams, &by_address, &trusted).await, bad, "an address needs an address in the certificate");
    let expired = ours.origin(&["localhost"], true, v13).await;
    assert_eq!(ask_tls(&upstreams, &expired.key, &trusted).await, bad);

    for (origin, version) in [(&name, TlsVersion::Tls13), (&expired, TlsVersion::Tls13), (&old, TlsVersion::Tls12)] {
        let insecure = with_tls(|tls| (tls.insecure, tls.min_version) = (true, version));
        assert_eq!(ask_tls(&upstreams, &origin.key, &insecure).await, ok);
    }
    let newer = with_tls(|tls| (tls.ca_files, tls.min_version) = (vec![ours.file.clone()], TlsVersion::Tls13));
    assert_eq!(ask_tls(&upstreams, &old.key, &newer).await, Err(ErrorKind::TlsProtocol));
    assert_eq!(ask_tls(&upstreams, &good.key, &newer).await, ok);
}

#[tokio::test]
async fn configured_authorities_are_added_to_the_global_roots() {
    let ours = Authority::new();
    let origin = ours.origin(&["localhost"], false, &rustls::version::TLS13).await;
    let upstreams = upstreams_with(|s| s.ca_files = vec![ours.file.clone()]);
    assert_eq!(ask(&upstreams, &origin.key).await.unwrap(), "ok");
}

#[tokio::test]
async fn tls_that_is_no_tls_is_told_apart() {
    let upstreams = upstreams();
    let https = |origin: &Origin| Key::parse(&format!("https://127.0.0.1:{}", origin.key.port())).unwrap();
    let plain = Origin::new(|mut stream, _| async move { stream.write_all(OK.as_bytes()).await }).await;
    assert_eq!(ask_tls(&upstreams, &https(&plain), &host()).await, Err(ErrorKind::TlsProtocol));
    let closing = Origin::new(|_, _| async move { Ok(()) }).await;
    assert_eq!(ask_tls(&upstreams, &https(&closing), &host()).await, Err(ErrorKind::TlsProtocol));
    let silent = Origin::answering("").await;
    let mut hurried = host();
    hurried.timeouts.tls = Duration::from_millis(50);
    assert_eq!(ask_tls(&upstreams, &https(&silent), &hurried).await, Err(ErrorKind::TlsTimeout));
    assert_eq!(upstreams.stats(), PoolStats::default());
}

#[test]
fn a_bad_authority_file_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (missing, empty, garbled) =
        (directory.path().join("missing"), directory.path().join("empty"), directory.path().join("garbled"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&garbled, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for file in [missing, empty, garbled] {
        let start = |settings: &settings::Upstream, host: HostSettings| {
            let hosts = Hosts::new(Arc::new(host), Vec::new());
            Upstreams::<Told>::new(settings, &limits(), &hosts, egress(true, Vec::new())).map(drop)
        };
        let mut global = settings();
        global.ca_files = vec![file.clone()];
        for error in [start(&global, host()).unwrap_err(), start(&settings(), trusting(&file)).unwrap_err()] {
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        }
    }
}
