//! One word that says of a key, without its lock, what most requests need to know.

use crate::core::cooldown::Summary;
use crate::core::decision::Reason;
use crate::core::policy::Mode;

/// What the word says is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Every request passes.
    Clear,
    /// Clear, but let in one by one.
    Ramp,
    /// The deadline beside the word counts.
    Cooling,
    /// Being tested; or the deadline is being changed. Only the lock says more.
    Probing,
    /// Gone from the table.
    Evicted,
}

/// Epoch (54 bits), reason (3), success matters, frozen, mode (2), tag (3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    const TAG: u64 = 0b111;
    const MODE_SHIFT: u32 = 3;
    const FROZEN: u64 = 1 << 5;
    const SUCCESS_MATTERS: u64 = 1 << 6;
    const REASON_SHIFT: u32 = 7;
    const EPOCH_SHIFT: u32 = 10;

    pub(super) fn of(summary: &Summary, mode: Mode) -> Self {
        let tag = match (summary.clear, summary.cooling, summary.ramping) {
            (true, ..) => Tag::Clear,
            (_, _, true) => Tag::Ramp,
            (_, Some(_), _) => Tag::Cooling,
            _ => Tag::Probing,
        };
        let mode = match mode {
            Mode::Enforce => 0,
            Mode::Observe => 1 << Self::MODE_SHIFT,
            Mode::Off => 2 << Self::MODE_SHIFT,
        };
        let reason = summary.cooling.map_or(0, |(_, reason)| {
            Reason::ALL.iter().position(|r| *r == reason).and_then(|at| u64::try_from(at).ok()).unwrap_or_default()
        });
        let mut word = mode | (reason << Self::REASON_SHIFT) | (summary.epoch << Self::EPOCH_SHIFT);
        if summary.frozen_until.is_some() {
            word |= Self::FROZEN;
        }
        if summary.success_matters {
            word |= Self::SUCCESS_MATTERS;
        }
        Self(word).with_tag(tag)
    }

    pub(super) const fn tag(self) -> Tag {
        match self.0 & Self::TAG {
            0 => Tag::Clear,
            1 => Tag::Ramp,
            2 => Tag::Cooling,
            3 => Tag::Probing,
            _ => Tag::Evicted,
        }
    }

    pub(super) const fn with_tag(self, tag: Tag) -> Self {
        let bits = match tag {
            Tag::Clear => 0,
            Tag::Ramp => 1,
            Tag::Cooling => 2,
            Tag::Probing => 3,
            Tag::Evicted => 4,
        };
        Self((self.0 & !Self::TAG) | bits)
    }

    /// The word of an entry that is gone.
    pub(super) const fn evicted(self) -> Self {
        Self(self.0 & !(Self::SUCCESS_MATTERS | Self::FROZEN)).with_tag(Tag::Evicted)
    }

    pub(super) const fn mode(self) -> Mode {
        match (self.0 >> Self::MODE_SHIFT) & 0b11 {
            0 => Mode::Enforce,
            1 => Mode::Observe,
            _ => Mode::Off,
        }
    }

    pub(super) const fn frozen(self) -> bool {
        self.0 & Self::FROZEN != 0
    }

    const fn success_matters(self) -> bool {
        self.0 & Self::SUCCESS_MATTERS != 0
    }

    /// Whether every request passes and no success changes anything: the key is as good as unknown.
    pub(super) const fn is_plain(self) -> bool {
        matches!(self.tag(), Tag::Clear | Tag::Evicted) && !self.success_matters() && !self.frozen()
    }

    /// Whether the success of an ordinary request changes something.
    pub(super) const fn owes_success(self) -> bool {
        matches!(self.tag(), Tag::Clear) && self.success_matters()
    }

    pub(super) fn reason(self) -> Reason {
        let at = usize::try_from((self.0 >> Self::REASON_SHIFT) & 0b111).unwrap_or_default();
        Reason::ALL.get(at).copied().unwrap_or(Reason::RateLimited)
    }

    pub(super) const fn epoch(self) -> u64 {
        self.0 >> Self::EPOCH_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Instant;

    const PLAIN: Summary =
        Summary { epoch: 1, clear: true, ramping: false, cooling: None, success_matters: false, frozen_until: None };
    const RAMPING: Summary = Summary { clear: false, ramping: true, ..PLAIN };
    const PROBING: Summary = Summary { clear: false, ..PLAIN };

    fn cooling(reason: Reason) -> Summary {
        Summary { cooling: Some((Instant::from_secs(5), reason)), ..PROBING }
    }

    #[test]
    fn a_word_holds_every_part_of_a_summary() {
        let tags = [(PLAIN, Tag::Clear), (RAMPING, Tag::Ramp), (PROBING, Tag::Probing)];
        let reasons = Reason::ALL.map(|reason| (cooling(reason), Tag::Cooling));
        for (summary, tag) in tags.into_iter().chain(reasons) {
            for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
                for (epoch, frozen, success_matters) in
                    [(1, false, false), (2, false, true), (77, true, false), (0x2a_aaaa_aaaa_aaaa, true, true)]
                {
                    let frozen_until = frozen.then_some(Instant::from_secs(9));
                    let word = Word::of(&Summary { epoch, frozen_until, success_matters, ..summary }, mode);
                    assert_eq!((word.tag(), word.mode(), word.epoch()), (tag, mode, epoch));
                    assert_eq!((word.frozen(), word.success_matters()), (frozen, success_matters));
                    if let Some((_, reason)) = summary.cooling {
                        assert_eq!(word.reason(), reason);
                    }
                    assert_eq!(word.is_plain(), tag == Tag::Clear && !frozen && !success_matters);
                    assert_eq!(word.owes_success(), tag == Tag::Clear && success_matters);
                }
            }
        }
    }

    #[test]
    fn another_tag_leaves_the_rest() {
        let word = Word::of(&Summary { success_matters: true, ..cooling(Reason::Manual) }, Mode::Observe);
        for tag in [Tag::Clear, Tag::Ramp, Tag::Cooling, Tag::Probing, Tag::Evicted] {
            let other = word.with_tag(tag);
            assert_eq!((other.tag(), other.mode(), other.reason()), (tag, Mode::Observe, Reason::Manual));
            assert_eq!((other.epoch(), other.success_matters(), other.frozen()), (1, true, false));
        }
    }

    #[test]
    fn an_evicted_key_remembers_nothing() {
        let summary = Summary { epoch: 9, success_matters: true, frozen_until: Some(Instant::from_secs(9)), ..PLAIN };
        for word in [Word::of(&summary, Mode::Off), Word::of(&PLAIN, Mode::Off)] {
            let gone = word.evicted();
            assert_eq!((gone.tag(), gone.mode(), gone.epoch()), (Tag::Evicted, Mode::Off, word.epoch()));
            assert!(gone.is_plain() && !gone.frozen() && !gone.success_matters() && !gone.owes_success());
        }
    }
}
