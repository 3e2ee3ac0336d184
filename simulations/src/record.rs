//! A log of what one engine was told and what it wanted.

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::FlatLayout;
use piecework::swarm::Options;
use piecework::swarm::event::{Action, AddressKey, Event, NodeId};

/// Writes the log of one share.
#[derive(Debug)]
pub struct Recorder {
    pub(crate) share: u32,
}

impl Recorder {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn begin(
        &self,
        _: &FlatLayout,
        _: &Bitfield,
        _: &Options,
        _: NodeId,
        _: AddressKey,
        _: [u8; 32],
        _: u64,
    ) {
    }
    pub(crate) fn event(&mut self, _now: u64, _event: &Event) {}
    pub(crate) fn actions(&mut self, _actions: &[Action]) {}
}
