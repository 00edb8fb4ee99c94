//! `holdoff check`: whether a configuration is good.

use std::process::ExitCode;

use super::{ConfigArgs, Error, hint, print, warn};
use crate::config::settings::Settings;
use crate::intercept;
use crate::table::clock;

/// Check a configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let loaded = args.config.load()?;
    for warning in &loaded.warnings {
        warn(warning);
    }
    for each in &loaded.hints {
        hint(each);
    }
    let intercept = &loaded.settings.intercept;
    if let Some(found) =
        intercept::check(intercept, clock::wall()).map_err(|error| super::ca::failed(&error).into_usage())?
    {
        for warning in &found.warnings {
            warn(warning);
        }
    }
    let read = match &loaded.file {
        Some(file) => format!("{} is good", file.display()),
        None => "no configuration file; the defaults are good".to_owned(),
    };
    print(&format!("{read}: {}\n", summary(&loaded.settings)))?;
    Ok(ExitCode::SUCCESS)
}

/// What the configuration amounts to, in one line.
fn summary(settings: &Settings) -> String {
    let addresses: Vec<String> = settings.listen.address.iter().map(ToString::to_string).collect();
    let mut parts = vec![if addresses.is_empty() {
        "no forward proxy".to_owned()
    } else {
        format!("proxy on {}", addresses.join(" and "))
    }];
    for (count, what) in [
        (settings.reverse.len(), "[[reverse]]"),
        (settings.intercept.hosts.len(), "in [intercept]"),
        (settings.hosts.hosts.len(), "[[host]]"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.push(format!("mode {}", settings.hosts.defaults.policy.mode.as_str()));
    parts.join(", ")
}
