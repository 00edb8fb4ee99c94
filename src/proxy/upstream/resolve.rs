//! Names to addresses, by the system's resolver: what holds for the node's own programs (hosts file, search list, split DNS)
//! holds here. So `peer` may be found as `peer.corp.example`; with dots enough (`ndots`) a name is itself first. The key
//! stays what the client wrote, without a dot at its end; rules on names judge that, rules on addresses what it led to.
//!
//! The system's resolver blocks a thread and cannot be stopped, and clients choose the names. So at most [`MAX_LOOKUPS`]
//! run at a time, each name is looked up once however many requests wait for it, and both the waiting and the remembered
//! names are bounded. A failed look-up is not remembered: a name that has just appeared should work at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::dial;
use crate::metrics::{Bound, Metrics};
use crate::proxy::error::{ErrorKind, ProxyError};

/// How many look-ups run at a time.
const MAX_LOOKUPS: usize = 64;

/// How many look-ups may run or wait to run.
const MAX_FLIGHTS: usize = 4096;

/// How many names are remembered.
const MAX_NAMES: usize = 4096;

/// What a request is told that finds either bound reached.
const TOO_MANY: &str = "too many names are being looked up";

/// How many addresses of one name are used.
const MAX_ADDRESSES: usize = 64;

/// The addresses of a name, in the order of the resolver (RFC 6724).
pub(super) type Addresses = Arc<[IpAddr]>;

type Answer = Result<Addresses, (ErrorKind, Option<Bound>, String)>;

/// The system's resolver, with a bounded memory.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ttl: Duration,
    timeout: Duration,
    lookups: Semaphore,
    source: Source,
    names: Mutex<Names>,
    /// Weak, since the metrics know the pool.
    metrics: OnceLock<Weak<Metrics>>,
}

#[derive(Debug, Default)]
struct Names {
    known: HashMap<Box<str>, Known>,
    flights: HashMap<Box<str>, watch::Receiver<Option<Answer>>>,
}

#[derive(Debug)]
struct Known {
    addresses: Addresses,
    until: Instant,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    #[cfg(test)]
    Fixed(tests::Fixed),
}

impl Resolver {
    /// A resolver that uses an answer for `ttl` and waits for one no longer than `timeout`.
    pub(super) fn new(ttl: Duration, timeout: Duration) -> Self {
        Self::with_source(ttl, timeout, Source::System)
    }

    fn with_source(ttl: Duration, timeout: Duration, source: Source) -> Self {
        let lookups = Semaphore::new(MAX_LOOKUPS);
        Self {
            shared: Arc::new(Shared {
                ttl,
                timeout,
                lookups,
                source,
                names: Mutex::default(),
                metrics: OnceLock::new(),
            }),
        }
    }

    /// Where bounds are counted.
    pub(super) fn count_with(&self, metrics: Weak<Metrics>) {
        let _ = self.shared.metrics.set(metrics);
    }

    /// The addresses of `host`: at least one. An address literal is its own answer.
    ///
    /// # Errors
    /// [`ErrorKind::Dns`], [`ErrorKind::DnsTimeout`]; [`ErrorKind::Overload`] when too many look-ups are under way.
    pub(super) async fn resolve(&self, host: &str) -> Result<Addresses, ProxyError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Arc::new([ip]));
        }
        let mut flight = match self.shared.join(host)? {
            Joined::Known(addresses) => return Ok(addresses),
            Joined::Flight(flight) => flight,
            Joined::Start(flight, guard) => {
                tokio::spawn(guard.run());
                flight
            }
        };
        let landed = tokio::time::timeout(self.shared.timeout, flight.wait_for(Option::is_some)).await;
        let Ok(landed) = landed else {
            return Err(ProxyError::new(ErrorKind::DnsTimeout, "the look-up of the name took too long"));
        };
        match landed.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(Arc::clone(addresses)),
            Ok(Some(Err((kind, bound, detail)))) => Err(ProxyError::new(*kind, detail.clone()).at(*bound)),
            _ => Err(ProxyError::new(ErrorKind::Internal, "the look-up of the name was given up")),
        }
    }
}

enum Joined {
    Known(Addresses),
    Flight(watch::Receiver<Option<Answer>>),
    Start(watch::Receiver<Option<Answer>>, Flight),
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remembered answer, a look-up under way, or a new one.
    fn join(self: &Arc<Self>, host: &str) -> Result<Joined, ProxyError> {
        let mut names = self.names();
        match names.known.get(host) {
            Some(known) if known.until > Instant::now() => return Ok(Joined::Known(Arc::clone(&known.addresses))),
            Some(_) => drop(names.known.remove(host)),
            None => {}
        }
        let full = names.flights.len() >= MAX_FLIGHTS;
        match names.flights.entry(host.into()) {
            Entry::Occupied(flight) => Ok(Joined::Flight(flight.get().clone())),
            Entry::Vacant(_) if full => Err(ProxyError::new(ErrorKind::Overload, TOO_MANY).at(Some(Bound::Lookups))),
            Entry::Vacant(place) => {
                let (landed, flight) = watch::channel(None);
                place.insert(flight.clone());
                Ok(Joined::Start(flight, Flight { shared: Arc::clone(self), host: host.into(), landed }))
            }
        }
    }

    /// As many addresses as are used.
    fn bounded(&self, found: Addresses) -> Addresses {
        match found.get(..MAX_ADDRESSES) {
            Some(used) if used.len() < found.len() => {
                if let Some(metrics) = self.metrics.get().and_then(Weak::upgrade) {
                    metrics.bound_reached(Bound::Addresses);
                }
                used.into()
            }
            _ => found,
        }
    }

    fn remember(&self, host: &str, addresses: &Addresses) {
        let now = Instant::now();
        let Some(until) = now.checked_add(self.ttl).filter(|_| !self.ttl.is_zero()) else {
            return;
        };
        let mut names = self.names();
        if names.known.len() >= MAX_NAMES {
            names.known.retain(|_, known| known.until > now);
        }
        if names.known.len() >= MAX_NAMES {
            let oldest = names.known.iter().min_by_key(|(_, known)| known.until).map(|(name, _)| name.clone());
            oldest.and_then(|name| names.known.remove(&name));
        }
        names.known.insert(host.into(), Known { addresses: Arc::clone(addresses), until });
    }
}

/// One look-up under way. It runs in its own task, so that the first to ask may leave without the others losing it.
struct Flight {
    shared: Arc<Shared>,
    host: Box<str>,
    landed: watch::Sender<Option<Answer>>,
}

impl Flight {
    async fn run(self) {
        let answer = self.look_up().await.map(|found| self.shared.bounded(found));
        if let Ok(addresses) = &answer {
            self.shared.remember(&self.host, addresses);
        }
        self.landed.send_replace(Some(answer));
    }

    async fn look_up(&self) -> Answer {
        // Waiting for a turn is our own bound, not the name's fault.
        let turn = tokio::time::timeout(self.shared.timeout, self.shared.lookups.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err((ErrorKind::Overload, Some(Bound::Lookups), TOO_MANY.to_owned()));
        };
        match self.shared.source.look_up(&self.host).await {
            Ok(addresses) if addresses.is_empty() => Err((ErrorKind::Dns, None, "the name has no address".to_owned())),
            Ok(addresses) => Ok(addresses.into()),
            Err(error) if dial::is_our_bound(&error) => Err((ErrorKind::Overload, None, error.to_string())),
            Err(error) => Err((ErrorKind::Dns, None, error.to_string())),
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.names().flights.remove(&self.host);
    }
}

impl Source {
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = match self {
            Self::System => tokio::net::lookup_host((host, 0)).await?,
            #[cfg(test)]
            Self::Fixed(fixed) => return fixed.look_up(host).await,
        };
        let mut addresses = Vec::new();
        for ip in found.map(|address: SocketAddr| address.ip()) {
            // One more tells that there are too many.
            if addresses.len() > MAX_ADDRESSES {
                break;
            }
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A resolver that counts and waits for `gate` permits.
    #[derive(Clone, Debug)]
    pub(super) struct Fixed {
        asked: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Fixed {
        fn new(permits: usize) -> Self {
            Self { asked: Arc::default(), gate: Arc::new(Semaphore::new(permits)) }
        }

        pub(super) async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            match host {
                "none.example" => Err(io::Error::other("no such name")),
                "empty.example" => Ok(Vec::new()),
                "many.example" => Ok((0..=64).map(|n| IpAddr::from([127, 0, 1, n])).collect()),
                "full.example" => Ok((1..=64).map(|n| IpAddr::from([127, 0, 1, n])).collect()),
                _ => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
            }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    fn fixed(permits: usize, ttl: Duration, timeout: Duration) -> (Resolver, Fixed) {
        let fixed = Fixed::new(permits);
        (Resolver::with_source(ttl, timeout, Source::Fixed(fixed.clone())), fixed)
    }

    fn kind(answer: Result<Addresses, ProxyError>) -> ErrorKind {
        answer.unwrap_err().kind()
    }

    #[tokio::test]
    async fn the_system_knows_localhost_and_not_an_invalid_name() {
        let resolver = Resolver::new(LONG, LONG);
        assert!(resolver.resolve("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(kind(resolver.resolve("nonexistent.invalid").await), ErrorKind::Dns);
    }

    #[tokio::test]
    async fn a_literal_needs_no_look_up() {
        let (resolver, fixed) = fixed(0, LONG, LONG);
        for literal in ["192.0.2.1", "::1"] {
            assert_eq!(*resolver.resolve(literal).await.unwrap(), [literal.parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(fixed.asked(), 0);
    }

    #[tokio::test]
    async fn an_answer_is_used_for_its_time_and_a_failure_is_not_remembered() {
        let (resolver, source) = fixed(100, LONG, LONG);
        for _ in 0..3 {
            resolver.resolve("peer.example").await.unwrap();
        }
        assert_eq!(source.asked(), 1);
        for name in ["none.example", "none.example", "empty.example"] {
            assert_eq!(kind(resolver.resolve(name).await), ErrorKind::Dns);
        }
        assert_eq!(source.asked(), 4);
        let (resolver, source) = fixed(100, Duration::ZERO, LONG);
        resolver.resolve("peer.example").await.unwrap();
        resolver.resolve("peer.example").await.unwrap();
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test]
    async fn one_name_is_looked_up_once_and_outlives_the_first_to_ask() {
        let (resolver, source) = fixed(0, LONG, LONG);
        let ask = |resolver: &Resolver| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.resolve("peer.example").await })
        };
        let first = ask(&resolver);
        while source.asked() == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..10).map(|_| ask(&resolver)).collect();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        source.gate.add_permits(1);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap().len(), 1);
        }
        assert_eq!(source.asked(), 1);
        assert!(resolver.shared.names().flights.is_empty());
    }

    #[tokio::test]
    async fn a_slow_name_times_out_and_slow_names_leave_threads_to_others() {
        let (resolver, source) = fixed(0, LONG, Duration::from_millis(100));
        assert_eq!(kind(resolver.resolve("slow.example").await), ErrorKind::DnsTimeout);
        let asked: Vec<_> = (0..100)
            .map(|n| {
                let resolver = resolver.clone();
                tokio::spawn(async move { resolver.resolve(&format!("slow{n}.example")).await })
            })
            .collect();
        let mut kinds = Vec::new();
        for answer in asked {
            kinds.push(kind(answer.await.unwrap()));
        }
        assert_eq!(source.asked(), MAX_LOOKUPS);
        assert!(kinds.iter().all(|kind| matches!(kind, ErrorKind::DnsTimeout | ErrorKind::Overload)), "{kinds:?}");
    }

    #[tokio::test]
    async fn the_first_addresses_of_very_many_are_used() {
        let (resolver, _) = fixed(100, LONG, LONG);
        for (name, first) in [("many.example", [127, 0, 1, 0]), ("full.example", [127, 0, 1, 1])] {
            let found = resolver.resolve(name).await.unwrap();
            assert_eq!((found.len(), found[0]), (MAX_ADDRESSES, IpAddr::from(first)));
        }
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let (resolver, _) = fixed(10_000, LONG, LONG);
        for n in 0..MAX_NAMES + 10 {
            resolver.resolve(&format!("n{n}.example")).await.unwrap();
        }
        let names = resolver.shared.names();
        assert_eq!(names.known.len(), MAX_NAMES);
        assert!(names.known.contains_key(format!("n{}.example", MAX_NAMES + 9).as_str()));
        assert!(!names.known.contains_key("n0.example"));
    }
}
