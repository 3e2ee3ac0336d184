//! Who is let in: the counts of connections and handshakes, and who gives way when they are reached.
//!
//! Handshakes give way, finished connections do not. An honest handshake takes milliseconds, so the oldest one under way
//! is the likeliest to lead nowhere: with every slot taken it is dropped, one that has not sent a byte before one that
//! has. A crowd of half-open connections so pushes out itself, even from the address of an honest peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use libp2p::PeerId;

use crate::drivers::transport::limits::{ADDRESSES_REMEMBERED_MAX, Limits};

/// Why a connection is refused; the words of [`crate::drivers::transport::Error::Full`].
pub(crate) type Refused = &'static str;

const FULL: Refused = "connections in all";
const ADDRESS_FULL: Refused = "connections of one address";
const PEER_FULL: Refused = "connections of one peer";
const TOO_FAST: Refused = "handshakes a second of one address";
const TOO_MANY_ADDRESSES: Refused = "addresses with connections";

/// The counts of one endpoint.
pub(crate) struct Gate {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// Handshakes under way, oldest first.
    handshakes: BTreeMap<u64, Waiting>,
    addresses: BTreeMap<AddressKey, Counts>,
    peers: BTreeMap<PeerId, usize>,
    established: usize,
}

struct Waiting {
    key: AddressKey,
    /// The first byte has come.
    begun: bool,
    /// Our own dials do not give way.
    inbound: bool,
    evicted: Arc<Evicted>,
}

struct Counts {
    handshakes: usize,
    established: usize,
    rate: DefaultDirectRateLimiter,
}

/// What counts as one address: IPv4 address, IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AddressKey(IpAddr);

impl AddressKey {
    fn new(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            ip => ip,
        })
    }
}

/// Tells the holder of a handshake that it has to give way.
#[derive(Default)]
pub(crate) struct Evicted {
    flag: AtomicBool,
    waker: AtomicWaker,
}

impl Evicted {
    fn set(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once the handshake has to end. One task waits at a time.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.flag.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if self.flag.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A handshake under way; its place is free again when this is dropped.
pub(crate) struct Handshake {
    gate: Arc<Gate>,
    number: u64,
    key: AddressKey,
    evicted: Arc<Evicted>,
}

/// A finished connection; its place is free again when this is dropped.
pub(crate) struct Established {
    gate: Arc<Gate>,
    key: AddressKey,
    /// Held for its drop; `None` where the streams of the connection are counted instead.
    _peer: Option<PeerPlace>,
}

/// One of the places that a peer id has; free again when this is dropped.
pub(crate) struct PeerPlace {
    gate: Arc<Gate>,
    peer: PeerId,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    /// A place for an accepted connection, if need be that of an older handshake.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Handshake, Refused> {
        let key = AddressKey::new(ip);
        let mut table = self.lock();
        let counts = table.counts(key, &self.limits)?;
        if counts.established >= self.limits.connections_per_address_max {
            return Err(ADDRESS_FULL);
        }
        if counts.handshakes >= self.limits.handshakes_per_address_max {
            table.evict(|waiting| waiting.key == key);
        }
        if table.handshakes.len() >= self.limits.handshakes_max {
            let busiest = table.addresses.iter().max_by_key(|(_, counts)| counts.handshakes).map(|(key, _)| *key);
            table.evict(|waiting| Some(waiting.key) == busiest);
        }
        if table.total() >= self.limits.connections_max && !table.evict(|_| true) {
            return Err(FULL);
        }
        Ok(table.begin(self, key, true))
    }

    /// The same where the costly part begins at once, as over QUIC: who comes too fast takes nobody's place.
    pub(crate) fn admit_begun(self: &Arc<Self>, ip: IpAddr) -> Result<Handshake, Refused> {
        let within = self.lock().counts(AddressKey::new(ip), &self.limits)?.rate.check();
        within.map_err(|_| TOO_FAST)?;
        let handshake = self.admit(ip)?;
        if let Some(waiting) = self.lock().handshakes.get_mut(&handshake.number) {
            waiting.begun = true;
        }
        Ok(handshake)
    }

    /// A place for a connection that we dial.
    pub(crate) fn dial(self: &Arc<Self>, ip: IpAddr) -> Result<Handshake, Refused> {
        let key = AddressKey::new(ip);
        let mut table = self.lock();
        let counts = table.counts(key, &self.limits)?;
        if counts.established >= self.limits.connections_per_address_max {
            return Err(ADDRESS_FULL);
        }
        if table.total() >= self.limits.connections_max && !table.evict(|_| true) {
            return Err(FULL);
        }
        Ok(table.begin(self, key, false))
    }

    /// One of a peer's places: for a stream, whose connection is counted already.
    pub(crate) fn peer(self: &Arc<Self>, peer: PeerId) -> Result<PeerPlace, Refused> {
        let mut table = self.lock();
        let count = table.peers.entry(peer).or_default();
        if *count >= self.limits.connections_per_peer_max {
            return Err(PEER_FULL);
        }
        *count = count.saturating_add(1);
        drop(table);
        Ok(PeerPlace { gate: self.clone(), peer })
    }

    /// Drops the oldest handshake: descriptors are short.
    pub(crate) fn relieve(&self) {
        self.lock().evict(|_| true);
    }

    /// The table is consistent after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let table = self.lock();
        (table.handshakes.len(), table.established)
    }
}

impl Table {
    fn total(&self) -> usize {
        self.handshakes.len().saturating_add(self.established)
    }

    /// The counts of an address, made where there are none; forgets addresses without a connection when full.
    fn counts(&mut self, key: AddressKey, limits: &Limits) -> Result<&mut Counts, Refused> {
        // Each of the connections may come from an address of its own.
        let most = ADDRESSES_REMEMBERED_MAX.max(limits.connections_max);
        if !self.addresses.contains_key(&key) && self.addresses.len() >= most {
            self.addresses.retain(|_, counts| counts.handshakes > 0 || counts.established > 0);
            if self.addresses.len() >= most {
                return Err(TOO_MANY_ADDRESSES);
            }
        }
        Ok(self.addresses.entry(key).or_insert_with(|| {
            let per_second =
                if key.0.is_loopback() { limits.handshakes_per_second_loopback } else { limits.handshakes_per_second };
            let per_second = std::num::NonZeroU32::new(per_second).unwrap_or(std::num::NonZeroU32::MIN);
            Counts { handshakes: 0, established: 0, rate: RateLimiter::direct(Quota::per_second(per_second)) }
        }))
    }

    fn begin(&mut self, gate: &Arc<Gate>, key: AddressKey, inbound: bool) -> Handshake {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let evicted = Arc::new(Evicted::default());
        self.handshakes.insert(number, Waiting { key, begun: false, inbound, evicted: evicted.clone() });
        if let Some(counts) = self.addresses.get_mut(&key) {
            counts.handshakes = counts.handshakes.saturating_add(1);
        }
        Handshake { gate: gate.clone(), number, key, evicted }
    }

    /// Ends the oldest inbound handshake of those asked for, silent ones first; whether there was one.
    fn evict(&mut self, among: impl Fn(&Waiting) -> bool) -> bool {
        let candidates = self.handshakes.iter().filter(|(_, waiting)| waiting.inbound && among(waiting));
        let Some(number) = candidates.min_by_key(|(number, waiting)| (waiting.begun, **number)).map(|(n, _)| *n) else {
            return false;
        };
        self.end(number).is_some_and(|waiting| {
            waiting.evicted.set();
            true
        })
    }

    fn end(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.handshakes.remove(&number)?;
        if let Some(counts) = self.addresses.get_mut(&waiting.key) {
            counts.handshakes = counts.handshakes.saturating_sub(1);
        }
        Some(waiting)
    }
}

impl Handshake {
    /// The first byte is there and the costly part begins.
    pub(crate) fn begin(&self) -> Result<(), Refused> {
        let mut table = self.gate.lock();
        let counts = table.counts(self.key, &self.gate.limits)?;
        counts.rate.check().map_err(|_| TOO_FAST)?;
        if let Some(waiting) = table.handshakes.get_mut(&self.number) {
            waiting.begun = true;
        }
        Ok(())
    }

    /// Tells when to give way.
    pub(crate) fn evicted(&self) -> Arc<Evicted> {
        self.evicted.clone()
    }

    /// The handshake is done. With a peer, one of its places is taken too.
    pub(crate) fn establish(self, peer: Option<PeerId>) -> Result<Established, Refused> {
        let place = peer.map(|peer| self.gate.peer(peer)).transpose()?;
        let mut table = self.gate.lock();
        if table.end(self.number).is_none() {
            // Evicted in the same moment: another has the place.
            return Err(FULL);
        }
        let counts = table.counts(self.key, &self.gate.limits)?;
        if counts.established >= self.gate.limits.connections_per_address_max {
            return Err(ADDRESS_FULL);
        }
        counts.established = counts.established.saturating_add(1);
        table.established = table.established.saturating_add(1);
        drop(table);
        Ok(Established { gate: self.gate.clone(), key: self.key, _peer: place })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.gate.lock().end(self.number);
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        let mut table = self.gate.lock();
        table.established = table.established.saturating_sub(1);
        if let Some(counts) = table.addresses.get_mut(&self.key) {
            counts.established = counts.established.saturating_sub(1);
        }
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut table = self.gate.lock();
        if let Some(count) = table.peers.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_evicted(handshake: &Handshake) -> bool {
        handshake.evicted.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn gate(change: impl FnOnce(&mut Limits)) -> Arc<Gate> {
        let mut limits = Limits::default();
        change(&mut limits);
        Gate::new(limits)
    }

    #[test]
    fn the_oldest_handshake_of_a_busy_address_gives_way_silent_ones_first() {
        let gate = gate(|limits| limits.handshakes_per_address_max = 2);
        let other = gate.admit(ip(2)).expect("room");
        let begun = gate.admit(ip(1)).expect("room");
        begun.begin().expect("slow enough");
        let silent = gate.admit(ip(1)).expect("room");
        let third = gate.admit(ip(1)).expect("the silent one gives way");
        assert_eq!([&other, &begun, &silent, &third].map(is_evicted), [false, false, true, false]);
        assert!(silent.establish(None).is_err());
        assert_eq!(gate.counts(), (3, 0));
        drop((other, begun, third));
        assert_eq!(gate.counts(), (0, 0));
    }

    #[test]
    fn the_busiest_address_pays_for_a_full_house_and_our_dials_never() {
        let gate = gate(|limits| (limits.handshakes_max, limits.connections_max) = (3, 4));
        let dialled = gate.dial(ip(9)).expect("room");
        let busy = [gate.admit(ip(1)), gate.admit(ip(1))].map(|admitted| admitted.expect("room"));
        let lone = gate.admit(ip(2)).expect("one of the busy gives way");
        assert_eq!(busy.each_ref().map(is_evicted), [true, false]);
        assert!(!is_evicted(&dialled) && !is_evicted(&lone));
    }

    #[test]
    fn finished_connections_stay_and_are_counted_by_address_and_peer() {
        let gate = gate(|limits| {
            limits.connections_per_address_max = 2;
            limits.connections_per_peer_max = 1;
            limits.connections_max = 3;
        });
        let peer = PeerId::random();
        let first = gate.admit(ip(1)).and_then(|handshake| handshake.establish(Some(peer))).expect("room");
        let again = gate.admit(ip(1)).and_then(|handshake| handshake.establish(Some(peer)));
        assert_eq!(again.err(), Some(PEER_FULL));
        let second = gate.admit(ip(1)).and_then(|handshake| handshake.establish(None)).expect("room");
        assert_eq!(gate.admit(ip(1)).err(), Some(ADDRESS_FULL));
        let third = gate.admit(ip(2)).and_then(|handshake| handshake.establish(None)).expect("room");
        assert_eq!(gate.admit(ip(3)).err(), Some(FULL));
        assert_eq!(gate.dial(ip(3)).err(), Some(FULL));
        drop((first, second, third));
        assert_eq!(gate.counts(), (0, 0));
        assert!(gate.peer(peer).is_ok());
    }

    #[test]
    fn handshakes_of_one_address_are_metered() {
        let gate = gate(|limits| limits.handshakes_per_second = 3);
        let begun = (0..10).filter(|_| gate.admit(ip(1)).is_ok_and(|handshake| handshake.begin().is_ok())).count();
        assert!((3..10).contains(&begun), "{begun}");
        assert!(gate.admit(ip(2)).is_ok_and(|handshake| handshake.begin().is_ok()));
    }

    #[test]
    fn addresses_of_one_network_are_one_and_the_table_is_bounded() {
        let key = |text: &str| AddressKey::new(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        let gate = gate(|_| {});
        let kept = gate.admit(ip(1)).expect("room");
        for number in 0..2 * ADDRESSES_REMEMBERED_MAX as u32 {
            drop(gate.admit(IpAddr::from(number.to_be_bytes())));
        }
        assert!(gate.lock().addresses.len() <= ADDRESSES_REMEMBERED_MAX);
        assert!(gate.lock().addresses.contains_key(&kept.key));
    }
}
