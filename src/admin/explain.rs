//! `GET /api/v1/explain`: the same explanation as the command gives, with what each key knows now.

use std::borrow::Cow;

use super::query::decode;
use crate::core::key::Key;
use crate::explain::view::Explanation;
use crate::explain::{self, Basis, Known, Names, Question, Written};
use crate::proxy::shared::Shared;
use crate::table::clock;

/// The parameters.
const PARAMETERS: [&str; 6] = ["url", "method", "status", "header", "request_header", "times"];

/// The longest query.
const MAX_QUERY: usize = 64 << 10;

/// The most parameters of a query.
const MAX_PARAMETERS: usize = 160;

/// Reads the query of a request.
///
/// # Errors
/// What was expected of it.
pub(super) fn question(query: &str) -> Result<Question, String> {
    if query.len() > MAX_QUERY {
        return Err("expected a query of at most 64 KiB".to_owned());
    }
    let (mut headers, mut request_headers) = (Vec::new(), Vec::new());
    let mut single: [Option<Cow<'_, str>>; 4] = [None, None, None, None];
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if at >= MAX_PARAMETERS {
            return Err(format!("expected at most {MAX_PARAMETERS} parameters"));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let [url, method, status, times] = &mut single;
        let slot = match &*name {
            "url" => url,
            "method" => method,
            "status" => status,
            "times" => times,
            "header" => {
                headers.push(value.into_owned());
                continue;
            }
            "request_header" => {
                request_headers.push(value.into_owned());
                continue;
            }
            _ => {
                let names = PARAMETERS.join("`, `");
                return Err(format!("expected only the parameters `{names}`, found `{name}`"));
            }
        };
        if slot.replace(value).is_some() {
            return Err(format!("expected `{name}` once"));
        }
    }
    let [url, method, status, times] = &single;
    let Some(url) = url else {
        return Err("expected `url`, such as `?url=https://peer.example`".to_owned());
    };
    let written = Written {
        url,
        method: method.as_deref(),
        request_headers: &request_headers,
        response: status.as_deref(),
        headers: &headers,
        times: times.as_deref(),
    };
    Question::read(&written, &Names::QUERY)
}

/// Explains by the configuration that the sidecar runs with.
pub(super) fn explain(shared: &Shared, question: &Question) -> Explanation {
    let (now, wall) = (clock::now(), clock::wall());
    let known = |key: &Key| {
        let entry = shared.table.find(key)?;
        let snapshot = entry.snapshot(now);
        let bucket = entry.attached().bucket().map(|bucket| Key::clone(&bucket));
        Some(Known { snapshot, machine: entry.machine(), bucket })
    };
    let basis = Basis {
        settings: &shared.settings,
        name: &shared.name,
        hash: &|value| shared.secret.hash(value),
        known: &known,
        running: true,
        now,
        wall,
    };
    explain::explain(&basis, question, None)
}
