//! Every table and key: its name, type, default and range. Each stands here once.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::check;
use super::diagnostic::{Diagnostic, mask_credentials};
use super::parent::{self, Exempt};
use super::pattern::{HostName, InterceptHost, Name, PathPrefix, Upstream as ReverseUpstream};
use super::policies;
use super::reader::{Reader, Section};
use super::secrets;
use super::settings::{
    Admin, Egress, EgressRule, Hosts, Intercept, Limits, Listen, ListenAddress, Log, LogFormat, Metrics, Reverse,
    Settings, Shutdown, State, Upstream,
};
use super::tls;
use super::value::{HostHeader, Ports, Private, Setting, Size};
use crate::core::key::{KeyRef, Scheme};

/// How long a leaf certificate may be valid. Clients refuse more than 398 days.
const LEAF_LIFETIME: std::ops::RangeInclusive<Duration> = seconds(3600)..=seconds(398 * 86_400);

pub(super) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) fn more_than_zero(value: &Duration) -> Result<(), String> {
    if value.is_zero() { Err("more than 0s".to_owned()) } else { Ok(()) }
}

/// Reads every table, then checks what only shows when they stand together.
pub(super) fn settings<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Settings {
    let listen = listen(reader, root);
    let (reverse, reverse_keys) = reverse(reader, root, &listen);
    let intercept = intercept(reader, root);
    let admin = admin(reader, root);
    let metrics = metrics(reader, root);
    let log = log(reader, root);
    let (egress, private) = egress(reader, root);
    let upstream = upstream(reader, root);
    let hosts = policies::read(reader, root);
    let state = state(reader, root);
    let limits = limits(reader, root);
    let shutdown = shutdown(reader, root);
    let mut settings =
        Settings { listen, reverse, intercept, admin, metrics, log, egress, upstream, hosts, state, limits, shutdown };
    settings.egress.allow_private = match private {
        Private::Auto => settings.all_loopback(),
        Private::Allow => true,
        Private::Deny => false,
    };
    check::listeners(reader, &settings, &reverse_keys);
    parent::check(reader, &mut settings);
    check::hosts(reader, &settings.hosts);
    for reverse in &mut settings.reverse {
        upgrade(reverse, &settings.hosts);
    }
    settings
}

/// A `[[reverse]]` onto `http://h` is one onto `https://h` where the policy has `tls.upgrade`.
fn upgrade(reverse: &mut Reverse, hosts: &Hosts) {
    let upstream = reverse.upstream.as_ref();
    if hosts.upgrades(&upstream)
        && let Ok(secure) = KeyRef::new(Scheme::Https, upstream.host(), Scheme::Https.default_port())
    {
        reverse.upstream = secure.to_key();
    }
}

fn listen<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Listen {
    let mut section = reader.section(root, "listen");
    let s = &mut section;
    let address = vec![([127, 0, 0, 1], 4290).into(), (std::net::Ipv6Addr::LOCALHOST, 4290).into()];
    let address = reader.get(s, "address", address);
    let name = reader.optional::<Name>(s, "name", None).map(|name| name.0);
    let clients = reader.get(s, "clients", Vec::new());
    let auth_file = reader.optional::<PathBuf>(s, "auth_file", None);
    let via = reader.get(s, "via", true);
    let auth = auth_file.and_then(|file| match secrets::auth(&file) {
        Ok(auth) => Some(auth),
        Err(error) => {
            let named = reader.place_at("listen.auth_file", None);
            reader.errors.push(error.note("the file is named at", named.as_ref()));
            None
        }
    });
    let address_is_default = !reader.is_said("listen.address");
    reader.finish(section);
    Listen { address, address_is_default, name, clients, auth, via }
}

fn reverse<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>, listen: &Listen) -> (Vec<Reverse>, Vec<String>) {
    let mut found = Vec::new();
    // The keys of their addresses: one that was refused is left out of what was found.
    let mut keys = Vec::new();
    for mut section in reader.list(root, "reverse", false) {
        reader.open(&section);
        let s = &mut section;
        let address = reader.get::<Vec<_>>(s, "address", Vec::new());
        let upstream = reader.optional::<ReverseUpstream>(s, "upstream", None);
        let path = reader.get(s, "path", PathPrefix("/".to_owned()));
        let host_header = reader.get(s, "host_header", HostHeader::Upstream);
        let rewrite_location = reader.get(s, "rewrite_location", true);
        let clients = reader.get(s, "clients", Vec::new());
        let (address_key, upstream_key) = (s.key("address"), s.key("upstream"));
        if address.is_empty() && !reader.is_said(&address_key) {
            reader.missing(s, "address", "[\"127.0.0.1:4300\"]");
        } else if address.is_empty() && !reader.is_refused(&address_key) {
            let place = reader.place_at(&address_key, None);
            reader.errors.push(Diagnostic::new(place, "`address`: expected at least one address, found none"));
        }
        if !reader.is_said(&upstream_key) {
            reader.missing(s, "upstream", "\"https://api.example.com\"");
        }
        if let Some(ReverseUpstream { key, path: upstream_path }) = upstream {
            keys.push(address_key);
            found.push(Reverse {
                address,
                upstream: key,
                upstream_path,
                path: path.0,
                host_from_upstream: host_header == HostHeader::Upstream,
                rewrite_location,
                clients,
            });
        }
        reader.finish(section);
    }
    for each in reader.additions("reverse").collect::<Vec<_>>() {
        let place = reader.place_of(&each.origin);
        let read = match each.text.split_once('=') {
            None => Err("`ADDRESS=URL`, such as `127.0.0.1:4300=https://api.example.com`".to_owned()),
            Some((address, url)) => Vec::from_text(address)
                .and_then(|address: Vec<std::net::SocketAddr>| Ok((address, ReverseUpstream::from_text(url)?)))
                .map_err(|mismatch| mismatch.expected),
        };
        match read {
            Ok((address, upstream)) => {
                keys.push(reader.add_reverse(each, address.to_toml(), upstream.to_toml()));
                found.push(Reverse {
                    address,
                    upstream: upstream.key,
                    upstream_path: upstream.path,
                    path: "/".to_owned(),
                    host_from_upstream: true,
                    rewrite_location: true,
                    clients: Vec::new(),
                });
            }
            Err(expected) => {
                let text = mask_credentials(&each.text);
                reader.errors.push(Diagnostic::new(place, format!("expected {expected}, found `{text}`")));
            }
        }
    }
    // Off loopback, `[listen] clients` holds for a reverse listener too unless it says otherwise.
    for each in &mut found {
        if each.clients.is_empty() && !each.address.iter().all(|address| super::settings::is_loopback(address.ip())) {
            each.clients.clone_from(&listen.clients);
        }
    }
    (found, keys)
}

fn intercept<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Intercept {
    let mut section = reader.section(root, "intercept");
    let s = &mut section;
    let lifetime = |lifetime: &Duration| {
        if LEAF_LIFETIME.contains(lifetime) { Ok(()) } else { Err("a duration from 1h to 398d".to_owned()) }
    };
    let intercept = Intercept {
        hosts: reader.get::<Vec<InterceptHost>>(s, "hosts", Vec::new()).into_iter().map(|host| host.0).collect(),
        ca_dir: reader.optional::<PathBuf>(s, "ca_dir", None),
        leaf_lifetime: reader.checked(s, "leaf_lifetime", seconds(30 * 86_400), lifetime),
        leaf_cache: reader.count(s, "leaf_cache", 1000, 1..=100_000),
    };
    reader.finish(section);
    intercept
}

fn admin<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Admin {
    let mut section = reader.section(root, "admin");
    let s = &mut section;
    let address = reader.get(s, "address", vec![ListenAddress::Tcp(([127, 0, 0, 1], 4291).into())]);
    let token_file = reader.optional::<PathBuf>(s, "token_file", None);
    let hosts = reader.get::<Vec<HostName>>(s, "hosts", Vec::new());
    let token = token_file.and_then(|file| match secrets::token(&file) {
        Ok(token) => Some(token),
        Err(error) => {
            let named = reader.place_at("admin.token_file", None);
            reader.errors.push(error.note("the file is named at", named.as_ref()));
            None
        }
    });
    reader.finish(section);
    Admin { address, token, hosts: hosts.into_iter().map(|host| host.0).collect() }
}

fn metrics<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Metrics {
    let mut section = reader.section(root, "metrics");
    let s = &mut section;
    let metrics = Metrics {
        address: reader.get(s, "address", Vec::new()),
        max_host_labels: reader.count(s, "max_host_labels", 100, 1..=10_000),
        idle_series: reader.checked(s, "idle_series", seconds(3600), more_than_zero),
        process: reader.get(s, "process", true),
    };
    reader.finish(section);
    metrics
}

fn log<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Log {
    let mut section = reader.section(root, "log");
    let s = &mut section;
    let filter = |level: &String| match EnvFilter::try_new(level) {
        Ok(_) if !level.trim().is_empty() => Ok(()),
        _ => Err("`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,holdoff=debug`".to_owned()),
    };
    let log = Log {
        level: reader.checked(s, "level", "info".to_owned(), filter),
        format: reader.get(s, "format", LogFormat::Auto),
        access: reader.get(s, "access", false),
        error_body: reader.get(s, "error_body", true),
    };
    reader.finish(section);
    log
}

fn egress<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> (Egress, Private) {
    let mut section = reader.section(root, "egress");
    let s = &mut section;
    let private = reader.get(s, "private", Private::Auto);
    let allow = reader.get::<Vec<EgressRule>>(s, "allow", Vec::new());
    let deny = reader.get::<Vec<EgressRule>>(s, "deny", Vec::new());
    let ports = reader.get(s, "connect_ports", vec![Ports(443, 443), Ports(1024, 65535)]);
    let connect_ports = ports.into_iter().map(|Ports(first, last)| (first, last)).collect();
    reader.finish(section);
    (Egress { allow_private: false, allow, deny, connect_ports }, private)
}

fn upstream<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Upstream {
    let mut section = reader.section(root, "upstream");
    let s = &mut section;
    let upstream = Upstream {
        http2: reader.get(s, "http2", true),
        max_connections_per_host: reader.count(s, "max_connections_per_host", 256, 1..=100_000),
        max_idle_per_host: reader.count(s, "max_idle_per_host", 32, 0..=100_000),
        idle_timeout: reader.get(s, "idle_timeout", seconds(60)),
        max_lifetime: reader.get(s, "max_lifetime", Duration::ZERO),
        dns_ttl: reader.get(s, "dns_ttl", seconds(30)),
        dns_timeout: reader.checked(s, "dns_timeout", seconds(5), more_than_zero),
        platform_roots: reader.get(s, "platform_roots", true),
        ca_files: tls::ca_files(reader, s, &[]),
        parents: parent::read(reader, s),
        trusted_holdoffs: reader
            .get::<Vec<Exempt>>(s, "trusted_holdoffs", Vec::new())
            .into_iter()
            .map(|host| host.0)
            .collect(),
    };
    if !upstream.platform_roots && upstream.ca_files.is_empty() {
        reader.warnings.push(
            "`[upstream] platform_roots` is off and `ca_files` is empty: hosts without `ca_files` of their own cannot be \
             reached over https"
                .to_owned(),
        );
    }
    reader.finish(section);
    upstream
}

fn state<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> State {
    let mut section = reader.section(root, "state");
    let state = State { secret_file: reader.optional::<PathBuf>(&mut section, "secret_file", None) };
    reader.finish(section);
    state
}

fn limits<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Limits {
    let mut section = reader.section(root, "limits");
    let s = &mut section;
    // The lower bound is that of the HTTP parser's buffer, the upper one keeps a flood of connections within memory.
    let head = |size: &Size| match size.0 {
        0x2000..=0x10_0000 => Ok(()),
        _ => Err("a size from 8KiB to 1MiB".to_owned()),
    };
    let drain = |size: &Size| if size.0 <= 16 << 20 { Ok(()) } else { Err("a size of at most 16MiB".to_owned()) };
    let limits = Limits {
        max_connections: reader.count(s, "max_connections", 10_000, 1..=1_000_000),
        header_timeout: reader.checked(s, "header_timeout", seconds(10), more_than_zero),
        keepalive_timeout: reader.checked(s, "keepalive_timeout", seconds(120), more_than_zero),
        max_header_bytes: usize::try_from(reader.checked(s, "max_header_bytes", Size(64 << 10), head).0)
            .unwrap_or(usize::MAX),
        max_header_fields: reader.count(s, "max_header_fields", 100, 1..=10_000),
        max_interim_responses: reader.count(s, "max_interim_responses", 16, 0..=1000),
        drain_body: reader.checked(s, "drain_body", Size(64 << 10), drain).0,
        max_tunnels: reader.count(s, "max_tunnels", 10_000, 1..=1_000_000),
        max_keys: reader.count(s, "max_keys", 100_000, 1..=10_000_000),
    };
    reader.finish(section);
    limits
}

fn shutdown<'a>(reader: &mut Reader<'a>, root: &mut Section<'a>) -> Shutdown {
    let mut section = reader.section(root, "shutdown");
    let s = &mut section;
    let shutdown =
        Shutdown { delay: reader.get(s, "delay", Duration::ZERO), grace: reader.get(s, "grace", seconds(25)) };
    reader.finish(section);
    shutdown
}

/// Whether anyone who reaches an address may use it.
pub(super) fn admits_everyone(clients: &[IpNet]) -> bool {
    clients.iter().any(|network| network.prefix_len() == 0)
}
