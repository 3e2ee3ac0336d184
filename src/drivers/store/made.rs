//! When the newest manifest of each publisher that was verified here was made: a floor under this machine's clock. By
//! publisher, as names begin, because one that dates a manifest wrongly should hurt its own names alone.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::drivers::store::error::Error;
use crate::drivers::store::state_dir::StateDir;

/// In the state folder: a line for each publisher, seconds since 1970, a space, the beginning of its names.
const FILE: &str = "newest-made";
/// Publishers remembered; those whose newest is oldest go first.
const PUBLISHERS_MAX: usize = 1024;
/// Longest beginning of a name, bytes; a manifest's name has 255.
const NAME_BYTES_MAX: usize = 255;
/// Longest file; what is longer was not written here.
const FILE_BYTES_MAX: usize = PUBLISHERS_MAX * (NAME_BYTES_MAX + 22);

/// What names of one publisher have in common.
fn publisher(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

impl StateDir {
    /// When the newest manifest verified here was made whose name begins as `name` does, up to its first `/`; seconds
    /// since the epoch, 0 where there is none.
    pub fn newest_made(&self, name: &str) -> u64 {
        self.all_newest_made().get(publisher(name)).copied().unwrap_or(0)
    }

    /// The same of every publisher. What cannot be read is passed over, which is told: it is one protection of several.
    pub fn all_newest_made(&self) -> BTreeMap<String, u64> {
        let read = self.folder().read(Path::new(FILE), FILE_BYTES_MAX);
        let held = match &read {
            Ok(None) => return BTreeMap::new(),
            Ok(Some(bytes)) => parse(bytes),
            Err(_) => None,
        };
        held.unwrap_or_else(|| {
            tracing::warn!(file = FILE, "is damaged and is passed over");
            BTreeMap::new()
        })
    }

    /// Remembers when a verified manifest was made, unless a newer one of its publisher is known. Several processes may do
    /// so at once.
    ///
    /// # Errors
    /// [`Error::Io`] and its like; what was known stays known.
    pub fn raise_made(&self, name: &str, made: u64) -> Result<(), Error> {
        let publisher = publisher(name);
        if made <= self.newest_made(publisher) || publisher.is_empty() || publisher.len() > NAME_BYTES_MAX {
            return Ok(());
        }
        let lock = self.open_lock("sequences.lock")?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|errno| Error::io("lock", self.path().join("sequences.lock"), errno))?;
        let mut held = self.all_newest_made();
        let newest = held.entry(publisher.to_owned()).or_default();
        *newest = made.max(*newest);
        while held.len() > PUBLISHERS_MAX {
            let oldest = held.iter().min_by_key(|(_, made)| **made).map(|(name, _)| name.clone());
            oldest.map(|name| held.remove(&name));
        }
        let text: String = held.iter().map(|(name, made)| format!("{made} {name}\n")).collect();
        self.folder().replace(Path::new(FILE), text.as_bytes())
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<String, u64>> {
    let line = |line: &str| {
        let (made, name) = line.split_once(' ')?;
        (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then_some((name.to_owned(), made.parse().ok()?))
    };
    let held: BTreeMap<_, _> = std::str::from_utf8(bytes).ok()?.lines().map(line).collect::<Option<_>>()?;
    (held.len() <= PUBLISHERS_MAX).then_some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_publisher_is_kept_and_rises_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(folder.path()).expect("a state folder");
        assert_eq!(state.newest_made("acme/app"), 0);
        for (name, made) in [("acme/app", 7), ("acme/other", 9), ("acme/app", 8), ("zeta/a/b", 3), ("/no", 10)] {
            state.raise_made(name, made).expect("kept");
        }
        assert_eq!((state.newest_made("acme/new"), state.newest_made("zeta"), state.newest_made("acm")), (9, 3, 0));
        let long = "x".repeat(NAME_BYTES_MAX);
        (0..2 * PUBLISHERS_MAX as u64).for_each(|number| {
            let name = format!("{number}{}", &long[8..]);
            if number < 3 || number > 2 * PUBLISHERS_MAX as u64 - 3 {
                state.raise_made(&name, 100 + number).expect("kept");
            }
        });
        assert!(state.all_newest_made().len() <= PUBLISHERS_MAX);
    }

    #[test]
    fn a_damaged_file_is_no_floor_and_is_written_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(folder.path()).expect("a state folder");
        for text in ["x acme\n", "7\n", "7 \n", "-1 a\n", "99999999999999999999 a\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        std::fs::write(folder.path().join(FILE), [0xff, 0xfe]).expect("written");
        assert_eq!(state.newest_made("acme/app"), 0);
        state.raise_made("acme/app", 5).expect("kept");
        assert_eq!(state.newest_made("acme/app"), 5);
        assert_eq!(parse("1 a\n".repeat(3).as_bytes()).map(|held| held.len()), Some(1));
    }
}
