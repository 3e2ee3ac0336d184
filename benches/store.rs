//! Does the store write as fast as the file system takes it?
//!
//! 1 GiB of blocks, proven beforehand, into a download, committed as it goes and renamed at the end, on the disk, from two
//! threads as the node has them. The limit of the same run is `pwrite` of the same bytes into a preallocated file
//! with one `fdatasync`: expected at least 0.85 of it. Then the same read back for serving, through the page cache:
//! at least 0.9 of `pread`.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use piecework::content::build::{FileToList, ManifestBuilder};
use piecework::content::hash::Sha256;
use piecework::content::layout::{BlockIndex, PieceIndex, PieceLayout};
use piecework::content::path::SafePath;
use piecework::content::tree::{TreeHasher, hash_block};
use piecework::drivers::store::{Download, DownloadOptions, Opened, PieceStore, StateDir};
use support::limits::Warm;
use support::{Folder, GIB, MIB, median, megabytes, seconds};

fn main() {
    let folder = Folder::new("store");
    let block: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    let layout = PieceLayout::new(GIB).expect("short");
    let mut hasher = TreeHasher::new(layout);
    for piece in (0..1024).map(PieceIndex) {
        assert!(hasher.push(hash_block(&layout, piece, BlockIndex(0), &block).expect("of the layout")));
    }
    let file = FileToList {
        path: SafePath::new("file").expect("safe"),
        length: GIB,
        hashes: hasher.finish().expect("every piece"),
        sha256: Sha256::new([0; 32]),
        sources: Vec::new(),
        executable: false,
    };
    let manifest = ManifestBuilder::new("bench/file").sequence(1).created(1).file(file).build().expect("a manifest");
    let state = folder.join("state");
    std::fs::create_dir(&state).expect("a folder of ours");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    let state = StateDir::open(&state).expect("a folder of ours");
    let mut warm = Warm::new(folder.join("warm"), GIB);
    let (mut rates, mut reads) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let plain = folder.join(&format!("plain-{round}"));
        warm.free_for(&plain);
        let limit = seconds(|| {
            let file = File::create(&plain).expect("a folder of ours");
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, GIB).expect("there is room");
            (0..1024).for_each(|piece| file.write_all_at(&block, piece * MIB).expect("there is room"));
            file.sync_data().expect("it can be synced");
        });
        let out = folder.join(&format!("out-{round}"));
        warm.free_for(&out);
        let options =
            DownloadOptions { state: &state, out: &out, manifest: manifest.clone(), envelope: &[], force: false };
        let Ok(Opened::Ready(download)) = Download::open(options, &mut |_| {}) else { panic!("a new download") };
        // Proven beforehand: what is measured is the store.
        let proven: Vec<_> = (0..1024)
            .map(|piece| manifest.verify(PieceIndex(piece), BlockIndex(0), None, &block[..]).expect("right bytes"))
            .collect();
        let took = seconds(|| {
            let download = &download;
            std::thread::scope(|scope| {
                for half in proven.chunks(512) {
                    scope.spawn(move || {
                        for block in half {
                            download.put_bytes(block).expect("there is room");
                            if download.commit_due() {
                                download.commit().expect("it can be synced");
                            }
                        }
                    });
                }
            });
            download.finish().expect("whole");
        });
        let mut slice = vec![0; 128 << 10];
        let parts = (0..1024).flat_map(|piece| (0..8).map(move |part| (PieceIndex(piece), part * (128 << 10))));
        let store = seconds(|| {
            let read = |(piece, from)| {
                if !download.read_cached(piece, BlockIndex(0), from, &mut slice) {
                    download.read(piece, BlockIndex(0), from, &mut slice).expect("it is there");
                }
            };
            parts.clone().for_each(read);
        });
        let opened = File::open(&out).expect("it stands under its name");
        let plain = seconds(|| {
            for (piece, from) in parts.clone() {
                opened.read_exact_at(&mut slice, u64::from(piece.0) * MIB + from).expect("it is there");
            }
        });
        println!(
            "round {round}: store {:.0} MB/s, pwrite and fdatasync {:.0} MB/s; read back {:.0} MB/s, pread {:.0} MB/s; {:?}",
            megabytes(GIB) / took,
            megabytes(GIB) / limit,
            megabytes(GIB) / store,
            megabytes(GIB) / plain,
            download.stats(),
        );
        rates.push(limit / took);
        reads.push(plain / store);
    }
    println!(
        "store: {:.2} of pwrite and fdatasync (to reach: 0.85); reading {:.2} of pread (to reach: 0.90); medians of 4",
        median(rates),
        median(reads),
    );
}
