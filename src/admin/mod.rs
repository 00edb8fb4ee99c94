//! The operators' door: health, metrics, and the API to see, freeze and release.
//!
//! It has a server of its own, apart from the data path, so that it answers when every connection of the proxy is taken.
//! Two kinds of listeners: `[admin]` (loopback or a Unix socket; guarded, see `guard`) and `[metrics] address` (reading
//! only, for the scraper and the kubelet, which come from outside).
//!
//! | method and path | what |
//! |---|---|
//! | `GET /livez` | 200 while the process answers |
//! | `GET /readyz` | 200 when every listener is open, 503 before that and while draining |
//! | `GET /metrics` | Prometheus text |
//! | `GET /api/v1/cooldowns` | [`view::List`]; `state`, `reason`, `host` (its start), `only_connect`, `limit` (1000) choose; without them every key that is not plainly clear, had trouble, or is seen only as CONNECT; `all=true` every key |
//! | `GET /api/v1/cooldowns?key=K` | [`view::Cooldown`]; 404 when the key is not known |
//! | `GET /api/v1/explain?url=U` | [`crate::explain::view::Explanation`]: which settings and keys a request has, with `method`, `request_header` (repeated: `Name: value`); and what a response would start, with `status` (or the word of a failure), `header` (repeated), `times` |
//! | `PUT /api/v1/cooldowns?key=K` | freezes; `for` (needed, at most 30 days) and `reason` in the query or as a JSON object; [`view::Change`], with `changed: false` when the key already cools for longer |
//! | `DELETE /api/v1/cooldowns?key=K` | releases; without `key` all; [`view::Change`] |
//!
//! Errors are [`view::Problem`]. An unknown parameter is an error, so that a misspelt `key` never means all keys.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::settings::ListenAddress;
use crate::metrics::{Bound, Listener};
use crate::proxy::shared::Shared;

mod api;
mod explain;
mod guard;
pub(crate) mod query;
pub mod view;

use api::{Api, Door};
use guard::Arrival;

/// The most connections to each listener at a time.
const MAX_CONNECTIONS: usize = 64;

/// Until a request head is complete; also how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection lasts at most: nobody holds a place for ever.
const LIFETIME: Duration = Duration::from_secs(120);

/// How long answers may take after the end has come.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// After an error of accepting (out of file descriptors), the next try waits that long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is told.
const ACCEPT_WARNING: Duration = Duration::from_secs(10);

/// The listeners of `[admin]` and `[metrics]`, bound but not yet served.
pub struct Server {
    api: Arc<Api>,
    tcp: Vec<(Door, TcpListener)>,
    unix: Vec<(UnixListener, SocketFile)>,
    admin: Vec<SocketAddr>,
    metrics: Vec<SocketAddr>,
}

impl Server {
    /// Opens every address of `[admin]` and `[metrics]`.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub async fn bind(shared: Arc<Shared>) -> Result<Self, BindError> {
        let settings = Arc::clone(&shared.settings);
        let mut server = Self {
            api: Arc::new(Api::new(shared)),
            tcp: Vec::new(),
            unix: Vec::new(),
            admin: Vec::new(),
            metrics: Vec::new(),
        };
        for address in &settings.admin.address {
            match address {
                ListenAddress::Tcp(address) => {
                    let bound = server
                        .bind_tcp(Door::Admin, *address)
                        .await
                        .map_err(|e| BindError::new(address, "admin.address", e))?;
                    server.admin.push(bound);
                }
                ListenAddress::Unix(path) => {
                    let listener = bind_unix(path).map_err(|e| BindError::new(&path.display(), "admin.address", e))?;
                    server.unix.push((listener, SocketFile(path.clone())));
                }
            }
        }
        for address in &settings.metrics.address {
            let bound = server
                .bind_tcp(Door::Metrics, *address)
                .await
                .map_err(|e| BindError::new(address, "metrics.address", e))?;
            server.metrics.push(bound);
        }
        Ok(server)
    }

    async fn bind_tcp(&mut self, door: Door, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        self.tcp.push((door, listener));
        Ok(bound)
    }

    /// The TCP addresses of `[admin]`, with the ports that were given out.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.admin
    }

    /// The addresses of `[metrics]`.
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        &self.metrics
    }

    /// Serves until `stop` is true (or its sender gone). Stop it last: `/readyz` says "draining" until then.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for (door, listener) in self.tcp {
            tasks.spawn(serve_tcp(Arc::clone(&self.api), door, listener, stop.clone()));
        }
        let mut files = Vec::new();
        for (listener, file) in self.unix {
            tasks.spawn(serve_unix(Arc::clone(&self.api), listener, stop.clone()));
            files.push(file);
        }
        stopped(&mut stop).await;
        while tasks.join_next().await.is_some() {}
    }
}

async fn serve_tcp(api: Arc<Api>, door: Door, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let mut connections = Connections::new(api, door, stop.clone());
    let mut warned = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(local) = stream.local_addr() else { continue };
                // A courtesy to small answers; without it they are only later.
                let _ = stream.set_nodelay(true);
                connections.serve(stream, Arrival::Tcp(local.ip().to_canonical()), peer.to_string());
            }
            Err(error) => accept_failed(&error, &mut warned).await,
        }
    }
    connections.finish().await;
}

async fn serve_unix(api: Arc<Api>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let mut connections = Connections::new(api, Door::Admin, stop.clone());
    let mut warned = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let peer =
                    stream.peer_cred().map_or_else(|_| "unix".to_owned(), |peer| format!("unix, uid {}", peer.uid()));
                connections.serve(stream, Arrival::Unix, peer);
            }
            Err(error) => accept_failed(&error, &mut warned).await,
        }
    }
    connections.finish().await;
}

/// Waits a moment, since the listener stays ready; tells it every [`ACCEPT_WARNING`], not every moment.
async fn accept_failed(error: &io::Error, warned: &mut Option<Instant>) {
    if warned.is_none_or(|last| last.elapsed() >= ACCEPT_WARNING) {
        *warned = Some(Instant::now());
        tracing::warn!(target: "holdoff::admin", %error, "expected to accept a connection");
    }
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// The connections of one listener.
struct Connections {
    api: Arc<Api>,
    door: Door,
    stop: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(api: Arc<Api>, door: Door, stop: watch::Receiver<bool>) -> Self {
        Self { api, door, stop, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), tasks: JoinSet::new() }
    }

    fn serve(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, arrival: Arrival, peer: String) {
        while self.tasks.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.api.shared().metrics.bound_reached(Bound::AdminConnections);
            return;
        };
        let (api, door, stop) = (Arc::clone(&self.api), self.door, self.stop.clone());
        self.tasks.spawn(async move {
            let _place = place;
            connection(api, door, stream, arrival, peer, stop).await;
        });
    }

    async fn finish(mut self) {
        // What takes longer is cut off when the set is dropped.
        let _ = tokio::time::timeout(STOP_GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

async fn connection(
    api: Arc<Api>,
    door: Door,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    arrival: Arrival,
    peer: String,
    mut stop: watch::Receiver<bool>,
) {
    let listener = match door {
        Door::Admin => Listener::Admin,
        Door::Metrics => Listener::Metrics,
    };
    let _open = api.shared().metrics.connection(listener);
    let peer: Arc<str> = peer.into();
    let service = service_fn(move |request| {
        let (api, peer) = (Arc::clone(&api), Arc::clone(&peer));
        async move { Ok::<_, std::convert::Infallible>(api.handle(door, arrival, &peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // An error is the client's: there is nobody to tell.
        _ = connection.as_mut() => return,
        () = stopped(&mut stop) => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(STOP_GRACE, connection).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has ended too.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// A Unix socket in the file system, removed with the listener.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens a Unix socket. One that nobody listens on, left by a crash, is replaced; anything else stays.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Why a listener could not be opened.
#[derive(Debug)]
pub struct BindError {
    address: String,
    setting: &'static str,
    cause: io::Error,
}

impl BindError {
    fn new(address: &dyn fmt::Display, setting: &'static str, cause: io::Error) -> Self {
        Self { address: address.to_string(), setting, cause }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected to listen on {} (`{}`)", self.address, self.setting)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

#[cfg(test)]
mod tests;
