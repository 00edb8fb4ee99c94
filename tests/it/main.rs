//! Integration tests.

mod config;
mod demo;
mod exec;
