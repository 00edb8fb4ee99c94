//! What happens at the bound: which keys go.

use std::sync::{Arc, TryLockError};
use std::time::Duration;

use super::Shared;
use crate::core::time::Instant;

/// After a sweep that found nothing to evict, the next one waits that long.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

impl<X: Send + Sync + 'static> Shared<X> {
    /// Evicts the least useful keys, a 16th of the table at once so that the sweep is paid for by many insertions.
    pub(super) fn make_room(&self, now: Instant) -> bool {
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
        let mut candidates: Vec<_> = self
            .entries(&map)
            // A second owner holds a permit or is about to ask. An entry that gets one from now on is evicted all the same,
            // and what its permit learns goes to the key's next entry.
            .filter(|entry| !entry.is_live() && Arc::strong_count(entry) == 1)
            .map(|entry| (entry.eviction_rank(), entry))
            .collect();
        let wanted = (self.max_keys / 16).max(1).min(candidates.len());
        if let Some(last) = wanted.checked_sub(1) {
            candidates.select_nth_unstable_by_key(last, |(rank, _)| *rank);
        }
        let mut freed: u64 = 0;
        for (_, entry) in candidates.iter().take(wanted) {
            if entry.try_evict(now) {
                self.remove(entry);
                freed = freed.saturating_add(1);
            }
        }
        self.count_evicted(freed);
        if freed == 0 {
            *next = now.saturating_add(SWEEP_PAUSE);
        }
        freed > 0
    }
}
