//! Why a host is held back, and what an answer would start (SPEC 11.3, `explain`).
//!
//! An operator who sees a 429 of ours asks: which of my settings is this, what exactly is held back, what did the host say,
//! and how does it go on? The answer is made here, from the settings and the core, without a socket, so that the command line
//! gives it for a file that no sidecar runs with yet, and the admin listener gives the same about the keys it has. Nothing is
//! told twice: the response is read by `core::classify`, and what it starts is tried out on a copy of the key's state machine.
//! Asking changes nothing, and makes no key known.
//!
//! Header fields and queries of the request are hashed as always and not repeated; neither is its path.

use crate::config::settings::{HostSettings, Settings};
use crate::core::cooldown::Cooldown;
use crate::core::key::Key;
use crate::core::policy::Mode;
use crate::core::signal::Outcome;
use crate::core::signal::body::Cools;
use crate::core::time::{Instant, UnixTime};
use crate::table::Snapshot;

mod effect;
mod keys;
mod notes;
mod question;
mod reading;
mod text;
pub mod view;

pub use question::{MAX_TIMES, Names, Question, Written};
pub use text::text;

use effect::Trial;
use question::Given;
use view::{Explanation, KeyPart, ResponsePart, seconds};

/// What a running sidecar knows of a key.
#[derive(Clone, Debug)]
pub struct Known {
    /// What is shown of it.
    pub snapshot: Snapshot,
    /// Its state machine.
    pub machine: Cooldown,
    /// Of a level, the key of the bucket that the host named last.
    pub bucket: Option<Key>,
}

/// What an explanation is made from.
pub struct Basis<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// Our name in answers.
    pub name: &'a str,
    /// What values that may be credentials are hashed with.
    pub hash: &'a dyn Fn(&[u8]) -> u64,
    /// What is known of a key, without making it known.
    pub known: &'a dyn Fn(&Key) -> Option<Known>,
    /// Whether a sidecar is running.
    pub running: bool,
    /// The clock of the keys.
    pub now: Instant,
    /// The wall clock.
    pub wall: UnixTime,
}

/// Explains what holds for a request, and what its response would start. `body`: that of the response.
pub fn explain(basis: &Basis<'_>, question: &Question, body: Option<&[u8]>) -> Explanation {
    let settings = basis.settings;
    let (host, upgraded, of) = keys::settings_of(settings, question);
    let answer = match &question.response {
        Some(Given::Response(_, headers)) => Some(headers),
        Some(Given::Failure(_)) | None => None,
    };
    let places = keys::places((&host, upgraded), of, question, answer, basis.hash, basis.known);
    // A freeze of the host holds for whatever it is divided into.
    let frozen = keys::frozen_whole(&places, basis.known, basis.now);
    let mut explanation = Explanation {
        method: question.method.as_str().to_owned(),
        host: question.key.to_string(),
        running: basis.running,
        policy: keys::policy(&settings.hosts, &host, &question.path, of),
        keys: places.parts(of, None, basis.known, basis.now),
        response: None,
        effect: None,
        schedule: None,
        meanwhile: None,
        notes: notes::of_request(settings, of, &places, question),
    };
    if frozen.is_some() {
        explanation
            .notes
            .push(format!("an operator froze `{host}` as a whole, and with it whatever it is divided into"));
    }
    if let Some(given) = &question.response {
        answered(basis, question, given, of, &places, body, &mut explanation);
    }
    explanation.keys.splice(0..0, frozen);
    explanation
}

/// Adds what a response would start.
fn answered(
    basis: &Basis<'_>,
    question: &Question,
    given: &Given,
    of: &HostSettings,
    places: &keys::Places,
    body: Option<&[u8]>,
    explanation: &mut Explanation,
) {
    let meaning = reading::read(question, given, of, body, basis.wall);
    let (place, because) = places.target(of, &meaning.outcome, meaning.scope);
    let (target, because) = match &meaning.cools {
        None | Some(Cools::Level) => {
            (places.places.get(place).map_or_else(|| places.host.clone(), |place| place.key.clone()), because)
        }
        Some(Cools::Host) => (
            places.places.first().map_or_else(|| places.host.clone(), |place| place.key.clone()),
            "the rule says `cools = \"host\"`".to_owned(),
        ),
        Some(Cools::Group(name)) => (
            Key::group(name).unwrap_or_else(|_| places.host.clone()),
            format!("the rule says `cools = \"group:{name}\"`"),
        ),
    };
    explanation.keys = places.parts(of, None, basis.known, basis.now);
    for part in &mut explanation.keys {
        part.is_target = part.key == target.to_string();
    }
    if explanation.keys.iter().all(|part: &KeyPart| !part.is_target) {
        explanation.notes.push(format!("the request itself is not of `{target}`, which is what cools"));
    }
    let known = (basis.known)(&target);
    let (policy, _) = basis.settings.hosts.of_key(&target);
    let fresh = Cooldown::new();
    let machine = known.as_ref().map_or(&fresh, |known| &known.machine);
    let trial = Trial { policy: &policy, outcome: &meaning.outcome, machine, now: basis.now };
    let tried = trial.run(question.times);
    let climbs = matches!(meaning.outcome, Outcome::Signal(_));
    explanation.response = Some(ResponsePart {
        given: match given {
            Given::Response(status, _) => status.as_str().to_owned(),
            Given::Failure(failure) => failure.as_str().to_owned(),
        },
        outcome: meaning.outcome.as_str().to_owned(),
        why: match &meaning.outcome {
            Outcome::Failing(failure) if policy.breaker.classes => {
                format!("{}; its class is `{}`", meaning.why, failure.class().as_str())
            }
            _ => meaning.why,
        },
        hint_seconds: meaning.hint.map(|hint| seconds(hint.wait)),
        source: meaning.hint.map(|hint| hint.source.as_str().to_owned()),
        climbs,
        target: target.to_string(),
        because,
        fields: meaning.fields,
        problems: meaning.problems,
        clock_offset_seconds: meaning.clock_offset,
    });
    explanation.notes.extend(meaning.notes);
    explanation.notes.extend(trial.late().filter(|_| policy.mode != Mode::Off));
    explanation.meanwhile = tried.started.as_ref().map(|started| notes::meanwhile(basis, of, &target, started));
    explanation.effect = Some(tried.effect);
    explanation.schedule = tried.schedule;
}

#[cfg(test)]
mod tests;
