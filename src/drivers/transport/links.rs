//! libp2p's connections as its task knows them: where the other end is, and whether a relay stands between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::drivers::transport::address::is_quic;
use crate::drivers::transport::gate::Established;

/// One connection.
pub(crate) struct Link {
    /// The other end; of a relayed one the relay, or nobody's.
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The other end as libp2p has it.
    pub(crate) address: Multiaddr,
    pub(crate) round_trip: Duration,
    pub(crate) relayed: bool,
    /// We dialled it.
    pub(crate) dialled: bool,
    /// Held for its drop, where no socket of ours holds it.
    pub(crate) _place: Option<Established>,
}

/// Every connection, by peer.
#[derive(Default)]
pub(crate) struct Links(BTreeMap<PeerId, Vec<(ConnectionId, Link)>>);

impl Links {
    pub(crate) fn add(&mut self, peer: PeerId, connection: ConnectionId, link: Link) {
        self.0.entry(peer).or_default().push((connection, link));
    }

    pub(crate) fn remove(&mut self, peer: &PeerId, connection: ConnectionId) {
        if let Some(links) = self.0.get_mut(peer) {
            links.retain(|(held, _)| *held != connection);
            if links.is_empty() {
                self.0.remove(peer);
            }
        }
    }

    pub(crate) fn get(&self, peer: &PeerId, connection: ConnectionId) -> Option<&Link> {
        self.of(peer).find(|(held, _)| *held == connection).map(|(_, link)| link)
    }

    /// The oldest connection to a peer that no relay is between.
    pub(crate) fn direct(&self, peer: &PeerId) -> Option<&Link> {
        self.of(peer).map(|(_, link)| link).find(|link| !link.relayed)
    }

    /// A relayed connection to a peer whose relay is one `of` those that matter.
    pub(crate) fn relayed_by(&self, peer: &PeerId, of: impl Fn(&Link) -> bool) -> Option<&Link> {
        self.of(peer).map(|(_, link)| link).find(|link| link.relayed && of(link))
    }

    /// Whether there is a direct connection over UDP.
    pub(crate) fn has_quic(&self, peer: &PeerId) -> bool {
        self.of(peer).any(|(_, link)| !link.relayed && is_quic(&link.address))
    }

    /// Relayed connections to a peer.
    pub(crate) fn relayed(&self, peer: &PeerId) -> Vec<ConnectionId> {
        self.of(peer).filter(|(_, link)| link.relayed).map(|(connection, _)| connection).collect()
    }

    /// A round trip was measured on one of a peer's connections.
    pub(crate) fn measured(&mut self, peer: &PeerId, connection: ConnectionId, round_trip: Duration) {
        let links = self.0.get_mut(peer).into_iter().flatten();
        for (_, link) in links.filter(|(held, _)| *held == connection) {
            link.round_trip = round_trip;
        }
    }

    fn of(&self, peer: &PeerId) -> impl Iterator<Item = (ConnectionId, &Link)> {
        self.0.get(peer).into_iter().flatten().map(|(connection, link)| (*connection, link))
    }
}
