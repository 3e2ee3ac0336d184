//! [`Setup`]: an experiment that a lab can build, read from the same scenario that the simulator runs.

use std::path::PathBuf;
use std::time::Duration;

use crate::real::namespaces::Line;
use crate::scenario::{Machines, Manner, Scenario};
use crate::units::Rate;

/// What a real run is made with.
#[derive(Debug, Clone)]
pub struct Bed {
    /// The program that runs on every host.
    pub piecework: PathBuf,
    /// Where a run's files go.
    pub scratch: PathBuf,
    /// TCP's congestion control on every host, by the kernel's name; the machine's own where `None`.
    pub congestion: Option<String>,
}

/// Who holds the file when the others start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A seed that everybody is told of.
    Seed,
    /// A web server, and no peer at all.
    Origin,
}

/// A machine that wants the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its line.
    pub line: Line,
    /// When it starts, after the first.
    pub starts: Duration,
}

/// One experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Machines that want it.
    pub peers: Vec<Peer>,
    /// The line of the first holder.
    pub holder_line: Line,
    /// Who that is.
    pub start: Start,
}

/// Hosts for which a small machine has room.
const PEERS_MAX: usize = 64;

impl Setup {
    /// The experiment of a scenario: one switch, honest machines on lines of their own, one content, and one seed or one
    /// origin that holds it.
    ///
    /// # Errors
    /// What a lab cannot build, in words.
    pub fn of(scenario: &Scenario) -> Result<Self, String> {
        let [site] = scenario.site.as_slice() else { return Err("it has more than one site".to_owned()) };
        if site.count != 1 || scenario.content.count != 1 || !scenario.trouble.is_empty() {
            return Err("a lab has one site, one content and no trouble".to_owned());
        }
        let mut peers = Vec::new();
        let mut holders = Vec::new();
        for machines in &scenario.machines {
            plain(machines)?;
            let latency = Duration::from_micros(machines.latency.0);
            let line = Line { up_bits: bits(machines.up), down_bits: bits(machines.down), latency };
            let starts = Duration::from_micros(machines.start.0);
            if machines.seed {
                holders.extend(std::iter::repeat_n(line, machines.count as usize));
            } else {
                peers.extend(std::iter::repeat_n(Peer { line, starts }, machines.count as usize));
            }
        }
        let origins = scenario.origin.iter().map(|origin| {
            let rate = bits(origin.rate);
            // The site's line is on the way from there, and on no other.
            let latency = Duration::from_micros(origin.latency.0.saturating_add(site.latency.0));
            Line { up_bits: rate, down_bits: rate, latency }
        });
        let (start, holder_line) = match (holders.as_slice(), origins.collect::<Vec<_>>().as_slice()) {
            ([line], []) => (Start::Seed, *line),
            ([], [line]) => (Start::Origin, *line),
            _ => return Err("a lab has one seed or one origin".to_owned()),
        };
        if !(1..=PEERS_MAX).contains(&peers.len()) {
            return Err(format!("it has {} machines; a lab has 1 to {PEERS_MAX}", peers.len()));
        }
        Ok(Self { file_bytes: scenario.content.size.0, peers, holder_line, start })
    }
}

fn plain(machines: &Machines) -> Result<(), String> {
    let same = machines.within.0 == 0
        && machines.hours.is_empty()
        && machines.per_access_point.is_none()
        && machines.stay.is_none()
        && !machines.http_only
        && !machines.on_battery
        && machines.manner == Manner::Honest
        && machines.addresses.is_none();
    if same { Ok(()) } else { Err(format!("{:?} are more than plain machines", machines.name)) }
}

fn bits(rate: Rate) -> u64 {
    rate.0.saturating_mul(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{self, Policy};
    use crate::world::World;

    #[test]
    fn the_lab_and_the_model_have_machines_and_origins_equally_far() {
        for (name, trip) in [("lab-distant", 20_000), ("lab-distant-origin", 30_000), ("namespaces-seed", 400)] {
            let scenario = scenario::load(name).expect("built in");
            let setup = Setup::of(&scenario).expect("plain");
            let peer = setup.peers.first().expect("there are some");
            let lab = setup.holder_line.latency + peer.line.latency;
            assert_eq!(2 * lab, Duration::from_micros(trip), "{name}");
            let world = World::new(scenario, 1, Policy::Piecework).expect("it was checked");
            let model = match setup.start {
                Start::Seed => 2 * world.latency_between(0, 1),
                Start::Origin => world.origin_round_trip(0, 0),
            };
            assert_eq!(model, trip, "{name}");
            let near = world.latency_between(1, 2);
            assert_eq!(2 * peer.line.latency, Duration::from_micros(near), "{name}");
        }
    }

    #[test]
    fn the_labs_own_scenarios_can_be_built_and_others_say_why_not() {
        let seed = Setup::of(&scenario::load("namespaces-seed").expect("built in")).expect("plain");
        assert_eq!((seed.start, seed.peers.len(), seed.file_bytes), (Start::Seed, 8, 128 << 20));
        let latency = Duration::from_micros(100);
        assert_eq!(seed.holder_line, Line { up_bits: 100_000_000, down_bits: 100_000_000, latency });
        let origin = Setup::of(&scenario::load("namespaces-origin").expect("built in")).expect("plain");
        assert_eq!((origin.start, origin.peers.len()), (Start::Origin, 8));
        for name in ["hub-and-spoke", "malice", "wifi"] {
            assert!(Setup::of(&scenario::load(name).expect("built in")).is_err(), "{name}");
        }
    }
}
