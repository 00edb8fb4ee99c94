//! The command line: one file per command, and here what they share.
//!
//! Data goes to stdout, messages to stderr. Exit codes: 0, 1 (it ran and failed), 2 (usage or configuration). Errors are
//! printed in one place, [`main`]; commands return them.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::diagnostic::{ConfigErrors, mask_credentials};

mod admin_args;
mod ca;
mod check;
mod client;
mod config;
mod config_args;
mod demo;
mod exec;
mod explain;
mod freeze;
mod health;
mod release;
mod replay;
mod run;
mod status;
mod status_page;

pub(crate) use admin_args::{AdminAddress, AdminArgs};
pub(crate) use config_args::ConfigArgs;

/// A local proxy that keeps a node from asking again while its peer says "slow down".
///
/// When a peer answers 429 or 503 with Retry-After, holdoff remembers it for that peer and answers further requests itself
/// until the peer is ready again.
#[derive(Debug, Parser)]
#[command(
    name = "holdoff",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  holdoff run                                  # the proxy on 127.0.0.1:4290\n  \
                  holdoff exec -- curl http://peer.example/    # the same for one command\n  \
                  holdoff demo                                 # see what it is good for\n\n\
                  Exit codes: 0 it worked, 1 it ran and failed, 2 usage or configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the proxy.
    #[command(after_help = "Examples:\n  holdoff run\n  holdoff run --config /etc/holdoff/holdoff.toml\n  \
                            holdoff run --listen 0.0.0.0:4290 --clients 10.0.0.0/8\n  \
                            holdoff run --reverse 127.0.0.1:4300=https://api.example.com")]
    Run(run::Args),
    /// Run a command behind a proxy of its own, and end with it.
    #[command(after_help = "Example:\n  holdoff exec -- python3 sync.py --all")]
    Exec(exec::Args),
    /// Check a configuration without running it.
    #[command(after_help = "Example:\n  holdoff check --config holdoff.toml")]
    Check(check::Args),
    /// Print the default configuration, its schema, or the configuration in effect.
    #[command(after_help = "Examples:\n  holdoff config default > holdoff.toml\n  \
                            holdoff config schema > holdoff.schema.json\n  \
                            HOLDOFF_MODE=observe holdoff config show --config holdoff.toml")]
    Config(config::Args),
    /// Make, show or export the certificate authority of TLS interception.
    #[command(after_help = "Examples:\n  holdoff ca init --intercept api.example.com\n  holdoff ca show\n  \
                            holdoff ca export --out /usr/local/share/ca-certificates/holdoff.crt\n  \
                            holdoff ca export --bundle --out bundle.pem && SSL_CERT_FILE=bundle.pem python3 sync.py\n\n\
                            Variables that add to the roots take the plain export (NODE_EXTRA_CA_CERTS), those that \
                            replace them take the bundle (SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE). Java has a \
                            trust store: keytool -importcert -noprompt -alias holdoff -file holdoff.pem -cacerts \
                            -storepass changeit.")]
    Ca(ca::Args),
    /// Show which hosts are cooling, until when and why.
    #[command(after_help = "Examples:\n  holdoff status --watch\n  holdoff status --json")]
    Status(status::Args),
    /// Explain what holds for a URL, and what a response would start.
    #[command(after_help = "Examples:\n  holdoff explain https://peer.example/items\n  \
                            holdoff explain https://peer.example --response 429 -H 'Retry-After: 120' --times 5\n  \
                            holdoff explain https://peer.example --response timeout --times 8 -c holdoff.toml\n  \
                            holdoff explain --running https://peer.example --response 503\n\n\
                            Without --running it reads the configuration and needs no holdoff that runs. With it the \
                            running one answers, by its own configuration and with what it knows of each key now; of the \
                            configuration keys only --admin and --admin-token-file matter then. Nothing is asked of the \
                            host, and nothing changes.")]
    Explain(explain::Args),
    /// Leave a host alone for some time.
    #[command(after_help = "Example:\n  holdoff freeze https://peer.example --for 30m --reason \"maintenance\"")]
    Freeze(freeze::Args),
    /// End the cooldown of a host, or of all.
    #[command(after_help = "Examples:\n  holdoff release https://peer.example\n  holdoff release --all")]
    Release(release::Args),
    /// Say whether a running holdoff is well (for HEALTHCHECK and probes).
    #[command(after_help = "Example:\n  holdoff health --admin unix:/run/holdoff/admin.sock")]
    Health(health::Args),
    /// Show what holdoff does: a throttling peer and naive nodes on loopback, without and with it.
    #[command(after_help = "Examples:\n  holdoff demo\n  holdoff demo --json")]
    Demo(demo::Args),
    /// Say what holdoff would have saved, from access logs.
    #[command(after_help = "Example:\n  holdoff replay --host https://api.example.com access.log\n\n\
                            With --help: what is read, and what is printed.", after_long_help = replay::FORMATS)]
    Replay(replay::Args),
}

impl Command {
    fn run(self) -> Result<ExitCode, Error> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Exec(args) => exec::run(args),
            Self::Check(args) => check::run(args),
            Self::Config(args) => config::run(args),
            Self::Ca(args) => ca::run(args),
            Self::Status(args) => status::run(args),
            Self::Explain(args) => explain::run(args),
            Self::Freeze(args) => freeze::run(args),
            Self::Release(args) => release::run(args),
            Self::Health(args) => health::run(args),
            Self::Demo(args) => demo::run(args),
            Self::Replay(args) => replay::run(args),
        }
    }
}

/// Runs the program: the one place where errors are printed and exit codes made.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // It repeats what was typed or stands in the environment, which may be a URL with a password in it.
            let text = error.render().to_string();
            let masked = mask_credentials(&text);
            // A closed pipe is no reason to fail: whoever closed it has seen enough.
            let _ = if masked == text { error.print() } else { io::stderr().lock().write_all(masked.as_bytes()) };
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(Error::USAGE),
            };
        }
    };
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            error.print();
            ExitCode::from(error.code)
        }
    }
}

/// Why a command did not do what it was asked: a message, its causes, an exit code.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    /// Printed before the message, laid out already.
    details: String,
    causes: Vec<String>,
    code: u8,
}

impl Error {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;

    /// It ran and failed: exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: String::new(), causes: Vec::new(), code: Self::FAILED }
    }

    /// It was asked for wrongly: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: String::new(), causes: Vec::new(), code: Self::USAGE }
    }

    /// The same, as an error of the configuration: exit code 2.
    pub(crate) fn into_usage(self) -> Self {
        Self { code: Self::USAGE, ..self }
    }

    /// Adds a cause, and the causes of the cause.
    pub(crate) fn caused_by(mut self, cause: &dyn std::error::Error) -> Self {
        let mut next = Some(cause);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors repeat their source in their own text.
            if self.causes.last().is_none_or(|last| !last.contains(&text)) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    fn print(&self) {
        let colour = colour(&io::stderr());
        let mut text = String::new();
        for line in self.details.lines() {
            text.push_str(&paint(line, colour));
            text.push('\n');
        }
        text.push_str(&paint(&format!("error: {}\n", self.message), colour));
        for cause in &self.causes {
            text.push_str(&paint(&format!("caused by: {cause}\n"), colour));
        }
        // Nobody is left to tell when stderr is closed.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Colours the word before the first colon of a message.
fn paint(line: &str, colour: bool) -> String {
    for (word, code) in [("error:", "1;31"), ("warning:", "1;33"), ("caused by:", "1")] {
        if colour && let Some(rest) = line.strip_prefix(word) {
            return format!("\u{1b}[{code}m{word}\u{1b}[0m{rest}");
        }
    }
    line.to_owned()
}

impl From<ConfigErrors> for Error {
    fn from(errors: ConfigErrors) -> Self {
        let count = errors.count();
        let total = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
        Self { details: format!("{errors}\n"), ..Self::usage(format!("the configuration has {total}")) }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// Writes data to stdout. A closed pipe (`holdoff config default | head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("expected to write to stdout").caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// Writes a message to stderr.
pub(crate) fn warn(message: &str) {
    let line = paint(&format!("warning: {message}\n"), colour(&io::stderr()));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Says to the operator what could be better.
pub(crate) fn hint(message: &str) {
    let line = paint(&format!("hint: {message}\n"), colour(&io::stderr()));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Whether to colour what goes to a stream: on a terminal, unless `NO_COLOR` says otherwise.
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    stream.is_terminal() && !set("NO_COLOR") && !dumb
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_and_every_option_a_help_text() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_after_help().is_some(), "{}", command.get_name());
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "{} {}", command.get_name(), option.get_id());
            }
        }
    }

    #[test]
    fn causes_are_listed_once() {
        let inner = io::Error::other("disk full");
        let error = Error::failed("no").caused_by(&inner);
        assert_eq!(error.to_string(), "no: disk full");
    }
}
