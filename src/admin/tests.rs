use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use super::view::{Change, Cooldown, List, Problem};
use super::*;
use crate::core::decision::Purpose;
use crate::core::decision::{Reason, Source};
use crate::core::key::Key;
use crate::core::signal::{Hint, Outcome, Signal};
use crate::metrics::{Action, Metrics};
use crate::observe::{LogLimit, Transitions};
use crate::proxy::shared::{Host, Lifecycle};
use crate::state::Secret;
use crate::table::{Table, Verdict, clock};

/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    shared: Arc<Shared>,
    admin: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn detail(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        self.json::<Problem>().detail
    }
}

fn shared(config: &str) -> Arc<Shared> {
    let settings = Arc::new(crate::config::parse(config).unwrap().settings);
    let metrics = Metrics::new(&settings.metrics, std::iter::empty());
    let (hosts, handles) = (settings.hosts.clone(), Arc::clone(&metrics));
    let attach = move |key: &Key| {
        let host = Host::new(Arc::clone(hosts.resolve(key)), handles.host(key), false);
        (Arc::clone(&host.settings.policy), host)
    };
    let table = Arc::new(Table::new(settings.limits.max_keys, attach, Transitions::default()));
    Arc::new(Shared {
        name: "holdoff-test".to_owned(),
        settings,
        secret: Secret::fresh().unwrap(),
        table,
        metrics,
        matches: LogLimit::default(),
        lifecycle: Lifecycle::default(),
    })
}

async fn start(config: &str) -> Running {
    let shared = shared(config);
    let server = Server::bind(Arc::clone(&shared)).await.unwrap();
    let (admin, metrics) = (server.addresses().first().copied(), server.metrics_addresses().first().copied());
    let (stop, stopped) = watch::channel(false);
    Running { shared, admin, metrics, stop, task: tokio::spawn(server.run(stopped)) }
}

const LOOPBACK: &str = "[admin]\naddress = [\"127.0.0.1:0\"]\n";

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Reply {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        write.write_all(request.as_bytes()).await.unwrap();
        read.read_to_end(&mut bytes).await.unwrap();
    })
    .await
    .expect("an answer in time");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

async fn ask(address: Option<SocketAddr>, line: &str, fields: &str, body: &str) -> Reply {
    let stream = TcpStream::connect(address.unwrap()).await.unwrap();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let host = if fields.contains("host:") { "" } else { "host: localhost\r\n" };
    talk(stream, &format!("{line} HTTP/1.1\r\n{host}{fields}{length}connection: close\r\n\r\n{body}")).await
}

async fn get(running: &Running, path: &str) -> Reply {
    ask(running.admin, &format!("GET {path}"), "", "").await
}

fn limit(shared: &Shared, key: &str, secs: u64) {
    let now = clock::now();
    let (_, verdict) = shared.table.admit(&Key::parse(key).unwrap().as_ref(), Purpose::Request, now);
    let Verdict::Forward(permit) = verdict else { panic!("{verdict:?}") };
    let outcome = Outcome::Signal(Signal {
        reason: Reason::RateLimited,
        hint: Some(Hint { wait: Duration::from_secs(secs), source: Source::RetryAfterSeconds }),
        received: Some(format!("Retry-After: {secs}").into()),
    });
    permit.complete(&outcome, Some(429), Some("HTTP 429 from peer.example (retry_after=300s)"), now, 0);
}

#[tokio::test]
async fn ready_follows_the_lifecycle_and_alive_does_not() {
    let running = start(LOOPBACK).await;
    let both = async || (get(&running, "/livez").await.status, get(&running, "/readyz").await);
    let (alive, ready) = both().await;
    assert_eq!((alive, ready.status), (200, 503));
    assert!(ready.body.contains("starting"));
    running.shared.lifecycle.set_ready();
    let (alive, ready) = both().await;
    assert_eq!((alive, ready.status, &*ready.body), (200, 200, "ready\n"));
    running.shared.lifecycle.set_draining();
    let (alive, ready) = both().await;
    assert_eq!((alive, ready.status), (200, 503));
    assert!(ready.body.contains("draining"));
}

#[tokio::test]
async fn a_list_shows_what_cools_why_until_when_and_what_it_saved() {
    let running = start(LOOPBACK).await;
    limit(&running.shared, "https://peer.example", 300);
    let (entry, _) =
        running.shared.table.admit(&Key::parse("peer.example").unwrap().as_ref(), Purpose::Request, clock::now());
    entry.attached().metrics.short_circuit(Reason::RateLimited);
    drop(running.shared.table.admit(&Key::parse("clear.example").unwrap().as_ref(), Purpose::Request, clock::now()));
    running.shared.metrics.host(&Key::parse("x.example").unwrap()).action(Action::Forwarded);
    let list: List = get(&running, "/api/v1/cooldowns").await.json();
    assert_eq!((list.matched, list.truncated, list.cooldowns.len()), (1, false, 1));
    assert_eq!(
        (&*list.name, list.totals.forwarded, list.totals.short_circuited, list.totals.keys),
        ("holdoff-test", 1, 1, 2)
    );
    let row = &list.cooldowns[0];
    assert_eq!(row.key, "https://peer.example:443");
    assert_eq!(
        (&*row.state, row.reason.as_deref(), row.source.as_deref()),
        ("cooling", Some("rate_limited"), Some("retry_after_seconds"))
    );
    assert_eq!((row.signal.as_deref(), row.hint_seconds), (Some("Retry-After: 300"), Some(300)));
    assert!((299..=330).contains(&row.remaining_seconds.unwrap()), "{row:?}");
    assert_eq!(
        (row.rate_step, row.consecutive.limited, row.totals.short_circuited, row.last_status),
        (1, 1, 1, Some(429))
    );
    assert_eq!(row.last_error.as_deref(), Some("HTTP 429 from peer.example (retry_after=300s)"));
    let all: List = get(&running, "/api/v1/cooldowns?all=true&limit=1").await.json();
    assert_eq!((all.matched, all.truncated, all.cooldowns.len()), (2, true, 1));
    for (query, count) in [
        ("state=cooling", 1),
        ("state=clear", 1),
        ("reason=manual", 0),
        ("host=pe", 1),
        ("host=eer", 0),
        ("only_connect=true", 0),
    ] {
        let list: List = get(&running, &format!("/api/v1/cooldowns?{query}")).await.json();
        assert_eq!(list.matched, count, "{query}");
    }
    let one: Cooldown = get(&running, "/api/v1/cooldowns?key=https%3A%2F%2Fpeer.example").await.json();
    assert_eq!(one.key, row.key);
    assert_eq!(get(&running, "/api/v1/cooldowns?key=nobody.example").await.status, 404);
}

#[tokio::test]
async fn an_operator_freezes_and_releases() {
    let running = start(LOOPBACK).await;
    let put =
        async |query: &str, body: &str| ask(running.admin, &format!("PUT /api/v1/cooldowns?{query}"), "", body).await;
    let change: Change = put("key=a.example", r#"{"for":"10m","reason":"moving house"}"#).await.json();
    assert!(change.changed && change.message.starts_with("`https://a.example:443` is frozen until 2"), "{change:?}");
    let row = change.cooldown.unwrap();
    assert_eq!((row.reason.as_deref(), row.note.as_deref()), (Some("manual"), Some("moving house")));
    let change: Change = put("key=a.example&for=1m", "").await.json();
    assert!(
        !change.changed
            && change.message.starts_with("nothing changed: `https://a.example:443` already cools for longer")
    );
    let change: Change = put("key=b.example&for=60d", "").await.json();
    assert!(change.message.ends_with("a freeze lasts at most 30 days, so it was cut"), "{}", change.message);
    assert!(change.cooldown.unwrap().remaining_seconds <= Some(30 * 24 * 3600));
    for (query, body, status) in
        [("for=1m", "", 400), ("key=a.example", "", 400), ("key=a.example", "{", 400), ("key=a_b%20&for=1m", "", 400)]
    {
        assert_eq!(put(query, body).await.status, status, "{query} {body}");
    }
    assert_eq!(put("key=a.example", &"x".repeat(20_000)).await.status, 413);

    let change: Change = put("key=group:nobody&for=1m", "").await.json();
    assert!(change.message.ends_with("; no request has had this key yet, compare it with `holdoff status`"));
    let change: Change = put("key=a.example%23route=typo&for=1m", "").await.json();
    assert!(change.message.contains("no request has had this key yet"), "{}", change.message);
    let change: Change = put("key=a.example%23route=typo&for=2m", "").await.json();
    assert!(!change.message.contains("no request has had this key yet"), "known by now: {}", change.message);

    let delete = async |query: &str| ask(running.admin, &format!("DELETE /api/v1/cooldowns{query}"), "", "").await;
    assert_eq!(delete("?kye=a.example").await.status, 400, "a misspelt key must not release all");
    assert_eq!(
        delete("?key=a.example").await.json::<Change>().message,
        "`https://a.example:443` is released; requests pass again, one by one at first"
    );
    assert!(!delete("?key=a.example").await.json::<Change>().changed);
    assert!(!delete("?key=nobody.example").await.json::<Change>().changed);
    let change: Change = delete("").await.json();
    assert_eq!((change.released, &*change.message), (3, "3 keys are released"));
    let text = get(&running, "/metrics").await.body;
    for line in [
        "holdoff_admin_actions_total{action=\"freeze\",result=\"ok\"} 6",
        "holdoff_admin_actions_total{action=\"freeze\",result=\"refused\"} 5",
        "holdoff_admin_actions_total{action=\"release\",result=\"ok\"} 3",
        "holdoff_admin_actions_total{action=\"release\",result=\"refused\"} 1",
        "holdoff_admin_actions_total{action=\"release_all\",result=\"ok\"} 1",
        "holdoff_bounds_reached_total{bound=\"admin_body\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn nothing_is_changed_by_reading_or_for_strangers() {
    let running = start(LOOPBACK).await;
    limit(&running.shared, "https://peer.example", 300);
    for (line, fields, status) in [
        ("POST /api/v1/cooldowns", "", 405),
        ("POST /livez", "", 405),
        ("DELETE /metrics", "", 405),
        ("GET /api/v1/cooldowns?key=peer.example&for=1m", "", 400),
        ("GET /api/v1/other", "", 404),
        ("DELETE /api/v1/cooldowns", "host: evil.example\r\n", 421),
        ("DELETE /api/v1/cooldowns", "origin: http://evil.example\r\n", 403),
        ("GET /metrics", "host: evil.example\r\n", 421),
        ("GET /livez", "host: evil.example\r\n", 421),
    ] {
        let reply = ask(running.admin, line, fields, "").await;
        assert_eq!(reply.status, status, "{line} {fields}");
        assert!(reply.detail().len() > 10);
        assert_eq!(status == 405, reply.head.contains("allow: GET, HEAD"), "{}", reply.head);
    }
    let list: List = get(&running, "/api/v1/cooldowns?state=cooling").await.json();
    assert_eq!(list.matched, 1);
    let head = ask(running.admin, "HEAD /api/v1/cooldowns", "", "").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(head.head.contains("cache-control: no-store"));
}

#[tokio::test]
async fn the_token_guards_everything_but_the_probes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret\n").unwrap();
    let running = start(&format!("{LOOPBACK}token_file = \"{}\"\n", file.path().display())).await;
    for path in ["/metrics", "/api/v1/cooldowns"] {
        let reply = get(&running, path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.head.contains("www-authenticate: Bearer"));
        assert!(!reply.body.contains("s3cret"));
        let reply = ask(running.admin, &format!("GET {path}"), "authorization: Bearer s3cret\r\n", "").await;
        assert_eq!(reply.status, 200, "{path}");
    }
    assert_eq!(get(&running, "/livez").await.status, 200);
    assert_eq!(get(&running, "/readyz").await.status, 503);
}

#[tokio::test]
async fn the_metrics_listener_has_nothing_else() {
    let running = start(&format!("{LOOPBACK}[metrics]\naddress = [\"127.0.0.1:0\"]\n")).await;
    let asked = async |line: &str| ask(running.metrics, line, "host: scraper.internal\r\n", "").await;
    let reply = asked("GET /metrics").await;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
    assert!(reply.body.contains("# TYPE holdoff_connections_total counter\n"));
    assert!(reply.body.contains("\nprocess_open_fds "), "process metrics");
    assert!(reply.body.contains("holdoff_connections_open{listener=\"metrics\"} 1"));
    assert_eq!(asked("GET /livez").await.status, 200);
    assert_eq!(asked("GET /readyz").await.status, 503);
    assert_eq!(asked("GET /api/v1/cooldowns").await.status, 404);
    assert_eq!(asked("DELETE /api/v1/cooldowns").await.status, 404);
    assert_eq!(asked("PUT /metrics").await.status, 405);
}

#[tokio::test]
async fn a_unix_socket_is_for_its_group_and_replaces_only_a_stale_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let config = format!("[admin]\naddress = [\"unix:{}\"]\n", path.display());
    // What a crash leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let running = start(&config).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let reply =
        talk(UnixStream::connect(&path).await.unwrap(), "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
    assert_eq!(reply.status, 200);
    let second = Server::bind(shared(&config)).await.err().unwrap();
    assert!(second.to_string().contains("(`admin.address`)"), "{second}");
    assert!(path.exists());
    running.stop.send(true).unwrap();
    tokio::time::timeout(DEADLINE, running.task).await.unwrap().unwrap();
    assert!(!path.exists(), "the socket goes with its listener");
    std::fs::write(&path, "precious").unwrap();
    assert!(Server::bind(shared(&config)).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn idle_connections_beyond_the_bound_are_closed_and_counted() {
    let running = start(LOOPBACK).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(running.admin.unwrap()).await.unwrap();
        // A whole exchange, so that the connection has been taken in.
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let mut one_more = TcpStream::connect(running.admin.unwrap()).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, one_more.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed");
    drop(idle.pop());
    let text = loop {
        // The place is free once the server has seen the end.
        let stream = TcpStream::connect(running.admin.unwrap()).await.unwrap();
        let mut bytes = Vec::new();
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = write.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        let _ = tokio::time::timeout(DEADLINE, read.read_to_end(&mut bytes)).await.unwrap();
        if !bytes.is_empty() {
            break String::from_utf8(bytes).unwrap();
        }
    };
    assert!(!text.contains("holdoff_bounds_reached_total{bound=\"admin_connections\"} 0"));
}
