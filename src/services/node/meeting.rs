//! Going to a rendezvous: each that policy, or a DHCP lease, names is asked who else is of our group, again while something is
//! wanted and before what it keeps of us ends. Whom it tells is a candidate, by the same rules as what any peer tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::drivers::discovery::crowd::Heard;
use crate::drivers::transport::{Error as TransportError, Place, Target};
use crate::services::node::candidates::Way;
use crate::services::node::limits::{
    CANDIDATE_LASTS_MIN, MEETING_ANSWER, MEETING_ASKED_MAX, MEETING_PAUSE_MAX, MEETING_PAUSE_MIN, MEETING_RENEW_MAX,
};
use crate::services::node::link::Link;
use crate::services::node::rendezvous::Scope;
use crate::services::node::session::SessionEnd;
use crate::services::node::{Error, Inner, dial};
use crate::wire::version::Features;
use crate::wire::{self, Frame};

/// How it is with one rendezvous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not answered yet.
    Asked,
    /// It has answered.
    Answered {
        /// It tells others of us.
        registered: bool,
        /// Members that it has told last time.
        members: usize,
    },
    /// This node is it.
    Itself,
    /// It cannot be reached, or is none; why.
    Failed(String),
}

/// What came of one question: for how long we are told on, and how many were told to us.
type Answer = (Duration, usize);

/// What a node knows of the places where its group meets.
#[derive(Default)]
pub(crate) struct Meetings {
    standing: Mutex<BTreeMap<String, Standing>>,
    /// Counts what has become wanted.
    wanted: watch::Sender<u64>,
}

/// Questions to one peer: how many answers it owes, and who waits for that about a scope.
#[derive(Default)]
pub(crate) struct Asked {
    owed: usize,
    waiting: BTreeMap<Scope, oneshot::Sender<Answer>>,
}

impl Meetings {
    fn note(&self, host: &str, standing: Standing) {
        let mut held = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.insert(host.to_owned(), standing.clone());
        match &standing {
            Standing::Failed(reason) if before.as_ref() != Some(&standing) => {
                tracing::info!(rendezvous = host, reason, "a rendezvous is of no use; trying again");
            }
            Standing::Answered { members, .. } => tracing::debug!(rendezvous = host, members, "a rendezvous answers"),
            _ => {}
        }
    }

    /// Something is wanted from peers: who waits for the next turn asks at once.
    pub(crate) fn wanted(&self) {
        self.wanted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How it is with each.
    pub(crate) fn report(&self) -> Vec<(String, Standing)> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }
}

/// Goes to every rendezvous as long as the node lives; to others when its company changes.
pub(crate) async fn attend(node: Arc<Inner>) {
    let going = async {
        let mut company = node.company.subscribe();
        loop {
            // Those of before are asked no more: dropping the set ends them.
            let mut asking = JoinSet::new();
            let discovery = node.discovery();
            // Who is told of by nobody announces itself.
            discovery.iter().for_each(|discovery| discovery.covered(false));
            let mut keepers = discovery.map(|discovery| discovery.keepers());
            let first = keepers.as_mut().map(|keepers| keepers.borrow_and_update().clone()).unwrap_or_default();
            let (meets, hosts) = {
                let company = company.borrow_and_update();
                (company.peers, company.rendezvous.clone())
            };
            node.meetings
                .standing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|host, _| hosts.contains(host));
            if !meets || hosts.is_empty() {
                node.candidates.forget(Way::Rendezvous);
            }
            for host in hosts.into_iter().filter(|_| meets) {
                let node = Arc::clone(&node);
                asking.spawn(async move { keep_asking(&node, &host).await });
            }
            for (peer, addresses) in first.into_iter().filter(|_| meets) {
                let places = addresses.into_iter().map(Place::Socket).collect();
                let (node, target) = (Arc::clone(&node), Target { places, peer: Some(peer) });
                asking.spawn(async move { keep_covered(&node, &target).await });
            }
            tokio::select! {
                changed = company.changed() => if changed.is_err() { return },
                // Discovery that has ended is begun anew by another company, if at all.
                () = changed(keepers) => {}
            }
        }
    };
    tokio::select! {
        () = node.stopped() => {}
        () = going => {}
    }
}

/// Completes when the keepers of this link are others.
async fn changed(keepers: Option<watch::Receiver<Vec<Heard>>>) {
    if let Some(mut keepers) = keepers
        && keepers.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Asks one of the first nodes of a crowded link, as a rendezvous is asked.
async fn keep_covered(node: &Arc<Inner>, target: &Target) {
    turns(node, target, |standing| {
        let covered = matches!(standing, Standing::Answered { registered: true, .. });
        if let (true, Some(discovery)) = (covered, node.discovery()) {
            discovery.covered(true);
        }
    })
    .await;
}

async fn keep_asking(node: &Arc<Inner>, host: &str) {
    let target: Target = match host.parse() {
        Ok(target) => target,
        Err(error) => return node.meetings.note(host, Standing::Failed(TransportError::to_string(&error))),
    };
    node.meetings.note(host, Standing::Asked);
    turns(node, &target, |standing| node.meetings.note(host, standing)).await;
}

/// Asks again and again, sooner while something is wanted, and tells how each turn went.
async fn turns(node: &Arc<Inner>, target: &Target, tell: impl Fn(Standing)) {
    let mut wanted = node.meetings.wanted.subscribe();
    let (mut peer, mut pause) = (None, MEETING_PAUSE_MIN);
    loop {
        let lease = match ask(node, target, &mut peer).await {
            Ok((lease, members)) => {
                tell(Standing::Answered { registered: !lease.is_zero(), members });
                lease
            }
            Err(Standing::Itself) => return tell(Standing::Itself),
            Err(standing) => {
                tell(standing);
                Duration::ZERO
            }
        };
        let renew = if lease.is_zero() { MEETING_PAUSE_MAX } else { (lease / 2).min(MEETING_RENEW_MAX) };
        let rest = if node.wants_anything() { pause } else { renew.max(MEETING_PAUSE_MIN) };
        pause = (pause * 2).min(MEETING_PAUSE_MAX);
        tokio::time::sleep(MEETING_PAUSE_MIN).await;
        tokio::select! {
            () = tokio::time::sleep(rest.saturating_sub(MEETING_PAUSE_MIN)) => {}
            news = wanted.changed() => match news {
                Ok(()) => pause = MEETING_PAUSE_MIN,
                Err(_) => return,
            },
        }
    }
}

/// Asks once, for each of the group's words. The shortest lease counts.
async fn ask(node: &Arc<Inner>, target: &Target, known: &mut Option<PeerId>) -> Result<Answer, Standing> {
    let failed = |why: &dyn ToString| Standing::Failed(why.to_string());
    let peer = match known.filter(|peer| node.is_connected(peer)) {
        Some(peer) => peer,
        None => match dial::once(node, target).await {
            Ok(peer) => peer,
            Err(Error::Transport(TransportError::SelfDial { .. })) => return Err(Standing::Itself),
            Err(error) => return Err(failed(&error)),
        },
    };
    *known = Some(peer);
    if target.peer.is_none() {
        node.named(peer);
    }
    dial::appeared(node, &peer).await;
    let link = node.links().get(&peer).cloned();
    // Why it went says the newest trouble, which is told beside this.
    let link = link.ok_or_else(|| failed(&"it has refused this node"))?;
    if !link.features.has(Features::RENDEZVOUS) {
        return Err(failed(&"it keeps no rendezvous"));
    }
    let mut sum = (Duration::MAX, 0usize);
    for scope in node.scopes() {
        let answer = link.meet(scope).ok_or_else(|| failed(&"it has not answered"))?;
        let answer = tokio::time::timeout(MEETING_ANSWER, answer).await;
        let (lease, members) = answer.ok().and_then(Result::ok).ok_or_else(|| failed(&"it has not answered"))?;
        sum = (sum.0.min(lease), sum.1.saturating_add(members));
    }
    Ok(sum)
}

impl Link {
    /// Asks this peer who else is of a scope; `None` where it leaves too many questions open.
    fn meet(&self, scope: Scope) -> Option<oneshot::Receiver<Answer>> {
        let (tell, answer) = oneshot::channel();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.owed >= MEETING_ASKED_MAX {
                return None;
            }
            asked.owed = asked.owed.saturating_add(1);
            asked.waiting.insert(scope, tell);
        }
        self.send(Frame::Meet { scope });
        Some(answer)
    }
}

impl Inner {
    /// A rendezvous tells of others.
    ///
    /// # Errors
    /// It was not asked.
    pub(crate) fn hear_met(
        self: &Arc<Self>,
        link: &Link,
        scope: &Scope,
        lease: Duration,
        members: Vec<wire::Member>,
    ) -> Result<(), SessionEnd> {
        let waiting = {
            let mut asked = link.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.owed = asked.owed.checked_sub(1).ok_or(SessionEnd::Rule("a Met that nobody asked for"))?;
            asked.waiting.remove(scope)
        };
        let (now, count) = (Instant::now(), members.len());
        // The group may be another one by now.
        if self.scopes().contains(scope) {
            for member in members {
                let Some(member) = self.believe(link, member) else { continue };
                let (Ok(peer), until) =
                    (PeerId::from_bytes(&member.peer_id), now.checked_add(lease.max(CANDIDATE_LASTS_MIN)))
                else {
                    continue;
                };
                self.candidates.add(now, peer, member.address, Way::Rendezvous, until.unwrap_or(now));
            }
        }
        // Who asked may have gone.
        let _ = waiting.map(|waiting| waiting.send((lease, count)));
        self.dial_found();
        Ok(())
    }
}
