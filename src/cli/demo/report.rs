//! What the demo shows at its end: who got which bytes from where, as a table or as data.

use std::fmt;

use comfy_table::presets;
use comfy_table::{Cell, CellAlignment, Table};

use crate::cli::demo::child::Figures;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::content::code::Code;

/// Copies that may leave the origin in an act; more means that origin duty does not work.
const ORIGIN_COPIES_MAX: f64 = 1.1;

/// One peer's figures.
#[derive(Debug, serde::Serialize)]
pub(super) struct PeerRow {
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// The copy was read again from disk and every byte was right.
    pub(super) verified: bool,
}

/// One act.
#[derive(Debug, serde::Serialize)]
pub(super) struct Act {
    pub(super) title: String,
    pub(super) peers: Vec<PeerRow>,
    pub(super) origin_bytes: u64,
    pub(super) seconds: f64,
}

/// The whole demo.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    pub(super) file: String,
    pub(super) length: u64,
    pub(super) publish_seconds: f64,
    pub(super) acts: Vec<Act>,
}

impl Report {
    /// The same as data.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn copies(&self, act: &Act) -> f64 {
        if self.length == 0 { 0.0 } else { act.origin_bytes as f64 / self.length as f64 }
    }

    /// Whether the demo showed what it promises.
    ///
    /// # Errors
    /// A copy is not verified, or the origin sent more than it should.
    pub(super) fn judge(&self) -> Result<(), CliError> {
        for act in &self.acts {
            if !act.peers.iter().all(|peer| peer.verified && peer.figures.verified) {
                return Err(CliError::new(
                    Code::ContentMismatch,
                    format!("act \"{}\": a copy is not verified", act.title),
                ));
            }
            if self.copies(act) > ORIGIN_COPIES_MAX {
                let copies = self.copies(act);
                return Err(CliError::new(
                    Code::Io,
                    format!("act \"{}\": {copies:.2} copies left the origin, more than {ORIGIN_COPIES_MAX}", act.title),
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} ({}), signed in {:.2} s", self.file, output::bytes(self.length), self.publish_seconds)?;
        for act in &self.acts {
            let mut table = Table::new();
            table.load_style(presets::UTF8_BORDERS_ONLY);
            table.set_header(["", "from peers", "from HTTP", "wasted", "seconds", ""]);
            for (index, peer) in act.peers.iter().enumerate() {
                let figures = &peer.figures;
                let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
                table.add_row([
                    Cell::new(format!("peer {}", index + 1)),
                    right(output::bytes(figures.bytes_from_peers)),
                    right(output::bytes(figures.bytes_from_http)),
                    right(output::bytes(figures.bytes_wasted)),
                    right(format!("{:.2}", figures.seconds)),
                    Cell::new(if peer.verified { "verified" } else { "NOT VERIFIED" }),
                ]);
            }
            writeln!(f, "\nThree peers, {}: {:.2} s", act.title, act.seconds)?;
            writeln!(f, "{table}")?;
            writeln!(
                f,
                "left the origin: {} = {:.2} copies for {} machines",
                output::bytes(act.origin_bytes),
                self.copies(act),
                act.peers.len()
            )?;
        }
        Ok(())
    }
}
