//! Answers to gRPC callers: the whole answer is one head ("trailers-only"), with status 200, because a gRPC client takes any
//! other for an error of the way there and does not look further. Fields of a head like that are trailing metadata to the
//! client, so that it finds our marks and `retry-after` there, and its own retries wait as `grpc-retry-pushback-ms` says.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderValue};
use http::{HeaderMap, Response};

use super::{NO_STORE, RequestFacts, marks};
use crate::core::decision::Reason;
use crate::core::signal::grpc::{Code, GRPC_MESSAGE, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS, encode_message};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The longest pushback that clients can read, a signed number of 32 bits.
const MAX_PUSHBACK: u128 = i32::MAX as u128;

/// What a short-circuit of that reason is to a gRPC client.
pub(super) const fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::RateLimited | Reason::QuotaExhausted => Code::ResourceExhausted,
        Reason::Unavailable | Reason::BackendBusy | Reason::Failing | Reason::Manual => Code::Unavailable,
    }
}

/// An answer with these headers. `pushback`: when the call may be made again, rounded up to a millisecond, at least 1.
pub(super) fn answer(
    mut headers: HeaderMap,
    code: Code,
    message: &str,
    pushback: Option<Duration>,
    request: &RequestFacts<'_>,
) -> Response<Bytes> {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code.number())));
    headers.insert(GRPC_MESSAGE, encode_message(message.trim_end()));
    if let Some(wait) = pushback {
        let millis = wait.as_nanos().div_ceil(1_000_000).clamp(1, MAX_PUSHBACK);
        headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(i32::try_from(millis).unwrap_or(i32::MAX)));
    }
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(DATE, marks::value(httpdate::fmt_http_date(SystemTime::from(request.now))));
    headers.insert(CONTENT_TYPE, GRPC);
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = headers;
    response
}
