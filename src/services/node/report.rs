//! What a node says of itself when asked: the shares that are open, the peers that are connected, and sums since its
//! start. Snapshots, copied out; nothing here decides anything.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use libp2p::PeerId;

use crate::content::bitfield::Bitfield;
use crate::content::hash::{ContentId, ManifestId};
use crate::content::manifest::Manifest;
use crate::drivers::transport::Path;
use crate::services::node::candidates::Way;
use crate::services::node::handle::ShareHandle;
use crate::services::node::latency::Histogram;
use crate::services::node::meeting::Standing;
use crate::services::node::moved::Moved;
use crate::services::node::progress::{Phase, Progress};
use crate::services::node::{Inner, Node};
use crate::swarm::event::Scope;

/// One open share.
#[derive(Debug, Clone)]
pub struct ShareReport {
    /// Its manifest.
    pub manifest: ManifestId,
    /// The content, where it is a lone file.
    pub content: Option<ContentId>,
    /// The manifest's name, or the content id where only that is known.
    pub name: String,
    /// Pieces held now.
    pub pieces_held: u32,
    /// Pieces in all.
    pub piece_count: u32,
    /// How it goes.
    pub progress: Progress,
}

/// One connected peer.
#[derive(Debug, Clone)]
pub struct PeerReport {
    /// Who.
    pub peer: PeerId,
    /// The other end of the connection.
    pub remote: SocketAddr,
    /// It dialled us.
    pub inbound: bool,
    /// How it was found.
    pub way: Way,
    /// Which way its bytes go.
    pub path: Path,
    /// How near it is.
    pub scope: Scope,
    /// Program and version, as it says: a stranger's text.
    pub agent: String,
    /// Round trip, measured when the connection was made.
    pub round_trip: Duration,
    /// Topics that both sides have opened.
    pub topics: usize,
    /// Payload received from it over this connection, bytes.
    pub bytes_received: u64,
    /// Payload sent to it over this connection, bytes.
    pub bytes_sent: u64,
    /// Members that it told and that are not dialled: what it told of them is not signed by them.
    pub members_refused: u64,
}

/// What a rendezvous that a node keeps holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Scopes: groups, as far as anybody can tell.
    pub scopes: usize,
    /// Members in all of them.
    pub members: usize,
}

/// Sums over all shares since the node started, closed ones included; bytes are payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Verified, from peers.
    pub bytes_from_peers: u64,
    /// Verified, over HTTP.
    pub bytes_from_http: u64,
    /// Of these, from cache hosts.
    pub bytes_from_cache_host: u64,
    /// Sent to peers.
    pub bytes_to_peers: u64,
    /// Received in vain.
    pub bytes_wasted: u64,
    /// Over HTTP, of pieces that a connected peer held at that moment.
    pub bytes_http_with_peer_available: u64,
    /// The same and more in sums that never fall.
    pub moved: Moved,
}

/// How long things took since the node started.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LatencyReport {
    /// From a request to a peer until its piece has arrived.
    pub piece: Histogram,
    /// From the start of an HTTP request until its answer's head.
    pub source: Histogram,
    /// Hashing and writing one block.
    pub disk: Histogram,
}

impl Totals {
    fn add(&mut self, progress: &Progress) {
        for (sum, bytes) in [
            (&mut self.bytes_from_peers, progress.bytes_from_peers),
            (&mut self.bytes_from_http, progress.bytes_from_http),
            (&mut self.bytes_from_cache_host, progress.bytes_from_cache_host),
            (&mut self.bytes_to_peers, progress.bytes_to_peers),
            (&mut self.bytes_wasted, progress.bytes_wasted),
            (&mut self.bytes_http_with_peer_available, progress.bytes_http_with_peer_available),
        ] {
            *sum = sum.saturating_add(bytes);
        }
        self.moved.add(&progress.moved);
    }
}

/// The shares whose task runs, and the sums of those that ended.
#[derive(Default)]
pub(crate) struct Ledger {
    open: Vec<Arc<ShareHandle>>,
    ended: Totals,
}

impl Inner {
    /// Notes that a share's task begins.
    pub(crate) fn share_began(&self, share: &Arc<ShareHandle>) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).open.push(Arc::clone(share));
    }

    /// Notes that a share's task ends; what it moved stays in the sums.
    pub(crate) fn share_ended(&self, share: &Arc<ShareHandle>, last: &Progress) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.open.retain(|held| !Arc::ptr_eq(held, share));
        ledger.ended.add(last);
    }

    /// The shares whose task runs.
    pub(crate) fn open_shares(&self) -> Vec<Arc<ShareHandle>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).open.clone()
    }
}

impl Node {
    /// Every open share: downloads, and what peers have asked for lately.
    pub fn shares(&self) -> Vec<ShareReport> {
        self.inner.open_shares().iter().map(|share| report(share)).collect()
    }

    /// Manifests of open shares that lack pieces still: their files may take more of the disk than they do now.
    pub fn unwritten(&self) -> Vec<Manifest> {
        let shares = self.inner.open_shares();
        let lacking = shares.iter().filter(|share| share.progress().borrow().phase != Phase::Complete);
        lacking.map(|share| share.manifest().clone()).collect()
    }

    /// Which pieces of an open share are held; `None` where none of this manifest is open.
    pub fn held(&self, manifest: &ManifestId) -> Option<Bitfield> {
        let shares = self.inner.open_shares();
        shares.iter().find(|share| share.manifest().id() == *manifest).map(|share| share.store().held())
    }

    /// How many peers are connected.
    pub fn peer_count(&self) -> usize {
        self.inner.links().len()
    }

    /// Told each time a peer comes or goes.
    pub fn peer_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.link_changes()
    }

    /// Every connected peer, by id.
    pub fn peers(&self) -> Vec<PeerReport> {
        let links: Vec<_> = self.inner.links().values().cloned().collect();
        let report = |link: &Arc<crate::services::node::link::Link>| PeerReport {
            peer: link.peer_id,
            remote: link.remote,
            inbound: link.inbound,
            way: self.inner.way_of(link),
            path: link.path,
            scope: self.inner.scope_of(link),
            agent: link.agent.clone(),
            round_trip: link.round_trip,
            topics: link.slots().by_handle.values().filter(|slot| slot.theirs.is_some()).count(),
            bytes_received: link.bytes_received.load(Ordering::Relaxed),
            bytes_sent: link.bytes_sent.load(Ordering::Relaxed),
            members_refused: link.members_refused.load(Ordering::Relaxed),
        };
        links.iter().map(report).collect()
    }

    /// Each rendezvous that it goes to, and how it is with it.
    pub fn meetings(&self) -> Vec<(String, Standing)> {
        self.inner.meetings.report()
    }

    /// What the rendezvous that it keeps holds; `None` where it keeps none.
    pub fn rendezvous(&self) -> Option<Kept> {
        Kept::of(&self.inner)
    }

    /// How many peers are known this way that are not given up, connected or not.
    pub fn known_by(&self, way: Way) -> usize {
        self.inner.candidates.count(std::time::Instant::now(), way)
    }

    /// How long things took since the start.
    pub fn latencies(&self) -> LatencyReport {
        let held = &self.inner.latencies;
        LatencyReport { piece: held.piece.read(), source: held.source.read(), disk: held.disk.read() }
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        let ledger = self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = ledger.ended;
        ledger.open.iter().for_each(|share| totals.add(&share.progress().borrow()));
        totals.moved.carried = self.inner.endpoint.get().map_or(0, |endpoint| endpoint.meter().carried());
        totals
    }
}

fn report(share: &ShareHandle) -> ShareReport {
    let manifest = share.manifest();
    let content = match manifest.files() {
        [file] if !manifest.is_directory() => Some(file.content_id),
        _ => None,
    };
    let held = share.store().held();
    ShareReport {
        manifest: manifest.id(),
        content,
        name: share.name().to_owned(),
        pieces_held: held.held_count(),
        piece_count: manifest.layout().piece_count(),
        progress: share.progress().borrow().clone(),
    }
}
