//! Many threads on one store: puts, reads, commits and failing syncs at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::drivers::store::tests::{MIB, Site, read};
use crate::drivers::store::{Finished, PieceStore, PutOutcome, check_state_dir};

#[test]
fn puts_reads_and_failing_commits_at_once_lose_nothing() {
    let site = Site::single(24 * MIB + 5);
    let blocks = site.all_blocks();
    let download = site.open();
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let putting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    // Each block twice over, so that threads meet.
                    while let Some(turn) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < 2 * blocks.len())
                    {
                        let (piece, block) = blocks[turn / 2];
                        download.put_bytes(&site.block(piece.0, block.0)).expect("stored");
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut rounds = 0u32;
            while !done.load(Ordering::Relaxed) {
                rounds += 1;
                download.engine.files.fail_sync.store(rounds.is_multiple_of(3), Ordering::Relaxed);
                if let Err(failure) = download.commit() {
                    assert_eq!(failure.lost, []);
                }
                for (piece, block) in blocks.iter().take(next.load(Ordering::Relaxed) / 2) {
                    if let Ok(bytes) = read(&*download, *piece, *block) {
                        assert!(bytes == site.true_bytes(*piece, *block));
                    }
                }
            }
            download.engine.files.fail_sync.store(false, Ordering::Relaxed);
        });
        for thread in putting {
            thread.join().expect("no panic");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(download.held().is_complete());
    download.commit().expect("committed");
    drop(download);
    let report = check_state_dir(site.state.path(), &site.state.path().join("cache"), &mut |_| {}).expect("checked");
    assert!(report.ok && report.contents[0].durable_count as usize == blocks.len());
    assert_eq!(site.open().finish().expect("finished"), Finished::InPlace);
    assert!(std::fs::read(site.out()).expect("there") == site.files[0]);
}

#[test]
fn a_block_that_comes_several_times_at_one_moment_is_stored_once() {
    let site = Site::single(24 * MIB + 5);
    let blocks = site.all_blocks();
    let download = site.open();
    let (barrier, stored) = (Barrier::new(3), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for (piece, block) in &blocks {
                    let block = site.block(piece.0, block.0);
                    barrier.wait();
                    if download.put_bytes(&block).expect("it is right") != PutOutcome::AlreadyHeld {
                        stored.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(stored.into_inner(), blocks.len());
}
