//! Where the program's own messages go: stderr, in the form that `[log]` asks for.

use std::io::{self, IsTerminal};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::Error;
use crate::config::settings::{Log, LogFormat};

/// Starts writing messages. Only the first call of a process does anything.
pub(crate) fn start(log: &Log) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        Error::usage(format!("`log.level`: expected a filter such as `info`, found `{}`", log.level)).caused_by(&error)
    })?;
    let stderr = io::stderr;
    let format = match log.format {
        LogFormat::Auto if stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Logfmt,
        format => format,
    };
    let layer = match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(stderr).boxed(),
        LogFormat::Logfmt => tracing_logfmt::builder().layer().with_writer(stderr).boxed(),
        LogFormat::Text | LogFormat::Auto => {
            fmt::layer().with_target(false).with_ansi(super::colour(&stderr())).with_writer(stderr).boxed()
        }
    };
    // Refused only when somebody has started it before.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}
