//! Opens the sockets of the data path and accepts from them.
//!
//! Opening comes first and alone, since the real addresses (port 0 is allowed) are needed to refuse ourselves as a
//! destination. Every connection is a task; the tasks of one listener live in one set, so that nothing outlives the end of
//! the grace time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::body::RequestBody;
use super::connection::{self, Context, Port};
use super::error::{ErrorKind, ProxyError};
use super::reverse::Routes;
use super::shared::Shared;
use super::transport::Transport;
use super::upstream::Upstreams;
use crate::intercept::Interception;
use crate::metrics::Bound;

/// How long accepting pauses when this machine has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections beyond the bound are told so at a time; the others are just closed.
const TOLD: usize = 64;

/// Descriptors that clients never get: for operators, listeners, files and the resolver.
const RESERVE: usize = 128;

/// The open sockets of the data path.
pub struct Server {
    sockets: Vec<Socket>,
    shared: Arc<Shared>,
}

struct Socket {
    listener: TcpListener,
    address: SocketAddr,
    port: Arc<Port>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on `{}`", self.address)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sockets.iter().map(|socket| socket.address)).finish()
    }
}

impl Server {
    /// Opens every address of `[listen]` and `[[reverse]]`. From then on clients can connect; they are answered once the
    /// server runs.
    ///
    /// # Errors
    /// When an address cannot be listened on. The built-in address on `::1` may be missing: not every machine has IPv6.
    pub async fn bind(shared: Arc<Shared>) -> Result<Self, BindError> {
        let settings = &shared.settings;
        let mut sockets = Vec::new();
        for &address in &settings.listen.address {
            match Socket::open(address, Port::Proxy).await {
                Ok(socket) => sockets.push(socket),
                Err(error) if settings.listen.address_is_default && address.is_ipv6() && has_no_ipv6(&error.error) => {
                    tracing::debug!(%address, "this machine has no IPv6");
                }
                Err(error) => return Err(error),
            }
        }
        let mut seen: Vec<SocketAddr> = Vec::new();
        for &address in settings.reverse.iter().flat_map(|reverse| &reverse.address) {
            if seen.contains(&address) {
                continue;
            }
            seen.push(address);
            let here = settings.reverse.iter().filter(|reverse| reverse.address.contains(&address)).cloned().collect();
            sockets.push(Socket::open(address, Port::Reverse(Routes::new(here))).await?);
        }
        Ok(Self { sockets, shared })
    }

    /// The real addresses of the forward proxy.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.those(|port| matches!(port, Port::Proxy))
    }

    /// The real addresses of `[[reverse]]`, each once, in the order of the file.
    pub fn reverse_addresses(&self) -> Vec<SocketAddr> {
        self.those(|port| matches!(port, Port::Reverse(_)))
    }

    fn those(&self, wanted: impl Fn(&Port) -> bool) -> Vec<SocketAddr> {
        self.sockets.iter().filter(|socket| wanted(&socket.port)).map(|socket| socket.address).collect()
    }

    /// Serves until `drain` becomes true (or its sender is gone) and what was running then has ended, at most
    /// `shutdown.grace` later. Then idle connections are closed at once, running requests are finished; what is left at the
    /// end of the grace time, tunnels and streams too, is cut.
    pub async fn run(
        self,
        upstreams: Upstreams<RequestBody>,
        interception: Option<Arc<Interception>>,
        mut drain: watch::Receiver<bool>,
    ) {
        let shared = self.shared;
        let grace = shared.settings.shutdown.grace;
        let Room { clients, told } = Room::of(shared.settings.limits.max_connections, descriptors());
        let context = Context::new(shared, upstreams, interception);
        let places = Arc::new(Semaphore::new(clients.min(Semaphore::MAX_PERMITS)));
        let told = Arc::new(Semaphore::new(told));
        let (stop, stopped) = watch::channel(None::<Instant>);
        let mut accepting = JoinSet::new();
        for socket in self.sockets {
            let acceptor = Acceptor {
                context: Arc::clone(&context),
                places: Arc::clone(&places),
                told: Arc::clone(&told),
                tasks: JoinSet::new(),
            };
            accepting.spawn(acceptor.run(socket, stopped.clone()));
        }
        // An error means that the sender is gone: nobody is left who could want us to go on.
        let _ = drain.wait_for(|drain| *drain).await;
        context.close();
        let now = Instant::now();
        stop.send_replace(Some(now.checked_add(grace).unwrap_or(now)));
        while accepting.join_next().await.is_some() {}
    }
}

impl Socket {
    async fn open(address: SocketAddr, port: Port) -> Result<Self, BindError> {
        let failed = |error| BindError { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, port: Arc::new(port) })
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

/// How many connections of clients there may be, so that descriptors are left for operators: a door that cannot be opened
/// when it is needed most is no door.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    clients: usize,
    told: usize,
}

impl Room {
    /// For `most` wanted connections in a process that may open `descriptors` files; `None`: as many as it likes.
    fn of(most: usize, descriptors: Option<usize>) -> Self {
        let Some(descriptors) = descriptors else { return Self { clients: most, told: TOLD } };
        let reserve = RESERVE.min(descriptors.checked_div(2).unwrap_or(0));
        let rest = descriptors.saturating_sub(reserve);
        let told = TOLD.min(rest.checked_div(4).unwrap_or(0));
        // A client has up to two: its own connection and the upstream's.
        let room = rest.saturating_sub(told).checked_div(2).unwrap_or(0).max(1);
        if room < most {
            tracing::info!(
                "the limit on open files, {descriptors}, leaves room for {room} connections of clients, less than \
                 `limits.max_connections`, {most}; raise it (`ulimit -n`, `LimitNOFILE=`)"
            );
        }
        Self { clients: most.min(room), told }
    }
}

/// How many descriptors this process may have open.
fn descriptors() -> Option<usize> {
    getrlimit(Resource::Nofile).current.map(|most| usize::try_from(most).unwrap_or(usize::MAX))
}

struct Acceptor {
    context: Arc<Context>,
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self, socket: Socket, mut stopped: watch::Receiver<Option<Instant>>) {
        let mut last_warning: Option<Instant> = None;
        loop {
            tokio::select! {
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.start(&socket.port, stream, peer),
                    Err(error) if is_of_the_connection(&error) => {}
                    Err(error) => {
                        if last_warning.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
                            last_warning = Some(Instant::now());
                            tracing::warn!(%error, address = %socket.address, "cannot accept connections");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection was given up: this is a fault of holdoff, please report it");
                    }
                }
                () = async { drop(stopped.wait_for(Option::is_some).await) } => break,
            }
        }
        // No longer accepting: new clients are refused by the system and go elsewhere.
        drop(socket);
        let until = *stopped.borrow();
        let until = until.unwrap_or_else(Instant::now);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, finished).await.is_err() {
            let shared = &self.context.shared;
            tracing::warn!(
                grace = ?shared.settings.shutdown.grace,
                connections = self.tasks.len(),
                "the grace is over, what is still running is cut"
            );
            shared.metrics.bound_reached(Bound::Grace);
            self.tasks.shutdown().await;
        }
    }

    fn start(&mut self, port: &Arc<Port>, stream: TcpStream, peer: SocketAddr) {
        // A head or a small answer must not wait for an acknowledgement. Failing to say so only costs speed.
        let _ = stream.set_nodelay(true);
        let context = Arc::clone(&self.context);
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            context.shared.metrics.bound_reached(Bound::MaxConnections);
            if let Ok(place) = Arc::clone(&self.told).try_acquire_owned() {
                self.tasks.spawn(async move {
                    let error = ProxyError::new(
                        ErrorKind::Overload,
                        "as many connections are open as `limits.max_connections` or the limit on open files allows",
                    );
                    connection::end_with(&context, Transport::Socket(stream), &error).await;
                    drop(place);
                });
            }
            return;
        };
        let counted = context.shared.metrics.connection(port.listener());
        let port = Arc::clone(port);
        self.tasks.spawn(async move {
            connection::run(context, port, stream, peer).await;
            drop((counted, place));
        });
    }
}

/// Whether an error of accepting is about the one connection, not about us.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_left_for_operators_and_upstreams() {
        assert_eq!(Room::of(10_000, None), Room { clients: 10_000, told: 64 });
        assert_eq!(Room::of(10_000, Some(1 << 20)), Room { clients: 10_000, told: 64 });
        assert_eq!(Room::of(10_000, Some(1024)), Room { clients: 416, told: 64 });
        assert_eq!(Room::of(10, Some(1024)), Room { clients: 10, told: 64 });
        assert_eq!(Room::of(10_000, Some(64)), Room { clients: 12, told: 8 });
        assert_eq!(Room::of(10_000, Some(0)), Room { clients: 1, told: 0 });
    }
}
