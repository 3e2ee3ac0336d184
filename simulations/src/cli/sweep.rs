//! `sweep`: many seeds and sizes, one run a core at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Args;

use crate::cli::run::show;
use crate::cli::{BAD, Common, PolicyName, fail, load};
use crate::outcome::Outcome;
use crate::scenario::Policy;

/// Runs of one sweep at most.
const RUNS_MAX: usize = 100_000;

/// Arguments of `sweep`.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// A file, or the name of a built-in scenario
    scenario: String,
    /// Seeds: `3`, `1,5,9` or `1..20` (both ends included)
    #[arg(long, default_value = "1..10", value_parser = numbers)]
    seeds: Numbers,
    /// Numbers of machines, written as seeds are
    #[arg(long, value_parser = numbers)]
    nodes: Option<Numbers>,
    /// What every machine runs, instead of what the scenario says
    #[arg(long)]
    policy: Option<PolicyName>,
    /// Runs at a time; absent: one a core
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    common: Common,
}

/// A list of numbers, as one argument.
#[derive(Debug, Clone)]
struct Numbers(Vec<u64>);

fn numbers(text: &str) -> Result<Numbers, String> {
    let one = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no number"));
    let list = match text.split_once("..") {
        Some((from, to)) => {
            let (from, to) = (one(from)?, one(to.trim_start_matches('='))?);
            if to < from || to - from >= RUNS_MAX as u64 {
                return Err(format!("`{text}`: the smaller number first, and at most {RUNS_MAX} of them"));
            }
            (from..=to).collect()
        }
        None => text.split(',').map(one).collect::<Result<_, _>>()?,
    };
    Ok(Numbers(list))
}

impl Sweep {
    pub(crate) fn main(self) -> u8 {
        let sizes: Vec<Option<u32>> = match &self.nodes {
            None => vec![None],
            Some(list) => list.0.iter().map(|nodes| Some(u32::try_from(*nodes).unwrap_or(u32::MAX))).collect(),
        };
        let mut plan = Vec::new();
        for nodes in sizes {
            let scenario = match load(&self.scenario, nodes) {
                Ok(scenario) => scenario,
                Err(code) => return code,
            };
            plan.extend(self.seeds.0.iter().map(|seed| (scenario.clone(), *seed)));
        }
        if plan.len() > RUNS_MAX {
            return fail(BAD, &format!("{} runs are more than {RUNS_MAX}", plan.len()));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.unwrap_or(cores).clamp(1, 256) {
                scope.spawn(|| {
                    while let Some((place, (scenario, seed))) = {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        plan.get(place).map(|it| (place, it))
                    } {
                        let policy = self.policy.map_or(scenario.engine.policy, Policy::from);
                        let outcome = crate::run(&self.scenario, scenario.clone(), *seed, policy, &mut |_| {});
                        if let Ok(outcome) = outcome {
                            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                            results.push((place, outcome));
                            if !self.common.quiet {
                                eprintln!("{} of {} runs", results.len(), plan.len());
                            }
                        }
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(place, _)| *place);
        let outcomes: Vec<Outcome> = results.into_iter().map(|(_, outcome)| outcome).collect();
        if !self.common.json && outcomes.len() > 8 {
            return table(&outcomes, &self.common);
        }
        show(&outcomes, &self.common)
    }
}

/// One line a run, where columns would be too many.
fn table(outcomes: &[Outcome], common: &Common) -> u8 {
    println!(
        "machines,seed,complete,wanted,last_us,last_over_bound,mean_over_bound,origin_copies,bytes_over_needed,trace"
    );
    for it in outcomes {
        println!(
            "{},{},{},{},{},{},{},{},{},{}",
            it.machines,
            it.seed,
            it.complete,
            it.wanted,
            it.last_at,
            it.last_over_bound,
            it.mean_over_bound,
            it.origin_copies,
            it.bytes_over_needed,
            it.trace
        );
        if let Some(violation) = &it.violation {
            eprintln!("VIOLATED (seed {}): {violation}", it.seed);
        }
    }
    if let Some(folder) = &common.out
        && let Err(error) = crate::report::write_all(folder, outcomes)
    {
        return fail(crate::cli::CANNOT_WRITE, &error);
    }
    u8::from(outcomes.iter().any(|it| it.violation.is_some()))
}
