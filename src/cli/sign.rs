//! `piecework sign`: one more signature, elsewhere or later.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::read_envelope;
use crate::cli::signer::{self, Signers};
use crate::cli::{files, output};
use crate::content::open::Fit;
use crate::content::{Error, open_untrusted};

const EXAMPLES: &str = "\
Examples:
  piecework sign big.piecework --key second.key
  piecework sign big.piecework --signer-command 'pkcs11-sign --slot 1'";

/// Arguments of `sign`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", signer::PROTOCOL))]
pub struct Arguments {
    /// The manifest; it is replaced at one stroke
    #[arg(value_name = "OUT.piecework")]
    manifest: PathBuf,
    /// A private key that signs; repeatable
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A program that signs; --help tells how it is spoken to
    #[arg(long, value_name = "CMD")]
    signer_command: Option<String>,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Adds signatures to a manifest. A key that signed before signs anew.
    ///
    /// # Errors
    /// [`Error::BadSignature`] where a signature that is there already does not fit: nobody should sign what was tampered
    /// with. Else as the files and signers have them.
    pub fn run(self, _context: &Context) -> Result<(), CliError> {
        let signers = Signers::load(&self.keys, self.signer_command.as_deref())?;
        let on_file = |error: Error| CliError::from(error).path(&self.manifest);
        let peeked = open_untrusted(read_envelope(&self.manifest)?).map_err(on_file)?;
        if let Some((key_id, _)) = peeked.signatures.iter().find(|(_, fit)| *fit == Fit::DoesNotFit) {
            return Err(on_file(Error::BadSignature { key_id: *key_id }));
        }
        let mut envelope = peeked.envelope;
        signers.sign(&mut envelope)?;
        files::replace(&self.manifest, 0o644, &envelope.encode())?;
        let key_ids: Vec<String> = envelope.signatures().iter().map(|one| one.key_id().to_string()).collect();
        if self.json {
            return output::json(&json!({ "manifest_id": peeked.manifest.id().to_string(), "key_ids": key_ids }));
        }
        output::line(&format!("manifest id  {}", peeked.manifest.id()))?;
        key_ids.iter().try_for_each(|id| output::line(&format!("signed by    {id}")))
    }
}
