//! Which `[[host]]` a key belongs to: exactly one, the most specific.
//!
//! Exact before suffix before network before `*`; of suffixes and networks the longer; then a pattern with a port before one
//! without, then one with a scheme before one without; then the more specific path. A table with paths that do not fit is
//! passed over. Everything is found by hashing, so that thousands of hosts cost a
//! request no more than one: one look-up for the name, one per label above it, one per prefix length in use.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::settings::{Host, HostPattern, HostSettings, HostTarget, Hosts};
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::level::Template;
use crate::core::policy::Policy;

/// A pattern's port, scheme and path, and the place of its host.
#[derive(Clone, Debug)]
struct Candidate {
    port: Option<u16>,
    scheme: Option<Scheme>,
    /// `None`: every path, and what has none.
    path: Option<Template>,
    host: usize,
}

impl Candidate {
    /// Whether it is looked at before another one.
    fn order(&self, other: &Self) -> Ordering {
        let filters = |each: &Self| (each.port.is_none(), each.scheme.is_none(), each.path.is_none());
        filters(self).cmp(&filters(other)).then_with(|| match (&self.path, &other.path) {
            (Some(ours), Some(theirs)) => theirs.rank(ours),
            _ => Ordering::Equal,
        })
    }
}

/// What of a request's path a look-up takes into account.
#[derive(Clone, Copy, Debug)]
enum At<'p> {
    /// This path.
    Path(&'p str),
    /// There is none (CONNECT).
    None,
    /// Any table that some path leads to.
    Anywhere,
}

impl At<'_> {
    fn fits(self, path: Option<&Template>) -> bool {
        match (self, path) {
            (Self::Anywhere, _) | (_, None) => true,
            (Self::Path(path), Some(template)) => template.matches(path),
            (Self::None, Some(_)) => false,
        }
    }
}

/// The patterns of every host, by what they name.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Vec<Candidate>>,
    suffix: HashMap<Box<str>, Vec<Candidate>>,
    net: HashMap<IpNet, Vec<Candidate>>,
    /// The prefix lengths in `net`, for both families.
    lengths: BTreeSet<u8>,
    any: Vec<Candidate>,
}

impl Index {
    fn new(hosts: &[Host]) -> Self {
        let mut index = Self::default();
        for (host, table) in hosts.iter().enumerate() {
            for pattern in &table.patterns {
                let candidate = |path| Candidate { port: pattern.port, scheme: pattern.scheme, path, host };
                let list = match &pattern.target {
                    HostTarget::Exact(name) => index.exact.entry(name.as_str().into()).or_default(),
                    HostTarget::Suffix(suffix) => index.suffix.entry(suffix.as_str().into()).or_default(),
                    HostTarget::Net(network) => {
                        index.lengths.insert(network.prefix_len());
                        index.net.entry(network.trunc()).or_default()
                    }
                    HostTarget::Any => &mut index.any,
                };
                match table.settings.paths.as_slice() {
                    [] => list.push(candidate(None)),
                    paths => list.extend(paths.iter().cloned().map(|path| candidate(Some(path)))),
                }
            }
        }
        let lists = index.exact.values_mut().chain(index.suffix.values_mut()).chain(index.net.values_mut());
        for list in lists.chain(std::iter::once(&mut index.any)) {
            list.sort_by(Candidate::order);
        }
        index
    }

    /// The table of a key. `is_meant` is shown each that fits, the most specific first, until it takes one.
    fn find(&self, key: &Key, at: At<'_>, mut is_meant: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut fits = |list: &Vec<Candidate>| {
            let mut fitting = list.iter().filter(|candidate| {
                candidate.port.is_none_or(|port| port == key.port())
                    && candidate.scheme.is_none_or(|scheme| scheme == key.scheme())
                    && at.fits(candidate.path.as_ref())
            });
            fitting.find(|candidate| is_meant(candidate.host)).map(|candidate| candidate.host)
        };
        let name = key.host();
        if let Some(found) = self.exact.get(name).and_then(&mut fits) {
            return Some(found);
        }
        if !self.suffix.is_empty() {
            let dots = name.match_indices('.').filter_map(|(at, _)| name.get(at..));
            if let Some(found) = dots.filter_map(|suffix| self.suffix.get(suffix)).find_map(&mut fits) {
                return Some(found);
            }
        }
        if !self.net.is_empty()
            && let Some(address) = key.ip().map(|address| address.to_canonical())
            && let Some(found) = self.networks(address).find_map(&mut fits)
        {
            return Some(found);
        }
        fits(&self.any)
    }

    /// The networks an address is in, longest prefix first.
    fn networks(&self, address: IpAddr) -> impl Iterator<Item = &Vec<Candidate>> {
        let lengths = self.lengths.iter().rev();
        lengths.filter_map(move |length| self.net.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}

impl Hosts {
    /// Puts the tables together. The patterns are taken to be free of ties.
    pub fn new(defaults: Arc<HostSettings>, hosts: Vec<Host>) -> Self {
        let index = Index::new(&hosts);
        let upgrade_some = defaults.tls.upgrade || hosts.iter().any(|host| host.settings.tls.upgrade);
        Self { defaults, hosts, places: Vec::new(), upgrade_some, index }
    }

    /// The settings of the defaults and of every table.
    pub fn all(&self) -> impl Iterator<Item = &Arc<HostSettings>> {
        std::iter::once(&self.defaults).chain(self.hosts.iter().map(|host| &host.settings))
    }

    /// The settings of a host as a whole, whatever the path: those of the most specific `[[host]]`, else the defaults.
    pub fn resolve(&self, key: &Key) -> &Arc<HostSettings> {
        self.host(key).map_or(&self.defaults, |host| &host.settings)
    }

    /// The settings of a request to a host.
    pub fn resolve_at(&self, key: &Key, path: &str) -> &Arc<HostSettings> {
        self.host_at(key, path).map_or(&self.defaults, |host| &host.settings)
    }

    /// Whether requests to a host may be held against anything but its own key alone.
    pub fn divides(&self, key: &Key) -> bool {
        let is_dividing = |settings: &HostSettings| {
            settings.group.is_some() || !settings.levels.is_empty() || !settings.paths.is_empty()
        };
        let tables = |host: usize| self.hosts.get(host).is_some_and(|host| is_dividing(&host.settings));
        let mut divided = false;
        let _ = self.index.find(key, At::Anywhere, |host| {
            divided |= tables(host);
            // A table for every path hides what is less specific.
            divided || self.hosts.get(host).is_some_and(|host| host.settings.paths.is_empty())
        });
        divided || is_dividing(self.resolve(key))
    }

    /// The policy and settings of a key of any kind: a host, its paths, a group, or a level of one of them.
    pub fn of_key(&self, key: &Key) -> (Arc<Policy>, &Arc<HostSettings>) {
        let (whole, level) = match key.scope().strip_prefix("paths=") {
            Some(_) => key.scope().split_once("; ").map_or((key.scope(), ""), |parts| parts),
            None => ("", key.scope()),
        };
        let settings = if key.is_group() {
            let of_group = |settings: &&Arc<HostSettings>| settings.group.as_ref() == Some(&key.whole());
            let mut all = self.hosts.iter().map(|host| &host.settings);
            all.find(of_group).unwrap_or(&self.defaults)
        } else if whole.is_empty() {
            self.resolve(key)
        } else {
            let is_meant = |host: usize| self.hosts.get(host).is_some_and(|host| host.settings.scope() == whole);
            let found = self.index.find(key, At::Anywhere, is_meant).and_then(|host| self.hosts.get(host));
            found.map_or(&self.defaults, |host| &host.settings)
        };
        let policy = if level.is_empty() { Arc::clone(&settings.policy) } else { settings.level_policy() };
        (policy, settings)
    }

    /// Whether what is asked of a key, `http://h:80`, goes to `https://h:443` by the policy of the first (SPEC 7.4).
    pub fn upgrades(&self, key: &KeyRef<'_>) -> bool {
        let is_plain = key.scheme() == Scheme::Http && key.port() == Scheme::Http.default_port();
        is_plain && self.upgrade_some && self.resolve(&key.to_key()).tls.upgrade
    }

    /// The `[[host]]` of a host as a whole, if any.
    pub fn host(&self, key: &Key) -> Option<&Host> {
        self.hosts.get(self.index.find(key, At::None, |_| true)?)
    }

    /// The `[[host]]` of a request to a host, if any.
    pub fn host_at(&self, key: &Key, path: &str) -> Option<&Host> {
        self.hosts.get(self.index.find(key, At::Path(path), |_| true)?)
    }
}

impl HostSettings {
    /// What stands for `host` as a whole: the group, or the paths of the table. `None`: the host itself.
    pub fn base(&self, host: &Key) -> Option<Key> {
        match &self.group {
            Some(group) => Some(group.clone()),
            None if self.paths.is_empty() => None,
            None => host.scoped(&self.scope()).ok(),
        }
    }
}

/// Whether everything `inner` matches is also matched by `outer` as far as port and scheme go.
fn filters_cover(outer: &HostPattern, inner: &HostPattern) -> bool {
    (outer.port.is_none() || outer.port == inner.port) && (outer.scheme.is_none() || outer.scheme == inner.scheme)
}

/// Whether a table for the paths `outer` applies wherever one for the paths `inner` would.
fn paths_cover(outer: &[Template], inner: &[Template]) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|path| outer.contains(path)))
}

/// The patterns that can never apply because more specific ones take all they match: `(pattern, by which)`. Each comes with
/// the paths of its table.
pub(super) fn shadowed<'a>(patterns: &[(&'a HostPattern, &[Template])]) -> Vec<(&'a HostPattern, String)> {
    let mut by_target: HashMap<String, Vec<(&HostPattern, &[Template])>> = HashMap::new();
    let mut networks: Vec<(IpNet, &HostPattern, &[Template])> = Vec::new();
    for &(pattern, paths) in patterns {
        by_target.entry(target_text(&pattern.target)).or_default().push((pattern, paths));
        match &pattern.target {
            HostTarget::Net(network) => networks.push((*network, pattern, paths)),
            HostTarget::Exact(name) => {
                if let Ok(address) = name.parse::<IpAddr>() {
                    networks.push((IpNet::from(address.to_canonical()), pattern, paths));
                }
            }
            HostTarget::Suffix(_) | HostTarget::Any => {}
        }
    }
    let has_networks = patterns.iter().any(|(pattern, _)| matches!(pattern.target, HostTarget::Net(_)));
    let mut found = Vec::new();
    for &(pattern, paths) in patterns {
        let same = by_target.get(&target_text(&pattern.target)).map(Vec::as_slice).unwrap_or_default();
        if pattern.scheme.is_none() {
            let by = |scheme| {
                let covers = |(other, of): &&(&HostPattern, &[Template])| {
                    other.scheme == Some(scheme) && other.port == pattern.port && paths_cover(of, paths)
                };
                same.iter().find(covers).map(|(other, _)| other)
            };
            if let (Some(plain), Some(secure)) = (by(Scheme::Http), by(Scheme::Https)) {
                found.push((pattern, format!("`{}` and `{}`", plain.text, secure.text)));
                continue;
            }
        }
        if let HostTarget::Net(network) = pattern.target
            && has_networks
        {
            let inside: Vec<&(IpNet, &HostPattern, &[Template])> = networks
                .iter()
                .filter(|(other, by, of)| {
                    let narrower = *other != network || matches!(by.target, HostTarget::Exact(_));
                    narrower && network.contains(other) && filters_cover(by, pattern) && paths_cover(of, paths)
                })
                .collect();
            let joined = IpNet::aggregate(&inside.iter().map(|(other, ..)| *other).collect());
            if joined.contains(&network) {
                let names: Vec<String> = inside.iter().take(4).map(|(_, by, _)| format!("`{}`", by.text)).collect();
                found.push((pattern, names.join(" and ")));
            }
        }
    }
    found
}

/// One text per target.
pub(super) fn target_text(target: &HostTarget) -> String {
    match target {
        HostTarget::Exact(name) => name.clone(),
        HostTarget::Suffix(suffix) => format!("*{suffix}"),
        HostTarget::Net(network) => network.trunc().to_string(),
        HostTarget::Any => "*".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Text;
    use super::*;

    fn hosts(patterns: &[&str]) -> Hosts {
        let defaults = crate::config::parse("").unwrap().settings.hosts.defaults;
        let host = |text: &&str| Host {
            patterns: vec![HostPattern::parse(text).unwrap()],
            settings: Arc::new(HostSettings::clone(&defaults)),
        };
        let tables = patterns.iter().map(host).collect();
        Hosts::new(defaults, tables)
    }

    fn found(patterns: &[&str], key: &str) -> String {
        let hosts = hosts(patterns);
        hosts.host(&Key::parse(key).unwrap()).map_or("defaults".to_owned(), |host| host.patterns[0].text.clone())
    }

    #[test]
    fn the_most_specific_pattern_wins_whatever_the_order() {
        let mut patterns = ["*", "10.0.0.0/8", "10.1.0.0/16", "*.example.com", "*.a.example.com", "b.a.example.com"];
        for _ in 0..2 {
            assert_eq!(found(&patterns, "https://b.a.example.com"), "b.a.example.com");
            assert_eq!(found(&patterns, "https://c.a.example.com"), "*.a.example.com");
            assert_eq!(found(&patterns, "https://a.example.com"), "*.example.com");
            assert_eq!(found(&patterns, "https://example.com"), "*");
            assert_eq!(found(&patterns, "https://10.1.2.3"), "10.1.0.0/16");
            assert_eq!(found(&patterns, "https://10.2.2.3"), "10.0.0.0/8");
            assert_eq!(found(&patterns, "https://[::ffff:10.2.2.3]"), "10.0.0.0/8");
            patterns.reverse();
        }
        assert_eq!(found(&["peer.example"], "https://other.example"), "defaults");
        assert_eq!(found(&["::ffff:10.0.0.0/104"], "https://10.2.2.3"), "::ffff:10.0.0.0/104");
    }

    #[test]
    fn a_port_goes_before_a_scheme_and_both_before_neither() {
        let patterns = ["peer.example", "https://peer.example", "peer.example:8443", "https://peer.example:8443"];
        assert_eq!(found(&patterns, "https://peer.example:8443"), "https://peer.example:8443");
        assert_eq!(found(&patterns, "http://peer.example:8443"), "peer.example:8443");
        assert_eq!(found(&patterns, "https://peer.example"), "https://peer.example");
        assert_eq!(found(&patterns, "http://peer.example"), "peer.example");
        assert_eq!(found(&patterns[1..3], "https://peer.example:8443"), "peer.example:8443");
    }

    #[test]
    fn a_narrower_target_that_does_not_fit_gives_way_to_a_wider_one() {
        assert_eq!(found(&["a.example.com:81", "*.example.com"], "http://a.example.com"), "*.example.com");
        assert_eq!(found(&["10.1.0.0/16:81", "10.0.0.0/8"], "http://10.1.0.1"), "10.0.0.0/8");
    }

    fn shadows(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<HostPattern> = patterns.iter().map(|text| HostPattern::parse(text).unwrap()).collect();
        let all: Vec<(&HostPattern, &[Template])> = patterns.iter().map(|pattern| (pattern, &[][..])).collect();
        shadowed(&all).into_iter().map(|(pattern, _)| pattern.text.clone()).collect()
    }

    #[test]
    fn a_pattern_that_can_never_apply_is_found() {
        assert_eq!(shadows(&["a.example", "http://a.example", "https://a.example"]), ["a.example"]);
        assert_eq!(shadows(&["10.0.0.1/32", "10.0.0.1"]), ["10.0.0.1/32"]);
        assert_eq!(shadows(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"]), ["10.0.0.0/8"]);
        assert_eq!(shadows(&["::ffff:10.0.0.0/104", "10.0.0.0/9", "10.128.0.0/9"]), ["::ffff:10.0.0.0/104"]);
    }

    #[test]
    fn a_pattern_that_still_applies_somewhere_is_not() {
        assert!(shadows(&["a.example", "http://a.example"]).is_empty());
        assert!(shadows(&["a.example", "http://a.example:80", "https://a.example"]).is_empty());
        assert!(shadows(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9:443"]).is_empty());
        assert!(shadows(&["*", "*.example.com", "a.example.com", "10.0.0.0/8"]).is_empty());
    }
}
