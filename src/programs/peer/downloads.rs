//! What a daemon was told to have: each wanted content is fetched into the cache until it is whole, tried anew where that
//! fails, held while the daemon is paused, and ended when it is cancelled. Two ways of naming one manifest share one
//! download.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::content::trust::TrustStore;
use crate::drivers::sources::{self, Client};
use crate::drivers::store::{Cache, StateDir};
use crate::drivers::transport::PeerId;
use crate::programs::peer::resolve::{from_file_or_url, from_peers};
use crate::programs::peer::{Failure, Wanted, sources as source_urls};
use crate::services::node::progress::{Outcome, Phase, Progress};
use crate::services::node::{Node, PeerAddress, Share, ShareSpec};
use crate::swarm;

/// How long a wanted content may find nobody before it is tried anew.
const RETRY: Duration = Duration::from_secs(60);
/// Givers of lying manifests that are remembered, and not asked again.
const CONDEMNED_MAX: usize = 64;
/// Contents that may be wanted at one time.
const DOWNLOADS_MAX: usize = 1024;

/// With what contents are fetched.
pub struct Means {
    /// Who fetches.
    pub node: Node,
    /// Where to.
    pub cache: Arc<Cache>,
    /// Where sequences are remembered.
    pub state: Arc<StateDir>,
    /// Peers may be asked and served.
    pub peers: bool,
    /// Engine settings from policy.
    pub swarm: swarm::Options,
}

/// Where a download stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its manifest is being looked for.
    Resolving,
    /// Pieces are missing.
    Downloading,
    /// Held whole, and served.
    Complete,
    /// Held still by `pause`.
    Paused,
    /// It failed, and is tried again; code word and reason.
    Waiting(Code, String),
    /// The download of this number has the same manifest, and fetches it for both.
    SharedWith(u64),
}

impl Standing {
    /// One word, as the API and the tables have it.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::Resolving => "resolving",
            Standing::Downloading => "downloading",
            Standing::Complete => "complete",
            Standing::Paused => "paused",
            Standing::Waiting(..) => "waiting",
            Standing::SharedWith(_) => "shared",
        }
    }
}

/// One download as listed.
#[derive(Debug, Clone)]
pub struct DownloadReport {
    /// Its number, given once in the life of a daemon.
    pub number: u64,
    /// What was named.
    pub wanted: String,
    /// The user that asked for it; `None`: the daemon's own configuration.
    pub uid: Option<u32>,
    /// Where it stands.
    pub standing: Standing,
    /// The manifest's id and name, once known.
    pub manifest: Option<(ManifestId, String)>,
    /// How it goes, once pieces are asked for.
    pub progress: Option<Progress>,
}

struct Entry {
    wanted: String,
    uid: Option<u32>,
    standing: Standing,
    manifest: Option<(ManifestId, String)>,
    progress: Option<watch::Receiver<Progress>>,
    cancel: watch::Sender<bool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

struct Shared {
    means: Means,
    trust: Mutex<Arc<TrustStore>>,
    table: Mutex<Table>,
    paused: watch::Sender<bool>,
    /// Counts changes of standing, so that others may wait for one.
    changes: watch::Sender<u64>,
}

/// The downloads of one daemon; a handle.
#[derive(Clone)]
pub struct Downloads {
    shared: Arc<Shared>,
}

impl Downloads {
    /// None yet.
    pub fn new(means: Means, trust: TrustStore) -> Self {
        let (paused, changes) = (watch::channel(false).0, watch::channel(0).0);
        Self {
            shared: Arc::new(Shared {
                means,
                trust: Mutex::new(Arc::new(trust)),
                table: Mutex::default(),
                paused,
                changes,
            }),
        }
    }

    /// Begins to have what `wanted` names, for a user or, with `None`, by configuration. What is wanted already keeps its
    /// number.
    ///
    /// # Errors
    /// A link that does not parse; too many are wanted at once.
    pub fn start(&self, wanted: &str, uid: Option<u32>) -> Result<u64, Failure> {
        let parsed = Wanted::parse(wanted)?;
        let mut table = self.shared.table();
        if let Some((number, _)) = table.entries.iter().find(|(_, entry)| entry.wanted == wanted) {
            return Ok(*number);
        }
        if table.entries.len() >= DOWNLOADS_MAX {
            return Err(Failure::new(Code::ResourceRefused, format!("{DOWNLOADS_MAX} downloads are wanted already"))
                .remedy("cancel some of them"));
        }
        table.next = table.next.saturating_add(1);
        let number = table.next;
        let (cancel, cancelled) = watch::channel(false);
        let entry = Entry {
            wanted: wanted.to_owned(),
            uid,
            standing: Standing::Resolving,
            manifest: None,
            progress: None,
            cancel,
            task: None,
        };
        table.entries.insert(number, entry);
        let fetcher = Fetcher { number, wanted: parsed, shared: Arc::clone(&self.shared) };
        let task = tokio::spawn(fetcher.run(cancelled));
        if let Some(entry) = table.entries.get_mut(&number) {
            entry.task = Some(task);
        }
        drop(table);
        self.shared.changed();
        Ok(number)
    }

    /// Believes whom this store names, from the next manifest on; what is being fetched goes on.
    pub fn trust(&self, trust: TrustStore) {
        *self.shared.trust.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    /// Every download, by number.
    pub fn list(&self) -> Vec<DownloadReport> {
        self.shared.table().entries.iter().map(|(number, entry)| entry.report(*number)).collect()
    }

    /// One download.
    pub fn find(&self, number: u64) -> Option<DownloadReport> {
        self.shared.table().entries.get(&number).map(|entry| entry.report(number))
    }

    /// Ends a download and forgets it; what was verified stays in the cache, and what is whole is served on. `false`
    /// where there is none of this number.
    pub async fn cancel(&self, number: u64) -> bool {
        let Some(entry) = self.shared.table().entries.remove(&number) else { return false };
        entry.cancel.send_replace(true);
        if let Some(task) = entry.task {
            // One that panicked has nothing left to commit.
            let _ = task.await;
        }
        self.shared.changed();
        true
    }

    /// Holds all downloads still, or lets them go on; serving is not touched.
    pub fn pause(&self, paused: bool) {
        self.shared.paused.send_replace(paused);
        self.shared.changed();
    }

    /// Whether they are held still.
    pub fn is_paused(&self) -> bool {
        *self.shared.paused.borrow()
    }

    /// Ends all of them; the shares themselves are the node's to end.
    pub(crate) async fn stop(&self) {
        let entries = std::mem::take(&mut self.shared.table().entries);
        entries.values().for_each(|entry| _ = entry.cancel.send_replace(true));
        for entry in entries.into_values() {
            if let Some(task) = entry.task {
                let _ = task.await;
            }
        }
    }
}

impl Entry {
    fn report(&self, number: u64) -> DownloadReport {
        DownloadReport {
            number,
            wanted: self.wanted.clone(),
            uid: self.uid,
            standing: self.standing.clone(),
            manifest: self.manifest.clone(),
            progress: self.progress.as_ref().map(|progress| progress.borrow().clone()),
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn stands(&self, number: u64, standing: Standing) {
        if let Some(entry) = self.table().entries.get_mut(&number) {
            entry.standing = standing;
        }
        self.changed();
    }

    /// Gives a manifest to a download, unless another one has it; then says which.
    fn claim(&self, number: u64, manifest: ManifestId, name: &str) -> Result<(), u64> {
        let mut table = self.table();
        let has = |entry: &Entry| {
            entry.manifest.as_ref().is_some_and(|(held, _)| *held == manifest)
                && matches!(entry.standing, Standing::Downloading | Standing::Complete | Standing::Paused)
        };
        let other = table.entries.iter().find(|(other, entry)| **other != number && has(entry));
        if let Some((other, _)) = other {
            return Err(*other);
        }
        if let Some(entry) = table.entries.get_mut(&number) {
            entry.manifest = Some((manifest, name.to_owned()));
            entry.standing = Standing::Downloading;
        }
        Ok(())
    }
}

/// How one attempt ended.
enum Ended {
    /// The content is held whole; the node serves it from now on.
    Whole,
    /// The download was cancelled, or the daemon stops.
    Cancelled,
    /// The daemon was paused.
    Paused,
    /// Another download has the manifest.
    Elsewhere(u64),
    /// The manifest of this peer is a lie.
    Condemned(Option<PeerId>),
    /// It did not work, and may later.
    Failed(Failure),
}

/// Has one wanted content in the cache, trying again while the daemon runs.
struct Fetcher {
    number: u64,
    wanted: Wanted,
    shared: Arc<Shared>,
}

impl Fetcher {
    async fn run(self, mut cancelled: watch::Receiver<bool>) {
        if let Wanted::Link(link) = &self.wanted {
            for peer in link.peers.iter().filter_map(|peer| peer.parse::<PeerAddress>().ok()) {
                tokio::spawn(self.shared.means.node.keep_peer(peer));
            }
        }
        let mut condemned = Vec::new();
        let mut paused = self.shared.paused.subscribe();
        loop {
            if *paused.borrow_and_update() {
                self.shared.stands(self.number, Standing::Paused);
                tokio::select! {
                    _ = paused.wait_for(|paused| !paused) => {}
                    _ = cancelled.wait_for(|cancelled| *cancelled) => return,
                }
            }
            self.shared.stands(self.number, Standing::Resolving);
            let ended = self.attempt(&condemned, &mut paused, &mut cancelled).await;
            let wait = match ended {
                Ended::Whole | Ended::Cancelled => return,
                Ended::Paused => continue,
                Ended::Elsewhere(other) => {
                    self.shared.stands(self.number, Standing::SharedWith(other));
                    tokio::select! {
                        () = self.parted_from(other) => continue,
                        _ = cancelled.wait_for(|cancelled| *cancelled) => return,
                    }
                }
                Ended::Condemned(giver) => {
                    condemned.truncate(CONDEMNED_MAX - 1);
                    condemned.extend(giver);
                    let why = "a peer's manifest is not of this content";
                    (Code::BadManifest, why.to_owned())
                }
                Ended::Failed(failure) => (failure.code, failure.to_string()),
            };
            tracing::warn!(wanted = ?self.wanted, code = %wait.0, reason = wait.1, "not fetched; trying again");
            self.shared.stands(self.number, Standing::Waiting(wait.0, wait.1));
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = cancelled.wait_for(|cancelled| *cancelled) => return,
            }
        }
    }

    /// Completes once the download of this number is gone.
    async fn parted_from(&self, other: u64) {
        let mut changes = self.shared.changes.subscribe();
        while self.shared.table().entries.contains_key(&other) && changes.changed().await.is_ok() {}
    }

    /// One attempt, to its end; a share that does not end whole is stopped, so that its store is free again.
    async fn attempt(
        &self,
        condemned: &[PeerId],
        paused: &mut watch::Receiver<bool>,
        cancelled: &mut watch::Receiver<bool>,
    ) -> Ended {
        let fetched = tokio::select! {
            fetched = self.fetch(condemned) => fetched,
            _ = cancelled.wait_for(|cancelled| *cancelled) => return Ended::Cancelled,
            _ = paused.wait_for(|paused| *paused) => return Ended::Paused,
        };
        let (share, giver) = match fetched {
            Ok(Ok(begun)) => begun,
            Ok(Err(other)) => return Ended::Elsewhere(other),
            Err(failure) => return Ended::Failed(failure),
        };
        if let Some(entry) = self.shared.table().entries.get_mut(&self.number) {
            entry.progress = Some(share.progress());
        }
        self.shared.stands(self.number, Standing::Downloading);
        let ended = self.wait(&share, giver, paused, cancelled).await;
        match ended {
            Ended::Whole => self.shared.stands(self.number, Standing::Complete),
            _ => share.stop().await,
        }
        ended
    }

    /// The share that fetches it, or the number of the download that has it already.
    async fn fetch(&self, condemned: &[PeerId]) -> Result<Result<(Share, Option<PeerId>), u64>, Failure> {
        let means = &self.shared.means;
        let trust = Arc::clone(&self.shared.trust.lock().unwrap_or_else(PoisonError::into_inner));
        let http = Client::new(sources::Options::default());
        let resolved = match from_file_or_url(&self.wanted, &http, &trust, &means.state).await? {
            Some(resolved) => resolved,
            None => {
                let Wanted::Link(link) = &self.wanted else {
                    return Err(Failure::new(Code::InputMissing, "no manifest"));
                };
                from_peers(&means.node, link, &trust, &means.state, RETRY, condemned).await?
            }
        };
        if let Err(other) = self.shared.claim(self.number, resolved.manifest.id(), resolved.manifest.name()) {
            return Ok(Err(other));
        }
        let sources = source_urls::of(&resolved.manifest, resolved.trusted.as_ref(), &[])?;
        let (cache, manifest, envelope) =
            (Arc::clone(&means.cache), resolved.manifest.clone(), Arc::clone(&resolved.envelope));
        let opened = means.node.disk().run(move || cache.create(&manifest, &envelope)).await?;
        let giver = resolved.giver;
        let share = means.node.share(ShareSpec {
            manifest: resolved.manifest,
            envelope: resolved.envelope,
            giver,
            store: Arc::new(opened?),
            sources,
            peers: means.peers,
            timeout: None,
            swarm: means.swarm.clone(),
        })?;
        Ok(Ok((share, giver)))
    }

    /// Waits until the content is held whole, has failed, or is not to be fetched now.
    async fn wait(
        &self,
        share: &Share,
        giver: Option<PeerId>,
        paused: &mut watch::Receiver<bool>,
        cancelled: &mut watch::Receiver<bool>,
    ) -> Ended {
        let mut progress = share.progress();
        loop {
            let seen = progress.borrow_and_update().clone();
            match (seen.phase, seen.outcome) {
                (Phase::Complete, _) => {
                    tracing::info!(wanted = ?self.wanted, bytes = seen.bytes_total, "held whole, and served");
                    return Ended::Whole;
                }
                (Phase::Failed, Some(Outcome::Condemned)) => return Ended::Condemned(giver),
                (Phase::Failed, Some(outcome)) => return Ended::Failed(outcome.into()),
                _ => {}
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ended::Cancelled },
                _ = paused.wait_for(|paused| *paused) => return Ended::Paused,
                _ = cancelled.wait_for(|cancelled| *cancelled) => return Ended::Cancelled,
            }
        }
    }
}
