//! The part of libp2p's task that is about the Internet: whether this node can be reached, relays and holes; `far_dht` is
//! about the DHT.
//!
//! Everything heard is a stranger's word. Addresses are kept only of those that are seen at them, few and short ones; what
//! is dialled goes by `guard`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use libp2p::core::transport::ListenerId;
use libp2p::kad::{self, QueryId};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, FromSwarm, NetworkBehaviour as _, NewExternalAddrCandidate, Swarm};
use libp2p::{Multiaddr, PeerId, autonat, identify, relay};
use tokio::sync::{mpsc, watch};

use crate::drivers::transport::address::{self, endpoint_of, is_quic, is_relayed, relay_of};
use crate::drivers::transport::behaviour::Behaviour;
use crate::drivers::transport::control::Open;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::far::{Callback, Far, FarReport, Reach};
use crate::drivers::transport::far_dht::Find;
use crate::drivers::transport::guard::Rule;
use crate::drivers::transport::limits::*;
use crate::drivers::transport::links::{Link, Links};
use crate::policy::network::is_public;

/// Where its answers go.
pub(crate) struct Wires {
    pub(crate) callbacks: Option<mpsc::Sender<Callback>>,
    pub(crate) report: watch::Sender<FarReport>,
}

/// Somebody who is to be reached through relays at first.
struct Punch {
    open: Open,
    through: Vec<Multiaddr>,
    dialled: Option<ConnectionId>,
    since: Instant,
}

/// What the task knows of the Internet.
pub(crate) struct FarTask {
    pub(crate) far: Far,
    pub(crate) rule: Rule,
    wires: Wires,
    pub(crate) me: PeerId,
    /// The TCP port on which peers are accepted; 0: none is.
    port: u16,
    /// Public addresses of this machine.
    own: BTreeSet<IpAddr>,
    /// Addresses at which QUIC is yet to be served.
    quic_missing: Vec<SocketAddr>,
    quic: bool,
    pub(crate) started: Instant,
    pub(crate) bootstraps: BTreeSet<PeerId>,
    pub(crate) finds: Vec<Find>,
    pub(crate) provided: BTreeSet<[u8; 32]>,
    pub(crate) untold: VecDeque<[u8; 32]>,
    pub(crate) telling: Vec<QueryId>,
    pub(crate) told_at: Option<Instant>,
    /// The DHT, or where we can be reached, has changed since all was told.
    pub(crate) tell_again: bool,
    /// Proven.
    pub(crate) confirmed: BTreeSet<Multiaddr>,
    pub(crate) relayed: BTreeSet<Multiaddr>,
    candidates: BTreeSet<Multiaddr>,
    failed: BTreeSet<Multiaddr>,
    /// Nodes that offer to relay, and where they are.
    relays: BTreeMap<PeerId, Multiaddr>,
    reservations: Vec<(ListenerId, PeerId)>,
    punches: BTreeMap<PeerId, Punch>,
    /// Relays, and peers that came through one, and whether content may go that way.
    carriers: BTreeMap<PeerId, bool>,
    pub(crate) tidied: Instant,
}

impl FarTask {
    /// Begins to listen for QUIC beside TCP at the addresses that are `bound`; `own` are those of this machine.
    pub(crate) fn new(
        far: Far,
        rule: Rule,
        wires: Wires,
        bound: &[SocketAddr],
        own: &[IpAddr],
        swarm: &mut Swarm<Behaviour>,
    ) -> Self {
        let (me, now) = (*swarm.local_peer_id(), Instant::now());
        let mut task = Self {
            rule,
            wires,
            me,
            port: bound.first().map_or(0, SocketAddr::port),
            own: own.iter().copied().filter(|ip| is_public(*ip)).collect(),
            quic_missing: bound.to_vec(),
            quic: false,
            started: now,
            bootstraps: BTreeSet::new(),
            finds: Vec::new(),
            provided: BTreeSet::new(),
            untold: VecDeque::new(),
            telling: Vec::new(),
            told_at: None,
            tell_again: false,
            confirmed: BTreeSet::new(),
            relayed: BTreeSet::new(),
            candidates: BTreeSet::new(),
            failed: BTreeSet::new(),
            relays: BTreeMap::new(),
            reservations: Vec::new(),
            punches: BTreeMap::new(),
            carriers: BTreeMap::new(),
            tidied: now,
            far,
        };
        if task.far.bootstrap.is_empty() {
            // Nobody is there who could prove it: the first node is where its addresses are, or nowhere.
            for address in address::reachable(bound, own).into_iter().filter(|at| is_public(at.ip())) {
                swarm.add_external_address(address::multiaddr(address));
                task.confirmed.insert(address::multiaddr(address));
                swarm.add_external_address(address::quic(address));
                task.confirmed.insert(address::quic(address));
            }
            task.reachable_elsewhere(swarm);
        }
        task.serve_quic(swarm);
        task
    }

    // -- what is asked --

    /// This address may be dialled: somebody here has judged it.
    pub(crate) fn allow(&self, address: SocketAddr) {
        self.rule.allow(address);
    }

    /// Nodes to begin with; whether one of them is connected.
    pub(crate) fn bootstrap(
        &mut self,
        nodes: Vec<(PeerId, SocketAddr)>,
        swarm: &mut Swarm<Behaviour>,
        links: &Links,
    ) -> bool {
        let nodes = nodes.into_iter().filter(|(peer, _)| *peer != self.me);
        let mut connected = false;
        for (peer, at) in nodes {
            self.rule.allow(at);
            self.bootstraps.insert(peer);
            let (tcp, quic) = (address::multiaddr(at), address::quic(at));
            if let Some(dht) = swarm.behaviour_mut().dht.as_mut() {
                dht.add_address(&peer, tcp.clone());
            }
            match links.direct(&peer) {
                Some(_) => connected = true,
                None => dial(swarm, peer, tcp),
            }
            // That somebody sees where we are over UDP, too.
            if !links.has_quic(&peer) {
                dial(swarm, peer, quic);
            }
        }
        self.find_now(swarm);
        connected
    }

    pub(crate) fn punch(&mut self, peer: PeerId, open: Open, through: Vec<Multiaddr>, swarm: &mut Swarm<Behaviour>) {
        if self.punches.len() >= PUNCHES_MAX || self.punches.contains_key(&peer) {
            let _ = open.answer.send(Err(Error::Full { limit: "holes being punched" }));
            return;
        }
        self.punches.insert(peer, Punch { open, through, dialled: None, since: Instant::now() });
        self.punch_now(swarm);
    }

    /// Calls whom was not called yet, once somebody has seen us over UDP: what is told to the other side is told at once.
    fn punch_now(&mut self, swarm: &mut Swarm<Behaviour>) {
        let seen = self.candidates.iter().any(is_quic);
        for (peer, punch) in self.punches.iter_mut().filter(|(_, punch)| punch.dialled.is_none()) {
            if !seen && punch.since.elapsed() < SEEN_PATIENCE {
                continue;
            }
            let options = DialOpts::peer_id(*peer).addresses(punch.through.clone()).condition(PeerCondition::Always);
            let options = options.build();
            punch.dialled = Some(options.connection_id());
            if let Err(error) = swarm.dial(options) {
                tracing::debug!(%peer, %error, "no word through a relay");
            }
        }
    }

    // -- what happens --

    pub(crate) fn identified(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        info: &identify::Info,
        swarm: &mut Swarm<Behaviour>,
        links: &Links,
    ) {
        let Some(link) = links.get(&peer, connection) else { return };
        let told = || info.listen_addrs.iter().filter(|address| address.len() <= MULTIADDR_BYTES_MAX);
        if link.relayed {
            if !link.dialled {
                self.call_back(peer, told());
            }
            return;
        }
        let seen_at = link.remote.ip();
        if let Some(dht) = swarm.behaviour_mut().dht.as_mut()
            && dht.protocol_names().iter().any(|name| info.protocols.contains(name))
        {
            // Of its addresses those at which it is seen: none leads to a machine that is another's.
            let of_its_own = told().filter(|address| endpoint_of(address).is_some_and(|at| at.ip() == seen_at));
            for address in of_its_own.filter(|address| self.rule.allows(address)).take(DHT_ADDRESSES_MAX) {
                dht.add_address(&peer, address.clone());
            }
        }
        if link.dialled {
            let room = self.relays.len() < RELAYS_KNOWN_MAX || self.relays.contains_key(&peer);
            if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) && room {
                // QUIC has the port of TCP, by which others come to the relay more surely.
                self.relays.insert(peer, address::multiaddr(link.remote));
            }
            self.seen_as(&info.observed_addr, swarm);
        }
        self.rounds(swarm);
    }

    /// A peer that has come through a relay may be dialled, where it can be.
    fn call_back<'a>(&self, peer: PeerId, told: impl Iterator<Item = &'a Multiaddr>) {
        let tcp = told.filter(|address| !is_quic(address)).filter_map(endpoint_of);
        let addresses: Vec<_> = tcp.filter(|at| at.port() != 0 && is_public(at.ip())).take(DHT_ADDRESSES_MAX).collect();
        if let Some(callbacks) = self.wires.callbacks.as_ref().filter(|_| !addresses.is_empty()) {
            // Where they wait, there are more than anybody wants to dial.
            let _ = callbacks.try_send(Callback { peer, addresses });
        }
    }

    /// Somebody whom we dialled sees us at this address.
    fn seen_as(&mut self, observed: &Multiaddr, swarm: &mut Swarm<Behaviour>) {
        let Some(at) = endpoint_of(observed).filter(|at| is_public(at.ip())) else { return };
        // What we dial over TCP leaves from any port, and over UDP from the one that we listen on.
        let candidate = match is_quic(observed) {
            true => address::quic(at),
            false if self.port == 0 => return,
            false => address::multiaddr(SocketAddr::new(at.ip(), self.port)),
        };
        if self.candidates.len() >= CANDIDATES_MAX || !self.candidates.insert(candidate.clone()) {
            return;
        }
        let told = || FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: &candidate });
        if let Some(probed) = swarm.behaviour_mut().probed.as_mut().filter(|_| self.port != 0) {
            probed.on_swarm_event(told());
        }
        if let Some(punching) = swarm.behaviour_mut().punching.as_mut().filter(|_| is_quic(&candidate)) {
            punching.on_swarm_event(told());
            self.punch_now(swarm);
        }
    }

    pub(crate) fn probed(&mut self, event: &autonat::v2::client::Event, swarm: &mut Swarm<Behaviour>) {
        if event.result.is_err() {
            tracing::debug!(address = %event.tested_addr, "somebody could not reach us");
            self.failed.insert(event.tested_addr.clone());
            self.rounds(swarm);
        }
    }

    /// An address of ours was proven, or is no more.
    pub(crate) fn proven(&mut self, address: &Multiaddr, holds: bool, swarm: &mut Swarm<Behaviour>) {
        tracing::debug!(%address, holds, "an address of this node on the Internet");
        let addresses = if is_relayed(address) { &mut self.relayed } else { &mut self.confirmed };
        if holds {
            addresses.insert(address.clone());
        } else {
            addresses.remove(address);
        }
        self.reachable_elsewhere(swarm);
    }

    fn reachable_elsewhere(&mut self, swarm: &mut Swarm<Behaviour>) {
        let mode = if self.confirmed.is_empty() { kad::Mode::Client } else { kad::Mode::Server };
        if let Some(dht) = swarm.behaviour_mut().dht.as_mut() {
            if dht.mode() != mode {
                dht.set_mode(Some(mode));
            }
            let addresses = self.confirmed.union(&self.relayed).take(DHT_ADDRESSES_MAX).cloned().collect();
            dht.store_mut().reached_at(addresses);
        }
        self.tell_again = true;
        self.told_at = None;
        self.rounds(swarm);
    }

    pub(crate) fn listener_closed(&mut self, listener: ListenerId) {
        let Some(at) = self.reservations.iter().position(|(held, _)| *held == listener) else { return };
        let (_, relay) = self.reservations.swap_remove(at);
        tracing::debug!(%relay, "no place at a relay");
        // Until it says again that it is one.
        self.relays.remove(&relay);
    }

    /// A direct connection stands: what was said through relays is over. Returns who waits for it, once no relay is left; a
    /// while later where the peer may be about to call us over TCP, which is the better way.
    pub(crate) fn met(&mut self, peer: &PeerId, swarm: &mut Swarm<Behaviour>, links: &Links) -> Option<Open> {
        links.direct(peer)?;
        let relayed = links.relayed(peer);
        if relayed.is_empty() {
            let since = self.punches.get(peer)?.since;
            let may_call = self.port != 0 && !self.own.is_empty() && since.elapsed() < CALL_PATIENCE;
            return if may_call { None } else { self.punches.remove(peer).map(|punch| punch.open) };
        }
        relayed.into_iter().for_each(|connection| _ = swarm.close_connection(connection));
        None
    }

    /// A relay says how much it lets through on the way to somebody, or on somebody's way to us.
    pub(crate) fn carrier(&mut self, event: &relay::client::Event) {
        use relay::client::Event;
        let (whose, limit) = match event {
            Event::ReservationReqAccepted { relay_peer_id, limit, .. }
            | Event::OutboundCircuitEstablished { relay_peer_id, limit } => (relay_peer_id, limit),
            Event::InboundCircuitEstablished { src_peer_id, limit } => (src_peer_id, limit),
        };
        // No limit, which is also written as 0, is a budget as well.
        let bytes = limit.as_ref().and_then(|limit| limit.data_in_bytes()).unwrap_or(0);
        if self.carriers.len() >= CARRIERS_MAX && !self.carriers.contains_key(whose) {
            self.carriers.pop_first();
        }
        self.carriers.insert(*whose, bytes == 0 || bytes >= RELAY_DATA_BYTES_MIN);
    }

    /// Whether content may go over a relayed connection to a peer.
    pub(crate) fn carries(&self, peer: &PeerId, link: &Link) -> bool {
        let whose = if link.dialled { relay_of(&link.address).0 } else { Some(*peer) };
        whose.and_then(|whose| self.carriers.get(&whose)).copied().unwrap_or(false)
    }

    /// Who waits for peers to whom no hole comes about, and whose relay lets content through: they wait no longer.
    pub(crate) fn carried(&mut self, links: &Links) -> Vec<(PeerId, Open)> {
        let tried = self.punches.iter().filter(|(_, punch)| punch.since.elapsed() >= CARRY_PATIENCE);
        let carried = |peer: &PeerId| links.relayed_by(peer, |link| self.carries(peer, link)).is_some();
        let peers: Vec<PeerId> = tried.map(|(peer, _)| *peer).filter(carried).collect();
        let taken = peers.into_iter().filter_map(|peer| Some((peer, self.punches.remove(&peer)?.open)));
        taken.inspect(|(peer, _)| tracing::debug!(%peer, "no hole; a relay lets content through")).collect()
    }

    /// Peers for whom somebody waits.
    pub(crate) fn awaited(&self) -> Vec<PeerId> {
        self.punches.keys().copied().collect()
    }

    /// A dial came to nothing.
    pub(crate) fn not_met(&mut self, connection: ConnectionId, cause: &str) {
        let peer = self.punches.iter().find(|(_, punch)| punch.dialled == Some(connection)).map(|(peer, _)| *peer);
        if let Some(punch) = peer.and_then(|peer| self.punches.remove(&peer)) {
            let Open { address, answer, .. } = punch.open;
            let _ = answer.send(Err(Error::Handshake { address, cause: cause.to_owned() }));
        }
    }

    // -- time --

    /// What has to be looked at again and again: about every second.
    pub(crate) fn rounds(&mut self, swarm: &mut Swarm<Behaviour>) {
        self.serve_quic(swarm);
        self.punch_now(swarm);
        self.punches.retain(|_, punch| !punch.open.answer.is_closed());
        self.reserve(swarm);
        self.dht_rounds(swarm);
        self.report(swarm);
    }

    /// Asks relays for a place, while nobody has proven that this node can be reached without. A place is kept then: libp2p's
    /// client panics where an answer comes for one that was given up.
    fn reserve(&mut self, swarm: &mut Swarm<Behaviour>) {
        let patience = if self.own.is_empty() { std::time::Duration::ZERO } else { PROOF_PATIENCE };
        if !self.confirmed.is_empty() || self.port == 0 || self.started.elapsed() < patience {
            return;
        }
        for (relay, address) in &self.relays {
            if self.reservations.len() >= RESERVATIONS_MAX {
                return;
            }
            if self.reservations.iter().any(|(_, held)| held == relay) {
                continue;
            }
            let through = address.clone().with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit);
            if let Ok(listener) = swarm.listen_on(through) {
                self.reservations.push((listener, *relay));
            }
        }
    }

    /// QUIC beside TCP, at the same port. Where that is taken, perhaps for a moment only, it is tried again.
    fn serve_quic(&mut self, swarm: &mut Swarm<Behaviour>) {
        self.quic_missing.retain(|at| match swarm.listen_on(address::quic(*at)) {
            Ok(_) => {
                self.quic = true;
                false
            }
            Err(error) => {
                tracing::debug!(address = %at, %error, "no QUIC here yet");
                true
            }
        });
    }

    fn report(&self, swarm: &mut Swarm<Behaviour>) {
        let own = |address: &Multiaddr| endpoint_of(address).is_some_and(|at| self.own.contains(&at.ip()));
        let reach = match self.confirmed.is_empty() {
            false if self.confirmed.iter().any(own) => Reach::Public,
            false => Reach::Mapped,
            true if !self.failed.is_empty() || !self.relayed.is_empty() => Reach::Unmapped,
            true => Reach::Unknown,
        };
        let dht = swarm.behaviour_mut().dht.as_mut();
        let nodes = dht.map_or(0, |dht| dht.kbuckets().map(|bucket| bucket.num_entries()).sum());
        let bootstraps = self.bootstraps.iter().filter(|peer| swarm.is_connected(peer)).count();
        let addresses = self.confirmed.iter().chain(&self.relayed).cloned().collect();
        let report = FarReport { reach, addresses, bootstraps, nodes, quic: self.quic };
        self.wires.report.send_if_modified(|held| std::mem::replace(held, report.clone()) != report);
    }
}

fn dial(swarm: &mut Swarm<Behaviour>, peer: PeerId, address: Multiaddr) {
    let options = DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always).build();
    if let Err(error) = swarm.dial(options) {
        tracing::debug!(%peer, %error, "a node to begin with is not dialled");
    }
}
