//! What a simulated machine thinks with: the engine itself, or a plain one for comparison.

use piecework::content::bitfield::Bitfield;
use piecework::swarm::event::{Action, Event};
use piecework::swarm::{Stats, Swarm, Uptime};

use crate::plain::Plain;

/// One content's delivery on one machine.
#[derive(Debug)]
pub enum Engine {
    /// The engine of the node.
    Swarm(Box<Swarm>),
    /// A plain one.
    Plain(Box<Plain>),
}

impl Engine {
    /// Takes in one event. Drain all actions before the next.
    pub fn handle(&mut self, now: u64, event: Event) {
        match self {
            Self::Swarm(swarm) => swarm.handle(Uptime::from_micros(now), event),
            Self::Plain(plain) => plain.handle(now, event),
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        match self {
            Self::Swarm(swarm) => swarm.poll_action(),
            Self::Plain(plain) => plain.poll_action(),
        }
    }

    /// When it wants to be woken.
    pub fn next_wake(&self) -> Option<u64> {
        match self {
            Self::Swarm(swarm) => swarm.next_wake().map(Uptime::micros),
            Self::Plain(plain) => plain.next_wake(),
        }
    }

    /// Pieces that it takes for held.
    pub fn held(&self) -> &Bitfield {
        match self {
            Self::Swarm(swarm) => swarm.held(),
            Self::Plain(plain) => plain.held(),
        }
    }

    /// Panics where the engine's own books do not close or a bound of its own is passed.
    #[cfg(debug_assertions)]
    pub fn check(&self) {
        if let Self::Swarm(swarm) = self {
            swarm.check();
        }
    }

    /// The engine's own counters; a plain one keeps none.
    pub fn stats(&self) -> Option<&Stats> {
        match self {
            Self::Swarm(swarm) => Some(swarm.stats()),
            Self::Plain(_) => None,
        }
    }
}
