//! [`FileSet`]: the files of one manifest where they lie, opened when first needed, and synced together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::content::layout::BLOCK_BYTES;
use crate::content::manifest::{FileEntry, Manifest};
use crate::drivers::store::error::{CREATE, Error};
use crate::drivers::store::folder::{Access, Folder, Found, PRIVATE_FILE, stamp_of};
use crate::drivers::store::limits::{OPEN_FILES_MAX, SYNC_FILES_MAX};
use crate::drivers::store::threads::lock;

/// How the manifest's files are named below the folder.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    /// The only file, under this name.
    One(PathBuf),
    /// Each under its path in the manifest.
    Paths,
    /// Each under its content id; equal contents share a file.
    Contents,
}

pub(crate) struct FileSet {
    manifest: Manifest,
    /// What the files lie on.
    kind: FileSystem,
    /// Opened before the first write, so that `syncfs` tells of every failure since.
    folder: Mutex<Arc<Folder>>,
    names: Mutex<Names>,
    /// Whether files may be made and written.
    writable: AtomicBool,
    open: Mutex<OpenFiles>,
    /// Folders with names that are not synced yet.
    new_names: Mutex<BTreeSet<PathBuf>>,
    /// Calls of fdatasync, fsync and syncfs.
    pub syncs: AtomicU64,
    /// Makes the next sync fail.
    #[cfg(test)]
    pub fail_sync: AtomicBool,
    /// Makes writes fail with this error number.
    #[cfg(test)]
    pub fail_write: std::sync::atomic::AtomicI32,
}

#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<u32, (u64, Arc<File>)>,
    /// Rises with each use; the lowest goes first.
    uses: u64,
}

/// Files with unsynced bytes. The descriptors stay open until the sync, since an error may be told to them alone;
/// beyond [`SYNC_FILES_MAX`] the file system as a whole is synced, which remembers errors of closed files too.
#[derive(Default)]
pub(crate) struct Dirty(BTreeMap<u32, Option<Arc<File>>>);

impl Dirty {
    pub fn add(&mut self, file: u32, open: &Arc<File>) {
        let room = self.0.len() < SYNC_FILES_MAX;
        self.0.entry(file).or_insert_with(|| room.then(|| Arc::clone(open)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn files(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.keys().copied()
    }
}

/// As far as it matters how files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSystem {
    /// tmpfs and its like.
    Memory,
    Other,
}

impl FileSystem {
    fn of(folder: &Folder) -> Self {
        const TMPFS: u64 = 0x0102_1994;
        const RAMFS: u64 = 0x8584_58f6;
        let Ok(found) = rustix::fs::fstatfs(folder.file()) else { return Self::Other };
        match u64::try_from(found.f_type).unwrap_or_default() & 0xffff_ffff {
            TMPFS | RAMFS => Self::Memory,
            _ => Self::Other,
        }
    }
}

impl FileSet {
    pub fn new(manifest: Manifest, folder: Folder, names: Names, writable: bool) -> Self {
        let kind = FileSystem::of(&folder);
        Self {
            manifest,
            kind,
            folder: Mutex::new(Arc::new(folder)),
            names: Mutex::new(names),
            writable: AtomicBool::new(writable),
            open: Mutex::default(),
            new_names: Mutex::default(),
            syncs: AtomicU64::new(0),
            #[cfg(test)]
            fail_sync: AtomicBool::new(false),
            #[cfg(test)]
            fail_write: std::sync::atomic::AtomicI32::new(0),
        }
    }

    pub fn folder(&self) -> Arc<Folder> {
        Arc::clone(&lock(&self.folder))
    }

    /// Whether files may be written.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Whether the files lie in memory, so that reading them never waits for a disk.
    pub fn in_memory(&self) -> bool {
        self.kind == FileSystem::Memory
    }

    pub fn entry(&self, file: u32) -> Result<&FileEntry, Error> {
        let entry = usize::try_from(file).ok().and_then(|file| self.manifest.files().get(file));
        entry.ok_or_else(|| Error::Missing { path: self.folder().path().to_owned() })
    }

    /// Name of a file below the folder.
    pub fn name(&self, file: u32) -> Result<PathBuf, Error> {
        let entry = self.entry(file)?;
        Ok(match &*lock(&self.names) {
            Names::One(name) => name.clone(),
            Names::Paths => entry.path.to_path_buf(),
            Names::Contents => entry.content_id.to_string().into(),
        })
    }

    /// Path of a file, for messages.
    pub fn path(&self, file: u32) -> PathBuf {
        let folder = self.folder();
        self.name(file).map_or_else(|_| folder.path().to_owned(), |name| folder.path().join(name))
    }

    pub fn stat(&self, file: u32) -> Result<Option<Found>, Error> {
        self.folder().stat(&self.name(file)?).map_err(|source| Error::io("examine", self.path(file), source))
    }

    /// The file for reading (and writing, where this set may); not made if missing.
    pub fn open(&self, file: u32) -> Result<Arc<File>, Error> {
        if let Some(open) = self.known(file) {
            return Ok(open);
        }
        let name = self.name(file)?;
        let access = if self.writable.load(Ordering::Relaxed) { Access::ReadWrite } else { Access::Read };
        let opened = self.folder().open_file(&name, access);
        let opened = opened.map_err(|source| self.refused("open", file, source))?;
        self.keep(file, opened)
    }

    /// The file for writing, made at full length if missing.
    pub fn open_or_create(&self, file: u32) -> Result<Arc<File>, Error> {
        if let Some(open) = self.known(file) {
            return Ok(open);
        }
        let name = self.name(file)?;
        let entry = self.entry(file)?;
        let (file_mode, folder_mode) = match &*lock(&self.names) {
            Names::Paths => (if entry.executable { 0o777 } else { 0o666 }, 0o777),
            _ => (PRIVATE_FILE, 0o700),
        };
        let folder = self.folder();
        let refuse = |source| Error::io(CREATE, self.path(file), source);
        // A file that is written to is new more often than not, and its folder is there: of thousands of small ones each
        // look beforehand counts.
        let mut made = Vec::new();
        let mut created = folder.open_file(&name, Access::Create(file_mode));
        if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            made = folder.make_parents(&name, folder_mode).map_err(refuse)?;
            created = folder.open_file(&name, Access::Create(file_mode));
        }
        let created = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return self.open(file),
            other => other.map_err(refuse)?,
        };
        {
            let mut new_names = lock(&self.new_names);
            for name in made.iter().chain([&name]) {
                let parent = name.parent().unwrap_or(Path::new(""));
                if !new_names.contains(parent) {
                    new_names.insert(parent.to_owned());
                }
            }
        }
        if entry.length > BLOCK_BYTES {
            self.allocate(file, &created)?;
        }
        Ok(self.keep_new(file, created))
    }

    /// Gives a new file its full length, and its blocks where the file system can: a full disk is told before the first
    /// byte, and writing is quicker. Not in memory, where it would only move the cost to before the first byte.
    pub fn allocate(&self, file: u32, open: &File) -> Result<(), Error> {
        let length = self.entry(file)?.length;
        let refuse = |source| Error::io("extend", self.path(file), source);
        if length > 0 && !self.in_memory() {
            let whole = || rustix::fs::fallocate(open, FallocateFlags::empty(), 0, length);
            match rustix::io::retry_on_intr(whole) {
                Ok(()) => return Ok(()),
                // Not every file system can, and not every sandbox lets it.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(refuse(errno.into())),
            }
        }
        open.set_len(length).map_err(refuse)
    }

    /// Has the kernel begin to write a file's pages. It says nothing of success: only [`FileSet::sync`] does.
    pub fn write_back(&self, open: &File) {
        #[cfg(target_os = "linux")]
        if !self.in_memory() {
            // SAFETY: an open descriptor and plain numbers; the call touches no memory of ours.
            let _ = unsafe { libc::sync_file_range(open.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    /// The file, if it is open.
    pub fn known(&self, file: u32) -> Option<Arc<File>> {
        let mut open = lock(&self.open);
        open.uses += 1;
        let uses = open.uses;
        let (used, file) = open.files.get_mut(&file)?;
        *used = uses;
        Some(Arc::clone(file))
    }

    fn keep(&self, file: u32, opened: File) -> Result<Arc<File>, Error> {
        if self.writable.load(Ordering::Relaxed) {
            let metadata = opened.metadata().map_err(|source| Error::io("examine", self.path(file), source))?;
            // A second name could be someone's way to have another file written.
            if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
                let (expected, found) = ("a file with one name", "a file with several names");
                return Err(Error::WrongKind { path: self.path(file), expected, found });
            }
        }
        Ok(self.keep_new(file, opened))
    }

    /// Keeps a file that this process has just made.
    fn keep_new(&self, file: u32, opened: File) -> Arc<File> {
        let opened = Arc::new(opened);
        let mut open = lock(&self.open);
        open.uses += 1;
        let uses = open.uses;
        open.files.insert(file, (uses, Arc::clone(&opened)));
        if open.files.len() > OPEN_FILES_MAX {
            let oldest = open.files.iter().min_by_key(|(_, (used, _))| *used).map(|(file, _)| *file);
            if let Some(oldest) = oldest {
                open.files.remove(&oldest);
            }
        }
        opened
    }

    /// Takes an open file as one of the set.
    pub fn adopt(&self, file: u32, opened: File) -> Result<(), Error> {
        self.keep(file, opened).map(|_| ())
    }

    fn refused(&self, doing: &'static str, file: u32, source: io::Error) -> Error {
        let path = self.path(file);
        if source.kind() == io::ErrorKind::NotFound {
            return Error::Missing { path };
        }
        if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            let (expected, found) = ("a file", "a link or something else");
            return Error::WrongKind { path, expected, found };
        }
        Error::io(doing, path, source)
    }

    /// Closes what is open; descriptors in use live on until their users are done.
    pub fn close(&self) {
        lock(&self.open).files.clear();
    }

    /// After a failed sync: every descriptor is given up, the folder's too, since what they report next means nothing.
    pub fn reopen(&self) -> Result<(), Error> {
        self.close();
        let old = self.folder();
        let again = old.reopen().map_err(|source| Error::io("open again", old.path(), source))?;
        *lock(&self.folder) = Arc::new(again);
        Ok(())
    }

    /// Writes at a place, through the C library, however many calls it takes.
    pub fn write(&self, file: u32, open: &File, bytes: &[u8], offset: u64) -> Result<(), Error> {
        #[cfg(test)]
        if let errno @ 1.. = self.fail_write.load(Ordering::Relaxed) {
            return Err(Error::io("write", self.path(file), io::Error::from_raw_os_error(errno)));
        }
        std::os::unix::fs::FileExt::write_all_at(open, bytes, offset)
            .map_err(|source| Error::io("write", self.path(file), source))
    }

    /// Makes the bytes of `dirty` and all new names durable. After an error nothing is known of any of them.
    pub fn sync(&self, dirty: &Dirty) -> Result<(), Error> {
        let names = std::mem::take(&mut *lock(&self.new_names));
        let synced = self.sync_all(dirty, &names);
        if synced.is_err() {
            lock(&self.new_names).extend(names);
        }
        synced
    }

    fn sync_all(&self, dirty: &Dirty, names: &BTreeSet<PathBuf>) -> Result<(), Error> {
        let folder = self.folder();
        #[cfg(test)]
        if !dirty.is_empty() && self.fail_sync.swap(false, Ordering::Relaxed) {
            return Err(Error::io("sync", folder.path(), io::Error::from_raw_os_error(libc::EIO)));
        }
        let count = |calls: u64| self.syncs.fetch_add(calls, Ordering::Relaxed);
        let open: Option<Vec<_>> = dirty.0.iter().map(|(file, open)| Some((*file, open.as_ref()?))).collect();
        if let Some(open) = open.filter(|open| open.len().saturating_add(names.len()) <= SYNC_FILES_MAX) {
            for (file, open) in open {
                count(1);
                open.sync_data().map_err(|source| Error::io("sync", self.path(file), source))?;
            }
            for name in names {
                count(1);
                let synced = if name.as_os_str().is_empty() {
                    folder.sync()
                } else {
                    folder.open_below(name).and_then(|below| below.sync())
                };
                synced.map_err(|source| Error::io("sync the folder", folder.path().join(name), source))?;
            }
            return Ok(());
        }
        count(1);
        rustix::io::retry_on_intr(|| rustix::fs::syncfs(folder.file()))
            .map_err(|errno| Error::io("sync the file system of", folder.path(), errno))
    }

    /// From now on the files are only read, under a new name: the only file's, or that of the folder.
    pub fn settle(&self, parent: &Folder, name: &Path) {
        self.writable.store(false, Ordering::Relaxed);
        let mut names = lock(&self.names);
        if let Names::One(known) = &mut *names {
            name.clone_into(known);
        } else if let Ok(folder) = parent.open_below(name) {
            // The folder is the same one; only messages would still show its old name.
            *lock(&self.folder) = Arc::new(folder);
        }
    }

    /// Looks for room for what is missing, so that a full disk is told before the first byte. Blocks that were allocated
    /// for it already count.
    pub fn reserve(&self, missing: u64) -> Result<(), Error> {
        let folder = self.folder();
        let held = self.manifest.layout().total_bytes().saturating_sub(missing);
        let missing = missing.saturating_sub(self.allocated().saturating_sub(held));
        let space = rustix::fs::fstatvfs(folder.file())
            .map_err(|errno| Error::io("ask for the free space of", folder.path(), errno))?;
        let available = space.f_bavail.saturating_mul(space.f_frsize);
        if available < missing {
            return Err(Error::NotEnoughSpace { path: self.path(0), needed: missing, available });
        }
        Ok(())
    }

    /// Bytes on disk of the files that are allocated as a whole.
    fn allocated(&self) -> u64 {
        let large = (0u32..).zip(self.manifest.files()).filter(|(_, entry)| entry.length > BLOCK_BYTES);
        let bytes = large.filter_map(|(file, _)| Some(self.stat(file).ok()??.bytes_on_disk));
        bytes.fold(0, u64::saturating_add)
    }
}

/// Whether the file is still the one that `folder` has under `name`.
pub(crate) fn is_same(folder: &Folder, name: &Path, open: &File) -> io::Result<bool> {
    let stamp = stamp_of(open)?;
    let found = folder.stat(name)?.map(|found| (found.stamp.device, found.stamp.inode));
    Ok(found == Some((stamp.device, stamp.inode)))
}
