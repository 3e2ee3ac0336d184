//! `piecework config`: every policy with its value and who set it; whether a file would be accepted.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{config, files, output};
use crate::content::code::Code;
use crate::policy::Settings;
use crate::policy::import::import;
use crate::policy::layer::CONFIG_BYTES_MAX;

/// `piecework config ...`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows every policy, its value here, and who set it
    #[command(after_help = "Examples:\n  piecework config show\n  piecework config show --json")]
    Show(Show),
    /// Says whether a configuration file would be accepted
    #[command(after_help = "Example:\n  piecework config check /etc/piecework/piecework.toml")]
    Check(Check),
    /// Turns an exported policy set of Delivery Optimization into a configuration file
    #[command(after_help = "Example:\n  piecework config import policies.reg > piecework.toml\n\n\
        Reads a registry export, or lines of names and values. Exit code 78 where something was left out, each with the\n\
        reason on stderr and in the file.")]
    Import(Import),
}

/// Arguments of `config import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The exported policy set
    file: PathBuf,
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
            Command::Show(show) => print(&context.settings([])?, show.json, false),
            Command::Import(import) => import.run(context),
            Command::Check(check) => print(&config::check(&check.file)?, check.json, true),
        }
    }
}

impl Import {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let bytes = files::read_bytes(&self.file, CONFIG_BYTES_MAX)?;
        let text = text_of(&bytes)
            .ok_or_else(|| CliError::new(Code::BadInput, "expected UTF-8 or UTF-16 text").path(&self.file))?;
        let imported = import(&text);
        output::text(&imported.toml)?;
        imported.left_out.iter().for_each(|line| context.note(&output::plain(line)));
        match imported.left_out.len() {
            0 => Ok(()),
            count => Err(CliError::new(Code::BadConfig, format!("{count} settings were left out")).path(&self.file)),
        }
    }
}

/// Text as registry editors write it, little-endian UTF-16 with a mark, or UTF-8.
fn text_of(bytes: &[u8]) -> Option<String> {
    match bytes.strip_prefix(&[0xff, 0xfe]) {
        Some(units) => {
            let units: Vec<u16> =
                units.chunks_exact(2).filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?))).collect();
            String::from_utf16(&units).ok()
        }
        None => String::from_utf8(bytes.to_vec()).ok(),
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
