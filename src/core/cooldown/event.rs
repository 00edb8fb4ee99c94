//! What a call to the state machine changed, as values.

use std::time::Duration;

use crate::core::decision::{Reason, Source, State};
use crate::core::time::Instant;

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The key began to cool.
    Started {
        /// The state it was in.
        from: State,
        /// Why.
        reason: Reason,
        /// Who said how long.
        source: Source,
        /// The deadline.
        until: Instant,
        /// From now to the deadline.
        length: Duration,
        /// The place on the ladder that counts for the reason; 0 when the signal does not climb.
        step: u32,
        /// The hint was cut by `max_retry_after`.
        clamped: bool,
        /// The signal as received.
        received: Option<Box<str>>,
    },
    /// The live cooldown got a later deadline.
    Extended {
        /// Why.
        reason: Reason,
        /// Who said so.
        source: Source,
        /// The new deadline.
        until: Instant,
        /// From now to the deadline.
        length: Duration,
        /// The hint was cut by `max_retry_after`.
        clamped: bool,
        /// The signal as received.
        received: Option<Box<str>>,
    },
    /// A probe was let through.
    ProbeStarted {
        /// The state before: cooling for the first probe after a deadline.
        from: State,
        /// The reason of the cooldown it tests.
        reason: Reason,
    },
    /// A probe ended, or lost its slot.
    ProbeEnded(ProbeResult),
    /// The key is clear again.
    Ended {
        /// The reason of the cooldown that ended.
        reason: Reason,
        /// The state before.
        from: State,
        /// What ended it.
        cause: EndCause,
    },
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeResult {
    /// It succeeded.
    Success,
    /// Another 5xx: the host is there.
    Answered,
    /// The host said "slow down" again.
    Limited,
    /// The host failed.
    Failed,
    /// Nothing was learned about the host.
    Neutral,
    /// The client left, or the permit was lost.
    Cancelled,
    /// It took longer than the lease; its verdict still counts when it comes, as a result of its own.
    LeaseOver,
}

impl ProbeResult {
    /// Every result.
    pub const ALL: [Self; 7] =
        [Self::Success, Self::Answered, Self::Limited, Self::Failed, Self::Neutral, Self::Cancelled, Self::LeaseOver];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Answered => "answered",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Neutral => "neutral",
            Self::Cancelled => "cancelled",
            Self::LeaseOver => "lease_over",
        }
    }
}

/// What ended a cooldown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// A probe.
    Probe,
    /// Quiet time.
    Quiet,
    /// An operator.
    Release,
}

impl EndCause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Probe, Self::Quiet, Self::Release];

    /// The word used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Quiet => "quiet",
            Self::Release => "release",
        }
    }
}

/// What one call changed, in order. At most four things, so that nothing is allocated for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events([Option<Event>; 4]);

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(event);
        } else {
            debug_assert!(false, "more than four events of one call");
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.0.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_logs_and_metrics() {
        assert_eq!(
            ProbeResult::ALL.map(ProbeResult::as_str),
            ["success", "answered", "limited", "failed", "neutral", "cancelled", "lease_over"]
        );
        assert_eq!(EndCause::ALL.map(EndCause::as_str), ["probe", "quiet", "release"]);
    }

    #[test]
    fn events_keep_their_order() {
        let mut events = Events::default();
        assert!(events.is_empty());
        for result in [ProbeResult::Limited, ProbeResult::Success] {
            events.push(Event::ProbeEnded(result));
            assert!(!events.is_empty());
        }
        let expected = [Event::ProbeEnded(ProbeResult::Limited), Event::ProbeEnded(ProbeResult::Success)];
        assert!(events.iter().eq(&expected));
    }
}
