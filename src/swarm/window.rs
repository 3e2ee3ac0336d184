//! What a reader that takes the pieces in order wants first: a stretch ahead of it. Beyond the stretch pieces are taken
//! rarest first, so that a node whose user streams helps the others as any other does.
//!
//! [`crate::swarm::Options::sequential`] is another thing: strict order over everything, a baseline to compare with.

use std::ops::Range;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::limits::{READER_AHEAD, READER_BYTES_MAX, READER_BYTES_MIN, READER_SLOWER_MAX};
use crate::swarm::peer::Peer;
use crate::swarm::pieces::PieceState;
use crate::swarm::rate::bytes_in;

/// Pieces within a window of which so much arrives a second.
fn pieces_ahead(rate: u64, piece_bytes: u64) -> u32 {
    let bytes = bytes_in(rate, READER_AHEAD).clamp(READER_BYTES_MIN, READER_BYTES_MAX);
    u32::try_from(bytes.div_ceil(piece_bytes.max(1))).unwrap_or(u32::MAX)
}

/// The first piece from `at` on that is not held.
fn first_missing(held: &Bitfield, at: u32) -> Option<u32> {
    let from = (at / 64) as usize;
    let missing = |place: usize, word: &u64| !word & if place == from { u64::MAX << (at % 64) } else { u64::MAX };
    let words = held.words().iter().enumerate().skip(from);
    let (place, word) = words.map(|(place, word)| (place, missing(place, word))).find(|(_, word)| *word != 0)?;
    let piece = u32::try_from(place).ok()?.checked_mul(64)?.checked_add(word.trailing_zeros())?;
    (piece < held.piece_count()).then_some(piece)
}

impl Swarm {
    pub(crate) fn reader_at(&mut self, piece: PieceIndex) {
        self.reader = Some(piece);
        self.room_made = true;
        self.origin_ready = true;
    }

    /// The pieces that a reader wants first, the next one in front; `None` without a reader, and once everything from it
    /// on is held.
    pub(crate) fn window(&self) -> Option<Range<u32>> {
        let at = self.reader?;
        let count = self.pieces.layout().piece_count();
        let start = first_missing(self.pieces.held(), at.0)?;
        let rate = self.arrivals.rate(self.now, self.started);
        Some(start..start.saturating_add(pieces_ahead(rate, self.piece_bytes())).min(count))
    }

    /// The first piece of the window that `fits`.
    pub(crate) fn first_ahead(&self, fits: impl Fn(PieceIndex) -> bool) -> Option<u32> {
        self.window()?.find(|piece| fits(PieceIndex(*piece)))
    }

    /// The place among our own runs from which on ranges are fetched: that of the reader, where there is one.
    pub(crate) fn reader_place(&self) -> Option<usize> {
        let next = self.window()?.start;
        let mine = self.duty.mine();
        let place = mine.partition_point(|run| self.duty.run(*run).end <= next);
        Some(if place < mine.len() { place } else { 0 })
    }

    /// The first wanted piece of the window that a peer holds. Who is far slower than the fastest begins with the second
    /// half: what it owes should not be what the reader waits for.
    pub(crate) fn pick_ahead(&self, peer: &Peer, fits: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        let window = self.window()?;
        let middle = window.start + (window.end - window.start) / 2;
        let from = if self.is_slow(peer) { middle } else { window.start };
        let wanted = |piece: &PieceIndex| {
            self.pieces.state(*piece) == Some(PieceState::Wanted) && peer.has(*piece) && fits(*piece)
        };
        (from..window.end).map(PieceIndex).find(wanted)
    }

    /// Whether a peer is far slower than the fastest of those that deliver now.
    fn is_slow(&self, peer: &Peer) -> bool {
        let Some(rate) = peer.rate.rate() else { return false };
        let busy = self.peers.values().filter(|peer| !peer.asks.is_empty()).filter_map(|peer| peer.rate.rate());
        busy.max().is_some_and(|best| rate < best / READER_SLOWER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_next_piece_is_the_first_missing_from_the_reader_on() {
        let mut held = Bitfield::none(130);
        (0..130).filter(|piece| ![3, 70, 129].contains(piece)).for_each(|piece| _ = held.set(PieceIndex(piece)));
        let found = [0, 3, 4, 64, 70, 71, 129].map(|at| first_missing(&held, at));
        assert_eq!(found, [3, 3, 70, 70, 70, 129, 129].map(Some));
        assert_eq!(first_missing(&held, 130), None);
        assert_eq!(first_missing(&held, u32::MAX), None);
        assert_eq!(first_missing(&Bitfield::all(130), 0), None);
    }

    #[test]
    fn the_window_follows_the_rate_within_its_bounds() {
        assert_eq!(pieces_ahead(0, MIB), 16);
        assert_eq!(pieces_ahead(10 * MIB, MIB), 40);
        assert_eq!(pieces_ahead(u64::MAX, MIB), 1024);
        assert_eq!(pieces_ahead(0, 16 * MIB), 1);
        assert_eq!(pieces_ahead(0, 0), 16 * MIB as u32);
    }
}
