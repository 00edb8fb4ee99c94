//! holdoff: what happens between a program and a peer that says "slow down".
//!
//! A peer answers 429 or 503 with `Retry-After`; holdoff remembers it for that peer, answers further requests itself until
//! the peer is ready again, lets one probe through, and shows it all. The library has two layers that know no socket:
//!
//! - [`core`]: pure decisions. What a response says, what follows, the state machine of one key.
//! - [`table`]: many keys, the clock, permits.
//!
//! and, with the feature `sidecar`, the program around them: [`proxy`] (the data path), [`config`], [`metrics`],
//! [`synthetic`] (the answers we make), [`admin`] (the operators' door).

#![cfg_attr(test, expect(clippy::arithmetic_side_effects, reason = "tests may overflow: that is a failure"))]

pub mod core;
pub mod table;

#[cfg(feature = "sidecar")]
pub mod admin;
#[cfg(feature = "sidecar")]
pub mod cli;
#[cfg(feature = "sidecar")]
pub mod config;
#[cfg(feature = "sidecar")]
pub mod metrics;
#[cfg(feature = "sidecar")]
pub mod observe;
#[cfg(feature = "sidecar")]
pub mod proxy;
#[cfg(feature = "sidecar")]
pub mod sidecar;
#[cfg(feature = "sidecar")]
pub mod synthetic;
#[cfg(feature = "sidecar")]
pub mod telemetry;
