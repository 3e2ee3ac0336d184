//! What identities did: bad blocks with decay, remembered past their sessions; and the message budget of a session.

use std::collections::BTreeMap;

use crate::swarm::event::NodeId;
use crate::swarm::limits::{
    BAD_BLOCKS_MAX, FORGIVEN_AFTER, FORGIVEN_AFTER_BYTES, RECORDS_MAX, TOKENS_BASE, TOKENS_PER_SECOND,
};
use crate::swarm::rate::bytes_in;
use crate::swarm::timer::Uptime;

/// What follows from a bad block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One piece at a time, of pieces asked from nobody else, so that blame stays exact.
    Parole,
    /// Away with it.
    Ban,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    bad_blocks: u32,
    /// Good bytes since the last bad block.
    good_bytes: u64,
    /// Last bad block, or last forgiveness.
    at: Uptime,
}

/// Offences by identity; those without any are not here. At most [`RECORDS_MAX`]: the oldest gives way.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: BTreeMap<NodeId, Record>,
}

impl Records {
    /// A block of this identity did not match its hash.
    pub(crate) fn bad(&mut self, id: NodeId, now: Uptime) -> Verdict {
        self.forgive(id, now);
        if !self.records.contains_key(&id) && self.records.len() >= RECORDS_MAX {
            let oldest = self.records.iter().min_by_key(|(_, record)| record.at).map(|(id, _)| *id);
            oldest.map(|id| self.records.remove(&id));
        }
        let record = self.records.entry(id).or_insert(Record { bad_blocks: 0, good_bytes: 0, at: now });
        record.bad_blocks = record.bad_blocks.saturating_add(1);
        (record.good_bytes, record.at) = (0, now);
        if record.bad_blocks >= BAD_BLOCKS_MAX { Verdict::Ban } else { Verdict::Parole }
    }

    /// A block of this identity was right.
    pub(crate) fn good(&mut self, id: NodeId, bytes: u64, now: Uptime) {
        if let Some(record) = self.records.get_mut(&id) {
            record.good_bytes = record.good_bytes.saturating_add(bytes);
            self.forgive(id, now);
        }
    }

    /// Whether this identity has to prove itself.
    pub(crate) fn on_parole(&self, id: NodeId) -> bool {
        self.records.contains_key(&id)
    }

    fn forgive(&mut self, id: NodeId, now: Uptime) {
        let Some(record) = self.records.get_mut(&id) else { return };
        if record.good_bytes >= FORGIVEN_AFTER_BYTES || now.since(record.at) >= FORGIVEN_AFTER {
            record.bad_blocks = record.bad_blocks.saturating_sub(1);
            (record.good_bytes, record.at) = (0, now);
        }
        if record.bad_blocks == 0 {
            self.records.remove(&id);
        }
    }
}

/// A token bucket for what a peer says.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens: u64,
    tokens_max: u64,
    at: Uptime,
}

impl Budget {
    /// Full; the room grows with the number of pieces, each of which may be announced and asked for once.
    pub(crate) fn new(piece_count: u32, now: Uptime) -> Self {
        let tokens_max = TOKENS_BASE.saturating_add(u64::from(piece_count));
        Self { tokens: tokens_max, tokens_max, at: now }
    }

    /// Spends tokens; false where the peer has said more than any honest one.
    pub(crate) fn spend(&mut self, now: Uptime, tokens: u64) -> bool {
        let back = bytes_in(TOKENS_PER_SECOND, now.since(self.at));
        if back > 0 {
            self.tokens = self.tokens.saturating_add(back).min(self.tokens_max);
            self.at = now;
        }
        let enough = self.tokens >= tokens;
        self.tokens = self.tokens.saturating_sub(tokens);
        enough
    }

    /// Gives tokens back for what led to something: however small the pieces are and however fast they go, asking for
    /// those that are then sent is no flood.
    pub(crate) fn refund(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.tokens_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_pays_for_the_messages_that_led_to_it() {
        let mut budget = Budget::new(20_000, Uptime::ZERO);
        for _ in 0..100_000 {
            assert!(budget.spend(Uptime::ZERO, 3), "a request and a have");
            budget.refund(crate::swarm::limits::TOKENS_PER_PIECE);
        }
        assert!((0..100_000).any(|_| !budget.spend(Uptime::ZERO, 3)), "asking alone is a flood in the end");
    }

    fn at(seconds: u64) -> Uptime {
        Uptime::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_peer_is_on_parole_after_one_bad_block_and_out_after_two() {
        let (mut records, liar) = (Records::default(), NodeId([1; 32]));
        assert_eq!(records.bad(liar, at(0)), Verdict::Parole);
        assert!(records.on_parole(liar));
        assert!(!records.on_parole(NodeId([2; 32])));
        records.good(liar, FORGIVEN_AFTER_BYTES - 1, at(1));
        assert_eq!(records.bad(liar, at(2)), Verdict::Ban);
    }

    #[test]
    fn good_bytes_or_time_make_up_for_a_bad_block() {
        let (mut records, peer) = (Records::default(), NodeId([1; 32]));
        records.bad(peer, at(0));
        records.good(peer, FORGIVEN_AFTER_BYTES, at(1));
        assert!(!records.on_parole(peer));
        assert_eq!(records.bad(peer, at(2)), Verdict::Parole);
        assert_eq!(records.bad(peer, at(2).after(FORGIVEN_AFTER)), Verdict::Parole);
    }

    #[test]
    fn records_of_many_identities_stay_bounded() {
        let mut records = Records::default();
        for number in 0..2 * RECORDS_MAX as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            records.bad(NodeId(id), at(number));
        }
        assert_eq!(records.records.len(), RECORDS_MAX);
    }

    #[test]
    fn a_budget_runs_out_and_fills_again() {
        let mut budget = Budget::new(10, at(0));
        assert!(budget.spend(at(0), TOKENS_BASE + 10));
        assert!(!budget.spend(at(0), 1));
        assert!(budget.spend(at(1), TOKENS_PER_SECOND));
        assert!(!budget.spend(at(1), 1));
    }
}
