//! Outcomes as text, CSV and SVG; JSON is what serde makes of them.

mod csv;
mod svg;
mod table;

use std::path::Path;

use crate::outcome::Outcome;
pub use crate::report::csv::{completions, samples, sites};
pub use crate::report::svg::{Chart, Line, bars, chart};
pub use crate::report::table::{compared, summary};

/// Writes everything there is to say about some runs of one scenario into a folder: `outcome.json`, CSV files and SVG
/// plots, one line or bar a run. Returns the names of the files.
///
/// # Errors
/// Those of the file system.
pub fn write_all(folder: &Path, outcomes: &[Outcome]) -> std::io::Result<Vec<String>> {
    std::fs::create_dir_all(folder)?;
    let mut names = Vec::new();
    let mut put = |name: &str, text: String| -> std::io::Result<()> {
        std::fs::write(folder.join(name), text)?;
        names.push(name.to_owned());
        Ok(())
    };
    put("outcome.json", serde_json::to_string_pretty(outcomes).map_err(std::io::Error::other)?)?;
    put("completions.csv", completions(outcomes))?;
    put("samples.csv", samples(outcomes))?;
    put("sites.csv", sites(outcomes))?;
    for (name, picture) in svg::plots(outcomes) {
        put(name, picture)?;
    }
    Ok(names)
}
