//! The store against a model of what it promises: bytes served are true, what was committed is held, and nothing is
//! promised on disk that is not there, whatever order of writes, failures, crashes and rot.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use crate::content::layout::{BlockIndex, PieceIndex, test_layout};
use crate::content::manifest::Manifest;
use crate::drivers::store::tests::{MIB, Site, bytes_of, hashes_of, manifest_of, read, scribble};
use crate::drivers::store::{Download, Finished, PieceStore, check_state_dir};

#[derive(Debug, Clone)]
enum Op {
    Put(prop::sample::Index),
    Read(prop::sample::Index),
    Commit,
    /// The next sync fails.
    FailingCommit,
    /// The disk is full for one write.
    FailingPut(prop::sample::Index),
    /// `kill -9`: what was written stays written.
    Crash,
    /// Of what was written since the last sync, any blocks may be missing.
    PowerCut(u32),
    CloseAndReopen,
    /// Bytes of one block change while the store is closed.
    Corrupt {
        block: prop::sample::Index,
        clean: bool,
    },
    Finish,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => index().prop_map(Op::Put),
        3 => index().prop_map(Op::Read),
        3 => Just(Op::Commit),
        1 => Just(Op::FailingCommit),
        1 => index().prop_map(Op::FailingPut),
        1 => Just(Op::Crash),
        1 => any::<u32>().prop_map(Op::PowerCut),
        1 => Just(Op::CloseAndReopen),
        1 => (index(), any::<bool>()).prop_map(|(block, clean)| Op::Corrupt { block, clean }),
        1 => Just(Op::Finish),
    ]
}

type Block = (PieceIndex, BlockIndex);

struct World {
    site: Site,
    blocks: Vec<Block>,
    /// Blocks that were part of a successful commit.
    durable: BTreeSet<Block>,
    /// Blocks that the store said it holds.
    written: BTreeSet<Block>,
    /// Blocks ever put: a hash of everything may find again what no record names.
    ever: BTreeSet<Block>,
    /// The data as of the last successful sync.
    synced: Vec<u8>,
    /// Blocks changed behind the store's back and not written and synced since: promises about them are broken by someone
    /// else, and a power cut brings the wrong bytes back.
    rotten: BTreeSet<Block>,
}

impl World {
    fn new(several_blocks: bool) -> Self {
        let bytes = bytes_of(4 * MIB + 77, 3);
        let manifest = if several_blocks {
            let layout = test_layout(bytes.len() as u64, 2 * MIB as u64);
            Manifest::test_with_layout(layout, &hashes_of(&layout, &bytes))
        } else {
            manifest_of(&[("file.bin", &bytes)], false)
        };
        let site = Site::new(manifest, vec![bytes]);
        let blocks = site.all_blocks();
        Self {
            site,
            blocks,
            durable: BTreeSet::new(),
            written: BTreeSet::new(),
            ever: BTreeSet::new(),
            synced: Vec::new(),
            rotten: BTreeSet::new(),
        }
    }

    fn offset(&self, (piece, block): Block) -> u64 {
        let (place, within) = self.site.manifest.layout().locate(piece).expect("inside");
        place.layout.block(within, block).expect("inside").offset
    }

    fn note_sync(&mut self) {
        self.durable.clone_from(&self.written);
        self.synced = std::fs::read(self.site.part()).expect("there");
        let mut rotten = std::mem::take(&mut self.rotten);
        rotten.retain(|block| {
            let bytes = self.site.true_bytes(block.0, block.1);
            self.synced.get(self.offset(*block) as usize..).is_none_or(|synced| !synced.starts_with(bytes))
        });
        self.rotten = rotten;
    }

    fn held_blocks(download: &Download) -> BTreeSet<Block> {
        let layout = download.manifest().layout();
        let whole =
            |piece| (0..layout.block_count(piece).expect("inside")).map(move |block| (piece, BlockIndex(block)));
        let held = download.held();
        let partial = download.partial();
        let partial = partial.iter().flat_map(|(piece, blocks)| blocks.iter().map(|block| (*piece, *block)));
        held.iter_held().flat_map(whole).chain(partial).collect()
    }

    /// `None`: a manifest of a geometry that its length does not ask for is no manifest to the check.
    fn promises_kept(&self) -> Option<bool> {
        let real = Manifest::decode(self.site.manifest.payload()).is_ok();
        real.then(|| {
            check_state_dir(self.site.state.path(), &self.site.state.path().join("cache"), &mut |_| {})
                .expect("checked")
                .ok
        })
    }

    /// Reopens; nothing on disk was harmed beyond what was not synced.
    fn reopen(&mut self) -> Box<Download> {
        let download = self.site.open();
        let held = Self::held_blocks(&download);
        let forgotten: Vec<_> = self.durable.difference(&held).filter(|block| !self.is_rotten(block.0)).collect();
        assert!(forgotten.is_empty(), "committed and not held: {forgotten:?}");
        assert!(held.is_subset(&self.ever));
        self.durable.retain(|block| held.contains(block));
        self.written = held;
        download
    }

    fn is_rotten(&self, piece: PieceIndex) -> bool {
        self.rotten.iter().any(|block| block.0 == piece)
    }

    fn power_cut(&self, survivors: u32) {
        for (at, block) in self.blocks.iter().enumerate() {
            if survivors & (1 << at) == 0 {
                let offset = self.offset(*block);
                let length = self.site.true_bytes(block.0, block.1).len();
                scribble(&self.site.part(), offset, &self.synced[offset as usize..offset as usize + length]);
            }
        }
    }

    /// Returns the store to go on with; none once the download is finished.
    fn step(&mut self, download: Box<Download>, op: &Op) -> Option<Box<Download>> {
        match op {
            Op::Put(index) => {
                let block = *index.get(&self.blocks);
                download.put_bytes(&self.site.block(block.0.0, block.1.0)).expect("stored");
                self.written.insert(block);
                self.ever.insert(block);
            }
            Op::FailingPut(index) => {
                let block = *index.get(&self.blocks);
                download.engine.files.fail_write.store(libc::ENOSPC, Ordering::Relaxed);
                let put = download.put_bytes(&self.site.block(block.0.0, block.1.0));
                assert_eq!(put.is_ok(), self.written.contains(&block));
                download.engine.files.fail_write.store(0, Ordering::Relaxed);
            }
            Op::Read(index) => {
                let (piece, block) = *index.get(&self.blocks);
                match read(&*download, piece, block) {
                    Ok(bytes) => assert!(bytes == self.site.true_bytes(piece, block), "false bytes served"),
                    Err(_) => {
                        let held = Self::held_blocks(&download);
                        assert!(self.written.difference(&held).all(|of| of.0 == piece));
                        self.durable.retain(|of| held.contains(of));
                        self.written = held;
                    }
                }
            }
            Op::Commit => {
                download.commit().expect("committed");
                self.note_sync();
            }
            Op::FailingCommit => {
                download.engine.files.fail_sync.store(true, Ordering::Relaxed);
                match download.commit() {
                    Ok(_) => self.note_sync(),
                    Err(failure) => assert_eq!(failure.lost, [], "what is still there is read back"),
                }
                download.engine.files.fail_sync.store(false, Ordering::Relaxed);
                assert_eq!(Self::held_blocks(&download), self.written);
            }
            Op::Crash | Op::PowerCut(_) | Op::CloseAndReopen => {
                if matches!(op, Op::CloseAndReopen) {
                    download.close().expect("closed");
                    self.note_sync();
                }
                drop(download);
                if let Op::PowerCut(survivors) = op {
                    self.power_cut(*survivors);
                }
                assert!(!self.rotten.is_empty() || self.promises_kept() != Some(false));
                return Some(self.reopen());
            }
            Op::Corrupt { block, clean } => return Some(self.corrupt(download, *block.get(&self.blocks), *clean)),
            Op::Finish => return self.finish(download),
        }
        Some(download)
    }

    fn corrupt(&mut self, download: Box<Download>, block: Block, clean: bool) -> Box<Download> {
        if clean {
            download.close().expect("closed");
            self.note_sync();
        }
        drop(download);
        scribble(&self.site.part(), self.offset(block), b"\xde\xad");
        let promised = self.durable.contains(&block);
        let seen = self.promises_kept().is_none_or(|kept| kept != promised);
        assert!(!self.rotten.is_empty() || seen, "the check sees a broken promise, and only that");
        self.rotten.insert(block);
        let download = self.reopen();
        // From now on the wrong bytes are what a power cut returns to.
        self.synced = std::fs::read(self.site.part()).expect("there");
        download
    }

    fn finish(&mut self, download: Box<Download>) -> Option<Box<Download>> {
        match download.finish() {
            Ok(Finished::InPlace) => {
                assert!(std::fs::read(self.site.out()).expect("there") == self.site.files[0]);
                assert_ne!(self.promises_kept(), Some(false));
                return None;
            }
            Ok(Finished::Lost(lost)) => {
                assert!(!lost.is_empty());
                self.written.retain(|block| !lost.contains(&block.0));
                self.durable.retain(|block| !lost.contains(&block.0));
            }
            Err(failure) => {
                assert!(matches!(*failure.error, crate::drivers::store::Error::Incomplete { .. }));
                assert!(self.written.len() < self.blocks.len());
            }
        }
        assert!(!self.site.out().exists());
        Some(download)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_store_keeps_its_promises(several_blocks: bool, ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new(several_blocks);
        let mut download = world.site.open();
        world.note_sync();
        for op in &ops {
            let Some(next) = world.step(download, op) else { break };
            download = next;
        }
    }
}
