//! Cache hosts as policy names them: asked before origins, in order, and given up in time.

use std::collections::BTreeMap;
use std::net::TcpListener;

use mdns_sd::{ServiceDaemon, ServiceInfo};
use piecework::drivers::discovery::cache_hosts::SERVICE;
use serde_json::json;

use crate::daemon::{asked, node, status_when};
use crate::support::network::Network;
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;

/// An origin, and a cache host that has the same file.
fn pair(content: &[u8]) -> (TestOrigin, TestOrigin) {
    let origin = TestOrigin::start(content.to_vec(), Behaviour::Normal);
    (origin, TestOrigin::start(content.to_vec(), Behaviour::Normal))
}

fn published(content: &[u8], origin: &TestOrigin) -> Site {
    let site = Site::new();
    site.file("f", content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("n");
    site.trust("s");
    site
}

/// `get` under this policy, and how it went.
fn got(site: &Site, policy: &str, out: &str) -> serde_json::Value {
    site.file("c.toml", format!("[policy]\n{policy}\n").as_bytes());
    let args = ["f.piecework", "-o", out, "--state", "s", "--mode", "simple", "--no-daemon", "--config", "c.toml"];
    site.get(&[&args[..], &["--timeout", "5"]].concat()).result()
}

#[test]
fn a_cache_host_is_asked_instead_of_the_origin_by_daemon_and_get_alike() {
    let content = bytes(111, 5 * MIB + 3);
    let (origin, cache) = pair(&content);
    let site = published(&content, &origin);
    let config = format!("[policy]\nDOCacheHost = \"{}\"\nmin_free_disk = 0\n", cache.address());
    site.file("c.toml", config.as_bytes());
    let node = node(&site, &["--fetch", "f.piecework", "--config", "c.toml"], |_| ());
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let all = content.len() as u64;
    for bytes in [&status["downloads"][0], &status["totals"]] {
        assert_eq!((n(bytes, "bytes_from_cache_host"), n(bytes, "bytes_from_http")), (all, all), "{status}");
    }
    assert_eq!(origin.seen().requests, 0, "not one request to the origin");
    let perf = crate::daemon::asked(&site, &["perf"]);
    assert_eq!(
        (n(&perf["month"], "bytes_from_cache_host"), &perf["savings"][0]["percent"]),
        (all, &json!(100.0)),
        "{perf}"
    );
    let asked = format!("GET /file?cacheHostOrigin=127.0.0.1%3A{} HTTP/1.1\r\n", origin.address().port());
    assert!(cache.seen().heads.iter().all(|head| head.starts_with(&asked)), "{:?}", cache.seen().heads);
    let said = site.ok(&["config", "show", "--config", "c.toml"]);
    assert!(said.contains("policy.cache_host") && said.contains("c.toml"), "{said}");
    drop(node);
    let result = got(&site, &format!("cache_host = [\"{}\"]", cache.address()), "out");
    assert_eq!((&result["error"], n(&result, "bytes_from_cache_host")), (&json!(null), all), "{result}");
    assert!(same(&site.path("out"), &content) && origin.seen().requests == 0);
}

#[test]
fn what_cannot_be_reached_or_has_not_the_file_gives_way_to_the_next_and_then_to_the_origin() {
    let content = bytes(112, 3 * MIB);
    let (origin, cache) = pair(&content);
    let site = published(&content, &origin);
    let nobody = {
        // Bound, closed again, and so refusing.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let empty = TestOrigin::start_files(BTreeMap::new(), Behaviour::Normal);
    let all = content.len() as u64;
    let hosts = format!("cache_host = [\"{nobody}\", \"{}\", \"{}\"]", empty.address(), cache.address());
    let result = got(&site, &hosts, "third");
    assert_eq!((&result["error"], n(&result, "bytes_from_cache_host")), (&json!(null), all), "{result}");
    assert!(empty.seen().requests > 0 && origin.seen().requests == 0);
    // None has it: the origin, at once, though it may be waited an hour for a silent one.
    let hosts = format!("cache_host = [\"{nobody}\", \"{}\"]\ndelay_foreground_cache_fallback = 3600", empty.address());
    let result = got(&site, &hosts, "origin");
    assert_eq!((&result["error"], n(&result, "bytes_from_http")), (&json!(null), all), "{result}");
    assert_eq!(n(&result, "bytes_from_cache_host"), 0, "{result}");
    // A liar is found out like any source, and costs nothing but time.
    let asked = origin.seen().requests;
    cache.behave(Behaviour::OtherBytes);
    let result = got(&site, &format!("cache_host = [\"{}\"]", cache.address()), "liar");
    assert_eq!((&result["error"], n(&result, "bytes_from_cache_host")), (&json!(null), 0), "{result}");
    assert!(origin.seen().requests > asked && same(&site.path("liar"), &content));
    // Never means never.
    let asked = origin.seen().requests;
    let never = format!("cache_host = [\"{}\"]\ndelay_foreground_cache_fallback = -1", empty.address());
    let result = got(&site, &never, "never");
    assert_eq!((&result["error"]["code"], origin.seen().requests), (&json!("no_source"), asked), "{result}");
}

#[test]
fn a_silent_cache_host_is_waited_for_as_long_as_policy_says() {
    let content = bytes(113, 2 * MIB);
    let (origin, cache) = pair(&content);
    let site = published(&content, &origin);
    cache.behave(Behaviour::Silent);
    let began = std::time::Instant::now();
    let hosts = format!("cache_host = [\"{}\"]\ndelay_foreground_cache_fallback = 2", cache.address());
    let result = got(&site, &hosts, "out");
    assert_eq!((&result["error"], n(&result, "bytes_from_cache_host")), (&json!(null), 0), "{result}");
    assert!(began.elapsed() >= std::time::Duration::from_secs(2) && same(&site.path("out"), &content));
    assert!(cache.seen().requests > 0);
}

#[test]
fn over_a_vpn_cache_hosts_are_asked_unless_policy_forbids_it() {
    const ROUTE: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
        wg7 00000000 00000000 0001 0 0 0 00000000 0 0 0\n";
    let content = bytes(114, MIB);
    for (policy, from_cache) in [("true", content.len() as u64), ("false", 0)] {
        let (origin, cache) = pair(&content);
        let site = published(&content, &origin);
        site.file("machine/proc/net/route", ROUTE.as_bytes());
        let config = format!(
            "[policy]\ncache_host = [\"{}\"]\ncache_host_on_vpn = {policy}\nmin_free_disk = 0\n",
            cache.address()
        );
        site.file("c.toml", config.as_bytes());
        let machine = site.text("machine");
        let _node = node(&site, &["--fetch", "f.piecework", "--config", "c.toml"], |node| {
            node.env("PIECEWORK_MACHINE", &machine);
        });
        status_when(&site, |status| status["downloads"][0]["status"] == "complete");
        assert_eq!(n(&asked(&site, &["status"])["totals"], "bytes_from_cache_host"), from_cache, "{policy}");
    }
}

#[test]
fn a_lease_of_the_network_names_cache_hosts_where_policy_says_so() {
    let content = bytes(115, MIB);
    let all = content.len() as u64;
    for (source, from_cache) in [("config", 0), ("dhcp", all), ("dhcp-force", all)] {
        let (origin, cache) = pair(&content);
        let site = published(&content, &origin);
        let lease = format!("lease {{\n  option unknown-235 \"{}\";\n}}\n", cache.address());
        site.file("machine/var/lib/dhcp/dhclient.leases", lease.as_bytes());
        site.file("c.toml", format!("[policy]\ncache_host_source = {source:?}\nmin_free_disk = 0\n").as_bytes());
        let machine = site.text("machine");
        let node = node(&site, &["--fetch", "f.piecework", "--config", "c.toml"], |node| {
            node.env("PIECEWORK_MACHINE", &machine);
        });
        status_when(&site, |status| status["downloads"][0]["status"] == "complete");
        assert_eq!(n(&asked(&site, &["status"])["totals"], "bytes_from_cache_host"), from_cache, "{source}");
        drop(node);
        let mut get = command();
        get.current_dir(site.path("")).args(["get", "f.piecework", "-o", "out", "--state", "s", "--mode", "simple"]);
        get.args(["--no-daemon", "--config", "c.toml", "--json"]).env("PIECEWORK_MACHINE", &machine);
        let result = Running::start(get).success();
        assert_eq!(n(&result, "bytes_from_cache_host"), from_cache, "{source}: {result}");
        assert!(same(&site.path("out"), &content));
    }
}

/// Announces a cache host with these properties.
fn announce(voice: &ServiceDaemon, name: &str, address: std::net::SocketAddr, properties: &[(&str, &str)]) -> String {
    let (host, ip) = (format!("{name}.local."), address.ip().to_string());
    let service = ServiceInfo::new(SERVICE, name, &host, ip, address.port(), properties).expect("a service");
    let full_name = service.get_fullname().to_owned();
    voice.register(service).expect("it runs");
    full_name
}

#[test]
fn cache_hosts_of_the_link_are_found_by_dns_sd_asked_by_priority_and_forgotten_when_they_go() {
    let Some(network) = Network::build(3) else { return };
    let (site, content) = (Site::new(), bytes(116, 3 * MIB));
    let start = |host: usize| {
        let files = BTreeMap::from([("/file".to_owned(), content.clone())]);
        network.on(host, || TestOrigin::start_at(Network::address(host).into(), files, Behaviour::Normal))
    };
    let (origin, liar, cache) = (start(0), start(1), start(1));
    liar.behave(Behaviour::OtherBytes);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    for state in ["n", "s"] {
        site.ok(&["trust", "add", "key.pub", "--publisher", "demo", "--names", "demo/*", "--state", state]);
    }
    let run = |args: &[&str]| {
        let mut inner = command();
        inner.current_dir(site.path("")).args(args).env("PIECEWORK_MIN_FREE_DISK", "0");
        Running::start(network.command(2, &inner))
    };
    let voice = network.on(1, || ServiceDaemon::new().expect("multicast"));
    let _elsewhere = announce(&voice, "elsewhere", "8.8.8.8:80".parse().expect("an address"), &[("priority", "0")]);
    let _deeper = announce(&voice, "deeper", cache.address(), &[("priority", "0"), ("path", "/admin")]);
    let names = [
        announce(&voice, "plain", cache.address(), &[]),
        announce(&voice, "first", liar.address(), &[("priority", "10")]),
    ];
    let all = content.len() as u64;
    // A job of its own waits a moment for the first answer where policy says so; where the machine is too busy for that, it asks the origin.
    let began = std::time::Instant::now();
    site.file("w.toml", b"[policy]\ncache_host_source = \"dns-sd\"\n");
    loop {
        let args = ["get", "f.piecework", "-o", "own", "--state", "s", "--no-daemon", "--config", "w.toml", "--force"];
        let result = run(&[&args[..], &["--json"]].concat()).success();
        assert!(same(&site.path("own"), &content));
        if n(&result, "bytes_from_cache_host") == all {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{result}");
        std::fs::remove_file(site.path("own")).expect("there");
    }
    let node = run(&["node", "--state", "n"]);
    node.address();
    let both = json!([liar.address().to_string(), cache.address().to_string()]);
    status_when(&site, |status| status["cache_hosts"] == both);
    let (asked_before, lied_before) = (origin.seen().requests, liar.seen().requests);
    let through = run(&["get", "f.piecework", "-o", "out", "--state", "n", "--json"]).success();
    let told = (through["through_daemon"].as_bool(), n(&through, "bytes_from_cache_host"));
    assert_eq!(told, (Some(true), all), "{through}");
    assert!(same(&site.path("out"), &content));
    assert_eq!(origin.seen().requests, asked_before, "not one request to the origin");
    assert!(liar.seen().requests > lied_before, "it came first, and what it sent was not taken");
    for name in names {
        voice.unregister(&name).expect("it runs");
    }
    status_when(&site, |status| status["cache_hosts"] == json!([]));
    // What policy names comes before what anybody on a link tells; so does that nobody is to be asked.
    drop(node);
    announce(&voice, "plain", cache.address(), &[]);
    site.file("c.toml", b"[policy]\ncache_host_source = \"config\"\n");
    let asked_before = cache.seen().requests;
    let args = ["get", "f.piecework", "-o", "config", "--state", "s", "--no-daemon", "--config", "c.toml", "--json"];
    let result = run(&args).success();
    assert_eq!((n(&result, "bytes_from_cache_host"), cache.seen().requests), (0, asked_before), "{result}");
    assert!(origin.seen().requests > 0);
    voice.shutdown().expect("it runs");
}
