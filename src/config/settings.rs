//! Checked settings: what the rest of the program reads. Everything here has been validated; nothing here knows TOML.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::hosts::Index;
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::level::{By, Level, Template};
use crate::core::policy::{BreakerLimits, Policy};
use crate::core::signal::body::BodyRules;

pub use super::tls::SanTemplate;
pub use crate::synthetic::{Answer, AnswerFormat};

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The forward proxy.
    pub listen: Listen,
    /// Local listeners mapped onto upstreams.
    pub reverse: Vec<Reverse>,
    /// Hosts whose TLS is ended here.
    pub intercept: Intercept,
    /// The operators' door.
    pub admin: Admin,
    /// Metrics.
    pub metrics: Metrics,
    /// Logs.
    pub log: Log,
    /// Where we may go.
    pub egress: Egress,
    /// Connections to upstreams.
    pub upstream: Upstream,
    /// What each host gets: `[defaults]`, and `[[host]]` in the order of the file.
    pub hosts: Hosts,
    /// What is kept on disk.
    pub state: State,
    /// Bounds.
    pub limits: Limits,
    /// How we end.
    pub shutdown: Shutdown,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket (admin only).
    Unix(PathBuf),
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses of the forward proxy.
    pub address: Vec<SocketAddr>,
    /// Whether `address` is the built-in one: then a machine without IPv6 is no error.
    pub address_is_default: bool,
    /// Our name in `Via` and `Proxy-Status`; `None`: made at start, `holdoff-` and 8 hex digits.
    pub name: Option<String>,
    /// Who may connect; empty: anyone who can reach the address.
    pub clients: Vec<IpNet>,
    /// File of `user:hash` lines for Basic proxy authentication, and its parsed content.
    pub auth: Option<Auth>,
    /// Whether `Via` is added.
    pub via: bool,
}

/// Users that may use the proxy.
#[derive(Clone)]
pub struct Auth {
    /// The file.
    pub file: PathBuf,
    /// User name → bcrypt hash.
    pub users: BTreeMap<String, String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("file", &self.file).field("users", &self.users.len()).finish()
    }
}

/// `[[reverse]]`
#[derive(Clone, Debug)]
pub struct Reverse {
    /// Local addresses. Several `[[reverse]]` may share one, told apart by `path`.
    pub address: Vec<SocketAddr>,
    /// The upstream's scheme, host and port.
    pub upstream: Key,
    /// The path prefix at the upstream, without a trailing slash; empty for none.
    pub upstream_path: String,
    /// The path prefix at our side, starting with a slash, without a trailing one unless it is `/`.
    pub path: String,
    /// Whether `Host` is the upstream's (`true`) or the client's.
    pub host_from_upstream: bool,
    /// Whether `Location` is mapped back to us.
    pub rewrite_location: bool,
    /// Who may connect; empty: anyone who can reach the address, which is then on loopback. Elsewhere those of `[listen]` are
    /// already here if the table names none of its own.
    pub clients: Vec<IpNet>,
}

/// `[intercept]`
#[derive(Clone, Debug)]
pub struct Intercept {
    /// The hosts whose TLS is ended here; empty: none. Never [`HostTarget::Any`], never [`Scheme::Http`].
    pub hosts: Vec<HostPattern>,
    /// Where the certificate authority is; `None`: below the state directory, see `intercept::directory`.
    pub ca_dir: Option<PathBuf>,
    /// How long a leaf certificate is valid.
    pub leaf_lifetime: Duration,
    /// How many leaf certificates are kept.
    pub leaf_cache: usize,
}

impl Intercept {
    /// Whether a host, in the normal form of a key, is named.
    ///
    /// An address literal is matched as it was written: `10.0.0.0/8` does not name `::ffff:10.0.0.1`, for no certificate of
    /// the one is good for the other.
    pub fn names(&self, host: &str, port: u16) -> bool {
        let address = host.parse::<IpAddr>().ok();
        self.hosts.iter().filter(|pattern| pattern.port.is_none_or(|wanted| wanted == port)).any(|pattern| {
            match &pattern.target {
                HostTarget::Exact(name) => name == host,
                HostTarget::Suffix(suffix) => address.is_none() && host.ends_with(suffix.as_str()),
                HostTarget::Net(network) => address.is_some_and(|address| network.contains(&address)),
                HostTarget::Any => false,
            }
        })
    }
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Addresses of the operators' door.
    pub address: Vec<ListenAddress>,
    /// The bearer token, needed off loopback.
    pub token: Option<Token>,
    /// Extra names accepted in `Host`.
    pub hosts: Vec<String>,
}

/// A secret read from a file; never shown.
#[derive(Clone)]
pub struct Token {
    /// The file.
    pub file: PathBuf,
    /// Its content, trimmed.
    pub secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

/// `[metrics]`
#[derive(Clone, Debug)]
pub struct Metrics {
    /// A listener with nothing but GET `/metrics`, `/livez`, `/readyz`.
    pub address: Vec<SocketAddr>,
    /// How many different `host` labels there may be.
    pub max_host_labels: usize,
    /// After how long without use the series of a host are dropped.
    pub idle_series: Duration,
    /// Whether the `process_*` families are shown.
    pub process: bool,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A `tracing` filter.
    pub level: String,
    /// Text, logfmt or JSON.
    pub format: LogFormat,
    /// Whether each request is logged.
    pub access: bool,
    /// Whether the first bytes of a throttling answer's body are kept in `last_error`.
    pub error_body: bool,
}

/// `[log] format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else logfmt.
    Auto,
    /// For people.
    Text,
    /// `key=value`.
    Logfmt,
    /// One object a line.
    Json,
}

/// `[egress]`
#[derive(Clone, Debug)]
pub struct Egress {
    /// Whether private addresses may be reached. Already decided: `auto` is allow while every listener is loopback.
    pub allow_private: bool,
    /// Not empty: nothing else is allowed.
    pub allow: Vec<EgressRule>,
    /// Wins over `allow`.
    pub deny: Vec<EgressRule>,
    /// Ports CONNECT may name, as inclusive ranges.
    pub connect_ports: Vec<(u16, u16)>,
}

/// A destination in `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// Hosts or addresses.
    pub target: EgressTarget,
    /// Only this port.
    pub port: Option<u16>,
}

/// What an egress rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressTarget {
    /// `peer.example`, exactly.
    Host(String),
    /// `*.example.com`: every name below, not `example.com` itself. Kept without the `*`: `.example.com`.
    Suffix(String),
    /// Addresses, matched against what a name resolves to and against literals.
    Net(IpNet),
}

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Whether HTTP/2 is offered where TLS is spoken.
    pub http2: bool,
    /// Most connections to one host at a time.
    pub max_connections_per_host: usize,
    /// Most idle connections kept for one host.
    pub max_idle_per_host: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How long a connection is used at most; zero: no bound.
    pub max_lifetime: Duration,
    /// How long a resolved name is used.
    pub dns_ttl: Duration,
    /// How long a look-up may take.
    pub dns_timeout: Duration,
    /// Whether the machine's roots are trusted.
    pub platform_roots: bool,
    /// PEM files added to the roots.
    pub ca_files: Vec<PathBuf>,
    /// The proxies after this one.
    pub parents: Parents,
    /// Upstreams that are holdoffs, or have one before them, and whose marks are believed.
    pub trusted_holdoffs: Vec<HostPattern>,
}

/// How a parent proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentScheme {
    /// HTTP.
    Http,
    /// HTTP inside TLS.
    Https,
    /// SOCKS 5; names go to it unresolved.
    Socks5,
}

impl ParentScheme {
    /// As it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
        }
    }
}

/// A parent proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// How it is spoken to.
    pub scheme: ParentScheme,
    /// What its cooldown is held against; of scheme http for a SOCKS proxy.
    pub key: Key,
    /// Who we are to it.
    pub credentials: Option<Credentials>,
}

/// A user and a password; the password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The parent proxies, by the scheme of what is asked for.
#[derive(Clone, Debug, Default)]
pub struct Parents {
    /// For `http://`.
    pub http: Option<Parent>,
    /// For `https://` and tunnels.
    pub https: Option<Parent>,
    /// What is reached without them.
    pub no_proxy: Vec<HostPattern>,
    /// Whether they were taken from the environment.
    pub is_from_env: bool,
}

impl Parents {
    /// The parent that a key is reached through.
    pub fn of(&self, key: &KeyRef<'_>) -> Option<&Parent> {
        let parent = if key.scheme() == Scheme::Https { &self.https } else { &self.http };
        parent.as_ref().filter(|_| !self.no_proxy.iter().any(|pattern| pattern.matches(key)))
    }

    /// Whether anything can be reached through one.
    pub fn is_used(&self) -> bool {
        let is_any = |pattern: &HostPattern| pattern.target == HostTarget::Any && pattern.port.is_none();
        (self.http.is_some() || self.https.is_some()) && !self.no_proxy.iter().any(is_any)
    }
}

/// What each host gets.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// For every host that no `[[host]]` matches.
    pub defaults: Arc<HostSettings>,
    /// The `[[host]]` tables, each with its patterns.
    pub hosts: Vec<Host>,
    /// Where each of them is: `holdoff.toml:12`.
    pub places: Vec<Option<Box<str>>>,
    /// The patterns, by what they name; see [`Hosts::new`].
    /// Whether any of them says `tls.upgrade`.
    pub upgrade_some: bool,
    pub(super) index: Index,
}

/// One `[[host]]`.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it matches.
    pub patterns: Vec<HostPattern>,
    /// Its settings, with everything it does not name taken from `[defaults]`.
    pub settings: Arc<HostSettings>,
}

/// A pattern of `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// As written.
    pub text: String,
    /// Only this scheme.
    pub scheme: Option<Scheme>,
    /// Hosts.
    pub target: HostTarget,
    /// Only this port.
    pub port: Option<u16>,
}

/// What a pattern names. The more specific wins: exact, suffix (longer first), network (longer prefix first), any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTarget {
    /// `peer.example` or an address literal, in the normal form of a key.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`.
    Suffix(String),
    /// `10.1.0.0/16`: address literals of the request, never resolved ones.
    Net(IpNet),
    /// `*`
    Any,
}

/// The settings one host gets.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// The preset that the table names.
    pub preset: Option<Box<str>>,
    /// The paths that the table is for; empty: all.
    pub paths: Vec<Template>,
    /// The key that the table's hosts share, if they do.
    pub group: Option<Key>,
    /// Levels narrower than the host, from wide to narrow.
    pub levels: Arc<[Level]>,
    /// The decision core's part.
    pub policy: Arc<Policy>,
    /// Signs of a busy host in the bodies of its answers.
    pub bodies: Arc<BodyRules>,
    /// What happens to a request while its key cools.
    pub on_cooldown: OnCooldown,
    /// Synthetic answers.
    pub answer: Answer,
    /// TLS towards the host.
    pub tls: Tls,
    /// Timeouts.
    pub timeouts: Timeouts,
}

/// The most bytes of paths that the scope of their key shows.
const MAX_PATHS_SHOWN: usize = 200;

impl HostSettings {
    /// The scope of the key of a table with `paths`: `paths=/v1/*,/beta`. Where they are many, the first of them, how many
    /// more there are, and a number that tells them from others. Empty for a table without paths.
    pub fn scope(&self) -> String {
        let paths: Vec<&str> = self.paths.iter().map(Template::as_str).collect();
        let Some((first, more)) = paths.split_first() else { return String::new() };
        let all = paths.join(",");
        if all.len() <= MAX_PATHS_SHOWN {
            return format!("paths={all}");
        }
        // FNV-1a: it must be the same tomorrow, and is no secret.
        let number = all
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("paths={first},+{}~{number:016x}", more.len())
    }

    /// The policy of the levels: the breaker stands at the host alone (SPEC 4.3).
    pub fn level_policy(&self) -> Arc<Policy> {
        if self.policy.breaker.failure_threshold == 0 {
            return Arc::clone(&self.policy);
        }
        Arc::new(Policy { breaker: BreakerLimits::default(), ..Policy::clone(&self.policy) })
    }
}

/// What happens to a request while its key cools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCooldown {
    /// It is answered here.
    #[default]
    Answer,
    /// Its connection is closed without an answer, for nodes that count a 429 as the item's failure but a broken
    /// connection not.
    Close,
}

/// `[defaults.tls]`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether `http://h` and `http://h:80` are spoken as `https://h`.
    pub upgrade: bool,
    /// The lowest version accepted.
    pub min_version: TlsVersion,
    /// PEM files trusted instead of the global roots; empty: the global ones.
    pub ca_files: Vec<PathBuf>,
    /// What we show who we are with, if the host asks.
    pub client_cert: Option<ClientCert>,
    /// Names of which the host's certificate must have one; empty: the host's own name.
    pub expected_san: Vec<ExpectedSan>,
    /// Accept any certificate. Per host only.
    pub insecure: bool,
}

/// `client_cert_file` and `client_key_file`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCert {
    /// PEM: the certificate, then those that lead to its root.
    pub cert_file: PathBuf,
    /// PEM: its private key.
    pub key_file: PathBuf,
}

/// A name that a certificate may have to carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedSan {
    /// A host name.
    Dns(SanTemplate),
    /// A URI, compared byte for byte.
    Uri(SanTemplate),
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// `[defaults.timeouts]`; zero means none unless said otherwise.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Until a TCP connection is there (never zero).
    pub connect: Duration,
    /// Until TLS is agreed on (never zero).
    pub tls: Duration,
    /// Until the response head.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// Of a tunnel or an upgraded connection.
    pub tunnel_idle: Duration,
    /// The largest request body in bytes; 0: no bound.
    pub max_request_body: u64,
}

/// `[state]`
#[derive(Clone, Debug)]
pub struct State {
    /// What credentials are hashed with; `None`: a file in the state directory.
    pub secret_file: Option<PathBuf>,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most client connections at a time.
    pub max_connections: usize,
    /// Until a request head is complete.
    pub header_timeout: Duration,
    /// How long a client connection may be idle.
    pub keepalive_timeout: Duration,
    /// The largest head.
    pub max_header_bytes: usize,
    /// The most fields of a head.
    pub max_header_fields: usize,
    /// The most 1xx answers before the final one.
    pub max_interim_responses: usize,
    /// How much of a request body is read to keep a connection behind a local answer.
    pub drain_body: u64,
    /// The most tunnels at a time.
    pub max_tunnels: usize,
    /// The most keys tracked.
    pub max_keys: usize,
}

/// `[shutdown]`
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Not ready, still serving.
    pub delay: Duration,
    /// How long running work may take to end.
    pub grace: Duration,
}

impl Settings {
    /// Whether any level is by a value that may be a credential.
    pub fn hash_credentials(&self) -> bool {
        let mut levels = self.hosts.all().flat_map(|settings| settings.levels.iter());
        levels.any(|level| level.by.iter().any(|by| matches!(by, By::Header(_) | By::Query(_))))
    }

    /// Whether every listener of the data path is on a loopback address.
    pub fn all_loopback(&self) -> bool {
        self.listen.address.iter().chain(self.reverse.iter().flat_map(|r| &r.address)).all(|a| is_loopback(a.ip()))
    }
}

/// Whether an address is this machine's own and no other can reach it.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
