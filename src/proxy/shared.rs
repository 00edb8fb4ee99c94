//! What every connection of one sidecar shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use crate::config::settings::{HostSettings, Settings};
use crate::core::key::Key;
use crate::metrics::{HostMetrics, Metrics};
use crate::observe::LogLimit;
use crate::state::Secret;
use crate::table::Table;

/// What is kept beside each key.
#[derive(Debug)]
pub struct Host {
    /// The settings of the host.
    pub settings: Arc<HostSettings>,
    /// The metric handles of the host, resolved once.
    pub metrics: Arc<HostMetrics>,
    /// Whether requests to the host may have other keys than its own, see `keys`.
    pub divides: bool,
    /// Of a level, the key of the bucket that the host named last.
    pub(super) bucket: ArcSwapOption<Key>,
    /// Whether it was said that only tunnels to the host are seen.
    pub(super) told_of_tunnels: AtomicBool,
}

impl Host {
    /// What is kept beside a new key.
    pub fn new(settings: Arc<HostSettings>, metrics: Arc<HostMetrics>, divides: bool) -> Self {
        let bucket = ArcSwapOption::empty();
        Self { settings, metrics, divides, bucket, told_of_tunnels: AtomicBool::new(false) }
    }

    /// Of a level, the key of the bucket that the host named last.
    pub fn bucket(&self) -> Option<Arc<Key>> {
        self.bucket.load_full()
    }
}

/// What every connection of one sidecar shares.
pub struct Shared {
    /// Our name in `Via` and `Proxy-Status`.
    pub name: String,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// What the values of headers and query parameters are hashed with.
    pub secret: Secret,
    /// The keys.
    pub table: Arc<Table<Host>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How often a host whose bodies say that it is busy gets a line in the log.
    pub matches: LogLimit,
    /// Whether we are ready, or ending.
    pub lifecycle: Lifecycle,
}

/// Whether a sidecar is ready, or ending.
#[derive(Debug, Default)]
pub struct Lifecycle {
    ready: AtomicBool,
    draining: AtomicBool,
}

impl Lifecycle {
    /// Every listener is open.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The end has begun: not ready any more; running work is finished, new work is still taken during `shutdown.delay`.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// What `/readyz` says.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
