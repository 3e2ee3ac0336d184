//! What the store keeps and gives back: seeding.

use std::os::unix::fs::symlink;

use crate::content::layout::{BlockIndex, PieceIndex};
use crate::drivers::store::tests::{MIB, Site, bytes_of, manifest_of, read, scribble};
use crate::drivers::store::{BlockPool, Error, PieceStore, ReadError, Seeding};

#[test]
fn files_are_served_where_they_lie_and_rot_is_not() {
    let site = Site::single(3 * MIB + 1);
    std::fs::write(site.out(), &site.files[0]).expect("written");
    scribble(&site.out(), MIB as u64, b"rot");
    let seeding = Seeding::open(&site.out(), site.manifest.clone()).expect("opened");
    assert!(seeding.held().is_complete());
    assert_eq!(read(&seeding, PieceIndex(3), BlockIndex(0)).expect("right"), site.files[0][3 * MIB..]);
    assert!(matches!(read(&seeding, PieceIndex(1), BlockIndex(0)), Err(ReadError::Rotten { .. })));
    assert_eq!(seeding.held().held_count(), 3);
    // Checked once; then the file changes.
    assert!(read(&seeding, PieceIndex(0), BlockIndex(0)).is_ok());
    scribble(&site.out(), 5, b"changed");
    assert!(matches!(read(&seeding, PieceIndex(0), BlockIndex(0)), Err(ReadError::Rotten { .. })));
    std::fs::OpenOptions::new().write(true).open(site.out()).expect("open").set_len(7).expect("cut");
    assert!(matches!(read(&seeding, PieceIndex(3), BlockIndex(0)), Err(ReadError::Rotten { .. })));
    let mut buffer = BlockPool::new(1).try_acquire().expect("room");
    buffer.as_mut_slice(MIB).copy_from_slice(&site.files[0][..MIB]);
    let block = site.manifest.verify(PieceIndex(0), BlockIndex(0), None, buffer).expect("verified");
    assert!(matches!(seeding.put(block), Err(Error::ReadOnly { .. })));
}

#[test]
fn what_is_not_the_publication_is_refused_by_name() {
    let site = Site::single(10);
    assert!(matches!(Seeding::open(&site.out(), site.manifest.clone()), Err(Error::Missing { .. })));
    std::fs::write(site.out(), "123456789").expect("written");
    let refused = Seeding::open(&site.out(), site.manifest.clone());
    assert!(matches!(refused, Err(Error::WrongLength { expected: 10, found: 9, .. })));
    assert!(matches!(Seeding::open(site.place.path(), site.manifest.clone()), Err(Error::WrongKind { .. })));
}

#[test]
fn a_folder_is_served_through_few_descriptors_and_no_links() {
    let files: Vec<(String, Vec<u8>)> = (0..300).map(|at| (format!("d{}/f{at}", at % 9), bytes_of(50, at))).collect();
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let manifest = manifest_of(&listed, true);
    let place = tempfile::tempdir().expect("folder");
    for (path, bytes) in &files {
        let path = place.path().join(path);
        std::fs::create_dir_all(path.parent().expect("inside")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let seeding = Seeding::open(place.path(), manifest.clone()).expect("opened");
    for round in 0..2 {
        for (at, (_, bytes)) in files.iter().enumerate() {
            let piece = PieceIndex(at as u32);
            assert_eq!(&read(&seeding, piece, BlockIndex(0)).expect("right"), bytes, "round {round}");
        }
    }
    let away = place.path().join("away");
    std::fs::rename(place.path().join("d3"), &away).expect("moved");
    symlink(&away, place.path().join("d3")).expect("linked");
    assert!(matches!(Seeding::open(place.path(), manifest), Err(Error::WrongKind { .. })));
}
