//! Peers share: a seed feeds a get, a get feeds another, a link is enough, a folder arrives whole.

use crate::support::{Running, Site, bytes, command, free_ports, n, same};

const MIB: usize = 1 << 20;

#[test]
fn a_get_takes_everything_from_a_seed() {
    let site = Site::new();
    let content = bytes(1, 9 * MIB + 5);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let get = site.get(&["f.piecework", "-o", "out", "--peer", &peer, "--mode", "simple", "--state", "s"]);
    let result = get.success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64);
    assert_eq!(result["content_id"], blake3::hash(&content).to_hex().as_str());
    assert!(same(&site.path("out"), &content));
    assert!(!site.path("out.part").exists());
    // Again: the destination already has the right bytes, which is success.
    let again = site.get(&["f.piecework", "-o", "out", "--mode", "simple", "--state", "s"]).success();
    assert_eq!(n(&again, "bytes_already_held"), content.len() as u64);
}

#[test]
fn each_way_to_a_peer_delivers() {
    let site = Site::new();
    let content = bytes(2, 5 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    for way in ["direct", "stream"] {
        let out = format!("out-{way}");
        let args = ["f.piecework", "-o", &out, "--peer", &peer, "--mode", "simple", "--state", "s", "--way", way];
        assert_eq!(n(&site.get(&args).success(), "bytes_from_peers"), content.len() as u64, "{way}");
    }
}

#[test]
fn a_finished_get_seeds_on_and_a_link_is_enough() {
    let site = Site::new();
    let content = bytes(3, 4 * MIB + 1);
    site.file("f", &content);
    let origin = site.file("copy/f", &content);
    site.publish("f", &[]);
    site.trust("s1");
    let mut seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let mut first = site.get(&[
        "f.piecework",
        "-o",
        "one",
        "--peer",
        &peer,
        "--mode",
        "simple",
        "--state",
        "s1",
        "--keep-seeding",
        "--listen",
        "127.0.0.1:0",
    ]);
    let address = first.address();
    first.success();
    assert_eq!(seed.terminate(), Some(0), "a seed stopped by SIGTERM has done its job");
    // The second machine trusts nobody: from a bare content id it needs nothing but the id.
    let link = format!("piecework:{}", blake3::hash(&content).to_hex());
    let second = site.get(&[&link, "-o", "two", "--peer", &address, "--mode", "simple", "--state", "s2"]);
    second.success();
    assert!(same(&site.path("two"), &content));
    // By manifest id the manifest itself must be trusted.
    let shown = site.ok(&["inspect", "f.piecework", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let link = format!("piecework:manifest:{}", shown["manifest_id"].as_str().expect("text"));
    let untrusting = ["get", &link, "-o", "x", "--peer", &address, "--mode", "simple", "--state", "s2"];
    site.refused(&untrusting, 77, "unknown_publisher");
    let third = site.get(&[&link, "-o", "three", "--peer", &address, "--mode", "simple", "--state", "s1"]);
    third.success();
    assert!(same(&site.path("three"), &content));
    assert_eq!(first.terminate(), Some(0));
    drop(origin);
}

#[test]
fn a_folder_arrives_whole_with_its_empty_and_executable_files() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    site.file("d/a.bin", &bytes(4, 2 * MIB + 7));
    site.file("d/sub/empty", b"");
    let tool = site.file("d/sub/tool", b"#!/bin/sh\n");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("ours");
    for index in 0..50 {
        site.file(&format!("d/many/{index}"), &bytes(5, 100 + index));
    }
    site.publish("d", &[]);
    site.trust("s");
    let seed = site.seed("d", "seed-state");
    let peer = seed.address();
    site.get(&["d.piecework", "-o", "copy", "--peer", &peer, "--mode", "simple", "--state", "s"]).success();
    site.ok(&["verify", "copy", "d.piecework", "--key", "key.pub"]);
    let mode = std::fs::metadata(site.path("copy/sub/tool")).expect("it arrived").permissions().mode();
    assert_eq!(mode & 0o100, 0o100);
    assert!(same(&site.path("copy/sub/empty"), b""));
}

#[test]
fn three_peers_find_each_other_through_one() {
    let site = Site::new();
    let content = bytes(6, 24 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let gets: Vec<Running> = (0..3)
        .map(|index| {
            let (state, out) = (format!("s{index}"), format!("out{index}"));
            site.trust(&state);
            site.get(&[
                "f.piecework",
                "-o",
                &out,
                "--peer",
                &peer,
                "--mode",
                "simple",
                "--state",
                &state,
                "--keep-seeding",
                "--listen",
                "127.0.0.1:0",
            ])
        })
        .collect();
    for (index, get) in gets.iter().enumerate() {
        get.success();
        assert!(same(&site.path(&format!("out{index}")), &content));
    }
}

#[test]
fn a_node_keeps_a_content_over_a_restart_and_serves_it() {
    let site = Site::new();
    let content = bytes(7, 6 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    site.trust("s");
    let [port] = free_ports::<1>();
    let listen = format!("127.0.0.1:{port}");
    let node = |peer: Option<&str>| {
        let mut command = command();
        command.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", &listen]);
        command.args(["--fetch", "f.piecework"]);
        if let Some(peer) = peer {
            command.args(["--peer", peer]);
        }
        Running::start(command)
    };
    let mut seed = site.seed("f", "seed-state");
    let mut running = node(Some(&seed.address()));
    let address = running.address();
    site.get(&["f.piecework", "-o", "one", "--peer", &address, "--mode", "simple", "--state", "s"]).success();
    // While the first get ran, the node had all of it or was about to; asking it alone must work once it has.
    site.get(&["f.piecework", "-o", "two", "--peer", &address, "--mode", "simple", "--state", "s"]).success();
    seed.terminate();
    assert_eq!(running.terminate(), Some(0));
    let mut running = node(None);
    let address = running.address();
    site.get(&["f.piecework", "-o", "three", "--peer", &address, "--mode", "simple", "--state", "s"]).success();
    assert!(same(&site.path("three"), &content));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_node_serves_files_where_they_lie_and_notices_what_has_changed() {
    let site = Site::new();
    let contents = [bytes(11, 2 * MIB + 5), bytes(12, MIB)];
    let mut node = command();
    node.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0"]);
    for (name, content) in ["a", "b"].iter().zip(&contents) {
        site.file(name, content);
        site.publish(name, &[]);
        node.args(["--serve", &format!("{name}={name}.piecework")]);
    }
    site.trust("s");
    // The cache is there too, and empty: one place more to look into.
    let mut running = Running::start(node);
    let address = running.address();
    let get = |name: &str, out: &str| {
        site.get(&[name, "-o", out, "--peer", &address, "--mode", "simple", "--state", "s", "--timeout", "5"])
    };
    get("a.piecework", "one").success();
    assert!(same(&site.path("one"), &contents[0]));
    // By the content alone, manifest included.
    let id = blake3::hash(&contents[1]).to_hex();
    get(&format!("piecework:{id}"), "two").success();
    assert!(same(&site.path("two"), &contents[1]));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_node_that_knew_a_content_id_alone_passes_content_and_manifest_on_after_a_restart() {
    let site = Site::new();
    let content = bytes(14, 2 * MIB + 1);
    site.file("f", &content);
    site.publish("f", &[]);
    let link = format!("piecework:{}", blake3::hash(&content).to_hex());
    let node = |peer: Option<&str>| {
        let mut command = command();
        command.current_dir(site.path("")).args([
            "node",
            "--mode",
            "simple",
            "--state",
            "n",
            "--listen",
            "127.0.0.1:0",
        ]);
        command.args(peer.into_iter().flat_map(|peer| ["--peer", peer, "--fetch", &link]));
        Running::start(command)
    };
    let get = |out: &str, peer: &str| {
        site.get(&[&link, "-o", out, "--peer", peer, "--mode", "simple", "--state", "s", "--timeout", "20"]).success();
        assert!(same(&site.path(out), &content));
    };
    let mut seed = site.seed("f", "seed-state");
    let mut running = node(Some(&seed.address()));
    // The first may come from either; after it the node has all, or soon will, and the second waits for that.
    let address = running.address();
    get("one", &address);
    get("two", &address);
    assert_eq!(seed.terminate(), Some(0));
    assert_eq!(running.terminate(), Some(0));
    let mut running = node(None);
    get("three", &running.address());
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_served_file_that_went_away_is_left_out_and_named() {
    let site = Site::new();
    site.file("a", &bytes(13, MIB));
    site.publish("a", &[]);
    site.trust("s");
    let mut node = command();
    node.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0"]);
    node.args(["--serve", "a=a.piecework"]);
    let mut running = Running::start(node);
    let address = running.address();
    std::fs::remove_file(site.path("a")).expect("it was there");
    let get = site.get(&[
        "a.piecework",
        "-o",
        "one",
        "--peer",
        &address,
        "--mode",
        "simple",
        "--state",
        "s",
        "--timeout",
        "2",
    ]);
    assert_eq!(get.result()["error"]["code"], "no_source");
    assert!(running.stderr().contains("a served content is left out"), "{}", running.stderr());
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn peers_on_one_lan_find_each_other_by_themselves() {
    let site = Site::new();
    let content = bytes(8, 3 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--state", "seed-state"]);
    seed.args(["--mode", "lan", "--listen", "127.0.0.1:0", "-v"]);
    let seed = Running::start(seed);
    seed.address();
    let args =
        ["f.piecework", "-o", "out", "--mode", "lan", "--listen", "127.0.0.1:0", "--state", "s", "--timeout", "30"];
    let get = site.get(&args);
    let result = get.result();
    if get.stderr().contains("no discovery on this LAN") || seed.stderr().contains("no discovery on this LAN") {
        eprintln!("skipped: multicast is not available here");
        return;
    }
    assert!(result["error"].is_null(), "{result}; seed: {}; get: {}", seed.stderr(), get.stderr());
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64);
    assert!(same(&site.path("out"), &content));
}
