//! The LAN cache peer: getting, seeding and keeping contents. `get` is one download from asking to the renamed file,
//! `seed` serves files where they lie, `keep` is the daemon, `downloads` what it was told to have. Read `get` first.

pub mod downloads;
mod error;
pub mod get;
pub mod keep;
mod resolve;
pub mod seed;
mod sources;

pub use crate::programs::peer::error::Failure;
pub use crate::programs::peer::resolve::{Resolved, Wanted, read_envelope, refused, unix_now};
