//! The marks of our answers, `Holdoff` and `Proxy-Status` (RFC 9209), written safely and taken off what others send.
//!
//! `Proxy-Status` is a list of structured fields (RFC 9651). Other proxies' members in it are theirs: they pass byte for
//! byte and in their order. Only members with our name go, because they would claim to be from here.

use http::HeaderMap;
use http::header::{Entry, HeaderName, HeaderValue};

/// Our own header, the one to grep for.
pub const HOLDOFF: HeaderName = HeaderName::from_static("holdoff");

/// `Proxy-Status` (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What an answer's `Proxy-Status` says of who made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The key that the maker's `Holdoff` names, as it is shown.
    pub key: Option<String>,
}

/// The mark of an answer that a proxy on the way made itself: the last member of `Proxy-Status`, which is that of the
/// nearest proxy, has an `error` (RFC 9209 §2.1.1). Whether it is to be believed is for the caller to know.
pub fn mark(headers: &HeaderMap) -> Option<Mark> {
    let value = headers.get_all(PROXY_STATUS).iter().next_back()?;
    let mut scanner = Scanner { rest: value.as_bytes() };
    scanner.skip(b" \t");
    loop {
        let mut has_error = false;
        scanner.member_with(|key, _| has_error |= key == b"error")?;
        scanner.skip(b" \t");
        if scanner.rest.is_empty() && has_error {
            break;
        }
        scanner.take(b',')?;
        scanner.skip(b" \t");
    }
    let mut key = None;
    if let Some(value) = headers.get(HOLDOFF) {
        let mut scanner = Scanner { rest: value.as_bytes() };
        let _ = scanner.member_with(|name, value| {
            if name == b"key" {
                key = Scanner { rest: value }.string();
            }
        });
    }
    Some(Mark { key })
}

/// Removes the mark of another holdoff that is not believed: `Holdoff`, and beside it the member of `Proxy-Status` that
/// says who made the answer. Without `Holdoff` that is another proxy's, and passes.
pub fn strip_foreign_mark(headers: &mut HeaderMap) {
    let is_marked = mark(headers).is_some();
    if headers.remove(HOLDOFF).is_none() || !is_marked {
        return;
    }
    let (mut members, mut at) = (0_usize, 0_usize);
    keep_members(headers, |_| {
        members = members.saturating_add(1);
        true
    });
    keep_members(headers, |_| {
        at = at.saturating_add(1);
        at < members
    });
}

/// Removes what claims to be a mark of ours: `Holdoff` wholly, and the members of `Proxy-Status` with our `name`, whether
/// written as a token or as a string, in any case of letters. A `Proxy-Status` that is no list of structured fields is
/// removed whole, since nobody can say whose it is.
pub fn strip_marks(headers: &mut HeaderMap, name: &str) {
    headers.remove(HOLDOFF);
    let name = shown(name);
    keep_members(headers, |member| !member.eq_ignore_ascii_case(&name));
}

/// Removes the members of `Proxy-Status` that are not to be kept, by their names.
fn keep_members(headers: &mut HeaderMap, mut keep: impl FnMut(&str) -> bool) {
    if !headers.contains_key(PROXY_STATUS) {
        return;
    }
    let Entry::Occupied(entry) = headers.entry(PROXY_STATUS) else { return };
    let kept: Option<Vec<Option<HeaderValue>>> = entry.iter().map(|value| members_of(value, &mut keep)).collect();
    entry.remove_entry_mult();
    for value in kept.into_iter().flatten().flatten() {
        headers.append(PROXY_STATUS, value);
    }
}

/// The value of one `Proxy-Status` field with the members that are kept: `None` where it is malformed, `Some(None)` where
/// nothing is left.
fn members_of(value: &HeaderValue, keep: &mut impl FnMut(&str) -> bool) -> Option<Option<HeaderValue>> {
    let mut scanner = Scanner { rest: value.as_bytes() };
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut is_changed = false;
    scanner.skip(b" \t");
    while !scanner.rest.is_empty() {
        let start = scanner.rest;
        let name = scanner.member_with(|_, _| {})?;
        let member = start.get(..start.len().checked_sub(scanner.rest.len())?)?;
        if keep(&name) {
            kept.push(member);
        } else {
            is_changed = true;
        }
        scanner.skip(b" \t");
        if scanner.rest.is_empty() {
            break;
        }
        scanner.take(b',')?;
        scanner.skip(b" \t");
        if scanner.rest.is_empty() {
            return None; // a comma at the end is no list (RFC 9651 §4.2.1)
        }
    }
    if !is_changed {
        return Some((!kept.is_empty()).then(|| value.clone()));
    }
    let kept = kept.join(&b", "[..]);
    Some(if kept.is_empty() { None } else { Some(HeaderValue::from_bytes(&kept).ok()?) })
}

/// Reads the parts of structured fields (RFC 9651 §4.2) that `Proxy-Status` can have.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// A member with its parameters, each of which `see` is shown with its bytes; gives its name.
    fn member_with(&mut self, mut see: impl FnMut(&[u8], &[u8])) -> Option<String> {
        let name = match self.peek()? {
            b'"' => self.string()?,
            _ => String::from_utf8_lossy(self.token()?).into_owned(),
        };
        while self.peek() == Some(b';') {
            self.take(b';')?;
            self.skip(b" ");
            let key = self.key()?;
            let mut value: &[u8] = &[];
            if self.peek() == Some(b'=') {
                self.take(b'=')?;
                value = self.rest;
                self.bare_item()?;
                value = value.get(..value.len().checked_sub(self.rest.len())?)?;
            }
            see(key, value);
        }
        Some(name)
    }

    fn bare_item(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b':' => {
                self.take(b':')?;
                self.while_in(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.take(b':')
            }
            b'?' => {
                self.take(b'?')?;
                (self.while_in(|b| b == b'0' || b == b'1').len() == 1).then_some(())
            }
            b'%' => {
                self.take(b'%')?;
                self.string().map(drop)
            }
            b'@' => {
                self.take(b'@')?;
                self.number()
            }
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.token().map(drop),
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.take(b'-')?;
        }
        if self.while_in(|b| b.is_ascii_digit()).is_empty() {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.take(b'.')?;
            if self.while_in(|b| b.is_ascii_digit()).is_empty() {
                return None;
            }
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut text = String::new();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    if !b"\"\\".contains(escaped) {
                        return None;
                    }
                    text.push(char::from(*escaped));
                }
                0x20..=0x7e => text.push(char::from(*byte)),
                _ => return None,
            }
        }
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        is_token_start(self.peek()?).then(|| self.while_in(is_token_byte))
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let first = self.peek()?;
        if !(first.is_ascii_lowercase() || first == b'*') {
            return None;
        }
        Some(self.while_in(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b)))
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.while_in(|b| bytes.contains(&b));
    }

    fn while_in(&mut self, is_in: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&b| !is_in(b)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }
}

/// One member of `Proxy-Status` with our name, an error token and details of at most `limit` bytes.
pub(super) fn proxy_status(name: &str, token: &str, details: &str, limit: usize) -> HeaderValue {
    let mut text = String::with_capacity(128);
    let is_token = name.bytes().next().is_some_and(is_token_start) && name.bytes().all(is_token_byte);
    if is_token {
        text.push_str(name);
    } else {
        push_string(&mut text, name, usize::MAX);
    }
    text.push_str("; error=");
    text.push_str(token);
    text.push_str("; details=");
    push_string(&mut text, details, limit);
    value(text)
}

/// Appends a string of structured fields (RFC 9651 §3.3.3): printable ASCII, escaped; at most `limit` characters of it.
pub(super) fn push_string(out: &mut String, text: &str, limit: usize) {
    out.push('"');
    for c in text.chars().take(limit).map(printable) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// A header value of a text made here. All of them are printable; should one not be, its answer is still an answer.
pub(super) fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unprintable"))
}

/// A name as [`push_string`] shows it.
fn shown(name: &str) -> String {
    name.chars().map(printable).collect()
}

fn printable(c: char) -> char {
    if matches!(c, ' '..='~') { c } else { '?' }
}

fn is_token_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'*'
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(status: &[&str], holdoff: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in status {
            headers.append(PROXY_STATUS, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        if let Some(value) = holdoff {
            headers.insert(HOLDOFF, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn an_answer_that_a_proxy_made_is_known_by_the_last_member_and_its_error() {
        let made = |status: &[&str]| mark(&marked(status, None)).is_some();
        assert!(made(&["next-hop; error=proxy_internal_response; details=\"a, b; c\""]));
        assert!(made(&["origin-side, nearest; error=destination_unavailable"]));
        assert!(made(&["origin-side", "nearest; error=destination_unavailable"]));
        assert!(!made(&["far; error=dns_error, nearest; received-status=429"]), "the nearest passed it on");
        for nothing in ["", "nearest", "nearest; error=", "nearest; error=x,", "nearest; details=\"error=x\""] {
            assert!(!made(&[nothing]), "{nothing}");
        }
        assert!(!made(&[]));
    }

    #[test]
    fn the_key_of_a_mark_is_read_from_our_own_kind_of_field() {
        let key = |holdoff| mark(&marked(&["next; error=x"], holdoff)).unwrap().key;
        let ours =
            "short-circuit; reason=rate_limited; until=\"2026-11-20T10:00:00Z\"; key=\"https://peer.example:443\"";
        assert_eq!(key(Some(ours)).as_deref(), Some("https://peer.example:443"));
        assert_eq!(key(Some("short-circuit; key=peer")), None);
        assert_eq!(key(Some("\"")), None);
        assert_eq!(key(None), None);
    }

    #[test]
    fn a_mark_that_is_not_believed_goes_and_other_proxies_members_stay() {
        let stripped = |status: &[&str], holdoff| {
            let mut headers = marked(status, holdoff);
            strip_foreign_mark(&mut headers);
            assert!(!headers.contains_key(HOLDOFF));
            headers.get_all(PROXY_STATUS).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let both = ["cdn; received-status=429", "edge; error=proxy_internal_response"];
        assert_eq!(stripped(&both, Some("short-circuit")), ["cdn; received-status=429"]);
        assert_eq!(stripped(&both, None), both);
    }

    fn stripped(values: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("stays"));
        for value in values {
            headers.append(PROXY_STATUS, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        strip_marks(&mut headers, "holdoff-1a2b3c4d");
        assert_eq!(headers.get("x-other").unwrap(), "stays");
        headers.get_all(PROXY_STATUS).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn our_own_header_is_removed_wholly() {
        let mut headers = HeaderMap::new();
        headers.append(HOLDOFF, HeaderValue::from_static("short-circuit"));
        headers.append(HOLDOFF, HeaderValue::from_static("forwarded"));
        strip_marks(&mut headers, "holdoff");
        assert!(headers.is_empty());
    }

    #[test]
    fn members_of_our_name_go_and_others_stay_as_they_are() {
        assert_eq!(stripped(&["holdoff-1a2b3c4d; error=proxy_internal_response"]), [""; 0]);
        assert_eq!(stripped(&[r#""holdoff-1a2b3c4d";error=dns_error"#]), [""; 0]);
        assert_eq!(stripped(&["HOLDOFF-1A2B3C4D"]), [""; 0]);
        assert_eq!(stripped(&["a;x=1 ,  holdoff-1a2b3c4d,b; y"]), ["a;x=1, b; y"]);
        assert_eq!(stripped(&["holdoff-1a2b3c4d, a", "b, holdoff-1a2b3c4d", "holdoff-1a2b3c4d"]), ["a", "b"]);
        assert_eq!(stripped(&["holdoff-1a2b3c4d2, holdoff-1a2b3c4"]), ["holdoff-1a2b3c4d2, holdoff-1a2b3c4"]);
    }

    #[test]
    fn what_has_no_member_of_ours_is_not_touched() {
        for value in [
            "edge.example;  error=dns_error",
            "a ,\tb",
            r#""a, holdoff-1a2b3c4d; x"; details="say \"hi, holdoff-1a2b3c4d\" \\""#,
            "a; n=-1.5; b=:aGk=:; t=?1; d=@1659578233; s=%\"f%c3%bc\"; w=x/y:z; *k; v",
        ] {
            assert_eq!(stripped(&[value]), [value], "{value}");
        }
    }

    #[test]
    fn quoted_commas_and_quotes_do_not_hide_a_member() {
        assert_eq!(
            stripped(&[r#"a; details="x, \", y", holdoff-1a2b3c4d; details="\\", b"#]),
            [r#"a; details="x, \", y", b"#]
        );
    }

    #[test]
    fn a_malformed_field_is_dropped_whole() {
        for value in [
            "a,",
            ", a",
            "a,,b",
            "a b",
            "a; X=1",
            "a; =1",
            "a; x=",
            "a; x=\"open",
            "a; x=\"bad \\n escape\"",
            "a; x=?2",
            "a; x=:open",
            "1",
            "(a b)",
            "ü",
            "a;",
        ] {
            assert_eq!(stripped(&[value]), [""; 0], "{value}");
            assert_eq!(stripped(&["good", value]), [""; 0], "good and {value}");
        }
        assert_eq!(stripped(&["", "a"]), ["a"], "an empty field is no member");
    }

    #[test]
    fn a_name_that_is_no_token_is_written_and_found_as_a_string() {
        for name in ["edge 7", "7-edge", "a\"b\\c", "zürich", ""] {
            let mark = proxy_status(name, "dns_error", "x", 10);
            let mut headers = HeaderMap::new();
            headers.append(PROXY_STATUS, mark.clone());
            strip_marks(&mut headers, "other");
            assert_eq!(headers.get(PROXY_STATUS), Some(&mark), "{name} is well-formed");
            strip_marks(&mut headers, name);
            assert!(headers.is_empty(), "{name}");
        }
        assert_eq!(proxy_status("a\"b\\c", "x", "", 9), r#""a\"b\\c"; error=x; details="""#);
        assert_eq!(proxy_status("edge-7", "x", "one\r\ntwo", 5), r#"edge-7; error=x; details="one??""#);
    }

    #[test]
    fn random_fields_never_panic_and_never_keep_our_name_in_front() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 8).unwrap()
        };
        let pieces = ["holdoff", "\"holdoff\"", ",", ", ", ";", "; ", "a", "=", "\"", "\\", "x=1", "?1", ":", "%", " "];
        for _ in 0..100_000 {
            let text: String = (0..next() % 12).map(|_| pieces[next() % pieces.len()]).collect();
            let mut headers = HeaderMap::new();
            headers.append(PROXY_STATUS, HeaderValue::from_str(&text).unwrap());
            strip_marks(&mut headers, "holdoff");
            let Some(value) = headers.get(PROXY_STATUS) else { continue };
            assert!(!value.to_str().unwrap().trim_start().starts_with("holdoff;"), "{text}");
            let once = headers.clone();
            strip_marks(&mut headers, "holdoff");
            assert_eq!(headers, once, "{text}: stripping twice is stripping once");
        }
    }
}
