//! Ranking, claims and leases.
#![allow(clippy::single_range_in_vec_init)]

use super::*;
use crate::swarm::candidate::{rank_key, token_key};
use crate::swarm::event::NodeId;

const MIB: u64 = 1 << 20;
const OFF_DUTY: Condition = Condition { off_duty: true, unstable: false, background: false };

fn at(seconds: u64) -> Uptime {
    Uptime::from_micros(seconds * 1_000_000)
}

fn layout(mib: u64) -> FlatLayout {
    FlatLayout::new([mib * MIB]).expect("short").expect("few")
}

fn candidate(number: u8, me: u8) -> Candidate {
    let id = NodeId([number; 32]);
    let peer = (number != me).then_some(PeerKey(u64::from(number)));
    let (key, token, condition) = (rank_key(&[7; 32], &id), token_key(&id), Condition::default());
    Candidate { peer, id, address: AddressKey([number; 18]), key, token, condition }
}

fn ranked(me: u8, members: u8) -> Duty {
    let mut duty = Duty::new(&layout(256), 8);
    duty.rank((0..members).map(|number| candidate(number, me)).collect(), &[], at(0));
    duty
}

#[test]
fn every_run_has_one_owner_and_all_agree() {
    let views: Vec<Duty> = (0..3).map(|me| ranked(me, 3)).collect();
    let runs = views[0].runs.len();
    let mut owned = vec![0; runs];
    views.iter().for_each(|view| view.mine().iter().for_each(|run| owned[*run as usize] += 1));
    assert!(owned.iter().all(|owners| *owners == 1));
    assert!(views.iter().all(|view| view.mine().len() > runs / 6), "shares are roughly even");
    assert_eq!(views[0].run(0), 0..4);
    assert_eq!(views[0].run(runs as u32 - 1), 252..256);
}

#[test]
fn one_address_has_one_slot_and_small_contents_one_gateway() {
    let mut duty = Duty::new(&layout(256), 8);
    let made_up = (1..9).map(|number| Candidate { address: AddressKey([1; 18]), ..candidate(number, 0) });
    duty.rank(made_up.chain([candidate(0, 0)]).collect(), &[], at(0));
    assert_eq!(duty.gateways.len(), 2);
    let mut small = Duty::new(&layout(15), 8);
    small.rank((0..5).map(|number| candidate(number, 0)).collect(), &[], at(0));
    assert_eq!(small.gateways.len(), 1);
}

#[test]
fn who_takes_no_duty_ranks_only_where_nobody_else_would() {
    let off = |it: Candidate| Candidate { condition: OFF_DUTY, ..it };
    let views: Vec<Duty> = (0..6)
        .map(|me| {
            let mut duty = Duty::new(&layout(256), 8);
            let members = (0..6).map(|number| candidate(number, me));
            duty.rank(members.map(|it| if it.id.0[0] < 3 { off(it) } else { it }).collect(), &[], at(0));
            duty
        })
        .collect();
    let gateways: Vec<bool> = views.iter().map(Duty::am_gateway).collect();
    assert_eq!(gateways, [false, false, false, true, true, true], "by each one's own view");
    let mine = |duty: &Duty| duty.mine().len();
    assert_eq!(views.iter().map(mine).sum::<usize>(), views[0].runs.len(), "all agree");
    let mut duty = Duty::new(&layout(256), 8);
    duty.rank((0..6).map(|number| off(candidate(number, 0))).collect(), &[], at(0));
    assert_eq!(duty.gateways.len(), 6, "all on battery");
    duty.rank(vec![off(candidate(0, 0))], &[], at(0));
    assert_eq!(mine(&duty), duty.runs.len(), "alone");
    duty.rank(vec![off(candidate(0, 0)), candidate(1, 0)], &[], at(0));
    assert_eq!((mine(&duty), duty.am_gateway()), (0, false), "one that does came");
}

#[test]
fn where_nobody_waits_one_brings_everything_the_same_for_all_contents() {
    let background = Condition { background: true, ..Condition::default() };
    let ranked = |topic: u8, condition: fn(u8, Condition) -> Condition| {
        let mut duty = Duty::new(&layout(256), 8);
        let members = (0..20).map(|number| {
            let it = candidate(number, 99);
            Candidate { key: rank_key(&[topic; 32], &it.id), condition: condition(number, background), ..it }
        });
        duty.rank(members.collect(), &[], at(0));
        duty.gateways.iter().map(|it| it.id.0[0]).collect::<Vec<u8>>()
    };
    let holder = ranked(1, |_, it| it);
    assert_eq!(holder.len(), 1);
    assert_eq!(ranked(2, |_, it| it), holder, "whatever the content");
    let stable = ranked(1, |number, it| Condition { unstable: number != 3, ..it });
    assert_eq!(stable, [3]);
    let mut waiting = ranked(1, |number, it| Condition { background: number >= 3, ..it });
    waiting.sort();
    assert_eq!(waiting, [0, 1, 2], "who waits fetches, whoever else is there");
}

#[test]
fn a_large_site_works_by_its_stable_members() {
    let of = |number: u64, peer: bool, unstable: bool| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let mut address = [0; 18];
        address[..8].copy_from_slice(&number.to_le_bytes());
        let id = NodeId(id);
        let condition = Condition { unstable, ..Condition::default() };
        let (key, token, peer) = (rank_key(&[7; 32], &id), token_key(&id), peer.then_some(PeerKey(number)));
        Candidate { peer, id, address: AddressKey(address), key, token, condition }
    };
    let site = |members: u64, me: u64| {
        let mut duty = Duty::new(&layout(256), 8);
        duty.rank((0..members).map(|number| of(number, number != me, number % 4 != 0)).collect(), &[], at(0));
        duty
    };
    assert!(!site(300, 1).is_large());
    // Whom gateways have no room for is told of them.
    let mut heard: Vec<u64> = (300..6000).map(|number| mix(of(number, true, true).key)).collect();
    heard.sort_unstable_by_key(|rank| std::cmp::Reverse(*rank));
    let mut refused = site(300, 1);
    refused.rank((0..300).map(|number| of(number, number != 1, number == 1)).collect(), &heard[..8], at(0));
    assert!(refused.is_large() && !refused.am_gateway());
    let large = site(6000, 1);
    assert!(large.is_large() && large.gateways.iter().all(|it| !it.condition.unstable));
    assert_eq!(large.gateways.len(), 8);
    let mut guest = site(6000, 1);
    let now = at(0).after(OWNER_SILENT);
    guest.look((0..256).map(PieceIndex), |_| MIB, Duration::ZERO, at(0));
    guest.look((0..256).map(PieceIndex), |_| MIB, Duration::ZERO, now);
    guest.rank((0..6000).map(|number| of(number, number != 1, number > 7 || number == 1)).collect(), &[], now);
    assert!(!guest.am_gateway(), "it cannot tell who is silent where it does not know all");
    guest.rank(vec![of(1, false, true), of(2, true, true)], &[], now);
    assert!(guest.am_gateway() || guest.gateways.len() == 2, "no stable one is left");
}

#[test]
fn where_all_who_take_duties_are_silent_the_others_rank() {
    let mut duty = Duty::new(&layout(256), 8);
    let members = || vec![Candidate { condition: OFF_DUTY, ..candidate(0, 0) }, candidate(1, 0)];
    duty.rank(members(), &[], at(0));
    assert!(!duty.am_gateway());
    let silent = at(0).after(OWNER_SILENT);
    duty.look((0..8).map(PieceIndex), |_| MIB, Duration::ZERO, at(0));
    duty.look((0..8).map(PieceIndex), |_| MIB, Duration::ZERO, silent);
    assert!(duty.stale);
    duty.rank(members(), &[], silent);
    assert!(duty.am_gateway());
}

#[test]
fn a_lease_that_runs_out_twice_orphans_its_pieces() {
    let mut duty = ranked(0, 2);
    let theirs = (0..256).step_by(4).find(|piece| !duty.is_mine(PieceIndex(*piece))).expect("half of them");
    let claim = |duty: &mut Duty, now| {
        let range = theirs..theirs + 4;
        duty.intent(PeerKey(1), AddressKey([1; 18]), &[range], Duration::MAX, |_| MIB, |_| true, now);
    };
    claim(&mut duty, at(1));
    assert!(duty.is_claimed(PieceIndex(theirs + 1)) && !duty.is_claimed(PieceIndex(theirs + 4)));
    duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(20));
    assert!(duty.is_claimed(PieceIndex(theirs + 1)), "the first lease is twenty seconds at most");
    duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(21));
    assert!(!duty.is_claimed(PieceIndex(theirs + 1)) && duty.stale && duty.orphans().count() == 0);
    claim(&mut duty, at(22));
    assert!(!duty.is_claimed(PieceIndex(theirs + 1)), "its address is passed over for a minute");
    claim(&mut duty, at(82));
    duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(102));
    assert_eq!(duty.orphans().count(), 4);
}

#[test]
fn progress_renews_and_withdrawal_ends_a_claim() {
    let mut duty = ranked(0, 3);
    duty.intent(PeerKey(1), AddressKey([1; 18]), &[8..12], Duration::from_secs(5), |_| MIB, |_| true, at(1));
    duty.brought(PeerKey(1), AddressKey([1; 18]), PieceIndex(8), |_| MIB, at(5));
    duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(9));
    assert!(!duty.is_claimed(PieceIndex(8)) && duty.is_claimed(PieceIndex(9)));
    duty.intent(PeerKey(1), AddressKey([1; 18]), &[9..10], Duration::ZERO, |_| MIB, |_| true, at(9));
    assert!(!duty.is_claimed(PieceIndex(9)) && duty.is_claimed(PieceIndex(10)));
    duty.forget(PeerKey(1));
    assert!(!duty.is_claimed(PieceIndex(10)));
}

#[test]
fn a_silent_owner_is_passed_over() {
    let mut duty = ranked(0, 2);
    let theirs: Vec<PieceIndex> = (0..256).map(PieceIndex).filter(|piece| !duty.is_mine(*piece)).collect();
    duty.look(theirs.iter().copied(), |_| MIB, Duration::ZERO, at(1));
    assert!(!duty.stale);
    duty.look(theirs.iter().copied(), |_| MIB, Duration::ZERO, at(6));
    assert!(duty.stale);
    duty.rank((0..2).map(|number| candidate(number, 0)).collect(), &[], at(6));
    assert!((0..256).all(|piece| duty.is_mine(PieceIndex(piece))));
}

#[test]
fn huge_and_reversed_intents_are_cut() {
    let mut duty = ranked(0, 2);
    #[allow(clippy::reversed_empty_ranges)]
    let ranges = vec![9..3, 0..u32::MAX, u32::MAX..u32::MAX];
    duty.intent(PeerKey(1), AddressKey([1; 18]), &ranges, Duration::MAX, |_| 2 * MIB, |_| true, at(1));
    assert_eq!(duty.claims.len() as u64, CLAIM_BYTES_MAX / (2 * MIB));
    for _ in 0..100 {
        duty.intent(PeerKey(1), AddressKey([1; 18]), &ranges, Duration::MAX, |_| 2 * MIB, |_| true, at(30));
    }
    assert_eq!(duty.peers[&PeerKey(1)].unproven, INTENTS_UNPROVEN_MAX);
}

/// An owner of made-up identities at a few addresses grinds them until each address has a gateway, and claims with all.
#[test]
fn who_grinds_identities_and_claims_with_all_of_them_gets_four_seconds() {
    let mut duty = Duty::new(&layout(256), 8);
    let honest = || (1..=20).map(|number| candidate(number, 0));
    let attacker = || {
        (100..190).map(|number| Candidate {
            address: AddressKey([250 + number % 3; 18]),
            key: u64::from(number),
            ..candidate(number, 0)
        })
    };
    let members = || honest().chain(attacker()).chain([candidate(0, 0)]).collect::<Vec<_>>();
    let attacks = |duty: &mut Duty, second: u64| {
        for member in attacker() {
            let first = u32::from(member.id.0[0]) % 4 * 64;
            let peer = member.peer.expect("not me");
            duty.intent(peer, member.address, &[first..first + 64], Duration::MAX, |_| MIB, |_| true, at(second));
        }
    };
    duty.rank(members(), &[], at(0));
    let theirs = |duty: &Duty| duty.gateways.iter().filter(|it| it.address.0[0] >= 250).count();
    assert!(theirs(&duty) <= 3, "one an address, however many identities");
    for second in 1..=5 {
        attacks(&mut duty, second);
        duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(second));
    }
    assert!(duty.claims.is_empty() && duty.stale, "whoever claims so much shows something at once");
    duty.rank(members(), &[], at(6));
    assert_eq!(theirs(&duty), 0, "all identities of the three addresses are passed over");
    for second in 6..60 {
        attacks(&mut duty, second);
    }
    assert!(duty.claims.is_empty());
    attacks(&mut duty, 66);
    duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(70));
    attacks(&mut duty, 189);
    assert!(duty.claims.is_empty(), "the second time lasts twice as long");
}

#[test]
fn who_claims_and_withdraws_in_turn_keeps_nothing_longer() {
    let mut duty = ranked(0, 3);
    for second in 1..62 {
        let lease = if second % 2 == 0 { Duration::ZERO } else { Duration::MAX };
        duty.intent(PeerKey(1), AddressKey([1; 18]), &[8..12], lease, |_| MIB, |_| true, at(second));
        duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(second));
    }
    assert!(!duty.is_claimed(PieceIndex(9)));
}

#[test]
fn who_trickles_holds_up_no_more_than_who_has_brought_nothing() {
    let mut duty = ranked(0, 3);
    let address = AddressKey([1; 18]);
    let claim = |duty: &mut Duty, second| {
        duty.intent(PeerKey(1), address, &[0..256], Duration::MAX, |_| MIB, |_| true, at(second));
    };
    claim(&mut duty, 1);
    let first = CLAIM_UNPROVEN_BYTES / MIB;
    for second in (10..200).step_by(10) {
        duty.brought(PeerKey(1), address, PieceIndex(second as u32 / 10 - 1), |_| MIB, at(second));
        claim(&mut duty, second);
        let not_its =
            |(piece, _): &(&PieceIndex, &PeerKey)| duty.owner(**piece).is_none_or(|it| it.peer != Some(PeerKey(1)));
        let extra = duty.claims.iter().filter(not_its).count() as u64;
        assert!(second < 30 || extra <= first, "{extra} claimed beyond its duties");
        duty.look(std::iter::empty(), |_| MIB, Duration::ZERO, at(second));
    }
}
