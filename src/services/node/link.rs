//! One connection to a peer as the rest of the node sees it: where to queue what is to be said, and which topics stand.
//!
//! A link lives as long as its session (see `session`); whoever holds an `Arc` of a closed one queues into nothing. The
//! slot table is touched by the session's reader and by the shares, each time briefly and never across an await.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::content::hash::Topic;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::drivers::transport::Path;
use crate::services::node::group::Group;
use crate::services::node::handle::ShareHandle;
use crate::services::node::limits::{
    MANIFEST_PARTS_QUEUED_MAX, MEETINGS_BURST, MEETINGS_PER_SECOND, OUTBOX_FRAMES_MAX, RECORDS_BURST,
    RECORDS_PER_SECOND, TOPICS_PER_LINK_MAX,
};
use crate::services::node::manifest_fetch::ManifestSink;
use crate::services::node::meeting::Asked;
use crate::services::node::records::Checks;
use crate::swarm::event::{AddressKey, Event, Member, NodeId, PeerKey};
use crate::wire::version::Features;
use crate::wire::{Frame, GoodbyeReason};

/// Something the session's writer is to do.
pub(crate) enum Outgoing {
    /// Send one control frame.
    Frame(Frame),
    /// Send a part of an envelope; what it holds back is let go once that is written.
    Manifest(Frame, OwnedSemaphorePermit),
    /// Say goodbye, flush and end.
    Close(GoodbyeReason),
}

/// One piece to be sent, read ahead by the session's feeder.
pub(crate) struct ServeOrder {
    /// Whose store and books.
    pub(crate) share: Arc<ShareHandle>,
    /// The peer as the share knows it.
    pub(crate) peer: PeerKey,
    /// Handle by which the peer is addressed.
    pub(crate) handle: u32,
    /// Flat piece.
    pub(crate) piece: PieceIndex,
    /// The piece as the topic counts it.
    pub(crate) wire_piece: u32,
    /// First block wanted.
    pub(crate) first_block: BlockIndex,
}

/// One topic on a link, under the number by which the peer addresses us.
pub(crate) struct Slot {
    pub(crate) topic: Topic,
    /// The number by which we address the peer; set once it has opened too.
    pub(crate) theirs: Option<u32>,
    /// What serves the topic here; unset while only the manifest is wanted.
    pub(crate) share: Option<Arc<ShareHandle>>,
    /// First flat piece of the topic, and its number of pieces.
    pub(crate) window: (u32, u32),
    /// Set while the share counts the peer as up.
    pub(crate) peer: Option<PeerKey>,
    /// The peer has no layout yet: our session starts with its Bitfield.
    pub(crate) they_want_manifest_only: bool,
    /// Pieces asked for and not yet begun, by the topic's count, each with the first block asked for, and when.
    pub(crate) owed: BTreeMap<u32, (BlockIndex, Instant)>,
    /// Who waits for the manifest.
    pub(crate) manifest_sink: Option<ManifestSink>,
}

#[derive(Default)]
pub(crate) struct Slots {
    pub(crate) by_handle: BTreeMap<u32, Slot>,
    next_handle: u32,
    /// Serves taken back before they went out.
    pub(crate) cancelled_serves: BTreeSet<(PeerKey, PieceIndex)>,
}

impl Slots {
    pub(crate) fn handle_of(&self, topic: &Topic) -> Option<u32> {
        self.by_handle.iter().find(|(_, slot)| slot.topic == *topic).map(|(handle, _)| *handle)
    }

    /// Adds a slot; `None` where the link already carries as many topics as it may.
    pub(crate) fn add(&mut self, slot: Slot) -> Option<u32> {
        if self.by_handle.len() >= TOPICS_PER_LINK_MAX {
            return None;
        }
        self.next_handle = self.next_handle.wrapping_add(1);
        let handle = self.next_handle;
        if self.by_handle.contains_key(&handle) {
            return None;
        }
        self.by_handle.insert(handle, slot);
        Some(handle)
    }
}

/// A connection to one peer.
pub(crate) struct Link {
    /// Number of this connection within the process.
    pub(crate) number: u64,
    pub(crate) peer_id: PeerId,
    pub(crate) node_id: NodeId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) address: AddressKey,
    pub(crate) member: Option<Member>,
    pub(crate) inbound: bool,
    pub(crate) path: Path,
    pub(crate) round_trip: Duration,
    /// Program and version, as the peer says.
    pub(crate) agent: String,
    /// The group that we were of when it was greeted.
    pub(crate) group: Group,
    /// Which of that group's keys it shares: the one by which both ask.
    pub(crate) group_key: usize,
    /// What it can do beyond version 1, as far as we can too.
    pub(crate) features: Features,
    /// The site that its policy names.
    pub(crate) site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    pub(crate) outbox: mpsc::Sender<Outgoing>,
    pub(crate) serves: mpsc::UnboundedSender<ServeOrder>,
    /// Parts of envelopes that may wait to be written.
    manifests: Arc<Semaphore>,
    slots: Mutex<Slots>,
    closing: Notify,
    /// Pieces sent since the session last counted them for the peer's allowance of frames.
    pub(crate) pieces_sent: AtomicU32,
    /// Payload that this connection brought, bytes.
    pub(crate) bytes_received: AtomicU64,
    /// Payload that it took, bytes.
    pub(crate) bytes_sent: AtomicU64,
    /// Members it told that are not dialled, since they have not signed what it told.
    pub(crate) members_refused: AtomicU64,
    checks: Mutex<Checks>,
    meets: Mutex<Checks>,
    /// What it was asked as a rendezvous.
    pub(crate) asked: Mutex<Asked>,
}

/// What a connection is born with.
pub(crate) struct Birth {
    pub(crate) number: u64,
    pub(crate) peer_id: PeerId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) inbound: bool,
    pub(crate) path: Path,
    pub(crate) round_trip: Duration,
    pub(crate) agent: String,
    /// Where it accepts peers, if it does.
    pub(crate) dialable: Option<SocketAddr>,
    /// The same as others may be told, where it has signed that.
    pub(crate) member: Option<Member>,
    pub(crate) group: Group,
    pub(crate) group_key: usize,
    pub(crate) features: Features,
    pub(crate) site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
}

impl Link {
    /// A link and the two queues its session empties.
    pub(crate) fn new(birth: Birth) -> (Arc<Self>, mpsc::Receiver<Outgoing>, mpsc::UnboundedReceiver<ServeOrder>) {
        let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES_MAX);
        // Bounded by the swarm: it admits only so many requests a peer before it rejects or bans.
        let (serves, orders) = mpsc::unbounded_channel();
        let link = Self {
            number: birth.number,
            node_id: node_id(&birth.peer_id),
            address: address_key(birth.dialable.unwrap_or(birth.remote)),
            member: birth.member,
            peer_id: birth.peer_id,
            local: birth.local,
            remote: birth.remote,
            inbound: birth.inbound,
            path: birth.path,
            round_trip: birth.round_trip,
            agent: birth.agent,
            group: birth.group,
            group_key: birth.group_key,
            features: birth.features,
            site: birth.site,
            outbox,
            serves,
            manifests: Arc::new(Semaphore::new(MANIFEST_PARTS_QUEUED_MAX)),
            slots: Mutex::new(Slots::default()),
            closing: Notify::new(),
            pieces_sent: AtomicU32::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            members_refused: AtomicU64::new(0),
            checks: Mutex::new(Checks::new(RECORDS_BURST, RECORDS_PER_SECOND)),
            meets: Mutex::new(Checks::new(MEETINGS_BURST, MEETINGS_PER_SECOND)),
            asked: Mutex::default(),
        };
        (Arc::new(link), frames, orders)
    }

    /// The slot table.
    pub(crate) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another signature may be checked on the word of this peer.
    pub(crate) fn may_check_record(&self) -> bool {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether this peer may ask once more who meets here.
    pub(crate) fn may_meet(&self) -> bool {
        self.meets.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Queues a frame. A peer that lets its whole queue fill up does not read: the link is closed.
    pub(crate) fn send(&self, frame: Frame) {
        if self.outbox.try_send(Outgoing::Frame(frame)).is_err() {
            self.abort();
        }
    }

    /// Queues a part of an envelope, a quarter of a MiB at most. Waits while the peer has not read the ones before,
    /// and so does whoever reads from it: one that asks on and on fills no memory here.
    pub(crate) async fn send_manifest(&self, frame: Frame) {
        if let Ok(permit) = Arc::clone(&self.manifests).acquire_owned().await
            && self.outbox.try_send(Outgoing::Manifest(frame, permit)).is_err()
        {
            self.abort();
        }
    }

    /// Ends the session after what is queued, with a word of why.
    pub(crate) fn close(&self, reason: GoodbyeReason) {
        if self.outbox.try_send(Outgoing::Close(reason)).is_err() {
            self.abort();
        }
    }

    /// Ends the session at once.
    pub(crate) fn abort(&self) {
        self.closing.notify_one();
    }

    /// Completes once `abort` was called.
    pub(crate) async fn aborted(&self) {
        self.closing.notified().await;
    }

    /// Says that a topic, taken out of the table already, is closed: to the peer, and to the share that it stood for.
    pub(crate) fn part(&self, slot: Slot) {
        if let Some(theirs) = slot.theirs {
            self.send(Frame::Close { handle: theirs });
        }
        if let (Some(share), Some(peer)) = (slot.share, slot.peer) {
            tokio::spawn(async move { share.tell(Event::PeerDown { peer }).await });
        }
    }

    /// Asks the peer for a topic on behalf of a share, unless the link carries it already.
    pub(crate) fn open(
        &self,
        topic: Topic,
        share: Option<Arc<ShareHandle>>,
        window: (u32, u32),
        sink: Option<ManifestSink>,
    ) {
        let manifest_only = share.is_none();
        let mut slots = self.slots();
        if slots.handle_of(&topic).is_some() {
            return;
        }
        let slot = Slot {
            topic,
            theirs: None,
            share,
            window,
            peer: None,
            they_want_manifest_only: false,
            owed: BTreeMap::new(),
            manifest_sink: sink,
        };
        let Some(handle) = slots.add(slot) else { return };
        drop(slots);
        self.send(Frame::Open { handle, topic, manifest_only });
    }
}

/// A node's identity as the engine ranks it: BLAKE3 of the peer id's bytes.
pub(crate) fn node_id(peer_id: &PeerId) -> NodeId {
    NodeId(*blake3::hash(&peer_id.to_bytes()).as_bytes())
}

/// What counts as one address: an IPv4 address, an IPv6 /64; on loopback with the port, since there several nodes share
/// a host by design.
pub(crate) fn address_key(address: SocketAddr) -> AddressKey {
    let mut key = [0; 18];
    let ip = address.ip().to_canonical();
    match ip {
        std::net::IpAddr::V4(ip) => key[..4].copy_from_slice(&ip.octets()),
        std::net::IpAddr::V6(ip) => {
            let octets = ip.octets();
            let kept = if ip.is_loopback() { 16 } else { 8 };
            key[..kept].copy_from_slice(&octets[..kept]);
        }
    }
    if ip.is_loopback() {
        key[16..].copy_from_slice(&address.port().to_be_bytes());
    }
    AddressKey(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_ipv6_subnet_share_an_address_and_nodes_on_loopback_do_not() {
        let key = |text: &str| address_key(text.parse().expect("an address"));
        assert_eq!(key("[2001:db8::1]:7680"), key("[2001:db8::2]:9"));
        assert_ne!(key("[2001:db8:0:1::1]:7680"), key("[2001:db8::1]:7680"));
        assert_eq!(key("192.0.2.1:7680"), key("[::ffff:192.0.2.1]:1"));
        assert_ne!(key("127.0.0.1:1"), key("127.0.0.1:2"));
    }
}
