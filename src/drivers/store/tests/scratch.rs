//! What the store keeps and gives back: scratch files.

use crate::content::layout::{BlockIndex, PieceIndex};
use crate::drivers::store::tests::{MIB, Site, manifest_of, read};
use crate::drivers::store::{BlockPool, Error, Finished, PieceStore, Scratch};

#[test]
fn pieces_are_given_back_and_nothing_is_left() {
    let site = Site::single(3 * MIB + 9);
    let scratch = Scratch::create(&site.state, site.manifest.clone()).expect("made");
    let names = || std::fs::read_dir(site.state.path()).expect("a folder").count();
    assert_eq!(names(), 0, "it has no name from its beginning");
    let pool = BlockPool::new(1);
    for (piece, block) in site.all_blocks().into_iter().rev() {
        assert!(scratch.finish().is_err(), "pieces are missing");
        let bytes = site.true_bytes(piece, block);
        let mut buffer = pool.try_acquire().expect("room");
        buffer.as_mut_slice(bytes.len()).copy_from_slice(bytes);
        scratch.put(site.manifest.verify(piece, block, None, buffer).expect("verified")).expect("stored");
        scratch.commit().expect("nothing to do");
        assert_eq!(read(&scratch, piece, block).expect("held"), bytes);
    }
    assert_eq!(scratch.finish().expect("whole"), Finished::InPlace);
    assert_eq!(read(&scratch, PieceIndex(3), BlockIndex(0)).expect("held"), site.files[0][3 * MIB..]);
    assert_eq!(scratch.partial(), []);
    scratch.close().expect("closed");
    drop(scratch);
    assert_eq!(names(), 0);
}

#[test]
fn a_folder_is_no_stream() {
    let site = Site::single(10);
    let several = manifest_of(&[("a", b"a"), ("b", b"b")], true);
    assert!(matches!(Scratch::create(&site.state, several), Err(Error::WrongKind { .. })));
    let again = [(); 2].map(|()| Scratch::create(&site.state, site.manifest.clone()).expect("two at a time"));
    assert!(again.iter().all(|scratch| scratch.held().held_count() == 0));
}
