//! `holdoff status`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::{AdminAddress, AdminArgs, Error};

/// status
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on showing it
    #[arg(long)]
    pub(crate) watch: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.admin.token()?, args.admin.admin == AdminAddress::Unix("/".into()));
    Err(Error::failed(format!("`holdoff status` is not in this build ({args:?})")))
}
