//! Presets, levels, groups, paths and rules: what is read of them, what is refused, and what lies over what.

use super::*;
use crate::config::presets;
use crate::core::cooldown::{Cooldown, Events};
use crate::core::decision::{Decision, Purpose, Reason, State};
use crate::core::level::By;
use crate::core::policy::{Ladder, Unit};
use crate::core::signal::body::{Condition, Cools, When};
use crate::core::signal::{Failure, Outcome, Signal};
use crate::core::time::Instant;

fn host(text: &str) -> String {
    format!("[[host]]\nmatch = [\"a.example\"]\n{text}\n")
}

/// The policy of a host with a preset.
fn preset(name: &str) -> Policy {
    let settings = good(&host(&format!("preset = \"{name}\"")));
    Policy::clone(&settings.hosts.hosts[0].settings.policy)
}

/// The lengths of the cooldowns that an outcome starts, each at the end of the one before.
fn lengths(policy: &Policy, outcome: &Outcome, start: u64, count: usize) -> Vec<Duration> {
    let (mut machine, mut now) = (Cooldown::new(), Instant::from_secs(start));
    let length = |_| {
        let deadline = fail(&mut machine, policy, outcome, now).expect("a cooldown");
        let length = deadline.saturating_since(now);
        now = deadline;
        length
    };
    (0..count).map(length).collect()
}

/// One exchange, and the deadline after it.
fn fail(machine: &mut Cooldown, policy: &Policy, outcome: &Outcome, now: Instant) -> Option<Instant> {
    let mut events = Events::default();
    let Decision::Forward(admission) = machine.admit(policy, Purpose::Request, now, &mut events) else {
        panic!("refused at {now:?}");
    };
    machine.observe(policy, admission, outcome, now, 0, &mut Events::default());
    machine.view(policy, now).cooldown.map(|cooldown| cooldown.deadline)
}

fn seconds(list: &[u64]) -> Vec<Duration> {
    list.iter().map(|&seconds| Duration::from_secs(seconds)).collect()
}

const LIMITED: Outcome = Outcome::Signal(Signal { reason: Reason::RateLimited, hint: None, received: None });

#[test]
fn a_peer_of_peer_sync_is_left_alone_from_a_minute_to_half_an_hour_whatever_fails() {
    let policy = preset("peer-sync");
    let expected = seconds(&[60, 120, 240, 480, 960, 1800, 1800]);
    assert_eq!(lengths(&policy, &LIMITED, 0, 7), expected);
    for failure in [Failure::Refused, Failure::Timeout, Failure::Status(502), Failure::Tls] {
        assert_eq!(lengths(&policy, &Outcome::Failing(failure), 0, 7), expected);
    }
    assert_eq!(policy.cooldown.max_retry_after, Duration::from_secs(3600));
    assert_eq!(policy.breaker.failure_window, Duration::ZERO);
}

#[test]
fn a_peer_of_a_mesh_is_left_alone_by_the_class_of_its_fifth_failure_in_five_seconds() {
    let policy = preset("mesh");
    for (failure, expected) in
        [(Failure::Reset, [50, 75]), (Failure::Timeout, [100, 200]), (Failure::Tls, [1000, 3000])]
    {
        let outcome = Outcome::Failing(failure);
        let mut machine = Cooldown::new();
        let mut at = |millis: u64| {
            let now = Instant::from_nanos(millis * 1_000_000);
            let deadline = fail(&mut machine, &policy, &outcome, now);
            deadline.map(|deadline| deadline.saturating_since(now))
        };
        for failure in 0..4 {
            assert_eq!(at(1000 + failure * 1000), None);
        }
        assert_eq!(at(5900), Some(Duration::from_millis(expected[0])), "{failure:?}");
        assert_eq!(at(20_000), Some(Duration::from_millis(expected[1])), "one failure of a probe opens it again");
    }
    // Five failures further apart do not.
    let mut machine = Cooldown::new();
    for second in [0, 2, 4, 6, 8, 10] {
        let outcome = Outcome::Failing(Failure::Reset);
        assert_eq!(fail(&mut machine, &policy, &outcome, Instant::from_secs(second)), None);
    }
    // Two good probes close it.
    let mut machine = Cooldown::new();
    for _ in 0..5 {
        fail(&mut machine, &policy, &Outcome::Failing(Failure::Reset), Instant::from_secs(1));
    }
    for (second, state) in [(2, State::Probing), (3, State::Clear)] {
        fail(&mut machine, &policy, &Outcome::Success, Instant::from_secs(second));
        assert_eq!(machine.state(Instant::from_secs(second)), state);
    }
    // The breaker of the mesh itself: five seconds.
    let plain = good(&host("preset = \"mesh\"\n[host.breaker]\nclasses = false\nfailure_threshold = 1"));
    let policy = &plain.hosts.hosts[0].settings.policy;
    assert_eq!(lengths(policy, &Outcome::Failing(Failure::Reset), 0, 3), seconds(&[5, 5, 5]));
}

#[test]
fn the_other_presets_of_nodes_have_their_figures() {
    let federation = preset("federation").cooldown;
    assert_eq!((federation.default_cooldown, federation.growth), (Duration::from_secs(2), 2.0));
    assert_eq!((federation.max_backoff, federation.jitter), (Duration::from_secs(300), 0.2));
    let app = good(&host("preset = \"app-sync\""));
    let app = &app.hosts.hosts[0].settings;
    assert_eq!(app.policy.cooldown.max_retry_after, Duration::from_secs(86_400));
    let rules: Vec<_> = app.bodies.iter().collect();
    assert_eq!(rules.len(), 2);
    for (rule, second) in
        rules.iter().zip(["text \"background worker likely died\"", "pointer /totalSegments equals 0"])
    {
        assert_eq!((rule.when, rule.cooldown, &rule.cools), (When::All, Duration::from_secs(600), &Cools::Host));
        let conditions: Vec<String> = rule.conditions.iter().map(Condition::to_string).collect();
        assert_eq!(conditions, ["pointer /status equals \"failed\"", second]);
    }
    let mailbox = good(&host("preset = \"mailbox\""));
    let timeouts = &mailbox.hosts.hosts[0].settings.timeouts;
    assert_eq!((timeouts.max_request_body, timeouts.head), (65_536, Duration::from_secs(20)));
}

#[test]
fn every_preset_can_be_named_and_is_shown_as_the_origin_of_what_it_says() {
    let mut count = 0;
    for name in presets::names() {
        let loaded = parse(&host(&format!("preset = \"{name}\""))).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!(loaded.settings.hosts.hosts[0].settings.preset.as_deref(), Some(name));
        let shown_first = loaded.effective.to_string();
        assert!(shown_first.contains(&format!("  # preset {name}\n")), "{shown_first}");
        // What is shown is the same again, with or without the preset.
        let again = parse(&shown_first).unwrap_or_else(|errors| panic!("{name}: {errors}\n{shown_first}"));
        assert_eq!(shown(&loaded), shown(&again), "{name}");
        assert_eq!(format!("{:?}", loaded.settings.hosts.hosts), format!("{:?}", again.settings.hosts.hosts), "{name}");
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

#[test]
fn a_preset_lies_over_the_defaults_and_under_the_host() {
    let ladder = |text: &str| {
        let hosts = good(text).hosts;
        let policy = &hosts.resolve(&Key::parse("https://a.example").unwrap()).policy;
        (policy.cooldown.ladder, policy.cooldown.max_backoff.as_secs(), policy.cooldown.ramp.as_secs())
    };
    let defaults = "[defaults.cooldown]\nladder = \"off\"\nmax_backoff = \"20m\"\nramp = \"3s\"\n";
    assert_eq!(ladder(defaults), (Ladder::Off, 1200, 3));
    let with = defaults.to_owned() + &host("preset = \"peer-sync\"");
    assert_eq!(ladder(&with), (Ladder::Fixed, 1800, 3));
    assert_eq!(ladder(&(with + "[host.cooldown]\nmax_backoff = \"25m\"\n")), (Ladder::Fixed, 1500, 3));
    // In [defaults] it lies under what [defaults] says.
    let defaults = "[defaults]\npreset = \"peer-sync\"\n[defaults.cooldown]\nmax_backoff = \"20m\"\n";
    assert_eq!(ladder(defaults), (Ladder::Fixed, 1200, 10));
    assert_eq!(ladder(&(defaults.to_owned() + &host("preset = \"federation\""))), (Ladder::Fixed, 300, 10));
    let settings = good(&(defaults.to_owned() + &host("")));
    assert_eq!(settings.hosts.hosts[0].settings.preset.as_deref(), Some("peer-sync"));
}

const OWN: &str = "[preset.mine]\nmode = \"observe\"\n[preset.mine.cooldown]\nramp = \"7s\"\n\
                   [[preset.mine.level]]\nname = \"route\"\nby = [\"path\"]\n\
                   [[preset.mine.signals.scope]]\nfield = \"x-scope\"\nequals = \"user\"\nlevel = \"route\"\n";

#[test]
fn a_preset_of_ones_own_has_the_shape_of_the_defaults() {
    let loaded = parse(&(OWN.to_owned() + &host("preset = \"mine\"\ncooldown.ramp = \"8s\""))).unwrap();
    let settings = &loaded.settings.hosts.hosts[0].settings;
    assert_eq!((settings.policy.mode, settings.policy.cooldown.ramp.as_secs()), (Mode::Observe, 8));
    assert_eq!(settings.levels[0].by, [By::Path]);
    assert_eq!(settings.policy.signals.scopes.len(), 1);
    let again = parse(&loaded.effective.to_string()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(shown(&loaded), shown(&again));
    assert!(loaded.effective.to_string().contains("mode = \"observe\"  # preset mine"), "{}", loaded.effective);
}

#[test]
fn what_is_wrong_with_a_preset_is_said_once_where_it_stands() {
    let uses = host("preset = \"mine\"") + "[[host]]\nmatch = [\"b.example\"]\npreset = \"mine\"\n";
    for (text, line, part) in [
        ("[preset.mine]\nmode = \"enforced\"\n", 2, "did you mean `\"enforce\"`?"),
        ("[preset.mine]\npreset = \"mesh\"\n", 2, "unknown key `preset` in `[preset.mine]`"),
        ("[preset.mine]\nmatch = [\"a\"]\n", 2, "`match` is a key of `[[host]]`"),
        ("[preset.mine]\ngroup = \"a\"\n", 2, "`group` is a key of `[[host]]`"),
        ("[preset.mine.tls]\ninsecure = true\n", 2, "expected `false` in `[preset.mine]`"),
        ("[preset.mine.cooldown]\nmin_cooldown = \"0s\"\n", 2, "more than 0s"),
        ("[preset.mine.answer]\nbody = \"x\"\n", 2, "`format = \"custom\"`"),
        ("[[preset.mine.level]]\nname = \"a\"\n", 1, "missing key `by`"),
        ("[[preset.mine.level]]\nby = [\"pth\"]\nname = \"a\"\n", 2, "did you mean `\"path\"`?"),
        ("[[preset.mine.signals.scope]]\nfield = \"a\"\nequals = \"b\"\nlevel = \"c\"\n", 4, "there are `\"host\"`"),
    ] {
        let (error, at, _) = only(&(text.to_owned() + &uses));
        assert_eq!(at, line, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    only("preset = 1\n");
    only("[preset]\nmine = 1\n");
    let (error, ..) = only("[preset.\"My Peer\"]\n");
    assert!(error.message().contains("lower-case"), "{error}");
    let (error, ..) = only("[preset.mesh]\n");
    assert!(error.message().contains("built-in") && error.mend().is_some_and(|mend| mend.contains("another name")));
}

#[test]
fn an_unknown_preset_is_an_error_with_the_nearest_and_all() {
    let (error, line, column) = only(&(OWN.to_owned() + "[defaults]\npreset = \"pear-sync\"\n"));
    assert_eq!((line, column), (13, 10));
    let mend = error.mend().unwrap();
    assert!(mend.starts_with("did you mean `\"peer-sync\"`? there are `mine`, `"), "{mend}");
    let (error, ..) = only("[defaults]\npreset = \"zzz\"\n");
    assert!(error.mend().is_some_and(|mend| mend.contains("`mesh`") && mend.contains("[preset.zzz]")), "{error}");
}

#[test]
fn a_list_of_tables_stands_in_the_place_of_the_inherited_one() {
    let field =
        |table: &str, name: &str| format!("[[{table}.signals.field]]\nreset = \"{name}\"\nunit = \"seconds\"\n");
    let fields = |text: &str| {
        let settings = good(text);
        let fields = &settings.hosts.resolve(&Key::parse("https://a.example").unwrap()).policy.signals.fields;
        fields.iter().map(|field| field.reset.to_string()).collect::<Vec<_>>()
    };
    let defaults = field("defaults", "x-a") + &field("defaults", "x-b");
    assert_eq!(fields(&(defaults.clone() + &host(""))), ["x-a", "x-b"]);
    assert_eq!(fields(&(defaults.clone() + &host("") + &field("host", "x-c"))), ["x-c"]);
    let none = parse(&(defaults + &host("signals.field = []"))).unwrap();
    assert!(none.settings.hosts.hosts[0].settings.policy.signals.fields.is_empty());
    let again = parse(&none.effective.to_string()).unwrap();
    assert!(again.settings.hosts.hosts[0].settings.policy.signals.fields.is_empty(), "{}", none.effective);
}

#[test]
fn every_rule_is_read_as_it_is_written() {
    let text = host(
        "level = [{ name = \"c\", by = [\"header:X-Key\", \"query:k\", \"method\"], bucket = \"x-b\" }]\n\
         signals.limited_with_hint = [403]\nsignals.proactive = true\nsignals.ignore_methods = [\"POST\"]\n\
         signals.body_prefix = \"1KiB\"\nsignals.decoded_prefix = \"2KiB\"\n\
         signals.field = [{ reset = \"X-R\", unit = \"iso8601\", remaining = \"x-l\" }]\n\
         signals.scope = [{ field = \"x-s\", equals = \" Global \", level = \"c\", step = false }]\n\
         answer.on_cooldown = \"close\"\ngroup = \"g\"\npaths = [\"/v1/*\"]\n\
         [[host.signals.body]]\nname = \"busy\"\nstatuses = [202]\nmedia_types = [\"text/*\"]\nwhen = \"any\"\n\
         conditions = [{ text = \"a\\\"\" }, { regex = 'b\\d' }, { pointer = \"\", equals = 0.5 }, { pointer = \"/a~1b\", \
         equals = -1 }, { pointer = \"/c\", equals = true }, { pointer = \"/d\", contains = \"e\" }]\n\
         cooldown = \"5m\"\ncools = \"group:g\"",
    );
    let loaded = parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let settings = &loaded.settings.hosts.hosts[0].settings;
    let signals = &settings.policy.signals;
    assert_eq!((signals.limited_with_hint[0].as_u16(), signals.proactive), (403, true));
    assert_eq!(signals.ignore_methods, [http::Method::POST]);
    assert_eq!((signals.fields[0].reset.as_str(), signals.fields[0].unit), ("x-r", Unit::Iso8601));
    assert_eq!((&*signals.scopes[0].equals, signals.scopes[0].step), ("Global", false));
    assert_eq!((settings.bodies.prefix(), settings.bodies.decoded_prefix()), (1024, 2048));
    assert_eq!((settings.levels[0].by.len(), settings.levels[0].bucket.is_some()), (3, true));
    assert_eq!(settings.on_cooldown, crate::config::settings::OnCooldown::Close);
    assert_eq!(settings.group, Some(Key::group("g").unwrap()));
    let rule = settings.bodies.iter().next().unwrap();
    assert_eq!((rule.when, rule.conditions.len(), &rule.cools), (When::Any, 6, &Cools::Group("g".into())));
    let again = parse(&loaded.effective.to_string()).unwrap_or_else(|errors| panic!("{errors}\n{}", loaded.effective));
    assert_eq!(shown(&loaded), shown(&again));
    assert_eq!(format!("{:?}", loaded.settings.hosts.hosts), format!("{:?}", again.settings.hosts.hosts));
}

#[test]
fn a_bad_rule_is_refused_with_what_was_expected() {
    let body = |conditions: &str| format!("signals.body = [{{ name = \"a\", conditions = [{conditions}] }}]");
    for (text, part) in [
        ("level = [{ name = \"host\", by = [\"path\"] }]", "neither `host` nor `paths`"),
        ("level = [{ name = \"A\", by = [\"path\"] }]", "lower-case"),
        ("level = [{ name = \"a\", by = [] }]", "1 to 6"),
        ("level = [{ name = \"a\", by = [\"path\", \"path\"] }]", "each of them once"),
        ("level = [{ name = \"a\", by = [\"authorization\"] }]", "\"header:authorization\""),
        ("level = [{ name = \"a\", by = [\"header:a b\"] }]", "the name of a header"),
        ("level = [{ name = \"a\", by = [\"query:a&b\"] }]", "the name of a parameter"),
        ("level = [{ name = \"a\", by = [\"method\"], routes = [\"/a\"] }]", "add `\"path\"` to `by`"),
        ("level = [{ name = \"a\", by = [\"path\"], routes = [\"a\"] }]", "starts with `/`"),
        ("level = [{ name = \"a\", by = [\"path\"] }, { name = \"a\", by = [\"method\"] }]", "each level once"),
        ("level = { name = \"a\" }", "[[host.level]]"),
        ("paths = [\"v1\"]", "starts with `/`"),
        ("paths = [\"/v1\", \"/v1\"]", "each path once"),
        ("group = \"a b\"", "a group's name"),
        ("signals.limited_with_hint = [429]", "signals.statuses"),
        ("signals.ignore_methods = [\"post\"]", "write `\"POST\"`"),
        ("signals.body_prefix = \"2MiB\"", "from 1KiB to 1MiB"),
        ("signals.decoded_prefix = \"16MiB\"", "from 1KiB to 8MiB"),
        ("signals.field = [{ reset = \"x-a\" }]", "missing key `unit`"),
        ("signals.field = [{ reset = \"x-a\", unit = \"second\" }]", "did you mean `\"seconds\"`?"),
        ("signals.field = [{ reset = \"retry-after\", unit = \"seconds\" }]", "not read anyway"),
        ("signals.field = [{ reset = \"x-a:\", unit = \"seconds\" }]", "without the colon"),
        ("signals.scope = [{ field = \"x-a\", equals = \"\", level = \"host\" }]", "1 to 256 bytes"),
        ("signals.scope = [{ field = \"x-a\", level = \"host\" }]", "missing key `equals`"),
        ("signals.scope = [{ field = \"x-a\", equals = \"a\", level = \"zz\" }]", "[[host.level]]"),
        ("signals.body = [{ name = \"a\" }]", "missing key `conditions`"),
        (&body(""), "1 to 32 conditions"),
        (&body("{ text = \"\" }"), "a string of 1 to 1024 bytes as `text`"),
        (&body("{ txt = \"a\" }"), "a table with `txt`"),
        (&body("{ pointer = \"/a\" }"), "a table with `pointer`"),
        (&body("{ pointer = \"a\", equals = 1 }"), "RFC 6901"),
        (&body("{ pointer = \"/a\", equals = [1] }"), "found a list"),
        (&body("{ regex = \"(\" }"), "unclosed group"),
        (&body("{ regex = \"a*\" }"), "does not fit every body"),
        (&body("{ regex = '[a-z]{1000}{1000}' }"), "a regular expression"),
        ("signals.body = [{ name = \"a\", conditions = [{ text = \"a\" }], cools = \"grup:a\" }]", "group:NAME"),
        ("signals.body = [{ name = \"a\", conditions = [{ text = \"a\" }], cooldown = \"0s\" }]", "more than 0s"),
        (
            "signals.body = [{ name = \"a\", conditions = [{ text = \"a\" }], when = \"al\" }]",
            "did you mean `\"all\"`?",
        ),
        (
            "signals.body = [{ name = \"a\", conditions = [{ text = \"a\" }], media_types = [\"a/b; c=d\"] }]",
            "write `\"a/b\"`",
        ),
        ("answer.on_cooldown = \"hold\"", "`\"answer\"` or `\"close\"`"),
    ] {
        let (error, line, _) = only(&host(text));
        assert_eq!(line, 3, "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[test]
fn rules_are_bounded_in_number() {
    let many = |name: &str, table: &str, count: usize| {
        let tables: Vec<String> = (0..count).map(|number| table.replace('#', &number.to_string())).collect();
        host(&format!("{name} = [{}]", tables.join(", ")))
    };
    for (name, table, most) in [
        ("level", "{ name = \"l#\", by = [\"path\"] }", 8),
        ("signals.field", "{ reset = \"x-#\", unit = \"seconds\" }", 32),
        ("signals.scope", "{ field = \"x\", equals = \"#\", level = \"host\" }", 32),
        ("signals.body", "{ name = \"b#\", conditions = [{ text = \"a\" }] }", 64),
        ("paths", "\"/#\"", 64),
    ] {
        good(&many(name, table, most));
        let (error, ..) = only(&many(name, table, most + 1));
        assert!(error.message().contains(&format!("at most {most}")), "{error}");
    }
}

#[test]
fn paths_tell_tables_of_one_pattern_apart_unless_they_tie() {
    let table = |paths: &str| format!("[[host]]\nmatch = [\"a.example\"]\n{paths}\n");
    let two = |one: &str, other: &str| table(one) + &table(other);
    good(&two("", "paths = [\"/v1/*\"]"));
    good(&two("paths = [\"/*\"]", "paths = [\"/v1/*\"]"));
    good(&two("paths = [\"/a/{x}/c\"]", "paths = [\"/b/{x}/c\"]"));
    only(&two("", ""));
    let (error, line, column) = only(&two("paths = [\"/z\", \"/a/{x}/c\"]", "paths = [\"/a/*/c\"]"));
    assert_eq!((line, column), (6, 10), "{error}");
    assert!(error.to_string().contains("`/a/*/c` and `/a/{x}/c`"), "{error}");
    assert!(error.to_string().contains("holdoff.toml:3"), "{error}");
    let shadow = |paths: &str| {
        let text = format!("{}[[host]]\nmatch = [\"http://a.example\", \"https://a.example\"]\n{paths}\n", table(""));
        parse(&text).unwrap().warnings.len()
    };
    assert_eq!((shadow(""), shadow("paths = [\"/v1/*\"]")), (1, 0));
}

#[test]
fn two_scopes_of_one_value_are_refused() {
    let scope = |field: &str, equals: &str| {
        format!("[[host.signals.scope]]\nfield = \"{field}\"\nequals = \"{equals}\"\nlevel = \"host\"\n")
    };
    let (error, line, _) = only(&(host("") + &scope("x-scope", "global") + &scope("X-Scope", "Global ")));
    assert!(error.message().contains("each value of `x-scope` once, found `Global` twice"), "{error}");
    assert!(line > 6, "{line}");
    good(&(host("") + &scope("x-scope", "global") + &scope("x-scope", "user") + &scope("x-bucket", "global")));
}

#[test]
fn a_route_that_never_applies_is_a_warning() {
    let warnings = |routes: &str| {
        let level = format!("level = [{{ name = \"l\", by = [\"path\"], routes = [{routes}] }}]");
        parse(&host(&level)).unwrap().warnings
    };
    assert_eq!(
        warnings("\"/*\", \"/a/{b}\""),
        ["the route `/a/{b}` of level `l` never applies: `/*` stands before it and fits all its paths"]
    );
    assert_eq!(warnings("\"/a/{b}\", \"/a/{c}\"").len(), 1);
    assert!(warnings("\"/a/{b}\", \"/a/b/c\", \"/a/*\", \"/*\"").is_empty());
    for preset in ["github", "discord", "openai", "anthropic", "azure", "slack", "shopify", "mastodon"] {
        let loaded = parse(&host(&format!("preset = \"{preset}\""))).unwrap();
        assert!(loaded.warnings.is_empty(), "{preset}: {:?}", loaded.warnings);
    }
}

#[test]
fn a_body_rule_that_says_more_than_the_host_may_is_a_warning() {
    let rule = |cooldown: &str, cools: &str, more: &str| {
        let rule = format!(
            "signals.body = [{{ name = \"b\", conditions = [{{ text = \"x\" }}], cooldown = \"{cooldown}\", cools = \"{cools}\" }}]"
        );
        parse(&(host(&rule) + more)).unwrap().warnings
    };
    assert_eq!(
        rule("2h", "host", ""),
        ["the body rule `b` says 2h, and is cut to the 1h of `cooldown.max_retry_after`"]
    );
    assert!(rule("1h", "host", "").is_empty());
    assert!(rule("2h", "level", "[host.cooldown]\nmax_retry_after = \"2h\"\n").is_empty());
    let group = |most: &str| {
        format!("[[host]]\nmatch = [\"b.example\"]\ngroup = \"g\"\n[host.cooldown]\nmax_retry_after = \"{most}\"\n")
    };
    assert_eq!(rule("2h", "group:g", &group("90m")).len(), 1);
    assert!(rule("2h", "group:g", &group("1day")).is_empty());
}

#[test]
fn an_upgrade_is_of_the_host_as_a_whole() {
    let (error, line, _) = only(&host("paths = [\"/v1/*\"]\ntls.upgrade = true"));
    assert_eq!(line, 4);
    assert!(error.mend().is_some_and(|mend| mend.contains("all its paths")), "{error}");
    good(&("[defaults.tls]\nupgrade = true\n".to_owned() + &host("paths = [\"/v1/*\"]")));
}

#[test]
fn tables_of_one_group_have_one_policy() {
    let two = |one: &str, other: &str| {
        host(&format!("group = \"g\"\n{one}")) + &format!("[[host]]\nmatch = [\"b.example\"]\ngroup = \"g\"\n{other}\n")
    };
    good(&two("signals.proactive = true", "answer.annotate = true"));
    for (what, one) in [
        ("mode", "mode = \"off\""),
        ("cooldown", "cooldown.ramp = \"1s\""),
        ("breaker", "breaker.failure_threshold = 3"),
    ] {
        let (error, line, _) = only(&two(one, ""));
        assert_eq!(line, 7, "{error}");
        assert!(error.to_string().contains(&format!("not one `{what}`")), "{error}");
        assert!(error.to_string().contains("holdoff.toml:3"), "{error}");
        good(&two(one, one));
    }
}

#[test]
fn a_rule_that_cools_a_group_without_hosts_is_a_warning() {
    let rule = "[[host.signals.body]]\nname = \"a\"\nconditions = [{ text = \"a\" }]\ncools = \"group:up\"\n";
    let warnings = parse(&host(rule)).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("`up`"), "{warnings:?}");
    let with = host(rule) + "[[host]]\nmatch = [\"b.example\"]\ngroup = \"up\"\n";
    assert!(parse(&with).unwrap().warnings.is_empty());
}

#[test]
fn a_well_known_host_without_a_preset_is_hinted_at() {
    let hints =
        |matched: &str, more: &str| parse(&format!("[[host]]\nmatch = [\"{matched}\"]\n{more}\n")).unwrap().hints;
    for (matched, preset) in [
        ("api.github.com", "github"),
        ("https://discord.com", "discord"),
        ("api.openai.com:443", "openai"),
        ("hooks.slack.com", "slack"),
        ("*.myshopify.com", "shopify"),
        ("shop.myshopify.com", "shopify"),
    ] {
        let found = hints(matched, "");
        assert!(found.len() == 1 && found[0].contains(&format!("preset = \"{preset}\"")), "{matched}: {found:?}");
        assert!(hints(matched, &format!("preset = \"{preset}\"")).is_empty());
    }
    for matched in ["a.example", "github.com", "*", "10.0.0.0/8", "notslack.com"] {
        assert!(hints(matched, "").is_empty(), "{matched}");
    }
}

#[test]
fn tables_with_other_paths_have_another_key_however_many_they_are() {
    let scope = |paths: &[String]| {
        let text = format!("[[host]]\nmatch = [\"peer.example\"]\npaths = {paths:?}\n");
        let settings = parse(&text).unwrap().settings;
        let scope = settings.hosts.hosts[0].settings.scope();
        let key = Key::parse("https://peer.example").unwrap().scoped(&scope).unwrap();
        assert!(std::sync::Arc::ptr_eq(settings.hosts.of_key(&key).1, &settings.hosts.hosts[0].settings), "{key}");
        scope
    };
    let few = |last: &str| scope(&["/v1/*".to_owned(), last.to_owned()]);
    assert_eq!(few("/a"), "paths=/v1/*,/a");
    assert_ne!(few("/a"), few("/b"));
    let many = |last: &str| {
        let mut paths: Vec<String> = (0..40).map(|number| format!("/part-{number}/*")).collect();
        paths.push(last.to_owned());
        scope(&paths)
    };
    assert!(many("/a").starts_with("paths=/part-0/*,+40~") && many("/a").len() < 50, "{}", many("/a"));
    assert_eq!(many("/a"), many("/a"));
    assert_ne!(many("/a"), many("/b"));
}
