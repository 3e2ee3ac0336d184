//! Peers that lie, stall and flood: the download ends right through somebody else, or in an error that names the liar;
//! memory stays bounded, nothing wrong is kept, and nobody pays for more than two pieces.

use piecework::content::{
    BlockIndex, Envelope, FileHashes, FileToList, ManifestBuilder, PieceIndex, PieceLayout, SafePath, Sha256,
    SigningKey, tree,
};
use piecework::wire::GoodbyeReason;
use serde_json::Value;

use crate::support::hostile::{Hostile, Malice, Publication, Stray};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::tmpfs::Tmpfs;
use crate::support::{Running, Site, bytes, free_ports, n, same};

const MIB: usize = 1 << 20;
/// What `get` may keep resident, whatever a peer does.
const RESIDENT_MAX: u64 = 64 << 20;

/// One file of 8 MiB and a bit, published and trusted.
struct Scene {
    site: Site,
    content: Vec<u8>,
    publication: Publication,
}

impl Scene {
    fn new(seed: u8, urls: &[&str]) -> Self {
        let site = Site::new();
        let content = bytes(seed, 8 * MIB + 777);
        site.file("f", &content);
        let manifest = site.publish("f", urls);
        site.trust("s");
        let publication = Publication::new(std::fs::read(manifest).expect("published"), &content);
        Self { site, content, publication }
    }

    fn hostile(&self, malice: Malice) -> Hostile {
        Hostile::start(&self.publication, malice)
    }

    fn get(&self, peers: &[&str], more: &[&str]) -> Running {
        let mut args = vec!["f.piecework", "-o", "out", "--mode", "simple", "--state", "s"];
        peers.iter().for_each(|peer| args.extend(["--peer", peer]));
        args.extend(more);
        self.site.get(&args)
    }

    /// What must be true however it ended.
    fn nothing_wrong_was_kept(&self, get: &Running, malice: &Malice) {
        let resident = get.peak_resident();
        assert!(resident > 0 && resident < RESIDENT_MAX, "{malice:?}: {} KiB resident", resident >> 10);
        self.site.store_check("s");
    }

    /// With a hostile peer alone at first, and an honest one that comes once the first has met its victim.
    fn ends_right_beside(&self, malice: Malice) -> (Hostile, Value) {
        let liar = self.hostile(malice.clone());
        let [port] = free_ports::<1>();
        let honest = format!("127.0.0.1:{port}");
        let mut get = self.get(&[&liar.address(), &honest], &[]);
        liar.wait_for_victim();
        let _seed = self.site.seed_at("f", "seed-state", &honest);
        let result = get.success();
        assert_eq!(get.wait(), Some(0));
        assert!(same(&self.site.path("out"), &self.content), "{malice:?}");
        assert_eq!(n(&result, "bytes_from_peers"), self.content.len() as u64, "{malice:?}");
        self.nothing_wrong_was_kept(&get, &malice);
        (liar, result)
    }

    /// With nobody else, for so many seconds: returns the liar and the error.
    fn fails_naming(&self, malice: Malice, seconds: &str) -> (Hostile, Value) {
        let liar = self.hostile(malice.clone());
        let mut get = self.get(&[&liar.address()], &["--timeout", seconds]);
        let result = get.result();
        let error = result["error"].clone();
        assert_eq!(error["code"], "no_source", "{malice:?}: {result}; {}", get.stderr());
        assert_eq!(get.wait(), Some(69));
        let culprit = error["culprit"].as_str().unwrap_or_default();
        assert!(liar.is_named_in(culprit), "{malice:?}: {error}; stderr: {}", get.stderr());
        assert!(!error["remedy"].as_str().unwrap_or_default().is_empty(), "{error}");
        assert!(!self.site.path("out").exists());
        self.nothing_wrong_was_kept(&get, &malice);
        (liar, error)
    }
}

/// Each of several malices both ways, all at once: they mostly wait.
fn each_both_ways(seed: u8, malices: impl IntoIterator<Item = Malice>, seconds: &str) {
    std::thread::scope(|scope| {
        for malice in malices {
            scope.spawn(move || both_ways(seed, &malice, seconds));
        }
    });
}

fn both_ways(seed: u8, malice: &Malice, seconds: &str) -> (Hostile, Hostile) {
    let (beside, _) = Scene::new(seed, &[]).ends_right_beside(malice.clone());
    let (alone, _) = Scene::new(seed, &[]).fails_naming(malice.clone(), seconds);
    (beside, alone)
}

#[test]
fn a_peer_that_sends_wrong_bytes_costs_two_pieces_and_is_named() {
    let (liar, result) = Scene::new(41, &[]).ends_right_beside(Malice::WrongBytes);
    assert_eq!(liar.log.count(|log| &log.requests), 2, "asked twice, and never again");
    assert!(liar.log.bad_mib() <= 2 && n(&result, "bytes_wasted") <= 2 * MIB as u64, "{:?} {result}", liar.log);
    assert!(liar.log.goodbyes().contains(&GoodbyeReason::Banned), "it was told: {:?}", liar.log);
    let (liar, error) = Scene::new(41, &[]).fails_naming(Malice::WrongBytes, "3");
    assert!(liar.log.bad_mib() <= 2, "{:?}", liar.log);
    let culprit = error["culprit"].as_str().expect("a culprit");
    assert!(culprit.contains("do not match the manifest") && culprit.contains("banned"), "{culprit}");
}

#[test]
fn a_piece_of_another_length_ends_the_session_and_names_the_peer() {
    each_both_ways(42, [-1, 1, -(MIB as i32) + 1].map(Malice::WrongLength), "3");
}

#[test]
fn a_frame_longer_than_its_kind_allows_is_refused_before_room_is_made() {
    let frames = [(16, u32::MAX), (16, (16 << 20) + (1 << 12)), (5, 1 << 30), (15, 1 << 20), (99, 1)];
    each_both_ways(43, frames.map(|(kind, length)| Malice::FrameTooLong(kind, length)), "3");
}

#[test]
fn a_piece_that_breaks_off_is_got_elsewhere_and_its_sender_named() {
    both_ways(44, &Malice::StallsMidPiece, "3");
}

#[test]
fn a_peer_that_claims_all_and_delivers_nothing_is_passed_over_and_named() {
    each_both_ways(45, [Malice::NeverDelivers, Malice::DeniesWhatItClaims], "3");
}

#[test]
fn a_bitfield_of_another_length_ends_the_session_and_names_the_peer() {
    each_both_ways(46, [0, 8, 10, 1 << 20].map(Malice::BitfieldOf), "3");
}

#[test]
fn a_peer_that_falls_silent_before_it_said_anything_is_named() {
    // Longer than a Hello may take.
    each_both_ways(47, [Malice::SilentAfterHello, Malice::SilentAfterHandshake], "13");
}

#[test]
fn pieces_that_nobody_asked_for_are_not_taken() {
    let (beside, alone) = both_ways(48, &Malice::Unasked, "3");
    for liar in [beside, alone] {
        liar.wait_for(|log| log.ended() > 0);
        assert_eq!(liar.log.count(|log| &log.requests), 0, "it never listened");
    }
}

#[test]
fn a_flood_of_frames_is_cut_off_and_named() {
    let (beside, alone) = both_ways(49, &Malice::Floods, "3");
    for liar in [beside, alone] {
        liar.wait_for(|log| log.ended() > 0);
        assert!(liar.log.count(|log| &log.frames) < 1_000_000, "{:?}", liar.log);
    }
}

#[test]
fn frames_about_pieces_outside_the_topic_end_the_session_and_name_the_peer() {
    let strays = [Stray::Have, Stray::Lost, Stray::Request, Stray::Cancel, Stray::Reject, Stray::Intent, Stray::Piece];
    each_both_ways(50, strays.map(Malice::Outside), "3");
}

#[test]
fn chaining_values_for_a_piece_that_has_none_end_the_session_and_name_the_peer() {
    both_ways(51, &Malice::WrongChainingValues, "3");
}

#[test]
fn one_honest_seed_among_liars_of_every_kind_is_enough() {
    let scene = Scene::new(52, &[]);
    let liars: Vec<Hostile> = [
        Malice::WrongBytes,
        Malice::WrongLength(5),
        Malice::FrameTooLong(16, u32::MAX),
        Malice::StallsMidPiece,
        Malice::NeverDelivers,
        Malice::DeniesWhatItClaims,
        Malice::BitfieldOf(7),
        Malice::SilentAfterHello,
        Malice::Outside(Stray::Have),
        Malice::WrongBytes,
    ]
    .into_iter()
    .map(|malice| scene.hostile(malice))
    .collect();
    let [port] = free_ports::<1>();
    let mut peers: Vec<String> = liars.iter().map(Hostile::address).collect();
    peers.push(format!("127.0.0.1:{port}"));
    let mut get = scene.get(&peers.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    liars.iter().for_each(Hostile::wait_for_victim);
    let _seed = scene.site.seed_at("f", "seed-state", peers.last().expect("one"));
    let result = get.success();
    assert_eq!(get.wait(), Some(0));
    assert!(same(&scene.site.path("out"), &scene.content));
    // Two pieces of each of the three that send payload at all, and what hedging near the end may fetch twice.
    assert!(n(&result, "bytes_wasted") <= 8 * MIB as u64, "{result}");
    scene.nothing_wrong_was_kept(&get, &Malice::WrongBytes);
}

#[test]
fn with_hostile_peers_only_the_origin_delivers() {
    let content = bytes(53, 8 * MIB + 777);
    let origin = TestOrigin::start(content, Behaviour::Normal);
    let scene = Scene::new(53, &[&origin.url("/file")]);
    let liars: Vec<Hostile> =
        [Malice::WrongBytes, Malice::NeverDelivers, Malice::StallsMidPiece, Malice::BitfieldOf(1)]
            .into_iter()
            .map(|malice| scene.hostile(malice))
            .collect();
    let peers: Vec<String> = liars.iter().map(Hostile::address).collect();
    let mut get = scene.get(&peers.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let result = get.success();
    assert_eq!(get.wait(), Some(0));
    assert!(same(&scene.site.path("out"), &scene.content));
    assert_eq!(n(&result, "bytes_from_http"), scene.content.len() as u64);
    scene.nothing_wrong_was_kept(&get, &Malice::WrongBytes);
}

/// Pieces of several MiB carry chaining values; a file that has such pieces is longer than 64 GiB, so this one is made
/// of invented hashes and a sparse file system.
#[test]
fn chaining_values_and_blocks_that_are_wrong_are_found_out_one_by_one() {
    let site = Site::new();
    let Some(disk) = Tmpfs::mount(&site.path("large"), "100g") else { return };
    let content = bytes(54, 2 * MIB);
    let publication = Publication::new(vast_manifest(&site, &content), &content);
    site.trust("s");
    std::thread::scope(|scope| {
        for malice in [Malice::WrongChainingValues, Malice::WrongBlocks] {
            let (site, disk, publication) = (&site, &disk, &publication);
            scope.spawn(move || {
                let liar = Hostile::start(publication, malice.clone());
                let out = disk.text(if malice == Malice::WrongBlocks { "blocks" } else { "values" });
                let peer = liar.address();
                let args = ["f.piecework", "-o", &out, "--peer", &peer, "--mode", "simple", "--state", "s"];
                let mut get = site.get(&[&args[..], &["--timeout", "3"]].concat());
                let result = get.result();
                assert_eq!(get.wait(), Some(69), "{result}; {}", get.stderr());
                let culprit = result["error"]["culprit"].as_str().unwrap_or_default();
                assert!(liar.is_named_in(culprit) && culprit.contains("banned"), "{malice:?}: {result}");
                assert!(get.peak_resident() < RESIDENT_MAX, "{malice:?}: {} KiB", get.peak_resident() >> 10);
                assert!(liar.log.bad_mib() <= 4, "{malice:?}: {:?}", liar.log);
            });
        }
    });
    site.store_check("s");
}

/// A signed manifest of 64 GiB and one piece more; of its pieces of 2 MiB only the first has `content` behind it.
fn vast_manifest(site: &Site, content: &[u8]) -> Vec<u8> {
    let layout = PieceLayout::new((64 << 30) + 2 * MIB as u64).expect("short enough");
    assert_eq!(layout.piece_bytes(), 2 * MIB as u64);
    let first = PieceIndex(0);
    let blocks = [0, 1].map(|block| {
        let bytes = &content[block as usize * MIB..][..MIB];
        tree::hash_block(&layout, first, BlockIndex(block), bytes).expect("a block of the layout")
    });
    let mut piece_hashes = bytes(55, 32 * layout.piece_count() as usize);
    piece_hashes[..32].copy_from_slice(tree::merge_blocks(&layout, first, &blocks).expect("two blocks").as_bytes());
    let content_id = tree::merge_pieces(&layout, &piece_hashes).expect("a hash a piece");
    let manifest = ManifestBuilder::new("demo/f").sequence(1).file(FileToList {
        path: SafePath::new("f").expect("safe"),
        length: layout.length(),
        hashes: FileHashes { content_id, piece_hashes },
        sha256: Sha256::new([1; 32]),
        sources: Vec::new(),
        executable: false,
    });
    let mut envelope = Envelope::unsigned(manifest.build().expect("a manifest").payload().clone());
    let key = std::fs::read_to_string(site.path("key")).expect("a key");
    envelope.sign(&SigningKey::from_pem(&key).expect("ours")).expect("signed");
    let envelope = envelope.encode();
    site.file("f.piecework", &envelope);
    envelope
}
