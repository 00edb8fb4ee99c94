//! `holdoff demo` as a user runs it: the figures are the peers' own, and follow what the peers do.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdoff"));
    for name in ["HOLDOFF_DEMO_SECONDS", "HOLDOFF_DEMO_NODES", "HOLDOFF_DEMO_LIMIT", "HOLDOFF_DEMO_JSON"] {
        command.env_remove(name);
    }
    command
        .arg("demo")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(demo: Child) -> Output {
    let output = demo.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(demo: Child) -> Value {
    serde_json::from_slice(&end(demo).stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

#[test]
fn the_demo_shows_what_the_peers_counted_and_follows_their_limit() {
    let runs = [8, 16].map(|limit| {
        let text = limit.to_string();
        (limit, start(&["--json", "--seconds", "5", "--nodes", "4", "--limit", &text]))
    });
    let mut good_with = Vec::new();
    for (limit, demo) in runs {
        let figures = json(demo);
        let (without, with) = (&figures["without"], &figures["with"]);
        assert_eq!(number(&figures["limit"]), limit);
        // Naive nodes get what the first window allows, and keep the limit alive ever after.
        assert_eq!(number(&without["good"]), limit, "{figures:#}");
        assert!(without["recovered_after_seconds"].is_null(), "{figures:#}");
        assert!(number(&without["limited"]) > 20, "{figures:#}");
        // With holdoff they leave the peer alone as told, and get more.
        assert!(number(&with["requests"]) < number(&without["requests"]), "{figures:#}");
        assert!(number(&with["good"]) > limit, "{figures:#}");
        let recovered = with["recovered_after_seconds"].as_f64().unwrap();
        assert!((3.0..4.5).contains(&recovered), "{figures:#}");
        assert!(with["longest_silence_seconds"].as_f64().unwrap() >= 2.9, "{figures:#}");
        assert!(number(&figures["holdoff"]["short_circuited"]) > 10, "{figures:#}");
        assert!(number(&figures["holdoff"]["probes"]) >= 1, "{figures:#}");
        assert_eq!(figures["advantage"], true, "{figures:#}");
        for side in [without, with] {
            let seconds = side["per_second"].as_array().unwrap();
            assert_eq!(seconds.len(), 5);
            let sum: u64 = seconds.iter().map(|second| number(&second["requests"])).sum();
            assert_eq!(sum, number(&side["requests"]), "{figures:#}");
            assert_eq!(number(&side["nodes"]["failed"]) + number(&side["nodes"]["other"]), 0, "{figures:#}");
        }
        good_with.push(number(&with["good"]));
    }
    assert!(good_with[0] < good_with[1], "{good_with:?}");
}

#[test]
fn a_peer_that_refuses_nothing_shows_no_advantage() {
    let figures = json(start(&["--json", "--seconds", "5", "--nodes", "1", "--limit", "1000"]));
    assert_eq!(number(&figures["without"]["limited"]) + number(&figures["with"]["limited"]), 0);
    assert_eq!(number(&figures["holdoff"]["short_circuited"]), 0);
    assert_eq!(figures["advantage"], false);
    assert!(figures["conclusion"].as_str().unwrap().contains("nothing to do"), "{figures:#}");
}

#[test]
fn without_a_terminal_the_picture_is_plain_and_printed_once() {
    let output = end(start(&["--seconds", "5"]));
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in
        ["WITHOUT holdoff:", "WITH holdoff:", "Counted by the peers:", "never in 5 s", "With holdoff the peer saw"]
    {
        assert_eq!(text.matches(expected).count(), 1, "`{expected}` in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    for arguments in [["--seconds", "26"], ["--seconds", "4"], ["--nodes", "0"], ["--nodes", "51"], ["--limit", "0"]] {
        let output = start(&arguments).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
