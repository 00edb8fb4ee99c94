use std::io::Write as _;
use std::time::Duration;

use http::header::CONTENT_ENCODING;

use super::*;

const PREFIX: usize = 16 << 10;
const DECODED: usize = 64 << 10;

const CODINGS: [&str; 5] = ["identity", "gzip", "x-gzip", "br", "zstd"];

pub(super) fn encoded(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" | "x-gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let (mut out, mut body) = (Vec::new(), body);
            brotli::BrotliCompress(&mut body, &mut out, &brotli::enc::BrotliEncoderParams::default()).unwrap();
            out
        }
        "zstd" => ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest),
        _ => body.to_vec(),
    }
}

fn equals(pointer: &str, scalar: Scalar) -> Condition {
    Condition::Pointer { pointer: Pointer::parse(pointer).unwrap(), test: Test::Equals(scalar) }
}

fn contains(pointer: &str, text: &str) -> Condition {
    Condition::Pointer { pointer: Pointer::parse(pointer).unwrap(), test: Test::Contains(text.into()) }
}

fn text(text: &str) -> Condition {
    Condition::Text(text.into())
}

fn rule(name: &str, when: When, conditions: Vec<Condition>) -> BodyRule {
    BodyRule {
        name: name.into(),
        statuses: vec![StatusCode::OK],
        media_types: vec!["application/json".into(), "text/event-stream".into()],
        when,
        conditions,
        cooldown: Duration::from_secs(600),
        cools: Cools::Group("uploads".into()),
    }
}

fn one(when: When, conditions: Vec<Condition>) -> BodyRules {
    BodyRules::new(vec![rule("one", when, conditions)], PREFIX, DECODED)
}

/// A job that failed although nothing was wrong with it: no worker was there.
fn backend_busy() -> BodyRules {
    let failed = || equals("/status", Scalar::Text("failed".into()));
    let died = rule("worker died", When::All, vec![failed(), text("background worker likely died")]);
    let nothing = rule("nothing was done", When::All, vec![failed(), equals("/totalSegments", Scalar::Integer(0))]);
    BodyRules::new(vec![died, nothing], PREFIX, DECODED)
}

fn head(fields: &[(http::HeaderName, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

fn watch(rules: &BodyRules, media_type: &'static str, coding: &'static str) -> Watch {
    rules.watch(StatusCode::OK, &head(&[(CONTENT_TYPE, media_type), (CONTENT_ENCODING, coding)])).unwrap()
}

fn judged<'p>(mut watch: Watch, pieces: impl IntoIterator<Item = &'p [u8]>) -> Verdict {
    let (prefix, mut is_done) = (watch.prefix, false);
    for piece in pieces {
        let says = watch.see(piece);
        assert!(says || !is_done, "it was done already");
        is_done = says;
        assert!(watch.kept.capacity() <= prefix, "{} bytes kept", watch.kept.capacity());
    }
    watch.finish()
}

fn json(rules: &BodyRules, body: &[u8]) -> Verdict {
    judged(watch(rules, "application/json", "identity"), [body])
}

fn name(verdict: &Verdict) -> Option<&str> {
    verdict.matched.as_ref().map(|found| &*found.rule.name)
}

fn holds(condition: Condition, body: &str) -> bool {
    json(&one(When::All, vec![condition]), body.as_bytes()).matched.is_some()
}

fn all(problems: Problems) -> Vec<Problem> {
    problems.iter().collect()
}

const DIED: &str = r#"{"job_id": "0b5c2f", "status": "failed", "created_at": "2026-03-01T12:00:00Z",
    "totalSegments": 12, "processedSegments": 0, "result": null,
    "error": "Job timed out: background worker likely died"}"#;

const NOTHING: &str = r#"{"job_id":"0b5c2f","status":"failed","totalSegments":0,"failedSegments":0,"error":null}"#;

const NEAR_MISSES: [&str; 8] = [
    r#"{"status": "completed", "totalSegments": 0, "error": "background worker likely died"}"#,
    r#"{"status": "failed", "totalSegments": 12, "error": "the audio cannot be read"}"#,
    r#"{"status": "failed", "totalSegments": 10, "error": "Background worker likely died"}"#,
    r#"{"status": "failed", "totalSegments": "0"}"#,
    r#"{"job": {"status": "failed", "totalSegments": 0, "error": "background worker likely died"}}"#,
    r#"[{"status": "failed", "totalSegments": 0}]"#,
    r#"{"status": "failed", "detail": {"totalSegments": 0}, "totalSegments": 0.5}"#,
    r#"{"status": ["failed"], "totalSegments": 0}"#,
];

#[test]
fn a_job_that_failed_for_want_of_a_worker_says_that_the_backend_is_busy() {
    let rules = backend_busy();
    for coding in CODINGS {
        for (body, expected) in [(DIED, "worker died"), (NOTHING, "nothing was done")] {
            let verdict = judged(watch(&rules, "application/json", coding), [&*encoded(coding, body.as_bytes())]);
            assert_eq!(name(&verdict), Some(expected), "{coding}: {body}");
            assert!(verdict.problems.is_empty());
        }
        for body in NEAR_MISSES {
            let verdict = judged(watch(&rules, "application/json", coding), [&*encoded(coding, body.as_bytes())]);
            assert_eq!(name(&verdict), None, "{coding}: {body}");
            assert!(verdict.problems.is_empty());
        }
    }
    let found = json(&rules, DIED.as_bytes()).matched.unwrap();
    assert_eq!((found.rule.cooldown, &found.rule.cools), (Duration::from_secs(600), &Cools::Group("uploads".into())));
    assert_eq!(
        found.seen,
        [
            (r#"pointer /status equals "failed""#.to_owned(), "failed".to_owned()),
            (r#"text "background worker likely died""#.to_owned(), "background worker likely died\"}".to_owned()),
        ]
    );
    let found = json(&rules, NOTHING.as_bytes()).matched.unwrap();
    assert_eq!(found.seen.last().unwrap(), &("pointer /totalSegments equals 0".to_owned(), "0".to_owned()));
    assert_eq!(found.to_string(), r#"rule nothing was done: /status = "failed", /totalSegments = 0"#);
}

#[test]
fn a_match_is_shown_with_what_it_found() {
    let rules = one(When::Any, vec![text("worker"), Condition::regex("di.d").unwrap(), contains("/error", "likely")]);
    let found = json(&rules, br#"{"error":"worker likely \"died\""}"#).matched.unwrap();
    assert_eq!(found.to_string(), r#"rule one: text "worker", regex "di.d", /error = "worker likely \"died\"""#);
    let cools = [Cools::Host, Cools::Level, found.rule.cools.clone()].map(|cools| cools.to_string());
    assert_eq!(cools, ["host", "level", "group:uploads"]);
}

#[test]
fn the_pieces_in_which_a_body_comes_change_nothing() {
    for prefix in [0, 1, 40, 63, 64, 65, 100, PREFIX] {
        let rules = BodyRules { prefix, ..backend_busy() };
        for coding in CODINGS {
            let event = format!(": waiting\n\ndata: {NOTHING}\n\ndata: {DIED}\n\n{}", "x".repeat(300));
            for (media_type, body) in [("application/json", DIED), ("text/event-stream", &event)] {
                let body = encoded(coding, body.as_bytes());
                let whole = judged(watch(&rules, media_type, coding), [&*body]);
                for cut in 0..=body.len() {
                    let (one, two) = body.split_at(cut);
                    assert_eq!(judged(watch(&rules, media_type, coding), [one, two]), whole, "{coding} cut at {cut}");
                }
                for size in [1, 7, 64] {
                    assert_eq!(judged(watch(&rules, media_type, coding), body.chunks(size)), whole, "{coding}");
                }
            }
        }
    }
}

#[test]
fn a_body_that_breaks_off_counts_as_far_as_it_goes() {
    let rules = backend_busy();
    for coding in CODINGS {
        for body in NEAR_MISSES {
            let body = encoded(coding, body.as_bytes());
            for end in 0..body.len() {
                let verdict = judged(watch(&rules, "application/json", coding), [&body[..end]]);
                assert_eq!(verdict, Verdict { matched: None, problems: Problems::default() }, "{coding} until {end}");
            }
        }
    }
    let until = |body: &str, end: &str| body.find(end).unwrap() + end.len();
    for (body, needed) in [(DIED, until(DIED, "likely died")), (NOTHING, until(NOTHING, "Segments\":0,"))] {
        for end in 0..=body.len() {
            let verdict = json(&rules, &body.as_bytes()[..end]);
            assert_eq!(verdict.matched.is_some(), end >= needed, "{}", &body[..end]);
        }
    }
}

#[test]
fn what_is_coded_counts_as_far_as_it_can_be_decoded() {
    let rules = one(When::All, vec![text("early sign")]);
    // What follows does not get much smaller.
    let mut body = b"early sign ".repeat(20);
    let mut random = fastrand::Rng::with_seed(1);
    body.extend(std::iter::repeat_with(|| random.alphanumeric() as u8).take(100_000));
    for coding in ["gzip", "br"] {
        let coded = encoded(coding, &body);
        assert!(coded.len() > 2 * PREFIX);
        let verdict = judged(watch(&rules, "application/json", coding), coded.chunks(1000));
        assert!(verdict.matched.is_some() && all(verdict.problems) == [Problem::TooLong], "{coding}");
        let verdict = judged(watch(&rules, "application/json", coding), [&coded[..9000]]);
        assert!(verdict.matched.is_some() && verdict.problems.is_empty(), "{coding}");
    }
    // Of zstd only whole blocks; these end every 100 bytes.
    let coded: Vec<u8> =
        b"early sign ".repeat(2000).chunks(100).enumerate().fold(ZSTD_HEAD.to_vec(), |mut out, (_, block)| {
            out.extend_from_slice(&u32::try_from(block.len() << 3).unwrap().to_le_bytes()[..3]);
            out.extend_from_slice(block);
            out
        });
    for (end, expected) in [(6, false), (108, false), (109, true), (150, true), (coded.len(), true)] {
        let verdict = judged(watch(&rules, "application/json", "zstd"), [&coded[..end]]);
        assert_eq!(verdict.matched.is_some(), expected, "until {end}");
        assert_eq!(verdict.problems.contains(Problem::TooLong), end > PREFIX);
    }
}

/// The magic number, no flags, a window of 8 MiB.
const ZSTD_HEAD: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3];

/// `data: {"status": "failed", "status_again": "failed", "status_again": "failed"}` by `zstd -19`, without and with a
/// checksum: a window of 8 MiB, one block, matches.
const LIBZSTD: [&[u8]; 2] = [
    b"(\xb5/\xfd\x00he\x01\x00$\x02data: {\x22status\x22: \x22failed\x22, _again}\x02\x00z\xbe\xf2es\x0c",
    b"(\xb5/\xfd\x04he\x01\x00$\x02data: {\x22status\x22: \x22failed\x22, _again}\x02\x00z\xbe\xf2es\x0cr-4\x01",
];

#[test]
fn a_frame_that_libzstd_wrote_is_read() {
    let rules = one(When::All, vec![text("\"status_again\": \"failed\"")]);
    for frame in LIBZSTD {
        let verdict = judged(watch(&rules, "application/json", "zstd"), [frame]);
        assert!(verdict.matched.is_some() && verdict.problems.is_empty());
        // A frame of something else and an empty frame before it.
        let twice = [b"\x50\x2a\x4d\x18\x03\0\0\0abc", &encoded("zstd", b"")[..], frame].concat();
        assert!(judged(watch(&rules, "application/json", "zstd"), [&*twice]).matched.is_some());
    }
}

#[test]
fn several_members_of_gzip_are_one_body() {
    let rules = one(When::All, vec![text("first second")]);
    let body = [encoded("gzip", b"first "), encoded("gzip", b"second")].concat();
    assert!(judged(watch(&rules, "application/json", "gzip"), [&*body]).matched.is_some());
}

#[test]
fn an_endless_body_costs_no_memory() {
    let rules = BodyRules::new(vec![rule("one", When::All, vec![text("nowhere")])], PREFIX, DECODED);
    let buffer = vec![b' '; 64 << 10];
    for media_type in ["application/json", "text/event-stream"] {
        for coding in ["identity", "gzip", "br", "zstd", "compress"] {
            let mut watch = watch(&rules, media_type, coding);
            for _ in 0..(1 << 30) / buffer.len() {
                assert!(watch.see(&buffer), "the prefix is full");
                assert!(watch.kept.capacity() <= PREFIX);
            }
            assert_eq!(watch.finish().matched, None);
        }
    }
}

#[test]
fn a_bomb_stops_at_the_bound() {
    let rules = one(When::Any, vec![text("0"), text("x")]);
    let body = vec![b'0'; 1 << 20];
    for coding in ["gzip", "br", "zstd"] {
        let coded = encoded(coding, &body);
        let decoded = Coding::of(&head(&[(CONTENT_ENCODING, coding)])).unwrap().decode(&coded, DECODED).bytes.len();
        assert_eq!(decoded, DECODED, "{coding}");
        let verdict = judged(watch(&rules, "application/json", coding), [&*coded]);
        assert!(verdict.matched.is_some());
        assert_eq!(all(verdict.problems), [Problem::TooLong], "{coding}");
    }
    let far = [&body[..DECODED], b"x"].concat();
    let rules = one(When::Any, vec![text("x")]);
    for coding in ["gzip", "br", "zstd"] {
        assert_eq!(judged(watch(&rules, "application/json", coding), [&*encoded(coding, &far)]).matched, None);
        assert!(judged(watch(&rules, "application/json", coding), [&*encoded(coding, &far[1..])]).matched.is_some());
    }
    assert!(json(&BodyRules { decoded: 4, ..rules }, b"0000x").matched.is_none());
}

#[test]
fn a_window_has_a_bound() {
    let rules = one(When::All, vec![text("x")]);
    let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 9, 0, 0, b'x'];
    let verdict = |window| judged(watch(&rules, "application/json", "zstd"), [&frame(window)[..]]);
    assert!(verdict(13 << 3).matched.is_some(), "8 MiB");
    for window in [13 << 3 | 1, 14 << 3, 0xff] {
        assert_eq!(verdict(window), Verdict { matched: None, problems: Problems(Problem::Unsupported.bit()) });
    }
    // One that says "one segment of 2^62 bytes".
    let verdict = judged(
        watch(&rules, "application/json", "zstd"),
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 9, 0, 0, b'x'][..]],
    );
    assert_eq!(all(verdict.problems), [Problem::Unsupported]);
    // Brotli's large window, which is no part of the coding.
    let verdict = judged(watch(&rules, "application/json", "br"), [&[0x11, 30, 0, 0, 0, 0][..]]);
    assert_eq!(all(verdict.problems), [Problem::Malformed]);
}

#[test]
fn a_coding_that_is_not_read_matches_nothing_and_keeps_nothing() {
    let rules = one(When::All, vec![text("x")]);
    for coding in ["deflate", "compress", "gzip, gzip", "br,gzip", "gzip;q=1", "\u{1}"] {
        let Ok(value) = HeaderValue::from_str(coding) else { continue };
        let mut headers = head(&[(CONTENT_TYPE, "application/json")]);
        headers.insert(CONTENT_ENCODING, value);
        let mut watch = rules.watch(StatusCode::OK, &headers).unwrap();
        assert!(watch.see(b"x") && watch.kept.is_empty(), "{coding}");
        assert_eq!(watch.finish(), Verdict { matched: None, problems: Problems(Problem::Unsupported.bit()) });
    }
    let mut twice = head(&[(CONTENT_ENCODING, "gzip")]);
    twice.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
    assert_eq!(Coding::of(&twice), None);
    for (value, coding) in [
        ("", Coding::Identity),
        ("Identity", Coding::Identity),
        (" GZip ,", Coding::Gzip),
        ("identity, X-GZIP", Coding::Gzip),
        ("BR", Coding::Brotli),
        ("zstd,identity", Coding::Zstd),
    ] {
        assert_eq!(Coding::of(&head(&[(CONTENT_ENCODING, value)])), Some(coding), "{value}");
    }
}

#[test]
fn what_is_not_in_its_coding_is_malformed_and_counts_until_there() {
    let rules = one(When::All, vec![text("early sign")]);
    for coding in ["gzip", "br", "zstd"] {
        let verdict = judged(watch(&rules, "application/json", coding), [&b"early sign, not coded at all"[..]]);
        assert_eq!((verdict.matched, all(verdict.problems)), (None, vec![Problem::Malformed]), "{coding}");
    }
    for coding in ["gzip", "zstd"] {
        let coded = [&encoded(coding, b"early sign"), &b"\xff and something else"[..]].concat();
        let verdict = judged(watch(&rules, "application/json", coding), [&*coded]);
        assert!(verdict.matched.is_some() && all(verdict.problems) == [Problem::Malformed], "{coding}");
    }
    // A last block of the reserved type after a good one.
    let coded = [&ZSTD_HEAD[..], &[10 << 3, 0, 0], b"early sign", &[7, 0, 0]].concat();
    let verdict = judged(watch(&rules, "application/json", "zstd"), [&*coded]);
    assert!(verdict.matched.is_some() && all(verdict.problems) == [Problem::Malformed]);
    // Any bit another one: no panic.
    for coding in ["gzip", "br", "zstd"] {
        let coded = encoded(coding, DIED.as_bytes());
        for at in 0..coded.len() {
            for bit in 0..8 {
                let mut coded = coded.clone();
                coded[at] ^= 1 << bit;
                judged(watch(&backend_busy(), "application/json", coding), [&*coded]);
            }
        }
    }
}

#[test]
fn a_pointer_leads_to_a_place_in_json() {
    let body =
        r#"{"": 1, "a": {"b": [10, {"c": "x"}, []], "01": "lead"}, "~": 2, "/": 3, "ü": 4, "0": "zero", "-": 5}"#;
    for (pointer, scalar) in [
        ("/", Scalar::Integer(1)),
        ("/a/b/0", Scalar::Integer(10)),
        ("/a/b/1/c", Scalar::Text("x".into())),
        ("/a/01", Scalar::Text("lead".into())),
        ("/~0", Scalar::Integer(2)),
        ("/~1", Scalar::Integer(3)),
        ("/ü", Scalar::Integer(4)),
        ("/0", Scalar::Text("zero".into())),
        ("/-", Scalar::Integer(5)),
    ] {
        assert!(holds(equals(pointer, scalar.clone()), body), "{pointer}");
        assert!(!holds(equals(&format!("{pointer}/0"), scalar), body), "{pointer}/0");
    }
    for pointer in ["", "/a/b/00", "/a/b/-", "/a/b/1/c/", "/a/b/2/0", "/a/b/10", "/A"] {
        for scalar in [Scalar::Integer(10), Scalar::Text("x".into()), Scalar::Null] {
            assert!(!holds(equals(pointer, scalar), body), "{pointer}");
        }
    }
    assert!(holds(equals("", Scalar::Bool(true)), "true") && holds(equals("", Scalar::Bool(false)), " false\n"));
    assert!(holds(equals("/a", Scalar::Null), "\u{feff}{\"a\": null}"));
    for (text, error) in [
        ("a", PointerError::NoSlash),
        ("#/a", PointerError::NoSlash),
        ("/a~", PointerError::Escape),
        ("/~2", PointerError::Escape),
        ("/~ü", PointerError::Escape),
    ] {
        assert_eq!(Pointer::parse(text), Err(error), "{text}");
        assert!(error.to_string().starts_with("expected"));
    }
    assert_eq!(Pointer::parse("/~01~10/").unwrap().to_string(), "/~01~10/");
}

#[test]
fn numbers_are_compared_as_numbers_and_strings_as_they_are() {
    let largest = i64::MAX;
    for (scalar, written, expected) in [
        (Scalar::Integer(0), "0.0", true),
        (Scalar::Integer(0), "-0", true),
        (Scalar::Integer(0), "0e7", true),
        (Scalar::Integer(1), "1e0", true),
        (Scalar::Integer(100), "1E+2", true),
        (Scalar::Integer(1), "1.5", false),
        (Scalar::Integer(0), "0.5", false),
        (Scalar::Integer(-3), "-3", true),
        (Scalar::Integer(1), "true", false),
        (Scalar::Integer(0), "null", false),
        (Scalar::Integer(0), "\"0\"", false),
        (Scalar::Float(2.0), "2", true),
        (Scalar::Float(2.5), "25e-1", true),
        (Scalar::Float(2.5), "2", false),
        (Scalar::Float(f64::NAN), "0", false),
        (Scalar::Integer(largest), "9223372036854775807", true),
        (Scalar::Integer(largest), "9223372036854775808", false),
        (Scalar::Integer(largest), "9223372036854775807.0", false),
        (Scalar::Integer(9_007_199_254_740_993), "9007199254740993", true),
        (Scalar::Integer(9_007_199_254_740_993), "9007199254740992", false),
        (Scalar::Float(18_446_744_073_709_551_615.0), "18446744073709551615", false),
        (Scalar::Float(1e30), "1e30", true),
        (Scalar::Bool(true), "1", false),
        (Scalar::Text("failed".into()), "\"f\\u0061iled\"", true),
        (Scalar::Text("failed".into()), "\"Failed\"", false),
        (Scalar::Text("failed".into()), "\"failed \"", false),
        (Scalar::Text("null".into()), "null", false),
    ] {
        assert_eq!(
            holds(equals("/v", scalar.clone()), &format!("{{\"v\": {written}}}")),
            expected,
            "{scalar} {written}"
        );
    }
    for (written, expected) in
        [("\"it died\"", true), ("\"it Died\"", false), ("\"di\\u0065d\"", true), ("[\"died\"]", false), ("0", false)]
    {
        assert_eq!(holds(contains("/v", "died"), &format!("{{\"v\": {written}}}")), expected, "{written}");
    }
}

#[test]
fn one_of_two_values_of_the_same_name_is_enough() {
    for body in [r#"{"v": 1, "v": 2}"#, r#"{"v": 2, "v": 1}"#] {
        assert!(holds(equals("/v", Scalar::Integer(1)), body) && holds(equals("/v", Scalar::Integer(2)), body));
    }
    assert!(holds(contains("/v/0", "b"), r#"{"v": ["a"], "v": ["b"]}"#));
}

#[test]
fn what_is_cut_off_counts_for_nothing() {
    let is_one = || equals("/v", Scalar::Integer(1));
    for body in ["{\"v\": 1", "{\"v\": 1.", "{\"v\": 12", "{\"v\": 1e", "{\"v\": 1E+"] {
        assert!(!holds(is_one(), body), "{body}");
    }
    for body in ["{\"v\": 1}", "{\"v\": 1,", "{\"v\": 1 ", "{\"v\": 1.0,", "{\"v\": 1, nonsense"] {
        assert!(holds(is_one(), body), "{body}");
    }
    assert!(!holds(equals("", Scalar::Integer(1)), "1") && holds(equals("", Scalar::Integer(1)), "1\n"));
    assert!(!holds(equals("/v", Scalar::Text("died".into())), "{\"v\": \"died"));
    assert!(!holds(contains("/v", "died"), "{\"v\": \"died and more"));
    assert!(holds(text("died"), "{\"v\": \"died and more"));
    assert!(
        !holds(equals("/v", Scalar::Bool(true)), "{\"v\": tru")
            && holds(equals("/v", Scalar::Bool(true)), "{\"v\": true")
    );
}

#[test]
fn what_is_not_json_counts_until_there() {
    let rules = one(When::All, vec![equals("/v", Scalar::Integer(1))]);
    for (body, matches, malformed) in [
        ("{\"v\": 1} and junk", true, false),
        ("{\"v\": 1}{\"v\": 2}", true, false),
        ("{\"v\": 1, ]", true, true),
        ("{\"v\": 1, \"w\": \"\u{1}\"}", true, true),
        ("{\"w\": 1e999, \"v\": 1}", true, false),
        ("{\"v\": 1e999, \"v\": 1}", false, true),
        ("{'v': 1}", false, true),
        ("<html>", false, true),
        ("", false, false),
        ("  ", false, false),
    ] {
        let verdict = json(&rules, body.as_bytes());
        assert_eq!(verdict.matched.is_some(), matches, "{body}");
        assert_eq!(verdict.problems.contains(Problem::Malformed), malformed, "{body}");
    }
    assert!(json(&rules, b"{\"w\": \"\xff\", \"v\": 1}").matched.is_some(), "what is skipped may be anything");
    // No pointer, no JSON.
    assert!(json(&one(When::All, vec![text("x")]), b"<html>").problems.is_empty());
}

#[test]
fn depth_is_bounded() {
    let rules =
        BodyRules { prefix: 1 << 20, decoded: 1 << 20, ..one(When::All, vec![equals("/v", Scalar::Integer(1))]) };
    let deep = |open: &str| format!("{{\"w\": {}, \"v\": 1}}", open.repeat(100_000));
    json(&rules, deep("[").as_bytes());
    json(&rules, deep("{\"a\":").as_bytes());
    // A pointer that leads all the way down.
    let rules = BodyRules {
        prefix: 1 << 20,
        decoded: 1 << 20,
        ..one(When::All, vec![equals(&"/0".repeat(100_000), Scalar::Null)])
    };
    assert_eq!(all(json(&rules, "[".repeat(100_000).as_bytes()).problems), [Problem::Malformed]);
}

#[test]
fn of_a_stream_the_first_event_counts() {
    let rules = backend_busy();
    let died = DIED.replace('\n', "\ndata: ");
    for coding in CODINGS {
        let judge = |stream: &str| {
            judged(watch(&rules, "Text/Event-Stream; charset=utf-8", coding), [&*encoded(coding, stream.as_bytes())])
        };
        for end in ["\n\n", "\r\r", "\r\n\r\n"] {
            let first = format!("event: done\ndata: {NOTHING}{end}");
            assert_eq!(name(&judge(&first)), Some("nothing was done"), "{coding} {end:?}");
            let second = format!("data: {{}}{end}{first}");
            assert_eq!(judge(&second), Verdict { matched: None, problems: Problems::default() }, "{coding} {end:?}");
            // A text in the second event counts as little.
            let second = format!("data: {{\"status\": \"failed\"}}{end}: background worker likely died{end}");
            assert_eq!(judge(&second).matched, None, "{coding} {end:?}");
        }
        assert_eq!(name(&judge(&format!(": waiting\n\ndata: {died}\n\n"))), Some("worker died"), "{coding}");
        assert_eq!(name(&judge(&format!("data: {died}\n"))), Some("worker died"), "{coding}");
        // A number that its line ends is not cut off.
        let zero = one(When::All, vec![equals("", Scalar::Integer(0))]);
        for (stream, expected) in [("data: 0\n", true), ("data: 0", false)] {
            let verdict = judged(watch(&zero, "text/event-stream", coding), [&*encoded(coding, stream.as_bytes())]);
            assert_eq!(verdict.matched.is_some(), expected, "{coding}");
        }
    }
}

#[test]
fn after_the_first_event_nothing_more_is_wanted() {
    let rules = backend_busy();
    let mut watch = watch(&rules, "text/event-stream", "identity");
    assert!(!watch.see(b": waiting\n\ndata: {}\n") && watch.see(b"\ndata: more"));
    assert_eq!(watch.kept, b": waiting\n\ndata: {}\n\n");

    // A coded one is looked at every 64 bytes: 27 events of some size, each flushed, of which the first is found soon.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let (mut watch, mut sent, mut random) =
        (self::watch(&rules, "text/event-stream", "gzip"), 0, fastrand::Rng::with_seed(1));
    loop {
        sent += 1;
        encoder.write_all(format!("data: {:x}\n\n", random.u128(..)).as_bytes()).unwrap();
        encoder.flush().unwrap();
        let flushed = std::mem::take(encoder.get_mut());
        if watch.see(&flushed) {
            break;
        }
    }
    assert!(sent <= 3, "{sent} events");
    assert_eq!(all(watch.finish().problems), [Problem::Malformed], "that data is no JSON");

    // What cannot be decoded needs no more either.
    let mut watch = self::watch(&rules, "text/event-stream", "gzip");
    assert!(watch.see(&[b'x'; 64]));
}

#[test]
fn conditions_are_joined_by_all_or_any_and_the_first_rule_wins() {
    let (yes, no) = (|| text("sign"), || text("nowhere"));
    for (when, conditions, expected) in [
        (When::All, vec![yes(), yes()], true),
        (When::All, vec![yes(), no()], false),
        (When::Any, vec![no(), yes()], true),
        (When::Any, vec![no(), no()], false),
        (When::All, vec![], false),
        (When::Any, vec![], false),
        (When::All, vec![yes(), equals("/a", Scalar::Integer(1)), Condition::regex("s[a-i]gn").unwrap()], true),
        (When::All, vec![yes(), equals("/a", Scalar::Integer(2))], false),
        (When::Any, vec![equals("/a", Scalar::Integer(2)), equals("/a", Scalar::Integer(1))], true),
    ] {
        let rules = one(when, conditions);
        assert_eq!(json(&rules, b"{\"a\": 1, \"b\": \"sign\"}").matched.is_some(), expected, "{rules:?}");
    }
    let rules = ["no", "first", "second"].map(|name| {
        let pointer = equals("/a", Scalar::Integer(if name == "no" { 2 } else { 1 }));
        rule(name, When::All, vec![pointer, yes()])
    });
    let mut rules = BodyRules::new(rules.into(), PREFIX, DECODED);
    assert_eq!(name(&json(&rules, b"{\"a\": 1, \"b\": \"sign\"}")), Some("first"));
    // One whose media types do not fit is not tried.
    Arc::get_mut(&mut rules.rules[1]).unwrap().media_types = vec!["text/plain".into()];
    assert_eq!(name(&json(&rules, b"{\"a\": 1, \"b\": \"sign\"}")), Some("second"));
    assert_eq!(rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["no", "first", "second"]);
}

#[test]
fn what_was_seen_is_printable_and_short() {
    let seen = |condition: Condition, body: &[u8]| {
        let found = json(&one(When::Any, vec![condition, text("nowhere")]), body).matched.unwrap();
        assert_eq!(found.seen.len(), 1, "what does not hold saw nothing");
        found.seen[0].1.clone()
    };
    let long = format!("{{\"v\": \"{} sign\u{e9}\\n{}\"}}", "a".repeat(100), "b".repeat(100));
    let expected = format!("sign??{}{}", "?", "b".repeat(73));
    assert_eq!(seen(contains("/v", "sign"), long.as_bytes()), expected);
    let expected = format!("sign??\\n{}", "b".repeat(72));
    assert_eq!(seen(text("sign"), long.as_bytes()), expected);
    assert_eq!(seen(Condition::regex("s.gn").unwrap(), long.as_bytes()), expected);
    assert_eq!(seen(text("sign"), b"a sign here"), "a sign here");
    assert_eq!(seen(equals("/v", Scalar::Bool(true)), b"{\"v\": true}"), "true");
    assert_eq!(seen(equals("/v", Scalar::Null), b"{\"v\": null}"), "null");
    assert_eq!(seen(equals("/v", Scalar::Float(0.5)), b"{\"v\": 5e-1}"), "0.5");
}

#[test]
fn only_what_a_rule_fits_is_watched() {
    let rules = backend_busy();
    let json = head(&[(CONTENT_TYPE, "application/json; charset=utf-8")]);
    assert!(rules.watch(StatusCode::OK, &json).is_some());
    assert!(rules.watch(StatusCode::ACCEPTED, &json).is_none());
    assert!(rules.watch(StatusCode::OK, &head(&[(CONTENT_TYPE, "text/html")])).is_none());
    assert!(rules.watch(StatusCode::OK, &HeaderMap::new()).is_none());
    let any = BodyRules::new(
        vec![BodyRule {
            statuses: [200, 204, 205, 304].map(|status| StatusCode::from_u16(status).unwrap()).into(),
            media_types: Vec::new(),
            ..rule("any", When::Any, vec![text("x")])
        }],
        PREFIX,
        DECODED,
    );
    for (status, expected) in [(200, true), (204, false), (205, false), (304, false)] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(any.watch(status, &HeaderMap::new()).is_some(), expected, "{status}");
    }
    let none = BodyRules::new(Vec::new(), PREFIX, DECODED);
    assert!(none.is_empty() && !any.is_empty() && none.watch(StatusCode::OK, &json).is_none());
}

#[test]
fn words_are_those_of_logs_and_metrics() {
    assert_eq!(Problem::ALL.map(Problem::as_str), ["unsupported", "malformed", "too_long"]);
    let mut problems = Problems::default();
    for problem in Problem::ALL {
        assert!(!problems.contains(problem));
        problems.insert(problem);
        assert!(problems.contains(problem) && !problems.is_empty());
    }
    assert_eq!(all(problems), Problem::ALL);
}
