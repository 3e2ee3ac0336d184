//! `replay`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{BAD, MISSED, fail};
use crate::record;

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A log that `run --record` wrote
    log: PathBuf,
}

impl Replay {
    pub(crate) fn main(self) -> u8 {
        match record::replay(&self.log) {
            Ok(replayed) => {
                println!("{} events, {} actions: the same", replayed.events, replayed.actions);
                0
            }
            Err(error) => fail(if matches!(error, record::Error::Differs { .. }) { MISSED } else { BAD }, &error),
        }
    }
}
