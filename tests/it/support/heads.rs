//! Head in, head out: bytes of a client and of an upstream through a real sidecar, and both ends read by [`strict`]. What
//! an upstream gets must be what a strict reader finds in the client's bytes, and the other way round. Shared with the fuzz
//! targets, where the bytes are mutated.
//!
//! An input is what the client sends, `|||`, and what the upstream answers to its first request; the first letter of the
//! two says how:
//!
//! ```text
//! PGET http://upstream.test/x HTTP/1.1\r\nHost: upstream.test\r\n\r\n|||lHTTP/1.1 200 OK\r\n\r\nhello
//! ```
//!
//! `P`: by the proxy port, `R`: by a `[[reverse]]` port. `e`: the upstream answers at once, `l`: when it has read the whole
//! request. It closes behind that. `upstream.test` stands for its address. Without `|||` all is answered well.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdoff::config;
use holdoff::sidecar::{Running, Sidecar};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::strict::{self, Asked, Field, First, Framing, Message, Stream, Tolerance};

const NAME: &str = "edge";
const AT_CLIENT: Tolerance = Tolerance { leading_lines: true, line_feed: false };
const AT_UPSTREAM: Tolerance = Tolerance { leading_lines: true, line_feed: true };
const NONE: Tolerance = Tolerance { leading_lines: false, line_feed: false };

/// A sidecar and an upstream, on one thread.
pub struct Arena {
    runtime: Runtime,
    running: Running,
    upstream: SocketAddr,
    stale: std::net::TcpListener,
    current: Arc<Mutex<Arc<Run>>>,
    /// How long an exchange may stand still before the client ends it.
    patience: Duration,
}

/// What an input led to, so that a test can tell that something was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that came to the upstream.
    pub forwarded: usize,
    /// Answers of the upstream that came to the client.
    pub answered: usize,
    /// Answers that the sidecar made itself.
    pub refused: usize,
}

/// The upstream's side of one input.
#[derive(Default)]
struct Run {
    answer: Option<Answer>,
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Default)]
struct State {
    /// What came on each connection.
    connections: Vec<Vec<u8>>,
    open: usize,
}

struct Answer {
    bytes: Vec<u8>,
    early: bool,
}

impl Arena {
    pub fn new(patience: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let current = Arc::new(Mutex::new(Arc::new(Run::default())));
        let (running, upstream, stale) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let upstream = listener.local_addr().unwrap();
            let listener = listener.into_std().unwrap();
            let stale = listener.try_clone().unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            tokio::spawn(accept(listener, Arc::clone(&current)));
            let text = format!(
                "[listen]\naddress = [\"127.0.0.1:0\"]\nname = \"{NAME}\"\n\
                 [admin]\naddress = [\"127.0.0.1:0\"]\n\
                 [[reverse]]\naddress = [\"127.0.0.1:0\"]\nupstream = \"http://{upstream}\"\n\
                 [egress]\nprivate = \"allow\"\nallow = [\"{upstream}\"]\n\
                 [upstream]\nmax_idle_per_host = 0\n\
                 [defaults]\nmode = \"off\"\n"
            );
            let loaded = config::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
            (Sidecar::start(loaded.settings).await.unwrap(), upstream, stale)
        });
        Self { runtime, running, upstream, stale, current, patience }
    }

    /// Plays an input. Panics when an end reads something else than was sent at the other.
    pub fn play(&self, input: &[u8]) -> Seen {
        let input = self.addressed(input);
        let (client, answer) = match input.windows(3).position(|part| part == b"|||") {
            Some(at) => (&input[..at], Some(&input[at + 3..])),
            None => (&input[..], None),
        };
        let (by_reverse, sent) = match client.split_first() {
            Some((b'R', sent)) => (true, sent),
            Some((b'P', sent)) => (false, sent),
            _ => return Seen::default(),
        };
        let answer = answer.and_then(|answer| {
            let (how, bytes) = answer.split_first()?;
            Some(Answer { bytes: bytes.to_vec(), early: *how == b'e' })
        });
        let run = Arc::new(Run { answer, ..Run::default() });
        // Nobody waits any more for what an earlier input has dialled.
        while self.stale.accept().is_ok() {}
        *self.current.lock().unwrap() = Arc::clone(&run);
        let to = if by_reverse { self.running.reverse_addresses()[0] } else { self.running.proxy_addresses()[0] };
        let (got, closed) = self.runtime.block_on(async {
            let ended = converse(to, sent, self.patience).await;
            let _ = tokio::time::timeout(self.patience, run.quiet()).await;
            ended
        });
        let connections = run.state.lock().unwrap().connections.clone();
        let judge = Judge { by_reverse, upstream: self.upstream.to_string(), answer: run.answer.as_ref() };
        judge.judge(sent, &connections, &got, closed)
    }

    fn addressed(&self, input: &[u8]) -> Vec<u8> {
        const TOKEN: &[u8] = b"upstream.test";
        let (mut out, mut rest) = (Vec::new(), input);
        while let Some(at) = rest.windows(TOKEN.len()).position(|part| part == TOKEN) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(self.upstream.to_string().as_bytes());
            rest = &rest[at + TOKEN.len()..];
        }
        out.extend_from_slice(rest);
        out
    }
}

/// Sends, reads what comes back, and ends the connection when all that was asked is answered. Says whether the other side
/// ended it.
async fn converse(to: SocketAddr, sent: &[u8], patience: Duration) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut got = Vec::new();
    let asked = asked(&strict::requests(sent, AT_CLIENT));
    if tokio::time::timeout(patience, stream.write_all(sent)).await.is_err() {
        return (got, false);
    }
    let mut half = false;
    loop {
        if !half
            && strict::responses(&got, &asked, false, NONE).finals().iter().filter(|m| m.complete).count()
                >= asked.len()
        {
            // Closing is what is left to say.
            half = true;
            let _ = stream.shutdown().await;
        }
        match tokio::time::timeout(patience, stream.read_buf(&mut got)).await {
            Ok(Ok(0)) => return (got, true),
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return (got, false),
            Err(_) if half => return (got, false),
            Err(_) => {
                half = true;
                let _ = stream.shutdown().await;
            }
        }
    }
}

fn asked(stream: &Stream) -> Vec<Asked> {
    stream
        .messages
        .iter()
        .filter(|message| message.complete)
        .map(|message| Asked { method: method(message).to_owned(), minor: message.minor })
        .collect()
}

async fn accept(listener: TcpListener, current: Arc<Mutex<Arc<Run>>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let run = Arc::clone(&current.lock().unwrap());
        tokio::spawn(async move { run.serve(stream).await });
    }
}

impl Run {
    async fn quiet(&self) {
        loop {
            let moved = self.moved.notified();
            if self.state.lock().unwrap().open == 0 {
                return;
            }
            moved.await;
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let at = {
            let mut state = self.state.lock().unwrap();
            state.connections.push(Vec::new());
            state.open += 1;
            state.connections.len() - 1
        };
        let _ = tokio::time::timeout(Duration::from_secs(10), self.talk(stream, at)).await;
        self.state.lock().unwrap().open -= 1;
        self.moved.notify_waiters();
    }

    async fn talk(&self, mut stream: TcpStream, at: usize) -> std::io::Result<()> {
        let (mut bytes, mut answered, mut continued) = (Vec::new(), false, false);
        while stream.read_buf(&mut bytes).await? > 0 {
            self.state.lock().unwrap().connections[at].clone_from(&bytes);
            let read = strict::requests(&bytes, NONE);
            let Some(request) = read.messages.first() else { continue };
            match self.answer.as_ref().filter(|_| at == 0) {
                _ if answered => {}
                Some(answer) if answer.early || request.complete => {
                    answered = true;
                    stream.write_all(&answer.bytes).await?;
                    stream.shutdown().await?;
                }
                None if request.complete => {
                    answered = true;
                    let body = if method(request) == "HEAD" { "" } else { "ok" };
                    let answer = format!("HTTP/1.1 200 OK\r\nX-Id: {at}\r\nContent-Length: 2\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await?;
                }
                None if !continued && request.has("expect") => {
                    continued = true;
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn method(message: &Message) -> &str {
    match &message.first {
        First::Request { method, .. } => method,
        First::Response { .. } => "",
    }
}

fn target(message: &Message) -> &str {
    match &message.first {
        First::Request { target, .. } => target,
        First::Response { .. } => "",
    }
}

struct Judge<'a> {
    by_reverse: bool,
    upstream: String,
    answer: Option<&'a Answer>,
}

impl Judge<'_> {
    fn judge(&self, sent: &[u8], connections: &[Vec<u8>], got: &[u8], closed: bool) -> Seen {
        let show = || {
            let mut text = format!("\n--- client\n{}", sent.escape_ascii());
            for bytes in connections {
                text.push_str(&format!("\n--- upstream\n{}", bytes.escape_ascii()));
            }
            format!("{text}\n--- client got\n{}", got.escape_ascii())
        };
        let client = strict::requests(sent, AT_CLIENT);
        // What each request that came is of the client's.
        let (mut whose, mut from) = (Vec::new(), 0);
        for bytes in connections {
            let came = strict::requests(self.before_upgrade(sent, bytes), NONE);
            let tunnel = client.messages.last().filter(|last| last.framing == Framing::Tunnel);
            if tunnel.is_some() && client.rest.starts_with(bytes) {
                from = client.messages.len();
                whose.push(from - 1);
                continue;
            }
            assert_eq!(came.bad, None, "the upstream gets what is no request{}", show());
            assert!(came.messages.len() < 2, "the upstream gets two requests in one{}", show());
            let Some(request) = came.messages.first() else { continue };
            assert!(came.rest.is_empty(), "the upstream gets more than a request{}", show());
            let mut why = "there is no further request";
            let found = client.messages.iter().enumerate().skip(from).find(|(_, message)| {
                match self.is_sent(message, request) {
                    Ok(()) => true,
                    Err(difference) => {
                        why = difference;
                        false
                    }
                }
            });
            let Some((at, _)) = found else {
                panic!("the upstream gets what the client has not sent: {why} (read: {:?}){}", client.bad, show());
            };
            from = at + 1;
            whose.push(at);
        }
        let mut seen = Seen { forwarded: whose.len(), ..Seen::default() };

        let mut asked = asked(&client);
        // A request that broke off may be answered too, and one that is none.
        if let Some(last) = client.messages.last().filter(|last| !last.complete) {
            asked.push(Asked { method: method(last).to_owned(), minor: last.minor });
        }
        let answers = strict::responses(got, &asked, closed, NONE);
        assert_eq!(answers.bad, None, "the client gets what is no answer{}", show());
        let finals = answers.finals();
        assert!(finals.len() <= asked.len() + 1, "the client gets more answers than it asked for{}", show());
        for (at, answer) in finals.iter().enumerate() {
            let ours = answer.list("proxy-status").iter().any(|member| member.starts_with(NAME));
            let Some(order) = whose.iter().position(|&request| request == at) else {
                // Nobody was asked: an answer of the proxy's own.
                let about_us =
                    ["OPTIONS", "TRACE", "CONNECT"].contains(&asked.get(at).map_or("", |a| a.method.as_str()));
                assert!(ours || about_us, "an answer from nobody{}", show());
                seen.refused += 1;
                continue;
            };
            if ours {
                seen.refused += 1;
                continue;
            }
            seen.answered += 1;
            if answer.framing == Framing::Tunnel && answer.status() == 200 {
                continue;
            }
            match self.answer.filter(|_| order == 0) {
                Some(given) => {
                    let given = strict::responses(&given.bytes, &asked[at..=at], true, AT_UPSTREAM);
                    if let Err(why) = is_given(&given, answer, &answers) {
                        panic!("the client gets what the upstream has not given: {why} ({:?}){}", given.bad, show());
                    }
                }
                None => {
                    let id = answer.values("x-id").next().map(<[u8]>::to_vec);
                    assert_eq!(id, Some(order.to_string().into_bytes()), "an answer of another request{}", show());
                }
            }
        }
        seen
    }

    /// What of a connection's bytes is HTTP: behind the head of a request that was answered with 101 everything is the
    /// client's, byte for byte.
    fn before_upgrade<'b>(&self, sent: &[u8], bytes: &'b [u8]) -> &'b [u8] {
        let asked = [Asked { method: String::new(), minor: 1 }];
        let switched = self.answer.is_some_and(|answer| {
            let given = strict::responses(&answer.bytes, &asked, true, AT_UPSTREAM);
            given.finals().first().is_some_and(|first| first.status() == 101)
        });
        let head = bytes.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4);
        match head {
            Some(end) if switched && sent.ends_with(&bytes[end..]) => &bytes[..end],
            _ => bytes,
        }
    }

    /// Whether `came` is what the client's `sent` has to become.
    fn is_sent(&self, sent: &Message, came: &Message) -> Result<(), &'static str> {
        is(method(sent) == method(came), "the method")?;
        is(method(sent) != "CONNECT", "a CONNECT is forwarded")?;
        is(came.minor == 1, "the version")?;
        let (authority, path) = self.destination(sent);
        is(path.iter().any(|path| path == target(came)), "the target")?;
        is(came.values("host").eq([authority.as_bytes()]), "`Host`")?;

        let framed_alike = match (sent.framing, came.framing) {
            (Framing::None | Framing::Length(0), Framing::None | Framing::Length(0)) => true,
            (sent, came) => sent == came,
        };
        is(framed_alike, "the framing")?;
        is(sent.body.starts_with(&came.body), "the body")?;
        is(!came.complete || (sent.complete && sent.body == came.body), "a body that broke off is whole")?;
        trailers_pass(sent, came)?;

        let upgrade = sent.list("connection").contains(&"upgrade".to_owned()) && sent.has("upgrade");
        is(!came.has("upgrade") || (upgrade && sent.values("upgrade").eq(came.values("upgrade"))), "`Upgrade`")?;
        is(
            !came.has("te") || (came.list("te") == ["trailers"] && sent.list("te").contains(&"trailers".into())),
            "`TE`",
        )?;
        let options = came.list("connection");
        is(options.iter().all(|option| ["te", "upgrade"].contains(&option.as_str())), "`Connection`")?;
        is(!came.has("te") || options.contains(&"te".into()), "`TE` without `Connection: TE`")?;
        for gone in ["proxy-authorization", "proxy-authenticate", "proxy-connection", "keep-alive", "holdoff"] {
            is(!came.has(gone), "a field that is for us")?;
        }
        let mut special = vec!["host"];
        if ["OPTIONS", "TRACE"].contains(&method(sent)) {
            special.push("max-forwards");
        }
        fields_pass(sent, came, &special)
    }

    /// `Host` and the possible targets of a request as it goes out.
    fn destination(&self, sent: &Message) -> (String, Vec<String>) {
        let target = target(sent);
        let (authority, path) = match target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) {
            true => {
                let rest = &target[7..];
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            false => (None, target),
        };
        let whole = if path.starts_with('/') || path == "*" { path.to_owned() } else { format!("/{path}") };
        let paths = match (path, method(sent)) {
            ("", "OPTIONS") if self.by_reverse => vec!["*".to_owned(), whole],
            ("", "OPTIONS") => vec!["*".to_owned()],
            _ => vec![whole],
        };
        match authority {
            Some(authority) if !self.by_reverse => (authority.to_owned(), paths),
            // The proxy port takes nothing but whole URLs.
            None if !self.by_reverse => (String::new(), Vec::new()),
            _ => (self.upstream.clone(), paths),
        }
    }
}

/// Whether `got` is the answer in `given`, of a reader that takes what may be taken.
fn is_given(given: &Stream, got: &Message, answers: &Stream) -> Result<(), &'static str> {
    let finals = given.finals();
    let Some(sent) = finals.first() else { return Err("there is no answer") };
    is(sent.status() == got.status(), "the status")?;
    let whole = sent.complete;
    is(sent.body.starts_with(&got.body), "the body")?;
    let is_whole = got.complete && got.body.len() == sent.body.len();
    // To a client of HTTP/1.0 the end of the connection is all that can be said.
    is(!got.complete || got.framing == Framing::Close || (is_whole && whole), "a body that broke off is whole")?;
    if got.framing == Framing::Tunnel {
        is(given.rest.starts_with(&answers.rest), "what follows a 101")?;
    }
    is(!got.has("upgrade") || sent.values("upgrade").eq(got.values("upgrade")), "`Upgrade`")?;
    let options = got.list("connection");
    let own = ["close", "keep-alive", "upgrade"];
    is(options.iter().all(|option| own.contains(&option.as_str())), "`Connection`")?;
    for gone in ["proxy-authenticate", "proxy-connection", "keep-alive", "holdoff"] {
        is(!got.has(gone), "a field that is for us")?;
    }
    if let (Some(length), Framing::Length(_)) = (got.values("content-length").next(), sent.framing) {
        is(sent.values("content-length").eq([length]), "the length")?;
    }
    trailers_pass(sent, got)?;
    let mut special = vec!["content-length"];
    if !sent.has("date") || sent.list("connection").contains(&"date".to_owned()) {
        special.push("date");
    }
    // Without a body there are no trailers to be announced.
    if matches!(got.status(), 204 | 304) {
        special.push("trailer");
    }
    fields_pass(sent, got, &special)
}

fn is(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// What a `Connection` field is about whether it names it or not, and what is ours.
const OWN: [&str; 11] = [
    "connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "holdoff",
    "proxy-status",
    "via",
];

/// Whether every field that is not the connection's has passed with its values in their order, and none was added.
fn fields_pass(sent: &Message, came: &Message, special: &[&str]) -> Result<(), &'static str> {
    let named = sent.list("connection");
    let mut expected = sent.values("via").map(<[u8]>::to_vec).collect::<Vec<_>>();
    if named.contains(&"via".to_owned()) {
        expected.clear();
    }
    expected.push(format!("1.{} {NAME}", sent.minor).into_bytes());
    is(came.values("via").eq([expected.join(&b", "[..]).as_slice()]), "`Via`")?;
    let is_usual = |name: &str| ["close", "keep-alive"].contains(&name);
    let passes = |field: &&Field| {
        let name = field.name.as_str();
        !OWN.contains(&name) && !special.contains(&name) && (is_usual(name) || !named.iter().any(|n| n == name))
    };
    for field in sent.fields.iter().filter(passes) {
        is(sent.values(&field.name).eq(came.values(&field.name)), "a field is lost or changed")?;
    }
    let known = |field: &Field| {
        let name = field.name.as_str();
        OWN.contains(&name) || special.contains(&name) || name == "content-length" || passes(&field) && sent.has(name)
    };
    is(came.fields.iter().all(known), "a field is added, or one passes that `Connection` names")
}

/// Whether no trailer has passed that may not, and none was added.
fn trailers_pass(sent: &Message, came: &Message) -> Result<(), &'static str> {
    let named = sent.list("connection");
    for trailer in &came.trailers {
        let name = trailer.name.as_str();
        is(sent.trailers.contains(trailer), "a trailer is added")?;
        is(!named.iter().any(|n| n == name), "a trailer passes that `Connection` names")?;
        let framing = ["content-length", "host", "trailer"].contains(&name);
        is(!OWN.contains(&name) && !framing, "a trailer passes that is for the connection")?;
    }
    Ok(())
}
