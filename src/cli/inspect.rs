//! `piecework inspect`: what a manifest says and who signed it, without asking whom to believe.

use std::path::{Path, PathBuf};

use clap::Args;
use prost::bytes::Bytes;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{files, output};
use crate::content::code::Code;
use crate::content::envelope::ENVELOPE_BYTES_MAX;
use crate::content::manifest::{FileEntry, Manifest};
use crate::content::open::{Fit, Peeked};
use crate::content::{Link, Target, open_untrusted};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  piecework inspect big.piecework
  piecework inspect big.piecework --json | jq -r '.files[].content_id'")]
pub struct Arguments {
    /// The manifest
    #[arg(value_name = "OUT.piecework")]
    manifest: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Shows a manifest.
    ///
    /// # Errors
    /// [`Code::InputMissing`], or [`Code::BadManifest`] and its like for what is no manifest. A signature that does not fit
    /// is shown, and no error.
    pub fn run(self, _context: &Context) -> Result<(), CliError> {
        let peeked = open_untrusted(read_envelope(&self.manifest)?);
        let peeked = peeked.map_err(|error| CliError::from(error).path(&self.manifest))?;
        if self.json { output::json(&described(&peeked)) } else { show(&peeked) }
    }
}

/// Reads a manifest's file, within the bound of its format.
///
/// # Errors
/// [`Code::InputMissing`], or [`Code::BadManifest`] for a longer file or a folder.
pub(crate) fn read_envelope(path: &Path) -> Result<Bytes, CliError> {
    let bytes = files::read_bytes(path, ENVELOPE_BYTES_MAX);
    bytes.map(Bytes::from).map_err(|error| match error.code() {
        Code::BadInput => CliError::new(Code::BadManifest, error.to_string()).path(path),
        _ => error,
    })
}

/// The link to a manifest, without hints.
pub(crate) fn manifest_link(manifest: &Manifest) -> String {
    Link { target: Target::Manifest(manifest.id()), peers: Vec::new(), sources: Vec::new() }.to_string()
}

/// The content id of a manifest's one file; `None` for a directory.
pub(crate) fn lone_content_id(manifest: &Manifest) -> Option<String> {
    match manifest.files() {
        [file] if !manifest.is_directory() => Some(file.content_id.to_string()),
        _ => None,
    }
}

fn content_link(entry: &FileEntry) -> String {
    Link { target: Target::Content(entry.content_id), peers: Vec::new(), sources: Vec::new() }.to_string()
}

fn fit_word(fit: Fit) -> &'static str {
    match fit {
        Fit::Fits => "fits",
        Fit::DoesNotFit => "does_not_fit",
        Fit::KeyUnknown => "key_unknown",
    }
}

fn described(peeked: &Peeked) -> Value {
    let manifest = &peeked.manifest;
    let files = manifest.files().iter().map(|entry| {
        json!({
            "path": entry.path.as_str(),
            "length": entry.length,
            "content_id": entry.content_id.to_string(),
            "sha256": entry.sha256.map(|hash| hash.to_string()),
            "piece_bytes": entry.layout.piece_bytes(),
            "piece_count": entry.layout.piece_count(),
            "executable": entry.executable,
            "sources": entry.sources,
            "link": content_link(entry),
        })
    });
    let signatures =
        peeked.signatures.iter().map(|(id, fit)| json!({ "key_id": id.to_string(), "fit": fit_word(*fit) }));
    let annotations = manifest.annotations().iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    json!({
        "name": manifest.name(),
        "version": manifest.version(),
        "sequence": manifest.sequence(),
        "created": output::timestamp(manifest.created()),
        "expires": manifest.expires().map(output::timestamp),
        "directory": manifest.is_directory(),
        "annotations": annotations.collect::<serde_json::Map<_, _>>(),
        "bytes_total": manifest.layout().total_bytes(),
        "files": files.collect::<Vec<_>>(),
        "signatures": signatures.collect::<Vec<_>>(),
        "manifest_id": manifest.id().to_string(),
        "link": manifest_link(manifest),
        "content_id": lone_content_id(manifest),
    })
}

fn show(peeked: &Peeked) -> Result<(), CliError> {
    let manifest = &peeked.manifest;
    let mut lines = vec![
        format!("name         {}", manifest.name()),
        format!("version      {}", if manifest.version().is_empty() { "-" } else { manifest.version() }),
        format!("sequence     {}", manifest.sequence()),
        format!("created      {}", output::timestamp(manifest.created())),
        format!("expires      {}", manifest.expires().map_or("never".to_owned(), output::timestamp)),
        format!("manifest id  {}", manifest.id()),
        format!("link         {}", manifest_link(manifest)),
    ];
    lines.extend(manifest.annotations().iter().map(|(key, value)| format!("annotation   {key} = {value}")));
    for (key_id, fit) in &peeked.signatures {
        let fit = match fit {
            Fit::Fits => "fits the key that travels along; whose key that is, nobody said",
            Fit::DoesNotFit => "DOES NOT FIT: do not use this manifest",
            Fit::KeyUnknown => "cannot be checked: its key does not travel along",
        };
        lines.push(format!("signature    {key_id}  {fit}"));
    }
    for entry in manifest.files() {
        let executable = if entry.executable { ", executable" } else { "" };
        lines.push(format!("file         {}", entry.path));
        lines.push(format!("  length     {} bytes ({}){executable}", entry.length, output::bytes(entry.length)));
        lines.push(format!("  content id {}", entry.content_id));
        lines.extend(entry.sha256.map(|hash| format!("  sha256     {hash}")));
        let (count, size) = (entry.layout.piece_count(), output::bytes(entry.layout.piece_bytes()));
        lines.push(format!("  pieces     {count} of {size}"));
        lines.extend(entry.sources.iter().map(|url| format!("  source     {url}")));
    }
    lines.iter().try_for_each(|line| output::line(line))
}
