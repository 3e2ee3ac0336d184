//! [`StateDir`]: what one instance remembers between runs: its lock, its identity, the highest sequence of each name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::drivers::store::error::{CREATE, Error};
use crate::drivers::store::folder::{Access, Folder, PRIVATE_FILE, PRIVATE_FOLDER};
use crate::drivers::store::limits::{NAME_BYTES_MAX, NAMES_MAX, STATE_BYTES_MAX};
use crate::drivers::store::sealed::{Broken, Kind, seal, unseal};

const IDENTITY: Kind = Kind { magic: *b"PWIDENT\n", version: 1 };
const SEQUENCES: Kind = Kind { magic: *b"PWSEQNO\n", version: 1 };
/// Written in this order; each holds all that is known, so that one torn write never costs a name's sequence.
const SEQUENCE_FILES: [&str; 2] = ["sequences.a", "sequences.b"];
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// A state folder (`--state`), private to its owner.
#[derive(Debug)]
pub struct StateDir {
    folder: Folder,
}

/// Held for as long as a `node` or `seed` runs.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

#[derive(Encode, Decode)]
struct Identity {
    seed: [u8; 32],
    /// Hash of the machine id it was made on; a cloned image gets a key of its own.
    machine: [u8; 32],
}

#[derive(Default, Encode, Decode)]
struct Sequences {
    generation: u64,
    highest: BTreeMap<String, u64>,
}

/// Makes a folder and those above it (0700) where they are missing.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_FOLDER).create(path).map_err(|source| Error::io(CREATE, path, source))
}

/// Opens a folder that only this user may write to; [`Error::UnsafeState`] otherwise, [`Error::Missing`] where it is not
/// there.
pub(crate) fn open_private(path: &Path) -> Result<Folder, Error> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path: path.to_owned() }),
        Ok(metadata) if !metadata.is_dir() => {
            return Err(Error::WrongKind { path: path.to_owned(), expected: "a folder", found: "no folder" });
        }
        _ => {}
    }
    let folder = Folder::open(path)?;
    let metadata = folder.file().metadata().map_err(|source| Error::io("examine", path, source))?;
    let refuse = |reason| Err(Error::UnsafeState { path: path.to_owned(), reason });
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse("can be written by others than its owner");
    }
    Ok(folder)
}

impl StateDir {
    /// Opens a state folder, made (0700) if missing.
    ///
    /// # Errors
    /// [`Error::UnsafeState`] for a folder of another user, or one that group or others may write.
    pub fn open(path: &Path) -> Result<Self, Error> {
        make_private(path)?;
        Self::open_existing(path)
    }

    /// Opens a state folder that must be there.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::UnsafeState`].
    pub fn open_existing(path: &Path) -> Result<Self, Error> {
        let absolute = std::path::absolute(path).map_err(|source| Error::io("resolve", path, source))?;
        Ok(Self { folder: open_private(&absolute)? })
    }

    /// Where it lies, absolute.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Whether a mark of this name was left; a mark is an empty file.
    pub fn has_mark(&self, name: &str) -> bool {
        matches!(self.folder.stat(Path::new(name)), Ok(Some(_)))
    }

    /// Leaves a mark, or takes it away.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn set_mark(&self, name: &str, there: bool) -> Result<(), Error> {
        let name = Path::new(name);
        if there {
            return self.folder.replace(name, b"");
        }
        self.folder.remove_file(name).map_err(|source| Error::io("remove", self.path().join(name), source))
    }

    /// Takes the instance's lock; `None` where another process holds it. Released when dropped, and by any end of the
    /// process.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn try_lock(&self) -> Result<Option<StateLock>, Error> {
        let file = self.open_lock("lock")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StateLock { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", self.path().join("lock"), errno)),
        }
    }

    /// As [`StateDir::try_lock`], with a taken lock as an error.
    ///
    /// # Errors
    /// [`Error::Locked`] too.
    pub fn lock(&self) -> Result<StateLock, Error> {
        self.try_lock()?.ok_or_else(|| Error::Locked { path: self.path().to_owned() })
    }

    pub(crate) fn open_lock(&self, name: &str) -> Result<File, Error> {
        let name = Path::new(name);
        let refuse = |source| Error::io("open", self.path().join(name), source);
        match self.folder.open_file(name, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(refuse),
        }
        match self.folder.open_file(name, Access::Create(PRIVATE_FILE)) {
            // Another process made it in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.folder.open_file(name, Access::ReadWrite).map_err(refuse)
            }
            other => other.map_err(|source| Error::io(CREATE, self.path().join(name), source)),
        }
    }

    /// The instance's Ed25519 seed, made at first use, and anew on another machine (a cloned image) or where the file
    /// is damaged: an identity is nothing that others rely on.
    ///
    /// # Errors
    /// [`Error::NoEntropy`], [`Error::Io`] and its like.
    pub fn identity(&self, _lock: &StateLock) -> Result<[u8; 32], Error> {
        let name = Path::new("identity");
        let machine = machine_hash();
        let read = self.folder.read(name, STATE_BYTES_MAX).map_err(|source| self.failed("read", name, source))?;
        match read.as_deref().map(|bytes| unseal::<Identity>(IDENTITY, bytes)) {
            Some(Ok(known)) if known.machine == machine => return Ok(known.seed),
            Some(Ok(_)) => tracing::warn!("the identity was made on another machine; a new one is made"),
            Some(Err(reason)) => tracing::warn!(%reason, "the identity file is damaged; a new one is made"),
            None => {}
        }
        let seed = fresh_identity()?;
        let bytes = seal(IDENTITY, &Identity { seed, machine }).map_err(|reason| self.broken(name, reason))?;
        self.folder.replace(name, &bytes)?;
        Ok(seed)
    }

    /// The highest sequence seen of a publication name; `None`: never seen.
    ///
    /// # Errors
    /// [`Error::Damaged`] where both copies are unreadable: taking any sequence then would be a rollback.
    pub fn highest_sequence(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.read_sequences()?.0.highest.get(name).copied())
    }

    /// Remembers a sequence durably, unless a higher one is known already; returns the highest. Several processes may
    /// do so at once.
    ///
    /// # Errors
    /// As [`StateDir::highest_sequence`]; what was known stays known.
    pub fn raise_sequence(&self, name: &str, sequence: u64) -> Result<u64, Error> {
        let lock = self.open_lock("sequences.lock")?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|errno| self.failed("lock", Path::new("sequences.lock"), errno.into()))?;
        let (mut known, whole) = self.read_sequences()?;
        let highest = known.highest.get(name).copied();
        if let Some(highest) = highest.filter(|highest| *highest >= sequence && whole) {
            return Ok(highest);
        }
        let full = highest.is_none() && known.highest.len() >= NAMES_MAX;
        if full || name.len() > NAME_BYTES_MAX {
            let reason = format!("at most {NAMES_MAX} names of {NAME_BYTES_MAX} bytes are remembered");
            return Err(Error::Damaged { path: self.path().join(SEQUENCE_FILES[0]), reason });
        }
        let raised = highest.unwrap_or(0).max(sequence);
        known.highest.insert(name.to_owned(), raised);
        known.generation = known.generation.saturating_add(1);
        for file in SEQUENCE_FILES.map(Path::new) {
            let bytes = seal(SEQUENCES, &known).map_err(|reason| self.broken(file, reason))?;
            self.folder.replace(file, &bytes)?;
        }
        Ok(raised)
    }

    /// What is known, and whether both copies say it.
    fn read_sequences(&self) -> Result<(Sequences, bool), Error> {
        let mut copies: Vec<Sequences> = Vec::new();
        let mut damage = None;
        for name in SEQUENCE_FILES.map(Path::new) {
            match self.folder.read(name, STATE_BYTES_MAX) {
                Ok(None) => {}
                Ok(Some(bytes)) => match unseal::<Sequences>(SEQUENCES, &bytes) {
                    Ok(copy) => copies.push(copy),
                    Err(reason) => damage = Some((name, reason.to_string())),
                },
                Err(error) => damage = Some((name, error.to_string())),
            }
        }
        let same = matches!(copies.as_slice(), [one, two] if one.generation == two.generation);
        copies.sort_by_key(|copy| copy.generation);
        match (copies.pop(), damage) {
            (Some(newest), damage) => {
                if let Some((name, reason)) = damage {
                    tracing::warn!(file = %name.display(), reason, "one copy of the sequences is damaged; the other is used");
                }
                Ok((newest, same))
            }
            (None, Some((name, reason))) => Err(Error::Damaged { path: self.path().join(name), reason }),
            (None, None) => Ok((Sequences::default(), false)),
        }
    }

    fn failed(&self, doing: &'static str, name: &Path, source: io::Error) -> Error {
        Error::io(doing, self.path().join(name), source)
    }

    fn broken(&self, name: &Path, reason: Broken) -> Error {
        Error::Damaged { path: self.path().join(name), reason: reason.to_string() }
    }

    /// Whether the file of an offline check is right; `Err` with the words for people.
    pub(crate) fn check_sequences(&self) -> Result<Option<String>, String> {
        let (known, whole) = self.read_sequences().map_err(|error| error.to_string())?;
        let one_sided = !whole && known.generation > 0;
        Ok(one_sided.then(|| "one copy of the sequences is old or damaged; the next publication mends it".to_owned()))
    }
}

/// 32 random bytes for an identity that lives as long as its process.
///
/// # Errors
/// [`Error::NoEntropy`].
pub fn fresh_identity() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::NoEntropy(error.to_string()))?;
    Ok(seed)
}

/// Hash of the machine id; of nothing where the system has none.
fn machine_hash() -> [u8; 32] {
    let read = |path: &str| -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(PathBuf::from(path)).ok()?.take(256).read_to_end(&mut bytes).ok()?;
        Some(bytes.trim_ascii().to_vec()).filter(|id| !id.is_empty())
    };
    let id = MACHINE_ID_FILES.into_iter().find_map(read).unwrap_or_default();
    blake3::derive_key("piecework machine binding v1", &id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let place = tempfile::tempdir().expect("folder");
        let state = StateDir::open(&place.path().join("deep/state")).expect("made");
        (place, state)
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let (_place, state) = state();
        let path = state.path().to_owned();
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770)).expect("changed");
        assert!(matches!(StateDir::open(&path), Err(Error::UnsafeState { .. })));
        assert!(matches!(StateDir::open_existing(&path.join("none")), Err(Error::Missing { .. })));
    }

    #[test]
    fn one_lock_at_a_time_and_one_identity_a_machine() {
        let (_place, state) = state();
        let lock = state.lock().expect("free");
        assert!(matches!(state.lock(), Err(Error::Locked { .. })));
        let seed = state.identity(&lock).expect("made");
        assert_eq!(state.identity(&lock).expect("kept"), seed);
        let file = state.path().join("identity");
        assert_eq!(std::fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        let elsewhere = seal(IDENTITY, &Identity { seed, machine: [9; 32] }).expect("encodes");
        std::fs::write(&file, elsewhere).expect("written");
        let other = state.identity(&lock).expect("made anew");
        assert_ne!(other, seed);
        std::fs::write(&file, b"torn").expect("written");
        assert_ne!(state.identity(&lock).expect("made anew"), other);
        drop(lock);
        assert!(state.try_lock().expect("asked").is_some());
    }

    #[test]
    fn a_sequence_never_falls_whatever_one_file_suffers() {
        let (_place, state) = state();
        assert_eq!(state.highest_sequence("a/b").expect("none"), None);
        assert_eq!(state.raise_sequence("a/b", 5).expect("kept"), 5);
        assert_eq!(state.raise_sequence("a/b", 3).expect("kept"), 5);
        assert_eq!(state.raise_sequence("c", 0).expect("kept"), 0);
        let paths = SEQUENCE_FILES.map(|name| state.path().join(name));
        for damaged in &paths {
            let whole = std::fs::read(damaged).expect("there");
            for end in 0..whole.len() {
                std::fs::write(damaged, &whole[..end]).expect("torn");
                assert_eq!(state.highest_sequence("a/b").expect("the other copy"), Some(5));
            }
            assert_eq!(state.raise_sequence("a/b", 5).expect("mended"), 5);
            assert_eq!(state.check_sequences(), Ok(None));
        }
        for path in &paths {
            std::fs::write(path, b"").expect("zeroed");
        }
        assert!(matches!(state.highest_sequence("a/b"), Err(Error::Damaged { .. })));
        assert!(matches!(state.raise_sequence("a/b", 9), Err(Error::Damaged { .. })));
    }
}
