//! The command line: arguments in, tables, files and an exit code out.

mod real;
mod replay;
mod run;
mod sweep;
mod yielding;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::scenario::{self, Policy, Scenario};

/// A scenario that cannot be run.
const BAD: u8 = 65;
/// A file that cannot be written.
const CANNOT_WRITE: u8 = 73;
/// A figure missed, or something that must never be.
const MISSED: u8 = 1;

/// Simulates piecework on many machines: what a rollout takes, what leaves the origin, and what goes over each line.
#[derive(Debug, Parser)]
#[command(
    name = "piecework-sim",
    version,
    max_term_width = 120,
    after_help = "Examples:
  piecework-sim list
  piecework-sim run office                     a built-in scenario
  piecework-sim run my-fleet.toml --out plots  your own, with JSON, CSV and SVG files
  piecework-sim run office --nodes 500 --seed 7 --json
  piecework-sim compare office my-fleet.toml   two scenarios side by side
  piecework-sim sweep office --seeds 1..20 --nodes 100,200,400
  piecework-sim real namespaces-seed namespaces-origin --runs 5
  piecework-sim real yielding                  what a background download costs others on its line
  piecework-sim run office --record 17 --log node17.jsonl && piecework-sim replay node17.jsonl"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario, and the policies it names for comparison, and say what came of it
    Run(run::Run),
    /// Run two scenarios (or read two `outcome.json`) and show them side by side
    Compare(run::Compare),
    /// Run a scenario with many seeds or sizes, one a core
    Sweep(sweep::Sweep),
    /// Feed a recorded log of one node to a fresh engine and check that it wants the same again
    Replay(replay::Replay),
    /// Predict, then run the real node in network namespaces on the same lines, and show both side by side (as root)
    Real(real::Real),
    /// List the built-in scenarios
    List {
        /// Print this one's text, to begin an own one with
        #[arg(long, value_name = "SCENARIO")]
        show: Option<String>,
    },
}

/// What `run`, `compare` and `sweep` share.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write outcome.json, CSV files and SVG plots into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// A policy by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyName {
    Piecework,
    Http,
    Sequential,
    Bittorrent,
    Random,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Piecework => Self::Piecework,
            PolicyName::Http => Self::Http,
            PolicyName::Sequential => Self::Sequential,
            PolicyName::Bittorrent => Self::Bittorrent,
            PolicyName::Random => Self::Random,
        }
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Run(run) => run.main(),
        Command::Compare(compare) => compare.main(),
        Command::Sweep(sweep) => sweep.main(),
        Command::Replay(replay) => replay.main(),
        Command::Real(real) => real.main(),
        Command::List { show } => list(show.as_deref()),
    };
    ExitCode::from(code)
}

fn list(show: Option<&str>) -> u8 {
    if let Some(name) = show {
        return match scenario::load(name) {
            Ok(_) => {
                print!("{}", scenario::builtin(name).unwrap_or_default());
                0
            }
            Err(error) => fail(BAD, &error),
        };
    }
    for name in scenario::builtin_names() {
        let about = scenario::load(name).map_or_else(|error| error.to_string(), |scenario| scenario.about);
        println!("{name:<20} {about}");
    }
    0
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> u8 {
    eprintln!("error: {error}");
    code
}

/// A scenario with another number of machines, where asked for.
fn load(name: &str, nodes: Option<u32>) -> Result<Scenario, u8> {
    let mut scenario = scenario::load(name).map_err(|error| fail(BAD, &error))?;
    if let Some(nodes) = nodes {
        scenario.resize(nodes).map_err(|error| fail(BAD, &error))?;
    }
    Ok(scenario)
}
