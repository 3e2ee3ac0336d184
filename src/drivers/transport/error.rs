//! What goes wrong between here and a peer.

use std::io;
use std::net::SocketAddr;

use libp2p::PeerId;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The other end, or the network before it.
    Peer,
    /// An HTTP source; never from this room, but the same word everywhere.
    Source,
    /// This machine or its configuration.
    Local,
}

/// Why there is no endpoint or no channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program, or another instance, listens there.
    #[error("{address} is taken by another program")]
    PortTaken {
        /// Address asked for.
        address: SocketAddr,
    },
    /// Listening is not possible for another reason: no such address here, or no right to the port.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// The system's words.
        cause: io::Error,
    },
    /// The system gives no thread or socket.
    #[error("the system refused {resource}: {cause}")]
    Resource {
        /// What was asked for.
        resource: &'static str,
        /// The system's words.
        cause: io::Error,
    },
    /// The identity's certificate could not be made.
    #[error("cannot make the certificate of this node: {cause}")]
    Certificate {
        /// The library's words.
        cause: String,
    },
    /// Text that is neither HOST:PORT nor a multiaddress of TCP.
    #[error("expected HOST:PORT or /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/ID], found {found:?}")]
    BadTarget {
        /// At most the first 200 characters of what was given.
        found: String,
    },
    /// A name without an address, or with none of the wanted family.
    #[error("{host} has no address: {cause}")]
    Unresolved {
        /// Name asked for.
        host: String,
        /// The resolver's words.
        cause: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}: {cause}")]
    Unreachable {
        /// Address dialled.
        address: SocketAddr,
        /// The system's words.
        cause: io::Error,
    },
    /// Connected, but no peer of ours came out of it.
    #[error("{address} does not speak piecework, or broke off: {cause}")]
    Handshake {
        /// Address dialled.
        address: SocketAddr,
        /// What the direct path, the stream path or both ran into.
        cause: String,
    },
    /// No answer within the deadline.
    #[error("{address} did not finish its handshake in time")]
    TimedOut {
        /// Address dialled.
        address: SocketAddr,
    },
    /// Somebody else than the one dialled.
    #[error("expected peer {expected} at {address}, found {found}")]
    WrongPeer {
        /// Address dialled.
        address: SocketAddr,
        /// Whom the caller wanted.
        expected: Box<PeerId>,
        /// Who proved to be there.
        found: Box<PeerId>,
    },
    /// The address leads back to this node.
    #[error("{address} is this node itself")]
    SelfDial {
        /// Address dialled.
        address: SocketAddr,
    },
    /// The limits of this node leave no room for one more connection.
    #[error("no room for another connection: {limit}")]
    Full {
        /// Which limit.
        limit: &'static str,
    },
    /// libp2p's task has ended by itself.
    #[error("libp2p has ended by itself, and begins again in a moment")]
    Fallen,
    /// The endpoint is shutting down.
    #[error("the transport is shutting down")]
    Closed,
}

impl Error {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Handshake { .. }
            | Self::TimedOut { .. }
            | Self::WrongPeer { .. } => Blame::Peer,
            Self::PortTaken { .. }
            | Self::Listen { .. }
            | Self::Resource { .. }
            | Self::Certificate { .. }
            | Self::BadTarget { .. }
            | Self::SelfDial { .. }
            | Self::Full { .. }
            | Self::Fallen
            | Self::Closed => Blame::Local,
        }
    }

    /// Whether the same call may succeed later, with nothing changed here.
    pub fn retry(&self) -> bool {
        match self {
            Self::Unresolved { .. }
            | Self::Unreachable { .. }
            | Self::Handshake { .. }
            | Self::TimedOut { .. }
            | Self::Full { .. }
            | Self::PortTaken { .. }
            | Self::Fallen
            | Self::Resource { .. } => true,
            Self::Listen { .. }
            | Self::Certificate { .. }
            | Self::BadTarget { .. }
            | Self::WrongPeer { .. }
            | Self::SelfDial { .. }
            | Self::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_away_may_come_back_and_a_wrong_one_stays_wrong() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let away = Error::Unreachable { address, cause: io::ErrorKind::ConnectionRefused.into() };
        assert!(away.retry() && away.blame() == Blame::Peer);
        let wrong =
            Error::WrongPeer { address, expected: Box::new(PeerId::random()), found: Box::new(PeerId::random()) };
        assert!(!wrong.retry() && wrong.blame() == Blame::Peer);
        assert_eq!(Error::PortTaken { address }.blame(), Blame::Local);
    }
}
