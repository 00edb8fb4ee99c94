//! A client that speaks bytes and reads answers strictly, so that a wrong frame is a failed test.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// What a client speaks over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl std::fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// An answer as it arrived.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and fields, without the blank line.
    pub head: String,
    /// The body, decoded when it was chunked.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says; `false`: the connection closed before.
    pub complete: bool,
}

impl Answer {
    /// The values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    /// The one value of a field; panics when it is missing or there are several.
    pub fn field(&self, name: &str) -> &str {
        match self.fields(name).as_slice() {
            [value] => value,
            other => panic!("expected one `{name}`, found {other:?} in\n{}", self.head),
        }
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Speaks over a connection that is open.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// The connection itself, with nothing read from it that was not given out.
    pub fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.buffer.is_empty(), "expected nothing more, found {:?}", String::from_utf8_lossy(&self.buffer));
        self.stream
    }

    /// Writes bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("the client to write", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes bytes to a side that may be gone; whether they could be written.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("the client to write", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Asks for `url` in absolute form and reads the answer.
    pub async fn get(&mut self, url: &str) -> Answer {
        let host = url.split('/').nth(2).unwrap();
        self.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.answer("GET").await
    }

    /// Reads one answer to a request with this method; 1xx are answers as well.
    pub async fn answer(&mut self, method: &str) -> Answer {
        within("an answer", self.read_answer(method)).await.expect("an answer, not the end of the connection")
    }

    /// As [`Client::answer`]; `None` when the connection ends before a head.
    pub async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        within("an answer or the end", self.read_answer(method)).await
    }

    /// Reads exactly so many bytes.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        within("bytes", async {
            while self.buffer.len() < length {
                assert!(self.more().await, "expected {length} bytes, found the end after {}", self.buffer.len());
            }
        })
        .await;
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads until the other side closes; what came before.
    pub async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async { while self.more().await {} }).await;
        std::mem::take(&mut self.buffer)
    }

    /// Closes our writing side.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            if !self.more().await {
                return None;
            }
        };
        let rest = self.buffer.split_off(end + 4);
        let mut head = std::mem::replace(&mut self.buffer, rest);
        head.truncate(end);
        let head = String::from_utf8(head).expect("a head in ASCII");
        let line = head.lines().next().unwrap();
        assert!(line.starts_with("HTTP/1.1 "), "expected our own version, found `{line}`");
        let status: u16 = line.split(' ').nth(1).unwrap().parse().unwrap();
        let bodiless = status < 200 || status == 204 || status == 304 || method == "HEAD";
        if bodiless || (method == "CONNECT" && status < 300) {
            return Some(Answer { status, head, body: Vec::new(), complete: true });
        }
        let lengths = fields(&head, "content-length");
        let chunked = !fields(&head, "transfer-encoding").is_empty();
        assert!(!chunked || lengths.is_empty(), "both lengths in\n{head}");
        let (body, complete) = match (chunked, lengths.as_slice()) {
            (true, _) => self.read_chunks().await,
            (false, [length]) => self.read_exactly(length.parse().unwrap()).await,
            (false, []) => {
                while self.more().await {}
                (std::mem::take(&mut self.buffer), true)
            }
            (false, several) => panic!("several lengths {several:?}"),
        };
        Some(Answer { status, head, body, complete })
    }

    async fn read_exactly(&mut self, length: usize) -> (Vec<u8>, bool) {
        while self.buffer.len() < length {
            if !self.more().await {
                return (std::mem::take(&mut self.buffer), false);
            }
        }
        let rest = self.buffer.split_off(length);
        (std::mem::replace(&mut self.buffer, rest), true)
    }

    async fn read_chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break end;
                }
                if !self.more().await {
                    return (body, false);
                }
            };
            let rest = self.buffer.split_off(end + 2);
            let line = std::mem::replace(&mut self.buffer, rest);
            let line = std::str::from_utf8(&line[..end]).unwrap();
            let size = usize::from_str_radix(line.split(';').next().unwrap(), 16).expect("a chunk size");
            if size == 0 {
                let (trailer, complete) = self.read_trailers().await;
                body.extend(trailer);
                return (body, complete);
            }
            let (chunk, complete) = self.read_exactly(size + 2).await;
            if !complete {
                return (body, false);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// Trailers are not part of the body; a test that wants them reads raw bytes.
    async fn read_trailers(&mut self) -> (Vec<u8>, bool) {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                self.buffer = rest;
                if end == 0 {
                    return (Vec::new(), true);
                }
            } else if !self.more().await {
                return (Vec::new(), false);
            }
        }
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 8192];
        match self.stream.read(&mut piece).await {
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                read > 0
            }
            Err(_) => false,
        }
    }
}

/// The values of a field of a head, in order.
pub fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}
