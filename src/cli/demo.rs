//! `holdoff demo`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::Error;

/// demo
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    Err(Error::failed(format!("`holdoff demo` is not in this build ({args:?})")))
}
