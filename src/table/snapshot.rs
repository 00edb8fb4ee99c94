//! What is kept and shown of a key (SPEC 3.10).

use std::sync::Arc;

use crate::core::cooldown::View;
use crate::core::key::Key;
use crate::core::policy::Mode;
use crate::core::time::Instant;

/// A key at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The key.
    pub key: Key,
    /// Its mode.
    pub mode: Mode,
    /// What the state machine knows.
    pub view: View,
    /// One line about the last signal or failure.
    pub last_error: Option<Arc<str>>,
    /// The last status a response had.
    pub last_status: Option<u16>,
    /// The last success, to the second.
    pub last_success: Option<Instant>,
    /// Successes since the key was first seen.
    pub successes: u64,
    /// Successes since the last signal or failure.
    pub successes_in_row: u64,
    /// Requests answered locally: what was saved.
    pub short_circuited: u64,
    /// Requests that mode observe would have answered locally.
    pub would_have: u64,
    /// CONNECT tunnels opened.
    pub tunnels: u64,
    /// The host is only seen as CONNECT: its answers cannot be read.
    pub only_tunnels: bool,
}
