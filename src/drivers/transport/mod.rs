//! Connections to peers, over one TCP port: dial, accept, prove who is at the other end, hand over a stream of bytes.
//!
//! It never reads a frame, keeps no list of peers and chooses nobody: what comes out is a [`Channel`], given to
//! [`Sessions`] on the data thread where it will live. Two protocols share the port, told apart by their first byte: our
//! TLS (the data plane, `tls_stream`) and libp2p (the control plane, `control`), which carries the same frames on a
//! stream where the data plane cannot go, and which finds and reaches peers on the Internet (`far`). Read `endpoint`
//! first, then `gate` for who is let in, `limits` for the numbers.

mod address;
mod behaviour;
pub mod channel;
mod control;
mod dial;
pub mod endpoint;
pub mod error;
pub mod far;
mod far_dht;
mod far_task;
mod futures_io;
mod gate;
mod guard;
pub mod identity;
pub mod limits;
mod links;
mod listener;
mod meter;
mod plane;
mod provider_store;
mod quic_gate;
mod quiet;
mod security;
mod shared_port;
mod tap;
pub mod target;
mod threads;
mod tls_buffers;
mod tls_config;
mod tls_exporter;
mod tls_handshake;
mod tls_records;
pub mod tls_stream;

#[cfg(test)]
mod tests;

pub use channel::{Channel, Duplex, Path, PathPreference, Sessions};
pub use endpoint::{Endpoint, Options};
pub use error::{Blame, Error};
pub use far::{Callback, Far, FarReport, Provider, Reach};
pub use identity::Identity;
pub use libp2p::{Multiaddr, PeerId};
pub use limits::Limits;
pub use meter::Meter;
pub use tap::{Incoming, Tap};
pub use target::{Place, Target};
#[doc(hidden)]
pub use tls_config::peer_of_certificate;
#[doc(hidden)]
pub use tls_records::hear_opened;
