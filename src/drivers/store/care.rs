//! What keeps a cache in bounds: when an entry was of use last, whether it is pinned, how much there is, and how it goes.
//! Which entries go is not decided here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::content::hash::ManifestId;
use crate::content::layout::PieceIndex;
use crate::drivers::store::cache::{CONTENTS, Cache, ENTRIES, bytes_on_disk, read_claim};
use crate::drivers::store::error::Error;
use crate::drivers::store::folder::Folder;
use crate::drivers::store::place::PARTIAL;
use crate::drivers::store::record::{CLAIM_FILE, RECORD_FILE, Record};
use crate::drivers::store::threads::lock;

/// There, empty, while an entry is pinned.
const PINNED: &str = "pinned";
/// Empty; its time of change is that of the last use.
const USED: &str = "used";
/// Empty; its time of change is when all was hashed last.
const CHECKED: &str = "checked";

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheSpace {
    /// Bytes that all contents take on disk.
    pub occupied_bytes: u64,
    /// Free bytes of the volume, for this user.
    pub free_bytes: u64,
    /// Bytes of the volume.
    pub volume_bytes: u64,
}

/// What came of checking an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheCheck {
    /// Pieces held before.
    pub held_count: u32,
    /// Of these, wrong on disk; they are held no more.
    pub wrong: Vec<PieceIndex>,
    /// Whether every piece is there and right.
    pub whole: bool,
}

impl Cache {
    /// Notes that an entry is of use now. A failure is logged: it merely looks older than it is.
    pub fn touch(&self, manifest: ManifestId) {
        self.touch_at(manifest, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    }

    /// Notes that an entry was of use at this time, since the epoch. A failure is logged.
    pub fn touch_at(&self, manifest: ManifestId, at: Duration) {
        let touched = self.entry(manifest).and_then(|entry| {
            let Some(entry) = entry else { return Ok(()) };
            let name = Path::new(USED);
            let (tv_sec, tv_nsec) = (i64::try_from(at.as_secs()).unwrap_or(i64::MAX), at.subsec_nanos().into());
            let time = Timespec { tv_sec, tv_nsec };
            let times = Timestamps { last_access: time, last_modification: time };
            let set = || rustix::fs::utimensat(entry.file(), name, &times, AtFlags::SYMLINK_NOFOLLOW);
            let noted = match set() {
                Err(rustix::io::Errno::NOENT) => {
                    entry.replace(name, b"")?;
                    set()
                }
                other => other,
            };
            noted.map_err(|errno| Error::io("touch", entry.path().join(name), errno))
        });
        if let Err(error) = touched {
            tracing::debug!(%error, "a use of the cache is not remembered");
        }
    }

    /// When an entry was of use last, since the epoch; zero where nothing tells.
    pub fn last_used(&self, manifest: ManifestId) -> Duration {
        let Ok(Some(entry)) = self.entry(manifest) else { return Duration::ZERO };
        let changed = |name| {
            let data = std::fs::symlink_metadata(entry.path().join(name)).ok()?;
            data.modified().ok()?.duration_since(UNIX_EPOCH).ok()
        };
        changed(USED).or_else(|| changed(CLAIM_FILE)).unwrap_or_default()
    }

    /// Whether an entry is pinned.
    pub fn is_pinned(&self, manifest: ManifestId) -> bool {
        let entry = self.entry(manifest).ok().flatten();
        entry.is_some_and(|entry| matches!(entry.stat(Path::new(PINNED)), Ok(Some(_))))
    }

    /// Pins an entry, or lets it go when its time has come. `false` where there is no such entry.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn pin(&self, manifest: ManifestId, pinned: bool) -> Result<bool, Error> {
        let Some(entry) = self.entry(manifest)? else { return Ok(false) };
        let name = Path::new(PINNED);
        if pinned {
            entry.replace(name, b"")?;
        } else {
            entry.remove_file(name).map_err(|source| Error::io("remove", entry.path().join(name), source))?;
        }
        Ok(true)
    }

    /// How much there is now.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn space(&self) -> Result<CacheSpace, Error> {
        let contents = self.below(CONTENTS)?;
        let names = contents.names().map_err(|source| Error::io("list", contents.path(), source))?;
        let bytes = names.iter().map(|name| bytes_on_disk(&contents.path().join(name)));
        let occupied_bytes = bytes.fold(0, u64::saturating_add);
        let space = rustix::fs::fstatvfs(self.folder().file());
        let space = space.map_err(|errno| Error::io("look at the file system of", self.folder().path(), errno))?;
        Ok(CacheSpace {
            occupied_bytes,
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            volume_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        })
    }

    /// Bytes that an entry's contents take on disk; those of contents that several entries list count for each.
    pub fn entry_bytes(&self, manifest: ManifestId) -> u64 {
        let contents: BTreeSet<_> = self.content_ids(manifest).into_iter().collect();
        contents.iter().map(|content| self.content_bytes(content)).fold(0, u64::saturating_add)
    }

    /// Bytes of a manifest's contents that are not on disk yet; all of them where there is no entry.
    pub fn missing_bytes(&self, manifest: &crate::content::Manifest) -> u64 {
        let missing =
            |file: &crate::content::FileEntry| file.length.saturating_sub(self.content_bytes(&file.content_id));
        manifest.files().iter().map(missing).fold(0, u64::saturating_add)
    }

    /// Removes entries, and the contents that no other entry lists; nobody may have them open. Manifest first, then its
    /// record, then data: whatever a crash leaves is no entry, and its data goes with the next removal.
    ///
    /// # Errors
    /// [`Error::Io`] and its like; what was removed by then stays removed.
    pub fn remove(&self, manifests: &BTreeSet<ManifestId>) -> Result<(), Error> {
        let _changing = lock(self.changing());
        let entries = self.below(ENTRIES)?;
        for manifest in manifests {
            let name = PathBuf::from(manifest.to_string());
            let Some(entry) = self.entry(*manifest)? else { continue };
            let refuse = |source| Error::io("remove", entry.path(), source);
            entry.remove_file(Path::new(CLAIM_FILE)).map_err(refuse)?;
            entry.sync().map_err(refuse)?;
            entry.remove_file(Path::new(RECORD_FILE)).map_err(refuse)?;
            entries.remove_all(&name).map_err(refuse)?;
        }
        self.remove_orphans(&entries)
    }

    /// Removes contents that no entry lists.
    fn remove_orphans(&self, entries: &Folder) -> Result<(), Error> {
        let mut listed = BTreeSet::new();
        for manifest in self.ids()? {
            match read_claim(entries, manifest) {
                Ok(claim) => listed.extend(claim.iter().flat_map(|(claim, _)| claim.content_ids())),
                // What a damaged entry lists cannot be known: nothing is removed until it is mended or gone.
                Err(Error::Damaged { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let contents = self.below(CONTENTS)?;
        let names = contents.names().map_err(|source| Error::io("list", contents.path(), source))?;
        for name in names {
            let Some(content) = name.to_str().and_then(|name| name.trim_end_matches(PARTIAL).parse().ok()) else {
                continue;
            };
            if !listed.contains(&content) {
                let removed = contents.remove_file(&name);
                removed.map_err(|source| Error::io("remove", contents.path().join(&name), source))?;
            }
        }
        Ok(())
    }

    /// Hashes every piece of an entry that nobody has open; wrong ones are held no more.
    ///
    /// # Errors
    /// As [`Cache::open_entry`].
    pub fn check_entry(&self, manifest: ManifestId) -> Result<CacheCheck, Error> {
        use crate::drivers::store::PieceStore;
        // What was promised; opening drops what it finds wrong already.
        let promised = match self.entry(manifest)?.map(|folder| Record::read(&folder)) {
            Some(Ok(record)) => record,
            _ => None,
        };
        let entry = self.open_entry(manifest, &mut |_| {})?;
        let promised = promised.and_then(|record| record.durable(entry.manifest()).ok());
        let before = promised.unwrap_or_else(|| entry.held());
        entry.hash_all()?;
        let after = entry.held();
        let wrong: Vec<_> = before.iter_held().filter(|piece| !after.has(*piece)).collect();
        // What could not be committed is found out again by the next check.
        entry.close().map_err(|failure| *failure.error)?;
        Ok(CacheCheck { held_count: before.held_count(), wrong, whole: after.is_complete() })
    }

    /// When an entry was hashed as a whole last, or came, seconds since the epoch; `None` where nothing tells.
    pub fn last_checked(&self, manifest: ManifestId) -> Option<u64> {
        let entry = self.entry(manifest).ok()??;
        let changed = |name| {
            let data = std::fs::symlink_metadata(entry.path().join(name)).ok()?;
            Some(data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        changed(CHECKED).or_else(|| changed(CLAIM_FILE))
    }

    /// Notes that an entry was hashed as a whole at this time, seconds since the epoch. A failure is logged: it is merely
    /// hashed again sooner.
    pub fn checked(&self, manifest: ManifestId, at: u64) {
        let noted = self.entry(manifest).and_then(|entry| {
            let Some(entry) = entry else { return Ok(()) };
            let name = Path::new(CHECKED);
            entry.replace(name, b"")?;
            let time = Timespec { tv_sec: i64::try_from(at).unwrap_or(i64::MAX), tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(entry.file(), name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| Error::io("touch", entry.path().join(name), errno))
        });
        if let Err(error) = noted {
            tracing::debug!(%error, "a check of the cache is not remembered");
        }
    }

    /// Holds these pieces of an entry no more, durably; nobody may have it open.
    ///
    /// # Errors
    /// As [`Cache::open_entry`]; what the record's disk said.
    pub fn forget(&self, manifest: ManifestId, pieces: &[PieceIndex]) -> Result<(), Error> {
        use crate::drivers::store::PieceStore;
        let entry = self.open_entry(manifest, &mut |_| {})?;
        pieces.iter().for_each(|piece| entry.drop_piece(*piece));
        entry.close().map_err(|failure| *failure.error)
    }

    fn entry(&self, manifest: ManifestId) -> Result<Option<Folder>, Error> {
        let entries = self.below(ENTRIES)?;
        match entries.open_below(Path::new(&manifest.to_string())) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::io("open", entries.path().join(manifest.to_string()), source)),
        }
    }
}
