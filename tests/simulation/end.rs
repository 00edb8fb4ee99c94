//! The end of every run: hosts are well again, and every key must clear.

use std::sync::Arc;
use std::time::Duration;

use holdoff::core::decision::{Purpose, State};
use holdoff::core::policy::{Mode, Policy};
use holdoff::core::signal::Outcome;
use holdoff::core::time::Instant;

use crate::world::{ALL_HOSTS, Flight, World};

impl World {
    /// The end: hosts are well again, at 0.1 s or 40 s (longer than the lease) for an answer. Every key that is asked clears
    /// by its probes, every other one by quiet time.
    pub(crate) fn everything_clears(&mut self) {
        self.step += 1;
        self.note("the end: all hosts are well".to_owned());
        for flight in std::mem::take(&mut self.flights) {
            self.drop_flight(flight);
        }
        for at in 0..ALL_HOSTS {
            let mode = if at % 3 == 0 { Mode::Observe } else { Mode::Enforce };
            self.set_policy(at, Policy { mode, ..(*self.hosts[at].policy).clone() });
        }
        self.look_at_all();
        let start = self.now;
        // Asked one after another; time only runs on.
        for at in (0..ALL_HOSTS).filter(|at| at % 4 != 3) {
            let latency = if at % 2 == 0 { Duration::from_millis(100) } else { Duration::from_secs(40) };
            self.clears_by_asking(at, latency);
        }
        // Nobody asks these.
        for at in (0..ALL_HOSTS).filter(|at| at % 4 == 3) {
            let host = &self.hosts[at];
            let Some(known) = &host.known else { continue };
            let Some(deadline) = known.model.deadline() else { continue };
            assert!(
                deadline <= start.saturating_add(Duration::from_secs(31 * 86_400)),
                "host {at}: a deadline in reach"
            );
            self.now = self.now.max(known.model.quiet_over(&host.policy));
            self.look_at_all();
            let entry = self.table.find(&self.hosts[at].key).unwrap();
            assert_eq!(entry.snapshot(self.now).view.state, State::Clear, "host {at}: quiet time clears");
            drop(entry);
        }
        self.look_at_all();
    }

    fn clears_by_asking(&mut self, at: usize, latency: Duration) {
        let policy = Arc::clone(&self.hosts[at].policy);
        let Some(known) = &self.hosts[at].known else { return };
        let from = self.now.max(known.model.deadline().unwrap_or(self.now));
        let limits = &policy.cooldown;
        // Each of the successes needed costs at most an answer, a lease and a pause; then the ramp.
        let each = latency + limits.probe_lease + limits.min_cooldown + Duration::from_secs(2);
        let by = from.saturating_add(each * (limits.success_threshold + 1) + limits.ramp);
        let mut due: Vec<(Instant, Flight)> = Vec::new();
        let mut ask_at = self.now;
        loop {
            self.step += 1;
            // The next thing: an answer that comes, or the next time to ask.
            let first =
                due.iter().enumerate().min_by_key(|(_, (when, _))| *when).map(|(index, (when, _))| (index, *when));
            match first {
                Some((index, when)) if when <= ask_at => {
                    self.now = self.now.max(when);
                    let (_, flight) = due.remove(index);
                    self.complete(flight, &Outcome::Success);
                }
                _ => {
                    self.now = self.now.max(ask_at);
                    if self.ask(at, Purpose::Request) {
                        let flight = self.flights.pop().unwrap();
                        due.push((self.now.saturating_add(latency), flight));
                    }
                    let live = self.hosts[at].known.as_ref().and_then(|known| known.model.deadline());
                    let second = self.now.saturating_add(Duration::from_secs(1));
                    ask_at = live.filter(|live| *live > self.now).unwrap_or(second);
                }
            }
            self.look_at_all();
            let Some(entry) = self.table.find(&self.hosts[at].key) else { break };
            let view = entry.snapshot(self.now).view;
            drop(entry);
            if view.state == State::Clear && !view.ramping {
                break;
            }
            assert!(self.now <= by, "host {at}: expected clear at {by:?}, found {view:?} at {:?}", self.now);
        }
        for (_, flight) in due {
            self.complete(flight, &Outcome::Success);
        }
        let Some(entry) = self.table.find(&self.hosts[at].key) else { return };
        let view = entry.snapshot(self.now).view;
        drop(entry);
        self.listen();
        assert_eq!(view.state, State::Clear, "host {at}: clear in the end");
    }
}
