//! Which connection a request gets. The pool knows nothing of HTTP: a connection is something that is ready, closed or
//! neither.
//!
//! Each host has a bound on connections. A [`Slot`] is the right to have one: it is taken before connecting, lives in the
//! connection's task, and goes back when it is dropped, so that no way out of a request can lose it. A [`Lease`] is a
//! connection in use. Whoever finds every slot taken waits in line; what is given back, slot or connection, goes to the
//! first in line and never past it. A host that has no slot in use is forgotten.
//!
//! A connection that carries several exchanges at once is kept apart: every request gets a share of it, and there is one for
//! each host. Whether a host has such connections is known once the first is open; until then others wait for that one
//! instead of opening their own.
//!
//! One lock for each host, held for a few moves. Nothing is dropped under it that could take it again.

mod shared;

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use self::shared::SharedLine;
use super::parent::Way;
use super::tls::TlsId;
use crate::core::key::Key;

/// How long an exchange may take to come to rest after the end of the response: the rest of the request body, the peer's
/// part of a close.
const SETTLE: Duration = Duration::from_secs(1);

/// What the pool asks of a connection. Dropping it closes it at once.
pub(super) trait Connection: Send + 'static {
    /// Whether a request may be sent now.
    fn is_ready(&self) -> bool;
    /// Waits for that; `false`: it never will be.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool>;
    /// Whether it is over.
    fn is_closed(&self) -> bool;
    /// Closes an idle connection in good order.
    fn retire(self);
    /// Another hold on the same connection, if it carries several exchanges at once.
    fn share(&self) -> Option<Self>
    where
        Self: Sized;
}

/// The bounds of each host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_connections: usize,
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
    /// Zero: none.
    pub(super) max_lifetime: Duration,
}

/// What a pool holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Hosts with at least one connection.
    pub hosts: usize,
    /// Connections, being opened, in use or idle.
    pub open: usize,
    /// Connections that wait for a request.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
}

/// What connections are shared by: the key, the TLS settings they were made with, the way they take, and whether they may carry several
/// exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostId {
    key: Key,
    tls: TlsId,
    way: Way,
    multiplex: bool,
}

impl Hash for HostId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        HostRef { key: &self.key, tls: self.tls, way: self.way, multiplex: self.multiplex }.hash(state);
    }
}

/// A [`HostId`] that borrows its key.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct HostRef<'a> {
    pub(super) key: &'a Key,
    pub(super) tls: TlsId,
    /// Straight, or through a parent. Of a key there is one parent at most.
    pub(super) way: Way,
    /// Whether a new connection may turn out to carry several exchanges.
    pub(super) multiplex: bool,
}

impl papaya::Equivalent<HostId> for HostRef<'_> {
    fn equivalent(&self, id: &HostId) -> bool {
        self.tls == id.tls && self.way == id.way && self.multiplex == id.multiplex && *self.key == id.key
    }
}

/// The connections of all hosts.
pub(super) struct Pool<C: Connection> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: Connection> {
    bounds: Bounds,
    hosts: papaya::HashMap<HostId, Arc<Host<C>>, foldhash::fast::RandomState>,
}

struct Host<C: Connection> {
    id: HostId,
    bounds: Bounds,
    pool: Weak<Shared<C>>,
    state: Mutex<State<C>>,
}

struct State<C: Connection> {
    /// The last to come back is the first to go out.
    idle: Vec<Idle<C>>,
    /// The connection that everybody shares.
    shared: Option<SharedLine<C>>,
    /// The host was found to have none such.
    single: bool,
    /// A connection is being opened that may turn out to be shared.
    deciding: bool,
    /// Slots in use.
    open: usize,
    waiters: VecDeque<Waiter<C>>,
    next_waiter: u64,
    /// No longer in the map.
    retired: bool,
}

struct Idle<C> {
    connection: C,
    opened: Instant,
    since: Instant,
}

struct Waiter<C: Connection> {
    number: u64,
    grant: oneshot::Sender<Grant<C>>,
}

/// What a request gets from the pool at once.
pub(super) enum Checkout<C: Connection> {
    /// A connection that was idle.
    Reuse(Lease<C>),
    /// The right to open one.
    Open(Slot<C>),
    /// A place in line.
    Wait(Waiting<C>),
}

/// What a request in line gets.
pub(super) enum Grant<C: Connection> {
    /// A connection that somebody gave back.
    Connection(Lease<C>),
    /// The right to open one.
    Slot(Slot<C>),
}

impl<C: Connection> Pool<C> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let hosts = papaya::HashMap::with_hasher(foldhash::fast::RandomState::default());
        Self { shared: Arc::new(Shared { bounds, hosts }) }
    }

    /// A connection, the right to open one, or a place in line. `fresh`: not one that was idle.
    pub(super) fn checkout(&self, host: HostRef<'_>, now: Instant, fresh: bool) -> Checkout<C> {
        let hosts = self.shared.hosts.pin();
        loop {
            let known = match hosts.get(&host) {
                Some(known) => known,
                None => {
                    let id = HostId { key: host.key.clone(), tls: host.tls, way: host.way, multiplex: host.multiplex };
                    let new = self.shared.host(id.clone());
                    hosts.get_or_insert(id, Arc::new(new))
                }
            };
            // A host may be forgotten between the look-up and the lock; then there is a new one.
            if let Some(checkout) = known.checkout(now, fresh) {
                return checkout;
            }
            let _ = hosts.remove_if(&host, |_, host| Arc::ptr_eq(host, known));
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let mut stats = PoolStats::default();
        for host in self.shared.hosts.pin().values() {
            let state = host.state();
            stats.hosts = stats.hosts.saturating_add(1);
            stats.open = stats.open.saturating_add(state.open);
            let shared_idle = usize::from(state.shared.as_ref().is_some_and(|shared| shared.leases == 0));
            stats.idle = stats.idle.saturating_add(state.idle.len()).saturating_add(shared_idle);
            stats.waiting = stats.waiting.saturating_add(state.waiters.len());
        }
        stats
    }

    pub(super) fn sweeper(&self) -> Sweeper<C> {
        Sweeper { pool: Arc::downgrade(&self.shared) }
    }
}

impl<C: Connection> Shared<C> {
    fn host(self: &Arc<Self>, id: HostId) -> Host<C> {
        Host { id, bounds: self.bounds, pool: Arc::downgrade(self), state: Mutex::default() }
    }

    fn sweep(&self, now: Instant) {
        for host in self.hosts.pin().values() {
            host.sweep(now);
        }
    }
}

impl<C: Connection> Drop for Shared<C> {
    fn drop(&mut self) {
        // Tasks of idle connections keep their host alive, so the host's idle connections must be let go here.
        for host in self.hosts.pin().values() {
            let (idle, shared) = {
                let mut state = host.state();
                (std::mem::take(&mut state.idle), state.shared.take())
            };
            idle.into_iter().for_each(|idle| idle.connection.retire());
            shared.into_iter().for_each(|shared| shared.connection.retire());
        }
    }
}

/// Closes what has been idle or alive for too long.
pub(super) struct Sweeper<C: Connection> {
    pool: Weak<Shared<C>>,
}

impl<C: Connection> Sweeper<C> {
    /// Runs until the pool is gone.
    pub(super) async fn run(self) {
        let Some(bounds) = self.pool.upgrade().map(|pool| pool.bounds) else { return };
        let every = bounds.idle_timeout.div_f32(4.0).clamp(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            tokio::time::sleep(every).await;
            match self.pool.upgrade() {
                Some(pool) => pool.sweep(Instant::now()),
                None => return,
            }
        }
    }
}

impl<C: Connection> Default for State<C> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            shared: None,
            single: false,
            deciding: false,
            open: 0,
            waiters: VecDeque::new(),
            next_waiter: 0,
            retired: false,
        }
    }
}

impl<C: Connection> Host<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the host was forgotten.
    fn checkout(self: &Arc<Self>, now: Instant, fresh: bool) -> Option<Checkout<C>> {
        // Declared before the guard, so dropped after it: closing a connection may end in this lock.
        let mut over = Discarded::new();
        let mut state = self.state();
        if state.retired {
            return None;
        }
        if let Some(lease) = self.share(&mut state, &mut over, now) {
            return Some(Checkout::Reuse(lease));
        }
        if !fresh {
            while let Some(idle) = state.idle.pop() {
                if idle.connection.is_ready() && !self.is_over(&idle, now) {
                    let Idle { connection, opened, .. } = idle;
                    return Some(Checkout::Reuse(Lease::new(connection, opened, self)));
                }
                over.push(idle.connection);
            }
        } else if state.open >= self.bounds.max_connections && !state.idle.is_empty() {
            over.push(state.idle.remove(0).connection);
        }
        let decides = self.id.multiplex && !state.single;
        if state.open < self.bounds.max_connections && !(decides && state.deciding) {
            state.open = state.open.saturating_add(1);
            state.deciding |= decides;
            return Some(Checkout::Open(Slot { host: Some(Arc::clone(self)), decides }));
        }
        let (grant, granted) = oneshot::channel();
        let number = state.next_waiter;
        state.next_waiter = number.wrapping_add(1);
        state.waiters.push_back(Waiter { number, grant });
        Some(Checkout::Wait(Waiting { number, granted, host: Arc::clone(self) }))
    }

    fn is_over(&self, idle: &Idle<C>, now: Instant) -> bool {
        now.saturating_duration_since(idle.since) >= self.bounds.idle_timeout || self.is_old(idle.opened, now)
    }

    fn is_old(&self, opened: Instant, now: Instant) -> bool {
        let lifetime = self.bounds.max_lifetime;
        !lifetime.is_zero() && now.saturating_duration_since(opened) >= lifetime
    }

    /// A connection at rest comes back: to the first in line, else to the idle ones.
    fn give_back(self: &Arc<Self>, connection: C, opened: Instant) {
        let now = Instant::now();
        if self.is_old(opened, now) {
            return connection.retire();
        }
        let mut connection = connection;
        let mut state = self.state();
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.grant.send(Grant::Connection(Lease::new(connection, opened, self))) {
                Ok(()) => return,
                // That one has left.
                Err(Grant::Connection(mut lease)) => match lease.connection.take() {
                    Some(back) => connection = back,
                    None => return,
                },
                Err(Grant::Slot(_)) => return,
            }
        }
        if state.retired || state.idle.len() >= self.bounds.max_idle {
            drop(state);
            return connection.retire();
        }
        state.idle.push(Idle { connection, opened, since: now });
    }

    /// A slot comes back: to the first in line, else it is free. `decides`: nobody came to know of what kind the host's
    /// connections are.
    fn release(self: &Arc<Self>, decides: bool) {
        let mut over = Discarded::new();
        let mut state = self.state();
        if state.shared.as_ref().is_some_and(|shared| shared.connection.is_closed()) {
            over.extend(state.shared.take().map(|shared| shared.connection));
        }
        // A slot comes back when a connection has ended, maybe an idle one that its peer closed.
        while let Some(at) = state.idle.iter().position(|idle| idle.connection.is_closed()) {
            over.push(state.idle.remove(at).connection);
        }
        // While somebody else opens a first connection, those in line wait for that one.
        let awaits_other = state.deciding && !decides && state.open > 1;
        while !awaits_other && let Some(waiter) = state.waiters.pop_front() {
            match waiter.grant.send(Grant::Slot(Slot { host: Some(Arc::clone(self)), decides: false })) {
                Ok(()) => {
                    if decides {
                        self.undecided(&mut state);
                    }
                    return;
                }
                // That one has left: take the slot back without releasing it a second time.
                Err(Grant::Slot(mut slot)) => drop(slot.host.take()),
                Err(Grant::Connection(_)) => {}
            }
        }
        if decides {
            state.deciding = false;
        }
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            state.retired = true;
            state.idle.drain(..).for_each(|idle| over.push(idle.connection));
            over.extend(state.shared.take().map(|shared| shared.connection));
            drop(state);
            if let Some(pool) = self.pool.upgrade() {
                let _ = pool.hosts.pin().remove_if(&self.id, |_, host| Arc::ptr_eq(host, self));
            }
        }
    }

    /// Leaves the line.
    fn leave(&self, number: u64) {
        let mut state = self.state();
        // Numbers grow along the line.
        let left = match state.waiters.binary_search_by_key(&number, |waiter| waiter.number) {
            Ok(at) => state.waiters.remove(at),
            Err(_) => None,
        };
        drop(state);
        drop(left);
    }

    fn sweep(&self, now: Instant) {
        let mut over = Discarded::new();
        let mut state = self.state();
        while let Some(at) = state.idle.iter().position(|idle| idle.connection.is_closed() || self.is_over(idle, now)) {
            over.push(state.idle.remove(at).connection);
        }
        if state.shared.as_ref().is_some_and(|shared| self.rests(shared, now)) {
            over.extend(state.shared.take().map(|shared| shared.connection));
        }
    }
}

/// Connections to close once the lock is gone.
struct Discarded<C: Connection>(Vec<C>);

impl<C: Connection> Discarded<C> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn push(&mut self, connection: C) {
        self.0.push(connection);
    }

    fn extend(&mut self, connection: Option<C>) {
        self.0.extend(connection);
    }
}

impl<C: Connection> Drop for Discarded<C> {
    fn drop(&mut self) {
        self.0.drain(..).for_each(C::retire);
    }
}

/// The right to have one connection to a host.
pub(super) struct Slot<C: Connection> {
    /// `None`: handed on.
    host: Option<Arc<Host<C>>>,
    /// Others wait to hear of what kind the connection is.
    decides: bool,
}

impl<C: Connection> Slot<C> {
    /// Where a connection of this slot belongs; the slot itself goes into the connection's task, and the connection to
    /// [`Place::lease`] at once.
    pub(super) fn place(&mut self) -> Option<Place<C>> {
        let place = self.host.clone().map(|host| Place { host, decides: self.decides });
        self.decides = false;
        place
    }
}

/// Where a new connection belongs.
pub(super) struct Place<C: Connection> {
    host: Arc<Host<C>>,
    decides: bool,
}

impl<C: Connection> Place<C> {
    /// A new connection, about to be used.
    pub(super) fn lease(&self, connection: C) -> Lease<C> {
        if self.decides || connection.share().is_some() {
            self.host.decided(connection)
        } else {
            Lease::new(connection, Instant::now(), &self.host)
        }
    }
}

impl<C: Connection> Drop for Slot<C> {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            host.release(self.decides);
        }
    }
}

/// A connection in use. Dropped before [`Lease::begin`], it goes back; after it, only [`Lease::finish`] gives it back.
pub(super) struct Lease<C: Connection> {
    /// `None`: gone.
    connection: Option<C>,
    opened: Instant,
    host: Arc<Host<C>>,
    begun: bool,
    /// A share of this connection.
    shared: Option<u64>,
}

impl<C: Connection> Lease<C> {
    fn new(connection: C, opened: Instant, host: &Arc<Host<C>>) -> Self {
        Self { connection: Some(connection), opened, host: Arc::clone(host), begun: false, shared: None }
    }

    fn share(connection: C, opened: Instant, host: &Arc<Host<C>>, number: u64) -> Self {
        Self { connection: Some(connection), opened, host: Arc::clone(host), begun: false, shared: Some(number) }
    }

    /// The connection, for one exchange.
    pub(super) fn begin(&mut self) -> Option<&mut C> {
        self.begun = true;
        self.connection.as_mut()
    }

    /// The connection may be dead: nobody else is to begin on it. Exchanges that are under way go on.
    pub(super) fn distrust(&self) {
        if let Some(number) = self.shared {
            self.host.forsake(number);
        }
    }

    /// The exchange ended cleanly: the connection goes back when it is ready for another.
    pub(super) fn finish(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.shared.is_some() {
            return connection.retire();
        }
        if connection.is_ready() {
            return self.host.give_back(connection, self.opened);
        }
        if connection.is_closed() {
            return;
        }
        // Rare: its task has not been run since, or the request body is still being sent.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (host, opened) = (Arc::clone(&self.host), self.opened);
        runtime.spawn(async move {
            let ready = tokio::time::timeout(SETTLE, std::future::poll_fn(|cx| connection.poll_ready(cx))).await;
            if ready == Ok(true) {
                host.give_back(connection, opened);
            }
        });
    }

    /// The connection becomes something else: it ends as a connection of the pool, in good order.
    pub(super) fn detach(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.retire();
        }
    }
}

impl<C: Connection> Drop for Lease<C> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        if let Some(number) = self.shared {
            if let Some(connection) = connection {
                connection.retire();
            }
            return self.host.unshare(number);
        }
        if let Some(connection) = connection
            && !self.begun
            && connection.is_ready()
        {
            self.host.give_back(connection, self.opened);
        }
    }
}

/// A place in line. Dropping it leaves the line; what was granted meanwhile goes on to the next.
pub(super) struct Waiting<C: Connection> {
    number: u64,
    granted: oneshot::Receiver<Grant<C>>,
    host: Arc<Host<C>>,
}

impl<C: Connection> Waiting<C> {
    /// Waits for one's turn.
    pub(super) async fn granted(&mut self) -> Option<Grant<C>> {
        (&mut self.granted).await.ok()
    }
}

impl<C: Connection> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.host.leave(self.number);
    }
}

impl<C: Connection> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("host", &self.host.id).field("begun", &self.begun).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// A connection that is ready until told otherwise, and whose slot goes back when it is closed.
    struct Fake {
        number: usize,
        ready: Arc<AtomicBool>,
        over: bool,
        _slot: Slot<Fake>,
    }

    impl Connection for Fake {
        fn is_ready(&self) -> bool {
            self.ready.load(Ordering::SeqCst)
        }

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<bool> {
            Poll::Ready(self.is_ready())
        }

        fn is_closed(&self) -> bool {
            self.over
        }

        fn retire(self) {}

        fn share(&self) -> Option<Self> {
            None
        }
    }

    static NUMBER: AtomicUsize = AtomicUsize::new(0);

    fn open(slot: Slot<Fake>) -> (Lease<Fake>, usize, Arc<AtomicBool>) {
        let mut slot = slot;
        let place = slot.place().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let ready = Arc::new(AtomicBool::new(true));
        let lease = place.lease(Fake { number, ready: Arc::clone(&ready), over: false, _slot: slot });
        (lease, number, ready)
    }

    fn bounds(max_connections: usize, max_idle: usize) -> Bounds {
        let idle_timeout = Duration::from_secs(60);
        Bounds { max_connections, max_idle, idle_timeout, max_lifetime: Duration::ZERO }
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn checkout(pool: &Pool<Fake>, key: &Key) -> Checkout<Fake> {
        pool.checkout(HostRef { key, tls: TlsId::PLAIN, way: Way::Direct, multiplex: false }, Instant::now(), false)
    }

    fn slot(pool: &Pool<Fake>, key: &Key) -> Slot<Fake> {
        match checkout(pool, key) {
            Checkout::Open(slot) => slot,
            _ => panic!("expected a slot"),
        }
    }

    fn wait(pool: &Pool<Fake>, key: &Key) -> Waiting<Fake> {
        match checkout(pool, key) {
            Checkout::Wait(waiting) => waiting,
            _ => panic!("expected a place in line"),
        }
    }

    fn reuse(pool: &Pool<Fake>, key: &Key) -> Lease<Fake> {
        match checkout(pool, key) {
            Checkout::Reuse(lease) => lease,
            _ => panic!("expected an idle connection"),
        }
    }

    fn finish(mut lease: Lease<Fake>) {
        lease.begin();
        lease.finish();
    }

    fn now_or_never(waiting: &mut Waiting<Fake>) -> Option<Grant<Fake>> {
        waiting.granted.try_recv().ok()
    }

    fn stats(open: usize, idle: usize, waiting: usize) -> PoolStats {
        PoolStats { hosts: 1, open, idle, waiting }
    }

    #[test]
    fn the_last_to_come_back_goes_out_first() {
        let (pool, key) = (Pool::new(bounds(4, 4)), key("http://a.example"));
        let (one, _, _) = open(slot(&pool, &key));
        let (two, last, _) = open(slot(&pool, &key));
        finish(one);
        finish(two);
        assert_eq!(pool.stats(), stats(2, 2, 0));
        assert_eq!(reuse(&pool, &key).begin().unwrap().number, last);
    }

    #[test]
    fn a_host_without_connections_is_forgotten() {
        let pool: Pool<Fake> = Pool::new(bounds(4, 4));
        for n in 0..100 {
            let key = key(&format!("http://n{n}.example"));
            drop(slot(&pool, &key));
        }
        assert!(pool.shared.hosts.pin().is_empty());
        assert_eq!(pool.stats(), PoolStats::default());
    }

    #[test]
    fn scheme_port_tls_settings_and_way_are_told_apart() {
        let pool: Pool<Fake> = Pool::new(bounds(4, 4));
        finish(open(slot(&pool, &key("http://a.example"))).0);
        for other in ["http://a.example:81", "https://a.example:80", "http://b.example"] {
            drop(slot(&pool, &key(other)));
        }
        let http = key("http://a.example");
        let other_tls = HostRef { key: &http, tls: TlsId::position(0), way: Way::Direct, multiplex: false };
        assert!(matches!(pool.checkout(other_tls, Instant::now(), false), Checkout::Open(_)));
        for way in [Way::Forward, Way::Tunnel] {
            let other_way = HostRef { key: &http, tls: TlsId::PLAIN, way, multiplex: false };
            assert!(matches!(pool.checkout(other_way, Instant::now(), false), Checkout::Open(_)), "{way:?}");
        }
    }

    #[test]
    fn what_comes_back_goes_to_the_first_in_line() {
        let (pool, key) = (Pool::new(bounds(1, 4)), key("http://a.example"));
        let (lease, number, ready) = open(slot(&pool, &key));
        let (mut first, mut second) = (wait(&pool, &key), wait(&pool, &key));
        assert_eq!(pool.stats(), stats(1, 0, 2));
        finish(lease);
        assert!(now_or_never(&mut second).is_none());
        let Some(Grant::Connection(mut lease)) = now_or_never(&mut first) else { panic!("expected the connection") };
        assert_eq!(lease.begin().unwrap().number, number);
        ready.store(false, Ordering::SeqCst);
        drop(lease);
        assert!(
            matches!(now_or_never(&mut second), Some(Grant::Slot(_))),
            "a closed connection makes room for another"
        );
        drop((first, second));
        assert!(pool.shared.hosts.pin().is_empty());
    }

    #[test]
    fn one_who_left_the_line_is_passed_over_before_and_after_the_grant() {
        let (pool, key) = (Pool::new(bounds(1, 4)), key("http://a.example"));
        let (lease, ..) = open(slot(&pool, &key));
        let (gone, granted, mut last) = (wait(&pool, &key), wait(&pool, &key), wait(&pool, &key));
        drop(gone);
        assert_eq!(pool.stats(), stats(1, 0, 2));
        finish(lease);
        // `granted` has the connection in hand, and leaves.
        drop(granted);
        let Some(Grant::Connection(lease)) = now_or_never(&mut last) else { panic!("expected the connection") };
        drop(lease);
        assert_eq!(pool.stats(), stats(1, 1, 0));
    }

    #[test]
    fn a_granted_slot_that_nobody_takes_is_not_lost() {
        let (pool, key) = (Pool::new(bounds(1, 4)), key("http://a.example"));
        let held = slot(&pool, &key);
        let (granted, mut last) = (wait(&pool, &key), wait(&pool, &key));
        drop(held);
        drop(granted);
        assert!(matches!(now_or_never(&mut last), Some(Grant::Slot(_))));
        drop(last);
        assert!(pool.shared.hosts.pin().is_empty());
    }

    #[test]
    fn a_used_connection_comes_back_only_by_finishing() {
        let (pool, key) = (Pool::new(bounds(4, 4)), key("http://a.example"));
        let (mut lease, ..) = open(slot(&pool, &key));
        lease.begin();
        drop(lease);
        assert_eq!(pool.stats(), PoolStats::default());
    }

    #[test]
    fn no_more_than_the_bound_stay_idle() {
        let (pool, key) = (Pool::new(bounds(4, 1)), key("http://a.example"));
        let (one, _, _) = open(slot(&pool, &key));
        let (two, _, _) = open(slot(&pool, &key));
        finish(one);
        finish(two);
        assert_eq!(pool.stats(), stats(1, 1, 0));
    }

    #[test]
    fn idle_old_and_dead_connections_are_not_used() {
        let mut bounds = bounds(4, 4);
        bounds.max_lifetime = Duration::from_secs(300);
        let (pool, key) = (Pool::new(bounds), key("http://a.example"));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let host = HostRef { key: &key, tls: TlsId::PLAIN, way: Way::Direct, multiplex: false };
        finish(open(slot(&pool, &key)).0);
        assert!(matches!(pool.checkout(host, at(59), false), Checkout::Reuse(_)));
        assert!(matches!(pool.checkout(host, at(61), false), Checkout::Open(_)));
        let (lease, _, ready) = open(slot(&pool, &key));
        finish(lease);
        ready.store(false, Ordering::SeqCst);
        assert!(matches!(pool.checkout(host, at(0), false), Checkout::Open(_)));
        let (mut lease, ..) = open(slot(&pool, &key));
        lease.opened -= Duration::from_secs(301);
        finish(lease);
        assert_eq!(pool.stats(), PoolStats::default());
        finish(open(slot(&pool, &key)).0);
        pool.shared.sweep(at(59));
        assert_eq!(pool.stats(), stats(1, 1, 0));
        pool.shared.sweep(at(61));
        assert_eq!(pool.stats(), PoolStats::default());
    }

    #[test]
    fn a_fresh_connection_takes_the_place_of_an_idle_one() {
        let (pool, key) = (Pool::new(bounds(1, 4)), key("http://a.example"));
        finish(open(slot(&pool, &key)).0);
        let host = HostRef { key: &key, tls: TlsId::PLAIN, way: Way::Direct, multiplex: false };
        let Checkout::Wait(mut waiting) = pool.checkout(host, Instant::now(), true) else { panic!("expected to wait") };
        assert!(matches!(now_or_never(&mut waiting), Some(Grant::Slot(_))));
    }
}
