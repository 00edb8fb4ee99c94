//! `holdoff status`: which hosts are cooling, until when, why, who said so, and what it saved.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::client::{Client, runtime};
use super::status_page::{Style, page};
use super::{AdminArgs, Error, colour, print};

/// Between two pictures of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Moves to the top left and clears what was there.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// `holdoff status`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    /// Show it anew every second until interrupted
    #[arg(long)]
    watch: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let client = Client::new(&args.admin)?;
    let runtime = runtime()?;
    if !args.watch {
        print(&runtime.block_on(picture(&client, args.json))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(async {
        tokio::select! {
            ended = watch(&client, args.json) => ended,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn watch(client: &Client, json: bool) -> Result<ExitCode, Error> {
    let redraw = stdout().is_terminal() && !json;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first failure is the answer; later ones are shown, since holdoff may come back.
    ticks.tick().await;
    let mut text = picture(client, json).await?;
    loop {
        print(&if redraw { format!("{CLEAR}{text}") } else { text })?;
        ticks.tick().await;
        text = match picture(client, json).await {
            Ok(text) => text,
            Err(error) if redraw => format!("{error}\n"),
            Err(error) => return Err(error),
        };
    }
}

async fn picture(client: &Client, json: bool) -> Result<String, Error> {
    let body = client.good(Method::GET, "/api/v1/cooldowns", Bytes::new()).await?;
    if json {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    let style = Style { colour: colour(&stdout()), width: width() };
    Ok(page(&client.read(&body)?, style))
}

/// The columns of the terminal; none when stdout is not one.
pub(super) fn width() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 40)
}
