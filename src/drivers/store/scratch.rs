//! [`Scratch`]: a content on its way through this process, in a file that has no name. Whatever ends the process, nothing
//! is left of it, and nothing is remembered.

use std::path::PathBuf;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::engine::{Committed, Engine, PutOutcome, Stats};
use crate::drivers::store::error::{CREATE, CommitFailure, Error, ReadError};
use crate::drivers::store::files::{FileSet, Names};
use crate::drivers::store::folder::{Access, PRIVATE_FILE};
use crate::drivers::store::pool::BlockBuf;
use crate::drivers::store::state_dir::StateDir;
use crate::drivers::store::threads::lock;
use crate::drivers::store::{Finished, PieceStore};

/// The pieces of one file, kept while somebody reads them. Nothing of it is durable, and nothing needs to be.
pub struct Scratch {
    engine: Engine,
}

impl Scratch {
    /// Makes an empty file in the state folder, as long as the content, and takes its name away. Any file system will do,
    /// but one in memory would hold the whole content there.
    ///
    /// # Errors
    /// [`Error::NotEnoughSpace`] before anything is written; [`Error::CannotCreate`]; [`Error::WrongKind`] for a manifest
    /// of several files, which no single stream can carry.
    pub fn create(state: &StateDir, manifest: Manifest) -> Result<Self, Error> {
        let name = PathBuf::from(format!("stream.{}.part", std::process::id()));
        let path = state.path().join(&name);
        if manifest.is_directory() || manifest.files().len() != 1 {
            return Err(Error::WrongKind { path, expected: "a manifest of one file", found: "one of several" });
        }
        let folder = state.folder();
        let refuse = |source| Error::io(CREATE, &path, source);
        // Left by a process of the same number that ended between the next two calls.
        folder.remove_file(&name).map_err(refuse)?;
        let file = folder.open_file(&name, Access::Create(PRIVATE_FILE)).map_err(refuse)?;
        folder.remove_file(&name).map_err(refuse)?;
        let files = FileSet::new(manifest.clone(), folder.reopen().map_err(refuse)?, Names::One(name), true);
        let engine = Engine::new(manifest, files, None, None);
        engine.files.reserve(engine.missing_bytes())?;
        engine.files.allocate(0, &file)?;
        engine.files.adopt(0, file)?;
        Ok(Self { engine })
    }
}

impl PieceStore for Scratch {
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
        self.engine.forget_history();
        Ok(Committed::default())
    }

    fn finish(&self) -> Result<Finished, CommitFailure> {
        self.engine.forget_history();
        let mut inner = lock(&self.engine.inner);
        let missing = u32::try_from(inner.held.iter_missing().count()).unwrap_or(u32::MAX);
        if missing > 0 {
            return Err(Error::Incomplete { path: self.engine.files.path(0), missing }.into());
        }
        inner.finished = true;
        Ok(Finished::InPlace)
    }

    fn close(&self) -> Result<(), CommitFailure> {
        lock(&self.engine.inner).closed = true;
        self.engine.files.close();
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}
