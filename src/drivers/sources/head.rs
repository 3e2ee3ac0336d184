//! Values of response headers, read strictly: what does not parse whole says nothing.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What `Content-Range` said (RFC 9110, 14.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes FIRST-LAST/TOTAL`; first <= last < total. The total is `None` for `*`.
    Bytes {
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: u64,
        /// Length of the whole file.
        total: Option<u64>,
    },
    /// `bytes */TOTAL`: the range lies outside of the file.
    Unsatisfied {
        /// Length of the whole file.
        total: u64,
    },
}

/// Reads a `Content-Range` value; `None` where it is not one of bytes or contradicts itself.
pub fn content_range(value: &[u8]) -> Option<ContentRange> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let (unit, rest) = text.split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = rest.trim_start_matches(' ').split_once('/')?;
    if range == "*" {
        return Some(ContentRange::Unsatisfied { total: decimal(total)? });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (decimal(first)?, decimal(last)?);
    let total = if total == "*" { None } else { Some(decimal(total)?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some(ContentRange::Bytes { first, last, total })
}

/// A run of digits that fits; no sign, no blank.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// How long `Retry-After` asks to wait, as seconds or as a date seen from `now` (seconds since the Unix epoch); at most
/// an hour. A date that has passed is no wait. `None` where it does not parse.
pub fn retry_after(value: &[u8], now: u64) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        return Some(decimal(text).map_or(RETRY_AFTER_MAX, Duration::from_secs).min(RETRY_AFTER_MAX));
    }
    let date = u64::try_from(http_date(text)?.unix_timestamp()).unwrap_or(0);
    Some(Duration::from_secs(date.saturating_sub(now)).min(RETRY_AFTER_MAX))
}

/// A date in any of the three forms of RFC 9110, 5.6.7. The day of the week is not compared.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    if text.len() > 64 {
        return None;
    }
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, clock) = match words.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT, and Sunday, 06-Nov-94 08:49:37 GMT.
        [_, day, month, year, clock, "GMT"] => (*day, *month, *year, *clock),
        // Sun Nov  6 08:49:37 1994.
        [_, month, day, clock, year] => (*day, *month, *year, *clock),
        _ => return None,
    };
    let month = match month {
        "Jan" => Month::January,
        "Feb" => Month::February,
        "Mar" => Month::March,
        "Apr" => Month::April,
        "May" => Month::May,
        "Jun" => Month::June,
        "Jul" => Month::July,
        "Aug" => Month::August,
        "Sep" => Month::September,
        "Oct" => Month::October,
        "Nov" => Month::November,
        "Dec" => Month::December,
        _ => return None,
    };
    let years = i32::try_from(decimal(year)?).ok()?;
    let years = match (year.len(), years) {
        (4, _) => years,
        (2, 70..) => years + 1900,
        (2, _) => years + 2000,
        _ => return None,
    };
    let mut parts = clock.splitn(3, ':').map(|part| decimal(part).and_then(|number| u8::try_from(number).ok()));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // A leap second is the second before it, to a library that has none.
    let time = Time::from_hms(hour, minute, if second == 60 { 59 } else { second }).ok()?;
    let day = u8::try_from(decimal(day)?).ok()?;
    Some(PrimitiveDateTime::new(Date::from_calendar_date(years, month, day).ok()?, time).assume_utc())
}

/// Whether a `Content-Encoding` value leaves the bytes as they are.
pub fn is_identity(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| {
        text.split(',')
            .map(|part| part.trim_matches([' ', '\t']))
            .all(|part| part.is_empty() || part.eq_ignore_ascii_case("identity"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_range_is_read_whole_or_not_at_all() {
        let bytes = |first, last, total| Some(ContentRange::Bytes { first, last, total });
        assert_eq!(content_range(b"bytes 0-0/1"), bytes(0, 0, Some(1)));
        assert_eq!(content_range(b" Bytes 5-9/* "), bytes(5, 9, None));
        assert_eq!(content_range(b"bytes */42"), Some(ContentRange::Unsatisfied { total: 42 }));
        for bad in [
            &b""[..],
            b"bytes",
            b"bytes 0-9",
            b"bytes=0-9/10",
            b"bytes 9-0/10",
            b"bytes 0-10/10",
            b"bytes -9/10",
            b"bytes 0-/10",
            b"bytes +0-9/10",
            b"bytes 0-9/10,20",
            b"bytes 0 -9/10",
            b"bytes */*",
            b"items 0-9/10",
            b"bytes 0-99999999999999999999/*",
            b"bytes 0-9/\xff",
        ] {
            assert_eq!(content_range(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn retry_after_reads_seconds_and_the_three_dates() {
        // 1994-11-06 08:49:37.
        let then = 784_111_777;
        let wait = |text: &str| retry_after(text.as_bytes(), then - 120).map(|wait| wait.as_secs());
        assert_eq!(wait("0"), Some(0));
        assert_eq!(wait(" 7 "), Some(7));
        assert_eq!(wait("7200"), Some(3600));
        assert_eq!(wait("99999999999999999999999999"), Some(3600));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(120));
        assert_eq!(wait("Sunday, 06-Nov-94 08:49:37 GMT"), Some(120));
        assert_eq!(wait("Sun Nov  6 08:49:37 1994"), Some(120));
        assert_eq!(wait("Sun, 06 Nov 2094 08:49:37 GMT"), Some(3600));
        assert_eq!(wait("Sun, 06 Nov 1974 08:49:37 GMT"), Some(0));
        assert_eq!(wait("Sun, 06 Nov 1964 08:49:37 GMT"), Some(0));
        for bad in ["", "-1", "1.5", "soon", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:00:00 GMT"] {
            assert_eq!(wait(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_identity_leaves_bytes_as_they_are() {
        assert!(is_identity(b"identity") && is_identity(b"") && is_identity(b"Identity, identity"));
        assert!(!is_identity(b"gzip") && !is_identity(b"identity, br") && !is_identity(b"\xff"));
    }

    proptest! {
        #[test]
        fn a_printed_content_range_is_read_back(first: u64, more: u64, beyond: u64, known: bool) {
            let last = first.saturating_add(more);
            let total = known.then(|| last.saturating_add(beyond).saturating_add(1)).filter(|total| *total > last);
            let printed = total.map_or("*".to_owned(), |total| total.to_string());
            let text = format!("bytes {first}-{last}/{printed}");
            prop_assert_eq!(content_range(text.as_bytes()), Some(ContentRange::Bytes { first, last, total }));
        }

        #[test]
        fn no_value_makes_a_parser_panic_or_contradict_itself(value: Vec<u8>, now: u64) {
            if let Some(ContentRange::Bytes { first, last, total }) = content_range(&value) {
                prop_assert!(first <= last && total.is_none_or(|total| last < total));
            }
            prop_assert!(retry_after(&value, now).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
            is_identity(&value);
        }

        #[test]
        fn seconds_are_seconds_up_to_an_hour(seconds: u64) {
            let wait = retry_after(seconds.to_string().as_bytes(), 0);
            prop_assert_eq!(wait, Some(Duration::from_secs(seconds.min(3600))));
        }
    }
}
