//! `holdoff config`: the default configuration, its schema, the configuration in effect, and the presets.

use std::process::ExitCode;

use super::{ConfigArgs, Error, print, warn};
use crate::config::presets::{self, PRESETS_TOML};
use crate::config::{self, DEFAULT_TOML};

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
    /// Print the JSON Schema of the configuration, for editors and TOML checkers.
    ///
    /// It has every key with its type, its default and what it means. An editor that knows TOML (by taplo, as in "Even Better
    /// TOML") then completes keys, explains them and marks mistakes, if the first line of the file names the schema:
    ///
    /// #:schema ./holdoff.schema.json
    ///
    /// `holdoff check` sees more: what depends on other keys, on files and on addresses is in no schema.
    #[command(after_help = "Examples:\n  holdoff config schema > holdoff.schema.json\n  \
                            taplo check --schema file://$PWD/holdoff.schema.json holdoff.toml")]
    Schema,
    /// Print the configuration in effect, each value with where it comes from.
    Show(ConfigArgs),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    match args.command {
        Print::Default => print(DEFAULT_TOML)?,
        Print::Presets { name: None } => print(PRESETS_TOML)?,
        Print::Presets { name: Some(name) } => print(&format!("{}\n", presets::text(&name).map_err(Error::usage)?))?,
        Print::Schema => print(&config::schema())?,
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
