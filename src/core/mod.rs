//! The pure core: what a response says, what follows from it, and nothing else.
//!
//! Nothing here knows a clock, a socket, a file, a thread or a lock. The time and a random word are arguments; what
//! happened comes back as values. Read in this order: [`signal`] (what a response says), [`classify`] (what it means),
//! [`policy`] (the limits), [`backoff`] (how long), [`cooldown`] (the state machine of one key).

pub mod backoff;
pub mod classify;
pub mod cooldown;
pub mod decision;
pub mod key;
pub mod level;
pub mod policy;
pub mod signal;
pub mod time;
