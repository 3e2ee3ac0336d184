//! How soon has a newcomer on a LAN its first peer?
//!
//! Running nodes on one switch, each in a network namespace of its own, and one after the other newcomers, each a
//! fresh `piecework get` with an identity of its own; timed from the start of its process to the log's line of its first
//! peer, and to its end. The program's own start, and one question and answer of multicast DNS, which a responder may
//! hold back for 20 to 120 ms (RFC 6762, 6), is what it must do; what is its owner's alone is answered at once. Asked:
//! half within 100 ms, 99 of 100 within a second.
//!
//! `PIECEWORK_BENCH_NODES` (12), `PIECEWORK_BENCH_NEWCOMERS` (60). Needs the right to make namespaces.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use network::{Family, Network};
use support::scene::Scene;
use support::{Folder, MIB, median, piecework, random_file, seconds, text};

/// What the log says of a peer.
const FIRST_PEER: &str = "peer connected";
/// How long a node may take to hear all others.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let nodes = from_environment("PIECEWORK_BENCH_NODES", 12);
    let newcomers = from_environment("PIECEWORK_BENCH_NEWCOMERS", 60);
    for (name, family) in
        [("IPv4", Family::V4), ("IPv6 alone", Family::V6), ("link-local IPv6 alone", Family::LinkLocal)]
    {
        measure(name, family, nodes, newcomers);
    }
    println!("from the start of a process to its first peer (to reach: p50 below 100 ms, p99 below 1000 ms)");
}

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn measure(name: &str, family: Family, nodes: usize, newcomers: usize) {
    // The last host is the newcomers'.
    let Some(network) = Network::of(family, nodes + 1) else { return };
    let folder = Folder::in_memory("discovery");
    let content = folder.join("content");
    random_file(&content, MIB);
    let scene = Scene::publish(folder, content, MIB, &[]);
    let _running: Vec<Node> = (0..nodes).map(|number| Node::start(&network, &scene, number)).collect();
    (0..nodes).for_each(|number| hears(&scene, number, nodes - 1));
    let state = scene.trust("newcomer");
    let bare = median((0..9).map(|_| network.on(nodes, || seconds(|| ends(piecework(&["--version"]))))).collect());
    let mut times: Vec<(f64, f64)> =
        (0..newcomers).map(|number| arrive(&network, nodes, &scene, text(&state), number)).collect();
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let part = |percent: usize| times[((times.len() * percent).div_ceil(100)).clamp(1, times.len()) - 1].0 * 1000.0;
    println!(
        "{name}: {newcomers} newcomers among {nodes} nodes: first peer after p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, \
         {:.0} ms at most; 1 MiB is there after {:.0} ms (median); the program alone starts and ends in {:.0} ms",
        part(50),
        part(90),
        part(99),
        part(100),
        median(times.iter().map(|(_, end)| *end).collect()) * 1000.0,
        bare * 1000.0,
    );
}

/// A node that serves the content.
struct Node(Child);

impl Node {
    fn start(network: &Network, scene: &Scene, number: usize) -> Self {
        let (state, serve) = (state_of(scene, number), format!("{}={}", text(&scene.content), text(&scene.manifest)));
        let mut node = piecework(&["node", "--serve", &serve, "--state", &state]);
        node.env("PIECEWORK_MIN_FREE_DISK", "0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = network.on(number, || node.spawn().expect("the program starts"));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        Self(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state_of(scene: &Scene, number: usize) -> String {
    text(&scene.folder.join(&format!("node-{number}"))).to_owned()
}

/// Waits until a node has heard so many others.
fn hears(scene: &Scene, number: usize, others: usize) {
    let (state, began) = (state_of(scene, number), Instant::now());
    loop {
        let said = piecework(&["doctor", "--state", &state]).output().expect("the program starts");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.contains(&format!("has heard {others} nodes")) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "node {number}: {said}");
    }
}

fn ends(mut command: Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("the program starts").success());
}

/// Seconds from the start of a newcomer to its first peer, and to its end.
fn arrive(network: &Network, host: usize, scene: &Scene, state: &str, number: usize) -> (f64, f64) {
    let out = scene.folder.join(&format!("out-{number}"));
    let mut get = piecework(&["get", text(&scene.manifest), "-o", text(&out), "--state", state, "--no-daemon", "-q"]);
    // Nobody is known from the last time.
    let _ = std::fs::remove_file(std::path::Path::new(state).join("last-peers"));
    get.env("PIECEWORK_LOG", "piecework=debug").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (began, mut child) = network.on(host, || {
        let began = Instant::now();
        (began, get.spawn().expect("the program starts"))
    });
    let (mut first, mut said) = (None, String::new());
    for line in BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok) {
        if first.is_none() && line.contains(FIRST_PEER) {
            first = Some(began.elapsed().as_secs_f64());
        }
        said.push_str(&line);
        said.push('\n');
    }
    assert!(child.wait().expect("our child").success(), "{said}");
    let end = began.elapsed().as_secs_f64();
    std::fs::remove_file(&out).expect("get made it");
    (first.unwrap_or_else(|| panic!("no peer: {said}")), end)
}
