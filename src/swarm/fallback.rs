//! When pieces that peers hold leave the swarm for a source all the same: peers are too slow, or give nothing.

use std::time::Duration;

use crate::content::layout::BLOCK_BYTES;
use crate::swarm::Swarm;
use crate::swarm::cost::{self, Reach};
use crate::swarm::limits::{FALLBACK_CROWD, FALLBACK_FULL, FALLBACK_GRACE, FALLBACK_SHARE_MAX};
use crate::swarm::peers::Role;
use crate::swarm::rate::time_for;
use crate::swarm::timer::Uptime;

/// How far sources may be used for pieces that peers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// Not at all.
    #[default]
    Off,
    /// One range at a time beside the peers.
    Blend,
    /// As if the peers held nothing.
    Full,
}

/// Since when peers have been slower than asked for.
#[derive(Debug, Default)]
pub(crate) struct Fallback {
    slow_since: Option<Uptime>,
    /// Last payload from a peer.
    arrived_at: Option<Uptime>,
    /// Others of the site lack something too.
    crowd: bool,
    /// The deadline would be missed at the rate at which bytes come now, from whomever.
    late: bool,
    pub(crate) level: Level,
}

impl Fallback {
    /// Payload came from a peer.
    pub(crate) fn arrived(&mut self, now: Uptime) {
        self.arrived_at = Some(now);
        if !self.late {
            self.level = self.level.min(Level::Blend);
        }
    }

    /// Whether peers are slower than asked for.
    pub(crate) fn is_on(&self) -> bool {
        self.level != Level::Off
    }

    /// Whether this node may fetch pieces that are others' duty.
    pub(crate) fn for_itself(&self, now: Uptime) -> bool {
        !self.crowd || self.slow_since.is_some_and(|since| now.since(since) >= FALLBACK_CROWD)
    }

    /// Judges anew. `waiting`: peers hold something we lack. `enough`: no source need help with it. `late`: see there.
    fn judge(&mut self, waiting: bool, enough: bool, late: bool, grace: Duration, now: Uptime) {
        if !waiting || enough {
            (self.slow_since, self.late, self.level) = (None, false, Level::Off);
            return;
        }
        self.late = late;
        let slow_since = *self.slow_since.get_or_insert(now);
        let silent_since = self.arrived_at.map_or(slow_since, |at| at.max(slow_since));
        // One range at a time is tried first also where time is short: it may do.
        let full_since = if late { slow_since } else { silent_since };
        self.level = if now.since(full_since) >= grace.saturating_add(FALLBACK_FULL) {
            Level::Full
        } else if now.since(slow_since) >= grace {
            Level::Blend
        } else {
            Level::Off
        };
    }
}

impl Swarm {
    pub(crate) fn look_at_fallback(&mut self) {
        let waiting = self.peers.count(Role::Useful) > 0;
        let lacking = self.peers.count(Role::Lacking) as u64;
        let asked = self.options.min_rate / (1 + lacking).min(FALLBACK_SHARE_MAX);
        let need = self.need(asked);
        // Pieces come whole: at the rate that is asked for one takes so long, and nothing is seen of it before.
        let block = self.piece_bytes().min(BLOCK_BYTES);
        let piece = if need.asked() > 1 { time_for(block, need.asked()).min(FALLBACK_CROWD) } else { Duration::ZERO };
        let grace = FALLBACK_GRACE.max(piece).max(self.options.http_delay);
        let grace = if lacking == 0 || self.duty.am_gateway() { grace } else { grace.max(FALLBACK_CROWD) };
        self.fallback.crowd = lacking > 0;
        let rates = self.peer_rates.by_reach(self.now, self.started);
        let enough = cost::reach(&rates, &need) < Reach::Origin;
        let late = need.time_left.is_some() && self.arrivals.rate(self.now, self.started) < need.asked();
        self.fallback.judge(waiting, enough, late, grace, self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Uptime {
        Uptime::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn in_a_crowd_pieces_of_others_are_left_to_them_for_a_while() {
        let mut fallback = Fallback { crowd: true, ..Fallback::default() };
        fallback.judge(true, false, false, GRACE, at(1));
        assert!(!fallback.for_itself(at(1).after(FALLBACK_CROWD / 2)));
        assert!(fallback.for_itself(at(1).after(FALLBACK_CROWD)));
        fallback.crowd = false;
        assert!(fallback.for_itself(at(1)));
    }

    #[test]
    fn slow_peers_are_helped_and_silent_ones_replaced() {
        let mut fallback = Fallback::default();
        let mut level = |waiting, rate, second, arrived: bool| {
            if arrived {
                fallback.arrived(at(second));
            }
            fallback.judge(waiting, rate >= 100, false, GRACE, at(second));
            fallback.level
        };
        assert_eq!(level(true, 100, 0, true), Level::Off);
        assert_eq!(level(true, 99, 1, true), Level::Off);
        assert_eq!(level(true, 99, 5, true), Level::Blend);
        assert_eq!(level(true, 0, 12, false), Level::Blend);
        assert_eq!(level(true, 0, 13, false), Level::Full);
        assert_eq!(level(true, 50, 14, true), Level::Blend);
        assert_eq!(level(false, 0, 15, false), Level::Off);
        assert_eq!(level(true, 0, 16, false), Level::Off);
    }

    #[test]
    fn where_time_is_short_sources_are_used_though_peers_deliver() {
        let mut fallback = Fallback::default();
        let mut level = |late, second| {
            fallback.arrived(at(second));
            fallback.judge(true, false, late, GRACE, at(second));
            fallback.arrived(at(second));
            fallback.level
        };
        assert_eq!(level(true, 0), Level::Off);
        assert_eq!(level(true, 4), Level::Blend);
        assert_eq!(level(true, 8), Level::Full);
        assert_eq!(level(false, 9), Level::Blend);
        fallback.judge(true, true, true, GRACE, at(10));
        assert_eq!(fallback.level, Level::Off);
    }
}
