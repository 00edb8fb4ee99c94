//! The fields of vendors, by the table that a policy gives: which field names the end of a window, in which unit, and which
//! one says what is left.
//!
//! A unit is declared and never guessed by the size of a number: 1795168800 is a time in one field and 57 years in another.
//! A window counts when nothing is left of it. Of several the latest counts: before it nothing will be answered.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use jiff::fmt::{friendly, temporal};

use super::date::trim;
use super::retry_after::{self, Context, digits};
use super::{Cause, Causes, Hint};
use crate::core::decision::Source;
use crate::core::policy::{FieldRule, Unit};
use crate::core::time::UnixTime;

/// The longest text that is read, in bytes, unless it is a number.
const MAX_TEXT: usize = 64;

/// The most values of one field that are read.
const MAX_VALUES: usize = 16;

/// What the fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The latest end of the windows that count.
    pub hint: Option<Hint>,
    /// The rule whose field named it, by its place in the table.
    pub rule: Option<usize>,
    /// What was odd about the ends.
    pub reset: Causes,
    /// What was odd about what is left.
    pub remaining: Causes,
}

/// Reads the fields of `rules`. `is_limited`: whether the status may be a signal, so that a rule without `remaining` counts.
pub fn read(rules: &[FieldRule], headers: &HeaderMap, context: &Context, is_limited: bool) -> Reading {
    let mut reading = Reading::default();
    for (at, rule) in rules.iter().enumerate() {
        let counts = match &rule.remaining {
            Some(name) => is_exhausted(headers, name, &mut reading.remaining),
            None => is_limited,
        };
        if !counts {
            continue;
        }
        let end = window_end(headers, rule, context);
        reading.reset.add(end.causes);
        if let Some(hint) = end.hint
            && reading.hint.is_none_or(|latest| hint.wait > latest.wait)
        {
            (reading.hint, reading.rule) = (Some(hint), Some(at));
        }
    }
    reading
}

/// A wait as a field says it.
///
/// # Errors
/// Why it could not be read.
pub fn wait(text: &[u8], unit: Unit, context: &Context) -> Result<Duration, Cause> {
    let text = trim(text);
    if text.is_empty() {
        return Err(Cause::Empty);
    }
    match unit {
        Unit::Seconds => Ok(Duration::from_millis(Decimal::read(text)?.thousandths())),
        Unit::Milliseconds => Ok(Duration::from_millis(Decimal::read(text)?.rounded_up())),
        Unit::EpochSeconds => Ok(until(UnixTime::from_millis(Decimal::read(text)?.thousandths()), context)),
        Unit::EpochMilliseconds => Ok(until(UnixTime::from_millis(Decimal::read(text)?.rounded_up()), context)),
        Unit::Duration => ahead(friendly_parser().parse_unsigned_duration(short(text)?), text),
        // The standard has both, and a time from now begins with its letter.
        Unit::Iso8601 if matches!(text, [b'P' | b'p' | b'-', ..]) => {
            ahead(temporal::SpanParser::new().parse_unsigned_duration(short(text)?), text)
        }
        Unit::Iso8601 => point(short(text)?, context),
        Unit::Rfc3339 if is_rfc3339(text) => point(short(text)?, context),
        Unit::Rfc3339 => Err(short(text).map_or_else(|cause| cause, |_| Cause::Malformed)),
    }
}

/// Whether a field says that nothing is left. A field that is not there, or cannot be read, does not; of several values the
/// largest counts.
fn is_exhausted(headers: &HeaderMap, name: &HeaderName, causes: &mut Causes) -> bool {
    let mut is_exhausted = None;
    for value in parts(headers, name, causes) {
        let left = match value {
            [] => Err(Cause::Empty),
            [b'-', number @ ..] => Decimal::read(number).map(|_| false),
            number => Decimal::read(number).map(|left| left.is_positive()),
        };
        match left {
            Ok(is_left) => is_exhausted = Some(is_exhausted.unwrap_or(true) && !is_left),
            Err(cause) => causes.insert(cause),
        }
    }
    is_exhausted.unwrap_or(false)
}

/// The largest wait that the field of a rule names.
fn window_end(headers: &HeaderMap, rule: &FieldRule, context: &Context) -> retry_after::Reading {
    let (mut reading, mut causes) = (retry_after::Reading::default(), Causes::default());
    for value in parts(headers, &rule.reset, &mut causes) {
        match wait(value, rule.unit, context) {
            Ok(wait) => reading.take(wait, Source::VendorReset),
            Err(cause) => reading.causes.insert(cause),
        }
    }
    reading.causes.add(causes);
    reading
}

/// The values of all fields of one name, a list taken apart.
fn parts<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    causes: &mut Causes,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let all = || {
        let fields = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        fields.flat_map(|value| value.split(|&byte| byte == b',').map(trim))
    };
    match all().take(MAX_VALUES.saturating_add(1)).count() {
        0 | 1 => {}
        2..=MAX_VALUES => causes.insert(Cause::Duplicate),
        _ => causes.insert(Cause::TooMany),
    }
    all().take(MAX_VALUES)
}

/// The wait until a point in time, none when it has passed.
fn until(time: UnixTime, context: &Context) -> Duration {
    time.saturating_since(context.date.unwrap_or(context.wall))
}

/// A text that is not longer than one that means something.
fn short(text: &[u8]) -> Result<&[u8], Cause> {
    if text.len() > MAX_TEXT { Err(Cause::TooLong) } else { Ok(text) }
}

fn friendly_parser() -> friendly::SpanParser {
    friendly::SpanParser::new()
}

/// A time from now, rounded up.
fn ahead(read: Result<Duration, jiff::Error>, text: &[u8]) -> Result<Duration, Cause> {
    match read {
        Ok(wait) => Ok(Duration::from_millis(rounded_up(wait.as_nanos()))),
        Err(_) if text.starts_with(b"-") => Err(Cause::Negative),
        Err(_) => Err(Cause::Malformed),
    }
}

/// A point in time that is written out, rounded up. One before 1970 has passed.
fn point(text: &[u8], context: &Context) -> Result<Duration, Cause> {
    let time: Timestamp = temporal::DateTimeParser::new().parse_timestamp(text).map_err(|_| Cause::Malformed)?;
    let nanos = u128::try_from(time.as_nanosecond()).unwrap_or_default();
    Ok(until(UnixTime::from_millis(rounded_up(nanos)), context))
}

/// Whether a text has the form of RFC 3339, of which that of the parser is an extension.
fn is_rfc3339(text: &[u8]) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let is_alike = |(byte, form): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        form => byte == form,
    };
    text.len() > FORM.len() && text.iter().zip(FORM).all(is_alike) && !text.contains(&b'[')
}

/// Nanoseconds as milliseconds, rounded up, saturating.
fn rounded_up(nanos: u128) -> u64 {
    u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A number that is not negative: digits, and perhaps a point and more digits.
struct Decimal<'t> {
    whole: u64,
    /// What is behind the point.
    part: &'t [u8],
}

impl<'t> Decimal<'t> {
    fn read(text: &'t [u8]) -> Result<Self, Cause> {
        if let Some(number) = text.strip_prefix(b"-") {
            return Err(Self::read(number).map_or(Cause::Malformed, |_| Cause::Negative));
        }
        let mut halves = text.splitn(2, |&byte| byte == b'.');
        let whole = halves.next().and_then(digits).ok_or(Cause::Malformed)?;
        let part = match halves.next() {
            Some(part) if digits(part).is_none() => return Err(Cause::Malformed),
            part => part.unwrap_or_default(),
        };
        Ok(Self { whole, part })
    }

    /// The number a thousand times, rounded up, saturating.
    fn thousandths(&self) -> u64 {
        let (first, rest) = self.part.split_at_checked(3).unwrap_or((self.part, &[]));
        let places = first.iter().copied().chain(std::iter::repeat(b'0')).take(3);
        let part = places
            .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0'))));
        let up = u64::from(is_more_than_nothing(rest));
        self.whole.saturating_mul(1000).saturating_add(part).saturating_add(up)
    }

    /// The number, rounded up, saturating.
    fn rounded_up(&self) -> u64 {
        self.whole.saturating_add(u64::from(is_more_than_nothing(self.part)))
    }

    fn is_positive(&self) -> bool {
        self.whole > 0 || is_more_than_nothing(self.part)
    }
}

fn is_more_than_nothing(digits: &[u8]) -> bool {
    digits.iter().any(|&digit| digit != b'0')
}
