//! What a run of the demo found, for people's picture and for `--json`.

use std::time::Duration;

use serde::Serialize;

use super::node::Tally;
use super::peer::{Books, SLICE, Slice};
use crate::core::decision::State;
use crate::core::time::Instant;
use crate::proxy::shared::Host;
use crate::table::{Snapshot, Table};

/// What is played: everything a run depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// How long.
    pub(super) length: Duration,
    /// Nodes on each side.
    pub(super) nodes: u32,
    /// How often each node asks.
    pub(super) every: Duration,
    /// The peer's limit: requests per window.
    pub(super) limit: u32,
    /// The window, and what `Retry-After` says; whole seconds.
    pub(super) window: Duration,
}

/// One side: what its peer counted, and what its nodes got.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) books: Books,
    pub(super) tally: Tally,
}

/// What holdoff did in one slice, the rarest thing first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// Requests passed.
    #[default]
    Clear,
    /// Requests were answered by holdoff.
    Cooling,
    /// One request tested the peer.
    Probe,
}

/// What holdoff's own table said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Watch {
    pub(super) short_circuited: u64,
    pub(super) signals: u64,
    pub(super) cooldowns: u64,
    pub(super) probes: u64,
    /// By slice.
    pub(super) marks: Vec<Mark>,
}

impl Watch {
    /// Looks at the table, `at` after the start.
    pub(super) fn look(&mut self, table: &Table<Host>, at: Duration, now: Instant) {
        self.note(&table.snapshots(now), at);
    }

    fn note(&mut self, keys: &[Snapshot], at: Duration) {
        let sum = |of: fn(&Snapshot) -> u64| keys.iter().map(of).fold(0, u64::saturating_add);
        let probes = sum(|key| key.view.totals.probes);
        let mark = if probes > self.probes {
            Mark::Probe
        } else if keys.iter().any(|key| key.view.state != State::Clear) {
            Mark::Cooling
        } else {
            Mark::Clear
        };
        let index = slice_of(at);
        // Slices that nobody looked at were as the last one that somebody did, as far as anybody knows.
        let last = self.marks.last().map_or(Mark::Clear, |last| (*last).min(Mark::Cooling));
        while self.marks.len() < index {
            self.marks.push(last);
        }
        match self.marks.get_mut(index) {
            Some(known) => *known = (*known).max(mark),
            None => self.marks.push(mark),
        }
        self.short_circuited = sum(|key| key.short_circuited);
        self.signals = sum(|key| key.view.totals.signals);
        self.cooldowns = sum(|key| key.view.totals.cooldowns);
        self.probes = probes;
    }
}

/// The slice a time falls into; a demo has few.
fn slice_of(at: Duration) -> usize {
    let slice = at.as_millis().checked_div(SLICE.as_millis()).unwrap_or_default();
    usize::try_from(slice).unwrap_or(usize::MAX).min(1000)
}

/// What a run found, so far or at its end.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) plan: Plan,
    pub(super) elapsed: Duration,
    pub(super) without: Side,
    pub(super) with: Side,
    pub(super) watch: Watch,
}

impl Figures {
    /// How many slices have begun.
    pub(super) fn slices_begun(&self) -> usize {
        slice_of(self.elapsed.min(self.plan.length).saturating_sub(Duration::from_nanos(1))).saturating_add(1)
    }

    /// How many slices there will be.
    pub(super) fn slices(&self) -> usize {
        slice_of(self.plan.length.saturating_sub(Duration::from_nanos(1))).saturating_add(1)
    }

    /// What follows from the figures, in a sentence or three.
    pub(super) fn conclusion(&self) -> String {
        let (without, with) = (&self.without.books, &self.with.books);
        let (before, after) = (without.total, with.total);
        if before.limited == 0 && after.limited == 0 {
            return "The peer never refused a request: these nodes stay below its limit, and holdoff had nothing to do."
                .to_owned();
        }
        let requests = if after.requests() < before.requests() {
            let saved = before.requests().saturating_sub(after.requests());
            let share = saved.saturating_mul(100).checked_div(before.requests()).unwrap_or_default();
            format!("With holdoff the peer saw {share} % fewer requests")
        } else {
            "With holdoff the peer saw no fewer requests".to_owned()
        };
        let good = if after.good == before.good {
            format!("and gave as many good answers ({}).", after.good)
        } else {
            format!("and gave {} good answers instead of {}.", after.good, before.good)
        };
        let recovery = match (without.recovery(), with.recovery()) {
            (None, Some(with)) if before.limited > 0 => format!(
                "Without it the nodes kept the limit alive to the end; with it the first good answer came {} after the \
                 first 429.",
                seconds(with)
            ),
            (Some(without), Some(with)) => format!(
                "After the first 429 the next good answer came in {} with it and in {} without.",
                seconds(with),
                seconds(without)
            ),
            (Some(without), None) if after.limited > 0 => format!(
                "Without it a good answer came again after {}; with it none came within the demo.",
                seconds(without)
            ),
            (None, None) if before.limited > 0 && after.limited > 0 => {
                "On neither side a good answer came again within the demo.".to_owned()
            }
            _ => "Only one side was refused at all.".to_owned(),
        };
        let verdict = if self.shows_an_advantage() { "" } else { "These figures show no advantage of holdoff. " };
        format!("{verdict}{requests} {good} {recovery}")
    }

    /// Fewer requests at the peer, no fewer good answers, and no later recovery.
    fn shows_an_advantage(&self) -> bool {
        let (without, with) = (&self.without.books, &self.with.books);
        let recovered = match (without.recovery(), with.recovery()) {
            (Some(without), Some(with)) => with <= without,
            (Some(_), None) => with.first_limited.is_none(),
            (None, _) => true,
        };
        with.total.requests() < without.total.requests() && with.total.good >= without.total.good && recovered
    }

    /// The figures as one JSON object; the module's documentation lists the keys.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        let Self { plan, elapsed, without, with, watch } = self;
        serde_json::to_string_pretty(&Json {
            seconds: plan.length.as_secs_f64(),
            nodes: plan.nodes,
            interval_seconds: plan.every.as_secs_f64(),
            limit: plan.limit,
            window_seconds: plan.window.as_secs_f64(),
            without: self.side_json(without, *elapsed),
            with: self.side_json(with, *elapsed),
            holdoff: JsonHoldoff {
                short_circuited: watch.short_circuited,
                signals: watch.signals,
                cooldowns: watch.cooldowns,
                probes: watch.probes,
                per_second: per_second(&watch.marks, self.slices(), Mark::max),
            },
            advantage: self.shows_an_advantage(),
            conclusion: self.conclusion(),
        })
    }

    fn side_json(&self, side: &Side, elapsed: Duration) -> JsonSide {
        let Side { books, tally } = side;
        JsonSide {
            requests: books.total.requests(),
            good: books.total.good,
            limited: books.total.limited,
            first_limited_seconds: books.first_limited.map(rounded),
            recovered_after_seconds: books.recovery().map(rounded),
            longest_silence_seconds: rounded(books.longest_silence(elapsed)),
            per_second: per_second(&books.slices, self.slices(), Slice::plus)
                .into_iter()
                .map(|slice| JsonSecond { requests: slice.requests(), good: slice.good, limited: slice.limited })
                .collect(),
            nodes: JsonNodes {
                asked: tally.asked,
                good: tally.good,
                told_to_wait: tally.told_to_wait,
                other: tally.other,
                failed: tally.failed,
            },
        }
    }
}

/// Slices put together into seconds, for as many slices as the demo has.
fn per_second<T: Copy + Default>(slices: &[T], count: usize, join: impl Fn(T, T) -> T) -> Vec<T> {
    let per_second = usize::try_from(Duration::from_secs(1).as_millis().checked_div(SLICE.as_millis()).unwrap_or(1));
    let mut padded: Vec<T> = slices.to_vec();
    // A request that was on its way at the end belongs to the last second.
    while padded.len() > count {
        if let (Some(late), Some(last)) = (padded.pop(), padded.last_mut()) {
            *last = join(*last, late);
        }
    }
    padded.resize(count, T::default());
    let chunk = per_second.unwrap_or(1).max(1);
    padded.chunks(chunk).filter_map(|chunk| chunk.iter().copied().reduce(&join)).collect()
}

/// Seconds for people.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Seconds to the millisecond.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[derive(Serialize)]
struct Json {
    seconds: f64,
    nodes: u32,
    interval_seconds: f64,
    limit: u32,
    window_seconds: f64,
    without: JsonSide,
    with: JsonSide,
    holdoff: JsonHoldoff,
    advantage: bool,
    conclusion: String,
}

#[derive(Serialize)]
struct JsonSide {
    requests: u64,
    good: u64,
    limited: u64,
    first_limited_seconds: Option<f64>,
    recovered_after_seconds: Option<f64>,
    longest_silence_seconds: f64,
    per_second: Vec<JsonSecond>,
    nodes: JsonNodes,
}

#[derive(Serialize)]
struct JsonSecond {
    requests: u64,
    good: u64,
    limited: u64,
}

#[derive(Serialize)]
struct JsonNodes {
    asked: u64,
    good: u64,
    told_to_wait: u64,
    other: u64,
    failed: u64,
}

#[derive(Serialize)]
struct JsonHoldoff {
    short_circuited: u64,
    signals: u64,
    cooldowns: u64,
    probes: u64,
    per_second: Vec<Mark>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::cooldown::{Totals, View};
    use crate::core::key::Key;
    use crate::core::policy::Mode;

    /// A run of four seconds in which everything happens once.
    pub(in super::super) fn figures() -> Figures {
        let slice = |good, limited| Slice { good, limited };
        let millis = Duration::from_millis;
        Figures {
            plan: Plan { length: millis(4000), nodes: 2, every: millis(250), limit: 6, window: millis(2000) },
            elapsed: millis(4010),
            without: Side {
                books: Books {
                    total: slice(6, 26),
                    slices: vec![
                        slice(4, 0),
                        slice(2, 2),
                        slice(0, 4),
                        slice(0, 4),
                        slice(0, 4),
                        slice(0, 4),
                        slice(0, 4),
                        slice(0, 4),
                    ],
                    first_limited: Some(millis(750)),
                    recovered: None,
                    last: Some(millis(3990)),
                    longest_gap: millis(130),
                },
                tally: Tally { asked: 32, good: 6, told_to_wait: 26, other: 0, failed: 0 },
            },
            with: Side {
                books: Books {
                    total: slice(11, 1),
                    slices: vec![
                        slice(4, 0),
                        slice(2, 1),
                        slice(0, 0),
                        slice(0, 0),
                        slice(0, 0),
                        slice(1, 0),
                        slice(4, 0),
                    ],
                    first_limited: Some(millis(750)),
                    recovered: Some(millis(2900)),
                    last: Some(millis(3490)),
                    longest_gap: millis(2150),
                },
                tally: Tally { asked: 32, good: 11, told_to_wait: 21, other: 0, failed: 0 },
            },
            watch: Watch {
                short_circuited: 20,
                signals: 1,
                cooldowns: 1,
                probes: 1,
                marks: vec![
                    Mark::Clear,
                    Mark::Cooling,
                    Mark::Cooling,
                    Mark::Cooling,
                    Mark::Cooling,
                    Mark::Probe,
                    Mark::Clear,
                    Mark::Clear,
                ],
            },
        }
    }

    fn snapshot(state: State, probes: u64, short_circuited: u64) -> Snapshot {
        let totals = Totals { signals: 3, failures: 0, cooldowns: 2, probes };
        let view = View {
            state,
            probe_out: false,
            ramping: false,
            cooldown: None,
            rate_step: 0,
            breaker_step: 0,
            limited_in_row: 0,
            failures_in_row: 0,
            last_failure: None,
            frozen_until: None,
            totals,
        };
        Snapshot {
            key: "http://127.0.0.1:1".parse::<Key>().unwrap(),
            mode: Mode::Enforce,
            view,
            last_error: None,
            last_status: None,
            last_success: None,
            successes: 0,
            successes_in_row: 0,
            short_circuited,
            would_have: 0,
            tunnels: 0,
            only_tunnels: false,
        }
    }

    #[test]
    fn a_watch_keeps_the_rarest_thing_of_each_slice() {
        let mut watch = Watch::default();
        let millis = Duration::from_millis;
        watch.note(&[], millis(0));
        watch.note(&[snapshot(State::Cooling, 0, 5)], millis(600));
        watch.note(&[snapshot(State::Clear, 1, 9)], millis(2100));
        watch.note(&[snapshot(State::Clear, 1, 9)], millis(2200));
        watch.note(&[snapshot(State::Clear, 1, 9)], millis(2600));
        use Mark::{Clear, Cooling, Probe};
        assert_eq!(watch.marks, [Clear, Cooling, Cooling, Cooling, Probe, Clear]);
        assert_eq!((watch.short_circuited, watch.signals, watch.cooldowns, watch.probes), (9, 3, 2, 1));
    }

    #[test]
    fn the_conclusion_follows_from_the_figures() {
        let mut figures = figures();
        assert_eq!(
            figures.conclusion(),
            "With holdoff the peer saw 62 % fewer requests and gave 11 good answers instead of 6. Without it the nodes \
             kept the limit alive to the end; with it the first good answer came 2.1 s after the first 429."
        );
        assert!(figures.shows_an_advantage());
        std::mem::swap(&mut figures.without, &mut figures.with);
        assert!(!figures.shows_an_advantage());
        assert_eq!(
            figures.conclusion(),
            "These figures show no advantage of holdoff. With holdoff the peer saw no fewer requests and gave 6 good \
             answers instead of 11. Without it a good answer came again after 2.1 s; with it none came within the demo."
        );
    }

    #[test]
    fn a_peer_that_refuses_nothing_is_no_advantage() {
        let mut figures = figures();
        for side in [&mut figures.without, &mut figures.with] {
            side.books = Books { total: Slice { good: 32, limited: 0 }, ..Books::default() };
        }
        assert!(!figures.shows_an_advantage());
        assert!(figures.conclusion().starts_with("The peer never refused a request"));
    }

    #[test]
    fn json_keys_and_seconds_are_stable() {
        let json: serde_json::Value = serde_json::from_str(&figures().to_json().unwrap()).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            keys(&json),
            "advantage conclusion holdoff interval_seconds limit nodes seconds window_seconds with without"
        );
        assert_eq!(
            keys(&json["with"]),
            "first_limited_seconds good limited longest_silence_seconds nodes per_second recovered_after_seconds requests"
        );
        assert_eq!(keys(&json["with"]["nodes"]), "asked failed good other told_to_wait");
        assert_eq!(keys(&json["holdoff"]), "cooldowns per_second probes short_circuited signals");
        assert_eq!(json["without"]["recovered_after_seconds"], serde_json::Value::Null);
        assert_eq!(json["with"]["recovered_after_seconds"], 2.15);
        assert_eq!(json["with"]["longest_silence_seconds"], 2.15);
        assert_eq!(json["with"]["per_second"][0], serde_json::json!({ "requests": 7, "good": 6, "limited": 1 }));
        assert_eq!(json["with"]["per_second"].as_array().unwrap().len(), 4);
        assert_eq!(json["holdoff"]["per_second"], serde_json::json!(["cooling", "cooling", "probe", "clear"]));
    }

    #[test]
    fn what_comes_after_the_end_belongs_to_the_last_second() {
        let sum = |a: u64, b: u64| a + b;
        assert_eq!(per_second(&[1, 2, 3, 4, 5], 4, sum), [3, 12]);
        assert_eq!(per_second(&[1], 4, sum), [1, 0]);
    }
}
