//! `holdoff ca`: the certificate authority of TLS interception, for those who must trust it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::{ConfigArgs, Error, print, warn};
use crate::config::Loaded;
use crate::core::time::UnixTime;
use crate::intercept::{self, Authority, AuthorityError, Certificate};
use crate::table::clock;

/// The certificate authority of TLS interception.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the authority, bound to the hosts of `[intercept]`. `run` and `exec` do so at first use.
    Init {
        /// Put it in the place of the one that is there; every client must then trust the new one
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show whose the certificate is, its fingerprint, its time and the hosts it is bound to.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Write the certificate in PEM, for clients to trust. Never the key.
    Export {
        /// Write to a file instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Add this machine's roots, for variables that replace them: SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE
        #[arg(long)]
        bundle: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    match args.command {
        Command::Init { force, config } => init(&config, force)?,
        Command::Show { json, config } => {
            let certificate = certificate(&config)?;
            for warning in certificate.warnings(clock::wall()) {
                warn(&warning);
            }
            print(&if json { json_text(&certificate)? } else { text(&certificate) })?;
        }
        Command::Export { out, bundle, config } => {
            let certificate = certificate(&config)?;
            let pem = if bundle { intercept::bundle(&certificate).map_err(|e| failed(&e))? } else { certificate.pem() };
            match out {
                None => print(&pem)?,
                Some(file) => intercept::replace(&file, pem.as_bytes()).map_err(|error| {
                    Error::failed(format!("expected to write `{}`", file.display())).caused_by(&error)
                })?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init(config: &ConfigArgs, force: bool) -> Result<(), Error> {
    let (loaded, directory) = load(config)?;
    let hosts = &loaded.settings.intercept.hosts;
    if hosts.is_empty() {
        return Err(Error::usage(
            "expected hosts that the certificate authority is bound to, found none; name them in `[intercept] hosts` or \
             with `--intercept`",
        ));
    }
    let authority = Authority::create(&directory, hosts, clock::wall(), force).map_err(|error| failed(&error))?;
    print(&text(authority.certificate()))
}

fn load(config: &ConfigArgs) -> Result<(Loaded, PathBuf), Error> {
    let loaded = config.load()?;
    let configured = loaded.settings.intercept.ca_dir.as_deref();
    let directory = intercept::directory(configured, |name| std::env::var_os(name))
        .map_err(|error| Error::usage(error.to_string()))?;
    Ok((loaded, directory))
}

fn certificate(config: &ConfigArgs) -> Result<Certificate, Error> {
    let (_, directory) = load(config)?;
    Certificate::read(&directory).map_err(|error| failed(&error))
}

/// An error of the authority, for the one place that prints errors.
pub(crate) fn failed(error: &AuthorityError) -> Error {
    let told = Error::failed(error.to_string());
    match std::error::Error::source(error) {
        Some(cause) => told.caused_by(cause),
        None => told,
    }
}

/// What `ca show` says, for people.
fn text(certificate: &Certificate) -> String {
    let facts = Facts::of(certificate);
    let list = |all: &[String]| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    let mut lines = vec![
        ("file", facts.file.display().to_string()),
        ("subject", facts.subject.to_owned()),
        ("serial", facts.serial.to_owned()),
        ("sha256", facts.sha256.clone()),
        ("valid", format!("{} to {}", facts.not_before, facts.not_after)),
    ];
    if facts.constrained {
        lines.push(("permitted", list(&facts.permitted)));
        lines.push(("excluded", list(&facts.excluded)));
    } else {
        lines.push(("permitted", "every host".to_owned()));
    }
    lines.iter().fold(String::new(), |text, (name, value)| text + &format!("{name:<10} {value}\n"))
}

fn json_text(certificate: &Certificate) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(&Facts::of(certificate))
        .map_err(|error| Error::failed("expected to write JSON").caused_by(&error))?;
    Ok(text + "\n")
}

/// Everything there is to be said: what is not here is not shown.
#[derive(Serialize)]
struct Facts<'a> {
    file: &'a Path,
    subject: &'a str,
    serial: &'a str,
    sha256: String,
    not_before: String,
    not_after: String,
    constrained: bool,
    permitted: Vec<String>,
    excluded: Vec<String>,
}

impl<'a> Facts<'a> {
    fn of(certificate: &'a Certificate) -> Self {
        let time = |at: UnixTime| humantime::format_rfc3339_seconds(at.into()).to_string();
        let constraints = certificate.constraints().cloned().unwrap_or_default();
        Self {
            file: certificate.file(),
            subject: certificate.subject(),
            serial: certificate.serial(),
            sha256: certificate.fingerprint(),
            not_before: time(certificate.not_before()),
            not_after: time(certificate.not_after()),
            constrained: certificate.constraints().is_some(),
            permitted: constraints.permitted.iter().map(ToString::to_string).collect(),
            excluded: constraints.excluded.iter().map(ToString::to_string).collect(),
        }
    }
}
