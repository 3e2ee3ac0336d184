//! The node: links to peers, shares of manifests, and what brings them together.
//!
//! `Node` is what programs hold. A peer connection is a `session` on a data thread, seen by others as a `link`; a
//! manifest is a `share`, whose task owns its `Swarm`; `talk` translates between the two; `fetch` carries out HTTP
//! ranges; `dial` keeps trying named peers. It decides nothing that the engine or a policy can decide. Read `share`
//! first.

mod bans;
mod bears;
mod cache_hosts;
mod candidates;
mod company;
mod dial;
mod dormant;
mod doubt;
mod elsewhere;
mod error;
mod far;
mod fetch;
mod greeting;
mod group;
mod handle;
mod hints;
mod inner;
mod isolation;
mod latency;
mod limits;
mod line;
mod link;
mod manifest_fetch;
mod manifest_search;
mod meeting;
mod moved;
mod pace;
mod parting;
pub mod progress;
mod receive;
mod records;
mod remembered;
mod rendezvous;
mod report;
mod scrub;
mod send;
mod session;
mod share;
mod sharing;
mod sleep;
mod slices;
mod talk;
mod troubles;
mod yielding;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use crate::content::hash::ManifestId;
use crate::content::layout::PieceIndex;
use crate::content::link::Target;
use crate::drivers::machine::text;
use crate::drivers::store::{DiskThreads, StateDir};
pub use crate::drivers::transport::Target as PeerAddress;
use crate::drivers::transport::channel::LocalBoxFuture;
use crate::drivers::transport::{self, Channel, Endpoint, Identity, Sessions};
pub use crate::drivers::transport::{Far, FarReport, Reach};
pub use crate::services::node::bears::Machine;
pub use crate::services::node::cache_hosts::CachePatience;
pub use crate::services::node::candidates::Way;
pub use crate::services::node::company::Company;
pub use crate::services::node::dormant::{Open, OpenRemote, Opened, Outline};
pub use crate::services::node::error::Error;
pub use crate::services::node::fetch::FetchSources;
pub use crate::services::node::group::{Group, SecretError, Secrets};
use crate::services::node::handle::ShareHandle;
pub(crate) use crate::services::node::inner::Inner;
pub use crate::services::node::latency::Histogram;
pub use crate::services::node::manifest_search::ManifestSearch;
pub use crate::services::node::meeting::Standing;
pub use crate::services::node::moved::{Moved, SCOPES, Waste};
pub use crate::services::node::pace::Rates;
use crate::services::node::progress::Progress;
pub use crate::services::node::report::{Kept, LatencyReport, PeerReport, ShareReport, Totals};
pub use crate::services::node::scrub::{Scrubbed, Scrubbing};
pub use crate::services::node::share::ShareSpec;
use crate::services::node::share::spawn;
use crate::swarm::event::Event;

/// Threads that connections live on; both cores of a small machine.
const DATA_THREADS: usize = 2;

/// Peers that one machine among others has connected at once.
pub const PEERS_MAX: usize = 1024;
/// The same of a seed of a site.
pub const APPLIANCE_PEERS_MAX: usize = 16_384;

/// What a node is started with.
pub struct Options {
    /// Who it is.
    pub identity: Identity,
    /// Where it listens; empty: it only dials.
    pub listen: Vec<SocketAddr>,
    /// A taken port is no failure: any free one will do.
    pub any_port_if_taken: bool,
    /// Whom it meets, until [`Node::meet`] says otherwise.
    pub company: Company,
    /// The site that policy puts this node into; `None`: told from links and addresses.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Peers connected at once; lowered to what the descriptors allow.
    pub peers_max: usize,
    /// Threads that verify, read and write.
    pub disk_threads: usize,
    /// Which way to peers: by itself, or one of the two on purpose.
    pub path: transport::PathPreference,
    /// Rates that must not be passed, until [`Node::limit`] names others.
    pub rates: Rates,
    /// Where networks that isolate their machines are remembered; `None`: nowhere.
    pub state: Option<Arc<StateDir>>,
    /// It keeps a rendezvous for whoever reaches it.
    pub rendezvous: bool,
    /// `/`, or a folder that plays the machine in trials: it says how long it slept.
    pub machine: PathBuf,
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

/// Gives memory back that was not needed for a while, as long as the node lives.
async fn tidy(node: std::sync::Weak<Inner>) {
    let (mut rest, mut quiet) = (limits::TIDY_EVERY, 0u32);
    loop {
        tokio::time::sleep(rest).await;
        let Some(node) = node.upgrade() else { return };
        node.receive_pool.tidy();
        node.large_pool.tidy();
        node.slices.tidy();
        node.keep_remembered();
        node.lull().await;
        // A node that nobody uses is not woken for it.
        let buffers = [node.receive_pool.is_at_rest(), node.large_pool.is_at_rest(), node.slices.is_at_rest()];
        let at_rest = buffers.iter().all(|rests| *rests) && node.dormant.all_sleep();
        rest = if at_rest { limits::TIDY_AT_REST } else { limits::TIDY_EVERY };
        quiet = if at_rest { quiet.saturating_add(1) } else { 0 };
        if quiet % limits::CODE_AGAIN == limits::CODE_AT_REST {
            text::give_back();
        }
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
        let inner = Arc::new(Inner::new(&options)?);
        inner.paces.set(&options.rates);
        let sessions = Arc::new(NodeSessions(Arc::downgrade(&inner)));
        let (callbacks, called) = tokio::sync::mpsc::channel(limits::CALLBACKS_QUEUED_MAX);
        let endpoint = Endpoint::start(
            transport::Options {
                identity: options.identity,
                listen: options.listen,
                any_port_if_taken: options.any_port_if_taken,
                path_preference: options.path,
                data_threads: DATA_THREADS,
                limits: transport::Limits { connections_max: options.peers_max, ..transport::Limits::default() },
                callbacks: Some(callbacks),
            },
            sessions,
        )?;
        if !options.company.peers {
            // Before anybody was accepted: nothing runs between binding and here.
            endpoint.refuse().await;
        }
        let _ = inner.endpoint.set(endpoint);
        if options.company.far.is_some() {
            inner.meet_far(options.company.far.clone());
        }
        tokio::spawn(far::keep(Arc::downgrade(&inner), called));
        tokio::spawn(tidy(Arc::downgrade(&inner)));
        tokio::spawn(sleep::watch(Arc::downgrade(&inner), options.machine));
        if options.company.peers && options.company.discover {
            inner.discover();
        }
        inner.recall();
        tokio::spawn(meeting::attend(Arc::clone(&inner)));
        tokio::spawn(sharing::attend(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Meets others than before: discovery begins or ends, contents are asked for by other words where the group is another,
    /// connections that may not stand any more end, and all others go on. Downloads under way keep the words by which they
    /// ask for their content; begun anew they take others.
    pub async fn meet(&self, company: Company) {
        self.inner.meet(company).await;
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
        self.inner.isolation.named(&address, &self.inner.lan);
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

    /// Offers contents that are held whole without opening them: each is opened, and becomes a share, when a peer first
    /// asks for it. `open` is called on a disk thread; `None` where the content turns out not to be whole. Returns the number
    /// of this place, for [`Node::let_sleep`].
    pub fn keep_dormant(&self, contents: impl IntoIterator<Item = Outline>, open: Open) -> usize {
        self.inner.dormant.fill(contents, &self.inner.group(), open)
    }

    /// A place for contents that lie elsewhere and are fetched once a peer asks: none yet, and none counts as held here.
    /// `open` makes room for one and begins to fetch it. Returns the number of the place, for [`Node::offer`].
    pub fn keep_remote(&self, open: OpenRemote) -> usize {
        self.inner.dormant.fill_remote(open)
    }

    /// Whether a content is to be had from elsewhere whenever a peer asks for it.
    pub fn is_remote(&self, manifest: &ManifestId) -> bool {
        self.inner.dormant.is_remote(manifest)
    }

    /// Knows nothing more of a content that lies elsewhere; as far as it is here it is served on.
    pub fn forget_remote(&self, manifest: &ManifestId) {
        self.inner.dormant.forget_remote(manifest);
    }

    /// Opens a content as a peer's question does, unless it is open; peers that are connected are asked whether they want it.
    pub async fn awaken(&self, manifest: &ManifestId) -> bool {
        self.inner.awaken(manifest).await
    }

    /// Offers more contents of a place that [`Node::keep_dormant`] or [`Node::keep_remote`] made.
    pub fn offer(&self, place: usize, contents: impl IntoIterator<Item = Outline>) {
        self.inner.dormant.add(place, contents, &self.inner.group());
    }

    /// Closes a share that is whole once no peer has asked for it for a while; its place opens it again.
    pub fn let_sleep(&self, share: &Share, place: usize) {
        self.inner.let_sleep(&share.handle, place);
    }

    /// Offers the content of a manifest no more, whether it is open or sleeps; returns whether it was open. One that lies
    /// elsewhere can be opened from there again.
    pub async fn withdraw(&self, manifest: &ManifestId) -> bool {
        self.inner.withdraw(manifest).await
    }

    /// Asks connected peers, and those that connect later, for a manifest; returns each envelope as it arrives. The
    /// caller judges it and stops listening once one is good.
    pub fn manifests(&self, target: &Target) -> ManifestSearch {
        ManifestSearch::start(&self.inner, target)
    }

    /// Moves no more than these rates allow from now on, over all connections.
    pub fn limit(&self, rates: &Rates) {
        self.inner.paces.set(rates);
    }

    /// Bytes a second that the line to the outside has been seen to carry, now or on this network before; 0 where nothing is
    /// known.
    pub fn line_rate(&self) -> u64 {
        self.inner.line_rate()
    }

    /// Contents of the site among which each download here divides the line's budget; 0 where none takes anything of one.
    pub fn line_shared_by(&self) -> u32 {
        self.inner.sharing.divisor()
    }

    /// Whether peers are sent anything from now on. What is on its way is finished.
    pub async fn allow_uploads(&self, allowed: bool) {
        if self.inner.uploads.swap(allowed, Ordering::Relaxed) != allowed {
            for share in self.inner.open_shares() {
                share.tell(Event::UploadsAllowed(allowed)).await;
            }
        }
    }

    /// Whether a peer of this site was seen within a day to hold a manifest's files whole.
    pub fn is_held_near(&self, manifest: &ManifestId) -> bool {
        self.inner.elsewhere.holds(manifest)
    }

    /// Goes by what the machine can bear from now on. What duties have begun is finished, and what nobody else would fetch
    /// is fetched all the same.
    pub async fn bears(&self, machine: Machine) {
        let before = std::mem::replace(&mut *self.inner.machine(), machine);
        for event in machine.news(before) {
            for share in self.inner.open_shares() {
                share.tell(event.clone()).await;
            }
        }
    }

    /// Tells peers that this machine is about to sleep, and begins nothing more. Completes when they know, after half a second
    /// at the latest. Ends by itself when the machine has slept, with [`Node::woke`], or after half a minute.
    pub async fn sleeps(&self) {
        sleep::announce(&self.inner).await;
    }

    /// The machine woke, or will not sleep after all.
    pub async fn woke(&self) {
        sleep::announced_wake(&self.inner).await;
    }

    /// Whether the machine is about to sleep.
    pub fn is_asleep(&self) -> bool {
        self.inner.asleep.load(Ordering::Relaxed)
    }

    /// How many nodes discovery has heard; `None` where it does not run.
    pub fn heard_by_discovery(&self) -> Option<usize> {
        self.inner.discovery().map(|_| self.inner.found.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Whether this network seems to isolate its machines: members are seen and none can be connected, now or less than a
    /// day ago.
    pub fn is_isolated(&self) -> bool {
        self.inner.isolation.is_on()
    }

    /// Whether any peer has dialled this node since its start: its port can be reached.
    pub fn was_dialled(&self) -> bool {
        self.inner.was_dialled.load(Ordering::Relaxed)
    }

    /// What went wrong with peers, for the message of a job that nobody served: the newest few.
    pub fn troubles(&self) -> Vec<String> {
        self.inner.troubles()
    }

    /// Completes once discovery has given its first answers, at once where there is none.
    pub async fn discovered(&self) {
        if let Some(discovery) = self.inner.discovery() {
            discovery.settled().await;
        }
    }

    /// Cache hosts that DNS-SD tells of, `IP:PORT` each, in order; none where they are not looked for.
    pub fn cache_hosts(&self) -> Vec<String> {
        self.inner.discovery().map(|discovery| discovery.cache_hosts()).unwrap_or_default()
    }

    /// The same for a job that would ask them: waits a moment for the first answer where the search has just begun.
    pub async fn first_cache_hosts(&self) -> Vec<String> {
        match self.inner.discovery() {
            Some(discovery) => discovery.first_cache_hosts().await,
            None => Vec::new(),
        }
    }

    /// Says goodbye to peers and stops listening.
    pub async fn stop(&self) {
        self.inner.stopping.send_replace(true);
        // Those that use no peers have no topic, and are to be committed all the same.
        let handles = self.inner.open_shares();
        for handle in &handles {
            handle.stop().await;
        }
        let inner = Arc::clone(&self.inner);
        // Where the disk threads have ended there is nothing left to write.
        let _ = self.inner.disk.run(move || inner.write_remembered()).await;
        self.inner.part_with_all().await;
        if let Some(discovery) = self.inner.discovery() {
            discovery.stop(true);
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
            if let Some(discovery) = self.node.discovery() {
                discovery.settled().await;
            }
            let mut links = self.node.link_count.subscribe();
            let mut progress = self.handle.progress();
            loop {
                let waiting = self.node.links().values().any(|link| !self.handle.has_answer_of(link.number));
                if !waiting && self.node.was_sought(self.handle.askings().map(|(topic, _)| topic)) {
                    break;
                }
                tokio::select! {
                    changed = links.changed() => if changed.is_err() { break },
                    changed = progress.changed() => if changed.is_err() { break },
                }
            }
        };
        let _ = tokio::time::timeout(limits::SETTLE_MAX, settled).await;
        tracing::debug!(content = %self.handle.name(), "discovery has settled");
        self.handle.tell(Event::DiscoverySettled).await;
    }

    /// Whether nobody waits for it from now on: it goes by the rates of such downloads, and yields.
    pub async fn is_background(&self, background: bool) {
        self.handle.set_background(background).await;
    }

    /// Tells the engine that somebody reads in order and has come to this piece.
    pub async fn reader_at(&self, piece: PieceIndex) {
        self.handle.tell(Event::ReaderAt { piece }).await;
    }

    /// Commits what is written and leaves the swarm.
    pub async fn stop(&self) {
        self.node.unregister(&self.handle);
        self.handle.stop().await;
    }
}
