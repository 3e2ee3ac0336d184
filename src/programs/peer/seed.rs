//! Serving one publication where it lies, without copying it into a cache.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::content::open::open_untrusted;
use crate::drivers::store::{PieceStore, Seeding, StateDir, fresh_identity};
use crate::drivers::transport::{Identity, PathPreference};
use crate::programs::peer::{Failure, read_envelope};
use crate::services::node::{self, Company, FetchSources, Node, Share, ShareSpec};
use crate::swarm;

/// What to serve, and how.
pub struct Request {
    /// The file or folder.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: PathBuf,
    /// Where to listen; empty: port 7680 on every address.
    pub listen: Vec<SocketAddr>,
    /// Whom to meet.
    pub company: Company,
    /// Show nobody the identity by which this machine is known elsewhere.
    pub incognito: bool,
    /// Threads that verify and read.
    pub disk_threads: usize,
    /// The site that policy names, as the word that peers are told.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Engine settings from policy.
    pub swarm: swarm::Options,
    /// Which way to peers.
    pub path_preference: PathPreference,
    /// Rates that policy sets.
    pub rates: node::Rates,
    /// `/`, or a folder that plays the machine in trials.
    pub machine: PathBuf,
}

/// A running seed.
pub struct Running {
    /// Its node.
    pub node: Node,
    /// What it serves.
    pub share: Share,
    /// The state folder's lock, if it was free.
    _lock: Option<crate::drivers::store::StateLock>,
    /// Another process has the state folder: this one runs under an identity of its own.
    pub fresh_identity: bool,
}

/// Starts serving. No trust is needed: whoever downloads checks.
///
/// # Errors
/// The manifest or the files are missing or do not fit each other, or the port is taken.
pub async fn start(request: Request, state: &StateDir) -> Result<Running, Failure> {
    let bytes = read_envelope(&request.manifest)?;
    let from = request.manifest.display().to_string();
    let peeked = open_untrusted(bytes.clone()).map_err(|error| {
        Failure::new(error.code(), format!("{from}: {error}"))
            .culprit(from.clone())
            .remedy("make the manifest anew with `piecework publish`, or get it again")
    })?;
    let manifest = peeked.manifest;
    let path = std::path::absolute(&request.path).map_err(|error| Failure::input(&request.path, &error))?;
    let store: Arc<dyn PieceStore> = Arc::new(Seeding::open(&path, manifest.clone())?);
    let lock = state.try_lock()?;
    let mut secret = match &lock {
        Some(lock) if !request.incognito => state.identity(lock)?,
        _ => fresh_identity()?,
    };
    let is_fresh = lock.is_none();
    let node = Node::start(node::Options {
        identity: Identity::from_seed(&mut secret),
        listen: request.listen.clone(),
        any_port_if_taken: false,
        company: request.company,
        site: request.site,
        peers_max: node::PEERS_MAX,
        disk_threads: request.disk_threads,
        path: request.path_preference,
        rates: request.rates,
        state: None,
        rendezvous: false,
        machine: request.machine,
    })
    .await?;
    let share = node.share(ShareSpec {
        manifest,
        envelope: bytes.into(),
        giver: None,
        store,
        sources: FetchSources::default(),
        peers: true,
        timeout: None,
        swarm: request.swarm,
    })?;
    Ok(Running { node, share, _lock: lock, fresh_identity: is_fresh })
}
