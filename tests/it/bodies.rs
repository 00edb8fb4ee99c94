//! Body rules on the data path (SPEC 2.11, 2.12): what is seen in a body while it passes, byte for byte the same, and what it
//! stops.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::client::{Answer, Client};
use crate::support::host::{Host, Line};
use crate::support::http2::{Peer, Session, request, reverse_to};
use crate::support::origin::{Origin, Reply, Seen, answer, ok};
use crate::support::program::Program;
use crate::support::sidecar::Holdoff;
use crate::support::tls::{Authority, roots, secure};
use crate::support::within;

/// A job that was accepted and then dropped: two conditions, of which one is a place and one a text.
const NO_WORKER: &str = r#"
[[defaults.signals.body]]
name = "no-worker"
media_types = ["application/json", "text/event-stream"]
conditions = [{ pointer = "/status", equals = "failed" }, { text = "worker likely died" }]
"#;

const BUSY: &str = r#"{"id":7,"status":"failed","error":"background worker likely died"}"#;
const NEAR: &str = r#"{"id":7,"status":"failed","error":"background worker likely dined"}"#;

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

fn encoded(coding: &str, body: &str) -> Vec<u8> {
    let body = body.as_bytes();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let (mut out, mut body) = (Vec::new(), body);
            brotli::BrotliCompress(&mut body, &mut out, &brotli::enc::BrotliEncoderParams::default()).unwrap();
            out
        }
        "zstd" => ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest),
        _ => body.to_vec(),
    }
}

/// A head, and a body in pieces.
fn framed(fields: &[(&str, &str)], body: &[u8], is_chunked: bool, size: usize) -> Vec<Vec<u8>> {
    let mut head = "HTTP/1.1 202 Accepted\r\n".to_owned();
    for (name, value) in fields {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if is_chunked {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
    } else {
        write!(head, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
    }
    let chunk = |piece: &[u8]| match is_chunked {
        true => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
        false => piece.to_vec(),
    };
    let end = if is_chunked { b"0\r\n\r\n".to_vec() } else { Vec::new() };
    [head.into_bytes()].into_iter().chain(body.chunks(size).map(chunk)).chain([end]).collect()
}

async fn state(holdoff: &Holdoff, key: &str) -> String {
    holdoff.key(key).await["state"].as_str().unwrap().to_owned()
}

async fn becomes(holdoff: &Holdoff, key: &str, wanted: &str) {
    within(wanted, async {
        while state(holdoff, key).await != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn assert_busy(holdoff: &Holdoff, key: &str) {
    let seen = holdoff.key(key).await;
    assert_eq!((&seen["state"], &seen["reason"]), (&"cooling".into(), &"backend_busy".into()), "{seen}");
    assert_eq!(seen["source"], "body_rule", "{seen}");
}

fn is_ten_minutes(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert!(answer.field("holdoff").contains("reason=backend_busy"), "{}", answer.head);
    assert!((595..=600).contains(&answer.field("retry-after").parse::<u64>().unwrap()), "{}", answer.head);
}

fn errors(cause: &str) -> String {
    format!("holdoff_signal_errors_total{{cause=\"{cause}\",field=\"body\"}}")
}

fn signals(host: impl std::fmt::Display) -> String {
    format!("holdoff_signals_total{{host=\"{host}\",source=\"body_rule\"}}")
}

/// Every coding and framing, whole and byte by byte: what the client gets is what it gets from a sidecar without rules.
#[tokio::test]
async fn a_body_that_a_rule_fits_cools_and_a_near_miss_does_not_and_no_byte_changes() {
    let named = "[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"one\"\n";
    let plain = Holdoff::start(named).await;
    let holdoff = Holdoff::start(&format!("{named}{NO_WORKER}")).await;
    for coding in ["identity", "gzip", "br", "zstd"] {
        for (is_chunked, size) in [(false, usize::MAX), (false, 1), (true, usize::MAX), (true, 1)] {
            for (body, cools) in [(BUSY, true), (NEAR, false)] {
                let what = format!("{coding}, chunked {is_chunked}, pieces of {size}, cools {cools}");
                let sent = encoded(coding, body);
                let fields = [
                    ("Content-Type", "application/json; charset=utf-8"),
                    ("Content-Encoding", coding),
                    ("Date", "Thu, 19 Nov 2026 10:00:00 GMT"),
                    ("X-Odd", "kept  as, it is"),
                ];
                let pieces = framed(&fields, &sent, is_chunked, size);
                let origin = Origin::start(move |_| Reply::Slow(pieces.clone(), Duration::ZERO)).await;
                let without = plain.get(&origin.url()).await;
                let with = holdoff.get(&origin.url()).await;
                assert_eq!((&with.head, &with.body), (&without.head, &sent), "{what}");
                assert!(with.complete && without.body == sent, "{what}");
                assert_eq!(with.field("x-odd"), "kept  as, it is");
                assert_eq!(state(&plain, &origin.url()).await, "clear", "{what}");
                if !cools {
                    assert_eq!(state(&holdoff, &origin.url()).await, "clear", "{what}");
                    assert_eq!(holdoff.metric(&signals(origin.address())).await, 0.0, "{what}");
                    continue;
                }
                assert_busy(&holdoff, &origin.url()).await;
                is_ten_minutes(&holdoff.get(&origin.url()).await);
                assert_eq!(origin.count(), 2, "{what}");
                assert_eq!(holdoff.metric(&signals(origin.address())).await, 1.0, "{what}");
                let line = holdoff.key(&origin.url()).await["last_error"].as_str().unwrap().to_owned();
                let wanted = format!(
                    "HTTP 202 from {} (rule no-worker: /status = \"failed\", text \"worker likely died\")",
                    origin.address()
                );
                assert_eq!(line, wanted, "{what}");
            }
        }
    }
    assert_eq!(holdoff.metric(&errors("malformed")).await, 0.0);
}

/// A host whose polls and uploads are told apart by their paths.
fn app(port: u16) -> String {
    format!(
        r#"
[[host]]
match = ["http://127.0.0.1:{port}"]
paths = ["/v2/upload"]
group = "uploads"
[[host]]
match = ["http://127.0.0.1:{port}"]
paths = ["/v2/jobs/*"]
[[host.signals.body]]
name = "worker-died"
media_types = ["application/json"]
conditions = [{{ pointer = "/status", equals = "failed" }}, {{ text = "background worker likely died" }}]
cools = "group:uploads"
[[host.signals.body]]
name = "nothing-done"
media_types = ["application/json"]
conditions = [{{ pointer = "/status", equals = "failed" }}, {{ pointer = "/totalSegments", equals = 0 }}]
cools = "group:uploads"
"#
    )
}

const DIED: &str = r#"{"job":{"id":"4c1"},"status":"failed","error":"Job stuck for 10 min - background worker likely died","retry":null}"#;
const NOTHING: &str = r#"{"status":"failed","processedSegments":0,"totalSegments":0,"error":null}"#;

async fn upload(holdoff: &Holdoff, origin: &Origin) -> Answer {
    let host = origin.address();
    let mut client = holdoff.client().await;
    client.send(format!("POST http://{host}/v2/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nwav")).await;
    client.answer("POST").await
}

#[tokio::test]
async fn a_failed_job_seen_by_a_poll_stops_the_uploads_and_the_polls_go_on() {
    for (found, rule) in [
        (DIED, r#"rule worker-died: /status = "failed", text "background worker likely died""#),
        (NOTHING, r#"rule nothing-done: /status = "failed", /totalSegments = 0"#),
    ] {
        let origin = Origin::start(move |seen: &Seen| match seen.target() {
            "/v2/upload" => answer(202, "Accepted", JSON, r#"{"status":"queued"}"#),
            "/v2/jobs/bad" => answer(200, "OK", JSON, found),
            // Failed by itself, with something done.
            "/v2/jobs/unfit" => answer(200, "OK", JSON, r#"{"status":"failed","totalSegments":3,"error":"noise"}"#),
            _ => answer(200, "OK", JSON, r#"{"status":"running","totalSegments":0}"#),
        })
        .await;
        let holdoff = Holdoff::start(&app(origin.address().port())).await;
        let poll = async |job: &str| holdoff.get(&format!("{}/v2/jobs/{job}", origin.url())).await;
        // The group has no entry yet: it is made when it is told.
        assert_eq!(poll("unfit").await.status, 200);
        assert_eq!(poll("one").await.status, 200);
        if rule.contains("nothing-done") {
            assert_eq!(upload(&holdoff, &origin).await.status, 202);
        }
        assert_eq!(poll("bad").await.text(), found);
        is_ten_minutes(&upload(&holdoff, &origin).await);
        assert_busy(&holdoff, "group:uploads").await;
        let line = holdoff.key("group:uploads").await["last_error"].as_str().unwrap().to_owned();
        assert_eq!(line, format!("HTTP 200 from {} ({rule})", origin.address()));
        let before = origin.count();
        for _ in 0..3 {
            assert_eq!(poll("bad").await.text(), found, "the polls go on");
        }
        is_ten_minutes(&upload(&holdoff, &origin).await);
        assert_eq!(origin.count(), before + 3);
        assert_eq!(holdoff.metric(&signals(origin.address())).await, 4.0, "once for each match");
    }
}

#[tokio::test]
async fn the_preset_of_an_app_stops_the_host_that_lost_its_workers() {
    for found in [DIED, NOTHING] {
        let origin = Origin::start(move |_| answer(200, "OK", JSON, found)).await;
        let holdoff = Holdoff::start("[[host]]\nmatch = [\"127.0.0.1\"]\npreset = \"app-sync\"\n").await;
        assert_eq!(holdoff.get(&origin.url()).await.text(), found);
        is_ten_minutes(&holdoff.get(&origin.url()).await);
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test]
async fn a_rule_cools_the_key_of_the_request_or_its_host() {
    for (cools, others) in [("level", 200), ("host", 503)] {
        let origin = Origin::start(|seen: &Seen| match seen.target() {
            "/a/busy" => answer(200, "OK", JSON, BUSY),
            _ => ok("fine"),
        })
        .await;
        let holdoff = Holdoff::start(&format!(
            "{NO_WORKER}cools = \"{cools}\"\n[[host]]\nmatch = [\"127.0.0.1\"]\n[[host.level]]\nname = \"route\"\n\
             by = [\"path\"]\nroutes = [\"/a/*\", \"/b/*\"]\n"
        ))
        .await;
        let get = async |path: &str| holdoff.get(&format!("{}{path}", origin.url())).await.status;
        assert_eq!(get("/a/busy").await, 200);
        assert_eq!([get("/a/one").await, get("/b/one").await, get("/").await], [503, others, others], "{cools}");
    }
}

/// A key that cooled for a second and is asked again: the probe is at the host, its answer is for the test to write.
struct Probe {
    holdoff: Holdoff,
    url: String,
    client: Client,
    line: Line,
    /// So that it goes on listening.
    _host: Host,
}

impl Probe {
    async fn start(toml: &str) -> Self {
        let host = Host::start().await;
        let holdoff = Holdoff::start(toml).await;
        let url = format!("http://{}", host.address);
        let mut client = holdoff.client().await;
        let ask = format!("GET {url}/ HTTP/1.1\r\nHost: {}\r\n\r\n", host.address);
        client.send(&ask).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        line.send("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer("GET").await.status, 429);
        becomes(&holdoff, &url, "probing").await;
        client.send(&ask).await;
        line.until("\r\n\r\n").await;
        Self { holdoff, url, client, line, _host: host }
    }

    /// The head of an answer that goes well so far, and the first bytes of its body, which the client gets at once.
    async fn open(&mut self, begin: &str, length: usize) {
        let head =
            format!("HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        self.line.send(&format!("{head}{begin}")).await;
        let mut got = String::new();
        while !got.ends_with(&format!("\r\n\r\n{begin}")) {
            got.push_str(std::str::from_utf8(&self.client.bytes(1).await).unwrap());
        }
        assert!(got.starts_with("HTTP/1.1 202 "), "{got}");
    }

    async fn state(&self) -> String {
        state(&self.holdoff, &self.url).await
    }
}

#[tokio::test]
async fn a_probe_is_a_success_when_its_body_has_ended_well_and_not_before() {
    let mut probe = Probe::start(NO_WORKER).await;
    let (begin, end) = NEAR.split_at(30);
    probe.open(begin, NEAR.len()).await;
    assert_eq!(probe.state().await, "probing");
    let refused = probe.holdoff.get(&probe.url).await;
    assert_eq!((refused.status, refused.field("retry-after")), (429, "1"), "the probe is out");
    probe.line.send(end).await;
    assert_eq!(probe.client.bytes(end.len()).await, end.as_bytes());
    assert_eq!(probe.state().await, "clear");
}

#[tokio::test]
async fn a_probe_whose_body_matches_never_clears_the_key() {
    let mut probe = Probe::start(NO_WORKER).await;
    let (begin, end) = BUSY.split_at(30);
    probe.open(begin, BUSY.len()).await;
    probe.line.send(end).await;
    assert_eq!(probe.client.bytes(end.len()).await, end.as_bytes());
    assert_busy(&probe.holdoff, &probe.url).await;
    is_ten_minutes(&probe.holdoff.get(&probe.url).await);
    let host = probe.url.strip_prefix("http://").unwrap();
    let ended = format!("holdoff_cooldowns_ended_total{{cause=\"probe\",host=\"{host}\"}}");
    assert_eq!(probe.holdoff.metric(&ended).await, 0.0, "it was never clear");
    assert_eq!(probe.holdoff.metric(&signals(host)).await, 1.0);
}

#[tokio::test]
async fn a_probe_counts_at_the_end_of_its_lease_and_what_is_seen_later_cools_all_the_same() {
    let toml = format!("[defaults.cooldown]\nhint_jitter = false\nprobe_lease = \"1s\"\n{NO_WORKER}");
    let mut probe = Probe::start(&toml).await;
    let (begin, end) = BUSY.split_at(30);
    probe.open(begin, BUSY.len()).await;
    becomes(&probe.holdoff, &probe.url, "clear").await;
    probe.line.send(end).await;
    assert_eq!(probe.client.bytes(end.len()).await, end.as_bytes());
    assert_busy(&probe.holdoff, &probe.url).await;
    assert_eq!(probe.holdoff.key(&probe.url).await["rate_step"], 0, "it climbs no ladder");
}

#[tokio::test]
async fn what_was_seen_when_the_lease_ends_is_looked_at() {
    let toml = format!("[defaults.cooldown]\nhint_jitter = false\nprobe_lease = \"1s\"\n{NO_WORKER}");
    let mut probe = Probe::start(&toml).await;
    probe.open(BUSY, BUSY.len() + 1).await;
    assert_eq!(probe.state().await, "probing");
    becomes(&probe.holdoff, &probe.url, "cooling").await;
    assert_busy(&probe.holdoff, &probe.url).await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_take_what_was_seen_with_it() {
    for (body, wanted) in [(BUSY, "cooling"), (NEAR, "probing")] {
        let mut probe = Probe::start(NO_WORKER).await;
        probe.open(body, body.len() + 1).await;
        drop(probe.client);
        probe.line.ends().await;
        let host = probe.url.strip_prefix("http://").unwrap();
        let left = format!(
            "holdoff_probes_total{{host=\"{host}\",result=\"{}\"}}",
            if wanted == "cooling" { "limited" } else { "cancelled" }
        );
        within("the verdict", async {
            while probe.holdoff.metric(&left).await == 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(state(&probe.holdoff, &probe.url).await, wanted);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_passes_as_far_as_it_came_and_is_judged_so() {
    for (body, wanted) in [(BUSY, "cooling"), (NEAR, "clear")] {
        for is_chunked in [false, true] {
            let mut bytes = framed(JSON, body.as_bytes(), is_chunked, usize::MAX);
            bytes.pop();
            let head =
                String::from_utf8(bytes.remove(0)).unwrap().replace(&format!("{}\r\n\r\n", body.len()), "400\r\n\r\n");
            let bytes = [head.into_bytes(), bytes.concat()].concat();
            let origin = Origin::start(move |_| Reply::Close(bytes.clone())).await;
            let holdoff = Holdoff::start(NO_WORKER).await;
            let got = holdoff.get(&origin.url()).await;
            assert_eq!((got.text(), got.complete), (body, false));
            becomes(&holdoff, &origin.url(), wanted).await;
            assert_eq!(holdoff.metric(&errors("malformed")).await, 0.0);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_passes_unchanged_and_is_counted() {
    let cut = encoded("gzip", BUSY)[..20].to_vec();
    let mut bad = encoded("gzip", BUSY);
    bad[12..].fill(0xff);
    for (coding, body, [malformed, unsupported]) in [
        ("gzip", bad, [1.0, 0.0]),
        ("gzip", BUSY.into(), [1.0, 0.0]),
        // It may just go on somewhere else.
        ("gzip", cut, [0.0, 0.0]),
        ("identity", format!("{{]{BUSY}").into(), [1.0, 0.0]),
        ("compress", BUSY.into(), [0.0, 1.0]),
        ("gzip, br", BUSY.into(), [0.0, 1.0]),
    ] {
        let fields = [JSON[0], ("Content-Encoding", coding)];
        let bytes = framed(&fields, &body, false, usize::MAX).concat();
        let origin = Origin::start(move |_| Reply::Bytes(bytes.clone())).await;
        let holdoff = Holdoff::start(NO_WORKER).await;
        let got = holdoff.get(&origin.url()).await;
        assert_eq!((got.body, got.complete), (body, true), "{coding}");
        assert_eq!(state(&holdoff, &origin.url()).await, "clear", "{coding}");
        let counted = [holdoff.metric(&errors("malformed")).await, holdoff.metric(&errors("unsupported")).await];
        assert_eq!(counted, [malformed, unsupported], "{coding}");
    }
}

#[tokio::test]
async fn the_first_event_of_a_stream_decides() {
    for (events, wanted) in [([BUSY, NEAR], "cooling"), ([NEAR, BUSY], "clear")] {
        let mut probe = Probe::start(NO_WORKER).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        probe.line.send(head).await;
        let mut got = Vec::new();
        for event in events {
            let event = format!("data: {event}\n\n");
            probe.line.send(&format!("{:x}\r\n{event}\r\n", event.len())).await;
            while !got.ends_with(format!("{event}\r\n").as_bytes()) {
                got.extend(probe.client.bytes(1).await);
            }
            // The stream goes on, and the first event has said what there is to say.
            assert_eq!(probe.state().await, wanted);
        }
    }
}

#[tokio::test]
async fn what_has_no_body_is_not_looked_at() {
    let fields = [JSON[0], ("Content-Encoding", "compress")];
    let origin = Origin::start(move |seen: &Seen| match seen.target() {
        "/304" => Reply::Bytes(
            b"HTTP/1.1 304 Not Modified\r\nContent-Type: application/json\r\nContent-Encoding: compress\r\n\r\n"
                .to_vec(),
        ),
        _ if seen.line().starts_with("HEAD") => {
            Reply::Bytes(framed(&fields, BUSY.as_bytes(), false, usize::MAX).swap_remove(0))
        }
        _ => answer(200, "OK", &fields, BUSY),
    })
    .await;
    let holdoff = Holdoff::start(&format!("{NO_WORKER}statuses = [200, 202, 304]\n")).await;
    let mut client = holdoff.client().await;
    let host = origin.address();
    client.send(format!("HEAD http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.answer("HEAD").await.field("content-length"), BUSY.len().to_string());
    assert_eq!(client.get(&format!("{}/304", origin.url())).await.status, 304);
    assert_eq!(holdoff.metric(&errors("unsupported")).await, 0.0);
    // The same with a body is looked at.
    assert_eq!(client.get(&origin.url()).await.text(), BUSY);
    assert_eq!(holdoff.metric(&errors("unsupported")).await, 1.0);
}

#[tokio::test]
async fn a_method_whose_signals_mean_nothing_is_not_looked_at() {
    let origin = Origin::start(|_| answer(200, "OK", JSON, BUSY)).await;
    let holdoff = Holdoff::start(&format!("[defaults.signals]\nignore_methods = [\"GET\"]\n{NO_WORKER}")).await;
    assert_eq!(holdoff.get(&origin.url()).await.text(), BUSY);
    assert_eq!(state(&holdoff, &origin.url()).await, "clear");
}

/// A signal of the head is all there is to it; a failure is told at once, and the body may still say more.
#[tokio::test]
async fn what_the_head_says_waits_for_no_body() {
    let quota = "[defaults.signals]\nproactive = true\n[[defaults.signals.field]]\nreset = \"x-reset\"\nunit = \"seconds\"\n\
                 remaining = \"x-left\"\n";
    for (status, fields, [at_head, at_end], has_line) in [
        (429, "Retry-After: 30", ["retry_after_seconds", "retry_after_seconds"], true),
        (503, "X-Other: 30", ["", "body_rule"], true),
        (500, "X-Other: 30", ["", "body_rule"], false),
        (200, "X-Left: 0\r\nX-Reset: 30", ["vendor_reset", "body_rule"], false),
    ] {
        let host = Host::start().await;
        let holdoff = Holdoff::start(&format!("{quota}{NO_WORKER}statuses = [200, 429, 500, 503]\n")).await;
        let url = format!("http://{}", host.address);
        let mut client = holdoff.client().await;
        client.send(format!("GET {url}/ HTTP/1.1\r\nHost: {}\r\n\r\n", host.address)).await;
        let mut line = host.accept().await;
        line.until("\r\n\r\n").await;
        let (begin, end) = BUSY.split_at(30);
        line.send(&format!(
            "HTTP/1.1 {status} No\r\nContent-Type: application/json\r\n{fields}\r\nContent-Length: {}\r\n\r\n{begin}",
            BUSY.len()
        ))
        .await;
        let mut got = String::new();
        while !got.ends_with(begin) {
            got.push_str(std::str::from_utf8(&client.bytes(1).await).unwrap());
        }
        let source = async || holdoff.key(&url).await["source"].as_str().unwrap_or_default().to_owned();
        assert_eq!(source().await, at_head, "{status}");
        assert_eq!(holdoff.key(&url).await["last_error"].as_str().is_some(), has_line, "{status}");
        line.send(end).await;
        assert_eq!(client.bytes(end.len()).await, end.as_bytes());
        assert_eq!(source().await, at_end, "{status}");
        assert_eq!(holdoff.key(&url).await["state"], "cooling", "{status}");
    }
}

/// Of what another holdoff has made only the hint counts.
#[tokio::test]
async fn an_answer_of_another_holdoff_is_not_looked_at() {
    let mark =
        ("Holdoff", "short-circuit; reason=unavailable; until=\"2026-11-20T10:00:00Z\"; key=\"http://a.example:80\"");
    for (trusted, wanted) in [("127.0.0.1", "clear"), ("192.0.2.1", "cooling")] {
        let fields = [JSON[0], ("Proxy-Status", "edge; error=destination_unavailable"), mark];
        let origin = Origin::start(move |_| answer(503, "Busy", &fields, BUSY)).await;
        let upstream = format!("[upstream]\ntrusted_holdoffs = [\"{trusted}\"]\n");
        let holdoff = Holdoff::start(&format!("{upstream}{NO_WORKER}statuses = [503]\n")).await;
        assert_eq!(holdoff.get(&origin.url()).await.text(), BUSY);
        assert_eq!(state(&holdoff, &origin.url()).await, wanted, "{trusted}");
    }
}

/// A call waits for its trailers and for the verdict about its messages.
#[tokio::test]
async fn a_grpc_call_is_looked_at_and_its_trailers_are_read() {
    const DIED: &str = "worker died";
    for (message, status, sources) in [
        (DIED, "0", ["body_rule", "body_rule"]),
        // What they name comes later and is shorter.
        (DIED, "8", ["body_rule", "body_rule"]),
        ("worker dined", "8", ["", "grpc_pushback"]),
        ("worker dined", "0", ["", ""]),
    ] {
        let authority = Authority::new();
        let go_on = Arc::new(Notify::new());
        let wait = Arc::clone(&go_on);
        let peer = Peer::start(authority.acceptor(&["localhost"]), move |mut stream| {
            let wait = Arc::clone(&wait);
            async move {
                let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut body = stream.respond.send_response(response, false).unwrap();
                // More than is kept.
                let data = format!("{message}{}", " ".repeat(1024));
                body.send_data(Bytes::from(data), false).unwrap();
                wait.notified().await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                trailers.insert("grpc-retry-pushback-ms", "30000".parse().unwrap());
                body.send_trailers(trailers).unwrap();
            }
        })
        .await;
        let rule = "[defaults.signals]\nbody_prefix = \"1KiB\"\n[[defaults.signals.body]]\nname = \"died\"\n\
                    media_types = [\"application/grpc\"]\nconditions = [{ text = \"worker died\" }]\n";
        let holdoff = Holdoff::start(&format!("{}{rule}", reverse_to(peer.address.port(), &authority, ""))).await;
        let key = format!("https://localhost:{}", peer.address.port());
        let mut session = Session::connect(holdoff.reverse(0)).await;
        let call = request("POST", &format!("http://{}/a.B/C", holdoff.reverse(0)));
        let (response, _send) = session.begin(call, true).await;
        let mut response = within("the head", response).await.unwrap();
        let data = within("a message", response.body_mut().data()).await.unwrap().unwrap();
        assert!(data.starts_with(message.as_bytes()));
        let source = async || holdoff.key(&key).await["source"].as_str().unwrap_or_default().to_owned();
        assert_eq!(source().await, sources[0], "{message} {status}");
        go_on.notify_one();
        let trailers = within("trailers", response.body_mut().trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], status);
        assert_eq!(source().await, sources[1], "{message} {status}");
        let counted = format!("holdoff_signals_total{{host=\"{}\",source=\"grpc_pushback\"}}", &key[8..]);
        assert_eq!(holdoff.metric(&counted).await, if status == "8" { 1.0 } else { 0.0 }, "{message} {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_match_is_logged_with_what_it_saw_and_not_over_and_over() {
    let origin = Origin::start(|_| answer(200, "OK", JSON, BUSY)).await;
    let mut sidecar = Program::start_configured(&format!("{NO_WORKER}cools = \"group:uploads\"\n"), &[]);
    let mut client = Client::connect(sidecar.address("proxy")).await;
    for _ in 0..3 {
        assert_eq!(client.get(&origin.url()).await.text(), BUSY);
    }
    sidecar.wait_for("the cooldown in the log", |log| log.contains("key=group:uploads"));
    let log = sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("rule=no-worker")).collect();
    let [line] = lines.as_slice() else { panic!("expected one line in\n{log}") };
    for part in [&format!("key={}", origin.url()), "cools=group:uploads", "for=10m", "failed", "worker likely died"] {
        assert!(line.contains(part), "expected {part} in {line}");
    }
}

#[tokio::test]
async fn an_annotated_answer_does_not_say_what_is_not_known_yet() {
    let origin = Origin::start(|_| answer(200, "OK", JSON, BUSY)).await;
    for (toml, is_said) in [("", true), (NO_WORKER, false)] {
        let holdoff = Holdoff::start(&format!("[defaults.answer]\nannotate = true\n{toml}")).await;
        let mark = holdoff.get(&origin.url()).await.field("holdoff").to_owned();
        assert!(mark.starts_with("forwarded") && mark.contains("outcome=success") == is_said, "{mark}");
    }
}

#[tokio::test]
async fn observe_counts_what_bodies_say_and_what_it_would_have_refused_feeds_nothing() {
    let fields = [JSON[0], ("Date", "Thu, 19 Nov 2026 10:00:00 GMT")];
    let origin = Origin::start(move |_| answer(200, "OK", &fields, BUSY)).await;
    let holdoff = Holdoff::start(&format!("[defaults]\nmode = \"observe\"\n{NO_WORKER}")).await;
    let first = holdoff.get(&origin.url()).await;
    assert_busy(&holdoff, &origin.url()).await;
    for _ in 0..2 {
        let again = holdoff.get(&origin.url()).await;
        assert_eq!((again.head, again.body), (first.head.clone(), first.body.clone()));
    }
    assert_eq!((first.text(), origin.count()), (BUSY, 3));
    let host = origin.address();
    let extended = format!("holdoff_cooldowns_extended_total{{host=\"{host}\"}}");
    assert_eq!(holdoff.metric(&extended).await, 0.0);
    let would = format!("holdoff_would_have_short_circuited_total{{host=\"{host}\",reason=\"backend_busy\"}}");
    assert_eq!(holdoff.metric(&would).await, 2.0);
    assert_eq!(holdoff.metric(&signals(host)).await, 3.0, "what hosts say is counted whoever asks");
}

#[tokio::test]
async fn mode_off_looks_at_nothing() {
    let origin = Origin::start(|_| answer(200, "OK", JSON, BUSY)).await;
    let holdoff = Holdoff::start(&format!("[defaults]\nmode = \"off\"\n{NO_WORKER}")).await;
    for _ in 0..2 {
        assert_eq!(holdoff.get(&origin.url()).await.text(), BUSY);
    }
    assert_eq!(holdoff.metric(&signals(origin.address())).await, 0.0);
}

#[tokio::test]
async fn clients_and_hosts_over_http2_and_sessions_inside_tls_are_looked_at_too() {
    // A client over HTTP/2.
    let origin = Origin::start(|_| answer(200, "OK", JSON, BUSY)).await;
    let holdoff = Holdoff::start(NO_WORKER).await;
    let mut session = Session::connect(holdoff.proxy()).await;
    assert_eq!(session.get(&origin.url()).await.text(), BUSY);
    let refused = session.get(&origin.url()).await;
    assert_eq!((refused.status, origin.count()), (503, 1));

    // A host over HTTP/2, behind a reverse listener.
    let authority = Authority::new();
    let peer = Peer::start(authority.acceptor(&["localhost"]), |mut stream| async move {
        let response = http::Response::builder().header("content-type", "application/json").body(()).unwrap();
        let mut body = stream.respond.send_response(response, false).unwrap();
        let (begin, end) = BUSY.split_at(30);
        body.send_data(Bytes::from_static(begin.as_bytes()), false).unwrap();
        body.send_data(Bytes::from_static(end.as_bytes()), true).unwrap();
    })
    .await;
    let reverse = format!("{}{NO_WORKER}", reverse_to(peer.address.port(), &authority, ""));
    let holdoff = Holdoff::start(&reverse).await;
    let address = holdoff.reverse(0);
    let mut session = Session::connect(address).await;
    let asked = || request("GET", &format!("http://{address}/"));
    assert_eq!(session.ask(asked(), None).await.unwrap().text(), BUSY);
    assert_eq!(session.ask(asked(), None).await.unwrap().status, 503);
    assert_eq!(peer.seen().len(), 1);

    // A host over TLS, behind a reverse listener.
    let origin = Origin::start_tls(authority.acceptor(&["localhost"]), |_| answer(200, "OK", JSON, BUSY)).await;
    let reverse = format!("{}{NO_WORKER}", reverse_to(origin.address().port(), &authority, ""));
    let holdoff = Holdoff::start(&reverse).await;
    let address = holdoff.reverse(0);
    let mut client = Client::connect(address).await;
    for (status, body) in [(200, Some(BUSY)), (503, None)] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n")).await;
        let got = client.answer("GET").await;
        assert_eq!(got.status, status);
        assert!(body.is_none_or(|body| got.text() == body));
    }

    // Inside a session that is intercepted.
    let ca = tempfile::tempdir().unwrap();
    let holdoff = Holdoff::start(&format!(
        "[intercept]\nhosts = [\"localhost\"]\nca_dir = {:?}\n[upstream]\nca_files = [{:?}]\n{NO_WORKER}",
        ca.path().join("ca"),
        authority.file()
    ))
    .await;
    let host = format!("localhost:{}", origin.address().port());
    let mut client = holdoff.client().await;
    client.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    let tls = secure(client, "localhost", roots(&ca.path().join("ca/ca.pem")), &[b"http/1.1"]).await.unwrap();
    let mut client = Client::over(tls);
    for status in [200, 503] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer("GET").await.status, status);
    }
}

/// What a large body repeats, of a length that no buffer has.
fn pattern() -> Vec<u8> {
    (0..65_537_u32).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

/// Sends bodies that begin with `begin`: of `length` bytes, or without end where there is none.
async fn large(begin: &'static str, length: Option<u64>, sent: Arc<AtomicU64>) -> (TcpListenerTask, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(send_large(stream, begin, length, Arc::clone(&sent)));
        }
    });
    (TcpListenerTask(task), url)
}

struct TcpListenerTask(tokio::task::JoinHandle<()>);

impl Drop for TcpListenerTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send_large(mut stream: TcpStream, begin: &'static str, length: Option<u64>, sent: Arc<AtomicU64>) {
    let mut head = [0; 2048];
    let _ = stream.read(&mut head).await;
    let framing = length.map_or("Transfer-Encoding: chunked".to_owned(), |length| {
        format!("Content-Length: {}", length + u64::try_from(begin.len()).unwrap())
    });
    let pattern = pattern();
    let (first, piece) = match length {
        Some(_) => (begin.to_owned(), pattern),
        None => {
            let chunk = [format!("{:x}\r\n", pattern.len()).as_bytes(), &pattern, b"\r\n"].concat();
            (format!("{:x}\r\n{begin}\r\n", begin.len()), chunk)
        }
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{first}");
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        if stream.write_all(&piece[..size]).await.is_err() {
            return;
        }
        left -= u64::try_from(size).unwrap();
        sent.fetch_add(u64::try_from(size).unwrap(), Ordering::Relaxed);
    }
}

/// What a sidecar may grow by, whatever passes through it.
const GROWTH: u64 = 6 << 20;

/// Whether the key is said to cool for what a body said, in a sidecar of its own.
async fn is_busy(admin: std::net::SocketAddr, key: &str) -> bool {
    let mut client = Client::connect(admin).await;
    client.send(format!("GET /api/v1/cooldowns?key={key} HTTP/1.1\r\nHost: {admin}\r\n\r\n")).await;
    client.answer("GET").await.text().contains("backend_busy")
}

/// `HOLDOFF_BODY_BYTES` says how large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_a_gigabyte_passes_as_it_comes_and_costs_no_memory() {
    let length = std::env::var("HOLDOFF_BODY_BYTES").map_or(1 << 30, |bytes| bytes.parse().unwrap());
    let begin = r#"{"status":"failed","error":"background worker likely died","pad":""#;
    let (_task, url) = large(begin, Some(length), Arc::default()).await;
    let sidecar = Program::start_configured(NO_WORKER, &[]);
    let (proxy, admin) = (sidecar.address("proxy"), sidecar.address("admin"));
    let host = url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(format!("GET {url}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(begin.as_bytes()) {
        head.push(within("the first bytes", client.read_u8()).await.unwrap());
    }
    let (pattern, mut buffer) = (pattern(), vec![0; 1 << 16]);
    let (start, mut at, mut got, mut before, mut most) = (Instant::now(), 0, 0, 0, 0);
    let mut was_busy = false;
    while got < length {
        let read = within("more of the body", client.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "the end after {got} bytes");
        let mut piece = &buffer[..read];
        while !piece.is_empty() {
            let size = piece.len().min(pattern.len() - at);
            assert!(piece[..size] == pattern[at..at + size], "other bytes after {got}");
            (at, piece) = ((at + size) % pattern.len(), &piece[size..]);
        }
        let last = got;
        got += u64::try_from(read).unwrap();
        if before == 0 && got > 1 << 20 {
            before = sidecar.memory();
            was_busy = is_busy(admin, &url).await;
        }
        if last >> 26 != got >> 26 {
            most = most.max(sidecar.memory());
        }
    }
    let grown = most.saturating_sub(before);
    eprintln!("{} MiB in {:?}: {} KiB more memory", length >> 20, start.elapsed(), grown / 1024);
    assert!(was_busy, "the first 16 KiB say all");
    assert!(grown <= GROWTH, "{} KiB", grown / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_passes_as_it_comes_and_costs_no_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let (_task, url) = large(r#"{"status":"running","pad":""#, None, Arc::clone(&sent)).await;
    let sidecar = Program::start_configured(NO_WORKER, &[]);
    let host = url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(sidecar.address("proxy")).await.unwrap();
    client.write_all(format!("GET {url}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let (mut buffer, mut got, mut before) = (vec![0; 1 << 16], 0_u64, 0);
    while got < 128 << 20 {
        let read = within("more of the body", client.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "the end after {got} bytes");
        got += u64::try_from(read).unwrap();
        if before == 0 && got > 1 << 20 {
            before = sidecar.memory();
        }
    }
    let grown = sidecar.memory().saturating_sub(before);
    eprintln!("128 MiB without end: {} KiB more memory", grown / 1024);
    assert!(grown <= GROWTH, "{} KiB", grown / 1024);
    assert!(!is_busy(sidecar.address("admin"), &url).await);
}
