//! What a refused request is told: a response, or an error.

use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::core::decision::{NotUntil, Reason};
use crate::core::key::Key;
use crate::core::time::{UnixTime, ceil_secs};

/// The one header to grep for, the same as the proxy's.
const HOLDOFF: HeaderName = HeaderName::from_static("holdoff");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A request that was not sent: which host is left alone, until when, and why.
///
/// It is in the extensions of every response that the layer makes. No host can put it there, unlike a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortCircuit {
    key: Key,
    not_until: NotUntil,
    until: UnixTime,
}

impl ShortCircuit {
    pub(super) fn new(key: Key, not_until: NotUntil, wall: UnixTime) -> Self {
        Self { key, until: wall.saturating_add(not_until.wait), not_until }
    }

    /// The key that is left alone.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// For how long from the request on, and why.
    pub const fn not_until(&self) -> NotUntil {
        self.not_until
    }

    /// Until when, on the wall clock.
    pub const fn until(&self) -> UnixTime {
        self.until
    }

    /// What `Retry-After` says: the wait in seconds, rounded up, at least 1.
    pub fn retry_after(&self) -> u64 {
        ceil_secs(self.not_until.wait).max(1)
    }

    const fn status(&self) -> StatusCode {
        match self.not_until.reason {
            Reason::RateLimited | Reason::QuotaExhausted => StatusCode::TOO_MANY_REQUESTS,
            Reason::Unavailable | Reason::BackendBusy | Reason::Failing | Reason::Manual => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn response<R>(self, is_head: bool, make: &impl MakeBody<R>) -> Response<R> {
        let (status, reason, until) = (self.status(), self.not_until.reason.as_str(), rfc3339(self.until));
        let token = if status == StatusCode::SERVICE_UNAVAILABLE {
            "destination_unavailable"
        } else {
            "proxy_internal_response"
        };
        let key = &self.key;
        let body = if is_head { Bytes::new() } else { Bytes::from(format!("{self}\n")) };
        let is_text = !body.is_empty() && make.has_text();
        let mut response = Response::new(make.make_body(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_text {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        let marks = [
            (HOLDOFF, format!("short-circuit; reason={reason}; until=\"{until}\"; key=\"{key}\"")),
            (PROXY_STATUS, format!("holdoff; error={token}; details=\"{reason}: {key} is not asked until {until}\"")),
        ];
        for (name, mark) in marks {
            // Keys, dates and reasons are ASCII without quotes, so nothing is ever left out here.
            if let Ok(value) = HeaderValue::try_from(mark) {
                headers.insert(name, value);
            }
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl Error for ShortCircuit {}

impl fmt::Display for ShortCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, wait) = (self.not_until.reason.as_str(), self.retry_after());
        write!(f, "`{}` was not contacted: {reason}, ask again in {wait} s", self.key)
    }
}

/// How a refused request is answered: [`AsResponse`] or [`AsError`]. Not to be implemented elsewhere.
pub trait Answer<R, E>: sealed::Sealed {
    /// The error of the service.
    type Error;

    #[doc(hidden)]
    fn short_circuit(&self, refusal: ShortCircuit, is_head: bool) -> Result<Response<R>, Self::Error>;

    #[doc(hidden)]
    fn failed(&self, error: E) -> Self::Error;
}

mod sealed {
    /// Keeps [`Answer`](super::Answer) ours to extend.
    pub trait Sealed {}
    impl<M> Sealed for super::AsResponse<M> {}
    impl Sealed for super::AsError {}
}

/// By a response, with a body that `M` makes. Errors of the inner service pass as they are.
///
/// 429 for `rate_limited` and `quota_exhausted`, 503 for the other reasons; `Retry-After`, `Cache-Control: no-store`,
/// `Holdoff` and `Proxy-Status` (RFC 9209), and a [`ShortCircuit`] among the extensions.
#[derive(Clone, Copy, Debug)]
pub struct AsResponse<M>(M);

impl<M> AsResponse<M> {
    pub(super) const fn new(make: M) -> Self {
        Self(make)
    }
}

impl<R, E, M: MakeBody<R>> Answer<R, E> for AsResponse<M> {
    type Error = E;

    fn short_circuit(&self, refusal: ShortCircuit, is_head: bool) -> Result<Response<R>, E> {
        Ok(refusal.response(is_head, &self.0))
    }

    fn failed(&self, error: E) -> E {
        error
    }
}

/// By a [`HoldoffError`], which also wraps the errors of the inner service.
#[derive(Clone, Copy, Debug)]
pub struct AsError;

impl<R, E> Answer<R, E> for AsError {
    type Error = HoldoffError<E>;

    fn short_circuit(&self, refusal: ShortCircuit, _: bool) -> Result<Response<R>, HoldoffError<E>> {
        Err(HoldoffError(Kind::ShortCircuit(Box::new(refusal))))
    }

    fn failed(&self, error: E) -> HoldoffError<E> {
        HoldoffError(Kind::Inner(error))
    }
}

/// Makes the body of a response of ours. A closure from [`Bytes`] is one, too.
pub trait MakeBody<R> {
    /// Makes a body of one line for people; of nothing for the answer to a HEAD.
    fn make_body(&self, line: Bytes) -> R;

    /// Whether the line is in the body, which is then `text/plain`.
    fn has_text(&self) -> bool {
        true
    }
}

impl<R, F: Fn(Bytes) -> R> MakeBody<R> for F {
    fn make_body(&self, line: Bytes) -> R {
        self(line)
    }
}

/// Makes the body by `From<Bytes>`, which most bodies have that a client or a server can send.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromBytes;

impl<R: From<Bytes>> MakeBody<R> for FromBytes {
    fn make_body(&self, line: Bytes) -> R {
        line.into()
    }
}

/// Makes the body by `Default`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyBody;

impl<R: Default> MakeBody<R> for EmptyBody {
    fn make_body(&self, _: Bytes) -> R {
        R::default()
    }

    fn has_text(&self) -> bool {
        false
    }
}

/// Why there is no response: the request was not sent, or it was and failed.
///
/// It is an [`Error`] where `E` is one, and then `E` is its source. A boxed error is none, in Rust's terms: for stacks of such
/// services there is [`HoldoffError::into_boxed`].
#[derive(Debug)]
pub struct HoldoffError<E>(Kind<E>);

#[derive(Debug)]
enum Kind<E> {
    ShortCircuit(Box<ShortCircuit>),
    Inner(E),
}

impl<E> HoldoffError<E> {
    /// Whether the request was not sent, because its host cools or is being tested.
    pub const fn is_short_circuited(&self) -> bool {
        matches!(self.0, Kind::ShortCircuit(_))
    }

    /// For how long the host is left alone and why, when the request was not sent.
    pub fn not_until(&self) -> Option<NotUntil> {
        self.short_circuit().map(ShortCircuit::not_until)
    }

    /// The whole refusal, when the request was not sent.
    pub fn short_circuit(&self) -> Option<&ShortCircuit> {
        match &self.0 {
            Kind::ShortCircuit(refusal) => Some(refusal),
            Kind::Inner(_) => None,
        }
    }

    /// The error of the inner service, when the request was sent.
    pub const fn inner(&self) -> Option<&E> {
        match &self.0 {
            Kind::ShortCircuit(_) => None,
            Kind::Inner(error) => Some(error),
        }
    }

    /// The error of the inner service, when the request was sent.
    pub fn into_inner(self) -> Option<E> {
        match self.0 {
            Kind::ShortCircuit(_) => None,
            Kind::Inner(error) => Some(error),
        }
    }

    /// What it is made of, boxed: a [`ShortCircuit`], or the error of the inner service. For layers above that take
    /// whatever can be boxed, as tower's own do, over services whose errors are boxed already.
    ///
    /// ```
    /// use holdoff::layer::{HoldoffError, HoldoffLayer, ShortCircuit};
    /// use http::{Request, Response};
    /// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let client = ServiceBuilder::new()
    ///     .map_err(HoldoffError::into_boxed)
    ///     .layer(HoldoffLayer::new().short_circuit_as_error())
    ///     .service(service_fn(|_: Request<String>| async {
    ///         Ok::<_, BoxError>(Response::builder().status(429).header("retry-after", "5").body(String::new())?)
    ///     }));
    /// let ask = || client.clone().oneshot(Request::get("https://peer.example/").body(String::new()).unwrap());
    /// assert!(ask().await.is_ok());
    /// let error: BoxError = ask().await.unwrap_err();
    /// assert!(error.is::<ShortCircuit>());
    /// # }
    /// ```
    pub fn into_boxed(self) -> Box<dyn Error + Send + Sync>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        match self.0 {
            Kind::ShortCircuit(refusal) => refusal,
            Kind::Inner(error) => error.into(),
        }
    }
}

impl<E> fmt::Display for HoldoffError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::ShortCircuit(refusal) => refusal.fmt(f),
            Kind::Inner(_) => f.write_str("the request failed"),
        }
    }
}

impl<E: Error + 'static> Error for HoldoffError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::ShortCircuit(_) => None,
            Kind::Inner(error) => Some(error),
        }
    }
}

/// RFC 3339 in UTC, rounded up to a second.
fn rfc3339(time: UnixTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // `Fri, 20 Nov 2026 10:00:00 GMT` has all there is to say, in another order.
    let date = httpdate::fmt_http_date(SystemTime::from(UnixTime::from_secs(time.as_millis().div_ceil(1000))));
    let mut words = date.split(' ').skip(1);
    let mut word = || words.next().unwrap_or_default();
    let (day, month, year, clock) = (word(), word(), word(), word());
    let month = MONTHS.iter().position(|name| *name == month).map_or(0, |at| at.saturating_add(1));
    format!("{year}-{month:02}-{day}T{clock}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::decision::State;
    use crate::core::time::Instant;

    #[test]
    fn retry_after_is_rounded_up_and_at_least_1() {
        for (millis, secs) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
            let wait = Duration::from_millis(millis);
            let not_until = NotUntil { until: Instant::ZERO, wait, reason: Reason::RateLimited, state: State::Cooling };
            let refusal =
                ShortCircuit::new(Key::parse("https://peer.example").unwrap(), not_until, UnixTime::default());
            assert_eq!(refusal.retry_after(), secs, "{millis} ms");
        }
    }

    #[test]
    fn dates_are_rfc_3339_and_never_early() {
        for (millis, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_168_800_000, "2026-11-20T10:00:00Z"),
            (1_795_168_800_001, "2026-11-20T10:00:01Z"),
            (1_709_164_799_001, "2024-02-29T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(UnixTime::from_millis(millis)), shown);
        }
    }
}
