//! The engine: events in, actions out. Pure: no socket, no disk, no clock, no entropy; payload never enters.
//!
//! The calling contract: [`Swarm::handle`] one event, [`Swarm::poll_action`] until `None`, then wait until
//! [`Swarm::next_wake`] (and hand in [`event::Event::Tick`]) or the next event. Read `event` first.

pub mod error;
pub mod event;
mod options;
mod stats;
mod timer;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
pub use crate::swarm::error::Error;
use crate::swarm::event::{Action, AddressKey, Event, NodeId};
pub use crate::swarm::options::Options;
pub use crate::swarm::stats::Stats;
pub use crate::swarm::timer::Uptime;
pub use crate::swarm::view::{Fault, PeerView, SourceView};

/// One manifest's delivery as one node sees it.
pub struct Swarm {
    layout: Arc<FlatLayout>,
    held: Bitfield,
    actions: VecDeque<Action>,
    stats: Stats,
    now: Uptime,
}

impl Swarm {
    /// A swarm over `layout` of which `held` is here already, with the stored blocks of started pieces in `partial`.
    /// `me` and `my_address` are this node as its peers see it; all randomness comes from `seed`.
    ///
    /// # Errors
    /// [`Error::BitfieldLength`] where `held` is of another layout.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        layout: Arc<FlatLayout>,
        held: Bitfield,
        partial: Vec<(PieceIndex, Vec<BlockIndex>)>,
        options: Options,
        me: NodeId,
        my_address: AddressKey,
        seed: [u8; 32],
        now: Uptime,
    ) -> Result<Self, Error> {
        let _ = (partial, options, me, my_address, seed);
        if held.piece_count() != layout.piece_count() {
            return Err(Error::BitfieldLength { expected: layout.piece_count(), found: held.piece_count() });
        }
        Ok(Self { layout, held, actions: VecDeque::new(), stats: Stats::default(), now })
    }

    /// Takes in one event. Drain all actions before the next.
    pub fn handle(&mut self, now: Uptime, event: Event) {
        self.now = self.now.max(now);
        let _ = event;
    }

    /// The next thing to do; `None`: nothing until the next event or wake.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to hand in [`Event::Tick`] if nothing else happens before.
    pub fn next_wake(&self) -> Option<Uptime> {
        None
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The pieces held.
    pub fn held(&self) -> &Bitfield {
        &self.held
    }

    /// Bytes held, blocks of started pieces included.
    pub fn bytes_held(&self) -> u64 {
        0
    }

    /// Bytes of the whole layout.
    pub fn bytes_total(&self) -> u64 {
        self.layout.total_bytes()
    }

    /// Whether every wanted piece is held.
    pub fn is_complete(&self) -> bool {
        self.held.is_complete()
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        std::iter::empty()
    }

    /// The sources, dropped ones included.
    pub fn sources(&self) -> impl Iterator<Item = SourceView> + '_ {
        std::iter::empty()
    }

    /// Since when no byte has arrived (the start, if none ever did); `None` once complete.
    pub fn stalled_since(&self) -> Option<Uptime> {
        None
    }

    /// Since when neither a connected peer holds a missing piece nor a source may be asked for one; `None` while one
    /// does, and once complete. A source that rests after a fault still counts as one.
    pub fn without_supplier_since(&self) -> Option<Uptime> {
        None
    }

    /// The last faults of peers and sources, oldest first; at most 16.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> + '_ {
        std::iter::empty()
    }
}
