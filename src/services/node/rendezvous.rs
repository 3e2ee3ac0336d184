//! The rendezvous that a node keeps for others: who is of which scope, and where. Nobody learns of it what anybody has or
//! wants; a scope is a group's word. Entries are what members have signed of themselves, and end by themselves.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::services::node::limits::{
    MEETING_ANSWER_MAX, MEETING_LEASE, MEETING_PER_ADDRESS_MAX, MEETING_PER_SCOPE_MAX, MEETING_SCOPES_MAX, MEETINGS_MAX,
};
use crate::services::node::link::{Link, address_key};
use crate::services::node::{Inner, report};
use crate::swarm::event::{AddressKey, Member};
use crate::wire::limits::SCOPE_BYTES;
use crate::wire::{self, Frame, scope_word};

/// Under which word members meet.
pub(crate) type Scope = [u8; SCOPE_BYTES];

/// Who is of which scope. Time is handed in.
#[derive(Default)]
pub(crate) struct Register {
    scopes: BTreeMap<Scope, BTreeMap<PeerId, Entry>>,
    /// How many entries each address has.
    addresses: BTreeMap<AddressKey, usize>,
    count: usize,
    /// Where the next answer begins, so that askers are spread over all members.
    turn: usize,
}

struct Entry {
    member: Member,
    until: Instant,
}

impl Register {
    /// Enters a member, or renews its entry; returns for how long it holds. Zero where there is no room: neither a new scope
    /// nor more entries push out what stands. Within an address, or a scope, that is full, the entry that ends first gives way.
    pub(crate) fn enter(&mut self, now: Instant, scope: &Scope, peer: PeerId, member: Member) -> Duration {
        self.leave(scope, &peer);
        let address = address_key(member.address);
        let full = |register: &Self| {
            register.count >= MEETINGS_MAX
                || (register.scopes.len() >= MEETING_SCOPES_MAX && !register.scopes.contains_key(scope))
        };
        if full(self) {
            self.tidy(now);
        }
        if self.addresses.get(&address).is_some_and(|count| *count >= MEETING_PER_ADDRESS_MAX) {
            self.oust(|_, entry| address_key(entry.member.address) == address);
        }
        if self.scopes.get(scope).is_some_and(|held| held.len() >= MEETING_PER_SCOPE_MAX) {
            self.oust(|of, _| of == scope);
        }
        if full(self) {
            return Duration::ZERO;
        }
        let until = now.checked_add(MEETING_LEASE).unwrap_or(now);
        self.scopes.entry(*scope).or_default().insert(peer, Entry { member, until });
        *self.addresses.entry(address).or_default() += 1;
        self.count = self.count.saturating_add(1);
        MEETING_LEASE
    }

    /// Some of a scope, the asker excepted; the next asker is told the next ones.
    pub(crate) fn others(&mut self, now: Instant, scope: &Scope, asker: &PeerId) -> Vec<Member> {
        let Some(held) = self.scopes.get(scope) else { return Vec::new() };
        let others: Vec<&Entry> =
            held.iter().filter(|(peer, entry)| *peer != asker && entry.until > now).map(|(_, entry)| entry).collect();
        let from = self.turn.checked_rem(others.len()).unwrap_or(0);
        self.turn = self.turn.wrapping_add(MEETING_ANSWER_MAX);
        let (before, after) = others.split_at_checked(from).unwrap_or_default();
        after.iter().chain(before).take(MEETING_ANSWER_MAX).map(|entry| entry.member.clone()).collect()
    }

    /// A member is gone from every scope.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        let of: Vec<Scope> =
            self.scopes.iter().filter(|(_, held)| held.contains_key(peer)).map(|(scope, _)| *scope).collect();
        of.iter().for_each(|scope| self.leave(scope, peer));
    }

    /// Scopes, and entries in all of them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.scopes.len(), self.count)
    }

    fn leave(&mut self, scope: &Scope, peer: &PeerId) {
        let Some(held) = self.scopes.get_mut(scope) else { return };
        let Some(entry) = held.remove(peer) else { return };
        if held.is_empty() {
            self.scopes.remove(scope);
        }
        self.count = self.count.saturating_sub(1);
        let address = address_key(entry.member.address);
        let left = self.addresses.get(&address).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => self.addresses.remove(&address),
            left => self.addresses.insert(address, left),
        };
    }

    /// Of those that `which` picks, the one that ends first goes.
    fn oust(&mut self, which: impl Fn(&Scope, &Entry) -> bool) {
        let all =
            self.scopes.iter().flat_map(|(scope, held)| held.iter().map(move |(peer, entry)| (scope, peer, entry)));
        let first = all.filter(|(scope, _, entry)| which(scope, entry)).min_by_key(|(.., entry)| entry.until);
        if let Some((scope, peer)) = first.map(|(scope, peer, _)| (*scope, *peer)) {
            self.leave(&scope, &peer);
        }
    }

    /// What has ended goes.
    fn tidy(&mut self, now: Instant) {
        let over = |(scope, held): (&Scope, &BTreeMap<PeerId, Entry>)| {
            let scope = *scope;
            held.iter().filter(|(_, entry)| entry.until <= now).map(move |(peer, _)| (scope, *peer)).collect::<Vec<_>>()
        };
        let ended: Vec<_> = self.scopes.iter().flat_map(over).collect();
        ended.iter().for_each(|(scope, peer)| self.leave(scope, peer));
    }
}

impl Inner {
    /// The words under which members of our group meet, one for each of its keys.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        self.group().topic_keys().into_iter().map(scope_word).collect()
    }

    /// A peer asks who else is of a scope. Who asks too often is not answered.
    pub(crate) fn hear_meet(&self, link: &Link, scope: Scope) {
        if !link.may_meet() {
            return;
        }
        // Where a secret is proven, it is proven for this group alone. And a node that is no appliance does this for its link,
        // where so many are that not all announce themselves.
        let ours = self.scopes().contains(&scope);
        let near = || self.company.borrow().discover && self.lan.is_on_link(link.remote.ip());
        let (mut lease, mut members) = (Duration::ZERO, Vec::new());
        if (ours || !link.group.proves()) && (self.keeps_rendezvous || near()) {
            let now = Instant::now();
            let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
            members = register.others(now, &scope, &link.peer_id);
            if let Some(member) = link.member.clone() {
                lease = register.enter(now, &scope, link.peer_id, member);
            }
        }
        let told = |Member { peer_id, address, record, .. }| wire::Member { peer_id, address, record };
        let members = wire::Member::in_frames(members.into_iter().map(told).collect());
        link.send(Frame::Met { scope, lease, members: members.into_iter().next().unwrap_or_default() });
    }

    /// A peer has said that it ends: nobody is sent to it any more.
    pub(crate) fn has_ended(&self, peer: &PeerId) {
        self.register.lock().unwrap_or_else(PoisonError::into_inner).forget(peer);
    }

    /// Members of our own scopes that this node keeps.
    pub(crate) fn registered(&self) -> Vec<Member> {
        let (scopes, now) = (self.scopes(), Instant::now());
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().flat_map(|scope| register.others(now, scope, &self.peer_id)).collect()
    }
}

impl report::Kept {
    /// What a rendezvous holds now.
    pub(crate) fn of(node: &Inner) -> Option<Self> {
        let (scopes, members) = node.register.lock().unwrap_or_else(PoisonError::into_inner).count();
        (node.keeps_rendezvous || members > 0).then_some(Self { scopes, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: usize) -> Member {
        let [.., a, b] = number.to_be_bytes();
        Member { peer_id: vec![1], address: ([10, 7, a, b], 7680).into(), sequence: 1, record: vec![] }
    }

    fn scope(number: usize) -> Scope {
        let mut scope = [0; SCOPE_BYTES];
        scope[..8].copy_from_slice(&number.to_be_bytes());
        scope
    }

    #[test]
    fn members_of_a_scope_are_told_each_other_and_nobody_else() {
        let (mut register, now) = (Register::default(), Instant::now());
        let [one, two, three] = [0; 3].map(|_| PeerId::random());
        assert!(register.others(now, &scope(1), &one).is_empty());
        assert_eq!(register.enter(now, &scope(1), one, member(1)), MEETING_LEASE);
        register.enter(now, &scope(1), two, member(2));
        register.enter(now, &scope(2), three, member(3));
        let told = |register: &mut Register, of, asker| {
            register.others(now, &scope(of), asker).into_iter().map(|it| it.address).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut register, 1, &one), [member(2).address]);
        assert_eq!(told(&mut register, 2, &one), [member(3).address], "who knows the word is told");
        assert!(told(&mut register, 2, &three).is_empty());
        // Moved, then gone.
        register.enter(now, &scope(1), two, member(9));
        assert_eq!(told(&mut register, 1, &one), [member(9).address]);
        register.forget(&two);
        assert!(told(&mut register, 1, &one).is_empty());
        assert_eq!(register.count(), (2, 2));
        register.forget(&three);
        assert_eq!((register.count(), register.addresses.len()), ((1, 1), 1));
    }

    #[test]
    fn an_entry_ends_by_itself_and_all_are_told_in_turn() {
        let (mut register, now) = (Register::default(), Instant::now());
        let asker = PeerId::random();
        (0..100).for_each(|number| _ = register.enter(now, &scope(1), PeerId::random(), member(number)));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let told = register.others(now, &scope(1), &asker);
            assert_eq!(told.len(), MEETING_ANSWER_MAX);
            seen.extend(told.into_iter().map(|it| it.address));
        }
        assert_eq!(seen.len(), 100);
        assert!(register.others(now + MEETING_LEASE, &scope(1), &asker).is_empty());
    }

    #[test]
    fn neither_an_address_nor_a_scope_nor_a_crowd_takes_more_than_its_room() {
        let (mut register, now) = (Register::default(), Instant::now());
        let honest = PeerId::random();
        register.enter(now, &scope(1), honest, member(7));
        for number in 0..MEETING_PER_ADDRESS_MAX * 3 {
            register.enter(now, &scope(number % 2), PeerId::random(), member(1));
        }
        assert_eq!(register.count().1, MEETING_PER_ADDRESS_MAX + 1, "made-up identities push out each other alone");
        assert!(register.scopes[&scope(1)].contains_key(&honest));
        for number in 0..MEETING_PER_SCOPE_MAX * 2 {
            register.enter(now, &scope(5), PeerId::random(), member(100 + number));
        }
        assert_eq!(register.scopes[&scope(5)].len(), MEETING_PER_SCOPE_MAX);
        let mut refused = 0;
        for number in 0..MEETINGS_MAX * 2 {
            let entered = register.enter(now, &scope(10 + number % 100), PeerId::random(), member(3000 + number));
            refused += usize::from(entered.is_zero());
        }
        assert!(register.count().1 <= MEETINGS_MAX && refused > 0, "{:?}", register.count());
        assert!(register.scopes[&scope(1)].contains_key(&honest), "what stands is not pushed out");
        // Scopes of nothing are no way either; and all ends.
        (0..MEETING_SCOPES_MAX * 2).for_each(|number| {
            _ = register.enter(now, &scope(1000 + number), PeerId::random(), member(9));
        });
        assert!(register.scopes.len() <= MEETING_SCOPES_MAX);
        assert_eq!(register.enter(now + MEETING_LEASE, &scope(0), honest, member(7)), MEETING_LEASE);
        assert_eq!((register.count(), register.addresses.len()), ((1, 1), 1));
    }
}
