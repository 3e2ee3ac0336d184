//! How a content is cut into pieces, and pieces into blocks: the only place that divides by a size.
//!
//! The piece size is a function of the length, so one content has one geometry (design section 2). A block is the unit
//! of verification on the wire and of writing: 1 MiB. A manifest of several files has one flat piece index over all of
//! them, in the manifest's order; empty files take none.

/// Unit of verification on the wire and of writing, in bytes.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// Largest piece, in bytes.
pub const PIECE_BYTES_MAX: u64 = 16 << 20;
/// Most pieces of one content.
pub const PIECE_COUNT_MAX: u32 = 65_536;
/// Longest content, in bytes: 1 TiB.
pub const CONTENT_BYTES_MAX: u64 = PIECE_BYTES_MAX * PIECE_COUNT_MAX as u64;

/// Position of a piece: within a content, or within a manifest's flat index where a [`FlatLayout`] is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PieceIndex(pub u32);

/// Position of a block within its piece, from 0; below 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct BlockIndex(pub u32);

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; never 0 where a piece or block is meant.
    pub length: u64,
}

impl ByteRange {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// A content longer than [`CONTENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a content of {length} bytes is longer than the {CONTENT_BYTES_MAX} bytes allowed")]
pub struct TooLong {
    /// Bytes asked for.
    pub length: u64,
}

/// Geometry of one content, from its length alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceLayout {
    length: u64,
    piece_bytes: u64,
    piece_count: u32,
}

impl PieceLayout {
    /// The one geometry of a content of `length` bytes: the smallest power of two from 1 MiB to 16 MiB that gives at
    /// most 65,536 pieces.
    ///
    /// # Errors
    /// [`TooLong`] above 1 TiB.
    pub fn new(length: u64) -> Result<Self, TooLong> {
        if length > CONTENT_BYTES_MAX {
            return Err(TooLong { length });
        }
        let mut piece_bytes = BLOCK_BYTES;
        while length.div_ceil(piece_bytes) > u64::from(PIECE_COUNT_MAX) {
            piece_bytes *= 2;
        }
        let piece_count = u32::try_from(length.div_ceil(piece_bytes)).unwrap_or(PIECE_COUNT_MAX);
        Ok(Self { length, piece_bytes, piece_count })
    }

    /// Bytes of the content.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of every piece but the last.
    pub fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// Number of pieces; 0 for an empty content.
    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Bytes of one piece within the content; `None` outside.
    pub fn piece(&self, piece: PieceIndex) -> Option<ByteRange> {
        if piece.0 >= self.piece_count {
            return None;
        }
        let offset = u64::from(piece.0) * self.piece_bytes;
        Some(ByteRange { offset, length: self.piece_bytes.min(self.length - offset) })
    }

    /// Number of blocks of a piece; `None` outside.
    pub fn block_count(&self, piece: PieceIndex) -> Option<u32> {
        let range = self.piece(piece)?;
        u32::try_from(range.length.div_ceil(BLOCK_BYTES)).ok()
    }

    /// Bytes of one block within the content; `None` outside.
    pub fn block(&self, piece: PieceIndex, block: BlockIndex) -> Option<ByteRange> {
        let range = self.piece(piece)?;
        let within = u64::from(block.0) * BLOCK_BYTES;
        if within >= range.length {
            return None;
        }
        Some(ByteRange { offset: range.offset + within, length: BLOCK_BYTES.min(range.length - within) })
    }

    /// The piece that holds a byte; `None` past the end.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if offset >= self.length {
            return None;
        }
        u32::try_from(offset / self.piece_bytes).ok().map(PieceIndex)
    }
}

/// One file's place in a [`FlatLayout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePlace {
    /// Index into the manifest's files.
    pub file: u32,
    /// First flat index of the file's pieces.
    pub first_piece: u32,
    /// Geometry of the file.
    pub layout: PieceLayout,
}

/// The flat piece index of a manifest: the pieces of its files, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatLayout {
    /// In order of `first_piece`; files without pieces are left out.
    places: Vec<FilePlace>,
    piece_count: u32,
    total_bytes: u64,
}

impl FlatLayout {
    /// The flat index over files of these lengths; `None` where the pieces or bytes do not fit 32 and 64 bits.
    ///
    /// # Errors
    /// [`TooLong`] where one file is.
    pub fn new(lengths: impl IntoIterator<Item = u64>) -> Result<Option<Self>, TooLong> {
        let mut places = Vec::new();
        let mut piece_count = 0u32;
        let mut total_bytes = 0u64;
        for (file, length) in lengths.into_iter().enumerate() {
            let layout = PieceLayout::new(length)?;
            let Ok(file) = u32::try_from(file) else { return Ok(None) };
            if layout.piece_count() > 0 {
                places.push(FilePlace { file, first_piece: piece_count, layout });
            }
            let (Some(pieces), Some(bytes)) =
                (piece_count.checked_add(layout.piece_count()), total_bytes.checked_add(length))
            else {
                return Ok(None);
            };
            (piece_count, total_bytes) = (pieces, bytes);
        }
        Ok(Some(Self { places, piece_count, total_bytes }))
    }

    /// Pieces of all files.
    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The files that have pieces, in order.
    pub fn places(&self) -> &[FilePlace] {
        &self.places
    }

    /// The file of a flat piece, and the piece's position within that file; `None` outside.
    pub fn locate(&self, piece: PieceIndex) -> Option<(&FilePlace, PieceIndex)> {
        if piece.0 >= self.piece_count {
            return None;
        }
        let after = self.places.partition_point(|place| place.first_piece <= piece.0);
        let place = self.places.get(after.checked_sub(1)?)?;
        Some((place, PieceIndex(piece.0 - place.first_piece)))
    }

    /// Bytes of a flat piece; `None` outside.
    pub fn piece_length(&self, piece: PieceIndex) -> Option<u64> {
        let (place, within) = self.locate(piece)?;
        place.layout.piece(within).map(|range| range.length)
    }

    /// Blocks of a flat piece; `None` outside.
    pub fn block_count(&self, piece: PieceIndex) -> Option<u32> {
        let (place, within) = self.locate(piece)?;
        place.layout.block_count(within)
    }

    /// Bytes of one block of a flat piece; `None` outside.
    pub fn block_length(&self, piece: PieceIndex, block: BlockIndex) -> Option<u64> {
        let (place, within) = self.locate(piece)?;
        place.layout.block(within, block).map(|range| range.length)
    }
}

/// A geometry that no length of a test's size has: pieces of several blocks.
#[cfg(test)]
pub(crate) fn test_layout(length: u64, piece_bytes: u64) -> PieceLayout {
    assert!(piece_bytes.is_power_of_two() && piece_bytes >= BLOCK_BYTES);
    let piece_count = u32::try_from(length.div_ceil(piece_bytes)).expect("few pieces");
    PieceLayout { length, piece_bytes, piece_count }
}

#[cfg(test)]
impl FlatLayout {
    /// One file of a [`test_layout`].
    pub(crate) fn test_of(layout: PieceLayout) -> Self {
        let places = vec![FilePlace { file: 0, first_piece: 0, layout }];
        Self { places, piece_count: layout.piece_count(), total_bytes: layout.length() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_piece_size_follows_the_length() {
        for (length, piece_bytes, piece_count) in [
            (0, MIB, 0),
            (1, MIB, 1),
            (MIB, MIB, 1),
            (MIB + 1, MIB, 2),
            (65_536 * MIB, MIB, 65_536),
            (65_536 * MIB + 1, 2 * MIB, 32_769),
            (CONTENT_BYTES_MAX, 16 * MIB, 65_536),
        ] {
            let layout = PieceLayout::new(length).expect("within 1 TiB");
            assert_eq!((layout.piece_bytes(), layout.piece_count()), (piece_bytes, piece_count), "{length}");
        }
        assert_eq!(PieceLayout::new(CONTENT_BYTES_MAX + 1), Err(TooLong { length: CONTENT_BYTES_MAX + 1 }));
        assert!(PieceLayout::new(u64::MAX).is_err());
    }

    #[test]
    fn the_last_piece_and_block_are_short() {
        let layout = PieceLayout::new(65_536 * MIB + 5).expect("fits");
        let last = PieceIndex(layout.piece_count() - 1);
        assert_eq!(layout.piece(last).map(|range| range.length), Some(5));
        assert_eq!(layout.block_count(last), Some(1));
        assert_eq!(layout.block_count(PieceIndex(0)), Some(2));
        assert_eq!(layout.block(PieceIndex(1), BlockIndex(1)), Some(ByteRange { offset: 3 * MIB, length: MIB }));
        assert_eq!(layout.block(last, BlockIndex(1)), None);
        assert_eq!(layout.piece(PieceIndex(layout.piece_count())), None);
    }

    #[test]
    fn a_flat_index_skips_empty_files() {
        let flat = FlatLayout::new([0, MIB + 1, 0, 3]).expect("short").expect("few");
        assert_eq!((flat.piece_count(), flat.total_bytes()), (3, MIB + 4));
        let (place, within) = flat.locate(PieceIndex(2)).expect("inside");
        assert_eq!((place.file, within), (3, PieceIndex(0)));
        assert_eq!(flat.piece_length(PieceIndex(1)), Some(1));
        assert!(flat.locate(PieceIndex(3)).is_none());
    }

    proptest! {
        #[test]
        fn pieces_and_blocks_cover_a_content_once(length in 0u64..=CONTENT_BYTES_MAX, small in 0u64..40 * MIB) {
            for length in [length, small, length / MIB * MIB] {
                let layout = PieceLayout::new(length).expect("within 1 TiB");
                prop_assert!(layout.piece_bytes().is_power_of_two() && layout.piece_count() <= PIECE_COUNT_MAX);
                prop_assert!(layout.piece_bytes() == BLOCK_BYTES || length.div_ceil(layout.piece_bytes() / 2) > u64::from(PIECE_COUNT_MAX));
                let mut end = 0;
                let last = layout.piece_count().saturating_sub(3);
                for piece in (0..layout.piece_count().min(3)).chain(last.max(3)..layout.piece_count()).map(PieceIndex) {
                    let range = layout.piece(piece).expect("inside");
                    prop_assert!(range.length > 0 && range.offset == u64::from(piece.0) * layout.piece_bytes());
                    prop_assert_eq!((layout.piece_at(range.offset), layout.piece_at(range.end() - 1)), (Some(piece), Some(piece)));
                    let count = layout.block_count(piece).expect("inside");
                    end = range.offset;
                    for block in (0..count).map(BlockIndex) {
                        let block = layout.block(piece, block).expect("inside");
                        prop_assert!(block.offset == end && block.length > 0 && block.length <= BLOCK_BYTES);
                        end = block.end();
                    }
                    prop_assert_eq!((end, layout.block(piece, BlockIndex(count))), (range.end(), None));
                }
                prop_assert_eq!((end, layout.piece_at(length)), (length, None));
            }
        }

        #[test]
        fn a_flat_index_counts_every_piece_of_every_file(lengths in proptest::collection::vec(0u64..5 * MIB, 0..8)) {
            let flat = FlatLayout::new(lengths.iter().copied()).expect("short").expect("few");
            let mut piece = 0;
            for (file, length) in lengths.iter().enumerate() {
                for within in 0..length.div_ceil(MIB) as u32 {
                    let (place, found) = flat.locate(PieceIndex(piece)).expect("inside");
                    prop_assert_eq!((place.file as usize, found, place.first_piece + within), (file, PieceIndex(within), piece));
                    piece += 1;
                }
            }
            prop_assert_eq!((flat.piece_count(), flat.locate(PieceIndex(piece)).is_none()), (piece, true));
            prop_assert_eq!(flat.total_bytes(), lengths.iter().sum::<u64>());
        }
    }
}
