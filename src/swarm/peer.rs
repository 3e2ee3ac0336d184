//! One peer as seen from here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::swarm::doubt::Doubt;
use crate::swarm::event::{AddressKey, Condition, NodeId, PeerKey, Scope};
use crate::swarm::limits::{
    PIECE_SLOW, PIPELINE_BYTES_MAX, PIPELINE_PIECES_MAX, PIPELINE_PIECES_MIN, PIPELINE_SLACK, PIPELINE_SLACK_SHARED,
    PIPELINE_SMALL_BYTES, PIPELINE_SMALL_MAX, PIPELINE_START_BYTES, PUT_OFF_MAX, TIMEOUT_FACTOR, TIMEOUT_FIRST,
    TIMEOUT_MAX, TIMEOUT_MIN, TURN_WAITS,
};
use crate::swarm::rate::{BusyRate, RecentRate, bytes_in, time_for};
use crate::swarm::score::Budget;
use crate::swarm::sorted::Sorted;
use crate::swarm::timer::Uptime;

/// One request to a peer that it has not answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    /// When it was sent.
    pub(crate) since: Uptime,
    /// Payload still to come when it was sent.
    pub(crate) bytes: u64,
    /// It ran out: the piece may be asked of others, and is taken if it comes all the same.
    pub(crate) late: bool,
}

/// One piece on its way to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serving {
    pub(crate) since: Uptime,
    pub(crate) bytes: u64,
    /// Taken back by the peer; the node has yet to say how much went out.
    pub(crate) cancelled: bool,
}

/// Everything known about one connected peer. Every collection in it is bounded by `limits`.
///
/// In the order of use: what is looked at of all peers at many events lies together in front, what one event of this peer
/// needs follows, and what is rarely needed is last.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Peer {
    pub(crate) they_choke: bool,
    pub(crate) we_choke: bool,
    pub(crate) they_are_interested: bool,
    pub(crate) we_are_interested: bool,
    /// Everything it holds for us is owed by others: it should give its turns to whom they serve.
    pub(crate) declined: bool,
    /// It has choked us before: others wait for its turns.
    pub(crate) deals_turns: bool,
    pub(crate) scope: Scope,
    /// Why what it holds does not count.
    pub(crate) doubt: Option<Doubt>,
    /// Pieces it holds that we miss.
    pub(crate) useful: u32,
    /// Times it ran out since its last good block.
    pub(crate) timeouts: u32,
    /// Roles it plays, as `peers` last saw them.
    pub(crate) roles: u16,
    /// It came with everything and is counted in the picker's `seeds`, not piece by piece.
    pub(crate) counted_as_seed: bool,
    /// It has said all that a new peer hears at once: pieces, intents, choke.
    pub(crate) synced: bool,
    /// Its turn was taken back unused, and a request that comes late will be served all the same.
    pub(crate) late_turn: bool,
    /// What it holds; `None` until it says so.
    pub(crate) bits: Option<Bitfield>,
    /// Requests it owes an answer, late ones included.
    pub(crate) asks: Sorted<PieceIndex, Ask>,
    /// Its requests that the node is answering.
    pub(crate) serving: Sorted<PieceIndex, Serving>,
    /// Its requests that wait for their turn.
    pub(crate) queue: VecDeque<(PieceIndex, BlockIndex)>,
    pub(crate) round_trip: Duration,
    /// When it last used its slot, or got it.
    pub(crate) upload_used_at: Uptime,
    /// When it heard last that we want turns again.
    pub(crate) asked_at: Uptime,

    pub(crate) key: PeerKey,
    pub(crate) budget: Budget,
    pub(crate) rate: BusyRate,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Last block, or last time that an empty pipeline got a request.
    pub(crate) progress_at: Uptime,
    /// Payload of a block that is not whole yet.
    pub(crate) receiving: u64,
    /// Of that, what counts in the rate of all peers already.
    pub(crate) counted: u64,
    pub(crate) paused_until: Uptime,
    /// It refused something for super-seeding lately.
    pub(crate) super_seeding_until: Uptime,
    /// Pieces not to be asked of it before then.
    pub(crate) put_off: BTreeMap<PieceIndex, Uptime>,
    /// Pieces it offers us first while it super-seeds.
    pub(crate) offers: VecDeque<PieceIndex>,
    pub(crate) id: NodeId,
    pub(crate) address: AddressKey,
    pub(crate) recent_in: RecentRate,
    pub(crate) recent_out: RecentRate,

    /// Payload it may still send that was asked for once.
    pub(crate) unasked_credit: u64,
    /// Frames it sent beyond that.
    pub(crate) unasked_frames: u32,
    pub(crate) up_since: Uptime,
    /// What ranks it for origin duty.
    pub(crate) rank_key: u64,
    /// The same where nobody waits.
    pub(crate) token_key: u64,
    /// What it says of itself.
    pub(crate) condition: Condition,
    /// First copies promised to it and not asked for yet.
    pub(crate) promised: BTreeSet<PieceIndex>,
    /// How far the news about members have been told it.
    pub(crate) members_told: u64,
    pub(crate) members_told_at: Option<Uptime>,
    /// The same for members that may be gateways.
    pub(crate) gateways_told: u64,
    pub(crate) gateways_told_at: Option<Uptime>,
}

impl Peer {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        key: PeerKey,
        id: NodeId,
        address: AddressKey,
        scope: Scope,
        round_trip: Duration,
        (rank_key, token_key): (u64, u64),
        piece_count: u32,
        now: Uptime,
    ) -> Self {
        Self {
            key,
            id,
            address,
            scope,
            // More than that is no round trip but a mistake, and would only inflate the pipeline.
            round_trip: round_trip.min(Duration::from_secs(2)),
            up_since: now,
            rank_key,
            token_key,
            condition: Condition::default(),
            budget: Budget::new(piece_count, now),
            bits: None,
            counted_as_seed: false,
            doubt: None,
            synced: false,
            useful: 0,
            they_choke: true,
            we_choke: true,
            they_are_interested: false,
            we_are_interested: false,
            deals_turns: false,
            declined: false,
            asked_at: Uptime::ZERO,
            asks: Sorted::default(),
            rate: BusyRate::default(),
            recent_in: RecentRate::default(),
            recent_out: RecentRate::default(),
            bytes_in: 0,
            bytes_out: 0,
            progress_at: now,
            receiving: 0,
            counted: 0,
            timeouts: 0,
            paused_until: Uptime::ZERO,
            put_off: BTreeMap::new(),
            offers: VecDeque::new(),
            super_seeding_until: Uptime::ZERO,
            unasked_credit: 0,
            unasked_frames: 0,
            queue: VecDeque::new(),
            serving: Sorted::default(),
            upload_used_at: now,
            late_turn: false,
            promised: BTreeSet::new(),
            roles: 0,
            members_told: 0,
            members_told_at: None,
            gateways_told: 0,
            gateways_told_at: None,
        }
    }

    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        self.bits.as_ref().is_some_and(|bits| bits.has(piece))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.bits.as_ref().is_some_and(Bitfield::is_complete)
    }

    pub(crate) fn held_count(&self) -> u32 {
        self.bits.as_ref().map_or(0, Bitfield::held_count)
    }

    /// Shares our site: the peers whose origin duty is ranked with ours.
    pub(crate) fn is_near(&self) -> bool {
        self.scope <= Scope::Site
    }

    /// Needs no tit for tat.
    pub(crate) fn is_cooperative(&self) -> bool {
        self.scope <= Scope::Group
    }

    pub(crate) fn is_snubbed(&self) -> bool {
        self.timeouts > 0
    }

    /// Since when its slot lies idle; `None` while it waits for something from us.
    pub(crate) fn idle_since(&self) -> Option<Uptime> {
        (self.queue.is_empty() && self.serving.is_empty()).then_some(self.upload_used_at)
    }

    /// How long a turn given to it counts that was not used yet.
    pub(crate) fn turn_waits(&self) -> Duration {
        TURN_WAITS.saturating_add(self.round_trip.saturating_mul(2))
    }

    /// Requests that have not run out, and their payload.
    pub(crate) fn outstanding(&self) -> (usize, u64) {
        let open = self.asks.values().filter(|ask| !ask.late);
        open.fold((0, 0), |(count, bytes), ask| (count + 1, bytes + ask.bytes))
    }

    /// Payload that should be outstanding: what the line carries in a round trip and the time that both ends need.
    fn pipeline_bytes(&self, rate: u64, busy: u64) -> u64 {
        let slack = if busy > 2 && self.is_cooperative() { PIPELINE_SLACK_SHARED } else { PIPELINE_SLACK };
        let time = self.round_trip.saturating_mul(2).saturating_add(slack);
        bytes_in(rate, time).min(PIPELINE_BYTES_MAX)
    }

    /// Whether one more piece may be asked of it. Where a piece takes far longer than a round trip one is enough: what
    /// waits in a slow peer's queue could come from a faster one. `busy`: peers that owe us something.
    pub(crate) fn has_room(&self, on_parole: bool, piece_bytes: u64, busy: u64) -> bool {
        let (count, bytes) = self.outstanding();
        if on_parole || self.is_snubbed() {
            return count == 0;
        }
        let Some(rate) = self.rate.rate() else {
            // Peers not measured yet share what is risked on them.
            return count == 0 || (count < PIPELINE_PIECES_MIN && bytes < PIPELINE_START_BYTES / busy.max(1));
        };
        let slow = time_for(piece_bytes, rate) > self.round_trip * 20 + PIECE_SLOW;
        let at_least = if slow || self.deals_turns { 1 } else { PIPELINE_PIECES_MIN };
        let most = if bytes < PIPELINE_SMALL_BYTES { PIPELINE_SMALL_MAX } else { PIPELINE_PIECES_MAX };
        count < at_least || (count < most && bytes < self.pipeline_bytes(rate, busy))
    }

    /// Whether so many small pieces are outstanding that more are asked for later, many in one go: a system call and a
    /// wake-up at both ends for each would cost more than the pieces.
    pub(crate) fn is_well_fed(&self) -> bool {
        let (count, bytes) = self.outstanding();
        count >= PIPELINE_PIECES_MAX && (count > PIPELINE_SMALL_MAX / 4 * 3 || bytes > PIPELINE_SMALL_BYTES / 4 * 3)
    }

    /// How long it may be silent while it owes something; longer after each time it ran out.
    pub(crate) fn timeout(&self) -> Duration {
        let block = crate::content::layout::BLOCK_BYTES;
        let fair = match self.rate.rate() {
            Some(rate) => time_for(block.saturating_mul(TIMEOUT_FACTOR), rate).max(TIMEOUT_MIN),
            None => TIMEOUT_FIRST,
        };
        let fair = fair.saturating_add(self.round_trip.saturating_mul(2));
        (fair / 4).saturating_mul(4 + self.timeouts.min(8)).min(TIMEOUT_MAX)
    }

    /// When everything asked of it should have come; `None` where nothing tells.
    pub(crate) fn backlog_time(&self) -> Option<Duration> {
        let bytes = self.asks.values().fold(0u64, |sum, ask| sum.saturating_add(ask.bytes));
        self.rate.rate().map(|rate| time_for(bytes, rate))
    }

    /// Does not ask for a piece again for a while; false where too many are put off already.
    pub(crate) fn put_off(&mut self, piece: PieceIndex, until: Uptime, now: Uptime) -> bool {
        if self.put_off.len() >= PUT_OFF_MAX {
            self.put_off.retain(|_, until| *until > now);
        }
        let room = self.put_off.len() < PUT_OFF_MAX;
        if room {
            self.put_off.insert(piece, until);
        }
        room
    }

    /// Whether a piece may be asked of it, as far as it refused it lately or owes it already.
    pub(crate) fn may_be_asked(&self, piece: PieceIndex, now: Uptime) -> bool {
        !self.asks.contains_key(&piece) && self.put_off.get(&piece).is_none_or(|until| *until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let now = Uptime::ZERO;
        Peer::new(
            PeerKey(1),
            NodeId([1; 32]),
            AddressKey([0; 18]),
            Scope::Host,
            Duration::from_millis(1),
            (0, 0),
            100,
            now,
        )
    }

    fn ask(peer: &mut Peer, piece: u32) {
        peer.asks.insert(PieceIndex(piece), Ask { since: Uptime::ZERO, bytes: 1 << 20, late: false });
    }

    #[test]
    fn the_pipeline_starts_small_and_follows_the_rate() {
        let mut peer = peer();
        let fill = |peer: &mut Peer| {
            let before = peer.asks.len() as u32;
            (before..100)
                .take_while(|piece| peer.has_room(false, 1 << 20, 1).then(|| ask(peer, *piece)).is_some())
                .count();
            peer.asks.len()
        };
        assert_eq!(fill(&mut peer), PIPELINE_PIECES_MIN, "what a liar may cost");
        peer.rate.begin(Uptime::ZERO);
        peer.rate.add(Uptime::from_micros(10_000), 10_000_000);
        assert_eq!(fill(&mut peer), PIPELINE_PIECES_MAX);
        peer.asks = Sorted::default();
        peer.rate.add(Uptime::from_micros(1_000_000_000), 1);
        assert_eq!(fill(&mut peer), 1);
    }

    #[test]
    fn of_small_pieces_many_are_out_and_more_are_asked_for_by_dozens() {
        let mut peer = peer();
        peer.rate.begin(Uptime::ZERO);
        peer.rate.add(Uptime::from_micros(10_000), 10_000_000);
        for piece in 0..1000 {
            if !peer.has_room(false, 10 << 10, 1) {
                break;
            }
            peer.asks.insert(PieceIndex(piece), Ask { since: Uptime::ZERO, bytes: 10 << 10, late: false });
        }
        assert_eq!(peer.asks.len(), PIPELINE_SMALL_MAX);
        let mut arrived = 0;
        while peer.is_well_fed() {
            let first = peer.asks.keys().next().copied().expect("it is fed");
            peer.asks.remove(&first);
            arrived += 1;
        }
        assert_eq!(arrived, PIPELINE_SMALL_MAX / 4);
    }

    #[test]
    fn on_parole_or_snubbed_one_piece_is_out_at_a_time() {
        let mut peer = peer();
        ask(&mut peer, 0);
        assert!(peer.has_room(false, 1 << 20, 1) && !peer.has_room(true, 1 << 20, 1));
        peer.timeouts = 1;
        assert!(!peer.has_room(false, 1 << 20, 1));
    }

    #[test]
    fn what_is_put_off_stays_bounded() {
        let mut peer = peer();
        let (now, later) = (Uptime::ZERO, Uptime::from_micros(9));
        for piece in 0..PUT_OFF_MAX as u32 {
            assert!(peer.put_off(PieceIndex(piece), later, now));
        }
        assert!(!peer.put_off(PieceIndex(u32::MAX), later, now));
        assert!(peer.put_off(PieceIndex(u32::MAX), Uptime::from_micros(20), later));
        assert!(!peer.may_be_asked(PieceIndex(u32::MAX), later));
        assert!(peer.may_be_asked(PieceIndex(0), later));
    }
}
