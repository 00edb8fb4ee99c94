//! The peer of the demo: an HTTP/1.1 server with a limit, which keeps its own books.
//!
//! It stands for the seed peer of a sync network: it allows so many requests per window, answers 429 with `Retry-After`
//! beyond that, and every request that it refuses starts the wait anew. A node that asks again on a short timer therefore
//! never gets out. All figures of the demo about requests are counted here, at the receiving end.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::core::time::{Instant, ceil_secs, nanos};
use crate::table::clock;

/// The most connections at a time; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;

/// How long one slice of the books is.
pub(super) const SLICE: Duration = Duration::from_millis(500);

/// The most slices; what comes later is counted in the last one.
const MAX_SLICES: usize = 256;

/// How much a peer allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Requests per window.
    pub(super) requests: u32,
    /// The window, and what `Retry-After` says. Each refused request starts it anew.
    pub(super) window: Duration,
}

/// What the bucket says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// 429: ask again after that.
    Limited(Duration),
}

/// A bucket that is filled up once a window. Who asks it while it is empty starts the window anew.
#[derive(Clone, Debug)]
struct Bucket {
    limit: Limit,
    /// Requests that are left in this window.
    left: u32,
    /// The end of this window.
    until: Instant,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        Self { limit, left: 0, until: Instant::ZERO }
    }

    fn ask(&mut self, now: Instant) -> Verdict {
        if now >= self.until {
            self.left = self.limit.requests;
            self.until = now.saturating_add(self.limit.window);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Verdict::Good
            }
            None => {
                self.until = now.saturating_add(self.limit.window);
                Verdict::Limited(self.limit.window)
            }
        }
    }
}

/// Requests of one slice of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// Answered 200.
    pub(super) good: u64,
    /// Answered 429.
    pub(super) limited: u64,
}

impl Slice {
    /// All requests.
    pub(super) fn requests(self) -> u64 {
        self.good.saturating_add(self.limited)
    }

    /// Both slices together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { good: self.good.saturating_add(other.good), limited: self.limited.saturating_add(other.limited) }
    }
}

/// What the peer counted. Times count from the start of the demo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// All requests.
    pub(super) total: Slice,
    /// Requests by [`SLICE`], up to the last slice with a request.
    pub(super) slices: Vec<Slice>,
    /// The first 429: the storm begins.
    pub(super) first_limited: Option<Duration>,
    /// The first 200 after the first 429: the peer has recovered.
    pub(super) recovered: Option<Duration>,
    /// The last request.
    pub(super) last: Option<Duration>,
    /// The longest time between two requests.
    pub(super) longest_gap: Duration,
}

impl Books {
    /// Counts a request that came `at` after the start.
    fn count(&mut self, verdict: Verdict, at: Duration) {
        let one = match verdict {
            Verdict::Good => Slice { good: 1, limited: 0 },
            Verdict::Limited(_) => Slice { good: 0, limited: 1 },
        };
        self.total = self.total.plus(one);
        let index = nanos(at).checked_div(nanos(SLICE)).unwrap_or_default();
        let index = usize::try_from(index).unwrap_or(usize::MAX).min(MAX_SLICES.saturating_sub(1));
        if self.slices.len() <= index {
            self.slices.resize(index.saturating_add(1), Slice::default());
        }
        if let Some(slice) = self.slices.get_mut(index) {
            *slice = slice.plus(one);
        }
        match verdict {
            Verdict::Limited(_) if self.first_limited.is_none() => self.first_limited = Some(at),
            Verdict::Good if self.first_limited.is_some() && self.recovered.is_none() => self.recovered = Some(at),
            _ => {}
        }
        if let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(at.saturating_sub(last));
        }
        self.last = Some(at);
    }

    /// From the first 429 to the first 200 after it.
    pub(super) fn recovery(&self) -> Option<Duration> {
        Some(self.recovered?.saturating_sub(self.first_limited?))
    }

    /// The longest time without a request, when `end` is the end of the demo.
    pub(super) fn longest_silence(&self, end: Duration) -> Duration {
        self.longest_gap.max(end.saturating_sub(self.last.unwrap_or_default()))
    }
}

/// A running peer. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    start: Instant,
    inner: Mutex<(Bucket, Books)>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, (Bucket, Books)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Response<Full<Bytes>> {
        // The clock is read under the lock, so that it never runs backwards in the books.
        let mut inner = self.lock();
        let now = clock::now();
        let (bucket, books) = &mut *inner;
        let verdict = bucket.ask(now);
        books.count(verdict, now.saturating_since(self.start));
        drop(inner);
        match verdict {
            Verdict::Good => Response::new(Full::from("here is your page\n")),
            Verdict::Limited(wait) => {
                let mut response = Response::new(Full::from("too many requests\n"));
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ceil_secs(wait)));
                response
            }
        }
    }
}

impl Peer {
    /// Opens a peer on a free loopback port. `start` is the start of its books.
    ///
    /// # Errors
    /// The listener cannot be opened.
    pub(super) async fn start(limit: Limit, start: Instant) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { start, inner: Mutex::new((Bucket::new(limit), Books::default())) });
        let server = tokio::spawn(serve(listener, Arc::clone(&state))).abort_handle();
        Ok(Self { address, state, server })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counted so far.
    pub(super) fn books(&self) -> Books {
        self.state.lock().1.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: the next connection may have more luck, but not at full speed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|_: Request<Incoming>| {
                let response = state.answer();
                async { Ok::<_, Infallible>(response) }
            });
            // A connection that ends badly has already been counted for what it asked.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { requests: 4, window: Duration::from_secs(2) };
    const LIMITED: Verdict = Verdict::Limited(Duration::from_secs(2));

    fn at(millis: u64) -> Instant {
        Instant::from_secs(1000).saturating_add(Duration::from_millis(millis))
    }

    #[test]
    fn a_bucket_gives_its_limit_once_a_window() {
        let mut bucket = Bucket::new(LIMIT);
        for time in [0, 600, 1200, 1999] {
            assert_eq!(bucket.ask(at(time)), Verdict::Good);
        }
        for time in [2000, 2600, 3200, 3998] {
            assert_eq!(bucket.ask(at(time)), Verdict::Good);
        }
        assert_eq!(bucket.ask(at(3999)), LIMITED);
    }

    #[test]
    fn a_steady_rate_at_the_limit_is_never_refused() {
        let mut bucket = Bucket::new(LIMIT);
        for request in 0..100 {
            assert_eq!(bucket.ask(at(request * 500)), Verdict::Good);
        }
    }

    #[test]
    fn a_refused_request_starts_the_wait_anew() {
        let mut bucket = Bucket::new(Limit { requests: 1, ..LIMIT });
        assert_eq!(bucket.ask(at(0)), Verdict::Good);
        assert_eq!(bucket.ask(at(100)), LIMITED);
        // Without this one the bucket would be full at 2100; with it, at 4000.
        assert_eq!(bucket.ask(at(2000)), LIMITED);
        assert_eq!(bucket.ask(at(3999)), LIMITED);
        // Silence for the whole window: good again.
        assert_eq!(bucket.ask(at(5999)), Verdict::Good);
    }

    #[test]
    fn who_keeps_asking_never_gets_out() {
        let mut bucket = Bucket::new(LIMIT);
        let good = (0..1000).filter(|request| bucket.ask(at(request * 40)) == Verdict::Good).count();
        assert_eq!(good, 4);
    }

    #[test]
    fn who_waits_as_told_gets_the_whole_limit_again() {
        let mut bucket = Bucket::new(LIMIT);
        let ask = |bucket: &mut Bucket, time| (0..5).filter(|_| bucket.ask(at(time)) == Verdict::Good).count();
        assert_eq!(ask(&mut bucket, 0), 4);
        assert_eq!(ask(&mut bucket, 2000), 4);
        assert_eq!(ask(&mut bucket, 3999), 0);
    }

    #[test]
    fn the_books_tell_storm_recovery_and_silence() {
        let mut books = Books::default();
        let millis = Duration::from_millis;
        books.count(Verdict::Good, millis(0));
        books.count(Verdict::Good, millis(499));
        books.count(LIMITED, millis(700));
        books.count(LIMITED, millis(900));
        assert_eq!((books.first_limited, books.recovery()), (Some(millis(700)), None));
        books.count(Verdict::Good, millis(3000));
        books.count(Verdict::Good, millis(3100));
        assert_eq!(books.recovery(), Some(millis(2300)));
        assert_eq!(books.total, Slice { good: 4, limited: 2 });
        assert_eq!(books.slices.len(), 7);
        assert_eq!(books.slices[0], Slice { good: 2, limited: 0 });
        assert_eq!(books.slices[1], Slice { good: 0, limited: 2 });
        assert_eq!(books.slices[2], Slice::default());
        assert_eq!(books.slices[6], Slice { good: 2, limited: 0 });
        assert_eq!(books.longest_silence(millis(4000)), millis(2100));
        assert_eq!(books.longest_silence(millis(9000)), millis(5900));
    }

    #[test]
    fn what_comes_late_does_not_make_the_books_grow() {
        let mut books = Books::default();
        books.count(Verdict::Good, Duration::MAX);
        assert_eq!(books.slices.len(), MAX_SLICES);
    }
}
