//! What is asked, from the texts of a command line or a query.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::core::key::Key;
use crate::core::signal::Failure;

/// The longest URL.
const MAX_URL: usize = 8 << 10;

/// The most header fields of the request, and of the response.
const MAX_HEADERS: usize = 64;

/// The longest header field.
const MAX_HEADER: usize = 8 << 10;

/// The most repetitions.
pub const MAX_TIMES: u32 = 50;

/// The failures that can be asked about.
const FAILURES: [Failure; 7] = [
    Failure::Dns,
    Failure::Refused,
    Failure::Unreachable,
    Failure::Reset,
    Failure::Timeout,
    Failure::Tls,
    Failure::Malformed,
];

/// A request, and perhaps what is answered to it.
#[derive(Clone, Debug)]
pub struct Question {
    pub(super) key: Key,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) response: Option<Given>,
    pub(super) times: u32,
}

/// What becomes of the request.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// It is answered.
    Response(StatusCode, HeaderMap),
    /// It fails.
    Failure(Failure),
}

/// A question as it was written.
#[derive(Clone, Debug, Default)]
pub struct Written<'a> {
    /// `https://peer.example/path`
    pub url: &'a str,
    /// `GET` where it is not said.
    pub method: Option<&'a str>,
    /// `Name: value` of the request.
    pub request_headers: &'a [String],
    /// `429`, or the word of a failure.
    pub response: Option<&'a str>,
    /// `Name: value` of the response.
    pub headers: &'a [String],
    /// How often the response comes; once where it is not said.
    pub times: Option<&'a str>,
}

/// How a front end calls what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The URL.
    pub url: &'static str,
    /// The method.
    pub method: &'static str,
    /// The header fields of the request.
    pub request_header: &'static str,
    /// The response.
    pub response: &'static str,
    /// The header fields of the response.
    pub header: &'static str,
    /// How often.
    pub times: &'static str,
}

impl Names {
    /// The parameters of a query.
    pub const QUERY: Self = Self {
        url: "url",
        method: "method",
        request_header: "request_header",
        response: "status",
        header: "header",
        times: "times",
    };
}

impl Question {
    /// Reads a question. Errors call things by `names`, and repeat nothing that may be secret.
    ///
    /// # Errors
    /// What was expected of the first thing that is not as it must be.
    pub fn read(written: &Written<'_>, names: &Names) -> Result<Self, String> {
        let (key, path, query) = url(written.url).map_err(|e| format!("`{}`: {e}", names.url))?;
        let method = match written.method {
            None => Method::GET,
            Some(text) => method(text).map_err(|e| format!("`{}`: {e}", names.method))?,
        };
        let headers = fields(written.request_headers, names.request_header)?;
        let response_headers = fields(written.headers, names.header)?;
        let response = match written.response {
            None if !written.headers.is_empty() => {
                return Err(format!(
                    "`{}`: expected beside `{}`, which says the status of the response",
                    names.header, names.response
                ));
            }
            None if written.times.is_some() => {
                return Err(format!("`{}`: expected beside `{}`: what is to be repeated", names.times, names.response));
            }
            None => None,
            Some(text) => {
                let given = given(text, response_headers).map_err(|e| format!("`{}`: {e}", names.response))?;
                if matches!(given, Given::Failure(_)) && !written.headers.is_empty() {
                    return Err(format!(
                        "`{}`: expected with a status only; what fails like that has no response",
                        names.header
                    ));
                }
                Some(given)
            }
        };
        let times = match written.times {
            None => 1,
            Some(text) => text.parse().ok().filter(|times| (1..=MAX_TIMES).contains(times)).ok_or_else(|| {
                format!("`{}`: expected a number from 1 to {MAX_TIMES}, found `{}`", names.times, shown(text))
            })?,
        };
        Ok(Self { key, path, query, method, headers, response, times })
    }
}

fn url(text: &str) -> Result<(Key, String, Option<String>), String> {
    let expected = "expected a URL or a host, such as `https://peer.example/path`";
    if text.len() > MAX_URL {
        return Err(format!("{expected}, of at most 8 KiB"));
    }
    // What is behind a `#` is never sent.
    let text = text.split('#').next().unwrap_or_default();
    let key = Key::parse(text).map_err(|error| format!("{expected}: {error}"))?;
    // The host is known to be, and is mended in another way.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{expected}, of printable ASCII characters; encode others as `%` and two digits"));
    }
    if key.is_group() {
        return Err(format!("{expected}; a group has no policy of its own, ask about one of its hosts"));
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let target = rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Ok((key, if path.is_empty() { "/".to_owned() } else { path.to_owned() }, query))
}

fn method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT) => {
            Err("expected the method of a request that holdoff can see, found `CONNECT`, whose inside it \
                                    cannot; ask about the request inside"
                .to_owned())
        }
        Ok(method) if text.len() <= 32 => Ok(method),
        _ => Err(format!("expected a method such as `GET`, found `{}`", shown(text))),
    }
}

fn fields(texts: &[String], name: &str) -> Result<HeaderMap, String> {
    if texts.len() > MAX_HEADERS {
        return Err(format!("`{name}`: expected at most {MAX_HEADERS} header fields"));
    }
    let mut headers = HeaderMap::new();
    for text in texts {
        // Its value may be a credential and is not repeated.
        let field = text.split_once(':').filter(|_| text.len() <= MAX_HEADER).and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim_ascii().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim_ascii()).ok()?))
        });
        let Some((field, value)) = field else {
            return Err(format!("`{name}`: expected a header field such as `Retry-After: 120`, of at most 8 KiB"));
        };
        headers.append(field, value);
    }
    Ok(headers)
}

fn given(text: &str, headers: HeaderMap) -> Result<Given, String> {
    if let Some(failure) = FAILURES.into_iter().find(|failure| failure.as_str() == text) {
        return Ok(Given::Failure(failure));
    }
    let is_status = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let status = is_status.then(|| text.parse().ok()).flatten().filter(|status| (200..=599).contains(status));
    match status.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) => Ok(Given::Response(status, headers)),
        None => Err(format!(
            "expected a status from 200 to 599, or one of `{}`; found `{}`",
            FAILURES.map(Failure::as_str).join("`, `"),
            shown(text)
        )),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A span for people: `1m 30s`, to the millisecond.
pub(super) fn span(length: Duration) -> String {
    let millis = u64::try_from(length.saturating_add(Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}
