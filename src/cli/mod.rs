//! The door: arguments in, exit code out. One file a subcommand; each starts what lies below and says how it went.
//!
//! Data goes to stdout, all else to stderr. Read `context` for what every command is handed, `error` for how one fails.

pub mod ask;
pub mod completions;
pub mod config;
pub mod context;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod files;
pub mod get;
pub mod get_daemon;
pub mod inspect;
pub mod key;
pub mod logging;
pub mod man;
pub mod node;
pub mod notify;
pub mod output;
pub mod policies;
pub mod publish;
pub mod seed;
pub mod setup;
pub mod sign;
pub mod signer;
pub mod store;
pub mod trust;
pub mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::content::code::Code;

const EXAMPLES: &str = "\
Examples:
  piecework key new publisher.key
  piecework publish big.iso --key publisher.key --name acme/big -o big.piecework
  piecework trust add publisher.key.pub --publisher acme --names 'acme/*'
  piecework verify big.iso big.piecework

Exit codes: 0 ok, 64 usage, 65 bad data, 66 input missing, 69 no source, 71 resource refused,
73 cannot create, 74 I/O, 75 try again, 76 protocol, 77 not trusted or refused, 78 configuration.";

/// Peer-to-peer content delivery: signed manifests, verified pieces, HTTP behind them.
#[derive(Debug, Parser)]
#[command(name = "piecework", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArguments {
    /// One more configuration file, stronger than the site's and the user's
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Where all state of this instance lies: key, trust, downloads at hand
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub state: Option<PathBuf>,
    /// Says more on stderr; twice or three times for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// Says only what went wrong: no progress, no notes
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Everywhere")]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes and shows keys
    #[command(subcommand)]
    Key(key::Command),
    /// Hashes and signs a file or folder: writes its manifest
    Publish(publish::Arguments),
    /// Adds one more signature to a manifest
    Sign(sign::Arguments),
    /// Shows what a manifest says and who signed it; trusts nobody
    Inspect(inspect::Arguments),
    /// Checks a file or folder against its manifest, byte by byte
    Verify(verify::Arguments),
    /// Says which publishers are believed, and about what
    #[command(subcommand)]
    Trust(trust::Command),
    /// Gets a file or folder: from peers first, over HTTP behind them
    Get(get::Arguments),
    /// Serves a file or folder where it lies
    Seed(seed::Arguments),
    /// Runs the daemon that keeps contents and serves them
    Node(node::Arguments),
    /// Shows what the daemon does
    Status(ask::Status),
    /// Shows the peers that the daemon is connected to
    Peers(ask::Peers),
    /// Prints a URL that opens the daemon's page in a browser
    Dashboard(ask::Dashboard),
    /// Shows what the daemon costs and has moved
    Perf(ask::Perf),
    /// Shows which sources the daemon may use, or changes it
    Mode(ask::Mode),
    /// Holds the daemon's downloads still
    Pause(ask::Pause),
    /// Lets the daemon's downloads go on
    Resume(ask::Resume),
    /// Looks after the daemon's cache
    #[command(subcommand)]
    Cache(ask::Cache),
    /// Shows what the daemon believed, refused, fetched and evicted, and why
    Log(ask::Log),
    /// Says what is wrong, and why there are no peers
    Doctor(doctor::Arguments),
    /// Shows and checks the configuration
    #[command(subcommand)]
    Config(policies::Command),
    /// Looks after stores
    #[command(subcommand)]
    Store(store::Command),
    /// Shows the main job for real, on this machine alone
    Demo(demo::Arguments),
    /// Prints completions for a shell
    Completions(completions::Arguments),
    /// Writes the manual pages
    Man(man::Arguments),
}

impl Command {
    fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Command::Key(command) => command.run(context),
            Command::Publish(arguments) => arguments.run(context),
            Command::Sign(arguments) => arguments.run(context),
            Command::Inspect(arguments) => arguments.run(context),
            Command::Verify(arguments) => arguments.run(context),
            Command::Trust(command) => command.run(context),
            Command::Get(arguments) => arguments.run(context),
            Command::Seed(arguments) => arguments.run(context),
            Command::Node(arguments) => arguments.run(context),
            Command::Status(arguments) => arguments.run(context),
            Command::Peers(arguments) => arguments.run(context),
            Command::Dashboard(arguments) => arguments.run(context),
            Command::Perf(arguments) => arguments.run(context),
            Command::Mode(arguments) => arguments.run(context),
            Command::Pause(arguments) => arguments.run(context),
            Command::Resume(arguments) => arguments.run(context),
            Command::Cache(command) => command.run(context),
            Command::Log(arguments) => arguments.run(context),
            Command::Doctor(arguments) => arguments.run(context),
            Command::Config(command) => command.run(context),
            Command::Store(command) => command.run(context),
            Command::Demo(arguments) => arguments.run(context),
            Command::Completions(arguments) => arguments.run(),
            Command::Man(arguments) => arguments.run(),
        }
    }
}

/// The command line's grammar, for completions and tests.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs one command line, the program's name first; says on stdout and stderr how it went.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Asked before parsing, since wrong usage is an answer too.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let outcome = match Cli::try_parse_from(&arguments) {
        Ok(cli) => logging::start(&cli.global).and_then(|()| cli.command.run(&Context::new(cli.global))),
        Err(answer) => usage(&answer, json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(json);
            ExitCode::from(error.code().exit_code())
        }
    }
}

/// What clap has to say: help and version are answers, everything else is wrong usage.
fn usage(answer: &clap::Error, json: bool) -> Result<(), CliError> {
    use clap::error::ErrorKind;
    if matches!(answer.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return output::text(&output::rendered(answer, output::stdout_is_colourful()));
    }
    if json {
        let message = answer.to_string();
        return Err(CliError::new(Code::Usage, message.trim_start_matches("error: ").trim_end()));
    }
    eprint!("{}", output::rendered(answer, output::stderr_is_colourful()));
    Err(CliError::new(Code::Usage, "the command line is wrong").reported())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        grammar().debug_assert();
    }

    #[test]
    fn every_command_has_a_description_and_examples() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no description");
            if command.get_subcommands().next().is_none() {
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Example"), "{path} has no example");
            }
            command.get_subcommands().for_each(|command| look(command, &path));
        }
        look(&grammar(), "");
    }
}
