//! [`check_state_dir`]: an offline look at everything a state folder claims to hold. Reads only.
//!
//! A *problem* is a broken promise: a durable bit whose piece is wrong or gone, books that do not close. A *note* is what
//! a crash may leave and the next opening mends at the cost of some hashing.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::store::cache::{CONTENTS, ENTRIES};
use crate::drivers::store::engine::Engine;
use crate::drivers::store::error::Error;
use crate::drivers::store::files::{FileSet, Names};
use crate::drivers::store::folder::{Folder, TEMPORARY};
use crate::drivers::store::place::{DOWNLOADS, Place, lock_folder};
use crate::drivers::store::read::Progress;
use crate::drivers::store::record::{Claim, Record};
use crate::drivers::store::state_dir::{StateDir, open_private};

/// What the check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Whether every promise is kept.
    pub ok: bool,
    /// Each download under way and each entry of the cache.
    pub contents: Vec<ContentReport>,
    /// Broken promises that belong to no content.
    pub problems: Vec<String>,
    /// What will be mended by itself.
    pub notes: Vec<String>,
}

/// One download or cache entry.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ContentReport {
    /// `download` or `cache`.
    pub kind: &'static str,
    /// The folder that remembers it.
    pub folder: String,
    /// The destination, or the folder of the data.
    pub path: String,
    /// Manifest id, hexadecimal; empty where it cannot be read.
    pub manifest: String,
    /// Pieces of the manifest.
    pub piece_count: u32,
    /// Pieces that the state calls durable.
    pub durable_count: u32,
    /// Blocks of started pieces that the state calls durable.
    pub started_blocks: u64,
    /// Bytes of both that were hashed and found right.
    pub right_bytes: u64,
    /// Pieces that are called durable, or started, and are wrong on disk.
    pub wrong_pieces: Vec<u32>,
    /// Whether the last stop was a clean one.
    pub clean: bool,
    /// Broken promises.
    pub problems: Vec<String>,
    /// What will be mended by itself.
    pub notes: Vec<String>,
}

/// Checks a state folder (`piecework store check DIR`) and the cache that goes with it, which need not be there: downloads
/// in place, the cache, the sequences. `progress` is told of each content's hashing in turn.
///
/// # Errors
/// [`Error::Missing`], [`Error::UnsafeState`], [`Error::Io`]: nothing can be said then. All else is in the report.
pub fn check_state_dir(path: &Path, cache: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let state = StateDir::open_existing(path)?;
    let mut report = Report::default();
    match state.check_sequences() {
        Ok(note) => report.notes.extend(note),
        Err(problem) => report.problems.push(problem),
    }
    note_leftovers(state.folder(), &mut report.notes)?;
    if let Some(downloads) = open_optional(state.folder(), DOWNLOADS)? {
        for name in list(&downloads)? {
            if let Some(folder) = open_optional(&downloads, &name)? {
                report.contents.push(check_download(&downloads, Path::new(&name), folder, progress)?);
            }
        }
    }
    match open_private(cache) {
        Ok(cache) => check_cache(&cache, &mut report, progress)?,
        Err(Error::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    report.ok = report.problems.is_empty() && report.contents.iter().all(|content| content.problems.is_empty());
    Ok(report)
}

fn check_download(
    downloads: &Folder,
    name: &Path,
    folder: Folder,
    progress: &mut dyn FnMut(Progress),
) -> Result<ContentReport, Error> {
    let mut report = ContentReport { kind: "download", folder: shown(folder.path()), ..ContentReport::default() };
    if lock_folder(&folder, downloads, name).is_err() {
        report.problems.push("it is in use by another process; stop that one and check again".to_owned());
        return Ok(report);
    }
    let Some((claim, manifest, record)) = read_books(&folder, &mut report)? else { return Ok(report) };
    report.path = shown(&claim.out());
    let promised = record.as_ref().is_some_and(|_| report.durable_count > 0 || report.started_blocks > 0);
    let Some(record) = record else { return Ok(report) };
    let files = match find_data(&claim, &manifest, &record) {
        Ok(Some(files)) => files,
        Ok(None) if !promised => {
            report.notes.push("its partial data is gone; nothing of it was durable".to_owned());
            return Ok(report);
        }
        Ok(None) => {
            report.problems.push(format!("{} durable pieces, and their data is gone", report.durable_count));
            return Ok(report);
        }
        Err(error) => {
            report.problems.push(error.to_string());
            return Ok(report);
        }
    };
    check_pieces(&Engine::new(manifest, files, None, None), &record, &mut report, progress);
    Ok(report)
}

/// The files of a download, under their partial or their final name, known by their inode.
fn find_data(claim: &Claim, manifest: &Manifest, record: &Record) -> Result<Option<FileSet>, Error> {
    let place = match Place::of(&claim.out()) {
        Ok(place) => place,
        Err(Error::CannotCreate { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    for name in [&place.part_name, &place.out_name] {
        let found = place.stat(name)?.map(|found| (found.stamp.device, found.stamp.inode));
        if found.is_none() || found != record.root {
            continue;
        }
        let failed = |source| Error::io("open", place.parent.path().join(name), source);
        let (folder, names) = if manifest.is_directory() {
            (place.parent.open_below(name).map_err(failed)?, Names::Paths)
        } else {
            (place.parent.reopen().map_err(failed)?, Names::One(name.clone()))
        };
        return Ok(Some(FileSet::new(manifest.clone(), folder, names, false)));
    }
    Ok(None)
}

fn check_cache(cache: &Folder, report: &mut Report, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
    if rustix::fs::flock(cache.file(), rustix::fs::FlockOperation::NonBlockingLockShared).is_err() {
        report.problems.push("the cache is in use by another process; stop that one and check again".to_owned());
        return Ok(());
    }
    let (Some(entries), Some(contents)) = (open_optional(cache, ENTRIES)?, open_optional(cache, CONTENTS)?) else {
        return Ok(());
    };
    let mut listed: BTreeSet<String> = BTreeSet::new();
    for name in list(&entries)? {
        let Some(folder) = open_optional(&entries, &name)? else { continue };
        let folder_path = shown(folder.path());
        let mut entry = ContentReport { kind: "cache", folder: folder_path, ..ContentReport::default() };
        entry.path = shown(contents.path());
        if let Some((_, manifest, record)) = read_books(&folder, &mut entry)? {
            if manifest.id().to_string() != name {
                entry.problems.push(format!("it holds manifest {}", manifest.id()));
            }
            listed.extend(manifest.files().iter().map(|file| file.content_id.to_string()));
            if let Some(record) = record {
                let below = contents.reopen().map_err(|source| Error::io("open", contents.path(), source))?;
                let files = FileSet::new(manifest.clone(), below, Names::Contents, false);
                check_pieces(&Engine::new(manifest, files, None, None), &record, &mut entry, progress);
            }
        }
        report.contents.push(entry);
    }
    let orphans = list(&contents)?.into_iter().filter(|name| !listed.contains(name)).count();
    if orphans > 0 {
        report.notes.push(format!("{orphans} files of the cache belong to no manifest"));
    }
    Ok(())
}

/// Claim, manifest and record of a folder, with what can be said of them alone. `None`: there is nothing to compare.
fn read_books(folder: &Folder, report: &mut ContentReport) -> Result<Option<(Claim, Manifest, Option<Record>)>, Error> {
    note_leftovers(folder, &mut report.notes)?;
    let claim = match Claim::read(folder) {
        Ok(Some(claim)) => claim,
        Ok(None) => {
            report.notes.push("nothing is claimed yet".to_owned());
            return Ok(None);
        }
        Err(Ok(reason)) => {
            report.notes.push(format!("the manifest cannot be read ({reason}); the next opening writes it again"));
            return Ok(None);
        }
        Err(Err(error)) => return Err(error),
    };
    let manifest = match claim.read_manifest() {
        Ok(manifest) if manifest.id() == claim.manifest_id() => manifest,
        Ok(manifest) => {
            report.problems.push(format!("the manifest is {}, claimed is {}", manifest.id(), claim.manifest_id()));
            return Ok(None);
        }
        Err(error) => {
            report.problems.push(format!("the stored manifest is damaged: {error}"));
            return Ok(None);
        }
    };
    (report.manifest, report.piece_count) = (manifest.id().to_string(), manifest.layout().piece_count());
    let record = match Record::read(folder) {
        Ok(None) => {
            report.notes.push("there is no state yet; the next opening hashes what is there".to_owned());
            None
        }
        Err(Ok(reason)) => {
            report.notes.push(format!("the state is torn ({reason}); the next opening hashes what is there"));
            None
        }
        Ok(Some(record)) if record.manifest_id() != manifest.id() => {
            report.notes.push("the state is of an earlier manifest; the next opening begins anew".to_owned());
            None
        }
        Ok(Some(record)) => match record.durable(&manifest) {
            Ok(durable) => {
                report.durable_count = durable.held_count();
                report.started_blocks = record.started.values().map(|blocks| blocks.len() as u64).sum();
                report.clean = record.clean;
                Some(record)
            }
            Err(reason) => {
                report.problems.push(format!("the books do not close: {reason}"));
                None
            }
        },
        Err(Err(error)) => return Err(error),
    };
    Ok(Some((claim, manifest, record)))
}

/// Hashes every durable piece and every durable block of a started one.
fn check_pieces(engine: &Engine, record: &Record, report: &mut ContentReport, progress: &mut dyn FnMut(Progress)) {
    let Ok(durable) = record.durable(&engine.manifest) else { return };
    let length = |piece: PieceIndex| engine.manifest.layout().piece_length(piece).unwrap_or(0);
    let total_bytes = durable.iter_held().map(length).fold(0, u64::saturating_add);
    let mut done_bytes = 0u64;
    let mut buffer = Vec::new();
    let mut sized: BTreeSet<u32> = BTreeSet::new();
    let started = record.started.keys().copied().map(PieceIndex);
    for piece in durable.iter_held().chain(started.clone()) {
        let Ok((place, _)) = engine.locate(piece) else { continue };
        if sized.insert(place.file) {
            let found = engine.files.stat(place.file).ok().flatten().map(|found| found.stamp.size);
            let expected = place.layout.length();
            if found != Some(expected) {
                let found = found.map_or("no file".to_owned(), |found| format!("{found} bytes"));
                let path = engine.files.path(place.file);
                report.problems.push(format!("{}: expected {expected} bytes, found {found}", path.display()));
            }
        }
    }
    for piece in durable.iter_held() {
        if engine.is_right(piece, &mut buffer) {
            report.right_bytes = report.right_bytes.saturating_add(length(piece));
        } else {
            report.wrong_pieces.push(piece.0);
        }
        done_bytes = done_bytes.saturating_add(length(piece));
        progress(Progress { done_bytes, total_bytes });
    }
    for (piece, blocks) in &record.started {
        for (block, value) in blocks {
            let (piece, block) = (PieceIndex(*piece), BlockIndex(*block));
            if engine.read_unproven(piece, block, &mut buffer) == Some(*value) {
                let bytes = engine.manifest.layout().block_length(piece, block).unwrap_or(0);
                report.right_bytes = report.right_bytes.saturating_add(bytes);
            } else if report.wrong_pieces.last() != Some(&piece.0) {
                report.wrong_pieces.push(piece.0);
            }
        }
    }
    if !report.wrong_pieces.is_empty() {
        let count = report.wrong_pieces.len();
        report.problems.push(format!("{count} pieces are called durable and are wrong on disk"));
    }
}

/// A path for a report; bytes that are no text are replaced, since JSON has no others.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn note_leftovers(folder: &Folder, notes: &mut Vec<String>) -> Result<(), Error> {
    for name in list(folder)? {
        if name.ends_with(TEMPORARY) {
            let path = folder.path().join(&name);
            notes.push(format!(
                "{} was being written when the process ended; it is removed when next needed",
                path.display()
            ));
        }
    }
    Ok(())
}

fn list(folder: &Folder) -> Result<Vec<String>, Error> {
    let names = folder.names().map_err(|source| Error::io("list", folder.path(), source))?;
    // Every name this program makes is text; others are none of its business.
    Ok(names.into_iter().filter_map(|name| name.into_os_string().into_string().ok()).collect())
}

/// A folder below another; `None` where nothing, or no folder, has the name.
fn open_optional(folder: &Folder, name: &str) -> Result<Option<Folder>, Error> {
    match folder.open_below(Path::new(name)) {
        Ok(below) => Ok(Some(below)),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
                || error.raw_os_error() == Some(libc::ELOOP) =>
        {
            Ok(None)
        }
        Err(source) => Err(Error::io("open", folder.path().join(name), source)),
    }
}
