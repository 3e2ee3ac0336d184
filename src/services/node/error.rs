//! What can go wrong with a node as a whole.

use crate::content::code::Code;

/// A node that cannot start or dial.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sockets, ports, handshakes.
    #[error(transparent)]
    Transport(#[from] crate::drivers::transport::Error),
    /// Threads, files.
    #[error(transparent)]
    Store(#[from] crate::drivers::store::Error),
    /// A store that does not fit its manifest.
    #[error(transparent)]
    Swarm(#[from] crate::swarm::Error),
    /// An address without a usable peer id.
    #[error("the peer id is not one")]
    NotAPeerId,
    /// No peers are met in this mode, or on this network.
    #[error("no peers are met in this mode, or on this network")]
    NoPeers,
    /// Somebody else's dial of the peer has just come to nothing.
    #[error("another dial of it has just failed")]
    BeingDialled,
    /// Dialling while the machine is about to sleep.
    #[error("this machine is about to sleep")]
    Asleep,
    /// Dialling before the listener stands.
    #[error("the node has not started")]
    NotStarted,
}

impl Error {
    /// The stable code word of it.
    pub fn code(&self) -> Code {
        match self {
            Error::Transport(error) => transport_code(error),
            Error::Store(error) => error.code(),
            Error::NotAPeerId => Code::Usage,
            Error::NoPeers => Code::Policy,
            Error::BeingDialled => Code::NoSource,
            Error::Swarm(_) | Error::NotStarted | Error::Asleep => Code::Io,
        }
    }
}

fn transport_code(error: &crate::drivers::transport::Error) -> Code {
    use crate::drivers::transport::Error as E;
    match error {
        E::PortTaken { .. } => Code::PortTaken,
        E::Listen { .. } | E::Resource { .. } | E::Certificate { .. } => Code::ResourceRefused,
        E::BadTarget { .. } => Code::Usage,
        E::Unresolved { .. } | E::Unreachable { .. } => Code::NoSource,
        _ => Code::Protocol,
    }
}
