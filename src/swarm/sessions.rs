//! Sessions: peers come, go and speak. Everything they say is checked here before anything relies on it.

use std::ops::Range;
use std::time::Duration;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::candidate::{gateway_rank, rank_key, token_key};
use crate::swarm::doubt::Doubt;
use crate::swarm::event::{Action, AddressKey, BanReason, Condition, Member, Message, NodeId, PeerKey, Scope};
use crate::swarm::limits::{
    BAN_BAD_BYTES, BAN_OTHER, CANDIDATES_PER_TELLER, HAVES_MAX, HAVES_OUTSIDE, MEMBERS_BATCH,
    MEMBERS_GATEWAYS_INTERVAL, MEMBERS_INTERVAL, MEMBERS_PER_MESSAGE, NEIGHBOURS_WANTED, OFFERS_KEPT_MAX, PEERS_MAX,
};
use crate::swarm::peer::Peer;
use crate::swarm::pieces::PieceState;
use crate::swarm::timer::{Timer, Uptime};
use crate::swarm::view::Fault;

impl Swarm {
    pub(crate) fn peer_up(
        &mut self,
        key: PeerKey,
        id: NodeId,
        address: AddressKey,
        member: Option<Member>,
        scope: Scope,
        round_trip: Duration,
    ) {
        if self.peers.contains_key(&key) {
            return;
        }
        if self.asleep || (self.peers.len() >= PEERS_MAX && !self.make_room()) {
            self.actions.push_back(Action::Disconnect { peer: key });
            return;
        }
        // What the batch holds is in the bitfield below, and said twice it would be an offer.
        self.flush_haves();
        self.flush_haves_outside();
        let keys = (rank_key(&self.options.topic, &id), token_key(&id));
        let count = self.pieces.layout().piece_count();
        let mut peer = Peer::new(key, id, address, scope, round_trip, keys, count, self.now);
        peer.we_choke = !(peer.is_cooperative() && self.has_free_slot());
        let we_choke = peer.we_choke;
        let near = peer.is_near();
        self.peers.insert(peer);
        self.members.met(id);
        self.isolation.connected();
        self.side_joined(near);
        if near || !self.outside.is_guarded() {
            self.members_changed_at = Some(self.now);
        }
        self.send(key, Message::Bitfield(self.pieces.held().clone()));
        if self.me.condition != Condition::default() {
            self.send(key, Message::Condition(self.me.condition));
        }
        // Intents before the choke: with that the other side knows that it has heard them all.
        self.tell_intents(Some(key));
        self.send(key, Message::Choke(we_choke));
        if let Some(member) = member {
            let rank = if near { self.duty_rank(keys) } else { 0 };
            self.members.joined(key, member, rank, self.duty.floor());
        }
        // The others hear of it a moment later, of all who came meanwhile at once.
        self.tell_members(Some(key));
        self.timers.set_sooner(Timer::Members, self.now.after(MEMBERS_BATCH));
        self.origin_ready = true;
    }

    /// Ends one session that serves neither side: both are complete. In a large site also one of a guest for whom nothing is
    /// under way.
    fn make_room(&mut self) -> bool {
        let idle = self.peers.values().find(|peer| self.is_complete() && peer.is_complete());
        // Those who may have duties in a large site need each other.
        let guest = |peer: &&Peer| peer.condition.unstable && peer.asks.is_empty() && peer.serving.is_empty();
        let large = self.duty.is_large() && !self.me.condition.unstable;
        let idle = idle.or_else(|| self.peers.values().find(guest).filter(|_| large)).map(|peer| peer.key);
        if let Some(peer) = idle {
            self.remove_peer(peer);
            self.actions.push_back(Action::Disconnect { peer });
        }
        idle.is_some()
    }

    /// Forgets a session; what it owed is free again. Later events of it are ignored.
    pub(crate) fn remove_peer(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        let counted = peer.doubt.is_none();
        if peer.counted_as_seed && counted {
            self.pieces.picker.count_seed(false);
        }
        for piece in peer.bits.iter().flat_map(Bitfield::iter_held) {
            if !peer.counted_as_seed && counted {
                self.pieces.picker.count(piece, false);
            }
            if self.complete_said && self.pieces.picker.holders(piece) == 0 {
                self.seeding.unseen(piece);
            }
        }
        for piece in peer.asks.keys() {
            self.release_from_peer(*piece, key);
        }
        self.seeding.forget(key);
        self.passing.forget(key);
        self.duty.forget(key);
        self.members.left(key, &peer.id);
        if peer.is_near() || !self.outside.is_guarded() {
            self.members_changed_at = Some(self.now);
        }
        self.side_left(&peer);
        self.wake_peers();
        if !peer.serving.is_empty() {
            self.pause_upload_clock();
        }
        if !peer.we_choke && peer.they_are_interested {
            self.fill_slots();
        }
        self.count_leechers();
        (self.origin_ready, self.upload_ready) = (true, true);
    }

    /// Sends a peer away for an offence.
    pub(crate) fn ban(&mut self, key: PeerKey, reason: BanReason) {
        let Some(peer) = self.peers.get(&key) else { return };
        let lasts = if reason == BanReason::BadBytes { BAN_BAD_BYTES } else { BAN_OTHER };
        let fault = Fault::Peer { peer: key, id: peer.id, reason, at: self.now };
        self.stats.bans += 1;
        self.note(fault);
        self.remove_peer(key);
        self.actions.push_back(Action::Ban { peer: key, reason, lasts });
    }

    /// A message of a peer. Each costs tokens by what it could be abused for.
    pub(crate) fn said(&mut self, key: PeerKey, message: Message) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let price = match &message {
            Message::Have(pieces) => 1 + pieces.len() as u64 / 4,
            Message::Interested(_) | Message::Choke(_) | Message::Request { .. } | Message::Cancel(_) => 2,
            Message::Lost(_) | Message::Reject { .. } | Message::Condition { .. } => 4,
            Message::Intent { pieces, .. } => 16 + 4 * pieces.len() as u64,
            Message::Members(members) => 16 + 4 * members.len() as u64,
            Message::Bitfield(_) => 64,
        };
        if !peer.budget.spend(self.now, price) {
            return self.ban(key, BanReason::Flood);
        }
        // Whoever says more than its pieces, condition and intents has told us all of them.
        let first = matches!(message, Message::Bitfield(_) | Message::Intent { .. } | Message::Condition { .. });
        if peer.bits.is_some() && !first && !peer.synced {
            peer.synced = true;
            self.origin_ready = true;
        }
        match message {
            Message::Bitfield(bits) => self.bitfield(key, bits),
            Message::Have(pieces) => self.have(key, &pieces),
            Message::Lost(piece) => self.lost(key, piece),
            Message::Interested(interested) => self.interested(key, interested),
            Message::Choke(choked) => self.choked(key, choked),
            Message::Request { piece, first_block } => self.requested(key, piece, first_block),
            Message::Cancel(piece) => self.cancelled(key, piece),
            Message::Reject { piece, reason } => self.rejected(key, piece, reason),
            Message::Intent { pieces, lease } => self.intent(key, &pieces, lease),
            Message::Members(members) => self.heard_members(key, members),
            Message::Condition(condition) => self.condition(key, condition),
        }
    }

    fn bitfield(&mut self, key: PeerKey, bits: Bitfield) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.bits.is_some() || bits.piece_count() != self.pieces.layout().piece_count() {
            return self.ban(key, BanReason::Protocol);
        }
        peer.counted_as_seed = bits.is_complete();
        peer.useful = 0;
        let near = peer.is_near();
        let ours = near || !self.outside.is_guarded();
        // Counted below, if it is believed.
        if near && peer.counted_as_seed && self.vouching.lost {
            peer.doubt = Some(Doubt::Unvouched);
        }
        let counted = peer.doubt.is_none();
        for piece in bits.iter_held() {
            peer.useful += u32::from(self.pieces.is_missing(piece));
            // Who says that it holds everything settles no claim: those are withdrawn by who made them.
            if ours && !peer.counted_as_seed {
                self.duty.arrived(piece, |piece| self.pieces.length(piece));
            }
            if near && counted {
                self.outside.count(piece, true);
            }
            self.seeding.seen(piece);
            self.passing.shown(piece, key);
        }
        // Whoever is outside is asked when the site's members are known.
        peer.declined = !ours;
        if peer.counted_as_seed && counted {
            self.pieces.picker.count_seed(true);
        } else if counted {
            bits.iter_held().for_each(|piece| self.pieces.picker.count(piece, true));
        }
        peer.bits = Some(bits);
        self.duty.stale |= self.duty.may_rank(peer.rank_key);
        if ours {
            self.members_changed_at = Some(self.now);
        }
        self.show_interest(key);
        self.count_leechers();
        self.ready.insert(key);
        self.origin_ready = true;
    }

    fn have(&mut self, key: PeerKey, pieces: &[PieceIndex]) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let (count, near, address) = (self.pieces.layout().piece_count(), peer.is_near(), peer.address);
        let Some(bits) = peer.bits.as_mut().filter(|_| pieces.iter().all(|piece| piece.0 < count)) else {
            return self.ban(key, BanReason::Protocol);
        };
        let was_complete = bits.is_complete();
        let (declined, counted, came_whole) = (peer.declined, peer.doubt.is_none(), peer.counted_as_seed);
        let ours = near || !self.outside.is_guarded();
        let mut unexplained = None;
        for piece in pieces {
            if !bits.set(*piece) {
                // Said again: a super-seeding peer offers it to us.
                if peer.offers.len() < OFFERS_KEPT_MAX && self.pieces.is_missing(*piece) {
                    peer.offers.push_back(*piece);
                }
                continue;
            }
            peer.useful += u32::from(self.pieces.is_missing(*piece));
            self.seeding.seen(*piece);
            self.passing.shown(*piece, key);
            if !counted {
                continue;
            }
            let length = |piece| self.pieces.length(piece);
            let first = near && !came_whole && self.pieces.picker.holders_but_seeds(*piece) == 0;
            if first && self.pieces.is_missing(*piece) && !self.duty.explains(key, *piece) {
                unexplained = Some(*piece);
            }
            let held = self.outside.holders_near(*piece).unwrap_or_else(|| self.pieces.picker.holders(*piece)) > 0;
            match (ours, held) {
                (true, false) => self.duty.brought(key, address, *piece, length, self.now),
                (true, true) => self.duty.arrived(*piece, length),
                // What is held outside is still to be brought here.
                (false, _) => {}
            }
            if near {
                self.outside.count(*piece, true);
            }
            self.pieces.picker.count(*piece, true);
        }
        if bits.is_complete() && !was_complete {
            self.duty.stale |= self.duty.may_unrank(key);
            self.count_leechers();
        }
        let wanted = |piece: &PieceIndex| self.pieces.state(*piece) == Some(PieceState::Wanted);
        if declined && ours && pieces.iter().any(wanted) {
            self.accept_news(key);
        }
        self.show_interest(key);
        self.ready.insert(key);
        self.hand_on(key, pieces);
        if let Some(piece) = unexplained {
            self.vouch(key, piece);
        }
    }

    fn lost(&mut self, key: PeerKey, piece: PieceIndex) {
        if piece.0 >= self.pieces.layout().piece_count() {
            return self.ban(key, BanReason::Protocol);
        }
        self.drop_bit(key, piece);
    }

    /// A peer does not hold a piece after all; no offence.
    pub(crate) fn drop_bit(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let near = peer.is_near();
        let Some(bits) = peer.bits.as_mut() else { return };
        let was_complete = bits.is_complete();
        if !bits.clear(piece) {
            return;
        }
        let counted = peer.doubt.is_none();
        if near && counted {
            self.outside.count(piece, false);
        }
        peer.useful -= u32::from(self.pieces.is_missing(piece) && peer.useful > 0);
        if std::mem::take(&mut peer.counted_as_seed) {
            if counted {
                self.pieces.picker.count_seed(false);
                bits.iter_held().for_each(|piece| self.pieces.picker.count(piece, true));
            }
        } else if counted {
            self.pieces.picker.count(piece, false);
        }
        if self.complete_said && self.pieces.picker.holders(piece) == 0 {
            self.seeding.unseen(piece);
        }
        self.duty.stale |= was_complete && self.duty.may_rank(peer.rank_key);
        self.end_ask(key, piece);
        self.release_from_peer(piece, key);
        self.show_interest(key);
        self.origin_ready = true;
    }

    fn choked(&mut self, key: PeerKey, choked: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.they_choke = choked;
        peer.deals_turns |= choked && peer.is_cooperative();
        if choked {
            // With its turn went what it had kept for us.
            peer.offers.clear();
        }
        if !choked {
            self.ready.insert(key);
        }
    }

    fn intent(&mut self, key: PeerKey, pieces: &[Range<u32>], lease: Duration) {
        let Some(peer) = self.peers.get(&key) else { return };
        let count = self.pieces.layout().piece_count();
        if pieces.iter().any(|range| range.start > range.end || range.end > count) {
            return self.ban(key, BanReason::Protocol);
        }
        if !peer.is_near() {
            return;
        }
        let address = peer.address;
        let (own, outside, duty) = (&self.pieces, &self.outside, &mut self.duty);
        // Who says that it holds everything may come to be doubted: then the claim counts.
        let held = |piece| outside.holders_near(piece).unwrap_or_else(|| own.picker.holders_but_seeds(piece)) > 0;
        let open = |piece| own.is_missing(piece) && !held(piece);
        duty.intent(key, address, pieces, lease, |piece| own.length(piece), open, self.now);
        if lease.is_zero() {
            self.origin_ready = true;
        } else if self.duty.is_believed(key, self.now) {
            self.yield_to(key, pieces);
        }
    }

    /// Says whether we want anything of a peer, if that changed.
    pub(crate) fn show_interest(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let interested = peer.useful > 0 && !peer.declined;
        if interested != peer.we_are_interested {
            peer.we_are_interested = interested;
            self.send(key, Message::Interested(interested));
        }
    }

    /// A piece is held now: everybody is told, soon.
    pub(crate) fn announce(&mut self, piece: PieceIndex) {
        self.haves.push(piece);
        if self.haves.len() >= HAVES_MAX {
            self.flush_haves();
        }
        self.timers.set_if_unset(Timer::Haves, self.now.after(self.options.have_batch));
        for key in self.peers.want_no_more(piece) {
            self.show_interest(key);
        }
    }

    pub(crate) fn flush_haves(&mut self) {
        self.timers.clear(Timer::Haves);
        let haves = std::mem::take(&mut self.haves);
        if haves.is_empty() {
            return;
        }
        let guarded = self.outside.is_guarded();
        for peer in self.peers.values().filter(|peer| peer.is_near() || !guarded).map(|peer| peer.key) {
            self.actions.push_back(Action::Send { peer, message: Message::Have(haves.clone()) });
        }
        if guarded {
            self.outside.haves.extend(haves);
        }
        if self.is_complete() || !guarded || self.now.since(self.outside.haves_told_at) >= HAVES_OUTSIDE {
            self.flush_haves_outside();
        }
    }

    fn heard_members(&mut self, key: PeerKey, members: Vec<Member>) {
        let Some(peer) = self.peers.get(&key) else { return };
        let scope = peer.scope;
        let (mut told, floor) = (None, self.duty.floor());
        for member in members.into_iter().take(2 * MEMBERS_PER_MESSAGE) {
            if self.members.knows(&member) {
                continue;
            }
            // A member's id is the hash of its libp2p peer id; one of them is our own.
            let id = NodeId(*blake3::hash(&member.peer_id).as_bytes());
            let rank = self.duty_rank((rank_key(&self.options.topic, &id), token_key(&id)));
            if !self.members.has_room(rank, floor) || id == self.me.id || self.members.is_connected(&id) {
                continue;
            }
            let told = told.get_or_insert_with(|| self.members.told_by(key));
            if *told >= CANDIDATES_PER_TELLER {
                break;
            }
            if self.members.heard(key, scope, member, rank, floor, self.now) {
                *told += 1;
                // It may show how large the site is.
                self.duty.stale |= rank > floor;
            }
        }
        if told.is_some() {
            self.dial_members();
        }
    }

    /// What ranks a member of our site for origin duty, from its [`rank_key`] and [`token_key`]; never 0.
    fn duty_rank(&self, (rank, token): (u64, u64)) -> u64 {
        let rank = gateway_rank(rank).max(1);
        if self.options.background { rank.max(gateway_rank(token)) } else { rank }
    }

    pub(crate) fn dial_members(&mut self) {
        if self.is_complete() || self.options.no_peers || self.peers.len() >= PEERS_MAX {
            return;
        }
        // Enough neighbours do for spreading, but all of a site must come to the same gateways: whoever may be one is
        // dialled all the same, since only who has shaken hands counts.
        let no_duty = self.sources.is_empty() && !self.outside.is_guarded();
        let guest = self.duty.is_large() && self.me.condition.unstable;
        let floor = if no_duty || guest { u64::MAX } else { self.duty.floor() };
        let others = self.peers.len() < NEIGHBOURS_WANTED;
        let wanted = self.wanted_members(others);
        for member in self.members.dial(floor, wanted, self.now) {
            self.actions.push_back(Action::Connect { member });
        }
        if let Some(wait) = self.members.next_dial(floor, wanted, self.now) {
            self.timers.set_if_unset(Timer::Members, self.now.after(wait));
        }
    }

    /// Tells each peer, or `only` one, the members that came since it was told last; not more often than every few seconds.
    pub(crate) fn tell_members(&mut self, only: Option<PeerKey>) {
        let (mut later, floor) = (None, self.duty.floor());
        let mut not_before = |due: Uptime| later = Some(later.map_or(due, |later: Uptime| later.min(due)));
        for peer in self.peers.iter_mut().filter(|peer| only.is_none_or(|only| peer.key == only)) {
            let mut news = Vec::new();
            if self.members.has_news(peer.members_told) {
                let due = peer.members_told_at.map_or(self.now, |at| at.after(MEMBERS_INTERVAL));
                if due <= self.now {
                    (news, peer.members_told) = self.members.news(peer.key, peer.is_near(), peer.members_told);
                    if !news.is_empty() {
                        peer.members_told_at = Some(self.now);
                    }
                    peer.gateways_told = peer.members_told;
                } else {
                    not_before(due);
                }
            }
            if peer.is_near() && self.members.has_gateways(peer.gateways_told) {
                let due = peer.gateways_told_at.map_or(self.now, |at| at.after(MEMBERS_GATEWAYS_INTERVAL));
                if due <= self.now {
                    (news, peer.gateways_told) = self.members.gateways(peer.key, floor, peer.gateways_told);
                    peer.gateways_told_at = Some(self.now);
                } else {
                    not_before(due);
                }
            }
            if !news.is_empty() {
                self.actions.push_back(Action::Send { peer: peer.key, message: Message::Members(news) });
            }
        }
        if let Some(due) = later {
            self.timers.set_sooner(Timer::Members, due);
        }
    }
}
