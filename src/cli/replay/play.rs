//! Plays requests of the past to the decision core, in the order in which they happened.
//!
//! Logs are written when a request ends, and the next one may have begun before. So what a line means, an admission and
//! later an outcome, waits until the log has gone on for [`WAIT`], and is then played in the order of time. Lines of one
//! time are played in the order of the log, each to its end. Whatever comes later than that is played when it comes, as if
//! no time had passed, and counted.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::draft::{Answer, Request};
use crate::config::settings::{HostSettings, Hosts};
use crate::core::classify;
use crate::core::cooldown::{Cooldown, Event, Events};
use crate::core::decision::{Admission, Decision, Purpose};
use crate::core::key::Key;
use crate::core::policy::{Mode, Policy};
use crate::core::signal::Outcome;
use crate::core::time::{Instant, UnixTime};

/// How far the log goes on before a line is played.
const WAIT: Duration = Duration::from_secs(600);

/// The most that waits; of more the oldest is played at once.
const MAX_WAITING: usize = 100_000;

/// Jitter is off, so that a draw decides nothing.
const DRAW: u64 = 0;

/// Takes jitter out of every policy, so that a log gives the same figures each time.
pub(super) fn take_chance_out(hosts: &mut Hosts) {
    let calm = |settings: &mut Arc<HostSettings>| {
        let cooldown = &mut Arc::make_mut(&mut Arc::make_mut(settings).policy).cooldown;
        (cooldown.jitter, cooldown.hint_jitter) = (0.0, false);
    };
    calm(&mut hosts.defaults);
    hosts.hosts.iter_mut().for_each(|host| calm(&mut host.settings));
}

/// What is counted of a host, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests in the log.
    pub(super) requests: u64,
    /// Those that the host answered by "slow down".
    pub(super) limited: u64,
    /// Those of them that holdoff would have sent.
    pub(super) limited_forwarded: u64,
    /// Those that failed.
    pub(super) failed: u64,
    /// What holdoff would have sent.
    pub(super) forwarded: u64,
    /// What it would have answered itself.
    pub(super) saved: u64,
    /// Those of them that the host answered well.
    pub(super) saved_good: u64,
    /// Those that a holdoff had answered when the log was written.
    pub(super) ours: u64,
    /// Limited answers that named a wait.
    pub(super) hinted: u64,
    /// Cooldowns that started.
    pub(super) cooldowns: u64,
    /// The longest of them.
    pub(super) longest_wait: Duration,
    /// The time spent in them, until the end of the log.
    pub(super) cooling: Duration,
    /// CONNECT tunnels, which are not judged.
    pub(super) tunnels: u64,
}

/// A host of the log.
#[derive(Debug)]
pub(super) struct HostCounts {
    pub(super) key: Key,
    pub(super) mode: Mode,
    pub(super) counts: Counts,
}

/// Everything that was counted.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// Most saved first.
    pub(super) hosts: Vec<HostCounts>,
    /// When the log begins and ends.
    pub(super) span: Option<(UnixTime, UnixTime)>,
    /// Lines that came too late to be played in their place.
    pub(super) late: u64,
    /// Requests of hosts that found no room.
    pub(super) untracked: u64,
}

/// Plays a log.
#[derive(Debug)]
pub(super) struct Player<'s> {
    settings: &'s Hosts,
    max_keys: usize,
    index: HashMap<Key, usize>,
    hosts: Vec<Host>,
    waiting: BinaryHeap<Reverse<Step>>,
    /// The number of the next line.
    line: u64,
    /// The earliest and the latest time read.
    span: Option<(UnixTime, UnixTime)>,
    /// How far it was played.
    played: UnixTime,
    late: u64,
    untracked: u64,
}

#[derive(Debug)]
struct Host {
    policy: Arc<Policy>,
    machine: Cooldown,
    counts: Counts,
    /// Start and deadline of the last cooldown.
    cooling: Option<(Instant, Instant)>,
}

/// Something that happens at a time. Ordered by it, then by the line; of one line never more than one waits.
#[derive(Debug)]
struct Step {
    at: UnixTime,
    line: u64,
    host: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Admit { ended: UnixTime, outcome: Option<Outcome>, is_limited: bool },
    Observe { admission: Admission, outcome: Option<Outcome> },
}

impl<'s> Player<'s> {
    /// Of at most `max_keys` hosts.
    pub(super) fn new(settings: &'s Hosts, max_keys: usize) -> Self {
        Self {
            settings,
            max_keys,
            index: HashMap::new(),
            hosts: Vec::new(),
            waiting: BinaryHeap::new(),
            line: 0,
            span: None,
            played: UnixTime::default(),
            late: 0,
            untracked: 0,
        }
    }

    /// The next request of the log.
    pub(super) fn request(&mut self, request: Request) {
        let Request { key, started, ended, answer } = request;
        self.pass(started, ended);
        if started < self.played {
            self.late = self.late.saturating_add(1);
        }
        let Some(at) = self.host(key) else {
            self.untracked = self.untracked.saturating_add(1);
            return;
        };
        let Some(host) = self.hosts.get_mut(at) else { return };
        let (outcome, is_limited) = host.read(answer, ended);
        self.line = self.line.saturating_add(1);
        let what = What::Admit { ended, outcome, is_limited };
        self.waiting.push(Reverse(Step { at: started, line: self.line, host: at, what }));
        self.play();
    }

    /// A tunnel, which is only counted.
    pub(super) fn tunnel(&mut self, key: Key, time: UnixTime) {
        self.pass(time, time);
        if let Some(host) = self.host(key).and_then(|at| self.hosts.get_mut(at)) {
            host.counts.tunnels = host.counts.tunnels.saturating_add(1);
        }
    }

    /// Plays what still waits, and says what was counted.
    pub(super) fn finish(mut self) -> Played {
        while let Some(Reverse(step)) = self.waiting.pop() {
            self.step(step);
        }
        let end = self.span.map(|(_, end)| instant(end)).unwrap_or_default();
        let mut hosts: Vec<HostCounts> = Vec::new();
        for (key, at) in self.index {
            if let Some(host) = self.hosts.get_mut(at) {
                host.close(end);
                hosts.push(HostCounts { key, mode: host.policy.mode, counts: host.counts });
            }
        }
        hosts.sort_by(|a, b| {
            let most = (b.counts.saved, b.counts.requests).cmp(&(a.counts.saved, a.counts.requests));
            most.then_with(|| a.key.cmp(&b.key))
        });
        Played { hosts, span: self.span, late: self.late, untracked: self.untracked }
    }

    fn pass(&mut self, started: UnixTime, ended: UnixTime) {
        let (first, last) = self.span.unwrap_or((started, ended));
        self.span = Some((first.min(started), last.max(ended)));
    }

    /// The place of a key; `None` when there is no room for another.
    fn host(&mut self, key: Key) -> Option<usize> {
        if let Some(at) = self.index.get(&key) {
            return Some(*at);
        }
        let at = self.hosts.len();
        if at >= self.max_keys {
            return None;
        }
        let (policy, _) = self.settings.of_key(&key);
        self.hosts.push(Host { policy, machine: Cooldown::new(), counts: Counts::default(), cooling: None });
        self.index.insert(key, at);
        Some(at)
    }

    /// Plays what has waited long enough.
    fn play(&mut self) {
        let newest = self.span.map(|(_, newest)| newest).unwrap_or_default();
        while let Some(Reverse(next)) = self.waiting.peek() {
            if self.waiting.len() <= MAX_WAITING && newest.saturating_since(next.at) < WAIT {
                return;
            }
            if let Some(Reverse(step)) = self.waiting.pop() {
                self.step(step);
            }
        }
    }

    fn step(&mut self, step: Step) {
        self.played = self.played.max(step.at);
        let now = instant(self.played);
        let Some(host) = self.hosts.get_mut(step.host) else { return };
        match step.what {
            What::Observe { admission, outcome } => host.observe(admission, outcome.as_ref(), now),
            What::Admit { ended, outcome, is_limited } => {
                let Some(admission) = host.admit(outcome.as_ref(), is_limited, now) else { return };
                let what = What::Observe { admission, outcome };
                self.waiting.push(Reverse(Step { at: ended, what, ..step }));
            }
        }
    }
}

impl Host {
    /// What an answer means, and whether it says "slow down". `None`: nobody knows.
    fn read(&mut self, answer: Answer, wall: UnixTime) -> (Option<Outcome>, bool) {
        let rules = &self.policy.signals;
        let ours = matches!(answer, Answer::Ours);
        let (outcome, is_limited, is_hinted) = match answer {
            Answer::Status(status, headers) => {
                let reading = classify::response(rules, status, &headers, wall);
                let is_limited = rules.statuses.contains(&status) || matches!(reading.outcome, Outcome::Signal(_));
                (Some(reading.outcome), is_limited, reading.hint_seen.is_some())
            }
            Answer::Instead(outcome) => {
                let is_limited = matches!(outcome, Outcome::Signal(_));
                (Some(outcome), is_limited, false)
            }
            Answer::Unknown | Answer::Ours => (None, false, false),
        };
        let counts = &mut self.counts;
        for (count, is_one) in [
            (&mut counts.requests, true),
            (&mut counts.limited, is_limited),
            (&mut counts.hinted, is_hinted),
            (&mut counts.failed, matches!(outcome, Some(Outcome::Failing(_)))),
            (&mut counts.ours, ours),
        ] {
            *count = count.saturating_add(u64::from(is_one));
        }
        (outcome, is_limited)
    }

    /// Asks. `None`: there is nothing to tell the core later.
    fn admit(&mut self, outcome: Option<&Outcome>, is_limited: bool, now: Instant) -> Option<Admission> {
        let mut events = Events::default();
        // Off neither reads nor feeds; observe is played as if it enforced, since that is the question.
        let decision = match self.policy.mode {
            Mode::Off => Decision::Pass,
            Mode::Observe | Mode::Enforce => self.machine.admit(&self.policy, Purpose::Request, now, &mut events),
        };
        self.note(&events, now);
        let counts = &mut self.counts;
        if let Decision::ShortCircuit(_) = decision {
            counts.saved = counts.saved.saturating_add(1);
            counts.saved_good = counts.saved_good.saturating_add(u64::from(outcome == Some(&Outcome::Success)));
            return None;
        }
        counts.forwarded = counts.forwarded.saturating_add(1);
        counts.limited_forwarded = counts.limited_forwarded.saturating_add(u64::from(is_limited));
        match decision {
            Decision::Forward(admission) => Some(admission),
            Decision::Pass | Decision::ShortCircuit(_) => None,
        }
    }

    fn observe(&mut self, admission: Admission, outcome: Option<&Outcome>, now: Instant) {
        let mut events = Events::default();
        match outcome {
            Some(outcome) => self.machine.observe(&self.policy, admission, outcome, now, DRAW, &mut events),
            None => self.machine.cancel(&self.policy, admission, &mut events),
        }
        self.note(&events, now);
    }

    fn note(&mut self, events: &Events, now: Instant) {
        for event in events.iter() {
            let started = match (event, self.cooling) {
                (Event::Started { .. }, _) => {
                    self.close(now);
                    self.counts.cooldowns = self.counts.cooldowns.saturating_add(1);
                    now
                }
                (Event::Extended { .. }, Some((started, _))) => started,
                _ => continue,
            };
            if let Event::Started { until, .. } | Event::Extended { until, .. } = event {
                self.cooling = Some((started, *until));
                self.counts.longest_wait = self.counts.longest_wait.max(until.saturating_since(started));
            }
        }
    }

    /// Adds the time of the last cooldown, as far as it lies before `end`.
    fn close(&mut self, end: Instant) {
        if let Some((started, until)) = self.cooling.take() {
            let length = until.min(end).saturating_since(started);
            self.counts.cooling = self.counts.cooling.saturating_add(length);
        }
    }
}

impl Counts {
    /// Both together; of the longest waits the longer.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            limited: self.limited.saturating_add(other.limited),
            limited_forwarded: self.limited_forwarded.saturating_add(other.limited_forwarded),
            failed: self.failed.saturating_add(other.failed),
            forwarded: self.forwarded.saturating_add(other.forwarded),
            saved: self.saved.saturating_add(other.saved),
            saved_good: self.saved_good.saturating_add(other.saved_good),
            ours: self.ours.saturating_add(other.ours),
            hinted: self.hinted.saturating_add(other.hinted),
            cooldowns: self.cooldowns.saturating_add(other.cooldowns),
            longest_wait: self.longest_wait.max(other.longest_wait),
            cooling: self.cooling.saturating_add(other.cooling),
            tunnels: self.tunnels.saturating_add(other.tunnels),
        }
    }
}

/// A time of the log on the clock of the core, whose start is 1970.
fn instant(time: UnixTime) -> Instant {
    Instant::ZERO.saturating_add(Duration::from_millis(time.as_millis()))
}

impl Step {
    const fn order(&self) -> (UnixTime, u64) {
        (self.at, self.line)
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::config;

    const HOST: &str = "peer.example";

    fn played(toml: &str, requests: impl IntoIterator<Item = Request>) -> Played {
        let mut settings = config::parse(toml).unwrap().settings;
        take_chance_out(&mut settings.hosts);
        let mut player = Player::new(&settings.hosts, settings.limits.max_keys);
        requests.into_iter().for_each(|request| player.request(request));
        player.finish()
    }

    /// A request at `(start, end)` seconds with a status, and `Retry-After` where it is not 0.
    fn request(host: &str, (start, end): (u64, u64), status: u16, retry_after: u64) -> Request {
        let mut headers = HeaderMap::new();
        if retry_after > 0 {
            headers.insert(RETRY_AFTER, retry_after.into());
        }
        Request {
            key: host.parse().unwrap(),
            started: UnixTime::from_secs(start),
            ended: UnixTime::from_secs(end),
            answer: Answer::Status(StatusCode::from_u16(status).unwrap(), headers),
        }
    }

    fn at(second: u64, status: u16, retry_after: u64) -> Request {
        request(HOST, (second, second), status, retry_after)
    }

    /// Forwarded, saved, cooldowns, seconds of cooling.
    fn counts(played: &Played) -> (u64, u64, u64, u64) {
        let counts = played.hosts[0].counts;
        assert_eq!(counts.forwarded + counts.saved, counts.requests);
        (counts.forwarded, counts.saved, counts.cooldowns, counts.cooling.as_secs())
    }

    #[test]
    fn a_saved_request_feeds_nothing() {
        // The 429 at 5 would extend the cooldown to 65 if it were heard; so 12 is the probe, and what clears the host.
        let log = [at(0, 429, 10), at(5, 429, 60), at(12, 200, 0), at(20, 200, 0)];
        assert_eq!(counts(&played("", log)), (3, 1, 1, 10));
    }

    #[test]
    fn jitter_is_off() {
        let toml = "[defaults.cooldown]\nhint_jitter = true\njitter = 1.0\n[[host]]\nmatch = [\"other.example\"]\n";
        for host in [HOST, "other.example"] {
            let log = [(0, 429, 0), (60, 429, 0), (179, 429, 0), (180, 429, 5), (300, 200, 0)];
            let log = log.map(|(second, status, wait)| request(host, (second, second), status, wait));
            let played = played(toml, log);
            // No hint: 60, then 120. At 180 the peer names 5 s, the third time: 20 s.
            assert_eq!(counts(&played), (4, 1, 3, 200), "{host}");
            assert_eq!(played.hosts[0].counts.longest_wait, Duration::from_secs(120));
        }
    }

    #[test]
    fn requests_that_overlap_are_played_in_the_order_of_time() {
        // Logged at its end, after both of the others: it was on its way when the first 429 came, and is not saved.
        let log = || [request(HOST, (5, 5), 429, 100), request(HOST, (6, 6), 429, 100), request(HOST, (1, 8), 200, 0)];
        assert_eq!(counts(&played("", log())), (2, 1, 1, 3));
        // And a line that is only written late is put in its place.
        let [first, second, long] = log();
        let turned = played("", [long, second, first]);
        assert_eq!((counts(&turned), turned.late), ((2, 1, 1, 3), 0));
    }

    #[test]
    fn parallel_answers_of_one_time_are_one_step() {
        // Three requests on their way at once, each told to wait: one cooldown, whose deadline is the latest.
        let log = [10, 30, 20].map(|wait| request(HOST, (1, 2), 429, wait));
        assert_eq!(counts(&played("", log.into_iter().chain([at(31, 200, 0), at(33, 200, 0)]))), (4, 1, 1, 30));
    }

    #[test]
    fn a_line_beyond_the_wait_counts_as_late_and_breaks_nothing() {
        let wait = WAIT.as_secs();
        let log = [
            at(1000, 429, 5),
            at(1006, 200, 0),
            at(1006 + wait, 200, 0),
            at(1001, 200, 0),
            at(1000 + 3 * wait, 200, 0),
        ];
        let late = played("", log);
        // In its place it would have been saved; when it came the host was clear.
        assert_eq!((counts(&late), late.late), ((5, 0, 1, 5), 1));
        assert_eq!(late.span, Some((UnixTime::from_secs(1000), UnixTime::from_secs(1000 + 3 * wait))));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut settings = config::parse("").unwrap().settings;
        take_chance_out(&mut settings.hosts);
        let mut player = Player::new(&settings.hosts, 5);
        for _ in 0..MAX_WAITING + 1000 {
            player.request(at(1, 200, 0));
            assert!(player.waiting.len() <= MAX_WAITING);
        }
        assert_eq!(player.finish().hosts[0].counts.forwarded, MAX_WAITING as u64 + 1000);
    }

    #[test]
    fn hosts_beyond_max_keys_are_counted_and_not_kept() {
        let log = (0..10).map(|n| request(&format!("h{}.example", n % 5), (n, n), 429, 60));
        let played = played("[limits]\nmax_keys = 3\n", log);
        assert_eq!((played.hosts.len(), played.untracked), (3, 4));
    }

    #[test]
    fn an_answer_nobody_knows_says_nothing_about_the_host() {
        let unknown = |second, answer| Request { answer, ..at(second, 200, 0) };
        // The probe at 10 ends without a word: the next one, at 12, clears the host.
        let log =
            [at(0, 429, 10), unknown(5, Answer::Ours), unknown(10, Answer::Unknown), at(12, 200, 0), at(13, 200, 0)];
        let played = played("", log);
        assert_eq!(counts(&played), (4, 1, 1, 10));
        assert_eq!((played.hosts[0].counts.ours, played.hosts[0].counts.saved_good), (1, 0));
    }

    #[test]
    fn a_probe_that_is_out_keeps_the_others_waiting_until_its_own_end() {
        let log = [at(0, 429, 10), request(HOST, (11, 11), 200, 0), request(HOST, (10, 12), 200, 0), at(12, 200, 0)];
        // At 11 the probe, sent at 10, is still out.
        assert_eq!(counts(&played("", log)), (3, 1, 1, 10));
    }

    #[test]
    fn observe_is_played_as_enforce_and_off_not_at_all() {
        let log = || [at(0, 429, 10), at(5, 429, 10), at(30, 200, 0)];
        assert_eq!(counts(&played("[defaults]\nmode = \"observe\"\n", log())), (2, 1, 1, 10));
        let off = played("[defaults]\nmode = \"off\"\n", log());
        assert_eq!((counts(&off), off.hosts[0].counts.limited, off.hosts[0].mode), ((3, 0, 0, 0), 2, Mode::Off));
    }

    #[test]
    fn the_breaker_of_a_policy_counts_failures() {
        let toml = "[defaults.breaker]\nfailure_threshold = 2\ninitial = \"10s\"\n";
        let log = [at(0, 502, 0), at(1, 503, 0), at(5, 200, 0), at(11, 200, 0)];
        let played = played(toml, log);
        assert_eq!((counts(&played), played.hosts[0].counts.failed), ((3, 1, 1, 10), 2));
    }

    #[test]
    fn the_end_of_time_is_a_time() {
        let log = [at(5, 429, 10), at(253_402_300_799, 429, 10), at(6, 200, 0)];
        assert_eq!(played("", log).hosts[0].counts.requests, 3);
    }
}
