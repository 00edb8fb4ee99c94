//! One key of the table: the state machine behind a small lock, and one word that says without the lock what most
//! requests need to know.
//!
//! The word holds the epoch, the mode and what is going on; the deadline stands beside it. Both are written under the lock
//! after every change. A reader of a clear key needs one load. A reader of a cooling key loads word, deadline, word: when
//! the word did not change, the deadline belongs to it, or is a later one of the same cooldown.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::permit::Permit;
use super::snapshot::Snapshot;
use crate::core::cooldown::{Cooldown, Event, Events};
use crate::core::decision::{Admission, AdmissionKind, Decision, Freeze, NotUntil, Purpose, Reason, State};
use crate::core::key::Key;
use crate::core::policy::{Mode, Policy};
use crate::core::signal::Outcome;
use crate::core::time::Instant;

/// Told of every change of a key. Called without the key's lock, so events of one key may arrive out of order when two
/// threads change it at the same time.
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

/// One key of a table.
pub struct Entry<X> {
    key: Key,
    /// See [`Word`].
    word: AtomicU64,
    /// Nanoseconds of the live deadline; only meaningful while the word says cooling.
    deadline: AtomicU64,
    inner: Mutex<Inner>,
    /// What the owner of the table keeps beside the key.
    attached: X,
    observer: Arc<dyn Observer<X>>,
    tracked: bool,
    /// Seconds of the last admission, for eviction.
    used: AtomicU64,
    counters: Counters,
}

struct Inner {
    machine: Cooldown,
    policy: Arc<Policy>,
    last_error: Option<Arc<str>>,
    /// Counts the texts of `last_error`, so that a body that arrives late does not decorate a newer error.
    errors: u64,
}

/// What is counted without the lock.
#[derive(Debug, Default)]
struct Counters {
    successes: AtomicU64,
    /// Successes at the last signal or failure.
    successes_before: AtomicU64,
    short_circuited: AtomicU64,
    would_have: AtomicU64,
    tunnels: AtomicU64,
    requests_seen: AtomicBool,
    last_success: AtomicU64,
    last_status: AtomicU16,
}

impl<X: Send + Sync + 'static> Entry<X> {
    pub(super) fn new(
        key: Key,
        policy: Arc<Policy>,
        attached: X,
        observer: Arc<dyn Observer<X>>,
        tracked: bool,
    ) -> Arc<Self> {
        let inner = Inner { machine: Cooldown::new(), policy, last_error: None, errors: 0 };
        let word = Word::of(&inner);
        Arc::new(Self {
            key,
            word: AtomicU64::new(word.0),
            deadline: AtomicU64::new(0),
            inner: Mutex::new(inner),
            attached,
            observer,
            tracked,
            used: AtomicU64::new(0),
            counters: Counters::default(),
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
        self.tracked
    }

    /// The epoch, for a reader that wants to know whether anything changed.
    pub fn epoch(&self) -> u64 {
        Word(self.word.load(Ordering::Acquire)).epoch()
    }

    /// Asks before something is sent. `None`: the key was evicted meanwhile; look it up again.
    pub(super) fn admit(self: &Arc<Self>, purpose: Purpose, now: Instant) -> Option<Verdict<X>> {
        self.touch(purpose, now);
        let word = Word(self.word.load(Ordering::Acquire));
        match (word.tag(), word.mode()) {
            (Tag::Evicted, _) => None,
            (_, Mode::Off) if !word.frozen() => Some(Verdict::Pass),
            (Tag::Clear, _) => {
                let admission = Admission { epoch: word.epoch(), kind: AdmissionKind::Plain, purpose };
                Some(Verdict::Forward(Permit::new(Arc::clone(self), admission)))
            }
            (Tag::Cooling, mode) if mode == Mode::Enforce || !word.frozen() => {
                let deadline = Instant::from_nanos(self.deadline.load(Ordering::Acquire));
                if now >= deadline || self.word.load(Ordering::Acquire) != word.0 {
                    return self.admit_locked(purpose, now);
                }
                let refusal = NotUntil {
                    until: deadline,
                    wait: deadline.saturating_since(now),
                    reason: word.reason(),
                    state: State::Cooling,
                };
                Some(self.refuse(mode, refusal))
            }
            _ => self.admit_locked(purpose, now),
        }
    }

    fn admit_locked(self: &Arc<Self>, purpose: Purpose, now: Instant) -> Option<Verdict<X>> {
        let mut events = Events::default();
        let (mode, frozen, decision) = {
            let mut inner = self.lock();
            if Word(self.word.load(Ordering::Acquire)).tag() == Tag::Evicted {
                return None;
            }
            let mode = inner.policy.mode;
            let frozen = inner.machine.summary().frozen_until.filter(|until| now < *until);
            let decision = match (mode, frozen) {
                // A freeze is enforced in every mode; nothing else is in this one.
                (Mode::Off, None) => None,
                _ => {
                    let Inner { machine, policy, .. } = &mut *inner;
                    let decision = machine.admit(policy, purpose, now, &mut events);
                    self.publish(&inner);
                    Some(decision)
                }
            };
            (mode, frozen, decision)
        };
        self.tell(&events, now);
        Some(match (decision, frozen) {
            (Some(Decision::ShortCircuit(refusal)), Some(until)) if mode != Mode::Enforce => {
                self.counters.short_circuited.fetch_add(1, Ordering::Relaxed);
                let wait = until.saturating_since(now);
                Verdict::ShortCircuit(NotUntil { until, wait, reason: Reason::Manual, ..refusal })
            }
            (Some(Decision::ShortCircuit(refusal)), _) => self.refuse(mode, refusal),
            (Some(Decision::Forward(admission)), _) => Verdict::Forward(Permit::new(Arc::clone(self), admission)),
            (Some(Decision::Pass) | None, _) => Verdict::Pass,
        })
    }

    fn refuse(&self, mode: Mode, refusal: NotUntil) -> Verdict<X> {
        if mode == Mode::Enforce {
            self.counters.short_circuited.fetch_add(1, Ordering::Relaxed);
            Verdict::ShortCircuit(refusal)
        } else {
            self.counters.would_have.fetch_add(1, Ordering::Relaxed);
            Verdict::WouldHave(refusal)
        }
    }

    /// Hands an admission back. `error` is one line about a signal or failure; the number returned names it for
    /// [`Entry::add_error_body`].
    pub(super) fn complete(
        &self,
        admission: Admission,
        outcome: &Outcome,
        status: Option<u16>,
        error: Option<&str>,
        now: Instant,
        draw: u64,
    ) -> u64 {
        if Word(self.word.load(Ordering::Acquire)).mode() == Mode::Off {
            // It was admitted before the mode was changed. Off feeds nothing (SPEC 4.5); a slot is freed all the same.
            self.cancel(admission);
            return 0;
        }
        if let Some(status) = status
            && self.counters.last_status.load(Ordering::Relaxed) != status
        {
            self.counters.last_status.store(status, Ordering::Relaxed);
        }
        if matches!(outcome, Outcome::Success | Outcome::Connected) {
            self.counters.successes.fetch_add(1, Ordering::Relaxed);
            // A second is precise enough for people and saves a write on most requests.
            let last = self.counters.last_success.load(Ordering::Relaxed);
            if now.as_nanos().saturating_sub(last) > 1_000_000_000 || last == 0 {
                self.counters.last_success.store(now.as_nanos(), Ordering::Relaxed);
            }
        }
        if admission.kind() == AdmissionKind::Plain && self.says_nothing(admission, outcome) {
            return 0;
        }
        let mut events = Events::default();
        let number = {
            let mut inner = self.lock();
            let Inner { machine, policy, .. } = &mut *inner;
            machine.observe(policy, admission, outcome, now, draw, &mut events);
            if matches!(outcome, Outcome::Signal(_) | Outcome::Failing(_)) {
                let successes = self.counters.successes.load(Ordering::Relaxed);
                self.counters.successes_before.store(successes, Ordering::Relaxed);
            }
            if let Some(error) = error {
                inner.errors = inner.errors.saturating_add(1);
                inner.last_error = Some(error.into());
            }
            self.publish(&inner);
            inner.errors
        };
        self.tell(&events, now);
        number
    }

    /// Whether an outcome of an ordinary request changes nothing, so that the lock is not needed.
    fn says_nothing(&self, admission: Admission, outcome: &Outcome) -> bool {
        let word = Word(self.word.load(Ordering::Acquire));
        match outcome {
            Outcome::Success | Outcome::Connected => {
                admission.epoch() != word.epoch() || (word.tag() == Tag::Clear && !word.success_matters())
            }
            Outcome::Answered | Outcome::Neutral => true,
            Outcome::Signal(_) | Outcome::Failing(_) => false,
        }
    }

    pub(super) fn cancel(&self, admission: Admission) {
        if admission.kind() == AdmissionKind::Plain {
            return;
        }
        let mut events = Events::default();
        {
            let mut inner = self.lock();
            let Inner { machine, policy, .. } = &mut *inner;
            machine.cancel(policy, admission, &mut events);
            self.publish(&inner);
        }
        // Freeing a slot is timed by the probe's start, so that no clock is needed here.
        self.tell(&events, Instant::ZERO);
    }

    /// Adds the first bytes of a throttling answer's body to the error that [`Permit::complete`] numbered, unless a newer
    /// error has come.
    pub fn add_error_body(&self, number: u64, body: &str) {
        let mut inner = self.lock();
        if number != 0
            && inner.errors == number
            && let Some(line) = &inner.last_error
        {
            inner.last_error = Some(format!("{line}: {body}").into());
        }
    }

    /// One line about the last signal or failure.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.lock().last_error.clone()
    }

    /// Counts a CONNECT tunnel that was opened.
    pub fn count_tunnel(&self) {
        self.counters.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    /// An operator sets a cooldown.
    pub fn freeze(&self, length: Duration, now: Instant) -> Freeze {
        self.change(now, |machine, policy, events| machine.freeze(policy, length, now, events))
    }

    /// An operator ends the cooldown; says whether there was one.
    pub fn release(&self, now: Instant) -> bool {
        self.change(now, |machine, policy, events| machine.release(policy, now, events))
    }

    /// Other settings from now on. What the key knows stays (SPEC 4.5), and so does a deadline that they would not have set.
    /// A new entry takes what the table attaches: change that first, then every entry.
    /// What time did before was under the old settings.
    pub fn set_policy(&self, policy: Arc<Policy>, now: Instant) {
        let mut events = Events::default();
        {
            let mut inner = self.lock();
            let Inner { machine, policy: old, .. } = &mut *inner;
            machine.settle(old, now, &mut events);
            *old = policy;
            self.publish(&inner);
        }
        self.tell(&events, now);
    }

    /// Lets time pass for a key nobody asks for.
    pub fn settle(&self, now: Instant) {
        self.change(now, |machine, policy, events| machine.settle(policy, now, events));
    }

    /// Everything that is shown of the key.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.settle(now);
        let inner = self.lock();
        let view = inner.machine.view(&inner.policy, now);
        let successes = self.counters.successes.load(Ordering::Relaxed);
        let last_success = self.counters.last_success.load(Ordering::Relaxed);
        let last_status = self.counters.last_status.load(Ordering::Relaxed);
        Snapshot {
            key: self.key.clone(),
            mode: inner.policy.mode,
            view,
            last_error: inner.last_error.clone(),
            last_status: (last_status != 0).then_some(last_status),
            last_success: (last_success != 0).then_some(Instant::from_nanos(last_success)),
            successes,
            successes_in_row: successes.saturating_sub(self.counters.successes_before.load(Ordering::Relaxed)),
            short_circuited: self.counters.short_circuited.load(Ordering::Relaxed),
            would_have: self.counters.would_have.load(Ordering::Relaxed),
            tunnels: self.counters.tunnels.load(Ordering::Relaxed),
            only_tunnels: !self.counters.requests_seen.load(Ordering::Relaxed)
                && self.counters.tunnels.load(Ordering::Relaxed) > 0,
        }
    }

    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut Cooldown, &Policy, &mut Events) -> T) -> T {
        let mut events = Events::default();
        let result = {
            let mut inner = self.lock();
            let Inner { machine, policy, .. } = &mut *inner;
            let result = change(machine, policy, &mut events);
            self.publish(&inner);
            result
        };
        self.tell(&events, now);
        result
    }

    /// Whether the key cools or is being tested, and is therefore never evicted. Quiet time may have ended that long ago
    /// without anybody asking.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        let live = |word: &AtomicU64| matches!(Word(word.load(Ordering::Acquire)).tag(), Tag::Cooling | Tag::Probing);
        if !live(&self.word) {
            return false;
        }
        if now >= Instant::from_nanos(self.deadline.load(Ordering::Acquire)) {
            self.settle(now);
        }
        live(&self.word)
    }

    /// Order of eviction: keys that remember nothing first, the longest unused first.
    pub(super) fn eviction_rank(&self) -> (bool, u64) {
        let word = Word(self.word.load(Ordering::Acquire));
        (word.success_matters() || word.tag() != Tag::Clear, self.used.load(Ordering::Relaxed))
    }

    /// Marks the entry as gone, unless it is live. From then on it admits nothing.
    pub(super) fn try_evict(&self, now: Instant) -> bool {
        let mut events = Events::default();
        let evicted = {
            let mut inner = self.lock();
            let Inner { machine, policy, .. } = &mut *inner;
            machine.settle(policy, now, &mut events);
            let live = machine.state(now) != State::Clear;
            self.publish(&inner);
            if !live {
                let word = Word(self.word.load(Ordering::Acquire)).with_tag(Tag::Evicted);
                self.word.store(word.0, Ordering::Release);
            }
            !live
        };
        self.tell(&events, now);
        evicted
    }

    fn touch(&self, purpose: Purpose, now: Instant) {
        let secs = now.as_nanos() / 1_000_000_000;
        if self.used.load(Ordering::Relaxed) != secs {
            self.used.store(secs, Ordering::Relaxed);
        }
        if purpose == Purpose::Request && !self.counters.requests_seen.load(Ordering::Relaxed) {
            self.counters.requests_seen.store(true, Ordering::Relaxed);
        }
    }

    fn publish(&self, inner: &Inner) {
        let word = Word::of(inner);
        if let Some((deadline, _)) = inner.machine.summary().cooling {
            self.deadline.store(deadline.as_nanos(), Ordering::Release);
        }
        if Word(self.word.load(Ordering::Relaxed)).tag() != Tag::Evicted {
            self.word.store(word.0, Ordering::Release);
        }
    }

    fn tell(&self, events: &Events, now: Instant) {
        for event in events.iter() {
            self.observer.event(self, event, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The machine is plain data and valid after every step, so that a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<X> std::fmt::Debug for Entry<X> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What the word says is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// Every request passes.
    Clear,
    /// Clear, but let in one by one.
    Ramp,
    /// The deadline beside the word counts.
    Cooling,
    /// Being tested.
    Probing,
    /// Gone from the table.
    Evicted,
}

/// Epoch (48 bits), reason (3), frozen, success matters, mode (2), tag (3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const FROZEN: u64 = 1 << 5;
    const SUCCESS_MATTERS: u64 = 1 << 6;
    const REASON_SHIFT: u32 = 7;
    const EPOCH_SHIFT: u32 = 10;

    fn of(inner: &Inner) -> Self {
        let summary = inner.machine.summary();
        let tag = match (summary.clear, summary.cooling, summary.ramping) {
            (true, ..) => 0,
            (_, _, true) => 1,
            (_, Some(_), _) => 2,
            _ => 3,
        };
        let mode = match inner.policy.mode {
            Mode::Enforce => 0,
            Mode::Observe => 1 << 3,
            Mode::Off => 2 << 3,
        };
        let reason = summary.cooling.map_or(0, |(_, reason)| {
            Reason::ALL.iter().position(|r| *r == reason).and_then(|at| u64::try_from(at).ok()).unwrap_or_default()
        });
        let mut word = tag | mode | (reason << Self::REASON_SHIFT) | (summary.epoch << Self::EPOCH_SHIFT);
        if summary.frozen_until.is_some() {
            word |= Self::FROZEN;
        }
        if summary.success_matters {
            word |= Self::SUCCESS_MATTERS;
        }
        Self(word)
    }

    const fn tag(self) -> Tag {
        match self.0 & 0b111 {
            0 => Tag::Clear,
            1 => Tag::Ramp,
            2 => Tag::Cooling,
            3 => Tag::Probing,
            _ => Tag::Evicted,
        }
    }

    const fn with_tag(self, tag: Tag) -> Self {
        let bits = match tag {
            Tag::Clear => 0,
            Tag::Ramp => 1,
            Tag::Cooling => 2,
            Tag::Probing => 3,
            Tag::Evicted => 4,
        };
        Self((self.0 & !0b111) | bits)
    }

    const fn mode(self) -> Mode {
        match (self.0 >> 3) & 0b11 {
            0 => Mode::Enforce,
            1 => Mode::Observe,
            _ => Mode::Off,
        }
    }

    const fn frozen(self) -> bool {
        self.0 & Self::FROZEN != 0
    }

    const fn success_matters(self) -> bool {
        self.0 & Self::SUCCESS_MATTERS != 0
    }

    fn reason(self) -> Reason {
        let at = usize::try_from((self.0 >> Self::REASON_SHIFT) & 0b111).unwrap_or_default();
        Reason::ALL.get(at).copied().unwrap_or(Reason::RateLimited)
    }

    const fn epoch(self) -> u64 {
        self.0 >> Self::EPOCH_SHIFT
    }
}
