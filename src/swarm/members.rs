//! Members tell members: what to pass on, and whom to dial. Hearsay is a candidate, never a fact.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::swarm::event::{Member, PeerKey, Scope};
use crate::swarm::limits::{
    CANDIDATES_MAX, CANDIDATES_PER_TELLER, DIAL_BACK_OFF, DIAL_BACK_OFF_MAX, DIAL_FAILURES_MAX, DIAL_GIVEN_UP,
    DIALS_MAX, MEMBERS_PER_MESSAGE, PEER_ID_BYTES_MAX, PEERS_MAX,
};
use crate::swarm::random::mix;
use crate::swarm::timer::Uptime;

#[derive(Debug)]
struct Candidate {
    member: Member,
    teller: PeerKey,
    /// Where it would stand for origin duty, if it is who it is said to be.
    rank: u64,
    failures: u32,
    /// Not dialled before.
    not_before: Uptime,
    dialled_at: Option<Uptime>,
}

/// Connected members in the order they came, and candidates from hearsay.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Connected members that can be dialled, oldest first, numbered.
    joined: VecDeque<(u64, PeerKey, u64, Member)>,
    next_number: u64,
    /// By peer id, so that one identity has one place whatever addresses are told.
    candidates: BTreeMap<Vec<u8>, Candidate>,
}

impl Members {
    /// A member is connected.
    pub(crate) fn joined(&mut self, peer: PeerKey, member: Member, rank: u64) {
        self.candidates.remove(&member.peer_id);
        if self.joined.len() >= PEERS_MAX {
            self.joined.pop_front();
        }
        self.joined.push_back((self.next_number, peer, rank, member));
        self.next_number += 1;
    }

    /// A peer left; what it told stays a candidate.
    pub(crate) fn left(&mut self, peer: PeerKey) {
        self.joined.retain(|(_, key, ..)| *key != peer);
    }

    /// Whether there is news past `told`.
    pub(crate) fn has_news(&self, told: u64) -> bool {
        self.joined.back().is_some_and(|(number, ..)| *number >= told)
    }

    /// What to tell `to`, that was told everything before `told`; with the new mark. First those who rank highest, so
    /// that a site soon agrees on its gateways; then the newest: a newcomer wants those who are here still.
    pub(crate) fn news(&self, to: PeerKey, told: u64) -> (Vec<Member>, u64) {
        let fresh = self.joined.iter().rev().take_while(|(number, ..)| *number >= told);
        let mut others: Vec<_> = fresh.filter(|(_, peer, ..)| *peer != to).collect();
        let best = MEMBERS_PER_MESSAGE / 2;
        if others.len() > MEMBERS_PER_MESSAGE {
            others.select_nth_unstable_by_key(best, |(_, _, rank, _)| std::cmp::Reverse(*rank));
            if let Some(rest) = others.get_mut(best..) {
                rest.sort_unstable_by_key(|(number, ..)| std::cmp::Reverse(*number));
            }
        }
        others.truncate(MEMBERS_PER_MESSAGE);
        (others.into_iter().map(|(.., member)| member.clone()).collect(), self.next_number)
    }

    /// Members dialled in vain and not reached since.
    pub(crate) fn failed_count(&self) -> usize {
        self.candidates.values().filter(|it| it.failures > 0).count()
    }

    /// Whether somebody not dialled yet would rank above `floor`.
    pub(crate) fn hears_of_better(&self, floor: u64, now: Uptime) -> bool {
        self.candidates.values().any(|it| it.rank > floor && it.failures == 0 && it.not_before <= now)
    }

    /// Whether a dial towards hearsay began after `since`.
    pub(crate) fn is_dialling_since(&self, since: Uptime) -> bool {
        self.candidates.values().any(|candidate| candidate.dialled_at.is_some_and(|at| at > since))
    }

    /// A peer named a member. Returns whether it is a new candidate.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn heard(
        &mut self,
        teller: PeerKey,
        scope: Scope,
        told: usize,
        member: Member,
        rank: u64,
        now: Uptime,
    ) -> bool {
        let known = self.joined.iter().any(|(.., it)| it.peer_id == member.peer_id);
        if known || !is_dialable(&member, scope) || told >= CANDIDATES_PER_TELLER {
            return false;
        }
        if self.candidates.contains_key(&member.peer_id) || self.candidates.len() >= CANDIDATES_MAX {
            return false;
        }
        let candidate =
            Candidate { teller, rank, failures: 0, not_before: now, dialled_at: None, member: member.clone() };
        self.candidates.insert(member.peer_id, candidate);
        true
    }

    /// A dial failed: later again, or never.
    pub(crate) fn failed(&mut self, member: &Member, now: Uptime) {
        let Some(candidate) = self.candidates.get_mut(&member.peer_id) else { return };
        candidate.dialled_at = None;
        candidate.failures += 1;
        let wait = DIAL_BACK_OFF.saturating_mul(1 << candidate.failures.min(10));
        candidate.not_before = now.after(wait.min(DIAL_BACK_OFF_MAX));
        if candidate.failures >= DIAL_FAILURES_MAX {
            self.candidates.remove(&member.peer_id);
        }
    }

    /// Whom to dial now, a few at a time. Half of the dials go to those who would rank above `floor`, highest first,
    /// so that the members of a site come to know its gateways; the others, where more neighbours are wanted, to
    /// anybody, in an order of our own (`salt`), lest all dial the same ones.
    pub(crate) fn dial(&mut self, floor: u64, more: bool, salt: u64, now: Uptime) -> Vec<Member> {
        let given_up: Vec<Member> = self
            .candidates
            .values()
            .filter(|it| it.dialled_at.is_some_and(|at| now.since(at) >= DIAL_GIVEN_UP))
            .map(|it| it.member.clone())
            .collect();
        given_up.iter().for_each(|member| self.failed(member, now));
        let busy = self.candidates.values().filter(|it| it.dialled_at.is_some()).count();
        let free = DIALS_MAX.saturating_sub(busy);
        if free == 0 {
            return Vec::new();
        }
        let mut due: Vec<&mut Candidate> =
            self.candidates.values_mut().filter(|it| it.dialled_at.is_none() && it.not_before <= now).collect();
        due.sort_by_cached_key(|it| {
            let above = it.rank > floor;
            (!above, std::cmp::Reverse(if above { it.rank } else { mix(it.rank ^ salt) }))
        });
        let above = due.partition_point(|it| it.rank > floor);
        let ranked = if more { above.min(free.div_ceil(2)) } else { above.min(free) };
        let any = if more { free - ranked } else { 0 };
        let mut chosen: Vec<usize> = (0..ranked).collect();
        chosen.extend((above..due.len()).take(any));
        chosen.extend((ranked..above).take(free - chosen.len()));
        let chosen = chosen.into_iter().filter_map(|index| {
            let candidate = due.get_mut(index)?;
            candidate.dialled_at = Some(now);
            Some(candidate.member.clone())
        });
        chosen.collect()
    }

    /// How long until another candidate may be dialled; `None` where there is none.
    pub(crate) fn next_dial(&self, now: Uptime) -> Option<Duration> {
        self.candidates.values().map(|it| it.not_before.since(now).max(Duration::from_millis(200))).min()
    }

    /// Candidates told by one peer; for its bound.
    pub(crate) fn told_by(&self, teller: PeerKey) -> usize {
        self.candidates.values().filter(|it| it.teller == teller).count()
    }
}

/// Whether an address told by a peer may be dialled at all: no reflector, no scanner of one's own machine. Loopback
/// only from a peer on this machine.
fn is_dialable(member: &Member, teller: Scope) -> bool {
    let id = 1..=PEER_ID_BYTES_MAX;
    if !id.contains(&member.peer_id.len()) || member.address.port() == 0 {
        return false;
    }
    let ip = match member.address.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip => ip,
    };
    let odd = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let fits = !odd && !ip.is_unspecified() && !ip.is_multicast();
    fits && (!ip.is_loopback() || teller == Scope::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8, address: &str) -> Member {
        Member { peer_id: vec![number; 34], address: address.parse().expect("an address") }
    }

    #[test]
    fn hearsay_becomes_a_few_dials_and_backs_off() {
        let mut members = Members::default();
        for number in 0..20 {
            members.heard(
                PeerKey(1),
                Scope::Site,
                0,
                member(number, "192.168.1.7:7680"),
                u64::from(number),
                Uptime::ZERO,
            );
        }
        let dialled = members.dial(u64::MAX, true, 7, Uptime::ZERO);
        assert_eq!(dialled.len(), DIALS_MAX);
        assert!(members.dial(u64::MAX, true, 7, Uptime::ZERO).is_empty());
        members.joined(PeerKey(5), dialled[0].clone(), 0);
        members.failed(&dialled[1], Uptime::ZERO);
        let again = members.dial(u64::MAX, true, 7, Uptime::ZERO);
        assert_eq!(again.len(), 2);
        assert!(!again.contains(&dialled[1]) && !again.contains(&dialled[0]));
        assert!(!members.heard(PeerKey(1), Scope::Site, 0, dialled[0].clone(), 0, Uptime::ZERO), "it is connected");
    }

    #[test]
    fn a_dial_of_which_nothing_is_heard_is_given_up() {
        let mut members = Members::default();
        members.heard(PeerKey(1), Scope::Site, 0, member(1, "10.0.0.1:7680"), 1, Uptime::ZERO);
        assert_eq!(members.dial(u64::MAX, true, 7, Uptime::ZERO).len(), 1);
        let later = Uptime::ZERO.after(DIAL_GIVEN_UP);
        assert!(members.dial(u64::MAX, true, 7, later).is_empty(), "it backs off first");
        assert_eq!(members.dial(u64::MAX, true, 7, later.after(DIAL_BACK_OFF_MAX)).len(), 1);
    }

    #[test]
    fn addresses_that_hurt_others_are_not_dialled() {
        for (address, scope, fits) in [
            ("127.0.0.1:22", Scope::Site, false),
            ("127.0.0.1:7680", Scope::Host, true),
            ("[::1]:7680", Scope::Internet, false),
            ("[::ffff:127.0.0.1]:7680", Scope::Site, false),
            ("169.254.169.254:80", Scope::Host, false),
            ("[fe80::1]:7680", Scope::Site, false),
            ("0.0.0.0:7680", Scope::Site, false),
            ("224.0.0.251:5353", Scope::Site, false),
            ("255.255.255.255:9", Scope::Site, false),
            ("10.1.2.3:0", Scope::Site, false),
            ("10.1.2.3:7680", Scope::Site, true),
        ] {
            assert_eq!(is_dialable(&member(1, address), scope), fits, "{address}");
        }
        let long = Member { peer_id: vec![0; 65], ..member(1, "10.1.2.3:7680") };
        assert!(!is_dialable(&long, Scope::Site));
    }

    #[test]
    fn news_is_told_once_and_bounded() {
        let mut members = Members::default();
        for number in 0..40 {
            members.joined(PeerKey(u64::from(number)), member(number, "10.0.0.1:7680"), u64::from(number));
        }
        let (first, told) = members.news(PeerKey(39), 0);
        assert_eq!(first.len(), MEMBERS_PER_MESSAGE);
        assert!(!first.contains(&member(39, "10.0.0.1:7680")));
        assert!(!members.has_news(told));
        members.joined(PeerKey(50), member(50, "10.0.0.1:7680"), 0);
        assert_eq!(members.news(PeerKey(39), told).0, [member(50, "10.0.0.1:7680")]);
        members.left(PeerKey(50));
        assert!(members.news(PeerKey(39), told).0.is_empty());
    }

    #[test]
    fn who_would_rank_high_is_dialled_first_and_told_first() {
        let mut members = Members::default();
        for number in 0..40 {
            let rank = u64::from(number) * 100;
            members.heard(PeerKey(1), Scope::Site, 0, member(number, "192.168.1.7:7680"), rank, Uptime::ZERO);
        }
        let first = members.dial(3_700, true, 7, Uptime::ZERO);
        assert_eq!(first.len(), DIALS_MAX);
        assert!(first[..2].iter().all(|member| member.peer_id[0] >= 38), "{first:?}");
        assert!(first[2..].iter().all(|member| member.peer_id[0] < 38), "others are dialled besides");
        let mut members = Members::default();
        for number in 0..100 {
            let rank = u64::from(number % 50);
            members.joined(PeerKey(u64::from(number)), member(number, "10.0.0.1:7680"), rank);
        }
        let (told, _) = members.news(PeerKey(200), 0);
        assert_eq!(told.len(), MEMBERS_PER_MESSAGE);
        for best in [49, 99, 48, 98, 47, 97] {
            assert!(told.contains(&member(best, "10.0.0.1:7680")), "{best} ranks high");
        }
    }
}
