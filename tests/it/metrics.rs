//! What Prometheus sees of real traffic, judged by Prometheus' own tool.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use holdoff::metrics::names::{self, Kind};

use crate::support::client::Client;
use crate::support::origin::{Origin, Reply, answer, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::{roots, secure};
use crate::support::{until, within};

/// A scrape: its text, and each sample's value.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(holdoff: &Holdoff) -> Self {
        let answer = holdoff.ask_admin("GET", "/metrics", "").await;
        assert_eq!(answer.status, 200);
        let text = answer.text().to_owned();
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                (sample.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect();
        Self { text, samples }
    }

    /// The families of which a sample is not 0.
    fn alive(&self) -> impl Iterator<Item = &'static str> {
        names::ALL
            .iter()
            .filter(|family| {
                let name = match family.kind {
                    Kind::Histogram => format!("{}_count", family.name),
                    Kind::Counter | Kind::Gauge => family.name.to_owned(),
                };
                self.samples.iter().any(|(sample, value)| {
                    *value != 0.0
                        && sample.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                })
            })
            .map(|family| family.name)
    }

    fn hosts(&self) -> BTreeSet<&str> {
        self.samples.keys().filter_map(|sample| sample.split_once("host=\"")?.1.split('"').next()).collect()
    }
}

/// Runs `promtool check metrics`, which must be installed, and fails on whatever it finds.
fn lint(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`promtool` (Debian's package `prometheus`); `tests/run` installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "promtool: {}\n{said}\n{text}", output.status);
}

/// An origin that limits its first request and answers the others well.
async fn limits_once(retry_after: &'static str) -> Origin {
    Origin::start(move |seen| if seen.number == 0 { limited(retry_after) } else { ok("good") }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_traffic_makes_every_family_speak_and_promtool_finds_nothing() {
    let cools = limits_once("7200").await;
    let observed = limits_once("60").await;
    let clears = limits_once("0").await;
    let tested = limits_once("0").await;
    let odd = limits_once("soon").await;
    let hangs = Origin::start(|_| Reply::Hang).await;
    let echo = Origin::start(|_| Reply::Echo(b"hello".to_vec())).await;
    let dated = Origin::start(|_| answer(200, "OK", &[("Date", "Sat, 01 Jan 2000 00:00:00 GMT")], "good")).await;
    let ca = tempfile::tempdir().unwrap();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let holdoff = Holdoff::start(&format!(
        "[metrics]\naddress = [\"127.0.0.1:0\"]\n\
         [defaults.cooldown]\nmin_cooldown = \"20ms\"\nhint_jitter = false\n\
         [intercept]\nhosts = [\"peer.example\"]\nca_dir = {:?}\n\
         [[host]]\nmatch = [\"{}\"]\nmode = \"observe\"\n",
        ca.path(),
        observed.address()
    ))
    .await;
    let url = |origin: &Origin| format!("{}/", origin.url());

    assert_eq!(holdoff.get(&url(&cools)).await.status, 429);
    assert_eq!(holdoff.get(&url(&cools)).await.status, 429);
    assert_eq!(cools.count(), 1, "the second was answered locally");
    let freeze =
        holdoff.ask_admin("PUT", &format!("/api/v1/cooldowns?key=http://{}&for=2h", cools.address()), "").await;
    assert_eq!(freeze.status, 200, "{}", freeze.text());
    assert_eq!(holdoff.get(&url(&observed)).await.status, 429);
    assert_eq!(holdoff.get(&url(&observed)).await.status, 200);
    assert_eq!(holdoff.get(&url(&odd)).await.status, 429);
    assert_eq!(holdoff.get(&url(&dated)).await.status, 200);
    assert_eq!(holdoff.get(&format!("http://{gone}/")).await.status, 502);
    assert_eq!(holdoff.get(&url(&tested)).await.status, 429);
    assert_eq!(holdoff.get(&url(&clears)).await.status, 429);
    within("the probe", async { while holdoff.get(&url(&clears)).await.status != 200 {} }).await;

    let target = echo.address().to_string();
    let mut tunnel = holdoff.client().await;
    tunnel.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    assert_eq!(tunnel.answer("CONNECT").await.status, 200);
    tunnel.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(tunnel.bytes(5).await, b"hello");
    let mut session = holdoff.client().await;
    session.send("CONNECT peer.example:443 HTTP/1.1\r\nHost: peer.example:443\r\n\r\n").await;
    assert_eq!(session.answer("CONNECT").await.status, 200);
    let _session = secure(session, "peer.example", roots(&ca.path().join("ca.pem")), &[]).await.unwrap();
    within("the session", async { while holdoff.metric("holdoff_intercepted_sessions_open").await == 0.0 {} }).await;
    let mut waiting = holdoff.client().await;
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&hangs), hangs.address())).await;
    until("the request that hangs", || hangs.count() == 1).await;
    let too_large = holdoff.ask_admin("PUT", "/api/v1/cooldowns?key=a.example", &"x".repeat(17_000)).await;
    assert_eq!(too_large.status, 413);

    let first = Scrape::of(&holdoff).await;
    lint(&first.text);
    let host = |origin: &Origin| origin.address().to_string();
    for (sample, value) in [
        (format!("holdoff_upstream_responses_total{{class=\"429\",host=\"{}\"}}", host(&cools)), 1.0),
        (format!("holdoff_short_circuited_total{{host=\"{}\",reason=\"rate_limited\"}}", host(&cools)), 1.0),
        (
            format!("holdoff_would_have_short_circuited_total{{host=\"{}\",reason=\"rate_limited\"}}", host(&observed)),
            1.0,
        ),
        (format!("holdoff_requests_total{{action=\"failed\",host=\"{gone}\"}}"), 1.0),
        (format!("holdoff_upstream_errors_total{{host=\"{gone}\",kind=\"connect_refused\"}}"), 1.0),
        (format!("holdoff_requests_in_flight{{host=\"{}\"}}", host(&hangs)), 1.0),
        (format!("holdoff_tunnels_open{{host=\"{}\"}}", host(&echo)), 1.0),
        ("holdoff_signal_errors_total{cause=\"malformed\",field=\"retry_after\"}".to_owned(), 1.0),
        ("holdoff_bounds_reached_total{bound=\"admin_body\"}".to_owned(), 1.0),
        ("holdoff_intercepted_sessions_total{result=\"opened\"}".to_owned(), 1.0),
    ] {
        assert_eq!(first.samples.get(&sample), Some(&value), "{sample}\n{}", first.text);
    }

    // What only a full table and a full set of labels can show.
    let full = Holdoff::start("[limits]\nmax_keys = 1\n[metrics]\nmax_host_labels = 1\n").await;
    assert_eq!(full.get(&url(&dated)).await.status, 200);
    let refuses = limits_once("60").await;
    assert_eq!(full.get(&url(&refuses)).await.status, 429);
    assert_eq!(full.get(&url(&dated)).await.status, 200);
    let second = Scrape::of(&full).await;
    lint(&second.text);

    let alive: BTreeSet<_> = first.alive().chain(second.alive()).collect();
    let silent: Vec<_> = names::ALL.iter().map(|family| family.name).filter(|name| !alive.contains(name)).collect();
    assert!(silent.is_empty(), "{silent:?} never spoke\n{}\n{}", first.text, second.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_host_names_makes_no_more_labels_than_the_bound() {
    let holdoff = Holdoff::start("[metrics]\nmax_host_labels = 5\n[upstream]\ndns_timeout = \"1s\"\n").await;
    // Ports of loopback where nobody listens: refused at once, and each a host of its own.
    let mut client = holdoff.client().await;
    for port in 1..=200 {
        let answer = client.get(&format!("http://127.0.0.1:{port}/")).await;
        assert!(answer.status >= 200, "{port}");
    }
    let scrape = Scrape::of(&holdoff).await;
    assert_eq!(scrape.hosts().len(), 6, "{:?}", scrape.hosts());
    assert!(scrape.hosts().contains("_other"));
    let sum = |name: &str| -> f64 {
        scrape.samples.iter().filter(|(sample, _)| sample.starts_with(name)).map(|(_, value)| value).sum()
    };
    assert_eq!(sum("holdoff_requests_total{"), 200.0);
    assert_eq!(sum("holdoff_host_label_overflow_total"), 195.0);
    lint(&scrape.text);
}

#[tokio::test]
async fn the_metrics_listener_shows_the_same_without_the_operators_door() {
    let holdoff = Holdoff::start("[metrics]\naddress = [\"127.0.0.1:0\"]\n").await;
    let mut client = Client::connect(holdoff.metrics_address()).await;
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/api/v1/cooldowns", 404),
        ("DELETE", "/api/v1/cooldowns", 404),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: pod.internal:4292\r\n\r\n")).await;
        assert_eq!(client.answer(method).await.status, status, "{method} {path}");
    }
}
