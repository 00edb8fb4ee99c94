//! What the protocol between threads is made of, so that `tests/loom.rs` can explore its interleavings.
//!
//! Only what carries meaning from one thread to another is here: words, deadlines, eras and the locks. Counts for people and
//! reference counts stay with `std` in both builds; nothing is decided by their order. Nor does loom see into the map; that
//! the map hands entries over properly is papaya's to prove, and [`Handover`] tells loom so.

#[cfg(holdoff_loom)]
pub(super) use explored::{AtomicU64, Handover, HashState, Mutex, MutexGuard, Ordering};
#[cfg(not(holdoff_loom))]
pub(super) use real::{AtomicU64, Handover, HashState, Mutex, MutexGuard, Ordering};

#[cfg(not(holdoff_loom))]
mod real {
    pub(in crate::table) use std::sync::atomic::{AtomicU64, Ordering};
    pub(in crate::table) use std::sync::{Mutex, MutexGuard};

    pub(in crate::table) use foldhash::fast::RandomState as HashState;

    /// Marks where an entry goes through the map.
    pub(in crate::table) struct Handover;

    impl Handover {
        pub(in crate::table) const fn new() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "loom's needs it")]
        pub(in crate::table) const fn cross(&self) {}
    }
}

#[cfg(holdoff_loom)]
mod explored {
    use loom::sync::atomic::AtomicU64 as Loom;
    pub(in crate::table) use loom::sync::atomic::Ordering;
    pub(in crate::table) use loom::sync::{Mutex, MutexGuard};

    /// A model must run the same way each time.
    pub(in crate::table) use foldhash::fast::FixedState as HashState;

    /// Loom remembers one access of each atomic, and takes a store for harmless when its own thread has just loaded. So each
    /// access takes a turn first: relaxed, which orders nothing, but is a place where loom tries the other threads.
    pub(in crate::table) struct AtomicU64 {
        turn: Loom,
        value: Loom,
    }

    impl AtomicU64 {
        pub(in crate::table) fn new(value: u64) -> Self {
            Self { turn: Loom::new(0), value: Loom::new(value) }
        }

        pub(in crate::table) fn load(&self, order: Ordering) -> u64 {
            self.take_turn().load(order)
        }

        pub(in crate::table) fn store(&self, value: u64, order: Ordering) {
            self.take_turn().store(value, order);
        }

        pub(in crate::table) fn fetch_add(&self, by: u64, order: Ordering) -> u64 {
            self.take_turn().fetch_add(by, order)
        }

        pub(in crate::table) fn fetch_sub(&self, by: u64, order: Ordering) -> u64 {
            self.take_turn().fetch_sub(by, order)
        }

        pub(in crate::table) fn fetch_max(&self, by: u64, order: Ordering) -> u64 {
            self.take_turn().fetch_max(by, order)
        }

        fn take_turn(&self) -> &Loom {
            self.turn.fetch_add(1, Ordering::Relaxed);
            &self.value
        }
    }

    impl std::fmt::Debug for AtomicU64 {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("AtomicU64")
        }
    }

    /// Whoever crosses sees what was done before earlier crossings: crossed before an entry goes into the map, and after
    /// one was found there.
    pub(in crate::table) struct Handover(Loom);

    impl Handover {
        pub(in crate::table) fn new() -> Self {
            Self(Loom::new(0))
        }

        pub(in crate::table) fn cross(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
}
