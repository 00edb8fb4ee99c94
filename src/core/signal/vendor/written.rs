//! Durations and points in time that are written out.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::{friendly, temporal};

use super::{Cause, Context, Unit, until};
use crate::core::time::UnixTime;

/// The longest text that is read, in bytes.
pub(super) const MAX_TEXT: usize = 64;

/// A wait, as a text without white space around it says it.
pub(super) fn wait(text: &[u8], unit: Unit, context: &Context) -> Result<Duration, Cause> {
    match unit {
        Unit::Duration => ahead(friendly::SpanParser::new().parse_unsigned_duration(short(text)?), text),
        // The standard has both, and a time from now begins with its letter.
        Unit::Iso8601 if matches!(text, [b'P' | b'p' | b'-', ..]) => {
            ahead(temporal::SpanParser::new().parse_unsigned_duration(short(text)?), text)
        }
        Unit::Iso8601 => point(short(text)?, context),
        Unit::Rfc3339 if is_rfc3339(text) => point(short(text)?, context),
        _ => Err(short(text).map_or_else(|cause| cause, |_| Cause::Malformed)),
    }
}

/// A text that is not longer than one that means something.
fn short(text: &[u8]) -> Result<&[u8], Cause> {
    if text.len() > MAX_TEXT { Err(Cause::TooLong) } else { Ok(text) }
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
