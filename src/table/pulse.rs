//! Whether anything is live in the whole table, and since when: what lets a request pass without its key's entry.
//!
//! A key is *plain* when every request to it passes and no success changes anything of it: as good as unknown. The table
//! counts the keys that are not, and raises an era at each change of epoch of any key. A [`FreePass`] is the era at which a
//! key was seen to be plain: because no key was anything else, or by its own word. It holds neither the entry nor the
//! epoch, so that to take, keep and drop it touches nothing that other threads write.
//!
//! What an ordinary permit proves by its epoch, a pass must prove by its era: that no change of the key lies between
//! admission and outcome. Then a burst of parallel 429s is one step here, too. The order of writes makes it so:
//!
//! 1. A change of a key's epoch, under the key's lock, (a) counts the key if it ceases to be plain, (b) writes the key's
//!    word, (c) raises the era (release) and keeps the raised value as the key's `changed`, (d) no longer counts the key if
//!    it has become plain.
//! 2. An admission reads the era (acquire), then the number of live keys or the key's word.
//! 3. A completion that is not a success on a plain key takes the key's lock. The pass is current when its era is not
//!    older than `changed`.
//!
//! Suppose a pass of era `e` is taken for current. Then `changed <= e`, so that the admission read the era at or after (c)
//! of the key's last change, hence sees its (a) and (b): had that change made the key cool, ramp or be tested, the number
//! would not have been zero nor the word clear, unless the key had become plain again within the same epoch, as a ramp
//! does. So the key was plain in the very epoch in which the outcome is counted, as it is for a permit.
//!
//! The other way round, an admission between (b) and (c) of a key that clears gets an era that is too old. Its outcome
//! counts as an older permit's: it may start a cooldown that the host named, and neither climbs the ladder nor clears
//! anything. The same holds for a key whose entry was evicted in between: a new entry takes, with its lock held while it
//! goes into the map, the latest `changed` of all that were evicted. Both err on the side that SPEC 3.5 gives to the
//! unknown.
//!
//! A release voids what was admitted before it (SPEC 3.11): the key keeps the era of its last release, too, and an outcome
//! of an older pass is dropped.

use super::sync::{AtomicU64, Ordering};
use super::word::Word;

/// Proof that a key was plain when it was asked for: [`Table::admit_free`](super::Table::admit_free). Dropping it is
/// cancelling, and costs nothing.
///
/// It does not name its key, so that it costs nothing: hand it back to the table and with the key that it was given for.
#[derive(Debug)]
#[must_use = "what became of it is told to `complete_free`; success included, since it may end a row of failures"]
pub struct FreePass {
    era: u64,
}

impl FreePass {
    pub(super) const fn of_era(era: u64) -> Self {
        Self { era }
    }

    pub(super) const fn era(&self) -> u64 {
        self.era
    }

    /// The same pass, for one more key that is concerned by what was sent.
    pub const fn again(&self) -> Self {
        Self { era: self.era }
    }
}

/// The figures that every request reads and only a change of state writes. They have a cache line to themselves.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Pulse {
    era: AtomicU64,
    /// Keys of the table that are not plain.
    live: AtomicU64,
    /// Those of them that are clear, with a row of failures or steps that a success resets.
    owing: AtomicU64,
    /// The latest `changed` of an evicted key.
    forgotten: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { era: AtomicU64::new(0), live: AtomicU64::new(0), owing: AtomicU64::new(0), forgotten: AtomicU64::new(0) }
    }

    /// A pass for a key of which the caller knows or is about to see that it is plain.
    pub(super) fn pass(&self) -> FreePass {
        FreePass { era: self.era.load(Ordering::Acquire) }
    }

    /// Whether every key is plain.
    pub(super) fn is_quiet(&self) -> bool {
        self.live.load(Ordering::Acquire) == 0
    }

    /// Whether the success of a pass may change something of some key. In ramp and probing it cannot: those are other epochs.
    pub(super) fn is_owed_success(&self) -> bool {
        self.owing.load(Ordering::Acquire) != 0
    }

    /// Keys that are not plain.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// Counts a key whose word is about to change, before the era is raised.
    pub(super) fn count(&self, old: Word, new: Word) {
        // Published by the era; where the epoch stays, nothing hangs on the order.
        if old.is_plain() && !new.is_plain() {
            self.live.fetch_add(1, Ordering::Release);
        }
        if !old.owes_success() && new.owes_success() {
            self.owing.fetch_add(1, Ordering::Release);
        }
    }

    /// No longer counts a key whose word has changed, after the era was raised.
    pub(super) fn discount(&self, old: Word, new: Word) {
        if !old.is_plain() && new.is_plain() {
            self.live.fetch_sub(1, Ordering::Release);
        }
        if old.owes_success() && !new.owes_success() {
            self.owing.fetch_sub(1, Ordering::Release);
        }
    }

    /// A key changed its epoch; the new era.
    pub(super) fn advance(&self) -> u64 {
        self.era.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    }

    /// A key that last changed then is evicted.
    pub(super) fn forget(&self, changed: u64) {
        self.forgotten.fetch_max(changed, Ordering::AcqRel);
    }

    /// When a key that is not in the table may have changed last.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::cooldown::Summary;
    use crate::core::policy::Mode;

    fn word(clear: bool, success_matters: bool) -> Word {
        let summary = Summary { epoch: 1, clear, ramping: !clear, cooling: None, success_matters, frozen_until: None };
        Word::of(&summary, Mode::Enforce)
    }

    #[test]
    fn keys_that_are_not_plain_are_counted_while_they_are_not() {
        let (plain, owing, busy) = (word(true, false), word(true, true), word(false, false));
        let pulse = Pulse::new();
        let mut old = plain;
        for (new, live, owed) in [
            (plain, 0, false),
            (busy, 1, false),
            (busy, 1, false),
            (owing, 1, true),
            (owing, 1, true),
            (busy, 1, false),
            (owing, 1, true),
            (plain, 0, false),
            (owing, 1, true),
            (plain, 0, false),
            (busy, 1, false),
            (plain, 0, false),
        ] {
            pulse.count(old, new);
            pulse.discount(old, new);
            assert_eq!((pulse.live(), pulse.is_owed_success(), pulse.is_quiet()), (live, owed, live == 0));
            old = new;
        }
        // Two keys.
        for live in [1, 2] {
            pulse.count(plain, busy);
            assert_eq!(pulse.live(), live);
        }
    }

    #[test]
    fn a_pass_is_of_the_era_in_which_it_was_given() {
        let pulse = Pulse::new();
        assert_eq!((pulse.pass().era(), pulse.advance(), pulse.advance()), (0, 1, 2));
        assert_eq!((pulse.pass().era(), FreePass::of_era(7).era()), (2, 7));
        assert_eq!(FreePass::of_era(7).again().era(), 7);
    }

    #[test]
    fn the_latest_change_of_what_was_evicted_is_kept() {
        let pulse = Pulse::new();
        assert_eq!(pulse.forgotten(), 0);
        for (changed, latest) in [(3, 3), (2, 3), (5, 5)] {
            pulse.forget(changed);
            assert_eq!(pulse.forgotten(), latest);
        }
    }
}
