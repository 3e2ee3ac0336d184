//! Who is refused, and until when. Identities first; an address only after several of its identities, since one relay
//! or NAT is many honest machines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::services::node::limits::{BANS_MAX, BANS_PER_ADDRESS};
use crate::swarm::event::AddressKey;

/// Bans of this process; forgotten with it.
#[derive(Default)]
pub(crate) struct Bans {
    identities: BTreeMap<PeerId, (AddressKey, Instant)>,
}

impl Bans {
    /// Refuses an identity for a while. A full table forgets the ban that ends first.
    pub(crate) fn add(&mut self, peer: PeerId, address: AddressKey, lasts: Duration) {
        let now = Instant::now();
        self.identities.retain(|_, (_, until)| *until > now);
        if self.identities.len() >= BANS_MAX
            && let Some(first) = self.identities.iter().min_by_key(|(_, (_, until))| *until).map(|(peer, _)| *peer)
        {
            self.identities.remove(&first);
        }
        let until = now.checked_add(lasts.min(Duration::from_secs(86_400))).unwrap_or(now);
        self.identities.insert(peer, (address, until));
    }

    /// Whether this identity is banned.
    pub(crate) fn holds(&self, peer: &PeerId) -> bool {
        let now = Instant::now();
        self.identities.get(peer).is_some_and(|(_, until)| *until > now)
    }

    /// Whether a connection of this identity from this address is refused.
    pub(crate) fn refuses(&self, peer: &PeerId, address: AddressKey) -> bool {
        if self.holds(peer) {
            return true;
        }
        let now = Instant::now();
        let there = self.identities.values().filter(|(at, until)| *at == address && *until > now).count();
        there >= BANS_PER_ADDRESS as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_falls_only_after_several_of_its_identities() {
        let mut bans = Bans::default();
        let address = AddressKey([1; 18]);
        let hour = Duration::from_secs(3600);
        for _ in 0..BANS_PER_ADDRESS {
            assert!(!bans.refuses(&PeerId::random(), address));
            let liar = PeerId::random();
            bans.add(liar, address, hour);
            assert!(bans.refuses(&liar, AddressKey([2; 18])));
        }
        assert!(bans.refuses(&PeerId::random(), address));
        assert!(!bans.refuses(&PeerId::random(), AddressKey([2; 18])));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut bans = Bans::default();
        for _ in 0..BANS_MAX + 5 {
            bans.add(PeerId::random(), AddressKey([3; 18]), Duration::from_secs(u64::MAX));
        }
        assert_eq!(bans.identities.len(), BANS_MAX);
    }
}
