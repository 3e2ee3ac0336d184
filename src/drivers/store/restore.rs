//! Opening what an earlier run left: how much of its record is believed.
//!
//! After a clean stop the record is believed, each piece being checked when first served. After an unclean one, the last
//! commit group is hashed first. Where anything is found wrong, or no record can be read, the whole content is hashed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FilePlace, PieceIndex};
use crate::drivers::store::engine::{Engine, Progress as UnderWay, Written, bit};
use crate::drivers::store::error::Error;
use crate::drivers::store::folder::{FileKind, Stamp};
use crate::drivers::store::read::Progress;
use crate::drivers::store::record::Record;
use crate::drivers::store::threads::lock;

impl Engine {
    /// Takes over a record, or hashes what is there where `record` is none. Hashes what must be hashed before it counts.
    pub(crate) fn restore(&self, record: Option<Record>, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let believed = record.and_then(|record| match record.durable(&self.manifest) {
            Ok(durable) => Some((record, durable)),
            Err(reason) => {
                tracing::warn!(path = %self.path().display(), reason, "the state does not fit; all is hashed");
                None
            }
        });
        let Some((record, durable)) = believed else {
            tracing::info!(path = %self.path().display(), "no state can be read; what is there is hashed");
            return self.hash_all(progress);
        };
        let doubtful = self.take_over(&record, durable)?;
        if self.check_doubtful(&doubtful, progress) {
            return Ok(());
        }
        tracing::warn!(path = %self.path().display(), "a durable piece is wrong on disk; all is hashed");
        self.hash_all(progress)
    }

    /// Puts the record's word into memory; returns the pieces that must be hashed before they count.
    fn take_over(&self, record: &Record, durable: Bitfield) -> Result<BTreeSet<u32>, Error> {
        let mut doubtful: BTreeSet<u32> =
            if record.clean { BTreeSet::new() } else { record.group.iter().copied().collect() };
        let mut inner = lock(&self.inner);
        inner.generation = record.generation;
        inner.marked_open = !record.clean;
        inner.group.clone_from(&record.group);
        inner.held = durable.clone();
        inner.durable = durable;
        for (piece, blocks) in &record.started {
            let mask = blocks.iter().fold(0, |mask, (block, _)| mask | bit(BlockIndex(*block)));
            let values = blocks.iter().copied().collect();
            inner.progress.insert(*piece, UnderWay { written: mask, durable: mask, mine: 0, values });
        }
        drop(inner);
        for place in self.manifest.layout().places() {
            let pieces = place.first_piece..place.first_piece.saturating_add(place.layout.piece_count());
            let claimed = {
                let inner = lock(&self.inner);
                let claims = |piece: u32| inner.held.has(PieceIndex(piece)) || inner.progress.contains_key(&piece);
                pieces.clone().any(claims)
            };
            if !claimed {
                continue;
            }
            let found = self.files.stat(place.file)?;
            let now = found.filter(|found| found.kind == FileKind::File).map(|found| found.stamp);
            let then = record.stamps.get(&place.file).map(|stamp| Stamp::from(*stamp));
            let mut inner = lock(&self.inner);
            inner.stamps.extend(now.map(|stamp| (place.file, stamp)));
            if !believes(now, then, record.clean, place) {
                // Once hashed, its new looks belong into the record.
                inner.record_stale = true;
                doubtful.extend(pieces);
            }
        }
        let mut inner = lock(&self.inner);
        inner.settled = inner.held.is_complete();
        Ok(doubtful)
    }

    /// False where one of them is wrong.
    fn check_doubtful(&self, doubtful: &BTreeSet<u32>, progress: &mut dyn FnMut(Progress)) -> bool {
        let length = |piece: u32| self.manifest.layout().piece_length(PieceIndex(piece)).unwrap_or(0);
        let total_bytes = doubtful.iter().map(|piece| length(*piece)).fold(0, u64::saturating_add);
        let (mut done_bytes, mut all_right) = (0u64, true);
        let mut buffer = Vec::new();
        for piece in doubtful.iter().copied().map(PieceIndex) {
            let (held, started) = {
                let inner = lock(&self.inner);
                (inner.held.has(piece), inner.progress.get(&piece.0).cloned())
            };
            let right = match (held, started) {
                (true, _) => self.is_right(piece, &mut buffer),
                (false, Some(started)) => self.started_is_right(piece, &started, &mut buffer),
                (false, None) => continue,
            };
            if right && held {
                lock(&self.inner).checked.set(piece);
            } else if !right {
                self.forget(piece);
                all_right = false;
            }
            done_bytes = done_bytes.saturating_add(length(piece.0));
            progress(Progress { done_bytes, total_bytes });
        }
        all_right
    }

    pub(crate) fn is_right(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> bool {
        let Ok((place, _)) = self.locate(piece) else { return false };
        let Ok(open) = self.files.open(place.file) else { return false };
        matches!(self.hash_piece(piece, &place, &open, buffer), Ok(Some(_)))
    }

    fn started_is_right(&self, piece: PieceIndex, started: &UnderWay, buffer: &mut Vec<u8>) -> bool {
        started.values.iter().all(|(block, value)| {
            self.read_unproven(piece, BlockIndex(*block), buffer).is_some_and(|found| found == *value)
        })
    }

    /// Chaining value of whatever lies at a block's place.
    pub(crate) fn read_unproven(&self, piece: PieceIndex, block: BlockIndex, buffer: &mut Vec<u8>) -> Option<[u8; 32]> {
        let (place, within) = self.locate(piece).ok()?;
        let range = place.layout.block(within, block)?;
        let open = self.files.open(place.file).ok()?;
        buffer.resize(usize::try_from(range.length).ok()?, 0);
        std::os::unix::fs::FileExt::read_exact_at(&*open, buffer, range.offset).ok()?;
        self.manifest.block_chaining_value(piece, block, buffer)
    }

    /// Hashes every piece that has bytes on disk. Right ones that no record names wait for the next commit, since it is
    /// not known that they were ever synced; wrong ones are forgotten.
    pub(crate) fn hash_all(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let total_bytes = self.manifest.layout().total_bytes();
        let mut done_bytes = 0u64;
        let mut buffer = Vec::new();
        lock(&self.inner).record_stale = true;
        for place in self.manifest.layout().places() {
            let open = match self.files.open(place.file) {
                Ok(open) => Some(open),
                Err(Error::Missing { .. } | Error::WrongKind { .. }) => None,
                Err(error) => return Err(error),
            };
            for within in (0..place.layout.piece_count()).map(PieceIndex) {
                let piece = PieceIndex(place.first_piece.saturating_add(within.0));
                let Some(range) = place.layout.piece(within) else { continue };
                let known = lock(&self.inner).checked.has(piece);
                let there = open.as_ref().filter(|open| !known && !is_hole(open, range.offset, range.end()));
                let values = there.and_then(|open| self.hash_piece(piece, place, open, &mut buffer).ok().flatten());
                if let (Some(open), Some(values)) = (there, values) {
                    self.count_as_written(piece, place, open, &values);
                } else if !known && !self.started_stays(piece, &mut buffer) {
                    self.forget(piece);
                }
                done_bytes = done_bytes.saturating_add(range.length);
                progress(Progress { done_bytes, total_bytes });
            }
        }
        Ok(())
    }

    /// Whether a piece is started, with every block as it was recorded.
    fn started_stays(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> bool {
        let started = {
            let inner = lock(&self.inner);
            inner.progress.get(&piece.0).filter(|_| !inner.held.has(piece)).cloned()
        };
        started.is_some_and(|started| self.started_is_right(piece, &started, buffer))
    }

    /// A piece that was found right on disk.
    fn count_as_written(&self, piece: PieceIndex, place: &FilePlace, open: &Arc<File>, values: &[[u8; 32]]) {
        let within = PieceIndex(piece.0.saturating_sub(place.first_piece));
        let block_count = place.layout.block_count(within).unwrap_or(0);
        let mut inner = lock(&self.inner);
        if inner.durable.has(piece) {
            inner.checked.set(piece);
            return;
        }
        for (block, value) in (0..block_count).map(BlockIndex).zip(values) {
            let bytes = place.layout.block(within, block).map_or(0, |range| range.length);
            let (file, open) = (place.file, Arc::clone(open));
            let value = (block_count > 1).then_some(*value);
            inner.note_written(&Written { piece, block, block_count, value, bytes, file, open });
        }
    }
}

/// Whether a file is, by its looks, the one that the record is about.
fn believes(now: Option<Stamp>, then: Option<Stamp>, clean: bool, place: &FilePlace) -> bool {
    let (Some(now), Some(then)) = (now, then) else { return false };
    let same_file = (now.device, now.inode) == (then.device, then.inode) && now.size == place.layout.length();
    // After an unclean stop later writes are expected; after a clean one they are someone else's.
    same_file && (!clean || now == then)
}

/// Whether nothing was ever written there, as far as the file system tells.
fn is_hole(file: &File, offset: u64, end: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= end,
        Err(errno) => errno == rustix::io::Errno::NXIO,
    }
}
