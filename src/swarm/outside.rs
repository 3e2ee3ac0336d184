//! What crosses the site's line: pieces held only by peers outside cross it once, asked for by the gateway that origin
//! duty elects for them, as ranges from an origin do; and the line's budget, which no request and no range passes by.
//!
//! A node without peers on its own site is its only gateway, and asks whomever it likes.

use std::ops::Range;
use std::time::Duration;

use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::event::{Action, Message, PeerKey};
use crate::swarm::fallback::Level;
use crate::swarm::limits::{
    HAVES_MAX, INTENT_RANGES_MAX, LEASE_FIRST, LEASE_MAX, LEASE_MIN, LINE_BURST, LINE_BURST_BYTES, LINE_FIRST,
    LINE_RANGE, OUTSIDE_AHEAD, OUTSIDE_SLOWER_MAX, OUTSIDE_TOLD, OUTSIDE_WANTED, RUN_STEPS_MAX, SYNC_GRACE,
};
use crate::swarm::members::Wanted;
use crate::swarm::peer::Peer;
use crate::swarm::pieces::PieceState;
use crate::swarm::rate::{RecentRate, bytes_in, time_for};
use crate::swarm::sources::Source;
use crate::swarm::timer::Uptime;

/// Peers by the side of the line they are on, and what those on ours hold.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Connected peers of our site.
    near: usize,
    /// Connected peers outside.
    far: usize,
    /// Holders on our site by piece; empty until a peer outside came, since all holders are near until then.
    holders: Vec<u16>,
    /// Something was asked of a peer outside since the site was told what we fetch.
    pub(crate) untold: bool,
    /// Pieces held now that the peers outside have not been told yet, and when they were told last.
    pub(crate) haves: Vec<PieceIndex>,
    pub(crate) haves_told_at: Uptime,
    /// Payload from peers outside.
    pub(crate) rate: RecentRate,
    /// A peer outside that holds everything is to bring what sources could bring as well: see [`Swarm::look_at_price`].
    spares_sources: bool,
    line: Line,
}

/// The budget of the site's line, as a bucket that may be overdrawn by one request or range.
#[derive(Debug, Default)]
struct Line {
    /// Bytes that may be asked for now; less than 0 after a request that was larger than what was left.
    left: i64,
    /// When it was looked at last. Nothing is credited for the time before, and the first piece is waited for: of a crowd
    /// that arrives each would have saved up the whole budget, and become a gateway with it, one after the other.
    filled_at: Option<Uptime>,
    /// Contents of the site that take from the budget; 0 counts as one.
    shared_by: u32,
    /// Microbytes not yet credited, so that often looking does not round budgets away.
    crumbs: u128,
}

impl Line {
    /// Credits the time since the last call.
    fn fill(&mut self, rate: u64, now: Uptime) {
        if self.filled_at.is_none() {
            let first = bytes_in(rate, LINE_FIRST).min(LINE_BURST_BYTES);
            self.left = self.left.saturating_sub(i64::try_from(first).unwrap_or(i64::MAX));
        }
        let micros = now.since(self.filled_at.unwrap_or(now)).as_micros();
        self.filled_at = Some(now);
        let earned = u128::from(rate).saturating_mul(micros).saturating_add(self.crumbs);
        self.crumbs = earned % 1_000_000;
        let most = i64::try_from(bytes_in(rate, LINE_BURST).max(LINE_BURST_BYTES)).unwrap_or(i64::MAX);
        let earned = i64::try_from(earned / 1_000_000).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(earned).min(most);
    }

    fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn refund(&mut self, bytes: u64) {
        self.left = self.left.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Outside {
    /// Peers on both sides of the line are connected: what crosses it is a matter of duty.
    pub(crate) fn is_guarded(&self) -> bool {
        self.near > 0 && self.far > 0
    }

    /// Peers of our site that hold a piece; `None` while no peer is known to be elsewhere.
    pub(crate) fn holders_near(&self, piece: PieceIndex) -> Option<u32> {
        self.holders.get(piece.0 as usize).filter(|_| self.is_guarded()).map(|holders| u32::from(*holders))
    }

    /// A peer of our site holds one piece more or less.
    pub(crate) fn count(&mut self, piece: PieceIndex, more: bool) {
        if let Some(holders) = self.holders.get_mut(piece.0 as usize) {
            *holders = if more { holders.saturating_add(1) } else { holders.saturating_sub(1) };
        }
    }
}

impl Swarm {
    /// A peer is there, and has not said yet what it holds.
    pub(crate) fn side_joined(&mut self, near: bool) {
        if near {
            // What was asked of peers outside before is on its way by now, or soon: it crosses whether or not it is wanted.
            self.outside.near += 1;
            return;
        }
        self.outside.far += 1;
        if !self.outside.holders.is_empty() {
            return;
        }
        self.outside.holders = vec![0; self.pieces.layout().piece_count() as usize];
        for peer in self.peers.values().filter(|peer| peer.is_near() && peer.doubt.is_none()) {
            for piece in peer.bits.iter().flat_map(crate::content::bitfield::Bitfield::iter_held) {
                self.outside.count(piece, true);
            }
        }
    }

    /// Whether as much is asked of peers outside as comes from there in a while: the rest is better left to other gateways,
    /// and would be claimed for longer than a lease lasts.
    fn is_outside_full(&self) -> bool {
        let far = self.peers.values().filter(|peer| !peer.is_near()).flat_map(|peer| peer.asks.values());
        let asked = far.filter(|ask| !ask.late).fold(0u64, |sum, ask| sum.saturating_add(ask.bytes));
        let rate = self.outside.rate.rate(self.now, self.started);
        asked >= bytes_in(rate, OUTSIDE_AHEAD).max(2 * self.piece_bytes())
    }

    /// Tells the site what is asked of peers outside, a few requests at a time.
    pub(crate) fn tell_outside(&mut self) {
        if self.lease.said_at.is_none_or(|at| self.now.since(at) >= OUTSIDE_TOLD) {
            self.outside.untold = false;
            self.tell_intents(None);
        }
    }

    /// A peer is gone.
    pub(crate) fn side_left(&mut self, peer: &Peer) {
        if !peer.is_near() {
            self.outside.far = self.outside.far.saturating_sub(1);
            return;
        }
        self.outside.near = self.outside.near.saturating_sub(1);
        if peer.doubt.is_some() {
            return;
        }
        for piece in peer.bits.iter().flat_map(crate::content::bitfield::Bitfield::iter_held) {
            self.outside.count(piece, false);
        }
    }

    /// Whether a peer that need not cross the line holds the piece.
    pub(crate) fn is_held_near(&self, piece: PieceIndex) -> bool {
        self.outside.holders_near(piece).unwrap_or_else(|| self.pieces.picker.holders(piece)) > 0
    }

    /// Whether the piece need not be fetched from a source: somebody holds it, on our side of the line if there is anybody.
    pub(crate) fn is_held_for_us(&self, piece: PieceIndex) -> bool {
        match self.outside.is_guarded() {
            true => self.outside.spares_sources || self.is_held_near(piece),
            false => self.pieces.picker.holders(piece) > 0,
        }
    }

    /// Nobody waits for it, and a byte from another site costs less than one from the origin: where a peer outside holds
    /// everything, gateways bring from there what they would fetch from sources, while that is fast enough by policy.
    pub(crate) fn look_at_price(&mut self) {
        if !self.options.background {
            return;
        }
        // A new peer has not said yet what it holds.
        let new = |peer: &Peer| peer.bits.is_none() && self.now.since(peer.up_since) < SYNC_GRACE;
        let whole = |peer: &Peer| peer.is_complete() && peer.doubt.is_none() && !peer.is_snubbed();
        let seed = |peer: &Peer| !peer.is_near() && (whole(peer) || new(peer));
        let cheap = self.fallback.level != Level::Full && self.outside.is_guarded();
        let spares = cheap && self.peers.values().any(seed);
        if std::mem::replace(&mut self.outside.spares_sources, spares) != spares {
            self.origin_ready = true;
            self.wake_peers();
        }
    }

    /// Whether a peer is asked only for what duty has us bring over the line.
    pub(crate) fn is_guarded(&self, peer: &Peer) -> bool {
        !peer.is_near() && self.outside.is_guarded()
    }

    /// Wanted pieces that the site must bring over its line, and can.
    pub(crate) fn open_outside(&self) -> Vec<PieceIndex> {
        let there = |piece: &PieceIndex| !self.sources.is_empty() || self.pieces.picker.holders(*piece) > 0;
        let wanted = self.pieces.picker.wanted().iter_held();
        wanted.filter(|piece| !self.is_held_near(*piece)).filter(there).collect()
    }

    /// The best rate of a source that gives the site what it asks for, or of a peer outside that holds everything; `None`
    /// where there is none of either.
    fn best_outside(&self) -> Option<u64> {
        let gateways = u64::try_from(self.duty.gateway_count()).unwrap_or(1).max(1);
        let asked = self.need(self.options.min_rate).asked();
        let good = |source: &&Source| {
            let rate = source.rate.rate().map(|rate| rate.saturating_mul(gateways));
            source.is_usable(self.now) && rate.is_none_or(|rate| rate >= asked)
        };
        let by_source = self.sources.values().filter(good).map(|source| source.rate.rate().unwrap_or(0)).max();
        let by_source = by_source.filter(|_| !self.outside.spares_sources);
        let others = self.peers.values().filter(|it| !it.is_near() && it.is_complete() && !it.is_snubbed());
        let by_seed = others.map(|it| it.rate.rate().unwrap_or(0)).max();
        by_source.max(by_seed)
    }

    /// Whether a peer outside is worth its and our line: not while there is something better, see
    /// [`Self::best_outside`]; and who holds everything, unless it is far slower than that.
    fn is_worth_crossing(&self, peer: &Peer, best: Option<u64>) -> bool {
        if !peer.is_complete() {
            return best.is_none() || self.fallback.level == Level::Full;
        }
        let best = best.unwrap_or(0);
        peer.rate.rate().is_none_or(|rate| rate >= best / OUTSIDE_SLOWER_MAX)
    }

    /// A piece that is ours to bring over the line from this peer.
    pub(crate) fn pick_outside(&mut self, key: PeerKey) -> Option<PieceIndex> {
        if !self.settled || self.is_outside_full() || self.must_hold() {
            return None;
        }
        if self.duty.stale {
            self.rank_members();
        }
        self.look_outside(key, self.best_outside())
    }

    /// The same, whether or not it may be asked for at this moment.
    fn look_outside(&self, key: PeerKey, best: Option<u64>) -> Option<PieceIndex> {
        let peer = self.peers.get(&key)?;
        if !self.is_worth_crossing(peer, best) {
            return None;
        }
        let fits = |piece: PieceIndex| {
            self.pieces.state(piece) == Some(PieceState::Wanted)
                && peer.has(piece)
                && peer.may_be_asked(piece, self.now)
                && !self.is_held_near(piece)
                && !self.duty.is_claimed(piece)
        };
        // What a super-seeding peer keeps for us is ours to bring, whoever's duty it is.
        if let Some(piece) = peer.offers.iter().copied().find(|piece| fits(*piece)) {
            return Some(piece);
        }
        if peer.super_seeding_until > self.now {
            return None;
        }
        // From a place of our own, so that sites begin with different pieces and can help each other.
        let mine = self.duty.mine();
        let from = if mine.is_empty() { 0 } else { (self.outside_start % mine.len() as u64) as usize };
        let from = self.reader_place().unwrap_or(from);
        let order = (from..mine.len()).chain(0..from).take(RUN_STEPS_MAX).filter_map(|place| mine.get(place));
        let own = order.flat_map(|run| self.duty.run(*run)).map(PieceIndex).find(|piece| fits(*piece));
        let orphan = || self.duty.orphans().take(RUN_STEPS_MAX).find(|piece| fits(*piece));
        let idle = self.duty.am_gateway() && peer.asks.is_empty();
        let slow = || {
            let run = self.duty.run_of_the_slowest(fits, self.now).filter(|_| idle)?;
            run.map(PieceIndex).find(|piece| fits(*piece))
        };
        let alone = || {
            // Who near us says that it has the piece does not deliver.
            let helps = self.fallback.is_on() && self.fallback.for_itself(self.now);
            let wanted = self.pieces.picker.wanted().iter_held().filter(|_| helps);
            let free = |piece: &PieceIndex| peer.may_be_asked(*piece, self.now) && !self.duty.is_claimed(*piece);
            wanted.filter(|piece| peer.has(*piece)).find(free)
        };
        own.or_else(orphan).or_else(slow).or_else(alone)
    }

    /// A peer outside hears that we want something of it only while there is something that we would ask for: its slots
    /// and turns are for the gateways of the other sites.
    pub(crate) fn judge_outside(&mut self) {
        if !self.outside.is_guarded() || !self.settled {
            return;
        }
        if self.duty.stale {
            self.rank_members();
        }
        let best = self.best_outside();
        let far = self.peers.values().filter(|peer| !peer.is_near());
        let far: Vec<PeerKey> =
            far.filter(|peer| peer.useful > 0 && peer.asks.is_empty()).map(|peer| peer.key).collect();
        for key in far {
            let wants = self.look_outside(key, best).is_some();
            self.set_declined(key, !wants);
        }
    }

    /// A peer outside that could give us something is asked for nothing: its turn is for others.
    pub(crate) fn decline_outside(&mut self, key: PeerKey) {
        if self.peers.get(&key).is_some_and(|peer| peer.asks.is_empty() && !peer.they_choke) {
            self.set_declined(key, true);
        }
    }

    /// Who is dialled though it would be no gateway, where `others` are wanted at all: of those outside a few.
    pub(crate) fn wanted_members(&self, others: bool) -> Wanted {
        let far =
            others && (!self.outside.is_guarded() || (self.duty.am_gateway() && self.outside.far < OUTSIDE_WANTED));
        Wanted { near: others, far }
    }

    /// What is asked of peers outside on the site's behalf, as ranges for an intent.
    pub(crate) fn asked_outside(&self) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        if !self.outside.is_guarded() {
            return ranges;
        }
        let far = self.peers.values().filter(|peer| !peer.is_near());
        let asks = far.flat_map(|peer| peer.asks.iter()).filter(|(_, ask)| !ask.late).map(|(piece, _)| piece.0);
        let mut pieces: Vec<u32> = asks.collect();
        pieces.sort_unstable();
        pieces.dedup();
        for piece in pieces {
            match ranges.last_mut() {
                Some(range) if range.end == piece => range.end += 1,
                _ => ranges.push(piece..piece.saturating_add(1)),
            }
        }
        ranges.truncate(INTENT_RANGES_MAX / 2);
        ranges
    }

    /// How long a lease on what is asked of peers outside should be.
    pub(crate) fn lease_outside(&self) -> Duration {
        let far = self.peers.values().filter(|peer| !peer.is_near() && !peer.asks.is_empty());
        let of = |peer: &Peer| peer.rate.rate().map_or(LEASE_FIRST, |rate| time_for(4 * self.piece_bytes(), rate));
        far.map(of).max().unwrap_or(LEASE_MIN).clamp(LEASE_MIN, LEASE_MAX)
    }

    /// Tells peers outside what has come since they were told last: seldom, since what crosses the line has a price and
    /// nobody outside waits for a single piece.
    pub(crate) fn flush_haves_outside(&mut self) {
        self.outside.haves_told_at = self.now;
        for pieces in std::mem::take(&mut self.outside.haves).chunks(HAVES_MAX) {
            for peer in self.peers.values().filter(|peer| !peer.is_near()).map(|peer| peer.key) {
                self.actions.push_back(Action::Send { peer, message: Message::Have(pieces.to_vec()) });
            }
        }
    }

    // -- the line's budget --

    /// What this node has for this content of the site's budget, in bytes per second: contents of the site have
    /// equal parts of it, a content's gateways share its part, and nobody else crosses.
    fn line_share(&self) -> u64 {
        let gateways = u64::try_from(self.duty.gateway_count()).unwrap_or(1).max(1);
        let contents = u64::from(self.outside.line.shared_by).max(1);
        (self.options.line_budget / gateways / contents).max(1)
    }

    /// How long the budget makes a gateway wait between two pieces; nothing where there is none.
    pub(crate) fn crossing_time(&self) -> Duration {
        match self.options.line_budget {
            0 => Duration::ZERO,
            _ => time_for(self.piece_bytes(), self.line_share()),
        }
    }

    /// So many contents share the budget from now on; until now it came at the rate of before.
    pub(crate) fn line_shared(&mut self, by: u32) {
        let share = self.line_share();
        self.outside.line.fill(share, self.now);
        self.outside.line.shared_by = by;
    }

    /// Whether anything more may be asked for over the site's line now.
    pub(crate) fn may_cross(&mut self) -> bool {
        if self.options.line_budget == 0 {
            return true;
        }
        // Not before it is known who shares it: a crowd of which each took itself for alone would take it many times.
        if !self.settled && !self.options.no_peers {
            return false;
        }
        // Gateways share it, and nobody else has a part: a dozen that find them slow would bring it a dozen times.
        if self.duty.stale {
            self.rank_members();
        }
        if !self.duty.am_gateway() {
            return false;
        }
        let share = self.line_share();
        self.outside.line.fill(share, self.now);
        self.outside.line.left > 0
    }

    /// Bytes that a range may have, so that it does not overdraw the budget for long.
    pub(crate) fn crossing_bytes_max(&self) -> u64 {
        if self.options.line_budget == 0 {
            return u64::MAX;
        }
        bytes_in(self.line_share(), LINE_RANGE).max(LINE_BURST_BYTES)
    }

    /// Something was asked for over the line.
    pub(crate) fn crosses(&mut self, bytes: u64) {
        if self.options.line_budget > 0 {
            self.outside.line.spend(bytes);
            self.stats.bytes_asked_outside = self.stats.bytes_asked_outside.saturating_add(bytes);
        }
    }

    /// What was asked for will not cross after all.
    pub(crate) fn crosses_not(&mut self, bytes: u64) {
        if self.options.line_budget > 0 {
            self.outside.line.refund(bytes);
            self.stats.bytes_asked_outside = self.stats.bytes_asked_outside.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
