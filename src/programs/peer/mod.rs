//! The LAN cache peer: getting, seeding and keeping contents. `get` is one download from asking to the renamed file,
//! `stream` the same for who reads it while it comes, `seed` serves files where they lie, `keep` is the daemon, `downloads` what it was told to have and `fetcher` how it gets
//! it, `deliver` how the daemon's copy becomes a file of the user's; `care` keeps the cache in bounds, by `eviction`, `appliance` is what a site's seed does besides, `objects` what it has in buckets and `remote` how that is fetched, `scrub` hashes what that holds again, and `journal`
//! says what was done and why, `ledger` what each day has moved, `rates` how fast the last minutes did. Read `get` first.

pub mod appliance;
mod care;
pub mod deliver;
pub mod doctor;
pub mod downloads;
mod error;
pub mod eviction;
mod fetcher;
pub mod gates;
pub mod get;
mod hold;
pub mod journal;
pub mod keep;
pub mod ledger;
pub mod objects;
mod quota;
pub mod rates;
mod remote;
mod resolve;
pub mod scrub;
pub mod seed;
pub mod sources;
pub mod stream;

pub use crate::programs::peer::care::Removal;
pub use crate::programs::peer::error::Failure;
pub use crate::programs::peer::hold::Hold;
pub use crate::programs::peer::resolve::{
    Resolved, Wanted, accept, fresh, from_file_or_url, read_envelope, refused, unix_now,
};
