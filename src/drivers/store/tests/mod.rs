//! Tests of the room as a whole, and what they share.

mod cache;
mod download;
mod model;
mod scratch;
mod seeding;
mod threads;

use std::path::Path;

use crate::content::build::{FileToList, ManifestBuilder};
use crate::content::hash::Sha256;
use crate::content::layout::{BlockIndex, PieceIndex, PieceLayout};
use crate::content::manifest::Manifest;
use crate::content::path::SafePath;
use crate::content::tree::{FileHashes, TreeHasher, blocks, hash_block};
use crate::content::verify::VerifiedBlock;
use crate::drivers::store::{Download, DownloadOptions, Error, Opened, PieceStore, StateDir};

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that differ from place to place and from file to file.
pub(crate) fn bytes_of(length: usize, salt: u32) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u32 ^ (at as u32 >> 11)).wrapping_add(salt).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

pub(crate) fn hashes_of(layout: &PieceLayout, file: &[u8]) -> FileHashes {
    let mut hasher = TreeHasher::new(*layout);
    for (piece, block, range) in blocks(layout) {
        let bytes = &file[range.offset as usize..range.end() as usize];
        assert!(hasher.push(hash_block(layout, piece, block, bytes).expect("inside")));
    }
    hasher.finish().expect("whole")
}

/// A manifest of these files, below a folder if asked for.
pub(crate) fn manifest_of(files: &[(&str, &[u8])], directory: bool) -> Manifest {
    let builder = ManifestBuilder::new("test/store").sequence(1).directory(directory);
    let listed = files.iter().fold(builder, |builder, (path, bytes)| {
        let layout = PieceLayout::new(bytes.len() as u64).expect("short");
        builder.file(FileToList {
            path: SafePath::new(path).expect("safe"),
            length: bytes.len() as u64,
            hashes: hashes_of(&layout, bytes),
            sha256: Sha256::new([1; 32]),
            sources: Vec::new(),
            executable: path.ends_with(".sh"),
        })
    });
    listed.build().expect("a manifest")
}

/// A state folder, a destination, and what is to be fetched there.
pub(crate) struct Site {
    pub place: tempfile::TempDir,
    pub state: StateDir,
    pub manifest: Manifest,
    /// The files' bytes, in the manifest's order.
    pub files: Vec<Vec<u8>>,
}

impl Site {
    pub fn new(manifest: Manifest, files: Vec<Vec<u8>>) -> Self {
        let place = tempfile::tempdir().expect("folder");
        let state = StateDir::open(&place.path().join("state")).expect("made");
        Self { place, state, manifest, files }
    }

    pub fn single(length: usize) -> Self {
        let bytes = bytes_of(length, 0);
        Self::new(manifest_of(&[("file.bin", &bytes)], false), vec![bytes])
    }

    pub fn out(&self) -> std::path::PathBuf {
        self.place.path().join("out")
    }

    pub fn part(&self) -> std::path::PathBuf {
        self.place.path().join("out.part")
    }

    pub fn try_open(&self, force: bool) -> Result<Opened, Error> {
        self.try_open_manifest(self.manifest.clone(), force)
    }

    pub fn try_open_manifest(&self, manifest: Manifest, force: bool) -> Result<Opened, Error> {
        let out = self.out();
        let options = DownloadOptions { state: &self.state, out: &out, manifest, envelope: &[], force };
        Download::open(options, &mut |_| {})
    }

    pub fn open(&self) -> Box<Download> {
        match self.try_open(false).expect("opened") {
            Opened::Ready(download) => download,
            Opened::AlreadyThere => panic!("nothing is there yet"),
        }
    }

    pub fn block(&self, piece: u32, block: u32) -> VerifiedBlock<Vec<u8>> {
        prove(&self.manifest, &self.files, PieceIndex(piece), BlockIndex(block))
    }

    /// Every block of every piece, in order.
    pub fn all_blocks(&self) -> Vec<(PieceIndex, BlockIndex)> {
        let layout = self.manifest.layout();
        let of_piece =
            |piece| (0..layout.block_count(piece).expect("inside")).map(move |block| (piece, BlockIndex(block)));
        (0..layout.piece_count()).map(PieceIndex).flat_map(of_piece).collect()
    }

    pub fn put_all(&self, download: &Download) {
        for (piece, block) in self.all_blocks() {
            download.put_bytes(&self.block(piece.0, block.0)).expect("stored");
        }
    }

    pub fn true_bytes(&self, piece: PieceIndex, block: BlockIndex) -> &[u8] {
        slice(&self.manifest, &self.files, piece, block)
    }
}

fn slice<'a>(manifest: &Manifest, files: &'a [Vec<u8>], piece: PieceIndex, block: BlockIndex) -> &'a [u8] {
    let (place, within) = manifest.layout().locate(piece).expect("inside");
    let range = place.layout.block(within, block).expect("inside");
    &files[place.file as usize][range.offset as usize..range.end() as usize]
}

/// A block with the proof that its piece needs.
pub(crate) fn prove(
    manifest: &Manifest,
    files: &[Vec<u8>],
    piece: PieceIndex,
    block: BlockIndex,
) -> VerifiedBlock<Vec<u8>> {
    let count = manifest.layout().block_count(piece).expect("inside");
    let values: Vec<_> = (0..count)
        .map(BlockIndex)
        .map(|block| manifest.block_chaining_value(piece, block, slice(manifest, files, piece, block)).expect("inside"))
        .collect();
    let proof = manifest.prove(piece, &values).expect("merges");
    let bytes = slice(manifest, files, piece, block).to_vec();
    manifest.verify(piece, block, Some(&proof), bytes).expect("verified")
}

/// What a store gives for a block.
pub(crate) fn read(
    store: &dyn PieceStore,
    piece: PieceIndex,
    block: BlockIndex,
) -> Result<Vec<u8>, crate::drivers::store::ReadError> {
    let length = store.manifest().layout().block_length(piece, block).expect("inside");
    let mut buffer = vec![0; length as usize];
    store.read(piece, block, 0, &mut buffer).map(|()| buffer)
}

/// Overwrites bytes in place: same inode, same length.
pub(crate) fn scribble(path: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).expect("written");
}
