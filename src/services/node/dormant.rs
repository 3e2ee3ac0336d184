//! Contents that this node holds and nobody has asked for: known by their topics, opened on the first question. Ten
//! thousand of them cost a map, not ten thousand open manifests, engines and tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::content::hash::{ContentId, ManifestId, Topic};
use crate::services::node::Inner;
use crate::services::node::inner::Windowed;
use crate::services::node::share::{ShareSpec, spawn};

/// What a manifest can be asked for by: its id, and the content ids of its files.
pub type Outline = (ManifestId, Vec<ContentId>);

/// Opens the content of a manifest, on a disk thread.
pub type Open = Arc<dyn Fn(&ManifestId) -> Option<ShareSpec> + Send + Sync>;

#[derive(Default)]
pub(crate) struct Dormant {
    known: Mutex<Known>,
    /// Held while one is opened, so that none is opened twice.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    by_topic: BTreeMap<Topic, ManifestId>,
    /// How to open one, and the runtime on which its share lives.
    open: Option<(Open, Handle)>,
}

impl Dormant {
    /// Called on the runtime on which shares live.
    pub(crate) fn fill(&self, contents: impl IntoIterator<Item = Outline>, group_secret: &[u8], open: Open) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (manifest, files) in contents {
            known.by_topic.insert(Topic::of_manifest(&manifest, group_secret), manifest);
            let topics = files.iter().map(|content| Topic::of_content(content, group_secret));
            known.by_topic.extend(topics.map(|topic| (topic, manifest)));
        }
        known.open = Some((open, Handle::current()));
    }

    fn find(&self, topic: &Topic) -> Option<(ManifestId, Open, Handle)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, runtime) = known.open.as_ref()?;
        Some((*known.by_topic.get(topic)?, Arc::clone(open), runtime.clone()))
    }
}

impl Inner {
    /// Who serves a topic here; a dormant content is opened for it.
    pub(crate) async fn share_or_open(self: &Arc<Self>, topic: &Topic) -> Option<Windowed> {
        if let Some(known) = self.share_of(topic) {
            return Some(known);
        }
        let (manifest, open, runtime) = self.dormant.find(topic)?;
        let _opening = self.dormant.opening.lock().await;
        // Another link may have asked meanwhile.
        if let Some(known) = self.share_of(topic) {
            return Some(known);
        }
        let spec = self.disk.run(move || open(&manifest)).await.ok().flatten()?;
        let share = {
            let _shares_live_there = runtime.enter();
            spawn(self, spec).ok()?
        };
        self.register(&share);
        self.share_of(topic)
    }
}
