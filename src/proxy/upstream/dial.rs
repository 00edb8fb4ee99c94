//! From checked addresses to a TCP connection. The addresses are tried in turn, the next one 250 ms after the last or as
//! soon as one fails, families alternating (RFC 8305), and the first to connect wins. No name is looked up here: what was
//! checked is what is dialled.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::proxy::error::{ErrorKind, ProxyError};

/// How long an address is tried alone (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long the other machine may leave bytes or probes unacknowledged.
#[cfg(target_os = "linux")]
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// When a connection on which nothing moves is probed, and how often.
#[cfg(target_os = "linux")]
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
#[cfg(target_os = "linux")]
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to one of `addresses` within `timeout`.
///
/// # Errors
/// [`ErrorKind::ConnectTimeout`], [`ErrorKind::ConnectRefused`] when a machine answered with a refusal,
/// [`ErrorKind::Overload`] when this machine has no socket left, else [`ErrorKind::ConnectFailed`].
pub(super) async fn dial(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, ProxyError> {
    let connected = match addresses {
        // The common case needs no task.
        [only] => tokio::time::timeout(timeout, TcpStream::connect(*only)).await,
        _ => tokio::time::timeout(timeout, race(alternate(addresses))).await,
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(classify(&error)),
        Err(_) => return Err(ProxyError::new(ErrorKind::ConnectTimeout, "no connection in time")),
    };
    // A head is small and must not wait for an acknowledgement. Failing to say so only costs speed.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Has the machine notice that the other one is gone without a word. It takes no answer for one while bytes are on their
/// way, and then a quarter of an hour: a connection that everybody shares must not stay dead for so long. Only such a
/// connection is always read by the other side; on others bytes may wait for as long as the peer is busy.
///
/// # Errors
/// When the system does not take it, which only costs time.
#[cfg(target_os = "linux")]
pub(super) fn notice_death(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;

    sockopt::set_tcp_user_timeout(stream, u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_socket_keepalive(stream, true)
}

#[cfg(not(target_os = "linux"))]
/// The same as far as the system has it.
pub(super) fn notice_death(stream: &TcpStream) -> rustix::io::Result<()> {
    rustix::net::sockopt::set_socket_keepalive(stream, true)
}

/// Families alternating, starting with the one the resolver put first.
fn alternate(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().rev().partition(|a| a.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        match (one.pop(), other.pop()) {
            (None, None) => return order,
            (first, second) => order.extend(first.into_iter().chain(second)),
        }
    }
}

async fn race(order: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = order.into_iter();
    // Dropping the set stops the attempts that lost.
    let mut attempts = JoinSet::new();
    let mut worst: Option<io::Error> = None;
    loop {
        let more = match waiting.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                waiting.len() > 0
            }
            None => false,
        };
        let ended = if more {
            match tokio::time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        } else {
            attempts.join_next().await
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => {
                worst = Some(match worst {
                    Some(before) if weight(&before) >= weight(&error) => before,
                    _ => error,
                });
            }
            Some(Err(stopped)) => worst = worst.or(Some(io::Error::other(stopped))),
            None if more => {}
            None => return Err(worst.unwrap_or_else(|| io::Error::other("no address"))),
        }
    }
}

/// Which of several errors says most about the host.
fn weight(error: &io::Error) -> u8 {
    match classify(error).kind() {
        ErrorKind::ConnectRefused => 3,
        ErrorKind::ConnectTimeout => 2,
        ErrorKind::ConnectFailed => 1,
        _ => 0,
    }
}

fn classify(error: &io::Error) -> ProxyError {
    let kind = match error.kind() {
        _ if is_our_bound(error) => ErrorKind::Overload,
        io::ErrorKind::ConnectionRefused => ErrorKind::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
        _ => ErrorKind::ConnectFailed,
    };
    ProxyError::new(kind, error.to_string())
}

/// Whether this machine ran out of descriptors or memory: it says nothing about the host.
pub(super) fn is_our_bound(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address of this machine at which nobody listens.
    async fn closed() -> SocketAddr {
        listener("127.0.0.1:0").await.1
    }

    /// A listener whose queue is full: a further connection gets no answer.
    pub(super) async fn full() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
                Ok(stream) => queue.push(stream.unwrap()),
                Err(_) => return (listener, queue, address),
            }
            assert!(queue.len() < 64, "the queue never fills");
        }
    }

    #[tokio::test]
    async fn one_address_connects_without_delay() {
        let (_listener, address) = listener("127.0.0.1:0").await;
        let stream = dial(&[address], LONG).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(stream.nodelay().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_machine_is_asked_to_notice_a_dead_one() {
        use rustix::net::sockopt;

        let (_listener, address) = listener("127.0.0.1:0").await;
        let stream = dial(&[address], LONG).await.unwrap();
        notice_death(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 30_000);
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
    }

    #[tokio::test]
    async fn every_address_is_tried() {
        let (_listener, address) = listener("127.0.0.1:0").await;
        let addresses = [closed().await, closed().await, address];
        assert_eq!(dial(&addresses, LONG).await.unwrap().peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let (_full, _queue, silent) = full().await;
        let (_listener, address) = listener("127.0.0.1:0").await;
        let started = tokio::time::Instant::now();
        assert_eq!(dial(&[silent, address], LONG).await.unwrap().peer_addr().unwrap(), address);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn errors_are_told_apart() {
        let kind = |result: Result<TcpStream, ProxyError>| result.unwrap_err().kind();
        assert_eq!(kind(dial(&[closed().await], LONG).await), ErrorKind::ConnectRefused);
        assert_eq!(kind(dial(&[closed().await, closed().await], LONG).await), ErrorKind::ConnectRefused);
        let (_full, _queue, silent) = full().await;
        assert_eq!(kind(dial(&[silent], Duration::from_millis(300)).await), ErrorKind::ConnectTimeout);
        assert_eq!(kind(dial(&[silent, closed().await], Duration::from_millis(600)).await), ErrorKind::ConnectTimeout);
        assert_eq!(kind(dial(&[], LONG).await), ErrorKind::ConnectFailed);
        let broadcast = "255.255.255.255:9".parse().unwrap();
        assert_eq!(kind(dial(&[broadcast], LONG).await), ErrorKind::ConnectFailed);
        assert_eq!(kind(dial(&[broadcast, closed().await], LONG).await), ErrorKind::ConnectRefused);
        assert_eq!(classify(&io::Error::from(Errno::MFILE)).kind(), ErrorKind::Overload);
    }

    #[test]
    fn families_alternate() {
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let given = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let order = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(alternate(&given), order);
    }
}
