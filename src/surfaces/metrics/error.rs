//! What can go wrong with the metrics' listener.

use std::net::SocketAddr;

use crate::content::code::Code;

/// A failure of the listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be had.
    #[error("metrics cannot be served at {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    /// Its code word.
    pub fn code(&self) -> Code {
        Code::ResourceRefused
    }
}
