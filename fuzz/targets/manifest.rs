//! Manifest payloads: every index of what is taken answers, and none outside.

use piecework::content::{BlockIndex, Manifest, PieceIndex};

pub fn run(data: &[u8]) {
    let Ok(manifest) = Manifest::decode(data) else { return };
    assert!(!manifest.name().is_empty() && !manifest.files().is_empty() && !manifest.is_bare());
    let layout = manifest.layout();
    assert_eq!(layout.total_bytes(), manifest.files().iter().map(|file| file.length).sum::<u64>());
    for piece in (0..layout.piece_count()).map(PieceIndex) {
        assert!(manifest.piece_hash(piece).is_some() && layout.piece_length(piece).is_some());
        assert!(manifest.verify(piece, BlockIndex(0), None, data).is_err());
        assert!(manifest.prove(piece, &[]).is_err());
    }
    let outside = PieceIndex(layout.piece_count());
    assert!(manifest.piece_hash(outside).is_none() && layout.locate(outside).is_none());
    for file in manifest.files() {
        assert!(Manifest::bare(file.content_id, file.length, file.piece_hashes()).is_ok());
    }
}
