//! Peers that tell of peers: what a member has signed of itself brings it company, and nothing else does.

use std::io::ErrorKind;
use std::net::TcpListener;

use piecework::drivers::transport::Identity;
use piecework::wire::Member;

use crate::daemon::{asked, node, status_when};
use crate::support::hostile::{Hostile, Malice, Publication, signed_member};
use crate::support::{Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// One file, published and trusted in `s`.
fn scene(seed: u8) -> (Site, Vec<u8>, Publication) {
    let (site, content) = (Site::new(), bytes(seed, 6 * MIB + 5));
    site.file("f", &content);
    let manifest = site.publish("f", &[]);
    site.trust("s");
    let publication = Publication::new(std::fs::read(manifest).expect("published"), &content);
    (site, content, publication)
}

#[test]
fn a_node_learns_of_the_holder_through_a_third_that_serves_nobody() {
    let (site, content, _) = scene(61);
    site.trust("n");
    let holder = site.seed("f", "seed-state");
    // Its memory is found too small for serving, so whatever comes, comes from the holder.
    let between = ["--fetch", "f.piecework", "--peer", &holder.address()];
    let _between = node(&site, &between, |node| _ = node.env("PIECEWORK_MIN_RAM_TO_PEER", "1 TB"));
    let status = status_when(&site, |status| {
        status["downloads"][0]["status"] == "complete" && status["gates"][0]["gate"].is_string()
    });
    let address = status["listening"][0].as_str().expect("an address");
    let get =
        site.get(&["f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--no-daemon", "--peer", address]);
    assert_eq!(n(&get.success(), "bytes_from_peers"), content.len() as u64);
    assert!(same(&site.path("out"), &content));
    let status = asked(&site, &["status"]);
    assert_eq!(n(&status["totals"], "bytes_to_peers"), 0, "{status}");
}

#[test]
fn members_that_have_not_signed_what_is_told_are_not_dialled() {
    let (site, content, publication) = scene(62);
    let holder = Hostile::start(&publication, Malice::StopsAfter(u64::MAX));
    let quiet: [TcpListener; 5] = std::array::from_fn(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        listener.set_nonblocking(true).expect("it may");
        listener
    });
    let [unsigned, forged, port, moved, stolen] =
        quiet.each_ref().map(|listener| listener.local_addr().expect("bound"));
    let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|seed| Identity::from_seed(&mut [seed; 32]));
    let mut broken = signed_member(&b, forged);
    *broken.record.last_mut().expect("a signature") ^= 1;
    let elsewhere = "127.0.0.2:9".parse().expect("an address");
    let other_port = std::net::SocketAddr::new(port.ip(), port.port() ^ 1);
    let members = vec![
        Member { record: vec![], ..signed_member(&a, unsigned) },
        broken,
        Member { address: port, ..signed_member(&c, other_port) },
        Member { address: moved, ..signed_member(&d, elsewhere) },
        Member { peer_id: e.peer_id().to_bytes(), ..signed_member(&d, stolen) },
        holder.member(),
    ];
    let teller = Hostile::start(&publication, Malice::TellsMembers(members));
    let args = ["f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "-vv", "--peer", &teller.address()];
    let mut get = site.get(&args);
    // All came in one frame: the holder's turn is not before that of the others.
    assert_eq!(n(&get.success(), "bytes_from_peers"), content.len() as u64, "{}", get.stderr());
    assert_eq!(get.wait(), Some(0));
    for listener in &quiet {
        let dialled = listener.accept();
        assert!(dialled.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{:?}", listener.local_addr());
    }
    let said = get.stderr();
    for (reason, times) in [("no record of its own", 1), ("does not name this address", 2), ("not signed by it", 2)] {
        let refused = |line: &&str| line.contains("a told member is not dialled") && line.ends_with(reason);
        assert_eq!(said.lines().filter(refused).count(), times, "{reason}: {said}");
    }
}
