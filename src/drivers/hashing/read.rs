//! From a file to its hashes in one read.
//!
//! SHA-256 cannot be divided, and is the slowest step: so one thread does nothing else, while another reads and hashes
//! BLAKE3 ahead of it. With many files each file is one thread's work instead, which leaves no core idle.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::fs::OFlags;
use sha2::Digest;

use crate::content::hash::Sha256;
use crate::content::layout::{BLOCK_BYTES, BlockIndex, ByteRange, PieceIndex, PieceLayout};
use crate::content::tree::{FileHashes, TreeHasher, blocks, hash_block};
use crate::drivers::hashing::error::Error;
use crate::drivers::hashing::tree::check_plain;

/// Buffers between the two threads of one file, each of one block: enough to ride out a slow read, few enough to stay in
/// the cache that both cores share.
const BUFFERS: usize = 12;
/// Files up to this length are not worth a second thread.
const ONE_THREAD_BYTES_MAX: u64 = 4 * BLOCK_BYTES;
/// Most threads over many files: past this the disk is what is waited for.
const THREADS_MAX: usize = 32;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Bytes.
    pub length: u64,
    /// BLAKE3 root and piece hashes.
    pub hashes: FileHashes,
    /// SHA-256 of the whole.
    pub sha256: Sha256,
    /// The owner may execute it.
    pub executable: bool,
}

/// Told of bytes as they are hashed; the sum over a file is its length.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Reads and hashes one file, on two threads where it is long. A symbolic link is not followed.
///
/// # Errors
/// [`Error`]; [`Error::Changed`] where the file is not the same at the end as at the start.
pub fn hash_file(path: &Path, progress: Progress<'_>) -> Result<FileDigest, Error> {
    let job = Job::open(path)?;
    let one = job.layout.length() <= ONE_THREAD_BYTES_MAX || cores() == 1;
    if one { job.on_one_thread(progress) } else { job.on_two_threads(progress) }
}

/// Reads and hashes many files on all cores; the results are in the order of `paths`.
///
/// # Errors
/// As [`hash_file`], for the first file that failed; the others are left then.
pub fn hash_files<P: AsRef<Path> + Sync>(paths: &[P], progress: Progress<'_>) -> Result<Vec<FileDigest>, Error> {
    let found = Mutex::new((vec![None; paths.len()], None));
    hash_each(paths, progress, &|index, result| {
        let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match result {
            Ok(digest) => {
                if let Some(place) = found.0.get_mut(index) {
                    *place = Some(digest);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                found.1.get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    })?;
    let (digests, failed) = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match failed {
        Some(error) => Err(error),
        None => Ok(digests.into_iter().flatten().collect()),
    }
}

/// Reads and hashes many files on all cores and tells each result with its index as it comes, from any thread; no file
/// is begun after an answer of `Break`.
///
/// # Errors
/// [`Error::Thread`] where no thread can be had; what is wrong with a file goes to `tell`.
pub fn hash_each<P: AsRef<Path> + Sync>(
    paths: &[P],
    progress: Progress<'_>,
    tell: &(dyn Fn(usize, Result<FileDigest, Error>) -> ControlFlow<()> + Sync),
) -> Result<(), Error> {
    let length = |path: &P| fs::symlink_metadata(path.as_ref()).map_or(0, |metadata| metadata.len());
    let lengths: Vec<u64> = paths.iter().map(length).collect();
    let total = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
    // A file with more than its share of the bytes would keep one thread busy when all others are done: it gets two,
    // and goes first.
    let share = total / u64::try_from(cores()).unwrap_or(1).max(1);
    let mut small = Vec::new();
    for (index, (path, length)) in paths.iter().zip(&lengths).enumerate() {
        if *length <= share.max(ONE_THREAD_BYTES_MAX) {
            small.push((*length, index, path.as_ref()));
        } else if tell(index, hash_file(path.as_ref(), progress)).is_break() {
            return Ok(());
        }
    }
    // Longest first, so that the threads end together.
    small.sort_by_key(|(length, index, _)| (std::cmp::Reverse(*length), *index));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some((_, index, path)) = small.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let result = Job::open(path).and_then(|job| job.on_one_thread(progress));
            if tell(*index, result).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let helpers = cores().min(THREADS_MAX).min(small.len()).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            thread::Builder::new()
                .name("hash".to_owned())
                .spawn_scoped(scope, work)
                .map_err(|source| Error::Thread { source })?;
        }
        work();
        Ok(())
    })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// One open file, as it was when it was opened.
struct Job {
    path: PathBuf,
    file: File,
    before: Metadata,
    layout: PieceLayout,
}

/// A block on its way: its bytes, and what it is called.
type Block = (PieceIndex, BlockIndex, ByteRange);

impl Job {
    fn open(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_path_buf(), source };
        // NONBLOCK: opening a pipe would wait for a writer. It means nothing to a regular file.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => {
                if let Ok(metadata) = fs::symlink_metadata(path) {
                    check_plain(path, &metadata)?;
                }
                return Err(read(source));
            }
        };
        let before = file.metadata().map_err(read)?;
        check_plain(path, &before)?;
        let layout = PieceLayout::new(before.len());
        let layout = layout.map_err(|source| Error::TooLong { path: path.to_path_buf(), source })?;
        // Advice only: where it is not taken, nothing is lost but speed.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { path: path.to_path_buf(), file, before, layout })
    }

    /// Fills the buffer with the next block.
    fn read_block(&self, range: ByteRange, buffer: &mut Vec<u8>) -> Result<(), Error> {
        // A block is 1 MiB at most.
        buffer.resize(usize::try_from(range.length).unwrap_or(usize::MAX), 0);
        (&self.file).read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => Error::Read { path: self.path.clone(), source },
        })
    }

    fn hash_block(&self, tree: &mut TreeHasher, (piece, block, _): Block, buffer: &[u8]) -> Result<(), Error> {
        let hash = hash_block(&self.layout, piece, block, buffer);
        let pushed = hash.is_some_and(|hash| tree.push(hash));
        if pushed { Ok(()) } else { Err(self.changed()) }
    }

    fn on_one_thread(&self, progress: Progress<'_>) -> Result<FileDigest, Error> {
        let (mut tree, mut sha256) = (TreeHasher::new(self.layout), sha2::Sha256::new());
        let mut buffer = Vec::new();
        for block in blocks(&self.layout) {
            self.read_block(block.2, &mut buffer)?;
            self.hash_block(&mut tree, block, &buffer)?;
            sha256.update(&buffer);
            progress(block.2.length);
        }
        self.finish(tree, sha256)
    }

    fn on_two_threads(&self, progress: Progress<'_>) -> Result<FileDigest, Error> {
        let (full_to, full) = channel::<Vec<u8>>();
        let (empty_to, empty) = channel::<Vec<u8>>();
        for _ in 0..BUFFERS {
            // The receiver lives in this very function.
            let _ = empty_to.send(Vec::new());
        }
        thread::scope(|scope| {
            let hash = move || {
                let mut sha256 = sha2::Sha256::new();
                for buffer in full {
                    sha256.update(&buffer);
                    progress(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
                    // The reader may have ended already.
                    let _ = empty_to.send(buffer);
                }
                sha256
            };
            let hasher = thread::Builder::new().name("sha256".to_owned()).spawn_scoped(scope, hash);
            let hasher = hasher.map_err(|source| Error::Thread { source })?;
            // Ends by dropping `full_to`, whatever happens, and with it the other thread.
            let tree = self.read_ahead(full_to, &empty)?;
            let sha256 = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.finish(tree, sha256)
        })
    }

    fn read_ahead(&self, full_to: Sender<Vec<u8>>, empty: &Receiver<Vec<u8>>) -> Result<TreeHasher, Error> {
        let mut tree = TreeHasher::new(self.layout);
        for block in blocks(&self.layout) {
            // Disconnected only if the other thread panicked; joining it tells.
            let Ok(mut buffer) = empty.recv() else { break };
            self.read_block(block.2, &mut buffer)?;
            self.hash_block(&mut tree, block, &buffer)?;
            let _ = full_to.send(buffer);
        }
        Ok(tree)
    }

    /// The digest, if the file is still what it was: same length and time, and still the one of this name.
    fn finish(&self, tree: TreeHasher, sha256: sha2::Sha256) -> Result<FileDigest, Error> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let after = self.file.metadata().map_err(read)?;
        let named = fs::symlink_metadata(&self.path).map_err(|_| self.changed())?;
        let state = |metadata: &Metadata| {
            (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
        };
        if state(&after) != state(&self.before) || state(&named) != state(&self.before) {
            return Err(self.changed());
        }
        Ok(FileDigest {
            length: self.layout.length(),
            hashes: tree.finish().ok_or_else(|| self.changed())?,
            sha256: Sha256::new(sha256.finalize().into()),
            executable: self.before.mode() & 0o100 != 0,
        })
    }

    fn changed(&self) -> Error {
        Error::Changed { path: self.path.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
    }

    fn check(digest: &FileDigest, bytes: &[u8]) {
        assert_eq!(digest.hashes.content_id.as_bytes(), blake3::hash(bytes).as_bytes());
        assert_eq!(digest.sha256.as_bytes()[..], sha2::Sha256::digest(bytes)[..]);
        assert_eq!(digest.length, bytes.len() as u64);
        assert_eq!(digest.hashes.piece_hashes.len(), bytes.len().div_ceil(1 << 20) * 32);
    }

    #[test]
    fn both_ways_give_what_the_plain_hashes_give() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut paths = Vec::new();
        let lengths = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20, (9 << 20) + 7];
        for length in lengths {
            let path = folder.path().join(length.to_string());
            fs::write(&path, bytes(length)).expect("written");
            let told = AtomicU64::new(0);
            let progress = |more| _ = told.fetch_add(more, Ordering::Relaxed);
            let job = Job::open(&path).expect("there");
            check(&job.on_two_threads(&progress).expect("unchanged"), &bytes(length));
            assert_eq!(told.into_inner(), length as u64);
            let job = Job::open(&path).expect("there");
            check(&job.on_one_thread(&|_| ()).expect("unchanged"), &bytes(length));
            paths.push(path);
        }
        let told = AtomicU64::new(0);
        let digests = hash_files(&paths, &|more| _ = told.fetch_add(more, Ordering::Relaxed)).expect("all there");
        digests.iter().zip(lengths).for_each(|(digest, length)| check(digest, &bytes(length)));
        assert_eq!(told.into_inner(), lengths.iter().sum::<usize>() as u64);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("grows", |path| fs::write(path, bytes((6 << 20) + 1)).expect("written")),
            ("shrinks", |path| fs::write(path, b"short").expect("written")),
            ("is replaced", |path| {
                let other = path.with_extension("other");
                fs::write(&other, bytes(6 << 20)).expect("written");
                fs::rename(other, path).expect("renamed");
            }),
            ("goes", |path| fs::remove_file(path).expect("ours")),
        ];
        for (what, change) in changes {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("file");
            fs::write(&path, bytes(6 << 20)).expect("written");
            let job = Job::open(&path).expect("there");
            let once = AtomicBool::new(false);
            let result = job.on_one_thread(&|_| {
                if !once.swap(true, Ordering::Relaxed) {
                    change(&path);
                }
            });
            assert!(matches!(result, Err(Error::Changed { .. })), "{what}: {result:?}");
        }
    }

    #[test]
    fn the_first_failure_is_told_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [file, missing, link] = ["file", "missing", "link"].map(|name| folder.path().join(name));
        fs::write(&file, b"x").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("made");
        assert!(matches!(hash_files(&[&file, &missing], &|_| ()), Err(Error::Read { .. })));
        assert!(matches!(hash_file(&link, &|_| ()), Err(Error::Special { kind: "symbolic link", .. })));
        assert!(matches!(hash_file(folder.path(), &|_| ()), Err(Error::Special { kind: "folder", .. })));
        let told = Mutex::new(Vec::new());
        hash_each(&[&file, &missing, &file], &|_| (), &|index, result| {
            told.lock().expect("no panic").push((index, result.is_ok()));
            ControlFlow::Continue(())
        })
        .expect("threads");
        let mut told = told.into_inner().expect("no panic");
        told.sort_unstable();
        assert_eq!(told, [(0, true), (1, false), (2, true)]);
    }
}
