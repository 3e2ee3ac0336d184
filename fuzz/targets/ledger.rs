//! The ledger: what is taken from a file is in bounds, and is the same once written and read again.

use piecework::programs::peer::ledger::{DAYS_MAX, Days};

pub fn run(data: &[u8]) {
    let Some((days, _)) = Days::parse(data) else { return };
    assert!(days.len() <= DAYS_MAX);
    assert_eq!(Days::parse(days.text().as_bytes()), Some((days, 0)));
}
