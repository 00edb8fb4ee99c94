//! Every metric family by name: one table, from which `/metrics` takes its help texts and the documents their reference.

use std::fmt::Write;

use prometheus::Opts;

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with a sum.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, in the order their values are given.
    pub labels: &'static [&'static str],
    /// What it counts, for people.
    pub help: &'static str,
}

impl Family {
    /// Name and help text for a metric of the crate `prometheus`.
    pub(super) fn options(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}

macro_rules! families {
    ($($name:ident = $text:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $name: Family =
            Family { name: $text, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// Every family, in the order of the reference.
        pub const ALL: &[Family] = &[$($name,)*];
    };
}

families! {
    REQUESTS = "holdoff_requests_total", Counter, ["host", "action"],
        "Requests by what holdoff did with them: forwarded, short_circuited, refused, failed, cancelled.";
    SHORT_CIRCUITED = "holdoff_short_circuited_total", Counter, ["host", "reason"],
        "Requests answered locally because the key cools, by the reason of the cooldown.";
    WOULD_HAVE = "holdoff_would_have_short_circuited_total", Counter, ["host", "reason"],
        "Requests that mode observe forwarded and mode enforce would have answered locally.";
    IN_FLIGHT = "holdoff_requests_in_flight", Gauge, ["host"],
        "Requests being worked on.";
    REQUEST_SECONDS = "holdoff_request_duration_seconds", Histogram, ["host"],
        "Time from the request head to the end of the answer.";
    ADDED_SECONDS = "holdoff_added_latency_seconds", Histogram, ["host"],
        "Time holdoff itself added to a forwarded request.";
    RESPONSES = "holdoff_upstream_responses_total", Counter, ["host", "class"],
        "Final response heads from upstreams by status class, with 429 and 503 apart. Synthetic answers never count here.";
    UPSTREAM_ERRORS = "holdoff_upstream_errors_total", Counter, ["host", "kind"],
        "Requests that failed on the way to an answer, by kind of error.";
    HEAD_SECONDS = "holdoff_upstream_head_duration_seconds", Histogram, ["host"],
        "Time from the request being sent to the response head.";
    SIGNALS = "holdoff_signals_total", Counter, ["host", "source"],
        "Responses that said slow down or that nothing is left, by the field that named the wait; none: no field did.";
    SIGNAL_ERRORS = "holdoff_signal_errors_total", Counter, ["field", "cause"],
        "Fields about waiting, and bodies that rules look at, that were odd or could not be read.";
    HINT_SECONDS = "holdoff_hint_seconds", Histogram, [],
        "Waits that upstreams named, before any bound.";
    COOLDOWNS_ACTIVE = "holdoff_cooldowns_active", Gauge, ["reason"],
        "Keys that cool now, by reason.";
    KEYS_PROBING = "holdoff_keys_probing", Gauge, [],
        "Keys past their deadline that wait for a probe to succeed.";
    COOLDOWN_END = "holdoff_cooldown_end_timestamp_seconds", Gauge, ["host"],
        "When the cooldown of the host ends, the latest of its keys; in the past while it is being tested; absent when clear.";
    BACKOFF_STEP = "holdoff_backoff_step", Gauge, ["host", "ladder"],
        "Place on the ladder of growing delays, the highest of the keys of the host; absent at 0.";
    COOLDOWNS_STARTED = "holdoff_cooldowns_started_total", Counter, ["host", "reason"],
        "Cooldowns started.";
    COOLDOWNS_EXTENDED = "holdoff_cooldowns_extended_total", Counter, ["host"],
        "Times a live cooldown got a later deadline.";
    COOLDOWNS_ENDED = "holdoff_cooldowns_ended_total", Counter, ["host", "cause"],
        "Keys that became clear again, by what ended the cooldown.";
    COOLDOWNS_CLAMPED = "holdoff_cooldowns_clamped_total", Counter, ["host"],
        "Cooldowns shorter than the upstream asked for, because of max_retry_after.";
    COOLDOWN_SECONDS = "holdoff_cooldown_length_seconds", Histogram, [],
        "Length of cooldowns when they start.";
    PROBES = "holdoff_probes_total", Counter, ["host", "result"],
        "Probes by how they ended.";
    TUNNELS_OPEN = "holdoff_tunnels_open", Gauge, ["host"],
        "CONNECT tunnels and upgraded connections open now.";
    TUNNELS = "holdoff_tunnels_total", Counter, ["host"],
        "CONNECT tunnels and upgraded connections opened. What happens inside cannot be seen.";
    TUNNEL_BYTES = "holdoff_tunnel_bytes_total", Counter, ["host", "direction"],
        "Bytes carried inside tunnels.";
    SESSIONS_OPEN = "holdoff_intercepted_sessions_open", Gauge, [],
        "CONNECTs open now whose TLS ends at holdoff.";
    SESSIONS = "holdoff_intercepted_sessions_total", Counter, ["result"],
        "CONNECTs to hosts whose TLS ends at holdoff, by what became of their TLS; distrusted: the client does not trust the certificate authority.";
    CERTIFICATES = "holdoff_certificates_minted_total", Counter, [],
        "Certificates made for intercepted hosts.";
    CLOCK_OFFSET = "holdoff_clock_offset_seconds", Gauge, ["host"],
        "Clock of the upstream minus ours, from the Date of its last answer.";
    LAST_SUCCESS = "holdoff_last_success_timestamp_seconds", Gauge, ["host"],
        "When the upstream last answered well.";
    CONNECTIONS_OPEN = "holdoff_connections_open", Gauge, ["listener"],
        "Client connections open now.";
    CONNECTIONS = "holdoff_connections_total", Counter, ["listener"],
        "Client connections accepted.";
    UPSTREAM_CONNECTIONS = "holdoff_upstream_connections", Gauge, ["state"],
        "Connections to upstreams in the pool: open counts all of them, idle those that carry no request.";
    BOUNDS = "holdoff_bounds_reached_total", Counter, ["bound"],
        "Times a bound was reached.";
    KEYS = "holdoff_keys", Gauge, [],
        "Keys tracked.";
    KEYS_LIMIT = "holdoff_keys_limit", Gauge, [],
        "Bound of the keys tracked (max_keys).";
    EVICTIONS = "holdoff_keys_evicted_total", Counter, [],
        "Idle keys forgotten to make room.";
    UNTRACKED = "holdoff_untracked_admissions_total", Counter, [],
        "Admissions of new keys that found no room: forwarded and not remembered.";
    HOST_LABELS = "holdoff_host_labels", Gauge, [],
        "Different values of the label host, without _other.";
    HOST_LABELS_LIMIT = "holdoff_host_labels_limit", Gauge, [],
        "Bound of the values of the label host (max_host_labels).";
    LABEL_OVERFLOW = "holdoff_host_label_overflow_total", Counter, [],
        "Keys that found no value of the label host free and count as _other.";
    ADMIN_ACTIONS = "holdoff_admin_actions_total", Counter, ["action", "result"],
        "Actions of operators.";
    BUILD_INFO = "holdoff_build_info", Gauge, ["version"],
        "Always 1; the label says what runs.";
}

/// The reference of all families, a table in Markdown.
pub fn reference() -> String {
    let mut text = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, kind, labels, help } in ALL {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{name}` | {} | {labels} | {help} |", kind.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut seen = HashSet::new();
        for Family { name, kind, labels, help } in ALL {
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("holdoff_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(
                *kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}: counters and only they end in _total"
            );
            assert!(help.ends_with('.') && !help.contains(['|', '\n', '\\']), "{name}: {help}");
            assert!(labels.iter().all(|label| !["le", "job", "instance", "quantile"].contains(label)), "{name}");
            if *kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}: histograms are of seconds");
            }
        }
    }

    #[test]
    fn the_reference_in_the_tree_is_the_one_of_the_code() {
        let reference = format!(
            "# Metrics\n\nGenerated from `src/metrics/names.rs`; its test says how to renew it. Upstream 429s and answers of our own \
             are never in one series.\n\n{}",
            reference()
        );
        assert!(reference.contains("| `holdoff_requests_in_flight` | gauge | `host` | Requests being worked on. |\n"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/METRICS.md");
        if std::env::var_os("HOLDOFF_WRITE_REFERENCE").is_some() {
            std::fs::write(path, &reference).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            reference,
            "renew it with `HOLDOFF_WRITE_REFERENCE=1 cargo test --lib reference`"
        );
    }
}
