//! A proxy after this one: the ways through it, its own cooldown, what goes wrong at it, and another holdoff in its place.

use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, Reply, answer, limited, message, ok};
use crate::support::parent::{Parent, Socks};
use crate::support::program::Program;
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;

/// A file with a password, for as long as it lives.
fn password(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

async fn behind(url: String, more: &str) -> Holdoff {
    Holdoff::start(&format!("[upstream]\nproxy = \"{url}\"\n{more}")).await
}

async fn connect(holdoff: &Holdoff, target: &str) -> (Client, Answer) {
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    let answer = client.answer("CONNECT").await;
    (client, answer)
}

async fn get_inside(client: &mut Client, host: &str) -> Answer {
    client.send(format!("GET /inside HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    client.answer("GET").await
}

async fn state(holdoff: &Holdoff, key: &str) -> (Value, Value) {
    let mut seen = holdoff.key(key).await;
    (seen["state"].take(), seen["rate_step"].take())
}

#[tokio::test]
async fn plain_http_goes_to_the_parent_with_the_whole_url_and_our_credentials() {
    let parent = Origin::start(|_| ok("by the parent")).await;
    let file = password("s3cret:x\n");
    let more = format!("proxy_password_file = {:?}\n", file.path());
    let holdoff = behind(format!("http://user@{}", parent.address()), &more).await;
    let mut client = holdoff.client().await;
    client
        .send("GET http://Peer.example:80/a?b HTTP/1.1\r\nHost: Peer.example:80\r\nProxy-Authorization: Basic eA==\r\n\r\n")
        .await;
    assert_eq!(client.answer("GET").await.text(), "by the parent");
    assert_eq!(client.get("http://other.example:8080/").await.text(), "by the parent");
    let seen = parent.seen();
    assert_eq!(seen[0].line(), "GET http://Peer.example:80/a?b HTTP/1.1");
    assert_eq!(seen[0].field("host"), Some("Peer.example:80"));
    // user:s3cret:x
    assert_eq!(seen[0].field("proxy-authorization"), Some("Basic dXNlcjpzM2NyZXQ6eA=="));
    assert_eq!(seen[1].line(), "GET http://other.example:8080/ HTTP/1.1");
    assert_eq!((seen[0].connection, seen[1].connection), (0, 1), "connections of two hosts are not shared");
    assert_eq!(client.get("http://other.example:8080/2").await.status, 200);
    assert_eq!(parent.seen()[2].connection, 1, "of one host they are");
}

#[tokio::test]
async fn a_trace_which_would_show_them_has_no_credentials() {
    let parent = Origin::start(|_| ok("seen")).await;
    let file = password("s3cret\n");
    let more = format!("proxy_password_file = {:?}\n", file.path());
    let holdoff = behind(format!("http://user@{}", parent.address()), &more).await;
    let mut client = holdoff.client().await;
    client.send("TRACE http://peer.example/ HTTP/1.1\r\nHost: peer.example\r\nMax-Forwards: 1\r\n\r\n").await;
    assert_eq!(client.answer("TRACE").await.text(), "seen");
    let seen = parent.last();
    assert_eq!(
        (seen.field("max-forwards"), seen.field("proxy-authorization")),
        (Some("0"), None),
        "the last to see it"
    );
}

#[tokio::test]
async fn credentials_for_the_parent_are_in_no_log() {
    let parent = Parent::http(|_| Some(message(407, "No", &[("Proxy-Authenticate", "Basic realm=\"x\"")], "no"))).await;
    let file = password("s3cret\n");
    let mut program = Program::start_configured(
        &format!(
            "[log]\nlevel = \"trace\"\n[upstream]\nproxy = \"http://user@{}\"\nproxy_password_file = {:?}\n",
            parent.address(),
            file.path()
        ),
        &[],
    );
    let mut client = Client::connect(program.address("proxy")).await;
    client.send("GET http://peer.invalid/ HTTP/1.1\r\nHost: peer.invalid\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 502);
    client.send("CONNECT peer.invalid:443 HTTP/1.1\r\nHost: peer.invalid:443\r\n\r\n").await;
    assert_eq!(client.answer("CONNECT").await.status, 502);
    program.signal("TERM");
    program.wait_for("its end to begin", |log| log.contains("message=draining"));
    let log = program.log();
    // user:s3cret
    assert!(!log.contains("s3cret") && !log.contains("dXNlcjpzM2NyZXQ="), "{log}");
}

#[tokio::test]
async fn a_tunnel_goes_through_a_connect_of_the_parent() {
    let origin = Origin::start(|_| ok("inside")).await;
    let parent = Parent::http(|_| None).await;
    let file = password("pw");
    let more = format!("proxy_password_file = {:?}\n", file.path());
    let holdoff = behind(format!("http://user@{}", parent.address()), &more).await;
    let target = origin.address().to_string();
    let (mut client, answer) = connect(&holdoff, &target).await;
    assert_eq!(answer.status, 200);
    assert_eq!(get_inside(&mut client, &target).await.text(), "inside");
    let head = &parent.seen()[0];
    assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
    assert!(head.to_lowercase().contains(&format!("host: {target}\r\n")), "{head}");
    assert!(head.contains("Basic dXNlcjpwdw=="), "{head}");
}

#[tokio::test]
async fn bytes_that_come_behind_the_parents_word_belong_to_the_tunnel() {
    let parent = Parent::http(|_| {
        Some(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbanner".to_vec())
    })
    .await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    let (mut client, answer) = connect(&holdoff, "peer.example:2222").await;
    assert_eq!(answer.status, 200);
    assert_eq!(client.bytes(6).await, b"banner");
}

#[tokio::test]
async fn an_https_host_is_reached_with_tls_inside_the_parents_tunnel_and_inside_its_tls() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.acceptor(&["127.0.0.1"]), |_| ok("secure")).await;
    let plain = Parent::http(|_| None).await;
    let secure = Parent::https(authority.acceptor(&["127.0.0.1"])).await;
    let ca = authority.file();
    for (parent, url) in
        [(&plain, format!("http://{}", plain.address())), (&secure, format!("https://{}", secure.address()))]
    {
        let more = format!(
            "ca_files = [{ca:?}]\n[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://{}\"\n",
            origin.address()
        );
        let holdoff = behind(url, &more).await;
        let mut client = Client::connect(holdoff.reverse(0)).await;
        for _ in 0..2 {
            assert_eq!(get_inside(&mut client, "x").await.text(), "secure");
        }
        assert_eq!(parent.seen().len(), 1, "the tunnel is kept");
        // And a tunnel of the client's own, whose bytes are TLS of nobody's here.
        let echo = Origin::start(|_| Reply::Echo(b"hello".to_vec())).await;
        let (mut client, answer) = connect(&holdoff, &echo.address().to_string()).await;
        assert_eq!(answer.status, 200);
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(client.bytes(5).await, b"hello");
        client.send("ping").await;
        assert_eq!(client.bytes(4).await, b"ping");
    }
}

#[tokio::test]
async fn an_https_parent_with_a_bad_certificate_is_a_failure_of_the_parent() {
    let (good, bad) = (Authority::new(), Authority::new());
    let parent = Parent::https(bad.acceptor(&["127.0.0.1"])).await;
    let holdoff = behind(format!("https://{}", parent.address()), &format!("ca_files = [{:?}]\n", good.file())).await;
    let answer = holdoff.get("http://peer.example/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.field("holdoff").contains("kind=tls_certificate"), "{}", answer.head);
    assert!(answer.text().contains(&format!("https://{}", parent.address())), "{}", answer.text());
}

#[tokio::test]
async fn a_socks_parent_gets_names_unresolved_and_our_login() {
    let origin = Origin::start(|_| ok("by socks")).await;
    let names = Some(origin.address());
    let open = Parent::socks(Socks { names, ..Socks::default() }).await;
    let closed = Parent::socks(Socks { names, login: Some(("user", "p w")), ..Socks::default() }).await;
    let file = password("p w\n");
    let login = format!("proxy_password_file = {:?}\n", file.path());
    for (parent, url, more) in [
        (&open, format!("socks5://{}", open.address()), String::new()),
        (&open, format!("socks5://user@{}", open.address()), login.clone()),
        (&closed, format!("socks5://user@{}", closed.address()), login),
    ] {
        let before = parent.seen().len();
        let holdoff = behind(url, &more).await;
        // Nobody resolves this name.
        assert_eq!(holdoff.get("http://peer.invalid/x").await.text(), "by socks");
        assert_eq!(origin.seen().last().unwrap().line(), "GET /x HTTP/1.1");
        let (mut client, answer) = connect(&holdoff, "tunnel.invalid:8443").await;
        assert_eq!(answer.status, 200);
        assert_eq!(get_inside(&mut client, "x").await.text(), "by socks");
        assert_eq!(holdoff.get("http://127.0.0.1:9/x").await.text(), "by socks");
        assert_eq!(
            parent.seen()[before..],
            ["name peer.invalid:80", "name tunnel.invalid:8443", "address 127.0.0.1:9"]
        );
    }
}

#[tokio::test]
async fn what_a_socks_host_says_first_is_not_lost() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let parent = Parent::socks(Socks { names: Some(origin.address()), early: b"220 ready", ..Socks::default() }).await;
    let holdoff = behind(format!("socks5://{}", parent.address()), "").await;
    let (mut client, answer) = connect(&holdoff, "peer.invalid:2222").await;
    assert_eq!(answer.status, 200);
    assert_eq!(client.bytes(9).await, b"220 ready");
}

#[tokio::test]
async fn every_word_of_a_socks_parent_is_told_apart() {
    let said = |how: Socks| async move {
        let parent = Parent::socks(how).await;
        let more = "[defaults.timeouts]\nconnect = \"2s\"\n";
        let holdoff = behind(format!("socks5://{}", parent.address()), more).await;
        let answer = holdoff.get("http://peer.invalid/").await;
        assert!(answer.text().contains(&format!("http://{}", parent.address())), "{}", answer.text());
        let mark = answer.field("holdoff").to_owned();
        let kind = mark.split("kind=").nth(1).unwrap().split(';').next().unwrap().to_owned();
        let at_parent = mark.contains(&format!("key=\"http://{}\"", parent.address()));
        assert_eq!(at_parent, ["parent_auth", "upstream_protocol", "upstream_reset"].contains(&&*kind), "{mark}");
        (answer.status, kind)
    };
    let code = |code| Socks { code, ..Socks::default() };
    for (how, status, kind) in [
        (code(1), 502, "parent_refused"),
        (code(2), 502, "parent_refused"),
        (code(3), 502, "connect_failed"),
        (code(4), 502, "connect_failed"),
        (code(5), 502, "connect_refused"),
        (code(6), 504, "connect_timeout"),
        (code(7), 502, "parent_refused"),
        (code(8), 502, "parent_refused"),
        (code(99), 502, "upstream_protocol"),
        (Socks { login: Some(("a", "b")), ..Socks::default() }, 502, "parent_auth"),
        (Socks { junk: Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ..Socks::default() }, 502, "upstream_protocol"),
        (Socks { junk: Some(b"\x05"), ..Socks::default() }, 502, "upstream_reset"),
        (Socks { junk: Some(b""), ..Socks::default() }, 502, "upstream_reset"),
    ] {
        assert_eq!(said(how).await, (status, kind.to_owned()));
    }
}

#[tokio::test]
async fn hosts_of_no_proxy_are_reached_directly() {
    let origin = Origin::start(|_| ok("direct")).await;
    let parent = Origin::start(|_| ok("by the parent")).await;
    let holdoff = behind(format!("http://{}", parent.address()), "no_proxy = [\"127.0.0.0/8\"]\n").await;
    assert_eq!(holdoff.get(&format!("http://{}/", origin.address())).await.text(), "direct");
    assert_eq!(holdoff.get("http://peer.invalid/").await.text(), "by the parent");
    let (mut client, _) = connect(&holdoff, &origin.address().to_string()).await;
    assert_eq!(get_inside(&mut client, "x").await.text(), "direct");
}

#[tokio::test]
async fn a_signal_to_connect_cools_the_parent_and_every_request_through_it() {
    let parent = Parent::http(|number| match number {
        0 => Some(message(429, "Too Many Requests", &[("Retry-After", "2")], "not so many\n")),
        _ => Some(message(200, "OK", &[], "")),
    })
    .await;
    let holdoff = behind(format!("http://{}", parent.address()), "no_proxy = [\"127.0.0.1:9\"]\n").await;
    let key = format!("http://{}", parent.address());
    let (_, first) = connect(&holdoff, "peer.invalid:443").await;
    assert_eq!((first.status, first.field("retry-after")), (429, "2"));
    assert!(
        first.field("holdoff").contains(&format!("kind=parent_limited; stage=connect; fault=upstream; key=\"{key}\""))
    );
    for _ in 0..2 {
        let (_, again) = connect(&holdoff, "other.invalid:443").await;
        assert_eq!(again.status, 429);
        assert!(again.field("holdoff").contains(&format!("key=\"{key}\"")), "{}", again.head);
    }
    let other = holdoff.get("http://third.invalid/").await;
    assert!(other.field("holdoff").starts_with("short-circuit; reason=rate_limited"), "{}", other.head);
    assert_eq!(parent.seen().len(), 1, "nobody asks it");
    assert_eq!(state(&holdoff, &key).await, ("cooling".into(), 1.into()));
    let origin = holdoff.key("https://peer.invalid:443").await;
    assert_eq!((&origin["state"], &origin["rate_step"]), (&"clear".into(), &0.into()), "{origin}");
    let last = holdoff.key(&key).await;
    assert!(last["last_error"].as_str().unwrap().contains("HTTP 429 from"), "{last}");
    // What does not go through it is left alone.
    assert_eq!(holdoff.get("http://127.0.0.1:9/").await.status, 502);
    tokio::time::sleep(Duration::from_millis(2_050)).await;
    let (_, probe) = connect(&holdoff, "peer.invalid:443").await;
    assert_eq!(probe.status, 200, "the probe");
    assert_eq!(state(&holdoff, &key).await, ("clear".into(), 0.into()));
}

#[tokio::test]
async fn a_signal_to_connect_without_a_hint_is_answered_with_the_ladders_wait() {
    let parent = Parent::http(|_| Some(message(429, "Too Many Requests", &[], ""))).await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    let (_, first) = connect(&holdoff, "peer.invalid:443").await;
    assert_eq!((first.status, first.field("retry-after")), (429, "60"));
    let off = behind(format!("http://{}", parent.address()), "[defaults]\nmode = \"off\"\n").await;
    for _ in 0..2 {
        let (_, answer) = connect(&off, "peer.invalid:443").await;
        assert!(answer.field("holdoff").contains("kind=parent_limited"), "{}", answer.head);
        assert!(answer.fields("retry-after").is_empty());
    }
}

#[tokio::test]
async fn the_longer_wait_is_served_and_a_refusal_takes_no_probe_of_the_other_key() {
    let parent = Origin::start(|_| ok("fine")).await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    let key = format!("http://{}", parent.address());
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 200);
    let freeze = |key: String, length: &'static str| {
        let holdoff = &holdoff;
        async move {
            let path = format!("/api/v1/cooldowns?key={key}");
            assert_eq!(holdoff.ask_admin("PUT", &path, &format!("{{\"for\": \"{length}\"}}")).await.status, 200);
        }
    };
    freeze(key.clone(), "1s").await;
    freeze("http://peer.invalid:80".to_owned(), "1h").await;
    let refused = holdoff.get("http://peer.invalid/").await;
    assert!(refused.field("retry-after").parse::<u64>().unwrap() > 3000, "{}", refused.head);
    assert!(refused.field("holdoff").contains("peer.invalid"), "{}", refused.head);
    let other = holdoff.get("http://other.invalid/").await;
    assert!(other.field("holdoff").contains(&format!("key=\"{key}\"")), "{}", other.head);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 503);
    let seen = holdoff.key(&key).await;
    assert_eq!((&seen["state"], &seen["totals"]["probes"]), (&"probing".into(), &0.into()), "{seen}");
    assert_eq!(holdoff.get("http://other.invalid/").await.status, 200, "the probe is still to be had");
}

#[tokio::test]
async fn a_parent_that_cannot_be_reached_fails_at_its_own_key() {
    let (_held, address) = crate::support::refusing();
    let more = "[defaults.breaker]\nfailure_threshold = 1\n";
    let holdoff = behind(format!("http://{address}"), more).await;
    let answer = holdoff.get("http://peer.invalid/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.field("holdoff").contains("kind=connect_refused"), "{}", answer.head);
    assert!(answer.field("holdoff").contains(&format!("key=\"http://{address}\"")), "{}", answer.head);
    assert_eq!(state(&holdoff, &format!("http://{address}")).await.0, "cooling");
    assert_eq!(state(&holdoff, "http://peer.invalid:80").await.0, "clear");
    let other = holdoff.get("http://other.invalid/").await;
    assert!(other.field("holdoff").contains("reason=failing"), "{}", other.head);
}

#[tokio::test]
async fn what_a_parent_answers_to_connect_is_told_apart() {
    for (status, got, kind, host, hop) in [
        (407, 502, "parent_auth", "clear", "clear"),
        (401, 502, "parent_auth", "clear", "clear"),
        (403, 502, "parent_refused", "clear", "clear"),
        (502, 502, "connect_failed", "cooling", "clear"),
        (503, 502, "connect_failed", "cooling", "clear"),
        (504, 504, "connect_timeout", "cooling", "clear"),
        (302, 502, "parent_refused", "clear", "clear"),
        // A success without a tunnel behind it.
        (204, 502, "upstream_protocol", "clear", "cooling"),
    ] {
        let parent = Parent::http(move |_| Some(message(status, "No", &[("Proxy-Authenticate", "Basic")], "no"))).await;
        let holdoff =
            behind(format!("http://{}", parent.address()), "[defaults.breaker]\nfailure_threshold = 1\n").await;
        let (_, answer) = connect(&holdoff, "peer.invalid:443").await;
        assert_eq!(answer.status, got, "{status}");
        assert!(answer.field("holdoff").contains(&format!("kind={kind};")), "{status}: {}", answer.head);
        assert!(answer.fields("proxy-authenticate").is_empty());
        assert_eq!(state(&holdoff, "https://peer.invalid:443").await.0, host, "{status}");
        assert_eq!(state(&holdoff, &format!("http://{}", parent.address())).await.0, hop, "{status}");
    }
}

#[tokio::test]
async fn a_parent_that_answers_no_http_or_nothing_is_bounded() {
    for (said, kind, hop) in [
        (&b"SSH-2.0-x\r\n\r\n"[..], "upstream_protocol", "cooling"),
        (b"", "connect_timeout", "clear"),
        (&[b'x'; 300_000][..], "upstream_protocol", "cooling"),
    ] {
        let parent = Parent::http(move |_| Some(said.to_vec())).await;
        let more = "[defaults.breaker]\nfailure_threshold = 1\n[defaults.timeouts]\nconnect = \"300ms\"\n";
        let holdoff = behind(format!("http://{}", parent.address()), more).await;
        let (_, answer) = connect(&holdoff, "peer.invalid:443").await;
        assert!(answer.field("holdoff").contains(&format!("kind={kind};")), "{}", answer.head);
        assert_eq!(state(&holdoff, &format!("http://{}", parent.address())).await.0, hop);
    }
}

#[tokio::test]
async fn a_407_of_the_parent_is_not_passed_on_as_ours() {
    let parent = Origin::start(|_| answer(407, "No", &[("Proxy-Authenticate", "Basic realm=x")], "no")).await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    let answer = holdoff.get("http://peer.invalid/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.field("holdoff").contains("kind=parent_auth"), "{}", answer.head);
    assert!(answer.text().contains("names none"), "{}", answer.text());
}

#[tokio::test]
async fn names_are_held_against_the_rules_though_nobody_here_looks_them_up() {
    let parent = Origin::start(|_| ok("by the parent")).await;
    let start = |more| behind(format!("http://{}", parent.address()), more);
    let holdoff = start("[egress]\ndeny = [\"*.bad.invalid\", \"10.0.0.0/8\"]\n").await;
    assert_eq!(holdoff.get("http://x.bad.invalid/").await.status, 403);
    assert_eq!(holdoff.get("http://10.1.1.1/").await.status, 403);
    assert_eq!(holdoff.get("http://169.254.169.254/").await.status, 403);
    assert_eq!(holdoff.get("http://good.invalid/").await.status, 200);
    for own in [format!("http://{}/", holdoff.admin()), format!("http://localhost:{}/", holdoff.proxy().port())] {
        assert_eq!(holdoff.get(&own).await.status, 508, "{own}");
    }
    let holdoff = start("[egress]\nallow = [\"good.invalid\", \"0.0.0.0/0\"]\n").await;
    assert_eq!(holdoff.get("http://good.invalid/").await.status, 200);
    assert_eq!(holdoff.get("http://other.invalid/").await.status, 403, "only its address could let it through");
}

#[tokio::test]
async fn an_upgrade_and_options_for_the_host_itself_take_a_tunnel() {
    let origin = Origin::start(|seen| match seen.field("upgrade") {
        Some(_) => Reply::Echo(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
        None => ok(seen.line()),
    })
    .await;
    let parent = Parent::http(|_| None).await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    let host = origin.address();
    let mut client = holdoff.client().await;
    client
        .send(format!(
            "GET http://{host}/ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ))
        .await;
    assert_eq!(client.answer("GET").await.status, 101);
    client.send("frame").await;
    assert_eq!(client.bytes(5).await, b"frame");
    let mut client = holdoff.client().await;
    client.send(format!("OPTIONS http://{host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.answer("OPTIONS").await.text(), "OPTIONS * HTTP/1.1");
    assert_eq!(parent.seen().len(), 2);
}

#[tokio::test]
async fn two_in_a_chain_are_no_loop_and_what_the_second_says_counts_by_its_hint() {
    let origin = Origin::start(|seen| if seen.number == 0 { limited("2") } else { ok("again") }).await;
    let second = Holdoff::start("").await;
    let first = behind(format!("http://{}", second.proxy()), "").await;
    let url = format!("http://{}/", origin.address());
    let key = format!("http://{}", origin.address());
    // The second learns of it alone.
    assert_eq!(second.get(&url).await.status, 429);
    let answer = first.get(&url).await;
    assert_eq!(answer.status, 429);
    assert_eq!(origin.seen().len(), 1);
    assert!(answer.field("proxy-status").contains("proxy_internal_response"), "{}", answer.head);
    assert_eq!(state(&first, &key).await, ("cooling".into(), 0.into()), "by the hint, no step");
    assert_eq!(state(&first, &format!("http://{}", second.proxy())).await.0, "clear", "it is the host's");
    tokio::time::sleep(Duration::from_millis(2_050)).await;
    assert_eq!(first.get(&url).await.text(), "again");
    assert_eq!(state(&first, &key).await.0, "clear");
    assert_eq!(origin.seen()[1].fields("via").len(), 1, "both are in one list");
}

#[tokio::test]
async fn a_cooldown_of_the_second_refuses_connect_by_the_hosts_key_or_by_its_own() {
    let second = Holdoff::start("").await;
    let first = behind(format!("http://{}", second.proxy()), "").await;
    let freeze = "/api/v1/cooldowns?key=https://peer.invalid:443";
    assert_eq!(second.ask_admin("PUT", freeze, r#"{"for": "5s"}"#).await.status, 200);
    let (_, answer) = connect(&first, "peer.invalid:443").await;
    assert_eq!(answer.status, 503);
    assert!(answer.field("holdoff").contains("key=\"https://peer.invalid:443\""), "{}", answer.head);
    assert_eq!(state(&first, "https://peer.invalid:443").await, ("cooling".into(), 0.into()));
    assert_eq!(state(&first, &format!("http://{}", second.proxy())).await.0, "clear");
}

#[tokio::test]
async fn what_a_parent_says_of_itself_cools_it_by_the_hint_alone() {
    let marked = [("Retry-After", "30"), ("Proxy-Status", "corp; error=connection_limit_reached")];
    let via = [marked[0], marked[1], ("Via", "1.1 corp")];
    for (fields, hop, host) in [(&marked[..], ("cooling", 0), ("clear", 0)), (&via[..], ("clear", 0), ("cooling", 0))] {
        let bytes = message(429, "No", fields, "slow");
        let parent = Origin::start(move |_| Reply::Bytes(bytes.clone())).await;
        let holdoff = behind(format!("http://{}", parent.address()), "").await;
        assert_eq!(holdoff.get("http://peer.invalid/").await.status, 429);
        let (state_hop, state_host) = (
            state(&holdoff, &format!("http://{}", parent.address())).await,
            state(&holdoff, "http://peer.invalid:80").await,
        );
        assert_eq!(state_hop, (hop.0.into(), hop.1.into()));
        assert_eq!(state_host, (host.0.into(), host.1.into()));
    }
    // Unmarked, it is the host's, as ever.
    let parent = Origin::start(|_| limited("30")).await;
    let holdoff = behind(format!("http://{}", parent.address()), "").await;
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 429);
    assert_eq!(state(&holdoff, "http://peer.invalid:80").await, ("cooling".into(), 1.into()));
}

#[tokio::test]
async fn a_mark_counts_by_its_hint_from_a_trusted_upstream_and_is_taken_off_from_any_other() {
    let fields = [
        ("Retry-After", "30"),
        ("Holdoff", "short-circuit; reason=rate_limited; key=\"https://far.example:443\""),
        ("Proxy-Status", "edge; error=proxy_internal_response; details=\"x\""),
    ];
    let bytes = message(429, "No", &fields, "slow");
    let unhinted = message(429, "No", &fields[1..], "slow");
    let origin =
        Origin::start(move |seen| Reply::Bytes(if seen.target() == "/a" { bytes.clone() } else { unhinted.clone() }))
            .await;
    let key = format!("http://{}", origin.address());
    let trusting = Holdoff::start("[upstream]\ntrusted_holdoffs = [\"127.0.0.1\"]\n").await;
    let answer = trusting.get(&format!("{key}/b")).await;
    assert!(answer.field("proxy-status").starts_with("edge"), "{}", answer.head);
    assert_eq!(state(&trusting, &key).await, ("clear".into(), 0.into()), "no hint, no word");
    trusting.get(&format!("{key}/a")).await;
    assert_eq!(state(&trusting, &key).await, ("cooling".into(), 0.into()));
    let other = Holdoff::start("").await;
    let answer = other.get(&format!("{key}/a")).await;
    assert!(answer.fields("proxy-status").is_empty() && answer.fields("holdoff").is_empty(), "{}", answer.head);
    assert_eq!(state(&other, &key).await, ("cooling".into(), 1.into()));
}

#[tokio::test]
async fn a_probe_of_the_parent_over_a_tunnel_of_before_clears_it() {
    let origin = Origin::start(|_| ok("still there")).await;
    let parent = Parent::socks(Socks { names: Some(origin.address()), ..Socks::default() }).await;
    let holdoff = behind(format!("socks5://{}", parent.address()), "").await;
    let key = format!("http://{}", parent.address());
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 200);
    let path = format!("/api/v1/cooldowns?key={key}");
    assert_eq!(holdoff.ask_admin("PUT", &path, r#"{"for": "1s"}"#).await.status, 200);
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 503);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(holdoff.get("http://peer.invalid/").await.status, 200);
    assert_eq!(parent.seen().len(), 1, "one tunnel");
    assert_eq!(state(&holdoff, &key).await.0, "clear");
}
