//! Where a client's chunked body ends, read as strictly as it is written in RFC 9112 §7.1.
//!
//! hyper decodes the body. Beside it, this finds the place where the next head begins, so that the next head can be looked at
//! as the first one was; and it refuses what hyper lets pass and another reader may take for an end: a line feed without a
//! carriage return in the trailer, and control characters in extensions.

/// A chunked body up to some place in it.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    /// The size of the chunk, and then what is left of it.
    size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Start,
    Size,
    /// White space behind a size.
    Space,
    Extension,
    /// The line feed behind a size or an extension.
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    /// Where a trailer field may begin, or the last line.
    Line,
    Field,
    FieldFeed,
    LastFeed,
    Ended,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it belongs to the body.
    More,
    /// The body ended behind so many bytes.
    Ended(usize),
    /// It is no chunked body.
    Malformed,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { state: State::Start, size: 0 }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0_usize;
        while let Some(&byte) = bytes.get(at) {
            if self.state == State::Data {
                let here = bytes.len().saturating_sub(at);
                let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(here);
                self.size = self.size.saturating_sub(u64::try_from(take).unwrap_or(u64::MAX));
                at = at.saturating_add(take);
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            let Some(next) = self.step(byte) else { return Progress::Malformed };
            self.state = next;
            at = at.saturating_add(1);
            if next == State::Ended {
                return Progress::Ended(at);
            }
        }
        Progress::More
    }

    fn step(&mut self, byte: u8) -> Option<State> {
        let next = match (self.state, byte) {
            (State::Start, _) => {
                self.size = digit(byte)?;
                State::Size
            }
            (State::Size | State::Space, b' ' | b'\t') => State::Space,
            (State::Size | State::Space, b';') => State::Extension,
            (State::Size | State::Space | State::Extension, b'\r') => State::SizeFeed,
            (State::Size, _) => {
                self.size = self.size.checked_mul(16)?.checked_add(digit(byte)?)?;
                State::Size
            }
            (State::Extension, _) if is_text(byte) => State::Extension,
            (State::SizeFeed, b'\n') if self.size == 0 => State::Line,
            (State::SizeFeed, b'\n') => State::Data,
            (State::DataReturn, b'\r') => State::DataFeed,
            (State::DataFeed, b'\n') => State::Start,
            (State::Line, b'\r') => State::LastFeed,
            // A line that begins with white space would be the folded rest of the one before.
            (State::Line, b' ' | b'\t') => return None,
            (State::Line, _) if is_text(byte) => State::Field,
            (State::Field, b'\r') => State::FieldFeed,
            (State::Field, _) if is_text(byte) => State::Field,
            (State::FieldFeed, b'\n') => State::Line,
            (State::LastFeed, b'\n') => State::Ended,
            _ => return None,
        };
        Some(next)
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Whether a byte can stand in a line.
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_bytes_are_cut() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "0003 \t\r\na\r\n\r\n0;x\r\n\r\n",
            "A;a=\"b\"\r\n0123456789\r\nb\r\n0123456789a\r\n00\r\nX: y\r\nZ:\r\n\r\n",
        ] {
            let all = format!("{body}GET / HTTP/1.1\r\n");
            for cut in 0..=body.len() {
                let mut chunks = Chunks::new();
                let (first, rest) = all.as_bytes().split_at(cut);
                match chunks.feed(first) {
                    Progress::Ended(end) => assert_eq!(end, body.len(), "{body:?} {cut}"),
                    Progress::More => {
                        assert_eq!(chunks.feed(rest), Progress::Ended(body.len() - cut), "{body:?} {cut}");
                    }
                    Progress::Malformed => panic!("{body:?} {cut}"),
                }
            }
        }
    }

    #[test]
    fn what_another_reader_may_read_otherwise_is_malformed() {
        for body in [
            "\r\n",
            "g\r\n",
            "+3\r\n",
            " 3\r\n",
            "3 3\r\n",
            "0x3\r\n",
            "3\n",
            "3\ra",
            "3;\n",
            "3;\r\r",
            "3;\0",
            "1\r\na0",
            "1\r\na\n",
            "1\r\na\r0",
            "0\r\n\n",
            "0\r\n\ra",
            "0\r\nX: a\n",
            "0\r\nX: a\r\r",
            "0\r\n X: a",
            "0\r\nX: a\r\n b",
            "0\r\n\0",
            "10000000000000000\r\n",
        ] {
            assert_eq!(Chunks::new().feed(body.as_bytes()), Progress::Malformed, "{body:?}");
        }
    }

    #[test]
    fn the_largest_size_is_read_and_waits_for_its_bytes() {
        let mut chunks = Chunks::new();
        assert_eq!(chunks.feed(b"ffffffffffffffff\r\n"), Progress::More);
        assert_eq!(chunks.feed(&[b'0'; 4096]), Progress::More);
        assert_eq!(chunks.size, u64::MAX - 4096);
    }
}
