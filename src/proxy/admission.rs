//! Asking the keys that a request touches, and telling them what became of it: those of its host ([`keys`]), and that of
//! the parent proxy on the way, if there is one.
//!
//! All are asked before any permit is taken, and of several refusals the one with the longest wait is served (SPEC 4.3).
//! Afterwards each is told what it is to learn: a parent that fails says nothing of the host, and a host that cools says
//! nothing of the parent.

use std::sync::Arc;

use http::header::VIA;
use http::{HeaderMap, StatusCode};

use super::connection::Context;
use super::error::{AtParent, ErrorKind, ProxyError};
use super::keys::{self, Keys, Line, Place};
use super::outcome;
use super::shared::Host;
use super::upstream::Through;
use crate::config::settings::HostSettings;
use crate::core::classify::{self, Reading};
use crate::core::decision::{NotUntil, Purpose, Reason};
use crate::core::key::{Key, KeyRef};
use crate::core::level::Asked;
use crate::core::signal::Outcome;
use crate::core::time::{Instant, ceil_secs};
use crate::synthetic;
use crate::table::{Entry, FreePass, Objection, Permit, Verdict, clock};

/// What a request may do.
pub(super) enum Admitted {
    /// It may be sent.
    Pass(Pass),
    /// It may not.
    Refused(Refused),
}

/// A request that may be sent.
pub(super) struct Pass {
    /// The host's entry.
    pub(super) entry: Arc<Entry<Host>>,
    pub(super) keys: Keys,
    /// Why enforcing would have refused it.
    pub(super) would: Option<Reason>,
    pub(super) hop: Option<Hop>,
}

/// A request that may not be sent.
pub(super) struct Refused {
    /// The host's entry.
    pub(super) entry: Arc<Entry<Host>>,
    /// The key that refused it.
    pub(super) by: Arc<Entry<Host>>,
    pub(super) refusal: NotUntil,
    /// Those of the request, where they are not those of the key.
    settings: Option<Arc<HostSettings>>,
}

impl Refused {
    /// The settings of the request.
    pub(super) fn settings(&self) -> &HostSettings {
        self.settings.as_ref().unwrap_or(&self.by.attached().settings)
    }
}

/// The parent proxy on the way.
pub(super) struct Hop {
    entry: Arc<Entry<Host>>,
    permit: Option<Permit<Host>>,
}

/// Asks before a request is sent. `asked`: what of it there is to look at, where it is no CONNECT.
pub(super) fn admit(
    context: &Context,
    key: &KeyRef<'_>,
    purpose: Purpose,
    asked: Option<&Asked<'_>>,
    arrived: Instant,
) -> Admitted {
    let table = &context.shared.table;
    // Before anybody is asked.
    let pass = table.pass();
    let entry = table.entry(key, arrived);
    // Inside a session nothing is dialled; the requests there ask for their parent themselves.
    let parent = if purpose == Purpose::Session { None } else { context.upstreams.parent(key) };
    if parent.is_some() || entry.attached().divides {
        return admit_all(context, entry, parent, (purpose, asked, arrived), pass);
    }
    let (entry, verdict) = table.admit_by(entry, purpose, arrived);
    match verdict {
        Verdict::ShortCircuit(refusal) => {
            Admitted::Refused(Refused { by: Arc::clone(&entry), entry, refusal, settings: None })
        }
        Verdict::Forward(permit) => {
            Admitted::Pass(Pass { entry, keys: Keys::of_host(Some(permit), pass), would: None, hop: None })
        }
        Verdict::Pass => Admitted::Pass(Pass { entry, keys: Keys::of_host(None, pass), would: None, hop: None }),
        Verdict::WouldHave(refusal) => {
            entry.attached().metrics.would_have(refusal.reason);
            let would = Some(refusal.reason);
            Admitted::Pass(Pass { entry, keys: Keys::of_host(None, pass), would, hop: None })
        }
    }
}

/// [`admit`], where there are several keys.
fn admit_all(
    context: &Context,
    host: Arc<Entry<Host>>,
    parent: Option<&Key>,
    (purpose, asked, now): (Purpose, Option<&Asked<'_>>, Instant),
    pass: FreePass,
) -> Admitted {
    let shared = &context.shared;
    let settings = match asked {
        Some(asked) => shared.settings.hosts.resolve_at(host.key(), asked.path),
        None => &host.attached().settings,
    };
    let settings = &Arc::clone(settings);
    let places = keys::places(shared, &host, settings, asked, now);
    let hop = parent.map(|parent| shared.table.entry(&parent.as_ref(), now));
    // Also where it is refused: which bucket a level is in would be forgotten with an entry that seems idle.
    for entry in places.iter().map(|place| &place.entry).chain(&hop).chain([&host]) {
        entry.touch(purpose, now);
    }
    match objection(&host, &places, hop.as_ref(), purpose, now) {
        Some((by, Objection { refusal, enforced: true })) => {
            by.count_short_circuit();
            return Admitted::Refused(Refused { entry: host, by, refusal, settings: Some(Arc::clone(settings)) });
        }
        // What enforcing would have refused feeds nothing (SPEC 4.5), and is counted once.
        Some((by, Objection { refusal, enforced: false })) => {
            by.count_would_have();
            return would_have(host, settings, places, hop, refusal.reason, pass);
        }
        None => {}
    }
    // Somebody may come in between: then the permits that were taken are given back.
    let take = |entry: Arc<Entry<Host>>, purpose| {
        let (entry, verdict) = shared.table.admit_by(entry, purpose, now);
        match verdict {
            Verdict::Forward(permit) => Ok((entry, Some(permit), None)),
            Verdict::Pass => Ok((entry, None, None)),
            Verdict::WouldHave(refusal) => Ok((entry, None, Some(refusal.reason))),
            Verdict::ShortCircuit(refusal) => Err((entry, refusal)),
        }
    };
    // Of the parent we see the answer to a CONNECT, so that it is a request to it.
    let purposes = hop.is_some().then_some(Purpose::Request).into_iter().chain(std::iter::repeat(purpose));
    let entries = hop.iter().chain(places.iter().map(|place| &place.entry)).map(Arc::clone);
    let mut taken = Vec::with_capacity(places.len().saturating_add(1));
    let mut would = None;
    for (entry, purpose) in entries.zip(purposes) {
        match take(entry, purpose) {
            Ok((entry, permit, reason)) => {
                would = would.or(reason);
                taken.push((entry, permit));
            }
            Err((by, refusal)) => {
                let settings = Some(Arc::clone(settings));
                return Admitted::Refused(Refused { entry: host, by, refusal, settings });
            }
        }
    }
    if let Some(reason) = would {
        drop(taken);
        return would_have(host, settings, places, hop, reason, pass);
    }
    let mut taken = taken.into_iter();
    let hop = hop.and_then(|_| taken.next()).map(|(entry, permit)| Hop { entry, permit });
    let held = places.into_iter().zip(taken).map(|(place, (entry, permit))| (Place { entry, ..place }, permit));
    Admitted::Pass(Pass { entry: host, keys: Keys::of_places(settings, held, pass), would: None, hop })
}

/// The objection that counts: of those that are enforced, else of all, that with the longest wait.
fn objection(
    host: &Arc<Entry<Host>>,
    places: &[Place],
    hop: Option<&Arc<Entry<Host>>>,
    purpose: Purpose,
    now: Instant,
) -> Option<(Arc<Entry<Host>>, Objection)> {
    let of_places = places.iter().filter_map(|place| Some((&place.entry, place.entry.objection(purpose, now)?)));
    let of_hop = hop.and_then(|entry| Some((entry, entry.objection(Purpose::Request, now)?)));
    // A freeze of the host holds for whatever it is divided into.
    let of_host = host.frozen(now).map(|refusal| (host, Objection { refusal, enforced: true }));
    let all = of_places.chain(of_hop).chain(of_host);
    let (by, objection) = all.max_by_key(|(_, objection)| (objection.enforced, objection.refusal.wait))?;
    Some((Arc::clone(by), objection))
}

/// A request that is sent although enforcing would not have sent it.
fn would_have(
    host: Arc<Entry<Host>>,
    settings: &Arc<HostSettings>,
    places: Vec<Place>,
    hop: Option<Arc<Entry<Host>>>,
    reason: Reason,
    pass: FreePass,
) -> Admitted {
    host.attached().metrics.would_have(reason);
    let keys = Keys::of_places(settings, places.into_iter().map(|place| (place, None)), pass);
    let hop = hop.map(|entry| Hop { entry, permit: None });
    Admitted::Pass(Pass { entry: host, keys, would: Some(reason), hop })
}

/// What an answer that came through a parent, or from a trusted holdoff, says.
pub(super) enum Word {
    /// It is the host's.
    Host,
    /// Another holdoff made it for this host: only its hint counts.
    Relayed,
    /// The parent made it, of itself.
    Parent(Option<Line>),
}

impl Hop {
    /// The parent's key.
    pub(super) fn key(&self) -> &Key {
        self.entry.key()
    }

    fn complete(&mut self, outcome: &Outcome, now: Instant) {
        if let Some(permit) = self.permit.take() {
            permit.complete(outcome, None, None, now, clock::draw());
        }
    }

    /// A tunnel was opened.
    pub(super) fn opened(&mut self, now: Instant) {
        self.complete(&Outcome::Success, now);
    }

    /// Tells the parent what an answer means for it, and says whose the answer is. `key` is the host's.
    pub(super) fn answered(
        &mut self,
        through: Option<Through>,
        (status, headers): (StatusCode, &HeaderMap),
        key: &Key,
        now: Instant,
    ) -> Word {
        match through {
            // What was carried in a tunnel of before says that the parent is there, not that it opens tunnels.
            Some(Through::Tunnel { fresh: false }) | None => self.complete(&Outcome::Answered, now),
            Some(Through::Tunnel { fresh: true }) => self.complete(&Outcome::Success, now),
            Some(Through::Forward) => {
                let Some(mark) = synthetic::mark(headers) else {
                    self.complete(&Outcome::Success, now);
                    return Word::Host;
                };
                // What the parent passes on has `Via`; what names this host is about it. Both are no word of the parent
                // about itself.
                if headers.contains_key(VIA) || mark.key.is_some_and(|named| named == key.to_string()) {
                    self.complete(&Outcome::Success, now);
                    return Word::Relayed;
                }
                let reading = self.read(status, headers).relayed();
                if reading.outcome == Outcome::Neutral {
                    self.complete(&Outcome::Answered, now);
                    return Word::Relayed;
                }
                let number = self.learn(&reading, now);
                return Word::Parent((number != 0).then(|| (Arc::clone(&self.entry), number)));
            }
        }
        Word::Host
    }

    fn read(&self, status: StatusCode, headers: &HeaderMap) -> Reading {
        classify::response(&self.entry.attached().settings.policy.signals, status, headers, clock::wall())
    }

    fn learn(&mut self, reading: &Reading, now: Instant) -> u64 {
        // Mode off neither reads nor feeds.
        let Some(permit) = self.permit.take() else { return 0 };
        self.entry.attached().metrics.reading(reading);
        outcome::finish(permit, reading, self.entry.key(), now)
    }

    /// Tells the parent what an error means for it. Gives what the host is to be told.
    fn failed(&mut self, error: &ProxyError, key: &Key, now: Instant) -> Outcome {
        let of_kind = error.kind().outcome();
        match error.parent() {
            Some(AtParent::Failed) => {
                if let Some(permit) = self.permit.take() {
                    let line = outcome::failure_line(&of_kind, error, self.entry.key());
                    permit.complete(&of_kind, None, line.as_deref(), now, clock::draw());
                }
                Outcome::Neutral
            }
            Some(AtParent::Unknown) => of_kind,
            Some(AtParent::Served) => {
                self.complete(&Outcome::Answered, now);
                of_kind
            }
            // Our own credentials are nothing it can help.
            Some(AtParent::Answered { .. }) if error.kind() == ErrorKind::ParentAuth => Outcome::Neutral,
            Some(AtParent::Answered { status, headers }) => self.refused(*status, headers, of_kind, key, now),
            // Whatever went wrong did so behind the parent; but what says nothing of the host may have come before it.
            None if of_kind != Outcome::Neutral => {
                self.complete(&Outcome::Answered, now);
                of_kind
            }
            None => Outcome::Neutral,
        }
    }

    /// The parent answered instead of opening a tunnel.
    fn refused(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        of_kind: Outcome,
        key: &Key,
        now: Instant,
    ) -> Outcome {
        let mut reading = self.read(status, headers);
        let mark = synthetic::mark(headers);
        if let Some(mark) = &mark {
            reading = reading.relayed();
            if mark.key.as_ref().is_some_and(|named| *named == key.to_string()) {
                self.complete(&Outcome::Answered, now);
                return reading.outcome;
            }
        }
        match reading.outcome {
            Outcome::Signal(_) | Outcome::OffLadder(_) => {
                let _ = self.learn(&reading, now);
                Outcome::Neutral
            }
            _ => {
                self.complete(&Outcome::Answered, now);
                if mark.is_some() { Outcome::Neutral } else { of_kind }
            }
        }
    }
}

/// Tells all keys of an error. `key` is the host's.
pub(super) fn failed(
    context: &Context,
    keys: &mut Keys,
    hop: Option<&mut Hop>,
    error: &ProxyError,
    key: &Key,
    now: Instant,
) {
    let means = match hop {
        Some(hop) => hop.failed(error, key, now),
        None => error.kind().outcome(),
    };
    outcome::fail(&context.shared, keys, &means, error, key, now);
}

/// The key that an error is about, of the two.
pub(super) fn key_of<'a>(error: &ProxyError, hop: Option<&'a Hop>, key: &'a Key) -> &'a Key {
    let at_parent = match error.parent() {
        Some(AtParent::Failed) => true,
        Some(_) if error.kind() == ErrorKind::ParentAuth => true,
        Some(AtParent::Answered { headers, .. }) => {
            let named = synthetic::mark(headers).and_then(|mark| mark.key);
            named.is_none_or(|named| named != key.to_string())
        }
        Some(AtParent::Served | AtParent::Unknown) | None => false,
    };
    hop.filter(|_| at_parent).map_or(key, Hop::key)
}

/// How long a parent that refused is left alone, in whole seconds, at least one.
pub(super) fn named_wait(error: &ProxyError, hop: Option<&Hop>, now: Instant) -> Option<u64> {
    let Some(AtParent::Answered { status, headers }) = error.parent() else { return None };
    if !matches!(error.kind(), ErrorKind::ParentLimited | ErrorKind::ParentUnavailable) {
        return None;
    }
    let hop = hop?;
    let cooling = hop.entry.refusal(Purpose::Request, now).map(|refusal| refusal.wait);
    let wait = cooling.or_else(|| Some(hop.read(*status, headers).hint_seen?.wait))?;
    Some(ceil_secs(wait).max(1))
}
