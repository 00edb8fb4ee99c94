//! What is counted and logged of one request. A record lives as long as its request: in the exchange until there is an
//! answer, then in the answer's body. Dropped without a word about the action, the client has left.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};

use super::body::Excerpt;
use super::error::{Fault, ProxyError};
use super::shared::{Host, Shared};
use crate::core::decision::Reason;
use crate::core::level::{self, Level};
use crate::core::signal::{Hint, printable};
use crate::core::time::{Instant, ceil_secs};
use crate::metrics::{Action, InFlight};
use crate::table::{Entry, clock};

/// The most of a path that is logged.
const PATH: usize = 256;

/// What is counted and logged of one request.
pub(super) struct Record {
    entry: Option<Arc<Entry<Host>>>,
    _in_flight: Option<InFlight>,
    arrived: Instant,
    action: Option<Action>,
    reason: Option<&'static str>,
    is_session: bool,
    status: Option<u16>,
    retry_after: Option<u64>,
    bytes: u64,
    excerpt: Option<Excerpt>,
    line: Option<Box<Line>>,
}

/// What the access log shows of the request: no query, no credentials, and nothing that a terminal takes for a command.
struct Line {
    method: Method,
    path: Box<str>,
}

impl Record {
    pub(super) fn new<B>(
        shared: &Shared,
        entry: Option<&Arc<Entry<Host>>>,
        request: &Request<B>,
        arrived: Instant,
    ) -> Self {
        let line = shared.settings.log.access.then(|| {
            let path = printable(request.uri().path().as_bytes(), PATH);
            Box::new(Line { method: request.method().clone(), path })
        });
        let mut record = Self {
            entry: entry.cloned(),
            _in_flight: entry.map(|entry| entry.attached().metrics.in_flight()),
            arrived,
            action: None,
            reason: None,
            is_session: false,
            status: None,
            retry_after: None,
            bytes: 0,
            excerpt: None,
            line,
        };
        if entry.is_none() {
            // Whose credentials the path may have is not known, so that everybody's are taken for such.
            let path = request.uri().path();
            record.hide_all(shared.settings.hosts.all().map(|settings| &*settings.levels), path, path);
        }
        record
    }

    /// Takes from the path that is logged the segments that are credentials of the policy. `path` is the client's, `sent`
    /// the upstream's.
    pub(super) fn hide(&mut self, levels: &[Level], path: &str, sent: &str) {
        self.hide_all(std::iter::once(levels), path, sent);
    }

    fn hide_all<'l>(&mut self, policies: impl Iterator<Item = &'l [Level]>, path: &str, sent: &str) {
        let Some(line) = &mut self.line else { return };
        let secrets: Vec<&str> = policies.flat_map(|levels| level::secrets(levels, sent)).collect();
        if !secrets.is_empty() {
            let shown = |segment| if secrets.contains(&segment) { "~" } else { segment };
            let path = path.split('/').map(shown).collect::<Vec<_>>().join("/");
            line.path = printable(path.as_bytes(), PATH);
        }
    }

    fn set(&mut self, action: Action) {
        if self.action.replace(action).is_none()
            && let Some(entry) = &self.entry
        {
            entry.attached().metrics.action(action);
        }
    }

    /// Answered here, because the key is not to be asked now.
    pub(super) fn short_circuited(&mut self, reason: Reason) {
        self.reason = Some(reason.as_str());
        if self.action.replace(Action::ShortCircuited).is_none()
            && let Some(entry) = &self.entry
        {
            entry.attached().metrics.short_circuit(reason);
        }
    }

    /// The upstream has answered.
    pub(super) fn forwarded(&mut self, excerpt: Option<Excerpt>) {
        self.set(Action::Forwarded);
        self.excerpt = excerpt;
    }

    /// The upstream has named a wait. Logged, so that the access log can be replayed.
    pub(super) fn hinted(&mut self, hint: Option<Hint>) {
        self.retry_after = hint.map(|hint| ceil_secs(hint.wait));
    }

    /// A CONNECT whose TLS ends here: what is asked inside is counted there.
    pub(super) fn intercepted(&mut self) {
        self.reason = Some("intercepted");
        self.is_session = true;
    }

    /// Answered here, about ourselves.
    pub(super) fn own(mut self) -> Self {
        self.set(Action::Refused);
        self
    }

    /// There will be no answer of the upstream.
    pub(super) fn failed(&mut self, shared: &Shared, error: &ProxyError) {
        let kind = error.kind();
        self.reason = Some(kind.as_str());
        if let Some(bound) = error.bound() {
            shared.metrics.bound_reached(bound);
        }
        let refused = kind.fault() == Fault::Client;
        if !refused && let Some(entry) = &self.entry {
            entry.attached().metrics.upstream_error(kind);
        }
        self.set(if refused { Action::Refused } else { Action::Failed });
    }

    /// The answer broke off.
    pub(super) fn broke(&mut self, error: &ProxyError) {
        self.reason = Some(error.kind().as_str());
        let Some(entry) = &self.entry else { return };
        let metrics = &entry.attached().metrics;
        metrics.upstream_error(error.kind());
        if let Some(bound) = error.bound() {
            metrics.bound_reached(bound);
        }
    }

    /// The status that the client gets.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// A piece of the answer's body was handed on.
    pub(super) fn sent(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Some(excerpt) = &mut self.excerpt {
            excerpt.add(data);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = clock::now().saturating_since(self.arrived);
        if !self.is_session {
            self.set(self.action.unwrap_or(Action::Cancelled));
            if let Some(entry) = &self.entry {
                entry.attached().metrics.request_seconds(took);
            }
        }
        let Some(line) = &self.line else { return };
        tracing::info!(
            target: "access",
            method = %line.method,
            host = self.entry.as_ref().map(|entry| tracing::field::display(entry.key())),
            path = &*line.path,
            status = self.status,
            retry_after = self.retry_after,
            action = self.action.map(Action::as_str),
            reason = self.reason,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            bytes = self.bytes,
            "request"
        );
    }
}
