//! From bytes to proven bytes: the only makers of a [`VerifiedBlock`].
//!
//! A piece of one block is proven by its hash alone. One of several is proven either block by block, with the chaining
//! values of its blocks (a [`PieceProof`], for peers that send them), or whole (for sources that send bytes only).

use std::fmt;

use crate::content::hash::ManifestId;
use crate::content::layout::{BlockIndex, FilePlace, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::tree;

/// Bytes that are a manifest's, at their place. `B` is the buffer they lie in.
pub struct VerifiedBlock<B> {
    manifest: ManifestId,
    file: u32,
    offset: u64,
    piece: PieceIndex,
    block: BlockIndex,
    chaining_value: [u8; 32],
    bytes: B,
}

impl<B: AsRef<[u8]>> VerifiedBlock<B> {
    /// The manifest that proves them.
    pub fn manifest(&self) -> ManifestId {
        self.manifest
    }

    /// Index into the manifest's files.
    pub fn file(&self) -> u32 {
        self.file
    }

    /// First byte within the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Flat piece.
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Block within the piece.
    pub fn block(&self) -> BlockIndex {
        self.block
    }

    /// Chaining value of the bytes at their place; of a piece of one block, its hash.
    pub fn chaining_value(&self) -> &[u8; 32] {
        &self.chaining_value
    }

    /// The bytes, as many as the block has.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The buffer, no longer vouched for.
    pub fn into_bytes(self) -> B {
        self.bytes
    }
}

impl<B> fmt::Debug for VerifiedBlock<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedBlock(piece {}, block {})", self.piece.0, self.block.0)
    }
}

/// Chaining values of a piece's blocks that merge to its piece hash; good for one piece of one manifest.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceProof {
    manifest: ManifestId,
    piece: PieceIndex,
    chaining_values: Vec<[u8; 32]>,
}

impl PieceProof {
    /// The flat piece.
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// One value a block, in order.
    pub fn chaining_values(&self) -> &[[u8; 32]] {
        &self.chaining_values
    }
}

impl fmt::Debug for PieceProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceProof(piece {}, {} blocks)", self.piece.0, self.chaining_values.len())
    }
}

/// Chaining values that prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// No such piece.
    #[error("there is no piece {}", piece.0)]
    NoSuchPiece {
        /// The piece asked about.
        piece: PieceIndex,
    },
    /// Another number of values than blocks.
    #[error("piece {} has {expected} blocks, found {found} chaining values", piece.0)]
    WrongCount {
        /// The piece.
        piece: PieceIndex,
        /// Its blocks.
        expected: u32,
        /// Values found.
        found: usize,
    },
    /// They merge to another hash than the piece's.
    #[error("the chaining values do not merge to the hash of piece {}", piece.0)]
    DoesNotMerge {
        /// The piece.
        piece: PieceIndex,
    },
}

/// Bytes that are not the block they were said to be; the buffer comes back.
pub struct Mismatch<B> {
    /// The buffer.
    pub bytes: B,
    /// What is wrong.
    pub reason: MismatchReason,
}

/// What is wrong with bytes, or with the question about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MismatchReason {
    /// No such piece or block.
    #[error("there is no such block")]
    NoSuchBlock,
    /// Another number of bytes than the block has.
    #[error("the block has {expected} bytes, found {found}")]
    WrongLength {
        /// Bytes of the block.
        expected: u64,
        /// Bytes found.
        found: usize,
    },
    /// Another hash.
    #[error("the hash differs")]
    WrongHash,
    /// A block of a larger piece cannot be proven without its [`PieceProof`], or one of another piece was given.
    #[error("the piece's proof is missing")]
    NoProof,
}

impl<B> fmt::Debug for Mismatch<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mismatch({:?})", self.reason)
    }
}

impl<B> fmt::Display for Mismatch<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<B> std::error::Error for Mismatch<B> {}

impl Manifest {
    /// Proves one block of a flat piece. `proof` is needed for pieces of several blocks only.
    ///
    /// # Errors
    /// [`Mismatch`] with the buffer and the reason.
    pub fn verify<B: AsRef<[u8]>>(
        &self,
        piece: PieceIndex,
        block: BlockIndex,
        proof: Option<&PieceProof>,
        bytes: B,
    ) -> Result<VerifiedBlock<B>, Mismatch<B>> {
        match self.is_block(piece, block, proof, bytes.as_ref()) {
            Ok((place, offset, chaining_value)) => {
                let (manifest, file) = (self.id(), place.file);
                Ok(VerifiedBlock { manifest, file, offset, piece, block, chaining_value, bytes })
            }
            Err(reason) => Err(Mismatch { bytes, reason }),
        }
    }

    fn is_block(
        &self,
        piece: PieceIndex,
        block: BlockIndex,
        proof: Option<&PieceProof>,
        bytes: &[u8],
    ) -> Result<(&FilePlace, u64, [u8; 32]), MismatchReason> {
        let (place, within) = self.layout().locate(piece).ok_or(MismatchReason::NoSuchBlock)?;
        let range = place.layout.block(within, block).ok_or(MismatchReason::NoSuchBlock)?;
        let several = place.layout.block_count(within).is_some_and(|count| count > 1);
        let expected = if several {
            let proof = proof.filter(|proof| proof.manifest == self.id() && proof.piece == piece);
            let proof = proof.ok_or(MismatchReason::NoProof)?;
            usize::try_from(block.0).ok().and_then(|block| proof.chaining_values.get(block)).copied()
        } else {
            self.piece_hash(piece).map(|hash| *hash.as_bytes())
        };
        let wrong_length = MismatchReason::WrongLength { expected: range.length, found: bytes.len() };
        let found = tree::hash_block(&place.layout, within, block, bytes).ok_or(wrong_length)?;
        if expected != Some(found) {
            return Err(MismatchReason::WrongHash);
        }
        Ok((place, range.offset, found))
    }

    /// Takes the chaining values of a flat piece's blocks, in order, if they merge to its hash.
    ///
    /// # Errors
    /// [`ProofError`]; nothing of the values is to be believed then.
    pub fn prove(&self, piece: PieceIndex, chaining_values: &[[u8; 32]]) -> Result<PieceProof, ProofError> {
        let (place, within) = self.layout().locate(piece).ok_or(ProofError::NoSuchPiece { piece })?;
        let expected = place.layout.block_count(within).ok_or(ProofError::NoSuchPiece { piece })?;
        let merged = tree::merge_blocks(&place.layout, within, chaining_values);
        let found = chaining_values.len();
        let merged = merged.ok_or(ProofError::WrongCount { piece, expected, found })?;
        if self.piece_hash(piece) != Some(merged) {
            return Err(ProofError::DoesNotMerge { piece });
        }
        Ok(PieceProof { manifest: self.id(), piece, chaining_values: chaining_values.to_vec() })
    }

    /// Proves all blocks of a flat piece at once, for sources that send no chaining values.
    ///
    /// # Errors
    /// The buffers, if there are more or fewer than blocks, or any of them is wrong: which one cannot be said.
    pub fn verify_piece<B: AsRef<[u8]>>(
        &self,
        piece: PieceIndex,
        blocks: Vec<B>,
    ) -> Result<Vec<VerifiedBlock<B>>, Vec<B>> {
        let value = |(block, bytes): (u32, &B)| self.block_chaining_value(piece, BlockIndex(block), bytes.as_ref());
        let values: Option<Vec<_>> = (0..).zip(&blocks).map(value).collect();
        let Some(proof) = values.and_then(|values| self.prove(piece, &values).ok()) else { return Err(blocks) };
        let Some((place, within)) = self.layout().locate(piece) else { return Err(blocks) };
        let (manifest, file) = (self.id(), place.file);
        let places: Option<Vec<_>> = (0..)
            .map(BlockIndex)
            .take(blocks.len())
            .map(|block| Some((block, place.layout.block(within, block)?.offset)))
            .collect();
        let Some(places) = places else { return Err(blocks) };
        let proven = places.into_iter().zip(proof.chaining_values).zip(blocks);
        Ok(proven
            .map(|(((block, offset), chaining_value), bytes)| VerifiedBlock {
                manifest,
                file,
                offset,
                piece,
                block,
                chaining_value,
                bytes,
            })
            .collect())
    }

    /// Chaining value of a block's bytes at its place, for a server that must send those of a larger piece. `None`
    /// outside, or for another number of bytes. Says nothing about whether the bytes are right; `prove` does.
    pub fn block_chaining_value(&self, piece: PieceIndex, block: BlockIndex, bytes: &[u8]) -> Option<[u8; 32]> {
        let (place, within) = self.layout().locate(piece)?;
        tree::hash_block(&place.layout, within, block, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::build::ManifestBuilder;
    use crate::content::build::samples::{counting, hashed, listed};
    use crate::content::layout::{PieceLayout, test_layout};

    const MIB: usize = 1 << 20;

    /// A manifest of one file in pieces of `piece_mib`, with the file.
    fn sample(length: usize, piece_mib: u64) -> (Manifest, Vec<u8>) {
        let file = counting(length);
        let layout = test_layout(length as u64, piece_mib << 20);
        (Manifest::test_with_layout(layout, &hashed(&layout, &file)), file)
    }

    fn values(manifest: &Manifest, piece: PieceIndex, file: &[u8]) -> Vec<[u8; 32]> {
        let layout = manifest.files()[0].layout;
        let block = |block| {
            let range = layout.block(piece, block)?;
            manifest.block_chaining_value(piece, block, &file[range.offset as usize..range.end() as usize])
        };
        (0..).map(BlockIndex).map_while(block).collect()
    }

    fn reason<B>(result: Result<VerifiedBlock<B>, Mismatch<B>>) -> MismatchReason {
        result.map(|_| ()).expect_err("a mismatch").reason
    }

    #[test]
    fn small_pieces_prove_themselves() {
        let (one, two) = (counting(MIB + 5), b"two".to_vec());
        let manifest =
            ManifestBuilder::new("n").file(listed("one", &one)).file(listed("empty", b"")).file(listed("two", &two));
        let manifest = manifest.build().expect("valid");
        let block = BlockIndex(0);
        for (piece, file, offset, bytes) in
            [(0, 0, 0, &one[..MIB]), (1, 0, MIB as u64, &one[MIB..]), (2, 2, 0, &two[..])]
        {
            let piece = PieceIndex(piece);
            let verified = manifest.verify(piece, block, None, bytes).expect("right bytes");
            assert_eq!(
                (verified.file(), verified.offset(), verified.piece(), verified.block()),
                (file, offset, piece, block)
            );
            assert_eq!((verified.manifest(), verified.bytes()), (manifest.id(), bytes));
            assert_eq!(verified.into_bytes(), bytes);
            let mut wrong = bytes.to_vec();
            wrong[0] ^= 1;
            assert_eq!(reason(manifest.verify(piece, block, None, wrong)), MismatchReason::WrongHash);
            let shorter = &bytes[1..];
            let expected = MismatchReason::WrongLength { expected: bytes.len() as u64, found: shorter.len() };
            assert_eq!(reason(manifest.verify(piece, block, None, shorter)), expected);
            assert_eq!(reason(manifest.verify(piece, BlockIndex(1), None, bytes)), MismatchReason::NoSuchBlock);
        }
        assert_eq!(reason(manifest.verify(PieceIndex(3), block, None, b"")), MismatchReason::NoSuchBlock);
        // Equal bytes at another place are other bytes.
        assert_eq!(reason(manifest.verify(PieceIndex(0), block, None, vec![0; MIB])), MismatchReason::WrongHash);
    }

    #[test]
    fn the_buffer_of_a_mismatch_comes_back() {
        let (manifest, _) = sample(3, 1);
        let back = manifest.verify(PieceIndex(0), BlockIndex(0), None, vec![9, 9, 9]).expect_err("wrong bytes");
        assert_eq!(back.bytes, [9, 9, 9]);
    }

    #[test]
    fn larger_pieces_are_proven_block_by_block() {
        // The last case: one piece of several blocks, whose hash is the root.
        for (length, piece_mib) in [(9 * MIB + 3, 4), (8 * MIB, 2), (2 * MIB + 1, 2), (3 * MIB + 1, 4)] {
            let (manifest, file) = sample(length, piece_mib);
            let layout = manifest.files()[0].layout;
            for piece in (0..layout.piece_count()).map(PieceIndex) {
                let values = values(&manifest, piece, &file);
                let proof = manifest.prove(piece, &values).expect("the file's own values");
                assert_eq!((proof.piece(), proof.chaining_values()), (piece, &values[..]));
                for (block, value) in (0..).map(BlockIndex).zip(&values) {
                    let range = layout.block(piece, block).expect("inside");
                    let bytes = &file[range.offset as usize..range.end() as usize];
                    let verified = manifest.verify(piece, block, Some(&proof), bytes).expect("right bytes");
                    assert_eq!((verified.offset(), verified.bytes()), (range.offset, bytes));
                    let mut wrong = bytes.to_vec();
                    wrong[bytes.len() - 1] ^= 0x80;
                    assert_eq!(reason(manifest.verify(piece, block, Some(&proof), wrong)), MismatchReason::WrongHash);
                    if values.len() > 1 {
                        assert_eq!(reason(manifest.verify(piece, block, None, bytes)), MismatchReason::NoProof);
                    }
                    let mut liar = values.clone();
                    liar[block.0 as usize] = value.map(|byte| !byte);
                    assert_eq!(manifest.prove(piece, &liar), Err(ProofError::DoesNotMerge { piece }));
                }
                let (expected, found) = (values.len() as u32, values.len() + 1);
                let more = [&values[..], &[[0; 32]]].concat();
                assert_eq!(manifest.prove(piece, &more), Err(ProofError::WrongCount { piece, expected, found }));
                assert!(manifest.prove(piece, &[]).is_err());
            }
        }
    }

    #[test]
    fn a_proof_is_good_for_its_own_piece_and_manifest_only() {
        let (manifest, file) = sample(8 * MIB, 4);
        let (other, other_file) = sample(8 * MIB - 1, 4);
        let proof = manifest.prove(PieceIndex(0), &values(&manifest, PieceIndex(0), &file)).expect("right");
        let bytes = &file[4 * MIB..5 * MIB];
        let block = BlockIndex(0);
        assert_eq!(reason(manifest.verify(PieceIndex(1), block, Some(&proof), bytes)), MismatchReason::NoProof);
        assert_eq!(
            reason(other.verify(PieceIndex(0), block, Some(&proof), &other_file[..MIB])),
            MismatchReason::NoProof
        );
        assert!(manifest.prove(PieceIndex(1), proof.chaining_values()).is_err());
        assert!(manifest.prove(PieceIndex(2), proof.chaining_values()).is_err());
    }

    #[test]
    fn whole_pieces_need_no_chaining_values() {
        for (length, piece_mib) in [(9 * MIB + 3, 4), (3 * MIB + 1, 4), (MIB + 1, 1)] {
            let (manifest, file) = sample(length, piece_mib);
            let layout = manifest.files()[0].layout;
            for piece in (0..layout.piece_count()).map(PieceIndex) {
                let range = layout.piece(piece).expect("inside");
                let bytes = &file[range.offset as usize..range.end() as usize];
                let blocks: Vec<&[u8]> = bytes.chunks(MIB).collect();
                let verified = manifest.verify_piece(piece, blocks.clone()).expect("right bytes");
                assert_eq!(verified.len(), blocks.len());
                assert_eq!(verified.iter().map(|block| block.bytes()).collect::<Vec<_>>().concat(), bytes);
                assert_eq!(verified.last().map(|block| block.offset() + block.bytes().len() as u64), Some(range.end()));
                assert_eq!(manifest.verify_piece(piece, blocks[1..].to_vec()).map(|_| ()), Err(blocks[1..].to_vec()));
                let mut wrong = bytes.to_vec();
                wrong[bytes.len() / 2] ^= 1;
                assert!(manifest.verify_piece(piece, wrong.chunks(MIB).collect()).is_err());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_changed_byte_is_ever_verified(length in 1usize..3 * MIB, at: usize, flip in 1u8..) {
            let mut file = counting(length);
            let layout = PieceLayout::new(length as u64).expect("short");
            let manifest = Manifest::test_with_layout(layout, &hashed(&layout, &file));
            let at = at % length;
            file[at] ^= flip;
            let pieces = (0..layout.piece_count()).map(PieceIndex).zip(file.chunks(MIB));
            for (piece, bytes) in pieces {
                let right = manifest.verify(piece, BlockIndex(0), None, bytes).is_ok();
                prop_assert_eq!(right, piece.0 as usize != at / MIB);
            }
        }
    }
}
