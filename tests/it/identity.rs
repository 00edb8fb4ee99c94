//! TLS towards hosts that know who we are and of whom we know who they are: mutual TLS, expected names, files that change,
//! and http that is spoken as https.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;

use crate::support::client::{Answer, Client};
use crate::support::origin::{Origin, limited, ok};
use crate::support::program::Program;
use crate::support::sidecar::Holdoff;
use crate::support::tls::Authority;
use crate::support::within;

/// A client certificate in files.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn of(authority: &Authority) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write(&authority.certificate(&["URI:spiffe://mesh/holdoff"]));
        files
    }

    fn write(&self, (certificate, key): &(String, String)) {
        fs::write(self.certificate(), certificate).unwrap();
        fs::write(self.key(), key).unwrap();
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("node.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("node.key")
    }

    fn toml(&self) -> String {
        format!("client_cert_file = {:?}\nclient_key_file = {:?}\n", self.certificate(), self.key())
    }
}

async fn start(upstream: &str, ca: &Path, tls: &str) -> Holdoff {
    Holdoff::start(&format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{upstream}\"\n\
         [upstream]\nplatform_roots = false\nca_files = [{ca:?}]\n\
         [[host]]\nmatch = [\"*\"]\n[host.tls]\n{tls}"
    ))
    .await
}

async fn ask(holdoff: &Holdoff) -> Answer {
    let mut client = Client::connect(holdoff.reverse(0)).await;
    client.send("GET /secret HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer("GET").await
}

fn named(origin: &Origin) -> String {
    format!("https://localhost:{}", origin.address().port())
}

#[tokio::test]
async fn a_host_that_asks_who_we_are_is_shown_the_certificate_of_its_policy() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(servers.mutual(&["DNS:localhost"], Some(&clients)), |_| ok("known")).await;
    let files = Files::of(&clients);
    let holdoff = start(&named(&origin), &servers.file(), &files.toml()).await;
    assert_eq!(ask(&holdoff).await.text(), "known");
    let anonymous = start(&named(&origin), &servers.file(), "").await;
    let refused = ask(&anonymous).await;
    assert_eq!(refused.status, 502, "{}", refused.head);
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_certificate_is_read_again_when_its_files_change_and_a_bad_one_changes_nothing() {
    let (servers, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let origin = Origin::start_tls(servers.mutual(&["DNS:localhost"], Some(&new)), |_| {
        crate::support::origin::answer(200, "OK", &[("Connection", "close")], "known")
    })
    .await;
    let files = Files::of(&old);
    let holdoff = start(&named(&origin), &servers.file(), &files.toml()).await;
    assert_eq!(ask(&holdoff).await.status, 502, "a certificate of another authority");
    files.write(&new.certificate(&["DNS:node"]));
    within("the new certificate", async {
        while ask(&holdoff).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let count = origin.count();
    // Half of a pair: the certificate that works stays.
    fs::write(files.certificate(), old.certificate(&["DNS:node"]).0).unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_millis(2500);
    while tokio::time::Instant::now() < until {
        assert_eq!(ask(&holdoff).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(origin.count() > count);
}

#[tokio::test]
async fn authorities_are_read_again_when_their_file_changes() {
    let (before, after) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(after.acceptor(&["localhost"]), |_| ok("good")).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::copy(before.file(), &ca).unwrap();
    let holdoff = start(&named(&origin), &ca, "").await;
    let refused = ask(&holdoff).await;
    assert_eq!((refused.status, refused.json()["kind"].as_str()), (502, Some("tls_certificate")));
    fs::copy(after.file(), &ca).unwrap();
    within("the new authority", async {
        while ask(&holdoff).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_expected_name_takes_the_place_of_the_hosts_own() {
    let authority = Authority::new();
    for (expected, certificate, good) in [
        ("URI:spiffe://mesh/{host}", &["URI:spiffe://mesh/localhost"][..], true),
        ("URI:spiffe://mesh/{host.1}", &["DNS:other", "URI:spiffe://mesh/localhost"], true),
        ("URI:spiffe://mesh/users", &["URI:spiffe://mesh/users"], true),
        ("URI:spiffe://mesh/users", &["URI:spiffe://mesh/users2"], false),
        ("URI:spiffe://mesh/users", &["URI:spiffe://mesh/user"], false),
        ("URI:spiffe://mesh/users", &["URI:spiffe://MESH/users"], false),
        ("URI:spiffe://mesh/users", &["DNS:localhost"], false),
        ("DNS:backend.mesh.example", &["DNS:backend.mesh.example"], true),
        ("DNS:backend.mesh.example", &["DNS:*.mesh.example"], true),
        ("DNS:backend.mesh.example", &["DNS:localhost"], false),
        ("DNS:{host}", &["DNS:localhost"], true),
        ("URI:spiffe://mesh/{host.2}", &["URI:spiffe://mesh/"], false),
    ] {
        let origin = Origin::start_tls(authority.mutual(certificate, None), |_| ok("delivered")).await;
        let tls = format!("expected_san = [\"{expected}\"]\n");
        let holdoff = start(&named(&origin), &authority.file(), &tls).await;
        let answer = ask(&holdoff).await;
        if good {
            assert_eq!(answer.text(), "delivered", "{expected} {certificate:?}");
            continue;
        }
        assert_eq!((answer.status, answer.json()["kind"].as_str()), (502, Some("identity")), "{expected}");
        assert!(!answer.text().contains("delivered"), "nothing of the response may be delivered");
        assert_eq!(origin.count(), 0, "no request may go to somebody else");
        let port = origin.address().port();
        let sample = format!("holdoff_upstream_errors_total{{host=\"localhost:{port}\",kind=\"identity\"}}");
        assert_eq!(holdoff.metric(&sample).await, 1.0);
    }
    // The chain is still verified.
    let stranger = Authority::new();
    let certificate = stranger.mutual(&["URI:spiffe://mesh/users"], None);
    let origin = Origin::start_tls(certificate, |_| ok("delivered")).await;
    let holdoff = start(&named(&origin), &authority.file(), "expected_san = [\"URI:spiffe://mesh/users\"]\n").await;
    assert_eq!(ask(&holdoff).await.json()["kind"], "tls_certificate");
}

#[tokio::test]
async fn somebody_else_is_written_into_the_log() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.mutual(&["URI:spiffe://mesh/mallory"], None), |_| ok("delivered")).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdoff.toml");
    let text = format!(
        "[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"{}\"\n\
         [upstream]\nca_files = [{:?}]\n[[host]]\nmatch = [\"localhost\"]\n\
         [host.tls]\nexpected_san = [\"URI:spiffe://mesh/users\"]\n",
        named(&origin),
        authority.file(),
    );
    fs::write(&file, text).unwrap();
    let mut program = Program::start(&["--config", file.to_str().unwrap()]);
    let mut client = Client::connect(program.address("reverse")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 502);
    program.wait_for("an audit event", |log| log.contains("target=audit"));
    let log = program.log();
    for word in ["target=audit", "spiffe://mesh/users", "spiffe://mesh/mallory", "localhost"] {
        assert!(log.contains(word), "expected {word} in {log}");
    }
}

#[tokio::test]
async fn http_is_spoken_as_https_where_the_policy_says_so() {
    let authority = Authority::new();
    let address: SocketAddr = "127.0.7.43:443".parse().unwrap();
    let listener = TcpListener::bind(address).await.expect("a port below 1024 for a peer that speaks https");
    let origin = Origin::serve_tls(listener, authority.acceptor(&["127.0.7.43"]), |seen| {
        if seen.target() == "/limited" { limited("30") } else { ok(seen.field("host").unwrap()) }
    });
    let holdoff = Holdoff::start(&format!(
        "[upstream]\nca_files = [{:?}]\n[[host]]\nmatch = [\"127.0.7.43\"]\n[host.tls]\nupgrade = true\n",
        authority.file()
    ))
    .await;
    assert_eq!(holdoff.get("http://127.0.7.43/a?b").await.text(), "127.0.7.43");
    assert_eq!(holdoff.get("http://127.0.7.43:80/a?b").await.text(), "127.0.7.43");
    assert_eq!(origin.last().target(), "/a?b");
    assert_eq!(holdoff.get("http://127.0.7.43/limited").await.status, 429);
    let key = holdoff.key("https://127.0.7.43").await;
    assert_eq!(key["state"], "cooling", "the key is the one of https");
    let short = holdoff.get("http://127.0.7.43/").await;
    assert!(short.field("holdoff").contains("key=\"https://127.0.7.43\"") || short.field("holdoff").contains(":443"));
    assert_eq!(origin.count(), 3);
    // Another port is another host.
    let plain = Origin::start(|_| ok("plain")).await;
    assert_eq!(holdoff.get(&plain.url()).await.text(), "plain");
}

#[tokio::test]
async fn a_host_whose_certificate_is_not_verified_is_a_warning_at_the_start() {
    let toml = "[[host]]\nmatch = [\"peer.example\"]\n[host.tls]\ninsecure = true\n";
    let mut program = Program::start_configured(toml, &[]);
    program.wait_for("a warning", |log| {
        log.lines()
            .any(|line| line.contains("level=warn") && line.contains("insecure") && line.contains("peer.example"))
    });
}

#[tokio::test]
async fn the_lowest_version_is_kept_to() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.only_tls12(&["localhost"]), |_| ok("old")).await;
    let holdoff = start(&named(&origin), &authority.file(), "").await;
    assert_eq!(ask(&holdoff).await.text(), "old");
    let strict = start(&named(&origin), &authority.file(), "min_version = \"1.3\"\n").await;
    assert_eq!(ask(&strict).await.json()["kind"], "tls_protocol");
    assert_eq!(origin.count(), 1);
}
