//! An origin that speaks bytes, not HTTP: a script decides what is written for each request it reads.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The number of the request at this origin, from 0.
    pub number: usize,
    /// Request line and fields, as received, without the blank line.
    pub head: String,
    /// The body, decoded when it was chunked.
    pub body: Vec<u8>,
}

impl Seen {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The path and query of the request line.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }

    /// The values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        super::client::fields(&self.head, name)
    }

    /// The one value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.fields(name);
        assert!(values.len() <= 1, "expected one `{name}`, found {values:?}");
        values.first().copied()
    }
}

/// What the origin does with a request.
pub enum Reply {
    /// Writes these bytes and goes on.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes.
    Close(Vec<u8>),
    /// Closes with a reset, without a byte.
    Reset,
    /// Waits until told, then writes these bytes.
    Gate(Arc<Notify>, Vec<u8>),
    /// Writes pieces with a pause after each.
    Slow(Vec<Vec<u8>>, Duration),
    /// Writes these bytes, then sends back whatever it reads.
    Echo(Vec<u8>),
    /// Says nothing for ever.
    Hang,
}

/// A good answer with a length.
pub fn ok(body: &str) -> Reply {
    answer(200, "OK", &[], body)
}

/// An answer with a length.
pub fn answer(status: u16, reason: &str, fields: &[(&str, &str)], body: &str) -> Reply {
    Reply::Bytes(message(status, reason, fields, body))
}

/// The bytes of an answer with a length.
pub fn message(status: u16, reason: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// A throttling answer.
pub fn limited(retry_after: &str) -> Reply {
    answer(429, "Too Many Requests", &[("Retry-After", retry_after)], "slow down\n")
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running origin.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// An origin over plain TCP.
    pub async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(script, None).await
    }

    /// An origin over TLS.
    pub async fn start_tls(
        tls: tokio_rustls::TlsAcceptor,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(script, Some(tls)).await
    }

    /// An origin over TLS at a socket of the caller's.
    pub fn serve_tls(
        listener: TcpListener,
        tls: tokio_rustls::TlsAcceptor,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(listener, script, Some(tls))
    }

    async fn start_with(
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), script, tls)
    }

    fn serve(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let script: Arc<Script> = Arc::new(script);
        let (all, count) = (Arc::clone(&seen), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (script, seen, tls) = (Arc::clone(&script), Arc::clone(&all), tls.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    // Errors end the connection: the test judges what the other side saw.
                    let _ = match tls {
                        None => {
                            let reset = stream.set_zero_linger_later();
                            serve(reset, number, &*script, &seen).await
                        }
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(NoReset(stream), number, &*script, &seen).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, seen, connections, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that arrived so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Every request that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request that arrived.
    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().expect("a request has arrived")
    }
}

/// A stream that may be closed with a reset.
trait Resettable: AsyncRead + AsyncWrite + Unpin + Send {
    fn reset(self);
}

struct WithReset(tokio::net::TcpStream);
struct NoReset<S>(S);

trait ZeroLinger {
    fn set_zero_linger_later(self) -> WithReset;
}

impl ZeroLinger for tokio::net::TcpStream {
    fn set_zero_linger_later(self) -> WithReset {
        WithReset(self)
    }
}

impl Resettable for WithReset {
    fn reset(self) {
        let _ = self.0.set_zero_linger();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Resettable for NoReset<S> {
    fn reset(self) {}
}

macro_rules! delegate {
    ($($head:tt)*) => {
        $($head)* {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
    };
}

delegate!(impl AsyncRead for WithReset);
delegate!(impl<S: AsyncRead + Unpin> AsyncRead for NoReset<S>);

macro_rules! delegate_write {
    ($($head:tt)*) => {
        $($head)* {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<io::Result<usize>> {
                std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    };
}

delegate_write!(impl AsyncWrite for WithReset);
delegate_write!(impl<S: AsyncWrite + Unpin> AsyncWrite for NoReset<S>);

async fn serve<S: Resettable>(
    mut stream: S,
    connection: usize,
    script: &Script,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let body = read_body(&mut stream, &mut buffer, &head).await?;
        let request = {
            let mut seen = seen.lock().unwrap();
            let request = Seen { connection, number: seen.len(), head, body };
            seen.push(request.clone());
            request
        };
        match script(&request) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await?,
            Reply::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Reset => {
                stream.reset();
                return Ok(());
            }
            Reply::Gate(gate, bytes) => {
                gate.notified().await;
                stream.write_all(&bytes).await?;
            }
            Reply::Slow(pieces, pause) => {
                for piece in pieces {
                    stream.write_all(&piece).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Reply::Echo(bytes) => {
                stream.write_all(&bytes).await?;
                stream.write_all(&buffer).await?;
                stream.flush().await?;
                let mut piece = [0; 4096];
                loop {
                    let read = stream.read(&mut piece).await?;
                    if read == 0 {
                        return stream.shutdown().await;
                    }
                    stream.write_all(&piece[..read]).await?;
                    stream.flush().await?;
                }
            }
            Reply::Hang => std::future::pending().await,
        }
        stream.flush().await?;
    }
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let mut head = std::mem::replace(buffer, rest);
            head.truncate(end);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if !more(stream, buffer).await? {
            return Ok(None);
        }
    }
}

async fn read_body<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, head: &str) -> io::Result<Vec<u8>> {
    if super::client::fields(head, "transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let line = read_line(stream, buffer).await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                // Trailers up to the blank line.
                while !read_line(stream, buffer).await?.is_empty() {}
                return Ok(body);
            }
            body.extend(take(stream, buffer, size).await?);
            take(stream, buffer, 2).await?;
        }
    }
    let length = super::client::fields(head, "content-length").first().map_or(0, |v| v.parse().unwrap());
    take(stream, buffer, length).await
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n") {
            let line = take(stream, buffer, end).await?;
            take(stream, buffer, 2).await?;
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if !more(stream, buffer).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn take<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if !more(stream, buffer).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = buffer.split_off(length);
    Ok(std::mem::replace(buffer, rest))
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 8192];
    let read = stream.read(&mut piece).await?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read > 0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
