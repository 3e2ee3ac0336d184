//! Why an origin does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::content::code::Code;

/// Why an origin does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No folder or file to serve.
    #[error("{} cannot be served: {cause}", path.display())]
    Root {
        /// As given.
        path: PathBuf,
        /// As the system says.
        cause: io::Error,
    },
    /// The port cannot be had.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// As given.
        address: SocketAddr,
        /// As the system says.
        cause: io::Error,
    },
}

impl Error {
    /// Its code word.
    pub fn code(&self) -> Code {
        match self {
            Self::Root { .. } => Code::InputMissing,
            Self::Listen { cause, .. } if cause.kind() == io::ErrorKind::AddrInUse => Code::PortTaken,
            Self::Listen { .. } => Code::ResourceRefused,
        }
    }
}
