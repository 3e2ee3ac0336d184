//! HTTP sources and the ranges under way from them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use crate::content::layout::PieceIndex;
use crate::swarm::event::{FetchId, SourceFault, SourceKey};
use crate::swarm::limits::{
    FETCH_BYTES_MAX, FETCH_BYTES_MIN, FETCH_SILENT, FETCH_TIME, LEASE_FIRST, LEASE_MAX, LEASE_MIN, SOURCE_BACK_OFF,
    SOURCE_BACK_OFF_MAX,
};
use crate::swarm::random::below;
use crate::swarm::rate::{BusyRate, RecentRate, bytes_in, time_for};
use crate::swarm::timer::Uptime;

/// One source as seen from here.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) key: SourceKey,
    /// What it may be asked for, ascending, without overlap.
    pub(crate) pieces: Vec<Range<u32>>,
    pub(crate) rate: BusyRate,
    pub(crate) recent: RecentRate,
    pub(crate) bytes: u64,
    /// Ranges under way that were not cancelled.
    pub(crate) active: u32,
    pub(crate) faults_in_row: u32,
    pub(crate) resting_until: Uptime,
    pub(crate) last_fault: Option<SourceFault>,
    /// It has delivered a right block; until then one range at a time, so that a wrong file is found out cheaply.
    pub(crate) proven: bool,
    /// Pieces of which it sent wrong bytes; a second one condemns it.
    pub(crate) bad_pieces: BTreeSet<PieceIndex>,
    /// After wrong bytes: single pieces until one is right.
    pub(crate) probing: bool,
    pub(crate) without_ranges: bool,
    /// Files that it will never deliver.
    pub(crate) files_failed: u32,
    pub(crate) dropped: bool,
}

impl Source {
    pub(crate) fn new(key: SourceKey, pieces: Vec<Range<u32>>) -> Self {
        Self {
            key,
            pieces,
            rate: BusyRate::default(),
            recent: RecentRate::default(),
            bytes: 0,
            active: 0,
            faults_in_row: 0,
            resting_until: Uptime::ZERO,
            last_fault: None,
            proven: false,
            bad_pieces: BTreeSet::new(),
            probing: false,
            without_ranges: false,
            files_failed: 0,
            dropped: false,
        }
    }

    pub(crate) fn covers(&self, piece: PieceIndex) -> bool {
        let after = self.pieces.partition_point(|range| range.start <= piece.0);
        let range = after.checked_sub(1).and_then(|index| self.pieces.get(index));
        range.is_some_and(|range| range.contains(&piece.0)) && !self.bad_pieces.contains(&piece)
    }

    /// Takes pieces out of what it may be asked for.
    pub(crate) fn exclude(&mut self, out: &Range<u32>) {
        let cut = |range: Range<u32>| [range.start..range.end.min(out.start), range.start.max(out.end)..range.end];
        self.pieces = std::mem::take(&mut self.pieces).into_iter().flat_map(cut).filter(|it| !it.is_empty()).collect();
    }

    /// Ranges it may have under way.
    pub(crate) fn connections(&self, configured: u32) -> u32 {
        if !self.proven || self.probing || self.without_ranges || self.faults_in_row > 0 {
            1
        } else {
            configured.clamp(1, 16)
        }
    }

    pub(crate) fn is_usable(&self, now: Uptime) -> bool {
        !self.dropped && self.resting_until <= now
    }

    /// Bytes of the next range: what takes a few seconds, within bounds.
    pub(crate) fn range_bytes(&self) -> u64 {
        if self.probing {
            return 1;
        }
        let rate = self.rate.rate().unwrap_or(0) / u64::from(self.active.max(1));
        bytes_in(rate, FETCH_TIME).clamp(FETCH_BYTES_MIN, FETCH_BYTES_MAX)
    }

    /// How long a lease on its pieces should be: a few blocks of all its connections.
    pub(crate) fn lease(&self) -> Duration {
        let blocks = 4 * u64::from(self.active.max(1)) * crate::content::layout::BLOCK_BYTES;
        self.rate.rate().map_or(LEASE_FIRST, |rate| time_for(blocks, rate)).clamp(LEASE_MIN, LEASE_MAX)
    }

    /// How long a range may be without a block.
    pub(crate) fn patience(&self) -> Duration {
        let blocks = 8 * u64::from(self.active.max(1)) * crate::content::layout::BLOCK_BYTES;
        self.rate.rate().map_or(FETCH_SILENT, |rate| time_for(blocks, rate)).clamp(FETCH_SILENT, 3 * FETCH_SILENT)
    }

    /// It failed in a way that may pass: it rests, longer each time, with jitter so that a crowd spreads out.
    pub(crate) fn rest(&mut self, retry_after: Option<Duration>, rng: &mut ChaCha8Rng, now: Uptime) {
        self.faults_in_row = self.faults_in_row.saturating_add(1);
        let doubled = SOURCE_BACK_OFF.saturating_mul(1 << (self.faults_in_row - 1).min(16));
        let wait = doubled.max(retry_after.unwrap_or_default()).min(SOURCE_BACK_OFF_MAX);
        let jitter = below(rng, u64::try_from(wait.as_micros()).unwrap_or(0) / 4 + 1);
        self.resting_until = now.after(wait).after(Duration::from_micros(jitter));
    }
}

/// One range under way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) id: FetchId,
    pub(crate) source: SourceKey,
    /// Pieces asked for, or those it turned out to deliver.
    pub(crate) pieces: Range<u32>,
    /// First piece that has not come yet.
    pub(crate) next: u32,
    pub(crate) progress_at: Uptime,
    pub(crate) delivered: u64,
    pub(crate) cancelled: bool,
}

impl Fetch {
    /// Pieces still to come.
    pub(crate) fn rest(&self) -> Range<u32> {
        self.next.max(self.pieces.start)..self.pieces.end
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn excluded_pieces_are_not_covered() {
        let mut source = Source::new(SourceKey(1), vec![0..10, 20..30]);
        assert!(source.covers(PieceIndex(9)) && !source.covers(PieceIndex(10)) && source.covers(PieceIndex(20)));
        source.exclude(&(5..22));
        assert_eq!(source.pieces, [0..5, 22..30]);
        source.exclude(&(0..40));
        assert!(source.pieces.is_empty() && !source.covers(PieceIndex(0)));
    }

    #[test]
    fn rests_double_and_stay_below_the_cap() {
        let mut rng = ChaCha8Rng::from_seed([0; 32]);
        let mut source = Source::new(SourceKey(1), vec![]);
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            source.rest(Some(Duration::MAX), &mut rng, Uptime::ZERO);
            assert!(source.resting_until.since(Uptime::ZERO) <= SOURCE_BACK_OFF_MAX * 5 / 4);
        }
        source.faults_in_row = 0;
        for _ in 0..6 {
            source.rest(None, &mut rng, Uptime::ZERO);
            let rest = source.resting_until.since(Uptime::ZERO);
            assert!(rest > last);
            last = rest;
        }
    }

    #[test]
    fn a_source_never_measured_gets_one_range() {
        let mut source = Source::new(SourceKey(1), vec![]);
        assert_eq!((source.connections(4), source.range_bytes()), (1, FETCH_BYTES_MIN));
        source.proven = true;
        assert_eq!(source.connections(4), 4);
        source.rate.begin(Uptime::ZERO);
        source.rate.add(Uptime::from_micros(1000), 1 << 30);
        assert_eq!(source.range_bytes(), FETCH_BYTES_MAX);
        source.probing = true;
        assert_eq!((source.connections(4), source.range_bytes()), (1, 1));
    }
}
