//! Every bound of the protocol in one table; `proto/peer.md` repeats it for other implementations.

/// Bytes of a frame's header: kind and length.
pub const HEADER_BYTES: usize = 5;
/// Longest body of any control frame. A frame that could be longer is cut by the sender.
pub const CONTROL_BYTES_MAX: u32 = 1 << 20;
/// Longest body of the frames that hold a few numbers. Roomy, so that fields may be added.
pub const SMALL_BYTES_MAX: u32 = 1024;
/// Longest agent text, in bytes: it is printed.
pub const AGENT_BYTES_MAX: usize = 64;
/// Most pieces of a topic. An envelope of [`MANIFEST_BYTES_MAX`] has room for no more piece hashes than this.
pub const PIECE_COUNT_MAX: u32 = 1 << 21;
/// Longest Bitfield body: one bit a piece, and room for its other fields.
pub const BITFIELD_BYTES_MAX: u32 = PIECE_COUNT_MAX / 8 + 64;
/// Most pieces of one Have. News of more go as several frames.
pub const HAVE_COUNT_MAX: usize = 4096;
/// Longest Have body: five bytes a piece at worst.
pub const HAVE_BYTES_MAX: u32 = 24 << 10;
/// Most ranges of one Intent.
pub const INTENT_COUNT_MAX: usize = 1024;
/// Longest Intent body: ten bytes a range at worst.
pub const INTENT_BYTES_MAX: u32 = 12 << 10;
/// Longest lease, in milliseconds: ten minutes. A node that dies keeps others waiting no longer than this.
pub const LEASE_MS_MAX: u32 = 600_000;
/// Most members of one Members frame: hearsay is worth a few dials, not a table.
pub const MEMBERS_COUNT_MAX: usize = 64;
/// Longest Members body.
pub const MEMBERS_BYTES_MAX: u32 = 8 << 10;
/// Bytes of a rendezvous' scope.
pub const SCOPE_BYTES: usize = 32;
/// Longest Met body: members, and room for its other fields.
pub const MET_BYTES_MAX: u32 = MEMBERS_BYTES_MAX + 64;
/// Longest time for which a rendezvous may say that it tells a member on, in seconds: a day.
pub const MET_LEASE_SECONDS_MAX: u32 = 86_400;
/// Longest signed record of a member, in bytes: eight addresses, a signature, and room for more fields.
pub const RECORD_BYTES_MAX: usize = 512;
/// Most addresses of one record.
pub const RECORD_IPS_MAX: usize = 8;
/// Bytes of the word of a content that shares a line.
pub const SHARING_WORD_BYTES: usize = 8;
/// Most contents of one Sharing: what a node lacks beyond these has no further part of the line.
pub const SHARING_COUNT_MAX: usize = 4;
/// Bytes of a nonce and of a proof about a group secret.
pub const PROOF_BYTES: usize = 32;
/// Most proofs of one Proof frame: by the current secret, and by the next.
pub const PROOFS_MAX: usize = 2;
/// Longest binary peer id, in bytes.
pub const PEER_ID_BYTES_MAX: usize = 64;
/// Longest envelope that travels between peers: 64 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Most envelope bytes of one Manifest frame.
pub const MANIFEST_PART_BYTES_MAX: u32 = 256 << 10;
/// Longest Manifest body: a part, and room for its other fields.
pub const MANIFEST_BODY_BYTES_MAX: u32 = MANIFEST_PART_BYTES_MAX + 64;
/// Unit of verification within a piece, in bytes.
pub const BLOCK_BYTES: u32 = 1 << 20;
/// Most blocks of a piece, so most chaining values of a Piece frame.
pub const BLOCK_COUNT_MAX: u32 = 16;
/// Bytes of a Piece frame before its chaining values.
pub const PIECE_FIXED_BYTES: usize = 12;
/// Bytes of one chaining value.
pub const CHAINING_VALUE_BYTES: usize = 32;
/// Longest Piece body: 16 MiB of payload and the largest header.
pub const PIECE_BODY_BYTES_MAX: u32 = (16 << 20) + 12 + 16 * 32;

/// Bytes of a site's word in Hello: too many to meet by chance.
pub const SITE_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::layout;

    #[test]
    fn the_table_agrees_with_the_layout() {
        assert_eq!(u64::from(BLOCK_BYTES), layout::BLOCK_BYTES);
        assert_eq!(u64::from(BLOCK_BYTES) * u64::from(BLOCK_COUNT_MAX), layout::PIECE_BYTES_MAX);
        assert_eq!(u64::from(PIECE_COUNT_MAX), MANIFEST_BYTES_MAX / 32);
        for bound in [SMALL_BYTES_MAX, BITFIELD_BYTES_MAX, HAVE_BYTES_MAX, INTENT_BYTES_MAX, MET_BYTES_MAX] {
            assert!(bound <= CONTROL_BYTES_MAX);
        }
        let largest = PIECE_FIXED_BYTES + CHAINING_VALUE_BYTES * BLOCK_COUNT_MAX as usize;
        assert_eq!(u64::from(PIECE_BODY_BYTES_MAX), layout::PIECE_BYTES_MAX + largest as u64);
    }
}
