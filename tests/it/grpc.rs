//! gRPC: the status of a call stands behind its body. What that means for the key, for the permit, and for callers that are
//! answered here. The peer is played by the test, frame by frame; `tests/grpc_calls.py` has a real client and server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::client::Client;
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::within;

const OK: &[(&str, &str)] = &[("grpc-status", "0")];
const LIMITED: &[(&str, &str)] =
    &[("grpc-status", "8"), ("grpc-retry-pushback-ms", "30000"), ("grpc-message", "slow%20down")];
const BRIEFLY: &[(&str, &str)] = &[("grpc-status", "8"), ("grpc-retry-pushback-ms", "1000")];
const GONE: &[(&str, &str)] = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "30000")];

/// A peer that speaks HTTP/2 over TLS and leaves every answer to the test.
struct Peer {
    url: String,
    calls: mpsc::Receiver<Call>,
    task: JoinHandle<()>,
    /// Its certificate is of this authority.
    authority: Authority,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    async fn start() -> Self {
        let authority = Authority::new();
        let mut tls = authority.acceptor(&["localhost"]).config().as_ref().clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (found, calls) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, found) = (tls.clone(), found.clone());
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(tls.accept(stream).await.unwrap()).await.unwrap();
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        let _ = found.send(Call { request, answer }).await;
                    }
                });
            }
        });
        Self { url, calls, task, authority }
    }

    /// A sidecar with a `[[reverse]]` listener onto this peer.
    async fn holdoff(&self, cooldown: &str) -> Holdoff {
        Holdoff::start(&format!(
            "[upstream]\nplatform_roots = false\nca_files = [\"{}\"]\n[defaults.cooldown]\nhint_jitter = false\n\
             ramp = \"0s\"\n{cooldown}\n[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n",
            self.authority.file().display(),
            self.url
        ))
        .await
    }

    async fn call(&mut self) -> Call {
        within("a call at the peer", self.calls.recv()).await.unwrap()
    }

    fn is_idle(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// The label `host` of the peer.
    fn host(&self) -> &str {
        self.url.strip_prefix("https://").unwrap()
    }
}

/// A call as it came to the peer.
struct Call {
    request: Request<RecvStream>,
    answer: SendResponse<Bytes>,
}

impl Call {
    /// Sends the head of a call that goes well so far.
    fn open(&mut self) -> SendStream<Bytes> {
        self.answer.send_response(head(StatusCode::OK, &[]), false).unwrap()
    }

    /// The whole answer is a head.
    fn close(&mut self, status: u16, fields: &[(&str, &str)]) {
        self.answer.send_response(head(StatusCode::from_u16(status).unwrap(), fields), true).unwrap();
    }
}

fn head(status: StatusCode, fields: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().extend(map(fields));
    response
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect()
}

/// A client that speaks HTTP/2 by prior knowledge.
struct Caller {
    sender: client::SendRequest<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Caller {
    async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        let (sender, connection) = within("HTTP/2", client::handshake(stream)).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, task }
    }

    /// Begins a call.
    async fn begin(&mut self, fields: &[(&str, &str)]) -> (client::ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post("http://peer.example/peer.Peer/Call").body(()).unwrap();
        request.headers_mut().extend(map(&[("content-type", "application/grpc+proto"), ("te", "trailers")]));
        request.headers_mut().extend(map(fields));
        let mut sender = within("room for a stream", self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, false).unwrap()
    }

    /// A unary call.
    async fn call(&mut self) -> client::ResponseFuture {
        let (response, mut body) = self.begin(&[]).await;
        body.send_data(Bytes::from_static(b"question"), true).unwrap();
        response
    }

    /// A call that is answered here.
    async fn refused(&mut self) -> Response<RecvStream> {
        let response = self.call().await;
        within("an answer", response).await.unwrap()
    }
}

fn field<'r, B>(response: &'r Response<B>, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn trailers(response: &mut Response<RecvStream>) -> HeaderMap {
    let body = response.body_mut();
    while let Some(data) = within("the body", body.data()).await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    within("trailers", body.trailers()).await.unwrap().unwrap_or_default()
}

async fn state(holdoff: &Holdoff, peer: &Peer) -> String {
    holdoff.key(&peer.url).await["state"].as_str().unwrap().to_owned()
}

async fn becomes(holdoff: &Holdoff, peer: &Peer, wanted: &str) {
    within(wanted, async {
        while state(holdoff, peer).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Makes the key cool for a second and waits until the next call is the probe.
async fn cool_briefly(holdoff: &Holdoff, peer: &mut Peer, caller: &mut Caller) {
    let response = caller.call().await;
    peer.call().await.close(200, BRIEFLY);
    assert_eq!(field(&within("the answer", response).await.unwrap(), "grpc-status"), "8");
    becomes(holdoff, peer, "probing").await;
}

#[tokio::test]
async fn a_limit_in_trailers_starts_a_cooldown_and_passes() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    let response = caller.call().await;
    let mut call = peer.call().await;
    let mut body = call.open();
    body.send_data(Bytes::from_static(b"answer"), false).unwrap();
    let mut response = within("the head", response).await.unwrap();
    assert!(!response.headers().contains_key("trailer"), "trailers pass that nobody has announced");
    assert_eq!(state(&holdoff, &peer).await, "clear", "nothing has been said yet");
    body.send_trailers(map(&[LIMITED, &[("x-mine", "kept")]].concat())).unwrap();
    let found = trailers(&mut response).await;
    assert_eq!((&found["grpc-status"], &found["x-mine"]), (&"8".parse().unwrap(), &"kept".parse().unwrap()));

    let seen = holdoff.key(&peer.url).await;
    assert_eq!((&seen["state"], &seen["source"]), (&"cooling".into(), &"grpc_pushback".into()), "{seen}");
    let line = seen["last_error"].as_str().unwrap();
    assert_eq!(line, format!("gRPC 8 from {} (retry_after=30s): slow down", peer.host()));
    let signals = format!("holdoff_signals_total{{host=\"{}\",source=\"grpc_pushback\"}}", peer.host());
    assert_eq!(holdoff.metric(&signals).await, 1.0);

    let refused = caller.refused().await;
    assert_eq!((refused.status(), field(&refused, "grpc-status")), (StatusCode::OK, "8"));
    assert!(refused.body().is_end_stream(), "the head is the whole answer");
    assert!(!refused.headers().contains_key("content-length"));
    assert_eq!(field(&refused, "content-type"), "application/grpc");
    let left: u64 = field(&refused, "grpc-retry-pushback-ms").parse().unwrap();
    assert!((20_000..=30_000).contains(&left), "{left}");
    assert!(field(&refused, "holdoff").starts_with("short-circuit; reason=rate_limited; "));
    assert!(peer.is_idle(), "the peer is left alone");
}

#[tokio::test]
async fn a_head_that_says_so_decides_at_once() {
    for (status, fields, open, grpc_status, reason) in [
        (200, LIMITED, false, "8", "rate_limited"),
        (200, GONE, false, "14", "unavailable"),
        (429, &[("retry-after", "30")][..], true, "8", "rate_limited"),
        (503, &[("retry-after", "30")], true, "14", "unavailable"),
    ] {
        let mut peer = Peer::start().await;
        let holdoff = peer.holdoff("").await;
        let mut caller = Caller::connect(holdoff.reverse(0)).await;
        let response = caller.call().await;
        let mut call = peer.call().await;
        let response_head = head(StatusCode::from_u16(status).unwrap(), fields);
        let body = call.answer.send_response(response_head, !open).unwrap();
        let response = within("the head", response).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.body().is_end_stream(), !open);
        let seen = holdoff.key(&peer.url).await;
        assert_eq!((&seen["state"], &seen["reason"]), (&"cooling".into(), &reason.into()), "{status} {fields:?}");
        let refused = caller.refused().await;
        assert_eq!((refused.status(), field(&refused, "grpc-status")), (StatusCode::OK, grpc_status));
        drop(body);
    }
}

#[tokio::test]
async fn a_call_that_went_wrong_for_its_own_reasons_changes_nothing() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    for fields in [&[("grpc-status", "5")][..], &[("grpc-status", "13")], &[("grpc-status", "14")], &[]] {
        let response = caller.call().await;
        let mut body = peer.call().await.open();
        let mut response = within("the head", response).await.unwrap();
        if fields.is_empty() {
            body.send_data(Bytes::new(), true).unwrap();
        } else {
            body.send_trailers(map(fields)).unwrap();
        }
        assert_eq!(trailers(&mut response).await, map(fields));
        assert_eq!(state(&holdoff, &peer).await, "clear", "{fields:?}");
    }
    let seen = holdoff.key(&peer.url).await;
    assert_eq!(seen["last_error"], format!("gRPC 14 from {}", peer.host()), "without a wait it is a failure");
}

#[tokio::test]
async fn a_probe_is_not_a_success_before_its_trailers() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    body.send_data(Bytes::from_static(b"answer"), false).unwrap();
    let mut response = within("the head", response).await.unwrap();
    assert_eq!(state(&holdoff, &peer).await, "probing");
    let refused = caller.refused().await;
    assert_eq!((field(&refused, "grpc-status"), field(&refused, "grpc-retry-pushback-ms")), ("8", "1000"));
    body.send_trailers(map(OK)).unwrap();
    assert_eq!(trailers(&mut response).await, map(OK));
    assert_eq!(state(&holdoff, &peer).await, "clear");
}

#[tokio::test]
async fn a_probe_whose_client_leaves_says_nothing() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    drop(within("the head", response).await.unwrap());
    let gone = within("the reset", std::future::poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
    assert_eq!(gone, Reason::CANCEL, "the peer is told");
    let cancelled = format!("holdoff_probes_total{{host=\"{}\",result=\"cancelled\"}}", peer.host());
    within("the probe to be given up", async {
        while holdoff.metric(&cancelled).await == 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(state(&holdoff, &peer).await, "probing");
    // The slot is free again a second after this probe began.
    let next = within("the next probe", async {
        loop {
            let mut response = caller.call().await;
            tokio::select! {
                call = peer.call() => break (call, response),
                refused = &mut response => assert_eq!(field(&refused.unwrap(), "grpc-status"), "8"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (mut call, response) = next;
    call.close(200, OK);
    assert_eq!(field(&within("the answer", response).await.unwrap(), "grpc-status"), "0");
    assert_eq!(state(&holdoff, &peer).await, "clear");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_success() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    let mut response = within("the head", response).await.unwrap();
    body.send_reset(Reason::INTERNAL_ERROR);
    assert!(within("the reset", response.body_mut().data()).await.is_some_and(|data| data.is_err()));
    assert_eq!(state(&holdoff, &peer).await, "probing");
    let ended = format!("holdoff_probes_total{{host=\"{}\",result=\"neutral\"}}", peer.host());
    assert_eq!(holdoff.metric(&ended).await, 1.0);
}

#[tokio::test]
async fn a_probe_that_ends_without_a_status_was_answered() {
    for head_only in [true, false] {
        let mut peer = Peer::start().await;
        let holdoff = peer.holdoff("").await;
        let mut caller = Caller::connect(holdoff.reverse(0)).await;
        cool_briefly(&holdoff, &mut peer, &mut caller).await;
        let response = caller.call().await;
        let mut call = peer.call().await;
        if head_only {
            call.close(200, &[]);
        } else {
            call.open().send_data(Bytes::from_static(b"answer"), true).unwrap();
        }
        let mut response = within("the head", response).await.unwrap();
        assert_eq!(trailers(&mut response).await, HeaderMap::new());
        assert_eq!(state(&holdoff, &peer).await, "clear");
        let answered = format!("holdoff_probes_total{{host=\"{}\",result=\"answered\"}}", peer.host());
        assert_eq!(holdoff.metric(&answered).await, 1.0);
    }
}

#[tokio::test]
async fn a_stream_longer_than_the_lease_is_a_success_and_its_end_still_counts() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("probe_lease = \"1s\"").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    body.send_data(Bytes::from_static(b"event"), false).unwrap();
    let mut response = within("the head", response).await.unwrap();
    assert_eq!(state(&holdoff, &peer).await, "probing");
    // Not a word on the stream meanwhile.
    becomes(&holdoff, &peer, "clear").await;
    body.send_data(Bytes::from_static(b"event"), false).unwrap();
    body.send_trailers(map(LIMITED)).unwrap();
    assert_eq!(trailers(&mut response).await, map(LIMITED));
    let seen = holdoff.key(&peer.url).await;
    assert_eq!((&seen["state"], &seen["source"]), (&"cooling".into(), &"grpc_pushback".into()), "{seen}");
}

#[tokio::test]
async fn a_lease_that_ends_unnoticed_counts_when_the_client_leaves() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("probe_lease = \"200ms\"").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    // More than the client has room for, and it reads none of it: nobody asks for the rest of the body.
    body.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
    let response = within("the head", response).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    drop(response);
    becomes(&holdoff, &peer, "clear").await;
}

#[tokio::test]
async fn a_lease_ends_under_a_body_that_always_has_more() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("probe_lease = \"200ms\"").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    cool_briefly(&holdoff, &mut peer, &mut caller).await;
    let response = caller.call().await;
    let mut body = peer.call().await.open();
    body.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
    let mut response = within("the head", response).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    // The client takes some of it, and more is there already.
    let mut taken = 0;
    while taken < 48 * 1024 {
        let data = within("some data", response.body_mut().data()).await.unwrap().unwrap();
        response.body_mut().flow_control().release_capacity(data.len()).unwrap();
        taken += data.len();
    }
    becomes(&holdoff, &peer, "clear").await;
    drop(response);
}

#[tokio::test]
async fn both_sides_of_a_call_take_turns() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    let (response, mut up) = caller.begin(&[("grpc-timeout", "20S"), ("x-mine", "kept")]).await;
    let call = peer.call().await;
    let Call { mut request, mut answer } = call;
    for (name, value) in [("te", "trailers"), ("grpc-timeout", "20S"), ("x-mine", "kept")] {
        assert_eq!(request.headers()[name], value);
    }
    let mut down = answer.send_response(head(StatusCode::OK, &[]), false).unwrap();
    let mut response = within("the head", response).await.unwrap();
    for n in 0..50_usize {
        // Four times a window of flow control in all.
        let piece = Bytes::from(vec![u8::try_from(n).unwrap(); 5_000]);
        for (sender, receiver) in [(&mut up, request.body_mut()), (&mut down, response.body_mut())] {
            sender.send_data(piece.clone(), false).unwrap();
            let mut arrived = 0;
            while arrived < piece.len() {
                let data = within("a piece", receiver.data()).await.unwrap().unwrap();
                receiver.flow_control().release_capacity(data.len()).unwrap();
                arrived += data.len();
            }
            assert_eq!(arrived, piece.len());
        }
    }
    up.send_trailers(map(&[("x-up", "1")])).unwrap();
    assert!(within("the end", request.body_mut().data()).await.is_none());
    assert_eq!(within("trailers", request.body_mut().trailers()).await.unwrap().unwrap(), map(&[("x-up", "1")]));
    down.send_trailers(map(OK)).unwrap();
    assert_eq!(trailers(&mut response).await, map(OK));
}

#[tokio::test]
async fn where_signals_are_only_observed_a_call_passes_and_is_counted() {
    let mut peer = Peer::start().await;
    let holdoff = peer.holdoff("[defaults]\nmode = \"observe\"").await;
    let mut caller = Caller::connect(holdoff.reverse(0)).await;
    for _ in 0..2 {
        let response = caller.call().await;
        peer.call().await.open().send_trailers(map(LIMITED)).unwrap();
        let mut response = within("the head", response).await.unwrap();
        assert_eq!(trailers(&mut response).await, map(LIMITED));
    }
    let signals = format!("holdoff_signals_total{{host=\"{}\",source=\"grpc_pushback\"}}", peer.host());
    assert_eq!(holdoff.metric(&signals).await, 2.0);
}

#[tokio::test]
async fn callers_by_http_1_get_the_same_answers() {
    let holdoff = Holdoff::start("").await;
    let (_held, closed) = crate::support::refusing();
    for (target, code) in [(format!("http://{closed}/a/b"), "14"), ("http://169.254.169.254/a/b".to_owned(), "7")] {
        let mut client = Client::connect(holdoff.proxy()).await;
        let host = target.split('/').nth(2).unwrap().to_owned();
        let ask = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
        );
        client.send(&ask).await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.field("grpc-status"), answer.field("content-length")), (200, code, "0"));
        assert!(answer.field("grpc-message").contains("This answer is from holdoff (stage: "), "{}", answer.head);
        assert!(answer.field("holdoff").starts_with("error; kind="));
        assert!(answer.fields("grpc-retry-pushback-ms").is_empty());
        client.send(&ask).await;
        assert_eq!(client.answer("POST").await.status, 200, "the connection stays open");
    }
}
