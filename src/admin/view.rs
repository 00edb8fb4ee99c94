//! The JSON of the operators' API. The shape is stable: fields may be added, none changes its meaning. `null` stands where
//! there is nothing to say. Times are RFC 3339 in UTC.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::core::decision::State;
use crate::core::time::{Instant, UnixTime, ceil_secs};
use crate::table::{Snapshot, clock};

/// `GET /api/v1/cooldowns`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// When this was true.
    pub now: String,
    /// The name of the sidecar.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started: String,
    /// How long ago that was.
    pub uptime_seconds: u64,
    /// `starting`, `ready` or `draining`.
    pub lifecycle: String,
    /// Where it listens for requests.
    pub listen: Vec<Listening>,
    /// The hosts whose TLS ends here, as configured.
    #[serde(default)]
    pub intercept: Vec<String>,
    /// Figures since the start.
    pub totals: Totals,
    /// How many keys fit the filters.
    pub matched: usize,
    /// Whether `limit` cut the list.
    pub truncated: bool,
    /// The keys: cooling ones first, the soonest deadline first, then probing, then clear.
    pub cooldowns: Vec<Cooldown>,
}

/// A listener of the data path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    /// The address, as configured.
    pub address: String,
    /// The upstream of a `[[reverse]]`; `null`: the forward proxy.
    pub upstream: Option<String>,
}

/// Figures of a sidecar since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests sent on.
    pub forwarded: u64,
    /// Requests answered locally, because the key cooled: what was saved.
    pub short_circuited: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests whose client left.
    pub cancelled: u64,
    /// Keys tracked.
    pub keys: usize,
    /// The most keys tracked.
    pub max_keys: usize,
    /// Keys forgotten to make room.
    pub evicted: u64,
    /// Admissions of keys that found no room.
    pub untracked: u64,
}

/// `GET /api/v1/cooldowns?key=`: one key (SPEC 3.10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cooldown {
    /// The key, such as `https://peer.example:443`.
    pub key: String,
    /// Its host.
    pub host: String,
    /// `clear`, `cooling` or `probing`.
    pub state: String,
    /// Clear since a moment ago: requests are let in one by one.
    pub ramping: bool,
    /// `enforce`, `observe` or `off`.
    pub mode: String,
    /// Why it cools.
    pub reason: Option<String>,
    /// Who said how long.
    pub source: Option<String>,
    /// The deadline.
    pub until: Option<String>,
    /// Seconds to the deadline, rounded up; 0 once it has passed.
    pub remaining_seconds: Option<u64>,
    /// When the cooldown started.
    pub opened_at: Option<String>,
    /// The signal as received, printable and cut.
    pub signal: Option<String>,
    /// The wait the signal named, before any bound.
    pub hint_seconds: Option<u64>,
    /// What the operator said when freezing it.
    pub note: Option<String>,
    /// The place on the ladder of signals.
    pub rate_step: u32,
    /// The place on the ladder of failures.
    pub breaker_step: u32,
    /// In a row.
    pub consecutive: Consecutive,
    /// One line about the last signal or failure.
    pub last_error: Option<String>,
    /// The last status a response had.
    pub last_status: Option<u16>,
    /// The last success.
    pub last_success: Option<String>,
    /// The last failure.
    pub last_failure: Option<Failure>,
    /// Until when an operator froze it.
    pub frozen_until: Option<String>,
    /// Whether a request is testing it right now.
    pub probe_out: bool,
    /// Only CONNECT was ever seen: its answers, its 429s among them, are invisible.
    pub only_connect: bool,
    /// Since the key was first seen.
    pub totals: KeyTotals,
}

/// Outcomes in a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Consecutive {
    /// Signals.
    pub limited: u32,
    /// Failures.
    pub failures: u32,
    /// Successes.
    pub successes: u64,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: String,
    /// How.
    pub kind: String,
}

/// Figures of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyTotals {
    /// Signals.
    pub signals: u64,
    /// Failures.
    pub failures: u64,
    /// Cooldowns.
    pub cooldowns: u64,
    /// Probes.
    pub probes: u64,
    /// Successes.
    pub successes: u64,
    /// Requests answered locally: what was saved.
    pub short_circuited: u64,
    /// Requests that mode observe would have answered locally.
    pub would_have: u64,
    /// CONNECT tunnels.
    pub tunnels: u64,
}

/// What a freeze or release did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Whether anything changed.
    pub changed: bool,
    /// One sentence for people.
    pub message: String,
    /// How many cooldowns were ended.
    pub released: usize,
    /// The key now; `null` when all were meant, or it is not known.
    pub cooldown: Option<Cooldown>,
}

/// An error (RFC 9457).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the status says it all.
    pub r#type: String,
    /// The meaning of the status.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What was expected and found.
    pub detail: String,
}

impl Cooldown {
    /// What is shown of a key.
    pub fn new(snapshot: &Snapshot, note: Option<String>, now: Instant, wall: UnixTime) -> Self {
        let Snapshot { view, .. } = snapshot;
        let at = |point| rfc3339(clock::wall_of(point, now, wall));
        let live = view.cooldown.as_ref().filter(|_| view.state != State::Clear);
        Self {
            key: snapshot.key.to_string(),
            host: snapshot.key.host().to_owned(),
            state: view.state.as_str().to_owned(),
            ramping: view.ramping,
            mode: snapshot.mode.as_str().to_owned(),
            reason: live.map(|live| live.reason.as_str().to_owned()),
            source: live.map(|live| live.source.as_str().to_owned()),
            until: live.map(|live| at(live.deadline)),
            remaining_seconds: live.map(|live| ceil_secs(live.deadline.saturating_since(now))),
            opened_at: live.map(|live| at(live.started)),
            signal: live.and_then(|live| live.received.as_deref().map(str::to_owned)),
            hint_seconds: live.and_then(|live| live.hint).map(ceil_secs),
            note: note.filter(|_| view.frozen_until.is_some_and(|until| until > now)),
            rate_step: view.rate_step,
            breaker_step: view.breaker_step,
            consecutive: Consecutive {
                limited: view.limited_in_row,
                failures: view.failures_in_row,
                successes: snapshot.successes_in_row,
            },
            last_error: snapshot.last_error.as_deref().map(str::to_owned),
            last_status: snapshot.last_status,
            last_success: snapshot.last_success.map(at),
            last_failure: view
                .last_failure
                .map(|(when, kind)| Failure { at: at(when), kind: kind.as_str().to_owned() }),
            frozen_until: view.frozen_until.filter(|until| *until > now).map(at),
            probe_out: view.probe_out,
            only_connect: snapshot.only_tunnels,
            totals: KeyTotals {
                signals: view.totals.signals,
                failures: view.totals.failures,
                cooldowns: view.totals.cooldowns,
                probes: view.totals.probes,
                successes: snapshot.successes,
                short_circuited: snapshot.short_circuited,
                would_have: snapshot.would_have,
                tunnels: snapshot.tunnels,
            },
        }
    }
}

/// A wall time as it is shown.
pub fn rfc3339(time: UnixTime) -> String {
    humantime::format_rfc3339_millis(SystemTime::from(time)).to_string()
}
