//! The task that drives libp2p's swarm: who connects, who is dialled, which streams are opened. What is about the Internet
//! it hands to `far_task`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use futures_util::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, identify, ping};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::drivers::transport::address::{self, endpoint_of, is_quic, relay_of};
use crate::drivers::transport::behaviour::{Behaviour, BehaviourEvent};
use crate::drivers::transport::control::{DataStream, Open};
use crate::drivers::transport::error::Error;
use crate::drivers::transport::far::Ask;
use crate::drivers::transport::far_task::FarTask;
use crate::drivers::transport::gate::{Established, Gate};
use crate::drivers::transport::limits::*;
use crate::drivers::transport::links::{Link, Links};
use crate::drivers::transport::shared_port::Ticket;
use crate::wire::version;

pub(crate) struct Task {
    swarm: Swarm<Behaviour>,
    gate: Arc<Gate>,
    /// Accepted sockets whose handshake is under way, by the address they came from.
    tickets: BTreeMap<SocketAddr, Weak<Ticket>>,
    links: Links,
    dials: BTreeMap<ConnectionId, Open>,
    far: Option<FarTask>,
}

impl Task {
    pub(crate) fn new(swarm: Swarm<Behaviour>, gate: Arc<Gate>, far: Option<FarTask>) -> Self {
        Self { swarm, gate, tickets: BTreeMap::new(), links: Links::default(), dials: BTreeMap::new(), far }
    }

    pub(crate) async fn run(
        mut self,
        mut asked: mpsc::Receiver<Ask>,
        mut tickets: mpsc::Receiver<(SocketAddr, Weak<Ticket>)>,
        streams: mpsc::Sender<DataStream>,
    ) {
        let protocol = StreamProtocol::new(version::STREAM_PROTOCOL);
        let accepting = self.swarm.behaviour().streams.new_control().accept(protocol);
        let mut inbound = accepting.expect("a new swarm has no protocol registered");
        let mut rounds = interval(PROBE_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Before the swarm, so that a ticket is known when its connection stands.
                ticket = tickets.recv() => match ticket {
                    Some((remote, ticket)) => self.ticket(remote, ticket),
                    None => return,
                },
                ask = asked.recv() => match ask {
                    Some(ask) => self.asked(ask),
                    None => return,
                },
                Some((peer, stream)) = inbound.next() => {
                    // Through a relay that does not let it no payload comes: it is others' line.
                    let Some(Link { remote, local, round_trip, relayed, .. }) = self.way(&peer) else { continue };
                    let (remote, local, round_trip, relayed) = (*remote, *local, *round_trip, *relayed);
                    // Where they wait, there are more than the data threads take: dropping one closes it.
                    let _ = streams.try_send(DataStream { peer, remote, local, round_trip, relayed, stream });
                }
                event = self.swarm.select_next_some() => self.event(event),
                _ = rounds.tick(), if self.far.is_some() => {
                    let awaited = self.far.as_mut().map(|far| {
                        far.rounds(&mut self.swarm);
                        far.awaited()
                    });
                    awaited.iter().flatten().for_each(|peer| self.met(peer));
                    let carried = self.far.as_mut().map(|far| far.carried(&self.links)).unwrap_or_default();
                    carried.into_iter().for_each(|(peer, open)| self.open_stream(peer, open));
                }
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

    fn asked(&mut self, ask: Ask) {
        let far = match (ask, &mut self.far) {
            (Ask::Open(open), _) => return self.open(open),
            #[cfg(test)]
            (Ask::Fall, _) => panic!("as a fault in a library would"),
            // Asked of a swarm that has been replaced meanwhile: who waits is told by the answer that never comes.
            (_, None) => return,
            (ask, Some(far)) => (ask, far),
        };
        let (swarm, links) = (&mut self.swarm, &self.links);
        match far {
            (Ask::Find { key, found }, far) => far.find(key, found, swarm),
            (Ask::Provide(keys), far) => far.provide(keys, swarm),
            (Ask::Bootstrap(nodes, answer), far) => drop(answer.send(far.bootstrap(nodes, swarm, links))),
            (Ask::Punch { open, through }, far) => match open.peer {
                Some(peer) if links.direct(&peer).is_some() => self.open_stream(peer, open),
                Some(peer) => far.punch(peer, open, through, swarm),
                None => {}
            },
            (Ask::Open(_), _) => {}
            #[cfg(test)]
            (Ask::Fall, _) => {}
        }
    }

    fn open(&mut self, open: Open) {
        let address = address::multiaddr(open.address);
        if let Some(far) = &self.far {
            // Who asks has judged it.
            far.allow(open.address);
        }
        let options = match open.peer {
            Some(peer) if self.links.direct(&peer).is_some() => return self.open_stream(peer, open),
            // Another dial to the same peer may be under way, to an address that does not answer.
            Some(peer) => {
                let relayed = self.swarm.is_connected(&peer);
                let condition = if relayed { PeerCondition::Always } else { PeerCondition::Disconnected };
                DialOpts::peer_id(peer).addresses(vec![address]).condition(condition).build()
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

    /// The connection over which bytes go to a peer: a direct one, else one through a relay that lets them through.
    fn way(&self, peer: &PeerId) -> Option<&Link> {
        let carries = |link: &Link| self.far.as_ref().is_some_and(|far| far.carries(peer, link));
        self.links.direct(peer).or_else(|| self.links.relayed_by(peer, carries))
    }

    fn open_stream(&mut self, peer: PeerId, open: Open) {
        let mut control = self.swarm.behaviour().streams.new_control();
        let Some(link) = self.way(&peer) else {
            let _ = open.answer.send(Err(Error::Closed));
            return;
        };
        let (remote, local, measured, relayed) = (link.remote, link.local, link.round_trip, link.relayed);
        tokio::spawn(async move {
            let asked = Instant::now();
            let opening = control.open_stream(peer, StreamProtocol::new(version::STREAM_PROTOCOL));
            let address = open.address;
            let answer = match timeout(HANDSHAKE, opening).await {
                Ok(Ok(stream)) => {
                    let round_trip = measured.min(asked.elapsed());
                    Ok(DataStream { peer, remote, local, round_trip, relayed, stream })
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
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.links.remove(&peer_id, connection_id);
                self.met(&peer_id);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(remote = %send_back_addr, %error, "a libp2p connection came to nothing");
                if let Some(remote) = endpoint_of(&send_back_addr).filter(|_| !is_quic(&send_back_addr)) {
                    self.tickets.remove(&remote);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(far) = &mut self.far {
                    far.not_met(connection_id, &innermost(&error));
                }
                if let Some(open) = self.dials.remove(&connection_id) {
                    let error = dial_error(error, &open);
                    let _ = open.answer.send(Err(error));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, connection, result: Ok(round_trip) })) => {
                self.links.measured(&peer, connection, round_trip);
            }
            other => self.far_event(other),
        }
    }

    fn far_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let Some(far) = &mut self.far else { return };
        let (swarm, links) = (&mut self.swarm, &self.links);
        match event {
            SwarmEvent::ExternalAddrConfirmed { address } => far.proven(&address, true, swarm),
            SwarmEvent::ExternalAddrExpired { address } => far.proven(&address, false, swarm),
            SwarmEvent::ListenerClosed { listener_id, .. } => far.listener_closed(listener_id),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            })) => far.identified(peer_id, connection_id, &info, swarm, links),
            SwarmEvent::Behaviour(BehaviourEvent::Dht(event)) => far.dht(event, swarm, links),
            SwarmEvent::Behaviour(BehaviourEvent::Probed(event)) => far.probed(&event, swarm),
            SwarmEvent::Behaviour(BehaviourEvent::Relayed(event)) => far.carrier(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Punching(event)) => {
                tracing::debug!(peer = %event.remote_peer_id, result = ?event.result, "a hole");
            }
            _ => {}
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let (address, local) = match endpoint {
            ConnectedPoint::Listener { local_addr, send_back_addr } => (send_back_addr, endpoint_of(local_addr)),
            ConnectedPoint::Dialer { address, .. } => (address, None),
        };
        let relayed = endpoint.is_relayed();
        let remote = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if relayed => relay_of(local_addr).1,
            _ if relayed => relay_of(address).1,
            _ => endpoint_of(address),
        };
        if remote.is_none() && (!relayed || self.far.is_none()) {
            self.swarm.close_connection(connection);
            return;
        }
        let remote = remote.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        let place = match endpoint.is_listener() && !relayed {
            true => self.place(remote, is_quic(address)),
            false => Some(None),
        };
        let Some(place) = place else {
            self.swarm.close_connection(connection);
            return;
        };
        // libp2p does not tell the local end of a dialled connection; the family is all that is left of it.
        let unknown = if remote.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) };
        let link = Link {
            remote,
            local: local.unwrap_or(unknown),
            address: address.clone(),
            round_trip: ROUND_TRIP_UNKNOWN,
            relayed,
            dialled: endpoint.is_dialer(),
            _place: place,
        };
        self.links.add(peer, connection, link);
        if let Some(open) = self.dials.remove(&connection) {
            self.open_stream(peer, open);
        }
        self.met(&peer);
    }

    /// The place of an accepted connection at the gate: that of its ticket, or over QUIC one of its own. `None`: there is none.
    fn place(&mut self, remote: SocketAddr, quic: bool) -> Option<Option<Established>> {
        if quic {
            return self.gate.admit_begun(remote.ip()).ok()?.establish(None).ok().map(Some);
        }
        let ticket = self.tickets.remove(&remote).and_then(|ticket| ticket.upgrade());
        ticket.is_some_and(|ticket| ticket.establish()).then_some(None)
    }

    fn met(&mut self, peer: &PeerId) {
        let waits = self.far.as_mut().and_then(|far| far.met(peer, &mut self.swarm, &self.links));
        if let Some(open) = waits {
            self.open_stream(*peer, open);
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
