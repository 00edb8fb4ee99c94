//! A peer that does what a test says, connection by connection. It counts what arrives.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A listening peer. Dropped, it closes every connection.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    /// Request lines, in order.
    arrived: Mutex<Vec<String>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// A peer that gives each connection to `serve`.
    pub async fn start<F>(serve: impl Fn(Line) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = all.connections.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(Line { number, stream, buffer: Vec::new(), shared: Arc::clone(&all) }));
                while serving.try_join_next().is_some() {}
            }
        });
        Self { address, shared, task }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many requests with this path arrived.
    pub fn arrivals(&self, path: &str) -> usize {
        let arrived = self.shared.arrived.lock().unwrap();
        arrived.iter().filter(|line| line.split(' ').nth(1) == Some(path)).count()
    }

    /// Every request line so far.
    pub fn arrived(&self) -> Vec<String> {
        self.shared.arrived.lock().unwrap().clone()
    }
}

/// One connection at the peer.
pub struct Line {
    /// From 0.
    pub number: usize,
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Line {
    /// Reads a head and counts it; `None` when the connection ends before.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                let head = String::from_utf8(head).expect("a head in ASCII");
                self.shared.arrived.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads the body that belongs to `head`; `None` when the connection ends before.
    pub async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        let fields = |name: &str| crate::support::client::fields(head, name).first().map(|value| (*value).to_owned());
        if fields("transfer-encoding").is_none() {
            let length = fields("content-length").map_or(0, |length| length.parse().unwrap());
            return self.take(length).await;
        }
        let mut body = Vec::new();
        loop {
            let end = loop {
                match self.buffer.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None if !self.more().await => return None,
                    None => {}
                }
            };
            let line = self.take(end + 2).await?;
            let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// Reads so many bytes; `None` when the connection ends before.
    pub async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.buffer.split_off(length);
        Some(std::mem::replace(&mut self.buffer, rest))
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

    /// Waits for bytes without reading them. `false`: the connection ends instead.
    pub async fn pending(&self) -> bool {
        !self.buffer.is_empty() || self.stream.peek(&mut [0; 1]).await.is_ok_and(|bytes| bytes > 0)
    }

    /// Writes; `false`: the other side is gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Writes one byte at a time.
    pub async fn drip(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.write([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Closes our side in good order.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Waits until the other side closes; what it sent before.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }
}
