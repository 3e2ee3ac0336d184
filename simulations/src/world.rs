//! [`World`]: one node, one origin, one line between them; a virtual clock that jumps from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use piecework::swarm::event::{Action, AddressKey, Event, FetchId, NodeId, SourceKey, Supplier};
use piecework::swarm::{Error, Options, Swarm, Uptime};

/// The only origin.
const ORIGIN: SourceKey = SourceKey(0);
/// Events after which a run counts as stuck: far more than any run of a world this small needs.
const STEPS_MAX: u64 = 10_000_000;

/// One node that downloads from one origin.
#[derive(Debug, Clone)]
pub struct World {
    /// Lengths of the manifest's files, in bytes.
    pub file_bytes: Vec<u64>,
    /// What the line carries, in bytes a second; above 0.
    pub line_bytes_per_second: u64,
    /// From which all of the node's randomness comes.
    pub seed: [u8; 32],
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether every piece was held in the end.
    pub complete: bool,
    /// Virtual time it took.
    pub took: Duration,
    /// Bytes that left the origin.
    pub origin_bytes: u64,
    /// Every action of the node, in order, as text: two runs can be compared byte for byte.
    pub log: Vec<String>,
}

/// What waits on the line.
#[derive(Debug, Clone, Copy)]
enum Arrival {
    Block { fetch: FetchId, piece: PieceIndex, block: BlockIndex, bytes: u64 },
    End { fetch: FetchId },
}

impl World {
    /// Runs until the download is complete, or nothing more can happen.
    ///
    /// # Errors
    /// The engine's, for a world it cannot be built in. `Ok(None)` for files longer than any content may be.
    pub fn run(&self) -> Result<Option<Outcome>, Error> {
        let Ok(Some(layout)) = FlatLayout::new(self.file_bytes.iter().copied()) else { return Ok(None) };
        let layout = Arc::new(layout);
        let held = Bitfield::none(layout.piece_count());
        let (me, address) = (NodeId([1; 32]), AddressKey([1; 18]));
        let options = Options { no_peers: true, ..Options::default() };
        let swarm = Swarm::new(Arc::clone(&layout), held, Vec::new(), options, me, address, self.seed, Uptime::ZERO)?;
        Ok(Some(Run::new(self, layout, swarm).finish()))
    }
}

/// One run at work.
struct Run<'a> {
    world: &'a World,
    layout: Arc<FlatLayout>,
    swarm: Swarm,
    now: Uptime,
    /// By time, then by the order in which it was put on the line.
    queue: BTreeMap<(Uptime, u64), Arrival>,
    queued: u64,
    line_free_at: Uptime,
    cancelled: BTreeSet<FetchId>,
    origin_bytes: u64,
    log: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(world: &'a World, layout: Arc<FlatLayout>, swarm: Swarm) -> Self {
        Self {
            world,
            layout,
            swarm,
            now: Uptime::ZERO,
            queue: BTreeMap::new(),
            queued: 0,
            line_free_at: Uptime::ZERO,
            cancelled: BTreeSet::new(),
            origin_bytes: 0,
            log: Vec::new(),
        }
    }

    fn finish(mut self) -> Outcome {
        // Each file is a run of its own: a source's ranges may touch and never cross a file's end.
        let files = self.layout.places().iter().map(|place| {
            let end = place.first_piece.saturating_add(place.layout.piece_count());
            place.first_piece..end
        });
        let event = Event::SourceUp { source: ORIGIN, pieces: files.collect() };
        self.tell(event);
        let mut steps = 0;
        while !self.swarm.is_complete() && steps < STEPS_MAX {
            steps += 1;
            if !self.step() {
                break;
            }
        }
        Outcome {
            complete: self.swarm.is_complete(),
            took: self.now.since(Uptime::ZERO),
            origin_bytes: self.origin_bytes,
            log: self.log,
        }
    }

    /// Whichever comes first: what is on the line, or the node's own alarm. False if neither is to be.
    fn step(&mut self) -> bool {
        let arrival = self.queue.first_key_value().map(|((at, _), _)| *at);
        let wake = self.swarm.next_wake();
        let due = match (arrival, wake) {
            (Some(arrival), Some(wake)) => arrival.min(wake),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return false,
        };
        self.now = self.now.max(due);
        let event = match self.queue.first_entry().filter(|entry| entry.key().0 <= due) {
            None => Event::Tick,
            Some(entry) => match entry.remove() {
                Arrival::End { fetch } => Event::FetchEnded { fetch, fault: None, retry_after: None },
                // A cancelled fetch sends nothing more; its end is still to come.
                Arrival::Block { fetch, .. } if self.cancelled.contains(&fetch) => return true,
                Arrival::Block { piece, block, bytes, .. } => {
                    self.origin_bytes += bytes;
                    Event::BlockStored { supplier: Supplier::Source(ORIGIN), piece, block }
                }
            },
        };
        self.tell(event);
        true
    }

    /// One event, one full drain.
    fn tell(&mut self, event: Event) {
        self.swarm.handle(self.now, event);
        while let Some(action) = self.swarm.poll_action() {
            self.log.push(format!("{} {action:?}", self.now.micros()));
            match action {
                Action::Fetch { fetch, pieces, .. } => self.send(fetch, pieces),
                Action::CancelFetch { fetch } => _ = self.cancelled.insert(fetch),
                _ => {}
            }
        }
    }

    /// Puts a range on the line, block after block, behind what is there already.
    fn send(&mut self, fetch: FetchId, pieces: std::ops::Range<u32>) {
        for piece in pieces.map(PieceIndex) {
            for block in (0..self.layout.block_count(piece).unwrap_or(0)).map(BlockIndex) {
                let bytes = self.layout.block_length(piece, block).unwrap_or(0);
                let micros = bytes.saturating_mul(1_000_000).div_ceil(self.world.line_bytes_per_second.max(1));
                self.line_free_at = self.line_free_at.max(self.now).after(Duration::from_micros(micros));
                self.put(Arrival::Block { fetch, piece, block, bytes });
            }
        }
        self.put(Arrival::End { fetch });
    }

    fn put(&mut self, arrival: Arrival) {
        self.queued += 1;
        self.queue.insert((self.line_free_at, self.queued), arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(file_bytes: &[u64], seed: u8) -> Outcome {
        let world = World { file_bytes: file_bytes.to_vec(), line_bytes_per_second: 10 * MIB, seed: [seed; 32] };
        world.run().expect("an empty bitfield fits").expect("short files")
    }

    #[test]
    fn a_lone_node_gets_everything_once_at_the_speed_of_the_line() {
        for files in [vec![64 * MIB + 5], vec![1], vec![3 * MIB, 0, 7, 20 * MIB]] {
            let total: u64 = files.iter().sum();
            let outcome = run(&files, 7);
            assert!(outcome.complete, "{files:?}");
            assert_eq!(outcome.origin_bytes, total, "{files:?}");
            let least = Duration::from_micros(total * 1_000_000 / (10 * MIB));
            assert!(outcome.took >= least, "{files:?}: faster than its line");
            assert!(outcome.took <= least * 2 + Duration::from_secs(2), "{files:?}: {:?}", outcome.took);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let files = [40 * MIB, 9 * MIB + 1];
        assert_eq!(run(&files, 1), run(&files, 1));
        assert!(!run(&files, 1).log.is_empty());
    }
}
