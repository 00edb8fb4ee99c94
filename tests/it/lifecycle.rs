//! How the program starts and ends.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::support::client::Client;
use crate::support::origin::{Origin, Reply, message, ok};
use crate::support::program::Program;
use crate::support::until;

fn config(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdoff.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (dir, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_says_where_it_listens_what_it_read_and_what_to_export() {
    let (_dir, file) = config("");
    let program = Program::start(&["--config", &file]);
    let (proxy, log) = (program.address("proxy"), program.log());
    assert!(log.contains(&file), "{log}");
    assert!(log.contains(&format!("export http_proxy=http://{proxy}")), "{log}");
    assert!(log.contains(&format!("export https_proxy=http://{proxy}")), "{log}");
    let mut admin = Client::connect(program.address("admin")).await;
    for path in ["/livez", "/readyz"] {
        admin.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(admin.answer("GET").await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_running_work_takes_no_new_and_exits_0() {
    let gate = Arc::new(Notify::new());
    let origin = Origin::start({
        let gate = Arc::clone(&gate);
        move |_| Reply::Gate(Arc::clone(&gate), message(200, "OK", &[], "in time"))
    })
    .await;
    let mut program = Program::start(&[]);
    let proxy = program.address("proxy");
    let mut idle = Client::connect(proxy).await;
    let mut busy = Client::connect(proxy).await;
    busy.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    until("the request at the origin", || origin.count() == 1).await;
    program.signal("TERM");
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    until("a closed door", || std::net::TcpStream::connect(proxy).is_err()).await;
    gate.notify_one();
    let answer = busy.answer("GET").await;
    assert_eq!((answer.status, answer.text()), (200, "in time"));
    assert!(answer.field("connection").eq_ignore_ascii_case("close"));
    assert_eq!(program.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_the_grace_is_cut_and_it_still_exits_0() {
    let origin = Origin::start(|_| Reply::Hang).await;
    let (_dir, file) = config("[shutdown]\ngrace = \"500ms\"\n");
    let mut program = Program::start(&["--config", &file]);
    let mut client = Client::connect(program.address("proxy")).await;
    client.send(format!("GET {}/ HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(), origin.address())).await;
    let mut tunnel = Client::connect(program.address("proxy")).await;
    tunnel.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address())).await;
    assert_eq!(tunnel.answer("CONNECT").await.status, 200);
    until("the request at the origin", || origin.count() == 1).await;
    let start = Instant::now();
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(client.try_answer("GET").await.is_none());
    assert_eq!(tunnel.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_delay_it_is_not_ready_and_still_serves() {
    let origin = Origin::start(|_| ok("served")).await;
    let (_dir, file) = config("[shutdown]\ndelay = \"2s\"\n");
    let mut program = Program::start(&["--config", &file]);
    let (proxy, admin) = (program.address("proxy"), program.address("admin"));
    program.signal("TERM");
    program.wait_for("the begin of the end", |log| log.contains("drain"));
    let mut operator = Client::connect(admin).await;
    operator.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(operator.answer("GET").await.status, 503);
    operator.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(operator.answer("GET").await.status, 200);
    assert_eq!(Client::connect(proxy).await.get(&origin.url()).await.text(), "served");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_holdoff"))
        .args(["run", "--listen", &address, "--admin", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("error:") && message.contains(&address), "{message}");
    assert_eq!(message.matches("in use").count(), 1, "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_knows_a_running_one_from_none() {
    let program = Program::start(&[]);
    let health = |admin: String| {
        Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["health", "--admin", &admin]).output().unwrap().status.code()
    };
    let admin = format!("http://{}", program.address("admin"));
    assert_eq!(tokio::task::spawn_blocking(move || health(admin)).await.unwrap(), Some(0));
    let (_held, none) = crate::support::refusing();
    let health = |admin: String| {
        Command::new(env!("CARGO_BIN_EXE_holdoff")).args(["health", "--admin", &admin]).output().unwrap().status.code()
    };
    assert_eq!(tokio::task::spawn_blocking(move || health(format!("http://{none}"))).await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_every_descriptor_leave_the_operators_theirs() {
    let program = Program::start_with_files(64, &[]);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(program.address("proxy")).await);
    }
    let mut admin = Client::connect(program.address("admin")).await;
    admin.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(admin.answer("GET").await.status, 200);
    assert!(program.log().contains("limit on open files"), "{}", program.log());
    drop(clients);
}
