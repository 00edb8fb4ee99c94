//! The values a configuration can hold: how each is read from TOML, from a flag or an environment variable, and shown.
//!
//! One implementation for every source, so that `--listen`, `HOLDOFF_LISTEN` and `[listen] address` cannot differ in what
//! they accept, and what `config show` prints can be read again.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use toml::de::DeValue;

use super::diagnostic::{mask_credentials, visible};
use super::schema::Schema;
use super::settings::{AnswerFormat, ListenAddress, LogFormat, OnCooldown, TlsVersion};
use crate::core::policy::{Hintless, Ladder, Mode};

/// The longest duration: far beyond any use, and far from where time arithmetic ends.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Why a value was not taken.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) help: Option<String>,
    /// Which element of a list.
    pub(super) element: Option<usize>,
}

impl Mismatch {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into(), help: None, element: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A value of a key.
pub(super) trait Setting: Sized {
    /// Reads it from the file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch>;
    /// Reads it from a flag or an environment variable.
    fn from_text(text: &str) -> Result<Self, Mismatch>;
    /// Shows it as TOML.
    fn to_toml(&self) -> String;
    /// What can be said of it in a JSON Schema: never more than is asked for here, for an editor must not refuse what we take.
    fn schema() -> Schema;
}

/// A value that is a string in TOML.
pub(super) trait Text: Sized {
    /// What is expected, with an example.
    const EXPECTED: &'static str;
    /// A regular expression that everything it takes matches, in the common part of the dialects of JavaScript and Rust.
    const PATTERN: Option<&'static str> = None;
    /// All that it takes, where that is a handful of words.
    const WORDS: &'static [&'static str] = &[];
    /// Reads it; the error is a mend, if there is one to give.
    fn parse(text: &str) -> Result<Self, Option<String>>;
    /// Shows it.
    fn show(&self) -> String;
    /// The mend for a bare number.
    fn for_number(_number: &str) -> Option<String> {
        None
    }
}

impl<T: Text> Setting for T {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            other => {
                let mut mismatch = Mismatch::new(T::EXPECTED, describe(other));
                if let DeValue::Integer(number) = other {
                    mismatch.help = T::for_number(&number.to_string());
                }
                Err(mismatch)
            }
        }
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        T::parse(text).map_err(|help| Mismatch { help, ..Mismatch::new(T::EXPECTED, quoted(text)) })
    }

    fn to_toml(&self) -> String {
        quote(&self.show())
    }

    fn schema() -> Schema {
        Schema::text(T::PATTERN, T::WORDS)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        let DeValue::Array(array) = value else {
            let mismatch = Mismatch::new("a list", describe(value));
            return Err(match value {
                DeValue::String(text) => mismatch.help(format!("write `[{}]`", quote(text))),
                DeValue::Integer(number) => mismatch.help(format!("write `[{number}]`")),
                _ => mismatch,
            });
        };
        let read = |(index, item): (usize, &toml::Spanned<DeValue<'_>>)| {
            T::from_toml(item.get_ref()).map_err(|mismatch| Mismatch { element: Some(index), ..mismatch })
        };
        array.iter().enumerate().map(read).collect()
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::from_text).collect()
    }

    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(Setting::to_toml).collect();
        format!("[{}]", items.join(", "))
    }

    fn schema() -> Schema {
        Schema::list(T::schema())
    }
}

impl Setting for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        match value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(Mismatch::new("`true` or `false`", describe(other))),
        }
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(Mismatch::new("`true` or `false`", quoted(text))),
        }
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        Schema::boolean()
    }
}

const COUNT: &str = "a whole number, 0 or more";

impl Setting for u64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        match value {
            DeValue::Integer(number) => {
                Self::from_str_radix(number.as_str(), number.radix()).map_err(|_| Mismatch::new(COUNT, describe(value)))
            }
            DeValue::String(text) if text.parse::<Self>().is_ok() => {
                Err(Mismatch::new(COUNT, describe(value)).help(format!("write it without quotes: `{text}`")))
            }
            _ => Err(Mismatch::new(COUNT, describe(value))),
        }
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        text.parse().map_err(|_| Mismatch::new(COUNT, quoted(text)))
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        Schema::integer(0, u64::MAX)
    }
}

impl Setting for f64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        let text = match value {
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            other => return Err(Mismatch::new("a number", describe(other))),
        };
        Self::from_text(&text)
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        match text.parse::<Self>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(Mismatch::new("a number", quoted(text))),
        }
    }

    fn to_toml(&self) -> String {
        format!("{self:?}")
    }

    fn schema() -> Schema {
        Schema::number()
    }
}

impl Setting for StatusCode {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        match value {
            DeValue::Integer(number) if number.radix() == 10 => Self::from_text(number.as_str()),
            other => Err(Mismatch::new("a status from 100 to 599", describe(other))),
        }
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        match text.parse::<u16>().map(Self::from_u16) {
            Ok(Ok(status)) if status.as_u16() < 600 => Ok(status),
            _ => Err(Mismatch::new("a status from 100 to 599", format!("`{text}`"))),
        }
    }

    fn to_toml(&self) -> String {
        self.as_u16().to_string()
    }

    fn schema() -> Schema {
        Schema::integer(100, 599)
    }
}

impl Setting for PathBuf {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        const EXPECTED: &str = "an absolute path, such as `\"/etc/holdoff/ca.pem\"`";
        match value {
            DeValue::String(text) if Path::new(text.as_ref()).is_absolute() => Ok(Self::from(text.as_ref())),
            DeValue::String(text) => Err(Mismatch::new(EXPECTED, quoted(text))
                .help("a relative path would mean another file in each working directory; write it from the root")),
            other => Err(Mismatch::new(EXPECTED, describe(other))),
        }
    }

    /// On the command line a relative path means the working directory, as everywhere.
    fn from_text(text: &str) -> Result<Self, Mismatch> {
        std::path::absolute(text).map_err(|_| Mismatch::new("a path", quoted(text)))
    }

    fn to_toml(&self) -> String {
        quote(&self.to_string_lossy())
    }

    fn schema() -> Schema {
        Schema::text(Some("^/"), &[])
    }
}

impl Text for String {
    const EXPECTED: &'static str = "a string";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Text for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as `\"250ms\"`, `\"60s\"` or `\"1h 30m\"`";
    const PATTERN: Option<&'static str> = Some(
        r"^\s*([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months|month|M|years|year|yrs|yr|y)\s*)+$",
    );

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Self::for_number(text));
        }
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= MAX_DURATION => Ok(duration),
            Ok(_) => Err(Some("the longest is 100 years".to_owned())),
            Err(_) => Err(None),
        }
    }

    /// In days, hours, minutes and so on: months and years, which `humantime` would use, are not whole days.
    fn show(&self) -> String {
        let mut rest = self.as_nanos();
        let mut parts = Vec::new();
        for (unit, name) in [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
            (1, "ns"),
        ] {
            let count = rest.checked_div(unit).unwrap_or_default();
            rest = rest.checked_rem(unit).unwrap_or_default();
            if count > 0 {
                parts.push(format!("{count}{name}"));
            }
        }
        if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
    }

    fn for_number(number: &str) -> Option<String> {
        Some(format!("a bare number has no unit; for seconds write `\"{number}s\"`"))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Text for Size {
    const EXPECTED: &'static str = "a size with a binary unit (B, KiB, MiB, GiB), such as `\"64KiB\"`";
    const PATTERN: Option<&'static str> = Some(r"^[0-9]+\s*(B|KiB|MiB|GiB)$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start();
        if unit.is_empty() && !number.is_empty() {
            return Err(Self::for_number(number));
        }
        let Some((_, factor)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) else {
            let meant = SIZE_UNITS.into_iter().find(|(name, _)| {
                let first = |text: &str| text.chars().next().map(|c| c.to_ascii_uppercase());
                first(name) == first(unit)
            });
            return Err(meant.map(|(name, _)| format!("write `\"{number}{name}\"`")));
        };
        let number: u64 = number.parse().map_err(|_| None)?;
        number.checked_mul(factor).map(Self).ok_or(None)
    }

    fn show(&self) -> String {
        for (name, factor) in SIZE_UNITS {
            if self.0 > 0 && self.0.checked_rem(factor) == Some(0) {
                return format!("{}{name}", self.0.checked_div(factor).unwrap_or_default());
            }
        }
        "0B".to_owned()
    }

    fn for_number(number: &str) -> Option<String> {
        Some(format!("a bare number has no unit; for bytes write `\"{number}B\"`"))
    }
}

impl Text for SocketAddr {
    const EXPECTED: &'static str = "an IP address with a port, such as `\"127.0.0.1:4290\"` or `\"[::1]:4290\"`";
    const PATTERN: Option<&'static str> = Some(r"^([0-9.]+|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]):[0-9]+$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        text.parse().map_err(|_| {
            if let Some(address) = text.strip_prefix("http://") {
                return Some(format!("write it without the scheme: `\"{}\"`", address.trim_end_matches('/')));
            }
            if let Some(port) = text.strip_prefix("localhost:") {
                return Some(format!("a name may mean several addresses; write `\"127.0.0.1:{port}\"`"));
            }
            if let Some(port) = text.strip_prefix(':') {
                return Some(format!("write `\"127.0.0.1:{port}\"`, or `\"0.0.0.0:{port}\"` for every address"));
            }
            if text.parse::<IpAddr>().is_ok() {
                return Some("add a port".to_owned());
            }
            text.parse::<u16>().ok().map(|port| format!("write `\"127.0.0.1:{port}\"`"))
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn for_number(number: &str) -> Option<String> {
        Some(format!("write `\"127.0.0.1:{number}\"`"))
    }
}

impl Text for ListenAddress {
    const EXPECTED: &'static str =
        "an IP address with a port, such as `\"127.0.0.1:4291\"`, or `\"unix:/run/holdoff/admin.sock\"`";
    const PATTERN: Option<&'static str> = Some(r"^(unix:/.*|[0-9.]+:[0-9]+|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]:[0-9]+)$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err(Some("write the path of the socket from the root".to_owned())),
            None => SocketAddr::parse(text).map(Self::Tcp),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl Text for IpNet {
    const EXPECTED: &'static str = "an address or a network, such as `\"10.0.0.0/8\"` or `\"fd00::/8\"`";
    const PATTERN: Option<&'static str> = Some(r"^[0-9A-Fa-f:.]+(/[0-9]+)?$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if let Ok(network) = text.parse::<Self>() {
            return Ok(unmapped(network.trunc()));
        }
        text.parse::<IpAddr>().map(|address| Self::from(address.to_canonical())).map_err(|_| None)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Addresses are compared in their IPv4 form where they have one: a network of IPv4-mapped addresses would match none.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(address), Some(prefix)) => IpNet::new(address.into(), prefix).unwrap_or(network),
        _ => network,
    }
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports(pub(super) u16, pub(super) u16);

impl Text for Ports {
    const EXPECTED: &'static str = "a port or a range of ports, such as `\"443\"` or `\"1024-65535\"`";
    const PATTERN: Option<&'static str> = Some(r"^\s*[0-9]+\s*(-\s*[0-9]+\s*)?$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(None),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(Some(format!("write the lower port first: `\"{last}-{first}\"`")));
        }
        Ok(Self(first, last))
    }

    fn show(&self) -> String {
        if self.0 == self.1 { self.0.to_string() } else { format!("{}-{}", self.0, self.1) }
    }

    fn for_number(number: &str) -> Option<String> {
        Some(format!("write it in quotes: `\"{number}\"`"))
    }
}

impl Text for HeaderValue {
    const EXPECTED: &'static str = "the value of a header: visible ASCII characters and spaces";
    const PATTERN: Option<&'static str> = Some(r"^[\t -~]*$");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match Self::from_str(text) {
            Ok(value) if value.to_str().is_ok() => Ok(value),
            _ => Err(None),
        }
    }

    fn show(&self) -> String {
        self.to_str().unwrap_or_default().to_owned()
    }
}

/// Implements [`Text`] for an enum by its words.
macro_rules! words {
    ($type:ty, $expected:literal: $($word:literal = $value:path),+) => {
        impl Text for $type {
            const EXPECTED: &'static str = $expected;
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn parse(text: &str) -> Result<Self, Option<String>> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err($crate::config::diagnostic::nearest(text, Self::WORDS.iter().copied()).map(|word| format!("did you mean `\"{word}\"`?"))),
                }
            }

            fn show(&self) -> String {
                match self { $($value => $word,)+ }.to_owned()
            }
        }
    };
}

pub(super) use words;

/// `[egress] private`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Private {
    Auto,
    Allow,
    Deny,
}

/// `[[reverse]] host_header`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostHeader {
    Upstream,
    Client,
}

words!(Mode, "`\"enforce\"`, `\"observe\"` or `\"off\"`":
    "enforce" = Mode::Enforce, "observe" = Mode::Observe, "off" = Mode::Off);
words!(LogFormat, "`\"auto\"`, `\"text\"`, `\"logfmt\"` or `\"json\"`":
    "auto" = LogFormat::Auto, "text" = LogFormat::Text, "logfmt" = LogFormat::Logfmt, "json" = LogFormat::Json);
words!(Private, "`\"auto\"`, `\"allow\"` or `\"deny\"`":
    "auto" = Private::Auto, "allow" = Private::Allow, "deny" = Private::Deny);
words!(HostHeader, "`\"upstream\"` or `\"client\"`": "upstream" = HostHeader::Upstream, "client" = HostHeader::Client);
words!(Hintless, "`\"cool\"` or `\"ignore\"`": "cool" = Hintless::Cool, "ignore" = Hintless::Ignore);
words!(Ladder, "`\"from_hint\"`, `\"fixed\"` or `\"off\"`":
    "from_hint" = Ladder::FromHint, "fixed" = Ladder::Fixed, "off" = Ladder::Off);
words!(AnswerFormat, "`\"auto\"`, `\"problem\"`, `\"text\"` or `\"custom\"`":
    "auto" = AnswerFormat::Auto, "problem" = AnswerFormat::Problem, "text" = AnswerFormat::Text,
    "custom" = AnswerFormat::Custom);
words!(OnCooldown, "`\"answer\"` or `\"close\"`": "answer" = OnCooldown::Answer, "close" = OnCooldown::Close);
words!(TlsVersion, "`\"1.2\"` or `\"1.3\"`": "1.2" = TlsVersion::Tls12, "1.3" = TlsVersion::Tls13);

/// A string in TOML.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What was found, short enough for one line.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    // Masked before it is cut: half a password is not to be shown either.
    let text: String = mask_credentials(text).chars().map(visible).collect();
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() { format!("`\"{cut}…\"`") } else { format!("`\"{cut}\"`") }
}

/// What kind of value was found.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the number `{}`", number.to_string().chars().take(40).collect::<String>()),
        DeValue::Float(number) => format!("the number `{}`", number.as_str().chars().take(40).collect::<String>()),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<Duration, Option<String>> {
        Duration::parse(text)
    }

    #[test]
    fn durations_need_a_unit_and_may_have_several() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("365d"), Ok(Duration::from_secs(365 * 86400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for text in ["60", "0"] {
            let mend = duration(text).unwrap_err().unwrap();
            assert!(mend.contains(&format!("`\"{text}s\"`")), "{mend}");
        }
        for text in ["", "-1s", "s", "1 fortnight", "200y", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_sizes_are_shown_as_they_are_read() {
        for millis in [0, 1, 250, 1000, 60_000, 5_400_000, 365 * 86_400_000, 86_461_001] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&value.show()), Ok(value), "{}", value.show());
        }
        for bytes in [0, 1, 1023, 1024, 65536, 1 << 20, 3 << 30, (1 << 20) + 1] {
            assert_eq!(Size::parse(&Size(bytes).show()), Ok(Size(bytes)));
        }
    }

    #[test]
    fn sizes_have_binary_units_only() {
        assert_eq!(Size::parse("64KiB"), Ok(Size(65536)));
        assert_eq!(Size::parse("64 KiB"), Ok(Size(65536)));
        assert_eq!(Size::parse("0B"), Ok(Size(0)));
        assert_eq!(Size::parse("64KB"), Err(Some("write `\"64KiB\"`".to_owned())));
        assert_eq!(Size::parse("64k"), Err(Some("write `\"64KiB\"`".to_owned())));
        assert!(Size::parse("64").unwrap_err().unwrap().contains("`\"64B\"`"));
        for text in ["", "KiB", "-1B", "99999999999999999999B", "99999999999GiB", "1.5MiB"] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_literals_with_a_port() {
        assert!(SocketAddr::parse("127.0.0.1:4290").is_ok());
        assert!(SocketAddr::parse("localhost:4290").unwrap_err().unwrap().contains("127.0.0.1:4290"));
        assert!(SocketAddr::parse(":4290").unwrap_err().unwrap().contains("0.0.0.0:4290"));
        assert!(SocketAddr::parse("127.0.0.1").unwrap_err().unwrap().contains("port"));
        assert_eq!(ListenAddress::parse("unix:/run/a.sock"), Ok(ListenAddress::Unix("/run/a.sock".into())));
        assert!(ListenAddress::parse("unix:a.sock").is_err());
    }

    #[test]
    fn port_ranges_are_ordered() {
        assert_eq!(Ports::parse("443"), Ok(Ports(443, 443)));
        assert_eq!(Ports::parse("1024-65535"), Ok(Ports(1024, 65535)));
        assert!(Ports::parse("2000-1000").unwrap_err().unwrap().contains("1000-2000"));
        assert!(Ports::parse("0").is_err());
        assert!(Ports::parse("65536").is_err());
    }

    #[test]
    fn a_network_loses_its_host_bits_and_an_address_is_a_network_of_one() {
        assert_eq!(<IpNet as Text>::parse("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(<IpNet as Text>::parse("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(<IpNet as Text>::parse("10.0.0.0/33").is_err());
        for (text, network) in [
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(<IpNet as Text>::parse(text).unwrap().to_string(), network, "{text}");
        }
    }
}
