//! holdoff: what happens between a program and a peer that says "slow down".
//!
//! A peer answers 429 or 503 with `Retry-After`; holdoff remembers it for that peer, answers further requests itself until
//! the peer is ready again, lets one probe through, and shows it all. There are three ways in:
//!
//! - **The program.** A proxy beside a node that cannot be changed: `holdoff run`. See the README.
//! - **The tower layer**, [`layer`]: a Rust program with a tower service for its client (hyper-util, reqwest) gets the
//!   cooldowns in that client.
//! - **The core**, [`core`]: pure decisions without a clock, a socket or a thread, for everybody else. `now` is an argument.
//!
//! # Features
//!
//! | feature | adds | crates taken along |
//! |---|---|---|
//! | none | [`core`]: what a response says, what follows, the state machine of one key | 4 |
//! | `fields` | the IETF fields `RateLimit` and `RateLimit-Policy`, and durations and timestamps that vendors write | 14 |
//! | `body` | [`core::signal::body`]: rules about the bodies of responses | 22 |
//! | `table` | [`table`]: many keys without a lock on the path of a request, the clocks, permits | 12 |
//! | `tower` | [`layer`], and `table` | 15 |
//! | `sidecar` (default) | the program, `fields`, `body` and `table` | all |
//!
//! ```toml
//! holdoff = { version = "0.1", default-features = false, features = ["tower"] }
//! ```
//!
//! Linux is the platform.
//!
//! # The core in one look
//!
//! ```
//! use std::time::Duration;
//!
//! use holdoff::core::classify;
//! use holdoff::core::cooldown::{Cooldown, Events};
//! use holdoff::core::decision::{Decision, Purpose};
//! use holdoff::core::policy::Policy;
//! use holdoff::core::time::{Instant, UnixTime};
//! use http::{HeaderMap, HeaderValue, StatusCode};
//!
//! let policy = Policy::default();
//! let (mut peer, mut events) = (Cooldown::new(), Events::default());
//!
//! // Ask, send, say what became of it.
//! let now = Instant::from_secs(100);
//! let Decision::Forward(admission) = peer.admit(&policy, Purpose::Request, now, &mut events) else {
//!     panic!("nothing is known of the peer yet");
//! };
//! let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_static("120"))]);
//! let wall = UnixTime::from_secs(1_795_168_800);
//! let reading = classify::response(&policy.signals, StatusCode::TOO_MANY_REQUESTS, &headers, wall);
//! let draw = 0; // a random word, for jitter
//! peer.observe(&policy, admission, &reading.outcome, now, draw, &mut events);
//!
//! // Half a minute later it is not the time yet.
//! let now = Instant::from_secs(130);
//! let Decision::ShortCircuit(not_until) = peer.admit(&policy, Purpose::Request, now, &mut events) else {
//!     panic!("the peer cools");
//! };
//! assert_eq!(not_until.wait, Duration::from_secs(90));
//!
//! // After the deadline one request finds out whether the peer is well again.
//! let now = Instant::from_secs(220);
//! assert!(matches!(peer.admit(&policy, Purpose::Request, now, &mut events), Decision::Forward(_)));
//! assert!(matches!(peer.admit(&policy, Purpose::Request, now, &mut events), Decision::ShortCircuit(_)));
//! ```
//!
//! `examples/` has a client over hyper-util, one over reqwest, and a mesh node that does not speak HTTP.

#![cfg_attr(test, expect(clippy::arithmetic_side_effects, reason = "tests may overflow: that is a failure"))]

pub mod core;

#[cfg(feature = "table")]
pub mod table;

#[cfg(feature = "tower")]
pub mod layer;

#[cfg(feature = "sidecar")]
pub mod admin;
#[cfg(feature = "sidecar")]
pub mod cli;
#[cfg(feature = "sidecar")]
pub mod config;
#[cfg(feature = "sidecar")]
pub mod explain;
#[cfg(feature = "sidecar")]
pub mod intercept;
#[cfg(feature = "sidecar")]
pub mod metrics;
#[cfg(feature = "sidecar")]
pub mod observe;
#[cfg(feature = "sidecar")]
pub mod proxy;
#[cfg(feature = "sidecar")]
pub mod sidecar;
#[cfg(feature = "sidecar")]
pub mod state;
#[cfg(feature = "sidecar")]
pub mod synthetic;
#[cfg(feature = "sidecar")]
pub mod telemetry;
