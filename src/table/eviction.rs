//! What happens at the bound: which keys go.
//!
//! Every key of the table also stands in a ring. A new key at the bound looks at the next few of the ring and evicts the
//! least useful of them, so that no request pays for a sweep over the whole table. Only where nearly every key is live the
//! search goes on, at most once around, and then rests.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Shared;
use super::entry::Entry;
use super::sync::{Mutex, MutexGuard};
use crate::core::cooldown::Events;
use crate::core::time::Instant;

/// Keys that could go, of which the least useful does.
const SAMPLE: usize = 8;

/// After a search that found nothing to evict, the next one waits that long.
const PAUSE: Duration = Duration::from_secs(1);

/// Owners of an entry that nobody uses: the map and the ring.
const OWNERS: usize = 2;

/// The keys of a table, in the order in which they are looked at.
pub(super) struct Ring<X>(Mutex<State<X>>);

struct State<X> {
    keys: VecDeque<Arc<Entry<X>>>,
    /// Places taken: keys of the table, and those about to be.
    taken: usize,
    /// When the next search may run.
    next: Instant,
}

impl<X: Send + Sync + 'static> Ring<X> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { keys: VecDeque::new(), taken: 0, next: Instant::ZERO }))
    }

    fn lock(&self) -> MutexGuard<'_, State<X>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that was taken for a new key. Dropped, it is given back: another thread has brought the key, or what the owner
/// of the table was asked meanwhile has panicked.
pub(super) struct Place<'r, X: Send + Sync + 'static>(Option<&'r Ring<X>>);

impl<X: Send + Sync + 'static> Place<'_, X> {
    /// The key for which it was taken is in the table.
    pub(super) fn enrol(mut self, entry: Arc<Entry<X>>) {
        let Some(ring) = self.0.take() else { return };
        let mut state = ring.lock();
        let keys = &mut state.keys;
        if keys.len() == keys.capacity() {
            // By an eighth instead of double: what is reserved counts for the bytes of a key.
            keys.reserve_exact((keys.len() / 8).max(16));
        }
        keys.push_back(entry);
    }
}

impl<X: Send + Sync + 'static> Drop for Place<'_, X> {
    fn drop(&mut self) {
        if let Some(ring) = self.0 {
            let mut state = ring.lock();
            state.taken = state.taken.saturating_sub(1);
        }
    }
}

/// What happened to keys while the ring was locked.
type Happened<X> = Vec<(Arc<Entry<X>>, Events)>;

impl<X: Send + Sync + 'static> Shared<X> {
    /// Takes a place for a new key; at the bound that of another, if any can go.
    pub(super) fn take_place(&self, now: Instant) -> Option<Place<'_, X>> {
        let mut happened = Happened::new();
        let place = self.find_place(now, &mut happened).then(|| Place(Some(&self.ring)));
        // Without the ring's lock: whoever is told may ask the table for a key.
        for (entry, events) in happened {
            entry.tell(&events, now);
        }
        place
    }

    fn find_place(&self, now: Instant, happened: &mut Happened<X>) -> bool {
        let mut state = self.ring.lock();
        if state.taken < self.max_keys {
            state.taken = state.taken.saturating_add(1);
            return true;
        }
        if now < state.next {
            return false;
        }
        let mut best: Option<Arc<Entry<X>>> = None;
        let mut sampled: usize = 0;
        for _ in 0..state.keys.len() {
            let Some(entry) = state.keys.pop_front() else { break };
            // A further owner holds a permit or is about to ask. An entry that gets one from now on is evicted all the same,
            // and what its permit learns goes to the key's next entry.
            let is_held = Arc::strong_count(&entry) > OWNERS;
            if is_held || note(happened, &entry, |events| entry.is_live(now, events)) {
                state.keys.push_back(entry);
                continue;
            }
            let worse = match best.take() {
                Some(other) if other.eviction_rank() <= entry.eviction_rank() => {
                    best = Some(other);
                    Some(entry)
                }
                other => {
                    best = Some(entry);
                    other
                }
            };
            state.keys.extend(worse);
            sampled = sampled.saturating_add(1);
            if sampled >= SAMPLE
                && let Some(entry) = best.take()
            {
                if self.evict(&entry, now, happened) {
                    return true;
                }
                state.keys.push_back(entry);
                sampled = 0;
            }
        }
        if let Some(entry) = best {
            if self.evict(&entry, now, happened) {
                return true;
            }
            state.keys.push_back(entry);
        }
        state.next = now.saturating_add(PAUSE);
        false
    }

    fn evict(&self, entry: &Arc<Entry<X>>, now: Instant, happened: &mut Happened<X>) -> bool {
        let evicted = note(happened, entry, |events| entry.try_evict(now, events));
        if evicted {
            self.remove(entry);
            self.count_evicted();
        }
        evicted
    }
}

/// Keeps what a question did to a key, to be told later.
fn note<X>(happened: &mut Happened<X>, entry: &Arc<Entry<X>>, ask: impl FnOnce(&mut Events) -> bool) -> bool {
    let mut events = Events::default();
    let answer = ask(&mut events);
    if events.iter().next().is_some() {
        happened.push((Arc::clone(entry), events));
    }
    answer
}

#[cfg(test)]
mod tests {
    use crate::core::policy::Mode;
    use crate::table::tests::{at, name, table};

    #[test]
    fn a_place_given_back_is_there_for_the_next_key() {
        let (table, _) = table(1, Mode::Enforce);
        let place = table.shared.take_place(at(100));
        assert!(place.is_some());
        assert!(table.shared.take_place(at(100)).is_none());
        drop(place);
        assert!(table.shared.take_place(at(100)).is_some());
    }

    #[test]
    fn the_ring_grows_by_an_eighth() {
        let (table, _) = table(1000, Mode::Enforce);
        let mut capacities = Vec::new();
        for host in 0..1000 {
            table.entry(&name(&format!("peer{host}")).as_ref(), at(100));
            capacities.push(table.shared.ring.lock().keys.capacity());
        }
        capacities.dedup();
        assert!(capacities.len() < 32, "{capacities:?}");
        assert!(capacities.windows(2).all(|pair| pair[1] <= (pair[0] + 16).max(pair[0] * 9 / 8)), "{capacities:?}");
    }
}
