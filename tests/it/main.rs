//! What a user sees, as stories against the real binary and real sockets.
//!
//! One binary, so that one link serves them all. Helpers are in `tests/support`.

// Stories happen in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod appliance;
mod bad_input;
mod cli_door;
mod cli_tooling;
mod clocks;
mod control_tcp;
mod corpus;
mod crowd;
mod daemon;
mod daemon_cache;
mod daemon_cache_host;
mod daemon_company;
mod daemon_doctor;
mod daemon_get;
mod daemon_ledger;
mod daemon_limits;
mod daemon_metrics;
mod daemon_policies;
mod dashboard;
mod full_disk;
mod hostile_leeches;
mod hostile_peers;
mod internet;
mod isolated;
mod lan_share;
mod lying_manifests;
mod members;
mod objects;
mod origin_fallback;
mod power;
mod pressure;
mod reader;
mod readme;
mod rendezvous;
mod restart;
mod scrub;
mod sleeping;
mod source_gate;
mod source_servers;
mod sources;
/// What stories share.
#[path = "../support/mod.rs"]
mod support;
