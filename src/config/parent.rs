//! The parent proxy of `[upstream]`: `proxy` and what goes with it, or the variables of the environment that other programs
//! read, if that is wanted.
//!
//! A password never stands in the file: it would be in every copy and error of it. The variables may have one, as they do
//! everywhere; it is kept, and shown nowhere.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use toml::de::DeValue;

use super::diagnostic::Diagnostic;
use super::pattern;
use super::reader::{Reader, Section};
use super::schema::Schema;
use super::secrets;
use super::settings::{
    Credentials, HostPattern, HostTarget, ListenAddress, Parent, ParentScheme, Parents, Settings, is_loopback,
};
use super::value::{Mismatch, Setting, Text, quote};
use crate::core::key::{KeyRef, Scheme};

/// The variables that are read with `proxy_from_env`. `HTTP_PROXY` is not: where a program runs as CGI, a client's `Proxy`
/// field becomes that variable.
pub const VARIABLES: [&str; 7] =
    ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];

const EXPECTED: &str = "the URL of a proxy, such as `\"http://parent.example:3128\"`, `\"https://user@parent.example\"` or \
                        `\"socks5://parent.example:1080\"`";

/// The most of a user name or password that SOCKS can carry (RFC 1929).
const MAX_SOCKS: usize = 255;

/// A proxy's URL.
#[derive(Clone, Debug)]
struct Url {
    scheme: ParentScheme,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
}

impl Url {
    /// The error is a mend, and never has a part of the text that may be secret.
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("write the scheme: `http://`, `https://` or `socks5://`")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => ParentScheme::Http,
            "https" => ParentScheme::Https,
            "socks5" | "socks5h" => ParentScheme::Socks5,
            _ => return Err("the scheme is `http`, `https` or `socks5`".to_owned()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        if authority.contains(['/', '?', '#']) {
            return Err("a proxy has no path".to_owned());
        }
        let (name, port) = pattern::split_port(authority).map_err(|mend| mend.unwrap_or_default())?;
        let host = pattern::host(name).map_err(|mend| mend.unwrap_or_default())?;
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| "a user name is UTF-8")?;
            if text.chars().any(char::is_control) {
                Err("a user name has no control characters")
            } else {
                Ok(text.into_owned())
            }
        };
        let (user, password) = match user.map(|user| user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)))) {
            None => (None, None),
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
        };
        if user.as_ref().is_some_and(|user| user.is_empty() || user.contains(':')) {
            return Err("a user name is not empty and has no `:`".to_owned());
        }
        let port = port.unwrap_or(match scheme {
            ParentScheme::Http => 80,
            ParentScheme::Https => 443,
            ParentScheme::Socks5 => 1080,
        });
        Ok(Self { scheme, host, port, user, password })
    }

    fn parent(self) -> Result<Parent, String> {
        let Self { scheme, host, port, user, password } = self;
        let key_scheme = if scheme == ParentScheme::Https { Scheme::Https } else { Scheme::Http };
        let key = KeyRef::new(key_scheme, &host, port).map_err(|error| error.to_string())?.to_key();
        let credentials = user.map(|user| Credentials { user, password: password.unwrap_or_default() });
        if let Some(Credentials { user, password }) = &credentials
            && scheme == ParentScheme::Socks5
            && ![user, password].iter().all(|text| (1..=MAX_SOCKS).contains(&text.len()))
        {
            return Err("with socks5, a user and a password of 1 to 255 bytes each".to_owned());
        }
        Ok(Parent { scheme, key, credentials })
    }
}

impl Setting for Url {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            _ => Err(Mismatch::new(EXPECTED, "something else")),
        }
    }

    fn from_text(text: &str) -> Result<Self, Mismatch> {
        let refuse = |found: &str, mend: &str| Err(Mismatch::new(EXPECTED, found).help(mend));
        match Self::parse(text) {
            Ok(url) if url.password.is_some() => {
                refuse("one with a password in it", "put the password into a file and name it in `proxy_password_file`")
            }
            Ok(url) => Ok(url),
            // What cannot be read may have a password anywhere.
            Err(mend) if text.contains('@') => refuse("another text", &mend),
            Err(mend) => refuse(&format!("`{text}`"), &mend),
        }
    }

    fn to_toml(&self) -> String {
        let user = self.user.as_ref().map_or_else(String::new, |user| format!("{}@", encode(user)));
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        quote(&format!("{}://{user}{host}:{}", self.scheme.as_str(), self.port))
    }

    fn schema() -> Schema {
        Schema::text(Some("^[A-Za-z0-9]+://"), &[])
    }
}

fn encode(user: &str) -> String {
    percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A host that is reached without the parent, or whose marks are believed: a pattern, or one of the forms that are common in
/// `no_proxy` variables.
#[derive(Clone, Debug)]
pub(super) struct Exempt(pub(super) HostPattern);

impl Text for Exempt {
    const EXPECTED: &'static str = "a host (`\"peer.example\"`), names below one (`\".example.com\"` or `\"*.example.com\"`), a \
                                    network (`\"10.1.0.0/16\"`), a port (`\":8080\"`) or `\"*\"`";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let mut usual = text.to_owned();
        if text.starts_with('.') || text.starts_with(':') && !text.starts_with("::") {
            usual.insert(0, '*');
        }
        let mut pattern = HostPattern::parse(&usual)?;
        if pattern.scheme.is_some() {
            return Err(Some("leave out the scheme".to_owned()));
        }
        pattern.text = text.to_owned();
        Ok(Self(pattern))
    }

    fn show(&self) -> String {
        self.0.text.clone()
    }
}

/// Reads the keys about parents.
pub(super) fn read<'a>(reader: &mut Reader<'a>, section: &mut Section<'a>) -> Parents {
    let url = reader.optional::<Url>(section, "proxy", None);
    let password_file = reader.optional::<PathBuf>(section, "proxy_password_file", None);
    let no_proxy = reader.get::<Vec<Exempt>>(section, "no_proxy", Vec::new());
    let from_env = reader.get(section, "proxy_from_env", false);
    let mut no_proxy: Vec<HostPattern> = no_proxy.into_iter().map(|exempt| exempt.0).collect();
    let (proxy_key, file_key) = (section.key("proxy"), section.key("proxy_password_file"));
    let password = password_file.and_then(|file| match secrets::password(&file) {
        Ok(password) => Some(password),
        Err(error) => {
            let named = reader.place_at(&file_key, None);
            reader.errors.push(error.note("the file is named at", named.as_ref()));
            None
        }
    });
    let (is_given, is_refused) = (reader.is_said(&proxy_key), reader.is_refused(&proxy_key));
    if password.is_some() && !is_refused && url.as_ref().is_none_or(|url| url.user.is_none()) {
        let place = reader.place_at(&file_key, None);
        let error = Diagnostic::new(place, "`proxy_password_file`: expected a user in `proxy`, found none");
        reader.errors.push(error.help("write `proxy = \"http://user@parent.example:3128\"`"));
    }
    let mut parent = None;
    if let Some(mut url) = url {
        url.password = password;
        match url.parent() {
            Ok(good) => parent = Some(good),
            Err(expected) => {
                let place = reader.place_at(&proxy_key, None);
                let error = Diagnostic::new(place, format!("`proxy`: expected {expected}"));
                reader.errors.push(error.help("the password stands in a file, named in `proxy_password_file`"));
            }
        }
    }
    let mut parents = Parents { http: parent.clone(), https: parent, no_proxy: Vec::new(), is_from_env: false };
    if from_env {
        if !is_given {
            parents.is_from_env = true;
            let all = variable(reader, &["all_proxy", "ALL_PROXY"]);
            parents.http = variable(reader, &["http_proxy"]).or_else(|| all.clone());
            parents.https = variable(reader, &["https_proxy", "HTTPS_PROXY"]).or(all);
        }
        no_proxy.extend(exempt_by_environment(reader));
    }
    parents.no_proxy = no_proxy;
    parents
}

/// The first of the variables that is set, if it is the URL of a proxy.
fn variable(reader: &mut Reader<'_>, names: &[&'static str]) -> Option<Parent> {
    let (name, text) = names.iter().find_map(|name| Some((name, reader.additions(name).next()?.text.clone())))?;
    let text = text.trim();
    // Programs take it without a scheme as well.
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match Url::parse(&text).and_then(Url::parent) {
        Ok(parent) => Some(parent),
        Err(expected) => {
            reader.warnings.push(format!("`proxy_from_env`: the variable `{name}` is ignored: {expected}"));
            None
        }
    }
}

/// `no_proxy` of the environment, where a bare name means the names below it as well.
fn exempt_by_environment(reader: &mut Reader<'_>) -> Vec<HostPattern> {
    let Some(text) = ["no_proxy", "NO_PROXY"].iter().find_map(|name| Some(reader.additions(name).next()?.text.clone()))
    else {
        return Vec::new();
    };
    let mut exempt = Vec::new();
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let Ok(Exempt(pattern)) = Exempt::parse(text) else {
            reader
                .warnings
                .push("`proxy_from_env`: a part of the variable `no_proxy` is ignored: it is no host".to_owned());
            continue;
        };
        if let HostTarget::Exact(name) = &pattern.target
            && name.parse::<IpAddr>().is_err()
        {
            exempt.push(HostPattern { target: HostTarget::Suffix(format!(".{name}")), ..pattern.clone() });
        }
        exempt.push(pattern);
    }
    exempt
}

/// Sees to it that no parent is one of our own listeners: requests would come back for ever.
pub(super) fn check(reader: &mut Reader<'_>, settings: &mut Settings) {
    let own = own_listeners(settings);
    let parents = &mut settings.upstream.parents;
    let is_own = |parent: &Option<Parent>| parent.as_ref().is_some_and(|parent| leads_to(parent, &own));
    if parents.is_from_env {
        for parent in [&mut parents.http, &mut parents.https] {
            if is_own(parent)
                && let Some(parent) = parent.take()
            {
                reader.warnings.push(format!(
                    "`proxy_from_env`: the environment names `{}`, which is a listener of our own; it is ignored",
                    parent.key
                ));
            }
        }
    } else if is_own(&parents.http) {
        let place = reader.place_at("upstream.proxy", None);
        let error = Diagnostic::new(place, "`proxy`: expected another proxy, found a listener of our own");
        reader.errors.push(error.help("leave out `proxy`, or name the proxy that comes after this one"));
    }
}

fn own_listeners(settings: &Settings) -> Vec<SocketAddr> {
    let admin = settings.admin.address.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    let reverse = settings.reverse.iter().flat_map(|reverse| &reverse.address).copied();
    let others = settings.listen.address.iter().chain(&settings.metrics.address).copied();
    others.chain(reverse).chain(admin).collect()
}

fn leads_to(parent: &Parent, own: &[SocketAddr]) -> bool {
    let address = parent.key.ip().map(|address| address.to_canonical());
    let is_here = parent.key.host() == "localhost" || address.is_some_and(|a| is_loopback(a) || a.is_unspecified());
    own.iter().filter(|own| own.port() == parent.key.port()).any(|own| {
        address == Some(own.ip().to_canonical()) || is_here && (is_loopback(own.ip()) || own.ip().is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Loaded, Sources, load, parse};
    use super::*;
    use crate::core::key::Key;

    fn good(text: &str) -> Parents {
        parse(&format!("[upstream]\n{text}")).unwrap_or_else(|errors| panic!("{errors}")).settings.upstream.parents
    }

    fn refused(text: &str) -> String {
        parse(&format!("[upstream]\n{text}")).unwrap_err().to_string()
    }

    fn from_environment(toml: &str, variables: &[(&'static str, &str)]) -> Loaded {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("holdoff.toml");
        std::fs::write(&file, format!("[upstream]\nproxy_from_env = true\n{toml}")).unwrap();
        let mut sources = Sources::default();
        sources.file(&file);
        for (name, value) in variables {
            sources.env(name, name, *value);
        }
        load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_parent_is_a_url_with_one_of_three_schemes() {
        for (text, scheme, key) in [
            ("http://parent.example:3128", ParentScheme::Http, "http://parent.example:3128"),
            ("HTTPS://Parent.Example/", ParentScheme::Https, "https://parent.example:443"),
            ("socks5://[::1]", ParentScheme::Socks5, "http://[::1]:1080"),
            ("socks5h://parent.example", ParentScheme::Socks5, "http://parent.example:1080"),
        ] {
            let parents = good(&format!("proxy = \"{text}\""));
            let parent = parents.https.unwrap();
            assert_eq!((parent.scheme, parent.key.to_string().as_str()), (scheme, key), "{text}");
            assert_eq!(parents.http.unwrap().key, parent.key);
        }
        for (text, mend) in [
            ("ftp://parent.example", "`http`, `https` or `socks5`"),
            ("socks4://parent.example", "`http`, `https` or `socks5`"),
            ("parent.example:3128", "write the scheme"),
            ("http://parent.example:3128/x", "no path"),
            ("http://parent.example:0", "1 to 65535"),
            ("http://:3128", "host"),
            ("http://@parent.example", "not empty"),
            ("socks5://user@parent.example", "password of 1 to 255"),
        ] {
            assert!(refused(&format!("proxy = \"{text}\"")).contains(mend), "{text}");
        }
    }

    #[test]
    fn a_password_stands_in_a_file_and_is_shown_nowhere() {
        let shown = refused("proxy = \"http://user:hunter2@parent.example:3128\"");
        assert!(shown.contains("proxy_password_file") && !shown.contains("hunter2"), "{shown}");
        assert!(!refused("proxy = \"ftp://user:hunter2@parent.example\"").contains("hunter2"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "hunter2 \n").unwrap();
        let toml =
            format!("[upstream]\nproxy = \"http://us%40er@parent.example:3128\"\nproxy_password_file = {file:?}\n");
        let loaded = parse(&toml).unwrap();
        let parent = loaded.settings.upstream.parents.http.as_ref().unwrap();
        let credentials = parent.credentials.as_ref().unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("us@er", "hunter2 "));
        assert!(!format!("{:?}", loaded.settings).contains("hunter2"));
        let effective = loaded.effective.to_string();
        assert!(effective.contains("http://us%40er@parent.example:3128") && !effective.contains("hunter2"));
        assert!(
            refused(&format!("proxy = \"http://parent.example\"\nproxy_password_file = {file:?}")).contains("a user")
        );
        assert!(
            refused("proxy = \"http://u@p.example\"\nproxy_password_file = \"/nonexistent/x\"").contains("readable")
        );
    }

    #[test]
    fn hosts_without_the_parent_are_patterns_and_the_usual_short_forms() {
        let parents = good(
            "proxy = \"http://parent.example:3128\"\n\
             no_proxy = [\"a.example\", \".b.example\", \"*.c.example\", \"10.0.0.0/8\", \":8080\", \"[::1]:9\"]",
        );
        let of = |key: &str| parents.of(&Key::parse(key).unwrap().as_ref()).is_some();
        for direct in [
            "http://a.example",
            "https://x.b.example",
            "https://c.c.example:1",
            "http://10.9.9.9",
            "http://z:8080",
            "http://[::1]:9",
        ] {
            assert!(!of(direct), "{direct}");
        }
        for through in ["http://x.a.example", "https://b.example", "http://11.0.0.1", "http://z:8081", "http://[::1]:8"]
        {
            assert!(of(through), "{through}");
        }
        assert!(refused("no_proxy = [\"http://a.example\"]").contains("scheme"));
        assert!(!good("proxy = \"http://p.example\"\nno_proxy = [\"*\"]").is_used());
    }

    #[test]
    fn the_environment_is_read_only_when_told() {
        let variables = [
            ("http_proxy", "parent.example:3128"),
            ("https_proxy", "https://u:hunter2@secure.example"),
            ("no_proxy", "a.example, .b.example,127.0.0.0/8"),
        ];
        let loaded = from_environment("", &variables);
        let parents = &loaded.settings.upstream.parents;
        let of = |key: &str| parents.of(&Key::parse(key).unwrap().as_ref()).map(|parent| parent.key.to_string());
        assert_eq!(of("http://x.example").as_deref(), Some("http://parent.example:3128"));
        assert_eq!(of("https://x.example").as_deref(), Some("https://secure.example:443"));
        for direct in ["http://a.example", "https://x.a.example", "http://x.b.example", "http://127.0.0.2"] {
            assert_eq!(of(direct), None, "{direct}");
        }
        assert_eq!(parents.https.as_ref().unwrap().credentials.as_ref().unwrap().password, "hunter2");
        assert!(!format!("{:?}{}", loaded.settings, loaded.effective).contains("hunter2"));
        let not_told = from_environment("proxy = \"http://other.example:1\"", &variables).settings.upstream.parents;
        assert_eq!(not_told.https.unwrap().key.to_string(), "http://other.example:1", "the file goes first");
        let mut sources = Sources::default();
        sources.env("http_proxy", "http_proxy", "http://parent.example:3128");
        assert!(!load(&sources).unwrap().settings.upstream.parents.is_used());
    }

    #[test]
    fn a_parent_that_is_ourselves_is_refused_and_in_the_environment_ignored() {
        for url in ["http://127.0.0.1:4290", "http://localhost:4291", "socks5://[::1]:4290", "http://0.0.0.0:4290"] {
            assert!(refused(&format!("proxy = \"{url}\"")).contains("a listener of our own"), "{url}");
            let loaded = from_environment("", &[("all_proxy", url)]);
            assert!(!loaded.settings.upstream.parents.is_used(), "{url}");
            assert!(loaded.warnings.iter().any(|warning| warning.contains("our own")), "{:?}", loaded.warnings);
        }
        assert!(good("proxy = \"http://127.0.0.1:3128\"").is_used());
        let loaded = from_environment("", &[("http_proxy", "ftp://u:hunter2@parent.example")]);
        assert!(loaded.warnings.iter().any(|w| w.contains("`http_proxy` is ignored") && !w.contains("hunter2")));
    }
}
