//! A share as the rest of the node sees it: what it is of, how far it is, and the queue on which its task is told things.
//! The task itself is in `share`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use crate::content::hash::Topic;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::store::{self, CommitFailure, Committed, Finished, PieceStore, PutOutcome};
use crate::services::node::limits;
use crate::services::node::progress::Progress;
use crate::services::node::talk::PeerLink;
use crate::swarm::event::{Event, PeerKey, Supplier};

/// What a share's task is told.
pub(crate) enum ShareEvent {
    /// For the engine as it is.
    Swarm(Event),
    /// A session stands.
    PeerUp { peer: PeerKey, link: PeerLink },
    /// A peer does not hold the topic.
    NotHeldBy { link: u64 },
    /// A block was verified and written, or was here already.
    Block { supplier: Supplier, piece: PieceIndex, block: BlockIndex, bytes: u64, outcome: PutOutcome },
    /// A block's hash was wrong.
    BadBlock { supplier: Supplier, piece: PieceIndex, block: BlockIndex, bytes: u64 },
    /// A peer counts pieces, or their bytes, otherwise than the unproven manifest.
    Contradicted { peer: PeerKey },
    /// Bytes that arrived over HTTP and were of no use.
    HttpWaste { bytes: u64 },
    /// A piece that nobody asked for, or asks for any more; skipped unhashed.
    Unasked { peer: PeerKey, bytes: u64 },
    /// The disk refuses.
    DiskFailed(store::Error),
    /// A group commit ended.
    Committed(Result<Committed, CommitFailure>),
    /// Every piece was there, and the files stand under their names, or not.
    Finished(Result<Finished, CommitFailure>),
    /// A fetch failed; what to tell people.
    SourceTrouble { text: String },
    /// The machine is about to sleep; answered when the engine has said so.
    Sleeping(oneshot::Sender<()>),
    /// End the task: commit what is written, then answer.
    Stop(oneshot::Sender<()>),
}

/// A topic, and what it stands for of a share's flat index: first piece, count.
pub(crate) type TopicWindow = (Topic, (u32, u32));

/// A share as the rest of the node sees it.
pub(crate) struct ShareHandle {
    name: String,
    manifest: Manifest,
    envelope: Arc<[u8]>,
    store: Arc<dyn PieceStore>,
    topics: Vec<TopicWindow>,
    /// How many keys of a group the topics are of, one after the other.
    group_keys: usize,
    events: mpsc::Sender<ShareEvent>,
    progress: watch::Receiver<Progress>,
    /// Wants peers: still downloading.
    wants_peers: AtomicBool,
    /// Nobody waits for it.
    background: AtomicBool,
    /// Peers by link number, for the settling of discovery.
    answered: Mutex<BTreeSet<u64>>,
}

impl ShareHandle {
    /// A handle, and the queue that its task empties.
    pub(crate) fn new(
        manifest: Manifest,
        envelope: Arc<[u8]>,
        store: Arc<dyn PieceStore>,
        (topics, group_keys): (Vec<TopicWindow>, usize),
        progress: watch::Receiver<Progress>,
        (wants_peers, background): (bool, bool),
    ) -> (Arc<Self>, mpsc::Receiver<ShareEvent>) {
        let (events, queue) = mpsc::channel(limits::SHARE_EVENTS_MAX);
        let name = match manifest.name() {
            "" => manifest.files().first().map(|file| file.content_id.to_string()).unwrap_or_default(),
            name => name.to_owned(),
        };
        let (wants_peers, answered) = (AtomicBool::new(wants_peers), Mutex::default());
        let background = AtomicBool::new(background);
        let share = Self {
            name,
            manifest,
            envelope,
            store,
            topics,
            group_keys,
            events,
            progress,
            wants_peers,
            background,
            answered,
        };
        (Arc::new(share), queue)
    }

    /// The manifest's name, or the content id where only that is known.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The signed bytes as they are passed on to peers.
    pub(crate) fn envelope(&self) -> &Arc<[u8]> {
        &self.envelope
    }

    pub(crate) fn store(&self) -> &Arc<dyn PieceStore> {
        &self.store
    }

    /// Topics by which peers may ask, each with its window of the flat index.
    pub(crate) fn topics(&self) -> &[TopicWindow] {
        &self.topics
    }

    /// By which topic a peer is asked that shares this one of the group's keys.
    pub(crate) fn asking(&self, group_key: usize) -> Option<TopicWindow> {
        // Each key has as many as the others, the first of them the one to ask by.
        let each = self.topics.len().checked_div(self.group_keys)?;
        self.topics.get(each.checked_mul(group_key)?).copied()
    }

    /// By which topics it is asked for, one for each of the group's keys.
    pub(crate) fn askings(&self) -> impl Iterator<Item = TopicWindow> + '_ {
        (0..self.group_keys).filter_map(|key| self.asking(key))
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    pub(crate) fn wants_peers(&self) -> bool {
        self.wants_peers.load(Ordering::Relaxed)
    }

    pub(crate) fn is_background(&self) -> bool {
        self.background.load(Ordering::Relaxed)
    }

    pub(crate) async fn set_background(&self, background: bool) {
        if self.background.swap(background, Ordering::Relaxed) != background {
            self.tell(Event::Background(background)).await;
        }
    }

    /// It has ended, one way or the other: it looks for no more peers.
    pub(crate) fn wants_no_more_peers(&self) {
        self.wants_peers.store(false, Ordering::Relaxed);
    }

    /// Notes that the peer on this link has answered.
    pub(crate) fn answered(&self, link: u64) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(link);
    }

    /// Whether the peer on this link has answered for this share, with the topic or a refusal.
    pub(crate) fn has_answer_of(&self, link: u64) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(&link)
    }

    /// Whether the manifest is nobody's word but a peer's, and no piece has proven its length yet.
    pub(crate) fn is_unproven(&self) -> bool {
        let last = self.manifest.layout().piece_count().saturating_sub(1);
        self.manifest.is_bare() && !self.store.held().has(PieceIndex(last))
    }

    /// Queues an event for the engine; waits while the queue is full, which holds up the peer that fills it.
    pub(crate) async fn tell(&self, event: Event) {
        self.post(ShareEvent::Swarm(event)).await;
    }

    /// Queues anything. A share that has ended swallows it.
    pub(crate) async fn post(&self, event: ShareEvent) {
        let _ = self.events.send(event).await;
    }

    /// The same from a disk thread.
    pub(crate) fn tell_blocking(&self, event: ShareEvent) {
        let _ = self.events.blocking_send(event);
    }

    /// Tells the engine that the machine is about to sleep; completes once peers have been told, as far as they read.
    pub(crate) async fn fall_asleep(&self) {
        let (answer, done) = oneshot::channel();
        self.post(ShareEvent::Sleeping(answer)).await;
        let _ = done.await;
    }

    /// Ends the share's task once what is written is committed.
    pub(crate) async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        self.post(ShareEvent::Stop(answer)).await;
        let _ = done.await;
    }
}
