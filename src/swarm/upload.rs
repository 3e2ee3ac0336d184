//! What peers ask of us: a queue each, served whole piece by whole piece, few at a time.

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::swarm::Swarm;
use crate::swarm::event::{Action, BanReason, Message, PeerKey, RejectReason};
use crate::swarm::limits::{
    SHARED_AIR_PIECES, TOKENS_PER_PIECE, UPLOAD_QUEUE_MAX, UPLOAD_STALLED, UPLOAD_WINDOW, UPLOAD_WINDOW_PIECES_MIN,
    UPLOAD_WINDOW_START,
};
use crate::swarm::peer::{Peer, Serving};
use crate::swarm::peers::Role;
use crate::swarm::rate::{bytes_in, time_for};
use crate::swarm::timer::Uptime;

impl Swarm {
    pub(crate) fn requested(&mut self, key: PeerKey, piece: PieceIndex, first_block: BlockIndex) {
        let Some(blocks) = self.pieces.layout().block_count(piece).filter(|count| first_block.0 < *count) else {
            return self.ban(key, BanReason::Protocol);
        };
        debug_assert!(blocks > 0, "a piece has a block");
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(queued) = peer.queue.iter_mut().find(|(queued, _)| *queued == piece) {
            queued.1 = first_block;
            return;
        }
        if peer.serving.get(&piece).is_some_and(|serving| !serving.cancelled) {
            return;
        }
        let refusal = if !self.pieces.held().has(piece) {
            Some(RejectReason::NotHeld)
        } else if peer.we_choke && !std::mem::take(&mut peer.late_turn) {
            Some(RejectReason::Choked)
        } else if peer.queue.len() + peer.serving.len() >= UPLOAD_QUEUE_MAX {
            Some(RejectReason::Busy)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.send(key, Message::Reject { piece, reason });
        }
        if self.prefers_first_copies(key, piece) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.queue.push_back((piece, first_block));
            self.upload_ready = true;
        }
    }

    pub(crate) fn cancelled(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.queue.retain(|(queued, _)| *queued != piece);
        if let Some(serving) = peer.serving.get_mut(&piece).filter(|serving| !serving.cancelled) {
            serving.cancelled = true;
            self.actions.push_back(Action::CancelServe { peer: key, piece });
        }
    }

    pub(crate) fn served(&mut self, key: PeerKey, piece: PieceIndex, bytes: u64, complete: bool) {
        self.stats.bytes_to_peers = self.stats.bytes_to_peers.saturating_add(bytes);
        self.upload_rate.add(self.now, bytes);
        self.upload_ready = true;
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.serving.remove(&piece);
            peer.upload_used_at = self.now;
            peer.bytes_out = peer.bytes_out.saturating_add(bytes);
            peer.recent_out.add(self.now, bytes);
            if complete {
                peer.budget.refund(TOKENS_PER_PIECE);
            }
        }
        if complete {
            self.first_copy_sent(key, piece);
        }
        self.pause_upload_clock();
    }

    /// Time counts for the upload rate only while something is under way.
    pub(crate) fn pause_upload_clock(&mut self) {
        if self.peers.count(Role::Serving) == 0 {
            self.upload_rate.end(self.now);
        }
    }

    /// Refuses what waits in a peer's queue: one piece that was lost.
    pub(crate) fn refuse_queued(&mut self, key: PeerKey, piece: PieceIndex) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let before = peer.queue.len();
        peer.queue.retain(|(queued, _)| *queued != piece);
        if peer.queue.len() < before {
            self.send(key, Message::Reject { piece, reason: RejectReason::NotHeld });
        }
    }

    /// A peer of the site holds pieces that others of it wait for here: of those who wait for one of them, half are sent away to
    /// ask it instead. Else all would wait in the queue of the first holder, and copies would not double each round.
    pub(crate) fn hand_on(&mut self, holder: PeerKey, pieces: &[PieceIndex]) {
        // Nobody is sent to who lets us wait, or is not believed.
        let sound = |peer: &Peer| peer.is_near() && peer.doubt.is_none() && !peer.is_snubbed();
        if self.peers.count(Role::Queued) < 2 || !self.peers.get(&holder).is_some_and(sound) {
            return;
        }
        let mut turns = self.peers.cast(Role::Queued).to_vec();
        let after = turns.partition_point(|key| *key <= self.upload_turn);
        turns.rotate_left(after);
        for piece in pieces {
            let waits = |key: &&PeerKey| {
                // What was asked over a line between sites is not sent away: it was counted on that line.
                let peer = self.peers.get(key).filter(|peer| peer.is_near());
                peer.is_some_and(|peer| peer.queue.iter().any(|(queued, _)| queued == piece))
            };
            let waiting: Vec<PeerKey> = turns.iter().filter(waits).copied().collect();
            // Those whose turn comes last.
            for key in waiting.iter().rev().take(waiting.len() / 2) {
                if let Some(peer) = self.peers.get_mut(key) {
                    peer.queue.retain(|(queued, _)| queued != piece);
                }
                self.void_gift(*key, *piece);
                self.send(*key, Message::Reject { piece: *piece, reason: RejectReason::Busy });
            }
        }
    }

    /// Refuses everything that waits in a peer's queue.
    pub(crate) fn refuse_all(&mut self, key: PeerKey, reason: RejectReason) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for (piece, _) in std::mem::take(&mut peer.queue) {
            self.void_gift(key, piece);
            self.send(key, Message::Reject { piece, reason });
        }
    }

    /// Bytes that may be under way to all peers together.
    fn upload_window(&self) -> u64 {
        if self.shared_air {
            return SHARED_AIR_PIECES * self.piece_bytes();
        }
        let by_rate = self.upload_rate.rate().map_or(UPLOAD_WINDOW_START, |rate| bytes_in(rate, UPLOAD_WINDOW));
        let least = self.piece_bytes() * UPLOAD_WINDOW_PIECES_MIN;
        // It opens as TCP's does, at half its pace: the first pieces go out few at a time, so that others can pass them on.
        by_rate.min(least.saturating_add(self.stats.bytes_to_peers / 2)).max(least)
    }

    /// Whether a send waits for its receiver, and not for our line.
    fn is_stalled(&self, serving: &Serving) -> bool {
        let fair = self.upload_rate.rate().map_or(UPLOAD_STALLED, |rate| time_for(4 * serving.bytes, rate));
        self.now.since(serving.since) >= fair.max(UPLOAD_STALLED)
    }

    /// Since when a peer makes nothing of its slot: it asks for nothing, or does not take what is sent.
    pub(crate) fn idle_since(&self, peer: &Peer) -> Option<Uptime> {
        let stalled = || peer.serving.values().all(|serving| self.is_stalled(serving));
        let begun = || peer.serving.values().map(|serving| serving.since).min();
        peer.idle_since().or_else(|| begun().filter(|_| stalled()))
    }

    /// Bytes under way that wait for our line, and not for a receiver that does not read.
    pub(crate) fn uploading(&mut self) -> u64 {
        let mut bytes = 0u64;
        self.peers.settle();
        for serving in self.peers.playing(Role::Serving).flat_map(|peer| peer.serving.values()) {
            if !self.is_stalled(serving) {
                bytes = bytes.saturating_add(serving.bytes);
            }
        }
        bytes
    }

    /// Hands pieces to the node, in turn over the peers, as far as the window reaches. A single peer gets all.
    pub(crate) fn pump_uploads(&mut self) {
        let mut turns = self.peers.cast(Role::Queued).to_vec();
        if turns.is_empty() {
            return self.deal_turns();
        }
        let waiting = |key: &&PeerKey| turns.binary_search(key).is_err();
        let served = turns.len() + self.peers.cast(Role::Serving).iter().filter(waiting).count();
        let after = turns.partition_point(|key| *key <= self.upload_turn);
        turns.rotate_left(after);
        let window = if served > 1 { self.upload_window() } else { u64::MAX };
        let mut uploading = self.uploading();
        self.hand_out(&turns, &mut uploading, window);
        self.deal_turns();
    }

    fn hand_out(&mut self, turns: &[PeerKey], uploading: &mut u64, window: u64) {
        // Each lap sends at most one piece a peer, and every queue is bounded.
        for _ in 0..UPLOAD_QUEUE_MAX {
            let mut any = false;
            for key in turns {
                if *uploading >= window {
                    return;
                }
                if let Some(bytes) = self.serve_next(*key) {
                    any = true;
                    *uploading = uploading.saturating_add(bytes);
                }
            }
            if !any {
                return;
            }
        }
    }

    fn serve_next(&mut self, key: PeerKey) -> Option<u64> {
        let peer = self.peers.get_mut(&key)?;
        // Asked for again after a cancel: not before the node is done with the first time.
        let place = peer.queue.iter().position(|(piece, _)| !peer.serving.contains_key(piece))?;
        let (piece, first_block) = peer.queue.remove(place)?;
        let bytes = self.pieces.length(piece).saturating_sub(u64::from(first_block.0) * BLOCK_BYTES);
        peer.serving.insert(piece, Serving { since: self.now, bytes, cancelled: false });
        self.upload_turn = key;
        self.upload_rate.begin(self.now);
        self.actions.push_back(Action::Serve { peer: key, piece, first_block });
        self.end_turn(key);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::content::bitfield::Bitfield;
    use crate::content::layout::FlatLayout;
    use crate::swarm::Options;
    use crate::swarm::event::{AddressKey, Event, NodeId, Scope};

    const PIECES: u32 = 8;
    const PIECE: PieceIndex = PieceIndex(0);

    /// A node that holds one piece, and peers that have asked for it.
    fn asked_by(scopes: &[Scope]) -> Swarm {
        let layout = FlatLayout::new([u64::from(PIECES) << 20]).expect("short").expect("few");
        let mut held = Bitfield::none(PIECES);
        held.set(PIECE);
        let (me, address) = (NodeId([9; 32]), AddressKey([9; 18]));
        let swarm = Swarm::new(Arc::new(layout), held, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO);
        let mut swarm = swarm.expect("it fits");
        for (number, scope) in (1u8..).zip(scopes) {
            let (peer, id, address) = (PeerKey(number.into()), NodeId([number; 32]), AddressKey([number; 18]));
            let round_trip = Duration::from_millis(1);
            let up = Event::PeerUp { peer, id, address, member: None, scope: *scope, round_trip };
            swarm.handle(Uptime::ZERO, up);
            let request = Message::Request { piece: PIECE, first_block: BlockIndex(0) };
            for message in [Message::Bitfield(Bitfield::none(PIECES)), Message::Interested(true), request] {
                swarm.handle(Uptime::ZERO, Event::Said { peer, message });
            }
        }
        swarm
    }

    /// To whom the piece goes, and who is sent away.
    fn outcome(swarm: &mut Swarm) -> (Vec<PeerKey>, Vec<PeerKey>) {
        let (mut served, mut sent_away) = (Vec::new(), Vec::new());
        while let Some(action) = swarm.poll_action() {
            match action {
                Action::Serve { peer, .. } => served.push(peer),
                Action::Send { peer, message: Message::Reject { reason: RejectReason::Busy, .. } } => {
                    sent_away.push(peer);
                }
                _ => {}
            }
        }
        (served, sent_away)
    }

    #[test]
    fn half_of_those_who_wait_are_sent_to_the_next_holder() {
        let mut swarm = asked_by(&[Scope::Site; 8]);
        let (served, sent_away) = outcome(&mut swarm);
        assert_eq!((served.len(), sent_away.len()), (3, 0), "three pieces at a time");
        let message = Message::Have(vec![PIECE]);
        swarm.handle(Uptime::ZERO, Event::Said { peer: served[0], message: message.clone() });
        let (more, sent_away) = outcome(&mut swarm);
        assert_eq!(more, []);
        assert_eq!(sent_away.len(), 2, "of five");
        let served_or_away = |peer: &PeerKey| served.contains(peer) || sent_away.contains(peer);
        assert_eq!((1..=8).map(PeerKey).filter(|peer| !served_or_away(peer)).count(), 3);
        // One more holder, and one of the last three goes.
        swarm.handle(Uptime::ZERO, Event::Said { peer: served[1], message });
        assert_eq!(outcome(&mut swarm).1.len(), 1);
    }

    #[test]
    fn a_stranger_s_word_sends_nobody_away() {
        let mut swarm = asked_by(&[Scope::Internet; 4]);
        let (served, _) = outcome(&mut swarm);
        for peer in served {
            swarm.handle(Uptime::ZERO, Event::Said { peer, message: Message::Have(vec![PIECE]) });
        }
        assert_eq!(outcome(&mut swarm).1, []);
    }
}
