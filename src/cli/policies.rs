//! `piecework config`: every policy with its value and who set it; whether a file would be accepted.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{config, output};
use crate::policy::{Layer, Settings};

/// `piecework config ...`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows every policy, its value here, and who set it
    #[command(after_help = "Examples:\n  piecework config show\n  piecework config show --json")]
    Show(Show),
    /// Says whether a configuration file would be accepted
    #[command(after_help = "Example:\n  piecework config check /etc/piecework/piecework.toml")]
    Check(Check),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub struct Show {
    /// An array of objects with key, value and provider
    #[arg(long)]
    json: bool,
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The file
    file: PathBuf,
    /// The policies that the file sets, as `config show --json` has them
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Runs it.
    ///
    /// # Errors
    /// The configuration is wrong, with key, value, range and provider.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Command::Show(show) => print(&context.settings(Layer::default())?, show.json, false),
            Command::Check(check) => print(&config::check(&check.file)?, check.json, true),
        }
    }
}

/// All rows, or only those that somebody set.
fn print(settings: &Settings, as_json: bool, only_set: bool) -> Result<(), CliError> {
    let default = crate::policy::Provider::Default;
    let rows = || settings.rows().filter(|(.., provider)| !only_set || **provider != default);
    if as_json {
        let row = |(key, value, provider): (crate::policy::Key, String, &crate::policy::Provider)| json!({ "key": key.path(), "value": value, "provider": provider.to_string() });
        return output::json(&Value::Array(rows().map(row).collect()));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["KEY", "VALUE", "SET BY"]);
    for (key, value, provider) in rows() {
        let provider = provider.to_string();
        table.add_row([key.path(), &*output::plain(&value), &*output::plain(&provider)]);
    }
    output::text(&format!("{table}\n"))
}
