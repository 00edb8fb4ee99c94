//! `holdoff run`: the sidecar, until it is told to end.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{ConfigArgs, Error};
use crate::config::Loaded;
use crate::sidecar::{Running, Sidecar};
use crate::telemetry;

/// Runs the proxy. Needs no configuration: it listens on 127.0.0.1:4290, for operators on 127.0.0.1:4291.
///
/// Example: `holdoff run`, then `export http_proxy=http://127.0.0.1:4290`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let loaded = args.config.load()?;
    telemetry::init(&loaded.settings.log).map_err(|e| Error::usage(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed("expected to start the runtime").caused_by(&e))?;
    open_more_files();
    runtime.block_on(serve(loaded))
}

/// Takes the limit on open files as far as we are allowed to: the usual 1024 is meant for programs that use `select`.
fn open_more_files() {
    let limit = getrlimit(Resource::Nofile);
    // Refused, the listener makes do with less.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn serve(loaded: Loaded) -> Result<ExitCode, Error> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let failed = |e: std::io::Error| Error::failed("expected to listen for signals").caused_by(&e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let file = loaded.file.clone();
    let running = Sidecar::start(loaded.settings).await.map_err(|e| start_failed(&e))?;
    greet(&running, file.as_deref());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        () = running.shutdown() => {}
        // A second Ctrl-C means now.
        _ = interrupt.recv() => tracing::warn!("interrupted again: ending at once"),
    }
    Ok(ExitCode::SUCCESS)
}

/// An error of the start, for the one place that prints errors.
pub(crate) fn start_failed(error: &crate::sidecar::StartError) -> Error {
    let mut told = Error::failed(error.to_string());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told = told.caused_by(cause);
        source = cause.source();
    }
    told
}

/// What an operator wants to see at the start: addresses, the file read, the two lines to export.
fn greet(running: &Running, file: Option<&Path>) {
    match file {
        Some(file) => tracing::info!(file = %file.display(), "configuration read"),
        None => tracing::info!("no configuration file: built-in defaults, environment and flags"),
    }
    tracing::info!(
        proxy = list(running.proxy_addresses()),
        reverse = list(running.reverse_addresses()),
        admin = list(running.admin_addresses()),
        metrics = list(running.metrics_addresses()),
        name = running.shared().name,
        "ready"
    );
    if let Some(interception) = running.interception() {
        let settings = &running.shared().settings.intercept;
        tracing::info!(
            hosts = settings.hosts.iter().map(|host| host.text.as_str()).collect::<Vec<_>>().join(","),
            authority = interception.authority().certificate().fingerprint(),
            "TLS to these hosts ends here: clients must trust the certificate that `holdoff ca export` prints"
        );
    }
    if let Some(address) = running.proxy_addresses().first() {
        let address = reachable(*address);
        tracing::info!("export http_proxy=http://{address}");
        tracing::info!("export https_proxy=http://{address}");
    }
}

fn list(addresses: &[SocketAddr]) -> Option<String> {
    (!addresses.is_empty()).then(|| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// An address that a client on this machine can use: a wildcard listens on loopback as well.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        std::net::IpAddr::V4(_) => SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port()),
        std::net::IpAddr::V6(_) => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port()),
    }
}
