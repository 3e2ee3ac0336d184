//! [`World`]: machines, lines, origins and what happens between them, under a clock that jumps from event to event.
//!
//! Each machine's engine is handed the same events in the same order as `services/node` hands them to it: a peer is up
//! after the handshake's round trips, its bitfield comes first, a piece frame is owed from its request on, a range ends
//! after its last block. Read `session` for what is said, `payload` for what is sent, `origin` and `trouble` for the rest.

mod build;
mod discovery;
mod flows;
mod line;
mod origin;
mod payload;
pub(crate) mod reader;
mod session;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use piecework::swarm::event::{Action, AddressKey, Event, Message, NodeId, Supplier};

use crate::checker::{Books, Violation};
use crate::clock::Queue;
use crate::engine::Engine;
use crate::fair::Fair;
use crate::network::{LinkId, Network};
use crate::random::{Random, mix};
use crate::record::Recorder;
use crate::scenario::{Manner, Policy, Scenario};
pub use crate::world::build::BuildError;
use crate::world::line::Budget;
use crate::world::origin::{Origin, Run};
use crate::world::reader::Reader;
use crate::world::session::Session;
use crate::world::trouble::Plan;

/// One end of a session: twice the session's number, plus the side.
pub(crate) type EndId = u32;

/// Never.
pub(crate) const NEVER: u64 = u64::MAX;
/// Samples of a run's course that are kept.
const SAMPLES_MAX: usize = 2048;

/// What may happen next.
#[derive(Debug)]
pub(crate) enum Thing {
    /// A machine starts to want (or to offer) a content.
    Start { share: u32 },
    /// An engine's own alarm.
    Wake { share: u32 },
    /// Discovery has its first answers, or looks again.
    Discover { share: u32, life: u32 },
    /// A dial has run its round trips.
    Dial { from: u32, to: u32, life: u32, wanted: bool },
    /// A session stands.
    Up { to: EndId },
    /// A session has ended.
    Down { to: EndId },
    /// A control message is there.
    Said { to: EndId, message: Box<Message> },
    /// Haves that were collected go out.
    Haves { from: EndId },
    /// A machine's line away from it takes the next block.
    LineFree { machine: u32 },
    /// A piece's last block has left.
    Served { from: EndId, piece: u32, bytes: u64 },
    /// A block's last byte is there and verified.
    Block { to: EndId, piece: u32, block: u8, last: bool, bad: bool },
    /// Part of a slow block is there.
    Pulse { to: EndId, bytes: u32 },
    /// The same from an origin.
    OriginPulse { run: u32, bytes: u32 },
    /// A range's request is at the origin.
    RunBegins { run: u32 },
    /// An origin's line takes the next block.
    OriginFree { origin: u32 },
    /// An origin held up by full links tries again.
    OriginRetry { origin: u32 },
    /// A block from an origin.
    FromOrigin { run: u32, piece: u32, block: u8 },
    /// Anything else for an engine.
    Tell { share: u32, life: u32, event: Box<Event> },
    /// Something goes wrong.
    Trouble { plan: u32 },
    /// A liar claims origin duties.
    Claim { share: u32, life: u32 },
    /// People's traffic on a site's line begins or ends.
    Foreground { site: u32, index: u32, on: bool },
    /// A machine held up by a full link tries again.
    Retry { machine: u32 },
    /// A reader is through with a piece.
    Read { share: u32 },
    /// Rates of flows are due to be solved anew.
    Solve,
    /// The first flow of a solution is through.
    Flow { version: u32 },
    /// A flow is long under way: its receiver reports what has come.
    FlowPulse { number: u32 },
}

/// A place with a line to the rest.
#[derive(Debug)]
pub struct Site {
    /// As the scenario calls it, numbered where there are several.
    pub name: String,
    /// Its kind, an index into the scenario's.
    pub kind: u32,
    pub(crate) group: u32,
    pub(crate) down: LinkId,
    pub(crate) up: LinkId,
    pub(crate) latency: u64,
    pub(crate) nat: bool,
    pub(crate) isolated: bool,
    pub(crate) peers_outside: bool,
    pub(crate) budget: Budget,
}

/// A machine and its link.
#[derive(Debug)]
pub struct Machine {
    /// Its kind, an index into the scenario's.
    pub kind: u32,
    /// Where it stands.
    pub site: u32,
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    pub(crate) latency: u64,
    pub(crate) number: u32,
    pub(crate) id: NodeId,
    pub(crate) address: AddressKey,
    pub(crate) manner: Manner,
    /// Ends with blocks to send, in turn.
    pub(crate) turns: VecDeque<EndId>,
    pub(crate) sending: bool,
    /// When it tries again after full links held it up.
    pub(crate) retry_at: u64,
    /// It says and hears nothing before this.
    pub(crate) silent_until: u64,
}

/// Whether a share is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Waiting,
    /// It is.
    Online,
    /// Not any more, or not for now.
    Gone,
}

/// One content on one machine.
#[derive(Debug)]
pub struct Share {
    /// Which machine.
    pub machine: u32,
    /// Which content.
    pub content: u32,
    pub(crate) engine: Option<Engine>,
    /// Pieces whose every block was handed in as verified: what the engine may take for held, and no more.
    pub(crate) truth: Bitfield,
    pub(crate) blocks: BTreeMap<u32, u32>,
    /// Bytes of it, blocks of started pieces included.
    pub(crate) truth_bytes: u64,
    pub(crate) state: State,
    /// Counts starts.
    pub(crate) life: u32,
    pub(crate) wake_at: u64,
    pub(crate) ends: Vec<EndId>,
    pub(crate) runs: Vec<u32>,
    /// Dials of the first discovery that are under way.
    pub(crate) dials: u32,
    pub(crate) settled: bool,
    pub(crate) banned: BTreeMap<u32, u64>,
    pub(crate) online_at: [u32; 2],
    /// When it first started.
    pub started_at: u64,
    /// When it had everything.
    pub complete_at: u64,
    /// It held everything from the start.
    pub seed: bool,
    /// It is honest and expected to finish.
    pub counts: bool,
    /// Payload it sent.
    pub sent: u64,
    /// Useful payload from peers.
    pub from_peers: u64,
    /// Useful payload from origins.
    pub from_origins: u64,
    /// Trouble that waits for so much of the content.
    pub(crate) trouble_at: (u64, u32),
    /// What its engine was told that the line's budget is divided by; 0: nothing yet.
    pub(crate) line_shared_by: u32,
    /// Somebody reads it as it comes.
    pub(crate) reader: Option<Reader>,
}

/// One content, and who is at it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) layout: Arc<FlatLayout>,
    pub(crate) topic: [u8; 32],
    pub(crate) online: Vec<u32>,
    pub(crate) by_site: Vec<Vec<u32>>,
    pub(crate) origin_bytes: u64,
}

/// The course of a run, sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Microseconds since the start.
    pub at: u64,
    /// Payload that left the origins.
    pub origin_bytes: u64,
    /// Payload that crossed between sites.
    pub cross_bytes: u64,
    /// Downloads that are complete.
    pub complete: u64,
    /// Payload of no use, whatever the cause.
    pub waste: u64,
    /// Payload that was new to its receiver.
    pub useful: u64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Virtual time.
    pub now: u64,
    /// Events so far.
    pub events: u64,
    /// Downloads that are complete.
    pub complete: u64,
    /// Downloads in all.
    pub wanted: u64,
}

/// A simulated world.
#[derive(Debug)]
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) policy: Policy,
    pub(crate) now: u64,
    pub(crate) queue: Queue<Thing>,
    pub(crate) network: Network,
    pub(crate) fair: Fair,
    pub(crate) sites: Vec<Site>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) shares: Vec<Share>,
    /// First share of each machine's, by content; where every machine wants every content.
    pub(crate) share_of: BTreeMap<(u32, u32), u32>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) contents: Vec<Content>,
    pub(crate) origins: Vec<Origin>,
    pub(crate) runs: Vec<Run>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) random: Random,
    pub(crate) books: Books,
    pub(crate) violation: Option<Violation>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) trace: u64,
    pub(crate) events: u64,
    pub(crate) engine_events: u64,
    pub(crate) complete: u64,
    pub(crate) wanted: u64,
    pub(crate) cross_bytes: u64,
    pub(crate) control_messages: u64,
    pub(crate) samples: Vec<Sample>,
    sample_every: u64,
    next_sample: u64,
    pub(crate) payload_factor: u64,
    /// Some machine was silent at some time.
    pub(crate) silence: bool,
    /// Room for one engine's actions, used again and again.
    actions: Vec<Action>,
}

impl World {
    /// Runs until everybody who can has everything, nothing more can happen, or the scenario's time is up. `progress` is
    /// called now and then.
    pub fn run(&mut self, progress: &mut dyn FnMut(&Progress)) {
        while self.complete < self.wanted && self.violation.is_none() {
            let Some((at, thing)) = self.queue.take() else { break };
            if at > self.scenario.stop_after.0 {
                self.now = self.scenario.stop_after.0;
                break;
            }
            self.now = self.now.max(at);
            self.events += 1;
            if self.now >= self.next_sample {
                self.sample();
            }
            if self.events & 0xffff == 0 {
                progress(&self.progress());
            }
            self.happen(thing);
            self.check_books();
        }
        self.sample();
        self.check_end();
    }

    fn progress(&self) -> Progress {
        Progress { now: self.now, events: self.events, complete: self.complete, wanted: self.wanted }
    }

    fn sample(&mut self) {
        self.samples.push(Sample {
            at: self.now,
            origin_bytes: self.books.origin_sent,
            cross_bytes: self.cross_bytes,
            complete: self.complete,
            waste: self.books.waste(),
            useful: self.books.useful,
        });
        if self.samples.len() >= SAMPLES_MAX {
            let mut number = 0u32;
            self.samples.retain(|_| {
                number += 1;
                number.is_multiple_of(2)
            });
            self.sample_every *= 2;
        }
        self.next_sample = self.now + self.sample_every;
    }

    /// Folds what happened into the trace: two runs with one seed must agree on every bit of it.
    pub(crate) fn fold(&mut self, kind: u64, a: u64, b: u64) {
        let word = mix(kind ^ a.rotate_left(8) ^ b.rotate_left(40));
        self.trace = mix(self.trace ^ word ^ self.now.rotate_left(20));
    }

    pub(crate) fn at(&mut self, at: u64, thing: Thing) {
        self.queue.put(at, thing);
    }

    /// The machine that a thing happens to, where being silent puts it off.
    fn whose(&self, thing: &Thing) -> Option<u32> {
        let share = match thing {
            Thing::Wake { share }
            | Thing::Discover { share, .. }
            | Thing::Tell { share, .. }
            | Thing::Claim { share, .. } => *share,
            Thing::Up { to } | Thing::Said { to, .. } | Thing::Block { to, .. } | Thing::Pulse { to, .. } => {
                self.end(*to).share
            }
            Thing::Served { from, .. } | Thing::Haves { from } => self.end(*from).share,
            Thing::LineFree { machine } | Thing::Retry { machine } => return Some(*machine),
            Thing::Dial { to, .. } => *to,
            Thing::FromOrigin { run, .. } | Thing::OriginPulse { run, .. } => self.runs[*run as usize].share,
            _ => return None,
        };
        Some(self.shares[share as usize].machine)
    }

    fn happen(&mut self, thing: Thing) {
        // Looked at only where anybody ever falls silent: it costs a walk through memory for every event.
        if self.silence
            && let Some(machine) = self.whose(&thing)
        {
            let until = self.machines[machine as usize].silent_until;
            if until > self.now {
                return self.at(until, thing);
            }
        }
        match thing {
            Thing::Start { share } => self.start(share),
            Thing::Wake { share } => {
                if self.shares[share as usize].wake_at == self.now {
                    self.shares[share as usize].wake_at = NEVER;
                    self.tell(share, Event::Tick);
                }
            }
            Thing::Discover { share, life } => self.discover(share, life),
            Thing::Dial { from, to, life, wanted } => self.dialled(from, to, life, wanted),
            Thing::Up { to } => self.session_up(to),
            Thing::Down { to } => self.session_down(to),
            Thing::Said { to, message } => self.heard(to, *message),
            Thing::Haves { from } => self.send_haves(from),
            Thing::LineFree { machine } => {
                self.machines[machine as usize].sending = false;
                self.send_block(machine);
            }
            Thing::Served { from, piece, bytes } => self.piece_served(from, piece, bytes),
            Thing::Block { to, piece, block, last, bad } => self.block_arrives(to, piece, block, last, bad),
            Thing::Pulse { to, bytes } => self.pulse(to, bytes),
            Thing::OriginPulse { run, bytes } => self.origin_pulse(run, bytes),
            Thing::RunBegins { run } => self.run_begins(run),
            Thing::OriginFree { origin } => {
                self.origins[origin as usize].sending = false;
                self.origin_send(origin);
            }
            Thing::OriginRetry { origin } => {
                self.origins[origin as usize].retry_at = NEVER;
                self.origin_send(origin);
            }
            Thing::FromOrigin { run, piece, block } => self.origin_block(run, piece, block),
            Thing::Tell { share, life, event } => {
                if self.shares[share as usize].life == life {
                    self.tell(share, *event);
                }
            }
            Thing::Trouble { plan } => self.trouble(plan),
            Thing::Claim { share, life } => self.claim(share, life),
            Thing::Foreground { site, index, on } => self.foreground(site, index, on),
            Thing::Retry { machine } => {
                self.machines[machine as usize].retry_at = NEVER;
                self.send_block(machine);
            }
            Thing::Read { share } => self.read(share),
            Thing::Solve => self.solve(),
            Thing::Flow { version } => self.flows_end(version),
            Thing::FlowPulse { number } => self.flow_pulse(number),
        }
    }

    /// One event for one engine, then all of its actions, as the node does it.
    pub(crate) fn tell(&mut self, share: u32, event: Event) {
        let it = &mut self.shares[share as usize];
        let Some(mut engine) = it.engine.take() else { return };
        self.engine_events += 1;
        if let Some(recorder) = self.recorder.as_mut().filter(|recorder| recorder.share == share) {
            recorder.event(self.now, &event);
        }
        engine.handle(self.now, event);
        // The engine is put back before it is acted for: what it does may end the share.
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(action) = engine.poll_action() {
            actions.push(action);
        }
        if let Some(recorder) = self.recorder.as_mut().filter(|recorder| recorder.share == share) {
            recorder.actions(&actions);
        }
        let wake = engine.next_wake().map(|at| at.max(self.now + 1));
        self.check_step(share, &engine);
        self.shares[share as usize].engine = Some(engine);
        for action in actions.drain(..) {
            self.act(share, action);
        }
        self.actions = actions;
        let it = &mut self.shares[share as usize];
        if let Some(at) = wake.filter(|at| *at < it.wake_at)
            && it.engine.is_some()
        {
            it.wake_at = at;
            self.at(at, Thing::Wake { share });
        }
    }

    fn act(&mut self, share: u32, action: Action) {
        match action {
            Action::Send { peer, message } => self.say(share, peer, message),
            Action::Serve { peer, piece, first_block } => self.serve(share, peer, piece, first_block),
            Action::CancelServe { peer, piece } => self.cancel_serve(share, peer, piece),
            Action::Fetch { fetch, source, pieces } => self.fetch(share, fetch, source, pieces),
            Action::CancelFetch { fetch } => self.cancel_fetch(share, fetch),
            Action::Connect { member } => self.connect(share, &member),
            Action::Ban { peer, lasts, .. } => {
                self.fold(40, u64::from(share), peer.0);
                self.books.bans += 1;
                self.ban(share, peer, lasts.as_micros() as u64);
            }
            Action::Disconnect { peer } => {
                self.fold(41, u64::from(share), peer.0);
                self.close(share, peer);
            }
            Action::DropSource { source, .. } => {
                self.fold(42, u64::from(share), u64::from(source.0));
                self.books.sources_dropped += 1;
            }
            Action::Complete => self.completed(share),
        }
    }

    fn completed(&mut self, share: u32) {
        self.fold(43, u64::from(share), 0);
        let it = &mut self.shares[share as usize];
        let honest = self.machines[it.machine as usize].manner.downloads();
        if it.complete_at != NEVER || it.seed || !honest {
            return;
        }
        it.complete_at = self.now;
        if !it.truth.is_complete() {
            return self.violate(share, "says that it is complete, and is not".into());
        }
        if it.counts {
            self.complete += 1;
        }
        let machine = it.machine;
        self.share_line(machine);
        self.leave_later(share);
    }

    /// A block is verified and stored: the truth first, then the engine.
    pub(crate) fn store(&mut self, share: u32, supplier: Supplier, piece: u32, block: u8) -> bool {
        let layout = &self.contents[self.shares[share as usize].content as usize].layout;
        let index = PieceIndex(piece);
        let count = layout.block_count(index).unwrap_or(1);
        let bytes = layout.block_length(index, BlockIndex(u32::from(block))).unwrap_or(0);
        let it = &mut self.shares[share as usize];
        let fresh = if it.truth.has(index) {
            false
        } else if count == 1 {
            it.truth.set(index)
        } else {
            let bits = it.blocks.entry(piece).or_default();
            let fresh = *bits & (1 << block) == 0;
            *bits |= 1 << block;
            if bits.count_ones() >= count {
                it.blocks.remove(&piece);
                it.truth.set(index);
            }
            fresh
        };
        if fresh {
            it.truth_bytes += bytes;
            match supplier {
                Supplier::Peer(_) => it.from_peers += bytes,
                Supplier::Source(_) => it.from_origins += bytes,
            }
        }
        self.tell(share, Event::BlockStored { supplier, piece: index, block: BlockIndex(u32::from(block)) });
        self.read(share);
        // An engine says so once; one that lost a piece and has it again does not say so twice.
        if self.shares[share as usize].truth.is_complete() {
            self.completed(share);
        }
        let it = &self.shares[share as usize];
        if it.trouble_at.0 <= it.truth_bytes && it.state == State::Online {
            let plan = it.trouble_at.1;
            self.shares[share as usize].trouble_at.0 = NEVER;
            self.trouble(plan);
        }
        fresh
    }

    /// The first share of a machine; `None` where there is no such machine, or it wants nothing.
    pub fn share_of(&self, machine: u32) -> Option<u32> {
        self.shares.iter().position(|share| share.machine == machine).map(|share| share as u32)
    }

    /// Records one share's engine from now on.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Ends the record. What went wrong with it, if anything did.
    pub fn record_failed(&mut self) -> Option<std::io::Error> {
        self.recorder.take().and_then(Recorder::finish)
    }

    /// Virtual time.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The machines.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The shares: one a machine and content.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }
}
