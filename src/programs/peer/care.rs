//! The daemon's care for its cache: room for what is wanted, limits kept, contents pinned, removed and checked on demand;
//! each with its reason in the journal. What goes is decided by `eviction`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

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

impl Downloads {
    /// Keeps the limits, now and as long as the daemon lives.
    pub(crate) async fn keep_house(self) {
        let mut again = self.shared.terms_changed.subscribe();
        loop {
            if let Err(failure) = self.shared.sweep(0).await {
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
        self.shared.evict(&rules, 0).await
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

    /// How full the cache is, with so many bytes about to be written.
    async fn room(&self, wanted: u64) -> Result<Room, Failure> {
        let space = self.on_disk(Cache::space).await?;
        Ok(Room { occupied: space.occupied_bytes, free: space.free_bytes, wanted, now: unix_now() })
    }

    /// Evicts what is over the limits once `wanted` bytes more are there.
    pub(super) async fn sweep(&self, wanted: u64) -> Result<(), Failure> {
        self.evict(&self.rules(), wanted).await.map(|_| ())
    }

    async fn evict(&self, rules: &CacheRules, wanted: u64) -> Result<Vec<ManifestId>, Failure> {
        let room = self.room(wanted).await?;
        let mut gone = Vec::new();
        for (entry, reason) in rules.plan(self.held().await?, &room) {
            if self.remove(entry.manifest).await? {
                let subject = entry.manifest.to_string();
                tracing::info!(manifest = subject, bytes = entry.bytes, policy = reason.policy(), "evicted");
                let why = format!("{}: {} bytes, last used at {}", reason.policy(), entry.bytes, entry.used);
                self.means.journal.note(Deed::Evicted, &subject, &why, None);
                gone.push(entry.manifest);
            }
        }
        Ok(gone)
    }

    /// Every entry as the eviction sees it; what peers are served from now is of use now.
    pub(super) async fn held(&self) -> Result<Vec<Held>, Failure> {
        let open = self.served_since();
        let wanted: BTreeSet<ManifestId> =
            self.table().entries.values().filter_map(|entry| Some(entry.manifest.as_ref()?.0)).collect();
        let node = self.means.node.clone();
        self.on_disk(move |cache| {
            let mut held = Vec::new();
            for manifest in cache.ids()? {
                if open.contains(&manifest) {
                    cache.touch(manifest);
                }
                let stays = wanted.contains(&manifest) || cache.is_pinned(manifest);
                let (bytes, used) = (cache.entry_bytes(manifest), cache.last_used(manifest));
                held.push(Held { manifest, bytes, used, stays, others_hold: node.is_held_near(&manifest) });
            }
            Ok(held)
        })
        .await
    }

    /// What peers were sent something of since the last look.
    fn served_since(&self) -> BTreeSet<ManifestId> {
        let mut known = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = self.means.node.shares();
        let now: BTreeMap<_, _> = shares.iter().map(|share| (share.manifest, share.progress.bytes_to_peers)).collect();
        let before = std::mem::replace(&mut *known, now);
        let more = |(manifest, bytes): &(&ManifestId, &u64)| **bytes > before.get(*manifest).copied().unwrap_or(0);
        known.iter().filter(more).map(|(manifest, _)| *manifest).collect()
    }

    /// Makes room for what a manifest's contents lack.
    ///
    /// # Errors
    /// [`Code::DiskFull`], with the policy that leaves no room.
    pub(super) async fn make_room(&self, manifest: &Manifest) -> Result<(), Failure> {
        let lacking = manifest.clone();
        let wanted = self.on_disk(move |cache| Ok(cache.missing_bytes(&lacking))).await?;
        let rules = self.rules();
        if wanted == 0 || rules.fits(&self.room(wanted).await?).is_ok() {
            return Ok(());
        }
        self.sweep(wanted).await?;
        let room = self.room(wanted).await?;
        rules.fits(&room).map_err(|reason| {
            let message = match reason {
                Reason::DiskFull => format!(
                    "{wanted} bytes are wanted, {} are free, and min_free_disk keeps {} of them",
                    room.free, rules.free_bytes_min
                ),
                _ => format!(
                    "{wanted} bytes are wanted, {} of the cache's {} are taken ({})",
                    room.occupied,
                    rules.bytes_max(&room),
                    reason.policy()
                ),
            };
            Failure::new(Code::DiskFull, message).remedy("unpin or remove contents of the cache, or raise its limits")
        })
    }

    /// Whether the volume is fuller than policy allows, whoever filled it.
    pub(super) fn is_disk_too_full(&self) -> bool {
        self.means.cache.free_bytes().is_ok_and(|free| free < self.rules().free_bytes_min)
    }
}
