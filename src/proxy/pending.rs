//! What a response means that goes well so far, decided behind its head: by the trailers of a gRPC call, by what body rules
//! see in the body, or by both (SPEC 2.12).
//!
//! A signal or failure in the head is told at once. Only a success waits, with its permit, inside the response body, and at
//! most the probe lease: a stream that lives for hours must not keep its host from being clear. What turns up behind that,
//! or behind a failure of the head, counts all the same.
//!
//! The body is looked at as it passes. It is neither held back nor changed, and what is kept of it is bounded by the rules.
//! What was seen is judged once: when nothing that follows can change the verdict, when the body ends or breaks off, or when
//! the client leaves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Sleep;

use super::error::ProxyError;
use super::keys::{About, Keys, Told};
use super::outcome;
use super::shared::{Host, Shared};
use crate::core::classify::Reading;
use crate::core::decision::{Reason, Source};
use crate::core::key::Key;
use crate::core::signal::body::{Cools, Match, Problem, Problems, Watch};
use crate::core::signal::{Cause, Field, Hint, MAX_RECEIVED, Outcome, Signal, printable};
use crate::core::time::Instant;
use crate::table::{Entry, clock};

/// A response of which the last word is not said.
pub(super) struct Pending {
    shared: Arc<Shared>,
    /// The host's.
    entry: Arc<Entry<Host>>,
    keys: Keys,
    /// Of the head. Taken when nothing more is to come.
    reading: Option<Reading>,
    /// Taken when the body is judged.
    watch: Option<Watch>,
    head_at: Instant,
    /// How long the success waits. `None`: it waits no more, or never did.
    lease: Option<Pin<Box<Sleep>>>,
    keeps_message: bool,
}

/// What is to come of a response behind its head.
pub(super) struct Rest {
    /// The reading of the head.
    pub(super) reading: Reading,
    /// What looks at the body.
    pub(super) watch: Option<Watch>,
    /// When the head came.
    pub(super) head_at: Instant,
    /// Whether `grpc-message` may be shown to people.
    pub(super) keeps_message: bool,
}

/// Whether what a head says is told only when the rest has come. `watched`: body rules look at the rest.
pub(super) fn waits(reading: &Reading, watched: bool) -> bool {
    reading.awaits_trailers() || (watched && matches!(reading.outcome, Outcome::Success | Outcome::Answered))
}

impl Pending {
    /// For what [`waits`], and for what was told early and is watched. `entry` is the host's.
    pub(super) fn new(shared: &Arc<Shared>, entry: &Arc<Entry<Host>>, keys: Keys, rest: Rest) -> Self {
        let Rest { reading, watch, head_at, keeps_message } = rest;
        let lease = waits(&reading, watch.is_some()).then(|| {
            let lease = keys.settings(entry).policy.cooldown.probe_lease;
            Box::pin(tokio::time::sleep(lease))
        });
        let (shared, entry) = (Arc::clone(shared), Arc::clone(entry));
        Self { shared, entry, keys, reading: Some(reading), watch, head_at, lease, keeps_message }
    }

    /// Looks at what the body gave. `ended`: nothing comes behind it. Says whether the last word is said.
    pub(super) fn see(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, ProxyError>>>,
        ended: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => self.end(Some(trailers)),
                None => {
                    self.watch(frame.data_ref());
                    if ended {
                        self.end(None);
                    } else {
                        // A body that always has more is never waited for.
                        self.look_at_lease(cx);
                    }
                }
            },
            Poll::Ready(Some(Err(error))) => self.broke(error),
            Poll::Ready(None) => self.end(None),
            Poll::Pending => self.look_at_lease(cx),
        }
        self.reading.is_none()
    }

    /// The end has come: with trailers, or without any.
    pub(super) fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.judge();
        let Some(reading) = self.reading.take() else { return };
        if reading.awaits_trailers() {
            self.finish_call(reading, trailers);
        } else if self.lease.take().is_some() {
            self.tell(&reading, clock::now());
        }
        self.keys.cancel();
    }

    fn watch(&mut self, data: Option<&Bytes>) {
        let is_decided = match (&mut self.watch, data) {
            (Some(watch), Some(data)) => watch.see(data),
            _ => return,
        };
        if is_decided {
            self.judge();
            if !self.awaits_trailers() {
                self.end(None);
            }
        }
    }

    fn awaits_trailers(&self) -> bool {
        self.reading.as_ref().is_some_and(Reading::awaits_trailers)
    }

    fn finish_call(&mut self, reading: Reading, trailers: Option<&HeaderMap>) {
        let now = clock::now();
        let rules = &self.keys.settings(&self.entry).policy.signals;
        let reading = reading.with_trailers(rules, trailers, now.saturating_since(self.head_at));
        // A success is counted once.
        if self.lease.take().is_none() && !reading.outcome.is_trouble() {
            self.keys.cancel();
        }
        let line = outcome::complete(&self.shared, &self.entry, &mut self.keys, &reading, now, clock::wall());
        if let Some(trailers) = trailers.filter(|_| self.keeps_message) {
            outcome::keep_message(line.as_ref(), trailers);
        }
    }

    fn broke(&mut self, error: &ProxyError) {
        self.judge();
        let Some(reading) = self.reading.take() else { return };
        if self.lease.take().is_some() || reading.awaits_trailers() {
            let means = error.kind().outcome();
            outcome::fail(&self.shared, &mut self.keys, &means, error, self.entry.key(), clock::now());
        }
        self.keys.cancel();
    }

    fn look_at_lease(&mut self, cx: &mut Context<'_>) {
        if self.lease.as_mut().is_none_or(|lease| lease.as_mut().poll(cx).is_pending()) {
            return;
        }
        // What was seen so far may be enough; if not, the rest is looked at all the same.
        match self.watch.clone().and_then(|watch| watch.finish().matched) {
            Some(found) => {
                self.watch = None;
                self.matched(&found);
            }
            None => self.succeed(clock::now()),
        }
    }

    /// The lease is over.
    fn succeed(&mut self, now: Instant) {
        self.lease = None;
        if let Some(reading) = self.reading.take() {
            self.tell(&reading, now);
            self.reading = Some(reading);
        }
    }

    /// Tells what the head says.
    fn tell(&mut self, reading: &Reading, now: Instant) {
        let _ = outcome::tell_early(&self.shared, &self.entry, &mut self.keys, reading, now, clock::wall());
    }

    /// Looks at what was seen of the body, for the only time.
    fn judge(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let verdict = watch.finish();
        self.note(verdict.problems);
        if let Some(found) = verdict.matched {
            self.matched(&found);
        }
    }

    fn note(&self, problems: Problems) {
        for problem in problems.iter() {
            let cause = match problem {
                Problem::Malformed => Cause::Malformed,
                Problem::Unsupported => Cause::Unsupported,
                // As most bodies are.
                Problem::TooLong => continue,
            };
            self.entry.attached().metrics.signal_error(Field::Body, cause);
            tracing::debug!(
                target: "holdoff::body",
                host = self.entry.key().host(),
                cause = cause.as_str(),
                "a body that body rules look at could not be read to its end"
            );
        }
    }

    /// A rule matches: the key that it names is told, the others that the host answered.
    fn matched(&mut self, found: &Match) {
        self.lease = None;
        let Some(status) = self.reading.as_ref().map(|reading| reading.status) else { return };
        let now = clock::now();
        let text = found.to_string();
        let line = outcome::match_line(self.entry.key(), status, &text);
        let busy = Outcome::OffLadder(Signal {
            reason: Reason::BackendBusy,
            hint: Some(Hint { wait: found.rule.cooldown, source: Source::BodyRule }),
            received: Some(printable(text.as_bytes(), MAX_RECEIVED)),
        });
        self.entry.attached().metrics.body_matched();
        self.log(found, now);
        let about = if found.rule.cools == Cools::Level { About::Narrowest } else { About::Base };
        let told = Told { outcome: &busy, status: Some(status.as_u16()), line: Some(&line), about, now };
        let told = match group(&found.rule.cools) {
            Some(group) if !self.keys.is_of(&group) => {
                let _ = self.keys.tell_group(&self.shared, &group, &told);
                // The keys of the request: what the answer says is about others.
                Told { outcome: &Outcome::Answered, line: None, ..told }
            }
            _ => told,
        };
        let _ = self.keys.tell_early(&self.shared, &told);
        if !self.awaits_trailers() {
            self.keys.cancel();
            self.reading = None;
        }
    }

    fn log(&self, found: &Match, now: Instant) {
        let key = self.entry.key();
        if !self.shared.matches.allows(key, now) {
            return;
        }
        let saw: Vec<String> =
            found.seen.iter().take(MAX_SHOWN).map(|(condition, saw)| format!("{condition}: {saw}")).collect();
        tracing::info!(
            target: "holdoff::body",
            host = key.host(),
            %key,
            rule = &*found.rule.name,
            cools = %found.rule.cools,
            saw = &*printable(saw.join("; ").as_bytes(), MAX_SAW),
            "for" = %humantime::format_duration(found.rule.cooldown),
            "the body of an answer says that the host is busy"
        );
    }
}

/// The group that a rule cools. Its name was checked with the configuration.
fn group(cools: &Cools) -> Option<Key> {
    match cools {
        Cools::Group(name) => Key::group(name).ok(),
        Cools::Host | Cools::Level => None,
    }
}

/// How many of the conditions that hold are logged, and how many bytes of them.
const MAX_SHOWN: usize = 8;
const MAX_SAW: usize = 1024;

impl Drop for Pending {
    /// The client has left, which says nothing; but what was seen of the body does, and a body that is not asked for does not
    /// notice the end of its lease.
    fn drop(&mut self) {
        if self.reading.is_none() {
            return;
        }
        self.judge();
        let lease = self.keys.settings(&self.entry).policy.cooldown.probe_lease;
        if self.lease.is_some() && self.keys.feeds() {
            let now = clock::now();
            if now.saturating_since(self.head_at) >= lease {
                self.succeed(now);
            }
        }
    }
}
