//! `run` and `compare`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::cli::{BAD, CANNOT_WRITE, Common, MISSED, PolicyName, fail, load};
use crate::outcome::Outcome;
use crate::record::Recorder;
use crate::report;
use crate::scenario::{Policy, Scenario};
use crate::units::Span;
use crate::world::{Progress, World};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A file, or the name of a built-in scenario
    scenario: String,
    /// Machines that download, in all; kinds and sites keep their proportions
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// From which all chance comes
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// What every machine runs, instead of what the scenario says
    #[arg(long)]
    policy: Option<PolicyName>,
    /// Run the policies that the scenario names for comparison as well
    #[arg(long)]
    baselines: bool,
    /// Record what this machine's engine is told and wants (its number, from 0)
    #[arg(long, value_name = "MACHINE", requires = "log")]
    record: Option<u32>,
    /// Where to
    #[arg(long, value_name = "FILE", requires = "record")]
    log: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// A file, a built-in scenario, or an outcome.json of an earlier run
    a: String,
    /// The other
    b: String,
    /// Machines that download, in both
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// From which all chance comes, in both
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

impl Run {
    pub(crate) fn main(self) -> u8 {
        let scenario = match load(&self.scenario, self.nodes) {
            Ok(scenario) => scenario,
            Err(code) => return code,
        };
        let seed = self.seed.unwrap_or(scenario.seed);
        let first = self.policy.map_or(scenario.engine.policy, Policy::from);
        let mut policies = vec![first];
        if self.baselines {
            policies.extend(scenario.compare.iter().copied().filter(|policy| *policy != first));
        }
        let record = self.record.zip(self.log.as_deref());
        let mut outcomes = Vec::new();
        for (number, policy) in policies.into_iter().enumerate() {
            let record = record.filter(|_| number == 0);
            match run(&self.scenario, &scenario, seed, policy, record, self.common.quiet) {
                Ok(outcome) => outcomes.push(outcome),
                Err(code) => return code,
            }
        }
        let code = show(&outcomes, &self.common);
        let (reached, figures) =
            outcomes.first().map_or((true, String::new()), |first| report::summary(first, &scenario.figures));
        if !self.common.json {
            print!("{figures}");
        }
        if code != 0 || reached { code } else { MISSED }
    }
}

impl Compare {
    pub(crate) fn main(self) -> u8 {
        let mut outcomes = Vec::new();
        for name in [&self.a, &self.b] {
            if name.ends_with(".json") {
                match read(Path::new(name)) {
                    Ok(mut read) => outcomes.append(&mut read),
                    Err(code) => return code,
                }
                continue;
            }
            let scenario = match load(name, self.nodes) {
                Ok(scenario) => scenario,
                Err(code) => return code,
            };
            let (seed, policy) = (self.seed.unwrap_or(scenario.seed), scenario.engine.policy);
            match run(name, &scenario, seed, policy, None, self.common.quiet) {
                Ok(outcome) => outcomes.push(outcome),
                Err(code) => return code,
            }
        }
        show(&outcomes, &self.common)
    }
}

/// Outcomes of an earlier run.
fn read(path: &Path) -> Result<Vec<Outcome>, u8> {
    let text = std::fs::read_to_string(path).map_err(|error| fail(66, &format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| fail(BAD, &format!("{}: {error}", path.display())))
}

/// Runs one scenario once, with progress on a terminal.
fn run(
    name: &str,
    scenario: &Scenario,
    seed: u64,
    policy: Policy,
    record: Option<(u32, &Path)>,
    quiet: bool,
) -> Result<Outcome, u8> {
    let mut world = World::new(scenario.clone(), seed, policy).map_err(|error| fail(BAD, &error))?;
    if let Some((machine, path)) = record {
        let share = world.share_of(machine).ok_or_else(|| fail(BAD, &format!("there is no machine {machine}")))?;
        let recorder = Recorder::create(path, share);
        let recorder = recorder.map_err(|error| fail(CANNOT_WRITE, &format!("{}: {error}", path.display())))?;
        world.record(recorder);
    }
    #[allow(clippy::disallowed_methods)] // How long it takes a person, not the simulation.
    let started = Instant::now();
    let show = !quiet && std::io::stderr().is_terminal();
    world.run(&mut |it: &Progress| {
        if show {
            eprint!(
                "\r{name} ({}): {} of {} done, {} passed in {} s, {} events   ",
                policy.name(),
                it.complete,
                it.wanted,
                Span(it.now),
                started.elapsed().as_secs(),
                it.events
            );
        }
    });
    if show {
        eprint!("\r\x1b[K");
    }
    if !quiet {
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("{name} ({}, seed {seed}): {seconds:.1} s, {}", policy.name(), crate::cli::run::memory());
    }
    if let Some(error) = world.record_failed() {
        return Err(fail(CANNOT_WRITE, &error));
    }
    Ok(Outcome::of(&world, name))
}

/// The most memory this process ever held, where the system tells.
pub(crate) fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim();
    format!("peak memory {peak}")
}

/// Prints outcomes and writes their files.
pub(crate) fn show(outcomes: &[Outcome], common: &Common) -> u8 {
    if common.json {
        match serde_json::to_string_pretty(outcomes) {
            Ok(text) => println!("{text}"),
            Err(error) => return fail(CANNOT_WRITE, &error),
        }
    } else {
        print!("{}", report::compared(outcomes));
    }
    if let Some(folder) = &common.out {
        match report::write_all(folder, outcomes) {
            Ok(names) => eprintln!("{}: {}", folder.display(), names.join(", ")),
            Err(error) => return fail(CANNOT_WRITE, &format!("{}: {error}", folder.display())),
        }
    }
    if outcomes.iter().any(|outcome| outcome.violation.is_some()) { MISSED } else { 0 }
}
