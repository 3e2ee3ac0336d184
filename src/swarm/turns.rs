//! What is made of turns that peers deal us: used, or given back to those who can use them. How turns are dealt stands in
//! `choker`.

use crate::swarm::Swarm;
use crate::swarm::event::PeerKey;
use crate::swarm::limits::{TURN_LEAD, TURN_SLOW, TURNS_TAKEN};
use crate::swarm::peers::Role;
use crate::swarm::rate::bytes_in;

impl Swarm {
    /// A turn of which nothing can be made is given back, since others owe all that the peer holds for us, or as much as
    /// our line takes in: the peer hears that we want nothing of it, until that changes.
    pub(crate) fn decline(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let unused = peer.deals_turns && !peer.they_choke && peer.asks.is_empty() && peer.useful > 0 && !peer.declined;
        let nothing = unused && peer.bits.as_ref().is_some_and(|bits| !self.pieces.picker.any(bits));
        if unused && (nothing || self.is_full()) {
            self.set_declined(key, true);
        }
    }

    pub(crate) fn set_declined(&mut self, key: PeerKey, declined: bool) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.declined != declined) {
            peer.declined = declined;
            self.show_interest(key);
        }
    }

    /// Whether as much is owed as our line takes in for a while: more would come no sooner, and hold up who sends it.
    pub(crate) fn is_full(&mut self) -> bool {
        let rate = self.peer_rates.total(self.now, self.started);
        let most = bytes_in(rate, TURN_LEAD).saturating_add(TURNS_TAKEN * self.piece_bytes());
        let busy = self.peers.cast(Role::Busy).to_vec();
        let asks = busy.iter().filter_map(|key| self.peers.get(key)).flat_map(|peer| peer.asks.values());
        let asks = asks.filter(|ask| !ask.late && self.now.since(ask.since) < TURN_SLOW);
        asks.fold(0u64, |sum, ask| sum.saturating_add(ask.bytes)) >= most
    }

    /// There is room again, or pieces that nobody is asked for: whoever holds one may give us turns again.
    pub(crate) fn accept_again(&mut self) {
        if self.is_full() {
            return;
        }
        for key in self.peers.cast(Role::Declined).to_vec() {
            if self.peers.get(&key).is_none_or(|peer| self.is_guarded(peer)) {
                continue;
            }
            let bits = self.peers.get(&key).and_then(|peer| peer.bits.as_ref());
            if bits.is_some_and(|bits| self.pieces.picker.any(bits)) {
                self.set_declined(key, false);
            }
        }
    }
}
