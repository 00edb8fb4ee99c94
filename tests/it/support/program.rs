//! The program itself, as an operator starts it.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// A running `holdoff run`. Killed when dropped.
pub struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it on free ports with more arguments, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_holdoff")), arguments)
    }

    /// Like [`Program::start`], with at most so many open files.
    pub fn start_with_files(most: u32, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh", &most.to_string()]);
        shell.arg(env!("CARGO_BIN_EXE_holdoff"));
        Self::spawn(shell, arguments)
    }

    /// Like [`Program::start`], with a configuration. The command is given by `within`: words that run what follows them.
    pub fn start_configured(toml: &str, within: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holdoff.toml");
        std::fs::write(&file, toml).unwrap();
        let program = env!("CARGO_BIN_EXE_holdoff");
        let mut command = Command::new(within.first().unwrap_or(&program));
        command.args(within.iter().skip(1));
        if !within.is_empty() {
            command.arg(program);
        }
        Self::spawn(command, &["--config", file.to_str().unwrap()])
    }

    fn spawn(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .env("HOLDOFF_LOG_FORMAT", "logfmt")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut program = Self { child, log };
        program.wait_for("the line that says it is ready", |log| {
            ["msg=ready", "message=ready", " ready ", "\"ready\""].iter().any(|ready| log.contains(ready))
        });
        program
    }

    /// The address that the log calls `name` (`proxy`, `admin`).
    pub fn address(&self, name: &str) -> SocketAddr {
        let log = self.log();
        let marks = [format!(" {name}="), format!(",\"{name}\":")];
        let value =
            marks.iter().find_map(|mark| log.split(mark).nth(1)).unwrap_or_else(|| panic!("no `{name}` in\n{log}"));
        value.split([' ', ',', '\n']).next().unwrap().trim_matches('"').parse().unwrap()
    }

    /// The bytes of memory it uses now (resident set).
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log says so.
    pub fn wait_for(&mut self, what: &str, check: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !check(&self.log()) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("expected {what}, found the end ({status}) after\n{}", self.log());
            }
            assert!(start.elapsed() < DEADLINE, "expected {what} in\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "expected the end, found it running after\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command that went well printed.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command that ended with `code` said.
pub fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "messages go to stderr");
    String::from_utf8(output.stderr.clone()).unwrap()
}
