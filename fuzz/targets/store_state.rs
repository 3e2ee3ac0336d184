//! The small files beside a download: what is taken from them is a whole manifest, or pieces that the manifest has.

use std::sync::OnceLock;

use piecework::content::{ContentId, Manifest};
use piecework::drivers::store::probe;

pub fn run(data: &[u8]) {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    // A file of one piece, whose hash is the content id.
    let manifest = MANIFEST.get_or_init(|| Manifest::bare(ContentId::new([7; 32]), 5, &[7; 32]).expect("it merges"));
    let (claimed, durable) = probe(data, manifest);
    if let Some(claimed) = claimed {
        assert!(!claimed.files().is_empty());
    }
    if let Some(durable) = durable {
        assert_eq!(durable.piece_count(), 1);
    }
}
