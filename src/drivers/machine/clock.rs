//! The time of day, the machine's own or a played one.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::drivers::machine::facts::text;

/// Seconds since the epoch. A folder that plays a machine says it in `time`; where it does not, the real clock holds.
pub fn unix_time(root: &Path) -> u64 {
    let played = if root == Path::new("/") { None } else { text(&root.join("time")) };
    let played = played.and_then(|text| text.trim().parse().ok());
    played.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_plays_the_clock_and_says_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let real = unix_time(Path::new("/"));
        assert!(unix_time(folder.path()) >= real && real > 1_700_000_000);
        std::fs::write(folder.path().join("time"), "1234567890\n").expect("files can be written");
        assert_eq!(unix_time(folder.path()), 1_234_567_890);
        std::fs::write(folder.path().join("time"), "yesterday").expect("files can be written");
        assert!(unix_time(folder.path()) >= real);
    }
}
