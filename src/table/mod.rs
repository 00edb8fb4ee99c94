//! Many keys: the map, its bound, and what happens at the bound.
//!
//! The table is the one piece of shared state on the request path. A look-up takes no lock; an entry of a clear key is
//! read with one load. It grows to `max_keys`; then idle clear keys go first, a running cooldown never. When even that
//! leaves no room, a new key gets an entry that is not kept: its requests are forwarded and counted as untracked.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::core::decision::{Freeze, Purpose};
use crate::core::key::{Key, KeyRef};
use crate::core::policy::Policy;
use crate::core::time::Instant;

pub mod clock;
mod entry;
mod permit;
mod snapshot;

pub use entry::{Entry, Observer, Verdict};
pub use permit::Permit;
pub use snapshot::Snapshot;

/// Makes what belongs to a new key: its policy and what the owner keeps beside it.
pub type Attach<X> = dyn Fn(&Key) -> (Arc<Policy>, X) + Send + Sync;

/// After a sweep that found nothing to evict, the next one waits that long.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Many keys.
pub struct Table<X> {
    map: papaya::HashMap<Key, Arc<Entry<X>>, RandomState>,
    max_keys: usize,
    attach: Box<Attach<X>>,
    observer: Arc<dyn Observer<X>>,
    /// When the next sweep may run.
    sweep: Mutex<Instant>,
    evicted: AtomicU64,
    untracked: AtomicU64,
}

/// Figures of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Keys in the table.
    pub keys: usize,
    /// The bound.
    pub max_keys: usize,
    /// Keys evicted so far.
    pub evicted: u64,
    /// Admissions of keys that found no room.
    pub untracked: u64,
}

impl<X: Send + Sync + 'static> Table<X> {
    /// An empty table of at most `max_keys` keys.
    pub fn new(
        max_keys: usize,
        attach: impl Fn(&Key) -> (Arc<Policy>, X) + Send + Sync + 'static,
        observer: impl Observer<X> + 'static,
    ) -> Self {
        Self {
            map: papaya::HashMap::with_hasher(RandomState::default()),
            max_keys,
            attach: Box::new(attach),
            observer: Arc::new(observer),
            sweep: Mutex::new(Instant::ZERO),
            evicted: AtomicU64::new(0),
            untracked: AtomicU64::new(0),
        }
    }

    /// Asks before something is sent to `key`.
    pub fn admit(&self, key: &KeyRef<'_>, purpose: Purpose, now: Instant) -> (Arc<Entry<X>>, Verdict<X>) {
        loop {
            let entry = self.entry(key, now);
            // Evicted between the look-up and the question: the next look-up makes a new entry.
            if let Some(verdict) = entry.admit(purpose, now) {
                return (entry, verdict);
            }
        }
    }

    /// The entry of `key`, made when there is none.
    pub fn entry(&self, key: &KeyRef<'_>, now: Instant) -> Arc<Entry<X>> {
        let map = self.map.pin();
        if let Some(entry) = map.get(key) {
            return Arc::clone(entry);
        }
        let key = key.to_key();
        let room = map.len() < self.max_keys || self.make_room(now);
        let (policy, attached) = (self.attach)(&key);
        let entry = Entry::new(key.clone(), policy, attached, Arc::clone(&self.observer), room);
        if !room {
            self.untracked.fetch_add(1, Ordering::Relaxed);
            return entry;
        }
        Arc::clone(map.get_or_insert(key, entry))
    }

    /// The entry of `key`, if it is known.
    pub fn find(&self, key: &Key) -> Option<Arc<Entry<X>>> {
        self.map.pin().get(key).cloned()
    }

    /// Every key at this moment, in no order.
    pub fn snapshots(&self, now: Instant) -> Vec<Snapshot> {
        self.map.pin().values().map(|entry| entry.snapshot(now)).collect()
    }

    /// Calls `visit` with every entry, in no order.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Entry<X>>)) {
        for entry in self.map.pin().values() {
            visit(entry);
        }
    }

    /// Lets time pass for keys nobody asks for: a cooldown that ended by quiet time is told as ended.
    pub fn settle(&self, now: Instant) {
        // Asking whether a key is live settles it when its deadline has passed.
        self.for_each(|entry| {
            entry.is_live(now);
        });
    }

    /// An operator sets a cooldown, also of a key that is not known yet. `None`: no room for a new key.
    pub fn freeze(&self, key: &Key, length: Duration, now: Instant) -> Option<Freeze> {
        let entry = self.entry(&key.as_ref(), now);
        entry.is_tracked().then(|| entry.freeze(length, now))
    }

    /// An operator ends a cooldown. `None`: the key is not known.
    pub fn release(&self, key: &Key, now: Instant) -> Option<bool> {
        Some(self.find(key)?.release(now))
    }

    /// An operator ends every cooldown; says how many there were.
    pub fn release_all(&self, now: Instant) -> usize {
        let mut released: usize = 0;
        self.for_each(|entry| released = released.saturating_add(usize::from(entry.release(now))));
        released
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.map.len(),
            max_keys: self.max_keys,
            evicted: self.evicted.load(Ordering::Relaxed),
            untracked: self.untracked.load(Ordering::Relaxed),
        }
    }

    /// Evicts the least useful keys, a 64th of the table at once so that the sweep is paid for by many insertions.
    fn make_room(&self, now: Instant) -> bool {
        let mut next = match self.sweep.try_lock() {
            Ok(next) => next,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is making room right now.
            Err(TryLockError::WouldBlock) => return false,
        };
        if self.map.len() < self.max_keys {
            return true;
        }
        if now < *next {
            return false;
        }
        let map = self.map.pin();
        let mut candidates: Vec<_> = map
            .values()
            // A second owner holds a permit or is about to ask.
            .filter(|entry| Arc::strong_count(entry) == 1 && !entry.is_live(now))
            .map(|entry| (entry.eviction_rank(), entry))
            .collect();
        let wanted = (self.max_keys / 64).max(1).min(candidates.len());
        if let Some(last) = wanted.checked_sub(1) {
            candidates.select_nth_unstable_by_key(last, |(rank, _)| *rank);
        }
        let mut freed: u64 = 0;
        for (_, entry) in candidates.iter().take(wanted) {
            if entry.try_evict(now) {
                // Removed by identity: a new entry of the same key stays.
                let same = map.remove_if(entry.key(), |_, found| Arc::ptr_eq(found, entry));
                freed = freed.saturating_add(u64::from(matches!(same, Ok(Some(_)))));
            }
        }
        self.evicted.fetch_add(freed, Ordering::Relaxed);
        if freed == 0 {
            *next = now.saturating_add(SWEEP_PAUSE);
        }
        freed > 0
    }
}

/// A borrowed key finds the owned one.
impl papaya::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.port() == key.port() && self.scheme() == key.scheme() && self.host() == key.host()
    }
}

impl<X> fmt::Debug for Table<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("keys", &self.map.len()).field("max_keys", &self.max_keys).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
