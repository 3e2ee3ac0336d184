//! What must hold: safety at every step, books that close, and liveness at the end.

use std::ops::Range;

use piecework::swarm::event::Message;

use crate::engine::Engine;
use crate::scenario::Manner;
use crate::world::{NEVER, State, World};

/// Requests outstanding at one peer, as the engine's table of limits has it, and one that is late.
const OWED_MAX: usize = 64;
/// Ranges under way of one engine, cancelled ones included.
const RUNS_MAX: usize = 16;

/// What may come over a line beyond its budget: what this time saves up ...
const BURST_SECONDS: u64 = 2;
/// ... and for each gateway and content what can be asked for at once at least.
const BURST_BYTES: u64 = 1 << 20;
/// For so much of a budget, in bytes a second, the engine has one gateway more.
const PER_GATEWAY: u64 = 2_000_000;
/// Gateways of a site, by the engine's default.
const GATEWAYS: u32 = 8;

/// Payload by what became of it; every byte that was sent stands in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Books {
    /// Payload that left peers.
    pub peers_sent: u64,
    /// Payload that left origins.
    pub origin_sent: u64,
    /// New to its receiver.
    pub useful: u64,
    /// Verified, and here already.
    pub duplicate: u64,
    /// Its hash was wrong.
    pub bad: u64,
    /// Not asked for, or taken back before it began.
    pub unasked: u64,
    /// From an origin, of a range that was taken back.
    pub origin_cancelled: u64,
    /// Towards a machine or session that was gone.
    pub lost: u64,
    /// On its way.
    pub in_flight: u64,
    /// Held once, and rotten since.
    pub rotten: u64,
    /// Bytes of control messages.
    pub control_bytes: u64,
    /// Bans.
    pub bans: u64,
    /// Bans of machines that did nothing wrong.
    pub honest_bans: u64,
    /// Sources that engines gave up.
    pub sources_dropped: u64,
}

impl Books {
    /// Payload that was of no use.
    pub fn waste(&self) -> u64 {
        self.duplicate + self.bad + self.unasked + self.origin_cancelled + self.lost
    }

    fn close(&self) -> bool {
        self.peers_sent + self.origin_sent == self.useful + self.waste() + self.in_flight
    }
}

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at} us, machine share {share}: {what}")]
pub struct Violation {
    /// When.
    pub at: u64,
    /// Whose.
    pub share: u32,
    /// What.
    pub what: String,
}

impl World {
    pub(crate) fn violate(&mut self, share: u32, what: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { at, share, what });
    }

    /// After each event of each engine. A few steps; everything in full now and then.
    pub(crate) fn check_step(&mut self, share: u32, engine: &Engine) {
        let it = &self.shares[share as usize];
        let manner = self.machines[it.machine as usize].manner;
        if (manner.downloads() || manner == Manner::Claim) && engine.held().held_count() != it.truth.held_count() {
            let (says, truth) = (engine.held().held_count(), it.truth.held_count());
            return self.violate(share, format!("holds {says} pieces of which {truth} were verified"));
        }
        #[cfg(debug_assertions)]
        if self.engine_events.is_multiple_of(61) {
            engine.check();
        }
    }

    /// After each event of the world: every byte that was sent stands in one place.
    pub(crate) fn check_books(&mut self) {
        if !self.books.close() {
            self.violate(0, format!("the books do not close: {:?}", self.books));
        }
    }

    /// Before each message of an engine goes out.
    pub(crate) fn check_message(&mut self, share: u32, end: u32, message: &Message) {
        let count = self.contents[self.shares[share as usize].content as usize].layout.piece_count();
        let owed = self.end(end).owed.iter().filter(|it| it.cancelled_at == NEVER).count();
        let inside = |range: &Range<u32>| range.start <= range.end && range.end <= count;
        let wrong = match message {
            Message::Have(pieces) => pieces.len() > 4096 || pieces.iter().any(|piece| piece.0 >= count),
            Message::Members(members) => members.len() > 32,
            Message::Intent { pieces, .. } => pieces.len() > 64 || !pieces.iter().all(inside),
            Message::Request { piece, .. } => piece.0 >= count || owed >= OWED_MAX,
            Message::Bitfield(bits) => bits.piece_count() != count,
            _ => false,
        };
        if wrong {
            self.violate(share, format!("says what passes a bound: {message:?}"));
        }
    }

    /// After each block that has come over the line of a site with a budget.
    pub(crate) fn check_budget(&mut self, site: u32) {
        let budget = &self.sites[site as usize].budget;
        let gateways = u64::from(self.scenario.engine.origin_gateways.unwrap_or(GATEWAYS));
        let gateways = gateways.min((budget.rate / PER_GATEWAY).max(1));
        let burst = BURST_SECONDS * budget.rate + gateways * self.contents.len() as u64 * BURST_BYTES;
        if budget.over_most > burst {
            let (over, rate) = (budget.over_most, budget.rate);
            let name = self.sites[site as usize].name.clone();
            self.violate(
                0,
                format!("{over} bytes over the budget of {rate} B/s on the line of {name}; {burst} may be"),
            );
        }
    }

    pub(crate) fn check_fetch(&mut self, share: u32, pieces: &Range<u32>) {
        let it = &self.shares[share as usize];
        let count = self.contents[it.content as usize].layout.piece_count();
        if pieces.start >= pieces.end || pieces.end > count || it.runs.len() >= RUNS_MAX {
            let under_way = it.runs.len();
            self.violate(share, format!("fetches {pieces:?} of {count} pieces with {under_way} ranges under way"));
        }
    }

    /// When nothing more can happen, or everybody is done.
    pub(crate) fn check_end(&mut self) {
        if self.violation.is_some() {
            return;
        }
        for number in 0..self.shares.len() {
            let it = &self.shares[number];
            if let Some(engine) = it.engine.as_ref()
                && self.machines[it.machine as usize].manner.downloads()
            {
                if *engine.held() != it.truth {
                    return self.violate(number as u32, "holds other pieces than were verified".into());
                }
                if let Some(stats) = engine.stats()
                    && it.life == 1
                    && (stats.bytes_from_peers, stats.bytes_from_sources) != (it.from_peers, it.from_origins)
                {
                    return self.violate(number as u32, "counts other bytes than came".into());
                }
            }
            if it.counts && it.complete_at == NEVER && it.state == State::Online && self.queue.is_empty() {
                return self.violate(number as u32, "lacks pieces, and nothing more will happen".into());
            }
        }
    }
}
