//! Peers on the Internet: the DHT is asked who provides what is wanted here, and told what is held here; whoever provides is
//! dialled, or, where that cannot be, reached through a hole.
//!
//! What the DHT says is strangers' word: it names whom to try and nothing else. Who is met proves its identity, and each
//! piece proves itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::content::hash::Topic;
use crate::drivers::transport::limits::DHT_KEYS_OWN_MAX;
use crate::drivers::transport::{Callback, Far, FarReport, Place, Provider, Target};
use crate::services::node::limits::{CALLBACKS_AT_ONCE, FAR_LOOK_EVERY, SEEK_AGAIN_MAX, SEEK_AGAIN_MIN};
use crate::services::node::{Inner, Node, dial};
use crate::swarm::event::Event;

/// When what is wanted is asked for again.
struct Seeking {
    at: Instant,
    pause: Duration,
}

/// Seeks and tells as long as the node lives.
pub(crate) async fn keep(node: Weak<Inner>, mut callbacks: mpsc::Receiver<Callback>) {
    let mut seeking: BTreeMap<Topic, Seeking> = BTreeMap::new();
    let mut told: Option<(Far, BTreeSet<[u8; 32]>)> = None;
    let calls = Arc::new(Semaphore::new(CALLBACKS_AT_ONCE));
    loop {
        let Some(inner) = node.upgrade() else { return };
        let mut company = inner.company.subscribe();
        let far = company.borrow_and_update().far.clone();
        match &far {
            None => {
                seeking.clear();
                told = None;
            }
            Some(far) => {
                seek_due(&inner, &mut seeking);
                tell(&inner, far, &mut told).await;
            }
        }
        let news = Arc::clone(&inner.far_news);
        drop(inner);
        tokio::select! {
            changed = company.changed() => if changed.is_err() { return },
            () = news.notified() => {}
            () = tokio::time::sleep(FAR_LOOK_EVERY), if far.is_some() => {}
            Some(call) = callbacks.recv() => call_back(&node, call, &calls),
        }
    }
}

/// Asks for what is wanted and was not asked for lately.
fn seek_due(inner: &Arc<Inner>, seeking: &mut BTreeMap<Topic, Seeking>) {
    let wanted = inner.wanted_topics();
    seeking.retain(|topic, _| wanted.contains(topic));
    inner.sought.lock().unwrap_or_else(PoisonError::into_inner).retain(|topic| wanted.contains(topic));
    let now = Instant::now();
    for topic in wanted {
        let state = seeking.entry(topic).or_insert(Seeking { at: now, pause: SEEK_AGAIN_MIN });
        if state.at <= now {
            state.at = now.checked_add(state.pause).unwrap_or(now);
            state.pause = state.pause.saturating_mul(2).min(SEEK_AGAIN_MAX);
            let inner = Arc::clone(inner);
            tokio::spawn(async move { inner.seek(topic).await });
        }
    }
}

/// Tells the DHT what is held here, where that is news.
async fn tell(inner: &Arc<Inner>, far: &Far, told: &mut Option<(Far, BTreeSet<[u8; 32]>)>) {
    let keys: BTreeSet<[u8; 32]> = inner.provided_topics().iter().map(Topic::provider_key).collect();
    if told.as_ref().is_some_and(|(to, known)| to == far && *known == keys) {
        return;
    }
    if let Some(endpoint) = inner.endpoint.get()
        && endpoint.provide(keys.clone()).await.is_ok()
    {
        *told = Some((far.clone(), keys));
    }
}

/// Dials somebody who came through a relay and says where it is; a few at a time.
fn call_back(node: &Weak<Inner>, call: Callback, calls: &Arc<Semaphore>) {
    let (Some(inner), Ok(place)) = (node.upgrade(), Arc::clone(calls).try_acquire_owned()) else { return };
    tokio::spawn(async move {
        let Callback { peer, addresses } = call;
        inner.meet_direct(peer, &addresses).await;
        drop(place);
    });
}

impl Inner {
    /// Words by which something is asked for that is not here yet.
    fn wanted_topics(&self) -> BTreeSet<Topic> {
        let mut wanted: BTreeSet<Topic> = {
            let manifests = self.wanted_manifests.lock().unwrap_or_else(PoisonError::into_inner);
            manifests.keys().copied().collect()
        };
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let shares = topics.values().flatten().map(|(share, _)| share).filter(|share| share.wants_peers());
        wanted.extend(shares.flat_map(|share| share.askings()).map(|(topic, _)| topic));
        wanted
    }

    /// Words by which something can be asked for here: of what is open first. None while nobody on the Internet is served.
    fn provided_topics(&self) -> BTreeSet<Topic> {
        if !self.uploads.load(Ordering::Relaxed) || !self.far_uploads.load(Ordering::Relaxed) {
            return BTreeSet::new();
        }
        let mut provided: BTreeSet<Topic> = {
            let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
            let holds = |shares: &Vec<crate::services::node::inner::Windowed>| {
                shares.iter().any(|(share, _)| share.store().held().held_count() > 0)
            };
            topics.iter().filter(|(_, shares)| holds(shares)).map(|(topic, _)| *topic).collect()
        };
        if provided.len() < DHT_KEYS_OWN_MAX {
            provided.extend(self.dormant.topics(DHT_KEYS_OWN_MAX.saturating_sub(provided.len())));
        }
        provided
    }

    /// Asks the DHT who provides a topic, and meets them.
    async fn seek(self: &Arc<Self>, topic: Topic) {
        if let Some(endpoint) = self.endpoint.get()
            && let Ok(mut providers) = endpoint.find(topic.provider_key()).await
        {
            let mut meetings = JoinSet::new();
            while let Some(provider) = providers.recv().await {
                let node = Arc::clone(self);
                meetings.spawn(async move { node.meet_provider(provider).await });
            }
            meetings.join_all().await;
        }
        self.sought.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
        // Whoever waits for peers looks again.
        self.link_count.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn meet_provider(self: &Arc<Self>, provider: Provider) {
        let Provider { peer, addresses, relayed } = provider;
        tracing::debug!(%peer, ?addresses, relays = relayed.len(), "the DHT names a provider");
        if peer == self.peer_id || self.is_connected(&peer) || self.is_banned(&peer) {
            return;
        }
        if self.meet_direct(peer, &addresses).await || relayed.is_empty() || !self.meets_far() {
            return;
        }
        let Some(endpoint) = self.endpoint.get() else { return };
        let punched = endpoint.punch(peer, relayed, || !self.is_connected(&peer)).await;
        if let Some(error) = punched.err().filter(|_| !self.is_connected(&peer)) {
            tracing::debug!(%peer, %error, "a peer behind a relay cannot be reached");
            self.trouble(format!("peer {peer} on the Internet cannot be reached directly: {error}"));
        }
    }

    /// Dials a peer at addresses that were told; whether it is connected then.
    async fn meet_direct(self: &Arc<Self>, peer: PeerId, addresses: &[SocketAddr]) -> bool {
        let near = addresses.iter().filter(|address| self.is_near(address.ip(), false));
        let places: Vec<Place> = near.map(|address| Place::Socket(*address)).collect();
        if places.is_empty() || !self.meets_far() {
            return self.is_connected(&peer);
        }
        match dial::once(self, &Target { places, peer: Some(peer) }).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer on the Internet does not answer");
                false
            }
        }
    }

    /// Whether peers on the Internet are met, now.
    pub(crate) fn meets_far(&self) -> bool {
        self.company.borrow().far.is_some()
    }

    /// Whether the DHT has been asked once for what a share wants, and those it named were tried.
    pub(crate) fn was_sought(&self, topics: impl Iterator<Item = Topic>) -> bool {
        let sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        let mut topics = topics;
        !self.meets_far() || topics.all(|topic| sought.contains(&topic))
    }

    /// Takes bytes for a peer on the Internet out of what may still go; whether there are so many. Where not, the engines take
    /// their slots back.
    pub(crate) fn take_far(self: &Arc<Self>, bytes: u64) -> bool {
        let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) };
        let enough = self.far_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if !enough {
            let node = Arc::clone(self);
            tokio::spawn(async move { node.allow_far_uploads(false).await });
        }
        enough
    }

    async fn allow_far_uploads(&self, allowed: bool) {
        if self.far_uploads.swap(allowed, Ordering::Relaxed) != allowed {
            for share in self.open_shares() {
                share.tell(Event::FarUploadsAllowed(allowed)).await;
            }
            self.far_news.notify_one();
        }
    }
}

impl Node {
    /// Sends so many bytes more to peers on the Internet, and then none; `None`: there is no limit.
    pub async fn allow_far(&self, bytes: Option<u64>) {
        self.inner.far_left.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.inner.allow_far_uploads(bytes != Some(0)).await;
    }

    /// Carries so many bytes of content more between others, as a relay, and then none.
    pub fn allow_carrying(&self, bytes: u64) {
        if let Some(endpoint) = self.inner.endpoint.get() {
            endpoint.meter().allow(bytes);
        }
    }

    /// How this node stands on the Internet; `None` where peers there are not met.
    pub fn far_report(&self) -> Option<FarReport> {
        self.inner.endpoint.get()?.far_report()
    }
}
