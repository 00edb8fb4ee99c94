//! Ending a connection without an answer: for nodes that count a 429 as the item's failure, but a broken connection not
//! (SPEC 5.6).

use std::fmt;

/// A request is not answered (`on_cooldown = "close"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HungUp;

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key cools, and the policy closes the connection without an answer")
    }
}

impl std::error::Error for HungUp {}
