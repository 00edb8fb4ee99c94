use super::*;
use crate::admin::view::{Consecutive, Failure, KeyTotals, Totals};

const PLAIN: Style = Style { colour: false, width: None };

fn list(cooldowns: Vec<Cooldown>) -> List {
    List {
        now: "2026-11-20T10:00:00.000Z".to_owned(),
        name: "holdoff-1a2b3c4d".to_owned(),
        version: "0.1.0".to_owned(),
        started: "2026-11-20T07:55:00.000Z".to_owned(),
        uptime_seconds: 7500,
        lifecycle: "ready".to_owned(),
        listen: vec![
            Listening { address: "127.0.0.1:4290".to_owned(), upstream: None },
            Listening { address: "127.0.0.1:4300".to_owned(), upstream: Some("https://api.example:443".to_owned()) },
        ],
        intercept: Vec::new(),
        totals: Totals { forwarded: 1234, short_circuited: 567, failed: 8, ..Totals::default() },
        matched: cooldowns.len(),
        truncated: false,
        cooldowns,
    }
}

fn row(key: &str, state: &str) -> Cooldown {
    Cooldown {
        key: key.to_owned(),
        host: String::new(),
        state: state.to_owned(),
        ramping: false,
        mode: "enforce".to_owned(),
        reason: None,
        source: None,
        until: None,
        remaining_seconds: None,
        opened_at: None,
        signal: None,
        hint_seconds: None,
        note: None,
        rate_step: 0,
        breaker_step: 0,
        consecutive: Consecutive::default(),
        last_error: None,
        last_status: None,
        last_success: None,
        last_failure: None,
        frozen_until: None,
        probe_out: false,
        only_connect: false,
        totals: KeyTotals::default(),
    }
}

fn limited() -> Cooldown {
    Cooldown {
        reason: Some("rate_limited".to_owned()),
        source: Some("retry_after_seconds".to_owned()),
        until: Some("2026-11-20T10:04:12.000Z".to_owned()),
        remaining_seconds: Some(252),
        signal: Some("Retry-After: 252".to_owned()),
        last_error: Some("HTTP 429 from peer.example (retry_after=252s): slow down".to_owned()),
        totals: KeyTotals { short_circuited: 99, ..KeyTotals::default() },
        ..row("https://peer.example:443", "cooling")
    }
}

#[test]
fn the_hosts_that_are_seen_inside_are_named() {
    let none = list(Vec::new());
    assert!(!page(&none, PLAIN).contains("TLS"));
    let some = List { intercept: vec!["api.example".to_owned(), "*.peer.example".to_owned()], ..none };
    assert!(page(&some, PLAIN).contains("\nseeing inside TLS to api.example, *.peer.example\n"));
}

#[test]
fn nothing_cooling_is_said_plainly() {
    let expected = "\
holdoff is working: holdoff-1a2b3c4d 0.1.0, up 2h 5m
listening on 127.0.0.1:4290, 127.0.0.1:4300 for https://api.example:443
1234 requests forwarded, 567 answered locally, 8 failed

nothing is cooling
";
    assert_eq!(page(&list(Vec::new()), PLAIN), expected);
}

#[test]
fn one_look_says_which_hosts_cool_until_when_why_who_said_so_and_what_it_saved() {
    let frozen = Cooldown {
        reason: Some("manual".to_owned()),
        source: Some("operator".to_owned()),
        until: Some("2026-11-22T11:00:00.000Z".to_owned()),
        remaining_seconds: Some(2 * 86_400 + 3600),
        note: Some("moving house".to_owned()),
        ..row("http://old.example:80", "cooling")
    };
    let failing = Cooldown {
        reason: Some("failing".to_owned()),
        source: Some("breaker".to_owned()),
        breaker_step: 2,
        last_failure: Some(Failure { at: String::new(), kind: "refused".to_owned() }),
        consecutive: Consecutive { failures: 3, ..Consecutive::default() },
        probe_out: true,
        ..row("https://down.example:8443", "probing")
    };
    let before = Cooldown {
        last_error: Some("HTTP 429 from was.example".to_owned()),
        totals: KeyTotals { signals: 3, cooldowns: 2, short_circuited: 7, ..KeyTotals::default() },
        ..row("https://was.example:443", "clear")
    };
    let tunnel = Cooldown {
        only_connect: true,
        totals: KeyTotals { tunnels: 12, ..KeyTotals::default() },
        ..row("https://blind.example:443", "clear")
    };
    let expected = "\
holdoff is working: holdoff-1a2b3c4d 0.1.0, up 2h 5m
listening on 127.0.0.1:4290, 127.0.0.1:4300 for https://api.example:443
1234 requests forwarded, 567 answered locally, 8 failed

cooling (2)
  host                until                        why                              said by               saved
  peer.example        10:04:12Z, in 4m 12s         rate_limited (Retry-After: 252)  the host, in seconds     99
      HTTP 429 from peer.example (retry_after=252s): slow down
  http://old.example  2026-11-22 11:00Z, in 2d 1h  manual (moving house)            an operator               0

being tested: the deadline has passed, one request at a time (1)
  host               until                why                            said by          saved
  down.example:8443  now, a probe is out  failing (refused, 3 in a row)  holdoff, step 2      0

clear again (1)
  was.example  3 signals, 0 failures, 2 cooldowns, 7 saved
      HTTP 429 from was.example

seen only as CONNECT: their 429s cannot be seen (1)
  blind.example  12 tunnels

  To see inside, add this to the configuration and give the node http://127.0.0.1:4301 as the base URL:

    [[reverse]]
    address = [\"127.0.0.1:4301\"]
    upstream = \"https://blind.example\"
";
    let found = page(&list(vec![limited(), frozen, failing, before, tunnel]), PLAIN);
    assert_eq!(found, expected);
}

#[test]
fn a_narrow_terminal_cuts_lines_and_wraps_none() {
    let long = Cooldown { last_error: Some("x".repeat(500)), signal: Some("y".repeat(80)), ..limited() };
    for width in [60, 80, 120] {
        let text = page(&list(vec![long.clone()]), Style { colour: false, width: Some(width) });
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        assert!(text.contains('…'));
    }
}

#[test]
fn colours_never_change_the_words_and_hostile_bytes_never_reach_the_terminal() {
    let hostile =
        Cooldown { last_error: Some("\u{1b}[2J\u{7}gone".to_owned()), note: Some("\r\n".to_owned()), ..limited() };
    let plain = page(&list(vec![hostile.clone()]), PLAIN);
    assert!(!plain.contains('\u{1b}') && plain.contains("?[2J?gone"));
    let coloured = page(&list(vec![hostile]), Style { colour: true, width: None });
    let mut stripped = String::new();
    let mut rest = &*coloured;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        stripped.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    stripped.push_str(rest);
    assert_eq!(stripped, plain);
    assert_ne!(coloured, plain);
}

#[test]
fn spans_have_two_units() {
    for (secs, expected) in
        [(0, "0s"), (59, "59s"), (60, "1m"), (252, "4m 12s"), (3600, "1h"), (3605, "1h"), (90_000, "1d 1h")]
    {
        assert_eq!(span(secs), expected);
    }
}

#[test]
fn a_short_key_is_still_read_as_the_same_key() {
    use crate::core::key::Key;
    for key in [
        "https://a.example:443",
        "http://a.example:80",
        "https://a.example:80",
        "http://a.example:443",
        "https://[::1]:443",
    ] {
        assert_eq!(Key::parse(&short(key)).unwrap().to_string(), key);
    }
}
