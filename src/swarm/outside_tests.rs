//! What crosses the line, for whom, and how much of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout};
use crate::swarm::event::{AddressKey, Condition, Event, NodeId, Scope, SourceKey, Supplier};
use crate::swarm::{Options, Uptime};

const MIB: u64 = 1 << 20;
const PIECES: u32 = 64;
const FAR: PeerKey = PeerKey(1);
const NEAR: PeerKey = PeerKey(2);

/// A node, with all that it asks for and says.
struct Node {
    swarm: Swarm,
    now: u64,
    asked: Vec<(PeerKey, PieceIndex)>,
    fetched: Vec<(crate::swarm::event::FetchId, Range<u32>)>,
    interested: bool,
}

impl Node {
    fn new(options: Options) -> Self {
        let layout = Arc::new(FlatLayout::new([u64::from(PIECES) * MIB]).expect("short").expect("few"));
        let (me, address) = (NodeId([9; 32]), AddressKey([9; 18]));
        let held = Bitfield::none(PIECES);
        let swarm = Swarm::new(layout, held, vec![], options, me, address, [1; 32], Uptime::ZERO).expect("it fits");
        Self { swarm, now: 0, asked: Vec::new(), fetched: Vec::new(), interested: false }
    }

    fn tell(&mut self, event: Event) {
        self.swarm.handle(Uptime::from_micros(self.now), event);
        self.swarm.check();
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Send { peer, message: Message::Request { piece, .. } } => self.asked.push((peer, piece)),
                Action::Send { peer: FAR, message: Message::Interested(it) } => self.interested = it,
                Action::Fetch { fetch, pieces, .. } => self.fetched.push((fetch, pieces)),
                _ => {}
            }
        }
    }

    fn peer(&mut self, peer: PeerKey, scope: Scope, held: Bitfield) {
        let number = peer.0 as u8;
        self.tell(Event::PeerUp {
            peer,
            id: NodeId([number; 32]),
            address: AddressKey([number; 18]),
            member: None,
            scope,
            round_trip: Duration::from_millis(1),
        });
        self.tell(Event::Said { peer, message: Message::Bitfield(held) });
        self.tell(Event::Said { peer, message: Message::Choke(false) });
    }

    /// Lets time pass, a tenth of a second at a time.
    fn wait(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.now += 100_000;
            self.tell(Event::Tick);
        }
    }

    fn deliver(&mut self, supplier: Supplier, piece: PieceIndex) {
        self.tell(Event::BlockStored { supplier, piece, block: BlockIndex(0) });
    }

    /// Whatever was asked of peers comes at once.
    fn deliver_all(&mut self) -> u64 {
        let asked = std::mem::take(&mut self.asked);
        asked.iter().for_each(|(peer, piece)| self.deliver(Supplier::Peer(*peer), *piece));
        asked.len() as u64
    }
}

#[test]
fn a_gateway_asks_outside_for_its_own_part_and_for_nothing_else() {
    let mut node = Node::new(Options::default());
    node.peer(NEAR, Scope::Site, Bitfield::none(PIECES));
    node.peer(FAR, Scope::Group, Bitfield::all(PIECES));
    assert!(node.asked.is_empty() && !node.interested, "not before the members are known");
    node.tell(Event::DiscoverySettled);
    let mut had = BTreeSet::new();
    // Four seconds on the other gateway counts as silent.
    for _ in 0..30 {
        node.wait(1);
        had.extend(node.asked.iter().map(|(_, piece)| *piece));
        node.deliver_all();
    }
    let mine: BTreeSet<PieceIndex> =
        (0..PIECES).map(PieceIndex).filter(|piece| node.swarm.duty.is_mine(*piece)).collect();
    assert_eq!(had, mine);
    assert!(!mine.is_empty() && mine.len() < PIECES as usize && !node.interested);
    // The rest comes from the neighbour, once it has it.
    let rest = (0..PIECES).map(PieceIndex).filter(|piece| !mine.contains(piece)).collect();
    node.tell(Event::Said { peer: NEAR, message: Message::Have(rest) });
    for _ in 0..200 {
        node.wait(1);
        assert!(node.asked.iter().all(|(peer, _)| *peer == NEAR));
        node.deliver_all();
    }
    assert!(node.swarm.is_complete());
}

#[test]
fn what_another_of_the_site_fetches_is_not_asked_for_outside_and_what_it_never_brings_is() {
    let mut node = Node::new(Options::default());
    node.peer(NEAR, Scope::Site, Bitfield::none(PIECES));
    node.peer(FAR, Scope::Group, Bitfield::all(PIECES));
    node.tell(Event::DiscoverySettled);
    let claim = Message::Intent { pieces: std::iter::once(0..16).collect(), lease: Duration::from_secs(20) };
    node.tell(Event::Said { peer: NEAR, message: claim });
    node.wait(10);
    assert!(!node.asked.is_empty() && node.asked.iter().all(|(_, piece)| piece.0 >= 16));
    for _ in 0..600 {
        node.wait(1);
        node.deliver_all();
    }
    assert!(node.swarm.is_complete(), "who is silent is succeeded");
}

#[test]
fn nobody_elsewhere_is_asked_for_what_a_source_delivers_unless_it_holds_everything() {
    let mut node = Node::new(Options::default());
    let mut half = Bitfield::none(PIECES);
    (0..PIECES / 2).for_each(|piece| {
        half.set(PieceIndex(piece));
    });
    node.tell(Event::SourceUp { source: SourceKey(0), pieces: std::iter::once(0..PIECES).collect() });
    node.peer(NEAR, Scope::Site, Bitfield::none(PIECES));
    node.peer(FAR, Scope::Group, half);
    node.tell(Event::DiscoverySettled);
    node.wait(10);
    assert!(node.asked.is_empty() && !node.interested && !node.fetched.is_empty());
}

#[test]
fn who_does_not_wait_takes_from_a_seed_elsewhere_what_the_origin_has_too_and_who_waits_does_not() {
    for (background, seed_answers) in [(true, true), (false, true), (true, false)] {
        let mut node = Node::new(Options { background, ..Options::default() });
        node.tell(Event::SourceUp { source: SourceKey(0), pieces: std::iter::once(0..PIECES).collect() });
        node.peer(NEAR, Scope::Site, Bitfield::none(PIECES));
        if background {
            // Of two for whom nobody waits, the one that is likely to stay brings everything.
            let message = Message::Condition(Condition { background, unstable: true, ..Condition::default() });
            node.tell(Event::Said { peer: NEAR, message });
        }
        node.peer(FAR, Scope::Group, Bitfield::all(PIECES));
        node.tell(Event::DiscoverySettled);
        let mut crossed = 0;
        // Peers have four seconds to show what they give.
        for _ in 0..if seed_answers { 30 } else { 150 } {
            node.wait(1);
            if seed_answers {
                crossed += node.deliver_all();
            }
        }
        let case = format!("background {background}, the seed answers {seed_answers}");
        match (background, seed_answers) {
            (true, true) => assert!(node.fetched.is_empty() && crossed > 0, "{case}: {:?}", node.fetched),
            // Who waits uses both, and a seed that gives nothing is not waited for.
            _ => assert!(!node.fetched.is_empty(), "{case}"),
        }
    }
}

/// Requests to peers outside and ranges from sources together, with everything delivered at once.
#[test]
fn neither_requests_nor_ranges_pass_by_the_budget_of_the_line() {
    for (peers, sources) in [(true, false), (false, true), (true, true)] {
        let budget = MIB / 2;
        let mut node = Node::new(Options { line_budget: budget, ..Options::default() });
        if sources {
            node.tell(Event::SourceUp { source: SourceKey(0), pieces: std::iter::once(0..PIECES).collect() });
        }
        if peers {
            node.peer(FAR, Scope::Internet, Bitfield::all(PIECES));
        }
        node.tell(Event::DiscoverySettled);
        let (mut crossed, mut seconds) = (0, 0);
        while !node.swarm.is_complete() && seconds < 600 {
            node.wait(10);
            seconds += 1;
            crossed += node.deliver_all() * MIB;
            for (fetch, pieces) in std::mem::take(&mut node.fetched) {
                crossed += u64::from(pieces.end - pieces.start) * MIB;
                pieces.map(PieceIndex).for_each(|piece| node.deliver(Supplier::Source(SourceKey(0)), piece));
                node.tell(Event::FetchEnded { fetch, fault: None, retry_after: None });
            }
            let most = budget * seconds + LINE_BURST_BYTES + MIB;
            assert!(crossed <= most, "{crossed} bytes in {seconds} s, peers {peers}, sources {sources}");
        }
        assert!(node.swarm.is_complete() && seconds >= 120, "{seconds} s, peers {peers}, sources {sources}");
    }
}

#[test]
fn a_budget_has_as_many_gateways_as_it_keeps_busy() {
    let gateways = |line_budget| Options { line_budget, ..Options::default() }.gateways();
    let most = Options::default().origin_gateways;
    assert_eq!([0, 1, 2_000_000, 7_999_999, u64::MAX].map(gateways), [most, 1, 1, 3, most]);
}

#[test]
fn where_nobody_can_be_met_sources_are_asked_for_all_within_three_seconds_of_the_wish() {
    // Nobody tells it that discovery has settled: its own timer is what bounds this.
    let mut node = Node::new(Options::default());
    node.tell(Event::SourceUp { source: SourceKey(0), pieces: vec![0..PIECES] });
    let (mut asked, mut tenths, mut first) = (0, 0, None);
    while asked < PIECES {
        node.wait(1);
        tenths += 1;
        // A source that answers at once: what is timed is how long it is not asked.
        for (fetch, pieces) in std::mem::take(&mut node.fetched) {
            first.get_or_insert(tenths);
            asked += pieces.len() as u32;
            pieces.for_each(|piece| node.deliver(Supplier::Source(SourceKey(0)), PieceIndex(piece)));
            node.tell(Event::FetchEnded { fetch, fault: None, retry_after: None });
        }
        assert!(tenths <= 30, "{asked} of {PIECES} pieces asked for within three seconds");
    }
    assert!(first.is_some_and(|first| first <= 5), "one range is not waited for: {first:?}");
}
