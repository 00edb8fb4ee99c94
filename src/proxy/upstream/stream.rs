//! An upstream that refuses an upload answers (413, 429) and closes, and the next write of the body fails. The answer is in
//! the receive buffer by then, but hyper gives up on the first failed write. So a write that fails because the peer has
//! closed waits until everything that the peer sent has been read: either there is an answer, or the end tells the same.
//!
//! A socket tells of a reset once. If a write was told, reading shows what had come before and then an end that is none,
//! which would make a body that lasts until the close look whole. So the reset is told again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::backpressure::{Backpressure, FROM_UPSTREAM, Pieces};

/// A stream whose failed writes wait for the reading side.
#[derive(Debug)]
pub(super) struct Patient<T> {
    inner: T,
    pieces: Pieces,
    pressure: Arc<Backpressure>,
    /// How writing failed.
    broken: Option<io::ErrorKind>,
    /// Nothing more can be read.
    read_over: bool,
    /// Who waits to hear of a failed write.
    writer: Option<Waker>,
}

impl<T> Patient<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            pieces: Pieces::of(FROM_UPSTREAM),
            pressure: Arc::default(),
            broken: None,
            read_over: false,
            writer: None,
        }
    }

    /// Whether writes are waiting.
    pub(super) fn pressure(&self) -> Arc<Backpressure> {
        Arc::clone(&self.pressure)
    }

    /// What a writer is told while or after writing fails; `None`: it may write.
    fn refusal<R>(&mut self, cx: &Context<'_>) -> Option<Poll<io::Result<R>>> {
        let kind = self.broken?;
        if self.read_over {
            return Some(Poll::Ready(Err(kind.into())));
        }
        self.writer = Some(cx.waker().clone());
        Some(Poll::Pending)
    }

    fn after_write<R>(&mut self, cx: &Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match &polled {
            Poll::Ready(Ok(_)) => self.pressure.moved(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.pressure.stall(),
        }
        match polled {
            Poll::Ready(Err(error)) if by_peer(error.kind()) && !self.read_over => {
                self.broken = Some(error.kind());
                self.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            other => other,
        }
    }
}

const fn by_peer(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = {
            let this = &mut *self;
            ready!(this.pieces.poll_read(&mut this.inner, cx, buf))
        };
        let at_end = buf.filled().len() == before && buf.remaining() > 0;
        if read.is_err() || at_end {
            self.read_over = true;
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        match self.broken {
            // After a proper end the write's error is `BrokenPipe`.
            Some(kind) if at_end && read.is_ok() && kind != io::ErrorKind::BrokenPipe => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(read),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refusal) = self.refusal(cx) {
            return refusal;
        }
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.after_write(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(refusal) = self.refusal(cx) {
            return refusal;
        }
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.after_write(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(refusal) = self.refusal(cx) {
            return refusal;
        }
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.after_write(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_failed_write_is_heard_of_when_all_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        // Closing with unread data resets the connection.
        let mut stream = Patient::new(stream);
        stream.write_all(b"unread").await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"answer").await.unwrap();
        drop(peer);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = writer.write_all(b"more").await {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished());
        let mut answer = [0; 6];
        reader.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        let end = reader.read(&mut answer).await.unwrap_err();
        assert!(by_peer(end.kind()), "a reset is no end: {end}");
        let error = tokio::time::timeout(std::time::Duration::from_secs(20), writing).await.unwrap().unwrap();
        assert!(by_peer(error.kind()), "{error}");
    }
}
