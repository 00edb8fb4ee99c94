//! Lines of a log, one at a time. A log may hold anything, so a line has a bound and what is beyond it is passed over.

use std::io::{self, BufRead, Read};

/// The longest line that is read, in bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'b> {
    /// Without its end.
    Line(&'b [u8]),
    /// Longer than [`LONGEST`].
    TooLong,
}

/// The lines of a reader.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.buffer.clear();
        let most = u64::try_from(LONGEST.saturating_add(1)).unwrap_or(u64::MAX);
        if self.reader.by_ref().take(most).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        let Some(line) = self.buffer.strip_suffix(b"\n") else {
            if self.buffer.len() > LONGEST {
                self.reader.skip_until(b'\n')?;
                return Ok(Some(Piece::TooLong));
            }
            return Ok(Some(Piece::Line(&self.buffer)));
        };
        Ok(Some(Piece::Line(line.strip_suffix(b"\r").unwrap_or(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while let Some(piece) = lines.next().unwrap() {
            found.push(match piece {
                Piece::Line(line) => Some(line.to_vec()),
                Piece::TooLong => None,
            });
        }
        found
    }

    #[test]
    fn lines_end_with_either_end_or_none() {
        let expected: Vec<_> = [&b"a"[..], b"b", b"", b"c"].iter().map(|line| Some(line.to_vec())).collect();
        assert_eq!(all(b"a\nb\r\n\nc"), expected);
        assert_eq!(all(b""), Vec::<Option<Vec<u8>>>::new());
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over_and_the_next_is_read() {
        let longest = vec![b'x'; LONGEST];
        let text = [&longest[..], b"\n", &longest, b"x\n", &longest, &longest, b"\nafter"].concat();
        assert_eq!(all(&text), [Some(longest), None, None, Some(b"after".to_vec())]);
    }
}
