//! What can go wrong with a disk, told with the path and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::content::layout::{BlockIndex, PieceIndex};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No space, no quota, or past the file size limit.
    #[error("cannot {doing} {}: {source}", path.display())]
    DiskFull {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Less space than the missing pieces need, found before anything was written.
    #[error("{} needs {needed} more bytes, its file system has {available}", path.display())]
    NotEnoughSpace {
        /// The destination.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// Descriptors or threads are used up.
    #[error("cannot {doing} {}: {source}", path.display())]
    ResourceRefused {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file or folder could not be made.
    #[error("cannot create {}: {source}", path.display())]
    CannotCreate {
        /// What.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Something else lies at the destination, or at the name of its partial data.
    #[error("{} exists and {reason}", path.display())]
    DestinationExists {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another process writes this content, or holds this folder.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The destination or folder.
        path: PathBuf,
    },
    /// A state folder that others may write, or that belongs to someone else.
    #[error("the state folder {} {reason}", path.display())]
    UnsafeState {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file to be served is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file to be served has another length than its manifest says.
    #[error("{} has {found} bytes; its manifest says {expected}", path.display())]
    WrongLength {
        /// Which.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A folder where a file should be, a link where neither may be, and the like.
    #[error("{} is {found}; expected {expected}", path.display())]
    WrongKind {
        /// Which.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// Both copies of a file that must not be forgotten are damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// A path that is not absolute, or names no file.
    #[error("{} is no place for a file", path.display())]
    BadDestination {
        /// As given.
        path: PathBuf,
    },
    /// A block proven by another manifest than this store's.
    #[error("the block belongs to manifest {found}, this store to {expected}")]
    ForeignBlock {
        /// This store's.
        expected: ManifestId,
        /// The block's.
        found: ManifestId,
    },
    /// The store has no such block.
    #[error("piece {} has no block {}", piece.0, block.0)]
    NoSuchBlock {
        /// Flat piece.
        piece: PieceIndex,
        /// Block.
        block: BlockIndex,
    },
    /// A block was offered to files that are only served.
    #[error("{} is served, not written", path.display())]
    ReadOnly {
        /// What is served.
        path: PathBuf,
    },
    /// The store was closed, or its writes can no longer be trusted.
    #[error("the store of {} is closed", path.display())]
    Closed {
        /// Which.
        path: PathBuf,
    },
    /// Pieces are missing still.
    #[error("{missing} pieces of {} are missing", path.display())]
    Incomplete {
        /// The destination.
        path: PathBuf,
        /// How many.
        missing: u32,
    },
    /// Nothing of this manifest is in the cache.
    #[error("the cache {} has no manifest {id}", path.display())]
    NoSuchEntry {
        /// The cache.
        path: PathBuf,
        /// Which.
        id: ManifestId,
    },
    /// A stored manifest no longer reads as one.
    #[error("the manifest in {} is damaged: {source}", path.display())]
    StoredManifest {
        /// The file.
        path: PathBuf,
        /// What the content room said.
        source: crate::content::error::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    NoEntropy(String),
    /// A job on a disk thread panicked; the thread goes on.
    #[error("a disk job failed inside: {0}")]
    JobPanicked(String),
    /// The disk threads were stopped.
    #[error("the disk threads were stopped")]
    Stopped,
}

impl Error {
    /// Sorts a system call's error by what can be done about it.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.into(), source.into());
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::DiskFull { doing, path, source },
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Self::ResourceRefused { doing, path, source },
            Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENAMETOOLONG) if doing == CREATE => {
                Self::CannotCreate { path, source }
            }
            _ => Self::Io { doing, path, source },
        }
    }

    /// The code word and exit code.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { .. } | Self::JobPanicked(_) | Self::Stopped | Self::Closed { .. } => Code::Io,
            Self::DiskFull { .. } | Self::NotEnoughSpace { .. } => Code::DiskFull,
            Self::ResourceRefused { .. } | Self::NoEntropy(_) => Code::ResourceRefused,
            Self::CannotCreate { .. } | Self::UnsafeState { .. } => Code::CannotCreate,
            Self::DestinationExists { .. } => Code::DestinationExists,
            Self::Locked { .. } => Code::Locked,
            Self::Missing { .. } | Self::NoSuchEntry { .. } => Code::InputMissing,
            Self::WrongLength { .. } => Code::WrongLength,
            Self::WrongKind { .. } => Code::ContentMismatch,
            Self::Damaged { .. } | Self::StoredManifest { .. } | Self::ForeignBlock { .. } => Code::StoreDamaged,
            Self::NoSuchBlock { .. } => Code::ContentMismatch,
            Self::BadDestination { .. } | Self::ReadOnly { .. } => Code::Usage,
            Self::Incomplete { .. } => Code::NoSource,
        }
    }

    /// What to do about it, as an imperative.
    pub fn remedy(&self) -> String {
        match self {
            Self::Io { path, .. } => {
                format!("check the disk under {} and the kernel's log, then run the same command again", path.display())
            }
            Self::DiskFull { path, .. } | Self::NotEnoughSpace { path, .. } => format!(
                "free space on the file system of {} (or raise its quota or size limit) and run again: what was \
                 verified is kept",
                path.display()
            ),
            Self::ResourceRefused { .. } => "raise the limit of open files (ulimit -n) or end other programs".into(),
            Self::CannotCreate { path, .. } => {
                format!("choose a place you may write, or ask for the rights to write {}", path.display())
            }
            Self::DestinationExists { path, .. } => {
                format!("move {} away, choose another name with -o, or replace it with --force", path.display())
            }
            Self::Locked { path } => {
                format!("wait for the other process that uses {}, or end it, and run again", path.display())
            }
            Self::UnsafeState { path, .. } => {
                format!(
                    "give {} to the user who runs piecework and `chmod 700` it, or name another --state",
                    path.display()
                )
            }
            Self::Missing { path } => format!("put {} back, or name the right path", path.display()),
            Self::WrongLength { path, .. } | Self::WrongKind { path, .. } => {
                format!("restore {} from the publication, or publish what is there now", path.display())
            }
            Self::Damaged { path, .. } => format!(
                "restore {} from a backup, or remove it knowing that older publications will be taken again",
                path.display()
            ),
            Self::BadDestination { .. } => "name a file with -o".into(),
            Self::StoredManifest { path, .. } => {
                format!("remove the folder of {} and fetch the content again", path.display())
            }
            Self::NoSuchEntry { .. } => "fetch the content first".into(),
            Self::Incomplete { .. } => {
                "run again when a peer or a source is reachable: what was verified is kept".into()
            }
            Self::ForeignBlock { .. } | Self::NoSuchBlock { .. } | Self::ReadOnly { .. } | Self::Closed { .. } => {
                "report this as a fault of piecework".into()
            }
            Self::NoEntropy(_) => "wait until the system has started up and try again".into(),
            Self::JobPanicked(_) | Self::Stopped => "run again and report this as a fault of piecework".into(),
        }
    }

    /// Whether the same call may succeed later without anyone's help.
    pub fn retry(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::NotEnoughSpace { .. } | Self::Locked { .. })
    }

    /// The path it is about, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::DiskFull { path, .. }
            | Self::NotEnoughSpace { path, .. }
            | Self::ResourceRefused { path, .. }
            | Self::CannotCreate { path, .. }
            | Self::DestinationExists { path, .. }
            | Self::Locked { path }
            | Self::UnsafeState { path, .. }
            | Self::Missing { path }
            | Self::WrongLength { path, .. }
            | Self::WrongKind { path, .. }
            | Self::Damaged { path, .. }
            | Self::BadDestination { path }
            | Self::ReadOnly { path }
            | Self::Closed { path }
            | Self::Incomplete { path, .. }
            | Self::NoSuchEntry { path, .. }
            | Self::StoredManifest { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// The verb by which [`Error::io`] tells a refusal to create from other failures.
pub(crate) const CREATE: &str = "create";

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The piece is not held (any more).
    #[error("piece {} is not held", piece.0)]
    NotHeld {
        /// Flat piece.
        piece: PieceIndex,
    },
    /// Its bytes on disk are not its own any more; it counts as lost from now on.
    #[error("piece {} rotted on disk", piece.0)]
    Rotten {
        /// Flat piece.
        piece: PieceIndex,
    },
    /// The disk would not give the bytes; the piece counts as lost from now on.
    #[error("piece {} cannot be read: {error}", piece.0)]
    Unreadable {
        /// Flat piece.
        piece: PieceIndex,
        /// Why.
        error: Error,
    },
    /// The file could not be opened just now, through no fault of its bytes (descriptors, memory); the piece stays held.
    #[error("piece {} cannot be opened now: {error}", piece.0)]
    Refused {
        /// Flat piece.
        piece: PieceIndex,
        /// Why.
        error: Error,
    },
    /// No such block, or a buffer of another length than the block's.
    #[error("block {} of piece {} has {expected:?} bytes, the buffer {found}", block.0, piece.0)]
    NoSuchBlock {
        /// Flat piece.
        piece: PieceIndex,
        /// Block.
        block: BlockIndex,
        /// Bytes of the block; `None`: there is no such block.
        expected: Option<u64>,
        /// Bytes of the buffer.
        found: usize,
    },
}

impl ReadError {
    /// The piece that the node must report as lost, if any.
    pub fn lost(&self) -> Option<PieceIndex> {
        match self {
            Self::Rotten { piece } | Self::Unreadable { piece, .. } => Some(*piece),
            _ => None,
        }
    }
}

/// A group commit that failed. What was committed before stands.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CommitFailure {
    /// What failed.
    pub error: Box<Error>,
    /// Pieces that were held and are not any more: their bytes may never have reached the disk.
    pub lost: Vec<PieceIndex>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_sorted_by_what_can_be_done() {
        for (errno, doing, code) in [
            (libc::ENOSPC, "write", Code::DiskFull),
            (libc::EDQUOT, "write", Code::DiskFull),
            (libc::EFBIG, "extend", Code::DiskFull),
            (libc::EIO, "sync", Code::Io),
            (libc::EMFILE, "open", Code::ResourceRefused),
            (libc::EACCES, CREATE, Code::CannotCreate),
            (libc::EACCES, "read", Code::Io),
            (libc::EROFS, CREATE, Code::CannotCreate),
        ] {
            let error = Error::io(doing, "/some/where", io::Error::from_raw_os_error(errno));
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains("/some/where") && !error.remedy().is_empty());
        }
    }
}
