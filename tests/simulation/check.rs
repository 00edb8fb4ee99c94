//! The comparison: state, events, invariant, room.

use std::sync::Arc;
use std::time::Duration;

use holdoff::core::cooldown::{EndCause, Event};
use holdoff::core::decision::State;
use holdoff::table::Snapshot;

use crate::world::{ALL_HOSTS, World};

impl World {
    pub(crate) fn look_at_all(&mut self) {
        for snapshot in self.table.snapshots(self.now) {
            let at = self.hosts.iter().position(|host| host.key == snapshot.key).unwrap();
            let host = &mut self.hosts[at];
            let known = host.known.as_mut().expect("every entry was seen");
            known.model.settle(&host.policy, self.now);
            self.compare(at, &snapshot);
        }
        self.listen();
    }

    /// State, invariant, tale.
    fn compare(&mut self, at: usize, found: &Snapshot) {
        let host = &mut self.hosts[at];
        let known = host.known.as_mut().unwrap();
        let (model, now) = (&known.model, self.now);
        assert_eq!(found.view, model.view(&host.policy, now), "host {at}: the state (left: table, right: model)");
        assert_eq!(found.mode, host.policy.mode, "host {at}: the mode");
        assert_eq!(found.short_circuited, model.short_circuited, "host {at}: short-circuited");
        assert_eq!(found.would_have, model.would_have, "host {at}: would have");
        let counts = &known.counts;
        assert_eq!(found.successes, counts.successes, "host {at}: successes");
        assert_eq!(found.successes_in_row, counts.successes_in_row, "host {at}: successes in a row");
        assert_eq!(found.last_status, counts.last_status, "host {at}: last status");
        assert_eq!(found.last_error.as_deref(), counts.last_error.as_deref(), "host {at}: last error");
        match (found.last_success, counts.last_success) {
            (Some(found), Some(expected)) => assert!(
                expected.saturating_since(found) <= Duration::from_secs(1) && found <= expected,
                "host {at}: last success to the second"
            ),
            (found, expected) => assert_eq!(found, expected, "host {at}: last success"),
        }
        // The invariant: a live cooldown is only ever extended; only a release, which clears `live`, ends it.
        let deadline = found.view.cooldown.as_ref().map(|cooldown| cooldown.deadline);
        if let Some(live) = known.live.filter(|live| now < *live) {
            assert!(deadline >= Some(live), "host {at}: a live cooldown until {live:?} became {deadline:?}");
            assert_eq!(found.view.state, State::Cooling, "host {at}: a live cooldown");
        }
        known.live = deadline.filter(|deadline| now < *deadline);
    }

    /// The events of the last call: those expected, in their order, and a tale that fits the state.
    pub(crate) fn listen(&mut self) {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        for (at, host) in self.hosts.iter_mut().enumerate() {
            let found: Vec<_> =
                told.iter().filter(|(of, tracked, _)| *of == at && *tracked).map(|(.., event)| event.clone()).collect();
            let Some(known) = &mut host.known else {
                assert!(found.is_empty(), "host {at}: events of a key that is not known: {found:?}");
                continue;
            };
            if let Some(complaint) = known.model.complaint.take() {
                panic!("host {at}: {complaint}; told {found:?}");
            }
            let expected = std::mem::take(&mut known.model.events);
            assert_eq!(found, expected, "host {at}: events (left: table, right: model)");
            if found.is_empty() {
                continue;
            }
            for event in &found {
                known.tale.hear(event, &mut self.seen);
            }
            let view = known.model.view(&host.policy, self.now);
            let cooldown = view.cooldown.as_ref().map(|cooldown| (cooldown.deadline, cooldown.reason, cooldown.source));
            assert_eq!(known.tale.state, cooldown, "host {at}: the tale of the events");
            if !known.tale.lapsed {
                let out = view.probe_out || known.model.lease_is_over(&host.policy, self.now);
                assert_eq!(known.tale.probe_out, out, "host {at}: the probe of the tale");
            }
            assert_eq!(known.tale.cooldowns, view.totals.cooldowns, "host {at}: cooldowns of the tale");
            assert_eq!(known.tale.probes, view.totals.probes, "host {at}: probes of the tale");
        }
    }

    /// Keys that went to make room: only clear ones without a permit out.
    pub(crate) fn notice_evictions(&mut self) {
        for at in 0..ALL_HOSTS {
            let host = &mut self.hosts[at];
            let Some(known) = &mut host.known else { continue };
            let gone = match (self.table.find(&host.key), known.entry.upgrade()) {
                (Some(found), Some(known)) => !Arc::ptr_eq(&found, &known),
                (None, _) => true,
                (Some(_), None) => true,
            };
            if !gone {
                // A sweep may have noticed that its quiet time is over.
                let quiet = |(of, _, event): &(usize, bool, Event)| {
                    *of == at && matches!(event, Event::Ended { cause: EndCause::Quiet, .. })
                };
                if self.told.lock().unwrap().iter().any(quiet) {
                    known.model.settle(&host.policy, self.now);
                }
                continue;
            }
            known.model.settle(&host.policy, self.now);
            known.model.events.clear();
            self.told.lock().unwrap().retain(|(of, tracked, _)| *of != at || !*tracked);
            assert_eq!(known.model.state(self.now), State::Clear, "host {at}: evicted while it cooled");
            let out = self.flights.iter().chain(&self.lost).any(|flight| flight.host == at && flight.ticket.is_some());
            assert!(!out, "host {at}: evicted with a permit out");
            host.known = None;
            self.seen.evicted += 1;
            self.note(format!("host {at}: evicted"));
        }
    }

    /// The table said it was full: then there must be nothing that could have gone.
    pub(crate) fn notice_no_room(&mut self, host: usize) {
        self.seen.untracked += 1;
        self.note(format!("host {host}: no room"));
        assert!(self.hosts[host].known.is_none(), "host {host}: known and without room");
        let pause = self.no_room.is_some_and(|last| self.now < last.saturating_add(Duration::from_secs(1)));
        if pause {
            return;
        }
        self.no_room = Some(self.now);
        assert_eq!(self.table.stats().keys, self.max_keys, "no room in a table that is not full");
        for (at, host) in self.hosts.iter().enumerate() {
            let Some(known) = &host.known else { continue };
            let mut model = known.model.clone();
            model.settle(&host.policy, self.now);
            let out = self.flights.iter().chain(&self.lost).any(|flight| flight.host == at && flight.ticket.is_some());
            assert!(out || model.state(self.now) != State::Clear, "host {at}: clear and idle, but there was no room");
        }
    }

    pub(crate) fn check_room(&self) {
        let stats = self.table.stats();
        let known = self.hosts.iter().filter(|host| host.known.is_some()).count();
        assert!(stats.keys <= self.max_keys, "more keys than the bound: {stats:?}");
        assert_eq!(stats.keys, known, "keys in the table");
        assert_eq!(stats.evicted, self.seen.evicted, "evictions");
    }
}
