//! What the store keeps and gives back: download.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::content::code::Code;
use crate::content::layout::{BlockIndex, PieceIndex, test_layout};
use crate::content::manifest::Manifest;
use crate::drivers::store::place::umask;
use crate::drivers::store::tests::{MIB, Site, bytes_of, hashes_of, manifest_of, read, scribble};
use crate::drivers::store::{Error, Finished, Opened, PieceStore, PutOutcome, ReadError, check_state_dir};

fn is_clear(site: &Site) -> bool {
    !site.part().exists()
        && std::fs::read_dir(site.state.path().join("downloads")).is_ok_and(|mut left| left.next().is_none())
}

fn check(site: &Site) -> bool {
    check_state_dir(site.state.path(), &site.state.path().join("cache"), &mut |_| {}).expect("checked").ok
}

#[test]
fn a_file_appears_under_its_name_only_when_whole() {
    let site = Site::single(3 * MIB + 7);
    let download = site.open();
    assert_eq!(download.held().held_count(), 0);
    assert!(
        matches!(download.finish(), Err(failure) if matches!(*failure.error, Error::Incomplete { missing: 4, .. }))
    );
    for (piece, block) in site.all_blocks() {
        assert!(!site.out().exists());
        let outcome = download.put_bytes(&site.block(piece.0, block.0)).expect("stored");
        assert_eq!(outcome, PutOutcome::Stored { piece_complete: true });
    }
    assert_eq!(download.put_bytes(&site.block(0, 0)).expect("known"), PutOutcome::AlreadyHeld);
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
    assert_eq!(std::fs::metadata(site.out()).expect("there").mode() & 0o777, 0o666 & !umask());
    assert!(is_clear(&site));
    // Reading goes on, writing does not.
    assert_eq!(read(&*download, PieceIndex(3), BlockIndex(0)).expect("read"), site.files[0][3 * MIB..]);
    assert_eq!(download.finish().expect("again"), Finished::InPlace);
    // A block that was asked for twice may come the second time after the end.
    assert_eq!(download.put_bytes(&site.block(0, 0)).expect("known"), PutOutcome::AlreadyHeld);
    assert!(download.commit().is_ok() && download.close().is_ok());
    assert!(matches!(site.try_open(false).expect("opened"), Opened::AlreadyThere));
    assert!(is_clear(&site) && check(&site));
}

#[test]
fn an_empty_file_is_whole_at_once() {
    let site = Site::single(0);
    assert_eq!(site.open().finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), b"");
    assert!(is_clear(&site));
}

#[test]
fn what_was_committed_is_held_after_any_stop() {
    for clean in [false, true] {
        let site = Site::single(4 * MIB);
        let download = site.open();
        for piece in [2, 0] {
            download.put_bytes(&site.block(piece, 0)).expect("stored");
        }
        assert_eq!(download.commit().expect("committed").blocks, 2);
        download.put_bytes(&site.block(3, 0)).expect("stored");
        if clean {
            download.close().expect("closed");
            assert!(matches!(download.put_bytes(&site.block(1, 0)), Err(Error::Closed { .. })));
        }
        drop(download);
        assert!(check(&site));
        let download = site.open();
        let expected = if clean { vec![0, 2, 3] } else { vec![0, 2] };
        assert_eq!(download.held().iter_held().map(|piece| piece.0).collect::<Vec<_>>(), expected);
        site.put_all(&download);
        assert_eq!(download.finish().expect("finished"), Finished::InPlace);
        assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
    }
}

#[test]
fn a_destination_that_holds_something_else_needs_force() {
    let site = Site::single(2 * MIB);
    std::fs::write(site.out(), "mine").expect("written");
    assert!(matches!(site.try_open(false), Err(error) if error.code() == Code::DestinationExists));
    assert!(is_clear(&site));
    let Opened::Ready(download) = site.try_open(true).expect("forced") else { panic!("not right") };
    site.put_all(&download);
    assert_eq!(std::fs::read(site.out()).expect("kept"), b"mine");
    download.finish().expect("finished");
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);

    // The same length and one wrong byte is something else too.
    scribble(&site.out(), MIB as u64 + 1, b"\0\xff");
    assert!(matches!(site.try_open(false), Err(Error::DestinationExists { .. })));
}

#[test]
fn a_folder_in_the_way_is_replaced_by_force_alone() {
    let site = Site::single(MIB);
    std::fs::create_dir(site.out()).expect("made");
    std::fs::write(site.out().join("old"), "old").expect("written");
    assert!(matches!(site.try_open(false), Err(Error::DestinationExists { .. })));
    let Opened::Ready(download) = site.try_open(true).expect("forced") else { panic!("not right") };
    site.put_all(&download);
    download.finish().expect("finished");
    assert_eq!(std::fs::read(site.out()).expect("a file now"), site.files[0]);
    assert!(is_clear(&site));
}

#[test]
fn a_part_that_is_not_ours_is_never_touched() {
    let site = Site::single(2 * MIB);
    std::fs::write(site.part(), "someone's").expect("written");
    let refused = site.try_open(true).err().expect("refused");
    assert_eq!(refused.path(), Some(&*site.part()));
    assert_eq!(std::fs::read(site.part()).expect("kept"), b"someone's");
    std::fs::remove_file(site.part()).expect("removed");

    // Ours was replaced behind our back.
    site.open().put_bytes(&site.block(0, 0)).expect("stored");
    std::fs::rename(site.part(), site.place.path().join("away")).expect("moved");
    std::fs::write(site.part(), vec![7; 2 * MIB]).expect("written");
    assert!(matches!(site.try_open(false), Err(Error::DestinationExists { .. })));
    assert_eq!(std::fs::read(site.part()).expect("kept"), vec![7; 2 * MIB]);
    // Gone, it is begun anew; a link in its place is refused.
    std::fs::remove_file(site.part()).expect("removed");
    symlink(site.place.path().join("away"), site.part()).expect("linked");
    assert!(matches!(site.try_open(false), Err(Error::DestinationExists { .. })));
    std::fs::remove_file(site.part()).expect("removed");
    assert_eq!(site.open().held().held_count(), 0);
}

#[test]
fn ours_of_another_manifest_is_begun_anew() {
    let site = Site::single(2 * MIB);
    let download = site.open();
    site.put_all(&download);
    download.close().expect("closed");
    drop(download);
    let newer = bytes_of(MIB + 5, 9);
    let manifest = manifest_of(&[("file.bin", &newer)], false);
    let Opened::Ready(download) = site.try_open_manifest(manifest, false).expect("opened") else { panic!("absent") };
    assert_eq!(download.held().held_count(), 0);
    assert_eq!(std::fs::metadata(site.part()).expect("there").len(), MIB as u64 + 5);
    download.discard().expect("given up");
    assert!(is_clear(&site));
}

#[test]
fn one_process_at_a_time_writes_a_content() {
    let site = Site::single(MIB);
    let download = site.open();
    assert!(matches!(site.try_open(false), Err(Error::Locked { .. })));
    assert!(!check(&site));
    drop(download);
    assert!(site.try_open(false).is_ok());
}

#[test]
fn a_torn_state_costs_a_hash_and_nothing_else() {
    let site = Site::single(3 * MIB);
    let download = site.open();
    download.put_bytes(&site.block(0, 0)).expect("stored");
    download.put_bytes(&site.block(2, 0)).expect("stored");
    download.close().expect("closed");
    drop(download);
    let job =
        std::fs::read_dir(site.state.path().join("downloads")).expect("listed").next().expect("one").expect("read");
    let state = job.path().join("state");
    let whole = std::fs::read(&state).expect("there");
    let tears = (0..whole.len()).step_by(13).map(|end| whole[..end].to_vec());
    let sectors = (0..whole.len()).step_by(64).map(|at| {
        let mut torn = whole.clone();
        let end = (at + 64).min(torn.len());
        torn[at..end].fill(0);
        torn
    });
    for torn in tears.chain(sectors) {
        std::fs::write(&state, &torn).expect("torn");
        assert!(check(&site), "a torn state is no broken promise");
        let download = site.open();
        assert_eq!(download.held().iter_held().map(|piece| piece.0).collect::<Vec<_>>(), [0, 2]);
    }
    // Found again, it is durable again with the next commit; and so it is when the claim is torn.
    let download = site.open();
    assert_eq!(download.commit().expect("committed").blocks, 2);
    drop(download);
    std::fs::write(job.path().join("manifest"), b"PWCLAIM").expect("torn");
    assert!(check(&site));
    assert_eq!(site.open().held().held_count(), 2);
}

#[test]
fn what_rots_between_runs_is_never_handed_over() {
    let site = Site::single(4 * MIB);
    let download = site.open();
    site.put_all(&download);
    download.close().expect("closed");
    drop(download);
    // Same length, same time, same inode: only the hash can tell.
    let before = std::fs::metadata(site.part()).expect("there").modified().expect("time");
    scribble(&site.part(), 2 * MIB as u64, b"rot");
    std::fs::File::options().write(true).open(site.part()).expect("open").set_modified(before).expect("set");
    assert!(!check(&site));
    let download = site.open();
    assert_eq!(download.held().held_count(), 4);
    assert!(matches!(read(&*download, PieceIndex(2), BlockIndex(0)), Err(ReadError::Rotten { piece: PieceIndex(2) })));
    assert!(matches!(read(&*download, PieceIndex(2), BlockIndex(0)), Err(ReadError::NotHeld { .. })));
    assert_eq!(download.put_bytes(&site.block(2, 0)).expect("healed"), PutOutcome::Stored { piece_complete: true });
    scribble(&site.part(), 3 * MIB as u64, b"more");
    assert_eq!(download.finish().expect("checked"), Finished::Lost(vec![PieceIndex(3)]));
    assert!(!site.out().exists());
    download.put_bytes(&site.block(3, 0)).expect("stored");
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
    // After the rename too: a change of the file is seen, and its pieces are hashed again.
    scribble(&site.out(), 0, b"later");
    assert!(matches!(read(&*download, PieceIndex(0), BlockIndex(0)), Err(ReadError::Rotten { .. })));
    assert_eq!(read(&*download, PieceIndex(1), BlockIndex(0)).expect("right"), site.files[0][MIB..2 * MIB]);
}

#[test]
fn a_shorter_or_touched_file_is_hashed_before_it_counts() {
    let site = Site::single(4 * MIB);
    let download = site.open();
    site.put_all(&download);
    download.close().expect("closed");
    drop(download);
    let file = std::fs::OpenOptions::new().write(true).open(site.part()).expect("open");
    file.set_len(2 * MIB as u64 + 9).expect("cut");
    assert!(!check(&site));
    let download = site.open();
    assert_eq!(download.held().iter_held().map(|piece| piece.0).collect::<Vec<_>>(), [0, 1]);
    site.put_all(&download);
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
}

#[test]
fn a_failed_sync_is_not_believed_and_costs_nothing_that_can_be_read_back() {
    let site = Site::single(4 * MIB);
    let download = site.open();
    download.put_bytes(&site.block(0, 0)).expect("stored");
    download.commit().expect("committed");
    download.put_bytes(&site.block(1, 0)).expect("stored");
    download.put_bytes(&site.block(2, 0)).expect("stored");
    scribble(&site.part(), 2 * MIB as u64, b"what the disk made of it");
    download.engine.files.fail_sync.store(true, std::sync::atomic::Ordering::Relaxed);
    let failure = download.commit().expect_err("failed");
    assert_eq!((failure.error.code(), failure.lost), (Code::Io, vec![PieceIndex(2)]));
    assert_eq!(download.held().iter_held().map(|piece| piece.0).collect::<Vec<_>>(), [0, 1]);
    assert!(check_after(download, &site, &[0]));
    // Without a commit nothing of the failed group is promised.
    let download = site.open();
    site.put_all(&download);
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
}

fn check_after(download: Box<crate::drivers::store::Download>, site: &Site, durable: &[u32]) -> bool {
    drop(download);
    let report = check_state_dir(site.state.path(), &site.state.path().join("cache"), &mut |_| {}).expect("checked");
    report.ok && report.contents.iter().all(|content| content.durable_count as usize == durable.len())
}

#[test]
fn a_full_disk_marks_nothing_and_goes_on_when_there_is_room() {
    let site = Site::single(2 * MIB);
    let download = site.open();
    download.engine.files.fail_write.store(libc::ENOSPC, std::sync::atomic::Ordering::Relaxed);
    let failed = download.put_bytes(&site.block(0, 0)).expect_err("full");
    assert!(failed.code() == Code::DiskFull && failed.retry());
    assert_eq!((download.held().held_count(), download.partial().len()), (0, 0));
    download.engine.files.fail_write.store(0, std::sync::atomic::Ordering::Relaxed);
    site.put_all(&download);
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
}

#[test]
fn more_than_the_disk_has_is_refused_before_anything_is_written() {
    let tebibyte = 1u64 << 40;
    let space = rustix::fs::statvfs(std::env::temp_dir()).expect("asked");
    if space.f_bavail.saturating_mul(space.f_frsize) > tebibyte {
        println!("skipped: this disk has more than a manifest can ask for");
        return;
    }
    let layout = crate::content::layout::PieceLayout::new(tebibyte).expect("fits");
    let hashes = vec![7; 32 * layout.piece_count() as usize];
    let id = crate::content::tree::merge_pieces(&layout, &hashes).expect("merges");
    let site = Site::single(1);
    let refused =
        site.try_open_manifest(Manifest::bare(id, tebibyte, &hashes).expect("fits"), false).err().expect("refused");
    assert!(matches!(refused, Error::NotEnoughSpace { needed, .. } if needed == tebibyte) && is_clear(&site));
}

#[test]
fn pieces_of_several_blocks_resume_block_by_block() {
    let bytes = bytes_of(5 * MIB + 3, 1);
    let layout = test_layout(bytes.len() as u64, 2 * MIB as u64);
    let site = Site::new(Manifest::test_with_layout(layout, &hashes_of(&layout, &bytes)), vec![bytes]);
    let download = site.open();
    let stored = |piece_complete| PutOutcome::Stored { piece_complete };
    assert_eq!(download.put_bytes(&site.block(1, 1)).expect("stored"), stored(false));
    assert_eq!(download.put_bytes(&site.block(0, 0)).expect("stored"), stored(false));
    assert_eq!(download.put_bytes(&site.block(0, 1)).expect("stored"), stored(true));
    download.commit().expect("committed");
    drop(download);
    let download = site.open();
    assert_eq!(download.partial(), [(PieceIndex(1), vec![BlockIndex(1)])]);
    assert_eq!(download.held().iter_held().collect::<Vec<_>>(), [PieceIndex(0)]);
    let values = download.piece_proof(PieceIndex(0)).expect("held");
    assert!(site.manifest.prove(PieceIndex(0), &values).is_ok());
    assert!(matches!(download.piece_proof(PieceIndex(1)), Err(ReadError::NotHeld { .. })));
    // A started piece that rots is found out when it is whole.
    scribble(&site.part(), 3 * MIB as u64, b"rot");
    site.put_all(&download);
    assert_eq!(download.finish().expect("checked"), Finished::Lost(vec![PieceIndex(1)]));
    site.put_all(&download);
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert_eq!(std::fs::read(site.out()).expect("there"), site.files[0]);
}

fn tree(count: usize) -> Site {
    let mut files: Vec<(String, Vec<u8>)> =
        (0..count).map(|at| (format!("d{}/s{}/f{at}", at % 7, at % 3), bytes_of(100 + at % 50, at as u32))).collect();
    files.push(("empty".into(), Vec::new()));
    files.push(("run.sh".into(), bytes_of(MIB + 1, 4)));
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let manifest = manifest_of(&listed, true);
    Site::new(manifest, files.into_iter().map(|(_, bytes)| bytes).collect())
}

fn is_right_tree(site: &Site, at: &Path) -> bool {
    let files = site.manifest.files().iter().zip(&site.files);
    files
        .into_iter()
        .all(|(entry, bytes)| std::fs::read(at.join(entry.path.as_str())).is_ok_and(|found| found == *bytes))
}

#[test]
fn thousands_of_small_files_cost_few_syncs() {
    let site = tree(2000);
    let download = site.open();
    site.put_all(&download);
    assert!(!site.out().exists());
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert!(download.stats().syncs < 10, "{:?}", download.stats());
    assert!(is_right_tree(&site, &site.out()) && is_clear(&site));
    let mode = |path: &str| std::fs::metadata(site.out().join(path)).expect("there").mode() & 0o777;
    assert_eq!((mode("run.sh"), mode("empty"), mode("")), (0o777 & !umask(), 0o666 & !umask(), 0o777 & !umask()));
    assert_eq!(read(&*download, PieceIndex(5), BlockIndex(0)).expect("read"), site.files[5]);
    assert!(matches!(site.try_open(false).expect("opened"), Opened::AlreadyThere));
    std::fs::remove_file(site.out().join("empty")).expect("removed");
    assert!(matches!(site.try_open(false), Err(Error::DestinationExists { .. })));
}

#[test]
fn a_tree_is_resumed_and_replaced_as_a_whole() {
    let site = tree(30);
    std::fs::create_dir(site.out()).expect("made");
    std::fs::write(site.out().join("old"), "old").expect("written");
    let Opened::Ready(download) = site.try_open(true).expect("forced") else { panic!("not right") };
    for piece in 0..20 {
        download.put_bytes(&site.block(piece, 0)).expect("stored");
    }
    download.commit().expect("committed");
    drop(download);
    assert!(check(&site));
    std::fs::remove_file(site.part().join("d3/s0/f3")).expect("removed");
    assert!(!check(&site));
    let Opened::Ready(download) = site.try_open(true).expect("resumed") else { panic!("not right") };
    assert_eq!(download.held().held_count(), 19);
    site.put_all(&download);
    assert!(site.out().join("old").exists());
    assert_eq!(download.finish().expect("finished"), Finished::InPlace);
    assert!(is_right_tree(&site, &site.out()) && !site.out().join("old").exists() && is_clear(&site));
}

#[test]
fn a_link_planted_in_the_tree_is_not_followed() {
    let site = tree(10);
    let outside = tempfile::tempdir().expect("folder");
    std::fs::write(outside.path().join("f0"), "untouched").expect("written");
    let download = site.open();
    std::fs::create_dir(site.part().join("d0")).expect("made");
    symlink(outside.path(), site.part().join("d0/s0")).expect("linked");
    assert!(download.put_bytes(&site.block(0, 0)).is_err());
    std::fs::create_dir_all(site.part().join("d1/s1")).expect("made");
    symlink(outside.path().join("f0"), site.part().join("d1/s1/f1")).expect("linked");
    assert!(matches!(download.put_bytes(&site.block(1, 0)), Err(Error::WrongKind { .. })));
    std::fs::create_dir_all(site.part().join("d2/s2")).expect("made");
    std::fs::hard_link(outside.path().join("f0"), site.part().join("d2/s2/f2")).expect("linked");
    assert!(matches!(download.put_bytes(&site.block(2, 0)), Err(Error::WrongKind { .. })));
    assert_eq!(std::fs::read(outside.path().join("f0")).expect("kept"), b"untouched");
    assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 1);
}
