//! The handle that clients share, and the clock it reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::cooldown::Event;
use crate::core::decision::{Freeze, Purpose};
use crate::core::key::{Key, KeyRef};
use crate::core::policy::{Policy, PolicyError};
use crate::core::time::{Instant, UnixTime};
use crate::table::{Entry, Observer, Permit, Snapshot, Stats, Table, Verdict, clock};

/// How many keys are kept when nothing else is said.
const MAX_KEYS: usize = 100_000;

/// Beside each key its policy is kept, so that a response is read without the key's lock.
pub(super) type Kept = Arc<Policy>;
pub(super) type KeptEntry = Entry<Kept>;
pub(super) type KeptPermit = Permit<Kept>;
pub(super) type KeptVerdict = Verdict<Kept>;

type PolicyFor = dyn Fn(&Key) -> Arc<Policy> + Send + Sync;
type OnEvent = dyn Fn(&Key, &Event) + Send + Sync;

/// What tells the time.
///
/// [`SystemClock`] is right for programs. Tests with a paused runtime need a clock that is paused with it:
///
/// ```
/// use holdoff::core::time::{Instant, UnixTime};
/// use holdoff::layer::Clock;
///
/// struct RuntimeClock(tokio::time::Instant);
///
/// impl Clock for RuntimeClock {
///     fn now(&self) -> Instant {
///         Instant::from_secs(1000).saturating_add(self.0.elapsed())
///     }
///
///     fn wall(&self) -> UnixTime {
///         UnixTime::from_secs(1_800_000_000).saturating_add(self.0.elapsed())
///     }
///
///     fn draw(&self) -> u64 {
///         0 // no jitter
///     }
/// }
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Now, on a clock that never runs backwards.
    fn now(&self) -> Instant;

    /// Now, on the wall clock: to read dates that hosts send, and to show deadlines.
    fn wall(&self) -> UnixTime;

    /// A random word, for jitter.
    fn draw(&self) -> u64 {
        clock::draw()
    }
}

/// The clocks of the machine. Time that the machine was suspended counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn wall(&self) -> UnixTime {
        clock::wall()
    }
}

/// The cooldowns of a program. Clones share them.
#[derive(Clone)]
pub struct Holdoff {
    inner: Arc<Inner>,
}

struct Inner {
    table: Table<Kept>,
    clock: Box<dyn Clock>,
    without_key: AtomicU64,
}

impl Holdoff {
    /// With [`Policy::default`] for every host, at most 100 000 hosts, and the clocks of the machine.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// To change what [`Holdoff::new`] takes for granted.
    pub fn builder() -> HoldoffBuilder {
        HoldoffBuilder {
            policy_for: Box::new({
                let policy = Arc::new(Policy::default());
                move |_| Arc::clone(&policy)
            }),
            max_keys: MAX_KEYS,
            clock: Box::new(SystemClock),
            on_event: Box::new(|_, _| ()),
        }
    }

    /// Everything that is known of a key. `None`: it was never asked, or it was evicted since.
    pub fn snapshot(&self, key: &Key) -> Option<Snapshot> {
        Some(self.inner.table.find(key)?.snapshot(self.now()))
    }

    /// Everything that is known of every key, in no order.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.inner.table.snapshots(self.now())
    }

    /// Sets a cooldown by hand, of at most [`MAX_FREEZE`](crate::core::policy::MAX_FREEZE); one shorter than what
    /// the key is left alone for changes nothing. Enforced in every [`Mode`](crate::core::policy::Mode). `None`: the key is new, and the
    /// table is full of live cooldowns.
    pub fn freeze(&self, key: &Key, length: Duration) -> Option<Freeze> {
        self.inner.table.freeze(key, length, self.now())
    }

    /// Ends a cooldown by hand. Requests that are under way change nothing any more. Says whether there was one to end.
    pub fn release(&self, key: &Key) -> bool {
        self.inner.table.release(key, self.now()).unwrap_or(false)
    }

    /// Ends every cooldown by hand; says how many there were.
    pub fn release_all(&self) -> usize {
        self.inner.table.release_all(self.now())
    }

    /// Figures of the table.
    pub fn stats(&self) -> Stats {
        self.inner.table.stats()
    }

    /// How many requests had no key and passed untouched.
    pub fn without_key(&self) -> u64 {
        self.inner.without_key.load(Ordering::Relaxed)
    }

    /// Now, on the clock of every [`Instant`] that this handle gives out.
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// The wall time of such an [`Instant`], as the wall clock stands now.
    pub fn wall_of(&self, at: Instant) -> UnixTime {
        clock::wall_of(at, self.now(), self.wall())
    }

    pub(super) fn wall(&self) -> UnixTime {
        self.inner.clock.wall()
    }

    pub(super) fn draw(&self) -> u64 {
        self.inner.clock.draw()
    }

    pub(super) fn admit(&self, key: &KeyRef<'_>) -> (Arc<KeptEntry>, KeptVerdict) {
        self.inner.table.admit(key, Purpose::Request, self.now())
    }

    pub(super) fn count_without_key(&self) {
        self.inner.without_key.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Holdoff {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Holdoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holdoff").field("table", &self.inner.table).finish_non_exhaustive()
    }
}

/// Makes a [`Holdoff`].
///
/// ```
/// use holdoff::core::policy::{BreakerLimits, Policy};
/// use holdoff::layer::Holdoff;
///
/// # fn main() -> Result<(), holdoff::core::policy::PolicyError> {
/// let breaker = BreakerLimits { failure_threshold: 5, ..BreakerLimits::default() };
/// let holdoff = Holdoff::builder()
///     .policy(Policy { breaker, ..Policy::default() })?
///     .max_keys(1_000)
///     .on_event(|key, event| println!("{key}: {event:?}"))
///     .build();
/// # let _ = holdoff;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is made before `build`"]
pub struct HoldoffBuilder {
    policy_for: Box<PolicyFor>,
    max_keys: usize,
    clock: Box<dyn Clock>,
    on_event: Box<OnEvent>,
}

impl HoldoffBuilder {
    /// One policy for every key. Default: [`Policy::default`].
    ///
    /// # Errors
    /// When the policy does not pass [`Policy::check`].
    pub fn policy(self, policy: Policy) -> Result<Self, PolicyError> {
        policy.check()?;
        let policy = Arc::new(policy);
        Ok(self.policy_for(move |_| Arc::clone(&policy)))
    }

    /// A policy for each key, asked once when the key is first seen (and again when it was evicted meanwhile). Give only
    /// policies that pass [`Policy::check`]; how long a cooldown of another lasts is not promised.
    pub fn policy_for(self, policy_for: impl Fn(&Key) -> Arc<Policy> + Send + Sync + 'static) -> Self {
        Self { policy_for: Box::new(policy_for), ..self }
    }

    /// The bound of the table, in keys. At the bound idle clear keys go first, a running cooldown never; a new key that
    /// finds no room is forwarded and counted ([`Stats::untracked`]). Default 100 000.
    pub fn max_keys(self, max_keys: usize) -> Self {
        Self { max_keys, ..self }
    }

    /// What tells the time. Default [`SystemClock`].
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// Told of each change of a key, for logs and metrics. Called on the thread that changed it, between `call` and the
    /// response: it must be quick and must not block. Events of one key may arrive out of order when two threads change it
    /// at the same time.
    pub fn on_event(self, on_event: impl Fn(&Key, &Event) + Send + Sync + 'static) -> Self {
        Self { on_event: Box::new(on_event), ..self }
    }

    /// The handle.
    pub fn build(self) -> Holdoff {
        let Self { policy_for, max_keys, clock, on_event } = self;
        let attach = move |key: &Key| {
            let policy = policy_for(key);
            (Arc::clone(&policy), policy)
        };
        let table = Table::new(max_keys, attach, Told(on_event));
        Holdoff { inner: Arc::new(Inner { table, clock, without_key: AtomicU64::new(0) }) }
    }
}

impl fmt::Debug for HoldoffBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldoffBuilder").field("max_keys", &self.max_keys).finish_non_exhaustive()
    }
}

struct Told(Box<OnEvent>);

impl Observer<Kept> for Told {
    fn event(&self, entry: &KeptEntry, event: &Event, _: Instant) {
        (self.0)(entry.key(), event);
    }
}
