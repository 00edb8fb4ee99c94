//! `holdoff demo`: what holdoff is good for, seen in twenty seconds.
//!
//! A peer with a limit ([`peer`]) and naive nodes ([`node`]) run on loopback twice at the same time: once directly, once with
//! a real sidecar between them, which has its default settings but for its ports. Seconds stand for minutes. Every figure
//! about requests comes from the peers' own books; what holdoff answered itself comes from holdoff's table, and is labelled
//! so. Nothing is written anywhere, and nothing but loopback is spoken to.
//!
//! On a terminal the picture ([`picture`]) grows while the demo runs; else it is printed once at the end. `--json` prints one
//! object instead, with these keys (times in seconds):
//!
//! - `seconds`, `nodes`, `interval_seconds`, `limit`, `window_seconds`: what was played; nodes are per side, `Retry-After`
//!   says `window_seconds`.
//! - `without`, `with`: the two sides.
//!   - `requests`, `good`, `limited`: what the peer saw, answered 200, answered 429.
//!   - `first_limited_seconds`: when it first said 429; null if never.
//!   - `recovered_after_seconds`: from then to its next 200; null if there was none.
//!   - `longest_silence_seconds`: the longest time in which it saw no request.
//!   - `per_second`: `requests`, `good`, `limited` of each second.
//!   - `nodes`: what the nodes counted: `asked`, `good`, `told_to_wait` (429 or 503, by whomever), `other`, `failed`.
//! - `holdoff`: what its table says: `short_circuited` (requests it answered itself), `signals`, `cooldowns`, `probes`, and
//!   `per_second`, the rarest of `clear`, `cooling`, `probe` in each second.
//! - `advantage`: whether the figures show fewer requests, no fewer good answers and no later recovery with holdoff.
//! - `conclusion`: the same in words.

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use tokio::time::MissedTickBehavior;

use self::figures::{Figures, Plan, Side, Watch};
use self::node::{Habit, Nodes};
use self::peer::{Limit, Peer};
use super::Error;
use crate::config;
use crate::config::settings::{ListenAddress, Settings};
use crate::sidecar::{Running, Sidecar};
use crate::table::clock;

mod figures;
mod node;
mod peer;
mod picture;

/// How often each node asks.
const EVERY: Duration = Duration::from_millis(250);

/// The window of the peer's limit, and its `Retry-After`.
const WINDOW: Duration = Duration::from_secs(3);

/// How often holdoff's table is looked at, and the picture drawn.
const LOOK: Duration = Duration::from_millis(100);

/// How long the sidecar of the demo may take to end; its only clients are gone by then.
const GRACE: Duration = Duration::from_millis(500);

/// Show what holdoff does
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, in seconds
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = clap::value_parser!(u64).range(5..=25), env = "HOLDOFF_DEMO_SECONDS")]
    pub(crate) seconds: u64,
    /// How many nodes on each side
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=50), env = "HOLDOFF_DEMO_NODES")]
    pub(crate) nodes: u32,
    /// How many requests the peer allows in 3 s
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000), env = "HOLDOFF_DEMO_LIMIT")]
    pub(crate) limit: u32,
    /// Print the figures as one JSON object
    #[arg(long, env = "HOLDOFF_DEMO_JSON")]
    pub(crate) json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let plan = Plan {
        length: Duration::from_secs(args.seconds),
        nodes: args.nodes,
        every: EVERY,
        limit: args.limit,
        window: WINDOW,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::failed("expected to start a runtime").caused_by(&error))?;
    let screen = if args.json { Screen::Silent } else { Screen::of_stdout() };
    screen.open(&plan)?;
    let figures = runtime.block_on(play(plan, |figures| screen.draw(figures)))?;
    if args.json {
        let json = figures.to_json().map_err(|error| Error::failed("expected to write JSON").caused_by(&error))?;
        super::print(&format!("{json}\n"))?;
    } else {
        screen.close(&figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the picture goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Screen {
    /// Nowhere, since JSON is wanted.
    Silent,
    /// To a file or pipe, once, at the end.
    Plain,
    /// To a terminal, as it grows.
    Live { colour: bool },
}

impl Screen {
    fn of_stdout() -> Self {
        let stdout = io::stdout();
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal.is_empty() || terminal == "dumb");
        // A terminal that does not say its height has one that is enough, as a rule.
        let low = tcgetwinsize(&stdout).is_ok_and(|size| (1..=picture::HEIGHT).contains(&size.ws_row));
        if stdout.is_terminal() && !dumb && !low { Self::Live { colour: super::colour(&stdout) } } else { Self::Plain }
    }

    fn open(self, plan: &Plan) -> Result<(), Error> {
        match self {
            Self::Silent => Ok(()),
            Self::Plain | Self::Live { .. } => print_lines(&picture::story(plan)),
        }
    }

    /// Draws the panels and goes back to their first line, so that the next ones take their place.
    fn draw(self, figures: &Figures) -> Result<(), Error> {
        let Self::Live { colour } = self else { return Ok(()) };
        let lines = picture::panels(figures, colour);
        let up = lines.len();
        super::print(&format!("{}\u{1b}[{up}A", frame(&lines)))
    }

    fn close(self, figures: &Figures) -> Result<(), Error> {
        match self {
            Self::Silent => return Ok(()),
            Self::Plain => print_lines(&picture::panels(figures, false))?,
            Self::Live { colour } => super::print(&frame(&picture::panels(figures, colour)))?,
        }
        print_lines(&[String::new()])?;
        print_lines(&picture::table(figures))
    }
}

/// Lines that replace what stands there. While they are written the terminal does not wrap: a narrow one cuts them, and the
/// way back up stays right.
fn frame(lines: &[String]) -> String {
    let mut text = String::from("\u{1b}[?7l");
    for line in lines {
        text.push_str("\r\u{1b}[2K");
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("\u{1b}[?7h");
    text
}

fn print_lines(lines: &[String]) -> Result<(), Error> {
    super::print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// Plays both sides at the same time. `look` sees the figures as they grow.
async fn play(plan: Plan, look: impl Fn(&Figures) -> Result<(), Error>) -> Result<Figures, Error> {
    let start = clock::now();
    let limit = Limit { requests: plan.limit, window: plan.window };
    let no_peer = |error: io::Error| Error::failed("expected to open a loopback listener for a peer").caused_by(&error);
    let without_peer = Peer::start(limit, start).await.map_err(no_peer)?;
    let with_peer = Peer::start(limit, start).await.map_err(no_peer)?;
    let sidecar = start_sidecar().await?;
    let proxy = sidecar.proxy_addresses().first().copied();
    let Some(proxy) = proxy else { return Err(Error::failed("expected holdoff to listen, found no address")) };

    let habit = Habit { nodes: plan.nodes, every: plan.every, peer: without_peer.address(), proxy: None };
    let without_nodes = Nodes::start(habit);
    let with_nodes = Nodes::start(Habit { peer: with_peer.address(), proxy: Some(proxy), ..habit });

    let side = |peer: &Peer, nodes: &Nodes| Side { books: peer.books(), tally: nodes.tally() };
    let mut watch = Watch::default();
    let mut timer = tokio::time::interval(LOOK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        timer.tick().await;
        let now = clock::now();
        let elapsed = now.saturating_since(start);
        if elapsed >= plan.length {
            break;
        }
        watch.look(sidecar.table(), elapsed, now);
        let (without, with) = (side(&without_peer, &without_nodes), side(&with_peer, &with_nodes));
        look(&Figures { plan, elapsed, without, with, watch: watch.clone() })?;
    }
    let (without_tally, with_tally) = tokio::join!(without_nodes.stop(), with_nodes.stop());
    let now = clock::now();
    let elapsed = now.saturating_since(start);
    watch.look(sidecar.table(), plan.length.saturating_sub(Duration::from_nanos(1)), now);
    let without = Side { books: without_peer.books(), tally: without_tally };
    let with = Side { books: with_peer.books(), tally: with_tally };
    sidecar.shutdown().await;
    Ok(Figures { plan, elapsed, without, with, watch })
}

/// The real sidecar, with its defaults, on ports of its own.
async fn start_sidecar() -> Result<Running, Error> {
    let settings = settings(config::parse("")?.settings);
    Sidecar::start(settings)
        .await
        .map_err(|error| Error::failed("expected to start holdoff on loopback").caused_by(&error))
}

fn settings(mut settings: Settings) -> Settings {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    settings.listen.address = vec![any_port];
    settings.listen.address_is_default = false;
    settings.admin.address = vec![ListenAddress::Tcp(any_port)];
    settings.metrics.address.clear();
    settings.shutdown.delay = Duration::ZERO;
    settings.shutdown.grace = GRACE;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_listens_on_loopback_only_and_on_ports_of_its_own() {
        let settings = settings(config::parse("").unwrap().settings);
        assert_eq!(settings.listen.address, ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(settings.admin.address, [ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())]);
        assert!(settings.reverse.is_empty() && settings.metrics.address.is_empty());
    }

    #[test]
    fn a_frame_takes_the_place_of_the_last_and_never_wraps() {
        let text = frame(&["one".to_owned(), "two".to_owned()]);
        assert_eq!(text, "\u{1b}[?7l\r\u{1b}[2Kone\n\r\u{1b}[2Ktwo\n\u{1b}[?7h");
    }
}
