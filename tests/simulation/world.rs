//! The chance, the hosts, the clock and the comparison.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fastrand::Rng;
use holdoff::core::cooldown::Event;
use holdoff::core::decision::{Freeze, NotUntil, Purpose, State};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{Mode, Policy};
use holdoff::core::signal::{Failure, Outcome};
use holdoff::core::time::Instant;
use holdoff::table::{Entry, Observer, Permit, Table, Verdict};

use crate::chance::{Mood, any_mode, any_outcome, any_policy, any_signal};
use crate::model::{Answer, Model, Refusal, Ticket};
use crate::tale::{Seen, Tale};

/// What the observer heard: the host, whether its entry is in the table, and what happened.
type Told = Arc<Mutex<Vec<(usize, bool, Event)>>>;

type Policies = Arc<Mutex<Vec<Arc<Policy>>>>;

struct Ear(Told);

impl Observer<usize> for Ear {
    fn event(&self, entry: &Entry<usize>, event: &Event, _: Instant) {
        self.0.lock().unwrap().push((*entry.attached(), entry.is_tracked(), event.clone()));
    }
}

/// A request that is under way.
pub(crate) struct Flight {
    pub(crate) host: usize,
    pub(crate) permit: Permit<usize>,
    /// None: the table had no room for the key.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) purpose: Purpose,
}

pub(crate) struct Host {
    pub(crate) key: Key,
    pub(crate) policy: Arc<Policy>,
    pub(crate) mood: Mood,
    pub(crate) known: Option<Known>,
}

/// What is expected of an entry of the table.
pub(crate) struct Known {
    pub(crate) model: Model,
    pub(crate) entry: Weak<Entry<usize>>,
    pub(crate) tale: Tale,
    /// The live deadline at the last look.
    pub(crate) live: Option<Instant>,
    pub(crate) counts: Counts,
}

/// What the entry counts beside the state machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) successes: u64,
    pub(crate) successes_in_row: u64,
    pub(crate) last_status: Option<u16>,
    pub(crate) last_error: Option<String>,
    pub(crate) last_success: Option<Instant>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) told: Told,
    pub(crate) table: Table<usize>,
    pub(crate) hosts: Vec<Host>,
    /// What the table attaches to new keys.
    pub(crate) policies: Policies,
    pub(crate) flights: Vec<Flight>,
    /// Permits that are never completed.
    pub(crate) lost: Vec<Flight>,
    pub(crate) max_keys: usize,
    /// The last time the table said it had no room.
    pub(crate) no_room: Option<Instant>,
    /// Whether every step looks at every key. A look lets time pass for a key, which others must do as well.
    pub(crate) looks_often: bool,
    pub(crate) step: u64,
    pub(crate) errors: u64,
    pub(crate) story: Vec<String>,
    pub(crate) seen: Seen,
}

pub(crate) const ALL_HOSTS: usize = 12;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let told = Told::default();
        let hosts: Vec<Host> = (0..ALL_HOSTS)
            .map(|at| Host {
                key: KeyRef::new(Scheme::Http, &format!("host{at}.example"), 80).unwrap().to_key(),
                policy: Arc::new(any_policy(&mut rng)),
                mood: Mood::Calm,
                known: None,
            })
            .collect();
        let max_keys = [2, 4, 8, ALL_HOSTS * 2][rng.usize(..4)];
        let policies: Policies = Arc::new(Mutex::new(hosts.iter().map(|host| Arc::clone(&host.policy)).collect()));
        let (keys, current): (Vec<Key>, _) =
            (hosts.iter().map(|host| host.key.clone()).collect(), Arc::clone(&policies));
        let attach = move |key: &Key| {
            let at = keys.iter().position(|known| known == key).unwrap();
            (Arc::clone(&current.lock().unwrap()[at]), at)
        };
        Self {
            now: Instant::from_secs(1_000_000),
            table: Table::new(max_keys, attach, Ear(Arc::clone(&told))),
            told,
            hosts,
            policies,
            flights: Vec::new(),
            lost: Vec::new(),
            max_keys,
            no_room: None,
            looks_often: rng.u8(..4) != 0,
            step: 0,
            errors: 0,
            story: Vec::new(),
            seen: Seen::default(),
            rng,
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The last steps, for people.
    pub(crate) fn story(&self) -> String {
        let from = self.story.len().saturating_sub(40);
        self.story[from..].join("\n")
    }

    pub(crate) fn note(&mut self, text: String) {
        self.story.push(format!("{:>5} at {:>20}: {text}", self.step, self.now.as_nanos()));
    }

    pub(crate) fn step(&mut self) {
        self.step += 1;
        self.pass_time();
        match self.rng.u32(..1000) {
            0..380 => {
                let host = self.any_host();
                self.request(host);
            }
            380..700 => self.finish_one(),
            700..740 => self.burst(),
            740..790 => self.drop_one(),
            790..800 => self.lose_one(),
            800..820 => self.freeze(),
            820..840 => self.release(),
            840..845 => self.release_all(),
            845..875 => self.reload(),
            875..885 => self.reload_all(),
            885..930 => {
                let host = self.any_host();
                self.hosts[host].mood = [Mood::Calm, Mood::Limiting, Mood::Broken, Mood::Mixed][self.rng.usize(..4)];
            }
            930..960 => self.look_at_all(),
            960..980 => self.crowd(),
            _ => self.note("nothing".to_owned()),
        }
        if self.looks_often {
            self.look_at_all();
        }
        self.check_room();
    }

    /// A clock that stands still, runs, hits an edge to the nanosecond, or jumps by hours (a suspended machine).
    fn pass_time(&mut self) {
        let by = match self.rng.u32(..100) {
            0..35 => Duration::ZERO,
            35..60 => Duration::from_nanos(self.rng.u64(..1_000_000_000)),
            60..75 => Duration::from_millis(self.rng.u64(..60_000)),
            75..97 => {
                let host = self.any_host();
                let host = &self.hosts[host];
                let mut edges = host.known.as_ref().map(|known| known.model.edges(&host.policy)).unwrap_or_default();
                if self.rng.u8(..6) == 0 {
                    edges.extend(host.known.as_ref().map(|known| known.model.quiet_over(&host.policy)));
                }
                let later: Vec<_> = edges.into_iter().filter(|edge| *edge > self.now).collect();
                let Some(edge) = self.rng.choice(later) else { return };
                let before = Duration::from_nanos([0, 0, 1][self.rng.usize(..3)]);
                let after = Duration::from_nanos([0, 0, 1][self.rng.usize(..3)]);
                (edge.saturating_since(self.now).saturating_sub(before)) + after
            }
            97..99 => Duration::from_secs(self.rng.u64(60..3600)),
            _ => Duration::from_secs(self.rng.u64(3600..100_000)),
        };
        self.now = self.now.saturating_add(by);
    }

    /// Some hosts are asked more often than others.
    fn any_host(&mut self) -> usize {
        if self.rng.bool() { self.rng.usize(..2) } else { self.rng.usize(..ALL_HOSTS) }
    }

    fn request(&mut self, host: usize) -> bool {
        let purpose = if self.rng.u8(..8) == 0 { Purpose::Tunnel } else { Purpose::Request };
        self.ask(host, purpose)
    }

    /// Admission; says whether a permit came of it.
    pub(crate) fn ask(&mut self, host: usize, purpose: Purpose) -> bool {
        let (entry, verdict) = self.table.admit(&self.hosts[host].key.as_ref(), purpose, self.now);
        let tracked = entry.is_tracked();
        self.notice_evictions();
        if !tracked {
            self.notice_no_room(host);
            drop(entry);
            match verdict {
                Verdict::Forward(permit) => {
                    self.flights.push(Flight { host, permit, ticket: None, purpose });
                    return true;
                }
                Verdict::Pass if self.hosts[host].policy.mode == Mode::Off => return false,
                other => panic!("expected an untracked key to be forwarded, found {other:?}"),
            }
        }
        self.know(host, &entry);
        drop(entry);
        let policy = Arc::clone(&self.hosts[host].policy);
        let now = self.now;
        let known = self.hosts[host].known.as_mut().unwrap();
        let answer = known.model.admit(&policy, purpose, now);
        self.note(format!("host {host}: {purpose:?} gets {verdict:?}, expected {answer:?}"));
        let permit = match (verdict, answer) {
            (Verdict::Forward(permit), Answer::Forward(ticket)) => {
                assert_eq!(permit.is_probe(), ticket.is_probe(), "host {host}: a probe or not");
                self.seen.forwards += 1;
                self.flights.push(Flight { host, permit, ticket: Some(ticket), purpose });
                true
            }
            (Verdict::Pass, Answer::Pass) => {
                self.seen.passes += 1;
                false
            }
            (Verdict::WouldHave(found), Answer::WouldHave(expected)) => {
                self.seen.would_have += 1;
                self.same_refusal(found, expected);
                false
            }
            (Verdict::ShortCircuit(found), Answer::ShortCircuit(expected)) => {
                self.seen.short_circuits += 1;
                self.seen.ramp_full += u64::from(expected.state == State::Clear);
                self.seen.probe_out += u64::from(expected.state == State::Probing);
                self.same_refusal(found, expected);
                false
            }
            (found, expected) => panic!("host {host}: expected {expected:?}, found {found:?}"),
        };
        self.listen();
        permit
    }

    fn same_refusal(&self, found: NotUntil, expected: Refusal) {
        let wait = expected.until.saturating_since(self.now);
        assert!(wait > Duration::ZERO, "a refusal that waits for nothing: {expected:?}");
        let Refusal { until, reason, state } = expected;
        assert_eq!(found, NotUntil { until, wait, reason, state });
    }

    /// The first sight of an entry.
    fn know(&mut self, host: usize, entry: &Arc<Entry<usize>>) {
        let host = &mut self.hosts[host];
        if let Some(known) = &host.known {
            assert!(known.entry.upgrade().is_some_and(|known| Arc::ptr_eq(&known, entry)), "one entry per key");
            return;
        }
        host.known = Some(Known {
            model: Model::new(),
            entry: Arc::downgrade(entry),
            tale: Tale::default(),
            live: None,
            counts: Counts::default(),
        });
    }

    fn finish_one(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        // Old ones, new ones, any.
        let last = self.flights.len() - 1;
        let at = [0, last, self.rng.usize(..=last)][self.rng.usize(..3)];
        let flight = self.flights.remove(at);
        let mut outcome = any_outcome(&mut self.rng, self.hosts[flight.host].mood, flight.purpose);
        if let (Outcome::Signal(signal) | Outcome::OffLadder(signal) | Outcome::Exhausted(signal), Some(rest)) =
            (&mut outcome, self.rest(flight.host))
            && self.rng.u8(..4) == 0
        {
            // The same deadline again, or a nanosecond beside it.
            signal.hint.iter_mut().for_each(|hint| hint.wait = rest);
        }
        self.complete(flight, &outcome);
    }

    pub(crate) fn complete(&mut self, flight: Flight, outcome: &Outcome) {
        let Flight { host, permit, ticket, .. } = flight;
        let status = match outcome {
            Outcome::Success | Outcome::Exhausted(_) => Some(200),
            Outcome::Answered => Some(500),
            Outcome::Signal(_) | Outcome::OffLadder(_) => Some(429),
            Outcome::Failing(Failure::Status(status)) => Some(*status),
            _ => None,
        };
        let trouble = matches!(outcome, Outcome::Signal(_) | Outcome::OffLadder(_) | Outcome::Failing(_));
        let error = trouble.then(|| {
            self.errors += 1;
            format!("error {}", self.errors)
        });
        let draw = self.rng.u64(..);
        permit.complete(outcome, status, error.as_deref(), self.now, draw);
        self.note(format!("host {host}: completes {ticket:?} with {outcome:?}"));
        let heard = self.told.lock().unwrap().iter().rev().find_map(|(at, tracked, event)| match event {
            Event::Started { until, source, .. } | Event::Extended { until, source, .. } if *at == host && *tracked => {
                Some((*until, *source))
            }
            _ => None,
        });
        let policy = Arc::clone(&self.hosts[host].policy);
        let now = self.now;
        if let Some(ticket) = ticket {
            let known = self.hosts[host].known.as_mut().expect("a key with permits out is never evicted");
            known.model.complete(&policy, ticket, outcome, now, heard);
            let counts = &mut known.counts;
            if policy.mode != Mode::Off {
                counts.last_status = status.or(counts.last_status);
                counts.last_error = error.or(counts.last_error.take());
                match outcome {
                    Outcome::Success | Outcome::Connected | Outcome::Exhausted(_) => {
                        counts.successes += 1;
                        counts.successes_in_row += 1;
                        counts.last_success = Some(now);
                    }
                    _ if trouble => counts.successes_in_row = 0,
                    _ => {}
                }
            }
        }
        self.listen();
    }

    /// Many requests at once, all limited.
    fn burst(&mut self) {
        let host = self.any_host();
        for _ in 0..self.rng.usize(2..8) {
            self.ask(host, Purpose::Request);
        }
        let (burst, others) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.host == host && flight.purpose == Purpose::Request);
        self.flights = others;
        let same = self.rng.bool().then(|| any_signal(&mut self.rng));
        for flight in burst {
            let outcome = same.clone().unwrap_or_else(|| any_signal(&mut self.rng));
            self.complete(flight, &outcome);
        }
    }

    /// Every host is asked at once: more keys than there is room for.
    fn crowd(&mut self) {
        let limiting = self.rng.bool();
        for host in 0..ALL_HOSTS {
            if self.ask(host, Purpose::Request) {
                let flight = self.flights.pop().unwrap();
                let outcome = if limiting { any_signal(&mut self.rng) } else { Outcome::Success };
                self.complete(flight, &outcome);
            }
        }
    }

    fn drop_one(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.swap_remove(self.rng.usize(..self.flights.len()));
        self.drop_flight(flight);
    }

    pub(crate) fn drop_flight(&mut self, flight: Flight) {
        let Flight { host, permit, ticket, .. } = flight;
        self.note(format!("host {host}: drops {ticket:?}"));
        drop(permit);
        if let Some(ticket) = ticket {
            let policy = Arc::clone(&self.hosts[host].policy);
            let known = self.hosts[host].known.as_mut().expect("a key with permits out is never evicted");
            known.model.cancel(&policy, ticket);
        }
        self.listen();
    }

    fn lose_one(&mut self) {
        // A few only: the key of a lost permit is never evicted.
        if self.flights.is_empty() || self.lost.len() >= 3 {
            return;
        }
        let flight = self.flights.swap_remove(self.rng.usize(..self.flights.len()));
        self.note(format!("host {}: {:?} is lost", flight.host, flight.ticket));
        self.lost.push(flight);
    }

    fn freeze(&mut self) {
        let host = self.any_host();
        let length = match self.rng.u8(..5) {
            4 => self.rest(host).unwrap_or(Duration::from_secs(1)),
            0 => Duration::from_secs(self.rng.u64(1..30)),
            1 => Duration::from_secs(self.rng.u64(30..7200)),
            2 => Duration::from_secs(self.rng.u64(7200..90_000)),
            _ => Duration::from_secs(self.rng.u64(90_000..100 * 86_400)),
        };
        let found = self.table.freeze(&self.hosts[host].key, length, self.now);
        self.notice_evictions();
        let Some(found) = found else {
            return self.notice_no_room(host);
        };
        let entry = self.table.find(&self.hosts[host].key).unwrap();
        self.know(host, &entry);
        drop(entry);
        let policy = Arc::clone(&self.hosts[host].policy);
        let now = self.now;
        let expected = self.hosts[host].known.as_mut().unwrap().model.freeze(&policy, length, now);
        self.note(format!("host {host}: frozen for {length:?} gives {found:?}, expected {expected:?}"));
        self.seen.freezes_kept += u64::from(matches!(found, Freeze::AlreadyLonger { .. }));
        assert_eq!(found, expected, "host {host}: freeze");
        self.listen();
    }

    /// The time to the live deadline, to a nanosecond.
    fn rest(&mut self, host: usize) -> Option<Duration> {
        let deadline = self.hosts[host].known.as_ref()?.model.deadline().filter(|deadline| *deadline > self.now)?;
        let rest = deadline.saturating_since(self.now);
        let beside = Duration::from_nanos(1);
        Some([rest, rest + beside, rest.saturating_sub(beside).max(beside)][self.rng.usize(..3)])
    }

    fn release(&mut self) {
        let host = self.any_host();
        let found = self.table.release(&self.hosts[host].key, self.now);
        let policy = Arc::clone(&self.hosts[host].policy);
        let now = self.now;
        let known = self.hosts[host].known.as_mut();
        let expected = known.map(|known| {
            known.live = None;
            known.model.release(&policy, now)
        });
        self.note(format!("host {host}: released gives {found:?}, expected {expected:?}"));
        assert_eq!(found, expected, "host {host}: release");
        self.listen();
    }

    fn release_all(&mut self) {
        let found = self.table.release_all(self.now);
        let now = self.now;
        let mut expected = 0;
        for host in &mut self.hosts {
            let Some(known) = &mut host.known else { continue };
            known.live = None;
            expected += usize::from(known.model.release(&host.policy, now));
        }
        self.note(format!("all released: {found}, expected {expected}"));
        assert_eq!(found, expected, "release all");
        self.listen();
    }

    /// Other settings, or only another mode: the state stays.
    fn reload(&mut self) {
        let host = self.any_host();
        let policy = if self.rng.bool() {
            let mode = any_mode(&mut self.rng);
            Policy { mode, ..(*self.hosts[host].policy).clone() }
        } else {
            any_policy(&mut self.rng)
        };
        self.set_policy(host, policy);
    }

    fn reload_all(&mut self) {
        for host in 0..ALL_HOSTS {
            let policy = any_policy(&mut self.rng);
            self.set_policy(host, policy);
        }
    }

    pub(crate) fn set_policy(&mut self, host: usize, policy: Policy) {
        policy.check().unwrap();
        self.note(format!("host {host}: {policy:?}"));
        let policy = Arc::new(policy);
        self.policies.lock().unwrap()[host] = Arc::clone(&policy);
        let now = self.now;
        let changed = &mut self.hosts[host];
        if let Some(entry) = self.table.find(&changed.key) {
            entry.set_policy(Arc::clone(&policy), now);
        }
        if let Some(known) = &mut changed.known {
            known.model.settle(&changed.policy, now);
        }
        changed.policy = policy;
        self.listen();
    }
}
