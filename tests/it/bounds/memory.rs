//! Memory, in a process of its own: what is measured is the sidecar's and nobody else's.

#![expect(clippy::print_stderr, reason = "a test that measures says what it found")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Peer, connect_from, settled};
use crate::support::client::Client;
use crate::support::program::Program;
use crate::support::{until, within};

const MIB: u64 = 1024 * 1024;

/// Reads a request head; says the path.
async fn asked_for(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(&piece[..read]);
    }
    Some(String::from_utf8_lossy(&head).split(' ').nth(1)?.to_owned())
}

/// What 100 peers of the same kind may cost.
const SLOW: u64 = 8 * MIB;

/// A peer that answers without end, in a way that the path names; it counts the pieces that left.
async fn endless(sent: Arc<AtomicU64>) -> Peer {
    Peer::start(move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            while let Some(path) = asked_for(&mut stream).await {
                let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                if path == "/hang" {
                    std::future::pending::<()>().await;
                }
                let (head, piece) = match path.as_str() {
                    "/length" => ("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", "x".repeat(0x4000)),
                    "/chunks" => (chunked, format!("4000\r\n{}\r\n", "x".repeat(0x4000))),
                    "/small-chunks" => (chunked, "1\r\nx\r\n".repeat(2048)),
                    _ => ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", String::new()),
                };
                let _ = stream.write_all(head.as_bytes()).await;
                while !piece.is_empty() && stream.write_all(piece.as_bytes()).await.is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    })
    .await
}

/// How much a sidecar of its own has grown when 100 clients have asked for `path` and none reads.
async fn growth_by_slow_readers(path: &str) -> u64 {
    let sent = Arc::new(AtomicU64::new(0));
    let peer = endless(Arc::clone(&sent)).await;
    let sidecar = Program::start_configured("", &[]);
    let (proxy, url) = (sidecar.address("proxy"), format!("http://{}", peer.address));
    assert_eq!(Client::connect(proxy).await.get(&format!("{url}/")).await.text(), "ok");
    let before = sidecar.memory();
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut reader = connect_from([127, 0, 0, 3], proxy).await;
        let ask = format!("GET {url}{path} HTTP/1.1\r\nHost: {}\r\n\r\n", peer.address);
        within("a request to leave", reader.write_all(ask.as_bytes())).await.unwrap();
        readers.push(reader);
    }
    if path != "/hang" {
        until("every answer to begin", || sent.load(Ordering::Relaxed) >= 100).await;
    }
    settled(|| sent.load(Ordering::Relaxed)).await;
    let grown = sidecar.memory().saturating_sub(before);
    eprintln!("100 clients that do not read `{path}`: {} KiB", grown / 1024);
    // Nobody else suffers.
    assert_eq!(Client::connect(proxy).await.get(&format!("{url}/")).await.text(), "ok");
    drop(readers);
    grown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_that_do_not_read_cost_at_most_8_mib() {
    for path in ["/length", "/chunks", "/small-chunks"] {
        let mut grown = growth_by_slow_readers(path).await;
        // Where each reader happens to stop is up to the scheduler: a second measurement on a busy machine.
        if grown > SLOW {
            grown = grown.min(growth_by_slow_readers(path).await);
        }
        assert!(grown <= SLOW, "{path}: {} KiB", grown / 1024);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_peers_that_do_not_read_uploads_cost_at_most_8_mib() {
    let peer = Peer::start(|mut stream| async move {
        if asked_for(&mut stream).await.is_some_and(|path| path == "/") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let sidecar = Program::start_configured("", &[]);
        let (proxy, host) = (sidecar.address("proxy"), peer.address);
        assert_eq!(Client::connect(proxy).await.get(&format!("http://{host}/")).await.text(), "ok");
        let before = sidecar.memory();
        let sent = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..100 {
            let sent = Arc::clone(&sent);
            writers.spawn(async move {
                let mut writer = connect_from([127, 0, 0, 3], proxy).await;
                let head = format!("POST http://{host}/big HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n");
                writer.write_all(head.as_bytes()).await.unwrap();
                // Right for both framings: within a length anything is.
                let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
                while writer.write_all(piece.as_bytes()).await.is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("every upload to begin", || sent.load(Ordering::Relaxed) >= 100).await;
        settled(|| sent.load(Ordering::Relaxed)).await;
        let grown = sidecar.memory().saturating_sub(before);
        eprintln!("100 peers that do not read uploads ({framing}): {} KiB", grown / 1024);
        assert!(grown <= SLOW, "{framing}: {} KiB", grown / 1024);
    }
}
