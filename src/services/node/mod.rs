//! The node: links to peers, shares of manifests, and what brings them together.
//!
//! `Node` is what programs hold. A peer connection is a `session` on a data thread, seen by others as a `link`; a
//! manifest is a `share`, whose task owns its `Swarm`; `talk` translates between the two; `fetch` carries out HTTP
//! ranges; `dial` keeps trying named peers. It decides nothing that the engine or a policy can decide. Read `share`
//! first.

mod bans;
mod dial;
mod error;
mod fetch;
mod hints;
mod limits;
mod link;
mod manifest_fetch;
pub mod progress;
mod receive;
mod session;
mod share;
mod talk;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use crate::content::hash::Topic;
use crate::content::link::Target;
use crate::drivers::discovery::{Discovery, Found};
use crate::drivers::store::{BlockPool, DiskThreads};
pub use crate::drivers::transport::Target as PeerAddress;
use crate::drivers::transport::channel::LocalBoxFuture;
use crate::drivers::transport::{self, Channel, Endpoint, Identity, Sessions};
use crate::services::node::bans::Bans;
pub use crate::services::node::error::Error;
pub use crate::services::node::fetch::FetchSources;
use crate::services::node::link::{Link, address_key, node_id};
use crate::services::node::manifest_fetch::ManifestSink;
use crate::services::node::progress::Progress;
pub use crate::services::node::share::ShareSpec;
use crate::services::node::share::{ShareHandle, spawn};
use crate::swarm::event::{AddressKey, BanReason, Event, Member, NodeId};
use crate::wire::version;
use crate::wire::{Frame, GoodbyeReason};

/// Threads that connections live on; both cores of a small machine.
const DATA_THREADS: usize = 2;

/// What a node is started with.
pub struct Options {
    /// Who it is.
    pub identity: Identity,
    /// Where it listens; empty: it only dials.
    pub listen: Vec<SocketAddr>,
    /// A taken port is no failure: any free one will do.
    pub any_port_if_taken: bool,
    /// DNS-SD on the LAN.
    pub discover: bool,
    /// Refuse peers that dial from public addresses.
    pub private_only: bool,
    /// The site that policy puts this node into; `None`: told from links and addresses.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Threads that verify, read and write.
    pub disk_threads: usize,
    /// Which way to peers: by itself, or one of the two on purpose.
    pub path: transport::PathPreference,
}

/// A running node; dropping it ends nothing, `stop` does.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// One manifest that a node serves or downloads.
#[derive(Clone)]
pub struct Share {
    node: Arc<Inner>,
    handle: Arc<ShareHandle>,
}

/// What all parts of a node share.
pub(crate) struct Inner {
    pub(crate) disk: DiskThreads,
    pub(crate) receive_pool: BlockPool,
    pub(crate) send_pool: BlockPool,
    /// Held by whoever assembles a piece of several blocks in memory.
    pub(crate) large_piece: tokio::sync::Mutex<()>,
    peer_id: PeerId,
    private_only: bool,
    pub(crate) site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    endpoint: OnceLock<Endpoint>,
    discovery: OnceLock<Discovery>,
    links: Mutex<BTreeMap<PeerId, Arc<Link>>>,
    topics: RwLock<BTreeMap<Topic, Vec<Windowed>>>,
    found: Mutex<BTreeMap<PeerId, Vec<SocketAddr>>>,
    bans: Mutex<Bans>,
    wanted_manifests: Mutex<BTreeMap<Topic, tokio::sync::mpsc::UnboundedSender<Arc<Link>>>>,
    numbers: AtomicU64,
    /// Counts links that came up, so that others may wait for one.
    link_count: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
}

/// A share, and the window of its flat index (first piece, count) that a topic stands for.
type Windowed = (Arc<ShareHandle>, (u32, u32));

struct NodeSessions(std::sync::Weak<Inner>);

impl Sessions for NodeSessions {
    fn run(&self, channel: Channel) -> LocalBoxFuture<()> {
        let node = self.0.upgrade();
        Box::pin(async move {
            if let Some(node) = node {
                session::run(node, channel).await;
            }
        })
    }
}

/// 32 bytes of the system's entropy; a seed for what below must be pure.
pub(crate) fn entropy() -> [u8; 32] {
    let mut seed = [0; 32];
    if getrandom::fill(&mut seed).is_err() {
        // Ties then fall as those of another process would; nothing secret depends on this.
        tracing::warn!("the system gives no entropy for the swarm's seed");
    }
    seed
}

impl Node {
    /// Starts listening and discovering.
    ///
    /// # Errors
    /// The port is taken, or the system refuses threads or sockets.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let peer_id = options.identity.peer_id();
        let inner = Arc::new(Inner {
            disk: DiskThreads::new(options.disk_threads)?,
            receive_pool: BlockPool::new(limits::RECEIVE_BUFFERS_MAX),
            send_pool: BlockPool::new(limits::SEND_BUFFERS_MAX),
            large_piece: tokio::sync::Mutex::default(),
            peer_id,
            private_only: options.private_only,
            site: options.site,
            endpoint: OnceLock::new(),
            discovery: OnceLock::new(),
            links: Mutex::default(),
            topics: RwLock::default(),
            found: Mutex::default(),
            bans: Mutex::default(),
            wanted_manifests: Mutex::default(),
            numbers: AtomicU64::new(1),
            link_count: watch::channel(0).0,
            stopping: watch::channel(false).0,
        });
        let sessions = Arc::new(NodeSessions(Arc::downgrade(&inner)));
        let loopback_only =
            !options.listen.is_empty() && options.listen.iter().all(|address| address.ip().is_loopback());
        let endpoint = Endpoint::start(
            transport::Options {
                identity: options.identity,
                listen: options.listen,
                any_port_if_taken: options.any_port_if_taken,
                path_preference: options.path,
                data_threads: DATA_THREADS,
                limits: transport::Limits::default(),
            },
            sessions,
        )?;
        let port = endpoint.bound().first().map(SocketAddr::port);
        let _ = inner.endpoint.set(endpoint);
        let node = Self { inner };
        if options.discover {
            node.discover(port.unwrap_or(0), loopback_only);
        }
        Ok(node)
    }

    fn discover(&self, port: u16, loopback_only: bool) {
        let options = crate::drivers::discovery::Options { port, peer_id: self.inner.peer_id, loopback_only };
        match Discovery::start(options) {
            Ok((discovery, mut found)) => {
                let _ = self.inner.discovery.set(discovery);
                let node = Arc::clone(&self.inner);
                tokio::spawn(async move {
                    while let Some(news) = found.recv().await {
                        node.hear_discovery(news);
                    }
                });
            }
            // A machine without multicast still has named peers and HTTP.
            Err(error) => tracing::warn!(%error, "no discovery on this LAN"),
        }
    }

    /// The node's own id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// Full multiaddresses at which it accepts peers.
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.inner.endpoint.get().map(Endpoint::listening).unwrap_or_default()
    }

    /// The disk threads, for work that belongs to them.
    pub fn disk(&self) -> &DiskThreads {
        &self.inner.disk
    }

    /// Keeps a named peer connected while the node runs. Completes once the first attempt has been answered or
    /// refused.
    pub fn keep_peer(&self, address: PeerAddress) -> impl Future<Output = ()> + Send + 'static {
        dial::keep(Arc::clone(&self.inner), address)
    }

    /// Serves, and where pieces are missing downloads, one manifest.
    ///
    /// # Errors
    /// Only where the store's bitfield is not the manifest's.
    pub fn share(&self, spec: ShareSpec) -> Result<Share, Error> {
        let peers = spec.peers;
        let handle = spawn(&self.inner, spec)?;
        if peers {
            self.inner.register(&handle);
        }
        Ok(Share { node: Arc::clone(&self.inner), handle })
    }

    /// Asks connected peers, and those that connect later, for a manifest; returns each envelope as it arrives. The
    /// caller judges it and stops listening once one is good.
    pub fn manifests(&self, target: &Target) -> ManifestSearch {
        let topic = match target {
            Target::Content(id) => Topic::of_content(id, &self.inner.group_secret()),
            Target::Manifest(id) => Topic::of_manifest(id, &self.inner.group_secret()),
        };
        let (asked, links) = tokio::sync::mpsc::unbounded_channel();
        let connected: Vec<_> = self.inner.links().values().cloned().collect();
        for link in connected {
            let _ = asked.send(link);
        }
        self.inner.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).insert(topic, asked);
        self.inner.dial_found();
        ManifestSearch { node: Arc::clone(&self.inner), topic, links, pending: tokio::task::JoinSet::new() }
    }

    /// Completes once discovery has given its first answers, at once where there is none.
    pub async fn discovered(&self) {
        if let Some(discovery) = self.inner.discovery.get() {
            discovery.settled().await;
        }
    }

    /// Says goodbye to peers and stops listening.
    pub async fn stop(&self) {
        self.inner.stopping.send_replace(true);
        let handles: BTreeMap<u64, Arc<ShareHandle>> = {
            let topics = self.inner.topics.read().unwrap_or_else(PoisonError::into_inner);
            topics.values().flatten().map(|(handle, _)| (Arc::as_ptr(handle) as u64, Arc::clone(handle))).collect()
        };
        for handle in handles.values() {
            handle.stop().await;
        }
        for link in self.inner.links().values() {
            link.close(GoodbyeReason::Shutdown);
        }
        let mut count = self.inner.link_count.subscribe();
        let gone = async {
            while !self.inner.links().is_empty() {
                if count.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(limits::GOODBYE_TIMEOUT, gone).await;
        if let Some(discovery) = self.inner.discovery.get() {
            discovery.stop();
        }
        if let Some(endpoint) = self.inner.endpoint.get() {
            endpoint.shutdown().await;
        }
    }
}

impl Share {
    /// Snapshots of how it goes, several a second while it does.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.handle.progress()
    }

    /// Tells the engine that discovery has settled once `named` peers had their first attempt, the connected ones
    /// have answered for this share, and the LAN's first answers are in; after a second at the latest.
    pub async fn settle(&self, named: impl Future<Output = ()>) {
        let settled = async {
            named.await;
            if let Some(discovery) = self.node.discovery.get() {
                discovery.settled().await;
            }
            let mut links = self.node.link_count.subscribe();
            let mut progress = self.handle.progress();
            loop {
                let waiting = self.node.links().values().any(|link| !self.handle.has_answer_of(link.number));
                if !waiting {
                    break;
                }
                tokio::select! {
                    changed = links.changed() => if changed.is_err() { break },
                    changed = progress.changed() => if changed.is_err() { break },
                }
            }
        };
        let _ = tokio::time::timeout(limits::SETTLE_MAX, settled).await;
        self.handle.tell(Event::DiscoverySettled).await;
    }

    /// Addresses of the peers connected now.
    pub fn peer_addresses(&self) -> Vec<std::net::IpAddr> {
        self.node.links().values().map(|link| link.remote.ip()).collect()
    }

    /// Commits what is written and leaves the swarm.
    pub async fn stop(&self) {
        self.node.unregister(&self.handle);
        self.handle.stop().await;
    }
}

/// Manifests as peers send them.
pub struct ManifestSearch {
    node: Arc<Inner>,
    topic: Topic,
    links: tokio::sync::mpsc::UnboundedReceiver<Arc<Link>>,
    pending: tokio::task::JoinSet<Option<(Arc<Link>, Vec<u8>)>>,
}

impl ManifestSearch {
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

impl Inner {
    pub(crate) fn node_id(&self) -> NodeId {
        node_id(&self.peer_id)
    }

    /// This node's address as ranking sees it; peers behind one address share a slot anyway.
    pub(crate) fn own_address(&self) -> AddressKey {
        let own = self.endpoint.get().and_then(|endpoint| endpoint.bound().first().copied());
        own.map_or(AddressKey([0; 18]), address_key)
    }

    /// The group's secret; empty outside groups.
    pub(crate) fn group_secret(&self) -> Vec<u8> {
        Vec::new()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn hello(&self) -> Frame {
        Frame::Hello {
            version: version::VERSION,
            features: version::Features::NONE.0,
            agent: version::AGENT.to_owned(),
            listen_port: self.endpoint.get().and_then(|endpoint| endpoint.bound().first()).map_or(0, SocketAddr::port),
            site: self.site,
        }
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, BTreeMap<PeerId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides whether a new connection stays. Of two between the same pair, both ends keep the one that the smaller
    /// peer id dialled; of two dialled by the same end, the newer, since that end knows the older to be gone.
    pub(crate) fn admit(&self, link: &Arc<Link>) -> Result<(), GoodbyeReason> {
        if *self.stopping.borrow() {
            return Err(GoodbyeReason::Shutdown);
        }
        if self.bans.lock().unwrap_or_else(PoisonError::into_inner).refuses(&link.peer_id, link.address) {
            return Err(GoodbyeReason::Banned);
        }
        // A peer we dial was named by a person or passed the address policy.
        if self.private_only && link.inbound && !hints::is_private(link.remote.ip()) {
            return Err(GoodbyeReason::Banned);
        }
        let mut links = self.links();
        let dialled_by_us_is_right = self.peer_id < link.peer_id;
        if let Some(old) = links.get(&link.peer_id) {
            let new_is_right = link.inbound != dialled_by_us_is_right;
            if old.inbound != link.inbound && !new_is_right {
                return Err(GoodbyeReason::TooMany);
            }
            old.close(GoodbyeReason::TooMany);
        } else if links.len() >= limits::LINKS_MAX {
            return Err(GoodbyeReason::TooMany);
        }
        links.insert(link.peer_id, Arc::clone(link));
        Ok(())
    }

    /// Asks a new peer for everything that is still wanted.
    pub(crate) fn link_up(&self, link: &Arc<Link>) {
        tracing::debug!(peer = %link.peer_id, remote = %link.remote, path = ?link.path, agent = %link.agent, "peer connected");
        let wanting: Vec<_> = {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            topics
                .iter()
                .flat_map(|(topic, shares)| shares.iter().map(move |(share, window)| (*topic, share, *window)))
                .filter(|(topic, share, _)| {
                    share.wants_peers() && share.topics().first().is_some_and(|(first, _)| first == topic)
                })
                .map(|(topic, share, window)| (topic, Arc::clone(share), window))
                .collect()
        };
        for (topic, share, window) in wanting {
            link.open(topic, Some(share), window, None);
        }
        for asked in self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = asked.send(Arc::clone(link));
        }
        self.link_count.send_modify(|count| *count += 1);
    }

    pub(crate) async fn link_down(&self, link: &Arc<Link>) {
        {
            let mut links = self.links();
            if links.get(&link.peer_id).is_some_and(|held| held.number == link.number) {
                links.remove(&link.peer_id);
            }
        }
        let slots = std::mem::take(&mut link.slots().by_handle);
        for slot in slots.into_values() {
            if let Some(sink) = slot.manifest_sink {
                sink.refused();
            }
            if let (Some(share), Some(peer)) = (slot.share, slot.peer) {
                share.tell(Event::PeerDown { peer }).await;
            }
        }
        self.link_count.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.links().contains_key(peer)
    }

    pub(crate) fn ban(&self, link: &Link, reason: BanReason, lasts: Duration) {
        tracing::warn!(peer = %link.peer_id, remote = %link.remote, ?reason, "peer banned");
        let mut bans = self.bans.lock().unwrap_or_else(PoisonError::into_inner);
        bans.add(link.peer_id, link.address, lasts);
    }

    /// Who serves a topic here, preferring a share that holds everything.
    pub(crate) fn share_of(&self, topic: &Topic) -> Option<Windowed> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let shares = topics.get(topic)?;
        let best = shares.iter().find(|(share, _)| !share.wants_peers()).or_else(|| shares.first());
        best.map(|(share, window)| (Arc::clone(share), *window))
    }

    fn register(self: &Arc<Self>, share: &Arc<ShareHandle>) {
        {
            let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            for (topic, window) in share.topics() {
                topics.entry(*topic).or_default().push((Arc::clone(share), *window));
            }
        }
        if !share.wants_peers() {
            return;
        }
        let Some((topic, window)) = share.topics().first().copied() else { return };
        let links: Vec<_> = self.links().values().cloned().collect();
        for link in links {
            let node = Arc::clone(self);
            let share = Arc::clone(share);
            // A slot opened for the manifest alone is taken over by the share.
            let attached = {
                let mut slots = link.slots();
                match slots.handle_of(&topic).and_then(|ours| slots.by_handle.get_mut(&ours)) {
                    Some(slot) => {
                        slot.share = Some(Arc::clone(&share));
                        slot.window = window;
                        slot.manifest_sink = None;
                        true
                    }
                    None => false,
                }
            };
            if attached {
                tokio::spawn(async move { talk::stand(&node, &link, &topic).await });
            } else {
                link.open(topic, Some(share), window, None);
            }
        }
        self.dial_found();
    }

    fn unregister(&self, share: &Arc<ShareHandle>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        for (topic, _) in share.topics() {
            if let Some(shares) = topics.get_mut(topic) {
                shares.retain(|(held, _)| !Arc::ptr_eq(held, share));
                if shares.is_empty() {
                    topics.remove(topic);
                }
            }
        }
    }

    fn hear_discovery(self: &Arc<Self>, news: Found) {
        match news {
            Found::Peer { peer, addresses } => {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, addresses);
                self.dial_found();
            }
            Found::Gone { peer } => {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
            }
        }
    }

    fn wants_anything(&self) -> bool {
        let manifests = !self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        manifests || topics.values().flatten().any(|(share, _)| share.wants_peers())
    }

    /// Dials what discovery has found, if anything is wanted.
    fn dial_found(self: &Arc<Self>) {
        if !self.wants_anything() {
            return;
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (peer, addresses) in found {
            if !self.is_connected(&peer) {
                let node = Arc::clone(self);
                tokio::spawn(async move { dial::found(&node, peer, &addresses).await });
            }
        }
    }

    /// Whether an address that a peer told may be dialled (security: reflection and scanning).
    pub(crate) fn may_dial_hint(&self, link: &Link, member: &Member) -> bool {
        hints::may_dial(link.remote.ip(), member.address)
    }

    /// Dials a member that the engine wants.
    pub(crate) async fn dial_member(self: &Arc<Self>, member: &Member) -> Result<(), Error> {
        let peer = PeerId::from_bytes(&member.peer_id).map_err(|_| Error::NotAPeerId)?;
        if peer == self.peer_id || self.is_connected(&peer) {
            return Ok(());
        }
        dial::once(self, &transport::Target::socket(member.address, Some(peer))).await.map(|_| ())
    }

    pub(crate) fn endpoint(&self) -> Result<&Endpoint, Error> {
        self.endpoint.get().ok_or(Error::NotStarted)
    }

    /// Completes when the node stops.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Completes when a link came up or went down.
    pub(crate) fn link_changes(&self) -> watch::Receiver<u64> {
        self.link_count.subscribe()
    }
}
