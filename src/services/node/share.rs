//! One manifest on this node: the task that owns its [`Swarm`], hands it what happens and carries out what it says.
//!
//! Clock and entropy are read here, never below. Payload does not pass through: readers and fetches hand blocks to the
//! disk threads and tell the share how that went.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::content::hash::Topic;
use crate::content::layout::PieceIndex;
use crate::content::manifest::Manifest;
use crate::drivers::store::{CommitFailure, Committed, Finished, PieceStore, PutOutcome};
use crate::services::node::Inner;
use crate::services::node::bears::Machine;
use crate::services::node::doubt::{Doubt, Verdict};
use crate::services::node::fetch::{FetchSources, Fetches};
use crate::services::node::handle::{ShareEvent, ShareHandle};
use crate::services::node::limits::{SCOPES_KEPT_MAX, SHARE_EVENTS_AT_ONCE};
use crate::services::node::moved::Waste;
use crate::services::node::progress::{Books, Outcome, Phase, Progress};
use crate::services::node::sharing::Sharer;
use crate::services::node::talk::PeerLink;
use crate::services::node::troubles::Troubles;
use crate::services::node::yielding::Held;
use crate::swarm::event::{Action, BanReason, Event, Member, PeerKey, Scope, SourceFault, Supplier};
use crate::swarm::{Options as SwarmOptions, Swarm, Uptime};
use crate::wire::{SharingWord, sharing_word};

/// What a share is made of.
pub struct ShareSpec {
    /// Verified, or bare.
    pub manifest: Manifest,
    /// Exact bytes of the envelope; passed on to peers who ask for the manifest.
    pub envelope: Arc<[u8]>,
    /// The peer that gave the manifest, where nobody signed it; who may be lying about its length.
    pub giver: Option<PeerId>,
    /// Where pieces are kept.
    pub store: Arc<dyn PieceStore>,
    /// HTTP sources that may be used, in no order.
    pub sources: FetchSources,
    /// Peers may be asked and served.
    pub peers: bool,
    /// How long nothing may arrive, with nobody to ask, before the download fails.
    pub timeout: Option<Duration>,
    /// Engine settings; `topic`, `no_peers` and `last_piece_first` are set by the share.
    pub swarm: SwarmOptions,
}

/// Starts the task of a share.
pub(crate) fn spawn(node: &Arc<Inner>, spec: ShareSpec) -> Result<Arc<ShareHandle>, crate::swarm::Error> {
    let manifest = spec.manifest.clone();
    let held = spec.store.held();
    let partial = spec.store.partial();
    let mut books = Books::new(&manifest, &held, &partial);
    let complete = held.is_complete();
    let (progress, progress_seen) = watch::channel(books.progress(Phase::Downloading));
    let group = node.group();
    let keys = group.topic_keys();
    let by_key: Vec<_> = keys.iter().flat_map(|key| topics(&manifest, key)).collect();
    let mut options = spec.swarm;
    // Never told to anybody: it ranks members, and they must rank alike while some have a group's next secret already.
    options.topic = topics(&manifest, &[]).first().map_or([0; 32], |(topic, _)| *topic.as_bytes());
    options.no_peers = !spec.peers;
    options.isolated_before = spec.peers && !complete && node.was_isolated();
    options.last_piece_first = manifest.is_bare();
    options.background &= !complete;
    let background = options.background;
    let line_word = by_key.first().filter(|_| options.line_budget > 0).map(|(topic, _)| sharing_word(topic));
    let started = Instant::now();
    let swarm = Swarm::new(
        Arc::new(manifest.layout().clone()),
        held,
        partial,
        options,
        node.node_id(),
        node.own_address(),
        crate::services::node::entropy(),
        Uptime::ZERO,
    )?;
    let wants_peers = !complete && spec.peers;
    let by_key = (by_key, keys.len());
    let (handle, queue) =
        ShareHandle::new(manifest, spec.envelope, spec.store, by_key, progress_seen, (wants_peers, background));
    let task = Share {
        node: Arc::clone(node),
        handle: Arc::clone(&handle),
        swarm,
        peers: BTreeMap::new(),
        scopes: BTreeMap::new(),
        fetches: Fetches::new(spec.sources),
        books,
        doubt: Doubt::new(spec.giver),
        progress,
        queue,
        started,
        timeout: spec.timeout,
        peers_allowed: spec.peers,
        committing: false,
        dirty: false,
        finished: false,
        failed: false,
        troubles: Troubles::default(),
        yielding: BTreeMap::new(),
        sharer: line_word.filter(|_| !complete).map(|word| node.share_line(word)),
        line_word,
        neighbours: (0, false),
    };
    node.share_began(&handle);
    tokio::spawn(task.run());
    Ok(handle)
}

/// Every topic under which a manifest's pieces may be asked for.
fn topics(manifest: &Manifest, group_secret: &[u8]) -> Vec<(Topic, (u32, u32))> {
    let mut topics = Vec::new();
    let all = (0, manifest.layout().piece_count());
    let lone = !manifest.is_directory() && manifest.files().len() == 1;
    if !lone {
        topics.push((Topic::of_manifest(&manifest.id(), group_secret), all));
    }
    for place in manifest.layout().places() {
        if let Some(file) = manifest.files().get(place.file as usize) {
            let window = (place.first_piece, place.layout.piece_count());
            topics.push((Topic::of_content(&file.content_id, group_secret), window));
        }
    }
    if lone {
        if topics.is_empty()
            && let Some(file) = manifest.files().first()
        {
            topics.push((Topic::of_content(&file.content_id, group_secret), all));
        }
        topics.push((Topic::of_manifest(&manifest.id(), group_secret), all));
    }
    topics
}

struct Share {
    node: Arc<Inner>,
    handle: Arc<ShareHandle>,
    swarm: Swarm,
    peers: BTreeMap<PeerKey, PeerLink>,
    /// How near peers are, those included that have left and whose blocks are still being written.
    scopes: BTreeMap<PeerKey, Scope>,
    fetches: Fetches,
    books: Books,
    /// About a manifest that nobody signed.
    doubt: Doubt,
    progress: watch::Sender<Progress>,
    queue: mpsc::Receiver<ShareEvent>,
    started: Instant,
    timeout: Option<Duration>,
    peers_allowed: bool,
    /// A commit is on a disk thread.
    committing: bool,
    /// Blocks were written since the last commit began.
    dirty: bool,
    /// The files stand under their names.
    finished: bool,
    /// The download has ended without its files; only the end of the task remains.
    failed: bool,
    /// What went wrong with suppliers, for the error message.
    troubles: Troubles,
    /// Connections to peers that yield meanwhile.
    yielding: BTreeMap<PeerKey, Held>,
    /// It takes its part of the line's budget: while something is missing.
    sharer: Option<Sharer>,
    /// By which it does; nothing where there is no budget.
    line_word: Option<SharingWord>,
    /// Members seen, and whether any is connected, as the engine was told.
    neighbours: (u32, bool),
}

/// How often progress is told and commits are considered.
const BEAT: Duration = Duration::from_millis(100);
/// How long a download whose every source was found useless waits for a peer to turn up.
const NO_SUPPLIER_GRACE: Duration = Duration::from_secs(5);

impl Share {
    async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.offer_sources();
        if !self.node.uploads.load(std::sync::atomic::Ordering::Relaxed) {
            self.feed(Event::UploadsAllowed(false));
        }
        if !self.node.far_uploads.load(std::sync::atomic::Ordering::Relaxed) {
            self.feed(Event::FarUploadsAllowed(false));
        }
        let machine = *self.node.machine();
        machine.news(Machine::default()).for_each(|event| self.feed(event));
        let mut sharers = self.node.sharing.changes();
        let by = *sharers.borrow_and_update();
        self.feed(Event::LineShared { by });
        if self.node.asleep.load(std::sync::atomic::Ordering::Relaxed) {
            self.feed(Event::Sleeping);
        }
        self.feed(Event::Tick);
        let mut events = Vec::new();
        loop {
            let wake = self.swarm.next_wake();
            let quiet = self.finished && !self.dirty && !self.committing;
            tokio::select! {
                biased;
                taken = self.queue.recv_many(&mut events, SHARE_EVENTS_AT_ONCE) => {
                    if taken == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        match event {
                            ShareEvent::Stop(answer) => return self.stop(answer).await,
                            event => self.take(event),
                        }
                    }
                }
                // The sender is this node's own.
                Ok(()) = sharers.changed(), if self.sharer.is_some() => {
                    let by = *sharers.borrow_and_update();
                    self.feed(Event::LineShared { by });
                }
                () = sleep_until(self.started, wake) => self.feed(Event::Tick),
                _ = beat.tick(), if !quiet => {}
            }
            if self.progress.borrow().told.elapsed() >= BEAT || quiet {
                self.beat();
            }
        }
    }

    fn offer_sources(&mut self) {
        for (source, pieces) in self.fetches.offers_of(self.handle.manifest()) {
            self.feed(Event::SourceUp { source, pieces });
        }
    }

    /// Turns to the next cache host, or to the origins, where the one that is asked fails or is silent.
    fn look_at_cache_hosts(&mut self) {
        while let Some(source) = self.fetches.next_cache_host(self.handle.is_background()) {
            let host = self.fetches.host(source).unwrap_or_default();
            self.trouble(format!("cache host {host} is not asked any more: it fails or brings nothing"));
            self.feed(Event::SourceDown { source });
            self.offer_sources();
        }
    }

    fn now(&self) -> Uptime {
        Uptime::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn feed(&mut self, event: Event) {
        self.swarm.handle(self.now(), event);
        while let Some(action) = self.swarm.poll_action() {
            self.act(action);
        }
    }

    fn take(&mut self, event: ShareEvent) {
        match event {
            ShareEvent::Swarm(event) => {
                if let Event::LocalLost { piece } = &event {
                    self.books.lost(self.handle.manifest().layout().piece_length(*piece).unwrap_or(0));
                }
                if let Event::FetchEnded { fetch, fault, .. } = &event {
                    self.fetches.ended(*fetch, *fault);
                }
                if let Event::PeerDown { peer } = &event {
                    self.peers.remove(peer);
                    self.yielding.remove(peer);
                }
                if let Event::Served { peer, bytes, .. } = &event {
                    let scope = self.scope_of(Supplier::Peer(*peer));
                    self.books.progress.moved.sent(scope, *bytes);
                }
                let changed = matches!(event, Event::Background(_));
                self.feed(event);
                if changed {
                    self.yield_to_people();
                }
            }
            ShareEvent::PeerUp { peer, link } => self.peer_up(peer, link),
            ShareEvent::NotHeldBy { link } => self.handle.answered(link),
            ShareEvent::Block { supplier, piece, block, bytes, outcome } => {
                match outcome {
                    PutOutcome::Stored { piece_complete } => {
                        self.dirty = true;
                        let scope = self.scope_of(supplier);
                        let cached = match supplier {
                            Supplier::Source(source) => {
                                self.fetches.brought(source, bytes);
                                self.fetches.is_cache_host(source)
                            }
                            Supplier::Peer(_) => false,
                        };
                        self.books.stored(supplier, scope, bytes, cached);
                        if piece_complete {
                            let verified = &mut self.books.progress.moved.pieces_verified;
                            *verified = verified.saturating_add(1);
                        }
                    }
                    PutOutcome::AlreadyHeld => self.books.waste(Waste::Duplicate, bytes),
                }
                self.feed(Event::BlockStored { supplier, piece, block });
            }
            ShareEvent::BadBlock { supplier, piece, block, bytes } => {
                self.books.waste(Waste::BadHash, bytes);
                let rejected = &mut self.books.progress.moved.pieces_rejected;
                *rejected = rejected.saturating_add(1);
                self.note_bad(supplier, piece);
                self.feed(Event::BlockBad { supplier, piece, block });
                self.judge_unproven(supplier);
            }
            ShareEvent::Contradicted { peer } => self.contradicted(peer),
            ShareEvent::HttpWaste { bytes } => self.books.waste(Waste::Cancelled, bytes),
            ShareEvent::Unasked { peer, bytes } => {
                self.books.waste(Waste::Unasked, bytes);
                self.feed(Event::Unasked { peer, bytes });
            }
            ShareEvent::DiskFailed(error) => self.fail(Outcome::disk(&error)),
            ShareEvent::Committed(result) => self.committed(result),
            ShareEvent::Finished(Ok(Finished::Lost(pieces))) => self.lost(&pieces),
            ShareEvent::Finished(Ok(Finished::InPlace)) => {
                self.finished = true;
                self.dirty = false;
                self.handle.wants_no_more_peers();
                self.tell_progress(Phase::Complete);
            }
            ShareEvent::Finished(Err(failure)) => {
                self.lost(&failure.lost);
                self.fail(Outcome::disk(&failure.error));
            }
            ShareEvent::SourceTrouble { text } => self.trouble(text),
            ShareEvent::Sleeping(answer) => {
                self.feed(Event::Sleeping);
                let _ = answer.send(());
            }
            ShareEvent::Stop(_) => {}
        }
    }

    fn peer_up(&mut self, peer: PeerKey, link: PeerLink) {
        self.handle.answered(link.link.number);
        let scope = self.node.scope_of(&link.link);
        if self.scopes.len() >= SCOPES_KEPT_MAX {
            self.scopes.retain(|peer, _| self.peers.contains_key(peer));
        }
        self.scopes.insert(peer, scope);
        let event = Event::PeerUp {
            peer,
            id: link.link.node_id,
            address: link.link.address,
            member: link.link.member.clone(),
            scope,
            round_trip: link.link.round_trip,
        };
        self.peers.insert(peer, link);
        self.yield_to_people();
        self.feed(event);
    }

    /// Makes the connections to peers yield as long as nobody waits for the download, and no longer.
    fn yield_to_people(&mut self) {
        if !self.handle.is_background() || self.finished {
            self.yielding.clear();
            return;
        }
        for (peer, link) in &self.peers {
            if !self.yielding.contains_key(peer)
                && let Some(held) = self.node.yielding.hold(link.link.local, link.link.remote)
            {
                self.yielding.insert(*peer, held);
            }
        }
    }

    fn scope_of(&self, supplier: Supplier) -> Scope {
        match supplier {
            Supplier::Peer(peer) => self.scopes.get(&peer).copied().unwrap_or(Scope::Internet),
            Supplier::Source(_) => Scope::Internet,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { peer, message } => {
                if let Some(link) = self.peers.get(&peer) {
                    link.say(message);
                }
            }
            Action::Serve { peer, piece, first_block } => {
                if let Some(link) = self.peers.get(&peer) {
                    link.serve(&self.handle, peer, piece, first_block);
                }
            }
            Action::CancelServe { peer, piece } => {
                if let Some(link) = self.peers.get(&peer) {
                    link.cancel_serve(peer, piece);
                }
            }
            Action::Fetch { fetch, source, pieces } => {
                self.fetches.start(&self.node, &self.handle, fetch, source, pieces, self.handle.is_background());
            }
            Action::CancelFetch { fetch } => self.fetches.cancel(fetch),
            Action::Connect { member } => self.connect(member),
            Action::Ban { peer, reason, lasts } => {
                if let Some(link) = self.peers.remove(&peer) {
                    self.trouble(format!("{} was banned: {}", name_of(&link), describe_ban(reason)));
                    self.node.ban(&link.link, reason, lasts);
                    link.link.close(crate::wire::GoodbyeReason::Banned);
                }
            }
            Action::Disconnect { peer } => {
                if let Some(link) = self.peers.remove(&peer) {
                    link.leave();
                }
                // The session is gone for the engine too; the link stays for other topics.
                let handle = Arc::clone(&self.handle);
                tokio::spawn(async move { handle.tell(Event::PeerDown { peer }).await });
            }
            Action::DropSource { source, fault } => {
                self.fetches.dropped(source, fault);
                if let Some(host) = self.fetches.host(source) {
                    let text = format!("source {host} is no longer asked: {}", describe(fault));
                    self.trouble(text);
                }
            }
            Action::Complete => {
                if !self.finished && !self.failed {
                    self.finish();
                }
            }
        }
    }

    fn connect(&self, member: Member) {
        let (node, handle) = (Arc::clone(&self.node), Arc::clone(&self.handle));
        tokio::spawn(async move {
            if node.dial_member(&member).await.is_err() {
                handle.tell(Event::ConnectFailed { member }).await;
            }
        });
    }

    fn finish(&mut self) {
        self.yielding.clear();
        self.sharer = None;
        let (store, handle) = (Arc::clone(self.handle.store()), Arc::clone(&self.handle));
        self.node.disk.spawn(move || {
            let result = store.finish();
            handle.tell_blocking(ShareEvent::Finished(result));
        });
    }

    fn note_bad(&mut self, supplier: Supplier, piece: PieceIndex) {
        let who = match supplier {
            Supplier::Peer(peer) => self.peers.get(&peer).map(name_of),
            Supplier::Source(source) => self.fetches.host(source).map(|host| format!("source {host}")),
        };
        let who = who.unwrap_or_else(|| "a peer that has left".into());
        self.trouble(format!("{who} sent bytes of piece {} that do not match the manifest", piece.0));
    }

    /// A block that does not match an unproven manifest: the sender or the manifest is wrong.
    fn judge_unproven(&mut self, supplier: Supplier) {
        if let Supplier::Peer(peer) = supplier
            && self.handle.is_unproven()
        {
            self.contradicted(peer);
        }
    }

    fn contradicted(&mut self, peer: PeerKey) {
        let Some(link) = self.peers.get(&peer).cloned() else { return };
        match self.doubt.contradicted_by(&link.link.peer_id) {
            Verdict::Condemn => {
                self.trouble(format!("{} gave a manifest that is not of this content", name_of(&link)));
                self.fail(Outcome::Condemned);
            }
            Verdict::Part => {
                self.trouble(format!("{} and the unsigned manifest contradict each other", name_of(&link)));
                link.leave();
                self.peers.remove(&peer);
                self.feed(Event::PeerDown { peer });
            }
        }
    }

    fn committed(&mut self, result: Result<Committed, CommitFailure>) {
        self.committing = false;
        if let Err(failure) = result {
            self.lost(&failure.lost);
            self.fail(Outcome::disk(&failure.error));
        }
    }

    /// Pieces that were held and are not any more: the books and the engine forget them.
    fn lost(&mut self, pieces: &[PieceIndex]) {
        if !pieces.is_empty() && !self.failed {
            self.sharer = self.sharer.take().or_else(|| self.line_word.map(|word| self.node.share_line(word)));
        }
        for piece in pieces {
            self.books.lost(self.handle.manifest().layout().piece_length(*piece).unwrap_or(0));
            self.feed(Event::LocalLost { piece: *piece });
        }
    }

    fn phase(&self) -> Phase {
        match (self.finished, self.failed) {
            (true, _) => Phase::Complete,
            (_, true) => Phase::Failed,
            _ => Phase::Downloading,
        }
    }

    fn beat(&mut self) {
        if self.dirty && !self.committing && !self.finished && !self.failed && self.handle.store().commit_due() {
            self.committing = true;
            self.dirty = false;
            let (store, handle) = (Arc::clone(self.handle.store()), Arc::clone(&self.handle));
            self.node.disk.spawn(move || {
                let result = store.commit();
                handle.tell_blocking(ShareEvent::Committed(result));
            });
        }
        if self.finished || self.failed {
            self.tell_progress(self.phase());
            return;
        }
        if self.node.asleep.load(std::sync::atomic::Ordering::Relaxed) {
            // That nobody is there and nothing comes says nothing of networks, peers and sources.
            return self.tell_progress(Phase::Downloading);
        }
        self.look_at_neighbours();
        self.look_at_cache_hosts();
        self.tell_progress(Phase::Downloading);
        let waited = |since: Option<Uptime>| since.map_or(Duration::ZERO, |since| self.now().since(since));
        let idle = waited(self.swarm.stalled_since()).max(waited(self.swarm.without_supplier_since()));
        if self.doubt.falls_after(idle) && self.handle.is_unproven() {
            return self.fail(Outcome::Condemned);
        }
        let Some(timeout) = self.timeout else { return };
        let overdue = |since: Option<Uptime>| since.is_some_and(|since| self.now().since(since) >= timeout);
        if overdue(self.swarm.without_supplier_since()) || overdue(self.swarm.stalled_since()) {
            let outcome = Outcome::no_source(timeout, &self.culprits(), self.is_condemned());
            self.fail(outcome);
        } else if self.fetches.all_dropped(self.handle.is_background()) && self.peers.is_empty() {
            // Every source has been found useless and nobody is there: what is left to wait for is a peer, briefly.
            let grace = if self.peers_allowed { NO_SUPPLIER_GRACE.min(timeout) } else { Duration::ZERO };
            if self.swarm.without_supplier_since().is_some_and(|since| self.now().since(since) >= grace) {
                let outcome = Outcome::no_source(grace, &self.culprits(), self.is_condemned());
                self.fail(outcome);
            }
        }
    }

    /// Every source was found useless, one at least because it holds another file.
    fn is_condemned(&self) -> bool {
        self.fetches.all_dropped(self.handle.is_background()) && self.fetches.condemned()
    }

    /// Whether anybody of those who are seen on this network can be connected.
    fn look_at_neighbours(&mut self) {
        if !self.peers_allowed {
            return;
        }
        let (seen, connected) = self.node.neighbours();
        if self.neighbours != (seen, connected) {
            self.neighbours = (seen, connected);
            self.feed(Event::Neighbours { seen, connected });
        }
        let isolated = self.swarm.is_isolated();
        if isolated {
            self.node.isolated();
        }
        self.books.progress.isolated = isolated;
    }

    fn trouble(&mut self, text: String) {
        tracing::warn!(content = %self.handle.name(), "{text}");
        self.books.progress.trouble = Some(text.as_str().into());
        self.troubles.note(text);
    }

    /// Everybody who might have delivered and did not, with the reason where one is known.
    fn culprits(&self) -> Vec<String> {
        let mut culprits = self.troubles.list();
        culprits.extend(self.node.troubles());
        for view in self.swarm.peers().filter(|view| view.bytes_in == 0) {
            let Some(link) = self.peers.get(&view.peer) else { continue };
            culprits.push(match view.held_count {
                0 => format!("{} holds nothing of it", name_of(link)),
                held => format!("{} says that it holds {held} pieces, and delivered nothing", name_of(link)),
            });
        }
        for link in self.node.links().values() {
            let peer = self.peers.values().any(|known| known.link.number == link.number);
            if !peer && !self.handle.has_answer_of(link.number) {
                culprits.push(format!("peer {} at {} is connected, and says nothing", link.peer_id, link.remote));
            }
        }
        culprits
    }

    fn fail(&mut self, outcome: Outcome) {
        if self.failed {
            return;
        }
        self.failed = true;
        self.yielding.clear();
        self.sharer = None;
        self.handle.wants_no_more_peers();
        self.fetches.cancel_all();
        self.books.progress.outcome = Some(outcome);
        self.tell_progress(Phase::Failed);
    }

    fn tell_progress(&mut self, phase: Phase) {
        self.books.count_peers(self.peers.len());
        let downloading_from = self.swarm.peers().filter(|peer| peer.rate_in > 0).count();
        self.books.progress.peers_active = downloading_from;
        let piece_count = self.handle.manifest().layout().piece_count();
        if self.swarm.peers().any(|peer| peer.scope <= Scope::Site && peer.held_count == piece_count) {
            self.node.elsewhere.seen(self.handle.manifest().id());
        }
        let stats = self.swarm.stats();
        let (sent, with_peer) = (stats.bytes_to_peers, stats.origin_bytes_with_peer_available);
        self.books.sent(sent);
        self.books.progress.sources_dropped = self.fetches.all_dropped(self.handle.is_background());
        self.books.progress.bytes_http_with_peer_available = with_peer;
        self.books.progress.moved.http_with_peer_available = with_peer;
        let progress = self.books.progress(phase);
        self.progress.send_replace(progress);
    }

    async fn stop(mut self, answer: oneshot::Sender<()>) {
        self.tell_progress(self.phase());
        self.node.share_ended(&self.handle, &self.progress.borrow());
        self.fetches.cancel_all();
        for link in self.peers.values() {
            link.leave();
        }
        let store = Arc::clone(self.handle.store());
        let closed = self.node.disk.run(move || store.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(content = %self.handle.name(), %error, "the store did not close cleanly");
        }
        let _ = answer.send(());
    }
}

/// A peer for people: by id and address.
fn name_of(link: &PeerLink) -> String {
    format!("peer {} at {}", link.link.peer_id, link.link.remote)
}

fn describe_ban(reason: BanReason) -> &'static str {
    match reason {
        BanReason::BadBytes => "it sent wrong bytes again and again",
        BanReason::Protocol => "it broke the protocol",
        BanReason::Unasked => "it sent what nobody asked for",
        BanReason::Flood => "it said more than any honest peer",
        BanReason::NeverDelivers => "it claims pieces and never delivers them",
    }
}

fn describe(fault: SourceFault) -> &'static str {
    match fault {
        SourceFault::Unreachable => "it cannot be reached",
        SourceFault::TimedOut => "it is silent",
        SourceFault::Busy => "it is busy",
        SourceFault::Truncated => "it ends too early",
        SourceFault::Refused => "it refuses",
        SourceFault::Changed => "its file is not this manifest's",
    }
}

async fn sleep_until(started: Instant, wake: Option<Uptime>) {
    match wake {
        Some(wake) => {
            let at = started + Duration::from_micros(wake.micros().min(u64::from(u32::MAX) * 1_000_000));
            tokio::time::sleep_until(at.into()).await;
        }
        None => std::future::pending().await,
    }
}
