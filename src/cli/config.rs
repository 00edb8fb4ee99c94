//! `holdoff config`: the default configuration, the one in effect, and the presets.

use std::process::ExitCode;

use super::{ConfigArgs, Error, print, warn};
use crate::config::DEFAULT_TOML;
use crate::config::presets::{self, PRESETS_TOML};

/// Print a configuration.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Print,
}

#[derive(Debug, clap::Subcommand)]
enum Print {
    /// Print every key with its default and what it means.
    Default,
    /// Print the built-in presets, or one of them.
    Presets {
        /// The name of a preset.
        name: Option<String>,
    },
    /// Print the configuration in effect, each value with where it comes from.
    Show(ConfigArgs),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    match args.command {
        Print::Default => print(DEFAULT_TOML)?,
        Print::Presets { name: None } => print(PRESETS_TOML)?,
        Print::Presets { name: Some(name) } => print(&format!("{}\n", presets::text(&name).map_err(Error::usage)?))?,
        Print::Show(config) => {
            let loaded = config.load()?;
            for warning in &loaded.warnings {
                warn(warning);
            }
            let read = match &loaded.file {
                Some(file) => format!("# read: {}\n", file.display()),
                None => "# no configuration file was read\n".to_owned(),
            };
            let private = if loaded.settings.egress.allow_private { "may" } else { "may not" };
            let private = format!("# private addresses {private} be reached ([egress] private)\n");
            print(&format!("{read}{private}\n{}", loaded.effective))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
