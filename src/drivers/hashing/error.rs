//! What can go wrong between a file's first byte and its last.

use std::io;
use std::path::PathBuf;

use crate::content::code::Code;
use crate::content::hash::ContentId;
use crate::content::layout::TooLong;
use crate::content::path::PathFault;

/// A file or folder that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to open or read it.
    #[error("cannot read it")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its length, time or identity changed between the first byte and the last.
    #[error("it changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Longer than any content may be.
    #[error("{source}")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// By how much.
        source: TooLong,
    },
    /// Neither a file nor a folder: what it would give depends on who asks, and when.
    #[error("it is a {kind}; only files and folders can be published")]
    Special {
        /// The entry.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A name that is not safe on every system a receiver may have.
    #[error("its name cannot be published: {fault}")]
    Name {
        /// The entry.
        path: PathBuf,
        /// Why.
        fault: PathFault,
    },
    /// A name that is not UTF-8.
    #[error("its name is not UTF-8")]
    NotText {
        /// The entry.
        path: PathBuf,
    },
    /// More files than a manifest may list.
    #[error("the folder holds more than {max} files")]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// The system has no thread left.
    #[error("cannot start a thread")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// The file or folder meant.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Error::Read { path, .. }
            | Error::Changed { path }
            | Error::TooLong { path, .. }
            | Error::Special { path, .. }
            | Error::Name { path, .. }
            | Error::NotText { path }
            | Error::TooMany { path, .. } => Some(path),
            Error::Thread { .. } => None,
        }
    }

    /// What the system said, where it did, to follow the message.
    pub fn reason(&self) -> String {
        match self {
            Error::Read { source, .. } | Error::Thread { source } => format!(": {source}"),
            _ => String::new(),
        }
    }

    /// The code word for people and scripts.
    pub fn code(&self) -> Code {
        match self {
            Error::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => {
                    Code::InputMissing
                }
                _ => Code::Io,
            },
            Error::Changed { .. } => Code::Io,
            Error::TooLong { .. } | Error::Special { .. } | Error::TooMany { .. } => Code::BadInput,
            Error::Name { .. } | Error::NotText { .. } => Code::UnsafePath,
            Error::Thread { .. } => Code::ResourceRefused,
        }
    }
}

/// Why a file is not what its manifest describes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Shorter or longer.
    #[error("it should have {expected} bytes and has {found}")]
    Length {
        /// By the manifest.
        expected: u64,
        /// On the disk.
        found: u64,
    },
    /// Other bytes.
    #[error("its bytes are not those of the manifest{}", first_bad_piece.map_or(String::new(), |piece| format!("; the first wrong piece is {piece}")))]
    Content {
        /// The first piece whose hash differs, counted within the file; `None` where only the SHA-256 does.
        first_bad_piece: Option<u32>,
        /// BLAKE3 root by the manifest.
        expected: ContentId,
        /// BLAKE3 root of what lies there.
        found: ContentId,
    },
    /// A folder on the way to it is none, or a symbolic link that may lead anywhere.
    #[error("{} lies on the way to it and is no folder", folder.display())]
    Way {
        /// What lies there.
        folder: PathBuf,
    },
    /// It cannot be read to its end.
    #[error("{source}{}", source.reason())]
    Unreadable {
        /// Why.
        source: Error,
    },
}

impl VerifyError {
    /// The code word for people and scripts.
    pub fn code(&self) -> Code {
        match self {
            VerifyError::Length { .. } => Code::WrongLength,
            VerifyError::Content { .. } => Code::ContentMismatch,
            VerifyError::Way { .. } => Code::BadInput,
            VerifyError::Unreadable { source } => source.code(),
        }
    }
}
