//! After a sync has failed: what was written since the last good one is unknown, and is read back before it counts.
//!
//! The kernel marks pages clean after a failed write-back, so a second sync of the same descriptor proves nothing. Each
//! block is therefore read from a new descriptor (its cached pages dropped first, as far as the kernel agrees), verified,
//! and written once more, so that the next sync has something to say about it. What does not verify is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::Advice;

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::drivers::store::engine::{Engine, Written, bit};
use crate::drivers::store::error::Error;
use crate::drivers::store::files::Dirty;
use crate::drivers::store::threads::lock;

impl Engine {
    /// Called with `commits` held. Returns the pieces that were told to be there and are not, ascending.
    pub(crate) fn recover(&self, batch: Vec<(PieceIndex, BlockIndex)>) -> Vec<PieceIndex> {
        let mut doubtful: BTreeMap<(PieceIndex, BlockIndex), Option<[u8; 32]>> = BTreeMap::new();
        {
            let mut inner = lock(&self.inner);
            inner.epoch += 1;
            inner.dirty = Dirty::default();
            let newer = std::mem::take(&mut inner.pending);
            (inner.pending_bytes, inner.pending_since) = (0, None);
            for (piece, block) in batch.into_iter().chain(newer) {
                let Some(progress) = inner.progress.get_mut(&piece.0) else { continue };
                if progress.written & bit(block) == 0 {
                    continue;
                }
                let keep = !bit(block);
                (progress.written, progress.mine) = (progress.written & keep, progress.mine & keep);
                doubtful.insert((piece, block), progress.values.remove(&block.0));
                inner.held.clear(piece);
                inner.checked.clear(piece);
            }
        }
        let reopened = self.files.reopen();
        let mut lost = BTreeSet::new();
        let mut buffer = Vec::new();
        for ((piece, block), value) in doubtful {
            let saved = match &reopened {
                Ok(()) => self.save_block(piece, block, value, &mut buffer).unwrap_or(None),
                Err(_) => None,
            };
            let mut inner = lock(&self.inner);
            match saved {
                Some(written) => {
                    inner.note_written(&written);
                }
                None => {
                    lost.insert(piece);
                }
            }
        }
        let mut inner = lock(&self.inner);
        inner.stats.pieces_lost = inner.stats.pieces_lost.saturating_add(lost.len() as u64);
        inner.progress.retain(|_, progress| progress.written != 0);
        lost.into_iter().collect()
    }

    /// Reads one block back and writes it again; `None` where its bytes are not what they were.
    fn save_block(
        &self,
        piece: PieceIndex,
        block: BlockIndex,
        value: Option<[u8; 32]>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Written>, Error> {
        let (place, within) = self.locate(piece)?;
        let range = place.layout.block(within, block).ok_or(Error::NoSuchBlock { piece, block })?;
        let block_count = place.layout.block_count(within).unwrap_or(0);
        let expected = value.or_else(|| {
            let hash = (block_count == 1).then(|| self.manifest.piece_hash(piece)).flatten();
            hash.map(|hash| *hash.as_bytes())
        });
        let open = self.files.open(place.file)?;
        // Advice only: a kernel that keeps the pages costs certainty, not correctness, since they are written again.
        let _ = rustix::fs::fadvise(&*open, range.offset, NonZeroU64::new(range.length), Advice::DontNeed);
        buffer.resize(usize::try_from(range.length.min(BLOCK_BYTES)).unwrap_or(0), 0);
        open.read_exact_at(buffer, range.offset)
            .map_err(|source| Error::io("read", self.files.path(place.file), source))?;
        if self.manifest.block_chaining_value(piece, block, buffer).filter(|found| Some(*found) == expected).is_none() {
            return Ok(None);
        }
        self.files.write(place.file, &open, buffer, range.offset)?;
        let value = (block_count > 1).then_some(expected).flatten();
        Ok(Some(Written { piece, block, block_count, value, bytes: range.length, file: place.file, open }))
    }
}
