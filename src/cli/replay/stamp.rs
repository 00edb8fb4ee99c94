//! Times and lengths as logs write them. Units are declared: a number is seconds, whatever its size.

use std::time::Duration;

use time::{Date, Month, UtcOffset};

use crate::core::time::UnixTime;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The end of the year 9999, in milliseconds: the last time that the other forms can name.
const LAST: u64 = 253_402_300_799_999;

/// Any form: RFC 3339, that of the combined log format, or seconds since 1970.
pub(super) fn any(text: &str) -> Option<UnixTime> {
    rfc3339(text).or_else(|| combined(text)).or_else(|| {
        let since = seconds(text)?;
        let millis = u64::try_from(since.as_millis()).ok().filter(|millis| *millis <= LAST)?;
        Some(UnixTime::from_millis(millis))
    })
}

/// `10/Oct/2000:13:55:36 -0700`
pub(super) fn combined(text: &str) -> Option<UnixTime> {
    let (date, rest) = text.split_once(':')?;
    let (clock, offset) = rest.split_once(' ')?;
    let mut date = date.split('/');
    let (day, month, year) = (date.next()?, date.next()?, date.next()?);
    let month = MONTHS.iter().position(|name| *name == month)?.checked_add(1)?;
    let (sign, hours, minutes) = (offset.get(..1)?, offset.get(1..3)?, offset.get(3..)?);
    if date.next().is_some() {
        return None;
    }
    let date = (number(year, 4)?, u32::try_from(month).ok()?, number(day, 2)?);
    unix(date, clock, self::offset(sign, hours, minutes)?)
}

/// RFC 3339, with a space or a small `t` for the `T` as §5.6 allows.
fn rfc3339(text: &str) -> Option<UnixTime> {
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let mut parts = date.split('-');
    let date = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = (rest.get(..at)?, rest.get(at..)?);
    let offset = if matches!(offset, "Z" | "z") {
        0
    } else {
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        self::offset(offset.get(..1)?, hours, minutes)?
    };
    unix(date, clock, offset)
}

/// A number of seconds, with or without a fraction.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if [whole, fraction].iter().any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Duration::new(whole.parse().ok()?, nanos))
}

/// Whole seconds to the east of UTC.
fn offset(sign: &str, hours: &str, minutes: &str) -> Option<i32> {
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let length = i32::try_from(hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60))).ok()?;
    match sign {
        "+" => Some(length),
        "-" => length.checked_neg(),
        _ => None,
    }
}

/// `clock` is `13:55:36` with or without a fraction.
fn unix((year, month, day): (u32, u32, u32), clock: &str, offset: i32) -> Option<UnixTime> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':').map(|part| u8::try_from(number(part, 2)?).ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    let millis = u16::try_from(seconds(&format!("0.{fraction}"))?.subsec_millis()).ok()?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    // A leap second is the one before it.
    let second = if second == 60 { 59 } else { second };
    let at = date.with_hms_milli(hour, minute, second, millis).ok()?;
    let nanos = at.assume_offset(UtcOffset::from_whole_seconds(offset).ok()?).unix_timestamp_nanos();
    u64::try_from(nanos / 1_000_000).ok().map(UnixTime::from_millis)
}

/// Exactly so many digits.
fn number(text: &str, digits: usize) -> Option<u32> {
    let good = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    fn millis(text: &str) -> Option<u64> {
        any(text).map(UnixTime::as_millis)
    }

    #[test]
    fn every_form_is_read_with_its_offset() {
        // date -u -d '2000-10-10 20:55:36' +%s
        for text in [
            "10/Oct/2000:13:55:36 -0700",
            "2000-10-10T20:55:36Z",
            "2000-10-10 20:55:36z",
            "2000-10-10T22:55:36+02:00",
            "971211336",
            "971211336.000",
        ] {
            assert_eq!(millis(text), Some(971_211_336_000), "{text}");
        }
        assert_eq!(millis("971211336.25"), Some(971_211_336_250));
        assert_eq!(millis("2000-10-10T20:55:36.250999+00:00"), Some(971_211_336_250));
        assert_eq!(millis("2016-12-31T23:59:60Z"), millis("2016-12-31T23:59:59Z"), "a leap second");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "-",
            "now",
            "10/Okt/2000:13:55:36 -0700",
            "32/Oct/2000:13:55:36 -0700",
            "10/Oct/2000:24:55:36 -0700",
            "10/Oct/2000:13:55:36",
            "10/Oct/2000:13:55:36 0700",
            "10/Oct/2000:13:55:36 -07000",
            "10/Oct/2000/1:13:55:36 -0700",
            "2000-10-10T20:55:36",
            "2000-10-10T20:55Z",
            "2000-02-30T20:55:36Z",
            "2000-10-10T20:55:36:00Z",
            "1969-12-31T00:00:00Z",
            "-5",
            "+5",
            "1e9",
            "1.",
            ".5",
            "1.2.3",
            "٣",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
        // Milliseconds are not guessed: as seconds this is the year 31969.
        assert_eq!(millis("971211336000"), None);
    }

    #[test]
    fn a_length_is_seconds() {
        assert_eq!(seconds("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(seconds("12"), Some(Duration::from_secs(12)));
        assert_eq!(seconds("0.0000000019"), Some(Duration::from_nanos(1)));
        assert_eq!(seconds("99999999999999999999"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", near in "[0-9]{2,4}[-/][A-Za-z0-9]{2,3}[-/][0-9]{2,4}[T:][0-9:.]{6,12}[ +Z-]{0,2}[0-9:]{0,6}") {
            let _ = (any(&text), any(&near), seconds(&text));
        }

        #[test]
        fn a_time_is_read_back(secs in 0..4_000_000_000_u64) {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(secs);
            prop_assert_eq!(millis(&humantime::format_rfc3339_seconds(at).to_string()), Some(secs * 1000));
            prop_assert_eq!(millis(&secs.to_string()), Some(secs * 1000));
        }
    }
}
