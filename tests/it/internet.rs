//! Peers on the Internet: found by the DHT, met at public addresses or through holes in NATs. Machines are namespaces with
//! public addresses, each in a network of its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use piecework::content::hash::{ContentId, Topic};
use piecework::surfaces::control::Client;
use serde_json::Value;

use crate::daemon::{asked, signal, status_when};
use crate::support::internet::{Internet, Line};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::spy::Spy;
use crate::support::{PATIENCE, Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;

/// A piecework of this site on a machine, in the mode internet.
fn on(internet: &Internet, number: usize, site: &Site, args: &[&str]) -> Command {
    let mut command = command();
    command.current_dir(site.path("")).args(args).args(["--mode", "internet"]);
    internet.on(number, &command)
}

/// A node on a machine that others begin with, and that relays; its multiaddress.
fn first(internet: &Internet, number: usize, site: &Site) -> (Running, String) {
    let mut node = command();
    node.current_dir(site.path("")).args(["node", "--state", "first", "--mode", "internet", "--listen", "7680", "-vv"]);
    node.env("PIECEWORK_RELAY", "true");
    let node = Running::start(internet.on(number, &node));
    let address = node.address();
    assert!(address.contains(&internet.at(number).to_string()), "{address}");
    (node, address)
}

fn seed(internet: &Internet, number: usize, site: &Site, name: &str, bootstrap: &str) -> Running {
    let (manifest, state) = (format!("{name}.piecework"), format!("state-{name}"));
    let args = ["seed", name, "--manifest", &manifest, "--state", &state, "--listen", "7680", "-vv"];
    let seed = Running::start(on(internet, number, site, &[&args[..], &["--bootstrap", bootstrap]].concat()));
    seed.address();
    seed
}

fn get(internet: &Internet, number: usize, site: &Site, bootstrap: &str, args: &[&str]) -> Running {
    let fixed = ["get", "--state", "s", "--no-daemon", "--json", "-vv", "--bootstrap", bootstrap];
    Running::start(on(internet, number, site, &[&fixed[..], args].concat()))
}

fn published(site: &Site, name: &str, content: &[u8]) {
    site.file(name, content);
    site.publish(name, &[]);
}

#[test]
fn peers_at_public_addresses_find_each_other_through_a_node_to_begin_with() {
    let Some(internet) = Internet::build(&[Line::Public; 3]) else { return };
    let (site, content) = (Site::new(), bytes(71, 5 * MIB + 3));
    published(&site, "f", &content);
    site.trust("s");
    let (_first, bootstrap) = first(&internet, 0, &site);
    let mut seed = seed(&internet, 1, &site, "f", &bootstrap);
    let got = get(&internet, 2, &site, &bootstrap, &["f.piecework", "-o", "out"]);
    let result = got.success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    assert!(same(&site.path("out"), &content));
    // By the data plane: neither relays nor QUIC where TCP does.
    let said = got.stderr();
    assert!(said.lines().any(|line| line.contains("peer connected") && line.contains("path=Direct")), "{said}");
    // By a bare link, too: the manifest is asked for by the same way.
    let id = ContentId::new(*blake3::hash(&content).as_bytes());
    let linked = get(&internet, 2, &site, &bootstrap, &[&format!("piecework:{id}"), "-o", "linked"]);
    linked.success();
    assert!(same(&site.path("linked"), &content));
    // The mode may change while a daemon runs.
    assert!(nat(&site).is_some_and(|said| said.starts_with("public: reached at")));
    site.ok(&["mode", "lan", "--state", "first"]);
    assert_eq!(nat(&site), None);
    site.ok(&["mode", "internet", "--state", "first"]);
    assert!(nat(&site).is_some());
    assert_eq!(seed.terminate(), Some(0), "{}", seed.stderr());
}

/// What the doctor says of how the Internet sees the first node.
fn nat(site: &Site) -> Option<String> {
    let said = site.run(&["doctor", "--json", "--state", "first"]).stdout;
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let findings = said["findings"].as_array().expect("findings").clone();
    let finding = findings.iter().find(|finding| finding["check"] == "nat")?;
    finding["text"].as_str().map(str::to_owned)
}

#[test]
fn peers_find_each_other_by_ipv6_alone() {
    let Some(internet) = Internet::build_ipv6(&[Line::Public; 3]) else { return };
    let (site, content) = (Site::new(), bytes(78, 3 * MIB + 1));
    published(&site, "f", &content);
    site.trust("s");
    let (_first, bootstrap) = first(&internet, 0, &site);
    let _seed = seed(&internet, 1, &site, "f", &bootstrap);
    let got = get(&internet, 2, &site, &bootstrap, &["f.piecework", "-o", "out"]);
    let result = got.success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    assert!(same(&site.path("out"), &content));
    let said = got.stderr();
    assert!(said.lines().any(|line| line.contains("peer connected") && line.contains("path=Direct")), "{said}");
}

#[test]
fn who_is_behind_a_firewall_of_ipv6_is_met_all_the_same() {
    let Some(internet) = Internet::build_ipv6(&[Line::Public, Line::Firewalled, Line::Firewalled]) else { return };
    let (site, content) = (Site::new(), bytes(79, 3 * MIB + 1));
    published(&site, "f", &content);
    site.trust("s");
    let (_first, bootstrap) = first(&internet, 0, &site);
    let _seed = seed_behind_relay(&internet, 1, &site, "f", &bootstrap);
    let result = get(&internet, 2, &site, &bootstrap, &["f.piecework", "-o", "out", "--listen", "7680"]).success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    assert!(same(&site.path("out"), &content));
}

#[test]
fn in_other_modes_nobody_at_a_public_address_is_met() {
    let Some(internet) = Internet::build(&[Line::Public; 2]) else { return };
    let (site, content) = (Site::new(), bytes(72, MIB));
    published(&site, "f", &content);
    site.trust("s");
    let (_first, bootstrap) = first(&internet, 0, &site);
    let _seed = seed(&internet, 1, &site, "f", &bootstrap);
    let args = ["get", "f.piecework", "-o", "out", "--state", "s", "--no-daemon", "--json", "--timeout", "3"];
    let mut lan = command();
    lan.current_dir(site.path("")).args(args).args(["--bootstrap", &bootstrap, "--mode", "lan"]);
    let result = Running::start(internet.on(0, &lan)).result();
    assert_eq!(result["error"]["code"], "no_source", "{result}");
}

#[test]
fn the_dht_learns_neither_what_is_held_nor_what_is_wanted() {
    let Some(internet) = Internet::build(&[Line::Public; 3]) else { return };
    let (site, content) = (Site::new(), bytes(73, 2 * MIB));
    published(&site, "f", &content);
    site.trust("s");
    let spy = internet.within(0, || Spy::start(Internet::public(0).into()));
    let mut seed = seed(&internet, 1, &site, "f", spy.address());
    // That of the content, and that of its manifest.
    let told = spy.told(2);
    let getting = get(&internet, 2, &site, spy.address(), &["f.piecework", "-o", "out"]);
    let asked = spy.asked();
    getting.success();
    let id = ContentId::new(*blake3::hash(&content).as_bytes());
    let topic = Topic::of_content(&id, b"");
    assert_eq!((told.contains(&topic.provider_key().to_vec()), asked), (true, topic.provider_key().to_vec()));
    for key in told.iter().chain(&spy.everything()) {
        let holds = |secret: &[u8]| key.windows(secret.len()).any(|part| part == secret);
        assert!(!holds(id.as_bytes()) && !holds(topic.as_bytes()), "what the DHT is told leads to no content");
    }
    assert_eq!(seed.terminate(), Some(0));
}

#[test]
fn addresses_that_the_dht_makes_up_are_not_dialled() {
    let Some(internet) = Internet::build(&[Line::Public; 2]) else { return };
    let (site, content) = (Site::new(), bytes(74, MIB));
    published(&site, "f", &content);
    site.trust("s");
    let spy = internet.within(0, || Spy::start(Internet::public(0).into()));
    // Both are this machine's own, and one is what any machine calls itself.
    let quiet = internet.within(1, || {
        ["127.0.0.1:0", "0.0.0.0:0"].map(|at| {
            let listener = std::net::TcpListener::bind(at).expect("a port");
            listener.set_nonblocking(true).expect("it may");
            listener
        })
    });
    let ports = quiet.each_ref().map(|listener| listener.local_addr().expect("bound").port());
    spy.makes_up(&[
        format!("/ip4/127.0.0.1/tcp/{}", ports[0]),
        format!("/ip4/10.0.0.1/tcp/{}", ports[1]),
        format!("/ip4/169.254.169.254/tcp/{}", ports[1]),
        "/dns4/localhost/tcp/22".to_owned(),
    ]);
    let getting = get(&internet, 1, &site, spy.address(), &["f.piecework", "-o", "out", "--timeout", "4"]);
    spy.asked();
    assert_eq!(getting.result()["error"]["code"], "no_source");
    for listener in &quiet {
        let dialled = listener.accept();
        assert!(dialled.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{}", getting.stderr());
    }
    assert!(getting.stderr().contains("the DHT names a provider"), "{}", getting.stderr());
}

#[test]
fn a_month_has_so_many_bytes_for_the_internet_and_a_reload_gives_more() {
    const CAP: u64 = 24_000_000;
    let Some(internet) = Internet::build(&[Line::Public; 2]) else { return };
    let (site, content) = (Site::new(), bytes(75, 48 * MIB));
    published(&site, "f", &content);
    site.trust("s");
    let policies =
        |cap: u64| format!("[policy]\nmonthly_upload_cap = {cap}\nmin_ram_to_peer = 0\nmin_disk_to_peer = 0\n");
    site.file("c.toml", policies(CAP).as_bytes());
    let args = ["node", "--state", "n", "--listen", "7680", "--config", "c.toml", "--serve", "f=f.piecework"];
    let daemon = Running::start(on(&internet, 0, &site, &args));
    let bootstrap = daemon.address();
    let getting = get(&internet, 1, &site, &bootstrap, &["f.piecework", "-o", "out", "--timeout", "6"]);
    let result = getting.result();
    assert_eq!(result["error"]["code"], "no_source", "{result}");
    signal(&daemon, "-HUP");
    let status = status_when(&site, |status| status["gates"][0]["gate"] == "monthly_cap");
    let sent = n(&asked(&site, &["perf"])["month"], "bytes_to_internet");
    assert!((CAP * 9 / 10..=CAP * 11 / 10).contains(&sent), "{sent} of {CAP}: {status}");
    site.file("c.toml", policies(10 * CAP).as_bytes());
    signal(&daemon, "-HUP");
    status_when(&site, |status| status["gates"] == Value::Array(Vec::new()));
    get(&internet, 1, &site, &bootstrap, &["f.piecework", "-o", "out"]).success();
    assert!(same(&site.path("out"), &content));
}

/// A seed of what is published as `name`, once it can be reached through the first node.
fn seed_behind_relay(internet: &Internet, number: usize, site: &Site, name: &str, bootstrap: &str) -> Running {
    let seed = seed(internet, number, site, name, bootstrap);
    let until = Instant::now() + PATIENCE;
    while !seed.stderr().contains("an address of this node on the Internet") {
        assert!(Instant::now() < until, "{}", seed.stderr());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    seed
}

#[test]
fn content_of_a_hopeless_pair_goes_through_a_relay_as_far_as_its_budget_of_the_month() {
    const BUDGET: u64 = 40 << 20;
    const RELAYED: &str = "path=Relayed";
    let Some(internet) = Internet::build(&[Line::Public, Line::Symmetric, Line::Symmetric]) else { return };
    let (site, small, large) = (Site::new(), bytes(76, 12 * MIB + 5), bytes(77, 48 * MIB));
    published(&site, "f", &small);
    published(&site, "g", &large);
    site.trust("s");
    let budget = |bytes: u64| site.file("c.toml", format!("[policy]\nrelay_data_budget = {bytes}\n").as_bytes());
    let relay = || {
        let mut node = on(&internet, 0, &site, &["node", "--state", "n", "--listen", "7680", "--config", "c.toml"]);
        node.env("PIECEWORK_RELAY", "true");
        let node = Running::start(node);
        let address = node.address();
        (node, address)
    };
    let carried = || n(&asked(&site, &["perf"])["month"], "bytes_carried");
    let get = |bootstrap: &str, name: &str, timeout: &str| {
        let (manifest, out) = (format!("{name}.piecework"), format!("{name}-out"));
        let getting =
            get(&internet, 2, &site, bootstrap, &[&manifest, "-o", &out, "--listen", "7680", "--timeout", timeout]);
        (getting.result(), getting.stderr())
    };
    // Who gives nothing carries nothing but words.
    budget(0);
    let (mut node, bootstrap) = relay();
    {
        let _seed = seed_behind_relay(&internet, 1, &site, "f", &bootstrap);
        let (result, said) = get(&bootstrap, "f", "12");
        assert_eq!(result["error"]["code"], "no_source", "{result}");
        assert!(!said.contains(RELAYED) && carried() == 0, "{said}");
    }
    // A budget that comes with a reload.
    budget(BUDGET);
    signal(&node, "-HUP");
    let (client, runtime) = (Client::new(&site.path("n/control.sock")), tokio::runtime::Runtime::new().expect("one"));
    status_when(&site, |_| {
        let rows = runtime.block_on(client.get("/v1/config")).expect("rows");
        rows.to_string().contains("40 MiB")
    });
    let seed = seed_behind_relay(&internet, 1, &site, "f", &bootstrap);
    let (result, said) = get(&bootstrap, "f", "80");
    drop(seed);
    assert_eq!(n(&result, "bytes_from_peers"), small.len() as u64, "{result}\n{said}");
    assert!(said.contains(RELAYED) && same(&site.path("f-out"), &small), "{said}");
    let spent = carried();
    let sent = small.len() as u64;
    assert!((sent - (128 << 10)..sent * 11 / 10).contains(&spent), "{spent} of {sent}");
    // What was spent stays spent, and what is left is the end.
    assert_eq!(node.terminate(), Some(0));
    drop(node);
    let (_node, bootstrap) = relay();
    assert_eq!(carried(), spent);
    let _other = seed_behind_relay(&internet, 1, &site, "g", &bootstrap);
    let (result, said) = get(&bootstrap, "g", "20");
    assert_eq!(result["error"]["code"], "no_source", "{result}\n{said}");
    let all = carried();
    assert!(said.contains(RELAYED) && all > BUDGET - (16 << 20) && all <= BUDGET, "{all} of {BUDGET}: {said}");
}

/// Whether two lines let no connection come about between them: one has a port of its own choice for each, and the other
/// lets nobody in, or has none that the first could tell.
fn is_hopeless(one: Line, other: Line) -> bool {
    let shut = |line| matches!(line, Line::Firewalled | Line::Restricted | Line::Symmetric);
    (one == Line::Symmetric && shut(other)) || (other == Line::Symmetric && shut(one))
}

/// How a getter on one line came by what a seed on another has: by peers, if that takes no longer than `patience`, else over
/// HTTP.
fn way(
    internet: &Internet,
    getter: usize,
    site: &Site,
    bootstrap: &str,
    name: &str,
    url: &str,
    patience: &str,
) -> (String, Duration) {
    let (manifest, out) = (format!("{name}.piecework"), format!("{name}-{getter}"));
    let state = format!("s{getter}");
    let run = |extra: &[&str]| {
        let args = ["get", &manifest, "-o", &out, "--state", &state, "--no-daemon", "--json", "-vv"];
        let args = [&args[..], &["--bootstrap", bootstrap, "--listen", "7680"], extra].concat();
        let began = Instant::now();
        let getting = Running::start(on(internet, getter, site, &args));
        let result = getting.result();
        (result["error"].is_null(), getting.stderr(), began.elapsed())
    };
    let (found, said, took) = run(&["--timeout", patience]);
    if found {
        let direct = said.lines().any(|line| line.contains("peer connected") && line.contains("path=Direct"));
        return (if direct { "direct" } else { "punched" }.to_owned(), took);
    }
    let (found, said, took) = run(&["--source", url]);
    assert!(found, "{said}");
    ("HTTP".to_owned(), took)
}

#[test]
fn every_pair_of_nats_comes_to_its_bytes() {
    const KINDS: usize = Line::ALL.len();
    let lines: Vec<Line> = Line::ALL.iter().chain(&Line::ALL).map(|(line, _)| *line).collect();
    let Some(internet) = Internet::build(&[&[Line::Public][..], &lines].concat()) else { return };
    let site = Site::new();
    let (_first, bootstrap) = first(&internet, 0, &site);
    // To each its own content, so that no third helps.
    let pairs = || (0..KINDS).flat_map(|kind| (0..KINDS).map(move |to| (kind, to)));
    let name = |kind: usize, to: usize| format!("f{kind}{to}");
    let mut files = BTreeMap::new();
    for (kind, to) in pairs() {
        let content = bytes(100 + (KINDS * kind + to) as u8, 2 * MIB + kind);
        published(&site, &name(kind, to), &content);
        files.insert(format!("/{}", name(kind, to)), content);
    }
    let origin = internet.within(0, || TestOrigin::start_at(Internet::public(0).into(), files, Behaviour::Normal));
    let holder = |kind: usize| {
        let state = format!("n{kind}");
        let serves = (0..KINDS).map(|to| format!("--serve={0}={0}.piecework", name(kind, to)));
        let mut args = ["node", "--state", &state, "--listen", "7680", "--bootstrap", &bootstrap, "-vv"]
            .map(str::to_owned)
            .to_vec();
        args.extend(serves);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut node = on(&internet, 1 + kind, &site, &args);
        node.env("PIECEWORK_MIN_RAM_TO_PEER", "0").env("PIECEWORK_MIN_DISK_TO_PEER", "0");
        let node = Running::start(node);
        node.address();
        node
    };
    let seeds: Vec<Running> = (0..KINDS).map(holder).collect();
    // Each has proven that it can be reached, or has a place at the relay.
    for (seed, (_, word)) in seeds.iter().zip(Line::ALL) {
        let until = Instant::now() + PATIENCE;
        while !seed.stderr().contains("an address of this node on the Internet") {
            assert!(Instant::now() < until, "{word}: {}", seed.stderr());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    let (site, internet, bootstrap, origin) = (&site, &internet, &bootstrap, &origin);
    let getter = |from: usize| {
        site.trust(&format!("s{}", 1 + KINDS + from));
        (0..KINDS).map(move |kind| {
            let name = format!("f{kind}{from}");
            let url = origin.url(&format!("/{name}"));
            let patience = if is_hopeless(Line::ALL[from].0, Line::ALL[kind].0) { "6" } else { "80" };
            way(internet, 1 + KINDS + from, site, bootstrap, &name, &url, patience)
        })
    };
    let rows: Vec<Vec<(String, Duration)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..KINDS).map(|from| scope.spawn(move || getter(from).collect())).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let head: Vec<_> = Line::ALL.iter().map(|(_, word)| format!("{word:>16}")).collect();
    println!("{:>12}  from {}", "to", head.join(""));
    for ((_, word), row) in Line::ALL.iter().zip(&rows) {
        let cells: Vec<_> =
            row.iter().map(|(way, took)| format!("{:>16}", format!("{way} {:.1} s", took.as_secs_f64()))).collect();
        println!("{word:>12}       {}", cells.join(""));
    }
    for (to, row) in Line::ALL.iter().zip(&rows) {
        for (from, (way, _)) in Line::ALL.iter().zip(row) {
            let open = |line| matches!(line, Line::Public | Line::FullCone);
            let expected: &[&str] = match (to.0, from.0) {
                (_, from) if open(from) => &["direct"],
                // A port of its own choice may be the right one by chance.
                (to, from) if is_hopeless(to, from) => &["HTTP", "punched"],
                _ => &["direct", "punched"],
            };
            assert!(expected.contains(&way.as_str()), "{} from {}: {way}", to.1, from.1);
        }
    }
}
