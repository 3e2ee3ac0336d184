//! Peers that this node might dial, besides those that DNS-SD tells of: remembered from before, or told at a rendezvous. And
//! which way every connected peer was found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use libp2p::PeerId;

use crate::services::node::limits::{
    CANDIDATE_ADDRESSES_MAX, CANDIDATE_LASTS_MIN, CANDIDATE_REDIAL, CANDIDATES_DIALLED_AT_ONCE, CANDIDATES_MAX,
};
use crate::services::node::link::Link;
use crate::services::node::{Inner, dial};

/// Which way a peer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It dialled us.
    Inbound,
    /// A person named it.
    Named,
    /// Heard by DNS-SD on a link.
    DnsSd,
    /// Connected on this network before.
    Remembered,
    /// Told at a rendezvous.
    Rendezvous,
    /// Told by another peer.
    Told,
}

impl Way {
    /// The word of the API and the tables.
    pub fn word(self) -> &'static str {
        match self {
            Way::Inbound => "inbound",
            Way::Named => "named",
            Way::DnsSd => "dns-sd",
            Way::Remembered => "remembered",
            Way::Rendezvous => "rendezvous",
            Way::Told => "told",
        }
    }
}

struct Candidate {
    way: Way,
    addresses: Vec<SocketAddr>,
    until: Instant,
    tried: Option<Instant>,
}

/// Peers to try, each with where it may be. Time is handed in.
#[derive(Default)]
pub(crate) struct Candidates(Mutex<BTreeMap<PeerId, Candidate>>);

impl Candidates {
    /// Adds an address of a peer. Of two ways that tell of it the later holds.
    pub(crate) fn add(&self, now: Instant, peer: PeerId, address: SocketAddr, way: Way, until: Instant) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= CANDIDATES_MAX && !held.contains_key(&peer) {
            held.retain(|_, candidate| candidate.until > now);
        }
        if held.len() >= CANDIDATES_MAX && !held.contains_key(&peer) {
            return;
        }
        let fresh = || Candidate { way, addresses: Vec::new(), until, tried: None };
        let candidate = held.entry(peer).or_insert_with(fresh);
        (candidate.way, candidate.until) = (way, candidate.until.max(until));
        if !candidate.addresses.contains(&address) {
            candidate.addresses.insert(0, address);
            candidate.addresses.truncate(CANDIDATE_ADDRESSES_MAX);
            // Where it was not is no reason to wait.
            candidate.tried = None;
        }
    }

    /// Whom to dial now. Who did not answer is not tried again for a while.
    pub(crate) fn due(&self, now: Instant, connected: impl Fn(&PeerId) -> bool) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |tried: Instant| now.saturating_duration_since(tried) < CANDIDATE_REDIAL;
        let due = held.iter_mut().filter(|(peer, candidate)| {
            candidate.until > now && !candidate.tried.is_some_and(waits) && !connected(peer)
        });
        due.map(|(peer, candidate)| {
            candidate.tried = Some(now);
            (*peer, candidate.addresses.clone())
        })
        .collect()
    }

    /// Which way a peer was told, if it was.
    pub(crate) fn way_of(&self, peer: &PeerId) -> Option<Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(peer).map(|candidate| candidate.way)
    }

    /// How many were found this way and are not given up.
    pub(crate) fn count(&self, now: Instant, way: Way) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().filter(|candidate| candidate.way == way && candidate.until > now).count()
    }

    /// Those of one way are none any more: another network, another group.
    pub(crate) fn forget(&self, way: Way) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, candidate| candidate.way != way);
    }
}

impl Inner {
    /// Something is wanted from peers: who is known is dialled, and who may know of others is asked.
    pub(crate) fn look_for_peers(self: &Arc<Self>) {
        let now = Instant::now();
        for member in self.registered() {
            if let Ok(peer) = PeerId::from_bytes(&member.peer_id)
                && self.is_near(member.address.ip(), false)
            {
                let until = now.checked_add(CANDIDATE_LASTS_MIN).unwrap_or(now);
                self.candidates.add(now, peer, member.address, Way::Rendezvous, until);
            }
        }
        self.dial_found();
        self.meetings.wanted();
    }

    /// Dials what discovery has found and other candidates, if anything is wanted.
    pub(crate) fn dial_found(self: &Arc<Self>) {
        self.far_news.notify_one();
        if !self.wants_anything() {
            return;
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (peer, mut addresses) in found {
            addresses.retain(|address| self.is_near(address.ip(), true));
            if !addresses.is_empty() && !self.is_connected(&peer) {
                let node = Arc::clone(self);
                tokio::spawn(async move { dial::found(&node, peer, &addresses).await });
            }
        }
        let due = self.candidates.due(Instant::now(), |peer| self.is_connected(peer));
        if !due.is_empty() {
            let node = Arc::clone(self);
            // Many of them may be gone, and must not take the turns of those that were heard just now.
            tokio::spawn(async move {
                let dial = |(peer, addresses): (PeerId, Vec<SocketAddr>)| {
                    let node = &node;
                    async move { dial::found(node, peer, &addresses).await }
                };
                stream::iter(due).for_each_concurrent(CANDIDATES_DIALLED_AT_ONCE, dial).await;
            });
        }
    }

    /// Which way a connected peer was found.
    pub(crate) fn way_of(&self, link: &Link) -> Way {
        let named = || self.named.lock().unwrap_or_else(PoisonError::into_inner).contains(&link.peer_id);
        let heard = || self.found.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&link.peer_id);
        match link.inbound {
            true => Way::Inbound,
            false if named() => Way::Named,
            false if heard() => Way::DnsSd,
            false => self.candidates.way_of(&link.peer_id).unwrap_or(Way::Told),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn who_does_not_answer_rests_and_who_moves_is_tried_at_once() {
        let (candidates, now) = (Candidates::default(), Instant::now());
        let (peer, until) = (PeerId::random(), now + Duration::from_secs(3600));
        candidates.add(now, peer, at(1), Way::Remembered, until);
        let due = |later: Duration| candidates.due(now + later, |_| false);
        assert_eq!(due(Duration::ZERO), [(peer, vec![at(1)])]);
        assert!(due(CANDIDATE_REDIAL / 2).is_empty());
        candidates.add(now, peer, at(1), Way::Rendezvous, until);
        assert!(due(CANDIDATE_REDIAL / 2).is_empty(), "told again it is where it was");
        assert_eq!(candidates.way_of(&peer), Some(Way::Rendezvous));
        candidates.add(now, peer, at(2), Way::Rendezvous, until);
        assert_eq!(due(CANDIDATE_REDIAL / 2), [(peer, vec![at(2), at(1)])]);
        assert!(candidates.due(now + CANDIDATE_REDIAL * 2, |_| true).is_empty(), "connected");
        assert_eq!(candidates.count(now, Way::Rendezvous), 1);
        assert!(due(Duration::from_secs(3600)).is_empty(), "given up");
        candidates.forget(Way::Rendezvous);
        assert_eq!(candidates.way_of(&peer), None);
    }

    #[test]
    fn they_are_bounded() {
        let (candidates, now) = (Candidates::default(), Instant::now());
        let until = now + Duration::from_secs(1);
        (0..CANDIDATES_MAX + 9).for_each(|_| candidates.add(now, PeerId::random(), at(1), Way::Rendezvous, until));
        assert_eq!(candidates.count(now, Way::Rendezvous), CANDIDATES_MAX);
        candidates.add(until, PeerId::random(), at(1), Way::Rendezvous, until + Duration::from_secs(1));
        assert_eq!(candidates.count(until, Way::Rendezvous), 1, "what has ended makes room");
        let peer = PeerId::random();
        (1..99).for_each(|port| candidates.add(until, peer, at(port), Way::Rendezvous, until + Duration::from_secs(1)));
        let due = candidates.due(until, |other| *other != peer);
        assert_eq!(due.first().map(|(_, addresses)| addresses.len()), Some(CANDIDATE_ADDRESSES_MAX));
    }
}
