//! The combined log format of nginx and Apache, with what people add to it: Apache's `vhost_combined`, which begins with
//! `host:port`, and fields as `name=value` at the end, by the names of [`Draft::field`].
//!
//! ```text
//! 192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /x HTTP/1.1" 429 17 "-" "curl/8.10.1" retry_after="120"
//! ```
//!
//! What the client chose (user, target, referrer, agent) stands in quotes or before the time, and both servers escape a
//! quote inside; so the time is what stands in brackets directly before the first quote, and a field is a name outside quotes.

use std::net::IpAddr;

use super::draft::{Draft, Flaw};
use super::stamp;

/// The length of `10/Oct/2000:13:55:36 -0700`.
const TIME: usize = 26;

/// Reads a line.
pub(super) fn read(line: &str) -> Result<Draft, Flaw> {
    let flaw = |expected, found| Err(Flaw::malformed(expected, found));
    let time = "`[time] \"request\" status` of the combined log format";
    let Some((before, after)) = line.split_once("] \"") else { return flaw(time, line) };
    let Some((start, stamped)) = before.len().checked_sub(TIME).and_then(|at| before.split_at_checked(at)) else {
        return flaw(time, line);
    };
    let (Some(start), true) = (start.strip_suffix('['), stamp::combined(stamped).is_some()) else {
        return flaw(time, line);
    };
    let mut draft = Draft::default();
    draft.field("time", stamped)?;
    if let Some(host) = vhost(start) {
        draft.field("host", host)?;
    }
    let Some((request, rest)) = quoted(after) else { return flaw("a request in quotes", line) };
    draft.request(request);
    let (status, mut rest) = word(rest.trim_start());
    if status.is_empty() {
        return flaw("a status behind the request", line);
    }
    draft.field("status", status)?;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        if let Some(inside) = rest.strip_prefix('"') {
            rest = quoted(inside).map_or("", |(_, behind)| behind);
            continue;
        }
        let (name, behind) = rest.split_at(rest.find([' ', '=']).unwrap_or(rest.len()));
        let Some(value) = behind.strip_prefix('=') else {
            rest = behind;
            continue;
        };
        let (value, behind) = match value.strip_prefix('"') {
            Some(inside) => quoted(inside).unwrap_or((inside, "")),
            None => word(value),
        };
        draft.field(name, value)?;
        rest = behind;
    }
    Ok(draft)
}

/// The `host:port` that stands before the address, if it does.
fn vhost(start: &str) -> Option<&str> {
    let mut words = start.split_ascii_whitespace();
    let first = words.next()?;
    let (_, port) = first.rsplit_once(':')?;
    // Behind it come address, identity and user; an IPv6 address has colons as well.
    let is_vhost = words.count() >= 3 && port.parse::<u16>().is_ok() && first.parse::<IpAddr>().is_err();
    is_vhost.then_some(first)
}

/// What stands before the next quote that is not escaped, and what behind it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    })?;
    Some((text.get(..end)?, text.get(end..)?.strip_prefix('"')?))
}

fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::super::draft::{Answer, Line, Places, Request};
    use super::*;
    use crate::config;

    fn line(text: &str) -> Line {
        let settings = config::parse("").unwrap().settings;
        let places = Places { about: Some("about.example".parse().unwrap()), hosts: &settings.hosts };
        read(text).unwrap().finish(&places).unwrap()
    }

    fn request(text: &str) -> (String, u64, u16, Option<String>) {
        let Line::Request(Request { key, ended, answer: Answer::Status(status, headers), .. }) = line(text) else {
            panic!("{text}: {:?}", line(text));
        };
        let wait = headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (key.to_string(), ended.as_secs(), status.as_u16(), wait)
    }

    const ABOUT: &str = "https://about.example:443";

    #[test]
    fn the_lines_of_the_documentation_are_read() {
        // Apache's documentation of mod_log_config, common and combined.
        let common = r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;
        let combined = format!(r#"{common} "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)""#);
        for text in [common, &combined] {
            assert_eq!(request(text), (ABOUT.into(), 971_211_336, 200, None));
        }
        let vhost = format!("shop.example:80 {combined}");
        assert_eq!(request(&vhost), ("http://shop.example:80".into(), 971_211_336, 200, None));
    }

    #[test]
    fn an_address_with_colons_is_no_host() {
        let rest = r#"[10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 5"#;
        for start in ["::1 - john q public ", "2001:db8::80 - a b ", "client.example - - ", "client.example:x - - - "] {
            assert_eq!(request(&format!("{start}{rest}")).0, ABOUT, "{start}");
        }
        assert_eq!(request(&format!("[::1]:443 ::1 - - {rest}")).0, "https://[::1]:443");
    }

    #[test]
    fn fields_at_the_end_are_read_by_name_and_quoted_ones_may_have_spaces() {
        let start = r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 429 5 "-" "agent""#;
        let of = |end: &str| {
            let (key, _, _, wait) = request(&format!("{start} {end}"));
            (key, wait)
        };
        assert_eq!(of("retry_after=120").1.as_deref(), Some("120"));
        assert_eq!(of(r#"retry_after="120""#).1.as_deref(), Some("120"));
        assert_eq!(
            of(r#"0.005 "x" retry_after="Sun, 06 Nov 1994 08:49:37 GMT" host=a.example scheme=http"#),
            ("http://a.example:80".into(), Some("Sun, 06 Nov 1994 08:49:37 GMT".into()))
        );
        for end in [r#"retry_after="-""#, "retry_after=-", "retry_after=", "other=5", "= == \"", "120"] {
            assert_eq!(of(end), (ABOUT.into(), None), "{end}");
        }
    }

    #[test]
    fn what_a_client_chose_is_no_field() {
        for client in [
            r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 429 5 "-" "x\" retry_after=9 host=evil.example""#,
            r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET /\" 200 retry_after=9 HTTP/1.1" 429 5 "-" "-""#,
            r#"::1 - u [09/Sep/1999:00:00:00 +0000] \"x [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 429 5 "-" "-""#,
        ] {
            assert_eq!(request(client), (ABOUT.into(), 971_186_136, 429, None), "{client}");
        }
    }

    #[test]
    fn noise_is_no_request_and_what_is_cut_is_malformed() {
        for request in ["-", r"\x16\x03\x01", "\u{1b}[31m x"] {
            let text = format!(r#"::1 - - [10/Oct/2000:13:55:36 +0000] "{request}" 400 5 "-" "-""#);
            assert!(matches!(line(&text), Line::Other), "{text}");
        }
        let whole = r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#;
        for cut in 0..whole.len() - 4 {
            assert!(read(&whole[..cut]).is_err(), "{}", &whole[..cut]);
        }
        assert!(read(&whole.replace("200", "2x0")).is_err());
        assert!(read(&whole.replace("Oct", "Okt")).is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(
            text in ".{0,60}",
            start in "[ -~]{0,20}",
            request in ".{0,30}",
            end in "[ -~]{0,40}",
        ) {
            let _ = read(&text);
            let _ = read(&format!("{start}[10/Oct/2000:13:55:36 +0000] \"{request}\" {end}"));
            let _ = read(&format!("{start}[10/Oct/2000:13:55:36 +0000] \"{request}\" 429 5 {end}"));
        }
    }
}
