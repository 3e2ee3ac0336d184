//! Simulations that drive the real engine of piecework with a clock of their own.
//!
//! A [`scenario`] describes sites, machines, origins and what goes wrong; a [`world::World`] runs it: the same
//! `piecework::swarm::Swarm` as in the node on every machine, on links that take time. An [`outcome::Outcome`] is the
//! run in numbers. Same scenario and seed, same run, bit for bit, on every machine: integers only, one generator.
//! `README.md` says what is modelled and what is not.

#![allow(clippy::cast_possible_truncation)]

pub mod bounds;
pub mod checker;
pub mod cli;
pub mod clock;
pub mod engine;
pub mod fair;
pub mod network;
pub mod outcome;
pub mod plain;
pub mod random;
// Real runs are timed by the real clock.
#[allow(clippy::disallowed_methods)]
pub mod real;
pub mod record;
pub mod report;
pub mod scenario;
pub mod units;
pub mod world;

use crate::outcome::Outcome;
use crate::scenario::{Policy, Scenario};
use crate::world::{BuildError, Progress, World};

/// Runs a scenario to its end.
///
/// # Errors
/// [`BuildError`], for a scenario that was not checked.
pub fn run(
    name: &str,
    scenario: Scenario,
    seed: u64,
    policy: Policy,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, BuildError> {
    let mut world = World::new(scenario, seed, policy)?;
    world.run(progress);
    Ok(Outcome::of(&world, name))
}
