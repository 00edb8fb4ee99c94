//! What Prometheus sees.
//!
//! Counting must cost next to nothing on the request path and nothing a client or peer chooses may make it grow. So all
//! labels are closed sets but `host`, which is bounded (see `labels`); the numbers of one host are held by its keys
//! ([`HostMetrics`]), so that nothing is looked up; and what the table already knows (what cools, until when) is read from
//! it at scrape instead of being kept twice. Model and text format are those of the crate `prometheus`; what is not of a
//! host stands in its registry. Names and help texts stand in [`names`].

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

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

use cells::{Times, WAIT_BUCKETS};
use labels::Places;
use names::Family;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a sidecar.
pub struct Metrics {
    common: Arc<Common>,
    /// What is neither of a host nor read at scrape.
    registry: Registry,
    connections_open: Vec<IntGauge>,
    connections: Vec<IntCounter>,
    sessions: Vec<IntCounter>,
    sessions_open: Option<IntGauge>,
    /// The actions are words of our own.
    admin: Option<IntCounterVec>,
    pool: OnceLock<Box<dyn Fn() -> Pool + Send + Sync>>,
    minted: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

/// What the handles of all hosts share.
#[derive(Debug)]
struct Common {
    places: Places,
    /// By field, then cause.
    signal_errors: Vec<IntCounter>,
    hints: Times,
    lengths: Times,
    bounds: Vec<IntCounter>,
}

impl Common {
    fn bound_reached(&self, bound: Bound) {
        if let Some(count) = self.bounds.get(bound.at()) {
            count.inc();
        }
    }
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
        /// `limits.max_header_bytes` or `limits.max_header_fields`, in the head of an upstream's answer.
        UpstreamHead = "upstream_head",
        /// Chunk extensions of one body, 16 KiB.
        ChunkExtensions = "max_chunk_extension_bytes",
        /// `limits.max_header_bytes` or `limits.max_header_fields`, in the trailers of a body.
        Trailers = "trailers",
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
        /// Names looked up at a time, and those that wait for it.
        Lookups = "lookups",
        /// Proxy credentials that wait to be verified.
        ProxyAuth = "proxy_auth",
        /// Addresses of one name.
        Addresses = "addresses",
        /// Connections to the admin or metrics listener.
        AdminConnections = "admin_connections",
        /// The body of a request to the admin listener.
        AdminBody = "admin_body",
        /// What a client may make an HTTP/2 connection do for nothing.
        Http2Flood = "http2_flood",
        /// `shutdown.grace`
        Grace = "grace",
    }
}

words! {
    /// What became of a CONNECT to a host whose TLS ends here.
    Session {
        /// TLS was agreed on.
        Opened = "opened",
        /// The client left before it said anything.
        Abandoned = "abandoned",
        /// What came is not TLS.
        NotTls = "not_tls",
        /// The client asks TLS for another host than CONNECT.
        NameMismatch = "name_mismatch",
        /// The client does not trust our certificate.
        Distrusted = "distrusted",
        /// TLS could not be agreed on for another reason.
        HandshakeFailed = "handshake_failed",
        /// TLS was not agreed on in time.
        TimedOut = "timed_out",
        /// There is no certificate for the host.
        NoCertificate = "no_certificate",
    }
}

/// A client connection; counted as open until dropped.
#[derive(Debug)]
pub struct ConnectionGuard(Option<IntGauge>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.dec();
        }
    }
}

impl Metrics {
    /// Metrics of a new sidecar. `configured_hosts` are values of the label `host` that have a place from the start, see
    /// [`host_label`].
    pub fn new(settings: &settings::Metrics, configured_hosts: impl Iterator<Item = String>) -> Arc<Self> {
        let registry = Registry::new();
        let errors = Field::ALL.iter().flat_map(|field| Cause::ALL.map(|cause| [field.as_str(), cause.as_str()]));
        let listeners = || Listener::ALL.iter().map(|listener| [listener.as_str()]);
        let bounds = Bound::ALL.iter().map(|bound| [bound.as_str()]);
        let sessions = Session::ALL.iter().map(|session| [session.as_str()]);
        if settings.process {
            let _ = registry.register(Box::new(ProcessCollector::for_self()));
        }
        Arc::new(Self {
            common: Arc::new(Common {
                places: Places::new(settings.max_host_labels, settings.idle_series, configured_hosts),
                signal_errors: series(&registry, counters(&names::SIGNAL_ERRORS), errors),
                hints: times(&registry, &names::HINT_SECONDS),
                lengths: times(&registry, &names::COOLDOWN_SECONDS),
                bounds: series(&registry, counters(&names::BOUNDS), bounds),
            }),
            connections_open: series(
                &registry,
                IntGaugeVec::new(names::CONNECTIONS_OPEN.options(), names::CONNECTIONS_OPEN.labels),
                listeners(),
            ),
            connections: series(&registry, counters(&names::CONNECTIONS), listeners()),
            sessions: series(&registry, counters(&names::SESSIONS), sessions),
            sessions_open: IntGauge::with_opts(names::SESSIONS_OPEN.options())
                .ok()
                .map(|open| register(&registry, open)),
            admin: counters(&names::ADMIN_ACTIONS).ok().map(|admin| register(&registry, admin)),
            registry,
            pool: OnceLock::new(),
            minted: OnceLock::new(),
        })
    }

    /// The handles of the host of `key`. Asked once for each key, and held by it.
    pub fn host(&self, key: &Key) -> Arc<HostMetrics> {
        Arc::new(HostMetrics::new(labels::label(key), Arc::clone(&self.common), clock::now()))
    }

    /// A client connected.
    pub fn connection(&self, listener: Listener) -> ConnectionGuard {
        if let Some(total) = self.connections.get(listener.at()) {
            total.inc();
        }
        let open = self.connections_open.get(listener.at()).cloned();
        if let Some(open) = &open {
            open.inc();
        }
        ConnectionGuard(open)
    }

    /// A bound was reached.
    pub fn bound_reached(&self, bound: Bound) {
        self.common.bound_reached(bound);
    }

    /// What became of a CONNECT to a host whose TLS ends here.
    pub fn session(&self, session: Session) {
        if let Some(count) = self.sessions.get(session.at()) {
            count.inc();
        }
    }

    /// A session whose TLS ends here was opened.
    pub fn session_opened(&self) -> ConnectionGuard {
        self.session(Session::Opened);
        if let Some(open) = &self.sessions_open {
            open.inc();
        }
        ConnectionGuard(self.sessions_open.clone())
    }

    /// An operator did something, or was refused.
    pub fn admin_action(&self, action: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "refused" };
        if let Some(Ok(count)) = self.admin.as_ref().map(|admin| admin.get_metric_with_label_values(&[action, result]))
        {
            count.inc();
        }
    }

    /// Where the figures of the upstream pool come from; the first one stays.
    pub fn set_pool(&self, pool: impl Fn() -> Pool + Send + Sync + 'static) {
        // A second pool of one sidecar does not exist.
        let _ = self.pool.set(Box::new(pool));
    }

    /// Where the number of certificates made comes from; the first one stays.
    pub fn set_minted(&self, minted: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.minted.set(Box::new(minted));
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

// Registering fails for odd names and for names that stand already; ours are constant, and a test sees every family.

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    let _ = registry.register(Box::new(collector.clone()));
    collector
}

fn counters(family: &Family) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(family.options(), family.labels)
}

/// The handles of a closed set, in its order; all of its series are shown from the start.
fn series<B: MetricVecBuilder + 'static, const N: usize>(
    registry: &Registry,
    family: prometheus::Result<MetricVec<B>>,
    values: impl Iterator<Item = [&'static str; N]>,
) -> Vec<B::M> {
    let Ok(family) = family.map(|family| register(registry, family)) else { return Vec::new() };
    values.filter_map(|values| family.get_metric_with_label_values(&values).ok()).collect()
}

fn times(registry: &Registry, family: &Family) -> Times {
    let times = Times::new(family, WAIT_BUCKETS, &[]);
    Times(times.0.map(|times| register(registry, times)))
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("common", &self.common).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
