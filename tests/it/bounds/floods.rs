//! Attacks by many or without end, in a sidecar of its own process; and what somebody else notices of them.

#![expect(clippy::print_stderr, reason = "a test that measures says what it found")]

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Peer, connect_from, sample};
use crate::support::client::Client;
use crate::support::origin::{Origin, ok};
use crate::support::program::Program;
use crate::support::{until, within};

const MIB: u64 = 1024 * 1024;

/// Somebody whose requests go to another host.
struct Bystander {
    client: Client,
    origin: Origin,
}

/// How long requests took.
#[derive(Debug)]
struct Took {
    median: Duration,
    high: Duration,
}

impl Took {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self { median: times[times.len() / 2], high: times[times.len() * 95 / 100] }
    }
}

impl Bystander {
    async fn start(sidecar: &Program) -> Self {
        let origin = Origin::start(|_| ok("fine")).await;
        Self { client: Client::connect(sidecar.address("proxy")).await, origin }
    }

    async fn once(&mut self) -> Duration {
        let start = Instant::now();
        assert_eq!(self.client.get(&format!("{}/", self.origin.url())).await.text(), "fine");
        start.elapsed()
    }

    async fn times(&mut self, count: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..count {
            times.push(self.once().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times
    }

    /// Runs an attack, at least as long as 50 requests take, and compares. Generous, since attack, sidecar and bystander
    /// share two cores with other tests, of which some send a gibibyte: what blocks others blocks half of the requests, or
    /// a few of them for longer than that.
    async fn beside<T: Send + 'static>(&mut self, what: &str, attack: impl Future<Output = T> + Send + 'static) -> T {
        self.times(20).await;
        let before = Took::of(self.times(100).await);
        let attack = tokio::spawn(attack);
        let mut times = self.times(50).await;
        while !attack.is_finished() {
            times.push(self.once().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let count = times.len();
        let meanwhile = Took::of(times);
        eprintln!("{what}: {before:?} before, {meanwhile:?} meanwhile ({count} requests)");
        assert!(meanwhile.median < before.median * 20 + Duration::from_millis(100), "{before:?} {meanwhile:?}");
        assert!(meanwhile.high < before.high * 20 + Duration::from_secs(2), "{before:?} {meanwhile:?}");
        attack.await.unwrap()
    }
}

/// As many open files as this process may have, for the tests' own ends of connections.
fn open_more_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

async fn bound(sidecar: &Program, bound: &str) -> f64 {
    sample(sidecar.address("admin"), &format!("holdoff_bounds_reached_total{{bound=\"{bound}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_cheap_and_the_next_are_told() {
    // Our ends, and room for the tests that run beside this one.
    let count = open_more_files().saturating_sub(2000).min(10_000);
    let most = count * 9 / 10;
    let sidecar = Program::start_configured(&format!("[limits]\nmax_connections = {most}\n"), &[]);
    let (proxy, admin) = (sidecar.address("proxy"), sidecar.address("admin"));
    let open = "holdoff_connections_open{listener=\"proxy\"}";
    let mut bystander = Bystander::start(&sidecar).await;
    bystander.once().await;
    let before = sidecar.memory();
    let idle = bystander
        .beside("10 000 idle connections", async move {
            let mut idle = Vec::new();
            for n in 0..count {
                // Ports of several addresses, so that none runs out of them.
                let stream = connect_from([127, 0, 1, u8::try_from(n / 2000).unwrap()], proxy).await;
                idle.push(stream);
            }
            within("the bound", async {
                while sample(admin, open).await < most as f64 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
            idle
        })
        .await;
    let each = sidecar.memory().saturating_sub(before) / most;
    eprintln!("{count} idle connections, {most} with a place: {each} bytes each");
    assert!(each < 8 * 1024, "{each} bytes for an idle connection");
    assert_eq!(sample(admin, open).await, most as f64);
    // Those beyond the bound, and one more that can be asked: the last of all is told, or its connection just ends.
    until_counted(&sidecar, "max_connections", (count - most + 1) as f64).await;
    let mut late = Client::connect(proxy).await;
    if let Some(told) = late.try_answer("GET").await {
        assert_eq!(told.status, 503);
    }
    // Operators have their own door, and the one who had a place keeps it.
    for (method, path, status) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("PUT", "/api/v1/cooldowns?key=https://peer.example&for=60s", 200),
        ("DELETE", "/api/v1/cooldowns?key=https://peer.example", 200),
    ] {
        let mut operator = Client::connect(admin).await;
        operator.send(format!("{method} {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(operator.answer(method).await.status, status, "{method} {path}");
    }
    bystander.once().await;
    // With places free again there is room for others.
    drop(idle);
    within("a place", async {
        while sample(admin, open).await > 2.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let url = format!("{}/", bystander.origin.url());
    assert_eq!(Client::connect(proxy).await.get(&url).await.text(), "fine");
}

async fn until_counted(sidecar: &Program, what: &str, count: f64) {
    within(what, async {
        while bound(sidecar, what).await < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Asks for `names` from two connections, several requests at a time. Every answer is a short refusal.
async fn ask_for_names(proxy: SocketAddr, names: Range<u32>) {
    const BATCH: u32 = 20;
    let mut asking = JoinSet::new();
    let half = (names.end - names.start) / 2;
    for first in [names.start, names.start + half] {
        asking.spawn(async move {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            let mut answers = vec![0; 65_536];
            for batch in (first..first + half).step_by(BATCH as usize) {
                let ask: String = (batch..batch + BATCH)
                    .map(|n| format!("HEAD http://n{n}.flood.example/ HTTP/1.1\r\nHost: n{n}.flood.example\r\n\r\n"))
                    .collect();
                stream.write_all(ask.as_bytes()).await.unwrap();
                let (mut length, mut heads) = (0, 0);
                while heads < BATCH as usize {
                    let read = within("answers", stream.read(&mut answers[length..])).await.unwrap();
                    assert!(read > 0, "expected {BATCH} answers, found the end after {heads}");
                    length += read;
                    heads = answers[..length].split(|&byte| byte == b'\n').filter(|line| *line == b"\r").count();
                }
                assert!(answers.starts_with(b"HTTP/1.1 403 "));
            }
        });
    }
    asking.join_all().await;
}

/// A name costs a key before it is known whether it may be reached; the cheapest way to use up names is one that may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_names_leave_a_bounded_table_and_bounded_labels() {
    let sidecar = Program::start_configured(
        "[limits]\nmax_keys = 10000\n[egress]\ndeny = [\"*.flood.example\"]\n[metrics]\nmax_host_labels = 50\n",
        &[],
    );
    let (proxy, admin) = (sidecar.address("proxy"), sidecar.address("admin"));
    let mut bystander = Bystander::start(&sidecar).await;
    let start = Instant::now();
    // The table is full once, then only what is bounded may change.
    ask_for_names(proxy, 0..20_000).await;
    let full = sidecar.memory();
    bystander.beside("100 000 names", ask_for_names(proxy, 20_000..100_000)).await;
    let grown = sidecar.memory().saturating_sub(full);
    let keys = sample(admin, "holdoff_keys").await;
    let labels = sample(admin, "holdoff_host_labels").await;
    eprintln!(
        "100 000 names in {:?}: {keys} keys, {labels} labels, {} KiB once full, {} KiB more after 80 000 further names",
        start.elapsed(),
        full / 1024,
        grown / 1024
    );
    assert!((1.0..=10_000.0).contains(&keys), "{keys} keys");
    assert!((1.0..=50.0).contains(&labels), "{labels} labels");
    assert!(sample(admin, "holdoff_keys_evicted_total").await >= 80_000.0);
    assert!(sample(admin, "holdoff_host_label_overflow_total").await >= 80_000.0);
    assert!(grown < 4 * MIB, "{} KiB", grown / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_slow_uploads_end_and_disturb_nobody() {
    let sidecar =
        Program::start_configured("[limits]\nheader_timeout = \"1s\"\n[defaults.timeouts]\nbody_idle = \"1s\"\n", &[]);
    let proxy = sidecar.address("proxy");
    let mut bystander = Bystander::start(&sidecar).await;
    let sink = Peer::start(|mut stream| async move {
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let host = sink.address;
    bystander
        .beside("200 slow heads and 200 slow uploads", async move {
            let mut slow = JoinSet::new();
            for n in 0..400 {
                slow.spawn(async move {
                    let (reader, mut writer) = super::connect_twice(proxy).await;
                    let trickle = tokio::spawn(async move {
                        let body =
                            format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nx");
                        if n % 2 == 0 {
                            let _ = writer.write_all(body.as_bytes()).await;
                            return std::future::pending().await;
                        }
                        for byte in b"GET http://peer.example/ HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
                            if writer.write_all(&[*byte]).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    });
                    let answer = Client::over(reader).answer("GET").await;
                    trickle.abort();
                    assert_eq!(answer.status, 408);
                });
            }
            while let Some(ended) = slow.join_next().await {
                ended.unwrap();
            }
        })
        .await;
    assert_eq!(bound(&sidecar, "header_timeout").await, 200.0);
    assert_eq!(bound(&sidecar, "body_idle").await, 200.0);
}

/// A second of the real thing is 20 ms here. No bound ends it: what moves may take as long as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_one_byte_a_second_streams_on() {
    const SECOND: Duration = Duration::from_millis(20);
    let peer = Peer::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
        let body = [b'x'; 100];
        for byte in head.iter().chain(&body) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(SECOND).await;
        }
    })
    .await;
    // A tenth of the time the whole answer takes.
    let sidecar = Program::start_configured(
        "[limits]\nheader_timeout = \"250ms\"\n[defaults.timeouts]\nhead = \"2s\"\nbody_idle = \"250ms\"\n",
        &[],
    );
    let proxy = sidecar.address("proxy");
    let mut bystander = Bystander::start(&sidecar).await;
    let host = peer.address;
    let answers = bystander
        .beside("100 peers of a byte a second", async move {
            let mut asking = JoinSet::new();
            for _ in 0..100 {
                asking.spawn(async move {
                    let mut stream = TcpStream::connect(proxy).await.unwrap();
                    let ask = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                    stream.write_all(ask.as_bytes()).await.unwrap();
                    let (mut pieces, mut all, mut piece) = (0, Vec::new(), [0; 4096]);
                    loop {
                        match within("the next byte", stream.read(&mut piece)).await.unwrap() {
                            0 => return (pieces, all),
                            read => all.extend_from_slice(&piece[..read]),
                        }
                        pieces += 1;
                    }
                });
            }
            asking.join_all().await
        })
        .await;
    for (pieces, answer) in answers {
        assert!(answer.ends_with(&[b'x'; 100]), "{}", String::from_utf8_lossy(&answer));
        assert!(pieces > 10, "passed on as it comes, not at the end: {pieces} pieces");
    }
    assert_eq!(bound(&sidecar, "body_idle").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_429_streams_on_and_only_its_beginning_is_kept() {
    let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let counts = (Arc::clone(&sent), Arc::clone(&stop));
    let peer = Peer::start(move |mut stream| {
        let (sent, stop) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            let chunk = format!("1000\r\n{}\r\n", "slow down, ".repeat(400).split_at(0x1000).0);
            while !stop.load(Ordering::Relaxed) && stream.write_all(chunk.as_bytes()).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let sidecar = Program::start_configured("", &[]);
    let (proxy, admin, host) = (sidecar.address("proxy"), sidecar.address("admin"), peer.address);
    let mut bystander = Bystander::start(&sidecar).await;
    bystander.once().await;
    let before = sidecar.memory();
    let mut reader = bystander
        .beside("an endless 429", async move {
            let mut stream = TcpStream::connect(proxy).await.unwrap();
            let ask = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
            stream.write_all(ask.as_bytes()).await.unwrap();
            let (mut read, mut piece) = (0, vec![0; 65_536]);
            while read < 64 << 20 {
                read += within("more", stream.read(&mut piece)).await.unwrap();
            }
            stream
        })
        .await;
    let grown = sidecar.memory().saturating_sub(before);
    eprintln!("64 MiB of a 429 body: {} KiB", grown / 1024);
    assert!(grown < 4 * MIB, "{} KiB", grown / 1024);
    let mut operator = Client::connect(admin).await;
    operator.send(format!("GET /api/v1/cooldowns?key=http://{host} HTTP/1.1\r\nHost: {admin}\r\n\r\n")).await;
    let seen = operator.answer("GET").await.json();
    assert_eq!((&seen["state"], &seen["reason"]), (&"cooling".into(), &"rate_limited".into()), "{seen}");
    let error = seen["last_error"].as_str().unwrap();
    assert!(error.contains("slow down, slow down") && error.len() < 400, "{error}");
    // Others are answered while it still streams.
    let answer = Client::connect(proxy).await.get(&format!("http://{host}/")).await;
    assert_eq!(answer.status, 429);
    assert!(answer.fields("holdoff").iter().any(|mark| mark.starts_with("short-circuit")), "{}", answer.head);
    let passed = sent.load(Ordering::Relaxed);
    let drain = tokio::spawn(async move {
        let mut piece = vec![0; 65_536];
        while reader.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    });
    until("more of it", || sent.load(Ordering::Relaxed) > passed + 100).await;
    stop.store(true, Ordering::Relaxed);
    within("the end", drain).await.unwrap();
}

/// Every attack by bytes without end at once; each ends, and is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_end_disturb_nobody() {
    let peer = Peer::start(|mut stream| async move {
        let mut head = vec![0; 1024];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let path =
            String::from_utf8_lossy(&head[..read]).split(['/', ' ']).find(|w| w.starts_with("end")).map(str::to_owned);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (start, more) = match path.as_deref() {
            Some("end-extensions") => (format!("{chunked}1;"), "x"),
            Some("end-trailers") => (format!("{chunked}0\r\nX:"), "x"),
            Some("end-fields") => ("HTTP/1.1 200 OK\r\n".to_owned(), "X: 1\r\n"),
            _ => (String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n"),
        };
        let more = more.repeat(1000);
        let _ = stream.write_all(start.as_bytes()).await;
        while stream.write_all(more.as_bytes()).await.is_ok() {}
    })
    .await;
    let sidecar = Program::start_configured("", &[]);
    let (proxy, host) = (sidecar.address("proxy"), peer.address);
    let mut bystander = Bystander::start(&sidecar).await;
    bystander
        .beside("streams without end", async move {
            let mut asking = JoinSet::new();
            for n in 0..200 {
                asking.spawn(async move {
                    let path = ["end-extensions", "end-trailers", "end-fields", "end-interim"][n % 4];
                    let mut stream = TcpStream::connect(proxy).await.unwrap();
                    let ask = format!("GET http://{host}/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                    stream.write_all(ask.as_bytes()).await.unwrap();
                    let mut all = Vec::new();
                    let _ = within("the end", stream.read_to_end(&mut all)).await;
                    assert!(all.len() < 128 * 1024, "{path}: {} bytes came through", all.len());
                });
            }
            while let Some(ended) = asking.join_next().await {
                ended.unwrap();
            }
        })
        .await;
    for (label, count) in [("max_chunk_extension_bytes", 50.0), ("trailers", 50.0), ("upstream_head", 50.0)] {
        assert_eq!(bound(&sidecar, label).await, count, "{label}");
    }
    assert!(bound(&sidecar, "max_interim_responses").await >= 50.0);
}
