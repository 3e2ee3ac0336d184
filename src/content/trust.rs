//! [`TrustStore`]: which publishers are believed, about which names, by how many of their keys.
//!
//! The store itself and its file; what it answers is in `scope`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::content::error::{Error, shown};
use crate::content::key::PublicKey;
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

/// Keys and stores for the tests of this room.
#[cfg(test)]
pub(crate) mod samples {
    use crate::content::key::SigningKey;
    use crate::content::pattern::NamePattern;
    use crate::content::trust::{Addition, TrustStore};

    pub(crate) fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    pub(crate) fn addition(publisher: &str, seeds: &[u8], threshold: u32, names: &[&str]) -> Addition {
        Addition {
            publisher: publisher.to_owned(),
            keys: seeds.iter().map(|seed| key(*seed).public()).collect(),
            threshold: Some(threshold),
            names: names.iter().map(|text| NamePattern::new(text).expect("a pattern")).collect(),
            ..Addition::default()
        }
    }

    pub(crate) fn store(additions: &[Addition]) -> TrustStore {
        let mut store = TrustStore::default();
        additions.iter().for_each(|addition| store.add(addition.clone()).expect("within the rules"));
        store
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::code::Code;
    use crate::content::trust::samples::{addition, key, store};

    #[test]
    fn adding_joins_and_removing_removes() {
        let mut store = store(&[addition("acme", &[1], 1, &["a/*"])]);
        let more = Addition { threshold: Some(2), ..addition("acme", &[1, 2], 0, &["b/*", "a/*"]) };
        store.add(more).expect("within the rules");
        let acme = store.publisher("acme").expect("there");
        assert_eq!((acme.keys().len(), acme.threshold(), acme.names().len()), (2, 2, 2));
        let third = Addition { threshold: None, ..addition("acme", &[3], 0, &[]) };
        store.add(third).expect("within the rules");
        assert_eq!(store.publisher("acme").map(|acme| (acme.keys().len(), acme.threshold())), Some((3, 2)));
        let before = store.clone();
        for bad in [
            addition("acme", &[], 4, &[]),
            addition("acme", &[], 0, &[]),
            addition("new", &[1], 1, &[]),
            addition("new", &[], 1, &["*"]),
            addition("", &[1], 1, &["*"]),
            addition(" x", &[1], 1, &["*"]),
            addition("x\u{1b}", &[1], 1, &["*"]),
        ] {
            assert_eq!(store.add(bad.clone()).map_err(|fault| fault.code()), Err(Code::BadInput), "{bad:?}");
        }
        assert_eq!(store, before);
        assert!(store.remove("acme") && !store.remove("acme"));
        assert_eq!(store.list().count(), 0);
    }

    #[test]
    fn the_file_reads_as_written_and_takes_pem() {
        let mut full = addition("acme \"tools\"", &[1, 2], 2, &["acme/*", "*"]);
        full.origins =
            ["*.example.com", "127.0.0.1:8000"].map(|text| OriginPattern::new(text).expect("a pattern")).to_vec();
        full.max_age_seconds = Some(86_400);
        let written = store(&[full, addition("b", &[3], 1, &["b"])]);
        assert_eq!(TrustStore::parse(&written.to_toml()), Ok(written));
        assert_eq!(TrustStore::parse(""), Ok(TrustStore::default()));

        let (id, pem) = (key(1).public().id(), key(1).public().to_pem());
        let text = format!(
            "[[publisher]]\nname = \"a\"\nnames = [\"a/*\"]\n[[publisher.key]]\nid = \"{id}\"\npublic_key = \"\"\"\n{pem}\"\"\"\n"
        );
        let read = TrustStore::parse(&text).expect("by hand");
        assert_eq!(read, store(&[addition("a", &[1], 1, &["a/*"])]));
        let other = key(2).public().id().to_string();
        for (from, to) in [
            ("name = ", "nome = "),
            ("names = [\"a/*\"]", ""),
            ("names = [\"a/*\"]", "names = []"),
            ("names = [\"a/*\"]", "names = [\"a/*\"]\nthreshold = 2"),
            ("names = [\"a/*\"]", "names = [\"a/*\"]\nthreshold = 0"),
            ("names = [\"a/*\"]", "names = [\"a/*\"]\nthreshold = -1"),
            ("names = [\"a/*\"]", "names = [\"a/*\"]\nmax_age_seconds = -1"),
            ("names = [\"a/*\"]", "names = [\"a/*\"]\norigins = [\"http://a\"]"),
            ("[[publisher.key]]", "[[publisher.kye]]"),
            (id.to_string().as_str(), &other),
            ("MCow", "MCoy"),
            ("[[publisher]]", "[[publisher]]\n["),
        ] {
            assert!(text.contains(from));
            assert_eq!(
                TrustStore::parse(&text.replacen(from, to, 1)).map_err(|fault| fault.code()),
                Err(Code::BadInput),
                "{to}"
            );
        }
        assert!(TrustStore::parse(&text.repeat(2)).is_err());
        let twice = text.replace(
            "[[publisher.key]]",
            &format!(
                "[[publisher.key]]\nid = \"{id}\"\npublic_key = \"{}\"\n[[publisher.key]]",
                key(1).public().to_base64()
            ),
        );
        assert!(TrustStore::parse(&twice).is_err());
        assert!(TrustStore::parse(&" ".repeat(STORE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn deep_texts_neither_overflow_the_stack_nor_take_long() {
        let fill = |open: &str, close: &str| open.repeat(STORE_BYTES_MAX / (open.len() + close.len()) - 8) + close;
        for text in [
            format!("a = {}", fill("[", "")),
            format!("a = {}", fill("{a=", "")),
            format!("{} = 1", fill("a.", "a")),
            format!("[{}]", fill("a.", "a")),
            fill("[[publisher]]\n", ""),
            fill("a=1\n", ""),
        ] {
            assert!(TrustStore::parse(&text).is_err(), "{}", shown(&text));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_is_a_store_or_refused(text in "(\\[\\[publisher(\\.key)?\\]\\]\n|names? = \\[?\"a\"\\]?\n|threshold = [0-9]\n|.|\n){0,12}") {
            if let Ok(read) = TrustStore::parse(&text) {
                prop_assert_eq!(TrustStore::parse(&read.to_toml()), Ok(read));
            }
        }
    }
}
