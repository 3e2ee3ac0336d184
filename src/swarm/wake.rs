//! Before sleep: what others wait for is given back, so that they need not find out by waiting. After it: what the machine
//! believed before it stood still is worth nothing.

use crate::swarm::Swarm;
use crate::swarm::event::{Action, FetchId, PeerKey, RejectReason};
use crate::swarm::fallback::Fallback;
use crate::swarm::limits::{HOUSEKEEPING, SETTLE_MAX, SETTLE_PART};
use crate::swarm::timer::{Timer, Uptime};

impl Swarm {
    /// Ranges end and their leases are withdrawn, whoever waits for a piece is refused it, sessions end without offence.
    pub(crate) fn fall_asleep(&mut self) {
        self.asleep = true;
        self.cancel_all_fetches();
        let peers: Vec<PeerKey> = self.peers.keys().collect();
        for peer in peers {
            self.refuse_all(peer, RejectReason::Stopping);
            self.remove_peer(peer);
            self.actions.push_back(Action::Disconnect { peer });
        }
    }

    fn cancel_all_fetches(&mut self) {
        let fetches: Vec<FetchId> = self.fetches.keys().copied().collect();
        fetches.into_iter().for_each(|fetch| self.cancel_fetch(fetch));
    }

    /// No session and no lease outlives sleep: peers are sent away without offence, ranges begin anew, and discovery has
    /// to settle again. What is held stays held, and nobody is blamed for the silence.
    pub(crate) fn woke(&mut self) {
        self.asleep = false;
        let peers: Vec<PeerKey> = self.peers.keys().collect();
        for peer in peers {
            self.remove_peer(peer);
            self.actions.push_back(Action::Disconnect { peer });
        }
        self.cancel_all_fetches();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::content::bitfield::Bitfield;
    use crate::content::layout::{BlockIndex, FlatLayout, PieceIndex};
    use crate::swarm::Options;
    use crate::swarm::event::{AddressKey, Event, Message, NodeId, Scope, SourceKey};

    const PIECES: u32 = 64;
    const PEER: PeerKey = PeerKey(1);

    /// One of two members of a site that fetch from one source; `me` is its number.
    fn member(me: u8, held: Bitfield) -> Swarm {
        let layout = FlatLayout::new([u64::from(PIECES) << 20]).expect("short").expect("few");
        let (id, address) = (NodeId([me; 32]), AddressKey([me; 18]));
        let mut swarm =
            Swarm::new(Arc::new(layout), held, vec![], Options::default(), id, address, [1; 32], Uptime::ZERO)
                .expect("it fits");
        swarm.handle(Uptime::ZERO, Event::SourceUp { source: SourceKey(0), pieces: vec![0..PIECES] });
        let other = 3 - me;
        let up = Event::PeerUp {
            peer: PEER,
            id: NodeId([other; 32]),
            address: AddressKey([other; 18]),
            member: None,
            scope: Scope::Site,
            round_trip: Duration::from_millis(1),
        };
        swarm.handle(Uptime::ZERO, up);
        for message in [Message::Bitfield(Bitfield::none(PIECES)), Message::Choke(false), Message::Interested(true)] {
            swarm.handle(Uptime::ZERO, Event::Said { peer: PEER, message });
        }
        swarm.handle(Uptime::ZERO, Event::DiscoverySettled);
        swarm
    }

    fn seconds(seconds: u64) -> Uptime {
        Uptime::from_micros(seconds * 1_000_000)
    }

    fn actions(swarm: &mut Swarm) -> Vec<Action> {
        std::iter::from_fn(|| swarm.poll_action()).collect()
    }

    #[test]
    fn before_sleep_leases_are_given_back_queues_refused_and_sessions_ended_in_this_order() {
        let mut held = Bitfield::none(PIECES);
        (0..4).for_each(|piece| _ = held.set(PieceIndex(piece)));
        let mut swarm = member(1, held);
        swarm.handle(seconds(1), Event::Tick);
        // A peer alone is sent at once whatever it asks for; where others are served, requests wait.
        let peer = swarm.peers.get_mut(&PEER).expect("it is up");
        peer.queue.extend((0..4).map(|piece| (PieceIndex(piece), BlockIndex(0))));
        let before = actions(&mut swarm);
        assert!(before.iter().any(|action| matches!(action, Action::Fetch { .. })), "{before:?}");
        swarm.handle(seconds(2), Event::Sleeping);
        swarm.check();
        let said = actions(&mut swarm);
        let place = |wanted: fn(&Action) -> bool| said.iter().position(wanted).unwrap_or_else(|| panic!("{said:?}"));
        let withdrawn =
            place(|it| matches!(it, Action::Send { message: Message::Intent { lease, .. }, .. } if lease.is_zero()));
        let refused = place(|it| {
            matches!(it, Action::Send { message: Message::Reject { reason: RejectReason::Stopping, .. }, .. })
        });
        let ended = place(|it| matches!(it, Action::Disconnect { peer: PEER }));
        assert!(withdrawn < refused && refused < ended, "{said:?}");
        assert!(said.iter().any(|it| matches!(it, Action::CancelFetch { .. })));
        for second in 3..100 {
            swarm.handle(seconds(second), Event::Tick);
            let begun = actions(&mut swarm);
            assert!(!begun.iter().any(|it| matches!(it, Action::Fetch { .. })), "asleep: {begun:?}");
        }
        swarm.handle(seconds(100), Event::Woke);
        swarm.handle(seconds(102), Event::Tick);
        assert!(actions(&mut swarm).iter().any(|it| matches!(it, Action::Fetch { .. })), "it goes on");
    }

    #[test]
    fn whoever_comes_while_the_machine_falls_asleep_is_sent_away() {
        let mut swarm = member(1, Bitfield::none(PIECES));
        swarm.handle(seconds(1), Event::Sleeping);
        actions(&mut swarm);
        let up = Event::PeerUp {
            peer: PeerKey(9),
            id: NodeId([9; 32]),
            address: AddressKey([9; 18]),
            member: None,
            scope: Scope::Site,
            round_trip: Duration::ZERO,
        };
        swarm.handle(seconds(1), up);
        assert_eq!(actions(&mut swarm), [Action::Disconnect { peer: PeerKey(9) }]);
    }

    #[test]
    fn a_successor_takes_over_when_a_session_ends_and_not_when_a_lease_does() {
        let mut swarm = member(2, Bitfield::none(PIECES));
        swarm.handle(seconds(1), Event::Tick);
        let whole = std::iter::once(0..PIECES).collect();
        let claim = Message::Intent { pieces: whole, lease: Duration::from_secs(60) };
        swarm.handle(seconds(1), Event::Said { peer: PEER, message: claim });
        swarm.handle(seconds(2), Event::PeerDown { peer: PEER });
        assert!(!swarm.duty.is_claimed(PieceIndex(PIECES - 1)));
        assert!(swarm.duty.am_gateway() || swarm.duty.stale);
    }
}
