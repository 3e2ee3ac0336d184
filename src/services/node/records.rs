//! Signed records of members: our own, and what is believed of those that peers tell.
//!
//! A told address is worth a dial only where the member itself has signed it, so that nobody sends a crowd to a machine
//! that has nothing to do with it under the name of others. The newest record of a member is remembered, so that an older
//! one, said again, brings nobody back to where it was.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;

use crate::drivers::transport::{Endpoint, Identity};
use crate::services::node::limits::RECORDS_KEPT_MAX;
use crate::services::node::link::Link;
use crate::services::node::{Inner, hints};
use crate::swarm::event::Member;
use crate::wire;
use crate::wire::limits::RECORD_IPS_MAX;
use crate::wire::{Claim, SignedRecord};

/// Why a told member is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    /// None came with it, or what came is none.
    #[error("no record of its own")]
    NoRecord,
    /// The record is about other addresses.
    #[error("its record does not name this address")]
    OtherAddress,
    /// The signature is not of this member's key.
    #[error("its record is not signed by it")]
    NotSigned,
    /// A newer record is known.
    #[error("its record is older than one that is known")]
    Stale,
    /// This link has had as many checked as it may for now.
    #[error("too many records at once")]
    TooMany,
}

/// How often a link may still cause something.
#[derive(Debug)]
pub(crate) struct Checks {
    left: u32,
    since: Instant,
    burst: u32,
    per_second: u32,
}

impl Checks {
    /// So often in a burst, and per second after that.
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self { left: burst, since: Instant::now(), burst, per_second }
    }

    /// Whether it may once more now.
    pub(crate) fn take(&mut self) -> bool {
        if self.left == 0 {
            let earned = self.since.elapsed().as_millis().saturating_mul(u128::from(self.per_second)) / 1000;
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(self.burst);
            if self.left > 0 {
                self.since = Instant::now();
            }
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

/// What this node has signed, and what it knows of others.
pub(crate) struct Records {
    identity: Identity,
    own: Mutex<Own>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Own {
    addresses: (u16, Vec<IpAddr>),
    sequence: u64,
    record: Vec<u8>,
}

/// The newest record of each member, as its sequence and its hash; the member that was learned of first goes first.
#[derive(Default)]
struct Known {
    newest: BTreeMap<Vec<u8>, (u64, [u8; 32])>,
    order: VecDeque<Vec<u8>>,
}

impl Known {
    fn learn(&mut self, peer_id: &[u8], sequence: u64, hash: [u8; 32]) {
        if let Some(newest) = self.newest.get_mut(peer_id) {
            if sequence > newest.0 {
                *newest = (sequence, hash);
            }
            return;
        }
        if self.order.len() >= RECORDS_KEPT_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.newest.remove(&first);
        }
        self.order.push_back(peer_id.to_vec());
        self.newest.insert(peer_id.to_vec(), (sequence, hash));
    }
}

impl Records {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, own: Mutex::default(), known: Mutex::default() }
    }

    /// Our own record as it holds now; empty where no peer is accepted. `local` is our end of the connection over which it
    /// goes: where there are more addresses than a record has room for, that one is among them.
    pub(crate) fn own(&self, endpoint: &Endpoint, local: IpAddr) -> Vec<u8> {
        let Some(port) = endpoint.bound().first().map(SocketAddr::port) else { return Vec::new() };
        let local = local.to_canonical();
        let reachable = endpoint.reachable();
        let mut ips: Vec<IpAddr> = reachable.iter().filter(|it| it.port() == port).map(SocketAddr::ip).collect();
        if ips.len() > RECORD_IPS_MAX {
            ips.sort_by_key(|ip| *ip != local);
            ips.truncate(RECORD_IPS_MAX);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.sign(port, ips, u64::try_from(now).unwrap_or(u64::MAX))
    }

    /// Signs anew where the addresses are not those of the last time.
    fn sign(&self, port: u16, mut ips: Vec<IpAddr>, now: u64) -> Vec<u8> {
        ips.sort_unstable();
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = (port, ips);
        if own.addresses != addresses {
            let sequence = now.max(own.sequence.saturating_add(1));
            let claim = Claim { port, ips: addresses.1.clone(), sequence };
            let signed = claim.signed(|message| self.identity.sign(message)).filter(|_| !claim.ips.is_empty());
            *own = Own { addresses, sequence, record: signed.unwrap_or_default() };
        }
        own.record.clone()
    }

    /// Whether a member has signed that it is at this address: the sequence of its record.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn check(
        &self,
        peer_id: &[u8],
        address: SocketAddr,
        record: &[u8],
        may_check: impl FnOnce() -> bool,
    ) -> Result<u64, Doubt> {
        if record.is_empty() {
            return Err(Doubt::NoRecord);
        }
        let read = SignedRecord::decode(record).map_err(|_| Doubt::NoRecord)?;
        let (sequence, hash) = (read.claim().sequence, *blake3::hash(record).as_bytes());
        if !read.claim().names(address) {
            return Err(Doubt::OtherAddress);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).newest.get(peer_id).copied();
        match known {
            Some((newest, _)) if sequence < newest => return Err(Doubt::Stale),
            Some(newest) if newest == (sequence, hash) => return Ok(sequence),
            _ => {}
        }
        if !may_check() {
            return Err(Doubt::TooMany);
        }
        if !read.is_of(peer_id) {
            return Err(Doubt::NotSigned);
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).learn(peer_id, sequence, hash);
        Ok(sequence)
    }
}

impl Inner {
    /// Our record for the Hello of a connection.
    pub(crate) fn own_record(&self, local: SocketAddr) -> Vec<u8> {
        self.endpoint.get().map(|endpoint| self.records.own(endpoint, local.ip())).unwrap_or_default()
    }

    /// What a connected peer may be told as to others: where it can be dialled, if it has signed that.
    pub(crate) fn member_of(&self, peer: &PeerId, address: SocketAddr, record: &[u8]) -> Option<Member> {
        let peer_id = peer.to_bytes();
        match self.records.check(&peer_id, address, record, || true) {
            Ok(sequence) => Some(Member { peer_id, address, sequence, record: record.to_vec() }),
            Err(doubt) => {
                tracing::debug!(%peer, %address, %doubt, "a peer is not told on to others");
                None
            }
        }
    }

    /// Whether an address that a peer told may be dialled at all (security: reflection and scanning), and is near enough.
    fn may_dial_hint(&self, link: &Link, peer: &PeerId, address: SocketAddr) -> bool {
        let heard = || self.found.lock().unwrap_or_else(PoisonError::into_inner).contains_key(peer);
        hints::may_dial(link.remote.ip(), address)
            && (self.meets_far() || self.lan.has(address.ip()))
            && self.is_near(address.ip(), heard())
    }

    /// Whether a member that a peer told may be dialled, and what the engine is to know of it. Those that are connected
    /// are no news.
    pub(crate) fn believe(&self, link: &Link, told: wire::Member) -> Option<Member> {
        let wire::Member { peer_id, address, record } = told;
        let peer = PeerId::from_bytes(&peer_id).ok()?;
        if !self.may_dial_hint(link, &peer, address) || peer == self.peer_id || self.is_connected(&peer) {
            return None;
        }
        match self.records.check(&peer_id, address, &record, || link.may_check_record()) {
            Ok(sequence) => Some(Member { peer_id, address, sequence, record }),
            Err(doubt) => {
                link.members_refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, %address, teller = %link.peer_id, %doubt, "a told member is not dialled");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(seed: u8) -> Records {
        Records::new(Identity::from_seed(&mut [seed; 32]))
    }

    fn id(records: &Records) -> Vec<u8> {
        records.identity.peer_id().to_bytes()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const NEVER: fn() -> bool = || false;
    const ALWAYS: fn() -> bool = || true;

    #[test]
    fn a_record_is_signed_anew_when_addresses_change_and_never_older() {
        let (one, reader) = (records(1), records(2));
        let first = one.sign(7680, vec![at("10.0.0.1:1").ip()], 1000);
        assert_eq!(one.sign(7680, vec![at("10.0.0.1:1").ip()], 2000), first, "nothing has changed");
        assert_eq!(reader.check(&id(&one), at("10.0.0.1:7680"), &first, ALWAYS), Ok(1000));
        // The clock was set back meanwhile.
        let second = one.sign(7680, vec![at("10.0.0.2:1").ip()], 500);
        assert_eq!(reader.check(&id(&one), at("10.0.0.2:7680"), &second, ALWAYS), Ok(1001));
        assert_eq!(reader.check(&id(&one), at("10.0.0.1:7680"), &first, ALWAYS), Err(Doubt::Stale), "it has moved");
        assert_eq!(reader.check(&id(&one), at("10.0.0.2:7680"), &second, NEVER), Ok(1001), "known: nothing to check");
        assert!(one.sign(7680, vec![], 3000).is_empty(), "who has no address says nothing");
    }

    #[test]
    fn what_a_member_has_not_signed_is_doubted_by_its_reason() {
        let (one, other, reader) = (records(1), records(3), records(2));
        let record = one.sign(7680, vec![at("10.0.0.1:1").ip()], 1000);
        let check = |peer: &Records, address, record: &[u8]| reader.check(&id(peer), at(address), record, ALWAYS);
        assert_eq!(check(&one, "10.0.0.1:7680", &[]), Err(Doubt::NoRecord));
        assert_eq!(check(&one, "10.0.0.1:7680", &record[1..]), Err(Doubt::NoRecord));
        assert_eq!(check(&one, "10.0.0.1:7681", &record), Err(Doubt::OtherAddress));
        assert_eq!(check(&one, "10.0.0.9:7680", &record), Err(Doubt::OtherAddress));
        assert_eq!(check(&other, "10.0.0.1:7680", &record), Err(Doubt::NotSigned));
        assert_eq!(reader.check(&id(&one), at("10.0.0.1:7680"), &record, NEVER), Err(Doubt::TooMany));
        assert_eq!(check(&one, "10.0.0.1:7680", &record), Ok(1000));
    }

    #[test]
    fn checks_and_what_is_remembered_are_bounded() {
        let mut checks = Checks::new(64, 16);
        let mut taken = 0;
        while checks.take() {
            taken += 1;
        }
        assert!(taken >= 64, "{taken}");
        let mut known = Known::default();
        for number in 0..RECORDS_KEPT_MAX + 5 {
            known.learn(&number.to_le_bytes(), 1, [0; 32]);
        }
        assert_eq!((known.newest.len(), known.order.len()), (RECORDS_KEPT_MAX, RECORDS_KEPT_MAX));
        assert!(!known.newest.contains_key(&0usize.to_le_bytes()[..]), "the first is forgotten first");
    }
}
