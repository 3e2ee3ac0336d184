//! Golden vectors of every frame, and what random and mutated bytes come to.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use crate::content::bitfield::Bitfield;
use crate::content::hash::Topic;
use crate::content::layout::PieceIndex;
use crate::wire::error::Error;
use crate::wire::frame::{Front, Kind, front};
use crate::wire::limits::*;
use crate::wire::member::Member;
use crate::wire::message::{Frame, GoodbyeReason, RejectReason};
use crate::wire::piece::PieceHeader;
use crate::wire::version;

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn some_pieces() -> Bitfield {
    let mut bitfield = Bitfield::none(10);
    for piece in [0, 3, 9] {
        bitfield.set(PieceIndex(piece));
    }
    bitfield
}

/// Name of the vector and the frame it holds; at least one of each kind.
fn frames() -> Vec<(&'static str, Frame)> {
    let members = vec![
        Member { peer_id: vec![0, 36, 8, 1], address: address("192.0.2.7:7680"), record: vec![] },
        Member { peer_id: vec![1; 38], address: address("[2001:db8::7]:7681"), record: vec![] },
    ];
    let signed: Vec<_> = members.iter().cloned().map(|member| Member { record: vec![7, 8, 9], ..member }).collect();
    let signed_here = signed.clone();
    let greeting = |features, site, record| {
        let agent = "piecework/0.1.0".to_owned();
        Frame::Hello { version: 1, features, agent, listen_port: 7680, site, record, group_nonce: None }
    };
    let agent = "piecework/0.1.0".to_owned();
    let group_nonce = Some([0xcd; 32]);
    let hello_group =
        Frame::Hello { version: 1, features: 1, agent, listen_port: 0, site: None, record: vec![], group_nonce };
    let hello = greeting(5, None, vec![]);
    let hello_site = greeting(0, Some(crate::wire::site_word("berlin")), vec![]);
    let hello_record = greeting(0, None, vec![7, 8, 9]);
    let topic = Topic::new([0xab; 32]);
    let reject = |reason, piece, manifest| Frame::Reject { handle: 3, reason, piece, manifest };
    let lease = Duration::from_millis(15_000);
    vec![
        ("hello", hello),
        ("hello_site", hello_site),
        ("hello_record", hello_record),
        ("hello_group", hello_group),
        ("open", Frame::Open { handle: 3, topic, manifest_only: false }),
        ("open_manifest_only", Frame::Open { handle: 300, topic, manifest_only: true }),
        ("close", Frame::Close { handle: 3 }),
        ("bitfield_some", Frame::Bitfield { handle: 3, bitfield: some_pieces() }),
        ("bitfield_all", Frame::Bitfield { handle: 3, bitfield: Bitfield::all(1000) }),
        ("bitfield_none", Frame::Bitfield { handle: 3, bitfield: Bitfield::none(1000) }),
        ("have", Frame::Have { handle: 3, pieces: vec![0, 7, 70_000] }),
        ("lost", Frame::Lost { handle: 3, piece: 7 }),
        ("interested", Frame::Interested { handle: 3, interested: true }),
        ("choke", Frame::Choke { handle: 3, choked: true }),
        ("unchoke", Frame::Choke { handle: 3, choked: false }),
        ("request", Frame::Request { handle: 3, piece: 7, first_block: 2 }),
        ("cancel", Frame::Cancel { handle: 3, piece: 7 }),
        ("reject_open", reject(RejectReason::NotHeld, None, false)),
        ("reject_first_piece", reject(RejectReason::SuperSeeding, Some(0), false)),
        ("reject_manifest", reject(RejectReason::OutOfRange, None, true)),
        ("intent", Frame::Intent { handle: 3, ranges: vec![0..4, 9..10], lease }),
        ("members", Frame::Members { handle: 3, members }),
        ("members_signed", Frame::Members { handle: 3, members: signed }),
        ("get_manifest", Frame::GetManifest { handle: 3, offset: 262_144, length: 262_144 }),
        ("manifest", Frame::Manifest { handle: 3, total: 262_148, offset: 262_144, bytes: vec![1, 2, 3, 4] }),
        ("goodbye", Frame::Goodbye { reason: GoodbyeReason::Shutdown }),
        ("goodbye_group", Frame::Goodbye { reason: GoodbyeReason::Group }),
        ("proof", Frame::Proof { macs: vec![[0x11; 32], [0x22; 32]] }),
        ("condition", Frame::Condition { handle: 3, off_duty: true, unstable: false, background: false }),
        ("condition_over", Frame::Condition { handle: 3, off_duty: false, unstable: false, background: false }),
        ("condition_of_a_guest", Frame::Condition { handle: 3, off_duty: false, unstable: true, background: true }),
        ("meet", Frame::Meet { scope: [0xab; 32] }),
        ("met", Frame::Met { scope: [0xab; 32], lease: Duration::from_secs(600), members: signed_here }),
        ("sharing", Frame::Sharing { contents: vec![[0x11; 8], [0x22; 8]] }),
        ("sharing_nothing", Frame::Sharing { contents: vec![] }),
        ("met_nobody", Frame::Met { scope: [0xab; 32], lease: Duration::ZERO, members: vec![] }),
    ]
}

fn pieces() -> Vec<(&'static str, PieceHeader)> {
    let one = PieceHeader { handle: 3, piece: 7, first_block: 0, chaining_values: Vec::new(), payload_bytes: 1 << 20 };
    let chaining_values = vec![[0x11; 32], [0x22; 32]];
    let two = PieceHeader { handle: 3, piece: 7, first_block: 1, chaining_values, payload_bytes: 5 };
    vec![("piece", one), ("piece_rest", two)]
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn vector(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/vectors/frames").join(name);
    let text = std::fs::read_to_string(path.with_extension("hex")).expect("proto/vectors/frames has every vector");
    text.trim_end().to_owned()
}

#[test]
fn every_frame_encodes_to_its_vector_and_back() {
    for (name, frame) in frames() {
        let bytes = encoded(&frame);
        assert_eq!(hex(&bytes), vector(name), "{name}");
        assert_eq!(front(&bytes), Ok(Front::Control(frame, bytes.len())), "{name}");
    }
    for (name, header) in pieces() {
        let mut bytes = Vec::new();
        assert_eq!(header.encode(&mut bytes), Ok(()));
        assert_eq!(hex(&bytes), vector(name), "{name}");
        assert_eq!(front(&bytes), Ok(Front::Piece(header, bytes.len())), "{name}");
    }
}

#[test]
fn every_kind_has_a_vector() {
    let mut kinds: Vec<Kind> = frames().iter().map(|(_, frame)| frame.kind()).chain([Kind::Piece]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn every_prefix_needs_more() {
    for (name, frame) in frames() {
        let bytes = encoded(&frame);
        for cut in 0..bytes.len() {
            match front(&bytes[..cut]) {
                Ok(Front::NeedMore(at_least)) => assert!(at_least > cut && at_least <= bytes.len(), "{name} {cut}"),
                other => panic!("{name} {cut}: {other:?}"),
            }
        }
    }
}

/// Encodes a message that breaks a rule, and expects the refusal.
fn refused(frame: &Frame) -> Error {
    match front(&encoded(frame)) {
        Err(error) => error,
        Ok(read) => panic!("{frame:?} was read as {read:?}"),
    }
}

#[test]
fn what_breaks_a_rule_is_refused_by_its_reason() {
    let hello = |agent: &str| {
        let (agent, record) = (agent.to_owned(), vec![]);
        Frame::Hello { version: 1, features: 0, agent, listen_port: 0, site: None, record, group_nonce: None }
    };
    assert!(matches!(refused(&hello(&"a".repeat(65))), Error::Length { found: 65, .. }));
    assert_eq!(refused(&hello("a\nb")), Error::UnprintableAgent { found: b'\n' });
    assert!(matches!(refused(&Frame::Have { handle: 1, pieces: vec![] }), Error::Count { found: 0, .. }));
    let many = vec![1; HAVE_COUNT_MAX + 1];
    assert!(matches!(refused(&Frame::Have { handle: 1, pieces: many }), Error::Count { .. }));
    let request = Frame::Request { handle: 1, piece: 1, first_block: 16 };
    assert!(matches!(refused(&request), Error::Range { found: 16, .. }));
    let lease = Duration::ZERO;
    let intent = |ranges| Frame::Intent { handle: 1, ranges, lease };
    assert_eq!(refused(&intent(vec![4..4])), Error::BadRange);
    assert!(matches!(refused(&intent(vec![])), Error::Count { .. }));
    let both = Frame::Reject { handle: 1, reason: RejectReason::Busy, piece: Some(1), manifest: true };
    assert_eq!(refused(&both), Error::AmbiguousReject);
    let members = |peer_id, text| Frame::Members {
        handle: 1,
        members: vec![Member { peer_id, address: address(text), record: vec![] }],
    };
    assert!(matches!(refused(&members(vec![], "1.2.3.4:5")), Error::Length { .. }));
    assert!(matches!(refused(&members(vec![1; 65], "1.2.3.4:5")), Error::Length { .. }));
    assert!(matches!(refused(&members(vec![1], "1.2.3.4:0")), Error::Range { found: 0, .. }));
    let part = |total, offset, bytes| Frame::Manifest { handle: 1, total, offset, bytes };
    assert!(matches!(refused(&part(4, 1, vec![0; 4])), Error::PastManifestEnd { .. }));
    assert!(matches!(refused(&part(4, u64::MAX, vec![0; 4])), Error::PastManifestEnd { .. }));
    assert!(matches!(refused(&part(MANIFEST_BYTES_MAX + 1, 0, vec![0; 4])), Error::Range { .. }));
    assert!(matches!(refused(&part(4, 0, vec![])), Error::Length { .. }));
    for (offset, length) in [(0, 0), (0, MANIFEST_PART_BYTES_MAX + 1), (MANIFEST_BYTES_MAX, 1), (u64::MAX, 1)] {
        assert!(matches!(refused(&Frame::GetManifest { handle: 1, offset, length }), Error::Range { .. }));
    }
}

#[test]
fn bodies_that_no_writer_of_ours_makes_are_refused() {
    let decode = |kind, body: &[u8]| Frame::decode(kind, body);
    // Bitfield: ten pieces, all set, and bits as well; then a spare bit; then too many pieces.
    assert_eq!(decode(Kind::Bitfield, &[16, 10, 26, 2, 255, 3, 32, 1]), Err(Error::AllWithBits { found: 2 }));
    assert!(matches!(decode(Kind::Bitfield, &[16, 10, 26, 2, 0, 4]), Err(Error::Bitfield(_))));
    assert!(matches!(decode(Kind::Bitfield, &[16, 255, 255, 255, 255, 15, 32, 1]), Err(Error::Range { .. })));
    // Reasons of no meaning, 0 among them.
    for reason in [0, 7, 100] {
        assert!(matches!(decode(Kind::Reject, &[8, 1, 16, reason]), Err(Error::Range { .. })), "{reason}");
    }
    for reason in [0, 9] {
        assert!(matches!(decode(Kind::Goodbye, &[8, reason]), Err(Error::Range { .. })), "{reason}");
    }
    // Half a range; a range past 32 bits; a lease of an hour.
    assert_eq!(decode(Kind::Intent, &[18, 1, 5]), Err(Error::BadRange));
    assert_eq!(decode(Kind::Intent, &[18, 6, 255, 255, 255, 255, 15, 1]), Err(Error::BadRange));
    assert!(matches!(decode(Kind::Intent, &[18, 2, 1, 1, 24, 128, 221, 219, 1]), Err(Error::Range { .. })));
    // An IP of five bytes, a topic of none, a body of another kind.
    assert!(matches!(
        decode(Kind::Members, &[18, 12, 10, 1, 1, 18, 5, 1, 2, 3, 4, 5, 24, 1]),
        Err(Error::Length { .. })
    ));
    // Proofs: none, three, and one of a byte.
    assert!(matches!(decode(Kind::Proof, &[]), Err(Error::Count { found: 0, .. })));
    assert!(matches!(decode(Kind::Proof, &[10, 0, 10, 0, 10, 0]), Err(Error::Count { found: 3, .. })));
    assert!(matches!(decode(Kind::Proof, &[10, 1, 7]), Err(Error::Length { found: 1, .. })));
    assert!(matches!(decode(Kind::Hello, &[58, 1, 7]), Err(Error::Length { field: "Hello.group_nonce", .. })));
    assert!(matches!(decode(Kind::Open, &[]), Err(Error::Length { found: 0, .. })));
    // A word of a byte, and five of them.
    assert!(matches!(
        decode(Kind::Sharing, &[10, 1, 7]),
        Err(Error::Length { field: "Sharing.contents", found: 1, .. })
    ));
    let five = [&[10, 8][..], &[7; 8]].concat().repeat(SHARING_COUNT_MAX + 1);
    assert!(matches!(decode(Kind::Sharing, &five), Err(Error::Range { field: "Sharing.contents", found: 5, .. })));
    // A scope of none and of a byte; a lease of more than a day; too many members; one at no port.
    assert!(matches!(decode(Kind::Meet, &[]), Err(Error::Length { field: "Meet.scope", found: 0, .. })));
    assert!(matches!(decode(Kind::Met, &[10, 1, 7]), Err(Error::Length { field: "Met.scope", found: 1, .. })));
    let met = |rest: &[u8]| decode(Kind::Met, &[&[10, 32][..], &[7; 32], rest].concat());
    assert!(matches!(met(&[16, 129, 163, 5]), Err(Error::Range { field: "Met.lease_seconds", found: 86_401, .. })));
    let member = [26, 11, 10, 1, 1, 18, 4, 1, 2, 3, 4, 24, 1];
    assert!(met(&member.repeat(MEMBERS_COUNT_MAX)).is_ok());
    assert!(matches!(met(&member.repeat(MEMBERS_COUNT_MAX + 1)), Err(Error::Range { field: "Met.members", .. })));
    assert!(matches!(met(&[&member[..12], &[0]].concat()), Err(Error::Range { field: "Member.port", .. })));
    assert!(matches!(decode(Kind::Request, &[255]), Err(Error::Malformed { .. })));
    assert!(matches!(decode(Kind::Close, &[0; 1025]), Err(Error::TooLong { found: 1025, .. })));
    assert!(matches!(decode(Kind::Piece, &[0; 13]), Err(Error::UnknownKind { found: 16 })));
}

#[test]
fn unknown_fields_are_ignored() {
    // Field 15, a varint, after a Close.
    assert_eq!(Frame::decode(Kind::Close, &[8, 3, 120, 1]), Ok(Frame::Close { handle: 3 }));
    let Some((_, Frame::Hello { version, .. })) = frames().into_iter().next() else { panic!("the first is Hello") };
    assert_eq!(version, version::VERSION);
}

#[test]
fn the_largest_frames_of_each_kind_fit_their_bounds() {
    let member = Member { peer_id: vec![255; PEER_ID_BYTES_MAX], address: address("[ffff::1]:65535"), record: vec![] };
    let members = vec![member; MEMBERS_COUNT_MAX];
    let range = |at: u32| (u32::MAX - 10 - at)..(u32::MAX - 9 - at);
    let mut scattered = Bitfield::all(PIECE_COUNT_MAX);
    scattered.clear(PieceIndex(5));
    let handle = u32::MAX;
    for frame in [
        Frame::Have { handle, pieces: vec![u32::MAX; HAVE_COUNT_MAX] },
        Frame::Intent {
            handle,
            ranges: (0..INTENT_COUNT_MAX as u32).map(range).collect(),
            lease: Duration::from_millis(u64::from(LEASE_MS_MAX)),
        },
        Frame::Members { handle, members: members.clone() },
        Frame::Met { scope: [255; 32], lease: Duration::from_secs(u64::from(MET_LEASE_SECONDS_MAX)), members },
        Frame::Bitfield { handle, bitfield: scattered },
        Frame::Manifest {
            handle,
            total: MANIFEST_BYTES_MAX,
            offset: MANIFEST_BYTES_MAX - u64::from(MANIFEST_PART_BYTES_MAX),
            bytes: vec![1; MANIFEST_PART_BYTES_MAX as usize],
        },
    ] {
        let bytes = encoded(&frame);
        assert_eq!(front(&bytes), Ok(Front::Control(frame, bytes.len())));
    }
}

#[test]
fn members_go_in_as_many_frames_as_they_need() {
    let member = |record: usize| Member {
        peer_id: vec![255; PEER_ID_BYTES_MAX],
        address: address("[ffff::1]:65535"),
        record: vec![1; record],
    };
    for (record, per_frame) in [(0, MEMBERS_COUNT_MAX), (230, 25), (RECORD_BYTES_MAX, 13)] {
        let members = vec![member(record); 3 * MEMBERS_COUNT_MAX];
        let frames = Member::in_frames(members.clone());
        assert!(frames.iter().all(|frame| frame.len() <= per_frame), "{record}");
        assert!(frames.first().is_some_and(|frame| frame.len() == per_frame), "{record}");
        for part in &frames {
            let frame = Frame::Members { handle: u32::MAX, members: part.clone() };
            let bytes = encoded(&frame);
            assert_eq!(front(&bytes), Ok(Front::Control(frame, bytes.len())), "{record}");
        }
        assert_eq!(frames.concat(), members);
    }
    assert!(Member::in_frames(vec![]).is_empty());
    assert!(matches!(
        refused(&Frame::Members { handle: 1, members: vec![member(RECORD_BYTES_MAX + 1)] }),
        Error::Length { field: "Member.record", .. }
    ));
}

proptest! {
    #[test]
    fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = front(&bytes);
        for kind in Kind::ALL {
            let _ = Frame::decode(*kind, &bytes);
        }
    }

    #[test]
    fn a_mutated_frame_is_read_or_refused(
        which in any::<prop::sample::Index>(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let frames = frames();
        let (_, frame) = which.get(&frames);
        let mut bytes = encoded(frame);
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        // What is read encodes to something that reads the same.
        if let Ok(Front::Control(read, _)) = front(&bytes) {
            let again = encoded(&read);
            prop_assert_eq!(front(&again), Ok(Front::Control(read, again.len())));
        }
    }

    #[test]
    fn numbers_come_back_as_they_went(handle: u32, piece: u32, block in 0u32..16, total in 1u64..=MANIFEST_BYTES_MAX, text in "[ -~]{0,64}", port: u16, features: u64) {
        let offset = total - 1;
        for frame in [
            Frame::Request { handle, piece, first_block: block },
            Frame::Have { handle, pieces: vec![piece, handle] },
            Frame::Lost { handle, piece },
            Frame::Manifest { handle, total, offset, bytes: vec![7] },
            Frame::Hello { version: piece, features, agent: text.clone(), listen_port: port, site: None, record: vec![], group_nonce: None },
            Frame::Hello { version: piece, features, agent: text.clone(), listen_port: port, site: Some([7; 16]), record: vec![9; 512], group_nonce: Some([6; 32]) },
        ] {
            let bytes = encoded(&frame);
            prop_assert_eq!(front(&bytes), Ok(Front::Control(frame, bytes.len())));
        }
    }
}
