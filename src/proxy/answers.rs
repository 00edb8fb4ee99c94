//! Gives errors and refusals to the client, in the form of `synthetic`.

use http::header::{ACCEPT, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Response, StatusCode};

use bytes::Bytes;

use super::admission::Refused;
use super::error::{ErrorKind, ProxyError};
use super::shared::Shared;
use super::tap::Partial;
use crate::core::key::Key;
use crate::core::signal::grpc::is_grpc;
use crate::metrics::Bound;
use crate::synthetic::{self, LocalError, RequestFacts, ShortCircuit};
use crate::table::clock;

/// What of a request matters for an answer of ours; taken before the request is given away.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) head: bool,
    accept: Option<HeaderValue>,
    grpc: bool,
}

impl Facts {
    pub(super) fn new(method: &Method, headers: &HeaderMap) -> Self {
        Self { head: method == Method::HEAD, accept: headers.get(ACCEPT).cloned(), grpc: is_grpc(headers) }
    }

    fn request(&self) -> RequestFacts<'_> {
        RequestFacts { head: self.head, accept: self.accept.as_ref(), grpc: self.grpc, now: clock::wall() }
    }
}

/// The answer to a request that cannot be served.
pub(super) fn error(shared: &Shared, error: &ProxyError, key: Option<&Key>, facts: &Facts) -> Response<Bytes> {
    error_until(shared, error, key, facts, None)
}

/// The answer to a request that cannot be served before so many seconds.
pub(super) fn error_until(
    shared: &Shared,
    error: &ProxyError,
    key: Option<&Key>,
    facts: &Facts,
    wait: Option<u64>,
) -> Response<Bytes> {
    let wait = wait.map(|secs| (RETRY_AFTER, HeaderValue::from(secs)));
    synthetic::error(&local(shared, error, key), &facts.request(), wait.as_slice())
}

fn local<'a>(shared: &'a Shared, error: &'a ProxyError, key: Option<&'a Key>) -> LocalError<'a> {
    let kind = error.kind();
    LocalError {
        name: &shared.name,
        status: kind.status(),
        kind: kind.as_str(),
        stage: kind.stage().as_str(),
        fault: kind.fault().as_str(),
        grpc: kind.grpc(),
        proxy_status: kind.proxy_status(),
        detail: error.detail(),
        key,
        prefer_text: kind == ErrorKind::NotProxyRequest,
    }
}

/// The answer to a request whose key is not to be asked now.
pub(super) fn short_circuit(shared: &Shared, refused: &Refused, facts: &Facts) -> Response<Bytes> {
    let last_error = refused.by.last_error();
    let what = ShortCircuit {
        name: &shared.name,
        key: refused.by.key(),
        reason: refused.refusal.reason,
        wait: refused.refusal.wait,
        state: refused.refusal.state,
        last_error: last_error.as_deref(),
        answer: &refused.settings().answer,
    };
    synthetic::short_circuit(&what, &facts.request())
}

/// The answer to what never became a request, as bytes; `head`: to the method HEAD. The connection closes behind it.
pub(super) fn raw(shared: &Shared, what: &ProxyError, head: bool) -> Vec<u8> {
    const CLOSE: (HeaderName, HeaderValue) = (CONNECTION, HeaderValue::from_static("close"));
    let facts = Facts { head, accept: None, grpc: false };
    let response = synthetic::error(&local(shared, what, None), &facts.request(), &[CLOSE]);
    let status = response.status();
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(response.body());
    out
}

/// What is said of a head that hyper could not read, by the status that hyper chose, and the bound it reached.
pub(super) fn unreadable(status: StatusCode, seen: Partial, max_fields: usize) -> (ProxyError, Option<Bound>) {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if seen.long_line => (
            ProxyError::new(ErrorKind::UriTooLong, "the request target is longer than `limits.max_header_bytes`"),
            Some(Bound::HeaderBytes),
        ),
        StatusCode::URI_TOO_LONG => {
            (ProxyError::new(ErrorKind::UriTooLong, "the request target is too long"), Some(Bound::HeaderBytes))
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if seen.large => (
            ProxyError::new(ErrorKind::HeadTooLarge, "the request head is larger than `limits.max_header_bytes`"),
            Some(Bound::HeaderBytes),
        ),
        // hyper counts a length that no number has room for as too large as well.
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if seen.lines <= max_fields => {
            (ProxyError::new(ErrorKind::BadRequest, "the `Content-Length` is beyond any length"), None)
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            ProxyError::new(ErrorKind::HeadTooLarge, "the request has more fields than `limits.max_header_fields`"),
            Some(Bound::HeaderFields),
        ),
        _ => (malformed(), None),
    }
}

/// What is said of a head that is no HTTP/1.
pub(super) fn malformed() -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, "the request head is malformed")
}
