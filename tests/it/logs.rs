//! What the log shows, and what it never shows.

use crate::support::client::Client;
use crate::support::origin::{Origin, Reply, message, ok};
use crate::support::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_no_credential_and_no_command_to_a_terminal_is_logged() {
    let origin = Origin::start(|_| ok("fine")).await;
    for format in ["logfmt", "json", "text"] {
        let mut program = Program::start(&["--access-log", "--log-level", "trace", "--log-format", format]);
        let proxy = program.address("proxy");
        for (target, field) in [
            // U+009B is CSI in eight bits, U+202E turns what follows around.
            (format!("{}/first\u{9b}31m\u{202e}?hidden-1", origin.url()), "Proxy-Authorization: Basic hidden-2"),
            (format!("http://hidden-3:hidden-4@{}/", origin.address()), "Authorization: Bearer hidden-5"),
            (format!("{}/last?hidden-6", origin.url()), "Cookie: hidden-7"),
        ] {
            let mut client = Client::connect(proxy).await;
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{field}\r\n\r\n", origin.address())).await;
            client.answer("GET").await;
        }
        program.wait_for("the last request", |log| log.contains("/last"));
        let log = program.log();
        assert!(!log.contains("hidden"), "{log}");
        assert!(log.contains("/first??31m???"), "{log}");
        assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transition_is_one_line_with_its_reason_and_the_signal_as_received() {
    let origin = Origin::start(|_| {
        Reply::Bytes(message(429, "Too Many Requests", &[("Retry-After", "2, level=\"error\" \u{9b}")], "slow down"))
    })
    .await;
    let mut program = Program::start(&[]);
    for _ in 0..3 {
        Client::connect(program.address("proxy")).await.get(&origin.url()).await;
    }
    program.wait_for("the line of the cooldown", |log| log.contains("to=cooling"));
    let log = program.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("to=cooling")).collect();
    let [line] = lines[..] else { panic!("expected one line, found {lines:?}") };
    for part in
        ["level=info", "from=clear", "reason=rate_limited", "until=", "for=", r#"signal="Retry-After: 2, level=\"#]
    {
        assert!(line.contains(part), "expected {part:?} in {line}");
    }
    assert!(line.is_ascii(), "{line}");
}
