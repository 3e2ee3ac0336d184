//! When pieces that peers hold leave the swarm for a source all the same: peers are too slow, or give nothing.

use crate::swarm::Swarm;
use crate::swarm::limits::{FALLBACK_CROWD, FALLBACK_FULL, FALLBACK_GRACE, FALLBACK_SHARE_MAX};
use crate::swarm::peers::Role;
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
    pub(crate) level: Level,
}

impl Fallback {
    /// Payload came from a peer.
    pub(crate) fn arrived(&mut self, now: Uptime) {
        self.arrived_at = Some(now);
        self.level = self.level.min(Level::Blend);
    }

    /// Whether peers are slower than asked for.
    pub(crate) fn is_on(&self) -> bool {
        self.level != Level::Off
    }

    /// Whether this node may fetch pieces that are others' duty.
    pub(crate) fn for_itself(&self, now: Uptime) -> bool {
        !self.crowd || self.slow_since.is_some_and(|since| now.since(since) >= FALLBACK_CROWD)
    }

    /// Judges anew. `waiting`: peers hold something we lack. `rate`: what comes from them.
    fn judge(&mut self, waiting: bool, rate: u64, min_rate: u64, grace: std::time::Duration, now: Uptime) {
        if !waiting || rate >= min_rate.max(1) {
            self.slow_since = None;
            self.level = Level::Off;
            return;
        }
        let slow_since = *self.slow_since.get_or_insert(now);
        let silent_since = self.arrived_at.map_or(slow_since, |at| at.max(slow_since));
        self.level = if now.since(silent_since) >= grace.saturating_add(FALLBACK_FULL) {
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
        let rate = self.peer_rate.rate(self.now, self.started);
        let lacking = self.peers.count(Role::Lacking) as u64;
        let grace = FALLBACK_GRACE.max(self.options.http_delay);
        let grace = if lacking == 0 || self.duty.am_gateway() { grace } else { grace.max(FALLBACK_CROWD) };
        self.fallback.crowd = lacking > 0;
        let min_rate = self.options.min_rate / (1 + lacking).min(FALLBACK_SHARE_MAX);
        self.fallback.judge(waiting, rate, min_rate, grace, self.now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACE: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Uptime {
        Uptime::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn in_a_crowd_pieces_of_others_are_left_to_them_for_a_while() {
        let mut fallback = Fallback { crowd: true, ..Fallback::default() };
        fallback.judge(true, 0, 100, GRACE, at(1));
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
            fallback.judge(waiting, rate, 100, GRACE, at(second));
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
}
