//! `holdoff exec -- COMMAND…`: one command behind a holdoff of its own, for a node nobody can change and for batch jobs.
//!
//! The sidecar runs in this process, the command beside it with `http_proxy` and `https_proxy` (in both cases of letters)
//! set to it. It ends when the command ends, with the command's exit code.
//!
//! - **Ports.** Unless file, environment or flag name addresses, the proxy and the admin listener take any free port on
//!   127.0.0.1, so that `exec` works beside another holdoff, and as often as one likes.
//! - **`no_proxy`.** A value of the caller's stays as it is. Without one it is set to nothing: loopback is not exempted, for
//!   peers of a node may well be there.
//! - **Interception** (`[intercept]`). Variables that name certificates are set as well, so that the command trusts what our
//!   authority has signed; see `trust`. Java reads none of them.
//! - **Signals.** TERM, HUP, INT and QUIT are handed on to the command, but INT and QUIT not while we are in the foreground
//!   of a terminal: then they come from the keyboard, and the terminal has sent them to the command as well. A signal that
//!   our caller ignores (`nohup`) stays ignored.
//! - **Messages** go to stderr, from `warn` on unless `log.level` is set, so that the command's output stays clean.
//! - **Exit codes.** The command's own; 128 + n when signal n ended it; 127 when it is not found, 126 when it cannot be
//!   executed; 1 and 2 as everywhere when holdoff itself fails to start.

mod trust;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use self::trust::Trust;
use super::{ConfigArgs, Error};
use crate::config::Loaded;
use crate::config::settings::{ListenAddress, Settings};
use crate::sidecar::Sidecar;
use crate::telemetry;

/// How long the sidecar may take to end: its client has ended already.
const GRACE: Duration = Duration::from_secs(1);

/// The exit code of a command that cannot be executed, as in shells.
const NOT_EXECUTABLE: u8 = 126;

/// The exit code of a command that is not found, as in shells.
const NOT_FOUND: u8 = 127;

/// Run a command behind a proxy of its own, and end with it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let Loaded { settings, warnings, effective, .. } = args.config.load()?;
    let settings = own_settings(settings, |key| effective.is_said(key));
    telemetry::init(&settings.log).map_err(|e| Error::usage(e.to_string()))?;
    for warning in warnings {
        super::warn(&warning);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("expected to start a runtime").caused_by(&error))?;
    let code = runtime.block_on(supervise(settings, &args.command))?;
    // A look-up of a name that hangs must not keep us.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// The settings of a sidecar for one command: where nothing was said, free ports and quiet messages.
fn own_settings(mut settings: Settings, is_said: impl Fn(&str) -> bool) -> Settings {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    if !is_said("listen.address") {
        settings.listen.address = vec![any_port];
        settings.listen.address_is_default = false;
    }
    if !is_said("admin.address") {
        settings.admin.address = vec![ListenAddress::Tcp(any_port)];
    }
    if !is_said("log.level") {
        "warn".clone_into(&mut settings.log.level);
    }
    settings.shutdown.delay = Duration::ZERO;
    settings.shutdown.grace = settings.shutdown.grace.min(GRACE);
    settings
}

async fn supervise(settings: Settings, command: &[OsString]) -> Result<u8, Error> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::usage("expected a command, as in `holdoff exec -- curl http://peer.example/`"));
    };
    // Before anything else: a signal must not find us with a command and without a handler.
    let mut signals = Signals::listen()?;
    if settings.listen.auth.is_some() {
        super::warn("`listen.auth_file` is set: the command must bring its own credentials for the proxy");
    }
    let sidecar =
        Sidecar::start(settings).await.map_err(|error| Error::failed("expected to start holdoff").caused_by(&error))?;
    let Some(proxy) = sidecar.proxy_addresses().first().copied() else {
        return Err(Error::failed("expected holdoff to listen, found no address"));
    };
    let (variables, replaced) = environment(proxy, |name| env::var_os(name));
    if let Some(name) = replaced {
        super::warn(&format!("`{name}` was set; the command goes through holdoff, and holdoff goes directly"));
    }
    let trust = sidecar
        .interception()
        .map(|interception| Trust::new(interception.authority().certificate(), |name| env::var_os(name)))
        .transpose()?;
    let files = trust.iter().flat_map(|trust| &trust.variables).map(|(name, file)| (name, file));
    let code = match Command::new(program).args(arguments).envs(variables).envs(files).spawn() {
        Ok(child) => exit_code(wait(child, &mut signals).await?),
        Err(error) => {
            let (problem, code) = refusal(program, &error);
            super::warn(&problem);
            code
        }
    };
    sidecar.shutdown().await;
    drop(trust);
    Ok(code)
}

/// What the command finds in its environment beside ours, and a variable of the caller's that this replaces.
fn environment(
    proxy: SocketAddr,
    caller: impl Fn(&str) -> Option<OsString>,
) -> (Vec<(&'static str, String)>, Option<&'static str>) {
    const PROXY: [&str; 4] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
    const EXEMPT: [&str; 2] = ["no_proxy", "NO_PROXY"];
    let url = format!("http://{}", reachable(proxy));
    let mut variables: Vec<_> = PROXY.into_iter().map(|name| (name, url.clone())).collect();
    if EXEMPT.into_iter().all(|name| caller(name).is_none()) {
        variables.extend(EXEMPT.into_iter().map(|name| (name, String::new())));
    }
    let replaced = PROXY.into_iter().find(|name| caller(name).is_some_and(|value| !value.is_empty()));
    (variables, replaced)
}

/// The address a command on this machine can use: one that listens everywhere is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Why a command did not start, and the exit code for it.
fn refusal(program: &OsStr, error: &io::Error) -> (String, u8) {
    let program = program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => (format!("`{program}`: command not found"), NOT_FOUND),
        _ => (format!("`{program}`: expected a command that can be executed: {error}"), NOT_EXECUTABLE),
    }
}

/// The exit code a shell would give.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Waits for the end of the command, and hands signals on to it.
async fn wait(mut child: Child, signals: &mut Signals) -> Result<ExitStatus, Error> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| Error::failed("expected to wait for the command").caused_by(&error));
            }
            signal = signals.next() => {
                if signal.keyboard && in_foreground() {
                    continue;
                }
                // The number is still the command's: only this loop takes its end notice.
                if let Some(pid) = pid && let Err(error) = kill_process(pid, signal.signal) {
                    super::warn(&format!("expected to hand a signal on to the command: {error}"));
                }
            }
        }
    }
}

/// Whether we are in the foreground of a terminal: then what is typed there reaches the command without us.
fn in_foreground() -> bool {
    // Opened each time: a terminal that has hung up cannot be opened.
    fs::File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// A signal that is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forwarded {
    signal: rustix::process::Signal,
    /// A key of the terminal sends it to the whole foreground.
    keyboard: bool,
}

const TERM: Forwarded = Forwarded { signal: rustix::process::Signal::TERM, keyboard: false };
const HUP: Forwarded = Forwarded { signal: rustix::process::Signal::HUP, keyboard: false };
const INT: Forwarded = Forwarded { signal: rustix::process::Signal::INT, keyboard: true };
const QUIT: Forwarded = Forwarded { signal: rustix::process::Signal::QUIT, keyboard: true };

/// The signals we hand on, as far as our caller does not ignore them.
struct Signals {
    term: Option<unix::Signal>,
    hup: Option<unix::Signal>,
    int: Option<unix::Signal>,
    quit: Option<unix::Signal>,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_signals(&status));
        let listen = |kind: SignalKind| {
            if is_ignored(ignored, kind.as_raw_value()) {
                return Ok(None);
            }
            unix::signal(kind)
                .map(Some)
                .map_err(|error| Error::failed("expected to listen for signals").caused_by(&error))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            int: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Forwarded {
        tokio::select! {
            () = arrival(&mut self.term) => TERM,
            () = arrival(&mut self.hup) => HUP,
            () = arrival(&mut self.int) => INT,
            () = arrival(&mut self.quit) => QUIT,
        }
    }
}

async fn arrival(signal: &mut Option<unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The mask of ignored signals in `/proc/self/status`: bit n−1 is signal n. Nothing when it cannot be read.
fn ignored_signals(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_ignored(mask: u64, signal: i32) -> bool {
    let bit = signal.checked_sub(1).and_then(|bit| u32::try_from(bit).ok());
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    fn value<'a>(variables: &'a [(&str, String)], name: &str) -> Option<&'a str> {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn without_addresses_ports_are_free_and_messages_quiet() {
        let settings = own_settings(config::parse("").unwrap().settings, |_| false);
        assert_eq!(settings.listen.address, ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(settings.admin.address, [ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())]);
        assert_eq!(settings.log.level, "warn");
        assert_eq!(settings.shutdown.grace, GRACE);
    }

    #[test]
    fn what_was_said_is_kept() {
        let loaded = config::parse(
            "[listen]\naddress = [\"127.0.0.1:4290\"]\n[admin]\naddress = [\"127.0.0.1:4291\"]\n[log]\nlevel = \"info\"\n\
             [shutdown]\ngrace = \"100ms\"\n",
        )
        .unwrap();
        let settings = own_settings(loaded.settings, |key| loaded.effective.is_said(key));
        assert_eq!(settings.listen.address, ["127.0.0.1:4290".parse().unwrap()]);
        assert_eq!(settings.admin.address, [ListenAddress::Tcp("127.0.0.1:4291".parse().unwrap())]);
        assert_eq!(settings.log.level, "info");
        assert_eq!(settings.shutdown.grace, Duration::from_millis(100));
    }

    #[test]
    fn the_proxy_is_named_in_both_cases_and_loopback_is_not_exempted() {
        let (variables, replaced) = environment("127.0.0.1:5000".parse().unwrap(), nothing);
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            assert_eq!(value(&variables, name), Some("http://127.0.0.1:5000"), "{name}");
        }
        assert_eq!((value(&variables, "no_proxy"), value(&variables, "NO_PROXY")), (Some(""), Some("")));
        assert_eq!(value(&variables, "ALL_PROXY").or(value(&variables, "all_proxy")), None);
        assert_eq!(replaced, None);
    }

    #[test]
    fn no_proxy_of_the_caller_stays_and_a_replaced_proxy_is_told() {
        let caller = |name: &str| match name {
            "NO_PROXY" => Some("internal.example".into()),
            "HTTPS_PROXY" => Some("http://parent:3128".into()),
            "http_proxy" => Some(OsString::new()),
            _ => None,
        };
        let (variables, replaced) = environment("[::1]:5000".parse().unwrap(), caller);
        assert_eq!((value(&variables, "no_proxy"), value(&variables, "NO_PROXY")), (None, None));
        assert_eq!(value(&variables, "http_proxy"), Some("http://[::1]:5000"));
        assert_eq!(replaced, Some("HTTPS_PROXY"));
    }

    #[test]
    fn an_address_that_listens_everywhere_is_reached_on_loopback() {
        let reach = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:4290"), "127.0.0.1:4290");
        assert_eq!(reach("[::]:4290"), "[::1]:4290");
        assert_eq!(reach("10.0.0.7:4290"), "10.0.0.7:4290");
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        // The raw status: the code in the second byte, or the signal in the first.
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        let refused = |kind: io::ErrorKind| refusal(OsStr::new("sync"), &io::Error::from(kind));
        assert_eq!(refused(io::ErrorKind::NotFound), ("`sync`: command not found".to_owned(), 127));
        assert_eq!(refused(io::ErrorKind::PermissionDenied).1, 126);
    }

    #[test]
    fn a_signal_the_caller_ignores_is_known() {
        let status = "Name:\tholdoff\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        let mask = ignored_signals(status);
        assert!(is_ignored(mask, 1) && is_ignored(mask, 13));
        assert!(!is_ignored(mask, 2) && !is_ignored(mask, 15) && !is_ignored(mask, 0) && !is_ignored(mask, i32::MAX));
        assert_eq!(ignored_signals("nonsense"), 0);
        assert_eq!(ignored_signals("SigIgn:\tnot hex"), 0);
    }
}
