//! What peers say to each other: frames and messages of the data protocol, version 1.
//!
//! Pure: bytes in, values out. It never reads a socket, keeps no state between frames and decides nothing; sessions are
//! the business of `services/node`. `proto/peer.md` is the contract, written for people who have only that; read
//! `frame` first, then `piece` for the one frame that is not protobuf.

pub mod error;
pub mod frame;
pub mod limits;
pub mod meeting;
pub mod member;
pub mod message;
pub mod piece;
pub mod record;
pub mod sharing;
pub mod version;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use frame::{FrameHeader, Kind};
pub use meeting::scope_word;
pub use member::Member;
pub use message::{Frame, GoodbyeReason, RejectReason, site_word};
pub use piece::{PieceFixed, PieceHeader};
pub use record::{Claim, SignedRecord};
pub use sharing::{SharingWord, line_divisor, sharing_word};

/// Generated from `proto/peer.proto`; private, so that what leaves this room has been checked.
mod schema {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/piecework.peer.v1.rs"));
}
