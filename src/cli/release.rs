//! `holdoff release`: an operator ends a cooldown, or all.

use std::process::ExitCode;

use bytes::Bytes;
use http::Method;

use super::client::{Client, runtime};
use super::freeze::sentence;
use super::{AdminArgs, Error, print};
use crate::admin::query::encode;

/// `holdoff release`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// The host: a URL such as https://peer.example, or HOST[:PORT] (then https is meant)
    #[arg(value_name = "HOST", required_unless_present = "all", conflicts_with = "all")]
    key: Option<String>,
    /// Every host
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let client = Client::new(&args.admin)?;
    let path = match &args.key {
        Some(key) => format!("/api/v1/cooldowns?key={}", encode(key)),
        None if args.all => "/api/v1/cooldowns".to_owned(),
        None => return Err(Error::usage("expected a host or `--all`")),
    };
    let body = runtime()?.block_on(client.good(Method::DELETE, &path, Bytes::new()))?;
    print(&sentence(&client.read(&body)?))?;
    Ok(ExitCode::SUCCESS)
}
