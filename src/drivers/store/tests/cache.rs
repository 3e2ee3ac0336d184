//! What the store keeps and gives back: cache.

use std::os::unix::fs::MetadataExt;

use crate::content::hash::ManifestId;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::drivers::store::tests::{MIB, Site, bytes_of, manifest_of, prove, read, scribble};
use crate::drivers::store::{Cache, CacheLimits, Error, Finished, PieceStore, StateDir, check_state_dir};

#[test]
fn equal_contents_of_two_manifests_are_stored_once() {
    let (one, two) = (bytes_of(MIB + 9, 1), bytes_of(300, 2));
    let first = manifest_of(&[("a", &one), ("b", &two), ("empty", b"")], true);
    let second = manifest_of(&[("other/name", &one), ("more", &two), ("copy", &two)], true);
    let place = tempfile::tempdir().expect("folder");
    let state = StateDir::open(&place.path().join("state")).expect("made");
    let cache = Cache::open(&state.path().join("cache"), CacheLimits::default()).expect("opened");
    assert!(matches!(Cache::open(&state.path().join("cache"), CacheLimits::default()), Err(Error::Locked { .. })));
    assert!(matches!(cache.open_entry(first.id(), &mut |_| {}), Err(Error::NoSuchEntry { .. })));

    let entry = cache.create(&first, b"").expect("created");
    for (piece, files) in [(0, &one), (1, &one), (2, &two)] {
        let files = [one.clone(), two.clone(), files.clone()];
        entry.put_bytes(&prove(&first, &files, PieceIndex(piece), BlockIndex(0))).expect("stored");
    }
    assert_eq!(entry.finish().expect("finished"), Finished::InPlace);
    entry.close().expect("closed");

    let entry = cache.create(&second, b"").expect("created");
    assert!(entry.held().is_complete());
    assert_eq!(entry.finish().expect("finished"), Finished::InPlace);
    assert_eq!(read(&entry, PieceIndex(3), BlockIndex(0)).expect("right"), two);
    let data = state.path().join("cache/contents");
    assert_eq!(std::fs::read_dir(&data).expect("listed").count(), 2);
    let file = data.join(first.files()[0].content_id.to_string());
    assert_eq!(std::fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    drop((entry, cache));

    assert!(check_state_dir(state.path(), &state.path().join("cache"), &mut |_| {}).expect("checked").ok);
    let cache = Cache::open(&state.path().join("cache"), CacheLimits::default()).expect("opened");
    let mut listed: Vec<ManifestId> = cache.list().expect("listed").iter().map(|listing| listing.manifest).collect();
    let mut expected = vec![first.id(), second.id()];
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    assert!(cache.open_entry(second.id(), &mut |_| {}).expect("opened").held().is_complete());
    drop(cache);
    scribble(&file, 3, b"rot");
    let report = check_state_dir(state.path(), &state.path().join("cache"), &mut |_| {}).expect("checked");
    assert!(!report.ok && report.contents.iter().all(|content| content.wrong_pieces == [0]));
}

#[test]
fn a_rotten_piece_is_dropped_fetched_again_and_served() {
    let site = Site::single(2 * MIB);
    let cache = Cache::open(&site.state.path().join("cache"), CacheLimits::default()).expect("opened");
    let entry = cache.create(&site.manifest, b"").expect("created");
    for piece in 0..2 {
        entry.put_bytes(&site.block(piece, 0)).expect("stored");
    }
    entry.finish().expect("finished");
    let data = site.state.path().join("cache/contents").join(site.manifest.files()[0].content_id.to_string());
    scribble(&data, 0, b"rot");
    assert!(read(&entry, PieceIndex(0), BlockIndex(0)).is_err());
    assert!(entry.commit().is_ok());
    drop((entry, cache));
    assert!(check_state_dir(site.state.path(), &site.state.path().join("cache"), &mut |_| {}).expect("checked").ok);
    let cache = Cache::open(&site.state.path().join("cache"), CacheLimits::default()).expect("opened");
    let entry = cache.open_entry(site.manifest.id(), &mut |_| {}).expect("opened");
    assert_eq!(entry.held().held_count(), 1);
    entry.put_bytes(&site.block(0, 0)).expect("stored");
    assert_eq!(entry.finish().expect("finished"), Finished::InPlace);
    assert_eq!(read(&entry, PieceIndex(0), BlockIndex(0)).expect("right"), site.files[0][..MIB]);
}

#[test]
fn the_space_that_must_stay_free_is_kept() {
    let site = Site::single(1);
    let cache =
        Cache::open(&site.state.path().join("cache"), CacheLimits { free_bytes_min: u64::MAX }).expect("opened");
    assert!(matches!(cache.create(&site.manifest, b""), Err(Error::NotEnoughSpace { .. })));
}
