//! `piecework node`: a daemon that keeps contents in its cache, fetches those it is told to have, and serves all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::content::hash::ManifestId;
use crate::content::open::open_untrusted;
use crate::content::trust::TrustStore;
use crate::drivers::store::{Cache, CacheLimits, PieceStore, Seeding, StateDir, StateLock};
use crate::drivers::transport::{Identity, PathPreference};
use crate::programs::peer::downloads::{Downloads, Means, Order, Priority, Terms};
use crate::programs::peer::gates::{self, Gates, House};
use crate::programs::peer::journal::Journal;
use crate::programs::peer::ledger::Ledger;
use crate::programs::peer::rates::RateHistory;
use crate::programs::peer::{Failure, Wanted, appliance, read_envelope};
use crate::services::node::{self, FetchSources, Node, Outline, PeerAddress, ShareSpec};
use crate::swarm;

/// Entries of the cache looked at by one job of a disk thread.
const OUTLINES_AT_ONCE: usize = 256;

/// What a daemon is started with.
pub struct Request {
    /// Where to listen; empty: port 7680 on every address.
    pub listen: Vec<SocketAddr>,
    /// Peers to keep connected.
    pub peers: Vec<PeerAddress>,
    /// Manifests, URLs or links of contents to have in the cache.
    pub fetch: Vec<String>,
    /// Files served where they lie, each with its manifest.
    pub serve: Vec<(PathBuf, PathBuf)>,
    /// What it does as the seed of a site; `None`: it is one machine among others.
    pub appliance: Option<appliance::Request>,
    /// It keeps a rendezvous for others.
    pub rendezvous: bool,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Threads that verify, read and write.
    pub disk_threads: usize,
    /// The site that policy names, as the word that peers are told.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Engine settings from policy, for what is served.
    pub swarm: swarm::Options,
    /// What policy says of fetching.
    pub terms: Terms,
    /// Which way to peers.
    pub path: PathPreference,
    /// Every policy, by which the machine is judged and peers are met.
    pub house: House,
    /// Root of the files that tell of the machine.
    pub machine: PathBuf,
}

/// A running daemon.
pub struct Running {
    daemon: Daemon,
    _lock: StateLock,
    /// Contents offered at the start.
    pub contents: usize,
}

/// A handle to a running daemon, for whoever shows or steers it.
#[derive(Clone)]
pub struct Daemon {
    /// Its node.
    pub node: Node,
    /// What it fetches.
    pub downloads: Downloads,
    /// What its machine keeps it from.
    pub gates: Gates,
    /// Where it keeps contents.
    pub cache: Arc<Cache>,
    /// What it has moved on each day.
    pub ledger: Arc<Ledger>,
    /// How fast it has moved bytes lately.
    pub rates: RateHistory,
    /// When it was started.
    pub started: Instant,
    /// What it does as the seed of a site, if it is one.
    pub appliance: Option<appliance::Reports>,
}

impl Daemon {
    /// Cache hosts that downloads ask which begin now, in this order.
    pub fn cache_hosts(&self) -> Vec<String> {
        let verdict = self.gates.verdict();
        if verdict.finds_cache_hosts { self.node.cache_hosts() } else { verdict.cache_hosts }
    }
}

impl Running {
    /// Its node.
    pub fn node(&self) -> &Node {
        &self.daemon.node
    }

    /// A handle for surfaces.
    pub fn daemon(&self) -> Daemon {
        self.daemon.clone()
    }

    /// Commits, says goodbye and ends.
    pub async fn stop(self) {
        self.daemon.downloads.stop().await;
        self.daemon.node.stop().await;
        self.daemon.ledger.write();
    }
}

/// Starts the daemon.
///
/// # Errors
/// Another daemon has the state folder, the port is taken, or a served file does not fit its manifest.
pub async fn start(request: Request, trust: TrustStore, state: &Arc<StateDir>) -> Result<Running, Failure> {
    let lock = state.lock()?;
    let identity = Identity::from_seed(&mut Box::new(state.identity(&lock)?));
    // The downloads keep its limits, which may change.
    let cache = Arc::new(Cache::open(&request.cache, CacheLimits::default())?);
    let first = gates::look(&request.house.policy, &request.machine, &request.cache, None);
    let node = Node::start(node::Options {
        identity,
        listen: request.listen.clone(),
        any_port_if_taken: false,
        company: first.company(&request.house),
        site: request.site,
        peers_max: if request.appliance.is_some() { node::APPLIANCE_PEERS_MAX } else { node::PEERS_MAX },
        disk_threads: request.disk_threads,
        path: request.path,
        rates: first.rates(&request.house.policy, 0),
        state: Some(Arc::clone(state)),
        rendezvous: request.rendezvous,
        machine: request.machine.clone(),
    })
    .await?;
    let ledger = Ledger::open(Arc::clone(state), node.clone(), request.machine.clone());
    tokio::spawn(Arc::clone(&ledger).keep());
    let gates =
        Gates::new(node.clone(), request.machine, request.cache.clone(), Arc::clone(&ledger), request.house).await;
    tokio::spawn(gates.clone().keep());
    let (contents, place) = offer_cache(&node, &cache, &request.swarm).await?;
    let contents = contents.saturating_add(offer_in_place(&node, &request.serve, &request.swarm)?);
    let journal = Arc::new(Journal::new(state.path()));
    let means = Means { node: node.clone(), cache: Arc::clone(&cache), state: Arc::clone(state), place, journal };
    let downloads = Downloads::new(means, request.terms, trust, gates.changes(), gates.others());
    downloads.name_peers(&request.peers);
    tokio::spawn(downloads.clone().keep_house());
    let started = Instant::now();
    let rates = RateHistory::new(node.clone(), started);
    tokio::spawn(rates.clone().keep(downloads.clone()));
    for wanted in &request.fetch {
        let (wanted, priority) = (Wanted::parse(wanted)?, Priority::Background);
        downloads.start(Order { wanted, peers: Vec::new(), priority, within: None, uid: None, owner: true })?;
    }
    let appliance = request.appliance;
    let appliance =
        appliance.map(|wanted| appliance::start(wanted, &downloads, &request.swarm, gates.machine())).transpose()?;
    let daemon = Daemon { node, downloads, gates, cache, ledger, rates, started, appliance };
    Ok(Running { daemon, _lock: lock, contents })
}

/// Offers what the cache holds whole; returns the number of its entries, and that of its place in the node. A content still in part is taken up by its
/// fetch, if it is still wanted.
async fn offer_cache(node: &Node, cache: &Arc<Cache>, swarm: &swarm::Options) -> Result<(usize, usize), Failure> {
    let ids = cache.ids()?;
    let count = ids.len();
    // Small files, thousands of them: read by all disk threads.
    let parts: Vec<_> = ids
        .chunks(OUTLINES_AT_ONCE)
        .map(|part| {
            let (cache, part, disk) = (Arc::clone(cache), part.to_vec(), node.disk().clone());
            async move {
                disk.run(move || part.iter().map(|id| (*id, cache.content_ids(*id))).collect::<Vec<Outline>>()).await
            }
        })
        .collect();
    let mut outlines = Vec::with_capacity(count);
    for part in futures_util::future::join_all(parts).await {
        outlines.extend(part?);
    }
    let (cache, swarm) = (Arc::clone(cache), swarm.clone());
    let open = move |id: &ManifestId| {
        let store = cache.open_entry(*id, &mut |_| {}).inspect_err(|error| {
            tracing::warn!(%error, "a content of the cache is left out");
        });
        let store = store.ok().filter(|store| store.held().is_complete())?;
        cache.touch(*id);
        let (manifest, envelope) = (store.manifest().clone(), store.envelope().into());
        let (store, sources, swarm) = (Arc::new(store), FetchSources::default(), swarm.clone());
        Some(ShareSpec { manifest, envelope, giver: None, store, sources, peers: true, timeout: None, swarm })
    };
    Ok((count, node.keep_dormant(outlines, Arc::new(open))))
}

/// Offers files where they lie: each is held against its manifest's shape now, and opened when a peer asks for it.
fn offer_in_place(node: &Node, serve: &[(PathBuf, PathBuf)], swarm: &swarm::Options) -> Result<usize, Failure> {
    let mut outlines = Vec::with_capacity(serve.len());
    let mut places = BTreeMap::new();
    for (path, manifest) in serve {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|error| Failure::input(path, &error));
        let place = (absolute(path)?, absolute(manifest)?);
        let (store, _) = open_in_place(&place)?;
        let manifest = store.manifest();
        outlines.push((manifest.id(), manifest.files().iter().map(|file| file.content_id).collect()));
        places.insert(manifest.id(), place);
    }
    let (count, swarm) = (outlines.len(), swarm.clone());
    let open = move |id: &ManifestId| {
        let place = places.get(id)?;
        let opened = open_in_place(place).inspect_err(|error| {
            tracing::warn!(path = %place.0.display(), reason = %error, "a served content is left out");
        });
        let (store, envelope) = opened.ok()?;
        let manifest = store.manifest().clone();
        if manifest.id() != *id {
            tracing::warn!(manifest = %place.1.display(), "it has changed since the start and is left out; restart the node");
            return None;
        }
        let (store, sources, swarm) = (Arc::new(store), FetchSources::default(), swarm.clone());
        Some(ShareSpec { manifest, envelope, giver: None, store, sources, peers: true, timeout: None, swarm })
    };
    node.keep_dormant(outlines, Arc::new(open));
    Ok(count)
}

/// Opens a path as the manifest beside it says; also returns the exact bytes of the envelope.
pub(super) fn open_in_place((path, manifest): &(PathBuf, PathBuf)) -> Result<(Seeding, Arc<[u8]>), Failure> {
    let bytes = read_envelope(manifest)?;
    let peeked = open_untrusted(bytes.clone())
        .map_err(|error| Failure::new(error.code(), format!("{}: {error}", manifest.display())))?;
    Ok((Seeding::open(path, peeked.manifest)?, bytes.into()))
}
