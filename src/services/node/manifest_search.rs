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

/// A peer that may give a manifest.
pub(crate) struct Giver {
    link: Arc<Link>,
    /// Where its answer arrives, if it has been asked already.
    asked: Option<Answer>,
}

/// The envelope's bytes, or nothing of use.
type Answer = tokio::sync::oneshot::Receiver<Option<Vec<u8>>>;

impl Giver {
    /// A peer to ask.
    pub(crate) fn new(link: &Arc<Link>) -> Self {
        Self { link: Arc::clone(link), asked: None }
    }
}

impl Inner {
    /// A peer opens a topic whose manifest is sought here: it has come by it since it was asked. Returns what gathers its
    /// answer; `None` where nobody seeks it.
    pub(crate) fn seek_from(&self, link: &Arc<Link>, topic: &Topic) -> Option<ManifestSink> {
        let wanted = self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner);
        let (sink, answer) = ManifestSink::new();
        wanted.get(topic)?.1.send(Giver { link: Arc::clone(link), asked: Some(answer) }).ok()?;
        Some(sink)
    }
}

/// Manifests as peers send them.
pub struct ManifestSearch {
    node: Arc<Inner>,
    /// The topic by each of the group's keys.
    topics: Vec<Topic>,
    givers: tokio::sync::mpsc::UnboundedReceiver<Giver>,
    pending: tokio::task::JoinSet<Option<(Arc<Link>, Vec<u8>)>>,
}

impl ManifestSearch {
    /// Asks connected peers, and from now on those that connect.
    pub(crate) fn start(node: &Arc<Inner>, target: &Target) -> Self {
        let topic = |key| match target {
            Target::Content(id) => Topic::of_content(id, key),
            Target::Manifest(id) => Topic::of_manifest(id, key),
        };
        let group = node.group();
        let topics: Vec<Topic> = group.topic_keys().into_iter().map(topic).collect();
        let (asked, givers) = tokio::sync::mpsc::unbounded_channel();
        let connected: Vec<_> = node.links().values().cloned().collect();
        for link in &connected {
            let _ = asked.send(Giver::new(link));
        }
        {
            let mut wanted = node.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.extend(topics.iter().enumerate().map(|(key, topic)| (*topic, (key, asked.clone()))));
        }
        node.look_for_peers();
        Self { node: Arc::clone(node), topics, givers, pending: tokio::task::JoinSet::new() }
    }

    /// The next envelope from a peer, with the peer's id and address.
    pub async fn next(&mut self) -> (PeerId, SocketAddr, Vec<u8>) {
        loop {
            tokio::select! {
                Some(Giver { link, asked }) = self.givers.recv() => {
                    let answer = asked.unwrap_or_else(|| {
                        let (sink, answer) = ManifestSink::new();
                        if let Some(topic) = self.topics.get(link.group_key) {
                            link.open(*topic, None, (0, 0), Some(sink));
                        }
                        answer
                    });
                    self.pending.spawn(async move { Some((link, answer.await.ok().flatten()?)) });
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
        {
            let mut wanted = self.node.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner);
            self.topics.iter().for_each(|topic| _ = wanted.remove(topic));
        }
        // Slots that never got a share are closed; those attached by now stay.
        for link in self.node.links().values() {
            let mut slots = link.slots();
            let topic = self.topics.get(link.group_key);
            let Some(ours) = topic.and_then(|topic| slots.handle_of(topic)) else { continue };
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
