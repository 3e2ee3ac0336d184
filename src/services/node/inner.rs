//! What all parts of a node share: which peers are connected, which topics are served or wanted, whom discovery has
//! found, who is banned. Decides who stays connected; what is done with a peer is the share's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::watch;

use crate::content::hash::Topic;
use crate::drivers::discovery::{Discovery, Found, Lan};
use crate::drivers::store::{BlockPool, DiskThreads};
use crate::drivers::transport::{Endpoint, Target};
use crate::services::node::bans::Bans;
use crate::services::node::bears::Machine;
use crate::services::node::candidates::Candidates;
use crate::services::node::company::Company;
use crate::services::node::dormant::Dormant;
use crate::services::node::elsewhere::Elsewhere;
use crate::services::node::handle::ShareHandle;
use crate::services::node::isolation::Isolation;
use crate::services::node::latency::Latencies;
use crate::services::node::line::Line;
use crate::services::node::link::{Link, address_key, node_id};
use crate::services::node::manifest_search::Giver;
use crate::services::node::meeting::Meetings;
use crate::services::node::pace::{Pace, Paces};
use crate::services::node::records::Records;
use crate::services::node::remembered::Remembered;
use crate::services::node::rendezvous::Register;
use crate::services::node::report::Ledger;
use crate::services::node::sharing::Sharing;
use crate::services::node::slices::Slices;
use crate::services::node::troubles::Troubles;
use crate::services::node::yielding::Yielding;
use crate::services::node::{Error, Options, dial, limits, talk};
use crate::swarm::event::{AddressKey, BanReason, Event, Member, NodeId, Scope};
use crate::wire::limits::{PROOF_BYTES, SITE_BYTES};
use crate::wire::{Frame, GoodbyeReason, version};

/// What all parts of a node share.
pub(crate) struct Inner {
    pub(crate) disk: DiskThreads,
    /// For payload on its way out.
    pub(crate) slices: Slices,
    /// For blocks that arrive.
    pub(crate) receive_pool: BlockPool,
    /// For pieces of several blocks that are assembled in memory.
    pub(crate) large_pool: BlockPool,
    /// Room for blocks that wait for a disk thread.
    pub(crate) write_room: Arc<tokio::sync::Semaphore>,
    /// Held by whoever assembles a piece of several blocks in memory.
    pub(crate) large_piece: tokio::sync::Mutex<()>,
    pub(crate) peer_id: PeerId,
    peers_max: usize,
    /// Whom it meets, now.
    pub(crate) company: watch::Sender<Company>,
    /// Peers that were named on purpose.
    pub(crate) named: Mutex<BTreeSet<PeerId>>,
    /// The site that policy puts this node into, as it is told to peers.
    pub(crate) site: Option<[u8; SITE_BYTES]>,
    pub(crate) lan: Arc<Lan>,
    pub(crate) endpoint: OnceLock<Endpoint>,
    pub(crate) discovery: Mutex<Option<Arc<Discovery>>>,
    pub(crate) links: Mutex<BTreeMap<PeerId, Arc<Link>>>,
    pub(crate) topics: RwLock<BTreeMap<Topic, Vec<Windowed>>>,
    pub(crate) found: Mutex<BTreeMap<PeerId, Vec<SocketAddr>>>,
    pub(crate) bans: Mutex<Bans>,
    /// What went wrong with peers before or beside any topic.
    troubles: Mutex<Troubles>,
    /// By topic: which of the group's keys it is of, and who waits.
    pub(crate) wanted_manifests: Mutex<BTreeMap<Topic, (usize, tokio::sync::mpsc::UnboundedSender<Giver>)>>,
    pub(crate) numbers: AtomicU64,
    /// Counts links that came up, so that others may wait for one.
    pub(crate) link_count: watch::Sender<u64>,
    /// Connections whose goodbye is on its way.
    pub(crate) partings: AtomicUsize,
    pub(crate) stopping: watch::Sender<bool>,
    /// Contents that are here and have not been asked for.
    pub(crate) dormant: Dormant,
    /// A peer has dialled this node.
    pub(crate) was_dialled: AtomicBool,
    /// Rates that must not be passed.
    pub(crate) paces: Paces,
    /// Peers may be sent something.
    pub(crate) uploads: AtomicBool,
    /// The machine is about to sleep: nobody is connected.
    pub(crate) asleep: AtomicBool,
    /// Peers on the Internet may be sent something.
    pub(crate) far_uploads: AtomicBool,
    /// Bytes that they may still be sent; all ones: no limit.
    pub(crate) far_left: AtomicU64,
    /// Something is to be asked of the DHT, or told to it.
    pub(crate) far_news: Arc<tokio::sync::Notify>,
    /// What was asked of the DHT once.
    pub(crate) sought: Mutex<BTreeSet<Topic>>,
    /// This node takes origin duty for others.
    pub(crate) machine: Mutex<Machine>,
    /// Peers that are being dialled.
    pub(crate) dials: dial::Dials,
    /// How long things take.
    pub(crate) latencies: Latencies,
    /// What is moved, for whoever asks.
    pub(crate) ledger: Mutex<Ledger>,
    /// Connections that carry background bytes.
    pub(crate) yielding: Arc<Yielding>,
    /// How fast the line to the outside is.
    pub(crate) line: Line,
    /// Who shares its budget.
    pub(crate) sharing: Sharing,
    /// Whether this network lets its machines connect.
    pub(crate) isolation: Isolation,
    /// What others of the site hold.
    pub(crate) elsewhere: Elsewhere,
    /// Signed addresses of members, ours among them.
    pub(crate) records: Records,
    /// Whom to dial besides those that discovery has found.
    pub(crate) candidates: Candidates,
    /// Who was connected on which network.
    pub(crate) remembered: Remembered,
    /// Where the group meets.
    pub(crate) meetings: Meetings,
    /// Who meets here.
    pub(crate) register: Mutex<Register>,
    /// This node keeps a rendezvous for whoever reaches it; else for those on its links alone.
    pub(crate) keeps_rendezvous: bool,
}

/// A share, and the window of its flat index (first piece, count) that a topic stands for.
pub(crate) type Windowed = (Arc<ShareHandle>, (u32, u32));

impl Inner {
    /// A node that neither listens nor discovers yet.
    ///
    /// # Errors
    /// The system refuses threads.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            disk: DiskThreads::new(options.disk_threads)?,
            slices: Slices::default(),
            receive_pool: BlockPool::new(limits::RECEIVE_BUFFERS_MAX),
            large_pool: BlockPool::new(limits::LARGE_PIECE_BUFFERS_MAX),
            write_room: Arc::new(tokio::sync::Semaphore::new(limits::BYTES_TO_WRITE_MAX / limits::BYTES_TO_WRITE_UNIT)),
            large_piece: tokio::sync::Mutex::default(),
            peer_id: options.identity.peer_id(),
            peers_max: options.peers_max,
            company: watch::channel(options.company.clone()).0,
            named: Mutex::default(),
            site: options.site,
            lan: Arc::default(),
            endpoint: OnceLock::new(),
            discovery: Mutex::default(),
            links: Mutex::default(),
            topics: RwLock::default(),
            found: Mutex::default(),
            bans: Mutex::default(),
            troubles: Mutex::default(),
            wanted_manifests: Mutex::default(),
            numbers: AtomicU64::new(1),
            link_count: watch::channel(0).0,
            partings: AtomicUsize::new(0),
            stopping: watch::channel(false).0,
            dormant: Dormant::default(),
            was_dialled: AtomicBool::new(false),
            paces: Paces::default(),
            uploads: AtomicBool::new(true),
            far_uploads: AtomicBool::new(true),
            far_left: AtomicU64::new(u64::MAX),
            far_news: Arc::default(),
            sought: Mutex::default(),
            asleep: AtomicBool::new(false),
            machine: Mutex::default(),
            dials: Mutex::default(),
            latencies: Latencies::default(),
            ledger: Mutex::default(),
            yielding: Arc::new(Yielding::new()),
            line: Line::new(options.state.clone()),
            sharing: Sharing::default(),
            isolation: Isolation::new(options.state.clone()),
            elsewhere: Elsewhere::default(),
            records: Records::new(options.identity.clone()),
            candidates: Candidates::default(),
            remembered: Remembered::new(options.state.clone()),
            meetings: Meetings::default(),
            register: Mutex::default(),
            keeps_rendezvous: options.rendezvous,
        })
    }

    pub(crate) fn node_id(&self) -> NodeId {
        node_id(&self.peer_id)
    }

    /// This node's address as ranking sees it; peers behind one address share a slot anyway.
    pub(crate) fn own_address(&self) -> AddressKey {
        let own = self.endpoint.get().and_then(|endpoint| endpoint.bound().first().copied());
        own.map_or(AddressKey([0; 18]), address_key)
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn features(&self) -> version::Features {
        match self.keeps_rendezvous || self.company.borrow().discover {
            true => version::Features::OURS.with(version::Features::RENDEZVOUS),
            false => version::Features::OURS,
        }
    }

    /// What is said first over a connection whose end here is `local`.
    pub(crate) fn hello(&self, local: SocketAddr, group_nonce: Option<[u8; PROOF_BYTES]>) -> Frame {
        Frame::Hello {
            version: version::VERSION,
            features: self.features().0,
            agent: version::AGENT.to_owned(),
            listen_port: self.endpoint.get().and_then(|endpoint| endpoint.bound().first()).map_or(0, SocketAddr::port),
            site: self.site,
            record: self.own_record(local),
            group_nonce,
        }
    }

    /// How near a peer is. Two names of sites decide, where both have one; else what address and round trip show: a
    /// neighbour on a link of ours, or in a private network and no further than a LAN is wide, shares our line.
    pub(crate) fn scope_of(&self, link: &Link) -> Scope {
        let ip = link.remote.ip().to_canonical();
        let sites = match (self.site, link.site) {
            (Some(ours), Some(theirs)) => Some(ours == theirs),
            _ => None,
        };
        let private = self.lan.has(ip);
        let near = self.lan.is_on_link(ip) || (private && link.round_trip < limits::SITE_ROUND_TRIP_MAX);
        scope(ip.is_loopback(), sites, near, private)
    }

    /// The rate by which a download goes.
    pub(crate) fn pace_of(&self, share: &ShareHandle) -> &Pace {
        if share.is_background() { &self.paces.background } else { &self.paces.foreground }
    }

    /// Bytes of a download were read; completes once they are within its rate, and nobody is in need of the line.
    pub(crate) async fn came(&self, share: &ShareHandle, bytes: u64) {
        self.pace_of(share).take(bytes).await;
        if share.is_background() {
            self.yielding.open().await;
        }
    }

    /// Bytes of a download came over the line to the outside; completes once they are within the rate of such bytes.
    pub(crate) async fn came_from_outside(&self, share: &ShareHandle, bytes: u64) {
        self.line.note(bytes);
        let paces = &self.paces;
        let pace = if share.is_background() { &paces.background_outside } else { &paces.foreground_outside };
        pace.take(bytes).await;
        paces.line.take(bytes).await;
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, BTreeMap<PeerId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides whether a new connection stays. Of two between the same pair, both ends keep the one that the smaller
    /// peer id dialled; of two dialled by the same end, the newer, since that end knows the older to be gone.
    pub(crate) fn admit(&self, link: &Arc<Link>) -> Result<(), GoodbyeReason> {
        if *self.stopping.borrow() || self.asleep.load(Ordering::Relaxed) {
            return Err(GoodbyeReason::Shutdown);
        }
        if self.bans.lock().unwrap_or_else(PoisonError::into_inner).refuses(&link.peer_id, link.address) {
            return Err(GoodbyeReason::Banned);
        }
        let mut links = self.links();
        // Under the lock: a change of company either is seen here, or finds the link among those that it judges.
        let ours = {
            let company = self.company.borrow();
            company.peers && link.group.goes_on_in(&company.group, link.group_key)
        };
        if !ours {
            return Err(GoodbyeReason::Shutdown);
        }
        if link.inbound && !self.may_stand(link) {
            return Err(GoodbyeReason::Banned);
        }
        let dialled_by_us_is_right = self.peer_id < link.peer_id;
        if let Some(old) = links.get(&link.peer_id) {
            let new_is_right = link.inbound != dialled_by_us_is_right;
            if old.inbound != link.inbound && !new_is_right {
                return Err(GoodbyeReason::TooMany);
            }
            old.close(GoodbyeReason::TooMany);
        } else if links.len() >= self.peers_max {
            return Err(GoodbyeReason::TooMany);
        }
        links.insert(link.peer_id, Arc::clone(link));
        Ok(())
    }

    /// Asks a new peer for everything that is still wanted.
    pub(crate) fn link_up(&self, link: &Arc<Link>) {
        tracing::debug!(peer = %link.peer_id, remote = %link.remote, path = ?link.path, agent = %link.agent, "peer connected");
        self.was_dialled.fetch_or(link.inbound, Ordering::Relaxed);
        self.not_isolated();
        self.tell_sharing(link);
        let wanting: Vec<_> = {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            topics
                .iter()
                .flat_map(|(topic, shares)| shares.iter().map(move |(share, window)| (*topic, share, *window)))
                .filter(|(topic, share, _)| {
                    share.wants_peers() && share.asking(link.group_key).is_some_and(|(first, _)| first == *topic)
                })
                .map(|(topic, share, window)| (topic, Arc::clone(share), window))
                .collect()
        };
        for (topic, share, window) in wanting {
            link.open(topic, Some(share), window, None);
        }
        for (key, asked) in self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if *key == link.group_key {
                let _ = asked.send(Giver::new(link));
            }
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
        self.forget_sharing(link);
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

    pub(crate) fn is_banned(&self, peer: &PeerId) -> bool {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner).holds(peer)
    }

    /// Remembers what went wrong with a peer, for the message of a download that fails.
    pub(crate) fn trouble(&self, text: String) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).note(text);
    }

    pub(crate) fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).list()
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

    pub(crate) fn register(self: &Arc<Self>, share: &Arc<ShareHandle>) {
        {
            let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            for (topic, window) in share.topics() {
                topics.entry(*topic).or_default().push((Arc::clone(share), *window));
            }
        }
        if !share.wants_peers() {
            return;
        }
        let links: Vec<_> = self.links().values().cloned().collect();
        for link in links {
            let Some((topic, window)) = share.asking(link.group_key) else { continue };
            let node = Arc::clone(self);
            let share = Arc::clone(share);
            // A slot opened for the manifest alone is taken over by the share. One that stands for another share, which has
            // told the peer what it holds, is closed and opened anew.
            let (attached, ousted) = {
                let mut slots = link.slots();
                match slots.handle_of(&topic) {
                    Some(ours) if slots.by_handle.get(&ours).is_some_and(|slot| slot.peer.is_some()) => {
                        (false, slots.by_handle.remove(&ours))
                    }
                    Some(ours) => match slots.by_handle.get_mut(&ours) {
                        Some(slot) => {
                            slot.share = Some(Arc::clone(&share));
                            slot.window = window;
                            slot.manifest_sink = None;
                            (true, None)
                        }
                        None => (false, None),
                    },
                    None => (false, None),
                }
            };
            if let Some(slot) = ousted {
                link.part(slot);
            }
            if attached {
                tokio::spawn(async move { talk::stand(&node, &link, &topic).await });
            } else {
                link.open(topic, Some(share), window, None);
            }
        }
        self.look_for_peers();
    }

    pub(crate) fn unregister(&self, share: &Arc<ShareHandle>) {
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

    pub(crate) fn hear_discovery(self: &Arc<Self>, news: Found) {
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

    pub(crate) fn wants_anything(&self) -> bool {
        let manifests = !self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        manifests || topics.values().flatten().any(|(share, _)| share.wants_peers())
    }

    /// Dials a member that the engine wants.
    pub(crate) async fn dial_member(self: &Arc<Self>, member: &Member) -> Result<(), Error> {
        let peer = PeerId::from_bytes(&member.peer_id).map_err(|_| Error::NotAPeerId)?;
        if peer == self.peer_id || self.is_connected(&peer) {
            return Ok(());
        }
        dial::once(self, &Target::socket(member.address, Some(peer))).await.map(|_| ())
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

fn scope(this_machine: bool, same_site: Option<bool>, near: bool, private: bool) -> Scope {
    match same_site {
        Some(false) => Scope::Group,
        _ if this_machine => Scope::Host,
        Some(true) => Scope::Site,
        None if near => Scope::Site,
        None if private => Scope::Group,
        None => Scope::Internet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sites_decide_where_both_have_one_and_distance_elsewhere() {
        for (this_machine, same_site, near, private, expected) in [
            (false, Some(false), true, true, Scope::Group),
            (true, Some(false), true, true, Scope::Group),
            (true, Some(true), true, true, Scope::Host),
            (false, Some(true), false, false, Scope::Site),
            (true, None, true, true, Scope::Host),
            (false, None, true, true, Scope::Site),
            (false, None, true, false, Scope::Site),
            (false, None, false, true, Scope::Group),
            (false, None, false, false, Scope::Internet),
        ] {
            assert_eq!(scope(this_machine, same_site, near, private), expected);
        }
    }
}
