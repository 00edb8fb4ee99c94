//! What a response means for its key, told to the table, and the error lines that go with it. What is decided behind the
//! head only is in [`pending`](super::pending).

use http::{HeaderMap, StatusCode};

use super::body::EXCERPT;
use super::error::ProxyError;
use super::keys::{About, Keys, Line, Told};
use super::shared::{Host, Shared};
use super::target;
use crate::core::classify::Reading;
use crate::core::key::Key;
use crate::core::signal::{Outcome, grpc, printable};
use crate::core::time::{Instant, UnixTime, ceil_secs};
use crate::table::{Entry, Permit, clock};

/// Counts what a response says, and tells the keys of its request. `entry` is the host's. Gives the error line, if there
/// is one.
pub(super) fn complete(
    shared: &Shared,
    entry: &Entry<Host>,
    keys: &mut Keys,
    reading: &Reading,
    now: Instant,
    wall: UnixTime,
) -> Option<Line> {
    entry.attached().metrics.reading(reading);
    let line = tell_early(shared, entry, keys, reading, now, wall);
    keys.cancel();
    line
}

/// Tells the keys of a request what a response says, whose end may yet say more. `entry` is the host's.
pub(super) fn tell_early(
    shared: &Shared,
    entry: &Entry<Host>,
    keys: &mut Keys,
    reading: &Reading,
    now: Instant,
    wall: UnixTime,
) -> Option<Line> {
    if reading.outcome.is_success() {
        entry.attached().metrics.success(wall);
    }
    let line = reading.outcome.is_trouble().then(|| line(entry.key(), reading));
    let told = Told {
        outcome: &reading.outcome,
        status: Some(reading.status.as_u16()),
        line: line.as_deref(),
        about: About::of_scope(reading.scope),
        now,
    };
    keys.tell_early(shared, &told)
}

/// Completes a permit of one key with what a response says. Returns the number of the error line, 0 when there is none.
pub(super) fn finish(permit: Permit<Host>, reading: &Reading, key: &Key, now: Instant) -> u64 {
    let line = reading.outcome.is_trouble().then(|| line(key, reading));
    let number = permit.complete(&reading.outcome, Some(reading.status.as_u16()), line.as_deref(), now, clock::draw());
    if line.is_some() { number } else { 0 }
}

/// Tells the keys of a request of an error that means `outcome`. What says nothing about the host is as if nothing had
/// been sent. `key` is the host's.
pub(super) fn fail(shared: &Shared, keys: &mut Keys, outcome: &Outcome, error: &ProxyError, key: &Key, now: Instant) {
    let line = failure_line(outcome, error, key);
    let _ = keys.tell(shared, &Told { outcome, status: None, line: line.as_deref(), about: About::Narrowest, now });
}

/// The error line of a failure.
pub(super) fn failure_line(outcome: &Outcome, error: &ProxyError, key: &Key) -> Option<String> {
    let line = || format!("{} from {}: {}", error.kind().as_str(), target::authority(key), error.detail());
    outcome.is_trouble().then(line)
}

/// Adds the message of a gRPC call to its error line.
pub(super) fn keep_message(line: Option<&Line>, trailers: &HeaderMap) {
    let Some((entry, number)) = line else { return };
    let message = grpc::message(trailers, EXCERPT);
    if !message.is_empty() {
        entry.add_error_body(*number, &printable(message.trim_ascii_end(), EXCERPT));
    }
}

/// The error line of a body that a rule fits: `HTTP 202 from peer.example (rule no-worker: /status = "failed")`
pub(super) fn match_line(key: &Key, status: StatusCode, found: &str) -> String {
    format!("HTTP {} from {} ({})", status.as_u16(), target::authority(key), printable(found.as_bytes(), EXCERPT))
}

/// `HTTP 429 from peer.example (retry_after=120s)` (SPEC 3.10), or `gRPC 8 from …`
fn line(key: &Key, reading: &Reading) -> String {
    let host = target::authority(key);
    let mut line = match reading.grpc_code() {
        Some(code) => format!("gRPC {} from {host}", code.number()),
        None => format!("HTTP {} from {host}", reading.status.as_u16()),
    };
    if let Some(hint) = reading.hint_seen {
        line.push_str(&format!(" (retry_after={}s)", ceil_secs(hint.wait)));
    }
    line
}
