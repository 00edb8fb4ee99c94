//! `text/event-stream` (HTML, "Server-sent events"): where the first event ends, and its data.
//!
//! Lines end with LF, CR or CR LF; a blank line ends an event. What has no `data` is no event: a stream often begins with a
//! comment that keeps the connection alive.

/// U+FEFF in UTF-8, which may stand before the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

const DATA: &[u8] = b"data";

/// Finds the end of the first event in bytes that come in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finder {
    /// How much of [`MARK`] has passed, and whether anything else has.
    mark: usize,
    is_begun: bool,
    /// How many bytes of the line have passed, and whether they are not those of [`DATA`].
    column: usize,
    is_other: bool,
    has_data: bool,
    after_return: bool,
}

impl Finder {
    /// How many of these bytes belong to the first event, if it ends in them.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|&byte| self.is_end(byte)).map(|at| at.saturating_add(1))
    }

    fn is_end(&mut self, byte: u8) -> bool {
        if !self.is_begun && MARK.get(self.mark) == Some(&byte) {
            self.mark = self.mark.saturating_add(1);
            return false;
        }
        self.is_begun = true;
        let was_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if was_return => false,
            b'\n' | b'\r' => {
                let is_blank = self.column == 0;
                self.has_data |= self.column == DATA.len() && !self.is_other;
                (self.column, self.is_other) = (0, false);
                is_blank && self.has_data
            }
            _ => {
                match DATA.get(self.column) {
                    Some(expected) => self.is_other |= *expected != byte,
                    None if self.column == DATA.len() && byte == b':' => self.has_data |= !self.is_other,
                    None => {}
                }
                self.column = self.column.saturating_add(1);
                false
            }
        }
    }
}

/// What the `data` lines of an event say together, a line each. A last line that is cut off is there without its end.
pub(super) fn data(event: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    let event = event.strip_prefix(MARK).unwrap_or(event);
    // The blank lines between CR and LF say nothing.
    for line in event.split_inclusive(|&byte| byte == b'\n' || byte == b'\r') {
        let (line, is_whole) = match line {
            [line @ .., b'\n' | b'\r'] => (line, true),
            line => (line, false),
        };
        match line.strip_prefix(DATA) {
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => data.extend_from_slice(value),
            Some([]) if is_whole => {}
            _ => continue,
        }
        if is_whole {
            data.push(b'\n');
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(stream: &str) -> Option<&str> {
        let whole = Finder::default().end(stream.as_bytes());
        for cut in 0..=stream.len() {
            let (one, two) = stream.as_bytes().split_at(cut);
            let mut finder = Finder::default();
            let end = finder.end(one).or_else(|| finder.end(two).map(|end| end + cut));
            assert_eq!(end, whole, "{stream:?} cut at {cut}");
        }
        whole.map(|end| &stream[..end])
    }

    #[test]
    fn an_event_ends_with_a_blank_line_however_lines_end() {
        for (stream, event) in [
            ("data: a\n\ndata: b\n\n", "data: a\n\n"),
            ("data: a\r\n\r\ndata: b", "data: a\r\n\r"),
            ("data: a\r\rdata: b", "data: a\r\r"),
            ("data: a\n\rx", "data: a\n\r"),
            ("data: a\r\n\nx", "data: a\r\n\n"),
            ("event: error\ndata:a\nid: 1\n\nx", "event: error\ndata:a\nid: 1\n\n"),
            ("data\n\nx", "data\n\n"),
            ("\u{feff}data: a\n\nx", "\u{feff}data: a\n\n"),
        ] {
            assert_eq!(first(stream), Some(event), "{stream:?}");
        }
        for stream in ["", "data: a", "data: a\n", "data: a\r\n", "data: a\nid: 1\n", "data: a\r\nx\r\n"] {
            assert_eq!(first(stream), None, "{stream:?}");
        }
    }

    #[test]
    fn what_has_no_data_is_no_event() {
        for before in ["\n\n", ": waiting\n\n", "id: 1\n\n", "datax: a\n\n", "dat\n\n", " data: a\n\n", ":data: a\n\n"]
        {
            assert_eq!(first(before), None, "{before:?}");
            let stream = format!("{before}data: a\n\nrest");
            assert_eq!(first(&stream), Some(&*format!("{before}data: a\n\n")));
            assert_eq!(data(format!("{before}data: a\n\n").as_bytes()), b"a\n", "{before:?}");
        }
    }

    #[test]
    fn the_data_of_an_event_is_that_of_its_data_lines() {
        for (event, expected) in [
            ("data: a\ndata:b\ndata:  c\nid: 1\n\n", "a\nb\n c\n"),
            ("data: a\r\ndata: b\r\rx", "a\nb\n"),
            ("data\ndata:\ndata:a\n\n", "\n\na\n"),
            ("\u{feff}data: a\n\n", "a\n"),
            ("data: cut o", "cut o"),
            ("data: a\ndata", "a\n"),
            ("dataset: a\n", ""),
            ("", ""),
        ] {
            assert_eq!(data(event.as_bytes()), expected.as_bytes(), "{event:?}");
        }
    }
}
