//! libp2p's swarm as this node makes it: which transports and protocols there are, with which bounds.
//!
//! Everywhere: identify, ping and the data protocol on a stream, over accepted and dialled TCP. Where peers of the Internet
//! are met, besides: Kademlia under a name of our own, QUIC, relays, hole punching, and AutoNAT.

use std::sync::Arc;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Transport as _;
use libp2p::core::transport::upgrade::Version;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{Config, NetworkBehaviour};
use libp2p::{
    PeerId, StreamProtocol, Swarm, autonat, connection_limits, dcutr, identify, kad, memory_connection_limits, ping,
    quic, relay, yamux,
};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use tokio::sync::mpsc;

use crate::drivers::transport::error::Error;
use crate::drivers::transport::far::Far;
use crate::drivers::transport::guard::{Guarded, Rule};
use crate::drivers::transport::identity::Identity;
use crate::drivers::transport::limits::*;
use crate::drivers::transport::meter::{Meter, Metered};
use crate::drivers::transport::provider_store::ProviderStore;
use crate::drivers::transport::quic_gate::QuicGate;
use crate::drivers::transport::quiet::Quiet;
use crate::drivers::transport::security::Security;
use crate::drivers::transport::shared_port::{Accepted, SharedPort};
use crate::wire::version;

/// Every protocol; what is about the Internet is there in its mode alone.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(crate) identify: Quiet,
    ping: ping::Behaviour,
    pub(crate) streams: libp2p_stream::Behaviour,
    pub(crate) dht: Toggle<kad::Behaviour<ProviderStore>>,
    pub(crate) probed: Toggle<autonat::v2::client::Behaviour<ChaCha8Rng>>,
    probes: Toggle<autonat::v2::server::Behaviour>,
    pub(crate) punching: Toggle<dcutr::Behaviour>,
    relayed: Toggle<relay::client::Behaviour>,
    relay: Toggle<relay::Behaviour>,
}

/// Makes the swarm; where `far` is set with what the Internet needs, and dials by `rule`.
///
/// # Errors
/// [`Error::Certificate`] where libp2p refuses the node's key.
pub(crate) fn swarm(
    identity: &Identity,
    sockets: mpsc::Receiver<Accepted>,
    connections_max: usize,
    far: Option<(&Far, Rule, &Arc<Meter>)>,
) -> Result<Swarm<Behaviour>, Error> {
    let rule = far.as_ref().map(|(_, rule, _)| rule.clone());
    let meter = far.as_ref().filter(|(far, ..)| far.relay && far.relay_data).map(|(.., meter)| Arc::clone(meter));
    let far = far.map(|(far, ..)| far);
    let (transport, relayed) = transport(identity, sockets, rule, meter.clone())?;
    let most = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let per_peer = if far.is_some() { FAR_CONNECTIONS_PER_PEER_MAX } else { CONTROL_CONNECTIONS_PER_PEER_MAX };
    // Inbound handshakes are counted at gates, which know whom to drop, but those through relays.
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(far.is_some().then_some(FAR_PENDING_INBOUND_MAX))
        .with_max_pending_outgoing(u32::try_from(DIALS_MAX).ok())
        .with_max_established(Some(most))
        .with_max_established_per_peer(Some(per_peer));
    let about = identify::Config::new(version::IDENTIFY_PROTOCOL.to_owned(), identity.keypair().public())
        .with_agent_version(version::AGENT.to_owned())
        .with_cache_size(0);
    let peer = identity.peer_id();
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_bytes(CONTROL_MEMORY_BYTES_MAX),
        identify: Quiet(identify::Behaviour::new(about)),
        ping: ping::Behaviour::default(),
        streams: libp2p_stream::Behaviour::new(),
        dht: far.map(|far| dht(peer, far)).into(),
        probed: far.map(|_| probed()).into(),
        probes: far.map(|_| autonat::v2::server::Behaviour::default()).into(),
        punching: far.map(|_| dcutr::Behaviour::new(peer)).into(),
        relayed: relayed.into(),
        relay: far.filter(|far| far.relay).map(|_| relay_server(peer, meter.as_deref())).into(),
    };
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(CONTROL_IDLE)
        .with_max_negotiating_inbound_streams(STREAMS_PER_CONNECTION_MAX);
    Ok(Swarm::new(transport, behaviour, peer, config))
}

type Upgraded = (PeerId, StreamMuxerBox);

/// A connection in which what is carried between others is counted.
fn metered((peer, muxer): Upgraded, meter: Arc<Meter>) -> Upgraded {
    (peer, StreamMuxerBox::new(Metered::new(muxer, meter)))
}

type Made = (Boxed<Upgraded>, Option<relay::client::Behaviour>);

fn transport(
    identity: &Identity,
    sockets: mpsc::Receiver<Accepted>,
    rule: Option<Rule>,
    meter: Option<Arc<Meter>>,
) -> Result<Made, Error> {
    let security = Security::new(identity.keypair())
        .ok_or_else(|| Error::Certificate { cause: "libp2p refuses the node's key".to_owned() })?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let tcp = Guarded::new(SharedPort::new(sockets), rule.clone());
    let Some(rule) = rule else {
        let transport = tcp.upgrade(Version::V1).authenticate(security).multiplex(muxer).timeout(HANDSHAKE).boxed();
        return Ok((transport, None));
    };
    let (relayed, behaviour) = relay::client::new(identity.peer_id());
    let streams = OrTransport::new(relayed, tcp);
    let streams = streams.upgrade(Version::V1).authenticate(security).multiplex(muxer).timeout(HANDSHAKE).boxed();
    let mut config = quic::Config::new(identity.keypair());
    config.handshake_timeout = HANDSHAKE;
    config.max_concurrent_stream_limit = u32::try_from(STREAMS_PER_CONNECTION_MAX).unwrap_or(u32::MAX);
    config.max_stream_data = QUIC_STREAM_BYTES_MAX;
    config.max_connection_data = QUIC_CONNECTION_BYTES_MAX;
    let quic = QuicGate::new(quic::tokio::Transport::new(config));
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = OrTransport::new(streams, Guarded::new(quic, Some(rule))).map(|either, _| either.into_inner());
    let transport = match meter {
        None => both.boxed(),
        Some(meter) => both.map(move |made: Upgraded, _| metered(made, meter)).boxed(),
    };
    Ok((transport, Some(behaviour)))
}

fn dht(peer: PeerId, far: &Far) -> kad::Behaviour<ProviderStore> {
    let name = StreamProtocol::try_from_owned(far.dht_protocol()).unwrap_or(StreamProtocol::new(version::DHT_PROTOCOL));
    let mut config = kad::Config::new(name);
    config
        .set_query_timeout(DHT_QUERY)
        // Against who surrounds a key with liars: paths that share no node.
        .disjoint_query_paths(true)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(DHT_RECORD_LIVES))
        // `far` tells again what we provide, few at a time; values are not kept at all.
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled);
    let mut dht = kad::Behaviour::with_config(peer, ProviderStore::new(peer), config);
    // `far` turns it to a server once somebody has reached us.
    dht.set_mode(Some(kad::Mode::Client));
    dht
}

fn probed() -> autonat::v2::client::Behaviour<ChaCha8Rng> {
    let config =
        autonat::v2::client::Config::default().with_max_candidates(PROBES_AT_ONCE).with_probe_interval(PROBE_EVERY);
    let mut seed = [0; 32];
    if getrandom::fill(&mut seed).is_err() {
        // Others could then guess which number proves that they have reached us: no more than a wrong verdict.
        tracing::warn!("the system gives no entropy for AutoNAT");
    }
    autonat::v2::client::Behaviour::new(ChaCha8Rng::from_seed(seed), config)
}

/// `meter`: where content is let through.
fn relay_server(peer: PeerId, meter: Option<&Meter>) -> relay::Behaviour {
    let (lives, bytes) = match meter {
        // Told to both ends, who go by it; the meter has the last word.
        Some(meter) => (RELAY_DATA_CIRCUIT_LIVES, meter.left().max(RELAY_DATA_BYTES_MIN)),
        None => (RELAY_CIRCUIT_LIVES, RELAY_CIRCUIT_BYTES_MAX),
    };
    let config = relay::Config {
        max_reservations: RELAY_RESERVATIONS_MAX,
        max_reservations_per_peer: RELAY_RESERVATIONS_PER_PEER_MAX,
        max_circuits: RELAY_CIRCUITS_MAX,
        max_circuits_per_peer: RELAY_CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: lives,
        max_circuit_bytes: bytes,
        ..relay::Config::default()
    };
    let mut relay = relay::Behaviour::new(peer, config);
    relay.set_status(Some(relay::Status::Enable));
    relay
}
