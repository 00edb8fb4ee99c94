//! `holdoff freeze`. Placeholder: this file is written elsewhere and takes its place in the merge.

use std::process::ExitCode;

use super::{AdminAddress, AdminArgs, Error};

/// freeze
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The host: a URL or HOST[:PORT] (https)
    pub(crate) key: String,
    /// For how long, such as 30m
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) duration: String,
    /// Why, for those who look
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let _ = (args.admin.token()?, args.admin.admin == AdminAddress::Unix("/".into()));
    Err(Error::failed(format!("`holdoff freeze` is not in this build ({args:?})")))
}
