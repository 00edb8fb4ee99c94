//! An explanation as text: the facts of the JSON in sentences, and figures below each other.

use std::time::Duration;

use super::question::span;
use super::view::{Effect, Explanation, KeyPart, Matched, Meanwhile, PolicyPart, ResponsePart, Row, Schedule};

/// The columns of running text.
const WIDTH: usize = 96;

/// An explanation for people.
pub fn text(explanation: &Explanation) -> String {
    let mut text = Page(format!("{} {}\n", clean(&explanation.method), clean(&explanation.host)));
    text.lead(explanation);
    text.head("Policy");
    text.policy(&explanation.policy);
    text.head(if explanation.keys.len() == 1 { "Key" } else { "Keys, from wide to narrow" });
    for key in &explanation.keys {
        text.key(key, explanation.running);
    }
    if let Some(response) = &explanation.response {
        text.head("What the answer says");
        text.response(response, explanation.keys.len() > 1);
    }
    if let Some(effect) = &explanation.effect {
        text.head("What it starts");
        text.effect(effect);
    }
    if let Some(schedule) = &explanation.schedule {
        text.schedule(schedule);
    }
    if let Some(meanwhile) = &explanation.meanwhile {
        text.head("What the program sees meanwhile");
        text.meanwhile(meanwhile);
    }
    if !explanation.notes.is_empty() {
        text.head("Good to know");
        for note in &explanation.notes {
            text.point(&format!("{}.", capital(&clean(note))));
        }
    }
    text.0
}

struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    fn head(&mut self, head: &str) {
        self.0.push('\n');
        self.line(head);
    }

    /// A paragraph.
    fn say(&mut self, sentence: &str) {
        self.wrapped("  ", "  ", sentence);
    }

    /// One of several.
    fn point(&mut self, sentence: &str) {
        self.wrapped("  - ", "    ", sentence);
    }

    fn wrapped(&mut self, first: &str, next: &str, sentence: &str) {
        let (mut line, mut is_empty) = (first.to_owned(), true);
        for word in sentence.split(' ') {
            let length = line.chars().count().saturating_add(word.chars().count()).saturating_add(1);
            if !is_empty && length > WIDTH {
                self.line(&line);
                (line, is_empty) = (next.to_owned(), true);
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(&line);
    }

    /// The answer in a sentence or two.
    fn lead(&mut self, explanation: &Explanation) {
        let of = |key: &KeyPart| key.state.as_ref().and_then(|state| state.remaining_seconds).unwrap_or_default();
        // Where the mode holds nothing back a freeze still does, however short.
        let holds = |key: &KeyPart| {
            explanation.policy.mode == "enforce" || key.state.as_ref().is_some_and(|state| state.frozen)
        };
        let longest = explanation
            .keys
            .iter()
            .max_by(|one, other| holds(one).cmp(&holds(other)).then_with(|| of(one).total_cmp(&of(other))));
        match longest.and_then(|key| Some((key, key.state.as_ref()?))) {
            _ if !explanation.running => {}
            Some((key, state)) if state.state == "cooling" => {
                let held = match &*explanation.policy.mode {
                    "enforce" => "It is held back now",
                    _ if state.frozen => "It is held back now",
                    _ => "It is not held back, for the mode is not enforce",
                };
                let reason = state.reason.as_deref().unwrap_or_default();
                let (key, left) = (clean(&key.key), of_seconds(of(key)));
                self.say(&format!("{held}: {key} cools for {left} more, reason {reason}."));
            }
            _ => match explanation.keys.iter().find(|key| key.state.as_ref().is_some_and(|now| now.state == "probing"))
            {
                Some(key) => self.say(&format!(
                    "The cooldown of {} is over; one request at a time tests the host.",
                    clean(&key.key)
                )),
                None => self.say("Nothing holds it back now."),
            },
        }
        let (Some(effect), Some(response)) = (&explanation.effect, &explanation.response) else { return };
        let target = clean(&response.target);
        match (&*effect.what, effect.length_seconds) {
            ("starts", Some(length)) if explanation.policy.mode == "enforce" => {
                self.say(&format!("This answer would keep {target} out of reach for {}.", of_seconds(length)));
            }
            ("starts", Some(length)) => self.say(&format!(
                "This answer would start a cooldown of {target} for {}; in mode {} nothing is held back by it.",
                of_seconds(length),
                explanation.policy.mode
            )),
            ("counts", _) => self.say("This answer would be counted, and start nothing yet."),
            ("clears", _) => self.say(&format!("This answer would clear {target}.")),
            _ => self.say("This answer would start nothing."),
        }
    }

    fn policy(&mut self, policy: &PolicyPart) {
        match &policy.matched {
            Some(matched) => self.say(&format!("{} applies: it is the most specific that fits.", table(matched))),
            None => self.say("No `[[host]]` fits, so `[defaults]` applies."),
        }
        for other in &policy.less_specific {
            self.say(&format!("{} fits, too, and is less specific.", table(other)));
        }
        let preset = policy.preset.as_deref().map(|preset| format!(", preset `{}`", clean(preset))).unwrap_or_default();
        self.say(&format!("Mode {}{preset}.", policy.mode));
    }

    fn key(&mut self, key: &KeyPart, running: bool) {
        let kind = match (&*key.kind, &key.level) {
            ("host", _) => "the host".to_owned(),
            ("paths", _) => "the paths of the table".to_owned(),
            ("group", _) => "a group of hosts".to_owned(),
            ("bucket", Some(level)) => format!("the bucket that the host named, of level `{level}`"),
            (_, Some(level)) => format!("level `{level}`, by {}", key.by.join(", ")),
            (kind, None) => kind.to_owned(),
        };
        self.line(&format!("  {}", clean(&key.key)));
        self.line(&format!("      {}", clean(&kind)));
        let Some(state) = &key.state else {
            if running {
                self.line("      nothing is known of it: clear");
            }
            return;
        };
        let mut words = vec![state.state.clone()];
        if let Some(reason) = &state.reason {
            words.push(format!("reason {reason}"));
        }
        if let Some(remaining) = state.remaining_seconds.filter(|remaining| *remaining > 0.0) {
            words.push(format!("{} left", of_seconds(remaining)));
        }
        for (number, what) in [
            (state.rate_step, "step of the ladder"),
            (state.breaker_step, "step of the breaker's ladder"),
            (state.failures_in_row, "failures in a row"),
        ] {
            if number > 0 {
                words.push(format!("{what} {number}"));
            }
        }
        if state.frozen {
            words.push("frozen by an operator".to_owned());
        }
        self.line(&format!("      now {}", clean(&words.join(", "))));
        if let Some(error) = &state.last_error {
            self.wrapped("      last error: ", "        ", &clean(error));
        }
    }

    fn response(&mut self, response: &ResponsePart, several: bool) {
        let given = match &*response.given {
            status if status.bytes().all(|byte| byte.is_ascii_digit()) => format!("HTTP {status}"),
            failure => format!("Failure `{}`", clean(failure)),
        };
        self.say(&format!("{given} means {}: {}.", response.outcome, clean(&response.why)));
        let rows: Vec<[String; 3]> = response
            .fields
            .iter()
            .map(|field| {
                let wait = field.wait_seconds.map_or_else(|| "no wait".to_owned(), of_seconds);
                [format!("{}: {}", clean(&field.name), clean(&field.value)), wait, clean(&field.because)]
            })
            .collect();
        self.table(&rows);
        for problem in &response.problems {
            self.say(&format!("Counted as odd: {} {}.", clean(&problem.field), clean(&problem.cause)));
        }
        if let Some(offset) = response.clock_offset_seconds.filter(|offset| offset.abs() >= 1.0) {
            let side = if offset > 0.0 { "ahead of" } else { "behind" };
            self.say(&format!("By its `Date`, the host's clock is {} {side} ours.", of_seconds(offset.abs())));
        }
        if several {
            self.say(&format!("It is for {}: {}.", clean(&response.target), clean(&response.because)));
        }
    }

    fn effect(&mut self, effect: &Effect) {
        self.say(&format!("{}.", capital(&clean(&effect.why))));
        for bound in &effect.bounds {
            let without = match bound.without_seconds {
                Some(without) => format!("otherwise it would be {}", of_seconds(without)),
                None => "otherwise there would be no end".to_owned(),
            };
            let (key, value) = (clean(&bound.key), of_seconds(bound.seconds));
            self.point(&format!("It is {} `{key} = {value}`; {without}.", acts(&key)));
        }
        match (effect.length_seconds, effect.jitter_seconds) {
            (Some(length), Some([least, most])) if least < length || most > length => {
                self.say(&format!("With jitter it is from {} to {}.", of_seconds(least), of_seconds(most)));
            }
            _ => {}
        }
    }

    fn schedule(&mut self, schedule: &Schedule) {
        let is_single = schedule.rows.len() <= 1;
        if is_single && schedule.starts_in_seconds <= 0.0 {
            return;
        }
        self.head("If each request that is let through gets the same answer");
        if schedule.starts_in_seconds > 0.0 {
            self.say(&format!(
                "The key is left alone for {} first; then the schedule begins.",
                of_seconds(schedule.starts_in_seconds)
            ));
        }
        let heads = ["answer", "after", "step", "waits", "decided by"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(heads).chain(schedule.rows.iter().map(row)).collect();
        self.table(&rows);
        if !is_single && schedule.total_seconds > 0.0 {
            self.say(&format!("In all {}.", of_seconds(schedule.total_seconds)));
        }
    }

    fn meanwhile(&mut self, meanwhile: &Meanwhile) {
        match &*meanwhile.what {
            "closed" => self.say(
                "No answer: its connection is closed (`answer.on_cooldown = \"close\"`), which it takes for a broken connection.",
            ),
            "forwarded" => self.say("Nothing of it: in this mode every request is forwarded."),
            _ => {
                if let Some(status) = meanwhile.status {
                    self.line(&format!("  HTTP {status}"));
                }
                if let Some(retry_after) = meanwhile.retry_after {
                    self.line(&format!("  Retry-After: {retry_after}"));
                }
                if let Some(holdoff) = &meanwhile.holdoff {
                    self.line(&format!("  Holdoff: {}", clean(holdoff)));
                }
            }
        }
    }

    /// Rows with their columns below each other.
    fn table<const N: usize>(&mut self, rows: &[[String; N]]) {
        let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..N).map(|at| width(at).unwrap_or_default()).collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(&format!("    {}", cells.collect::<Vec<_>>().join("  ")));
        }
    }
}

fn table(matched: &Matched) -> String {
    let mut text = format!("`[[host]]` \"{}\"", clean(&matched.pattern));
    if !matched.paths.is_empty() {
        text.push_str(&format!(" with paths {}", clean(&matched.paths.join(", "))));
    }
    if let Some(place) = &matched.place {
        text.push_str(&format!(" ({})", clean(place)));
    }
    text
}

fn row(row: &Row) -> [String; 5] {
    let decided = match (&row.decided_by, row.failures) {
        (Some(decided), _) => {
            let bounds =
                row.bounds.iter().map(|bound| format!(", {} `{}`", acts_on_the_way(decided, bound), clean(bound)));
            format!("{}{}", said_by(decided), bounds.collect::<String>())
        }
        (None, Some(failures)) => format!("failure {failures} in a row"),
        (None, None) => String::new(),
    };
    [
        row.answer.to_string(),
        of_seconds(row.at_seconds),
        if row.step == 0 { "-".to_owned() } else { row.step.to_string() },
        row.length_seconds.map_or_else(|| "-".to_owned(), of_seconds),
        decided,
    ]
}

/// Who decided a length, by the word of a source.
fn said_by(source: &str) -> String {
    match source {
        "ladder" => "our ladder".to_owned(),
        "breaker" => "the breaker's ladder".to_owned(),
        "body_rule" => "the rule about bodies".to_owned(),
        other => format!("the host ({})", clean(other)),
    }
}

/// What a bound does.
fn acts(bound: &str) -> &'static str {
    if bound == "cooldown.min_cooldown" { "raised by" } else { "cut by" }
}

/// What a bound does where it need not be what decided that it holds: the host's wait and our ladder have bounds of their
/// own, and the longer of the two is what is waited.
fn acts_on_the_way(decided: &str, bound: &str) -> &'static str {
    match (decided, bound) {
        ("ladder", "cooldown.min_cooldown") => "which begins at",
        ("ladder", "cooldown.max_retry_after") => "the host's wait cut by",
        ("ladder" | "breaker", _) => "cut by",
        (_, "cooldown.max_overwait" | "cooldown.max_backoff") => "our ladder cut by",
        _ => acts(bound),
    }
}

fn of_seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Makes what came from elsewhere fit for a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
