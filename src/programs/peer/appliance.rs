//! What the seed of a site does beyond any node: it watches folders and serves what lies there whole, and has contents in its
//! cache before anybody asks. It fetches nothing itself; that is `downloads`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::content::hash::{ContentId, ManifestId};
use crate::content::manifest::Manifest;
use crate::content::trust::TrustStore;
use crate::drivers::hashing::verify_publication;
use crate::drivers::store::StateDir;
use crate::programs::peer::downloads::{Downloads, Order, Priority, Standing};
use crate::programs::peer::journal::Deed;
use crate::programs::peer::keep::open_in_place;
use crate::programs::peer::objects::{self, Objects};
use crate::programs::peer::resolve::judge;
use crate::programs::peer::scrub::{self, Scrub, ScrubReport};
use crate::programs::peer::{Failure, Wanted, read_envelope};
use crate::services::node::{FetchSources, ShareSpec};
use crate::swarm;

/// How long a look at the folders is from the next one, at least.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// A look that took long is followed by so many times its length of rest.
const REST_FACTOR: u32 = 19;
/// Folders below a watched one are looked into as deep as this.
const DEPTH_MAX: usize = 16;
/// Names that one look reads; what lies beyond is not served, and a warning says so.
const NAMES_MAX: usize = 1_000_000;
/// What the file of a manifest ends with.
const EXTENSION: &str = "piecework";
/// Refusals that are shown; the journal has all.
const REFUSED_SHOWN_MAX: usize = 100;

/// What policy says of an appliance.
#[derive(Debug, Clone)]
pub struct Request {
    /// Folders to watch, absolute.
    pub folders: Vec<PathBuf>,
    /// Manifests, URLs or links of contents to have.
    pub prefetch: Vec<String>,
    /// How long until manifests of files and URLs are looked at again.
    pub prefetch_interval: Duration,
    /// How what is held is hashed again.
    pub scrub: scrub::Request,
    /// What lies in object storage.
    pub objects: objects::Request,
}

/// What an appliance does at this moment, for whoever looks; a handle.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    shelf: Arc<Mutex<Shelf>>,
    objects: Arc<Mutex<Shelf>>,
    scrub: Arc<Mutex<ScrubReport>>,
}

impl Reports {
    /// What the last look at the watched folders and buckets found.
    pub fn shelf(&self) -> Shelf {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        shelf.served_count = shelf.served_count.saturating_add(objects.served_count);
        shelf.refused_count = shelf.refused_count.saturating_add(objects.refused_count);
        shelf.refused.extend(objects.refused);
        shelf.refused.truncate(REFUSED_SHOWN_MAX);
        shelf
    }

    /// What the hashing has found since the start.
    pub fn scrub(&self) -> ScrubReport {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a look at the watched folders, or at buckets, found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Contents that are served from there.
    pub served_count: usize,
    /// Those that are not there whole yet, or not read yet.
    pub waiting_count: usize,
    /// Manifests that are refused, and contents that are not what their manifests say.
    pub refused_count: usize,
    /// The first of these, each with the reason.
    pub refused: Vec<(PathBuf, String)>,
}

impl Shelf {
    /// Adds a refusal.
    pub(super) fn refuse(&mut self, place: PathBuf, reason: &str) {
        self.refused_count = self.refused_count.saturating_add(1);
        if self.refused.len() < REFUSED_SHOWN_MAX {
            self.refused.push((place, reason.to_owned()));
        }
    }
}

/// Size, times and number of one or more files, hashed: equal while nothing was written.
type Mark = [u8; 32];
/// A content and the manifest that belongs to it, by manifest.
type Places = Arc<Mutex<BTreeMap<ManifestId, (PathBuf, PathBuf)>>>;

/// One file of a manifest in a watched folder.
struct Item {
    mark: Mark,
    /// Who was believed when it was judged.
    trust: Arc<TrustStore>,
    /// Else why it was refused.
    manifest: Result<Manifest, String>,
    /// Where its content lay at the last look, with every file in its full length.
    content: Option<(PathBuf, Mark)>,
    /// The content that was read and found wrong, and in what.
    wrong: Option<(Mark, String)>,
    served: bool,
}

/// What came of a look.
enum Change {
    Offer { manifest: ManifestId, contents: Vec<ContentId>, place: (PathBuf, PathBuf) },
    Withdraw(ManifestId, PathBuf),
    Refused(PathBuf, Failure),
    Wrong(PathBuf, String),
}

struct Watch {
    folders: Vec<PathBuf>,
    state: Arc<StateDir>,
    items: BTreeMap<PathBuf, Item>,
    shelf: Arc<Mutex<Shelf>>,
}

/// Begins to watch and to prefetch, as long as the daemon lives.
///
/// # Errors
/// A link to prefetch that does not parse.
pub(super) fn start(
    request: Request,
    downloads: &Downloads,
    swarm: &swarm::Options,
    machine: &Path,
) -> Result<Reports, Failure> {
    let wanted = request.prefetch.iter().map(|text| Wanted::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if !wanted.is_empty() {
        tokio::spawn(prefetch(downloads.clone(), wanted, request.prefetch_interval));
    }
    let reports = Reports::default();
    let (report, machine) = (Arc::clone(&reports.scrub), machine.to_owned());
    tokio::spawn(Scrub::new(downloads.clone(), request.scrub, machine, report).keep());
    if !request.objects.buckets.is_empty() {
        tokio::spawn(Objects::new(request.objects, downloads, Arc::clone(&reports.objects))?.keep());
    }
    if request.folders.is_empty() {
        return Ok(reports);
    }
    let (state, shelf) = (Arc::clone(&downloads.shared.means.state), Arc::clone(&reports.shelf));
    let watch = Watch { folders: request.folders, state, items: BTreeMap::new(), shelf };
    tokio::spawn(watch.keep(downloads.clone(), swarm.clone()));
    Ok(reports)
}

/// Has contents in the cache, and looks for newer manifests of files and URLs: a download that is complete is ended, which
/// leaves its content in the cache, and begun anew.
async fn prefetch(downloads: Downloads, wanted: Vec<Wanted>, every: Duration) {
    loop {
        for wanted in &wanted {
            let label = wanted.label();
            let complete = |report: &crate::programs::peer::downloads::DownloadReport| {
                report.wanted == label && report.standing == Standing::Complete && report.claim_count == 1
            };
            let done = downloads.list().into_iter().find(complete);
            if let (Some(done), Wanted::File(_) | Wanted::Url(_)) = (done, wanted) {
                downloads.cancel(done.number, None, true).await;
            }
            let priority = Priority::Background;
            let order =
                Order { wanted: wanted.clone(), peers: Vec::new(), priority, within: None, uid: None, owner: true };
            if let Err(failure) = downloads.start(order) {
                tracing::warn!(wanted = label, reason = %failure, "it is not prefetched");
            }
        }
        tokio::time::sleep(every).await;
    }
}

impl Watch {
    async fn keep(mut self, downloads: Downloads, swarm: swarm::Options) {
        let node = &downloads.shared.means.node;
        let places = Places::default();
        let place = node.keep_dormant([], opener(Arc::clone(&places), swarm));
        loop {
            let (trust, began) = (downloads.shared.trust(), Instant::now());
            let (answer, looked) = tokio::sync::oneshot::channel();
            // A thread of its own: it may read for hours, and neither disk threads nor the daemon's end wait for it.
            let thread = std::thread::Builder::new().name("folders".to_owned()).spawn(move || {
                let changes = self.look(&trust);
                _ = answer.send((self, changes));
            });
            let Ok((watch, changes)) = (match thread {
                Ok(_) => looked.await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            })
            .inspect_err(|error| tracing::error!(error, "folders are watched no more")) else {
                return;
            };
            self = watch;
            let rest = if changes.is_empty() { began.elapsed().saturating_mul(REST_FACTOR) } else { Duration::ZERO };
            for change in changes {
                apply(change, &downloads, &places, place).await;
            }
            tokio::time::sleep(rest.max(LOOK_EVERY)).await;
        }
    }

    /// Looks once; reads at most one content as a whole, so that what disappears meanwhile is soon seen.
    fn look(&mut self, trust: &Arc<TrustStore>) -> Vec<Change> {
        let mut found = BTreeMap::new();
        let mut names_left = NAMES_MAX;
        for folder in &self.folders {
            list(folder, DEPTH_MAX, &mut names_left, &mut found);
        }
        if names_left == 0 {
            tracing::warn!(names = NAMES_MAX, "the watched folders hold more names than are read");
        }
        let mut changes = Vec::new();
        self.items.retain(|path, item| {
            let stays = found.get(path) == Some(&item.mark) && Arc::ptr_eq(&item.trust, trust);
            if let (false, true, Ok(manifest)) = (stays, item.served, &item.manifest) {
                changes.push(Change::Withdraw(manifest.id(), path.clone()));
            }
            stays
        });
        for (path, mark) in found {
            if !self.items.contains_key(&path) {
                let manifest = believe(&path, trust, &self.state).map_err(|failure| {
                    let reason = failure.to_string();
                    changes.push(Change::Refused(path.clone(), failure));
                    reason
                });
                let trust = Arc::clone(trust);
                self.items.insert(path, Item { mark, trust, manifest, content: None, wrong: None, served: false });
            }
        }
        let mut served: Vec<ManifestId> = self.items.values().filter(|item| item.served).filter_map(Item::id).collect();
        let mut may_read = true;
        for (path, item) in &mut self.items {
            let Ok(manifest) = &item.manifest else { continue };
            let content = whole(path, manifest);
            if content != item.content {
                if std::mem::take(&mut item.served) {
                    changes.push(Change::Withdraw(manifest.id(), path.clone()));
                }
                // What changes between two looks is being written still.
                item.content = content;
                continue;
            }
            let Some((place, mark)) = &item.content else { continue };
            let is_wrong = item.wrong.as_ref().is_some_and(|(wrong, _)| wrong == mark);
            if item.served || is_wrong || !may_read || served.contains(&manifest.id()) {
                continue;
            }
            may_read = false;
            match verified(place, manifest) {
                // Written meanwhile: the next look sees it.
                _ if whole(path, manifest) != item.content => {}
                Ok(()) => {
                    item.served = true;
                    served.push(manifest.id());
                    let contents = manifest.files().iter().map(|file| file.content_id).collect();
                    let place = (place.clone(), path.clone());
                    changes.push(Change::Offer { manifest: manifest.id(), contents, place });
                }
                Err(reason) => {
                    item.wrong = Some((*mark, reason.clone()));
                    changes.push(Change::Wrong(place.clone(), reason));
                }
            }
        }
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = self.shown();
        changes
    }

    /// What there is to be seen.
    fn shown(&self) -> Shelf {
        let mut shelf = Shelf::default();
        for (path, item) in &self.items {
            let wrong =
                item.wrong.as_ref().filter(|(mark, _)| item.content.as_ref().is_some_and(|(_, now)| now == mark));
            match (&item.manifest, wrong) {
                (Err(reason), _) | (Ok(_), Some((_, reason))) => shelf.refuse(path.clone(), reason),
                _ if item.served => shelf.served_count = shelf.served_count.saturating_add(1),
                _ => shelf.waiting_count = shelf.waiting_count.saturating_add(1),
            }
        }
        shelf
    }
}

impl Item {
    fn id(&self) -> Option<ManifestId> {
        self.manifest.as_ref().ok().map(Manifest::id)
    }
}

/// Opens what lies in watched folders when a peer asks for it.
fn opener(places: Places, swarm: swarm::Options) -> crate::services::node::Open {
    Arc::new(move |id: &ManifestId| {
        let place = places.lock().unwrap_or_else(PoisonError::into_inner).get(id)?.clone();
        let opened = open_in_place(&place).inspect_err(|error| {
            tracing::warn!(path = %place.0.display(), reason = %error, "a watched content is left out");
        });
        let (store, envelope) = opened.ok()?;
        let manifest = crate::drivers::store::PieceStore::manifest(&store).clone();
        if manifest.id() != *id {
            return None;
        }
        let (store, sources, swarm) = (Arc::new(store), FetchSources::default(), swarm.clone());
        Some(ShareSpec { manifest, envelope, giver: None, store, sources, peers: true, timeout: None, swarm })
    })
}

async fn apply(change: Change, downloads: &Downloads, places: &Places, number: usize) {
    let (node, journal) = (&downloads.shared.means.node, downloads.journal());
    match change {
        Change::Offer { manifest, contents, place } => {
            tracing::info!(path = %place.0.display(), %manifest, "served from its folder");
            places.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest, place);
            node.offer(number, [(manifest, contents)]);
        }
        Change::Withdraw(manifest, path) => {
            tracing::info!(path = %path.display(), %manifest, "withdrawn: it changed, or is gone");
            places.lock().unwrap_or_else(PoisonError::into_inner).remove(&manifest);
            if let Err(failure) = downloads.shared.withdraw(manifest).await {
                tracing::warn!(reason = %failure, "the cache cannot be looked at");
            }
        }
        Change::Refused(path, failure) => {
            tracing::warn!(path = %path.display(), reason = %failure, "a manifest in a watched folder is refused");
            journal.note(Deed::Refused, &path.display().to_string(), &failure.to_string(), None);
        }
        Change::Wrong(path, reason) => {
            tracing::warn!(path = %path.display(), reason, "a content in a watched folder is not what its manifest says");
            journal.note(Deed::Damaged, &path.display().to_string(), &reason, None);
        }
    }
}

/// Reads a manifest that a trusted publisher signed. Whoever put it there named this very one: an older one counts too.
fn believe(path: &Path, trust: &TrustStore, state: &StateDir) -> Result<Manifest, Failure> {
    let bytes = read_envelope(path)?;
    Ok(judge(&bytes, &path.display().to_string(), trust, state, true)?.manifest)
}

/// Every manifest's file below a folder; names that begin with a point are left out, links are not followed.
fn list(folder: &Path, depth_left: usize, names_left: &mut usize, found: &mut BTreeMap<PathBuf, Mark>) {
    let Ok(names) = std::fs::read_dir(folder) else {
        tracing::debug!(path = %folder.display(), "a watched folder cannot be read");
        return;
    };
    for entry in names.flatten() {
        let Some(left) = names_left.checked_sub(1) else { return };
        *names_left = left;
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match depth_left.checked_sub(1) {
            Some(depth_left) if kind.is_dir() => list(&path, depth_left, names_left, found),
            _ if kind.is_file() && path.extension().is_some_and(|ending| ending == EXTENSION) => {
                if let Some(mark) = mark([(path.as_path(), None)]) {
                    found.insert(path, mark);
                }
            }
            _ => {}
        }
    }
}

/// Where a manifest's content lies with every file in its length: beside it, by the name of the manifest's file, by the last
/// part of the publication's name, or by its only file's own name.
fn whole(path: &Path, manifest: &Manifest) -> Option<(PathBuf, Mark)> {
    let beside = path.parent()?;
    let own = manifest.files().first().filter(|_| !manifest.is_directory()).map(|file| file.path.to_path_buf());
    let stem = path.file_stem().map(PathBuf::from);
    let name = Path::new(manifest.name()).file_name().map(PathBuf::from);
    [stem, name, own].into_iter().flatten().map(|name| beside.join(name)).find_map(|place| {
        let of = |file: &crate::content::FileEntry| match manifest.is_directory() {
            true => (place.join(file.path.to_path_buf()), Some(file.length)),
            false => (place.clone(), Some(file.length)),
        };
        if manifest.is_directory() && !place.is_dir() {
            return None;
        }
        let files: Vec<_> = manifest.files().iter().map(of).collect();
        let mark = mark(files.iter().map(|(path, length)| (path.as_path(), *length)))?;
        Some((place, mark))
    })
}

/// `None` where one of them is missing, no file, or of another length.
fn mark<'a>(files: impl IntoIterator<Item = (&'a Path, Option<u64>)>) -> Option<Mark> {
    let mut hasher = blake3::Hasher::new();
    for (path, length) in files {
        let data = std::fs::symlink_metadata(path).ok()?;
        if !data.is_file() || length.is_some_and(|length| length != data.len()) {
            return None;
        }
        for number in [data.dev(), data.ino(), data.len()] {
            hasher.update(&number.to_le_bytes());
        }
        for time in [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()] {
            hasher.update(&time.to_le_bytes());
        }
    }
    Some(*hasher.finalize().as_bytes())
}

/// Reads a content as a whole.
fn verified(place: &Path, manifest: &Manifest) -> Result<(), String> {
    let read = verify_publication(place, manifest, &|_| {}).map_err(|error| error.to_string())?;
    match read.faults().next() {
        Some((file, fault)) => Err(format!("{}: {fault}", file.file.display())),
        None => Ok(()),
    }
}
