//! The flags and environment variables that set configuration keys, for every command that reads a configuration.
//!
//! They are one table, so that a flag, its variable and its key cannot drift apart. Where each value came from is kept, since
//! `config show` and errors name it.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, value_parser};

use super::Error;
use crate::config::{self, Loaded, Sources};

struct Flag {
    /// Without `--`.
    long: &'static str,
    /// With it.
    flag: &'static str,
    env: &'static str,
    key: &'static str,
    value: &'static str,
    help: &'static str,
}

macro_rules! flags {
    ($($long:literal $env:literal $key:literal $value:literal $help:literal;)*) => {
        &[$(Flag { long: $long, flag: concat!("--", $long), env: $env, key: $key, value: $value, help: $help },)*]
    };
}

const FLAGS: &[Flag] = flags! {
    "listen" "HOLDOFF_LISTEN" "listen.address" "ADDR[,ADDR]" "Addresses of the proxy [default: 127.0.0.1:4290 and [::1]:4290]";
    "clients" "HOLDOFF_CLIENTS" "listen.clients" "CIDR[,CIDR]" "Who may connect; needed off loopback, unless there is --auth-file";
    "auth-file" "HOLDOFF_AUTH_FILE" "listen.auth_file" "FILE" "Users of the proxy, one `user:hash` a line (htpasswd -nB USER)";
    "name" "HOLDOFF_NAME" "listen.name" "NAME" "Our name in Via and Proxy-Status [default: holdoff-XXXXXXXX]";
    "reverse" "HOLDOFF_REVERSE" "reverse" "ADDR=URL" "A local address mapped onto an upstream; may be repeated";
    "intercept" "HOLDOFF_INTERCEPT" "intercept.hosts" "HOST[,HOST]" "Hosts whose TLS is ended here, see `holdoff ca`";
    "ca-dir" "HOLDOFF_CA_DIR" "intercept.ca_dir" "DIR" "Where the certificate authority for --intercept is";
    "admin" "HOLDOFF_ADMIN" "admin.address" "ADDR[,ADDR]" "Addresses of the operators' door, or unix:/PATH [default: 127.0.0.1:4291]";
    "admin-token-file" "HOLDOFF_ADMIN_TOKEN_FILE" "admin.token_file" "FILE" "The operators' token; needed off loopback";
    "metrics" "HOLDOFF_METRICS" "metrics.address" "ADDR[,ADDR]" "A listener with /metrics, /livez and /readyz only";
    "mode" "HOLDOFF_MODE" "defaults.mode" "MODE" "enforce, observe or off, for hosts that have no mode of their own";
    "log-level" "HOLDOFF_LOG" "log.level" "LEVEL" "error, warn, info, debug, trace, or a filter such as info,holdoff=debug";
    "log-format" "HOLDOFF_LOG_FORMAT" "log.format" "FORMAT" "auto, text, logfmt or json";
    "access-log" "HOLDOFF_ACCESS_LOG" "log.access" "BOOL" "Log each request";
    "ca-file" "HOLDOFF_CA_FILE" "upstream.ca_files" "FILE[,FILE]" "PEM files added to the trusted roots";
};

/// The flag for every key, and its variable.
const SET: &str = "--set";
const SET_ENV: &str = "HOLDOFF_SET";

/// What a command that reads a configuration was told about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    sources: Sources,
}

impl ConfigArgs {
    /// Reads and checks the configuration. Warnings are left to the caller: `run` logs them, `check` prints them.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        Ok(config::load(&self.sources)?)
    }

    /// What the command line, else the environment, says of a key, as it was written.
    pub(crate) fn said(&self, key: &str) -> Option<&str> {
        self.sources.said(key)
    }
}

impl clap::Args for ConfigArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config")
            .long("config")
            .short('c')
            .env("HOLDOFF_CONFIG")
            .hide_env_values(true)
            .value_name("FILE")
            .value_parser(value_parser!(OsString))
            .help("The configuration [default: /etc/holdoff/holdoff.toml if it exists]");
        let set = Arg::new("set")
            .long(SET.trim_start_matches('-'))
            .env(SET_ENV)
            .hide_env_values(true)
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help_heading("Configuration keys")
            .help(
                "Any key of the configuration, such as defaults.cooldown.max_backoff=10m; may be repeated, in the variable \
                 one on each line. A key's own flag goes before it",
            );
        FLAGS.iter().fold(command.arg(config).arg(set), |command, flag| {
            let arg = Arg::new(flag.long)
                .long(flag.long)
                .env(flag.env)
                .hide_env_values(true)
                .value_name(flag.value)
                .help_heading("Configuration keys")
                .help(flag.help);
            command.arg(match flag.long {
                "reverse" => arg.action(ArgAction::Append).value_delimiter(','),
                "access-log" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg,
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut sources = Sources::default();
        if let Some(path) = matches.get_one::<OsString>("config") {
            // An empty variable says nothing, as everywhere.
            if !(path.is_empty() && from_env(matches, "config")) {
                sources.file(path);
            }
        }
        for name in config::parent::VARIABLES {
            if let Ok(value) = std::env::var(name) {
                sources.env(name, name, value);
            }
        }
        // The variable's keys hold beside those of the flags, so it is not left to clap, which takes one of the two.
        if let Some(said) = std::env::var_os(SET_ENV) {
            sources.set_env(SET_ENV, &said.to_string_lossy());
        }
        if !from_env(matches, "set") {
            for said in matches.get_many::<String>("set").into_iter().flatten() {
                sources.set_flag(SET, said);
            }
        }
        for flag in FLAGS {
            for value in matches.get_many::<String>(flag.long).into_iter().flatten() {
                if from_env(matches, flag.long) {
                    sources.env(flag.key, flag.env, value);
                } else {
                    sources.flag(flag.key, flag.flag, value);
                }
            }
        }
        Ok(Self { sources })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn from_env(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::EnvVariable)
}
