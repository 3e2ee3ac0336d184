//! One peer as an owner of origin duties: what it claims, brings and lets lie. What follows from it is `duty`'s.

use std::ops::Range;
use std::time::Duration;

use crate::swarm::event::AddressKey;
use crate::swarm::limits::{CLAIM_BYTES_MAX, CLAIM_UNPROVEN_BYTES, LEASE_MAX};
use crate::swarm::rate::{bytes_in, per_second};
use crate::swarm::timer::Uptime;

/// What is known of a peer's duties.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) address: AddressKey,
    /// Since when pieces are open that it should fetch.
    pub(crate) open_since: Option<Uptime>,
    /// Its open bytes at the last count, unclaimed ones alone.
    pub(crate) open_bytes: u64,
    pub(crate) progress_at: Uptime,
    pub(crate) suspect_until: Uptime,
    /// When its claims run out, all at once; progress renews them.
    pub(crate) lease_until: Uptime,
    pub(crate) lease: Duration,
    /// Intents since its last progress.
    pub(crate) unproven: u32,
    pub(crate) claimed_bytes: u64,
    /// Bytes it brought in from the origin, and since when.
    pub(crate) brought: u64,
    pub(crate) brought_since: Uptime,
    /// What it said last that it fetches, and before that: a piece may arrive and be left out of the next word at once.
    pub(crate) said: [Vec<Range<u32>>; 2],
}

impl Owner {
    pub(crate) fn new(address: AddressKey) -> Self {
        Self {
            address,
            open_since: None,
            open_bytes: 0,
            progress_at: Uptime::ZERO,
            suspect_until: Uptime::ZERO,
            lease_until: Uptime::ZERO,
            lease: Duration::ZERO,
            unproven: 0,
            claimed_bytes: 0,
            brought: 0,
            brought_since: Uptime::ZERO,
            said: Default::default(),
        }
    }

    /// Bytes beyond its duties that it may claim once it has brought some: what it would bring within the longest lease.
    pub(crate) fn claim_max(&self, now: Uptime) -> u64 {
        let busy = u64::try_from(now.since(self.brought_since).as_micros()).unwrap_or(u64::MAX);
        bytes_in(per_second(self.brought, busy), LEASE_MAX).clamp(CLAIM_UNPROVEN_BYTES, CLAIM_BYTES_MAX)
    }
}
