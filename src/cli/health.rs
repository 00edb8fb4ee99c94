//! `holdoff health`: whether a running holdoff is well, by exit code, for `HEALTHCHECK` and probes.

use std::process::ExitCode;

use bytes::Bytes;
use http::Method;

use super::client::{Client, clean, runtime};
use super::{AdminArgs, Error, print};

/// `holdoff health`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let client = Client::new(&args.admin)?;
    let answer = runtime()?.block_on(client.ask(Method::GET, "/readyz", Bytes::new()))?;
    let said = clean(String::from_utf8_lossy(&answer.body).trim());
    if answer.status.is_success() {
        print(&format!("{said}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::failed(if said.is_empty() { format!("not ready: status {}", answer.status) } else { said }))
}
