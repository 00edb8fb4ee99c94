//! Failures named: each a clear answer with stage and fault, no hang, no panic.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, Reply, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;

/// Checks the common form of an answer of our own.
fn names(answer: &Answer, status: u16, stage: &str, fault: &str, token: &str) {
    assert_eq!(answer.status, status, "{}\n\n{}", answer.head, answer.text());
    assert!(answer.field("proxy-status").contains(&format!("error={token}")), "{}", answer.head);
    let mark = answer.field("holdoff");
    assert!(mark.starts_with("error;"), "{mark}");
    assert!(mark.contains(&format!("stage={stage}")) && mark.contains(&format!("fault={fault}")), "{mark}");
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
}

#[tokio::test]
async fn a_refused_connection() {
    let (_held, closed) = crate::support::refusing();
    let holdoff = Holdoff::start("").await;
    names(&holdoff.get(&format!("http://{closed}/")).await, 502, "connect", "upstream", "connection_refused");
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let holdoff = Holdoff::start("").await;
    names(&holdoff.get("http://no-such-host.invalid/").await, 502, "dns", "upstream", "dns_error");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nhead = \"200ms\"\n").await;
    names(&holdoff.get(&origin.url()).await, 504, "head", "upstream", "http_response_timeout");
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head() {
    let origin = Origin::start(|_| Reply::Reset).await;
    let holdoff = Holdoff::start("").await;
    names(&holdoff.get(&origin.url()).await, 502, "head", "upstream", "connection_terminated");
}

#[tokio::test]
async fn garbage_instead_of_a_head() {
    let origin = Origin::start(|_| Reply::Close(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())).await;
    let holdoff = Holdoff::start("").await;
    names(&holdoff.get(&origin.url()).await, 502, "head", "upstream", "http_protocol_error");
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for() {
    let (stranger, known) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(stranger.acceptor(&["127.0.0.1"]), |_| ok("secret")).await;
    let holdoff = reverse(&origin, &known).await;
    names(&ask_reverse(&holdoff).await, 502, "tls", "upstream", "tls_certificate_error");
    assert_eq!(origin.count(), 0, "no request goes to a host that is not who it should be");
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.acceptor(&["other.example"]), |_| ok("secret")).await;
    let holdoff = reverse(&origin, &authority).await;
    names(&ask_reverse(&holdoff).await, 502, "tls", "upstream", "tls_certificate_error");
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.acceptor_until(&["127.0.0.1"], Some(2020)), |_| ok("secret")).await;
    let holdoff = reverse(&origin, &authority).await;
    names(&ask_reverse(&holdoff).await, 502, "tls", "upstream", "tls_certificate_error");
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _ = stream.read(&mut [0; 64]).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            });
        }
    });
    let holdoff = reverse_to(&format!("https://{address}"), &authority).await;
    names(&ask_reverse(&holdoff).await, 502, "tls", "upstream", "tls_protocol_error");
}

async fn reverse(origin: &Origin, authority: &Authority) -> Holdoff {
    reverse_to(&format!("https://{}", origin.address()), authority).await
}

async fn reverse_to(upstream: &str, authority: &Authority) -> Holdoff {
    let ca = authority.file();
    Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{upstream}\"\n\
         [upstream]\nplatform_roots = false\nca_files = [{ca:?}]\n"
    ))
    .await
}

async fn ask_reverse(holdoff: &Holdoff) -> Answer {
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", holdoff.reverse(0))).await;
    client.answer("GET").await
}

#[tokio::test]
async fn our_own_ports_by_every_name_are_never_destinations() {
    let holdoff = Holdoff::start("").await;
    for port in [holdoff.proxy().port(), holdoff.admin().port()] {
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let answer = holdoff.get(&format!("http://{host}:{port}/metrics")).await;
            names(&answer, 508, "destination", "client", "proxy_loop_detected");
            let mut client = holdoff.client().await;
            client.send(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).await;
            names(&client.answer("CONNECT").await, 508, "destination", "client", "proxy_loop_detected");
        }
    }
}

#[tokio::test]
async fn metadata_addresses_are_refused_in_every_form() {
    let holdoff = Holdoff::start("").await;
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "0.0.0.0"] {
        let answer = holdoff.get(&format!("http://{host}/latest/meta-data/")).await;
        names(&answer, 403, "destination", "client", "destination_ip_prohibited");
    }
    // Forms that only some parsers read as an address are no hosts at all.
    for host in ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"] {
        let answer = holdoff.get(&format!("http://{host}/")).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_request_that_came_through_us_already_is_a_loop() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n").await;
    let mut client = holdoff.client().await;
    let host = origin.address();
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {host}\r\nVia: 1.1 other, 1.1 edge-7\r\n\r\n", origin.url())).await;
    names(&client.answer("GET").await, 508, "destination", "client", "proxy_loop_detected");
    // Another sidecar in the chain is no loop.
    let mut client = holdoff.client().await;
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {host}\r\nVia: 1.1 edge-8\r\n\r\n", origin.url())).await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    assert_eq!(origin.last().fields("via"), ["1.1 edge-8, 1.1 edge-7"]);
}

#[tokio::test]
async fn a_request_that_came_through_us_already_is_a_loop_on_a_reverse_port_too() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start(&format!(
        "[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"edge-7\"\n\
         [[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n",
        origin.url()
    ))
    .await;
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 other\r\nvia: 1.0 EDGE-7 (again)\r\n\r\n").await;
    names(&client.answer("GET").await, 508, "destination", "client", "proxy_loop_detected");
    client.send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 edge-77\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.text(), "fine");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_browser_on_the_proxy_port_is_told_how_to_use_it() {
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", holdoff.proxy())).await;
    let answer = client.answer("GET").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("http_proxy") && answer.text().contains("[[reverse]]"), "{}", answer.text());
}

#[tokio::test]
async fn other_schemes_are_not_ours() {
    let holdoff = Holdoff::start("").await;
    for url in ["ftp://peer.example/file", "https://peer.example/", "ws://peer.example/"] {
        names(&holdoff.get(url).await, 501, "request", "client", "http_request_error");
    }
}

#[tokio::test]
async fn a_truncated_body_is_never_presented_as_complete() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this".to_vec();
    let origin = Origin::start(move |seen| match seen.target() {
        "/length" => Reply::Close(cut.clone()),
        _ => Reply::Close(chunked.clone()),
    })
    .await;
    let holdoff = Holdoff::start("").await;
    for path in ["length", "chunked"] {
        let answer = holdoff.get(&format!("{}/{path}", origin.url())).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.complete, "{path}: {}", answer.head);
    }
}

#[tokio::test]
async fn a_body_that_stops_is_cut_after_its_idle_time() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec();
    let origin = Origin::start(move |_| Reply::Slow(vec![head.clone()], Duration::from_secs(60))).await;
    let holdoff = Holdoff::start("[defaults.timeouts]\nbody_idle = \"200ms\"\n").await;
    let answer = holdoff.get(&origin.url()).await;
    assert!(!answer.complete);
}

#[tokio::test]
async fn a_failure_says_nothing_about_other_hosts_and_the_connection_stays_open() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("").await;
    let mut client = holdoff.client().await;
    assert_eq!(client.get("http://no-such-host.invalid/").await.status, 502);
    assert_eq!(client.get(&origin.url()).await.text(), "fine");
}
