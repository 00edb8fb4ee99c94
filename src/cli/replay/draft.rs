//! What a line says, whatever it was written in: fields by name, then a request of a key.
//!
//! A field has several names, since loggers do; each name has one meaning and one unit. Of several fields that mean the
//! same the first counts, but a whole URL goes before a path.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::stamp;
use crate::config::settings::Hosts;
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::signal::Outcome;
use crate::core::time::UnixTime;
use crate::proxy::error::ErrorKind;

/// The most response fields that are read of one line.
const MAX_HEADERS: usize = 100;

/// What a line is.
#[derive(Debug)]
pub(super) enum Line {
    /// A request whose answer was seen.
    Request(Request),
    /// A CONNECT: what was asked inside is not in the log.
    Tunnel(Key, UnixTime),
    /// Nothing that was asked of a host.
    Other,
}

/// A request of the past.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    /// When it was made: as long before its end as the log says, else at its end.
    pub(super) started: UnixTime,
    pub(super) ended: UnixTime,
    pub(super) answer: Answer,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// The host answered.
    Status(StatusCode, HeaderMap),
    /// holdoff logged what came instead of an answer.
    Instead(Outcome),
    /// The log does not say, or the client left.
    Unknown,
    /// holdoff answered it itself, so that nothing is known of the host.
    Ours,
}

/// Why a line is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is not of the format.
    Malformed { expected: &'static str, found: String },
    /// Nothing says which host it is about.
    NoHost,
}

impl Flaw {
    pub(super) fn malformed(expected: &'static str, found: &str) -> Self {
        // The rest is cut anyhow, and a line may be long.
        Self::Malformed { expected, found: found.chars().take(200).collect() }
    }
}

/// What is known about hosts besides what the line says.
#[derive(Debug)]
pub(super) struct Places<'s> {
    /// What lines without a host are about.
    pub(super) about: Option<Key>,
    pub(super) hosts: &'s Hosts,
}

/// What a line has said so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    time: Option<UnixTime>,
    took: Option<Duration>,
    method: Option<String>,
    url: Option<String>,
    host: Option<String>,
    scheme: Option<String>,
    status: Option<Option<StatusCode>>,
    action: Option<String>,
    reason: Option<String>,
    headers: HeaderMap,
    /// There was a request line, but not of a request.
    is_noise: bool,
}

impl Draft {
    /// Takes a field in; names that mean nothing here are passed over.
    pub(super) fn field(&mut self, name: &str, value: &str) -> Result<(), Flaw> {
        let value = value.trim();
        if name == "status" || name == "status_code" {
            return self.status(value);
        }
        // How loggers write that there is nothing.
        if value.is_empty() || value == "-" {
            return Ok(());
        }
        match name {
            "time" | "timestamp" | "ts" | "@timestamp" | "time_iso8601" | "time_local" | "msec" => {
                let time = stamp::any(value).ok_or_else(|| {
                    Flaw::malformed("a time as RFC 3339, in the form of the combined log format or in seconds", value)
                })?;
                self.time.get_or_insert(time);
            }
            "request_time" | "duration" => self.took(stamp::seconds(value), value)?,
            "duration_ms" => self.took(stamp::seconds(value).and_then(|length| length.checked_div(1000)), value)?,
            "duration_us" => {
                self.took(stamp::seconds(value).and_then(|length| length.checked_div(1_000_000)), value)?
            }
            "method" | "request_method" => fill(&mut self.method, value),
            "url" | "uri" | "path" | "request_uri" => self.url(value),
            "request" => self.request(value),
            "host" | "http_host" | "authority" => fill(&mut self.host, value),
            "scheme" => fill(&mut self.scheme, value),
            "action" => fill(&mut self.action, value),
            "reason" => fill(&mut self.reason, value),
            "retry_after" | "retry-after" => self.header(RETRY_AFTER.as_str(), value),
            _ => {
                let name = name.strip_prefix("sent_http_").or_else(|| name.strip_prefix("upstream_http_"));
                if let Some(name) = name {
                    self.header(&name.replace('_', "-"), value);
                }
            }
        }
        Ok(())
    }

    /// A field of the response. What cannot be one is passed over, as the peer had not sent it.
    pub(super) fn header(&mut self, name: &str, value: &str) {
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value))
            && self.headers.len() < MAX_HEADERS
            // The same said twice by two names is said once.
            && !self.headers.get_all(&name).iter().any(|known| known == value)
        {
            // The map has a bound of its own, far beyond ours.
            let _ = self.headers.try_append(name, value);
        }
    }

    /// A request line: `GET /x HTTP/1.1`. Anything else is what a server could not read, and logs as 400 or 408.
    pub(super) fn request(&mut self, line: &str) {
        let (method, rest) = line.split_once(' ').unwrap_or_default();
        // A target may have spaces in a log; the version never has.
        let target = match rest.rsplit_once(' ') {
            Some((target, version)) if version.starts_with("HTTP/") => target,
            _ => rest,
        };
        if !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            fill(&mut self.method, method);
            self.url(target);
        } else {
            self.is_noise = true;
        }
    }

    fn url(&mut self, value: &str) {
        if self.url.as_deref().is_none_or(|known| !is_whole(known) && is_whole(value)) {
            self.url = Some(value.to_owned());
        }
    }

    fn took(&mut self, length: Option<Duration>, value: &str) -> Result<(), Flaw> {
        let length = length.ok_or_else(|| Flaw::malformed("a duration as a number", value))?;
        self.took.get_or_insert(length);
        Ok(())
    }

    fn status(&mut self, value: &str) -> Result<(), Flaw> {
        let status = match value {
            // Nothing was answered, or, as nginx writes it, the client did not wait for it.
            "" | "-" | "0" | "000" | "499" => None,
            _ => {
                let status = value.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
                Some(status.ok_or_else(|| Flaw::malformed("a status of three digits", value))?)
            }
        };
        self.status.get_or_insert(status);
        Ok(())
    }

    /// What the line is, all in all.
    pub(super) fn finish(self, places: &Places<'_>) -> Result<Line, Flaw> {
        let action = self.action.as_deref();
        if self.status.is_none() && action.is_none() || action == Some("refused") || self.is_noise {
            return Ok(Line::Other);
        }
        let ended = self.time.ok_or_else(|| Flaw::malformed("a time", "none"))?;
        let host = self.key(places)?;
        if self.is_connect() {
            let base = places.hosts.resolve(&host).base(&host);
            return Ok(Line::Tunnel(base.unwrap_or(host), ended));
        }
        let base = places.hosts.resolve_at(&host, self.path()).base(&host);
        let key = base.unwrap_or(host);
        let answer = match (action, self.status.flatten()) {
            (Some("short_circuited"), _) => Answer::Ours,
            (Some("failed"), _) => Answer::Instead(self.failure()),
            (Some("cancelled"), _) | (_, None) => Answer::Unknown,
            (_, Some(status)) => Answer::Status(status, self.headers),
        };
        let started = ended.saturating_sub(self.took.unwrap_or_default());
        Ok(Line::Request(Request { key, started, ended, answer }))
    }

    /// The host of a request.
    fn key(&self, places: &Places<'_>) -> Result<Key, Flaw> {
        let key = match (&self.url, &self.host) {
            (Some(target), _) if self.is_connect() => {
                Key::parse(target).map_err(|_| Flaw::malformed("`host:port` behind CONNECT", target))?
            }
            (Some(url), _) if is_whole(url) => {
                Key::parse(url).map_err(|_| Flaw::malformed("a URL of http or https without a user", url))?
            }
            (_, Some(host)) => self.named(host)?,
            (_, None) => places.about.clone().ok_or(Flaw::NoHost)?,
        };
        // A fragment is no scope.
        let key = key.whole();
        if places.hosts.upgrades(&key.as_ref()) {
            let scheme = Scheme::Https;
            return KeyRef::new(scheme, key.host(), scheme.default_port())
                .map(|key| key.to_key())
                .map_err(|_| Flaw::malformed("a host", key.host()));
        }
        Ok(key)
    }

    /// The path, without the query.
    fn path(&self) -> &str {
        let url = self.url.as_deref().unwrap_or_default();
        let behind = if is_whole(url) {
            url.split_once("://").and_then(|(_, rest)| rest.get(rest.find(['/', '?', '#'])?..)).unwrap_or_default()
        } else {
            url
        };
        let path = behind.split(['?', '#']).next().unwrap_or_default();
        if path.starts_with('/') { path } else { "/" }
    }

    /// The key of a host field.
    fn named(&self, host: &str) -> Result<Key, Flaw> {
        let flaw = |_| Flaw::malformed("a host of http or https", host);
        if host.contains("://") {
            return Key::parse(host).map_err(flaw);
        }
        if let Some(scheme) = &self.scheme {
            return Key::parse(&format!("{scheme}://{host}")).map_err(flaw);
        }
        let key = Key::parse(host).map_err(flaw)?;
        if key.port() == Scheme::Https.default_port() {
            return Ok(key);
        }
        Ok(KeyRef::new(Scheme::Http, key.host(), key.port()).map_err(flaw)?.to_key())
    }

    fn is_connect(&self) -> bool {
        self.method.as_deref() == Some("CONNECT")
    }

    /// What holdoff made of a request that got no answer.
    fn failure(&self) -> Outcome {
        let kind = ErrorKind::ALL.iter().find(|kind| Some(kind.as_str()) == self.reason.as_deref());
        kind.map_or(Outcome::Neutral, |kind| kind.outcome())
    }
}

fn fill(place: &mut Option<String>, value: &str) {
    if place.is_none() {
        *place = Some(value.to_owned());
    }
}

/// Whether a target names scheme and host, and not only in its query.
fn is_whole(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::core::signal::Failure;

    /// What fields come to, with `about` as the host of the log and a piece of configuration.
    fn finish(fields: &[(&str, &str)], about: Option<&str>, toml: &str) -> Result<Line, Flaw> {
        let settings = config::parse(toml).unwrap().settings;
        let places = Places { about: about.map(|key| Key::parse(key).unwrap()), hosts: &settings.hosts };
        let mut draft = Draft::default();
        for (name, value) in fields {
            draft.field(name, value)?;
        }
        draft.finish(&places)
    }

    fn request(fields: &[(&str, &str)]) -> Request {
        let all = [&[("time", "100"), ("status", "200")], fields].concat();
        match finish(&all, Some("https://about.example"), "").unwrap() {
            Line::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn key(fields: &[(&str, &str)]) -> String {
        request(fields).key.to_string()
    }

    #[test]
    fn a_table_for_some_paths_and_a_group_have_a_key_of_their_own() {
        let toml = "[[host]]\nmatch = [\"a.example\"]\npaths = [\"/v1/*\"]\n\
                    [[host]]\nmatch = [\"b.example\", \"c.example\"]\ngroup = \"g\"\n";
        let key = |fields: &[(&str, &str)]| {
            let all = [&[("time", "100"), ("status", "200")], fields].concat();
            match finish(&all, Some("https://a.example"), toml).unwrap() {
                Line::Request(request) => request.key.to_string(),
                Line::Tunnel(key, _) => key.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(key(&[("path", "/v1/x?y#z")]), "https://a.example:443#paths=/v1/*");
        assert_eq!(key(&[("url", "http://a.example/v1/#x")]), "http://a.example:80#paths=/v1/*");
        assert_eq!(key(&[("url", "http://a.example?/v1/")]), "http://a.example:80");
        assert_eq!(key(&[("url", "http://a.example#paths=/v1/*")]), "http://a.example:80");
        assert_eq!(key(&[("path", "/v2")]), "https://a.example:443");
        assert_eq!(key(&[("url", "http://b.example/")]), "group:g");
        assert_eq!(key(&[("method", "CONNECT"), ("url", "c.example:443")]), "group:g");
    }

    #[test]
    fn the_host_is_that_of_the_url_then_that_of_its_field_then_that_of_the_log() {
        assert_eq!(
            key(&[("url", "http://a.example/x?u=https://b.example"), ("host", "c.example")]),
            "http://a.example:80"
        );
        assert_eq!(key(&[("path", "/x?u=https://b.example"), ("host", "c.example")]), "https://c.example:443");
        assert_eq!(key(&[("uri", "/x"), ("url", "http://a.example/x")]), "http://a.example:80");
        assert_eq!(key(&[("request", "GET http://a.example/a b HTTP/1.1")]), "http://a.example:80");
        assert_eq!(key(&[("host", "https://d.example:8443")]), "https://d.example:8443");
        assert_eq!(key(&[("path", "/x"), ("host", "-")]), "https://about.example:443");
        let unknown = [("time", "100"), ("status", "200"), ("path", "/x")];
        assert_eq!(finish(&unknown, None, "").unwrap_err(), Flaw::NoHost);
    }

    #[test]
    fn without_a_scheme_another_port_than_443_means_http() {
        assert_eq!(key(&[("host", "A.example.")]), "https://a.example:443");
        assert_eq!(key(&[("host", "a.example:443")]), "https://a.example:443");
        assert_eq!(key(&[("host", "a.example:8080")]), "http://a.example:8080");
        assert_eq!(key(&[("host", "a.example"), ("scheme", "http")]), "http://a.example:80");
        assert_eq!(key(&[("host", "[::1]:8443"), ("scheme", "HTTPS")]), "https://[::1]:8443");
    }

    #[test]
    fn a_policy_that_upgrades_moves_the_key() {
        let toml = "[[host]]\nmatch = [\"a.example\"]\n[host.tls]\nupgrade = true\n";
        let line = finish(&[("time", "100"), ("status", "200"), ("url", "http://a.example/")], None, toml);
        let Ok(Line::Request(request)) = line else { panic!("{line:?}") };
        assert_eq!(request.key.to_string(), "https://a.example:443");
    }

    #[test]
    fn a_connect_is_a_tunnel_whatever_came_of_it() {
        for (field, value) in [("request", "CONNECT a.example:8443 HTTP/1.1"), ("url", "a.example:8443")] {
            let fields = [("time", "100"), ("status", "429"), ("method", "CONNECT"), (field, value)];
            let line = finish(&fields, None, "");
            let Ok(Line::Tunnel(key, _)) = line else { panic!("{line:?}") };
            assert_eq!(key.to_string(), "https://a.example:8443");
        }
        // As holdoff logs it.
        let fields =
            [("time", "100"), ("method", "CONNECT"), ("host", "https://a.example:443"), ("action", "cancelled")];
        assert!(matches!(finish(&fields, None, ""), Ok(Line::Tunnel(..))));
    }

    #[test]
    fn a_request_starts_as_long_before_its_end_as_is_logged_in_the_unit_of_the_name() {
        for (name, value) in
            [("request_time", "2.5"), ("duration", "2.5"), ("duration_ms", "2500"), ("duration_us", "2500000")]
        {
            let request = request(&[(name, value)]);
            assert_eq!((request.started.as_millis(), request.ended.as_millis()), (97_500, 100_000), "{name}");
        }
        assert_eq!(request(&[("duration", "-")]).started.as_millis(), 100_000);
        assert_eq!(request(&[("duration", "1000")]).started.as_millis(), 0, "before 1970");
        assert!(finish(&[("duration", "5 s")], None, "").is_err());
    }

    #[test]
    fn the_fields_of_the_response_are_found_by_every_name() {
        for name in ["retry_after", "retry-after", "sent_http_retry_after", "upstream_http_retry_after"] {
            let Answer::Status(_, headers) = request(&[(name, "120")]).answer else { panic!("{name}") };
            assert_eq!(headers[RETRY_AFTER], "120", "{name}");
        }
        let both = request(&[("retry_after", "120"), ("sent_http_retry_after", "120"), ("sent_http_x_reset", "5")]);
        let Answer::Status(_, headers) = both.answer else { panic!() };
        assert_eq!((headers.len(), &headers["x-reset"]), (2, &HeaderValue::from_static("5")));
    }

    #[test]
    fn what_a_server_could_not_read_is_no_request() {
        for line in ["\u{16}\u{3}\u{1}", "(null) x HTTP/1.1", "x"] {
            let line = finish(&[("time", "100"), ("request", line), ("status", "400")], Some("a.example"), "");
            assert!(matches!(line, Ok(Line::Other)), "{line:?}");
        }
    }

    #[test]
    fn response_fields_have_a_bound() {
        let mut draft = Draft::default();
        for number in 0..100_000 {
            draft.header("x-many", &number.to_string());
            draft.header(&format!("x-{number}"), "1");
        }
        assert_eq!(draft.headers.len(), MAX_HEADERS);
        draft.header("no name", "1");
        draft.header("x", "no\nvalue");
    }

    #[test]
    fn a_status_that_says_nothing_about_the_host_is_unknown() {
        for status in ["499", "0", "-", ""] {
            let line = finish(&[("time", "100"), ("status", status)], Some("a.example"), "");
            assert!(matches!(line, Ok(Line::Request(Request { answer: Answer::Unknown, .. }))), "{status} {line:?}");
        }
        for status in ["abc", "99", "1000", "-1", "4 29"] {
            assert!(finish(&[("status", status)], None, "").is_err(), "{status}");
        }
        assert!(matches!(finish(&[("time", "100")], Some("a.example"), ""), Ok(Line::Other)));
        assert!(finish(&[("status", "200")], Some("a.example"), "").is_err(), "no time");
    }

    #[test]
    fn what_holdoff_logged_of_itself_is_no_word_of_the_host() {
        let of = |action, reason, status| {
            let fields = [("time", "100"), ("action", action), ("reason", reason), ("status", status)];
            finish(&fields, Some("a.example"), "").unwrap()
        };
        let answer = |line| match line {
            Line::Request(request) => request.answer,
            other => panic!("{other:?}"),
        };
        assert!(matches!(answer(of("short_circuited", "rate_limited", "429")), Answer::Ours));
        assert!(matches!(answer(of("cancelled", "-", "-")), Answer::Unknown));
        assert!(matches!(answer(of("forwarded", "-", "429")), Answer::Status(..)));
        assert!(matches!(of("refused", "destination_denied", "403"), Line::Other));
        for (reason, outcome) in [
            ("connect_refused", Outcome::Failing(Failure::Refused)),
            ("head_timeout", Outcome::Failing(Failure::Timeout)),
            ("pool_timeout", Outcome::Neutral),
            ("unheard_of", Outcome::Neutral),
        ] {
            let Answer::Instead(found) = answer(of("failed", reason, "502")) else { panic!("{reason}") };
            assert_eq!(found, outcome, "{reason}");
        }
    }

    #[test]
    fn a_url_that_is_no_key_is_malformed() {
        for url in ["ftp://a.example/", "http://u:p@a.example/", "http:///x", "http://a.example:0/"] {
            let line = finish(&[("time", "100"), ("status", "200"), ("url", url)], Some("b.example"), "");
            assert!(matches!(line, Err(Flaw::Malformed { .. })), "{url} {line:?}");
        }
    }
}
