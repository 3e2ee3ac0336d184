//! [`ManifestSearch`]: asking peers, those connected now and those that come, for a manifest.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use libp2p::PeerId;

use crate::content::hash::Topic;
use crate::content::link::Target;
use crate::services::node::inner::Inner;
use crate::services::node::link::Link;
use crate::services::node::manifest_fetch::ManifestSink;
use crate::wire::Frame;

/// Manifests as peers send them.
pub struct ManifestSearch {
    node: Arc<Inner>,
    topic: Topic,
    links: tokio::sync::mpsc::UnboundedReceiver<Arc<Link>>,
    pending: tokio::task::JoinSet<Option<(Arc<Link>, Vec<u8>)>>,
}

impl ManifestSearch {
    /// Asks connected peers, and from now on those that connect.
    pub(crate) fn start(node: &Arc<Inner>, target: &Target) -> Self {
        let topic = match target {
            Target::Content(id) => Topic::of_content(id, &node.group_secret()),
            Target::Manifest(id) => Topic::of_manifest(id, &node.group_secret()),
        };
        let (asked, links) = tokio::sync::mpsc::unbounded_channel();
        let connected: Vec<_> = node.links().values().cloned().collect();
        for link in connected {
            let _ = asked.send(link);
        }
        node.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).insert(topic, asked);
        node.dial_found();
        Self { node: Arc::clone(node), topic, links, pending: tokio::task::JoinSet::new() }
    }

    /// The next envelope from a peer, with the peer's id and address.
    pub async fn next(&mut self) -> (PeerId, SocketAddr, Vec<u8>) {
        loop {
            tokio::select! {
                Some(link) = self.links.recv() => {
                    let (sink, result) = ManifestSink::new();
                    link.open(self.topic, None, (0, 0), Some(sink));
                    self.pending.spawn(async move { Some((link, result.await.ok().flatten()?)) });
                }
                Some(joined) = self.pending.join_next() => {
                    if let Ok(Some((link, bytes))) = joined {
                        return (link.peer_id, link.remote, bytes);
                    }
                }
            }
        }
    }
}

impl Drop for ManifestSearch {
    fn drop(&mut self) {
        self.node.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.topic);
        // Slots that never got a share are closed; those attached by now stay.
        for link in self.node.links().values() {
            let mut slots = link.slots();
            let Some(ours) = slots.handle_of(&self.topic) else { continue };
            if slots.by_handle.get(&ours).is_some_and(|slot| slot.share.is_none()) {
                let theirs = slots.by_handle.remove(&ours).and_then(|slot| slot.theirs);
                drop(slots);
                if let Some(handle) = theirs {
                    link.send(Frame::Close { handle });
                }
            }
        }
    }
}
