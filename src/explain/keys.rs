//! Which settings hold for a request, and what it is held against: the same as `proxy::keys` finds, without making an entry of
//! the table for it.

use http::HeaderMap;

use super::Known;
use super::question::Question;
use super::view::{KeyPart, KeyState, Matched, PolicyPart, seconds};
use crate::config::settings::{Host, HostSettings, HostTarget, Hosts, OnCooldown, Settings};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::level::{Asked, By, Level};
use crate::core::signal::Outcome;
use crate::core::time::Instant;

/// The most tables that are named beside the one that applies.
const MAX_OTHERS: usize = 3;

/// The longest name of a bucket, as in `proxy::keys`.
const MAX_BUCKET: usize = 128;

/// The name of the base among levels.
const HOST: &str = "host";

/// What a request is held against.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The host, as the request is counted: an upgraded one is of https.
    pub(super) host: Key,
    /// Whether it is an upgraded one.
    pub(super) upgraded: bool,
    /// The base first.
    pub(super) places: Vec<Place>,
}

/// One key of a request.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    /// `None`: the base.
    pub(super) level: Option<usize>,
    /// Named by the host's answers.
    pub(super) is_bucket: bool,
}

/// The settings of a request: those of the most specific table.
pub(super) fn settings_of<'s>(settings: &'s Settings, question: &Question) -> (Key, bool, &'s HostSettings) {
    let hosts = &settings.hosts;
    let upgraded = hosts.upgrades(&question.key.as_ref());
    let host = if upgraded {
        KeyRef::new(Scheme::Https, question.key.host(), Scheme::Https.default_port())
            .map_or_else(|_| question.key.clone(), |key| key.to_key())
    } else {
        question.key.clone()
    };
    let of = hosts.resolve_at(&host, &question.path);
    (host, upgraded, of)
}

/// The keys of a request, and of the answer that names a bucket.
pub(super) fn places(
    (host, upgraded): (&Key, bool),
    of: &HostSettings,
    question: &Question,
    answer: Option<&HeaderMap>,
    hash: &dyn Fn(&[u8]) -> u64,
    known: &dyn Fn(&Key) -> Option<Known>,
) -> Places {
    let base = of.base(host).unwrap_or_else(|| host.clone());
    let mut places = vec![Place { key: base.clone(), level: None, is_bucket: false }];
    let asked = Asked {
        method: &question.method,
        path: &question.path,
        query: question.query.as_deref(),
        headers: &question.headers,
    };
    for (at, level) in of.levels.iter().enumerate() {
        let Some(scope) = level.scope(&asked, hash) else { continue };
        let key = base.narrowed(&scope.text, hash);
        let named = level.bucket.as_ref().and_then(|field| answer?.get(field));
        let named = named.filter(|name| (1..=MAX_BUCKET).contains(&name.len()));
        let bucket = match named {
            Some(name) => Some(base.narrowed(&scope.bucket(name.as_bytes(), hash), hash)),
            None => known(&key).and_then(|known| known.bucket),
        };
        places.push(Place { key, level: Some(at), is_bucket: false });
        places.extend(bucket.map(|key| Place { key, level: Some(at), is_bucket: true }));
    }
    Places { host: host.clone(), upgraded, places }
}

impl Places {
    /// The place that an outcome is for, and why that one.
    pub(super) fn target(&self, of: &HostSettings, outcome: &Outcome, scope: Option<usize>) -> (usize, String) {
        let name = |level: &Level| format!("level `{}`", level.name);
        let of_place = |at: usize| {
            let level = self.places.get(at).and_then(|place| of.levels.get(place.level?));
            level.map_or_else(|| "the host".to_owned(), name)
        };
        if matches!(outcome, Outcome::Failing(_)) {
            return (0, "the breaker stands at the host alone".to_owned());
        }
        let narrowest = self.places.len().saturating_sub(1);
        if !matches!(outcome, Outcome::Signal(_) | Outcome::OffLadder(_) | Outcome::Exhausted(_)) {
            let because =
                if narrowest == 0 { "it has no other key" } else { "what is no signal is about all its keys" };
            return (0, because.to_owned());
        }
        match scope.and_then(|at| of.policy.signals.scopes.get(at)) {
            None if narrowest == 0 => (0, "no other key of the request learns from answers".to_owned()),
            None => {
                (narrowest, format!("no field says what it is about, so it is the narrowest: {}", of_place(narrowest)))
            }
            Some(rule) if *rule.level == *HOST => {
                (0, format!("`{}: {}` says that it is about the host", rule.field, rule.equals))
            }
            Some(rule) => {
                let found = self.places.iter().rposition(|place| {
                    place.level.and_then(|at| of.levels.get(at)).is_some_and(|level| level.name == rule.level)
                });
                match found {
                    Some(at) => {
                        (at, format!("`{}: {}` says that it is about level `{}`", rule.field, rule.equals, rule.level))
                    }
                    None => (
                        narrowest,
                        format!(
                            "`{}: {}` names level `{}`, of which the request is not, so it is the narrowest",
                            rule.field, rule.equals, rule.level
                        ),
                    ),
                }
            }
        }
    }

    /// How they are shown.
    pub(super) fn parts(
        &self,
        of: &HostSettings,
        target: Option<usize>,
        known: &dyn Fn(&Key) -> Option<Known>,
        now: Instant,
    ) -> Vec<KeyPart> {
        let part = |(at, place): (usize, &Place)| {
            let level = place.level.and_then(|level| of.levels.get(level));
            let kind = match level {
                Some(_) if place.is_bucket => "bucket",
                Some(_) => "level",
                None if place.key.is_group() => "group",
                None if !place.key.scope().is_empty() => "paths",
                None => "host",
            };
            KeyPart {
                key: place.key.to_string(),
                kind: kind.to_owned(),
                level: level.map(|level| level.name.to_string()),
                by: level.filter(|_| !place.is_bucket).map_or_else(Vec::new, |level| level.by.iter().map(by).collect()),
                is_target: target == Some(at),
                state: known(&place.key).map(|known| state(&known, now)),
            }
        };
        self.places.iter().enumerate().map(part).collect()
    }
}

/// The host itself where it is none of the keys of its requests, as with a group, and an operator froze it all the same.
pub(super) fn frozen_whole(places: &Places, known: &dyn Fn(&Key) -> Option<Known>, now: Instant) -> Option<KeyPart> {
    let host = &places.host;
    if places.places.iter().any(|place| place.key == *host) {
        return None;
    }
    let state = known(host).map(|known| state(&known, now)).filter(|state| state.frozen)?;
    Some(KeyPart {
        key: host.to_string(),
        kind: "host".to_owned(),
        level: None,
        by: Vec::new(),
        is_target: false,
        state: Some(state),
    })
}

fn by(by: &By) -> String {
    match by {
        By::Method => "method".to_owned(),
        By::Path => "path".to_owned(),
        By::Header(name) => format!("header:{name}"),
        By::Query(name) => format!("query:{name}"),
    }
}

fn state(known: &Known, now: Instant) -> KeyState {
    let view = &known.snapshot.view;
    let live = view.cooldown.as_ref();
    KeyState {
        state: view.state.as_str().to_owned(),
        reason: live.map(|live| live.reason.as_str().to_owned()),
        remaining_seconds: live.map(|live| seconds(live.deadline.saturating_since(now))),
        rate_step: view.rate_step,
        breaker_step: view.breaker_step,
        failures_in_row: view.failures_in_row,
        frozen: view.frozen_until.is_some_and(|until| until > now),
        last_error: known.snapshot.last_error.as_deref().map(str::to_owned),
    }
}

/// Which table applies, and which others would.
pub(super) fn policy(hosts: &Hosts, host: &Key, path: &str, of: &HostSettings) -> PolicyPart {
    let applies = hosts.host_at(host, path);
    let (mut matched, mut others) = (None, Vec::new());
    for (at, table) in hosts.hosts.iter().enumerate() {
        let paths = &table.settings.paths;
        let fits = paths.is_empty() || paths.iter().any(|template| template.matches(path));
        let Some((weight, mut found)) = found(table, host).filter(|_| fits) else { continue };
        found.place = hosts.places.get(at).and_then(|place| place.as_deref().map(str::to_owned));
        if applies.is_some_and(|applies| std::ptr::eq(applies, table)) {
            matched = Some(found);
        } else {
            others.push((weight, found));
        }
    }
    others.sort_by_key(|(weight, _)| *weight);
    PolicyPart {
        matched,
        less_specific: others.into_iter().take(MAX_OTHERS).map(|(_, matched)| matched).collect(),
        preset: of.preset.as_deref().map(str::to_owned),
        mode: of.policy.mode.as_str().to_owned(),
        on_cooldown: match of.on_cooldown {
            OnCooldown::Answer => "answer",
            OnCooldown::Close => "close",
        }
        .to_owned(),
    }
}

/// The most specific pattern of a table that fits; the smaller weight is the more specific.
fn found(table: &Host, host: &Key) -> Option<((u8, usize, bool, bool), Matched)> {
    let weight = |target: &HostTarget| match target {
        HostTarget::Exact(_) => (0, 0),
        HostTarget::Suffix(suffix) => (1, usize::MAX.saturating_sub(suffix.len())),
        HostTarget::Net(network) => (2, usize::MAX.saturating_sub(usize::from(network.prefix_len()))),
        HostTarget::Any => (3, 0),
    };
    let key = host.as_ref();
    let fitting = table.patterns.iter().filter(|pattern| pattern.matches(&key)).map(|pattern| {
        let (kind, length) = weight(&pattern.target);
        ((kind, length, pattern.port.is_none(), pattern.scheme.is_none()), pattern)
    });
    let (weight, pattern) = fitting.min_by_key(|(weight, _)| *weight)?;
    let paths = table.settings.paths.iter().map(|path| path.as_str().to_owned()).collect();
    Some((weight, Matched { pattern: pattern.text.clone(), paths, place: None }))
}
