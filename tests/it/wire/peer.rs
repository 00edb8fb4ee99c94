//! What the tests of this directory share: the ways in, and hosts that answer with whatever bytes a test names.

use std::net::SocketAddr;

use crate::support::client::{Answer, Client};
use crate::support::host::{Host, Line};
use crate::support::origin::{Origin, Reply, ok};
use crate::support::sidecar::Holdoff;
use crate::support::within;

/// One of the ports that requests come in by.
#[derive(Clone, Debug)]
pub struct Door {
    /// For messages.
    pub name: &'static str,
    address: SocketAddr,
    /// What stands before the path in a request target.
    base: String,
    /// What a good client puts into `Host`.
    pub host: String,
}

impl Door {
    /// A request target.
    pub fn target(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request head of HTTP/1.1: `fields` are whole lines.
    pub fn head(&self, method: &str, path: &str, fields: &str) -> String {
        format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.target(path), self.host)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection.
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        let mut client = self.client().await;
        client.send(self.head("GET", path, "")).await;
        client.answer("GET").await
    }
}

/// A sidecar before one host, with both ports.
pub struct Stage {
    /// Running as long as the stage is there.
    _holdoff: Holdoff,
    doors: [Door; 2],
}

impl Stage {
    /// Before `host`.
    pub async fn before(host: SocketAddr) -> Self {
        Self::with(host, "").await
    }

    /// As [`Stage::before`], with more of a configuration.
    pub async fn with(host: SocketAddr, toml: &str) -> Self {
        let reverse = format!("[[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"http://{host}\"\n");
        // Answers are read as they are: the hosts of these tests fail often, and no cooldown is to come of it.
        let holdoff = Holdoff::start(&format!("{toml}[defaults]\nmode = \"off\"\n{reverse}")).await;
        let (proxy, own) = (holdoff.proxy(), holdoff.reverse(0));
        let doors = [
            Door { name: "proxy", address: proxy, base: format!("http://{host}"), host: host.to_string() },
            Door { name: "reverse", address: own, base: String::new(), host: own.to_string() },
        ];
        Self { _holdoff: holdoff, doors }
    }

    /// The proxy port and the reverse port.
    pub fn doors(&self) -> &[Door; 2] {
        &self.doors
    }

    /// The proxy port.
    pub fn proxy(&self) -> &Door {
        &self.doors[0]
    }
}

/// A sidecar before an origin that answers with the path, to see what of a client's bytes becomes a request.
pub struct Echo {
    pub origin: Origin,
    pub stage: Stage,
}

impl Echo {
    pub async fn start() -> Self {
        Self::with("").await
    }

    pub async fn with(toml: &str) -> Self {
        let origin = Origin::start(|seen| ok(&format!("served {}", seen.target()))).await;
        let stage = Stage::with(origin.address(), toml).await;
        Self { origin, stage }
    }

    /// What a good client gets.
    pub async fn serves_the_next(&self, door: &Door) {
        let answer = door.get("/next").await;
        assert_eq!((answer.status, answer.text()), (200, "served /next"), "{}", door.name);
    }

    /// Sends `bytes` by `door`: they have to be answered with `status`, the connection has to end behind the answer, no
    /// request may reach the origin, and others go on being served.
    pub async fn refuses(&self, door: &Door, bytes: impl AsRef<[u8]>, status: u16) {
        let bytes = bytes.as_ref();
        let shown = format!("{} {:?}", door.name, String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
        let before = self.origin.count();
        let mut client = door.client().await;
        client.send(bytes).await;
        let answer = client.try_answer("GET").await.unwrap_or_else(|| panic!("expected an answer to {shown}"));
        assert_eq!(answer.status, status, "{shown}\n{}", answer.head);
        assert_eq!(answer.field("connection"), "close", "{shown}\n{}", answer.head);
        assert!(answer.complete, "{shown}");
        assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "one answer to {shown}");
        assert_eq!(self.origin.count(), before, "nothing of {shown} may pass as a request");
        self.serves_the_next(door).await;
    }
}

/// A sidecar before an origin that answers `/case` with whatever bytes a test names, and everything else with the path.
pub struct Wrong {
    pub origin: Origin,
    pub stage: Stage,
}

impl Wrong {
    /// `closes`: the origin closes behind the bytes.
    pub async fn start(case: impl Into<Vec<u8>>, closes: bool) -> Self {
        let case = case.into();
        let origin = Origin::start(move |seen| match (seen.target(), closes) {
            ("/case", true) => Reply::Close(case.clone()),
            ("/case", false) => Reply::Bytes(case.clone()),
            (other, _) => ok(&format!("served {other}")),
        })
        .await;
        let stage = Stage::before(origin.address()).await;
        Self { origin, stage }
    }

    /// Asks for `/case` by both doors and gives the answers; behind each, on the same connection if it lives on and on
    /// another one, the next request has to get its own answer.
    pub async fn answers(&self, method: &str) -> Vec<Answer> {
        let mut answers = Vec::new();
        for door in self.stage.doors() {
            let mut client = door.client().await;
            client.send(door.head(method, "/case", "")).await;
            let answer = client.answer(method).await;
            let ends = !answer.complete || answer.fields("connection") == ["close"];
            let framed = answer.fields("content-length").len() + answer.fields("transfer-encoding").len() > 0;
            let bodiless = method == "HEAD" || answer.status == 204 || answer.status == 304;
            if ends || !(framed || bodiless) {
                assert_eq!(String::from_utf8_lossy(&client.rest().await), "", "{}", door.name);
            } else {
                client.send(door.head("GET", "/same", "")).await;
                assert_eq!(client.answer("GET").await.text(), "served /same", "{}", door.name);
            }
            let next = door.get("/next").await;
            assert_eq!((next.status, next.text()), (200, "served /next"), "{}", door.name);
            answers.push(answer);
        }
        answers
    }
}

/// The answer of an upstream is refused: the client gets a 502 of ours, and nothing of what the upstream said.
pub async fn refused_from_upstream(case: &str) {
    for answer in Wrong::start(case, true).await.answers("GET").await {
        assert_eq!(answer.status, 502, "{case:?}\n{}", answer.head);
        assert!(answer.field("holdoff").contains("kind=upstream_protocol"), "{case:?}\n{}", answer.head);
        assert!(answer.complete && !answer.text().contains("evil"), "{case:?}\n{}", answer.text());
    }
}

/// Reads up to the end of a connection at the host, whichever way it comes; what came before.
pub async fn rest_of(mut line: Line) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut piece = [0; 4096];
    within("the end of the connection to the host", async {
        while let Ok(read) = line.stream.read(&mut piece).await {
            if read == 0 {
                break;
            }
            line.buffer.extend_from_slice(&piece[..read]);
        }
    })
    .await;
    line.buffer
}

/// A host of the test's own, and a sidecar before it.
pub async fn host() -> (Host, Stage) {
    let host = Host::start().await;
    let stage = Stage::before(host.address).await;
    (host, stage)
}
