//! Whatever comes in, in whatever order: no panic, closed books, bounded queues.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use crate::swarm::event::{
    Action, AddressKey, BanReason, Condition, Event, FetchId, Member, Message, NodeId, PeerKey, RejectReason, Scope,
    SourceFault, SourceKey, Supplier,
};
use crate::swarm::limits::{TOKENS_BASE, UPLOAD_QUEUE_MAX};
use crate::swarm::{Error, Options, Swarm, Uptime};

const PIECES: u32 = 40;

fn swarm_holding(held: &[u32]) -> Swarm {
    let layout = FlatLayout::new([17 << 20, (23 << 20) - 5]).expect("short").expect("few");
    let mut bits = Bitfield::none(layout.piece_count());
    held.iter().for_each(|piece| {
        bits.set(PieceIndex(*piece));
    });
    let (me, address) = (NodeId([0; 32]), AddressKey([0; 18]));
    Swarm::new(Arc::new(layout), bits, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO).expect("it fits")
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..PIECES, 1 => Just(PIECES), 1 => any::<u32>()]
}

fn range() -> impl Strategy<Value = Range<u32>> {
    (index(), index()).prop_map(|(a, b)| if a % 4 == 0 { a..b } else { a.min(b)..a.max(b) })
}

fn message() -> impl Strategy<Value = Message> {
    let reason = prop_oneof![
        Just(RejectReason::NotHeld),
        Just(RejectReason::Choked),
        Just(RejectReason::Busy),
        Just(RejectReason::SuperSeeding),
        Just(RejectReason::Stopping),
        Just(RejectReason::OutOfRange)
    ];
    let bits = (prop_oneof![9 => Just(PIECES), 1 => 0u32..99], proptest::collection::vec(index(), 0..40));
    let bits = bits.prop_map(|(count, held)| {
        let mut bits = if held.len() > 30 { Bitfield::all(count) } else { Bitfield::none(count) };
        held.iter().for_each(|piece| {
            bits.set(PieceIndex(*piece));
        });
        Message::Bitfield(bits)
    });
    let lease = prop_oneof![Just(Duration::ZERO), Just(Duration::MAX), (0u64..100).prop_map(Duration::from_secs)];
    let member = (any::<u8>(), any::<u32>()).prop_map(|(id, ip)| Member {
        peer_id: vec![id; usize::from(id) % 70],
        address: std::net::SocketAddr::from((ip.to_be_bytes(), u16::from(id))),
        sequence: u64::from(ip % 3),
        record: vec![id; usize::from(id)],
    });
    prop_oneof![
        4 => bits,
        4 => proptest::collection::vec(index().prop_map(PieceIndex), 0..20).prop_map(Message::Have),
        2 => index().prop_map(|piece| Message::Lost(PieceIndex(piece))),
        3 => any::<bool>().prop_map(Message::Interested),
        6 => any::<bool>().prop_map(Message::Choke),
        6 => (index(), prop_oneof![9 => Just(0u32), 1 => any::<u32>()]).prop_map(|(piece, block)| Message::Request {
            piece: PieceIndex(piece),
            first_block: BlockIndex(block)
        }),
        3 => index().prop_map(|piece| Message::Cancel(PieceIndex(piece))),
        3 => (index(), reason).prop_map(|(piece, reason)| Message::Reject { piece: PieceIndex(piece), reason }),
        3 => (proptest::collection::vec(range(), 0..5), lease).prop_map(|(pieces, lease)| Message::Intent { pieces, lease }),
        2 => proptest::collection::vec(member, 0..40).prop_map(Message::Members),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let peer = || (1u64..6).prop_map(PeerKey);
    let source = || (0u32..3).prop_map(SourceKey);
    let fetch = || (0u64..12).prop_map(FetchId);
    let supplier = || prop_oneof![peer().prop_map(Supplier::Peer), source().prop_map(Supplier::Source)];
    let scope = prop_oneof![Just(Scope::Host), Just(Scope::Site), Just(Scope::Group), Just(Scope::Internet)];
    let fault = proptest::option::of(prop_oneof![
        Just(SourceFault::Busy),
        Just(SourceFault::Truncated),
        Just(SourceFault::Refused),
        Just(SourceFault::Changed)
    ]);
    let wait = proptest::option::of(prop_oneof![Just(Duration::MAX), Just(Duration::ZERO)]);
    let block = || prop_oneof![9 => Just(0u32), 1 => any::<u32>()].prop_map(BlockIndex);
    let piece = || index().prop_map(PieceIndex);
    prop_oneof![
        6 => (peer(), any::<u8>(), scope, any::<bool>()).prop_map(|(peer, id, scope, long)| Event::PeerUp {
            peer,
            id: NodeId([id % 8; 32]),
            address: AddressKey([id % 3; 18]),
            member: None,
            scope,
            round_trip: if long { Duration::MAX } else { Duration::ZERO },
        }),
        2 => peer().prop_map(|peer| Event::PeerDown { peer }),
        50 => (peer(), message()).prop_map(|(peer, message)| Event::Said { peer, message }),
        9 => (supplier(), piece(), block()).prop_map(|(supplier, piece, block)| Event::BlockStored { supplier, piece, block }),
        1 => (supplier(), piece(), block()).prop_map(|(supplier, piece, block)| Event::BlockBad { supplier, piece, block }),
        1 => (supplier(), any::<u64>()).prop_map(|(supplier, bytes)| Event::Receiving { supplier, bytes }),
        1 => (peer(), any::<u64>()).prop_map(|(peer, bytes)| Event::Unasked { peer, bytes }),
        4 => (peer(), piece(), any::<u64>(), any::<bool>())
            .prop_map(|(peer, piece, bytes, complete)| Event::Served { peer, piece, bytes, complete }),
        2 => piece().prop_map(|piece| Event::LocalLost { piece }),
        2 => (source(), proptest::collection::vec(range(), 0..3)).prop_map(|(source, pieces)| Event::SourceUp { source, pieces }),
        1 => source().prop_map(|source| Event::SourceDown { source }),
        1 => (source(), fetch(), range()).prop_map(|(source, fetch, pieces)| Event::SourceWithoutRanges { source, fetch, pieces }),
        4 => (fetch(), fault, wait).prop_map(|(fetch, fault, retry_after)| Event::FetchEnded { fetch, fault, retry_after }),
        1 => Just(Event::DiscoverySettled),
        1 => (any::<u32>(), any::<bool>()).prop_map(|(seen, connected)| Event::Neighbours { seen, connected }),
        1 => any::<bool>().prop_map(Event::UploadsAllowed),
        1 => any::<bool>().prop_map(Event::FarUploadsAllowed),
        1 => any::<bool>().prop_map(Event::DutiesAllowed),
        1 => any::<bool>().prop_map(Event::Stable),
        1 => any::<bool>().prop_map(Event::Background),
        1 => any::<bool>().prop_map(Event::SharedAir),
        1 => Just(Event::Sleeping),
        1 => Just(Event::Woke),
        1 => any::<u32>().prop_map(|by| Event::LineShared { by }),
        1 => piece().prop_map(|piece| Event::ReaderAt { piece }),
        4 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_that_comes_in_breaks_the_books(
        held in proptest::collection::vec(0..PIECES, 0..60),
        events in proptest::collection::vec((event(), prop_oneof![20 => 0u64..500_000, 1 => 0u64..100_000_000, 1 => any::<u64>()]), 0..150),
    ) {
        let mut swarm = swarm_holding(&held);
        let mut now = 0u64;
        for (event, passed) in events {
            now = now.saturating_add(passed);
            swarm.handle(Uptime::from_micros(now), event);
            let actions = std::iter::from_fn(|| swarm.poll_action()).count();
            prop_assert!(actions < 2_000, "{} actions for one event", actions);
            swarm.check();
            let shown = swarm.peers().count() + swarm.sources().count();
            prop_assert!(shown <= 8);
        }
    }
}

fn said(swarm: &mut Swarm, message: Message) -> Vec<Action> {
    swarm.handle(Uptime::from_micros(1), Event::Said { peer: PeerKey(1), message });
    std::iter::from_fn(|| swarm.poll_action()).collect()
}

fn with_peer(held: &[u32]) -> Swarm {
    let mut swarm = swarm_holding(held);
    let event = Event::PeerUp {
        peer: PeerKey(1),
        id: NodeId([1; 32]),
        address: AddressKey([1; 18]),
        member: None,
        scope: Scope::Host,
        round_trip: Duration::ZERO,
    };
    swarm.handle(Uptime::ZERO, event);
    while swarm.poll_action().is_some() {}
    swarm
}

fn ban(reason: BanReason) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::Ban { peer: PeerKey(1), reason: found, .. } if *found == reason)
}

#[test]
#[allow(clippy::single_range_in_vec_init)]
fn what_breaks_the_protocol_is_banned_at_once() {
    let outside = PieceIndex(PIECES);
    let bits = |count| Message::Bitfield(Bitfield::none(count));
    let block = |piece, block| Message::Request { piece: PieceIndex(piece), first_block: BlockIndex(block) };
    for message in [
        bits(PIECES - 1),
        bits(PIECES + 1),
        Message::Have(vec![PieceIndex(1)]),
        Message::Lost(outside),
        block(PIECES, 0),
        block(0, 1),
        block(0, u32::MAX),
        Message::Intent { pieces: vec![0..PIECES + 1], lease: Duration::from_secs(1) },
    ] {
        let actions = said(&mut with_peer(&[]), message.clone());
        assert!(actions.iter().any(ban(BanReason::Protocol)), "{message:?}");
    }
    for message in [bits(PIECES), Message::Have(vec![PieceIndex(3), outside])] {
        let mut swarm = with_peer(&[]);
        assert!(!said(&mut swarm, bits(PIECES)).iter().any(ban(BanReason::Protocol)));
        assert!(said(&mut swarm, message.clone()).iter().any(ban(BanReason::Protocol)), "{message:?}");
    }
}

#[test]
fn floods_of_any_kind_end_in_a_ban() {
    let piece = PieceIndex(0);
    for message in [
        Message::Have(vec![piece; 1000]),
        Message::Interested(true),
        Message::Choke(false),
        Message::Request { piece, first_block: BlockIndex(0) },
        Message::Cancel(piece),
        Message::Reject { piece, reason: RejectReason::Busy },
        Message::Lost(piece),
        Message::Intent { pieces: vec![0..PIECES; 64], lease: Duration::MAX },
        Message::Members(vec![]),
        Message::Condition(Condition { off_duty: true, ..Condition::default() }),
    ] {
        let mut swarm = with_peer(&[0]);
        said(&mut swarm, Message::Bitfield(Bitfield::none(PIECES)));
        let banned = (0..2 * TOKENS_BASE).any(|_| said(&mut swarm, message.clone()).iter().any(ban(BanReason::Flood)));
        assert!(banned, "{message:?}");
        assert_eq!(swarm.peers().count(), 0);
    }
}

#[test]
fn a_queue_of_requests_is_bounded_and_the_rest_refused() {
    let asked = UPLOAD_QUEUE_MAX + 136;
    let layout = FlatLayout::new([(asked as u64) << 20]).expect("short").expect("few");
    let (me, address) = (NodeId([0; 32]), AddressKey([0; 18]));
    let held = Bitfield::all(asked as u32);
    let mut swarm = Swarm::new(Arc::new(layout), held, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO)
        .expect("fits");
    swarm.handle(
        Uptime::ZERO,
        Event::PeerUp {
            peer: PeerKey(1),
            id: NodeId([1; 32]),
            address: AddressKey([1; 18]),
            member: None,
            scope: Scope::Host,
            round_trip: Duration::ZERO,
        },
    );
    let mut served = 0;
    let mut refused = 0;
    for piece in (0u32..).take(asked) {
        for action in said(&mut swarm, Message::Request { piece: PieceIndex(piece), first_block: BlockIndex(0) }) {
            served += usize::from(matches!(action, Action::Serve { .. }));
            let busy = RejectReason::Busy;
            refused += usize::from(
                matches!(action, Action::Send { message: Message::Reject { reason, .. }, .. } if reason == busy),
            );
        }
    }
    assert_eq!((served, refused), (UPLOAD_QUEUE_MAX, asked - UPLOAD_QUEUE_MAX));
}

#[test]
fn a_choked_peer_and_a_piece_not_held_are_refused_without_offence() {
    let mut swarm = with_peer(&[0]);
    let request = |piece| Message::Request { piece: PieceIndex(piece), first_block: BlockIndex(0) };
    let reject = |piece, reason| Action::Send {
        peer: PeerKey(1),
        message: Message::Reject { piece: PieceIndex(piece), reason },
    };
    assert_eq!(said(&mut swarm, request(5)), [reject(5, RejectReason::NotHeld)]);
    assert!(matches!(said(&mut swarm, request(0))[..], [Action::Serve { .. }]));
    // A cancel and a second request wait for the node to be done with the first.
    assert!(matches!(said(&mut swarm, Message::Cancel(PieceIndex(0)))[..], [Action::CancelServe { .. }]));
    assert!(said(&mut swarm, request(0)).is_empty());
    let done = Event::Served { peer: PeerKey(1), piece: PieceIndex(0), bytes: 0, complete: false };
    swarm.handle(Uptime::from_micros(2), done);
    assert!(matches!(swarm.poll_action(), Some(Action::Serve { .. })));
}

#[test]
fn a_late_answer_is_taken_and_an_unasked_one_is_an_offence_the_second_time() {
    let mut swarm = with_peer(&[]);
    said(&mut swarm, Message::Bitfield(Bitfield::all(PIECES)));
    said(&mut swarm, Message::Choke(false));
    let unasked = |swarm: &mut Swarm| {
        swarm.handle(Uptime::from_micros(9), Event::Unasked { peer: PeerKey(1), bytes: 1 << 20 });
        std::iter::from_fn(|| swarm.poll_action()).any(|action| ban(BanReason::Unasked)(&action))
    };
    assert!(!unasked(&mut swarm));
    assert!(unasked(&mut swarm));
}

#[test]
fn a_bitfield_of_another_layout_is_refused_when_made() {
    let layout = Arc::new(FlatLayout::new([5 << 20]).expect("short").expect("few"));
    let (me, address) = (NodeId([0; 32]), AddressKey([0; 18]));
    let made = Swarm::new(layout, Bitfield::none(4), vec![], Options::default(), me, address, [1; 32], Uptime::ZERO);
    assert_eq!(made.err(), Some(Error::BitfieldLength { expected: 5, found: 4 }));
}

#[test]
fn many_pieces_and_peers_are_served_in_few_steps() {
    let (pieces, peers, rounds) = (65_536, 60, 2_000);
    let layout = FlatLayout::new([u64::from(pieces) << 20]).expect("short").expect("few");
    let (me, address) = (NodeId([0; 32]), AddressKey([0; 18]));
    let held = Bitfield::none(pieces);
    let mut swarm = Swarm::new(Arc::new(layout), held, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO)
        .expect("fits");
    let mut owed = std::collections::VecDeque::new();
    let mut take = |swarm: &mut Swarm, now, event| {
        swarm.handle(Uptime::from_micros(now), event);
        while let Some(action) = swarm.poll_action() {
            if let Action::Send { peer, message: Message::Request { piece, .. } } = action {
                owed.push_back((peer, piece));
            }
        }
        owed.pop_front()
    };
    let mut next = None;
    for number in 0..peers {
        let peer = PeerKey(number);
        let bits: Vec<u8> =
            (0..pieces as u64 / 8).map(|byte| crate::swarm::random::mix(number << 32 | byte) as u8).collect();
        let bits = Bitfield::from_bytes(pieces, &bits).expect("the right length");
        let (id, address) = (NodeId([number as u8; 32]), AddressKey([number as u8; 18]));
        let (scope, round_trip) = (Scope::Host, Duration::ZERO);
        take(&mut swarm, 0, Event::PeerUp { peer, id, address, member: None, scope, round_trip });
        take(&mut swarm, 0, Event::Said { peer, message: Message::Bitfield(bits) });
        next = take(&mut swarm, 0, Event::Said { peer, message: Message::Choke(false) }).or(next);
    }
    for round in 0..rounds {
        let (peer, piece) = next.expect("somebody always owes something");
        let event = Event::BlockStored { supplier: Supplier::Peer(peer), piece, block: BlockIndex(0) };
        next = take(&mut swarm, 1_000 + round * 100, event);
    }
    assert_eq!(swarm.held().held_count(), rounds as u32);
    assert_eq!(swarm.stats().bytes_duplicate, 0);
}

#[test]
fn blocks_of_a_piece_may_be_written_in_any_order() {
    // The smallest content with pieces of two blocks.
    let layout = FlatLayout::new([66 << 30]).expect("bounded").expect("few");
    let count = layout.piece_count();
    let none = Bitfield::none(count);
    let (me, address) = (NodeId([0; 32]), AddressKey([0; 18]));
    let mut swarm = Swarm::new(Arc::new(layout), none, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO)
        .expect("fits");
    let peer = PeerKey(1);
    let (id, scope, round_trip) = (NodeId([1; 32]), Scope::Host, Duration::ZERO);
    swarm.handle(
        Uptime::ZERO,
        Event::PeerUp { peer, id, address: AddressKey([1; 18]), member: None, scope, round_trip },
    );
    said(&mut swarm, Message::Bitfield(Bitfield::all(count)));
    let mut asked = said(&mut swarm, Message::Choke(false));
    let mut all: Vec<PieceIndex> = Vec::new();
    for round in 0..200 {
        let requests = asked.iter().filter_map(|action| match action {
            Action::Send { message: Message::Request { piece, .. }, .. } => Some(*piece),
            _ => None,
        });
        all.extend(requests);
        let piece = all[round];
        asked.clear();
        for block in [1, 0] {
            let event = Event::BlockStored { supplier: Supplier::Peer(peer), piece, block: BlockIndex(block) };
            swarm.handle(Uptime::from_micros(1_000 * round as u64), event);
            asked.extend(std::iter::from_fn(|| swarm.poll_action()));
        }
    }
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "no piece is asked for twice");
    assert_eq!(swarm.held().held_count(), 200);
}
