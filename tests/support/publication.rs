//! What a peer of a test's own knows of a publication.

use std::sync::Arc;

use piecework::content::hash::Topic;
use piecework::content::{Manifest, PieceIndex, open_untrusted};

/// What is published: all that a seed would know.
#[derive(Clone)]
pub struct Publication {
    manifest: Manifest,
    pub envelope: Arc<[u8]>,
    pub content: Arc<[u8]>,
}

impl Publication {
    /// Of an envelope; `content` is its file from byte 0, as far as the test has it.
    pub fn new(envelope: Vec<u8>, content: &[u8]) -> Self {
        let manifest = open_untrusted(envelope.clone()).expect("a manifest of ours").manifest;
        Self { manifest, envelope: envelope.into(), content: content.into() }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn has(&self, topic: &Topic) -> bool {
        let content = self.manifest.files().first().map(|file| Topic::of_content(&file.content_id, b""));
        *topic == Topic::of_manifest(&self.manifest.id(), b"") || Some(*topic) == content
    }

    pub fn piece(&self, piece: u32) -> Option<&[u8]> {
        let (place, within) = self.manifest.layout().locate(PieceIndex(piece))?;
        let range = place.layout.piece(within)?;
        self.content.get(usize::try_from(range.offset).ok()?..usize::try_from(range.end()).ok()?)
    }
}
