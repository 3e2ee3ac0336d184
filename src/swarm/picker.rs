//! Which piece next: wanted pieces by the number of neighbours that hold them, random among equals.
//!
//! Each change of a count and each pick costs a few steps whatever the number of pieces: pieces lie in one list a
//! count, and move between lists by swapping with the last.

use rand_chacha::ChaCha8Rng;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::limits::PICK_STEPS_MAX;
use crate::swarm::random::below;

/// Counts from here on share one list: past it, rarity makes no difference.
const BUCKETS: usize = 64;
const NOWHERE: u32 = u32::MAX;

/// Availability of all pieces, and the order of the wanted ones.
#[derive(Debug)]
pub(crate) struct Picker {
    /// Neighbours that hold a piece, those counted in `seeds` left out.
    holders: Vec<u16>,
    /// Neighbours that hold every piece; counted once instead of in each piece.
    seeds: u32,
    /// Wanted pieces by holders, in random order.
    buckets: Vec<Vec<u32>>,
    /// Position of each wanted piece in its bucket; `NOWHERE` for the others.
    places: Vec<u32>,
    wanted: Bitfield,
}

impl Picker {
    /// No neighbour, and no piece wanted yet.
    pub(crate) fn new(piece_count: u32) -> Self {
        Self {
            holders: vec![0; piece_count as usize],
            seeds: 0,
            buckets: vec![Vec::new(); BUCKETS],
            places: vec![NOWHERE; piece_count as usize],
            wanted: Bitfield::none(piece_count),
        }
    }

    /// Neighbours that hold the piece.
    pub(crate) fn holders(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.holders.get(piece.0 as usize).map_or(0, |count| u32::from(*count))
    }

    /// Neighbours that hold everything, as far as they came with it.
    pub(crate) fn seeds(&self) -> u32 {
        self.seeds
    }

    /// Wanted pieces that no neighbour holds, those with everything left out.
    pub(crate) fn unheld(&self) -> &[u32] {
        &self.buckets[0]
    }

    /// Pieces in the order: wanted and asked of nobody.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn wanted(&self) -> &Bitfield {
        &self.wanted
    }

    /// One more or one less neighbour with everything.
    pub(crate) fn count_seed(&mut self, more: bool) {
        self.seeds = if more { self.seeds.saturating_add(1) } else { self.seeds.saturating_sub(1) };
    }

    /// One more or one less neighbour with this piece.
    pub(crate) fn count(&mut self, piece: PieceIndex, more: bool, rng: &mut ChaCha8Rng) {
        let Some(&before) = self.holders.get(piece.0 as usize) else { return };
        let after = if more { before.saturating_add(1) } else { before.saturating_sub(1) };
        let listed = self.wanted.has(piece);
        if listed && bucket(before) != bucket(after) {
            self.unlist(piece);
            self.holders[piece.0 as usize] = after;
            self.list(piece, rng);
        } else {
            self.holders[piece.0 as usize] = after;
        }
    }

    /// Puts a piece into the order or takes it out.
    pub(crate) fn set_wanted(&mut self, piece: PieceIndex, wanted: bool, rng: &mut ChaCha8Rng) {
        if wanted {
            if self.wanted.set(piece) {
                self.list(piece, rng);
            }
        } else if self.wanted.clear(piece) {
            self.unlist(piece);
        }
    }

    fn list(&mut self, piece: PieceIndex, rng: &mut ChaCha8Rng) {
        let Some(count) = self.holders.get(piece.0 as usize) else { return };
        let list = &mut self.buckets[bucket(*count)];
        // Into a random place; what lay there moves to the end. So ties are random without shuffling.
        let end = list.len();
        list.push(piece.0);
        let place = below(rng, end as u64 + 1) as usize;
        list.swap(place, end);
        self.places[list[end] as usize] = end as u32;
        self.places[piece.0 as usize] = place as u32;
    }

    fn unlist(&mut self, piece: PieceIndex) {
        let Some(count) = self.holders.get(piece.0 as usize) else { return };
        let list = &mut self.buckets[bucket(*count)];
        let place = std::mem::replace(&mut self.places[piece.0 as usize], NOWHERE) as usize;
        debug_assert_eq!(list.get(place), Some(&piece.0), "a wanted piece lies where its place says");
        list.swap_remove(place);
        if let Some(&moved) = list.get(place) {
            self.places[moved as usize] = place as u32;
        }
    }

    /// The wanted piece with the fewest holders that `theirs` holds and `fits` accepts. Cohen 2003, "rarest first".
    pub(crate) fn rarest(
        &self,
        theirs: &Bitfield,
        rng: &mut ChaCha8Rng,
        mut fits: impl FnMut(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let mut steps = 0;
        for list in &self.buckets {
            if list.is_empty() {
                continue;
            }
            let start = below(rng, list.len() as u64) as usize;
            for piece in list[start..].iter().chain(&list[..start]) {
                steps += 1;
                if steps > PICK_STEPS_MAX {
                    return self.rarest_by_words(theirs, rng, fits);
                }
                let piece = PieceIndex(*piece);
                if theirs.has(piece) && fits(piece) {
                    return Some(piece);
                }
            }
        }
        None
    }

    /// The same for a neighbour that holds little of what is wanted: its candidates are few.
    fn rarest_by_words(
        &self,
        theirs: &Bitfield,
        rng: &mut ChaCha8Rng,
        mut fits: impl FnMut(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let mut best: Option<(u16, u64, PieceIndex)> = None;
        for piece in self.wanted.iter_common(theirs).filter(|piece| fits(*piece)).take(PICK_STEPS_MAX) {
            let key = (self.holders[piece.0 as usize], below(rng, u64::MAX), piece);
            best = Some(best.map_or(key, |best| best.min(key)));
        }
        best.map(|(_, _, piece)| piece)
    }

    /// The first wanted piece that `theirs` holds and `fits` accepts.
    pub(crate) fn first(&self, theirs: &Bitfield, fits: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.wanted.iter_common(theirs).find(|piece| fits(*piece))
    }
}

fn bucket(holders: u16) -> usize {
    usize::from(holders).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    /// One digit a piece: how many neighbours hold it.
    fn drawing(holders: &str) -> (Picker, ChaCha8Rng) {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut picker = Picker::new(holders.len() as u32);
        for (index, digit) in holders.bytes().enumerate() {
            let piece = PieceIndex(index as u32);
            picker.set_wanted(piece, true, &mut rng);
            for _ in 0..digit - b'0' {
                picker.count(piece, true, &mut rng);
            }
        }
        (picker, rng)
    }

    fn bits(drawing: &str) -> Bitfield {
        let mut bits = Bitfield::none(drawing.len() as u32);
        for (index, letter) in drawing.bytes().enumerate() {
            if letter == b'x' {
                bits.set(PieceIndex(index as u32));
            }
        }
        bits
    }

    #[test]
    fn the_rarest_of_theirs_comes_first() {
        let (mut picker, mut rng) = drawing("13221");
        assert_eq!(picker.rarest(&bits(" xx  "), &mut rng, |_| true), Some(PieceIndex(2)));
        assert_eq!(picker.rarest(&bits("xxxx "), &mut rng, |_| true), Some(PieceIndex(0)));
        picker.set_wanted(PieceIndex(0), false, &mut rng);
        picker.count(PieceIndex(2), false, &mut rng);
        assert_eq!(picker.rarest(&bits("xxxx "), &mut rng, |_| true), Some(PieceIndex(2)));
        assert_eq!(picker.rarest(&bits("xxxx "), &mut rng, |piece| piece.0 == 1), Some(PieceIndex(1)));
        assert_eq!(picker.rarest(&bits("     "), &mut rng, |_| true), None);
        assert_eq!(picker.first(&bits(" xx x"), |_| true), Some(PieceIndex(1)));
    }

    #[test]
    fn ties_fall_by_the_seed_and_reach_every_piece() {
        let (picker, mut rng) = drawing("1111");
        let mut seen = [0; 4];
        for _ in 0..400 {
            let piece = picker.rarest(&bits("xxxx"), &mut rng, |_| true).expect("all are wanted");
            seen[piece.0 as usize] += 1;
        }
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_neighbour_with_one_piece_of_many_is_served_in_few_steps() {
        let mut rng = ChaCha8Rng::from_seed([2; 32]);
        let mut picker = Picker::new(60_000);
        (0..60_000).for_each(|piece| picker.set_wanted(PieceIndex(piece), true, &mut rng));
        let mut theirs = Bitfield::none(60_000);
        theirs.set(PieceIndex(41_234));
        picker.count(PieceIndex(41_234), true, &mut rng);
        assert_eq!(picker.rarest(&theirs, &mut rng, |_| true), Some(PieceIndex(41_234)));
    }

    proptest::proptest! {
        #[test]
        fn places_and_lists_agree_after_any_changes(steps in proptest::collection::vec((0u32..12, 0u8..4), 0..200)) {
            let mut rng = ChaCha8Rng::from_seed([3; 32]);
            let mut picker = Picker::new(12);
            for (piece, what) in steps {
                match what {
                    0 => picker.set_wanted(PieceIndex(piece), true, &mut rng),
                    1 => picker.set_wanted(PieceIndex(piece), false, &mut rng),
                    2 => picker.count(PieceIndex(piece), true, &mut rng),
                    _ => picker.count(PieceIndex(piece), false, &mut rng),
                }
                let listed: usize = picker.buckets.iter().map(Vec::len).sum();
                proptest::prop_assert_eq!(listed, picker.wanted.held_count() as usize);
                for (count, list) in picker.buckets.iter().enumerate() {
                    for (place, piece) in list.iter().enumerate() {
                        proptest::prop_assert_eq!(picker.places[*piece as usize] as usize, place);
                        proptest::prop_assert_eq!(bucket(picker.holders[*piece as usize]), count);
                    }
                }
            }
        }
    }
}
