//! A cache of many contents, made without moving their bytes.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use piecework::content::build::{FileToList, ManifestBuilder};
use piecework::content::envelope::Envelope;
use piecework::content::hash::{ContentId, Sha256};
use piecework::content::key::SigningKey;
use piecework::content::layout::{BlockIndex, PieceIndex, PieceLayout};
use piecework::content::path::SafePath;
use piecework::content::tree::{TreeHasher, hash_block};
use piecework::drivers::store::{Cache, CacheLimits};

use super::MIB;

/// Makes a cache of contents of `bytes` (whole MiB) and a few more each, sparse zeros, so that their pieces are true and cost
/// no disk; returns their ids.
pub fn fill(path: &Path, contents: u64, bytes: u64) -> Vec<ContentId> {
    let cache = Cache::open(path, CacheLimits::default()).expect("a folder of ours");
    let key = SigningKey::from_seed(&[5; 32]);
    let zeros = vec![0; MIB as usize];
    // Equal bytes at equal places have equal hashes: only the last piece tells the contents apart.
    let whole_pieces = u32::try_from(bytes / MIB).expect("pieces of a MiB");
    let whole = PieceLayout::new(bytes + 1).expect("short");
    let shared: Vec<_> = (0..whole_pieces)
        .map(|piece| hash_block(&whole, PieceIndex(piece), BlockIndex(0), &zeros).expect("a piece of the layout"))
        .collect();
    let mut ids = Vec::new();
    for number in 1..=contents {
        let length = bytes + number;
        let layout = PieceLayout::new(length).expect("short");
        let mut hasher = TreeHasher::new(layout);
        assert!(shared.iter().all(|value| hasher.push(*value)));
        let tail = hash_block(&layout, PieceIndex(whole_pieces), BlockIndex(0), &zeros[..number as usize]);
        assert!(hasher.push(tail.expect("the last piece")));
        let file = FileToList {
            path: SafePath::new("zeros").expect("a plain name"),
            length,
            hashes: hasher.finish().expect("every piece"),
            sha256: Sha256::new([0; 32]),
            sources: Vec::new(),
            executable: false,
        };
        let builder = ManifestBuilder::new(format!("bench/zeros-{number}")).sequence(1).created(1);
        let manifest = builder.file(file).build().expect("a manifest");
        let data = cache.content_path(&manifest.files()[0].content_id);
        let data = File::options().write(true).create_new(true).mode(0o600).open(data).expect("a folder of ours");
        data.set_len(length).expect("sparse");
        let mut envelope = Envelope::unsigned(manifest.payload().clone());
        envelope.sign(&key).expect("few signatures");
        cache.adopt(&manifest, &envelope.encode()).expect("it has the right length");
        ids.push(manifest.files()[0].content_id);
    }
    ids
}
