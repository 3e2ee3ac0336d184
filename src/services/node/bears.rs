//! [`Machine`]: what the machine can bear, as the engines are told it.

use std::sync::{MutexGuard, PoisonError};

use crate::services::node::Inner;
use crate::swarm::event::Event;

/// What a machine can bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// It takes origin duty for others.
    pub duties: bool,
    /// It is likely to stay.
    pub stable: bool,
    /// It is behind an access point.
    pub shared_air: bool,
}

impl Default for Machine {
    /// As an engine takes it to be that is told nothing.
    fn default() -> Self {
        Self { duties: true, stable: true, shared_air: false }
    }
}

impl Machine {
    /// What engines must hear that were told of `before`.
    pub(crate) fn news(self, before: Self) -> impl Iterator<Item = Event> {
        let duties = (self.duties != before.duties).then_some(Event::DutiesAllowed(self.duties));
        let stable = (self.stable != before.stable).then_some(Event::Stable(self.stable));
        let air = (self.shared_air != before.shared_air).then_some(Event::SharedAir(self.shared_air));
        [duties, stable, air].into_iter().flatten()
    }
}

impl Inner {
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
