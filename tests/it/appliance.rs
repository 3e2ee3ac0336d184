//! The seed of a site: what appears in its folders is served once it is whole, what goes is withdrawn, and what is to be
//! prefetched is there before anybody asks.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{asked, node, status_when};
use crate::support::{PATIENCE, Running, Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// Waits until the node has said something on stderr.
fn says(node: &Running, what: &str, times: usize) {
    let began = Instant::now();
    while node.stderr().matches(what).count() < times {
        assert!(began.elapsed() < PATIENCE, "no {what:?} in {}", node.stderr());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn what_lies_in_a_watched_folder_is_served_once_it_is_whole_and_withdrawn_when_it_goes() {
    let site = Site::new();
    let content = bytes(71, 3 * MIB + 9);
    site.file("f", &content);
    site.publish("f", &[]);
    site.ok(&["key", "new", &site.text("other")]);
    site.ok(&["publish", "f", "--key", "other", "--name", "demo/f", "-o", "stranger.piecework", "-q"]);
    ["n", "client"].iter().for_each(|state| site.trust(state));
    std::fs::create_dir(site.path("shelf")).expect("made");
    site.file("c.toml", format!("[appliance]\nfolders = [{:?}]\n", site.text("shelf")).as_bytes());
    let node = node(&site, &["--role", "appliance", "--config", "c.toml", "-v"], |_| ());
    let address = asked(&site, &["status"])["listening"][0].as_str().expect("an address").to_owned();

    // A stranger's manifest, and one that came before its content, of which the half is there.
    std::fs::copy(site.path("stranger.piecework"), site.path("shelf/f-of-a-stranger.piecework")).expect("copied");
    std::fs::copy(site.path("f.piecework"), site.path("shelf/f.piecework")).expect("copied");
    site.file("shelf/f", &content[..2 * MIB]);
    says(&node, "is refused", 1);
    let log = asked(&site, &["log"]);
    let refused = |record: &&serde_json::Value| record["what"] == "refused";
    let record = log.as_array().expect("records").iter().find(refused).expect("it is told");
    assert!(record["subject"].as_str().is_some_and(|path| path.ends_with("f-of-a-stranger.piecework")), "{record}");
    // As long as it ought to be, and wrong: it was allocated as a whole and is being filled.
    let mut filling = content.clone();
    filling[2 * MIB..].fill(0);
    site.file("shelf/f", &filling);
    says(&node, "is not what its manifest says", 1);
    assert!(!node.stderr().contains("served from its folder"), "{}", node.stderr());
    site.file("shelf/f", &content);
    says(&node, "served from its folder", 1);
    let get = |out: &str| {
        site.get(&[
            "f.piecework",
            "-o",
            out,
            "--state",
            "client",
            "--mode",
            "simple",
            "--peer",
            &address,
            "--timeout",
            "3",
        ])
    };
    let result = get("out").success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    assert!(same(&site.path("out"), &content));

    // Changed, then gone.
    std::fs::remove_file(site.path("shelf/f.piecework")).expect("removed");
    says(&node, "withdrawn", 1);
    let mut nobody = get("out-2");
    assert_ne!(nobody.wait(), Some(0), "nobody serves it: {}", nobody.stderr());
    assert!(!site.path("out-2").exists());
}

#[test]
fn what_is_to_be_prefetched_is_there_before_anybody_asks() {
    let site = Site::new();
    let content = bytes(72, 2 * MIB);
    site.file("f", &content);
    let manifest = site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    site.file("c.toml", format!("[appliance]\nprefetch = [{:?}]\n", manifest.display().to_string()).as_bytes());
    let _node = node(&site, &["--role", "appliance", "--config", "c.toml", "--peer", &seed.address()], |_| ());
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_peers"), content.len() as u64, "{status}");
    assert_eq!(asked(&site, &["cache", "list"])[0]["name"], json!("demo/f"));
}
