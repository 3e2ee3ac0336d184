//! Sessions between two machines about one content: how they begin and end, and what is said on them.

use std::collections::VecDeque;
use std::time::Duration;

use piecework::content::layout::PieceIndex;
use piecework::swarm::event::{Event, Member, Message, PeerKey, RejectReason, Scope};

use crate::network::Path;
use crate::scenario::{Manner, Policy};
use crate::world::{EndId, NEVER, State, Thing, World};

/// Bytes of one control frame beside its content: frame header, TLS record, TCP and IP headers.
const FRAME_BYTES: u64 = 100;
/// How long a dial to a machine that is gone takes to fail.
const DIAL_TIMEOUT: u64 = 5_000_000;
/// How long a connection whose other end vanished is thought to stand.
pub(crate) const VANISHED: u64 = 60_000_000;

/// A request that was sent and not answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) piece: u32,
    /// When it was taken back.
    pub(crate) cancelled_at: u64,
}

/// A piece frame on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) piece: u32,
    /// When its first byte arrives.
    pub(crate) begins: u64,
    /// It was asked for, as was seen when it began; nothing before that.
    pub(crate) accepted: Option<bool>,
    pub(crate) bytes: u64,
}

/// A piece to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serve {
    pub(crate) piece: u32,
    pub(crate) next: u8,
    pub(crate) count: u8,
    pub(crate) begun: bool,
    pub(crate) cancelled: bool,
    pub(crate) bytes: u64,
}

/// One side of a session.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) share: u32,
    /// Its share's start to which it belongs.
    pub(crate) life: u32,
    pub(crate) open: bool,
    /// When the last message towards it arrives; later ones come after it.
    pub(crate) last_at: u64,
    /// When the last payload towards it arrives, as far as it has been given to the network.
    pub(crate) payload_at: u64,
    /// What it asked for.
    pub(crate) owed: Vec<Owed>,
    /// Piece frames on their way to it.
    pub(crate) frames: VecDeque<Frame>,
    /// What it is to send.
    pub(crate) serves: VecDeque<Serve>,
    /// Blocks it has sent that are not there yet.
    pub(crate) in_flight: u16,
    /// It waits for its turn on its machine's line.
    pub(crate) turned: bool,
    /// A flow of it is under way, where flows share links.
    pub(crate) flowing: bool,
    /// When the last block of a flow from it arrives; 0 before the first.
    pub(crate) flowed_at: u64,
    /// Haves that wait to be sent together.
    pub(crate) haves: Vec<PieceIndex>,
    /// Messages that wait for the end of the piece that is being written to the same stream.
    pub(crate) behind: VecDeque<Message>,
    /// Of a trickling liar: when its next block may be through.
    pub(crate) trickle_at: u64,
}

impl End {
    fn new(share: u32, life: u32) -> Self {
        Self {
            share,
            life,
            open: true,
            last_at: 0,
            payload_at: 0,
            owed: Vec::new(),
            frames: VecDeque::new(),
            serves: VecDeque::new(),
            in_flight: 0,
            turned: false,
            flowing: false,
            flowed_at: 0,
            haves: Vec::new(),
            behind: VecDeque::new(),
            trickle_at: 0,
        }
    }
}

/// A session between two shares of one content.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) ends: [End; 2],
    /// One way.
    pub(crate) latency: u64,
    /// Blocks on their way at most, each way: what TCP would have under way.
    pub(crate) window: u16,
}

/// The number by which an engine knows the other end.
pub(crate) fn key_of(end: EndId) -> PeerKey {
    PeerKey(u64::from(end))
}

impl World {
    pub(crate) fn end(&self, id: EndId) -> &End {
        &self.sessions[(id >> 1) as usize].ends[(id & 1) as usize]
    }

    pub(crate) fn end_mut(&mut self, id: EndId) -> &mut End {
        &mut self.sessions[(id >> 1) as usize].ends[(id & 1) as usize]
    }

    /// The end that a share's engine means, if it is its own and open.
    fn own_end(&self, share: u32, peer: PeerKey) -> Option<EndId> {
        let id = u32::try_from(peer.0).ok().filter(|id| ((id >> 1) as usize) < self.sessions.len())?;
        let end = self.end(id);
        (end.share == share && end.open && end.life == self.shares[share as usize].life).then_some(id)
    }

    pub(crate) fn latency_between(&self, a: u32, b: u32) -> u64 {
        let (a, b) = (&self.machines[a as usize], &self.machines[b as usize]);
        let mut latency = a.latency + b.latency;
        if a.site != b.site {
            latency += self.sites[a.site as usize].latency + self.sites[b.site as usize].latency;
        }
        latency.max(10)
    }

    pub(crate) fn path(&self, from: u32, to: u32) -> Path {
        let (a, b) = (&self.machines[from as usize], &self.machines[to as usize]);
        let latency = self.latency_between(from, to);
        if a.site == b.site {
            return Path::new(&[a.up, b.down], latency);
        }
        let (out, into) = (&self.sites[a.site as usize], &self.sites[b.site as usize]);
        Path::new(&[a.up, out.up, into.down, b.down], latency)
    }

    /// The engine wants a member dialled.
    pub(crate) fn connect(&mut self, share: u32, member: &Member) {
        let known = <[u8; 8]>::try_from(member.peer_id.as_slice()).map(u64::from_le_bytes);
        let machine = known.ok().and_then(|number| u32::try_from(number).ok());
        let content = self.shares[share as usize].content;
        let other = machine.and_then(|machine| self.share_of.get(&(machine, content)).copied());
        self.fold(44, u64::from(share), machine.map_or(0, u64::from));
        match other {
            Some(other) => self.dial(share, other, true),
            None => self.dial_failed(share, member.clone(), self.now + 1000),
        }
    }

    fn dial_failed(&mut self, share: u32, member: Member, at: u64) {
        let life = self.shares[share as usize].life;
        self.at(at, Thing::Tell { share, life, event: Box::new(Event::ConnectFailed { member }) });
    }

    /// Begins a dial: TCP, TLS, Hello and Open, three round trips. `wanted`: the engine hears if it fails.
    pub(crate) fn dial(&mut self, from: u32, to: u32, wanted: bool) {
        let (a, b) = (self.shares[from as usize].machine, self.shares[to as usize].machine);
        let takes = 6 * self.latency_between(a, b) + self.random.below(1_000);
        let life = self.shares[from as usize].life;
        self.at(self.now + takes, Thing::Dial { from, to, life, wanted });
    }

    fn are_connected(&self, a: u32, b: u32) -> bool {
        let (few, other) =
            if self.shares[a as usize].ends.len() <= self.shares[b as usize].ends.len() { (a, b) } else { (b, a) };
        self.shares[few as usize].ends.iter().any(|end| self.end(end ^ 1).share == other)
    }

    /// Whether a machine may have a session with another at all.
    fn may_meet(&self, from: u32, to: u32) -> bool {
        let (a, b) = (&self.shares[from as usize], &self.shares[to as usize]);
        let (a, b) = (&self.machines[a.machine as usize], &self.machines[b.machine as usize]);
        if self.scenario.machines[b.kind as usize].http_only {
            return false;
        }
        let (out, into) = (&self.sites[a.site as usize], &self.sites[b.site as usize]);
        if a.site == b.site {
            return !out.isolated;
        }
        out.peers_outside && into.peers_outside && !into.nat
    }

    fn bans(&self, by: u32, whom: u32) -> bool {
        self.shares[by as usize].banned.get(&whom).is_some_and(|until| *until > self.now)
    }

    pub(crate) fn dialled(&mut self, from: u32, to: u32, life: u32, wanted: bool) {
        let (a, b) = (&self.shares[from as usize], &self.shares[to as usize]);
        if a.life != life || a.state != State::Online {
            return;
        }
        let there = b.state == State::Online && self.may_meet(from, to);
        let room = b.ends.len() < self.scenario.discovery.connections as usize
            && a.ends.len() < self.scenario.discovery.connections as usize;
        let refused = !room || self.bans(to, from) || self.bans(from, to);
        let late = if there { 0 } else { DIAL_TIMEOUT };
        if there && !refused && !self.are_connected(from, to) {
            self.open_session(from, to);
        } else if (refused || !there) && wanted {
            let member = self.member(self.shares[to as usize].machine);
            self.dial_failed(from, member, self.now + late);
        }
        if !wanted {
            self.first_dial_ended(from, late);
        }
    }

    fn open_session(&mut self, from: u32, to: u32) {
        let (a, b) = (self.shares[from as usize].machine, self.shares[to as usize].machine);
        let latency = self.latency_between(a, b);
        let slowest = |from, to| {
            let path = self.path(from, to);
            path.links().iter().map(|link| self.network.link(*link).rate.0).min().unwrap_or(1)
        };
        let under_way = u128::from(slowest(a, b).max(slowest(b, a))) * u128::from(2 * latency) / 1_000_000;
        let window = 2 + (under_way >> 20).min(62) as u16;
        let number = self.sessions.len() as u32;
        let ends = [from, to].map(|share| End::new(share, self.shares[share as usize].life));
        self.sessions.push(Session { ends, latency, window });
        for (side, share) in [(0, from), (1, to)] {
            self.shares[share as usize].ends.push(2 * number + side);
        }
        self.fold(45, u64::from(from), u64::from(to));
        let later = self.now + latency;
        self.end_mut(2 * number + 1).last_at = later;
        self.at(self.now, Thing::Up { to: 2 * number });
        self.at(later, Thing::Up { to: 2 * number + 1 });
    }

    pub(crate) fn member(&self, machine: u32) -> Member {
        let address =
            std::net::SocketAddr::from(([10, (machine >> 16) as u8, (machine >> 8) as u8, machine as u8], 7680));
        Member { peer_id: u64::from(machine).to_le_bytes().to_vec(), address, sequence: 0, record: Vec::new() }
    }

    pub(crate) fn session_up(&mut self, to: EndId) {
        if !self.end(to).open {
            return;
        }
        let (mine, other) = (self.end(to).share, self.end(to ^ 1).share);
        let (own, machine) = (self.shares[mine as usize].machine, self.shares[other as usize].machine);
        let (a, b) = (&self.machines[own as usize], &self.machines[machine as usize]);
        let scope = if a.site == b.site {
            Scope::Site
        } else if self.sites[a.site as usize].group == self.sites[b.site as usize].group {
            Scope::Group
        } else {
            Scope::Internet
        };
        let event = Event::PeerUp {
            peer: key_of(to),
            id: b.id,
            address: b.address,
            member: Some(self.member(machine)),
            scope,
            round_trip: Duration::from_micros(2 * self.sessions[(to >> 1) as usize].latency),
        };
        self.fold(46, u64::from(to), 0);
        self.tell(mine, event);
    }

    pub(crate) fn session_down(&mut self, to: EndId) {
        if !self.end(to).open {
            return;
        }
        self.fold(47, u64::from(to), 0);
        self.shut_end(to);
        let (share, life) = (self.end(to).share, self.end(to).life);
        if self.shares[share as usize].life == life {
            self.tell(share, Event::PeerDown { peer: key_of(to) });
        }
    }

    /// One side is done with a session: nothing more is sent from it or taken in by it.
    pub(crate) fn shut_end(&mut self, id: EndId) {
        let end = self.end_mut(id);
        end.open = false;
        (end.owed, end.serves, end.haves) = (Vec::new(), VecDeque::new(), Vec::new());
        end.behind.clear();
        let share = end.share;
        self.shares[share as usize].ends.retain(|it| *it != id);
    }

    /// The engine ends a session; the other side sees it a moment later.
    pub(crate) fn close(&mut self, share: u32, peer: PeerKey) {
        let Some(id) = self.own_end(share, peer) else { return };
        self.shut_end(id);
        let life = self.shares[share as usize].life;
        self.at(self.now, Thing::Tell { share, life, event: Box::new(Event::PeerDown { peer }) });
        self.hang_up(id ^ 1, 0);
    }

    /// Tells an end that the other one is gone, after what is on its way.
    pub(crate) fn hang_up(&mut self, id: EndId, late: u64) {
        let latency = self.sessions[(id >> 1) as usize].latency;
        let at = (self.now + latency + late).max(self.end(id).last_at);
        self.at(at, Thing::Down { to: id });
    }

    pub(crate) fn ban(&mut self, share: u32, peer: PeerKey, lasts: u64) {
        if let Some(id) = self.own_end(share, peer) {
            let other = self.end(id ^ 1).share;
            let until = self.now.saturating_add(lasts);
            self.shares[share as usize].banned.insert(other, until);
            let machine = self.shares[other as usize].machine;
            if self.machines[machine as usize].manner.downloads() && !self.plans_touch(machine) {
                self.books.honest_bans += 1;
            }
        }
        self.close(share, peer);
    }

    /// The engine says something to a peer.
    pub(crate) fn say(&mut self, share: u32, peer: PeerKey, message: Message) {
        let Some(id) = self.own_end(share, peer) else { return };
        self.check_message(share, id, &message);
        match &message {
            Message::Request { piece, .. } => {
                let owed = &mut self.end_mut(id).owed;
                owed.retain(|it| it.piece != piece.0);
                owed.push(Owed { piece: piece.0, cancelled_at: NEVER });
            }
            Message::Cancel(piece) => {
                let now = self.now;
                let owed = &mut self.end_mut(id).owed;
                owed.iter_mut().filter(|it| it.piece == piece.0).for_each(|it| it.cancelled_at = now);
                // Frames that never come leave their mark; a minute is longer than any is on its way.
                owed.retain(|it| it.cancelled_at == NEVER || it.cancelled_at + 60_000_000 > now);
            }
            // It gives nobody a turn, whatever its engine says.
            Message::Choke(false) if self.rides_free(share) => return,
            // Worlds whose machines know whom discovery names, and nobody else.
            Message::Members(_) if !self.scenario.discovery.gossip => return,
            // The engine collects its own.
            Message::Have(pieces)
                if self.scenario.model.have_tick.0 > 0
                    && matches!(self.policy, Policy::Bittorrent | Policy::Random) =>
            {
                let tick = self.scenario.model.have_tick.0;
                let now = self.now;
                let end = self.end_mut(id);
                let first = end.haves.is_empty();
                end.haves.extend_from_slice(pieces);
                if first {
                    self.at((now / tick + 1) * tick, Thing::Haves { from: id });
                }
                return;
            }
            _ => {}
        }
        self.send_haves(id);
        self.deliver(id, message);
    }

    fn rides_free(&self, share: u32) -> bool {
        self.machines[self.shares[share as usize].machine as usize].manner == Manner::FreeRide
    }

    /// What was collected goes out, before anything that is said after it.
    pub(crate) fn send_haves(&mut self, id: EndId) {
        let haves = std::mem::take(&mut self.end_mut(id).haves);
        if !haves.is_empty() && self.end(id).open {
            self.deliver(id, Message::Have(haves));
        }
    }

    /// Puts a message on the way from one end to the other. One stream carries messages and payload: what is said
    /// while a piece is being written comes after the piece.
    pub(crate) fn deliver(&mut self, id: EndId, message: Message) {
        let whole = !self.scenario.model.interleaved;
        let end = self.end_mut(id);
        let writing = end.flowing || end.serves.front().is_some_and(|it| it.begun);
        if whole && (writing || !end.behind.is_empty()) {
            return self.end_mut(id).behind.push_back(message);
        }
        self.put_on_the_way(id, message);
    }

    /// How long what the kernel holds of one connection takes on its machine's line.
    pub(crate) fn kernel_time(&self, id: EndId) -> u64 {
        let machine = self.shares[self.end(id).share as usize].machine;
        let up = self.machines[machine as usize].up;
        self.network.link(up).rate.time_of(self.scenario.model.unsent.0)
    }

    /// A piece has been written: what was said meanwhile follows.
    pub(crate) fn deliver_behind(&mut self, id: EndId) {
        while let Some(message) = self.end_mut(id).behind.pop_front() {
            self.put_on_the_way(id, message);
        }
    }

    fn put_on_the_way(&mut self, id: EndId, message: Message) {
        let (from, to) = (self.end(id).share, self.end(id ^ 1).share);
        let (a, b) = (self.shares[from as usize].machine, self.shares[to as usize].machine);
        let path = self.path(a, b);
        let bytes = FRAME_BYTES
            + match &message {
                Message::Bitfield(bits) => u64::from(bits.piece_count()).div_ceil(8),
                Message::Have(pieces) => 3 * pieces.len() as u64,
                Message::Intent { pieces, .. } => 6 * pieces.len() as u64,
                Message::Members(members) => 60 * members.len() as u64,
                _ => 0,
            };
        self.control_messages += 1;
        self.books.control_bytes += bytes;
        let mut at = self.network.say(&path, bytes, self.now).max(self.end(id ^ 1).last_at);
        let payload_at = self.end(id ^ 1).payload_at;
        if payload_at > at {
            // Between parts of a piece it waits for what the kernel has of them already.
            let most = if self.scenario.model.interleaved { self.kernel_time(id) } else { NEVER };
            at = payload_at.min(at.saturating_add(most));
        }
        self.end_mut(id ^ 1).last_at = at;
        self.at(at, Thing::Said { to: id ^ 1, message: Box::new(message) });
    }

    pub(crate) fn heard(&mut self, to: EndId, message: Message) {
        let end = self.end(to);
        if !end.open {
            return;
        }
        let share = end.share;
        self.fold(48, u64::from(to), code(&message));
        let manner = self.machines[self.shares[share as usize].machine as usize].manner;
        match (&message, manner) {
            (Message::Reject { piece, .. }, _) => {
                let piece = piece.0;
                self.end_mut(to).owed.retain(|it| it.piece != piece);
            }
            (Message::Request { piece, .. }, Manner::Refuse) => {
                return self.deliver(to, Message::Reject { piece: *piece, reason: RejectReason::Busy });
            }
            (Message::Request { piece, .. }, Manner::FalseBitfield) => {
                return self.deliver(to, Message::Reject { piece: *piece, reason: RejectReason::NotHeld });
            }
            _ => {}
        }
        self.tell(share, Event::Said { peer: key_of(to), message });
    }
}

/// A message as a number, for the trace.
fn code(message: &Message) -> u64 {
    match message {
        Message::Bitfield(bits) => 1 | u64::from(bits.held_count()) << 8,
        Message::Have(pieces) => {
            2 | pieces.iter().fold(0u64, |sum, piece| sum.wrapping_mul(31) + u64::from(piece.0)) << 8
        }
        Message::Lost(piece) => 3 | u64::from(piece.0) << 8,
        Message::Interested(it) => 4 | u64::from(*it) << 8,
        Message::Choke(it) => 5 | u64::from(*it) << 8,
        Message::Request { piece, first_block } => 6 | u64::from(piece.0) << 8 | u64::from(first_block.0) << 40,
        Message::Cancel(piece) => 7 | u64::from(piece.0) << 8,
        Message::Reject { piece, reason } => 8 | u64::from(piece.0) << 8 | (*reason as u64) << 40,
        Message::Intent { pieces, lease } => 9 | (pieces.len() as u64) << 8 | (lease.as_micros() as u64) << 16,
        Message::Members(members) => 10 | (members.len() as u64) << 8,
        Message::Condition(it) => {
            11 | u64::from(it.off_duty) << 8 | u64::from(it.unstable) << 9 | u64::from(it.background) << 10
        }
    }
}
