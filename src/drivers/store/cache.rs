//! [`Cache`]: the daemon's own store. One file a content, shared by every manifest that lists it; one small folder a
//! manifest. Everything is private to its user.
//!
//! ```text
//! CACHE/lock
//! CACHE/contents/<content id>       sparse data
//! CACHE/entries/<manifest id>/manifest, state
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::content::bitfield::Bitfield;
use crate::content::hash::{ContentId, ManifestId};
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::engine::{Committed, Engine, PutOutcome, Stats};
use crate::drivers::store::error::{CREATE, CommitFailure, Error, ReadError};
use crate::drivers::store::files::{FileSet, Names};
use crate::drivers::store::folder::{Access, Folder, PRIVATE_FOLDER};
use crate::drivers::store::pool::BlockBuf;
use crate::drivers::store::read::Progress;
use crate::drivers::store::record::{Claim, Record};
use crate::drivers::store::seeding::check_shape;
use crate::drivers::store::state_dir::{make_private, open_private};
use crate::drivers::store::threads::lock;
use crate::drivers::store::{Finished, PieceStore};

/// Data, by content id.
pub(crate) const CONTENTS: &str = "contents";
/// Manifests and their records, by manifest id.
pub(crate) const ENTRIES: &str = "entries";

/// A folder that did not change for so long has the names that were read.
const SETTLED: Duration = Duration::from_secs(1);

/// What the cache may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheLimits {
    /// Bytes of the file system that stay free, whatever is asked for.
    pub free_bytes_min: u64,
}

/// The contents a node keeps. One process at a time.
pub struct Cache {
    folder: Folder,
    limits: CacheLimits,
    /// Held while entries come and go, so that no content goes that an entry is about to list.
    changing: Mutex<()>,
    /// When the folder of entries changed last, and how many there were then.
    counted: Mutex<Option<(SystemTime, usize)>>,
    /// Its own descriptor, so that the lock lives as long as the cache.
    _lock: File,
}

/// One manifest of a cache, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheListing {
    /// Which.
    pub manifest: ManifestId,
    /// Why it cannot be opened, if so.
    pub damage: Option<String>,
}

/// What an entry of the cache says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDescription {
    /// The manifest's name; empty where only a content id was known.
    pub name: String,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes that they take on disk now; files of more than a MiB are allocated as a whole where the file system can.
    pub bytes_on_disk: u64,
}

/// The pieces of one manifest in the cache. Files are opened when first needed; an idle one costs its manifest and a few
/// bits a piece.
pub struct CacheEntry {
    engine: Engine,
    envelope: Vec<u8>,
    /// It was whole when it was opened: nothing is to be checked before it is first served.
    was_whole: bool,
}

impl Cache {
    /// Opens a cache folder, made (0700) if missing.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it open; [`Error::UnsafeState`] for a folder of another user, or one
    /// that group or others may write.
    pub fn open(path: &Path, limits: CacheLimits) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|source| Error::io("resolve", path, source))?;
        let refuse = |source| Error::io(CREATE, &path, source);
        make_private(&path)?;
        let folder = open_private(&path)?;
        for name in [CONTENTS, ENTRIES] {
            folder.make_folder(Path::new(name), PRIVATE_FOLDER).map_err(refuse)?;
        }
        let lock = folder.reopen().and_then(|folder| folder.file().try_clone()).map_err(refuse)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder, limits, changing: Mutex::default(), counted: Mutex::default(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(Error::Locked { path }),
            Err(errno) => Err(Error::io("lock", path, errno)),
        }
    }

    /// Every manifest in it, by id.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn list(&self) -> Result<Vec<CacheListing>, Error> {
        let entries = self.below(ENTRIES)?;
        let names = entries.names().map_err(|source| Error::io("list", entries.path(), source))?;
        let ids = names.iter().filter_map(|name| name.to_str()?.parse::<ManifestId>().ok());
        ids.map(|manifest| {
            let damage = match read_claim(&entries, manifest) {
                Ok(_) => None,
                Err(error @ (Error::Damaged { .. } | Error::StoredManifest { .. })) => Some(error.to_string()),
                Err(error) => return Err(error),
            };
            Ok(CacheListing { manifest, damage })
        })
        .collect()
    }

    /// Ids of the manifests in it, damaged ones included.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn ids(&self) -> Result<Vec<ManifestId>, Error> {
        let entries = self.below(ENTRIES)?;
        let names = entries.names().map_err(|source| Error::io("list", entries.path(), source))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// How many manifests are in it. Ten thousand names are read again only when the folder has changed.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn count(&self) -> Result<usize, Error> {
        let entries = self.below(ENTRIES)?;
        let changed = entries.file().metadata().and_then(|metadata| metadata.modified());
        let changed = changed.map_err(|source| Error::io("look at", entries.path(), source))?;
        let mut counted = lock(&self.counted);
        if let Some((_, count)) = counted.filter(|(before, _)| *before == changed) {
            return Ok(count);
        }
        let count = self.ids()?.len();
        // Two changes within one tick of the file system's clock leave one mark.
        let settled = changed.elapsed().is_ok_and(|age| age > SETTLED);
        *counted = settled.then_some((changed, count));
        Ok(count)
    }

    /// The content ids of an entry's files, as its manifest lists them; nothing is checked, nothing opened. Empty where
    /// they cannot be read.
    pub fn content_ids(&self, manifest: ManifestId) -> Vec<ContentId> {
        let entries = self.below(ENTRIES);
        let claim = entries.ok().and_then(|entries| read_claim(&entries, manifest).ok().flatten());
        claim.map(|(claim, _)| claim.content_ids()).unwrap_or_default()
    }

    /// The envelope that came with an entry's manifest; `None` where there is no such entry, or none came.
    pub fn envelope(&self, manifest: ManifestId) -> Option<Vec<u8>> {
        let (claim, _) = read_claim(&self.below(ENTRIES).ok()?, manifest).ok()??;
        Some(claim.envelope().to_vec()).filter(|envelope| !envelope.is_empty())
    }

    /// Opens one content of an entry for reading, whole or not; `None` where the entry does not list it.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn open_content(&self, manifest: ManifestId, content: ContentId) -> Result<Option<File>, Error> {
        if !self.content_ids(manifest).contains(&content) {
            return Ok(None);
        }
        let opened = self.below(CONTENTS)?.open_file(Path::new(&content.to_string()), Access::Read);
        opened.map(Some).map_err(|source| Error::io("open", self.content_path(&content), source))
    }

    /// Bytes that are free on the cache's file system for its user.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let space = rustix::fs::fstatvfs(self.folder.file());
        let space = space.map_err(|errno| Error::io("look at the file system of", self.folder.path(), errno))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// What an entry says of itself; `None` where it cannot be read. Opens its manifest, hashes nothing.
    pub fn describe(&self, manifest: ManifestId) -> Option<CacheDescription> {
        let (claim, _) = read_claim(&self.below(ENTRIES).ok()?, manifest).ok()??;
        let read = claim.read_manifest().ok()?;
        // A content that is listed twice lies there once.
        let contents: std::collections::BTreeSet<_> = read.files().iter().map(|file| file.content_id).collect();
        let bytes = contents.iter().map(|content| self.content_bytes(content));
        Some(CacheDescription {
            name: read.name().to_owned(),
            bytes_total: read.layout().total_bytes(),
            bytes_on_disk: bytes.fold(0, u64::saturating_add),
        })
    }

    /// Which pieces of an entry are held, as its record has it; `None` where it cannot be read. Hashes nothing.
    pub fn held(&self, manifest: ManifestId) -> Option<Bitfield> {
        let (claim, folder) = read_claim(&self.below(ENTRIES).ok()?, manifest).ok()??;
        Record::read(&folder).ok()??.durable(&claim.read_manifest().ok()?).ok()
    }

    /// Bytes that a content takes on disk; 0 where it is not there.
    pub(crate) fn content_bytes(&self, content: &ContentId) -> u64 {
        bytes_on_disk(&self.content_path(content))
    }

    /// Where the bytes of a content lie.
    pub fn content_path(&self, content: &ContentId) -> PathBuf {
        self.folder.path().join(CONTENTS).join(content.to_string())
    }

    /// Takes files that already lie at their [`Cache::content_path`] as whole, on their length alone; every piece is
    /// hashed before it is first served.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::WrongLength`] and their like, for the first file that cannot be the manifest's.
    pub fn adopt(&self, manifest: &Manifest, envelope: &[u8]) -> Result<(), Error> {
        let entries = self.below(ENTRIES)?;
        let name = PathBuf::from(manifest.id().to_string());
        let refuse = |source| Error::io(CREATE, entries.path().join(&name), source);
        entries.make_folder(&name, PRIVATE_FOLDER).map_err(refuse)?;
        let folder = entries.open_below(&name).map_err(refuse)?;
        Claim::new(Path::new(""), manifest, envelope).write(&folder)?;
        let engine = self.engine(manifest, folder.reopen().map_err(refuse)?)?;
        check_shape(&engine.files, manifest)?;
        let mut record = Record::new(manifest, 1, None, &Bitfield::all(manifest.layout().piece_count()));
        record.clean = true;
        for file in (0u32..).take(manifest.files().len()) {
            let stamp = engine.files.stat(file)?.map(|found| found.stamp.into());
            record.stamps.extend(stamp.map(|stamp| (file, stamp)));
        }
        record.write(&folder)
    }

    /// Begins an entry, or opens it if it is there. Contents that other entries hold already are hashed and count.
    ///
    /// # Errors
    /// [`Error::NotEnoughSpace`], [`Error::CannotCreate`].
    pub fn create(&self, manifest: &Manifest, envelope: &[u8]) -> Result<CacheEntry, Error> {
        let entries = self.below(ENTRIES)?;
        match self.open_entry(manifest.id(), &mut |_| {}) {
            Err(Error::NoSuchEntry { .. } | Error::Damaged { .. } | Error::StoredManifest { .. }) => {}
            other => return other,
        }
        let name = PathBuf::from(manifest.id().to_string());
        let refuse = |source| Error::io(CREATE, entries.path().join(&name), source);
        entries.make_folder(&name, PRIVATE_FOLDER).map_err(refuse)?;
        let folder = entries.open_below(&name).map_err(refuse)?;
        {
            let _changing = lock(&self.changing);
            Claim::new(Path::new(""), manifest, envelope).write(&folder)?;
        }
        entries.sync().map_err(|source| Error::io("sync the folder", entries.path(), source))?;
        let engine = self.engine(manifest, folder)?;
        // Whatever lies there came from another entry, or from one whose record is lost: its hashes decide.
        engine.hash_all(&mut |_| {})?;
        self.reserve(&engine)?;
        engine.write_first_record()?;
        Ok(CacheEntry { engine, envelope: envelope.to_vec(), was_whole: false })
    }

    /// Opens an entry; `progress` is told of long checks.
    ///
    /// # Errors
    /// [`Error::NoSuchEntry`]; [`Error::StoredManifest`] where its manifest is damaged.
    pub fn open_entry(&self, manifest: ManifestId, progress: &mut dyn FnMut(Progress)) -> Result<CacheEntry, Error> {
        let entries = self.below(ENTRIES)?;
        let missing = || Error::NoSuchEntry { path: self.folder.path().to_owned(), id: manifest };
        let (claim, folder) = read_claim(&entries, manifest)?.ok_or_else(missing)?;
        let path = folder.path().to_owned();
        let read = claim.read_manifest().map_err(|source| Error::StoredManifest { path: path.clone(), source })?;
        if read.id() != manifest {
            return Err(Error::Damaged { path, reason: format!("it holds manifest {}", read.id()) });
        }
        let record = match Record::read(&folder) {
            Ok(record) => record,
            Err(Ok(reason)) => {
                tracing::warn!(path = %path.display(), reason, "a state file cannot be read");
                None
            }
            Err(Err(error)) => return Err(error),
        };
        let engine = self.engine(&read, folder)?;
        engine.restore(record, progress)?;
        let was_whole = engine.held().is_complete();
        Ok(CacheEntry { engine, envelope: claim.envelope().to_vec(), was_whole })
    }

    fn engine(&self, manifest: &Manifest, record: Folder) -> Result<Engine, Error> {
        let files = FileSet::new(manifest.clone(), self.below(CONTENTS)?, Names::Contents, true);
        Ok(Engine::new(manifest.clone(), files, Some(record), None))
    }

    fn reserve(&self, engine: &Engine) -> Result<(), Error> {
        let missing = engine.missing_bytes();
        if missing == 0 {
            return Ok(());
        }
        engine.files.reserve(missing.saturating_add(self.limits.free_bytes_min))
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn changing(&self) -> &Mutex<()> {
        &self.changing
    }

    pub(crate) fn below(&self, name: &str) -> Result<Folder, Error> {
        let opened = self.folder.open_below(Path::new(name));
        opened.map_err(|source| Error::io("open", self.folder.path().join(name), source))
    }
}

/// Bytes that a file takes on disk, a link not followed; 0 where it cannot be looked at.
pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map_or(0, |data| data.blocks().saturating_mul(512))
}

/// `None`: nothing of this manifest is there, or its folder is empty still.
pub(crate) fn read_claim(entries: &Folder, manifest: ManifestId) -> Result<Option<(Claim, Folder)>, Error> {
    let name = PathBuf::from(manifest.to_string());
    let folder = match entries.open_below(&name) {
        Ok(folder) => folder,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io("open", entries.path().join(name), source)),
    };
    match Claim::read(&folder) {
        Ok(claim) => Ok(claim.map(|claim| (claim, folder))),
        Err(Ok(reason)) => Err(Error::Damaged { path: folder.path().to_owned(), reason }),
        Err(Err(error)) => Err(error),
    }
}

impl CacheEntry {
    /// The envelope's bytes; empty where the manifest came without.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// Hashes every piece that has bytes on disk, whatever the record says.
    pub(crate) fn hash_all(&self) -> Result<(), Error> {
        self.engine.hash_all(&mut |_| {})
    }

    /// Holds a piece no more.
    pub(crate) fn drop_piece(&self, piece: PieceIndex) {
        self.engine.forget(piece);
    }

    /// As [`PieceStore::put`], for bytes in any buffer.
    ///
    /// # Errors
    /// As there.
    pub fn put_bytes<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>) -> Result<PutOutcome, Error> {
        self.engine.put(block)
    }
}

impl PieceStore for CacheEntry {
    fn manifest(&self) -> &Manifest {
        &self.engine.manifest
    }

    fn held(&self) -> Bitfield {
        self.engine.held()
    }

    fn partial(&self) -> Vec<(PieceIndex, Vec<BlockIndex>)> {
        self.engine.partial()
    }

    fn put(&self, block: VerifiedBlock<BlockBuf>) -> Result<PutOutcome, Error> {
        self.engine.put(&block)
    }

    fn read(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.engine.read(piece, block, from, buffer)
    }

    fn read_cached(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> bool {
        self.engine.read_cached(piece, block, from, buffer)
    }

    fn piece_proof(&self, piece: PieceIndex) -> Result<Arc<[[u8; 32]]>, ReadError> {
        self.engine.piece_proof(piece)
    }

    fn check(&self, piece: PieceIndex) -> Result<u64, ReadError> {
        self.engine.check(piece)
    }

    fn commit_due(&self) -> bool {
        self.engine.commit_due()
    }

    fn commit(&self) -> Result<Committed, CommitFailure> {
        self.engine.commit()
    }

    fn finish(&self) -> Result<Finished, CommitFailure> {
        let missing = self.engine.held().iter_missing().count();
        if missing > 0 {
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            return Err(Error::Incomplete { path: self.engine.path(), missing }.into());
        }
        let lost = if self.was_whole { Vec::new() } else { self.engine.check_rest(&mut |_| {}) };
        if !lost.is_empty() {
            return Ok(Finished::Lost(lost));
        }
        self.engine.commit().map(|_| Finished::InPlace)
    }

    fn close(&self) -> Result<(), CommitFailure> {
        self.engine.close()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
