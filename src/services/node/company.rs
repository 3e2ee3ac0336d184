//! Whom a node meets: nobody, those on its links, members of a group. This may change while it runs; connections that may
//! not stand any more end, all others go on.

use std::sync::{Arc, PoisonError};

use libp2p::PeerId;

use crate::drivers::discovery::{self, Discovery};
use crate::drivers::transport::Far;
use crate::policy::Restrict;
use crate::services::node::Inner;
use crate::services::node::candidates::Way;
use crate::services::node::group::Group;
use crate::services::node::link::Link;
use crate::wire::GoodbyeReason;

/// Whom a node meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Company {
    /// Peers are met at all; else no port is open and nobody is dialled, named or not.
    pub peers: bool,
    /// DNS-SD on the LAN: told to others, and heard.
    pub discover: bool,
    /// Which peers are near enough; those that this node was told to dial always are. Never [`Restrict::Auto`].
    pub near: Restrict,
    /// What members of a group have in common; none outside groups.
    pub group: Group,
    /// Peers on the Internet, and how they are found; `None`: those at public addresses are not met, our own links and those
    /// that this node was told to dial excepted.
    pub far: Option<Far>,
    /// The network that discovery speaks on, where it must not follow the machine to another by itself: it begins anew
    /// when this changes. `None`: it follows.
    pub network: Option<String>,
    /// Where the group meets besides, as `HOST:PORT`; none where nobody is looked for.
    pub rendezvous: Vec<String>,
    /// Cache hosts are looked for by DNS-SD, where `discover` is.
    pub cache_hosts: bool,
    /// A download waits a moment for the first of them.
    pub awaits_cache_hosts: bool,
}

impl Default for Company {
    /// Named peers and those that dial, no discovery, no group.
    fn default() -> Self {
        Self {
            peers: true,
            discover: false,
            near: Restrict::None,
            group: Group::default(),
            far: None,
            network: None,
            rendezvous: Vec::new(),
            cache_hosts: false,
            awaits_cache_hosts: false,
        }
    }
}

impl Inner {
    /// What members of the group have in common, now.
    pub(crate) fn group(&self) -> Group {
        self.company.borrow().group.clone()
    }

    /// Discovery, where it runs.
    pub(crate) fn discovery(&self) -> Option<Arc<Discovery>> {
        self.discovery.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers that this peer was named on purpose.
    pub(crate) fn named(&self, peer: PeerId) {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
    }

    /// Completes once peers may be met.
    pub(crate) async fn meets_peers(&self) {
        let mut company = self.company.subscribe();
        // The sender is this node's own.
        let _ = company.wait_for(|company| company.peers).await;
    }

    /// Whether an address at which a peer is dialled, or dials, is near enough by policy; `heard` by DNS-SD.
    pub(crate) fn is_near(&self, ip: std::net::IpAddr, heard: bool) -> bool {
        match self.company.borrow().near {
            Restrict::Auto | Restrict::None => true,
            Restrict::Subnet => self.lan.is_on_link(ip),
            Restrict::DnsSd => heard || self.lan.is_on_link(ip),
        }
    }

    /// Whether a connection may stand: peers are met, this one is of the group and near enough.
    pub(crate) fn may_stand(&self, link: &Link) -> bool {
        let (met, near, far) = {
            let company = self.company.borrow();
            let met = company.peers && link.group.goes_on_in(&company.group, link.group_key);
            (met, company.near, company.far.is_some())
        };
        let named = || self.named.lock().unwrap_or_else(PoisonError::into_inner).contains(&link.peer_id);
        let heard = || self.found.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&link.peer_id);
        let ip = link.remote.ip();
        // A stranger's network; whom we dial there without the mode internet, somebody named.
        if !far && !self.lan.has(ip) && !named() {
            return false;
        }
        met && match (link.inbound, near) {
            (true, Restrict::Subnet) => self.lan.is_on_link(ip),
            // Who dials was told of this node by somebody; it may be out of the reach of DNS-SD.
            (true, _) => true,
            (false, _) => named() || self.is_near(ip, heard()),
        }
    }

    /// Changes whom this node meets.
    pub(crate) async fn meet(self: &Arc<Self>, company: Company) {
        let before = self.company.send_replace(company.clone());
        if before == company {
            return;
        }
        let speaks = |company: &Company| company.peers && company.discover;
        let mut found = std::collections::BTreeMap::new();
        if speaks(&before) && (!speaks(&company) || before.network != company.network) {
            let discovery = self.discovery.lock().unwrap_or_else(PoisonError::into_inner).take();
            // On another network than the one that was told of this node, nothing is said, not even goodbye.
            discovery.iter().for_each(|discovery| discovery.stop(before.network == company.network));
            found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if let Some(endpoint) = self.endpoint.get() {
            match company.peers {
                true => {
                    if let Err(error) = endpoint.accept() {
                        tracing::error!(%error, "peers cannot be accepted again; others are dialled");
                    }
                }
                false => endpoint.refuse().await,
            }
        }
        if before.group != company.group {
            self.dormant.refile(&company.group);
            self.candidates.forget(Way::Rendezvous);
        }
        self.recall();
        if before.far != company.far {
            self.meet_far(company.far.clone());
        }
        if before.group != company.group || before.peers != company.peers {
            self.close_awake().await;
        }
        // Whom nobody but discovery has told of is not met without it.
        let by_discovery = |link: &Link| {
            let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).contains(&link.peer_id);
            !speaks(&company) && !link.inbound && !named && found.contains_key(&link.peer_id)
        };
        let links: Vec<_> = self.links().values().cloned().collect();
        let strangers = links.into_iter().filter(|link| !self.may_stand(link) || by_discovery(link));
        for link in strangers {
            match company.peers {
                true => link.close(GoodbyeReason::Shutdown),
                false => link.abort(),
            }
        }
        match self.discovery() {
            None if speaks(&company) => self.discover(),
            Some(discovery) => discovery.seek_cache_hosts(company.cache_hosts),
            None => {}
        }
    }

    /// Meets peers on the Internet, or not any more.
    pub(crate) fn meet_far(&self, far: Option<Far>) {
        if let Some(Err(error)) = self.endpoint.get().map(|endpoint| endpoint.meet_far(far)) {
            tracing::error!(%error, "peers on the Internet cannot be met");
        }
    }

    /// Begins to tell and hear on the LAN; a machine without multicast still has named peers and HTTP.
    pub(crate) fn discover(self: &Arc<Self>) {
        let bound = self.endpoint.get().map(|endpoint| endpoint.bound().to_vec()).unwrap_or_default();
        let options = discovery::Options {
            port: bound.first().map_or(0, std::net::SocketAddr::port),
            peer_id: self.peer_id,
            loopback_only: !bound.is_empty() && bound.iter().all(|address| address.ip().is_loopback()),
            follows: self.company.borrow().network.is_none(),
        };
        match Discovery::start(options, Arc::clone(&self.lan)) {
            Ok((discovery, mut found)) => {
                discovery.seek_cache_hosts(self.company.borrow().cache_hosts);
                *self.discovery.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(discovery));
                let node = Arc::clone(self);
                tokio::spawn(async move {
                    while let Some(news) = found.recv().await {
                        node.hear_discovery(news);
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "no discovery on this LAN"),
        }
    }
}
