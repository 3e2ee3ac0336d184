//! One download of a daemon from its name to whole pieces in the cache: tried again while the daemon runs, held still while
//! it is paused or while something more urgent receives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::content::code::Code;
use crate::drivers::sources::{self, Client};
use crate::drivers::store::PieceStore;
use crate::drivers::transport::PeerId;
use crate::policy::Verdict;
use crate::programs::peer::downloads::{Entry, Priority, Shared, Standing, Terms};
use crate::programs::peer::journal::Deed;
use crate::programs::peer::resolve::{Resolved, fresh, from_file_or_url, from_peers, is_small};
use crate::programs::peer::{Failure, Wanted, sources as source_urls};
use crate::services::node::progress::{Outcome, Phase, Progress};
use crate::services::node::{PeerAddress, Share, ShareSpec};

/// How long a wanted content may find nobody before it is tried anew.
const RETRY: Duration = Duration::from_secs(60);
/// A foreground download that has received nothing for so long holds up no background one.
const RECEIVING_FOR: Duration = Duration::from_secs(3);
/// How often it is looked whether the disk fills up.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Givers of lying manifests that are remembered, and not asked again.
const CONDEMNED_MAX: usize = 64;

/// How one attempt ended.
enum Ended {
    /// The content is held whole; the node serves it from now on.
    Whole,
    /// The download was cancelled, or the daemon stops.
    Cancelled,
    /// The daemon was paused, or something more urgent receives.
    Held,
    /// Another download has the manifest.
    Elsewhere(u64),
    /// The manifest of this peer is a lie.
    Condemned(Option<PeerId>),
    /// It did not work, and may later.
    Failed(Failure),
}

/// Has one wanted content in the cache.
pub(super) struct Fetcher {
    pub(super) number: u64,
    pub(super) wanted: Wanted,
    pub(super) shared: Arc<Shared>,
    pub(super) nudge: Arc<Notify>,
}

/// What may hold a download still or end it.
struct Reins {
    paused: watch::Receiver<bool>,
    gates: watch::Receiver<Verdict>,
    others: watch::Receiver<u64>,
    receiving: watch::Receiver<BTreeSet<u64>>,
    priority: watch::Receiver<Priority>,
    cancelled: watch::Receiver<bool>,
}

impl Reins {
    /// Why it is to stand still, if it is.
    fn held(&mut self) -> Option<Standing> {
        if *self.paused.borrow_and_update() {
            return Some(Standing::Paused);
        }
        let urgent = !self.receiving.borrow_and_update().is_empty();
        let background = *self.priority.borrow_and_update() == Priority::Background;
        if !self.gates.borrow_and_update().background && background {
            return Some(Standing::Gated);
        }
        (urgent && background).then_some(Standing::Yielding)
    }

    /// Completes when any of them changes.
    async fn changed(&mut self) {
        // Seen by the next attempt alone, which begins at once.
        let mut others = self.others.clone();
        // Their senders live as long as the download; one that is gone is the end.
        tokio::select! {
            _ = self.paused.changed() => {}
            _ = self.gates.changed() => {}
            _ = others.changed() => {}
            _ = self.receiving.changed() => {}
            _ = self.priority.changed() => {}
            _ = self.cancelled.changed() => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow() || self.cancelled.has_changed().is_err()
    }

    /// Completes once it is to stand still or end.
    async fn pulled(&mut self) -> Ended {
        loop {
            if self.is_cancelled() {
                return Ended::Cancelled;
            }
            if self.held().is_some() || self.others.has_changed().unwrap_or(false) {
                return Ended::Held;
            }
            self.changed().await;
        }
    }
}

impl Fetcher {
    pub(super) async fn run(self, cancelled: watch::Receiver<bool>, priority: watch::Receiver<Priority>) {
        if let Wanted::Link(link) = &self.wanted {
            let peers: Vec<_> = link.peers.iter().filter_map(|peer| peer.parse::<PeerAddress>().ok()).collect();
            self.shared.dial(&peers);
        }
        let mut condemned = Vec::new();
        let mut noted = None;
        let (paused, receiving) = (self.shared.paused.subscribe(), self.shared.receiving.subscribe());
        let (gates, others) = (self.shared.gates.clone(), self.shared.others.clone());
        let mut reins = Reins { paused, gates, others, receiving, priority, cancelled };
        loop {
            while let Some(standing) = reins.held() {
                if reins.is_cancelled() {
                    return;
                }
                self.shared.stands(self.number, standing);
                reins.others.mark_unchanged();
                reins.changed().await;
            }
            if reins.is_cancelled() {
                return;
            }
            self.shared.stands(self.number, Standing::Resolving);
            reins.others.mark_unchanged();
            let ended = self.attempt(&condemned, &mut reins).await;
            let (code, reason) = match ended {
                Ended::Whole | Ended::Cancelled => return,
                Ended::Held => continue,
                Ended::Elsewhere(other) => {
                    tokio::select! {
                        () = self.parted_from(other) => continue,
                        _ = reins.cancelled.wait_for(|cancelled| *cancelled) => return,
                    }
                }
                Ended::Condemned(giver) => {
                    condemned.truncate(CONDEMNED_MAX - 1);
                    condemned.extend(giver);
                    (Code::BadManifest, "a peer's manifest is not of this content".to_owned())
                }
                Ended::Failed(failure) => (failure.code, failure.to_string()),
            };
            // Once, however often it is tried again.
            if code.exit_code() == 77 && noted.as_ref() != Some(&reason) {
                self.shared.means.journal.note(Deed::Refused, &self.wanted.label(), &reason, None);
                noted = Some(reason.clone());
            }
            tracing::warn!(wanted = self.wanted.label(), code = %code, reason, "not fetched; trying again");
            self.shared.stands(self.number, Standing::Waiting(code, reason));
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.nudge.notified() => {}
                _ = reins.cancelled.wait_for(|cancelled| *cancelled) => return,
            }
        }
    }

    /// Completes once the download of this number is gone or has failed.
    async fn parted_from(&self, other: u64) {
        let mut changes = self.shared.changes.subscribe();
        let fetches = || {
            let table = self.shared.table();
            let entry = table.entries.get(&other);
            entry.is_some_and(|entry| !matches!(entry.standing, Standing::Waiting(..)))
        };
        while fetches() && changes.changed().await.is_ok() {}
    }

    /// One attempt, to its end; a share that does not end whole is stopped, so that its store is free again.
    async fn attempt(&self, condemned: &[PeerId], reins: &mut Reins) -> Ended {
        let mut terms = Terms::clone(&self.shared.terms());
        terms.peers &= self.shared.gates.borrow().peers;
        terms.cache_hosts.hosts.clone_from(&self.shared.gates.borrow().cache_hosts);
        let resolved = tokio::select! {
            resolved = self.resolve(condemned, &terms) => resolved,
            ended = reins.pulled() => return ended,
        };
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(failure) => return Ended::Failed(failure),
        };
        if let Err(failure) = fresh(&resolved, &self.shared.means.state, terms.max_age) {
            return Ended::Failed(failure);
        }
        let (manifest, giver) = (resolved.manifest.id(), resolved.giver);
        if let Err(other) = self.shared.claim_manifest(self.number, manifest, resolved.manifest.name()) {
            self.shared.changed();
            return Ended::Elsewhere(other);
        }
        // A download that was just let go may still be committing what it has.
        let mut open = self.shared.open.subscribe();
        while !self.shared.open.send_if_modified(|open| open.insert(manifest)) {
            tokio::select! {
                _ = open.wait_for(|open| !open.contains(&manifest)) => {}
                ended = reins.pulled() => return ended,
            }
        }
        // Not given up half-way: nobody else may open the entry while a disk thread does.
        let ended = match self.open(resolved, &terms).await {
            Err(failure) => Ended::Failed(failure),
            Ok(share) => {
                if let Some(entry) = self.shared.table().entries.get_mut(&self.number) {
                    entry.progress = Some(share.progress());
                }
                self.shared.stands(self.number, Standing::Downloading);
                let ended = self.wait(&share, giver, reins).await;
                self.receives(false);
                match ended {
                    Ended::Whole => {
                        self.rest(&share);
                        self.shared.stands(self.number, Standing::Complete);
                    }
                    // Nobody waits for it any more; peers may.
                    _ if share.progress().borrow().phase == Phase::Complete => self.rest(&share),
                    _ => share.stop().await,
                }
                ended
            }
        };
        self.shared.open.send_modify(|open| _ = open.remove(&manifest));
        ended
    }

    /// Lets a content that is whole sleep until peers ask for it.
    fn rest(&self, share: &Share) {
        let means = &self.shared.means;
        means.node.let_sleep(share, means.place);
    }

    /// The manifest that is to be used.
    async fn resolve(&self, condemned: &[PeerId], terms: &Terms) -> Result<Resolved, Failure> {
        let means = &self.shared.means;
        let trust = self.shared.trust();
        let http = Client::new(sources::Options::default());
        if let Some(resolved) = from_file_or_url(&self.wanted, &http, &trust, &means.state).await? {
            return Ok(resolved);
        }
        let Wanted::Link(link) = &self.wanted else {
            return Err(Failure::new(Code::InputMissing, "no manifest"));
        };
        if !terms.peers {
            return Err(Failure::new(Code::Policy, "a link needs peers, and the daemon's mode or a gate allows none"));
        }
        from_peers(&means.node, link, &trust, &means.state, RETRY, condemned).await
    }

    /// Opens the cache's entry and begins to fetch what it lacks.
    async fn open(&self, resolved: Resolved, terms: &Terms) -> Result<Share, Failure> {
        let means = &self.shared.means;
        self.shared.within_quota(&resolved, self.uid(), terms.quota).await?;
        let _room = self.shared.make_room(&resolved.manifest, &BTreeSet::new()).await?;
        if let Some(trusted) = &resolved.trusted {
            let (subject, why) = (resolved.manifest.id().to_string(), format!("signed by {}", trusted.publisher));
            means.journal.note(Deed::Trusted, &subject, &why, None);
        }
        let (finds, awaits) = {
            let verdict = self.shared.gates.borrow();
            (verdict.finds_cache_hosts, verdict.awaits_cache_hosts)
        };
        let cache_hosts = terms.cache_hosts.with_found(finds, awaits, &resolved.manifest, &means.node).await;
        let sources = source_urls::of(&resolved.manifest, resolved.trusted.as_ref(), &[], &cache_hosts)?;
        let small = is_small(&resolved.manifest, terms.min_file_size, !sources.is_empty());
        let peers = terms.peers && (!small || self.has_named_peers());
        let (cache, manifest, envelope) =
            (Arc::clone(&means.cache), resolved.manifest.clone(), Arc::clone(&resolved.envelope));
        let create = Arc::new(move || cache.create(&manifest, &envelope).inspect(|_| cache.touch(manifest.id())));
        let again = Arc::clone(&create);
        let mut store = means.node.disk().run(move || create()).await??;
        // What was whole and is served as such has changed since: whoever serves it knows nothing of that.
        if !store.held().is_complete() && means.node.withdraw(&resolved.manifest.id()).await {
            store = means.node.disk().run(move || again()).await??;
        }
        let mut swarm = match self.priority() {
            Priority::Foreground => terms.foreground.clone(),
            Priority::Background => terms.background.clone(),
        };
        swarm.deadline = self.shared.table().entries.get(&self.number).and_then(Entry::time_left);
        let share = means.node.share(ShareSpec {
            manifest: resolved.manifest,
            envelope: resolved.envelope,
            giver: resolved.giver,
            store: Arc::new(store),
            sources,
            peers,
            timeout: None,
            swarm,
        })?;
        share.is_background(self.priority() == Priority::Background).await;
        Ok(share)
    }

    /// The user that asked for it first; `None`: the daemon's own configuration.
    fn uid(&self) -> Option<u32> {
        let table = self.shared.table();
        table.entries.get(&self.number).and_then(|entry| entry.uid())
    }

    /// Whether a person has named peers, to the daemon or for this.
    fn has_named_peers(&self) -> bool {
        let of_link = matches!(&self.wanted, Wanted::Link(link) if !link.peers.is_empty());
        of_link || self.shared.named_peers.load(Ordering::Relaxed)
    }

    fn priority(&self) -> Priority {
        let table = self.shared.table();
        table.entries.get(&self.number).map_or(Priority::Background, |entry| entry.priority())
    }

    fn fetched(&self, wanted: &str, seen: &Progress) {
        // What was here already is no news.
        if delivered(seen) > 0 {
            let mut why = format!("{} bytes from peers, {} over HTTP", seen.bytes_from_peers, seen.bytes_from_http);
            if seen.bytes_from_cache_host > 0 {
                why += &format!(" ({} from a cache host)", seen.bytes_from_cache_host);
            }
            self.shared.means.journal.note(Deed::Fetched, wanted, &why, None);
        }
    }

    /// Says whether this one receives something that somebody waits for.
    fn receives(&self, receiving: bool) {
        self.shared.receiving.send_if_modified(|numbers| match receiving {
            true => numbers.insert(self.number),
            false => numbers.remove(&self.number),
        });
    }

    /// Waits until the content is held whole, has failed, or is not to be fetched now.
    async fn wait(&self, share: &Share, giver: Option<PeerId>, reins: &mut Reins) -> Ended {
        let mut progress = share.progress();
        let (mut received, mut last, mut looked) = (0, None::<Instant>, Instant::now());
        loop {
            let seen = progress.borrow_and_update().clone();
            match (seen.phase, seen.outcome.clone()) {
                (Phase::Complete, _) => {
                    let wanted = self.wanted.label();
                    tracing::info!(wanted, bytes = seen.bytes_total, "held whole, and served");
                    self.fetched(&wanted, &seen);
                    return Ended::Whole;
                }
                (Phase::Failed, Some(Outcome::Condemned)) => return Ended::Condemned(giver),
                (Phase::Failed, Some(outcome)) => return Ended::Failed(outcome.into()),
                _ => {}
            }
            let delivered = delivered(&seen);
            if delivered > received {
                (received, last) = (delivered, Some(Instant::now()));
            }
            let fresh = last.is_some_and(|last| last.elapsed() < RECEIVING_FOR);
            let foreground = self.priority() == Priority::Foreground;
            share.is_background(!foreground).await;
            self.receives(fresh && foreground);
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if self.shared.is_disk_too_full() {
                    let message = "the disk of the cache is fuller than min_free_disk allows";
                    return Ended::Failed(Failure::new(Code::DiskFull, message));
                }
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ended::Cancelled },
                () = tokio::time::sleep(RECEIVING_FOR), if fresh => {}
                ended = reins.pulled() => return ended,
            }
        }
    }
}

fn delivered(progress: &Progress) -> u64 {
    progress.bytes_from_peers.saturating_add(progress.bytes_from_http)
}
