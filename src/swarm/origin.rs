//! Ranges from HTTP sources: which are under way, what became of them, and what the site is told about them.

use std::ops::Range;
use std::time::Duration;

use crate::content::layout::PieceIndex;
use crate::swarm::Swarm;
use crate::swarm::candidate::Candidate;
use crate::swarm::event::{Action, Condition, FetchId, Message, PeerKey, SourceFault, SourceKey};
use crate::swarm::limits::{
    LEASE_MIN, LEASE_UNPROVEN_MAX, MEMBERS_BATCH, QUIET, QUIET_DIAL, QUIET_WAIT_MAX, RUN_BYTES_MIN,
    SOURCE_FILES_FAILED_MAX, SOURCES_MAX, STREAM_OVER_BYTES, SYNC_GRACE,
};
use crate::swarm::peer::Peer;
use crate::swarm::peers::Role;
use crate::swarm::pieces::PieceState;
use crate::swarm::requests::Debtor;
use crate::swarm::sources::{Fetch, Source};
use crate::swarm::timer::{Timer, Uptime};
use crate::swarm::view::Fault;

/// What the site was told about our ranges, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub(crate) said_at: Option<Uptime>,
    lasts: Duration,
    /// A verified block came since it was said.
    pub(crate) proven: bool,
    /// Renewals since the last verified block.
    unproven: u32,
}

impl Swarm {
    pub(crate) fn source_up(&mut self, key: SourceKey, pieces: Vec<Range<u32>>) {
        if self.sources.contains_key(&key) || self.sources.len() >= SOURCES_MAX {
            return;
        }
        let count = self.pieces.layout().piece_count();
        let mut pieces: Vec<_> = pieces.into_iter().map(|range| range.start..range.end.min(count)).collect();
        pieces.retain(|range| !range.is_empty());
        pieces.sort_by_key(|range| range.start);
        self.sources.insert(key, Source::new(key, pieces));
        self.origin_ready = true;
    }

    /// Fetches may not begin yet: a peer that has not told what it holds and fetches, members that came or went a
    /// moment ago, dials under way. Bounded, since members may come and go all the time.
    pub(crate) fn must_hold(&mut self) -> bool {
        if self.isolation.is_on() {
            return false;
        }
        let now = self.now;
        let guarded = self.outside.is_guarded();
        let ours = |peer: &Peer| peer.is_near() || !guarded;
        let unheard = |peer: &Peer| ours(peer) && !peer.synced && now.since(peer.up_since) < SYNC_GRACE;
        let fresh = self.members_changed_at.is_some_and(|at| now.since(at) < QUIET);
        let dialling = || {
            let since = Uptime::from_micros(now.micros().saturating_sub(QUIET_DIAL.as_micros() as u64));
            now.since(self.started) >= QUIET_DIAL && self.members.is_dialling_since(since)
        };
        if !(fresh || self.peers.values().any(unheard) || dialling()) {
            self.hold_since = None;
            return false;
        }
        let since = *self.hold_since.get_or_insert(now);
        let hold = now.since(since) < QUIET_WAIT_MAX;
        if hold {
            // Looked at again as soon as it may be over, not only at the next round.
            self.timers.set(Timer::Housekeeping, now.after(QUIET / 4));
        }
        hold
    }

    /// Starts as many ranges as are allowed and useful.
    pub(crate) fn pump_origin(&mut self) {
        if self.is_complete() || self.sources.is_empty() {
            return;
        }
        if self.duty.stale {
            self.rank_members();
        }
        while self.may_cross() {
            let Some((source, pieces)) = self.next_fetch() else { break };
            self.start_fetch(source, pieces);
        }
    }

    pub(crate) fn rank_members(&mut self) {
        let lacks = |peer: &&Peer| peer.is_near() && peer.bits.is_some() && !peer.is_complete();
        let of = |peer: &Peer| Candidate {
            peer: Some(peer.key),
            id: peer.id,
            address: peer.address,
            key: peer.rank_key,
            token: peer.token_key,
            condition: peer.condition,
        };
        let candidates = self.peers.values().filter(lacks).map(of).chain([self.me]).collect();
        let heard = self.members.ranks();
        let before = self.duty.floor();
        self.duty.rank(candidates, &heard, self.now);
        let floor = self.duty.floor();
        // Where nothing is left to bring, it matters to nobody.
        if floor > 0 && floor < before && self.pieces.picker.unheld().next().is_some() {
            self.members.lowered(before, floor);
            self.timers.set_sooner(Timer::Members, self.now.after(MEMBERS_BATCH));
        }
    }

    /// Whether this node ranks for duties from now on; members are told, since all must agree on who ranks. Ranges that
    /// have begun go on.
    pub(crate) fn allow_duties(&mut self, allowed: bool) {
        self.be(Condition { off_duty: !allowed, ..self.me.condition });
    }

    /// Whether this machine is likely to stay.
    pub(crate) fn is_stable(&mut self, stable: bool) {
        self.be(Condition { unstable: !stable, ..self.me.condition });
    }

    /// Whether nobody waits for the download.
    pub(crate) fn is_background(&mut self, background: bool) {
        self.options.background = background;
        self.be(Condition { background, ..self.me.condition });
    }

    fn be(&mut self, condition: Condition) {
        if std::mem::replace(&mut self.me.condition, condition) == condition {
            return;
        }
        for key in self.peers.keys().collect::<Vec<_>>() {
            self.send(key, Message::Condition(condition));
        }
        (self.duty.stale, self.origin_ready) = (true, true);
    }

    /// A peer says what it can bear.
    pub(crate) fn condition(&mut self, key: PeerKey, condition: Condition) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.condition != condition) else { return };
        peer.condition = condition;
        (self.duty.stale, self.origin_ready) = (true, true);
    }

    fn start_fetch(&mut self, source: SourceKey, pieces: Range<u32>) {
        let id = FetchId(self.next_fetch);
        self.next_fetch += 1;
        self.crosses(self.range_length(&pieces));
        for piece in pieces.clone().map(PieceIndex) {
            if self.pieces.is_missing(piece) {
                self.pieces.request(piece);
                self.ledger.owe(piece, Debtor::Fetch(id));
            }
        }
        if !self.settled {
            self.settle_left = self.settle_left.saturating_sub(pieces.end - pieces.start);
        }
        if let Some(source) = self.sources.get_mut(&source) {
            source.active += 1;
            source.rate.begin(self.now);
        }
        let fetch = Fetch {
            id,
            source,
            next: pieces.start,
            pieces: pieces.clone(),
            progress_at: self.now,
            delivered: 0,
            cancelled: false,
        };
        self.fetches.insert(id, fetch);
        self.stats.fetches += 1;
        // The word goes out before the deed.
        self.tell_intents(None);
        self.actions.push_back(Action::Fetch { fetch: id, source, pieces });
    }

    /// Tells one peer, or all of the site that lack something, what we fetch.
    pub(crate) fn tell_intents(&mut self, to: Option<PeerKey>) {
        let mut ranges: Vec<Range<u32>> =
            self.fetches.values().filter(|it| !it.cancelled).map(Fetch::rest).filter(|it| !it.is_empty()).collect();
        let outside = self.asked_outside();
        let lease_outside = if outside.is_empty() { LEASE_MIN } else { self.lease_outside() };
        ranges.extend(outside);
        if ranges.is_empty() {
            return;
        }
        ranges.sort_by_key(|range| range.start);
        let by_source = self.sources.values().filter(|source| source.active > 0).map(Source::lease);
        let lease = by_source.max().unwrap_or(LEASE_MIN).max(lease_outside);
        let lacking = self.peers.cast(Role::Lacking).iter().copied();
        let hearers: Vec<PeerKey> = lacking.filter(|key| to.is_none_or(|to| to == *key)).collect();
        for key in hearers {
            self.send(key, Message::Intent { pieces: ranges.clone(), lease });
        }
        if to.is_none() {
            self.lease.said_at = Some(self.now);
            self.lease.lasts = lease;
        }
    }

    fn withdraw(&mut self, pieces: Range<u32>) {
        let mut left: Vec<Range<u32>> = Vec::new();
        for piece in pieces.filter(|piece| !self.pieces.held().has(PieceIndex(*piece))) {
            match left.last_mut() {
                Some(range) if range.end == piece => range.end += 1,
                _ => left.push(piece..piece + 1),
            }
        }
        left.truncate(crate::swarm::limits::INTENT_RANGES_MAX);
        if left.is_empty() {
            return;
        }
        let hearers = self.peers.cast(Role::Lacking).to_vec();
        for key in hearers {
            self.send(key, Message::Intent { pieces: left.clone(), lease: Duration::ZERO });
        }
    }

    /// Another of the site fetches what we fetch too. Who ranks lower gives way, where that still saves something.
    pub(crate) fn yield_to(&mut self, peer: PeerKey, theirs: &[Range<u32>]) {
        let outranked = |fetch: &&Fetch| {
            let rest = fetch.rest();
            let twice = rest.clone().filter(|piece| theirs.iter().any(|range| range.contains(piece)));
            let twice = twice.filter(|piece| self.duty.outranks_me(peer, PieceIndex(*piece)));
            let bytes = twice.fold(0u64, |sum, piece| sum.saturating_add(self.pieces.length(PieceIndex(piece))));
            !fetch.cancelled && bytes >= RUN_BYTES_MIN && fetch.delivered == 0
        };
        let yielding: Vec<FetchId> = self.fetches.values().filter(outranked).map(|fetch| fetch.id).collect();
        yielding.into_iter().for_each(|fetch| self.cancel_fetch(fetch));
    }

    /// Bytes of a range of pieces.
    fn range_length(&self, pieces: &Range<u32>) -> u64 {
        pieces.clone().fold(0u64, |sum, piece| sum.saturating_add(self.pieces.length(PieceIndex(piece))))
    }

    /// Renews the lease while blocks arrive, a few times even if none does yet; gives up ranges that are silent.
    pub(crate) fn check_fetches(&mut self) {
        let now = self.now;
        let silent = |fetch: &&Fetch| {
            let patience = self.sources.get(&fetch.source).map_or(Duration::ZERO, Source::patience);
            !fetch.cancelled && now.since(fetch.progress_at) >= patience
        };
        let silent: Vec<(FetchId, SourceKey)> =
            self.fetches.values().filter(silent).map(|fetch| (fetch.id, fetch.source)).collect();
        for (fetch, source) in silent {
            self.cancel_fetch(fetch);
            self.source_failed(source, SourceFault::TimedOut, None, None);
        }
        let half = self.lease.lasts / 2;
        let due = self.lease.said_at.is_some_and(|at| now.since(at) >= half);
        let idle = self.fetches.values().all(|fetch| fetch.cancelled) && self.asked_outside().is_empty();
        if !due || idle {
            return;
        }
        if std::mem::take(&mut self.lease.proven) {
            self.lease.unproven = 0;
        } else if self.lease.unproven >= LEASE_UNPROVEN_MAX {
            return;
        } else {
            self.lease.unproven += 1;
        }
        self.tell_intents(None);
    }

    /// A right block came from a source.
    pub(crate) fn credit_source(&mut self, key: SourceKey, piece: PieceIndex, bytes: u64) {
        let now = self.now;
        let Some(source) = self.sources.get_mut(&key) else { return };
        source.rate.add(now, bytes);
        source.recent.add(now, bytes);
        source.bytes = source.bytes.saturating_add(bytes);
        source.faults_in_row = 0;
        if !source.proven || source.probing {
            (source.proven, source.probing) = (true, false);
            self.origin_ready = true;
        }
        self.lease.proven = true;
        let whole = self.pieces.held().has(piece);
        let its = |fetch: &&mut Fetch| fetch.source == key && fetch.pieces.contains(&piece.0);
        for fetch in self.fetches.values_mut().filter(its) {
            fetch.progress_at = now;
            fetch.delivered = fetch.delivered.saturating_add(bytes);
            fetch.next = fetch.next.max(piece.0 + u32::from(whole));
        }
    }

    /// A piece of a range is held, whoever sent it: if nothing is left, or the stream would long repeat what is here,
    /// the range ends.
    pub(crate) fn trim_fetch(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(&id).filter(|fetch| !fetch.cancelled) else { return };
        let mut over = 0u64;
        for piece in fetch.rest().map(PieceIndex) {
            if !self.pieces.held().has(piece) {
                break;
            }
            over = over.saturating_add(self.pieces.length(piece));
        }
        let rest = fetch.rest();
        if rest.is_empty() {
            return;
        }
        if !self.pieces.any_missing(rest) || over >= STREAM_OVER_BYTES {
            self.cancel_fetch(id);
        }
    }

    /// Takes a range back; what was still to come is free at once.
    pub(crate) fn cancel_fetch(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get_mut(&id).filter(|fetch| !fetch.cancelled) else { return };
        fetch.cancelled = true;
        let rest = fetch.rest();
        self.crosses_not(self.range_length(&rest));
        let done = rest.is_empty();
        self.free_fetch(id);
        if !done {
            self.stats.fetches_cancelled += 1;
        }
        self.actions.push_back(Action::CancelFetch { fetch: id });
        self.withdraw(rest);
    }

    /// Nobody waits for this range any more.
    fn free_fetch(&mut self, id: FetchId) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        let pieces = fetch.pieces.clone();
        if let Some(source) = self.sources.get_mut(&fetch.source) {
            source.active = source.active.saturating_sub(1);
            if source.active == 0 {
                source.rate.end(self.now);
            }
        }
        for piece in pieces.map(PieceIndex) {
            self.release(piece, Debtor::Fetch(id));
        }
        self.wake_peers();
        self.origin_ready = true;
    }

    pub(crate) fn fetch_ended(&mut self, id: FetchId, fault: Option<SourceFault>, retry_after: Option<Duration>) {
        let Some(fetch) = self.fetches.get(&id) else { return };
        let (source, rest, cancelled) = (fetch.source, fetch.rest(), fetch.cancelled);
        if !cancelled {
            self.crosses_not(self.range_length(&rest));
            self.free_fetch(id);
            self.withdraw(rest.clone());
        }
        self.fetches.remove(&id);
        self.origin_ready = true;
        if let Some(fault) = fault.filter(|_| !cancelled) {
            self.stats.fetches_failed += 1;
            self.source_failed(source, fault, retry_after, Some(PieceIndex(rest.start)));
        }
    }

    /// A fault of a source: it rests, loses a file, or is out.
    fn source_failed(
        &mut self,
        key: SourceKey,
        fault: SourceFault,
        retry_after: Option<Duration>,
        at: Option<PieceIndex>,
    ) {
        let Some(source) = self.sources.get_mut(&key).filter(|source| !source.dropped) else { return };
        source.last_fault = Some(fault);
        let lasting = matches!(fault, SourceFault::Refused | SourceFault::Changed);
        if lasting {
            // One file that is missing or another condemns that file there; several condemn the source.
            source.files_failed += 1;
            if let Some((place, _)) = at.and_then(|piece| self.pieces.layout().locate(piece)) {
                let end = place.first_piece.saturating_add(place.layout.piece_count());
                source.exclude(&(place.first_piece..end));
            }
        } else {
            source.rest(retry_after, &mut self.rng, self.now);
        }
        let out = lasting && (source.files_failed >= SOURCE_FILES_FAILED_MAX || source.pieces.is_empty());
        self.note(Fault::Source { source: key, fault, at: self.now });
        if out {
            self.drop_source(key, fault);
        }
    }

    fn drop_source(&mut self, key: SourceKey, fault: SourceFault) {
        let Some(source) = self.sources.get_mut(&key).filter(|source| !source.dropped) else { return };
        source.dropped = true;
        source.last_fault = Some(fault);
        self.cancel_fetches_of(key, None);
        self.actions.push_back(Action::DropSource { source: key, fault });
    }

    /// The node asks a source no more, for reasons of its own.
    pub(crate) fn source_down(&mut self, key: SourceKey) {
        let Some(source) = self.sources.get_mut(&key).filter(|source| !source.dropped) else { return };
        source.dropped = true;
        self.cancel_fetches_of(key, None);
        self.origin_ready = true;
    }

    fn cancel_fetches_of(&mut self, key: SourceKey, but: Option<FetchId>) {
        let its = |fetch: &&Fetch| fetch.source == key && Some(fetch.id) != but;
        let fetches: Vec<FetchId> = self.fetches.values().filter(its).map(|fetch| fetch.id).collect();
        fetches.into_iter().for_each(|fetch| self.cancel_fetch(fetch));
    }

    /// Wrong bytes from a source: a probe elsewhere tells whether its file is another one.
    pub(crate) fn source_lied(&mut self, key: SourceKey, piece: PieceIndex, proven: bool) {
        let Some(source) = self.sources.get_mut(&key).filter(|source| !source.dropped) else { return };
        // Without ranges no probe elsewhere is possible.
        let again = !source.bad_pieces.is_empty() || source.without_ranges;
        source.bad_pieces.insert(piece);
        (source.probing, source.proven) = (true, false);
        self.cancel_fetches_of(key, None);
        if again && proven {
            self.note(Fault::Source { source: key, fault: SourceFault::Changed, at: self.now });
            self.drop_source(key, SourceFault::Changed);
        }
    }

    /// A fetch turned out to stream its whole file.
    pub(crate) fn source_without_ranges(&mut self, key: SourceKey, id: FetchId, pieces: Range<u32>) {
        let count = self.pieces.layout().piece_count();
        let pieces = pieces.start..pieces.end.min(count);
        let Some(source) = self.sources.get_mut(&key) else { return };
        source.without_ranges = true;
        self.cancel_fetches_of(key, Some(id));
        let Some(fetch) = self.fetches.get_mut(&id).filter(|it| !it.cancelled && it.source == key) else { return };
        if pieces.is_empty() {
            return;
        }
        for piece in fetch.pieces.clone().filter(|piece| !pieces.contains(piece)).map(PieceIndex) {
            self.release(piece, Debtor::Fetch(id));
        }
        let Some(fetch) = self.fetches.get_mut(&id) else { return };
        (fetch.pieces, fetch.next) = (pieces.clone(), pieces.start);
        if !self.settled || !self.may_stream(pieces.start) {
            // Somebody else of the site streams it, or nobody knows yet who should.
            return self.cancel_fetch(id);
        }
        for piece in pieces.map(PieceIndex) {
            if self.pieces.state(piece) == Some(PieceState::Wanted) {
                self.pieces.request(piece);
                self.ledger.owe(piece, Debtor::Fetch(id));
            }
        }
        self.tell_intents(None);
    }
}
