//! After sleep: what the machine believed before it stood still is worth nothing.

use crate::swarm::Swarm;
use crate::swarm::event::{Action, FetchId, PeerKey};
use crate::swarm::fallback::Fallback;
use crate::swarm::limits::{HOUSEKEEPING, SETTLE_MAX, SETTLE_PART};
use crate::swarm::timer::{Timer, Uptime};

impl Swarm {
    /// No session and no lease outlives sleep: peers are sent away without offence, ranges begin anew, and discovery has
    /// to settle again. What is held stays held, and nobody is blamed for the silence.
    pub(crate) fn woke(&mut self) {
        let peers: Vec<PeerKey> = self.peers.values().map(|peer| peer.key).collect();
        for peer in peers {
            self.remove_peer(peer);
            self.actions.push_back(Action::Disconnect { peer });
        }
        let fetches: Vec<FetchId> = self.fetches.keys().copied().collect();
        fetches.into_iter().for_each(|fetch| self.cancel_fetch(fetch));
        for source in self.sources.values_mut() {
            (source.resting_until, source.faults_in_row) = (Uptime::ZERO, 0);
        }
        self.duty.forget_leases();
        self.fallback = Fallback::default();
        self.isolation.forget();
        (self.started, self.received_at) = (self.now, self.now);
        self.unsupplied_since = self.unsupplied_since.map(|_| self.now);
        self.hold_since = None;
        if !self.options.no_peers {
            self.settled = false;
            self.settle_left = (self.pieces.layout().piece_count() / SETTLE_PART).max(1);
            self.timers.set(Timer::Settle, self.now.after(SETTLE_MAX));
        }
        if !self.is_complete() {
            self.timers.set(Timer::Housekeeping, self.now.after(HOUSEKEEPING));
        }
    }
}
