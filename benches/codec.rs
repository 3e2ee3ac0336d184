//! What do frames cost beside the payload they announce?
//!
//! A gigabyte a second is a thousand Requests, Haves and Piece headers a second and side. Each is a few dozen bytes;
//! the limit of the same run is copying so many bytes with an allocation each, and a frame is expected to cost less than
//! 1 us, so that all three together take under 0.3 % of a core at that rate.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use piecework::content::bitfield::Bitfield;
use piecework::wire::frame::front;
use piecework::wire::{Frame, PieceHeader};
use support::{median, seconds};

const TIMES: u32 = 100_000;

fn main() {
    let bitfield = Bitfield::all(65_536);
    let piece = |several: bool| {
        let chaining_values = if several { vec![[7; 32]; 16] } else { Vec::new() };
        let payload_bytes = if several { 16 << 20 } else { 1 << 20 };
        PieceHeader { handle: 3, piece: 1000, first_block: 0, chaining_values, payload_bytes }
    };
    let control = [
        ("Request", Frame::Request { handle: 3, piece: 65_000, first_block: 0 }),
        ("Have of 1", Frame::Have { handle: 3, pieces: vec![65_000] }),
        ("Have of 64", Frame::Have { handle: 3, pieces: (0..64).collect() }),
        ("Bitfield of 65,536", Frame::Bitfield { handle: 3, bitfield }),
    ];
    let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, frame) in &control {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let encode = per_call(&mut || {
            let mut out = Vec::with_capacity(64);
            frame.encode(std::hint::black_box(&mut out));
        });
        println!("{name}: {} bytes, written in {encode:.0} ns", bytes.len());
        frames.push((name, bytes));
    }
    for (name, several) in [("Piece header", false), ("Piece header of 16 MiB", true)] {
        let mut bytes = Vec::new();
        piece(several).encode(&mut bytes).expect("a piece's shape");
        frames.push((name, bytes));
    }
    let mut sum = 0.0;
    for (name, bytes) in &frames {
        let limit = per_call(&mut || drop(std::hint::black_box(bytes.clone())));
        let read = per_call(&mut || drop(std::hint::black_box(front(bytes).expect("a frame"))));
        println!("{name}: read in {read:.0} ns; copied with an allocation in {limit:.0} ns; ratio {:.2}", limit / read);
        if ["Request", "Have of 1", "Piece header"].contains(name) {
            sum += read;
        }
    }
    println!("a gigabyte a second costs {:.3} % of a core in frames read (to reach: 0.3)", sum * 1000.0 / 1e9 * 100.0,);
}

/// Nanoseconds.
fn per_call(work: &mut dyn FnMut()) -> f64 {
    median((0..5).map(|_| seconds(|| (0..TIMES).for_each(|_| work())) * 1e9 / f64::from(TIMES)).collect())
}
