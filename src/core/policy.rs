//! The checked settings of a key: what counts as a signal, how long a cooldown lasts, when the breaker opens.
//!
//! A policy is plain data. [`Policy::check`] is the one place that says which values make sense together; whatever passes
//! it cannot make the state machine panic, loop or shorten a wait.

use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderName, Method, StatusCode};

use super::signal::FailureClass;
use super::signal::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY};
use super::signal::retry_after::{RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};

/// What holdoff does with its decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Decide, and act on it.
    #[default]
    Enforce,
    /// Decide and count, but forward everything.
    Observe,
    /// Neither read signals nor act on cooldowns; only a freeze is enforced.
    Off,
}

impl Mode {
    /// The word used in configuration, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// The checked settings of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What holdoff does with its decisions.
    pub mode: Mode,
    /// What counts as a signal.
    pub signals: SignalRules,
    /// How long a cooldown lasts and how it ends.
    pub cooldown: CooldownLimits,
    /// When failures open a cooldown of their own.
    pub breaker: BreakerLimits,
}

/// What counts as a signal.
#[derive(Clone, Debug, PartialEq)]
pub struct SignalRules {
    /// Statuses that are `rate_limited`. Default 429.
    pub statuses: Vec<StatusCode>,
    /// Statuses that are `unavailable` when they carry a hint. Default 503.
    pub unavailable: Vec<StatusCode>,
    /// Statuses that are `rate_limited` when they carry a hint, and read as if they were not named here without one: a 403
    /// that may as well mean that something is forbidden. Default none.
    pub limited_with_hint: Vec<StatusCode>,
    /// What a `rate_limited` status without any hint does. Default [`Hintless::Cool`].
    pub hintless: Hintless,
    /// Whether hints are taken at their word. `false`: only the ladder counts. Default `true`.
    pub trust_hints: bool,
    /// Whether `Retry-After: 1.5` is read, rounded up. Default `false`: it is malformed.
    pub fractional_seconds: bool,
    /// Whether a good answer which says that nothing is left cools the key until more is there. Default `false`.
    pub proactive: bool,
    /// Methods whose signals say nothing about the key. Default none.
    pub ignore_methods: Vec<Method>,
    /// The vendor's own fields about waiting. Default none.
    pub fields: Vec<FieldRule>,
    /// Fields that say what a signal is about, the first that fits. Default none.
    pub scopes: Vec<ScopeRule>,
}

/// A vendor's field that names a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The field that says when the window ends.
    pub reset: HeaderName,
    /// How it says so.
    pub unit: Unit,
    /// The field that says how much is left of the window, which counts only when that is nothing. Without one the window
    /// counts on every answer whose status may be a signal, and never on a good one.
    pub remaining: Option<HeaderName>,
}

/// How a field writes a time. It is declared, never guessed by the size of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of seconds from now: `64.57`
    Seconds,
    /// A number of milliseconds from now: `1500`
    Milliseconds,
    /// Seconds since 1970: `1470173023.123`
    EpochSeconds,
    /// Milliseconds since 1970: `1470173023123`
    EpochMilliseconds,
    /// A time from now with units: `6m0s`, `8.64s`, `17ms`
    Duration,
    /// A time of ISO 8601: a point in time with an offset from UTC, or a time from now such as `PT1M30S`
    Iso8601,
    /// A point in time of RFC 3339: `2026-11-20T10:00:00Z`
    Rfc3339,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 7] = [
        Self::Seconds,
        Self::Milliseconds,
        Self::EpochSeconds,
        Self::EpochMilliseconds,
        Self::Duration,
        Self::Iso8601,
        Self::Rfc3339,
    ];

    /// The word used in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::EpochSeconds => "epoch_seconds",
            Self::EpochMilliseconds => "epoch_milliseconds",
            Self::Duration => "duration",
            Self::Iso8601 => "iso8601",
            Self::Rfc3339 => "rfc3339",
        }
    }
}

/// A field by which a signal says what it is about (SPEC 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRule {
    /// The field.
    pub field: HeaderName,
    /// Its value, whatever the case of its letters.
    pub equals: Box<str>,
    /// What such a signal is about: `host`, or the name of a level.
    pub level: Box<str>,
    /// Whether it climbs the ladder. `false`: its hint counts, and without one it is a signal like others.
    pub step: bool,
}

impl Default for SignalRules {
    fn default() -> Self {
        Self {
            statuses: vec![StatusCode::TOO_MANY_REQUESTS],
            unavailable: vec![StatusCode::SERVICE_UNAVAILABLE],
            limited_with_hint: Vec::new(),
            hintless: Hintless::Cool,
            trust_hints: true,
            fractional_seconds: false,
            proactive: false,
            ignore_methods: Vec::new(),
            fields: Vec::new(),
            scopes: Vec::new(),
        }
    }
}

/// What a `rate_limited` status without any hint does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hintless {
    /// It cools the key by the ladder.
    #[default]
    Cool,
    /// It means the one request and is neutral for the key.
    Ignore,
}

/// Which ladder repeated signals climb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ladder {
    /// The first step is the hint, the bound `max_overwait`; without a hint as [`Ladder::Fixed`].
    #[default]
    FromHint,
    /// The first step is always `default_cooldown`, the bound `max_backoff`.
    Fixed,
    /// There is no ladder: the step is always the first.
    Off,
}

/// How long a cooldown lasts and how it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct CooldownLimits {
    /// The shortest cooldown, and the shortest time from one lost probe to the next. Default 1 s.
    pub min_cooldown: Duration,
    /// The first step without a hint. Default 60 s.
    pub default_cooldown: Duration,
    /// The factor from step to step, 1.0 to 100.0. Default 2.0.
    pub growth: f64,
    /// The bound of our own guesses. Default 30 min.
    pub max_backoff: Duration,
    /// How far the ladder may go past a host that names its time. Default 60 s.
    pub max_overwait: Duration,
    /// The bound of the host's word. Default 1 h.
    pub max_retry_after: Duration,
    /// Which ladder repeated signals climb. Default [`Ladder::FromHint`].
    pub ladder: Ladder,
    /// The share (0.0 to 1.0) by which an own guess may be longer or shorter. Default 0.
    pub jitter: f64,
    /// Whether a hint is lengthened by up to min(10 %, 30 s). Default `true`.
    pub hint_jitter: bool,
    /// How long a probe holds its slot. Default 30 s.
    pub probe_lease: Duration,
    /// How many probes must succeed before the key is clear, at least 1. Default 1.
    pub success_threshold: u32,
    /// How long after clearing requests are let in one by one. Default 10 s, zero is off.
    pub ramp: Duration,
    /// The shortest time without a signal after which the ladder starts anew. Default 10 min.
    pub quiet_time: Duration,
}

impl Default for CooldownLimits {
    fn default() -> Self {
        Self {
            min_cooldown: Duration::from_secs(1),
            default_cooldown: Duration::from_secs(60),
            growth: 2.0,
            max_backoff: Duration::from_secs(30 * 60),
            max_overwait: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(60 * 60),
            ladder: Ladder::FromHint,
            jitter: 0.0,
            hint_jitter: true,
            probe_lease: Duration::from_secs(30),
            success_threshold: 1,
            ramp: Duration::from_secs(10),
            quiet_time: Duration::from_secs(10 * 60),
        }
    }
}

/// When failures open a cooldown of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerLimits {
    /// How many failures in a row open it, 0 (off) to 1000. Default 0.
    pub failure_threshold: u32,
    /// The time inside which they must fall; zero is no bound. Default 60 s.
    pub failure_window: Duration,
    /// The first step of its ladder. Default 1 s.
    pub initial: Duration,
    /// The factor from step to step, 1.0 to 100.0. Default 2.0.
    pub growth: f64,
    /// The bound of its ladder. Default 60 s.
    pub max: Duration,
    /// Whether the class of the failure that opens it chooses the ladder, instead of the three values above. Default
    /// `false`.
    pub classes: bool,
}

/// A ladder of the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerLadder {
    /// The first step.
    pub initial: Duration,
    /// The factor from step to step.
    pub growth: f64,
    /// The bound.
    pub max: Duration,
}

impl BreakerLadder {
    // The figures are those of peat-mesh, a mesh whose sync sorts its errors like this (its `RetryPolicy` by severity).

    /// For [`FailureClass::Transient`].
    pub const TRANSIENT: Self = Self { initial: Duration::from_millis(50), growth: 1.5, max: Duration::from_secs(5) };

    /// For [`FailureClass::Recoverable`].
    pub const RECOVERABLE: Self =
        Self { initial: Duration::from_millis(100), growth: 2.0, max: Duration::from_secs(30) };

    /// For [`FailureClass::Severe`].
    pub const SEVERE: Self = Self { initial: Duration::from_secs(1), growth: 3.0, max: Duration::from_secs(60) };
}

impl BreakerLimits {
    /// The longest cooldown that it can open.
    pub fn longest(&self) -> Duration {
        FailureClass::ALL.map(|class| self.ladder(class).max).into_iter().fold(Duration::ZERO, Duration::max)
    }

    /// The ladder that a failure of `class` climbs.
    pub const fn ladder(&self, class: FailureClass) -> BreakerLadder {
        match class {
            _ if !self.classes => BreakerLadder { initial: self.initial, growth: self.growth, max: self.max },
            FailureClass::Transient => BreakerLadder::TRANSIENT,
            FailureClass::Recoverable => BreakerLadder::RECOVERABLE,
            FailureClass::Severe => BreakerLadder::SEVERE,
        }
    }
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            failure_threshold: 0,
            failure_window: Duration::from_secs(60),
            initial: Duration::from_secs(1),
            growth: 2.0,
            max: Duration::from_secs(60),
            classes: false,
        }
    }
}

/// The longest freeze an operator may set.
pub const MAX_FREEZE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The highest `failure_threshold`: the breaker remembers that many times.
pub const MAX_FAILURE_THRESHOLD: u32 = 1000;

/// The most `fields`, and the most `scopes`, that a policy may name: each is looked for in every signal.
pub const MAX_FIELD_RULES: usize = 32;

impl Policy {
    /// Checks that the values make sense by themselves and together.
    ///
    /// # Errors
    /// The first value that does not, by its configuration key, with what was expected.
    pub fn check(&self) -> Result<(), PolicyError> {
        let Self { mode: _, signals: s, cooldown: c, breaker: b } = self;
        let error = |key, expected| Err(PolicyError { key, expected });
        if c.min_cooldown.is_zero() {
            return error(
                "cooldown.min_cooldown",
                "more than 0s; without a floor a peer that answers `Retry-After: 0` would be asked without end",
            );
        }
        for (key, cap) in [
            ("cooldown.max_backoff", c.max_backoff),
            ("cooldown.max_overwait", c.max_overwait),
            ("cooldown.max_retry_after", c.max_retry_after),
        ] {
            if c.min_cooldown > cap {
                return error(key, "at least `cooldown.min_cooldown`");
            }
        }
        if c.default_cooldown > c.max_backoff {
            return error("cooldown.default_cooldown", "at most `cooldown.max_backoff`");
        }
        if !(1.0..=100.0).contains(&c.growth) {
            return error("cooldown.growth", "a number from 1.0 to 100.0");
        }
        if !(0.0..=1.0).contains(&c.jitter) {
            return error("cooldown.jitter", "a share from 0.0 to 1.0 (0.1 is 10 %)");
        }
        if c.probe_lease.is_zero() {
            return error("cooldown.probe_lease", "more than 0s");
        }
        if c.success_threshold == 0 {
            return error("cooldown.success_threshold", "at least 1");
        }
        if b.failure_threshold > MAX_FAILURE_THRESHOLD {
            return error("breaker.failure_threshold", "0 (off) to 1000");
        }
        if b.initial.is_zero() {
            return error("breaker.initial", "more than 0s");
        }
        if b.initial > b.max {
            return error("breaker.initial", "at most `breaker.max`");
        }
        if !(1.0..=100.0).contains(&b.growth) {
            return error("breaker.growth", "a number from 1.0 to 100.0");
        }
        s.check()
    }
}

impl SignalRules {
    fn check(&self) -> Result<(), PolicyError> {
        let error = |key, expected| Err(PolicyError { key, expected });
        let named = self.statuses.iter().chain(&self.unavailable).map(|status| ("signals.statuses", status));
        let with_hint = self.limited_with_hint.iter().map(|status| ("signals.limited_with_hint", status));
        for (key, status) in named.chain(with_hint) {
            if *status == StatusCode::UNAUTHORIZED {
                return error(key, "any status but 401, which asks for credentials and says nothing about load");
            }
            if !(status.is_client_error() || status.is_server_error()) {
                return error(key, "statuses from 400 to 599");
            }
        }
        if self.statuses.iter().any(|status| self.unavailable.contains(status)) {
            return error("signals.unavailable", "no status that `signals.statuses` also names");
        }
        if self.limited_with_hint.iter().any(|status| self.statuses.contains(status)) {
            return error("signals.limited_with_hint", "no status that `signals.statuses` also names");
        }
        if self.limited_with_hint.iter().any(|status| self.unavailable.contains(status)) {
            return error("signals.limited_with_hint", "no status that `signals.unavailable` also names");
        }
        if self.fields.len() > MAX_FIELD_RULES {
            return error("signals.fields", "at most 32 of them");
        }
        for (at, rule) in self.fields.iter().enumerate() {
            if cfg!(not(feature = "fields")) && matches!(rule.unit, Unit::Duration | Unit::Iso8601 | Unit::Rfc3339) {
                return error("signals.fields", "a `unit` of numbers; the feature `fields` reads what is written out");
            }
            if KNOWN_FIELDS.contains(&rule.reset) {
                return error("signals.fields", "fields that are not read anyway, as this `reset` is");
            }
            if rule.remaining.as_ref() == Some(&rule.reset) {
                return error("signals.fields", "one field as `reset` and another one as `remaining`");
            }
            if self.fields.iter().take(at).any(|other| other.reset == rule.reset && other.unit != rule.unit) {
                return error("signals.fields", "one `unit` for a field, wherever it is named as `reset`");
            }
        }
        if self.scopes.len() > MAX_FIELD_RULES {
            return error("signals.scopes", "at most 32 of them");
        }
        for rule in &self.scopes {
            if rule.equals.trim_ascii().is_empty() {
                return error("signals.scopes", "a value in `equals`");
            }
            if rule.level.is_empty() {
                return error("signals.scopes", "`host` or the name of a level in `level`");
            }
        }
        Ok(())
    }
}

/// Fields that name a wait without being told of.
const KNOWN_FIELDS: [HeaderName; 5] = [RETRY_AFTER, RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS, RATE_LIMIT, RATE_LIMIT_POLICY];

/// A value of a policy that does not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The configuration key, below `[defaults]` or a `[[host]]`.
    pub key: &'static str,
    /// What was expected of it.
    pub expected: &'static str,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: expected {}", self.key, self.expected)
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Policy)) -> &'static str {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.check().unwrap_err().key
    }

    #[test]
    fn the_defaults_pass() {
        Policy::default().check().unwrap();
    }

    #[test]
    fn a_floor_of_zero_or_above_a_cap_is_refused() {
        assert_eq!(refused(|p| p.cooldown.min_cooldown = Duration::ZERO), "cooldown.min_cooldown");
        assert_eq!(refused(|p| p.cooldown.min_cooldown = Duration::from_secs(61)), "cooldown.max_overwait");
        assert_eq!(refused(|p| p.cooldown.max_retry_after = Duration::from_millis(1)), "cooldown.max_retry_after");
        assert_eq!(refused(|p| p.cooldown.max_backoff = Duration::from_millis(1)), "cooldown.max_backoff");
        assert_eq!(refused(|p| p.cooldown.default_cooldown = Duration::from_secs(7200)), "cooldown.default_cooldown");
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert_eq!(refused(|p| p.cooldown.growth = 0.5), "cooldown.growth");
        assert_eq!(refused(|p| p.cooldown.growth = f64::NAN), "cooldown.growth");
        assert_eq!(refused(|p| p.cooldown.jitter = 1.5), "cooldown.jitter");
        assert_eq!(refused(|p| p.cooldown.probe_lease = Duration::ZERO), "cooldown.probe_lease");
        assert_eq!(refused(|p| p.cooldown.success_threshold = 0), "cooldown.success_threshold");
        assert_eq!(refused(|p| p.breaker.failure_threshold = 1001), "breaker.failure_threshold");
        assert_eq!(refused(|p| p.breaker.initial = Duration::ZERO), "breaker.initial");
        assert_eq!(refused(|p| p.breaker.initial = Duration::from_secs(61)), "breaker.initial");
        assert_eq!(refused(|p| p.breaker.growth = 0.0), "breaker.growth");
    }

    #[test]
    fn statuses_that_say_nothing_about_load_are_refused() {
        assert_eq!(refused(|p| p.signals.statuses.push(StatusCode::UNAUTHORIZED)), "signals.statuses");
        assert_eq!(refused(|p| p.signals.statuses.push(StatusCode::OK)), "signals.statuses");
        assert_eq!(refused(|p| p.signals.unavailable.push(StatusCode::TOO_MANY_REQUESTS)), "signals.unavailable");
        for status in [401, 200, 429, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refused(|p| p.signals.limited_with_hint.push(status)), "signals.limited_with_hint", "{status}");
        }
    }

    #[test]
    fn values_at_their_bounds_pass() {
        let mut policy = Policy::default();
        policy.cooldown.min_cooldown = policy.cooldown.max_overwait;
        policy.cooldown.default_cooldown = policy.cooldown.max_backoff;
        policy.breaker.failure_threshold = MAX_FAILURE_THRESHOLD;
        policy.breaker.initial = policy.breaker.max;
        (policy.cooldown.growth, policy.cooldown.jitter, policy.breaker.growth) = (100.0, 1.0, 1.0);
        policy.signals.statuses.extend([StatusCode::BAD_REQUEST, StatusCode::from_u16(599).unwrap()]);
        policy.check().unwrap();
        policy.cooldown.max_retry_after = policy.cooldown.min_cooldown;
        policy.cooldown.default_cooldown = policy.cooldown.min_cooldown;
        policy.cooldown.max_backoff = policy.cooldown.min_cooldown;
        policy.check().unwrap();
    }

    #[test]
    fn an_error_names_the_key_and_what_was_expected() {
        let mut policy = Policy::default();
        policy.cooldown.success_threshold = 0;
        let error = policy.check().unwrap_err();
        assert_eq!(error.to_string(), "`cooldown.success_threshold`: expected at least 1");
    }

    #[test]
    fn modes_have_the_words_of_the_configuration() {
        assert_eq!([Mode::Enforce, Mode::Observe, Mode::Off].map(Mode::as_str), ["enforce", "observe", "off"]);
    }

    fn field(reset: &'static str, remaining: Option<&'static str>) -> FieldRule {
        FieldRule {
            reset: HeaderName::from_static(reset),
            unit: Unit::Seconds,
            remaining: remaining.map(HeaderName::from_static),
        }
    }

    #[test]
    fn fields_that_contradict_each_other_are_refused() {
        for name in ["retry-after", "retry-after-ms", "x-ms-retry-after-ms", "ratelimit", "ratelimit-policy"] {
            assert_eq!(refused(|p| p.signals.fields.push(field(name, None))), "signals.fields", "{name}");
        }
        assert_eq!(refused(|p| p.signals.fields.push(field("x-reset", Some("x-reset")))), "signals.fields");
        assert_eq!(refused(|p| p.signals.fields = vec![field("x-reset", None); 33]), "signals.fields");
        let other_unit = FieldRule { unit: Unit::EpochSeconds, ..field("x-reset", Some("x-left")) };
        assert_eq!(refused(|p| p.signals.fields = vec![field("x-reset", None), other_unit.clone()]), "signals.fields");
        let mut policy = Policy::default();
        policy.signals.fields = vec![field("x-reset", Some("x-left")); MAX_FIELD_RULES];
        policy.signals.limited_with_hint = vec![StatusCode::FORBIDDEN];
        policy.check().unwrap();
    }

    #[test]
    fn a_scope_needs_a_value_and_a_level() {
        let scope = |equals: &str, level: &str| ScopeRule {
            field: HeaderName::from_static("x-ratelimit-scope"),
            equals: equals.into(),
            level: level.into(),
            step: false,
        };
        assert_eq!(refused(|p| p.signals.scopes.push(scope(" ", "host"))), "signals.scopes");
        assert_eq!(refused(|p| p.signals.scopes.push(scope("global", ""))), "signals.scopes");
        assert_eq!(refused(|p| p.signals.scopes = vec![scope("global", "host"); 33]), "signals.scopes");
        let mut policy = Policy::default();
        policy.signals.scopes = vec![scope("global", "host"); MAX_FIELD_RULES];
        policy.check().unwrap();
    }

    #[test]
    fn units_have_the_words_of_the_configuration() {
        assert_eq!(
            Unit::ALL.map(Unit::as_str),
            ["seconds", "milliseconds", "epoch_seconds", "epoch_milliseconds", "duration", "iso8601", "rfc3339"]
        );
    }
}
