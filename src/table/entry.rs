//! One key of the table: the state machine behind a small lock, and one word that says without the lock what most
//! requests need to know.
//!
//! The word holds the epoch, the mode and what is going on; the deadline stands beside it. Both are written under the lock
//! after every change. A reader of a clear key needs one load. A reader of a cooling key loads word, deadline, word: a
//! writer that changes the deadline first makes the word say that only the lock knows, so that a deadline that belongs to
//! another word is never paired with this one. (Two extensions of one cooldown that end with the word of before may pass
//! for one; the deadline read is then one that the same cooldown had.)
//!
//! An entry may be evicted while somebody holds it: that is decided under the lock, and the word says so for good. Such an
//! entry admits nothing, and what it is told goes on to the entry that the table has by now, so that no signal is lost.

use std::sync::{Arc, OnceLock, PoisonError, Weak};

use super::Shared;
use super::counters::Counters;
use super::permit::Permit;
use super::pulse::{FreePass, Pulse};
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use super::word::{Tag, Word};
use crate::core::cooldown::{Cooldown, Event, Events};
use crate::core::decision::{Admission, AdmissionKind, Decision, NotUntil, Purpose, Reason, State};
use crate::core::key::Key;
use crate::core::policy::{Mode, Policy};
use crate::core::signal::Outcome;
use crate::core::time::Instant;

mod operate;

pub use operate::Objection;

/// Told of every change of a key. Called without a lock of the table's, so that it may ask the table. Events of one key may
/// arrive out of order when two threads change it at the same time.
pub trait Observer<X>: Send + Sync {
    /// `event` happened to `entry`.
    fn event(&self, entry: &Entry<X>, event: &Event, now: Instant);
}

impl<X> Observer<X> for () {
    fn event(&self, _: &Entry<X>, _: &Event, _: Instant) {}
}

/// What an entry answers.
#[derive(Debug)]
#[must_use]
pub enum Verdict<X: Send + Sync + 'static> {
    /// Send it, and complete the permit with what became of it.
    Forward(Permit<X>),
    /// Send it; its outcome says nothing about the key (a tunnel after a rate limit, or the mode is off).
    Pass,
    /// Mode observe: send it; enforcing would have refused it. Its outcome must not count.
    WouldHave(NotUntil),
    /// Do not send it.
    ShortCircuit(NotUntil),
}

/// What an entry answers without giving a share of itself away where that is not needed.
#[derive(Debug)]
#[must_use]
pub enum Quick<X: Send + Sync + 'static> {
    /// Send it, and tell `complete_free` what became of it.
    Forward(FreePass),
    /// Do not send it.
    ShortCircuit(NotUntil),
    /// Anything rarer.
    Other(Verdict<X>),
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The outcome.
    pub outcome: &'a Outcome,
    /// The status of the response, when there was one.
    pub status: Option<u16>,
    /// One line for people about a signal or failure.
    pub error: Option<&'a str>,
    /// The arrival of the response head.
    pub now: Instant,
    /// A random word.
    pub draw: u64,
}

/// What the entries of one table share.
pub(super) struct Common<X> {
    pub(super) pulse: Pulse,
    observer: Box<dyn Observer<X>>,
    /// The table, to find the entry that took the place of an evicted one.
    home: OnceLock<Weak<Shared<X>>>,
}

impl<X> Common<X> {
    pub(super) fn new(observer: impl Observer<X> + 'static) -> Self {
        Self { pulse: Pulse::new(), observer: Box::new(observer), home: OnceLock::new() }
    }

    pub(super) fn set_home(&self, home: Weak<Shared<X>>) {
        let _ = self.home.set(home);
    }
}

/// One key of a table. What a look-up of a clear key reads stands first and together.
#[repr(C)]
pub struct Entry<X> {
    /// See [`Word`]. Written under the lock only.
    word: AtomicU64,
    /// Nanoseconds of the live deadline; only meaningful while the word says cooling.
    deadline: AtomicU64,
    key: Key,
    common: Arc<Common<X>>,
    counters: Counters,
    inner: Mutex<Inner>,
    /// What the owner of the table keeps beside the key.
    attached: X,
}

struct Inner {
    machine: Cooldown,
    policy: Arc<Policy>,
    last_error: Option<Box<LastError>>,
    /// The table's era at the last change of the epoch.
    changed: u64,
    /// The table's era at the last release.
    released: u64,
}

struct LastError {
    line: Arc<str>,
    /// Counts them, so that a body that arrives late does not decorate a newer error.
    number: u64,
}

/// By what an outcome is handed back.
#[derive(Debug)]
pub(super) enum Claim {
    Held(Admission),
    Free(FreePass),
}

/// The refusal of a freeze, where nothing else is enforced.
fn manual(until: Instant, now: Instant, refusal: NotUntil) -> NotUntil {
    NotUntil { until, wait: until.saturating_since(now), reason: Reason::Manual, ..refusal }
}

/// What the word and the deadline say without the lock.
enum Glance {
    Evicted,
    Off,
    Clear {
        epoch: u64,
    },
    Refused(Mode, NotUntil),
    /// Only the lock says more.
    Locked,
}

impl<X: Send + Sync + 'static> Entry<X> {
    pub(super) fn new(key: Key, policy: Arc<Policy>, attached: X, common: Arc<Common<X>>, tracked: bool) -> Arc<Self> {
        let machine = Cooldown::new();
        let word = Word::of(&machine.summary(), policy.mode);
        let changed = common.pulse.forgotten();
        let inner = Inner { machine, policy, last_error: None, changed, released: 0 };
        Arc::new(Self {
            word: AtomicU64::new(word.0),
            deadline: AtomicU64::new(0),
            inner: Mutex::new(inner),
            common,
            key,
            counters: Counters::new(tracked),
            attached,
        })
    }

    /// The key.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// What the owner of the table keeps beside the key.
    pub const fn attached(&self) -> &X {
        &self.attached
    }

    /// Whether the key is in the table. An entry that is not remembers nothing: the table was full of live cooldowns.
    pub const fn is_tracked(&self) -> bool {
        self.counters.tracked
    }

    /// The epoch, for a reader that wants to know whether anything changed.
    pub fn epoch(&self) -> u64 {
        self.word().epoch()
    }

    /// Asks before something is sent. `None`: the key was evicted meanwhile; look it up again.
    pub(super) fn admit(self: &Arc<Self>, purpose: Purpose, now: Instant) -> Option<Verdict<X>> {
        self.counters.touch(purpose, now);
        match self.glance(now) {
            Glance::Evicted => None,
            Glance::Off => Some(Verdict::Pass),
            Glance::Clear { .. } if purpose == Purpose::Session => Some(Verdict::Pass),
            Glance::Clear { epoch } => {
                let admission = Admission { epoch, kind: AdmissionKind::Plain, purpose };
                Some(Verdict::Forward(Permit::new(Arc::clone(self), admission)))
            }
            Glance::Refused(mode, refusal) => Some(self.refuse(mode, purpose, refusal)),
            Glance::Locked => self.admit_locked(purpose, now),
        }
    }

    /// Asks before something is sent, by an entry that the caller keeps. An ordinary admission costs no write to shared
    /// memory. `None`: the key was evicted; ask the table.
    pub fn admit_free(self: &Arc<Self>, purpose: Purpose, now: Instant) -> Option<Quick<X>> {
        // Before the word is read, see `pulse`.
        let pass = self.common.pulse.pass();
        self.counters.touch(purpose, now);
        Some(match self.glance(now) {
            Glance::Evicted => return None,
            Glance::Off => Quick::Other(Verdict::Pass),
            Glance::Clear { .. } => Quick::Forward(pass),
            Glance::Refused(mode, refusal) => match self.refuse(mode, purpose, refusal) {
                Verdict::ShortCircuit(refusal) => Quick::ShortCircuit(refusal),
                other => Quick::Other(other),
            },
            Glance::Locked => match self.admit_locked(purpose, now)? {
                Verdict::ShortCircuit(refusal) => Quick::ShortCircuit(refusal),
                other => Quick::Other(other),
            },
        })
    }

    fn glance(&self, now: Instant) -> Glance {
        let word = self.word();
        match (word.tag(), word.mode()) {
            (Tag::Evicted, _) => Glance::Evicted,
            (_, Mode::Off) if !word.frozen() => Glance::Off,
            (Tag::Clear, _) => Glance::Clear { epoch: word.epoch() },
            (Tag::Cooling, mode) if mode == Mode::Enforce || !word.frozen() => {
                let deadline = Instant::from_nanos(self.deadline.load(Ordering::Acquire));
                if now >= deadline || self.word() != word {
                    return Glance::Locked;
                }
                let wait = deadline.saturating_since(now);
                let refusal = NotUntil { until: deadline, wait, reason: word.reason(), state: State::Cooling };
                Glance::Refused(mode, refusal)
            }
            _ => Glance::Locked,
        }
    }

    fn admit_locked(self: &Arc<Self>, purpose: Purpose, now: Instant) -> Option<Verdict<X>> {
        let mut events = Events::default();
        let (mode, frozen, decision) = {
            let mut inner = self.lock_kept()?;
            let mode = inner.policy.mode;
            let frozen = inner.machine.summary().frozen_until.filter(|until| now < *until);
            let decision = match (mode, frozen) {
                // A freeze is enforced in every mode; nothing else is in this one.
                (Mode::Off, None) => None,
                _ => {
                    let Inner { machine, policy, .. } = &mut *inner;
                    let decision = machine.admit(policy, purpose, now, &mut events);
                    self.publish(&mut inner);
                    Some(decision)
                }
            };
            (mode, frozen, decision)
        };
        self.tell(&events, now);
        Some(match (decision, frozen) {
            (Some(Decision::ShortCircuit(refusal)), Some(until)) if mode != Mode::Enforce => {
                self.counters.count_short_circuit();
                Verdict::ShortCircuit(manual(until, now, refusal))
            }
            (Some(Decision::ShortCircuit(refusal)), _) => self.refuse(mode, purpose, refusal),
            (Some(Decision::Forward(admission)), _) => Verdict::Forward(Permit::new(Arc::clone(self), admission)),
            (Some(Decision::Pass) | None, _) => Verdict::Pass,
        })
    }

    fn refuse(&self, mode: Mode, purpose: Purpose, refusal: NotUntil) -> Verdict<X> {
        if mode == Mode::Enforce {
            self.counters.count_short_circuit();
            Verdict::ShortCircuit(refusal)
        } else if purpose == Purpose::Session {
            // What is asked inside is counted there.
            Verdict::Pass
        } else {
            self.counters.count_would_have();
            Verdict::WouldHave(refusal)
        }
    }

    /// Hands an admission back. The number returned names the error for [`Entry::add_error_body`].
    pub(super) fn complete(&self, admission: Admission, report: &Report<'_>) -> u64 {
        self.settle_claim(Claim::Held(admission), report).unwrap_or_else(|pass| self.complete_at_home(pass, report))
    }

    /// Hands back a pass of this key. The number returned names the error for [`Entry::add_error_body`], 0 when there is
    /// none.
    pub fn complete_free(&self, pass: FreePass, report: &Report<'_>) -> u64 {
        self.settle_claim(Claim::Free(pass), report).unwrap_or_else(|pass| self.complete_at_home(pass, report))
    }

    /// # Errors
    /// The entry was evicted: the pass is for the one that the table has by now.
    pub(super) fn settle_claim(&self, claim: Claim, report: &Report<'_>) -> Result<u64, FreePass> {
        let &Report { outcome, status, error, now, draw } = report;
        if self.word().mode() == Mode::Off {
            // It was admitted before the mode was changed. Off feeds nothing (SPEC 4.5); a slot is freed all the same.
            if let Claim::Held(admission) = claim {
                self.cancel(admission);
            }
            return Ok(0);
        }
        if let Some(status) = status {
            self.counters.note_status(status);
        }
        if outcome.is_success() {
            self.counters.count_success(now);
        }
        if self.says_nothing(&claim, outcome) {
            return Ok(0);
        }
        let mut events = Events::default();
        let number = {
            let mut inner = self.lock();
            if self.word().tag() == Tag::Evicted {
                return inner.pass_of(claim).map_or(Ok(0), Err);
            }
            let Some(admission) = inner.admission_of(&claim) else { return Ok(0) };
            let Inner { machine, policy, .. } = &mut *inner;
            machine.observe(policy, admission, outcome, now, draw, &mut events);
            if outcome.is_trouble() {
                self.counters.end_row();
            }
            self.publish(&mut inner);
            error.map_or(0, |line| inner.note_error(line))
        };
        self.tell(&events, now);
        Ok(number)
    }

    fn complete_at_home(&self, pass: FreePass, report: &Report<'_>) -> u64 {
        self.home().map_or(0, |home| home.complete_free(&self.key.as_ref(), pass, report))
    }

    /// Whether an outcome of an ordinary request changes nothing, so that the lock is not needed.
    fn says_nothing(&self, claim: &Claim, outcome: &Outcome) -> bool {
        let epoch = match claim {
            Claim::Held(admission) if admission.kind() == AdmissionKind::Plain => Some(admission.epoch()),
            Claim::Held(_) => return false,
            Claim::Free(_) => None,
        };
        match outcome {
            Outcome::Success | Outcome::Connected => {
                let word = self.word();
                // Whoever was admitted in clear is older in every other state.
                !word.owes_success() || epoch.is_some_and(|epoch| epoch != word.epoch())
            }
            Outcome::Answered | Outcome::Neutral => true,
            Outcome::Signal(_) | Outcome::OffLadder(_) | Outcome::Exhausted(_) | Outcome::Failing(_) => false,
        }
    }

    pub(super) fn cancel(&self, admission: Admission) {
        if admission.kind() == AdmissionKind::Plain {
            return;
        }
        // Freeing a slot is timed by the probe's start, so that no clock is needed here.
        self.change(Instant::ZERO, |machine, policy, events| machine.cancel(policy, admission, events));
    }

    /// Adds the first bytes of a throttling answer's body to the error that [`Permit::complete`] numbered, unless a newer
    /// error has come.
    pub fn add_error_body(&self, number: u64, body: &str) {
        let mut inner = self.lock();
        if let Some(last) = &mut inner.last_error
            && last.number == number
        {
            last.line = format!("{}: {body}", last.line).into();
        }
    }

    /// One line about the last signal or failure.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.lock().last_error_line()
    }

    /// Counts a CONNECT tunnel that was opened.
    pub fn count_tunnel(&self) {
        self.counters.count_tunnel();
    }

    /// Changes the machine, unless the entry was evicted.
    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut Cooldown, &Policy, &mut Events) -> T) -> Option<T> {
        let mut events = Events::default();
        let result = self.change_untold(&mut events, change)?;
        self.tell(&events, now);
        Some(result)
    }

    fn change_untold<T>(
        &self,
        events: &mut Events,
        change: impl FnOnce(&mut Cooldown, &Policy, &mut Events) -> T,
    ) -> Option<T> {
        let mut inner = self.lock_kept()?;
        let Inner { machine, policy, .. } = &mut *inner;
        let result = change(machine, policy, events);
        self.publish(&mut inner);
        Some(result)
    }

    /// Brings the entry into the table by `insert`, which says whether it did.
    ///
    /// Nobody is let in before it is known when a former entry of the key may have changed last: it may have come, changed
    /// and gone since this one was made.
    pub(super) fn join(&self, insert: impl FnOnce() -> bool) -> bool {
        let mut inner = self.lock();
        let joined = insert();
        inner.changed = inner.changed.max(self.common.pulse.forgotten());
        joined
    }

    /// Whether the key cools or is being tested, and is therefore never evicted.
    /// What time did to it is for the caller to tell.
    pub(super) fn is_live(&self, now: Instant, events: &mut Events) -> bool {
        let says_live = || matches!(self.word().tag(), Tag::Cooling | Tag::Probing);
        if says_live() && self.is_due(now) {
            // Quiet time may have ended it without anybody asking.
            self.change_untold(events, |machine, policy, events| machine.settle(policy, now, events));
        }
        says_live()
    }

    /// Lets time pass for a key nobody asks for, where it may change something.
    pub(super) fn settle_if_due(&self, now: Instant) {
        if self.is_due(now) {
            self.settle(now);
        }
    }

    /// Whether time may have changed something: neither of a plain key nor of one that cools on.
    fn is_due(&self, now: Instant) -> bool {
        let word = self.word();
        let cools_on = word.tag() == Tag::Cooling && self.deadline.load(Ordering::Acquire) > now.as_nanos();
        !word.is_plain() && !cools_on
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.word().tag() == Tag::Evicted
    }

    /// Order of eviction: keys that remember nothing first, the longest unused first.
    pub(super) fn eviction_rank(&self) -> (bool, u32) {
        (!self.word().is_plain(), self.counters.used())
    }

    /// Marks the entry as gone, unless it is live. From then on it admits nothing. What time did to it is for the caller to
    /// tell.
    pub(super) fn try_evict(&self, now: Instant, events: &mut Events) -> bool {
        let Some(mut inner) = self.lock_kept() else { return false };
        let Inner { machine, policy, .. } = &mut *inner;
        machine.settle(policy, now, events);
        let live = machine.state(now) != State::Clear;
        self.publish(&mut inner);
        if !live {
            self.common.pulse.forget(inner.changed);
            let word = self.word();
            self.word.store(word.evicted().0, Ordering::Release);
            if self.counters.tracked {
                self.common.pulse.discount(word, word.evicted());
            }
        }
        !live
    }

    /// Writes what changed where readers without the lock see it. The order is the argument of `pulse`.
    fn publish(&self, inner: &mut Inner) {
        let pulse = &self.common.pulse;
        let old = self.word();
        let summary = inner.machine.summary();
        let new = Word::of(&summary, inner.policy.mode);
        if self.counters.tracked {
            pulse.count(old, new);
        }
        if let Some((deadline, _)) = summary.cooling
            && deadline.as_nanos() != self.deadline.load(Ordering::Relaxed)
        {
            // Whoever reads the new deadline reads this word or a later one afterwards.
            self.word.store(new.with_tag(Tag::Probing).0, Ordering::Release);
            self.deadline.store(deadline.as_nanos(), Ordering::Release);
        }
        self.word.store(new.0, Ordering::Release);
        if new.epoch() != old.epoch() {
            inner.changed = pulse.advance();
        }
        if self.counters.tracked {
            pulse.discount(old, new);
        }
    }

    pub(super) fn tell(&self, events: &Events, now: Instant) {
        for event in events.iter() {
            self.common.observer.event(self, event, now);
        }
    }

    fn home(&self) -> Option<Arc<Shared<X>>> {
        self.common.home.get()?.upgrade()
    }

    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// The lock, unless the entry was evicted.
    fn lock_kept(&self) -> Option<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        (!self.is_evicted()).then_some(inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The machine is plain data and valid after every step, so that a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note_error(&mut self, line: &str) -> u64 {
        let number = self.last_error.as_ref().map_or(0, |last| last.number).saturating_add(1);
        self.last_error = Some(Box::new(LastError { line: line.into(), number }));
        number
    }

    fn last_error_line(&self) -> Option<Arc<str>> {
        self.last_error.as_ref().map(|last| Arc::clone(&last.line))
    }

    /// What the machine is told of a claim; `None`: nothing.
    fn admission_of(&self, claim: &Claim) -> Option<Admission> {
        let pass = match claim {
            Claim::Held(admission) => return Some(*admission),
            Claim::Free(pass) => pass,
        };
        let epoch = self.machine.summary().epoch;
        let epoch = if pass.era() >= self.changed {
            epoch
        } else if pass.era() >= self.released {
            // Some epoch between the last release and this one; which of them makes no difference.
            epoch.saturating_sub(1)
        } else {
            return None;
        };
        // In mode off nothing feeds the machine, not even what was let pass before its key was looked up.
        (self.policy.mode != Mode::Off).then_some(Admission {
            epoch,
            kind: AdmissionKind::Plain,
            purpose: Purpose::Request,
        })
    }

    /// What is left of a claim when its entry is evicted; `None`: nothing.
    fn pass_of(&self, claim: Claim) -> Option<FreePass> {
        match claim {
            Claim::Free(pass) => Some(pass),
            Claim::Held(admission) if admission.epoch() == self.machine.summary().epoch => {
                Some(FreePass::of_era(self.changed))
            }
            Claim::Held(admission) => (!self.machine.is_void(admission)).then(|| FreePass::of_era(0)),
        }
    }
}

impl<X> std::fmt::Debug for Entry<X> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
