//! What the caller decides about one swarm.

use std::ops::Range;
use std::time::Duration;

use crate::swarm::limits::{HAVE_BATCH, LINE_PER_GATEWAY};

/// Settings of one swarm. Every node of one content must agree on `topic`, `origin_gateways` and `line_budget`, since ranking for
/// origin duty is computed by each for itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Options {
    /// What ranking is keyed by: the manifest id or content id, so that contents spread over different gateways.
    pub topic: [u8; 32],
    /// No peers at all (mode http-only): no settling, no duty; everything comes from the sources.
    pub no_peers: bool,
    /// This network isolated its machines from each other not long ago (see [`crate::swarm::Swarm::is_isolated`]): sources
    /// are asked at once, until a peer is connected.
    pub isolated_before: bool,
    /// Pieces in strict order, to compare with; else rarest first, and ahead of a reader in order (see
    /// [`crate::swarm::event::Event::ReaderAt`]).
    pub sequential: bool,
    /// The last piece before all others: it proves the length where only a content id is known.
    pub last_piece_first: bool,
    /// What has arrived is told peers together after this long; longer saves messages and delays what others do next.
    pub have_batch: Duration,
    /// Interested peers that are served at a time; 0: no uploads.
    pub upload_slots: u32,
    /// Nodes of a site that fetch from the origin; fewer where `line_budget` is small.
    pub origin_gateways: u32,
    /// Ranges under way at a time from one source.
    pub origin_connections: u32,
    /// How long HTTP waits for pieces that are another's duty or that a peer holds.
    pub http_delay: Duration,
    /// Bytes per second from peers below which HTTP is blended in, though peers hold the pieces (see `cost`).
    pub min_rate: u64,
    /// Bytes per second that may cross the site's line towards it, from peers of other sites and from sources together,
    /// over all members of the site; 0: no limit. Each gateway takes its part.
    pub line_budget: u64,
    /// Nobody waits for it: bytes come as a polite flow (see [`crate::swarm::pace`]), which the node sees to.
    pub background: bool,
    /// When everything should be here, from the swarm's start on: as much is taken from dearer suppliers as that needs.
    /// In the background this takes the place of `min_rate`.
    pub deadline: Option<Duration>,
    /// Pieces that are not to be downloaded, flat.
    pub unwanted: Vec<Range<u32>>,
}

impl Options {
    /// Nodes of a site that fetch from the origin: where the line has a budget, no more than it has work for, since each may
    /// ask for a piece at once.
    pub(crate) fn gateways(&self) -> u32 {
        match self.line_budget {
            0 => self.origin_gateways,
            budget => {
                let busy = u32::try_from(budget / LINE_PER_GATEWAY).unwrap_or(u32::MAX);
                self.origin_gateways.min(busy.max(1))
            }
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            topic: [0; 32],
            no_peers: false,
            isolated_before: false,
            sequential: false,
            last_piece_first: false,
            have_batch: HAVE_BATCH,
            upload_slots: 8,
            origin_gateways: 8,
            origin_connections: 4,
            http_delay: Duration::ZERO,
            min_rate: 500_000,
            line_budget: 0,
            background: false,
            deadline: None,
            unwanted: Vec::new(),
        }
    }
}
