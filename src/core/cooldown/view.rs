//! What is kept and shown of a key.

use std::time::Duration;

use crate::core::decision::{Reason, Source, State};
use crate::core::signal::Failure;
use crate::core::time::Instant;

/// What is kept and shown of a key (SPEC 3.10), as far as the state machine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The state; past its deadline a key is probing.
    pub state: State,
    /// Whether a probe is out.
    pub probe_out: bool,
    /// Whether the key has just cleared and lets requests in one by one.
    pub ramping: bool,
    /// The live cooldown, or the one being tested; none when clear.
    pub cooldown: Option<CooldownView>,
    /// The place on the ladder of signals.
    pub rate_step: u32,
    /// The place on the ladder of failures.
    pub breaker_step: u32,
    /// Signals in a row.
    pub limited_in_row: u32,
    /// Failures in a row.
    pub failures_in_row: u32,
    /// The last failure.
    pub last_failure: Option<(Instant, Failure)>,
    /// Whether an operator froze the key, and until when.
    pub frozen_until: Option<Instant>,
    /// Totals.
    pub totals: Totals,
}

/// One cooldown as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CooldownView {
    /// When it started ("opened at").
    pub started: Instant,
    /// Its deadline.
    pub deadline: Instant,
    /// Why.
    pub reason: Reason,
    /// Who said how long.
    pub source: Source,
    /// The hint before any clamp.
    pub hint: Option<Duration>,
    /// The signal as received.
    pub received: Option<Box<str>>,
}

/// How often things happened since the key was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Signals, counted once a response.
    pub signals: u64,
    /// Failing outcomes.
    pub failures: u64,
    /// Cooldowns started.
    pub cooldowns: u64,
    /// Probes started.
    pub probes: u64,
}

/// What a caller without the lock needs to know to decide like [`Cooldown::admit`](super::Cooldown::admit) would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The epoch.
    pub epoch: u64,
    /// Clear without a ramp: every request passes.
    pub clear: bool,
    /// Clear, but let in one by one.
    pub ramping: bool,
    /// Cooling, until when and why.
    pub cooling: Option<(Instant, Reason)>,
    /// A success in clear has something to reset.
    pub success_matters: bool,
    /// An operator's freeze.
    pub frozen_until: Option<Instant>,
}
