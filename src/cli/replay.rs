//! `holdoff replay`: what holdoff would have saved, told from access logs of the past.
//!
//! The decision core knows no clock and no socket, so a log can be played to it: each line asks at the time it was logged,
//! and hears what the log says the host answered. Nothing here reads a clock or opens a connection. Chance is taken out:
//! no jitter, so that the same log gives the same figures.
//!
//! A line that holdoff would have answered itself feeds nothing, since the host would not have been asked. What a log
//! cannot tell is how the host had behaved then; it shows what a host says to a node that does not wait. The figures are
//! therefore an estimate, and the report says so.
//!
//! Lines come in ([`lines`]), are taken apart ([`combined`], [`json`]) into the same draft ([`draft`]), are put in the order of
//! time and played ([`play`]), and counted for people and programs ([`report`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use self::draft::{Draft, Flaw, Line, Places};
use self::lines::{LONGEST, Lines, Piece};
use self::play::Player;
use self::report::{FileReport, Report};
use super::status_page::{Style, count};
use super::{ConfigArgs, Error, colour, print, warn};
use crate::config::diagnostic::mask_credentials;
use crate::core::key::Key;
use crate::core::signal::printable;

mod combined;
mod draft;
mod json;
mod lines;
mod play;
mod report;
mod stamp;

/// Malformed lines shown of one file; the others are counted.
const SHOWN: u64 = 3;

/// Behind `--help`: what is read, and what is printed.
pub(crate) const FORMATS: &str = "\
Examples:
  holdoff replay --host https://api.example.com access.log
  zcat access.log.2.gz | holdoff replay --format combined - access.log.1 access.log
  holdoff replay --mode enforce --json holdoff.jsonl

Combined log format (nginx, Apache), one request a line:
  192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] \"GET http://peer.example/x HTTP/1.1\" 429 17 \"-\" \"curl/8.10.1\"
  The host is that of the URL or of CONNECT, else the `host:port` before the address (Apache's vhost_combined), else --host.
  The format has no Retry-After, so a 429 counts as one without. To log it, add fields as name=value to the end, with the
  names below. nginx:
    log_format holdoff '$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent '
                       '\"$http_referer\" \"$http_user_agent\" '
                       'retry_after=\"$sent_http_retry_after\" request_time=$request_time host=$http_host scheme=$scheme';
  Apache:
    LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\" retry_after=\\\"%{Retry-After}o\\\" duration_us=%D\" holdoff
  Where nginx passes requests on (proxy_pass), the host they go to is host=$proxy_host.

JSON lines, one object a line; the access log of holdoff itself is one (log.access = true, log.format = \"json\"):
  time       time, timestamp, ts, @timestamp, time_iso8601, time_local, msec: RFC 3339, the time of the combined format, or a
             number of seconds since 1970. It is when the request ended
  duration   request_time, duration (seconds), duration_ms, duration_us
  method     method, request_method
  URL        url, uri, path, request_uri, or request (a request line)
  host       host, http_host, authority: a URL, a name or name:port
  scheme     scheme: http or https; without it https, or http where a port other than 443 is named
  status     status, status_code; 499, 0 and - say nothing about the host
  wait       retry_after, retry-after
  headers    headers, response_headers, resp_headers: an object with the fields of the response; also any
             sent_http_NAME and upstream_http_NAME
  Objects without a status are other events of the same log and are passed over. Caddy's `request` object is read too.

What is counted for a host: requests; limited, the answers that say \"slow down\" (429, or 503 with Retry-After); failed; forwarded
and saved, what holdoff would have sent and answered itself; cooldowns, the longest, and the time spent in them. A group of hosts, and a table with paths, count as a host of their own;
levels are not played, for a log does not have what tells their keys apart.

--json prints one object. `from`, `to`: when the log begins and ends. `files`: file, format, requests, tunnels, other, malformed,
without_host, too_long. `hosts`, most saved first: host, mode, requests, limited, limited_forwarded (those that holdoff would have
got to see), failed, forwarded, saved, saved_share (0 to 1), saved_good (answered well in the log), cooldowns,
longest_wait_seconds, cooling_seconds, tunnels. `total`: the same without host and mode. `late`, `untracked`: lines played late, and
requests of hosts beyond limits.max_keys. `conclusion`: the figures in words.";

/// `holdoff replay`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Access logs, the oldest first; - is stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What a log is written in
    #[arg(long, value_enum, default_value_t = Format::Auto, env = "HOLDOFF_REPLAY_FORMAT")]
    format: Format,
    /// The host that lines without one are about
    #[arg(long, value_name = "HOST", env = "HOLDOFF_REPLAY_HOST")]
    host: Option<String>,
    /// Print the figures as one JSON object
    #[arg(long, env = "HOLDOFF_REPLAY_JSON")]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What a log is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// What its first line looks like
    Auto,
    /// The combined log format of nginx and Apache
    Combined,
    /// One JSON object a line
    Jsonl,
}

impl Format {
    /// What a line looks like.
    fn of(line: &[u8]) -> Self {
        if line.trim_ascii_start().starts_with(b"{") { Self::Jsonl } else { Self::Combined }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Combined => "combined",
            Self::Jsonl => "jsonl",
        }
    }

    fn read(self, line: &str) -> Result<Draft, Flaw> {
        match self {
            Self::Jsonl => json::read(line),
            Self::Combined | Self::Auto => combined::read(line),
        }
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let about = args.host.as_deref().filter(|host| !host.is_empty()).map(about).transpose()?;
    if args.files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(Error::usage("`FILE`: expected `-` (stdin) once, found it twice"));
    }
    let mut loaded = args.config.load()?;
    for warning in &loaded.warnings {
        warn(warning);
    }
    play::take_chance_out(&mut loaded.settings.hosts);
    let settings = &loaded.settings;
    if settings.hosts.all().any(|settings| !settings.levels.is_empty()) {
        warn("levels of the policy are not played: what tells their keys apart is in no log; a host counts as one");
    }
    let places = Places { about, hosts: &settings.hosts };
    let mut player = Player::new(&settings.hosts, settings.limits.max_keys);
    let mut files = Vec::new();
    for path in &args.files {
        let name: String = path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let file = if path.as_os_str() == "-" {
            read(io::stdin().lock(), "stdin".to_owned(), args.format, &places, &mut player)?
        } else {
            let file = File::open(path)
                .map_err(|e| Error::failed(format!("`{name}`: expected a log that can be read")).caused_by(&e))?;
            read(BufReader::with_capacity(1 << 16, file), name, args.format, &places, &mut player)?
        };
        files.push(file);
    }
    if let Some(error) = nothing_read(&files) {
        return Err(error);
    }
    let report = Report::new(files, player.finish());
    for warning in report.warnings() {
        warn(&warning);
    }
    print(&if args.json {
        let json = report.to_json().map_err(|e| Error::failed("expected to write JSON").caused_by(&e))?;
        format!("{json}\n")
    } else {
        report.text(Style { colour: colour(&io::stdout()), width: super::status::width() })
    })?;
    Ok(ExitCode::SUCCESS)
}

fn about(text: &str) -> Result<Key, Error> {
    Key::parse(text).map(|key| key.whole()).map_err(|e| {
        let text = mask_credentials(text);
        Error::usage(format!("`--host`: expected a URL or a host, found `{}`: {e}", printable(text.as_bytes(), 80)))
    })
}

/// Reads one log to its end.
fn read(
    reader: impl BufRead,
    name: String,
    format: Format,
    places: &Places<'_>,
    player: &mut Player<'_>,
) -> Result<FileReport, Error> {
    let mut lines = Lines::new(reader);
    let mut file = FileReport { file: name, format: format.as_str(), ..FileReport::default() };
    let mut format = format;
    loop {
        let piece = lines
            .next()
            .map_err(|e| Error::failed(format!("`{}`: expected a log that can be read", file.file)).caused_by(&e))?;
        let number = file.lines.saturating_add(1);
        let line = match piece {
            None => return Ok(file),
            Some(Piece::TooLong) => {
                (file.lines, file.too_long) = (number, file.too_long.saturating_add(1));
                continue;
            }
            Some(Piece::Line(line)) => line,
        };
        if number == 1 && line.starts_with(&[0x1f, 0x8b]) {
            return Err(Error::failed(format!(
                "`{0}`: expected text, found gzip; unpack it on the way: `zcat {0} | holdoff replay -`",
                file.file
            )));
        }
        file.lines = number;
        if line.trim_ascii().is_empty() {
            continue;
        }
        // What the first line looks like holds for the file, so that a later one can be told to be wrong.
        if format == Format::Auto {
            format = Format::of(line);
            file.format = format.as_str();
        }
        let text = String::from_utf8_lossy(line);
        match format.read(&text).and_then(|draft| draft.finish(places)) {
            Ok(Line::Request(request)) => {
                file.requests = file.requests.saturating_add(1);
                player.request(request);
            }
            Ok(Line::Tunnel(key, time)) => {
                file.tunnels = file.tunnels.saturating_add(1);
                player.tunnel(key, time);
            }
            Ok(Line::Other) => file.other = file.other.saturating_add(1),
            Err(Flaw::NoHost) => file.without_host = file.without_host.saturating_add(1),
            Err(Flaw::Malformed { expected, found }) => {
                file.malformed = file.malformed.saturating_add(1);
                let text = format!("expected {expected}, found `{}`", excerpt(&found));
                if file.malformed <= SHOWN {
                    warn(&format!("{}:{number}: {text}", file.file));
                }
            }
        }
    }
}

/// A piece of a log for people: short, printable, without passwords.
fn excerpt(found: &str) -> Box<str> {
    let short: String = found.chars().take(200).collect();
    printable(mask_credentials(&short).as_bytes(), 80)
}

/// Why there is nothing to tell, if there is nothing.
fn nothing_read(files: &[FileReport]) -> Option<Error> {
    if files.iter().any(|file| file.requests > 0 || file.tunnels > 0) {
        return None;
    }
    let found = |file: &FileReport| {
        let parts: Vec<String> = [
            (file.without_host, "without a host".to_owned()),
            (file.malformed, "of another format".to_owned()),
            (file.other, "without a request that was answered".to_owned()),
            (file.too_long, format!("longer than {} MiB", LONGEST >> 20)),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", count(number, "line")))
        .collect();
        let found = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
        format!("`{}`: expected requests ({}), found {found}", file.file, file.format)
    };
    let text: Vec<String> = files.iter().map(found).collect();
    let mend = if files.iter().any(|file| file.without_host > 0) {
        "say what the log is about with `--host https://peer.example`"
    } else {
        "`holdoff replay --help` says what is read"
    };
    Some(Error::failed(format!("{}; {mend}", text.join("; "))))
}

impl FileReport {
    /// What of the file could not be read, in words.
    fn flaws(&self) -> Option<String> {
        let more = self.malformed.saturating_sub(SHOWN);
        let parts: Vec<String> = [
            (more, "of another format, besides those shown".to_owned()),
            (self.without_host, "without a host; `--host` says what they are about".to_owned()),
            (self.too_long, format!("longer than {} MiB", LONGEST >> 20)),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", count(number, "line")))
        .collect();
        (!parts.is_empty()).then(|| format!("{}: passed over {}", self.file, parts.join(", ")))
    }
}
