//! [`Plain`]: a plain engine to compare with, as BitTorrent clients work: rarest first or random, four reciprocal slots
//! and one optimistic (Cohen 2003), no division of the origin's work: the origin is a web seed (BEP 19) that each node
//! asks for a piece of its own choice whenever no peer offers one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use piecework::swarm::event::{Action, Event, FetchId, Message, PeerKey, RejectReason, SourceKey, Supplier};

use crate::random::Random;

/// Requests outstanding at one peer.
const PIPELINE: usize = 4;
/// Reciprocal slots.
const SLOTS: usize = 4;
/// Slots are dealt anew this often, in microseconds.
const ROUND: u64 = 10_000_000;
/// The optimistic slot moves every so many rounds.
const OPTIMISTIC_ROUNDS: u64 = 3;
/// A request without an answer for this long is asked of others.
const TIMEOUT: u64 = 60_000_000;
/// A pause after a fault of the web seed.
const SOURCE_PAUSE: u64 = 2_000_000;

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    bits: Bitfield,
    they_choke: bool,
    we_choke: bool,
    they_are_interested: bool,
    we_are_interested: bool,
    asks: BTreeMap<PieceIndex, u64>,
    bad: u32,
    received: u64,
    sent: u64,
}

/// How a plain engine chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Rarest first; else any piece.
    pub rarest: bool,
    /// Slots go to who gives; else to anybody.
    pub reciprocal: bool,
}

/// A plain engine.
#[derive(Debug)]
pub struct Plain {
    layout: Arc<FlatLayout>,
    choice: Choice,
    random: Random,
    now: u64,
    actions: VecDeque<Action>,
    held: Bitfield,
    blocks: BTreeMap<PieceIndex, u32>,
    requested: Bitfield,
    holders: Vec<u16>,
    peers: BTreeMap<PeerKey, Peer>,
    sources: Vec<SourceKey>,
    fetch: Option<(FetchId, PieceIndex)>,
    next_fetch: u64,
    source_rests_until: u64,
    next_round: u64,
    rounds: u64,
    optimistic: Option<PeerKey>,
    complete_said: bool,
    settled: bool,
}

impl Plain {
    /// An engine that holds `held`.
    pub fn new(layout: Arc<FlatLayout>, held: Bitfield, choice: Choice, random: Random, now: u64) -> Self {
        let count = layout.piece_count();
        Self {
            layout,
            choice,
            random,
            now,
            actions: VecDeque::new(),
            held,
            blocks: BTreeMap::new(),
            requested: Bitfield::none(count),
            holders: vec![0; count as usize],
            peers: BTreeMap::new(),
            sources: Vec::new(),
            fetch: None,
            next_fetch: 0,
            source_rests_until: 0,
            next_round: now + ROUND,
            rounds: 0,
            optimistic: None,
            complete_said: false,
            settled: false,
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: u64, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::PeerUp { peer, .. } => self.peer_up(peer),
            Event::PeerDown { peer } => self.peer_down(peer),
            Event::Said { peer, message } => self.said(peer, message),
            Event::BlockStored { supplier, piece, block } => self.stored(supplier, piece, block),
            Event::BlockBad { supplier, piece, .. } => self.bad(supplier, piece),
            Event::Served { peer, bytes, .. } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.sent += bytes;
                }
            }
            Event::LocalLost { piece } => {
                self.held.clear(piece);
                self.tell_all(&Message::Lost(piece));
            }
            Event::SourceUp { source, .. } => self.sources.push(source),
            Event::SourceWithoutRanges { .. } => {}
            Event::FetchEnded { fetch, fault, retry_after } => self.fetch_ended(fetch, fault.is_some(), retry_after),
            Event::DiscoverySettled => self.settled = true,
            _ => {}
        }
        if self.now >= self.next_round {
            self.round();
        }
        self.pump();
        if self.held.is_complete() && !self.complete_said {
            self.complete_said = true;
            self.actions.push_back(Action::Complete);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When it wants to be woken.
    pub fn next_wake(&self) -> Option<u64> {
        let rests = (self.source_rests_until > self.now).then_some(self.source_rests_until);
        rests.into_iter().chain([self.next_round]).min()
    }

    /// Pieces held.
    pub fn held(&self) -> &Bitfield {
        &self.held
    }

    fn send(&mut self, peer: PeerKey, message: Message) {
        self.actions.push_back(Action::Send { peer, message });
    }

    fn tell_all(&mut self, message: &Message) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send(peer, message.clone());
        }
    }

    fn peer_up(&mut self, key: PeerKey) {
        let free = self.peers.values().filter(|peer| !peer.we_choke).count() <= SLOTS;
        let peer = Peer {
            bits: Bitfield::none(self.layout.piece_count()),
            they_choke: true,
            we_choke: !free,
            they_are_interested: false,
            we_are_interested: false,
            asks: BTreeMap::new(),
            bad: 0,
            received: 0,
            sent: 0,
        };
        self.peers.insert(key, peer);
        self.send(key, Message::Bitfield(self.held.clone()));
        self.send(key, Message::Choke(!free));
    }

    fn peer_down(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        for piece in peer.bits.iter_held() {
            self.count(piece, false);
        }
        for piece in peer.asks.into_keys() {
            self.requested.clear(piece);
        }
    }

    fn count(&mut self, piece: PieceIndex, more: bool) {
        if let Some(count) = self.holders.get_mut(piece.0 as usize) {
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
    }

    fn said(&mut self, key: PeerKey, message: Message) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match message {
            Message::Bitfield(bits) => {
                peer.bits = bits.clone();
                bits.iter_held().for_each(|piece| self.count(piece, true));
                self.show_interest(key);
            }
            Message::Have(pieces) => {
                for piece in pieces {
                    if self.peers.get_mut(&key).is_some_and(|peer| peer.bits.set(piece)) {
                        self.count(piece, true);
                    }
                }
                self.show_interest(key);
            }
            Message::Lost(piece) => {
                if peer.bits.clear(piece) {
                    self.count(piece, false);
                }
            }
            Message::Interested(interested) => peer.they_are_interested = interested,
            Message::Choke(choke) => {
                peer.they_choke = choke;
                if choke {
                    let asks = std::mem::take(&mut peer.asks);
                    asks.into_keys().for_each(|piece| _ = self.requested.clear(piece));
                }
            }
            Message::Request { piece, first_block } => {
                if !self.held.has(piece) || peer.we_choke {
                    let reason = if peer.we_choke { RejectReason::Choked } else { RejectReason::NotHeld };
                    return self.send(key, Message::Reject { piece, reason });
                }
                self.actions.push_back(Action::Serve { peer: key, piece, first_block });
            }
            Message::Cancel(piece) => self.actions.push_back(Action::CancelServe { peer: key, piece }),
            Message::Reject { piece, reason } => {
                if peer.asks.remove(&piece).is_some() {
                    self.requested.clear(piece);
                }
                if reason == RejectReason::NotHeld && self.peers.get_mut(&key).is_some_and(|it| it.bits.clear(piece)) {
                    self.count(piece, false);
                }
            }
            Message::Intent { .. } | Message::Members(_) | Message::Condition { .. } => {}
        }
    }

    fn show_interest(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let interested = self.held.lacks_any_of(&peer.bits);
        if interested != peer.we_are_interested {
            peer.we_are_interested = interested;
            self.send(key, Message::Interested(interested));
        }
    }

    fn stored(&mut self, supplier: Supplier, piece: PieceIndex, block: BlockIndex) {
        let count = self.layout.block_count(piece).unwrap_or(1);
        let bits = self.blocks.entry(piece).or_default();
        *bits |= 1 << block.0.min(31);
        let whole = bits.count_ones() >= count;
        if let Supplier::Peer(key) = supplier
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.received += self.layout.block_length(piece, block).unwrap_or(0);
            if block.0 + 1 == count {
                peer.asks.remove(&piece);
            }
        }
        if whole {
            self.blocks.remove(&piece);
            if self.held.set(piece) {
                self.tell_all(&Message::Have(vec![piece]));
                for key in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.show_interest(key);
                }
            }
        }
    }

    fn bad(&mut self, supplier: Supplier, piece: PieceIndex) {
        self.requested.clear(piece);
        let Supplier::Peer(key) = supplier else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.asks.remove(&piece);
        peer.bad += 1;
        if peer.bad >= 2 {
            self.peer_down(key);
            let (reason, lasts) = (piecework::swarm::event::BanReason::BadBytes, Duration::from_secs(3600));
            self.actions.push_back(Action::Ban { peer: key, reason, lasts });
        }
    }

    fn fetch_ended(&mut self, fetch: FetchId, failed: bool, retry_after: Option<Duration>) {
        if let Some((_, piece)) = self.fetch.take_if(|(id, _)| *id == fetch) {
            self.requested.clear(piece);
        }
        if failed {
            let pause = retry_after.map_or(SOURCE_PAUSE, |pause| pause.as_micros() as u64);
            self.source_rests_until = self.now + pause;
        }
    }

    /// Deals slots anew: to the best givers (or to anybody), and one to somebody at random.
    fn round(&mut self) {
        self.next_round = self.now + ROUND;
        self.rounds += 1;
        let mut order: Vec<PeerKey> =
            self.peers.iter().filter(|(_, peer)| peer.they_are_interested).map(|(key, _)| *key).collect();
        self.random.shuffle(&mut order);
        if self.choice.reciprocal {
            let seeding = self.held.is_complete();
            order.sort_by_key(|key| {
                let peer = self.peers.get(key);
                std::cmp::Reverse(peer.map_or(0, |peer| if seeding { 0 } else { peer.received }))
            });
        }
        if self.rounds % OPTIMISTIC_ROUNDS == 1 || self.optimistic.is_none_or(|key| !order.contains(&key)) {
            let rest = order.get(SLOTS..).unwrap_or_default();
            self.optimistic = rest.get(self.random.below(rest.len() as u64) as usize).copied();
        }
        let chosen: Vec<PeerKey> = order.iter().take(SLOTS).copied().chain(self.optimistic).collect();
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            // With few peers everybody has a slot.
            let choke = !chosen.contains(&key) && self.peers.len() > SLOTS;
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            peer.received /= 2;
            if peer.we_choke != choke {
                peer.we_choke = choke;
                self.send(key, Message::Choke(choke));
            }
        }
        let late = self.now.saturating_sub(TIMEOUT);
        for peer in self.peers.values_mut() {
            let gone: Vec<_> = peer.asks.iter().filter(|(_, since)| **since < late).map(|(piece, _)| *piece).collect();
            for piece in gone {
                peer.asks.remove(&piece);
                self.requested.clear(piece);
            }
        }
    }

    fn wants(&self, piece: PieceIndex) -> bool {
        !self.held.has(piece) && !self.requested.has(piece)
    }

    fn pump(&mut self) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            while let Some(peer) = self.peers.get(&key) {
                if peer.they_choke || !peer.we_are_interested || peer.asks.len() >= PIPELINE {
                    break;
                }
                let Some(piece) = self.pick(Some(key)) else { break };
                self.requested.set(piece);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.asks.insert(piece, self.now);
                }
                self.send(key, Message::Request { piece, first_block: BlockIndex(0) });
            }
        }
        let may_fetch = self.settled && self.fetch.is_none() && self.now >= self.source_rests_until;
        let outstanding = self.peers.values().any(|peer| !peer.asks.is_empty());
        if may_fetch && !outstanding && !self.held.is_complete() && !self.sources.is_empty() {
            let Some(piece) = self.pick(None) else { return };
            let source = self.sources[self.random.below(self.sources.len() as u64) as usize];
            self.requested.set(piece);
            let id = FetchId(self.next_fetch);
            self.next_fetch += 1;
            self.fetch = Some((id, piece));
            self.actions.push_back(Action::Fetch { fetch: id, source, pieces: piece.0..piece.0 + 1 });
        }
    }

    /// A wanted piece that a peer holds, or any; the rarest of those, or any.
    fn pick(&mut self, of: Option<PeerKey>) -> Option<PieceIndex> {
        let theirs = of.and_then(|key| self.peers.get(&key)).map(|peer| &peer.bits);
        let fits: Vec<PieceIndex> =
            self.held.iter_missing().filter(|it| self.wants(*it) && theirs.is_none_or(|bits| bits.has(*it))).collect();
        let rarity = |piece: &PieceIndex| self.holders.get(piece.0 as usize).copied().unwrap_or(0);
        let least = if self.choice.rarest { fits.iter().map(rarity).min()? } else { u16::MAX };
        let fits: Vec<_> = fits.into_iter().filter(|piece| least == u16::MAX || rarity(piece) == least).collect();
        fits.get(self.random.below(fits.len() as u64) as usize).copied()
    }
}
