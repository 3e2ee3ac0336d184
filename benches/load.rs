//! Does a node with a thousand peers answer whoever asks what it does, and what does a peer cost that wants nothing?
//!
//! First one node with 10,000 contents of 1 GiB in its cache and 1,000 peers that take pieces of a hundred of them without
//! end: the control API is asked all the while. Two cores are shared with the peers, so an answer waits for a few turns of the
//! scheduler: expected p99 some 20 ms; to reach 50 ms, with 512 MiB resident at most. Then an appliance with 10,000 peers that
//! have asked for a content and want nothing of it: a link, a session and its tasks, expected 30 KiB each; to reach 64 KiB.
//! `cargo bench --bench load -- peers` runs the second alone, `-- load` the first. `PIECEWORK_BENCH_SECONDS` is for how long
//! the API is asked (20), `PIECEWORK_BENCH_PEERS` how many idle peers there are.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::VecDeque;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use piecework::content::hash::ContentId;
use piecework::surfaces::control::Client;
use piecework::wire::Frame;
use support::contents::fill;
use support::light::{Heard, Light, address};
use support::process::{from_environment, raise_descriptors};
use support::{Folder, GIB, MIB, Serving, megabytes, text};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const CONTENTS: u64 = 10_000;
const PEERS: usize = 1_000;
/// Contents that the peers take pieces of.
const WANTED: usize = 100;
/// A refused peer asks again after this long.
const REFUSED: Duration = Duration::from_millis(40);
/// What is asked, in turn.
const ASKED: [&str; 4] = ["/v1/status", "/v1/peers", "/v1/perf", "/v1/downloads"];

fn main() {
    support::bare::role();
    let named = |name: &str| std::env::args().any(|argument| argument == name);
    raise_descriptors();
    if !named("peers") {
        load();
    }
    if !named("load") {
        idle_peers();
    }
}

/// A node over a cache of so many contents of so many bytes; where its socket is.
fn node(folder: &Folder, contents: u64, bytes: u64, more: &[&str]) -> (Serving, Vec<ContentId>, PathBuf) {
    let state = folder.join("state");
    // The state folder is its user's alone.
    std::fs::DirBuilder::new().mode(0o700).create(&state).expect("a folder of ours");
    let ids = fill(&state.join("cache"), contents, bytes);
    let config = folder.join("config.toml");
    std::fs::write(&config, "[policy]\nmin_free_disk = 0\nmax_cache_percent = 100\n").expect("a folder of ours");
    let args =
        ["node", "--listen", "127.0.0.1:0", "--mode", "simple", "--state", text(&state), "--config", text(&config)];
    (Serving::start(&[&args[..], more].concat()), ids, state.join("control.sock"))
}

fn load() {
    let folder = Folder::in_memory("load");
    let (node, ids, socket) = node(&folder, CONTENTS, GIB, &[]);
    let seconds = from_environment("PIECEWORK_BENCH_SECONDS", 20);
    let (moved, standing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let to = node.socket();
    println!("resident without a peer {} MiB", node.usage().resident >> 20);
    let (bytes, stand) = (Arc::clone(&moved), Arc::clone(&standing));
    let peers = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // A node has 512 handshakes under way at most.
            let turns = Arc::new(Semaphore::new(64));
            for number in 0..PEERS {
                let turn = Arc::clone(&turns).acquire_owned().await.expect("never closed");
                let content = ids[number % WANTED];
                let (bytes, stand) = (Arc::clone(&bytes), Arc::clone(&stand));
                tokio::spawn(async move {
                    let ended = take_pieces(to, number, content, turn, &bytes, &stand).await;
                    eprintln!("peer {number} has ended: {ended:?}");
                });
            }
            std::future::pending::<()>().await;
        });
    });
    let began = Instant::now();
    while standing.load(Ordering::Relaxed) < PEERS && began.elapsed() < Duration::from_secs(120) {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    println!(
        "{} of {PEERS} peers stand after {:.1} s",
        standing.load(Ordering::Relaxed),
        began.elapsed().as_secs_f64()
    );
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(&socket);
    let (before, since) = (moved.load(Ordering::Relaxed), Instant::now());
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); ASKED.len()];
    let mut counted = 0;
    while since.elapsed() < Duration::from_secs(seconds) {
        for (path, took) in ASKED.iter().zip(&mut took) {
            let began = Instant::now();
            let answer = runtime.block_on(client.get(path)).expect("it answers");
            took.push(began.elapsed().as_secs_f64() * 1e3);
            counted = answer["peer_count"].as_u64().unwrap_or(counted);
        }
    }
    let rate = megabytes(moved.load(Ordering::Relaxed) - before) / since.elapsed().as_secs_f64();
    println!("{counted} peers connected, {rate:.0} MB/s to them");
    for (path, took) in ASKED.iter().zip(&took) {
        println!(
            "  {path}: {} answers, p50 {:.1} ms, p99 {:.1} ms",
            took.len(),
            quantile(took, 0.5),
            quantile(took, 0.99)
        );
    }
    let all: Vec<f64> = took.concat();
    let p99 = quantile(&all, 0.99);
    let peak = node.usage().peak_resident >> 20;
    println!("control API: p99 {p99:.1} ms = {:.2} of the limit of 50 ms", p99 / 50.0);
    println!("resident at most {peak} MiB = {:.2} of the limit of 512 MiB", peak as f64 / 512.0);
    drop(node);
    drop(peers);
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// A peer that takes one piece after the other, as long as it is served.
async fn take_pieces(
    to: std::net::SocketAddr,
    number: usize,
    content: ContentId,
    turn: OwnedSemaphorePermit,
    bytes: &AtomicU64,
    standing: &AtomicUsize,
) -> std::io::Result<()> {
    let mut light = Light::connect(to, address(number)).await?;
    let pieces = u32::try_from(GIB / MIB).expect("few") + 1;
    let handle = light.open(&content, pieces).await?;
    standing.fetch_add(1, Ordering::Relaxed);
    drop(turn);
    light.say(&Frame::Interested { handle, interested: true }).await?;
    let mut next = u32::try_from(number).expect("few") % pieces;
    let (mut asked, mut offered) = (next, VecDeque::new());
    loop {
        match light.hear().await? {
            Heard::Frame(Frame::Choke { choked: false, .. }) => {}
            Heard::Piece(length) => {
                bytes.fetch_add(length, Ordering::Relaxed);
                // A first holder goes on to second copies when it hears of the first.
                light.say(&Frame::Have { handle, pieces: vec![asked] }).await?;
            }
            Heard::Frame(Frame::Have { pieces, .. }) => {
                offered.extend(pieces);
                continue;
            }
            // First copies come first; refused without an offer, a peer asks again a little later.
            Heard::Frame(Frame::Reject { .. }) if offered.is_empty() => tokio::time::sleep(REFUSED).await,
            Heard::Frame(Frame::Reject { .. }) => {}
            Heard::Frame(Frame::Goodbye { reason }) => {
                return Err(std::io::Error::other(format!("the node says goodbye: {reason:?}")));
            }
            Heard::Frame(_) => continue,
        }
        asked = offered.pop_front().unwrap_or(next);
        next = (next + u32::from(asked == next)) % pieces;
        light.say(&Frame::Request { handle, piece: asked, first_block: 0 }).await?;
    }
}

fn idle_peers() {
    let wanted = usize::try_from(from_environment("PIECEWORK_BENCH_PEERS", 10_000)).expect("few");
    let folder = Folder::in_memory("peers");
    // An engine has at most 1,024 peers.
    let contents = wanted.div_ceil(1_000).max(1);
    let (node, ids, _) = node(&folder, contents as u64, MIB, &["--role", "appliance"]);
    let before = node.usage();
    let to = node.socket();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let began = Instant::now();
    let standing = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let turns = Arc::new(Semaphore::new(64));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..wanted {
            let turn = Arc::clone(&turns).acquire_owned().await.expect("never closed");
            let (content, standing) = (ids[number % contents], Arc::clone(&standing));
            tasks.spawn(async move {
                let mut light = Light::connect(to, address(number)).await?;
                light.open(&content, 2).await?;
                standing.fetch_add(1, Ordering::Relaxed);
                drop(turn);
                Err::<(), _>(light.idle().await)
            });
        }
        let _all = turns.acquire_many(64).await.expect("never closed");
        // Buffers are given back after two seconds of quiet.
        let settled = tokio::time::sleep(Duration::from_secs(5));
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => break,
                Some(ended) = tasks.join_next() => eprintln!("a peer has ended: {ended:?}"),
            }
        }
        let (after, count) = (node.usage(), standing.load(Ordering::Relaxed).max(1));
        let each = |bytes: u64| bytes as f64 / count as f64 / 1024.0;
        let grown = after.resident.saturating_sub(before.resident);
        println!("{count} idle peers after {:.1} s", began.elapsed().as_secs_f64());
        println!(
            "resident {} MiB before, {} MiB after: {:.1} KiB each = {:.2} of the limit of 64 KiB (at the peak {:.1} KiB)",
            before.resident >> 20,
            after.resident >> 20,
            each(grown),
            each(grown) / 64.0,
            each(after.peak_resident.saturating_sub(before.resident)),
        );
    });
}
