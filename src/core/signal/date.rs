//! HTTP-dates (RFC 9110 §5.6.7) and the clock of a host.
//!
//! A date names a point on a clock, and the host's clock is not ours. So a date in a response is read against the `Date`
//! of the same response where that can be trusted; both then stand on one clock and the difference to ours cancels.

use std::time::{Duration, SystemTime};

use crate::core::time::UnixTime;

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The forms of the syntaxes, RFC 850 with the day's name cut to three letters; see [`Parts::matching`].
const IMF_FIXDATE: &[u8] = b"www, dd mmm yyyy hh:ii:ss GMT";
const ASCTIME: &[u8] = b"www mmm dd hh:ii:ss yyyy";
const RFC_850: &[u8] = b"www, dd-mmm-yy hh:ii:ss GMT";

/// Names of days as RFC 850 dates have them; the first three letters are those of the other two syntaxes.
const DAYS: [&[u8]; 7] = [b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"];

/// Reads an HTTP-date in any of its three syntaxes, without white space around it. A date before 1970 is 1970.
///
/// `wall` is needed for the two-digit years of RFC 850: a date more than 50 years ahead of it means the past.
pub fn http_date(text: &[u8], wall: UnixTime) -> Option<UnixTime> {
    Some(Date::read(text, wall)?.unix)
}

/// The time on the clock of the host that sent a response, from the values of its `Date` and `Age` fields: only where
/// there is exactly one `Date`, it can be read, and `Age` is absent or 0 (else a cache sent an old `Date`).
pub fn host_clock<'a>(
    dates: impl IntoIterator<Item = &'a [u8]>,
    ages: impl IntoIterator<Item = &'a [u8]>,
    wall: UnixTime,
) -> Option<UnixTime> {
    let mut dates = dates.into_iter();
    let (Some(date), None) = (dates.next(), dates.next()) else { return None };
    if !is_fresh(ages) {
        return None;
    }
    Date::read(trim(date), wall).filter(|date| !date.before_1970).map(|date| date.unix)
}

/// Whether a response comes from its host and not from a cache, from the values of its `Age` fields: absent or 0.
pub fn is_fresh<'a>(ages: impl IntoIterator<Item = &'a [u8]>) -> bool {
    ages.into_iter().take(2).all(|age| {
        let age = trim(age);
        !age.is_empty() && age.iter().all(|&b| b == b'0')
    })
}

/// Removes optional white space (RFC 9110 §5.6.3) at both ends.
pub(in crate::core) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What was read, and whether it lies before the first time that [`UnixTime`] can hold.
struct Date {
    unix: UnixTime,
    before_1970: bool,
}

impl Date {
    fn read(text: &[u8], wall: UnixTime) -> Option<Self> {
        // The syntax nearly every response uses needs nothing of what follows. The crate trims more than HTTP allows.
        if text.len() == 29 && text.first().is_some_and(u8::is_ascii_alphabetic) && text.last() == Some(&b'T') {
            let time = std::str::from_utf8(text).ok().and_then(|text| httpdate::parse_http_date(text).ok());
            if let Some(time) = time {
                return Some(Self { unix: time.into(), before_1970: false });
            }
        }
        Parts::read(text, wall)?.resolve()
    }
}

/// A date taken apart. The order is that of time: the day's name comes last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Parts {
    year: u16,
    month: usize,
    day: [u8; 2],
    hour: [u8; 2],
    minute: [u8; 2],
    second: [u8; 2],
    weekday: [u8; 3],
}

impl Parts {
    fn read(text: &[u8], wall: UnixTime) -> Option<Self> {
        Self::matching(text, IMF_FIXDATE).or_else(|| Self::matching(text, ASCTIME)).or_else(|| Self::rfc850(text, wall))
    }

    /// Takes a text apart by a form in which runs of small letters stand for the parts and all else for itself.
    fn matching(text: &[u8], form: &[u8]) -> Option<Self> {
        let is_alike = |(byte, form): (&u8, &u8)| form.is_ascii_lowercase() || byte == form;
        if text.len() != form.len() || !text.iter().zip(form).all(is_alike) {
            return None;
        }
        let part = |letter| {
            let start = form.iter().position(|&b| b == letter)?;
            text.get(start..)?.get(..form.iter().filter(|&&b| b == letter).count())
        };
        let two = |letter| <[u8; 2]>::try_from(part(letter)?).ok();
        let day = match two(b'd')? {
            [b' ', digit] if form == ASCTIME => [b'0', digit],
            day => day,
        };
        Some(Self {
            year: number(part(b'y')?)?,
            month: MONTHS.iter().position(|month| part(b'm') == Some(&month[..]))?,
            day,
            hour: two(b'h')?,
            minute: two(b'i')?,
            second: two(b's')?,
            weekday: part(b'w')?.try_into().ok()?,
        })
    }

    /// `Sunday, 06-Nov-94 08:49:37 GMT`: the year is the latest with these digits that is not more than 50 years ahead.
    fn rfc850(text: &[u8], wall: UnixTime) -> Option<Self> {
        let (day, rest) = DAYS.iter().find_map(|day| Some((*day, text.strip_prefix(*day)?)))?;
        let text = [day.get(..3)?, rest].concat();
        let mut parts = Self::matching(&text, RFC_850)?;
        let limit = Self::fifty_years_after(wall)?;
        parts.year = parts.year.saturating_add(limit.year.saturating_sub(limit.year % 100));
        if (Self { weekday: limit.weekday, ..parts }) > limit {
            parts.year = parts.year.saturating_sub(100);
        }
        Some(parts)
    }

    fn fifty_years_after(wall: UnixTime) -> Option<Self> {
        let parts = Self::matching(httpdate::fmt_http_date(SystemTime::from(wall)).as_bytes(), IMF_FIXDATE)?;
        Some(Self { year: parts.year.saturating_add(50), ..parts })
    }

    fn resolve(self) -> Option<Date> {
        // The crate knows no years before 1970. The calendar, days of the week included, repeats every 400 years, so
        // that a later year tells whether the date exists.
        let before_1970 = self.year < 1970;
        let mut year = self.year;
        while year < 1970 {
            year = year.saturating_add(400);
        }
        // A leap second is the last of its day (RFC 9110 §5.6.7 takes RFC 5322's grammar).
        let is_leap = [self.hour, self.minute, self.second] == [*b"23", *b"59", *b"60"];
        let second = if is_leap { *b"59" } else { self.second };
        let year = format!("{year:04}");
        let text = [
            &self.weekday[..],
            b", ",
            &self.day,
            b" ",
            *MONTHS.get(self.month)?,
            b" ",
            year.as_bytes(),
            b" ",
            &self.hour,
            b":",
            &self.minute,
            b":",
            &second,
            b" GMT",
        ]
        .concat();
        let time = UnixTime::from(httpdate::parse_http_date(std::str::from_utf8(&text).ok()?).ok()?);
        let time = time.saturating_add(Duration::from_secs(u64::from(is_leap)));
        Some(Date { unix: if before_1970 { UnixTime::default() } else { time }, before_1970 })
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |number, digit| {
        digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u16::from(digit.saturating_sub(b'0'))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20T10:00:00Z
    const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);

    fn read(text: &str) -> Option<u64> {
        http_date(text.as_bytes(), WALL).map(UnixTime::as_secs)
    }

    #[test]
    fn the_three_syntaxes_name_the_same_second() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read(text), Some(784_111_777), "{text}");
        }
        assert_eq!(read("Fri, 20 Nov 2026 10:00:00 GMT"), Some(WALL.as_secs()));
    }

    #[test]
    fn a_two_digit_year_means_the_past_only_beyond_fifty_years() {
        let year = |text: &str| read(text).map(|secs| 1970 + secs / 31_556_952);
        assert_eq!(year("Friday, 20-Nov-76 10:00:00 GMT"), Some(2076), "fifty years ahead to the second");
        assert_eq!(year("Friday, 20-Nov-76 10:00:01 GMT"), None, "that second was a Saturday in 1976");
        assert_eq!(year("Saturday, 20-Nov-76 10:00:01 GMT"), Some(1976));
        assert_eq!(year("Thursday, 01-Jul-77 10:00:00 GMT"), None);
        assert_eq!(year("Friday, 01-Jul-77 10:00:00 GMT"), Some(1977));
        assert_eq!(year("Thursday, 10-Jul-70 10:00:00 GMT"), Some(2070), "the crate's fixed cut says 1970");
        let late = UnixTime::from_secs(3_800_000_000); // 2090
        assert_eq!(
            http_date(b"Thursday, 10-Jul-10 10:00:00 GMT", late).map(|t| 1970 + t.as_secs() / 31_556_952),
            Some(2110)
        );
    }

    #[test]
    fn dates_before_1970_are_the_start_of_time() {
        assert_eq!(read("Mon, 01 Jan 0001 00:00:00 GMT"), Some(0));
        assert_eq!(read("Wed, 31 Dec 1969 23:59:59 GMT"), Some(0));
        assert_eq!(read("Tue, 31 Dec 1969 23:59:59 GMT"), None, "the day of the week is wrong");
        assert_eq!(read("Wed Dec 31 23:59:59 1969"), Some(0));
    }

    #[test]
    fn a_leap_second_is_read() {
        assert_eq!(read("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_800));
        assert_eq!(read("Sat, 31 Dec 2016 12:00:60 GMT"), None);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "Sun",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun,  6 Nov 1994 08:49:37 GMT",
            "sun, 06 Nov 1994 08:49:37 GMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 2027 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "2026-11-20T10:00:00Z",
            " Sun, 06 Nov 1994 08:49:37 GMT",
            "\nSun, 06 Nov 1994 08:49:37 GM",
            "Sun Nov 06 08:49:37 1994 ",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_hosts_clock_needs_one_date_and_no_age() {
        const DATE: &[u8] = b"Fri, 20 Nov 2026 09:00:00 GMT";
        let clock = |dates: &[&'static [u8]], ages: &[&'static [u8]]| {
            host_clock(dates.iter().copied(), ages.iter().copied(), WALL).map(UnixTime::as_secs)
        };
        let expected = Some(WALL.as_secs() - 3600);
        assert_eq!(clock(&[DATE], &[]), expected);
        assert_eq!(clock(&[DATE], &[b"0"]), expected);
        assert_eq!(clock(&[DATE], &[b" 00 "]), expected);
        assert_eq!(clock(&[DATE], &[b"1"]), None);
        assert_eq!(clock(&[DATE], &[b""]), None);
        assert_eq!(clock(&[DATE], &[b"0", b"5"]), None);
        assert_eq!(clock(&[DATE, DATE], &[]), None);
        assert_eq!(clock(&[], &[]), None);
        assert_eq!(clock(&[b"now"], &[]), None);
        assert_eq!(clock(&[b"Mon, 01 Jan 1900 00:00:00 GMT"], &[]), None, "no time to count from");
    }

    #[test]
    fn a_two_digit_year_is_never_read_by_a_fixed_cut() {
        assert_eq!(read("Friday, 10-Jul-70 10:00:00 GMT"), None, "that day was a Friday in 1970, and 2070 is meant");
    }

    #[test]
    fn the_day_of_the_week_does_not_make_a_date_later() {
        // Fifty years after a Monday, to the second, on a Sunday.
        let monday = UnixTime::from_secs(1_751_277_600);
        let read = |text: &str| http_date(text.as_bytes(), monday).map(UnixTime::as_secs);
        assert_eq!(read("Sunday, 30-Jun-75 10:00:00 GMT"), Some(3_329_114_400));
    }

    #[test]
    fn only_the_exact_syntax_is_read_however_long_it_is() {
        assert_eq!(read("Sun Nov  6 08:49:37 1994     "), None, "as long as an IMF-fixdate");
        assert_eq!(read("Thu Jan  1 00:00:01 1970"), Some(1), "the first year there is");
    }
}
