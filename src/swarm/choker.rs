//! Who is served: slots at once while some are free, then rounds.
//!
//! Among cooperating peers (this machine, site, group) need decides: who has least, by its own word or by what we sent
//! it, so that a peer that claims to have nothing gains nothing. On the Internet slots go to those who give, and one
//! to somebody at random, who may turn out to give more (Cohen 2003, "optimistic unchoking").

use std::cmp::Reverse;

use crate::swarm::Swarm;
use crate::swarm::event::{Message, PeerKey};
use crate::swarm::limits::{CHOKE_ROUND, OPTIMISTIC_ROUNDS};
use crate::swarm::peer::Peer;
use crate::swarm::random::below;
use crate::swarm::timer::Timer;

impl Swarm {
    fn slots(&self) -> usize {
        self.options.upload_slots as usize
    }

    /// Whether one more peer may be unchoked before it has shown interest.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.peers.values().filter(|peer| !peer.we_choke).count() < self.slots()
    }

    fn served_count(&self) -> usize {
        self.peers.values().filter(|peer| !peer.we_choke && peer.they_are_interested).count()
    }

    pub(crate) fn interested(&mut self, key: PeerKey, interested: bool) {
        let served = self.served_count();
        let slots = self.slots();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.they_are_interested == interested {
            return;
        }
        peer.they_are_interested = interested;
        if interested {
            if peer.we_choke && served < slots {
                self.set_choke(key, false);
            } else if !peer.we_choke && served >= slots {
                self.set_choke(key, true);
            }
            self.timers.set_if_unset(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        } else {
            self.fill_slots();
        }
        self.count_leechers();
    }

    fn set_choke(&mut self, key: PeerKey, choke: bool) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.we_choke != choke) else { return };
        peer.we_choke = choke;
        self.send(key, Message::Choke(choke));
        if choke {
            self.refuse_all(key);
        }
    }

    /// Gives free slots to those who wait, without taking any away.
    pub(crate) fn fill_slots(&mut self) {
        let free = self.slots().saturating_sub(self.served_count());
        if free == 0 {
            return;
        }
        let waiting = self.by_merit().into_iter().filter(|key| self.peers.get(key).is_some_and(|it| it.we_choke));
        for key in waiting.take(free).collect::<Vec<_>>() {
            self.set_choke(key, false);
        }
    }

    /// Interested peers, first those who should be served first.
    fn by_merit(&self) -> Vec<PeerKey> {
        let piece = self.pieces.layout().places().first().map_or(1, |place| place.layout.piece_bytes());
        let mut near: Vec<&Peer> = self.peers.values().filter(|it| it.they_are_interested).collect();
        let far = near.extract_if(.., |peer| !peer.is_cooperative()).collect::<Vec<_>>();
        near.sort_by_key(|peer| {
            let has = u64::from(peer.held_count()).saturating_mul(piece);
            (peer.scope, has.max(peer.bytes_out), peer.key)
        });
        near.into_iter().chain(self.far_by_merit(far)).map(|peer| peer.key).collect()
    }

    fn far_by_merit<'a>(&self, mut far: Vec<&'a Peer>) -> Vec<&'a Peer> {
        let complete = self.is_complete();
        far.sort_by_key(|peer| {
            let gives = if complete { 0 } else { peer.recent_in.rate(self.now, peer.up_since) };
            (Reverse(gives), peer.bytes_out, peer.key)
        });
        far
    }

    /// Deals the slots anew.
    pub(crate) fn choke_round(&mut self) {
        self.choke_rounds += 1;
        let mut order = self.by_merit();
        if order.is_empty() {
            return;
        }
        self.timers.set(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        let slots = self.slots();
        if order.len() > slots && slots > 0 {
            self.put_optimistic(&mut order, slots);
        }
        for (place, key) in order.into_iter().enumerate() {
            self.set_choke(key, place >= slots);
        }
        self.upload_ready = true;
    }

    /// Moves one peer of the Internet, the same for a few rounds, into the last slot.
    fn put_optimistic(&mut self, order: &mut Vec<PeerKey>, slots: usize) {
        let far = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| !peer.is_cooperative());
        let waiting: Vec<PeerKey> = order.iter().skip(slots.saturating_sub(1)).copied().filter(far).collect();
        if waiting.is_empty() {
            return;
        }
        let stays = self.optimistic.filter(|key| waiting.contains(key) && self.choke_rounds % OPTIMISTIC_ROUNDS != 0);
        let chosen = stays.or_else(|| waiting.get(below(&mut self.rng, waiting.len() as u64) as usize).copied());
        self.optimistic = chosen;
        if let Some(chosen) = chosen {
            order.retain(|key| *key != chosen);
            order.insert((slots - 1).min(order.len()), chosen);
        }
    }
}
