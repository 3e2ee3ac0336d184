//! Amounts as people write them: `512 MiB`, `100 Mbit/s`, `20 ms`. Always a number and a unit, never a bare number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// An amount that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: write a number and one of {units}, such as `{example}`")]
pub struct UnitError {
    text: String,
    what: &'static str,
    units: &'static str,
    example: &'static str,
}

/// Splits `1.5 GiB` into its number, in millionths, and its unit.
fn split(text: &str) -> Option<(u128, &str)> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 15 || part.len() > 6 || part.contains('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let part: u128 = format!("{part:0<6}").parse().ok()?;
    Some((whole * 1_000_000 + part, unit.trim()))
}

macro_rules! amount {
    ($(#[$about:meta])* $name:ident, $what:literal, $example:literal, $units:literal, $table:expr) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        pub struct $name(pub u64);

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                let wrong = || UnitError { text: text.to_owned(), what: $what, units: $units, example: $example };
                let (millionths, unit) = split(text).ok_or_else(wrong)?;
                let table: &[(&str, u128, u128)] = &$table;
                let (_, times, over) = table.iter().find(|(name, ..)| *name == unit).ok_or_else(wrong)?;
                let value = millionths * times / over / 1_000_000;
                u64::try_from(value).map(Self).map_err(|_| wrong())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

amount!(
    /// Bytes.
    Bytes, "size", "512 MiB", "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB",
    [("B", 1, 1), ("KB", 1000, 1), ("MB", 1_000_000, 1), ("GB", 1_000_000_000, 1), ("TB", 1_000_000_000_000, 1),
     ("KiB", 1 << 10, 1), ("MiB", 1 << 20, 1), ("GiB", 1 << 30, 1), ("TiB", 1 << 40, 1)]
);
amount!(
    /// Bytes a second.
    Rate, "rate", "100 Mbit/s", "bit/s, kbit/s, Mbit/s, Gbit/s, B/s, KB/s, MB/s, GB/s, MiB/s",
    [("bit/s", 1, 8), ("kbit/s", 1000, 8), ("Mbit/s", 1_000_000, 8), ("Gbit/s", 1_000_000_000, 8), ("B/s", 1, 1),
     ("KB/s", 1000, 1), ("MB/s", 1_000_000, 1), ("GB/s", 1_000_000_000, 1), ("MiB/s", 1 << 20, 1)]
);
amount!(
    /// Microseconds.
    Span, "time", "20 ms", "us, ms, s, min, h, d",
    [("us", 1, 1), ("ms", 1000, 1), ("s", 1_000_000, 1), ("min", 60_000_000, 1), ("h", 3_600_000_000, 1),
     ("d", 86_400_000_000, 1)]
);

impl Rate {
    /// Microseconds that `bytes` take, rounded up; the end of time at rate 0.
    pub fn time_of(self, bytes: u64) -> u64 {
        if self.0 == 0 {
            return u64::MAX >> 2;
        }
        let micros = (u128::from(bytes) * 1_000_000).div_ceil(u128::from(self.0));
        u64::try_from(micros).unwrap_or(u64::MAX >> 2)
    }
}

/// A number with one digit after the point, of thousandths.
fn tenths(thousandths: u64) -> String {
    let rounded = thousandths.saturating_add(50) / 100;
    format!("{}.{}", rounded / 10, rounded % 10)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match steps.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => {
                let thousandths = u128::from(self.0) * 1000 / u128::from(*unit);
                write!(f, "{} {name}", tenths(thousandths as u64))
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.saturating_mul(8);
        let steps = [(1_000_000_000u64, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
        match steps.iter().find(|(unit, _)| bits >= *unit) {
            Some((unit, name)) => {
                let thousandths = u128::from(bits) * 1000 / u128::from(*unit);
                write!(f, "{} {name}", tenths(thousandths as u64))
            }
            None => write!(f, "{bits} bit/s"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps =
            [(86_400_000_000u64, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1000, "ms")];
        match steps.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => {
                let thousandths = u128::from(self.0) * 1000 / u128::from(*unit);
                write!(f, "{} {name}", tenths(thousandths as u64))
            }
            None => write!(f, "{} us", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        assert_eq!("1.5 GiB".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("100Mbit/s".parse(), Ok(Rate(12_500_000)));
        assert_eq!(" 20 ms ".parse(), Ok(Span(20_000)));
        for wrong in ["", "5", "MiB", "-1 MiB", "1.2.3 MiB", "1 MiBs", "99999999999999999 TiB", "1.0000001 MiB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Rate(12_500_000).to_string(), "100.0 Mbit/s");
        assert_eq!(Span(90_000_000).to_string(), "1.5 min");
    }
}
