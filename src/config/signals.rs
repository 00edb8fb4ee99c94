//! `[defaults.signals]` and its like: what counts as a signal.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::bodies;
use super::reader::{Reader, Section};
use super::value::{Text, words};
use crate::core::level::Level;
use crate::core::policy::{FieldRule, MAX_FIELD_RULES, Policy, ScopeRule, SignalRules, Unit};
use crate::core::signal::body::BodyRules;

/// The most `ignore_methods`.
const MAX_METHODS: usize = 32;

/// What a scope names that is no level.
const HOST: &str = "host";

/// Reads the table. A list of tables that is said stands in the place of the inherited one.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    parent: &mut Section<'a>,
    base: &SignalRules,
    bodies: &Arc<BodyRules>,
) -> (SignalRules, Arc<BodyRules>) {
    let mut section = reader.section(parent, "signals");
    let s = &mut section;
    let few = |methods: &Vec<Method>| {
        if methods.len() <= MAX_METHODS { Ok(()) } else { Err(format!("at most {MAX_METHODS} methods")) }
    };
    let signals = SignalRules {
        statuses: reader.get(s, "statuses", base.statuses.clone()),
        unavailable: reader.get(s, "unavailable", base.unavailable.clone()),
        limited_with_hint: reader.get(s, "limited_with_hint", base.limited_with_hint.clone()),
        hintless: reader.get(s, "hintless", base.hintless),
        trust_hints: reader.get(s, "trust_hints", base.trust_hints),
        fractional_seconds: reader.get(s, "fractional_seconds", base.fractional_seconds),
        proactive: reader.get(s, "proactive", base.proactive),
        ignore_methods: reader.checked(s, "ignore_methods", base.ignore_methods.clone(), few),
        ..SignalRules::default()
    };
    let (prefix, decoded) = bodies::prefixes(reader, s, bodies);
    let signals = SignalRules { fields: fields(reader, s, &base.fields), ..signals };
    let signals = SignalRules { scopes: scopes(reader, s, &base.scopes), ..signals };
    let bodies = bodies::read(reader, s, bodies, prefix, decoded);
    reader.finish(section);
    (signals, bodies)
}

fn fields<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &[FieldRule]) -> Vec<FieldRule> {
    let Some(tables) = reader.tables(parent, "field", MAX_FIELD_RULES) else { return base.to_vec() };
    let mut fields: Vec<FieldRule> = Vec::new();
    for mut section in tables {
        reader.open(&section);
        let s = &mut section;
        let reset = reader.optional::<HeaderName>(s, "reset", None);
        let unit = reader.optional::<Unit>(s, "unit", None);
        let remaining = reader.optional::<HeaderName>(s, "remaining", None);
        reader.required(s, &[("reset", "\"x-ratelimit-reset\""), ("unit", "\"epoch_seconds\"")]);
        if let (Some(reset), Some(unit)) = (reset, unit) {
            fields.push(FieldRule { reset, unit, remaining });
            let signals = SignalRules { fields: fields.clone(), ..SignalRules::default() };
            if let Err(error) = (Policy { signals, ..Policy::default() }).check() {
                reader.refuse(s, "reset", error.expected);
                fields.pop();
            }
        }
        reader.finish(section);
    }
    fields
}

fn scopes<'a>(reader: &mut Reader<'a>, parent: &mut Section<'a>, base: &[ScopeRule]) -> Vec<ScopeRule> {
    let Some(tables) = reader.tables(parent, "scope", MAX_FIELD_RULES) else { return base.to_vec() };
    let mut scopes: Vec<ScopeRule> = Vec::new();
    for mut section in tables {
        reader.open(&section);
        let s = &mut section;
        let good = |text: &String| match text.trim().len() {
            1..=MAX_EQUALS => Ok(()),
            _ => Err(format!("a value of 1 to {MAX_EQUALS} bytes")),
        };
        let field = reader.optional::<HeaderName>(s, "field", None);
        let equals = reader.checked(s, "equals", "*".to_owned(), good);
        let level = reader.get(s, "level", HOST.to_owned());
        let step = reader.get(s, "step", true);
        let examples = [("field", "\"x-ratelimit-scope\""), ("equals", "\"global\""), ("level", "\"host\"")];
        reader.required(s, &examples);
        let Some(field) = field else {
            reader.finish(section);
            continue;
        };
        let equals = equals.trim();
        if scopes.iter().any(|other| other.field == field && other.equals.eq_ignore_ascii_case(equals)) {
            reader.refuse(s, "equals", format!("each value of `{field}` once, found `{equals}` twice"));
        } else {
            scopes.push(ScopeRule { field, equals: equals.into(), level: level.into(), step });
        }
        reader.finish(section);
    }
    scopes
}

/// The longest value that a scope compares with.
const MAX_EQUALS: usize = 256;

/// Checks that each scope names a level of its table, once both are known.
pub(super) fn check_scopes(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    scopes: &[ScopeRule],
    levels: &[Level],
    says_levels: bool,
) {
    for (index, scope) in scopes.iter().enumerate() {
        if &*scope.level == HOST || levels.iter().any(|level| level.name == scope.level) {
            continue;
        }
        let key = section.key(&format!("signals.scope.{index}.level"));
        // What is only inherited was reported where it stands.
        if !reader.is_said(&key) && !says_levels {
            continue;
        }
        let names = levels.iter().map(|level| &*level.name).chain([HOST]);
        let names: Vec<String> = names.map(|name| format!("`\"{name}\"`")).collect();
        reader.refuse_at(
            section,
            &key,
            format!("`level`: expected the name of a level of this table, found `\"{}\"`", scope.level),
            format!(
                "there are {}; a level is added by `[[{}.level]]`",
                names.join(", "),
                section.label().trim_matches(['[', ']'])
            ),
        );
    }
}

words!(Unit, "`\"seconds\"`, `\"milliseconds\"`, `\"epoch_seconds\"`, `\"epoch_milliseconds\"`, `\"duration\"`, \
    `\"iso8601\"` or `\"rfc3339\"`":
    "seconds" = Unit::Seconds, "milliseconds" = Unit::Milliseconds, "epoch_seconds" = Unit::EpochSeconds,
    "epoch_milliseconds" = Unit::EpochMilliseconds, "duration" = Unit::Duration, "iso8601" = Unit::Iso8601,
    "rfc3339" = Unit::Rfc3339);

impl Text for Method {
    const EXPECTED: &'static str = "a method, such as `\"POST\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let upper = text.to_ascii_uppercase();
        if upper != text {
            // Methods tell upper case from lower case, and those that are in use are in upper case.
            return Err(Self::from_bytes(upper.as_bytes()).is_ok().then(|| format!("write `\"{upper}\"`")));
        }
        Self::from_bytes(text.as_bytes()).map_err(|_| None)
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}
