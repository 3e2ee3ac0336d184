//! `piecework key`: makes and shows keys, as files that OpenSSL reads and makes.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{files, output};
use crate::content::code::Code;
use crate::content::{PublicKey, SigningKey};

/// Longest key file read, in bytes.
const KEY_BYTES_MAX: usize = 4096;

/// The commands of `key`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a key pair: FILE, which is secret, and FILE.pub; overwrites neither
    #[command(after_help = "Example:\n  piecework key new publisher.key")]
    New(NewArguments),
    /// Shows a key's id and kind; takes private and public keys
    #[command(after_help = "Example:\n  piecework key show publisher.key.pub")]
    Show(ShowArguments),
}

/// Arguments of `key new`.
#[derive(Debug, Args)]
pub struct NewArguments {
    /// Where the private key goes; the public one beside it, with .pub added
    file: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `key show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// A private or public key
    file: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Command::New(arguments) => new(&arguments, context),
            Command::Show(arguments) => show(&arguments),
        }
    }
}

fn new(arguments: &NewArguments, context: &Context) -> Result<(), CliError> {
    let private = &arguments.file;
    let mut name = private.clone().into_os_string();
    name.push(".pub");
    let public = PathBuf::from(name);
    // Asked first, so that a public key in the way leaves no half of a pair; `write_new` decides.
    if std::fs::symlink_metadata(&public).is_ok() {
        return Err(CliError::new(Code::DestinationExists, "the file exists, and is never overwritten")
            .path(&public)
            .remedy("choose another name, or move the file away"));
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|fault| CliError::new(Code::ResourceRefused, format!("the system gives no entropy: {fault}")))?;
    let key = SigningKey::from_seed(&seed);
    files::write_new(private, 0o600, key.to_pem().as_bytes())?;
    if let Err(error) = files::write_new(&public, 0o644, key.public().to_pem().as_bytes()) {
        // Half a pair is of no use, and this half was made just now.
        let _ = std::fs::remove_file(private);
        return Err(error);
    }
    let id = key.public().id();
    if arguments.json {
        return output::json(&json!({
            "key_id": id.to_string(),
            "private_key": private.display().to_string(),
            "public_key": public.display().to_string(),
        }));
    }
    output::line(&format!("key id      {id}"))?;
    output::line(&format!("private key {}", private.display()))?;
    output::line(&format!("public key  {}", public.display()))?;
    context.note("Keep the private key secret and backed up; hand out the public key and its id.");
    Ok(())
}

fn show(arguments: &ShowArguments) -> Result<(), CliError> {
    let pem = Zeroizing::new(files::read_text(&arguments.file, KEY_BYTES_MAX)?);
    let private = pem.contains("PRIVATE KEY");
    let key = if private { SigningKey::from_pem(&pem).map(|key| key.public()) } else { PublicKey::from_pem(&pem) };
    let key = key.map_err(|error| CliError::from(error).path(&arguments.file))?;
    let kind = if private { "private" } else { "public" };
    if arguments.json {
        return output::json(&json!({
            "key_id": key.id().to_string(),
            "kind": kind,
            "algorithm": "ed25519",
            "public_key": key.to_base64(),
        }));
    }
    output::line(&format!("key id     {}", key.id()))?;
    output::line(&format!("kind       {kind}, Ed25519"))?;
    output::line(&format!("public key {}", key.to_base64()))
}

/// Reads a private key's file.
///
/// # Errors
/// [`Code::InputMissing`], or [`Code::BadInput`] for what is no such key.
pub fn read_private(path: &Path) -> Result<SigningKey, CliError> {
    let pem = Zeroizing::new(files::read_text(path, KEY_BYTES_MAX)?);
    SigningKey::from_pem(&pem).map_err(|error| CliError::from(error).path(path))
}

/// Reads a public key's file.
///
/// # Errors
/// [`Code::InputMissing`], or [`Code::BadInput`] for what is no such key.
pub fn read_public(path: &Path) -> Result<PublicKey, CliError> {
    let pem = files::read_text(path, KEY_BYTES_MAX)?;
    PublicKey::from_pem(&pem).map_err(|error| {
        let told = CliError::from(error).path(path);
        if !pem.contains("PRIVATE KEY") {
            return told;
        }
        told.remedy("this file holds a private key: name its public half, which ends in .pub, and keep this one secret")
    })
}
