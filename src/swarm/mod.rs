//! The engine: events in, actions out. Pure: no socket, no disk, no clock, no entropy; payload never enters.
//!
//! The calling contract: [`Swarm::handle`] one event, [`Swarm::poll_action`] until `None`, then wait until
//! [`Swarm::next_wake`] (and hand in [`event::Event::Tick`]) or the next event. Same seed and same events give the
//! same actions. Read `event` first, then `sessions` (what peers say), `download`, `upload` and `origin`.
//!
//! What the caller keeps besides: a piece frame of a peer is owed from the `Request` sent to it until its last block,
//! a `Cancel` sent, a `Reject` received or the end of the session; anything else is [`event::Event::Unasked`]. All
//! blocks of a range are reported before its [`event::Event::FetchEnded`].

mod candidate;
#[cfg(any(test, debug_assertions))]
mod check;
mod choker;
mod cost;
mod doubt;
#[cfg(test)]
mod doubt_tests;
mod download;
mod duty;
pub mod error;
pub mod event;
mod fallback;
mod hedge;
#[cfg(test)]
mod hostile_tests;
mod isolation;
mod limits;
mod members;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_origin;
#[cfg(test)]
mod model_tests;
mod options;
mod origin;
mod outside;
mod owner;
pub mod pace;
mod passing;
mod peer;
mod peers;
mod picker;
mod pieces;
mod random;
mod ranges;
mod rate;
mod requests;
mod score;
mod sessions;
mod sorted;
mod sources;
mod standing;
mod stats;
mod super_seeding;
mod timer;
mod turns;
mod upload;
mod view;
mod wake;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use crate::swarm::candidate::{Candidate, rank_key, token_key};
use crate::swarm::cost::PeerRates;
use crate::swarm::doubt::Vouching;
use crate::swarm::duty::Duty;
pub use crate::swarm::error::Error;
use crate::swarm::event::{Action, AddressKey, Condition, Event, FetchId, Message, NodeId, PeerKey, SourceKey};
use crate::swarm::fallback::Fallback;
use crate::swarm::isolation::Isolation;
use crate::swarm::limits::{FAULTS_MAX, HOUSEKEEPING, HOUSEKEEPING_CALM, SETTLE_MAX, SETTLE_PART};
use crate::swarm::members::Members;
pub use crate::swarm::options::Options;
use crate::swarm::origin::Lease;
use crate::swarm::outside::Outside;
use crate::swarm::passing::Passing;
use crate::swarm::peers::{Peers, Role};
use crate::swarm::pieces::Pieces;
use crate::swarm::rate::{BusyRate, RecentRate};
use crate::swarm::requests::Ledger;
use crate::swarm::score::Records;
use crate::swarm::sources::{Fetch, Source};
pub use crate::swarm::stats::Stats;
use crate::swarm::super_seeding::SuperSeeding;
pub use crate::swarm::timer::Uptime;
use crate::swarm::timer::{Timer, TimerTable};
pub use crate::swarm::view::{Fault, PeerView, SourceView};

/// One manifest's delivery as one node sees it.
#[derive(Debug)]
pub struct Swarm {
    options: Options,
    me: Candidate,
    rng: ChaCha8Rng,
    now: Uptime,
    started: Uptime,
    timers: TimerTable,
    actions: VecDeque<Action>,
    stats: Stats,
    faults: VecDeque<Fault>,

    pieces: Pieces,
    /// The next piece of who reads in order.
    reader: Option<PieceIndex>,
    ledger: Ledger,
    peers: Peers,
    records: Records,
    members: Members,
    /// Peers that may have room for a request.
    ready: BTreeSet<PeerKey>,
    /// A request is over, or who was declined holds more: who owes nothing may be asked.
    room_made: bool,
    /// Held pieces that the peers have not been told yet.
    haves: Vec<PieceIndex>,
    hedges: u64,
    /// Payload from peers.
    peer_rates: PeerRates,
    /// New bytes, whoever sent them.
    arrivals: RecentRate,
    /// How long peers take to answer a request, smoothed.
    response: Duration,
    /// When the last new block came, whoever sent it.
    received_at: Uptime,
    /// Since when nobody could supply anything.
    unsupplied_since: Option<Uptime>,
    complete_said: bool,

    /// Payload to peers, while any is under way.
    upload_rate: BusyRate,
    upload_ready: bool,
    /// Something outside keeps this node from sending anything.
    uploads_held: bool,
    /// One piece is sent at a time: see `limits::SHARED_AIR_PIECES`.
    shared_air: bool,
    /// The machine is about to sleep: nothing is begun.
    asleep: bool,
    /// The same for peers on the Internet.
    far_uploads_held: bool,
    /// Whose turn it was last.
    upload_turn: PeerKey,
    choke_rounds: u64,
    optimistic: Option<PeerKey>,
    seeding: SuperSeeding,
    passing: Passing,

    sources: BTreeMap<SourceKey, Source>,
    fetches: BTreeMap<FetchId, Fetch>,
    next_fetch: u64,
    origin_ready: bool,
    duty: Duty,
    /// Where among its own runs this node is.
    duty_cursor: usize,
    fallback: Fallback,
    isolation: Isolation,
    vouching: Vouching,
    lease: Lease,
    outside: Outside,
    /// Among its own runs, where this node begins with peers outside.
    outside_start: u64,
    settled: bool,
    /// Pieces that may still be fetched before discovery has settled.
    settle_left: u32,
    /// When a peer came or went last.
    members_changed_at: Option<Uptime>,
    /// Since when fetching waits for members to become quiet.
    hold_since: Option<Uptime>,
}

impl Swarm {
    /// A swarm over `layout` of which `held` is here already, with the stored blocks of started pieces in `partial`.
    /// `me` and `my_address` are this node as its peers see it; all randomness comes from `seed`.
    ///
    /// # Errors
    /// [`Error::BitfieldLength`] where `held` is of another layout.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        layout: Arc<FlatLayout>,
        held: Bitfield,
        partial: Vec<(PieceIndex, Vec<BlockIndex>)>,
        options: Options,
        me: NodeId,
        my_address: AddressKey,
        seed: [u8; 32],
        now: Uptime,
    ) -> Result<Self, Error> {
        let piece_count = layout.piece_count();
        if held.piece_count() != piece_count {
            return Err(Error::BitfieldLength { expected: piece_count, found: held.piece_count() });
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        let duty = Duty::new(&layout, options.gateways());
        let unwanted = |piece: PieceIndex| options.unwanted.iter().any(|range| range.contains(&piece.0));
        let mut pieces = Pieces::new(layout, &held, unwanted);
        pieces.resume(partial);
        let key = rank_key(&options.topic, &me);
        let token = token_key(&me);
        let condition = Condition { background: options.background, ..Condition::default() };
        let mut swarm = Self {
            me: Candidate { peer: None, id: me, address: my_address, key, token, condition },
            seeding: SuperSeeding::new(piece_count, &mut rng),
            passing: Passing::default(),
            outside: Outside::default(),
            // From the identity, so that the stream of chance is as it would be without other sites.
            outside_start: u64::from(u32::from_le_bytes([me.0[0], me.0[1], me.0[2], me.0[3]])),
            settled: options.no_peers,
            settle_left: (piece_count / SETTLE_PART).max(1),
            isolation: Isolation::new(options.isolated_before),
            vouching: Vouching::default(),
            options,
            rng,
            now,
            started: now,
            timers: TimerTable::default(),
            actions: VecDeque::new(),
            stats: Stats::default(),
            faults: VecDeque::new(),
            pieces,
            reader: None,
            ledger: Ledger::default(),
            peers: Peers::default(),
            records: Records::default(),
            members: Members::default(),
            ready: BTreeSet::new(),
            room_made: false,
            haves: Vec::new(),
            hedges: 0,
            peer_rates: PeerRates::default(),
            arrivals: RecentRate::default(),
            response: Duration::ZERO,
            received_at: now,
            unsupplied_since: Some(now),
            complete_said: false,
            upload_rate: BusyRate::default(),
            upload_ready: false,
            uploads_held: false,
            shared_air: false,
            asleep: false,
            far_uploads_held: false,
            upload_turn: PeerKey(0),
            choke_rounds: 0,
            optimistic: None,
            sources: BTreeMap::new(),
            fetches: BTreeMap::new(),
            next_fetch: 0,
            origin_ready: false,
            duty,
            duty_cursor: 0,
            fallback: Fallback::default(),
            lease: Lease::default(),
            members_changed_at: None,
            hold_since: None,
        };
        swarm.timers.set(Timer::Settle, now.after(SETTLE_MAX));
        swarm.check_complete();
        if !swarm.is_complete() {
            swarm.timers.set(Timer::Housekeeping, now.after(HOUSEKEEPING));
        }
        Ok(swarm)
    }

    /// Takes in one event. Drain all actions before the next. An earlier `now` than the last counts as the last.
    pub fn handle(&mut self, now: Uptime, event: Event) {
        self.now = self.now.max(now);
        self.ring();
        self.take_in(event);
        self.drive();
    }

    /// The next thing to do; `None`: nothing until the next event or wake.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to hand in [`Event::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Uptime> {
        self.timers.next()
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, id, address, member, scope, round_trip } => {
                self.peer_up(peer, id, address, member, scope, round_trip);
            }
            Event::PeerDown { peer } => self.remove_peer(peer),
            Event::Said { peer, message } => self.said(peer, message),
            Event::BlockStored { supplier, piece, block } => self.block_stored(supplier, piece, block),
            Event::BlockBad { supplier, piece, block } => self.block_bad(supplier, piece, block),
            Event::Receiving { supplier, bytes } => self.receiving(supplier, bytes),
            Event::Unasked { peer, bytes } => self.unasked(peer, bytes),
            Event::Served { peer, piece, bytes, complete } => self.served(peer, piece, bytes, complete),
            Event::LocalLost { piece } => self.local_lost(piece),
            Event::SourceUp { source, pieces } => self.source_up(source, pieces),
            Event::SourceDown { source } => self.source_down(source),
            Event::SourceWithoutRanges { source, fetch, pieces } => self.source_without_ranges(source, fetch, pieces),
            Event::FetchEnded { fetch, fault, retry_after } => self.fetch_ended(fetch, fault, retry_after),
            Event::UploadsAllowed(allowed) => self.allow_uploads(allowed),
            Event::FarUploadsAllowed(allowed) => self.allow_far_uploads(allowed),
            Event::DutiesAllowed(allowed) => self.allow_duties(allowed),
            Event::Stable(stable) => self.is_stable(stable),
            Event::SharedAir(shared) => self.shared_air = shared,
            Event::Background(background) => self.is_background(background),
            Event::DiscoverySettled => self.settle(),
            Event::ConnectFailed { member } => self.members.failed(&member, self.now),
            Event::Neighbours { seen, connected } => self.neighbours(seen, connected),
            Event::LineShared { by } => self.line_shared(by),
            Event::Sleeping => self.fall_asleep(),
            Event::Woke => self.woke(),
            Event::Tick => {}
            Event::ReaderAt { piece } => self.reader_at(piece),
        }
    }

    /// Alarms that are due. Each is one bounded piece of work.
    fn ring(&mut self) {
        let now = self.now;
        if self.timers.take_due(Timer::Settle, now) {
            self.settle();
        }
        if self.timers.take_due(Timer::Haves, now) {
            self.flush_haves();
        }
        if self.timers.take_due(Timer::ChokeRound, now) {
            self.choke_round();
        }
        if self.timers.take_due(Timer::Members, now) {
            self.tell_members(None);
            self.dial_members();
        }
        if self.timers.take_due(Timer::Housekeeping, now) {
            self.housekeep();
        }
    }

    fn housekeep(&mut self) {
        if self.is_complete() {
            return;
        }
        self.check_timeouts();
        self.look_at_doubts();
        self.check_fetches();
        self.look_at_duty();
        self.look_at_fallback();
        self.look_at_price();
        self.look_at_isolation();
        self.look_at_supply();
        self.judge_outside();
        (self.room_made, self.origin_ready) = (true, true);
        let wait = if self.is_pressed() { HOUSEKEEPING } else { HOUSEKEEPING_CALM };
        self.timers.set_if_unset(Timer::Housekeeping, self.now.after(wait));
    }

    /// Whether something may become due that no event tells: a source to be asked, a pause or a refusal that ends, a
    /// piece that comes too late.
    fn is_pressed(&mut self) -> bool {
        let by_source = (!self.sources.is_empty() || self.outside.is_guarded())
            && (!self.fetches.is_empty()
                || self.pieces.picker.unheld_count() > 0
                || self.fallback.is_on()
                || self.outside.is_guarded());
        by_source || self.pieces.available_wanted_count() == 0 || self.peers.count(Role::Idle) > 0
    }

    /// Uses whatever room the event has made.
    fn drive(&mut self) {
        if std::mem::take(&mut self.room_made) {
            self.ready.extend(self.peers.cast(Role::Idle));
            self.accept_again();
        }
        while let Some(peer) = self.ready.pop_first() {
            self.pump_peer(peer);
        }
        if std::mem::take(&mut self.origin_ready) && !self.asleep {
            self.look_at_price();
            self.pump_origin();
        }
        if self.outside.untold {
            self.tell_outside();
        }
        if std::mem::take(&mut self.upload_ready) {
            self.pump_uploads();
        }
        self.peers.settle();
    }

    fn settle(&mut self) {
        self.settled = true;
        self.origin_ready = true;
        self.timers.clear(Timer::Settle);
    }

    fn send(&mut self, peer: PeerKey, message: Message) {
        self.actions.push_back(Action::Send { peer, message });
    }

    fn note(&mut self, fault: Fault) {
        if self.faults.len() >= FAULTS_MAX {
            self.faults.pop_front();
        }
        self.faults.push_back(fault);
    }

    fn check_complete(&mut self) {
        if self.is_complete() && !self.complete_said {
            self.complete_said = true;
            self.actions.push_back(Action::Complete);
        }
    }

    fn look_at_supply(&mut self) {
        let by_peer = self.peers.count(Role::Useful) > 0;
        let by_source = self
            .sources
            .values()
            .any(|source| !source.dropped && source.pieces.iter().any(|range| self.pieces.any_missing(range.clone())));
        if by_peer || by_source {
            self.unsupplied_since = None;
        } else {
            self.unsupplied_since.get_or_insert(self.now);
        }
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The pieces held.
    pub fn held(&self) -> &Bitfield {
        self.pieces.held()
    }

    /// Bytes held, blocks of started pieces included.
    pub fn bytes_held(&self) -> u64 {
        self.pieces.bytes_held()
    }

    /// Bytes of the whole layout.
    pub fn bytes_total(&self) -> u64 {
        self.pieces.layout().total_bytes()
    }

    /// Whether every wanted piece is held.
    pub fn is_complete(&self) -> bool {
        self.pieces.missing_count() == 0
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.values().map(|peer| PeerView {
            peer: peer.key,
            id: peer.id,
            scope: peer.scope,
            held_count: peer.held_count(),
            bytes_in: peer.bytes_in,
            bytes_out: peer.bytes_out,
            rate_in: peer.recent_in.rate(self.now, peer.up_since),
            rate_out: peer.recent_out.rate(self.now, peer.up_since),
            they_choke: peer.they_choke,
            we_choke: peer.we_choke,
            they_are_interested: peer.they_are_interested,
            we_are_interested: peer.we_are_interested,
            outstanding: u32::try_from(peer.asks.len()).unwrap_or(u32::MAX),
            snubbed: peer.is_snubbed(),
            on_parole: self.records.on_parole(peer.id),
        })
    }

    /// The sources, dropped ones included.
    pub fn sources(&self) -> impl Iterator<Item = SourceView> + '_ {
        self.sources.values().map(|source| SourceView {
            source: source.key,
            bytes: source.bytes,
            rate: source.recent.rate(self.now, self.started),
            fetches: source.active,
            last_fault: source.last_fault,
            resting_until: (source.resting_until > self.now).then_some(source.resting_until),
            dropped: source.dropped,
        })
    }

    /// Since when no new byte has arrived (the start, if none ever did); `None` once complete.
    pub fn stalled_since(&self) -> Option<Uptime> {
        (!self.is_complete()).then_some(self.received_at)
    }

    /// Since when neither a connected peer holds a missing piece nor a source may be asked for one; `None` while one
    /// does, and once complete. A source that rests after a fault still counts as one.
    pub fn without_supplier_since(&self) -> Option<Uptime> {
        self.unsupplied_since.filter(|_| !self.is_complete())
    }

    /// The last faults of peers and sources, oldest first; at most 16.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> + '_ {
        self.faults.iter()
    }
}
