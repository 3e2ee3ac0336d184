//! Does `publish` hash as fast as SHA-256 alone allows?
//!
//! One read gives BLAKE3 piece hashes and the whole-file SHA-256, side by side on two cores. SHA-256 with the CPU's
//! instructions does 1.3 to 1.7 GB/s a core, BLAKE3 three times that, so SHA-256 alone is the limit: expected at least
//! 0.95 of it, the start of the process and the signed manifest included. `PIECEWORK_BENCH_GIB` sets the size (4).

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use support::limits::sha256_rate;
use support::{Folder, GIB, gib_from_environment, median, megabytes, piecework, random_file, run, text, watched};

fn main() {
    support::bare::role();
    let length = gib_from_environment(4.0);
    let folder = Folder::new("publish");
    let file = folder.join("file");
    random_file(&file, length);
    let key = folder.join("key");
    run(&["key", "new", text(&key)]);
    let mut ratios = Vec::new();
    for round in 1..=3 {
        let alone = sha256_rate(length);
        let out = folder.join("out.piecework");
        let (took, usage, good) = watched(piecework(&[
            "publish",
            text(&file),
            "--key",
            text(&key),
            "--name",
            "bench/file",
            "-o",
            text(&out),
        ]));
        assert!(good, "publish succeeds");
        let rate = megabytes(length) / took;
        println!(
            "round {round}: publish {rate:.0} MB/s, SHA-256 alone {alone:.0} MB/s, ratio {:.2}; {:.2} CPU s/GiB; {} MiB resident",
            rate / alone,
            usage.cpu_seconds / (length as f64 / GIB as f64),
            usage.peak_resident >> 20,
        );
        ratios.push(rate / alone);
    }
    println!(
        "publish of {:.2} GiB: {:.2} of SHA-256 alone (median of 3; to reach: 0.95)",
        length as f64 / GIB as f64,
        median(ratios),
    );
}
