//! What the members of a group have in common, and how each proves to the other that it knows it.
//!
//! A proof is an HMAC-SHA256 over who proves, to whom, on which connection. The dialler proves first, so that whoever
//! dials without the secret learns nothing that it could try guesses on. `proto/peer.md`, section 4.1, has the bytes.

use aws_lc_rs::hmac;
use std::sync::Arc;

use libp2p::PeerId;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::wire::limits::{PROOF_BYTES, PROOFS_MAX};

/// Shortest secret, bytes: 128 bits, were they all random.
const SECRET_BYTES_MIN: usize = 16;
/// Longest secret, bytes.
const SECRET_BYTES_MAX: usize = 1024;
/// What stands before everything in what a proof is made over.
const DOMAIN: &[u8] = b"piecework group v1";

/// What a file of secrets holds: the current secret, and the next where there is one. A clone shares their memory.
#[derive(Clone)]
pub struct Secrets(Arc<[Zeroizing<Vec<u8>>]>);

/// The common word of a group; none outside groups. A clone shares its keys' memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The hash of the group's id, and a secret behind it where there are any: the current one first, then the next.
    keys: Arc<[Zeroizing<Vec<u8>>]>,
    /// There are secrets, which peers must prove.
    proves: bool,
}

/// Why a file of secrets is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No line with anything in it, or more than two.
    #[error("it has one line, the secret, or two: the current secret and the next; found {found} lines")]
    Lines {
        /// Lines that are not empty.
        found: usize,
    },
    /// A line that is too short to be a secret, or too long.
    #[error("a secret has 16 to 1024 bytes, found {found}")]
    Length {
        /// Bytes of the line.
        found: usize,
    },
}

impl Secrets {
    /// Reads a file of secrets, one a line.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(file: &[u8]) -> Result<Self, SecretError> {
        let lines = file.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).take(PROOFS_MAX + 1).collect();
        if lines.is_empty() || lines.len() > PROOFS_MAX {
            return Err(SecretError::Lines { found: lines.len() });
        }
        let odd = |line: &&&[u8]| !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&line.len());
        if let Some(line) = lines.iter().find(odd) {
            return Err(SecretError::Length { found: line.len() });
        }
        Ok(Self(lines.into_iter().map(|line| Zeroizing::new(line.to_vec())).collect()))
    }
}

/// Never shows a secret.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Group {
    /// The group of an id, and of secrets where there are any. The id itself never leaves the machine.
    pub fn new(id: &str, secrets: Option<&Secrets>) -> Self {
        let id = Sha256::digest(id.as_bytes());
        let key = |secret: &[u8]| Zeroizing::new([id.as_slice(), secret].concat());
        match secrets {
            None => Self { keys: [key(&[])].into(), proves: false },
            Some(secrets) => Self { keys: secrets.0.iter().map(|secret| key(secret)).collect(), proves: true },
        }
    }

    /// Whether a connection that agreed on one of this group's keys, by its number, may go on in another group: that proves
    /// nothing either, or the key has the same number there.
    pub(crate) fn goes_on_in(&self, other: &Self, key: usize) -> bool {
        self.proves == other.proves && (!self.proves || self.keys.get(key) == other.keys.get(key))
    }

    /// What goes into topics, in the order in which keys are numbered; outside groups one that is empty.
    pub(crate) fn topic_keys(&self) -> Vec<&[u8]> {
        match &*self.keys {
            [] => vec![&[][..]],
            keys => keys.iter().map(|key| key.as_slice()).collect(),
        }
    }

    /// A word of the group that tells its id to nobody; `None` outside groups. It is the same while the secret changes.
    pub fn scope(&self) -> Option<[u8; 32]> {
        let id = self.keys.first()?.get(..32)?;
        Some(blake3::derive_key("piecework group scope v1", id))
    }

    /// Whether peers must prove the secret.
    pub(crate) fn proves(&self) -> bool {
        self.proves
    }

    /// Our proofs on a connection, one for each secret.
    pub(crate) fn prove(&self, channel: &Bound) -> Vec<[u8; PROOF_BYTES]> {
        (0..self.keys.len()).filter_map(|key| self.prove_by(key, channel)).collect()
    }

    /// Our proof by one secret.
    pub(crate) fn prove_by(&self, key: usize, channel: &Bound) -> Option<[u8; PROOF_BYTES]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.keys.get(key)?);
        hmac::sign(&key, &channel.message(channel.we_dialled)).as_ref().try_into().ok()
    }

    /// The number of the secret that the other side has proven: of several the one that stands first in its frame. In
    /// constant time for each.
    pub(crate) fn proven(&self, channel: &Bound, macs: &[[u8; PROOF_BYTES]]) -> Option<usize> {
        let message = channel.message(!channel.we_dialled);
        let fits = |key: &Zeroizing<Vec<u8>>, mac: &[u8; PROOF_BYTES]| {
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &message, mac).is_ok()
        };
        macs.iter().find_map(|mac| self.keys.iter().position(|key| fits(key, mac)))
    }
}

/// Never shows a secret.
impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} keys)", self.keys.len())
    }
}

/// The connection that a proof is good for.
pub(crate) struct Bound {
    pub(crate) we_dialled: bool,
    /// Exported from TLS; `None` on a libp2p stream.
    pub(crate) exported: Option<[u8; 32]>,
    pub(crate) dialler: PeerId,
    pub(crate) listener: PeerId,
    pub(crate) dialler_nonce: [u8; PROOF_BYTES],
    pub(crate) listener_nonce: [u8; PROOF_BYTES],
}

impl Bound {
    /// What the dialler, or the listener, makes its proof over. Every part is as long as it says or of one length.
    fn message(&self, by_dialler: bool) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        message.push(if by_dialler { 1 } else { 2 });
        match &self.exported {
            Some(exported) => {
                message.push(1);
                message.extend_from_slice(exported);
            }
            None => message.push(2),
        }
        for peer in [&self.dialler, &self.listener] {
            let id = peer.to_bytes();
            message.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
            message.extend_from_slice(&id);
        }
        message.extend_from_slice(&self.dialler_nonce);
        message.extend_from_slice(&self.listener_nonce);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the current secret of the lab";
    const NEW: &str = "the secret that comes after it";

    fn group(secrets: &[&str]) -> Group {
        Group::new("lab", Some(&Secrets::read(secrets.join("\n").as_bytes()).expect("secrets")))
    }

    /// Both ends of one connection.
    fn ends() -> (Bound, Bound) {
        let peer = |seed| crate::drivers::transport::Identity::from_seed(&mut [seed; 32]).peer_id();
        let end = |we_dialled| Bound {
            we_dialled,
            exported: Some([5; 32]),
            dialler: peer(1),
            listener: peer(2),
            dialler_nonce: [3; 32],
            listener_nonce: [4; 32],
        };
        (end(true), end(false))
    }

    #[test]
    fn a_proof_is_the_hmac_that_the_contract_says() {
        let (dialler, _) = ends();
        let by = |bound: &Bound| group(&[OLD]).prove_by(0, bound).map(|mac| data_encoding::HEXLOWER.encode(&mac));
        let expected = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/vectors/group.proofs.hex"));
        let expected = expected.expect("proto/vectors has it");
        let mut lines = expected.lines().map(str::to_owned);
        assert_eq!(by(&dialler), lines.next(), "over TLS");
        assert_eq!(by(&Bound { exported: None, ..dialler }), lines.next(), "over a stream");
    }

    #[test]
    fn a_proof_is_good_for_its_secret_its_side_and_its_connection_alone() {
        let (dialler, listener) = ends();
        let macs = group(&[OLD]).prove(&dialler);
        assert_eq!(group(&[OLD]).proven(&listener, &macs), Some(0));
        assert_eq!(group(&[NEW]).proven(&listener, &macs), None);
        let old = Secrets::read(OLD.as_bytes()).expect("one");
        assert_eq!(Group::new("other", Some(&old)).proven(&listener, &macs), None);
        assert_eq!(group(&[OLD]).proven(&dialler, &macs), None, "sent back to who made it");
        for other in [
            Bound { exported: Some([6; 32]), ..ends().1 },
            Bound { exported: None, ..ends().1 },
            Bound { dialler: listener.listener, ..ends().1 },
            Bound { listener: listener.dialler, ..ends().1 },
            Bound { dialler_nonce: [9; 32], ..ends().1 },
            Bound { listener_nonce: [9; 32], ..ends().1 },
        ] {
            assert_eq!(group(&[OLD]).proven(&other, &macs), None);
        }
        assert_eq!(group(&[OLD]).proven(&listener, &[[0; 32], [1; 32]]), None);
    }

    #[test]
    fn two_lines_meet_either_secret_and_agree_on_one() {
        let (dialler, listener) = ends();
        for (dials, listens, agreed) in [
            (&[OLD, NEW][..], &[OLD][..], Some((0, 0))),
            (&[OLD], &[OLD, NEW], Some((0, 0))),
            (&[OLD, NEW], &[NEW], Some((1, 0))),
            (&[OLD, NEW], &[NEW, OLD], Some((0, 1))),
            (&[OLD], &[NEW], None),
        ] {
            let (dials, listens) = (group(dials), group(listens));
            let theirs = listens.proven(&listener, &dials.prove(&dialler));
            let answer = theirs.and_then(|key| listens.prove_by(key, &listener));
            let ours = answer.and_then(|mac| dials.proven(&dialler, &[mac]));
            assert_eq!(ours.zip(theirs), agreed);
        }
    }

    #[test]
    fn a_connection_outlives_a_change_that_leaves_its_key_in_its_place() {
        for (before, after, key, goes_on) in [
            (&[OLD][..], &[OLD, NEW][..], 0, true),
            (&[OLD, NEW], &[OLD], 0, true),
            (&[OLD, NEW], &[NEW], 0, false),
            (&[OLD, NEW], &[NEW], 1, false),
            (&[OLD], &[NEW], 0, false),
        ] {
            assert_eq!(group(before).goes_on_in(&group(after), key), goes_on, "{before:?} {after:?} {key}");
        }
        let (none, named) = (Group::default(), Group::new("lab", None));
        assert!(none.goes_on_in(&named, 0) && named.goes_on_in(&none, 0), "nothing was proven, and nothing is to be");
        assert!(!named.goes_on_in(&group(&[OLD]), 0) && !group(&[OLD]).goes_on_in(&named, 0));
    }

    #[test]
    fn files_of_secrets_are_one_or_two_lines_of_some_length() {
        let read = |file: &str| Secrets::read(file.as_bytes()).map(|secrets| secrets.0.len());
        assert_eq!(read("0123456789abcdef\n"), Ok(1));
        assert_eq!(read("0123456789abcdef\r\n\nfedcba9876543210"), Ok(2));
        assert_eq!(read("\n\n"), Err(SecretError::Lines { found: 0 }));
        assert_eq!(read(&"0123456789abcdef\n".repeat(3)), Err(SecretError::Lines { found: 3 }));
        assert_eq!(read("0123456789abcde\n"), Err(SecretError::Length { found: 15 }));
        assert_eq!(read(&"a".repeat(1025)), Err(SecretError::Length { found: 1025 }));
        assert_eq!(Group::default().topic_keys(), [b""]);
        let named = Group::new("lab", None);
        assert!(!named.proves() && named.topic_keys().concat() == Sha256::digest(b"lab").as_slice());
    }
}
