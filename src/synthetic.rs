//! The answers we make.
//!
//! A program that gets an answer it did not expect looks at one thing first: is it from the host or from the proxy? So
//! every answer made here carries the header `Holdoff`, the one to grep for, and a member of `Proxy-Status` (RFC 9209);
//! what peers and clients send under these names is removed ([`strip_marks`]), so that the marks can be believed. The
//! body says the same in plain words, as problem details (RFC 9457) or as text, for a person who reads the output of curl.
//!
//! Everything that a remote party chose (the last error line, names in details) is made printable, cut and quoted before
//! it goes into a header. Fixed values are static, so that an answer costs a handful of small allocations.

use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::core::decision::{Reason, State};
use crate::core::key::Key;
use crate::core::signal::Outcome;
use crate::core::signal::grpc::{Code, GRPC_MESSAGE, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS};
use crate::core::time::{UnixTime, ceil_secs};

mod accept;
mod grpc;
mod marks;

pub use marks::{HOLDOFF, Mark, PROXY_STATUS, mark, strip_foreign_mark, strip_marks};

/// The longest text of `details` in `Proxy-Status`, in bytes.
const MAX_DETAILS: usize = 200;

/// The longest line about the last error that is shown in a body, in characters.
const MAX_LINE: usize = 400;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Basic credentials (RFC 7617) in UTF-8.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"holdoff\", charset=\"UTF-8\"");

/// What a policy says about our answers: `[defaults.answer]`.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status of short-circuits; `None`: by reason.
    pub status: Option<StatusCode>,
    /// The largest `Retry-After` we say.
    pub max_advertised: Option<Duration>,
    /// The form of the body.
    pub format: AnswerFormat,
    /// The body of `custom`.
    pub body: Option<String>,
    /// The media type of `custom`.
    pub content_type: Option<HeaderValue>,
    /// Headers added to short-circuits.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether forwarded answers get our `Holdoff` header too.
    pub annotate: bool,
}

/// `[defaults.answer] format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFormat {
    /// By `Accept`: plain text when asked for, else problem details.
    #[default]
    Auto,
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// `text/plain`.
    Text,
    /// The policy's own body.
    Custom,
}

/// What an answer needs to know of the request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Whether the method is HEAD: then the answer has the length of a body and no body.
    pub head: bool,
    /// The request's `Accept`.
    pub accept: Option<&'a HeaderValue>,
    /// Whether the caller speaks gRPC: then what we say stands in the head, behind status 200.
    pub grpc: bool,
    /// Our wall clock.
    pub now: UnixTime,
}

/// A request that is answered here because its key is not to be asked now.
#[derive(Clone, Copy, Debug)]
pub struct ShortCircuit<'a> {
    /// Our name.
    pub name: &'a str,
    /// The key.
    pub key: &'a Key,
    /// Why it is not to be asked.
    pub reason: Reason,
    /// For how long, from now.
    pub wait: Duration,
    /// Cooling, probing (a probe is out) or clear (the ramp is full).
    pub state: State,
    /// What the host said last, as one line.
    pub last_error: Option<&'a str>,
    /// The policy's say.
    pub answer: &'a Answer,
}

/// Answers a request that is short-circuited (SPEC 5.2).
///
/// `Retry-After` is the wait in seconds, rounded up, at least 1, at most the policy's `max_advertised`. `until` is the
/// deadline itself on our wall clock, rounded up to a second and never cut: so it is the same in every answer of one
/// cooldown, and never later than `Date` and an uncut `Retry-After` say.
pub fn short_circuit(what: &ShortCircuit<'_>, request: &RequestFacts<'_>) -> Response<Bytes> {
    let answer = what.answer;
    // A gRPC client reads nothing behind another status than 200.
    let status = answer.status.filter(|status| has_body(status) && !request.grpc).unwrap_or(status_of(what.reason));
    let most = answer.max_advertised.map_or(u64::MAX, |most| most.as_secs());
    let retry_after = ceil_secs(what.wait).min(most).max(1);
    let until = rfc3339(request.now.saturating_add(what.wait));
    let key = what.key.to_string();

    let mut headers = HeaderMap::with_capacity(answer.headers.len().saturating_add(10));
    for (name, value) in answer.headers.iter().filter(|(name, _)| !is_ours(name)) {
        headers.append(name.clone(), value.clone());
    }
    headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
    let token =
        if status == StatusCode::SERVICE_UNAVAILABLE { "destination_unavailable" } else { "proxy_internal_response" };
    let details = format!("{}: {key} is not asked until {until}", what.reason.as_str());
    headers.insert(PROXY_STATUS, marks::proxy_status(what.name, token, &details, MAX_DETAILS));
    let mut mark = format!("short-circuit; reason={}; until=\"{until}\"; key=", what.reason.as_str());
    marks::push_string(&mut mark, &key, usize::MAX);
    headers.insert(HOLDOFF, marks::value(mark));

    if request.grpc {
        let wait = match what.state {
            State::Cooling => what.wait.min(Duration::from_secs(most)),
            // Nobody knows how long; not in a moment, at least.
            State::Probing | State::Clear => Duration::from_secs(retry_after),
        };
        let message = short_circuit_detail(what, &key, retry_after, &until);
        return grpc::answer(headers, grpc::code_of(what.reason), &message, Some(wait), request);
    }
    let custom = (answer.format == AnswerFormat::Custom).then(|| answer.body.clone()).flatten();
    let (body, content_type) = match custom {
        Some(body) => (Bytes::from(body), answer.content_type.clone().unwrap_or(TEXT)),
        None => {
            let problem = Problem {
                detail: short_circuit_detail(what, &key, retry_after, &until),
                host: Some(what.key.host()),
                reason: Some(what.reason.as_str()),
                retry_after: Some(retry_after),
                until: Some(&until),
                ..Problem::new(status)
            };
            problem.render(match answer.format {
                AnswerFormat::Text => true,
                AnswerFormat::Problem => false,
                AnswerFormat::Auto | AnswerFormat::Custom => accept::prefers_text(request.accept, false),
            })
        }
    };
    finish(status, headers, body, content_type, request)
}

/// An error of ours, or of what lies between us and the host, as an answer shows it.
#[derive(Clone, Copy, Debug)]
pub struct LocalError<'a> {
    /// Our name.
    pub name: &'a str,
    /// The status of the answer.
    pub status: StatusCode,
    /// The kind of error, a word.
    pub kind: &'a str,
    /// How far the exchange had come, a word.
    pub stage: &'a str,
    /// Whose fault it is, a word.
    pub fault: &'a str,
    /// The status of the answer to a gRPC caller.
    pub grpc: Code,
    /// The error token of `Proxy-Status` (RFC 9209 §2.3).
    pub proxy_status: &'a str,
    /// What went wrong, for people: lower case, no full stop. Only its first line goes into headers.
    pub detail: &'a str,
    /// The key, where the request came far enough to have one.
    pub key: Option<&'a Key>,
    /// Whether text is sent unless problem details are asked for: for long explanations and people in front of browsers.
    pub prefer_text: bool,
}

/// Answers a request that cannot be served, with `extra` headers (SPEC 5.4). A 407 gets its challenge.
pub fn error(
    what: &LocalError<'_>,
    request: &RequestFacts<'_>,
    extra: &[(HeaderName, HeaderValue)],
) -> Response<Bytes> {
    let mut detail = String::with_capacity(what.detail.len().saturating_add(96));
    detail.extend(what.detail.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }));
    let end = if detail.ends_with('\n') { "\n" } else { ". " };
    write(
        &mut detail,
        format_args!("{end}This answer is from holdoff (stage: {}, fault: {}).", what.stage, what.fault),
    );
    let mut headers = HeaderMap::with_capacity(extra.len().saturating_add(8));
    for (name, value) in extra {
        headers.append(name.clone(), value.clone());
    }
    if what.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED && !request.grpc {
        headers.insert(PROXY_AUTHENTICATE, BASIC);
    }
    let details = what.detail.lines().next().unwrap_or_default();
    headers.insert(PROXY_STATUS, marks::proxy_status(what.name, what.proxy_status, details, MAX_DETAILS));
    let mut mark = format!("error; kind={}; stage={}; fault={}", what.kind, what.stage, what.fault);
    if let Some(key) = what.key {
        mark.push_str("; key=");
        marks::push_string(&mut mark, &key.to_string(), usize::MAX);
    }
    headers.insert(HOLDOFF, marks::value(mark));
    if request.grpc {
        return grpc::answer(headers, what.grpc, &detail, None, request);
    }
    let problem = Problem {
        detail,
        host: what.key.map(Key::host),
        kind: Some(what.kind),
        stage: Some(what.stage),
        fault: Some(what.fault),
        ..Problem::new(what.status)
    };
    let (body, content_type) = problem.render(accept::prefers_text(request.accept, what.prefer_text));
    finish(what.status, headers, body, content_type, request)
}

/// What a request in origin-form on the proxy port is told: both ways to use holdoff. `address` is the proxy's own.
pub fn how_to_use(address: &dyn Display) -> String {
    format!(
        "this port is a proxy: it needs to be told the whole URL, and this request names only a path. \
         There are two ways to use holdoff.\n\
         \n\
         1. As a proxy. Tell the program, most read these variables:\n\
         \n\
         \x20   export http_proxy=http://{address} https_proxy=http://{address}\n\
         \x20   curl http://peer.example/\n\
         \n\
         2. As the base URL of one host, which also lets holdoff see inside https. Put this into holdoff.toml and \
         use http://127.0.0.1:4300 where the program has the URL of the host:\n\
         \n\
         \x20   [[reverse]]\n\
         \x20   address = [\"127.0.0.1:4300\"]\n\
         \x20   upstream = \"https://peer.example\"\n"
    )
}

/// The value of `Holdoff` for an answer of the host that is passed on: what its outcome was, unless only trailers will
/// tell, and, where the key is only observed, why enforcing would have short-circuited the request.
pub fn annotate(key: &Key, outcome: Option<&Outcome>, would_short_circuit: Option<Reason>) -> HeaderValue {
    let mut mark = "forwarded".to_owned();
    if let Some(outcome) = outcome {
        write(&mut mark, format_args!("; outcome={}", outcome.as_str()));
    }
    if let Some(reason) = would_short_circuit {
        write(&mut mark, format_args!("; would=short-circuit; reason={}", reason.as_str()));
    }
    mark.push_str("; key=");
    marks::push_string(&mut mark, &key.to_string(), usize::MAX);
    marks::value(mark)
}

/// Problem details (RFC 9457). Of type `about:blank`: what is special about it is in the members of its own.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind_of_problem: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
}

impl Problem<'_> {
    fn new(status: StatusCode) -> Self {
        Self {
            kind_of_problem: "about:blank",
            title: status.canonical_reason().unwrap_or("Answer of holdoff"),
            status: status.as_u16(),
            detail: String::new(),
            host: None,
            reason: None,
            retry_after: None,
            until: None,
            kind: None,
            stage: None,
            fault: None,
        }
    }

    /// The body and its media type. JSON has line breaks, since a person may be the one who reads it.
    fn render(&self, as_text: bool) -> (Bytes, HeaderValue) {
        if !as_text && let Ok(mut json) = serde_json::to_vec_pretty(self) {
            json.push(b'\n');
            return (json.into(), PROBLEM);
        }
        let mut text = format!("{} {}\n\n{}\n", self.status, self.title, self.detail);
        let retry_after = self.retry_after.map(|secs| format!("{secs} s"));
        let facts = [
            ("host", self.host),
            ("reason", self.reason),
            ("retry after", retry_after.as_deref()),
            ("until", self.until),
            ("kind", self.kind),
            ("stage", self.stage),
            ("fault", self.fault),
        ];
        text.push('\n');
        for (name, value) in facts {
            if let Some(value) = value {
                write(&mut text, format_args!("{name}: {value}\n"));
            }
        }
        (text.into(), TEXT)
    }
}

fn short_circuit_detail(what: &ShortCircuit<'_>, key: &str, retry_after: u64, until: &str) -> String {
    let mut text = String::with_capacity(512);
    write(&mut text, format_args!("holdoff answered this request itself and did not contact {key}: "));
    text.push_str(match what.reason {
        Reason::RateLimited => "the host said that it gets too many requests",
        Reason::Unavailable => "the host said that it is not available for a while",
        Reason::BackendBusy => "the host's answer said that it is busy",
        Reason::QuotaExhausted => "the host said that nothing is left of the quota until it starts anew",
        Reason::Failing => "the last requests to the host failed",
        Reason::Manual => "an operator has frozen the host",
    });
    match what.state {
        State::Cooling => write(&mut text, format_args!(", so it is left alone until {until}")),
        State::Probing => text.push_str("; that time is over, and one request is finding out whether it is well again"),
        State::Clear => text.push_str("; that time is over, and requests are let through little by little"),
    }
    write(&mut text, format_args!(". Ask again in {retry_after} s."));
    if let Some(line) = what.last_error.filter(|line| !line.is_empty()) {
        text.push_str(" The last error was: ");
        text.extend(line.chars().take(MAX_LINE).map(|c| if c.is_control() { '?' } else { c }));
    }
    text
}

/// The parts that every answer of ours has.
fn finish(
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
    content_type: HeaderValue,
    request: &RequestFacts<'_>,
) -> Response<Bytes> {
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(DATE, marks::value(httpdate::fmt_http_date(SystemTime::from(request.now))));
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let mut response = Response::new(if request.head { Bytes::new() } else { body });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

const fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::RateLimited | Reason::QuotaExhausted => StatusCode::TOO_MANY_REQUESTS,
        Reason::Unavailable | Reason::BackendBusy | Reason::Failing | Reason::Manual => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether a response of this status is final and can have a body, as ours have.
fn has_body(status: &StatusCode) -> bool {
    !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(status)
}

/// Whether a header is made here and no policy may set it, because it would break the framing or a promise.
fn is_ours(name: &HeaderName) -> bool {
    [
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        DATE,
        GRPC_MESSAGE,
        GRPC_RETRY_PUSHBACK_MS,
        GRPC_STATUS,
        HOLDOFF,
        PROXY_STATUS,
        RETRY_AFTER,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
}

/// RFC 3339 in UTC, rounded up to a second.
fn rfc3339(time: UnixTime) -> String {
    let secs = time.as_millis().div_ceil(1000);
    humantime::format_rfc3339_seconds(SystemTime::from(UnixTime::from_secs(secs))).to_string()
}

/// Appends to a text, which cannot fail.
fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _never_fails = out.write_fmt(text);
}

#[cfg(test)]
mod tests;
