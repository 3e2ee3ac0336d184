//! What does a node use that is left alone, and does a node at full rate grow?
//!
//! A daemon with 20 contents on a link with 100 neighbours (announced by DNS-SD, 20 of them connected) that nobody asks for
//! anything, over ten minutes: to reach under 20 MiB resident, 8 MiB of it anonymous, 2 waits a second and 0.05 % of a core.
//! Expected some 13 MiB, of which 3 are anonymous; what wakes it are its own looks at the machine and its neighbours' words.
//! Then a seed to which `get`s come one after the other for half an hour: memory and descriptors at each tenth, which may
//! not rise by more than a tenth from the second to the last. `cargo bench --bench steady -- idle`, `-- soak` run one of them;
//! `PIECEWORK_BENCH_SECONDS` sets how long each takes (600, 1800).

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use piecework::drivers::discovery::SERVICE;
use support::contents::fill;
use support::light::{Light, address};
use support::process::{from_environment, ticking};
use support::scene::Scene;
use support::{Folder, MIB, Serving, Usage, megabytes, random_file, text, watched};

const NEIGHBOURS: usize = 100;
const CONNECTED: usize = 20;

fn main() {
    support::bare::role();
    let named = |name: &str| std::env::args().any(|argument| argument == name);
    if !named("soak") {
        idle();
    }
    if !named("idle") {
        soak();
    }
}

fn idle() {
    let seconds = from_environment("PIECEWORK_BENCH_SECONDS", 600);
    let folder = Folder::in_memory("idle");
    let state = folder.join("state");
    // The state folder is its user's alone.
    std::fs::DirBuilder::new().mode(0o700).create(&state).expect("a folder of ours");
    fill(&state.join("cache"), 20, 64 * MIB);
    let announced = announce();
    let config = folder.join("config.toml");
    std::fs::write(&config, "[policy]\nmin_free_disk = 0\nmax_cache_percent = 100\n").expect("a folder of ours");
    let args = ["node", "--listen", "127.0.0.1:0", "--state", text(&state), "--config", text(&config)];
    let node = Serving::start(&args);
    let to = node.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..CONNECTED {
            let light = Light::connect(to, address(number)).await.expect("it listens");
            tokio::spawn(light.idle());
        }
        // Discovery's first answers, and the buffers of the handshakes.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let (before, began) = (node.usage(), Instant::now());
        let busy = ticking(node.pid());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let (after, took) = (node.usage(), began.elapsed().as_secs_f64());
        let cpu = (ticking(node.pid()) - busy) as f64 / 1e9 / took * 100.0;
        let waits = (after.waits - before.waits) as f64 / took;
        println!("idle for {took:.0} s beside {NEIGHBOURS} neighbours, {CONNECTED} of them connected at first:");
        let show = |what: &str, seen: f64, limit: f64, unit: &str| {
            println!("  {what} {seen:.3} {unit} = {:.2} of the limit of {limit} {unit}", seen / limit);
        };
        show("resident", after.resident as f64 / MIB as f64, 20.0, "MiB");
        show("anonymous", after.anonymous as f64 / MIB as f64, 8.0, "MiB");
        show("waits", waits, 2.0, "a second");
        show("processor", cpu, 0.05, "%");
        for (thread, waits) in node.waits_by_thread() {
            println!("    {thread}: {waits} waits in all");
        }
    });
    let _ = announced.shutdown();
}

/// A hundred neighbours on the loopback link.
fn announce() -> ServiceDaemon {
    let daemon = ServiceDaemon::new().expect("multicast");
    daemon.disable_interface(IfKind::All).expect("its own");
    daemon.enable_interface(IfKind::LoopbackV4).expect("its own");
    for number in 0..NEIGHBOURS {
        let peer = libp2p::PeerId::from(libp2p::identity::Keypair::generate_ed25519().public());
        let host = format!("neighbour-{number}.local.");
        let (instance, port) = (peer.to_base58(), 20_000 + u16::try_from(number).expect("few"));
        let service = ServiceInfo::new(SERVICE, &instance, &host, "127.0.0.1", port, &[("v", "1")][..]);
        let mut service = service.expect("a service");
        service.set_requires_probe(false);
        daemon.register(service).expect("registered");
    }
    daemon
}

fn soak() {
    let seconds = from_environment("PIECEWORK_BENCH_SECONDS", 1800);
    let folder = Folder::in_memory("soak");
    let (content, length) = (folder.join("content"), 512 * MIB);
    random_file(&content, length);
    let scene = Scene::publish(folder, content, length, &[]);
    let (node, state) = (daemon(&scene), scene.trust("get"));
    let began = Instant::now();
    let (mut tenths, mut gets) = (Vec::new(), 0u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        let out = scene.folder.join("out");
        let (_, _, good) = watched(scene.get(&out, &state, &[&node.address]));
        assert!(good, "get {gets} succeeds");
        std::fs::remove_file(&out).expect("get made it");
        gets += 1;
        let tenth = began.elapsed().as_secs() * 10 / seconds.max(1);
        if tenth as usize > tenths.len() {
            let usage = node.usage();
            println!(
                "  {:>5.0} s, {gets} gets: {:.1} MiB resident, {:.1} MiB anonymous, {} descriptors",
                began.elapsed().as_secs_f64(),
                usage.resident as f64 / MIB as f64,
                usage.anonymous as f64 / MIB as f64,
                usage.descriptors
            );
            tenths.push(usage);
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{gets} gets in {took:.0} s, {:.0} MB/s, starts included", megabytes(gets * length) / took);
    let (Some(first), Some(last)) = (tenths.get(1), tenths.last()) else { return };
    let ratio = |of: fn(&Usage) -> f64| of(last) / of(first).max(1.0);
    println!(
        "from the second tenth to the last: resident {:.2}, anonymous {:.2}, descriptors {:.2} (to reach: 1.10)",
        ratio(|usage| usage.resident as f64),
        ratio(|usage| usage.anonymous as f64),
        ratio(|usage| usage.descriptors as f64)
    );
}

/// A daemon that serves the scene's content where it lies.
fn daemon(scene: &Scene) -> Serving {
    let state = scene.folder.join("node");
    let serve = format!("{}={}", text(&scene.content), text(Path::new(&scene.manifest)));
    Serving::start(&["node", "--serve", &serve, "--listen", "127.0.0.1:0", "--mode", "simple", "--state", text(&state)])
}
