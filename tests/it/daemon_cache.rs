//! The daemon's cache in bounds: limits on real downloads, pins, removals, checks; a configuration read again while it runs.

use std::time::{Duration, Instant, SystemTime};

use piecework::surfaces::control::{Client, OPENAPI};
use serde_json::{Value, json};

use crate::daemon::{asked, cached_copy, fits, node, signal, status_when};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// A site whose `n` trusts the publisher of these files, each of so many MiB and served by a seed of its own.
fn site_with(files: &[(&str, usize)]) -> (Site, Vec<Running>) {
    let site = Site::new();
    site.trust("n");
    let seeds = files.iter().enumerate().map(|(number, (name, mib))| {
        site.file(name, &bytes(u8::try_from(90 + number).expect("few"), mib * MIB));
        site.publish(name, &[]);
        site.seed(name, &format!("seed-{name}"))
    });
    let seeds = seeds.collect();
    (site, seeds)
}

/// Gets a file through the daemon and waits until the daemon has let go of it.
fn get(site: &Site, name: &str) -> Value {
    // One that is there and right would be had without asking anybody.
    let _ = std::fs::remove_file(site.path(&format!("out-{name}")));
    let result =
        site.get(&[&format!("{name}.piecework"), "-o", &format!("out-{name}"), "--state", "n", "--force"]).success();
    status_when(site, |status| status["downloads"] == json!([]));
    result
}

fn names(site: &Site) -> Vec<String> {
    let listed = asked(site, &["cache", "list"]);
    // One that is just being removed has no name any more.
    let mut names: Vec<String> =
        listed.as_array().expect("rows").iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

/// Waits for the cache to hold these and no others.
fn holds(site: &Site, expected: &[&str]) {
    let began = Instant::now();
    while names(site) != expected {
        assert!(began.elapsed() < PATIENCE, "{:?}", names(site));
    }
}

#[test]
fn the_least_recently_used_makes_room_and_what_is_pinned_stays() {
    let (site, seeds) = site_with(&[("a", 2), ("b", 2), ("c", 2), ("d", 8)]);
    let config = site.file("c.toml", b"[policy]\nmax_cache_size = \"5 MiB\"\nmin_free_disk = 0\n");
    let addresses: Vec<String> = seeds.iter().map(Running::address).collect();
    let mut args = vec!["--config", "c.toml"];
    addresses.iter().for_each(|address| args.extend(["--peer", address]));
    let node = node(&site, &args, |_| ());
    get(&site, "a");
    site.ok(&["cache", "pin", "demo/a", "--state", "n"]);
    get(&site, "b");
    assert_eq!(names(&site), ["demo/a", "demo/b"]);
    get(&site, "c");
    assert_eq!(names(&site), ["demo/a", "demo/c"], "a is older and pinned");
    let log = asked(&site, &["log"]);
    let evicted =
        log.as_array().expect("records").iter().find(|record| record["what"] == "evicted").expect("it is told");
    assert!(evicted["why"].as_str().is_some_and(|why| why.contains("max_cache_size")), "{evicted}");
    for what in ["trusted", "fetched", "pinned"] {
        assert!(log.as_array().expect("records").iter().any(|record| record["what"] == what), "{what}: {log}");
    }
    // There is no room for it in the cache, and enough beside the destination.
    let own = site.get(&["d.piecework", "-o", "out-d", "--state", "n", "--peer", &addresses[3]]).success();
    assert_eq!(own["through_daemon"], false, "{own}");
    assert!(same(&site.path("out-d"), &bytes(93, 8 * MIB)));
    assert_eq!(names(&site), ["demo/a", "demo/c"], "what would not be enough is not evicted");

    // A limit that comes down while the daemon runs.
    std::fs::write(&config, "[policy]\nmax_cache_size = \"3 MiB\"\nmin_free_disk = 0\nupload_slots = 9\n")
        .expect("written");
    signal(&node, "-HUP");
    holds(&site, &["demo/a"]);
    let client = Client::new(&site.path("n/control.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let value = |key: &str| {
        let rows = runtime.block_on(client.get("/v1/config")).expect("rows");
        rows.as_array().expect("rows").iter().find(|row| row["key"] == key).expect("it is there")["value"].clone()
    };
    assert_eq!(value("policy.max_cache_size"), "\"3 MiB\"");
    assert_eq!(value("policy.upload_slots"), "8", "holds from the next start on");
    // One that is wrong is refused whole, and said with key, value, range and line.
    std::fs::write(&config, "[policy]\nmin_free_disk = 0\nmax_cache_size = \"huge\"\n").expect("written");
    signal(&node, "-HUP");
    let began = Instant::now();
    while !node.stderr().contains("max_cache_size is \"huge\"") {
        assert!(began.elapsed() < PATIENCE, "{}", node.stderr());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(node.stderr().contains("c.toml, line 3"), "{}", node.stderr());
    assert_eq!(value("policy.max_cache_size"), "\"3 MiB\"");
}

#[test]
fn what_may_be_the_last_copy_of_the_site_outstays_what_others_hold() {
    let (site, mut seeds) = site_with(&[("a", 2), ("b", 2), ("c", 2)]);
    // The older of the two comes from a web server, the newer from a neighbour that has it still.
    let origin = TestOrigin::start(bytes(90, 2 * MIB), Behaviour::Normal);
    site.publish("a", &[&origin.url("/file")]);
    drop(seeds.remove(0));
    site.file("c.toml", b"[policy]\nmax_cache_size = \"5 MiB\"\nmin_free_disk = 0\n");
    let addresses: Vec<String> = seeds.iter().map(Running::address).collect();
    let mut args = vec!["--config", "c.toml"];
    addresses.iter().for_each(|address| args.extend(["--peer", address]));
    let _node = node(&site, &args, |_| ());
    assert_eq!(n(&get(&site, "a"), "bytes_from_http"), 2 * MIB as u64);
    get(&site, "b");
    get(&site, "c");
    assert_eq!(names(&site), ["demo/a", "demo/c"], "b was used later, and is held elsewhere");
}

#[test]
fn what_was_of_no_use_for_long_goes_and_what_is_asked_for_is_removed() {
    let (site, seeds) = site_with(&[("a", 1), ("b", 1), ("c", 1)]);
    let addresses: Vec<String> = seeds.iter().map(Running::address).collect();
    let mut args = Vec::new();
    addresses.iter().for_each(|address| args.extend(["--peer", address.as_str()]));
    let _node = node(&site, &args, |node| _ = node.env("PIECEWORK_MIN_FREE_DISK", "0"));
    ["a", "b", "c"].iter().for_each(|name| _ = get(&site, name));
    let listed = asked(&site, &["cache", "list"]);
    let id = |name: &str| {
        let row = listed.as_array().expect("rows").iter().find(|row| row["name"] == name).expect("listed");
        row["manifest_id"].as_str().expect("an id").to_owned()
    };
    let used = std::fs::File::options().write(true).open(site.path("n/cache/entries").join(id("demo/a")).join("used"));
    used.expect("it was used").set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("set");
    assert_eq!(asked(&site, &["cache", "expire"])["removed"], json!([id("demo/a")]));
    assert_eq!(names(&site), ["demo/b", "demo/c"]);
    let ids = id("demo/b");
    site.ok(&["cache", "remove", &ids[..8], "--state", "n"]);
    site.refused(&["cache", "remove", "demo/b", "--state", "n"], 66, "input_missing");
    assert_eq!(std::fs::read_dir(site.path("n/cache/contents")).expect("a cache").count(), 1, "their data went too");
    // What a download wants stays.
    asked(&site, &["pause"]);
    let mut waiting = site.get(&["c.piecework", "-o", "waits", "--state", "n"]);
    status_when(&site, |status| status["downloads"][0]["claims"] == 1);
    waiting.kill();
    asked(&site, &["resume"]);
    assert_eq!(asked(&site, &["cache", "clear"])["removed"], json!([id("demo/c")]));
    assert!(names(&site).is_empty());
    // And it can be had again, whole.
    assert_eq!(n(&get(&site, "c"), "bytes_from_peers"), MIB as u64);
}

#[test]
fn a_rotten_piece_is_found_by_a_check_and_fetched_again_alone() {
    let (site, seeds) = site_with(&[("a", 4)]);
    let _node = node(&site, &["--peer", &seeds[0].address()], |node| _ = node.env("PIECEWORK_MIN_FREE_DISK", "0"));
    get(&site, "a");
    let right = asked(&site, &["cache", "verify", "demo/a"]);
    assert_eq!(
        (n(&right, "pieces_held"), &right["wrong_pieces"], &right["whole"]),
        (4, &json!([]), &json!(true)),
        "{right}"
    );
    let copy = cached_copy(&site);
    let mut rotten = bytes(90, 4 * MIB);
    rotten[3 * MIB + 5] ^= 1;
    std::fs::write(&copy, &rotten).expect("written");
    let said = site.run(&["cache", "verify", "demo/a", "--state", "n", "--json"]);
    let said_json: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!((said.status.code(), &said_json["wrong_pieces"]), (Some(65), &json!([3])), "{said_json}");
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    fits(&said_json, &document["components"]["schemas"]["Checked"], &document).expect("as described");
    assert_eq!(n(&get(&site, "a"), "bytes_from_peers"), MIB as u64, "that piece alone");
    assert!(same(&site.path("out-a"), &bytes(90, 4 * MIB)));
}
