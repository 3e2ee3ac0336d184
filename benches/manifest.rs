//! What does a manifest cost to read, and to check?
//!
//! A content of 64 GiB in 65,536 pieces: 2 MiB of hashes, each merged into the root before anything is believed. That is
//! one BLAKE3 compression a hash, some 60 ns, so some 4 ms: expected within 2 of hashing as many 64-byte blocks one by
//! one, the limit of the same run. And a directory of 20,000 files, where paths and rules dominate: under 50 ms.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use piecework::content::build::{FileToList, ManifestBuilder};
use piecework::content::hash::Sha256;
use piecework::content::layout::PieceLayout;
use piecework::content::manifest::Manifest;
use piecework::content::path::SafePath;
use piecework::content::tree::{TreeHasher, blocks};
use support::{GIB, median, seconds};

fn listed(path: &str, length: u64, salt: u64) -> FileToList {
    let layout = PieceLayout::new(length).expect("short");
    let mut hasher = TreeHasher::new(layout);
    for (number, _) in blocks(&layout).enumerate() {
        assert!(hasher.push(*blake3::hash(&(number as u64 ^ salt << 32).to_le_bytes()).as_bytes()));
    }
    FileToList {
        path: SafePath::new(path).expect("safe"),
        length,
        hashes: hasher.finish().expect("every block"),
        sha256: Sha256::new([1; 32]),
        sources: vec!["https://example.org/a".to_owned()],
        executable: false,
    }
}

fn main() {
    let large = ManifestBuilder::new("bench/large").sequence(1).created(1).file(listed("large", 64 * GIB, 1));
    let large = large.build().expect("a manifest");
    let bytes = large.payload().clone();
    let milliseconds = |work: &dyn Fn()| median((0..9).map(|_| seconds(work) * 1e3).collect());
    let limit = milliseconds(&|| {
        for number in 0..65_536u32 {
            let mut block = [0; 64];
            block[..4].copy_from_slice(&number.to_le_bytes());
            std::hint::black_box(blake3::hash(&block));
        }
    });
    let read = milliseconds(&|| drop(Manifest::decode_shared(bytes.clone()).expect("good")));
    println!("64 GiB, {} KiB of manifest: read and merged in {read:.2} ms", bytes.len() >> 10);
    println!("limit: 65,536 blocks of 64 bytes hashed in {limit:.2} ms; ratio {:.2} (to reach: 0.50)", limit / read);
    let mut directory = ManifestBuilder::new("bench/directory").sequence(1).created(1).directory(true);
    for number in 0..20_000u64 {
        directory = directory.file(listed(&format!("{:03}/{number:05}.bin", number / 100), 10 << 10, number));
    }
    let directory = directory.build().expect("a manifest").payload().clone();
    let read = milliseconds(&|| drop(Manifest::decode_shared(directory.clone()).expect("good")));
    println!("20,000 files, {} KiB of manifest: read in {read:.2} ms (to reach: 50)", directory.len() >> 10);
}
