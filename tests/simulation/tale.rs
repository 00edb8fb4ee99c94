//! What the events tell by themselves, and how often each thing was seen.

use holdoff::core::cooldown::{EndCause, Event, ProbeResult};
use holdoff::core::decision::{Reason, Source, State};
use holdoff::core::time::Instant;

/// What the events told so far say about a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tale {
    pub(crate) state: Option<(Instant, Reason, Source)>,
    pub(crate) probe_out: bool,
    /// A probe lost its slot, and its verdict may come beside that of the next one.
    pub(crate) lapsed: bool,
    pub(crate) cooldowns: u64,
    pub(crate) probes: u64,
}

impl Tale {
    pub(crate) fn hear(&mut self, event: &Event, seen: &mut Seen) {
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

/// How often the things happened that the simulation is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) forwards: u64,
    pub(crate) passes: u64,
    pub(crate) would_have: u64,
    pub(crate) short_circuits: u64,
    pub(crate) ramp_full: u64,
    pub(crate) probe_out: u64,
    pub(crate) started: [u64; 6],
    pub(crate) extended: u64,
    pub(crate) probe_results: [u64; 7],
    pub(crate) ended: [u64; 3],
    pub(crate) evicted: u64,
    pub(crate) untracked: u64,
    pub(crate) freezes_kept: u64,
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
