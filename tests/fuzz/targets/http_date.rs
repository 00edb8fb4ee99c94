//! HTTP-dates in all three syntaxes: the text after a line with our wall clock.
#![no_main]

use std::time::{Duration, SystemTime};

use holdoff::core::signal::date::{host_clock, http_date};
use holdoff::core::time::UnixTime;
use holdoff_fuzz::{LAST_SECOND, WALL, after_wall};
use libfuzzer_sys::fuzz_target;

/// Fifty years and the days by which calendars differ.
const FIFTY_YEARS: Duration = Duration::from_secs((50 * 366 + 1) * 86_400);

fuzz_target!(|input: &[u8]| {
    let (wall, text) = after_wall(input);
    let read = http_date(text, wall);
    let clock = host_clock([text], [], wall);
    assert!(clock.is_none_or(|clock| clock.as_secs() <= LAST_SECOND + 1));
    let Some(date) = read else { return };
    assert!(date.as_secs() <= LAST_SECOND + 1, "a leap second at the end of time is the latest");
    assert!(clock.is_none_or(|clock| clock == date));

    // Written again it is the same date, in the two syntaxes that name the year.
    if date.as_secs() <= LAST_SECOND {
        let fix = httpdate::fmt_http_date(SystemTime::from(date));
        assert_eq!(http_date(fix.as_bytes(), wall), Some(date), "{fix}");
        let day = fix[5..7].strip_prefix('0').map_or(fix[5..7].to_owned(), |digit| format!(" {digit}"));
        let asctime = format!("{} {} {day} {} {}", &fix[..3], &fix[8..11], &fix[17..25], &fix[12..16]);
        assert_eq!(http_date(asctime.as_bytes(), wall), Some(date), "{asctime}");
    }
    // The wall clock decides a year of two digits only, and never one further ahead than fifty years.
    let has_two_digits = text.contains(&b'-');
    if has_two_digits {
        let limit = wall.min(UnixTime::from_secs(LAST_SECOND)).saturating_add(FIFTY_YEARS);
        assert!(date <= limit, "{date:?} against {wall:?}");
    } else {
        assert_eq!(http_date(text, WALL), read);
        // Somebody else's reading of the same text.
        let theirs = std::str::from_utf8(text).ok().and_then(|text| httpdate::parse_http_date(text).ok());
        assert!(theirs.is_none_or(|theirs| UnixTime::from(theirs) == date), "{theirs:?}, not {date:?}");
    }
});
