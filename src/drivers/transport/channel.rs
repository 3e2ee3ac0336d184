//! What the transport hands over, and to whom.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of bytes in both directions.
///
/// It may be split in a reading and a writing half that live in two tasks of one data thread. What is written goes out
/// at the latest with the next flush.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// TLS straight over TCP: the data plane.
    Direct,
    /// A libp2p stream: slower, for peers that speak nothing else.
    Stream,
    /// The same through a relay that lets content through: where no hole comes about.
    Relayed,
}

/// Which way to try when dialling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathPreference {
    /// Direct, and a stream where that fails though the port is open.
    #[default]
    Auto,
    /// Direct only.
    Direct,
    /// A libp2p stream only.
    Stream,
}

/// An open connection to a peer whose identity is proven; no frame has been read or written.
pub struct Channel {
    /// Who is at the other end, proven by its certificate.
    pub peer: PeerId,
    /// Its address as seen from here; of an inbound channel the port is not the one it listens on.
    pub remote: SocketAddr,
    /// Our address of this connection.
    pub local: SocketAddr,
    /// Whether the other side dialled.
    pub inbound: bool,
    /// Which way the bytes go.
    pub path: Path,
    /// Round trip as measured while connecting; [`crate::drivers::transport::limits::ROUND_TRIP_UNKNOWN`] where it
    /// could not be.
    pub round_trip: Duration,
    /// 32 bytes that both ends of a direct path, and they alone, can export from its TLS; `None` for a stream.
    pub exported: Option<[u8; 32]>,
    /// The bytes.
    pub io: Box<dyn Duplex>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("peer", &self.peer)
            .field("remote", &self.remote)
            .field("inbound", &self.inbound)
            .field("path", &self.path)
            .field("round_trip", &self.round_trip)
            .finish_non_exhaustive()
    }
}

/// A future that stays on its thread.
pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Whoever speaks the data protocol. Called on a data thread; the future runs there until it ends, and the connection
/// counts against the limits as long as it does. It may spawn more with `tokio::task::spawn_local`.
///
/// Idle and write deadlines are its own business: the transport closes nothing that has passed its handshake.
pub trait Sessions: Send + Sync + 'static {
    /// Speaks with one peer until one of them has enough.
    fn run(&self, channel: Channel) -> LocalBoxFuture<()>;
}
