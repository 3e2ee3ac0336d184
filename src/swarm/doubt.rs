//! Whether what peers say that they hold counts. Who never delivered anything may say so for nothing, and while somebody
//! holds a piece no gateway brings it: a few who claim everything and send nothing would keep a site from its origin.
//!
//! Three grounds for doubt, each undone by a right block of the peer itself: all that it ever sent was wrong; it says that it
//! holds everything, and lets what it owes wait; or it says so, and for a while nothing has come into the site but what
//! gateways brought. Doubt is no verdict: what a doubted peer says does not count as held, and it is asked for one piece at
//! a time that nobody else has. Who holds a part is left to leases and to what it delivers: to doubt an honest gateway behind
//! a slow access point would bring its part twice.

use std::collections::BTreeMap;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::event::{AddressKey, PeerKey};
use crate::swarm::limits::{
    DOUBT_CROWD, DOUBT_SILENT, DOUBT_UNVOUCHED, DOUBTED_CROWD, PLEDGES_MAX, TRIALS, TRIED_FROM,
};
use crate::swarm::peer::Peer;
use crate::swarm::peers::Role;
use crate::swarm::random::mix;
use crate::swarm::timer::Uptime;

/// Why what a peer says does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// All that it ever sent was wrong.
    Lied,
    /// It owes something, and nothing of it came.
    Silent,
    /// It says that it holds everything, and nobody seems to get any of it.
    Unvouched,
}

/// What speaks for those who say that they hold everything.
#[derive(Debug, Default)]
pub(crate) struct Vouching {
    /// When something came into the site that no gateway had brought.
    at: Option<Uptime>,
    /// Those who come now are doubted from the start.
    pub(crate) lost: bool,
    /// Members of the site that lacked something when it was counted last.
    pub(crate) lacking: u64,
    /// The piece by which an address spoke for somebody, until it has given us a block of it.
    pledges: BTreeMap<AddressKey, PieceIndex>,
}

impl Vouching {
    /// Whether a word of this address counts: what it said before has been borne out. Accomplices of who claims everything
    /// would else say every few seconds that they were given something.
    fn pledge(&mut self, address: AddressKey, piece: PieceIndex) -> bool {
        let counts = !self.pledges.contains_key(&address) && self.pledges.len() < PLEDGES_MAX;
        if counts {
            self.pledges.insert(address, piece);
        }
        counts
    }

    /// A right block of this piece came from this address.
    pub(crate) fn borne_out(&mut self, address: &AddressKey, piece: PieceIndex) {
        if self.pledges.get(address) == Some(&piece) {
            self.pledges.remove(address);
        }
    }
}

impl Swarm {
    /// Judges anew who is believed.
    pub(crate) fn look_at_doubts(&mut self) {
        let (now, response) = (self.now, self.response);
        let patience = DOUBT_SILENT.max(response * 4);
        let silent = |peer: &Peer| {
            let owed_since = peer.asks.values().map(|ask| ask.since).min();
            let waited = owed_since.is_some_and(|since| now.since(since.max(peer.progress_at)) >= patience);
            waited && peer.is_near() && peer.counted_as_seed && peer.bytes_in == 0 && peer.doubt.is_none()
        };
        let busy = self.peers.cast(Role::Busy).to_vec();
        let silent: Vec<PeerKey> = busy.into_iter().filter(|key| self.peers.get(key).is_some_and(silent)).collect();
        for key in silent {
            self.doubt(key, Doubt::Silent);
            // Where others deliver meanwhile, what it owes need not wait any longer.
            if !response.is_zero() {
                self.time_out(key);
            }
        }
        if self.sources.is_empty() {
            return;
        }
        let since = self.vouching.at.unwrap_or(self.started);
        let passed = now.since(since);
        if self.vouching.lost || passed < DOUBT_CROWD {
            return;
        }
        let claims =
            |peer: &&Peer| peer.counted_as_seed && peer.doubt.is_none() && peer.is_near() && peer.bytes_in == 0;
        let unvouched: Vec<PeerKey> = self.peers.values().filter(claims).map(|peer| peer.key).collect();
        if passed < DOUBT_UNVOUCHED && unvouched.len() < DOUBTED_CROWD {
            return;
        }
        self.vouching.lost = !unvouched.is_empty();
        unvouched.into_iter().for_each(|key| self.doubt(key, Doubt::Unvouched));
    }

    /// A peer says that it holds a piece that no gateway brought: somebody who holds everything gives it away. One word an
    /// address counts, until that piece has come from there.
    pub(crate) fn vouch(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(address) = self.peers.get(&key).map(|peer| peer.address) else { return };
        if !self.vouching.pledge(address, piece) {
            return;
        }
        if self.vouching.at.replace(self.now).is_none() {
            self.wake_peers();
        }
        if std::mem::take(&mut self.vouching.lost) {
            let unvouched = self.peers.values().filter(|peer| peer.doubt == Some(Doubt::Unvouched));
            let unvouched: Vec<PeerKey> = unvouched.map(|peer| peer.key).collect();
            unvouched.into_iter().for_each(|key| self.believe(key));
        }
    }

    /// Whether a peer may be asked for anything, as far as doubt goes. Where there are sources, who sent wrong bytes alone is
    /// asked no more, and who says that it holds everything is tried by a few of a crowd, drawn by chance: if it gives
    /// anything, the others see that, and if it lies it lies to a few.
    pub(crate) fn is_to_be_tried(&self, peer: &Peer) -> bool {
        if peer.bytes_in > 0 {
            return true;
        }
        let few = self.vouching.lacking >= TRIED_FROM && peer.counted_as_seed && peer.is_near();
        let drawn = || mix(self.me.key ^ peer.rank_key) % self.vouching.lacking.max(1) < TRIALS;
        let vouched = self.vouching.at.is_some() && !self.vouching.lost;
        let tried = self.sources.is_empty() || (peer.doubt != Some(Doubt::Lied) && (!few || vouched || drawn()));
        tried && (peer.doubt.is_none() || peer.asks.is_empty())
    }

    pub(crate) fn doubt(&mut self, key: PeerKey, why: Doubt) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.doubt.is_some() {
            peer.doubt = Some(if why == Doubt::Lied { why } else { peer.doubt.unwrap_or(why) });
            return;
        }
        peer.doubt = Some(why);
        let owed: Vec<PieceIndex> = peer.asks.iter().filter(|(_, ask)| !ask.late).map(|(piece, _)| *piece).collect();
        peer.asks.values_mut().for_each(|ask| ask.late = true);
        // Others may be asked for it at once; it is taken if it comes.
        owed.into_iter().for_each(|piece| self.release_from_peer(piece, key));
        self.duty.bear(self.now.after(DOUBT_UNVOUCHED));
        self.stats.peers_doubted += 1;
        self.count_held(key, false);
    }

    /// What a peer says counts again.
    pub(crate) fn believe(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.doubt.take().is_some() {
            self.count_held(key, true);
        }
    }

    fn count_held(&mut self, key: PeerKey, more: bool) {
        let Some(peer) = self.peers.get(&key) else { return };
        if peer.counted_as_seed {
            self.pieces.picker.count_seed(more);
        }
        for piece in peer.bits.iter().flat_map(Bitfield::iter_held) {
            if !peer.counted_as_seed {
                self.pieces.picker.count(piece, more);
            }
            if peer.is_near() {
                self.outside.count(piece, more);
            }
        }
        self.origin_ready = true;
    }
}
