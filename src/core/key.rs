//! What a cooldown is held against: scheme, host and port of the requested authority, in one normal form.
//!
//! Two spellings of one host must share one cooldown, and no spelling may be read here as another host than the dialler
//! reads, so the form is strict: lower case, one trailing dot removed, the default port made explicit, IPv6 in its
//! canonical text (RFC 5952) and an IPv4-mapped address as the IPv4 address inside, no userinfo, no percent-encoding. Names
//! beyond ASCII must arrive as A-labels (RFC 5890).
//!
//! Two things are wider or narrower than a host (SPEC 4.2). A *group* is a key that several hosts share; it has a name in the
//! place of the host. A *scope* makes a key narrower: one credential, one route. It is shown behind a `#`, which no URL
//! that is asked for can have: `https://peer.example:443#credential=5c3f09a1b2c4d6e8`.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest host name, in bytes (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// The scheme of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain HTTP, default port 80.
    Http,
    /// HTTP over TLS, default port 443.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port meant when none is given.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The longest scope, in bytes. What is longer is shortened by whoever makes it.
pub const MAX_SCOPE: usize = 512;

/// The longest name of a group, in bytes.
const MAX_GROUP: usize = 64;

/// What a cooldown is held against. Shown as `https://peer.example:443`, with a scope behind `#`; a group as `group:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    scheme: Scheme,
    /// The host, or the name of a group, and behind it the scope: in one piece, for a table has many of them.
    text: Box<str>,
    /// Where the scope begins. Of a key without one, the end.
    host_ends: u8,
    /// Of a group, 0.
    port: u16,
}

/// A key that may borrow its host, to look one up without an allocation. Hashes like the [`Key`] it stands for.
#[derive(Clone, Debug)]
pub struct KeyRef<'a> {
    scheme: Scheme,
    host: Cow<'a, str>,
    port: u16,
    scope: Cow<'a, str>,
}

impl<'a> KeyRef<'a> {
    /// Normalises `host` (a name, an IPv4 literal, or an IPv6 literal with or without brackets).
    ///
    /// # Errors
    /// When `host` is empty, too long, or not a host.
    pub fn new(scheme: Scheme, host: &'a str, port: u16) -> Result<Self, KeyError> {
        if port == 0 {
            return Err(KeyError::Port);
        }
        Ok(Self { scheme, host: normalise_host(host)?, port, scope: Cow::Borrowed("") })
    }

    /// Reads `host` or `host:port` of an authority (RFC 3986 §3.2) without userinfo.
    ///
    /// # Errors
    /// As [`KeyRef::new`], and for userinfo or a port that is not 1 to 65535.
    pub fn from_authority(scheme: Scheme, authority: &'a str) -> Result<Self, KeyError> {
        let (host, port) = split_authority(authority)?;
        Self::new(scheme, host, port.unwrap_or(scheme.default_port()))
    }

    /// The scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host in its normal form, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What makes the key narrower than its host or group; empty: nothing.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The key, owned.
    pub fn to_key(&self) -> Key {
        Key::of(self.scheme, &self.host, self.port, &self.scope)
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.scheme, self.host.as_ref(), self.port, self.scope.as_ref()).hash(state);
    }
}

impl From<Key> for KeyRef<'static> {
    fn from(key: Key) -> Self {
        let (host, scope) = (key.host().to_owned(), key.scope().to_owned());
        Self { scheme: key.scheme, host: Cow::Owned(host), port: key.port, scope: Cow::Owned(scope) }
    }
}

impl Key {
    /// The key of a group: 1 to 64 letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// When the name is not that.
    pub fn group(name: &str) -> Result<Self, KeyError> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_GROUP || !name.bytes().all(is_good) {
            return Err(KeyError::Group);
        }
        Ok(Self::of(Scheme::Https, name, 0, ""))
    }

    /// `host` is at most [`MAX_HOST`] bytes.
    fn of(scheme: Scheme, host: &str, port: u16, scope: &str) -> Self {
        let text = if scope.is_empty() { host.into() } else { [host, scope].concat().into() };
        Self { scheme, text, host_ends: u8::try_from(host.len()).unwrap_or(u8::MAX), port }
    }

    /// The same host or group, narrowed to `scope`: at most [`MAX_SCOPE`] bytes of printable ASCII.
    ///
    /// # Errors
    /// When the scope is not that.
    pub fn scoped(&self, scope: &str) -> Result<Self, KeyError> {
        if scope.len() > MAX_SCOPE || !scope.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(KeyError::Scope);
        }
        Ok(Self::of(self.scheme, self.host(), self.port, scope))
    }

    /// This key narrowed by a scope more. One that is too long is kept as its hash, behind what this key has already, and one
    /// that is nothing at all narrows nothing.
    #[must_use]
    pub fn narrowed(&self, scope: &str, hash: &dyn Fn(&[u8]) -> u64) -> Self {
        let behind = |scope: &str| match self.scope() {
            "" => scope.to_owned(),
            ours => format!("{ours}; {scope}"),
        };
        let text = behind(scope);
        let hashed = || {
            let name = scope.split('=').next().unwrap_or_default();
            let short = format!("{name}=~{:016x}", hash(text.as_bytes()));
            self.scoped(&behind(&short)).or_else(|_| self.scoped(&short))
        };
        self.scoped(&text).or_else(|_| hashed()).unwrap_or_else(|_| self.clone())
    }

    /// Reads a URL or a key as shown: `https://peer.example:443`, `http://peer.example/path` (the path is ignored),
    /// `https://peer.example:443#credential=5c3f09a1b2c4d6e8`, `group:NAME`. Without a scheme, `https` is meant.
    ///
    /// # Errors
    /// As [`KeyRef::from_authority`], [`Key::group`] and [`Key::scoped`], and for another scheme than http and https.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (whole, scope) = text.split_once('#').unwrap_or((text, ""));
        let key = match whole.strip_prefix("group:") {
            Some(name) => Self::group(name)?,
            None => Self::parse_host(whole)?,
        };
        if scope.is_empty() { Ok(key) } else { key.scoped(scope) }
    }

    fn parse_host(text: &str) -> Result<Self, KeyError> {
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some(_) => return Err(KeyError::Scheme),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        Ok(KeyRef::from_authority(scheme, authority)?.to_key())
    }

    /// The scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host in its normal form, IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.text.get(..usize::from(self.host_ends)).unwrap_or_default()
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What makes the key narrower than its host or group; empty: nothing.
    pub fn scope(&self) -> &str {
        self.text.get(usize::from(self.host_ends)..).unwrap_or_default()
    }

    /// Whether this is the key of a group, whose name stands in the place of the host.
    pub const fn is_group(&self) -> bool {
        self.port == 0
    }

    /// The host or group as a whole.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self::of(self.scheme, self.host(), self.port, "")
    }

    /// The host as an address, when it is a literal.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// Borrows the key for a look-up.
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef {
            scheme: self.scheme,
            host: Cow::Borrowed(self.host()),
            port: self.port,
            scope: Cow::Borrowed(self.scope()),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.scheme, self.host(), self.port, self.scope()).hash(state);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host();
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        if self.is_group() {
            write!(f, "group:{host}")?;
        } else {
            write!(f, "{}://{open}{host}{close}:{}", self.scheme.as_str(), self.port)?;
        }
        if self.scope().is_empty() { Ok(()) } else { write!(f, "#{}", self.scope()) }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The scheme is neither http nor https.
    Scheme,
    /// There is no host.
    Empty,
    /// There is a user or a password before the host.
    Userinfo,
    /// The port is not a number from 1 to 65535.
    Port,
    /// The host is longer than 253 bytes, or a label longer than 63.
    TooLong,
    /// The host has a character that host names do not have.
    Host,
    /// The host has characters beyond ASCII.
    NotAscii,
    /// The name of a group is not 1 to 64 letters, digits, `-`, `_` and `.`.
    Group,
    /// The scope is too long or not printable.
    Scope,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "expected `http` or `https` as the scheme",
            Self::Empty => "expected a host, found none",
            Self::Userinfo => "expected a host, found a user name before it (`user@host`); remove it",
            Self::Port => "expected a port from 1 to 65535",
            Self::TooLong => "expected a host name of at most 253 bytes with labels of at most 63",
            Self::Host => "expected a host name or an IP address, found a character that neither has",
            Self::Group => "expected a group's name of 1 to 64 letters, digits, `-`, `_` and `.`",
            Self::Scope => "expected a scope of at most 512 printable ASCII characters",
            Self::NotAscii => "expected an ASCII host name; write an international name as A-labels (`xn--…`)",
        })
    }
}

impl std::error::Error for KeyError {}

/// Splits `host:port`. A host with colons must stand in brackets.
fn split_authority(authority: &str) -> Result<(&str, Option<u16>), KeyError> {
    if authority.contains('@') {
        return Err(KeyError::Userinfo);
    }
    if authority.starts_with('[') {
        let (host, rest) = authority.split_once(']').ok_or(KeyError::Host)?;
        let host = host.strip_prefix('[').ok_or(KeyError::Host)?;
        // Brackets are for IPv6 only: `[peer.example]` is read differently by different parsers.
        host.parse::<Ipv6Addr>().map_err(|_| KeyError::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(parse_port(port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(KeyError::Host),
        };
    }
    match authority.split_once(':') {
        None => Ok((authority, None)),
        // `host:` means the default port (RFC 3986 §3.2.3).
        Some((host, "")) => Ok((host, None)),
        Some((host, port)) => Ok((host, Some(parse_port(port)?))),
    }
}

/// The port as it is written; that it is not 0 is for [`KeyRef::new`] to see.
fn parse_port(text: &str) -> Result<u16, KeyError> {
    // The standard library would read `+443`.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(KeyError::Port);
    }
    text.parse().map_err(|_| KeyError::Port)
}

fn normalise_host(host: &str) -> Result<Cow<'_, str>, KeyError> {
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inside) => inside,
        None => host,
    };
    if host.contains(':') {
        let address: Ipv6Addr = host.parse().map_err(|_| KeyError::Host)?;
        // `::ffff:192.0.2.1` is dialled as 192.0.2.1, so it is that host.
        let text = address.to_canonical().to_string();
        return Ok(if text == host { Cow::Borrowed(host) } else { Cow::Owned(text) });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(KeyError::Empty);
    }
    if host.len() > MAX_HOST {
        return Err(KeyError::TooLong);
    }
    let mut upper = false;
    for &byte in host.as_bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {}
            b'A'..=b'Z' => upper = true,
            0x80.. => return Err(KeyError::NotAscii),
            _ => return Err(KeyError::Host),
        }
    }
    for label in host.split('.') {
        if label.is_empty() {
            return Err(KeyError::Host);
        }
        if label.len() > 63 {
            return Err(KeyError::TooLong);
        }
    }
    // A host whose last label is a number is an IPv4 address to every URL parser and to the resolver, in forms
    // (`0x7f.1`, `2130706433`) that a list of names would not know again: only the dotted quad is accepted.
    if host.rsplit('.').next().is_some_and(looks_numeric) && host.parse::<Ipv4Addr>().is_err() {
        return Err(KeyError::Host);
    }
    Ok(if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

fn looks_numeric(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Key::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_scope_that_is_too_long_is_hashed_behind_what_the_key_has_already() {
        let hash = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap();
        let table = Key::parse("peer.example").unwrap().scoped("paths=/v1/*").unwrap();
        assert_eq!(table.narrowed("route=a", &hash).scope(), "paths=/v1/*; route=a");
        let long = format!("route={}", "a".repeat(MAX_SCOPE));
        assert_eq!(table.narrowed(&long, &hash).scope(), "paths=/v1/*; route=~0000000000000213");
        assert_eq!(table.whole().narrowed(&long, &hash).scope(), "route=~0000000000000206");
        let full = table.scoped(&"p".repeat(MAX_SCOPE)).unwrap();
        assert_eq!(full.narrowed("route=a", &hash).scope(), "route=~0000000000000209");
    }

    #[test]
    fn spellings_of_one_host_are_one_key() {
        for text in [
            "https://Peer.Example",
            "https://peer.example.",
            "https://peer.example:443",
            "https://peer.example:/x",
            "HTTPS://PEER.EXAMPLE./a?b",
            "peer.example",
        ] {
            assert_eq!(shown(text), "https://peer.example:443", "{text}");
        }
        assert_eq!(shown("http://peer.example"), "http://peer.example:80");
    }

    #[test]
    fn ipv6_is_canonical_and_bracketed() {
        assert_eq!(shown("http://[2001:DB8:0:0::1]:8080"), "http://[2001:db8::1]:8080");
        assert_eq!(Key::parse("http://[::1]").unwrap().host(), "::1");
        assert_eq!(shown("http://[::FFFF:c000:201]:8080"), "http://192.0.2.1:8080");
        assert_eq!(Key::parse("http://[peer.example]").unwrap_err(), KeyError::Host);
        assert_eq!(Key::parse("http://[fe80::1%25eth0]").unwrap_err(), KeyError::Host);
        assert_eq!(Key::parse("http://::1").unwrap_err(), KeyError::Port);
    }

    #[test]
    fn what_is_not_a_host_is_refused_with_its_cause() {
        let long = format!("http://{}.example", "a".repeat(64));
        for (text, error) in [
            ("ftp://peer.example", KeyError::Scheme),
            ("https://", KeyError::Empty),
            ("https://user@peer.example", KeyError::Userinfo),
            ("https://user:word@peer.example", KeyError::Userinfo),
            ("https://peer.example:0", KeyError::Port),
            ("https://peer.example:65536", KeyError::Port),
            ("https://peer.example:+443", KeyError::Port),
            ("https://peer..example", KeyError::Host),
            ("https://peer%2eexample", KeyError::Host),
            ("https://bücher.example", KeyError::NotAscii),
            ("https://2130706433", KeyError::Host),
            ("https://0x7f.1", KeyError::Host),
            ("https://127.1", KeyError::Host),
            ("https://0177.0.0.1", KeyError::Host),
            (long.as_str(), KeyError::TooLong),
        ] {
            assert_eq!(Key::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn an_owned_key_borrows_nothing_and_stays_the_same() {
        let key = Key::parse("http://[2001:db8::1]:8080").unwrap();
        assert_eq!(KeyRef::from(key.clone()).to_key(), key);
    }

    #[test]
    fn groups_and_scopes_are_shown_as_they_are_read() {
        for text in ["group:uploads", "group:a.b-c_D#credential=00ff", "https://peer.example:443#route=POST /a/{b}"] {
            assert_eq!(shown(text), text);
            let key = Key::parse(text).unwrap();
            assert_eq!(KeyRef::from(key.clone()).to_key(), key);
            assert_eq!(key.is_group(), text.starts_with("group:"));
        }
        assert_eq!(Key::parse("peer.example#a").unwrap().whole(), Key::parse("peer.example").unwrap());
        assert_ne!(Key::parse("peer.example#a").unwrap(), Key::parse("peer.example#b").unwrap());
        let long = "x".repeat(MAX_SCOPE + 1);
        for (text, error) in [
            ("group:", KeyError::Group),
            ("group:a b", KeyError::Group),
            (&*format!("group:{}", &long[..65]), KeyError::Group),
            (&*format!("peer.example#{long}"), KeyError::Scope),
            ("peer.example#\u{1b}[2J", KeyError::Scope),
        ] {
            assert_eq!(Key::parse(text).unwrap_err(), error, "{text}");
        }
        assert_ne!(Key::group("peer.example").unwrap(), Key::parse("peer.example").unwrap());
    }

    #[test]
    fn the_longest_names_are_taken_and_longer_ones_refused() {
        let label = "a".repeat(63);
        let host = [&*label, &*label, &*label, &"b".repeat(61)].join(".");
        assert_eq!((host.len(), shown(&host)), (253, format!("https://{host}:443")));
        assert_eq!(Key::parse(&format!("{host}b")).unwrap_err(), KeyError::TooLong);
    }

    #[test]
    fn after_the_brackets_only_a_port_may_follow() {
        assert_eq!(Key::parse("http://[::1]x").unwrap_err(), KeyError::Host);
        assert_eq!(Key::parse("http://[::1]:0").unwrap_err(), KeyError::Port);
        assert_eq!(Key::parse("http://[::1]:").unwrap_err(), KeyError::Port);
    }

    #[test]
    fn a_literal_is_known_as_an_address() {
        let ip = |text: &str| Key::parse(text).unwrap().ip().map(|ip| ip.to_string());
        assert_eq!(ip("http://127.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(ip("http://[2001:DB8::1]:8080").as_deref(), Some("2001:db8::1"));
        assert_eq!(ip("http://peer.example"), None);
    }

    #[test]
    fn an_error_says_what_was_expected() {
        for (error, part) in [
            (KeyError::Scheme, "`http` or `https`"),
            (KeyError::Empty, "found none"),
            (KeyError::Userinfo, "a user name before it"),
            (KeyError::Port, "from 1 to 65535"),
            (KeyError::TooLong, "at most 253 bytes"),
            (KeyError::Host, "a character that neither has"),
            (KeyError::NotAscii, "A-labels"),
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
