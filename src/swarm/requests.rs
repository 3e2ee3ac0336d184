//! The ledger: who owes which piece. A piece is in state `Requested` exactly while somebody stands here for it.

use std::collections::BTreeMap;

use crate::content::layout::PieceIndex;
use crate::swarm::event::{FetchId, PeerKey};

/// Who owes a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Debtor {
    /// A peer that was asked for it.
    Peer(PeerKey),
    /// A range that covers it.
    Fetch(FetchId),
}

/// Debtors by piece, at most a few each.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    debts: BTreeMap<PieceIndex, Vec<Debtor>>,
}

impl Ledger {
    /// Notes a debt; a second note of the same one changes nothing.
    pub(crate) fn owe(&mut self, piece: PieceIndex, debtor: Debtor) {
        let debtors = self.debts.entry(piece).or_default();
        if !debtors.contains(&debtor) {
            debtors.push(debtor);
        }
    }

    /// Strikes out a debt; true if nobody owes the piece now.
    pub(crate) fn forgive(&mut self, piece: PieceIndex, debtor: Debtor) -> bool {
        let Some(debtors) = self.debts.get_mut(&piece) else { return true };
        debtors.retain(|it| *it != debtor);
        let free = debtors.is_empty();
        if free {
            self.debts.remove(&piece);
        }
        free
    }

    /// Strikes out all debts of a piece and says whose they were.
    pub(crate) fn settle(&mut self, piece: PieceIndex) -> Vec<Debtor> {
        self.debts.remove(&piece).unwrap_or_default()
    }

    /// Who owes a piece.
    pub(crate) fn debtors(&self, piece: PieceIndex) -> &[Debtor] {
        self.debts.get(&piece).map_or(&[], Vec::as_slice)
    }

    /// Every owed piece with its debtors, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PieceIndex, &[Debtor])> {
        self.debts.iter().map(|(piece, debtors)| (*piece, debtors.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_free_when_its_last_debtor_is() {
        let (piece, peer, fetch) = (PieceIndex(3), Debtor::Peer(PeerKey(1)), Debtor::Fetch(FetchId(1)));
        let mut ledger = Ledger::default();
        ledger.owe(piece, peer);
        ledger.owe(piece, peer);
        ledger.owe(piece, fetch);
        assert_eq!(ledger.debtors(piece), [peer, fetch]);
        assert!(!ledger.forgive(piece, peer));
        assert!(ledger.forgive(piece, fetch));
        assert!(ledger.forgive(piece, fetch));
        ledger.owe(piece, peer);
        assert_eq!(ledger.settle(piece), [peer]);
        assert_eq!(ledger.iter().count(), 0);
    }
}
