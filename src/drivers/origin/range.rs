//! The `Range` header of a request (RFC 9110, 14.1.2).

/// What a `Range` header asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The whole file: no range, several, or one that does not parse.
    Whole,
    /// These bytes; the last one included, first <= last < length.
    Part {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// Bytes beyond the end.
    Unsatisfiable,
}

/// Reads a `Range` value for a file of `length` bytes.
pub fn parse_range(value: &[u8], length: u64) -> Asked {
    let Some((first, last)) = single(value) else {
        return Asked::Whole;
    };
    match (first, last) {
        (Some(first), Some(last)) if last < first => Asked::Whole,
        (Some(first), _) if first >= length => Asked::Unsatisfiable,
        (Some(first), last) => Asked::Part { first, last: last.unwrap_or(u64::MAX).min(length.saturating_sub(1)) },
        (None, Some(0)) => Asked::Unsatisfiable,
        (None, Some(_)) if length == 0 => Asked::Unsatisfiable,
        (None, Some(tail)) => Asked::Part { first: length.saturating_sub(tail), last: length.saturating_sub(1) },
        (None, None) => Asked::Whole,
    }
}

/// `bytes=FIRST-LAST`, either of them absent.
fn single(value: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = std::str::from_utf8(value).ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    Some((position(first)?, position(last)?))
}

/// Digits, or nothing at all; digits that do not fit are the largest number.
fn position(text: &str) -> Option<Option<u64>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_is_a_part_and_what_does_not_parse_is_no_range() {
        let part = |first, last| Asked::Part { first, last };
        for (value, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-", part(0, 9)),
            ("Bytes = 3-5", part(3, 5)),
            ("bytes=3-99", part(3, 9)),
            ("bytes=-4", part(6, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=5-99999999999999999999999", part(5, 9)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=99999999999999999999999-", Asked::Unsatisfiable),
            ("bytes=5-3", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("items=0-1", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(parse_range(value.as_bytes(), 10), expected, "{value:?}");
        }
        assert_eq!(parse_range(b"bytes=0-", 0), Asked::Unsatisfiable);
        assert_eq!(parse_range(b"bytes=-1", 0), Asked::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(value in "(bytes=)?[0-9]{0,21}-[0-9]{0,21}(,.*)?", length: u64) {
            if let Asked::Part { first, last } = parse_range(value.as_bytes(), length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
