//! Where we may go. Whoever can reach the proxy chooses the destination, and a name may resolve to anything, so a
//! destination is judged twice: by name and port before a look-up, and by every address the name resolves to. The caller
//! dials only addresses that came out of [`Egress::check_addresses`]; there is no second look-up to change the answer.
//!
//! Our own listeners, link-local and metadata addresses, and what is no unicast address are refused whatever the settings
//! say, in every form in which IPv6 can carry an IPv4 address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::io::Errno;

use crate::config::settings::{self, EgressRule, EgressTarget};
use crate::proxy::error::{ErrorKind, ProxyError};

/// The rules on destinations.
#[derive(Clone, Debug)]
pub struct Egress {
    settings: settings::Egress,
    own: Vec<SocketAddr>,
}

impl Egress {
    /// The rules of `settings`. `own_listeners` are all addresses this process listens on, with their real ports.
    pub fn new(settings: &settings::Egress, own_listeners: Vec<SocketAddr>) -> Self {
        let own = own_listeners.into_iter().map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())).collect();
        Self { settings: settings.clone(), own }
    }

    /// Whether CONNECT may name `port`.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationPort`].
    pub fn check_connect_port(&self, port: u16) -> Result<(), ProxyError> {
        if self.settings.connect_ports.iter().any(|&(low, high)| (low..=high).contains(&port)) {
            return Ok(());
        }
        Err(ProxyError::new(ErrorKind::DestinationPort, format!("CONNECT to port {port} is not in `connect_ports`")))
    }

    /// What can be said before a look-up: a name in `deny`, a name that no rule of `allow` can let through, an address
    /// literal that may not be reached.
    ///
    /// A rule on a name is about the name as the client wrote it: another name for the same addresses is another name. What
    /// must not be reached is denied by address.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationDenied`] or [`ErrorKind::OwnListener`].
    pub fn check_name(&self, host: &str, port: u16) -> Result<(), ProxyError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.check_addresses(host, port, &[ip]).map(drop);
        }
        if self.settings.deny.iter().any(|rule| names(rule, host, port)) {
            return Err(denied("the name is in `deny`"));
        }
        let possible = |rule: &EgressRule| {
            names(rule, host, port) || (matches!(rule.target, EgressTarget::Net(_)) && port_fits(rule, port))
        };
        if !self.settings.allow.is_empty() && !self.settings.allow.iter().any(possible) {
            return Err(denied("the name is not in `allow`"));
        }
        Ok(())
    }

    /// What can be said of a host that a parent proxy looks up. A name that only its address could let through is refused,
    /// since nobody here sees the address.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationDenied`] or [`ErrorKind::OwnListener`].
    pub fn check_unresolved(&self, host: &str, port: u16) -> Result<(), ProxyError> {
        self.check_name(host, port)?;
        if host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let is_here = host == "localhost" || host.ends_with(".localhost");
        if is_here
            && [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].iter().any(|ip| self.is_own(*ip, port))
        {
            return Err(own_listener());
        }
        if !self.settings.allow.is_empty() && !self.settings.allow.iter().any(|rule| names(rule, host, port)) {
            return Err(denied("a name that a parent proxy looks up must stand in `allow` by itself"));
        }
        Ok(())
    }

    /// The addresses of a parent proxy that may be dialled. They are the operator's word: all but our own listeners.
    ///
    /// # Errors
    /// [`ErrorKind::OwnListener`] when none is left.
    pub fn check_parent(&self, port: u16, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, ProxyError> {
        let foreign = |ip: &&IpAddr| !Forms::of(**ip).any(|ip| self.is_own(ip, port));
        let allowed: Vec<_> = addresses.iter().filter(foreign).map(|ip| (ip.to_canonical(), port).into()).collect();
        if allowed.is_empty() && !addresses.is_empty() { Err(own_listener()) } else { Ok(allowed) }
    }

    /// The addresses of `host` that may be dialled, with the port: of an answer that mixes allowed and forbidden addresses the
    /// allowed ones. A name with one of our own listeners among its addresses is a name of ours, and refused whole: what
    /// else it leads to, such as `::1` of `localhost`, is not what was meant. Expects [`Egress::check_name`] to have passed.
    ///
    /// # Errors
    /// [`ErrorKind::OwnListener`]; [`ErrorKind::DestinationDenied`] when no address is left.
    pub fn check_addresses(&self, host: &str, port: u16, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, ProxyError> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut refusal: Option<ProxyError> = None;
        for &address in addresses {
            match self.check_address(host, port, address) {
                Ok(()) => allowed.push(SocketAddr::new(address.to_canonical(), port)),
                Err(error) if error.kind() == ErrorKind::OwnListener => return Err(error),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        if allowed.is_empty() {
            return Err(refusal.unwrap_or_else(|| denied("the name has no address")));
        }
        Ok(allowed)
    }

    fn check_address(&self, host: &str, port: u16, address: IpAddr) -> Result<(), ProxyError> {
        let forms = Forms::of(address);
        if forms.any(|ip| self.is_own(ip, port)) {
            return Err(own_listener());
        }
        if let Some(why) = forms.iter().find_map(never) {
            return Err(denied(why));
        }
        let matches = |rule: &EgressRule, ip: IpAddr| match &rule.target {
            EgressTarget::Net(net) => port_fits(rule, port) && net.contains(&ip),
            EgressTarget::Host(_) | EgressTarget::Suffix(_) => names(rule, host, port),
        };
        if self.settings.deny.iter().any(|rule| forms.any(|ip| matches(rule, ip))) {
            return Err(denied("the destination is in `deny`"));
        }
        let ip = address.to_canonical();
        if !self.settings.allow.is_empty() && !self.settings.allow.iter().any(|rule| matches(rule, ip)) {
            return Err(denied("the destination is not in `allow`"));
        }
        if self.settings.allow_private || !forms.any(is_private) {
            return Ok(());
        }
        // A rule about everything (`0.0.0.0/0`) says nothing about private addresses; one inside a private block, or for
        // this name, does.
        let explicit = |rule: &EgressRule| match &rule.target {
            EgressTarget::Net(net) => matches(rule, ip) && lies_in_private(net),
            EgressTarget::Host(_) | EgressTarget::Suffix(_) => matches(rule, ip),
        };
        if self.settings.allow.iter().any(explicit) {
            return Ok(());
        }
        Err(denied("the address is private, and private addresses are denied"))
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.iter().filter(|own| own.port() == port).any(|own| match own.ip() {
            // `[::]` takes IPv4 as well unless the system says otherwise; being careful costs nothing here.
            any if any.is_unspecified() => (any.is_ipv6() || ip.is_ipv4()) && is_local(ip),
            own => own == ip,
        })
    }
}

fn own_listener() -> ProxyError {
    ProxyError::new(ErrorKind::OwnListener, "the destination is one of our own listeners")
}

fn denied(why: &'static str) -> ProxyError {
    ProxyError::new(ErrorKind::DestinationDenied, why)
}

fn port_fits(rule: &EgressRule, port: u16) -> bool {
    rule.port.is_none_or(|only| only == port)
}

/// Whether `rule` names this host (not its addresses).
fn names(rule: &EgressRule, host: &str, port: u16) -> bool {
    port_fits(rule, port)
        && match &rule.target {
            EgressTarget::Host(name) => name.eq_ignore_ascii_case(host),
            EgressTarget::Suffix(suffix) => has_suffix(host, suffix),
            EgressTarget::Net(_) => false,
        }
}

fn has_suffix(host: &str, suffix: &str) -> bool {
    let split = host.len().checked_sub(suffix.len());
    split.is_some_and(|at| at > 0 && host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix)))
}

/// Whether this machine has the address. Only a local address can be bound to; nothing is sent. Asked only when the port is
/// one of ours, and not remembered, since addresses come and go. An error that does not say so, such as having no descriptor
/// left, is no proof that the address is another machine's.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || may_be_local(UdpSocket::bind((ip, 0)))
}

fn may_be_local<T>(bound: io::Result<T>) -> bool {
    match bound {
        Ok(_) => true,
        Err(error) => !matches!(Errno::from_io_error(&error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)),
    }
}

/// Why an address is refused whatever the settings say.
fn never(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("the address is unspecified");
    }
    if ip.is_multicast() {
        return Some("the address is multicast");
    }
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() => Some("the address is link-local"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the address is broadcast"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("the address is link-local"),
        IpAddr::V6(ip) if METADATA_V6.contains(&ip) => Some("the address is a metadata service"),
        _ => None,
    }
}

/// Metadata services over IPv6: of EC2, of the pods of EKS (it gives out credentials), of Google Cloud. Over IPv4 they are
/// link-local.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
];

/// Blocks that are no public IPv4 (IANA special-purpose registry).
const PRIVATE_V4: [Ipv4Net; 14] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// Blocks that are no public IPv6: loopback, unique local, site-local, discard, benchmarking, documentation, SRv6.
const PRIVATE_V6: [Ipv6Net; 8] = [
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0x0100, 0, 0, 0, 0, 0, 0, 0], 64),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = s;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Whether an address is not public.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => PRIVATE_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => PRIVATE_V6.iter().any(|net| net.contains(&ip)),
    }
}

/// Whether a whole block is not public.
fn lies_in_private(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => PRIVATE_V4.iter().any(|block| block.contains(net)),
        IpNet::V6(net) => PRIVATE_V6.iter().any(|block| block.contains(net)),
    }
}

/// An address, and the IPv4 addresses it may lead to.
struct Forms {
    list: [Option<IpAddr>; 5],
}

impl Forms {
    fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let mut list = [Some(address), None, None, None, None];
        if let IpAddr::V6(ip) = address {
            for (slot, inner) in list.iter_mut().skip(1).zip(embedded(ip)) {
                *slot = inner.map(IpAddr::V4);
            }
        }
        Self { list }
    }

    fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.list.iter().copied().flatten()
    }

    fn any(&self, check: impl FnMut(IpAddr) -> bool) -> bool {
        self.iter().any(check)
    }
}

/// The IPv4 addresses inside an IPv6 address: IPv4-compatible and IPv4-translated (RFC 4291, RFC 2765), NAT64 (RFC 6052,
/// RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380: the server, and the client with its bits turned).
fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let o = ip.octets();
    let [a, b, c, d, e, f, _, _] = ip.segments();
    let last = Ipv4Addr::new(o[12], o[13], o[14], o[15]);
    match (a, b, c) {
        // `::` and `::1` are themselves.
        (0, 0, 0) if d == 0 && e == 0 && f == 0 && u32::from(last) > 1 => [Some(last), None, None, None],
        (0, 0, 0) if d == 0 && e == 0xffff && f == 0 => [Some(last), None, None, None],
        (0x0064, 0xff9b, 0) if d == 0 && e == 0 && f == 0 => [Some(last), None, None, None],
        (0x0064, 0xff9b, 1) => nat64_local(o),
        (0x2002, _, _) => [Some(Ipv4Addr::new(o[2], o[3], o[4], o[5])), None, None, None],
        (0x2001, 0, _) => {
            let server = Ipv4Addr::new(o[4], o[5], o[6], o[7]);
            let client = Ipv4Addr::new(!o[12], !o[13], !o[14], !o[15]);
            [Some(server), Some(client), None, None]
        }
        _ => [None; 4],
    }
}

/// 64:ff9b:1::/48 may be used with every prefix length of RFC 6052 §2.2 from 48 on, and the length is not in the address, so
/// that each reading counts. The RFC has zeros behind the IPv4 address, but a translator need not look: with something else
/// there a reading counts all the same, unless nothing could be reached at it.
fn nat64_local(o: [u8; 16]) -> [Option<Ipv4Addr>; 4] {
    let zero_from = |at: usize| o.iter().skip(at).all(|&byte| byte == 0);
    let empty = zero_from(6);
    let reading = |address: Ipv4Addr, rest: bool| {
        let reachable = (1..=223).contains(&address.octets()[0]);
        (reachable || (rest && o[8] == 0 && !address.is_unspecified())).then_some(address)
    };
    [
        reading(Ipv4Addr::new(o[6], o[7], o[9], o[10]), zero_from(11)),
        reading(Ipv4Addr::new(o[7], o[9], o[10], o[11]), zero_from(12)),
        reading(Ipv4Addr::new(o[9], o[10], o[11], o[12]), zero_from(13)),
        Some(Ipv4Addr::new(o[12], o[13], o[14], o[15])).filter(|last| empty || !last.is_unspecified()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(allow_private: bool) -> settings::Egress {
        settings::Egress {
            allow_private,
            allow: Vec::new(),
            deny: Vec::new(),
            connect_ports: vec![(443, 443), (1024, 65535)],
        }
    }

    fn rule(text: &str) -> EgressRule {
        let (text, port) = match text.split_once('@') {
            Some((text, port)) => (text, Some(port.parse().unwrap())),
            None => (text, None),
        };
        let target = match text.parse::<IpNet>() {
            Ok(net) => EgressTarget::Net(net),
            Err(_) => match text.strip_prefix('*') {
                Some(suffix) => EgressTarget::Suffix(suffix.to_owned()),
                None => EgressTarget::Host(text.to_owned()),
            },
        };
        EgressRule { target, port }
    }

    fn with(allow_private: bool, allow: &[&str], deny: &[&str]) -> Egress {
        let mut settings = settings(allow_private);
        settings.allow = allow.iter().map(|text| rule(text)).collect();
        settings.deny = deny.iter().map(|text| rule(text)).collect();
        Egress::new(&settings, Vec::new())
    }

    fn verdict(egress: &Egress, host: &str, port: u16, addresses: &[&str]) -> Result<Vec<String>, ErrorKind> {
        egress.check_name(host, port).map_err(|e| e.kind())?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let allowed = egress.check_addresses(host, port, &addresses).map_err(|e| e.kind())?;
        Ok(allowed.iter().map(|a| a.ip().to_string()).collect())
    }

    fn address(egress: &Egress, text: &str) -> Result<(), ErrorKind> {
        verdict(egress, "peer.example", 443, &[text]).map(drop)
    }

    const DENIED: ErrorKind = ErrorKind::DestinationDenied;

    #[test]
    fn some_addresses_are_never_reached_in_any_form() {
        let everything = with(true, &["0.0.0.0/0", "::/0", "169.254.0.0/16", "fe80::/10", "peer.example"], &[]);
        for text in [
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1::",
            "64:ff9b:1:abcd:0:1:169.254.169.254",
            // 169.254.169.254 in the layouts of /48, /56 and /64
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            // the same, with something behind it or in the byte that should be zero
            "64:ff9b:1:a9fe:a9:fe00:0:1",
            "64:ff9b:1:a9fe:1a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe:0:1",
            "64:ff9b:1:0:a9:fea9:fe00:1",
            "2002:a9fe:a9fe::1",
            "2002::1",
            "2002:e000:1::",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "2001:0:a9fe:a9fe:8000:63bf:3fff:fdd2",
        ] {
            assert_eq!(address(&everything, text), Err(DENIED), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_reached_in_any_form() {
        let strict = with(false, &[], &[]);
        for text in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "169.253.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:fffe::8.8.8.8",
            "64:ff9b:1:1::8.8.8.8",
            "64:ff9b:1:808:8:800::",
            "2002:808:808::1",
            "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(address(&strict, text), Ok(()), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_reached_only_when_allowed() {
        let strict = with(false, &[], &[]);
        let open = with(true, &[], &[]);
        for text in [
            "127.0.0.1",
            "127.255.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "0.1.2.3",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "240.0.0.1",
            "::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "2002:7f00:1::",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
        ] {
            assert_eq!(address(&strict, text), Err(DENIED), "{text}");
            assert_eq!(address(&open, text), Ok(()), "{text}");
        }
    }

    #[test]
    fn an_explicit_rule_lifts_the_private_denial_and_a_general_one_does_not() {
        let block = with(false, &["10.1.0.0/16", "0.0.0.0/0"], &[]);
        assert_eq!(address(&block, "10.1.2.3"), Ok(()));
        assert_eq!(address(&block, "10.2.0.1"), Err(DENIED));
        assert_eq!(address(&block, "1.1.1.1"), Ok(()));
        for name in ["peer.example", "*.example"] {
            assert_eq!(address(&with(false, &[name], &[]), "10.2.0.1"), Ok(()), "{name}");
        }
        assert_eq!(address(&with(false, &["peer.example@80"], &[]), "10.2.0.1"), Err(DENIED));
        let literal = with(false, &["10.1.0.0/16"], &[]);
        assert_eq!(literal.check_name("10.1.0.1", 80).map_err(|e| e.kind()), Ok(()));
        assert_eq!(literal.check_name("10.2.0.1", 80).map_err(|e| e.kind()), Err(DENIED));
    }

    #[test]
    fn allow_means_nothing_else() {
        let named = with(true, &["peer.example", "*.corp.example"], &[]);
        assert_eq!(verdict(&named, "peer.example", 80, &["1.1.1.1"]), Ok(vec!["1.1.1.1".into()]));
        assert_eq!(verdict(&named, "a.b.corp.example", 80, &["1.1.1.1"]), Ok(vec!["1.1.1.1".into()]));
        for host in ["corp.example", "xcorp.example", "peer.example.org", "other.example", "1.1.1.1"] {
            assert_eq!(named.check_name(host, 80).map_err(|e| e.kind()), Err(DENIED), "{host}");
        }
        let net = with(true, &["1.1.1.0/24"], &[]);
        assert_eq!(verdict(&net, "any.example", 80, &["1.1.1.9", "1.1.2.9"]), Ok(vec!["1.1.1.9".into()]));
        assert_eq!(verdict(&net, "any.example", 80, &["1.1.2.9"]), Err(DENIED));
        let port = with(true, &["1.1.1.0/24@443"], &[]);
        assert_eq!(port.check_name("any.example", 80).map_err(|e| e.kind()), Err(DENIED));
        assert_eq!(verdict(&port, "any.example", 443, &["1.1.1.9"]), Ok(vec!["1.1.1.9".into()]));
    }

    #[test]
    fn deny_wins() {
        let egress =
            with(true, &["*.example", "1.1.0.0/16"], &["bad.example", "*.worse.example", "1.1.1.0/24", "0.0.0.0/0@25"]);
        for host in ["bad.example", "BAD.example", "x.worse.example"] {
            assert_eq!(egress.check_name(host, 80).map_err(|e| e.kind()), Err(DENIED), "{host}");
        }
        assert_eq!(verdict(&egress, "good.example", 80, &["1.1.1.1"]), Err(DENIED));
        assert_eq!(verdict(&egress, "good.example", 80, &["64:ff9b::1.1.1.1"]), Err(DENIED));
        assert_eq!(verdict(&egress, "good.example", 80, &["1.1.2.1"]), Ok(vec!["1.1.2.1".into()]));
        assert_eq!(verdict(&egress, "good.example", 25, &["1.1.2.1"]), Err(DENIED));
    }

    #[test]
    fn mixed_answers_keep_only_what_is_allowed() {
        let strict = with(false, &[], &[]);
        let mixed = ["10.0.0.1", "1.1.1.1", "169.254.169.254", "::1", "2606:4700::1111"];
        assert_eq!(verdict(&strict, "peer.example", 443, &mixed), Ok(vec!["1.1.1.1".into(), "2606:4700::1111".into()]));
        assert_eq!(verdict(&strict, "peer.example", 443, &["10.0.0.1", "::1"]), Err(DENIED));
        assert_eq!(verdict(&strict, "peer.example", 443, &[]), Err(DENIED));
    }

    #[test]
    fn own_listeners_are_never_destinations() {
        let own = |text: &str| Egress::new(&settings(true), vec![text.parse().unwrap()]);
        let named = own("127.0.0.1:7080");
        for host in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"] {
            assert_eq!(named.check_name(host, 7080).map_err(|e| e.kind()), Err(ErrorKind::OwnListener), "{host}");
        }
        assert!(named.check_name("127.0.0.1", 7081).is_ok());
        assert!(named.check_name("127.0.0.2", 7080).is_ok());
        assert_eq!(
            verdict(&named, "me.example", 7080, &["169.254.0.1", "127.0.0.1", "0.0.0.0"]),
            Err(ErrorKind::OwnListener)
        );
        for mixed in [["127.0.0.1", "1.1.1.1"], ["::1", "127.0.0.1"]] {
            assert_eq!(verdict(&named, "me.example", 7080, &mixed), Err(ErrorKind::OwnListener), "{mixed:?}");
        }
        assert_eq!(own("[::ffff:127.0.0.1]:7080").check_name("127.0.0.1", 7080).map_err(|e| e.kind()), {
            Err(ErrorKind::OwnListener)
        });
    }

    #[test]
    fn a_wildcard_listener_is_every_address_of_this_machine() {
        let own = |text: &str| Egress::new(&settings(true), vec![text.parse().unwrap()]);
        for (listener, host) in [
            ("0.0.0.0:7080", "127.0.0.1"),
            ("0.0.0.0:7080", "127.9.9.9"),
            ("[::]:7080", "127.0.0.1"),
            ("[::]:7080", "::1"),
        ] {
            let verdict = own(listener).check_name(host, 7080).map_err(|e| e.kind());
            assert_eq!(verdict, Err(ErrorKind::OwnListener), "{listener} {host}");
        }
        // This machine's own address towards the world, if it has one.
        let towards = UdpSocket::bind("0.0.0.0:0").unwrap();
        if towards.connect("192.0.2.1:9").is_ok() {
            let ip = towards.local_addr().unwrap().ip();
            let verdict = own("0.0.0.0:7080").check_name(&ip.to_string(), 7080).map_err(|e| e.kind());
            assert_eq!(verdict, Err(ErrorKind::OwnListener), "{ip}");
        }
        assert!(own("0.0.0.0:7080").check_name("1.1.1.1", 7080).is_ok());
        assert!(own("0.0.0.0:7080").check_name("::1", 7080).is_ok());
        assert!(own("0.0.0.0:7080").check_name("127.0.0.1", 7081).is_ok());
    }

    #[test]
    fn only_a_clear_no_makes_an_address_foreign() {
        assert!(may_be_local(Ok(())));
        for (error, local) in [(Errno::ADDRNOTAVAIL, false), (Errno::AFNOSUPPORT, false), (Errno::MFILE, true)] {
            assert_eq!(may_be_local::<()>(Err(error.into())), local, "{error}");
        }
    }

    #[test]
    fn connect_ports_are_ranges() {
        let egress = with(true, &[], &[]);
        for port in [443, 1024, 65535] {
            assert!(egress.check_connect_port(port).is_ok(), "{port}");
        }
        for port in [1, 25, 80, 442, 444, 1023] {
            assert_eq!(
                egress.check_connect_port(port).map_err(|e| e.kind()),
                Err(ErrorKind::DestinationPort),
                "{port}"
            );
        }
    }
}
