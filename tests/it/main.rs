//! Integration tests: the whole program with real sockets on free ports.

mod layers;
mod weight;
