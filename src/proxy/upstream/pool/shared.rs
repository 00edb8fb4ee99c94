//! The connection that everybody shares, and those who wait to hear whether there is one.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Connection, Discarded, Grant, Host, Lease, Slot, State};

/// A connection that carries several exchanges at once.
pub(super) struct SharedLine<C> {
    pub(super) connection: C,
    /// Told apart from the one before it.
    pub(super) number: u64,
    pub(super) opened: Instant,
    /// Exchanges that use it now.
    pub(super) leases: usize,
    /// Since when none does.
    pub(super) since: Instant,
}

impl<C: Connection> Host<C> {
    /// Whether the connection is to be closed.
    pub(super) fn rests(&self, shared: &SharedLine<C>, now: Instant) -> bool {
        shared.connection.is_closed()
            || shared.leases == 0
                && (now.saturating_duration_since(shared.since) >= self.bounds.idle_timeout
                    || self.is_old(shared.opened, now))
    }

    /// A share of the connection that everybody shares, if there is one that can be used.
    pub(super) fn share(
        self: &Arc<Self>,
        state: &mut State<C>,
        over: &mut Discarded<C>,
        now: Instant,
    ) -> Option<Lease<C>> {
        let shared = state.shared.as_mut()?;
        // An old one that cannot be replaced while it is in use is better than none.
        let can_renew = state.open < self.bounds.max_connections || shared.leases == 0;
        let again = if shared.connection.is_closed() || self.is_old(shared.opened, now) && can_renew {
            None
        } else {
            shared.connection.share()
        };
        let Some(connection) = again else {
            // Exchanges that are under way hold on to it themselves.
            over.extend(state.shared.take().map(|shared| shared.connection));
            return None;
        };
        shared.leases = shared.leases.saturating_add(1);
        Some(Lease::share(connection, shared.opened, self, shared.number))
    }

    /// An exchange no longer uses the connection that everybody shares.
    pub(super) fn unshare(&self, number: u64) {
        let mut state = self.state();
        if let Some(shared) = state.shared.as_mut().filter(|shared| shared.number == number) {
            shared.leases = shared.leases.saturating_sub(1);
            shared.since = Instant::now();
        }
    }

    /// Nobody else gets a share of this connection.
    pub(super) fn forsake(&self, number: u64) {
        let mut over = Discarded::new();
        let mut state = self.state();
        if state.shared.as_ref().is_some_and(|shared| shared.number == number) {
            over.extend(state.shared.take().map(|shared| shared.connection));
        }
    }

    /// The first connection is open, and it is known of what kind it is.
    pub(super) fn decided(self: &Arc<Self>, connection: C) -> Lease<C> {
        let mut over = Discarded::new();
        let now = Instant::now();
        let mut state = self.state();
        state.deciding = false;
        let Some(own) = connection.share() else {
            state.single = true;
            self.let_open(&mut state);
            return Lease::new(connection, now, self);
        };
        state.single = false;
        let number = state.next_waiter;
        state.next_waiter = number.wrapping_add(1);
        let kept = SharedLine { connection, number, opened: now, leases: 1, since: now };
        over.extend(state.shared.replace(kept).map(|before| before.connection));
        // A share for everybody in line.
        while let Some(waiter) = state.waiters.pop_front() {
            let Some(lease) = self.share(&mut state, &mut over, now) else {
                // It is over already: everybody tries alone.
                state.waiters.push_front(waiter);
                self.let_open(&mut state);
                break;
            };
            if let Err(Grant::Connection(mut lease)) = waiter.grant.send(Grant::Connection(lease)) {
                // That one has left; the lock is held, so the share is taken back by hand.
                lease.shared = None;
                over.extend(lease.connection.take());
                if let Some(shared) = &mut state.shared {
                    shared.leases = shared.leases.saturating_sub(1);
                }
            }
        }
        Lease::share(own, now, self, number)
    }

    /// The first connection could not be opened: everybody in line tries alone.
    pub(super) fn undecided(self: &Arc<Self>, state: &mut State<C>) {
        state.deciding = false;
        self.let_open(state);
    }

    /// Gives those in line the right to open connections of their own, as far as the bound allows.
    pub(super) fn let_open(self: &Arc<Self>, state: &mut State<C>) {
        while state.open < self.bounds.max_connections {
            let Some(waiter) = state.waiters.pop_front() else { return };
            let slot = Slot { host: Some(Arc::clone(self)), decides: false };
            match waiter.grant.send(Grant::Slot(slot)) {
                Ok(()) => state.open = state.open.saturating_add(1),
                // That one has left, and the slot was not taken yet.
                Err(Grant::Slot(mut slot)) => drop(slot.host.take()),
                Err(Grant::Connection(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use super::*;
    use crate::core::key::Key;
    use crate::proxy::upstream::Way;
    use crate::proxy::upstream::pool::{Bounds, Checkout, HostRef, Pool, PoolStats, Waiting};
    use crate::proxy::upstream::tls::TlsId;

    /// A connection that many may share, or that says it is for one. What is counted by the `Arc` are the holds on it.
    struct Line(Arc<State>, bool);

    #[derive(Default)]
    struct State {
        over: AtomicBool,
    }

    impl Connection for Line {
        fn is_ready(&self) -> bool {
            !self.is_closed()
        }

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<bool> {
            Poll::Ready(self.is_ready())
        }

        fn is_closed(&self) -> bool {
            self.0.over.load(Ordering::SeqCst)
        }

        fn retire(self) {}

        fn share(&self) -> Option<Self> {
            self.1.then(|| Self(Arc::clone(&self.0), true))
        }
    }

    /// What drives a connection: it has the slot.
    struct Task {
        line: Arc<State>,
        _slot: Slot<Line>,
    }

    impl Task {
        fn end(self) {
            self.line.over.store(true, Ordering::SeqCst);
        }

        /// How many others have a hold on the connection.
        fn holds(&self) -> usize {
            Arc::strong_count(&self.line) - 1
        }
    }

    const IDLE: Duration = Duration::from_secs(60);

    struct Fixture {
        pool: Pool<Line>,
        key: Key,
    }

    impl Fixture {
        fn new(max_connections: usize) -> Self {
            let max_lifetime = Duration::from_secs(300);
            let bounds = Bounds { max_connections, max_idle: 4, idle_timeout: IDLE, max_lifetime };
            Self { pool: Pool::new(bounds), key: Key::parse("https://a.example").unwrap() }
        }

        fn checkout_at(&self, now: Instant) -> Checkout<Line> {
            self.pool.checkout(
                HostRef { key: &self.key, tls: TlsId::position(0), way: Way::Direct, multiplex: true },
                now,
                false,
            )
        }

        fn slot(&self) -> Slot<Line> {
            match self.checkout_at(Instant::now()) {
                Checkout::Open(slot) => slot,
                _ => panic!("expected a slot"),
            }
        }

        fn wait(&self) -> Waiting<Line> {
            match self.checkout_at(Instant::now()) {
                Checkout::Wait(waiting) => waiting,
                _ => panic!("expected a place in line"),
            }
        }

        fn reuse(&self) -> Lease<Line> {
            match self.checkout_at(Instant::now()) {
                Checkout::Reuse(lease) => lease,
                _ => panic!("expected a share"),
            }
        }

        fn stats(&self) -> (usize, usize, usize) {
            let PoolStats { open, idle, waiting, .. } = self.pool.stats();
            (open, idle, waiting)
        }
    }

    fn open(mut slot: Slot<Line>, is_shared: bool) -> (Lease<Line>, Task) {
        let place = slot.place().unwrap();
        let line = Arc::new(State::default());
        let task = Task { line: Arc::clone(&line), _slot: slot };
        (place.lease(Line(line, is_shared)), task)
    }

    fn share_of(waiting: &mut Waiting<Line>) -> Option<Lease<Line>> {
        match waiting.granted.try_recv() {
            Ok(Grant::Connection(lease)) => Some(lease),
            _ => None,
        }
    }

    fn slot_of(waiting: &mut Waiting<Line>) -> Option<Slot<Line>> {
        match waiting.granted.try_recv() {
            Ok(Grant::Slot(slot)) => Some(slot),
            _ => None,
        }
    }

    #[test]
    fn a_burst_opens_one_connection_and_shares_it() {
        let fixture = Fixture::new(8);
        let slot = fixture.slot();
        let mut waiting: Vec<_> = (0..5).map(|_| fixture.wait()).collect();
        drop(waiting.remove(2));
        assert_eq!(fixture.stats(), (1, 0, 4));
        let (first, task) = open(slot, true);
        let leases: Vec<_> = waiting.iter_mut().map(|waiting| share_of(waiting).expect("a share")).collect();
        // The pool's, the first one's, and theirs.
        assert_eq!((task.holds(), fixture.stats()), (6, (1, 0, 0)));
        let more = fixture.reuse();
        drop((first, leases));
        assert_eq!((task.holds(), fixture.stats()), (2, (1, 0, 0)));
        more.finish();
        assert_eq!((task.holds(), fixture.stats()), (1, (1, 1, 0)));
    }

    #[test]
    fn one_who_left_between_grant_and_use_gives_the_share_back() {
        let fixture = Fixture::new(8);
        let slot = fixture.slot();
        let waiting = fixture.wait();
        let (first, task) = open(slot, true);
        drop(waiting);
        drop(first);
        assert_eq!((task.holds(), fixture.stats()), (1, (1, 1, 0)));
    }

    #[test]
    fn a_host_without_shared_connections_lets_those_in_line_open_their_own() {
        let fixture = Fixture::new(2);
        let slot = fixture.slot();
        let (mut one, mut two) = (fixture.wait(), fixture.wait());
        let (_lease, _task) = open(slot, false);
        let own = slot_of(&mut one).expect("a slot");
        assert!(slot_of(&mut two).is_none(), "the bound on connections holds");
        drop(own);
        let (_other, _other_task) = open(slot_of(&mut two).expect("a slot"), false);
        assert_eq!(fixture.stats(), (2, 0, 0));
    }

    #[test]
    fn a_first_connection_that_fails_lets_those_in_line_go() {
        let fixture = Fixture::new(8);
        let slot = fixture.slot();
        let (mut one, mut two) = (fixture.wait(), fixture.wait());
        drop(slot);
        let (one, two) = (slot_of(&mut one).expect("a slot"), slot_of(&mut two).expect("a slot"));
        // The next to come need not wait for them: nobody knows better than they do.
        assert_eq!(fixture.stats(), (2, 0, 0));
        drop((one, two));
        assert_eq!(fixture.stats(), (0, 0, 0));
        drop(fixture.slot());
    }

    #[test]
    fn what_ends_meanwhile_does_not_make_those_in_line_open_more() {
        let fixture = Fixture::new(8);
        let (old, old_task) = open(fixture.slot(), true);
        old_task.line.over.store(true, Ordering::SeqCst);
        let slot = fixture.slot();
        let mut waiting = fixture.wait();
        drop(old);
        old_task.end();
        assert_eq!(fixture.stats(), (1, 0, 1));
        let (_first, task) = open(slot, true);
        drop(share_of(&mut waiting).expect("a share"));
        assert_eq!(task.holds(), 2);
    }

    #[test]
    fn a_connection_that_ends_before_it_is_shared_strands_nobody() {
        let fixture = Fixture::new(8);
        for others in [0, 1] {
            let _other = (others > 0).then(|| {
                let (lease, task) = open(fixture.slot(), true);
                task.line.over.store(true, Ordering::SeqCst);
                (lease, task)
            });
            let mut slot = fixture.slot();
            let mut waiting = fixture.wait();
            let place = slot.place().unwrap();
            drop(slot);
            let over = Arc::new(State { over: AtomicBool::new(true) });
            let lease = place.lease(Line(over, true));
            let slot = slot_of(&mut waiting).expect("a slot");
            drop((lease, slot));
        }
        assert_eq!(fixture.stats().2, 0);
    }

    #[test]
    fn a_bound_of_one_serves_everybody_when_the_connection_is_renewed() {
        let fixture = Fixture::new(1);
        let (old, old_task) = open(fixture.slot(), true);
        old_task.line.over.store(true, Ordering::SeqCst);
        let (mut one, mut two) = (fixture.wait(), fixture.wait());
        assert!(slot_of(&mut one).is_none(), "the old one is still there");
        drop(old);
        old_task.end();
        let (_first, _task) = open(slot_of(&mut one).expect("a slot"), true);
        assert!(share_of(&mut two).is_some());
    }

    #[test]
    fn an_old_connection_in_use_serves_on_where_there_may_be_no_other() {
        let fixture = Fixture::new(1);
        let (lease, task) = open(fixture.slot(), true);
        let old = Instant::now() + Duration::from_secs(301);
        assert!(matches!(fixture.checkout_at(old), Checkout::Reuse(_)));
        lease.finish();
        assert!(matches!(fixture.checkout_at(old), Checkout::Wait(_)), "replaced once it can be");
        assert_eq!(task.holds(), 0);
    }

    #[test]
    fn one_who_distrusts_a_connection_takes_only_that_one_away() {
        let fixture = Fixture::new(8);
        let (lease, task) = open(fixture.slot(), true);
        let other = fixture.reuse();
        lease.distrust();
        let (new, _new_task) = open(fixture.slot(), true);
        other.distrust();
        drop(fixture.reuse());
        drop((lease, other, new));
        assert_eq!(task.holds(), 0);
    }

    #[test]
    fn a_shared_connection_is_replaced_when_it_is_over_or_old_and_swept_when_idle() {
        let fixture = Fixture::new(8);
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let (lease, task) = open(fixture.slot(), true);
        assert!(matches!(fixture.checkout_at(at(299)), Checkout::Reuse(_)));
        fixture.pool.shared.sweep(at(400));
        assert_eq!(task.holds(), 2, "never closed under an exchange");
        assert!(matches!(fixture.checkout_at(at(301)), Checkout::Open(_)));
        // The exchange that was under way holds on to the old one.
        assert_eq!(task.holds(), 1);
        drop(lease);
        task.end();

        let (lease, task) = open(fixture.slot(), true);
        lease.finish();
        fixture.pool.shared.sweep(at(59));
        assert_eq!((task.holds(), fixture.stats()), (1, (1, 1, 0)));
        fixture.pool.shared.sweep(at(61));
        assert_eq!((task.holds(), fixture.stats()), (0, (1, 0, 0)));
        task.end();

        let (first, task) = open(fixture.slot(), true);
        task.line.over.store(true, Ordering::SeqCst);
        let (_second, second) = open(fixture.slot(), true);
        // What was shared of the first does not count for the second.
        drop(first);
        assert_eq!((second.holds(), fixture.stats()), (2, (2, 0, 0)));
    }
}
