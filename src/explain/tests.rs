use std::time::Duration;

use super::view::{Explanation, Row};
use super::*;
use crate::config;
use crate::core::cooldown::Events;
use crate::core::decision::{Decision, Purpose};
use crate::core::signal::{Outcome, Signal};

const NOW: Instant = Instant::from_secs(1000);
const WALL: UnixTime = UnixTime::from_secs(1_795_168_800); // 2026-11-20T10:00:00Z

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// What is said of a response (its status, and a header field a line) to `GET url`.
fn explained(config: &str, url: &str, response: &str, times: &str) -> Explanation {
    let settings = config::parse(config).unwrap_or_else(|errors| panic!("{errors}")).settings;
    let (status, headers) = response.split_once('\n').unwrap_or((response, ""));
    let headers = lines(headers);
    let written = Written { url, response: Some(status), headers: &headers, times: Some(times), ..Written::default() };
    explain(&basis(&settings, &|_| None), &Question::read(&written, &Names::QUERY).unwrap(), None)
}

fn basis<'a>(settings: &'a Settings, known: &'a dyn Fn(&Key) -> Option<Known>) -> Basis<'a> {
    Basis { settings, name: "holdoff-test", hash: &|_| 7, known, running: false, now: NOW, wall: WALL }
}

fn lengths(explanation: &Explanation) -> Vec<f64> {
    let rows: &[Row] = &explanation.schedule.as_ref().unwrap().rows;
    rows.iter().map(|row| row.length_seconds.unwrap_or_default()).collect()
}

const PEER: &str = "http://peer.example";

#[test]
fn the_schedules_are_the_figures_of_the_contract() {
    let fixed = "[defaults.cooldown]\nladder = \"fixed\"\n";
    for (config, response, expected) in [
        ("", "429", [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0]),
        ("", "429\nRetry-After: 2", [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
        ("", "429\nRetry-After: 0", [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]),
        ("", "503\nRetry-After: 7200", [3600.0; 7]),
        (fixed, "429\nRetry-After: 300", [300.0, 300.0, 300.0, 480.0, 960.0, 1800.0, 1800.0]),
        ("[defaults.cooldown]\nladder = \"off\"\n", "429", [60.0; 7]),
    ] {
        let explanation = explained(config, PEER, response, "7");
        assert_eq!(lengths(&explanation), expected, "{config} {response}");
        let schedule = explanation.schedule.unwrap();
        let total: f64 = expected.iter().sum();
        assert_eq!((schedule.starts_in_seconds, schedule.total_seconds), (0.0, total), "{config} {response}");
        let last = schedule.rows.last().unwrap();
        assert_eq!((last.answer, last.at_seconds), (7, total - expected[6]));
    }
}

#[test]
fn peer_sync_doubles_from_a_minute_on_every_failure() {
    let config = "[[host]]\nmatch = [\"peer.example\"]\npreset = \"peer-sync\"\n";
    for response in ["429", "500", "timeout", "refused", "502", "503", "tls"] {
        let explanation = explained(config, PEER, response, "7");
        if response == "500" {
            assert_eq!(explanation.effect.unwrap().what, "nothing");
            continue;
        }
        assert_eq!(lengths(&explanation), [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0], "{response}");
        assert_eq!(explanation.policy.preset.as_deref(), Some("peer-sync"));
    }
}

#[test]
fn each_bound_on_the_way_is_named_with_its_key_and_what_would_be_without_it() {
    let steep = "[defaults.breaker]\nfailure_threshold = 1\ninitial = \"50s\"\n";
    for (config, response, times, key, value, without) in [
        ("", "429\nRetry-After: 7200", 1, "cooldown.max_retry_after", 3600.0, Some(7200.0)),
        ("", "429\nRetry-After: 0", 1, "cooldown.min_cooldown", 1.0, Some(0.0)),
        ("", "429\nRetry-After: 40", 2, "cooldown.max_overwait", 60.0, Some(80.0)),
        ("", "429", 6, "cooldown.max_backoff", 1800.0, Some(1920.0)),
        (steep, "timeout", 2, "breaker.max", 60.0, Some(100.0)),
    ] {
        let explanation = explained(config, PEER, response, &times.to_string());
        let rows = explanation.schedule.unwrap().rows;
        assert_eq!(rows[times - 1].bounds, [key], "{response}");
        assert!(rows[..times - 1].iter().all(|row| row.bounds.is_empty()), "{response}");
        if times == 1 {
            let effect = explanation.effect.unwrap();
            let bound = effect.bounds.first().unwrap();
            assert_eq!((&*bound.key, bound.seconds, bound.without_seconds), (key, value, without));
        }
    }
}

#[test]
fn jitter_is_a_range_and_not_in_the_figures() {
    let explanation = explained("", PEER, "429\nRetry-After: 100", "1");
    let effect = explanation.effect.unwrap();
    assert_eq!((effect.length_seconds, effect.jitter_seconds), (Some(100.0), Some([100.0, 110.0])));
    let explanation = explained("[defaults.cooldown]\njitter = 0.2\n", PEER, "429", "1");
    let effect = explanation.effect.unwrap();
    assert_eq!((effect.length_seconds, effect.jitter_seconds), (Some(60.0), Some([48.0, 72.0])));
}

#[test]
fn of_several_fields_it_is_said_which_counts_and_why_not_the_others() {
    let config = "[[defaults.signals.field]]\nreset = \"x-reset\"\nunit = \"seconds\"\nremaining = \"x-left\"\n";
    let because = |response: &str| -> Vec<(String, Option<f64>, bool, String)> {
        let explanation = explained(config, PEER, response, "1");
        let fields = explanation.response.unwrap().fields;
        fields.into_iter().map(|field| (field.name, field.wait_seconds, field.decides, field.because)).collect()
    };
    let part = |name: &str, wait, decides, because: &str| (name.to_owned(), wait, decides, because.to_owned());
    assert_eq!(
        because("429\nRetry-After: 5\nretry-after-ms: 100\nx-reset: 60\nx-left: 0\nRateLimit: \"a\";r=0;t=9"),
        [
            part("Retry-After", Some(5.0), true, "it counts"),
            part(
                "retry-after-ms",
                Some(0.1),
                false,
                "of fields of one kind the longest counts, which is `Retry-After`"
            ),
            part("x-reset", Some(60.0), false, "`Retry-After` goes before it"),
            part("RateLimit", Some(9.0), false, "`Retry-After` goes before it"),
        ]
    );
    assert_eq!(
        because("429\nRetry-After: soon\nx-reset: 60\nx-left: 3\nRateLimit: \"a\";r=1;t=9"),
        [
            part("Retry-After", None, false, "it cannot be read: malformed"),
            part("x-reset", None, false, "`x-left: 3`: its window is not used up"),
            part("RateLimit", None, false, "it names no wait: nothing is used up"),
        ]
    );
    assert_eq!(
        because("200\nRetry-After: 5"),
        [part("Retry-After", None, false, "it is not read: the status is no signal")]
    );
    assert_eq!(
        because("429\nx-reset: 60"),
        [part("x-reset", None, false, "`x-left`, which says whether its window is used up, is not there")]
    );
}

#[test]
fn it_is_said_why_a_status_means_what_it_means() {
    let signals = |line: &str| format!("[defaults.signals]\n{line}\n");
    for (config, response, outcome, why) in [
        (String::new(), "429", "rate_limited", "429 is one of `signals.statuses`"),
        (String::new(), "503", "failing", "503 is one of `signals.unavailable`, but it names no wait"),
        (
            String::new(),
            "503\nRetry-After: 5",
            "unavailable",
            "503 is one of `signals.unavailable`, and it names a wait",
        ),
        (String::new(), "502", "failing", "502 says that the host is not well"),
        (String::new(), "500", "neutral", "500 is an error of the host's, who is there"),
        (String::new(), "404", "success", "404 is about the request"),
        (String::new(), "301\nRetry-After: 5", "success", "301 is a good answer"),
        (String::new(), "reset", "failing", "no answer came"),
        (signals("hintless = \"ignore\""), "429", "neutral", "429 names no wait, and `signals.hintless = \"ignore\"`"),
        (signals("ignore_methods = [\"GET\"]"), "429", "neutral", "the method is one of `signals.ignore_methods`"),
        (
            signals("trust_hints = false"),
            "429\nRetry-After: 5",
            "rate_limited",
            "429 is one of `signals.statuses`; hints",
        ),
        (signals("limited_with_hint = [403]"), "403", "success", "403 is one of `signals.limited_with_hint`, but"),
        (
            signals("limited_with_hint = [403]"),
            "403\nRetry-After: 5",
            "rate_limited",
            "403 is one of `signals.limited_",
        ),
        (
            signals("proactive = true"),
            "200\nRateLimit: \"a\";r=0;t=9",
            "quota_exhausted",
            "200 is a good answer, and says that nothing is left",
        ),
        (
            String::new(),
            "200\ncontent-type: application/grpc\ngrpc-status: 8",
            "rate_limited",
            "gRPC status 8, which counts as 429, is one of",
        ),
    ] {
        let told = explained(&config, PEER, response, "1").response.unwrap();
        assert_eq!(told.outcome, outcome, "{response}");
        assert!(told.why.starts_with(why), "{response}: {}", told.why);
    }
}

#[test]
fn a_failure_below_the_threshold_is_counted_until_the_breaker_opens() {
    let config = "[defaults.breaker]\nfailure_threshold = 3\n";
    let explanation = explained(config, PEER, "timeout", "5");
    assert_eq!(explanation.effect.as_ref().unwrap().what, "counts");
    assert_eq!(lengths(&explanation), [0.0, 0.0, 1.0, 2.0, 4.0]);
    let steps: Vec<u32> = explanation.schedule.unwrap().rows.iter().map(|row| row.step).collect();
    assert_eq!(steps, [0, 0, 1, 2, 3]);
    assert_eq!(explained("", PEER, "timeout", "5").effect.unwrap().what, "nothing");
}

#[test]
fn a_signal_goes_to_the_level_that_the_host_names_else_to_the_narrowest() {
    let config = "[[host]]\nmatch = [\"peer.example\"]\n[[host.level]]\nname = \"user\"\nby = [\"header:authorization\"]\n\
                  [[host.level]]\nname = \"route\"\nby = [\"path\"]\nroutes = [\"/a/{id}\"]\nbucket = \"x-bucket\"\n\
                  [[host.signals.scope]]\nfield = \"x-scope\"\nequals = \"global\"\nlevel = \"user\"\n\
                  [[host.signals.scope]]\nfield = \"x-scope\"\nequals = \"all\"\nlevel = \"host\"\n\
                  [[host.signals.scope]]\nfield = \"x-scope\"\nequals = \"shared\"\nlevel = \"route\"\nstep = false\n\
                  [host.breaker]\nfailure_threshold = 1\n";
    let target = |url: &str, response: &str| explained(config, url, response, "1").response.unwrap().target;
    let url = "http://peer.example/a/5?token=s3cret";
    assert_eq!(target(url, "429"), "http://peer.example:80#route=/a/5");
    assert_eq!(target(url, "429\nx-scope: Global"), "http://peer.example:80#user=-");
    assert_eq!(target(url, "429\nx-scope: all"), "http://peer.example:80");
    assert_eq!(target(url, "timeout"), "http://peer.example:80");
    assert!(target(url, "429\nx-bucket: abc").ends_with("bucket=abc"));
    assert_eq!(target("http://peer.example/b", "429"), "http://peer.example:80#user=-");
    let shared = explained(config, url, "429\nx-scope: shared\nRetry-After: 5", "3");
    assert!(!shared.response.as_ref().unwrap().climbs);
    assert_eq!(lengths(&shared), [5.0, 5.0, 5.0]);
    assert!(!serde_json::to_string(&shared).unwrap().contains("s3cret"));
}

#[test]
fn the_table_that_applies_is_named_and_those_that_are_less_specific() {
    let config = "[[host]]\nmatch = [\"*\"]\n[[host]]\nmatch = [\"other.test\", \"*.example\"]\n[[host]]\nmatch = \
                  [\"peer.example\"]\nmode = \"observe\"\n[[host]]\nmatch = [\"peer.example\"]\npaths = [\"/x/*\"]\n";
    let explanation = explained(config, "http://peer.example/y", "429", "1");
    let matched = explanation.policy.matched.unwrap();
    assert_eq!((&*matched.pattern, matched.place.as_deref()), ("peer.example", Some("holdoff.toml:5")));
    let others: Vec<_> = explanation.policy.less_specific.iter().map(|other| &*other.pattern).collect();
    assert_eq!(others, ["*.example", "*"]);
    assert_eq!(explanation.meanwhile.unwrap().what, "forwarded");
    let within = explained(config, "http://peer.example/x/1", "429", "1");
    assert_eq!(within.policy.matched.unwrap().paths, ["/x/*"]);
    assert_eq!(within.keys[0].key, "http://peer.example:80#paths=/x/*");
    assert_eq!(within.meanwhile.unwrap().what, "answered");
    assert!(explained("", PEER, "429", "1").policy.matched.is_none());
}

#[test]
fn the_schedule_goes_on_from_what_the_key_knows() {
    let settings = config::parse("[defaults.cooldown]\nhint_jitter = false\n").unwrap().settings;
    let policy = settings.hosts.defaults.policy.clone();
    let (mut machine, mut events) = (Cooldown::new(), Events::default());
    let signal = Signal { reason: crate::core::decision::Reason::RateLimited, hint: None, received: None };
    let Decision::Forward(admission) = machine.admit(&policy, Purpose::Request, NOW, &mut events) else { panic!() };
    machine.observe(&policy, admission, &Outcome::Signal(signal), NOW, 0, &mut events);
    let now = NOW.saturating_add(Duration::from_secs(20));
    let key = Key::parse(PEER).unwrap();
    let known = |asked: &Key| {
        (*asked == key).then(|| Known {
            snapshot: snapshot(&key, &machine, now),
            machine: machine.clone(),
            bucket: None,
        })
    };
    let basis = Basis { now, running: true, ..basis(&settings, &known) };
    let of = |written: &Written<'_>| explain(&basis, &Question::read(written, &Names::QUERY).unwrap(), None);

    let explanation = of(&Written { url: PEER, response: Some("429"), times: Some("3"), ..Written::default() });
    let schedule = explanation.schedule.as_ref().unwrap();
    assert_eq!(schedule.starts_in_seconds, 40.0);
    assert_eq!(lengths(&explanation), [120.0, 240.0, 480.0]);
    assert_eq!(schedule.rows[0].step, 2);
    let state = explanation.keys[0].state.as_ref().unwrap();
    assert_eq!((&*state.state, state.remaining_seconds, state.rate_step), ("cooling", Some(40.0), 1));
    assert!(explanation.notes.iter().any(|note| note.contains("nothing changes: a live cooldown is never shortened")));
    let longer = [String::from("Retry-After: 300")];
    let explanation = of(&Written { url: PEER, response: Some("429"), headers: &longer, ..Written::default() });
    assert!(explanation.notes.iter().any(|note| note.contains("the cooldown is extended: it ends in 5m")));
    let explanation = of(&Written { url: PEER, response: Some("200"), ..Written::default() });
    assert_eq!(explanation.effect.unwrap().what, "clears");
    let shown = text(&of(&Written { url: PEER, ..Written::default() }));
    assert!(
        shown.contains("It is held back now: http://peer.example:80 cools for 40s more, reason rate_limited."),
        "{shown}"
    );
}

#[test]
fn a_freeze_of_the_host_holds_back_what_has_another_key() {
    let of_mode = |mode: &str| {
        let config = format!("[[host]]\nmatch = [\"peer.example\"]\ngroup = \"g\"\nmode = \"{mode}\"\n");
        let settings = config::parse(&config).unwrap().settings;
        let policy = settings.hosts.defaults.policy.clone();
        let (mut frozen, mut cooling, mut events) = (Cooldown::new(), Cooldown::new(), Events::default());
        frozen.freeze(&policy, Duration::from_secs(60), NOW, &mut events);
        let signal = Signal { reason: crate::core::decision::Reason::RateLimited, hint: None, received: None };
        let Decision::Forward(admission) = cooling.admit(&policy, Purpose::Request, NOW, &mut events) else { panic!() };
        cooling.observe(&policy, admission, &Outcome::Signal(signal), NOW, 0, &mut events);
        let now = NOW.saturating_add(Duration::from_secs(10));
        let (host, group) = (Key::parse(PEER).unwrap(), Key::group("g").unwrap());
        let known = |asked: &Key| {
            let machine = if *asked == host { &frozen } else { &cooling };
            let bucket = None;
            (*asked == host || (*asked == group && mode != "enforce")).then(|| Known {
                snapshot: snapshot(asked, machine, now),
                machine: machine.clone(),
                bucket,
            })
        };
        let basis = Basis { now, running: true, ..basis(&settings, &known) };
        let question = Question::read(&Written { url: PEER, ..Written::default() }, &Names::QUERY).unwrap();
        explain(&basis, &question, None)
    };
    for mode in ["enforce", "observe"] {
        let explanation = of_mode(mode);
        let keys: Vec<_> = explanation.keys.iter().map(|key| (&*key.key, &*key.kind)).collect();
        assert_eq!(keys, [("http://peer.example:80", "host"), ("group:g", "group")]);
        assert!(explanation.keys[0].state.as_ref().unwrap().frozen);
        let shown = text(&explanation);
        let expected = "It is held back now: http://peer.example:80 cools for 50s more, reason manual.";
        assert!(shown.contains(expected), "{mode}: {shown}");
    }
}

#[test]
fn the_class_of_a_failure_is_said_where_it_chooses_the_ladder() {
    let config = "[[host]]\nmatch = [\"peer.example\"]\npreset = \"mesh\"\n";
    for (response, class) in [("refused", "transient"), ("504", "recoverable"), ("tls", "severe"), ("503", "severe")] {
        let why = explained(config, PEER, response, "1").response.unwrap().why;
        assert!(why.ends_with(&format!("; its class is `{class}`")), "{why}");
        assert!(!explained("", PEER, response, "1").response.unwrap().why.contains("class"));
    }
}

#[test]
fn a_field_that_is_not_believed_or_not_read_is_not_said_to_count() {
    for (config, expected) in [
        ("trust_hints = false", "it does not count: hints of this host are not believed (`signals.trust_hints`)"),
        ("ignore_methods = [\"GET\"]", "it does not count: the method is one of `signals.ignore_methods`"),
    ] {
        let explanation = explained(&format!("[defaults.signals]\n{config}\n"), PEER, "429\nRetry-After: 5", "1");
        let field = &explanation.response.unwrap().fields[0];
        assert_eq!((field.decides, &*field.because), (false, expected));
    }
    let call = explained("", PEER, "200\ncontent-type: application/grpc\ngrpc-status: 8", "1").response.unwrap();
    assert_eq!(call.why, "gRPC status 8, which counts as 429, is one of `signals.statuses`");
}

#[test]
fn a_level_without_a_route_for_the_path_is_told_of_once() {
    let config = "[[host]]\nmatch = [\"peer.example\"]\n[[host.level]]\nname = \"l\"\nby = [\"header:x-a\", \"path\"]\n\
                  routes = [\"/a/*\"]\n";
    let notes = |url: &str| explained(config, url, "429", "1").notes;
    let beside = notes("http://peer.example/b");
    assert_eq!(beside, ["the path fits none of the routes of level `l`, so the request has no key there"]);
    let within = notes("http://peer.example/a/b");
    assert!(matches!(&*within, [one] if one.starts_with("no `x-a` of the request was given")), "{within:?}");
}

#[test]
fn a_bound_is_said_of_what_it_holds() {
    let shown = |config: &str, response: &str| text(&explained(config, PEER, response, "2"));
    for (config, response, expected) in [
        ("", "429\nRetry-After: 120", "the host (retry_after_seconds), our ladder cut by `cooldown.max_overwait`\n"),
        ("", "429\nRetry-After: 0", "our ladder, which begins at `cooldown.min_cooldown`\n"),
        ("", "429\nRetry-After: 40", "our ladder, cut by `cooldown.max_overwait`\n"),
        ("", "429\nRetry-After: 7200", "the host (retry_after_seconds), cut by `cooldown.max_retry_after`\n"),
    ] {
        let shown = shown(config, response);
        assert!(shown.contains(expected), "{response}: {shown}");
    }
    let idle = shown("", "timeout");
    assert!(idle.contains("failure 2 in a row") && !idle.contains("In all"), "{idle}");
}

fn snapshot(key: &Key, machine: &Cooldown, now: Instant) -> Snapshot {
    let policy = crate::core::policy::Policy::default();
    let table = crate::table::Table::new(1, move |_: &Key| (std::sync::Arc::new(policy.clone()), ()), ());
    let entry = table.entry(&key.as_ref(), now);
    let mut snapshot = entry.snapshot(now);
    snapshot.view = machine.view(&crate::core::policy::Policy::default(), now);
    snapshot
}

#[test]
fn a_body_is_judged_by_the_rules_and_cools_what_they_say() {
    let config = "[[defaults.signals.body]]\nname = \"busy\"\nstatuses = [200]\nmedia_types = [\"application/json\"]\n\
                  conditions = [{ pointer = \"/status\", equals = \"failed\" }]\ncooldown = \"5m\"\ncools = \"host\"\n";
    let settings = config::parse(config).unwrap_or_else(|errors| panic!("{errors}")).settings;
    let headers = [String::from("Content-Type: application/json")];
    let written = Written { url: PEER, response: Some("200"), headers: &headers, ..Written::default() };
    let question = Question::read(&written, &Names::QUERY).unwrap();
    let of = |body: Option<&[u8]>| explain(&basis(&settings, &|_| None), &question, body);
    let matched = of(Some(br#"{"status":"failed"}"#));
    let response = matched.response.as_ref().unwrap();
    assert_eq!((&*response.outcome, response.source.as_deref()), ("backend_busy", Some("body_rule")));
    assert_eq!(lengths(&matched), [300.0]);
    assert!(of(Some(b"{}")).notes.iter().any(|note| note.contains("was read by `busy` and none matches")));
    assert!(of(None).notes.iter().any(|note| note.contains("is watched by the rule `busy`")));
}

#[test]
fn a_bad_question_is_told_what_was_expected_and_repeats_no_secret() {
    let secret = ["Authorization s3cret".to_owned()];
    let good = ["Retry-After: 1".to_owned()];
    let many = vec!["a: b".to_owned(); 65];
    let blank = || Written { url: PEER, ..Written::default() };
    for (written, expected) in [
        (
            Written { url: "http://münchen.example/", ..blank() },
            "`url`: expected a URL or a host, such as `https://peer.example/path`: expected an ASCII host name",
        ),
        (Written { url: "http://user:s3cret@peer.example", ..blank() }, "`url`: expected a URL or a host"),
        (Written { url: "ftp://peer.example", ..blank() }, "`url`: expected a URL or a host"),
        (Written { url: "group:uploads", ..blank() }, "`url`: expected a URL or a host"),
        (Written { url: "http://peer.example/a b", ..blank() }, "`url`: expected a URL or a host"),
        (
            Written { method: Some("CONNECT"), ..blank() },
            "`method`: expected the method of a request that holdoff can see",
        ),
        (Written { method: Some("G T"), ..blank() }, "`method`: expected a method such as `GET`, found `G T`"),
        (Written { response: Some("42"), ..blank() }, "`status`: expected a status from 200 to 599, or one of `dns`"),
        (Written { response: Some("100"), ..blank() }, "`status`: expected a status from 200 to 599"),
        (Written { response: Some("429"), headers: &secret, ..blank() }, "`header`: expected a header field such as"),
        (Written { request_headers: &secret, ..blank() }, "`request_header`: expected a header field such as"),
        (Written { request_headers: &many, ..blank() }, "`request_header`: expected at most 64 header fields"),
        (Written { headers: &good, ..blank() }, "`header`: expected beside `status`"),
        (Written { response: Some("tls"), headers: &good, ..blank() }, "`header`: expected with a status only"),
        (Written { times: Some("2"), ..blank() }, "`times`: expected beside `status`"),
        (Written { response: Some("429"), times: Some("51"), ..blank() }, "`times`: expected a number from 1 to 50"),
        (Written { response: Some("429"), times: Some("0"), ..blank() }, "`times`: expected a number from 1 to 50"),
    ] {
        let error = Question::read(&written, &Names::QUERY).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn an_explanation_is_read_again_as_it_was_written() {
    let explanation = explained("", "https://peer.example", "429\nRetry-After: 7200", "2");
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    let meanwhile = explanation.meanwhile.as_ref().unwrap();
    assert_eq!((meanwhile.status, meanwhile.retry_after), (Some(429), Some(3600)));
    assert_eq!(
        meanwhile.holdoff.as_deref(),
        Some("short-circuit; reason=rate_limited; until=\"2026-11-20T11:00:00Z\"; key=\"https://peer.example:443\"")
    );
    assert!(text(&explanation).lines().all(|line| line.trim_end() == line));
}
