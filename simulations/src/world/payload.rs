//! Payload from peer to peer: whose turn it is on a machine's line, when a block is there, and what becomes of it.

use piecework::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use piecework::swarm::event::{Event, PeerKey, Supplier};

use crate::fair::Carried;
use crate::network::Path;
use crate::scenario::{Manner, Sharing};
use crate::world::session::{Frame, Serve, key_of};
use crate::world::{EndId, NEVER, State, Thing, World};

/// Blocks that a sender has read ahead, and no longer takes back.
const READ_AHEAD: u32 = 4;
/// A block that takes longer than this is reported in parts.
const PULSE: u64 = 500_000;
/// The least part that is reported.
const PULSE_BYTES: u64 = 64 << 10;
/// A trickling liar sends this many times slower than its line.
const TRICKLE: u64 = 100;

impl World {
    /// Whether an engine's word about a peer concerns a session that stands.
    fn serving_end(&self, share: u32, peer: PeerKey) -> Option<EndId> {
        let id = u32::try_from(peer.0).ok().filter(|id| ((id >> 1) as usize) < self.sessions.len())?;
        let end = self.end(id);
        (end.share == share && end.open).then_some(id)
    }

    pub(crate) fn serve(&mut self, share: u32, peer: PeerKey, piece: PieceIndex, first_block: BlockIndex) {
        let Some(id) = self.serving_end(share, peer) else { return };
        self.fold(50, u64::from(id), u64::from(piece.0));
        let it = &self.shares[share as usize];
        let machine = it.machine;
        let manner = self.machines[machine as usize].manner;
        if !it.truth.has(piece) && manner.downloads() {
            return self.violate(share, format!("serves piece {} that it never verified", piece.0));
        }
        if manner == Manner::Stall {
            return;
        }
        let layout = &self.contents[it.content as usize].layout;
        let count = layout.block_count(piece).unwrap_or(1) as u8;
        let serve =
            Serve { piece: piece.0, next: first_block.0 as u8, count, begun: false, cancelled: false, bytes: 0 };
        let end = self.end_mut(id);
        end.serves.push_back(serve);
        if !end.turned {
            end.turned = true;
            self.machines[machine as usize].turns.push_back(id);
        }
        self.send_block(machine);
    }

    pub(crate) fn cancel_serve(&mut self, share: u32, peer: PeerKey, piece: PieceIndex) {
        let Some(id) = self.serving_end(share, peer) else { return };
        self.fold(51, u64::from(id), u64::from(piece.0));
        let mut ahead = 0;
        for serve in &mut self.end_mut(id).serves {
            if serve.piece == piece.0 && !serve.begun && ahead >= READ_AHEAD {
                serve.cancelled = true;
            }
            ahead += u32::from(serve.count - serve.next);
        }
    }

    /// Puts the next block on a machine's line, in turn over its sessions. Who sends over a full link waits, and lets
    /// others go first.
    pub(crate) fn send_block(&mut self, machine: u32) {
        let shared = self.scenario.model.sharing == Sharing::MaxMin;
        let mut soonest = NEVER;
        for _ in 0..self.machines[machine as usize].turns.len() {
            if self.machines[machine as usize].sending {
                return;
            }
            let Some(id) = self.machines[machine as usize].turns.pop_front() else { break };
            let window = self.sessions[(id >> 1) as usize].window;
            let end = self.end_mut(id);
            end.turned = false;
            if !end.open || end.in_flight >= window || end.flowing {
                continue;
            }
            while let Some(serve) = self.end_mut(id).serves.pop_front_if(|serve| serve.cancelled) {
                let (share, peer) = (self.end(id).share, key_of(id));
                let event = Event::Served { peer, piece: PieceIndex(serve.piece), bytes: 0, complete: false };
                let life = self.shares[share as usize].life;
                self.at(self.now, Thing::Tell { share, life, event: Box::new(event) });
            }
            if self.end(id).serves.is_empty() {
                continue;
            }
            let receiver = self.shares[self.end(id ^ 1).share as usize].machine;
            let path = self.path(machine, receiver);
            let ready = if shared { 0 } else { self.network.ready_at(&path, BLOCK_BYTES) };
            if ready > self.now {
                soonest = soonest.min(ready);
                self.take_turn(machine, id);
                continue;
            }
            self.send_one(machine, id, path);
        }
        let it = &mut self.machines[machine as usize];
        if soonest < it.retry_at && !it.sending {
            it.retry_at = soonest;
            self.at(soonest, Thing::Retry { machine });
        }
    }

    /// Lets an end wait for its turn, if it has anything to send.
    pub(crate) fn take_turn(&mut self, machine: u32, id: EndId) {
        let end = self.end_mut(id);
        if !end.turned && !end.serves.is_empty() {
            end.turned = true;
            self.machines[machine as usize].turns.push_back(id);
        }
    }

    fn send_one(&mut self, machine: u32, id: EndId, path: Path) {
        let content = self.shares[self.end(id).share as usize].content;
        let (now, manner) = (self.now, self.machines[machine as usize].manner);
        let end = self.end_mut(id);
        let Some(serve) = end.serves.front_mut() else { return };
        let (piece, block) = (serve.piece, serve.next);
        let first = !serve.begun;
        serve.begun = true;
        serve.next += 1;
        let last = serve.next >= serve.count;
        end.in_flight += 1;
        let layout = &self.contents[content as usize].layout;
        let bytes = layout.block_length(PieceIndex(piece), BlockIndex(u32::from(block))).unwrap_or(0);
        let receiver = self.shares[self.end(id ^ 1).share as usize].machine;
        let wire = bytes + bytes * self.payload_factor / 1000;
        // Flows share a full link, so a block that waits for its turn here would trickle there from the first moment on.
        let begins = now + path.latency;
        if first {
            self.end_mut(id ^ 1).frames.push_back(Frame { piece, begins, accepted: None, bytes: 0 });
        }
        let total = {
            let end = self.end_mut(id);
            let total = end.serves.front_mut().map_or(0, |serve| {
                serve.bytes += bytes;
                serve.bytes
            });
            if last {
                end.serves.pop_front();
            }
            total
        };
        self.books.peers_sent += bytes;
        self.books.in_flight += bytes;
        self.shares[self.sessions[(id >> 1) as usize].ends[(id & 1) as usize].share as usize].sent += bytes;
        if self.machines[machine as usize].site != self.machines[receiver as usize].site {
            self.cross_bytes += bytes;
        }
        let bad = match manner {
            Manner::WrongBytes => true,
            Manner::HalfWrong => (piece + u32::from(block)).is_multiple_of(2),
            _ => false,
        };
        if self.scenario.model.sharing == Sharing::MaxMin {
            self.end_mut(id).flowing = true;
            let what = Carried::Block { from: id, piece, block, last: last.then_some(total), bad };
            return self.begin_flow(what, (path, self.path(receiver, machine)), wire);
        }
        let mut passage = self.network.send(&path, wire, now);
        if self.scenario.model.acks_permille > 0 {
            let back = self.path(receiver, machine);
            self.network.acknowledge(&back, wire * u64::from(self.scenario.model.acks_permille) / 1000, now);
        }
        if manner == Manner::Trickle {
            let rate = self.network.link(self.machines[machine as usize].up).rate;
            let from = self.end(id).trickle_at.max(now);
            passage.arrives = passage.arrives.max(from + rate.time_of(bytes) * TRICKLE);
            self.end_mut(id).trickle_at = passage.arrives;
        }
        self.machines[machine as usize].sending = true;
        self.take_turn(machine, id);
        self.at(passage.left, Thing::LineFree { machine });
        let peer = self.end_mut(id ^ 1);
        peer.payload_at = peer.payload_at.max(passage.arrives);
        if last {
            // It counts as served when the kernel has its last byte.
            let early = self.kernel_time(id);
            let taken = passage.left.saturating_sub(early).max(passage.begins).max(now);
            self.at(taken, Thing::Served { from: id, piece, bytes: total });
            self.deliver_behind(id);
        }
        self.pulses(id ^ 1, bytes, begins, passage.arrives);
        let there = passage.arrives + self.scenario.model.verify.0;
        self.at(there, Thing::Block { to: id ^ 1, piece, block, last, bad });
    }

    /// On a slow line the receiver reports what has come of a block so far.
    fn pulses(&mut self, to: EndId, bytes: u64, begins: u64, arrives: u64) {
        for (at, bytes) in parts(bytes, begins, arrives) {
            self.at(at, Thing::Pulse { to, bytes });
        }
    }

    pub(crate) fn pulse(&mut self, to: EndId, bytes: u32) {
        let end = self.end(to);
        if end.open && end.frames.front().is_some_and(|frame| frame.accepted != Some(false)) {
            let share = end.share;
            self.tell(share, Event::Receiving { supplier: Supplier::Peer(key_of(to)), bytes: u64::from(bytes) });
        }
    }

    pub(crate) fn piece_served(&mut self, from: EndId, piece: u32, bytes: u64) {
        let end = self.end(from);
        if end.open {
            let share = end.share;
            self.fold(52, u64::from(from), u64::from(piece));
            let event = Event::Served { peer: key_of(from), piece: PieceIndex(piece), bytes, complete: true };
            self.tell(share, event);
        }
    }

    pub(crate) fn block_arrives(&mut self, to: EndId, piece: u32, block: u8, last: bool, bad: bool) {
        self.fold(53, u64::from(to), u64::from(piece) << 8 | u64::from(block));
        let sender = self.end_mut(to ^ 1);
        sender.in_flight -= 1;
        let (share, open) = (sender.share, sender.open);
        if open {
            let machine = self.shares[share as usize].machine;
            self.take_turn(machine, to ^ 1);
            self.send_block(machine);
        }
        let mine = self.end(to).share;
        let layout = &self.contents[self.shares[mine as usize].content as usize].layout;
        let bytes = layout.block_length(PieceIndex(piece), BlockIndex(u32::from(block))).unwrap_or(0);
        self.books.in_flight -= bytes;
        let (from, here) = (self.shares[share as usize].machine, self.shares[mine as usize].machine);
        if self.machines[from as usize].site != self.machines[here as usize].site {
            self.crossed(here, bytes);
        }
        let life = self.end(to).life;
        let gone = self.shares[mine as usize].state != State::Online || self.shares[mine as usize].life != life;
        if !self.end(to).open || gone {
            self.books.lost += bytes;
            return;
        }
        let (accepted, so_far) = self.frame(to, piece, bytes, last);
        let peer = key_of(to);
        if !accepted {
            self.books.unasked += bytes;
            if last {
                self.tell(mine, Event::Unasked { peer, bytes: so_far });
            }
            return;
        }
        let supplier = Supplier::Peer(peer);
        if bad {
            self.books.bad += bytes;
            let event = Event::BlockBad { supplier, piece: PieceIndex(piece), block: BlockIndex(u32::from(block)) };
            self.tell(mine, event);
        } else if self.store(mine, supplier, piece, block) {
            self.books.useful += bytes;
        } else {
            self.books.duplicate += bytes;
        }
    }

    /// Whether the frame that a block belongs to was owed when it began; with the bytes of it so far.
    fn frame(&mut self, to: EndId, piece: u32, bytes: u64, last: bool) -> (bool, u64) {
        let end = self.end_mut(to);
        let Some(frame) = end.frames.front_mut() else { return (false, bytes) };
        debug_assert_eq!(frame.piece, piece, "frames of one session come one after the other");
        frame.bytes += bytes;
        let begins = frame.begins;
        let accepted = match frame.accepted {
            Some(accepted) => accepted,
            None => {
                let owed = end.owed.iter().position(|it| it.piece == piece);
                let accepted = owed.is_some_and(|place| {
                    let cancelled_at = end.owed.swap_remove(place).cancelled_at;
                    cancelled_at == NEVER || cancelled_at >= begins
                });
                frame.accepted = Some(accepted);
                accepted
            }
        };
        let so_far = frame.bytes;
        if last {
            end.frames.pop_front();
        }
        (accepted, so_far)
    }
}

/// When parts of a slow block are worth a word, as the node's receiving side has it: each half second, or each 64 KiB
/// where these take longer.
pub(crate) fn parts(bytes: u64, begins: u64, arrives: u64) -> impl Iterator<Item = (u64, u32)> {
    let takes = arrives.saturating_sub(begins);
    let every = PULSE.max((u128::from(takes) * u128::from(PULSE_BYTES) / u128::from(bytes.max(1))) as u64);
    let part = (u128::from(bytes) * u128::from(every) / u128::from(takes.max(1))) as u32;
    (1..).map(move |number| begins + number * every).take_while(move |at| *at < arrives).map(move |at| (at, part))
}
