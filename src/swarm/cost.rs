//! How far a node goes for bytes: the one function that weighs what they cost against the time they take.
//!
//! Three terms, the first before the others:
//!
//! - *Lateness*: what a second brings less than is asked for. With a deadline what is left is to come in seven eighths of
//!   the time that is left, so that a supplier may still fail; without one, policy asks for a rate (`min_background_rate`).
//! - *Price*: a byte costs more the further it comes, and far more from the origin, whose line all sites share.
//! - *Time*: to who waits, a second less is worth as many bytes of the origin as the rate that policy asks for. To who
//!   does not wait it is worth nothing while the deadline is kept.
//!
//! So a foreground download uses every peer, and the origin for what peers hold once a second of theirs is worth less
//! than a second of waiting; a background one goes no further than it must. Pieces that no peer holds are another matter:
//! they come from the origin once, by `duty`.

use std::time::Duration;

use crate::swarm::event::Scope;
use crate::swarm::rate::{RecentRate, per_second};
use crate::swarm::{Swarm, Uptime};

/// From how far bytes are taken; from nearer too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Host,
    Site,
    Group,
    Internet,
    Origin,
}

impl Reach {
    const ALL: [Reach; 5] = [Reach::Host, Reach::Site, Reach::Group, Reach::Internet, Reach::Origin];

    /// Price of a byte, in parts of one from the origin (`ORIGIN`). Only the order matters to who does not wait.
    fn price(self) -> u64 {
        match self {
            Reach::Host => 0,
            Reach::Site => 1,
            Reach::Group => 4,
            Reach::Internet => 16,
            Reach::Origin => ORIGIN,
        }
    }
}

const ORIGIN: u64 = 4096;
/// Bytes per second that a source counts with: what it could bring is not known before it is asked for it.
const SOURCE: u64 = 1 << 40;

/// What a download needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Bytes that are still to come.
    pub(crate) left: u64,
    /// Until the deadline; `None` where there is none.
    pub(crate) time_left: Option<Duration>,
    /// Nobody waits for it.
    pub(crate) background: bool,
    /// Bytes per second that policy asks for.
    pub(crate) floor: u64,
}

impl Need {
    /// Bytes per second that are asked for.
    pub(crate) fn asked(&self) -> u64 {
        let pace = self.time_left.map(|time| {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            per_second(self.left, micros / 8 * 7)
        });
        match (pace, self.background) {
            (None, _) => self.floor.max(1),
            (Some(pace), true) => pace.max(1),
            (Some(pace), false) => pace.max(self.floor).max(1),
        }
    }

    /// What a second less is worth, in bytes from the origin.
    fn second(&self) -> u64 {
        if self.background { 0 } else { self.floor }
    }
}

/// What a download costs that takes bytes from as far as `reach`, where peers deliver so much a second by how near they
/// are: what a second lacks of the asked rate, then the price and time of a byte, scaled. Less is better.
pub(crate) fn cost(rates: &[u64; 4], reach: Reach, need: &Need) -> (u64, u128) {
    let used = Reach::ALL.into_iter().zip(rates.iter().copied().chain([SOURCE]));
    let used = used.take_while(|(from, _)| *from <= reach);
    let (rate, price) = used.fold((0u128, 0u128), |(rate, price), (from, of)| {
        (rate + u128::from(of), price + u128::from(of) * u128::from(from.price()))
    });
    let missing = need.asked().saturating_sub(u64::try_from(rate).unwrap_or(u64::MAX));
    let time = u128::from(need.second()) * u128::from(ORIGIN);
    let a_byte = ((price + time) << 16).checked_div(rate).unwrap_or(u128::MAX);
    (missing, a_byte)
}

/// How far bytes are to be taken from, at the least cost; the nearer of two that cost the same.
pub(crate) fn reach(rates: &[u64; 4], need: &Need) -> Reach {
    Reach::ALL.into_iter().min_by_key(|reach| cost(rates, *reach, need)).unwrap_or(Reach::Origin)
}

/// Payload that came from peers lately, by how near they are.
#[derive(Debug, Default)]
pub(crate) struct PeerRates([RecentRate; 4]);

impl PeerRates {
    /// Bytes arrived.
    pub(crate) fn add(&mut self, scope: Scope, now: Uptime, bytes: u64) {
        let place = match scope {
            Scope::Host => 0,
            Scope::Site => 1,
            Scope::Group => 2,
            Scope::Internet => 3,
        };
        if let Some(rate) = self.0.get_mut(place) {
            rate.add(now, bytes);
        }
    }

    /// Bytes per second, nearest first.
    pub(crate) fn by_reach(&self, now: Uptime, start: Uptime) -> [u64; 4] {
        self.0.each_ref().map(|rate| rate.rate(now, start))
    }

    /// Bytes per second from all peers.
    pub(crate) fn total(&self, now: Uptime, start: Uptime) -> u64 {
        self.by_reach(now, start).iter().fold(0, |sum, rate| sum.saturating_add(*rate))
    }
}

impl Swarm {
    /// What this download needs now, where policy asks for so many bytes a second.
    pub(crate) fn need(&self, floor: u64) -> Need {
        let left = self.pieces.layout().total_bytes().saturating_sub(self.pieces.bytes_held());
        let time_left = self.options.deadline.map(|within| self.started.after(within).since(self.now));
        Need { left, time_left, background: self.options.background, floor }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(left: u64, seconds: Option<u64>, background: bool, floor: u64) -> Need {
        Need { left, time_left: seconds.map(Duration::from_secs), background, floor }
    }

    #[test]
    fn without_a_deadline_the_origin_helps_below_the_rate_of_policy() {
        for background in [false, true] {
            let need = need(1 << 30, None, background, 500_000);
            assert_eq!(reach(&[0, 499_999, 0, 0], &need), Reach::Origin);
            assert_eq!(reach(&[0, 0, 0, 0], &need), Reach::Origin);
            assert!(reach(&[0, 510_000, 0, 0], &need) < Reach::Origin);
            assert!(reach(&[200_000, 100_000, 100_000, 110_000], &need) < Reach::Origin);
        }
        assert!(reach(&[0, 1, 0, 0], &need(1 << 30, None, true, 0)) < Reach::Origin);
    }

    #[test]
    fn who_waits_uses_every_peer_and_who_does_not_goes_no_further_than_it_must() {
        let rates = [0, 600_000, 0, 50_000];
        assert_eq!(reach(&rates, &need(1 << 30, None, false, 500_000)), Reach::Internet);
        assert_eq!(reach(&rates, &need(1 << 30, None, true, 500_000)), Reach::Site);
        assert_eq!(reach(&rates, &need(1 << 30, None, true, 620_000)), Reach::Internet);
    }

    #[test]
    fn a_deadline_takes_the_place_of_the_rate_of_policy_for_who_does_not_wait() {
        // 70 MB in 80 s: a seventh of the time is kept for what may fail.
        let slow = |left| need(left, Some(80), true, 500_000_000);
        assert_eq!(slow(70_000_000).asked(), 1_000_000);
        assert_eq!(reach(&[0, 1_000_000, 0, 0], &slow(70_000_000)), Reach::Site);
        assert_eq!(reach(&[0, 1_000_000, 0, 0], &slow(70_000_080)), Reach::Origin);
        assert_eq!(need(70_000_000, Some(80), false, 5_000_000).asked(), 5_000_000);
        assert_eq!(need(1, Some(0), true, 0).asked(), 1_000_000, "late: as fast as it goes");
        assert_eq!(need(u64::MAX, Some(u64::MAX / 2_000_000), true, 0).asked(), 2_285_714);
    }

    prop_compose! {
        fn any_rates()(rates in proptest::array::uniform4(prop_oneof![Just(0u64), 1u64..10_000_000])) -> [u64; 4] {
            rates
        }
    }

    proptest! {
        #[test]
        fn the_origin_is_taken_exactly_when_peers_would_be_late(
            rates in any_rates(), left in 1u64..1 << 40, seconds in 0u64..100_000,
        ) {
            let need = need(left, Some(seconds), true, 500_000);
            let peers: u64 = rates.iter().sum();
            prop_assert_eq!(reach(&rates, &need) == Reach::Origin, peers < need.asked());
        }

        #[test]
        fn nothing_costs_less_than_what_is_chosen(
            rates in any_rates(), left in 1u64..1 << 40, seconds in proptest::option::of(0u64..100_000),
            background in any::<bool>(), floor in 0u64..5_000_000,
        ) {
            let need = need(left, seconds, background, floor);
            let chosen = reach(&rates, &need);
            for other in Reach::ALL {
                prop_assert!(cost(&rates, chosen, &need) <= cost(&rates, other, &need));
            }
            let waits = Need { background: false, ..need };
            prop_assert!(!background || reach(&rates, &waits) >= chosen);
        }

        /// A fluid download, decided anew each second: peers at one rate, an origin at another.
        #[test]
        fn it_is_in_time_wherever_it_can_be_and_spends_nothing_where_it_need_not(
            peers in 0u64..2_000_000, origin in 1u64..20_000_000, left in 1u64..1 << 30, seconds in 8u64..2000,
        ) {
            let (mut rest, mut spent, mut passed) = (left, 0, 0);
            while rest > 0 && passed < seconds {
                let need = need(rest, Some(seconds - passed), true, 500_000);
                let extra = if reach(&[0, peers, 0, 0], &need) == Reach::Origin { origin } else { 0 };
                spent += extra.min(rest);
                rest = rest.saturating_sub(peers + extra);
                passed += 1;
            }
            // All of it in five eighths of the time, at both rates together, leaves room for whole seconds.
            if (peers + origin) * (seconds - 1) / 8 * 5 >= left {
                prop_assert_eq!(rest, 0);
            }
            if peers >= need(left, Some(seconds), true, 0).asked() {
                prop_assert_eq!(spent, 0);
            }
        }
    }
}
