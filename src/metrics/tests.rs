use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::*;
use crate::core::classify;
use crate::core::decision::{Purpose, Reason};
use crate::core::policy::SignalRules;
use crate::core::time::{Instant, UnixTime};
use crate::observe::Transitions;
use crate::proxy::shared::Host;
use crate::table::{Table, Verdict};

const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);
const NOW: Instant = Instant::from_secs(1000);

fn metrics(max_host_labels: usize) -> Arc<Metrics> {
    let settings = settings::Metrics {
        address: Vec::new(),
        max_host_labels,
        idle_series: Duration::from_secs(3600),
        process: false,
    };
    Metrics::new(&settings, std::iter::empty())
}

fn table(metrics: &Arc<Metrics>) -> Table<Host> {
    let (hosts, metrics) = (crate::config::parse("").unwrap().settings.hosts, Arc::clone(metrics));
    let attach = move |key: &Key| {
        let host = Host::new(Arc::clone(hosts.resolve(key)), metrics.host(key), false);
        (Arc::clone(&host.settings.policy), host)
    };
    Table::new(20_000, attach, Transitions::default())
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn scrape(metrics: &Metrics, table: &Table<Host>, now: Instant) -> String {
    String::from_utf8(metrics.render(table, now, WALL)).unwrap()
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other == line)
}

#[test]
fn ten_thousand_hosts_make_no_more_labels_than_the_bound_and_lose_no_count() {
    let metrics = metrics(100);
    let table = table(&metrics);
    for n in 0..10_000 {
        let (entry, _) = table.admit(&key(&format!("https://h{n}.example")).as_ref(), Purpose::Request, NOW);
        entry.attached().metrics.action(Action::Forwarded);
        entry.freeze(Duration::from_secs(60), NOW);
    }
    let text = scrape(&metrics, &table, NOW);
    let mut hosts = BTreeSet::new();
    let mut sum = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((_, rest)) = line.split_once("host=\"") {
            hosts.insert(rest.split_once('"').unwrap().0);
        }
        if line.starts_with("holdoff_requests_total{") && line.contains("\"forwarded\"") {
            sum += line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        }
    }
    assert_eq!(hosts.len(), 101);
    assert!(hosts.contains("_other"));
    assert_eq!(sum, 10_000);
    assert!(has(&text, "holdoff_host_label_overflow_total 9900"), "{text}");
    assert!(has(&text, "holdoff_host_labels 100"));
    assert!(has(&text, "holdoff_cooldowns_active{reason=\"manual\"} 10000"));
}

#[test]
fn a_host_that_comes_back_after_its_series_were_dropped_counts_again() {
    let metrics = metrics(1);
    let table = table(&metrics);
    let start = crate::table::clock::now();
    let (a, b) = (metrics.host(&key("a.example")), metrics.host(&key("b.example")));
    a.action(Action::Forwarded);
    b.action(Action::Forwarded);
    let later = |secs| start.saturating_add(Duration::from_secs(secs));
    scrape(&metrics, &table, later(0));
    let text = scrape(&metrics, &table, later(4000));
    assert!(!text.contains("a.example"), "idle series end");
    // The place is free, and the next to come takes it, although it was sent to `_other` before.
    b.action(Action::Forwarded);
    a.action(Action::Forwarded);
    let text = scrape(&metrics, &table, later(4001));
    assert!(has(&text, "holdoff_requests_total{action=\"forwarded\",host=\"b.example\"} 1"), "{text}");
    assert!(has(&text, "holdoff_requests_total{action=\"forwarded\",host=\"_other\"} 2"), "{text}");
    assert_eq!(metrics.actions().next(), Some((Action::Forwarded, 4)), "totals lose nothing");
}

#[test]
fn a_guard_that_outlives_its_series_takes_back_what_it_added() {
    let metrics = metrics(1);
    let table = table(&metrics);
    let host = metrics.host(&key("a.example"));
    let guard = host.in_flight();
    assert!(has(&scrape(&metrics, &table, NOW), "holdoff_requests_in_flight{host=\"a.example\"} 1"));
    drop(guard);
    assert!(has(&scrape(&metrics, &table, NOW), "holdoff_requests_in_flight{host=\"a.example\"} 0"));
}

#[test]
fn http_and_https_of_a_host_share_its_label() {
    let metrics = metrics(9);
    metrics.host(&key("http://a.example")).action(Action::Failed);
    metrics.host(&key("https://a.example")).action(Action::Failed);
    let text = scrape(&metrics, &table(&metrics), NOW);
    assert!(has(&text, "holdoff_requests_total{action=\"failed\",host=\"a.example\"} 2"));
}

#[test]
fn what_a_response_says_is_counted_by_source_field_and_cause() {
    let metrics = metrics(9);
    let host = metrics.host(&key("a.example"));
    let rules = SignalRules::default();
    for value in [Some("120"), Some("Fri, 20 Nov 2026 10:01:00 GMT"), Some("soon"), None] {
        let headers: HeaderMap =
            value.map(|value| (header::RETRY_AFTER, HeaderValue::from_static(value))).into_iter().collect();
        host.reading(&classify::response(&rules, StatusCode::TOO_MANY_REQUESTS, &headers, WALL));
        host.response(429);
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::DATE, HeaderValue::from_static("Fri, 20 Nov 2026 10:00:07 GMT"));
    host.reading(&classify::response(&rules, StatusCode::OK, &headers, WALL));
    host.success(WALL);
    let text = scrape(&metrics, &table(&metrics), NOW);
    for line in [
        "holdoff_signals_total{host=\"a.example\",source=\"retry_after_seconds\"} 1",
        "holdoff_signals_total{host=\"a.example\",source=\"retry_after_date\"} 1",
        "holdoff_signals_total{host=\"a.example\",source=\"none\"} 2",
        "holdoff_signal_errors_total{cause=\"malformed\",field=\"retry_after\"} 1",
        "holdoff_hint_seconds_bucket{le=\"60\"} 1",
        "holdoff_hint_seconds_count 2",
        "holdoff_hint_seconds_sum 180",
        "holdoff_upstream_responses_total{class=\"429\",host=\"a.example\"} 4",
        "holdoff_upstream_responses_total{class=\"4xx\",host=\"a.example\"} 0",
        "holdoff_clock_offset_seconds{host=\"a.example\"} 7",
        "holdoff_last_success_timestamp_seconds{host=\"a.example\"} 1795168800",
    ] {
        assert!(has(&text, line), "{line}\n{text}");
    }
}

#[test]
fn the_gauges_of_cooldowns_follow_the_table() {
    let metrics = metrics(9);
    let table = table(&metrics);
    let (entry, verdict) = table.admit(&key("a.example").as_ref(), Purpose::Request, NOW);
    let Verdict::Forward(permit) = verdict else { panic!("{verdict:?}") };
    let headers = [(header::RETRY_AFTER, HeaderValue::from_static("7200"))].into_iter().collect();
    let reading = classify::response(&SignalRules::default(), StatusCode::TOO_MANY_REQUESTS, &headers, WALL);
    permit.complete(&reading.outcome, Some(429), Some("HTTP 429"), NOW, 0);
    entry.attached().metrics.short_circuit(Reason::RateLimited);
    let text = scrape(&metrics, &table, NOW);
    for line in [
        "holdoff_cooldowns_active{reason=\"rate_limited\"} 1",
        "holdoff_cooldown_end_timestamp_seconds{host=\"a.example\"} 1795172400",
        "holdoff_backoff_step{host=\"a.example\",ladder=\"signals\"} 1",
        "holdoff_cooldowns_started_total{host=\"a.example\",reason=\"rate_limited\"} 1",
        "holdoff_cooldowns_clamped_total{host=\"a.example\"} 1",
        "holdoff_cooldown_length_seconds_bucket{le=\"3600\"} 1",
        "holdoff_short_circuited_total{host=\"a.example\",reason=\"rate_limited\"} 1",
        "holdoff_keys 1",
    ] {
        assert!(has(&text, line), "{line}\n{text}");
    }
    let text = scrape(&metrics, &table, NOW.saturating_add(Duration::from_secs(3601)));
    assert!(has(&text, "holdoff_cooldowns_active{reason=\"rate_limited\"} 0"));
    assert!(has(&text, "holdoff_keys_probing 1"));
    table.release(&key("a.example"), NOW);
    let text = scrape(&metrics, &table, NOW);
    assert!(!text.contains("holdoff_cooldown_end_timestamp_seconds{"));
    assert!(has(&text, "holdoff_cooldowns_ended_total{cause=\"release\",host=\"a.example\"} 1"));
}

#[test]
fn every_family_that_speaks_has_its_help_and_every_label_its_value() {
    let metrics = metrics(9);
    let host = metrics.host(&key("a.example"));
    host.tunnel().bytes(Direction::ToUpstream, 7);
    host.request_seconds(Duration::from_millis(5));
    let _connection = metrics.connection(Listener::Admin);
    metrics.admin_action("freeze", true);
    metrics.set_pool(|| Pool { open: 3, idle: 2 });
    let text = scrape(&metrics, &table(&metrics), NOW);
    for family in names::ALL {
        let count = |line: &str| text.lines().filter(|other| *other == line).count();
        let speaks = text
            .lines()
            .filter_map(|line| line.strip_prefix(family.name))
            .any(|rest| ["{", " ", "_bucket{"].iter().any(|after| rest.starts_with(after)));
        let help = count(&format!("# HELP {} {}", family.name, family.help));
        let kind = count(&format!("# TYPE {} {}", family.name, family.kind.as_str()));
        assert_eq!((help, kind), (usize::from(speaks), usize::from(speaks)), "{}", family.name);
    }
    assert!(!text.contains("holdoff_upstream_head_duration_seconds"), "nothing was observed");
    for line in [
        "holdoff_request_duration_seconds_bucket{host=\"a.example\",le=\"0.005\"} 1",
        "holdoff_request_duration_seconds_bucket{host=\"a.example\",le=\"+Inf\"} 1",
        "holdoff_request_duration_seconds_sum{host=\"a.example\"} 0.005",
        "holdoff_hint_seconds_count 0",
        "holdoff_tunnels_open{host=\"a.example\"} 0",
        "holdoff_tunnel_bytes_total{direction=\"to_upstream\",host=\"a.example\"} 7",
        "holdoff_connections_open{listener=\"admin\"} 1",
        "holdoff_admin_actions_total{action=\"freeze\",result=\"ok\"} 1",
        "holdoff_upstream_connections{state=\"idle\"} 2",
    ] {
        assert!(has(&text, line), "{line}\n{text}");
    }
}
