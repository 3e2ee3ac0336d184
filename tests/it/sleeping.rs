//! A process that stands still, as during sleep, and goes on.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::daemon::{asked, node, signal, status_when};
use crate::daemon_metrics::{ask, scrape};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, free_ports, n, same};

const MIB: usize = 1 << 20;
/// What a log says of sleep.
const STOOD_STILL: &str = "stood still";
/// So slow that the clocks, looked at every two seconds, are looked at twice before the end.
const SLOW: &str = "4 MB/s";

/// A program of ours in a machine of its own that has not slept.
fn awake(site: &Site, machine: &str, args: &[&str]) -> Running {
    let mut command = command();
    command.current_dir(site.path("")).args(args);
    dress(site, machine, &mut command);
    Running::start(command)
}

fn dress(site: &Site, machine: &str, command: &mut Command) {
    site.file(&format!("{machine}/asleep"), b"0\n");
    command.env("PIECEWORK_MACHINE", site.text(machine)).env("PIECEWORK_LOG", "info,piecework=debug");
    command.env("PIECEWORK_MAX_FOREGROUND_RATE", SLOW).env("PIECEWORK_MAX_BACKGROUND_RATE", SLOW);
}

/// The machine of `sleeper` is suspended for an hour: the process stands still, and wakes to a clock that says so.
fn sleep(site: &Site, machine: &str, sleeper: &Running) {
    signal(sleeper, "-STOP");
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", sleeper.pid())).unwrap_or_default();
    wait_for("it stands still", || state().contains(") T "));
    site.file(&format!("{machine}/asleep"), b"3600\n");
    signal(sleeper, "-CONT");
}

fn wait_for(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        std::thread::yield_now();
    }
}

/// Reads progress until so much is held.
fn reads_until(get: &Running, bytes: usize) {
    loop {
        let line = get.line().unwrap_or_else(|| panic!("it ended: {}", get.stderr()));
        let json: Value = serde_json::from_str(&line).expect("JSON");
        assert!(json.get("verified").is_none(), "it ended before it could sleep: {json}");
        if json.get("bytes_held").and_then(Value::as_u64) >= Some(bytes as u64) {
            return;
        }
    }
}

#[test]
fn a_download_from_a_peer_goes_on_after_sleep_of_either_side() {
    let (site, content) = (Site::new(), bytes(71, 20 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    for sleeper in ["get", "seed"] {
        site.trust(sleeper);
        let seed_args = ["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0", "--mode", "simple"];
        let seed = awake(&site, "of-seed", &[&seed_args[..], &["--state", "of-the-seed"]].concat());
        let address = seed.address();
        let out = format!("out-{sleeper}");
        let args = ["get", "f.piecework", "-o", &out, "--state", sleeper, "--mode", "simple", "--json", "--no-daemon"];
        let get = awake(&site, "of-get", &[&args[..], &["--peer", &address]].concat());
        reads_until(&get, 4 * MIB);
        let (machine, process) = if sleeper == "get" { ("of-get", &get) } else { ("of-seed", &seed) };
        sleep(&site, machine, process);
        wait_for("it notices", || process.stderr().contains(STOOD_STILL));
        let result = get.success();
        assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{sleeper}: {result}");
        // What was on its way when the connection ended, and no more.
        assert!(n(&result, "bytes_wasted") <= 4 * MIB as u64, "{sleeper}: {result}");
        assert!(same(&site.path(&out), &content), "{sleeper}");
        assert_eq!(get.stderr().contains(STOOD_STILL), sleeper == "get", "{}", get.stderr());
    }
}

#[test]
fn a_download_over_http_goes_on_after_sleep() {
    let (site, content) = (Site::new(), bytes(72, 20 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("s");
    let args = ["get", "f.piecework", "-o", "out", "--state", "s", "--mode", "http-only", "--json", "--no-daemon"];
    let get = awake(&site, "m", &args);
    reads_until(&get, 4 * MIB);
    sleep(&site, "m", &get);
    wait_for("it notices", || get.stderr().contains(STOOD_STILL));
    let result = get.success();
    assert_eq!(n(&result, "bytes_from_http"), content.len() as u64, "{result}");
    assert!(n(&result, "bytes_wasted") <= 4 * MIB as u64, "{result}");
    assert!(same(&site.path("out"), &content));
}

#[test]
fn what_sleep_wastes_is_what_it_cancels() {
    let (site, content) = (Site::new(), bytes(73, 20 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    let [port] = free_ports();
    let node = node(&site, &["--peer", &seed.address(), "--fetch", "f.piecework"], |node| {
        dress(&site, "m", node);
        node.env("PIECEWORK_METRICS_LISTEN", format!("127.0.0.1:{port}"));
    });
    status_when(&site, |status| status["downloads"][0]["bytes_held"].as_u64() >= Some(4 << 20));
    sleep(&site, "m", &node);
    wait_for("it notices", || node.stderr().contains(STOOD_STILL));
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(ask(port, "GET /healthz").0, 200);
    let page = scrape(port);
    for (name, bytes) in page.iter().filter(|(name, _)| name.starts_with("piecework_wasted_bytes")) {
        assert!(*bytes == 0.0 || name.contains("\"cancelled\""), "{name} {bytes}");
        println!("{name} {bytes}");
    }
    let received = "piecework_received_bytes_total{source=\"peer\",scope=\"host\"}";
    assert_eq!(page.get(received).copied(), Some(content.len() as f64));
}

#[test]
fn a_gateway_that_announces_sleep_parts_with_its_peers_and_another_takes_over() {
    let (site, content) = (Site::new(), bytes(74, 24 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    site.trust("s");
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let args = ["get", "f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--json", "--no-daemon"];
    let get = awake(&site, "of-get", &[&args[..], &["--keep-seeding", "--listen", &address]].concat());
    let _node = node(&site, &["--peer", &address, "--fetch", "f.piecework"], |node| dress(&site, "m", node));
    status_when(&site, |status| {
        status["peer_count"] == 1 && status["downloads"][0]["bytes_held"].as_u64() >= Some(2 << 20)
    });
    // Returns when the peer knows.
    assert_eq!(asked(&site, &["pause", "--sleep"])["asleep"], true);
    let asleep = asked(&site, &["status"]);
    assert_eq!((n(&asleep, "peer_count"), &asleep["gates"][0]["gate"]), (0, &Value::from("asleep")), "{asleep}");
    wait_for("the peer hears of it", || get.stderr().contains("goodbye: Shutdown"));
    // The other brings everything while this one begins nothing.
    let held = n(&asleep["downloads"][0], "bytes_held");
    let result = get.success();
    assert!(same(&site.path("out"), &content), "{result}");
    let still = asked(&site, &["status"]);
    if still["gates"][0]["gate"] == "asleep" {
        // What was on its way when it was told has been written since.
        assert!(n(&still["downloads"][0], "bytes_held") <= held + 4 * MIB as u64, "{still}");
    }
    assert_eq!(asked(&site, &["resume", "--sleep"])["asleep"], false);
    status_when(&site, |status| {
        status["downloads"][0]["status"] == "complete" && status["gates"] == serde_json::json!([])
    });
}
