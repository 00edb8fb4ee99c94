//! What the protocol between threads is made of, so that `tests/loom.rs` can explore its interleavings.
//!
//! Only what carries meaning from one thread to another is here: words, deadlines, eras and the locks. Counts for people and
//! reference counts stay with `std` in both builds; nothing is decided by their order.

#[cfg(holdoff_loom)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(holdoff_loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(holdoff_loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(holdoff_loom))]
pub(super) use std::sync::{Mutex, MutexGuard};
