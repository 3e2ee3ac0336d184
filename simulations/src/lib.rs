//! Simulations that drive the real engine of piecework with a clock of their own.
//!
//! So far one world: a single node and an origin behind one line. It proves what all later worlds stand on: the engine
//! needs nothing but events and handed-in time, and the same seed gives the same run, action by action.

// Real runs are timed by the real clock.
#[allow(clippy::disallowed_methods)]
pub mod real;
pub mod world;

pub use world::{Outcome, World};
