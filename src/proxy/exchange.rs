//! One request: admitted by the table, sent, its response read for signals and passed on; or answered here.
//!
//! The order matters. The permit is completed at the response head, with one reading of the clock, before a byte of the
//! response is passed on; that of an answer which goes well so far waits for the trailers of a gRPC call, and for what body
//! rules see in the body, see [`pending`]. If the client leaves, hyper
//! drops the future: the connection to the upstream closes, or its stream is reset, and the dropped permit counts as
//! cancelled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, EXPECT, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::admission::{self, Admitted, Hop, Pass, Word};
use super::answers::{self, Facts};
use super::body::{Excerpt, RequestBody, ResponseBody, too_large};
use super::connection::Client;
use super::error::{ErrorKind, ProxyError};
use super::headers::{self, ToUpstream, Trailers, to_client};
use super::keys::{Keys, Line};
use super::outcome;
use super::pending::{self, Pending, Rest};
use super::record::Record;
use super::reverse::Mapping;
use super::shared::Host;
use super::tunnel::{Far, Tunnel};
use super::upstream::{self, Target, Through};
use super::wire::{HandOver, Interim};
use crate::config::settings::{HostSettings, OnCooldown};
use crate::core::classify::{self, Reading};
use crate::core::decision::{Purpose, Reason};
use crate::core::key::KeyRef;
use crate::core::level::Asked;
use crate::core::signal::Outcome;
use crate::core::signal::body::Watch;
use crate::core::time::{Instant, UnixTime};
use crate::metrics::Bound;
use crate::synthetic::{self, PROXY_STATUS};
use crate::table::{Entry, clock};

/// How long a client may take for the rest of a body behind which a local answer waits.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How long a stream that is not read to its end is left to come to rest.
const SETTLE: Duration = Duration::from_millis(500);

/// Where a request goes, in the upstream's words.
pub(super) struct Outbound<'a> {
    pub(super) key: KeyRef<'a>,
    /// In origin-form, or `*`.
    pub(super) path: PathAndQuery,
    /// `None`: the client's.
    pub(super) host: Option<HeaderValue>,
    /// How answers are mapped back to a `[[reverse]]` listener.
    pub(super) mapping: Option<Mapping<'a>>,
}

/// What of a request decides how it is answered.
struct Shape {
    facts: Facts,
    version: Version,
    has_body: bool,
    expects: bool,
    upgrade: bool,
    /// The protocols that the client offers with an upgrade.
    protocols: Vec<HeaderValue>,
}

impl Shape {
    fn of(request: &Request<Incoming>) -> Self {
        let (headers, version) = (request.headers(), request.version());
        let has_body = !request.body().is_end_stream();
        // An upgrade behind a body would have to wait for the body (RFC 9110 §7.8); nobody does that.
        let upgrade = !has_body
            && version == Version::HTTP_11
            && headers::asks_upgrade(headers)
            && !headers::is_upgrade_to_h2c(headers);
        Self {
            facts: Facts::new(request.method(), headers),
            version,
            has_body,
            expects: expects_continue(request),
            upgrade,
            protocols: if upgrade { headers.get_all(UPGRADE).iter().cloned().collect() } else { Vec::new() },
        }
    }
}

/// Whether the client waits for a 100 before its body. The last field counts, as it does for hyper: both must agree on who
/// sends the 100.
pub(super) fn expects_continue(request: &Request<Incoming>) -> bool {
    let last = request.headers().get_all(EXPECT).iter().next_back();
    !request.body().is_end_stream()
        // HTTP/2 has no way to ask for a body; it is taken as it comes.
        && request.version() == Version::HTTP_11
        && last.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Admits, sends, passes on.
pub(super) async fn run(
    client: &Client,
    request: Request<Incoming>,
    to: Outbound<'_>,
    arrived: Instant,
) -> Response<ResponseBody> {
    let context = &client.context;
    let shape = Shape::of(&request);
    let place = match Place::take(client, &request, &to, &shape, arrived) {
        Ok(place) => place,
        Err(error) => {
            let entry = context.shared.table.entry(&to.key, arrived);
            let mut record = Record::new(&context.shared, Some(&entry), &request, arrived);
            let settings = context.shared.settings.hosts.resolve_at(entry.key(), to.path.path());
            record.hide(&settings.levels, request.uri().path(), to.path.path());
            return refuse(client, request, &error, record).await;
        }
    };
    let asked =
        Asked { method: request.method(), path: to.path.path(), query: to.path.query(), headers: request.headers() };
    let admitted = admission::admit(context, &to.key, Purpose::Request, Some(&asked), arrived);
    let Pass { entry, keys, would, hop } = match admitted {
        Admitted::Pass(pass) => pass,
        Admitted::Refused(refused) => {
            let mut record = Record::new(&context.shared, Some(&refused.entry), &request, arrived);
            record.hide(&refused.settings().levels, request.uri().path(), to.path.path());
            record.short_circuited(refused.refusal.reason);
            if refused.settings().on_cooldown == OnCooldown::Close {
                return hang_up(client, record);
            }
            let keep = drain(client, request.into_body(), shape.expects).await;
            let answer = answers::short_circuit(&context.shared, &refused, &shape.facts);
            return local(client, answer, shape.version, keep, record);
        }
    };
    let mut record = Record::new(&context.shared, Some(&entry), &request, arrived);
    let divided = keys.divided_settings();
    let settings = divided.as_ref().unwrap_or(&entry.attached().settings);
    record.hide(&settings.levels, request.uri().path(), to.path.path());
    let ignored = settings.policy.signals.ignore_methods.contains(request.method());
    let exchange = Exchange { client, entry: &entry, settings, ignored, keys, hop, would, shape, arrived };
    exchange.forward(request, to, place, record).await
}

/// Bounds that are checked before a permit is taken.
struct Place {
    /// Among `max_tunnels`, for an upgrade.
    tunnel: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn take(
        client: &Client,
        request: &Request<Incoming>,
        to: &Outbound<'_>,
        shape: &Shape,
        now: Instant,
    ) -> Result<Self, ProxyError> {
        if shape.has_body {
            let shared = &client.context.shared;
            let entry = shared.table.entry(&to.key, now);
            let host = entry.attached();
            // Where paths have settings of their own, theirs count.
            let settings = match host.divides {
                true => shared.settings.hosts.resolve_at(entry.key(), to.path.path()),
                false => &host.settings,
            };
            let most = settings.timeouts.max_request_body;
            if most != 0 && request.body().size_hint().lower() > most {
                return Err(too_large());
            }
        }
        let tunnel = if shape.upgrade { Some(client.context.tunnel_place()?) } else { None };
        Ok(Self { tunnel })
    }
}

/// A request that was let through.
struct Exchange<'a> {
    client: &'a Client,
    entry: &'a Arc<Entry<Host>>,
    settings: &'a HostSettings,
    /// Whether signals in answers to the method mean nothing.
    ignored: bool,
    keys: Keys,
    hop: Option<Hop>,
    would: Option<Reason>,
    shape: Shape,
    arrived: Instant,
}

impl Exchange<'_> {
    async fn forward(
        mut self,
        request: Request<Incoming>,
        to: Outbound<'_>,
        place: Place,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let client = self.client;
        let (context, host) = (&client.context, self.entry.attached());
        client.wire.set_patience(self.settings.timeouts.body_idle);
        let mapping = to.mapping;
        let request = self.outgoing(request, to.path, to.host).await;
        let target = Target { key: self.entry.key(), host: self.settings };
        let sent_at = clock::now();
        let sent = tokio::select! {
            sent = context.upstreams.send(&target, request) => sent.map_err(|failed| failed.error),
            // Dropping the exchange closes its connection.
            () = flooded(client) => Err(ProxyError::new(
                ErrorKind::UpstreamProtocol,
                "the upstream sends informational answers (1xx) without end",
            )),
        };
        client.wire.head_came();
        let now = clock::now();
        match sent {
            Ok(response) => {
                host.metrics.added_seconds(sent_at.saturating_since(self.arrived));
                host.metrics.head_seconds(now.saturating_since(sent_at));
                self.deliver(response, mapping, place, record, now)
            }
            Err(error) => {
                record.failed(&context.shared, &error);
                let answer = self.fail(&error, now);
                local(client, answer, self.shape.version, client.wire.body_is_read(), record)
            }
        }
    }

    /// The request as the upstream gets it.
    async fn outgoing(
        &self,
        request: Request<Incoming>,
        path: PathAndQuery,
        host: Option<HeaderValue>,
    ) -> Request<RequestBody> {
        let client = self.client;
        let timeouts = &self.settings.timeouts;
        let (mut parts, body) = request.into_parts();
        let (body, gate) = RequestBody::new(
            body,
            timeouts.max_request_body,
            timeouts.body_idle,
            self.shape.expects,
            // An upstream may be reached over HTTP/2, which passes trailers however they come.
            Trailers::of(&parts.headers, self.shape.has_body, &client.context.via),
            Arc::clone(&client.wire),
        );
        let outward =
            ToUpstream { host, received: parts.version, upgrade: self.shape.upgrade, via: &client.context.via };
        parts.headers = outward.apply(parts.headers);
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        // The client's half of an upgrade is taken from the connection's driver.
        drop(parts.extensions.remove::<OnUpgrade>());
        let mut request = Request::from_parts(parts, body);
        self.pass_interim(&mut request, gate).await;
        request
    }

    /// Sees to it that 1xx answers pass, and that `100 Continue` opens the gate.
    async fn pass_interim(&self, request: &mut Request<RequestBody>, gate: Option<oneshot::Sender<()>>) {
        let takes_none = self.shape.version != Version::HTTP_11;
        let (client, expects) = (self.client, self.shape.expects);
        let most = client.context.shared.settings.limits.max_interim_responses;
        let exchange = poll_fn(|cx| Poll::Ready(client.wire.await_head(most, cx.waker()))).await;
        let (wire, context) = (Arc::clone(&client.wire), Arc::clone(&client.context));
        let gate = Mutex::new(gate);
        hyper::ext::on_informational(request, move |interim| {
            if expects && interim.status() == StatusCode::CONTINUE {
                // hyper sends the client's 100 itself when the body is asked for.
                match gate.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(gate) => drop(gate.send(())),
                    None => wire.drop_interim(exchange),
                }
                return;
            }
            // HTTP/1.0 knows no 1xx (RFC 9110 §15.2); on HTTP/2, hyper cannot send them.
            if takes_none {
                return wire.drop_interim(exchange);
            }
            let (status, version) = (interim.status(), interim.version());
            let headers = to_client(interim.headers().clone(), status, version, &context.via, UnixTime::from_secs(0));
            if wire.interim(exchange, status, &headers) == Interim::TooMany {
                context.shared.metrics.bound_reached(Bound::InterimResponses);
            }
        });
    }

    /// Reads a response head, and makes it the client's answer.
    fn deliver(
        mut self,
        mut response: Response<upstream::ResponseBody<RequestBody>>,
        mapping: Option<Mapping<'_>>,
        place: Place,
        mut record: Record,
        now: Instant,
    ) -> Response<ResponseBody> {
        let client = self.client;
        let (context, host) = (&client.context, self.entry.attached());
        let (status, received) = (response.status(), response.version());
        host.metrics.response(status.as_u16());
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        // A 101 to a request without `Upgrade` was an error already.
        if switched && !headers::is_offered(response.headers(), &self.shape.protocols) {
            let error = ProxyError::new(
                ErrorKind::UpstreamProtocol,
                "the upstream switched to a protocol that the client has not offered",
            );
            record.failed(&context.shared, &error);
            let answer = self.fail(&error, now);
            return local(client, answer, self.shape.version, client.wire.body_is_read(), record);
        }
        let wall = clock::wall();
        let word = self.word(&mut response, now);
        // Mode off neither reads nor feeds.
        let reads = self.keys.feeds() || self.would.is_some();
        let reading = (reads && !matches!(word, Word::Parent(_))).then(|| {
            let reading = classify::response(&self.settings.policy.signals, status, response.headers(), wall);
            let reading = if self.ignored { reading.of_ignored_method() } else { reading };
            if matches!(word, Word::Relayed) { reading.relayed() } else { reading }
        });
        let watch = reading.as_ref().filter(|_| matches!(word, Word::Host)).and_then(|r| self.watch(r, &response));
        let mark = self.settings.answer.annotate.then(|| {
            let outcome = reading.as_ref().map_or(&Outcome::Neutral, |reading| &reading.outcome);
            let is_open = reading.as_ref().is_some_and(|reading| pending::waits(reading, watch.is_some()));
            synthetic::annotate(self.entry.key(), (!is_open).then_some(outcome), self.would)
        });
        record.hinted(reading.as_ref().and_then(|reading| reading.hint_seen));
        let (pending, excerpt) = match (reading, word) {
            (Some(reading), _) => self.decide(reading, watch, &response, now, wall),
            (None, Word::Parent(line)) => (None, self.excerpt(line, response.headers())),
            (None, _) => (None, None),
        };
        record.forwarded(excerpt);
        record.answered(status.as_u16());
        let upgrade = switched.then(|| hyper::upgrade::on(&mut response));
        let (mut parts, body) = response.into_parts();
        let unannounced = received == Version::HTTP_2 || client.wire.is_stream();
        let trailers = Trailers::of(&parts.headers, unannounced, &context.via);
        parts.headers = to_client(parts.headers, status, received, &context.via, wall);
        if let Some(mapping) = mapping {
            mapping.map_back(&mut parts.headers);
        }
        if let Some(mark) = mark {
            parts.headers.insert(synthetic::HOLDOFF, mark);
        }
        parts.version = self.shape.version;
        if let (Some(upgrade), Some(place)) = (upgrade, place.tunnel) {
            client.wire.hand_over(HandOver::Tunnel(Tunnel {
                far: Far::Upgrade(upgrade),
                counts: host.metrics.tunnel(),
                idle: self.settings.timeouts.tunnel_idle,
                place,
            }));
            return Response::from_parts(parts, ResponseBody::local(Bytes::new(), &client.wire, Some(record)));
        }
        if client.must_close() {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.shape.version < Version::HTTP_11 && body.size_hint().exact().is_none() {
            client.wire.set_until_close();
        }
        Response::from_parts(parts, ResponseBody::upstream(body, trailers, &client.wire, record, pending))
    }

    /// What looks at the body, where there are rules about it and it may say what the head does not.
    fn watch<B>(&self, reading: &Reading, response: &Response<B>) -> Option<Watch> {
        let (rules, status) = (&self.settings.bodies, response.status());
        let has_body = !self.shape.facts.head && status != StatusCode::SWITCHING_PROTOCOLS;
        let is_signal = matches!(reading.outcome, Outcome::Signal(_) | Outcome::OffLadder(_));
        if rules.is_empty() || self.ignored || !has_body || is_signal {
            return None;
        }
        rules.watch(status, response.headers())
    }

    /// Completes the permit at the response head, or keeps it for the rest of the body.
    fn decide<B: Body>(
        &mut self,
        reading: Reading,
        watch: Option<Watch>,
        response: &Response<B>,
        now: Instant,
        wall: UnixTime,
    ) -> (Option<Box<Pending>>, Option<Excerpt>) {
        let (headers, host) = (response.headers(), self.entry.attached());
        let shared = &self.client.context.shared;
        let is_shown = shared.settings.log.error_body;
        self.keys.learn(shared, headers, now);
        let mut keys = std::mem::take(&mut self.keys);
        let (waits, code) = (pending::waits(&reading, watch.is_some()), reading.grpc_code());
        let line = match &watch {
            // The trailers are counted with it.
            _ if reading.awaits_trailers() => None,
            None => outcome::complete(shared, self.entry, &mut keys, &reading, now, wall),
            Some(_) => {
                host.metrics.reading(&reading);
                (!waits).then(|| outcome::tell_early(shared, self.entry, &mut keys, &reading, now, wall)).flatten()
            }
        };
        let pending = (waits || watch.is_some()).then(|| {
            let rest = Rest { reading, watch, head_at: now, keeps_message: is_shown };
            let mut pending = Box::new(Pending::new(shared, self.entry, keys, rest));
            if response.body().is_end_stream() {
                pending.end(None);
            }
            pending
        });
        if is_shown && code.is_some() {
            outcome::keep_message(line.as_ref(), headers);
            return (pending, None);
        }
        (pending, self.excerpt(line, headers))
    }

    /// The first bytes of the body, for an error line.
    fn excerpt(&self, line: Option<Line>, headers: &HeaderMap) -> Option<Excerpt> {
        let is_shown = self.client.context.shared.settings.log.error_body && !headers.contains_key(CONTENT_ENCODING);
        line.filter(|_| is_shown).map(Excerpt::new)
    }

    /// Whose word an answer is. A mark that nobody vouches for is taken off (SPEC 2.13).
    fn word(&mut self, response: &mut Response<upstream::ResponseBody<RequestBody>>, now: Instant) -> Word {
        let through = response.extensions_mut().remove::<Through>();
        let key = self.entry.key();
        let word = match &mut self.hop {
            Some(hop) => hop.answered(through, (response.status(), response.headers()), key, now),
            None => Word::Host,
        };
        if !matches!(word, Word::Host) || through == Some(Through::Forward) {
            return word;
        }
        let trusted = &self.client.context.shared.settings.upstream.trusted_holdoffs;
        if !response.headers().contains_key(PROXY_STATUS) {
            return Word::Host;
        }
        if !trusted.iter().any(|pattern| pattern.matches(&key.as_ref())) {
            synthetic::strip_foreign_mark(response.headers_mut());
            return Word::Host;
        }
        if synthetic::mark(response.headers()).is_some() { Word::Relayed } else { Word::Host }
    }

    /// Tells the keys of an error, and the client.
    fn fail(&mut self, error: &ProxyError, now: Instant) -> Response<Bytes> {
        let key = self.entry.key();
        admission::failed(&self.client.context, &mut self.keys, self.hop.as_mut(), error, key, now);
        let about = admission::key_of(error, self.hop.as_ref(), key);
        let wait = admission::named_wait(error, self.hop.as_ref(), now);
        answers::error_until(&self.client.context.shared, error, Some(about), &self.shape.facts, wait)
    }
}

/// Waits until it turns out that the upstream never comes to its answer.
async fn flooded(client: &Client) {
    poll_fn(|_| if client.wire.is_flooded() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Ends the connection, or the stream, without an answer.
pub(super) fn hang_up(client: &Client, record: Record) -> Response<ResponseBody> {
    client.wire.hang_up();
    Response::new(ResponseBody::local(Bytes::new(), &client.wire, Some(record)))
}

/// Answers a request that will not be sent, with an error.
pub(super) async fn refuse(
    client: &Client,
    request: Request<Incoming>,
    error: &ProxyError,
    mut record: Record,
) -> Response<ResponseBody> {
    let shape = Shape::of(&request);
    record.failed(&client.context.shared, error);
    // A head that can be read in two ways says nothing reliable about where its body ends; and what follows a CONNECT may
    // be meant for the tunnel (RFC 9931 §6).
    let keep = if error.kind() == ErrorKind::BadRequest || request.method() == Method::CONNECT {
        client.wire.body_done(!shape.has_body);
        false
    } else {
        drain(client, request.into_body(), shape.expects).await
    };
    let answer = answers::error(&client.context.shared, error, None, &shape.facts);
    local(client, answer, shape.version, keep, record)
}

/// Sends an answer of ours. `keep`: the request was read whole.
pub(super) fn local(
    client: &Client,
    answer: Response<Bytes>,
    version: Version,
    keep: bool,
    mut record: Record,
) -> Response<ResponseBody> {
    record.answered(answer.status().as_u16());
    let mut answer = answer.map(|bytes| ResponseBody::local(bytes, &client.wire, Some(record)));
    *answer.version_mut() = version;
    if (!keep && !client.wire.is_stream()) || client.must_close() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Reads what is left of a request behind a local answer, so that the connection can be kept; a client that waits for a
/// 100 is not asked for its body at all (SPEC 5.5). Says whether the request was read whole.
pub(super) async fn drain(client: &Client, mut body: Incoming, expects: bool) -> bool {
    let context = &client.context;
    let most = context.shared.settings.limits.drain_body;
    if body.is_end_stream() {
        client.wire.body_done(true);
        return true;
    }
    if client.wire.is_stream() {
        tokio::spawn(drain_stream(body, most));
        return true;
    }
    let hopeless = body.size_hint().lower() > most;
    let ended = if expects || hopeless {
        false
    } else {
        tokio::time::timeout(DRAIN_TIME, read_off(&mut body, most)).await.unwrap_or(false)
            && !client.wire.body_is_malformed()
    };
    if !ended && !expects {
        context.shared.metrics.bound_reached(Bound::DrainBody);
    }
    client.wire.body_done(ended);
    ended
}

/// Reads the rest of a stream, as far as that is worth it, beside its answer. What is longer is left alone until the client
/// has used up the stream's window: a stream that is reset while pieces are on their way counts against the client.
async fn drain_stream(mut body: Incoming, most: u64) {
    let hopeless = body.size_hint().lower() > most;
    if hopeless || tokio::time::timeout(DRAIN_TIME, read_off(&mut body, most)).await != Ok(true) {
        tokio::time::sleep(SETTLE).await;
    }
}

async fn read_off(body: &mut Incoming, most: u64) -> bool {
    let mut room = most;
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match room.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
                    Some(left) => room = left,
                    None => return false,
                }
            }
        }
    }
}
