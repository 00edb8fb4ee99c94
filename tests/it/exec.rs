//! `holdoff exec` as a user runs it: the command goes through a holdoff of its own and notices nothing else.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::origin::{Origin, Seen, limited, ok};
use crate::support::tls::Authority;

fn exec(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    command.arg("exec").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in
        ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDOFF_") {
            command.env_remove(name);
        }
    }
    // A group of its own: never in the foreground of the terminal a test may run in.
    command.process_group(0);
    command
}

fn shell(script: &str) -> Output {
    exec(&["--", "sh", "-c", script]).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A peer that answers everything with 429 and `Retry-After: 5`, and counts.
fn throttling_peer() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // A connection that was opened in advance asks nothing.
            let Some(Ok(_)) = lines.next() else { continue };
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nslow\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, count)
}

/// Waits for a command that says `ready` as its first line.
fn ready(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    output
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn curl_goes_through_holdoff_and_leaves_a_throttling_peer_alone() {
    let (peer, count) = throttling_peer();
    let ask = format!("curl -sS -o /dev/null -w '%{{http_code}} %{{num_connects}}\\n' http://{peer}/");
    let show = format!("curl -sS -D - -o /dev/null http://{peer}/");
    let output = shell(&format!("{ask}; {ask}; {show}"));
    let text = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.matches("429 1\n").count(), 2, "{text}");
    assert!(text.to_lowercase().contains("\nproxy-status: "), "{text}");
    assert_eq!(count.load(Ordering::SeqCst), 1, "{text}");
}

#[test]
fn the_command_finds_the_proxy_in_both_cases_and_no_proxy_empty() {
    let output =
        shell("echo $http_proxy $https_proxy $HTTP_PROXY $HTTPS_PROXY; echo \"${no_proxy-unset}${NO_PROXY-unset}\"");
    let text = stdout(&output);
    let (proxies, exempt) = text.split_once('\n').unwrap();
    let proxies: Vec<&str> = proxies.split(' ').collect();
    assert_eq!(proxies.len(), 4, "{text}");
    assert!(proxies.iter().all(|proxy| *proxy == proxies[0] && proxy.starts_with("http://127.0.0.1:")), "{text}");
    assert_eq!(exempt, "\n");
    let kept = exec(&["--", "sh", "-c", "echo $no_proxy"]).env("no_proxy", "internal.example").output().unwrap();
    assert_eq!(stdout(&kept), "internal.example\n");
}

#[test]
fn input_and_output_are_the_commands_own() {
    let mut child = exec(&["--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("one\ntwo\n", ""));
}

#[test]
fn it_ends_with_the_exit_code_of_the_command() {
    assert_eq!(shell("exit 0").status.code(), Some(0));
    assert_eq!(shell("exit 7").status.code(), Some(7));
    assert_eq!(shell("kill -KILL $$").status.code(), Some(137));
    let missing = exec(&["--", "no-such-command-anywhere"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    assert!(stderr(&missing).contains("`no-such-command-anywhere`: command not found"), "{missing:?}");
    assert_eq!(exec(&["--", "/etc/passwd"]).output().unwrap().status.code(), Some(126));
    assert_eq!(exec(&[]).output().unwrap().status.code(), Some(2));
}

#[test]
fn flags_of_the_command_are_the_commands() {
    let output = exec(&["--log-level", "error", "echo", "-n", "--config", "x"]).output().unwrap();
    assert_eq!(stdout(&output), "--config x");
    assert_eq!(exec(&["--no-such-flag", "echo"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn signals_are_handed_on_once() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::INT, "INT")] {
        // Bash and dash run a trap when the running `sleep` ends.
        let script = format!("trap 'echo {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = exec(&["--", "sh", "-c", &script]).spawn().unwrap();
        let mut output = ready(&mut child);
        send(&child, signal);
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{name}\n"));
        assert_eq!(child.wait().unwrap().code(), Some(5), "{name}");
    }
}

#[test]
fn a_signal_the_command_does_not_catch_ends_both() {
    let mut child = exec(&["--", "sh", "-c", "echo ready; exec sleep 60"]).spawn().unwrap();
    ready(&mut child);
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let holdoff = env!("CARGO_BIN_EXE_holdoff");
    let script = "trap '' HUP; exec \"$0\" exec -- grep SigIgn /proc/self/status";
    let output = Command::new("sh").args(["-c", script, holdoff]).stdin(Stdio::null()).output().unwrap();
    let text = stdout(&output);
    let mask = u64::from_str_radix(text.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    assert_eq!(mask & 1, 1, "{text}");
}

#[test]
fn it_works_beside_another_and_says_what_it_replaced() {
    let holdoff = env!("CARGO_BIN_EXE_holdoff");
    let output = exec(&["--", holdoff, "exec", "--", "sh", "-c", "echo $http_proxy"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("http://127.0.0.1:"));
    assert!(stderr(&output).contains("`http_proxy` was set"), "{output:?}");
}

/// A peer over TLS whom only its own authority vouches for, limited from the second request on; and what `exec` needs to
/// end its TLS and to trust it.
struct SecurePeer {
    origin: Origin,
    home: tempfile::TempDir,
    authority: Authority,
}

impl SecurePeer {
    async fn start() -> Self {
        let authority = Authority::new();
        let script = |seen: &Seen| if seen.number == 0 { ok("fine\n") } else { limited("60") };
        let origin = Origin::start_tls(authority.acceptor(&["localhost"]), script).await;
        let home = tempfile::tempdir().unwrap();
        let toml = format!(
            "[intercept]\nhosts = [\"localhost\"]\n[upstream]\nca_files = [{:?}]\nplatform_roots = false\n",
            authority.file()
        );
        std::fs::write(home.path().join("holdoff.toml"), toml).unwrap();
        Self { origin, home, authority }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.origin.address().port())
    }

    /// What a command prints that relies on nothing but the variables it is given.
    async fn run(&self, set: &[(&str, &std::path::Path)], command: &[&str]) -> Output {
        let config = self.home.path().join("holdoff.toml");
        let mut exec = exec(&["--config", config.to_str().unwrap(), "--"]);
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"] {
            exec.env_remove(name);
        }
        exec.args(command).env("HOME", self.home.path()).env("XDG_STATE_HOME", self.home.path().join("state"));
        exec.env("TMPDIR", self.home.path()).envs(set.iter().copied());
        tokio::task::spawn_blocking(move || exec.output().unwrap()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_python_and_node_see_a_429_of_https_by_the_variables_alone() {
    const PYTHON: &str = "import sys, urllib.request, urllib.error\n\
        def ask():\n\
        \x20   try:\n\
        \x20       answer = urllib.request.urlopen(sys.argv[1], timeout=20)\n\
        \x20   except urllib.error.HTTPError as error:\n\
        \x20       answer = error\n\
        \x20   return answer.status, answer.headers.get('Holdoff', 'theirs').split(';')[0]\n\
        print(ask(), ask())";
    const REQUESTS: &str = "import sys, requests\n\
        session = requests.Session()\n\
        answers = [session.get(sys.argv[1], timeout=20) for _ in range(3)]\n\
        print([(each.status_code, each.headers.get('Holdoff', 'theirs').split(';')[0]) for each in answers])";
    const NODE: &str = "const http = require('http'), tls = require('tls');\n\
        const proxy = new URL(process.env.https_proxy), at = new URL(process.argv[1]);\n\
        http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: at.host })\n\
        .on('connect', (answer, socket) => {\n\
          const inside = tls.connect({ socket, servername: at.hostname }, () =>\n\
            inside.write(`GET / HTTP/1.1\\r\\nHost: ${at.host}\\r\\nConnection: close\\r\\n\\r\\n`));\n\
          inside.on('data', (piece) => process.stdout.write(piece));\n\
        }).end();";
    for (command, expected) in [
        (vec!["python3", "-c", PYTHON], "(200, 'theirs') (429, 'theirs')"),
        (vec!["python3", "-c", REQUESTS], "[(200, 'theirs'), (429, 'theirs'), (429, 'short-circuit')]"),
        (vec!["node", "-e", NODE], "HTTP/1.1 200 OK"),
    ] {
        let peer = SecurePeer::start().await;
        let url = peer.url();
        let output = peer.run(&[], &[&command[..], &[&url]].concat()).await;
        assert!(stdout(&output).contains(expected), "{command:?}: {output:?}");
    }
    let peer = SecurePeer::start().await;
    let url = peer.url();
    let mut curl = vec!["curl", "-sS", "-w", "%{http_code} "];
    for _ in 0..3 {
        curl.extend(["-o", "/dev/null", &url]);
    }
    let output = peer.run(&[], &curl).await;
    assert_eq!(stdout(&output), "200 429 429 ", "{output:?}");
    assert_eq!(peer.origin.count(), 2);
    let left: Vec<_> = std::fs::read_dir(peer.home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the configuration and the state, found {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_caller_trusts_is_still_trusted_and_without_interception_nothing_is_set() {
    let peer = SecurePeer::start().await;
    // A host that is not named is a tunnel; whom curl trusts there is what the caller said.
    let other = Origin::start_tls(peer.authority.acceptor(&["127.0.0.1"]), |_| ok("fine\n")).await;
    let other = format!("https://{}/", other.address());
    let file = peer.authority.file();
    let output = peer.run(&[("CURL_CA_BUNDLE", &file)], &["curl", "-sS", &other, &peer.url()]).await;
    assert_eq!(stdout(&output), "fine\nfine\n", "{output:?}");
    let output = peer.run(&[], &["curl", "-sS", &other]).await;
    assert_eq!(output.status.code(), Some(60), "a stranger to the machine: {output:?}");
    let plain = exec(&["--", "sh", "-c", "echo ${SSL_CERT_FILE-unset}"]).env_remove("SSL_CERT_FILE").output().unwrap();
    assert_eq!(stdout(&plain), "unset\n");
}
