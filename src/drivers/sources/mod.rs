//! HTTP sources: byte ranges of files from servers that nobody trusts.
//!
//! A [`Source`] is one URL and what was learnt of it; [`Client::open`] asks it for a range and hands out a [`Body`] that
//! delivers exactly the promised bytes or ends with an [`Error`] that names the URL, what was expected and what came.
//! Every URL from outside, each hop of a redirect included, passes one [`Gate`]: scheme, host and port, then every
//! address its name resolves to; the connection is made to an address that was checked, never to a second answer.
//!
//! This room verifies no hash and chooses no source; it keeps bytes in order, in bounds and in time. Read `client.rs`
//! first, then `gate.rs`.

mod address;
mod answer;
mod body;
mod client;
mod error;
mod gate;
mod head;
mod listing;
mod objects;
mod resolve;
mod signer;
mod source;

pub use address::{Special, special_kind};
pub use body::Body;
pub use client::{Client, MANIFEST_BYTES_MAX, Options, Proxies};
pub use error::{Blame, Change, Error, RedirectFault, Stage};
pub use gate::{Gate, Refusal};
pub use head::{ContentRange, content_range, is_identity, retry_after};
pub use listing::{Object, Page, read_page};
pub use objects::{Bucket, Listing};
pub use resolve::{Lookup, LookupFuture, SystemLookup};
pub use signer::Signer;
pub use source::{Source, expand_base};
