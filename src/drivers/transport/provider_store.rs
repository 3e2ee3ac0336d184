//! Which providers of which keys this node remembers for the DHT: bounded in every direction, since strangers fill it.
//!
//! A key is 32 bytes that tell nothing to who does not know a content's topic. Values are not kept at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::drivers::transport::limits::{
    DHT_KEYS_OWN_MAX, DHT_PROVIDERS_PER_KEY_MAX, DHT_RECORDS_MAX, DHT_RECORDS_PER_PROVIDER_MAX,
};

/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 32;

/// A key's bytes; `None` for those of another length, which nobody of ours asks for.
pub(crate) fn key_of(key: &RecordKey) -> Option<[u8; KEY_BYTES]> {
    key.as_ref().try_into().ok()
}

/// The store.
pub(crate) struct ProviderStore {
    local: PeerId,
    /// What we provide.
    own: BTreeMap<[u8; KEY_BYTES], ProviderRecord>,
    /// What others told.
    others: BTreeMap<[u8; KEY_BYTES], Vec<ProviderRecord>>,
    /// Records of each provider among these.
    counts: BTreeMap<PeerId, usize>,
    total: usize,
    /// Where we can be reached, as answers tell it.
    addresses: BTreeSet<Multiaddr>,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            own: BTreeMap::new(),
            others: BTreeMap::new(),
            counts: BTreeMap::new(),
            total: 0,
            addresses: BTreeSet::new(),
        }
    }

    /// Answers tell these addresses of ours from now on, and no others.
    pub(crate) fn reached_at(&mut self, addresses: BTreeSet<Multiaddr>) {
        self.addresses = addresses;
    }

    /// Forgets what has expired.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let Self { others, counts, total, .. } = self;
        others.retain(|_, records| {
            records.retain(|record| {
                let stays = !record.is_expired(now);
                if !stays {
                    *total = total.saturating_sub(1);
                    discount(counts, &record.provider);
                }
                stays
            });
            !records.is_empty()
        });
    }

    /// Keys that others provide, and records of these.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        (self.others.len(), self.total)
    }

    fn add_other(&mut self, key: [u8; KEY_BYTES], record: ProviderRecord) -> Result<()> {
        let known = self
            .others
            .get_mut(&key)
            .and_then(|records| records.iter_mut().find(|known| known.provider == record.provider));
        if let Some(known) = known {
            *known = record;
            return Ok(());
        }
        if self.total >= DHT_RECORDS_MAX {
            self.tidy(Instant::now());
        }
        let of_provider = self.counts.get(&record.provider).copied().unwrap_or(0);
        let of_key = self.others.get(&key).map_or(0, Vec::len);
        // Who came first stays: a flood of made-up providers pushes nobody out.
        if self.total >= DHT_RECORDS_MAX
            || of_provider >= DHT_RECORDS_PER_PROVIDER_MAX
            || of_key >= DHT_PROVIDERS_PER_KEY_MAX
        {
            return Err(Error::MaxProvidedKeys);
        }
        self.counts.insert(record.provider, of_provider.saturating_add(1));
        self.total = self.total.saturating_add(1);
        self.others.entry(key).or_default().push(record);
        Ok(())
    }
}

fn discount(counts: &mut BTreeMap<PeerId, usize>, provider: &PeerId) {
    if let Some(count) = counts.get_mut(provider) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(provider);
        }
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Map<
        std::collections::btree_map::Values<'a, [u8; KEY_BYTES], ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = key_of(&record.key).ok_or(Error::ValueTooLarge)?;
        if record.provider != self.local {
            return self.add_other(key, record);
        }
        if self.own.len() >= DHT_KEYS_OWN_MAX && !self.own.contains_key(&key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(key, record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(key) = key_of(key) else { return Vec::new() };
        let own = self.own.get(&key).filter(|_| !self.addresses.is_empty()).cloned();
        let own = own.map(|record| ProviderRecord { addresses: self.addresses.iter().cloned().collect(), ..record });
        self.others.get(&key).into_iter().flatten().cloned().chain(own).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(key) = key_of(key) else { return };
        if *provider == self.local {
            self.own.remove(&key);
            return;
        }
        let Some(records) = self.others.get_mut(&key) else { return };
        let before = records.len();
        records.retain(|record| record.provider != *provider);
        if records.len() < before {
            self.total = self.total.saturating_sub(1);
            discount(&mut self.counts, provider);
        }
        if records.is_empty() {
            self.others.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(key: u32, provider: PeerId, lives: Duration) -> ProviderRecord {
        let mut bytes = [0; KEY_BYTES];
        bytes[..4].copy_from_slice(&key.to_le_bytes());
        let expires = Instant::now().checked_add(lives);
        ProviderRecord { expires, ..ProviderRecord::new(bytes.to_vec(), provider, Vec::new()) }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn strangers_fill_it_no_further_than_its_bounds_and_push_nobody_out() {
        let mut store = ProviderStore::new(PeerId::random());
        let first = PeerId::random();
        assert!(store.add_provider(record(0, first, LONG)).is_ok());
        for _ in 0..2 * DHT_PROVIDERS_PER_KEY_MAX {
            let _ = store.add_provider(record(0, PeerId::random(), LONG));
        }
        let held = store.providers(&record(0, first, LONG).key);
        assert_eq!(held.len(), DHT_PROVIDERS_PER_KEY_MAX);
        assert!(held.iter().any(|record| record.provider == first));
        let greedy = PeerId::random();
        let taken = (1..=2 * DHT_RECORDS_PER_PROVIDER_MAX as u32)
            .filter(|key| store.add_provider(record(*key, greedy, LONG)).is_ok())
            .count();
        assert_eq!(taken, DHT_RECORDS_PER_PROVIDER_MAX);
        let mut key = 1_000_000;
        while store.add_provider(record(key, PeerId::random(), LONG)).is_ok() {
            key += 1;
        }
        assert_eq!(store.counts().1, DHT_RECORDS_MAX);
        assert!(store.add_provider(record(0, first, LONG)).is_ok(), "who is known may say it again");
    }

    #[test]
    fn what_has_expired_makes_room_and_its_counts_go_with_it() {
        let mut store = ProviderStore::new(PeerId::random());
        let peer = PeerId::random();
        for key in 0..DHT_RECORDS_PER_PROVIDER_MAX as u32 {
            assert!(store.add_provider(record(key, peer, Duration::ZERO)).is_ok());
        }
        store.tidy(Instant::now() + Duration::from_secs(1));
        assert_eq!((store.counts(), store.counts.len()), ((0, 0), 0));
        let one = record(7, peer, LONG);
        assert!(store.add_provider(one.clone()).is_ok());
        store.remove_provider(&one.key, &peer);
        assert_eq!((store.counts(), store.counts.len()), ((0, 0), 0));
    }

    #[test]
    fn keys_of_another_length_and_values_are_not_kept() {
        let mut store = ProviderStore::new(PeerId::random());
        for key in [vec![], vec![0; 31], vec![0; 33], vec![0; 4096]] {
            assert!(store.add_provider(ProviderRecord::new(key, PeerId::random(), Vec::new())).is_err());
        }
        assert!(store.put(Record::new(vec![0; 32], vec![1])).is_err());
        assert_eq!((store.counts(), store.records().count()), ((0, 0), 0));
    }

    #[test]
    fn of_ourselves_it_tells_where_we_can_be_reached_and_nothing_else() {
        let local = PeerId::random();
        let mut store = ProviderStore::new(local);
        let own = record(1, local, LONG);
        assert!(store.add_provider(own.clone()).is_ok());
        assert!(store.providers(&own.key).is_empty(), "nowhere yet");
        let public: Multiaddr = "/ip4/203.0.113.1/tcp/7680".parse().expect("valid");
        store.reached_at(BTreeSet::from([public.clone()]));
        assert_eq!(store.providers(&own.key).first().map(|record| record.addresses.clone()), Some(vec![public]));
        assert_eq!(store.provided().count(), 1);
        store.remove_provider(&own.key, &local);
        assert_eq!(store.provided().count(), 0);
    }
}
