//! `piecework man`: manual pages from the parser's own definitions.

use std::path::PathBuf;

use clap::Args;

use crate::cli::error::CliError;
use crate::cli::grammar;

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework man ~/.local/share/man/man1\n\n\
    Writes piecework.1 and a page for each command, as piecework-get.1, into a folder that is there.")]
pub struct Arguments {
    /// The folder to write the pages to
    folder: PathBuf,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), CliError> {
        clap_mangen::generate_to(grammar(), &self.folder).map_err(|error| CliError::create(&self.folder, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        Arguments { folder: folder.path().to_owned() }.run().expect("written");
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
        assert!(page("piecework.1").contains(".TH piecework 1"));
        for command in grammar().get_subcommands() {
            let page = page(&format!("piecework-{}.1", command.get_name()));
            assert!(page.contains(".SH SYNOPSIS") && page.contains(command.get_name()), "{page}");
        }
        assert!(page("piecework-cache-verify.1").contains("piecework cache verify"), "its example");
    }
}
