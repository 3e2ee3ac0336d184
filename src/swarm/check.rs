//! Whether the books close, for tests and simulations, in builds that check.

use crate::swarm::Swarm;
use crate::swarm::limits::*;
use crate::swarm::pieces::PieceState;
use crate::swarm::requests::Debtor;

impl Swarm {
    /// Panics where the books do not close or a bound is passed; for tests and simulations, in builds that check.
    pub fn check(&self) {
        self.pieces.check();
        self.peers.check();
        for (piece, debtors) in self.ledger.iter() {
            assert_eq!(self.pieces.state(piece), Some(PieceState::Requested), "{piece:?} is owed");
            assert!(!debtors.is_empty() && debtors.len() <= 2 + FETCHES_MAX);
            for debtor in debtors {
                match debtor {
                    Debtor::Peer(key) => {
                        assert!(self.peers.get(key).and_then(|peer| peer.asks.get(&piece)).is_some_and(|ask| !ask.late))
                    }
                    Debtor::Fetch(fetch) => assert!(!self.fetches[fetch].cancelled),
                }
            }
        }
        let owed = self.ledger.iter().count();
        let requested = (self.pieces.missing_count() - self.pieces.wanted_count()) as usize;
        assert_eq!(owed, requested, "a piece is requested exactly while somebody owes it");
        for peer in self.peers.values() {
            let (count, bytes) = peer.outstanding();
            assert!(count <= PIPELINE_SMALL_MAX && peer.asks.len() <= PIPELINE_SMALL_MAX + 1);
            assert!(bytes <= PIPELINE_BYTES_MAX + 2 * (16 << 20));
            assert!(peer.queue.len() + peer.serving.len() <= UPLOAD_QUEUE_MAX);
            assert!(peer.offers.len() <= OFFERS_KEPT_MAX && peer.put_off.len() <= PUT_OFF_MAX);
            let bits = peer.bits.as_ref();
            let useful = bits.map_or(0, |bits| bits.iter_held().filter(|it| self.pieces.is_missing(*it)).count());
            assert_eq!(peer.useful as usize, useful, "what a peer has that we miss");
        }
        let served = self.peers.values().filter(|it| !it.we_choke && it.they_are_interested).count();
        assert!(served <= self.options.upload_slots as usize);
        assert!(self.fetches.len() <= 2 * FETCHES_MAX && self.peers.len() <= PEERS_MAX);
        for source in self.sources.values() {
            let active = self.fetches.values().filter(|it| it.source == source.key && !it.cancelled).count();
            assert_eq!(source.active as usize, active);
        }
    }
}
