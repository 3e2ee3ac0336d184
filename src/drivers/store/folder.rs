//! [`Folder`]: names below one open folder, of which nothing leads out: no `..`, no symlink at any component.
//!
//! Everything the store opens, makes or renames goes through here, relative to an open descriptor, so that a link
//! planted between two steps is refused and not followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::drivers::store::error::{CREATE, Error};

/// What a file is and how it looked when last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// File system.
    pub device: u64,
    /// Number on it.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its bytes, seconds since the epoch.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: i64,
}

/// What [`Folder::stat`] finds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub stamp: Stamp,
    pub kind: FileKind,
    pub links: u64,
    pub owner: u32,
    pub bytes_on_disk: u64,
}

/// As far as the store tells files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    File,
    Folder,
    Link,
    Other,
}

impl FileKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Other => "a device, pipe or socket",
        }
    }
}

/// How [`Folder::open_file`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
    /// A new file for reading and writing, with this mode less the umask; fails where the name is taken.
    Create(u32),
}

/// Mode of what only this user may see.
pub(crate) const PRIVATE_FILE: u32 = 0o600;
/// Mode of folders that only this user may see.
pub(crate) const PRIVATE_FOLDER: u32 = 0o700;

/// Set once the kernel turned out to lack `openat2`, or a sandbox to forbid it.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// An open folder and its path for messages.
#[derive(Debug)]
pub(crate) struct Folder {
    file: File,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder by a path of the user's own, following links as the user meant them.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let file = opened.map_err(|errno| Error::io("open the folder", path, errno))?;
        Ok(Self { file: file.into(), path: path.to_owned() })
    }

    /// Opens a folder below this one.
    pub fn open_below(&self, name: &Path) -> io::Result<Self> {
        let file = self.open_raw(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { file, path: self.path.join(name) })
    }

    /// The same folder, opened anew.
    pub fn reopen(&self) -> io::Result<Self> {
        self.open_below(Path::new(".")).map(|again| Self { file: again.file, path: self.path.clone() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Opens a file; a symlink at any component is refused (`ELOOP`), and so is whatever is no regular file.
    pub fn open_file(&self, name: &Path, access: Access) -> io::Result<File> {
        let (flags, mode) = match access {
            Access::Read => (OFlags::RDONLY, 0),
            Access::ReadWrite => (OFlags::RDWR, 0),
            Access::Create(mode) => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode),
        };
        // Without NONBLOCK a pipe planted under the name would hold the thread.
        let file = self.open_raw(name, flags | OFlags::NONBLOCK, Mode::from_raw_mode(mode))?;
        // What was made just now is a file.
        if !matches!(access, Access::Create(_)) && !file.metadata()?.is_file() {
            return Err(Errno::LOOP.into());
        }
        Ok(file)
    }

    fn open_raw(&self, name: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let opened = retry_on_intr(|| match rustix::fs::openat2(&self.file, name, flags, mode, resolve) {
                // The kernel could not rule out a race with a rename: ask again.
                Err(Errno::AGAIN) => Err(Errno::INTR),
                other => other,
            });
            match opened {
                Ok(file) => return Ok(file.into()),
                Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let opened = self.open_by_steps(name, flags, mode)?;
        // It works step by step where it did not at once: the call itself is what is refused here.
        NO_OPENAT2.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    /// One component at a time, none of them a link: what `openat2` does at once.
    fn open_by_steps(&self, name: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
        let (parent, last) = self.parent_by_steps(name)?;
        let at = parent.as_ref().unwrap_or(&self.file);
        Ok(retry_on_intr(|| rustix::fs::openat(at, last, flags, mode))?.into())
    }

    /// The folder that holds the last component (`None`: this one), and that component.
    fn parent_by_steps<'a>(&self, name: &'a Path) -> io::Result<(Option<File>, &'a OsStr)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut parts = name.components();
        let last = match parts.next_back() {
            Some(Component::Normal(last)) => last,
            Some(Component::CurDir) if parts.clone().next().is_none() => OsStr::new("."),
            _ => return Err(Errno::INVAL.into()),
        };
        let mut parent: Option<File> = None;
        for part in parts {
            let Component::Normal(part) = part else { return Err(Errno::INVAL.into()) };
            let at = parent.as_ref().unwrap_or(&self.file);
            let next = retry_on_intr(|| rustix::fs::openat(at, part, flags, Mode::empty()))?;
            parent = Some(next.into());
        }
        Ok((parent, last))
    }

    /// What lies under a name, links not followed; `None` where nothing does.
    pub fn stat(&self, name: &Path) -> io::Result<Option<Found>> {
        let found = self.at_parent(name, |at, last| {
            let stat = retry_on_intr(|| rustix::fs::statat(at, last, AtFlags::SYMLINK_NOFOLLOW))?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => FileKind::File,
                FileType::Directory => FileKind::Folder,
                FileType::Symlink => FileKind::Link,
                _ => FileKind::Other,
            };
            // The fields' widths differ between architectures.
            #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
            let stamp = Stamp {
                device: stat.st_dev as u64,
                inode: stat.st_ino as u64,
                size: u64::try_from(stat.st_size).unwrap_or(0),
                seconds: stat.st_mtime as i64,
                nanoseconds: stat.st_mtime_nsec as i64,
            };
            let bytes_on_disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            #[allow(clippy::unnecessary_cast)]
            Ok(Found { stamp, kind, links: stat.st_nlink as u64, owner: stat.st_uid, bytes_on_disk })
        });
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the folders above a name, as far as they are missing; returns those made, as names below this folder.
    pub fn make_parents(&self, name: &Path, mode: u32) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(made) };
        match self.open_raw(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Ok(_) => return Ok(made),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut so_far = PathBuf::new();
        for part in parent.components() {
            so_far.push(part);
            if self.make_folder(&so_far, mode)? {
                made.push(so_far.clone());
            }
        }
        Ok(made)
    }

    /// Makes one folder; false where one is there already.
    pub fn make_folder(&self, name: &Path, mode: u32) -> io::Result<bool> {
        let made = self.at_parent(name, |at, last| {
            Ok(retry_on_intr(|| rustix::fs::mkdirat(at, last, Mode::from_raw_mode(mode)))?)
        });
        match made {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Opened, so that a link or a file under the name is not taken for the folder.
                self.open_raw(name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map(|_| false)
            }
            Err(error) => Err(error),
        }
    }

    /// Renames within this folder; refuses a taken name unless `replace`.
    pub fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        if replace {
            return Ok(retry_on_intr(|| rustix::fs::renameat(&self.file, from, &self.file, to))?);
        }
        let flags = RenameFlags::NOREPLACE;
        match retry_on_intr(|| rustix::fs::renameat_with(&self.file, from, &self.file, to, flags)) {
            // Some file systems know no flags; then looking first is the best there is.
            Err(Errno::INVAL | Errno::NOSYS) => match self.stat(to)? {
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => Ok(retry_on_intr(|| rustix::fs::renameat(&self.file, from, &self.file, to))?),
            },
            other => Ok(other?),
        }
    }

    /// Swaps two names within this folder at once.
    pub fn exchange(&self, one: &Path, two: &Path) -> io::Result<()> {
        let flags = RenameFlags::EXCHANGE;
        Ok(retry_on_intr(|| rustix::fs::renameat_with(&self.file, one, &self.file, two, flags))?)
    }

    /// Removes a file or link; one that is gone already is no error.
    pub fn remove_file(&self, name: &Path) -> io::Result<()> {
        let removed =
            self.at_parent(name, |at, last| Ok(retry_on_intr(|| rustix::fs::unlinkat(at, last, AtFlags::empty()))?));
        removed.or_else(forgive_missing)
    }

    /// Removes an empty folder; one that is gone already is no error.
    pub fn remove_folder(&self, name: &Path) -> io::Result<()> {
        let removed =
            self.at_parent(name, |at, last| Ok(retry_on_intr(|| rustix::fs::unlinkat(at, last, AtFlags::REMOVEDIR))?));
        removed.or_else(forgive_missing)
    }

    /// Removes a file, or a folder with all that is in it; links are removed, not followed.
    pub fn remove_all(&self, name: &Path) -> io::Result<()> {
        match self.stat(name)? {
            None => Ok(()),
            Some(found) if found.kind == FileKind::Folder => std::fs::remove_dir_all(self.path.join(name)),
            Some(_) => self.remove_file(name),
        }
    }

    /// Makes the folder's names durable; by a new descriptor each time, since one that failed is not to be believed.
    pub fn sync(&self) -> io::Result<()> {
        self.reopen()?.file.sync_all()
    }

    /// A whole small file; `None` where there is none. One longer than `max` is refused before it is read.
    pub fn read(&self, name: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= max) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes, at most {max} expected")));
        };
        let mut bytes = Vec::with_capacity(length);
        file.take(max as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Replaces a small file so that a crash leaves the old one or the new one, whole: write under another name, sync,
    /// rename, sync the folder. An error before the rename leaves the old one.
    pub fn replace(&self, name: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut temporary = name.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = Path::new(&temporary);
        let shown = self.path.join(temporary);
        let cleanup = |error| {
            // The error told is the first one; what is left over is removed at the next opening.
            let _ = self.remove_file(temporary);
            error
        };
        self.remove_file(temporary).map_err(|source| Error::io("remove", &shown, source))?;
        let mut file = self
            .open_file(temporary, Access::Create(PRIVATE_FILE))
            .map_err(|source| Error::io(CREATE, &shown, source))?;
        file.write_all(bytes).map_err(|source| cleanup(Error::io("write", &shown, source)))?;
        file.sync_all().map_err(|source| cleanup(Error::io("sync", &shown, source)))?;
        drop(file);
        self.rename(temporary, name, true).map_err(|source| cleanup(Error::io("rename into place", &shown, source)))?;
        self.sync().map_err(|source| Error::io("sync the folder", &self.path, source))
    }

    /// The names in it, sorted.
    pub fn names(&self) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(PathBuf::from(OsStr::from_bytes(name)));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Calls with the descriptor of the folder that holds the last component; its way there crosses no link.
    fn at_parent<T>(
        &self,
        name: &Path,
        call: impl FnOnce(rustix::fd::BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> io::Result<T> {
        let last = name.file_name().ok_or(Errno::INVAL)?;
        match name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            None => call(self.file.as_fd(), last),
            Some(parent) => {
                let parent = self.open_raw(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                call(parent.as_fd(), last)
            }
        }
    }
}

/// Ending of a file that is being written before it takes the place of another.
pub(crate) const TEMPORARY: &str = ".tmp";

fn forgive_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// How an open file looks now.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        seconds: metadata.mtime(),
        nanoseconds: metadata.mtime_nsec(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_at_any_component_is_refused() {
        let place = tempfile::tempdir().expect("folder");
        let outside = tempfile::tempdir().expect("folder");
        std::fs::create_dir_all(place.path().join("a/b")).expect("folders");
        std::fs::write(outside.path().join("f"), "untouched").expect("written");
        symlink(outside.path(), place.path().join("a/link")).expect("linked");
        symlink(outside.path().join("f"), place.path().join("a/b/f")).expect("linked");
        let folder = Folder::open(place.path()).expect("open");
        for name in ["a/link/f", "a/b/f", "a/link/new", "../x", "/etc/hostname", "a/../../x"] {
            let name = Path::new(name);
            for access in [Access::Read, Access::ReadWrite, Access::Create(PRIVATE_FILE)] {
                assert!(folder.open_file(name, access).is_err(), "{name:?} {access:?}");
                let (flags, mode) = (OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW, Mode::from_raw_mode(0o600));
                assert!(folder.open_by_steps(name, flags, mode).is_err(), "{name:?} step by step");
            }
        }
        assert!(folder.make_parents(Path::new("a/link/x/y"), PRIVATE_FOLDER).is_err());
        assert!(folder.remove_file(Path::new("a/link/f")).is_err());
        assert_eq!(std::fs::read(outside.path().join("f")).expect("there"), b"untouched");
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 1);
    }

    #[test]
    fn parents_are_made_once_and_files_are_replaced_whole() {
        let place = tempfile::tempdir().expect("folder");
        let folder = Folder::open(place.path()).expect("open");
        let name = Path::new("a/b/c");
        assert_eq!(folder.make_parents(name, PRIVATE_FOLDER).expect("made"), [Path::new("a"), Path::new("a/b")]);
        assert_eq!(folder.make_parents(name, PRIVATE_FOLDER).expect("there"), [] as [&Path; 0]);
        let inner = folder.open_below(Path::new("a/b")).expect("open");
        for bytes in [&b"first"[..], b"second"] {
            inner.replace(Path::new("c"), bytes).expect("replaced");
            assert_eq!(folder.read(name, 10).expect("read").as_deref(), Some(bytes));
        }
        assert_eq!(inner.names().expect("listed"), [Path::new("c")]);
        assert!(folder.read(name, 5).is_err());
        assert!(inner.rename(Path::new("c"), Path::new("c"), false).is_err());
    }
}
