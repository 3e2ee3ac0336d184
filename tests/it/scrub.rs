//! What rots on an appliance's disk is found before a peer asks for it: dropped, told to peers, and fetched again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::daemon::{asked, node, signal, status_when};
use crate::support::hostile::{Hostile, Malice, Publication};
use crate::support::tmpfs::Tmpfs;
use crate::support::{PATIENCE, Running, Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// Changes one byte as a disk does: the file looks as before.
fn rot(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("it is there");
    let modified = file.metadata().expect("a file").modified().expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    byte[0] ^= 1;
    file.write_all_at(&byte, at).expect("written");
    file.set_modified(modified).expect("its own");
}

/// Lets the clock of the machine in `machine` run ahead by so many seconds.
fn ahead(site: &Site, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_secs();
    site.file("machine/time", (now + seconds).to_string().as_bytes());
}

/// The appliance in `n` on that machine, which hashes everything once an hour.
fn appliance(site: &Site, args: &[&str], folders: &[String]) -> Running {
    ahead(site, 0);
    let config = format!("[policy]\nmin_free_disk = 0\n[appliance]\nscrub_interval = 3600\nfolders = {folders:?}\n");
    site.file("c.toml", config.as_bytes());
    let machine = site.text("machine");
    let args = [&["--role", "appliance", "--config", "c.toml", "-v"][..], args].concat();
    node(site, &args, |node| _ = node.env("PIECEWORK_MACHINE", machine))
}

fn records(site: &Site, what: &str) -> Vec<Value> {
    let log = asked(site, &["log"]);
    log.as_array().expect("records").iter().filter(|record| record["what"] == what).cloned().collect()
}

fn cached(site: &Site, content: &[u8]) -> std::path::PathBuf {
    site.path("n/cache/contents").join(blake3::hash(content).to_string())
}

#[test]
fn a_rotten_piece_of_the_cache_is_found_told_to_peers_and_fetched_again() {
    let (site, kept, passing) = (Site::new(), bytes(81, 4 * MIB), bytes(82, 3 * MIB + 5));
    site.trust("n");
    let seeds: Vec<Running> = [("kept", &kept), ("passing", &passing)]
        .map(|(name, content)| {
            site.file(name, content);
            site.publish(name, &[]);
            site.seed(name, &format!("seed-{name}"))
        })
        .into();
    let peers: Vec<String> = seeds.iter().map(Running::address).collect();
    let args = ["--fetch", "kept.piecework", "--peer", &peers[0], "--peer", &peers[1]];
    let node = appliance(&site, &args, &[]);
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let address = status["listening"][0].as_str().expect("an address").to_owned();
    // What a user fetched through the daemon, and nobody wants any more.
    site.get(&["passing.piecework", "-o", "out", "--state", "n"]).success();
    let publication = Publication::new(std::fs::read(site.path("kept.piecework")).expect("published"), &kept);
    let watcher = Hostile::start(&publication, Malice::Watches);
    watcher.attack(&address);
    watcher.wait_for(|log| log.count(|log| &log.frames) >= 3);

    rot(&cached(&site, &kept), MIB as u64 + 5);
    rot(&cached(&site, &passing), 3 * MIB as u64 + 1);
    ahead(&site, 1800);
    signal(&node, "-HUP");
    ahead(&site, 7200);
    signal(&node, "-HUP");
    watcher.wait_for(|log| log.lost() == [1]);
    let began = Instant::now();
    while !same(&cached(&site, &kept), &kept) || !same(&cached(&site, &passing), &passing) {
        assert!(began.elapsed() < PATIENCE, "{}", node.stderr());
    }
    let whole = |status: &Value| status["downloads"][0]["status"] == "complete" && status["downloads"][1].is_null();
    let hashed = |status: &Value| {
        let count = |key| n(&status["appliance"], key);
        (count("scrub_pieces_right"), count("scrub_pieces_lost")) == (6, 2)
            && status["appliance"]["scrubbing"].is_null()
    };
    status_when(&site, |status| whole(status) && hashed(status));
    let damaged = records(&site, "damaged");
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    let again = records(&site, "fetched");
    let why =
        |bytes: usize| again.iter().any(|record| record["why"] == format!("{bytes} bytes from peers, 0 over HTTP"));
    assert!(why(MIB) && why(5), "{again:?}");
    // An hour has passed for none of them since.
    signal(&node, "-HUP");
    assert!(site.ok(&["status", "--state", "n"]).contains("hashed again: 6 pieces right, 2 lost"));
}

#[test]
fn a_folder_in_a_watched_folder_is_served_and_what_is_changed_in_it_is_told() {
    let (site, one, two) = (Site::new(), bytes(83, 2 * MIB + 1), bytes(84, 700));
    site.file("tree/a/one", &one);
    site.file("tree/two", &two);
    site.publish("tree", &[]);
    ["n", "client"].iter().for_each(|state| site.trust(state));
    site.file("shelf/tree/a/one", &one);
    site.file("shelf/tree/two", &two);
    std::fs::copy(site.path("tree.piecework"), site.path("shelf/tree.piecework")).expect("copied");
    site.file("shelf/nonsense.piecework", b"no manifest at all");
    let node = appliance(&site, &[], &[site.text("shelf")]);
    let status = status_when(&site, |status| n(&status["appliance"], "watched_served") == 1);
    let refused = &status["appliance"]["refused"][0];
    assert!(refused["path"].as_str().is_some_and(|path| path.ends_with("nonsense.piecework")), "{status}");
    assert!(refused["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    let text = site.ok(&["status", "--state", "n"]);
    assert!(text.contains("1 served, 0 waiting, 1 refused") && text.contains("nonsense.piecework: "), "{text}");
    let address = status["listening"][0].as_str().expect("an address").to_owned();
    let get = |out: &str, more: &[&str]| {
        let args = ["tree.piecework", "-o", out, "--state", "client", "--mode", "simple", "--peer", &address];
        site.get(&[&args[..], more].concat())
    };
    let got = get("out", &[]).success();
    assert_eq!(n(&got, "bytes_from_peers"), (one.len() + two.len()) as u64, "{got}");
    assert!(same(&site.path("out/a/one"), &one) && same(&site.path("out/two"), &two));

    // A changed file shows when the folder is looked at. No hour has passed, so that nothing is hashed again.
    rot(&site.path("shelf/tree/a/one"), 9);
    let status = status_when(&site, |status| n(&status["appliance"], "watched_refused") == 2);
    assert_eq!(n(&status["appliance"], "scrub_pieces_lost"), 0, "{status}");
    let began = Instant::now();
    while records(&site, "damaged").len() != 1 {
        assert!(began.elapsed() < PATIENCE, "{}", node.stderr());
    }
}

#[test]
fn rot_in_a_watched_folder_that_no_stamp_shows_is_found_by_hashing_again() {
    let (site, content) = (Site::new(), bytes(85, 2 * MIB + 1));
    let (shelf, image) = (site.path("shelf"), site.path("image"));
    let Some(_medium) = Tmpfs::mount_trusting(&shelf, &image, 64 << 20) else { return };
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    site.file("shelf/f", &content);
    std::fs::copy(site.path("f.piecework"), site.path("shelf/f.piecework")).expect("copied");
    let mut node = appliance(&site, &[], &[site.text("shelf")]);
    status_when(&site, |status| n(&status["appliance"], "watched_served") == 1);
    Tmpfs::rot(&image, &site.path("shelf/f"), 5 * 4096 + 9);
    ahead(&site, 7200);
    signal(&node, "-HUP");
    let status = status_when(&site, |status| n(&status["appliance"], "scrub_pieces_lost") == 1);
    assert_eq!(n(&status["appliance"], "watched_refused"), 0, "a look at the folder shows nothing: {status}");
    let began = Instant::now();
    while records(&site, "damaged").len() != 1 {
        assert!(began.elapsed() < PATIENCE, "{}", node.stderr());
    }
    // Before its medium goes.
    assert_eq!(node.terminate(), Some(0));
}
