//! Random schedules of a misbehaving peer, beside an oracle that says what each request may end with.
//!
//! A schedule is a peer, a few clients and a plan for every request: how it is sent, how the peer answers, what the peer
//! does to the connection afterwards. Each response carries its request's number in a field and in every byte of its body.
//! All plans follow from the schedule's seed; how the tasks interleave does not.
//!
//! What a peer sends unasked while the next request is on its way cannot be told from that request's response, by nobody.
//! So bytes behind a response come either in one piece with its end, or while no request is under way: `World::quiet` is
//! held by every client during its request, and taken whole by a peer that disturbs an idle connection. Only closing may
//! fall together with a request ([`After::Silent`]); such a request is an error of ours if it never arrived.
//!
//! `HOLDOFF_POOL_SCHEDULES=100000` runs more, `HOLDOFF_POOL_SEED=7 HOLDOFF_POOL_SCHEDULES=1` that one again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::peer::{Line, Peer};
use crate::support::client::{Answer, Client};
use crate::support::sidecar::Holdoff;
use crate::support::{DEADLINE, within};

/// How many schedules a run has.
const SCHEDULES: u64 = 10_000;
/// How many share a sidecar.
const BATCH: u64 = 2_500;
/// How many run side by side.
const ABREAST: usize = 24;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// How the peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Good,
    /// Not a byte.
    Nothing(End),
    CutHead(End),
    CutBody(End),
    Garbage,
    /// Silence instead of a head.
    Stall,
    /// Silence instead of the rest of a body.
    StallInBody,
}

/// When the peer reads the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    First,
    AfterTheAnswer,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
    /// No body, whatever the fields say.
    NoContent,
}

/// Bytes that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surplus {
    Again,
    Another,
    Timeout,
    Continue,
    Lines,
    Garbage,
}

/// What becomes of the connection after a whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Keep,
    /// As the response said.
    Close,
    /// Unsaid, and at once: a request may be on its way.
    Silent(End),
    /// In one piece with the end of the response.
    Surplus(Surplus),
    /// While nothing is under way; `true`: and until the other side has closed.
    Idle(Disturbance, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    End(End),
    Surplus(Surplus),
}

/// What the client does beside asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Stays,
    /// When its request has arrived.
    Leaves,
    /// In the middle of its body.
    BreaksOff,
}

/// One request and all that happens to it.
#[derive(Clone, Debug)]
struct Plan {
    id: usize,
    method: &'static str,
    /// Of the request.
    body: usize,
    chunked: bool,
    manner: Manner,
    reads: Reads,
    interim: usize,
    framing: Framing,
    /// Of the response's body.
    size: usize,
    conduct: Conduct,
    after: After,
    pieces: usize,
    /// For what is drawn while it is carried out.
    seed: u64,
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

const ENDS: [End; 2] = [End::Fin, End::Reset];
const SURPLUS: [Surplus; 6] =
    [Surplus::Again, Surplus::Another, Surplus::Timeout, Surplus::Continue, Surplus::Lines, Surplus::Garbage];

impl Plan {
    fn draw(rng: &mut Rng, id: usize, silent: bool, patient: bool) -> Self {
        let method = pick(rng, &["GET", "GET", "POST", "PUT", "HEAD"]);
        let has_body = matches!(method, "POST" | "PUT");
        let body = if has_body { pick(rng, &[1, 10, 1_000, 20_000, 60_000]) } else { 0 };
        let conduct = match rng.u32(..100) {
            0..70 => Conduct::Good,
            70..76 => Conduct::Nothing(pick(rng, &ENDS)),
            76..82 => Conduct::CutHead(pick(rng, &ENDS)),
            82..92 => Conduct::CutBody(pick(rng, &ENDS)),
            92..97 => Conduct::Garbage,
            97..99 => Conduct::Stall,
            _ => Conduct::StallInBody,
        };
        let stalls = matches!(conduct, Conduct::Stall | Conduct::StallInBody);
        let manner = match rng.u32(..100) {
            _ if stalls && !patient => Manner::Leaves,
            0..6 => Manner::Leaves,
            6..12 if body > 1 => Manner::BreaksOff,
            _ => Manner::Stays,
        };
        let framing = match rng.u32(..10) {
            0..4 => Framing::Length,
            4..8 => Framing::Chunked,
            8 => Framing::UntilClose,
            _ => Framing::NoContent,
        };
        let after = match rng.u32(..100) {
            _ if framing == Framing::UntilClose => After::Close,
            0..40 => After::Keep,
            40..50 => After::Close,
            50..60 if silent => After::Silent(pick(rng, &ENDS)),
            50..75 => After::Surplus(pick(rng, &SURPLUS)),
            75..85 => After::Idle(Disturbance::End(pick(rng, &ENDS)), rng.bool()),
            _ => After::Idle(Disturbance::Surplus(pick(rng, &SURPLUS)), rng.bool()),
        };
        let reads = match rng.u32(..10) {
            0..2 if has_body => Reads::AfterTheAnswer,
            // Closing with unread bytes resets, which cuts what only the close ends.
            2 if has_body && after == After::Close && framing != Framing::UntilClose => Reads::Never,
            _ => Reads::First,
        };
        let mut plan = Self {
            id,
            method,
            body,
            chunked: rng.bool(),
            manner,
            reads,
            interim: if rng.u32(..10) == 0 { rng.usize(1..4) } else { 0 },
            framing,
            size: pick(rng, &[0, 1, 10, 1_000, 9_000, 40_000]),
            conduct,
            after,
            pieces: if rng.bool() { 1 } else { rng.usize(1..8) },
            seed: rng.u64(..),
        };
        // What is cut needs something to be cut, and a body until the close is cut by nothing but a reset.
        if matches!(plan.conduct, Conduct::CutBody(_) | Conduct::StallInBody) {
            plan.size = plan.size.max(2);
            match (method, plan.framing, plan.conduct) {
                ("HEAD", ..) | (_, Framing::NoContent, _) => plan.conduct = Conduct::Good,
                (_, Framing::UntilClose, Conduct::CutBody(_)) => plan.conduct = Conduct::CutBody(End::Reset),
                _ => {}
            }
        }
        plan
    }

    /// Whether the response has a body on the wire.
    fn has_content(&self) -> bool {
        self.method != "HEAD" && self.framing != Framing::NoContent
    }

    fn content(&self) -> Vec<u8> {
        if self.has_content() { text(self.id, "response", self.size) } else { Vec::new() }
    }

    /// The response's head and body as they go over the wire.
    fn response(&self, rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
        let mut head = String::new();
        for _ in 0..self.interim {
            head.push_str(&format!("HTTP/1.1 103 Early Hints\r\nX-Id: {}\r\n\r\n", self.id));
        }
        let status = if self.framing == Framing::NoContent { "204 No Content" } else { "200 OK" };
        head.push_str(&format!("HTTP/1.1 {status}\r\nX-Id: {}\r\n", self.id));
        let content = self.content();
        let mut body = Vec::new();
        match self.framing {
            Framing::Length => {
                head.push_str(&format!("Content-Length: {}\r\n", self.size));
                body = content;
            }
            Framing::Chunked => {
                head.push_str("Transfer-Encoding: chunked\r\n");
                if self.has_content() {
                    let mut rest = content.as_slice();
                    while !rest.is_empty() {
                        let (chunk, left) = rest.split_at(rng.usize(1..=rest.len()));
                        body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                        body.extend_from_slice(chunk);
                        body.extend(b"\r\n");
                        rest = left;
                    }
                    body.extend(b"0\r\n\r\n");
                }
            }
            Framing::UntilClose => body = content,
            Framing::NoContent => {}
        }
        // A close that ends the body need not be said.
        let is_said = !self.has_content() || self.framing != Framing::UntilClose || rng.bool();
        if self.after == After::Close && is_said {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        (head.into_bytes(), body)
    }

    fn surplus(&self, kind: Surplus) -> Vec<u8> {
        let mut rng = Rng::with_seed(self.seed);
        match kind {
            Surplus::Again => {
                let (mut head, body) = self.response(&mut rng);
                head.extend(body);
                head
            }
            Surplus::Another => b"HTTP/1.1 200 OK\r\nX-Id: 4242\r\nContent-Length: 9\r\n\r\nnobody's\n".to_vec(),
            Surplus::Timeout => {
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
            }
            Surplus::Continue => b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
            Surplus::Lines => b"\r\n".to_vec(),
            Surplus::Garbage => (0..rng.usize(1..40_000)).map(|_| rng.u8(..)).collect(),
        }
    }
}

/// A body that no other request or response has.
fn text(id: usize, what: &str, size: usize) -> Vec<u8> {
    format!("{what} {id}; ").into_bytes().into_iter().cycle().take(size).collect()
}

/// What the tasks of a schedule share.
struct World {
    plans: Vec<Plan>,
    arrivals: Vec<AtomicUsize>,
    /// Held by every request under way.
    quiet: RwLock<()>,
    /// Connections that were closed while a request may have been on its way.
    silent: AtomicUsize,
    /// What requests were told that never arrived.
    unsent: Mutex<Vec<String>>,
    /// Connections at which something is still waited for.
    watched: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

impl World {
    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// No other request may come on this connection, and it must end.
    async fn is_over(&self, mut line: Line, id: usize) {
        self.watched.fetch_add(1, Ordering::SeqCst);
        match tokio::time::timeout(DEADLINE, line.rest()).await {
            // The rest of the last request's body may come.
            Ok(rest) => {
                let rest = String::from_utf8_lossy(&rest);
                if rest.contains(" HTTP/1.1\r\n") {
                    let shown: String = rest.chars().take(300).collect();
                    self.fault(format!("{id}: the connection was used again: {shown}"));
                }
            }
            Err(_) => self.fault(format!("{id}: the connection stays open")),
        }
        self.watched.fetch_sub(1, Ordering::SeqCst);
    }
}

fn end(line: Line, how: End) {
    if how == End::Reset {
        line.reset();
    }
}

/// One connection at the peer.
async fn serve(world: Arc<World>, mut line: Line) {
    while let Some(head) = line.head().await {
        let id: usize = head.split(' ').nth(1).unwrap().trim_start_matches('/').parse().unwrap();
        let plan = &world.plans[id];
        world.arrivals[id].fetch_add(1, Ordering::SeqCst);
        let mut rng = Rng::with_seed(plan.seed);
        if plan.reads == Reads::First && !read(&world, plan, &mut line, &head).await {
            return;
        }
        let (top, body) = plan.response(&mut rng);
        let whole = [top.as_slice(), &body].concat();
        let cut = match plan.conduct {
            Conduct::Good => {
                let mut bytes = whole;
                let least = bytes.len() - 1;
                if let After::Surplus(kind) = plan.after {
                    bytes.extend(plan.surplus(kind));
                }
                if !write(&mut line, &bytes, least, plan.pieces, &mut rng).await {
                    return;
                }
                if plan.reads == Reads::AfterTheAnswer && !read(&world, plan, &mut line, &head).await {
                    return;
                }
                match afterwards(&world, plan, line).await {
                    Some(kept) => line = kept,
                    None => return,
                }
                continue;
            }
            Conduct::Nothing(_) | Conduct::Stall => 0,
            Conduct::CutHead(_) => rng.usize(1..top.len()),
            // Behind the first chunk's size, so that the cut is in the body and not in front of it.
            Conduct::CutBody(_) | Conduct::StallInBody => whole.len() - rng.usize(1..body.len()),
            Conduct::Garbage => {
                let garbage =
                    pick(&mut rng, &["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "\0\0\0\r\n\r\n"]);
                line.write(garbage).await;
                return world.is_over(line, id).await;
            }
        };
        if cut > 0 {
            write(&mut line, &whole[..cut], cut - 1, plan.pieces, &mut rng).await;
        }
        return match plan.conduct {
            Conduct::Nothing(how) | Conduct::CutHead(how) | Conduct::CutBody(how) => end(line, how),
            _ => world.is_over(line, id).await,
        };
    }
}

/// Reads a request's body. `false`: the connection ended.
async fn read(world: &World, plan: &Plan, line: &mut Line, head: &str) -> bool {
    let Some(body) = line.body(head).await else { return false };
    if body != text(plan.id, "request", plan.body) {
        world.fault(format!("{}: another body arrived", plan.id));
    }
    true
}

/// Writes in pieces. None begins behind `least`.
async fn write(line: &mut Line, bytes: &[u8], least: usize, pieces: usize, rng: &mut Rng) -> bool {
    let mut cuts: Vec<usize> = (1..pieces).map(|_| rng.usize(..=least)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut from = 0;
    for to in cuts {
        if !line.write(&bytes[from..to]).await {
            return false;
        }
        from = to;
        if to < bytes.len() {
            match rng.u32(..3) {
                0 => tokio::time::sleep(Duration::from_micros(rng.u64(..2_000))).await,
                _ => tokio::task::yield_now().await,
            }
        }
    }
    true
}

/// What happens behind a whole response; the connection, if it goes on.
async fn afterwards(world: &World, plan: &Plan, mut line: Line) -> Option<Line> {
    match plan.after {
        After::Keep => return Some(line),
        After::Close => {}
        After::Silent(how) => {
            world.silent.fetch_add(1, Ordering::SeqCst);
            end(line, how);
        }
        After::Surplus(_) => world.is_over(line, plan.id).await,
        After::Idle(disturbance, waits) => {
            let quiet = tokio::select! {
                biased;
                quiet = world.quiet.write() => quiet,
                // The next request was faster, or the other side has had enough.
                goes_on = line.pending() => return goes_on.then_some(line),
            };
            match disturbance {
                Disturbance::End(End::Fin) => {
                    line.finish().await;
                    if waits {
                        world.is_over(line, plan.id).await;
                    }
                }
                Disturbance::End(End::Reset) => line.reset(),
                Disturbance::Surplus(kind) => {
                    line.write(plan.surplus(kind)).await;
                    if waits {
                        world.is_over(line, plan.id).await;
                    } else {
                        drop(quiet);
                        world.is_over(line, plan.id).await;
                    }
                }
            }
        }
    }
    None
}

/// One client: its requests in turn, on one connection as long as that lives.
async fn ask(world: Arc<World>, holdoff: Arc<Holdoff>, peer: String, ids: Vec<usize>) {
    let mut kept = None;
    for id in ids {
        let plan = &world.plans[id];
        let _under_way = world.quiet.read().await;
        let mut client = match kept.take() {
            Some(client) => client,
            None => holdoff.client().await,
        };
        let Some(answer) = exchange(&world, &mut client, &peer, plan).await else { continue };
        let closes = answer.as_ref().is_some_and(|answer| answer.fields("connection").contains(&"close"));
        let is_whole = answer.as_ref().is_some_and(|answer| answer.complete);
        judge(&world, plan, answer);
        if is_whole && !closes && plan.reads == Reads::First {
            kept = Some(client);
        }
    }
}

/// Asks, and reads the final answer; `Some(None)`: the connection ended instead. `None`: the client left.
async fn exchange(world: &World, client: &mut Client, peer: &str, plan: &Plan) -> Option<Option<Answer>> {
    let mut rng = Rng::with_seed(plan.seed ^ 1);
    let host = peer.trim_start_matches("http://");
    let mut head = format!("{} {peer}/{} HTTP/1.1\r\nHost: {host}\r\n", plan.method, plan.id);
    let body = text(plan.id, "request", plan.body);
    let mut bytes = Vec::new();
    if plan.body > 0 && plan.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
        for chunk in body.chunks(rng.usize(1..=body.len())) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else if plan.body > 0 {
        head.push_str(&format!("Content-Length: {}\r\n", plan.body));
        bytes = body;
    }
    head.push_str("\r\n");
    let mut all = head.into_bytes();
    let breaks_off = all.len() + bytes.len() / 2;
    all.extend(bytes);
    let stop = if plan.manner == Manner::BreaksOff { breaks_off } else { all.len() };
    let middle = rng.usize(..stop);
    // A peer that answers early may have ended the exchange; the answer is there nevertheless.
    for (from, to) in [(0, middle), (middle, stop)] {
        let _ = client.try_send(&all[from..to]).await;
        tokio::task::yield_now().await;
    }
    if plan.manner != Manner::Stays {
        // Not earlier: a request that is still to be sent is under way.
        for _ in 0..200 {
            if world.arrivals[plan.id].load(Ordering::SeqCst) > 0 {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = client.try_send(&all[stop..]).await;
    }
    loop {
        match client.try_answer(plan.method).await {
            Some(interim) if interim.status < 200 => {
                if interim.field("x-id") != plan.id.to_string() {
                    world.fault(format!("{}: a 1xx of another: {}", plan.id, interim.head));
                }
            }
            answer => return Some(answer),
        }
    }
}

/// What a request ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    /// Visibly.
    Cut,
    /// An error of ours, with its status.
    Ours(u16),
    /// The connection ended without an answer.
    Nothing,
    /// Something that is not this request's response.
    Foreign,
}

impl Outcome {
    fn of(plan: &Plan, answer: Option<&Answer>) -> Self {
        let Some(answer) = answer else { return Self::Nothing };
        if answer.fields("holdoff").iter().any(|mark| mark.starts_with("error;")) && answer.complete {
            return Self::Ours(answer.status);
        }
        let status = if plan.framing == Framing::NoContent { 204 } else { 200 };
        if answer.status != status || answer.fields("x-id") != [plan.id.to_string()] {
            return Self::Foreign;
        }
        let content = plan.content();
        match answer.complete {
            true if answer.body == content => Self::Whole,
            false if content.starts_with(&answer.body) => Self::Cut,
            _ => Self::Foreign,
        }
    }
}

/// The oracle.
fn judge(world: &World, plan: &Plan, answer: Option<Answer>) {
    let outcome = Outcome::of(plan, answer.as_ref());
    let arrivals = world.arrivals[plan.id].load(Ordering::SeqCst);
    let expected = match plan.conduct {
        Conduct::Good => Outcome::Whole,
        Conduct::Nothing(_) | Conduct::CutHead(_) | Conduct::Garbage => Outcome::Ours(502),
        Conduct::CutBody(_) | Conduct::StallInBody => Outcome::Cut,
        Conduct::Stall => Outcome::Ours(504),
    };
    if outcome == Outcome::Ours(502) && arrivals == 0 {
        world.unsent.lock().unwrap().extend(answer.map(|answer| answer.text().to_owned()));
    } else if outcome != expected {
        world.fault(format!(
            "expected {expected:?}, found {outcome:?} after {arrivals} arrivals for {plan:?}\n{}",
            answer.map_or_else(String::new, |answer| format!("{}\n{}", answer.head, answer.body.len()))
        ));
    }
}

/// Runs one schedule; what is wrong with it.
async fn run(seed: u64, holdoff: Arc<Holdoff>) -> Vec<String> {
    let mut rng = Rng::with_seed(seed);
    let (clients, silent) = (rng.usize(1..5), rng.u32(..3) == 0);
    // Few sit a time bound out.
    let patient = rng.u32(..50) == 0;
    let lists: Vec<usize> = (0..clients).map(|_| rng.usize(1..4)).collect();
    let plans: Vec<Plan> = (0..lists.iter().sum()).map(|id| Plan::draw(&mut rng, id, silent, patient)).collect();
    let world = Arc::new(World {
        arrivals: plans.iter().map(|_| AtomicUsize::new(0)).collect(),
        plans,
        quiet: RwLock::new(()),
        silent: AtomicUsize::new(0),
        unsent: Mutex::default(),
        watched: AtomicUsize::new(0),
        faults: Mutex::default(),
    });
    let peer = {
        let world = Arc::clone(&world);
        Peer::start(move |line| serve(Arc::clone(&world), line)).await
    };
    let mut asking = JoinSet::new();
    let mut from = 0;
    for count in lists {
        asking.spawn(ask(Arc::clone(&world), Arc::clone(&holdoff), peer.url(), (from..from + count).collect()));
        from += count;
    }
    while let Some(asked) = asking.join_next().await {
        if let Err(error) = asked {
            world.fault(format!("a client failed: {error}"));
        }
    }
    // A connection on which nothing more may come has its own deadline.
    while world.watched.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (unsent, closed) = (world.unsent.lock().unwrap().clone(), world.silent.load(Ordering::SeqCst));
    if unsent.len() > closed {
        world.fault(format!("{closed} connections were closed under way, but never arrived {unsent:#?}"));
    }
    for (plan, arrivals) in world.plans.iter().zip(&world.arrivals) {
        let arrivals = arrivals.load(Ordering::SeqCst);
        if arrivals > 1 {
            world.fault(format!("arrived {arrivals} times: {plan:?}"));
        }
    }
    let mut faults = std::mem::take(&mut *world.faults.lock().unwrap());
    if !faults.is_empty() {
        faults.push(format!("arrived: {:#?}\nplans: {:#?}", peer.arrived(), world.plans));
    }
    faults
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_schedules_lose_or_mix_no_response() {
    let schedules = number("HOLDOFF_POOL_SCHEDULES").unwrap_or(SCHEDULES);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let first = number("HOLDOFF_POOL_SEED").unwrap_or(now.wrapping_mul(1_000_000));
    let mut seeds = first..first + schedules;
    while !seeds.is_empty() {
        let holdoff = Arc::new(
            Holdoff::start(
                "[upstream]\nmax_connections_per_host = 2\nmax_idle_per_host = 2\n\
                 [defaults.timeouts]\nconnect = \"15s\"\nhead = \"5s\"\nbody_idle = \"5s\"\n",
            )
            .await,
        );
        let mut running = JoinSet::new();
        let mut batch = seeds.by_ref().take(BATCH.try_into().unwrap());
        loop {
            while running.len() < ABREAST
                && let Some(seed) = batch.next()
            {
                let holdoff = Arc::clone(&holdoff);
                running.spawn(async move { (seed, run(seed, holdoff).await) });
            }
            let Some(ran) = running.join_next().await else { break };
            let (seed, faults) = ran.unwrap();
            assert!(
                faults.is_empty(),
                "again by: HOLDOFF_POOL_SEED={seed} HOLDOFF_POOL_SCHEDULES=1\n{}",
                faults.join("\n")
            );
        }
        super::is_at_rest(&holdoff).await;
        within("the end", Arc::into_inner(holdoff).unwrap().shutdown()).await;
    }
}
