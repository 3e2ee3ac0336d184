//! How fast is content hashed, and what does dividing the work cost?
//!
//! One MiB blocks, as they arrive, with the chaining values of a content's tree, against plain BLAKE3 of the same bytes on
//! one thread: expected 0.97 of it. Fed in slices while they are in the cache: 0.6 at 16 KiB, 0.9 at 256 KiB, which is why
//! whole blocks are hashed. On two cores, block beside block: twice. SHA-256 beside it, for scale: a fourth.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use piecework::content::layout::{BlockIndex, PieceIndex, PieceLayout};
use piecework::content::tree::hash_block;
use support::limits::{blake3_rate, sha256_rate};
use support::{GIB, MIB, median, megabytes, seconds};

fn main() {
    let layout = PieceLayout::new(GIB).expect("short");
    let block: Vec<u8> = (0..MIB).map(|at| at as u8).collect();
    let hash = |piece| hash_block(&layout, PieceIndex(piece), BlockIndex(0), &block).expect("of the layout");
    let blocks = |from: u32, to: u32| (from..to).for_each(|piece| drop(std::hint::black_box(hash(piece)).to_vec()));
    let rate = |work: &dyn Fn()| median((0..3).map(|_| megabytes(GIB) / seconds(work)).collect());
    let limit = median((0..3).map(|_| blake3_rate(GIB)).collect());
    println!("limit: BLAKE3 of a MiB at a time, one thread: {limit:.0} MB/s");
    let one = rate(&|| blocks(0, 1024));
    println!("blocks in their places, one thread: {one:.0} MB/s = {:.2} of it", one / limit);
    let two = rate(&|| {
        std::thread::scope(|scope| {
            scope.spawn(|| blocks(0, 512));
            blocks(512, 1024);
        });
    });
    println!("the same on two threads: {two:.0} MB/s = {:.2}", two / limit);
    for slice in [16 << 10, 64 << 10, 256 << 10] {
        let sliced = rate(&|| {
            for _ in 0..1024 {
                let mut hasher = blake3::Hasher::new();
                block.chunks(slice).for_each(|slice| _ = hasher.update(slice));
                std::hint::black_box(hasher.finalize());
            }
        });
        println!("fed {} KiB at a time: {sliced:.0} MB/s = {:.2}", slice >> 10, sliced / limit);
    }
    println!("SHA-256, one thread: {:.0} MB/s = {:.2}", sha256_rate(GIB), sha256_rate(GIB) / limit);
}
