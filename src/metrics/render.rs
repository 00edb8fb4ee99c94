//! The text of `/metrics`.
//!
//! What the registry does not keep, the series of hosts and what the table knows, is put into the model of the crate
//! `prometheus` here, which writes the text. Only those series are shown that say something, or that an alert needs at 0
//! before the first event: an idle host is a few lines, not sixty. A family without series is not shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::TextEncoder;
use prometheus::core::{Metric as _, Number};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{CLASSES, Cells, Tally, Times};
use super::names::{self, Family, Kind};
use super::{Action, Direction, Metrics};
use crate::core::cooldown::{EndCause, ProbeResult};
use crate::core::decision::{Reason, Source, State};
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
        let mut families = Families::default();
        self.hosts(&mut families);
        mirror.write(&mut families);
        self.globals(&mut families, table.stats());
        let mut families: Vec<_> = families.0.into_values().chain(self.registry.gather()).collect();
        families.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        let mut text = String::new();
        // Only a family without a name or without series is refused, and there is none.
        let _ = TextEncoder::new().encode_utf8(&families, &mut text);
        text.into_bytes()
    }

    fn hosts(&self, families: &mut Families) {
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
            families.tally(&names::REQUESTS, host, &actions, &cells.actions, actions.len());
            families.tally(&names::SHORT_CIRCUITED, host, &reasons, &cells.short_circuited, 1);
            families.tally(&names::WOULD_HAVE, host, &reasons, &cells.would_have, 0);
            families.sample(&names::IN_FLIGHT, &[host], cells.in_flight.load(Ordering::Relaxed));
            families.times(&names::REQUEST_SECONDS, &cells.request);
            families.times(&names::ADDED_SECONDS, &cells.added);
            families.times(&names::HEAD_SECONDS, &cells.head);
            families.tally(&names::RESPONSES, host, &CLASSES, &cells.responses, 5);
            families.tally(&names::UPSTREAM_ERRORS, host, &kinds, &cells.errors, 0);
            families.tally(&names::SIGNALS, host, &sources, &cells.signals, 0);
            families.tally(&names::COOLDOWNS_STARTED, host, &reasons, &cells.started, 1);
            families.count(&names::COOLDOWNS_EXTENDED, host, &cells.extended);
            families.tally(&names::COOLDOWNS_ENDED, host, &causes, &cells.ended, 0);
            families.count(&names::COOLDOWNS_CLAMPED, host, &cells.clamped);
            families.tally(&names::PROBES, host, &results, &cells.probes, 0);
            if cells.tunnels.sum() > 0 {
                families.sample(&names::TUNNELS_OPEN, &[host], cells.tunnels_open.load(Ordering::Relaxed));
                families.count(&names::TUNNELS, host, &cells.tunnels);
                families.tally(&names::TUNNEL_BYTES, host, &directions, &cells.tunnel_bytes, 2);
            }
            if let Some(offset) = cells.clock_offset() {
                families.sample(&names::CLOCK_OFFSET, &[host], offset);
            }
            if let Some(secs) = cells.last_success() {
                families.sample(&names::LAST_SUCCESS, &[host], secs);
            }
        }
    }

    fn globals(&self, families: &mut Families, stats: Stats) {
        let common = &self.common;
        if let Some(pool) = self.pool.get() {
            let pool = pool();
            families.sample(&names::UPSTREAM_CONNECTIONS, &["open"], size(pool.open));
            families.sample(&names::UPSTREAM_CONNECTIONS, &["idle"], size(pool.idle));
        }
        if let Some(minted) = self.minted.get() {
            families.sample(&names::CERTIFICATES, &[], minted());
        }
        families.sample(&names::KEYS, &[], size(stats.keys));
        families.sample(&names::KEYS_LIMIT, &[], size(stats.max_keys));
        families.sample(&names::EVICTIONS, &[], stats.evicted);
        families.sample(&names::UNTRACKED, &[], stats.untracked);
        families.sample(&names::HOST_LABELS, &[], size(common.places.taken()));
        families.sample(&names::HOST_LABELS_LIMIT, &[], size(common.places.max()));
        families.sample(&names::LABEL_OVERFLOW, &[], common.places.overflow());
        families.sample(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
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

    fn write(&self, families: &mut Families) {
        for (reason, count) in Reason::ALL.iter().zip(self.active) {
            families.sample(&names::COOLDOWNS_ACTIVE, &[reason.as_str()], count);
        }
        families.sample(&names::KEYS_PROBING, &[], self.probing);
        for (label, host) in &self.hosts {
            if let Some(end) = host.end {
                families.sample(&names::COOLDOWN_END, &[label], end.as_millis().into_f64() / 1000.0);
            }
            for (ladder, step) in [("signals", host.rate_step), ("failures", host.breaker_step)] {
                if step > 0 {
                    families.sample(&names::BACKOFF_STEP, &[label, ladder], u64::from(step));
                }
            }
        }
    }
}

fn size(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The families of a scrape by name, gathered in any order.
#[derive(Default)]
struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    fn sample(&mut self, family: &Family, values: &[&str], value: impl Number) {
        let mut labels: Vec<_> = family.labels.iter().zip(values).map(|(name, value)| pair(name, value)).collect();
        // In the order that client libraries have: by name.
        labels.sort_unstable();
        let mut metric = Metric::from_label(labels);
        if family.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value.into_f64());
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value.into_f64());
            metric.set_gauge(gauge);
        }
        self.push(family, metric);
    }

    fn count(&mut self, family: &Family, host: &str, tally: &Tally<1>) {
        if tally.sum() > 0 {
            self.sample(family, &[host], tally.sum());
        }
    }

    /// The counts of a closed set: the first `shown` always, the others once they are not 0.
    fn tally<const N: usize>(&mut self, family: &Family, host: &str, words: &[&str], tally: &Tally<N>, shown: usize) {
        for (at, (word, count)) in words.iter().zip(tally.values()).enumerate() {
            if at < shown || count > 0 {
                self.sample(family, &[host, word], count);
            }
        }
    }

    /// A histogram, once something was observed.
    fn times(&mut self, family: &Family, times: &Times) {
        if let Some(histogram) = times.0.as_ref().filter(|histogram| histogram.get_sample_count() > 0) {
            self.push(family, histogram.metric());
        }
    }

    fn push(&mut self, family: &Family, metric: Metric) {
        let new = || {
            let mut new = MetricFamily::default();
            new.set_name(family.name.to_owned());
            new.set_help(family.help.to_owned());
            new.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            new
        };
        self.0.entry(family.name).or_insert_with(new).mut_metric().push(metric);
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
