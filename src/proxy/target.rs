//! What a request names as its target, read strictly: hyper takes more than a proxy may (RFC 9112 §3).

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::error::{ErrorKind, ProxyError};
use super::headers::options;
use super::tap::Head;
use crate::core::key::{Key, KeyError, KeyRef, Scheme};

/// The form of a request target (RFC 9112 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `/path`
    Origin,
    /// `http://host/path`
    Absolute(Authority),
    /// `host:port`, with CONNECT.
    Authority(Authority),
    /// `*`, with OPTIONS.
    Asterisk,
}

/// Reads the form of a target, and refuses what fits none.
///
/// # Errors
/// [`ErrorKind::BadRequest`], [`ErrorKind::UnknownScheme`].
pub(super) fn form(method: &Method, uri: &Uri) -> Result<Form, ProxyError> {
    if method == Method::CONNECT {
        return match uri.authority() {
            Some(authority) if uri.scheme().is_none() && uri.path_and_query().is_none_or(is_empty) => {
                check_authority(authority)?;
                if authority.port().is_none() {
                    return Err(bad("CONNECT needs a port: expected `host:port` as the target"));
                }
                Ok(Form::Authority(authority.clone()))
            }
            _ => Err(bad("CONNECT needs `host:port` as its target")),
        };
    }
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => {
            check_authority(authority)?;
            Ok(Form::Absolute(authority.clone()))
        }
        (Some("https"), Some(_)) => Err(ProxyError::new(
            ErrorKind::UnknownScheme,
            "a proxy reaches https by CONNECT, so that TLS is between the client and the host; to let holdoff speak TLS, \
             put a `[[reverse]]` for the host into holdoff.toml and ask its address over http",
        )),
        (Some(_), _) => Err(ProxyError::new(ErrorKind::UnknownScheme, "expected a target that starts with `http://`")),
        (None, Some(_)) => Err(bad("expected a whole URL or a path as the target, found `host:port`")),
        (None, None) if uri.path() == "*" => {
            if method == Method::OPTIONS {
                Ok(Form::Asterisk)
            } else {
                Err(bad("the target `*` is for OPTIONS only"))
            }
        }
        (None, None) => Ok(Form::Origin),
    }
}

fn is_empty(path: &PathAndQuery) -> bool {
    path.as_str().is_empty()
}

fn check_authority(authority: &Authority) -> Result<(), ProxyError> {
    KeyRef::from_authority(Scheme::Http, authority.as_str()).map(drop).map_err(|error| bad_authority(error, "target"))
}

fn bad_authority(error: KeyError, place: &str) -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, format!("bad {place}: {error}"))
}

/// The key of an authority.
///
/// # Errors
/// [`ErrorKind::BadRequest`].
pub(super) fn key(scheme: Scheme, authority: &str) -> Result<KeyRef<'_>, ProxyError> {
    KeyRef::from_authority(scheme, authority).map_err(|error| bad_authority(error, "target"))
}

/// `host` or `host:port` of a key, the default port left out.
pub(super) fn authority(key: &Key) -> String {
    let (open, close) = if key.host().contains(':') { ("[", "]") } else { ("", "") };
    let port = if key.port() == key.scheme().default_port() { String::new() } else { format!(":{}", key.port()) };
    format!("{open}{}{close}{port}", key.host())
}

/// The target in origin-form, as an upstream gets it: path and query byte for byte.
pub(super) fn origin_form(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        // `http://host#fragment` has an empty path, which shows as `/` and would be sent as nothing.
        Some(path) if path.as_str() == "/" => root(),
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        // `http://host?query`
        Some(path) => format!("/{}", path.as_str()).parse().unwrap_or_else(|_| root()),
        None => root(),
    }
}

fn root() -> PathAndQuery {
    PathAndQuery::from_static("/")
}

/// Refuses what is ambiguous in a head whatever its target (RFC 9112 §3.2, §6.1, §6.3; RFC 9110 §7.6.1).
///
/// # Errors
/// [`ErrorKind::BadRequest`].
pub(super) fn check_head(version: Version, headers: &HeaderMap, seen: &Head) -> Result<(), ProxyError> {
    if let Some(flaw) = seen.flaw {
        return Err(bad(flaw));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(bad("expected `chunked` alone as the transfer coding"));
        }
        if seen.content_length || headers.contains_key(CONTENT_LENGTH) {
            return Err(bad("the request has both `Transfer-Encoding` and `Content-Length`"));
        }
    }
    for option in options(headers) {
        if [&b"content-length"[..], b"transfer-encoding", b"host"].iter().any(|name| option.eq_ignore_ascii_case(name))
        {
            return Err(bad("`Connection` names a field that is not the connection's"));
        }
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| bad("`Host` has characters that no host has"))?;
            KeyRef::from_authority(Scheme::Http, host).map(drop).map_err(|error| bad_authority(error, "`Host`"))
        }
        (None, _) if version == Version::HTTP_11 => Err(bad("the request has no `Host`")),
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(bad("the request has more than one `Host`")),
    }
}

/// Refuses a stream whose `Host` names another host than its `:authority`, and what the reader of HTTP/2 lets pass although
/// it is malformed, or that of HTTP/1.1 does not (RFC 9113 §8.2.1, §8.3.1). `most` is the bound on fields.
///
/// # Errors
/// [`ErrorKind::BadRequest`], [`ErrorKind::HeadTooLarge`].
pub(super) fn check_stream<B>(request: &Request<B>, most: usize) -> Result<(), ProxyError> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let (uri, headers) = (request.uri(), request.headers());
    if headers.len() > most {
        return Err(ProxyError::new(ErrorKind::HeadTooLarge, "more fields than `limits.max_header_fields`"));
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(bad("the request has more than one `Content-Length`"));
    }
    let is_options = request.method() == Method::OPTIONS;
    let is_path = |path: &PathAndQuery| path.as_str().starts_with('/') || is_options && path.as_str() == "*";
    if request.method() != Method::CONNECT && !uri.path_and_query().is_none_or(is_path) {
        return Err(bad("expected a `:path` that starts with `/`, or `*` for OPTIONS"));
    }
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if headers.values().any(|value| is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())) {
        return Err(bad("a field's value begins or ends with white space"));
    }
    let (Some(authority), Some(host)) = (uri.authority(), headers.get(HOST)) else { return Ok(()) };
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let named = |text: &str| KeyRef::from_authority(scheme, text).map(|key| key.to_key()).ok();
    let agree = host.to_str().ok().and_then(named).is_some_and(|host| Some(host) == named(authority.as_str()));
    if agree { Ok(()) } else { Err(bad("`Host` and `:authority` name different hosts")) }
}

fn bad(detail: &'static str) -> ProxyError {
    ProxyError::new(ErrorKind::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, target: &str) -> Result<Form, ErrorKind> {
        let uri: Uri = target.parse().map_err(|_| ErrorKind::BadRequest)?;
        form(&method.parse().unwrap(), &uri).map_err(|error| error.kind())
    }

    #[test]
    fn each_form_belongs_to_its_method() {
        assert_eq!(read("GET", "/a?b"), Ok(Form::Origin));
        assert_eq!(read("GET", "http://a/b"), Ok(Form::Absolute("a".parse().unwrap())));
        assert_eq!(read("GET", "HTTP://a/b"), Ok(Form::Absolute("a".parse().unwrap())));
        assert_eq!(read("CONNECT", "a:443"), Ok(Form::Authority("a:443".parse().unwrap())));
        assert_eq!(read("OPTIONS", "*"), Ok(Form::Asterisk));
        for (method, target) in [
            ("GET", "*"),
            ("GET", "a:80"),
            ("CONNECT", "/a"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "http://a:443/"),
            ("CONNECT", "user@a:443"),
            ("CONNECT", "a:0"),
            ("GET", "http://user@a/"),
            ("GET", "http://user:word@a/"),
            ("GET", "http://:80/"),
            ("GET", "http://2130706433/"),
        ] {
            assert_eq!(read(method, target), Err(ErrorKind::BadRequest), "{method} {target}");
        }
        for target in ["https://a/b", "ftp://a/b"] {
            assert_eq!(read("GET", target), Err(ErrorKind::UnknownScheme), "{target}");
        }
    }

    #[test]
    fn the_origin_form_keeps_every_byte() {
        for (target, expected) in [
            ("http://a", "/"),
            ("http://a/", "/"),
            ("http://a?q=1", "/?q=1"),
            ("http://a/%7Eb/../c;d?e=%2F&f", "/%7Eb/../c;d?e=%2F&f"),
            ("http://a//b?", "//b?"),
            ("http://a#fragment", "/"),
        ] {
            let path = origin_form(&target.parse().unwrap());
            assert_eq!(path.as_str(), expected, "{target}");
            assert_eq!(Uri::from(path).to_string(), expected, "what is sent for {target}");
        }
    }

    fn head(fields: &[(&str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn checked(version: Version, fields: &[(&str, &str)]) -> bool {
        check_head(version, &head(fields), &Head::default()).is_ok()
    }

    #[test]
    fn exactly_one_valid_host_is_needed() {
        assert!(checked(Version::HTTP_11, &[("host", "a:80")]));
        assert!(checked(Version::HTTP_10, &[]));
        for hosts in [&[][..], &["a", "a"], &["a", "b"], &[""], &["a b"], &["u@a"], &["a:x"], &["a/b"], &["a,b"]] {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert!(!checked(Version::HTTP_11, &fields), "{hosts:?}");
        }
        assert!(!checked(Version::HTTP_10, &[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn framing_that_two_readers_may_read_differently_is_refused() {
        let with = |fields: &[(&'static str, &'static str)]| {
            let mut all = vec![("host", "a")];
            all.extend_from_slice(fields);
            checked(Version::HTTP_11, &all)
        };
        assert!(with(&[("transfer-encoding", "chunked")]));
        assert!(with(&[("transfer-encoding", "Chunked")]));
        assert!(!with(&[("transfer-encoding", "gzip, chunked")]));
        assert!(!with(&[("transfer-encoding", "chunked, chunked")]));
        assert!(!with(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
        assert!(!with(&[("transfer-encoding", "chunked"), ("content-length", "3")]));
        assert!(with(&[("connection", "close, x-a")]));
        assert!(!with(&[("connection", "close, Content-Length")]));
        assert!(!with(&[("connection", "transfer-encoding")]));
        assert!(!with(&[("connection", "close"), ("connection", "host")]));
        let fields = head(&[("host", "a"), ("transfer-encoding", "chunked")]);
        let seen = Head { content_length: true, ..Head::default() };
        assert!(check_head(Version::HTTP_11, &fields, &seen).is_err());
        let seen = Head { flaw: Some("odd"), ..Head::default() };
        assert!(check_head(Version::HTTP_11, &head(&[("host", "a")]), &seen).is_err());
    }
}
