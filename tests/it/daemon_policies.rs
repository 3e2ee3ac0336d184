//! Policies at work, on real traffic: rates, hours, and gates by the state of a machine that a folder plays.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{asked, node, signal, status_when};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// That so many bytes were not moved faster than a rate, a tenth allowed. How much slower is the machine's affair.
fn keeps_to(rate: f64, moved: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    let reached = moved as f64 / seconds;
    println!("{reached:.0} bytes/s where {rate:.0} are allowed");
    assert!(reached <= 1.1 * rate, "{reached:.0} bytes/s where {rate:.0} are allowed");
}

/// A folder that plays a machine, with nothing in it.
fn machine(site: &Site) -> String {
    site.file("machine/clock", b"10:00\n");
    site.text("machine")
}

#[test]
fn uploads_keep_to_their_rate_over_all_contents_and_peers() {
    // Two contents, so that those who get them have nothing for each other.
    let (site, contents) = (Site::new(), [bytes(31, 6 * MIB), bytes(37, 6 * MIB)]);
    let names = ["f", "g"];
    for (name, content) in names.iter().zip(&contents) {
        site.file(name, content);
        site.publish(name, &[]);
    }
    let serve = ["--serve", "f=f.piecework", "--serve", "g=g.piecework"];
    let _node = node(&site, &serve, |node| _ = node.env("PIECEWORK_MAX_UPLOAD_RATE", "4 MB/s"));
    let status = asked(&site, &["status"]);
    let address = status["listening"][0].as_str().expect("an address");
    let began = Instant::now();
    let gets = names.map(|name| {
        let state = format!("s-{name}");
        site.trust(&state);
        let (manifest, out) = (format!("{name}.piecework"), format!("out-{name}"));
        site.get(&[&manifest, "-o", &out, "--state", &state, "--mode", "simple", "--no-daemon", "--peer", address])
    });
    gets.iter().for_each(|get| assert_eq!(n(&get.success(), "bytes_from_peers"), 6 * MIB as u64));
    keeps_to(4e6, 12 * MIB, began.elapsed());
    assert!(same(&site.path("out-f"), &contents[0]) && same(&site.path("out-g"), &contents[1]));
}

#[test]
fn a_foreground_download_keeps_to_its_rate_from_peers_and_http_together() {
    let (site, content) = (Site::new(), bytes(32, 8 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("s");
    let config = site.file("c.toml", b"[policy]\nmax_foreground_rate = \"4 MB/s\"\n");
    let config = config.to_str().expect("text");
    for peer in [true, false] {
        let seed = site.seed("f", "seed-state");
        let out = format!("out-{peer}");
        let address = seed.address();
        let mut args = vec!["f.piecework", "-o", &out, "--state", "s", "--mode", "simple", "--config", config];
        if peer {
            args.extend(["--peer", &address]);
        }
        let began = Instant::now();
        site.get(&args).success();
        keeps_to(4e6, content.len(), began.elapsed());
        assert!(same(&site.path(&out), &content));
    }
}

#[test]
fn a_running_download_goes_by_a_new_rate_and_by_the_hour_without_being_dropped() {
    let (site, content) = (Site::new(), bytes(33, 48 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    let played = machine(&site);
    // A hundredth of the rate by day: the whole would take a minute.
    let config =
        "[policy]\nmax_background_rate = \"80 MB/s\"\nbackground_hours = \"08:00-17:00 1 100\"\nmin_free_disk = 0\n";
    site.file("c.toml", config.as_bytes());
    let began = Instant::now();
    let node = node(&site, &["--peer", &seed.address(), "--fetch", "f.piecework", "--config", "c.toml"], |node| {
        node.env("PIECEWORK_MACHINE", &played);
    });
    let status = status_when(&site, |status| status["downloads"][0]["bytes_held"].as_u64() >= Some(2 << 20));
    let held = n(&status["downloads"][0], "bytes_held") as usize;
    keeps_to(0.8e6, held.saturating_sub(MIB), began.elapsed());
    assert_eq!(status["downloads"][0]["status"], "downloading");
    let peers = n(&status, "peer_count");
    // Evening.
    site.file("machine/clock", b"20:00\n");
    signal(&node, "-HUP");
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_peers"), content.len() as u64, "{status}");
    assert_eq!((n(&status, "peer_count"), n(&status["totals"], "bytes_wasted")), (peers, 0), "{status}");
    // Hours are nothing without a rate of which they are per cents.
    site.file("c.toml", b"[policy]\nbackground_hours = \"08:00-17:00 1 100\"\n");
    let said = site.refused(&["config", "check", "c.toml"], 78, "bad_config");
    assert!(said.contains("max_background_rate"), "{said}");
}

/// The gates that the daemon in `n` shows.
fn gates(site: &Site) -> Vec<String> {
    let status = asked(site, &["status"]);
    status["gates"]
        .as_array()
        .expect("gates")
        .iter()
        .map(|gate| gate["gate"].as_str().expect("a name").into())
        .collect()
}

/// Waits for a daemon to show these gates.
fn shows(site: &Site, expected: &[&str]) -> Value {
    status_when(site, |status| {
        let shown = status["gates"].as_array().expect("gates").iter().map(|gate| gate["gate"].clone());
        shown.collect::<Vec<_>>() == expected.iter().map(|name| json!(name)).collect::<Vec<_>>()
    })
}

#[test]
fn gates_keep_a_daemon_from_serving_until_they_open() {
    const ROUTE: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        wg7 00000000 00000000 0001 0 0 0 00000000 0 0 0\n";
    let content = bytes(34, 3 * MIB);
    for (gate, shut, open) in [
        ("little_memory", vec![("proc/meminfo", "MemTotal: 524288 kB\n")], ("proc/meminfo", "MemTotal: 4194304 kB\n")),
        ("small_disk", vec![("disk_bytes", "1000000\n")], ("disk_bytes", "100000000000\n")),
        (
            "battery",
            vec![
                ("sys/class/power_supply/BAT0/type", "Battery\n"),
                ("sys/class/power_supply/BAT0/capacity", "90\n"),
                ("sys/class/power_supply/BAT0/status", "Discharging\n"),
            ],
            ("sys/class/power_supply/BAT0/status", "Charging\n"),
        ),
        ("vpn", vec![("proc/net/route", ROUTE)], ("proc/net/route", "Iface\n")),
    ] {
        let site = Site::new();
        site.file("f", &content);
        site.publish("f", &[]);
        site.trust("s");
        let played = machine(&site);
        shut.iter().for_each(|(name, text)| _ = site.file(&format!("machine/{name}"), text.as_bytes()));
        let node = node(&site, &["--serve", "f=f.piecework"], |node| _ = node.env("PIECEWORK_MACHINE", &played));
        // On battery nothing is fetched for others either.
        let expected = if gate == "battery" { vec![gate, "no_duties"] } else { vec![gate] };
        let status = shows(&site, &expected);
        let said = site.ok(&["status", "--state", "n"]);
        assert!(said.contains(&format!("gate {gate}: ")), "{said}");
        let address = status["listening"][0].as_str().expect("an address").to_owned();
        let args = ["f.piecework", "--state", "s", "--mode", "simple", "--no-daemon", "--peer", &address];
        let refused = site.get(&[&args[..], &["-o", "out", "--timeout", "2"]].concat()).result();
        assert_eq!(refused["error"]["code"], "no_source", "{gate}: {refused}");
        // One that waits is served as soon as the gate opens.
        let waits = site.get(&[&args[..], &["-o", "out", "--timeout", "60"]].concat());
        status_when(&site, |status| n(status, "peer_count") == 1);
        site.file(&format!("machine/{}", open.0), open.1.as_bytes());
        signal(&node, "-HUP");
        assert_eq!(n(&waits.success(), "bytes_from_peers"), content.len() as u64, "{gate}");
        assert!(gates(&site).is_empty() && same(&site.path("out"), &content));
    }
}

#[test]
fn on_a_metered_link_background_downloads_wait_and_people_do_not() {
    let site = Site::new();
    site.trust("n");
    let (a, b) = (bytes(35, 2 * MIB), bytes(36, 2 * MIB));
    for (name, content) in [("a", &a), ("b", &b)] {
        site.file(name, content);
        site.publish(name, &[]);
    }
    let (one, two) = (site.seed("a", "seed-a"), site.seed("b", "seed-b"));
    site.file("c.toml", b"[policy]\nmetered = \"yes\"\nmin_free_disk = 0\n");
    let args = ["--peer", &one.address(), "--peer", &two.address(), "--fetch", "a.piecework", "--config", "c.toml"];
    let node = node(&site, &args, |_| ());
    let status = shows(&site, &["metered"]);
    assert!(status["gates"][0]["reason"].as_str().is_some_and(|reason| reason.contains("metered")), "{status}");
    status_when(&site, |status| status["downloads"][0]["status"] == "gated");
    let got = site.get(&["b.piecework", "-o", "out", "--state", "n"]).success();
    assert_eq!((&got["through_daemon"], n(&got, "bytes_from_peers")), (&json!(true), b.len() as u64), "{got}");
    let status = asked(&site, &["status"]);
    assert_eq!((&status["downloads"][0]["status"], n(&status["downloads"][0], "bytes_held")), (&json!("gated"), 0));
    site.file("c.toml", b"[policy]\nmetered = \"no\"\nmin_free_disk = 0\n");
    signal(&node, "-HUP");
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let began = Instant::now();
    while !gates(&site).is_empty() {
        assert!(began.elapsed() < PATIENCE);
    }
}

#[test]
fn a_policy_set_of_delivery_optimization_is_taken_by_its_names_and_in_its_units() {
    let site = Site::new();
    let export = "Windows Registry Editor Version 5.00\r\n\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies]\r\n\
        \"DOMaxUploadBandwidth\"=dword:00000fa0\r\n\"DODownloadMode\"=dword:00000063\r\n";
    let mut utf16 = vec![0xff, 0xfe];
    export.encode_utf16().for_each(|unit| utf16.extend(unit.to_le_bytes()));
    site.file("policies.reg", &utf16);
    let written = site.ok(&["config", "import", "policies.reg"]);
    let file = site.file("c.toml", written.as_bytes());
    let rows = site.ok(&["config", "check", file.to_str().expect("text"), "--json"]);
    let rows: Value = serde_json::from_str(rows.trim()).expect("JSON");
    assert_eq!((&rows[0]["value"], &rows[1]["value"]), (&json!("\"simple\""), &json!("\"4 MB/s\"")), "{rows}");
    site.file("more.reg", b"\"DOGroupIdSource\"=dword:00000001\r\n");
    let said = site.refused(&["config", "import", "more.reg"], 78, "bad_config");
    assert!(said.contains("policy.group_id_source"), "{said}");
    site.file("d.toml", b"[policy]\nDOMaxCacheSize = 30\nmax_cache_percent = 40\n");
    site.refused(&["config", "check", "d.toml"], 78, "bad_config");
}

#[test]
fn groups_never_meet_and_a_secret_parts_those_of_one_name() {
    let (site, content) = (Site::new(), bytes(38, 2 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let group = |name: &str, id: &str, secret: &str| {
        let mut config = format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"{id}\"\n");
        if !secret.is_empty() {
            let path = site.file(&format!("secret-{name}"), secret.as_bytes());
            config += &format!("group_secret_file = {path:?}\n");
        }
        site.file(&format!("{name}.toml"), config.as_bytes());
    };
    group("lab", "lab", "open sesame, by the lab");
    group("other", "other", "open sesame, by the lab");
    group("guess", "lab", "open barley, by the lab");
    group("bare", "lab", "");
    let mut seed = crate::support::command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "m", "--config", "lab.toml"]);
    let seed = crate::support::Running::start(seed);
    let address = seed.address();
    let get = |config: &str, more: &[&str]| {
        let config = format!("{config}.toml");
        let mut args = vec!["f.piecework", "-o", "out", "--state", "s", "--no-daemon", "--timeout", "2"];
        args.extend(["--peer", &address, "--config", &config]);
        args.extend(more);
        site.get(&args)
    };
    for config in ["other", "guess", "bare"] {
        let result = get(config, &[]).result();
        assert_eq!(
            (&result["error"]["code"], n(&result, "bytes_from_peers")),
            (&json!("no_source"), 0),
            "{config}: {result}"
        );
        let culprit = result["error"]["culprit"].as_str().unwrap_or_default();
        assert!(culprit.contains("wrong group secret"), "{config}: {result}");
    }
    let result = get("lab", &["--mode", "lan"]).result();
    assert_eq!(result["error"]["code"], "no_source", "outside the mode there is no group: {result}");
    // A libp2p stream asks for the same proof.
    let result = get("guess", &["--way", "stream"]).result();
    assert!(result["error"]["culprit"].as_str().unwrap_or_default().contains("wrong group secret"), "{result}");
    assert_eq!(n(&get("lab", &["--way", "stream", "--force"]).success(), "bytes_from_peers"), content.len() as u64);
    std::fs::remove_file(site.path("out")).expect("it is there");
    assert_eq!(n(&get("lab", &[]).success(), "bytes_from_peers"), content.len() as u64);
    assert!(same(&site.path("out"), &content));
}

#[test]
fn a_group_changes_its_secret_machine_by_machine() {
    let (site, content) = (Site::new(), bytes(39, 2 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let (old, new) = ("the secret of last year", "the secret of this year");
    for (name, secrets) in
        [("old", format!("{old}\n")), ("both", format!("{old}\n{new}\n")), ("new", format!("{new}\n"))]
    {
        let path = site.file(&format!("secret-{name}"), secrets.as_bytes());
        let config = format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab\"\ngroup_secret_file = {path:?}\n");
        site.file(&format!("{name}.toml"), config.as_bytes());
    }
    for (holds, meets) in
        [("old", ["old", "both"].as_slice()), ("both", &["old", "both", "new"]), ("new", &["both", "new"])]
    {
        let mut seed = crate::support::command();
        seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
        seed.args(["--state", "m", "--config", &format!("{holds}.toml")]);
        let seed = crate::support::Running::start(seed);
        let address = seed.address();
        for asks in ["old", "both", "new"] {
            // By the bare id, so that the manifest is asked for by the right topic, too.
            let (link, config) = (format!("piecework:{}", blake3::hash(&content).to_hex()), format!("{asks}.toml"));
            let out = format!("out-{holds}-{asks}");
            let get = site.get(&[
                &link,
                "-o",
                &out,
                "--state",
                "s",
                "--no-daemon",
                "--timeout",
                "2",
                "--peer",
                &address,
                "--config",
                &config,
            ]);
            if meets.contains(&asks) {
                assert_eq!(n(&get.success(), "bytes_from_peers"), content.len() as u64, "{asks} of {holds}");
            } else {
                let result = get.result();
                assert_eq!(n(&result, "bytes_from_peers"), 0, "{asks} of {holds}: {result}");
            }
        }
    }
    let short = site.file("short", b"too short\n");
    let config = format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab\"\ngroup_secret_file = {short:?}\n");
    site.file("short.toml", config.as_bytes());
    let args = ["get", "f.piecework", "-o", "never", "--state", "s", "--no-daemon", "--config", "short.toml"];
    let said = site.refused(&args, 78, "bad_config");
    assert!(said.contains("16 to 1024 bytes"), "{said}");
}
