//! Logs: text for people on a terminal, one `key=value` or JSON object a line otherwise; always to stderr, always UTC.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as lines};

use crate::config::settings::{Log, LogFormat};

/// Starts logging. Called once, at the start of the program.
///
/// # Errors
/// When `log.level` is not a filter, or logging was started before.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let terminal = stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::registry()
        .with(layer(log.format, terminal, colour).with_filter(filter(&log.level)?))
        .try_init()
        .map_err(|_| TelemetryError::Twice)
}

/// Whether a text is a filter that `log.level` may hold.
///
/// # Errors
/// When it is not.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(level).map_err(|e| TelemetryError::Level { level: level.into(), cause: e.to_string() })
}

fn layer(format: LogFormat, terminal: bool, colour: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    match format {
        LogFormat::Auto if terminal => layer(LogFormat::Text, terminal, colour),
        LogFormat::Auto => layer(LogFormat::Logfmt, terminal, colour),
        LogFormat::Text => lines::layer().with_writer(stderr).with_ansi(colour).with_target(false).boxed(),
        LogFormat::Logfmt => tracing_logfmt::builder().layer().with_writer(stderr).boxed(),
        LogFormat::Json => lines::layer().json().flatten_event(true).with_writer(stderr).boxed(),
    }
}

/// Why logging could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `log.level` is not a filter.
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Logging was started before.
    Twice,
}

impl fmt::Display for TelemetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level { level, cause } => write!(
                f,
                "`log.level`: expected a level (error, warn, info, debug, trace) or a filter like \
                 `info,holdoff::probe=debug`, found `{level}`: {cause}"
            ),
            Self::Twice => f.write_str("logging was started before"),
        }
    }
}

impl std::error::Error for TelemetryError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_checked() {
        for good in ["info", "warn,holdoff=debug", "off", "INFO"] {
            check_level(good).unwrap();
        }
        let message = check_level("holdoff=loud").unwrap_err().to_string();
        assert!(message.starts_with("`log.level`: expected a level (error, warn, info, debug, trace)"), "{message}");
    }
}
