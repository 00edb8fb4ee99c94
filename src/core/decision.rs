//! What is asked of a key and what it answers: the words that every adapter shares.

use std::time::Duration;

use super::time::Instant;

/// Why a key cools (SPEC §1: a closed set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The host said that it limits us (429 and what the policy adds).
    RateLimited,
    /// The host said that it is not available for a named time (503 with a hint).
    Unavailable,
    /// A body rule matched.
    BackendBusy,
    /// A good answer announced that nothing is left until a reset.
    QuotaExhausted,
    /// The breaker opened.
    Failing,
    /// An operator froze the key.
    Manual,
}

impl Reason {
    /// Every reason, in the order of their codes.
    pub const ALL: [Self; 6] =
        [Self::RateLimited, Self::Unavailable, Self::BackendBusy, Self::QuotaExhausted, Self::Failing, Self::Manual];

    /// The word used in answers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::BackendBusy => "backend_busy",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Failing => "failing",
            Self::Manual => "manual",
        }
    }

    /// Whether connecting proves something about this reason: then a tunnel may be the probe (SPEC 7.3).
    pub const fn is_about_reachability(self) -> bool {
        matches!(self, Self::Failing | Self::Manual)
    }
}

/// Who said how long a key cools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// `Retry-After` in seconds.
    RetryAfterSeconds,
    /// `Retry-After` as a date.
    RetryAfterDate,
    /// `retry-after-ms` or `x-ms-retry-after-ms`.
    RetryAfterMs,
    /// A field of the vendor's that the policy names.
    VendorReset,
    /// `grpc-retry-pushback-ms`.
    GrpcPushback,
    /// `RateLimit`.
    RateLimit,
    /// Our own ladder: no hint, or a hint shorter than the ladder.
    Ladder,
    /// The breaker's ladder.
    Breaker,
    /// A rule about bodies.
    BodyRule,
    /// Another sidecar of the fleet.
    Fleet,
    /// A person.
    Operator,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 11] = [
        Self::RetryAfterSeconds,
        Self::RetryAfterDate,
        Self::RetryAfterMs,
        Self::VendorReset,
        Self::GrpcPushback,
        Self::RateLimit,
        Self::Ladder,
        Self::Breaker,
        Self::BodyRule,
        Self::Fleet,
        Self::Operator,
    ];

    /// The word used in status, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RetryAfterSeconds => "retry_after_seconds",
            Self::RetryAfterDate => "retry_after_date",
            Self::RetryAfterMs => "retry_after_ms",
            Self::VendorReset => "vendor_reset",
            Self::GrpcPushback => "grpc_pushback",
            Self::RateLimit => "rate_limit",
            Self::Ladder => "ladder",
            Self::Breaker => "breaker",
            Self::BodyRule => "body_rule",
            Self::Fleet => "fleet",
            Self::Operator => "operator",
        }
    }
}

/// The state of a key as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Requests pass (a circuit breaker's "closed").
    Clear,
    /// Requests are answered locally until the deadline ("open").
    Cooling,
    /// The deadline has passed; one request at a time tests the host ("half-open").
    Probing,
}

impl State {
    /// The word used in status, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Cooling => "cooling",
            Self::Probing => "probing",
        }
    }
}

/// What wants to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A request whose response we read.
    #[default]
    Request,
    /// A CONNECT tunnel: opaque, so that only reaching the host proves anything.
    Tunnel,
    /// A CONNECT whose TLS ends at us: the requests inside ask for themselves. It is kept out of a cooldown, and proves
    /// nothing at all: it is never the probe and never waits for one.
    Session,
}

/// What an admission lets pass, and what its outcome may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionKind {
    /// An ordinary request to a clear key.
    Plain,
    /// A request to a key that has just cleared; it occupies a place of the ramp.
    Ramp,
    /// The one request that tests a host after its cooldown, with its number inside the epoch.
    Probe(u32),
}

/// Proof that a key let something pass, to be handed back with what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub(crate) epoch: u64,
    pub(crate) kind: AdmissionKind,
    pub(crate) purpose: Purpose,
}

impl Admission {
    /// The epoch of the key at admission.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Plain, ramp or probe.
    pub const fn kind(&self) -> AdmissionKind {
        self.kind
    }
}

/// The answer of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may pass, and its outcome counts.
    Forward(Admission),
    /// It may pass, and its outcome says nothing about this key (a session; a tunnel after a rate limit).
    Pass,
    /// It must not pass.
    ShortCircuit(NotUntil),
}

/// A refusal: not before a time, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUntil {
    /// When the key may be asked again.
    pub until: Instant,
    /// The time from now to then; at least a nanosecond.
    pub wait: Duration,
    /// Why.
    pub reason: Reason,
    /// Cooling; probing while a probe is out; clear when the ramp is full.
    pub state: State,
}

/// What a person did to a key by a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// The key is frozen until then.
    Set {
        /// The deadline.
        until: Instant,
    },
    /// The key is already left alone for longer, so nothing changed.
    AlreadyLonger {
        /// Until when.
        until: Instant,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_answers_logs_and_metrics() {
        assert_eq!(
            Reason::ALL.map(Reason::as_str),
            ["rate_limited", "unavailable", "backend_busy", "quota_exhausted", "failing", "manual"]
        );
        assert_eq!(
            Source::ALL.map(Source::as_str),
            [
                "retry_after_seconds",
                "retry_after_date",
                "retry_after_ms",
                "vendor_reset",
                "grpc_pushback",
                "rate_limit",
                "ladder",
                "breaker",
                "body_rule",
                "fleet",
                "operator"
            ]
        );
        assert_eq!([State::Clear, State::Cooling, State::Probing].map(State::as_str), ["clear", "cooling", "probing"]);
    }

    #[test]
    fn an_admission_says_what_it_was_made_with() {
        let admission = Admission { epoch: 7, kind: AdmissionKind::Probe(3), purpose: Purpose::Tunnel };
        assert_eq!((admission.epoch(), admission.kind()), (7, AdmissionKind::Probe(3)));
    }
}
