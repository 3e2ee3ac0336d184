//! The two small files beside a content's data: the claim (whose data it is) and the record (which pieces are durable).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};

use crate::content::bitfield::Bitfield;
use crate::content::envelope::Envelope;
use crate::content::hash::{ContentId, ManifestId};
use crate::content::layout::PieceIndex;
use crate::content::manifest::{Manifest, content_ids};
use crate::drivers::store::error::{CommitFailure, Error};
use crate::drivers::store::folder::{Folder, Stamp};
use crate::drivers::store::limits::{CLAIM_BYTES_MAX, STATE_BYTES_MAX};
use crate::drivers::store::sealed::{Broken, HEAD_BYTES, Kind, frame, seal, unseal};

const CLAIM: Kind = Kind { magic: *b"PWCLAIM\n", version: 1 };
const RECORD: Kind = Kind { magic: *b"PWSTATE\n", version: 1 };

/// Name of the claim.
pub(crate) const CLAIM_FILE: &str = "manifest";
/// Name of the record.
pub(crate) const RECORD_FILE: &str = "state";

/// Written once, before any data exists: what is fetched, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Claim {
    manifest: [u8; 32],
    /// Absolute path of the destination; empty in a cache.
    out: Vec<u8>,
    body: ClaimBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum ClaimBody {
    Envelope(Vec<u8>),
    Payload(Vec<u8>),
    Bare {
        content: [u8; 32],
        length: u64,
        piece_hashes: Vec<u8>,
    },
    /// The same, with the envelope that a peer gave, to be passed on to others.
    BareFrom {
        content: [u8; 32],
        length: u64,
        piece_hashes: Vec<u8>,
        envelope: Vec<u8>,
    },
}

impl Claim {
    /// What is to be fetched to `out`. An envelope that holds the manifest is kept, so that signatures travel on.
    pub fn new(out: &Path, manifest: &Manifest, envelope: &[u8]) -> Self {
        let signed = Envelope::decode(envelope).is_ok_and(|envelope| envelope.payload() == manifest.payload());
        let body = match manifest.files() {
            _ if signed => ClaimBody::Envelope(envelope.to_vec()),
            [only] if manifest.is_bare() => {
                let (content, length) = (*only.content_id.as_bytes(), only.length);
                let piece_hashes = only.piece_hashes().to_vec();
                match envelope {
                    [] => ClaimBody::Bare { content, length, piece_hashes },
                    _ => ClaimBody::BareFrom { content, length, piece_hashes, envelope: envelope.to_vec() },
                }
            }
            _ => ClaimBody::Payload(manifest.payload().to_vec()),
        };
        Self { manifest: *manifest.id().as_bytes(), out: out.as_os_str().as_bytes().to_vec(), body }
    }

    pub fn manifest_id(&self) -> ManifestId {
        ManifestId::new(self.manifest)
    }

    pub fn out(&self) -> PathBuf {
        OsString::from_vec(self.out.clone()).into()
    }

    /// The envelope's bytes; empty where the manifest came without.
    pub fn envelope(&self) -> &[u8] {
        match &self.body {
            ClaimBody::Envelope(bytes) | ClaimBody::BareFrom { envelope: bytes, .. } => bytes,
            ClaimBody::Payload(_) | ClaimBody::Bare { .. } => &[],
        }
    }

    /// The manifest, checked as if it had just arrived.
    pub fn read_manifest(&self) -> Result<Manifest, crate::content::error::Error> {
        match &self.body {
            ClaimBody::Envelope(bytes) => Manifest::decode_shared(Envelope::decode(bytes)?.payload().clone()),
            ClaimBody::Payload(payload) => Manifest::decode(payload),
            ClaimBody::Bare { content, length, piece_hashes }
            | ClaimBody::BareFrom { content, length, piece_hashes, .. } => {
                Manifest::bare(ContentId::new(*content), *length, piece_hashes)
            }
        }
    }

    /// The content ids of its files, read without a check of anything: enough to find out what to open.
    pub fn content_ids(&self) -> Vec<ContentId> {
        match &self.body {
            ClaimBody::Envelope(bytes) => {
                Envelope::decode(bytes).map(|envelope| content_ids(envelope.payload())).unwrap_or_default()
            }
            ClaimBody::Payload(payload) => content_ids(payload),
            ClaimBody::Bare { content, .. } | ClaimBody::BareFrom { content, .. } => vec![ContentId::new(*content)],
        }
    }

    pub fn write(&self, folder: &Folder) -> Result<(), Error> {
        let name = Path::new(CLAIM_FILE);
        let bytes = seal(CLAIM, self).map_err(|reason| broken(folder, name, &reason))?;
        folder.replace(name, &bytes)
    }

    /// `Ok(None)`: there is none. A damaged one is `Err(Ok(words))`, a failure of the disk `Err(Err(_))`.
    pub fn read(folder: &Folder) -> Result<Option<Self>, Result<String, Error>> {
        read(folder, CLAIM_FILE, CLAIM, CLAIM_BYTES_MAX)
    }
}

/// What is durable. Replaced whole by every commit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Record {
    manifest: [u8; 32],
    /// Rises with every commit.
    pub generation: u64,
    /// Whether nothing was written after this record until the store was closed.
    pub clean: bool,
    /// Device and inode of the data file, or of the folder that holds the files; none in a cache.
    pub root: Option<(u64, u64)>,
    piece_count: u32,
    /// Ones in `durable`: the books must close.
    durable_count: u32,
    /// Wire form of the bitfield.
    durable: Vec<u8>,
    /// Durable blocks of pieces that are not whole yet: piece, then block and its chaining value.
    pub started: BTreeMap<u32, Vec<(u32, [u8; 32])>>,
    /// Pieces of the last commit group: what an unclean stop makes doubtful.
    pub group: Vec<u32>,
    /// How the files looked after the sync, by their index in the manifest.
    pub stamps: BTreeMap<u32, StoredStamp>,
}

/// A [`Stamp`] on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct StoredStamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub seconds: i64,
    pub nanoseconds: i64,
}

impl From<Stamp> for StoredStamp {
    fn from(stamp: Stamp) -> Self {
        let Stamp { device, inode, size, seconds, nanoseconds } = stamp;
        Self { device, inode, size, seconds, nanoseconds }
    }
}

impl From<StoredStamp> for Stamp {
    fn from(stamp: StoredStamp) -> Self {
        let StoredStamp { device, inode, size, seconds, nanoseconds } = stamp;
        Self { device, inode, size, seconds, nanoseconds }
    }
}

impl Record {
    pub fn new(manifest: &Manifest, generation: u64, root: Option<(u64, u64)>, durable: &Bitfield) -> Self {
        Self {
            manifest: *manifest.id().as_bytes(),
            generation,
            clean: false,
            root,
            piece_count: durable.piece_count(),
            durable_count: durable.held_count(),
            durable: durable.to_bytes(),
            started: BTreeMap::new(),
            group: Vec::new(),
            stamps: BTreeMap::new(),
        }
    }

    pub fn manifest_id(&self) -> ManifestId {
        ManifestId::new(self.manifest)
    }

    /// The durable pieces, if the record is of this manifest and its books close.
    pub fn durable(&self, manifest: &Manifest) -> Result<Bitfield, String> {
        if self.manifest_id() != manifest.id() {
            return Err("it is of another manifest".to_owned());
        }
        let piece_count = manifest.layout().piece_count();
        let bits = Bitfield::from_bytes(piece_count, &self.durable).map_err(|error| error.to_string())?;
        if self.piece_count != piece_count || bits.held_count() != self.durable_count {
            return Err(format!(
                "it counts {} of {} pieces, its bits {}",
                self.durable_count,
                self.piece_count,
                bits.held_count()
            ));
        }
        let of_pieces = |piece: &u32| *piece < piece_count;
        let started_fit = self.started.iter().all(|(piece, blocks)| {
            let count = manifest.layout().block_count(PieceIndex(*piece)).unwrap_or(0);
            !bits.has(PieceIndex(*piece))
                && blocks.len() < count as usize
                && blocks.iter().all(|(block, _)| *block < count)
        });
        let file_count = manifest.files().len() as u64;
        let stamps_fit = self.stamps.keys().all(|file| u64::from(*file) < file_count);
        if !started_fit || !stamps_fit || !self.group.iter().all(of_pieces) {
            return Err("it names pieces, blocks or files that the manifest has not".to_owned());
        }
        Ok(bits)
    }

    pub fn write(&self, folder: &Folder) -> Result<(), Error> {
        let name = Path::new(RECORD_FILE);
        let bytes = seal(RECORD, self).map_err(|reason| broken(folder, name, &reason))?;
        folder.replace(name, &bytes)
    }

    /// As [`Claim::read`].
    pub fn read(folder: &Folder) -> Result<Option<Self>, Result<String, Error>> {
        read(folder, RECORD_FILE, RECORD, STATE_BYTES_MAX)
    }
}

/// For fuzz targets: reads bytes as both kinds of file, as they are and behind a hash that fits, as this program would
/// find them; without this, no fuzzer would ever get past the hash. Returns the manifest and the durable pieces that
/// were taken from them, where `manifest` is the one that they must belong to.
#[doc(hidden)]
pub fn probe(bytes: &[u8], manifest: &Manifest) -> (Option<Manifest>, Option<Bitfield>) {
    let claims = [bytes.to_vec(), frame(CLAIM, bytes)].map(|file| unseal::<Claim>(CLAIM, &file).ok());
    let records = [bytes.to_vec(), frame(RECORD, bytes)].map(|file| unseal::<Record>(RECORD, &file).ok());
    let claimed = claims.into_iter().flatten().find_map(|claim| claim.read_manifest().ok());
    (claimed, records.into_iter().flatten().find_map(|record| record.durable(manifest).ok()))
}

/// For fuzz targets: the bodies that [`probe`] takes for a download of this manifest with these pieces.
#[doc(hidden)]
pub fn probe_bodies(manifest: &Manifest, durable: &Bitfield) -> [Vec<u8>; 2] {
    let body =
        |sealed: Result<Vec<u8>, Broken>| sealed.map(|mut bytes| bytes.split_off(HEAD_BYTES)).unwrap_or_default();
    let claim = Claim::new(Path::new("/out"), manifest, &[]);
    [body(seal(CLAIM, &claim)), body(seal(RECORD, &Record::new(manifest, 1, None, durable)))]
}

fn read<T: Decode<()>>(
    folder: &Folder,
    name: &str,
    kind: Kind,
    max: usize,
) -> Result<Option<T>, Result<String, Error>> {
    match folder.read(Path::new(name), max) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => unseal(kind, &bytes).map(Some).map_err(|reason| Ok(reason.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(Ok(error.to_string())),
        Err(error) => Err(Err(Error::io("read", folder.path().join(name), error))),
    }
}

fn broken(folder: &Folder, name: &Path, reason: &Broken) -> Error {
    Error::Damaged { path: folder.path().join(name), reason: reason.to_string() }
}

impl From<Error> for CommitFailure {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), lost: Vec::new() }
    }
}
