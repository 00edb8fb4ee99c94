//! Asking the keys that a request touches, and telling them what became of it: the host's, and that of the parent proxy on
//! the way, if there is one.
//!
//! Both are asked before any permit is taken, and of two refusals the one with the longer wait is served (SPEC 4.3).
//! Afterwards each is told what it is to learn: a parent that fails says nothing of the host, and a host that cools says
//! nothing of the parent.

use std::sync::Arc;

use http::header::VIA;
use http::{HeaderMap, StatusCode};

use super::connection::Context;
use super::error::{AtParent, ErrorKind, ProxyError};
use super::outcome;
use super::shared::Host;
use super::upstream::Through;
use crate::core::classify::{self, Reading};
use crate::core::decision::{NotUntil, Purpose, Reason};
use crate::core::key::{Key, KeyRef};
use crate::core::signal::Outcome;
use crate::core::time::{Instant, ceil_secs};
use crate::synthetic;
use crate::table::{Entry, Permit, Verdict, clock};

/// What a request may do.
pub(super) enum Admitted {
    /// It may be sent.
    Pass(Pass),
    /// It may not, for this key.
    Refused(Arc<Entry<Host>>, NotUntil),
}

/// A request that may be sent.
pub(super) struct Pass {
    pub(super) entry: Arc<Entry<Host>>,
    pub(super) permit: Option<Permit<Host>>,
    /// Why enforcing would have refused it.
    pub(super) would: Option<Reason>,
    pub(super) hop: Option<Hop>,
}

/// The parent proxy on the way.
pub(super) struct Hop {
    entry: Arc<Entry<Host>>,
    permit: Option<Permit<Host>>,
}

/// Asks before a request is sent.
pub(super) fn admit(context: &Context, key: &KeyRef<'_>, purpose: Purpose, arrived: Instant) -> Admitted {
    let table = &context.shared.table;
    let Some(parent) = context.upstreams.parent(key) else {
        let (entry, verdict) = table.admit(key, purpose, arrived);
        return take(entry, verdict).map_or_else(
            |(entry, refusal)| Admitted::Refused(entry, refusal),
            |(entry, permit, would)| Admitted::Pass(Pass { entry, permit, would, hop: None }),
        );
    };
    // Of the parent we see the answer to a CONNECT, so that it is a request to it.
    let asked = [(key.clone(), purpose), (parent.as_ref(), Purpose::Request)].map(|(key, purpose)| {
        let entry = table.entry(&key, arrived);
        let refusal = entry.refusal(purpose, arrived);
        (entry, refusal)
    });
    let refused = asked.into_iter().filter_map(|(entry, refusal)| Some((entry, refusal?)));
    if let Some((entry, refusal)) = refused.max_by_key(|(_, refusal)| refusal.wait) {
        entry.count_short_circuit();
        return Admitted::Refused(entry, refusal);
    }
    // Somebody may come in between: then a permit that was taken is given back.
    let (entry, verdict) = table.admit(&parent.as_ref(), Purpose::Request, arrived);
    let (hop, hop_permit, hop_would) = match take(entry, verdict) {
        Ok(taken) => taken,
        Err((entry, refusal)) => return Admitted::Refused(entry, refusal),
    };
    let (entry, verdict) = table.admit(key, purpose, arrived);
    let (entry, permit, would) = match take(entry, verdict) {
        Ok(taken) => taken,
        Err((entry, refusal)) => return Admitted::Refused(entry, refusal),
    };
    let would = would.or(hop_would);
    // What enforcing would have refused feeds nothing (SPEC 4.5).
    let kept = would.is_none();
    let hop = Some(Hop { entry: hop, permit: hop_permit.filter(|_| kept) });
    Admitted::Pass(Pass { entry, permit: permit.filter(|_| kept), would, hop })
}

type Taken = (Arc<Entry<Host>>, Option<Permit<Host>>, Option<Reason>);

fn take(entry: Arc<Entry<Host>>, verdict: Verdict<Host>) -> Result<Taken, (Arc<Entry<Host>>, NotUntil)> {
    match verdict {
        Verdict::Forward(permit) => Ok((entry, Some(permit), None)),
        Verdict::Pass => Ok((entry, None, None)),
        Verdict::WouldHave(refusal) => {
            entry.attached().metrics.would_have(refusal.reason);
            Ok((entry, None, Some(refusal.reason)))
        }
        Verdict::ShortCircuit(refusal) => Err((entry, refusal)),
    }
}

/// What an answer that came through a parent, or from a trusted holdoff, says.
pub(super) enum Word {
    /// It is the host's.
    Host,
    /// Another holdoff made it for this host: only its hint counts.
    Relayed,
    /// The parent made it, of itself; the number is that of its error line.
    Parent(Arc<Entry<Host>>, u64),
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
                return Word::Parent(Arc::clone(&self.entry), self.learn(&reading, now));
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
                    outcome::fail(permit, &of_kind, error, self.entry.key(), now);
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

/// Tells both keys of an error.
pub(super) fn failed(permit: Option<Permit<Host>>, hop: Option<&mut Hop>, error: &ProxyError, key: &Key, now: Instant) {
    let means = match hop {
        Some(hop) => hop.failed(error, key, now),
        None => error.kind().outcome(),
    };
    if let Some(permit) = permit {
        outcome::fail(permit, &means, error, key, now);
    }
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
