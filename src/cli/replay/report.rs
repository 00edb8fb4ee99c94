//! What a replay found, for people and for programs.

use std::time::Duration;

use serde::Serialize;

use super::play::{Counts, Played};
use crate::admin::view::rfc3339;
use crate::cli::status_page::{Style, count, cut, pad, paint, short, span};
use crate::core::policy::Mode;
use crate::core::time::UnixTime;

/// The most hosts in the table; JSON has all.
const MAX_ROWS: usize = 50;

/// What was read of one log.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct FileReport {
    pub(super) file: String,
    pub(super) format: &'static str,
    pub(super) requests: u64,
    pub(super) tunnels: u64,
    pub(super) other: u64,
    pub(super) malformed: u64,
    pub(super) without_host: u64,
    pub(super) too_long: u64,
    #[serde(skip)]
    pub(super) lines: u64,
}

/// Everything that is told.
#[derive(Debug)]
pub(super) struct Report {
    files: Vec<FileReport>,
    played: Played,
    total: Counts,
}

/// As JSON; the keys are those in the help text.
#[derive(Serialize)]
struct Shown<'r> {
    from: Option<String>,
    to: Option<String>,
    files: &'r [FileReport],
    hosts: Vec<ShownHost>,
    total: ShownCounts,
    late: u64,
    untracked: u64,
    conclusion: String,
}

/// The counts stand beside host and mode, so they are written out: serde's `flatten` is not used here.
macro_rules! shown {
    ($(#[$doc:meta])* $name:ident { $($extra:ident: $kind:ty),* }) => {
        $(#[$doc])*
        #[derive(Serialize)]
        struct $name {
            $($extra: $kind,)*
            requests: u64,
            limited: u64,
            limited_forwarded: u64,
            failed: u64,
            forwarded: u64,
            saved: u64,
            saved_share: f64,
            saved_good: u64,
            cooldowns: u64,
            longest_wait_seconds: f64,
            cooling_seconds: f64,
            tunnels: u64,
        }

        impl $name {
            fn new(counts: &Counts $(, $extra: $kind)*) -> Self {
                Self {
                    $($extra,)*
                    requests: counts.requests,
                    limited: counts.limited,
                    limited_forwarded: counts.limited_forwarded,
                    failed: counts.failed,
                    forwarded: counts.forwarded,
                    saved: counts.saved,
                    saved_share: per_mille(counts) / 1000.0,
                    saved_good: counts.saved_good,
                    cooldowns: counts.cooldowns,
                    longest_wait_seconds: counts.longest_wait.as_secs_f64(),
                    cooling_seconds: counts.cooling.as_secs_f64(),
                    tunnels: counts.tunnels,
                }
            }
        }
    };
}

shown! {
    /// One host.
    ShownHost { host: String, mode: &'static str }
}

shown! {
    /// All of them.
    ShownCounts {}
}

impl Report {
    pub(super) fn new(files: Vec<FileReport>, played: Played) -> Self {
        let total = played.hosts.iter().fold(Counts::default(), |sum, host| sum.and(host.counts));
        Self { files, played, total }
    }

    /// What of the logs could not be used.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.files.iter().filter_map(FileReport::flaws).collect();
        if self.played.late > 0 {
            warnings.push(format!(
                "{} too late to be played in order; name the files of a log oldest first",
                count_of(self.played.late, "line came", "lines came")
            ));
        }
        if self.played.untracked > 0 {
            warnings.push(format!(
                "{} of more hosts than `limits.max_keys` allows: forwarded, as holdoff would, and not counted below",
                count_of(self.played.untracked, "request is", "requests are")
            ));
        }
        warnings
    }

    pub(super) fn to_json(&self) -> Result<String, serde_json::Error> {
        let hosts = &self.played.hosts;
        serde_json::to_string_pretty(&Shown {
            from: self.played.span.map(|(from, _)| rfc3339(from)),
            to: self.played.span.map(|(_, to)| rfc3339(to)),
            files: &self.files,
            hosts: hosts
                .iter()
                .map(|host| ShownHost::new(&host.counts, host.key.to_string(), host.mode.as_str()))
                .collect(),
            total: ShownCounts::new(&self.total),
            late: self.played.late,
            untracked: self.played.untracked,
            conclusion: self.conclusion().join(" "),
        })
    }

    pub(super) fn text(&self, style: Style) -> String {
        let mut text = String::new();
        for file in &self.files {
            let FileReport { file, format, requests, .. } = file;
            let requests = count_of(*requests, "request", "requests");
            text.push_str(&line(&format!("{file}: {requests} ({format})"), style));
        }
        if let Some((from, to)) = self.played.span {
            let length = span(to.as_secs().saturating_sub(from.as_secs()));
            text.push_str(&line(&format!("{} to {} ({length})", seconds(from), seconds(to)), style));
        }
        if self.total.requests > 0 {
            text.push('\n');
            text.push_str(&self.table(style));
        }
        text.push('\n');
        for sentence in self.conclusion() {
            text.push_str(&sentence);
            text.push('\n');
        }
        text
    }

    fn table(&self, style: Style) -> String {
        let head = [
            "host",
            "requests",
            "limited",
            "failed",
            "forwarded",
            "saved",
            "saved %",
            "cooldowns",
            "longest",
            "cooling",
        ];
        let mut cells = vec![head.map(str::to_owned)];
        let asked = || self.played.hosts.iter().filter(|host| host.counts.requests > 0);
        for host in asked().take(MAX_ROWS) {
            let name = short(&host.key.to_string());
            let mut row = row(name, &host.counts);
            if host.mode == Mode::Off {
                row = row.map(|cell| if cell == "0%" { "off".to_owned() } else { cell });
            }
            cells.push(row);
        }
        cells.push(row("total".to_owned(), &self.total));
        let mut widths = [0; 10];
        for line in &cells {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        // The host gives way first, then the right end.
        if let (Some(room), [host, numbers @ ..]) = (style.width, &mut widths) {
            let others = numbers.iter().fold(2_usize, |sum, width| sum.saturating_add(*width).saturating_add(2));
            *host = (*host).min(room.saturating_sub(others).max(16));
        }
        let last = cells.len().saturating_sub(1);
        let mut text = String::new();
        for (at, line) in cells.iter().enumerate() {
            let mut shown = String::from(" ");
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                shown.push(' ');
                if column == 0 {
                    shown.push_str(&pad(cell, width));
                } else {
                    shown.push_str(&format!(" {cell:>width$}"));
                }
            }
            let shown = format!("{}\n", cut(&shown, style.width.unwrap_or(usize::MAX)));
            text.push_str(&match at {
                0 => paint(&shown, "2", style),
                at if at == last => paint(&shown, "1", style),
                _ => shown,
            });
        }
        if let Some(more) = asked().count().checked_sub(MAX_ROWS).filter(|more| *more > 0) {
            text.push_str(&format!("  and {more} more; `--json` has them\n"));
        }
        text
    }

    /// The figures in words.
    fn conclusion(&self) -> Vec<String> {
        let total = &self.total;
        let mut said = Vec::new();
        if total.requests == 0 {
            said.push("There are no requests in the log whose answers can be seen.".to_owned());
        } else if total.cooldowns == 0 {
            said.push(format!(
                "holdoff would have sent all of {} and answered none itself: nothing in the log makes a host cool.",
                count(total.requests, "request")
            ));
        } else {
            said.push(format!(
                "holdoff would have answered {} of {} itself and sent {}.",
                total.saved,
                count(total.requests, "request"),
                total.forwarded
            ));
        }
        if total.limited > 0 && total.cooldowns > 0 {
            said.push(format!(
                "The hosts said \"slow down\" {} in the log; holdoff would have heard it {}.",
                times(total.limited),
                times(total.limited_forwarded)
            ));
        }
        if total.saved_good > 0 {
            said.push(format!(
                "{} of those it would have answered had a good answer in the log: the price of keeping away as told.",
                total.saved_good
            ));
        }
        if total.ours > 0 {
            said.push(format!("{} had been answered by holdoff already.", count(total.ours, "request")));
        }
        if total.limited > 0 && total.hinted == 0 {
            said.push(
                "The log has no Retry-After, so the waits are holdoff's own guesses; `holdoff replay --help` says how to log it."
                    .to_owned(),
            );
        }
        if total.tunnels > 0 {
            said.push(format!(
                "{} not judged: what was asked inside is not in the log.",
                count_of(total.tunnels, "CONNECT is", "CONNECTs are")
            ));
        }
        let off = self.played.hosts.iter().filter(|host| host.mode == Mode::Off && host.counts.requests > 0).count();
        if off > 0 {
            let off = u64::try_from(off).unwrap_or(u64::MAX);
            said.push(format!("{} in mode off: everything is forwarded.", count_of(off, "host is", "hosts are")));
        }
        if total.saved > 0 {
            said.push(
                "An estimate: the log shows what a host says to a node that does not wait; left alone, it may recover sooner."
                    .to_owned(),
            );
        }
        said
    }
}

fn row(name: String, counts: &Counts) -> [String; 10] {
    let length = |length: Duration| if length.is_zero() { "-".to_owned() } else { span(length.as_secs().max(1)) };
    let tenths = per_mille(counts);
    let share = if counts.saved == 0 { "0%".to_owned() } else { format!("{:.1}%", tenths / 10.0) };
    [
        name,
        counts.requests.to_string(),
        counts.limited.to_string(),
        counts.failed.to_string(),
        counts.forwarded.to_string(),
        counts.saved.to_string(),
        share,
        counts.cooldowns.to_string(),
        length(counts.longest_wait),
        length(counts.cooling),
    ]
}

/// How many of a thousand requests are saved, rounded down, so that not all are saved unless all are.
fn per_mille(counts: &Counts) -> f64 {
    let share = u128::from(counts.saved).saturating_mul(1000).checked_div(u128::from(counts.requests));
    u32::try_from(share.unwrap_or_default()).unwrap_or_default().into()
}

fn line(text: &str, style: Style) -> String {
    format!("{}\n", cut(text, style.width.unwrap_or(usize::MAX)))
}

fn seconds(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(time.into()).to_string()
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{number} times"),
    }
}

fn count_of(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
