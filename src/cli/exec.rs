//! `holdoff exec`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use std::ffi::OsString;

use super::{ConfigArgs, Error};

/// exec
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.config.load()?, args.config.sources());
    Err(Error::failed(format!("`holdoff exec` is not in this build ({args:?})")))
}
