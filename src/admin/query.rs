//! What a request to the API asks for: its query, strictly. A misspelt `key` must not read as "all keys".

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;

use crate::config::diagnostic::mask_credentials;
use crate::core::decision::{Reason, State};
use crate::core::key::Key;

/// How many keys a list has unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 1000;

/// The most bytes kept of an operator's reason.
const MAX_NOTE: usize = 200;

/// The query of a request to `/api/v1/cooldowns`.
#[derive(Debug)]
pub(super) struct Query {
    /// One key.
    pub(super) key: Option<Key>,
    /// Which keys of many.
    pub(super) filter: Filter,
    /// How long a freeze is, and why.
    pub(super) freeze: FreezeFields,
}

/// Which keys a list has.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) all: bool,
    pub(super) only_connect: bool,
    pub(super) state: Option<State>,
    pub(super) reason: Option<Reason>,
    /// The start of the host.
    pub(super) host: Option<String>,
    pub(super) limit: usize,
}

/// The fields of a freeze, in the query or as a JSON object.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreezeFields {
    r#for: Option<String>,
    reason: Option<String>,
}

impl Query {
    /// Reads a query; `names` are the parameters that make sense for the method.
    pub(super) fn read(query: &str, names: &[&str]) -> Result<Self, String> {
        let mut filter =
            Filter { all: false, only_connect: false, state: None, reason: None, host: None, limit: DEFAULT_LIMIT };
        let (mut key, mut freeze) = (None, FreezeFields::default());
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !names.contains(&&*name) {
                let names = names.join("`, `");
                return Err(format!("expected only the parameters `{names}`, found `{name}`"));
            }
            if seen.contains(&name) {
                return Err(format!("expected `{name}` once"));
            }
            match &*name {
                "key" => key = Some(read_key(&value)?),
                "for" => freeze.r#for = Some(value.into_owned()),
                "state" => {
                    filter.state =
                        Some(word("state", &value, &[State::Clear, State::Cooling, State::Probing], State::as_str)?)
                }
                // Of a freeze it is what the operator says, of a list one of the closed set.
                "reason" if names.contains(&"for") => freeze.reason = Some(value.into_owned()),
                "reason" => filter.reason = Some(word("reason", &value, &Reason::ALL, Reason::as_str)?),
                "host" => filter.host = Some(value.to_ascii_lowercase()),
                "all" => filter.all = boolean("all", &value)?,
                "only_connect" => filter.only_connect = boolean("only_connect", &value)?,
                "limit" => {
                    filter.limit = value.parse().map_err(|_| format!("`limit`: expected a number, found `{value}`"))?;
                }
                _ => {}
            }
            seen.push(name);
        }
        Ok(Self { key, filter, freeze })
    }
}

impl FreezeFields {
    /// Reads the body of a freeze, if there is one, beside what the query says.
    pub(super) fn with_body(self, body: &[u8]) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Ok(self);
        }
        let given: Self = serde_json::from_slice(body)
            .map_err(|e| format!("expected a JSON object like `{{\"for\": \"10m\", \"reason\": \"…\"}}`: {e}"))?;
        if (self.r#for.is_some() && given.r#for.is_some()) || (self.reason.is_some() && given.reason.is_some()) {
            return Err("expected each of `for` and `reason` once, in the query or in the body".to_owned());
        }
        Ok(Self { r#for: self.r#for.or(given.r#for), reason: self.reason.or(given.reason) })
    }

    /// How long, and why in one printable line.
    pub(super) fn check(self) -> Result<(Duration, Option<String>), String> {
        let text = self.r#for.ok_or("expected `for`, how long to freeze, such as `10m`")?;
        let length = humantime::parse_duration(&text)
            .map_err(|e| format!("`for`: expected a duration such as `90s`, `10m` or `1h 30m`, found `{text}`: {e}"))?;
        if length.is_zero() {
            return Err("`for`: expected more than 0; to end a cooldown, release the key".to_owned());
        }
        let note = self.reason.map(|reason| {
            reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NOTE).collect::<String>()
        });
        Ok((length, note.filter(|note| !note.trim().is_empty())))
    }
}

/// How many characters of what was found are repeated.
const MAX_FOUND: usize = 80;

fn read_key(text: &str) -> Result<Key, String> {
    Key::parse(text).map_err(|e| {
        format!(
            "`key`: expected a URL or a host such as `https://peer.example`, found `{}`: {e}",
            cut(&mask_credentials(text))
        )
    })
}

/// What was found, short enough to be read.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_FOUND) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn word<T: Copy>(name: &str, value: &str, all: &[T], as_str: impl Fn(T) -> &'static str) -> Result<T, String> {
    all.iter().copied().find(|word| as_str(*word) == value).ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|word| as_str(*word)).collect();
        format!("`{name}`: expected one of `{}`, found `{value}`", words.join("`, `"))
    })
}

fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{name}`: expected `true` or `false`, found `{value}`")),
    }
}

/// Undoes the encoding of forms: `+` is a space, `%` starts two hexadecimal digits.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = rest.split_at_checked(2);
                let value = digits.and_then(|(digits, _)| {
                    let digits =
                        str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
                    u8::from_str_radix(digits, 16).ok()
                });
                let (Some(value), Some((_, after))) = (value, digits) else {
                    return Err("expected two hexadecimal digits after `%` in the query".to_owned());
                };
                rest = after;
                value
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "expected the query to be UTF-8".to_owned())
}

/// The encoding [`decode`] undoes.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[&str] = &["key", "state", "reason", "host", "all", "only_connect", "limit"];
    const FREEZE: &[&str] = &["key", "for", "reason"];

    #[test]
    fn a_query_is_read_strictly() {
        let error = |query: &str| Query::read(query, LIST).unwrap_err();
        assert!(error("kye=a").starts_with("expected only the parameters `key`, `state`"));
        assert_eq!(error("key=a&key=b"), "expected `key` once");
        assert!(error("key=ftp://a").starts_with("`key`: expected a URL or a host such as"));
        assert!(error("key=").starts_with("`key`: expected"));
        assert!(!error("key=https://user:s3cret@a.example").contains("s3cret"));
        assert!(error(&format!("key=a%23{}", "x".repeat(5000))).len() < 300, "what was found is cut");
        assert_eq!(error("state=open"), "`state`: expected one of `clear`, `cooling`, `probing`, found `open`");
        assert!(error("reason=x").starts_with("`reason`: expected one of `rate_limited`, "));
        assert_eq!(error("limit=-1"), "`limit`: expected a number, found `-1`");
        assert_eq!(error("host=%4"), "expected two hexadecimal digits after `%` in the query");
        assert_eq!(error("host=%+4"), "expected two hexadecimal digits after `%` in the query");
        assert_eq!(error("host=%ff"), "expected the query to be UTF-8");
    }

    #[test]
    fn encoding_and_decoding_are_inverse() {
        let text = "https://peer.example:443/ü +&=%";
        let query = format!("key=https%3A%2F%2Fa.example&for=1h+30m&reason={}", encode(text));
        let query = Query::read(&query, FREEZE).unwrap();
        assert_eq!(query.key.unwrap().to_string(), "https://a.example:443");
        assert_eq!(query.freeze.check().unwrap(), (Duration::from_secs(5400), Some(text.to_owned())));
    }

    #[test]
    fn a_freeze_is_in_the_query_or_in_the_body_but_not_in_both() {
        let fields = |query: &str| Query::read(query, FREEZE).unwrap().freeze;
        let checked = |query: &str, body: &str| fields(query).with_body(body.as_bytes()).and_then(FreezeFields::check);
        let note = |text: &str| Some(text.to_owned());
        assert_eq!(checked("", r#"{"for":"10m","reason":"a\nb"}"#), Ok((Duration::from_secs(600), note("a b"))));
        assert_eq!(checked("for=10m", r#"{"reason":"x"}"#), Ok((Duration::from_secs(600), note("x"))));
        assert!(checked("for=10m", r#"{"for":"5m"}"#).unwrap_err().starts_with("expected each of"));
        assert!(checked("", r#"{"four":"5m"}"#).unwrap_err().contains("unknown field `four`"));
        assert_eq!(checked("", ""), Err("expected `for`, how long to freeze, such as `10m`".to_owned()));
        assert!(checked("for=10", "").unwrap_err().starts_with("`for`: expected a duration such as"));
        assert!(checked("for=0s", "").unwrap_err().starts_with("`for`: expected more than 0"));
    }
}
