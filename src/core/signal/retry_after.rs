//! `Retry-After` (RFC 9110 §10.2.3): seconds or a date, and everything else that hosts write there.
//!
//! Whatever cannot be read is no hint and has a [`Cause`], never an error that stops anything: a host that writes junk
//! still says "slow down" by its status. Whatever is too large is the largest wait, never a short one.
//!
//! To the same family belong two fields that say the same in milliseconds.

use std::time::Duration;

use http::HeaderName;

use super::date::{http_date, trim};
use super::{Cause, Causes, Hint, MAX_WAIT};
use crate::core::decision::Source;
use crate::core::time::UnixTime;

/// A wait in milliseconds, beside a `Retry-After` whose seconds are too coarse.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The same, as some services of Azure call it.
pub const X_MS_RETRY_AFTER_MS: HeaderName = HeaderName::from_static("x-ms-retry-after-ms");

/// The longest value that is read, in bytes, unless it is a number.
const MAX_VALUE: usize = 4096;

/// The most parts that are read, of all fields of one response together.
const MAX_PARTS: usize = 64;

/// What the values are read against.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Our wall clock at the arrival of the response head.
    pub wall: UnixTime,
    /// The host's clock, where the response tells it ([`host_clock`](super::date::host_clock)).
    pub date: Option<UnixTime>,
    /// Whether `1.5` is read, rounded up to whole seconds.
    pub fractional: bool,
}

/// What the fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The largest wait that could be read, at most [`MAX_WAIT`].
    pub hint: Option<Hint>,
    /// What was odd or could not be read.
    pub causes: Causes,
}

/// Reads the values of all `Retry-After` fields of one response.
pub fn read<'a>(values: impl IntoIterator<Item = &'a [u8]>, context: &Context) -> Reading {
    let mut reader = Reader { context, reading: Reading::default(), budget: MAX_PARTS, parts: 0 };
    let mut fields = 0_usize;
    for value in values {
        fields = fields.saturating_add(1);
        if !reader.spend() {
            break;
        }
        // A number is read whatever its length: too many digits are the largest wait, not none.
        if value.len() > MAX_VALUE && digits(trim(value)).is_none() {
            reader.note(Cause::TooLong);
            continue;
        }
        reader.field(trim(value));
    }
    // A lone value without any wait is malformed; the comma of a date that is none does not make it a list.
    if fields > 1 || (reader.parts > 1 && reader.reading.hint.is_some()) {
        reader.note(Cause::Duplicate);
    }
    reader.reading
}

/// Reads the values of all fields of one name that hold a whole number of milliseconds.
pub fn milliseconds<'a>(values: impl IntoIterator<Item = &'a [u8]>, source: Source) -> Reading {
    let (mut reading, mut fields) = (Reading::default(), 0_usize);
    for value in values {
        fields = fields.saturating_add(1);
        let text = trim(value);
        let cause = match (digits(text), text) {
            (Some(millis), _) => {
                reading.take(Duration::from_millis(millis), source);
                continue;
            }
            (None, []) => Cause::Empty,
            (None, [b'-', number @ ..]) if digits(number).is_some() => Cause::Negative,
            _ => Cause::Malformed,
        };
        reading.causes.insert(cause);
    }
    if fields > 1 {
        reading.causes.insert(Cause::Duplicate);
    }
    reading
}

impl Reading {
    /// Takes a wait unless a longer one is known.
    pub(super) fn take(&mut self, wait: Duration, source: Source) {
        if wait > MAX_WAIT {
            self.causes.insert(Cause::Saturated);
        }
        let wait = wait.min(MAX_WAIT);
        if self.hint.is_none_or(|largest| wait > largest.wait) {
            self.hint = Some(Hint { wait, source });
        }
    }
}

struct Reader<'c> {
    context: &'c Context,
    reading: Reading,
    /// How many parts may still be read.
    budget: usize,
    /// How many parts there were that are not empty.
    parts: usize,
}

impl Reader<'_> {
    fn field(&mut self, value: &[u8]) {
        if value.is_empty() {
            self.note(Cause::Empty);
            return;
        }
        match self.whole(value) {
            Err(_) if value.contains(&b',') => self.list(value),
            read => self.part(read),
        }
    }

    /// A list. Empty members are none (RFC 9110 §5.6.1); a comma inside a date parts nothing.
    fn list(&mut self, value: &[u8]) {
        let before = self.parts;
        let mut left = Some(value);
        // The field has paid for its first member: else one more member would take the last wait away.
        let mut is_paid = true;
        while let Some(list) = left {
            if !std::mem::take(&mut is_paid) && !self.spend() {
                return;
            }
            let (first, rest) = cut(list);
            left = rest;
            if let Some((date, rest)) = self.leading_date(list, first, rest) {
                self.part(Ok(date));
                left = rest;
                continue;
            }
            let first = trim(first);
            if !first.is_empty() {
                self.part(self.whole(first));
            }
        }
        if self.parts == before {
            self.note(Cause::Empty);
        }
    }

    /// The date at the head of a list and what follows it, where the comma after `first` is inside a date.
    fn leading_date<'v>(
        &self,
        list: &'v [u8],
        first: &[u8],
        rest: Option<&'v [u8]>,
    ) -> Option<(Hint, Option<&'v [u8]>)> {
        let (second, rest) = cut(rest?);
        let end = first.len().saturating_add(1).saturating_add(second.len());
        Some((self.date(trim(list.get(..end)?))?, rest))
    }

    /// Seconds or a date.
    fn whole(&self, text: &[u8]) -> Result<Hint, Cause> {
        if let Some(seconds) = digits(text) {
            return Ok(Hint { wait: Duration::from_secs(seconds), source: Source::RetryAfterSeconds });
        }
        if let Some(hint) = self.date(text) {
            return Ok(hint);
        }
        match text {
            [b'-', number @ ..] if digits(number).is_some() || fraction(number).is_some() => Err(Cause::Negative),
            _ => match fraction(text) {
                None => Err(Cause::Malformed),
                Some(_) if !self.context.fractional => Err(Cause::Fraction),
                Some(seconds) => Ok(Hint { wait: Duration::from_secs(seconds), source: Source::RetryAfterSeconds }),
            },
        }
    }

    fn date(&self, text: &[u8]) -> Option<Hint> {
        let date = http_date(text, self.context.wall)?;
        let wait = date.saturating_since(self.context.date.unwrap_or(self.context.wall));
        Some(Hint { wait, source: Source::RetryAfterDate })
    }

    fn part(&mut self, read: Result<Hint, Cause>) {
        self.parts = self.parts.saturating_add(1);
        match read {
            Ok(hint) => self.reading.take(hint.wait, hint.source),
            Err(cause) => self.note(cause),
        }
    }

    fn note(&mut self, cause: Cause) {
        self.reading.causes.insert(cause);
    }

    /// Whether one more part may be read.
    fn spend(&mut self) -> bool {
        match self.budget.checked_sub(1) {
            Some(budget) => {
                self.budget = budget;
                true
            }
            None => {
                self.note(Cause::TooMany);
                false
            }
        }
    }
}

/// The text before the first comma, and the text after it if there is one.
fn cut(list: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut pieces = list.splitn(2, |&b| b == b',');
    (pieces.next().unwrap_or_default(), pieces.next())
}

/// A number of digits and nothing else, saturating.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0'))))
    })
}

/// `12.5` rounded up, saturating. Both sides of the point must have digits.
fn fraction(text: &[u8]) -> Option<u64> {
    let point = text.iter().position(|&b| b == b'.')?;
    let (seconds, rest) = text.split_at_checked(point)?;
    let part = rest.strip_prefix(b".")?;
    digits(part)?;
    let up = u64::from(part.iter().any(|&b| b != b'0'));
    Some(digits(seconds)?.saturating_add(up))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context { wall: UnixTime::from_secs(1_795_168_800), date: None, fractional: false };

    fn read_all(values: &[&[u8]]) -> Reading {
        read(values.iter().copied(), &CONTEXT)
    }

    fn wait(values: &[&[u8]]) -> Option<u64> {
        read_all(values).hint.map(|hint| hint.wait.as_secs())
    }

    #[test]
    fn the_source_says_whether_seconds_or_a_date_won() {
        let list: &[u8] = b"5, Fri, 20 Nov 2026 10:00:10 GMT";
        assert_eq!(read_all(&[list]).hint.unwrap().source, Source::RetryAfterDate);
        let list: &[u8] = b"15, Fri, 20 Nov 2026 10:00:10 GMT";
        assert_eq!(read_all(&[list]).hint.unwrap().source, Source::RetryAfterSeconds);
    }

    #[test]
    fn a_number_is_read_whatever_its_length() {
        let value = vec![b'9'; 10 * MAX_VALUE];
        let reading =
            read([value.as_slice()], &Context { wall: UnixTime::from_secs(0), date: None, fractional: false });
        assert_eq!(reading.hint.map(|hint| hint.wait), Some(MAX_WAIT));
        assert!(reading.causes.contains(Cause::Saturated) && !reading.causes.contains(Cause::TooLong));
    }

    #[test]
    fn a_value_too_long_is_not_read_and_one_at_the_bound_is() {
        let mut value = vec![b'0'; MAX_VALUE - 1];
        value.push(b'7');
        assert_eq!(wait(&[&value]), Some(7));
        value.insert(0, b'x');
        let reading = read_all(&[&value]);
        assert_eq!(reading.hint, None);
        assert!(reading.causes.contains(Cause::TooLong));
    }

    #[test]
    fn junk_at_the_bound_is_malformed_and_beyond_it_too_long() {
        for (length, cause) in [(MAX_VALUE, Cause::Malformed), (MAX_VALUE + 1, Cause::TooLong)] {
            let reading = read_all(&[&vec![b'x'; length]]);
            assert_eq!(reading.causes.iter().collect::<Vec<_>>(), [cause], "{length}");
        }
    }

    #[test]
    fn the_work_is_bounded_over_all_fields() {
        let mut list = vec!["1"; 64];
        list.push("900");
        let reading = read_all(&[list.join(",").as_bytes()]);
        assert_eq!(reading.hint.unwrap().wait, Duration::from_secs(1));
        assert!(reading.causes.contains(Cause::TooMany));
        let reading = read_all(&[list[1..].join(",").as_bytes()]);
        assert_eq!(reading.hint.unwrap().wait, Duration::from_secs(900), "the 64th part is read");
        assert!(!reading.causes.contains(Cause::TooMany));

        let fields: Vec<&[u8]> = std::iter::repeat_n(&b"1"[..], 64).chain([&b"900"[..]]).collect();
        let reading = read_all(&fields);
        assert_eq!(reading.hint.unwrap().wait, Duration::from_secs(1));
        assert!(reading.causes.contains(Cause::TooMany));
        assert!(!read_all(fields.get(..64).unwrap()).causes.contains(Cause::TooMany));
    }

    #[test]
    fn a_member_too_many_leaves_the_last_wait_as_it_was() {
        let mut fields = vec![&b"1"[..]; 63];
        fields.push(b"3600");
        assert_eq!(wait(&fields), Some(3600));
        fields.pop();
        fields.push(b"3600, 5");
        assert_eq!(wait(&fields), Some(3600));
        assert!(read_all(&fields).causes.contains(Cause::TooMany));
    }

    #[test]
    fn random_bytes_never_panic_and_never_exceed_the_bounds() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // Pieces that reach the depths of the parser, beside arbitrary bytes.
        let pieces: [&[u8]; 24] = [
            b"Fri, 20 Nov 2026 10:00:00 GMT",
            b"Friday, 20-Nov-26 10:00:00 GMT",
            b"Fri Nov 20 10:00:00 2026",
            b"Fri",
            b"Sunday",
            b",",
            b", ",
            b" ",
            b"\t",
            b"-",
            b"+",
            b".",
            b"0",
            b"9",
            b"120",
            b"99999999999999999999999",
            b"\0",
            b"\xff",
            b"GMT",
            b"Nov",
            b"23:59:60",
            b"1e9",
            b"\xc2\xa0",
            b"\"",
        ];
        for round in 0..300_000_u32 {
            let mut value = Vec::new();
            for _ in 0..next() % 8 {
                let word = next();
                if word & 1 == 0 {
                    value.extend_from_slice(pieces[usize::try_from(word >> 1).unwrap() % pieces.len()]);
                } else {
                    value.push(word.to_le_bytes()[3]);
                }
            }
            // Now and then one byte of a good piece is changed.
            if let Some(byte) = usize::try_from(next()).ok().and_then(|at| value.get_mut(at % 40)) {
                *byte ^= 1;
            }
            let context = Context {
                wall: UnixTime::from_millis(next() >> (next() % 64)),
                date: (next() & 1 == 0).then(|| UnixTime::from_millis(next() >> (next() % 64))),
                fractional: next() & 1 == 0,
            };
            let reading =
                read([&value[..], &value[..]].into_iter().take(1 + usize::try_from(round % 2).unwrap()), &context);
            assert!(reading.hint.is_none_or(|hint| hint.wait <= MAX_WAIT), "{value:?} {context:?}");
            assert!(reading.hint.is_some() || !reading.causes.is_empty(), "{value:?}: neither a hint nor a cause");
        }
    }

    #[test]
    fn of_two_equal_waits_the_first_is_told() {
        let list: &[u8] = b"10, Fri, 20 Nov 2026 10:00:10 GMT";
        assert_eq!(read_all(&[list]).hint.unwrap().source, Source::RetryAfterSeconds);
    }

    #[test]
    fn a_value_without_a_comma_takes_one_part() {
        let fields = [&b"soon"[..]; MAX_PARTS];
        assert!(!read_all(&fields).causes.contains(Cause::TooMany));
    }

    #[test]
    fn milliseconds_are_whole_numbers_of_which_the_largest_counts() {
        let read = |values: &[&str]| {
            let reading = milliseconds(values.iter().map(|value| value.as_bytes()), Source::RetryAfterMs);
            assert!(reading.hint.is_none_or(|hint| hint.source == Source::RetryAfterMs));
            (reading.hint.map(|hint| hint.wait), reading.causes.iter().collect::<Vec<_>>())
        };
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(read(&[" 1500 "]), (millis(1500), vec![]));
        assert_eq!(read(&["0"]), (millis(0), vec![]));
        assert_eq!(read(&["560", "1500", "2"]), (millis(1500), vec![Cause::Duplicate]));
        assert_eq!(read(&["-1"]), (None, vec![Cause::Negative]));
        assert_eq!(read(&[""]), (None, vec![Cause::Empty]));
        for junk in ["1.5", "1500ms", "soon", "1,2", "+1", "-x"] {
            assert_eq!(read(&[junk]), (None, vec![Cause::Malformed]), "{junk}");
        }
        assert_eq!(read(&["99999999999999999999999"]), (Some(MAX_WAIT), vec![Cause::Saturated]));
        assert_eq!(read(&[]), (None, vec![]));
    }
}
