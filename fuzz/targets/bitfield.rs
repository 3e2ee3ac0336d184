//! Bitfields: two bytes of piece count, then the wire form.

use piecework::content::PieceIndex;
use piecework::content::bitfield::Bitfield;

pub fn run(data: &[u8]) {
    let Some((count, bytes)) = data.split_first_chunk::<2>() else { return };
    let count = u32::from(u16::from_be_bytes(*count));
    let Ok(mut bitfield) = Bitfield::from_bytes(count, bytes) else { return };
    assert_eq!((bitfield.piece_count(), bitfield.to_bytes().as_slice()), (count, bytes));
    assert_eq!(bitfield.iter_held().count() + bitfield.iter_missing().count(), count as usize);
    assert_eq!(bitfield.is_complete(), bitfield.iter_missing().next().is_none());
    assert!(!Bitfield::all(count).lacks_any_of(&bitfield));
    assert_eq!(Bitfield::none(count).lacks_any_of(&bitfield), bitfield.held_count() > 0);
    let held: Vec<PieceIndex> = bitfield.iter_held().collect();
    assert!(held.into_iter().all(|piece| bitfield.clear(piece)));
    assert_eq!(bitfield, Bitfield::none(count));
}
