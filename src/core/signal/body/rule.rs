//! Rules about bodies: what an operator writes, checked elsewhere, as plain values.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use regex::bytes::{Regex, RegexBuilder};

use super::json::Pointer;

/// The most memory a compiled regular expression may take.
const MAX_REGEX: usize = 1 << 20;

/// What is looked for in the bodies of some responses, and what follows where it is found.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyRule {
    /// The name, for logs and for what operators are shown.
    pub name: Box<str>,
    /// The statuses of the responses that are looked at; none: every 2xx.
    pub statuses: Vec<StatusCode>,
    /// The media types of the responses that are looked at, without regard to case and parameters: `application/json`,
    /// `text/*`, `application/*+json`, `+json` (whatever ends so), `*/*`; none: every one. A response that does not name
    /// its type is fitted by none and by `*/*` only.
    pub media_types: Vec<Box<str>>,
    /// How many of the conditions must hold.
    pub when: When,
    /// The conditions. A rule without any never matches.
    pub conditions: Vec<Condition>,
    /// How long to cool.
    pub cooldown: Duration,
    /// What cools.
    pub cools: Cools,
}

impl BodyRule {
    /// Whether the body of a response with this status and media type is looked at.
    pub(super) fn fits(&self, status: StatusCode, media_type: Option<&[u8]>) -> bool {
        let is_status = if self.statuses.is_empty() { status.is_success() } else { self.statuses.contains(&status) };
        let is_type = self.media_types.is_empty()
            || self.media_types.iter().any(|pattern| match media_type {
                Some(media_type) => is_of(media_type, pattern.as_bytes()),
                None => &**pattern == "*/*",
            });
        is_status && is_type
    }
}

/// Whether a media type is one of those that a pattern stands for.
fn is_of(media_type: &[u8], pattern: &[u8]) -> bool {
    let starts = |start: &[u8]| media_type.get(..start.len()).is_some_and(|part| part.eq_ignore_ascii_case(start));
    let ends = |end: &[u8]| {
        let from = media_type.len().saturating_sub(end.len());
        media_type.get(from..).is_some_and(|part| part.eq_ignore_ascii_case(end))
    };
    let mut parts = pattern.split(|&byte| byte == b'*');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(b""), Some(b"/"), Some(b"")) => true,
        (Some(end @ [b'+', ..]), None, None) => ends(end),
        (Some(whole), None, None) => media_type.eq_ignore_ascii_case(whole),
        (Some(start), Some(end), None) => {
            starts(start) && ends(end) && media_type.len() >= start.len().saturating_add(end.len())
        }
        _ => false,
    }
}

/// How many of a rule's conditions must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum When {
    /// Every one.
    #[default]
    All,
    /// One at least.
    Any,
}

/// What a match cools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cools {
    /// The host, whatever the key of the request was.
    Host,
    /// The key that the request was counted for.
    #[default]
    Level,
    /// A named group of hosts.
    Group(Box<str>),
}

impl fmt::Display for Cools {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => out.write_str("host"),
            Self::Level => out.write_str("level"),
            Self::Group(name) => write!(out, "group:{name}"),
        }
    }
}

/// What may be true of a body.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The decoded body has these bytes somewhere; case counts.
    Text(Box<str>),
    /// The decoded body is matched somewhere. Made by [`Condition::regex`].
    Regex(Regex),
    /// The decoded body is JSON, and what is found at this place passes a test. Where a name stands twice in an object,
    /// one of its values is enough.
    Pointer {
        /// The place.
        pointer: Pointer,
        /// The test.
        test: Test,
    },
}

impl Condition {
    /// A condition with a regular expression over bytes, in which `.`, `\w` and the like know ASCII only.
    ///
    /// # Errors
    ///
    /// What is wrong with the pattern, or that it would take more than a mebibyte.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(MAX_REGEX)
            .dfa_size_limit(MAX_REGEX)
            .build()
            .map(Self::Regex)
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Regex(one), Self::Regex(two)) => one.as_str() == two.as_str(),
            (Self::Pointer { pointer: one, test: first }, Self::Pointer { pointer: two, test: second }) => {
                one == two && first == second
            }
            _ => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(out, "text {text:?}"),
            Self::Regex(regex) => write!(out, "regex {:?}", regex.as_str()),
            Self::Pointer { pointer, test: Test::Equals(scalar) } => write!(out, "pointer {pointer} equals {scalar}"),
            Self::Pointer { pointer, test: Test::Contains(text) } => write!(out, "pointer {pointer} contains {text:?}"),
        }
    }
}

/// A test of one JSON value. Objects and arrays pass none, and neither does a string or a number that is cut off.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is this value.
    Equals(Scalar),
    /// It is a string that has this text somewhere; case counts.
    Contains(Box<str>),
}

/// A JSON value that is neither an object nor an array. Numbers are compared as numbers, however they are written: 0, 0.0
/// and 0e7 are the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(Box<str>),
}

impl fmt::Display for Scalar {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Integer(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Text(value) => write!(out, "{value:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(statuses: &[u16], media_types: &[&str]) -> BodyRule {
        BodyRule {
            name: "a rule".into(),
            statuses: statuses.iter().map(|&status| StatusCode::from_u16(status).unwrap()).collect(),
            media_types: media_types.iter().map(|&pattern| pattern.into()).collect(),
            when: When::All,
            conditions: Vec::new(),
            cooldown: Duration::from_secs(600),
            cools: Cools::Host,
        }
    }

    #[test]
    fn a_rule_without_statuses_looks_at_every_good_answer() {
        for (statuses, status, expected) in [
            (&[][..], 200, true),
            (&[], 299, true),
            (&[], 302, false),
            (&[], 500, false),
            (&[200], 200, true),
            (&[200], 202, false),
            (&[200, 500], 500, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(rule(statuses, &[]).fits(status, None), expected, "{statuses:?} {status}");
        }
    }

    #[test]
    fn a_pattern_stands_for_media_types() {
        for (pattern, media_type, expected) in [
            ("application/json", "application/json", true),
            ("application/json", "Application/JSON", true),
            ("application/json", "application/json5", false),
            ("application/json", "application/problem+json", false),
            ("text/*", "text/plain", true),
            ("TEXT/*", "text/event-stream", true),
            ("text/*", "tex", false),
            ("text/*", "application/text/x", false),
            ("+json", "application/problem+json", true),
            ("+json", "application/problem+JSON", true),
            ("+json", "json", false),
            ("+json", "application/json", false),
            ("application/*+json", "application/vnd.api+json", true),
            ("application/*+json", "text/vnd.api+json", false),
            ("application/*+json", "application/+json", true),
            ("application/*n+json", "application+json", false),
            ("ab*ba", "aba", false),
            ("*/*", "anything/at-all", true),
            ("*/*+json", "a/b+json", false),
        ] {
            assert_eq!(is_of(media_type.as_bytes(), pattern.as_bytes()), expected, "{pattern} {media_type}");
        }
        assert!(rule(&[], &["text/*", "*/*"]).fits(StatusCode::OK, None));
        assert!(!rule(&[], &["text/*"]).fits(StatusCode::OK, None), "the type is not named");
    }

    #[test]
    fn a_condition_is_shown_as_it_is_written() {
        let at = |pointer: &str| Pointer::parse(pointer).unwrap();
        let equals = |scalar| Condition::Pointer { pointer: at("/a~1b/0"), test: Test::Equals(scalar) };
        for (condition, text) in [
            (Condition::Text("died".into()), r#"text "died""#),
            (Condition::regex("di.d\n").unwrap(), r#"regex "di.d\n""#),
            (equals(Scalar::Null), "pointer /a~1b/0 equals null"),
            (equals(Scalar::Bool(true)), "pointer /a~1b/0 equals true"),
            (equals(Scalar::Integer(-1)), "pointer /a~1b/0 equals -1"),
            (equals(Scalar::Float(0.5)), "pointer /a~1b/0 equals 0.5"),
            (equals(Scalar::Text("x".into())), r#"pointer /a~1b/0 equals "x""#),
            (Condition::Pointer { pointer: at(""), test: Test::Contains("x".into()) }, r#"pointer "" contains "x""#),
        ] {
            assert_eq!(condition.to_string(), text);
            assert_eq!(condition, condition.clone());
            assert_ne!(condition, Condition::Text("another".into()));
        }
    }

    #[test]
    fn a_regular_expression_knows_bytes_and_has_a_bound() {
        let Condition::Regex(regex) = Condition::regex(r"w\w+er .* grün").unwrap() else { panic!() };
        assert!(regex.is_match("\u{e9}: worker is grün".as_bytes()) && regex.is_match(b"worker \xff gr\xc3\xbcn"));
        assert!(Condition::regex("(").is_err());
        assert!(Condition::regex("(?:a{1000}){1000}").is_err(), "too large");
    }
}
