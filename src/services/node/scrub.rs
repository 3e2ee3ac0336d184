//! Hashing again what is held, piece by piece, while it is served: what is found rotten is told to the engine, which tells
//! peers. When and how fast, and what becomes of the loss, is decided above.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::content::hash::ManifestId;
use crate::content::layout::PieceIndex;
use crate::content::manifest::Manifest;
use crate::drivers::store::PieceStore;
use crate::services::node::handle::ShareHandle;
use crate::services::node::{Error, Inner, Node};
use crate::swarm::event::Event;

/// What became of one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// It is what it should be; bytes read.
    Right(u64),
    /// It was not, or could not be read: it is held no more, and peers are told.
    Lost,
    /// It was not held, or cannot be looked at now.
    Passed,
}

/// A content whose pieces are being hashed again.
pub struct Scrubbing {
    node: Arc<Inner>,
    manifest: Manifest,
    envelope: Arc<[u8]>,
    store: Arc<dyn PieceStore>,
    /// Opened for this alone.
    own: bool,
}

impl Node {
    /// Every manifest whose content is offered to peers, open or not.
    pub fn holdings(&self) -> BTreeSet<ManifestId> {
        let open = self.inner.open_shares().into_iter().map(|share| share.manifest().id());
        open.chain(self.inner.dormant.manifests()).collect()
    }

    /// Opens a content to hash it; `None` where it is not offered, or cannot be opened. One that peers use is looked at as
    /// it is open; one that sleeps goes on sleeping.
    pub async fn scrub(&self, manifest: ManifestId) -> Option<Scrubbing> {
        let node = Arc::clone(&self.inner);
        if let Some(share) = node.open_share(&manifest) {
            let (store, envelope) = (Arc::clone(share.store()), Arc::clone(share.envelope()));
            return Some(Scrubbing { node, manifest: share.manifest().clone(), envelope, store, own: false });
        }
        let open = node.dormant.opener(&manifest)?;
        let spec = node.disk.run(move || open(&manifest)).await.ok().flatten()?;
        Some(Scrubbing { node, manifest: spec.manifest, envelope: spec.envelope, store: spec.store, own: true })
    }
}

impl Inner {
    fn open_share(&self, manifest: &ManifestId) -> Option<Arc<ShareHandle>> {
        self.open_shares().into_iter().find(|share| share.manifest().id() == *manifest)
    }
}

impl Scrubbing {
    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed bytes of the manifest; empty where it came without.
    pub fn envelope(&self) -> &Arc<[u8]> {
        &self.envelope
    }

    /// Hashes one piece on a disk thread.
    ///
    /// # Errors
    /// The disk threads have ended.
    pub async fn check(&self, piece: PieceIndex) -> Result<Scrubbed, Error> {
        let store = Arc::clone(&self.store);
        let checked = self.node.disk.run(move || store.check(piece)).await?;
        if !self.own {
            self.node.dormant.touch_manifest(&self.manifest.id());
        }
        match checked {
            Ok(bytes) => Ok(Scrubbed::Right(bytes)),
            Err(error) if error.lost().is_some() => {
                // Whoever has it open, it may have been opened since.
                if let Some(share) = self.node.open_share(&self.manifest.id()) {
                    share.tell(Event::LocalLost { piece }).await;
                }
                Ok(Scrubbed::Lost)
            }
            Err(_) => Ok(Scrubbed::Passed),
        }
    }

    /// Lets go of it.
    pub async fn close(self) {
        if self.own {
            let store = Arc::clone(&self.store);
            let closed = self.node.disk.run(move || store.close()).await;
            if let Ok(Err(error)) = closed {
                tracing::warn!(manifest = %self.manifest.id(), %error, "the store did not close cleanly");
            }
        }
    }
}
