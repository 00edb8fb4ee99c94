//! The core alone, for a program that does not speak HTTP: a mesh node that exchanges documents with its peers over a
//! protocol of its own, with its own errors and its own clock.
//!
//! ```sh
//! cargo run --no-default-features --example core-mesh
//! ```
//!
//! Each peer has a [`Cooldown`]: a breaker that opens after five failures in five seconds for five seconds, and that two
//! good exchanges close; and the waits that peers ask for by themselves. A peer is tested by one exchange when its time
//! is over, not by the next error that happens to come. Time is simulated, so the example ends at once.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::fmt;
use std::time::Duration;

use holdoff::core::cooldown::{Cooldown, Event, Events};
use holdoff::core::decision::{Decision, Purpose, Reason, Source, State};
use holdoff::core::policy::{BreakerLimits, CooldownLimits, Policy};
use holdoff::core::signal::{Failure, Hint, Outcome, Signal};
use holdoff::core::time::Instant;

/// What goes wrong between two nodes.
#[derive(Clone, Copy, Debug)]
enum SyncError {
    /// The peer cannot be reached.
    Network,
    /// The peer breaks the protocol.
    Protocol,
    /// The peer asks for a pause.
    Busy { pause: Duration },
    /// One document is broken; no peer is to blame for that.
    Document,
}

impl SyncError {
    /// The class of the error, in the words of the core.
    fn outcome(self) -> Outcome {
        match self {
            Self::Network => Outcome::Failing(Failure::Unreachable),
            Self::Protocol => Outcome::Failing(Failure::Malformed),
            Self::Busy { pause } => Outcome::Signal(Signal {
                reason: Reason::RateLimited,
                // The peer's own word in seconds, as `Retry-After` would be.
                hint: Some(Hint { wait: pause, source: Source::RetryAfterSeconds }),
                received: Some(format!("busy for {pause:?}").into()),
            }),
            Self::Document => Outcome::Neutral,
        }
    }
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("the peer cannot be reached"),
            Self::Protocol => f.write_str("the peer breaks the protocol"),
            Self::Busy { pause } => write!(f, "the peer is busy for {pause:?}"),
            Self::Document => f.write_str("a document is broken"),
        }
    }
}

/// One peer and what is known of it.
struct Peer {
    name: &'static str,
    /// Stands for the connection: what an exchange gives in this second.
    link: fn(u64) -> Result<(), SyncError>,
    cooldown: Cooldown,
    last_error: Option<String>,
    exchanges: u32,
    spared: u32,
}

impl Peer {
    fn new(name: &'static str, link: fn(u64) -> Result<(), SyncError>) -> Self {
        Self { name, link, cooldown: Cooldown::new(), last_error: None, exchanges: 0, spared: 0 }
    }

    /// One turn of the node's loop: ask, exchange, say what became of it.
    fn sync(&mut self, policy: &Policy, second: u64) {
        let now = Instant::from_secs(second);
        let mut events = Events::default();
        match self.cooldown.admit(policy, Purpose::Request, now, &mut events) {
            Decision::Forward(admission) => {
                self.exchanges = self.exchanges.saturating_add(1);
                let outcome = match (self.link)(second) {
                    Ok(()) => Outcome::Success,
                    Err(error) => {
                        self.last_error = Some(error.to_string());
                        error.outcome()
                    }
                };
                // A node with jitter in its policy gives a random word here.
                self.cooldown.observe(policy, admission, &outcome, now, 0, &mut events);
            }
            Decision::ShortCircuit(_) => self.spared = self.spared.saturating_add(1),
            // Only said to tunnels.
            Decision::Pass => {}
        }
        for event in events.iter() {
            match event {
                Event::Started { from, reason, length, .. } => {
                    println!(
                        "{second:3} s  {:5}  {} → cooling for {length:?} ({})",
                        self.name,
                        from.as_str(),
                        reason.as_str()
                    );
                }
                Event::Ended { from, .. } => println!("{second:3} s  {:5}  {} → clear", self.name, from.as_str()),
                Event::ProbeStarted { .. } => println!("{second:3} s  {:5}  tested by one exchange", self.name),
                _ => {}
            }
        }
    }

    /// The health of the peer, as an operator wants to see it.
    fn health(&self, policy: &Policy, second: u64) -> String {
        let view = self.cooldown.view(policy, Instant::from_secs(second));
        format!(
            "{:5}  {:8}  {:2} exchanges, {:2} spared, failures {} ({} in a row), cooldowns {}, last error: {}",
            self.name,
            view.state.as_str(),
            self.exchanges,
            self.spared,
            view.totals.failures,
            view.failures_in_row,
            view.totals.cooldowns,
            self.last_error.as_deref().unwrap_or("none"),
        )
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Policy {
        cooldown: CooldownLimits { success_threshold: 2, hint_jitter: false, ..CooldownLimits::default() },
        breaker: BreakerLimits {
            failure_threshold: 5,
            failure_window: Duration::from_secs(5),
            initial: Duration::from_secs(5),
            growth: 1.0,
            max: Duration::from_secs(5),
            ..BreakerLimits::default()
        },
        ..Policy::default()
    };
    policy.check()?;

    let mut peers = [
        // Well, but for a document that is broken: not the peer's fault, and no reason to leave it alone.
        Peer::new("north", |second| if second % 4 == 3 { Err(SyncError::Document) } else { Ok(()) }),
        // Cut off for a while, then confused.
        Peer::new("east", |second| match second {
            3..=11 => Err(SyncError::Network),
            12..=13 => Err(SyncError::Protocol),
            _ => Ok(()),
        }),
        // Busy once, and says so.
        Peer::new("south", |second| match second {
            6 => Err(SyncError::Busy { pause: Duration::from_secs(8) }),
            _ => Ok(()),
        }),
    ];
    for second in 0..30 {
        for peer in &mut peers {
            peer.sync(&policy, second);
        }
    }

    println!();
    for peer in &peers {
        println!("{}", peer.health(&policy, 30));
    }
    let [north, east, south] = &peers;
    let cooldowns = |peer: &Peer| peer.cooldown.view(&policy, Instant::from_secs(30)).totals.cooldowns;
    let is_as_expected = peers.iter().all(|peer| peer.cooldown.state(Instant::from_secs(30)) == State::Clear)
        && [north, east, south].map(cooldowns) == [0, 2, 1]
        && [north, east, south].map(|peer| peer.spared) == [0, 8, 7];
    if is_as_expected { Ok(()) } else { Err("expected every peer to be spared while it was not well".into()) }
}
