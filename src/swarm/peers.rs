//! All peers, and which of them play which role at the moment: kept up to date as peers change, since an engine that
//! looked through all of its peers at every event would do little else.

use crate::content::layout::PieceIndex;
use crate::swarm::event::PeerKey;
use crate::swarm::peer::Peer;

/// What a peer is to us at the moment; several at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It owes us something.
    Busy,
    /// It holds something that we miss.
    Useful,
    /// Useful, and does not choke us.
    Able,
    /// Able, and owes us nothing.
    Idle,
    /// Able, and did not let requests run out.
    Sound,
    /// We do not choke it.
    Unchoked,
    /// Neither, and it wants something.
    Served,
    /// It wants something, and we choke it.
    Waiting,
    /// Requests of it wait for their turn.
    Queued,
    /// The node is sending it something.
    Serving,
    /// Of our site, and lacks something.
    Lacking,
    /// We want no turn of it for now.
    Declined,
    /// It chokes us, and has heard that we want a turn.
    Asked,
}

#[cfg(any(test, debug_assertions))]
const ALL: [Role; ROLES] = [
    Role::Busy,
    Role::Useful,
    Role::Able,
    Role::Idle,
    Role::Sound,
    Role::Unchoked,
    Role::Served,
    Role::Waiting,
    Role::Queued,
    Role::Serving,
    Role::Lacking,
    Role::Declined,
    Role::Asked,
];
const ROLES: usize = 13;

/// All roles that a peer plays, a bit each.
fn played(peer: &Peer) -> u16 {
    let (useful, owes, wants) = (peer.useful > 0, !peer.asks.is_empty(), peer.they_are_interested);
    let able = useful && !peer.they_choke;
    let plays = |role: Role, plays: bool| u16::from(plays) << role as u16;
    plays(Role::Busy, owes)
        | plays(Role::Useful, useful)
        | plays(Role::Able, able)
        | plays(Role::Idle, able && !owes)
        | plays(Role::Sound, able && !peer.is_snubbed())
        | plays(Role::Unchoked, !peer.we_choke)
        | plays(Role::Served, !peer.we_choke && wants)
        | plays(Role::Waiting, peer.we_choke && wants)
        | plays(Role::Queued, !peer.queue.is_empty())
        | plays(Role::Serving, !peer.serving.is_empty())
        | plays(Role::Lacking, peer.is_near() && !peer.is_complete())
        | plays(Role::Declined, peer.declined)
        | plays(Role::Asked, peer.they_choke && useful && !peer.declined)
}

/// Connected peers by their number.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    keys: Vec<PeerKey>,
    /// In the order of `keys`; as many. They lie together, since many events go through several of them.
    peers: Vec<Peer>,
    /// Peers that may have changed since their roles were looked at.
    touched: Vec<PeerKey>,
    /// Who plays each role, ascending; up to date but for those touched.
    cast: [Vec<PeerKey>; ROLES],
}

impl Peers {
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn contains_key(&self, key: &PeerKey) -> bool {
        self.keys.binary_search(key).is_ok()
    }

    pub(crate) fn get(&self, key: &PeerKey) -> Option<&Peer> {
        self.peers.get(self.keys.binary_search(key).ok()?)
    }

    /// A peer, to be changed.
    pub(crate) fn get_mut(&mut self, key: &PeerKey) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(self.keys.binary_search(key).ok()?)?;
        if self.touched.last() != Some(key) {
            self.touched.push(*key);
        }
        Some(peer)
    }

    /// A new peer; one of its number would be gone.
    pub(crate) fn insert(&mut self, peer: Peer) {
        self.touched.push(peer.key);
        match self.keys.binary_search(&peer.key) {
            Ok(place) => {
                if let Some(before) = self.peers.get_mut(place) {
                    *before = peer;
                }
            }
            Err(place) => {
                self.keys.insert(place, peer.key);
                self.peers.insert(place, peer);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &PeerKey) -> Option<Peer> {
        let place = self.keys.binary_search(key).ok()?;
        self.keys.remove(place);
        let peer = self.peers.remove(place);
        self.cast.iter_mut().for_each(|keys| put(keys, *key, false));
        Some(peer)
    }

    /// In the order of their numbers.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.keys.iter().copied()
    }

    /// To change what plays no part in any role.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.iter_mut()
    }

    /// A piece is held here now: those that hold it too are of less use to us. Returns whom we want nothing of any more.
    pub(crate) fn want_no_more(&mut self, piece: PieceIndex) -> Vec<PeerKey> {
        let mut done = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| peer.has(piece)) {
            peer.useful = peer.useful.saturating_sub(1);
            if peer.useful == 0 {
                done.push(peer.key);
                self.touched.push(peer.key);
            }
        }
        done
    }

    /// Who plays a role, ascending.
    pub(crate) fn cast(&mut self, role: Role) -> &[PeerKey] {
        self.settle();
        self.settled(role)
    }

    /// Who played a role when [`Peers::settle`] was called last, ascending.
    pub(crate) fn settled(&self, role: Role) -> &[PeerKey] {
        self.cast.get(role as usize).map_or(&[], Vec::as_slice)
    }

    /// The same, as peers.
    pub(crate) fn playing(&self, role: Role) -> impl Iterator<Item = &Peer> {
        self.settled(role).iter().filter_map(|key| self.get(key))
    }

    /// Looks at the roles of those that may have changed.
    pub(crate) fn settle(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for key in touched.drain(..) {
            let place = self.keys.binary_search(&key).ok();
            let Some(peer) = place.and_then(|place| self.peers.get_mut(place)) else { continue };
            let before = peer.roles;
            let after = played(peer);
            if before == after {
                continue;
            }
            peer.roles = after;
            // Few change at a time.
            let mut changed = before ^ after;
            while let Some(keys) = self.cast.get_mut(changed.trailing_zeros() as usize) {
                put(keys, key, after & changed & changed.wrapping_neg() != 0);
                changed &= changed.wrapping_sub(1);
            }
        }
        self.touched = touched;
    }

    /// How many play a role.
    pub(crate) fn count(&mut self, role: Role) -> usize {
        self.cast(role).len()
    }

    /// Panics where a role is played by others than it says; for tests.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        for (role, keys) in ALL.iter().zip(&self.cast) {
            let settled = |peer: &&Peer| !self.touched.contains(&peer.key);
            let plays =
                self.values().filter(settled).filter(|peer| played(peer) & bit(*role) != 0).map(|peer| peer.key);
            let said = keys.iter().copied().filter(|key| !self.touched.contains(key));
            assert!(plays.eq(said), "{role:?}");
        }
    }
}

#[cfg(any(test, debug_assertions))]
fn bit(role: Role) -> u16 {
    1 << role as u16
}

/// Puts a peer among those who play a role, or takes it out.
fn put(keys: &mut Vec<PeerKey>, key: PeerKey, plays: bool) {
    match keys.binary_search(&key) {
        Ok(place) if !plays => _ = keys.remove(place),
        Err(place) if plays => keys.insert(place, key),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::content::bitfield::Bitfield;
    use crate::swarm::Uptime;
    use crate::swarm::event::{AddressKey, NodeId, Scope};

    #[test]
    fn roles_follow_every_change() {
        let mut peers = Peers::default();
        for number in [3, 1, 2] {
            let (id, address) = (NodeId([number; 32]), AddressKey([0; 18]));
            let key = PeerKey(number.into());
            peers.insert(Peer::new(key, id, address, Scope::Site, Duration::ZERO, (0, 0), 8, Uptime::ZERO));
        }
        assert_eq!(peers.cast(Role::Lacking), [PeerKey(1), PeerKey(2), PeerKey(3)]);
        let peer = peers.get_mut(&PeerKey(2)).expect("it is there");
        (peer.they_choke, peer.useful, peer.bits) = (false, 1, Some(Bitfield::all(8)));
        assert_eq!(peers.cast(Role::Idle), [PeerKey(2)]);
        assert_eq!(peers.count(Role::Lacking), 2);
        assert_eq!(peers.want_no_more(PieceIndex(4)), [PeerKey(2)]);
        assert_eq!(peers.count(Role::Able), 0);
        peers.remove(&PeerKey(3));
        assert_eq!(peers.cast(Role::Lacking), [PeerKey(1)]);
        peers.check();
    }
}
