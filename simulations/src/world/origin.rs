//! Origins: HTTP servers with a line, a temper and faults. Ranges under way share the line block by block.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use piecework::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use piecework::swarm::event::{Event, FetchId, SourceFault, SourceKey, Supplier};

use crate::fair::Carried;
use crate::network::{LinkId, Path};
use crate::scenario::{FaultKind, Sharing};
use crate::world::payload::parts;
use crate::world::{State, Thing, World};

/// An HTTP server.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) up: LinkId,
    pub(crate) latency: u64,
    pub(crate) connection_rate: Option<u64>,
    pub(crate) sending: bool,
    /// When it tries again after full links held it up.
    pub(crate) retry_at: u64,
    /// Ranges with something to send, in turn.
    pub(crate) turns: VecDeque<u32>,
    pub(crate) requests: u64,
    pub(crate) faults: u64,
}

/// One range, from the request to its end.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) origin: u32,
    pub(crate) share: u32,
    pub(crate) life: u32,
    pub(crate) fetch: FetchId,
    pub(crate) pieces: Range<u32>,
    pub(crate) next: (u32, u8),
    pub(crate) in_flight: u16,
    pub(crate) turned: bool,
    /// A flow of it is under way, where flows share links.
    pub(crate) flowing: bool,
    pub(crate) cancelled: bool,
    pub(crate) bad: bool,
    /// Blocks after which it breaks off.
    pub(crate) cut_after: u64,
    pub(crate) sent: u64,
    pub(crate) rate: Option<u64>,
    /// When its next block may be sent, where its rate is capped.
    pub(crate) next_at: u64,
}

impl World {
    pub(crate) fn origin_round_trip(&self, origin: u32, machine: u32) -> u64 {
        let machine = &self.machines[machine as usize];
        2 * (self.origins[origin as usize].latency + self.sites[machine.site as usize].latency + machine.latency)
    }

    pub(crate) fn fetch(&mut self, share: u32, fetch: FetchId, source: SourceKey, pieces: Range<u32>) {
        self.fold(60, u64::from(share), u64::from(pieces.start) << 32 | u64::from(pieces.end));
        self.check_fetch(share, &pieces);
        let it = &self.shares[share as usize];
        let machine = it.machine;
        if self.machines[machine as usize].manner == crate::scenario::Manner::Claim {
            return;
        }
        if source.0 as usize >= self.origins.len() {
            return self.violate(share, format!("asks a source {} that it was never told of", source.0));
        }
        let run = Run {
            origin: source.0,
            share,
            life: it.life,
            fetch,
            next: (pieces.start, 0),
            pieces,
            in_flight: 0,
            turned: false,
            flowing: false,
            cancelled: false,
            bad: false,
            cut_after: u64::MAX,
            sent: 0,
            rate: self.origins[source.0 as usize].connection_rate,
            next_at: 0,
        };
        let number = self.runs.len() as u32;
        self.runs.push(run);
        self.shares[share as usize].runs.push(number);
        self.origins[source.0 as usize].requests += 1;
        // A new connection or a kept one: between one and three round trips to the first byte.
        let takes = 2 * self.origin_round_trip(source.0, machine) + self.random.below(1_000);
        self.at(self.now + takes, Thing::RunBegins { run: number });
    }

    pub(crate) fn cancel_fetch(&mut self, share: u32, fetch: FetchId) {
        self.fold(61, u64::from(share), fetch.0);
        let runs = &self.shares[share as usize].runs;
        let Some(number) = runs.iter().copied().find(|run| self.runs[*run as usize].fetch == fetch) else { return };
        self.runs[number as usize].cancelled = true;
        self.run_ended(number, None, None, 200);
    }

    /// A range is over for its engine, `late` microseconds from now.
    fn run_ended(&mut self, number: u32, fault: Option<SourceFault>, retry_after: Option<Duration>, late: u64) {
        let run = &mut self.runs[number as usize];
        let (share, life, fetch) = (run.share, run.life, run.fetch);
        run.cancelled = true;
        self.shares[share as usize].runs.retain(|it| *it != number);
        let event = Event::FetchEnded { fetch, fault, retry_after };
        self.at(self.now + late, Thing::Tell { share, life, event: Box::new(event) });
    }

    pub(crate) fn run_begins(&mut self, number: u32) {
        let run = &self.runs[number as usize];
        let (origin, share) = (run.origin, run.share);
        if run.cancelled || self.shares[share as usize].life != run.life {
            return;
        }
        let now = self.now;
        let kinds = self.scenario.origin[origin as usize].fault.clone();
        for fault in kinds {
            let on = fault.from.0 <= now && fault.until.is_none_or(|until| now < until.0);
            if !on || !self.random.chance(u64::from(fault.percent) * 10) {
                continue;
            }
            self.origins[origin as usize].faults += 1;
            let retry_after = fault.retry_after.map(|after| Duration::from_micros(after.0));
            match fault.kind {
                FaultKind::Busy => return self.run_ended(number, Some(SourceFault::Busy), retry_after, 0),
                FaultKind::Unreachable => return self.run_ended(number, Some(SourceFault::Unreachable), None, 0),
                FaultKind::Refused => return self.run_ended(number, Some(SourceFault::Refused), None, 0),
                FaultKind::Changed => return self.run_ended(number, Some(SourceFault::Changed), None, 0),
                FaultKind::Silent => return,
                FaultKind::Truncated => {
                    let pieces = u64::from(self.runs[number as usize].pieces.len() as u32);
                    self.runs[number as usize].cut_after = self.random.below(pieces.max(1));
                }
                FaultKind::NoRanges => self.whole_file(number),
                FaultKind::WrongBytes => self.runs[number as usize].bad = true,
                FaultKind::Slow => self.runs[number as usize].rate = fault.rate.map(|rate| rate.0),
            }
        }
        if !self.runs[number as usize].cancelled {
            self.run_turns(number);
            self.origin_send(origin);
        }
    }

    /// The server knows no ranges and streams everything.
    fn whole_file(&mut self, number: u32) {
        let run = &mut self.runs[number as usize];
        let (share, origin, fetch) = (run.share, run.origin, run.fetch);
        let count = self.contents[self.shares[share as usize].content as usize].layout.piece_count();
        run.pieces = 0..count;
        run.next = (0, 0);
        let event = Event::SourceWithoutRanges { source: SourceKey(origin), fetch, pieces: 0..count };
        self.tell(share, event);
    }

    fn run_path(&self, number: u32) -> Path {
        let run = &self.runs[number as usize];
        let machine = &self.machines[self.shares[run.share as usize].machine as usize];
        let site = &self.sites[machine.site as usize];
        let it = &self.origins[run.origin as usize];
        Path::new(&[it.up, site.down, machine.down], it.latency + site.latency + machine.latency)
    }

    /// Where a run's acknowledgements go; origins' lines into them are not modelled.
    fn run_path_back(&self, number: u32) -> Path {
        let machine = &self.machines[self.shares[self.runs[number as usize].share as usize].machine as usize];
        Path::new(&[machine.up, self.sites[machine.site as usize].up], 0)
    }

    pub(crate) fn run_turns(&mut self, number: u32) {
        let run = &mut self.runs[number as usize];
        if !run.turned && !run.cancelled && run.next.0 < run.pieces.end {
            run.turned = true;
            self.origins[run.origin as usize].turns.push_back(number);
        }
    }

    /// Puts the next block on an origin's line.
    pub(crate) fn origin_send(&mut self, origin: u32) {
        let shared = self.scenario.model.sharing == Sharing::MaxMin;
        let mut soonest = u64::MAX;
        for _ in 0..self.origins[origin as usize].turns.len() {
            if self.origins[origin as usize].sending {
                return;
            }
            let Some(number) = self.origins[origin as usize].turns.pop_front() else { break };
            let now = self.now;
            let run = &mut self.runs[number as usize];
            run.turned = false;
            if run.cancelled || run.flowing {
                continue;
            }
            if run.next_at > now {
                soonest = soonest.min(run.next_at);
                run.turned = true;
                self.origins[origin as usize].turns.push_back(number);
                continue;
            }
            if run.sent >= run.cut_after {
                // What was sent before arrives before.
                if run.in_flight > 0 {
                    continue;
                }
                self.run_ended(number, Some(SourceFault::Truncated), None, 0);
                continue;
            }
            let path = self.run_path(number);
            let ready = if shared { 0 } else { self.network.ready_at(&path, BLOCK_BYTES) };
            if ready > now {
                soonest = soonest.min(ready);
                self.run_turns(number);
                continue;
            }
            self.origin_send_one(origin, number, path);
        }
        let it = &mut self.origins[origin as usize];
        if soonest < it.retry_at && !it.sending {
            it.retry_at = soonest;
            self.at(soonest, Thing::OriginRetry { origin });
        }
    }

    fn origin_send_one(&mut self, origin: u32, number: u32, path: Path) {
        let run = &mut self.runs[number as usize];
        let (piece, block) = run.next;
        let share = &self.shares[run.share as usize];
        let content = &mut self.contents[share.content as usize];
        let count = content.layout.block_count(PieceIndex(piece)).unwrap_or(1);
        let bytes = content.layout.block_length(PieceIndex(piece), BlockIndex(u32::from(block))).unwrap_or(0);
        run.next = if u32::from(block) + 1 >= count { (piece + 1, 0) } else { (piece, block + 1) };
        run.in_flight += 1;
        run.sent += 1;
        content.origin_bytes += bytes;
        let now = self.now;
        let wire = bytes + bytes * self.payload_factor / 1000;
        self.books.origin_sent += bytes;
        self.books.in_flight += bytes;
        if self.scenario.model.sharing == Sharing::MaxMin {
            let run = &mut self.runs[number as usize];
            run.flowing = true;
            if let Some(rate) = run.rate {
                run.next_at = run.next_at.max(now) + crate::units::Rate(rate).time_of(bytes);
            }
            let back = self.run_path_back(number);
            return self.begin_flow(Carried::Range { run: number, piece, block }, (path, back), wire);
        }
        let mut passage = self.network.send(&path, wire, now);
        if self.scenario.model.acks_permille > 0 {
            let back = self.run_path_back(number);
            self.network.acknowledge(&back, wire * u64::from(self.scenario.model.acks_permille) / 1000, now);
        }
        let run = &mut self.runs[number as usize];
        if let Some(rate) = run.rate {
            run.next_at = run.next_at.max(now) + crate::units::Rate(rate).time_of(bytes);
            passage.arrives = passage.arrives.max(run.next_at + path.latency);
        }
        self.origins[origin as usize].sending = true;
        self.run_turns(number);
        self.at(passage.left, Thing::OriginFree { origin });
        for (at, bytes) in parts(bytes, now + path.latency, passage.arrives) {
            self.at(at, Thing::OriginPulse { run: number, bytes });
        }
        self.at(passage.arrives + self.scenario.model.verify.0, Thing::FromOrigin { run: number, piece, block });
    }

    pub(crate) fn origin_pulse(&mut self, number: u32, bytes: u32) {
        let run = &self.runs[number as usize];
        let (share, source) = (run.share, SourceKey(run.origin));
        if !run.cancelled && self.shares[share as usize].life == run.life {
            self.tell(share, Event::Receiving { supplier: Supplier::Source(source), bytes: u64::from(bytes) });
        }
    }

    pub(crate) fn origin_block(&mut self, number: u32, piece: u32, block: u8) {
        self.fold(62, u64::from(number), u64::from(piece) << 8 | u64::from(block));
        let run = &mut self.runs[number as usize];
        run.in_flight -= 1;
        let (share, origin, bad) = (run.share, run.origin, run.bad);
        let it = &self.shares[share as usize];
        let layout = &self.contents[it.content as usize].layout;
        let bytes = layout.block_length(PieceIndex(piece), BlockIndex(u32::from(block))).unwrap_or(0);
        self.books.in_flight -= bytes;
        let machine = it.machine;
        self.crossed(machine, bytes);
        let (run, it) = (&mut self.runs[number as usize], &self.shares[share as usize]);
        if run.cancelled || it.life != run.life || it.state != State::Online {
            run.cancelled = true;
            self.books.origin_cancelled += bytes;
        } else {
            let supplier = Supplier::Source(SourceKey(origin));
            if bad {
                self.books.bad += bytes;
                let event = Event::BlockBad { supplier, piece: PieceIndex(piece), block: BlockIndex(u32::from(block)) };
                self.tell(share, event);
            } else if self.store(share, supplier, piece, block) {
                self.books.useful += bytes;
            } else {
                self.books.duplicate += bytes;
            }
            let run = &self.runs[number as usize];
            if !run.cancelled && run.next.0 >= run.pieces.end && run.in_flight == 0 {
                self.run_ended(number, None, None, 0);
            }
        }
        self.run_turns(number);
        self.origin_send(origin);
    }
}
