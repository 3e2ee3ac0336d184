//! Who passes on what it was given first. A first holder gives each piece once; a peer that keeps such pieces to itself
//! costs it its line for nothing, since the piece has to be sent again.

use std::collections::BTreeMap;

use crate::content::layout::PieceIndex;
use crate::swarm::event::PeerKey;

/// First copies that nobody but who was given them has shown yet. At most one entry a piece.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    kept: BTreeMap<PieceIndex, PeerKey>,
    counts: BTreeMap<PeerKey, u32>,
}

impl Passing {
    /// A piece that nobody else holds is on its way to a peer.
    pub(crate) fn given(&mut self, piece: PieceIndex, to: PeerKey) {
        self.take(piece);
        self.kept.insert(piece, to);
        *self.counts.entry(to).or_default() += 1;
    }

    /// A peer holds the piece: if another than it was given to, it was passed on, or need not be.
    pub(crate) fn shown(&mut self, piece: PieceIndex, by: PeerKey) {
        if self.kept.get(&piece).is_some_and(|to| *to != by) {
            self.take(piece);
        }
    }

    /// It will not go to this peer after all.
    pub(crate) fn void(&mut self, piece: PieceIndex, to: PeerKey) {
        if self.kept.get(&piece) == Some(&to) {
            self.take(piece);
        }
    }

    fn take(&mut self, piece: PieceIndex) {
        let Some(to) = self.kept.remove(&piece) else { return };
        let left = self.counts.get(&to).copied().unwrap_or(0).saturating_sub(1);
        match left {
            0 => _ = self.counts.remove(&to),
            left => _ = self.counts.insert(to, left),
        }
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, peer: PeerKey) {
        if self.counts.remove(&peer).is_some() {
            self.kept.retain(|_, to| *to != peer);
        }
    }

    /// How many first copies a peer keeps to itself, those on their way included.
    pub(crate) fn kept(&self, peer: PeerKey) -> u32 {
        self.counts.get(&peer).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_kept_until_another_shows_it() {
        let (mut passing, one, other) = (Passing::default(), PeerKey(1), PeerKey(2));
        passing.given(PieceIndex(0), one);
        passing.given(PieceIndex(1), one);
        passing.shown(PieceIndex(0), one);
        assert_eq!(passing.kept(one), 2);
        passing.shown(PieceIndex(0), other);
        passing.shown(PieceIndex(0), other);
        assert_eq!((passing.kept(one), passing.kept(other)), (1, 0));
        passing.given(PieceIndex(1), other);
        assert_eq!((passing.kept(one), passing.kept(other)), (0, 1));
        passing.void(PieceIndex(1), one);
        assert_eq!(passing.kept(other), 1);
        passing.forget(other);
        assert_eq!(passing.kept(other), 0);
        assert!(passing.kept.is_empty() && passing.counts.is_empty());
    }
}
