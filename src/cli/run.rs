//! `holdoff run`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::{ConfigArgs, Error};

/// run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.config.load()?, args.config.sources());
    Err(Error::failed(format!("`holdoff run` is not in this build ({args:?})")))
}
