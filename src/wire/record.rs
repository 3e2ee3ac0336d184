//! What a node signs of itself: where it accepts peers, and when it said so. Peers pass it on as it is, so that nobody can
//! send a node's peers to an address which that node has not named.
//!
//! Ed25519 peer ids carry their key, so a record needs no key beside it. It says nothing of whether anybody is there: a node
//! may name addresses that are not its own, and who dials one still checks who answers.

use std::net::{IpAddr, SocketAddr};

use prost::Message as _;

use crate::content::key::PublicKey;
use crate::wire::error::Error;
use crate::wire::limits::{RECORD_BYTES_MAX, RECORD_IPS_MAX};
use crate::wire::member::{ip_bytes, ip_of};
use crate::wire::message::{check_count, port};
use crate::wire::schema;

/// What stands before the claim in the signed bytes, so that no signature for another purpose is one of these.
const DOMAIN: &[u8] = b"piecework member v1";
/// How the binary peer id of an Ed25519 key begins: an identity multihash of 36 bytes, a key of kind 1, 32 bytes of it.
const ED25519_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// TCP port on which it accepts peers; not 0.
    pub port: u16,
    /// Addresses of its interfaces, 1 to 8.
    pub ips: Vec<IpAddr>,
    /// Milliseconds since 1970 when it was signed. Of two claims of one key the larger holds.
    pub sequence: u64,
}

impl Claim {
    /// Whether the claim names this address.
    pub fn names(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        address.port() == self.port && self.ips.iter().any(|named| named.to_canonical() == ip)
    }

    /// The record of this claim. `sign` gives the node's Ed25519 signature of what it is handed; `None` where it fails.
    pub fn signed(&self, sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>) -> Option<Vec<u8>> {
        let ips = self.ips.iter().map(|ip| ip_bytes(*ip)).collect();
        let claim = schema::MemberClaim { port: u32::from(self.port), ips, sequence: self.sequence }.encode_to_vec();
        let signature = sign(&message(&claim))?.to_vec();
        Some(schema::MemberRecord { claim, signature }.encode_to_vec())
    }
}

/// A record that reads as one. Whose it is has not been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    claim: Claim,
    message: Vec<u8>,
    signature: [u8; 64],
}

impl SignedRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Length`] for one that is too long, or an address or signature of another length; [`Error::Malformed`],
    /// [`Error::Count`], [`Error::Range`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let found = bytes.len();
        if found > RECORD_BYTES_MAX {
            return Err(Error::Length { field: "MemberRecord", expected: "at most 512", found });
        }
        let malformed = |cause: prost::DecodeError| Error::Malformed { kind: "MemberRecord", cause: cause.to_string() };
        let schema::MemberRecord { claim, signature } = schema::MemberRecord::decode(bytes).map_err(malformed)?;
        let found = signature.len();
        let signature = <[u8; 64]>::try_from(signature);
        let signature =
            signature.map_err(|_| Error::Length { field: "MemberRecord.signature", expected: "64", found })?;
        let message = message(&claim);
        let schema::MemberClaim { port: number, ips, sequence } =
            schema::MemberClaim::decode(claim.as_slice()).map_err(malformed)?;
        check_count("MemberClaim.ips", ips.len(), RECORD_IPS_MAX)?;
        let ips = ips.iter().map(|ip| ip_of("MemberClaim.ips", ip)).collect::<Result<_, _>>()?;
        let claim = Claim { port: port("MemberClaim.port", number, 1)?, ips, sequence };
        Ok(Self { claim, message, signature })
    }

    /// What it says; a stranger's word until [`SignedRecord::is_of`] has answered.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether the node of this binary peer id signed it. Some 60 microseconds; never for a peer id that carries no
    /// Ed25519 key.
    pub fn is_of(&self, peer_id: &[u8]) -> bool {
        let point = peer_id.strip_prefix(&ED25519_HEAD).and_then(|point| <&[u8; 32]>::try_from(point).ok());
        let key = point.and_then(|point| PublicKey::from_point(point).ok());
        key.is_some_and(|key| key.check(&self.message, &self.signature))
    }
}

fn message(claim: &[u8]) -> Vec<u8> {
    [DOMAIN, claim].concat()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Signer as _;
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[seed; 32])
    }

    fn peer_id(seed: u8) -> Vec<u8> {
        [&ED25519_HEAD[..], key(seed).verifying_key().as_bytes()].concat()
    }

    fn record(claim: &Claim, seed: u8) -> Vec<u8> {
        claim.signed(|message| Some(key(seed).sign(message).to_bytes())).expect("signed")
    }

    fn claim(ips: &[&str]) -> Claim {
        let ips = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
        Claim { port: 7680, ips, sequence: 1_767_225_600_000 }
    }

    fn vector(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/vectors").join(name);
        std::fs::read_to_string(path).expect("proto/vectors has it").trim_end().to_owned()
    }

    #[test]
    fn a_record_encodes_to_its_vector_and_is_its_keys_alone() {
        let claim = claim(&["192.0.2.7", "2001:db8::7"]);
        let bytes = record(&claim, 7);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), vector("member.record.hex"));
        assert_eq!(data_encoding::HEXLOWER.encode(&peer_id(7)), vector("member.peer_id.hex"));
        let read = SignedRecord::decode(&bytes).expect("it reads");
        assert_eq!(read.claim(), &claim);
        assert!(read.is_of(&peer_id(7)) && !read.is_of(&peer_id(8)));
        for other in [&[][..], &peer_id(7)[..37], &[&peer_id(7)[..], &[0]].concat(), &[1; 38]] {
            assert!(!read.is_of(other), "{other:?}");
        }
    }

    #[test]
    fn a_record_names_addresses_with_its_port_alone() {
        let claim = claim(&["192.0.2.7", "2001:db8::7"]);
        for (address, named) in [
            ("192.0.2.7:7680", true),
            ("[::ffff:192.0.2.7]:7680", true),
            ("[2001:db8::7]:7680", true),
            ("192.0.2.7:7681", false),
            ("192.0.2.8:7680", false),
        ] {
            assert_eq!(claim.names(address.parse().expect("an address")), named, "{address}");
        }
    }

    #[test]
    fn records_of_other_shapes_are_refused() {
        let decode = |bytes: &[u8]| SignedRecord::decode(bytes);
        assert!(matches!(decode(&[]), Err(Error::Length { field: "MemberRecord.signature", found: 0, .. })));
        assert!(matches!(decode(&[0; RECORD_BYTES_MAX + 1]), Err(Error::Length { field: "MemberRecord", .. })));
        assert!(matches!(decode(&[255]), Err(Error::Malformed { .. })));
        assert!(matches!(decode(&record(&claim(&[]), 7)), Err(Error::Count { found: 0, .. })));
        assert!(matches!(decode(&record(&claim(&["192.0.2.7"; 9]), 7)), Err(Error::Count { found: 9, .. })));
        let shut = Claim { port: 0, ..claim(&["192.0.2.7"]) };
        assert!(matches!(decode(&record(&shut, 7)), Err(Error::Range { found: 0, .. })));
        let longest = Claim { port: u16::MAX, sequence: u64::MAX, ..claim(&["2001:db8::7"; RECORD_IPS_MAX]) };
        let bytes = record(&longest, 7);
        assert!(bytes.len() <= RECORD_BYTES_MAX / 2, "{} bytes", bytes.len());
        assert!(decode(&bytes).expect("it reads").is_of(&peer_id(7)));
    }

    proptest! {
        #[test]
        fn a_changed_record_is_nobodys(at in any::<prop::sample::Index>(), change in 1u8..) {
            let mut bytes = record(&claim(&["192.0.2.7", "2001:db8::7"]), 7);
            *at.get_mut(&mut bytes) ^= change;
            if let Ok(read) = SignedRecord::decode(&bytes) {
                prop_assert!(!read.is_of(&peer_id(7)), "byte {:?} by {change}", at);
            }
        }

        #[test]
        fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), id in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Ok(read) = SignedRecord::decode(&bytes) {
                prop_assert!(!read.is_of(&id));
            }
        }

        #[test]
        fn claims_come_back_as_they_went(port in 1u16.., sequence: u64, ips in proptest::collection::vec(any::<IpAddr>(), 1..=RECORD_IPS_MAX)) {
            let claim = Claim { port, ips, sequence };
            let read = SignedRecord::decode(&record(&claim, 3)).expect("it reads");
            prop_assert_eq!(read.claim(), &claim);
            prop_assert!(read.is_of(&peer_id(3)));
        }
    }
}
