//! `holdoff health`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::{AdminAddress, AdminArgs, Error};

/// health
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.admin.token()?, args.admin.admin == AdminAddress::Unix("/".into()));
    Err(Error::failed(format!("`holdoff health` is not in this build ({args:?})")))
}
