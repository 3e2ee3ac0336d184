//! What HTTP heads say: ranges, waits, encodings, dates.

use piecework::drivers::origin::{Asked, parse_range};
use piecework::drivers::sources::{ContentRange, content_range, is_identity, retry_after};

/// Reads the input as each of the values that a stranger's head may carry.
pub fn run(data: &[u8]) {
    // Some of the input is the number that the rest is read against.
    let (number, value) = data.split_at(data.len().min(8));
    let mut padded = [0; 8];
    padded[..number.len()].copy_from_slice(number);
    let number = u64::from_le_bytes(padded);
    for value in [data, value] {
        match content_range(value) {
            Some(ContentRange::Bytes { first, last, total }) => {
                assert!(first <= last && total.is_none_or(|total| last < total));
            }
            Some(ContentRange::Unsatisfied { .. }) | None => {}
        }
        if let Asked::Part { first, last } = parse_range(value, number) {
            assert!(first <= last && last < number);
        }
        if let Some(wait) = retry_after(value, number) {
            assert!(wait.as_secs() <= 3600);
        }
        is_identity(value);
    }
}
