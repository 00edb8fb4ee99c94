//! What happens to keys, told: each event of the table becomes a count and a line in the log.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;

use crate::core::cooldown::Event;
use crate::core::decision::{Reason, Source, State};
use crate::core::key::Key;
use crate::core::time::Instant;
use crate::proxy::shared::Host;
use crate::table::{Entry, Observer, clock};

/// Lines that a host can cause over and over are written at most once in that time.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts and logs every change of a key.
#[derive(Debug, Default)]
pub struct Transitions {
    extensions: LogLimit,
    clamps: LogLimit,
}

impl Observer<Host> for Transitions {
    fn event(&self, entry: &Entry<Host>, event: &Event, now: Instant) {
        entry.attached().metrics.event(event);
        let key = entry.key();
        match event {
            Event::Started { from, reason, source, until, length, step, clamped, received } => {
                let deadline = Deadline { reason: *reason, source: *source, until: *until, length: *length, now };
                self.clamped(key, *clamped, &deadline);
                started(key, *from, *step, received.as_deref(), &deadline);
            }
            Event::Extended { reason, source, until, length, clamped, received } => {
                let deadline = Deadline { reason: *reason, source: *source, until: *until, length: *length, now };
                self.clamped(key, *clamped, &deadline);
                if self.extensions.allows(key, now) {
                    extended(key, received.as_deref(), &deadline);
                }
            }
            Event::ProbeStarted { from, reason } if *from == State::Cooling => tracing::info!(
                target: "holdoff::transition",
                host = key.host(),
                %key,
                from = from.as_str(),
                to = State::Probing.as_str(),
                reason = reason.as_str(),
                "the cooldown is over; one request tests the host"
            ),
            Event::ProbeStarted { reason, .. } => {
                tracing::debug!(target: "holdoff::probe", host = key.host(), %key, reason = reason.as_str(), "a probe started");
            }
            Event::ProbeEnded(result) => {
                tracing::debug!(target: "holdoff::probe", host = key.host(), %key, result = result.as_str(), "a probe ended");
            }
            Event::Ended { reason, from, cause } => tracing::info!(
                target: "holdoff::transition",
                host = key.host(),
                %key,
                from = from.as_str(),
                to = State::Clear.as_str(),
                reason = reason.as_str(),
                cause = cause.as_str(),
                "the host is clear again"
            ),
        }
    }
}

impl Transitions {
    fn clamped(&self, key: &Key, clamped: bool, deadline: &Deadline) {
        if clamped && self.clamps.allows(key, deadline.now) {
            tracing::warn!(
                target: "holdoff::transition",
                host = key.host(),
                %key,
                "for" = %deadline.length(),
                "the host asks for a longer wait than `cooldown.max_retry_after`; it was cut"
            );
        }
    }
}

/// What an event says about a deadline.
struct Deadline {
    reason: Reason,
    source: Source,
    until: Instant,
    length: Duration,
    now: Instant,
}

impl Deadline {
    fn until(&self) -> humantime::Rfc3339Timestamp {
        let until = SystemTime::from(clock::wall_of(self.until, self.now, clock::wall()));
        humantime::format_rfc3339_seconds(until)
    }

    fn length(&self) -> humantime::FormattedDuration {
        // To the second, which is what people read; shorter ones to the millisecond.
        let millis = u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX);
        let shown = if millis < 1000 { millis } else { (millis.saturating_add(500) / 1000).saturating_mul(1000) };
        humantime::format_duration(Duration::from_millis(shown))
    }
}

fn started(key: &Key, from: State, step: u32, received: Option<&str>, deadline: &Deadline) {
    tracing::info!(
        target: "holdoff::transition",
        host = key.host(),
        %key,
        from = from.as_str(),
        to = State::Cooling.as_str(),
        reason = deadline.reason.as_str(),
        source = deadline.source.as_str(),
        signal = received,
        until = %deadline.until(),
        "for" = %deadline.length(),
        step,
        "the host cools; requests to it are answered locally"
    );
}

fn extended(key: &Key, received: Option<&str>, deadline: &Deadline) {
    tracing::info!(
        target: "holdoff::transition",
        host = key.host(),
        %key,
        from = State::Cooling.as_str(),
        to = State::Cooling.as_str(),
        reason = deadline.reason.as_str(),
        source = deadline.source.as_str(),
        signal = received,
        until = %deadline.until(),
        "for" = %deadline.length(),
        "the cooldown was extended"
    );
}

/// How many hosts a limit remembers at a time.
const SLOTS: usize = 1024;

/// Lets one line of a kind through for each host in a while, in fixed memory: of two hosts that share a slot the later one
/// takes it, so that a flood of hosts can repeat lines but never hide the first line of another host.
pub struct LogLimit {
    hasher: RandomState,
    /// A tag of the host (32 bits) and the second of its last line.
    slots: Box<[AtomicU64]>,
}

impl LogLimit {
    /// Whether a line about `key` may be written at `now`.
    pub fn allows(&self, key: &Key, now: Instant) -> bool {
        let hash = self.hasher.hash_one(key);
        let slot = usize::try_from(hash % 1024).unwrap_or_default();
        let Some(slot) = self.slots.get(slot) else { return true };
        let secs = (now.as_nanos() / 1_000_000_000).saturating_add(1) & u64::from(u32::MAX);
        let tag = hash & !u64::from(u32::MAX);
        let last = slot.load(Ordering::Relaxed);
        let same = last & !u64::from(u32::MAX) == tag && last != 0;
        if same && secs.saturating_sub(last & u64::from(u32::MAX)) < PAUSE.as_secs() {
            return false;
        }
        slot.compare_exchange(last, tag | secs, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { hasher: RandomState::default(), slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl std::fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLimit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_of_a_host_waits_and_another_host_does_not() {
        let limit = LogLimit::default();
        let [a, b] = ["a.example", "b.example"].map(|host| Key::parse(host).unwrap());
        assert!(limit.allows(&a, Instant::ZERO));
        assert!(!limit.allows(&a, Instant::from_secs(9)));
        assert!(limit.allows(&b, Instant::from_secs(9)));
        assert!(limit.allows(&a, Instant::from_secs(10)));
        assert!(!limit.allows(&a, Instant::from_secs(11)));
    }
}
