//! CONNECT: opaque, refused while the host cools, and never the end of a rate-limit cooldown.

use std::time::Duration;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, Reply, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::until;

async fn connect(holdoff: &Holdoff, target: &str) -> (Client, Answer) {
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    let answer = client.answer("CONNECT").await;
    (client, answer)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let origin = Origin::start(|_| Reply::Echo(b"hello".to_vec())).await;
    let holdoff = Holdoff::start("").await;
    let target = origin.address().to_string();
    let (mut client, answer) = connect(&holdoff, &target).await;
    assert_eq!(answer.status, 200);
    assert!(answer.fields("content-length").is_empty() && answer.fields("transfer-encoding").is_empty());
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.bytes(5).await, b"hello");
    client.send("ping").await;
    assert_eq!(client.bytes(4).await, b"ping");
    client.finish().await;
    assert_eq!(client.rest().await, b"");
    let seen = holdoff.key(&format!("https://{target}")).await;
    assert_eq!((&seen["only_connect"], &seen["totals"]["tunnels"]), (&true.into(), &1.into()), "{seen}");
    // `hello` and `ping` came back; what the client sent is the head of its request and `ping`.
    let sample = |direction: &str| format!("holdoff_tunnel_bytes_total{{direction=\"{direction}\",host=\"{target}\"}}");
    assert_eq!(holdoff.metric(&sample("to_client")).await, 9.0);
    assert_eq!(holdoff.metric(&sample("to_upstream")).await, 31.0);
}

#[tokio::test]
async fn bytes_that_come_with_the_head_go_into_the_tunnel() {
    let origin = Origin::start(|_| ok("early")).await;
    let holdoff = Holdoff::start("").await;
    let target = origin.address();
    let mut client = holdoff.client().await;
    client
        .send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET / HTTP/1.1\r\nHost: {target}\r\n\r\n"))
        .await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    assert_eq!(client.answer("GET").await.text(), "early");
}

#[tokio::test]
async fn a_host_that_cools_is_refused_with_the_reason_and_a_tunnel_never_clears_it() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.acceptor(&["127.0.0.1"]), |_| limited("3")).await;
    let ca = authority.file();
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://{}\"\n[upstream]\nca_files = [{ca:?}]\n",
        origin.address()
    ))
    .await;
    let target = origin.address().to_string();
    assert_eq!(connect(&holdoff, &target).await.1.status, 200, "clear");
    // The reverse listener sees the 429 of the same key.
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send(format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", holdoff.reverse(0))).await;
    assert_eq!(client.answer("GET").await.status, 429);
    let key = format!("https://{target}");
    let (_, refused) = connect(&holdoff, &target).await;
    assert_eq!(refused.status, 429);
    assert!(refused.field("retry-after").parse::<u64>().unwrap() <= 3);
    assert!(refused.field("holdoff").contains("reason=rate_limited"), "{}", refused.head);
    assert!(refused.field("proxy-status").contains("proxy_internal_response"));
    // After the deadline a tunnel passes, as often as it likes, and proves nothing.
    tokio::time::sleep(Duration::from_millis(3_050)).await;
    for _ in 0..3 {
        assert_eq!(connect(&holdoff, &target).await.1.status, 200);
    }
    let seen = holdoff.key(&key).await;
    assert_eq!((&seen["state"], &seen["rate_step"]), (&"probing".into(), &1.into()), "{seen}");
    assert_eq!(seen["totals"]["probes"], 0);
}

#[tokio::test]
async fn a_frozen_host_refuses_tunnels_in_every_mode() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[defaults]\nmode = \"observe\"\n").await;
    let target = origin.address().to_string();
    let path = format!("/api/v1/cooldowns?key=https://{target}");
    assert_eq!(holdoff.ask_admin("PUT", &path, r#"{"for": "1h"}"#).await.status, 200);
    let (_, refused) = connect(&holdoff, &target).await;
    assert_eq!(refused.status, 503);
    assert!(refused.field("holdoff").contains("reason=manual"));
    assert_eq!(holdoff.ask_admin("DELETE", &path, "").await.status, 200);
    assert_eq!(connect(&holdoff, &target).await.1.status, 200);
}

#[tokio::test]
async fn ports_outside_the_list_and_targets_without_a_port_are_refused() {
    let holdoff = Holdoff::start("").await;
    let (_, answer) = connect(&holdoff, "peer.example:25").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    for target in ["peer.example", "peer.example:", "peer.example:0", "peer.example:99999", "user@peer.example:443"] {
        let (_, answer) = connect(&holdoff, target).await;
        assert_eq!(answer.status, 400, "{target}: {}", answer.head);
    }
}

#[tokio::test]
async fn a_tunnel_that_carries_nothing_ends_after_its_idle_time() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("[defaults.timeouts]\ntunnel_idle = \"300ms\"\n").await;
    let (mut client, answer) = connect(&holdoff, &origin.address().to_string()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_tunnel_above_the_bound_is_refused_and_its_place_is_given_back() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let holdoff = Holdoff::start("[limits]\nmax_tunnels = 1\n").await;
    let target = origin.address().to_string();
    let (first, answer) = connect(&holdoff, &target).await;
    assert_eq!(answer.status, 200);
    assert_eq!(connect(&holdoff, &target).await.1.status, 503);
    drop(first);
    // The place comes back when the first tunnel has ended.
    for attempt in 0.. {
        let (_client, answer) = connect(&holdoff, &target).await;
        if answer.status == 200 {
            break;
        }
        assert!(attempt < 200, "the place never came back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("two tunnels at the origin", || origin.connections() >= 2).await;
}
