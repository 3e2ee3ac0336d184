//! [`ManifestBuilder`]: what a publisher says about its files, written as canonical bytes.

use prost::Message;
use prost::bytes::Bytes;

use crate::content::error::Error;
use crate::content::hash::Sha256;
use crate::content::manifest::Manifest;
use crate::content::path::SafePath;
use crate::content::proto;
use crate::content::rules::{FILES_MAX, at_most};
use crate::content::tree::FileHashes;

/// One file as it is listed.
#[derive(Debug, Clone)]
pub struct FileToList {
    /// Where it belongs below the destination.
    pub path: SafePath,
    /// Bytes.
    pub length: u64,
    /// BLAKE3 root and piece hashes, from a `TreeHasher`.
    pub hashes: FileHashes,
    /// SHA-256 of the whole file.
    pub sha256: Sha256,
    /// URLs of the exact file.
    pub sources: Vec<String>,
    /// The owner may execute it.
    pub executable: bool,
}

/// Collects a manifest's fields; [`ManifestBuilder::build`] checks them all.
#[derive(Debug, Clone, Default)]
pub struct ManifestBuilder {
    manifest: proto::Manifest,
}

impl ManifestBuilder {
    /// A manifest of this name, without files yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { manifest: proto::Manifest { name: name.into(), ..proto::Manifest::default() } }
    }

    /// Free text for people.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.manifest.version = version.into();
        self
    }

    /// Higher than that of any earlier publication of the name.
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.manifest.sequence = sequence;
        self
    }

    /// Seconds since the epoch.
    pub fn created(mut self, seconds: u64) -> Self {
        self.manifest.created = seconds;
        self
    }

    /// Seconds since the epoch; `None`: never.
    pub fn expires(mut self, seconds: Option<u64>) -> Self {
        self.manifest.expires = seconds.unwrap_or(0);
        self
    }

    /// One more annotation; they are put in order by key.
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.manifest.annotations.push(proto::Annotation { key: key.into(), value: value.into() });
        self
    }

    /// Whether a folder is made even for a single file.
    pub fn directory(mut self, directory: bool) -> Self {
        self.manifest.directory = directory;
        self
    }

    /// One more file.
    pub fn file(mut self, file: FileToList) -> Self {
        self.manifest.files.push(proto::File {
            path: file.path.as_str().to_owned(),
            length: file.length,
            content_id: Bytes::copy_from_slice(file.hashes.content_id.as_bytes()),
            sha256: Bytes::copy_from_slice(file.sha256.as_bytes()),
            piece_hashes: file.hashes.piece_hashes.into(),
            sources: file.sources,
            executable: file.executable,
        });
        self
    }

    /// Writes the canonical payload and reads it back as any receiver would.
    ///
    /// # Errors
    /// [`Error`] naming the first rule broken.
    pub fn build(mut self) -> Result<Manifest, Error> {
        at_most("files", FILES_MAX, self.manifest.files.len())?;
        self.manifest.annotations.sort_by(|one, two| one.key.cmp(&two.key));
        Manifest::decode_shared(self.manifest.encode_to_vec().into())
    }
}

/// Small manifests for the tests of this room.
#[cfg(test)]
pub(crate) mod samples {
    use sha2::Digest;

    use crate::content::build::FileToList;
    use crate::content::hash::Sha256;
    use crate::content::layout::PieceLayout;
    use crate::content::path::SafePath;
    use crate::content::tree::{FileHashes, TreeHasher, blocks, hash_block};

    /// Bytes that count up from 0 to 250, again and again, so that no two blocks are equal.
    pub(crate) fn counting(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position % 251) as u8).collect()
    }

    pub(crate) fn hashed(layout: &PieceLayout, bytes: &[u8]) -> FileHashes {
        let mut hasher = TreeHasher::new(*layout);
        for (piece, block, range) in blocks(layout) {
            let bytes = &bytes[range.offset as usize..range.end() as usize];
            assert!(hasher.push(hash_block(layout, piece, block, bytes).expect("a block of the layout")));
        }
        hasher.finish().expect("every block")
    }

    pub(crate) fn listed(path: &str, bytes: &[u8]) -> FileToList {
        let layout = PieceLayout::new(bytes.len() as u64).expect("short");
        FileToList {
            path: SafePath::new(path).expect("safe"),
            length: bytes.len() as u64,
            hashes: hashed(&layout, bytes),
            sha256: Sha256::new(sha2::Sha256::digest(bytes).into()),
            sources: Vec::new(),
            executable: false,
        }
    }
}
