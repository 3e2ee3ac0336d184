//! Payload where flows share links fairly, instead of block after block. For small worlds, to check the other way.

use piecework::swarm::event::{Event, SourceKey, Supplier};

use crate::fair::Carried;
use crate::network::Path;
use crate::world::session::key_of;
use crate::world::{Thing, World};

/// A flow's receiver reports this often what has come.
const PULSE: u64 = 500_000;
/// And not less than this.
const PULSE_BYTES: u64 = 64 << 10;

impl World {
    pub(crate) fn begin_flow(&mut self, what: Carried, mut paths: (Path, Path), bytes: u64) {
        if let Carried::Block { from, .. } = what
            && self.end(from).flowed_at == 0
        {
            paths.0.latency += self.network.slow_start(&paths.0, 2 * paths.0.latency);
        }
        let path = paths.0;
        let number = self.fair.begin(&mut self.network, what, paths, bytes, self.now);
        self.at(self.now, Thing::Solve);
        self.at(self.now + path.latency + PULSE, Thing::FlowPulse { number });
    }

    /// One solution for all flows that came or went at this moment.
    pub(crate) fn solve(&mut self) {
        if self.fair.dirty
            && let Some(at) = self.fair.solve(&mut self.network, self.now)
        {
            let version = self.fair.version;
            self.at(at, Thing::Flow { version });
        }
    }

    pub(crate) fn flows_end(&mut self, version: u32) {
        if self.fair.version != version {
            return;
        }
        let verify = self.scenario.model.verify.0;
        for (what, latency) in self.fair.finished(&mut self.network, self.now) {
            match what {
                Carried::Block { from, piece, block, last, bad } => {
                    let now = self.now;
                    let end = self.end_mut(from);
                    end.flowing = false;
                    let there = (now + latency + verify).max(end.flowed_at);
                    end.flowed_at = there;
                    self.at(there, Thing::Block { to: from ^ 1, piece, block, last: last.is_some(), bad });
                    if let Some(bytes) = last {
                        self.at(self.now, Thing::Served { from, piece, bytes });
                        self.deliver_behind(from);
                    }
                    let machine = self.shares[self.end(from).share as usize].machine;
                    self.take_turn(machine, from);
                    self.send_block(machine);
                }
                Carried::Range { run, piece, block } => {
                    self.runs[run as usize].flowing = false;
                    self.at(self.now + latency + verify, Thing::FromOrigin { run, piece, block });
                    self.run_turns(run);
                    let origin = self.runs[run as usize].origin;
                    self.origin_send(origin);
                }
            }
        }
        self.at(self.now, Thing::Solve);
    }

    pub(crate) fn flow_pulse(&mut self, number: u32) {
        let Some((what, bytes)) = self.fair.progress(&mut self.network, number, self.now) else { return };
        self.at(self.now + PULSE, Thing::FlowPulse { number });
        if bytes < PULSE_BYTES {
            return;
        }
        let (share, supplier) = match what {
            Carried::Block { from, .. } => {
                let to = self.end(from ^ 1);
                if !to.open {
                    return;
                }
                (to.share, Supplier::Peer(key_of(from ^ 1)))
            }
            Carried::Range { run, .. } => {
                let run = &self.runs[run as usize];
                if run.cancelled || self.shares[run.share as usize].life != run.life {
                    return;
                }
                (run.share, Supplier::Source(SourceKey(run.origin)))
            }
        };
        self.tell(share, Event::Receiving { supplier, bytes });
    }
}
