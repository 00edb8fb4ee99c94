//! `holdoff explain`: what holds for a URL, and what a response would start.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use http::Method;

use super::client::{Client, runtime};
use super::{AdminArgs, ConfigArgs, Error, print, warn};
use crate::admin::query::encode;
use crate::config::settings::Settings;
use crate::explain::view::Explanation;
use crate::explain::{self, Basis, Names, Question, Written};
use crate::state::{self, Secret};
use crate::table::clock;

/// The largest body that is read; rules about bodies look at far less.
const MAX_BODY: u64 = 16 << 20;

const NAMES: Names = Names {
    url: "URL",
    method: "--method",
    request_header: "--request-header",
    response: "--response",
    header: "--header",
    times: "--times",
};

/// Explain what holds for a URL.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the program asks for
    url: String,
    /// The method of the request
    #[arg(long, short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// A header field of the request, where keys are told apart by one; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    request_header: Vec<String>,
    /// What becomes of it: a status, or dns, refused, unreachable, reset, timeout, tls or malformed
    #[arg(long, value_name = "STATUS|FAILURE")]
    response: Option<String>,
    /// A header field of the response; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The body of the response, for rules about bodies; `-` is stdin
    #[arg(long, value_name = "FILE")]
    body: Option<OsString>,
    /// How often the same answer comes, 1 to 50
    #[arg(long, short = 'n', value_name = "N")]
    times: Option<String>,
    /// Ask the running holdoff, at --admin
    #[arg(long)]
    running: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let written = Written {
        url: &args.url,
        method: args.method.as_deref(),
        request_headers: &args.request_header,
        response: args.response.as_deref(),
        headers: &args.header,
        times: args.times.as_deref(),
    };
    // What is wrong is told in the words of the command line, whoever answers.
    let question = Question::read(&written, &NAMES).map_err(Error::usage)?;
    if args.body.is_some() && (args.running || args.response.is_none()) {
        let mend = if args.running { "leave `--running` out" } else { "say its status with `--response`" };
        return Err(Error::usage(format!("`--body`: expected the body of a response, explained offline; {mend}")));
    }
    let explanation = if args.running {
        ask(&args.config, &written)?
    } else {
        let body = args.body.as_deref().map(read_body).transpose()?;
        offline(&args.config, &question, body.as_deref())?
    };
    if args.json {
        let json = serde_json::to_string_pretty(&explanation)
            .map_err(|error| Error::failed("expected to write JSON").caused_by(&error))?;
        print(&format!("{json}\n"))?;
    } else {
        print(&explain::text(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Explains by the configuration alone.
fn offline(config: &ConfigArgs, question: &Question, body: Option<&[u8]>) -> Result<Explanation, Error> {
    let loaded = config.load()?;
    for warning in &loaded.warnings {
        warn(warning);
    }
    let settings = &loaded.settings;
    let (secret, is_fresh) = secret(settings)?;
    let basis = Basis {
        settings,
        name: settings.listen.name.as_deref().unwrap_or("holdoff"),
        hash: &|value| secret.hash(value),
        known: &|_| None,
        running: false,
        now: clock::now(),
        wall: clock::wall(),
    };
    let mut explanation = explain::explain(&basis, question, body);
    if is_fresh && explanation.keys.iter().any(|key| key.by.iter().any(|by| by.contains(':'))) {
        explanation.notes.push(
            "no secret is kept yet, or none that can be read, so that the hash in a key is made with a fresh one: the running \
             holdoff has another"
                .to_owned(),
        );
    }
    Ok(explanation)
}

/// What credentials are hashed with: that of the running holdoff where it can be read, else a fresh one. Asking makes no file.
fn secret(settings: &Settings) -> Result<(Secret, bool), Error> {
    let path = settings.state.secret_file.clone();
    let path = path.or_else(|| {
        let needed = settings.hash_credentials();
        needed
            .then(|| state::directory(None, |name| std::env::var_os(name)).map(|state| state.join("secret")))
            .flatten()
    });
    if let Some(secret) = path.filter(|path| path.exists()).and_then(|path| Secret::open(&path).ok()) {
        return Ok((secret, false));
    }
    let fresh = Secret::fresh().map_err(|error| Error::failed("expected random bytes").caused_by(&error))?;
    Ok((fresh, true))
}

/// Asks the running holdoff.
fn ask(config: &ConfigArgs, written: &Written<'_>) -> Result<Explanation, Error> {
    let client = Client::new(&AdminArgs::of(config.said("admin.address"), config.said("admin.token_file"))?)?;
    let mut path = format!("/api/v1/explain?url={}", encode(written.url));
    let single = [("method", written.method), ("status", written.response), ("times", written.times)];
    let many = [("request_header", written.request_headers), ("header", written.headers)];
    let single = single.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let many = many.into_iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())));
    for (name, value) in single.chain(many) {
        path.push_str(&format!("&{name}={}", encode(value)));
    }
    let body = runtime()?.block_on(client.good(Method::GET, &path, Bytes::new()))?;
    client.read(&body)
}

fn read_body(file: &OsStr) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    let read = if file == "-" {
        std::io::stdin().lock().take(MAX_BODY).read_to_end(&mut body)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(MAX_BODY).read_to_end(&mut body))
    };
    match read {
        Ok(_) => Ok(body),
        Err(error) => {
            let shown = Path::new(file).display();
            Err(Error::usage(format!("`--body`: expected a file that can be read, found `{shown}`")).caused_by(&error))
        }
    }
}
