//! The LAN cache peer: getting, seeding and keeping contents. `get` is one download from asking to the renamed file,
//! `seed` serves files where they lie, `keep` is the daemon, `downloads` what it was told to have and `fetcher` how it gets
//! it, `deliver` how the daemon's copy becomes a file of the user's. Read `get` first.

pub mod deliver;
pub mod downloads;
mod error;
mod fetcher;
pub mod get;
pub mod keep;
mod resolve;
pub mod seed;
mod sources;

pub use crate::programs::peer::error::Failure;
pub use crate::programs::peer::resolve::{
    Resolved, Wanted, accept, from_file_or_url, read_envelope, refused, unix_now,
};
