//! The shared port: bind, accept, look at the first byte, hand over.
//!
//! Both protocols have the dialler speak first: `0x13` is the length of libp2p's first message (multistream-select),
//! `0x16` a TLS handshake record. Anything else is closed without a word.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::drivers::transport::address::{kernel_round_trip, prepare};
use crate::drivers::transport::channel::{Channel, Path};
use crate::drivers::transport::endpoint::Inner;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::gate::Handshake;
use crate::drivers::transport::limits::{ACCEPT_PAUSE, BACKLOG, HANDSHAKE};
use crate::drivers::transport::tls_config::proven_peer;
use crate::drivers::transport::tls_stream::TlsStream;
use crate::wire::version;

/// First byte of libp2p over TCP.
const LIBP2P: u8 = 0x13;
/// First byte of TLS.
const TLS: u8 = 0x16;

/// Listens on every address. With `any_port_if_taken` a port that is taken is replaced by a free one.
pub(crate) fn bind(addresses: &[SocketAddr], any_port_if_taken: bool) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        let mut bound = bind_one(*address);
        if any_port_if_taken && matches!(&bound, Err(cause) if cause.kind() == io::ErrorKind::AddrInUse) {
            bound = bind_one(SocketAddr::new(address.ip(), 0));
        }
        listeners.push(bound.map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => Error::PortTaken { address: *address },
            _ => Error::Listen { address: *address, cause },
        })?);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted node must not wait for old connections of its port; on Linux this does not let two listeners share it.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // So that `[::]` and `0.0.0.0` may both be listed, whatever the system's default.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until the task is aborted.
pub(crate) async fn accept(endpoint: Arc<Inner>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => match endpoint.gate.admit(remote.ip()) {
                Ok(handshake) => drop(tokio::spawn(classify(endpoint.clone(), tcp, remote, handshake))),
                Err(limit) => tracing::debug!(%remote, limit, "a connection was refused"),
            },
            Err(cause) => {
                // Descriptors are short, most likely: the oldest handshake makes room.
                tracing::debug!(%cause, "accept failed");
                endpoint.gate.relieve();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn classify(endpoint: Arc<Inner>, tcp: TcpStream, remote: SocketAddr, handshake: Handshake) {
    let deadline = Instant::now().checked_add(HANDSHAKE).unwrap_or_else(Instant::now);
    let evicted = handshake.evicted();
    let first = tokio::select! {
        () = poll_fn(|cx| evicted.poll(cx)) => return,
        first = timeout_at(deadline, first_byte(&tcp)) => first,
    };
    let Ok(Ok(Some(first @ (LIBP2P | TLS)))) = first else {
        tracing::debug!(%remote, "neither TLS nor libp2p");
        return;
    };
    if let Err(limit) = handshake.begin() {
        tracing::debug!(%remote, limit, "a connection was refused");
        return;
    }
    prepare(&tcp);
    if first == LIBP2P {
        if let Err(error) = endpoint.control.accept(tcp, remote, handshake) {
            tracing::debug!(%remote, %error, "a libp2p connection was refused");
        }
        return;
    }
    let Ok(tcp) = tcp.into_std() else { return };
    let accepting = endpoint.clone();
    endpoint.threads.spawn(Box::new(move || {
        Box::pin(async move {
            if let Err(cause) = accept_direct(&accepting, tcp, remote, handshake, deadline).await {
                tracing::debug!(%remote, %cause, "a handshake came to nothing");
            }
        })
    }));
}

async fn first_byte(tcp: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let peeked = tcp.peek(&mut byte).await?;
    let [first] = byte;
    Ok((peeked > 0).then_some(first))
}

/// The listening side of the data plane, from handshake to the end of the session.
async fn accept_direct(
    endpoint: &Inner,
    tcp: StdTcpStream,
    remote: SocketAddr,
    handshake: Handshake,
    deadline: Instant,
) -> io::Result<()> {
    let local = tcp.local_addr()?;
    let tcp = TcpStream::from_std(tcp)?;
    let measured = kernel_round_trip(&tcp);
    let evicted = handshake.evicted();
    let accepted = tokio::select! {
        () = poll_fn(|cx| evicted.poll(cx)) => return Err(io::Error::other("it had to give way")),
        accepted = timeout_at(deadline, TlsStream::accept(tcp, endpoint.tls.server())) => accepted,
    };
    let (stream, took) = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let round_trip = measured.map_or(took, |measured| measured.min(took));
    let peer = proven_peer(stream.peer_certificates()).filter(|peer| *peer != endpoint.identity.peer_id());
    let agreed = stream.alpn_protocol() == Some(version::ALPN);
    let Some(peer) = peer.filter(|_| agreed) else {
        return Err(io::Error::other("no peer of another identity that speaks piecework/1"));
    };
    let _place = handshake.establish(Some(peer)).map_err(io::Error::other)?;
    tracing::debug!(%peer, %remote, "a peer connected");
    let (path, exported, io) = (Path::Direct, stream.exported(), Box::new(stream));
    endpoint.sessions.run(Channel { peer, remote, local, inbound: true, path, round_trip, exported, io }).await;
    Ok(())
}
