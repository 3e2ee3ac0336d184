//! What was moved, by whom and to what end: sums that never fall, for whoever measures. What is held now is `progress`'s.

use crate::swarm::event::{Scope, Supplier};

/// Why bytes were received in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waste {
    /// Verified, and here already.
    Duplicate,
    /// Of another hash than the manifest's.
    BadHash,
    /// Nobody had asked for them, or asked any more.
    Unasked,
    /// The end of a transfer that was given up.
    Cancelled,
    /// Verified once, and found changed on disk later.
    Lost,
}

impl Waste {
    /// Every cause with its word.
    pub const ALL: [(Waste, &'static str); 5] = [
        (Waste::Duplicate, "duplicate"),
        (Waste::BadHash, "bad_hash"),
        (Waste::Unasked, "unasked"),
        (Waste::Cancelled, "cancelled"),
        (Waste::Lost, "lost"),
    ];
}

/// Every scope, nearest first, with its word.
pub const SCOPES: [(Scope, &str); 4] =
    [(Scope::Host, "host"), (Scope::Site, "site"), (Scope::Group, "group"), (Scope::Internet, "internet")];

/// Sums of payload bytes and pieces. None of them ever falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Verified and stored, from peers, by scope in the order of [`SCOPES`].
    pub from_peers: [u64; 4],
    /// Verified and stored, over HTTP.
    pub from_http: u64,
    /// Of these, from cache hosts.
    pub from_cache_host: u64,
    /// Sent to peers, by scope.
    pub to_peers: [u64; 4],
    /// Content of others that was carried between them, as a relay.
    pub carried: u64,
    /// Received in vain, by cause in the order of [`Waste::ALL`].
    pub wasted: [u64; 5],
    /// Over HTTP, of pieces that a connected peer held at that moment.
    pub http_with_peer_available: u64,
    /// Pieces verified and stored whole.
    pub pieces_verified: u64,
    /// Pieces, or blocks of them, that did not match.
    pub pieces_rejected: u64,
}

fn add(sums: &mut [u64], at: usize, bytes: u64) {
    if let Some(sum) = sums.get_mut(at) {
        *sum = sum.saturating_add(bytes);
    }
}

impl Moved {
    /// Notes bytes that were stored; `scope` of the peer that sent them, `cached` where a cache host did.
    pub(crate) fn stored(&mut self, supplier: Supplier, scope: Scope, bytes: u64, cached: bool) {
        if cached {
            self.from_cache_host = self.from_cache_host.saturating_add(bytes);
        }
        match supplier {
            Supplier::Peer(_) => add(&mut self.from_peers, scope as usize, bytes),
            Supplier::Source(_) => self.from_http = self.from_http.saturating_add(bytes),
        }
    }

    /// Notes bytes that were sent.
    pub(crate) fn sent(&mut self, scope: Scope, bytes: u64) {
        add(&mut self.to_peers, scope as usize, bytes);
    }

    /// Notes bytes that came in vain.
    pub(crate) fn wasted(&mut self, cause: Waste, bytes: u64) {
        add(&mut self.wasted, cause as usize, bytes);
    }

    /// Adds other sums.
    pub(crate) fn add(&mut self, other: &Moved) {
        for (sums, others) in [(&mut self.from_peers, &other.from_peers), (&mut self.to_peers, &other.to_peers)] {
            others.iter().enumerate().for_each(|(at, bytes)| add(sums, at, *bytes));
        }
        other.wasted.iter().enumerate().for_each(|(at, bytes)| add(&mut self.wasted, at, *bytes));
        for (sum, more) in [
            (&mut self.from_http, other.from_http),
            (&mut self.from_cache_host, other.from_cache_host),
            (&mut self.carried, other.carried),
            (&mut self.http_with_peer_available, other.http_with_peer_available),
            (&mut self.pieces_verified, other.pieces_verified),
            (&mut self.pieces_rejected, other.pieces_rejected),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::event::{PeerKey, SourceKey};

    #[test]
    fn the_places_of_the_tables_are_those_of_the_words() {
        SCOPES.iter().enumerate().for_each(|(at, (scope, word))| assert_eq!(*scope as usize, at, "{word}"));
        Waste::ALL.iter().enumerate().for_each(|(at, (cause, word))| assert_eq!(*cause as usize, at, "{word}"));
    }

    #[test]
    fn sums_go_where_they_belong_and_add_up() {
        let mut moved = Moved::default();
        moved.stored(Supplier::Peer(PeerKey(1)), Scope::Site, 3, false);
        moved.stored(Supplier::Source(SourceKey(0)), Scope::Host, 4, true);
        moved.sent(Scope::Internet, 5);
        moved.wasted(Waste::Lost, 6);
        let mut twice = moved;
        twice.add(&moved);
        assert_eq!((twice.from_peers, twice.from_http, twice.from_cache_host), ([0, 6, 0, 0], 8, 8));
        assert_eq!((twice.to_peers, twice.wasted), ([0, 0, 0, 10], [0, 0, 0, 0, 12]));
    }
}
