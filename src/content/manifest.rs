//! [`Manifest`]: the files of one publication, with pieces that are known to merge to their content ids.
//!
//! One that exists has passed every rule of `proto/manifest.proto` (they are in `rules`); whether anyone should believe it is `trust`'s
//! question. The exact payload bytes are kept once, and the piece hashes are slices of them.

use std::sync::Arc;

use prost::Message;
use prost::bytes::Bytes;

use crate::content::error::Error;
use crate::content::hash::{ContentId, ManifestId, PieceHash, Sha256};
use crate::content::layout::{FlatLayout, PieceIndex, PieceLayout};
use crate::content::path::SafePath;
use crate::content::rules::Head;
use crate::content::{proto, rules};

/// A checked manifest; cloning shares it.
#[derive(Clone)]
pub struct Manifest(Arc<Parts>);

struct Parts {
    id: ManifestId,
    payload: Bytes,
    head: Head,
    files: Vec<FileEntry>,
    layout: FlatLayout,
    bare: bool,
}

/// One file of a manifest.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Where it belongs below the destination.
    pub path: SafePath,
    /// Bytes.
    pub length: u64,
    /// BLAKE3 root.
    pub content_id: ContentId,
    /// Whole-file SHA-256; `None` only in a bare manifest.
    pub sha256: Option<Sha256>,
    /// URLs of the exact file, `http` or `https`, as written.
    pub sources: Vec<String>,
    /// The owner may execute it.
    pub executable: bool,
    /// Its geometry, a function of the length.
    pub layout: PieceLayout,
    /// 32 bytes a piece.
    pub(crate) piece_hashes: Bytes,
}

impl FileEntry {
    /// Hash of one of this file's pieces, counted within the file; `None` outside.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        let start = usize::try_from(piece.0).ok()?.checked_mul(32)?;
        PieceHash::from_slice(self.piece_hashes.get(start..start.checked_add(32)?)?)
    }

    /// Hashes of all pieces, 32 bytes each.
    pub fn piece_hashes(&self) -> &[u8] {
        &self.piece_hashes
    }
}

impl Manifest {
    /// Reads a payload and checks every rule. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`Error`] naming the first rule broken; no manifest is partly taken.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        rules::check_payload_length(payload.len())?;
        Self::decode_shared(Bytes::copy_from_slice(payload))
    }

    /// As [`Manifest::decode`], sharing the bytes instead of copying them.
    ///
    /// # Errors
    /// As [`Manifest::decode`].
    pub fn decode_shared(payload: Bytes) -> Result<Self, Error> {
        let (head, files) = rules::read_listed(&payload)?;
        Self::assemble(payload, head, files, false)
    }

    /// The manifest of a bare content id: what only length and piece hashes say. One file named by the id, no name,
    /// no SHA-256, no sources. The merge does not prove the length within the last piece: fetch that one first.
    ///
    /// # Errors
    /// [`Error`] for a length or hashes that do not fit each other or the id.
    pub fn bare(content_id: ContentId, length: u64, piece_hashes: &[u8]) -> Result<Self, Error> {
        rules::check_payload_length(piece_hashes.len())?;
        let file = proto::File {
            path: content_id.to_string(),
            length,
            content_id: Bytes::copy_from_slice(content_id.as_bytes()),
            piece_hashes: Bytes::copy_from_slice(piece_hashes),
            ..proto::File::default()
        };
        let payload = proto::Manifest { files: vec![file], ..proto::Manifest::default() }.encode_to_vec();
        let payload = Bytes::from(payload);
        let files = rules::read_bare(&payload)?;
        Self::assemble(payload, Head::default(), files, true)
    }

    fn assemble(payload: Bytes, head: Head, files: Vec<FileEntry>, bare: bool) -> Result<Self, Error> {
        let layout = FlatLayout::new(files.iter().map(|file| file.length))?;
        let layout =
            layout.ok_or(Error::OverLimit { what: "pieces of all files", max: u32::MAX.into(), found: u64::MAX })?;
        let id = ManifestId::new(*blake3::hash(&payload).as_bytes());
        Ok(Self(Arc::new(Parts { id, payload, head, files, layout, bare })))
    }

    /// BLAKE3 of the exact payload.
    pub fn id(&self) -> ManifestId {
        self.0.id
    }

    /// The exact payload; shared, not copied.
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// `publisher/product/...`; empty in a bare manifest.
    pub fn name(&self) -> &str {
        &self.0.head.name
    }

    /// Free text for people; may be empty.
    pub fn version(&self) -> &str {
        &self.0.head.version
    }

    /// Rises with each publication of the name.
    pub fn sequence(&self) -> u64 {
        self.0.head.sequence
    }

    /// Seconds since the epoch.
    pub fn created(&self) -> u64 {
        self.0.head.created
    }

    /// Seconds since the epoch; `None`: never.
    pub fn expires(&self) -> Option<u64> {
        Some(self.0.head.expires).filter(|seconds| *seconds != 0)
    }

    /// Key and value, ascending by key.
    pub fn annotations(&self) -> &[(String, String)] {
        &self.0.head.annotations
    }

    /// Whether the files live below a folder: asked for, or several files, or a path with a folder in it.
    pub fn is_directory(&self) -> bool {
        self.0.head.directory || !matches!(self.files(), [only] if only.path.components().nth(1).is_none())
    }

    /// Whether this came from a bare content id: only lengths and hashes mean anything.
    pub fn is_bare(&self) -> bool {
        self.0.bare
    }

    /// The files; at least one, in the publisher's order.
    pub fn files(&self) -> &[FileEntry] {
        &self.0.files
    }

    /// The flat piece index over all files.
    pub fn layout(&self) -> &FlatLayout {
        &self.0.layout
    }

    /// Hash of a flat piece; `None` outside.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<PieceHash> {
        let (place, within) = self.0.layout.locate(piece)?;
        self.file_at(place.file)?.piece_hash(within)
    }

    pub(crate) fn file_at(&self, file: u32) -> Option<&FileEntry> {
        self.0.files.get(usize::try_from(file).ok()?)
    }

    /// A manifest of one file in pieces of another size than its length asks for, so that tests of pieces of several
    /// blocks need no 64 GiB.
    #[cfg(test)]
    pub(crate) fn test_with_layout(layout: PieceLayout, hashes: &crate::content::tree::FileHashes) -> Self {
        let file = FileEntry {
            path: SafePath::new("file").expect("safe"),
            length: layout.length(),
            content_id: hashes.content_id,
            sha256: None,
            sources: Vec::new(),
            executable: false,
            layout,
            piece_hashes: Bytes::copy_from_slice(&hashes.piece_hashes),
        };
        let flat = FlatLayout::test_of(layout);
        let payload = Bytes::copy_from_slice(hashes.content_id.as_bytes());
        let id = ManifestId::new(*hashes.content_id.as_bytes());
        Self(Arc::new(Parts { id, payload, head: Head::default(), files: vec![file], layout: flat, bare: true }))
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({} {:?}, {} files)", self.0.id.short(), self.0.head.name, self.0.files.len())
    }
}

/// The content ids that a payload lists, read without a check of anything else: enough to find out which of many
/// manifests is worth decoding. Empty where it does not parse.
pub fn content_ids(payload: &[u8]) -> Vec<ContentId> {
    let Ok(manifest) = proto::Manifest::decode(payload) else { return Vec::new() };
    manifest.files.iter().filter_map(|file| ContentId::from_slice(&file.content_id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::build::ManifestBuilder;
    use crate::content::build::samples::{counting, listed};

    #[test]
    fn what_was_built_reads_back() {
        let mut file = listed("bin/tool", b"#!/bin/sh\n");
        file.executable = true;
        file.sources = vec!["https://example.com/tool".to_owned(), "http://[::1]:8000/x%20y?z#f".to_owned()];
        let builder = ManifestBuilder::new("acme/tool/linux").version("2.4.1").sequence(7).created(1_700_000_000);
        let builder = builder.expires(Some(1_800_000_000)).annotation("z", "last").annotation("a", "first\nline");
        let manifest = builder.file(file).file(listed("empty", b"")).build().expect("valid");
        let read = Manifest::decode(manifest.payload()).expect("its own bytes");
        assert_eq!((read.id(), read.payload()), (manifest.id(), manifest.payload()));
        assert_eq!(read.id().as_bytes(), blake3::hash(manifest.payload()).as_bytes());
        assert_eq!((read.name(), read.version(), read.sequence()), ("acme/tool/linux", "2.4.1", 7));
        assert_eq!((read.created(), read.expires()), (1_700_000_000, Some(1_800_000_000)));
        assert_eq!(read.annotations().iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "z"]);
        assert!(read.is_directory() && !read.is_bare());
        let [tool, empty] = read.files() else { panic!("two files") };
        assert_eq!((tool.path.as_str(), tool.length, tool.executable, tool.sources.len()), ("bin/tool", 10, true, 2));
        assert_eq!(tool.piece_hash(PieceIndex(0)).map(|hash| *hash.as_bytes()), Some(*tool.content_id.as_bytes()));
        assert_eq!((tool.piece_hash(PieceIndex(1)), empty.piece_hash(PieceIndex(0))), (None, None));
        assert_eq!(empty.content_id.as_bytes(), blake3::hash(b"").as_bytes());
        assert_eq!((read.layout().piece_count(), read.layout().total_bytes()), (1, 10));
        assert_eq!(
            (read.piece_hash(PieceIndex(0)), read.piece_hash(PieceIndex(1))),
            (tool.piece_hash(PieceIndex(0)), None)
        );
    }

    #[test]
    fn a_lone_file_is_no_directory_unless_it_says_so() {
        let build = |path, directory| ManifestBuilder::new("n").file(listed(path, b"x")).directory(directory).build();
        assert!(!build("a", false).expect("valid").is_directory());
        assert!(build("a", true).expect("valid").is_directory());
        assert!(build("a/b", false).expect("valid").is_directory());
    }

    #[test]
    fn piece_hashes_are_not_copied() {
        let payload =
            ManifestBuilder::new("n").file(listed("a", &counting(3 << 20))).build().expect("valid").payload().clone();
        let manifest = Manifest::decode_shared(payload.clone()).expect("valid");
        let range = payload.as_ptr_range();
        assert!(manifest.files().iter().all(|file| range.contains(&file.piece_hashes().as_ptr())));
    }

    #[test]
    fn a_bare_id_gives_one_unnamed_file() {
        let file = listed("a", &counting(3 << 20));
        let (id, hashes) = (file.hashes.content_id, &file.hashes.piece_hashes);
        let bare = Manifest::bare(id, file.length, hashes).expect("it merges");
        assert!(bare.is_bare() && !bare.is_directory());
        assert_eq!((bare.name(), bare.files().len(), bare.layout().piece_count()), ("", 1, 3));
        assert_eq!((bare.files()[0].path.as_str(), bare.files()[0].sha256), (id.to_string().as_str(), None));
        assert_eq!(bare.files()[0].piece_hashes(), hashes);
        assert_eq!(Manifest::bare(id, file.length, hashes).expect("it merges").id(), bare.id());
        assert!(Manifest::bare(id, file.length + 1, hashes).is_err());
        assert!(Manifest::bare(id, u64::MAX, hashes).is_err());
        assert!(Manifest::bare(id, file.length, &hashes[32..]).is_err());
        assert!(Manifest::bare(ContentId::new([0; 32]), file.length, hashes).is_err());
        // Without a name it is no publication, whatever its bytes say.
        assert!(Manifest::decode(bare.payload()).is_err());
        let empty = Manifest::bare(ContentId::new(*blake3::hash(b"").as_bytes()), 0, &[]).expect("nothing");
        assert_eq!(empty.layout().piece_count(), 0);
    }
}
