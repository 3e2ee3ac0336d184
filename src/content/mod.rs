//! What bytes are and who may say so: hashes, layout, manifests, envelopes, trust, safe paths.
//!
//! Pure: no disk, no clock, no entropy; times and key seeds are handed in. Everything that arrives here was chosen by a
//! stranger: it is bounded before it is allocated, and parsed whole or refused. Nothing here is told how the bytes came.
//!
//! Read `manifest` first, then `verify` (the only maker of a `VerifiedBlock`), then `envelope` and `trust`.

pub mod bitfield;
pub mod build;
pub mod code;
pub mod envelope;
pub mod error;
mod fields;
pub mod hash;
pub mod key;
pub mod layout;
pub mod link;
pub mod manifest;
pub mod now;
pub mod open;
pub mod path;
pub mod pattern;
pub mod rules;
pub mod scope;
pub mod tree;
pub mod trust;
#[cfg(test)]
mod vectors;
pub mod verify;

/// Shared bytes, in which payloads and envelopes are kept.
pub use prost::bytes::Bytes;

pub use crate::content::build::{FileToList, ManifestBuilder};
pub use crate::content::code::Code;
pub use crate::content::envelope::{Envelope, PAYLOAD_TYPE};
pub use crate::content::error::{Error, Refusal};
pub use crate::content::hash::{ContentId, KeyId, ManifestId, PieceHash, Sha256, Topic};
pub use crate::content::key::{PublicKey, SigningKey};
pub use crate::content::layout::{BLOCK_BYTES, BlockIndex, ByteRange, FlatLayout, PieceIndex, PieceLayout};
pub use crate::content::link::{Link, Target};
pub use crate::content::manifest::{FileEntry, Manifest};
pub use crate::content::now::Now;
pub use crate::content::open::{Opened, Past, Peeked, open_signed_by, open_trusted, open_untrusted};
pub use crate::content::path::SafePath;
pub use crate::content::pattern::{NamePattern, OriginPattern, OriginRules};
pub use crate::content::scope::Trusted;
pub use crate::content::tree::{FileHashes, TreeHasher};
pub use crate::content::trust::{Addition, Publisher, TrustStore};
pub use crate::content::verify::{Mismatch, PieceProof, VerifiedBlock};

/// The messages of `proto/manifest.proto`, for encoding and for the leaves of decoding.
#[allow(missing_docs, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/piecework.v1.rs"));
}
