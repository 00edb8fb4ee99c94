//! What a program may say about its requests and its errors.

use std::error::Error;
use std::io;

use http::header::HOST;
use http::{Method, Request, Uri};

use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::signal::{Failure, Outcome};

/// What a request's cooldown is held against.
///
/// [`RequestKey`] is the default. A closure that gives an owned [`Key`] is one, too:
///
/// ```
/// use holdoff::core::key::Key;
/// use holdoff::layer::HoldoffLayer;
///
/// // Requests say by a header which tenant's gateway they are for.
/// let layer = HoldoffLayer::new().key_for(|request: &http::Request<String>| {
///     let tenant = request.headers().get("x-tenant")?.to_str().ok()?;
///     Key::parse(&format!("https://{tenant}.gateway.example")).ok()
/// });
/// # let _ = layer;
/// ```
pub trait KeyFor<B> {
    /// The key. `None`: the request passes untouched.
    fn key_for<'r>(&self, request: &'r Request<B>) -> Option<KeyRef<'r>>;
}

impl<B, F: Fn(&Request<B>) -> Option<Key>> KeyFor<B> for F {
    fn key_for<'r>(&self, request: &'r Request<B>) -> Option<KeyRef<'r>> {
        self(request).map(KeyRef::from)
    }
}

/// Scheme, host and port of the request: those of an absolute URI, else of the `Host` header.
///
/// No key have: a URI of another scheme than http and https, a host that is not one (see
/// [`KeyError`](crate::core::key::KeyError)), none or several `Host` headers where one is needed, and CONNECT, since its
/// answer comes from a proxy and says nothing about the host.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey {
    scheme: Scheme,
}

impl RequestKey {
    /// Takes https for a request that has only a `Host` header.
    pub const fn new() -> Self {
        Self { scheme: Scheme::Https }
    }

    /// The scheme of requests that have only a `Host` header, which does not say it.
    #[must_use]
    pub const fn host_header_means(self, scheme: Scheme) -> Self {
        Self { scheme }
    }
}

impl Default for RequestKey {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> KeyFor<B> for RequestKey {
    fn key_for<'r>(&self, request: &'r Request<B>) -> Option<KeyRef<'r>> {
        if request.method() == Method::CONNECT {
            return None;
        }
        if request.uri().scheme().is_some() {
            return key_of(request.uri());
        }
        let mut hosts = request.headers().get_all(HOST).into_iter();
        let host = hosts.next().filter(|_| hosts.next().is_none())?;
        KeyRef::from_authority(self.scheme, host.to_str().ok()?).ok()
    }
}

fn key_of(uri: &Uri) -> Option<KeyRef<'_>> {
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    // Clients read the host behind the last `@`, too; a name and a word before it are credentials.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    KeyRef::from_authority(scheme, host).ok()
}

/// What an error of the inner service says about the host.
///
/// [`Unreachable`] is the default. A closure is one, too:
///
/// ```
/// use std::io;
///
/// use holdoff::core::signal::Outcome;
/// use holdoff::layer::{HoldoffLayer, failure_of};
///
/// let layer = HoldoffLayer::new().classify_error(|error: &io::Error| match error.kind() {
///     // The program itself gave up: nothing about the host.
///     io::ErrorKind::Interrupted => Outcome::Neutral,
///     _ => Outcome::Failing(failure_of(error)),
/// });
/// # let _ = layer;
/// ```
pub trait ClassifyError<E> {
    /// The outcome. [`Outcome::Neutral`] is for errors on this side.
    fn classify_error(&self, error: &E) -> Outcome;
}

impl<E, F: Fn(&E) -> Outcome> ClassifyError<E> for F {
    fn classify_error(&self, error: &E) -> Outcome {
        self(error)
    }
}

/// Every error is a failure of the host: [`Failure::Unreachable`].
///
/// Failures start a cooldown only where a policy turns its breaker on; a probe that ends in one starts it anew then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unreachable;

impl<E> ClassifyError<E> for Unreachable {
    fn classify_error(&self, _: &E) -> Outcome {
        Outcome::Failing(Failure::Unreachable)
    }
}

/// The failure that an error comes down to: the first [`io::Error`] among it and its sources whose kind says more than
/// [`Failure::Unreachable`].
pub fn failure_of(error: &(dyn Error + 'static)) -> Failure {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<io::Error>().and_then(failure_of_io) {
            return failure;
        }
        next = error.source();
    }
    Failure::Unreachable
}

fn failure_of_io(error: &io::Error) -> Option<Failure> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Failure::Refused),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(Failure::Reset),
        io::ErrorKind::TimedOut => Some(Failure::Timeout),
        // An `io::Error` around another error has that as its own, not as its source.
        _ => error.get_ref().and_then(|inner| match failure_of(inner) {
            Failure::Unreachable => None,
            failure => Some(failure),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: http::request::Builder) -> Option<String> {
        let request = request.body(()).unwrap();
        RequestKey::new().key_for(&request).map(|key| key.to_key().to_string())
    }

    #[test]
    fn the_uri_says_the_key_and_wins_over_the_host_header() {
        let shown = |uri: &str| key(Request::get(uri).header(HOST, "other.example"));
        assert_eq!(shown("https://Peer.example/a?b").as_deref(), Some("https://peer.example:443"));
        assert_eq!(shown("http://peer.example:8080/").as_deref(), Some("http://peer.example:8080"));
        assert_eq!(shown("http://user:word@peer.example/").as_deref(), Some("http://peer.example:80"));
        assert_eq!(shown("http://[2001:db8:0::1]/").as_deref(), Some("http://[2001:db8::1]:80"));
        assert_eq!(shown("ftp://peer.example/"), None);
        assert_eq!(shown("http://127.1/"), None, "not a host in its normal form");
    }

    #[test]
    fn without_a_scheme_the_one_host_header_says_the_key() {
        assert_eq!(key(Request::get("/a").header(HOST, "peer.example")).as_deref(), Some("https://peer.example:443"));
        assert_eq!(key(Request::get("/a")), None);
        assert_eq!(key(Request::get("/a").header(HOST, "a.example").header(HOST, "b.example")), None);
        assert_eq!(key(Request::get("/a").header(HOST, "a example")), None);
        let request = Request::get("/a").header(HOST, "peer.example").body(()).unwrap();
        let http = RequestKey::new().host_header_means(Scheme::Http);
        assert_eq!(http.key_for(&request).unwrap().to_key().to_string(), "http://peer.example:80");
    }

    #[test]
    fn connect_has_no_key() {
        assert_eq!(key(Request::connect("peer.example:443").header(HOST, "peer.example:443")), None);
    }

    #[test]
    fn an_error_is_classified_by_the_io_error_it_comes_from() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("outer")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        for (kind, failure) in [
            (io::ErrorKind::ConnectionRefused, Failure::Refused),
            (io::ErrorKind::ConnectionReset, Failure::Reset),
            (io::ErrorKind::UnexpectedEof, Failure::Reset),
            (io::ErrorKind::TimedOut, Failure::Timeout),
            (io::ErrorKind::HostUnreachable, Failure::Unreachable),
        ] {
            assert_eq!(failure_of(&Outer(kind.into())), failure, "{kind}");
            assert_eq!(failure_of(&io::Error::other(Outer(kind.into()))), failure, "{kind} inside another");
        }
        assert_eq!(failure_of(&std::fmt::Error), Failure::Unreachable);
    }
}
