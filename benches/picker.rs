//! What does it cost to decide, at 65,536 pieces and 1,000 peers?
//!
//! A `Swarm` of that size, driven through its public face: a thousand peers with random two thirds of the pieces, and the
//! blocks that it asks for arriving one after the other. The limit of the same run is one pass over a peer's bitfield,
//! 65,536 bits word by word: a decision that looked at everything would cost at least that for every peer. Expected: an
//! arriving block, with all that follows from it, under 20 us; a newcomer's bitfield under 5 ms.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use piecework::swarm::event::{Action, AddressKey, Event, Member, Message, NodeId, PeerKey, Scope, Supplier};
use piecework::swarm::{Options, Swarm, Uptime};
use support::{GIB, median, seconds};

const PIECES: u32 = 65_536;
const PEERS: u64 = 1000;
const BLOCKS: usize = 20_000;

fn main() {
    let layout = Arc::new(FlatLayout::new([64 * GIB]).expect("short").expect("few pieces"));
    let mut random = blake3::Hasher::new_keyed(&[5; 32]).finalize_xof();
    let mut fields = Vec::new();
    for _ in 0..PEERS {
        let mut bytes = vec![0; PIECES as usize / 8];
        let mut more = bytes.clone();
        random.fill(&mut bytes);
        random.fill(&mut more);
        // Two thirds, near enough.
        bytes.iter_mut().zip(more).for_each(|(byte, more)| *byte |= more & 0x55);
        fields.push(Bitfield::from_bytes(PIECES, &bytes).expect("of that length"));
    }
    let nothing = Bitfield::none(PIECES);
    let pass = median(
        (0..9)
            .map(|_| seconds(|| _ = std::hint::black_box(fields[0].iter_common(&fields[1]).count())))
            .collect::<Vec<_>>(),
    );
    println!("limit: one pass over two bitfields {:.1} us", pass * 1e6);
    let now = std::cell::Cell::new(Uptime::ZERO);
    let mut swarm = Swarm::new(
        layout,
        nothing,
        Vec::new(),
        Options::default(),
        NodeId([1; 32]),
        AddressKey([0; 18]),
        [2; 32],
        now.get(),
    )
    .expect("bitfields of its layout");
    let mut owed: VecDeque<(PeerKey, PieceIndex)> = VecDeque::new();
    let feed = |swarm: &mut Swarm, owed: &mut VecDeque<(PeerKey, PieceIndex)>, event: Event| {
        now.set(now.get().after(Duration::from_micros(50)));
        swarm.handle(now.get(), event);
        while let Some(action) = swarm.poll_action() {
            if let Action::Send { peer, message: Message::Request { piece, .. } } = action {
                owed.push_back((peer, piece));
            }
        }
    };
    let mut ups = Vec::new();
    for (number, field) in (0..PEERS).zip(fields) {
        let peer = PeerKey(number);
        let mut address = [0; 18];
        address[..8].copy_from_slice(&number.to_be_bytes());
        let id = *blake3::hash(&number.to_le_bytes()).as_bytes();
        let member = Member {
            peer_id: id.to_vec(),
            address: SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number as u32), 7680)),
            sequence: 0,
            record: Vec::new(),
        };
        let up = Event::PeerUp {
            peer,
            id: NodeId(id),
            address: AddressKey(address),
            member: Some(member),
            scope: Scope::Site,
            round_trip: Duration::from_millis(1),
        };
        ups.push(seconds(|| {
            feed(&mut swarm, &mut owed, up);
            feed(&mut swarm, &mut owed, Event::Said { peer, message: Message::Bitfield(field) });
        }));
        feed(&mut swarm, &mut owed, Event::Said { peer, message: Message::Choke(false) });
    }
    println!("a newcomer with its bitfield: {:.0} us (median; to reach: 5000)", median(ups) * 1e6);
    let mut arrived = 0;
    let took = seconds(|| {
        while arrived < BLOCKS
            && let Some((peer, piece)) = owed.pop_front()
        {
            let supplier = Supplier::Peer(peer);
            feed(&mut swarm, &mut owed, Event::BlockStored { supplier, piece, block: BlockIndex(0) });
            arrived += 1;
        }
    });
    let each = took / arrived as f64;
    println!(
        "{arrived} blocks arrived: {:.1} us each with all that followed (to reach: 20) = {:.2} passes over a bitfield; a \
         gigabyte a second costs {:.1} % of a core",
        each * 1e6,
        each / pass,
        each * 1000.0 / 1.048576 * 100.0,
    );
    assert_eq!(swarm.held().held_count() as usize, arrived);
}
