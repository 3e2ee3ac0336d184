//! What bytes are and who may say so: hashes, layout, manifests, envelopes, trust, safe paths.
//!
//! Pure: no disk, no clock, no entropy; times and key seeds are handed in. Read `manifest` first.

pub mod bitfield;
pub mod code;
pub mod hash;
pub mod layout;
