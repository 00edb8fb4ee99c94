//! `holdoff replay` as a user runs it: logs of real servers, counted by hand in `tests/data/replay/README.md`, a log of a real
//! holdoff, and what is no log at all.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::origin::{Origin, limited, ok};
use crate::support::program::Program;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replay").join(name)
}

fn replay(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    let pipes =
        command.arg("replay").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // A command that reads nothing closes the pipe.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What a log comes to, and the messages about it.
fn figures(arguments: &[&str], stdin: &[u8]) -> (Value, String) {
    let output = replay(&[&["--json"], arguments].concat(), stdin);
    assert!(output.status.success(), "{output:?}");
    (serde_json::from_slice(&output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn failed(arguments: &[&str], stdin: &[u8], code: i32) -> String {
    let output = replay(arguments, stdin);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "messages go to stderr");
    String::from_utf8(output.stderr).unwrap()
}

/// The line of a host in short: requests, limited, limited_forwarded, failed, forwarded, saved, saved_good, cooldowns, longest,
/// cooling, tunnels.
fn counts(value: &Value) -> [f64; 11] {
    [
        "requests",
        "limited",
        "limited_forwarded",
        "failed",
        "forwarded",
        "saved",
        "saved_good",
        "cooldowns",
        "longest_wait_seconds",
        "cooling_seconds",
        "tunnels",
    ]
    .map(|name| value[name].as_f64().unwrap_or_else(|| panic!("`{name}` in {value}")))
}

fn check(figures: &Value, hosts: &[(&str, [u32; 11])]) {
    let found: Vec<_> = figures["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| (host["host"].as_str().unwrap(), counts(host)))
        .collect();
    let expected: Vec<_> = hosts.iter().map(|(host, counts)| (*host, counts.map(f64::from))).collect();
    assert_eq!(found, expected);
    for (at, total) in counts(&figures["total"]).into_iter().enumerate() {
        let column = expected.iter().map(|(_, counts)| counts[at]);
        // Of waits the longest, of all else the sum.
        assert_eq!(total, if at == 8 { column.fold(0.0, f64::max) } else { column.sum() }, "column {at}");
    }
}

const BROKEN: (&str, [u32; 11]) = ("http://broken.example:80", [1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
const TUNNEL: (&str, [u32; 11]) = ("https://tunnel.example:443", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

#[test]
fn logs_of_real_servers_come_to_what_was_counted_by_hand() {
    let of = |name: &str, more: &[&str]| {
        let path = data(name);
        let (figures, messages) = figures(&[&[path.to_str().unwrap()], more].concat(), b"");
        assert_eq!(messages, "", "{name}");
        let file = &figures["files"][0];
        assert_eq!((&file["tunnels"], &file["other"], &file["malformed"]), (&json!(1), &json!(1), &json!(0)), "{name}");
        figures
    };
    let limited = "http://limited.example:80";
    let busy = "http://busy.example:8080";
    let peer = "http://peer.example:80";
    let bare = [16, 11, 1, 0, 3, 13, 3, 1, 60, 13, 0];
    let told = [16, 11, 3, 0, 5, 11, 3, 3, 12, 13, 0];
    check(
        &of("nginx-combined.log", &[]),
        &[(limited, bare), (busy, [8, 0, 0, 2, 8, 0, 0, 0, 0, 0, 0]), BROKEN, TUNNEL],
    );
    check(&of("nginx-fields.log", &[]), &[(limited, told), (busy, [8, 2, 2, 0, 7, 1, 1, 2, 4, 6, 0]), BROKEN, TUNNEL]);
    let millis = [16, 11, 3, 0, 5, 11, 3, 3, 12, 12, 0];
    // Its noise names no method and no host, its CONNECT no `Host`, but a target.
    check(&of("nginx.jsonl", &[]), &[(limited, millis), (busy, [8, 2, 2, 0, 6, 2, 2, 2, 4, 6, 0]), BROKEN, TUNNEL]);
    check(&of("apache-vhost.log", &[]), &[(peer, bare), TUNNEL]);
    check(&of("apache-fields.log", &["--host", "http://peer.example"]), &[(peer, told), TUNNEL]);
}

#[test]
fn the_report_reads_like_an_answer() {
    let path = data("nginx-combined.log");
    let output = replay(&[path.to_str().unwrap()], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let expected =
        format!("{}: 25 requests (combined)\n2026-11-21T15:22:19Z to 2026-11-21T15:22:34Z (15s)\n", path.display());
    assert!(text.starts_with(&expected), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().skip(3).take(5).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["http://limited.example", "16", "11", "0", "3", "13", "81.2%", "1", "1m", "13s"]);
    assert_eq!(rows[2], ["http://busy.example:8080", "8", "0", "2", "8", "0", "0%", "0", "-", "-"]);
    assert_eq!(rows[4], ["total", "25", "11", "3", "12", "13", "52.0%", "1", "1m", "13s"]);
    for sentence in [
        "\nholdoff would have answered 13 of 25 requests itself and sent 12.\n",
        "\nThe hosts said \"slow down\" 11 times in the log; holdoff would have heard it once.\n",
        "\n3 of those it would have answered had a good answer in the log: ",
        "\nThe log has no Retry-After, so ",
        "\n1 CONNECT is not judged: ",
        "\nAn estimate: ",
    ] {
        assert!(text.contains(sentence), "expected {sentence:?} in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && output.stderr.is_empty());
}

#[test]
fn a_policy_decides_as_it_would_in_holdoff() {
    let path = data("nginx-combined.log");
    let path = path.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdoff.toml");
    let toml = "[[host]]\nmatch = [\"limited.example\"]\nmode = \"off\"\n\
                [[host]]\nmatch = [\"busy.example\"]\n[host.breaker]\nfailure_threshold = 1\ninitial = \"1m\"\n";
    std::fs::write(&file, toml).unwrap();
    let (figures, _) = figures(&["--config", file.to_str().unwrap(), path], b"");
    // 503 at 23, without a hint: the breaker opens for a minute; 25, 28, 29, 31 and 33 are saved, of which 25 was a 503.
    let busy = ("http://busy.example:8080", [8, 0, 0, 2, 3, 5, 4, 1, 60, 11, 0]);
    check(&figures, &[busy, ("http://limited.example:80", [16, 11, 11, 0, 16, 0, 0, 0, 0, 0, 0]), BROKEN, TUNNEL]);
    assert_eq!(figures["hosts"][1]["mode"], "off");
    let text = String::from_utf8(replay(&["--config", file.to_str().unwrap(), path], b"").stdout).unwrap();
    let row = text.lines().find(|line| line.contains("limited.example")).unwrap();
    assert!(row.contains(" off "), "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holdoff_observed_is_replayed_from_its_own_access_log() {
    let peer = Origin::start(|_| limited("300")).await;
    let fine = Origin::start(|_| ok("fine")).await;
    let mut program = Program::start(&["--mode", "observe", "--access-log", "--log-format", "json"]);
    let proxy = program.address("proxy");
    for _ in 0..4 {
        assert_eq!(Client::connect(proxy).await.get(&peer.url()).await.status, 429);
        assert_eq!(Client::connect(proxy).await.get(&fine.url()).await.status, 200);
    }
    let mut client = Client::connect(proxy).await;
    let target = fine.address().to_string();
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);
    drop(client);
    program.wait_for("the last line", |log| log.matches("\"target\":\"access\"").count() == 9);
    let (figures, messages) = figures(&["-"], program.log().as_bytes());
    assert_eq!(messages, "");
    let of = |host: &str| {
        let hosts = figures["hosts"].as_array().unwrap();
        let found = hosts.iter().find(|found| found["host"] == host).unwrap_or_else(|| panic!("{host} in {figures:#}"));
        counts(found)
    };
    // Each was told 300 s: only the first would have been sent. How long the log is depends on the machine.
    let [.., cooling, _] = of(&peer.url());
    assert!(cooling < 60.0, "{figures:#}");
    assert_eq!(of(&peer.url()), [4.0, 4.0, 1.0, 0.0, 1.0, 3.0, 0.0, 1.0, 300.0, cooling, 0.0]);
    assert_eq!(of(&fine.url()), [4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(counts(&figures["total"])[10], 1.0, "the tunnel");
    assert!(figures["files"][0]["other"].as_u64().unwrap() > 0, "lines about other things are passed over");
}

#[test]
fn what_cannot_be_read_is_counted_and_the_first_of_it_shown() {
    let good = "127.0.0.1 - - [21/Nov/2026:15:22:19 +0000] \"GET http://peer.example/ HTTP/1.1\" 429 5\n";
    let mut log = good.as_bytes().to_vec();
    log.extend_from_slice(good.replace("http://", "http://user:s3cret@").as_bytes());
    for number in 0..5 {
        log.extend_from_slice(format!("\u{1b}[31mline {number} \u{9b}\u{202e}\u{7}\n").as_bytes());
    }
    log.extend(vec![b'x'; 3 << 20]);
    log.extend_from_slice(b"\n\n/\xff\xfe\x00\n");
    log.extend_from_slice(good.replace("http://peer.example", "").as_bytes());
    log.extend_from_slice(good.as_bytes());
    let output = replay(&["-"], &log);
    assert!(output.status.success());
    let messages = String::from_utf8(output.stderr).unwrap();
    for (number, text) in [
        (2, "expected a URL of http or https without a user, found `http://"),
        (3, "expected `[time] \"request\" status` of the combined log format, found `?[31mline 0 "),
    ] {
        assert!(messages.contains(&format!("warning: stdin:{number}: {text}")), "{messages}");
    }
    assert_eq!(messages.lines().count(), 4, "{messages}");
    let rest = "stdin: passed over 4 lines of another format, besides those shown, 1 line without a host; `--host` says what they \
                are about, 1 line longer than 1 MiB\n";
    assert!(messages.ends_with(rest), "{messages}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("answered 1 of 2 requests itself and sent 1."), "{text}");
    for shown in [&messages, &text] {
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()) && !shown.contains('\u{202e}'), "{shown:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn where_nothing_can_be_read_the_command_fails_and_says_why() {
    let empty = failed(&["-"], b"", 1);
    assert!(
        empty.starts_with("error: `stdin`: expected requests (auto), found nothing; `holdoff replay --help`"),
        "{empty}"
    );
    let garbage: Vec<u8> = (0..200_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let message = failed(&["-"], &garbage, 1);
    assert!(message.contains("error: `stdin`: expected requests (combined), found "), "{message}");
    assert!(message.chars().all(|c| c == '\n' || !c.is_control()), "{message:?}");
    let events = failed(&["-"], b"{\"level\":\"info\"}\n{\"level\":\"info\"}\n", 1);
    assert!(
        events.contains("expected requests (jsonl), found 2 lines without a request that was answered"),
        "{events}"
    );
    let origin_form = b"::1 - - [21/Nov/2026:15:22:19 +0000] \"GET / HTTP/1.1\" 429 5 \"-\" \"-\"\n";
    let message = failed(&["-"], origin_form, 1);
    assert!(message.contains("found 1 line without a host; say what the log is about with `--host "), "{message}");
    let long = failed(&["-"], &vec![b'x'; 2 << 20], 1);
    assert!(long.contains("found 1 line longer than 1 MiB"), "{long}");
    let gzip = failed(&["-"], b"\x1f\x8b\x08\x00\x00", 1);
    assert!(gzip.contains("expected text, found gzip; unpack it on the way: `zcat "), "{gzip}");
    let missing = failed(&["/nonexistent/access\u{1b}.log"], b"", 1);
    assert!(
        missing.starts_with("error: `/nonexistent/access?.log`: expected a log that can be read\ncaused by: "),
        "{missing}"
    );
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    failed(&[], b"", 2);
    failed(&["--format", "xml", "-"], b"", 2);
    assert!(failed(&["-", "-"], b"", 2).contains("expected `-` (stdin) once"));
    let message = failed(&["--host", "http://user:s3cret@peer.example", "-"], b"", 2);
    assert!(
        message.starts_with("error: `--host`: expected a URL or a host") && !message.contains("s3cret"),
        "{message}"
    );
    assert!(failed(&["--mode", "loud", "-"], b"", 2).contains("--mode"));
}

#[test]
fn several_files_are_one_log_each_in_its_own_format() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.log"), dir.path().join("new.jsonl"));
    let line = "::1 - - [21/Nov/2026:15:22:00 +0000] \"GET / HTTP/1.1\" 429 5 \"-\" \"-\" retry_after=30\n";
    std::fs::write(&old, line).unwrap();
    std::fs::write(&new, "{\"time\":\"2026-11-21T15:22:20Z\",\"host\":\"peer.example\",\"status\":200}\n").unwrap();
    let files = [old.to_str().unwrap(), new.to_str().unwrap()];
    let (both, messages) = figures(&["--host", "peer.example", files[0], files[1]], b"");
    check(&both, &[("https://peer.example:443", [2, 1, 1, 0, 1, 1, 1, 1, 30, 20, 0])]);
    assert_eq!((&both["files"][0]["format"], &both["files"][1]["format"]), (&json!("combined"), &json!("jsonl")));
    assert_eq!(
        (messages.as_str(), &both["from"], &both["to"]),
        ("", &json!("2026-11-21T15:22:00.000Z"), &json!("2026-11-21T15:22:20.000Z"))
    );
}
