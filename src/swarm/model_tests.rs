//! Stories of whole swarms, with the figures they must reach.

use crate::content::layout::FlatLayout;
use crate::swarm::Uptime;
use crate::swarm::event::{BanReason, RejectReason, Scope, SourceFault};
use crate::swarm::model::{MIB, Manner, World};
use crate::swarm::model_origin::OriginManner;

/// Loopback: a gigabyte a second.
const FAST: u64 = 1_000_000_000;
/// A gigabit.
const LAN: u64 = 125_000_000;

#[test]
fn one_seed_feeds_one_peer_at_the_speed_of_the_line() {
    for (rate, mib) in [(FAST, 256), (LAN, 256), (2_000_000, 32)] {
        let mut world = World::new(mib, 1);
        world.node(true, rate, 0);
        world.node(false, rate, 0);
        world.name(1, 0);
        assert!(world.run(600));
        let bound = world.total() * 1_000_000 / rate;
        let took = world.last_complete();
        println!("1 to 1 at {rate}: {took} us, bound {bound}");
        assert!(took <= bound * 110 / 100 + 60_000, "{took} us, bound {bound}");
        let stats = *world.swarm(1).stats();
        assert_eq!((stats.bytes_duplicate, stats.bytes_unasked, stats.requests_rejected), (0, 0, 0));
    }
}

#[test]
fn three_that_start_together_take_one_copy_from_the_origin() {
    for (origin, mib) in [(FAST, 64), (FAST, 256), (20_000_000, 64), (2_000_000, 32)] {
        let (mut worst, mut available) = (0, 0);
        for seed in 0..25 {
            let mut world = World::new(mib, seed);
            world.jitter = [500, 2_000, 20_000][seed as usize / 3 % 3];
            for _ in 0..3 {
                let start = world.random(300_000) * (seed % 3) / 2;
                world.node(false, FAST, start);
            }
            world.name_all();
            world.origin(origin, OriginManner::Good);
            assert!(world.run(300), "seed {seed}");
            worst = worst.max(world.origin_copies());
            let with_peer: u64 = (0..3).map(|node| world.swarm(node).stats().origin_bytes_with_peer_available).sum();
            available = available.max(with_peer * 1000 / world.total());
        }
        println!("3 peers, {mib} MiB, origin {origin}: at most {worst} thousandths, {available} available");
        assert!(worst <= 1_100, "{worst} thousandths of a copy at {origin}");
    }
}

#[test]
fn a_seed_sends_about_one_copy_to_twenty_peers() {
    let (nodes, mib, rate) = (20, 128, 12_500_000);
    let mut world = World::new(mib, 3);
    world.node(true, rate, 0);
    for _ in 0..nodes {
        world.node(false, rate, 0);
    }
    world.name_all();
    assert!(world.run(600));
    let copies = world.nodes[0].sent * 1000 / world.total();
    // The seed's line, or all lines together: Kumar and Ross 2006.
    let bound = world.total() * 1_000_000 / rate;
    let took = world.last_complete();
    let rejects = world.swarm(0).stats().super_seeding_rejects;
    let duplicate: u64 = (1..=nodes).map(|node| world.swarm(node).stats().bytes_duplicate).sum();
    println!(
        "1 to {nodes}: seed sent {copies} thousandths, {} of the bound, {rejects} rejects, {duplicate} duplicate",
        took as f64 / bound as f64
    );
    assert!(copies <= 1_300, "the seed sent {copies} thousandths");
    assert!(took <= bound * 130 / 100, "{took} us, bound {bound}");
    assert!(duplicate * 50 <= world.total() * nodes as u64);
}

#[test]
fn an_owner_that_dies_in_mid_fetch_is_succeeded() {
    for (seed, silently) in (0..10).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = World::new(64, seed);
        (0..4).for_each(|_| {
            world.node(false, LAN, 0);
        });
        world.name_all();
        world.origin(10_000_000, OriginManner::Good);
        world.dies(0, 2_000_000, silently);
        assert!(world.run(120), "seed {seed} silently {silently}");
        let (took, copies) = (world.last_complete() / 1000, world.origin_copies());
        println!("an owner dies, silently {silently}: {took} ms, {copies} thousandths");
        assert!(copies <= 1_200, "{copies}");
        assert!(took <= if silently { 30_000 } else { 10_000 }, "{took} ms");
    }
}

#[test]
fn a_liar_costs_two_pieces_at_most_and_is_left_alone() {
    for seed in 0..10 {
        let mut world = World::new(64, seed);
        world.node(true, LAN / 10, 0);
        let liar = world.node(true, LAN, 0);
        world.manner(liar, Manner::Liar);
        let victim = world.node(false, LAN, 0);
        world.name(victim, 0);
        world.name(victim, liar);
        assert!(world.run(60), "seed {seed}");
        let stats = world.swarm(victim).stats();
        assert!(stats.bytes_bad <= 2 * MIB, "{stats:?}");
        assert!(stats.bytes_bad == 0 || stats.peers_doubted == 1, "{stats:?}");
        assert!(stats.bytes_unasked <= 8 * MIB, "{stats:?}");
    }
}

#[test]
fn peers_that_stall_or_refuse_delay_nobody_for_long() {
    let reasons = [RejectReason::Busy, RejectReason::Choked, RejectReason::NotHeld, RejectReason::SuperSeeding];
    let refusers = reasons.into_iter().chain([RejectReason::Stopping]).map(Manner::Refuser);
    for manner in refusers.chain([Manner::Staller]) {
        let mut world = World::new(64, 5);
        world.node(true, LAN / 10, 0);
        let staller = world.node(true, LAN, 0);
        world.manner(staller, manner);
        let victim = world.node(false, LAN, 0);
        world.name(victim, 0);
        world.name(victim, staller);
        assert!(world.run(60), "{manner:?}");
        let bound = world.total() * 10_000_000 / LAN;
        let took = world.last_complete();
        println!("beside {manner:?}: {took} us, bound {bound}");
        assert!(took <= bound * 120 / 100, "{manner:?}: {took} us, bound {bound}");
    }
}

#[test]
fn a_staller_alone_is_sent_away_and_named() {
    let mut world = World::new(8, 5);
    let staller = world.node(true, LAN, 0);
    world.manner(staller, Manner::Staller);
    world.node(false, LAN, 0);
    world.name(1, 0);
    assert!(!world.run(58));
    assert_eq!(world.nodes[1].banned, [(staller, BanReason::NeverDelivers)]);
    assert_eq!(world.swarm(1).faults().count(), 1);
    assert!(world.swarm(1).without_supplier_since().is_some());
    assert_eq!(world.swarm(1).stalled_since(), Some(Uptime::ZERO));
}

#[test]
fn a_seed_that_dies_is_replaced_by_the_origin_and_the_others() {
    for silently in [false, true] {
        let mut world = World::new(64, 9);
        let seed = world.node(true, LAN, 0);
        (0..3).for_each(|_| {
            world.node(false, LAN, 0);
        });
        world.name_all();
        world.origin(10_000_000, OriginManner::Good);
        world.dies(seed, 200_000, silently);
        assert!(world.run(120), "silently {silently}");
        let (took, copies) = (world.last_complete() / 1000, world.origin_copies());
        println!("a seed dies, silently {silently}: {took} ms, {copies} thousandths");
        assert!(copies <= 1_200, "{copies}");
    }
}

#[test]
fn a_seed_makes_the_origin_superfluous() {
    let mut world = World::new(128, 2);
    world.node(true, LAN, 0);
    (0..4).for_each(|_| {
        world.node(false, LAN, 0);
    });
    world.name_all();
    world.origin(LAN, OriginManner::Good);
    // The seed itself does not ask the origin; the others may take their settling part.
    assert!(world.run(60));
    let copies = world.origin_copies();
    println!("with a seed: {copies} thousandths from the origin");
    assert!(copies <= 70, "{copies}");
}

#[test]
fn who_joins_late_takes_nothing_twice() {
    for (seed, rate) in (0..10).flat_map(|seed| [(seed, FAST), (seed, 10_000_000)]) {
        let mut world = World::new(64, seed);
        let whole = 64 * MIB * 1_000_000 / rate;
        world.node(false, FAST, 0);
        world.node(false, FAST, whole / 2);
        world.node(false, FAST, whole * 3 / 4);
        world.name_all();
        world.origin(rate, OriginManner::Good);
        assert!(world.run(120), "seed {seed}");
        let copies = world.origin_copies();
        println!("late joiners at {rate}: {copies} thousandths");
        assert!(copies <= 1_100, "{copies}");
    }
}

#[test]
fn who_knows_one_member_finds_the_others() {
    let mut world = World::new(64, 4);
    (0..6).for_each(|_| {
        world.node(false, LAN, 0);
    });
    (1..6).for_each(|node| world.name(node, 0));
    world.origin(LAN, OriginManner::Good);
    world.jitter = 500;
    assert!(world.run(60));
    println!("strangers: {} thousandths", world.origin_copies());
    assert!((0..6).all(|node| world.swarm(node).peers().count() == 5), "all know all");
    assert!(world.origin_copies() <= 1_300, "{}", world.origin_copies());
}

#[test]
fn origin_faults_that_pass_are_waited_out() {
    for fault in [SourceFault::Busy, SourceFault::Unreachable, SourceFault::TimedOut, SourceFault::Truncated] {
        let mut world = World::new(32, 4);
        world.node(false, LAN, 0);
        world.origin(LAN, OriginManner::FailsAtFirst(fault, 3));
        assert!(world.run(30), "{fault:?}");
        assert_eq!(world.origins[0].bytes, world.total());
    }
    // An origin that cuts every body short after two blocks still delivers, two blocks at a time.
    let mut world = World::new(32, 4);
    world.node(false, LAN, 0);
    world.origin(LAN, OriginManner::Fails(SourceFault::Truncated, 2));
    assert!(world.run(60));
    assert!(world.origins[0].bytes <= world.total() * 11 / 10);
}

#[test]
fn origins_that_never_help_are_dropped_and_named() {
    for (manner, fault, requests) in [
        (OriginManner::OtherFile, SourceFault::Changed, 2),
        (OriginManner::Fails(SourceFault::Refused, 0), SourceFault::Refused, 1),
        (OriginManner::Fails(SourceFault::Changed, 0), SourceFault::Changed, 1),
    ] {
        let mut world = World::new(64, 4);
        world.node(false, LAN, 0);
        let bad = world.origin(LAN, manner);
        assert!(!world.run(10), "{manner:?}");
        let source = world.swarm(0).sources().next().expect("it was there");
        assert!(source.dropped && source.last_fault == Some(fault), "{manner:?}: {source:?}");
        assert!(world.origins[bad].requests <= requests, "{manner:?}: {}", world.origins[bad].requests);
        assert!(world.swarm(0).without_supplier_since().is_some());
        // Beside a good one it costs little.
        let mut world = World::new(64, 4);
        world.node(false, LAN, 0);
        world.origin(LAN, manner);
        let good = world.origin(LAN, OriginManner::Good);
        assert!(world.run(20), "{manner:?}");
        assert!(world.origins[good].bytes <= world.total() * 11 / 10);
    }
}

#[test]
fn a_silent_origin_gives_way_to_another() {
    let mut world = World::new(16, 4);
    world.node(false, LAN, 0);
    world.origin(LAN, OriginManner::Silent);
    world.origin(LAN, OriginManner::Good);
    assert!(world.run(60));
    assert!(world.last_complete() < 5_000_000, "{}", world.last_complete());
}

#[test]
fn an_origin_without_ranges_streams_one_copy() {
    for peers in [1, 3] {
        let mut world = World::new(64, 4);
        (0..peers).for_each(|_| {
            world.node(false, LAN, 0);
        });
        world.name_all();
        world.origin(LAN / 4, OriginManner::WithoutRanges);
        assert!(world.run(60), "{peers}");
        println!("without ranges, {peers} peers: {} thousandths", world.origin_copies());
        assert!(world.origin_copies() <= 1_250, "{}", world.origin_copies());
    }
}

#[test]
fn a_node_alone_uses_several_long_ranges() {
    let mut world = World::new(256, 4);
    world.node(false, FAST, 0);
    world.origin(LAN, OriginManner::Good);
    assert!(world.run(60));
    let (requests, bytes) = (world.origins[0].requests, world.origins[0].bytes);
    println!("alone: {requests} requests, {} ms", world.last_complete() / 1000);
    assert_eq!(bytes, world.total());
    assert!(requests <= 40, "{requests}");
}

#[test]
fn http_alone_starts_at_once_and_is_whole() {
    let mut world = World::new(64, 4);
    world.node(false, LAN, 0);
    world.options(0, |options| options.no_peers = true);
    world.origin(LAN, OriginManner::Good);
    world.origin(LAN / 2, OriginManner::Good);
    assert!(world.run(60));
    let bytes: u64 = world.origins.iter().map(|origin| origin.bytes).sum();
    assert!(bytes <= world.total() * 105 / 100);
    assert!(world.origins[1].bytes > world.total() / 10, "the second source helps");
}

#[test]
fn a_thin_seed_is_helped_by_the_origin_and_a_dead_origin_by_the_seed() {
    let mut world = World::new(64, 4);
    world.node(true, 100_000, 0);
    world.node(false, LAN, 0);
    world.name(1, 0);
    world.origin(LAN, OriginManner::Good);
    assert!(world.run(120));
    println!("{:?}", world.swarm(1).stats());
    println!("thin seed: {} ms", world.last_complete() / 1000);
    assert!(world.last_complete() <= 30_000_000);
    let mut world = World::new(64, 4);
    world.node(true, LAN, 0);
    world.node(false, LAN, 0);
    world.name(1, 0);
    world.origin(LAN, OriginManner::Fails(SourceFault::Unreachable, 0));
    assert!(world.run(10));
}

#[test]
fn empty_and_complete_swarms_say_so_at_once() {
    for layout in [FlatLayout::new([]), FlatLayout::new([0, 0])] {
        let mut world = World::with_layout(layout.expect("short").expect("few"), 1);
        world.node(false, LAN, 0);
        assert!(world.run(1));
    }
    let mut world = World::new(3, 1);
    world.node(true, LAN, 0);
    assert!(world.run(1));
    world.run_on(10_000_000);
    assert!(world.swarm(0).next_wake().is_none(), "an idle seed sleeps");
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let trace = |seed| {
        let mut world = World::new(32, seed);
        world.node(true, LAN, 0);
        let liar = world.node(true, LAN, 0);
        world.manner(liar, Manner::Liar);
        (0..4).for_each(|_| {
            world.node(false, LAN, 50_000);
        });
        world.name_all();
        world.origin(LAN, OriginManner::Good);
        assert!(world.run(60));
        world.trace.finalize()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

/// Everything at random; as long as one honest supplier of every piece remains, everybody finishes.
fn mishmash(seed: u64) {
    let mut dice = World::new(1, seed ^ 0x5eed);
    let lengths = (0..1 + dice.random(3)).map(|_| dice.random(24 * MIB) + 1).collect::<Vec<_>>();
    let mut world = World::with_layout(FlatLayout::new(lengths).expect("short").expect("few"), seed);
    let rates = [FAST, LAN, 2_000_000];
    world.latency = [50, 500, 20_000][dice.random(3) as usize];
    world.scope = [Scope::Host, Scope::Site, Scope::Group, Scope::Internet][dice.random(4) as usize];
    let nodes = 2 + dice.random(7) as usize;
    let (by_seed, by_origin) = [(true, false), (false, true), (true, true)][dice.random(3) as usize];
    for number in 0..nodes {
        let (rate, start) = (rates[dice.random(3) as usize], dice.random(2_000_000));
        let node = world.node(by_seed && number == 0, rate, start);
        if number > 0 && dice.random(4) == 0 {
            let manners = [Manner::Liar, Manner::Staller, Manner::Refuser(RejectReason::Busy)];
            world.manner(node, manners[dice.random(3) as usize]);
        } else if number > 0 && dice.random(6) == 0 {
            world.dies(node, start + dice.random(5_000_000), dice.random(2) == 0);
        }
        let (slots, sequential, last) = (1 + dice.random(8) as u32, dice.random(3) == 0, dice.random(3) == 0);
        world.options(node, |options| {
            (options.upload_slots, options.sequential, options.last_piece_first) = (slots, sequential, last);
        });
        if dice.random(5) == 0 && by_seed {
            world.without_origin(node);
        }
    }
    world.name_all();
    if by_origin {
        let manners = [
            OriginManner::Good,
            OriginManner::WithoutRanges,
            OriginManner::Fails(SourceFault::Truncated, 3),
            OriginManner::FailsAtFirst(SourceFault::Busy, 3),
        ];
        world.origin(rates[dice.random(3) as usize], manners[dice.random(4) as usize]);
    }
    if dice.random(3) == 0 {
        world.origin(rates[dice.random(3) as usize], OriginManner::OtherFile);
    }
    assert!(world.run(400), "seed {seed}: somebody never finished");
    for node in (0..nodes).filter(|node| world.nodes[*node].swarm.is_some()) {
        world.swarm(node).check();
    }
}

#[test]
fn whatever_happens_everybody_finishes() {
    (0..200).for_each(mishmash);
}

#[test]
fn who_wakes_from_sleep_starts_over_and_finishes() {
    let mut world = World::new(64, 3);
    world.scope = Scope::Site;
    (0..3).for_each(|_| {
        world.node(false, LAN, 0);
    });
    world.name_all();
    world.origin(10_000_000, OriginManner::Good);
    world.run_on(2_000_000);
    assert!(world.swarm(0).peers().count() == 2 && !world.swarm(0).is_complete());
    world.happens(0, crate::swarm::event::Event::Woke);
    assert_eq!(world.swarm(0).peers().count(), 0, "no session outlives sleep");
    world.swarm(0).check();
    let held = world.swarm(0).bytes_held();
    assert!(held > 0, "what was verified is kept");
    assert!(world.run(60));
}
