//! HTTP/2 from both sides: clients and peers made of the h2 crate where the meaning counts, and single frames where the
//! bytes do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::within;

/// A client's connection, by prior knowledge.
pub struct Session {
    pub sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// An answer, as far as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// How the body broke off.
    pub error: Option<h2::Error>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A request without a body.
pub fn request(method: &str, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

impl Session {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut builder = h2::client::Builder::new();
        // The peer's own word is not known when the first streams begin.
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24).initial_max_send_streams(100);
        Self::start(&builder, address).await
    }

    pub async fn start(builder: &h2::client::Builder, address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = within("a handshake", builder.handshake(stream)).await.unwrap();
        Self { sender, driver: tokio::spawn(connection) }
    }

    /// Begins a request; `None` for a body that is still to be sent by the stream returned.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut sender = within("room for a stream", self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, ends).unwrap()
    }

    /// Asks, with a body if there is one, and reads the answer.
    pub async fn ask(&mut self, request: Request<()>, body: Option<&[u8]>) -> Result<Answer, h2::Error> {
        let (response, mut send) = self.begin(request, body.is_none()).await;
        if let Some(body) = body {
            send.send_data(Bytes::copy_from_slice(body), true)?;
        }
        answer(response).await
    }

    pub async fn get(&mut self, uri: &str) -> Answer {
        self.ask(request("GET", uri), None).await.unwrap()
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        within("the end of the connection", self.driver).await.unwrap()
    }

    /// As [`Session::ended`], while keeping the connection in use.
    pub async fn is_ended(&mut self) -> Result<(), h2::Error> {
        within("the end of the connection", &mut self.driver).await.unwrap()
    }
}

/// Reads an answer to its end, or as far as it comes.
pub async fn answer(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut stream) = within("an answer", response).await?.into_parts();
    let (body, end) = within("the end of an answer", read(&mut stream)).await;
    let (trailers, error) = match end {
        Ok(()) => match within("trailers", stream.trailers()).await {
            Ok(trailers) => (trailers, None),
            Err(error) => (None, Some(error)),
        },
        Err(error) => (None, Some(error)),
    };
    Ok(Answer { status: head.status.as_u16(), fields: head.headers, body, trailers, error })
}

/// Reads what comes, and makes room for more.
pub async fn read(stream: &mut RecvStream) -> (Vec<u8>, Result<(), h2::Error>) {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        match piece {
            Ok(piece) => {
                body.extend_from_slice(&piece);
                let _ = stream.flow_control().release_capacity(piece.len());
            }
            Err(error) => return (body, Err(error)),
        }
    }
    (body, Ok(()))
}

/// A request as it arrived at a peer.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uri: http::Uri,
    pub fields: HeaderMap,
}

/// One stream at a peer.
pub struct Stream {
    /// The number of the request at this peer, from 0.
    pub number: usize,
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Stream {
    /// The request's body.
    pub async fn body(&mut self) -> (Vec<u8>, Result<(), h2::Error>) {
        read(self.request.body_mut()).await
    }

    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    pub fn head(&mut self, status: u16, fields: &[(&str, &str)], ends: bool) -> h2::SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), ends).unwrap()
    }

    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) {
        let mut send = self.head(status, fields, false);
        let _ = send.send_data(body.into(), true);
    }
}

/// What a peer does with all of its connections.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// GOAWAY, and the end when the last stream has ended.
    Retire,
    /// GOAWAY, and the end at once.
    GoAway(Reason),
    /// The end, without a word.
    Drop,
}

/// A peer that speaks HTTP/2 over TLS.
pub struct Peer {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    orders: broadcast::Sender<Order>,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Peer {
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        tls: TlsAcceptor,
        handler: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(tls, h2::server::Builder::new(), handler).await
    }

    pub async fn start_with<F: Future<Output = ()> + Send + 'static>(
        tls: TlsAcceptor,
        builder: h2::server::Builder,
        handler: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Self {
        let tls = super::tls::offering(&tls, &["h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (orders, _) = broadcast::channel(4);
        let handler = Arc::new(handler);
        let task = {
            let (connections, open, seen, orders) =
                (Arc::clone(&connections), Arc::clone(&open), Arc::clone(&seen), orders.clone());
            tokio::spawn(async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { return };
                    connections.fetch_add(1, Ordering::SeqCst);
                    open.fetch_add(1, Ordering::SeqCst);
                    let counted = Counted(Arc::clone(&open));
                    let (tls, builder, handler, seen) =
                        (tls.clone(), builder.clone(), Arc::clone(&handler), Arc::clone(&seen));
                    let orders = orders.subscribe();
                    tokio::spawn(async move {
                        let _counted = counted;
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let Ok(connection) = builder.handshake(stream).await else { return };
                        drive(connection, &*handler, &seen, orders).await;
                    });
                }
            })
        };
        Self { address, connections, open, seen, orders, task }
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn order(&self, order: Order) {
        // Without a connection there is nobody to order.
        let _ = self.orders.send(order);
    }
}

async fn drive<S, H, F>(
    mut connection: h2::server::Connection<S, Bytes>,
    handler: &H,
    seen: &Mutex<Vec<Seen>>,
    mut orders: broadcast::Receiver<Order>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Stream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Ok(Order::Retire) => connection.graceful_shutdown(),
                Ok(Order::GoAway(reason)) => connection.abrupt_shutdown(reason),
                Ok(Order::Drop) | Err(_) => return,
            },
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => {
                    let at = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(Seen {
                            uri: request.uri().clone(),
                            fields: request.headers().clone(),
                        });
                        seen.len() - 1
                    };
                    tokio::spawn(handler(Stream { number: at, request, respond }));
                }
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// Kinds of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without compression, as it stands.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
        return;
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// A frame that was read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status of the first answer of a connection: later ones may point at earlier ones.
    fn status(&self) -> u16 {
        match self.payload.as_slice() {
            [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            [0x48, 3, digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
            [0x48, length, coded @ ..] => digits(&coded[..usize::from(length & 0x7f)]),
            other => panic!("expected a status first, found {other:?}"),
        }
    }
}

/// Three digits in the code of RFC 7541 appendix B.
fn digits(coded: &[u8]) -> u16 {
    let bits: Vec<u16> = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1))).collect();
    let take = |at: usize, count: usize| bits[at..at + count].iter().fold(0, |value, bit| value * 2 + bit);
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let short = take(at, 5);
        let digit = if short < 3 { short } else { take(at, 6) - 0x19 + 3 };
        at += if short < 3 { 5 } else { 6 };
        number = number * 10 + digit;
    }
    number
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered(u16),
    Reset(u32),
    GoAway(u32),
    /// The connection ended.
    End,
}

/// A connection frame by frame.
pub struct Raw<S = TcpStream> {
    pub stream: S,
}

impl Raw {
    /// A client's.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpSocket::new_v4().unwrap();
        // Small, so that a peer that is not read from finds out soon.
        stream.set_recv_buffer_size(16 * 1024).unwrap();
        let stream = within("a connection", stream.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self { stream };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        raw
    }

    /// Both directions apart.
    pub fn split(self) -> (Raw<tokio::net::tcp::OwnedReadHalf>, tokio::net::tcp::OwnedWriteHalf) {
        let (read, write) = self.stream.into_split();
        (Raw { stream: read }, write)
    }
}

impl<S: AsyncWrite + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: &[u8]) {
        within("the client to write", self.stream.write_all(bytes)).await.unwrap();
        within("the client to flush", self.stream.flush()).await.unwrap();
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// The next frame; `None`: the end.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], stream, payload })
    }

    /// Waits for the first frame that says what becomes of `stream`.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        within("the fate of a stream", async {
            loop {
                match self.frame().await {
                    None => return Fate::End,
                    Some(frame) if frame.kind == GOAWAY => return Fate::GoAway(frame.code()),
                    Some(frame) if frame.stream != stream => {}
                    Some(frame) if frame.kind == RST_STREAM => return Fate::Reset(frame.code()),
                    Some(frame) if frame.kind == HEADERS => return Fate::Answered(frame.status()),
                    Some(_) => {}
                }
            }
        })
        .await
    }
}

/// A peer that answers every stream with the frames of a script, over TLS.
pub struct RawPeer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawPeer {
    /// `script` gets the number of a stream and says what is written once its head has come.
    pub async fn start(tls: TlsAcceptor, script: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let tls = super::tls::offering(&tls, &["h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(script);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (tls, script) = (tls.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    let mut preface = [0; PREFACE.len()];
                    if stream.read_exact(&mut preface).await.is_err() {
                        return;
                    }
                    let hello = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat();
                    let _ = stream.write_all(&hello).await;
                    let mut raw = Raw { stream };
                    while let Some(frame) = raw.frame().await {
                        if frame.kind == HEADERS {
                            let _ = raw.stream.write_all(&script(frame.stream)).await;
                            let _ = raw.stream.flush().await;
                        }
                    }
                });
            }
        });
        Self { address, task }
    }
}

/// The configuration of a `[[reverse]]` to `port` of this machine over TLS; `upstream`: more of that table.
pub fn reverse_to(port: u16, authority: &super::tls::Authority, upstream: &str) -> String {
    format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://localhost:{port}\"\n\
         [upstream]\nplatform_roots = false\nca_files = [{:?}]\n{upstream}\n",
        authority.file()
    )
}
