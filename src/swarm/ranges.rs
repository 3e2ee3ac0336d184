//! Which range to fetch next, and from which source.

use std::ops::Range;
use std::time::Duration;

use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::event::{PeerKey, SourceKey};
use crate::swarm::fallback::Level;
use crate::swarm::limits::{
    CONNECTION_RATE, FETCHES_MAX, OWNER_SILENT, RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_STEPS_MAX, SETTLE_EARLY,
    SLOW_ANSWERS, SOURCE_LATE, SOURCE_SLOWER_MAX,
};
use crate::swarm::pieces::PieceState;
use crate::swarm::random::below;
use crate::swarm::rate::time_for;
use crate::swarm::requests::Debtor;
use crate::swarm::sources::{Fetch, Source};

impl Swarm {
    pub(crate) fn next_fetch(&mut self) -> Option<(SourceKey, Range<u32>)> {
        let active = self.fetches.values().filter(|fetch| !fetch.cancelled).count();
        if active >= FETCHES_MAX || self.fetches.len() >= 2 * FETCHES_MAX {
            return None;
        }
        let early = self.now.since(self.started) < SETTLE_EARLY;
        // Who does not wait for it waits for peers to turn up, too: their bytes cost less.
        let patient = self.options.background && !self.options.no_peers;
        if !self.has_settled() && (early || patient || active >= 1 || self.settle_left == 0) {
            return None;
        }
        if !self.options.no_peers && self.must_hold() {
            return None;
        }
        for source in self.sources_by_share() {
            if let Some(pieces) = self.next_range(source, active) {
                return Some((source, pieces));
            }
        }
        None
    }

    /// Sources with a free connection, first the one from which another range would go fastest. One never measured
    /// comes first, once; one far slower than the best is left alone.
    fn sources_by_share(&self) -> Vec<SourceKey> {
        let usable = |source: &&Source| source.is_usable(self.now);
        let best = self.sources.values().filter(usable).filter_map(|source| source.rate.rate()).max().unwrap_or(0);
        let free = |source: &&Source| {
            source.active < self.connections(source)
                && source.rate.rate().is_none_or(|rate| rate >= best / SOURCE_SLOWER_MAX)
        };
        let share = |source: &Source| source.rate.rate().map_or(u64::MAX, |rate| rate / u64::from(source.active + 1));
        let mut order: Vec<&Source> = self.sources.values().filter(usable).filter(free).collect();
        order.sort_by_key(|source| (std::cmp::Reverse(share(source)), source.key));
        order.into_iter().map(|source| source.key).collect()
    }

    /// Ranges that a source may have under way. Where several of a site fetch over one thin line, fewer: a piece that is
    /// whole sooner spreads sooner, and nobody waits long for a sign of life.
    fn connections(&self, source: &Source) -> u32 {
        let most = source.connections(self.options.origin_connections);
        match source.rate.rate().filter(|_| self.duty.is_shared()) {
            Some(rate) => most.min(u32::try_from(rate / CONNECTION_RATE).unwrap_or(u32::MAX).max(1)),
            None => most,
        }
    }

    /// Wanted, held by nobody near enough to ask, and fetched by nobody of the site.
    fn is_open(&self, piece: PieceIndex) -> bool {
        self.pieces.state(piece) == Some(PieceState::Wanted)
            && !self.is_held_for_us(piece)
            && !self.duty.is_claimed(piece)
    }

    fn next_range(&mut self, key: SourceKey, active: usize) -> Option<Range<u32>> {
        let source = self.sources.get(&key)?;
        if source.without_ranges {
            return self.stream_range(source);
        }
        if !self.has_settled() {
            return self.early_range(key);
        }
        if source.probing {
            return self.probe_range(key);
        }
        let bytes_max = self.range_bytes(source);
        let last = self.pieces.layout().piece_count().checked_sub(1).map(PieceIndex)?;
        if self.options.last_piece_first && self.fits_duty(source, last) {
            return Some(last.0..last.0 + 1);
        }
        self.duty_range(key, bytes_max)
            .or_else(|| self.orphan_range(key, bytes_max))
            .or_else(|| self.slow_owners_range(key, bytes_max))
            .or_else(|| self.fallback_range(key, bytes_max, active))
            .or_else(|| self.late_range(key, bytes_max))
    }

    fn fits_duty(&self, source: &Source, piece: PieceIndex) -> bool {
        source.covers(piece) && self.is_open(piece) && self.duty.is_mine(piece)
    }

    /// Bytes for the next range: what takes a few seconds, but no more than leaves work for the other connections.
    fn range_bytes(&self, source: &Source) -> u64 {
        let left = self.pieces.layout().total_bytes().saturating_sub(self.pieces.bytes_held());
        let part = left / u64::from(self.connections(source));
        source.range_bytes().min(part.max(RUN_BYTES_MIN)).min(self.crossing_bytes_max())
    }

    /// The longest range from `start` within its file for which `fits` holds.
    fn extend(&self, start: u32, bytes_max: u64, fits: impl Fn(PieceIndex) -> bool) -> Option<Range<u32>> {
        let (place, _) = self.pieces.layout().locate(PieceIndex(start))?;
        let file_end = place.first_piece.saturating_add(place.layout.piece_count());
        let mut bytes = self.pieces.length(PieceIndex(start));
        let mut end = start + 1;
        while end < file_end && fits(PieceIndex(end)) {
            bytes = bytes.saturating_add(self.pieces.length(PieceIndex(end)));
            if bytes > bytes_max {
                break;
            }
            end += 1;
        }
        Some(start..end)
    }

    /// Before discovery has settled: a little, from somewhere, so that a crowd does not begin with the same bytes.
    fn early_range(&mut self, key: SourceKey) -> Option<Range<u32>> {
        let open = |swarm: &Self, piece| {
            swarm.is_open(piece) && swarm.sources.get(&key).is_some_and(|source| source.covers(piece))
        };
        let start = self.first_ahead(|piece| open(self, piece)).or_else(|| self.scattered(open))?;
        let source = self.sources.get(&key)?;
        let range = self.extend(start, u64::MAX, |piece| source.covers(piece) && self.is_open(piece))?;
        Some(range.start..range.end.min(range.start.saturating_add(self.settle_left)))
    }

    /// The first piece after a random one that fits, around the end.
    fn scattered(&mut self, fits: impl Fn(&Self, PieceIndex) -> bool) -> Option<u32> {
        let count = self.pieces.layout().piece_count();
        let from = below(&mut self.rng, u64::from(count)) as u32;
        (from..count).chain(0..from).find(|piece| fits(self, PieceIndex(*piece)))
    }

    /// One piece elsewhere, to see whether a source that sent wrong bytes has the file at all.
    fn probe_range(&mut self, key: SourceKey) -> Option<Range<u32>> {
        let covers = |swarm: &Self, piece| swarm.sources.get(&key).is_some_and(|source| source.covers(piece));
        let start = self
            .scattered(|swarm, piece| swarm.is_open(piece) && covers(swarm, piece))
            .or_else(|| self.scattered(|swarm, piece| swarm.pieces.is_missing(piece) && covers(swarm, piece)))?;
        Some(start..start + 1)
    }

    /// The next of our own duties.
    fn duty_range(&mut self, key: SourceKey, bytes_max: u64) -> Option<Range<u32>> {
        let source = self.sources.get(&key)?;
        let mine = self.duty.mine();
        let cursor = if self.options.sequential { 0 } else { self.duty_cursor.min(mine.len()) };
        let cursor = self.reader_place().unwrap_or(cursor);
        let order = (cursor..mine.len()).chain(0..cursor).take(RUN_STEPS_MAX);
        let (place, start) = order
            .filter_map(|place| {
                let run = self.duty.run(*mine.get(place)?);
                let start = run.into_iter().find(|piece| self.fits_duty(source, PieceIndex(*piece)))?;
                Some((place, start))
            })
            .next()?;
        let range = self.extend(start, bytes_max, |piece| self.fits_duty(source, piece));
        self.duty_cursor = place;
        range
    }

    /// Pieces that others claimed again and again and never brought.
    fn orphan_range(&self, key: SourceKey, bytes_max: u64) -> Option<Range<u32>> {
        let source = self.sources.get(&key)?;
        let fits = |piece: PieceIndex| source.covers(piece) && self.is_open(piece);
        let start = self.duty.orphans().take(RUN_STEPS_MAX).find(|piece| fits(*piece))?;
        self.extend(start.0, bytes_max.min(RUN_BYTES_MAX), fits)
    }

    /// With nothing left of our own: a run of the owner that would need longest. One at a time.
    fn slow_owners_range(&self, key: SourceKey, bytes_max: u64) -> Option<Range<u32>> {
        if !self.duty.am_gateway() || self.fetches.values().any(|fetch| !fetch.cancelled) {
            return None;
        }
        let source = self.sources.get(&key)?;
        let fits = |piece: PieceIndex| source.covers(piece) && self.is_open(piece);
        let run = self.duty.run_of_the_slowest(fits, self.now)?;
        let start = run.clone().find(|piece| fits(PieceIndex(*piece)))?;
        self.extend(start, bytes_max, |piece| run.contains(&piece.0) && fits(piece))
    }

    /// Pieces that peers hold and do not deliver as fast as asked for: first those nobody was asked for, then the
    /// ones that will come last.
    fn fallback_range(&mut self, key: SourceKey, bytes_max: u64, active: usize) -> Option<Range<u32>> {
        match self.fallback.level {
            Level::Off => return None,
            Level::Blend if active > 0 => return None,
            Level::Blend | Level::Full => {}
        }
        let fits = |swarm: &Self, piece: PieceIndex| {
            swarm.pieces.state(piece) == Some(PieceState::Wanted)
                && !swarm.duty.is_claimed(piece)
                && swarm.sources.get(&key).is_some_and(|source| source.covers(piece))
        };
        let alone = self.fallback.for_itself(self.now);
        let ours = |swarm: &Self, piece| (alone || swarm.duty.is_mine(piece)) && fits(swarm, piece);
        let ahead = self.first_ahead(|piece| ours(self, piece));
        let mine = ahead.or_else(|| self.scattered(|swarm, piece| swarm.duty.is_mine(piece) && fits(swarm, piece)));
        let other = if mine.is_none() && alone { self.scattered(fits) } else { None };
        if let Some(start) = mine.or(other) {
            return self.extend(start, bytes_max.min(RUN_BYTES_MAX), |piece| {
                (alone || self.duty.is_mine(piece)) && fits(self, piece)
            });
        }
        if !alone {
            return None;
        }
        let piece = self.slowest_debt(key)?;
        Some(piece.0..piece.0 + 1)
    }

    /// The piece that a peer has owed for longest.
    fn slowest_debt(&self, key: SourceKey) -> Option<PieceIndex> {
        let source = self.sources.get(&key)?;
        let since =
            |peer: &PeerKey, piece| self.peers.get(peer).and_then(|peer| peer.asks.get(&piece)).map(|it| it.since);
        let owed = self.ledger.iter().filter_map(|(piece, debtors)| match debtors {
            [Debtor::Peer(peer)] if source.covers(piece) => Some((since(peer, piece)?, piece)),
            _ => None,
        });
        owed.min().map(|(_, piece)| piece)
    }

    /// With nothing else to fetch: what is left of another source's range that has been silent, or will take long.
    fn late_range(&self, key: SourceKey, bytes_max: u64) -> Option<Range<u32>> {
        let source = self.sources.get(&key).filter(|source| source.active == 0)?;
        let late = |fetch: &&Fetch| {
            let other = self
                .sources
                .get(&fetch.source)
                .and_then(|other| Some(other.rate.rate()? / u64::from(other.active.max(1))));
            let bytes = fetch.rest().fold(0u64, |sum, piece| sum.saturating_add(self.pieces.length(PieceIndex(piece))));
            let silent = self.now.since(fetch.progress_at) >= SOURCE_LATE;
            let long = other.is_some_and(|rate| time_for(bytes, rate) >= SOURCE_LATE * 2);
            !fetch.cancelled && fetch.source != key && (silent || long)
        };
        self.fetches.values().filter(late).find_map(|fetch| {
            let fits =
                |piece: PieceIndex| source.covers(piece) && self.ledger.debtors(piece) == [Debtor::Fetch(fetch.id)];
            let rest = fetch.rest();
            // From the middle on: the other may go on with the first half.
            let middle = rest.start + (rest.end - rest.start) / 2;
            let start = (middle..rest.end).chain(rest.start..middle).find(|piece| fits(PieceIndex(*piece)))?;
            self.extend(start, bytes_max, |piece| rest.contains(&piece.0) && fits(piece))
        })
    }

    /// From a source that only sends whole files: the file of the first open piece, if it is ours to stream.
    fn stream_range(&self, source: &Source) -> Option<Range<u32>> {
        if !self.has_settled() || self.fetches.values().any(|fetch| fetch.source == source.key && !fetch.cancelled) {
            return None;
        }
        let ours =
            |piece: &PieceIndex| source.covers(*piece) && (self.fallback.level == Level::Full || self.is_open(*piece));
        for place in self.pieces.layout().places() {
            let file = place.first_piece..place.first_piece.saturating_add(place.layout.piece_count());
            let wanted = |piece: &PieceIndex| self.pieces.state(*piece) == Some(PieceState::Wanted) && ours(piece);
            if file.clone().map(PieceIndex).any(|piece| wanted(&piece)) && self.may_stream(file.start) {
                return Some(file);
            }
        }
        None
    }

    /// Whether this node streams the file that begins with this piece: its first run is ours.
    pub(crate) fn may_stream(&self, first: u32) -> bool {
        // A stream brings everything again that a site has already; where owners share the work, ranges are cheaper.
        let ranges = |source: &Source| !source.dropped && !source.without_ranges && source.covers(PieceIndex(first));
        if self.duty.is_shared() && self.sources.values().any(ranges) {
            return false;
        }
        self.duty.is_mine(PieceIndex(first)) || self.fallback.level == Level::Full
    }

    pub(crate) fn look_at_duty(&mut self) {
        let guarded = self.outside.is_guarded();
        if self.options.no_peers || (self.sources.is_empty() && !guarded) {
            return;
        }
        if self.duty.stale {
            self.rank_members();
        }
        // Before discovery has settled nobody is late.
        // Words wait behind what others send, too.
        let air = if self.shared_air { OWNER_SILENT * 3 } else { Duration::ZERO };
        let patience = (self.response * SLOW_ANSWERS).max(air).max(self.crossing_time() * 2);
        if self.settled && guarded {
            let (open, pieces) = (self.open_outside(), &self.pieces);
            self.duty.look(open.into_iter(), |piece| pieces.length(piece), patience, self.now);
        } else if self.settled {
            let pieces = &self.pieces;
            self.duty.look(pieces.picker.unheld(), |piece| pieces.length(piece), patience, self.now);
        }
        self.stats.leases_expired = self.duty.leases_expired;
    }
}
