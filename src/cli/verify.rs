//! `piecework verify`: reads everything again and says whether every byte is the publisher's.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::read_envelope;
use crate::cli::key::read_public;
use crate::cli::output;
use crate::cli::publish::of_files;
use crate::cli::trust::{self, trust_remedy};
use crate::content::code::Code;
use crate::content::{Error, KeyId, Manifest, Now, Past, Refusal, open_signed_by, open_trusted};
use crate::drivers::hashing::{Verified, VerifyError, verify_publication};
use crate::drivers::store::StateDir;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  piecework verify big.iso big.piecework
  piecework verify big.iso big.piecework --key acme.pub

Exit code 0 only if every byte is right. Without --key a publisher trusted by `piecework trust add` must have signed.")]
pub struct Arguments {
    /// The file or folder
    path: PathBuf,
    /// Its manifest
    #[arg(value_name = "OUT.piecework")]
    manifest: PathBuf,
    /// A public key that must have signed; repeatable; the trust store is not asked then
    #[arg(long = "key", value_name = "FILE.pub")]
    keys: Vec<PathBuf>,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// Whose word the manifest is.
struct Word {
    manifest: Manifest,
    /// `None` where keys were named.
    publisher: Option<String>,
    signers: Vec<KeyId>,
}

impl Arguments {
    /// Verifies a file or folder.
    ///
    /// # Errors
    /// [`Code::UnknownPublisher`] and its like where the manifest is not to be believed, [`Code::Expired`] where it no longer
    /// is; [`Code::WrongLength`], [`Code::ContentMismatch`] or [`Code::InputMissing`] for the first file that is wrong.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let started = Instant::now();
        let outcome = believe(context, &self).and_then(|word| {
            let verified = read(&self.path, &word.manifest, context.is_quiet() || self.json)?;
            Ok((word, verified))
        });
        match outcome {
            Ok((word, verified)) => tell(context, &self, &word, &verified, started),
            Err(error) if self.json => {
                output::json(&json!({ "verified": false, "error": error.to_json() }))?;
                Err(error.reported())
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads a file or folder again from disk, and holds length, BLAKE3 and SHA-256 of each file against a manifest that is
/// believed already.
///
/// # Errors
/// As `verify` has them, for the first file that is wrong.
pub fn check(path: &Path, manifest: &Manifest, quiet: bool) -> Result<(), CliError> {
    first_fault(&read(path, manifest, quiet)?).map_or(Ok(()), Err)
}

fn read(path: &Path, manifest: &Manifest, quiet: bool) -> Result<Verified, CliError> {
    let bar = output::progress(manifest.layout().total_bytes(), "verifying", quiet);
    let verified = verify_publication(path, manifest, &|more| bar.inc(more));
    bar.finish_and_clear();
    verified.map_err(of_files)
}

/// What is wrong, if anything is: the first file's fault, and how many have one.
fn first_fault(verified: &Verified) -> Option<CliError> {
    let mut faults = verified.faults();
    let (outcome, fault) = faults.next()?;
    let wrong = faults.count().saturating_add(1);
    let more = match wrong {
        1 => String::new(),
        _ => format!(" ({wrong} of {} files are wrong)", verified.files.len()),
    };
    let error = CliError::new(fault.code(), format!("{fault}{more}")).path(&outcome.file);
    Some(match fault.code() {
        Code::InputMissing | Code::WrongLength | Code::ContentMismatch => {
            error.remedy("fetch it again: `piecework get MANIFEST -o PATH --force`")
        }
        _ => error,
    })
}

/// Reads the manifest and asks who stands for it; the keys that were named, or the trust store.
fn believe(context: &Context, args: &Arguments) -> Result<Word, CliError> {
    let bytes = read_envelope(&args.manifest)?;
    let shown = args.manifest.display().to_string();
    let now = Now::by(output::now());
    let state = context.state_folder().ok().and_then(|folder| StateDir::open_existing(&folder).ok());
    let newest_made = |name: &str| state.as_ref().map_or(0, |state| state.newest_made(name));
    let refuse = |error: Error| {
        let remedy = match &error {
            Error::Refused(refusal) if args.keys.is_empty() => trust_remedy(context, &shown, refusal),
            Error::Refused(Refusal::UnknownPublisher { .. }) => {
                Some("name the key that did sign it with --key, or ask that publisher to sign it".to_owned())
            }
            _ => None,
        };
        let told = CliError::from(error).culprit(&shown);
        match remedy {
            Some(remedy) => told.remedy(remedy),
            None => told,
        }
    };
    if args.keys.is_empty() {
        let store = trust::load(&context.state_folder()?)?;
        // This very manifest was asked for, so an older one is what is wanted.
        let past = |name: &str| Past { highest_sequence: None, newest_made: newest_made(name) };
        let opened = open_trusted(bytes, &store, now, past, true).map_err(refuse)?;
        let (publisher, signers) = (Some(opened.trusted.publisher), opened.trusted.signers);
        return Ok(Word { manifest: opened.manifest, publisher, signers });
    }
    let keys = args.keys.iter().map(|path| read_public(path)).collect::<Result<Vec<_>, _>>()?;
    let (_, manifest) = open_signed_by(bytes, &keys).map_err(refuse)?;
    // A key says who; how long it holds, the manifest says itself.
    let now = now.not_before(newest_made(manifest.name()));
    if let Some(expires) = manifest.expires().filter(|expires| *expires <= now.at()) {
        return Err(refuse(Refusal::Expired { expires, now }.into()));
    }
    Ok(Word { manifest, publisher: None, signers: keys.iter().map(|key| key.id()).collect() })
}

fn tell(
    context: &Context,
    args: &Arguments,
    word: &Word,
    verified: &Verified,
    started: Instant,
) -> Result<(), CliError> {
    let error = first_fault(verified);
    if args.json {
        let error_json = error.as_ref().map_or(Value::Null, CliError::to_json);
        output::json(&described(word, verified, error_json, started))?;
        return error.map_or(Ok(()), |error| Err(error.reported()));
    }
    if !context.is_quiet() {
        verified.extras.iter().for_each(|path| {
            output::note(&format!("not in the manifest: {}", path.display()));
        });
    }
    if let Some(error) = error {
        // One fault is told by the error itself.
        if verified.faults().nth(1).is_some() {
            for (outcome, fault) in verified.faults() {
                output::line(&format!("wrong  {}: {fault} [{}]", outcome.file.display(), fault.code().word()))?;
            }
        }
        return Err(error);
    }
    let (files, bytes) = (verified.files.len(), word.manifest.layout().total_bytes());
    let by = word
        .publisher
        .clone()
        .unwrap_or_else(|| word.signers.iter().map(|id| format!("key {id}")).collect::<Vec<_>>().join(" and "));
    let time = output::duration(started.elapsed());
    let plural = if files == 1 { "" } else { "s" };
    let (size, name) = (output::bytes(bytes), word.manifest.name());
    let version = Some(word.manifest.version()).filter(|version| !version.is_empty());
    let version = version.map_or(String::new(), |version| format!(" {version}"));
    output::line(&format!("verified: {files} file{plural}, {size} in {time}: {name}{version} by {by}"))
}

fn described(word: &Word, verified: &Verified, error: Value, started: Instant) -> Value {
    let files = verified.files.iter().map(|outcome| {
        let fault = outcome.result.as_ref().err();
        let first_bad_piece = match fault {
            Some(VerifyError::Content { first_bad_piece, .. }) => *first_bad_piece,
            _ => None,
        };
        json!({
            "path": outcome.path.as_str(),
            "verified": fault.is_none(),
            "code": fault.map(|fault| fault.code().word()),
            "message": fault.map(ToString::to_string),
            "first_bad_piece": first_bad_piece,
        })
    });
    json!({
        "verified": verified.is_right(),
        "name": word.manifest.name(),
        "version": word.manifest.version(),
        "manifest_id": word.manifest.id().to_string(),
        "publisher": word.publisher,
        "key_ids": word.signers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_total": word.manifest.layout().total_bytes(),
        "seconds": started.elapsed().as_secs_f64(),
        "files": files.collect::<Vec<_>>(),
        "extras": verified.extras.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "error": error,
    })
}
