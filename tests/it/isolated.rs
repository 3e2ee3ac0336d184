//! A network that isolates its machines from each other, as guests' Wi-Fi does: they hear of each other and cannot connect.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use crate::support::network::Network;
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;
/// Members that a machine has to hear of.
const MEMBERS: usize = 5;
/// What the log says once discovery has settled.
const SETTLED: &str = "discovery has settled";

/// The origin's host, a machine that downloads, and members that hold everything.
struct Guests {
    network: Network,
    site: Site,
    origin: TestOrigin,
    content: Vec<u8>,
}

impl Guests {
    /// `None` where the kernel forbids it.
    fn new() -> Option<Self> {
        let network = Network::build(2 + MEMBERS)?;
        let (site, content) = (Site::new(), bytes(91, 9 * MIB));
        let files = BTreeMap::from([("/file".to_owned(), content.clone())]);
        let ip = Network::address(0).into();
        let origin = network.on(0, || TestOrigin::start_at(ip, files, Behaviour::Silent));
        site.file("f", &content);
        site.publish("f", &[&origin.url("/file")]);
        site.ok(&["trust", "add", "key.pub", "--publisher", "demo", "--names", "demo/*", "--state", "s"]);
        Some(Self { network, site, origin, content })
    }

    fn run(&self, host: usize, args: &[&str]) -> Running {
        let mut inner: Command = command();
        inner.current_dir(self.site.path("")).args(args).env("PIECEWORK_LOG", "info,piecework=debug");
        Running::start(self.network.command(host, &inner))
    }

    fn member(&self, number: usize) -> Running {
        let state = format!("of-{number}");
        let seed = self.run(
            2 + number,
            &["seed", "f", "--manifest", "f.piecework", "--listen", "0.0.0.0:7680", "--state", &state],
        );
        seed.address();
        seed
    }

    fn get(&self, out: &str) -> Running {
        let args = ["get", "f.piecework", "-o", out, "--listen", "0.0.0.0:7680", "--state", "s", "--no-daemon"];
        self.run(1, &[&args[..], &["--timeout", "600", "--json"]].concat())
    }
}

/// Where a line that says this stands in a log.
fn place(log: &str, says: &str) -> usize {
    log.lines().position(|line| line.contains(says)).unwrap_or_else(|| panic!("`{says}` is not in\n{log}"))
}

#[test]
fn where_members_are_seen_and_cannot_be_connected_sources_are_asked_and_the_second_time_at_once() {
    let Some(guests) = Guests::new() else { return };
    guests.network.isolate();
    let _members: Vec<Running> = (0..MEMBERS).map(|number| guests.member(number)).collect();
    let first = guests.get("out");
    // The origin says nothing until the machine has found out.
    let (known, began) = (guests.site.path("s/isolated-networks"), Instant::now());
    while !known.exists() {
        assert!(began.elapsed() < PATIENCE, "it never finds out: {}", first.stderr());
        std::thread::yield_now();
    }
    guests.origin.behave(Behaviour::Normal);
    let result = first.success();
    assert_eq!(n(&result, "bytes_from_http"), guests.content.len() as u64, "{result}");
    assert!(same(&guests.site.path("out"), &guests.content));
    place(&first.stderr(), "client isolation");
    place(&first.stderr(), SETTLED);
    let second = guests.get("again");
    let result = second.success();
    assert_eq!(n(&result, "bytes_from_http"), guests.content.len() as u64, "{result}");
    let log = second.stderr();
    // A download that is whole before discovery has settled has not waited for it either.
    let settled = log.lines().position(|line| line.contains(SETTLED));
    let asked = place(&log, "range asked for");
    assert!(settled.is_none_or(|settled| asked < settled), "{log}");
    assert!(!log.contains("client isolation"), "it knew: {log}");
}

#[test]
fn where_members_can_be_connected_no_source_is_needed() {
    let Some(guests) = Guests::new() else { return };
    let _members: Vec<Running> = (0..MEMBERS).map(|number| guests.member(number)).collect();
    let result = guests.get("out").success();
    assert_eq!(n(&result, "bytes_from_peers"), guests.content.len() as u64, "{result}");
    assert!(!guests.site.path("s/isolated-networks").exists());
}
