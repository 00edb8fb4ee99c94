//! Credentials tell keys apart and are seen nowhere (SPEC 4.2, 13.6).

use std::process::Command;

use crate::support::client::Client;
use crate::support::origin::{Origin, limited};
use crate::support::program::Program;

const LEVELS: &str = r#"
[log]
level = "trace"
access = true
[[host]]
match = ["127.0.0.1"]
[[host.level]]
name = "credential"
by = ["header:authorization", "query:key"]
[[host.level]]
name = "route"
by = ["header:authorization", "query:key", "path"]
routes = ["/hooks/{hook}/{~token}/*"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_nowhere_in_clear() {
    let origin = Origin::start(|_| limited("60")).await;
    let state = tempfile::tempdir().unwrap();
    let secret = state.path().join("secret");
    let config = format!("[state]\nsecret_file = {secret:?}\n{LEVELS}");
    let mut program = Program::start_configured(&config, &[]);
    let (proxy, admin) = (program.address("proxy"), program.address("admin"));
    let mut seen = String::new();
    for _ in 0..2 {
        for credential in ["sesame-1", "sesame-2"] {
            let mut client = Client::connect(proxy).await;
            let host = origin.address();
            client
                .send(format!(
                    "GET http://{host}/hooks/17/{credential}/x?key={credential} HTTP/1.1\r\nHost: {host}\r\n\
                     Authorization: Bearer {credential}\r\nAccept: application/problem+json\r\n\r\n"
                ))
                .await;
            let answer = client.answer("GET").await;
            assert_eq!(answer.status, 429);
            seen.push_str(&answer.head);
            seen.push_str(answer.text());
        }
    }
    assert_eq!(origin.seen().len(), 2, "each credential was let through once");
    assert!(seen.contains("#route="), "{seen}");
    program.wait_for("the access log", |log| log.matches("short_circuited").count() >= 2);
    for path in ["/metrics", "/api/v1/cooldowns?all=true", "/"] {
        let mut client = Client::connect(admin).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n")).await;
        seen.push_str(&String::from_utf8_lossy(&client.answer("GET").await.body));
    }
    assert!(seen.contains("credential=") && seen.contains("hooks/17"), "{seen}");
    seen.push_str(&program.log());
    for entry in std::fs::read_dir(state.path()).unwrap() {
        seen.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let file = state.path().join("holdoff.toml");
    std::fs::write(&file, &config).unwrap();
    let show = Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["config", "show", "--config"]).arg(&file).output();
    seen.push_str(&String::from_utf8(show.unwrap().stdout).unwrap());
    assert!(!seen.contains("sesame"), "{seen}");
    let secret = std::fs::read_to_string(&secret).unwrap();
    assert!(secret.trim().len() == 64 && seen.matches(secret.trim()).count() == 1, "only its file has the secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_in_a_path_are_not_logged_where_the_request_is_refused_before_its_policy() {
    let origin = Origin::start(|_| limited("60")).await;
    let state = tempfile::tempdir().unwrap();
    let config = format!(
        "[listen]\nname = \"here\"\n[state]\nsecret_file = {:?}\n{LEVELS}[host.timeouts]\nmax_request_body = \"4B\"\n",
        state.path().join("secret")
    );
    let mut program = Program::start_configured(&config, &[]);
    let host = origin.address();
    for (fields, body, status) in [("Content-Length: 5", "12345", 413), ("Via: 1.1 here", "", 508)] {
        let mut client = Client::connect(program.address("proxy")).await;
        client
            .send(format!("POST http://{host}/hooks/17/sesame/x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n{body}"))
            .await;
        assert_eq!(client.answer("POST").await.status, status);
    }
    program.wait_for("the access log", |log| log.matches("hooks/17").count() >= 2);
    assert!(!program.log().contains("sesame"), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_with_one_secret_have_the_same_keys_and_others_not() {
    let origin = Origin::start(|_| limited("60")).await;
    let dir = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for name in ["one", "one", "two"] {
        let config = format!("[state]\nsecret_file = {:?}\n{LEVELS}", dir.path().join(name));
        let program = Program::start_configured(&config, &[]);
        let mut mark = String::new();
        for _ in 0..2 {
            let mut client = Client::connect(program.address("proxy")).await;
            let host = origin.address();
            let ask = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nAuthorization: token\r\n\r\n");
            client.send(ask).await;
            mark = client.answer("GET").await.fields("holdoff").join("");
        }
        keys.push(mark.split("#credential=").nth(1).unwrap().split('"').next().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

#[test]
fn a_secret_that_others_can_read_stops_the_start_with_the_mend() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (secret, file) = (dir.path().join("secret"), dir.path().join("holdoff.toml"));
    std::fs::write(&secret, "0".repeat(64)).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, format!("[state]\nsecret_file = {secret:?}\n{LEVELS}")).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_holdoff"))
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{error}");
    assert!(error.contains("found 0644") && error.contains("chmod 600"), "{error}");
}
