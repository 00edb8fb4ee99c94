//! What each path of the two listeners answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use super::explain;
use super::guard::{Arrival, Guard};
use super::query::{Filter, FreezeFields, Query};
use super::view::{Change, Cooldown, List, Listening, Problem, Totals, rfc3339};
use crate::core::decision::{Freeze, Reason, State};
use crate::core::key::Key;
use crate::core::policy::MAX_FREEZE;
use crate::core::time::{Instant, UnixTime, ceil_secs};
use crate::metrics::{self, Action, Bound};
use crate::proxy::shared::Shared;
use crate::table::{Snapshot, clock};

/// The largest body of a request.
const MAX_BODY: usize = 16 * 1024;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most reasons of operators that are remembered.
const MAX_NOTES: usize = 1000;

const COOLDOWNS: &str = "/api/v1/cooldowns";
const EXPLAIN: &str = "/api/v1/explain";

type Answer = Response<Full<Bytes>>;

/// Which listener a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// `[admin]`: everything, guarded.
    Admin,
    /// `[metrics] address`: reading only, for anyone who reaches it.
    Metrics,
}

/// Answers requests.
pub(super) struct Api {
    shared: Arc<Shared>,
    guard: Guard,
    started: (Instant, UnixTime),
    /// What operators said when they froze a key.
    notes: Mutex<BTreeMap<Key, String>>,
    /// The second of the last refusal.
    last_refusal: AtomicU64,
}

impl Api {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let guard = Guard::new(&shared.settings.admin);
        Self {
            shared,
            guard,
            started: (clock::now(), clock::wall()),
            notes: Mutex::default(),
            last_refusal: AtomicU64::new(0),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Answers one request; `peer` is who asked, for the log.
    pub(super) async fn handle(
        self: &Arc<Self>,
        door: Door,
        arrival: Arrival,
        peer: &str,
        request: Request<Incoming>,
    ) -> Answer {
        let mut answer = self.route(door, arrival, peer, request).await.unwrap_or_else(Refused::into_answer);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    async fn route(
        self: &Arc<Self>,
        door: Door,
        arrival: Arrival,
        peer: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Refused> {
        let path = request.uri().path();
        if door == Door::Admin {
            // Probes bring no token, and learn nothing but "alive" and "ready".
            let needs_token = !matches!(path, "/livez" | "/readyz");
            if let Err((status, detail)) = self.guard.check(request.headers(), arrival, needs_token) {
                self.turned_away(request.method(), status, detail, peer);
                return Err(Refused::new(status, detail));
            }
        }
        match (path, door) {
            ("/livez", _) => readable(&request).map(|()| text(StatusCode::OK, "alive\n")),
            ("/readyz", _) => readable(&request).map(|()| self.readyz()),
            ("/metrics", _) => {
                readable(&request)?;
                self.apart(Self::metrics).await
            }
            (COOLDOWNS, Door::Admin) => self.cooldowns(peer, request).await,
            (EXPLAIN, Door::Admin) => {
                readable(&request)?;
                let question = explain::question(request.uri().query().unwrap_or_default())
                    .map_err(|detail| Refused::new(StatusCode::BAD_REQUEST, detail))?;
                self.apart(move |api| json(&explain::explain(&api.shared, &question))).await
            }
            (_, Door::Admin) => Err(Refused::new(
                StatusCode::NOT_FOUND,
                "expected one of `/livez`, `/readyz`, `/metrics`, `/api/v1/cooldowns`, `/api/v1/explain`",
            )),
            (_, Door::Metrics) => Err(Refused::new(
                StatusCode::NOT_FOUND,
                "expected one of `/metrics`, `/livez`, `/readyz`; nothing else is here",
            )),
        }
    }

    /// Does what takes long when there are many keys beside the threads that carry requests.
    async fn apart(self: &Arc<Self>, work: impl FnOnce(&Self) -> Answer + Send + 'static) -> Result<Answer, Refused> {
        let api = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&api)).await;
        done.map_err(|_| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made"))
    }

    /// A request that the guard refused: counted, and logged at most once a second.
    fn turned_away(&self, method: &Method, status: StatusCode, detail: &str, peer: &str) {
        self.shared.metrics.admin_action(action_of(method), false);
        let now = clock::now().as_nanos() / 1_000_000_000;
        if self.last_refusal.swap(now, Ordering::Relaxed) != now {
            tracing::warn!(target: "holdoff::admin", peer, %method, status = status.as_u16(), detail, "refused");
        }
    }

    fn readyz(&self) -> Answer {
        match self.lifecycle() {
            "ready" => text(StatusCode::OK, "ready\n"),
            "draining" => {
                text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining, running work is being finished\n")
            }
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting, not every listener is open yet\n"),
        }
    }

    fn lifecycle(&self) -> &'static str {
        let lifecycle = &self.shared.lifecycle;
        match (lifecycle.is_ready(), lifecycle.is_draining()) {
            (_, true) => "draining",
            (true, false) => "ready",
            (false, false) => "starting",
        }
    }

    fn metrics(&self) -> Answer {
        let body = self.shared.metrics.render(&self.shared.table, clock::now(), clock::wall());
        answer(StatusCode::OK, metrics::CONTENT_TYPE, body)
    }

    async fn cooldowns(self: &Arc<Self>, peer: &str, request: Request<Incoming>) -> Result<Answer, Refused> {
        let (parts, body) = request.into_parts();
        let query = |names| {
            Query::read(parts.uri.query().unwrap_or_default(), names)
                .map_err(|detail| self.refused(&parts.method, StatusCode::BAD_REQUEST, detail))
        };
        match parts.method {
            Method::GET | Method::HEAD => {
                let query = query(&["key", "state", "reason", "host", "all", "only_connect", "limit"])?;
                match query.key {
                    Some(key) => self.one(&key),
                    None => self.apart(move |api| json(&api.list(&query.filter))).await,
                }
            }
            Method::PUT => {
                let query = query(&["key", "for", "reason"])?;
                let body = self.body(body).await?;
                let (length, note) = query
                    .freeze
                    .with_body(&body)
                    .and_then(FreezeFields::check)
                    .map_err(|detail| self.refused(&Method::PUT, StatusCode::BAD_REQUEST, detail))?;
                let key = query.key.ok_or_else(|| {
                    self.refused(
                        &Method::PUT,
                        StatusCode::BAD_REQUEST,
                        "expected `key`, such as `?key=https://peer.example`",
                    )
                })?;
                self.freeze(peer, &key, length, note)
            }
            Method::DELETE => {
                let query = query(&["key"])?;
                Ok(json(&match query.key {
                    Some(key) => self.release(peer, &key),
                    None => self.release_all(peer),
                }))
            }
            _ => Err(not_allowed("GET, HEAD, PUT, DELETE")),
        }
    }

    fn one(&self, key: &Key) -> Result<Answer, Refused> {
        let (now, wall) = (clock::now(), clock::wall());
        match self.cooldown(key, now, wall) {
            Some(cooldown) => Ok(json(&cooldown)),
            None => {
                Err(Refused::new(StatusCode::NOT_FOUND, format!("`{key}` is not known: nothing was ever sent to it")))
            }
        }
    }

    fn cooldown(&self, key: &Key, now: Instant, wall: UnixTime) -> Option<Cooldown> {
        let snapshot = self.shared.table.find(key)?.snapshot(now);
        Some(Cooldown::new(&snapshot, self.note(key), now, wall))
    }

    fn list(&self, filter: &Filter) -> List {
        let (now, wall) = (clock::now(), clock::wall());
        let mut snapshots = self.shared.table.snapshots(now);
        snapshots.retain(|snapshot| fits(filter, snapshot));
        snapshots.sort_by_cached_key(|snapshot| order(snapshot, now));
        let matched = snapshots.len();
        snapshots.truncate(filter.limit);
        let cooldowns: Vec<_> =
            snapshots.iter().map(|snapshot| Cooldown::new(snapshot, self.note(&snapshot.key), now, wall)).collect();
        let settings = &self.shared.settings;
        let forward =
            settings.listen.address.iter().map(|address| Listening { address: address.to_string(), upstream: None });
        let reverse = settings.reverse.iter().flat_map(|reverse| {
            let upstream = Some(format!("{}{}", reverse.upstream, reverse.upstream_path));
            reverse
                .address
                .iter()
                .map(move |address| Listening { address: address.to_string(), upstream: upstream.clone() })
        });
        List {
            now: rfc3339(wall),
            name: self.shared.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: rfc3339(self.started.1),
            uptime_seconds: now.saturating_since(self.started.0).as_secs(),
            lifecycle: self.lifecycle().to_owned(),
            listen: forward.chain(reverse).collect(),
            intercept: settings.intercept.hosts.iter().map(|host| host.text.clone()).collect(),
            totals: self.totals(),
            matched,
            truncated: cooldowns.len() < matched,
            cooldowns,
        }
    }

    fn totals(&self) -> Totals {
        let stats = self.shared.table.stats();
        let mut totals = Totals {
            keys: stats.keys,
            max_keys: stats.max_keys,
            evicted: stats.evicted,
            untracked: stats.untracked,
            ..Totals::default()
        };
        for (action, count) in self.shared.metrics.actions() {
            *match action {
                Action::Forwarded => &mut totals.forwarded,
                Action::ShortCircuited => &mut totals.short_circuited,
                Action::Refused => &mut totals.refused,
                Action::Failed => &mut totals.failed,
                Action::Cancelled => &mut totals.cancelled,
            } = count;
        }
        totals
    }

    fn freeze(&self, peer: &str, key: &Key, length: Duration, note: Option<String>) -> Result<Answer, Refused> {
        let (now, wall) = (clock::now(), clock::wall());
        // A host may well be frozen before it is asked. What requests are divided into is copied, and copied wrong it holds
        // nothing.
        let is_unmet = (key.is_group() || !key.scope().is_empty()) && self.shared.table.find(key).is_none();
        let Some(freeze) = self.shared.table.freeze(key, length, now) else {
            return Err(self.refused(
                &Method::PUT,
                StatusCode::SERVICE_UNAVAILABLE,
                "the table is full of live cooldowns (`limits.max_keys`), so a new key cannot be frozen",
            ));
        };
        let until = |until| {
            let length = Duration::from_secs(ceil_secs(clock::wall_of(until, now, wall).saturating_since(wall)));
            let at = humantime::format_rfc3339_seconds(clock::wall_of(until, now, wall).into());
            format!("{at} ({})", humantime::format_duration(length))
        };
        let (changed, message) = match freeze {
            Freeze::Set { until: deadline } => {
                let capped = if length > MAX_FREEZE { "; a freeze lasts at most 30 days, so it was cut" } else { "" };
                let unmet =
                    if is_unmet { "; no request has had this key yet, compare it with `holdoff status`" } else { "" };
                (true, format!("`{key}` is frozen until {}{capped}{unmet}", until(deadline)))
            }
            Freeze::AlreadyLonger { until: deadline } => {
                (false, format!("nothing changed: `{key}` already cools for longer, until {}", until(deadline)))
            }
        };
        self.shared.metrics.admin_action("freeze", true);
        tracing::info!(target: "holdoff::admin", action = "freeze", peer, %key, changed, reason = note, "{message}");
        if changed {
            self.remember(key, note, now);
        }
        Ok(json(&Change { changed, message, released: 0, cooldown: self.cooldown(key, now, wall) }))
    }

    fn release(&self, peer: &str, key: &Key) -> Change {
        let (now, wall) = (clock::now(), clock::wall());
        let (changed, message) = match self.shared.table.release(key, now) {
            Some(true) => (true, format!("`{key}` is released; requests pass again, one by one at first")),
            Some(false) => (false, format!("nothing changed: `{key}` was not cooling")),
            None => (false, format!("nothing changed: `{key}` is not known")),
        };
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.shared.metrics.admin_action("release", true);
        tracing::info!(target: "holdoff::admin", action = "release", peer, %key, changed, "{message}");
        Change { changed, message, released: usize::from(changed), cooldown: self.cooldown(key, now, wall) }
    }

    fn release_all(&self, peer: &str) -> Change {
        let released = self.shared.table.release_all(clock::now());
        let message = match released {
            0 => "nothing changed: nothing was cooling".to_owned(),
            1 => "1 key is released".to_owned(),
            many => format!("{many} keys are released"),
        };
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.metrics.admin_action("release_all", true);
        tracing::info!(target: "holdoff::admin", action = "release_all", peer, released, "{message}");
        Change { changed: released > 0, message, released, cooldown: None }
    }

    fn note(&self, key: &Key) -> Option<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn remember(&self, key: &Key, note: Option<String>, now: Instant) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.remove(key);
        let Some(note) = note else { return };
        if notes.len() >= MAX_NOTES {
            let table = &self.shared.table;
            notes.retain(|key, _| {
                table
                    .find(key)
                    .is_some_and(|entry| entry.snapshot(now).view.frozen_until.is_some_and(|until| until > now))
            });
        }
        if notes.len() < MAX_NOTES {
            notes.insert(key.clone(), note);
        }
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, Refused> {
        let refused = |status, detail: &'static str| Err(self.refused(&Method::PUT, status, detail));
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                self.shared.metrics.bound_reached(Bound::AdminBody);
                refused(StatusCode::PAYLOAD_TOO_LARGE, "expected a body of at most 16 KiB")
            }
            Ok(Err(_)) => refused(StatusCode::BAD_REQUEST, "the body broke off"),
            Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        }
    }

    /// An action that did not happen: counted, and told.
    fn refused(&self, method: &Method, status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Refused {
        if !matches!(*method, Method::GET | Method::HEAD) {
            self.shared.metrics.admin_action(action_of(method), false);
        }
        Refused::new(status, detail)
    }
}

/// The word of a method in the metrics.
fn action_of(method: &Method) -> &'static str {
    match *method {
        Method::PUT => "freeze",
        Method::DELETE => "release",
        _ => "read",
    }
}

fn fits(filter: &Filter, snapshot: &Snapshot) -> bool {
    let view = &snapshot.view;
    let reason = view.cooldown.as_ref().filter(|_| view.state != State::Clear).map(|cooldown| cooldown.reason);
    let notable = view.state != State::Clear
        || view.ramping
        || view.totals.signals > 0
        || view.totals.failures > 0
        || view.totals.cooldowns > 0
        || snapshot.last_error.is_some()
        || snapshot.only_tunnels;
    (notable || filter.all || filter.state == Some(State::Clear) || filter.host.is_some())
        && filter.state.is_none_or(|state| state == view.state)
        && filter.reason.is_none_or(|wanted: Reason| reason == Some(wanted))
        && filter.host.as_ref().is_none_or(|host| snapshot.key.host().starts_with(host))
        && (!filter.only_connect || snapshot.only_tunnels)
}

fn order(snapshot: &Snapshot, now: Instant) -> (u8, Duration, Key) {
    let view = &snapshot.view;
    let remaining = view.cooldown.as_ref().map_or(Duration::ZERO, |cooldown| cooldown.deadline.saturating_since(now));
    match view.state {
        State::Cooling => (0, remaining, snapshot.key.clone()),
        State::Probing => (1, Duration::ZERO, snapshot.key.clone()),
        State::Clear => (if view.ramping { 2 } else { 3 }, Duration::ZERO, snapshot.key.clone()),
    }
}

fn readable(request: &Request<Incoming>) -> Result<(), Refused> {
    if matches!(*request.method(), Method::GET | Method::HEAD) { Ok(()) } else { Err(not_allowed("GET, HEAD")) }
}

fn not_allowed(allow: &'static str) -> Refused {
    let detail = format!("expected one of the methods {allow}");
    Refused { allow: Some(allow), ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
}

/// An error on the way to an answer.
struct Refused {
    status: StatusCode,
    detail: Cow<'static, str>,
    /// The methods of `Allow`.
    allow: Option<&'static str>,
}

impl Refused {
    fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), allow: None }
    }

    fn into_answer(self) -> Answer {
        let problem = Problem {
            r#type: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or_default().to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.into_owned(),
        };
        let mut answer = answer(self.status, "application/problem+json", to_json(&problem));
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"holdoff\""));
        }
        answer
    }
}

fn json(value: &impl Serialize) -> Answer {
    answer(StatusCode::OK, "application/json", to_json(value))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of texts and numbers: nothing in them can fail.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    body
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
