//! The state of every piece, written here alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use crate::swarm::picker::Picker;

/// What a piece is to us; exactly one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceState {
    /// Verified and written.
    Held,
    /// A supplier owes it.
    Requested,
    /// Lacking, and nobody owes it.
    Wanted,
    /// Lacking, and not to be downloaded.
    Unwanted,
}

/// What became of a stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It lies outside the layout.
    Outside,
    /// It was here already.
    Duplicate,
    /// It is new.
    Block,
    /// It is new, and the piece is whole now.
    Piece,
}

/// States, stored blocks and the order of the wanted pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    layout: Arc<FlatLayout>,
    states: Vec<PieceState>,
    /// The pieces in state `Held`.
    held: Bitfield,
    /// Stored blocks of pieces that are not whole, one bit a block (a piece has at most 16).
    started: BTreeMap<PieceIndex, u32>,
    requested_count: u32,
    /// Pieces in state `Requested` or `Wanted`.
    missing_count: u32,
    bytes_held: u64,
    pub(crate) picker: Picker,
}

impl Pieces {
    /// All of `held` is held, `unwanted` is not wanted, everything else is. `held` has the layout's length.
    pub(crate) fn new(layout: Arc<FlatLayout>, held: &Bitfield, unwanted: impl Fn(PieceIndex) -> bool) -> Self {
        let piece_count = layout.piece_count();
        let mut pieces = Self {
            picker: Picker::new(piece_count),
            states: vec![PieceState::Unwanted; piece_count as usize],
            held: Bitfield::none(piece_count),
            started: BTreeMap::new(),
            requested_count: 0,
            missing_count: 0,
            bytes_held: 0,
            layout,
        };
        for piece in (0..piece_count).map(PieceIndex) {
            if held.has(piece) {
                pieces.become_state(piece, PieceState::Held);
                pieces.bytes_held += pieces.length(piece);
            } else if !unwanted(piece) {
                pieces.become_state(piece, PieceState::Wanted);
            }
        }
        pieces
    }

    /// Blocks of started pieces that are stored already.
    pub(crate) fn resume(&mut self, partial: Vec<(PieceIndex, Vec<BlockIndex>)>) {
        for (piece, blocks) in partial {
            blocks.into_iter().for_each(|block| _ = self.store(piece, block));
        }
    }

    /// The one writer of states.
    fn become_state(&mut self, piece: PieceIndex, to: PieceState) {
        let Some(state) = self.states.get_mut(piece.0 as usize) else { return };
        let from = std::mem::replace(state, to);
        if from == to {
            return;
        }
        match from {
            PieceState::Held => {
                self.held.clear(piece);
            }
            PieceState::Requested => self.requested_count -= 1,
            PieceState::Wanted => self.picker.set_wanted(piece, false),
            PieceState::Unwanted => {}
        }
        match to {
            PieceState::Held => {
                self.held.set(piece);
            }
            PieceState::Requested => self.requested_count += 1,
            PieceState::Wanted => self.picker.set_wanted(piece, true),
            PieceState::Unwanted => {}
        }
        let missing = |state| matches!(state, PieceState::Requested | PieceState::Wanted);
        match (missing(from), missing(to)) {
            (false, true) => self.missing_count += 1,
            (true, false) => self.missing_count -= 1,
            _ => {}
        }
    }

    pub(crate) fn layout(&self) -> &FlatLayout {
        &self.layout
    }

    /// State of a piece; `None` outside the layout.
    pub(crate) fn state(&self, piece: PieceIndex) -> Option<PieceState> {
        self.states.get(piece.0 as usize).copied()
    }

    pub(crate) fn held(&self) -> &Bitfield {
        &self.held
    }

    /// Bytes held, blocks of started pieces included.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.bytes_held
    }

    /// Pieces that are lacking and wanted, asked for or not.
    pub(crate) fn missing_count(&self) -> u32 {
        self.missing_count
    }

    /// Pieces that are lacking and asked of nobody.
    pub(crate) fn wanted_count(&self) -> u32 {
        self.missing_count - self.requested_count
    }

    /// Pieces that are lacking, asked of nobody, and held by a neighbour.
    pub(crate) fn available_wanted_count(&self) -> u32 {
        self.wanted_count() - self.picker.unheld_count()
    }

    /// Bytes of a piece; 0 outside.
    pub(crate) fn length(&self, piece: PieceIndex) -> u64 {
        self.layout.piece_length(piece).unwrap_or(0)
    }

    /// Whether a piece is still to come, asked for or not.
    pub(crate) fn is_missing(&self, piece: PieceIndex) -> bool {
        matches!(self.state(piece), Some(PieceState::Requested | PieceState::Wanted))
    }

    /// Whether any piece of a range is still to come.
    pub(crate) fn any_missing(&self, pieces: std::ops::Range<u32>) -> bool {
        pieces.into_iter().any(|piece| self.is_missing(PieceIndex(piece)))
    }

    /// The first block of a piece that is not stored.
    pub(crate) fn first_missing_block(&self, piece: PieceIndex) -> BlockIndex {
        let stored = self.started.get(&piece).copied().unwrap_or(0);
        BlockIndex(stored.trailing_ones())
    }

    /// Bytes of a piece from its first missing block on.
    pub(crate) fn missing_bytes(&self, piece: PieceIndex) -> u64 {
        let from = u64::from(self.first_missing_block(piece).0) * crate::content::layout::BLOCK_BYTES;
        self.length(piece).saturating_sub(from)
    }

    /// Wanted pieces of which some blocks are stored, ascending; at most `count` started pieces are looked at.
    pub(crate) fn started_wanted(&self, count: usize) -> impl Iterator<Item = PieceIndex> + '_ {
        let started = self.started.keys().take(count).copied();
        started.filter(|piece| self.state(*piece) == Some(PieceState::Wanted))
    }

    /// Somebody owes the piece now.
    pub(crate) fn request(&mut self, piece: PieceIndex) {
        if self.state(piece) == Some(PieceState::Wanted) {
            self.become_state(piece, PieceState::Requested);
        }
    }

    /// Nobody owes the piece any more.
    pub(crate) fn release(&mut self, piece: PieceIndex) {
        if self.state(piece) == Some(PieceState::Requested) {
            self.become_state(piece, PieceState::Wanted);
        }
    }

    /// A block is stored.
    pub(crate) fn store(&mut self, piece: PieceIndex, block: BlockIndex) -> Stored {
        let (Some(state), Some(length)) = (self.state(piece), self.layout.block_length(piece, block)) else {
            return Stored::Outside;
        };
        if state == PieceState::Held {
            return Stored::Duplicate;
        }
        let count = self.layout.block_count(piece).unwrap_or(0);
        let bit = 1u32.checked_shl(block.0).unwrap_or(0);
        let stored = self.started.entry(piece).or_default();
        if *stored & bit != 0 {
            return Stored::Duplicate;
        }
        *stored |= bit;
        self.bytes_held += length;
        if stored.count_ones() < count {
            return Stored::Block;
        }
        self.started.remove(&piece);
        self.become_state(piece, PieceState::Held);
        Stored::Piece
    }

    /// A held piece is rotten: it is wanted again. Returns whether it was held.
    pub(crate) fn lose(&mut self, piece: PieceIndex) -> bool {
        let held = self.state(piece) == Some(PieceState::Held);
        if held {
            self.bytes_held -= self.length(piece);
            self.become_state(piece, PieceState::Wanted);
        }
        held
    }

    /// Panics unless counts, bitfield and order agree with the states; for tests.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        let count = |state| self.states.iter().filter(|it| **it == state).count() as u32;
        assert_eq!(self.held.held_count(), count(PieceState::Held));
        assert_eq!(self.requested_count, count(PieceState::Requested));
        assert_eq!(self.missing_count, count(PieceState::Requested) + count(PieceState::Wanted));
        assert_eq!(self.picker.wanted().held_count(), count(PieceState::Wanted));
        for (index, state) in self.states.iter().enumerate() {
            let piece = PieceIndex(index as u32);
            assert_eq!(self.held.has(piece), *state == PieceState::Held);
            assert_eq!(self.picker.wanted().has(piece), *state == PieceState::Wanted);
            assert!(*state != PieceState::Held || !self.started.contains_key(&piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pieces(length: u64, held: &[u32]) -> Pieces {
        let layout = FlatLayout::new([length]).expect("short").expect("few");
        let mut bits = Bitfield::none(layout.piece_count());
        for piece in held {
            bits.set(PieceIndex(*piece));
        }
        Pieces::new(Arc::new(layout), &bits, |piece| piece.0 == 3)
    }

    #[test]
    fn a_piece_of_one_block_goes_from_wanted_to_held() {
        let mut pieces = pieces(3 * MIB + 7, &[0]);
        assert_eq!((pieces.missing_count(), pieces.bytes_held()), (2, MIB));
        pieces.request(PieceIndex(1));
        assert_eq!((pieces.missing_count(), pieces.wanted_count()), (2, 1));
        assert_eq!(pieces.store(PieceIndex(1), BlockIndex(1)), Stored::Outside);
        assert_eq!(pieces.store(PieceIndex(1), BlockIndex(0)), Stored::Piece);
        assert_eq!(pieces.store(PieceIndex(1), BlockIndex(0)), Stored::Duplicate);
        assert_eq!(pieces.state(PieceIndex(3)), Some(PieceState::Unwanted));
        assert_eq!(pieces.store(PieceIndex(4), BlockIndex(0)), Stored::Outside);
        assert!(pieces.lose(PieceIndex(0)));
        assert_eq!((pieces.missing_count(), pieces.bytes_held()), (2, MIB));
        pieces.check();
    }

    #[test]
    fn a_started_piece_resumes_at_its_first_missing_block() {
        let mut pieces = pieces(65_537 * MIB, &[]);
        let piece = PieceIndex(5);
        assert_eq!(pieces.store(piece, BlockIndex(0)), Stored::Block);
        assert_eq!(pieces.first_missing_block(piece), BlockIndex(1));
        assert_eq!(pieces.missing_bytes(piece), MIB);
        assert_eq!(pieces.started_wanted(4).collect::<Vec<_>>(), [piece]);
        pieces.request(piece);
        assert_eq!(pieces.started_wanted(4).count(), 0);
        pieces.release(piece);
        assert_eq!(pieces.store(piece, BlockIndex(1)), Stored::Piece);
        assert_eq!(pieces.bytes_held(), 2 * MIB);
        pieces.check();
    }
}
