//! What vendors answer, by their own documents, and what the built-in presets make of it: `tests/data/vendors`.
//!
//! A file is of one vendor and has the preset's name; a block is of one answer. It begins with its kind and a title,
//! `== limited: the window of a token is empty`. The kinds: `limited`, an answer that says to wait; `good`, one with something
//! left; `quota`, a good one that was the last for now; `trap`, one that is easily read wrong. Then come
//!
//! - `document`: where the vendor says so; `clock`: what our wall clock said;
//! - lines with `>`: the request, its method and URL first, then fields; lines with `<`: the status, then fields; `body`;
//! - `expected`: the outcome, or for a signal its reason, the wait it names and the field that named it (none: the ladder says);
//! - `level`: what a signal is about, and whether it climbs the ladder; `key`: the scope of the key that cools, with `#` for what
//!   is hashed;
//! - `together`: another request, or the same with another field, that has the same key; `apart`: one that has not; `at`: another
//!   request and the narrowest scope that it has.

use std::collections::BTreeSet;
use std::time::Duration;

use holdoff::config::parse;
use holdoff::config::presets::PRESETS_TOML;
use holdoff::config::settings::HostSettings;
use holdoff::core::classify;
use holdoff::core::decision::{Reason, Source};
use holdoff::core::key::{KeyRef, Scheme};
use holdoff::core::level::{Asked, Level, Scope};
use holdoff::core::signal::Outcome;
use holdoff::core::signal::body::Cools;
use holdoff::core::time::UnixTime;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// The vendors of the contract (SPEC 2.7), each with its file.
const VENDORS: [(&str, &str); 9] = [
    ("anthropic", include_str!("../data/vendors/anthropic.txt")),
    ("azure", include_str!("../data/vendors/azure.txt")),
    ("discord", include_str!("../data/vendors/discord.txt")),
    ("github", include_str!("../data/vendors/github.txt")),
    ("mastodon", include_str!("../data/vendors/mastodon.txt")),
    ("openai", include_str!("../data/vendors/openai.txt")),
    ("reddit", include_str!("../data/vendors/reddit.txt")),
    ("shopify", include_str!("../data/vendors/shopify.txt")),
    ("slack", include_str!("../data/vendors/slack.txt")),
];

/// Presets that are not about a vendor.
const OTHERS: [&str; 5] = ["app-sync", "federation", "mailbox", "mesh", "peer-sync"];

const KINDS: [&str; 4] = ["limited", "good", "quota", "trap"];

#[test]
fn every_answer_means_what_the_vendors_document_says() {
    let mut wrong = Vec::new();
    for (vendor, text) in VENDORS {
        for row in rows(vendor, text) {
            let (found, about) = row.read();
            let place = format!("{vendor}, line {}: {}: {}", row.line, row.kind, row.title);
            if found != row.expected {
                wrong.push(format!("{place}\n  expected {}\n  found    {found}", row.expected));
            }
            if about != row.level {
                wrong.push(format!("{place}\n  expected {:?}\n  found    {about:?}", row.level));
            }
            wrong.extend(row.check_keys().into_iter().map(|error| format!("{place}\n  {error}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_vendor_has_limited_good_and_trap_answers_and_each_names_its_document() {
    for (vendor, text) in VENDORS {
        let rows = rows(vendor, text);
        let kinds: BTreeSet<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
        let proactive = rows[0].settings().policy.signals.proactive;
        for kind in KINDS {
            assert_eq!(kinds.contains(kind), kind != "quota" || proactive, "{vendor}: {kind}");
        }
        for row in &rows {
            assert!(row.document.contains(", https://"), "{vendor}, line {}: {}", row.line, row.document);
            let is_limited = row.kind == "limited" || row.kind == "quota";
            assert!(row.kind == "trap" || (row.expected != "success") == is_limited, "{vendor}, line {}", row.line);
        }
    }
}

#[test]
fn waits_of_milliseconds_are_not_made_a_second() {
    for (vendor, text) in VENDORS {
        let cooldown = &rows(vendor, text)[0].settings().policy.cooldown;
        let is_short = ["azure", "discord"].contains(&vendor);
        assert_eq!(cooldown.min_cooldown < Duration::from_secs(1), is_short, "{vendor}");
    }
}

#[test]
fn every_vendor_table_says_where_it_is_from_and_when_that_was_read() {
    for (vendor, _) in VENDORS {
        let at = PRESETS_TOML.find(&format!("\n[preset.{vendor}.signals]\n")).unwrap();
        let comment: Vec<&str> = PRESETS_TOML[..at].lines().rev().take_while(|line| line.starts_with("# ")).collect();
        assert!(comment.iter().any(|line| line.contains("https://")), "{vendor}: no document");
        assert!(comment.iter().any(|line| line.contains(" 2026-")), "{vendor}: no date");
    }
}

#[test]
fn every_built_in_preset_is_a_vendors_or_known_not_to_be() {
    let known: BTreeSet<&str> = VENDORS.iter().map(|(vendor, _)| *vendor).chain(OTHERS).collect();
    let presets = PRESETS_TOML.lines().filter_map(|line| line.trim_start_matches('[').strip_prefix("preset."));
    for name in presets.filter_map(|rest| rest.split(['.', ']']).next()) {
        assert!(known.contains(name), "`{name}`: give it a file in tests/data/vendors");
    }
}

/// One answer.
#[derive(Default)]
struct Row {
    vendor: &'static str,
    line: usize,
    kind: String,
    title: String,
    document: String,
    clock: UnixTime,
    method: Method,
    /// The name of the host.
    host: String,
    /// Path and query.
    target: String,
    request: HeaderMap,
    status: StatusCode,
    response: HeaderMap,
    body: Option<String>,
    expected: String,
    level: Option<String>,
    key: Option<String>,
    together: Vec<String>,
    apart: Vec<String>,
    at: Vec<String>,
}

impl Row {
    fn settings(&self) -> std::sync::Arc<HostSettings> {
        // A preset says itself what it relies on.
        let defaults = "[defaults.signals]\nstatuses = [418]";
        let text = format!("{defaults}\n[[host]]\nmatch = [\"{}\"]\npreset = \"{}\"\n", self.host, self.vendor);
        let loaded = parse(&text).unwrap_or_else(|errors| panic!("{}: {errors}", self.vendor));
        assert_eq!(loaded.warnings, Vec::<String>::new());
        let key = KeyRef::new(Scheme::Https, &self.host, 443).unwrap().to_key();
        let path = self.target.split('?').next().unwrap();
        std::sync::Arc::clone(loaded.settings.hosts.resolve_at(&key, path))
    }

    /// What the answer means, and for a signal of the head what it is about.
    fn read(&self) -> (String, Option<String>) {
        let settings = self.settings();
        let rules = &settings.policy.signals;
        let reading = classify::response(rules, self.status, &self.response, self.clock);
        let (signal, steps) = match reading.outcome {
            Outcome::Signal(signal) => (signal, true),
            Outcome::OffLadder(signal) => (signal, false),
            // It leaves the ladder alone, as every quota does.
            Outcome::Exhausted(signal) => (signal, true),
            outcome => return self.read_body(&settings).unwrap_or_else(|| (word(&outcome).to_owned(), None)),
        };
        let wait = signal.hint.map(|hint| (hint.wait, hint.source));
        let level = self.place(&settings, reading.scope).map_or("host", |(level, _)| &*level.name);
        (told(signal.reason, wait), Some(format!("{level}, {}", if steps { "step" } else { "no step" })))
    }

    /// What the rules about bodies make of an answer whose head says nothing.
    fn read_body(&self, settings: &HostSettings) -> Option<(String, Option<String>)> {
        let mut watch = settings.bodies.watch(self.status, &self.response)?;
        watch.see(self.body.as_deref()?.as_bytes());
        let rule = watch.finish().matched?.rule;
        let level = match rule.cools {
            Cools::Level => self.place(settings, None).map_or("host", |(level, _)| &*level.name),
            Cools::Host | Cools::Group(_) => "host",
        };
        // Such a match never climbs the ladder.
        Some((told(Reason::BackendBusy, Some((rule.cooldown, Source::BodyRule))), Some(format!("{level}, no step"))))
    }

    /// The level that a signal is about, and what it makes of the request.
    fn place<'s>(&self, settings: &'s HostSettings, scope: Option<usize>) -> Option<(&'s Level, Scope)> {
        let named = scope.and_then(|at| settings.policy.signals.scopes.get(at)).map(|rule| &*rule.level);
        let mut places: Vec<_> = settings.levels.iter().filter_map(|level| Some((level, self.scope(level)?))).collect();
        match named.and_then(|name| places.iter().position(|(level, _)| *level.name == *name)) {
            Some(at) => Some(places.swap_remove(at)),
            None => places.pop(),
        }
    }

    fn scope(&self, level: &Level) -> Option<Scope> {
        let (path, query) =
            self.target.split_once('?').map_or((&*self.target, None), |(path, query)| (path, Some(query)));
        level.scope(&Asked { method: &self.method, path, query, headers: &self.request }, &hash)
    }

    /// What is not as the row says about the key.
    fn check_keys(&self) -> Vec<String> {
        let settings = self.settings();
        let reading = classify::response(&settings.policy.signals, self.status, &self.response, self.clock);
        let Some((level, scope)) = self.place(&settings, reading.scope) else { return vec!["no level".to_owned()] };
        let bucket = level.bucket.as_ref().and_then(|name| self.response.get(name));
        let key =
            |scope: &Scope| bucket.map_or_else(|| scope.text.clone(), |name| scope.bucket(name.as_bytes(), &hash));
        let mut wrong = Vec::new();
        let shown = without_hashes(&key(&scope));
        if self.key.as_ref().is_some_and(|expected| *expected != shown) {
            wrong.push(format!("expected the key {:?}, found {shown:?}", self.key));
        }
        for secret in self.request.values().map(|value| value.to_str().unwrap()).chain(["sesame", "xoxb"]) {
            if key(&scope).contains(secret) || scope.text.contains(secret) {
                wrong.push(format!("`{secret}` is seen in the key"));
            }
        }
        for other in &self.together {
            if self.other(other).scope(level).map(|other| key(&other)) != Some(key(&scope)) {
                wrong.push(format!("expected the same key for `{other}`"));
            }
        }
        for each in &self.at {
            let (request, expected) = each.split_once(" = ").unwrap();
            let found = self.other(request).place(&settings, None).map(|(_, scope)| scope.text);
            let shown = found.as_deref().map(without_hashes);
            if shown.as_deref() != Some(expected) || found.is_some_and(|text| text.contains("sesame")) {
                wrong.push(format!("expected `{each}`, found {shown:?}"));
            }
        }
        for other in &self.apart {
            if self.other(other).scope(level).is_some_and(|other| other.text == scope.text) {
                wrong.push(format!("expected another key for `{other}`"));
            }
        }
        wrong
    }

    /// The request of a `together` or `apart`.
    fn other(&self, text: &str) -> Self {
        let mut other = Self { request: self.request.clone(), target: self.target.clone(), ..Self::default() };
        other.method = self.method.clone();
        match text.split_once(": ") {
            Some((name, value)) => {
                other.request.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            None => {
                let (method, target) = text.split_once(' ').unwrap();
                (other.method, other.target) = (method.parse().unwrap(), target.to_owned());
            }
        }
        other
    }
}

fn told(reason: Reason, wait: Option<(Duration, Source)>) -> String {
    let hint = wait.map(|(wait, source)| format!(" {}s {}", wait.as_secs_f64(), source.as_str()));
    format!("{}{}", reason.as_str(), hint.unwrap_or_default())
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Answered => "answered",
        Outcome::Neutral => "neutral",
        Outcome::Failing(_) => "failing",
        _ => "something else",
    }
}

fn hash(value: &[u8]) -> u64 {
    value.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A scope with `#` for each hash.
fn without_hashes(text: &str) -> String {
    let (mut shown, mut run) = (String::new(), String::new());
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_digit() || matches!(character, 'a'..='f') {
            run.push(character);
            continue;
        }
        shown.push_str(if run.len() == 16 { "#" } else { &run });
        run.clear();
        shown.push(character);
    }
    shown.trim_end().to_owned()
}

fn rows(vendor: &'static str, text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line_number = at + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix("== ") {
            let (kind, title) = head.split_once(": ").unwrap();
            assert!(KINDS.contains(&kind), "{vendor}, line {line_number}: {kind}");
            let (kind, title) = (kind.to_owned(), title.to_owned());
            rows.push(Row { vendor, line: line_number, kind, title, ..Row::default() });
            continue;
        }
        let row = rows.last_mut().unwrap();
        if let Some(line) = line.strip_prefix("> ") {
            match field(line) {
                Some((name, value)) => drop(row.request.append(name, value)),
                None => {
                    let (method, url) = line.split_once(' ').unwrap();
                    let (host, target) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
                    row.method = method.parse().unwrap();
                    (row.host, row.target) = (host.to_owned(), format!("/{target}"));
                }
            }
            continue;
        }
        if let Some(line) = line.strip_prefix("< ") {
            match field(line) {
                Some((name, value)) => drop(row.response.append(name, value)),
                None => row.status = line.parse().unwrap(),
            }
            continue;
        }
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{vendor}, line {line_number}: {line}"));
        let value = value.to_owned();
        match name {
            "document" => row.document = value,
            "clock" => row.clock = wall(&value),
            "body" => row.body = Some(value),
            "expected" => row.expected = value,
            "level" => row.level = Some(value),
            "key" => row.key = Some(value),
            "together" => row.together.push(value),
            "apart" => row.apart.push(value),
            "at" => row.at.push(value),
            _ => panic!("{vendor}, line {line_number}: {name}"),
        }
    }
    rows
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(": ")?;
    Some((name.parse().ok()?, HeaderValue::from_str(value).unwrap()))
}

/// A time of 20 November 2026.
fn wall(text: &str) -> UnixTime {
    const MIDNIGHT: u64 = 1_795_132_800;
    let time = text.strip_prefix("2026-11-20T").and_then(|text| text.strip_suffix('Z')).unwrap();
    let seconds = time.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
    UnixTime::from_secs(MIDNIGHT + seconds)
}
