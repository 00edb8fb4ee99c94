//! `[[defaults.signals.body]]` and its like: rules about bodies (SPEC 2.11).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use toml::de::DeValue;

use super::levels::{Group, is_name};
use super::reader::{Reader, Section};
use super::schema::Schema;
use super::tables::{more_than_zero, seconds};
use super::value::{Mismatch, Setting, Size, Text, describe, quote, quoted, words};
use crate::core::signal::body::{BodyRule, BodyRules, Condition, Cools, Pointer, Scalar, Test, When};

/// The most rules of one table: each may be tried for every answer.
const MAX_RULES: usize = 64;

/// The most statuses, and the most media types, of one rule.
const MAX_LISTED: usize = 32;

/// The most conditions of one rule.
const MAX_CONDITIONS: usize = 32;

/// The longest text, pattern or pointer of a condition.
const MAX_TEXT: usize = 1024;

/// How much of a body is kept, and how much decoding may make of it, unless something else is said.
const PREFIX: usize = 16 << 10;
const DECODED: usize = 64 << 10;

/// No rules.
pub(super) fn none() -> Arc<BodyRules> {
    Arc::new(BodyRules::new(Vec::new(), PREFIX, DECODED))
}

/// `body_prefix` and `decoded_prefix`.
pub(super) fn prefixes<'a>(reader: &mut Reader<'a>, s: &mut Section<'a>, base: &BodyRules) -> (usize, usize) {
    let size = |bytes: usize| Size(u64::try_from(bytes).unwrap_or(u64::MAX));
    let mut read = |name, inherited, most: u64, expected: &str| {
        let good = |size: &Size| if (1 << 10..=most).contains(&size.0) { Ok(()) } else { Err(expected.to_owned()) };
        usize::try_from(reader.checked(s, name, size(inherited), good).0).unwrap_or(inherited)
    };
    let prefix = read("body_prefix", base.prefix(), 1 << 20, "a size from 1KiB to 1MiB");
    (prefix, read("decoded_prefix", base.decoded_prefix(), 8 << 20, "a size from 1KiB to 8MiB"))
}

/// The rules of a table.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    parent: &mut Section<'a>,
    base: &Arc<BodyRules>,
    prefix: usize,
    decoded: usize,
) -> Arc<BodyRules> {
    let Some(tables) = reader.tables(parent, "body", MAX_RULES) else {
        return if (prefix, decoded) == (base.prefix(), base.decoded_prefix()) {
            Arc::clone(base)
        } else {
            Arc::new(BodyRules::new(base.iter().cloned().collect(), prefix, decoded))
        };
    };
    let mut rules: Vec<BodyRule> = Vec::new();
    for mut section in tables {
        reader.open(&section);
        let s = &mut section;
        let name = reader.optional::<RuleName>(s, "name", None).map(|name| name.0);
        let rule = BodyRule {
            name: name.as_deref().unwrap_or_default().into(),
            statuses: reader.checked(s, "statuses", Vec::new(), |statuses: &Vec<StatusCode>| few(statuses)),
            media_types: reader
                .checked(s, "media_types", Vec::new(), |types: &Vec<MediaType>| few(types))
                .into_iter()
                .map(|pattern| pattern.0.into())
                .collect(),
            when: reader.get(s, "when", When::All),
            conditions: reader.checked(s, "conditions", Vec::new(), |conditions: &Vec<Condition>| {
                match conditions.len() {
                    1..=MAX_CONDITIONS => Ok(()),
                    _ => Err(format!("1 to {MAX_CONDITIONS} conditions")),
                }
            }),
            cooldown: reader.checked(s, "cooldown", seconds(600), |cooldown: &Duration| more_than_zero(cooldown)),
            cools: reader.get(s, "cools", Cools::Host),
        };
        reader.required(s, &[("name", "\"no-worker\""), ("conditions", "[{ text = \"died\" }]")]);
        if name.is_some() && rules.iter().any(|other| other.name == rule.name) {
            reader.refuse(s, "name", format!("each rule once, found `\"{}\"` twice", rule.name));
        }
        rules.push(rule);
        reader.finish(section);
    }
    Arc::new(BodyRules::new(rules, prefix, decoded))
}

fn few<T>(list: &[T]) -> Result<(), String> {
    if list.len() <= MAX_LISTED { Ok(()) } else { Err(format!("at most {MAX_LISTED} of them")) }
}

words!(When, "`\"all\"` or `\"any\"`": "all" = When::All, "any" = When::Any);

/// The name of a rule.
struct RuleName(String);

impl Text for RuleName {
    const EXPECTED: &'static str = "a name of 1 to 32 lower-case letters, digits, `-` and `_`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if is_name(text) { Ok(Self(text.to_owned())) } else { Err(None) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A media type, or a pattern for some.
struct MediaType(String);

impl Text for MediaType {
    const EXPECTED: &'static str = "a media type, such as `\"application/json\"`, `\"text/*\"`, `\"application/*+json\"`, `\"+json\"` or `\"*/*\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.contains(';') {
            let bare = text.split(';').next().unwrap_or_default().trim_end();
            return Err(Some(format!("parameters are not looked at; write `\"{bare}\"`")));
        }
        let is_part = |part: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
            !part.is_empty() && part.bytes().all(good)
        };
        let is_good = match text.split_once('/') {
            None => text.strip_prefix('+').is_some_and(is_part),
            Some(("*", "*")) => true,
            Some((kind, "*")) => is_part(kind),
            Some((kind, rest)) => is_part(kind) && is_part(rest.strip_prefix('*').unwrap_or(rest)),
        };
        if is_good && text.len() <= 127 { Ok(Self(text.to_owned())) } else { Err(None) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Text for Cools {
    const EXPECTED: &'static str = "`\"host\"`, `\"level\"` or `\"group:NAME\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text.split_once(':') {
            None if text == "host" => Ok(Self::Host),
            None if text == "level" => Ok(Self::Level),
            Some(("group", name)) => match Group::parse(name) {
                Ok(_) => Ok(Self::Group(name.into())),
                Err(_) => Err(Some(format!("behind `group:` stands {}", Group::EXPECTED))),
            },
            _ => Err(None),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// What a condition is, with an example of each kind.
const CONDITION: &str = "one of `{ pointer = \"/status\", equals = \"failed\" }`, `{ pointer = \"/error\", contains = \"died\" }`, \
                         `{ text = \"died\" }` and `{ regex = \"died|gone\" }`";

impl Setting for Condition {
    fn schema() -> Schema {
        let text = || Schema::text(None, &[]);
        let keys = [
            ("pointer", "Where in a JSON body (RFC 6901): `/error/code`.", text()),
            ("equals", "What stands there: a string, a number, true or false.", Schema::any()),
            ("contains", "What the string there contains.", text()),
            ("text", "What stands somewhere in the body.", text()),
            ("regex", "What fits somewhere in the body; letters are told apart by case.", text()),
        ];
        Schema::table(keys)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        let DeValue::Table(table) = value else { return Err(Mismatch::new(CONDITION, describe(value))) };
        let mut names: Vec<&str> = table.keys().map(|name| &**name.get_ref()).collect();
        names.sort_unstable();
        let text = |name: &str| match table.get(name).map(toml::Spanned::get_ref) {
            Some(DeValue::String(text)) if (1..=MAX_TEXT).contains(&text.len()) => Ok(&**text),
            Some(DeValue::String(text)) if name == "pointer" && text.is_empty() => Ok(""),
            Some(other) => {
                Err(Mismatch::new(format!("a string of 1 to {MAX_TEXT} bytes as `{name}`"), describe(other)))
            }
            None => Err(Mismatch::new(CONDITION, "a table without it")),
        };
        let test = match names.as_slice() {
            ["text"] => return Ok(Self::Text(text("text")?.into())),
            ["regex"] => return regex(text("regex")?),
            ["contains", "pointer"] => Test::Contains(text("contains")?.into()),
            ["equals", "pointer"] => Test::Equals(match table.get("equals").map(toml::Spanned::get_ref) {
                Some(value) => scalar(value)?,
                None => return Err(Mismatch::new(CONDITION, "a table without it")),
            }),
            names => {
                let names: Vec<String> = names.iter().take(4).map(|name| format!("`{}`", visible(name))).collect();
                let found = if names.is_empty() { "none".to_owned() } else { names.join(" and ") };
                return Err(Mismatch::new(CONDITION, format!("a table with {found}")));
            }
        };
        let written = text("pointer")?;
        let pointer = Pointer::parse(written).map_err(|error| {
            Mismatch::new("a JSON pointer (RFC 6901), such as `\"/error/code\"`", quoted(written))
                .help(error.to_string())
        })?;
        Ok(Self::Pointer { pointer, test })
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        Err(Mismatch::new("conditions in the configuration file", quoted(text)))
    }

    fn to_toml(&self) -> String {
        match self {
            Self::Text(text) => format!("{{ text = {} }}", quote(text)),
            Self::Regex(regex) => format!("{{ regex = {} }}", quote(regex.as_str())),
            Self::Pointer { pointer, test } => {
                let test = match test {
                    Test::Contains(text) => format!("contains = {}", quote(text)),
                    Test::Equals(Scalar::Text(text)) => format!("equals = {}", quote(text)),
                    Test::Equals(Scalar::Float(number)) => format!("equals = {number:?}"),
                    Test::Equals(scalar) => format!("equals = {scalar}"),
                };
                // The pointer to the whole is shown in quotes.
                let pointer = pointer.to_string();
                let pointer = if pointer.starts_with('/') { pointer } else { String::new() };
                format!("{{ pointer = {}, {test} }}", quote(&pointer))
            }
        }
    }
}

fn visible(name: &str) -> String {
    name.chars().take(40).map(super::diagnostic::visible).collect()
}

fn regex(pattern: &str) -> Result<Condition, Mismatch> {
    let condition = Condition::regex(pattern).map_err(|error| {
        // The parser draws the pattern over several lines; the last one says what is wrong.
        let cause = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Mismatch::new("a regular expression", quoted(pattern)).help(cause)
    })?;
    match &condition {
        Condition::Regex(regex) if regex.is_match(b"") => {
            Err(Mismatch::new("a regular expression that does not fit every body", quoted(pattern)))
        }
        _ => Ok(condition),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<Scalar, Mismatch> {
    let expected = || Mismatch::new("a string, a number, `true` or `false` as `equals`", describe(value));
    match value {
        DeValue::String(text) if text.len() <= MAX_TEXT => Ok(Scalar::Text((&**text).into())),
        DeValue::Boolean(value) => Ok(Scalar::Bool(*value)),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map(Scalar::Integer).map_err(|_| expected())
        }
        DeValue::Float(_) => f64::from_toml(value).map(Scalar::Float).map_err(|_| expected()),
        _ => Err(expected()),
    }
}
