//! What unproven members may claim of origin duty, counted by address: identities cost nothing, addresses do.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::swarm::event::AddressKey;
use crate::swarm::limits::{ADDRESSES_MAX, OWNER_SUSPECT, STRIKES_MAX};
use crate::swarm::timer::Uptime;

/// An address whose members claimed and brought nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Strike {
    /// Its unproven members rank for nothing and claim nothing until then.
    until: Uptime,
    times: u32,
    /// Bytes claimed now by members that have brought nothing.
    claimed: u64,
}

/// Addresses that claim without proof, or did so in vain.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    addresses: BTreeMap<AddressKey, Strike>,
}

impl Standing {
    /// Whether unproven members at this address are passed over.
    pub(crate) fn is_struck(&self, address: &AddressKey, now: Uptime) -> bool {
        self.addresses.get(address).is_some_and(|strike| strike.until > now)
    }

    /// Bytes that members at this address claim without having brought any.
    pub(crate) fn claimed(&self, address: &AddressKey) -> u64 {
        self.addresses.get(address).map_or(0, |strike| strike.claimed)
    }

    /// An unproven member claims bytes. False where too many addresses are known: nothing is claimed then.
    pub(crate) fn claim(&mut self, address: AddressKey, bytes: u64) -> bool {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            return false;
        }
        let strike = self.addresses.entry(address).or_default();
        strike.claimed = strike.claimed.saturating_add(bytes);
        true
    }

    /// Such claims are over: their pieces came, they were taken back, or their member has proven itself.
    pub(crate) fn release(&mut self, address: &AddressKey, bytes: u64) {
        let Some(strike) = self.addresses.get_mut(address) else { return };
        strike.claimed = strike.claimed.saturating_sub(bytes);
        if strike.claimed == 0 && strike.times == 0 {
            self.addresses.remove(address);
        }
    }

    /// A lease of an unproven member ran out: its address is passed over, each time for twice as long.
    pub(crate) fn strike(&mut self, address: AddressKey, now: Uptime) {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            return;
        }
        let strike = self.addresses.entry(address).or_default();
        if strike.until <= now {
            let lasts: Duration = OWNER_SUSPECT.saturating_mul(1 << strike.times.min(STRIKES_MAX));
            strike.times = strike.times.saturating_add(1);
            strike.until = now.after(lasts);
        }
    }

    /// Whether some address is free again since `before`.
    pub(crate) fn any_over(&self, before: Uptime, now: Uptime) -> bool {
        self.addresses.values().any(|strike| strike.until > before && strike.until <= now)
    }

    /// A member at this address has brought something: the strikes were bad luck.
    pub(crate) fn clear(&mut self, address: &AddressKey) {
        if let Some(strike) = self.addresses.get_mut(address) {
            (strike.times, strike.until) = (0, Uptime::ZERO);
        }
        self.release(address, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Uptime {
        Uptime::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn strikes_double_and_proof_clears_them() {
        let (mut standing, address) = (Standing::default(), AddressKey([1; 18]));
        standing.strike(address, at(0));
        standing.strike(address, at(1));
        assert!(standing.is_struck(&address, at(59)) && !standing.is_struck(&address, at(60)), "one at a time");
        assert!(standing.any_over(at(59), at(60)) && !standing.any_over(at(60), at(61)));
        standing.strike(address, at(60));
        assert!(standing.is_struck(&address, at(179)) && !standing.is_struck(&address, at(180)));
        standing.strike(address, at(200));
        standing.clear(&address);
        assert!(!standing.is_struck(&address, at(201)) && standing.addresses.is_empty());
    }

    #[test]
    fn what_is_claimed_without_proof_is_counted_by_address_and_bounded() {
        let mut standing = Standing::default();
        let address = |number: usize| {
            let mut key = [0; 18];
            key[..8].copy_from_slice(&number.to_le_bytes());
            AddressKey(key)
        };
        assert!(standing.claim(address(0), 5) && standing.claim(address(0), 6));
        assert_eq!(standing.claimed(&address(0)), 11);
        standing.release(&address(0), 99);
        assert_eq!((standing.claimed(&address(0)), standing.addresses.len()), (0, 0));
        let many = (0..2 * ADDRESSES_MAX).filter(|number| standing.claim(address(*number), 1)).count();
        assert_eq!(many, ADDRESSES_MAX);
    }
}
