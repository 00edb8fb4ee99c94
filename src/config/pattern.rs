//! Hosts as operators write them: patterns of `[[host]] match`, rules of `[egress]`, upstreams of `[[reverse]]`.
//!
//! They end in the normal form of [`Key`], so that what is compared on the request path is compared byte by byte. Names
//! beyond ASCII are accepted here, and only here, since people write them; requests carry A-labels.

use std::net::IpAddr;

use ipnet::IpNet;

use super::settings::{EgressRule, EgressTarget, HostPattern, HostTarget};
use super::value::Text;
use crate::core::key::{Key, KeyRef, Scheme};

/// A host name or address literal in the normal form of a key.
pub(super) fn host(text: &str) -> Result<String, Option<String>> {
    let ascii = if text.is_ascii() { text.to_owned() } else { idna::domain_to_ascii(text).map_err(|_| None)? };
    match KeyRef::new(Scheme::Https, &ascii, 443) {
        Ok(key) => Ok(key.host().to_owned()),
        Err(error) => Err(Some(error.to_string())),
    }
}

fn port(text: &str) -> Result<u16, Option<String>> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(Some("a port is a number from 1 to 65535".to_owned())),
    }
}

/// Splits off a port. IPv6 with a port stands in brackets, as in URLs; a network may stand in them whole.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<u16>), Option<String>> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']').ok_or(None)?;
        return match rest.strip_prefix(':') {
            Some(number) => Ok((inside, Some(port(number)?))),
            None if rest.is_empty() => Ok((inside, None)),
            None => Err(None),
        };
    }
    // Several colons without brackets: IPv6 without a port.
    match text.split_once(':') {
        Some((host, number)) if !number.contains(':') => Ok((host, Some(port(number)?))),
        _ => Ok((text, None)),
    }
}

fn target(text: &str) -> Result<HostTarget, Option<String>> {
    if text == "*" {
        return Ok(HostTarget::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        if suffix.parse::<IpAddr>().is_ok() {
            return Err(Some("for addresses write a network, such as `\"10.0.0.0/8\"`".to_owned()));
        }
        return Ok(HostTarget::Suffix(format!(".{}", host(suffix)?)));
    }
    if text.contains('*') {
        return Err(Some("`*` stands alone, or as `*.` before a name".to_owned()));
    }
    if let Some((address, _)) = text.split_once('/') {
        if address.parse::<IpAddr>().is_err() {
            return Err(Some(format!("a host has no path; write `\"{address}\"`")));
        }
        return <IpNet as Text>::parse(text).map(HostTarget::Net);
    }
    host(text).map(HostTarget::Exact)
}

impl Text for HostPattern {
    const EXPECTED: &'static str = "a host (`\"peer.example\"`), names below one (`\"*.example.com\"`), a network \
                                    (`\"10.1.0.0/16\"`) or `\"*\"`, with a scheme before or a port after it if wanted";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
            Some(_) => return Err(Some("the scheme is `http` or `https`, or left out".to_owned())),
        };
        // `https://peer.example/` is what a browser copies.
        let rest = if scheme.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        let (host, port) = split_port(rest)?;
        Ok(Self { text: text.to_owned(), scheme, target: target(host)?, port })
    }

    fn show(&self) -> String {
        self.text.clone()
    }
}

impl HostPattern {
    /// Whether a host, in the normal form of a key, is named.
    pub fn matches(&self, key: &KeyRef<'_>) -> bool {
        let host = key.host();
        self.port.is_none_or(|port| port == key.port())
            && self.scheme.is_none_or(|scheme| scheme == key.scheme())
            && match &self.target {
                HostTarget::Exact(name) => name == host,
                HostTarget::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
                HostTarget::Net(network) => {
                    host.parse::<IpAddr>().is_ok_and(|address| network.contains(&address.to_canonical()))
                }
                HostTarget::Any => true,
            }
    }
}

/// A host of `[intercept]`: a pattern that names something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterceptHost(pub(super) HostPattern);

impl Text for InterceptHost {
    const EXPECTED: &'static str = "a host (`\"api.example.com\"`), names below one (`\"*.example.com\"`) or a network \
                                    (`\"10.1.0.0/16\"`), with a port after it if wanted";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let pattern = HostPattern::parse(text)?;
        if pattern.scheme == Some(Scheme::Http) {
            return Err(Some("interception is of https; leave out the scheme".to_owned()));
        }
        match pattern.target {
            HostTarget::Any => Err(Some(
                "name the hosts: the certificate authority is bound to them, so that its key is of no use for any other"
                    .to_owned(),
            )),
            HostTarget::Net(network) if network.prefix_len() == 0 => {
                Err(Some("name a network that is smaller than every address".to_owned()))
            }
            _ => Ok(Self(pattern)),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl Text for EgressRule {
    const EXPECTED: &'static str = "a host (`\"peer.example\"`), names below one (`\"*.example.com\"`) or a network \
                                    (`\"10.1.0.0/16\"`), with a port after it if wanted";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.contains("://") {
            return Err(Some("a rule has no scheme; write the host alone".to_owned()));
        }
        let (host, port) = split_port(text)?;
        let target = match target(host)? {
            HostTarget::Exact(host) => match host.parse::<IpAddr>() {
                Ok(address) => EgressTarget::Net(IpNet::from(address)),
                Err(_) => EgressTarget::Host(host),
            },
            HostTarget::Suffix(suffix) => EgressTarget::Suffix(suffix),
            HostTarget::Net(network) => EgressTarget::Net(network),
            HostTarget::Any => {
                return Err(Some("for every address write `\"0.0.0.0/0\"` and `\"::/0\"`".to_owned()));
            }
        };
        Ok(Self { target, port })
    }

    fn show(&self) -> String {
        let (text, v6) = match &self.target {
            EgressTarget::Host(host) => (host.clone(), false),
            EgressTarget::Suffix(suffix) => (format!("*{suffix}"), false),
            EgressTarget::Net(network) => (network.to_string(), network.addr().is_ipv6()),
        };
        match self.port {
            Some(port) if v6 => format!("[{text}]:{port}"),
            Some(port) => format!("{text}:{port}"),
            None => text,
        }
    }
}

/// Where a `[[reverse]]` leads: a key and a path prefix without its trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) key: Key,
    pub(super) path: String,
}

impl Text for Upstream {
    const EXPECTED: &'static str =
        "a URL with scheme, host and, if wanted, port and path, such as `\"https://api.example.com\"`";
    const PATTERN: Option<&'static str> = Some("^[Hh][Tt][Tt][Pp][Ss]?://");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Some(format!("say how to speak to it: `\"https://{text}\"`")));
        };
        if rest.contains(['?', '#']) {
            return Err(Some("leave out the query and the fragment".to_owned()));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let authority = match authority.rsplit_once(':') {
            _ if authority.is_ascii() => authority.to_owned(),
            Some((name, port)) => format!("{}:{port}", host(name)?),
            None => host(authority)?,
        };
        let key = Key::parse(&format!("{scheme}://{authority}")).map_err(|error| Some(error.to_string()))?;
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            check_path(path)?;
        }
        Ok(Self { key, path: path.to_owned() })
    }

    fn show(&self) -> String {
        format!("{}{}", self.key, self.path)
    }
}

/// A path prefix on our side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPrefix(pub(super) String);

impl Text for PathPrefix {
    const EXPECTED: &'static str = "a path, such as `\"/\"` or `\"/github\"`";
    const PATTERN: Option<&'static str> = Some("^/");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        check_path(text)?;
        let path = text.trim_end_matches('/');
        Ok(Self(if path.is_empty() { "/" } else { path }.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

fn check_path(path: &str) -> Result<(), Option<String>> {
    if !path.starts_with('/') {
        return Err(Some("a path starts with `/`".to_owned()));
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>' | b'\\');
    if !path.bytes().all(plain) {
        return Err(Some("a path has no spaces, `?`, `#` or characters beyond ASCII; write those as `%XX`".to_owned()));
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") || path.contains("//") {
        return Err(Some("a prefix has no empty, `.` or `..` segments".to_owned()));
    }
    Ok(())
}

/// Our name in `Via` (a token) and `Proxy-Status` (a structured-field token).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl Text for Name {
    const EXPECTED: &'static str = "a name of at most 64 letters, digits, `-`, `.` and `_` that starts with a letter";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z][A-Za-z0-9._-]{0,63}$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if starts && text.len() <= 64 && text.bytes().all(plain) { Ok(Self(text.to_owned())) } else { Err(None) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A name accepted in `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName(pub(super) String);

impl Text for HostName {
    const EXPECTED: &'static str = "a host name without a port, such as `\"holdoff.internal\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        host(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_have_an_optional_scheme_and_port() {
        assert_eq!(pattern("Peer.Example.").target, HostTarget::Exact("peer.example".to_owned()));
        assert_eq!(pattern("*.example.com").target, HostTarget::Suffix(".example.com".to_owned()));
        assert_eq!(pattern("*").target, HostTarget::Any);
        assert_eq!(pattern("10.1.2.3/16").target, HostTarget::Net("10.1.0.0/16".parse().unwrap()));
        assert_eq!(pattern("[fd00::/8]:443").target, HostTarget::Net("fd00::/8".parse().unwrap()));
        assert_eq!(pattern("[2001:DB8::1]:8080").target, HostTarget::Exact("2001:db8::1".to_owned()));
        assert_eq!(pattern("2001:db8::1").port, None);
        let full = pattern("https://peer.example:8443/");
        assert_eq!((full.scheme, full.port), (Some(Scheme::Https), Some(8443)));
    }

    #[test]
    fn international_names_become_a_labels() {
        assert_eq!(pattern("Bücher.example").target, HostTarget::Exact("xn--bcher-kva.example".to_owned()));
        assert_eq!(pattern("*.bücher.example").target, HostTarget::Suffix(".xn--bcher-kva.example".to_owned()));
        let upstream = Upstream::parse("https://bücher.example:8443/api/").unwrap();
        assert_eq!(upstream.show(), "https://xn--bcher-kva.example:8443/api");
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_mend() {
        for (text, mend) in [
            ("peer*.example", "`*.` before"),
            ("peer.example/v1", "no path"),
            ("ftp://peer.example", "`http` or `https`"),
            ("peer.example:0", "1 to 65535"),
            ("user@peer.example", "character"),
            ("127.1", "character"),
        ] {
            let found = HostPattern::parse(text).unwrap_err().unwrap();
            assert!(found.contains(mend), "{text}: {found}");
        }
        assert!(HostPattern::parse("[::1").is_err());
        assert!(HostPattern::parse("").is_err());
    }

    #[test]
    fn egress_rules_are_shown_as_they_are_read() {
        for text in ["peer.example", "*.example.com:443", "10.1.0.0/16:8443", "[fd00::/8]:443", "fd00::/8"] {
            assert_eq!(EgressRule::parse(text).unwrap().show(), text);
        }
        assert_eq!(EgressRule::parse("10.1.2.3").unwrap().show(), "10.1.2.3/32");
        assert!(EgressRule::parse("*").is_err());
    }

    #[test]
    fn an_upstream_is_a_url_without_credentials_and_query() {
        assert_eq!(Upstream::parse("https://api.example.com/").unwrap().path, "");
        for text in
            ["api.example.com", "ftp://a.example", "https://u:p@a.example", "https://a.example/?x", "https://a/../b"]
        {
            assert!(Upstream::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn path_prefixes_have_no_trailing_slash() {
        assert_eq!(PathPrefix::parse("/github/").unwrap().0, "/github");
        assert_eq!(PathPrefix::parse("/").unwrap().0, "/");
        for text in ["github", "/a b", "/a?b", "/../x", "//"] {
            assert!(PathPrefix::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_a_token() {
        assert!(Name::parse("edge-7").is_ok());
        for text in ["", "7edge", "a b", "a,b", &"a".repeat(65)] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }
}
