//! Where a download goes: the destination, the name of its partial data, and the folder that remembers it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::drivers::store::error::{CREATE, Error};
use crate::drivers::store::folder::{Folder, Found, PRIVATE_FOLDER, TEMPORARY};
use crate::drivers::store::record::{CLAIM_FILE, Claim, RECORD_FILE, Record};
use crate::drivers::store::state_dir::StateDir;

/// Folder of the state folder that holds one folder a download.
pub(crate) const DOWNLOADS: &str = "downloads";
/// Ending of partial data.
pub(crate) const PARTIAL: &str = ".part";

/// A destination, its folder open.
pub(crate) struct Place {
    pub parent: Folder,
    /// Absolute, its folder resolved.
    pub out: PathBuf,
    pub out_name: PathBuf,
    pub part_name: PathBuf,
}

impl Place {
    pub fn of(out: &Path) -> Result<Self, Error> {
        let bad = || Error::BadDestination { path: out.to_owned() };
        let absolute = std::path::absolute(out).map_err(|_| bad())?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Err(bad()) };
        let parent = parent.canonicalize().map_err(|source| Error::CannotCreate { path: parent.to_owned(), source })?;
        let mut part_name = name.to_owned();
        part_name.push(PARTIAL);
        let folder = Folder::open(&parent)?;
        Ok(Self { parent: folder, out: parent.join(name), out_name: name.into(), part_name: part_name.into() })
    }

    pub fn part(&self) -> PathBuf {
        self.parent.path().join(&self.part_name)
    }

    pub fn stat(&self, name: &Path) -> Result<Option<Found>, Error> {
        self.parent.stat(name).map_err(|source| Error::io("examine", self.parent.path().join(name), source))
    }
}

/// What is remembered of a download, locked against every other process. The lock is on the folder itself.
pub(crate) struct Job {
    pub folder: Folder,
    downloads: Folder,
    name: PathBuf,
}

/// What an earlier run left in a job's folder.
#[derive(Debug)]
pub(crate) enum Left<T> {
    Nothing,
    Whole(T),
    /// Torn or of another version.
    Unreadable,
}

impl<T> Left<T> {
    fn of(read: Result<Option<T>, Result<String, Error>>, what: &'static str) -> Result<Self, Error> {
        match read {
            Ok(None) => Ok(Self::Nothing),
            Ok(Some(whole)) => Ok(Self::Whole(whole)),
            Err(Ok(reason)) => {
                tracing::warn!(what, reason, "a file of the store cannot be read");
                Ok(Self::Unreadable)
            }
            Err(Err(error)) => Err(error),
        }
    }

    pub fn whole(self) -> Option<T> {
        match self {
            Self::Whole(whole) => Some(whole),
            _ => None,
        }
    }
}

impl Job {
    /// Opens the folder of a destination, made if missing, and takes its lock.
    pub fn lock(state: &StateDir, out: &Path) -> Result<Self, Error> {
        let refuse = |source| Error::io(CREATE, state.path().join(DOWNLOADS), source);
        state.folder().make_folder(Path::new(DOWNLOADS), PRIVATE_FOLDER).map_err(refuse)?;
        let downloads = state.folder().open_below(Path::new(DOWNLOADS)).map_err(refuse)?;
        let hash = blake3::hash(std::os::unix::ffi::OsStrExt::as_bytes(out.as_os_str()));
        let name = PathBuf::from(hash.to_hex().as_str());
        loop {
            downloads.make_folder(&name, PRIVATE_FOLDER).map_err(refuse)?;
            let folder = match downloads.open_below(&name) {
                Ok(folder) => folder,
                // Its owner finished and removed it in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(refuse(error)),
            };
            match lock_folder(&folder, &downloads, &name) {
                Ok(true) => {
                    let job = Self { folder, downloads, name };
                    job.remove_leftovers()?;
                    return Ok(job);
                }
                Ok(false) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path: out.to_owned() }),
                Err(errno) => return Err(Error::io("lock", folder.path(), errno)),
            }
        }
    }

    /// Files that a crash left half-written.
    fn remove_leftovers(&self) -> Result<(), Error> {
        for name in [CLAIM_FILE, RECORD_FILE] {
            let name = PathBuf::from(format!("{name}{TEMPORARY}"));
            let removed = self.folder.remove_file(&name);
            removed.map_err(|source| Error::io("remove", self.folder.path().join(&name), source))?;
        }
        Ok(())
    }

    pub fn claim(&self) -> Result<Left<Claim>, Error> {
        Left::of(Claim::read(&self.folder), "claim")
    }

    pub fn record(&self) -> Result<Left<Record>, Error> {
        Left::of(Record::read(&self.folder), "state")
    }

    /// Forgets what is remembered; the record first, so that no record is left without its claim.
    pub fn clear(&self) -> Result<(), Error> {
        for name in [RECORD_FILE, CLAIM_FILE].map(Path::new) {
            let removed = self.folder.remove_file(name);
            removed.map_err(|source| Error::io("remove", self.folder.path().join(name), source))?;
        }
        Ok(())
    }

    /// Leaves no empty folder behind where a refused download was never begun.
    pub fn remove_if_empty(&self, claim: &Left<Claim>) {
        if matches!(claim, Left::Nothing) {
            self.remove();
        }
    }

    /// Forgets the download and its folder. What stays behind after an error is mended by the next opening.
    pub fn remove(&self) {
        let removed = self.clear().map_err(|error| error.to_string());
        let removed =
            removed.and_then(|()| self.downloads.remove_folder(&self.name).map_err(|error| error.to_string()));
        if let Err(reason) = removed {
            tracing::warn!(folder = %self.folder.path().display(), reason, "the state of a finished download stays behind");
        }
    }
}

/// Takes the lock of an open folder; false where the folder was removed meanwhile.
pub(crate) fn lock_folder(folder: &Folder, parent: &Folder, name: &Path) -> Result<bool, Errno> {
    rustix::fs::flock(folder.file(), FlockOperation::NonBlockingLockExclusive)?;
    let same = crate::drivers::store::files::is_same(parent, name, folder.file());
    same.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// What the process masks from the modes of new files. Read from the kernel's own account, since asking by `umask(2)`
/// changes it for every thread.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Where there is no /proc, nobody else gets the file.
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o077)
}
