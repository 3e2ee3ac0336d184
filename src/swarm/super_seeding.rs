//! Super-seeding: while a piece has no copy outside, a first holder sends only such pieces, each once.
//!
//! How it is said on the wire: a request for anything else is refused with `SuperSeeding`, and a `Have` of pieces that
//! the asker knows to be here already offers it first copies, kept for it. So a peer that asks at random is led, after
//! one refusal, to pieces that nobody else is sent. Whoever is refused without an offer asks again a little later. When
//! every piece was sent once, every request is served.

use std::collections::{BTreeMap, VecDeque};

use rand_chacha::ChaCha8Rng;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::event::{Message, PeerKey, RejectReason};
use crate::swarm::limits::{FIRST_COPY_LASTS, OFFER_LASTS, OFFER_STEPS_MAX, OFFERS_AHEAD};
use crate::swarm::random::below;
use crate::swarm::timer::Uptime;

/// A first copy that was promised or sent.
#[derive(Debug, Clone, Copy)]
struct Given {
    peer: PeerKey,
    /// Void from then on, if no copy has shown up.
    until: Uptime,
    /// It went out.
    sent: bool,
}

/// First copies: given ones, and where to find the next to give.
#[derive(Debug)]
pub(crate) struct SuperSeeding {
    given: BTreeMap<PieceIndex, Given>,
    /// Pieces of which a copy was seen outside.
    outside: Bitfield,
    /// Of those in `given`, how many went out.
    sent: u32,
    /// The walk over all pieces in a scattered order: `start + step * stride`, modulo their number.
    step: u32,
    start: u32,
    stride: u32,
    piece_count: u32,
    /// Pieces that lost their last copy outside after the walk had passed them.
    returned: VecDeque<PieceIndex>,
    /// Interested peers that lack something.
    leechers: u32,
}

impl SuperSeeding {
    pub(crate) fn new(piece_count: u32, rng: &mut ChaCha8Rng) -> Self {
        let count = piece_count.max(1);
        let start = below(rng, u64::from(count)) as u32;
        // Near the golden section, and coprime so that the walk meets every piece.
        let wish = (u64::from(count) * 618 / 1000) as u32;
        let stride = (wish.max(1)..=count.max(1)).find(|stride| gcd(*stride, count) == 1).unwrap_or(1);
        Self {
            given: BTreeMap::new(),
            outside: Bitfield::none(piece_count),
            sent: 0,
            step: 0,
            start,
            stride,
            piece_count,
            returned: VecDeque::new(),
            leechers: 0,
        }
    }

    /// A piece has a copy outside.
    pub(crate) fn seen(&mut self, piece: PieceIndex) {
        if self.outside.set(piece) {
            self.take_back(piece);
        }
    }

    fn take_back(&mut self, piece: PieceIndex) {
        let sent = self.given.remove(&piece).is_some_and(|given| given.sent);
        self.sent -= u32::from(sent);
    }

    /// Pieces that have neither a copy outside nor were sent.
    fn unsent(&self) -> u32 {
        self.piece_count.saturating_sub(self.outside.held_count()).saturating_sub(self.sent)
    }

    /// A piece has no copy outside any more.
    pub(crate) fn unseen(&mut self, piece: PieceIndex) {
        self.take_back(piece);
        self.outside.clear(piece);
        if self.step > 0 && self.returned.len() < self.piece_count as usize {
            self.returned.push_back(piece);
        }
    }

    /// A peer left; what it was given and has not announced may go to others.
    pub(crate) fn forget(&mut self, peer: PeerKey) {
        let void: Vec<PieceIndex> =
            self.given.iter().filter(|(_, given)| given.peer == peer).map(|(piece, _)| *piece).collect();
        void.into_iter().for_each(|piece| self.unseen(piece));
    }

    fn is_given_to_other(&self, piece: PieceIndex, peer: PeerKey, now: Uptime) -> bool {
        self.given.get(&piece).is_some_and(|given| given.peer != peer && given.until > now)
    }

    fn give(&mut self, piece: PieceIndex, peer: PeerKey, until: Uptime) {
        self.take_back(piece);
        self.given.insert(piece, Given { peer, until, sent: false });
    }

    /// A piece went out to whom it was given.
    fn sent(&mut self, piece: PieceIndex, peer: PeerKey, until: Uptime) {
        if let Some(given) = self.given.get_mut(&piece).filter(|given| given.peer == peer) {
            given.until = until;
            self.sent += u32::from(!std::mem::replace(&mut given.sent, true));
        }
    }

    /// The next piece for which `lacks_copy` holds and that nobody was given.
    fn next_fresh(&mut self, lacks_copy: impl Fn(PieceIndex) -> bool, now: Uptime) -> Option<PieceIndex> {
        for _ in 0..OFFER_STEPS_MAX {
            let piece = match self.returned.pop_front() {
                Some(piece) => piece,
                None if self.step < self.piece_count => {
                    let place = u64::from(self.start) + u64::from(self.step) * u64::from(self.stride);
                    self.step += 1;
                    PieceIndex((place % u64::from(self.piece_count)) as u32)
                }
                None => {
                    // The walk is over; promises that nobody kept are all that is left.
                    let void = |(piece, given): (&PieceIndex, &Given)| (given.until <= now).then_some(*piece);
                    let piece = self.given.iter().find_map(void)?;
                    self.take_back(piece);
                    piece
                }
            };
            if lacks_copy(piece) && self.given.get(&piece).is_none_or(|given| given.until <= now) {
                return Some(piece);
            }
        }
        None
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Swarm {
    /// Counts the interested peers that lack something: with fewer than two there is nobody to pass copies on.
    pub(crate) fn count_leechers(&mut self) {
        if self.is_complete() {
            let leech = self.peers.values().filter(|peer| peer.they_are_interested && !peer.is_complete()).count();
            self.seeding.leechers = u32::try_from(leech).unwrap_or(u32::MAX);
        }
    }

    /// Whether a request has to wait because first copies go first; refuses it then, with an offer instead.
    pub(crate) fn prefers_first_copies(&mut self, key: PeerKey, piece: PieceIndex) -> bool {
        if !self.is_complete() || self.seeding.leechers < 2 || self.pieces.picker.seeds() > 0 {
            return false;
        }
        if self.seeding.unsent() == 0 {
            return false;
        }
        let fresh = self.pieces.picker.holders(piece) == 0 && !self.seeding.is_given_to_other(piece, key, self.now);
        if fresh {
            self.seeding.give(piece, key, self.now.after(FIRST_COPY_LASTS));
            self.passing.given(piece, key);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.promised.remove(&piece);
                if peer.promised.len() < self.offers_ahead().div_ceil(2) {
                    self.offer(key);
                }
            }
            return false;
        }
        self.offer(key);
        // What is left was promised to others, who may not come for it: a second copy is better than an idle line.
        let nothing = self.peers.get(&key).is_some_and(|peer| peer.promised.is_empty());
        if nothing && self.uploading() == 0 {
            return false;
        }
        self.stats.super_seeding_rejects += 1;
        self.send(key, Message::Reject { piece, reason: RejectReason::SuperSeeding });
        true
    }

    /// With a slot come first copies, while there are any to give.
    pub(crate) fn offer_with_slot(&mut self, key: PeerKey) {
        let first = self.is_complete() && self.seeding.leechers >= 2 && self.pieces.picker.seeds() == 0;
        if first && self.seeding.unsent() > 0 {
            self.offer(key);
        }
    }

    /// First copies promised to one peer ahead of its requests: a few, and towards the end fewer, or those of a slow peer
    /// would be waited for.
    fn offers_ahead(&self) -> usize {
        let part = self.seeding.unsent() / (2 * self.seeding.leechers).max(1);
        (part as usize).clamp(1, OFFERS_AHEAD)
    }

    /// A peer is choked: what it was promised may go to others.
    pub(crate) fn void_promises(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        std::mem::take(&mut peer.promised).into_iter().for_each(|piece| self.void_gift(key, piece));
    }

    /// A first copy that was to go to a peer will not go there.
    pub(crate) fn void_gift(&mut self, key: PeerKey, piece: PieceIndex) {
        if self.seeding.given.get(&piece).is_some_and(|given| given.peer == key && !given.sent) {
            self.seeding.unseen(piece);
            self.passing.void(piece, key);
        }
    }

    /// Promises first copies to a peer. Returns whether there were any left to promise.
    fn offer(&mut self, key: PeerKey) -> bool {
        let ahead = self.offers_ahead();
        let (now, seeding, picker) = (self.now, &mut self.seeding, &self.pieces.picker);
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        // Promises that ran out or were kept in some other way make room.
        peer.promised.retain(|piece| seeding.given.get(piece).is_some_and(|it| it.peer == key && it.until > now));
        let mut offers = Vec::new();
        while peer.promised.len() < ahead {
            let lacks_copy = |piece| picker.holders(piece) == 0;
            let Some(piece) = seeding.next_fresh(lacks_copy, now) else { break };
            seeding.give(piece, key, now.after(OFFER_LASTS));
            peer.promised.insert(piece);
            offers.push(piece);
        }
        let any = !offers.is_empty();
        if any {
            self.send(key, Message::Have(offers));
        }
        any
    }

    /// A first copy was sent; it should be announced soon.
    pub(crate) fn first_copy_sent(&mut self, key: PeerKey, piece: PieceIndex) {
        self.seeding.sent(piece, key, self.now.after(FIRST_COPY_LASTS));
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_walk_meets_every_piece_once() {
        for count in [1, 2, 3, 8, 64, 97, 1000] {
            let mut seeding = SuperSeeding::new(count, &mut ChaCha8Rng::from_seed([5; 32]));
            let mut seen: Vec<u32> =
                std::iter::from_fn(|| seeding.next_fresh(|_| true, Uptime::ZERO)).map(|piece| piece.0).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
        let mut empty = SuperSeeding::new(0, &mut ChaCha8Rng::from_seed([5; 32]));
        assert_eq!(empty.next_fresh(|_| true, Uptime::ZERO), None);
    }

    #[test]
    fn a_promise_not_kept_is_given_to_another() {
        let mut seeding = SuperSeeding::new(1, &mut ChaCha8Rng::from_seed([5; 32]));
        let (piece, later) = (PieceIndex(0), Uptime::from_micros(10));
        assert_eq!(seeding.next_fresh(|_| true, Uptime::ZERO), Some(piece));
        seeding.give(piece, PeerKey(1), later);
        assert!(seeding.is_given_to_other(piece, PeerKey(2), Uptime::ZERO));
        assert_eq!(seeding.next_fresh(|_| true, Uptime::ZERO), None);
        assert_eq!(seeding.next_fresh(|_| true, later), Some(piece));
        seeding.give(piece, PeerKey(2), later);
        seeding.forget(PeerKey(2));
        assert_eq!(seeding.next_fresh(|_| true, Uptime::ZERO), Some(piece));
    }
}
