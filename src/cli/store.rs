//! `piecework store check`: is everything that a state folder says it holds really there, and right?

use std::path::PathBuf;

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::content::code::Code;
use crate::drivers::store::{Report, check_state_dir};
use crate::programs::peer::Failure;

/// `piecework store ...`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Verifies a state folder offline: every durable bit's piece, and the books
    #[command(
        after_help = "Examples:\n  piecework store check ~/.local/state/piecework\n  piecework store check DIR --json\n\n\
        Exit code 0 only if every durable bit's piece is right and the books close. Nothing is changed."
    )]
    Check {
        /// A --state folder; downloads in place are followed to where they lie, the cache to where `cache_dir` says
        dir: PathBuf,
        /// The report as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// `store_damaged` where a check fails.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let Command::Check { dir, json } = self;
        let state = std::path::absolute(&dir).map_err(|error| CliError::io("resolve", &dir, error))?;
        let cache = context.cache_folder(&context.settings([])?, &state)?;
        let bar = output::progress(0, "checking", context.is_quiet() || json);
        let report = check_state_dir(&state, &cache, &mut |progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        });
        bar.finish_and_clear();
        let report = report.map_err(Failure::from)?;
        if json {
            output::json(&to_json(&report))?;
        } else {
            people(&report)?;
        }
        if report.ok {
            return Ok(());
        }
        let error = CliError::new(Code::StoreDamaged, "what the store says it holds is not all there, or not right")
            .path(&dir)
            .remedy("run the same downloads again: damaged pieces are found and fetched anew; then check the disk");
        Err(if json { error.reported() } else { error })
    }
}

fn to_json(report: &Report) -> serde_json::Value {
    let mut value = serde_json::to_value(report).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        let durable: u64 = report.contents.iter().map(|content| content.right_bytes).sum();
        object.insert("durable_bytes".into(), durable.into());
    }
    value
}

fn people(report: &Report) -> Result<(), CliError> {
    for content in &report.contents {
        output::line(&format!(
            "{} {}: {} of {} pieces durable, {} right",
            content.kind,
            content.path,
            content.durable_count,
            content.piece_count,
            output::bytes(content.right_bytes)
        ))?;
        for problem in &content.problems {
            output::line(&format!("    problem: {problem}"))?;
        }
        for note in &content.notes {
            output::line(&format!("    note: {note}"))?;
        }
    }
    for problem in &report.problems {
        output::line(&format!("problem: {problem}"))?;
    }
    for note in &report.notes {
        output::line(&format!("note: {note}"))?;
    }
    output::line(if report.ok { "all is right" } else { "damaged" })
}
