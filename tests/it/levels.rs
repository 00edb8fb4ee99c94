//! Keys narrower and wider than a host: levels, buckets, paths, groups (SPEC 4.2, 4.3).

use std::sync::Arc;
use std::sync::Mutex;

use holdoff::table::clock;
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::client::Answer;
use crate::support::origin::{Origin, Reply, answer, limited, message, ok};
use crate::support::sidecar::Holdoff;
use crate::support::until;

/// A policy as a vendor of bots would have it: a credential, below it routes that share buckets.
const BOTS: &str = r#"
[[host]]
match = ["127.0.0.1"]
[[host.level]]
name = "credential"
by = ["header:authorization"]
[[host.level]]
name = "route"
by = ["header:authorization", "method", "path"]
routes = ["/channels/{channel}/messages/*", "/channels/{channel}/*"]
bucket = "x-bucket"
[[host.signals.scope]]
field = "x-scope"
equals = "global"
level = "credential"
[[host.signals.scope]]
field = "x-scope"
equals = "shared"
level = "route"
step = false
[[host.signals.scope]]
field = "x-scope"
equals = "address"
level = "host"
"#;

/// Paths, and the fields of their answers.
type Replies = Arc<Mutex<Vec<(&'static str, Vec<(&'static str, &'static str)>)>>>;

/// An origin that says of each path what a test wants.
struct Peer {
    origin: Origin,
    replies: Replies,
}

impl Peer {
    /// Everything is well.
    async fn start() -> Self {
        let replies = Replies::default();
        let script = Arc::clone(&replies);
        let origin = Origin::start(move |seen| {
            let replies = script.lock().unwrap();
            match replies.iter().find(|(target, _)| *target == seen.target()) {
                Some((_, fields)) if fields.iter().any(|(name, _)| *name == "Retry-After") => {
                    answer(429, "Too Many Requests", fields, "slow down\n")
                }
                Some((_, fields)) => answer(200, "OK", fields, "fine"),
                None => ok("fine"),
            }
        })
        .await;
        Self { origin, replies }
    }

    /// From now on the path is answered with these fields; a 429 if `Retry-After` is among them.
    fn says(&self, path: &'static str, fields: &[(&'static str, &'static str)]) {
        self.replies.lock().unwrap().push((path, fields.to_vec()));
    }

    fn is_well(&self) {
        self.replies.lock().unwrap().clear();
    }

    async fn ask(&self, holdoff: &Holdoff, method: &str, path: &str, token: &str) -> Answer {
        let host = self.origin.address();
        let mut client = holdoff.client().await;
        let fields = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
        client.send(format!("{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        client.answer(method).await
    }

    /// Whether a request is answered by the peer.
    async fn is_asked(&self, holdoff: &Holdoff, method: &str, path: &str, token: &str) -> bool {
        let answer = self.ask(holdoff, method, path, token).await;
        answer.fields("holdoff").is_empty()
    }
}

async fn keys(holdoff: &Holdoff) -> Vec<Value> {
    let list = holdoff.ask_admin("GET", "/api/v1/cooldowns", "").await.json();
    list["cooldowns"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
}

#[tokio::test]
async fn a_limit_of_a_route_stops_that_route_of_that_credential_and_nothing_else() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/messages/2", &[("Retry-After", "60")]);
    assert_eq!(peer.ask(&holdoff, "POST", "/channels/1/messages/2", "one").await.status, 429);
    let refused = peer.ask(&holdoff, "POST", "/channels/1/messages/3", "one").await;
    assert_eq!(refused.status, 429);
    let mark = refused.field("holdoff");
    assert!(mark.contains("#route=") && mark.contains("POST /channels/1/messages/*"), "{mark}");
    for (method, path, token) in [
        ("GET", "/channels/1/messages/3", "one"),
        ("POST", "/channels/2/messages/3", "one"),
        ("POST", "/channels/1/pins", "one"),
        ("POST", "/elsewhere", "one"),
        ("POST", "/channels/1/messages/3", "two"),
        ("POST", "/channels/1/messages/3", ""),
    ] {
        assert!(peer.is_asked(&holdoff, method, path, token).await, "{method} {path} {token}");
    }
}

#[tokio::test]
async fn a_global_limit_stops_every_route_of_its_credential_and_no_other_credential() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/messages/2", &[("Retry-After", "60"), ("X-Scope", "Global")]);
    assert_eq!(peer.ask(&holdoff, "POST", "/channels/1/messages/2", "one").await.status, 429);
    for (method, path) in [("GET", "/channels/1/messages/2"), ("POST", "/channels/9/pins"), ("GET", "/elsewhere")] {
        let refused = peer.ask(&holdoff, method, path, "one").await;
        assert!(refused.field("holdoff").contains("#credential="), "{}", refused.head);
        assert!(peer.is_asked(&holdoff, method, "/channels/7/pins", "two").await);
    }
}

#[tokio::test]
async fn a_limit_of_the_address_stops_every_credential() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/messages/2", &[("Retry-After", "60"), ("X-Scope", "address")]);
    assert_eq!(peer.ask(&holdoff, "POST", "/channels/1/messages/2", "one").await.status, 429);
    assert!(!peer.is_asked(&holdoff, "GET", "/channels/8/pins", "two").await);
    assert!(!peer.is_asked(&holdoff, "GET", "/", "").await);
}

#[tokio::test]
async fn a_shared_limit_climbs_no_ladder() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    for (path, scope, step) in [("/channels/1/pins", "shared", 0), ("/channels/2/pins", "user", 1)] {
        peer.says(path, &[("Retry-After", "60"), ("X-Scope", scope)]);
        assert_eq!(peer.ask(&holdoff, "PUT", path, "one").await.status, 429);
        let keys = keys(&holdoff).await;
        let key = keys.iter().find(|key| key["key"].as_str().unwrap().contains(&path[..11])).unwrap();
        assert_eq!((&key["state"], &key["rate_step"]), (&"cooling".into(), &step.into()), "{key}");
    }
}

#[tokio::test]
async fn routes_that_share_a_bucket_stop_together() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    // What the host named so is remembered from good answers.
    for path in ["/channels/1/messages/2", "/channels/1/pins", "/channels/2/pins"] {
        peer.says(path, &[("X-Bucket", "b1")]);
        assert!(peer.is_asked(&holdoff, "GET", path, "one").await);
    }
    peer.says("/channels/1/other", &[("X-Bucket", "b2")]);
    assert!(peer.is_asked(&holdoff, "PUT", "/channels/1/other", "one").await);
    peer.is_well();
    peer.says("/channels/1/messages/2", &[("Retry-After", "60"), ("X-Bucket", "b1")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/messages/2", "one").await.status, 429);
    let refused = peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await;
    assert!(refused.field("holdoff").contains("bucket=b1"), "{}", refused.head);
    assert!(!peer.is_asked(&holdoff, "GET", "/channels/1/messages/3", "one").await);
    assert!(peer.is_asked(&holdoff, "GET", "/channels/2/pins", "one").await, "another channel has its own");
    assert!(peer.is_asked(&holdoff, "PUT", "/channels/1/other", "one").await, "another bucket");
    assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "two").await, "another credential");
}

#[tokio::test]
async fn a_bucket_that_a_limited_answer_names_first_cools_at_once() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/messages/2", &[("Retry-After", "60"), ("X-Bucket", "b1")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/messages/2", "one").await.status, 429);
    let refused = peer.ask(&holdoff, "GET", "/channels/1/messages/9", "one").await;
    assert!(refused.field("holdoff").contains("bucket=b1"), "{}", refused.head);
    let key = &keys(&holdoff).await.into_iter().find(|key| key["state"] == "cooling").unwrap();
    assert_eq!(key["rate_step"], 1, "it is the first step of the bucket: {key}");
}

#[tokio::test]
async fn answers_that_name_a_bucket_at_one_time_are_one_limit_and_not_that_of_the_route_too() {
    let gate = Arc::new(Notify::new());
    let script = Arc::clone(&gate);
    let limited = [("Retry-After", "60"), ("X-Bucket", "b1")];
    let origin = Origin::start(move |_| {
        Reply::Gate(Arc::clone(&script), message(429, "Too Many Requests", &limited, "slow down\n"))
    })
    .await;
    let holdoff = Holdoff::start(BOTS).await;
    let url = format!("{}/channels/1/pins", origin.url());
    let asked = async { tokio::join!(holdoff.get(&url), holdoff.get(&url), holdoff.get(&url)) };
    let opened = async {
        until("every request", || origin.count() == 3).await;
        gate.notify_waiters();
    };
    let ((one, two, three), ()) = tokio::join!(asked, opened);
    assert_eq!([one.status, two.status, three.status], [429; 3]);
    let keys = keys(&holdoff).await;
    let cooling: Vec<&str> =
        keys.iter().filter(|key| key["state"] != "clear").map(|key| key["key"].as_str().unwrap()).collect();
    assert!(matches!(cooling.as_slice(), [key] if key.ends_with("bucket=b1")), "{cooling:?}");
    let key = keys.iter().find(|key| key["state"] == "cooling").unwrap();
    assert_eq!(key["rate_step"], 1, "{key}");
}

/// How long a key was not used is known to the second.
async fn next_second() {
    let second = || clock::now().as_nanos() / 1_000_000_000;
    let began = second();
    until("the next second", || second() > began).await;
}

#[tokio::test]
async fn a_route_that_is_asked_for_in_vain_does_not_forget_its_bucket() {
    let (peer, other) = (Peer::start().await, Origin::start(|_| ok("fine")).await);
    let config = format!("[limits]\nmax_keys = 5\n{}", BOTS.replace("127.0.0.1", &peer.origin.address().to_string()));
    let holdoff = Holdoff::start(&config).await;
    peer.says("/channels/1/pins", &[("Retry-After", "60"), ("X-Bucket", "b1")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await.status, 429);
    // The host, the credential, the route, the bucket; room for one more.
    assert_eq!(holdoff.shared().table.stats().keys, 4);
    next_second().await;
    assert_eq!(holdoff.get(&other.url()).await.status, 200);
    next_second().await;
    assert!(!peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await);
    // Now somebody has to go.
    assert_eq!(holdoff.get(&other.url().replace("127.0.0.1", "localhost")).await.status, 200);
    assert_eq!(holdoff.shared().table.stats().evicted, 1);
    let refused = peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await;
    assert!(refused.field("holdoff").contains("bucket=b1"), "{}", refused.head);
}

#[tokio::test]
async fn the_longest_body_of_a_request_is_that_of_its_path() {
    let (peer, one) = (Peer::start().await, "[host.timeouts]\nmax_request_body = \"4B\"\n");
    let holdoff = Holdoff::start(&format!(
        "[[host]]\nmatch = [\"127.0.0.1\"]\n{one}\
         [[host]]\nmatch = [\"127.0.0.1\"]\npaths = [\"/big\"]\n[host.timeouts]\nmax_request_body = \"6B\"\n"
    ))
    .await;
    let host = peer.origin.address();
    for (path, body, status) in
        [("/", "1234", 200), ("/", "12345", 413), ("/big", "123456", 200), ("/big", "1234567", 413)]
    {
        let mut client = holdoff.client().await;
        let length = body.len();
        let head = format!("POST http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        client.send(format!("{head}{body}")).await;
        assert_eq!(client.answer("POST").await.status, status, "{path} {body}");
    }
}

#[tokio::test]
async fn a_host_that_names_another_bucket_is_believed() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    for bucket in ["b1", "b2"] {
        peer.is_well();
        peer.says("/channels/1/pins", &[("X-Bucket", bucket)]);
        assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await);
    }
    peer.is_well();
    peer.says("/channels/1/messages/7", &[("Retry-After", "60"), ("X-Bucket", "b1")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/messages/7", "one").await.status, 429);
    assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await, "it is in b2 by now");
}

#[tokio::test]
async fn the_longest_wait_of_all_levels_is_served() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/pins", &[("Retry-After", "20")]);
    peer.says("/channels/2/pins", &[("Retry-After", "300"), ("X-Scope", "global")]);
    for path in ["/channels/1/pins", "/channels/2/pins"] {
        assert_eq!(peer.ask(&holdoff, "GET", path, "one").await.status, 429);
    }
    let refused = peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await;
    let wait: u64 = refused.field("retry-after").parse().unwrap();
    assert!((290..=300).contains(&wait), "{}", refused.head);
}

#[tokio::test]
async fn a_probe_of_a_credential_that_meets_a_limit_of_its_route_clears_the_credential() {
    let (peer, holdoff) = (Peer::start().await, Holdoff::start(BOTS).await);
    peer.says("/channels/1/pins", &[("Retry-After", "1"), ("X-Scope", "global")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await.status, 429);
    peer.is_well();
    peer.says("/channels/2/pins", &[("Retry-After", "60"), ("X-Scope", "user")]);
    let key = keys(&holdoff).await.into_iter().find(|key| key["state"] != "clear").unwrap();
    while holdoff.key(&percent(key["key"].as_str().unwrap())).await["state"] == "cooling" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/2/pins", "one").await.status, 429);
    assert!(peer.is_asked(&holdoff, "GET", "/channels/3/pins", "one").await);
    assert!(!peer.is_asked(&holdoff, "GET", "/channels/2/pins", "one").await);
}

fn percent(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn failures_are_for_the_host_and_stop_every_level() {
    let origin = Origin::start(|_| Reply::Reset).await;
    let holdoff = Holdoff::start(&format!("{BOTS}\n[host.breaker]\nfailure_threshold = 2\ninitial = \"60s\"\n")).await;
    let host = origin.address();
    for path in ["/channels/1/pins", "/channels/2/pins"] {
        assert_eq!(holdoff.get(&format!("http://{host}{path}")).await.status, 502);
    }
    let refused = holdoff.get(&format!("http://{host}/channels/3/pins")).await;
    assert_eq!(refused.status, 503);
    assert!(refused.field("holdoff").contains(&format!("key=\"http://{host}\"")), "{}", refused.head);
}

#[tokio::test]
async fn hosts_of_a_group_stop_together() {
    let (one, two, other) = (Peer::start().await, Peer::start().await, Peer::start().await);
    let holdoff = Holdoff::start(&format!(
        "[[host]]\nmatch = [\"{}\"]\ngroup = \"uploads\"\n[[host]]\nmatch = [\"{}\"]\ngroup = \"uploads\"\n",
        one.origin.address(),
        two.origin.address()
    ))
    .await;
    one.says("/", &[("Retry-After", "60")]);
    assert_eq!(one.ask(&holdoff, "GET", "/", "").await.status, 429);
    let refused = two.ask(&holdoff, "GET", "/", "").await;
    assert!(refused.field("holdoff").contains("key=\"group:uploads\""), "{}", refused.head);
    assert!(other.is_asked(&holdoff, "GET", "/", "").await);
    assert_eq!(holdoff.key("group:uploads").await["state"], "cooling");
    let labels = format!("{{host=\"{}\",reason=\"rate_limited\"}}", two.origin.address());
    assert_eq!(
        holdoff.metric(&format!("holdoff_short_circuited_total{labels}")).await,
        1.0,
        "it is the host's request"
    );
    let released = holdoff.ask_admin("DELETE", "/api/v1/cooldowns?key=group:uploads", "").await;
    assert_eq!(released.status, 200, "{}", released.text());
    assert!(two.is_asked(&holdoff, "GET", "/", "").await);
}

#[tokio::test]
async fn a_table_with_paths_has_a_key_of_its_own() {
    let peer = Peer::start().await;
    let host = peer.origin.address();
    let holdoff = Holdoff::start(
        "[[host]]\nmatch = [\"127.0.0.1\"]\npaths = [\"/v1/*\", \"/beta\"]\n\
         [[host]]\nmatch = [\"127.0.0.1\"]\npaths = [\"/v1/private/*\"]\nmode = \"off\"\n",
    )
    .await;
    peer.says("/v1/a", &[("Retry-After", "60")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/v1/a", "").await.status, 429);
    let refused = peer.ask(&holdoff, "GET", "/v1/b", "").await;
    assert!(refused.field("holdoff").contains(&format!("key=\"http://{host}#paths=/v1/*,/beta\"")), "{}", refused.head);
    assert!(!peer.is_asked(&holdoff, "GET", "/beta", "").await);
    assert!(peer.is_asked(&holdoff, "GET", "/v2/a", "").await);
    assert!(peer.is_asked(&holdoff, "GET", "/v1/private/a?x=1", "").await, "the more specific table is off");
}

#[tokio::test]
async fn a_freeze_of_the_host_holds_for_all_it_is_divided_into() {
    let peer = Peer::start().await;
    let host = peer.origin.address();
    for config in [
        BOTS.to_owned(),
        format!("[[host]]\nmatch = [\"{host}\"]\ngroup = \"all\"\n"),
        "[[host]]\nmatch = [\"127.0.0.1\"]\npaths = [\"/channels/*\"]\nmode = \"observe\"\n".to_owned(),
    ] {
        let holdoff = Holdoff::start(&config).await;
        assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await);
        let frozen =
            holdoff.ask_admin("PUT", &format!("/api/v1/cooldowns?key=http://{host}"), "{\"for\":\"60s\"}").await;
        assert_eq!(frozen.status, 200, "{}", frozen.text());
        let refused = peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await;
        assert!(refused.field("holdoff").contains("reason=manual"), "{}", refused.head);
        let released = holdoff.ask_admin("DELETE", &format!("/api/v1/cooldowns?key=http://{host}"), "").await;
        assert_eq!(released.status, 200);
        assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await);
    }
}

#[tokio::test]
async fn mode_observe_counts_a_request_once_however_many_keys_refuse_it() {
    let peer = Peer::start().await;
    let holdoff = Holdoff::start(&BOTS.replace("match =", "mode = \"observe\"\nmatch =")).await;
    peer.says("/channels/1/pins", &[("Retry-After", "60")]);
    peer.says("/channels/2/pins", &[("Retry-After", "60"), ("X-Scope", "global")]);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/1/pins", "one").await.status, 429);
    assert_eq!(peer.ask(&holdoff, "GET", "/channels/2/pins", "one").await.status, 429);
    assert!(peer.is_asked(&holdoff, "GET", "/channels/1/pins", "one").await);
    let sample = format!(
        "holdoff_would_have_short_circuited_total{{host=\"{}\",reason=\"rate_limited\"}}",
        peer.origin.address()
    );
    assert_eq!(holdoff.metric(&sample).await, 1.0);
}

#[tokio::test]
async fn an_ignored_method_says_nothing_about_its_host() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("[defaults.signals]\nignore_methods = [\"HEAD\"]\n").await;
    let url = format!("http://{}/", origin.address());
    for _ in 0..2 {
        let mut client = holdoff.client().await;
        client.send(format!("HEAD {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).await;
        let answer = client.answer("HEAD").await;
        assert!(answer.status == 429 && answer.fields("holdoff").is_empty(), "{}", answer.head);
    }
    assert_eq!(holdoff.get(&url).await.status, 429);
    assert!(!holdoff.get(&url).await.fields("holdoff").is_empty());
}
