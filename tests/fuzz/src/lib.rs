//! What the targets share: how a text of the fuzzer is a response head.
//!
//! The inputs are lines, so that a seed or a crash can be read and written by a person.

use holdoff::core::policy::{FieldRule, Hintless, ScopeRule, SignalRules, Unit};
use holdoff::core::time::UnixTime;
use http::{HeaderName, StatusCode};

// What the integration tests judge with too.
#[path = "../../it/support/bodies.rs"]
pub mod bodies;
#[path = "../../it/support/configuration.rs"]
pub mod configuration;
#[path = "../../it/support/heads.rs"]
pub mod heads;
#[path = "../../it/support/strict.rs"]
pub mod strict;

/// 2026-11-20T10:00:00Z
pub const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);

/// The last second of the year 9999, the last that an HTTP-date can name.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// The fields of a vendor that [`Head`] knows, in the units of their names, and what is left of the window of each; but
/// `x-pause`, of which nothing says what is left.
pub const VENDOR_FIELDS: [(&str, Unit, Option<&str>); 8] = [
    ("x-pause", Unit::Seconds, None),
    ("x-seconds", Unit::Seconds, Some("x-left")),
    ("x-millis", Unit::Milliseconds, Some("x-left")),
    ("x-epoch", Unit::EpochSeconds, Some("x-left")),
    ("x-epoch-millis", Unit::EpochMilliseconds, Some("x-left-too")),
    ("x-duration", Unit::Duration, Some("x-left")),
    ("x-iso", Unit::Iso8601, Some("x-left-too")),
    ("x-time", Unit::Rfc3339, Some("x-left")),
];

/// The field by which a signal of [`Head`] says what it is about: `host` or `shared`, which climbs no ladder.
pub const SCOPE: HeaderName = HeaderName::from_static("x-scope");

/// A response head and what it is read against:
///
/// ```text
/// 429 1795168800000 fraction,ignore
/// Retry-After: 120
/// Date: Fri, 20 Nov 2026 10:00:00 GMT
/// ```
///
/// The first line has the status, our wall clock in milliseconds, and what the policy says. Whatever cannot be read is
/// the default, so that few inputs are lost.
pub struct Head<'a> {
    pub status: StatusCode,
    pub wall: UnixTime,
    pub rules: SignalRules,
    /// Names and values as they stand.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Head<'a> {
    pub fn read(input: &'a [u8]) -> Self {
        let mut lines = input.split(|&byte| byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(|&byte| byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default());
        let status = words.next().and_then(|word| word.parse().ok()).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        let wall = words.next().and_then(|word| word.parse().ok()).map_or(WALL, UnixTime::from_millis);
        let says = words.next().unwrap_or_default();
        let mut rules = SignalRules {
            hintless: if says.contains("ignore") { Hintless::Ignore } else { Hintless::Cool },
            trust_hints: !says.contains("doubt"),
            fractional_seconds: says.contains("fraction"),
            ..SignalRules::default()
        };
        rules.proactive = says.contains("proactive");
        if says.contains("vendor") {
            let name = HeaderName::from_static;
            let rule = |&(reset, unit, left): &(&'static str, Unit, Option<&'static str>)| FieldRule {
                reset: name(reset),
                unit,
                remaining: left.map(name),
            };
            rules.fields = VENDOR_FIELDS.iter().map(rule).collect();
        }
        if says.contains("scope") {
            let rule = |equals: &str, step| ScopeRule { field: SCOPE, equals: equals.into(), level: "x".into(), step };
            rules.scopes = vec![rule("host", true), rule("shared", false)];
        }
        if says.contains("hinted") {
            rules.limited_with_hint = vec![StatusCode::CONFLICT, StatusCode::BAD_GATEWAY];
        }
        if says.contains("more") {
            rules.statuses.extend([StatusCode::FORBIDDEN, StatusCode::PAYLOAD_TOO_LARGE]);
            rules.unavailable.push(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let fields = lines
            .filter_map(|line| {
                let colon = line.iter().position(|&byte| byte == b':')?;
                let value = &line[colon + 1..];
                Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
            })
            .collect();
        Self { status, wall, rules, fields }
    }

    /// The values of one field, raw.
    pub fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let is_named = |(field, _): &&(&[u8], &'a [u8])| field.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().filter(is_named).map(|(_, value)| *value).collect()
    }
}

/// The text after the first line, and the number in that line: `1795168800000\nFri, 20 Nov …`.
pub fn after_wall(input: &[u8]) -> (UnixTime, &[u8]) {
    let read = || {
        let end = input.iter().position(|&byte| byte == b'\n')?;
        let wall = std::str::from_utf8(&input[..end]).ok()?.parse().ok()?;
        Some((UnixTime::from_millis(wall), &input[end + 1..]))
    };
    read().unwrap_or((WALL, input))
}
