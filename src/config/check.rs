//! Checks of values that are good by themselves but not together: unsafe listeners, two on one address, patterns that tie.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::diagnostic::Diagnostic;
use super::hosts::{shadowed, target_text};
use super::reader::{Reader, Section};
use super::settings::{HostPattern, Hosts, ListenAddress, Settings, is_loopback};
use super::tables::admits_everyone;
use crate::core::key::{Key, Scheme};
use crate::core::level::Template;
use crate::core::policy::{Policy, PolicyError};
use crate::core::signal::body::Cools;

/// The most shadowed patterns named.
const MAX_SHADOWED: usize = 20;

/// Checks the addresses of every listener: who can reach them, and that no two are the same.
pub(super) fn listeners(reader: &mut Reader<'_>, settings: &Settings, reverse_keys: &[String]) {
    let mut taken: Vec<Taken> = Vec::new();
    let listen = &settings.listen;
    for (index, address) in listen.address.iter().enumerate() {
        let place = Listener { what: "the proxy", key: "listen.address".to_owned(), index };
        // A file of users that was refused is an error of its own.
        let guarded = !listen.clients.is_empty() || listen.auth.is_some() || reader.is_said("listen.auth_file");
        if !is_loopback(address.ip()) && !guarded {
            let message = format!("the proxy would be open to everyone who can reach `{address}`");
            let error = Diagnostic::new(reader.place_at(&place.key, Some(index)), message);
            reader.errors.push(error.help(
                "say who may connect: `clients = [\"10.0.0.0/8\"]` or `auth_file = \"/etc/holdoff/proxy-users\"` in \
                 `[listen]` (`--clients`, `--auth-file`), or listen on loopback",
            ));
        }
        take(reader, &mut taken, *address, None, place);
    }
    if listen.auth.is_none()
        && admits_everyone(&listen.clients)
        && listen.address.iter().any(|address| !is_loopback(address.ip()))
    {
        reader
            .warnings
            .push("`[listen] clients` names every address: anyone who can reach the proxy may use it".to_owned());
    }
    for (reverse, key) in settings.reverse.iter().zip(reverse_keys) {
        for (index, address) in reverse.address.iter().enumerate() {
            let place = Listener { what: "a `[[reverse]]`", key: key.clone(), index };
            if !is_loopback(address.ip()) && reverse.clients.is_empty() {
                let message = format!("`{}` would be open to everyone who can reach `{address}`", reverse.upstream);
                let error = Diagnostic::new(reader.place_at(&place.key, Some(index)), message);
                reader.errors.push(error.help(
                    "say who may connect: `clients = [\"10.0.0.0/8\"]` in `[[reverse]]` or in `[listen]` (`--clients`); \
                     `auth_file` does not count, clients of a `[[reverse]]` send no proxy credentials",
                ));
            }
            take(reader, &mut taken, *address, Some(&reverse.path), place);
        }
    }
    for (index, address) in settings.admin.address.iter().enumerate() {
        let ListenAddress::Tcp(address) = address else { continue };
        let place = Listener { what: "the admin listener", key: "admin.address".to_owned(), index };
        if !is_loopback(address.ip()) && settings.admin.token.is_none() && !reader.is_said("admin.token_file") {
            let message = format!("everyone who can reach `{address}` could freeze and release hosts");
            let error = Diagnostic::new(reader.place_at(&place.key, Some(index)), message);
            reader.errors.push(error.help(
                "add `token_file = \"/etc/holdoff/admin-token\"` to `[admin]` (`--admin-token-file`), or listen on \
                 loopback; for probes and Prometheus there is `[metrics] address`",
            ));
        }
        take(reader, &mut taken, *address, None, place);
    }
    for (index, address) in settings.metrics.address.iter().enumerate() {
        let place = Listener { what: "the metrics listener", key: "metrics.address".to_owned(), index };
        take(reader, &mut taken, *address, None, place);
    }
    if listen.address.is_empty() && settings.reverse.is_empty() && reader.errors.is_empty() {
        let place = reader.place_at("listen.address", None);
        let error = Diagnostic::new(place, "there is nothing to do: no proxy address and no `[[reverse]]`");
        reader.errors.push(error.help("leave out `address` for the default, 127.0.0.1:4290"));
    }
}

/// A listener, by the key that names it.
struct Listener {
    what: &'static str,
    key: String,
    index: usize,
}

struct Taken {
    address: SocketAddr,
    /// Of a `[[reverse]]`: several may share an address.
    path: Option<String>,
    by: Listener,
}

fn take(reader: &mut Reader<'_>, taken: &mut Vec<Taken>, address: SocketAddr, path: Option<&str>, by: Listener) {
    let collides = |other: &&Taken| {
        let (a, b) = (address, other.address);
        let overlap = a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
        let shared = a == b && path.is_some() && other.path.is_some();
        let same_path = path.is_some() && path == other.path.as_deref();
        // Port 0 is another free port each time.
        a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || overlap) && (!shared || same_path)
    };
    if let Some(other) = taken.iter().find(collides) {
        let same_path = other.address == address && path.is_some() && other.path.is_some();
        let message = match path {
            Some(path) if same_path => format!("two `[[reverse]]` have the address `{address}` and the path `{path}`"),
            _ => format!("{} and {} cannot both listen on `{address}`", other.by.what, by.what),
        };
        let (mut at, mut first) =
            (reader.place_at(&by.key, Some(by.index)), reader.place_at(&other.by.key, Some(other.by.index)));
        // The other one may be the built-in address, with no place to show.
        if at.is_none() {
            std::mem::swap(&mut at, &mut first);
        }
        let error = Diagnostic::new(at, message);
        let error = match &first {
            Some(first) => error.note("the other one stands at", Some(first)),
            None => error.note(&format!("`{}` is the default of the other one", other.address), None),
        };
        reader.errors.push(error.help(if same_path { "give one another `path`" } else { "give one another port" }));
    }
    taken.push(Taken { address, path: path.map(str::to_owned), by });
}

/// Checks what all `[[host]]` say together: a tie is an error, a pattern that can never apply a warning, and those of one
/// group must treat their key alike.
pub(super) fn hosts(reader: &mut Reader<'_>, hosts: &Hosts) {
    ties(reader, hosts);
    upgrades(reader, hosts);
    groups(reader, hosts);
    empty_groups(reader, hosts);
    cut_rules(reader, hosts);
    if !reader.errors.is_empty() {
        return;
    }
    let all: Vec<(&HostPattern, &[Template])> = hosts
        .hosts
        .iter()
        .flat_map(|host| host.patterns.iter().map(|pattern| (pattern, host.settings.paths.as_slice())))
        .collect();
    routes(reader, hosts);
    for (pattern, by) in shadowed(&all).into_iter().take(MAX_SHADOWED) {
        reader.warnings.push(format!("the pattern `{}` never applies: it is shadowed by {by}", pattern.text));
    }
}

/// Two tables with one pattern: the paths must say which of them applies.
fn ties(reader: &mut Reader<'_>, hosts: &Hosts) {
    let mut seen: HashMap<_, Vec<(usize, usize)>> = HashMap::new();
    for (number, host) in hosts.hosts.iter().enumerate() {
        for (index, pattern) in host.patterns.iter().enumerate() {
            let same = seen.entry((target_text(&pattern.target), pattern.port, pattern.scheme)).or_default();
            let tie = same.iter().find_map(|&(other, at)| {
                let paths = |number: usize| hosts.hosts.get(number).map(|host| host.settings.paths.as_slice());
                let (ours, theirs) = (paths(number).unwrap_or_default(), paths(other).unwrap_or_default());
                if other == number || (ours.is_empty() && theirs.is_empty()) {
                    return Some((other, at, None));
                }
                let is_tie = |a: &Template, b: &Template| a.rank(b) == Ordering::Equal && a.overlaps(b);
                let mut pairs = ours.iter().enumerate().flat_map(|(one, a)| {
                    theirs.iter().enumerate().filter(move |(_, b)| is_tie(a, b)).map(move |(two, _)| (one, two))
                });
                Some((other, at, Some(pairs.next()?)))
            });
            same.push((number, index));
            let Some((other, at, paths)) = tie else { continue };
            let path = |number: usize, at: usize| hosts.hosts.get(number)?.settings.paths.get(at).map(Template::as_str);
            let (place, first, message, help) = match paths {
                None => (
                    reader.place_at(&format!("host.{number}.match"), Some(index)),
                    reader.place_at(&format!("host.{other}.match"), Some(at)),
                    format!("a tie: `{}` is matched twice, and neither is more specific", pattern.text),
                    "remove one, or make one narrower by a port, a scheme or `paths`",
                ),
                Some((one, two)) => (
                    reader.place_at(&format!("host.{number}.paths"), Some(one)),
                    reader.place_at(&format!("host.{other}.paths"), Some(two)),
                    format!(
                        "a tie: of `{}` the paths `{}` and `{}` may both fit, and neither is more specific",
                        pattern.text,
                        path(number, one).unwrap_or_default(),
                        path(other, two).unwrap_or_default(),
                    ),
                    "remove one, or make one narrower",
                ),
            };
            reader.errors.push(Diagnostic::new(place, message).note("the first stands at", first.as_ref()).help(help));
        }
    }
}

/// Tables of one group share a key, and a key has one policy; only what is read as a signal may differ.
fn groups(reader: &mut Reader<'_>, hosts: &Hosts) {
    let mut seen: HashMap<&Key, (usize, &Policy)> = HashMap::new();
    for (number, host) in hosts.hosts.iter().enumerate() {
        let Some(group) = &host.settings.group else { continue };
        let ours = &*host.settings.policy;
        let &mut (other, theirs) = seen.entry(group).or_insert((number, ours));
        let differs = [
            ("mode", ours.mode != theirs.mode),
            ("cooldown", ours.cooldown != theirs.cooldown),
            ("breaker", ours.breaker != theirs.breaker),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            let place = reader.place_at(&format!("host.{number}.group"), None);
            let first = reader.place_at(&format!("host.{other}.group"), None);
            let message = format!("the hosts of the group `{}` share one key, but not one `{what}`", group.host());
            let error = Diagnostic::new(place, message).note("the first stands at", first.as_ref());
            reader
                .errors
                .push(error.help("say the same in both, in a preset or in `[defaults]`, or give one another group"));
        }
    }
}

/// Groups that a body rule cools and no host is in.
fn empty_groups(reader: &mut Reader<'_>, hosts: &Hosts) {
    let groups: HashSet<&str> =
        hosts.hosts.iter().filter_map(|host| Some(host.settings.group.as_ref()?.host())).collect();
    let mut told = HashSet::new();
    for rule in hosts.all().flat_map(|settings| settings.bodies.iter()) {
        if let Cools::Group(name) = &rule.cools
            && !groups.contains(&**name)
            && told.insert(name.clone())
        {
            reader.warnings.push(format!(
                "the body rule `{}` cools the group `{name}`, and no `[[host]]` is in it (`group = \"{name}\"`)",
                rule.name
            ));
        }
    }
}

/// Routes that never apply: of a level the first that fits a path counts.
fn routes(reader: &mut Reader<'_>, hosts: &Hosts) {
    let mut told = HashSet::new();
    for level in hosts.all().flat_map(|settings| settings.levels.iter()) {
        for (at, route) in level.routes.iter().enumerate() {
            let Some(before) = level.routes.iter().take(at).find(|before| before.covers(route)) else { continue };
            if told.len() < MAX_SHADOWED && told.insert((&level.name, route.as_str())) {
                reader.warnings.push(format!(
                    "the route `{}` of level `{}` never applies: `{}` stands before it and fits all its paths",
                    route.as_str(),
                    level.name,
                    before.as_str()
                ));
            }
        }
    }
}

/// Checks that no body rule says more than the host may: its cooldown is a hint like others, and bounded like them.
fn cut_rules(reader: &mut Reader<'_>, hosts: &Hosts) {
    let mut told = HashSet::new();
    for settings in hosts.all() {
        for rule in settings.bodies.iter() {
            let of_group = match &rule.cools {
                Cools::Group(name) => Key::group(name).ok().map(|group| hosts.of_key(&group).0),
                Cools::Host | Cools::Level => None,
            };
            let most = of_group.as_ref().unwrap_or(&settings.policy).cooldown.max_retry_after;
            if rule.cooldown > most && told.insert((&rule.name, most)) {
                reader.warnings.push(format!(
                    "the body rule `{}` says {}, and is cut to the {} of `cooldown.max_retry_after`",
                    rule.name,
                    humantime::format_duration(rule.cooldown),
                    humantime::format_duration(most)
                ));
            }
        }
    }
}

/// Checks that a `[[host]]` with `tls.upgrade` is the policy of both keys, of `http://h`, which is asked, and of `https://h`,
/// which is used. Otherwise the requests would stay in clear text, or the rest of the table (whom to expect, what to show)
/// would not hold for them, and nobody would be told.
fn upgrades(reader: &mut Reader<'_>, hosts: &Hosts) {
    let plain = Scheme::Http.default_port();
    for (number, host) in hosts.hosts.iter().enumerate().filter(|(_, host)| host.settings.tls.upgrade) {
        let key = format!("host.{number}.tls.upgrade");
        let is_said_here = reader.is_said(&key);
        if is_said_here && !host.settings.paths.is_empty() {
            let place = reader.place_at(&key, None).or_else(|| reader.place_at(&format!("host.{number}.paths"), None));
            let error = Diagnostic::new(place, "`upgrade`: expected in a `[[host]]` without `paths`");
            reader.errors.push(error.help("a host is upgraded as a whole: write it in a table for all its paths"));
            continue;
        }
        for (index, pattern) in host.patterns.iter().enumerate() {
            let of_http = pattern.scheme != Some(Scheme::Https) && pattern.port.is_none_or(|port| port == plain);
            let why = match (pattern.scheme, pattern.port) {
                (None, None) => continue,
                _ if of_http => "the rest of this `[[host]]` is not used for the https that is spoken",
                _ if is_said_here => "no request to `http://` port 80 is among its requests, so nothing is upgraded",
                // What only has it from `[defaults.tls]` need not be about it.
                _ => continue,
            };
            let place = reader.place_at(&format!("host.{number}.match"), Some(index));
            let message = format!("`tls.upgrade` with the pattern `{}`: {why}", pattern.text);
            reader.errors.push(Diagnostic::new(place, message).help("write the host without a scheme and a port"));
        }
    }
}

/// Makes an error of a policy's refusal, at the key it names, or at another one it names that was said. One that is only
/// inherited was reported where it stands.
pub(super) fn policy(reader: &mut Reader<'_>, section: &Section<'_>, error: &PolicyError, good_before: bool) {
    let others = error.expected.split('`').skip(1).step_by(2);
    let extra = (error.key == "signals.statuses").then_some("signals.unavailable");
    let keys: Vec<&str> = std::iter::once(error.key).chain(others).chain(extra).collect();
    let place = keys.iter().find_map(|key| reader.place_at(&section.key(key), None));
    if place.is_none() && !good_before {
        return;
    }
    let mut diagnostic = Diagnostic::new(place.or_else(|| reader.place_of_table(section)), error.to_string());
    for key in &keys {
        let inherited = || reader.shown(&format!("defaults.{key}"));
        if let Some((value, origin)) = reader.shown(&section.key(key)).or_else(inherited) {
            diagnostic = diagnostic.note(&format!("`{key}` is {value} ({origin})"), None);
        }
    }
    reader.errors.push(diagnostic);
}
