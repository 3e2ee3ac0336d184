//! What was trusted, refused, evicted and removed, when and why: one JSON object a line, appended, in two files of bounded
//! length that take turns. What was served to whom is not in it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::programs::peer::unix_now;

/// Name of the file that is written; the one before it has `.1` behind.
const FILE: &str = "journal";
/// Length at which a file has had its turn: some twenty thousand records.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Longest text of a record that strangers chose.
const TEXT_CHARS_MAX: usize = 300;
/// Records that can be asked for at once.
pub const RECORDS_MAX: usize = 10_000;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A manifest was believed.
    Trusted,
    /// A manifest was refused.
    Refused,
    /// A content was fetched whole.
    Fetched,
    /// A limit had a content removed.
    Evicted,
    /// Somebody had a content removed.
    Removed,
    /// Somebody pinned a content.
    Pinned,
    /// Somebody unpinned a content.
    Unpinned,
    /// A content was found damaged.
    Damaged,
    /// The daemon was told to read its configuration again.
    Reloaded,
}

impl Deed {
    /// The word in the record.
    pub fn word(self) -> &'static str {
        match self {
            Deed::Trusted => "trusted",
            Deed::Refused => "refused",
            Deed::Fetched => "fetched",
            Deed::Evicted => "evicted",
            Deed::Removed => "removed",
            Deed::Pinned => "pinned",
            Deed::Unpinned => "unpinned",
            Deed::Damaged => "damaged",
            Deed::Reloaded => "reloaded",
        }
    }
}

/// The record of one instance. Failures to write are logged and stop nothing.
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Journal {
    /// The record in this state folder; made at the first word.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join(FILE), file: Mutex::default() }
    }

    /// Appends a record: what was done, to what, why, and on whose word (a user; `None`: the daemon's own).
    pub fn note(&self, deed: Deed, subject: &str, why: &str, uid: Option<u32>) {
        let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let record =
            json!({ "at": unix_now(), "what": deed.word(), "subject": cut(subject), "why": cut(why), "uid": uid });
        if let Err(error) = self.append(&format!("{record}\n")) {
            tracing::warn!(path = %self.path.display(), %error, "the journal cannot be written");
        }
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|file| file.metadata().is_ok_and(|data| data.len() >= FILE_BYTES_MAX)) {
            std::fs::rename(&self.path, self.before())?;
            *held = None;
        }
        let file = match held.take() {
            Some(file) => file,
            None => {
                let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
                OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)?
            }
        };
        // One write a line: a crash leaves whole lines, or a last one that readers skip.
        held.insert(file).write_all(line.as_bytes())
    }

    fn before(&self) -> PathBuf {
        self.path.with_extension("1")
    }

    /// The newest records, oldest first; at most `count`, and [`RECORDS_MAX`].
    pub fn newest(&self, count: usize) -> Vec<Value> {
        let count = count.min(RECORDS_MAX);
        let mut records: Vec<Value> = Vec::new();
        for path in [self.path.clone(), self.before()] {
            let missing = count.saturating_sub(records.len());
            let mut older: Vec<Value> =
                tail(&path).lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(missing).collect();
            records.append(&mut older);
        }
        records.reverse();
        records
    }
}

fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2 * FILE_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(2 * FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_are_told_and_a_torn_line_is_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::new(folder.path());
        assert!(journal.newest(5).is_empty());
        for number in 0..4 {
            journal.note(Deed::Evicted, &format!("content {number}\n\u{1b}"), "max_cache_age", None);
        }
        let path = folder.path().join(FILE);
        let mut torn = std::fs::read(&path).expect("written");
        assert_eq!(torn.iter().filter(|byte| **byte == b'\n').count(), 4, "one line each");
        torn.extend_from_slice(b"{\"at\":1");
        std::fs::write(&path, torn).expect("written");
        let newest = journal.newest(2);
        assert_eq!(newest.len(), 2);
        assert_eq!(newest[1]["subject"], "content 3\n\u{1b}");
        std::fs::write(&path, vec![b' '; usize::try_from(FILE_BYTES_MAX).expect("fits")]).expect("written");
        let journal = Journal::new(folder.path());
        journal.note(Deed::Pinned, "a", "", Some(1));
        journal.note(Deed::Pinned, "b", "", Some(1));
        assert!(folder.path().join("journal.1").exists());
        assert_eq!(journal.newest(9).iter().filter(|record| record["what"] == "pinned").count(), 2);
    }
}
