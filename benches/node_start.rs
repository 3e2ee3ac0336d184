//! How soon does a node that keeps ten thousand contents serve them?
//!
//! A cache of 10,000 entries of 1 GiB and a few bytes each (sparse zeros, so that their pieces are true and cost no
//! disk), ten TiB in all; then a real `piecework node`, timed from the start of its process to its address, to the start
//! of a peer's answer, and over one whole content that it sends. Reading 10,000 small files is what it must do, some
//! 30 us each: expected under 1 s until it serves.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::DirBuilderExt;

use support::contents::fill;
use support::{Folder, GIB, Serving, megabytes, piecework, seconds, text, watched};

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
    let mut ids = Vec::new();
    let took = seconds(|| ids = fill(&cache, contents, GIB));
    let last = ids.last().expect("at least one");
    println!("made a cache of {contents} contents in {took:.1} s");
    for round in 1..=3 {
        let node = Serving::start(&["node", "--listen", "127.0.0.1:0", "--mode", "simple", "--state", text(&state)]);
        let usage = node.usage();
        let out = folder.join(&format!("out-{round}"));
        let link = format!("piecework:{last}");
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
