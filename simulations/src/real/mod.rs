//! The real node in network namespaces: what the simulator is held against.
//!
//! A [`Setup`] is read from the same scenario that the simulator runs. [`Setup::run`] starts real `piecework` processes,
//! and tells when each had the whole file and what left the first holder. It predicts nothing; the command line puts a
//! prediction beside it.

mod error;
mod namespaces;
mod port;
mod processes;
mod relay;
mod setup;
mod yielding;

pub use crate::real::error::Error;
pub use crate::real::namespaces::{Lab, Line};
pub use crate::real::processes::Outcome;
pub use crate::real::setup::{Bed, Peer, Setup, Start};
pub use crate::real::yielding::Politeness;
