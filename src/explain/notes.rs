//! What else an operator wants to know: what the program sees meanwhile, and what stands in the way of what was asked.

use bytes::Bytes;
use http::Response;

use super::Basis;
use super::effect::Started;
use super::keys::Places;
use super::question::Question;
use super::view::Meanwhile;
use crate::config::settings::{HostSettings, OnCooldown, Settings};
use crate::core::decision::State;
use crate::core::key::{Key, Scheme};
use crate::core::level::By;
use crate::core::policy::Mode;
use crate::synthetic::{self, HOLDOFF, RequestFacts, ShortCircuit};

/// What is to be said of a request, whatever its response.
pub(super) fn of_request(settings: &Settings, of: &HostSettings, places: &Places, question: &Question) -> Vec<String> {
    let mut notes = Vec::new();
    if places.upgraded {
        notes.push(format!(
            "`tls.upgrade` is on: what is asked of `{}` goes to `{}`, whose key it has",
            question.key, places.host
        ));
    }
    if of.policy.mode == Mode::Observe {
        notes.push("the mode is observe: everything is decided and counted, and every request is forwarded".to_owned());
    }
    if of.policy.mode == Mode::Off {
        notes.push("the mode is off: answers are not read, and only a freeze is enforced".to_owned());
    }
    if !places.upgraded && places.host.scheme() == Scheme::Https && !is_seen(settings, &places.host) {
        notes.push(
            "nothing here lets holdoff see inside https to this host: as CONNECT its answers are hidden, and only a `[[reverse]]`, \
             `tls.upgrade` or `[intercept]` shows them"
                .to_owned(),
        );
    }
    if let Some(parent) = settings.upstream.parents.of(&places.host.as_ref()) {
        notes.push(format!("the host is reached through the parent proxy `{}`, which may cool, too", parent.key));
    }
    for level in of.levels.iter() {
        if !places.places.iter().any(|place| place.level.and_then(|at| of.levels.get(at)) == Some(level)) {
            notes.push(format!(
                "the path fits none of the routes of level `{}`, so the request has no key there",
                level.name
            ));
            continue;
        }
        for by in &level.by {
            match by {
                By::Header(name) if !question.headers.contains_key(name) => notes.push(format!(
                    "no `{name}` of the request was given, so the key of level `{}` is that of requests without it",
                    level.name
                )),
                _ => {}
            }
        }
    }
    notes
}

/// Whether answers of an https host can be seen.
fn is_seen(settings: &Settings, host: &Key) -> bool {
    let plain = Key::parse(&format!(
        "http://{}",
        if host.host().contains(':') { format!("[{}]", host.host()) } else { host.host().to_owned() }
    ));
    settings.reverse.iter().any(|reverse| reverse.upstream == *host)
        || settings.intercept.names(host.host(), host.port())
        || (host.port() == Scheme::Https.default_port()
            && plain.is_ok_and(|plain| settings.hosts.upgrades(&plain.as_ref())))
}

/// What the program sees right after a cooldown began: the answer itself, as `synthetic` makes it.
pub(super) fn meanwhile(basis: &Basis<'_>, of: &HostSettings, key: &Key, started: &Started) -> Meanwhile {
    let nothing = |what: &str| Meanwhile { what: what.to_owned(), status: None, retry_after: None, holdoff: None };
    if of.policy.mode != Mode::Enforce {
        return nothing("forwarded");
    }
    if of.on_cooldown == OnCooldown::Close {
        return nothing("closed");
    }
    let short_circuit = ShortCircuit {
        name: basis.name,
        key,
        reason: started.reason,
        wait: started.length,
        state: State::Cooling,
        last_error: None,
        answer: &of.answer,
    };
    let facts = RequestFacts { head: false, accept: None, grpc: false, now: basis.wall };
    let answer: Response<Bytes> = synthetic::short_circuit(&short_circuit, &facts);
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    Meanwhile {
        what: "answered".to_owned(),
        status: Some(answer.status().as_u16()),
        retry_after: text(http::header::RETRY_AFTER).and_then(|text| text.parse().ok()),
        holdoff: text(HOLDOFF).map(str::to_owned),
    }
}
