//! One request: admitted by the table, sent, its response read for signals and passed on; or answered here.
//!
//! The order matters. The permit is completed at the response head, with one reading of the clock, before a byte of the
//! response is passed on. If the client leaves, hyper drops the future: the connection to the upstream closes and the
//! dropped permit counts as cancelled.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, EXPECT, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answers::{self, Facts};
use super::body::{Excerpt, RequestBody, ResponseBody, too_large};
use super::connection::Client;
use super::error::{ErrorKind, ProxyError};
use super::headers::{self, ToUpstream, Trailers, to_client};
use super::record::Record;
use super::reverse::Mapping;
use super::shared::Host;
use super::target;
use super::tunnel::{Far, Tunnel};
use super::upstream::{self, Target};
use super::wire::Interim;
use crate::core::classify;
use crate::core::decision::{Purpose, Reason};
use crate::core::key::{Key, KeyRef};
use crate::core::signal::Outcome;
use crate::core::time::{Instant, UnixTime};
use crate::metrics::Bound;
use crate::synthetic;
use crate::table::{Entry, Permit, Verdict, clock};

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
    let place = match Place::take(client, &request, &to.key, &shape, arrived) {
        Ok(place) => place,
        Err(error) => {
            let entry = context.shared.table.entry(&to.key, arrived);
            let record = Record::new(&context.shared, Some(&entry), &request, arrived);
            return refuse(client, request, &error, record).await;
        }
    };
    let (entry, verdict) = context.shared.table.admit(&to.key, Purpose::Request, arrived);
    let mut record = Record::new(&context.shared, Some(&entry), &request, arrived);
    let metrics = &entry.attached().metrics;
    let (permit, would) = match verdict {
        Verdict::Forward(permit) => (Some(permit), None),
        Verdict::Pass => (None, None),
        Verdict::WouldHave(refusal) => {
            metrics.would_have(refusal.reason);
            (None, Some(refusal.reason))
        }
        Verdict::ShortCircuit(refusal) => {
            record.short_circuited(refusal.reason);
            let keep = drain(client, request.into_body(), shape.expects).await;
            let answer = answers::short_circuit(&context.shared, &entry, &refusal, &shape.facts);
            return local(client, answer, shape.version, keep, record);
        }
    };
    let exchange = Exchange { client, entry: &entry, permit, would, shape, arrived };
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
        key: &KeyRef<'_>,
        shape: &Shape,
        now: Instant,
    ) -> Result<Self, ProxyError> {
        if shape.has_body {
            let entry = client.context.shared.table.entry(key, now);
            let most = entry.attached().settings.timeouts.max_request_body;
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
    permit: Option<Permit<Host>>,
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
        client.wire.set_patience(host.settings.timeouts.body_idle);
        let mapping = to.mapping;
        let request = self.outgoing(request, to.path, to.host).await;
        let target = Target { key: self.entry.key(), host: &host.settings };
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
                self.fail(&error, now);
                let answer = answers::error(&context.shared, &error, Some(self.entry.key()), &self.shape.facts);
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
        let timeouts = &self.entry.attached().settings.timeouts;
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
            self.fail(&error, now);
            let answer = answers::error(&context.shared, &error, Some(self.entry.key()), &self.shape.facts);
            return local(client, answer, self.shape.version, client.wire.body_is_read(), record);
        }
        let wall = clock::wall();
        // Mode off neither reads nor feeds.
        let reads = self.permit.is_some() || self.would.is_some();
        let reading =
            reads.then(|| classify::response(&host.settings.policy.signals, status, response.headers(), wall));
        let mut excerpt = None;
        if let Some(reading) = &reading {
            host.metrics.reading(reading);
            if reading.outcome == Outcome::Success {
                host.metrics.success(wall);
            }
            let number = self.complete(reading, status, now);
            let is_plain = !response.headers().contains_key(CONTENT_ENCODING);
            if context.shared.settings.log.error_body && is_plain {
                excerpt = Excerpt::new(self.entry, number);
            }
        }
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
        if host.settings.answer.annotate {
            let outcome = reading.as_ref().map_or(&Outcome::Neutral, |reading| &reading.outcome);
            parts.headers.insert(synthetic::HOLDOFF, synthetic::annotate(self.entry.key(), outcome, self.would));
        }
        parts.version = self.shape.version;
        if let (Some(upgrade), Some(place)) = (upgrade, place.tunnel) {
            client.wire.set_tunnel(Tunnel {
                far: Far::Upgrade(upgrade),
                counts: host.metrics.tunnel(),
                idle: host.settings.timeouts.tunnel_idle,
                place,
            });
            return Response::from_parts(parts, ResponseBody::local(Bytes::new(), &client.wire, Some(record)));
        }
        if client.must_close() {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.shape.version < Version::HTTP_11 && body.size_hint().exact().is_none() {
            client.wire.set_until_close();
        }
        Response::from_parts(parts, ResponseBody::upstream(body, trailers, &client.wire, record))
    }

    /// Completes the permit at the response head. The number is that of the error line, 0 when there is none.
    fn complete(&mut self, reading: &classify::Reading, status: StatusCode, now: Instant) -> u64 {
        let Some(permit) = self.permit.take() else { return 0 };
        let line = match &reading.outcome {
            Outcome::Signal(_) | Outcome::Failing(_) => Some(self.line(reading, status)),
            _ => None,
        };
        let number = permit.complete(&reading.outcome, Some(status.as_u16()), line.as_deref(), now, clock::draw());
        if line.is_some() { number } else { 0 }
    }

    /// `HTTP 429 from peer.example (retry_after=120s)` (SPEC 3.10)
    fn line(&self, reading: &classify::Reading, status: StatusCode) -> String {
        let host = target::authority(self.entry.key());
        match reading.hint_seen {
            Some(hint) => {
                let secs = hint.wait.as_secs().saturating_add(u64::from(hint.wait.subsec_nanos() > 0));
                format!("HTTP {} from {host} (retry_after={secs}s)", status.as_u16())
            }
            None => format!("HTTP {} from {host}", status.as_u16()),
        }
    }

    fn fail(&mut self, error: &ProxyError, now: Instant) {
        if let Some(permit) = self.permit.take() {
            complete_failed(permit, error, self.entry.key(), now);
        }
    }
}

/// Waits until it turns out that the upstream never comes to its answer.
async fn flooded(client: &Client) {
    poll_fn(|_| if client.wire.is_flooded() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Completes a permit with an error. What says nothing about the host is as if nothing had been sent.
pub(super) fn complete_failed(permit: Permit<Host>, error: &ProxyError, key: &Key, now: Instant) {
    let outcome = error.kind().outcome();
    let line = format!("{} from {}: {}", error.kind().as_str(), target::authority(key), error.detail());
    let line = matches!(outcome, Outcome::Failing(_) | Outcome::Signal(_)).then_some(line.as_str());
    permit.complete(&outcome, None, line, now, clock::draw());
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
