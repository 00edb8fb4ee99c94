//! The bytes of a request head, kept until the service has looked at them.
//!
//! hyper reads a little more into heads than a proxy may: it drops a `Content-Length` that stands beside
//! `Transfer-Encoding`, and it takes bare line feeds. Both can be seen in the bytes only. What is kept is cut at the same
//! places where hyper cuts: at the end of a head, and behind its body, whose end is a length or is found by [`Chunks`].

use super::chunks::{Chunks, Progress};

/// How much more than a head is kept, at least: what hyper may have read ahead.
const AHEAD: usize = 128 * 1024;

/// The bytes that hyper has read and the service has not been told of.
#[derive(Debug)]
pub(super) struct Tap {
    bytes: Vec<u8>,
    body: Body,
    /// More came than hyper can have read ahead. No head is seen any more.
    lost: bool,
    max_head: usize,
}

/// What of a body is still to come.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    /// It is not what it says it is.
    Malformed,
}

/// What was seen of a head that hyper gave up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// The request line alone is larger than a head may be.
    pub(super) long_line: bool,
    /// The head is larger than it may be.
    pub(super) large: bool,
    /// How many lines it has.
    pub(super) lines: usize,
    /// The method is HEAD: the answer has no body.
    pub(super) no_body: bool,
}

/// What was seen of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Why it must not be taken.
    pub(super) flaw: Option<&'static str>,
    /// There is a `Content-Length`.
    pub(super) content_length: bool,
    /// The target of an OPTIONS request is a URL without a path.
    pub(super) no_path: bool,
}

impl Tap {
    pub(super) fn new(max_head: usize) -> Self {
        Self { bytes: Vec::new(), body: Body::Length(0), lost: false, max_head }
    }

    /// `new` was read.
    pub(super) fn feed(&mut self, new: &[u8]) {
        let rest = self.behind_body(new);
        if self.lost {
            return;
        }
        let most = AHEAD.saturating_add(self.max_head.saturating_mul(2));
        if self.bytes.len().saturating_add(rest.len()) > most {
            self.lost = true;
            self.bytes = Vec::new();
            return;
        }
        self.bytes.extend_from_slice(rest);
    }

    /// What of `new` is behind the body.
    fn behind_body<'n>(&mut self, new: &'n [u8]) -> &'n [u8] {
        let end = match &mut self.body {
            Body::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(new.len());
                *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                here
            }
            Body::Chunked(chunks) => match chunks.feed(new) {
                Progress::More => new.len(),
                Progress::Ended(end) => {
                    self.body = Body::Length(0);
                    end
                }
                Progress::Malformed => {
                    self.body = Body::Malformed;
                    new.len()
                }
            },
            Body::Malformed => new.len(),
        };
        new.get(end..).unwrap_or_default()
    }

    /// Whether the body that is being read is not what its head says.
    pub(super) const fn is_malformed(&self) -> bool {
        matches!(self.body, Body::Malformed)
    }

    /// What has come of a head that hyper gave up on.
    pub(super) fn partial(&self) -> Partial {
        let large = self.lost || self.bytes.len() >= self.max_head;
        let line = self.bytes.iter().take(self.max_head).any(|&byte| byte == b'\n');
        let lines = self.bytes.split(|&byte| byte == b'\n').count();
        let mut head = self.bytes.iter().skip_while(|byte| matches!(byte, b'\r' | b'\n'));
        let no_body = b"HEAD ".iter().all(|byte| head.next() == Some(byte));
        Partial { long_line: large && !self.lost && !line, large, lines, no_body }
    }

    /// A head was read, and a body of length `body` follows (`None`: chunked).
    pub(super) fn take(&mut self, body: Option<u64>) -> Head {
        let leading = self.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let Some(end) = self.bytes.get(leading..).and_then(end_of_head).map(|end| end.saturating_add(leading)) else {
            return Head { flaw: Some("the head could not be followed"), ..Head::default() };
        };
        let seen = look(self.bytes.get(leading..end).unwrap_or_default());
        self.body = body.map_or_else(|| Body::Chunked(Chunks::new()), Body::Length);
        let bytes = std::mem::take(&mut self.bytes);
        self.feed(bytes.get(end..).unwrap_or_default());
        seen
    }
}

/// What is said of a body that is not chunked as its head says.
pub(super) const MALFORMED: &str = "the chunks of the body are malformed";

/// Behind the first empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut from = 0_usize;
    loop {
        let feed = bytes.get(from..)?.iter().position(|&byte| byte == b'\n')?.saturating_add(from);
        from = feed.saturating_add(1);
        match bytes.get(from..)? {
            [b'\n', ..] => return Some(from.saturating_add(1)),
            [b'\r', b'\n', ..] => return Some(from.saturating_add(2)),
            _ => {}
        }
    }
}

fn look(head: &[u8]) -> Head {
    let mut seen = Head::default();
    for (at, line) in head.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if !line.ends_with(b"\r\n") {
            seen.flaw = Some("a line of the head ends in a line feed without a carriage return");
        }
        if at == 0 {
            seen.no_path = line.strip_prefix(b"OPTIONS ").is_some_and(has_no_path);
            if line.contains(&b'#') {
                // hyper cuts it off, and the next reader of the same line may not.
                seen.flaw = Some("the target has a fragment (`#`), which stays with the client");
            }
        } else if names_content_length(line) {
            if seen.content_length {
                // hyper makes one of two that are the same, as it may; HTTP/2 does not, and nobody needs it.
                seen.flaw = Some("the request has more than one `Content-Length`");
            }
            seen.content_length = true;
        }
    }
    seen
}

fn names_content_length(line: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        && matches!(line.get(NAME.len()), Some(b':' | b' ' | b'\t'))
}

/// `http://host HTTP/1.1`
fn has_no_path(line: &[u8]) -> bool {
    let target = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    let Some(at) = target.windows(3).position(|part| part == b"://") else { return false };
    let rest = target.get(at.saturating_add(3)..).unwrap_or_default();
    !rest.iter().any(|byte| matches!(byte, b'/' | b'?'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(bytes: &[u8]) -> Tap {
        let mut tap = Tap::new(1024);
        tap.feed(bytes);
        tap
    }

    #[test]
    fn a_content_length_that_hyper_drops_is_seen() {
        let mut tap = tap(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-LENGTH: 3\r\n\r\n");
        assert_eq!(tap.take(None), Head { content_length: true, ..Head::default() });
    }

    #[test]
    fn pipelined_heads_and_bodies_of_known_length_are_told_apart() {
        let mut tap = tap(b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nab\n");
        assert!(tap.take(Some(5)).content_length);
        tap.feed(b"\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS http://a HTTP/1.1\n\n");
        assert_eq!(tap.take(Some(0)), Head::default());
        let last = tap.take(Some(0));
        assert!(last.flaw.is_some() && last.no_path);
        assert!(tap.bytes.is_empty());
    }

    #[test]
    fn the_head_behind_a_chunked_body_is_seen_like_the_first() {
        for (first, rest) in
            [("", "3\r\nabc\r\n0\r\n\r\n"), ("3\r\nab", "c\r\n0\r\nX: y\r\n\r\n"), ("3\r\nabc\r\n0\r\n\r\n", "")]
        {
            let mut tap = tap(format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{first}").as_bytes());
            assert_eq!(tap.take(None), Head::default());
            tap.feed(
                format!("{rest}POST / HTTP/1.1\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n").as_bytes(),
            );
            let seen = tap.take(None);
            assert!(seen.flaw.is_some() && seen.content_length, "{first:?} {rest:?}");
        }
    }

    #[test]
    fn a_body_that_is_not_chunked_is_seen_early_or_late() {
        let mut early = tap(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc");
        assert_eq!(early.take(None).flaw, None);
        assert!(early.is_malformed());
        let mut later = tap(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc");
        assert_eq!(later.take(None).flaw, None);
        assert!(!later.is_malformed());
        later.feed(b"\n0\r\n\r\n");
        assert!(later.is_malformed());
        assert!(later.take(Some(0)).flaw.is_some());
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_head_that_was_not_seen_is_not_taken() {
        let mut tap = Tap::new(16);
        for _ in 0..100 {
            tap.feed(&[b'a'; 4096]);
        }
        assert!(tap.bytes.len() <= 32 + AHEAD);
        tap.feed(b"GET / HTTP/1.1\r\n\r\n");
        assert!(tap.take(Some(0)).flaw.is_some());
    }

    #[test]
    fn a_head_that_cannot_be_read_still_has_a_method() {
        assert!(tap(b"\r\nHEAD http:/a HTTP/1.1\r\n").partial().no_body);
        assert!(!tap(b"HEADS").partial().no_body);
        assert!(!tap(b"GET HEAD \r\n").partial().no_body);
    }

    #[test]
    fn a_fragment_is_no_part_of_a_target() {
        assert!(look(b"GET http://a/#b HTTP/1.1\r\n").flaw.is_some());
        assert!(look(b"GET http://a/ HTTP/1.1\r\nX: #b\r\n").flaw.is_none());
    }

    #[test]
    fn only_options_of_a_url_without_a_path_is_the_asterisk() {
        for (line, expected) in [
            ("OPTIONS http://a HTTP/1.1\r\n", true),
            ("OPTIONS http://a:80 HTTP/1.1\r\n", true),
            ("OPTIONS http://a/ HTTP/1.1\r\n", false),
            ("OPTIONS http://a?q HTTP/1.1\r\n", false),
            ("OPTIONS /a HTTP/1.1\r\n", false),
            ("GET http://a HTTP/1.1\r\n", false),
        ] {
            assert_eq!(look(line.as_bytes()).no_path, expected, "{line}");
        }
    }
}
