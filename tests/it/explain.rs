//! `holdoff explain`, as a person types it, and the same from the operators' door.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::support::origin::{Origin, limited};
use crate::support::program::{failed, stdout};
use crate::support::sidecar::Holdoff;
use crate::support::within;

async fn holdoff(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    command.arg("explain").args(arguments).current_dir(dir).env_clear().env("XDG_STATE_HOME", dir);
    within("the command to end", command.output()).await.unwrap()
}

/// Points in time differ from run to run.
fn timeless(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    for mark in ["until=\"", "until=\\\""].iter().cycle().take(8) {
        let Some((before, after)) = rest.split_once(mark) else { continue };
        out.push_str(before);
        out.push_str(mark);
        out.push_str("TIME");
        rest = &after["2026-11-20T10:00:00Z".len()..];
    }
    out + rest
}

/// The cases of `tests/data/explain`: a configuration, arguments one a line, and what is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_is_explained_word_for_word() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/explain");
    let mut seen = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let path = case.unwrap().path();
        let case = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = case.split_once("--- configuration\n").unwrap();
        let (configuration, rest) = rest.split_once("--- arguments\n").unwrap();
        let (arguments, expected) = rest.split_once("--- output\n").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("holdoff.toml"), configuration).unwrap();
        std::fs::create_dir(dir.path().join("holdoff")).unwrap();
        let mut secret = std::fs::OpenOptions::new();
        let mut secret =
            secret.write(true).create_new(true).mode(0o600).open(dir.path().join("holdoff/secret")).unwrap();
        std::io::Write::write_all(&mut secret, "07".repeat(32).as_bytes()).unwrap();
        let mut all = vec!["--config", "holdoff.toml"];
        all.extend(arguments.lines());
        let found = timeless(&stdout(&holdoff(dir.path(), &all).await));
        assert!(found == expected, "{}\n--- expected\n{expected}\n--- found\n{found}", path.display());
        assert!(!found.contains("s3cret"), "{found}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen} cases");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_is_told_in_the_words_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["ftp://peer.example"][..], "error: `URL`: expected a URL or a host"),
        (&["http://user:s3cret@peer.example"], "error: `URL`: expected a URL or a host"),
        (
            &["peer.example", "--response", "42"],
            "error: `--response`: expected a status from 200 to 599, or one of `dns`",
        ),
        (&["peer.example", "--response", "429", "-H", "s3cret"], "error: `--header`: expected a header field such as"),
        (
            &["peer.example", "--response", "429", "-n", "51"],
            "error: `--times`: expected a number from 1 to 50, found `51`",
        ),
        (&["peer.example", "--body", "none.json"], "error: `--body`: expected the body of a response"),
        (&["peer.example", "--response", "200", "--body", "none"], "error: `--body`: expected a file that can be read"),
        (&["peer.example", "--running", "--admin", "https://a"], "error: `--admin`: expected `http://`"),
    ] {
        let message = failed(&holdoff(dir.path(), arguments).await, 2);
        assert!(message.starts_with(expected) && !message.contains("s3cret"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_makes_no_secret_and_says_that_the_hash_is_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    let configuration = "[[host]]\nmatch = [\"api.example\"]\n[[host.level]]\nname = \
                         \"credential\"\nby = [\"header:authorization\"]\n";
    std::fs::write(dir.path().join("holdoff.toml"), configuration).unwrap();
    let arguments = ["-c", "holdoff.toml", "http://api.example", "--request-header", "Authorization: s3cret"];
    let text = stdout(&holdoff(dir.path(), &arguments).await);
    let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("is made with a fresh one") && !text.contains("s3cret"), "{text}");
    assert!(!dir.path().join("holdoff").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_sidecar_tells_what_it_knows_and_goes_on_from_there() {
    let origin = Origin::start(|_| limited("300")).await;
    let level = "[[defaults.level]]\nname = \"credential\"\nby = [\"header:authorization\"]\n";
    let running = Holdoff::start(level).await;
    let (admin, url) = (running.admin().to_string(), origin.url());
    let mut client = running.client().await;
    let head = format!("GET {url}/ HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer s3cret\r\n\r\n", origin.address());
    client.send(head).await;
    assert_eq!(client.answer("GET").await.status, 429);
    let listed = running.ask_admin("GET", "/api/v1/cooldowns", "").await.json();
    let cooling = listed["cooldowns"][0]["key"].as_str().unwrap().to_owned();
    assert!(cooling.contains("#credential="), "{cooling}");

    let dir = tempfile::tempdir().unwrap();
    let credential = ["--request-header", "Authorization: Bearer s3cret"];
    let asked = [&["--running", "--admin", &admin, &*url, "--response", "429", "-n", "2"][..], &credential].concat();
    let text = stdout(&holdoff(dir.path(), &asked).await);
    assert!(text.contains(&format!("It is held back now: {cooling} cools for ")), "{text}");
    assert!(text.contains("last error: HTTP 429 from 127.0.0.1"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&holdoff(dir.path(), &[&asked[..], &["--json"]].concat()).await)).unwrap();
    assert_eq!(json["keys"][1]["key"], cooling, "the key is that which the request had");
    assert_eq!(json["response"]["target"], cooling);
    let left = json["schedule"]["starts_in_seconds"].as_f64().unwrap();
    assert!((200.0..=300.0).contains(&left), "{json}");
    assert_eq!(json["schedule"]["rows"][0]["step"], 2);
    assert_eq!(json["schedule"]["rows"][0]["length_seconds"], 120.0);

    // Another credential is another key, of which nothing is known; asking makes none known.
    let before = running.ask_admin("GET", "/api/v1/cooldowns?all=true", "").await.json()["matched"].clone();
    let other = ["--running", "--admin", &admin, &url, "--response", "429", "--request-header", "Authorization: other"];
    let text = stdout(&holdoff(dir.path(), &other).await);
    assert!(text.contains("Nothing holds it back now.") && text.contains("nothing is known of it: clear"), "{text}");
    assert_eq!(running.ask_admin("GET", "/api/v1/cooldowns?all=true", "").await.json()["matched"], before);
    assert_eq!(running.key(&cooling.replace('#', "%23")).await["totals"]["signals"], 1, "nothing was counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_strict_about_what_it_is_asked() {
    let running = Holdoff::start("").await;
    let good =
        running.ask_admin("GET", "/api/v1/explain?url=peer.example&status=429&header=Retry-After:%20120", "").await;
    assert_eq!(good.status, 200, "{}", good.text());
    assert_eq!(good.json()["effect"]["length_seconds"], 120.0);
    for (query, expected) in [
        ("", "expected `url`, such as"),
        ("?url=ftp://a", "`url`: expected a URL or a host"),
        ("?url=a.example&url=b.example", "expected `url` once"),
        ("?ulr=a.example", "expected only the parameters `url`, `method`, `status`"),
        ("?url=a.example&status=429&times=51", "`times`: expected a number from 1 to 50"),
        ("?url=a.example&header=a:b", "`header`: expected beside `status`"),
        ("?url=a.example&method=%4", "expected two hexadecimal digits"),
    ] {
        let answer = running.ask_admin("GET", &format!("/api/v1/explain{query}"), "").await;
        assert_eq!(answer.status, 400, "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with(expected), "{query}: {detail}");
    }
    for method in ["PUT", "DELETE", "POST"] {
        assert_eq!(running.ask_admin(method, "/api/v1/explain?url=a.example", "").await.status, 405, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_explains_behind_the_token_only() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let running = Holdoff::start(&format!("[admin]\naddress = [\"127.0.0.1:0\"]\ntoken_file = {token:?}\n")).await;
    let admin = running.admin().to_string();
    assert_eq!(running.ask_admin("GET", "/api/v1/explain?url=peer.example", "").await.status, 401);
    let asked = ["--running", "--admin", &*admin, "peer.example"];
    let message = failed(&holdoff(dir.path(), &asked).await, 1);
    assert!(message.contains("`--token-file`") || message.contains("token"), "{message}");
    let asked = [&asked[..], &["--admin-token-file", token.to_str().unwrap()]].concat();
    assert!(stdout(&holdoff(dir.path(), &asked).await).contains("Nothing holds it back now."));
}
