//! The configuration as a whole: what is accepted, what is refused and where, which source has the last word.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::slice;
use std::time::Duration;

use super::diagnostic::{ConfigErrors, Diagnostic, Place};
use super::settings::{EgressTarget, HostTarget, Settings};
use super::{DEFAULT_TOML, Loaded, Sources, load, load_or, parse};
use crate::core::key::Key;
use crate::core::policy::{Mode, Policy};

fn good(text: &str) -> Settings {
    parse(text).unwrap_or_else(|errors| panic!("{errors}")).settings
}

fn bad(text: &str) -> ConfigErrors {
    match parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(errors) => errors,
    }
}

/// The only error, its line and column.
fn only(text: &str) -> (Diagnostic, usize, usize) {
    let errors = bad(text);
    assert_eq!(errors.count(), 1, "{errors}");
    let error = errors.errors()[0].clone();
    let Some(&Place::Text { line, column, .. }) = error.place() else { panic!("no place: {error}") };
    (error, line, column)
}

fn with(text: &str, said: impl FnOnce(&mut Sources)) -> Result<Loaded, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holdoff.toml");
    std::fs::write(&path, text).unwrap();
    let mut sources = Sources::default();
    sources.file(&path);
    said(&mut sources);
    load(&sources)
}

/// Everything but what is only told apart by its origin.
fn shown(loaded: &Loaded) -> String {
    loaded.effective.to_string().lines().fold(String::new(), |mut text, line| {
        writeln!(text, "{}", line.rsplit_once("  # ").map_or(line, |(value, _)| value)).unwrap();
        text
    })
}

#[test]
fn no_file_at_all_is_valid_and_says_that_none_was_read() {
    let loaded = load_or(&Sources::default(), Path::new("/nonexistent/holdoff.toml")).unwrap();
    assert_eq!(loaded.file, None);
    assert!(loaded.warnings.is_empty());
    let settings = loaded.settings;
    assert_eq!(settings.listen.address, ["127.0.0.1:4290".parse().unwrap(), "[::1]:4290".parse().unwrap()]);
    assert!(settings.listen.address_is_default && settings.all_loopback() && settings.egress.allow_private);
    assert_eq!(*settings.hosts.defaults.policy, Policy::default());
}

#[test]
fn the_usual_file_is_read_when_none_is_named_and_a_named_one_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holdoff.toml");
    std::fs::write(&path, "log.access = true").unwrap();
    let loaded = load_or(&Sources::default(), &path).unwrap();
    assert_eq!(loaded.file.as_deref(), Some(path.as_path()));
    assert!(loaded.settings.log.access);
    let errors = load(Sources::default().file("/nonexistent/holdoff.toml")).unwrap_err();
    assert!(errors.to_string().contains("/nonexistent/holdoff.toml"), "{errors}");
}

#[test]
fn the_default_file_says_exactly_the_defaults() {
    let (built_in, file) = (parse("").unwrap(), parse(DEFAULT_TOML).unwrap());
    assert_eq!(shown(&built_in), shown(&file));
    // `address_is_default` is the one thing that shows whether the key was written.
    let forget = |settings: &Settings| format!("{settings:?}").replace("address_is_default: true", "");
    let written = format!("{:?}", file.settings).replace("address_is_default: false", "");
    assert_eq!(forget(&built_in.settings), written);
}

/// A default file without the marks of keys that are only shown: `# key = …` and `# [[table]]`.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncomment = |line: &'static str| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) || rest.starts_with("[[") => rest,
        Some(rest) if rest.starts_with("[preset.") || rest == "[host.cooldown]" => rest,
        _ => line,
    };
    DEFAULT_TOML.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_stands_in_the_default_file_with_its_default_and_no_other() {
    let all: toml::Table = uncommented().parse().unwrap();
    let default: toml::Table = DEFAULT_TOML.parse().unwrap();
    let has = |table: &toml::Table, path: &str| {
        let mut at = Some(&toml::Value::Table(table.clone())).cloned();
        for name in path.split('.') {
            at = at.and_then(|value| value.get(name).cloned());
        }
        at.is_some()
    };
    for (key, has_default) in parse("").unwrap().effective.keys() {
        assert!(has(&all, &key), "`{key}` is not in the default file");
        assert_eq!(has(&default, &key), has_default, "`{key}`");
    }
    // What only a list of tables has.
    let reverse = all["reverse"][0].as_table().unwrap();
    let keys: Vec<&String> = reverse.keys().collect();
    assert_eq!(keys, ["address", "clients", "host_header", "path", "rewrite_location", "upstream"]);
    for (list, keys) in [
        (&all["host"], &["cooldown", "group", "match", "mode", "paths", "preset"][..]),
        (&all["defaults"]["level"], &["bucket", "by", "name", "routes"]),
        (&all["defaults"]["signals"]["field"], &["remaining", "reset", "unit"]),
        (&all["defaults"]["signals"]["scope"], &["equals", "field", "level", "step"]),
        (
            &all["defaults"]["signals"]["body"],
            &["conditions", "cools", "cooldown", "media_types", "name", "statuses", "when"],
        ),
    ] {
        let found: BTreeSet<&str> = list[0].as_table().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, keys.iter().copied().collect());
    }
    let text = uncommented().replace("token_file", "#").replace("auth_file", "#");
    let text =
        text.replace("proxy_password_file", "#").replace("client_cert_file", "#").replace("client_key_file", "#");
    let text = text.replace("format = \"auto\"\nbody", "format = \"custom\"\nbody");
    parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
}

#[test]
fn what_is_shown_can_be_read_again_and_means_the_same() {
    let text = "
        [listen]
        address = [\"0.0.0.0:4290\"]
        clients = [\"10.0.0.0/8\", \"fd00::/8\"]
        name = \"edge-7\"
        [[reverse]]
        address = [\"127.0.0.1:4300\"]
        upstream = \"https://bücher.example/api\"
        [egress]
        deny = [\"10.1.0.0/16:8443\", \"[fd00::/8]:1\", \"*.example.com\"]
        [defaults]
        cooldown.growth = 3
        answer.headers = { \"X-A\" = \"say \\\"b\\\"\" }
        [[host]]
        match = [\"a.example\"]
        [host.answer]
        format = \"custom\"
        body = \"two\\nlines\"
        [[host]]
        match = [\"*\"]
        mode = \"off\"
    ";
    let first = parse(text).unwrap();
    let again = parse(&first.effective.to_string()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(shown(&first), shown(&again));
    let forget = |settings: &Settings| format!("{:?}", settings.hosts.hosts);
    assert_eq!(forget(&first.settings), forget(&again.settings));
}

#[test]
fn a_mistyped_key_is_named_with_its_place_and_the_nearest_known_one() {
    let (error, line, column) = only("[listen]\n  adress = [\"127.0.0.1:4290\"]\n");
    assert_eq!((line, column), (2, 3));
    assert_eq!(error.message(), "unknown key `adress` in `[listen]`");
    assert_eq!(error.mend(), Some("did you mean `address`?"));
    let (error, line, _) = only("[defalts]\n");
    assert_eq!((line, error.mend()), (1, Some("did you mean `defaults`?")));
    let (error, ..) = only("[[host]]\nmatch = [\"a.example\"]\n[host.cooldwn]\n");
    assert_eq!(error.mend(), Some("did you mean `cooldown`?"));
    let (error, ..) = only("[defaults]\nquiet_time = \"1m\"\n");
    assert_eq!(error.mend(), Some("`quiet_time` is a key of `[defaults.cooldown]`"));
}

#[test]
fn a_key_that_is_not_honoured_yet_is_not_accepted() {
    for text in ["[fleet]", "[defaults.hold]", "[admin]\npage = true", "[limits]\nmax_held = 1"] {
        only(text);
    }
    only("[defaults.answer]\non_cooldown = \"hold\"");
}

#[test]
fn several_errors_are_found_in_one_run_in_the_order_of_the_file() {
    let errors = bad("[log]\nlevl = \"x\"\nformat = \"jsn\"\n[limits]\nmax_keys = 0\ngrace = 1\n");
    let lines: Vec<usize> = errors
        .errors()
        .iter()
        .map(|error| match error.place() {
            Some(Place::Text { line, .. }) => *line,
            _ => 0,
        })
        .collect();
    assert_eq!(lines, [2, 3, 5, 6], "{errors}");
}

#[test]
fn a_bad_value_says_what_was_expected_what_was_found_and_the_mend() {
    for (text, message, mend) in [
        ("limits.keepalive_timeout = 60", "found the number `60`", "\"60s\""),
        ("limits.keepalive_timeout = \"60\"", "a duration", "\"60s\""),
        ("limits.drain_body = 1024", "a size", "\"1024B\""),
        ("listen.address = \"127.0.0.1:1\"", "a list", "[\"127.0.0.1:1\"]"),
        ("log.format = \"jsom\"", "`\"json\"`", "did you mean `\"json\"`?"),
        ("egress.connect_ports = [443]", "a port", "\"443\""),
        ("upstream.ca_files = [\"ca.pem\"]", "an absolute path", "from the root"),
        ("reverse = {}", "a list of tables", "[[reverse]]"),
        ("listen = 1", "expected a table", "[listen]"),
        ("limits.max_keys = \"5\"", "a whole number", "without quotes"),
    ] {
        let (error, line, _) = only(text);
        assert_eq!(line, 1);
        assert!(error.message().contains(message), "{error}");
        assert!(error.mend().is_some_and(|found| found.contains(mend)), "{error}");
    }
    for text in [
        "limits.max_header_bytes = \"4KiB\"",
        "defaults.timeouts.connect = \"0s\"",
        "log.level = \"holdoff=loud\"",
        "log.level = \"\"",
        "defaults.answer.status = 200",
        "defaults.answer.max_advertised = \"500ms\"",
        "defaults.answer.format = \"custom\"",
        "defaults.answer.headers = { \"Retry-After\" = \"1\" }",
        "defaults.answer.headers = { \"X-A\" = \"a\\r\\nb\" }",
        "defaults.signals.statuses = [429, 401]",
        "defaults.cooldown.jitter = nan",
        "upstream.ca_files = [\"/nonexistent/ca.pem\"]",
        "listen.name = \"a b\"",
        "listen.address = []",
        "[[host]]",
        "[[host]]\nmatch = []",
        "[[reverse]]\naddress = [\"127.0.0.1:1\"]",
        "[[reverse]]\nupstream = \"https://a.example\"",
    ] {
        only(text);
    }
}

#[test]
fn a_syntax_error_has_its_place() {
    let (_, line, column) = only("[listen]\naddress = [\"127.0.0.1:4290\"\nvia = true\n");
    assert!((2..=3).contains(&line), "{line}:{column}");
    let (error, line, _) = only("[log]\naccess = true\naccess = false\n");
    assert_eq!(line, 3, "{error}");
}

#[test]
fn values_that_do_not_fit_together_point_at_the_one_that_was_written() {
    let (error, line, column) = only("[defaults.cooldown]\nmax_backoff = \"30s\"\n");
    assert_eq!((line, column), (2, 15));
    assert!(error.to_string().contains("`cooldown.default_cooldown` is \"1m\" (default)"), "{error}");
    // A host's own value against an inherited one; and no second error for hosts that only inherit.
    let (_, line, _) = only(
        "[defaults.cooldown]\nmax_backoff = \"20m\"\n[[host]]\nmatch = [\"*\"]\n[host.cooldown]\ndefault_cooldown = \"25m\"\n",
    );
    assert_eq!(line, 6);
    only("[defaults.cooldown]\nmax_backoff = \"30s\"\n[[host]]\nmatch = [\"*\"]\n");
}

#[test]
fn the_environment_goes_before_the_file_and_a_flag_before_both() {
    let text = "[listen]\naddress = [\"127.0.0.1:1\"]\n[defaults]\nmode = \"off\"\n";
    let port = |loaded: Loaded| loaded.settings.listen.address[0].port();
    assert_eq!(port(with(text, |_| {}).unwrap()), 1);
    let env = |sources: &mut Sources| {
        sources.env("listen.address", "HOLDOFF_LISTEN", "127.0.0.1:2");
    };
    assert_eq!(port(with(text, env).unwrap()), 2);
    let both = |sources: &mut Sources| {
        sources.flag("listen.address", "--listen", "127.0.0.1:3,[::1]:3");
        sources.env("listen.address", "HOLDOFF_LISTEN", "127.0.0.1:2");
    };
    let loaded = with(text, both).unwrap();
    let shown = loaded.effective.to_string();
    assert!(shown.contains("address = [\"127.0.0.1:3\", \"[::1]:3\"]  # flag --listen"), "{shown}");
    assert!(shown.contains("holdoff.toml:4\n"), "{shown}");
    assert!(shown.contains("access = false  # default"), "{shown}");
    assert_eq!(port(loaded), 3);
    let empty = |sources: &mut Sources| {
        sources.env("listen.address", "HOLDOFF_LISTEN", "");
    };
    assert_eq!(port(with(text, empty).unwrap()), 1);
}

#[test]
fn an_error_in_a_flag_or_the_environment_names_it() {
    let errors = with("", |sources| {
        sources.flag("defaults.mode", "--mode", "enforced");
        sources.env("listen.clients", "HOLDOFF_CLIENTS", "10.0.0.0/33");
    });
    let text = errors.unwrap_err().to_string();
    assert!(text.contains("--> the flag `--mode`") && text.contains("did you mean `\"enforce\"`?"), "{text}");
    assert!(text.contains("--> the environment variable `HOLDOFF_CLIENTS`"), "{text}");
}

/// What the flags `--set` make of a file.
fn set(text: &str, said: &[&str]) -> Result<Loaded, ConfigErrors> {
    with(text, |sources| {
        for each in said {
            sources.set_flag("--set", each);
        }
    })
}

#[test]
fn set_takes_toml_and_what_a_flag_of_the_key_would_take() {
    for said in ["defaults.cooldown.max_backoff=10m", "defaults.cooldown.max_backoff = \"10m\""] {
        let settings = set("defaults.cooldown.max_backoff = \"5m\"", &[said]).unwrap().settings;
        assert_eq!(settings.hosts.defaults.policy.cooldown.max_backoff, Duration::from_secs(600), "{said}");
    }
    let loaded = set(
        "",
        &[
            "listen.via=off",
            "listen.address=127.0.0.1:1,[::1]:1",
            "listen.name=edge",
            "listen.name=edge-7",
            "defaults.signals.statuses=[429, 420]",
            "defaults.tls.min_version=1.3",
            "defaults.answer.headers={ X-A = \"b\" }",
            "egress.connect_ports=443",
        ],
    );
    let loaded = loaded.unwrap();
    let settings = &loaded.settings;
    assert!(!settings.listen.via);
    assert_eq!(settings.listen.address, ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]);
    assert_eq!(settings.listen.name.as_deref(), Some("edge-7"), "the last word wins");
    assert_eq!(settings.hosts.defaults.policy.signals.statuses.len(), 2);
    assert_eq!(settings.hosts.defaults.tls.min_version, super::settings::TlsVersion::Tls13);
    assert_eq!(settings.hosts.defaults.answer.headers.len(), 1);
    assert_eq!(settings.egress.connect_ports, [(443, 443)]);
    assert!(loaded.effective.to_string().contains("via = false  # flag --set\n"), "{}", loaded.effective);
}

#[test]
fn set_goes_after_the_file_and_the_environment_and_before_a_flag_of_the_keys_own() {
    let level = |said: &dyn Fn(&mut Sources)| with("log.level = \"error\"", |s| said(s)).unwrap().settings.log.level;
    assert_eq!(level(&|s| _ = s.set_env("HOLDOFF_SET", "\nlog.access=true\n  log.level=warn\n")), "warn");
    let both = |s: &mut Sources| _ = s.set_flag("--set", "log.level=info").env("log.level", "HOLDOFF_LOG", "warn");
    assert_eq!(level(&both), "info");
    assert_eq!(
        level(&|s| _ = s.set_flag("--set", "log.level=info").flag("log.level", "--log-level", "trace")),
        "trace"
    );
    let shown = with("", |s| _ = s.set_env("HOLDOFF_SET", "log.access=true")).unwrap().effective.to_string();
    assert!(shown.contains("access = true  # env HOLDOFF_SET\n"), "{shown}");
}

#[test]
fn a_key_that_set_does_not_know_is_an_error_with_the_nearest_one() {
    let refused = |text: &str, said: &str| set(text, &[said]).map(|_| ()).unwrap_err().to_string();
    let one = "[[host]]\nmatch = [\"a.example\"]\n";
    for (text, said, message, help) in [
        ("", "listen.adress=x", "unknown key `listen.adress`", "did you mean `listen.address`?"),
        ("", "max_backoff=1m", "unknown key `max_backoff`", "did you mean `defaults.cooldown.max_backoff`?"),
        ("", "log.max_keys=1", "unknown key `log.max_keys`", "did you mean `limits.max_keys`?"),
        ("", "zzz=1", "unknown key `zzz`", "holdoff config default"),
        ("", "log={ level = \"warn\" }", "expected a key, found a table", "such as `log.level`"),
        ("", "defaults.tls=1", "expected a key, found a table", "such as `defaults.tls.upgrade`"),
        ("", "listen.via", "expected `KEY=VALUE`, found `listen.via`", "max_backoff=10m"),
        ("", "=5", "expected `KEY=VALUE`, found `=5`", "max_backoff=10m"),
        ("", "http_proxy=http://a.example", "unknown key `http_proxy`", "holdoff config default"),
        (one, "host.1.mode=off", "unknown key `host.1.mode`", "a file"),
        (one, "host.1.match=x", "unknown key `host.1.match`", "there are not so many"),
        ("", "host.0.mode=off", "unknown key `host.0.mode`", "there are not so many"),
        (one, "host.0.mod=off", "unknown key `host.0.mod`", "did you mean `host.0.mode`, of the first such table"),
        ("", "preset.x.mode=off", "unknown key `preset.x.mode`", "a preset is made in a file"),
        (one, "host.mode=off", "unknown key `host.mode`", "`host.0.mode`"),
    ] {
        let shown = refused(text, said);
        assert!(shown.contains(message) && shown.contains(help), "{said}: {shown}");
        assert!(shown.contains("--> the flag `--set`"), "{said}: {shown}");
    }
    let errors = with("", |sources| _ = sources.set_env("HOLDOFF_SET", "listen.adress=x")).unwrap_err().to_string();
    assert!(errors.contains("--> the environment variable `HOLDOFF_SET`"), "{errors}");
}

#[test]
fn a_value_that_set_gives_is_refused_like_one_of_a_file() {
    let errors = set("", &["listen.name=edge=7", "listen.name=edge-7"]).map(|_| ()).unwrap_err();
    assert!(errors.to_string().contains("`\"edge=7\"`"), "also where a later one wins: {errors}");
    for (said, expected) in [
        ("limits.max_keys=ten", "`limits.max_keys`: expected a whole number, 0 or more, found `\"ten\"`"),
        ("limits.max_keys=\"7\"", "write it without quotes: `7`"),
        ("limits.max_keys=0", "`limits.max_keys`: expected a number from 1 to 10000000"),
        ("defaults.cooldown.max_backoff=60", "for seconds write `\"60s\"`"),
        ("defaults.mode=obsrve", "did you mean `\"observe\"`?"),
        ("intercept.ca_dir=\"ca\"", "an absolute path"),
        ("defaults.answer.headers={ Date = \"x\" }", "a header that holdoff does not set itself"),
        ("upstream.proxy=http://user:hunter2@parent.example", "proxy_password_file"),
    ] {
        let shown = set("", &[said]).map(|_| ()).unwrap_err().to_string();
        assert!(shown.contains(expected) && shown.contains("--> the flag `--set`"), "{said}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn set_reaches_into_the_tables_of_a_list_and_can_give_the_list() {
    let hosts = "[[host]]\nmatch = [\"a.example\"]\n[[host]]\nmatch = [\"b.example\"]\nmode = \"off\"\n";
    let loaded = set(hosts, &["host.1.mode=observe", "host.0.cooldown.max_backoff=1m"]).unwrap();
    let hosts_of =
        |loaded: &Loaded| loaded.settings.hosts.hosts.iter().map(|h| h.settings.policy.mode).collect::<Vec<_>>();
    assert_eq!(hosts_of(&loaded), [Mode::Enforce, Mode::Observe]);
    let list = "host=[{ match = [\"c.example\"], mode = \"observe\", cooldown = { max_backoff = \"1m\" } }]";
    let loaded = set(hosts, &[list]).unwrap();
    assert_eq!(hosts_of(&loaded), [Mode::Observe], "instead of those of the file");
    assert!(loaded.effective.to_string().contains("max_backoff = \"1m\"  # flag --set\n"), "{}", loaded.effective);
    let reverse = "reverse=[{ address = [\"127.0.0.1:4300\"], upstream = \"https://a.example\" }]";
    assert_eq!(set("", &[reverse]).unwrap().settings.reverse.len(), 1);
    for (said, expected) in [
        ("host=a.example", "`host`: expected a list of tables, found `\"a.example\"`"),
        ("host=[1]", "`host`: expected a list of tables, found the number `1`"),
        ("host=[{ mode = \"off\" }]", "missing key `match` in `[[host]]`"),
        ("host=[{ match = [\"a.example\"], mod = 1 }]", "unknown key `mod` in `[[host]]`"),
        ("host=[{ match = [1] }]", "`match`: expected a host"),
        ("host=[{ match = [\"a.example\"], tls = 1 }]", "`tls`: expected a table"),
        ("reverse=127.0.0.1:4300=https://a.example", "`reverse`: expected a list of tables"),
    ] {
        // The file is longer than what is set: no place in it may be shown for it.
        let shown = set(hosts, &[said]).map(|_| ()).unwrap_err().to_string();
        assert!(shown.contains(expected), "{said}: {shown}");
        assert!(shown.contains("--> the flag `--set`") && !shown.contains("holdoff.toml:"), "{said}: {shown}");
    }
}

#[test]
fn the_checked_in_schema_is_the_one_of_the_code() {
    let file = include_str!("../../config/schema.json");
    assert!(file == super::schema(), "run `holdoff config schema > config/schema.json`");
}

#[test]
fn a_reverse_can_be_added_by_a_flag() {
    let loaded = with("[[reverse]]\naddress = [\"127.0.0.1:1\"]\nupstream = \"https://a.example\"", |sources| {
        sources.flag("reverse", "--reverse", "127.0.0.1:2=https://b.example/api");
    });
    let reverse = loaded.unwrap().settings.reverse;
    assert_eq!(reverse.len(), 2);
    assert_eq!(
        (reverse[1].upstream.to_string().as_str(), reverse[1].upstream_path.as_str()),
        ("https://b.example:443", "/api")
    );
    let errors = with("", |sources| {
        sources.flag("reverse", "--reverse", "127.0.0.1:2=https://user:hunter2@b.example");
    });
    let text = errors.unwrap_err().to_string();
    assert!(text.contains("--reverse") && !text.contains("hunter2"), "{text}");
}

#[test]
fn credentials_never_show_in_an_error() {
    for upstream in ["https://user:hunter2@b.example", "user:hunter2@b.example"] {
        let errors = bad(&format!("[[reverse]]\naddress = [\"127.0.0.1:1\"]\nupstream = \"{upstream}\""));
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }
}

#[test]
fn an_open_proxy_is_refused_with_the_mend() {
    let open = "[listen]\naddress = [\"127.0.0.1:4290\", \"0.0.0.0:4291\"]\n[admin]\naddress = []\n";
    let (error, line, column) = only(open);
    assert_eq!((line, column), (2, 30));
    assert!(error.mend().is_some_and(|mend| mend.contains("clients") && mend.contains("auth_file")), "{error}");
    good(&open.replace("[admin]", "clients = [\"10.0.0.0/8\"]\n[admin]"));
    only("[listen]\naddress = [\"[::]:4290\"]\n");
    only("[listen]\naddress = [\"192.0.2.1:4290\"]\n");
    good("[listen]\naddress = [\"[::ffff:127.0.0.1]:4290\"]\n");
}

#[test]
fn an_open_reverse_is_refused_and_takes_the_clients_of_the_proxy() {
    let open = "[[reverse]]\naddress = [\"0.0.0.0:4300\"]\nupstream = \"https://a.example\"\n";
    let (error, line, _) = only(open);
    assert_eq!(line, 2);
    assert!(error.mend().is_some_and(|mend| mend.contains("clients")), "{error}");
    let clients = |text: &str| good(text).reverse[0].clients.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(clients(&format!("{open}clients = [\"10.1.0.0/16\"]\n")), ["10.1.0.0/16"]);
    assert_eq!(clients(&format!("{open}[listen]\nclients = [\"10.0.0.0/8\"]\n")), ["10.0.0.0/8"]);
    let local = open.replace("0.0.0.0", "127.0.0.1");
    assert!(clients(&format!("{local}[listen]\nclients = [\"10.0.0.0/8\"]\n")).is_empty());
}

#[test]
fn an_open_admin_listener_is_refused_with_the_mend() {
    let (error, line, _) = only("[admin]\naddress = [\"0.0.0.0:4291\"]\n");
    assert_eq!(line, 2);
    assert!(error.mend().is_some_and(|mend| mend.contains("token_file")), "{error}");
    good("[admin]\naddress = [\"unix:/run/holdoff/admin.sock\"]\n");
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret-token\n").unwrap();
    let text = format!("[admin]\naddress = [\"0.0.0.0:4291\"]\ntoken_file = \"{}\"\n", token.display());
    let loaded = parse(&text).unwrap();
    assert_eq!(loaded.settings.admin.token.as_ref().unwrap().secret, "secret-token");
    assert!(!loaded.effective.to_string().contains("secret-token"));
    assert!(!format!("{loaded:?}").contains("secret-token"));
    std::fs::write(&token, "").unwrap();
    assert!(bad(&text).to_string().contains("found an empty file"));
    std::fs::remove_file(&token).unwrap();
    let errors = bad(&text);
    assert_eq!(errors.count(), 1, "{errors}");
    assert!(errors.to_string().contains("holdoff.toml:3"), "{errors}");
}

#[test]
fn a_file_of_users_guards_the_proxy_and_must_be_good() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    let text = format!("[listen]\naddress = [\"0.0.0.0:4290\"]\nauth_file = \"{}\"\n", users.display());
    std::fs::write(&users, "ann:hunter2\n").unwrap();
    let errors = bad(&text);
    assert_eq!(errors.count(), 1, "{errors}");
    assert!(errors.to_string().contains("users:1") && !errors.to_string().contains("hunter2"), "{errors}");
    std::fs::write(&users, "ann:$2y$05$abcdefghijklmnopqrstuuM0PYYYQVf5i3cRbwYPMs8bXQ0pBrkPW\n").unwrap();
    assert_eq!(good(&text).listen.auth.unwrap().users.len(), 1);
}

#[test]
fn private_addresses_are_allowed_while_every_listener_is_on_loopback() {
    assert!(good("").egress.allow_private);
    let open = "[listen]\naddress = [\"0.0.0.0:4290\"]\nclients = [\"10.0.0.0/8\"]\n";
    assert!(!good(open).egress.allow_private);
    assert!(good(&format!("{open}[egress]\nprivate = \"allow\"\n")).egress.allow_private);
    assert!(!good("[egress]\nprivate = \"deny\"\n").egress.allow_private);
    // Metrics do not lead anywhere.
    assert!(good("[metrics]\naddress = [\"0.0.0.0:4292\"]\n").egress.allow_private);
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let (error, line, _) = only("[admin]\naddress = [\"127.0.0.1:4290\"]\n");
    assert_eq!(line, 2, "{error}");
    let (error, line, _) = only("[listen]\naddress = [\"127.0.0.1:4291\"]\n");
    assert_eq!(line, 2, "{error}");
    only("[metrics]\naddress = [\"0.0.0.0:4291\"]\n");
    good("[listen]\naddress = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n");
    let reverse = |address: &str, path: &str| {
        format!("[[reverse]]\naddress = [\"{address}\"]\nupstream = \"https://a.example\"\npath = \"{path}\"\n")
    };
    good(&(reverse("127.0.0.1:1", "/a") + &reverse("127.0.0.1:1", "/b")));
    let (error, line, _) = only(&(reverse("127.0.0.1:1", "/a") + &reverse("127.0.0.1:1", "/a/")));
    assert_eq!(line, 6);
    assert!(error.to_string().contains("holdoff.toml:2"), "{error}");
}

#[test]
fn a_tie_names_both_lines() {
    let (error, line, column) = only(
        "[[host]]\nmatch = [\"x.example\", \"bücher.example:443\"]\n[[host]]\nmatch = [\"XN--bcher-kva.example.:443\"]\n",
    );
    assert_eq!((line, column), (4, 10));
    assert!(error.to_string().contains("holdoff.toml:2"), "{error}");
    good("[[host]]\nmatch = [\"a.example\", \"a.example:443\", \"https://a.example\", \"http://a.example\"]\n");
}

#[test]
fn an_upgrade_whose_policy_is_not_that_of_both_keys_is_refused() {
    let host = |pattern: &str, tls: &str| format!("[[host]]\nmatch = [\"{pattern}\"]\n[host.tls]\n{tls}\n");
    let expected = "expected_san = [\"URI:spiffe://mesh/a\"]";
    for pattern in ["http://a.example", "a.example:80", "http://*.example", "https://a.example", "a.example:443"] {
        let (error, line, _) = only(&host(pattern, &format!("upgrade = true\n{expected}")));
        assert_eq!(line, 2, "{pattern}");
        assert!(error.to_string().contains(pattern), "{error}");
    }
    let inherited = "[defaults.tls]\nupgrade = true\n";
    only(&(inherited.to_owned() + &host("http://a.example", expected)));
    good(&(inherited.to_owned() + &host("https://a.example", expected)));
    good(&(inherited.to_owned() + &host("http://a.example", "upgrade = false")));
    for pattern in ["a.example", "*.example", "127.0.0.0/8", "*"] {
        good(&host(pattern, "upgrade = true"));
    }
    good(&host("http://a.example", expected));
}

#[test]
fn a_reverse_onto_http_is_one_onto_https_where_the_policy_upgrades() {
    let reverse = |upstream: &str| {
        let settings = good(&format!(
            "[[reverse]]\naddress = [\"127.0.0.1:1\"]\nupstream = \"{upstream}\"\n\
             [[host]]\nmatch = [\"a.example\", \"::1\"]\n[host.tls]\nupgrade = true\n"
        ));
        settings.reverse[0].upstream.to_string()
    };
    for (upstream, expected) in [
        ("http://a.example", "https://a.example:443"),
        ("http://A.example.:80/base", "https://a.example:443"),
        ("http://[::1]", "https://[::1]:443"),
        ("http://a.example:8080", "http://a.example:8080"),
        ("http://b.example", "http://b.example:80"),
        ("https://a.example:8443", "https://a.example:8443"),
    ] {
        assert_eq!(reverse(upstream), expected, "{upstream}");
    }
}

#[test]
fn a_shadowed_pattern_is_a_warning() {
    let text = "[[host]]\nmatch = [\"a.example\"]\n[[host]]\nmatch = [\"http://a.example\", \"https://a.example\"]\n";
    let warnings = parse(text).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("`a.example` never applies"), "{warnings:?}");
}

#[test]
fn a_host_takes_what_it_does_not_say_from_the_defaults() {
    let settings = good(
        "[defaults]\nmode = \"observe\"\n[defaults.cooldown]\nmax_backoff = \"20m\"\n[[host]]\nmatch = [\"*.example\"]\n[host.cooldown]\nramp = \"0s\"\n",
    );
    let host = settings.hosts.resolve(&Key::parse("https://a.example").unwrap());
    assert_eq!((host.policy.mode, host.policy.cooldown.ramp), (Mode::Observe, Duration::ZERO));
    assert_eq!(host.policy.cooldown.max_backoff, Duration::from_secs(1200));
    let other = settings.hosts.resolve(&Key::parse("https://a.test").unwrap());
    assert_eq!(other.policy.cooldown.ramp, Duration::from_secs(10));
}

#[test]
fn any_certificate_is_accepted_per_host_only_and_with_a_warning() {
    let (_, line, _) = only("[defaults.tls]\ninsecure = true\n");
    assert_eq!(line, 2);
    let loaded = parse("[[host]]\nmatch = [\"a.example\"]\n[host.tls]\ninsecure = true\n").unwrap();
    assert!(loaded.settings.hosts.hosts[0].settings.tls.insecure);
    assert!(loaded.warnings[0].contains("a.example"), "{:?}", loaded.warnings);
}

#[test]
fn international_names_are_a_labels_everywhere() {
    let settings = good(
        "[egress]\ndeny = [\"*.bücher.example\"]\n[admin]\nhosts = [\"Bücher.example\"]\n[[host]]\nmatch = [\"bücher.example\"]\n",
    );
    assert_eq!(settings.egress.deny[0].target, EgressTarget::Suffix(".xn--bcher-kva.example".to_owned()));
    assert_eq!(settings.admin.hosts, ["xn--bcher-kva.example"]);
    assert_eq!(settings.hosts.hosts[0].patterns[0].target, HostTarget::Exact("xn--bcher-kva.example".to_owned()));
}

#[test]
fn ca_files_of_a_flag_are_added_to_those_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap().cert.pem();
    let (first, second) = (directory.path().join("a.pem"), directory.path().join("b.pem"));
    std::fs::write(&first, &ca).unwrap();
    std::fs::write(&second, &ca).unwrap();
    let text = format!("upstream.ca_files = [\"{}\"]", first.display());
    let loaded = with(&text, |sources| {
        sources.flag("upstream.ca_files", "--ca-file", second.to_str().unwrap());
    });
    let loaded = loaded.unwrap();
    assert!(loaded.effective.to_string().contains("holdoff.toml:1, flag --ca-file"), "{}", loaded.effective);
    assert_eq!(loaded.settings.upstream.ca_files, [first, second.clone()]);
    let only = set(&text, &[&format!("upstream.ca_files={}", second.display())]).unwrap();
    assert_eq!(only.settings.upstream.ca_files, slice::from_ref(&second), "`--set` sets");
    let shown = only.effective.to_string();
    assert!(shown.contains("  # flag --set\n") && !shown.contains("holdoff.toml:1"), "{shown}");
    std::fs::write(&second, "not a certificate").unwrap();
    let errors = with("", |sources| {
        sources.env("upstream.ca_files", "HOLDOFF_CA_FILE", second.to_str().unwrap());
    });
    let text = errors.unwrap_err().to_string();
    assert!(text.contains("HOLDOFF_CA_FILE") && text.contains("BEGIN CERTIFICATE"), "{text}");
}

#[test]
fn a_file_that_is_no_configuration_is_refused_clearly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holdoff.toml");
    let errors = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        load(Sources::default().file(&path)).unwrap_err().to_string()
    };
    let text = errors(b"[log]\nlevel = \"\xff\"\n");
    assert!(text.contains("UTF-8") && text.contains("holdoff.toml:2:10"), "{text}");
    let text = errors(&vec![b'#'; 17 << 20]);
    assert!(text.contains("at most 16384 KiB"), "{text}");
    let text = errors(&[b'['; 100_000]);
    assert!(text.contains("not TOML"), "{text}");
    let text = load(Sources::default().file(directory.path())).unwrap_err().to_string();
    assert!(text.contains("readable"), "{text}");
}

#[test]
fn thousands_of_hosts_and_thousands_of_errors_are_no_trouble() {
    let mut text = String::new();
    for host in 0..5000 {
        writeln!(text, "[[host]]\nmatch = [\"h{host}.example\"]\ncooldown.ramp = \"{host}ms\"").unwrap();
    }
    let hosts = good(&text).hosts;
    let found = hosts.resolve(&Key::parse("https://h4321.example").unwrap());
    assert_eq!(found.policy.cooldown.ramp, Duration::from_millis(4321));
    let line = format!("host = [{}]", "{mode = 1},".repeat(20_000));
    let start = tokio::time::Instant::now();
    assert!(bad(&line).count() >= 20_000);
    // The line is shown with the errors that are kept only: reading it for each takes minutes.
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn line_ends_and_a_byte_order_mark_do_not_disturb_places() {
    let (error, line, column) = only("\u{feff}[log]\r\naccess = 1\r\n");
    assert_eq!((line, column), (2, 10));
    assert!(error.to_string().contains("2 | access = 1\n"), "{error}");
}

mod policies;
