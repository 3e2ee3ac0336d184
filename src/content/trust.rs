//! [`TrustStore`]: which publishers are believed, about which names, by how many of their keys.
//!
//! The only place where signatures are counted. It answers who signed and whether that is enough and still holds;
//! hashes answer for the bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::content::envelope::Envelope;
use crate::content::error::{Error, Refusal, shown};
use crate::content::hash::KeyId;
use crate::content::key::PublicKey;
use crate::content::manifest::Manifest;
use crate::content::path::is_plain;
use crate::content::pattern::{NamePattern, OriginPattern, OriginRules};

/// Longest store, in bytes of TOML.
pub const STORE_BYTES_MAX: usize = 1 << 20;
/// Most publishers.
pub const PUBLISHERS_MAX: usize = 1000;
/// Most keys, name patterns or origin patterns of one publisher.
pub const ENTRIES_MAX: usize = 256;
/// Longest name of a publisher, in bytes.
pub const PUBLISHER_BYTES_MAX: usize = 255;
/// Unknown signatures whose keys travel along are checked up to this many, to tell tampering from a stranger; each
/// check hashes the whole payload.
const HINTS_CHECKED_MAX: usize = 4;

/// One publisher, as trusted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    name: String,
    keys: Vec<PublicKey>,
    threshold: u32,
    names: Vec<NamePattern>,
    origins: OriginRules,
    max_age_seconds: Option<u64>,
}

impl Publisher {
    /// The local name for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its keys, all distinct.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// How many distinct keys of [`Publisher::keys`] must have signed; 1 at least.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// What it may sign for.
    pub fn names(&self) -> &[NamePattern] {
        &self.names
    }

    /// From where its sources may be fetched.
    pub fn origins(&self) -> &OriginRules {
        &self.origins
    }

    /// How long after its making a manifest is believed; `None`: for ever.
    pub fn max_age_seconds(&self) -> Option<u64> {
        self.max_age_seconds
    }
}

/// What `trust add` says. Where the publisher is known already, lists are joined and what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Addition {
    /// The local name of the publisher.
    pub publisher: String,
    /// Keys to believe.
    pub keys: Vec<PublicKey>,
    /// Distinct keys that must sign; 1 for a new publisher.
    pub threshold: Option<u32>,
    /// Names it may sign for.
    pub names: Vec<NamePattern>,
    /// From where its sources may be fetched.
    pub origins: Vec<OriginPattern>,
    /// How long after its making a manifest is believed.
    pub max_age_seconds: Option<u64>,
}

/// The publishers believed, in order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustStore {
    publishers: BTreeMap<String, Publisher>,
}

/// The answer yes: who said it, by which keys, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The local name of the publisher.
    pub publisher: String,
    /// Its distinct keys that signed; no fewer than its threshold.
    pub signers: Vec<KeyId>,
    /// From where the manifest's sources may be fetched.
    pub origins: OriginRules,
}

/// Keys of the store whose signatures fit an envelope; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers(BTreeSet<KeyId>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreText {
    #[serde(default, rename = "publisher")]
    publishers: Vec<PublisherText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublisherText {
    name: String,
    #[serde(default = "one")]
    threshold: u32,
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age_seconds: Option<u64>,
    #[serde(rename = "key")]
    keys: Vec<KeyText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: String,
    /// SPKI, as PEM or as one line of base64.
    public_key: String,
}

fn one() -> u32 {
    1
}

fn wrong(reason: String) -> Error {
    Error::TrustStore { reason }
}

impl TrustStore {
    /// Reads a store's file; an empty text is an empty store.
    ///
    /// # Errors
    /// [`Error::TrustStore`] for anything unknown, missing or out of bounds, [`Error::Key`] for a key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > STORE_BYTES_MAX {
            return Err(wrong(format!("at most {STORE_BYTES_MAX} bytes are allowed, found {}", text.len())));
        }
        let read: StoreText = toml::from_str(text).map_err(|fault| wrong(shown(fault.message())))?;
        let mut store = Self::default();
        for publisher in read.publishers {
            if store.publishers.contains_key(&publisher.name) {
                return Err(wrong(format!("the publisher {:?} stands twice", shown(&publisher.name))));
            }
            let keys = publisher.keys.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
            let count = keys.len();
            store.add(Addition {
                keys,
                threshold: Some(publisher.threshold),
                names: publisher.names.iter().map(|text| NamePattern::new(text)).collect::<Result<_, _>>()?,
                origins: publisher.origins.iter().map(|text| OriginPattern::new(text)).collect::<Result<_, _>>()?,
                max_age_seconds: publisher.max_age_seconds,
                publisher: publisher.name.clone(),
            })?;
            if store.publishers.get(&publisher.name).is_some_and(|read| read.keys.len() != count) {
                return Err(wrong(format!("a key of {:?} stands twice", shown(&publisher.name))));
            }
        }
        Ok(store)
    }

    /// The store's file; [`TrustStore::parse`] reads it back to the same store.
    pub fn to_toml(&self) -> String {
        let publishers = self.publishers.values().map(|publisher| PublisherText {
            name: publisher.name.clone(),
            threshold: publisher.threshold,
            names: publisher.names.iter().map(NamePattern::to_string).collect(),
            origins: publisher.origins.patterns.iter().map(OriginPattern::to_string).collect(),
            max_age_seconds: publisher.max_age_seconds,
            keys: publisher
                .keys
                .iter()
                .map(|key| KeyText { id: key.id().to_string(), public_key: key.to_base64() })
                .collect(),
        });
        let text = StoreText { publishers: publishers.collect() };
        toml::to_string(&text).expect("strings and numbers below 2^63 have a TOML form")
    }

    /// Believes one more publisher, or more of one.
    ///
    /// # Errors
    /// [`Error::TrustStore`] where the outcome has no name pattern, no key, too many of anything, or a threshold that
    /// its keys cannot reach; the store is as before then.
    pub fn add(&mut self, addition: Addition) -> Result<(), Error> {
        let name = addition.publisher;
        let shape = !name.is_empty() && name.len() <= PUBLISHER_BYTES_MAX && name.trim() == name;
        if !shape || !name.chars().all(is_plain) {
            return Err(wrong(format!("a publisher may not be called {:?}", shown(&name))));
        }
        let mut publisher = self.publishers.get(&name).cloned().unwrap_or_else(|| Publisher {
            name: name.clone(),
            keys: Vec::new(),
            threshold: 1,
            names: Vec::new(),
            origins: OriginRules::default(),
            max_age_seconds: None,
        });
        join(&mut publisher.keys, addition.keys);
        join(&mut publisher.names, addition.names);
        join(&mut publisher.origins.patterns, addition.origins);
        publisher.threshold = addition.threshold.unwrap_or(publisher.threshold);
        publisher.max_age_seconds = addition.max_age_seconds.or(publisher.max_age_seconds);
        check_publisher(&publisher)?;
        if !self.publishers.contains_key(&name) && self.publishers.len() >= PUBLISHERS_MAX {
            return Err(wrong(format!("at most {PUBLISHERS_MAX} publishers are allowed")));
        }
        self.publishers.insert(name, publisher);
        Ok(())
    }

    /// Believes a publisher no longer; false if it was not there.
    pub fn remove(&mut self, publisher: &str) -> bool {
        self.publishers.remove(publisher).is_some()
    }

    /// The publishers, in order of their names.
    pub fn list(&self) -> impl Iterator<Item = &Publisher> + '_ {
        self.publishers.values()
    }

    /// One publisher.
    pub fn publisher(&self, name: &str) -> Option<&Publisher> {
        self.publishers.get(name)
    }

    /// Which known keys signed. Looks at nothing of the payload but its bytes.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] where a known key's signature does not fit, [`Refusal::UnknownPublisher`] where no
    /// known key signed.
    pub fn signers(&self, envelope: &Envelope) -> Result<Signers, Refusal> {
        let known: BTreeMap<KeyId, &PublicKey> =
            self.publishers.values().flat_map(|publisher| &publisher.keys).map(|key| (key.id(), key)).collect();
        let message = envelope.signed_bytes();
        let mut signers = BTreeSet::new();
        for signature in envelope.signatures() {
            let key_id = signature.key_id();
            let Some(key) = known.get(&key_id) else { continue };
            if !key.check(&message, signature.as_bytes()) {
                return Err(Refusal::BadSignature { key_id });
            }
            signers.insert(key_id);
        }
        if !signers.is_empty() {
            return Ok(Signers(signers));
        }
        // Tampered bytes of a stranger should not be offered for trust.
        let hinted = envelope.signatures().iter().filter_map(|signature| Some((signature, signature.public_key()?)));
        for (signature, key) in hinted.take(HINTS_CHECKED_MAX) {
            if !key.check(&message, signature.as_bytes()) {
                return Err(Refusal::BadSignature { key_id: signature.key_id() });
            }
        }
        Err(Refusal::UnknownPublisher { key_ids: envelope.signatures().iter().map(|one| one.key_id()).collect() })
    }

    /// Whether those who signed may say this, now. `highest_seen` is the highest sequence seen of the manifest's name;
    /// `exact`: this very manifest was asked for by its id, so an older one is what is wanted.
    ///
    /// # Errors
    /// [`Refusal`], the first that applies in its order.
    pub fn check_scope(
        &self,
        signers: &Signers,
        manifest: &Manifest,
        now: u64,
        highest_seen: Option<u64>,
        exact: bool,
    ) -> Result<Trusted, Refusal> {
        let trusted = self.choose(signers, manifest, now)?;
        if let Some(highest) = highest_seen.filter(|highest| !exact && *highest > manifest.sequence()) {
            return Err(Refusal::Rollback { name: manifest.name().to_owned(), found: manifest.sequence(), highest });
        }
        Ok(trusted)
    }

    /// [`TrustStore::signers`], then [`TrustStore::check_scope`]: for a manifest that was parsed already.
    ///
    /// # Errors
    /// [`Refusal`], the first that applies in its order.
    ///
    /// # Panics
    /// If the manifest is not the envelope's.
    pub fn check(
        &self,
        envelope: &Envelope,
        manifest: &Manifest,
        now: u64,
        highest_seen: Option<u64>,
        exact: bool,
    ) -> Result<Trusted, Refusal> {
        assert_eq!(envelope.payload(), manifest.payload(), "a manifest is checked with its own envelope");
        self.check_scope(&self.signers(envelope)?, manifest, now, highest_seen, exact)
    }

    /// The first publisher for whom name, threshold and times hold; else the refusal of the one that came furthest.
    fn choose(&self, signers: &Signers, manifest: &Manifest, now: u64) -> Result<Trusted, Refusal> {
        let name = manifest.name();
        let signed: Vec<(&Publisher, Vec<KeyId>)> = self
            .publishers
            .values()
            .filter_map(|publisher| {
                let ids = publisher.keys.iter().map(PublicKey::id).filter(|id| signers.0.contains(id));
                Some((publisher, ids.collect::<Vec<_>>())).filter(|(_, ids)| !ids.is_empty())
            })
            .collect();
        if signed.is_empty() {
            return Err(Refusal::UnknownPublisher { key_ids: signers.0.iter().copied().collect() });
        }
        let allowed: Vec<_> = signed
            .iter()
            .filter(|(publisher, _)| publisher.names.iter().any(|pattern| pattern.matches(name)))
            .collect();
        let Some((first, ids)) = allowed.first() else {
            let publishers = signed.iter().map(|(publisher, _)| publisher.name.clone()).collect();
            return Err(Refusal::NameNotAllowed { publishers, name: name.to_owned() });
        };
        let count = |ids: &[KeyId]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let enough: Vec<_> = allowed.iter().filter(|(publisher, ids)| count(ids) >= publisher.threshold).collect();
        if enough.is_empty() {
            let (publisher, threshold) = (first.name.clone(), first.threshold);
            return Err(Refusal::ThresholdNotMet { publisher, threshold, found: count(ids) });
        }
        if let Some(expires) = manifest.expires().filter(|expires| *expires <= now) {
            return Err(Refusal::Expired { expires, now });
        }
        let mut refusal = None;
        for (publisher, ids) in enough {
            let (created, age) = (manifest.created(), now.saturating_sub(manifest.created()));
            match publisher.max_age_seconds.filter(|max| age > *max) {
                None => {
                    let (name, origins) = (publisher.name.clone(), publisher.origins.clone());
                    return Ok(Trusted { publisher: name, signers: ids.clone(), origins });
                }
                Some(max_age_seconds) => refusal = refusal.or(Some(Refusal::TooOld { created, max_age_seconds, now })),
            }
        }
        Err(refusal.expect("some publisher had enough keys, and each was refused"))
    }
}

fn join<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn check_publisher(publisher: &Publisher) -> Result<(), Error> {
    let name = &publisher.name;
    let counts = [
        ("key", publisher.keys.len()),
        ("name pattern", publisher.names.len()),
        ("origin pattern", publisher.origins.patterns.len()),
    ];
    for (what, count) in counts {
        if count > ENTRIES_MAX {
            return Err(wrong(format!("{name:?} has {count} of {what}; at most {ENTRIES_MAX} are allowed")));
        }
        if count == 0 && what != "origin pattern" {
            return Err(wrong(format!("{name:?} has no {what}")));
        }
    }
    let keys = publisher.keys.len();
    if publisher.threshold == 0 || usize::try_from(publisher.threshold).is_ok_and(|threshold| threshold > keys) {
        let threshold = publisher.threshold;
        return Err(wrong(format!("{name:?} has a threshold of {threshold} and {keys} keys; 1 to {keys} is possible")));
    }
    if publisher.max_age_seconds.is_some_and(|seconds| i64::try_from(seconds).is_err()) {
        return Err(wrong(format!("{name:?} has a maximum age beyond any time")));
    }
    Ok(())
}

fn read_key(text: &KeyText) -> Result<PublicKey, Error> {
    let pem = text.public_key.contains("-----");
    let key = if pem { PublicKey::from_pem(&text.public_key) } else { PublicKey::from_base64(&text.public_key) }?;
    if text.id != key.id().to_string() {
        return Err(wrong(format!("the key written beside the id {:?} has the id {}", shown(&text.id), key.id())));
    }
    Ok(key)
}
