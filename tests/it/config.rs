//! `holdoff check`, `holdoff config` and what the command line says of mistakes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn holdoff(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDOFF_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn written(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("holdoff.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_mistyped_key_is_shown_with_its_place_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "[listen]\nadress = [\"127.0.0.1:4290\"]\n");
    for command in [&["check"][..], &["config", "show"], &["run"]] {
        let output = holdoff(&[command, &["--config", &path]].concat(), &[]);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert_eq!(stdout(&output), "");
        let expected = format!(
            "error: unknown key `adress` in `[listen]`\n --> {path}:2:1\n  |\n2 | adress = [\"127.0.0.1:4290\"]\n  | ^^^^^^\n  = \
             help: did you mean `address`?\n"
        );
        assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
    }
}

#[test]
fn check_passes_on_every_example_without_a_warning() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let output = holdoff(&["check", "--config", path.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), stderr(&output));
        assert_eq!(stderr(&output), "", "{}", path.display());
        assert!(stdout(&output).contains("is good"));
        count += 1;
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn the_default_configuration_passes_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, &stdout(&holdoff(&["config", "default"], &[])));
    let output = holdoff(&["check", "--config", &path], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn presets_are_printed_all_or_one_and_an_unknown_one_names_them() {
    let all = stdout(&holdoff(&["config", "presets"], &[]));
    assert!(all.contains("[preset.peer-sync.cooldown]") && all.contains("[preset.mesh.breaker]"), "{all}");
    let mesh = stdout(&holdoff(&["config", "presets", "mesh"], &[]));
    assert!(mesh.starts_with("# ") && mesh.contains("failure_threshold = 5") && all.contains(&mesh), "{mesh}");
    assert!(!mesh.contains("[preset.peer-sync") && !mesh.contains("[preset.federation"), "{mesh}");
    let output = holdoff(&["config", "presets", "mess"], &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
    assert!(stderr(&output).contains("`mesh`"), "{}", stderr(&output));
}

#[test]
fn show_says_which_preset_a_value_is_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "[[host]]\nmatch = [\"a.example\"]\npreset = \"mesh\"\nbreaker.max = \"9s\"\n");
    let output = holdoff(&["config", "show", "--config", &path], &[]);
    let text = stdout(&output);
    for line in [
        "failure_threshold = 5  # preset mesh".to_owned(),
        format!("max = \"9s\"  # {path}:4"),
        format!("preset = \"mesh\"  # {path}:3"),
        "ramp = \"10s\"  # [defaults] default".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}\n{}", stderr(&output));
    }
}

#[test]
fn check_hints_at_the_preset_of_a_well_known_host_and_no_other_command_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "[[host]]\nmatch = [\"api.github.com\"]\n");
    let output = holdoff(&["check", "--config", &path], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).starts_with("hint: `api.github.com`"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert_eq!(stderr(&holdoff(&["config", "show", "--config", &path], &[])), "");
}

#[test]
fn show_names_the_origin_of_each_value_and_is_a_configuration_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(&directory, "[log]\naccess = true\nlevel = \"warn\"\n[limits]\nmax_keys = 7\n");
    let environment = [("HOLDOFF_CONFIG", path.as_str()), ("HOLDOFF_LOG", "debug"), ("HOLDOFF_LOG_FORMAT", "json")];
    let output = holdoff(&["config", "show", "--log-format", "text", "--access-log=false"], &environment);
    let text = stdout(&output);
    for line in [
        "level = \"debug\"  # env HOLDOFF_LOG".to_owned(),
        "format = \"text\"  # flag --log-format".to_owned(),
        "access = false  # flag --access-log".to_owned(),
        format!("max_keys = 7  # {path}:5"),
        "max_tunnels = 10000  # default".to_owned(),
        format!("# read: {path}"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}\n{}", stderr(&output));
    }
    let again = written(&directory, &text);
    let output = holdoff(&["check", "--config", &again], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn every_flag_has_an_environment_variable_that_an_empty_value_leaves_unset() {
    let names = [
        "CONFIG",
        "LISTEN",
        "CLIENTS",
        "AUTH_FILE",
        "NAME",
        "REVERSE",
        "INTERCEPT",
        "CA_DIR",
        "ADMIN",
        "ADMIN_TOKEN_FILE",
        "METRICS",
        "MODE",
        "LOG",
        "LOG_FORMAT",
        "ACCESS_LOG",
        "CA_FILE",
        "SET",
    ]
    .map(|name| format!("HOLDOFF_{name}"));
    let help = stdout(&holdoff(&["run", "--help"], &[])).split_whitespace().collect::<Vec<_>>().join(" ");
    for name in &names {
        assert!(help.contains(&format!("[env: {name}]")), "{name}");
    }
    let empty: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let output = holdoff(&["check"], &empty);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn set_gives_any_key_a_value_on_every_command_that_reads_a_configuration() {
    let said = ["--set", "defaults.cooldown.max_backoff=10m", "--set", "defaults.signals.statuses=[429,420]"];
    let output =
        holdoff(&[&["config", "show"], &said[..]].concat(), &[("HOLDOFF_SET", "listen.via=false\nlog.level=warn")]);
    let text = stdout(&output);
    for line in [
        "max_backoff = \"10m\"  # flag --set",
        "statuses = [429, 420]  # flag --set",
        "via = false  # env HOLDOFF_SET",
        "level = \"warn\"  # env HOLDOFF_SET",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}\n{}", stderr(&output));
    }
    for (command, rest) in [
        (&["check"][..], &[][..]),
        (&["config", "show"], &[]),
        (&["run"], &[]),
        (&["exec"], &["--", "true"]),
        (&["ca", "init"], &[]),
        (&["ca", "show"], &[]),
        (&["ca", "export"], &[]),
    ] {
        let output = holdoff(&[command, &["--set", "listen.adress=x"], rest].concat(), &[]);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let said = stderr(&output);
        assert!(said.contains("`--set`") && said.contains("did you mean `listen.address`?"), "{command:?}: {said}");
    }
}

#[test]
fn the_schema_that_is_printed_is_the_one_that_is_checked_in() {
    let output = holdoff(&["config", "schema"], &[]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/schema.json");
    assert!(
        stdout(&output) == std::fs::read_to_string(file).unwrap(),
        "run `holdoff config schema > config/schema.json`"
    );
    let help = stdout(&holdoff(&["config", "schema", "--help"], &[]));
    assert!(help.contains("#:schema ./holdoff.schema.json") && help.contains("holdoff check"), "{help}");
}

#[test]
fn an_unsafe_set_up_from_the_environment_is_refused_with_the_mend() {
    for (name, value, mend) in [
        ("HOLDOFF_LISTEN", "0.0.0.0:4290", "--clients"),
        ("HOLDOFF_REVERSE", "0.0.0.0:4300=https://a.example", "clients"),
        ("HOLDOFF_ADMIN", "0.0.0.0:4291", "--admin-token-file"),
    ] {
        let output = holdoff(&["check"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains(name) && stderr(&output).contains(mend), "{}", stderr(&output));
    }
    let good = [("HOLDOFF_LISTEN", "0.0.0.0:4290"), ("HOLDOFF_CLIENTS", "10.0.0.0/8")];
    assert_eq!(holdoff(&["check"], &good).status.code(), Some(0));
}

#[test]
fn usage_errors_are_exit_code_2_and_help_is_0() {
    assert_eq!(holdoff(&["chekc"], &[]).status.code(), Some(2));
    assert_eq!(holdoff(&["check", "--lsten", "x"], &[]).status.code(), Some(2));
    assert_eq!(holdoff(&["--help"], &[]).status.code(), Some(0));
    assert!(stdout(&holdoff(&["--version"], &[])).starts_with("holdoff "));
}

#[test]
fn an_error_about_what_was_typed_hides_credentials() {
    let typed = holdoff(&["status", "--admin", "http://user:hidden@127.0.0.1:1"], &[]);
    let set = holdoff(&["status"], &[("HOLDOFF_ADMIN", "http://user:hidden@127.0.0.1:1")]);
    for output in [typed, set] {
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(message.contains("@127.0.0.1:1") && !message.contains("hidden"), "{message}");
    }
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdoff"))
        .args(["config", "default"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn nothing_is_coloured_away_from_a_terminal() {
    let output = holdoff(&["check", "--mode", "x"], &[]);
    assert!(!stderr(&output).contains('\u{1b}'), "{}", stderr(&output));
}
