//! Reads files once and hashes them both ways: BLAKE3 block by block, SHA-256 of the whole.
//!
//! For publishing, and for the second validation before an installation. Writes nothing, and trusts no name that it finds.
//! Read `read` for the pipeline, `tree` for what a folder holds, `verify` for what a manifest makes of both.

pub mod error;
pub mod read;
pub mod tree;
pub mod verify;

pub use crate::drivers::hashing::error::{Error, VerifyError};
pub use crate::drivers::hashing::read::{FileDigest, Progress, hash_each, hash_file, hash_files};
pub use crate::drivers::hashing::tree::{Listed, Walked, walk};
pub use crate::drivers::hashing::verify::{FileOutcome, Verified, verify_file, verify_publication};
