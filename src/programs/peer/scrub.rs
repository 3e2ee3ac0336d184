//! The appliance hashes again what it holds, a piece at a time and no faster than policy allows, so that rot is found before
//! a peer asks. What is rotten is dropped and told to peers; what the cache had is fetched again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::content::hash::ManifestId;
use crate::content::layout::PieceIndex;
use crate::content::link::{Link, Target};
use crate::drivers::machine::clock::unix_time;
use crate::programs::peer::downloads::{Downloads, Order, Priority, Standing};
use crate::programs::peer::journal::Deed;
use crate::programs::peer::{Failure, Wanted};
use crate::services::node::{Scrubbed, Scrubbing};

/// How often it is looked for what is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// After a piece no rest is longer than this, however slow the rate: policy may change.
const REST_MAX: Duration = Duration::from_secs(3600);

/// What policy says of it.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// How long a content may go unhashed; zero: for ever.
    pub interval: Duration,
    /// Bytes a second; 0 is no limit.
    pub rate: u64,
}

/// What was done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// The content that is being hashed: the manifest's name, or its id.
    pub running: Option<String>,
    /// Pieces that were what they should be.
    pub pieces_right: u64,
    /// Pieces that were not.
    pub pieces_lost: u64,
}

/// Hashes what is due as long as the daemon lives.
pub(super) struct Scrub {
    downloads: Downloads,
    request: Request,
    /// Root of the files that tell of the machine, its clock among them.
    machine: PathBuf,
    report: Arc<Mutex<ScrubReport>>,
    /// When contents outside of the cache were hashed last, seconds since the epoch.
    seen: BTreeMap<ManifestId, u64>,
    /// When it began: what lies outside of the cache was read since, before it was offered.
    began: u64,
}

impl Scrub {
    pub(super) fn new(
        downloads: Downloads,
        request: Request,
        machine: PathBuf,
        report: Arc<Mutex<ScrubReport>>,
    ) -> Self {
        let began = unix_time(&machine);
        Self { downloads, request, machine, report, seen: BTreeMap::new(), began }
    }

    pub(super) async fn keep(mut self) {
        let mut again = self.downloads.shared.terms_changed.subscribe();
        while !self.request.interval.is_zero() {
            for manifest in self.due().await {
                if let Err(failure) = self.one(manifest).await {
                    tracing::warn!(%manifest, reason = %failure, "a content cannot be hashed again");
                }
                self.tell(|report| report.running = None);
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                changed = again.changed() => if changed.is_err() { return },
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut ScrubReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was not hashed for so long, the longest first.
    async fn due(&mut self) -> Vec<ManifestId> {
        let shared = &self.downloads.shared;
        let (holdings, machine) = (shared.means.node.holdings(), self.machine.clone());
        self.seen.retain(|manifest, _| holdings.contains(manifest));
        let look = move |cache: &crate::drivers::store::Cache| {
            let times = holdings.into_iter().map(|manifest| (manifest, cache.last_checked(manifest)));
            Ok((unix_time(&machine), times.collect::<Vec<_>>()))
        };
        let Ok((now, times)) = shared.on_disk(look).await else { return Vec::new() };
        let mut due = Vec::new();
        for (manifest, cached) in times {
            let at = cached.or_else(|| self.seen.get(&manifest).copied()).unwrap_or(self.began);
            if now.saturating_sub(at) >= self.request.interval.as_secs() {
                due.push((at, manifest));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, manifest)| manifest).collect()
    }

    async fn one(&mut self, manifest: ManifestId) -> Result<(), Failure> {
        let means = &self.downloads.shared.means;
        // Gone since, or being changed.
        let Some(scrubbing) = means.node.scrub(manifest).await else { return Ok(()) };
        let name = match scrubbing.manifest().name() {
            "" => manifest.to_string(),
            name => name.to_owned(),
        };
        tracing::debug!(name, "hashing it again");
        self.tell(|report| report.running = Some(name.clone()));
        let lost = self.pieces(&scrubbing).await;
        let wanted = wanted(&scrubbing);
        scrubbing.close().await;
        let (lost, machine) = (lost?, self.machine.clone());
        let now = unix_time(&machine);
        self.seen.insert(manifest, now);
        let noted = move |cache: &crate::drivers::store::Cache| {
            cache.checked(manifest, now);
            Ok(cache.last_checked(manifest).is_some())
        };
        let cached = self.downloads.shared.on_disk(noted).await?;
        if lost.is_empty() {
            return Ok(());
        }
        let why = format!("{} pieces are not what they were, the first of them piece {}", lost.len(), first(&lost));
        tracing::warn!(name, reason = why, "rot on disk: dropped, and told to peers");
        self.downloads.journal().note(Deed::Damaged, &manifest.to_string(), &why, None);
        if cached { self.downloads.mend(manifest, lost, wanted).await } else { Ok(()) }
    }

    /// Hashes every piece; returns those that are lost.
    async fn pieces(&self, scrubbing: &Scrubbing) -> Result<Vec<PieceIndex>, Failure> {
        let (mut lost, mut next) = (Vec::new(), Instant::now());
        for piece in (0..scrubbing.manifest().layout().piece_count()).map(PieceIndex) {
            tokio::time::sleep_until(next).await;
            let bytes = match scrubbing.check(piece).await? {
                Scrubbed::Right(bytes) => {
                    self.tell(|report| report.pieces_right = report.pieces_right.saturating_add(1));
                    bytes
                }
                Scrubbed::Lost => {
                    self.tell(|report| report.pieces_lost = report.pieces_lost.saturating_add(1));
                    lost.push(piece);
                    scrubbing.manifest().layout().piece_length(piece).unwrap_or(0)
                }
                Scrubbed::Passed => 0,
            };
            // What was late is not made up for: a busy disk is not made busier.
            next = next.max(Instant::now()) + rest_after(bytes, self.request.rate);
        }
        Ok(lost)
    }
}

fn first(lost: &[PieceIndex]) -> u32 {
    lost.first().map_or(0, |piece| piece.0)
}

/// How long so many bytes may take at this rate.
fn rest_after(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes).saturating_mul(1_000_000_000).checked_div(u128::from(rate)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(REST_MAX)
}

/// By what a content is asked for again: its signed manifest, or the id that it was asked for by.
fn wanted(scrubbing: &Scrubbing) -> Wanted {
    let manifest = scrubbing.manifest();
    let bare = manifest.files().first().filter(|_| manifest.is_bare());
    let target = match bare {
        None if !scrubbing.envelope().is_empty() => return Wanted::Envelope(Arc::clone(scrubbing.envelope())),
        None => Target::Manifest(manifest.id()),
        Some(file) => Target::Content(file.content_id),
    };
    Wanted::Link(Link { target, peers: Vec::new(), sources: Vec::new() })
}

impl Downloads {
    /// Fetches pieces of a content of the cache again that are rotten on disk. A download under way does so by itself; one that
    /// was complete begins anew; for what nobody wants one is begun that ends when all is there.
    async fn mend(&self, manifest: ManifestId, lost: Vec<PieceIndex>, wanted: Wanted) -> Result<(), Failure> {
        let shared = &self.shared;
        // Nobody else may open the entry meanwhile; who has it open is a download under way.
        if !shared.open.send_if_modified(|open| open.insert(manifest)) {
            return Ok(());
        }
        shared.means.node.withdraw(&manifest).await;
        let forgotten = shared.on_disk(move |cache| cache.forget(manifest, &lost)).await;
        shared.reopen(manifest);
        forgotten?;
        if shared.means.node.is_remote(&manifest) {
            // Fetched when a peer asks for it, as it was before.
            return Ok(());
        }
        if self.begin_anew(manifest, wanted.clone()) {
            return Ok(());
        }
        let order =
            Order { wanted, peers: Vec::new(), priority: Priority::Background, within: None, uid: None, owner: true };
        let mut hold = self.hold(order)?;
        tokio::spawn(async move {
            while hold.report().is_some_and(|report| report.standing != Standing::Complete) {
                hold.changed().await;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_follows_from_the_rate_and_is_bounded() {
        assert_eq!(rest_after(1 << 20, 0), Duration::ZERO);
        assert_eq!(rest_after(1_000_000, 20_000_000), Duration::from_millis(50));
        assert_eq!(rest_after(u64::MAX, 1), REST_MAX);
    }
}
