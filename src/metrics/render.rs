//! The text of `/metrics`.
//!
//! Every family has its help text from the start, so that it can be found; of the series only those are written that say
//! something, or that an alert needs at 0 before the first event: an idle host is a few lines, not sixty.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use prometheus::TextEncoder;

use super::cells::{CLASSES, Cells, Histogram, Tally, float, float_signed};
use super::names::{self, Family};
use super::{Action, Bound, Direction, Listener, Metrics};
use crate::core::cooldown::{EndCause, ProbeResult};
use crate::core::decision::{Reason, Source, State};
use crate::core::signal::{Cause, Field};
use crate::core::time::{Instant, UnixTime};
use crate::proxy::error::ErrorKind;
use crate::proxy::shared::Host;
use crate::table::{Stats, Table, clock};

impl Metrics {
    /// Everything, in the text format of Prometheus.
    pub fn render(&self, table: &Table<Host>, now: Instant, wall: UnixTime) -> Vec<u8> {
        let mirror = Mirror::of(table, now, wall);
        let live: Vec<&str> = mirror.hosts.keys().map(|label| &**label).collect();
        self.common.places.sweep(&live, now);
        let mut text = Text::default();
        self.hosts(&mut text);
        mirror.write(&mut text);
        self.globals(&mut text, table.stats());
        text.finish(self.process.as_ref().map(prometheus::Registry::gather)).into_bytes()
    }

    fn hosts(&self, text: &mut Text) {
        let cells = self.common.places.exported();
        let actions: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
        let reasons = Reason::ALL.map(Reason::as_str);
        let kinds: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let sources: Vec<_> = Source::ALL.iter().map(|source| source.as_str()).chain(["none"]).collect();
        let causes = EndCause::ALL.map(EndCause::as_str);
        let results = ProbeResult::ALL.map(ProbeResult::as_str);
        let directions: Vec<_> = Direction::ALL.iter().map(|direction| direction.as_str()).collect();
        for cells in &cells {
            let host = &*cells.label;
            text.tally(&names::REQUESTS, host, &actions, &cells.actions, actions.len());
            text.tally(&names::SHORT_CIRCUITED, host, &reasons, &cells.short_circuited, 1);
            text.tally(&names::WOULD_HAVE, host, &reasons, &cells.would_have, 0);
            text.sample(&names::IN_FLIGHT, &[host], float_signed(cells.in_flight.load(Ordering::Relaxed)));
            text.histogram(&names::REQUEST_SECONDS, &[host], &cells.request);
            text.histogram(&names::ADDED_SECONDS, &[host], &cells.added);
            text.histogram(&names::HEAD_SECONDS, &[host], &cells.head);
            text.tally(&names::RESPONSES, host, &CLASSES, &cells.responses, 5);
            text.tally(&names::UPSTREAM_ERRORS, host, &kinds, &cells.errors, 0);
            text.tally(&names::SIGNALS, host, &sources, &cells.signals, 0);
            text.tally(&names::COOLDOWNS_STARTED, host, &reasons, &cells.started, 1);
            text.count(&names::COOLDOWNS_EXTENDED, host, &cells.extended);
            text.tally(&names::COOLDOWNS_ENDED, host, &causes, &cells.ended, 0);
            text.count(&names::COOLDOWNS_CLAMPED, host, &cells.clamped);
            text.tally(&names::PROBES, host, &results, &cells.probes, 0);
            if cells.tunnels.sum() > 0 {
                text.sample(&names::TUNNELS_OPEN, &[host], float_signed(cells.tunnels_open.load(Ordering::Relaxed)));
                text.count(&names::TUNNELS, host, &cells.tunnels);
                text.tally(&names::TUNNEL_BYTES, host, &directions, &cells.tunnel_bytes, 2);
            }
            if let Some(offset) = cells.clock_offset() {
                text.sample(&names::CLOCK_OFFSET, &[host], offset);
            }
            if let Some(secs) = cells.last_success() {
                text.sample(&names::LAST_SUCCESS, &[host], float(secs));
            }
        }
    }

    fn globals(&self, text: &mut Text, stats: Stats) {
        let common = &self.common;
        let errors = Field::ALL.iter().flat_map(|field| Cause::ALL.iter().map(move |cause| (field, cause)));
        for ((field, cause), count) in errors.zip(common.signal_errors.values()) {
            text.sample(&names::SIGNAL_ERRORS, &[field.as_str(), cause.as_str()], float(count));
        }
        text.histogram(&names::HINT_SECONDS, &[], &common.hints);
        text.histogram(&names::COOLDOWN_SECONDS, &[], &common.lengths);
        for ((listener, open), total) in
            Listener::ALL.iter().zip(&self.connections.open).zip(self.connections.total.values())
        {
            let open = float_signed(open.load(Ordering::Relaxed));
            text.sample(&names::CONNECTIONS_OPEN, &[listener.as_str()], open);
            text.sample(&names::CONNECTIONS, &[listener.as_str()], float(total));
        }
        if let Some(pool) = self.pool.get() {
            let pool = pool();
            text.sample(&names::UPSTREAM_CONNECTIONS, &["open"], size(pool.open));
            text.sample(&names::UPSTREAM_CONNECTIONS, &["idle"], size(pool.idle));
        }
        for (bound, count) in Bound::ALL.iter().zip(self.bounds.values()) {
            text.sample(&names::BOUNDS, &[bound.as_str()], float(count));
        }
        text.sample(&names::KEYS, &[], size(stats.keys));
        text.sample(&names::KEYS_LIMIT, &[], size(stats.max_keys));
        text.sample(&names::EVICTIONS, &[], float(stats.evicted));
        text.sample(&names::UNTRACKED, &[], float(stats.untracked));
        text.sample(&names::HOST_LABELS, &[], size(common.places.taken()));
        text.sample(&names::HOST_LABELS_LIMIT, &[], size(common.places.max()));
        text.sample(&names::LABEL_OVERFLOW, &[], float(common.places.overflow()));
        for ((action, ok), count) in self.admin.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text.sample(&names::ADMIN_ACTIONS, &[action, if *ok { "ok" } else { "refused" }], float(*count));
        }
        text.sample(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    }
}

/// What the table says at the moment of a scrape.
#[derive(Default)]
struct Mirror {
    active: [u64; Reason::ALL.len()],
    probing: u64,
    /// By label; only hosts with something to say.
    hosts: BTreeMap<Box<str>, HostNow>,
}

#[derive(Default)]
struct HostNow {
    end: Option<UnixTime>,
    rate_step: u32,
    breaker_step: u32,
}

impl Mirror {
    fn of(table: &Table<Host>, now: Instant, wall: UnixTime) -> Self {
        let mut mirror = Self::default();
        table.for_each(|entry| {
            let view = entry.snapshot(now).view;
            if view.state == State::Clear && view.rate_step == 0 && view.breaker_step == 0 {
                return;
            }
            let cells: Arc<Cells> = entry.attached().metrics.label();
            let host = mirror.hosts.entry(cells.label.clone()).or_default();
            host.rate_step = host.rate_step.max(view.rate_step);
            host.breaker_step = host.breaker_step.max(view.breaker_step);
            let Some(cooldown) = view.cooldown.filter(|_| view.state != State::Clear) else { return };
            host.end = host.end.max(Some(clock::wall_of(cooldown.deadline, now, wall)));
            if view.state == State::Probing {
                mirror.probing = mirror.probing.saturating_add(1);
                return;
            }
            let at = Reason::ALL.iter().position(|reason| *reason == cooldown.reason);
            if let Some(count) = at.and_then(|at| mirror.active.get_mut(at)) {
                *count = count.saturating_add(1);
            }
        });
        mirror
    }

    fn write(&self, text: &mut Text) {
        for (reason, count) in Reason::ALL.iter().zip(self.active) {
            text.sample(&names::COOLDOWNS_ACTIVE, &[reason.as_str()], float(count));
        }
        text.sample(&names::KEYS_PROBING, &[], float(self.probing));
        for (label, host) in &self.hosts {
            if let Some(end) = host.end {
                text.sample(&names::COOLDOWN_END, &[label], float(end.as_millis()) / 1000.0);
            }
            for (ladder, step) in [("signals", host.rate_step), ("failures", host.breaker_step)] {
                if step > 0 {
                    text.sample(&names::BACKOFF_STEP, &[label, ladder], f64::from(step));
                }
            }
        }
    }
}

fn size(count: usize) -> f64 {
    float(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The samples of each family, gathered in any order.
#[derive(Default)]
struct Text {
    families: BTreeMap<&'static str, String>,
}

impl Text {
    fn sample(&mut self, family: &Family, values: &[&str], value: f64) {
        self.line(family, "", values, None, value);
    }

    fn count(&mut self, family: &Family, host: &str, tally: &Tally<1>) {
        if tally.sum() > 0 {
            self.sample(family, &[host], float(tally.sum()));
        }
    }

    /// The counts of a closed set: the first `shown` always, the others once they are not 0.
    fn tally<const N: usize>(&mut self, family: &Family, host: &str, words: &[&str], tally: &Tally<N>, shown: usize) {
        for (at, (word, count)) in words.iter().zip(tally.values()).enumerate() {
            if at < shown || count > 0 {
                self.sample(family, &[host, word], float(count));
            }
        }
    }

    /// A histogram; without observations nothing, except when it has no labels.
    fn histogram(&mut self, family: &Family, values: &[&str], histogram: &Histogram) {
        let (buckets, count, sum) = histogram.read();
        if count == 0 && !values.is_empty() {
            return;
        }
        for (bound, below) in buckets {
            self.line(family, "_bucket", values, Some(&bound.to_string()), float(below));
        }
        self.line(family, "_bucket", values, Some("+Inf"), float(count));
        self.line(family, "_sum", values, None, sum);
        self.line(family, "_count", values, None, float(count));
    }

    fn line(&mut self, family: &Family, suffix: &str, values: &[&str], le: Option<&str>, value: f64) {
        let text = self.families.entry(family.name).or_default();
        text.push_str(family.name);
        text.push_str(suffix);
        // In the order that client libraries have: by name, and `le` last.
        let mut labels: Vec<_> = family.labels.iter().copied().zip(values.iter().copied()).collect();
        labels.sort_unstable();
        labels.extend(le.map(|bound| ("le", bound)));
        let mut open = '{';
        for (name, value) in labels {
            text.push(open);
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
            open = ',';
        }
        if open == ',' {
            text.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, " {value}");
    }

    fn finish(self, process: Option<Vec<prometheus::proto::MetricFamily>>) -> String {
        let mut text = String::new();
        for family in names::ALL {
            let Family { name, kind, help, .. } = family;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
            text.push_str(self.families.get(name).map_or("", String::as_str));
        }
        if let Some(families) = process {
            let before = text.len();
            if TextEncoder::new().encode_utf8(&families, &mut text).is_err() {
                text.truncate(before);
            }
        }
        text
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}
