//! What time it is where a manifest expires: a machine's clock may be wrong, and one that was set back must not make
//! what has expired good again.

use std::fmt;

use crate::content::error::when;

/// This program was not built earlier, seconds since the Unix epoch: `SOURCE_DATE_EPOCH` of the build, else the start of
/// 2026. Never the hour of the build itself, or the same source would not give the same bytes.
pub const BUILT: u64 = built(option_env!("SOURCE_DATE_EPOCH"));
/// The start of 2026; nothing here is older.
const FIRST_RELEASE: u64 = 1_767_225_600;
/// How far beyond the build a manifest's time of making is believed, seconds: ten years. What lies further ahead is a
/// publisher's mistake, and would have everything expire that does.
pub const AHEAD_MAX: u64 = 10 * 366 * 24 * 3600;

const fn built(text: Option<&str>) -> u64 {
    let Some(text) = text else { return FIRST_RELEASE };
    let (mut left, mut seconds) = (text.as_bytes(), 0u64);
    while let [digit @ b'0'..=b'9', rest @ ..] = left {
        seconds = seconds.saturating_mul(10).saturating_add((*digit - b'0') as u64);
        left = rest;
    }
    // A packager may date everything zero, or wrongly.
    if !left.is_empty() || seconds < FIRST_RELEASE || seconds > FIRST_RELEASE + AHEAD_MAX {
        FIRST_RELEASE
    } else {
        seconds
    }
}

/// The time by which expiry is judged, seconds since the Unix epoch: the later of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What this machine's clock says.
    pub clock: u64,
    /// It is at least so late: this program was built then, or a manifest that was verified here was made then.
    pub floor: u64,
}

impl Now {
    /// By this machine's clock, seconds since the Unix epoch, and not before this program was built.
    pub fn by(clock: u64) -> Self {
        Self { clock, floor: BUILT }
    }

    /// Nor before this: a manifest that was verified here was made then, seconds since the Unix epoch. More than
    /// [`AHEAD_MAX`] beyond the build it does not count.
    #[must_use]
    pub fn not_before(self, newest_made: u64) -> Self {
        let newest = if newest_made > BUILT.saturating_add(AHEAD_MAX) { 0 } else { newest_made };
        Self { floor: newest.max(self.floor), ..self }
    }

    /// The time, seconds since the Unix epoch.
    pub fn at(self) -> u64 {
        self.clock.max(self.floor)
    }

    /// Whether the clock is behind what is known.
    pub fn is_behind(self) -> bool {
        self.clock < self.floor
    }
}

/// A clock that is believed, whatever it says.
impl From<u64> for Now {
    fn from(clock: u64) -> Self {
        Self { clock, floor: 0 }
    }
}

impl fmt::Display for Now {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this machine's clock says {}", when(self.clock))?;
        if self.is_behind() {
            let proof = match self.floor == BUILT {
                true => "this program was built then",
                false => "a manifest of the same publisher that was verified here was made then",
            };
            write!(formatter, ", yet it is {} at least: {proof}", when(self.floor))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_clock_and_floor_counts_and_a_far_future_does_not() {
        let day = 86_400;
        assert_eq!(Now::by(BUILT + day).at(), BUILT + day);
        let back = Now::by(BUILT - day);
        assert_eq!((back.at(), back.is_behind()), (BUILT, true));
        let later = Now::by(BUILT + day).not_before(BUILT + 2 * day);
        assert_eq!((later.at(), later.is_behind()), (BUILT + 2 * day, true));
        assert_eq!(later.not_before(BUILT), later);
        assert_eq!(Now::by(BUILT + day).not_before(BUILT + AHEAD_MAX + 1).at(), BUILT + day);
        assert_eq!(Now::by(0).not_before(u64::MAX).at(), BUILT);
        assert!(
            back.to_string().contains("was built") && later.to_string().contains("a manifest of the same publisher")
        );
        assert!(!Now::from(7).to_string().contains("yet"));
    }

    #[test]
    fn a_build_date_is_digits_within_reason() {
        assert_eq!(built(Some("1767225601")), 1_767_225_601);
        for odd in [None, Some(""), Some("0"), Some("yesterday"), Some("99999999999999999999"), Some("1767225601x")] {
            assert_eq!(built(odd), FIRST_RELEASE, "{odd:?}");
        }
    }
}
