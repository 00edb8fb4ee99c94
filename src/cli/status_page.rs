//! What `holdoff status` shows: the JSON of the API in, text out.
//!
//! In this order: is it working; which hosts cool, until when, why, who said so, what that saved; which are being tested;
//! which had trouble lately; and of which nothing is seen but CONNECT, with the mend.

use super::client::clean;
use crate::admin::view::{Cooldown, List, Listening};

/// The most rows of a section.
const MAX_ROWS: usize = 50;

/// The most hosts shown that had trouble but are clear.
const MAX_TROUBLED: usize = 10;

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// With colours.
    pub(super) colour: bool,
    /// The columns there are; `None`: as many as it takes.
    pub(super) width: Option<usize>,
}

/// The whole page.
pub(super) fn page(list: &List, style: Style) -> String {
    let mut text = head(list, style);
    let of = |state: &str| list.cooldowns.iter().filter(|row| row.state == state).collect::<Vec<_>>();
    let cooling = of("cooling");
    if cooling.is_empty() {
        text.push_str("\nnothing is cooling\n");
    } else {
        text.push_str(&section("cooling", cooling.len(), style));
        text.push_str(&table(&cooling, list, style));
    }
    let probing = of("probing");
    if !probing.is_empty() {
        text.push_str(&section("being tested: the deadline has passed, one request at a time", probing.len(), style));
        text.push_str(&table(&probing, list, style));
    }
    let troubled: Vec<_> = of("clear").into_iter().filter(|row| row.last_error.is_some() || row.ramping).collect();
    if !troubled.is_empty() {
        text.push_str(&section("clear again", troubled.len(), style));
        for row in troubled.iter().take(MAX_TROUBLED) {
            text.push_str(&clear_again(row, style));
        }
        text.push_str(&more(troubled.len(), MAX_TROUBLED));
    }
    let blind: Vec<_> = list.cooldowns.iter().filter(|row| row.only_connect).collect();
    if let Some(first) = blind.first() {
        text.push_str(&section("seen only as CONNECT: their 429s cannot be seen", blind.len(), style));
        for row in blind.iter().take(MAX_TROUBLED) {
            text.push_str(&fit(&format!("  {}  {}", short(&row.key), count(row.totals.tunnels, "tunnel")), style));
        }
        text.push_str(&more(blind.len(), MAX_TROUBLED));
        text.push_str(&mend(first, &list.listen));
    }
    if list.truncated {
        text.push_str(&format!("\n{} of {} keys are shown\n", list.cooldowns.len(), list.matched));
    }
    text
}

/// Is it working?
fn head(list: &List, style: Style) -> String {
    let (word, colour) = match &*list.lifecycle {
        "ready" => ("holdoff is working", "1;32"),
        "draining" => ("holdoff is draining: it finishes running work and ends", "1;33"),
        _ => ("holdoff is starting", "1;33"),
    };
    let mut text = format!(
        "{}: {} {}, up {}\n",
        paint(word, colour, style),
        clean(&list.name),
        clean(&list.version),
        span(list.uptime_seconds)
    );
    let listening: Vec<_> = list
        .listen
        .iter()
        .map(|Listening { address, upstream }| match upstream {
            None => clean(address),
            Some(upstream) => format!("{} for {}", clean(address), clean(upstream)),
        })
        .collect();
    text.push_str(&fit(&format!("listening on {}", listening.join(", ")), style));
    if !list.intercept.is_empty() {
        let hosts: Vec<_> = list.intercept.iter().map(|host| clean(host)).collect();
        text.push_str(&fit(&format!("seeing inside TLS to {}", hosts.join(", ")), style));
    }
    let totals = &list.totals;
    let mut counts =
        format!("{} forwarded, {} answered locally", count(totals.forwarded, "request"), totals.short_circuited);
    for (number, word) in [(totals.failed, "failed"), (totals.refused, "refused"), (totals.cancelled, "cancelled")] {
        if number > 0 {
            counts.push_str(&format!(", {number} {word}"));
        }
    }
    text.push_str(&fit(&counts, style));
    text
}

/// Hosts that cool or are being tested, each with its last error below.
fn table(rows: &[&Cooldown], list: &List, style: Style) -> String {
    let head = ["host", "until", "why", "said by", "saved"].map(str::to_owned);
    let mut cells = vec![head];
    for row in rows.iter().take(MAX_ROWS) {
        let saved = row.totals.short_circuited.to_string();
        cells.push([short(&row.key), until(row, list), why(row), said_by(row), saved]);
    }
    let widths = widths(&cells, style.width);
    let mut text = String::new();
    for (at, line) in cells.iter().enumerate() {
        let [host, until, why, said_by, saved] = line;
        let [host_width, until_width, why_width, said_width, saved_width] = widths;
        let host = pad(host, host_width);
        let line = format!(
            "  {}  {}  {}  {}  {saved:>saved_width$}\n",
            if at == 0 { host } else { paint(&host, "1", style) },
            pad(until, until_width),
            pad(why, why_width),
            pad(said_by, said_width),
        );
        text.push_str(&if at == 0 { paint(&line, "2", style) } else { line });
        let Some(row) = at.checked_sub(1).and_then(|at| rows.get(at)) else { continue };
        if let Some(error) = &row.last_error {
            text.push_str(&paint(&fit(&format!("      {}", clean(error)), style), "2", style));
        }
    }
    text.push_str(&more(rows.len(), MAX_ROWS));
    text
}

/// The widths of the columns; where there is too little room, the reason gives way first.
fn widths(cells: &[[String; 5]], room: Option<usize>) -> [usize; 5] {
    let mut widths = [0; 5];
    for line in cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(room) = room {
        let between: usize = 10;
        let needed = widths.iter().fold(between, |sum: usize, width| sum.saturating_add(*width));
        let mut over = needed.saturating_sub(room);
        // Host, until, why, said by: each down to what still says something, then further.
        for (column, least) in [(2, 30), (3, 8), (0, 16), (2, 12), (0, 12), (1, 9)] {
            let Some(width) = widths.get_mut(column) else { continue };
            let cut = over.min(width.saturating_sub(least));
            *width = width.saturating_sub(cut);
            over = over.saturating_sub(cut);
        }
    }
    widths
}

fn until(row: &Cooldown, list: &List) -> String {
    if row.state == "probing" {
        return if row.probe_out { "now, a probe is out".to_owned() } else { "the next request".to_owned() };
    }
    let until = clean(row.until.as_deref().unwrap_or_default());
    let day = |time: &str| time.get(..10).map(str::to_owned);
    let clock = match (until.get(..16), until.get(11..19)) {
        (_, Some(clock)) if day(&until) == day(&list.now) => format!("{clock}Z"),
        (Some(minute), _) => format!("{}Z", minute.replace('T', " ")),
        _ => until,
    };
    format!("{clock}, in {}", span(row.remaining_seconds.unwrap_or_default()))
}

fn why(row: &Cooldown) -> String {
    let reason = clean(row.reason.as_deref().unwrap_or("unknown"));
    let detail = match (&row.note, &row.signal, &row.last_failure) {
        (Some(note), ..) if reason == "manual" => Some(clean(note)),
        (_, Some(signal), _) => Some(clean(signal)),
        (_, None, Some(failure)) if reason == "failing" => {
            Some(format!("{}, {} in a row", clean(&failure.kind), row.consecutive.failures))
        }
        _ => None,
    };
    let observed = if row.mode == "observe" && reason != "manual" { ", only observed" } else { "" };
    match detail {
        Some(detail) => format!("{reason} ({detail}){observed}"),
        None => format!("{reason}{observed}"),
    }
}

/// Who said how long, in plain words.
fn said_by(row: &Cooldown) -> String {
    match row.source.as_deref().unwrap_or_default() {
        "retry_after_seconds" => "the host, in seconds".to_owned(),
        "retry_after_date" => "the host, as a date".to_owned(),
        "grpc_pushback" => "the host, by gRPC".to_owned(),
        "ladder" => format!("holdoff, step {}", row.rate_step),
        "breaker" => format!("holdoff, step {}", row.breaker_step),
        "body_rule" => "a body rule".to_owned(),
        "fleet" => "the fleet".to_owned(),
        "operator" => "an operator".to_owned(),
        other => clean(other),
    }
}

fn clear_again(row: &Cooldown, style: Style) -> String {
    let totals = &row.totals;
    let ramping = if row.ramping { ", requests pass one by one at first" } else { "" };
    let counts = format!(
        "  {}  {}, {}, {}, {} saved{ramping}",
        short(&row.key),
        count(totals.signals, "signal"),
        count(totals.failures, "failure"),
        count(totals.cooldowns, "cooldown"),
        totals.short_circuited
    );
    let error =
        row.last_error.as_deref().map(|error| paint(&fit(&format!("      {}", clean(error)), style), "2", style));
    fit(&counts, style) + &error.unwrap_or_default()
}

/// How to see inside: the block to paste for a host.
fn mend(row: &Cooldown, listen: &[Listening]) -> String {
    let taken = |port: &u16| listen.iter().any(|each| each.address.ends_with(&format!(":{port}")));
    let port = (4300..4400).find(|port| !taken(port)).unwrap_or(4300);
    let upstream = clean(&row.key).trim_end_matches(":443").to_owned();
    format!(
        "\n  To see inside, add this to the configuration and give the node http://127.0.0.1:{port} as the base URL:\n\n    \
         [[reverse]]\n    address = [\"127.0.0.1:{port}\"]\n    upstream = \"{upstream}\"\n"
    )
}

fn section(title: &str, count: usize, style: Style) -> String {
    format!("\n{} ({count})\n", paint(title, "1", style))
}

fn more(count: usize, shown: usize) -> String {
    match count.checked_sub(shown) {
        Some(rest) if rest > 0 => format!("  and {rest} more; `holdoff status --json` has them\n"),
        _ => String::new(),
    }
}

/// A key as short as `holdoff release` still reads it.
pub(super) fn short(key: &str) -> String {
    let key = clean(key);
    if let Some(host) = key.strip_prefix("https://") {
        return host.strip_suffix(":443").unwrap_or(host).to_owned();
    }
    key.strip_suffix(":80").unwrap_or(&key).to_owned()
}

/// A number of things.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A time span by its two largest units.
pub(super) fn span(secs: u64) -> String {
    let parts = [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let mut shown: Vec<_> = parts.iter().skip_while(|(count, _)| *count == 0).take(2).collect();
    if shown.len() == 2 && shown.last().is_some_and(|(count, _)| *count == 0) {
        shown.pop();
    }
    if shown.is_empty() {
        return "0s".to_owned();
    }
    shown.iter().map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

/// A line cut to the width of the terminal.
pub(super) fn fit(line: &str, style: Style) -> String {
    format!("{}\n", cut(line, style.width.unwrap_or(usize::MAX)))
}

pub(super) fn pad(text: &str, width: usize) -> String {
    let text = cut(text, width);
    format!("{text:<width$}")
}

pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Colours a text; a final end of line stays outside.
pub(super) fn paint(text: &str, code: &str, style: Style) -> String {
    if !style.colour {
        return text.to_owned();
    }
    match text.strip_suffix('\n') {
        Some(line) => format!("\u{1b}[{code}m{line}\u{1b}[0m\n"),
        None => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests;
