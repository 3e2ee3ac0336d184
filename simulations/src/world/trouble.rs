//! What goes wrong with machines, and liars' own deeds.

use std::time::Duration;

use piecework::swarm::event::{Event, Message};

use crate::scenario::TroubleKind;
use crate::world::build::DAY;
use crate::world::session::VANISHED;
use crate::world::{NEVER, State, Thing, World};

/// Something that will go wrong with one share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) share: u32,
    /// `None`: it leaves because it is done.
    pub(crate) kind: Option<TroubleKind>,
    /// For how long; [`NEVER`]: for good.
    pub(crate) lasts: u64,
    /// Peers are told before.
    pub(crate) announced: bool,
}

impl World {
    /// A share that holds everything leaves after its kind's `stay`, for good or until its hour of the next day.
    pub(crate) fn leave_later(&mut self, share: u32) {
        let it = &self.shares[share as usize];
        let kind = &self.scenario.machines[self.machines[it.machine as usize].kind as usize];
        let Some(stay) = kind.stay else { return };
        let leaves_at = self.now + stay.0;
        let lasts = if kind.daily { DAY - (leaves_at - it.started_at) % DAY } else { NEVER };
        let plan = self.plans.len() as u32;
        self.plans.push(Plan { share, kind: None, lasts, announced: false });
        self.at(leaves_at, Thing::Trouble { plan });
    }

    /// Whether a machine is one that things go wrong with; a ban of it may be deserved.
    pub(crate) fn plans_touch(&self, machine: u32) -> bool {
        self.plans.iter().any(|plan| plan.kind.is_some() && self.shares[plan.share as usize].machine == machine)
    }

    pub(crate) fn trouble(&mut self, plan: u32) {
        let Plan { share, kind, lasts, announced } = self.plans[plan as usize];
        if self.shares[share as usize].state != State::Online {
            return;
        }
        self.fold(80, u64::from(share), kind.map_or(0, |kind| kind as u64 + 1));
        match kind {
            None | Some(TroubleKind::Die) => self.stop(share, lasts, 0),
            Some(TroubleKind::Sleep) if announced => {
                self.tell(share, Event::Sleeping);
                self.stop(share, lasts, 0);
            }
            Some(TroubleKind::Vanish | TroubleKind::Sleep) => self.stop(share, lasts, VANISHED),
            Some(TroubleKind::Silence) => {
                let machine = self.shares[share as usize].machine;
                self.machines[machine as usize].silent_until = self.now + lasts;
                self.silence = true;
            }
            Some(TroubleKind::Rot) => self.rot(share),
            Some(TroubleKind::Lie) => {}
        }
    }

    /// A share ends, for good or for a while. `late`: how long its peers take to see it.
    fn stop(&mut self, share: u32, lasts: u64, late: u64) {
        self.go_offline(share);
        let it = &mut self.shares[share as usize];
        it.state = State::Gone;
        it.engine = None;
        // What comes for the former life is void.
        it.life += 1;
        (it.dials, it.settled) = (0, false);
        for end in std::mem::take(&mut it.ends) {
            self.shut_end(end);
            self.hang_up(end ^ 1, late);
        }
        for run in std::mem::take(&mut self.shares[share as usize].runs) {
            self.runs[run as usize].cancelled = true;
        }
        self.share_line(self.shares[share as usize].machine);
        if lasts != NEVER {
            self.at(self.now + lasts, Thing::Start { share });
        }
    }

    /// One held piece turns out rotten.
    fn rot(&mut self, share: u32) {
        let it = &self.shares[share as usize];
        let held = it.truth.held_count();
        if held == 0 {
            return;
        }
        let place = self.random.below(u64::from(held)) as usize;
        let Some(piece) = self.shares[share as usize].truth.iter_held().nth(place) else { return };
        let bytes = self.contents[self.shares[share as usize].content as usize].layout.piece_length(piece).unwrap_or(0);
        let it = &mut self.shares[share as usize];
        it.truth.clear(piece);
        it.truth_bytes -= bytes;
        self.books.rotten += bytes;
        if it.complete_at != NEVER && it.counts {
            // It was done, and is not any more.
            it.complete_at = NEVER;
            self.complete -= 1;
        }
        self.tell(share, Event::LocalLost { piece });
    }

    /// A liar that claims duties says once more to everybody that it fetches some part of the content.
    pub(crate) fn claim(&mut self, share: u32, life: u32) {
        let it = &self.shares[share as usize];
        if it.life != life || it.state != State::Online {
            return;
        }
        let count = u64::from(self.contents[it.content as usize].layout.piece_count());
        for end in it.ends.clone() {
            let first = self.random.below(count) as u32;
            let pieces = std::iter::once(first..(first + 64).min(count as u32)).collect();
            self.deliver(end, Message::Intent { pieces, lease: Duration::from_secs(60) });
        }
        self.at(self.now + 2_000_000, Thing::Claim { share, life });
    }

    pub(crate) fn foreground(&mut self, site: u32, index: u32, on: bool) {
        let plan = self.scenario.foreground[index as usize].clone();
        let link = self.sites[site as usize].down;
        let taken = &mut self.network.link_mut(link).foreground;
        *taken = if on { taken.saturating_add(plan.down.0) } else { taken.saturating_sub(plan.down.0) };
        let Some(burst) = plan.burst else {
            if on {
                self.at(plan.until.0, Thing::Foreground { site, index, on: false });
            }
            return;
        };
        let next = self.now + burst.0.max(1000);
        if on || next < plan.until.0 {
            self.at(next.min(plan.until.0), Thing::Foreground { site, index, on: !on });
        }
    }
}
