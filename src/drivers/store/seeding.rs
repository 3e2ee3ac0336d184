//! [`Seeding`]: files served where they lie. Nothing is written, copied or remembered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::engine::{Committed, Engine, PutOutcome, Stats};
use crate::drivers::store::error::{CommitFailure, Error, ReadError};
use crate::drivers::store::files::{FileSet, Names};
use crate::drivers::store::folder::{FileKind, Folder};
use crate::drivers::store::pool::BlockBuf;
use crate::drivers::store::threads::lock;
use crate::drivers::store::{Finished, PieceStore};

/// A published file or folder, served as it is. Every piece is checked before its first serving, and again after its
/// file changed; a wrong one counts as lost from then on.
pub struct Seeding {
    engine: Engine,
}

impl Seeding {
    /// Looks at every file's kind and length at once, and at its bytes when they are first asked for. Opens few files
    /// at a time, however many there are.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::WrongLength`], [`Error::WrongKind`], each with the file.
    pub fn open(path: &Path, manifest: Manifest) -> Result<Self, Error> {
        let absolute = path.canonicalize().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
            _ => Error::io("open", path, source),
        })?;
        let (folder, names) = if manifest.is_directory() {
            if !absolute.is_dir() {
                let (expected, found) = (FileKind::Folder.name(), "no folder");
                return Err(Error::WrongKind { path: absolute, expected, found });
            }
            (Folder::open(&absolute)?, Names::Paths)
        } else {
            let bad = || Error::WrongKind { path: absolute.clone(), expected: "a file", found: "a folder" };
            let (parent, name) = (absolute.parent().ok_or_else(bad)?, absolute.file_name().ok_or_else(bad)?);
            (Folder::open(parent)?, Names::One(PathBuf::from(name)))
        };
        let files = FileSet::new(manifest.clone(), folder, names, false);
        check_shape(&files, &manifest)?;
        let engine = Engine::new(manifest.clone(), files, None, None);
        {
            let mut inner = lock(&engine.inner);
            inner.held = Bitfield::all(manifest.layout().piece_count());
            (inner.settled, inner.finished) = (true, true);
        }
        Ok(Self { engine })
    }
}

/// Kind and length of every file, as the manifest says.
pub(crate) fn check_shape(files: &FileSet, manifest: &Manifest) -> Result<(), Error> {
    for (file, entry) in (0u32..).zip(manifest.files()) {
        let missing = || Error::Missing { path: files.path(file) };
        let found = match files.stat(file) {
            Ok(found) => found.ok_or_else(missing)?,
            // A link or a file where a folder should be, on the way to it.
            Err(Error::Io { source, path, .. })
                if matches!(source.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) =>
            {
                return Err(Error::WrongKind { path, expected: "below folders", found: "below a link or file" });
            }
            Err(error) => return Err(error),
        };
        if found.kind != FileKind::File {
            let (expected, found) = (FileKind::File.name(), found.kind.name());
            return Err(Error::WrongKind { path: files.path(file), expected, found });
        }
        if found.stamp.size != entry.length {
            let (expected, found) = (entry.length, found.stamp.size);
            return Err(Error::WrongLength { path: files.path(file), expected, found });
        }
    }
    Ok(())
}

impl PieceStore for Seeding {
    fn manifest(&self) -> &Manifest {
        &self.engine.manifest
    }

    fn held(&self) -> Bitfield {
        self.engine.held()
    }

    fn partial(&self) -> Vec<(PieceIndex, Vec<BlockIndex>)> {
        Vec::new()
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
        false
    }

    fn commit(&self) -> Result<Committed, CommitFailure> {
        Ok(Committed::default())
    }

    fn finish(&self) -> Result<Finished, CommitFailure> {
        Ok(Finished::InPlace)
    }

    fn close(&self) -> Result<(), CommitFailure> {
        self.engine.files.close();
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
