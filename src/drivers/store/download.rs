//! [`Download`]: a content fetched in place, beside its destination, without a second copy.
//!
//! Until it is whole its data is `OUT.part`; what is remembered of it lies in the state folder under the destination's
//! path. A `.part` that this store did not make is never touched.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::engine::{Committed, Engine, PutOutcome, Stats};
use crate::drivers::store::error::{CREATE, CommitFailure, Error, ReadError};
use crate::drivers::store::files::{FileSet, Names, is_same};
use crate::drivers::store::folder::{Access, FileKind, Found, PRIVATE_FILE, PRIVATE_FOLDER, stamp_of};
use crate::drivers::store::place::{Job, Left, Place, umask};
use crate::drivers::store::pool::BlockBuf;
use crate::drivers::store::read::Progress;
use crate::drivers::store::record::{Claim, Record};
use crate::drivers::store::seeding::check_shape;
use crate::drivers::store::state_dir::StateDir;
use crate::drivers::store::threads::lock;
use crate::drivers::store::{Finished, PieceStore};

/// What to fetch, and where to.
pub struct DownloadOptions<'a> {
    /// Where the download is remembered.
    pub state: &'a StateDir,
    /// The destination: a file, or a folder for a manifest of several files. Its folder must be there.
    pub out: &'a Path,
    /// What is fetched.
    pub manifest: Manifest,
    /// The envelope's bytes, kept beside the data; empty where there is none.
    pub envelope: &'a [u8],
    /// Whether another thing at the destination is replaced, once the download is whole.
    pub force: bool,
}

/// What [`Download::open`] found.
pub enum Opened {
    /// Every byte is at the destination already.
    AlreadyThere,
    /// To be fetched; what an earlier run left counts as held.
    Ready(Box<Download>),
}

/// One content on its way to its destination. Synchronous; to be called from disk threads. Dropping it without
/// [`PieceStore::close`] is an unclean stop: legal, and it writes nothing.
pub struct Download {
    pub(crate) engine: Engine,
    place: Place,
    job: Job,
    force: bool,
}

/// What is at `OUT.part`, as far as the job's folder tells.
enum Part {
    /// Nothing.
    Absent,
    /// Ours, of the manifest that is asked for.
    Resumable(Option<Record>),
    /// Ours, of another manifest.
    Outdated,
}

impl Download {
    /// Begins a download, or takes up one that was interrupted. `progress` is told of long checks.
    ///
    /// # Errors
    /// [`Error::DestinationExists`] where the destination holds something else (unless `force`), or where a `.part`
    /// lies there that is not ours; [`Error::Locked`]; [`Error::NotEnoughSpace`] before anything is written;
    /// [`Error::CannotCreate`].
    pub fn open(options: DownloadOptions<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Opened, Error> {
        let DownloadOptions { state, out, manifest, envelope, force } = options;
        let place = Place::of(out)?;
        let job = Job::lock(state, &place.out)?;
        let claim = job.claim()?;
        if place.stat(&place.out_name)?.is_some() {
            if is_right(&place, &manifest, progress)? {
                forget_part(&place, &job, claim)?;
                return Ok(Opened::AlreadyThere);
            }
            if !force {
                job.remove_if_empty(&claim);
                let reason = "is not what the manifest describes";
                return Err(Error::DestinationExists { path: place.out, reason });
            }
        }
        let part = look_at_part(&place, &job, &claim, &manifest).inspect_err(|_| job.remove_if_empty(&claim))?;
        let opened = match part {
            Part::Resumable(record) => {
                if claim.whole().is_none() {
                    Claim::new(&place.out, &manifest, envelope).write(&job.folder)?;
                }
                Self::resume(place, job, manifest, record, force, progress)
            }
            Part::Absent => Self::create(place, job, manifest, envelope, force),
            Part::Outdated => {
                tracing::info!(path = %place.part().display(), "the partial data of another manifest is removed");
                remove_part(&place)?;
                Self::create(place, job, manifest, envelope, force)
            }
        };
        opened.map(|download| Opened::Ready(Box::new(download)))
    }

    /// Claim, data, record, in this order: whatever a crash leaves is known as ours.
    fn create(place: Place, job: Job, manifest: Manifest, envelope: &[u8], force: bool) -> Result<Self, Error> {
        job.clear()?;
        let made = Self::create_data(&place, &job, &manifest, envelope);
        match made {
            Ok(engine) => Ok(Self { engine, place, job, force }),
            Err((error, data_made)) => {
                if data_made {
                    // Nothing is in it yet; the error told is the one that matters.
                    let _ = remove_part(&place);
                }
                job.remove();
                Err(error)
            }
        }
    }

    /// On an error, also whether `OUT.part` was made.
    fn create_data(place: &Place, job: &Job, manifest: &Manifest, envelope: &[u8]) -> Result<Engine, (Error, bool)> {
        let before = |error| (error, false);
        let after = |error| (error, true);
        Claim::new(&place.out, manifest, envelope).write(&job.folder).map_err(before)?;
        let refuse = |source| Error::io(CREATE, place.part(), source);
        let single = if manifest.is_directory() {
            let made = place.parent.make_folder(&place.part_name, PRIVATE_FOLDER).map_err(refuse).map_err(before)?;
            if !made {
                return Err(before(foreign_part(place)));
            }
            None
        } else {
            match place.parent.open_file(&place.part_name, Access::Create(PRIVATE_FILE)) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    return Err(before(foreign_part(place)));
                }
                Err(error) => return Err(before(refuse(error))),
            }
        };
        let engine = Self::engine(place, job, manifest).map_err(after)?;
        engine.files.reserve(engine.missing_bytes()).map_err(after)?;
        if let Some(file) = single {
            engine.files.allocate(0, &file).map_err(after)?;
            file.sync_all().map_err(|source| after(Error::io("sync", place.part(), source)))?;
            engine.files.adopt(0, file).map_err(after)?;
        }
        place.parent.sync().map_err(|source| after(Error::io("sync the folder", place.parent.path(), source)))?;
        engine.write_first_record().map_err(after)?;
        Ok(engine)
    }

    fn resume(
        place: Place,
        job: Job,
        manifest: Manifest,
        record: Option<Record>,
        force: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let engine = Self::engine(&place, &job, &manifest)?;
        engine.restore(record, progress)?;
        engine.files.reserve(engine.missing_bytes())?;
        tracing::info!(path = %place.out.display(), held = engine.held().held_count(), "an interrupted download goes on");
        Ok(Self { engine, place, job, force })
    }

    fn engine(place: &Place, job: &Job, manifest: &Manifest) -> Result<Engine, Error> {
        let failed = |source| Error::io("open", place.part(), source);
        let found = place.stat(&place.part_name)?.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let (folder, names) = if manifest.is_directory() {
            (place.parent.open_below(&place.part_name).map_err(failed)?, Names::Paths)
        } else {
            (place.parent.reopen().map_err(failed)?, Names::One(place.part_name.clone()))
        };
        let files = FileSet::new(manifest.clone(), folder, names, true);
        let record = job.folder.reopen().map_err(|source| Error::io("open", job.folder.path(), source))?;
        Ok(Engine::new(manifest.clone(), files, Some(record), Some((found.stamp.device, found.stamp.inode))))
    }

    /// As [`PieceStore::put`], for bytes in any buffer.
    ///
    /// # Errors
    /// As there.
    pub fn put_bytes<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>) -> Result<PutOutcome, Error> {
        self.engine.put(block)
    }

    /// Has a file share the blocks of `copy`, where the file system can and nothing of the file is held yet. Whatever is
    /// in it then proves nothing: each block is to be read from the file that is returned, and goes to
    /// [`Download::adopt_bytes`]. `None`: to be copied (ioctl_ficlone(2)).
    ///
    /// # Errors
    /// The destination cannot be made or looked at.
    pub fn share_blocks(&self, file: u32, copy: &File) -> Result<Option<Arc<File>>, Error> {
        let files = &self.engine.files;
        let length = files.entry(file)?.length;
        let stamp = stamp_of(copy).map_err(|source| Error::io("examine the copy of", files.path(file), source))?;
        if length == 0 || stamp.size != length {
            return Ok(None);
        }
        let open = files.open_or_create(file)?;
        Ok(rustix::fs::ioctl_ficlone(&*open, copy).is_ok().then_some(open))
    }

    /// As [`Download::put_bytes`], for a block that was read from its place in the destination: nothing is written.
    ///
    /// # Errors
    /// As there.
    pub fn adopt_bytes<B: AsRef<[u8]>>(&self, block: &VerifiedBlock<B>) -> Result<PutOutcome, Error> {
        self.engine.adopt(block)
    }

    /// The destination, absolute.
    pub fn out(&self) -> &Path {
        &self.place.out
    }

    /// Gives the download up: its partial data and what is remembered of it are removed.
    ///
    /// # Errors
    /// [`Error::Io`] and its like.
    pub fn discard(self) -> Result<(), Error> {
        let _commits = lock(&self.engine.commits);
        self.engine.files.close();
        if !lock(&self.engine.inner).finished {
            remove_part(&self.place)?;
            self.job.remove();
        }
        Ok(())
    }

    /// What the last rename needs: empty files, exact lengths, the modes that other programs expect.
    fn prepare(&self) -> Result<(), Error> {
        let manifest = &self.engine.manifest;
        for (file, entry) in (0u32..).zip(manifest.files()) {
            if entry.length == 0 && manifest.is_directory() {
                let open = self.engine.files.open_or_create(file)?;
                open.set_len(0).map_err(|source| Error::io("empty", self.engine.files.path(file), source))?;
                lock(&self.engine.inner).dirty.add(file, &open);
            }
        }
        let failed = |source| Error::io("set the mode of", self.place.part(), source);
        if manifest.is_directory() {
            let mode = std::fs::Permissions::from_mode(0o777 & !umask());
            return self.engine.files.folder().file().set_permissions(mode).map_err(failed);
        }
        let open = self.engine.files.open(0)?;
        let length = manifest.layout().total_bytes();
        let stamp = stamp_of(&open).map_err(failed)?;
        if stamp.size != length {
            open.set_len(length).map_err(|source| Error::io("extend", self.place.part(), source))?;
        }
        let executable = manifest.files().first().is_some_and(|entry| entry.executable);
        let wished = if executable { 0o777 } else { 0o666 };
        let mode = wished & !umask();
        open.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        open.sync_all().map_err(|source| Error::io("sync", self.place.part(), source))
    }

    /// Renames `OUT.part` into place; from here on the files are only read.
    fn rename(&self) -> Result<(), Error> {
        let Place { parent, out, out_name, part_name } = &self.place;
        let open = if self.engine.manifest.is_directory() { None } else { Some(self.engine.files.open(0)?) };
        let folder = self.engine.files.folder();
        let same = is_same(parent, part_name, open.as_deref().unwrap_or(folder.file()));
        if !same.map_err(|source| Error::io("examine", self.place.part(), source))? {
            return Err(foreign_part(&self.place));
        }
        let there = self.place.stat(out_name)?;
        let swap = self.force && there.is_some_and(|found| found.kind == FileKind::Folder || open.is_none());
        let renamed = if swap {
            parent.exchange(part_name, out_name)
        } else {
            parent.rename(part_name, out_name, self.force && there.is_some())
        };
        renamed.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::DestinationExists { path: out.clone(), reason: "came to be during the download" }
            }
            _ => Error::io("rename into place", out, source),
        })?;
        self.engine.files.settle(parent, out_name);
        let mut inner = lock(&self.engine.inner);
        (inner.finished, inner.settled) = (true, true);
        drop(inner);
        if swap && let Err(error) = parent.remove_all(part_name) {
            tracing::warn!(path = %self.place.part().display(), %error, "what was replaced could not be removed");
        }
        Ok(())
    }
}

impl PieceStore for Download {
    fn manifest(&self) -> &Manifest {
        &self.engine.manifest
    }

    fn held(&self) -> Bitfield {
        self.engine.held()
    }

    fn partial(&self) -> Vec<(PieceIndex, Vec<BlockIndex>)> {
        self.engine.partial()
    }

    fn put(&self, block: VerifiedBlock<BlockBuf>) -> Result<PutOutcome, Error> {
        self.engine.put(&block)
    }

    fn read(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.engine.read(piece, block, from, buffer)
    }

    fn read_cached(&self, piece: PieceIndex, block: BlockIndex, from: u64, buffer: &mut [u8]) -> bool {
        self.engine.read_cached(piece, block, from, buffer)
    }

    fn piece_proof(&self, piece: PieceIndex) -> Result<Arc<[[u8; 32]]>, ReadError> {
        self.engine.piece_proof(piece)
    }

    fn check(&self, piece: PieceIndex) -> Result<u64, ReadError> {
        self.engine.check(piece)
    }

    fn commit_due(&self) -> bool {
        self.engine.commit_due()
    }

    fn commit(&self) -> Result<Committed, CommitFailure> {
        self.engine.commit()
    }

    fn finish(&self) -> Result<Finished, CommitFailure> {
        let _commits = lock(&self.engine.commits);
        if !lock(&self.engine.inner).finished {
            let missing = self.engine.held().iter_missing().count();
            if missing > 0 {
                let missing = u32::try_from(missing).unwrap_or(u32::MAX);
                return Err(Error::Incomplete { path: self.place.out.clone(), missing }.into());
            }
            let lost = self.engine.check_rest(&mut |_| {});
            if !lost.is_empty() {
                return Ok(Finished::Lost(lost));
            }
            // Its sync of the mode tells of the data too: a failure there is one of the whole batch.
            if let Err(error) = self.prepare() {
                let lost = self.engine.recover(Vec::new());
                return Err(CommitFailure { error: Box::new(error), lost });
            }
            self.engine.commit_held(false)?;
            self.rename()?;
        }
        let parent = &self.place.parent;
        parent.sync().map_err(|source| Error::io("sync the folder", parent.path(), source))?;
        self.job.remove();
        Ok(Finished::InPlace)
    }

    fn close(&self) -> Result<(), CommitFailure> {
        self.engine.close()
    }

    fn stats(&self) -> Stats {
        self.engine.stats()
    }
}

/// Whether the destination holds every byte of the manifest already.
fn is_right(place: &Place, manifest: &Manifest, progress: &mut dyn FnMut(Progress)) -> Result<bool, Error> {
    let failed = |source| Error::io("open", &place.out, source);
    let (folder, names) = if manifest.is_directory() {
        match place.parent.open_below(&place.out_name) {
            Ok(folder) => (folder, Names::Paths),
            Err(_) => return Ok(false),
        }
    } else {
        (place.parent.reopen().map_err(failed)?, Names::One(place.out_name.clone()))
    };
    let engine = Engine::new(manifest.clone(), FileSet::new(manifest.clone(), folder, names, false), None, None);
    match check_shape(&engine.files, manifest) {
        Ok(()) => Ok(engine.is_all_right(progress)),
        Err(Error::Missing { .. } | Error::WrongLength { .. } | Error::WrongKind { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a `.part` is ours, and of what use.
fn look_at_part(place: &Place, job: &Job, claim: &Left<Claim>, manifest: &Manifest) -> Result<Part, Error> {
    let Some(found) = place.stat(&place.part_name)? else { return Ok(Part::Absent) };
    let record = job.record()?;
    // Either of the two files says whose it is; the record alone does so by the inode.
    let manifest_id = match (claim, &record) {
        (Left::Whole(claim), _) => claim.manifest_id(),
        (Left::Unreadable, Left::Whole(record)) => record.manifest_id(),
        _ => return Err(foreign_part(place)),
    };
    if !is_ours(&found, &record) {
        return Err(foreign_part(place));
    }
    let expected = if manifest.is_directory() { FileKind::Folder } else { FileKind::File };
    if manifest_id == manifest.id() && found.kind == expected {
        return Ok(Part::Resumable(record.whole()));
    }
    Ok(Part::Outdated)
}

/// By its inode where a record tells it, else by its looks: the claim alone says that one was about to be made here.
fn is_ours(found: &Found, record: &Left<Record>) -> bool {
    let plain = match found.kind {
        FileKind::File => found.links == 1,
        FileKind::Folder => true,
        FileKind::Link | FileKind::Other => false,
    };
    let owned = found.owner == rustix::process::geteuid().as_raw();
    let same = match record {
        Left::Whole(record) => record.root == Some((found.stamp.device, found.stamp.inode)),
        Left::Nothing | Left::Unreadable => true,
    };
    plain && owned && same
}

fn foreign_part(place: &Place) -> Error {
    Error::DestinationExists { path: place.part(), reason: "was not made by this download" }
}

/// The destination is right: what an interrupted run left of it is of no use any more.
fn forget_part(place: &Place, job: &Job, claim: Left<Claim>) -> Result<(), Error> {
    if let (Some(found), Left::Whole(_)) = (place.stat(&place.part_name)?, claim) {
        let record = job.record()?;
        if matches!(record, Left::Whole(_)) && is_ours(&found, &record) {
            remove_part(place)?;
        } else {
            tracing::warn!(path = %place.part().display(), "left alone: not made by this download");
        }
    }
    job.remove();
    Ok(())
}

fn remove_part(place: &Place) -> Result<(), Error> {
    place.parent.remove_all(&place.part_name).map_err(|source| Error::io("remove", place.part(), source))
}
