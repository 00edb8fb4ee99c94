//! Bytes both ways, once a CONNECT or an upgrade has been answered. What is in them is none of our business.
//!
//! An idle tunnel should cost next to nothing, so a side that is a bare socket is waited for without a buffer; one is taken
//! while bytes flow. Each direction ends by itself (half-close); the tunnel ends with both, with an error, or when nothing
//! has moved for `tunnel_idle`.

use std::fmt;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::sync::OwnedSemaphorePermit;

use super::transport::Transport;
use super::upstream::Link;
use crate::metrics::{Direction, TunnelGuard};

/// The most bytes of one direction in our hands.
const BUFFER: usize = 16 * 1024;

/// How finely idleness is measured: a tunnel is cut after at most a quarter more than the bound.
const IDLE_PARTS: u32 = 4;

/// The upstream's side of a tunnel, and what goes with it.
pub(super) struct Tunnel {
    pub(super) far: Far,
    pub(super) counts: TunnelGuard,
    /// Zero: no bound.
    pub(super) idle: Duration,
    /// The place among `max_tunnels`.
    pub(super) place: OwnedSemaphorePermit,
}

/// What the upstream's side is.
pub(super) enum Far {
    /// A socket, after CONNECT.
    Socket(TcpStream),
    /// A connection through a parent proxy that is more than a socket.
    Link(Box<Link>),
    /// What hyper gives after a 101.
    Upgrade(OnUpgrade),
}

impl Far {
    /// Of a connection after CONNECT.
    pub(super) fn of(link: Link) -> Self {
        link.into_socket().map_or_else(Self::Link, Self::Socket)
    }
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By one of its sides.
    Closed,
    /// Nothing had moved for too long.
    Idle,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Carries bytes until the end. `early` came from the client before the tunnel was open.
    pub(super) async fn run(self, client: Transport, early: Bytes) -> Ended {
        let Self { far, counts, idle, place } = self;
        let ended = match (client, far) {
            (Transport::Socket(client), Far::Socket(far)) => carry_sockets(client, far, &early, idle, &counts).await,
            (Transport::Socket(client), Far::Upgrade(upgrade)) => match upgrade.await {
                Ok(far) => carry_upgraded(client, far, &early, idle, &counts).await,
                Err(error) => Err(io::Error::other(error)),
            },
            (client, Far::Link(far)) => carry_streams(client, far, &early, idle, &counts).await,
            (client, Far::Socket(far)) => carry_streams(client, far, &early, idle, &counts).await,
            (client, Far::Upgrade(upgrade)) => match upgrade.await {
                Ok(far) => carry_streams(client, TokioIo::new(far), &early, idle, &counts).await,
                Err(error) => Err(io::Error::other(error)),
            },
        };
        drop(place);
        ended.unwrap_or_else(|error| {
            tracing::debug!(%error, "a tunnel ended with an error");
            Ended::Closed
        })
    }
}

async fn carry_sockets(
    mut client: TcpStream,
    mut far: TcpStream,
    early: &[u8],
    idle: Duration,
    counts: &TunnelGuard,
) -> io::Result<Ended> {
    let moved = AtomicU64::new(0);
    let (near_read, near_write) = client.split();
    let (far_read, far_write) = far.split();
    let up = from_socket(&near_read, far_write, early, Count { counts, to: Direction::ToUpstream, moved: &moved });
    let down = from_socket(&far_read, near_write, &[], Count { counts, to: Direction::ToClient, moved: &moved });
    both(up, down, idle, &moved).await
}

async fn carry_upgraded(
    mut client: TcpStream,
    far: Upgraded,
    early: &[u8],
    idle: Duration,
    counts: &TunnelGuard,
) -> io::Result<Ended> {
    let moved = AtomicU64::new(0);
    let (near_read, near_write) = client.split();
    let (far_read, far_write) = tokio::io::split(TokioIo::new(far));
    let up = from_socket(&near_read, far_write, early, Count { counts, to: Direction::ToUpstream, moved: &moved });
    let down = from_stream(far_read, near_write, &[], Count { counts, to: Direction::ToClient, moved: &moved });
    both(up, down, idle, &moved).await
}

async fn carry_streams(
    client: Transport,
    far: impl AsyncRead + AsyncWrite,
    early: &[u8],
    idle: Duration,
    counts: &TunnelGuard,
) -> io::Result<Ended> {
    let moved = AtomicU64::new(0);
    let (near_read, near_write) = tokio::io::split(client);
    let (far_read, far_write) = tokio::io::split(far);
    let up = from_stream(near_read, far_write, early, Count { counts, to: Direction::ToUpstream, moved: &moved });
    let down = from_stream(far_read, near_write, &[], Count { counts, to: Direction::ToClient, moved: &moved });
    both(up, down, idle, &moved).await
}

/// Waits for both directions, or for an error, or for nothing to happen.
async fn both(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    idle: Duration,
    moved: &AtomicU64,
) -> io::Result<Ended> {
    tokio::select! {
        ended = async { tokio::try_join!(up, down) } => ended.map(|_| Ended::Closed),
        () = stands_still(idle, moved) => Ok(Ended::Idle),
    }
}

async fn stands_still(idle: Duration, moved: &AtomicU64) {
    let Some(part) = idle.checked_div(IDLE_PARTS).filter(|part| !part.is_zero()) else {
        return pending().await;
    };
    let (mut last, mut still) = (moved.load(Ordering::Relaxed), 0_u32);
    while still < IDLE_PARTS {
        tokio::time::sleep(part).await;
        let now = moved.load(Ordering::Relaxed);
        still = if now == last { still.saturating_add(1) } else { 0 };
        last = now;
    }
}

#[derive(Clone, Copy)]
struct Count<'a> {
    counts: &'a TunnelGuard,
    to: Direction,
    moved: &'a AtomicU64,
}

impl Count<'_> {
    fn add(self, bytes: usize) {
        self.counts.bytes(self.to, u64::try_from(bytes).unwrap_or(u64::MAX));
        self.moved.fetch_add(1, Ordering::Relaxed);
    }
}

/// From a socket: no buffer while it is silent.
async fn from_socket(
    from: &ReadHalf<'_>,
    mut to: impl AsyncWrite + Unpin,
    early: &[u8],
    count: Count<'_>,
) -> io::Result<()> {
    if !early.is_empty() {
        to.write_all(early).await?;
        to.flush().await?;
        count.add(early.len());
    }
    loop {
        from.readable().await?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return to.shutdown().await,
                Ok(read) => {
                    to.write_all(&buffer).await?;
                    to.flush().await?;
                    count.add(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            // A fast tunnel leaves the others their turn.
            tokio::task::consume_budget().await;
        }
    }
}

/// From something that can only be read into a buffer.
async fn from_stream(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    early: &[u8],
    count: Count<'_>,
) -> io::Result<()> {
    if !early.is_empty() {
        to.write_all(early).await?;
        to.flush().await?;
        count.add(early.len());
    }
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        match from.read_buf(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => {
                to.write_all(&buffer).await?;
                to.flush().await?;
                count.add(read);
            }
        }
    }
}
