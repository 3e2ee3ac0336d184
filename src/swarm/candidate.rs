//! Who may have origin duties, and by what a site's members are ordered for them. Who has which is `duty`'s.

use crate::swarm::event::{AddressKey, Condition, NodeId, PeerKey};
use crate::swarm::limits::{RANKS_HEARD_MAX, SITE_LARGE};
use crate::swarm::random::mix;

/// A member that may be ranked; `peer` is `None` for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) peer: Option<PeerKey>,
    pub(crate) id: NodeId,
    pub(crate) address: AddressKey,
    /// From [`rank_key`].
    pub(crate) key: u64,
    /// From [`token_key`].
    pub(crate) token: u64,
    /// What it says of itself.
    pub(crate) condition: Condition,
}

/// What ranks a node as its site's one gateway where nobody waits: the same for all contents, so that one node's pacer
/// steers what all of them take of the line together, as one polite flow.
pub(crate) fn token_key(id: &NodeId) -> u64 {
    rank_key(&[0; 32], id)
}

/// What ranks a node for one topic; computed once a session.
pub(crate) fn rank_key(topic: &[u8; 32], id: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"piecework origin duty v1").update(topic).update(&id.0);
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(head)
}

/// What orders the members of a site as gateways, from [`rank_key`].
pub(crate) fn gateway_rank(key: u64) -> u64 {
    mix(key)
}

/// Leaves only those for whom `good` holds, if there are any.
pub(crate) fn prefer(candidates: &mut Vec<Candidate>, good: impl Fn(&Condition) -> bool) {
    if candidates.iter().any(|candidate| good(&candidate.condition)) {
        candidates.retain(|candidate| good(&candidate.condition));
    }
}

/// Whether a site is so large that its gateways could not have sessions with all: see [`SITE_LARGE`].
/// Ranks are spread evenly, so that few of a large site lie above the `count`th that its size shows; the same goes for
/// the next ones as far as they are known, and who is not known makes a site look smaller only. `sorted`: by rank, the
/// highest first. `heard`: ranks of those that others told of, since gateways of a large site have no room for everybody.
pub(crate) fn is_large(sorted: &[Candidate], heard: &[u64], count: usize) -> bool {
    let ranks = sorted.iter().take(RANKS_HEARD_MAX).map(|it| mix(it.key));
    let mut ranks: Vec<u64> = ranks.chain(heard.iter().copied()).collect();
    ranks.sort_unstable_by(|one, other| other.cmp(one));
    [1, 2, 4].into_iter().any(|times| {
        let place = times * count;
        let Some(rank) = place.checked_sub(1).and_then(|index| ranks.get(index)) else { return false };
        let above = u128::from(u64::MAX - rank) + 1;
        // Members = (place - 1) / the share of all ranks that lies above, without a division.
        ((place as u128 - 1) << 64) / above > SITE_LARGE
    })
}
