//! Which node of a site fetches which piece from the origin, so that each leaves it about once.
//!
//! Every node ranks the same members by rendezvous hashing (Thaler and Ravishankar 1998) and comes to the same owners
//! without a word. Words correct it: a claim (`Intent`) beats any rank, and who is silent, slow or gone is passed over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::content::layout::{FlatLayout, PieceIndex};
use crate::swarm::candidate::{Candidate, is_large, prefer};
use crate::swarm::event::{AddressKey, Condition, PeerKey};
use crate::swarm::limits::{
    CLAIM_BYTES_MAX, CLAIM_UNPROVEN_BYTES, CLAIM_UNPROVEN_LASTS, CLAIMS_MAX, INTENT_RANGES_MAX, INTENTS_UNPROVEN_MAX,
    LEASE_FIRST, LEASE_MAX, LEASES_EXPIRED_MAX, ONE_GATEWAY_BYTES, OWNER_SILENT, OWNER_SLOW, OWNER_SUSPECT,
    RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_PART,
};
use crate::swarm::owner::Owner;
use crate::swarm::random::mix;
use crate::swarm::rate::{per_second, time_for};
use crate::swarm::standing::Standing;
use crate::swarm::timer::Uptime;

/// Ranking, claims and leases.
#[derive(Debug)]
pub(crate) struct Duty {
    /// First piece of each run, ascending; a run ends where the next begins. Runs do not cross files.
    runs: Vec<u32>,
    piece_count: u32,
    gateway_count: usize,
    gateways: Vec<Candidate>,
    /// There are as many as there may be.
    full: bool,
    /// The site was seen to be a large one; it stays that for this content.
    large: bool,
    /// Gateway of each run, an index into `gateways`.
    owners: Vec<u8>,
    /// Runs of this node, ascending.
    mine: Vec<u32>,
    /// Members came or went since `rank`.
    pub(crate) stale: bool,
    peers: BTreeMap<PeerKey, Owner>,
    standing: Standing,
    /// Until then nobody's silence counts: see [`Duty::bear`].
    borne_until: Uptime,
    /// When strikes were looked at last.
    looked_at: Uptime,
    claims: BTreeMap<PieceIndex, PeerKey>,
    expired: BTreeMap<PieceIndex, u8>,
    pub(crate) leases_expired: u64,
}

impl Duty {
    pub(crate) fn new(layout: &FlatLayout, gateways: u32) -> Self {
        let total = layout.total_bytes();
        let run_bytes = (total / RUN_PART).clamp(RUN_BYTES_MIN, RUN_BYTES_MAX);
        let mut runs = Vec::new();
        for place in layout.places() {
            let step = u32::try_from(run_bytes / place.layout.piece_bytes()).unwrap_or(1).max(1);
            let end = place.first_piece + place.layout.piece_count();
            runs.extend((place.first_piece..end).step_by(step as usize));
        }
        let gateway_count = if total < ONE_GATEWAY_BYTES { 1 } else { gateways.clamp(1, 64) as usize };
        Self {
            owners: vec![0; runs.len()],
            runs,
            piece_count: layout.piece_count(),
            gateway_count,
            gateways: Vec::new(),
            full: false,
            large: false,
            mine: Vec::new(),
            stale: true,
            peers: BTreeMap::new(),
            standing: Standing::default(),
            borne_until: Uptime::ZERO,
            looked_at: Uptime::ZERO,
            claims: BTreeMap::new(),
            expired: BTreeMap::new(),
            leases_expired: 0,
        }
    }

    /// Ranks the members anew. One slot an address; a member listed twice counts once. `heard`: ranks of members that were
    /// told of; they say how large the site is, and no more.
    pub(crate) fn rank(&mut self, mut candidates: Vec<Candidate>, heard: &[u64], now: Uptime) {
        self.stale = false;
        let stable = |it: &Candidate| !it.condition.unstable;
        let guest = candidates.iter().any(|it| it.peer.is_none() && !stable(it))
            && candidates.iter().any(|it| it.peer.is_some() && stable(it));
        candidates
            .retain(|candidate| candidate.peer.is_none_or(|peer| !self.is_suspect(peer, &candidate.address, now)));
        prefer(&mut candidates, |condition| !condition.off_duty);
        prefer(&mut candidates, |condition| !condition.background);
        let token = candidates.iter().all(|candidate| candidate.condition.background);
        let count = if token { 1 } else { self.gateway_count };
        if token {
            candidates.iter_mut().for_each(|candidate| candidate.key = candidate.token);
        }
        candidates.sort_by_key(|candidate| (std::cmp::Reverse(mix(candidate.key)), candidate.id));
        self.large |= count > 1 && is_large(&candidates, heard, count);
        if count == 1 || self.large {
            prefer(&mut candidates, |condition| !condition.unstable);
        }
        if self.large && guest {
            // It does not know all gateways, and cannot tell whether those that it knows are silent.
            candidates.retain(|candidate| candidate.peer.is_some());
        }
        let mut gateways: Vec<Candidate> = Vec::with_capacity(count);
        for candidate in candidates {
            let taken = |it: &Candidate| it.id == candidate.id || it.address == candidate.address;
            if gateways.len() < count && !gateways.iter().any(taken) {
                gateways.push(candidate);
            }
        }
        self.full = gateways.len() >= count;
        if gateways == self.gateways {
            return;
        }
        self.gateways = gateways;
        self.mine.clear();
        for (run, first) in self.runs.iter().enumerate() {
            let key = mix(u64::from(*first));
            let best = self.gateways.iter().enumerate().max_by_key(|(_, it)| (mix(it.key ^ key), it.id));
            let best = best.map_or(0, |(index, _)| index);
            self.owners[run] = best as u8;
            if self.gateways.get(best).is_some_and(|it| it.peer.is_none()) {
                self.mine.push(run as u32);
            }
        }
    }

    fn run_of(&self, piece: PieceIndex) -> usize {
        self.runs.partition_point(|first| *first <= piece.0).saturating_sub(1)
    }

    /// The pieces of a run.
    pub(crate) fn run(&self, run: u32) -> Range<u32> {
        let first = self.runs.get(run as usize).copied().unwrap_or(self.piece_count);
        first..self.runs.get(run as usize + 1).copied().unwrap_or(self.piece_count)
    }

    /// Runs that this node owns, ascending.
    pub(crate) fn mine(&self) -> &[u32] {
        &self.mine
    }

    /// Whether this node is one of the gateways.
    pub(crate) fn am_gateway(&self) -> bool {
        self.gateways.iter().any(|it| it.peer.is_none())
    }

    /// Who ranks above this would be a gateway, if it lacks something; 0 while there are fewer than there may be.
    pub(crate) fn floor(&self) -> u64 {
        let lowest = self.gateways.iter().map(|it| mix(it.key)).min().filter(|_| self.full);
        lowest.unwrap_or(0)
    }

    /// There are as many gateways as there may be, and none that others would be preferred to for what it says of itself.
    fn is_settled(&self) -> bool {
        self.full && self.gateways.iter().all(|it| it.condition == Condition::default())
    }

    /// Whether a member with this key, whatever it says of itself, may change who the gateways are by coming.
    pub(crate) fn may_rank(&self, key: u64) -> bool {
        !self.is_settled() || mix(key) >= self.floor()
    }

    /// Whether the gateways may be others without this peer.
    pub(crate) fn may_unrank(&self, peer: PeerKey) -> bool {
        !self.is_settled() || self.gateways.iter().any(|it| it.peer == Some(peer))
    }

    /// Whether the site is so large that its gateways could not have sessions with all: see [`SITE_LARGE`].
    pub(crate) fn is_large(&self) -> bool {
        self.large
    }

    /// How many gateways the site has for this content, this node among them or not; 0 before they were ranked.
    pub(crate) fn gateway_count(&self) -> usize {
        self.gateways.len()
    }

    /// Whether others of the site fetch from the origin too.
    pub(crate) fn is_shared(&self) -> bool {
        self.gateways.iter().any(|it| it.peer.is_some())
    }

    /// Whether this node owns the piece.
    pub(crate) fn is_mine(&self, piece: PieceIndex) -> bool {
        self.owner(piece).is_some_and(|it| it.peer.is_none())
    }

    fn owner(&self, piece: PieceIndex) -> Option<&Candidate> {
        let owner = self.owners.get(self.run_of(piece))?;
        self.gateways.get(usize::from(*owner))
    }

    /// Whether `peer` comes before this node for a piece; false where either is no gateway.
    pub(crate) fn outranks_me(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        let key = mix(u64::from(self.runs.get(self.run_of(piece)).copied().unwrap_or(0)));
        let rank =
            |who: Option<PeerKey>| self.gateways.iter().find(|it| it.peer == who).map(|it| (mix(it.key ^ key), it.id));
        rank(Some(peer)).is_some_and(|theirs| rank(None).is_none_or(|mine| theirs > mine))
    }

    /// Whether what a peer says that it fetches counts: not where it said so often in vain, or others at its address did.
    pub(crate) fn is_believed(&self, peer: PeerKey, now: Uptime) -> bool {
        let Some(owner) = self.peers.get(&peer) else { return true };
        let in_vain = owner.brought == 0 && self.standing.is_struck(&owner.address, now);
        owner.unproven < INTENTS_UNPROVEN_MAX && !in_vain
    }

    /// Whether another fetches this piece from the origin at the moment.
    pub(crate) fn is_claimed(&self, piece: PieceIndex) -> bool {
        self.claims.contains_key(&piece)
    }

    /// Pieces of which so many leases ran out that this node may fetch them though they are another's: a gateway first,
    /// everybody when gateways had as many tries more.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let most = if self.am_gateway() { LEASES_EXPIRED_MAX } else { 2 * LEASES_EXPIRED_MAX };
        self.expired.iter().filter(move |(_, times)| **times >= most).map(|(piece, _)| *piece)
    }

    /// A peer at `address` says what it fetches. `open` tells whether a piece is still to come and nobody holds it. Too many ranges or bytes are cut.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn intent(
        &mut self,
        peer: PeerKey,
        address: AddressKey,
        ranges: &[Range<u32>],
        lease: Duration,
        bytes: impl Fn(PieceIndex) -> u64,
        open: impl Fn(PieceIndex) -> bool,
        now: Uptime,
    ) {
        let said = ranges.iter().take(INTENT_RANGES_MAX).cloned().collect();
        let (ranges, count) = (ranges.iter().take(INTENT_RANGES_MAX), self.piece_count);
        let pieces = ranges.flat_map(|range| range.start..range.end.min(count)).map(PieceIndex);
        if lease.is_zero() {
            for piece in pieces.take(CLAIMS_MAX) {
                if self.claims.get(&piece) == Some(&peer) {
                    self.unclaim(piece, &bytes);
                }
            }
            return;
        }
        let owner = self.peers.entry(peer).or_insert_with(|| Owner::new(address));
        owner.said.swap(0, 1);
        owner.said[0] = said;
        let proven = owner.brought > 0;
        if owner.unproven >= INTENTS_UNPROVEN_MAX || (!proven && self.standing.is_struck(&address, now)) {
            return;
        }
        owner.unproven += 1;
        if owner.brought_since == Uptime::ZERO {
            owner.brought_since = now;
        }
        owner.lease = lease.min(if proven { LEASE_MAX } else { LEASE_FIRST });
        // Who claims far more than it brings is not renewed for a trickle.
        if !proven || owner.claimed_bytes <= owner.claim_max(now) {
            owner.lease_until = now.after(owner.lease);
        }
        if !proven {
            // However often it says so: who brings nothing for a minute fetches nothing.
            owner.lease_until = owner.lease_until.min(owner.brought_since.after(LEASE_MAX));
        }
        let place = self.gateways.iter().position(|it| it.peer == Some(peer));
        for piece in pieces.take(CLAIMS_MAX) {
            let length = bytes(piece);
            if self.claims.len() >= CLAIMS_MAX || owner.claimed_bytes.saturating_add(length) > CLAIM_BYTES_MAX {
                break;
            }
            if !open(piece) || self.claims.contains_key(&piece) {
                continue;
            }
            // Its own duties it may claim as far as it likes; nobody else fetches them anyway.
            let run = self.runs.partition_point(|first| *first <= piece.0).saturating_sub(1);
            let owned = place.is_some() && self.owners.get(run).map(|owner| usize::from(*owner)) == place;
            if proven && !owned && owner.claimed_bytes.saturating_add(length) > owner.claim_max(now) {
                continue;
            }
            if !proven && !self.standing.claim(address, length) {
                break;
            }
            self.claims.insert(piece, peer);
            owner.claimed_bytes += length;
        }
        if !proven && self.standing.claimed(&address) > CLAIM_UNPROVEN_BYTES {
            // Whose source is so fast shows a piece soon.
            owner.lease_until = owner.lease_until.min(owner.brought_since.after(CLAIM_UNPROVEN_LASTS));
        }
    }

    fn unclaim(&mut self, piece: PieceIndex, bytes: impl Fn(PieceIndex) -> u64) {
        if let Some(owner) = self.claims.remove(&piece).and_then(|peer| self.peers.get_mut(&peer)) {
            owner.claimed_bytes = owner.claimed_bytes.saturating_sub(bytes(piece));
            if owner.brought == 0 {
                self.standing.release(&owner.address, bytes(piece));
            }
        }
    }

    /// Whether a piece of a peer may have come from a source: it said that it fetches it, or should.
    pub(crate) fn explains(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        let said =
            self.peers.get(&peer).is_some_and(|owner| owner.said.iter().flatten().any(|it| it.contains(&piece.0)));
        said || self.claims.get(&piece) == Some(&peer) || self.owner(piece).is_some_and(|it| it.peer == Some(peer))
    }

    /// A peer says that it holds a piece which nobody held before: if it claimed or owns it, that is progress.
    pub(crate) fn brought(
        &mut self,
        peer: PeerKey,
        address: AddressKey,
        piece: PieceIndex,
        bytes: impl Fn(PieceIndex) -> u64,
        now: Uptime,
    ) {
        let claimed = self.claims.get(&piece) == Some(&peer);
        let explained = self.explains(peer, piece);
        let length = bytes(piece);
        self.arrived(piece, bytes);
        if !explained {
            return;
        }
        let owner = self.peers.entry(peer).or_insert_with(|| Owner::new(address));
        if owner.brought == 0 {
            self.standing.release(&address, owner.claimed_bytes);
            self.stale |= self.standing.is_struck(&address, now);
            self.standing.clear(&address);
        }
        owner.progress_at = now;
        owner.unproven = 0;
        owner.brought = owner.brought.saturating_add(length);
        if claimed && owner.claimed_bytes <= owner.claim_max(now) {
            owner.lease_until = owner.lease_until.max(now.after(owner.lease));
        }
        if owner.suspect_until > now {
            owner.suspect_until = now;
            self.stale = true;
        }
    }

    /// A piece is held here or by a neighbour: claims on it are settled.
    pub(crate) fn arrived(&mut self, piece: PieceIndex, bytes: impl Fn(PieceIndex) -> u64) {
        self.unclaim(piece, bytes);
        self.expired.remove(&piece);
    }

    /// Pieces that somebody was said to hold are open again. Others of the site may find that out a while later: until
    /// then they are not silent.
    pub(crate) fn bear(&mut self, until: Uptime) {
        self.borne_until = until;
        self.peers.values_mut().for_each(|owner| owner.open_since = None);
    }

    /// A peer is gone, with its claims.
    pub(crate) fn forget(&mut self, peer: PeerKey) {
        self.stale |= self.may_unrank(peer);
        let Some(owner) = self.peers.remove(&peer).filter(|owner| owner.claimed_bytes > 0) else { return };
        self.claims.retain(|_, claimer| *claimer != peer);
        if owner.brought == 0 {
            self.standing.release(&owner.address, owner.claimed_bytes);
        }
    }

    /// Leases, claims and suspicions are void: the others went on while this node stood still.
    pub(crate) fn forget_leases(&mut self) {
        self.peers.clear();
        self.standing = Standing::default();
        self.claims.clear();
        self.expired.clear();
        self.stale = true;
    }

    fn is_suspect(&self, peer: PeerKey, address: &AddressKey, now: Uptime) -> bool {
        let owner = self.peers.get(&peer);
        let unproven = owner.is_none_or(|owner| owner.brought == 0);
        owner.is_some_and(|owner| owner.suspect_until > now) || (unproven && self.standing.is_struck(address, now))
    }

    /// Counts the open pieces of every owner, ends leases that ran out and passes over who is silent. `open`: wanted
    /// pieces that nobody holds; `patience`: silence that says nothing, since answers take as long everywhere.
    pub(crate) fn look(
        &mut self,
        open: impl Iterator<Item = PieceIndex>,
        bytes: impl Fn(PieceIndex) -> u64,
        patience: Duration,
        now: Uptime,
    ) {
        let mut sums = vec![0u64; self.gateways.len()];
        let others = self.gateways.iter().any(|it| it.peer.is_some());
        for piece in open.take(if others { usize::MAX } else { 0 }) {
            if !self.claims.contains_key(&piece) {
                let owner = self.owners.get(self.run_of(piece)).map_or(0, |owner| usize::from(*owner));
                if let Some(sum) = sums.get_mut(owner) {
                    *sum = sum.saturating_add(bytes(piece));
                }
            }
        }
        for (gateway, sum) in self.gateways.iter().zip(sums) {
            let Some(peer) = gateway.peer else { continue };
            let owner = self.peers.entry(peer).or_insert_with(|| Owner::new(gateway.address));
            owner.open_bytes = sum;
            if sum == 0 {
                owner.open_since = None;
                continue;
            }
            let open_since = *owner.open_since.get_or_insert(now.max(self.borne_until));
            let idle_since = open_since.max(owner.progress_at);
            if owner.claimed_bytes == 0 && now.since(idle_since) >= patience.max(OWNER_SILENT) {
                owner.suspect_until = now.after(OWNER_SUSPECT);
                owner.open_since = None;
                if owner.brought == 0 {
                    self.standing.strike(gateway.address, now);
                }
                self.stale = true;
            }
        }
        self.end_leases(bytes, now);
        self.stale |= self.standing.any_over(self.looked_at, now);
        self.looked_at = now;
        // A suspicion that ends lets its member rank again.
        self.stale |=
            self.peers.values().any(|owner| owner.suspect_until != Uptime::ZERO && owner.suspect_until <= now);
        self.peers.values_mut().filter(|owner| owner.suspect_until <= now).for_each(|owner| {
            owner.suspect_until = Uptime::ZERO;
        });
    }

    fn end_leases(&mut self, bytes: impl Fn(PieceIndex) -> u64, now: Uptime) {
        let over: Vec<PeerKey> = self
            .peers
            .iter()
            .filter(|(_, owner)| owner.claimed_bytes > 0 && owner.lease_until <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in over {
            let proven = self.peers.get(&peer).is_some_and(|owner| owner.brought > 0);
            let pieces: Vec<PieceIndex> =
                self.claims.iter().filter(|(_, claimer)| **claimer == peer).map(|(piece, _)| *piece).collect();
            for piece in pieces {
                // Whoever claims what is another's duty and brings nothing fails nobody: its owner goes on.
                if proven || self.owner(piece).is_some_and(|it| it.peer == Some(peer)) {
                    let times = self.expired.entry(piece).or_default();
                    *times = times.saturating_add(1);
                }
                self.unclaim(piece, &bytes);
            }
            self.leases_expired += 1;
            self.stale = true;
            if let Some(owner) = self.peers.get_mut(&peer) {
                owner.suspect_until = now.after(OWNER_SUSPECT);
                owner.claimed_bytes = 0;
                if owner.brought == 0 {
                    owner.brought_since = Uptime::ZERO;
                    self.standing.strike(owner.address, now);
                }
            }
        }
    }

    /// The gateway that will need longest for what it has neither claimed nor delivered, if that is too long.
    fn slowest(&self, now: Uptime) -> Option<PeerKey> {
        let time = |owner: &Owner| {
            let busy = u64::try_from(now.since(owner.brought_since).as_micros()).unwrap_or(u64::MAX);
            time_for(owner.open_bytes, per_second(owner.brought, busy))
        };
        let ranked = self.gateways.iter().filter_map(|it| it.peer);
        ranked
            .filter_map(|peer| self.peers.get(&peer).map(|owner| (peer, owner)))
            .filter(|(_, owner)| owner.brought > 0 && owner.open_bytes > 0)
            .map(|(peer, owner)| (time(owner), peer))
            .filter(|(time, _)| *time > OWNER_SLOW)
            .max()
            .map(|(_, peer)| peer)
    }

    /// The last run of the slowest owner for which `open` holds: that which it would come to last.
    pub(crate) fn run_of_the_slowest(&self, open: impl Fn(PieceIndex) -> bool, now: Uptime) -> Option<Range<u32>> {
        let slowest = self.slowest(now)?;
        let index = self.gateways.iter().position(|it| it.peer == Some(slowest))?;
        let runs = (0..self.runs.len()).rev().filter(|run| usize::from(self.owners[*run]) == index);
        let runs = runs.map(|run| self.run(run as u32));
        runs.take(crate::swarm::limits::RUN_STEPS_MAX).find(|run| run.clone().any(|piece| open(PieceIndex(piece))))
    }
}

#[cfg(test)]
#[path = "duty_tests.rs"]
mod tests;
