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
            Ok((place, offset)) => {
                Ok(VerifiedBlock { manifest: self.id(), file: place.file, offset, piece, block, bytes })
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
    ) -> Result<(&FilePlace, u64), MismatchReason> {
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
        Ok((place, range.offset))
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
        if values.and_then(|values| self.prove(piece, &values).ok()).is_none() {
            return Err(blocks);
        }
        let Some((place, within)) = self.layout().locate(piece) else { return Err(blocks) };
        let (manifest, file) = (self.id(), place.file);
        let places: Option<Vec<_>> = (0..)
            .map(BlockIndex)
            .take(blocks.len())
            .map(|block| Some((block, place.layout.block(within, block)?.offset)))
            .collect();
        let Some(places) = places else { return Err(blocks) };
        let proven = places.into_iter().zip(blocks);
        Ok(proven
            .map(|((block, offset), bytes)| VerifiedBlock { manifest, file, offset, piece, block, bytes })
            .collect())
    }

    /// Chaining value of a block's bytes at its place, for a server that must send those of a larger piece. `None`
    /// outside, or for another number of bytes. Says nothing about whether the bytes are right; `prove` does.
    pub fn block_chaining_value(&self, piece: PieceIndex, block: BlockIndex, bytes: &[u8]) -> Option<[u8; 32]> {
        let (place, within) = self.layout().locate(piece)?;
        tree::hash_block(&place.layout, within, block, bytes)
    }
}
