//! The certificates in use, each as the rustls configuration of a server.
//!
//! Clients choose the hosts (within the constraints), so what is kept is bounded: at the bound the host that was not asked
//! for the longest goes. Hosts are minted for one at a time each: whoever asks meanwhile waits for that one.
//!
//! Sessions are not resumed. A ticket or a session kept here for each client would be memory that clients choose, and what it
//! saves is one signature on the way to the same machine.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use tokio::sync::OnceCell;

use super::authority::Authority;
use super::error::AuthorityError;
use crate::core::time::UnixTime;

/// Leaf certificates by host, at most so many.
pub struct LeafCache {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    alpn: Vec<Vec<u8>>,
    lifetime: Duration,
    most: usize,
    entries: Mutex<Entries>,
    minted: AtomicU64,
}

impl fmt::Debug for LeafCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafCache")
            .field("authority", &self.authority)
            .field("lifetime", &self.lifetime)
            .field("most", &self.most)
            .field("minted", &self.minted())
            .finish_non_exhaustive()
    }
}

impl LeafCache {
    /// An empty cache of at most `most` leaves (at least one) that are valid for `lifetime`. `alpn` is what their servers
    /// agree to, best first.
    pub fn new(authority: Arc<Authority>, alpn: &[&[u8]], lifetime: Duration, most: usize) -> Self {
        Self {
            authority,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
            lifetime,
            most: most.max(1),
            entries: Mutex::default(),
            minted: AtomicU64::new(0),
        }
    }

    /// The server that a client of `host`, in the normal form of a key, meets: TLS 1.2 and 1.3, a leaf for that host whatever
    /// the client's SNI says, no resumption. A leaf is made when there is none, when most of its time is over, and when the
    /// clock was set to before its time.
    ///
    /// # Errors
    /// As [`Authority::mint`]. Nothing of a failure is kept.
    pub async fn server(&self, host: &str, now: UnixTime) -> Result<Arc<ServerConfig>, AuthorityError> {
        let cell = self.lock().cell(host, now, self.most);
        // Minting is some signatures long: shorter than the way to another thread and back.
        let made = cell.get_or_try_init(async || self.mint(host, now)).await;
        match made {
            Ok(ready) => Ok(Arc::clone(&ready.config)),
            Err(error) => {
                self.lock().forget(host, &cell);
                Err(error)
            }
        }
    }

    fn mint(&self, host: &str, now: UnixTime) -> Result<Ready, AuthorityError> {
        let leaf = self.authority.mint(host, self.lifetime, now)?;
        let refused =
            |error| AuthorityError::new(format!("expected to show a certificate for `{host}`")).caused_by(error);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(leaf.chain().to_vec(), leaf.private_key())
            .map_err(refused)?;
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        self.minted.fetch_add(1, Ordering::Relaxed);
        Ok(Ready { config: Arc::new(config), not_before: leaf.not_before(), renew_at: leaf.renew_at() })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How many leaves were made so far.
    pub fn minted(&self) -> u64 {
        self.minted.load(Ordering::Relaxed)
    }

    /// How many leaves are kept now.
    pub fn len(&self) -> usize {
        self.lock().by_host.len()
    }

    /// Whether no leaf is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A leaf at work.
struct Ready {
    config: Arc<ServerConfig>,
    not_before: UnixTime,
    renew_at: UnixTime,
}

type Cell = Arc<OnceCell<Ready>>;

/// The hosts, and the order in which they were last asked for.
#[derive(Default)]
struct Entries {
    by_host: HashMap<Arc<str>, (Cell, u64)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

impl Entries {
    /// The cell of a host: the one there is, unless its leaf's time is over.
    fn cell(&mut self, host: &str, now: UnixTime, most: usize) -> Cell {
        self.uses = self.uses.saturating_add(1);
        let (name, cell) = match self.by_host.remove_entry(host) {
            Some((name, (cell, used))) => {
                self.by_use.remove(&used);
                let over = cell.get().is_some_and(|ready| now >= ready.renew_at || now < ready.not_before);
                (name, if over { Cell::default() } else { cell })
            }
            None => {
                while self.by_host.len() >= most
                    && let Some((_, oldest)) = self.by_use.pop_first()
                {
                    self.by_host.remove(&oldest);
                }
                (host.into(), Cell::default())
            }
        };
        self.by_use.insert(self.uses, Arc::clone(&name));
        self.by_host.insert(name, (Arc::clone(&cell), self.uses));
        cell
    }

    /// Takes out a host whose leaf could not be made, unless another attempt was better.
    fn forget(&mut self, host: &str, cell: &Cell) {
        if let Some((known, used)) = self.by_host.get(host)
            && Arc::ptr_eq(known, cell)
            && !known.initialized()
        {
            self.by_use.remove(used);
            self.by_host.remove(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const LIFETIME: Duration = Duration::from_secs(40 * 3600);

    fn cache(most: usize) -> (tempfile::TempDir, Arc<LeafCache>) {
        let directory = tempfile::tempdir().unwrap();
        let hosts = crate::config::parse("intercept.hosts = [\"*.example.com\"]").unwrap().settings.intercept.hosts;
        let authority = Authority::create(&directory.path().join("ca"), &hosts, NOW, false).unwrap();
        let cache = LeafCache::new(Arc::new(authority), &[b"http/1.1"], LIFETIME, most);
        (directory, Arc::new(cache))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_hundred_who_ask_at_once_share_one_minting() {
        let (_directory, cache) = cache(10);
        let gate = Arc::new(tokio::sync::Barrier::new(100));
        let ask = || {
            let (cache, gate) = (Arc::clone(&cache), Arc::clone(&gate));
            tokio::spawn(async move {
                gate.wait().await;
                cache.server("a.example.com", NOW).await.unwrap()
            })
        };
        let asked: Vec<_> = (0..100).map(|_| ask()).collect();
        let mut servers = Vec::new();
        for each in asked {
            servers.push(each.await.unwrap());
        }
        assert!(servers.iter().all(|server| Arc::ptr_eq(server, &servers[0])));
        assert_eq!((cache.minted(), cache.len()), (1, 1));
    }

    #[tokio::test]
    async fn at_the_bound_the_host_asked_for_the_longest_ago_goes() {
        let (_directory, cache) = cache(3);
        for host in ["a", "b", "c", "a", "d"] {
            cache.server(&format!("{host}.example.com"), NOW).await.unwrap();
        }
        assert_eq!((cache.minted(), cache.len()), (4, 3));
        for host in ["a", "c", "d"] {
            cache.server(&format!("{host}.example.com"), NOW).await.unwrap();
        }
        assert_eq!(cache.minted(), 4, "those are still there");
        cache.server("b.example.com", NOW).await.unwrap();
        assert_eq!((cache.minted(), cache.len()), (5, 3));
        for host in 0..200 {
            cache.server(&format!("{host}.example.com"), NOW).await.unwrap();
        }
        assert_eq!(cache.len(), 3);
        let entries = cache.lock();
        assert_eq!((entries.by_host.len(), entries.by_use.len()), (3, 3));
    }

    #[tokio::test]
    async fn a_leaf_is_made_anew_before_it_ends_and_when_the_clock_was_set_back() {
        let (_directory, cache) = cache(3);
        // It begins four hours before now, a tenth of its lifetime, and three quarters of it are over 26 hours from now.
        let after = |hours: u64| NOW.saturating_add(Duration::from_secs(hours * 3600));
        for (hours, minted) in [(0, 1), (25, 1), (26, 2), (51, 2), (52, 3)] {
            cache.server("a.example.com", after(hours)).await.unwrap();
            assert_eq!(cache.minted(), minted, "after {hours} hours");
        }
        cache.server("a.example.com", NOW).await.unwrap();
        assert_eq!((cache.minted(), cache.len()), (4, 1));
    }

    #[tokio::test]
    async fn of_a_host_that_is_not_permitted_nothing_is_kept() {
        let (_directory, cache) = cache(3);
        for host in ["peer.example", "127.0.0.1", "*.example.com", "A.example.com", ""] {
            assert!(cache.server(host, NOW).await.is_err(), "{host}");
        }
        assert_eq!((cache.minted(), cache.is_empty(), cache.lock().by_use.len()), (0, true, 0));
    }

    #[tokio::test]
    async fn clients_leave_nothing_behind() {
        let (_directory, cache) = cache(3);
        let server = cache.server("a.example.com", NOW).await.unwrap();
        assert_eq!(server.send_tls13_tickets, 0);
        assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
        assert_eq!(server.max_early_data_size, 0);
    }
}
