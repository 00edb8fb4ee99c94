//! Clients we did not write: curl, Python requests, a node that only has `http_proxy` set, `holdoff exec`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::origin::{Origin, limited, ok};
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;

/// Runs a program to its end, with nothing of this machine's proxy settings, and returns what it printed.
async fn run(command: &mut Command) -> (i32, String, String) {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        if command.get_envs().all(|(set, _)| set != name) {
            command.env_remove(name);
        }
        command.env_remove(name.to_uppercase());
    }
    command.stdin(Stdio::null());
    let text = format!("{command:?}");
    let mut command = std::mem::replace(command, Command::new("true"));
    let output: Output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("`{text}`: {error}; `tests/run` installs what the tests need"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_through_the_proxy_and_in_a_cooldown() {
    let origin = Origin::start(|seen| if seen.number == 0 { ok("fine\n") } else { limited("60") }).await;
    let holdoff = Holdoff::start("").await;
    let proxy = format!("http://{}", holdoff.proxy());
    let (code, out, err) = run(Command::new("curl").args(["-sS", "-x", &proxy, &origin.url()])).await;
    assert_eq!((code, out.as_str()), (0, "fine\n"), "{err}");
    let (code, out, err) = run(Command::new("curl").args(["-sSi", "-x", &proxy, &origin.url()])).await;
    assert!(
        code == 0 && out.starts_with("HTTP/1.1 429 Too Many Requests\r\n") && out.contains("slow down"),
        "{out}{err}"
    );
    let (code, out, _) = run(Command::new("curl").args(["-sSi", "-x", &proxy, &origin.url()])).await;
    assert_eq!(code, 0);
    let head = out.to_lowercase();
    assert!(head.contains("\r\nretry-after: 60\r\n") || head.contains("\r\nretry-after: 59\r\n"), "{out}");
    assert!(head.contains("\r\nholdoff: short-circuit; reason=rate_limited;"), "{out}");
    // curl's own retry honours what we say; one of its tries is enough here.
    let (code, ..) = run(Command::new("curl").args(["-sSf", "-o", "/dev/null", "-x", &proxy, &origin.url()])).await;
    assert_eq!(code, 22, "a 429 is an error for `curl -f`");
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_uploads_with_expect_and_in_a_cooldown_sends_no_body() {
    let origin = Origin::start(|seen| if seen.number == 0 { ok("stored") } else { limited("60") }).await;
    let holdoff = Holdoff::start("").await;
    let proxy = format!("http://{}", holdoff.proxy());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("upload");
    std::fs::write(&file, vec![b'x'; 2 << 20]).unwrap();
    let upload = |url: String| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-w", "\n%{http_code} %{size_upload}", "-x", &proxy, "-T"]).arg(&file).arg(url);
        command
    };
    let (code, out, err) = run(&mut upload(format!("{}/a", origin.url()))).await;
    assert_eq!((code, out.as_str()), (0, "stored\n200 2097152"), "{err}");
    assert_eq!(origin.last().body.len(), 2 << 20);
    run(Command::new("curl").args(["-sS", "-x", &proxy, &origin.url()])).await;
    let (code, out, err) = run(&mut upload(format!("{}/b", origin.url()))).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("\n429 0"), "answered before `100 Continue`: {out}");
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_requests_with_nothing_but_http_proxy_set() {
    let origin = Origin::start(|seen| if seen.number == 0 { ok("fine") } else { limited("60") }).await;
    let holdoff = Holdoff::start("").await;
    let script = format!(
        "import requests\n\
         s = requests.Session()\n\
         for _ in range(4):\n    r = s.get('{}/feed', params={{'q': 'a b'}})\n    \
         print(r.status_code, r.headers.get('Retry-After'), r.headers.get('Holdoff', '-').split(';')[0])\n",
        origin.url()
    );
    let (code, out, err) = run(Command::new("python3")
        .args(["-c", &script])
        .env("http_proxy", format!("http://{}", holdoff.proxy()))
        .env("no_proxy", ""))
    .await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["200 None -", "429 60 -"], "{out}");
    for line in &lines[2..] {
        assert!(["429 60 short-circuit", "429 59 short-circuit"].contains(line), "{out}");
    }
    assert_eq!(origin.count(), 2);
    assert_eq!(origin.last().target(), "/feed?q=a+b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_has_http_proxy_set() {
    let origin = Origin::start(|_| limited("60")).await;
    let holdoff = Holdoff::start("").await;
    // Python's standard library: the oldest kind of sync loop.
    let script = format!(
        "import urllib.request, urllib.error\n\
         for _ in range(3):\n    try:\n        urllib.request.urlopen('{}')\n    except urllib.error.HTTPError as e:\n        \
         print(e.code, 'Holdoff' in e.headers)\n",
        origin.url()
    );
    let (code, out, err) = run(Command::new("python3")
        .args(["-c", &script])
        .env("http_proxy", format!("http://{}", holdoff.proxy()))
        .env("no_proxy", ""))
    .await;
    assert_eq!((code, out.as_str()), (0, "429 False\n429 True\n429 True\n"), "{err}");
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_url_swap_to_an_https_peer_with_its_own_ca() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.acceptor(&["localhost"]), |seen| match seen.target() {
        "/v1/moved" => crate::support::origin::answer(
            302,
            "Found",
            &[("Location", &format!("https://{}/v1/new", seen.field("host").unwrap()))],
            "",
        ),
        "/v1/limited" => limited("60"),
        _ => ok("over TLS"),
    })
    .await;
    let ca = authority.file();
    let holdoff = Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"https://localhost:{}/v1\"\npath = \"/api\"\n\
         [upstream]\nplatform_roots = false\nca_files = [{ca:?}]\n",
        origin.address().port()
    ))
    .await;
    let base = format!("http://{}/api", holdoff.reverse(0));
    let (code, out, err) = run(Command::new("curl").args(["-sS", &format!("{base}/things?x=1")])).await;
    assert_eq!((code, out.as_str()), (0, "over TLS"), "{err}");
    let seen = origin.last();
    assert_eq!(seen.target(), "/v1/things?x=1");
    assert_eq!(seen.field("host"), Some(format!("localhost:{}", origin.address().port()).as_str()));
    // `Location` leads back through us.
    let (_, out, _) = run(Command::new("curl").args(["-sSi", &format!("{base}/moved")])).await;
    assert!(out.contains(&format!("ocation: {base}/new\r\n")), "{out}");
    let (code, out, _) = run(Command::new("curl").args(["-sSL", &format!("{base}/moved")])).await;
    assert_eq!((code, out.as_str()), (0, "over TLS"));
    // And the cooldown is that of the https key.
    run(Command::new("curl").args(["-sS", &format!("{base}/limited")])).await;
    let count = origin.count();
    let (_, out, _) = run(Command::new("curl").args(["-sSi", &format!("{base}/things")])).await;
    assert!(out.starts_with("HTTP/1.1 429") && out.contains("reason=rate_limited"), "{out}");
    assert_eq!(origin.count(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_puts_a_command_behind_holdoff_and_ends_with_it() {
    let origin = Origin::start(|_| limited("60")).await;
    let script = format!("curl -sS -o /dev/null -w '%{{http_code}} ' {0}; curl -sSi {0}; exit 7", origin.url());
    let (code, out, err) =
        run(Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["exec", "--", "sh", "-c", &script])).await;
    assert_eq!(code, 7, "the command's own exit code: {err}");
    assert!(out.starts_with("429 HTTP/1.1 429") && out.contains("short-circuit; reason=rate_limited"), "{out}\n{err}");
    assert_eq!(origin.count(), 1);
    // And directly, as in the README.
    let (code, out, err) =
        run(Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["exec", "--", "curl", "-sS", &origin.url()])).await;
    assert_eq!((code, out.as_str()), (0, "slow down\n"), "{err}");
}

#[tokio::test]
async fn exec_of_a_command_that_is_not_there_says_so() {
    let (code, out, err) =
        run(Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["exec", "--", "no-such-command"])).await;
    assert_eq!((code, out.as_str()), (127, ""), "{err}");
    assert!(err.contains("no-such-command"), "{err}");
    assert!(!Path::new("no-such-command").exists());
}
