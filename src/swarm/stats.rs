//! Plain counters. The books close: every stored byte is counted once as useful or duplicate, by who sent it.

/// Counters of one swarm since it was made; bytes are payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Useful bytes from peers.
    pub bytes_from_peers: u64,
    /// Useful bytes from sources.
    pub bytes_from_sources: u64,
    /// Verified bytes that were already here.
    pub bytes_duplicate: u64,
    /// Bytes that did not match their hash (a whole block each).
    pub bytes_bad: u64,
    /// Bytes that nobody had asked for, or asked for no longer.
    pub bytes_unasked: u64,
    /// Bytes sent to peers.
    pub bytes_to_peers: u64,
    /// Bytes from sources of pieces that a connected peer of our site (where there is none, any peer) held at that
    /// moment; stays near 0.
    pub origin_bytes_with_peer_available: u64,
    /// Bytes asked for over the site's line and not taken back, where it has a budget.
    pub bytes_asked_outside: u64,
    /// Requests sent.
    pub requests: u64,
    /// Requests sent twice on purpose near the end.
    pub requests_hedged: u64,
    /// Requests whose peer fell silent.
    pub requests_timed_out: u64,
    /// Requests that a peer refused.
    pub requests_rejected: u64,
    /// Requests of peers that were refused here because only first copies were given.
    pub super_seeding_rejects: u64,
    /// Ranges asked from sources.
    pub fetches: u64,
    /// Ranges given up here.
    pub fetches_cancelled: u64,
    /// Ranges that ended with a fault.
    pub fetches_failed: u64,
    /// Leases of others that ran out without the pieces.
    pub leases_expired: u64,
    /// Peers banned.
    pub bans: u64,
    /// Peers whose word about what they hold did not count for a while.
    pub peers_doubted: u64,
    /// Pieces of this node that turned out rotten.
    pub pieces_lost: u64,
}
