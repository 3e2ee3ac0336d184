//! How soon does a node that keeps ten thousand contents serve them?
//!
//! A cache of 10,000 entries of 1 GiB and a few bytes each (sparse zeros, so that their pieces are true and cost no
//! disk), ten TiB in all; then a real `piecework node`, timed from the start of its process to its address, to the start
//! of a peer's answer, and over one whole content that it sends. Reading 10,000 small files is what it must do, some
//! 30 us each: expected under 1 s until it serves.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use piecework::content::build::{FileToList, ManifestBuilder};
use piecework::content::envelope::Envelope;
use piecework::content::hash::Sha256;
use piecework::content::key::SigningKey;
use piecework::content::layout::{BlockIndex, PieceIndex, PieceLayout};
use piecework::content::manifest::Manifest;
use piecework::content::path::SafePath;
use piecework::content::tree::{TreeHasher, hash_block};
use piecework::drivers::store::{Cache, CacheLimits};
use support::{Folder, GIB, MIB, Serving, megabytes, piecework, seconds, text, watched};

/// Unless `PIECEWORK_BENCH_CONTENTS` says otherwise.
const CONTENTS: u64 = 10_000;

fn main() {
    support::bare::role();
    let contents =
        std::env::var("PIECEWORK_BENCH_CONTENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(CONTENTS);
    let folder = Folder::in_memory("node-start");
    let state = folder.join("state");
    // The state folder is its user's alone.
    std::fs::DirBuilder::new().mode(0o700).create(&state).expect("a folder of ours");
    let cache = state.join("cache");
    let mut last = None;
    let took = seconds(|| last = Some(fill(&cache, contents)));
    let last = last.expect("filled");
    println!("made a cache of {contents} contents in {took:.1} s");
    for round in 1..=3 {
        let node = Serving::start(&["node", "--listen", "127.0.0.1:0", "--mode", "simple", "--state", text(&state)]);
        let usage = node.usage();
        let out = folder.join(&format!("out-{round}"));
        let id = last.files()[0].content_id.to_string();
        let link = format!("piecework:{id}");
        let get_state = folder.join("get-state");
        let mut get = piecework(&["get", &link, "-o", text(&out), "--peer", &node.address, "--mode", "simple"]);
        get.args(["--listen", "127.0.0.1:0", "--state", text(&get_state), "-q"]);
        let (took, _, good) = watched(get);
        assert!(good, "it is served");
        std::fs::remove_file(&out).expect("get made it");
        println!(
            "round {round}: serving {:.2} s after its start, with {:.2} CPU s and {} MiB resident; one of its contents, by \
             its id alone, in {took:.2} s = {:.0} MB/s; {} MiB resident after that",
            node.ready.as_secs_f64(),
            usage.cpu_seconds,
            usage.peak_resident >> 20,
            megabytes(GIB) / took,
            node.usage().peak_resident >> 20,
        );
    }
    println!("start with {contents} contents (to reach: serving within 1 s)");
}

/// Makes the entries; returns the manifest of the last.
fn fill(path: &Path, contents: u64) -> Manifest {
    let cache = Cache::open(path, CacheLimits::default()).expect("a folder of ours");
    let key = SigningKey::from_seed(&[5; 32]);
    let zeros = vec![0; MIB as usize];
    // Equal bytes at equal places have equal hashes: only the last piece tells the contents apart.
    let whole = PieceLayout::new(GIB + 1).expect("short");
    let shared: Vec<_> = (0..1024)
        .map(|piece| hash_block(&whole, PieceIndex(piece), BlockIndex(0), &zeros).expect("a piece of the layout"))
        .collect();
    let mut last = None;
    for number in 1..=contents {
        let length = GIB + number;
        let layout = PieceLayout::new(length).expect("short");
        let mut hasher = TreeHasher::new(layout);
        assert!(shared.iter().all(|value| hasher.push(*value)));
        let tail = hash_block(&layout, PieceIndex(1024), BlockIndex(0), &zeros[..number as usize]);
        assert!(hasher.push(tail.expect("the last piece")));
        let file = FileToList {
            path: SafePath::new("zeros").expect("a plain name"),
            length,
            hashes: hasher.finish().expect("every piece"),
            sha256: Sha256::new([0; 32]),
            sources: Vec::new(),
            executable: false,
        };
        let builder = ManifestBuilder::new(format!("bench/zeros-{number}")).sequence(1).created(1);
        let manifest = builder.file(file).build().expect("a manifest");
        let data = cache.content_path(&manifest.files()[0].content_id);
        let data = File::options().write(true).create_new(true).mode(0o600).open(data).expect("a folder of ours");
        data.set_len(length).expect("sparse");
        let mut envelope = Envelope::unsigned(manifest.payload().clone());
        envelope.sign(&key).expect("few signatures");
        cache.adopt(&manifest, &envelope.encode()).expect("it has the right length");
        last = Some(manifest);
    }
    last.expect("at least one")
}
