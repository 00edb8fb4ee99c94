//! A host that is played by the test itself, for tests about the order of things and about single bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::within;

/// A host that is played by the test itself, read and write in the order of the script.
pub struct Host {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Host {
    /// Listens on a free port of the loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection.
    pub async fn accept(&self) -> Line {
        let (stream, _) = within("a connection to the host", self.listener.accept()).await.unwrap();
        Line { stream, buffer: Vec::new() }
    }
}

/// A connection at the host.
pub struct Line {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Line {
    /// Reads up to and with `mark`.
    pub async fn until(&mut self, mark: &str) -> String {
        within(mark, async {
            loop {
                let found = self.buffer.windows(mark.len()).position(|w| w == mark.as_bytes());
                if let Some(at) = found {
                    let rest = self.buffer.split_off(at + mark.len());
                    return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
                }
                let mut piece = [0; 4096];
                let read = self.stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "expected {mark:?}, found the end after {:?}", String::from_utf8_lossy(&self.buffer));
                self.buffer.extend_from_slice(&piece[..read]);
            }
        })
        .await
    }

    /// Writes `bytes`.
    pub async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Whether nothing comes for a moment.
    pub async fn is_silent(&mut self, moment: Duration) -> bool {
        let mut piece = [0; 1];
        self.buffer.is_empty() && tokio::time::timeout(moment, self.stream.read(&mut piece)).await.is_err()
    }

    /// Reads up to the end, whichever way it comes. What came before it is in `buffer`.
    pub async fn ends(&mut self) {
        let _ = within("the end of the connection to the host", self.stream.read_to_end(&mut self.buffer)).await;
    }
}
