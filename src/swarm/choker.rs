//! Who is served: slots at once while some are free, then rounds.
//!
//! Among cooperating peers (this machine, site, group) a slot is kept while it is used; one that lies idle passes on,
//! and now and then the one who was given most gives way. Who is next is drawn among the half that needs most, by its
//! own word or by what we sent it, so that a peer that claims to have nothing gains nothing; and drawn, because a
//! whole site that served the same neediest few would leave all other lines empty. On the Internet slots go to those
//! who give, and one to somebody at random, who may turn out to give more (Cohen 2003, "optimistic unchoking").

use std::cmp::Reverse;

use crate::swarm::Swarm;
use crate::swarm::event::{Message, PeerKey};
use crate::swarm::limits::{CHOKE_ROUND, OPTIMISTIC_ROUNDS, ROTATION_ROUNDS, SLOT_IDLE, SLOT_TURN, SLOTS_MIN};
use crate::swarm::peer::Peer;
use crate::swarm::peers::Role;
use crate::swarm::random::below;
use crate::swarm::rate::bytes_in;
use crate::swarm::timer::Timer;

impl Swarm {
    /// Peers to be served now: as many as configured, but on a thin line only so many that each gets a piece within a
    /// while, or their requests would run out in the queue.
    fn slots(&self) -> usize {
        let configured = self.options.upload_slots as usize;
        let Some(rate) = self.upload_rate.rate() else { return configured };
        let pieces = bytes_in(rate, SLOT_TURN) / self.piece_bytes().max(1);
        configured.min(usize::try_from(pieces).unwrap_or(usize::MAX).max(SLOTS_MIN))
    }

    /// Whether one more peer may be unchoked before it has shown interest.
    pub(crate) fn has_free_slot(&mut self) -> bool {
        self.peers.count(Role::Unchoked) < self.slots()
    }

    fn served_count(&mut self) -> usize {
        self.peers.count(Role::Served)
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
        peer.upload_used_at = self.now;
        self.send(key, Message::Choke(choke));
        if choke {
            self.refuse_all(key);
            self.void_promises(key);
        }
    }

    /// Gives free slots to those who wait, without taking any away.
    pub(crate) fn fill_slots(&mut self) {
        self.fill_slots_but(&[]);
    }

    /// The same, passing over some.
    fn fill_slots_but(&mut self, but: &[PeerKey]) {
        let served = self.served_count();
        let free = self.slots().saturating_sub(served);
        if free == 0 || self.peers.count(Role::Waiting) == 0 {
            return;
        }
        let (near, far): (Vec<&Peer>, Vec<&Peer>) = self
            .peers
            .values()
            .filter(|it| it.they_are_interested && it.we_choke && !but.contains(&it.key))
            .partition(|it| it.is_cooperative());
        let near: Vec<PeerKey> = self.by_need(near).into_iter().map(|peer| peer.key).collect();
        let far: Vec<PeerKey> = self.far_by_merit(far).into_iter().map(|peer| peer.key).collect();
        let mut near = std::collections::VecDeque::from(near);
        let mut far = far.into_iter();
        for _ in 0..free {
            let half = near.len().div_ceil(2) as u64;
            let next = near.remove(below(&mut self.rng, half) as usize).or_else(|| far.next());
            let Some(key) = next else { break };
            self.set_choke(key, false);
        }
    }

    /// First those who have least, by their own word or by what we sent them.
    fn by_need<'a>(&self, mut near: Vec<&'a Peer>) -> Vec<&'a Peer> {
        let piece = self.piece_bytes();
        near.sort_by_key(|peer| {
            let has = u64::from(peer.held_count()).saturating_mul(piece);
            (has.max(peer.bytes_out), peer.key)
        });
        near
    }

    fn far_by_merit<'a>(&self, mut far: Vec<&'a Peer>) -> Vec<&'a Peer> {
        let complete = self.is_complete();
        far.sort_by_key(|peer| {
            let gives = if complete { 0 } else { peer.recent_in.rate(self.now, peer.up_since) };
            (Reverse(gives), peer.bytes_out, peer.key)
        });
        far
    }

    /// Takes back slots that lie idle or were held long enough, if others wait, and deals them anew.
    pub(crate) fn choke_round(&mut self) {
        self.choke_rounds += 1;
        let interested = self.peers.values().filter(|it| it.they_are_interested);
        let (near, far): (Vec<&Peer>, Vec<&Peer>) = interested.partition(|it| it.is_cooperative());
        let count = near.len() + far.len();
        if count == 0 {
            return;
        }
        if !far.is_empty() || near.iter().any(|peer| peer.we_choke) {
            self.timers.set(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        }
        let slots = self.slots();
        let mut taken = Vec::new();
        if near.iter().any(|peer| peer.we_choke) {
            let served = near.iter().filter(|peer| !peer.we_choke);
            let idle = |peer: &&&Peer| peer.idle_since().is_some_and(|at| self.now.since(at) >= SLOT_IDLE);
            taken.extend(served.clone().filter(idle).map(|peer| peer.key));
            if taken.is_empty() && self.choke_rounds.is_multiple_of(ROTATION_ROUNDS) {
                taken.extend(served.max_by_key(|peer| peer.bytes_out).map(|peer| peer.key));
            }
        }
        if !far.is_empty() && self.choke_rounds.is_multiple_of(ROTATION_ROUNDS) {
            let near_served = near.iter().filter(|peer| !peer.we_choke).count().min(slots.saturating_sub(1));
            let mut order: Vec<PeerKey> = self.far_by_merit(far).into_iter().map(|peer| peer.key).collect();
            let room = slots - near_served;
            if order.len() > room && room > 0 {
                self.put_optimistic(&mut order, room);
            }
            let (stay, go) = order.split_at(room.min(order.len()));
            go.iter().for_each(|key| self.set_choke(*key, true));
            taken.iter().for_each(|key| self.set_choke(*key, true));
            let free = slots.saturating_sub(self.served_count());
            let waiting = stay.iter().filter(|key| self.peers.get(key).is_some_and(|peer| peer.we_choke));
            waiting.take(free).copied().collect::<Vec<_>>().into_iter().for_each(|key| self.set_choke(key, false));
        }
        taken.iter().for_each(|key| self.set_choke(*key, true));
        self.fill_slots_but(&taken);
        self.fill_slots();
        self.upload_ready = true;
    }

    /// Moves one peer of the Internet, the same for a few rounds, into the last slot.
    fn put_optimistic(&mut self, order: &mut Vec<PeerKey>, slots: usize) {
        let far = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| !peer.is_cooperative());
        let waiting: Vec<PeerKey> = order.iter().skip(slots.saturating_sub(1)).copied().filter(far).collect();
        if waiting.is_empty() {
            return;
        }
        let stays = self.optimistic.filter(|key| {
            waiting.contains(key) && !self.choke_rounds.is_multiple_of(ROTATION_ROUNDS * OPTIMISTIC_ROUNDS)
        });
        let chosen = stays.or_else(|| waiting.get(below(&mut self.rng, waiting.len() as u64) as usize).copied());
        self.optimistic = chosen;
        if let Some(chosen) = chosen {
            order.retain(|key| *key != chosen);
            order.insert((slots - 1).min(order.len()), chosen);
        }
    }
}
