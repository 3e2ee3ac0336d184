//! The origins of the model: one line each, shared by the ranges under way block by block.

use std::collections::VecDeque;
use std::ops::Range;

use crate::content::layout::{BlockIndex, PieceIndex};
use crate::swarm::event::{Event, FetchId, SourceFault, SourceKey, Supplier};
use crate::swarm::model::{Thing, World};

/// How an origin behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OriginManner {
    Good,
    WithoutRanges,
    OtherFile,
    /// Each range ends with this fault after so many blocks.
    Fails(SourceFault, u64),
    /// The first so many ranges fail, then all is well.
    FailsAtFirst(SourceFault, u64),
    Silent,
}

pub(crate) struct Origin {
    pub(crate) manner: OriginManner,
    rate: u64,
    running: VecDeque<Running>,
    sending: bool,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

struct Running {
    node: usize,
    fetch: FetchId,
    pieces: Range<u32>,
    next: (u32, u32),
    blocks: u64,
}

impl World {
    pub(crate) fn origin(&mut self, rate: u64, manner: OriginManner) -> usize {
        let origin = Origin { manner, rate, running: VecDeque::new(), sending: false, bytes: 0, requests: 0 };
        self.origins.push(origin);
        self.origins.len() - 1
    }

    pub(crate) fn stop_fetches(&mut self, but: impl Fn(usize, FetchId) -> bool) {
        for origin in &mut self.origins {
            origin.running.retain(|running| but(running.node, running.fetch));
        }
    }

    pub(crate) fn fetch(&mut self, node: usize, fetch: FetchId, origin: usize, pieces: Range<u32>) {
        let whole = 0..self.layout.piece_count();
        self.origins[origin].requests += 1;
        let requests = self.origins[origin].requests;
        let begin = self.now + 2 * self.latency + self.random(self.jitter + 1);
        let failed = |fault| Event::FetchEnded { fetch, fault: Some(fault), retry_after: None };
        let pieces = match self.origins[origin].manner {
            OriginManner::Silent => return,
            OriginManner::Fails(fault, 0) => return self.at(begin, node, Thing::Happens(failed(fault))),
            OriginManner::FailsAtFirst(fault, times) if requests <= times => {
                return self.at(begin, node, Thing::Happens(failed(fault)));
            }
            OriginManner::WithoutRanges => {
                let event =
                    Event::SourceWithoutRanges { source: SourceKey(origin as u32), fetch, pieces: whole.clone() };
                self.at(begin, node, Thing::Happens(event));
                whole
            }
            _ => pieces,
        };
        let next = (pieces.start, 0);
        self.origins[origin].running.push_back(Running { node, fetch, pieces, next, blocks: 0 });
        if !self.origins[origin].sending {
            self.origins[origin].sending = true;
            self.at(begin, node, Thing::OriginFree(origin));
        }
    }

    /// Sends the next block of the next range, in turn.
    pub(crate) fn origin_free(&mut self, number: usize) {
        let (now, latency) = (self.now, self.latency);
        let origin = &mut self.origins[number];
        let Some(mut running) = origin.running.pop_front() else {
            origin.sending = false;
            return;
        };
        let (piece, block) = (PieceIndex(running.next.0), running.next.1);
        let bytes = self.layout.block_length(piece, BlockIndex(block)).expect("ranges lie within the layout");
        origin.bytes += bytes;
        running.blocks += 1;
        let done = now + bytes * 1_000_000 / origin.rate;
        let fault = match origin.manner {
            OriginManner::Fails(fault, after) if running.blocks >= after => Some(fault),
            _ => None,
        };
        let (node, fetch) = (running.node, running.fetch);
        running.next =
            if self.layout.block_count(piece) == Some(block + 1) { (piece.0 + 1, 0) } else { (piece.0, block + 1) };
        let over = fault.is_some() || running.next.0 >= running.pieces.end;
        let receiver = &mut self.nodes[node];
        receiver.down_free = receiver.down_free.max(now) + bytes * 1_000_000 / receiver.downlink;
        let whole = receiver.down_free.max(done + latency);
        if !over {
            origin.running.push_back(running);
        }
        self.at(done, node, Thing::OriginFree(number));
        self.at(whole, node, Thing::FromOrigin { origin: number, fetch, piece, block });
        if over {
            let event = Event::FetchEnded { fetch, fault, retry_after: None };
            self.at(whole + 1_000, node, Thing::Happens(event));
        }
    }

    pub(crate) fn block_from_origin(
        &mut self,
        number: usize,
        origin: usize,
        _fetch: FetchId,
        piece: PieceIndex,
        block: u32,
    ) {
        let (supplier, block) = (Supplier::Source(SourceKey(origin as u32)), BlockIndex(block));
        let event = match self.origins[origin].manner {
            OriginManner::OtherFile => Event::BlockBad { supplier, piece, block },
            _ => Event::BlockStored { supplier, piece, block },
        };
        let checked = self.now + 300 + self.random(300);
        self.at(checked, number, Thing::Happens(event));
    }

    /// Copies of the content that have left the first origin, in thousandths.
    pub(crate) fn origin_copies(&self) -> u64 {
        self.origins[0].bytes * 1000 / self.total().max(1)
    }
}
