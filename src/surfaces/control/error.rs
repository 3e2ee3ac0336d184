//! Why the control API cannot be served or reached, or what it answered instead.

use std::path::PathBuf;

use crate::content::code::Code;

/// What goes wrong around the control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be had.
    #[error("the control API cannot be served at {address}: {source}")]
    Door {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The token's file cannot be used.
    #[error("the token file {} cannot be used: {reason}", path.display())]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another daemon answers on it.
    #[error("another daemon answers on {}", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// Nobody listens there.
    #[error("no daemon answers on {}", path.display())]
    NoDaemon {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, or what came over it is no answer.
    #[error("the daemon's answer cannot be read: {reason}")]
    Answer {
        /// Why.
        reason: String,
    },
    /// The daemon refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code word, as the program's own.
        code: String,
        /// Why.
        message: String,
    },
}

impl Error {
    /// The code word.
    pub fn code(&self) -> Code {
        match self {
            Error::Bind { .. } => Code::CannotCreate,
            Error::Door { .. } => Code::ResourceRefused,
            Error::Token { .. } => Code::BadConfig,
            Error::Taken { .. } => Code::Locked,
            Error::NoDaemon { .. } => Code::NoDaemon,
            Error::Answer { .. } => Code::Protocol,
            Error::Refused { code, .. } => {
                Code::ALL.iter().copied().find(|known| known.word() == code).unwrap_or(Code::Protocol)
            }
        }
    }
}
