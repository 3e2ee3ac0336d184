//! Whom a node meets: networks that are trusted and others, subnets, modes and groups that change while it runs.

use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{asked, node, signal, status_when};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::subnets::Subnets;
use crate::support::{Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;
/// The kernel's table with a gateway at 10.1.0.1 and the network 10.1.0.0/16.
const ROUTES: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
    eth0 00000000 0100010A 0003 0 0 0 00000000 0 0 0\neth0 0000010A 00000000 0001 0 0 0 0000FFFF 0 0 0\n";

/// A machine whose gateway has this hardware address.
fn behind(site: &Site, gateway: &str) {
    site.file("machine/proc/net/route", ROUTES.as_bytes());
    let arp = format!("IP address HW type Flags HW address Mask Device\n10.1.0.1 0x1 0x2 {gateway} * eth0\n");
    site.file("machine/proc/net/arp", arp.as_bytes());
}

#[test]
fn on_a_strange_network_nobody_is_met_no_port_is_open_and_http_does_the_work() {
    let (site, content) = (Site::new(), bytes(101, 3 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let named = seed.address();
    behind(&site, "bb:00:00:00:00:01");
    site.file(
        "c.toml",
        b"[policy]\ntrusted_networks = [\"aa:00:00:00:00:01\", \"office.example\"]\nmin_free_disk = 0\n",
    );
    let mut daemon = command();
    daemon.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0"]);
    daemon.args(["--peer", &named, "--fetch", "f.piecework", "--config", "c.toml", "-v"]);
    daemon.env("PIECEWORK_MACHINE", site.text("machine"));
    let mut daemon = Running::start(daemon);
    while !site.path("n/control.sock").exists() {
        assert_eq!(daemon.line_within(std::time::Duration::from_millis(20)), None, "no address is told");
    }
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_http"), content.len() as u64, "{status}");
    assert_eq!((n(&status, "peer_count"), &status["listening"]), (0, &json!([])), "{status}");
    assert_eq!(status["gates"][0]["gate"], "untrusted_network", "{status}");
    let reason = status["gates"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("bb:00:00:00:00:01") && reason.contains("10.1.0.0/16"), "{reason}");
    assert!(site.ok(&["status", "--state", "n"]).contains("gate untrusted_network: "));
    // At home again, by the gateway, then by the domain: peers are met.
    behind(&site, "aa:00:00:00:00:01");
    signal(&daemon, "-HUP");
    let status = status_when(&site, |status| n(status, "peer_count") == 1 && status["gates"] == json!([]));
    let address = status["listening"][0].as_str().expect("an address").to_owned();
    let port: u16 = address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    let args = ["f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--no-daemon", "--source"];
    let no_source = origin.url("/missing");
    let got = site.get(&[&args[..], &[&no_source, "--peer", &address]].concat()).success();
    assert_eq!(n(&got, "bytes_from_peers"), content.len() as u64, "{got}");
    assert!(same(&site.path("out"), &content));
    // And away again.
    behind(&site, "cc:00:00:00:00:01");
    signal(&daemon, "-HUP");
    let is_shut = |status: &Value| status["gates"][0]["gate"] == "untrusted_network" && n(status, "peer_count") == 0;
    let status = status_when(&site, is_shut);
    assert_eq!(status["listening"], json!([]), "{status}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is closed");
    site.file("machine/etc/resolv.conf", b"search office.example\n");
    signal(&daemon, "-HUP");
    let status = status_when(&site, |status| n(status, "peer_count") == 1);
    assert_eq!(status["listening"][0], json!(address), "the same port, the same identity");
    assert_eq!(daemon.terminate(), Some(0), "{}", daemon.stderr());
    // `get` goes by it too.
    std::fs::remove_file(site.path("machine/etc/resolv.conf")).expect("it was written");
    let mut get = command();
    get.current_dir(site.path("")).args([
        "get",
        "f.piecework",
        "-o",
        "two",
        "--state",
        "s",
        "--mode",
        "simple",
        "--json",
    ]);
    get.args(["--no-daemon", "--config", "c.toml", "--peer", &named]);
    let got = Running::start(with_machine(get, &site)).success();
    assert_eq!(n(&got, "bytes_from_http"), content.len() as u64, "{got}");
    // `seed` was started on purpose, and shows another identity.
    let own = asked_identity(&site);
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "n", "--config", "c.toml"]);
    let shown = Running::start(with_machine(seed, &site)).address();
    assert!(!shown.ends_with(&own), "{shown}");
}

fn with_machine(mut command: Command, site: &Site) -> Command {
    command.env("PIECEWORK_MACHINE", site.text("machine"));
    command
}

/// The identity of the state folder `n`, as the daemon there shows it.
fn asked_identity(site: &Site) -> String {
    let mut daemon = node(site, &[], |_| ());
    let id = asked(site, &["status"])["peer_id"].as_str().expect("an id").to_owned();
    daemon.terminate();
    id
}

#[test]
fn on_a_strange_network_nothing_is_announced() {
    let Some(lab) = Subnets::build(&[(1, 1), (1, 2)]) else { return };
    let site = Site::new();
    let start = |number: u8, trusted: &str| {
        let state = format!("state-{number}");
        let config = format!("{state}.toml");
        site.file(&config, format!("[policy]\ntrusted_networks = [\"{trusted}\"]\n").as_bytes());
        let mut node = command();
        node.current_dir(site.path("")).args(["node", "--mode", "lan", "--state", &state, "--config", &config]);
        let node = Running::start(lab.on(1, number, &node));
        while !site.path(&format!("{state}/control.sock")).exists() {
            std::thread::yield_now();
        }
        node
    };
    let sent = |number: u8| -> u64 {
        let text = lab.said(1, number, &["cat", "/proc/net/netstat"]);
        let lines: Vec<Vec<&str>> =
            text.lines().filter(|line| line.starts_with("IpExt:")).map(|line| line.split(' ').collect()).collect();
        let place = lines[0].iter().position(|name| *name == "OutMcastPkts").expect("counted");
        lines[1][place].parse().expect("a number")
    };
    let heard = |number: u8| {
        let said: Value = serde_json::from_str(
            &site
                .run(&["doctor", "--json", "--state", &format!("state-{number}")])
                .stdout
                .iter()
                .map(|b| char::from(*b))
                .collect::<String>(),
        )
        .expect("JSON");
        said["findings"].as_array().expect("findings").iter().find(|it| it["check"] == "discovery").expect("one")["text"]
            .to_string()
    };
    let strange = start(2, "office.example");
    let _home = start(1, "10.88.1.0/24");
    let began = std::time::Instant::now();
    while sent(1) < 3 {
        assert!(began.elapsed() < crate::support::PATIENCE, "a node at home announces itself");
    }
    assert_eq!(sent(2), 0, "not one multicast packet");
    // Trusted from now on: it speaks, and is heard.
    site.file("state-2.toml", b"[policy]\ntrusted_networks = [\"10.88.0.0/16\"]\n");
    signal(&strange, "-HUP");
    while !heard(1).contains("heard 1") {
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", heard(1));
    }
    // Away again without a word, not even goodbye.
    site.file("state-2.toml", b"[policy]\ntrusted_networks = [\"office.example\"]\n");
    signal(&strange, "-HUP");
    while !heard(2).contains("not met on this network") {
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", heard(2));
    }
}

#[test]
fn peers_of_other_subnets_are_refused_where_policy_says_so() {
    let Some(lab) = Subnets::build(&[(1, 1), (2, 1), (2, 2)]) else { return };
    let (site, content) = (Site::new(), bytes(102, 2 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let serve = |restrict: &str| {
        let mut seed = command();
        seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "0.0.0.0:7680"]);
        seed.args(["--mode", "simple", "--state", "seed"]).env("PIECEWORK_RESTRICT_PEERS_BY", restrict);
        let seed = Running::start(lab.on(2, 1, &seed));
        seed.address();
        seed
    };
    let peer = format!("{}:7680", Subnets::address(2, 1));
    let get = |from: (u8, u8), out: &str| {
        let mut get = command();
        get.current_dir(site.path("")).args(["get", "f.piecework", "-o", out, "--state", "s", "--json", "--no-daemon"]);
        get.args(["--mode", "simple", "--timeout", "2", "--peer", &peer]);
        Running::start(lab.on(from.0, from.1, &get))
    };
    let seed = serve("subnet");
    assert_eq!(get((1, 1), "far").result()["error"]["code"], "no_source", "another subnet");
    assert_eq!(n(&get((2, 2), "near").success(), "bytes_from_peers"), content.len() as u64);
    drop(seed);
    let seed = serve("dns-sd");
    // Who was told of it dials; DNS-SD restricts whom a node dials by itself.
    assert_eq!(n(&get((1, 1), "told").success(), "bytes_from_peers"), content.len() as u64);
    drop(seed);
    let _seed = serve("none");
    assert_eq!(n(&get((1, 1), "far").success(), "bytes_from_peers"), content.len() as u64);
}

#[test]
fn the_mode_of_a_running_daemon_changes_and_downloads_go_on() {
    let (site, content) = (Site::new(), bytes(103, 24 * MIB));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    site.file("c.toml", b"[policy]\nmax_background_rate = \"500 KB/s\"\nmin_free_disk = 0\n");
    let node = node(&site, &["--peer", &seed.address(), "--fetch", "f.piecework", "--config", "c.toml"], |_| ());
    let held = |status: &Value| n(&status["downloads"][0], "bytes_held");
    let before = status_when(&site, |status| n(&status["downloads"][0], "bytes_from_peers") > MIB as u64);
    assert_eq!(asked(&site, &["mode"]), json!({ "mode": "simple", "provider": "the flag --mode" }));
    assert_eq!(asked(&site, &["mode", "http-only"]), json!({ "mode": "http-only", "provider": "the control API" }));
    let status = status_when(&site, |status| n(&status["downloads"][0], "bytes_from_http") > MIB as u64);
    assert_eq!((&status["mode"], n(&status, "peer_count")), (&json!("http-only"), 0), "{status}");
    assert_eq!(status["downloads"][0]["number"], before["downloads"][0]["number"]);
    assert!(held(&status) > held(&before) && held(&status) < content.len() as u64, "{status}");
    assert_eq!(status["listening"], json!([]), "nobody is accepted");
    let config = asked(&site, &["mode"]);
    assert_eq!(config["provider"], "the control API");
    // A reload leaves it, a wrong one changes nothing, and the configured one comes back.
    signal(&node, "-HUP");
    site.refused(&["mode", "everywhere", "--state", "n"], 78, "bad_config");
    let said = site.refused(&["mode", "group", "--state", "n"], 78, "bad_config");
    assert!(said.contains("group_id"), "{said}");
    assert_eq!(asked(&site, &["mode"])["mode"], "http-only");
    assert_eq!(asked(&site, &["mode", "--configured"]), json!({ "mode": "simple", "provider": "the flag --mode" }));
    site.file("c.toml", b"[policy]\nmin_free_disk = 0\n");
    signal(&node, "-HUP");
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status, "peer_count"), 1, "{status}");
    let fetched = n(&status["totals"], "bytes_from_peers") + n(&status["totals"], "bytes_from_http");
    assert_eq!(fetched, content.len() as u64, "nothing was stored twice: {status}");
    // DNS-SD begins and ends with the mode.
    let discovery = |site: &Site| {
        let said = String::from_utf8(site.run(&["doctor", "--json", "--state", "n"]).stdout).expect("text");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let findings = said["findings"].as_array().expect("findings").clone();
        findings.iter().find(|it| it["check"] == "discovery").expect("one")["text"].to_string()
    };
    assert!(discovery(&site).contains("looks for nobody"));
    asked(&site, &["mode", "lan"]);
    assert!(discovery(&site).contains("DNS-SD"), "{}", discovery(&site));
    assert_eq!(n(&asked(&site, &["status"]), "peer_count"), 1, "who may stay stays");
    asked(&site, &["mode", "simple"]);
    assert!(discovery(&site).contains("looks for nobody"));
}

#[test]
fn a_daemon_comes_to_another_group_without_losing_its_download_or_its_connections() {
    let (site, content, served) = (Site::new(), bytes(104, 2 * MIB), bytes(105, MIB));
    for (name, content) in [("f", &content), ("g", &served)] {
        site.file(name, content);
        site.publish(name, &[]);
    }
    ["n", "s"].iter().for_each(|state| site.trust(state));
    let group = |id: &str| format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"{id}\"\nmin_free_disk = 0\n");
    site.file("lab.toml", group("lab").as_bytes());
    site.file("c.toml", group("other").as_bytes());
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "m", "--config", "lab.toml"]);
    let seed = Running::start(seed);
    let mut daemon = command();
    daemon.current_dir(site.path("")).args(["node", "--state", "n", "--listen", "127.0.0.1:0", "--config", "c.toml"]);
    daemon.args(["--peer", &seed.address(), "--fetch", "f.piecework", "--serve", "g=g.piecework"]);
    let daemon = Running::start(daemon);
    let address = daemon.address();
    let get = |config: &str| {
        let args = ["g.piecework", "-o", "out", "--state", "s", "--no-daemon", "--timeout", "2", "--config", config];
        site.get(&[&args[..], &["--peer", &address]].concat())
    };
    let status = status_when(&site, |status| n(status, "peer_count") == 1);
    assert_eq!(get("lab.toml").result()["error"]["code"], "no_source");
    assert_eq!((n(&status["downloads"][0], "bytes_held"), &status["mode"]), (0, &json!("group")), "{status}");
    site.file("c.toml", group("lab").as_bytes());
    signal(&daemon, "-HUP");
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    assert_eq!(n(&status["downloads"][0], "bytes_from_peers"), content.len() as u64, "{status}");
    assert_eq!(n(&get("lab.toml").success(), "bytes_from_peers"), served.len() as u64, "what sleeps is filed anew");
    // A group that cannot be is refused, and the one before holds.
    site.file("c.toml", b"[policy]\ndownload_mode = \"group\"\n");
    signal(&daemon, "-HUP");
    let log = || site.ok(&["log", "--state", "n"]);
    let began = std::time::Instant::now();
    while !log().contains("policy.group_id") {
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", log());
    }
    assert_eq!(asked(&site, &["status"])["mode"], "group");
}

#[test]
fn a_daemon_changes_its_groups_secret_without_a_restart() {
    let (site, content, served) = (Site::new(), bytes(106, MIB), bytes(107, MIB));
    for (name, content) in [("f", &content), ("g", &served)] {
        site.file(name, content);
        site.publish(name, &[]);
    }
    ["n", "s"].iter().for_each(|state| site.trust(state));
    let (old, new) = ("the secret of last year", "the secret of this year");
    let group = |name: &str, secrets: &str| {
        let path = site.file(&format!("secret-{name}"), secrets.as_bytes());
        let config = format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab\"\ngroup_secret_file = {path:?}\n");
        site.file(&format!("{name}.toml"), format!("{config}min_free_disk = 0\n").as_bytes());
    };
    [("old", old), ("new", new), ("daemon", old)].iter().for_each(|(name, secret)| group(name, secret));
    let mut seed = command();
    seed.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0"]);
    seed.args(["--state", "m", "--config", "old.toml"]);
    let seed = Running::start(seed);
    let mut daemon = command();
    daemon.current_dir(site.path("")).args(["node", "--state", "n", "--listen", "127.0.0.1:0"]);
    daemon.args(["--config", "daemon.toml", "--peer", &seed.address(), "--serve", "g=g.piecework"]);
    let daemon = Running::start(daemon);
    let address = daemon.address();
    let get = |secret: &str, out: &str| {
        let config = format!("{secret}.toml");
        let args = ["g.piecework", "-o", out, "--state", "s", "--no-daemon", "--timeout", "2", "--config", &config];
        site.get(&[&args[..], &["--peer", &address]].concat()).result()
    };
    let stranger = |secret: &str, out: &str| {
        let result = get(secret, out);
        let culprit = result["error"]["culprit"].as_str().unwrap_or_default();
        assert!(culprit.contains("wrong group secret"), "{secret}: {result}");
    };
    status_when(&site, |status| n(status, "peer_count") == 1);
    stranger("new", "a");
    // The next secret beside the current one: members with either are met.
    group("daemon", &format!("{old}\n{new}\n"));
    signal(&daemon, "-HUP");
    let began = std::time::Instant::now();
    while n(&get("new", "b"), "bytes_from_peers") != served.len() as u64 {
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", daemon.stderr());
    }
    assert_eq!(n(&get("old", "c"), "bytes_from_peers"), served.len() as u64);
    status_when(&site, |status| n(status, "peer_count") == 1);
    // The next one alone: who has not got it is parted with.
    group("daemon", new);
    signal(&daemon, "-HUP");
    status_when(&site, |status| n(status, "peer_count") == 0);
    stranger("old", "d");
    assert_eq!(n(&get("new", "e"), "bytes_from_peers"), served.len() as u64);
    // A file that holds none is refused, and the secret before holds.
    group("daemon", "too short");
    signal(&daemon, "-HUP");
    let log = || site.ok(&["log", "--state", "n"]);
    while !log().contains("16 to 1024 bytes") {
        assert!(began.elapsed() < crate::support::PATIENCE, "{}", log());
    }
    assert_eq!(n(&get("new", "h"), "bytes_from_peers"), served.len() as u64);
}

#[test]
fn a_member_that_is_told_is_dialled_only_where_it_is_near_enough() {
    let Some(lab) = Subnets::build(&[(1, 1), (1, 2), (2, 1)]) else { return };
    let (site, content) = (Site::new(), bytes(108, 2 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    ["n", "s"].iter().for_each(|state| site.trust(state));
    let mut holder = command();
    holder.current_dir(site.path("")).args(["seed", "f", "--manifest", "f.piecework", "--listen", "0.0.0.0:7680"]);
    holder.args(["--mode", "simple", "--state", "seed"]);
    let holder = Running::start(lab.on(2, 1, &holder));
    holder.address();
    // It serves nobody, so whatever comes, comes from the holder, of which it tells.
    let mut between = command();
    between.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", "0.0.0.0:7680"]);
    between.args(["--fetch", "f.piecework", "--peer", &format!("{}:7680", Subnets::address(2, 1))]);
    between.env("PIECEWORK_MIN_RAM_TO_PEER", "1 TB").env("PIECEWORK_MIN_FREE_DISK", "0");
    let between = Running::start(lab.on(1, 2, &between));
    between.address();
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let peer = format!("{}:7680", Subnets::address(1, 2));
    let get = |restrict: &str, out: &str| {
        let mut get = command();
        get.current_dir(site.path("")).args(["get", "f.piecework", "-o", out, "--state", "s", "--json", "--no-daemon"]);
        get.args(["--mode", "simple", "--timeout", "2", "--peer", &peer]).env("PIECEWORK_RESTRICT_PEERS_BY", restrict);
        Running::start(lab.on(1, 1, &get)).result()
    };
    for restrict in ["subnet", "dns-sd"] {
        let result = get(restrict, "far");
        assert_eq!((&result["error"]["code"], n(&result, "bytes_from_peers")), (&json!("no_source"), 0), "{result}");
    }
    assert_eq!(n(&get("none", "far"), "bytes_from_peers"), content.len() as u64);
}
