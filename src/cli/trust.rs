//! `piecework trust`: whose manifests are believed, kept in `trust.toml` of the state folder.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::read_envelope;
use crate::cli::key::read_public;
use crate::cli::{config, files, output};
use crate::content::code::Code;
use crate::content::trust::STORE_BYTES_MAX;
use crate::content::{
    Addition, Envelope, Error, KeyId, NamePattern, OriginPattern, PublicKey, Publisher, Refusal, TrustStore,
};

/// The trust store's name in the state folder.
const STORE_FILE: &str = "trust.toml";

/// The commands of `trust`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Believes a publisher's keys about names that fit a pattern
    #[command(after_help = "\
Examples:
  piecework trust add acme.pub --publisher acme --names 'acme/*'
  piecework trust add a.pub b.pub c.pub --threshold 2 --publisher acme --names 'acme/*'
  piecework trust add --from big.piecework --key-id ID --publisher acme --names 'acme/*'

A publisher that is there already gets the new keys and patterns beside its own.")]
    Add(AddArguments),
    /// Shows the publishers that are believed
    #[command(after_help = "Example:\n  piecework trust list --json")]
    List(ListArguments),
    /// Believes a publisher no longer
    #[command(after_help = "Example:\n  piecework trust remove acme")]
    Remove(RemoveArguments),
}

/// Arguments of `trust add`.
#[derive(Debug, Args)]
pub struct AddArguments {
    /// Public keys of the publisher
    #[arg(value_name = "FILE.pub", required_unless_present = "from", conflicts_with = "from")]
    files: Vec<PathBuf>,
    /// A manifest whose signers' keys are taken; --key-id says which
    #[arg(long, value_name = "OUT.piecework", requires = "key_ids")]
    from: Option<PathBuf>,
    /// Ids of the keys to take from --from
    #[arg(long = "key-id", value_name = "ID", num_args = 1.., requires = "from")]
    key_ids: Vec<KeyId>,
    /// What the publisher is called here
    #[arg(long, value_name = "P")]
    publisher: String,
    /// Names it may sign for; * is any run of characters
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = name_pattern)]
    names: Vec<NamePattern>,
    /// How many distinct keys must have signed [of a new publisher: 1]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    threshold: Option<u32>,
    /// Hosts its sources may be fetched from, as HOST or HOST:PORT [without any: all but local ones]
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = origin_pattern)]
    origins: Vec<OriginPattern>,
    /// How old its manifests may be [without: of any age]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=i64::MAX.unsigned_abs()))]
    max_age: Option<u64>,
}

/// Arguments of `trust list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `trust remove`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// What the publisher is called here
    #[arg(value_name = "P")]
    publisher: String,
}

fn name_pattern(text: &str) -> Result<NamePattern, String> {
    NamePattern::new(text).map_err(|error| error.to_string())
}

fn origin_pattern(text: &str) -> Result<OriginPattern, String> {
    OriginPattern::new(text).map_err(|error| error.to_string())
}

impl Command {
    /// Changes or shows the trust store.
    ///
    /// # Errors
    /// [`Code::BadInput`] for a key or a store that does not parse, [`Code::InputMissing`] for what is not there,
    /// [`Code::Usage`] for an outcome that cannot be, and as the files have them.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Command::Add(args) => add(context, &args),
            Command::List(args) => list(&load(&context.state_folder()?)?, args.json),
            Command::Remove(args) => remove(context, &args.publisher),
        }
    }
}

/// Reads the trust store of a state folder; one that was never written is empty.
///
/// # Errors
/// [`Code::BadInput`] for one that does not parse, [`Code::InputMissing`] for one that may not be read.
pub fn load(state: &Path) -> Result<TrustStore, CliError> {
    let path = state.join(STORE_FILE);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(TrustStore::default()),
        _ => {}
    }
    let text = files::read_text(&path, STORE_BYTES_MAX)?;
    TrustStore::parse(&text).map_err(|error| CliError::from(error).path(&path))
}

/// What to do about a refusal: for an unknown publisher the command that would trust it, and the warning that belongs to
/// it. `manifest` is the path or URL that was given; nothing of the manifest itself is repeated but its key ids.
pub fn trust_remedy(context: &Context, manifest: &str, refusal: &Refusal) -> Option<String> {
    let Refusal::UnknownPublisher { key_ids } = refusal else { return None };
    let ids: Vec<_> = key_ids.iter().map(KeyId::to_string).collect();
    let state = context.state_folder().ok().filter(|state| config::default_state_folder().ok().as_ref() != Some(state));
    let state = state.map(|state| format!(" --state {}", quoted(&state.display().to_string())));
    Some(format!(
        "if you know this publisher: first compare the key id with the publisher by another way (its website, the \
         phone), then\npiecework trust add --from {} --key-id {} --publisher P --names PATTERN{}",
        quoted(manifest),
        ids.join(" "),
        state.unwrap_or_default(),
    ))
}

/// A word as a shell would take it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn add(context: &Context, args: &AddArguments) -> Result<(), CliError> {
    let keys = match &args.from {
        Some(manifest) => keys_of(manifest, &args.key_ids)?,
        None => args.files.iter().map(|path| read_public(path)).collect::<Result<Vec<_>, _>>()?,
    };
    let state = context.make_state_folder()?;
    let _lock = lock(&state)?;
    let mut store = load(&state)?;
    if args.names.is_empty() && store.publisher(&args.publisher).is_none() {
        return Err(CliError::new(Code::Usage, "a new publisher needs names that it may sign for")
            .culprit(&args.publisher)
            .remedy("add --names PATTERN, such as --names 'acme/*'"));
    }
    let ids: Vec<KeyId> = keys.iter().map(PublicKey::id).collect();
    let addition = Addition {
        publisher: args.publisher.clone(),
        keys,
        threshold: args.threshold,
        names: args.names.clone(),
        origins: args.origins.clone(),
        max_age_seconds: args.max_age,
    };
    // What was read from files is right by itself here: only its sum, chosen by the flags, can be wrong.
    store.add(addition).map_err(|error| match error {
        Error::TrustStore { reason } => CliError::new(Code::Usage, reason).culprit(&args.publisher),
        other => CliError::from(other),
    })?;
    save(&state, &store)?;
    for id in &ids {
        output::line(&format!("trusted      {} by key id {id}", args.publisher))?;
    }
    if let Some(publisher) = store.publisher(&args.publisher) {
        let (k, n) = (publisher.threshold(), publisher.keys().len());
        output::line(&format!("may sign     {}, with {k} of {n} keys", joined(publisher.names())))?;
    }
    if args.from.is_some() {
        output::line(
            "This key came with the manifest itself: compare its id with the publisher by another way (its website, the \
             phone) before you rely on it.",
        )?;
    }
    Ok(())
}

/// Keys that travel with a manifest, by their ids; each must really have signed it.
fn keys_of(manifest: &Path, ids: &[KeyId]) -> Result<Vec<PublicKey>, CliError> {
    let culprit = manifest.display().to_string();
    let envelope = Envelope::decode_shared(read_envelope(manifest)?);
    let envelope = envelope.map_err(|error| CliError::from(error).culprit(&culprit))?;
    let take = |id: &KeyId| {
        let signature = envelope.signatures().iter().find(|signature| signature.key_id() == *id);
        let missing = |what: &str| {
            CliError::new(Code::InputMissing, format!("{what} {id}"))
                .culprit(&culprit)
                .remedy("see `piecework inspect` for the ids, or get the publisher's .pub file")
        };
        let signature = signature.ok_or_else(|| missing("the manifest is not signed by the key"))?;
        let key = signature.public_key().ok_or_else(|| missing("the manifest does not carry the key"))?;
        if !envelope.verify_with(key) {
            return Err(CliError::from(Error::BadSignature { key_id: *id }).culprit(&culprit));
        }
        Ok(key.clone())
    };
    ids.iter().map(take).collect()
}

fn remove(context: &Context, publisher: &str) -> Result<(), CliError> {
    let unknown = || {
        CliError::new(Code::InputMissing, "no publisher of this name is trusted")
            .culprit(publisher)
            .remedy("`piecework trust list` shows the names")
    };
    let state = context.state_folder()?;
    // Looked at before the lock, which needs the folder.
    if load(&state)?.publisher(publisher).is_none() {
        return Err(unknown());
    }
    let _lock = lock(&state)?;
    let mut store = load(&state)?;
    if !store.remove(publisher) {
        return Err(unknown());
    }
    save(&state, &store)?;
    output::line(&format!("trusted no longer: {publisher}"))
}

fn list(store: &TrustStore, json: bool) -> Result<(), CliError> {
    if json {
        let publishers: Vec<_> = store.list().map(described).collect();
        return output::json(&json!({ "publishers": publishers }));
    }
    for publisher in store.list() {
        output::line(&format!("publisher    {}", publisher.name()))?;
        output::line(&format!("  may sign   {}", joined(publisher.names())))?;
        output::line(&format!("  threshold  {} of {} keys", publisher.threshold(), publisher.keys().len()))?;
        publisher.keys().iter().try_for_each(|key| output::line(&format!("  key id     {}", key.id())))?;
        if !publisher.origins().patterns.is_empty() {
            output::line(&format!("  origins    {}", joined(&publisher.origins().patterns)))?;
        }
        if let Some(seconds) = publisher.max_age_seconds() {
            output::line(&format!("  maximum age {seconds} s"))?;
        }
    }
    if store.list().next().is_none() {
        output::note("No publisher is trusted yet; `piecework trust add --help` tells how.");
    }
    Ok(())
}

fn described(publisher: &Publisher) -> serde_json::Value {
    let texts = |patterns: &[NamePattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let keys = publisher.keys().iter();
    let keys = keys.map(|key| json!({ "key_id": key.id().to_string(), "public_key": key.to_base64() }));
    json!({
        "name": publisher.name(),
        "threshold": publisher.threshold(),
        "names": texts(publisher.names()),
        "origins": publisher.origins().patterns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "max_age_seconds": publisher.max_age_seconds(),
        "keys": keys.collect::<Vec<_>>(),
    })
}

fn joined<T: ToString>(patterns: &[T]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn save(state: &Path, store: &TrustStore) -> Result<(), CliError> {
    files::replace(&state.join(STORE_FILE), 0o600, store.to_toml().as_bytes())
}

/// Keeps other writers of the store out while the file lives.
fn lock(state: &Path) -> Result<File, CliError> {
    let refuse = |error: std::io::Error| CliError::io("lock it", state, error);
    let folder = File::open(state).map_err(refuse)?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).map_err(|error| refuse(error.into()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (word, expected) in [("a/b.c", "a/b.c"), ("", "''"), ("a b", "'a b'"), ("$(x)'", "'$(x)'\\'''")] {
            assert_eq!(quoted(word), expected);
        }
    }
}
