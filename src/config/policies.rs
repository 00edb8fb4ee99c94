//! What `[defaults]`, a preset and a `[[host]]` have in common: the tables of a policy, each over what it inherits.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::bodies;
use super::check;
use super::diagnostic::Diagnostic;
use super::headers::Headers;
use super::levels::{self, Group};
use super::presets::Presets;
use super::reader::{Reader, Section};
use super::settings::{Answer, AnswerFormat, Host, HostPattern, HostSettings, Hosts, OnCooldown, Timeouts, Tls};
use super::signals;
use super::tables::{more_than_zero, seconds};
use super::tls;
use super::value::Size;
use crate::core::level::Template;
use crate::core::policy::{BreakerLimits, CooldownLimits, Mode, Policy};

/// The largest body of a synthetic answer.
const MAX_BODY: usize = 64 << 10;

/// The most `paths` of one table.
const MAX_PATHS: usize = 64;

/// Reads `[defaults]`, the file's own presets and every `[[host]]`.
pub(super) fn read<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Hosts {
    let mut presets = Presets::new(reader, root);
    let mut section = reader.section(root, "defaults");
    let preset = presets.choose(reader, &mut section);
    let defaults = Arc::new(HostSettings { preset, ..settings(reader, &mut section, &built_in()) });
    refuse_insecure(reader, &section, &defaults);
    reader.finish(section);
    presets.check(reader, &defaults);
    let (mut hosts, mut places) = (Vec::new(), Vec::new());
    for mut section in reader.list(root, "host", true) {
        reader.open(&section);
        let patterns: Vec<HostPattern> = reader.get(&mut section, "match", Vec::new());
        let key = section.key("match");
        if !reader.is_said(&key) {
            reader.missing(&section, "match", "[\"peer.example\"]");
        } else if patterns.is_empty() && !reader.is_refused(&key) {
            let place = reader.place_at(&key, None);
            reader.errors.push(Diagnostic::new(place, "`match`: expected at least one pattern, found none"));
        }
        let preset = presets.choose(reader, &mut section).or_else(|| defaults.preset.clone());
        let paths = reader.checked(&mut section, "paths", Vec::new(), |paths: &Vec<Template>| good_paths(paths));
        let group = reader.optional::<Group>(&mut section, "group", None).map(|group| group.0);
        let settings = settings(reader, &mut section, &defaults);
        let settings = HostSettings { preset, paths, group, ..settings };
        if settings.tls.insecure {
            let names: Vec<&str> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
            reader.warnings.push(format!(
                "`insecure` is on for {}: whoever is on the way can read and change everything; give the host's CA in \
                 `[host.tls] ca_files` instead",
                names.join(", ")
            ));
        }
        hosts.push(Host { patterns, settings: Arc::new(settings) });
        places.push(reader.line_of_table(&section).map(String::into_boxed_str));
        reader.finish(section);
    }
    Hosts { places, ..Hosts::new(defaults, hosts) }
}

/// Any certificate is good per host only.
pub(super) fn refuse_insecure(reader: &mut Reader<'_>, section: &Section<'_>, settings: &HostSettings) {
    let key = section.key("tls.insecure");
    if settings.tls.insecure && reader.is_said(&key) {
        let place = reader.place_at(&key, None);
        let message = format!("`insecure`: expected `false` in `{}`, found `true`", section.label());
        let error = Diagnostic::new(place, message);
        reader.errors.push(error.help("name the hosts whose certificates need not be good: `[[host]]`, `[host.tls]`"));
    }
}

fn good_paths(paths: &[Template]) -> Result<(), String> {
    let twice = |(at, path): (usize, &Template)| paths.iter().take(at).any(|other| other == path);
    if paths.len() > MAX_PATHS {
        Err(format!("at most {MAX_PATHS} paths"))
    } else if paths.iter().enumerate().any(twice) {
        Err("each path once".to_owned())
    } else {
        Ok(())
    }
}

/// What holds where nobody says anything.
pub(super) fn built_in() -> HostSettings {
    HostSettings {
        preset: None,
        paths: Vec::new(),
        group: None,
        levels: Arc::default(),
        policy: Arc::new(Policy::default()),
        bodies: bodies::none(),
        on_cooldown: OnCooldown::Answer,
        answer: Answer::default(),
        tls: Tls::default(),
        timeouts: Timeouts {
            connect: seconds(10),
            tls: seconds(10),
            head: Duration::ZERO,
            body_idle: seconds(300),
            tunnel_idle: seconds(3600),
            max_request_body: 0,
        },
    }
}

/// The settings of `[defaults]`, of a preset or of one `[[host]]`: what it does not say is that of `base`.
pub(super) fn settings<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>, base: &HostSettings) -> HostSettings {
    let mode = reader.get::<Mode>(section, "mode", base.policy.mode);
    let levels = levels::read(reader, section, &base.levels);
    let (signals, bodies) = signals::read(reader, section, &base.policy.signals, &base.bodies);
    signals::check_scopes(reader, section, &signals.scopes, &levels, !Arc::ptr_eq(&levels, &base.levels));
    let policy = Policy {
        mode,
        signals,
        cooldown: cooldown(reader, section, &base.policy.cooldown),
        breaker: breaker(reader, section, &base.policy.breaker),
    };
    if let Err(error) = policy.check() {
        check::policy(reader, section, &error, base.policy.check().is_ok());
    }
    let policy = if policy == *base.policy { Arc::clone(&base.policy) } else { Arc::new(policy) };
    let (answer, on_cooldown) = answer(reader, section, &base.answer, base.on_cooldown);
    HostSettings {
        preset: base.preset.clone(),
        paths: base.paths.clone(),
        group: base.group.clone(),
        levels,
        policy,
        bodies,
        on_cooldown,
        answer,
        tls: tls::read(reader, section, &base.tls),
        timeouts: timeouts(reader, section, &base.timeouts),
    }
}

fn cooldown<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &CooldownLimits) -> CooldownLimits {
    let mut section = reader.section(parent, "cooldown");
    let s = &mut section;
    let cooldown = CooldownLimits {
        min_cooldown: reader.get(s, "min_cooldown", base.min_cooldown),
        default_cooldown: reader.get(s, "default_cooldown", base.default_cooldown),
        growth: reader.get(s, "growth", base.growth),
        max_backoff: reader.get(s, "max_backoff", base.max_backoff),
        max_overwait: reader.get(s, "max_overwait", base.max_overwait),
        max_retry_after: reader.get(s, "max_retry_after", base.max_retry_after),
        ladder: reader.get(s, "ladder", base.ladder),
        jitter: reader.get(s, "jitter", base.jitter),
        hint_jitter: reader.get(s, "hint_jitter", base.hint_jitter),
        probe_lease: reader.get(s, "probe_lease", base.probe_lease),
        success_threshold: threshold(reader, s, "success_threshold", base.success_threshold, 1..=1000),
        ramp: reader.get(s, "ramp", base.ramp),
        quiet_time: reader.get(s, "quiet_time", base.quiet_time),
    };
    reader.finish(section);
    cooldown
}

fn breaker<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &BreakerLimits) -> BreakerLimits {
    let mut section = reader.section(parent, "breaker");
    let s = &mut section;
    let breaker = BreakerLimits {
        failure_threshold: threshold(reader, s, "failure_threshold", base.failure_threshold, 0..=1000),
        failure_window: reader.get(s, "failure_window", base.failure_window),
        initial: reader.get(s, "initial", base.initial),
        growth: reader.get(s, "growth", base.growth),
        max: reader.get(s, "max", base.max),
        classes: reader.get(s, "classes", base.classes),
    };
    reader.finish(section);
    breaker
}

fn threshold<'a>(
    reader: &mut Reader<'a>,
    section: &mut Section<'a>,
    name: &'static str,
    default: u32,
    range: std::ops::RangeInclusive<u64>,
) -> u32 {
    let default = usize::try_from(default).unwrap_or(usize::MAX);
    u32::try_from(reader.count(section, name, default, range)).unwrap_or(u32::MAX)
}

fn answer<'a>(
    reader: &mut Reader<'a>,
    parent: &mut Section<'a>,
    base: &Answer,
    on_cooldown: OnCooldown,
) -> (Answer, OnCooldown) {
    let mut section = reader.section(parent, "answer");
    let s = &mut section;
    let on_cooldown = reader.get(s, "on_cooldown", on_cooldown);
    let answer = Answer {
        status: reader.optional::<StatusCode>(s, "status", base.status),
        max_advertised: reader.optional::<Duration>(s, "max_advertised", base.max_advertised),
        format: reader.get(s, "format", base.format),
        body: reader.optional::<String>(s, "body", base.body.clone()),
        content_type: reader.optional::<HeaderValue>(s, "content_type", base.content_type.clone()),
        headers: reader.get(s, "headers", Headers(base.headers.clone())).0,
        annotate: reader.get(s, "annotate", base.annotate),
    };
    let mut refuse = |key: &str, expected: &str| {
        let place = reader.place_at(&s.key(key), None).or_else(|| reader.place_of_table(s));
        reader.errors.push(Diagnostic::new(place, format!("`{key}`: expected {expected}")));
    };
    if answer.status.is_some_and(|status| !(status.is_client_error() || status.is_server_error())) {
        refuse("status", "a status from 400 to 599: a request that was not sent has not succeeded");
    }
    if answer.max_advertised.is_some_and(|longest| longest < seconds(1)) {
        refuse("max_advertised", "at least 1s, since `Retry-After` is in whole seconds and 0 means at once");
    }
    if answer.body.as_ref().is_some_and(|body| body.len() > MAX_BODY) {
        refuse("body", "at most 64 KiB");
    }
    if answer.format == AnswerFormat::Custom && answer.body.is_none() && !reader.is_refused(&s.key("body")) {
        let place = reader.place_at(&s.key("format"), None);
        let error = Diagnostic::new(place, "`format`: expected `body` beside the format `\"custom\"`, found none");
        reader.errors.push(error.help("add `body = \"…\"` and, if it is not plain text, `content_type`"));
    }
    // In `[defaults]` they may be meant for hosts that ask for the format.
    if answer.format != AnswerFormat::Custom && s.inherits {
        for key in ["body", "content_type"] {
            if let Some(place) = reader.place_at(&s.key(key), None) {
                let error =
                    Diagnostic::new(Some(place), format!("`{key}`: expected beside `format = \"custom\"` only"));
                reader.errors.push(error.help("add `format = \"custom\"`"));
            }
        }
    }
    reader.finish(section);
    (answer, on_cooldown)
}

fn timeouts<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &Timeouts) -> Timeouts {
    let mut section = reader.section(parent, "timeouts");
    let s = &mut section;
    let timeouts = Timeouts {
        connect: reader.checked(s, "connect", base.connect, more_than_zero),
        tls: reader.checked(s, "tls", base.tls, more_than_zero),
        head: reader.get(s, "head", base.head),
        body_idle: reader.get(s, "body_idle", base.body_idle),
        tunnel_idle: reader.get(s, "tunnel_idle", base.tunnel_idle),
        max_request_body: reader.get(s, "max_request_body", Size(base.max_request_body)).0,
    };
    reader.finish(section);
    timeouts
}
