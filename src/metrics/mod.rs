//! What Prometheus sees.
//!
//! Counting must cost next to nothing on the request path and nothing a client or peer chooses may make it grow. So all
//! labels are closed sets but `host`, which is bounded (see `labels`); the numbers of one host are plain atomics held by
//! its keys ([`HostMetrics`]), so that nothing is looked up; and what the table already knows (what cools, until when) is
//! read from it at scrape instead of being kept twice. Names and help texts stand in [`names`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;

use crate::config::settings;
use crate::core::key::Key;
use crate::core::signal::{Cause, Field};
use crate::table::clock;

mod cells;
mod host;
mod labels;
pub mod names;
mod render;

pub use host::{Action, Direction, HostMetrics, InFlight, TunnelGuard};

use cells::{Histogram, Tally, WAIT_BUCKETS};
use labels::Places;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a sidecar.
pub struct Metrics {
    common: Arc<Common>,
    connections: Arc<Connections>,
    bounds: Tally<{ Bound::ALL.len() }>,
    /// By action and whether it worked; the actions are words of our own.
    admin: Mutex<BTreeMap<(&'static str, bool), u64>>,
    process: Option<Registry>,
    pool: OnceLock<Box<dyn Fn() -> Pool + Send + Sync>>,
}

/// What the handles of all hosts share.
#[derive(Debug)]
struct Common {
    places: Places,
    /// By field, then cause.
    signal_errors: Tally<{ Field::ALL.len() * Cause::ALL.len() }>,
    hints: Histogram,
    lengths: Histogram,
}

/// Connections to upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// All of them.
    pub open: usize,
    /// Those that carry no request.
    pub idle: usize,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word of the label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The place in `ALL`.
            const fn at(self) -> usize {
                self as usize
            }
        }
    };
}
use words;

words! {
    /// What a connection came in by.
    Listener {
        /// The forward proxy.
        Proxy = "proxy",
        /// A `[[reverse]]` listener.
        Reverse = "reverse",
        /// The operators' door.
        Admin = "admin",
        /// The listener of `[metrics] address`.
        Metrics = "metrics",
    }
}

words! {
    /// A bound that a remote party can reach.
    Bound {
        /// `limits.max_connections`
        MaxConnections = "max_connections",
        /// `limits.max_tunnels`
        MaxTunnels = "max_tunnels",
        /// `limits.header_timeout`
        HeaderTimeout = "header_timeout",
        /// `limits.keepalive_timeout`
        KeepaliveTimeout = "keepalive_timeout",
        /// `limits.max_header_bytes`
        HeaderBytes = "max_header_bytes",
        /// `limits.max_header_fields`
        HeaderFields = "max_header_fields",
        /// `timeouts.max_request_body`
        RequestBody = "max_request_body",
        /// `limits.drain_body`
        DrainBody = "drain_body",
        /// `limits.max_interim_responses`
        InterimResponses = "max_interim_responses",
        /// `upstream.max_connections_per_host`
        UpstreamConnections = "max_connections_per_host",
        /// `timeouts.body_idle`
        BodyIdle = "body_idle",
        /// `timeouts.tunnel_idle`
        TunnelIdle = "tunnel_idle",
        /// Connections to the admin or metrics listener.
        AdminConnections = "admin_connections",
        /// The body of a request to the admin listener.
        AdminBody = "admin_body",
        /// `shutdown.grace`
        Grace = "grace",
    }
}

#[derive(Debug, Default)]
struct Connections {
    open: [AtomicI64; Listener::ALL.len()],
    total: Tally<{ Listener::ALL.len() }>,
}

/// A client connection; counted as open until dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    listener: Listener,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(open) = self.connections.open.get(self.listener.at()) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Metrics {
    /// Metrics of a new sidecar. `configured_hosts` are values of the label `host` that have a place from the start, see
    /// [`host_label`].
    pub fn new(settings: &settings::Metrics, configured_hosts: impl Iterator<Item = String>) -> Arc<Self> {
        Arc::new(Self {
            common: Arc::new(Common {
                places: Places::new(settings.max_host_labels, settings.idle_series, configured_hosts),
                signal_errors: Tally::default(),
                hints: Histogram::new(WAIT_BUCKETS),
                lengths: Histogram::new(WAIT_BUCKETS),
            }),
            connections: Arc::default(),
            bounds: Tally::default(),
            admin: Mutex::default(),
            process: settings.process.then(process).flatten(),
            pool: OnceLock::new(),
        })
    }

    /// The handles of the host of `key`. Asked once for each key, and held by it.
    pub fn host(&self, key: &Key) -> Arc<HostMetrics> {
        Arc::new(HostMetrics::new(labels::label(key), Arc::clone(&self.common), clock::now()))
    }

    /// A client connected.
    pub fn connection(&self, listener: Listener) -> ConnectionGuard {
        if let Some(open) = self.connections.open.get(listener.at()) {
            open.fetch_add(1, Ordering::Relaxed);
        }
        self.connections.total.add(listener.at(), 1);
        ConnectionGuard { connections: Arc::clone(&self.connections), listener }
    }

    /// A bound was reached.
    pub fn bound_reached(&self, bound: Bound) {
        self.bounds.add(bound.at(), 1);
    }

    /// An operator did something, or was refused.
    pub fn admin_action(&self, action: &'static str, ok: bool) {
        let mut admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        let count = admin.entry((action, ok)).or_default();
        *count = count.saturating_add(1);
    }

    /// Where the figures of the upstream pool come from; the first one stays.
    pub fn set_pool(&self, pool: impl Fn() -> Pool + Send + Sync + 'static) {
        // A second pool of one sidecar does not exist.
        let _ = self.pool.set(Box::new(pool));
    }

    /// How often each action was taken since the start, over all hosts, in the order of [`Action::ALL`].
    pub fn actions(&self) -> impl Iterator<Item = (Action, u64)> {
        Action::ALL.iter().copied().zip(self.common.places.actions())
    }
}

/// The value of the label `host` of a key.
pub fn host_label(key: &Key) -> String {
    labels::label(key)
}

fn process() -> Option<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self())).ok()?;
    Some(registry)
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("common", &self.common).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
