//! A link with more nodes than may all announce themselves.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};
use piecework::drivers::discovery::SERVICE;
use piecework::drivers::discovery::crowd::{ANNOUNCED, KEEPERS, rank};
use piecework::drivers::transport::{Identity, PeerId};
use piecework::wire::Member;
use piecework::wire::version::Features;

use crate::support::meeting::{Meeter, Script};
use crate::support::network::Network;
use crate::support::{PATIENCE, Running, Site, bytes, command, n};

const MIB: usize = 1 << 20;

/// Seeds of identities that rank before `own`, the first by rank first.
fn before(own: &PeerId, count: usize) -> Vec<([u8; 32], PeerId)> {
    let of = |number: u64| {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        (seed, Identity::from_seed(&mut seed.clone()).peer_id())
    };
    let mut found: Vec<_> = (1..).map(of).filter(|(_, peer)| rank(peer) < rank(own)).take(count).collect();
    found.sort_by_key(|(_, peer)| rank(peer));
    found
}

/// Announces a node on the link that this thread is on.
fn announce(voice: &ServiceDaemon, peer: &PeerId, number: usize, address: SocketAddr) {
    let (instance, host) = (peer.to_base58(), format!("crowd-{number}.local."));
    let service = ServiceInfo::new(SERVICE, &instance, &host, address.ip(), address.port(), &[("v", "1")][..]);
    let mut service = service.expect("a service");
    service.set_requires_probe(false);
    voice.register(service).expect("it runs");
}

/// Waits for news of one node.
fn heard(events: &mdns_sd::Receiver<ServiceEvent>, own: &str, wanted: impl Fn(&ServiceEvent) -> bool) {
    let began = Instant::now();
    let about = |event: &ServiceEvent| match event {
        ServiceEvent::ServiceResolved(service) => service.get_fullname().starts_with(own),
        ServiceEvent::ServiceRemoved(_, name) => name.starts_with(own),
        _ => false,
    };
    while began.elapsed() < PATIENCE {
        if let Ok(event) = events.recv_timeout(Duration::from_millis(100))
            && about(&event)
            && wanted(&event)
        {
            return;
        }
    }
    panic!("no such news of {own}");
}

#[test]
fn on_a_crowded_link_the_last_by_rank_are_silent_and_found_all_the_same() {
    let Some(network) = Network::build(4) else { return };
    let (site, content) = (Site::new(), bytes(131, 3 * MIB));
    site.file("f", &content);
    site.publish("f", &[]);
    site.ok(&["trust", "add", "key.pub", "--publisher", "demo", "--names", "demo/*", "--state", "s"]);
    let run = |host: usize, args: &[&str]| {
        let mut inner = command();
        inner.current_dir(site.path("")).args(args).env("PIECEWORK_LOG", "piecework=debug");
        inner.env("PIECEWORK_MIN_FREE_DISK", "0");
        Running::start(network.command(host, &inner))
    };
    let holder = run(0, &["node", "--serve", "f=f.piecework", "--state", "n"]);
    let shown = holder.address();
    let own: PeerId = shown.rsplit('/').next().and_then(|id| id.parse().ok()).expect("a peer id");
    let (listener, events) = network.on(3, || {
        let listener = ServiceDaemon::new().expect("multicast");
        let events = listener.browse(SERVICE).expect("it runs");
        (listener, events)
    });
    let is_there = |event: &ServiceEvent| matches!(event, ServiceEvent::ServiceResolved(_));
    let is_gone = |event: &ServiceEvent| matches!(event, ServiceEvent::ServiceRemoved(..));
    heard(&events, &own.to_base58(), is_there);
    // A crowd comes of which the first are real.
    let list: Arc<Mutex<Vec<Member>>> = Arc::default();
    let crowd = before(&own, ANNOUNCED + 8);
    let ip: IpAddr = Network::address(1).into();
    let keeps = Features::OURS.with(Features::RENDEZVOUS);
    let (voice, _keepers) = network.on(1, || {
        let voice = ServiceDaemon::new().expect("multicast");
        let start = |seed| Meeter::start_at(ip, seed, keeps, Script::Keeps(Arc::clone(&list)));
        let keepers: Vec<Meeter> = crowd.iter().take(KEEPERS).map(|(seed, _)| start(*seed)).collect();
        for (number, (_, peer)) in crowd.iter().enumerate() {
            let address = keepers.get(number).map_or(SocketAddr::new(ip, 9), Meeter::address);
            announce(&voice, peer, number, address);
        }
        (voice, keepers)
    });
    heard(&events, &own.to_base58(), is_gone);
    assert!(list.lock().expect("not poisoned").iter().any(|held| held.peer_id == own.to_bytes()), "it is told of");
    // A newcomer hears the crowd, and is told of the one that holds the content.
    let get = run(2, &["get", "f.piecework", "-o", "out", "--state", "s", "--timeout", "60", "--json"]);
    assert_eq!(n(&get.success(), "bytes_from_peers"), content.len() as u64, "{}", get.stderr());
    // The crowd goes home.
    voice.shutdown().expect("it runs");
    heard(&events, &own.to_base58(), is_there);
    listener.shutdown().expect("it runs");
    drop(holder);
}
