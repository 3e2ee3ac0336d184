//! Verified bytes on disk, and the little that a node must remember between runs.
//!
//! A [`PieceStore`] takes [`VerifiedBlock`]s only, writes each to its place, and gives out only what this process wrote
//! or hashed itself. [`Download`] writes beside its destination, [`Cache`] into the daemon's own folder, [`Scratch`]
//! into a file without a name, [`Seeding`] serves files where they lie; the four share one engine. Everything here is synchronous and belongs on the
//! [`DiskThreads`]. The store never asks where bytes came from, never decides what to fetch, and keeps no word that it
//! has not synced first.
//!
//! Read `engine` first, then `recover` and `restore` (what failures and crashes cost), then `download`.

use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;

pub mod cache;
pub mod care;
pub mod check;
pub mod download;
pub mod engine;
pub mod error;
mod files;
mod folder;
pub mod limits;
mod made;
mod place;
pub mod pool;
pub mod read;
mod record;
mod recover;
mod restore;
mod scratch;
mod sealed;
pub mod seeding;
pub mod state_dir;
#[cfg(test)]
mod tests;
pub mod threads;

pub use crate::drivers::store::cache::{Cache, CacheDescription, CacheEntry, CacheLimits, CacheListing};
pub use crate::drivers::store::care::{CacheCheck, CacheSpace};
pub use crate::drivers::store::check::{Report, check_state_dir};
pub use crate::drivers::store::download::{Download, DownloadOptions, Opened};
pub use crate::drivers::store::engine::{Committed, PutOutcome, Stats};
pub use crate::drivers::store::error::{CommitFailure, Error, ReadError};
pub use crate::drivers::store::pool::{BlockBuf, BlockPool};
pub use crate::drivers::store::read::Progress;
#[doc(hidden)]
pub use crate::drivers::store::record::{probe, probe_bodies};
pub use crate::drivers::store::scratch::Scratch;
pub use crate::drivers::store::seeding::Seeding;
pub use crate::drivers::store::state_dir::{StateDir, StateLock, fresh_identity};
pub use crate::drivers::store::threads::DiskThreads;

/// What `finish` came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// Every byte is right, durable, and where it belongs. Reading goes on.
    InPlace,
    /// These pieces, held from an earlier run, turned out wrong on disk; they must be fetched again.
    Lost(Vec<PieceIndex>),
}

/// The pieces of one manifest on disk. All calls are synchronous and may wait for the disk, but for
/// [`PieceStore::read_cached`]: call them on disk threads.
/// They may be made from several threads at once.
pub trait PieceStore: Send + Sync {
    /// Whose pieces these are.
    fn manifest(&self) -> &Manifest;

    /// Pieces whose every block is verified and written, durable or not yet.
    fn held(&self) -> Bitfield;

    /// Verified blocks of pieces that are not whole yet.
    fn partial(&self) -> Vec<(PieceIndex, Vec<BlockIndex>)>;

    /// Writes a proven block to its place. After an error the block is not held, whatever reached the disk.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]; [`Error::ReadOnly`] where nothing is written at all.
    fn put(&self, block: VerifiedBlock<BlockBuf>) -> Result<PutOutcome, Error>;

    /// Fills `buffer` from a held block's bytes, from its byte `from` on. A piece is hashed before its first serving, and
    /// again after its file changed under the store.
    ///
    /// # Errors
    /// [`ReadError`]; where [`ReadError::lost`] names a piece, it is not held any more. [`ReadError::NoSuchBlock`] where
    /// the block ends before the buffer does.
    fn read(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// The same without ever waiting, so on any thread: `false` where the piece must be checked first, or the bytes are
    /// not in memory, or anything else is in the way. Then [`PieceStore::read`] on a disk thread is the way.
    fn read_cached(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> bool;

    /// Chaining values of a held piece's blocks, in order: what a receiver of a piece of several blocks needs.
    ///
    /// # Errors
    /// As [`PieceStore::read`].
    fn piece_proof(&self, piece: PieceIndex) -> Result<Arc<[[u8; 32]]>, ReadError>;

    /// Hashes a held piece as it lies, whatever was found before; a wrong one is not held any more. What was not in the page
    /// cache does not stay there. Returns the bytes read.
    ///
    /// # Errors
    /// As [`PieceStore::read`].
    fn check(&self, piece: PieceIndex) -> Result<u64, ReadError>;

    /// Whether so much, or for so long, was written that a commit should be made now; false while one is under way.
    fn commit_due(&self) -> bool;

    /// Makes durable what was written, then says so on disk.
    ///
    /// # Errors
    /// [`CommitFailure`]: its pieces are no longer held. What was committed before stands.
    fn commit(&self) -> Result<Committed, CommitFailure>;

    /// Once every piece is held: checks what an earlier run left, syncs, and gives the files their final names. May be
    /// called again after an error.
    ///
    /// # Errors
    /// [`CommitFailure`] with [`Error::Incomplete`], [`Error::DestinationExists`], or what the disk said.
    fn finish(&self) -> Result<Finished, CommitFailure>;

    /// Commits and marks the stop as a clean one. No block is taken afterwards.
    ///
    /// # Errors
    /// As [`PieceStore::commit`]; the stop is then an unclean one, which costs a few hashes.
    fn close(&self) -> Result<(), CommitFailure>;

    /// What was done since it was opened.
    fn stats(&self) -> Stats;
}
