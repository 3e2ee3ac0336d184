//! Pieces that are asked for twice: those that will come last, at the end, and those for which a reader waits.

use std::time::Duration;

use crate::content::layout::{BLOCK_BYTES, PieceIndex};
use crate::swarm::Swarm;
use crate::swarm::event::PeerKey;
use crate::swarm::limits::{HEDGE_AFTER, HEDGE_STEPS_MAX, HEDGES_MIN, READER_URGENT};
use crate::swarm::peer::Peer;
use crate::swarm::rate::time_for;
use crate::swarm::requests::Debtor;

/// A time that stands for "never, as things are".
const NEVER: Duration = Duration::from_secs(1 << 20);

impl Swarm {
    /// A piece at the far end of a range from a source that this peer will deliver before the range gets there.
    pub(crate) fn pick_from_fetches(&self, key: PeerKey) -> Option<PieceIndex> {
        let peer = self.peers.get(&key)?;
        let mine = self.arrival_at(peer)?;
        for fetch in self.fetches.values().filter(|fetch| !fetch.cancelled) {
            let rate = self
                .sources
                .get(&fetch.source)
                .and_then(|source| source.rate.rate().map(|rate| rate / u64::from(source.active.max(1))));
            let rest = fetch.rest();
            for piece in rest.clone().rev().take(64).map(PieceIndex) {
                let ahead = u64::from(piece.0 - rest.start).saturating_mul(self.pieces.length(piece));
                // A range that has not begun to deliver may do so at any moment.
                let theirs = time_for(ahead, rate.unwrap_or(u64::MAX));
                if theirs < mine.saturating_mul(2).saturating_add(HEDGE_AFTER) {
                    break;
                }
                let alone = self.ledger.debtors(piece) == [Debtor::Fetch(fetch.id)];
                if alone && peer.has(piece) && peer.may_be_asked(piece, self.now) {
                    return Some(piece);
                }
            }
        }
        None
    }

    /// When one more piece asked of a peer would be here; `None` where its rate is unknown.
    fn arrival_at(&self, peer: &Peer) -> Option<Duration> {
        let piece = time_for(self.piece_bytes(), peer.rate.rate()?);
        Some(peer.backlog_time()?.saturating_add(piece).saturating_add(peer.round_trip))
    }

    /// The piece that will come last as things are, if this peer would be much sooner. A few in a swarm.
    pub(crate) fn pick_hedge(&mut self, key: PeerKey) -> Option<PieceIndex> {
        if self.pieces.available_wanted_count() > 0 || self.hedges >= self.hedges_max() {
            return None;
        }
        let piece = self.latest(key, self.ledger.iter().take(HEDGE_STEPS_MAX))?;
        Some(self.hedge(piece))
    }

    /// Of the next pieces of a reader one that another peer owes and this one would bring far sooner.
    pub(crate) fn pick_urgent(&mut self, key: PeerKey) -> Option<PieceIndex> {
        let next = self.window()?.start;
        if self.hedges >= self.hedges_max() {
            return None;
        }
        let urgent = (next..next.saturating_add(READER_URGENT)).map(PieceIndex);
        let piece = self.latest(key, urgent.map(|piece| (piece, self.ledger.debtors(piece))))?;
        Some(self.hedge(piece))
    }

    fn hedges_max(&self) -> u64 {
        HEDGES_MIN.max(u64::from(self.pieces.layout().piece_count()) / 100)
    }

    fn hedge(&mut self, piece: PieceIndex) -> PieceIndex {
        self.hedges += 1;
        self.stats.requests_hedged += 1;
        piece
    }

    /// Of what one other peer alone owes, the piece that will come last, if this peer would be much sooner.
    fn latest<'a>(&self, key: PeerKey, owed: impl Iterator<Item = (PieceIndex, &'a [Debtor])>) -> Option<PieceIndex> {
        let peer = self.peers.get(&key)?;
        let mine = self.arrival_at(peer);
        let candidates = owed.filter_map(|(piece, debtors)| {
            let [Debtor::Peer(other)] = debtors else { return None };
            let eta = self.peers.get(other).map_or(NEVER, |other| self.eta(other, piece));
            let sooner = mine.map_or(eta >= NEVER, |mine| eta > mine.saturating_mul(2));
            let fits = *other != key && peer.has(piece) && peer.may_be_asked(piece, self.now);
            (fits && sooner && eta > HEDGE_AFTER).then_some((eta, piece))
        });
        candidates.max().map(|(_, piece)| piece)
    }

    /// How long a peer will take for what it owes up to this piece.
    fn eta(&self, peer: &Peer, piece: PieceIndex) -> Duration {
        let Some(ask) = peer.asks.get(&piece) else { return NEVER };
        let silent = self.now.since(peer.progress_at.max(ask.since));
        let Some(rate) = peer.rate.rate().filter(|_| !peer.is_snubbed()) else {
            return if silent > Duration::from_millis(1500) { NEVER } else { Duration::ZERO };
        };
        if silent > time_for(4 * BLOCK_BYTES, rate).saturating_add(HEDGE_AFTER) {
            return NEVER;
        }
        let before = peer.asks.values().filter(|other| other.since <= ask.since);
        time_for(before.fold(0u64, |sum, ask| sum.saturating_add(ask.bytes)), rate)
    }
}
