//! `holdoff release`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::{AdminAddress, AdminArgs, Error};

/// release
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The host: a URL or HOST[:PORT] (https)
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) key: Option<String>,
    /// Every host
    #[arg(long)]
    pub(crate) all: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.admin.token()?, args.admin.admin == AdminAddress::Unix("/".into()));
    Err(Error::failed(format!("`holdoff release` is not in this build ({args:?})")))
}
