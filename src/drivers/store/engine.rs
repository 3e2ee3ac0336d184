//! `Engine`: the pieces of one manifest on disk. `Download`, `CacheEntry` and `Seeding` are this with other places.
//!
//! Rules (security notes, crash model): bytes are synced before a record says so; a record is replaced whole; a failed
//! sync makes everything since the last good one unknown; a piece is hash-checked before this process first serves it.
//!
//! Locks, always in this order: `commits`, then `inner`. System calls happen outside `inner`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BLOCK_BYTES, BlockIndex, FilePlace, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::error::{CommitFailure, Error};
use crate::drivers::store::files::{Dirty, FileSet};
use crate::drivers::store::folder::{Folder, Stamp, stamp_of};
use crate::drivers::store::limits::{COMMIT_AFTER, COMMIT_BYTES, WRITE_BACK_BYTES, WRITE_TRIES};
use crate::drivers::store::record::Record;
use crate::drivers::store::threads::lock;

/// What became of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// Written; durable with the next commit.
    Stored {
        /// Whether every block of its piece is there now.
        piece_complete: bool,
    },
    /// It was there already; nothing was written.
    AlreadyHeld,
}

/// What a commit made durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Blocks that were not durable before.
    pub blocks: u64,
}

/// What a store did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks written.
    pub blocks_written: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Commits that wrote a record.
    pub commits: u64,
    /// Calls that waited for the disk, those for data only.
    pub syncs: u64,
    /// Pieces found rotten or unreadable.
    pub pieces_lost: u64,
}

pub(crate) struct Engine {
    pub(crate) manifest: Manifest,
    pub(crate) files: FileSet,
    /// Where the record lies; none where nothing is remembered beyond this process.
    record: Option<Folder>,
    /// Device and inode by which the data is known as ours.
    root: Option<(u64, u64)>,
    pub(crate) inner: Mutex<Inner>,
    /// Held while a commit, a recovery or a finish is under way.
    pub(crate) commits: Mutex<()>,
    /// Held by the thread that asks for write-back: it may have to wait for the disk, one at a time.
    write_back: Mutex<()>,
    pub(crate) proofs: Mutex<Proofs>,
}

pub(crate) struct Inner {
    /// Whole pieces whose every block was verified when it was written or since.
    pub held: Bitfield,
    /// Pieces that the record on disk names, or may name.
    pub durable: Bitfield,
    /// Pieces that this process wrote or checked: good to be served.
    pub checked: Bitfield,
    /// Pieces that are not durable as a whole, by flat index.
    pub progress: BTreeMap<u32, Progress>,
    /// Blocks written since the last commit began, and their bytes; since when the oldest waits.
    pub pending: Vec<(PieceIndex, BlockIndex)>,
    pub pending_bytes: u64,
    pub pending_since: Option<Instant>,
    /// Bytes written since write-back was last asked for.
    pub not_pushed: u64,
    pub dirty: Dirty,
    /// Pieces dropped while a commit was under way: what it synced of them says nothing.
    pub dropped: BTreeSet<u32>,
    /// Rises when descriptors are thrown away after a failed sync: a write begun before must be done again.
    pub epoch: u64,
    pub generation: u64,
    /// Whether the record on disk says more than is so.
    pub record_stale: bool,
    /// Whether the record on disk says that writing goes on.
    pub marked_open: bool,
    pub stamps: BTreeMap<u32, Stamp>,
    pub group: Vec<u32>,
    /// Complete, synced, and written no more: any change of a file's stamp is someone else's doing.
    pub settled: bool,
    /// Handed over under its final name: read from now on, never written.
    pub finished: bool,
    pub closed: bool,
    pub stats: Stats,
}

/// A piece under way; bit n of each mask is block n.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub written: u32,
    pub durable: u32,
    /// Written by this process.
    pub mine: u32,
    /// Chaining values of the blocks, for pieces of several.
    pub values: BTreeMap<u32, [u8; 32]>,
}

/// Chaining values of pieces served lately; first in, first out.
#[derive(Default)]
pub(crate) struct Proofs {
    pub values: BTreeMap<u32, Arc<[[u8; 32]]>>,
    pub order: std::collections::VecDeque<u32>,
}

/// Bit of a block in a mask.
pub(crate) fn bit(block: BlockIndex) -> u32 {
    1u32.checked_shl(block.0).unwrap_or(0)
}

/// Mask of all blocks of a piece of `count` blocks.
pub(crate) fn all_bits(count: u32) -> u32 {
    1u32.checked_shl(count).map_or(u32::MAX, |bit| bit - 1)
}

impl Inner {
    fn new(piece_count: u32) -> Self {
        Self {
            held: Bitfield::none(piece_count),
            durable: Bitfield::none(piece_count),
            checked: Bitfield::none(piece_count),
            progress: BTreeMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            pending_since: None,
            not_pushed: 0,
            dirty: Dirty::default(),
            dropped: BTreeSet::new(),
            epoch: 0,
            generation: 0,
            record_stale: false,
            marked_open: false,
            stamps: BTreeMap::new(),
            group: Vec::new(),
            settled: false,
            finished: false,
            closed: false,
            stats: Stats::default(),
        }
    }

    fn has_block(&self, piece: PieceIndex, block: BlockIndex) -> bool {
        self.held.has(piece) || self.progress.get(&piece.0).is_some_and(|progress| progress.written & bit(block) != 0)
    }

    /// Notes a written block; whether the piece is whole now.
    pub fn note_written(&mut self, block: &Written) -> bool {
        let all = all_bits(block.block_count);
        let progress = self.progress.entry(block.piece.0).or_default();
        progress.written |= bit(block.block);
        progress.mine |= bit(block.block);
        if let Some(value) = block.value {
            progress.values.insert(block.block.0, value);
        }
        let complete = progress.written == all;
        if complete {
            if progress.mine == all {
                self.checked.set(block.piece);
            }
            self.held.set(block.piece);
        }
        self.pending.push((block.piece, block.block));
        self.pending_bytes = self.pending_bytes.saturating_add(block.bytes);
        self.pending_since.get_or_insert_with(Instant::now);
        self.dirty.add(block.file, &block.open);
        complete
    }

    /// Forgets a piece altogether.
    pub fn drop_piece(&mut self, piece: PieceIndex) {
        self.held.clear(piece);
        self.checked.clear(piece);
        self.progress.remove(&piece.0);
        self.dropped.insert(piece.0);
        // A started piece of the record counts too, and cannot be told apart here.
        self.durable.clear(piece);
        self.record_stale = true;
        // What is only read stays as it is; what will be written again changes by our own doing.
        self.settled = self.finished;
    }
}

/// One block as it was written.
pub(crate) struct Written {
    pub piece: PieceIndex,
    pub block: BlockIndex,
    pub block_count: u32,
    pub value: Option<[u8; 32]>,
    pub bytes: u64,
    pub file: u32,
    pub open: Arc<File>,
}

/// What one commit takes on.
struct Batch {
    blocks: Vec<(PieceIndex, BlockIndex)>,
    bytes: u64,
    dirty: Dirty,
}

impl Engine {
    pub fn new(manifest: Manifest, files: FileSet, record: Option<Folder>, root: Option<(u64, u64)>) -> Self {
        let inner = Mutex::new(Inner::new(manifest.layout().piece_count()));
        let (commits, write_back) = (Mutex::new(()), Mutex::new(()));
        Self { manifest, files, record, root, inner, commits, write_back, proofs: Mutex::default() }
    }

    /// The path that names this store in messages.
    pub fn path(&self) -> PathBuf {
        match self.manifest.files() {
            [_] => self.files.path(0),
            _ => self.files.folder().path().to_owned(),
        }
    }

    /// The file of a flat piece, and the piece's index within it.
    pub fn locate(&self, piece: PieceIndex) -> Result<(FilePlace, PieceIndex), Error> {
        let located = self.manifest.layout().locate(piece).map(|(place, within)| (*place, within));
        located.ok_or(Error::NoSuchBlock { piece, block: BlockIndex(0) })
    }

    pub fn held(&self) -> Bitfield {
        lock(&self.inner).held.clone()
    }

    pub fn partial(&self) -> Vec<(PieceIndex, Vec<BlockIndex>)> {
        let inner = lock(&self.inner);
        let started = inner.progress.iter().filter(|(piece, _)| !inner.held.has(PieceIndex(**piece)));
        let blocks = |mask: u32| (0..u32::BITS).map(BlockIndex).filter(move |block| mask & bit(*block) != 0);
        started.map(|(piece, progress)| (PieceIndex(*piece), blocks(progress.written).collect())).collect()
    }

    pub fn stats(&self) -> Stats {
        let syncs = self.files.syncs.load(std::sync::atomic::Ordering::Relaxed);
        Stats { syncs, ..lock(&self.inner).stats }
    }

    /// Writes a proven block to its place. Nothing is noted on any error.
    pub fn put<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>) -> Result<PutOutcome, Error> {
        self.put_where(block, true)
    }

    /// As [`Engine::put`], for a block that was proven where it lies.
    pub fn adopt<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>) -> Result<PutOutcome, Error> {
        self.put_where(block, false)
    }

    fn put_where<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>, write: bool) -> Result<PutOutcome, Error> {
        let (expected, found) = (self.manifest.id(), block.manifest());
        if expected != found {
            return Err(Error::ForeignBlock { expected, found });
        }
        // A download is not written to either once it is whole, and is told of late blocks below.
        if self.record.is_none() && !self.files.is_writable() {
            return Err(Error::ReadOnly { path: self.path() });
        }
        let (piece, index) = (block.piece(), block.block());
        let block_count = self.manifest.layout().block_count(piece);
        let block_count = block_count.ok_or(Error::NoSuchBlock { piece, block: index })?;
        let value = (block_count > 1).then(|| *block.chaining_value());
        if !lock(&self.inner).finished {
            self.mark_open()?;
        }
        for _ in 0..WRITE_TRIES {
            let epoch = {
                let inner = lock(&self.inner);
                // First: what was asked for twice may come the second time after the end, and harms nothing.
                if inner.has_block(piece, index) {
                    return Ok(PutOutcome::AlreadyHeld);
                }
                if inner.closed {
                    return Err(Error::Closed { path: self.path() });
                }
                if inner.finished {
                    return Err(Error::ReadOnly { path: self.path() });
                }
                inner.epoch
            };
            let open = self.files.open_or_create(block.file())?;
            if write {
                self.files.write(block.file(), &open, block.bytes(), block.offset())?;
            }
            // Of a file of one block this is how it will look; others are looked at when they are synced.
            let stamp = if self.is_small(block.file()) { stamp_of(&open).ok() } else { None };
            let mut inner = lock(&self.inner);
            if inner.epoch != epoch {
                // A sync failed meanwhile: these bytes went to a descriptor that is believed no more.
                continue;
            }
            if inner.has_block(piece, index) {
                // It came twice at the same moment, and was written twice with the same bytes.
                return Ok(PutOutcome::AlreadyHeld);
            }
            let (bytes, file) = (block.bytes().len() as u64, block.file());
            let written = Written { piece, block: index, block_count, value, bytes, file, open };
            let piece_complete = inner.note_written(&written);
            inner.stamps.extend(stamp.map(|stamp| (file, stamp)));
            inner.stats.blocks_written += 1;
            inner.stats.bytes_written = inner.stats.bytes_written.saturating_add(bytes);
            inner.not_pushed = inner.not_pushed.saturating_add(bytes);
            let push = inner.not_pushed >= WRITE_BACK_BYTES;
            drop(inner);
            if push {
                self.push(&written.open);
            }
            return Ok(PutOutcome::Stored { piece_complete });
        }
        let source = std::io::Error::other("the disk fails again and again");
        Err(Error::Io { doing: "write", path: self.files.path(block.file()), source })
    }

    /// Has the kernel begin to write what lies in its cache of a file, unless a thread waits for the disk already.
    fn push(&self, open: &File) {
        let (Ok(_turn), Ok(commits)) = (self.write_back.try_lock(), self.commits.try_lock()) else { return };
        drop(commits);
        lock(&self.inner).not_pushed = 0;
        self.files.write_back(open);
    }

    /// Before the first write the record must say that the last stop is no longer a clean one.
    fn mark_open(&self) -> Result<(), Error> {
        if lock(&self.inner).marked_open {
            return Ok(());
        }
        let _commits = lock(&self.commits);
        if !lock(&self.inner).marked_open {
            self.write_record(&Batch { blocks: Vec::new(), bytes: 0, dirty: Dirty::default() }, false)?;
        }
        Ok(())
    }

    /// Whether the policy asks for a commit now.
    pub fn commit_due(&self) -> bool {
        if self.commits.try_lock().is_err() {
            return false;
        }
        let inner = lock(&self.inner);
        let waited = inner.pending_since.is_some_and(|since| since.elapsed() >= COMMIT_AFTER);
        !inner.closed && !inner.finished && (waited || inner.pending_bytes >= COMMIT_BYTES)
    }

    /// Makes durable what was written, then says so.
    pub fn commit(&self) -> Result<Committed, CommitFailure> {
        let _commits = lock(&self.commits);
        self.commit_held(false)
    }

    /// As [`Engine::commit`], by a caller that holds `commits`; `clean`: the last one before the store is closed.
    pub fn commit_held(&self, clean: bool) -> Result<Committed, CommitFailure> {
        let batch = {
            let mut inner = lock(&self.inner);
            let idle = inner.pending.is_empty() && inner.dirty.is_empty();
            let nothing = idle && !inner.record_stale && !(clean && inner.marked_open);
            if self.record.is_none() || inner.closed || inner.finished || nothing {
                return Ok(Committed::default());
            }
            inner.dropped.clear();
            inner.pending_since = None;
            Batch {
                blocks: std::mem::take(&mut inner.pending),
                bytes: std::mem::take(&mut inner.pending_bytes),
                dirty: std::mem::take(&mut inner.dirty),
            }
        };
        if let Err(error) = self.files.sync(&batch.dirty) {
            let lost = self.recover(batch.blocks);
            tracing::warn!(path = %self.path().display(), %error, lost = lost.len(), "a sync failed");
            return Err(CommitFailure { error: Box::new(error), lost });
        }
        if let Err(error) = self.write_record(&batch, clean) {
            // The bytes are durable; the next record says so.
            let mut inner = lock(&self.inner);
            inner.pending.extend(&batch.blocks);
            inner.pending_bytes = inner.pending_bytes.saturating_add(batch.bytes);
            inner.pending_since.get_or_insert_with(Instant::now);
            inner.record_stale = true;
            return Err(error.into());
        }
        Ok(Committed { blocks: batch.blocks.len() as u64 })
    }

    /// Replaces the record by one that counts the batch as durable, and takes over its word once it is on disk.
    fn write_record(&self, batch: &Batch, clean: bool) -> Result<(), Error> {
        let Some(folder) = &self.record else { return Ok(()) };
        let large = batch.dirty.files().filter(|file| !self.is_small(*file));
        let fresh: Vec<(u32, Stamp)> = large.filter_map(|file| self.stamp(file)).collect();
        let (record, progress) = {
            let mut inner = lock(&self.inner);
            let mut progress = inner.progress.clone();
            let mut durable = inner.durable.clone();
            for (piece, block) in &batch.blocks {
                if let Some(of_piece) = progress.get_mut(&piece.0).filter(|_| !inner.dropped.contains(&piece.0)) {
                    of_piece.durable |= bit(*block) & of_piece.written;
                    let count = self.manifest.layout().block_count(*piece).unwrap_or(0);
                    if of_piece.durable == all_bits(count) {
                        durable.set(*piece);
                    }
                }
            }
            inner.stamps.extend(fresh);
            if !batch.blocks.is_empty() {
                let group: BTreeSet<u32> = batch.blocks.iter().map(|(piece, _)| piece.0).collect();
                inner.group = group.into_iter().collect();
            }
            inner.generation += 1;
            let mut record = Record::new(&self.manifest, inner.generation, self.root, &durable);
            record.clean = clean;
            record.group.clone_from(&inner.group);
            record.stamps = inner.stamps.iter().map(|(file, stamp)| (*file, (*stamp).into())).collect();
            record.started = started(&progress, &durable);
            inner.dropped.clear();
            (record, (progress, durable))
        };
        record.write(folder)?;
        let (progress, durable) = progress;
        let mut inner = lock(&self.inner);
        for (piece, _) in batch.blocks.iter().filter(|(piece, _)| durable.has(*piece)) {
            if !inner.dropped.contains(&piece.0) {
                // Its blocks are all durable: nothing is under way any more.
                inner.durable.set(*piece);
                inner.progress.remove(&piece.0);
            }
        }
        for (piece, now) in progress.iter().filter(|(piece, _)| !durable.has(PieceIndex(**piece))) {
            if !inner.dropped.contains(piece)
                && let Some(of_piece) = inner.progress.get_mut(piece)
            {
                of_piece.durable |= now.durable;
            }
        }
        inner.record_stale = !inner.dropped.is_empty();
        inner.marked_open = !clean;
        inner.settled = inner.held.is_complete() && inner.pending.is_empty() && inner.progress.is_empty();
        inner.stats.commits += 1;
        Ok(())
    }

    /// Whether a file is written by one write, so that its stamp is known from then on.
    fn is_small(&self, file: u32) -> bool {
        self.files.entry(file).is_ok_and(|entry| entry.length <= BLOCK_BYTES)
    }

    /// How a file of a batch looks after the sync.
    fn stamp(&self, file: u32) -> Option<(u32, Stamp)> {
        let found = self.files.stat(file).ok()??;
        Some((file, found.stamp))
    }

    /// Commits, and says in the record that nothing is under way. The store takes no more blocks, also after an error.
    pub fn close(&self) -> Result<(), CommitFailure> {
        let _commits = lock(&self.commits);
        let result = self.commit_held(true).map(|_| ());
        lock(&self.inner).closed = true;
        self.files.close();
        result
    }

    /// For a store without a record: forgets how whole pieces came to be, which only a record would need.
    pub fn forget_history(&self) {
        let mut inner = lock(&self.inner);
        let Inner { held, progress, pending, pending_bytes, pending_since, .. } = &mut *inner;
        progress.retain(|piece, _| !held.has(PieceIndex(*piece)));
        pending.clear();
        (*pending_bytes, *pending_since) = (0, None);
    }

    /// Claims the record of a store that holds nothing yet.
    pub fn write_first_record(&self) -> Result<(), Error> {
        let _commits = lock(&self.commits);
        self.write_record(&Batch { blocks: Vec::new(), bytes: 0, dirty: Dirty::default() }, false)
    }

    /// Bytes of pieces and blocks that are not written yet.
    pub fn missing_bytes(&self) -> u64 {
        let inner = lock(&self.inner);
        let layout = self.manifest.layout();
        let lengths = inner.held.iter_missing().filter_map(|piece| layout.piece_length(piece));
        lengths.fold(0, u64::saturating_add)
    }
}

/// Durable blocks of pieces that are not durable as a whole.
fn started(progress: &BTreeMap<u32, Progress>, durable: &Bitfield) -> BTreeMap<u32, Vec<(u32, [u8; 32])>> {
    let mut started = BTreeMap::new();
    for (piece, progress) in progress.iter().filter(|(piece, _)| !durable.has(PieceIndex(**piece))) {
        let of_piece = progress.values.iter().filter(|(block, _)| progress.durable & bit(BlockIndex(**block)) != 0);
        let blocks: Vec<_> = of_piece.map(|(block, value)| (*block, *value)).collect();
        if !blocks.is_empty() {
            started.insert(*piece, blocks);
        }
    }
    started
}
