//! What a [`TrustStore`] answers: who signed, whether that is enough for this name, and whether it still holds.
//!
//! The only place where signatures are counted. Hashes answer for the bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::content::envelope::Envelope;
use crate::content::error::Refusal;
use crate::content::hash::KeyId;
use crate::content::key::PublicKey;
use crate::content::manifest::Manifest;
use crate::content::now::Now;
use crate::content::pattern::OriginRules;
use crate::content::trust::{Publisher, TrustStore};

/// Unknown signatures whose keys travel along are checked up to this many, to tell tampering from a stranger; each
/// check hashes the whole payload.
const HINTS_CHECKED_MAX: usize = 4;

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
pub(crate) struct Signers(BTreeSet<KeyId>);

impl TrustStore {
    /// Which known keys signed. Looks at nothing of the payload but its bytes.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] where a known key's signature does not fit, [`Refusal::UnknownPublisher`] where no
    /// known key signed.
    pub(crate) fn signers(&self, envelope: &Envelope) -> Result<Signers, Refusal> {
        let known: BTreeMap<KeyId, &PublicKey> =
            self.list().flat_map(|publisher| publisher.keys()).map(|key| (key.id(), key)).collect();
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
    pub(crate) fn check_scope(
        &self,
        signers: &Signers,
        manifest: &Manifest,
        now: Now,
        highest_seen: Option<u64>,
        exact: bool,
    ) -> Result<Trusted, Refusal> {
        let trusted = self.choose(signers, manifest, now)?;
        if let Some(highest) = highest_seen.filter(|highest| !exact && *highest > manifest.sequence()) {
            return Err(Refusal::Rollback { name: manifest.name().to_owned(), found: manifest.sequence(), highest });
        }
        Ok(trusted)
    }

    /// Whether this manifest, parsed already, is to be believed. [`open_trusted`](crate::content::open::open_trusted)
    /// does not even parse what nobody known signed. `highest_seen` and `exact` as there.
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
        now: impl Into<Now>,
        highest_seen: Option<u64>,
        exact: bool,
    ) -> Result<Trusted, Refusal> {
        assert_eq!(envelope.payload(), manifest.payload(), "a manifest is checked with its own envelope");
        self.check_scope(&self.signers(envelope)?, manifest, now.into(), highest_seen, exact)
    }

    /// The first publisher for whom name, threshold and times hold; else the refusal of the one that came furthest.
    fn choose(&self, signers: &Signers, manifest: &Manifest, now: Now) -> Result<Trusted, Refusal> {
        let name = manifest.name();
        let signed: Vec<(&Publisher, Vec<KeyId>)> = self
            .list()
            .filter_map(|publisher| {
                let ids = publisher.keys().iter().map(PublicKey::id).filter(|id| signers.0.contains(id));
                Some((publisher, ids.collect::<Vec<_>>())).filter(|(_, ids)| !ids.is_empty())
            })
            .collect();
        if signed.is_empty() {
            return Err(Refusal::UnknownPublisher { key_ids: signers.0.iter().copied().collect() });
        }
        let allowed: Vec<_> = signed
            .iter()
            .filter(|(publisher, _)| publisher.names().iter().any(|pattern| pattern.matches(name)))
            .collect();
        let Some((first, ids)) = allowed.first() else {
            let publishers = signed.iter().map(|(publisher, _)| publisher.name().to_owned()).collect();
            return Err(Refusal::NameNotAllowed { publishers, name: name.to_owned() });
        };
        let count = |ids: &[KeyId]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let enough: Vec<_> = allowed.iter().filter(|(publisher, ids)| count(ids) >= publisher.threshold()).collect();
        if enough.is_empty() {
            let (publisher, threshold) = (first.name().to_owned(), first.threshold());
            return Err(Refusal::ThresholdNotMet { publisher, threshold, found: count(ids) });
        }
        if let Some(expires) = manifest.expires().filter(|expires| *expires <= now.at()) {
            return Err(Refusal::Expired { expires, now });
        }
        let mut refusal = None;
        for (publisher, ids) in enough {
            let (created, age) = (manifest.created(), now.at().saturating_sub(manifest.created()));
            match publisher.max_age_seconds().filter(|max| age > *max) {
                None => {
                    let (name, origins) = (publisher.name().to_owned(), publisher.origins().clone());
                    return Ok(Trusted { publisher: name, signers: ids.clone(), origins });
                }
                Some(max_age_seconds) => refusal = refusal.or(Some(Refusal::TooOld { created, max_age_seconds, now })),
            }
        }
        Err(refusal.expect("some publisher had enough keys, and each was refused"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::build::ManifestBuilder;
    use crate::content::build::samples::listed;
    use crate::content::code::Code;
    use crate::content::trust::samples::{addition, key, store};

    const NOW: u64 = 1_700_000_000;

    fn publish(name: &str, seeds: &[u8], expires: Option<u64>) -> (Envelope, Manifest) {
        let builder = ManifestBuilder::new(name).sequence(5).created(NOW - 100).expires(expires);
        let manifest = builder.file(listed("a", b"a")).build().expect("valid");
        let mut envelope = Envelope::unsigned(manifest.payload().clone());
        seeds.iter().for_each(|seed| envelope.sign(&key(*seed)).expect("few signatures"));
        (envelope, manifest)
    }

    fn check(store: &TrustStore, name: &str, seeds: &[u8]) -> Result<Trusted, Refusal> {
        let (envelope, manifest) = publish(name, seeds, None);
        store.check(&envelope, &manifest, NOW, None, false)
    }

    #[test]
    fn enough_distinct_keys_within_the_scope_are_trusted() {
        let store = store(&[addition("acme", &[1, 2, 3], 2, &["acme/*"])]);
        let trusted = check(&store, "acme/app", &[3, 9, 1]).expect("two of three");
        assert_eq!(trusted.publisher, "acme");
        assert_eq!(trusted.signers, [key(1).public().id(), key(3).public().id()]);
        for (name, seeds, code) in [
            ("acme/app", &[1][..], Code::ThresholdNotMet),
            ("acme/app", &[1, 9, 8], Code::ThresholdNotMet),
            ("acme/app", &[8, 9], Code::UnknownPublisher),
            ("evil/app", &[1, 2], Code::NameNotAllowed),
            ("Acme/app", &[1, 2], Code::NameNotAllowed),
            ("evil/app", &[1], Code::NameNotAllowed),
            ("evil/app", &[9], Code::UnknownPublisher),
        ] {
            assert_eq!(check(&store, name, seeds).map_err(|refusal| refusal.code()), Err(code), "{name} {seeds:?}");
        }
        assert_eq!(
            check(&TrustStore::default(), "a", &[1]).map_err(|refusal| refusal.code()),
            Err(Code::UnknownPublisher)
        );
    }

    #[test]
    fn an_unknown_publishers_keys_are_named() {
        let (one, two) = (key(1).public().id(), key(2).public().id());
        let refusal = check(&store(&[addition("acme", &[3], 1, &["*"])]), "acme/app", &[1, 2]).expect_err("unknown");
        assert_eq!(refusal, Refusal::UnknownPublisher { key_ids: vec![one, two] });
        assert!(refusal.to_string().contains(&one.to_string()));
    }

    #[test]
    fn one_key_never_counts_for_two() {
        // The same key under two publishers, each of which wants two.
        let store = store(&[addition("a", &[1, 2], 2, &["*"]), addition("b", &[1, 3], 2, &["*"])]);
        assert_eq!(check(&store, "x", &[1]).map_err(|refusal| refusal.code()), Err(Code::ThresholdNotMet));
        // One key of each: no publisher's own two.
        assert_eq!(check(&store, "x", &[2, 3]).map_err(|refusal| refusal.code()), Err(Code::ThresholdNotMet));
        assert_eq!(check(&store, "x", &[1, 3]).map(|trusted| trusted.publisher), Ok("b".to_owned()));
    }

    #[test]
    fn tampering_is_told_before_anything_else() {
        let (envelope, _) = publish("evil/app", &[1], Some(1));
        let mut payload = envelope.payload().to_vec();
        let (at, _) = payload.iter().enumerate().find(|(_, byte)| **byte == b'e').expect("the name");
        payload[at] = b'E';
        let bytes = envelope.encode();
        let start = bytes.windows(8).position(|window| window == b"evil/app").expect("the name");
        let mut bytes = bytes;
        bytes[start] = b'E';
        let tampered = Envelope::decode(&bytes).expect("well-formed");
        let key_id = key(1).public().id();
        let known = store(&[addition("acme", &[1], 1, &["acme/*"])]);
        assert_eq!(known.signers(&tampered), Err(Refusal::BadSignature { key_id }));
        // Nor is a stranger's broken manifest offered for trust.
        let stranger = store(&[addition("acme", &[2], 1, &["acme/*"])]);
        assert_eq!(stranger.signers(&tampered), Err(Refusal::BadSignature { key_id }));
    }

    #[test]
    fn time_and_sequence_come_last() {
        let mut old = addition("acme", &[1], 1, &["*"]);
        old.max_age_seconds = Some(100);
        let store = store(&[old]);
        let (envelope, manifest) = publish("acme/app", &[1], Some(NOW + 50));
        let check = |now, highest, exact| store.check(&envelope, &manifest, now, highest, exact).map(|_| ());
        assert_eq!(check(NOW, None, false), Ok(()));
        assert_eq!(check(NOW, Some(5), false), Ok(()));
        assert_eq!(check(NOW, Some(6), true), Ok(()));
        let name = "acme/app".to_owned();
        assert_eq!(check(NOW, Some(6), false), Err(Refusal::Rollback { name, found: 5, highest: 6 }));
        let too_old = Refusal::TooOld { created: NOW - 100, max_age_seconds: 100, now: (NOW + 1).into() };
        assert_eq!(check(NOW + 1, Some(6), false), Err(too_old));
        assert_eq!(
            check(NOW + 50, Some(6), false),
            Err(Refusal::Expired { expires: NOW + 50, now: (NOW + 50).into() })
        );
        let set_back = Now { clock: NOW, floor: NOW + 60 };
        let refused = store.check(&envelope, &manifest, set_back, Some(6), false).expect_err("expired");
        assert_eq!(refused, Refusal::Expired { expires: NOW + 50, now: set_back });
        assert!(refused.to_string().contains("yet it is 2023-11-14T22:14:20Z at least"), "{refused}");
        assert!(check(NOW + 50, None, true).expect_err("expired").to_string().contains("2023-11-14T22:14:10Z"));
        // A clock before the making is no age.
        assert_eq!(check(0, None, false), Ok(()));
    }

    #[test]
    fn a_stricter_publisher_does_not_hide_a_laxer_one() {
        let mut strict = addition("a", &[1], 1, &["*"]);
        strict.max_age_seconds = Some(1);
        let store = store(&[strict, addition("b", &[1], 1, &["acme/*"])]);
        assert_eq!(check(&store, "acme/app", &[1]).map(|trusted| trusted.publisher), Ok("b".to_owned()));
    }

    #[test]
    #[should_panic(expected = "its own envelope")]
    fn another_manifest_is_never_checked_with_an_envelope() {
        let (envelope, _) = publish("acme/a", &[1], None);
        let (_, other) = publish("acme/b", &[1], None);
        let _ = store(&[addition("acme", &[1], 1, &["*"])]).check(&envelope, &other, NOW, None, false);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn trust_is_a_count_of_distinct_known_keys(known in proptest::collection::btree_set(0u8..8, 1..6), signing in proptest::collection::btree_set(0u8..8, 1..6), threshold in 1u32..6) {
            let known: Vec<_> = known.into_iter().collect();
            let signing: Vec<_> = signing.into_iter().collect();
            prop_assume!(threshold as usize <= known.len());
            let both = signing.iter().filter(|seed| known.contains(seed)).count();
            let found = check(&store(&[addition("p", &known, threshold, &["n*"])]), "name", &signing);
            let expected = if both == 0 { Some(Code::UnknownPublisher) } else if (both as u32) < threshold { Some(Code::ThresholdNotMet) } else { None };
            prop_assert_eq!(found.err().map(|refusal| refusal.code()), expected);
        }
    }
}
