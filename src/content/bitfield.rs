//! Which pieces are held. Indexed by [`PieceIndex`] alone; never longer or shorter than it was made.

use bitvec::prelude::{BitVec, Lsb0};

use crate::content::layout::PieceIndex;

/// One bit a piece, least significant bit first; spare bits of the last word are zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bits: BitVec<u64, Lsb0>,
    /// Number of ones, so that "complete" costs nothing.
    held: u32,
}

/// Bytes that are no bitfield of the asked length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// Another number of bytes than `ceil(piece_count / 8)`.
    #[error("a bitfield of {piece_count} pieces has {expected} bytes, found {found}")]
    WrongLength {
        /// Pieces.
        piece_count: u32,
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A bit past the last piece is set.
    #[error("a spare bit past piece {piece_count} is set")]
    SpareBit {
        /// Pieces.
        piece_count: u32,
    },
}

impl Bitfield {
    /// No piece of `piece_count`.
    pub fn none(piece_count: u32) -> Self {
        Self { bits: BitVec::repeat(false, piece_count as usize), held: 0 }
    }

    /// Every piece of `piece_count`.
    pub fn all(piece_count: u32) -> Self {
        let mut bits = BitVec::repeat(true, piece_count as usize);
        bits.set_uninitialized(false);
        Self { bits, held: piece_count }
    }

    /// Reads the wire form: least significant bit first, spare bits zero.
    ///
    /// # Errors
    /// [`BitfieldError`] for another length or a set spare bit.
    pub fn from_bytes(piece_count: u32, bytes: &[u8]) -> Result<Self, BitfieldError> {
        let expected = (piece_count as usize).div_ceil(8);
        if bytes.len() != expected {
            return Err(BitfieldError::WrongLength { piece_count, expected, found: bytes.len() });
        }
        let mut words = Vec::with_capacity(bytes.len().div_ceil(8));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            words.push(u64::from_le_bytes(word));
        }
        let mut bits = BitVec::<u64, Lsb0>::from_vec(words);
        if bits.iter_ones().next_back().is_some_and(|last| last >= piece_count as usize) {
            return Err(BitfieldError::SpareBit { piece_count });
        }
        bits.resize(piece_count as usize, false);
        let held = u32::try_from(bits.count_ones()).unwrap_or(piece_count);
        Ok(Self { bits, held })
    }

    /// The wire form, `ceil(piece_count / 8)` bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bits = self.bits.clone();
        bits.set_uninitialized(false);
        let mut bytes: Vec<u8> = bits.as_raw_slice().iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.bits.len().div_ceil(8));
        bytes
    }

    /// Number of pieces, held or not.
    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.bits.len()).unwrap_or(u32::MAX)
    }

    /// Number of pieces held.
    pub fn held_count(&self) -> u32 {
        self.held
    }

    /// Whether every piece is held (true for no pieces at all).
    pub fn is_complete(&self) -> bool {
        self.held == self.piece_count()
    }

    /// Whether this piece is held; false outside.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.bits.get(piece.0 as usize).is_some_and(|bit| *bit)
    }

    /// Marks a piece as held; returns whether that was news. Outside: no effect.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let news = self.bits.get(piece.0 as usize).is_some_and(|bit| !*bit);
        if news {
            self.bits.set(piece.0 as usize, true);
            self.held += 1;
        }
        news
    }

    /// Marks a piece as not held; returns whether it was. Outside: no effect.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let held = self.has(piece);
        if held {
            self.bits.set(piece.0 as usize, false);
            self.held -= 1;
        }
        held
    }

    /// The pieces held, ascending.
    pub fn iter_held(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + '_ {
        self.bits.iter_ones().map(|index| PieceIndex(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// The pieces not held, ascending.
    pub fn iter_missing(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + '_ {
        self.bits.iter_zeros().map(|index| PieceIndex(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// The pieces that both hold, ascending. Word by word; the shorter length counts.
    pub fn iter_common<'a>(&'a self, other: &'a Bitfield) -> impl Iterator<Item = PieceIndex> + 'a {
        let words = self.bits.as_raw_slice().iter().zip(other.bits.as_raw_slice());
        let all = (0u32..).zip(words).flat_map(|(word, (ours, theirs))| {
            let mut common = ours & theirs;
            std::iter::from_fn(move || {
                let bit = (common != 0).then(|| common.trailing_zeros())?;
                common &= common - 1;
                Some(PieceIndex(word * 64 + bit))
            })
        });
        let end = self.piece_count().min(other.piece_count());
        all.take_while(move |piece| piece.0 < end)
    }

    /// Its bits, 64 pieces a word, least significant bit first; spare bits of the last word are zero.
    pub fn words(&self) -> &[u64] {
        self.bits.as_raw_slice()
    }

    /// Whether `theirs` holds a piece that this lacks. Word by word; the shorter length counts.
    pub fn lacks_any_of(&self, theirs: &Bitfield) -> bool {
        self.bits.as_raw_slice().iter().zip(theirs.bits.as_raw_slice()).any(|(ours, theirs)| theirs & !ours != 0)
    }
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({}/{})", self.held, self.piece_count())
    }
}

/// As its length and its wire form: for logs of an engine's events.
impl serde::Serialize for Bitfield {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.piece_count(), self.to_bytes()).serialize(to)
    }
}

impl<'de> serde::Deserialize<'de> for Bitfield {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (piece_count, bytes) = <(u32, Vec<u8>)>::deserialize(from)?;
        Self::from_bytes(piece_count, &bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrong_lengths_and_spare_bits_are_refused() {
        assert!(Bitfield::from_bytes(9, &[0]).is_err());
        assert!(Bitfield::from_bytes(9, &[0, 0, 0]).is_err());
        assert_eq!(Bitfield::from_bytes(9, &[0, 2]), Err(BitfieldError::SpareBit { piece_count: 9 }));
        assert_eq!(Bitfield::from_bytes(9, &[0xff, 1]), Ok(Bitfield::all(9)));
        assert_eq!(Bitfield::from_bytes(0, &[]), Ok(Bitfield::none(0)));
        assert!(Bitfield::none(0).is_complete());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_vector_of_bools(model in proptest::collection::vec(any::<bool>(), 0..300), other in proptest::collection::vec(any::<bool>(), 0..300)) {
            let make = |model: &[bool]| {
                let mut bitfield = Bitfield::none(model.len() as u32);
                for (index, bit) in model.iter().enumerate() {
                    if *bit { bitfield.set(PieceIndex(index as u32)); }
                }
                bitfield
            };
            let bitfield = make(&model);
            prop_assert_eq!(bitfield.held_count() as usize, model.iter().filter(|bit| **bit).count());
            prop_assert_eq!(Bitfield::from_bytes(model.len() as u32, &bitfield.to_bytes()), Ok(bitfield.clone()));
            prop_assert_eq!(bitfield.iter_missing().count() + bitfield.iter_held().count(), model.len());
            let lacks = model.iter().zip(&other).any(|(ours, theirs)| *theirs && !*ours);
            let mut cut = make(&other[..other.len().min(model.len())]);
            prop_assert_eq!(bitfield.lacks_any_of(&cut), lacks);
            let common: Vec<_> = bitfield.iter_held().filter(|piece| cut.has(*piece)).collect();
            prop_assert_eq!(bitfield.iter_common(&cut).collect::<Vec<_>>(), common);
            for index in 0..other.len() as u32 { cut.clear(PieceIndex(index)); }
            prop_assert_eq!(cut.held_count(), 0);
        }
    }
}
