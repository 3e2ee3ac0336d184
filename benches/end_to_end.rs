//! How fast does one seed feed one `get` over loopback, encrypted, verified and stored, and what does it cost?
//!
//! Limits of the same run: plain loopback TCP, BLAKE3 of one thread, writes into the page cache. On two cores both ends
//! share them, so the sum of all costs is what counts: about 1.6 CPU s/GiB at best, some 1.2 GB/s. To reach now: 500
//! MB/s, `get` under 64 MiB resident. `PIECEWORK_BENCH_GIB` sets the size (1).

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use support::{
    Folder, GIB, Serving, blake3_rate, loopback_rate, median, page_cache_write_rate, piecework, random_file, run, text,
    watched,
};

fn main() {
    let gib: u64 = std::env::var("PIECEWORK_BENCH_GIB").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let folder = Folder::new("end-to-end");
    let (file, key, manifest) = (folder.join("file"), folder.join("key"), folder.join("m.piecework"));
    random_file(&file, gib * GIB);
    println!("limits of this machine in this run:");
    let tcp = loopback_rate(gib * GIB);
    println!("  plain TCP over loopback   {tcp:>6.0} MB/s");
    println!("  BLAKE3, one thread        {:>6.0} MB/s", blake3_rate(gib * GIB));
    println!("  page-cache write          {:>6.0} MB/s", page_cache_write_rate(&folder.join("w"), gib * GIB));
    run(&["key", "new", text(&key)]);
    run(&["publish", text(&file), "--key", text(&key), "--name", "bench/file", "-o", text(&manifest)]);
    let state = folder.join("state");
    let public = folder.join("key.pub");
    run(&["trust", "add", text(&public), "--publisher", "b", "--names", "bench/*", "--state", text(&state)]);
    let seed_state = folder.join("seed-state");
    let seed = Serving::start(&[
        "seed",
        text(&file),
        "--manifest",
        text(&manifest),
        "--listen",
        "127.0.0.1:0",
        "--mode",
        "simple",
        "--state",
        text(&seed_state),
    ]);
    let mut rates = Vec::new();
    for round in 0..4 {
        let out = folder.join("out");
        let before = seed.usage().cpu_seconds;
        let mut command = piecework(&["get", text(&manifest), "-o", text(&out), "--peer", &seed.address]);
        command.args(["--mode", "simple", "--listen", "127.0.0.1:0", "--state", text(&state), "-q"]);
        let (took, usage, good) = watched(command);
        assert!(good, "get succeeds");
        let rate = (gib * GIB) as f64 / 1e6 / took;
        let seed_cpu = (seed.usage().cpu_seconds - before) / gib as f64;
        let get_cpu = usage.cpu_seconds / gib as f64;
        println!(
            "{} {rate:>5.0} MB/s = {:.2} of plain TCP; CPU s/GiB: seed {seed_cpu:.2} + get {get_cpu:.2}; \
             peak resident: seed {} MiB, get {} MiB",
            if round == 0 { "first send (checks what it serves):" } else { "later send:                        " },
            rate / tcp,
            seed.usage().peak_resident >> 20,
            usage.peak_resident >> 20,
        );
        if round > 0 {
            rates.push(rate);
        }
        std::fs::remove_file(&out).expect("get made it");
    }
    println!("one seed to one get, {gib} GiB: {:.0} MB/s (median of 3; to reach: 500)", median(rates));
}
