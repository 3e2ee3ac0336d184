//! Peers that find each other without multicast: at a rendezvous, across subnets, and from the last time.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use piecework::drivers::transport::Identity;
use piecework::wire::version::Features;
use piecework::wire::{Frame, Member, scope_word};
use serde_json::{Value, json};

use crate::daemon::{asked, node};
use crate::support::hostile::signed_member;
use crate::support::meeting::{Heard, Meeter, Script};
use crate::support::network::{Family, Network};
use crate::support::subnets::Subnets;
use crate::support::{PATIENCE, Running, Site, bytes, command, have, n, same};

const MIB: usize = 1 << 20;
const SECRET: &str = "a secret of the lab, long enough\n";
const OTHER_SECRET: &str = "another secret, as long as that\n";

/// A publication, its key trusted in the state folders `s` and `t`.
fn scene(seed: u8) -> (Site, Vec<u8>) {
    let (site, content) = (Site::new(), bytes(seed, 5 * MIB + 3));
    site.file("f", &content);
    site.publish("f", &[]);
    for state in ["s", "t"] {
        site.ok(&["trust", "add", "key.pub", "--publisher", "demo", "--names", "demo/*", "--state", state]);
    }
    (site, content)
}

/// The program with this policy.
fn program(site: &Site, policy: &str, args: &[&str]) -> Command {
    let name = format!("{}.toml", blake3::hash(policy.as_bytes()).to_hex());
    site.file(&name, policy.as_bytes());
    let mut program = command();
    program.current_dir(site.path("")).args(args).args(["--config", &name]).env("PIECEWORK_LOG", "piecework=debug");
    program
}

fn group(id: &str, secret: Option<&str>, rest: &str) -> String {
    let secret = secret.map(|path| format!("group_secret_file = {path:?}\n")).unwrap_or_default();
    format!("[policy]\ndownload_mode = \"group\"\ngroup_id = \"{id}\"\nmin_free_disk = 0\n{secret}{rest}")
}

fn get<'a>(out: &'a str, state: &'a str, timeout: &'a str) -> [&'a str; 9] {
    ["get", "f.piecework", "-o", out, "--state", state, "--timeout", timeout, "--json"]
}

/// Waits until a running program has said this.
fn says(program: &Running, what: &str) {
    let began = Instant::now();
    while !program.stderr().contains(what) {
        assert!(began.elapsed() < PATIENCE, "no {what:?} in {}", program.stderr());
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// The appliance's host, the seed's, and those of who downloads; a router between all of them.
const APPLIANCE: (u8, u8) = (3, 1);
const SEED: (u8, u8) = (1, 1);
const GET: (u8, u8) = (2, 1);

fn on(lab: &Subnets, host: (u8, u8), program: &Command) -> Running {
    Running::start(lab.on(host.0, host.1, program))
}

#[test]
fn a_group_meets_across_subnets_by_way_of_an_appliance_and_another_group_never_does() {
    let Some(lab) = Subnets::build(&[SEED, GET, APPLIANCE]) else { return };
    let (site, content) = scene(121);
    let appliance = program(&site, "[policy]\nmin_free_disk = 0\n", &["node", "--role", "appliance", "--state", "a"]);
    let appliance = on(&lab, APPLIANCE, &appliance);
    appliance.address();
    let meets = format!("rendezvous = [\"{}\"]\n", Subnets::address(3, 1));
    let served = ["node", "--serve", "f=f.piecework", "--state", "n"];
    let seed = on(&lab, SEED, &program(&site, &group("lab", None, &meets), &served));
    seed.address();
    says(&seed, "a rendezvous answers");
    let got = on(&lab, GET, &program(&site, &group("lab", None, &meets), &get("out", "s", "60")));
    let result = got.success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{}", got.stderr());
    assert!(same(&site.path("out"), &content));
    // Neither the name of the group nor what is wanted has gone to the appliance.
    let log = appliance.stderr();
    assert!(log.contains("peer connected") && !log.contains("demo/f") && !log.contains("lab"), "{log}");
    // Without a rendezvous, and in another group at the same rendezvous, nobody is met.
    let seed_at = format!("{}:7680", Subnets::address(1, 1));
    for policy in [group("lab", None, ""), group("other", None, &meets)] {
        let lost = on(&lab, GET, &program(&site, &policy, &get("lost", "t", "4")));
        assert_eq!(lost.result()["error"]["code"], "no_source", "{}", lost.stderr());
        assert!(!lost.stderr().contains(&seed_at), "{}", lost.stderr());
    }
    // The doctors know.
    let said = |state: &str| {
        let output = site.run(&["doctor", "--json", "--state", state]);
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let finding = |said: &Value| {
        let rows = said["findings"].as_array().expect("findings").clone();
        rows.into_iter().find(|row| row["check"] == "rendezvous").unwrap_or_else(|| panic!("{said}"))
    };
    let row = finding(&said("n"));
    assert!(row["state"] == "good" && row["text"].as_str().is_some_and(|it| it.contains("10.88.3.1:7680")), "{row}");
    let row = finding(&said("a"));
    assert!(row["text"].as_str().is_some_and(|it| it.contains("members")), "{row}");
}

#[test]
fn a_secret_is_proven_before_a_rendezvous_says_anything() {
    let Some(lab) = Subnets::build(&[SEED, GET, APPLIANCE]) else { return };
    let (site, content) = scene(122);
    site.file("secret", SECRET.as_bytes());
    site.file("other", OTHER_SECRET.as_bytes());
    let (secret, other) = (site.text("secret"), site.text("other"));
    let meets = format!("rendezvous = [\"{}:7680\"]\n", Subnets::address(3, 1));
    let keeps = ["node", "--role", "appliance", "--state", "a"];
    let appliance = on(&lab, APPLIANCE, &program(&site, &group("lab", Some(&secret), ""), &keeps));
    appliance.address();
    let served = ["node", "--serve", "f=f.piecework", "--state", "n"];
    let seed = on(&lab, SEED, &program(&site, &group("lab", Some(&secret), &meets), &served));
    seed.address();
    says(&seed, "a rendezvous answers");
    let stranger = on(&lab, GET, &program(&site, &group("lab", Some(&other), &meets), &get("no", "t", "4")));
    let result = stranger.result();
    assert_eq!(result["error"]["code"], "no_source", "{result}");
    assert!(!stranger.stderr().contains("a rendezvous answers"), "{}", stranger.stderr());
    let got = on(&lab, GET, &program(&site, &group("lab", Some(&secret), &meets), &get("out", "s", "60")));
    assert_eq!(n(&got.success(), "bytes_from_peers"), content.len() as u64, "{}", got.stderr());
}

#[test]
fn a_lease_of_the_network_names_the_rendezvous() {
    let Some(lab) = Subnets::build(&[SEED, GET, APPLIANCE]) else { return };
    let (site, content) = scene(123);
    let appliance = program(&site, "[policy]\nmin_free_disk = 0\n", &["node", "--role", "appliance", "--state", "a"]);
    let appliance = on(&lab, APPLIANCE, &appliance);
    appliance.address();
    let named = data_encoding::HEXLOWER.encode(Subnets::address(3, 1).to_string().as_bytes());
    site.file("machine/run/systemd/netif/leases/2", format!("ADDRESS=10.88.1.1\nOPTION_236={named}\n").as_bytes());
    let start = |host, args: &[&str]| {
        let mut program = program(&site, &group("lab", None, ""), args);
        program.env("PIECEWORK_MACHINE", site.text("machine"));
        on(&lab, host, &program)
    };
    let seed = start(SEED, &["node", "--serve", "f=f.piecework", "--state", "n"]);
    seed.address();
    says(&seed, "a rendezvous answers");
    let got = start(GET, &get("out", "s", "60"));
    assert_eq!(n(&got.success(), "bytes_from_peers"), content.len() as u64, "{}", got.stderr());
}

#[test]
fn without_multicast_the_last_peers_of_this_network_are_found_again() {
    if !have("nft") {
        return;
    }
    let Some(network) = Network::build(2) else { return };
    let (site, content) = scene(124);
    let run = |host, args: &[&str]| {
        let policy = "[policy]\nmin_free_disk = 0\n";
        Running::start(network.command(host, &program(&site, policy, args)))
    };
    let seed = run(0, &["seed", "f", "--manifest", "f.piecework", "--state", "n"]);
    seed.address();
    let mut first = run(1, &get("one", "s", "60"));
    assert_eq!(n(&first.success(), "bytes_from_peers"), content.len() as u64);
    assert_eq!(first.wait(), Some(0));
    let kept = std::fs::read_to_string(site.path("s/last-peers")).expect("it has met one");
    assert!(kept.contains(&format!("{}:7680 ", Network::address(0))), "{kept}");
    network.drop_multicast();
    let stranger = run(1, &get("no", "t", "3"));
    assert_eq!(stranger.result()["error"]["code"], "no_source", "nobody is heard: {}", stranger.stderr());
    let again = run(1, &get("two", "s", "60"));
    assert_eq!(n(&again.success(), "bytes_from_peers"), content.len() as u64, "{}", again.stderr());
    assert!(same(&site.path("two"), &content));
}

#[test]
fn a_link_with_ipv6_alone_is_a_lan_like_any_other() {
    for family in [Family::V6, Family::LinkLocal] {
        let Some(network) = Network::of(family, 2) else { return };
        let (site, content) = scene(125);
        let run = |host, args: &[&str]| {
            let policy = "[policy]\nmin_free_disk = 0\n";
            Running::start(network.command(host, &program(&site, policy, args)))
        };
        let seed = run(0, &["seed", "f", "--manifest", "f.piecework", "--state", "n"]);
        let got = run(1, &get("out", "s", "60"));
        let result = got.success();
        assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{family:?}: {}", seed.stderr());
    }
}

#[test]
fn who_asks_at_a_rendezvous_is_told_of_others_and_no_more_often_than_its_turn() {
    let (site, _) = scene(126);
    let _node = node(&site, &["--role", "appliance"], |_| ());
    let address = asked(&site, &["status"])["listening"][0].as_str().expect("an address").to_owned();
    let scope = scope_word(b"lab");
    let asks = |seed, scope, times| {
        let meeter = Meeter::start(seed, Features::OURS, Script::Says(vec![Frame::Meet { scope }; times]));
        meeter.dial(&address);
        meeter
    };
    let one = asks(1, scope, 1);
    assert!(matches!(one.hears(), Heard::Met(lease, members) if lease.as_secs() > 60 && members.is_empty()));
    let two = asks(2, scope, 1);
    let Heard::Met(_, members) = two.hears() else { panic!("an answer") };
    assert_eq!(members, [one.member()], "as it was signed");
    // Another scope knows nobody; and who floods is answered a few times.
    let flood = asks(3, scope_word(b"other"), 40);
    assert!(matches!(flood.hears(), Heard::Met(_, members) if members.is_empty()));
    let three = asks(4, scope, 1);
    let Heard::Met(_, members) = three.hears() else { panic!("an answer") };
    assert_eq!(members.len(), 2, "{members:?}");
    let mut answers = 1;
    while flood.heard_within(std::time::Duration::from_millis(1)).is_some() {
        answers += 1;
    }
    assert!(answers < 20, "{answers}");
}

#[test]
fn a_rendezvous_that_lies_brings_nobody_and_one_that_speaks_unasked_is_sent_away() {
    let (site, content) = scene(127);
    site.trust("s");
    let holder = site.seed("f", "seed-state");
    let holder_at = holder.address();
    let quiet: [TcpListener; 2] = std::array::from_fn(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        listener.set_nonblocking(true).expect("it may");
        listener
    });
    let [unsigned, forged] = quiet.each_ref().map(|listener| listener.local_addr().expect("bound"));
    let [a, b] = [7, 8].map(|seed| Identity::from_seed(&mut [seed; 32]));
    let mut broken = signed_member(&b, forged);
    *broken.record.last_mut().expect("a signature") ^= 1;
    let members = vec![Member { record: vec![], ..signed_member(&a, unsigned) }, broken];
    let keeps = Features::OURS.with(Features::RENDEZVOUS);
    let liar = Meeter::start(9, keeps, Script::Answers(members));
    let policy = group("lab", None, &format!("rendezvous = [\"{}\"]\n", liar.address()));
    let args = [&get("out", "s", "3")[..], &["--listen", "127.0.0.1:0", "--no-daemon"]].concat();
    let got = Running::start(program(&site, &policy, &args));
    assert_eq!(liar.hears(), Heard::Meet(scope_of("lab")), "and nothing of what is wanted");
    assert_eq!(got.result()["error"]["code"], "no_source", "{}", got.stderr());
    for listener in &quiet {
        let dialled = listener.accept();
        assert!(dialled.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{:?}", listener.local_addr());
    }
    // An answer to no question.
    let unasked = vec![Frame::Met { scope: [7; 32], lease: std::time::Duration::ZERO, members: vec![] }];
    let loud = Meeter::start(10, keeps, Script::Says(unasked));
    loud.dial(&holder_at);
    assert_eq!(loud.hears(), Heard::Gone);
    // A question to who keeps none, and has not said that it does.
    let curious = Meeter::start(11, Features::OURS, Script::Says(vec![Frame::Meet { scope: [7; 32] }]));
    curious.dial(&holder_at);
    assert_eq!(curious.hears(), Heard::Met(std::time::Duration::ZERO, vec![]));
    let args = ["f.piecework", "-o", "two", "--state", "s", "--mode", "simple", "--no-daemon", "--peer", &holder_at];
    assert_eq!(n(&site.get(&args).success(), "bytes_from_peers"), content.len() as u64);
}

fn scope_of(group: &str) -> [u8; 32] {
    use sha2::Digest as _;
    scope_word(&sha2::Sha256::digest(group.as_bytes()))
}

#[test]
fn a_rendezvous_that_is_none_is_named_by_the_doctor() {
    let (site, _) = scene(128);
    let nobody = {
        // Bound, closed again, and so refusing.
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
    };
    let policy = group("lab", None, &format!("rendezvous = [\"{nobody}\"]\n"));
    let daemon = program(&site, &policy, &["node", "--state", "n", "--listen", "127.0.0.1:0"]);
    let daemon = Running::start(daemon);
    daemon.address();
    says(&daemon, "a rendezvous is of no use");
    let output = site.run(&["doctor", "--json", "--state", "n"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = said["findings"].as_array().expect("findings").iter().find(|row| row["check"] == "rendezvous");
    let row = row.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(row["state"], json!("note"), "{row}");
    assert!(row["text"].as_str().is_some_and(|text| text.contains(&nobody.to_string())), "{row}");
    assert!(said["verdict"].as_str().is_some_and(|line| line.contains(&nobody.to_string())), "{said}");
}
