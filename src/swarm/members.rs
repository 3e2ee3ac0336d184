//! Members tell members: what to pass on, and whom to dial. Hearsay is a candidate, never a fact.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::swarm::event::{Member, NodeId, PeerKey, Scope};
use crate::swarm::limits::{
    CANDIDATES_MAX, DIAL_BACK_OFF, DIAL_BACK_OFF_MAX, DIAL_FAILURES_MAX, DIAL_GIVEN_UP, DIALS_GATEWAYS_MAX, DIALS_MAX,
    MEMBERS_PER_MESSAGE, MEMBERS_RANKED, PEER_ID_BYTES_MAX, PEERS_MAX, RANKS_HEARD_MAX, RANKS_HEARD_PER_TELLER,
};
use crate::swarm::timer::Uptime;

#[derive(Debug)]
struct Candidate {
    member: Member,
    teller: PeerKey,
    /// What ranks it for origin duty, if it is of our site by its teller's scope; else 0.
    rank: u64,
    failures: u32,
    /// Not dialled before.
    not_before: Uptime,
    dialled_at: Option<Uptime>,
}

/// Which candidates are wanted though they would be no gateways.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Those of our site.
    pub(crate) near: bool,
    /// All others.
    pub(crate) far: bool,
}

impl Wanted {
    fn fits(self, rank: u64, floor: u64) -> bool {
        rank > floor || if rank > 0 { self.near } else { self.far }
    }
}

#[derive(Debug)]
struct Joined {
    number: u64,
    peer: PeerKey,
    member: Member,
    /// What ranks it for origin duty, if it is of our site; else 0.
    rank: u64,
}

/// Connected members in the order they came, and candidates from hearsay.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Connected members that can be dialled, oldest first.
    joined: VecDeque<Joined>,
    /// The peer ids of these.
    ids: BTreeSet<Vec<u8>>,
    /// Everybody who is connected.
    connected: BTreeSet<NodeId>,
    next_number: u64,
    /// Past the newest that may be a gateway.
    gateway_joined: u64,
    /// By peer id, so that one identity has one place whatever addresses are told.
    candidates: BTreeMap<Vec<u8>, Candidate>,
}

impl Members {
    /// Somebody is connected, who can be dialled or not.
    pub(crate) fn met(&mut self, id: NodeId) {
        self.connected.insert(id);
    }

    /// Whether somebody is connected.
    pub(crate) fn is_connected(&self, id: &NodeId) -> bool {
        self.connected.contains(id)
    }

    /// A member is connected. `rank`: for origin duty, if it is of our site; else 0. `floor`: whoever ranks above may be
    /// a gateway.
    pub(crate) fn joined(&mut self, peer: PeerKey, member: Member, rank: u64, floor: u64) {
        self.candidates.remove(&member.peer_id);
        if self.joined.len() >= PEERS_MAX
            && let Some(oldest) = self.joined.pop_front()
        {
            self.ids.remove(&oldest.member.peer_id);
        }
        self.ids.insert(member.peer_id.clone());
        self.joined.push_back(Joined { number: self.next_number, peer, member, rank });
        self.next_number += 1;
        if rank > floor {
            self.gateway_joined = self.next_number;
        }
    }

    /// A peer left; what it told stays a candidate.
    pub(crate) fn left(&mut self, peer: PeerKey, id: &NodeId) {
        self.connected.remove(id);
        if let Some(index) = self.joined.iter().position(|it| it.peer == peer)
            && let Some(gone) = self.joined.remove(index)
        {
            self.ids.remove(&gone.member.peer_id);
        }
    }

    /// Who ranks above `floor` may be a gateway from now on, and before only who ranked above `before`. Those between are news
    /// once more: of a crowd that came together everybody was told a part, and a gateway that is gone is to have the same
    /// successor for all.
    pub(crate) fn lowered(&mut self, before: u64, floor: u64) {
        let (between, rest): (VecDeque<Joined>, _) =
            std::mem::take(&mut self.joined).into_iter().partition(|it| it.rank > floor && it.rank <= before);
        self.joined = rest;
        for joined in between {
            self.joined.push_back(Joined { number: self.next_number, ..joined });
            self.next_number += 1;
            self.gateway_joined = self.next_number;
        }
    }

    /// Whether there is news past `told`.
    pub(crate) fn has_news(&self, told: u64) -> bool {
        self.joined.back().is_some_and(|it| it.number >= told)
    }

    /// Whether there is news past `told` of a member that may be a gateway.
    pub(crate) fn has_gateways(&self, told: u64) -> bool {
        self.gateway_joined > told
    }

    /// What to tell `to` of members that rank above `floor`, of which it was told everything before `told`; with the new
    /// mark. All of a site must come to the same gateways, and soon.
    pub(crate) fn gateways(&self, to: PeerKey, floor: u64, told: u64) -> (Vec<Member>, u64) {
        let fresh = self.joined.iter().rev().take_while(|it| it.number >= told);
        let above = fresh.filter(|it| it.peer != to && it.rank > floor).take(MEMBERS_PER_MESSAGE / 2);
        (above.map(|it| it.member.clone()).collect(), self.next_number)
    }

    /// What to tell `to`, that was told everything before `told`; with the new mark. First those who rank highest of our
    /// site, since all of it must come to the same gateways; then the newest, since a newcomer wants those who are here
    /// still. `to_near`: it is of our site, and hears only who is too, since whoever is told by its own site counts as a
    /// member of it.
    pub(crate) fn news(&self, to: PeerKey, to_near: bool, told: u64) -> (Vec<Member>, u64) {
        let fresh = self.joined.iter().rev().take_while(|it| it.number >= told);
        let mut others: Vec<&Joined> = fresh.filter(|it| it.peer != to && (it.rank > 0 || !to_near)).collect();
        if others.len() > MEMBERS_PER_MESSAGE {
            if to_near {
                let highest = |it: &&Joined| std::cmp::Reverse(it.rank);
                others.select_nth_unstable_by_key(MEMBERS_RANKED, highest);
                others.get_mut(MEMBERS_RANKED..).into_iter().for_each(|rest| {
                    rest.sort_unstable_by_key(|it| std::cmp::Reverse(it.number));
                });
            }
            others.truncate(MEMBERS_PER_MESSAGE);
        }
        (others.into_iter().map(|it| it.member.clone()).collect(), self.next_number)
    }

    /// Whether a dial towards hearsay began after `since`.
    pub(crate) fn is_dialling_since(&self, since: Uptime) -> bool {
        self.candidates.values().any(|candidate| candidate.dialled_at.is_some_and(|at| at > since))
    }

    /// Whether a named member is connected or a candidate, where it is said to be.
    pub(crate) fn knows(&self, member: &Member) -> bool {
        let candidate = self.candidates.get(&member.peer_id);
        candidate.is_some_and(|it| member.sequence <= it.member.sequence) || self.ids.contains(&member.peer_id)
    }

    /// Whether another candidate would be kept: where there are too many, only one that may be a gateway.
    pub(crate) fn has_room(&self, rank: u64, floor: u64) -> bool {
        self.candidates.len() < CANDIDATES_MAX || rank > floor
    }

    /// A peer named a member; whoever ranks above `floor` may be a gateway. Returns whether it is a new candidate.
    pub(crate) fn heard(
        &mut self,
        teller: PeerKey,
        scope: Scope,
        member: Member,
        rank: u64,
        floor: u64,
        now: Uptime,
    ) -> bool {
        if self.ids.contains(&member.peer_id) || !is_dialable(&member, scope) {
            return false;
        }
        if let Some(candidate) = self.candidates.get_mut(&member.peer_id) {
            // It has moved: another place, and no less patience with it.
            if member.sequence > candidate.member.sequence {
                candidate.member = member;
            }
            return false;
        }
        let rank = if scope <= Scope::Site { rank } else { 0 };
        if !self.has_room(rank, floor) {
            return false;
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            let idle = self.candidates.iter().filter(|(_, it)| it.dialled_at.is_none());
            let lowest = idle.min_by_key(|(_, it)| it.rank).filter(|(_, it)| it.rank < rank);
            let Some(lowest) = lowest.map(|(id, _)| id.clone()) else { return false };
            self.candidates.remove(&lowest);
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

    /// Whom to dial now, a few at a time: first who ranks above `floor`, then anybody of those who are wanted.
    pub(crate) fn dial(&mut self, floor: u64, wanted: Wanted, now: Uptime) -> Vec<Member> {
        let given_up: Vec<Member> = self
            .candidates
            .values()
            .filter(|it| it.dialled_at.is_some_and(|at| now.since(at) >= DIAL_GIVEN_UP))
            .map(|it| it.member.clone())
            .collect();
        given_up.iter().for_each(|member| self.failed(member, now));
        let busy = self.candidates.values().filter(|it| it.dialled_at.is_some()).count();
        let due = |it: &&mut Candidate| it.dialled_at.is_none() && it.not_before <= now && wanted.fits(it.rank, floor);
        let mut chosen: Vec<&mut Candidate> = self.candidates.values_mut().filter(due).collect();
        chosen.sort_by_key(|it| std::cmp::Reverse(if it.rank > floor { it.rank } else { 0 }));
        // While anybody may be a gateway, nobody is dialled sooner for it.
        let gateways = if floor == 0 { 0 } else { chosen.iter().take_while(|it| it.rank > floor).count() };
        let most = DIALS_MAX.max(gateways.min(DIALS_GATEWAYS_MAX));
        chosen
            .into_iter()
            .take(most.saturating_sub(busy))
            .map(|candidate| {
                candidate.dialled_at = Some(now);
                candidate.member.clone()
            })
            .collect()
    }

    /// How long until another candidate may be dialled; `None` where there is none.
    pub(crate) fn next_dial(&self, floor: u64, wanted: Wanted, now: Uptime) -> Option<Duration> {
        let fits = self.candidates.values().filter(|it| wanted.fits(it.rank, floor));
        fits.map(|it| it.not_before.since(now).max(Duration::from_millis(200))).min()
    }

    /// The highest ranks of candidates of our site, of each teller and of each address a few, so that one liar alone does not
    /// make a site look large.
    pub(crate) fn ranks(&self) -> Vec<u64> {
        let mut near: Vec<&Candidate> = self.candidates.values().filter(|it| it.rank > 0).collect();
        near.sort_unstable_by_key(|it| std::cmp::Reverse(it.rank));
        let (mut ranks, mut tellers, mut addresses) = (Vec::new(), BTreeMap::<PeerKey, u32>::new(), BTreeSet::new());
        for candidate in near {
            let told = tellers.entry(candidate.teller).or_default();
            if ranks.len() < RANKS_HEARD_MAX
                && *told < RANKS_HEARD_PER_TELLER
                && addresses.insert(candidate.member.address.ip())
            {
                *told += 1;
                ranks.push(candidate.rank);
            }
        }
        ranks
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

    const ALL: Wanted = Wanted { near: true, far: true };
    const NONE: Wanted = Wanted { near: false, far: false };

    fn member(number: u8, address: &str) -> Member {
        let address = address.parse().expect("an address");
        Member { peer_id: vec![number; 34], address, sequence: 0, record: vec![] }
    }

    #[test]
    fn hearsay_becomes_a_few_dials_and_backs_off() {
        let mut members = Members::default();
        for number in 0..20 {
            members.heard(PeerKey(1), Scope::Site, member(number, "192.168.1.7:7680"), 0, 0, Uptime::ZERO);
        }
        let dialled = members.dial(0, ALL, Uptime::ZERO);
        assert_eq!(dialled.len(), DIALS_MAX);
        assert!(members.dial(0, ALL, Uptime::ZERO).is_empty());
        members.joined(PeerKey(5), dialled[0].clone(), 1, u64::MAX);
        members.failed(&dialled[1], Uptime::ZERO);
        let again = members.dial(0, ALL, Uptime::ZERO);
        assert_eq!(again.len(), 2);
        assert!(!again.contains(&dialled[1]) && !again.contains(&dialled[0]));
        assert!(!members.heard(PeerKey(1), Scope::Site, dialled[0].clone(), 0, 0, Uptime::ZERO), "it is connected");
    }

    #[test]
    fn who_may_be_a_gateway_is_dialled_first_and_where_nobody_else_is() {
        let mut members = Members::default();
        for (number, scope) in [(1, Scope::Site), (2, Scope::Site), (3, Scope::Group), (4, Scope::Site)] {
            let rank = u64::from(number) * 10;
            let told = member(number, "192.168.1.7:7680");
            assert!(members.heard(PeerKey(1), scope, told, rank, 0, Uptime::ZERO));
        }
        let dialled = members.dial(15, NONE, Uptime::ZERO);
        let numbers: Vec<u8> = dialled.iter().filter_map(|member| member.peer_id.first().copied()).collect();
        assert_eq!(numbers, [4, 2], "of the site, and above the lowest gateway; the highest first");
        assert_eq!(members.dial(15, ALL, Uptime::ZERO).len(), 2, "the others, where neighbours are wanted");
    }

    #[test]
    fn who_is_of_our_site_hears_only_who_is_too() {
        let mut members = Members::default();
        members.joined(PeerKey(1), member(1, "192.168.1.7:7680"), 1, u64::MAX);
        members.joined(PeerKey(2), member(2, "192.0.2.7:7680"), 0, u64::MAX);
        assert_eq!(members.news(PeerKey(3), true, 0).0, [member(1, "192.168.1.7:7680")]);
        assert_eq!(members.news(PeerKey(3), false, 0).0.len(), 2);
    }

    #[test]
    fn who_may_succeed_a_gateway_is_told_once_more() {
        let mut members = Members::default();
        for number in 1..=4 {
            members.joined(PeerKey(u64::from(number)), member(number, "192.168.1.7:7680"), u64::from(number) * 10, 30);
        }
        let (_, told) = members.news(PeerKey(9), true, 0);
        let (_, told) = members.gateways(PeerKey(9), 30, told);
        assert!(!members.has_gateways(told) && !members.has_news(told));
        // The lowest gateway was above 30 and is above 10 now: 20 and 30 are between, 10 and 40 are not.
        members.lowered(30, 10);
        assert!(members.has_gateways(told) && members.has_news(told));
        let (again, told) = members.gateways(PeerKey(9), 10, told);
        assert_eq!(again, [member(3, "192.168.1.7:7680"), member(2, "192.168.1.7:7680")]);
        assert!(!members.has_gateways(told) && !members.has_news(told), "once");
        assert_eq!(members.news(PeerKey(9), true, 0).0.len(), 4, "and nobody was lost for it");
    }

    #[test]
    fn a_member_that_moved_is_one_candidate_at_its_newest_place() {
        let mut members = Members::default();
        let said = |sequence, address: &str| Member { sequence, ..member(1, address) };
        let mut hear = |teller, sequence, address: &str| {
            members.heard(PeerKey(teller), Scope::Site, said(sequence, address), 0, 0, Uptime::ZERO)
        };
        assert!(hear(1, 5, "10.0.0.1:7680"));
        assert!(!hear(2, 7, "10.0.0.2:7680"), "newer, and no second one");
        assert!(!hear(3, 6, "10.0.0.3:7680"), "an older word, said again");
        assert_eq!(members.dial(0, ALL, Uptime::ZERO), [said(7, "10.0.0.2:7680")]);
        members.failed(&said(7, "10.0.0.2:7680"), Uptime::ZERO);
        assert!(!members.heard(PeerKey(1), Scope::Site, said(8, "10.0.0.4:7680"), 0, 0, Uptime::ZERO));
        assert!(members.dial(0, ALL, Uptime::ZERO).is_empty(), "who says new places does not jump the wait");
    }

    #[test]
    fn a_dial_of_which_nothing_is_heard_is_given_up() {
        let mut members = Members::default();
        members.heard(PeerKey(1), Scope::Site, member(1, "10.0.0.1:7680"), 0, 0, Uptime::ZERO);
        assert_eq!(members.dial(0, ALL, Uptime::ZERO).len(), 1);
        let later = Uptime::ZERO.after(DIAL_GIVEN_UP);
        assert!(members.dial(0, ALL, later).is_empty(), "it backs off first");
        assert_eq!(members.dial(0, ALL, later.after(DIAL_BACK_OFF_MAX)).len(), 1);
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
            members.joined(PeerKey(u64::from(number)), member(number, "10.0.0.1:7680"), 1, u64::MAX);
        }
        let (first, told) = members.news(PeerKey(39), true, 0);
        assert_eq!(first.len(), MEMBERS_PER_MESSAGE);
        assert!(!first.contains(&member(39, "10.0.0.1:7680")));
        assert!(!members.has_news(told));
        members.joined(PeerKey(50), member(50, "10.0.0.1:7680"), 1, u64::MAX);
        assert_eq!(members.news(PeerKey(39), true, told).0, [member(50, "10.0.0.1:7680")]);
        members.left(PeerKey(50), &NodeId([50; 32]));
        assert!(members.news(PeerKey(39), true, told).0.is_empty());
    }
}
