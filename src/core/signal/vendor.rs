//! The fields of vendors, by the table that a policy gives: which field names the end of a window, in which unit, and which
//! one says what is left.
//!
//! A unit is declared and never guessed by the size of a number: 1795168800 is a time in one field and 57 years in another.
//! A window counts when nothing is left of it. Of several the latest counts: before it nothing will be answered.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::date::trim;
use super::retry_after::{self, Context, digits};
use super::{Cause, Causes, Hint};
use crate::core::decision::Source;
use crate::core::policy::{FieldRule, Unit};
use crate::core::time::UnixTime;

#[cfg(feature = "fields")]
mod written;

/// Without the feature `fields` no policy with such units passes its check.
#[cfg(not(feature = "fields"))]
mod written {
    use super::{Cause, Context, Duration, Unit};

    pub(super) fn wait(_: &[u8], _: Unit, _: &Context) -> Result<Duration, Cause> {
        Err(Cause::Unsupported)
    }
}

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
        Unit::Duration | Unit::Iso8601 | Unit::Rfc3339 => written::wait(text, unit, context),
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

#[cfg(test)]
#[cfg(feature = "fields")]
mod tests {
    use super::written::MAX_TEXT;
    use super::*;
    use crate::core::signal::MAX_WAIT;

    /// 2026-11-20T10:00:00Z
    const WALL: UnixTime = UnixTime::from_secs(1_795_168_800);
    const CONTEXT: Context = Context { wall: WALL, date: None, fractional: false };

    fn read_as(unit: Unit, text: &str) -> Result<u64, Cause> {
        wait(text.as_bytes(), unit, &CONTEXT).map(|wait| u64::try_from(wait.as_millis()).unwrap())
    }

    fn rule(reset: &'static str, unit: Unit, remaining: Option<&'static str>) -> FieldRule {
        FieldRule { reset: HeaderName::from_static(reset), unit, remaining: remaining.map(HeaderName::from_static) }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let name = HeaderName::from_static;
        fields.iter().map(|(field, value)| (name(field), HeaderValue::from_str(value).unwrap())).collect()
    }

    /// Milliseconds, the place of the rule, and what was odd.
    fn read_all(
        rules: &[FieldRule],
        fields: &[(&'static str, &str)],
    ) -> (Option<(u64, usize)>, Vec<Cause>, Vec<Cause>) {
        let reading = read(rules, &headers(fields), &CONTEXT, true);
        assert!(reading.hint.is_none_or(|hint| hint.source == Source::VendorReset));
        let wait = reading.hint.map(|hint| u64::try_from(hint.wait.as_millis()).unwrap());
        (wait.zip(reading.rule), reading.reset.iter().collect(), reading.remaining.iter().collect())
    }

    #[test]
    fn a_number_is_read_by_the_unit_that_was_declared_and_by_no_other() {
        for (unit, text, millis) in [
            (Unit::Seconds, "64.57", 64_570),
            (Unit::Seconds, " 7\t", 7_000),
            (Unit::Seconds, "0.0001", 1),
            (Unit::Seconds, "1.0000", 1_000),
            (Unit::Seconds, "1795168830", 1_795_168_830_000),
            (Unit::Milliseconds, "1500", 1_500),
            (Unit::Milliseconds, "1500.2", 1_501),
            (Unit::Milliseconds, "0", 0),
            (Unit::EpochSeconds, "1795168830", 30_000),
            (Unit::EpochSeconds, "1795168830.123", 30_123),
            (Unit::EpochSeconds, "1795168830.1230001", 30_124),
            (Unit::EpochMilliseconds, "1795168830123", 30_123),
            (Unit::EpochMilliseconds, "1795168830123.5", 30_124),
        ] {
            assert_eq!(read_as(unit, text), Ok(millis), "{unit:?} {text}");
        }
    }

    #[test]
    fn what_has_passed_is_no_further_wait() {
        for (unit, text) in [
            (Unit::EpochSeconds, "1470173023.123"),
            (Unit::EpochSeconds, "0"),
            (Unit::EpochMilliseconds, "1795168800000"),
            (Unit::Rfc3339, "2026-11-20T09:59:59Z"),
            (Unit::Rfc3339, "1960-01-01T00:00:00Z"),
            (Unit::Iso8601, "2026-11-20T10:00:00.000000Z"),
            (Unit::Iso8601, "PT0S"),
            (Unit::Duration, "0s"),
        ] {
            assert_eq!(read_as(unit, text), Ok(0), "{unit:?} {text}");
        }
    }

    #[test]
    fn durations_and_times_are_read_as_vendors_write_them() {
        for (unit, text, millis) in [
            (Unit::Duration, "6m0s", 360_000),
            (Unit::Duration, "8.64s", 8_640),
            (Unit::Duration, "17ms", 17),
            (Unit::Duration, "1h2m3s", 3_723_000),
            (Unit::Duration, "1s", 1_000),
            (Unit::Duration, "500us", 1),
            (Unit::Duration, "23h59m59.999s", 86_399_999),
            (Unit::Rfc3339, "2026-11-20T10:01:00Z", 60_000),
            (Unit::Rfc3339, "2026-11-20t12:01:00.0001+02:00", 60_001),
            (Unit::Rfc3339, "2026-11-20T10:00:60Z", 59_000),
            (Unit::Iso8601, "2026-11-20T10:01:00.250000Z", 60_250),
            (Unit::Iso8601, "20261120T100100Z", 60_000),
            (Unit::Iso8601, "PT1M30.5S", 90_500),
        ] {
            assert_eq!(read_as(unit, text), Ok(millis), "{unit:?} {text}");
        }
    }

    #[test]
    fn junk_is_no_wait_and_says_why() {
        let long = "1".repeat(MAX_TEXT + 1) + "s";
        for (unit, text, cause) in [
            (Unit::Seconds, "", Cause::Empty),
            (Unit::Seconds, "-5", Cause::Negative),
            (Unit::Seconds, "-5.5", Cause::Negative),
            (Unit::Seconds, "-", Cause::Malformed),
            (Unit::Seconds, "soon", Cause::Malformed),
            (Unit::Seconds, "5.", Cause::Malformed),
            (Unit::Seconds, ".5", Cause::Malformed),
            (Unit::Seconds, "1.2.3", Cause::Malformed),
            (Unit::Seconds, "1e3", Cause::Malformed),
            (Unit::Seconds, "+5", Cause::Malformed),
            (Unit::Seconds, "5s", Cause::Malformed),
            (Unit::EpochSeconds, "-1", Cause::Negative),
            (Unit::EpochSeconds, "2026-11-20T10:01:00Z", Cause::Malformed),
            (Unit::Duration, "60", Cause::Malformed),
            (Unit::Duration, "-6m0s", Cause::Negative),
            (Unit::Duration, "6m0x", Cause::Malformed),
            (Unit::Duration, &long, Cause::TooLong),
            (Unit::Iso8601, "-PT5S", Cause::Negative),
            (Unit::Iso8601, "PT", Cause::Malformed),
            (Unit::Iso8601, "2026-11-20T10:01:00", Cause::Malformed),
            (Unit::Iso8601, &long, Cause::TooLong),
            (Unit::Rfc3339, "20261120T100100Z", Cause::Malformed),
            (Unit::Rfc3339, "2026-11-20T10:01:00", Cause::Malformed),
            (Unit::Rfc3339, "2026-11-20T10:01:00Z[UTC]", Cause::Malformed),
            (Unit::Rfc3339, "2026-02-30T10:01:00Z", Cause::Malformed),
            (Unit::Rfc3339, "PT5S", Cause::Malformed),
            (Unit::Rfc3339, &long, Cause::TooLong),
        ] {
            assert_eq!(read_as(unit, text), Err(cause), "{unit:?} {text}");
        }
        assert_eq!(wait(b"\xff\xfe", Unit::Duration, &CONTEXT), Err(Cause::Malformed));
    }

    #[test]
    fn too_large_a_number_is_the_largest_wait_however_long_it_is() {
        for unit in [Unit::Seconds, Unit::Milliseconds, Unit::EpochSeconds, Unit::EpochMilliseconds] {
            let rules = [rule("x-reset", unit, None)];
            for text in [&"9".repeat(30), &"9".repeat(300)] {
                let reading = read(&rules, &headers(&[("x-reset", text)]), &CONTEXT, true);
                assert_eq!(reading.hint.map(|hint| hint.wait), Some(MAX_WAIT), "{unit:?} {text}");
                assert!(reading.reset.contains(Cause::Saturated));
            }
        }
        assert_eq!(
            read_all(&[rule("x-reset", Unit::Rfc3339, None)], &[("x-reset", "9999-12-30T00:00:00Z")]).1,
            [Cause::Saturated]
        );
    }

    #[test]
    fn a_point_in_time_is_read_against_the_hosts_clock_where_it_is_known() {
        let date = Some(UnixTime::from_secs(1_795_168_800 - 3600));
        let context = Context { date, ..CONTEXT };
        for (unit, text) in [
            (Unit::EpochSeconds, "1795165230"),
            (Unit::EpochMilliseconds, "1795165230000"),
            (Unit::Rfc3339, "2026-11-20T09:00:30Z"),
            (Unit::Iso8601, "2026-11-20T09:00:30Z"),
        ] {
            assert_eq!(wait(text.as_bytes(), unit, &context), Ok(Duration::from_secs(30)), "{unit:?}");
            assert_eq!(wait(text.as_bytes(), unit, &CONTEXT), Ok(Duration::ZERO), "{unit:?}");
        }
        assert_eq!(wait(b"30", Unit::Seconds, &context), Ok(Duration::from_secs(30)));
        assert_eq!(wait(b"30s", Unit::Duration, &context), Ok(Duration::from_secs(30)));
    }

    #[test]
    fn a_window_counts_when_nothing_is_left_of_it() {
        let rules = [rule("x-reset", Unit::Seconds, Some("x-left"))];
        let read = |left: &[&str]| {
            let fields: Vec<_> =
                [("x-reset", "30")].into_iter().chain(left.iter().map(|left| ("x-left", *left))).collect();
            read_all(&rules, &fields)
        };
        for left in ["0", "0.0", "-3", "-0", " 0 "] {
            assert_eq!(read(&[left]), (Some((30_000, 0)), vec![], vec![]), "{left}");
        }
        for left in ["1", "0.1", "4999"] {
            assert_eq!(read(&[left]), (None, vec![], vec![]), "{left}");
        }
        assert_eq!(read(&[]), (None, vec![], vec![]), "it does not say");
        assert_eq!(read(&["none"]), (None, vec![], vec![Cause::Malformed]));
        assert_eq!(read(&[""]), (None, vec![], vec![Cause::Empty]));
        assert_eq!(read(&["0", "5"]), (None, vec![], vec![Cause::Duplicate]), "something is left");
        assert_eq!(read(&["0", "0"]), (Some((30_000, 0)), vec![], vec![Cause::Duplicate]));
        assert_eq!(read(&["0, x"]), (Some((30_000, 0)), vec![], vec![Cause::Malformed, Cause::Duplicate]));
    }

    #[test]
    fn without_a_field_for_what_is_left_a_window_counts_on_what_may_be_a_signal_only() {
        let rules = [rule("x-reset", Unit::Seconds, None)];
        let fields = headers(&[("x-reset", "30")]);
        let hint = |is_limited| read(&rules, &fields, &CONTEXT, is_limited).hint.map(|hint| hint.wait.as_secs());
        assert_eq!((hint(true), hint(false)), (Some(30), None));
    }

    #[test]
    fn of_several_windows_and_values_the_latest_counts() {
        let rules = [
            rule("x-reset-requests", Unit::Duration, Some("x-left-requests")),
            rule("x-reset-tokens", Unit::Duration, Some("x-left-tokens")),
            rule("x-reset-bytes", Unit::Duration, Some("x-left-bytes")),
        ];
        let fields = [
            ("x-reset-requests", "20ms"),
            ("x-left-requests", "0"),
            ("x-reset-tokens", "6m0s"),
            ("x-left-tokens", "0"),
            ("x-reset-bytes", "24h"),
            ("x-left-bytes", "17"),
        ];
        assert_eq!(read_all(&rules, &fields), (Some((360_000, 1)), vec![], vec![]));
        let several = [("x-reset-requests", "2s, 8s"), ("x-reset-requests", "junk"), ("x-left-requests", "0")];
        assert_eq!(read_all(&rules, &several), (Some((8_000, 0)), vec![Cause::Malformed, Cause::Duplicate], vec![]));
    }

    #[test]
    fn no_more_values_are_read_than_make_sense() {
        let rules = [rule("x-reset", Unit::Seconds, None)];
        let list = |last: usize| (1..=last).map(|wait| wait.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(read_all(&rules, &[("x-reset", &list(16))]), (Some((16_000, 0)), vec![Cause::Duplicate], vec![]));
        assert_eq!(read_all(&rules, &[("x-reset", &list(17))]), (Some((16_000, 0)), vec![Cause::TooMany], vec![]));
    }
}
