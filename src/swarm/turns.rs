//! What is made of turns that peers deal us: used, or given back to those who can use them. How turns are dealt stands in
//! `choker`.

use crate::swarm::Swarm;
use crate::swarm::event::PeerKey;
use crate::swarm::limits::{TURN_LEAD, TURN_SLOW, TURNS_ASKED, TURNS_TAKEN};
use crate::swarm::peers::Role;
use crate::swarm::random::below;
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
            if !declined {
                peer.asked_at = self.now;
            }
            self.show_interest(key);
        }
    }

    /// Whether as much is owed as our line takes in for a while: more would come no sooner, and hold up who sends it.
    pub(crate) fn is_full(&mut self) -> bool {
        self.room() == 0
    }

    /// Payload that may be asked for before our line has enough to do.
    fn room(&mut self) -> u64 {
        let rate = self.peer_rates.total(self.now, self.started);
        let most = bytes_in(rate, TURN_LEAD).saturating_add(TURNS_TAKEN * self.piece_bytes());
        self.peers.settle();
        let asks = self.peers.playing(Role::Busy).flat_map(|peer| peer.asks.values());
        let asks = asks.filter(|ask| !ask.late && self.now.since(ask.since) < TURN_SLOW);
        most.saturating_sub(asks.fold(0u64, |sum, ask| sum.saturating_add(ask.bytes)))
    }

    /// How many more peers may hear that we want a turn: a few for each piece that there is room for, those not counted
    /// that have dealt none for a while.
    fn turns_to_ask_for(&mut self) -> usize {
        let pieces = self.room().div_ceil(self.piece_bytes().max(1));
        let most = usize::try_from(pieces).unwrap_or(usize::MAX).saturating_mul(TURNS_ASKED);
        self.peers.settle();
        let open = self.peers.playing(Role::Asked);
        let open = open.filter(|peer| self.now.since(peer.asked_at) < peer.turn_waits().saturating_mul(2));
        most.saturating_sub(open.count())
    }

    /// There is room again, or pieces that nobody is asked for: some who hold one hear that we take turns again.
    pub(crate) fn accept_again(&mut self) {
        if self.peers.count(Role::Declined) == 0 {
            return;
        }
        let mut left = self.turns_to_ask_for();
        if left == 0 {
            return;
        }
        let mut declined = self.peers.cast(Role::Declined).to_vec();
        let first = (below(&mut self.rng, declined.len() as u64) as usize).min(declined.len());
        declined.rotate_left(first);
        for key in declined {
            let Some(peer) = self.peers.get(&key).filter(|peer| !self.is_guarded(peer)) else { continue };
            if peer.bits.as_ref().is_some_and(|bits| self.pieces.picker.any(bits)) {
                self.set_declined(key, false);
                left -= 1;
            }
            if left == 0 {
                return;
            }
        }
    }

    /// A peer whose turns were given back holds something more that we want.
    pub(crate) fn accept_news(&mut self, key: PeerKey) {
        if self.turns_to_ask_for() > 0 {
            self.set_declined(key, false);
        }
    }
}
