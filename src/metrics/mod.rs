//! metrics

/// All metrics of a sidecar.
#[derive(Debug)]
pub struct Metrics;

/// The metric handles of one host.
#[derive(Debug)]
pub struct HostMetrics;
