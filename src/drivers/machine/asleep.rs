//! How long a machine slept.

use std::path::Path;
use std::time::Duration;

use crate::drivers::machine::facts::text;

/// Sleep since the machine was started (clock_gettime(2): `CLOCK_BOOTTIME` counts it, `CLOCK_MONOTONIC` does not). A folder
/// that plays a machine says it in `asleep`, in whole seconds; zero where nobody says.
pub fn slept_since_boot(root: &Path) -> Duration {
    if root == Path::new("/") {
        return by_clocks();
    }
    let seconds = text(&root.join("asleep")).and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(target_os = "linux")]
fn by_clocks() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let monotonic = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(monotonic)
}

#[cfg(not(target_os = "linux"))]
fn by_clocks() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_how_long_it_slept_and_nonsense_is_no_sleep() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let says = |text: &str| {
            std::fs::write(folder.path().join("asleep"), text).expect("files can be written");
            slept_since_boot(folder.path())
        };
        assert_eq!(slept_since_boot(folder.path()), Duration::ZERO);
        assert_eq!(says("3600\n"), Duration::from_secs(3600));
        for nonsense in ["", "-1", "99999999999999999999", "an hour"] {
            assert_eq!(says(nonsense), Duration::ZERO, "{nonsense}");
        }
    }
}
