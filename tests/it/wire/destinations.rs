//! Where a client can send us: every spelling of an address, in absolute-form and by CONNECT, in the default and with
//! `private = "deny"`; our own listeners by every name; rules of `[egress]`.
//!
//! What needs a DNS server, other addresses than loopback or a machine with interfaces is in `tests/destinations.py`, which
//! brings a network of its own.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::Command;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, Reply, answer, limited, message, ok};
use crate::support::sidecar::Holdoff;

const STRICT: &str = "[egress]\nprivate = \"deny\"\n";
const BOTH: [&str; 2] = ["", STRICT];

/// The request for a host in both forms. `Host` names another one: it must not matter (RFC 9112 §3.2.2).
fn forms(authority: &str) -> [(&'static str, String); 2] {
    [
        ("GET", format!("GET http://{authority}/ HTTP/1.1\r\nHost: peer.example\r\n\r\n")),
        ("CONNECT", format!("CONNECT {authority} HTTP/1.1\r\nHost: peer.example\r\n\r\n")),
    ]
}

/// What the client is told in both forms, each on a connection of its own.
async fn ask(holdoff: &Holdoff, authority: &str) -> [(Answer, Client); 2] {
    let mut answers = Vec::new();
    for (method, request) in forms(authority) {
        let mut client = holdoff.client().await;
        client.send(request).await;
        answers.push((client.answer(method).await, client));
    }
    answers.try_into().unwrap_or_else(|_| panic!("expected two answers"))
}

fn is(found: &Answer, status: u16, kind: &str, what: &str) {
    assert_eq!(found.status, status, "{what}: {}\n{}", found.head, found.text());
    assert_eq!(found.json()["kind"], kind, "{what}: {}", found.text());
    assert_eq!(found.json()["fault"], "client", "{what}: {}", found.text());
}

/// Both forms are refused as to where they lead. The connection goes on to serve `next`, except behind a refused CONNECT:
/// what follows that may be meant for the tunnel.
async fn is_refused(holdoff: &Holdoff, authority: &str, status: u16, kind: &str, next: Option<&Origin>) {
    let [(direct, mut client), (tunnel, mut other)] = ask(holdoff, authority).await;
    is(&direct, status, kind, authority);
    is(&tunnel, status, kind, authority);
    if let Some(next) = next {
        assert_eq!(client.get(&next.url()).await.status, 200, "{authority}: the next request");
        if tunnel.fields("connection") == ["close"] {
            assert!(other.rest().await.is_empty(), "{authority}");
        } else {
            assert_eq!(other.get(&next.url()).await.status, 200, "{authority}: the next request");
        }
    }
}

async fn is_denied(holdoff: &Holdoff, authority: &str) {
    is_refused(holdoff, authority, 403, "destination_denied", None).await;
}

/// Both forms reach `origin`.
async fn is_served(holdoff: &Holdoff, authority: &str, origin: &Origin) {
    let before = origin.count();
    let [(direct, _), (tunnel, mut client)] = ask(holdoff, authority).await;
    assert_eq!((direct.status, direct.text()), (200, "fine"), "{authority}: {}", direct.head);
    assert_eq!(tunnel.status, 200, "{authority}: {}", tunnel.text());
    client.send("GET / HTTP/1.1\r\nHost: peer.example\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.text(), "fine", "{authority}");
    assert_eq!(origin.count(), before + 2, "{authority}");
}

/// Both forms of each host are no request at all, nothing is dialled, and the next client is served.
async fn are_no_hosts(hosts: &[&str]) {
    for toml in BOTH {
        let origin = Origin::start(|_| ok("fine")).await;
        let port = origin.address().port();
        let holdoff = Holdoff::start(toml).await;
        for host in hosts {
            let authority =
                if host.contains("PORT") { host.replace("PORT", &port.to_string()) } else { format!("{host}:{port}") };
            for (found, _) in ask(&holdoff, &authority).await {
                is(&found, 400, "bad_request", &format!("`{authority}`"));
            }
        }
        assert_eq!(origin.connections(), 0, "no spelling reached 127.0.0.1");
        let next = holdoff.get(&origin.url()).await;
        assert_eq!(next.status, if toml.is_empty() { 200 } else { 403 });
    }
}

#[tokio::test]
async fn trap_ipv4_in_other_forms_than_the_dotted_quad() {
    are_no_hosts(&[
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "017700000001",
        "0177.0.0.1",
        "0177.0.0.01",
        "0x7f.0.0.1",
        "0x7f.0x0.0x0.0x1",
        "127.0.0.0x1",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0177.1",
        "127.0x1",
        "127.1.",
        "2130706433.",
        "127.000.000.001",
        "127.0.0.01",
        "127.0.0.257",
        "127.0.0.1.1",
        "4294967296",
        "0",
        "0x",
        "peer.0x",
        "peer.1",
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_host_is_refused_in_both_forms() {
    let long_label = format!("{}.localhost", "a".repeat(64));
    let long_name = format!("{}localhost", "a.".repeat(130));
    are_no_hosts(&[
        // who asks is not where to go
        "user@127.0.0.1",
        "user:word@127.0.0.1",
        "@127.0.0.1",
        "127.0.0.1:PORT@peer.example:80",
        "peer.example@127.0.0.1",
        // percent-encoding
        "%31%32%37.0.0.1",
        "127%2e0.0.1",
        "localhos%74",
        "127.0.0.1%20",
        "127.0.0.1%00",
        // zones, and what only brackets make an address
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1%25lo]",
        "[::1%251]",
        "[::ffff:127.0.0.1%25lo]",
        "[127.0.0.1]",
        "[localhost]",
        "[v1.7f000001]",
        "[::ffff:127.1]",
        "[::ffff:0177.0.0.1]",
        "[::1",
        "::1",
        "[[::1]]",
        "[::1]x",
        // labels
        "",
        ".",
        "..",
        ".localhost",
        "localhost..",
        "127.0.0.1..",
        "127..0.0.1",
        "peer..example",
        &long_label,
        &long_name,
        // beyond ASCII: what others map to `127.0.0.1` or `localhost` (UTS 46)
        "１２７.0.0.1",
        "１２７.０.０.１",
        "127．0．0．1",
        "127。0。0。1",
        "127｡0｡0｡1",
        "１２７。0.0．1",
        "ⓛocalhost",
        "localhoſt",
        "local\u{ad}host",
        "local\u{200b}host",
        "straße.example",
        "bücher.example",
        "xn--strae-oqa.bücher.example",
        // ports
        "localhost:0",
        "localhost:+PORT",
        "localhost:PORT:PORT",
        "localhost:65536",
        // other separators
        "127.0.0.1\\peer.example",
        "127.0.0.1;peer.example",
        "127.0.0.1,peer.example",
        "peer.example\t127.0.0.1",
    ])
    .await;
}

#[tokio::test]
async fn spellings_of_loopback_are_served_by_default_and_denied_when_private_is() {
    let origin = Origin::start(|_| ok("fine")).await;
    let port = origin.address().port();
    let (open, strict) = (Holdoff::start("").await, Holdoff::start(STRICT).await);
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "localhost",
        "LocalHost.",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
    ] {
        let authority = format!("{host}:{port}");
        is_served(&open, &authority, &origin).await;
        is_denied(&strict, &authority).await;
    }
}

#[tokio::test]
async fn a_mapped_address_shares_the_cooldown_of_the_address_inside() {
    let origin = Origin::start(|_| limited("60")).await;
    let port = origin.address().port();
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&format!("http://[::ffff:127.0.0.1]:{port}/")).await.status, 429);
    for host in ["127.0.0.1", "127.0.0.1.", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]"] {
        let answer = holdoff.get(&format!("http://{host}:{port}/")).await;
        assert!(answer.field("holdoff").starts_with("short-circuit"), "{host}: {}", answer.head);
    }
    assert_eq!(origin.count(), 1);
}

/// Never reached, whatever the settings say.
const NEVER: &[&str] = &[
    // unspecified, link-local and metadata, multicast, broadcast
    "0.0.0.0",
    "0.0.0.0.",
    "[::]",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.169.254.",
    "169.254.170.2",
    "[fe80::1]",
    "[febf:ffff::1]",
    "[fd00:ec2::254]",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "224.0.0.1",
    "239.255.255.255",
    "[ff02::1]",
    "255.255.255.255",
    // IPv4-mapped
    "[::ffff:0.0.0.0]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:224.0.0.1]",
    "[::ffff:255.255.255.255]",
    // IPv4-compatible and IPv4-translated
    "[::169.254.169.254]",
    "[::ffff:0:169.254.169.254]",
    "[::ffff:0:0.0.0.0]",
    // NAT64
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::]",
    "[64:ff9b::255.255.255.255]",
    "[64:ff9b::e000:1]",
    "[64:ff9b:1::169.254.169.254]",
    "[64:ff9b:1:abcd::169.254.169.254]",
    "[64:ff9b:1:a9fe:a9:fe00::]",
    "[64:ff9b:1:a9fe:a9:fe00:0:1]",
    "[64:ff9b:1:a9:fe:a9fe::]",
    "[64:ff9b:1:0:a9:fea9:fe00:0]",
    // 6to4
    "[2002:a9fe:a9fe::]",
    "[2002:a9fe:a9fe:1::1]",
    "[2002:0:0::1]",
    "[2002:ffff:ffff::1]",
    "[2002:e000:1::]",
    // Teredo: server and client
    "[2001:0:a9fe:a9fe:8000:63bf:3fff:fdd2]",
    "[2001:0:4136:e378:8000:63bf:5601:5601]",
    "[2001:0:4136:e378:8000:63bf::]",
];

#[tokio::test]
async fn some_addresses_are_never_reached_in_any_form() {
    let origin = Origin::start(|_| ok("fine")).await;
    let allowed = "[egress]\nprivate = \"allow\"\nallow = [\"0.0.0.0/0\", \"::/0\", \"169.254.0.0/16\", \"169.254.169.254\", \
                   \"fe80::/10\", \"::ffff:169.254.0.0/112\"]\n";
    for (toml, next) in [("", Some(&origin)), (STRICT, None), (allowed, Some(&origin))] {
        let holdoff = Holdoff::start(toml).await;
        for host in NEVER {
            is_refused(&holdoff, &format!("{host}:8080"), 403, "destination_denied", next).await;
        }
        // Without a port it is port 80.
        is(&holdoff.get("http://169.254.169.254/latest/meta-data/").await, 403, "destination_denied", "port 80");
    }
}

#[tokio::test]
async fn private_addresses_are_denied_when_the_settings_say_so() {
    let holdoff = Holdoff::start(STRICT).await;
    for host in [
        "0.1.2.3",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "[::1]",
        "[fc00::1]",
        "[fdff:ffff::1]",
        "[::ffff:10.1.2.3]",
        "[::ffff:127.0.0.1]",
        "[::10.1.2.3]",
        "[::127.0.0.1]",
        "[::ffff:0:10.1.2.3]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::10.1.2.3]",
        "[64:ff9b:1::192.168.1.1]",
        "[64:ff9b:1:a01:2:300:0:1]",
        "[2002:7f00:1::]",
        "[2002:a01:203::1]",
        "[2002:6440:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[2001:0:7f00:1:8000:63bf:3fff:fdd2]",
        "[2001::1]",
    ] {
        is_denied(&holdoff, &format!("{host}:8080")).await;
    }
}

/// A sidecar with a listener of each kind, and the ports of them all.
async fn with_every_listener(proxy: &str, metrics: &str, more: &str) -> (Holdoff, [u16; 4]) {
    let holdoff = Holdoff::start(&format!(
        "[listen]\naddress = [\"{proxy}:0\"]\nclients = [\"127.0.0.0/8\"]\n[metrics]\naddress = [\"{metrics}:0\"]\n\
         [[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"http://peer.example\"\n{more}"
    ))
    .await;
    let ports =
        [holdoff.proxy().port(), holdoff.admin().port(), holdoff.reverse(0).port(), holdoff.metrics_address().port()];
    (holdoff, ports)
}

#[tokio::test]
async fn trap_own_address_by_name() {
    let origin = Origin::start(|_| ok("fine")).await;
    for (toml, next) in [("", Some(&origin)), (STRICT, None)] {
        let (holdoff, ports) = with_every_listener("127.0.0.1", "127.0.0.1", toml).await;
        for port in ports {
            for host in ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.1."] {
                is_refused(&holdoff, &format!("{host}:{port}"), 508, "own_listener", next).await;
            }
        }
    }
}

#[tokio::test]
async fn trap_own_address_ipv4_mapped_and_in_other_embedded_forms() {
    for toml in BOTH {
        let (holdoff, ports) = with_every_listener("127.0.0.1", "127.0.0.1", toml).await;
        for port in ports {
            for host in [
                "[::ffff:127.0.0.1]",
                "[::FFFF:7f00:1]",
                "[::127.0.0.1]",
                "[::ffff:0:127.0.0.1]",
                "[64:ff9b::127.0.0.1]",
                "[64:ff9b:1::7f00:1]",
                "[64:ff9b:1:7f00:0:100::]",
                "[2002:7f00:1::]",
                "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
            ] {
                is_refused(&holdoff, &format!("{host}:{port}"), 508, "own_listener", None).await;
            }
        }
    }
}

#[tokio::test]
async fn a_listener_on_every_address_is_ours_at_every_address() {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let resolved: Vec<SocketAddr> = (machine.trim(), 0).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    let (holdoff, [proxy, _, _, metrics]) =
        with_every_listener("0.0.0.0", "0.0.0.0", "[egress]\nprivate = \"allow\"\n").await;
    for port in [proxy, metrics] {
        for host in
            ["localhost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "[::ffff:127.9.9.9]", "[64:ff9b::7f00:2]"]
        {
            is_refused(&holdoff, &format!("{host}:{port}"), 508, "own_listener", None).await;
        }
        // The machine's name, where it has one that leads to an IPv4 address.
        if resolved.iter().any(SocketAddr::is_ipv4) {
            is_refused(&holdoff, &format!("{}:{port}", machine.trim()), 508, "own_listener", None).await;
        }
    }
    // One that listens on an address of its own is no obstacle to others at the same port.
    let (holdoff, [proxy, ..]) = with_every_listener("127.0.0.1", "127.0.0.1", "").await;
    let answer = holdoff.get(&format!("http://127.0.0.2:{proxy}/")).await;
    assert_eq!((answer.status, &answer.json()["kind"]), (502, &serde_json::json!("connect_refused")));
}

#[tokio::test]
async fn a_listener_on_ipv6_is_ours_in_every_spelling() {
    for (listen, hosts) in [
        ("[::1]", &["[::1]", "[0:0:0:0:0:0:0:1]", "[0::0001]"][..]),
        ("[::]", &["[::1]", "127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]", "localhost"][..]),
    ] {
        let clients = "clients = [\"127.0.0.0/8\", \"::1/128\"]\n[egress]\nprivate = \"allow\"";
        let holdoff = Holdoff::start(&format!("[listen]\naddress = [\"{listen}:0\"]\n{clients}\n")).await;
        for host in hosts {
            is_refused(&holdoff, &format!("{host}:{}", holdoff.proxy().port()), 508, "own_listener", None).await;
        }
    }
}

#[tokio::test]
async fn trap_own_address_by_redirect() {
    let (holdoff, ports) = with_every_listener("127.0.0.1", "127.0.0.1", "").await;
    let mut targets: Vec<String> =
        ports.iter().map(|port| format!("http://localhost:{port}/api/v1/cooldowns")).collect();
    targets.push("http://169.254.169.254/latest/meta-data/".to_owned());
    targets.push("http://[::ffff:169.254.169.254]/".to_owned());
    for location in targets {
        for (status, reason) in
            [(301, "Moved Permanently"), (302, "Found"), (303, "See Other"), (307, "Temporary Redirect")]
        {
            let to = location.clone();
            let origin = Origin::start(move |_| answer(status, reason, &[("Location", &to)], "there")).await;
            let mut client = holdoff.client().await;
            let redirect = client.get(&origin.url()).await;
            assert_eq!((redirect.status, redirect.text()), (status, "there"));
            assert_eq!(redirect.field("location"), location, "it passes as it is");
            assert_eq!(origin.count(), 1);
            // Followed by nobody so far; when the client does, the destination is judged as any other.
            let followed = client.get(&location).await;
            let own = location.contains("localhost");
            is(
                &followed,
                if own { 508 } else { 403 },
                if own { "own_listener" } else { "destination_denied" },
                &location,
            );
        }
    }
}

#[tokio::test]
async fn a_redirect_of_a_reverse_listener_is_not_followed_either() {
    let origin = Origin::start(|_| Reply::Bytes(message(302, "Found", &[("Location", "http://169.254.169.254/")], "")));
    let origin = origin.await;
    let holdoff =
        Holdoff::start(&format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n", origin.url())).await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer("GET").await;
    assert_eq!((answer.status, answer.field("location")), (302, "http://169.254.169.254/"));
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_reverse_upstream_is_a_destination_like_any_other() {
    for (upstream, toml, status) in [
        ("http://169.254.169.254", "", 403),
        ("http://[::ffff:169.254.169.254]", "", 403),
        ("http://127.0.0.1:1", STRICT, 403),
        ("http://127.0.0.1:1", "[egress]\ndeny = [\"127.0.0.0/8\"]\n", 403),
        ("http://127.0.0.1:1", "", 502),
    ] {
        let holdoff =
            Holdoff::start(&format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{upstream}\"\n{toml}"))
                .await;
        let mut client = Client::connect(holdoff.reverse(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer("GET").await.status, status, "{upstream} {toml}");
    }
}

#[tokio::test]
async fn rules_are_by_host_network_and_port() {
    let origin = Origin::start(|_| ok("fine")).await;
    let port = origin.address().port();
    let [name, v4, mapped] = ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"];
    // What is served, what is denied.
    let table: &[(&str, &[&str], &[&str])] = &[
        ("deny = ['localhost']", &[v4, mapped], &[name, "LocalHost."]),
        ("deny = ['*.localhost']", &[name, v4], &["a.localhost", "a.b.LOCALHOST."]),
        (
            "deny = ['under_score.example', 'xn--bcher-kva.example']",
            &[v4],
            &["under_score.example", "UNDER_score.example.", "XN--bcher-kva.example"],
        ),
        ("deny = ['bücher.example']", &[v4], &["xn--bcher-kva.example"]),
        ("deny = ['127.0.0.1']", &[], &[name, v4, mapped, "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]"]),
        ("deny = ['127.0.0.0/8']", &[], &[name, v4, mapped, "[::127.0.0.1]"]),
        ("deny = ['::ffff:127.0.0.0/104']", &[], &[name, v4, mapped]),
        ("deny = ['::ffff:127.0.0.1']", &[], &[name, v4, mapped]),
        ("deny = ['[::ffff:127.0.0.0/104]:PORT']", &[], &[name, v4, mapped]),
        ("deny = ['::/0']", &[v4, mapped], &["[::1]", "[64:ff9b::1.1.1.1]"]),
        ("deny = ['127.0.0.0/8:PORT']", &[], &[name, v4, mapped]),
        ("deny = ['127.0.0.0/8:1', 'localhost:1']", &[name, v4, mapped], &[]),
        ("deny = ['localhost:PORT']", &[v4], &[name]),
        ("allow = ['localhost']", &[name, "LOCALHOST."], &[v4, mapped, "a.localhost", "localhost.example"]),
        ("allow = ['*.localhost']", &[], &[name, v4, "xlocalhost"]),
        ("allow = ['127.0.0.1']", &[name, v4, mapped], &["127.0.0.2", "10.1.2.3", "[64:ff9b::127.0.0.1]"]),
        ("allow = ['127.0.0.0/8:PORT']", &[name, v4, mapped], &["[::1]"]),
        ("allow = ['127.0.0.0/8:1', 'localhost:1']", &[], &[name, v4, mapped]),
        ("allow = ['localhost']\ndeny = ['127.0.0.0/8']", &[], &[name, v4]),
        ("allow = ['127.0.0.0/8']\ndeny = ['localhost']", &[v4], &[name]),
        ("private = 'deny'\nallow = ['127.0.0.0/8']", &[name, v4, mapped], &["10.1.2.3", "[::1]"]),
        ("private = 'deny'\nallow = ['localhost']", &[name], &[v4, mapped]),
        ("private = 'deny'\nallow = ['localhost:1']", &[], &[name, v4]),
        ("private = 'deny'\nallow = ['0.0.0.0/0', '::/0']", &[], &[name, v4, mapped, "10.1.2.3", "[fd00::1]"]),
        ("private = 'deny'\nallow = ['127.0.0.0/8']\ndeny = ['127.0.0.1']", &[], &[name, v4, mapped]),
    ];
    for (rules, served, denied) in table {
        let rules = rules.replace("PORT", &port.to_string());
        let holdoff = Holdoff::start(&format!("[egress]\n{rules}\n")).await;
        for host in *served {
            is_served(&holdoff, &format!("{host}:{port}"), &origin).await;
        }
        let before = origin.connections();
        for host in *denied {
            for (found, _) in ask(&holdoff, &format!("{host}:{port}")).await {
                is(&found, 403, "destination_denied", &format!("{rules}: {host}"));
            }
        }
        assert_eq!(origin.connections(), before, "{rules}");
    }
}

/// Runs a part of `tests/destinations.py`, which has a network and a DNS server of its own.
fn in_a_network_of_its_own(part: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/destinations.py");
    let ended = Command::new("python3")
        .arg(script)
        .arg(part)
        .env("HOLDOFF_BIN", env!("CARGO_BIN_EXE_holdoff"))
        .output()
        .expect("python3 starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("\nOK"), "{said}");
}

#[test]
fn trap_mixed_dns_answers() {
    in_a_network_of_its_own("MixedAnswers");
}

#[test]
fn trap_second_look_up() {
    in_a_network_of_its_own("Rebinding");
}
