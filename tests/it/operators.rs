//! The commands of operators, as a person types them, against a running sidecar.

use std::process::Output;

use tokio::process::Command;

use crate::support::origin::{Origin, Reply, limited};
use crate::support::program::{failed, stdout};
use crate::support::sidecar::Holdoff;
use crate::support::within;

async fn holdoff(admin: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    command.args(arguments).args(["--admin", admin]).env_remove("HOLDOFF_ADMIN_TOKEN_FILE");
    within("the command to end", command.output()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_answers_in_one_look() {
    let origin = Origin::start(|_| limited("300")).await;
    let echo = Origin::start(|_| Reply::Echo(Vec::new())).await;
    let running = Holdoff::start("").await;
    let admin = running.admin().to_string();
    assert!(stdout(&holdoff(&admin, &["status"]).await).ends_with("\nnothing is cooling\n"));
    let url = format!("{}/secret?token=s3cret", origin.url());
    for _ in 0..3 {
        assert_eq!(running.get(&url).await.status, 429);
    }
    let target = echo.address().to_string();
    let mut client = running.client().await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    assert_eq!(client.answer("CONNECT").await.status, 200);

    let text = stdout(&holdoff(&admin, &["status"]).await);
    assert!(text.starts_with("holdoff is working: holdoff-"), "{text}");
    // The 429 that passed, and the tunnel.
    assert!(text.contains("2 requests forwarded, 2 answered locally"), "{text}");
    let row = text.lines().find(|line| line.contains(&origin.url())).unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("Z, in 5m ") || row.contains("Z, in 4m 5"), "until when: {row}");
    for part in ["rate_limited (Retry-After: 300)", "the host, in seconds"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    assert!(row.ends_with(" 2"), "what it saved: {row}");
    assert!(text.contains("HTTP 429 from 127.0.0.1"), "the last error: {text}");
    assert!(text.contains(&format!("  {target}  1 tunnel\n")), "{text}");
    assert!(
        text.contains(&format!("[[reverse]]\n    address = [\"127.0.0.1:4300\"]\n    upstream = \"https://{target}\""))
    );
    assert!(!text.contains("s3cret") && !text.contains('\u{1b}'), "{text}");

    let json: serde_json::Value = serde_json::from_str(&stdout(&holdoff(&admin, &["status", "--json"]).await)).unwrap();
    assert_eq!(json["cooldowns"][0]["reason"], "rate_limited");
    assert_eq!(json["totals"]["short_circuited"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freeze_and_release_say_what_happened_in_a_sentence() {
    let running = Holdoff::start("").await;
    let admin = format!("http://{}", running.admin());
    let text =
        stdout(&holdoff(&admin, &["freeze", "http://peer.example", "--for", "1h 30m", "--reason", "a move"]).await);
    assert!(text.starts_with("`http://peer.example:80` is frozen until ") && text.ends_with("(1h 30m)\n"), "{text}");
    let text = stdout(&holdoff(&admin, &["freeze", "http://peer.example", "--for", "1m"]).await);
    assert!(text.starts_with("nothing changed: `http://peer.example:80` already cools for longer"), "{text}");
    assert_eq!(running.key("http://peer.example").await["note"], "a move");
    let text = stdout(&holdoff(&admin, &["release", "http://peer.example"]).await);
    assert!(text.starts_with("`http://peer.example:80` is released"), "{text}");
    assert_eq!(stdout(&holdoff(&admin, &["release", "--all"]).await), "nothing changed: nothing was cooling\n");

    let message = failed(&holdoff(&admin, &["freeze", "ftp://peer.example", "--for", "1m"]).await, 2);
    assert!(message.starts_with("error: `key`: expected a URL or a host"), "{message}");
    let message = failed(&holdoff(&admin, &["freeze", "peer.example", "--for", "soon"]).await, 2);
    assert!(message.starts_with("error: `for`: expected a duration such as"), "{message}");
    failed(&holdoff(&admin, &["release"]).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_by_its_exit_code_whether_holdoff_is_ready() {
    let running = Holdoff::start("").await;
    let admin = running.admin().to_string();
    assert_eq!(stdout(&holdoff(&admin, &["health"]).await), "ready\n");
    running.shutdown().await;
    let message = failed(&holdoff(&admin, &["health"]).await, 1);
    let expected = format!(
        "error: expected a running holdoff at http://{admin}, found nothing listening; start it with `holdoff run`"
    );
    assert!(message.starts_with(&expected), "{message}");
    let status = holdoff(&admin, &["status"]).await;
    assert!(failed(&status, 1).starts_with(&expected), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_find_a_unix_socket_and_bring_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, token) = (dir.path().join("admin.sock"), dir.path().join("token"));
    std::fs::write(&token, "s3cret\n").unwrap();
    let admin = format!("unix:{}", socket.display());
    let _running = Holdoff::start(&format!("[admin]\naddress = [\"{admin}\"]\ntoken_file = {token:?}\n")).await;
    assert_eq!(stdout(&holdoff(&admin, &["health"]).await), "ready\n", "a probe needs no token");
    let message = failed(&holdoff(&admin, &["status"]).await, 1);
    assert!(message.contains("`--token-file`") && !message.contains("s3cret"), "{message}");
    let token = token.to_str().unwrap();
    assert!(stdout(&holdoff(&admin, &["status", "--token-file", token]).await).contains("nothing is cooling"));
    let missing = format!("unix:{}", dir.path().join("none.sock").display());
    assert!(failed(&holdoff(&missing, &["status"]).await, 1).contains("found nothing listening"));
}
