//! Contents that this node holds and nobody asks for: known by their topics, opened on the first question, and closed
//! again when nobody has asked for a while. Ten thousand of them cost a map, not ten thousand open manifests, engines and
//! tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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

/// How to open the contents of one place, and the runtime on which their shares live.
type Place = (Open, Handle);

impl Dormant {
    /// Called on the runtime on which shares live. Of two places that hold one manifest the first opens it.
    /// Returns the place's number.
    pub(crate) fn fill(&self, contents: impl IntoIterator<Item = Outline>, group: &Group, open: Open) -> usize {
        let place = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.places.push((open, Handle::current()));
            known.places.len().saturating_sub(1)
        };
        self.add(place, contents, group);
        place
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

    /// Knows a manifest no more.
    fn forget(&self, manifest: &ManifestId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_topic.retain(|(_, held, _)| held != manifest);
        known.contents.retain(|(held, _), _| held != manifest);
    }

    /// Every manifest that is filed.
    pub(crate) fn manifests(&self) -> BTreeSet<ManifestId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contents.keys().map(|(manifest, _)| *manifest).collect()
    }

    /// What opens a manifest's content.
    pub(crate) fn opener(&self, manifest: &ManifestId) -> Option<Open> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ((_, place), _) =
            known.contents.range((*manifest, 0)..).next().filter(|((held, _), _)| held == manifest)?;
        known.places.get(*place).map(|(open, _)| Arc::clone(open))
    }

    /// Notes that a content is of use, where it is open.
    pub(crate) fn touch_manifest(&self, manifest: &ManifestId) {
        for (_, used) in self.awake().iter_mut().filter(|(held, _)| held.manifest().id() == *manifest) {
            *used = Instant::now();
        }
    }

    fn find(&self, topic: &Topic) -> Option<(ManifestId, Place)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let first = (*topic, ManifestId::new([0; 32]), 0);
        let of_topic = known.by_topic.range(first..).take_while(|(held, ..)| held == topic);
        let refused = |manifest| known.refused.get(manifest).is_some_and(|at| at.elapsed() < limits::REOPEN_AFTER);
        let (_, manifest, place) = of_topic.into_iter().find(|(_, manifest, _)| !refused(manifest))?;
        Some((*manifest, known.places.get(*place)?.clone()))
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

impl Inner {
    /// Who serves a topic here; a dormant content is opened for it.
    pub(crate) async fn share_or_open(self: &Arc<Self>, topic: &Topic) -> Option<Windowed> {
        if let Some(known) = self.share_of(topic) {
            self.dormant.touch(&known.0);
            return Some(known);
        }
        let (manifest, (open, runtime)) = self.dormant.find(topic)?;
        let _changing = self.dormant.changing.lock().await;
        // Another link may have asked meanwhile.
        if let Some(known) = self.share_of(topic) {
            return Some(known);
        }
        let Some(spec) = self.disk.run(move || open(&manifest)).await.ok().flatten() else {
            self.dormant.refuse(manifest);
            return None;
        };
        let share = {
            let _shares_live_there = runtime.enter();
            spawn(self, spec).ok()?
        };
        self.register(&share);
        self.dormant.awake().push((share, Instant::now()));
        self.share_of(topic)
    }

    /// Lets an open share sleep when nobody asks for it.
    pub(crate) fn let_sleep(&self, share: &Arc<ShareHandle>, place: usize) {
        self.dormant.adopt(share, place, &self.group());
    }

    /// Offers a manifest's content no more: forgets it, and closes it where it is open. Returns whether it was.
    pub(crate) async fn withdraw(&self, manifest: &ManifestId) -> bool {
        let _changing = self.dormant.changing.lock().await;
        self.dormant.forget(manifest);
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
