//! The nodes of the demo: naive on purpose.
//!
//! A node asks on a short timer and looks at nothing: neither the status nor `Retry-After` changes what it does next. It
//! knows the address of the peer and, on one side of the demo, a proxy, as a node does that only has `http_proxy` set.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How long a node waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the nodes got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Requests made.
    pub(super) asked: u64,
    /// Answered 200.
    pub(super) good: u64,
    /// Answered 429 or 503, by whomever.
    pub(super) told_to_wait: u64,
    /// Answered with anything else.
    pub(super) other: u64,
    /// Not answered.
    pub(super) failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    asked: AtomicU64,
    good: AtomicU64,
    told_to_wait: AtomicU64,
    other: AtomicU64,
    failed: AtomicU64,
}

/// What the nodes of one side do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    /// How many nodes.
    pub(super) nodes: u32,
    /// How often each asks.
    pub(super) every: Duration,
    /// The peer.
    pub(super) peer: SocketAddr,
    /// What `http_proxy` says.
    pub(super) proxy: Option<SocketAddr>,
}

/// Running nodes. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Nodes {
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl Nodes {
    /// Starts the nodes, spread evenly over the first turn. They ask until they are dropped.
    pub(super) fn start(habit: Habit) -> Self {
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        let spread = habit.every.checked_div(habit.nodes).unwrap_or_default();
        for node in 0..habit.nodes {
            let first = tokio::time::Instant::now().checked_add(spread.saturating_mul(node));
            let counters = Arc::clone(&counters);
            tasks.spawn(async move {
                let first = first.unwrap_or_else(tokio::time::Instant::now);
                let mut timer = tokio::time::interval_at(first, habit.every);
                timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
                let mut connection = None;
                loop {
                    timer.tick().await;
                    turn(&habit, &mut connection, &counters).await;
                }
            });
        }
        Self { counters, tasks }
    }

    /// What they got so far.
    pub(super) fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &*self.counters;
        Tally {
            asked: read(&counters.asked),
            good: read(&counters.good),
            told_to_wait: read(&counters.told_to_wait),
            other: read(&counters.other),
            failed: read(&counters.failed),
        }
    }

    /// Stops asking, and says what they got.
    pub(super) async fn stop(mut self) -> Tally {
        self.tasks.shutdown().await;
        self.tally()
    }
}

/// One request, and its answer counted.
async fn turn(habit: &Habit, connection: &mut Option<SendRequest<Empty<Bytes>>>, counters: &Counters) {
    counters.asked.fetch_add(1, Ordering::Relaxed);
    let counter = match tokio::time::timeout(PATIENCE, ask(habit, connection)).await {
        Ok(Ok(StatusCode::OK)) => &counters.good,
        Ok(Ok(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)) => &counters.told_to_wait,
        Ok(Ok(_)) => &counters.other,
        Ok(Err(_)) | Err(_) => {
            *connection = None;
            &counters.failed
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

async fn ask(habit: &Habit, connection: &mut Option<SendRequest<Empty<Bytes>>>) -> io::Result<StatusCode> {
    let mut sender = match connection.take() {
        Some(mut kept) => match kept.ready().await {
            Ok(()) => kept,
            // Closed while it was idle, as peers do.
            Err(_) => connect(habit.proxy.unwrap_or(habit.peer)).await?,
        },
        None => connect(habit.proxy.unwrap_or(habit.peer)).await?,
    };
    let target = match habit.proxy {
        Some(_) => format!("http://{}/sync", habit.peer),
        None => "/sync".to_owned(),
    };
    let request = Request::get(target)
        .header(header::HOST, habit.peer.to_string())
        .header(header::USER_AGENT, "naive-node")
        .body(Empty::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    // Read to the end, so that the connection can be used again.
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
    }
    *connection = Some(sender);
    Ok(status)
}

async fn connect(to: SocketAddr) -> io::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::peer::{Limit, Peer};
    use super::*;
    use crate::table::clock;

    #[tokio::test]
    async fn nodes_ask_on_whatever_the_peer_answers() {
        let limit = Limit { requests: 3, window: Duration::from_secs(60) };
        let peer = Peer::start(limit, clock::now()).await.unwrap();
        let every = Duration::from_millis(20);
        let nodes = Nodes::start(Habit { nodes: 2, every, peer: peer.address(), proxy: None });
        let enough = async {
            while nodes.tally().told_to_wait < 10 {
                tokio::time::sleep(every).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), enough).await.unwrap();
        let tally = nodes.stop().await;
        assert_eq!((tally.good, tally.other, tally.failed), (3, 0, 0));
        let books = peer.books();
        assert_eq!(books.total.good, 3);
        assert!(books.total.limited >= tally.told_to_wait, "{books:?} {tally:?}");
        assert_eq!(books.recovery(), None);
    }

    #[tokio::test]
    async fn a_node_counts_what_is_not_answered_and_goes_on() {
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let nodes = Nodes::start(Habit { nodes: 1, every: Duration::from_millis(10), peer: address, proxy: None });
        let enough = async {
            while nodes.tally().failed < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), enough).await.unwrap();
        assert_eq!(nodes.stop().await.good, 0);
    }
}
