//! Dialling: names to addresses, the data plane first, libp2p behind it.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::drivers::transport::address::{kernel_round_trip, prepare};
use crate::drivers::transport::channel::{Channel, Path, PathPreference};
use crate::drivers::transport::control::DataStream;
use crate::drivers::transport::endpoint::Inner;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::futures_io::FromFutures;
use crate::drivers::transport::gate::Handshake;
use crate::drivers::transport::limits::{ADDRESSES_PER_TARGET_MAX, CONNECT, HANDSHAKE, RESOLVE};
use crate::drivers::transport::target::{Place, Target};
use crate::drivers::transport::tls_config::{UnexpectedPeer, proven_peer};
use crate::drivers::transport::tls_stream::TlsStream;
use crate::wire::version;

/// Tries the addresses of a target in order; the first peer that is the right one wins.
pub(crate) async fn dial(endpoint: &Arc<Inner>, target: &Target) -> Result<PeerId, Error> {
    let mut told = None;
    for address in resolve(target).await? {
        match dial_address(endpoint, address, target.peer).await {
            Ok(peer) => return Ok(peer),
            Err(error) => {
                tracing::debug!(%address, %error, "a dial failed");
                // Who answered wrongly says more than who did not answer.
                if told.as_ref().is_none_or(|known| telling(&error) > telling(known)) {
                    told = Some(error);
                }
            }
        }
    }
    Err(told.unwrap_or_else(|| Error::Unresolved {
        host: target.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        cause: "no address".to_owned(),
    }))
}

fn telling(error: &Error) -> u8 {
    match error {
        Error::WrongPeer { .. } => 4,
        Error::SelfDial { .. } => 3,
        Error::Handshake { .. } => 2,
        Error::TimedOut { .. } => 1,
        _ => 0,
    }
}

/// Socket addresses of a target, names resolved; at most [`ADDRESSES_PER_TARGET_MAX`].
pub(crate) async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Error> {
    let mut addresses = Vec::new();
    let mut unresolved = None;
    for place in &target.places {
        match place {
            Place::Socket(address) => addresses.push(*address),
            Place::Name { host, port, ipv6 } => {
                let refuse = |cause: &dyn ToString| Error::Unresolved { host: host.clone(), cause: cause.to_string() };
                match timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), *port))).await {
                    Ok(Ok(found)) => {
                        addresses.extend(found.filter(|address| ipv6.is_none_or(|ipv6| address.is_ipv6() == ipv6)));
                    }
                    Ok(Err(cause)) => unresolved = Some(refuse(&cause)),
                    Err(_) => unresolved = Some(refuse(&"the resolver did not answer in time")),
                }
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses.truncate(ADDRESSES_PER_TARGET_MAX);
    match unresolved {
        Some(error) if addresses.is_empty() => Err(error),
        _ => Ok(addresses),
    }
}

async fn dial_address(endpoint: &Arc<Inner>, address: SocketAddr, peer: Option<PeerId>) -> Result<PeerId, Error> {
    if peer == Some(endpoint.identity.peer_id()) {
        return Err(Error::SelfDial { address });
    }
    if endpoint.path_preference == PathPreference::Stream {
        return dial_stream(endpoint, address, peer).await;
    }
    let direct = match dial_direct(endpoint, address, peer).await {
        Ok(peer) => return Ok(peer),
        Err(error) => error,
    };
    // Somebody listens there, and it is not our data plane.
    let other_speaker = matches!(direct, Error::Handshake { .. } | Error::TimedOut { .. });
    if endpoint.path_preference == PathPreference::Direct || !other_speaker {
        return Err(direct);
    }
    dial_stream(endpoint, address, peer).await.map_err(|stream| match (&direct, stream) {
        (Error::Handshake { cause: direct, .. }, Error::Handshake { cause, .. }) => {
            Error::Handshake { address, cause: format!("TLS: {direct}; libp2p: {cause}") }
        }
        (_, stream) => stream,
    })
}

async fn dial_direct(endpoint: &Arc<Inner>, address: SocketAddr, peer: Option<PeerId>) -> Result<PeerId, Error> {
    let handshake = endpoint.gate.dial(address.ip()).map_err(|limit| Error::Full { limit })?;
    let unreachable = |cause| Error::Unreachable { address, cause };
    let began = Instant::now();
    let connected = timeout(CONNECT, TcpStream::connect(address)).await;
    let tcp = connected.map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?.map_err(unreachable)?;
    let took = began.elapsed();
    let round_trip = kernel_round_trip(&tcp).map_or(took, |measured| measured.min(took));
    prepare(&tcp);
    let tcp = tcp.into_std().map_err(unreachable)?;
    let (answer, answered) = oneshot::channel();
    let dialling = endpoint.clone();
    endpoint.threads.spawn(Box::new(move || {
        Box::pin(async move {
            let dialled = Dialled { tcp, address, peer, round_trip };
            match timeout(HANDSHAKE, dialled.connect(&dialling, handshake)).await {
                Ok(Ok((channel, place))) => {
                    let _ = answer.send(Ok(channel.peer));
                    dialling.sessions.run(channel).await;
                    drop(place);
                }
                Ok(Err(error)) => drop(answer.send(Err(error))),
                Err(_) => drop(answer.send(Err(Error::TimedOut { address }))),
            }
        })
    }));
    answered.await.unwrap_or(Err(Error::Closed))
}

/// A connected socket, before its handshake.
struct Dialled {
    tcp: StdTcpStream,
    address: SocketAddr,
    peer: Option<PeerId>,
    round_trip: Duration,
}

impl Dialled {
    async fn connect(
        self,
        endpoint: &Inner,
        handshake: Handshake,
    ) -> Result<(Channel, crate::drivers::transport::gate::Established), Error> {
        let Self { tcp, address, peer: expected, round_trip } = self;
        let refuse = |cause: &dyn ToString| Error::Handshake { address, cause: cause.to_string() };
        let local = tcp.local_addr().map_err(|cause| refuse(&cause))?;
        let tcp = TcpStream::from_std(tcp).map_err(|cause| refuse(&cause))?;
        let connected = TlsStream::connect(tcp, endpoint.tls.client(expected)?).await;
        let (stream, _) = connected.map_err(|cause| handshake_error(address, &cause))?;
        if stream.alpn_protocol() != Some(version::ALPN) {
            return Err(refuse(&"it speaks TLS, but not piecework/1"));
        }
        let peer = proven_peer(stream.peer_certificates()).ok_or_else(|| refuse(&"it proved no peer id"))?;
        if peer == endpoint.identity.peer_id() {
            return Err(Error::SelfDial { address });
        }
        let place = handshake.establish(Some(peer)).map_err(|limit| Error::Full { limit })?;
        let (remote, path) = (address, Path::Direct);
        let (exported, io) = (stream.exported(), Box::new(stream));
        Ok((Channel { peer, remote, local, inbound: false, path, round_trip, exported, io }, place))
    }
}

/// Tells the wrong peer from every other failure.
fn handshake_error(address: SocketAddr, cause: &io::Error) -> Error {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) = tls
        && let Some(UnexpectedPeer { expected, found }) = other.0.downcast_ref::<UnexpectedPeer>()
    {
        return Error::WrongPeer { address, expected: Box::new(*expected), found: Box::new(*found) };
    }
    Error::Handshake { address, cause: cause.to_string() }
}

async fn dial_stream(endpoint: &Arc<Inner>, address: SocketAddr, peer: Option<PeerId>) -> Result<PeerId, Error> {
    let stream = endpoint.control.open(address, peer).await?;
    let peer = stream.peer;
    run_stream(endpoint, stream, false)?;
    Ok(peer)
}

/// Gives a libp2p stream to a data thread.
pub(crate) fn run_stream(endpoint: &Arc<Inner>, stream: DataStream, inbound: bool) -> Result<(), Error> {
    let DataStream { peer, remote, local, round_trip, relayed, stream } = stream;
    let place = endpoint.gate.peer(peer).map_err(|limit| Error::Full { limit })?;
    let running = endpoint.clone();
    endpoint.threads.spawn(Box::new(move || {
        Box::pin(async move {
            let path = if relayed { Path::Relayed } else { Path::Stream };
            let (exported, io) = (None, Box::new(FromFutures(stream)));
            running.sessions.run(Channel { peer, remote, local, inbound, path, round_trip, exported, io }).await;
            drop(place);
        })
    }));
    Ok(())
}
