//! Named peers, kept connected with back-off; found and hinted ones, tried once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use tokio::sync::{oneshot, watch};

use crate::drivers::transport::{Place, Target};
use crate::services::node::limits::{HELLO_TIMEOUT, REDIAL_ISOLATED, REDIAL_MAX, REDIAL_MIN, REFUSALS_SETTLE};
use crate::services::node::{Error, Inner};

/// Dials once; a peer that is connected already is success. One that is being dialled is waited for, and dialled again only
/// by the first who waits, since it may know another address: several hear of one peer at a moment (discovery by each
/// address, members, a person), and each further connection would end the one before.
pub(crate) async fn once(node: &Arc<Inner>, target: &Target) -> Result<PeerId, Error> {
    let Some(peer) = target.peer else { return dial(node, target).await };
    if node.is_connected(&peer) {
        return Ok(peer);
    }
    let (dialling, waited) = match Dialling::begin(node, peer) {
        Ok(dialling) => (Some(dialling), false),
        Err((mut over, first)) => {
            let _ = over.changed().await;
            (Dialling::begin(node, peer).ok().filter(|_| first), true)
        }
    };
    if waited && node.is_connected(&peer) {
        return Ok(peer);
    }
    let Some(_dialling) = dialling else { return Err(Error::BeingDialled) };
    let dialled = dial(node, target).await;
    if dialled.is_ok() {
        appeared(node, &peer).await;
    }
    dialled
}

async fn dial(node: &Arc<Inner>, target: &Target) -> Result<PeerId, Error> {
    if !node.company.borrow().peers {
        return Err(Error::NoPeers);
    }
    if node.asleep.load(Ordering::Relaxed) {
        return Err(Error::Asleep);
    }
    Ok(node.endpoint()?.dial(target.clone()).await?)
}

/// Peers that are being dialled; each with what closes when that is over, and whether somebody waits for it.
pub(crate) type Dials = Mutex<BTreeMap<PeerId, (watch::Receiver<()>, bool)>>;

/// One dial under way.
struct Dialling<'a> {
    node: &'a Inner,
    peer: PeerId,
    _over: watch::Sender<()>,
}

impl<'a> Dialling<'a> {
    /// Begins one, or gives what closes when the one under way is over, and whether nobody waits for that yet.
    fn begin(node: &'a Inner, peer: PeerId) -> Result<Self, (watch::Receiver<()>, bool)> {
        let mut dials = node.dials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((over, waited_for)) = dials.get_mut(&peer) {
            return Err((over.clone(), !std::mem::replace(waited_for, true)));
        }
        let (over, told) = watch::channel(());
        dials.insert(peer, (told, false));
        Ok(Self { node, peer, _over: over })
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.node.dials.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.peer);
    }
}

/// Tries the addresses of a discovered peer.
pub(crate) async fn found(node: &Arc<Inner>, peer: PeerId, addresses: &[SocketAddr]) {
    let places = addresses.iter().map(|address| Place::Socket(*address)).collect();
    if let Err(error) = once(node, &Target { places, peer: Some(peer) }).await {
        tracing::debug!(%peer, %error, "a peer that was found does not answer");
    }
}

/// Starts keeping a named peer connected; completes after the first attempt.
pub(crate) fn keep(node: Arc<Inner>, target: Target) -> impl Future<Output = ()> + Send + 'static {
    let (first, attempted) = oneshot::channel();
    tokio::spawn(async move {
        let stopped = node.stopped();
        tokio::select! {
            () = stopped => {}
            () = redial(&node, target, first) => {}
        }
    });
    async move {
        let _ = attempted.await;
    }
}

async fn redial(node: &Arc<Inner>, target: Target, first: oneshot::Sender<()>) {
    let mut first = Some(first);
    let shown = target.places.first().map(ToString::to_string).unwrap_or_default();
    let mut pause = REDIAL_MIN;
    let mut warned = false;
    let mut refusals = 0u32;
    loop {
        if !node.company.borrow().peers {
            let _ = first.take().map(|first| first.send(()));
            node.meets_peers().await;
        }
        match once(node, &target).await {
            Ok(peer) => {
                node.named(peer);
                let stood = appeared(node, &peer).await;
                let _ = first.take().map(|first| first.send(()));
                while_connected(node, &peer).await;
                // Whoever is banned here, or refuses us, is not asked again and again.
                if stood && !node.is_banned(&peer) {
                    pause = REDIAL_MIN;
                }
            }
            // Peers are looked for anew as soon as it wakes.
            Err(Error::Asleep) => pause = REDIAL_MIN,
            Err(error) => {
                node.trouble(format!("peer {shown} does not answer: {error}"));
                if !warned {
                    tracing::info!(peer = %shown, %error, "peer does not answer yet; trying again while the job runs");
                    warned = true;
                }
                refusals = refusals.saturating_add(1);
                if refusals >= REFUSALS_SETTLE {
                    let _ = first.take().map(|first| first.send(()));
                }
            }
        }
        let pause_now = if node.isolation.is_on() { REDIAL_ISOLATED } else { pause };
        tokio::time::sleep(pause_now).await;
        pause = (pause * 2).min(REDIAL_MAX);
    }
}

/// The dial returns once the handshake stands; Hello follows, so the link may be a moment away, or refused. Returns
/// whether it came up.
pub(crate) async fn appeared(node: &Arc<Inner>, peer: &PeerId) -> bool {
    let mut changes = node.link_changes();
    let appeared = async {
        while !node.is_connected(peer) {
            if changes.changed().await.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(HELLO_TIMEOUT, appeared).await.unwrap_or(false)
}

async fn while_connected(node: &Arc<Inner>, peer: &PeerId) {
    let mut changes = node.link_changes();
    while node.is_connected(peer) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}
