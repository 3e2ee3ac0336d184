//! Do thousands of small files travel as one publication at a decent part of what the file system can take?
//!
//! 20,000 files of 10 KiB as one directory manifest, one seed to one `get` on the disk, everything synced. The limit of
//! the same run is `tar x` of the same files from the page cache, followed by `sync`: expected at least 0.5 of its rate.
//! Nothing is deleted between the rounds: for some seconds after a deletion ext4 looks for inodes that were not in use
//! lately, one by one, and that search would be most of what is measured.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::process::Command;

use support::scene::Scene;
use support::{Folder, median, megabytes, seconds, text, watched};

const FILES: u32 = 20_000;
const BYTES: usize = 10 << 10;

fn main() {
    support::bare::role();
    let folder = Folder::new("small-files");
    let content = folder.join("content");
    let mut stream = blake3::Hasher::new_keyed(&[3; 32]).finalize_xof();
    let mut bytes = vec![0; BYTES];
    for number in 0..FILES {
        let below = content.join(format!("{:03}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&below).expect("a folder of ours");
        }
        stream.fill(&mut bytes);
        std::fs::write(below.join(format!("{number:05}.bin")), &bytes).expect("there is room");
    }
    let length = u64::from(FILES) * BYTES as u64;
    let archive = folder.join("files.tar");
    shell(&["tar", "cf", text(&archive), "-C", text(&content), "."]);
    let scene = Scene::publish(folder, content, length, &[]);
    let state = scene.folder.join("state");
    let seed = scene.seed("one");
    let (mut limits, mut ratios) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let (unpacked, out) =
            (scene.folder.join(&format!("unpacked-{round}")), scene.folder.join(&format!("out-{round}")));
        std::fs::create_dir(&unpacked).expect("a folder of ours");
        shell(&["sync"]);
        let limit = seconds(|| {
            shell(&["tar", "xf", text(&archive), "-C", text(&unpacked)]);
            shell(&["sync"]);
        });
        let before = seed.usage().cpu_seconds;
        let (took, usage, good) = watched(scene.get(&out, &state, &[&seed.address]));
        assert!(good, "get succeeds");
        println!(
            "round {round}: get {:.0} MB/s = {:.0} files/s in {took:.2} s; tar x and sync {limit:.2} s; ratio {:.2}; CPU s: \
             seed {:.2}, get {:.2}; get {} MiB resident",
            megabytes(length) / took,
            f64::from(FILES) / took,
            limit / took,
            seed.usage().cpu_seconds - before,
            usage.cpu_seconds,
            usage.peak_resident >> 20,
        );
        limits.push(megabytes(length) / limit);
        // The first checks what is served.
        if round > 0 {
            ratios.push(limit / took);
        }
    }
    println!(
        "{FILES} files of 10 KiB: {:.2} of tar x and sync at {:.0} MB/s (median of 3; to reach: 0.50)",
        median(ratios),
        median(limits),
    );
}

fn shell(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().expect("the program is there");
    assert!(status.success(), "{words:?}");
}
