//! The real node in network namespaces: what the simulator is held against.
//!
//! A [`Setup`] is one line of text's worth of facts: machines, lines, who holds the file at the start. [`Setup::run`]
//! starts real `piecework` processes, all at once, and tells when each had the whole file and what left the first holder.
//! It predicts nothing; `compare` puts a prediction beside it.

mod error;
mod namespaces;
mod processes;

pub use crate::real::error::Error;
pub use crate::real::namespaces::{Lab, Line};
pub use crate::real::processes::{Outcome, Setup, Start};
