//! The Piece frame: the one frame that is not protobuf, so that payload goes from socket to pooled buffer by itself.
//!
//! ```text
//! u32 handle | u32 piece | u8 first block | u8 number of chaining values | u16 zero | 32 bytes a chaining value | payload
//! ```
//! All numbers big-endian. The payload runs from the first block to the end of the piece; its length is what the frame's
//! length leaves.

use crate::wire::error::Error;
use crate::wire::frame::{FrameHeader, Kind};
use crate::wire::limits::*;

/// The first twelve bytes of a Piece frame's body, checked against the frame's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceFixed {
    /// The receiver's number for the topic.
    pub handle: u32,
    /// Piece within the topic.
    pub piece: u32,
    /// First block that the payload holds.
    pub first_block: u32,
    /// Chaining values that follow: 0 for a piece of one block, else one a block of the whole piece.
    pub chaining_value_count: u32,
    /// Payload bytes after them; at least 1.
    pub payload_bytes: u32,
}

impl PieceFixed {
    /// Reads the fixed part of a frame whose body has `length` bytes.
    ///
    /// # Errors
    /// [`Error::Reserved`], [`Error::PieceShape`] where first block, chaining values and payload do not fit each other.
    pub fn decode(bytes: &[u8; PIECE_FIXED_BYTES], length: u32) -> Result<Self, Error> {
        let [h0, h1, h2, h3, p0, p1, p2, p3, first_block, count, r0, r1] = *bytes;
        let reserved = u16::from_be_bytes([r0, r1]);
        if reserved != 0 {
            return Err(Error::Reserved { found: reserved });
        }
        let (first_block, count) = (u32::from(first_block), u32::from(count));
        // Both are below 256, so the sum is below 2^14.
        let before = PIECE_FIXED_BYTES as u32 + count * CHAINING_VALUE_BYTES as u32;
        let payload_bytes = length.saturating_sub(before);
        check_shape(first_block, count, payload_bytes)?;
        Ok(Self {
            handle: u32::from_be_bytes([h0, h1, h2, h3]),
            piece: u32::from_be_bytes([p0, p1, p2, p3]),
            first_block,
            chaining_value_count: count,
            payload_bytes,
        })
    }

    /// Bytes of the chaining values that follow; at most 512.
    pub fn chaining_value_bytes(&self) -> usize {
        self.chaining_value_count as usize * CHAINING_VALUE_BYTES
    }

    /// The whole header, once the chaining values are read.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of bytes than [`PieceFixed::chaining_value_bytes`].
    pub fn with_chaining_values(self, bytes: &[u8]) -> Result<PieceHeader, Error> {
        if bytes.len() != self.chaining_value_bytes() {
            let expected = "32 for each announced value";
            return Err(Error::Length { field: "Piece.chaining_values", expected, found: bytes.len() });
        }
        let (values, _) = bytes.as_chunks::<CHAINING_VALUE_BYTES>();
        Ok(PieceHeader {
            handle: self.handle,
            piece: self.piece,
            first_block: self.first_block,
            chaining_values: values.to_vec(),
            payload_bytes: self.payload_bytes,
        })
    }
}

/// All of a Piece frame but its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceHeader {
    /// The receiver's number for the topic.
    pub handle: u32,
    /// Piece within the topic.
    pub piece: u32,
    /// First block that the payload holds; below 16.
    pub first_block: u32,
    /// BLAKE3 chaining values of all blocks of the piece, where it has more than one; they merge to the piece hash.
    pub chaining_values: Vec<[u8; CHAINING_VALUE_BYTES]>,
    /// Bytes from the first block to the end of the piece.
    pub payload_bytes: u32,
}

impl PieceHeader {
    /// Appends the frame header and all of the body but the payload, which the caller sends next.
    ///
    /// # Errors
    /// [`Error::PieceShape`] where the parts do not fit each other; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let count = u8::try_from(self.chaining_values.len()).unwrap_or(u8::MAX);
        let first_block = u8::try_from(self.first_block).unwrap_or(u8::MAX);
        check_shape(u32::from(first_block), u32::from(count), self.payload_bytes)?;
        let before = PIECE_FIXED_BYTES as u32 + u32::from(count) * CHAINING_VALUE_BYTES as u32;
        let length = before.saturating_add(self.payload_bytes);
        out.reserve(HEADER_BYTES.saturating_add(before as usize));
        out.extend_from_slice(&FrameHeader { kind: Kind::Piece, length }.encode());
        out.extend_from_slice(&self.handle.to_be_bytes());
        out.extend_from_slice(&self.piece.to_be_bytes());
        out.extend_from_slice(&[first_block, count, 0, 0]);
        out.extend_from_slice(self.chaining_values.as_flattened());
        Ok(())
    }
}

/// A piece of one block has no chaining values and is sent whole; a longer one has one a block, and its payload runs
/// from the first block to somewhere in the last.
fn check_shape(first_block: u32, count: u32, payload_bytes: u32) -> Result<(), Error> {
    let refuse = Error::PieceShape { first_block, chaining_values: count, payload_bytes };
    if count == 1 || count > BLOCK_COUNT_MAX {
        return Err(refuse);
    }
    let Some(blocks) = count.max(1).checked_sub(first_block) else { return Err(refuse) };
    if blocks == 0 || payload_bytes.div_ceil(BLOCK_BYTES) != blocks {
        return Err(refuse);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::{Front, front};

    fn header(first_block: u32, count: usize, payload_bytes: u32) -> PieceHeader {
        PieceHeader { handle: 7, piece: 9, first_block, chaining_values: vec![[3; 32]; count], payload_bytes }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        const MIB: u32 = 1 << 20;
        for (first_block, count, payload_bytes, fits) in [
            (0, 0, 1, true),
            (0, 0, MIB, true),
            (0, 0, 0, false),
            (0, 0, MIB + 1, false),
            (1, 0, 1, false),
            (0, 1, 5, false),
            (0, 2, MIB + 1, true),
            (0, 2, MIB, false),
            (1, 2, 1, true),
            (2, 2, 1, false),
            (0, 16, 16 * MIB, true),
            (15, 16, MIB, true),
            (15, 16, MIB + 1, false),
            (0, 17, 16 * MIB + 1, false),
            (300, 0, 1, false),
        ] {
            let mut out = Vec::new();
            let encoded = header(first_block, count, payload_bytes).encode(&mut out);
            assert_eq!(encoded.is_ok(), fits, "{first_block} {count} {payload_bytes}");
            assert_eq!(out.is_empty(), !fits);
        }
    }

    #[test]
    fn a_body_shorter_than_its_header_is_refused() {
        let mut fixed = [0; PIECE_FIXED_BYTES];
        for length in 0..=PIECE_FIXED_BYTES as u32 {
            assert!(PieceFixed::decode(&fixed, length).is_err(), "{length}");
        }
        fixed[11] = 1;
        assert_eq!(PieceFixed::decode(&fixed, 13), Err(Error::Reserved { found: 1 }));
    }

    proptest! {
        #[test]
        fn a_header_comes_back_as_it_went(
            handle: u32, piece: u32, count in 2u32..=16, skip in 0u32..16, tail in 1u32..=1 << 20, value: [u8; 32],
        ) {
            let first_block = skip % count;
            let payload_bytes = (count - first_block - 1) * BLOCK_BYTES + tail;
            let sent = PieceHeader { handle, piece, first_block, chaining_values: vec![value; count as usize], payload_bytes };
            let mut out = Vec::new();
            prop_assert_eq!(sent.encode(&mut out), Ok(()));
            for cut in 0..out.len() {
                prop_assert!(matches!(front(&out[..cut]), Ok(Front::NeedMore(_))));
            }
            prop_assert_eq!(front(&out), Ok(Front::Piece(sent, out.len())));
        }
    }
}
