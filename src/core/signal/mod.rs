//! What a response says about waiting.

use std::time::Duration;

use super::decision::{Reason, Source};

#[cfg(feature = "body")]
pub mod body;
pub mod date;
pub mod grpc;
pub mod rate_limit;
pub mod retry_after;
pub mod vendor;

/// The most bytes kept of a signal as it was received.
pub const MAX_RECEIVED: usize = 80;

/// The longest wait a hint can name, 2^31 seconds (68 years): what a larger number means by RFC 9111 §1.2.2. Every sum
/// of it and a present time can be held.
pub const MAX_WAIT: Duration = Duration::from_secs(1 << 31);

/// A field that says something about waiting. Closed: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// `Retry-After`
    RetryAfter,
    /// `retry-after-ms`
    RetryAfterMs,
    /// `x-ms-retry-after-ms`
    XMsRetryAfterMs,
    /// What the policy names as the end of a window.
    VendorReset,
    /// What the policy names as what is left of a window.
    VendorRemaining,
    /// `RateLimit`
    RateLimit,
    /// `RateLimit-Policy`
    RateLimitPolicy,
    /// `grpc-status`
    GrpcStatus,
    /// `grpc-retry-pushback-ms`
    GrpcRetryPushback,
    /// A body that a rule was to look at.
    Body,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 10] = [
        Self::RetryAfter,
        Self::RetryAfterMs,
        Self::XMsRetryAfterMs,
        Self::VendorReset,
        Self::VendorRemaining,
        Self::RateLimit,
        Self::RateLimitPolicy,
        Self::GrpcStatus,
        Self::GrpcRetryPushback,
        Self::Body,
    ];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RetryAfter => "retry_after",
            Self::RetryAfterMs => "retry_after_ms",
            Self::XMsRetryAfterMs => "x_ms_retry_after_ms",
            Self::VendorReset => "vendor_reset",
            Self::VendorRemaining => "vendor_remaining",
            Self::RateLimit => "rate_limit",
            Self::RateLimitPolicy => "rate_limit_policy",
            Self::GrpcStatus => "grpc_status",
            Self::GrpcRetryPushback => "grpc_retry_pushback_ms",
            Self::Body => "body",
        }
    }
}

/// What was odd about a field, or why it could not be read. Closed: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Not in the form that the field has.
    Malformed,
    /// A number below zero.
    Negative,
    /// Nothing but white space.
    Empty,
    /// A fraction, which the policy does not read.
    Fraction,
    /// A value longer than is read.
    TooLong,
    /// More parts than are read; the first ones were.
    TooMany,
    /// Several fields or parts; the largest wait was taken.
    Duplicate,
    /// A wait beyond [`MAX_WAIT`], which was taken.
    Saturated,
    /// A coding that is not read.
    Unsupported,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Negative,
        Self::Empty,
        Self::Fraction,
        Self::TooLong,
        Self::TooMany,
        Self::Duplicate,
        Self::Saturated,
        Self::Unsupported,
    ];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Negative => "negative",
            Self::Empty => "empty",
            Self::Fraction => "fraction",
            Self::TooLong => "too_long",
            Self::TooMany => "too_many",
            Self::Duplicate => "duplicate",
            Self::Saturated => "saturated",
            Self::Unsupported => "unsupported",
        }
    }

    const fn bit(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::Negative => 2,
            Self::Empty => 4,
            Self::Fraction => 8,
            Self::TooLong => 16,
            Self::TooMany => 32,
            Self::Duplicate => 64,
            Self::Saturated => 128,
            Self::Unsupported => 256,
        }
    }
}

/// A set of causes: each counts once for a response, however often the host wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(u16);

impl Causes {
    /// Adds a cause.
    pub const fn insert(&mut self, cause: Cause) {
        self.0 |= cause.bit();
    }

    /// Whether the cause is in the set.
    pub const fn contains(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// Adds every cause of another set.
    pub const fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Whether nothing was odd.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The causes, in the order of [`Cause::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |cause| self.contains(*cause))
    }
}

/// The wait a response names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The wait, counted from the arrival of the response head. Zero means "no further wait".
    pub wait: Duration,
    /// The field that named it.
    pub source: Source,
}

/// A response that says "slow down".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What it says.
    pub reason: Reason,
    /// The wait it names, if it names one that can be read.
    pub hint: Option<Hint>,
    /// The field as it was received, printable, at most [`MAX_RECEIVED`] bytes; for people only.
    pub received: Option<Box<str>>,
}

/// How an exchange failed (SPEC 2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The name does not resolve.
    Dns,
    /// The host refuses connections.
    Refused,
    /// No connection for another reason than a refusal or time (no route, unreachable).
    Unreachable,
    /// The connection broke before the response head was complete.
    Reset,
    /// A timeout of connect, TLS or head.
    Timeout,
    /// TLS could not be agreed on, or the certificate is not good.
    Tls,
    /// The answer is not HTTP.
    Malformed,
    /// A status that says the host cannot be reached or is not well: 502, 503 without a hint, 504.
    Status(u16),
}

/// How bad a failure is: which of the breaker's ladders counts where a policy tells them apart (SPEC 3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Nobody is there at the moment: a process that starts anew, a route that changes. Often over in an instant.
    Transient,
    /// Somebody is there and does not get on.
    Recoverable,
    /// Somebody is there with whom there is no understanding, or who says so.
    Severe,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Transient, Self::Recoverable, Self::Severe];

    /// The word used in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Recoverable => "recoverable",
            Self::Severe => "severe",
        }
    }
}

impl Failure {
    /// How bad it is.
    pub const fn class(self) -> FailureClass {
        match self {
            Self::Dns | Self::Refused | Self::Unreachable | Self::Reset => FailureClass::Transient,
            Self::Tls | Self::Malformed | Self::Status(503) => FailureClass::Severe,
            Self::Timeout | Self::Status(_) => FailureClass::Recoverable,
        }
    }

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Malformed => "malformed",
            Self::Status(_) => "status",
        }
    }
}

/// The class of one finished exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The host answered the request well; other 4xx count as that.
    Success,
    /// Another 5xx: the host is there, whatever it says.
    Answered,
    /// A tunnel was opened: the host can be reached, and nothing more is known.
    Connected,
    /// The host says "slow down".
    Signal(Signal),
    /// A signal that is no step of the ladder: it opens or extends a cooldown for its hint, or without one opens it for as
    /// long as the first step is. That is what another holdoff on the way passes on, for one signal of the host would be a step at every
    /// one of them (SPEC 2.13); what a rule about bodies says (SPEC 2.11); and a limit of which a host says that others use
    /// it up, too (SPEC 4.3).
    OffLadder(Signal),
    /// The host answered well and said that nothing is left until a time: a success first, then a cooldown for the hint, of
    /// which there is always one (SPEC 2.10).
    Exhausted(Signal),
    /// The host cannot be reached or is not well.
    Failing(Failure),
    /// Nothing about the host: a fault on our or the client's side, or a client that left.
    Neutral,
}

impl Outcome {
    /// The word used in logs and metrics (SPEC §1).
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Success | Self::Connected => "success",
            Self::Answered | Self::Neutral => "neutral",
            Self::Signal(signal) | Self::OffLadder(signal) | Self::Exhausted(signal) => signal.reason.as_str(),
            Self::Failing(_) => "failing",
        }
    }

    /// Whether the host answered well.
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Success | Self::Connected | Self::Exhausted(_))
    }

    /// Whether it is trouble, of which people want to read a line.
    pub const fn is_trouble(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::OffLadder(_) | Self::Failing(_))
    }

    /// What it says about waiting.
    pub const fn signal(&self) -> Option<&Signal> {
        match self {
            Self::Signal(signal) | Self::OffLadder(signal) | Self::Exhausted(signal) => Some(signal),
            _ => None,
        }
    }
}

/// Makes bytes from the wire fit to be shown: printable ASCII only, everything else `?`, at most `limit` bytes.
pub fn printable(bytes: &[u8], limit: usize) -> Box<str> {
    let text: String =
        bytes.iter().take(limit).map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '?' }).collect();
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_logs_and_metrics() {
        assert_eq!(
            Field::ALL.map(Field::as_str),
            [
                "retry_after",
                "retry_after_ms",
                "x_ms_retry_after_ms",
                "vendor_reset",
                "vendor_remaining",
                "rate_limit",
                "rate_limit_policy",
                "grpc_status",
                "grpc_retry_pushback_ms",
                "body"
            ]
        );
        assert_eq!(
            Cause::ALL.map(Cause::as_str),
            [
                "malformed",
                "negative",
                "empty",
                "fraction",
                "too_long",
                "too_many",
                "duplicate",
                "saturated",
                "unsupported"
            ]
        );
        for (failure, word) in [
            (Failure::Dns, "dns"),
            (Failure::Refused, "refused"),
            (Failure::Unreachable, "unreachable"),
            (Failure::Reset, "reset"),
            (Failure::Timeout, "timeout"),
            (Failure::Tls, "tls"),
            (Failure::Malformed, "malformed"),
            (Failure::Status(502), "status"),
        ] {
            assert_eq!(failure.as_str(), word);
        }
        let of = |reason| Signal { reason, hint: None, received: None };
        let signal = Outcome::Signal(of(Reason::Unavailable));
        for (outcome, word) in [
            (Outcome::Success, "success"),
            (Outcome::Connected, "success"),
            (Outcome::Answered, "neutral"),
            (Outcome::Neutral, "neutral"),
            (Outcome::Failing(Failure::Tls), "failing"),
            (signal, "unavailable"),
            (Outcome::OffLadder(of(Reason::BackendBusy)), "backend_busy"),
            (Outcome::Exhausted(of(Reason::QuotaExhausted)), "quota_exhausted"),
        ] {
            assert_eq!(outcome.as_str(), word);
        }
    }

    #[test]
    fn a_set_of_causes_holds_what_was_put_into_it() {
        let mut causes = Causes::default();
        assert!(causes.is_empty());
        for cause in Cause::ALL {
            assert!(!causes.contains(cause), "{cause:?}");
            causes.insert(cause);
            causes.insert(cause);
            assert!(causes.contains(cause) && !causes.is_empty(), "{cause:?}");
        }
        assert_eq!(causes.iter().collect::<Vec<_>>(), Cause::ALL);
    }

    #[test]
    fn a_success_trouble_and_what_names_a_wait_are_told_apart() {
        let signal = Signal { reason: Reason::RateLimited, hint: None, received: None };
        for (outcome, expected) in [
            (Outcome::Success, (true, false, false)),
            (Outcome::Connected, (true, false, false)),
            (Outcome::Answered, (false, false, false)),
            (Outcome::Neutral, (false, false, false)),
            (Outcome::Failing(Failure::Tls), (false, true, false)),
            (Outcome::Signal(signal.clone()), (false, true, true)),
            (Outcome::OffLadder(signal.clone()), (false, true, true)),
            (Outcome::Exhausted(signal), (true, false, true)),
        ] {
            let found = (outcome.is_success(), outcome.is_trouble(), outcome.signal().is_some());
            assert_eq!(found, expected, "{outcome:?}");
        }
    }

    #[test]
    fn clause_3_9_each_failure_has_its_class() {
        for (class, word, failures) in [
            (
                FailureClass::Transient,
                "transient",
                &[Failure::Refused, Failure::Reset, Failure::Dns, Failure::Unreachable][..],
            ),
            (FailureClass::Recoverable, "recoverable", &[Failure::Timeout, Failure::Status(502), Failure::Status(504)]),
            (FailureClass::Severe, "severe", &[Failure::Tls, Failure::Malformed, Failure::Status(503)]),
        ] {
            assert_eq!(class.as_str(), word);
            assert!(failures.iter().all(|failure| failure.class() == class), "{class:?}");
        }
    }
}
