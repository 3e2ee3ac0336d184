//! What a swarm shows of itself: progress, peers and sources as data, for status lines and error messages.

use crate::swarm::event::{BanReason, NodeId, PeerKey, Scope, SourceFault, SourceKey};
use crate::swarm::timer::Uptime;

/// One connected peer as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Its number.
    pub peer: PeerKey,
    /// Its identity.
    pub id: NodeId,
    /// How near it is.
    pub scope: Scope,
    /// Pieces it says it holds.
    pub held_count: u32,
    /// Verified payload bytes from it, duplicates included.
    pub bytes_in: u64,
    /// Payload bytes sent to it.
    pub bytes_out: u64,
    /// Bytes per second from it, over the last few seconds.
    pub rate_in: u64,
    /// Bytes per second to it, over the last few seconds.
    pub rate_out: u64,
    /// It gives us no uploads now.
    pub they_choke: bool,
    /// We give it no uploads now.
    pub we_choke: bool,
    /// It wants what we hold.
    pub they_are_interested: bool,
    /// We want what it holds.
    pub we_are_interested: bool,
    /// Requests it owes an answer.
    pub outstanding: u32,
    /// It let requests run out and is asked one piece at a time.
    pub snubbed: bool,
    /// It sent bad bytes and is asked one piece at a time.
    pub on_parole: bool,
}

/// One HTTP source as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceView {
    /// Its number.
    pub source: SourceKey,
    /// Verified payload bytes from it.
    pub bytes: u64,
    /// Bytes per second from it, over the last few seconds.
    pub rate: u64,
    /// Ranges under way.
    pub fetches: u32,
    /// Its last fault.
    pub last_fault: Option<SourceFault>,
    /// Not asked before this.
    pub resting_until: Option<Uptime>,
    /// It is out for this download.
    pub dropped: bool,
}

/// Something that went wrong with a supplier; the last few are kept for the error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A source failed.
    Source {
        /// Which.
        source: SourceKey,
        /// How.
        fault: SourceFault,
        /// When.
        at: Uptime,
    },
    /// A peer was sent away.
    Peer {
        /// Its number.
        peer: PeerKey,
        /// Its identity.
        id: NodeId,
        /// Why.
        reason: BanReason,
        /// When.
        at: Uptime,
    },
}
