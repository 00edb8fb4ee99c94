//! The JSON of an explanation. The shape is stable: fields may be added, none changes its meaning. `null` stands where there is
//! nothing to say. Durations are seconds as numbers, with at most three digits behind the point. Texts in `why`, `because` and
//! `notes` are for people and may be put better; what a program looks at has a field of its own.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/explain` and `holdoff explain --json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The method that was asked about.
    pub method: String,
    /// The scheme, host and port that were asked about. The path and the query are not repeated: they may be secret.
    pub host: String,
    /// Whether a running sidecar answered, who knows the state of each key.
    pub running: bool,
    /// Which settings hold, and why those.
    pub policy: PolicyPart,
    /// What the request is held against, from wide to narrow.
    pub keys: Vec<KeyPart>,
    /// The response that was asked about.
    pub response: Option<ResponsePart>,
    /// What it would start.
    pub effect: Option<Effect>,
    /// The same answer, again and again.
    pub schedule: Option<Schedule>,
    /// What the program sees while the key cools.
    pub meanwhile: Option<Meanwhile>,
    /// What else is good to know.
    pub notes: Vec<String>,
}

/// Which settings hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyPart {
    /// The `[[host]]` that applies; `null`: `[defaults]`.
    pub matched: Option<Matched>,
    /// Others that fit, but are less specific; the first few.
    pub less_specific: Vec<Matched>,
    /// The preset.
    pub preset: Option<String>,
    /// `enforce`, `observe` or `off`.
    pub mode: String,
    /// `answer` or `close`.
    pub on_cooldown: String,
}

/// A `[[host]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The pattern that fits, as written.
    pub pattern: String,
    /// The paths that the table is for; empty: all.
    pub paths: Vec<String>,
    /// Where the table is: `holdoff.toml:12`.
    pub place: Option<String>,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPart {
    /// The key, as in `holdoff status`.
    pub key: String,
    /// `host`, `paths`, `group`, `level`, or `bucket`, which the host names in its answers.
    pub kind: String,
    /// Of a level or a bucket, the name of the level.
    pub level: Option<String>,
    /// Of a level, by what it tells requests apart.
    pub by: Vec<String>,
    /// Whether the response is about this key.
    pub is_target: bool,
    /// What a running sidecar knows of it; `null` offline, and where nothing is known.
    pub state: Option<KeyState>,
}

/// What is known of a key now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyState {
    /// `clear`, `cooling` or `probing`.
    pub state: String,
    /// Why it cools.
    pub reason: Option<String>,
    /// Seconds to the deadline; 0 once it has passed.
    pub remaining_seconds: Option<f64>,
    /// The place on the ladder of signals.
    pub rate_step: u32,
    /// The place on the ladder of failures.
    pub breaker_step: u32,
    /// Failures in a row.
    pub failures_in_row: u32,
    /// Whether an operator froze it.
    pub frozen: bool,
    /// One line about the last signal or failure.
    pub last_error: Option<String>,
}

/// How a response is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponsePart {
    /// `429`, or the word of a failure: `timeout`.
    pub given: String,
    /// `success`, `neutral`, `failing`, or the reason of a cooldown.
    pub outcome: String,
    /// Why it is that.
    pub why: String,
    /// The wait that the host names, before any bound.
    pub hint_seconds: Option<f64>,
    /// Which family of fields named it.
    pub source: Option<String>,
    /// Whether it climbs the ladder.
    pub climbs: bool,
    /// The key that it is about, and why that.
    pub target: String,
    /// Why.
    pub because: String,
    /// The fields about waiting that were given.
    pub fields: Vec<FieldPart>,
    /// What was odd.
    pub problems: Vec<Problem>,
    /// The host's clock minus ours, where the response tells it.
    pub clock_offset_seconds: Option<f64>,
}

/// A field about waiting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldPart {
    /// Its name.
    pub name: String,
    /// Its value, printable and cut.
    pub value: String,
    /// The wait that it names.
    pub wait_seconds: Option<f64>,
    /// Whether it is the one that counts.
    pub decides: bool,
    /// Why it does or does not.
    pub because: String,
}

/// Something odd about a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// As in the metrics.
    pub field: String,
    /// As in the metrics.
    pub cause: String,
}

/// What a response would start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// `starts`: a cooldown starts; `counts`: it is only counted; `clears`: the key is clear; `nothing`.
    pub what: String,
    /// In a sentence.
    pub why: String,
    /// How long the cooldown lasts, without jitter.
    pub length_seconds: Option<f64>,
    /// With the least and with the most jitter.
    pub jitter_seconds: Option<[f64; 2]>,
    /// Each bound that made the cooldown what it is.
    pub bounds: Vec<Bound>,
}

/// A bound that mattered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// The configuration key: `cooldown.max_retry_after`.
    pub key: String,
    /// Its value.
    pub seconds: f64,
    /// How long the cooldown would be without it; `null`: without any bound.
    pub without_seconds: Option<f64>,
}

/// The same answer, again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Seconds until the first answer can come: what the key still cools now.
    pub starts_in_seconds: f64,
    /// One row an answer.
    pub rows: Vec<Row>,
    /// Seconds that are waited in all, from the first answer.
    pub total_seconds: f64,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which answer this is, from 1.
    pub answer: u32,
    /// Seconds from the first answer to this one.
    pub at_seconds: f64,
    /// The step of the ladder that it climbs to; 0: none.
    pub step: u32,
    /// How long the key cools then; `null`: it does not.
    pub length_seconds: Option<f64>,
    /// What decided the length: `retry_after_seconds`, `ladder` and the like, as in `holdoff status`.
    pub decided_by: Option<String>,
    /// The configuration keys of the bounds that mattered.
    pub bounds: Vec<String>,
    /// Failures in a row, where the breaker counts them.
    pub failures: Option<u32>,
}

/// What the program sees while the key cools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meanwhile {
    /// `answered`, `closed`, or `forwarded` (mode observe or off).
    pub what: String,
    /// The status, if there is an answer.
    pub status: Option<u16>,
    /// Its `Retry-After` right after the start.
    pub retry_after: Option<u64>,
    /// Its `Holdoff`.
    pub holdoff: Option<String>,
}

/// Seconds as they are shown: whole milliseconds.
pub(super) fn seconds(length: std::time::Duration) -> f64 {
    // Half a millisecond more, so that what a factor lost comes back.
    let millis = length.saturating_add(std::time::Duration::from_micros(500)).as_millis();
    #[expect(clippy::cast_precision_loss, reason = "a float holds the milliseconds of 285 000 years exactly")]
    let millis = millis as f64;
    millis / 1000.0
}
