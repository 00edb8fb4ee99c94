//! Integration tests: the whole program with real sockets on free ports.

mod clients;
mod config;
mod demo;
mod exchanges;
mod exec;
mod failures;
mod layers;
mod lifecycle;
mod storm;
mod support;
mod tunnels;
