//! `piecework completions`: a script for one's shell.

use clap::Args;
use clap_complete::Shell;

use crate::cli::error::CliError;
use crate::cli::{grammar, output};
use crate::content::code::Code;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework completions bash > ~/.local/share/bash-completion/completions/piecework")]
pub struct Arguments {
    /// Which shell
    shell: Shell,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut grammar(), "piecework", &mut script);
        let script = String::from_utf8(script);
        output::text(&script.map_err(|_| CliError::new(Code::Io, "the completions are no text"))?)
    }
}
