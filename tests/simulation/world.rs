//! The chance, the hosts, the clock and the comparison.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fastrand::Rng;
use holdoff::core::cooldown::{EndCause, Event, ProbeResult};
use holdoff::core::decision::{Freeze, NotUntil, Purpose, Reason, Source, State};
use holdoff::core::key::{Key, KeyRef, Scheme};
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Ladder, Mode, Policy};
use holdoff::core::signal::{Failure, Hint, Outcome, Signal};
use holdoff::core::time::Instant;
use holdoff::table::{Entry, Observer, Permit, Snapshot, Table, Verdict};

use crate::model::{Answer, Model, Refusal, Ticket};

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
struct Flight {
    host: usize,
    permit: Permit<usize>,
    /// None: the table had no room for the key.
    ticket: Option<Ticket>,
    purpose: Purpose,
}

/// What the events told so far say about a key.
#[derive(Clone, Debug, Default)]
struct Tale {
    state: Option<(Instant, Reason, Source)>,
    probe_out: bool,
    /// A probe lost its slot, and its verdict may come beside that of the next one.
    lapsed: bool,
    cooldowns: u64,
    probes: u64,
}

struct Host {
    key: Key,
    policy: Arc<Policy>,
    mood: Mood,
    known: Option<Known>,
}

/// What is expected of an entry of the table.
struct Known {
    model: Model,
    entry: Weak<Entry<usize>>,
    tale: Tale,
    /// The live deadline at the last look.
    live: Option<Instant>,
    counts: Counts,
}

/// What the entry counts beside the state machine.
#[derive(Clone, Debug, Default)]
struct Counts {
    successes: u64,
    successes_in_row: u64,
    last_status: Option<u16>,
    last_error: Option<String>,
    last_success: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Calm,
    Limiting,
    Broken,
    Mixed,
}

/// How often the things happened that the simulation is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    forwards: u64,
    passes: u64,
    would_have: u64,
    short_circuits: u64,
    ramp_full: u64,
    probe_out: u64,
    started: [u64; 6],
    extended: u64,
    probe_results: [u64; 7],
    ended: [u64; 3],
    evicted: u64,
    untracked: u64,
    freezes_kept: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.forwards += other.forwards;
        self.passes += other.passes;
        self.would_have += other.would_have;
        self.short_circuits += other.short_circuits;
        self.ramp_full += other.ramp_full;
        self.probe_out += other.probe_out;
        self.extended += other.extended;
        self.evicted += other.evicted;
        self.untracked += other.untracked;
        self.freezes_kept += other.freezes_kept;
        for (mine, other) in [
            (&mut self.started[..], &other.started[..]),
            (&mut self.probe_results[..], &other.probe_results[..]),
            (&mut self.ended[..], &other.ended[..]),
        ] {
            for (mine, other) in mine.iter_mut().zip(other) {
                *mine += other;
            }
        }
    }

    pub(crate) fn assert_everything_happened(&self) {
        let counts = [
            self.forwards,
            self.passes,
            self.would_have,
            self.short_circuits,
            self.ramp_full,
            self.probe_out,
            self.extended,
            self.evicted,
            self.untracked,
            self.freezes_kept,
        ];
        let all = counts.iter().chain(&self.started).chain(&self.probe_results).chain(&self.ended);
        assert!(all.copied().all(|count| count > 0), "expected everything to happen, found {self:?}");
    }
}

pub(crate) struct World {
    rng: Rng,
    now: Instant,
    told: Told,
    table: Table<usize>,
    hosts: Vec<Host>,
    /// What the table attaches to new keys.
    policies: Policies,
    flights: Vec<Flight>,
    /// Permits that are never completed.
    lost: Vec<Flight>,
    max_keys: usize,
    /// The last time the table said it had no room.
    no_room: Option<Instant>,
    /// Whether every step looks at every key. A look lets time pass for a key, which others must do as well.
    looks_often: bool,
    step: u64,
    errors: u64,
    story: Vec<String>,
    seen: Seen,
}

const ALL_HOSTS: usize = 12;

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

    fn note(&mut self, text: String) {
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
                let edges = host.known.as_ref().map(|known| known.model.edges(&host.policy)).unwrap_or_default();
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
    fn ask(&mut self, host: usize, purpose: Purpose) -> bool {
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
        let outcome = self.any_outcome(flight.host, flight.purpose);
        self.complete(flight, &outcome);
    }

    fn complete(&mut self, flight: Flight, outcome: &Outcome) {
        let Flight { host, permit, ticket, .. } = flight;
        let status = match outcome {
            Outcome::Success => Some(200),
            Outcome::Answered => Some(500),
            Outcome::Signal(_) => Some(429),
            Outcome::Failing(Failure::Status(status)) => Some(*status),
            _ => None,
        };
        let error = matches!(outcome, Outcome::Signal(_) | Outcome::Failing(_)).then(|| {
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
                    Outcome::Success | Outcome::Connected => {
                        counts.successes += 1;
                        counts.successes_in_row += 1;
                        counts.last_success = Some(now);
                    }
                    Outcome::Signal(_) | Outcome::Failing(_) => counts.successes_in_row = 0,
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
        let same = self.rng.bool().then(|| self.any_signal());
        for flight in burst {
            let outcome = same.clone().unwrap_or_else(|| self.any_signal());
            self.complete(flight, &outcome);
        }
    }

    /// Every host is asked at once: more keys than there is room for.
    fn crowd(&mut self) {
        let limiting = self.rng.bool();
        for host in 0..ALL_HOSTS {
            if self.ask(host, Purpose::Request) {
                let flight = self.flights.pop().unwrap();
                let outcome = if limiting { self.any_signal() } else { Outcome::Success };
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

    fn drop_flight(&mut self, flight: Flight) {
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
        let length = match self.rng.u8(..4) {
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

    fn set_policy(&mut self, host: usize, policy: Policy) {
        policy.check().unwrap();
        self.note(format!("host {host}: {policy:?}"));
        let policy = Arc::new(policy);
        self.policies.lock().unwrap()[host] = Arc::clone(&policy);
        self.hosts[host].policy = policy;
        if let Some(entry) = self.table.find(&self.hosts[host].key) {
            entry.set_policy(Arc::clone(&self.hosts[host].policy));
        }
        self.listen();
    }

    fn look_at_all(&mut self) {
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
    fn listen(&mut self) {
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
    fn notice_evictions(&mut self) {
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
    fn notice_no_room(&mut self, host: usize) {
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

    fn check_room(&self) {
        let stats = self.table.stats();
        let known = self.hosts.iter().filter(|host| host.known.is_some()).count();
        assert!(stats.keys <= self.max_keys, "more keys than the bound: {stats:?}");
        assert_eq!(stats.keys, known, "keys in the table");
        assert_eq!(stats.evicted, self.seen.evicted, "evictions");
    }

    fn any_outcome(&mut self, host: usize, purpose: Purpose) -> Outcome {
        if purpose == Purpose::Tunnel {
            return match self.rng.u8(..4) {
                0 => self.any_failure(),
                1 => Outcome::Neutral,
                _ => Outcome::Connected,
            };
        }
        // Out of a hundred: success, signal, failure, other 5xx; the rest is neutral.
        let (success, signal, failing, answered) = match self.hosts[host].mood {
            Mood::Calm => (85, 3, 3, 3),
            Mood::Limiting => (15, 75, 2, 3),
            Mood::Broken => (10, 5, 75, 5),
            Mood::Mixed => (25, 25, 25, 15),
        };
        let at = self.rng.u32(..100);
        if at < success {
            Outcome::Success
        } else if at < success + signal {
            self.any_signal()
        } else if at < success + signal + failing {
            self.any_failure()
        } else if at < success + signal + failing + answered {
            Outcome::Answered
        } else {
            Outcome::Neutral
        }
    }

    fn any_failure(&mut self) -> Outcome {
        Outcome::Failing([Failure::Refused, Failure::Timeout, Failure::Dns, Failure::Status(502)][self.rng.usize(..4)])
    }

    fn any_signal(&mut self) -> Outcome {
        let wait = match self.rng.u8(..10) {
            0 | 1 => None,
            2 => Some(Duration::ZERO),
            3 | 4 => Some(Duration::from_secs(self.rng.u64(1..5))),
            5 | 6 => Some(Duration::from_secs(self.rng.u64(5..120))),
            7 => Some(Duration::from_millis(self.rng.u64(..10_000_000))),
            8 => Some(Duration::from_secs(self.rng.u64(3000..100_000))),
            _ => Some(Duration::from_secs(1 << self.rng.u32(..=31))),
        };
        let source = if self.rng.bool() { Source::RetryAfterSeconds } else { Source::RetryAfterDate };
        let hint = wait.map(|wait| Hint { wait, source });
        let reason = if hint.is_some() && self.rng.u8(..4) == 0 { Reason::Unavailable } else { Reason::RateLimited };
        let received = wait.map(|wait| format!("{wait:?}").into_boxed_str());
        // What the other two reasons that a signal may have do is no different.
        let reason = match self.rng.u8(..10) {
            0 if hint.is_some() => Reason::BackendBusy,
            1 if hint.is_some() => Reason::QuotaExhausted,
            _ => reason,
        };
        Outcome::Signal(Signal { reason, hint, received })
    }

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

impl Tale {
    fn hear(&mut self, event: &Event, seen: &mut Seen) {
        match event {
            Event::Started { reason, source, until, from, .. } => {
                assert_ne!(*from, State::Cooling, "a start inside a live cooldown");
                self.state = Some((*until, *reason, *source));
                self.probe_out = false;
                self.lapsed = false;
                self.cooldowns += 1;
                seen.started[Reason::ALL.iter().position(|known| known == reason).unwrap()] += 1;
            }
            Event::Extended { reason, source, until, .. } => {
                let (before, ..) = self.state.expect("an extension needs a cooldown");
                assert!(*until > before, "an extension that does not extend");
                self.state = Some((*until, *reason, *source));
                seen.extended += 1;
            }
            Event::ProbeStarted { .. } => {
                assert!(!self.probe_out, "two probes out");
                assert!(self.state.is_some(), "a probe of a clear key");
                self.probe_out = true;
                self.probes += 1;
            }
            Event::ProbeEnded(result) => {
                self.probe_out = false;
                self.lapsed |= *result == ProbeResult::LeaseOver;
                seen.probe_results[ProbeResult::ALL.iter().position(|known| known == result).unwrap()] += 1;
            }
            Event::Ended { cause, reason, .. } => {
                let (.., before) =
                    self.state.map(|(until, reason, _)| (until, reason)).expect("an end needs a cooldown");
                assert_eq!(before, *reason, "the reason of the end");
                self.state = None;
                self.probe_out = false;
                self.lapsed = false;
                seen.ended[EndCause::ALL.iter().position(|known| known == cause).unwrap()] += 1;
            }
            other => panic!("expected an event the simulation knows, found {other:?}"),
        }
    }
}

fn any_mode(rng: &mut Rng) -> Mode {
    [Mode::Enforce, Mode::Enforce, Mode::Enforce, Mode::Observe, Mode::Off][rng.usize(..5)]
}

fn any_policy(rng: &mut Rng) -> Policy {
    let secs = Duration::from_secs;
    let min_cooldown = [secs(1), Duration::from_millis(100), secs(5)][rng.usize(..3)];
    let jittery = rng.u8(..4) == 0;
    let policy = Policy {
        mode: any_mode(rng),
        cooldown: CooldownLimits {
            min_cooldown,
            default_cooldown: [secs(60), secs(10), secs(2)][rng.usize(..3)],
            growth: [2.0, 1.0, 1.5, 3.0][rng.usize(..4)],
            max_backoff: [secs(1800), secs(90)][rng.usize(..2)],
            max_overwait: [secs(60), secs(20)][rng.usize(..2)],
            max_retry_after: [secs(3600), secs(300), secs(86_400)][rng.usize(..3)],
            ladder: [Ladder::FromHint, Ladder::FromHint, Ladder::Fixed, Ladder::Off][rng.usize(..4)],
            jitter: if jittery { 0.2 } else { 0.0 },
            hint_jitter: jittery,
            probe_lease: [secs(30), secs(2), secs(300)][rng.usize(..3)],
            success_threshold: [1, 1, 2, 3][rng.usize(..4)],
            ramp: [secs(10), Duration::ZERO, secs(1)][rng.usize(..3)],
            quiet_time: [secs(600), secs(600), secs(5)][rng.usize(..3)],
        },
        breaker: BreakerLimits {
            failure_threshold: [0, 1, 2, 5][rng.usize(..4)],
            failure_window: [Duration::ZERO, secs(60), secs(5)][rng.usize(..3)],
            initial: [secs(1), Duration::from_millis(50)][rng.usize(..2)],
            growth: [2.0, 1.5][rng.usize(..2)],
            max: secs(60),
        },
        ..Policy::default()
    };
    policy.check().unwrap();
    policy
}
