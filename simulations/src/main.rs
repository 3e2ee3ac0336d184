//! `piecework-sim`: runs scenarios and says what came of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().nth(2).unwrap_or_default();
    let scenario = match piecework_sim::scenario::load(&name) {
        Ok(scenario) => scenario,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(65);
        }
    };
    let (seed, policy) = (scenario.seed, scenario.engine.policy);
    match piecework_sim::run(&name, scenario, seed, policy, &mut |_| {}) {
        Ok(mut outcome) => {
            outcome.samples.clear();
            outcome.completions.clear();
            println!("{}", serde_json::to_string_pretty(&outcome).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(65)
        }
    }
}
