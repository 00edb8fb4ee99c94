//! Many keys: the map, its bound, and what happens at the bound.
//!
//! The table is the one piece of shared state on the request path. A look-up takes no lock; an entry of a clear key is
//! read with one load. It grows to `max_keys`; then idle clear keys go first, a running cooldown never. When even that
//! leaves no room, a new key gets an entry that is not kept: its requests are forwarded and counted as untracked.
//!
//! A clear key with a name of 25 bytes and nothing attached costs 304 to 315 bytes, by how full the map is; one that has
//! cooled about 200 more (`cargo test --test memory -- --nocapture` prints it).
//!
//! There are two ways to ask. [`Table::admit`] gives a [`Permit`], which holds its key's entry: counted, cancelled when
//! dropped. [`Table::admit_free`] gives a [`FreePass`] where the key is clear: nothing shared is written, and while no key
//! of the table is anything but clear not even the look-up is made; in return such a request is not counted at its key.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Count;
use std::time::Duration;

use crate::core::decision::{Freeze, Purpose};
use crate::core::key::{Key, KeyRef};
use crate::core::policy::Policy;
use crate::core::signal::Outcome;
use crate::core::time::Instant;

pub mod clock;
mod counters;
mod entry;
mod eviction;
mod permit;
mod pulse;
mod snapshot;
mod sync;
mod word;

use entry::{Claim, Common};
use eviction::{Place, Ring};
use sync::{Handover, HashState, Ordering};

pub use entry::{Entry, Objection, Observer, Quick, Report, Verdict};
pub use permit::Permit;
pub use pulse::FreePass;
pub use snapshot::Snapshot;

/// Makes what belongs to a new key: its policy and what the owner keeps beside it.
pub type Attach<X> = dyn Fn(&Key) -> (Arc<Policy>, X) + Send + Sync;

/// Many keys.
pub struct Table<X> {
    common: Arc<Common<X>>,
    shared: Arc<Shared<X>>,
}

/// What an evicted entry must still reach.
struct Shared<X> {
    map: papaya::HashMap<Slot<X>, (), HashState>,
    max_keys: usize,
    attach: Box<Attach<X>>,
    common: Arc<Common<X>>,
    handover: Handover,
    ring: Ring<X>,
    evicted: Count,
    untracked: Count,
}

/// The map while it is read.
type Pinned<'m, X> = papaya::HashMapRef<'m, Slot<X>, (), HashState, papaya::LocalGuard<'m>>;

/// An entry in the map, found by its key, which is therefore stored once.
struct Slot<X>(Arc<Entry<X>>);

impl<X: Send + Sync + 'static> Hash for Slot<X> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl<X: Send + Sync + 'static> PartialEq for Slot<X> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl<X: Send + Sync + 'static> Eq for Slot<X> {}

impl<X: Send + Sync + 'static> papaya::Equivalent<Slot<X>> for KeyRef<'_> {
    fn equivalent(&self, slot: &Slot<X>) -> bool {
        let key = slot.0.key();
        self.port() == key.port()
            && self.scheme() == key.scheme()
            && self.host() == key.host()
            && self.scope() == key.scope()
    }
}

/// Figures of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in the table.
    pub keys: usize,
    /// The bound.
    pub max_keys: usize,
    /// Keys of which there is anything to know: not simply clear.
    pub live: u64,
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
        let common = Arc::new(Common::new(observer));
        let shared = Arc::new(Shared {
            map: papaya::HashMap::with_hasher(HashState::default()),
            max_keys,
            attach: Box::new(attach),
            common: Arc::clone(&common),
            handover: Handover::new(),
            ring: Ring::new(),
            evicted: Count::new(0),
            untracked: Count::new(0),
        });
        common.set_home(Arc::downgrade(&shared));
        Self { common, shared }
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

    /// [`Table::admit`] by an entry that the caller has looked up.
    pub fn admit_by(&self, entry: Arc<Entry<X>>, purpose: Purpose, now: Instant) -> (Arc<Entry<X>>, Verdict<X>) {
        match entry.admit(purpose, now) {
            Some(verdict) => (entry, verdict),
            None => self.admit(&entry.key().as_ref(), purpose, now),
        }
    }

    /// A pass that names this moment, for a key that may turn out to be concerned by what is sent now. Nobody was asked for
    /// it: the key takes it for an older one unless it has not changed since.
    pub fn pass(&self) -> FreePass {
        self.common.pulse.pass()
    }

    /// A pass for any key at all, when no key of the table is anything but clear.
    #[inline]
    pub fn nothing_live(&self) -> Option<FreePass> {
        let pass = self.common.pulse.pass();
        self.common.pulse.is_quiet().then_some(pass)
    }

    /// Asks before something is sent to `key`, as [`Table::admit`] does, but holds and writes nothing where the key is
    /// clear. A key that is not known stays so until there is something to remember.
    #[inline]
    pub fn admit_free(&self, key: &KeyRef<'_>, purpose: Purpose, now: Instant) -> Quick<X> {
        match self.nothing_live() {
            Some(pass) => Quick::Forward(pass),
            None => self.shared.admit_free(key, purpose, now),
        }
    }

    /// Hands a pass back with what became of it. Returns the number of the error for [`Entry::add_error_body`], 0 when
    /// there is none.
    #[inline]
    pub fn complete_free(&self, key: &KeyRef<'_>, pass: FreePass, report: &Report<'_>) -> u64 {
        match report.outcome {
            Outcome::Success | Outcome::Connected if !self.common.pulse.is_owed_success() => 0,
            Outcome::Answered | Outcome::Neutral => 0,
            _ => self.shared.complete_free(key, pass, report),
        }
    }

    /// The entry of `key`, made when there is none.
    pub fn entry(&self, key: &KeyRef<'_>, now: Instant) -> Arc<Entry<X>> {
        self.shared.entry(key, now)
    }

    /// The entry of `key`, if it is known.
    pub fn find(&self, key: &Key) -> Option<Arc<Entry<X>>> {
        self.shared.find(key)
    }

    /// Every key at this moment, in no order.
    pub fn snapshots(&self, now: Instant) -> Vec<Snapshot> {
        let mut snapshots = Vec::with_capacity(self.shared.map.len());
        self.for_each(|entry| snapshots.push(entry.snapshot(now)));
        snapshots
    }

    /// Calls `visit` with every entry, in no order.
    pub fn for_each(&self, visit: impl FnMut(&Arc<Entry<X>>)) {
        self.shared.entries(&self.shared.map.pin()).for_each(visit);
    }

    /// Lets time pass for keys nobody asks for: a cooldown that ended by quiet time is told as ended, and a ramp that is
    /// over no longer keeps the table from passing requests without a look-up.
    pub fn settle(&self, now: Instant) {
        self.for_each(|entry| entry.settle_if_due(now));
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
            keys: self.shared.map.len(),
            max_keys: self.shared.max_keys,
            live: self.common.pulse.live(),
            evicted: self.shared.evicted.load(Ordering::Relaxed),
            untracked: self.shared.untracked.load(Ordering::Relaxed),
        }
    }
}

impl<X: Send + Sync + 'static> Shared<X> {
    fn admit_free(&self, key: &KeyRef<'_>, purpose: Purpose, now: Instant) -> Quick<X> {
        // Before the look-up, see `pulse`.
        let pass = self.common.pulse.pass();
        let map = self.map.pin();
        loop {
            let Some(entry) = self.look_up(&map, key) else { return Quick::Forward(pass) };
            if let Some(quick) = entry.admit_free(purpose, now) {
                return quick;
            }
            self.remove(entry);
        }
    }

    fn complete_free(&self, key: &KeyRef<'_>, mut pass: FreePass, report: &Report<'_>) -> u64 {
        let map = self.map.pin();
        loop {
            let settled = match (self.look_up(&map, key), report.outcome) {
                (Some(entry), _) => entry.settle_claim(Claim::Free(pass), report),
                // A key that is not known has nothing to reset.
                (None, Outcome::Success | Outcome::Connected) => return 0,
                (None, _) => self.entry(key, report.now).settle_claim(Claim::Free(pass), report),
            };
            match settled {
                Ok(number) => return number,
                Err(back) => pass = back,
            }
            // Evicted: out of the map with it, should its evictor be slow.
            if let Some(entry) = self.look_up(&map, key)
                && entry.is_evicted()
            {
                self.remove(entry);
            }
        }
    }

    fn entry(&self, key: &KeyRef<'_>, now: Instant) -> Arc<Entry<X>> {
        let map = self.map.pin();
        let mut made: Option<(Arc<Entry<X>>, Place<'_, X>)> = None;
        loop {
            if let Some(entry) = self.look_up(&map, key) {
                if !entry.is_evicted() {
                    return Arc::clone(entry);
                }
                self.remove(entry);
            }
            let (entry, place) = match made.take() {
                Some(made) => made,
                None => {
                    let place = self.take_place(now);
                    let key = key.to_key();
                    let (policy, attached) = (self.attach)(&key);
                    let entry = Entry::new(key, policy, attached, Arc::clone(&self.common), place.is_some());
                    let Some(place) = place else {
                        self.untracked.fetch_add(1, Ordering::Relaxed);
                        return entry;
                    };
                    (entry, place)
                }
            };
            self.handover.cross();
            if entry.join(|| map.try_insert(Slot(Arc::clone(&entry)), ()).is_ok()) {
                place.enrol(Arc::clone(&entry));
                return entry;
            }
            // Another thread made one.
            made = Some((entry, place));
        }
    }

    fn find(&self, key: &Key) -> Option<Arc<Entry<X>>> {
        let map = self.map.pin();
        let entry = self.look_up(&map, &key.as_ref())?;
        (!entry.is_evicted()).then(|| Arc::clone(entry))
    }

    fn look_up<'m>(&self, map: &'m Pinned<'_, X>, key: &KeyRef<'_>) -> Option<&'m Arc<Entry<X>>> {
        let (Slot(entry), ()) = map.get_key_value(key)?;
        self.handover.cross();
        Some(entry)
    }

    fn entries<'m>(&self, map: &'m Pinned<'_, X>) -> impl Iterator<Item = &'m Arc<Entry<X>>> {
        map.keys().map(|Slot(entry)| {
            self.handover.cross();
            entry
        })
    }

    /// Removed by identity: a new entry of the same key stays.
    fn remove(&self, entry: &Arc<Entry<X>>) {
        let _ = self.map.pin().remove_if(&entry.key().as_ref(), |slot, ()| Arc::ptr_eq(&slot.0, entry));
    }

    fn count_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }
}

impl<X> fmt::Debug for Table<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("max_keys", &self.shared.max_keys).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
