//! The frame around every small file that only this node reads: magic, version, length, BLAKE3, then bincode.
//!
//! The hash is over everything beside itself and is checked before a byte is decoded, so that decoding meets only what
//! this program once wrote.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// Magic 8, version 4, length of the body 8, hash 32.
pub(crate) const HEAD_BYTES: usize = 52;
/// Decoding may claim no more memory than this, whatever a length field says.
const DECODE_BYTES_MAX: usize = 256 << 20;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<DECODE_BYTES_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<DECODE_BYTES_MAX>();

/// What kind of file it is, and which layout of its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// First bytes of the file.
    pub magic: [u8; 8],
    /// Raised with each change of the body's layout.
    pub version: u32,
}

/// Bytes that are no whole file of the asked kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// Shorter than a head, or other magic.
    #[error("it is no such file")]
    Kind,
    /// Written by another version of the program.
    #[error("its version is {found}; this program reads {expected}")]
    Version {
        /// Read by this program.
        expected: u32,
        /// In the file.
        found: u32,
    },
    /// The file ends early or late, or a byte changed.
    #[error("its length or hash does not fit")]
    Torn,
    /// The hash fits and the body does not decode.
    #[error("its body does not decode")]
    Body,
}

/// The bytes of a file of this kind.
pub(crate) fn seal(kind: Kind, body: &impl Encode) -> Result<Vec<u8>, Broken> {
    Ok(frame(kind, &bincode::encode_to_vec(body, CONFIG).map_err(|_| Broken::Body)?))
}

/// A body, whatever it is, with the head that makes it a whole file.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES.saturating_add(body.len()));
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let hash = hash(&bytes, body);
    bytes.extend_from_slice(&hash);
    bytes.extend_from_slice(body);
    bytes
}

/// Reads what [`seal`] wrote.
pub(crate) fn unseal<T: Decode<()>>(kind: Kind, bytes: &[u8]) -> Result<T, Broken> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Broken::Kind)?;
    let (facts, sealed_hash) = head.split_at_checked(20).ok_or(Broken::Kind)?;
    let (magic, numbers) = facts.split_at_checked(8).ok_or(Broken::Kind)?;
    let (version, length) = numbers.split_at_checked(4).ok_or(Broken::Kind)?;
    if magic != kind.magic {
        return Err(Broken::Kind);
    }
    let length = u64::from_le_bytes(length.try_into().map_err(|_| Broken::Kind)?);
    if length != body.len() as u64 || hash(facts, body) != sealed_hash {
        return Err(Broken::Torn);
    }
    let found = u32::from_le_bytes(version.try_into().map_err(|_| Broken::Kind)?);
    if found != kind.version {
        return Err(Broken::Version { expected: kind.version, found });
    }
    match bincode::decode_from_slice(body, CONFIG) {
        Ok((value, used)) if used == body.len() => Ok(value),
        _ => Err(Broken::Body),
    }
}

fn hash(facts: &[u8], body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(facts).update(body).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"PWTEST\0\0", version: 3 };

    #[test]
    fn every_prefix_and_every_flipped_byte_is_refused() {
        let body = vec![(7u64, String::from("seven")), (8, String::new())];
        let bytes = seal(KIND, &body).expect("encodes");
        assert_eq!(unseal::<Vec<(u64, String)>>(KIND, &bytes), Ok(body));
        for end in 0..bytes.len() {
            assert!(unseal::<Vec<(u64, String)>>(KIND, &bytes[..end]).is_err(), "{end}");
            let mut flipped = bytes.clone();
            flipped[end] ^= 1;
            assert!(unseal::<Vec<(u64, String)>>(KIND, &flipped).is_err(), "{end}");
        }
        let later = Kind { version: 4, ..KIND };
        assert_eq!(unseal::<Vec<(u64, String)>>(later, &bytes), Err(Broken::Version { expected: 4, found: 3 }));
        assert_eq!(unseal::<u8>(KIND, &bytes), Err(Broken::Body));
    }
}
