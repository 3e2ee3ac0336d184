//! The daemon's care for its cache: room for what is wanted, limits kept, contents pinned, removed and checked on demand;
//! each with its reason in the journal. What goes is decided by `eviction`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::content::manifest::Manifest;
use crate::drivers::store::{self, Cache, CacheCheck};
use crate::programs::peer::downloads::{Downloads, Shared};
use crate::programs::peer::eviction::{CacheRules, Held, Reason, Room};
use crate::programs::peer::journal::Deed;
use crate::programs::peer::{Failure, unix_now};

/// How often it is looked whether something is too old, or the disk too full.
const EVERY: Duration = Duration::from_secs(600);

/// What came of asking for an entry to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Gone,
    /// There is no such entry.
    Unknown,
    /// A download wants it.
    InUse,
}

/// Contents for which room was found that they do not take yet, beside those that are open.
pub(super) type Promised = Arc<Mutex<BTreeMap<ManifestId, Manifest>>>;

/// Room for a content, until it is open or given up; then what is open counts.
pub(super) struct Promise {
    promised: Promised,
    manifest: ManifestId,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.manifest);
    }
}

/// An entry that nobody else may change, until this is dropped.
pub(super) struct Shut {
    shared: Arc<Shared>,
    manifest: ManifestId,
}

impl Drop for Shut {
    fn drop(&mut self) {
        self.shared.reopen(self.manifest);
    }
}

impl Downloads {
    /// Keeps the limits, now and as long as the daemon lives.
    pub(crate) async fn keep_house(self) {
        let mut again = self.shared.terms_changed.subscribe();
        loop {
            if let Err(failure) = self.shared.sweep().await {
                tracing::warn!(reason = %failure, "the cache's limits cannot be kept");
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                // The sender lives as long as the daemon.
                _ = again.changed() => {}
            }
        }
    }

    /// Evicts what is over the limits now, or was of no use for so many seconds; returns what went.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn expire(&self, unused_seconds: Option<u64>) -> Result<Vec<ManifestId>, Failure> {
        let rules = self.shared.rules();
        let rules = CacheRules { age_max: unused_seconds.or(rules.age_max), ..rules };
        self.shared.evict(&rules).await
    }

    /// Pins an entry, or unpins it; `false` where there is none.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn pin(&self, manifest: ManifestId, pinned: bool, uid: Option<u32>) -> Result<bool, Failure> {
        let done = self.shared.on_disk(move |cache| cache.pin(manifest, pinned)).await?;
        if done {
            let deed = if pinned { Deed::Pinned } else { Deed::Unpinned };
            self.shared.means.journal.note(deed, &manifest.to_string(), "asked for", uid);
        }
        Ok(done)
    }

    /// Removes an entry that no download wants, pinned or not.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn remove(&self, manifest: ManifestId, uid: Option<u32>) -> Result<Removal, Failure> {
        let known = self.shared.on_disk(Cache::ids).await?.contains(&manifest);
        if !known {
            return Ok(Removal::Unknown);
        }
        if !self.shared.remove(manifest).await? {
            return Ok(Removal::InUse);
        }
        self.shared.means.journal.note(Deed::Removed, &manifest.to_string(), "asked for", uid);
        Ok(Removal::Gone)
    }

    /// Removes everything that is neither pinned nor wanted; returns what went.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn clear(&self, uid: Option<u32>) -> Result<Vec<ManifestId>, Failure> {
        let all = self
            .shared
            .on_disk(|cache| Ok(cache.ids()?.into_iter().filter(|id| !cache.is_pinned(*id)).collect::<Vec<_>>()));
        let mut gone = Vec::new();
        for manifest in all.await? {
            if self.shared.remove(manifest).await? {
                self.shared.means.journal.note(Deed::Removed, &manifest.to_string(), "the cache was cleared", uid);
                gone.push(manifest);
            }
        }
        Ok(gone)
    }

    /// Hashes every piece of an entry that no download wants; `None` where it is wanted or there is none. Peers are not
    /// served from it meanwhile.
    ///
    /// # Errors
    /// The entry cannot be opened.
    pub async fn check(&self, manifest: ManifestId) -> Result<Option<CacheCheck>, Failure> {
        let shared = &self.shared;
        let known = shared.on_disk(Cache::ids).await?.contains(&manifest);
        if !known || !shared.shut(manifest) {
            return Ok(None);
        }
        shared.means.node.withdraw(&manifest).await;
        let checked =
            shared.on_disk(move |cache| Ok((cache.check_entry(manifest)?, cache.content_ids(manifest)))).await;
        shared.reopen(manifest);
        let (check, contents) = checked?;
        if check.whole {
            shared.means.node.offer(shared.means.place, [(manifest, contents)]);
        }
        if !check.wrong.is_empty() {
            let why = format!("{} pieces wrong on disk", check.wrong.len());
            shared.means.journal.note(Deed::Damaged, &manifest.to_string(), &why, None);
        }
        Ok(Some(check))
    }
}

impl Shared {
    /// Serves a content no more from where it lies, and from the cache as before; one that a download has is the download's.
    pub(super) async fn withdraw(&self, manifest: ManifestId) -> Result<(), Failure> {
        if !self.shut(manifest) {
            return Ok(());
        }
        self.means.node.withdraw(&manifest).await;
        let cached =
            self.on_disk(move |cache| Ok(cache.ids()?.contains(&manifest).then(|| cache.content_ids(manifest)))).await;
        self.reopen(manifest);
        if let Some(contents) = cached? {
            self.means.node.offer(self.means.place, [(manifest, contents)]);
        }
        Ok(())
    }

    /// Runs on a disk thread.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Cache) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let cache = Arc::clone(&self.means.cache);
        Ok(self.means.node.disk().run(move || job(&cache)).await??)
    }

    /// Keeps an entry from being opened by a download; `false` where one wants it.
    fn shut(&self, manifest: ManifestId) -> bool {
        if !self.open.send_if_modified(|open| open.insert(manifest)) {
            return false;
        }
        // A download that claims it from now on waits for `reopen`.
        let wanted =
            self.table().entries.values().any(|entry| entry.manifest.as_ref().is_some_and(|(id, _)| *id == manifest));
        if wanted {
            self.reopen(manifest);
        }
        !wanted
    }

    /// The same for as long as what it returns lives.
    pub(super) fn shut_for(self: &Arc<Self>, manifest: ManifestId) -> Option<Shut> {
        self.shut(manifest).then(|| Shut { shared: Arc::clone(self), manifest })
    }

    pub(super) fn reopen(&self, manifest: ManifestId) {
        self.open.send_modify(|open| _ = open.remove(&manifest));
    }

    /// Removes an entry and what peers know of it; `false` where a download wants it.
    pub(super) async fn remove(&self, manifest: ManifestId) -> Result<bool, Failure> {
        if !self.shut(manifest) {
            return Ok(false);
        }
        self.means.node.withdraw(&manifest).await;
        let removed = self.on_disk(move |cache| cache.remove(&BTreeSet::from([manifest]))).await;
        self.reopen(manifest);
        removed.map(|()| true)
    }

    /// How full the cache is once all that is open is written, with so many bytes wanted besides: files are allocated when
    /// their first byte comes, and what was found to fit must not be counted as free until then.
    async fn space(&self, wanted: u64, besides: Option<ManifestId>) -> Result<Room, Failure> {
        let mut due = self.promised.lock().unwrap_or_else(PoisonError::into_inner).clone();
        due.extend(self.means.node.unwritten().into_iter().map(|manifest| (manifest.id(), manifest)));
        let look = move |cache: &Cache| {
            let due = due.values().filter(|manifest| besides != Some(manifest.id()));
            let due = due.map(|manifest| cache.missing_bytes(manifest)).fold(0, u64::saturating_add);
            Ok((cache.space()?, due))
        };
        let (space, due) = self.on_disk(look).await?;
        let (occupied, free) = (space.occupied_bytes.saturating_add(due), space.free_bytes.saturating_sub(due));
        Ok(Room { occupied, free, wanted, now: unix_now() })
    }

    /// Evicts what is over the limits.
    async fn sweep(&self) -> Result<(), Failure> {
        self.evict(&self.rules()).await.map(|_| ())
    }

    async fn evict(&self, rules: &CacheRules) -> Result<Vec<ManifestId>, Failure> {
        let room = self.space(0, None).await?;
        self.carry_out(rules.plan(self.held().await?, &room)).await
    }

    async fn carry_out(&self, plan: Vec<(Held, Reason)>) -> Result<Vec<ManifestId>, Failure> {
        let mut gone = Vec::new();
        for (entry, reason) in plan {
            if self.remove(entry.manifest).await? {
                let subject = entry.manifest.to_string();
                tracing::info!(manifest = subject, bytes = entry.bytes, policy = reason.policy(), "evicted");
                let why = format!("{}: {} bytes, last used at {}", reason.policy(), entry.bytes, entry.used.as_secs());
                self.means.journal.note(Deed::Evicted, &subject, &why, None);
                gone.push(entry.manifest);
            }
        }
        Ok(gone)
    }

    /// Every entry as the eviction sees it. When peers were sent something of what is open is noted.
    pub(super) async fn held(&self) -> Result<Vec<Held>, Failure> {
        let mut stay: BTreeSet<ManifestId> =
            self.table().entries.values().filter_map(|entry| Some(entry.manifest.as_ref()?.0)).collect();
        // One that somebody opens or changes now cannot be removed.
        stay.extend(self.open.borrow().iter());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shares = self.means.node.shares();
        let used: BTreeMap<_, _> = shares
            .iter()
            .filter_map(|share| Some((share.manifest, now.saturating_sub(share.progress.sent_at?.elapsed()))))
            .collect();
        let due: BTreeMap<_, _> =
            self.means.node.unwritten().into_iter().map(|manifest| (manifest.id(), manifest)).collect();
        let node = self.means.node.clone();
        self.on_disk(move |cache| {
            let mut held = Vec::new();
            for manifest in cache.ids()? {
                let noted = cache.last_used(manifest);
                let used = used.get(&manifest).map_or(noted, |used| noted.max(*used));
                if used > noted {
                    cache.touch_at(manifest, used);
                }
                let stays = stay.contains(&manifest) || cache.is_pinned(manifest);
                let due = due.get(&manifest).map_or(0, |manifest| cache.missing_bytes(manifest));
                let bytes = cache.entry_bytes(manifest).saturating_add(due);
                // What a bucket has too is no last copy.
                let others_hold = node.is_held_near(&manifest) || node.is_remote(&manifest);
                held.push(Held { manifest, bytes, used, stays, others_hold });
            }
            Ok(held)
        })
        .await
    }

    /// What has to go so that so many bytes of a content fit; nothing where that would not be enough. Contents in `in_use`
    /// stay.
    ///
    /// # Errors
    /// [`Code::DiskFull`], with the policy that leaves no room.
    pub(super) async fn find_room(
        &self,
        wanted: u64,
        id: ManifestId,
        in_use: &BTreeSet<ManifestId>,
    ) -> Result<Vec<(Held, Reason)>, Failure> {
        let rules = self.rules();
        let room = self.space(wanted, Some(id)).await?;
        if wanted == 0 || rules.fits(&room).is_ok() {
            return Ok(Vec::new());
        }
        let mut held = self.held().await?;
        held.iter_mut().for_each(|entry| entry.stays |= entry.manifest == id || in_use.contains(&entry.manifest));
        let plan = rules.plan(held, &room);
        let after = rules.after(&plan, &room);
        rules.fits(&after).map_err(|reason| no_room(reason, &rules, &after))?;
        Ok(plan)
    }

    /// Makes room for what a manifest's contents lack, as [`Shared::find_room`] says. It is kept for it until what this
    /// returns is dropped.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn make_room(
        &self,
        manifest: &Manifest,
        in_use: &BTreeSet<ManifestId>,
    ) -> Result<Promise, Failure> {
        let _one_at_a_time = self.room.lock().await;
        let (lacking, id) = (manifest.clone(), manifest.id());
        let wanted = self.on_disk(move |cache| Ok(cache.missing_bytes(&lacking))).await?;
        let plan = self.find_room(wanted, id, in_use).await?;
        if !plan.is_empty() {
            self.carry_out(plan).await?;
            // What could not be removed, since somebody began to use it, is missed now.
            let (rules, room) = (self.rules(), self.space(wanted, Some(id)).await?);
            rules.fits(&room).map_err(|reason| no_room(reason, &rules, &room))?;
        }
        self.promised.lock().unwrap_or_else(PoisonError::into_inner).insert(id, manifest.clone());
        Ok(Promise { promised: Arc::clone(&self.promised), manifest: id })
    }

    /// Bytes that the cache may take in all.
    pub(super) async fn most_bytes(&self) -> Result<u64, Failure> {
        Ok(self.rules().bytes_max(&self.space(0, None).await?))
    }

    /// Whether the volume is fuller than policy allows, whoever filled it.
    pub(super) fn is_disk_too_full(&self) -> bool {
        self.means.cache.free_bytes().is_ok_and(|free| free < self.rules().free_bytes_min)
    }
}

fn no_room(reason: Reason, rules: &CacheRules, room: &Room) -> Failure {
    let wanted = room.wanted;
    let message = match reason {
        Reason::DiskFull => format!(
            "{wanted} bytes are wanted, {} are free, and min_free_disk keeps {} of them",
            room.free, rules.free_bytes_min
        ),
        _ => format!(
            "{wanted} bytes are wanted, {} of the cache's {} are taken ({})",
            room.occupied,
            rules.bytes_max(room),
            reason.policy()
        ),
    };
    Failure::new(Code::DiskFull, message).remedy("unpin or remove contents of the cache, or raise its limits")
}
