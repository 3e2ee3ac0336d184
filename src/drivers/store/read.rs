//! Reading for others: nothing leaves the store that this process did not write or check.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::content::layout::{BLOCK_BYTES, BlockIndex, FilePlace, PieceIndex};
use crate::drivers::store::engine::{Engine, Inner};
use crate::drivers::store::error::{Error, ReadError};
use crate::drivers::store::folder::{Stamp, stamp_of};
use crate::drivers::store::limits::{FILE_TIME_STEP, PROOFS_MAX};
use crate::drivers::store::threads::lock;

/// How far a long check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub done_bytes: u64,
    /// Bytes to be read, as far as is known.
    pub total_bytes: u64,
}

impl Engine {
    /// Fills `buffer` from a block of a held piece, from its byte `from` on.
    pub fn read(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let (place, offset) = self.locate_part(piece, block, from, buffer.len())?;
        let (open, state) = self.open_held(piece, &place)?;
        if state != Checked::Yes {
            self.check_held(piece, &place, &open, state)?;
        }
        match open.read_exact_at(buffer, offset) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.lose(piece, &place, error)),
        }
    }

    /// As [`Engine::read`] for a checked piece in an open file whose bytes lie in the page cache; else `false`, at once.
    pub fn read_cached(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> bool {
        let Ok((place, offset)) = self.locate_part(piece, block, from, buffer.len()) else { return false };
        if self.files.known(place.file).is_none() {
            return false;
        }
        let Ok((open, Checked::Yes)) = self.open_held(piece, &place) else { return false };
        // A file system in memory has nothing to wait for, and does not know the flag.
        let in_memory = self.files.in_memory();
        let never_waiting = if in_memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
        let mut filled = 0usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(filled as u64);
            match preadv2(&*open, &mut [IoSliceMut::new(rest)], at, never_waiting) {
                Ok(0) => return false,
                Ok(read) => filled = filled.saturating_add(read),
                Err(Errno::INTR) => {}
                // Not in memory, or a file system that cannot tell.
                Err(_) => return false,
            }
        }
        true
    }

    /// The file of a block and the offset of its byte `from` there, if `length` bytes follow it within the block.
    fn locate_part(
        &self,
        piece: PieceIndex,
        block: BlockIndex,
        from: u64,
        length: usize,
    ) -> Result<(FilePlace, u64), ReadError> {
        let no_such = |expected| ReadError::NoSuchBlock { piece, block, expected, found: length };
        let (place, within) = self.locate(piece).map_err(|_| no_such(None))?;
        let range = place.layout.block(within, block).ok_or_else(|| no_such(None))?;
        let left = range.length.saturating_sub(from);
        if length as u64 > left {
            return Err(no_such(Some(left)));
        }
        Ok((place, range.offset.saturating_add(from)))
    }

    /// Chaining values of a held piece's blocks, in order, for a piece of several; of one block, its hash.
    pub fn piece_proof(&self, piece: PieceIndex) -> Result<Arc<[[u8; 32]]>, ReadError> {
        let expected = None;
        let no_such = ReadError::NoSuchBlock { piece, block: BlockIndex(0), expected, found: 0 };
        let Ok((place, _)) = self.locate(piece) else { return Err(no_such) };
        let (open, state) = self.open_held(piece, &place)?;
        if state == Checked::Yes
            && let Some(known) = lock(&self.proofs).values.get(&piece.0)
        {
            return Ok(Arc::clone(known));
        }
        self.check_held(piece, &place, &open, state)
    }

    /// The file of a held piece, and whether the piece must be hashed before it is served.
    fn open_held(&self, piece: PieceIndex, place: &FilePlace) -> Result<(Arc<File>, Checked), ReadError> {
        let settled = {
            let inner = lock(&self.inner);
            if !inner.held.has(piece) {
                return Err(ReadError::NotHeld { piece });
            }
            inner.settled
        };
        let open = match self.files.open(place.file) {
            Ok(open) => open,
            Err(error @ Error::ResourceRefused { .. }) => return Err(ReadError::Refused { piece, error }),
            Err(error) => {
                self.forget(piece);
                return Err(ReadError::Unreadable { piece, error });
            }
        };
        let stamp = settled.then(|| stamp_of(&open)).transpose().map_err(|error| self.lose(piece, place, error))?;
        let mut inner = lock(&self.inner);
        if let Some(stamp) = stamp
            && inner.settled
            && inner.stamps.get(&place.file) != Some(&stamp)
        {
            // Someone else changed the file, or this process has not looked at it yet.
            inner.stamps.insert(place.file, stamp);
            uncheck(&mut inner, place);
        }
        if stamp.is_some_and(|stamp| is_fresh(&stamp)) {
            inner.checked.clear(piece);
            return Ok((open, Checked::NotForLong));
        }
        let checked = if inner.checked.has(piece) { Checked::Yes } else { Checked::No };
        Ok((open, checked))
    }

    /// Hashes a held piece; it is lost if it is not what it was.
    fn check_held(
        &self,
        piece: PieceIndex,
        place: &FilePlace,
        open: &File,
        state: Checked,
    ) -> Result<Arc<[[u8; 32]]>, ReadError> {
        match CHECKING.with_borrow_mut(|buffer| self.hash_piece(piece, place, open, buffer)) {
            Ok(Some(values)) => {
                let values: Arc<[[u8; 32]]> = values.into();
                if state == Checked::NotForLong {
                    return Ok(values);
                }
                lock(&self.inner).checked.set(piece);
                if values.len() > 1 {
                    self.keep_proof(piece, &values);
                }
                Ok(values)
            }
            Ok(None) => {
                tracing::warn!(path = %self.files.path(place.file).display(), piece = piece.0, "a piece rotted on disk");
                self.forget(piece);
                Err(ReadError::Rotten { piece })
            }
            Err(error) => Err(self.lose(piece, place, error)),
        }
    }

    /// Hashes a held piece as it lies; returns its bytes.
    pub fn check(&self, piece: PieceIndex) -> Result<u64, ReadError> {
        let no_such = ReadError::NoSuchBlock { piece, block: BlockIndex(0), expected: None, found: 0 };
        let (Ok((place, within)), Some(length)) = (self.locate(piece), self.manifest.layout().piece_length(piece))
        else {
            return Err(no_such);
        };
        let (open, state) = self.open_held(piece, &place)?;
        let offset = place.layout.block(within, BlockIndex(0)).map_or(0, |range| range.offset);
        let was_cached = preadv2(&*open, &mut [IoSliceMut::new(&mut [0])], offset, ReadWriteFlags::NOWAIT).is_ok();
        self.check_held(piece, &place, &open, state)?;
        if let Some(bytes) = std::num::NonZeroU64::new(length).filter(|_| !was_cached) {
            // Advice: where it is not taken, the kernel has its own ideas.
            let _ = rustix::fs::fadvise(&*open, offset, Some(bytes), rustix::fs::Advice::DontNeed);
        }
        Ok(length)
    }

    fn keep_proof(&self, piece: PieceIndex, values: &Arc<[[u8; 32]]>) {
        let mut proofs = lock(&self.proofs);
        if proofs.values.insert(piece.0, Arc::clone(values)).is_none() {
            proofs.order.push_back(piece.0);
        }
        if proofs.order.len() > PROOFS_MAX
            && let Some(oldest) = proofs.order.pop_front()
        {
            proofs.values.remove(&oldest);
        }
    }

    /// The chaining values of a piece's blocks as they lie on disk, if they are the piece's; `None`: they are not, or
    /// the file ends before them.
    pub(crate) fn hash_piece(
        &self,
        piece: PieceIndex,
        place: &FilePlace,
        open: &File,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Vec<[u8; 32]>>> {
        let within = PieceIndex(piece.0.saturating_sub(place.first_piece));
        let mut values = Vec::new();
        for block in (0..place.layout.block_count(within).unwrap_or(0)).map(BlockIndex) {
            let Some(range) = place.layout.block(within, block) else { return Ok(None) };
            buffer.resize(usize::try_from(range.length.min(BLOCK_BYTES)).unwrap_or(0), 0);
            match open.read_exact_at(buffer, range.offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            let Some(value) = self.manifest.block_chaining_value(piece, block, buffer) else { return Ok(None) };
            values.push(value);
        }
        Ok(self.manifest.prove(piece, &values).is_ok().then_some(values))
    }

    /// Checks every held piece that this process neither wrote nor checked; returns those that are lost.
    pub(crate) fn check_rest(&self, progress: &mut dyn FnMut(Progress)) -> Vec<PieceIndex> {
        let rest: Vec<PieceIndex> = {
            let inner = lock(&self.inner);
            inner.held.iter_held().filter(|piece| !inner.checked.has(*piece)).collect()
        };
        let length = |piece: &PieceIndex| self.manifest.layout().piece_length(*piece).unwrap_or(0);
        let total_bytes = rest.iter().map(length).fold(0, u64::saturating_add);
        let mut done_bytes = 0u64;
        let mut lost = Vec::new();
        let mut buffer = Vec::new();
        for piece in rest {
            let found = match self.locate(piece).and_then(|(place, _)| Ok((self.files.open(place.file)?, place))) {
                Ok((open, place)) => self.hash_piece(piece, &place, &open, &mut buffer).ok().flatten(),
                Err(_) => None,
            };
            if found.is_some() {
                lock(&self.inner).checked.set(piece);
            } else {
                self.forget(piece);
                lost.push(piece);
            }
            done_bytes = done_bytes.saturating_add(length(&piece));
            progress(Progress { done_bytes, total_bytes });
        }
        lost
    }

    /// Whether every piece is on disk as it should be; stops at the first that is not. Changes nothing.
    pub(crate) fn is_all_right(&self, progress: &mut dyn FnMut(Progress)) -> bool {
        let total_bytes = self.manifest.layout().total_bytes();
        let mut done_bytes = 0u64;
        let mut buffer = Vec::new();
        (0..self.manifest.layout().piece_count()).map(PieceIndex).all(|piece| {
            let right = self.locate(piece).ok().and_then(|(place, _)| {
                let open = self.files.open(place.file).ok()?;
                self.hash_piece(piece, &place, &open, &mut buffer).ok().flatten()
            });
            done_bytes = done_bytes.saturating_add(self.manifest.layout().piece_length(piece).unwrap_or(0));
            progress(Progress { done_bytes, total_bytes });
            right.is_some()
        })
    }

    /// The disk would not give a held piece's bytes.
    fn lose(&self, piece: PieceIndex, place: &FilePlace, error: io::Error) -> ReadError {
        self.forget(piece);
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return ReadError::Rotten { piece };
        }
        ReadError::Unreadable { piece, error: Error::io("read", self.files.path(place.file), error) }
    }

    pub(crate) fn forget(&self, piece: PieceIndex) {
        let mut inner = lock(&self.inner);
        if inner.held.has(piece) || inner.progress.contains_key(&piece.0) {
            inner.drop_piece(piece);
            inner.stats.pieces_lost = inner.stats.pieces_lost.saturating_add(1);
        }
        drop(inner);
        lock(&self.proofs).values.remove(&piece.0);
    }
}

thread_local! {
    /// Where a disk thread reads what it checks: a MiB at most, kept, since serving begins with many checks.
    static CHECKING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is known of a held piece before it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Yes,
    No,
    /// Its file changed so lately that another change could have left the same time: a check holds for one reading.
    NotForLong,
}

/// Whether a file's time is so near to now that its next change may not show in it.
fn is_fresh(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(stamp.seconds), u32::try_from(stamp.nanoseconds)) else {
        return false;
    };
    // A time well ahead of the clock is no matter: the next change would set it back.
    now.abs_diff(Duration::new(seconds, nanoseconds.min(999_999_999))) < FILE_TIME_STEP
}

/// Every piece of a file must be checked again before it is served.
fn uncheck(inner: &mut Inner, place: &FilePlace) {
    for piece in place.first_piece..place.first_piece.saturating_add(place.layout.piece_count()) {
        inner.checked.clear(PieceIndex(piece));
    }
}
