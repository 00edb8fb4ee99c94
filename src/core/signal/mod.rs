//! What a response says about waiting.

use std::time::Duration;

use super::decision::{Reason, Source};

#[cfg(feature = "body")]
pub mod body;
pub mod date;
pub mod grpc;
pub mod retry_after;

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
    /// `grpc-status`
    GrpcStatus,
    /// `grpc-retry-pushback-ms`
    GrpcRetryPushback,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 3] = [Self::RetryAfter, Self::GrpcStatus, Self::GrpcRetryPushback];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RetryAfter => "retry_after",
            Self::GrpcStatus => "grpc_status",
            Self::GrpcRetryPushback => "grpc_retry_pushback_ms",
        }
    }
}

/// What was odd about a field, or why it could not be read. Closed: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Neither a number of seconds nor a date.
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
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Negative,
        Self::Empty,
        Self::Fraction,
        Self::TooLong,
        Self::TooMany,
        Self::Duplicate,
        Self::Saturated,
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
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Negative => 2,
            Self::Empty => 4,
            Self::Fraction => 8,
            Self::TooLong => 16,
            Self::TooMany => 32,
            Self::Duplicate => 64,
            Self::Saturated => 128,
        }
    }
}

/// A set of causes: each counts once for a response, however often the host wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(u8);

impl Causes {
    /// Adds a cause.
    pub const fn insert(&mut self, cause: Cause) {
        self.0 |= cause.bit();
    }

    /// Whether the cause is in the set.
    pub const fn contains(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
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

impl Failure {
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
    /// Another holdoff on the way says "slow down", from what it was told itself: only the hint counts, of which there is
    /// always one (SPEC 2.13). It opens or extends a cooldown and is no step of the ladder, for one signal of the host
    /// would be a step at every holdoff that passes it on.
    Relayed(Signal),
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
            Self::Signal(signal) | Self::Relayed(signal) => signal.reason.as_str(),
            Self::Failing(_) => "failing",
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
        assert_eq!(Field::ALL.map(Field::as_str), ["retry_after", "grpc_status", "grpc_retry_pushback_ms"]);
        assert_eq!(
            Cause::ALL.map(Cause::as_str),
            ["malformed", "negative", "empty", "fraction", "too_long", "too_many", "duplicate", "saturated"]
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
        let signal = Outcome::Signal(Signal { reason: Reason::Unavailable, hint: None, received: None });
        for (outcome, word) in [
            (Outcome::Success, "success"),
            (Outcome::Connected, "success"),
            (Outcome::Answered, "neutral"),
            (Outcome::Neutral, "neutral"),
            (Outcome::Failing(Failure::Tls), "failing"),
            (signal, "unavailable"),
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
}
