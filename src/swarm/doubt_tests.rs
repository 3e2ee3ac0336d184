//! Who is counted on, and who is asked.

use std::sync::Arc;
use std::time::Duration;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use crate::swarm::event::{Action, AddressKey, Event, Message, NodeId, PeerKey, Scope, SourceKey, Supplier};
use crate::swarm::limits::{DOUBT_SILENT, DOUBT_UNVOUCHED};
use crate::swarm::{Options, Swarm, Uptime};

const PIECES: u32 = 512;
const WHOLE: PeerKey = PeerKey(1);

/// A node with a source, and all that it asks for.
struct Node {
    swarm: Swarm,
    now: u64,
    asked: Vec<(PeerKey, PieceIndex)>,
    fetched: u32,
}

impl Node {
    fn new() -> Self {
        let layout = Arc::new(FlatLayout::new([u64::from(PIECES) << 20]).expect("short").expect("few"));
        let (me, address, held) = (NodeId([9; 32]), AddressKey([9; 18]), Bitfield::none(PIECES));
        let swarm =
            Swarm::new(layout, held, vec![], Options::default(), me, address, [1; 32], Uptime::ZERO).expect("it fits");
        let mut node = Self { swarm, now: 0, asked: Vec::new(), fetched: 0 };
        node.tell(Event::DiscoverySettled);
        node
    }

    fn with_source(mut self) -> Self {
        self.tell(Event::SourceUp { source: SourceKey(0), pieces: std::iter::once(0..PIECES).collect() });
        self
    }

    fn tell(&mut self, event: Event) {
        self.swarm.handle(Uptime::from_micros(self.now), event);
        self.swarm.check();
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Send { peer, message: Message::Request { piece, .. } } => self.asked.push((peer, piece)),
                Action::Fetch { .. } => self.fetched += 1,
                _ => {}
            }
        }
    }

    fn say(&mut self, peer: PeerKey, message: Message) {
        self.tell(Event::Said { peer, message });
    }

    fn peer(&mut self, peer: PeerKey, held: Bitfield) {
        let number = peer.0 as u8;
        self.tell(Event::PeerUp {
            peer,
            id: NodeId([number; 32]),
            address: AddressKey([number; 18]),
            member: None,
            scope: Scope::Site,
            round_trip: Duration::from_millis(1),
        });
        self.say(peer, Message::Bitfield(held));
        self.say(peer, Message::Choke(false));
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + u64::try_from(time.as_micros()).expect("short");
        while self.now < end {
            self.now += 100_000;
            self.tell(Event::Tick);
        }
    }

    fn doubted(&self, peer: PeerKey) -> bool {
        self.swarm.peers.get(&peer).is_some_and(|peer| peer.doubt.is_some())
    }
}

#[test]
fn who_claims_everything_and_sends_nothing_does_not_keep_a_node_from_its_source() {
    let mut node = Node::new();
    node.peer(WHOLE, Bitfield::all(PIECES));
    let mut node = node.with_source();
    node.wait(DOUBT_SILENT / 2);
    assert!(!node.asked.is_empty() && node.fetched == 0, "it is tried first");
    node.wait(DOUBT_SILENT);
    assert!(node.doubted(WHOLE) && node.fetched > 0);
}

#[test]
fn a_right_block_ends_all_doubt() {
    let mut node = Node::new();
    node.peer(WHOLE, Bitfield::all(PIECES));
    let mut node = node.with_source();
    node.wait(DOUBT_SILENT * 2);
    assert!(node.doubted(WHOLE));
    let (peer, piece) = *node.asked.first().expect("it was asked");
    let asked = node.asked.len();
    node.tell(Event::BlockStored { supplier: Supplier::Peer(peer), piece, block: BlockIndex(0) });
    assert!(!node.doubted(WHOLE));
    assert!(node.asked.len() > asked, "and it is asked for more");
}

#[test]
fn without_a_source_who_was_silent_is_asked_all_the_same() {
    let mut node = Node::new();
    node.peer(WHOLE, Bitfield::all(PIECES));
    node.wait(DOUBT_SILENT * 2);
    assert!(node.doubted(WHOLE));
    let asked = node.asked.len();
    node.wait(Duration::from_secs(30));
    assert!(node.asked.len() > asked);
}

#[test]
fn who_sent_wrong_bytes_alone_is_asked_no_more_while_there_is_a_source() {
    let mut node = Node::new().with_source();
    node.peer(WHOLE, Bitfield::all(PIECES));
    let (peer, piece) = *node.asked.first().expect("it was asked");
    let asked = node.asked.len();
    node.tell(Event::BlockBad { supplier: Supplier::Peer(peer), piece, block: BlockIndex(0) });
    node.wait(Duration::from_secs(60));
    assert!(node.doubted(WHOLE) && node.fetched > 0);
    assert_eq!(node.asked.len(), asked);
}

/// Thirty who lack everything, and one who says that it lacks nothing.
fn crowd() -> Node {
    let mut node = Node::new().with_source();
    (2..32).for_each(|number| node.peer(PeerKey(number), Bitfield::none(PIECES)));
    node.peer(WHOLE, Bitfield::all(PIECES));
    node
}

#[test]
fn a_crowd_counts_on_who_claims_everything_only_while_something_comes_of_it() {
    let mut node = crowd();
    node.wait(DOUBT_UNVOUCHED * 2);
    assert!(node.doubted(WHOLE));
    // A newcomer that claims everything too is doubted from the start.
    node.peer(PeerKey(40), Bitfield::all(PIECES));
    assert!(node.doubted(PeerKey(40)));
    // Somebody holds a piece that nobody fetched: it has it from one of the two.
    let gateways: Vec<_> =
        (2..32).map(PeerKey).filter(|peer| !node.swarm.duty.explains(*peer, PieceIndex(0))).collect();
    let other = *gateways.first().expect("not all own one piece");
    node.say(other, Message::Have(vec![PieceIndex(0)]));
    assert!(!node.doubted(WHOLE) && !node.doubted(PeerKey(40)));
}

#[test]
fn an_accomplice_s_word_counts_again_only_when_it_was_borne_out() {
    let mut node = crowd();
    node.wait(DOUBT_UNVOUCHED * 2);
    let accomplice = PeerKey(7);
    // Such as it is not to bring: who does changes with time.
    let unowned = |node: &Node, from: u32| {
        (from..PIECES).map(PieceIndex).find(|piece| !node.swarm.duty.explains(accomplice, *piece)).expect("not all")
    };
    let pledged = unowned(&node, 0);
    node.say(accomplice, Message::Have(vec![pledged]));
    assert!(!node.doubted(WHOLE));
    node.wait(DOUBT_UNVOUCHED * 2);
    node.peer(PeerKey(41), Bitfield::all(PIECES));
    node.wait(DOUBT_UNVOUCHED / 2);
    assert!(node.doubted(WHOLE) && node.doubted(PeerKey(41)), "nothing comes");
    let next = unowned(&node, 100);
    node.say(accomplice, Message::Have(vec![next]));
    assert!(node.doubted(PeerKey(41)), "nothing came of the first word");
    // It is heard again once it has given what it spoke of.
    let (supplier, block) = (Supplier::Peer(accomplice), BlockIndex(0));
    node.tell(Event::BlockStored { supplier, piece: pledged, block });
    let next = unowned(&node, 200);
    node.say(accomplice, Message::Have(vec![next]));
    assert!(!node.doubted(PeerKey(41)));
}

#[test]
fn what_a_gateway_brought_vouches_for_nobody() {
    let mut node = crowd();
    node.wait(DOUBT_UNVOUCHED * 2);
    node.say(PeerKey(5), Message::Intent { pieces: std::iter::once(8..12).collect(), lease: Duration::from_secs(20) });
    node.say(PeerKey(5), Message::Have(vec![PieceIndex(8)]));
    assert!(node.doubted(WHOLE));
}
