//! The control plane: a libp2p swarm on the shared port, with identify, ping and the data protocol on a stream.
//!
//! Its task starts with the first socket or dial that needs it, so a node whose peers all speak the data plane never
//! pays for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::core::transport::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, transport};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{Config, ConnectionId, DialError, NetworkBehaviour, Stream, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, connection_limits, identify, memory_connection_limits, ping, yamux,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::drivers::transport::address;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::gate::Handshake;
use crate::drivers::transport::identity::Identity;
use crate::drivers::transport::limits::*;
use crate::drivers::transport::security::Security;
use crate::drivers::transport::shared_port::{Accepted, SharedPort, Ticket};
use crate::wire::version;

/// A stream of the data protocol, and what is known of the connection under it.
pub(crate) struct DataStream {
    pub(crate) peer: PeerId,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) round_trip: Duration,
    pub(crate) stream: Stream,
}

/// Starts the swarm when it is needed, and talks to it.
pub(crate) struct Control {
    identity: Identity,
    listening: Vec<SocketAddr>,
    connections_max: usize,
    runtime: tokio::runtime::Handle,
    /// Where inbound streams go.
    streams: mpsc::Sender<DataStream>,
    plane: Mutex<State>,
}

enum State {
    Asleep,
    Running(Plane),
    Closed,
}

#[derive(Clone)]
struct Plane {
    accepted: mpsc::Sender<Accepted>,
    tickets: mpsc::Sender<(SocketAddr, Weak<Ticket>)>,
    opens: mpsc::Sender<Open>,
}

struct Open {
    address: SocketAddr,
    peer: Option<PeerId>,
    answer: oneshot::Sender<Result<DataStream, Error>>,
}

impl Control {
    pub(crate) fn new(
        identity: Identity,
        listening: Vec<SocketAddr>,
        connections_max: usize,
        streams: mpsc::Sender<DataStream>,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { identity, listening, connections_max, runtime, streams, plane: Mutex::new(State::Asleep) }
    }

    /// Hands over an accepted socket whose first byte is libp2p's. Dropped where too many wait already.
    pub(crate) fn accept(
        &self,
        tcp: tokio::net::TcpStream,
        remote: SocketAddr,
        handshake: Handshake,
    ) -> Result<(), Error> {
        let plane = self.wake()?;
        let cause = |cause| Error::Resource { resource: "a socket's own address", cause };
        let local = tcp.local_addr().map_err(cause)?;
        let ticket = Ticket::new(handshake);
        let full = Error::Full { limit: "sockets that wait for libp2p" };
        // The ticket first: the connection may be established before the next line runs.
        if plane.tickets.try_send((remote, Arc::downgrade(&ticket))).is_err() {
            return Err(full);
        }
        plane.accepted.try_send(Accepted { tcp, remote, local, ticket }).map_err(|_| full)
    }

    /// Opens a stream of the data protocol to whoever is at `address`, or to `peer` only.
    pub(crate) async fn open(&self, address: SocketAddr, peer: Option<PeerId>) -> Result<DataStream, Error> {
        let plane = self.wake()?;
        let (answer, answered) = oneshot::channel();
        plane.opens.send(Open { address, peer, answer }).await.map_err(|_| Error::Closed)?;
        match timeout(HANDSHAKE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::TimedOut { address }),
        }
    }

    /// Ends the swarm's task, if it runs, and with it every libp2p connection.
    pub(crate) fn close(&self) {
        *self.plane.lock().unwrap_or_else(PoisonError::into_inner) = State::Closed;
    }

    fn wake(&self) -> Result<Plane, Error> {
        let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running(plane) => Ok(plane.clone()),
            State::Closed => Err(Error::Closed),
            State::Asleep => {
                let plane = self.start()?;
                *state = State::Running(plane.clone());
                Ok(plane)
            }
        }
    }

    fn start(&self) -> Result<Plane, Error> {
        let _inside = self.runtime.enter();
        let (accepted, sockets) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (tickets, new_tickets) = mpsc::channel(CONTROL_QUEUE_MAX.saturating_mul(2));
        let (opens, asked) = mpsc::channel(DIALS_MAX);
        let mut swarm = swarm(&self.identity, sockets, self.connections_max)?;
        for bound in address::reachable(&self.listening, &address::interfaces()) {
            // The shared port refuses no address.
            let _ = swarm.listen_on(address::multiaddr(bound));
        }
        let task = Task { swarm, tickets: BTreeMap::new(), links: BTreeMap::new(), dials: BTreeMap::new() };
        self.runtime.spawn(task.run(asked, new_tickets, self.streams.clone()));
        tracing::debug!("the libp2p control plane is up");
        Ok(Plane { accepted, tickets, opens })
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

fn swarm(
    identity: &Identity,
    sockets: mpsc::Receiver<Accepted>,
    connections_max: usize,
) -> Result<Swarm<Behaviour>, Error> {
    let security = Security::new(identity.keypair())
        .ok_or_else(|| Error::Certificate { cause: "libp2p refuses the node's key".to_owned() })?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let transport: transport::Boxed<_> = SharedPort::new(sockets)
        .upgrade(Version::V1)
        .authenticate(security)
        .multiplex(muxer)
        .timeout(HANDSHAKE)
        .boxed();
    let most = u32::try_from(connections_max).unwrap_or(u32::MAX);
    // Inbound handshakes are counted at the gate, which knows whom to drop.
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_outgoing(u32::try_from(DIALS_MAX).ok())
        .with_max_established(Some(most))
        .with_max_established_per_peer(Some(CONTROL_CONNECTIONS_PER_PEER_MAX));
    let about = identify::Config::new(version::IDENTIFY_PROTOCOL.to_owned(), identity.keypair().public())
        .with_agent_version(version::AGENT.to_owned());
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_bytes(CONTROL_MEMORY_BYTES_MAX),
        identify: identify::Behaviour::new(about),
        ping: ping::Behaviour::default(),
        streams: libp2p_stream::Behaviour::new(),
    };
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(CONTROL_IDLE)
        .with_max_negotiating_inbound_streams(STREAMS_PER_CONNECTION_MAX);
    Ok(Swarm::new(transport, behaviour, identity.peer_id(), config))
}

/// What is known of a peer's connection.
#[derive(Clone, Copy)]
struct Link {
    remote: SocketAddr,
    local: SocketAddr,
    round_trip: Duration,
}

struct Task {
    swarm: Swarm<Behaviour>,
    /// Accepted sockets whose handshake is under way, by the address they came from.
    tickets: BTreeMap<SocketAddr, Weak<Ticket>>,
    links: BTreeMap<PeerId, Link>,
    dials: BTreeMap<ConnectionId, Open>,
}

impl Task {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Open>,
        mut tickets: mpsc::Receiver<(SocketAddr, Weak<Ticket>)>,
        streams: mpsc::Sender<DataStream>,
    ) {
        let protocol = StreamProtocol::new(version::STREAM_PROTOCOL);
        let accepting = self.swarm.behaviour().streams.new_control().accept(protocol);
        let mut inbound = accepting.expect("a new swarm has no protocol registered");
        loop {
            tokio::select! {
                biased;
                // Before the swarm, so that a ticket is known when its connection stands.
                ticket = tickets.recv() => match ticket {
                    Some((remote, ticket)) => self.ticket(remote, ticket),
                    None => return,
                },
                open = asked.recv() => match open {
                    Some(open) => self.open(open),
                    None => return,
                },
                Some((peer, stream)) = inbound.next() => {
                    let link = self.links.get(&peer).copied();
                    let Some(Link { remote, local, round_trip }) = link else { continue };
                    // Where they wait, there are more than the data threads take: dropping one closes it.
                    let _ = streams.try_send(DataStream { peer, remote, local, round_trip, stream });
                }
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
    }

    fn ticket(&mut self, remote: SocketAddr, ticket: Weak<Ticket>) {
        // Sockets that failed leave a dead entry; the gate bounds the living ones.
        if self.tickets.len() >= 2 * CONTROL_QUEUE_MAX {
            self.tickets.retain(|_, ticket| ticket.strong_count() > 0);
        }
        self.tickets.insert(remote, ticket);
    }

    fn open(&mut self, open: Open) {
        let address = address::multiaddr(open.address);
        let options = match open.peer {
            Some(peer) if self.swarm.is_connected(&peer) => return self.open_stream(peer, open),
            // Another dial to the same peer may be under way, to an address that does not answer.
            Some(peer) => {
                DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Disconnected).build()
            }
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dials.insert(connection, open)),
            Err(cause) => {
                let error = dial_error(cause, &open);
                let _ = open.answer.send(Err(error));
            }
        }
    }

    fn open_stream(&mut self, peer: PeerId, open: Open) {
        let mut control = self.swarm.behaviour().streams.new_control();
        let Some(link) = self.links.get(&peer).copied() else {
            let _ = open.answer.send(Err(Error::Closed));
            return;
        };
        tokio::spawn(async move {
            let asked = Instant::now();
            let opening = control.open_stream(peer, StreamProtocol::new(version::STREAM_PROTOCOL));
            let address = open.address;
            let answer = match timeout(HANDSHAKE, opening).await {
                Ok(Ok(stream)) => {
                    let round_trip = link.round_trip.min(asked.elapsed());
                    Ok(DataStream { peer, remote: link.remote, local: link.local, round_trip, stream })
                }
                Ok(Err(cause)) => Err(Error::Handshake { address, cause: cause.to_string() }),
                Err(_) => Err(Error::TimedOut { address }),
            };
            let _ = open.answer.send(answer);
        });
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.links.remove(&peer_id);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(remote = %send_back_addr, %error, "a libp2p connection came to nothing");
                if let Some(remote) = address::socket(&send_back_addr) {
                    self.tickets.remove(&remote);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(open) = self.dials.remove(&connection_id) {
                    let error = dial_error(error, &open);
                    let _ = open.answer.send(Err(error));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result: Ok(round_trip), .. })) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.round_trip = round_trip;
                }
            }
            _ => {}
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let (remote, local) = match endpoint {
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                (address::socket(send_back_addr), address::socket(local_addr))
            }
            ConnectedPoint::Dialer { address, .. } => (address::socket(address), None),
        };
        let Some(remote) = remote else {
            self.swarm.close_connection(connection);
            return;
        };
        if endpoint.is_listener() {
            let ticket = self.tickets.remove(&remote).and_then(|ticket| ticket.upgrade());
            if !ticket.is_some_and(|ticket| ticket.establish()) {
                self.swarm.close_connection(connection);
                return;
            }
        }
        // libp2p does not tell the local end of a dialled connection; the family is all that is left of it.
        let unknown = if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) };
        let link = Link { remote, local: local.unwrap_or(unknown), round_trip: ROUND_TRIP_UNKNOWN };
        self.links.entry(peer).or_insert(link);
        if let Some(open) = self.dials.remove(&connection) {
            self.open_stream(peer, open);
        }
    }
}

/// libp2p's reasons in the words of this room.
fn dial_error(cause: DialError, open: &Open) -> Error {
    let address = open.address;
    match cause {
        DialError::LocalPeerId { .. } => Error::SelfDial { address },
        DialError::WrongPeerId { obtained, .. } => match open.peer {
            Some(expected) => Error::WrongPeer { address, expected: Box::new(expected), found: Box::new(obtained) },
            None => Error::SelfDial { address },
        },
        DialError::Denied { .. } => Error::Full { limit: "libp2p connections" },
        other => Error::Handshake { address, cause: innermost(&other) },
    }
}

/// The last words of a chain of errors: the ones that say something.
fn innermost(cause: &(dyn std::error::Error + 'static)) -> String {
    let mut words = cause.to_string();
    if let Some(DialError::Transport(tried)) = cause.downcast_ref::<DialError>()
        && let Some((_, first)) = tried.first()
    {
        let mut inner: &dyn std::error::Error = first;
        while let Some(source) = inner.source() {
            inner = source;
        }
        words = inner.to_string();
    }
    words.chars().take(200).collect()
}

/// Multiaddress of a peer at an address: `/…/p2p/ID`.
pub(crate) fn with_peer(address: SocketAddr, peer: PeerId) -> Multiaddr {
    address::multiaddr(address).with(libp2p::multiaddr::Protocol::P2p(peer))
}
