//! [`Envelope`]: the exact signed bytes of a manifest, and who signed them. DSSE in its protobuf form.
//!
//! Nothing beside the payload is signed, so nothing else may hide here: unknown fields are refused, and a signer's public
//! key that travels along counts only because its hash is the key id. Whose keys count is `trust`'s question.

use prost::Message;
use prost::bytes::{BufMut, Bytes};

use crate::content::error::{Error, shown};
use crate::content::fields::{Fields, Malformed};
use crate::content::hash::KeyId;
use crate::content::key::{PublicKey, SigningKey};
use crate::content::proto;
use crate::content::rules::{PAYLOAD_BYTES_MAX, at_most};

/// What the payload is.
pub const PAYLOAD_TYPE: &str = "application/vnd.piecework.manifest.v1";
/// Longest envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (64 << 10);
/// Most signatures.
pub const SIGNATURES_MAX: usize = 64;

/// A payload and its signatures. Decoded ones have at least one, all by distinct key ids.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Bytes,
    signatures: Vec<Signature>,
}

/// One signature, not yet checked by anyone.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    key_id: KeyId,
    bytes: [u8; 64],
    /// Its hash is `key_id`.
    hint: Option<PublicKey>,
}

impl Signature {
    /// The key it claims to be by.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The signer's key, if it travelled along. It is the key of that id; that makes nobody trustworthy.
    pub fn public_key(&self) -> Option<&PublicKey> {
        self.hint.as_ref()
    }

    /// Ed25519.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl Envelope {
    /// An envelope to be signed.
    pub fn unsigned(payload: Bytes) -> Self {
        Self { payload, signatures: Vec::new() }
    }

    /// Reads an envelope's bytes; checks no signature.
    ///
    /// # Errors
    /// [`Error`] for anything but 1 to 64 signatures by distinct keys around a payload of [`PAYLOAD_TYPE`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        at_most("bytes of the envelope", ENVELOPE_BYTES_MAX, bytes.len())?;
        Self::decode_shared(Bytes::copy_from_slice(bytes))
    }

    /// As [`Envelope::decode`], sharing the bytes instead of copying them.
    ///
    /// # Errors
    /// As [`Envelope::decode`].
    pub fn decode_shared(bytes: Bytes) -> Result<Self, Error> {
        at_most("bytes of the envelope", ENVELOPE_BYTES_MAX, bytes.len())?;
        let (mut payload, mut payload_type, mut signatures) = (None, None, Vec::new());
        for field in Fields::of(&bytes) {
            let (number, value) = field.map_err(malformed)?;
            match number {
                1 if payload.is_none() => payload = Some(value.bytes().map_err(malformed)?),
                2 if payload_type.is_none() => payload_type = Some(value.text().map_err(malformed)?),
                3 => {
                    at_most("signatures", SIGNATURES_MAX, signatures.len().saturating_add(1))?;
                    signatures.push(read_signature(value.bytes().map_err(malformed)?)?);
                }
                _ => return Err(malformed(Malformed("a field is unknown or repeated"))),
            }
        }
        let found = payload_type.unwrap_or_default();
        if found != PAYLOAD_TYPE {
            return Err(Error::Field { what: "payload type", expected: PAYLOAD_TYPE, found: shown(found) });
        }
        let payload = payload.unwrap_or_default();
        at_most("bytes of the payload", PAYLOAD_BYTES_MAX, payload.len())?;
        check_distinct(&signatures)?;
        Ok(Self { payload: bytes.slice_ref(payload), signatures })
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let signature = |signature: &Signature| proto::Signature {
            sig: Bytes::copy_from_slice(&signature.bytes),
            keyid: signature.key_id.to_string(),
            public_key: signature.hint.as_ref().map(|key| Bytes::copy_from_slice(&key.to_der())).unwrap_or_default(),
        };
        let envelope = proto::Envelope {
            payload: self.payload.clone(),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        envelope.encode_to_vec()
    }

    /// The exact payload; shared, not copied. Not to be parsed before its signatures were checked.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The signatures, by distinct key ids, checked by nobody.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The DSSE pre-authentication encoding: what is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.payload.len().saturating_add(96));
        let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), self.payload.len());
        bytes.put_slice(head.as_bytes());
        bytes.put_slice(&self.payload);
        bytes
    }

    /// Signs with a key; replaces what that key signed before.
    ///
    /// # Errors
    /// [`Error::OverLimit`] for one signature too many.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), Error> {
        let signature = key.sign(&self.signed_bytes());
        self.add_signature(&key.public(), signature)
    }

    /// Adds a signature over [`Envelope::signed_bytes`] that was made elsewhere.
    ///
    /// # Errors
    /// [`Error::BadSignature`] if it does not fit; [`Error::OverLimit`] for one too many.
    pub fn add_signature(&mut self, key: &PublicKey, bytes: [u8; 64]) -> Result<(), Error> {
        let key_id = key.id();
        if !key.check(&self.signed_bytes(), &bytes) {
            return Err(Error::BadSignature { key_id });
        }
        let others = self.signatures.iter().filter(|signature| signature.key_id != key_id).count();
        at_most("signatures", SIGNATURES_MAX, others.saturating_add(1))?;
        self.signatures.retain(|signature| signature.key_id != key_id);
        self.signatures.push(Signature { key_id, bytes, hint: Some(key.clone()) });
        Ok(())
    }

    /// Whether this key signed the payload.
    pub fn verify_with(&self, key: &PublicKey) -> bool {
        let key_id = key.id();
        let signature = self.signatures.iter().find(|signature| signature.key_id == key_id);
        signature.is_some_and(|signature| key.check(&self.signed_bytes(), &signature.bytes))
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({} bytes, {} signatures)", self.payload.len(), self.signatures.len())
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signature(by {})", self.key_id.short())
    }
}

fn malformed(reason: Malformed) -> Error {
    Error::Malformed { what: "envelope", reason: reason.0.to_owned() }
}

fn read_signature(bytes: &[u8]) -> Result<Signature, Error> {
    let mut fields = [false; 3];
    for field in Fields::of(bytes) {
        let seen = match field.map_err(malformed)?.0 {
            1 => &mut fields[0],
            2 => &mut fields[1],
            16 => &mut fields[2],
            _ => return Err(malformed(Malformed("a signature has an unknown field"))),
        };
        if std::mem::replace(seen, true) {
            return Err(malformed(Malformed("a signature has a field twice")));
        }
    }
    let read = proto::Signature::decode(bytes)
        .map_err(|reason| Error::Malformed { what: "envelope", reason: reason.to_string() })?;
    let key_id = read.keyid.parse::<KeyId>().ok().filter(|id| id.to_string() == read.keyid);
    let key_id = key_id.ok_or_else(|| Error::Field {
        what: "key id of a signature",
        expected: "64 lower-case hexadecimal digits",
        found: shown(&read.keyid),
    })?;
    let bytes = <[u8; 64]>::try_from(&read.sig[..]).map_err(|_| Error::Field {
        what: "signature",
        expected: "64 bytes",
        found: format!("{} bytes", read.sig.len()),
    })?;
    let hint = Some(&read.public_key).filter(|hint| !hint.is_empty()).map(|hint| PublicKey::from_der(hint)).transpose();
    let hint =
        hint.map_err(|fault| Error::Malformed { what: "envelope", reason: format!("a signer's key: {fault}") })?;
    if let Some(key) = hint.as_ref().filter(|key| key.id() != key_id) {
        let expected = "the hash of the public key beside it";
        return Err(Error::Field { what: "key id of a signature", expected, found: key.id().to_string() });
    }
    Ok(Signature { key_id, bytes, hint })
}

/// Thresholds count keys, so a key that stands twice is an attack or a fault.
fn check_distinct(signatures: &[Signature]) -> Result<(), Error> {
    let mut ids: Vec<_> = signatures.iter().map(|signature| signature.key_id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() || ids.len() != signatures.len() {
        let found = format!("{} signatures by {} keys", signatures.len(), ids.len());
        return Err(Error::Field { what: "signatures", expected: "at least one, each by another key", found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn signed(payload: &[u8], seeds: &[u8]) -> Envelope {
        let mut envelope = Envelope::unsigned(Bytes::copy_from_slice(payload));
        seeds.iter().for_each(|seed| envelope.sign(&key(*seed)).expect("few signatures"));
        envelope
    }

    /// The message of an envelope signed once, broken in one place.
    fn refused(change: impl FnOnce(&mut proto::Envelope)) -> String {
        let mut message = proto::Envelope::decode(&signed(b"payload", &[1]).encode()[..]).expect("canonical");
        change(&mut message);
        Envelope::decode(&message.encode_to_vec()).expect_err("a rule is broken").to_string()
    }

    #[test]
    fn what_is_signed_is_the_pre_authentication_encoding() {
        let expected = "DSSEv1 37 application/vnd.piecework.manifest.v1 7 payload";
        assert_eq!(signed(b"payload", &[]).signed_bytes(), expected.as_bytes());
    }

    #[test]
    fn each_signature_fits_its_own_key() {
        let envelope = Envelope::decode(&signed(b"payload", &[1, 2]).encode()).expect("canonical");
        assert_eq!(&envelope.payload()[..], b"payload");
        assert!(envelope.verify_with(&key(1).public()) && envelope.verify_with(&key(2).public()));
        assert!(!envelope.verify_with(&key(3).public()));
        let hints = envelope.signatures().iter().map(|signature| signature.public_key().cloned());
        assert!(hints.eq([Some(key(1).public()), Some(key(2).public())]));
    }

    #[test]
    fn signing_twice_with_one_key_counts_once() {
        let mut envelope = signed(b"payload", &[1, 2, 1]);
        assert_eq!(envelope.signatures().len(), 2);
        let elsewhere = key(3).sign(&envelope.signed_bytes());
        envelope.add_signature(&key(3).public(), elsewhere).expect("it fits");
        assert_eq!(envelope.signatures().len(), 3);
        let key_id = key(4).public().id();
        assert_eq!(envelope.add_signature(&key(4).public(), elsewhere), Err(Error::BadSignature { key_id }));
        let full = signed(b"", &(0..64).collect::<Vec<_>>());
        assert!(Envelope::decode(&full.encode()).is_ok());
        assert!(full.clone().sign(&key(0)).is_ok() && full.clone().sign(&key(99)).is_err());
    }

    #[test]
    fn anything_unsigned_that_could_mislead_is_refused() {
        for (change, word) in [
            ((|m| m.payload_type.push('2')) as fn(&mut proto::Envelope), "payload type"),
            (|m| m.payload_type.clear(), "payload type"),
            (|m| m.signatures.clear(), "at least one"),
            (|m| m.signatures.push(m.signatures[0].clone()), "each by another key"),
            (|m| m.signatures[0].sig.truncate(63), "64 bytes"),
            (|m| m.signatures[0].sig.clear(), "64 bytes"),
            (|m| m.signatures[0].keyid = m.signatures[0].keyid.to_uppercase(), "lower-case"),
            (|m| m.signatures[0].keyid.truncate(62), "lower-case"),
            (|m| m.signatures[0].keyid = "a".repeat(64), "the hash of the public key"),
            (|m| m.signatures[0].public_key = key(2).public().to_der().to_vec().into(), "the hash of the public key"),
            (|m| m.signatures[0].public_key.truncate(43), "signer's key"),
            (|m| m.signatures = vec![m.signatures[0].clone(); 65], "signatures"),
        ] {
            let message = refused(change);
            assert!(message.contains(word), "{message}");
        }
        let plain = signed(b"payload", &[1]).encode();
        for extra in [&[0x20, 1][..], &[0x0a, 0], &[0x12, 0], &[0], &[0x1a, 0]] {
            assert!(Envelope::decode(&[&plain, extra].concat()).is_err(), "{extra:x?}");
        }
        assert!((0..plain.len()).all(|end| Envelope::decode(&plain[..end]).is_err()));
        assert!(Envelope::decode(&vec![0; ENVELOPE_BYTES_MAX + 1]).is_err());
        assert!(Envelope::decode(&[0x1a, 0].repeat(1 << 20)).is_err());
    }

    #[test]
    fn a_hint_is_not_needed() {
        let mut message = proto::Envelope::decode(&signed(b"payload", &[1]).encode()[..]).expect("canonical");
        message.signatures[0].public_key.clear();
        let envelope = Envelope::decode(&message.encode_to_vec()).expect("still an envelope");
        assert!(envelope.signatures()[0].public_key().is_none() && envelope.verify_with(&key(1).public()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn envelopes_round_trip(payload in proptest::collection::vec(any::<u8>(), 0..100), seeds in proptest::collection::btree_set(any::<u8>(), 1..4)) {
            let envelope = signed(&payload, &seeds.iter().copied().collect::<Vec<_>>());
            let bytes = envelope.encode();
            let read = Envelope::decode(&bytes).expect("canonical");
            prop_assert_eq!(&read, &envelope);
            prop_assert_eq!(read.encode(), bytes);
            prop_assert!(seeds.iter().all(|seed| read.verify_with(&key(*seed).public())));
        }

        #[test]
        fn any_bytes_are_an_envelope_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Envelope::decode(&bytes);
        }
    }
}
