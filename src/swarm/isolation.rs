//! Client isolation: a network, often a guests' Wi-Fi, whose machines hear of each other and cannot connect. A node there
//! is alone, and waits for nobody.
//!
//! An enemy who announces made-up members makes a lone node do at once what a lone node does anyway: ask the sources. One
//! connection, whoever's, ends the state, and rules it out until the machine sleeps.

use crate::swarm::Swarm;
use crate::swarm::limits::{ISOLATED_AFTER, ISOLATED_SEEN_MIN};
use crate::swarm::timer::{Timer, Uptime};

/// Members seen, against connections.
#[derive(Debug, Default)]
pub(crate) struct Isolation {
    /// Members that were seen and not connected, as the node counts them. Hearsay comes over connections alone, and one
    /// connection settles the question.
    seen: u32,
    /// Since when enough were.
    since: Option<Uptime>,
    /// A connection stood.
    connected: bool,
    on: bool,
}

impl Isolation {
    /// `before`: this network isolated us not long ago.
    pub(crate) fn new(before: bool) -> Self {
        Self { on: before, ..Self::default() }
    }

    /// Whether nobody is waited for.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// A connection stands, or stood.
    pub(crate) fn connected(&mut self) {
        (self.connected, self.on, self.since) = (true, false, None);
    }

    /// After sleep this may be another network: the question is open again.
    pub(crate) fn forget(&mut self) {
        *self = Self { seen: self.seen, ..Self::default() };
    }

    /// Judges anew. Returns whether the state begins.
    fn judge(&mut self, now: Uptime) -> bool {
        if self.connected || self.on {
            return false;
        }
        if self.seen < ISOLATED_SEEN_MIN {
            self.since = None;
            return false;
        }
        self.on = now.since(*self.since.get_or_insert(now)) >= ISOLATED_AFTER;
        self.on
    }
}

impl Swarm {
    /// How many members are seen on this network, and whether any is connected for whatever content.
    pub(crate) fn neighbours(&mut self, seen: u32, connected: bool) {
        self.isolation.seen = seen;
        if connected {
            self.isolation.connected();
        }
        self.look_at_isolation();
    }

    pub(crate) fn look_at_isolation(&mut self) {
        if self.options.no_peers || self.is_complete() {
            return;
        }
        self.origin_ready |= self.isolation.judge(self.now);
        if let Some(since) = self.isolation.since.filter(|_| !self.isolation.on) {
            self.timers.set_sooner(Timer::Housekeeping, since.after(ISOLATED_AFTER));
        }
    }

    /// Whether this network seems to isolate its machines from each other: members are seen and none could be connected.
    pub fn is_isolated(&self) -> bool {
        self.isolation.is_on() && !self.options.no_peers
    }

    /// Whether discovery has settled, or is not worth waiting for.
    pub(crate) fn has_settled(&self) -> bool {
        self.settled || self.isolation.is_on()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::content::bitfield::Bitfield;
    use crate::content::layout::FlatLayout;
    use crate::swarm::Options;
    use crate::swarm::event::{Action, AddressKey, Event, NodeId, PeerKey, Scope, SourceKey};
    use crate::swarm::limits::SETTLE_MAX;

    fn at(milliseconds: u64) -> Uptime {
        Uptime::from_micros(milliseconds * 1_000)
    }

    /// A swarm that holds nothing and knows a source.
    fn swarm(options: Options) -> Swarm {
        let layout = FlatLayout::new([128 << 20]).expect("short").expect("few");
        let (none, me) = (Bitfield::none(layout.piece_count()), NodeId([0; 32]));
        let mut swarm =
            Swarm::new(Arc::new(layout), none, vec![], options, me, AddressKey([0; 18]), [1; 32], Uptime::ZERO)
                .expect("it fits");
        swarm.handle(at(0), Event::SourceUp { source: SourceKey(0), pieces: vec![0..128] });
        swarm
    }

    fn peer_up(number: u8) -> Event {
        Event::PeerUp {
            peer: PeerKey(u64::from(number)),
            id: NodeId([number; 32]),
            address: AddressKey([number; 18]),
            member: None,
            scope: Scope::Site,
            round_trip: Duration::from_millis(1),
        }
    }

    fn fetches(swarm: &mut Swarm) -> usize {
        std::iter::from_fn(|| swarm.poll_action()).filter(|action| matches!(action, Action::Fetch { .. })).count()
    }

    #[test]
    fn five_seen_and_none_connected_for_three_seconds_is_isolation() {
        for (seen, expected) in [(ISOLATED_SEEN_MIN - 1, false), (ISOLATED_SEEN_MIN, true), (u32::MAX, true)] {
            let mut swarm = swarm(Options::default());
            swarm.handle(at(10), Event::Neighbours { seen, connected: false });
            swarm.handle(at(3_009), Event::Tick);
            assert!(!swarm.is_isolated());
            swarm.handle(at(3_010), Event::Tick);
            assert_eq!(swarm.is_isolated(), expected, "{seen} seen");
            assert!(swarm.stats().fetches > 0, "alone, it asks the source whatever it is called");
        }
    }

    #[test]
    fn the_alarm_rings_when_the_time_is_over() {
        let mut swarm = swarm(Options::default());
        swarm.handle(at(10), Event::Neighbours { seen: 9, connected: false });
        let mut rounds = 0;
        while !swarm.is_isolated() && rounds < 1_000 {
            let wake = swarm.next_wake().expect("something is missing");
            swarm.handle(wake, Event::Tick);
            rounds += 1;
        }
        assert_eq!(swarm.now, at(3_010));
    }

    #[test]
    fn members_that_come_and_go_begin_the_count_anew() {
        let mut swarm = swarm(Options::default());
        swarm.handle(at(0), Event::Neighbours { seen: 5, connected: false });
        swarm.handle(at(2_900), Event::Neighbours { seen: 4, connected: false });
        swarm.handle(at(2_950), Event::Neighbours { seen: 5, connected: false });
        swarm.handle(at(5_900), Event::Tick);
        assert!(!swarm.is_isolated());
        swarm.handle(at(5_950), Event::Tick);
        assert!(swarm.is_isolated());
    }

    #[test]
    fn one_connection_ends_it_and_rules_it_out_whatever_is_announced() {
        for connection in [peer_up(1), Event::Neighbours { seen: 1_000_000, connected: true }] {
            let mut swarm = swarm(Options { isolated_before: true, ..Options::default() });
            assert!(swarm.is_isolated());
            swarm.handle(at(100), connection);
            assert!(!swarm.is_isolated());
            swarm.handle(at(200), Event::PeerDown { peer: PeerKey(1) });
            for second in 1..60 {
                swarm.handle(at(second * 1_000), Event::Neighbours { seen: 1_000_000, connected: false });
                assert!(!swarm.is_isolated(), "a made-up crowd in second {second}");
            }
            swarm.handle(at(60_000), Event::Woke);
            swarm.handle(at(63_000), Event::Tick);
            swarm.handle(at(66_100), Event::Tick);
            assert!(swarm.is_isolated(), "after sleep it may be another network");
        }
    }

    #[test]
    fn where_it_was_known_before_the_source_is_asked_at_once() {
        let mut fresh = swarm(Options::default());
        assert_eq!(fetches(&mut fresh), 0, "discovery has not settled");
        let mut before = swarm(Options { isolated_before: true, ..Options::default() });
        assert_eq!(fetches(&mut before), 1, "a source that was never measured gets one range");
    }

    #[test]
    fn a_remembered_state_that_is_wrong_costs_one_range() {
        let mut swarm = swarm(Options { isolated_before: true, ..Options::default() });
        swarm.handle(at(5), peer_up(1));
        swarm.handle(at(SETTLE_MAX.as_millis() as u64 - 1), Event::Tick);
        assert_eq!(fetches(&mut swarm), 1, "it waits for discovery again");
    }

    #[test]
    fn without_peers_there_is_nothing_to_be_isolated_from() {
        let mut swarm = swarm(Options { no_peers: true, isolated_before: true, ..Options::default() });
        swarm.handle(at(0), Event::Neighbours { seen: 9, connected: false });
        swarm.handle(at(9_000), Event::Tick);
        assert!(!swarm.is_isolated());
    }
}
