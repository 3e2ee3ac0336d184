//! What we ask of peers, and what becomes of it.

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::swarm::Swarm;
use crate::swarm::doubt::Doubt;
use crate::swarm::event::{BanReason, FetchId, Message, PeerKey, RejectReason, Scope, Supplier};
use crate::swarm::limits::{
    ALIVE_BYTES, BUSY_PAUSE, OUTSIDE_PATIENCE, PIPELINE_PIECES_MIN, PUMP_MAX, PUT_OFF, SILENT_PAUSE, SLOW_ANSWERS,
    STARTED_STEPS_MAX, SUPER_SEEDING_LASTS, TIMEOUT_MAX, TIMEOUT_MIN, TIMEOUTS_MAX, UNASKED_MAX,
};
use crate::swarm::peer::{Ask, Peer};
use crate::swarm::peers::Role;
use crate::swarm::pieces::{PieceState, Stored};
use crate::swarm::requests::Debtor;
use crate::swarm::score::Verdict;
use crate::swarm::timer::Timer;

impl Swarm {
    /// Every peer that may have room looks for work again.
    pub(crate) fn wake_peers(&mut self) {
        self.ready.extend(self.peers.cast(Role::Able));
    }

    /// Asks a peer for as much as its pipeline takes.
    pub(crate) fn pump_peer(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key).filter(|peer| !peer.is_well_fed()) else { return };
        let (far, guarded) = (!peer.is_near(), self.is_guarded(peer));
        for _ in 0..PUMP_MAX {
            if far && !self.may_cross() {
                break;
            }
            let Some(piece) = self.next_piece(key) else { break };
            self.ask(key, piece);
        }
        if guarded {
            self.decline_outside(key);
        } else {
            self.decline(key);
        }
    }

    fn next_piece(&mut self, key: PeerKey) -> Option<PieceIndex> {
        let first = self.peers.get(&key).is_some_and(|peer| peer.deals_turns && peer.asks.is_empty());
        if first && self.is_full() {
            return None;
        }
        let (busy, sound) = (self.peers.count(Role::Busy), self.peers.count(Role::Sound));
        self.vouching.lacking = self.peers.count(Role::Lacking) as u64;
        let peer = self.peers.get(&key)?;
        if peer.they_choke || peer.useful == 0 || peer.paused_until > self.now || !self.is_to_be_tried(peer) {
            return None;
        }
        let on_parole = self.records.on_parole(peer.id);
        if !peer.has_room(on_parole, self.piece_bytes(), busy as u64) || self.has_fair_share(peer, sound) {
            return None;
        }
        if self.is_guarded(peer) {
            return self.pick_outside(key);
        }
        let urgent = if on_parole { None } else { self.pick_urgent(key) };
        if let Some(piece) = urgent.or_else(|| self.pick(key)) {
            return Some(piece);
        }
        // Nothing left that nobody owes. Blame must stay exact, so none of the rest for a peer on parole.
        if on_parole || self.peers.get(&key)?.doubt.is_some() || self.peers.get(&key)?.super_seeding_until > self.now {
            return None;
        }
        self.pick_from_fetches(key).or_else(|| self.pick_hedge(key))
    }

    /// Bytes of a whole piece; of the first file, as the others differ only where one is huge.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.pieces.layout().places().first().map_or(BLOCK_BYTES, |place| place.layout.piece_bytes())
    }

    /// Near the end no peer takes more than its part of what is left, lest it become the one all wait for. `sound`: peers
    /// that would take the rest.
    fn has_fair_share(&self, peer: &Peer, sound: usize) -> bool {
        let wanted = self.pieces.wanted_count();
        let (count, _) = peer.outstanding();
        if count < PIPELINE_PIECES_MIN || wanted > 512 {
            return false;
        }
        count > wanted as usize / sound.max(1)
    }

    /// A piece that nobody owes: offered, then the last one where it proves the length, then started, then by order
    /// or rarity.
    fn pick(&mut self, key: PeerKey) -> Option<PieceIndex> {
        let now = self.now;
        let peer = self.peers.get_mut(&key)?;
        while let Some(piece) = peer.offers.pop_front() {
            if self.pieces.state(piece) == Some(PieceState::Wanted) && peer.has(piece) {
                peer.put_off.remove(&piece);
                if peer.may_be_asked(piece, now) {
                    return Some(piece);
                }
            }
        }
        if peer.super_seeding_until > now {
            return None;
        }
        let peer = self.peers.get(&key)?;
        // Of a doubted peer only what nobody else has, lest a piece that another would send waits for it.
        let (sound, picker) = (peer.doubt.is_none(), &self.pieces.picker);
        let fits = |piece: PieceIndex| peer.may_be_asked(piece, now) && (sound || picker.holders(piece) == 0);
        let wants = |piece: &PieceIndex| {
            self.pieces.state(*piece) == Some(PieceState::Wanted) && peer.has(*piece) && fits(*piece)
        };
        let last = self.pieces.layout().piece_count().checked_sub(1).map(PieceIndex);
        if let Some(last) = last.filter(|last| self.options.last_piece_first && wants(last)) {
            return Some(last);
        }
        if let Some(piece) = self.pieces.started_wanted(STARTED_STEPS_MAX).find(|piece| wants(piece)) {
            return Some(piece);
        }
        let bits = peer.bits.as_ref()?;
        if self.options.sequential {
            return self.pieces.picker.first(bits, fits);
        }
        if let Some(piece) = self.pick_ahead(peer, fits) {
            return Some(piece);
        }
        self.pieces.picker.rarest(bits, &mut self.rng, fits)
    }

    fn ask(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.outstanding().0 == 0 {
            peer.progress_at = self.now;
            peer.receiving = 0;
        }
        peer.rate.begin(self.now);
        let far = !peer.is_near();
        let bytes = self.pieces.missing_bytes(piece);
        let doubted = peer.doubt.is_some();
        peer.asks.insert(piece, Ask { since: self.now, bytes, late: doubted });
        if !doubted {
            self.pieces.request(piece);
            self.ledger.owe(piece, Debtor::Peer(key));
        }
        self.stats.requests += 1;
        if far {
            self.crosses(bytes);
            self.outside.untold = true;
        }
        let first_block = self.pieces.first_missing_block(piece);
        self.send(key, Message::Request { piece, first_block });
    }

    /// A request is over. Returns whether there was one.
    pub(crate) fn end_ask(&mut self, key: PeerKey, piece: PieceIndex) -> Option<Ask> {
        let peer = self.peers.get_mut(&key)?;
        let ask = peer.asks.remove(&piece)?;
        self.room_made = true;
        if peer.asks.is_empty() {
            peer.rate.end(self.now);
        }
        if !peer.is_near() {
            self.crosses_not(ask.bytes);
        }
        self.ready.insert(key);
        Some(ask)
    }

    /// A peer owes a piece no longer.
    pub(crate) fn release_from_peer(&mut self, piece: PieceIndex, key: PeerKey) {
        self.release(piece, Debtor::Peer(key));
    }

    pub(crate) fn release(&mut self, piece: PieceIndex, debtor: Debtor) {
        if self.ledger.forgive(piece, debtor) {
            self.pieces.release(piece);
            self.room_made = true;
        }
    }

    /// Takes a request back; what comes of it all the same is not held against the peer.
    pub(crate) fn cancel_ask(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(ask) = self.end_ask(key, piece) else { return };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.unasked_credit = peer.unasked_credit.saturating_add(ask.bytes);
            // Asked again at once, the old answer could cross the new request.
            peer.put_off(piece, self.now.after(BUSY_PAUSE), self.now);
        }
        self.release_from_peer(piece, key);
        self.send(key, Message::Cancel(piece));
    }

    pub(crate) fn block_stored(&mut self, supplier: Supplier, piece: PieceIndex, block: BlockIndex) {
        let bytes = self.pieces.layout().block_length(piece, block).unwrap_or(0);
        let stored = self.pieces.store(piece, block);
        let new = matches!(stored, Stored::Block | Stored::Piece);
        if !new {
            self.stats.bytes_duplicate += bytes;
        }
        match supplier {
            Supplier::Peer(key) => {
                if new {
                    self.stats.bytes_from_peers += bytes;
                    // Who has left meanwhile counts with the farthest.
                    let known = self.peers.get_mut(&key).map(|peer| (peer.scope, std::mem::take(&mut peer.counted)));
                    let (scope, counted) = known.unwrap_or((Scope::Internet, 0));
                    self.peer_rates.add(scope, self.now, bytes.saturating_sub(counted));
                    self.fallback.arrived(self.now);
                }
                self.credit_peer(key, piece, bytes);
            }
            Supplier::Source(source) => {
                if new {
                    self.stats.bytes_from_sources += bytes;
                    if self.is_held_for_us(piece) {
                        self.stats.origin_bytes_with_peer_available += bytes;
                    }
                }
                self.credit_source(source, piece, bytes);
            }
        }
        if new {
            self.received_at = self.now;
            self.arrivals.add(self.now, bytes);
        }
        if stored == Stored::Piece {
            self.piece_held(piece);
        }
    }

    fn credit_peer(&mut self, key: PeerKey, piece: PieceIndex, bytes: u64) {
        self.believe(key);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.rate.add(self.now, bytes);
        peer.recent_in.add(self.now, bytes);
        peer.bytes_in = peer.bytes_in.saturating_add(bytes);
        (peer.progress_at, peer.timeouts, peer.receiving) = (self.now, 0, 0);
        if !peer.is_near() {
            self.lease.proven = true;
            self.outside.rate.add(self.now, bytes);
        }
        self.records.good(peer.id, bytes, self.now);
        self.vouching.borne_out(&peer.address, piece);
        // The blocks of a piece are written side by side, so the last one may be there before the others: what is
        // answered is told by bytes.
        let answered = peer.asks.get_mut(&piece).is_none_or(|ask| {
            ask.bytes = ask.bytes.saturating_sub(bytes);
            // As TCP smooths round trips (RFC 6298). One answer cannot stretch it much, whoever sends it and when.
            let answer = self.now.since(ask.since).min(self.response * 2 + TIMEOUT_MIN);
            self.response = (self.response * 7 + answer) / 8;
            ask.bytes == 0
        });
        if answered || self.pieces.state(piece) == Some(PieceState::Held) {
            self.end_ask(key, piece);
            self.release_from_peer(piece, key);
        }
        self.ready.insert(key);
    }

    /// A piece is whole: nobody owes it any more, and everybody hears of it.
    fn piece_held(&mut self, piece: PieceIndex) {
        for debtor in self.ledger.settle(piece) {
            match debtor {
                Debtor::Peer(key) => self.cancel_ask(key, piece),
                Debtor::Fetch(fetch) => self.trim_fetch(fetch),
            }
        }
        self.duty.arrived(piece, |piece| self.pieces.length(piece));
        self.announce(piece);
        if self.is_complete() {
            self.flush_haves();
            self.finish();
        }
    }

    /// Everything is here: what is still under way is taken back.
    fn finish(&mut self) {
        let asked: Vec<(PeerKey, PieceIndex)> =
            self.peers.values().flat_map(|peer| peer.asks.keys().map(|piece| (peer.key, *piece))).collect();
        asked.into_iter().for_each(|(key, piece)| self.cancel_ask(key, piece));
        let fetches: Vec<FetchId> = self.fetches.keys().copied().collect();
        fetches.into_iter().for_each(|fetch| self.cancel_fetch(fetch));
        self.check_complete();
        self.count_leechers();
    }

    pub(crate) fn block_bad(&mut self, supplier: Supplier, piece: PieceIndex, block: BlockIndex) {
        self.stats.bytes_bad += self.pieces.layout().block_length(piece, block).unwrap_or(0);
        // Until the last piece proves the length, a mismatch may be the manifest's fault; the caller condemns that.
        let last = self.pieces.layout().piece_count().saturating_sub(1);
        let proven = !self.options.last_piece_first || self.pieces.held().has(PieceIndex(last));
        match supplier {
            Supplier::Peer(key) => self.peer_lied(key, piece, proven),
            Supplier::Source(source) => self.source_lied(source, piece, proven),
        }
    }

    fn peer_lied(&mut self, key: PeerKey, piece: PieceIndex, proven: bool) {
        self.cancel_ask(key, piece);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.put_off(piece, self.now.after(PUT_OFF), self.now);
        if !proven {
            return;
        }
        match self.records.bad(peer.id, self.now) {
            Verdict::Ban => self.ban(key, BanReason::BadBytes),
            // What it owes already may still come: right, it is kept; wrong, it is the peer's last.
            Verdict::Parole => {
                if self.peers.get(&key).is_some_and(|peer| peer.bytes_in == 0) {
                    self.doubt(key, Doubt::Lied);
                }
                self.wake_peers();
            }
        }
    }

    pub(crate) fn receiving(&mut self, supplier: Supplier, bytes: u64) {
        match supplier {
            Supplier::Peer(key) => {
                let Some(peer) = self.peers.get_mut(&key) else { return };
                peer.receiving = peer.receiving.saturating_add(bytes);
                // No more than a block can be unfinished, whatever is reported.
                let more = bytes.min(BLOCK_BYTES.saturating_sub(peer.counted));
                peer.counted = peer.counted.saturating_add(more);
                self.peer_rates.add(peer.scope, self.now, more);
                if peer.receiving >= ALIVE_BYTES {
                    (peer.progress_at, peer.receiving) = (self.now, 0);
                }
            }
            Supplier::Source(source) => {
                let now = self.now;
                self.fetches.values_mut().filter(|it| it.source == source).for_each(|it| it.progress_at = now);
                // Slow is not dead, neither to us nor to those who wait for our duty.
                self.lease.proven |= bytes >= ALIVE_BYTES;
            }
        }
    }

    pub(crate) fn unasked(&mut self, key: PeerKey, bytes: u64) {
        self.stats.bytes_unasked = self.stats.bytes_unasked.saturating_add(bytes);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(left) = peer.unasked_credit.checked_sub(bytes) {
            peer.unasked_credit = left;
            return;
        }
        peer.unasked_frames += 1;
        if peer.unasked_frames >= UNASKED_MAX {
            self.ban(key, BanReason::Unasked);
        }
    }

    pub(crate) fn rejected(&mut self, key: PeerKey, piece: PieceIndex, reason: RejectReason) {
        if self.end_ask(key, piece).is_none() {
            return;
        }
        self.release_from_peer(piece, key);
        self.stats.requests_rejected += 1;
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match reason {
            RejectReason::NotHeld | RejectReason::OutOfRange => self.drop_bit(key, piece),
            RejectReason::Choked => peer.they_choke = true,
            RejectReason::Stopping => {
                peer.they_choke = true;
                peer.paused_until = now.after(PUT_OFF);
            }
            // It may be handed on to somebody who holds the piece now; for others this peer is as good as before.
            RejectReason::Busy => {
                if !peer.put_off(piece, now.after(BUSY_PAUSE), now) {
                    peer.paused_until = now.after(BUSY_PAUSE);
                }
            }
            RejectReason::SuperSeeding => {
                peer.super_seeding_until = now.after(SUPER_SEEDING_LASTS);
                if !peer.put_off(piece, now.after(BUSY_PAUSE), now) {
                    peer.paused_until = now.after(BUSY_PAUSE);
                }
                // Its first copies are for others now, and may soon be out.
                self.timers.set_sooner(Timer::Housekeeping, now.after(SUPER_SEEDING_LASTS));
            }
        }
    }

    /// Peers that were silent for too long: what they owe may be asked of others.
    pub(crate) fn check_timeouts(&mut self) {
        let now = self.now;
        let busy = self.peers.cast(Role::Busy).to_vec();
        // Where everybody is slow to answer, as behind one access point, nobody is silent for that.
        let patience = (self.response * SLOW_ANSWERS).min(TIMEOUT_MAX);
        let guarded = self.outside.is_guarded();
        let of = |peer: &Peer| if guarded && !peer.is_near() { patience.max(OUTSIDE_PATIENCE) } else { patience };
        let late = |peer: &Peer| now.since(peer.progress_at) >= peer.timeout().max(of(peer));
        let silent: Vec<PeerKey> = busy.into_iter().filter(|key| self.peers.get(key).is_some_and(late)).collect();
        for key in silent {
            self.time_out(key);
        }
    }

    pub(crate) fn time_out(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.progress_at = self.now;
        // The oldest one may be half way here; it is taken if it comes. What was late already is given up.
        let oldest = peer.asks.iter().filter(|(_, ask)| !ask.late).min_by_key(|(_, ask)| ask.since);
        let oldest = oldest.map(|(piece, _)| *piece).filter(|_| !peer.they_choke || peer.deals_turns);
        let others: Vec<PieceIndex> = peer.asks.keys().copied().filter(|piece| Some(*piece) != oldest).collect();
        if let Some(ask) = oldest.and_then(|piece| peer.asks.get_mut(&piece)) {
            ask.late = true;
        }
        if !peer.they_choke || peer.deals_turns {
            peer.timeouts += 1;
        }
        // Where others deliver, silence may be a full line's or an access point's fault: it rests, longer each time.
        let over = peer.timeouts.checked_sub(TIMEOUTS_MAX);
        let given_up = over.is_some() && peer.bytes_in == 0 && self.received_at <= peer.up_since;
        if let Some(over) = over {
            peer.paused_until = self.now.after(SILENT_PAUSE.saturating_mul(1 << over.min(5)));
        }
        self.stats.requests_timed_out += others.len() as u64 + u64::from(oldest.is_some());
        others.into_iter().for_each(|piece| self.cancel_ask(key, piece));
        if let Some(piece) = oldest {
            self.release_from_peer(piece, key);
        }
        if given_up {
            self.ban(key, BanReason::NeverDelivers);
        }
        self.wake_peers();
        self.origin_ready = true;
    }

    pub(crate) fn local_lost(&mut self, piece: PieceIndex) {
        if !self.pieces.lose(piece) {
            return;
        }
        self.stats.pieces_lost += 1;
        // It may still wait in the batch of what we say we hold.
        self.haves.retain(|have| *have != piece);
        self.outside.haves.retain(|have| *have != piece);
        for key in self.peers.keys().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.has(piece)) {
                peer.useful += 1;
            }
            self.send(key, Message::Lost(piece));
            self.show_interest(key);
            self.refuse_queued(key, piece);
        }
        self.timers.set_if_unset(Timer::Housekeeping, self.now);
        self.room_made = true;
        self.received_at = self.now;
        self.wake_peers();
        self.origin_ready = true;
    }
}
