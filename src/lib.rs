//! piecework: peer-to-peer content delivery with signed manifests, verified pieces and HTTP behind them.
//!
//! The house, floor by floor; a file names rooms on lower floors and its own room, never one beside or above it.
//! `ARCHITECTURE.md` has the walks through the rooms.

// The pure rooms deny clocks, entropy and hash order below; above the waterline they are a matter of judgement.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(missing_docs)]
// A list of ranges with one entry is meant as such: ranges of pieces are data here.
#![allow(clippy::single_range_in_vec_init)]
// Errors carry what people need to be told; none of these paths is hot.
#![allow(clippy::result_large_err)]

// -- floor 0: what the bytes are (pure) --
// Hashes, layout, manifests, envelopes, trust, paths: what bytes are and who may say so.
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod content;
// -- floor 1: what peers say, what the operator wants (pure) --
// Every policy with its default, merged from its sources.
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod policy;
// Frames and messages between peers.
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod wire;
// -- floor 2: what to do next (pure, sans-IO) --
// The engine: events in, actions out.
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod swarm;
// ~~ waterline ~~
// -- floor 3: hands and ears --
// Store, transport, HTTP sources, discovery.
#[cfg(feature = "node")]
pub mod drivers;
// -- floor 4: long-running jobs --
// One task owns each swarm and drives it.
#[cfg(feature = "node")]
pub mod services;
// -- floor 5: what an operator deploys --
// Programs composed from services.
#[cfg(feature = "node")]
pub mod programs;
// -- floor 6: what people and machines touch --
// The daemon's control API and its client.
#[cfg(feature = "node")]
pub mod surfaces;
// -- floor 7: the door --
// Arguments in, exit code out.
#[cfg(feature = "node")]
pub mod cli;
