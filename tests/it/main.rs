//! Integration tests: the whole program with real sockets on free ports.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by a panic, and may wait and look at the clock"
)]

mod bodies;
mod bounds;
mod ca;
mod clients;
mod config;
mod credentials;
mod demo;
mod exchanges;
mod exec;
mod explain;
mod failures;
mod forward;
mod fuzzed;
mod grpc;
mod http2;
mod identity;
mod intercept;
mod layers;
mod levels;
mod lifecycle;
mod logs;
mod metrics;
mod modes;
mod operators;
mod parent;
mod pool;
mod replay;
mod reverse;
mod storm;
mod support;
mod tunnels;
mod vendors;
mod weight;
mod wire;
