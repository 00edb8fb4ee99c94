//! What a person or the program around does to a key, and what it is shown of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Glance, Inner, manual};
use crate::core::cooldown::{Cooldown, Events};
use crate::core::decision::{Decision, Freeze, NotUntil, Purpose, Reason};
use crate::core::policy::{Mode, Policy};
use crate::core::time::Instant;
use crate::table::snapshot::Snapshot;

/// What an entry says against a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Until when, and why.
    pub refusal: NotUntil,
    /// Whether the request must not be sent; else it would not have been, were the mode another.
    pub enforced: bool,
}

impl<X: Send + Sync + 'static> Entry<X> {
    /// What [`crate::table::Table::admit`] would say against a request now, without taking a permit, changing or counting
    /// anything: where several keys are asked, all are asked before one lets pass.
    pub fn objection(&self, purpose: Purpose, now: Instant) -> Option<Objection> {
        let of = |mode, refusal| {
            let enforced = mode == Mode::Enforce;
            (enforced || purpose != Purpose::Session).then_some(Objection { refusal, enforced })
        };
        match self.glance(now) {
            Glance::Evicted | Glance::Off | Glance::Clear { .. } => return None,
            Glance::Refused(mode, refusal) => return of(mode, refusal),
            Glance::Locked => {}
        }
        let inner = self.lock_kept()?;
        let mode = inner.policy.mode;
        let frozen = inner.machine.summary().frozen_until.filter(|until| now < *until);
        if mode == Mode::Off && frozen.is_none() {
            return None;
        }
        let asked = inner.machine.clone().admit(&inner.policy, purpose, now, &mut Events::default());
        let Decision::ShortCircuit(refusal) = asked else { return None };
        match frozen {
            Some(until) if mode != Mode::Enforce => {
                Some(Objection { refusal: manual(until, now, refusal), enforced: true })
            }
            _ => of(mode, refusal),
        }
    }

    /// The refusal that [`crate::table::Table::admit`] would give now; see [`Entry::objection`].
    pub fn refusal(&self, purpose: Purpose, now: Instant) -> Option<NotUntil> {
        self.objection(purpose, now).filter(|objection| objection.enforced).map(|objection| objection.refusal)
    }

    /// The refusal of an operator's freeze alone, whatever else the key knows.
    pub fn frozen(&self, now: Instant) -> Option<NotUntil> {
        if matches!(self.glance(now), Glance::Evicted | Glance::Clear { .. }) {
            return None;
        }
        let inner = self.lock_kept()?;
        let until = inner.machine.summary().frozen_until.filter(|until| now < *until)?;
        let state = inner.machine.state(now);
        let wait = until.saturating_since(now);
        Some(NotUntil { until, wait, reason: Reason::Manual, state })
    }

    /// Notes that the key is in use, where it was not asked itself.
    pub fn touch(&self, purpose: Purpose, now: Instant) {
        self.counters.touch(purpose, now);
    }

    /// Counts a request that mode observe would not have sent for an [`Entry::objection`] of this key.
    pub fn count_would_have(&self) {
        self.counters.count_would_have();
    }

    /// Counts a request that was not sent for a [`Entry::refusal`] of this key.
    pub fn count_short_circuit(&self) {
        self.counters.count_short_circuit();
    }

    /// An operator sets a cooldown.
    pub fn freeze(&self, length: Duration, now: Instant) -> Freeze {
        if let Some(result) = self.change(now, |machine, policy, events| machine.freeze(policy, length, now, events)) {
            return result;
        }
        match self.home() {
            Some(home) => home.entry(&self.key.as_ref(), now).freeze(length, now),
            // There is no table any more, hence nothing to freeze.
            None => Freeze::AlreadyLonger { until: now },
        }
    }

    /// An operator ends the cooldown; says whether there was one.
    pub fn release(&self, now: Instant) -> bool {
        let mut events = Events::default();
        let Some(mut inner) = self.lock_kept() else {
            let current = self.home().and_then(|home| home.find(&self.key));
            return current.is_some_and(|entry| entry.release(now));
        };
        let Inner { machine, policy, .. } = &mut *inner;
        let live = machine.release(policy, now, &mut events);
        self.publish(&mut inner);
        inner.released = inner.changed;
        drop(inner);
        self.tell(&events, now);
        live
    }

    /// Other settings from now on. What the key knows stays (SPEC 4.5), and so does a deadline that they would not have set.
    /// A new entry takes what the table attaches: change that first, then every entry.
    /// What time did before was under the old settings.
    pub fn set_policy(&self, policy: Arc<Policy>, now: Instant) {
        let mut events = Events::default();
        {
            let Some(mut inner) = self.lock_kept() else { return };
            let Inner { machine, policy: old, .. } = &mut *inner;
            machine.settle(old, now, &mut events);
            *old = policy;
            self.publish(&mut inner);
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
        Snapshot {
            key: self.key.clone(),
            mode: inner.policy.mode,
            view: inner.machine.view(&inner.policy, now),
            last_error: inner.last_error_line(),
            last_status: self.counters.last_status(),
            last_success: self.counters.last_success(),
            successes: self.counters.successes(),
            successes_in_row: self.counters.successes_in_row(),
            short_circuited: self.counters.short_circuited(),
            would_have: self.counters.would_have(),
            tunnels: self.counters.tunnels(),
            only_tunnels: self.counters.only_tunnels(),
        }
    }

    /// A copy of the state machine, to try out what would happen.
    pub fn machine(&self) -> Cooldown {
        self.lock().machine.clone()
    }
}
