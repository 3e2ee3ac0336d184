//! Who is served: slots at once while some are free, then rounds.
//!
//! Among cooperating peers (this machine, site, group) a slot is kept while it is used; one that lies idle passes on,
//! and now and then the one who was given most gives way. Who is next is drawn among the half that needs most, by its
//! own word or by what we sent it, so that a peer that claims to have nothing gains nothing; and drawn, because a
//! whole site that served the same neediest few would leave all other lines empty.
//!
//! On the Internet slots go to those who gave at least as much as they were given, and one to somebody at random who
//! has not had his chance yet and may turn out to give more (Cohen 2003, "optimistic unchoking"). Who was given a few
//! pieces and gave nothing gets what is left over. A first holder lacks nothing that anybody could give: it serves those
//! first who pass on what it gave them.

use std::cmp::Reverse;

use crate::content::layout::FlatLayout;
use crate::swarm::Swarm;
use crate::swarm::event::{Message, PeerKey, RejectReason};
use crate::swarm::limits::{
    CHOKE_ROUND, CREDIT_PIECES, OPTIMISTIC_ROUNDS, ROTATION_ROUNDS, SHARED_AIR_PIECES, SLOT_TURN, SLOTS_MIN,
    TURN_DRAWS, TURN_LEAD, TURNS_AHEAD, TURNS_TIME,
};
use crate::swarm::peer::Peer;
use crate::swarm::peers::Role;
use crate::swarm::random::below;
use crate::swarm::rate::bytes_in;
use crate::swarm::timer::Timer;

impl Swarm {
    /// Peers to be served now: as many as configured, but on a thin line only so many that each gets a piece within a
    /// while, or their requests would run out in the queue.
    fn slots(&self) -> usize {
        if self.uploads_held {
            return 0;
        }
        let configured = self.upload_slots();
        let Some(rate) = self.upload_rate.rate() else { return configured };
        let pieces = bytes_in(rate, SLOT_TURN) / self.piece_bytes().max(1);
        configured.min(usize::try_from(pieces).unwrap_or(usize::MAX).max(SLOTS_MIN.min(configured)))
    }

    /// As many as configured; one where what is sent keeps others off the air.
    fn upload_slots(&self) -> usize {
        let configured = self.options.upload_slots as usize;
        if self.shared_air { configured.min(SHARED_AIR_PIECES as usize) } else { configured }
    }

    /// Whether one more peer may be unchoked before it has shown interest.
    pub(crate) fn has_free_slot(&mut self) -> bool {
        self.peers.count(Role::Unchoked) < self.slots()
    }

    fn served_count(&mut self) -> usize {
        self.peers.count(Role::Served)
    }

    pub(crate) fn interested(&mut self, key: PeerKey, interested: bool) {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.they_are_interested != interested) else { return };
        let cooperates = peer.is_cooperative();
        let (served, slots) = (self.served_count(), self.slots());
        let crowd = interested && cooperates && self.peers.len() > slots && {
            let ahead = self.turns_ahead();
            self.work_ahead(ahead) > ahead
        };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.they_are_interested = interested;
        if interested {
            if peer.we_choke && served < slots && !crowd {
                self.set_choke(key, false);
            } else if !peer.we_choke && (served >= slots || crowd) {
                self.set_choke(key, true);
            }
            self.timers.set_if_unset(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        } else {
            self.fill_slots();
        }
        self.upload_ready = true;
        self.count_leechers();
    }

    /// Takes all slots away until uploads are allowed again; what is on its way is finished.
    pub(crate) fn allow_uploads(&mut self, allowed: bool) {
        self.uploads_held = !allowed;
        if allowed {
            self.fill_slots();
        } else {
            let all: Vec<PeerKey> = self.peers.keys().collect();
            for key in all {
                self.set_choke(key, true);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.late_turn = false;
                }
            }
        }
        self.upload_ready = true;
    }

    /// The same for peers on the Internet alone.
    pub(crate) fn allow_far_uploads(&mut self, allowed: bool) {
        self.far_uploads_held = !allowed;
        if !allowed {
            let far: Vec<PeerKey> =
                self.peers.values().filter(|peer| !peer.is_cooperative()).map(|peer| peer.key).collect();
            far.into_iter().for_each(|key| self.set_choke(key, true));
        }
        self.fill_slots();
        self.upload_ready = true;
    }

    fn set_choke(&mut self, key: PeerKey, choke: bool) {
        let held = self.far_uploads_held && !choke;
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.we_choke != choke) else { return };
        if held && !peer.is_cooperative() {
            return;
        }
        peer.we_choke = choke;
        peer.upload_used_at = self.now;
        if !choke {
            self.offer_with_slot(key);
        }
        self.send(key, Message::Choke(choke));
        if choke {
            self.refuse_all(key, RejectReason::Choked);
            self.void_promises(key);
        }
    }

    /// Gives free slots to those who wait, without taking any away: among cooperating peers to all, if they are few
    /// enough, else turns as the line needs them.
    pub(crate) fn fill_slots(&mut self) {
        let free = self.slots().saturating_sub(self.served_count());
        if free == 0 || self.peers.count(Role::Waiting) == 0 {
            return;
        }
        if self.is_crowd() {
            return self.deal_turns();
        }
        let (near, far): (Vec<&Peer>, Vec<&Peer>) =
            self.peers.playing(Role::Waiting).partition(|peer| peer.is_cooperative());
        let near: Vec<PeerKey> = near.into_iter().map(|peer| peer.key).collect();
        let far: Vec<PeerKey> = self.far_by_merit(far).into_iter().map(|peer| peer.key).collect();
        if near.len() <= free {
            let rest = far.into_iter().take(free - near.len());
            near.iter().copied().chain(rest).for_each(|key| self.set_choke(key, false));
        } else {
            self.deal_turns();
        }
    }

    /// Whether more lack something than there are slots, whoever of them wants a turn at this moment. Slots that were kept
    /// because nobody happened to wait would be asked of again and again by the few who have one, while other lines idle.
    fn is_crowd(&mut self) -> bool {
        self.peers.count(Role::Lacking) > self.upload_slots()
    }

    // -- turns of cooperating peers, where more wait than there are slots --

    /// Deals turns until the line has enough to do while the next ones pass on. A turn unused for a while may be taken
    /// up later, but no longer counts.
    pub(crate) fn deal_turns(&mut self) {
        if self.peers.count(Role::Waiting) == 0 {
            return;
        }
        let ahead = self.turns_ahead();
        let mut work = self.work_ahead(ahead);
        while work <= ahead {
            let Some(key) = self.next_turn() else { return };
            if self.served_count() >= self.slots() && !self.take_idle_turn() {
                return;
            }
            self.set_choke(key, false);
            work += self.piece_bytes();
            let wait = self.peers.get(&key).map_or(CHOKE_ROUND, Peer::turn_waits);
            self.timers.set_sooner(Timer::ChokeRound, self.now.after(wait));
        }
    }

    /// Bytes on their way or asked for, and a piece for each turn dealt a moment ago; once it is more than `most`, the rest
    /// is not looked at.
    fn work_ahead(&mut self, most: u64) -> u64 {
        self.peers.settle();
        let piece = self.piece_bytes();
        let holders = self.peers.playing(Role::Unchoked);
        let choked = self.peers.playing(Role::Serving).filter(|peer| peer.we_choke);
        let of = |peer: &Peer| match self.idle_since(peer) {
            Some(since) if peer.they_are_interested && self.now.since(since) < peer.turn_waits() => piece,
            Some(_) => 0,
            None => {
                let queued = peer.queue.iter().map(|(piece, _)| self.pieces.length(*piece));
                queued.chain(peer.serving.values().map(|serving| serving.bytes)).sum()
            }
        };
        let mut work = 0;
        for peer in holders.chain(choked) {
            work += of(peer);
            if work > most {
                break;
            }
        }
        work
    }

    /// Bytes that keep the line busy until a turn dealt now is used.
    fn turns_ahead(&self) -> u64 {
        let piece = self.piece_bytes();
        if self.shared_air {
            return SHARED_AIR_PIECES * piece;
        }
        let Some(rate) = self.upload_rate.rate() else { return (TURNS_AHEAD - 1) * piece };
        // On a thin line what is asked for would wait for too long.
        let pieces = ((TURNS_AHEAD - 1) * piece).min(bytes_in(rate, TURNS_TIME).max(piece));
        bytes_in(rate, TURN_LEAD).saturating_add(pieces)
    }

    /// Of two drawn among those who wait, the one that needs more, by its own word or by what we sent it.
    fn next_turn(&mut self) -> Option<PeerKey> {
        self.peers.settle();
        let waiting = self.peers.settled(Role::Waiting);
        let mut drawn = (0..TURN_DRAWS).filter_map(|_| {
            let key = waiting.get(below(&mut self.rng, waiting.len() as u64) as usize)?;
            self.peers
                .get(key)
                .filter(|peer| peer.is_cooperative())
                .map(|peer| (need(peer, self.pieces.layout()), *key))
        });
        let (first, second) = (drawn.next(), drawn.next());
        first.into_iter().chain(second).min().map(|(_, key)| key)
    }

    /// Takes back the turn that has been unused for longest; false where all are in use.
    fn take_idle_turn(&mut self) -> bool {
        self.peers.settle();
        let idle = self.peers.playing(Role::Served).filter(|peer| peer.is_cooperative());
        let idle = idle.filter_map(|peer| Some((self.idle_since(peer)?, peer)));
        let over = idle.filter(|(since, peer)| self.now.since(*since) >= peer.turn_waits());
        let Some(key) = over.map(|(since, peer)| (since, peer.key)).min().map(|(_, key)| key) else { return false };
        self.set_choke(key, true);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.late_turn = peer.queue.is_empty() && peer.serving.is_empty();
        }
        true
    }

    /// A peer gets a piece on its way and asks for no more at the moment: in a crowd, or where others wait, its turn is over.
    pub(crate) fn end_turn(&mut self, key: PeerKey) {
        let over =
            self.peers.get(&key).is_some_and(|peer| peer.is_cooperative() && peer.queue.is_empty() && !peer.we_choke);
        let waiting = self.peers.count(Role::Waiting);
        if over && (self.is_crowd() || (waiting > 0 && waiting + self.served_count() > self.slots())) {
            self.set_choke(key, true);
        }
    }

    fn far_by_merit<'a>(&self, mut far: Vec<&'a Peer>) -> Vec<&'a Peer> {
        let complete = self.is_complete();
        far.sort_by_key(|peer| {
            let gives = if complete { 0 } else { peer.recent_in.rate(self.now, peer.up_since) };
            (self.merit(peer), Reverse(gives), peer.bytes_out, peer.key)
        });
        far
    }

    fn merit(&self, peer: &Peer) -> Merit {
        if self.is_complete() {
            return Merit::Keeps(self.passing.kept(peer.key));
        }
        let debt = peer.bytes_out.saturating_sub(peer.bytes_in);
        if debt == 0 && peer.bytes_in > 0 {
            Merit::Gives
        } else if debt < self.piece_bytes().saturating_mul(CREDIT_PIECES) {
            Merit::Credit
        } else {
            Merit::Debt
        }
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
            self.timers.set_sooner(Timer::ChokeRound, self.now.after(CHOKE_ROUND));
        }
        let slots = self.slots();
        if !far.is_empty() && self.choke_rounds.is_multiple_of(ROTATION_ROUNDS) {
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
        self.deal_turns();
        self.upload_ready = true;
    }

    /// Moves one peer of the Internet, the same for a few rounds, into the last slot.
    fn put_optimistic(&mut self, order: &mut Vec<PeerKey>, slots: usize) {
        let far = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| !peer.is_cooperative());
        let waiting: Vec<PeerKey> = order.iter().skip(slots.saturating_sub(1)).copied().filter(far).collect();
        // Whoever was given enough to show what it gives has had its turn, while there are others.
        let merit = |key: &PeerKey| self.peers.get(key).map_or(Merit::Debt, |peer| self.merit(peer));
        let best = waiting.iter().map(merit).min();
        let fits = |merit: Merit| merit < Merit::Debt || (merit != Merit::Debt && Some(merit) == best);
        let waiting: Vec<PeerKey> = waiting.into_iter().filter(|key| fits(merit(key))).collect();
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

/// What a peer of the Internet has earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Merit {
    /// It gave us at least as much as we gave it.
    Gives,
    /// It was given a little more than it gave, or nothing yet.
    Credit,
    /// It was given more.
    Debt,
    /// We lack nothing that it could give: what counts is how many first copies it has not passed on.
    Keeps(u32),
}

/// Bytes that a peer has, by its own word or by what we sent it.
fn need(peer: &Peer, layout: &FlatLayout) -> u64 {
    let piece = layout.places().first().map_or(0, |place| place.layout.piece_bytes());
    u64::from(peer.held_count()).saturating_mul(piece).max(peer.bytes_out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::content::bitfield::Bitfield;
    use crate::content::layout::{BlockIndex, PieceIndex};
    use crate::swarm::event::{Action, AddressKey, Event, NodeId, Scope};
    use crate::swarm::{Options, Uptime};

    const MIB: u64 = 1 << 20;
    const PIECES: u32 = 64;

    /// A node with so many slots and three interested peers on the Internet.
    fn node(held: Bitfield, upload_slots: u32) -> Swarm {
        let layout = FlatLayout::new([u64::from(PIECES) * MIB]).expect("short").expect("few");
        let options = Options { upload_slots, ..Options::default() };
        let (id, address, start) = (NodeId([9; 32]), AddressKey([9; 18]), Uptime::ZERO);
        let mut swarm =
            Swarm::new(Arc::new(layout), held, vec![], options, id, address, [1; 32], start).expect("it fits");
        for number in 1..=3 {
            let (peer, id, address) = (PeerKey(number.into()), NodeId([number; 32]), AddressKey([number; 18]));
            let (member, round_trip) = (None, Duration::from_millis(40));
            swarm.handle(start, Event::PeerUp { peer, id, address, member, scope: Scope::Internet, round_trip });
            for message in [Message::Bitfield(Bitfield::none(PIECES)), Message::Interested(true)] {
                swarm.handle(start, Event::Said { peer, message });
            }
        }
        swarm
    }

    #[test]
    fn who_gave_goes_before_newcomers_and_they_before_who_only_took() {
        let mut swarm = node(Bitfield::none(PIECES), 1);
        for (number, given, got) in [(1, 0, 3 * MIB), (2, 8 * MIB, 8 * MIB), (3, 0, MIB)] {
            let peer = swarm.peers.get_mut(&PeerKey(number)).expect("it is there");
            (peer.bytes_in, peer.bytes_out) = (given, got);
        }
        let merit = |number: u64| swarm.merit(swarm.peers.get(&PeerKey(number)).expect("it is there"));
        assert_eq!([merit(1), merit(2), merit(3)], [Merit::Debt, Merit::Gives, Merit::Credit]);
        let mut order = vec![PeerKey(2), PeerKey(3), PeerKey(1)];
        swarm.put_optimistic(&mut order, 2);
        assert_eq!(order, [PeerKey(2), PeerKey(3), PeerKey(1)], "who only took is not tried again");
    }

    #[test]
    fn a_first_holder_serves_those_first_who_pass_on_what_they_were_given() {
        let mut swarm = node(Bitfield::all(PIECES), 1);
        swarm.passing.given(PieceIndex(0), PeerKey(1));
        swarm.passing.given(PieceIndex(1), PeerKey(2));
        let message = Message::Have(vec![PieceIndex(1)]);
        swarm.handle(Uptime::ZERO, Event::Said { peer: PeerKey(3), message });
        let order: Vec<PeerKey> =
            swarm.far_by_merit(swarm.peers.values().collect()).into_iter().map(|peer| peer.key).collect();
        assert_eq!(order, [PeerKey(2), PeerKey(3), PeerKey(1)]);
    }

    #[test]
    fn what_was_promised_to_a_peer_that_loses_its_slot_goes_to_the_next() {
        let mut swarm = node(Bitfield::all(PIECES), 2);
        let served: Vec<PeerKey> = swarm.peers.values().filter(|peer| !peer.we_choke).map(|peer| peer.key).collect();
        let [first, second] = served[..] else { panic!("two slots: {served:?}") };
        for (number, peer) in (0..16).zip([first, second].into_iter().cycle()) {
            let first_block = BlockIndex(0);
            let message = Message::Request { piece: PieceIndex(number), first_block };
            swarm.handle(Uptime::ZERO, Event::Said { peer, message });
        }
        let actions: Vec<Action> = std::iter::from_fn(|| swarm.poll_action()).collect();
        let under_way = |action: &&Action| matches!(action, Action::Serve { peer, .. } if *peer == first);
        let under_way = actions.iter().filter(under_way).count() as u32;
        assert!(swarm.passing.kept(first) > under_way, "some wait in its queue");
        swarm.set_choke(first, true);
        assert_eq!(swarm.passing.kept(first), under_way);
    }

    /// Whom a seed serves of two who ask, one on its site and one on the Internet.
    fn served(far: &[bool]) -> Vec<PeerKey> {
        let layout = Arc::new(FlatLayout::new([u64::from(PIECES) * MIB]).expect("short").expect("few"));
        let (me, address) = (NodeId([9; 32]), AddressKey([9; 18]));
        let (held, options) = (Bitfield::all(PIECES), Options::default());
        let swarm = Swarm::new(layout, held, vec![], options, me, address, [1; 32], Uptime::ZERO);
        let (mut swarm, mut served) = (swarm.expect("it fits"), Vec::new());
        let mut tell = |event| {
            swarm.handle(Uptime::from_micros(1), event);
            while let Some(action) = swarm.poll_action() {
                if let Action::Serve { peer, .. } = action {
                    served.push(peer);
                }
            }
        };
        for (number, scope) in [(1, Scope::Site), (2, Scope::Internet)] {
            let (peer, id, address) = (PeerKey(number.into()), NodeId([number; 32]), AddressKey([number; 18]));
            let round_trip = Duration::from_millis(1);
            tell(Event::PeerUp { peer, id, address, member: None, scope, round_trip });
            tell(Event::Said { peer, message: Message::Bitfield(Bitfield::none(PIECES)) });
            tell(Event::Said { peer, message: Message::Interested(true) });
        }
        far.iter().for_each(|allowed| tell(Event::FarUploadsAllowed(*allowed)));
        // Not of one piece: no second copy goes out while others have none, and some are promised to one of the two.
        for piece in 0..PIECES {
            let (peer, piece) = (PeerKey(1 + u64::from(piece % 2)), PieceIndex(piece));
            tell(Event::Said { peer, message: Message::Request { piece, first_block: BlockIndex(0) } });
            tell(Event::Tick);
        }
        served.sort();
        served.dedup();
        served
    }

    #[test]
    fn who_may_send_nothing_to_the_internet_serves_its_own_site_all_the_same() {
        assert_eq!(served(&[false]), [PeerKey(1)]);
        assert_eq!(served(&[]), [PeerKey(1), PeerKey(2)]);
        assert_eq!(served(&[false, true]), [PeerKey(1), PeerKey(2)]);
    }
}
