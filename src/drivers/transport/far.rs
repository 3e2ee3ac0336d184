//! What is asked of the control plane about peers on the Internet, and what it tells: the words between `endpoint` and
//! `far_task`.

use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use crate::drivers::transport::control::Open;
use crate::drivers::transport::target::Target;
use crate::wire::version;

/// How a node meets peers on the Internet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Far {
    /// Nodes to begin with; those without a peer id are left out. A node without any takes its public addresses for
    /// reachable: somebody has to be the first.
    pub bootstrap: Vec<Target>,
    /// Which DHT; nodes of different scopes do not speak with each other. `None`: everybody's.
    pub scope: Option<[u8; 32]>,
    /// Carries the first words between others that cannot reach each other.
    pub relay: bool,
    /// Carries content between them, too, as far as the endpoint's [`crate::drivers::transport::Meter`] lets it.
    pub relay_data: bool,
}

impl Far {
    /// Name of the DHT's protocol.
    pub(crate) fn dht_protocol(&self) -> String {
        match &self.scope {
            None => version::DHT_PROTOCOL.to_owned(),
            Some([a, b, c, d, e, f, g, h, ..]) => {
                let word = data_encoding::HEXLOWER.encode(&[*a, *b, *c, *d, *e, *f, *g, *h]);
                format!("{}/{word}", version::DHT_PROTOCOL)
            }
        }
    }
}

/// Somebody who says that it provides something, and where it may be dialled: a stranger's word, in every part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Who.
    pub peer: PeerId,
    /// TCP addresses.
    pub addresses: Vec<SocketAddr>,
    /// Addresses through relays.
    pub relayed: Vec<Multiaddr>,
}

/// A peer that reached us through a relay, and that says where it can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Who; proven.
    pub peer: PeerId,
    /// Public TCP addresses that it claims.
    pub addresses: Vec<SocketAddr>,
}

/// Whether others can reach this node, as far as they have proven it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Nobody has tried yet.
    #[default]
    Unknown,
    /// At an address of its own.
    Public,
    /// At an address of something that passes connections on.
    Mapped,
    /// Not at all.
    Unmapped,
    /// What meets peers on the Internet has ended by itself, and rests before it begins again.
    Fallen,
}

/// How a node stands on the Internet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FarReport {
    /// Whether it can be reached.
    pub reach: Reach,
    /// Where, as proven; through relays last.
    pub addresses: Vec<Multiaddr>,
    /// Nodes to begin with that are connected.
    pub bootstraps: usize,
    /// Other nodes of the DHT that it knows.
    pub nodes: usize,
    /// QUIC is served.
    pub quic: bool,
}

/// What the task is asked.
pub(crate) enum Ask {
    /// A stream of the data protocol.
    Open(Open),
    /// The same to a peer that is known by its addresses through relays alone.
    Punch { open: Open, through: Vec<Multiaddr> },
    /// Who provides this key.
    Find { key: [u8; 32], found: mpsc::Sender<Provider> },
    /// Provide these keys and no others.
    Provide(std::collections::BTreeSet<[u8; 32]>),
    /// Nodes to begin with, as they were resolved.
    Bootstrap(Vec<(PeerId, SocketAddr)>, oneshot::Sender<bool>),
    /// A panic.
    #[cfg(test)]
    Fall,
}
