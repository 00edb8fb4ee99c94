//! Hosts as name constraints (RFC 5280 §4.2.1.10), and what those permit.
//!
//! A constraint of a name covers the name and every name below it: there is none for one name alone. A constraint says
//! nothing of the other kinds of name, so an authority for names must forbid every address expressly, and one for addresses
//! every name and the other family (as the Baseline Requirements of the CA/Browser Forum have it, 7.1.2.5.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use x509_parser::extensions::{self, GeneralName};

use crate::config::settings::{HostPattern, HostTarget};

/// Names or addresses, as a constraint has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subtree {
    /// A name and every name below it; the empty one: every name.
    Dns(String),
    /// Addresses.
    Net(IpNet),
}

impl Subtree {
    fn is_dns(&self) -> bool {
        matches!(self, Self::Dns(_))
    }

    /// Whether everything in `other` is in this one.
    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dns(outer), Self::Dns(inner)) => {
                outer.is_empty()
                    || inner == outer
                    || inner.strip_suffix(outer.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Net(outer), Self::Net(inner)) => outer.contains(inner),
            _ => false,
        }
    }

    /// The names or addresses of one host in the normal form of a key.
    fn of_host(host: &str) -> Self {
        host.parse::<IpAddr>().map_or_else(|_| Self::Dns(host.to_owned()), |address| Self::Net(address.into()))
    }

    fn of_pattern(pattern: &HostPattern) -> Option<Self> {
        match &pattern.target {
            HostTarget::Exact(host) => Some(Self::of_host(host)),
            HostTarget::Suffix(suffix) => Some(Self::Dns(suffix.trim_start_matches('.').to_owned())),
            HostTarget::Net(network) => Some(Self::Net(network.trunc())),
            HostTarget::Any => None,
        }
    }

    fn to_rcgen(&self) -> GeneralSubtree {
        match self {
            Self::Dns(name) => GeneralSubtree::DnsName(name.clone()),
            Self::Net(IpNet::V4(network)) => {
                GeneralSubtree::IpAddress(CidrSubnet::V4(network.network().octets(), network.netmask().octets()))
            }
            Self::Net(IpNet::V6(network)) => {
                GeneralSubtree::IpAddress(CidrSubnet::V6(network.network().octets(), network.netmask().octets()))
            }
        }
    }

    /// `None` for other kinds of names, of which nothing follows for ours, and for what no constraint should look like.
    fn read(base: &GeneralName<'_>) -> Option<Self> {
        match base {
            GeneralName::DNSName(name) => Some(Self::Dns(name.trim_start_matches('.').to_ascii_lowercase())),
            GeneralName::IPAddress(bytes) => {
                if let Ok(both) = <[u8; 8]>::try_from(*bytes) {
                    let [a, b, c, d, mask @ ..] = both;
                    let network = Ipv4Net::with_netmask(Ipv4Addr::new(a, b, c, d), Ipv4Addr::from(mask)).ok()?;
                    return Some(Self::Net(network.trunc().into()));
                }
                let (address, mask) = bytes.split_first_chunk::<16>()?;
                let mask = Ipv6Addr::from(<[u8; 16]>::try_from(mask).ok()?);
                Some(Self::Net(Ipv6Net::with_netmask(Ipv6Addr::from(*address), mask).ok()?.trunc().into()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) if name.is_empty() => f.write_str("every name"),
            Self::Dns(name) => f.write_str(name),
            Self::Net(network) if network.prefix_len() == 0 && network.addr().is_ipv4() => {
                f.write_str("every IPv4 address")
            }
            Self::Net(network) if network.prefix_len() == 0 => f.write_str("every IPv6 address"),
            Self::Net(network) if network.prefix_len() == network.max_prefix_len() => write!(f, "{}", network.addr()),
            Self::Net(network) => write!(f, "{network}"),
        }
    }
}

/// The name constraints of an authority, as far as names and addresses go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    /// What it may sign for. Of a kind that is not here at all, everything that is not excluded.
    pub permitted: Vec<Subtree>,
    /// What it may not sign for.
    pub excluded: Vec<Subtree>,
}

impl Constraints {
    /// The narrowest ones that permit these hosts.
    pub(super) fn of_hosts(hosts: &[HostPattern]) -> Self {
        let mut all: Vec<Subtree> = hosts.iter().filter_map(Subtree::of_pattern).collect();
        all.sort();
        all.dedup();
        let is_inside_another = |one: &&Subtree| !all.iter().any(|other| other != *one && other.contains(one));
        let permitted: Vec<Subtree> = all.iter().filter(is_inside_another).cloned().collect();
        let all_of_a_kind = [
            Subtree::Dns(String::new()),
            Subtree::Net(Ipv4Net::default().into()),
            Subtree::Net(Ipv6Net::default().into()),
        ];
        let is_unused = |kind: &Subtree| !permitted.iter().any(|one| kind.contains(one));
        let excluded = all_of_a_kind.into_iter().filter(is_unused).collect();
        Self { permitted, excluded }
    }

    /// What a certificate says.
    pub(super) fn read(found: &extensions::NameConstraints<'_>) -> Self {
        let read = |subtrees: &Option<Vec<extensions::GeneralSubtree<'_>>>| {
            subtrees.iter().flatten().filter_map(|subtree| Subtree::read(&subtree.base)).collect()
        };
        Self { permitted: read(&found.permitted_subtrees), excluded: read(&found.excluded_subtrees) }
    }

    pub(super) fn to_rcgen(&self) -> NameConstraints {
        NameConstraints {
            permitted_subtrees: self.permitted.iter().map(Subtree::to_rcgen).collect(),
            excluded_subtrees: self.excluded.iter().map(Subtree::to_rcgen).collect(),
        }
    }

    /// Whether a certificate for a host, in the normal form of a key, is within them.
    pub fn permits(&self, host: &str) -> bool {
        self.permits_all_of(&Subtree::of_host(host))
    }

    /// Whether certificates for every host of a pattern are within them.
    pub fn permits_pattern(&self, pattern: &HostPattern) -> bool {
        Subtree::of_pattern(pattern).is_some_and(|subtree| self.permits_all_of(&subtree))
    }

    fn permits_all_of(&self, wanted: &Subtree) -> bool {
        let mut same_kind = self.permitted.iter().filter(|one| one.is_dns() == wanted.is_dns()).peekable();
        let permitted = same_kind.peek().is_none() || same_kind.any(|one| one.contains(wanted));
        permitted && !self.excluded.iter().any(|one| one.contains(wanted) || wanted.contains(one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> Vec<HostPattern> {
        crate::config::parse(&format!("[intercept]\nhosts = {texts:?}")).unwrap().settings.intercept.hosts
    }

    fn texts(subtrees: &[Subtree]) -> Vec<String> {
        subtrees.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn hosts_become_the_fewest_constraints_and_the_other_kind_is_forbidden() {
        let names = Constraints::of_hosts(&hosts(&["a.example", "*.example.com", "b.example.com:8443", "a.example"]));
        assert_eq!(texts(&names.permitted), ["a.example", "example.com"]);
        assert_eq!(texts(&names.excluded), ["every IPv4 address", "every IPv6 address"]);
        let addresses = Constraints::of_hosts(&hosts(&["10.1.2.3", "10.1.0.0/16"]));
        assert_eq!(texts(&addresses.permitted), ["10.1.0.0/16"]);
        assert_eq!(texts(&addresses.excluded), ["every name", "every IPv6 address"]);
        let all = Constraints::of_hosts(&hosts(&["2001:db8::1", "10.1.2.3", "a.example"]));
        assert_eq!(texts(&all.permitted), ["a.example", "10.1.2.3", "2001:db8::1"]);
        assert!(all.excluded.is_empty());
    }

    #[test]
    fn only_hosts_within_are_permitted() {
        let names = Constraints::of_hosts(&hosts(&["*.example.com"]));
        for (host, wanted) in [
            ("a.example.com", true),
            ("example.com", true),
            ("notexample.com", false),
            ("com", false),
            ("a.example.com.evil", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(names.permits(host), wanted, "{host}");
        }
        let addresses = Constraints::of_hosts(&hosts(&["10.1.0.0/16"]));
        for (host, wanted) in
            [("10.1.2.3", true), ("10.2.0.1", false), ("::ffff:10.1.2.3", false), ("a.example", false)]
        {
            assert_eq!(addresses.permits(host), wanted, "{host}");
        }
    }

    #[test]
    fn a_pattern_must_be_permitted_as_a_whole() {
        let narrow = Constraints::of_hosts(&hosts(&["a.example.com", "10.1.0.0/16"]));
        for (pattern, wanted) in [
            ("a.example.com:8443", true),
            ("*.a.example.com", true),
            ("*.example.com", false),
            ("10.1.128.0/17", true),
            ("10.0.0.0/8", false),
            ("fd00::1", false),
        ] {
            assert_eq!(narrow.permits_pattern(&hosts(&[pattern])[0]), wanted, "{pattern}");
        }
        let excluded = vec![Subtree::Dns("secret.example.com".to_owned())];
        let holed = Constraints { permitted: vec![Subtree::Dns("example.com".to_owned())], excluded };
        assert!(holed.permits("a.example.com") && !holed.permits("x.secret.example.com"));
        assert!(!holed.permits_pattern(&hosts(&["*.example.com"])[0]), "it has a hole");
        assert!(holed.permits("127.0.0.1"), "nothing is said of addresses");
    }
}
