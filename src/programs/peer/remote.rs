//! Fetches contents of buckets when peers ask for them: room is made, ranges are asked for, and what is verified is kept in
//! the cache and passed on as it comes. Who asks while there is no room is served once there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::content::code::Code;
use crate::content::hash::{ContentId, ManifestId};
use crate::content::manifest::Manifest;
use crate::drivers::sources::{Source, expand_base};
use crate::drivers::store::{Cache, CacheEntry, PieceStore};
use crate::programs::peer::Failure;
use crate::programs::peer::care::Promise;
use crate::programs::peer::downloads::Shared;
use crate::programs::peer::journal::Deed;
use crate::programs::peer::objects::Way;
use crate::programs::peer::resolve::{ENVELOPE_BYTES_MAX, judge};
use crate::services::node::progress::{Outcome, Phase, Progress};
use crate::services::node::{FetchSources, OpenRemote, Opened, ShareReport, ShareSpec};

/// A content whose bucket has failed and brought nothing since for so long is shown with the reason.
const STUCK: Duration = Duration::from_secs(3);
/// One whose bucket refuses it, and that nothing came of for so long, is closed and opened anew later.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// A content of which a peer received, or the bucket brought, something so lately gives no way to another that is asked for.
const IN_USE: Duration = Duration::from_secs(10);
/// A content that no peer has a session for is fetched no further after this.
const ALONE: Duration = Duration::from_secs(10);
/// What was asked for and could not be had is tried for so long; who still wants it then asks again.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Between two tries where there is no room, or while the daemon is paused.
const NO_ROOM_RETRY: Duration = Duration::from_secs(2);
/// Between two tries where the bucket fails or has it wrong, doubling.
const FAILED_RETRY: Duration = Duration::from_secs(1);
const FAILED_RETRY_MAX: Duration = Duration::from_secs(320);
/// What was opened is a share by then.
const OPENED_WITHIN: Duration = Duration::from_secs(10);
/// Contents that wait at one time.
const WAITING_MAX: usize = 1024;
/// How long it is waited for whoever has the entry shut: it is being opened, checked or removed.
const SHUT_FOR: Duration = Duration::from_secs(5);

/// A manifest of a bucket that is believed, and where its content lies.
#[derive(Clone)]
pub(super) struct Offered {
    pub(super) way: Arc<Way>,
    /// Of the manifest.
    pub(super) url: String,
    /// Exact for a lone file, a base that ends in `/` for a directory.
    pub(super) content: String,
    /// Bytes of all files.
    pub(super) bytes: u64,
    pub(super) contents: Arc<[ContentId]>,
}

/// What was asked for in vain.
struct Waiting {
    asked: Instant,
    again: Instant,
    until: Instant,
}

/// When what could not be had is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    /// Others may give way any moment, or the daemon be paused no more.
    Soon,
    /// The bucket may be right by then; not before so long.
    Later(Duration),
}

#[derive(Default)]
struct State {
    offers: BTreeMap<ManifestId, Offered>,
    /// Files of all of them.
    files: usize,
    waiting: BTreeMap<ManifestId, Waiting>,
    /// Why one could not be had.
    troubles: BTreeMap<ManifestId, String>,
    /// How often the bucket has failed one, since it was whole or was asked for first.
    failures: BTreeMap<ManifestId, u32>,
    /// When those were opened whose share was not seen yet.
    opened: BTreeMap<ManifestId, Instant>,
    /// Those that are open and whole, and were written down as such.
    whole: BTreeSet<ManifestId>,
    /// Since when no peer has a session for one that is being fetched.
    alone: BTreeMap<ManifestId, Instant>,
}

/// What lies in buckets.
#[derive(Default)]
pub(super) struct Remote {
    state: Mutex<State>,
    /// Told when something was opened, or was not.
    pub(super) news: Notify,
}

impl Remote {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a content lies.
    ///
    /// # Errors
    /// [`Code::ResourceRefused`]: all manifests together would list more than so many files.
    pub(super) fn offer(&self, id: ManifestId, offered: Offered, files_max: usize) -> Result<(), Failure> {
        let mut state = self.state();
        let before = state.offers.get(&id).map_or(0, |held| held.contents.len());
        let files = state.files.saturating_sub(before).saturating_add(offered.contents.len());
        if files > files_max {
            let message = format!("the manifests of all buckets would list more than {files_max} files");
            return Err(Failure::new(Code::ResourceRefused, message));
        }
        state.files = files;
        state.offers.insert(id, offered);
        Ok(())
    }

    /// The files of one of them.
    pub(super) fn contents(&self, id: &ManifestId) -> Vec<ContentId> {
        self.state().offers.get(id).map(|offered| offered.contents.to_vec()).unwrap_or_default()
    }

    /// Forgets all others; returns which.
    pub(super) fn keep_only(&self, held: &BTreeSet<ManifestId>) -> Vec<ManifestId> {
        let mut state = self.state();
        let lost: Vec<_> = state.offers.keys().filter(|id| !held.contains(id)).copied().collect();
        for id in &lost {
            let files = state.offers.remove(id).map_or(0, |offered| offered.contents.len());
            state.files = state.files.saturating_sub(files);
            state.waiting.remove(id);
            state.troubles.remove(id);
            state.failures.remove(id);
        }
        lost
    }

    /// Why contents cannot be had: what went wrong last, or that the cache's limits have no room for them at all.
    pub(super) async fn troubles(&self, shared: &Shared) -> BTreeMap<ManifestId, String> {
        let most = shared.most_bytes().await.unwrap_or(u64::MAX);
        let state = self.state();
        let too_large = state.offers.iter().filter(|(_, offered)| offered.bytes > most);
        let mut troubles: BTreeMap<_, _> = too_large.map(|(id, offered)| (*id, too_large_for(offered, most))).collect();
        for (id, trouble) in &state.troubles {
            troubles.entry(*id).or_insert_with(|| trouble.clone());
        }
        troubles
    }

    fn failed(&self, id: ManifestId, reason: String, again: Again) {
        let mut state = self.state();
        let rest = match again {
            Again::Never => None,
            Again::Soon => Some(NO_ROOM_RETRY),
            Again::Later(least) => {
                let failures = state.failures.entry(id).or_default();
                let rest = FAILED_RETRY.saturating_mul(1 << (*failures).min(10)).max(least).min(FAILED_RETRY_MAX);
                *failures = failures.saturating_add(1);
                Some(rest)
            }
        };
        if let Some(rest) = rest
            && (state.waiting.contains_key(&id) || state.waiting.len() < WAITING_MAX)
        {
            let asked = Instant::now();
            let (again, until) = (asked + rest, asked + rest + WAIT_MAX);
            state.waiting.entry(id).or_insert(Waiting { asked, again, until }).again = again;
        }
        state.troubles.insert(id, reason);
        drop(state);
        self.news.notify_one();
    }

    /// What is open of it.
    fn open_ones(&self, shared: &Shared) -> Vec<ShareReport> {
        let shares = shared.means.node.shares();
        let state = self.state();
        shares.into_iter().filter(|share| state.offers.contains_key(&share.manifest)).collect()
    }

    /// Looks after what is open and what waits. Returns whether there is anything to look after.
    pub(super) async fn tend(self: &Arc<Self>, shared: &Arc<Shared>) -> bool {
        let (mut busy, paused) = (false, *shared.paused.borrow());
        let ours = self.open_ones(shared);
        {
            let is_open = |id: &ManifestId| ours.iter().any(|share| share.manifest == *id);
            let mut state = self.state();
            state.alone.retain(|id, _| is_open(id));
            state.whole.retain(is_open);
            // The node makes a share of it once this program has let go of it.
            state.opened.retain(|id, opened| !is_open(id) && opened.elapsed() < OPENED_WITHIN);
            busy |= !state.opened.is_empty();
        }
        for share in ours {
            let (id, seen) = (share.manifest, &share.progress);
            busy |= seen.phase == Phase::Downloading;
            match seen.phase {
                Phase::Complete => self.had(shared, id, seen),
                Phase::Failed => self.give_up(shared, id, seen).await,
                Phase::Downloading if seen.sources_dropped && seen.moved_at.elapsed() >= REFUSED_FOR => {
                    self.give_up(shared, id, seen).await;
                }
                Phase::Downloading if paused || self.is_alone(id, seen.peers) => _ = close(shared, id).await,
                Phase::Downloading => self.note(id, seen),
            }
        }
        for id in self.due() {
            // Its failure is noted where it fails.
            if !paused && shared.means.node.awaken(&id).await {
                self.state().waiting.remove(&id);
            }
        }
        busy || !self.state().waiting.is_empty()
    }

    /// What waits and is to be tried now.
    fn due(&self) -> Vec<ManifestId> {
        let mut state = self.state();
        let now = Instant::now();
        let State { waiting, troubles, failures, .. } = &mut *state;
        waiting.retain(|id, waiting| {
            let waits = waiting.until > now;
            // That there was no room says nothing of later; what is wrong with a bucket is shown until it is right.
            if !waits && !failures.contains_key(id) {
                troubles.remove(id);
            }
            waits
        });
        let mut due: Vec<_> = state.waiting.iter().filter(|(_, waiting)| waiting.again <= now).collect();
        // Who asked first is served first.
        due.sort_by_key(|(_, waiting)| waiting.asked);
        due.into_iter().map(|(id, _)| *id).collect()
    }

    /// One is whole.
    fn had(&self, shared: &Shared, id: ManifestId, seen: &Progress) {
        let mut state = self.state();
        state.waiting.remove(&id);
        state.troubles.remove(&id);
        state.failures.remove(&id);
        if state.whole.insert(id) && seen.bytes_from_http.saturating_add(seen.bytes_from_peers) > 0 {
            let why = format!("{} bytes from peers, {} over HTTP", seen.bytes_from_peers, seen.bytes_from_http);
            shared.means.journal.note(Deed::Fetched, &id.to_string(), &why, None);
        }
    }

    /// Shows what keeps one from coming, as long as it does.
    fn note(&self, id: ManifestId, seen: &Progress) {
        match &seen.trouble {
            Some(trouble) if seen.moved_at.elapsed() >= STUCK => {
                _ = self.state().troubles.insert(id, trouble.to_string());
            }
            None if seen.bytes_from_http > 0 => _ = self.state().troubles.remove(&id),
            _ => {}
        }
    }

    /// Closes one that cannot be had as it was opened; tried again while a peer waits for it.
    async fn give_up(&self, shared: &Arc<Shared>, id: ManifestId, seen: &Progress) {
        let again = if seen.peers > 0 { Again::Later(Duration::ZERO) } else { Again::Never };
        let reason = match (&seen.outcome, &seen.trouble) {
            (Some(Outcome::Failed { message, culprit: Some(culprit), .. }), _) => format!("{message}: {culprit}"),
            (Some(Outcome::Failed { message, .. }), _) => message.clone(),
            (_, Some(trouble)) => trouble.to_string(),
            _ => "it cannot be fetched".to_owned(),
        };
        if close(shared, id).await {
            self.failed(id, reason, again);
        }
    }

    fn is_alone(&self, id: ManifestId, peers: usize) -> bool {
        let mut state = self.state();
        if peers > 0 {
            state.alone.remove(&id);
            return false;
        }
        state.alone.entry(id).or_insert_with(Instant::now).elapsed() >= ALONE
    }
}

/// Closes an open content, so that who asks for it next opens it anew; what it has is kept. A download's stays open: `false`.
async fn close(shared: &Arc<Shared>, id: ManifestId) -> bool {
    let Some(_shut) = shared.shut_for(id) else { return false };
    shared.means.node.withdraw(&id).await
}

/// Begins to fetch a content when a peer asks for it.
pub(super) fn opener(remote: &Arc<Remote>, shared: &Arc<Shared>) -> OpenRemote {
    let (remote, shared) = (Arc::clone(remote), Arc::downgrade(shared));
    Arc::new(move |id: ManifestId| {
        let (remote, shared) = (Arc::clone(&remote), shared.upgrade());
        Box::pin(async move { open(&remote, &shared?, id).await })
    })
}

async fn open(remote: &Remote, shared: &Arc<Shared>, id: ManifestId) -> Option<Opened> {
    let offered = remote.state().offers.get(&id)?.clone();
    let Some(shut) = shared.shut_for(id) else {
        let mut open = shared.open.subscribe();
        let _ = tokio::time::timeout(SHUT_FOR, open.wait_for(|open| !open.contains(&id))).await;
        return None;
    };
    // Another link was first.
    if shared.means.node.held(&id).is_some() {
        return None;
    }
    // Before any of them gives way.
    let ours = remote.open_ones(shared);
    let whole = ours.iter().filter(|share| share.progress.phase == Phase::Complete);
    whole.for_each(|share| remote.had(shared, share.manifest, &share.progress));
    match begin(&offered, shared, id).await {
        Ok((spec, room)) => {
            remote.state().opened.insert(id, Instant::now());
            remote.news.notify_one();
            Some(Opened { spec, hold: Box::new((shut, room)) })
        }
        Err((failure, again)) => {
            tracing::warn!(url = offered.content, reason = %failure, "it cannot be fetched for a peer");
            remote.failed(id, failure.to_string(), again);
            None
        }
    }
}

/// What a content's share is made of, and the room that is kept for it; else why there is none, and when to try again.
async fn begin(
    offered: &Offered,
    shared: &Arc<Shared>,
    id: ManifestId,
) -> Result<(ShareSpec, Promise), (Failure, Again)> {
    let never = |failure: Failure| (failure, Again::Never);
    let no_room = |failure: Failure| (failure, Again::Soon);
    let in_use = in_use(shared);
    let kept: Option<CacheEntry> =
        shared.on_disk(move |cache| Ok(cache.open_entry(id, &mut |_| {}).ok())).await.map_err(never)?;
    let (manifest, envelope): (Manifest, Arc<[u8]>) = match &kept {
        Some(entry) => (entry.manifest().clone(), entry.envelope().into()),
        None => {
            let most = shared.most_bytes().await.map_err(never)?;
            if offered.bytes > most {
                return Err(never(Failure::new(Code::DiskFull, too_large_for(offered, most))));
            }
            // Before anything is asked of the bucket.
            shared.find_room(offered.bytes, id, &in_use).await.map_err(no_room)?;
            let fetched = offered.way.client().fetch_small(&offered.url, ENVELOPE_BYTES_MAX).await;
            let bytes = fetched.map_err(|error| {
                let least = error.retry_after().unwrap_or_default();
                (error.into(), Again::Later(least))
            })?;
            let judged = judge(&bytes, &offered.url, &shared.trust(), &shared.means.state, true).map_err(never)?;
            if judged.manifest.id() != id {
                let message = format!("{} is another manifest than when the bucket was listed", offered.url);
                return Err(never(Failure::new(Code::SourceChanged, message)));
            }
            if let Some(trusted) = &judged.trusted {
                let why = format!("signed by {}", trusted.publisher);
                shared.means.journal.note(Deed::Trusted, &id.to_string(), &why, None);
            }
            (judged.manifest, judged.envelope)
        }
    };
    let room = shared.make_room(&manifest, &in_use).await.map_err(no_room)?;
    let entry = match kept {
        Some(entry) => entry,
        None => {
            let (manifest, envelope) = (manifest.clone(), Arc::clone(&envelope));
            let create = move |cache: &Cache| cache.create(&manifest, &envelope);
            shared.on_disk(create).await.map_err(never)?
        }
    };
    let touch = move |cache: &Cache| {
        cache.touch(id);
        Ok(())
    };
    shared.on_disk(touch).await.map_err(never)?;
    let mut sources = FetchSources::default();
    if !entry.held().is_complete() {
        if *shared.paused.borrow() {
            let message = "nothing is fetched while the daemon is paused";
            return Err((Failure::new(Code::Policy, message), Again::Soon));
        }
        sources = FetchSources::new(offered.way.client());
        for (number, file) in (0u32..).zip(manifest.files()) {
            let url = expand_base(&offered.content, file.path.as_str()).map_err(|error| never(error.into()))?;
            sources.add(number, Source::new(&url).map_err(|error| never(error.into()))?);
        }
    }
    let (store, swarm) = (Arc::new(entry), shared.terms().foreground.clone());
    Ok((ShareSpec { manifest, envelope, giver: None, store, sources, peers: true, timeout: None, swarm }, room))
}

/// What some peer receives, or waits for while it is fetched.
fn in_use(shared: &Shared) -> BTreeSet<ManifestId> {
    let shares = shared.means.node.shares().into_iter();
    let used = shares.filter(|share| share.progress.peers > 0 && share.progress.moved_at.elapsed() < IN_USE);
    used.map(|share| share.manifest).collect()
}

fn too_large_for(offered: &Offered, most: u64) -> String {
    format!("it has {} bytes, and the cache may take {most} of them (max_cache_size, max_cache_percent)", offered.bytes)
}
