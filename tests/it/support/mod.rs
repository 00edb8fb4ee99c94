//! What the tests are made of: a scripted origin, a raw client, and a sidecar in this process. Everything waits with a
//! deadline and nothing sleeps for luck.

use std::future::Future;
use std::time::Duration;

pub mod bodies;
pub mod client;
pub mod configuration;
pub mod heads;
pub mod host;
pub mod http2;
pub mod mutate;
pub mod origin;
pub mod parent;
pub mod program;
pub mod sidecar;
pub mod strict;
pub mod tls;

/// The longest anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `future`, at most [`DEADLINE`]; `what` is named when it takes longer.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("expected {what} within {DEADLINE:?}"),
    }
}

/// Asks again and again until `check` says yes, at most [`DEADLINE`].
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    within(what, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// An address that refuses connections for as long as the socket is held: it is taken, and nobody listens.
pub fn refusing() -> (tokio::net::TcpSocket, std::net::SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
