//! The framing: one byte of kind, four of length (big-endian), then the body. Lengths are bounded by kind before a byte
//! of the body is read or room for it is made.

use crate::wire::error::Error;
use crate::wire::limits::*;
use crate::wire::message::Frame;
use crate::wire::piece::{PieceFixed, PieceHeader};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $limit:expr;)*) => {
        /// Kind of a frame; the number is its first byte.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind of version 1.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The kind of a first byte.
            ///
            /// # Errors
            /// [`Error::UnknownKind`].
            pub const fn from_byte(byte: u8) -> Result<Kind, Error> {
                match byte { $($number => Ok(Kind::$name),)* found => Err(Error::UnknownKind { found }) }
            }

            /// Longest body, in bytes.
            pub const fn body_bytes_max(self) -> u32 {
                match self { $(Kind::$name => $limit,)* }
            }

            /// Its name, as `proto/peer.md` has it.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name),)* }
            }
        }
    };
}

// 17 is kept for withdrawals.
kinds! {
    /// First frame of each side.
    Hello = 1, SMALL_BYTES_MAX;
    /// A topic, asked for or answered.
    Open = 2, SMALL_BYTES_MAX;
    /// The end of a session.
    Close = 3, SMALL_BYTES_MAX;
    /// All pieces held.
    Bitfield = 4, BITFIELD_BYTES_MAX;
    /// More pieces held.
    Have = 5, HAVE_BYTES_MAX;
    /// A piece no longer held.
    Lost = 6, SMALL_BYTES_MAX;
    /// Whether the sender wants what the receiver holds.
    Interested = 7, SMALL_BYTES_MAX;
    /// Whether the sender gives nothing now.
    Choke = 8, SMALL_BYTES_MAX;
    /// A piece wanted.
    Request = 9, SMALL_BYTES_MAX;
    /// A piece no longer wanted.
    Cancel = 10, SMALL_BYTES_MAX;
    /// A refusal.
    Reject = 11, SMALL_BYTES_MAX;
    /// Pieces that the sender fetches from the origin.
    Intent = 12, INTENT_BYTES_MAX;
    /// Other members of the swarm.
    Members = 13, MEMBERS_BYTES_MAX;
    /// A part of the envelope wanted.
    GetManifest = 14, SMALL_BYTES_MAX;
    /// A part of the envelope.
    Manifest = 15, MANIFEST_BODY_BYTES_MAX;
    /// Payload: raw, not protobuf.
    Piece = 16, PIECE_BODY_BYTES_MAX;
    /// Last frame of a side.
    Goodbye = 18, SMALL_BYTES_MAX;
    /// That the sender knows the group's secret.
    Proof = 19, SMALL_BYTES_MAX;
    /// What the sender's machine can bear; only for sides that announced `Features::CONDITION`.
    Condition = 20, SMALL_BYTES_MAX;
    /// Who else is of a scope; only for sides that announced `Features::RENDEZVOUS`.
    Meet = 21, SMALL_BYTES_MAX;
    /// Some of them.
    Met = 22, MET_BYTES_MAX;
    /// What the sender shares its site's line for; only for sides that announced `Features::SHARING`.
    Sharing = 23, SMALL_BYTES_MAX;
}

/// The first five bytes of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: Kind,
    /// Bytes of the body; within [`Kind::body_bytes_max`].
    pub length: u32,
}

impl FrameHeader {
    /// Reads and bounds a header.
    ///
    /// # Errors
    /// [`Error::UnknownKind`], [`Error::TooLong`].
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, Error> {
        let [kind, a, b, c, d] = bytes;
        let kind = Kind::from_byte(kind)?;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length > kind.body_bytes_max() {
            return Err(Error::TooLong { kind: kind.name(), limit: kind.body_bytes_max(), found: length });
        }
        Ok(Self { kind, length })
    }

    /// The five bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.length.to_be_bytes();
        [self.kind as u8, a, b, c, d]
    }
}

/// What stands at the front of some bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Front {
    /// Not enough to tell; the whole needs at least so many bytes.
    NeedMore(usize),
    /// A control frame, and the bytes it took.
    Control(Frame, usize),
    /// A piece header, and the bytes before the payload.
    Piece(PieceHeader, usize),
}

/// Reads what stands at the front of `bytes`: for tests, tools and readers that buffer. The node's reader takes the same
/// steps from a stream, so that payload never lies in a frame buffer.
///
/// # Errors
/// As [`FrameHeader::decode`], [`Frame::decode`] and [`PieceFixed::decode`].
pub fn front(bytes: &[u8]) -> Result<Front, Error> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        // A wrong kind is known from its first byte.
        if let Some(kind) = bytes.first() {
            Kind::from_byte(*kind)?;
        }
        return Ok(Front::NeedMore(HEADER_BYTES));
    };
    let header = FrameHeader::decode(*header)?;
    if header.kind != Kind::Piece {
        let length = header.length as usize;
        let Some(body) = rest.get(..length) else { return Ok(Front::NeedMore(HEADER_BYTES.saturating_add(length))) };
        return Ok(Front::Control(Frame::decode(header.kind, body)?, HEADER_BYTES.saturating_add(length)));
    }
    let Some((fixed, rest)) = rest.split_first_chunk::<PIECE_FIXED_BYTES>() else {
        return Ok(Front::NeedMore(HEADER_BYTES + PIECE_FIXED_BYTES));
    };
    let fixed = PieceFixed::decode(fixed, header.length)?;
    let before = (HEADER_BYTES + PIECE_FIXED_BYTES).saturating_add(fixed.chaining_value_bytes());
    let Some(values) = rest.get(..fixed.chaining_value_bytes()) else { return Ok(Front::NeedMore(before)) };
    Ok(Front::Piece(fixed.with_chaining_values(values)?, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_its_kind_is_refused_before_the_body() {
        for kind in Kind::ALL {
            let most = kind.body_bytes_max();
            let header = FrameHeader { kind: *kind, length: most };
            assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
            for length in [most + 1, 1 << 31, u32::MAX] {
                let refused = FrameHeader::decode(FrameHeader { kind: *kind, length }.encode());
                assert!(matches!(refused, Err(Error::TooLong { found, .. }) if found == length), "{kind:?}");
            }
        }
    }

    #[test]
    fn kinds_of_no_meaning_are_refused() {
        for byte in 0..=u8::MAX {
            let known = Kind::ALL.iter().any(|kind| *kind as u8 == byte);
            assert_eq!(Kind::from_byte(byte).is_ok(), known, "{byte}");
            assert_eq!(front(&[byte]).is_ok(), known, "{byte}");
        }
    }
}
