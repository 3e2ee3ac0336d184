//! Peers that come to be served and mean harm: a seed keeps its memory, and its time for others.

use std::io::{Read, Write};
use std::net::TcpStream;

use piecework::content::{Envelope, FileToList, ManifestBuilder, SigningKey, TreeHasher};
use piecework::content::{PieceLayout, SafePath, Sha256, tree};

use crate::support::hostile::{Hostile, Malice, Publication};
use crate::support::{PATIENCE, Running, Site, bytes, same};

const MIB: usize = 1 << 20;
/// By how much a seed may grow under attack.
const GROWTH_MAX: u64 = 32 << 20;

fn port_of(address: &str) -> u16 {
    let port = address.split('/').nth(4).and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no port in {address}"))
}

/// Somebody honest gets the file while the attack goes on.
fn others_are_served(site: &Site, seed: &str, content: &[u8]) {
    site.trust("s");
    site.get(&["f.piecework", "-o", "out", "--peer", seed, "--mode", "simple", "--state", "s"]).success();
    assert!(same(&site.path("out"), content));
}

fn grew_little(seed: &Running, before: u64) {
    let grown = seed.peak_resident().saturating_sub(before);
    eprintln!("{} KiB more resident than before", grown >> 10);
    assert!(before > 0 && grown < GROWTH_MAX, "{} KiB", grown >> 10);
}

#[test]
fn a_million_requests_that_are_never_read_fill_no_memory_and_starve_nobody() {
    let site = Site::new();
    let content = bytes(61, 24 * MIB);
    site.file("f", &content);
    let manifest = site.publish("f", &[]);
    let publication = Publication::new(std::fs::read(manifest).expect("published"), &content);
    let seed = site.seed("f", "seed-state");
    let address = seed.address();
    // What serving costs anyway.
    others_are_served(&site, &address, &content);
    std::fs::remove_file(site.path("out")).expect("it is there");
    let before = seed.peak_resident();
    let floods: Vec<Hostile> =
        (0..3).map(|_| Hostile::start(&publication, Malice::AsksWithoutReading(1_000_000))).collect();
    floods.iter().for_each(|flood| flood.attack(&address));
    floods.iter().for_each(|flood| flood.wait_for(|log| log.count(|log| &log.frames) > 1000));
    others_are_served(&site, &address, &content);
    floods.iter().for_each(|flood| flood.wait_for(|log| log.ended() > 0));
    grew_little(&seed, before);
}

#[test]
fn asking_for_the_manifest_without_reading_it_fills_no_memory() {
    let site = Site::new();
    let content = bytes(62, 2 * MIB);
    site.file("f", &content);
    // A manifest long enough for its largest parts: what an operator may write into annotations.
    let layout = PieceLayout::new(content.len() as u64).expect("short");
    let mut hasher = TreeHasher::new(layout);
    for (piece, block, range) in tree::blocks(&layout) {
        let block_bytes = &content[range.offset as usize..range.end() as usize];
        assert!(hasher.push(tree::hash_block(&layout, piece, block, block_bytes).expect("a block")));
    }
    let mut builder = ManifestBuilder::new("demo/f").sequence(1).file(FileToList {
        path: SafePath::new("f").expect("safe"),
        length: content.len() as u64,
        hashes: hasher.finish().expect("every block"),
        sha256: Sha256::new([1; 32]),
        sources: Vec::new(),
        executable: false,
    });
    for number in 0..200 {
        builder = builder.annotation(format!("{number:03}"), "x".repeat(4096));
    }
    let mut envelope = Envelope::unsigned(builder.build().expect("a manifest").payload().clone());
    let key = std::fs::read_to_string(site.path("key")).expect("a key");
    envelope.sign(&SigningKey::from_pem(&key).expect("ours")).expect("signed");
    let envelope = envelope.encode();
    site.file("f.piecework", &envelope);
    let publication = Publication::new(envelope, &content);
    let seed = site.seed("f", "seed-state");
    let address = seed.address();
    others_are_served(&site, &address, &content);
    let before = seed.peak_resident();
    let flood = Hostile::start(&publication, Malice::AsksForManifests(8000));
    flood.attack(&address);
    // All of it is written, or the seed takes no more: either way some thousand questions are under way.
    flood.wait_for(|log| log.count(|log| &log.frames) > 1000);
    std::fs::remove_file(site.path("out")).expect("it is there");
    others_are_served(&site, &address, &content);
    grew_little(&seed, before);
}

#[test]
fn half_open_connections_are_closed_and_starve_nobody() {
    let site = Site::new();
    let content = bytes(63, 4 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    let seed = site.seed("f", "seed-state");
    let address = seed.address();
    let before = seed.peak_resident();
    let port = port_of(&address);
    let mut crowd: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the seed listens");
            // The beginning of TLS, of libp2p, of nothing.
            let beginning: &[u8] = [&[0x16, 3, 1][..], &[0x13][..], &[]][number % 3];
            socket.write_all(beginning).expect("room for a byte");
            socket
        })
        .collect();
    others_are_served(&site, &address, &content);
    grew_little(&seed, before);
    for socket in &mut crowd {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // One more byte of the dribble; the seed may have had enough already.
        let _ = socket.write_all(&[0]);
        let end = socket.read_to_end(&mut Vec::new());
        let timed_out = end
            .as_ref()
            .is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!timed_out, "a half-open connection was left open for {PATIENCE:?}");
    }
}
