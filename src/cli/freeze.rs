//! `holdoff freeze`: an operator sets a cooldown.

use std::process::ExitCode;

use bytes::Bytes;
use http::Method;

use super::client::{Client, clean, runtime};
use super::{AdminArgs, Error, print};
use crate::admin::query::encode;
use crate::admin::view::Change;

/// `holdoff freeze`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// The host: a URL such as https://peer.example, or HOST[:PORT] (then https is meant)
    #[arg(value_name = "HOST")]
    key: String,
    /// For how long, such as 30m or "1h 30m"; at most 30 days
    #[arg(long = "for", value_name = "DURATION")]
    length: String,
    /// Why, for those who look
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let client = Client::new(&args.admin)?;
    let mut path = format!("/api/v1/cooldowns?key={}&for={}", encode(&args.key), encode(&args.length));
    if let Some(reason) = &args.reason {
        path.push_str("&reason=");
        path.push_str(&encode(reason));
    }
    let body = runtime()?.block_on(client.good(Method::PUT, &path, Bytes::new()))?;
    print(&sentence(&client.read(&body)?))?;
    Ok(ExitCode::SUCCESS)
}

/// What happened, in a line.
pub(super) fn sentence(change: &Change) -> String {
    format!("{}\n", clean(&change.message))
}
