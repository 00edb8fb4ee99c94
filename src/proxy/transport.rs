//! A client's bytes, wherever they come from: its socket, a stream inside another connection, or TLS over one of them. The
//! rest of the data path does not ask which.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long a client may take for the few bytes that end TLS.
const GOODBYE: Duration = Duration::from_secs(1);

/// A client's connection.
pub(super) enum Transport {
    /// Its own socket.
    Socket(TcpStream),
    /// A tunnel inside a connection of several streams.
    Stream(Box<Tunnelled>),
    /// TLS that ends here.
    Secure(Box<TlsStream<Prefixed>>),
}

/// A tunnel inside a connection of several streams. Dropped before it was ended, its stream is reset: hyper would end it as
/// if it were whole (RFC 9113 §8.5).
pub(super) struct Tunnelled {
    io: TokioIo<Upgraded>,
    reset: Box<dyn Fn() + Send + Sync>,
    has_ended: bool,
}

impl Tunnelled {
    /// `reset` stops whoever writes the stream.
    pub(super) fn new(upgraded: Upgraded, reset: impl Fn() + Send + Sync + 'static) -> Self {
        Self { io: TokioIo::new(upgraded), reset: Box::new(reset), has_ended: false }
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        if !self.has_ended {
            (self.reset)();
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket(_) => "Socket",
            Self::Stream(_) => "Stream",
            Self::Secure(_) => "Secure",
        })
    }
}

impl Transport {
    /// Waits for the first bytes, and takes as few of them as it can: none from a bare socket. `None`: there will be none.
    pub(super) async fn first(&mut self) -> Option<Bytes> {
        let mut byte = [0; 1];
        match self {
            // Looked at, not only waited for: readiness may be told without a byte. At the end there is none to see.
            Self::Socket(socket) => socket.peek(&mut byte).await.is_ok_and(|bytes| bytes > 0).then(Bytes::new),
            Self::Stream(_) | Self::Secure(_) => {
                let read = self.read(&mut byte).await.ok()?;
                byte.get(..read).filter(|read| !read.is_empty()).map(Bytes::copy_from_slice)
            }
        }
    }

    /// Whether what has come so far may be the beginning of `bytes`. Takes nothing; cannot tell but for a bare socket.
    pub(super) async fn may_begin_with(&mut self, bytes: &[u8]) -> bool {
        let Self::Socket(socket) = self else { return true };
        let mut seen = vec![0; bytes.len()];
        match socket.peek(&mut seen).await {
            Ok(length) => seen.get(..length).is_some_and(|seen| bytes.starts_with(seen)),
            Err(_) => false,
        }
    }

    /// Ends an idle connection. TLS says so before its transport ends, or the end would look like an attack (RFC 9112 §9.8).
    pub(super) async fn close(mut self) {
        if let Self::Secure(stream) = &mut self {
            let _ = tokio::time::timeout(GOODBYE, stream.shutdown()).await;
        }
    }

    /// Whether the client has closed its side, however much of what it sent before is unread. A stream cannot tell.
    pub(super) fn has_left(&self, cx: &mut Context<'_>) -> bool {
        let Some(socket) = self.socket() else { return false };
        let ready = pin!(socket.ready(Interest::READABLE)).poll(cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// The socket below.
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Stream(_) => None,
            Self::Secure(stream) => stream.get_ref().0.inner.socket(),
        }
    }

    /// Sees to it that dropping this looks like an accident to the client. TLS and streams do so by themselves: the
    /// `close_notify`, or the end of the stream, is missing.
    pub(super) fn set_reset(&self) {
        if let Some(socket) = self.socket() {
            let _ = socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(stream) => Pin::new(&mut stream.io).poll_read(cx, buf),
            Self::Secure(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(io) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(stream) => Pin::new(&mut stream.io).poll_write(cx, buf),
            Self::Secure(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Stream(stream) => Pin::new(&mut stream.io).poll_write_vectored(cx, bufs),
            Self::Secure(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Socket(io) => io.is_write_vectored(),
            Self::Stream(stream) => stream.io.is_write_vectored(),
            Self::Secure(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(stream) => Pin::new(&mut stream.io).poll_flush(cx),
            Self::Secure(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(stream) => {
                let ended = Pin::new(&mut stream.io).poll_shutdown(cx);
                stream.has_ended |= ended.is_ready();
                ended
            }
            Self::Secure(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// A connection some bytes of which have been read already.
#[derive(Debug)]
pub(super) struct Prefixed {
    early: Bytes,
    inner: Transport,
}

impl Prefixed {
    pub(super) fn new(early: Bytes, inner: Transport) -> Self {
        Self { early, inner }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        } else {
            let take = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.get(..take).unwrap_or_default());
            this.early.advance(take);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
