//! `piecework publish`: from a file or folder to its signed manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use url::Url;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::inspect::{lone_content_id, manifest_link};
use crate::cli::signer::{self, Signers};
use crate::cli::{files, output};
use crate::content::code::Code;
use crate::content::envelope::ENVELOPE_BYTES_MAX;
use crate::content::{
    ContentId, Envelope, Error, FileToList, Manifest, ManifestBuilder, SafePath, Sha256, open_untrusted,
};
use crate::drivers::hashing::{self, FileDigest, hash_file, hash_files, walk};
use crate::drivers::sources::expand_base;

/// Files whose content ids are shown to people; `inspect` and `--json` show all.
const FILES_SHOWN_MAX: usize = 20;

const EXAMPLES: &str = "\
Examples:
  piecework publish big.iso --key acme.key --name acme/big --version 1.2 \\
      --url https://cdn.example/isos/ -o big.piecework
  piecework publish build/ --key acme.key --name acme/app --url https://cdn.example/app/ -o app.piecework

A URL that ends in / is a base: each file's path is added to it. Any other is the exact URL of a single file.";

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", signer::PROTOCOL))]
pub struct Arguments {
    /// A file or folder; symbolic links and special files are refused
    path: PathBuf,
    /// A private key that signs; repeatable
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A program that signs; --help tells how it is spoken to
    #[arg(long, value_name = "CMD")]
    signer_command: Option<String>,
    /// The publication's name, as publisher/product
    #[arg(long)]
    name: String,
    /// The version, for people
    #[arg(id = "published_version", long = "version", value_name = "V", default_value = "", hide_default_value = true)]
    version: String,
    /// Higher than any before of this name [default: the time in milliseconds, or one more than OUT had]
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// Until when it holds, such as 2031-05-01T00:00:00Z [default: for ever]
    #[arg(long, value_name = "RFC3339", value_parser = output::parse_timestamp)]
    expires: Option<u64>,
    /// A note for programs, as KEY=VALUE; repeatable
    #[arg(long = "annotation", value_name = "K=V", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// Where the bytes can be fetched by HTTP; repeatable
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Where the manifest goes; one of an earlier publication is replaced
    #[arg(short, long = "output", value_name = "OUT.piecework")]
    out: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// One file to be hashed: its place in the manifest, and where it lies.
struct Listed {
    path: SafePath,
    file: PathBuf,
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    /// Publishes a file or folder.
    ///
    /// # Errors
    /// [`Code::Usage`] for fields that no manifest may have, [`Code::BadInput`] and [`Code::UnsafePath`] for files that
    /// cannot be published, and as files and signers have them. Nothing is written then, and an older OUT stays.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let started = Instant::now();
        // All that can be wrong is asked before hours of reading.
        let signers = Signers::load(&self.keys, self.signer_command.as_deref())?;
        let metadata =
            fs::symlink_metadata(&self.path).map_err(|source| hashing::Error::Read { path: self.path.clone(), source });
        let metadata = metadata.map_err(of_files)?;
        let directory = metadata.is_dir();
        check_place(&self, directory)?;
        files::check_writable(&self.out)?;
        let builder = head(&self, directory, earlier_sequence(&self)?);
        let (listed, total) =
            if directory { list(context, &self.path)? } else { (vec![single(&self.path)?], metadata.len()) };
        let sources = |listed: &Listed| expand(&self.urls, &listed.path, directory);
        if let Some(first) = listed.first() {
            probe(builder.clone(), first, sources(first)?)?;
        }
        let bar = output::progress(total, "hashing", context.is_quiet() || self.json);
        let progress = |more| bar.inc(more);
        let digests = match &listed[..] {
            [only] => hash_file(&only.file, &progress).map(|digest| vec![digest]),
            many => hash_files(&many.iter().map(|listed| &listed.file).collect::<Vec<_>>(), &progress),
        };
        bar.finish_and_clear();
        let digests = digests.map_err(of_files)?;
        let mut builder = builder;
        for (listed, digest) in listed.iter().zip(digests) {
            builder = builder.file(entry(listed, digest, sources(listed)?));
        }
        let manifest = builder.build().map_err(of_flags)?;
        let mut envelope = Envelope::unsigned(manifest.payload().clone());
        signers.sign(&mut envelope)?;
        let bytes = envelope.encode();
        if bytes.len() > ENVELOPE_BYTES_MAX {
            let message = format!("the manifest would have {} bytes, of {ENVELOPE_BYTES_MAX} allowed", bytes.len());
            return Err(CliError::new(Code::BadInput, message).remedy("publish the folder in parts"));
        }
        files::replace(&self.out, 0o644, &bytes)?;
        tell(&self, &manifest, &envelope, started)
    }
}

fn head(args: &Arguments, directory: bool, earlier: Option<u64>) -> ManifestBuilder {
    let next = earlier.map_or(0, |sequence| sequence.saturating_add(1));
    let sequence = args.sequence.unwrap_or_else(|| output::now_milliseconds().max(next));
    let builder = ManifestBuilder::new(&args.name)
        .version(&args.version)
        .sequence(sequence)
        .created(output::now())
        .expires(args.expires)
        .directory(directory);
    args.annotations.iter().fold(builder, |builder, (key, value)| builder.annotation(key, value))
}

/// Refuses a manifest that would come to lie among what it lists: the next publication would list it too.
fn check_place(args: &Arguments, directory: bool) -> Result<(), CliError> {
    let refuse = |message: &str| {
        let error = CliError::new(Code::Usage, message).path(&args.out);
        Err(error.remedy("let -o name a file elsewhere"))
    };
    let resolve = |path: &Path| fs::canonicalize(path).ok();
    let Some(path) = resolve(&args.path) else { return Ok(()) };
    let folder = resolve(&files::folder_of(&args.out));
    if directory && folder.is_some_and(|folder| folder.starts_with(&path)) {
        return refuse("the manifest would lie in the folder that it lists");
    }
    if resolve(&args.out).is_some_and(|out| out == path) {
        return refuse("the manifest would replace the file that it lists");
    }
    Ok(())
}

/// The sequence of an earlier manifest of this name that lies at OUT. Anything else that lies there is not ours to
/// replace.
fn earlier_sequence(args: &Arguments) -> Result<Option<u64>, CliError> {
    if fs::symlink_metadata(&args.out).is_err() {
        return Ok(None);
    }
    let bytes = files::read_bytes(&args.out, ENVELOPE_BYTES_MAX).ok();
    let earlier = bytes.and_then(|bytes| open_untrusted(Bytes::from(bytes)).ok()).ok_or_else(|| {
        CliError::new(Code::DestinationExists, "something lies there that is no manifest, and is not replaced")
            .path(&args.out)
            .remedy("let -o name another file, or move this one away")
    })?;
    Ok(Some(earlier.manifest).filter(|manifest| manifest.name() == args.name).map(|manifest| manifest.sequence()))
}

fn single(path: &Path) -> Result<Listed, CliError> {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_str().ok_or_else(|| of_files(hashing::Error::NotText { path: path.to_path_buf() }))?;
    let safe = SafePath::new(name);
    let safe = safe.map_err(|fault| of_files(hashing::Error::Name { path: path.to_path_buf(), fault }))?;
    Ok(Listed { path: safe, file: path.to_path_buf() })
}

fn list(context: &Context, folder: &Path) -> Result<(Vec<Listed>, u64), CliError> {
    let walked = walk(folder).map_err(of_files)?;
    if walked.files.is_empty() {
        let error = CliError::new(Code::BadInput, "the folder holds no file");
        return Err(error.path(folder));
    }
    if !context.is_quiet() {
        walked.empty_folders.iter().for_each(|folder| {
            output::note(&format!(
                "left out, since a manifest lists files only: the empty folder {}",
                folder.display()
            ));
        });
    }
    let total = walked.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.length));
    let listed = walked.files.into_iter().map(|file| Listed { path: file.path, file: file.file });
    Ok((listed.collect(), total))
}

/// The sources of one file by the URLs named.
fn expand(urls: &[String], path: &SafePath, directory: bool) -> Result<Vec<String>, CliError> {
    let expand = |url: &String| {
        let refuse = |message: String| CliError::new(Code::Usage, message).culprit(url);
        let parsed = Url::parse(url).map_err(|fault| refuse(format!("no URL: {fault}")))?;
        if directory && !(url.ends_with('/') && parsed.query().is_none()) {
            return Err(refuse("a folder needs a base URL, which ends in /".to_owned())
                .remedy("end the URL in /: each file's path is added to it"));
        }
        if !url.ends_with('/') {
            return Ok(url.clone());
        }
        expand_base(url, path.as_str()).map_err(|fault| refuse(fault.to_string()))
    };
    urls.iter().map(expand).collect()
}

/// Builds the manifest once with an empty file, so that a flag no manifest may have is refused before reading.
fn probe(builder: ManifestBuilder, listed: &Listed, sources: Vec<String>) -> Result<(), CliError> {
    let nothing = crate::content::tree::FileHashes {
        content_id: ContentId::new(*blake3::hash(b"").as_bytes()),
        piece_hashes: Vec::new(),
    };
    let file = FileToList {
        path: listed.path.clone(),
        length: 0,
        hashes: nothing,
        sha256: Sha256::new([0; 32]),
        sources,
        executable: false,
    };
    builder.file(file).build().map(drop).map_err(of_flags)
}

fn entry(listed: &Listed, digest: FileDigest, sources: Vec<String>) -> FileToList {
    FileToList {
        path: listed.path.clone(),
        length: digest.length,
        hashes: digest.hashes,
        sha256: digest.sha256,
        sources,
        executable: digest.executable,
    }
}

/// A file or folder that cannot be read, or not as a publication is.
pub(crate) fn of_files(error: hashing::Error) -> CliError {
    let told = CliError::new(error.code(), format!("{error}{}", error.reason()));
    let told = match error.path() {
        Some(path) => told.path(path),
        None => told,
    };
    match error {
        hashing::Error::Changed { .. } => told.remedy("publish a copy that nobody writes to, or try again"),
        hashing::Error::Special { .. } => told.remedy("put a copy of what is meant in its place, or move it away"),
        hashing::Error::Name { .. } | hashing::Error::NotText { .. } => told.remedy("rename it"),
        hashing::Error::TooMany { .. } | hashing::Error::TooLong { .. } => told.remedy("publish it in parts"),
        _ => told,
    }
}

/// A rule broken by what the command line says: the fault is in no manifest yet.
fn of_flags(error: Error) -> CliError {
    match error.code() {
        Code::BadManifest => CliError::new(Code::Usage, error.to_string()),
        _ => error.into(),
    }
}

fn tell(args: &Arguments, manifest: &Manifest, envelope: &Envelope, started: Instant) -> Result<(), CliError> {
    let key_ids: Vec<String> = envelope.signatures().iter().map(|one| one.key_id().to_string()).collect();
    let (bytes, time) = (manifest.layout().total_bytes(), started.elapsed());
    if args.json {
        return output::json(&described(args, manifest, key_ids, time.as_secs_f64()));
    }
    for file in manifest.files().iter().take(FILES_SHOWN_MAX) {
        output::line(&format!("content id   {}  {}", file.content_id, file.path))?;
    }
    if let Some(more) = manifest.files().len().checked_sub(FILES_SHOWN_MAX).filter(|more| *more > 0) {
        output::line(&format!("             and {more} more files: `piecework inspect` shows them"))?;
    }
    output::line(&format!("manifest id  {}", manifest.id()))?;
    output::line(&format!("link         {}", manifest_link(manifest)))?;
    key_ids.iter().try_for_each(|id| output::line(&format!("signed by    {id}")))?;
    let (size, rate, time) = (output::bytes(bytes), output::rate(bytes, time), output::duration(time));
    output::line(&format!("wrote        {} ({size} hashed in {time}, {rate})", args.out.display()))
}

fn described(args: &Arguments, manifest: &Manifest, key_ids: Vec<String>, seconds: f64) -> Value {
    let files = manifest.files().iter().map(|file| {
        json!({
            "path": file.path.as_str(),
            "length": file.length,
            "content_id": file.content_id.to_string(),
            "sha256": file.sha256.map(|hash| hash.to_string()),
        })
    });
    json!({
        "manifest": args.out.display().to_string(),
        "manifest_id": manifest.id().to_string(),
        "link": manifest_link(manifest),
        "content_id": lone_content_id(manifest),
        "name": manifest.name(),
        "version": manifest.version(),
        "sequence": manifest.sequence(),
        "key_ids": key_ids,
        "bytes_total": manifest.layout().total_bytes(),
        "seconds": seconds,
        "files": files.collect::<Vec<_>>(),
    })
}
