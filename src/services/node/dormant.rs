//! Contents that this node holds and nobody asks for: known by their topics, opened on the first question, and closed
//! again when nobody has asked for a while. Ten thousand of them cost a map, not ten thousand open manifests, engines and
//! tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::content::hash::{ContentId, ManifestId, Topic};
use crate::services::node::group::Group;
use crate::services::node::handle::ShareHandle;
use crate::services::node::inner::Windowed;
use crate::services::node::share::{ShareSpec, spawn};
use crate::services::node::{Inner, limits};

/// What a manifest can be asked for by: its id, and the content ids of its files.
pub type Outline = (ManifestId, Vec<ContentId>);

/// Opens the content of a manifest, on a disk thread.
pub type Open = Arc<dyn Fn(&ManifestId) -> Option<ShareSpec> + Send + Sync>;

/// Makes room for the content of a manifest that lies elsewhere and opens it, to be fetched; on the runtime of shares.
pub type OpenRemote = Arc<dyn Fn(ManifestId) -> BoxFuture<'static, Option<Opened>> + Send + Sync>;

/// A content that lies elsewhere and is about to be fetched.
pub struct Opened {
    /// What its share is made of.
    pub spec: ShareSpec,
    /// Kept until the share is known to the node: so long nobody else may change the entry, or take its room.
    pub hold: Box<dyn std::any::Any + Send>,
}

#[derive(Default)]
pub(crate) struct Dormant {
    known: Mutex<Known>,
    /// Those that were opened for somebody, and when they were last of use.
    awake: Mutex<Vec<(Arc<ShareHandle>, Instant)>>,
    /// Held while one is opened or closed, so that none is opened twice.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// Every manifest behind a topic, and which of `places` opens it.
    by_topic: BTreeSet<(Topic, ManifestId, usize)>,
    /// What else each manifest may be asked for by, for the day when the group is another.
    contents: BTreeMap<(ManifestId, usize), Box<[ContentId]>>,
    places: Vec<Place>,
    /// Manifests that could not be opened, and when.
    refused: BTreeMap<ManifestId, Instant>,
}

impl Known {
    /// Files a manifest under every topic by which members of the group may ask for it.
    fn file(&mut self, manifest: ManifestId, place: usize, files: &[ContentId], group: &Group) {
        for key in group.topic_keys() {
            self.by_topic.insert((Topic::of_manifest(&manifest, key), manifest, place));
            for content in files {
                self.by_topic.insert((Topic::of_content(content, key), manifest, place));
            }
        }
    }
}

/// How to open the contents of one place.
#[derive(Clone)]
enum Opener {
    Here(Open),
    Elsewhere(OpenRemote),
}

/// How to open the contents of one place, and the runtime on which their shares live.
type Place = (Opener, Handle);

impl Dormant {
    /// Called on the runtime on which shares live. Of two places that hold one manifest the first opens it.
    /// Returns the place's number.
    pub(crate) fn fill(&self, contents: impl IntoIterator<Item = Outline>, group: &Group, open: Open) -> usize {
        let place = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.places.push((Opener::Here(open), Handle::current()));
            known.places.len().saturating_sub(1)
        };
        self.add(place, contents, group);
        place
    }

    /// As [`Dormant::fill`], for contents that lie elsewhere; none yet.
    pub(crate) fn fill_remote(&self, open: OpenRemote) -> usize {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.places.push((Opener::Elsewhere(open), Handle::current()));
        known.places.len().saturating_sub(1)
    }

    /// Adds contents to a place.
    pub(crate) fn add(&self, place: usize, contents: impl IntoIterator<Item = Outline>, group: &Group) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (manifest, files) in contents {
            known.refused.remove(&manifest);
            known.file(manifest, place, &files, group);
            known.contents.insert((manifest, place), files.into());
        }
    }

    /// Files everything by the words of another group.
    pub(crate) fn refile(&self, group: &Group) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_topic.clear();
        for ((manifest, place), files) in &std::mem::take(&mut known.contents) {
            known.file(*manifest, *place, files, group);
            known.contents.insert((*manifest, *place), files.clone());
        }
    }

    /// Takes one in that is open: closed once nobody asks for it, and opened again from this place.
    fn adopt(&self, share: &Arc<ShareHandle>, place: usize, group: &Group) {
        let manifest = share.manifest();
        self.add(place, [(manifest.id(), manifest.files().iter().map(|file| file.content_id).collect())], group);
        self.awake().push((Arc::clone(share), Instant::now()));
    }

    /// Knows a manifest no more, of places here or of those elsewhere.
    fn forget(&self, manifest: &ManifestId, remote: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { by_topic, contents, places, .. } = &mut *known;
        let stays = |held: &ManifestId, place: usize| held != manifest || is_elsewhere(places, place) != remote;
        by_topic.retain(|(_, held, place)| stays(held, *place));
        contents.retain(|(held, place), _| stays(held, *place));
    }

    /// Knows nothing more of a content that lies elsewhere.
    pub(crate) fn forget_remote(&self, manifest: &ManifestId) {
        self.forget(manifest, true);
    }

    /// Every manifest whose content is here.
    pub(crate) fn manifests(&self) -> BTreeSet<ManifestId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let here = known.contents.keys().filter(|(_, place)| !is_elsewhere(&known.places, *place));
        here.map(|(manifest, _)| *manifest).collect()
    }

    /// Whether a content lies elsewhere, wherever else it may be.
    pub(crate) fn is_remote(&self, manifest: &ManifestId) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_manifest = known.contents.range((*manifest, 0)..=(*manifest, usize::MAX));
        of_manifest.any(|((_, place), _)| is_elsewhere(&known.places, *place))
    }

    /// What opens a manifest's content where it is here.
    pub(crate) fn opener(&self, manifest: &ManifestId) -> Option<Open> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_manifest = known.contents.range((*manifest, 0)..=(*manifest, usize::MAX));
        of_manifest.filter_map(|((_, place), _)| known.places.get(*place)).find_map(|(opener, _)| match opener {
            Opener::Here(open) => Some(Arc::clone(open)),
            Opener::Elsewhere(_) => None,
        })
    }

    /// Notes that a content is of use, where it is open.
    pub(crate) fn touch_manifest(&self, manifest: &ManifestId) {
        for (_, used) in self.awake().iter_mut().filter(|(held, _)| held.manifest().id() == *manifest) {
            *used = Instant::now();
        }
    }

    /// What may open a topic's content: what is here before what lies elsewhere.
    fn find(&self, topic: &Topic) -> Vec<(ManifestId, Place)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let first = (*topic, ManifestId::new([0; 32]), 0);
        let of_topic = known.by_topic.range(first..).take_while(|(held, ..)| held == topic);
        let refused = |manifest| known.refused.get(manifest).is_some_and(|at| at.elapsed() < limits::REOPEN_AFTER);
        let mut usable: Vec<_> = of_topic.filter(|(_, manifest, _)| !refused(manifest)).collect();
        usable.sort_by_key(|(_, _, place)| is_elsewhere(&known.places, *place));
        usable.iter().filter_map(|(_, manifest, place)| Some((*manifest, known.places.get(*place)?.clone()))).collect()
    }

    /// So many of the topics by which something can be asked for.
    pub(crate) fn topics(&self, most: usize) -> Vec<Topic> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut topics: Vec<Topic> = known.by_topic.iter().map(|(topic, ..)| *topic).collect();
        topics.dedup();
        topics.truncate(most);
        topics
    }

    /// Notes that a content could not be opened: the next questions for it are not worth a disk thread's time.
    fn refuse(&self, manifest: ManifestId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).refused.insert(manifest, Instant::now());
    }

    fn awake(&self) -> MutexGuard<'_, Vec<(Arc<ShareHandle>, Instant)>> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none is open.
    pub(crate) fn all_sleep(&self) -> bool {
        self.awake().is_empty()
    }

    /// Notes that somebody is about to use an open one.
    fn touch(&self, share: &Arc<ShareHandle>) {
        for (_, used) in self.awake().iter_mut().filter(|(held, _)| Arc::ptr_eq(held, share)) {
            *used = Instant::now();
        }
    }
}

fn is_elsewhere(places: &[Place], place: usize) -> bool {
    matches!(places.get(place), Some((Opener::Elsewhere(_), _)))
}

impl Inner {
    /// Who serves a topic here; a dormant content is opened for it.
    pub(crate) async fn share_or_open(self: &Arc<Self>, topic: &Topic) -> Option<Windowed> {
        if let Some(known) = self.share_of(topic) {
            self.dormant.touch(&known.0);
            return Some(known);
        }
        for (manifest, (opener, runtime)) in self.dormant.find(topic) {
            let known = match opener {
                Opener::Here(open) => self.open_here(topic, manifest, open, &runtime).await,
                Opener::Elsewhere(open) => self.open_remote(topic, manifest, open, &runtime).await,
            };
            if known.is_some() {
                return known;
            }
        }
        None
    }

    async fn open_here(
        self: &Arc<Self>,
        topic: &Topic,
        id: ManifestId,
        open: Open,
        runtime: &Handle,
    ) -> Option<Windowed> {
        let _changing = self.dormant.changing.lock().await;
        // Another link may have asked meanwhile.
        if let Some(known) = self.share_of(topic) {
            return Some(known);
        }
        let Some(spec) = self.disk.run(move || open(&id)).await.ok().flatten() else {
            // What lies elsewhere too is asked for there.
            if !self.dormant.is_remote(&id) {
                self.dormant.refuse(id);
            }
            return None;
        };
        self.wake(spec, runtime)?;
        self.share_of(topic)
    }

    /// Others may have to give way to it, so no other is kept from opening or closing meanwhile.
    async fn open_remote(
        self: &Arc<Self>,
        topic: &Topic,
        id: ManifestId,
        open: OpenRemote,
        runtime: &Handle,
    ) -> Option<Windowed> {
        let (node, asked, lives) = (Arc::clone(self), *topic, runtime.clone());
        let opening = runtime.spawn(async move {
            let opened = open(id).await;
            let _changing = node.dormant.changing.lock().await;
            if node.share_of(&asked).is_none()
                && let Some(Opened { spec, hold }) = opened
            {
                node.wake(spec, &lives);
                drop(hold);
            }
        });
        // It goes on where this gives up.
        let _ = tokio::time::timeout(limits::OPEN_REMOTE_MAX, opening).await;
        self.share_of(topic)
    }

    /// Makes a share that is closed again when nobody asks for it.
    fn wake(self: &Arc<Self>, spec: ShareSpec, runtime: &Handle) -> Option<()> {
        let share = {
            let _shares_live_there = runtime.enter();
            spawn(self, spec).ok()?
        };
        self.register(&share);
        self.dormant.awake().push((share, Instant::now()));
        Some(())
    }

    /// Opens a content as a peer's question for it does.
    pub(crate) async fn awaken(self: &Arc<Self>, manifest: &ManifestId) -> bool {
        let group = self.group();
        let topic = group.topic_keys().first().map(|key| Topic::of_manifest(manifest, key));
        match topic {
            Some(topic) => self.share_or_open(&topic).await.is_some(),
            None => false,
        }
    }

    /// Lets an open share sleep when nobody asks for it.
    pub(crate) fn let_sleep(&self, share: &Arc<ShareHandle>, place: usize) {
        self.dormant.adopt(share, place, &self.group());
    }

    /// Offers a manifest's content no more: forgets it, and closes it where it is open. Returns whether it was.
    pub(crate) async fn withdraw(&self, manifest: &ManifestId) -> bool {
        let _changing = self.dormant.changing.lock().await;
        self.dormant.forget(manifest, false);
        self.dormant.awake().retain(|(share, _)| share.manifest().id() != *manifest);
        let open: Vec<_> = self.open_shares().into_iter().filter(|share| share.manifest().id() == *manifest).collect();
        for share in &open {
            self.unregister(share);
            share.stop().await;
        }
        !open.is_empty()
    }

    /// Closes those that no peer has had a session for lately.
    pub(crate) async fn lull(&self) {
        if self.dormant.awake().is_empty() {
            return;
        }
        let _changing = self.dormant.changing.lock().await;
        for share in self.unused() {
            tracing::debug!(content = share.name(), "closed: nobody has asked for it lately");
            self.unregister(&share);
            share.stop().await;
        }
    }

    /// Closes all that were opened for peers; who asks anew opens them again.
    pub(crate) async fn close_awake(&self) {
        let _changing = self.dormant.changing.lock().await;
        let awake = std::mem::take(&mut *self.dormant.awake());
        for (share, _) in awake {
            self.unregister(&share);
            share.stop().await;
        }
    }

    /// Takes those out that have had no session for long.
    fn unused(&self) -> Vec<Arc<ShareHandle>> {
        let mut in_use = BTreeSet::new();
        for link in self.links().values() {
            in_use.extend(link.slots().by_handle.values().filter_map(|slot| slot.share.as_ref()).map(Arc::as_ptr));
        }
        let mut unused = Vec::new();
        self.dormant.awake().retain_mut(|(share, used)| {
            if in_use.contains(&Arc::as_ptr(share)) {
                *used = Instant::now();
            }
            let stays = used.elapsed() < limits::ASLEEP_AFTER;
            if !stays {
                unused.push(Arc::clone(share));
            }
            stays
        });
        unused
    }
}
