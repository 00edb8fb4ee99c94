//! Who may ask.
//!
//! A browser on the operator's machine can be made to send requests to loopback by any page, and a name of the page's
//! owner can be made to resolve to loopback afterwards ("DNS rebinding"), which turns our answers into that page's own.
//! Both betray themselves: the first by `Origin`, the second by a `Host` that is none of ours.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, StatusCode};
use subtle::ConstantTimeEq;

use crate::config::settings::{self, ListenAddress, is_loopback};

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Over TCP, to this address of ours.
    Tcp(IpAddr),
    /// Over a Unix socket: whoever may open the file.
    Unix,
}

/// A refusal: a status, and what to tell.
pub(super) type Refusal = (StatusCode, &'static str);

/// What is checked before anything else.
#[derive(Debug)]
pub(super) struct Guard {
    /// In lower case.
    names: Vec<String>,
    literals: Vec<IpAddr>,
    token: Option<settings::Token>,
}

impl Guard {
    pub(super) fn new(admin: &settings::Admin) -> Self {
        let names = admin.hosts.iter().map(|name| name.to_ascii_lowercase()).chain(["localhost".to_owned()]).collect();
        let literals = admin
            .address
            .iter()
            .filter_map(|address| match address {
                ListenAddress::Tcp(address) => Some(address.ip().to_canonical()),
                ListenAddress::Unix(_) => None,
            })
            .collect();
        Self { names, literals, token: admin.token.clone() }
    }

    /// Checks a request to the operators' door.
    pub(super) fn check(&self, headers: &HeaderMap, arrival: Arrival, needs_token: bool) -> Result<(), Refusal> {
        self.check_host(headers, arrival)?;
        check_site(headers)?;
        if needs_token { self.check_token(headers, arrival) } else { Ok(()) }
    }

    fn check_host(&self, headers: &HeaderMap, arrival: Arrival) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err((StatusCode::BAD_REQUEST, "expected exactly one `Host` field"));
        };
        let Ok(host) = host.to_str() else {
            return Err((StatusCode::BAD_REQUEST, "expected a host name in `Host`"));
        };
        // No browser speaks to a Unix socket.
        if arrival == Arrival::Unix || self.knows(host_of(host), arrival) {
            return Ok(());
        }
        Err((
            StatusCode::MISDIRECTED_REQUEST,
            "expected `Host` to be `localhost`, an address of this listener or one of `admin.hosts`; \
             a name can be added there",
        ))
    }

    fn knows(&self, host: &str, arrival: Arrival) -> bool {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return self.literals.contains(&ip) || arrival == Arrival::Tcp(ip);
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    fn check_token(&self, headers: &HeaderMap, arrival: Arrival) -> Result<(), Refusal> {
        let Some(token) = &self.token else {
            return match arrival {
                Arrival::Tcp(ip) if !is_loopback(ip) => Err((
                    StatusCode::FORBIDDEN,
                    "expected `admin.token_file` to be set, since this address is not loopback",
                )),
                _ => Ok(()),
            };
        };
        let given = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let given = match given.split_at_checked(7) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => given.trim_ascii(),
            _ => {
                return Err((
                    StatusCode::UNAUTHORIZED,
                    "expected `Authorization: Bearer` with the token of `admin.token_file`",
                ));
            }
        };
        if bool::from(given.ct_eq(token.secret.as_bytes())) {
            Ok(())
        } else {
            Err((StatusCode::UNAUTHORIZED, "the token is not the one of `admin.token_file`"))
        }
    }
}

/// Refuses what a browser sends on behalf of another page.
fn check_site(headers: &HeaderMap) -> Result<(), Refusal> {
    const FOREIGN: Refusal = (StatusCode::FORBIDDEN, "requests on behalf of other sites are refused");
    let host = headers.get(HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
    for origin in headers.get_all(ORIGIN) {
        // The listener speaks http only.
        let ours = origin.as_bytes().strip_prefix(b"http://").is_some_and(|origin| origin.eq_ignore_ascii_case(host));
        if !ours {
            return Err(FOREIGN);
        }
    }
    for site in headers.get_all(HeaderName::from_static("sec-fetch-site")) {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(FOREIGN);
        }
    }
    Ok(())
}

/// `Host` without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use http::HeaderValue;

    use super::*;

    const LOOPBACK: Arrival = Arrival::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn guard(token: Option<&str>) -> Guard {
        Guard::new(&settings::Admin {
            address: vec![ListenAddress::Tcp("[::1]:4291".parse().unwrap())],
            token: token.map(|secret| settings::Token { file: PathBuf::from("/t"), secret: secret.to_owned() }),
            hosts: vec!["Admin.example".to_owned()],
        })
    }

    fn status(guard: &Guard, arrival: Arrival, fields: &[(&'static str, &str)]) -> u16 {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        guard.check(&headers, arrival, true).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn a_foreign_host_is_refused() {
        let guard = guard(None);
        for host in [
            "localhost",
            "LOCALHOST:4291",
            "127.0.0.1",
            "127.0.0.1:9",
            "[::1]:4291",
            "admin.example.",
            "admin.EXAMPLE:1",
        ] {
            assert_eq!(status(&guard, LOOPBACK, &[("host", host)]), 200, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.2", "10.0.0.1:4291", "", "localhost:x", "[::1]x:1"]
        {
            assert_eq!(status(&guard, LOOPBACK, &[("host", host)]), 421, "{host}");
            assert_eq!(status(&guard, Arrival::Unix, &[("host", host)]), 200, "{host}");
        }
        assert_eq!(status(&guard, LOOPBACK, &[]), 400);
    }

    #[test]
    fn a_foreign_origin_is_refused() {
        let guard = guard(None);
        let asked = |origin: &str| status(&guard, LOOPBACK, &[("host", "localhost:4291"), ("origin", origin)]);
        assert_eq!(asked("http://localhost:4291"), 200);
        for origin in
            ["http://evil.example", "null", "https://localhost:4291", "http://localhost:4292", "http://localhost"]
        {
            assert_eq!(asked(origin), 403, "{origin}");
        }
        let site = |site: &str| status(&guard, LOOPBACK, &[("host", "localhost"), ("sec-fetch-site", site)]);
        assert_eq!([site("same-origin"), site("none"), site("cross-site"), site("same-site")], [200, 200, 403, 403]);
    }

    #[test]
    fn a_token_is_needed_where_there_is_one_and_off_loopback() {
        let with = guard(Some("s3cret"));
        let asked = |value: &str| status(&with, LOOPBACK, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!([asked("Bearer s3cret"), asked("bearer  s3cret")], [200, 200]);
        assert_eq!(
            [asked("Bearer s3cre"), asked("Bearer "), asked("Basic s3cret"), asked("s3cret"), asked("é")],
            [401; 5]
        );
        assert_eq!(status(&with, LOOPBACK, &[("host", "localhost")]), 401);
        let outside = Arrival::Tcp("10.0.0.1".parse().unwrap());
        assert_eq!(status(&guard(None), outside, &[("host", "10.0.0.1")]), 403);
        assert_eq!(status(&with, outside, &[("host", "10.0.0.1"), ("authorization", "Bearer s3cret")]), 200);
    }
}
