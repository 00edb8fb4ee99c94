//! Bounds: everything a remote party can choose is bounded, every bound is counted, and who runs into one disturbs nobody
//! else.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::within;

mod floods;
mod labels;
mod memory;

/// A peer that does with each connection what the test says; it ends with the test.
struct Peer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Peer {
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, task }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The value of one sample of `/metrics`; 0 when it is not there.
async fn sample(admin: SocketAddr, sample: &str) -> f64 {
    let mut client = Client::connect(admin).await;
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    let answer = client.answer("GET").await;
    assert_eq!(answer.status, 200);
    answer
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().unwrap())
}

/// A connection from an address of its own, so that no test runs another out of ports, with a small receive buffer.
async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.bind((source, 0).into()).unwrap();
    within("a connection", socket.connect(to)).await.unwrap()
}

/// One connection, to be read and written by different tasks.
async fn connect_twice(to: SocketAddr) -> (TcpStream, TcpStream) {
    let stream = within("a connection", TcpStream::connect(to)).await.unwrap().into_std().unwrap();
    let other = stream.try_clone().unwrap();
    (TcpStream::from_std(stream).unwrap(), TcpStream::from_std(other).unwrap())
}

/// Waits until `look` says the same for a while.
async fn settled<T: PartialEq>(mut look: impl FnMut() -> T) -> T {
    within("a state that stays", async {
        let (mut last, mut same) = (look(), 0);
        while same < 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = look();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    })
    .await
}
