//! A small world for tests: many swarms, virtual time, links as queues of blocks, an origin that counts what leaves it,
//! and peers and origins that misbehave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use crate::swarm::event::{
    Action, AddressKey, BanReason, Event, FetchId, Member, Message, NodeId, PeerKey, RejectReason, Scope, SourceKey,
    Supplier,
};
use crate::swarm::model_origin::Origin;
use crate::swarm::random::below;
use crate::swarm::{Options, Swarm, Uptime};

pub(crate) const MIB: u64 = 1 << 20;

/// How a node behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Every block it sends is wrong.
    Liar,
    /// It takes requests and never answers.
    Staller,
    /// It rejects every request for this reason.
    Refuser(RejectReason),
}

pub(crate) struct Node {
    pub(crate) swarm: Option<Swarm>,
    id: NodeId,
    peer_id: Vec<u8>,
    pub(crate) manner: Manner,
    settings: Options,
    held: Bitfield,
    named: Vec<usize>,
    uplink: u64,
    pub(crate) downlink: u64,
    up_free: u64,
    pub(crate) down_free: u64,
    sending: bool,
    /// Pieces that the node was told to send: connection, piece, next block.
    serves: VecDeque<(PeerKey, PieceIndex, u32)>,
    /// Connection to its other end, and when the last message on it arrives.
    links: BTreeMap<PeerKey, (usize, PeerKey, u64)>,
    owed: BTreeSet<(PeerKey, PieceIndex)>,
    wake: Option<u64>,
    pub(crate) complete_at: Option<u64>,
    pub(crate) sent: u64,
    pub(crate) banned: Vec<(usize, BanReason)>,
    pub(crate) dead: bool,
    trusted_origins: bool,
}

#[derive(Debug)]
pub(crate) enum Thing {
    Start,
    Dial { other: usize, named: bool },
    Happens(Event),
    Wake,
    UplinkFree,
    OriginFree(usize),
    Arrives { peer: PeerKey, piece: PieceIndex, block: u32, last: bool },
    FromOrigin { origin: usize, fetch: FetchId, piece: PieceIndex, block: u32 },
    Dies { silently: bool },
}

pub(crate) struct World {
    pub(crate) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), (usize, Thing)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) origins: Vec<Origin>,
    pub(crate) layout: Arc<FlatLayout>,
    rng: ChaCha8Rng,
    next_key: u64,
    pub(crate) latency: u64,
    /// Messages are late by up to this much more.
    pub(crate) jitter: u64,
    pub(crate) scope: Scope,
    seed: u64,
    /// All actions, hashed; two runs with one seed must agree.
    pub(crate) trace: blake3::Hasher,
    steps: u64,
}

fn seed_bytes(seed: u64, number: u64) -> [u8; 32] {
    *blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat()).as_bytes()
}

impl World {
    pub(crate) fn new(mib: u64, seed: u64) -> Self {
        Self::with_layout(FlatLayout::new([mib * MIB]).expect("short").expect("few"), seed)
    }

    pub(crate) fn with_layout(layout: FlatLayout, seed: u64) -> Self {
        Self {
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            origins: Vec::new(),
            layout: Arc::new(layout),
            rng: ChaCha8Rng::from_seed(seed_bytes(seed, u64::MAX)),
            next_key: 1,
            latency: 200,
            jitter: 2_000,
            scope: Scope::Host,
            seed,
            trace: blake3::Hasher::new(),
            steps: 0,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.layout.total_bytes()
    }

    pub(crate) fn random(&mut self, bound: u64) -> u64 {
        below(&mut self.rng, bound)
    }

    /// Adds a node with equal links both ways, in bytes per second, that starts at `start` microseconds.
    pub(crate) fn node(&mut self, seeds: bool, rate: u64, start: u64) -> usize {
        let number = self.nodes.len();
        let peer_id = (number as u64).to_le_bytes().to_vec();
        let count = self.layout.piece_count();
        self.nodes.push(Node {
            swarm: None,
            id: NodeId(*blake3::hash(&peer_id).as_bytes()),
            peer_id,
            manner: Manner::Honest,
            settings: Options::default(),
            held: if seeds { Bitfield::all(count) } else { Bitfield::none(count) },
            named: Vec::new(),
            uplink: rate,
            downlink: rate,
            up_free: 0,
            down_free: 0,
            sending: false,
            serves: VecDeque::new(),
            links: BTreeMap::new(),
            owed: BTreeSet::new(),
            wake: None,
            complete_at: None,
            sent: 0,
            banned: Vec::new(),
            dead: false,
            trusted_origins: true,
        });
        self.at(start, number, Thing::Start);
        number
    }

    pub(crate) fn manner(&mut self, node: usize, manner: Manner) {
        self.nodes[node].manner = manner;
    }

    pub(crate) fn options(&mut self, node: usize, change: impl FnOnce(&mut Options)) {
        change(&mut self.nodes[node].settings);
    }

    pub(crate) fn without_origin(&mut self, node: usize) {
        self.nodes[node].trusted_origins = false;
    }

    /// Node `a` is told the address of `b`.
    pub(crate) fn name(&mut self, a: usize, b: usize) {
        self.nodes[a].named.push(b);
    }

    pub(crate) fn name_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in (0..self.nodes.len()).filter(|b| *b != a) {
                self.name(a, b);
            }
        }
    }

    pub(crate) fn dies(&mut self, node: usize, at: u64, silently: bool) {
        self.at(at, node, Thing::Dies { silently });
    }

    pub(crate) fn at(&mut self, time: u64, node: usize, thing: Thing) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), (node, thing));
    }

    /// Runs until nobody honest lacks anything, or the time is over. Returns whether all are complete.
    pub(crate) fn run(&mut self, seconds: u64) -> bool {
        while let Some(((time, _), (node, thing))) = self.queue.pop_first() {
            if time > seconds * 1_000_000 {
                return false;
            }
            self.now = time;
            self.step(node, thing);
            if self.all_complete() {
                return true;
            }
        }
        false
    }

    pub(crate) fn all_complete(&self) -> bool {
        self.nodes.iter().all(|it| it.dead || it.manner != Manner::Honest || it.complete_at.is_some())
    }

    /// Runs on for some time whatever happens.
    pub(crate) fn run_on(&mut self, micros: u64) {
        let end = self.now + micros;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((time, _), (node, thing)) = entry.remove_entry();
            self.now = time;
            self.step(node, thing);
        }
        self.now = end;
    }

    fn step(&mut self, node: usize, thing: Thing) {
        if self.nodes[node].dead {
            if let Thing::OriginFree(origin) = thing {
                self.origin_free(origin);
            }
            return;
        }
        match thing {
            Thing::Start => self.start(node),
            Thing::Dial { other, named } => self.dial(node, other, named),
            Thing::Happens(event) => self.happens(node, event),
            Thing::Wake => {
                if self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.happens(node, Event::Tick);
                }
            }
            Thing::UplinkFree => {
                self.nodes[node].sending = false;
                self.send_block(node);
            }
            Thing::OriginFree(origin) => self.origin_free(origin),
            Thing::Arrives { peer, piece, block, last } => self.arrives(node, peer, piece, block, last),
            Thing::FromOrigin { origin, fetch, piece, block } => {
                self.block_from_origin(node, origin, fetch, piece, block)
            }
            Thing::Dies { silently } => self.die(node, silently),
        }
    }

    fn start(&mut self, number: usize) {
        let (layout, now) = (self.layout.clone(), Uptime::from_micros(self.now));
        let node = &mut self.nodes[number];
        let address = AddressKey([number as u8; 18]);
        let seed = seed_bytes(self.seed, number as u64);
        let made =
            Swarm::new(layout, node.held.clone(), Vec::new(), node.settings.clone(), node.id, address, seed, now);
        node.swarm = Some(made.expect("the bitfield fits"));
        let named = node.named.clone();
        for other in &named {
            self.at(self.now, number, Thing::Dial { other: *other, named: true });
        }
        if self.nodes[number].trusted_origins {
            for origin in 0..self.origins.len() {
                let pieces = std::iter::once(0..self.layout.piece_count()).collect();
                self.happens(number, Event::SourceUp { source: SourceKey(origin as u32), pieces });
            }
        }
        // Named peers have answered or refused by then.
        let settled = 4 * self.latency + 2 * self.jitter + 1_000;
        self.at(self.now + settled, number, Thing::Happens(Event::DiscoverySettled));
        self.happens(number, Event::Tick);
    }

    fn dial(&mut self, a: usize, b: usize, named: bool) {
        let up = self.nodes[b].swarm.is_some() && !self.nodes[b].dead;
        let banned = self.nodes[b].banned.iter().any(|(who, _)| *who == a)
            || self.nodes[a].banned.iter().any(|(who, _)| *who == b);
        if !up || banned {
            if named {
                let again = self.now + 200_000 + self.random(100_000);
                self.at(again, a, Thing::Dial { other: b, named });
            } else {
                let member = self.member(b);
                self.at(self.now + self.latency, a, Thing::Happens(Event::ConnectFailed { member }));
            }
            return;
        }
        if self.nodes[a].links.values().any(|(other, ..)| *other == b) {
            return;
        }
        let (at_a, at_b) = (PeerKey(self.next_key), PeerKey(self.next_key + 1));
        self.next_key += 2;
        let up_at = self.now + 3 * self.latency + self.random(self.jitter + 1);
        self.nodes[a].links.insert(at_a, (b, at_b, up_at));
        self.nodes[b].links.insert(at_b, (a, at_a, up_at));
        for (node, key, other, late) in [(a, at_a, b, self.latency), (b, at_b, a, 0)] {
            let event = Event::PeerUp {
                peer: key,
                id: self.nodes[other].id,
                address: AddressKey([other as u8; 18]),
                member: Some(self.member(other)),
                scope: self.scope,
                round_trip: Duration::from_micros(2 * self.latency),
            };
            self.at(up_at - late, node, Thing::Happens(event));
        }
    }

    fn member(&self, node: usize) -> Member {
        let address = SocketAddr::from(([10, 0, (node >> 8) as u8, node as u8], 7680));
        Member { peer_id: self.nodes[node].peer_id.clone(), address, sequence: 0, record: vec![] }
    }

    fn die(&mut self, node: usize, silently: bool) {
        self.nodes[node].dead = true;
        let links = std::mem::take(&mut self.nodes[node].links);
        for (other, key, _) in links.into_values() {
            // Who dies silently keeps its connections: only timeouts tell.
            if !silently {
                self.hang_up(other, key);
            }
        }
        self.stop_fetches(|other, _| other != node);
    }

    fn hang_up(&mut self, node: usize, key: PeerKey) {
        if self.nodes[node].links.remove(&key).is_some() {
            self.nodes[node].serves.retain(|(peer, ..)| *peer != key);
            self.nodes[node].owed.retain(|(peer, _)| *peer != key);
            self.at(self.now + self.latency, node, Thing::Happens(Event::PeerDown { peer: key }));
        }
    }

    pub(crate) fn happens(&mut self, number: usize, event: Event) {
        let now = Uptime::from_micros(self.now);
        // A node that refuses or stalls does so here, not in its swarm.
        if let (Manner::Refuser(reason), Event::Said { peer, message: Message::Request { piece, .. } }) =
            (self.nodes[number].manner, &event)
        {
            return self.deliver(number, *peer, Message::Reject { piece: *piece, reason });
        }
        let Some(mut swarm) = self.nodes[number].swarm.take() else { return };
        swarm.handle(now, event);
        let mut actions = Vec::new();
        while let Some(action) = swarm.poll_action() {
            actions.push(action);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(61) {
            swarm.check();
        }
        let wake = swarm.next_wake().map(|at| at.micros().max(self.now));
        self.nodes[number].swarm = Some(swarm);
        for action in actions {
            self.trace.update(format!("{number} {} {action:?}", self.now).as_bytes());
            self.act(number, action);
        }
        if let Some(at) = wake
            && self.nodes[number].wake.is_none_or(|before| before > at || before < self.now)
        {
            self.nodes[number].wake = Some(at);
            self.at(at, number, Thing::Wake);
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Send { peer, message } => self.deliver(number, peer, message),
            Action::Serve { peer, piece, first_block } => {
                if self.nodes[number].manner != Manner::Staller {
                    self.nodes[number].serves.push_back((peer, piece, first_block.0));
                    self.send_block(number);
                }
            }
            Action::CancelServe { peer, piece } => {
                let serves = &mut self.nodes[number].serves;
                let before = serves.len();
                serves.retain(|(key, other, _)| (*key, *other) != (peer, piece));
                if serves.len() < before {
                    let event = Event::Served { peer, piece, bytes: 0, complete: false };
                    self.at(self.now, number, Thing::Happens(event));
                }
            }
            Action::Fetch { fetch, source, pieces } => self.fetch(number, fetch, source.0 as usize, pieces),
            Action::CancelFetch { fetch } => {
                self.stop_fetches(|node, other| (node, other) != (number, fetch));
                let event = Event::FetchEnded { fetch, fault: None, retry_after: None };
                self.at(self.now + self.latency, number, Thing::Happens(event));
            }
            Action::Connect { member } => {
                let other = self.nodes.iter().position(|node| node.peer_id == member.peer_id);
                let other = other.expect("members are nodes");
                self.at(self.now + self.latency, number, Thing::Dial { other, named: false });
            }
            Action::Ban { peer, reason, .. } => {
                if let Some((other, ..)) = self.nodes[number].links.get(&peer) {
                    let other = *other;
                    self.nodes[number].banned.push((other, reason));
                }
                self.close(number, peer);
            }
            Action::Disconnect { peer } => self.close(number, peer),
            Action::DropSource { .. } => {}
            Action::Complete => self.nodes[number].complete_at = Some(self.now),
        }
    }

    fn close(&mut self, number: usize, peer: PeerKey) {
        if let Some((other, key, _)) = self.nodes[number].links.get(&peer).copied() {
            self.hang_up(number, peer);
            self.hang_up(other, key);
        }
    }

    fn deliver(&mut self, from: usize, peer: PeerKey, message: Message) {
        match &message {
            Message::Request { piece, .. } => {
                self.nodes[from].owed.insert((peer, *piece));
            }
            Message::Cancel(piece) => {
                self.nodes[from].owed.remove(&(peer, *piece));
            }
            _ => {}
        }
        let late = self.latency + self.random(self.jitter + 1);
        let now = self.now;
        let Some((other, key, last)) = self.nodes[from].links.get_mut(&peer) else { return };
        let at = (now + late).max(*last);
        *last = at;
        let (other, key) = (*other, *key);
        if let Message::Reject { piece, .. } = &message {
            self.nodes[other].owed.remove(&(key, *piece));
        }
        self.at(at, other, Thing::Happens(Event::Said { peer: key, message }));
    }

    /// Puts the next block on a node's uplink.
    fn send_block(&mut self, number: usize) {
        let (now, latency) = (self.now, self.latency);
        if self.nodes[number].sending {
            return;
        }
        let Some((peer, piece, block)) = self.nodes[number].serves.pop_front() else { return };
        let bytes = self.layout.block_length(piece, BlockIndex(block)).expect("asked within the layout");
        let last = self.layout.block_count(piece) == Some(block + 1);
        let node = &mut self.nodes[number];
        let done = now.max(node.up_free) + bytes * 1_000_000 / node.uplink;
        (node.up_free, node.sending) = (done, true);
        node.sent += bytes;
        let link = node.links.get(&peer).copied();
        if !last {
            node.serves.push_front((peer, piece, block + 1));
        }
        self.at(done, number, Thing::UplinkFree);
        if last {
            let event =
                Event::Served { peer, piece, bytes: self.layout.piece_length(piece).unwrap_or(0), complete: true };
            self.at(done, number, Thing::Happens(event));
        }
        if let Some((other, key, _)) = link {
            let receiver = &mut self.nodes[other];
            receiver.down_free = receiver.down_free.max(now) + bytes * 1_000_000 / receiver.downlink;
            let whole = receiver.down_free.max(done + latency);
            self.at(whole, other, Thing::Arrives { peer: key, piece, block, last });
        }
    }

    fn arrives(&mut self, number: usize, peer: PeerKey, piece: PieceIndex, block: u32, last: bool) {
        let bytes = self.layout.block_length(piece, BlockIndex(block)).unwrap_or(0);
        let Some((sender, ..)) = self.nodes[number].links.get(&peer).copied() else { return };
        if !self.nodes[number].owed.contains(&(peer, piece)) {
            return self.happens(number, Event::Unasked { peer, bytes });
        }
        let (supplier, block) = (Supplier::Peer(peer), BlockIndex(block));
        let lies = self.nodes[sender].manner == Manner::Liar;
        if last || lies {
            self.nodes[number].owed.remove(&(peer, piece));
        }
        let event = if lies {
            Event::BlockBad { supplier, piece, block }
        } else {
            Event::BlockStored { supplier, piece, block }
        };
        let checked = self.now + 300 + self.random(300);
        self.at(checked, number, Thing::Happens(event));
    }

    pub(crate) fn swarm(&self, node: usize) -> &Swarm {
        self.nodes[node].swarm.as_ref().expect("it has started")
    }

    pub(crate) fn last_complete(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.complete_at).max().unwrap_or(u64::MAX)
    }
}
