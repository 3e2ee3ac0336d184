//! Holds what lies on the disk against a manifest: length, whole-file SHA-256, BLAKE3 root and pieces, in one read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::content::manifest::{FileEntry, Manifest};
use crate::content::path::SafePath;
use crate::drivers::hashing::error::{Error, VerifyError};
use crate::drivers::hashing::read::{FileDigest, Progress, hash_each, hash_file};

/// Files beside the manifest's own that are named; a folder may hold any number.
const EXTRAS_MAX: usize = 100;

/// What was found of one file.
#[derive(Debug)]
pub struct FileOutcome {
    /// Its path by the manifest.
    pub path: SafePath,
    /// Where it was looked for.
    pub file: PathBuf,
    /// Whether every byte is right.
    pub result: Result<(), VerifyError>,
}

/// What was found of a publication.
#[derive(Debug, Default)]
pub struct Verified {
    /// Every file of the manifest, in its order.
    pub files: Vec<FileOutcome>,
    /// What lies in the folder beside them, the first hundred; only for a directory.
    pub extras: Vec<PathBuf>,
}

impl Verified {
    /// Whether every byte of every file is right; what lies beside them does not count.
    pub fn is_right(&self) -> bool {
        self.faults().next().is_none()
    }

    /// The files that are wrong, and how.
    pub fn faults(&self) -> impl Iterator<Item = (&FileOutcome, &VerifyError)> {
        self.files.iter().filter_map(|outcome| Some((outcome, outcome.result.as_ref().err()?)))
    }
}

/// Reads a file once and holds it against its entry of a manifest. A symbolic link is not followed.
///
/// # Errors
/// [`VerifyError`]; a wrong length is told without reading.
pub fn verify_file(path: &Path, entry: &FileEntry, progress: Progress<'_>) -> Result<(), VerifyError> {
    check_length(path, entry)?;
    compare(entry, hash_file(path, progress))
}

/// Holds a file, or every file below a folder, against a manifest. The file of a manifest that is no directory may be
/// named itself or by the folder in which it lies.
///
/// # Errors
/// [`Error`] where nothing could be looked at; what is wrong with a file stands in its outcome.
pub fn verify_publication(path: &Path, manifest: &Manifest, progress: Progress<'_>) -> Result<Verified, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    if !metadata.is_dir() && manifest.is_directory() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(Error::Read { path: path.to_path_buf(), source });
    }
    let place = |entry: &FileEntry| match metadata.is_dir() {
        true => path.join(entry.path.to_path_buf()),
        false => path.to_path_buf(),
    };
    let mut ways = Ways { root: path.to_path_buf(), good: BTreeSet::new() };
    let mut results = BTreeMap::new();
    let mut to_read = Vec::new();
    for (index, entry) in manifest.files().iter().enumerate() {
        let file = place(entry);
        let way = if metadata.is_dir() { ways.check(&entry.path) } else { Ok(()) };
        match way.and_then(|()| check_length(&file, entry)) {
            Ok(()) => to_read.push((index, file)),
            Err(fault) => drop(results.insert(index, Err(fault))),
        }
    }
    let paths: Vec<&Path> = to_read.iter().map(|(_, file)| file.as_path()).collect();
    let found = Mutex::new(results);
    hash_each(&paths, progress, &|position, digest| {
        let index = to_read.get(position).map(|(index, _)| *index);
        if let Some((index, entry)) = index.and_then(|index| Some((index, manifest.files().get(index)?))) {
            let result = compare(entry, digest);
            found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, result);
        }
        ControlFlow::Continue(())
    })?;
    let results = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let files = manifest.files().iter().zip(results.into_values());
    let files = files.map(|(entry, result)| FileOutcome { path: entry.path.clone(), file: place(entry), result });
    let extras = if manifest.is_directory() { extras(path, manifest) } else { Vec::new() };
    Ok(Verified { files: files.collect(), extras })
}

fn check_length(path: &Path, entry: &FileEntry) -> Result<(), VerifyError> {
    let metadata = fs::symlink_metadata(path).map_err(|source| Error::Read { path: path.to_path_buf(), source });
    let metadata = metadata.map_err(|source| VerifyError::Unreadable { source })?;
    // Anything but a regular file is refused by name when it is opened.
    if metadata.is_file() && metadata.len() != entry.length {
        return Err(VerifyError::Length { expected: entry.length, found: metadata.len() });
    }
    Ok(())
}

fn compare(entry: &FileEntry, digest: Result<FileDigest, Error>) -> Result<(), VerifyError> {
    let digest = digest.map_err(|source| VerifyError::Unreadable { source })?;
    if digest.length != entry.length {
        return Err(VerifyError::Length { expected: entry.length, found: digest.length });
    }
    let pieces = digest.hashes.piece_hashes.chunks(32).zip(entry.piece_hashes().chunks(32));
    let first_bad = pieces.map(|(found, expected)| found == expected).position(|same| !same);
    let found = digest.hashes.content_id;
    let sha256_fits = entry.sha256.is_none_or(|expected| expected == digest.sha256);
    if first_bad.is_none() && found == entry.content_id && sha256_fits {
        return Ok(());
    }
    let first_bad_piece = first_bad.and_then(|piece| u32::try_from(piece).ok());
    Err(VerifyError::Content { first_bad_piece, expected: entry.content_id, found })
}

/// Folders between the root and a file, each looked at once: a link among them would make the file another one as soon
/// as somebody turns it.
struct Ways {
    root: PathBuf,
    good: BTreeSet<PathBuf>,
}

impl Ways {
    fn check(&mut self, path: &SafePath) -> Result<(), VerifyError> {
        let mut folder = self.root.clone();
        let mut components = path.components();
        // The last one is the file itself.
        components.next_back();
        for component in components {
            folder.push(component);
            if self.good.contains(&folder) {
                continue;
            }
            match fs::symlink_metadata(&folder) {
                Ok(metadata) if metadata.is_dir() => drop(self.good.insert(folder.clone())),
                Ok(_) => return Err(VerifyError::Way { folder }),
                Err(source) => return Err(VerifyError::Unreadable { source: Error::Read { path: folder, source } }),
            }
        }
        Ok(())
    }
}

/// What lies below a folder and is no file of the manifest, without an order that means anything. Unreadable folders
/// are left out: the manifest's own files in them were told already.
fn extras(root: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let own: BTreeSet<PathBuf> = manifest.files().iter().map(|entry| root.join(entry.path.to_path_buf())).collect();
    let ancestors = own.iter().flat_map(|file| file.ancestors().skip(1)).map(Path::to_path_buf);
    let on_the_way: BTreeSet<PathBuf> = ancestors.collect();
    let (mut extras, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && on_the_way.contains(&path) {
                folders.push(path);
            } else if !own.contains(&path) {
                // A foreign folder is named once, not entered.
                extras.push(path);
            }
            if extras.len() >= EXTRAS_MAX {
                return extras;
            }
        }
    }
    extras.sort();
    extras
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::content::build::{FileToList, ManifestBuilder};
    use crate::content::code::Code;
    use crate::drivers::hashing::read::hash_file;
    use crate::drivers::hashing::tree::walk;

    fn publish(root: &Path) -> Manifest {
        let mut builder = ManifestBuilder::new("test/it").sequence(1).created(1).directory(true);
        for listed in walk(root).expect("plain files").files {
            let digest = hash_file(&listed.file, &|_| ()).expect("unchanged");
            builder = builder.file(FileToList {
                path: listed.path,
                length: digest.length,
                hashes: digest.hashes,
                sha256: digest.sha256,
                sources: Vec::new(),
                executable: digest.executable,
            });
        }
        builder.build().expect("a good manifest")
    }

    fn codes(verified: &Verified) -> Vec<(String, Option<Code>)> {
        let code = |outcome: &FileOutcome| outcome.result.as_ref().err().map(VerifyError::code);
        verified.files.iter().map(|outcome| (outcome.path.to_string(), code(outcome))).collect()
    }

    #[test]
    fn each_fault_is_told_of_its_own_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("sub")).expect("made");
        fs::create_dir_all(root.join("way")).expect("made");
        let big = vec![7u8; 3 << 20];
        for name in ["big", "cut", "gone", "good", "link", "sub/long", "way/in"] {
            fs::write(root.join(name), if name == "big" { &big[..] } else { name.as_bytes() }).expect("written");
        }
        let manifest = publish(&root);
        assert!(verify_publication(&root, &manifest, &|_| ()).expect("looked at").is_right());

        let mut bad = big.clone();
        bad[(1 << 20) + 5] ^= 1;
        fs::write(root.join("big"), bad).expect("written");
        fs::write(root.join("cut"), "cu").expect("written");
        fs::remove_file(root.join("gone")).expect("ours");
        fs::remove_file(root.join("link")).expect("ours");
        symlink("good", root.join("link")).expect("made");
        fs::write(root.join("sub/long"), "sub/longer").expect("written");
        fs::rename(root.join("way"), folder.path().join("away")).expect("ours");
        symlink(folder.path().join("away"), root.join("way")).expect("made");
        fs::create_dir(root.join("foreign")).expect("made");
        fs::write(root.join("sub/extra"), "").expect("written");
        let verified = verify_publication(&root, &manifest, &|_| ()).expect("looked at");
        let expected = [
            ("big", Some(Code::ContentMismatch)),
            ("cut", Some(Code::WrongLength)),
            ("gone", Some(Code::InputMissing)),
            ("good", None),
            ("link", Some(Code::BadInput)),
            ("sub/long", Some(Code::WrongLength)),
            ("way/in", Some(Code::BadInput)),
        ];
        assert_eq!(codes(&verified), expected.map(|(path, code)| (path.to_owned(), code)));
        let first = verified.files.first().and_then(|outcome| outcome.result.as_ref().err());
        assert!(matches!(first, Some(VerifyError::Content { first_bad_piece: Some(1), .. })), "{first:?}");
        assert_eq!(verified.extras, [root.join("foreign"), root.join("sub/extra"), root.join("way")]);
    }

    #[test]
    fn one_file_is_verified_by_its_entry() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("made");
        fs::write(root.join("file"), "bytes").expect("written");
        let manifest = publish(&root);
        let entry = &manifest.files()[0];
        let code = |path: &Path| verify_file(path, entry, &|_| ()).map_err(|fault| fault.code());
        assert_eq!(code(&root.join("file")), Ok(()));
        assert_eq!(code(&root.join("none")), Err(Code::InputMissing));
        fs::write(root.join("file"), "Bytes").expect("written");
        assert_eq!(code(&root.join("file")), Err(Code::ContentMismatch));
        fs::write(root.join("file"), "").expect("written");
        assert_eq!(code(&root.join("file")), Err(Code::WrongLength));
        assert!(verify_publication(&root.join("file"), &manifest, &|_| ()).is_err());
    }
}
