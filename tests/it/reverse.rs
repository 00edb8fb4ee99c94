//! `[[reverse]]` and listeners: what the keys of the configuration change.

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, answer, ok};
use crate::support::sidecar::Holdoff;

async fn ask(holdoff: &Holdoff, path: &str) -> Answer {
    let address = holdoff.reverse(0);
    let mut client = Client::connect(address).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
    client.answer("GET").await
}

async fn moved() -> Origin {
    Origin::start(|seen| match seen.target() {
        "/moved" => {
            answer(302, "Found", &[("Location", &format!("http://{}/new", seen.field("x-self").unwrap_or("?")))], "")
        }
        _ => ok("fine"),
    })
    .await
}

#[tokio::test]
async fn the_host_header_is_the_upstreams_unless_the_clients_is_asked_for() {
    let origin = Origin::start(|_| ok("fine")).await;
    for (word, is_ours) in [("upstream", false), ("client", true)] {
        let holdoff = Holdoff::start(&format!(
            "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\nhost_header = \"{word}\"\n",
            origin.url()
        ))
        .await;
        assert_eq!(ask(&holdoff, "/").await.text(), "fine");
        let wanted = if is_ours { holdoff.reverse(0) } else { origin.address() };
        assert_eq!(origin.last().field("host"), Some(wanted.to_string().as_str()), "{word}");
    }
}

#[tokio::test]
async fn location_is_mapped_back_unless_that_is_switched_off() {
    let origin = moved().await;
    for rewrite in [true, false] {
        let holdoff = Holdoff::start(&format!(
            "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\nrewrite_location = {rewrite}\n",
            origin.url()
        ))
        .await;
        let address = holdoff.reverse(0);
        let mut client = Client::connect(address).await;
        client.send(format!("GET /moved HTTP/1.1\r\nHost: {address}\r\nX-Self: {}\r\n\r\n", origin.address())).await;
        let host = if rewrite { address } else { origin.address() };
        assert_eq!(client.answer("GET").await.field("location"), format!("http://{host}/new"));
    }
}

#[tokio::test]
async fn several_upstreams_share_an_address_by_prefix() {
    let (one, two) = (Origin::start(|_| ok("one")).await, Origin::start(|_| ok("two")).await);
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\npath = \"/one\"\n\
         [[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}/base\"\npath = \"/two\"\n",
        one.url(),
        two.url()
    ))
    .await;
    assert_eq!(ask(&holdoff, "/one/a?b").await.text(), "one");
    assert_eq!(one.last().target(), "/a?b");
    assert_eq!(ask(&holdoff, "/two").await.text(), "two");
    assert_eq!(two.last().target(), "/base");
    for path in ["/onex", "/", "/three"] {
        assert_eq!(ask(&holdoff, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn ipv6_loopback_is_served_like_ipv4() {
    let origin = Origin::start(|_| ok("fine")).await;
    let holdoff = Holdoff::start("[listen]\naddress = [\"[::1]:0\"]\n").await;
    assert!(holdoff.proxy().is_ipv6());
    assert_eq!(holdoff.get(&origin.url()).await.text(), "fine");
}

#[tokio::test]
async fn a_skewed_clock_of_the_host_is_taken_out_of_its_dates() {
    // The host's clock is years behind: its date is in our past, its wait is 90 s all the same.
    let origin = Origin::start(|_| {
        answer(
            429,
            "Too Many Requests",
            &[("Date", "Thu, 19 Nov 2020 10:00:00 GMT"), ("Retry-After", "Thu, 19 Nov 2020 10:01:30 GMT")],
            "",
        )
    })
    .await;
    let holdoff = Holdoff::start("").await;
    assert_eq!(holdoff.get(&origin.url()).await.status, 429);
    let told: u64 = holdoff.get(&origin.url()).await.field("retry-after").parse().unwrap();
    assert!((89..=90).contains(&told), "{told}");
    let seen = holdoff.key(&origin.url()).await;
    assert_eq!(seen["source"], "retry_after_date");
}
