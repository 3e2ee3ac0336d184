//! Do many peers get as much in all as two alone, and each its share?
//!
//! Eight seeds to one `get`, one seed to eight, and one seed to 64 at once, over loopback, page cache to page cache, each
//! beside one to one in the same run. Two cores do all the work, so the aggregate can stay level but not rise: expected
//! at least 0.9 of one to one; with 64 peers the seed at most 128 MiB resident, and no peer under half of its fair share.
//! Shares are counted from when every peer has begun until the first is done. `PIECEWORK_BENCH_GIB` sets the size of the
//! first two (0.5); `cargo bench --bench many -- crowd` runs the last one alone.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use support::limits::Warm;
use support::scene::Scene;
use support::{Folder, MIB, gib_from_environment, median, megabytes, piecework, random_file, start, text, watched};

const CROWD: usize = 64;

fn main() {
    support::bare::role();
    if std::env::args().any(|argument| argument == "crowd") {
        return crowd();
    }
    let length = gib_from_environment(0.5);
    let folder = Folder::in_memory("many");
    let content = folder.join("content");
    random_file(&content, length);
    let scene = Scene::publish(folder, content, length, &[]);
    let states: Vec<_> = (0..8).map(|number| scene.trust(&format!("state-{number}"))).collect();
    let mut warm = Warm::new(scene.folder.join("warm"), length);
    let seeds: Vec<_> = (0..8).map(|number| scene.seed(&number.to_string())).collect();
    let addresses: Vec<&str> = seeds.iter().map(|seed| seed.address.as_str()).collect();
    // What they serve is checked once before it counts.
    let mut to_one = |round: &str, peers: &[&str]| {
        let out = scene.folder.join(&format!("out-{round}"));
        warm.free_for(&out);
        let (took, usage, good) = watched(scene.get(&out, &states[0], peers));
        assert!(good, "get succeeds");
        (megabytes(length) / took, usage)
    };
    for (number, address) in addresses.iter().enumerate() {
        to_one(&format!("check-{number}"), &[address]);
    }
    let (mut alone, mut from_eight) = (Vec::new(), Vec::new());
    for round in 0..4 {
        alone.push(to_one(&format!("alone-{round}"), &addresses[..1]).0);
        let (rate, usage) = to_one(&format!("eight-{round}"), &addresses);
        println!(
            "one to one {:.0} MB/s; eight to one {rate:.0} MB/s, get {} MiB resident",
            alone[round],
            usage.peak_resident >> 20
        );
        from_eight.push(rate);
    }
    let alone = median(alone);
    println!("eight seeds to one get: {:.2} of one to one (median of 4; to reach: 0.90)", median(from_eight) / alone);
    to_eight(&scene, &seeds[0], &states, alone);
    drop(seeds);
    drop(scene);
    crowd();
}

fn to_eight(scene: &Scene, seed: &support::Serving, states: &[std::path::PathBuf], alone: f64) {
    let mut rates = Vec::new();
    // Room that is warm for all eight.
    let mut warm = Warm::new(scene.folder.join("warm-eight"), 8 * scene.length);
    for round in 0..3 {
        let outs: Vec<_> = (0..8).map(|number| scene.folder.join(&format!("{round}-{number}"))).collect();
        warm.free_for(&outs[0]);
        let began = Instant::now();
        let gets: Vec<_> =
            outs.iter().zip(states).map(|(out, state)| start(scene.get(out, state, &[&seed.address]))).collect();
        let ends: Vec<_> = gets.into_iter().map(support::process::Watched::end).collect();
        assert!(ends.iter().all(|(_, _, good)| *good), "get succeeds");
        let took = began.elapsed().as_secs_f64();
        let rate = megabytes(8 * scene.length) / took;
        let peak = ends.iter().map(|(_, usage, _)| usage.peak_resident >> 20).max().unwrap_or(0);
        println!(
            "one to eight: {rate:.0} MB/s in all; seed {} MiB, largest get {peak} MiB resident",
            seed.usage().peak_resident >> 20
        );
        rates.push(rate);
        outs[1..].iter().for_each(|out| std::fs::remove_file(out).expect("get made it"));
    }
    println!("one seed to eight gets: {:.2} of one to one (median of 3; to reach: 0.90)", median(rates) / alone);
}

/// A `get` that tells how far it is.
struct Told {
    child: Child,
    held: Arc<AtomicU64>,
    /// The last line that it printed.
    said: Arc<Mutex<String>>,
}

fn crowd() {
    let length = 96 * MIB;
    let folder = Folder::in_memory("crowd");
    let content = folder.join("content");
    random_file(&content, length);
    let scene = Scene::publish(folder, content, length, &[]);
    let config = scene.folder.join("config.toml");
    std::fs::write(&config, format!("[policy]\nupload_slots = {CROWD}\n")).expect("a folder of ours");
    let state = scene.folder.join("seed");
    let seed = support::Serving::start(&[
        "seed",
        text(&scene.content),
        "--manifest",
        text(&scene.manifest),
        "--listen",
        "127.0.0.1:0",
        "--mode",
        "simple",
        "--state",
        text(&state),
        "--config",
        text(&config),
    ]);
    let states: Vec<_> = (0..CROWD).map(|number| scene.trust(&format!("state-{number}"))).collect();
    let (done, first_done) = mpsc::channel();
    let began = Instant::now();
    let mut gets: Vec<Told> = Vec::new();
    for (number, state) in states.iter().enumerate() {
        let out = scene.folder.join(&format!("out-{number}"));
        let mut command = piecework(&["get", text(&scene.manifest), "-o", text(&out), "--peer", &seed.address]);
        command.args(["--mode", "simple", "--listen", "127.0.0.1:0", "--state", text(state), "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let held = Arc::new(AtomicU64::new(0));
        let said = Arc::new(Mutex::new(String::new()));
        let (seen, last, done) = (held.clone(), said.clone(), done.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(bytes) = number_of(&line, "\"bytes_held\":") {
                    seen.store(bytes, Ordering::Relaxed);
                }
                *last.lock().expect("nobody panics with it") = line;
            }
            let _ = done.send(());
        });
        gets.push(Told { child, held, said });
    }
    let all_began = || gets.iter().all(|get| get.held.load(Ordering::Relaxed) > 0);
    let give_up = Instant::now() + Duration::from_secs(30);
    while !all_began() && first_done.try_recv().is_err() && Instant::now() < give_up {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let snapshot = || gets.iter().map(|get| get.held.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let (from, since) = (snapshot(), Instant::now());
    let _ = first_done.recv_timeout(Duration::from_secs(60));
    let (to, counted) = (snapshot(), since.elapsed());
    let usage = seed.usage();
    for (number, get) in gets.iter_mut().enumerate() {
        let good = get.child.wait().expect("our child").success();
        assert!(good, "get {number} of the crowd succeeds: {:?}", get.said.lock());
    }
    let took = began.elapsed().as_secs_f64();
    let shares: Vec<f64> = from.iter().zip(&to).map(|(from, to)| (to - from) as f64).collect();
    let fair = shares.iter().sum::<f64>() / shares.len() as f64;
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "one seed to {CROWD} gets at once: {:.0} MB/s in all, starts included; counted for {:.1} s, the least share is \
         {:.2} of the fair one (to reach: 0.50); seed {} MiB resident at most (to reach: 128)",
        megabytes(CROWD as u64 * length) / took,
        counted.as_secs_f64(),
        least / fair,
        usage.peak_resident >> 20,
    );
}

fn number_of(line: &str, key: &str) -> Option<u64> {
    let (_, rest) = line.split_once(key)?;
    rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
}
