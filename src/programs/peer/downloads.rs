//! What a daemon was told to have: each wanted content is fetched into the cache until it is whole, tried anew where that
//! fails, held while the daemon is paused, and ended when nobody wants it any more. Two ways of naming one manifest share
//! one download. What one download does is `fetcher`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::content::trust::TrustStore;
use crate::drivers::store::{Cache, StateDir};
use crate::policy::Verdict;
use crate::programs::peer::care::Promised;
use crate::programs::peer::eviction::CacheRules;
use crate::programs::peer::fetcher::Fetcher;
use crate::programs::peer::hold::Hold;
use crate::programs::peer::journal::{Deed, Journal};
use crate::programs::peer::quota::Owners;
use crate::programs::peer::resolve::judge;
use crate::programs::peer::sources::CacheHosts;
use crate::programs::peer::{Failure, Wanted};
use crate::services::node::progress::Progress;
use crate::services::node::{Node, PeerAddress};
use crate::swarm;

/// Contents that may be wanted at one time.
const DOWNLOADS_MAX: usize = 1024;
/// Of these, those that one user other than the daemon's may want.
const DOWNLOADS_A_USER_MAX: usize = 128;
/// Name of the file of the state folder that is there while downloads are held still.
const PAUSED_FILE: &str = "paused";

/// With what contents are fetched.
pub struct Means {
    /// Who fetches.
    pub node: Node,
    /// Where to.
    pub cache: Arc<Cache>,
    /// Where sequences are remembered.
    pub state: Arc<StateDir>,
    /// The node's place of sleeping contents that opens those of the cache.
    pub place: usize,
    /// Where it is written down what was believed, refused and removed.
    pub journal: Arc<Journal>,
}

/// What policy says of fetching; the next attempt of each download goes by it.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Peers may be asked and served.
    pub peers: bool,
    /// Engine settings of what somebody waits for.
    pub foreground: swarm::Options,
    /// Engine settings of what nobody waits for.
    pub background: swarm::Options,
    /// What the cache may take.
    pub cache: CacheRules,
    /// Hosts that are asked before origins.
    pub cache_hosts: CacheHosts,
    /// Bytes below which a lone file comes over HTTP.
    pub min_file_size: u64,
    /// How old a manifest may be.
    pub max_age: Option<std::time::Duration>,
    /// Bytes of the cache for one user, and for one publisher.
    pub quota: Option<u64>,
}

/// Whether somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody does: it stands still while a foreground download receives something.
    Background,
    /// Somebody does.
    Foreground,
}

impl Priority {
    /// The word of the API and the tables.
    pub fn word(self) -> &'static str {
        match self {
            Priority::Background => "background",
            Priority::Foreground => "foreground",
        }
    }
}

/// What is asked for, and by whom.
pub struct Order {
    /// What.
    pub wanted: Wanted,
    /// Peers to ask, beyond those of a link.
    pub peers: Vec<PeerAddress>,
    /// Whether somebody waits.
    pub priority: Priority,
    /// When it should be there, from now on.
    pub within: Option<Duration>,
    /// The user that asks; `None`: the daemon's own configuration.
    pub uid: Option<u32>,
    /// The user may steer the daemon: no quota.
    pub owner: bool,
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
    /// Held still while a foreground download receives.
    Yielding,
    /// Held still by a gate of the machine.
    Gated,
    /// It failed, and is tried again; code word and reason.
    Waiting(Code, String),
    /// The download of this number has the same manifest, and fetches it for both.
    SharedWith(u64),
}

impl Standing {
    /// Every word.
    pub const WORDS: [&'static str; 8] =
        ["resolving", "downloading", "complete", "paused", "yielding", "gated", "waiting", "shared"];

    /// One word, as the API and the tables have it.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::Resolving => "resolving",
            Standing::Downloading => "downloading",
            Standing::Complete => "complete",
            Standing::Paused => "paused",
            Standing::Yielding => "yielding",
            Standing::Gated => "gated",
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
    /// The user that asked for it first; `None`: the daemon's own configuration.
    pub uid: Option<u32>,
    /// How many want it.
    pub claim_count: usize,
    /// Whether somebody waits for it.
    pub priority: Priority,
    /// Where it stands.
    pub standing: Standing,
    /// The manifest's id and name, once known.
    pub manifest: Option<(ManifestId, String)>,
    /// How it goes, once pieces are asked for.
    pub progress: Option<Progress>,
}

/// Somebody's wish for a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: u64,
    uid: Option<u32>,
    /// Stays until it is cancelled; else until its [`Hold`] is dropped.
    kept: bool,
}

pub(super) struct Entry {
    wanted: String,
    pub(super) claims: Vec<Claim>,
    pub(super) standing: Standing,
    pub(super) manifest: Option<(ManifestId, String)>,
    pub(super) progress: Option<watch::Receiver<Progress>>,
    priority: watch::Sender<Priority>,
    /// When it should be there; the earliest of those that were named. The next attempt goes by it.
    due: Option<Instant>,
    cancel: watch::Sender<bool>,
    /// Told when a failed one is to be tried at once.
    nudge: Arc<Notify>,
    task: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct Table {
    next: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
}

pub(super) struct Shared {
    pub(super) means: Means,
    terms: Mutex<Arc<Terms>>,
    trust: Mutex<Arc<TrustStore>>,
    table: Mutex<Table>,
    pub(super) paused: watch::Sender<bool>,
    /// What the machine keeps from being done.
    pub(super) gates: watch::Receiver<Verdict>,
    /// Told when others are met than before: what is under way begins anew.
    pub(super) others: watch::Receiver<u64>,
    /// Foreground downloads that receive something now.
    pub(super) receiving: watch::Sender<BTreeSet<u64>>,
    /// Manifests whose pieces are being written by a download; nobody else may.
    pub(super) open: watch::Sender<BTreeSet<ManifestId>>,
    /// Counts changes of standing, so that others may wait for one.
    pub(super) changes: watch::Sender<u64>,
    /// Contents for which there is room that nothing takes yet.
    pub(super) promised: Promised,
    /// Held while room is looked for: two that look at one time would both find the same.
    pub(super) room: tokio::sync::Mutex<()>,
    /// For whom the cache holds what it does.
    pub(super) owners: Arc<Owners>,
    /// Somebody has named a peer: what is small may come from peers too.
    pub(super) named_peers: AtomicBool,
    /// Told when terms, and with them the cache's limits, may have changed.
    pub(super) terms_changed: watch::Sender<()>,
}

/// The downloads of one daemon; a handle.
#[derive(Clone)]
pub struct Downloads {
    pub(super) shared: Arc<Shared>,
}

/// What came of taking a wish back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// There is no download of this number.
    Unknown,
    /// It is not the caller's.
    NotTheirs,
    /// The caller's wish is taken back; it goes on for others.
    GoesOn,
    /// It has ended.
    Ended,
}

impl Downloads {
    /// None yet; held still where an earlier run of the daemon left it so.
    pub fn new(
        means: Means,
        terms: Terms,
        trust: TrustStore,
        gates: watch::Receiver<Verdict>,
        others: watch::Receiver<u64>,
    ) -> Self {
        let paused = means.state.has_mark(PAUSED_FILE);
        let owners = Arc::new(Owners::new(Arc::clone(&means.state)));
        Self {
            shared: Arc::new(Shared {
                means,
                terms: Mutex::new(Arc::new(terms)),
                trust: Mutex::new(Arc::new(trust)),
                table: Mutex::default(),
                paused: watch::channel(paused).0,
                gates,
                others,
                receiving: watch::channel(BTreeSet::new()).0,
                open: watch::channel(BTreeSet::new()).0,
                changes: watch::channel(0).0,
                promised: Promised::default(),
                room: tokio::sync::Mutex::default(),
                owners,
                named_peers: AtomicBool::new(false),
                terms_changed: watch::channel(()).0,
            }),
        }
    }

    /// Begins to have something, and keeps it wanted until it is cancelled. What is wanted already keeps its number.
    ///
    /// # Errors
    /// An envelope that the daemon does not trust; too much is wanted at once.
    pub fn start(&self, order: Order) -> Result<u64, Failure> {
        self.claim(order, true).map(|(number, _)| number)
    }

    /// As [`Downloads::start`], wanted until the hold is dropped.
    ///
    /// # Errors
    /// As there.
    pub fn hold(&self, order: Order) -> Result<Hold, Failure> {
        let changes = self.shared.changes.subscribe();
        let (number, claim) = self.claim(order, false)?;
        Ok(Hold { shared: Arc::clone(&self.shared), number, claim, changes })
    }

    fn claim(&self, order: Order, kept: bool) -> Result<(u64, u64), Failure> {
        let wanted = order.wanted.label();
        let due = order.within.and_then(|within| Instant::now().checked_add(within));
        if let Wanted::Envelope(bytes) = &order.wanted {
            let judged = judge(bytes, &wanted, &self.shared.trust(), &self.shared.means.state, true);
            judged.inspect_err(|failure| {
                self.shared.means.journal.note(Deed::Refused, &wanted, &failure.to_string(), order.uid);
            })?;
        }
        let mut table = self.shared.table();
        table.next = table.next.saturating_add(1);
        let claim = Claim { id: table.next, uid: order.uid, kept };
        if let Some((number, entry)) = table.entries.iter_mut().find(|(_, entry)| entry.wanted == wanted) {
            let number = *number;
            // Asking twice for what is kept is one wish.
            if !(kept && entry.claims.iter().any(|held| held.kept && held.uid == order.uid)) {
                entry.claims.push(claim);
            }
            if matches!(entry.standing, Standing::Waiting(..)) {
                entry.standing = Standing::Resolving;
                entry.nudge.notify_one();
            }
            entry.due = entry.due.into_iter().chain(due).min();
            table.lift(number, order.priority);
            drop(table);
            self.shared.dial(&order.peers);
            self.shared.changed();
            return Ok((number, claim.id));
        }
        table.has_room(&order)?;
        let number = claim.id;
        let (cancel, cancelled) = watch::channel(false);
        let (priority, lifted) = watch::channel(order.priority);
        let nudge = Arc::new(Notify::new());
        let fetcher =
            Fetcher { number, wanted: order.wanted, shared: Arc::clone(&self.shared), nudge: Arc::clone(&nudge) };
        let entry = Entry {
            wanted,
            claims: vec![claim],
            standing: Standing::Resolving,
            manifest: None,
            progress: None,
            priority,
            due,
            cancel,
            nudge,
            task: Some(tokio::spawn(fetcher.run(cancelled, lifted))),
        };
        table.entries.insert(number, entry);
        drop(table);
        self.shared.dial(&order.peers);
        self.shared.changed();
        Ok((number, claim.id))
    }

    /// Fetches a content anew that a download has as complete; `false` where none does.
    pub(super) fn begin_anew(&self, manifest: ManifestId, wanted: Wanted) -> bool {
        let mut table = self.shared.table();
        let has = |entry: &Entry| entry.manifest.as_ref().is_some_and(|(held, _)| *held == manifest);
        let complete = |entry: &Entry| entry.standing == Standing::Complete && has(entry);
        let Some((number, entry)) = table.entries.iter_mut().find(|(_, entry)| complete(entry)) else { return false };
        let (shared, nudge) = (Arc::clone(&self.shared), Arc::clone(&entry.nudge));
        let fetcher = Fetcher { number: *number, wanted, shared, nudge };
        entry.standing = Standing::Resolving;
        entry.task = Some(tokio::spawn(fetcher.run(entry.cancel.subscribe(), entry.priority.subscribe())));
        drop(table);
        self.shared.changed();
        true
    }

    /// Believes whom this store names, from the next manifest on; what is being fetched goes on.
    pub fn trust(&self, trust: TrustStore) {
        *self.shared.trust.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    /// Goes by these terms from the next attempt of each download on.
    pub fn terms(&self, terms: Terms) {
        *self.shared.terms.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
        self.shared.terms_changed.send_replace(());
    }

    /// Keeps these peers connected as long as the daemon lives.
    pub(crate) fn name_peers(&self, peers: &[PeerAddress]) {
        self.shared.dial(peers);
    }

    /// Every download, by number.
    pub fn list(&self) -> Vec<DownloadReport> {
        self.shared.table().entries.iter().map(|(number, entry)| entry.report(*number)).collect()
    }

    /// One download.
    pub fn find(&self, number: u64) -> Option<DownloadReport> {
        self.shared.table().entries.get(&number).map(|entry| entry.report(number))
    }

    /// Whether this user wants it.
    pub fn is_wanted_by(&self, number: u64, uid: Option<u32>) -> bool {
        let table = self.shared.table();
        table.entries.get(&number).is_some_and(|entry| entry.claims.iter().any(|claim| claim.uid == uid))
    }

    /// What was believed, refused and removed.
    pub fn journal(&self) -> &Journal {
        &self.shared.means.journal
    }

    /// Takes back what this user wants, or, for an `owner`, ends the download for all. What was verified stays in the
    /// cache, and what is whole is served on.
    pub async fn cancel(&self, number: u64, uid: Option<u32>, owner: bool) -> Cancelled {
        let (outcome, ended) = {
            let mut table = self.shared.table();
            let Some(entry) = table.entries.get_mut(&number) else { return Cancelled::Unknown };
            let before = entry.claims.len();
            entry.claims.retain(|claim| !(owner || uid.is_some() && claim.uid == uid));
            match (before == entry.claims.len(), entry.claims.is_empty()) {
                (true, false) => (Cancelled::NotTheirs, None),
                (false, false) => (Cancelled::GoesOn, None),
                (_, true) => (Cancelled::Ended, table.end(number)),
            }
        };
        if let Some(task) = ended {
            // One that panicked has nothing left to commit.
            let _ = task.await;
        }
        self.shared.changed();
        outcome
    }

    /// Holds all downloads still, or lets them go on; serving is not touched. Remembered over restarts.
    ///
    /// # Errors
    /// The state folder cannot be written: it holds until the daemon's end all the same.
    pub fn pause(&self, paused: bool) -> Result<(), Failure> {
        self.shared.paused.send_replace(paused);
        self.shared.changed();
        Ok(self.shared.means.state.set_mark(PAUSED_FILE, paused)?)
    }

    /// Whether they are held still.
    pub fn is_paused(&self) -> bool {
        *self.shared.paused.borrow()
    }

    /// Told each time a download's standing changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether any of them receives or may receive something now.
    pub fn any_active(&self) -> bool {
        self.shared.table().entries.values().any(|entry| entry.standing == Standing::Downloading)
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
    /// How long it may still take; `None` where nobody said.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// The user that asked first.
    pub(super) fn uid(&self) -> Option<u32> {
        self.claims.first().and_then(|claim| claim.uid)
    }

    pub(super) fn priority(&self) -> Priority {
        *self.priority.borrow()
    }

    pub(super) fn report(&self, number: u64) -> DownloadReport {
        DownloadReport {
            number,
            wanted: self.wanted.clone(),
            uid: self.uid(),
            claim_count: self.claims.len(),
            priority: *self.priority.borrow(),
            standing: self.standing.clone(),
            manifest: self.manifest.clone(),
            progress: self.progress.as_ref().map(|progress| progress.borrow().clone()),
        }
    }
}

impl Table {
    /// Makes a download, and whichever fetches for it, as urgent as this; never less.
    pub(super) fn lift(&mut self, number: u64, priority: Priority) {
        let Some(entry) = self.entries.get(&number) else { return };
        entry.priority.send_if_modified(|held| std::mem::replace(held, (*held).max(priority)) < priority);
        if let Standing::SharedWith(other) = entry.standing {
            let other = self.entries.get(&other);
            other.inspect(|entry| {
                _ = entry.priority.send_if_modified(|held| std::mem::replace(held, (*held).max(priority)) < priority)
            });
        }
    }

    fn has_room(&self, order: &Order) -> Result<(), Failure> {
        let refuse = |count: usize| {
            Failure::new(Code::ResourceRefused, format!("{count} downloads are wanted already"))
                .remedy("cancel some of them")
        };
        if self.entries.len() >= DOWNLOADS_MAX {
            return Err(refuse(DOWNLOADS_MAX));
        }
        let theirs = self.entries.values().flat_map(|entry| &entry.claims).filter(|claim| claim.uid == order.uid);
        if !order.owner && order.uid.is_some() && theirs.count() >= DOWNLOADS_A_USER_MAX {
            return Err(refuse(DOWNLOADS_A_USER_MAX));
        }
        Ok(())
    }

    /// Forgets a download and tells its task, which is returned.
    pub(super) fn end(&mut self, number: u64) -> Option<tokio::task::JoinHandle<()>> {
        let entry = self.entries.remove(&number)?;
        entry.cancel.send_replace(true);
        entry.task
    }
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trust(&self) -> Arc<TrustStore> {
        Arc::clone(&self.trust.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn rules(&self) -> CacheRules {
        self.terms().cache
    }

    pub(super) fn dial(&self, peers: &[PeerAddress]) {
        self.named_peers.fetch_or(!peers.is_empty(), Ordering::Relaxed);
        for peer in peers {
            tokio::spawn(self.means.node.keep_peer(peer.clone()));
        }
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn stands(&self, number: u64, standing: Standing) {
        if let Some(entry) = self.table().entries.get_mut(&number) {
            entry.standing = standing;
        }
        self.changed();
    }

    /// Gives a manifest to a download, unless another one has it; then says which.
    pub(super) fn claim_manifest(&self, number: u64, manifest: ManifestId, name: &str) -> Result<(), u64> {
        let mut table = self.table();
        let has = |entry: &Entry| {
            let held = entry.manifest.as_ref().is_some_and(|(held, _)| *held == manifest);
            held && !matches!(entry.standing, Standing::Resolving | Standing::Waiting(..) | Standing::SharedWith(_))
        };
        let other =
            table.entries.iter().find(|(other, entry)| **other != number && has(entry)).map(|(other, _)| *other);
        let Some(entry) = table.entries.get_mut(&number) else { return Ok(()) };
        entry.manifest = Some((manifest, name.to_owned()));
        let Some(other) = other else {
            entry.standing = Standing::Downloading;
            return Ok(());
        };
        entry.standing = Standing::SharedWith(other);
        let priority = *entry.priority.borrow();
        table.lift(number, priority);
        Err(other)
    }
}
