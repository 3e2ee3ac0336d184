//! Hashing: blocks to chaining values, those to piece hashes, those to the content id that `b3sum` prints.
//!
//! The only file that calls `blake3::hazmat`, which asserts on its arguments: every length and offset given to it comes
//! from a [`PieceLayout`], never from a message.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::content::hash::{ContentId, PieceHash};
use crate::content::layout::{BLOCK_BYTES, BlockIndex, ByteRange, PieceIndex, PieceLayout};

/// Chaining value of one block at its place; of a content of one block, the root. `None` outside the layout, or for
/// another number of bytes than the block has. One call hashes the whole block, by the calling thread.
pub fn hash_block(layout: &PieceLayout, piece: PieceIndex, block: BlockIndex, bytes: &[u8]) -> Option<[u8; 32]> {
    let range = layout.block(piece, block)?;
    if u64::try_from(bytes.len()).ok()? != range.length {
        return None;
    }
    if range.length == layout.length() {
        return Some(*blake3::hash(bytes).as_bytes());
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset(range.offset).update(bytes);
    Some(hasher.finalize_non_root())
}

/// Piece hash from the chaining values of the piece's blocks, in order. `None` outside the layout, or for another
/// number of values than the piece has blocks.
pub fn merge_blocks(layout: &PieceLayout, piece: PieceIndex, chaining_values: &[[u8; 32]]) -> Option<PieceHash> {
    let range = layout.piece(piece)?;
    if u32::try_from(chaining_values.len()).ok()? != layout.block_count(piece)? {
        return None;
    }
    let whole = layout.piece_count() == 1;
    merge(chaining_values.as_flattened(), range.length, BLOCK_BYTES, whole).map(PieceHash::new)
}

/// Content id from the piece hashes, 32 bytes each, in order. `None` for another number of them than the layout has.
pub fn merge_pieces(layout: &PieceLayout, piece_hashes: &[u8]) -> Option<ContentId> {
    if piece_hashes.len() != usize::try_from(layout.piece_count()).ok()?.checked_mul(32)? {
        return None;
    }
    if piece_hashes.is_empty() {
        return Some(ContentId::new(*blake3::hash(b"").as_bytes()));
    }
    merge(piece_hashes, layout.length(), layout.piece_bytes(), true).map(ContentId::new)
}

/// Merges the hashes of units into that of a subtree of `length` bytes, or of the whole where `root`. A single unit is
/// its own result. The depth is the logarithm of the count.
fn merge(hashes: &[u8], length: u64, unit: u64, root: bool) -> Option<[u8; 32]> {
    if let Ok(single) = hashes.try_into() {
        return Some(single);
    }
    // Two units at least: left_subtree_len's assertion (more than 1024 bytes) holds.
    if length <= unit || hashes.len() < 64 {
        return None;
    }
    let left_bytes = left_subtree_len(length);
    let (left, right) = hashes.split_at_checked(usize::try_from(left_bytes / unit).ok()?.checked_mul(32)?)?;
    let left = merge(left, left_bytes, unit, false)?;
    let right = merge(right, length.checked_sub(left_bytes)?, unit, false)?;
    Some(if root {
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    })
}

/// Collects the hashes of a file's blocks, in order, while it is published; the blocks themselves may be hashed by any
/// number of threads ([`hash_block`]).
#[derive(Debug, Clone)]
pub struct TreeHasher {
    layout: PieceLayout,
    /// Chaining values of the piece at hand; fewer than its blocks.
    blocks: Vec<[u8; 32]>,
    piece_hashes: Vec<u8>,
}

/// What [`TreeHasher`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHashes {
    /// BLAKE3 root.
    pub content_id: ContentId,
    /// 32 bytes a piece.
    pub piece_hashes: Vec<u8>,
}

impl TreeHasher {
    /// Nothing hashed yet of a file of this layout.
    pub fn new(layout: PieceLayout) -> Self {
        Self { layout, blocks: Vec::new(), piece_hashes: Vec::new() }
    }

    /// Takes the hash of the next block, as [`hash_block`] gave it. False if every block was there already.
    #[must_use]
    pub fn push(&mut self, block_hash: [u8; 32]) -> bool {
        let Ok(piece) = u32::try_from(self.piece_hashes.len() / 32) else { return false };
        let Some(block_count) = self.layout.block_count(PieceIndex(piece)) else { return false };
        self.blocks.push(block_hash);
        if self.blocks.len() as u64 == u64::from(block_count) {
            let Some(hash) = merge_blocks(&self.layout, PieceIndex(piece), &self.blocks) else { return false };
            self.piece_hashes.extend_from_slice(hash.as_bytes());
            self.blocks.clear();
        }
        true
    }

    /// The result, once every block was taken.
    pub fn finish(self) -> Option<FileHashes> {
        let content_id = merge_pieces(&self.layout, &self.piece_hashes)?;
        Some(FileHashes { content_id, piece_hashes: self.piece_hashes })
    }
}

/// Every block of a layout with its place, in order.
pub fn blocks(layout: &PieceLayout) -> impl Iterator<Item = (PieceIndex, BlockIndex, ByteRange)> + '_ {
    (0..layout.piece_count()).map(PieceIndex).flat_map(move |piece| {
        let count = layout.block_count(piece).unwrap_or(0);
        (0..count).map(BlockIndex).filter_map(move |block| Some((piece, block, layout.block(piece, block)?)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::layout::test_layout;

    const MIB: usize = 1 << 20;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    fn hash_file(layout: PieceLayout, file: &[u8]) -> Option<FileHashes> {
        let mut hasher = TreeHasher::new(layout);
        for (piece, block, range) in blocks(&layout) {
            let block = hash_block(&layout, piece, block, &file[range.offset as usize..range.end() as usize])?;
            assert!(hasher.push(block));
        }
        assert!(!hasher.push([0; 32]));
        hasher.finish()
    }

    #[test]
    fn content_ids_are_what_b3sum_prints() {
        let file = bytes(5 * MIB + 7);
        for length in
            [0, 1, 1023, 1024, 1025, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB - 1, 4 * MIB, 4 * MIB + 1, 5 * MIB + 7]
        {
            let expected = ContentId::new(*blake3::hash(&file[..length]).as_bytes());
            let layout = PieceLayout::new(length as u64).expect("short");
            let hashes = hash_file(layout, &file[..length]).expect("whole");
            assert_eq!(hashes.content_id, expected, "{length}");
            // Larger pieces, as long contents have them, down to one piece of several blocks.
            for piece_bytes in [2, 4, 8] {
                let layout = test_layout(length as u64, piece_bytes * MIB as u64);
                let hashes = hash_file(layout, &file[..length]).expect("whole");
                assert_eq!(hashes.content_id, expected, "{length} in pieces of {piece_bytes} MiB");
                assert_eq!(hashes.piece_hashes.len(), 32 * length.div_ceil(piece_bytes as usize * MIB));
            }
        }
    }

    #[test]
    fn wrong_lengths_and_counts_have_no_hash() {
        let layout = PieceLayout::new(MIB as u64 + 3).expect("short");
        let file = bytes(MIB + 3);
        assert!(hash_block(&layout, PieceIndex(0), BlockIndex(0), &file[..MIB - 1]).is_none());
        assert!(hash_block(&layout, PieceIndex(1), BlockIndex(0), &[]).is_none());
        assert!(hash_block(&layout, PieceIndex(1), BlockIndex(1), &[1]).is_none());
        assert!(hash_block(&layout, PieceIndex(2), BlockIndex(0), &[1]).is_none());
        assert!(merge_pieces(&layout, &[0; 32]).is_none());
        assert!(merge_pieces(&layout, &[0; 63]).is_none());
        assert!(merge_pieces(&layout, &[0; 96]).is_none());
        assert!(merge_blocks(&layout, PieceIndex(0), &[]).is_none());
        assert!(merge_blocks(&layout, PieceIndex(0), &[[0; 32]; 2]).is_none());
        assert!(TreeHasher::new(layout).finish().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_length_in_any_piece_size_merges_to_the_root(length in 0usize..6 * MIB, piece_bytes in 0u32..4) {
            let file = bytes(length);
            let hashes = hash_file(test_layout(length as u64, (MIB as u64) << piece_bytes), &file);
            prop_assert_eq!(hashes.map(|hashes| *hashes.content_id.as_bytes()), Some(*blake3::hash(&file).as_bytes()));
        }

        #[test]
        fn any_layout_with_any_number_of_hashes_is_merged_or_refused(length in 0u64..1 << 41, count in 0usize..70) {
            if let Ok(layout) = PieceLayout::new(length) {
                let _ = merge_pieces(&layout, &vec![1; 32 * count]);
                let _ = merge_blocks(&layout, PieceIndex(0), &vec![[1; 32]; count]);
                let exact = vec![1; 32 * layout.piece_count() as usize];
                prop_assert!(merge_pieces(&layout, &exact).is_some());
            }
        }
    }
}
