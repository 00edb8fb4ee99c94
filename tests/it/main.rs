//! Integration tests: the whole program with real sockets on free ports.

mod clients;
mod config;
mod demo;
mod exec;
mod failures;
mod layers;
mod lifecycle;
mod metrics;
mod operators;
mod storm;
mod support;
mod tunnels;
