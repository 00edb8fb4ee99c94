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
