//! Does `publish` hash as fast as SHA-256 alone allows?
//!
//! One read gives BLAKE3 piece hashes and the whole-file SHA-256, side by side on two cores. SHA-256 with the CPU's
//! instructions does 1.3 to 1.7 GB/s a core, BLAKE3 three times that, so SHA-256 alone is the limit: expected at least 0.9
//! of it. `PIECEWORK_BENCH_GIB` sets the size (4).

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use sha2::{Digest, Sha256};
use support::{Folder, GIB, MIB, median, random_file, run, seconds, text};

fn main() {
    let gib: u64 = std::env::var("PIECEWORK_BENCH_GIB").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let folder = Folder::new("publish");
    let file = folder.join("file");
    random_file(&file, gib * GIB);
    let key = folder.join("key");
    run(&["key", "new", text(&key)]);
    let limit = || {
        let buffer = vec![9; MIB as usize];
        let took = seconds(|| {
            let mut hasher = Sha256::new();
            for _ in 0..gib * 1024 {
                hasher.update(&buffer);
            }
            std::hint::black_box(hasher.finalize());
        });
        (gib * GIB) as f64 / 1e6 / took
    };
    let mut ratios = Vec::new();
    for round in 1..=3 {
        let alone = limit();
        let out = folder.join("out.piecework");
        let took = seconds(|| {
            run(&["publish", text(&file), "--key", text(&key), "--name", "bench/file", "-o", text(&out)]);
        });
        let rate = (gib * GIB) as f64 / 1e6 / took;
        println!("round {round}: publish {rate:.0} MB/s, SHA-256 alone {alone:.0} MB/s, ratio {:.2}", rate / alone);
        ratios.push(rate / alone);
    }
    println!("publish of {gib} GiB: {:.2} of SHA-256 alone (median of 3; to reach: 0.90)", median(ratios));
}
