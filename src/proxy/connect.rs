//! CONNECT: opaque tunnels. The host's answers cannot be seen inside, so a tunnel is held against the key
//! `https://host:port` that others have taught us, and proves nothing itself but that the host can be reached (SPEC 7.3).
//!
//! For hosts of `[intercept]` TLS ends here instead: `intercept`.
//!
//! A refused CONNECT is the last request of its connection: a client that does not wait for our word sends behind it what
//! is meant for the tunnel, and that must not be read as requests (RFC 9931 §6).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{self, Admitted, Pass, Refused};
use super::answers::{self, Facts};
use super::body::ResponseBody;
use super::connection::Client;
use super::error::{ErrorKind, ProxyError};
use super::exchange::{hang_up, local, refuse};
use super::intercept::Interceptor;
use super::keys::{About, Told};
use super::record::Record;
use super::shared::Host;
use super::target;
use super::tunnel::{Far, Tunnel};
use super::upstream::Target;
use super::wire::HandOver;
use crate::config::settings::OnCooldown;
use crate::core::decision::Purpose;
use crate::core::key::{Key, KeyRef, Scheme};
use crate::core::signal::Outcome;
use crate::core::time::Instant;
use crate::metrics;
use crate::table::{Entry, clock};

/// Opens a tunnel, or says why not.
pub(super) async fn run(
    client: &Client,
    mut request: Request<Incoming>,
    authority: &Authority,
    arrived: Instant,
) -> Response<ResponseBody> {
    let context = &client.context;
    drop(request.extensions_mut().remove::<OnUpgrade>());
    let checked = check(client, &request, authority).and_then(|key| {
        if let Some(interceptor) = context.interceptor.as_ref().filter(|interceptor| interceptor.names(&key)) {
            // One connection of several streams can carry many sessions.
            let place = if client.wire.is_stream() { Some(context.tunnel_place()?) } else { None };
            return Ok((key, Opens::Session(interceptor, place)));
        }
        Ok((key, Opens::Tunnel(context.tunnel_place()?)))
    });
    let (key, opened) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            let record = Record::new(&context.shared, None, &request, arrived);
            return refuse(client, request, &error, record).await;
        }
    };
    let place = match opened {
        Opens::Session(interceptor, place) => {
            return intercept(client, (interceptor, place), request, &key, arrived).await;
        }
        Opens::Tunnel(place) => place,
    };
    let (facts, version) = (Facts::new(request.method(), request.headers()), request.version());
    let Pass { entry, mut keys, mut hop, .. } = match admission::admit(context, &key, Purpose::Tunnel, None, arrived) {
        Admitted::Pass(pass) => pass,
        Admitted::Refused(refused) => return refuse_connect(client, &request, &refused, arrived),
    };
    let mut record = Record::new(&context.shared, Some(&entry), &request, arrived);
    let host = entry.attached();
    let connected = context.upstreams.connect(&Target { key: entry.key(), host: &host.settings }).await;
    let now = clock::now();
    match connected {
        Ok(link) => {
            if let Some(hop) = &mut hop {
                hop.opened(now);
            }
            let told = Told { outcome: &Outcome::Connected, status: None, line: None, about: About::Narrowest, now };
            let _ = keys.tell(&context.shared, &told);
            entry.count_tunnel();
            tell_once(&entry, now);
            client.wire.hand_over(HandOver::Tunnel(Tunnel {
                far: Far::of(link),
                counts: host.metrics.tunnel(),
                idle: host.settings.timeouts.tunnel_idle,
                place,
            }));
            record.forwarded(None);
            record.answered(200);
            let mut response = Response::new(ResponseBody::local(Bytes::new(), &client.wire, Some(record)));
            *response.version_mut() = version;
            response
        }
        Err(error) => {
            record.failed(&context.shared, &error);
            admission::failed(context, &mut keys, hop.as_mut(), &error, entry.key(), now);
            let about = admission::key_of(&error, hop.as_ref(), entry.key());
            let wait = admission::named_wait(&error, hop.as_ref(), now);
            let answer = answers::error_until(&context.shared, &error, Some(about), &facts, wait);
            local(client, answer, version, false, record)
        }
    }
}

/// Answers a CONNECT that is not to be opened now.
fn refuse_connect(
    client: &Client,
    request: &Request<Incoming>,
    refused: &Refused,
    arrived: Instant,
) -> Response<ResponseBody> {
    let shared = &client.context.shared;
    let mut record = Record::new(shared, Some(&refused.entry), request, arrived);
    record.short_circuited(refused.refusal.reason);
    if refused.settings().on_cooldown == OnCooldown::Close {
        return hang_up(client, record);
    }
    let facts = Facts::new(request.method(), request.headers());
    let answer = answers::short_circuit(shared, refused, &facts);
    local(client, answer, request.version(), false, record)
}

/// What a CONNECT opens, and its place among `max_tunnels`.
enum Opens<'a> {
    Tunnel(OwnedSemaphorePermit),
    Session(&'a Interceptor, Option<OwnedSemaphorePermit>),
}

/// Opens a session whose TLS ends here. Nobody is dialled for it: the requests inside are admitted and sent one by one.
async fn intercept(
    client: &Client,
    (interceptor, place): (&Interceptor, Option<OwnedSemaphorePermit>),
    request: Request<Incoming>,
    key: &KeyRef<'_>,
    arrived: Instant,
) -> Response<ResponseBody> {
    let shared = &client.context.shared;
    let (facts, version) = (Facts::new(request.method(), request.headers()), request.version());
    let entry = match admission::admit(&client.context, key, Purpose::Session, None, arrived) {
        Admitted::Pass(pass) => pass.entry,
        Admitted::Refused(refused) => return refuse_connect(client, &request, &refused, arrived),
    };
    let mut record = Record::new(shared, Some(&entry), &request, arrived);
    match interceptor.session(entry.key(), place).await {
        Ok(session) => {
            client.wire.hand_over(HandOver::Session(session));
            record.intercepted();
            record.answered(200);
            let mut response = Response::new(ResponseBody::local(Bytes::new(), &client.wire, Some(record)));
            *response.version_mut() = version;
            response
        }
        Err(error) => {
            shared.metrics.session(metrics::Session::NoCertificate);
            record.failed(shared, &error);
            let answer = answers::error(shared, &error, Some(entry.key()), &facts);
            local(client, answer, version, false, record)
        }
    }
}

/// What can be said before anybody is asked.
fn check<'a>(client: &Client, request: &Request<Incoming>, authority: &'a Authority) -> Result<KeyRef<'a>, ProxyError> {
    if !request.body().is_end_stream() {
        return Err(ProxyError::new(ErrorKind::BadRequest, "CONNECT has no body (RFC 9110 section 9.3.6)"));
    }
    let key = target::key(Scheme::Https, authority.as_str())?;
    let egress = client.context.upstreams.egress();
    egress.check_connect_port(key.port())?;
    egress.check_name(key.host(), key.port())?;
    Ok(key)
}

/// Says once per host that nothing can be seen in its tunnels, and what to do about it.
fn tell_once(entry: &Arc<Entry<Host>>, now: Instant) {
    let told = &entry.attached().told_of_tunnels;
    if told.load(Ordering::Relaxed) || !entry.snapshot(now).only_tunnels || told.swap(true, Ordering::Relaxed) {
        return;
    }
    tracing::info!(
        host = %entry.key(),
        "only CONNECT: I cannot see its 429s; here is the `[[reverse]]` block:\n{}",
        reverse_block(entry.key())
    );
}

fn reverse_block(key: &Key) -> String {
    format!("[[reverse]]\naddress = [\"127.0.0.1:4300\"]\nupstream = \"https://{}\"", target::authority(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_names_the_upstream_as_the_configuration_wants_it() {
        for (key, expected) in [
            ("https://peer.example", "https://peer.example"),
            ("https://peer.example:8443", "https://peer.example:8443"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ] {
            assert!(reverse_block(&Key::parse(key).unwrap()).ends_with(&format!("upstream = \"{expected}\"")), "{key}");
        }
    }
}
