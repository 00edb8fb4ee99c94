//! One running sidecar: listeners, the table, the pool and the operators' door, put together and taken apart in order.
//!
//! The order of the start is the order of what depends on what: the listeners are bound first, since their addresses are
//! never destinations; then the pool, which checks every destination against them; then everything is served, and only
//! then we are ready. The end runs backwards: not ready, no new work, running work gets its grace, and the operators' door
//! is open until the last.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::settings::{HostTarget, Settings};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::intercept::{AuthorityError, Interception};
use crate::metrics::{Metrics, Pool};
use crate::observe::{LogLimit, Transitions};
use crate::proxy::egress::Egress;
use crate::proxy::listener;
use crate::proxy::shared::{Host, Lifecycle, Shared};
use crate::proxy::upstream::{TlsSetupError, Upstreams};
use crate::state::{self, Secret, SecretError};
use crate::table::{Table, clock};

/// How often time passes for keys that nobody asks for, so that the end of a cooldown by quiet time is told.
const TICK: Duration = Duration::from_secs(5);

/// What is spoken inside a session whose TLS ends here, best first.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Starts sidecars.
#[derive(Debug)]
pub struct Sidecar;

impl Sidecar {
    /// Opens every listener and serves. Must be called on a tokio runtime; several sidecars may run in one process.
    ///
    /// # Errors
    /// When an address cannot be opened, a CA file cannot be read, or the certificate authority of interception cannot be
    /// used.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        let shared = Arc::new(share(settings)?);
        let settings = Arc::clone(&shared.settings);
        let proxy = listener::Server::bind(Arc::clone(&shared)).await.map_err(StartError::Proxy)?;
        let admin = admin::Server::bind(Arc::clone(&shared)).await.map_err(StartError::Admin)?;
        let running = Addresses {
            proxy: proxy.addresses().to_vec(),
            reverse: proxy.reverse_addresses().to_vec(),
            admin: admin.addresses().to_vec(),
            metrics: admin.metrics_addresses().to_vec(),
        };
        let egress = Egress::new(&settings.egress, running.all());
        let upstreams = Upstreams::new(&settings.upstream, &settings.limits, &settings.hosts, egress)?;
        upstreams.count_with(&shared.metrics);
        let interception = Interception::open(&settings.intercept, ALPN, clock::wall())?.map(Arc::new);
        if let Some(interception) = &interception {
            let interception = Arc::clone(interception);
            shared.metrics.set_minted(move || interception.leaves().minted());
        }
        let pool = upstreams.clone();
        shared.metrics.set_pool(move || {
            let stats = pool.stats();
            Pool { open: stats.open, idle: stats.idle }
        });
        let (drain, draining) = watch::channel(false);
        let (stop, stopping) = watch::channel(false);
        let tasks = Tasks {
            proxy: tokio::spawn(proxy.run(upstreams, interception.clone(), draining)),
            admin: tokio::spawn(admin.run(stopping)),
            ticker: tokio::spawn(tick(Arc::clone(&shared))),
        };
        shared.lifecycle.set_ready();
        Ok(Running { shared, interception, addresses: running, drain, stop, tasks })
    }
}

fn share(settings: Settings) -> Result<Shared, SecretError> {
    let settings = Arc::new(settings);
    let name = settings.listen.name.clone().unwrap_or_else(|| format!("holdoff-{:08x}", clock::draw() >> 32));
    let metrics = Metrics::new(&settings.metrics, configured_hosts(&settings).into_iter());
    let attach = {
        let (settings, metrics) = (Arc::clone(&settings), Arc::clone(&metrics));
        move |key: &Key| {
            let (policy, host) = settings.hosts.of_key(key);
            let divides = key.scope().is_empty() && !key.is_group() && settings.hosts.divides(key);
            (policy, Host::new(Arc::clone(host), metrics.host(key), divides))
        }
    };
    let table = Arc::new(Table::new(settings.limits.max_keys, attach, Transitions::default()));
    let secret = secret(&settings)?;
    Ok(Shared { name, settings, secret, table, metrics, matches: LogLimit::default(), lifecycle: Lifecycle::default() })
}

/// What credentials are hashed with. Where none are, and where nothing can be kept, it lives as long as the program.
fn secret(settings: &Settings) -> Result<Secret, SecretError> {
    if let Some(path) = &settings.state.secret_file {
        return Secret::open(path);
    }
    if settings.hash_credentials() {
        match state::directory(None, |name| std::env::var_os(name)).map(|state| Secret::open(&state.join("secret"))) {
            Some(Ok(secret)) => return Ok(secret),
            Some(Err(error @ SecretError::Io { .. })) => tracing::warn!(
                %error,
                "credentials are hashed with a secret that lives as long as this program; say where one may be kept: \
                 `[state] secret_file`"
            ),
            Some(Err(error)) => return Err(error),
            None => tracing::warn!(
                "nothing says where the secret may be kept that credentials are hashed with, so that it lives as long as \
                 this program; say where: `[state] secret_file`"
            ),
        }
    }
    Secret::fresh()
}

/// Hosts that the configuration names, which have a metric label of their own before any other.
fn configured_hosts(settings: &Settings) -> Vec<String> {
    let reverse = settings.reverse.iter().map(|reverse| crate::metrics::host_label(&reverse.upstream));
    let matched = settings.hosts.hosts.iter().flat_map(|host| &host.patterns).filter_map(|p| match &p.target {
        HostTarget::Exact(host) => {
            let scheme = p.scheme.unwrap_or(Scheme::Https);
            let key = KeyRef::new(scheme, host, p.port.unwrap_or(scheme.default_port())).ok()?;
            Some(crate::metrics::host_label(&key.to_key()))
        }
        _ => None,
    });
    reverse.chain(matched).collect()
}

async fn tick(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        shared.table.settle(clock::now());
    }
}

struct Tasks {
    proxy: JoinHandle<()>,
    admin: JoinHandle<()>,
    ticker: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Addresses {
    proxy: Vec<SocketAddr>,
    reverse: Vec<SocketAddr>,
    admin: Vec<SocketAddr>,
    metrics: Vec<SocketAddr>,
}

impl Addresses {
    fn all(&self) -> Vec<SocketAddr> {
        [&self.proxy, &self.reverse, &self.admin, &self.metrics].into_iter().flatten().copied().collect()
    }
}

/// A running sidecar. Dropping it ends everything at once; [`Running::shutdown`] ends it well.
pub struct Running {
    shared: Arc<Shared>,
    interception: Option<Arc<Interception>>,
    addresses: Addresses,
    drain: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    tasks: Tasks,
}

impl Running {
    /// The addresses of the forward proxy, with the ports that were given out.
    pub fn proxy_addresses(&self) -> &[SocketAddr] {
        &self.addresses.proxy
    }

    /// The addresses of the `[[reverse]]` listeners, in the order of the configuration, each once.
    pub fn reverse_addresses(&self) -> &[SocketAddr] {
        &self.addresses.reverse
    }

    /// The TCP addresses of the operators' door.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        &self.addresses.admin
    }

    /// The addresses of the metrics listener.
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        &self.addresses.metrics
    }

    /// The keys.
    pub fn table(&self) -> &Arc<Table<Host>> {
        &self.shared.table
    }

    /// What the parts share: the table and the metrics among it.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What ends the TLS of the hosts in `[intercept]`, if there are any.
    pub fn interception(&self) -> Option<&Interception> {
        self.interception.as_deref()
    }

    /// Ends well: not ready from now on, still serving for `[shutdown] delay`; then no new work, and running work gets
    /// `[shutdown] grace`; what is left is cut.
    pub async fn shutdown(mut self) {
        let settings = Arc::clone(&self.shared.settings);
        self.shared.lifecycle.set_draining();
        tracing::info!(delay = ?settings.shutdown.delay, grace = ?settings.shutdown.grace, "draining");
        tokio::time::sleep(settings.shutdown.delay).await;
        self.drain.send_replace(true);
        // The listeners keep to the grace time themselves, and count what they cut; a second more is for that.
        let cut = settings.shutdown.grace.saturating_add(Duration::from_secs(1));
        if tokio::time::timeout(cut, &mut self.tasks.proxy).await.is_err() {
            self.tasks.proxy.abort();
        }
        self.stop.send_replace(true);
        // Bounded by the admin server itself; a second more than its own bound.
        if tokio::time::timeout(Duration::from_secs(2), &mut self.tasks.admin).await.is_err() {
            self.tasks.admin.abort();
        }
        tracing::info!("ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.proxy.abort();
        self.tasks.admin.abort();
        self.tasks.ticker.abort();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why a sidecar did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A listener of the data path cannot be opened.
    Proxy(listener::BindError),
    /// A listener of the operators' door cannot be opened.
    Admin(admin::BindError),
    /// A CA file cannot be read.
    Tls(TlsSetupError),
    /// The certificate authority of interception cannot be made or used.
    Intercept(AuthorityError),
    /// What credentials are hashed with cannot be read or made.
    Secret(SecretError),
}

impl From<SecretError> for StartError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl From<TlsSetupError> for StartError {
    fn from(error: TlsSetupError) -> Self {
        Self::Tls(error)
    }
}

impl From<AuthorityError> for StartError {
    fn from(error: AuthorityError) -> Self {
        Self::Intercept(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(error) => error.fmt(f),
            Self::Admin(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::Intercept(error) => error.fmt(f),
            Self::Secret(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Proxy(error) => error.source(),
            Self::Admin(error) => error.source(),
            Self::Tls(error) => error.source(),
            Self::Intercept(error) => error.source(),
            Self::Secret(error) => error.source(),
        }
    }
}
