//! The bytes of a request head, kept until the service has looked at them.
//!
//! hyper reads a little more into heads than a proxy may: it drops a `Content-Length` that stands beside
//! `Transfer-Encoding`, and it takes bare line feeds. Both can be seen in the bytes only. What is kept is cut at the same
//! places where hyper cuts: at the end of a head, and behind a body of known length. Behind a chunked body the place is not
//! known; then what is seen counts only as far as it cannot be wrong.

/// How much more than a head is kept: what hyper may have read ahead.
const AHEAD: usize = 64 * 1024;

/// The room that is kept from request to request.
const KEPT: usize = 2048;

/// The bytes that hyper has read and the service has not been told of.
#[derive(Debug)]
pub(super) struct Tap {
    bytes: Vec<u8>,
    /// So many bytes of a body are still to come.
    skip: u64,
    /// Whether `bytes` starts where a message starts.
    exact: bool,
    /// Nothing is kept until the next quiet moment.
    lost: bool,
    max_head: usize,
}

/// What was seen of a head that hyper gave up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// The request line alone is larger than a head may be.
    pub(super) long_line: bool,
    /// The head is larger than it may be.
    pub(super) large: bool,
}

/// What was seen of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// A line ends in a line feed without a carriage return.
    pub(super) bare_line_feed: bool,
    /// There is a `Content-Length`.
    pub(super) content_length: bool,
    /// The target of an OPTIONS request is a URL without a path.
    pub(super) no_path: bool,
}

impl Tap {
    pub(super) fn new(max_head: usize) -> Self {
        Self { bytes: Vec::new(), skip: 0, exact: true, lost: false, max_head }
    }

    /// `new` was read; `quiet`: while no exchange was going on.
    pub(super) fn feed(&mut self, new: &[u8], quiet: bool) {
        if self.lost {
            if !quiet {
                return;
            }
            self.lost = false;
            self.bytes.clear();
        }
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(new.len());
        self.skip = self.skip.saturating_sub(u64::try_from(skip).unwrap_or(u64::MAX));
        let new = new.get(skip..).unwrap_or_default();
        if self.bytes.len().saturating_add(new.len()) > self.max_head.saturating_add(AHEAD) {
            self.lose();
            return;
        }
        self.bytes.extend_from_slice(new);
    }

    fn lose(&mut self) {
        self.bytes = Vec::new();
        self.skip = 0;
        self.exact = false;
        self.lost = true;
    }

    /// What has come of a head that hyper gave up on.
    pub(super) fn partial(&self) -> Partial {
        let large = self.lost || self.bytes.len() >= self.max_head;
        let line = self.bytes.iter().take(self.max_head).any(|&byte| byte == b'\n');
        Partial { long_line: large && !self.lost && !line, large }
    }

    /// A head was read, and a body of length `body` follows (`None`: chunked).
    pub(super) fn take(&mut self, body: Option<u64>) -> Head {
        let leading = self.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let Some(end) = self.bytes.get(leading..).and_then(end_of_head).map(|end| end.saturating_add(leading)) else {
            self.lose();
            return Head::default();
        };
        let mut seen = look(self.bytes.get(leading..end).unwrap_or_default());
        if !self.exact {
            seen.bare_line_feed = false;
            seen.no_path = false;
        }
        match body {
            Some(length) => {
                let here = self.bytes.len().saturating_sub(end);
                let now = usize::try_from(length).unwrap_or(usize::MAX).min(here);
                self.skip = length.saturating_sub(u64::try_from(now).unwrap_or(u64::MAX));
                self.bytes.drain(..end.saturating_add(now));
                // The room that a body took on its way is not kept for as long as it lasts.
                self.bytes.shrink_to(KEPT);
                self.exact = true;
            }
            None => self.lose(),
        }
        seen
    }
}

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
        seen.bare_line_feed |= !line.ends_with(b"\r\n");
        if at == 0 {
            seen.no_path = line.strip_prefix(b"OPTIONS ").is_some_and(has_no_path);
        } else {
            seen.content_length |= names_content_length(line);
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
        tap.feed(bytes, true);
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
        tap.feed(b"\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS http://a HTTP/1.1\n\n", false);
        assert_eq!(tap.take(Some(0)), Head::default());
        assert_eq!(tap.take(Some(0)), Head { bare_line_feed: true, no_path: true, ..Head::default() });
        assert!(tap.bytes.is_empty());
    }

    #[test]
    fn behind_a_chunked_body_only_what_is_certain_counts() {
        let mut tap = tap(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(tap.take(None), Head::default());
        tap.feed(b"more of the body", false);
        tap.feed(b"POST / HTTP/1.1\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", true);
        assert_eq!(tap.take(None), Head { content_length: true, ..Head::default() });
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut tap = Tap::new(16);
        for _ in 0..100 {
            tap.feed(&[b'a'; 4096], true);
        }
        assert!(tap.bytes.len() <= 16 + AHEAD);
        assert_eq!(tap.take(Some(0)), Head::default());
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
