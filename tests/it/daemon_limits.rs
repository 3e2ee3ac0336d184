//! Policies that bound what a download may take: of the line, of the cache, and from whom.

use std::time::{Duration, Instant};

use piecework::wire::Frame;
use piecework::wire::version::Features;
use serde_json::{Value, json};

use crate::daemon::{asked, node, signal, status_when};
use crate::support::meeting::{Heard, Meeter, Script};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, free_ports, n, same};

const MIB: usize = 1 << 20;

/// The rate at which a download went; so many bytes in all.
fn rate(bytes: usize, began: Instant) -> f64 {
    bytes as f64 / began.elapsed().as_secs_f64()
}

#[test]
fn per_cents_are_of_the_line_as_it_was_measured_and_peers_of_the_site_do_not_count() {
    let (site, contents) = (Site::new(), [121, 122, 123].map(|seed| bytes(seed, 12 * MIB)));
    let files = ["/a", "/b", "/c"].map(str::to_owned).into_iter().zip(contents.clone()).collect();
    let origin = TestOrigin::start_files(files, Behaviour::Normal);
    for (name, content) in ["a", "b", "c"].iter().zip(&contents) {
        site.file(name, content);
        site.publish(name, &[&origin.url(&format!("/{name}"))]);
    }
    site.trust("n");
    // A thin line, played by a rate.
    site.file("c.toml", b"[policy]\nmax_background_rate = \"2 MB/s\"\nmin_free_disk = 0\n");
    let mut first = node(&site, &["--fetch", "a.piecework", "--config", "c.toml"], |_| ());
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    // The gates' look writes it down.
    signal(&first, "-HUP");
    let began = Instant::now();
    while !site.path("n/line-rates").exists() {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(first.terminate(), Some(0));
    // Half of what is remembered, over HTTP.
    site.file("c.toml", b"[policy]\nmax_background_percent = 50\nmin_free_disk = 0\n");
    let began = Instant::now();
    let args = ["--fetch", "b.piecework", "--config", "c.toml"];
    let mut second = node(&site, &args, |_| ());
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let reached = rate(contents[1].len(), began);
    println!("{reached:.0} bytes/s of a line of 2,000,000");
    assert!(reached <= 1.1e6, "{reached:.0} bytes/s where 1,000,000 are allowed");
    second.terminate();
    // A peer of the site brings it as fast as it can.
    let seed = site.seed("c", "seed-state");
    let began = Instant::now();
    let args = ["--fetch", "c.piecework", "--config", "c.toml", "--peer", &seed.address()];
    let _third = node(&site, &args, |node| _ = node.env("PIECEWORK_DELAY_BACKGROUND_HTTP", "60"));
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_peers"), contents[2].len() as u64, "{status}");
    let reached = rate(contents[2].len(), began);
    assert!(reached > 1.5e6, "{reached:.0} bytes/s, as if peers of the site counted");
}

#[test]
fn a_site_keeps_to_the_budget_of_its_line_whoever_fetches() {
    let (site, content) = (Site::new(), bytes(124, 12 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    ["s0", "s1"].iter().for_each(|state| site.trust(state));
    site.file("c.toml", b"[policy]\nline_budget = \"2 MB/s\"\nsite = \"here\"\nmin_background_rate = 0\n");
    let ports = free_ports::<2>().map(|port| format!("127.0.0.1:{port}"));
    let began = Instant::now();
    let gets: Vec<Running> = (0..2)
        .map(|number| {
            let (out, state) = (format!("out{number}"), format!("s{number}"));
            let (own, other) = (&ports[number], &ports[1 - number]);
            let args = ["f.piecework", "-o", &out, "--state", &state, "--mode", "simple", "--config", "c.toml"];
            site.get(&[&args[..], &["--no-daemon", "--listen", own, "--peer", other, "--keep-seeding"]].concat())
        })
        .collect();
    gets.iter().for_each(|get| assert!(get.success()["error"].is_null()));
    // What a site saves up while it is idle is asked for at once (see `LINE_BURST`).
    let allowed = 1.1 * 2e6 * (began.elapsed().as_secs_f64() + 2.0) + 2.0 * MIB as f64;
    let crossed = origin.seen().body_bytes as f64;
    println!("{crossed:.0} bytes in {:.1} s over a line of 2,000,000 a second", began.elapsed().as_secs_f64());
    assert!(crossed <= allowed, "{crossed:.0} bytes crossed, {allowed:.0} are allowed");
    assert!((0..2).all(|number| same(&site.path(&format!("out{number}")), &content)));
}

#[test]
fn nodes_that_fetch_different_contents_share_the_budget_of_their_line() {
    const EACH: usize = 16 * MIB;
    let (site, contents) = (Site::new(), [128, 129].map(|seed| bytes(seed, EACH)));
    let files = ["/a", "/b"].map(str::to_owned).into_iter().zip(contents.clone()).collect();
    let origin = TestOrigin::start_files(files, Behaviour::Normal);
    for (name, content) in ["a", "b"].iter().zip(&contents) {
        site.file(name, content);
        site.publish(name, &[&origin.url(&format!("/{name}"))]);
    }
    ["n", "s"].iter().for_each(|state| site.trust(state));
    let text = "[policy]\nline_budget = \"2 MB/s\"\nsite = \"here\"\nmin_background_rate = 0\nmin_free_disk = 0\n";
    site.file("c.toml", text.as_bytes());
    let began = Instant::now();
    let _daemon = node(&site, &["--fetch", "a.piecework", "--config", "c.toml"], |_| ());
    let address = asked(&site, &["status"])["listening"][0].as_str().expect("an address").to_owned();
    let args = ["b.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--config", "c.toml"];
    let get = site.get(&[&args[..], &["--no-daemon", "--peer", &address]].concat());
    // Neither has anything that the other wants.
    status_when(&site, |status| n(status, "line_shared_by") == 2);
    assert!(site.ok(&["status", "--state", "n"]).contains("shared by 2 contents of the site"));
    assert!(get.success()["error"].is_null());
    status_when(&site, |status| n(status, "line_shared_by") < 2);
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let (crossed, seconds) = (origin.seen().body_bytes as f64, began.elapsed().as_secs_f64());
    println!("{crossed:.0} bytes in {seconds:.1} s over a line of 2,000,000 a second");
    // Each may ask for what a second brings before it knows of the other, and for a piece.
    let allowed = 2e6 * (seconds + 3.0) + 2.0 * MIB as f64;
    assert!(crossed >= 2.0 * EACH as f64 && crossed <= allowed, "{crossed:.0} bytes crossed, {allowed:.0} are allowed");
    assert!(same(&site.path("out"), &contents[1]));
}

#[test]
fn who_makes_up_contents_takes_four_parts_of_the_line_and_none_once_it_is_gone() {
    let (site, content) = (Site::new(), bytes(130, 4 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    // So little that it lasts as long as the test.
    let text = "[policy]\nline_budget = \"10 KB/s\"\nmin_background_rate = 0\nmin_free_disk = 0\n";
    site.file("c.toml", text.as_bytes());
    let _daemon = node(&site, &["--fetch", "f.piecework", "--config", "c.toml"], |_| ());
    let address = asked(&site, &["status"])["listening"][0].as_str().expect("an address").to_owned();
    status_when(&site, |status| n(status, "line_shared_by") == 1);
    let says = |seed: u8, times: u64| {
        let words = |first: u64| (first..first + 4).map(|word| (1000 * u64::from(seed) + word).to_be_bytes()).collect();
        let frames = (0..times).map(|time| Frame::Sharing { contents: words(4 * time) }).collect();
        let liar = Meeter::start(seed, Features::OURS, Script::Says(frames));
        liar.dial(&address);
        liar
    };
    let _one = says(1, 200);
    status_when(&site, |status| n(status, "line_shared_by") == 5);
    let _other = says(2, 1);
    status_when(&site, |status| n(status, "line_shared_by") == 9);
    // Its next connection ends the one before.
    let _silent = [says(1, 0), says(2, 0)];
    status_when(&site, |status| n(status, "line_shared_by") == 1);
    // More than four at once is no protocol.
    let loud = Meeter::start(3, Features::OURS, Script::Says(vec![Frame::Sharing { contents: vec![[7; 8]; 5] }]));
    loud.dial(&address);
    while loud.hears() != Heard::Gone {}
    assert_eq!(n(&asked(&site, &["status"]), "line_shared_by"), 1);
}

/// A seed of `f` in a site of its own, which is outside for all others.
fn seed_elsewhere(site: &Site, name: &str) -> Running {
    let mut seed = command();
    let (manifest, state) = (format!("{name}.piecework"), format!("{name}-state"));
    seed.current_dir(site.path("")).env("PIECEWORK_SITE", "there");
    seed.args([
        "seed",
        name,
        "--manifest",
        &manifest,
        "--listen",
        "127.0.0.1:0",
        "--mode",
        "simple",
        "--state",
        &state,
    ]);
    Running::start(seed)
}

#[test]
fn two_contents_at_once_share_the_budget_of_the_line_over_http_and_from_peers_elsewhere() {
    let (site, contents) = (Site::new(), [126, 127].map(|seed| bytes(seed, 6 * MIB)));
    let origin = TestOrigin::start(contents[0].clone(), Behaviour::Normal);
    for (name, content) in ["a", "b"].iter().zip(&contents) {
        site.file(name, content);
    }
    // One comes over HTTP alone, the other from a peer of another site alone.
    site.publish("a", &[&origin.url("/file")]);
    site.publish("b", &[]);
    site.trust("n");
    let seed = seed_elsewhere(&site, "b");
    let address = seed.address();
    let text = "[policy]\nline_budget = \"2 MB/s\"\nsite = \"here\"\nmin_background_rate = 0\nmin_free_disk = 0\n";
    site.file("c.toml", text.as_bytes());
    let began = Instant::now();
    let args = ["--fetch", "a.piecework", "--fetch", "b.piecework", "--peer", &address, "--config", "c.toml"];
    let _node = node(&site, &args, |_| ());
    let complete = |status: &Value| (0..2).all(|number| status["downloads"][number]["status"] == "complete");
    let status = status_when(&site, complete);
    let reached = rate(12 * MIB, began);
    let sum = |key: &str| (0..2).map(|number| n(&status["downloads"][number], key)).sum::<u64>();
    println!("{reached:.0} bytes/s over a line of 2,000,000");
    assert_eq!((sum("bytes_from_http"), sum("bytes_from_peers")), (6 * MIB as u64, 6 * MIB as u64), "{status}");
    assert!(reached <= 2.1e6, "{reached:.0} bytes/s where 2,000,000 are allowed: {status}");
}

#[test]
fn the_id_of_a_group_comes_from_the_network_or_a_file_where_nobody_sets_it() {
    let (site, content) = (Site::new(), bytes(125, MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    site.file("lab.toml", b"[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab-7.example\"\n");
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "m", "--config", "lab.toml"]);
    let seed = Running::start(seed);
    let address = seed.address();
    for (source, file, text) in [
        ("dns-suffix", "etc/resolv.conf", "nameserver 10.0.0.1\nsearch lab-7.example other.example\n"),
        ("dhcp-option", "run/systemd/netif/leases/2", "OPTION_234=6c61622d372e6578616d706c65\n"),
        ("file", "etc/piecework/group-id", "lab-7.example\n"),
    ] {
        let machine = format!("machine-{source}");
        site.file(&format!("{machine}/{file}"), text.as_bytes());
        let mut get = command();
        let out = format!("out-{source}");
        get.current_dir(site.path("")).args([
            "get",
            "f.piecework",
            "-o",
            &out,
            "--state",
            "s",
            "--json",
            "--no-daemon",
        ]);
        get.args(["--peer", &address, "--timeout", "20"]).env("PIECEWORK_DOWNLOAD_MODE", "group");
        get.env("PIECEWORK_GROUP_ID_SOURCE", source).env("PIECEWORK_MACHINE", site.text(&machine));
        assert_eq!(n(&Running::start(get).success(), "bytes_from_peers"), content.len() as u64, "{source}");
    }
    // Nobody says it: peers are not met, and it says so; then somebody does.
    site.file("c.toml", b"[policy]\ndownload_mode = \"group\"\ngroup_id_source = \"file\"\nmin_free_disk = 0\n");
    site.file("machine/clock", b"10:00\n");
    site.trust("n");
    let mut daemon = command();
    daemon.current_dir(site.path("")).args(["node", "--state", "n", "--listen", "127.0.0.1:0", "--config", "c.toml"]);
    daemon.args(["--peer", &address, "--fetch", "f.piecework"]).env("PIECEWORK_MACHINE", site.text("machine"));
    let daemon = Running::start(daemon);
    while !site.path("n/control.sock").exists() {
        assert_eq!(daemon.line_within(Duration::from_millis(20)), None, "no address is told");
    }
    let status = status_when(&site, |status| status["gates"][0]["gate"] == "group_unknown");
    assert_eq!(n(&status, "peer_count"), 0, "{status}");
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "other", "--config", "c.toml"]).env("PIECEWORK_MACHINE", site.text("machine"));
    let mut seed = Running::start(seed);
    assert_eq!(seed.wait(), Some(77), "everybody would be served: {}", seed.stderr());
    assert!(seed.stderr().contains("group_id_source"), "{}", seed.stderr());
    site.file("machine/etc/piecework/group-id", b"lab-7.example\n");
    signal(&daemon, "-HUP");
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_peers"), content.len() as u64, "{status}");
}

#[test]
fn a_small_lone_file_comes_over_http_unless_peers_are_named_or_policy_says_otherwise() {
    let (site, content) = (Site::new(), bytes(126, MIB / 2));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("s");
    site.trust("n");
    for (least, from_peers) in [("1 MiB", 0), ("0 B", content.len() as u64)] {
        let config = format!(
            "[policy]\nmin_file_size_to_peer = \"{least}\"\nmin_free_disk = 0\n\
            delay_foreground_http = 60\ndelay_background_http = 60\n"
        );
        site.file("c.toml", config.as_bytes());
        let _ = std::fs::remove_dir_all(site.path("n/cache"));
        let _daemon = node(&site, &["--config", "c.toml"], |_| ());
        let address = asked(&site, &["status"])["listening"][0].as_str().expect("an address").to_owned();
        // Somebody who has it comes, and nobody here has named anybody.
        let mut seed = command();
        seed.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "m", "--listen", "127.0.0.1:0"]);
        seed.args(["--serve", "f=f.piecework", "--peer", &address]);
        let _seed = Running::start(seed);
        status_when(&site, |status| n(status, "peer_count") == 1);
        let got = site.get(&["f.piecework", "-o", &format!("out{from_peers}"), "--state", "n"]).success();
        assert_eq!((&got["through_daemon"], n(&got, "bytes_from_peers")), (&json!(true), from_peers), "{least}: {got}");
    }
    // Named peers are always asked.
    let seed = site.seed("f", "seed-state");
    let args = ["f.piecework", "-o", "named", "--state", "s", "--mode", "simple", "--no-daemon", "--peer"];
    let mut get = command();
    get.current_dir(site.path("")).arg("get").args(args).arg(seed.address()).arg("--json");
    get.env("PIECEWORK_DELAY_FOREGROUND_HTTP", "60");
    assert_eq!(n(&Running::start(get).success(), "bytes_from_peers"), content.len() as u64);
}

#[test]
fn a_manifest_that_is_too_old_is_refused() {
    let (site, content) = (Site::new(), bytes(127, MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    site.file("old.toml", b"[policy]\nmax_age_of_manifest = 1\nmin_free_disk = 0\n");
    let args = ["get", "f.piecework", "-o", "old", "--state", "n", "--mode", "http-only", "--no-daemon", "--force"];
    let began = Instant::now();
    // It grows older by itself.
    loop {
        let output = site.run(&[&args[..], &["--config", "old.toml"]].concat());
        if output.status.code() == Some(77) {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("[expired]") && said.contains("max_age_of_manifest is 1"), "{said}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{output:?}");
    }
    let daemon = node(&site, &["--fetch", "f.piecework", "--config", "old.toml"], |_| ());
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "waiting");
    assert_eq!(status["downloads"][0]["code"], "expired", "{status}");
    assert!(site.ok(&["log", "--state", "n"]).contains("max_age_of_manifest"));
    drop(daemon);
    site.file("old.toml", b"[policy]\nmax_age_of_manifest = 86400\nmin_free_disk = 0\n");
    let _daemon = node(&site, &["--fetch", "f.piecework", "--config", "old.toml"], |_| ());
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
}

#[test]
fn a_user_and_a_publisher_have_so_much_of_the_cache_and_no_more() {
    let site = Site::new();
    let contents = [("a", 2 * MIB), ("b", 2 * MIB), ("c", 4 * MIB)].map(|(name, length)| {
        let content = bytes(name.as_bytes()[0], length);
        site.file(name, &content);
        site.publish(name, &[]);
        content
    });
    site.trust("n");
    site.file("c.toml", b"[policy]\nuser_quota = \"3 MiB\"\nmin_free_disk = 0\n");
    let seeds = ["a", "b", "c"].map(|name| site.seed(name, &format!("seed-{name}")));
    let peers = seeds.each_ref().map(Running::address);
    let _daemon =
        node(&site, &["--config", "c.toml", "--peer", &peers[0], "--peer", &peers[1], "--peer", &peers[2]], |_| ());
    let get = |name: &str, peer: &str| {
        site.get(&[&format!("{name}.piecework"), "-o", &format!("out-{name}"), "--state", "n", "--peer", peer])
            .success()
    };
    assert_eq!(get("a", &peers[0])["through_daemon"], true);
    let names = || {
        let cache = asked(&site, &["cache", "list"]);
        cache.as_array().expect("rows").iter().map(|row| row["name"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(names(), [json!("demo/a")]);
    // `get` has let go of the first: it makes room for the second.
    let began = Instant::now();
    while n(&asked(&site, &["perf"]), "downloads") > 0 {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_eq!(get("b", &peers[1])["through_daemon"], true);
    assert_eq!(names(), [json!("demo/b")]);
    assert!(site.ok(&["log", "--state", "n"]).contains("user_quota of"));
    // What is larger than the quota is fetched without the daemon.
    let got = get("c", &peers[2]);
    assert_eq!((&got["through_daemon"], n(&got, "bytes_total")), (&json!(false), contents[2].len() as u64), "{got}");
    assert_eq!(names(), [json!("demo/b")]);
    assert!(same(&site.path("out-c"), &contents[2]));
}
