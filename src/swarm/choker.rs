//! Who is served, and when.
//!
//! Cooperating peers (this machine, site, group) take turns of about one piece. The next turn is dealt shortly before
//! the line would fall idle, to somebody at random among those who lack what is held here: so what a peer asks for
//! waits in no queue while others could send it, and every line is kept busy with what others lack. Who leaves its
//! turn unused is passed over. When nobody else waits, a peer keeps its turn and asks as it likes.
//!
//! On the Internet slots go to those who give, and one to somebody at random, who may turn out to give more (Cohen
//! 2003, "optimistic unchoking"); they are dealt anew every few seconds.

use std::cmp::Reverse;
use std::time::Duration;

use crate::swarm::Swarm;
use crate::swarm::event::{Message, PeerKey};
use crate::swarm::limits::{
    CHOKE_ROUND, OPTIMISTIC_ROUNDS, ROTATION_ROUNDS, SLOT_IDLE, SLOT_PASSED, SLOT_PASSED_MAX, TURN_DRAWS, TURN_LEAD,
    TURN_TIME, TURNS_UNMEASURED,
};
use crate::swarm::peer::Peer;
use crate::swarm::random::below;
use crate::swarm::rate::{bytes_in, time_for};
use crate::swarm::timer::{Timer, Uptime};

impl Swarm {
    fn slots(&self) -> usize {
        self.options.upload_slots as usize
    }

    /// Whether one more peer may be unchoked before it has shown interest: it saves a newcomer a round trip.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.unchoked.len() < self.slots().min(TURNS_UNMEASURED)
    }

    fn holders_of_slots(&self) -> impl Iterator<Item = &Peer> {
        self.unchoked.iter().filter_map(|key| self.peers.get(key)).map(Box::as_ref).filter(|it| it.they_are_interested)
    }

    fn served_count(&self) -> usize {
        self.holders_of_slots().count()
    }

    pub(crate) fn interested(&mut self, key: PeerKey, interested: bool) {
        let (served, slots) = (self.served_count(), self.slots());
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.said_interest = true;
        if peer.they_are_interested == interested {
            return;
        }
        peer.they_are_interested = interested;
        peer.upload_used_at = self.now;
        if interested && !peer.we_choke && served >= slots {
            self.set_choke(key, true);
        } else {
            self.fill_slots();
        }
        if interested && self.peers.get(&key).is_some_and(|peer| !peer.is_cooperative()) {
            self.timers.set_if_unset(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        }
        self.count_leechers();
    }

    fn set_choke(&mut self, key: PeerKey, choke: bool) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.we_choke != choke) else { return };
        peer.we_choke = choke;
        peer.upload_used_at = self.now;
        peer.turn_bytes = 0;
        if choke {
            self.unchoked.remove(&key);
        } else {
            self.unchoked.insert(key);
            self.offer_with_slot(key);
        }
        self.send(key, Message::Choke(choke));
        if choke {
            self.refuse_all(key);
            self.void_promises(key);
        }
    }

    /// Deals free slots to those who wait, without taking any away.
    pub(crate) fn fill_slots(&mut self) {
        self.deal_turns(None);
        let free = self.slots().saturating_sub(self.served_count());
        let far: Vec<&Peer> = self
            .peers
            .values()
            .map(Box::as_ref)
            .filter(|it| free > 0 && !it.is_cooperative() && it.they_are_interested && it.we_choke)
            .collect();
        let far: Vec<PeerKey> = self.far_by_merit(far).into_iter().map(|peer| peer.key).take(free).collect();
        far.into_iter().for_each(|key| self.set_choke(key, false));
    }

    // -- turns of cooperating peers --

    /// A cooperating peer that has no turn and lacks something held here.
    fn waits(&self, peer: &Peer) -> bool {
        peer.we_choke
            && (peer.they_are_interested || !peer.said_interest)
            && peer.is_cooperative()
            && peer.bits.as_ref().is_some_and(|bits| bits.lacks_any_of(self.pieces.held()))
    }

    /// Whether somebody else waits for a turn.
    pub(crate) fn others_wait(&self, key: PeerKey) -> bool {
        self.peers.values().any(|peer| peer.key != key && self.waits(peer))
    }

    /// A peer gets a piece on its way: if that was its turn and others wait, theirs comes.
    pub(crate) fn end_turn(&mut self, key: PeerKey, bytes: u64) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.is_cooperative() && !peer.we_choke) else {
            return;
        };
        (peer.turn_bytes, peer.passes) = (peer.turn_bytes.saturating_add(bytes), 0);
        let over = self.upload_rate.rate().is_none_or(|rate| peer.turn_bytes >= bytes_in(rate, TURN_TIME));
        if over && self.others_wait(key) {
            self.set_choke(key, true);
            self.deal_turns(Some(key));
        }
    }

    /// How long the line is busy with what is promised: pieces on their way, requests that wait, turns not used yet.
    fn line_busy_for(&self, rate: u64) -> Duration {
        let mut bytes = 0u64;
        let mut since: Option<Uptime> = None;
        for peer in self.serving_peers.iter().filter_map(|key| self.peers.get(key)) {
            for serving in peer.serving.values() {
                bytes = bytes.saturating_add(serving.bytes);
                since = Some(since.map_or(serving.since, |since| since.min(serving.since)));
            }
        }
        let passed = since.map_or(Duration::ZERO, |since| self.now.since(since));
        let rest = time_for(bytes, rate).saturating_sub(passed);
        let queued: usize =
            self.queued_peers.iter().filter_map(|key| self.peers.get(key)).map(|it| it.queue.len()).sum();
        let idle = self.holders_of_slots().filter(|it| it.idle_since().is_some());
        let pieces = (queued + idle.count()) as u64;
        rest.saturating_add(time_for(pieces.saturating_mul(self.piece_bytes()), rate))
    }

    /// Deals turns until the line has enough to do for the time that a turn takes to pass on.
    pub(crate) fn deal_turns(&mut self, but: Option<PeerKey>) {
        let mut served = self.served_count();
        let slots = self.slots();
        if served >= slots {
            return;
        }
        while served < slots {
            if let Some(rate) = self.upload_rate.rate() {
                let lead = self.turn_lead();
                let busy = self.line_busy_for(rate);
                if busy > lead {
                    self.timers.set_sooner(Timer::Turns, self.now.after(busy - lead));
                    return;
                }
            } else if served >= TURNS_UNMEASURED || !self.serving_peers.is_empty() || !self.queued_peers.is_empty() {
                return;
            }
            let Some(key) = self.next_turn(but) else { return };
            self.set_choke(key, false);
            served += 1;
            let due = self.idle_after(key);
            self.timers.set_sooner(Timer::Turns, due);
        }
    }

    /// Whose turn is next: of two drawn among those who wait, the one that lacks more of what is held here. Those who
    /// left turns unused wait, longer each time.
    fn next_turn(&mut self, but: Option<PeerKey>) -> Option<PeerKey> {
        let fits = |swarm: &Self, key: PeerKey| {
            let peer = swarm.peers.get(&key).filter(|peer| Some(key) != but && swarm.waits(peer))?;
            Some((swarm.lacks_of_ours(peer), peer.passed_until <= swarm.now))
        };
        let count = self.turn_takers.len();
        let mut best: Option<(u32, PeerKey)> = None;
        let mut found = 0;
        for _ in 0..TURN_DRAWS {
            let key = *self.turn_takers.get(below(&mut self.rng, count as u64) as usize)?;
            let Some((lacks, true)) = fits(self, key) else { continue };
            best = best.max(Some((lacks, key)));
            found += 1;
            if found == 2 {
                break;
            }
        }
        if best.is_some() {
            return best.map(|(_, key)| key);
        }
        // Few wait: all are looked at, from a random one on.
        let start = below(&mut self.rng, count as u64) as usize;
        let mut again: Option<Uptime> = None;
        for key in self.turn_takers[start..].iter().chain(&self.turn_takers[..start]) {
            match fits(self, *key) {
                Some((_, true)) => return Some(*key),
                Some((_, false)) => {
                    let until = self.peers.get(key).map(|peer| peer.passed_until);
                    again = until.into_iter().chain(again).min();
                }
                None => {}
            }
        }
        if let Some(again) = again {
            self.timers.set_sooner(Timer::Turns, again);
        }
        None
    }

    fn lacks_of_ours(&self, peer: &Peer) -> u32 {
        peer.bits.as_ref().map_or(0, |bits| bits.lacking_count(self.pieces.held()))
    }

    /// How long before the line falls idle the next turn is dealt.
    fn turn_lead(&self) -> Duration {
        TURN_LEAD + self.round_trip_max * 2
    }

    /// When a turn that was dealt now counts as unused.
    fn idle_after(&self, key: PeerKey) -> Uptime {
        let round_trip = self.peers.get(&key).map_or(Duration::ZERO, |peer| peer.round_trip);
        self.now.after(SLOT_IDLE + round_trip * 2)
    }

    /// Takes back turns that lie idle while others wait, and deals what has become due.
    pub(crate) fn pass_on_turns(&mut self) {
        let now = self.now;
        let mut idle = Vec::new();
        let unchoked = self.unchoked.iter().filter_map(|key| self.peers.get(key));
        for peer in unchoked.filter(|peer| peer.is_cooperative()) {
            let Some(since) = peer.idle_since() else { continue };
            let due = since.after(SLOT_IDLE + peer.round_trip * 2);
            if due <= now {
                idle.push(peer.key);
            } else {
                self.timers.set_sooner(Timer::Turns, due);
            }
        }
        for key in idle {
            // Otherwise nobody waits, and whoever comes to wait finds the slot idle.
            if self.others_wait(key) {
                self.set_choke(key, true);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.passes = peer.passes.saturating_add(1);
                    let wait = SLOT_PASSED.saturating_mul(1 << (peer.passes - 1).min(16));
                    peer.passed_until = now.after(wait.min(SLOT_PASSED_MAX));
                }
            }
        }
        self.deal_turns(None);
    }

    // -- slots on the Internet --
    fn far_by_merit<'a>(&self, mut far: Vec<&'a Peer>) -> Vec<&'a Peer> {
        let complete = self.is_complete();
        far.sort_by_key(|peer| {
            let gives = if complete { 0 } else { peer.recent_in.rate(self.now, peer.up_since) };
            (Reverse(gives), peer.bytes_out, peer.key)
        });
        far
    }

    /// Deals the slots of the Internet anew.
    pub(crate) fn choke_round(&mut self) {
        self.choke_rounds += 1;
        let interested = self.peers.values().map(Box::as_ref).filter(|it| it.they_are_interested);
        let (near, far): (Vec<&Peer>, Vec<&Peer>) = interested.partition(|it| it.is_cooperative());
        if far.is_empty() {
            return;
        }
        self.timers.set(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        if self.choke_rounds.is_multiple_of(ROTATION_ROUNDS) {
            let slots = self.slots();
            let near_served = near.iter().filter(|peer| !peer.we_choke).count().min(slots.saturating_sub(1));
            let mut order: Vec<PeerKey> = self.far_by_merit(far).into_iter().map(|peer| peer.key).collect();
            let room = slots - near_served;
            if order.len() > room && room > 0 {
                self.put_optimistic(&mut order, room);
            }
            let (stay, go) = order.split_at(room.min(order.len()));
            go.iter().for_each(|key| self.set_choke(*key, true));
            let free = slots.saturating_sub(self.served_count());
            let waiting = stay.iter().filter(|key| self.peers.get(key).is_some_and(|peer| peer.we_choke));
            waiting.take(free).copied().collect::<Vec<_>>().into_iter().for_each(|key| self.set_choke(key, false));
        }
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
