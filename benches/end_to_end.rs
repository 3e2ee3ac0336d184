//! How fast does one seed feed one `get` over loopback, encrypted, verified and stored, and what does it cost?
//!
//! One run measures the machine's limits, then in turns a bare program of TLS + BLAKE3 + `pwrite` in two processes (with
//! a receiver of one thread and of two: the better median counts) and real `piecework` processes over the same file,
//! first in memory (page cache to page cache), then on the disk, where both sync every byte before the end. On two cores
//! both ends share them, so the sum of all costs is what counts.
//!
//! Expected: at least 0.9 of the bare program; at least 1.7 times 586 MB/s where plain TCP does 2,000; at most 1.8 CPU
//! s/GiB of both sides; 32 MiB resident each; 50 ms from the start of the process to the first payload byte; a handshake
//! in 2 ms. `PIECEWORK_BENCH_GIB` sets the size (1).

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use support::bare::Bare;
use support::scene::Scene;
use support::{Folder, GIB, MIB, gib_from_environment, limits, median, megabytes, random_file, start, watched};

/// What libtorrent 2 moved on such a machine, in the clear, for the ratio that people ask for.
const LIBTORRENT: f64 = 586.0;

fn main() {
    support::bare::role();
    let length = gib_from_environment(1.0);
    let (memory, disk) = (Folder::in_memory("end-to-end"), Folder::new("end-to-end"));
    // The first use of memory is slow on virtual machines: see `limits::Warm`.
    limits::Warm::new(memory.join("warm"), 2 * length).free_for(&memory.join("none"));
    let tcp = limits::print(length, &[("memory", &memory.0), ("disk", &disk.0)]);
    for (name, folder) in [("memory", memory), ("disk", disk)] {
        one_to_one(name, folder, length, tcp);
    }
    start_up();
}

fn one_to_one(name: &str, folder: Folder, length: u64, tcp: f64) {
    let content = folder.join("content");
    random_file(&content, length);
    let mut warm = limits::Warm::new(folder.join("warm"), length);
    let gib = length as f64 / GIB as f64;
    let scene = Scene::publish(folder, content, length, &[]);
    let state = scene.folder.join("state");
    let seed = scene.seed("one");
    let (mut rates, mut costs, mut bare) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..6 {
        for (rates, threads) in bare.iter_mut().zip([1, 2]) {
            let out = scene.folder.join(&format!("bare-{round}"));
            warm.free_for(&out);
            let found = Bare::measure(&scene.content, &out, threads);
            println!(
                "{name}: bare program, receiver of {threads} thread(s): {:.0} MB/s; CPU s/GiB: send {:.2} + receive {:.2}",
                found.rate,
                found.send.cpu_seconds / gib,
                found.receive.cpu_seconds / gib,
            );
            rates.push(found.rate);
        }
        let out = scene.folder.join(&format!("out-{round}"));
        let before = seed.usage();
        warm.free_for(&out);
        let (took, get, good) = watched(scene.get(&out, &state, &[&seed.address]));
        assert!(good, "get succeeds");
        let rate = megabytes(length) / took;
        let after = seed.usage();
        let seed_cpu = (after.cpu_seconds - before.cpu_seconds) / gib;
        let get_cpu = get.cpu_seconds / gib;
        println!(
            "{name}: {} {rate:>5.0} MB/s; CPU s/GiB: seed {seed_cpu:.2} + get {get_cpu:.2} (kernel {:.2} + {:.2}); \
             peak MiB resident (anonymous): seed {} ({}), get {} ({})",
            if round == 0 { "first send (checks what it serves)" } else { "later send                        " },
            (after.system_seconds - before.system_seconds) / gib,
            get.system_seconds / gib,
            after.peak_resident >> 20,
            after.anonymous >> 20,
            get.peak_resident >> 20,
            get.peak_anonymous >> 20,
        );
        if round > 0 {
            rates.push(rate);
            costs.push(seed_cpu + get_cpu);
        }
    }
    let rate = median(rates);
    let bare = bare.map(median).into_iter().fold(0.0, f64::max);
    println!(
        "{name}: one seed to one get, {gib:.2} GiB: {rate:.0} MB/s (median of 5) = {:.2} of the bare program (to reach: \
         0.90) = {:.2} of plain TCP = {:.2} times {LIBTORRENT} MB/s (to reach: 1.7); {:.2} CPU s/GiB (to reach: 1.8)",
        rate / bare,
        rate / tcp,
        rate / LIBTORRENT,
        median(costs),
    );
}

/// A small content through a relay that looks at its watch.
fn start_up() {
    let folder = Folder::in_memory("start");
    let content = folder.join("content");
    random_file(&content, 4 * MIB);
    let scene = Scene::publish(folder, content, 4 * MIB, &[]);
    let state = scene.folder.join("state");
    let seed = scene.seed("one");
    let (mut firsts, mut handshakes, mut wholes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..9 {
        let (relay, seen) = relay(seed.socket());
        let out = scene.folder.join("out");
        let peer = relay.to_string();
        let began = Instant::now();
        let get = start(scene.get(&out, &state, &[&peer]));
        let seen: Seen = seen.recv_timeout(Duration::from_secs(10)).expect("payload comes");
        let (whole, _, good) = get.end();
        assert!(good, "get succeeds");
        firsts.push((seen.payload - began).as_secs_f64() * 1e3);
        handshakes.push((seen.finished - seen.hello).as_secs_f64() * 1e3);
        wholes.push(whole * 1e3);
        std::fs::remove_file(&out).expect("get made it");
    }
    println!(
        "start of the process to the first payload byte: {:.1} ms (to reach: 50); to its end with 4 MiB stored {:.1} ms; \
         handshake, ClientHello to Finished, through a relay: {:.2} ms (to reach: 2); medians of 9",
        median(firsts),
        median(wholes),
        median(handshakes),
    );
}

/// When a relay saw what.
struct Seen {
    /// The first byte of the dialler.
    hello: Instant,
    /// Its first byte after an answer: the end of its handshake.
    finished: Instant,
    /// More than a handshake and control frames from the listener.
    payload: Instant,
}

/// Passes one connection on to `to`; tells when payload began.
fn relay(to: SocketAddr) -> (SocketAddr, std::sync::mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (tell, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (dialler, _) = listener.accept().expect("get dials");
        let listener = TcpStream::connect(to).expect("the seed listens");
        let (up, down) = (dialler.try_clone().expect("a socket"), listener.try_clone().expect("a socket"));
        let (times, dialled) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            copy(up, down, &mut |_, _| {
                let _ = times.send(Instant::now());
            })
        });
        let mut payload_of: Option<Sender<Seen>> = Some(tell);
        copy(listener, dialler, &mut |total, _| {
            if total > 64 << 10
                && let Some(tell) = payload_of.take()
            {
                let payload = Instant::now();
                let times: Vec<Instant> = dialled.try_iter().collect();
                drop(tell.send(Seen { hello: times[0], finished: times[1], payload }));
            }
        });
    });
    (address, seen)
}

fn copy(mut from: TcpStream, mut to: TcpStream, told: &mut dyn FnMut(u64, usize)) {
    to.set_nodelay(true).expect("a socket");
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        total += read as u64;
        told(total, read);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
