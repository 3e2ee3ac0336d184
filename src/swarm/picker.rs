//! Which piece next: wanted pieces by the number of neighbours that hold them, random among equals.
//!
//! The wanted pieces of one rarity are a class: a set of bits, with one more bit for each of its words that is not empty.
//! So a change of a count moves two bits, and a pick compares words with the neighbour's bitfield, rarest class first.

use rand_chacha::ChaCha8Rng;

use crate::content::bitfield::Bitfield;
use crate::content::layout::PieceIndex;
use crate::swarm::limits::PICK_WORDS_NEAR;
use crate::swarm::random::below;

/// Counts from here on share one class: past it, rarity makes no difference.
const CLASSES: usize = 64;

/// Pieces of one rarity.
#[derive(Debug, Default)]
struct Class {
    /// One bit a piece; empty until the first piece comes.
    words: Box<[u64]>,
    /// One bit a word of `words`: it is not zero.
    filled: Box<[u64]>,
    count: u32,
}

impl Class {
    fn insert(&mut self, piece: u32, piece_count: u32) {
        if self.words.is_empty() {
            let words = (piece_count as usize).div_ceil(64);
            self.words = vec![0; words].into_boxed_slice();
            self.filled = vec![0; words.div_ceil(64)].into_boxed_slice();
        }
        let word = (piece / 64) as usize;
        if let (Some(bits), Some(filled)) = (self.words.get_mut(word), self.filled.get_mut(word / 64)) {
            *bits |= 1 << (piece % 64);
            *filled |= 1 << (word % 64);
            self.count += 1;
        }
    }

    fn remove(&mut self, piece: u32) {
        let word = (piece / 64) as usize;
        if let (Some(bits), Some(filled)) = (self.words.get_mut(word), self.filled.get_mut(word / 64)) {
            debug_assert!(*bits & (1 << (piece % 64)) != 0, "a wanted piece lies in the class of its count");
            *bits &= !(1 << (piece % 64));
            *filled &= if *bits == 0 { !(1 << (word % 64)) } else { u64::MAX };
            self.count -= 1;
        }
    }

    /// Its words that are not empty, with their places, ascending.
    fn filled(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let places = (0u32..).zip(&self.filled).flat_map(|(at, filled)| ones(*filled).map(move |bit| 64 * at + bit));
        places.filter_map(|place| Some((place, *self.words.get(place as usize)?)))
    }

    fn pieces(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.filled().flat_map(|(place, word)| ones(word).map(move |bit| PieceIndex(64 * place + bit)))
    }

    /// A random one of the pieces that `theirs` has too. Where these lie dense, one near a random place: every
    /// neighbour draws its own place, so that none is favoured.
    fn any_of(&self, theirs: &[u64], rng: &mut ChaCha8Rng) -> Option<PieceIndex> {
        let common = |place: usize| {
            let word = self.words.get(place).zip(theirs.get(place)).map_or(0, |(ours, theirs)| ours & theirs);
            (word != 0).then_some((place as u32, word))
        };
        let start = below(rng, self.words.len() as u64) as usize;
        let near = start..start.saturating_add(PICK_WORDS_NEAR).min(self.words.len());
        if self.words.len() > 4 * PICK_WORDS_NEAR
            && let Some((place, word)) = near.into_iter().find_map(common)
        {
            return Some(PieceIndex(64 * place + nth_one(word, below(rng, word.count_ones().into()) as u32)));
        }
        let all = || self.filled().filter_map(|(place, _)| common(place as usize));
        let mut left = below(rng, all().map(|(_, word)| u64::from(word.count_ones())).sum());
        all().find_map(|(place, word)| {
            let here = u64::from(word.count_ones());
            let found = (left < here).then(|| PieceIndex(64 * place + nth_one(word, left as u32)));
            left = left.saturating_sub(here);
            found
        })
    }
}

/// The set bits of a word, ascending.
fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// Place of the set bit that has `nth` below it.
fn nth_one(word: u64, nth: u32) -> u32 {
    ones(word).nth(nth as usize).unwrap_or(0)
}

/// Availability of all pieces, and the order of the wanted ones.
#[derive(Debug)]
pub(crate) struct Picker {
    /// Neighbours that hold a piece, those counted in `seeds` left out.
    holders: Vec<u16>,
    /// Neighbours that hold every piece; counted once instead of in each piece.
    seeds: u32,
    /// Wanted pieces by holders.
    classes: Vec<Class>,
    wanted: Bitfield,
}

impl Picker {
    /// No neighbour, and no piece wanted yet.
    pub(crate) fn new(piece_count: u32) -> Self {
        Self {
            holders: vec![0; piece_count as usize],
            seeds: 0,
            classes: vec![Class::default()],
            wanted: Bitfield::none(piece_count),
        }
    }

    /// Neighbours that hold the piece.
    pub(crate) fn holders(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.holders.get(piece.0 as usize).map_or(0, |count| u32::from(*count))
    }

    /// Neighbours that hold the piece, those left out that came with everything.
    pub(crate) fn holders_but_seeds(&self, piece: PieceIndex) -> u32 {
        self.holders.get(piece.0 as usize).map_or(0, |count| u32::from(*count))
    }

    /// Neighbours that hold everything, as far as they came with it.
    pub(crate) fn seeds(&self) -> u32 {
        self.seeds
    }

    /// Wanted pieces that no neighbour holds, ascending; none while a neighbour holds everything.
    pub(crate) fn unheld(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.classes.first().filter(|_| self.seeds == 0).into_iter().flat_map(Class::pieces)
    }

    /// How many these are.
    pub(crate) fn unheld_count(&self) -> u32 {
        self.classes.first().filter(|_| self.seeds == 0).map_or(0, |class| class.count)
    }

    /// Pieces in the order: wanted and asked of nobody.
    pub(crate) fn wanted(&self) -> &Bitfield {
        &self.wanted
    }

    /// One more or one less neighbour with everything.
    pub(crate) fn count_seed(&mut self, more: bool) {
        self.seeds = if more { self.seeds.saturating_add(1) } else { self.seeds.saturating_sub(1) };
    }

    /// One more or one less neighbour with this piece.
    pub(crate) fn count(&mut self, piece: PieceIndex, more: bool) {
        let Some(holders) = self.holders.get_mut(piece.0 as usize) else { return };
        let before = *holders;
        *holders = if more { before.saturating_add(1) } else { before.saturating_sub(1) };
        let (from, to) = (class(before), class(*holders));
        if from != to && self.wanted.has(piece) {
            self.unlist(piece, from);
            self.list(piece, to);
        }
    }

    /// Puts a piece into the order or takes it out.
    pub(crate) fn set_wanted(&mut self, piece: PieceIndex, wanted: bool) {
        let Some(class) = self.holders.get(piece.0 as usize).map(|holders| class(*holders)) else { return };
        if wanted {
            if self.wanted.set(piece) {
                self.list(piece, class);
            }
        } else if self.wanted.clear(piece) {
            self.unlist(piece, class);
        }
    }

    fn list(&mut self, piece: PieceIndex, class: usize) {
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Class::default);
        }
        if let Some(class) = self.classes.get_mut(class) {
            class.insert(piece.0, self.wanted.piece_count());
        }
    }

    fn unlist(&mut self, piece: PieceIndex, class: usize) {
        if let Some(class) = self.classes.get_mut(class) {
            class.remove(piece.0);
        }
    }

    /// The wanted piece with the fewest holders that `theirs` holds and `fits` accepts. Cohen 2003, "rarest first".
    pub(crate) fn rarest(
        &self,
        theirs: &Bitfield,
        rng: &mut ChaCha8Rng,
        mut fits: impl FnMut(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        for class in self.classes.iter().filter(|class| class.count > 0) {
            let Some(drawn) = class.any_of(theirs.words(), rng) else { continue };
            if fits(drawn) {
                return Some(drawn);
            }
            // Few do not fit: what was refused lately, or is owed late.
            let after = class.pieces().filter(|piece| *piece > drawn);
            let around = after.chain(class.pieces().take_while(|piece| *piece < drawn));
            if let Some(piece) = around.filter(|piece| theirs.has(*piece)).find(|piece| fits(*piece)) {
                return Some(piece);
            }
        }
        None
    }

    /// Whether `theirs` holds any wanted piece.
    pub(crate) fn any(&self, theirs: &Bitfield) -> bool {
        self.wanted.words().iter().zip(theirs.words()).any(|(ours, theirs)| ours & theirs != 0)
    }

    /// The first wanted piece that `theirs` holds and `fits` accepts.
    pub(crate) fn first(&self, theirs: &Bitfield, fits: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.wanted.iter_common(theirs).find(|piece| fits(*piece))
    }
}

fn class(holders: u16) -> usize {
    usize::from(holders).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    /// One digit a piece: how many neighbours hold it.
    fn drawing(holders: &str) -> (Picker, ChaCha8Rng) {
        let mut picker = Picker::new(holders.len() as u32);
        for (index, digit) in holders.bytes().enumerate() {
            let piece = PieceIndex(index as u32);
            picker.set_wanted(piece, true);
            for _ in 0..digit - b'0' {
                picker.count(piece, true);
            }
        }
        (picker, ChaCha8Rng::from_seed([1; 32]))
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
        picker.set_wanted(PieceIndex(0), false);
        picker.count(PieceIndex(2), false);
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
        (0..60_000).for_each(|piece| picker.set_wanted(PieceIndex(piece), true));
        let mut theirs = Bitfield::none(60_000);
        theirs.set(PieceIndex(41_234));
        picker.count(PieceIndex(41_234), true);
        assert_eq!(picker.rarest(&theirs, &mut rng, |_| true), Some(PieceIndex(41_234)));
    }

    #[test]
    fn of_many_pieces_that_lie_sparse_each_is_drawn_alike() {
        let mut rng = ChaCha8Rng::from_seed([4; 32]);
        let mut picker = Picker::new(60_000);
        let places = [3, 4, 9_000, 59_999];
        let mut theirs = Bitfield::none(60_000);
        for piece in places.map(PieceIndex) {
            picker.set_wanted(piece, true);
            theirs.set(piece);
        }
        let mut seen = [0; 4];
        for _ in 0..400 {
            let piece = picker.rarest(&theirs, &mut rng, |_| true).expect("four are there");
            seen[places.iter().position(|it| *it == piece.0).expect("one of them")] += 1;
        }
        assert!(seen.iter().all(|count| (60..140).contains(count)), "{seen:?}");
    }

    proptest::proptest! {
        #[test]
        fn classes_and_counts_agree_after_any_changes(steps in proptest::collection::vec((0u32..200, 0u8..4), 0..400)) {
            let mut picker = Picker::new(200);
            for (piece, what) in steps {
                match what {
                    0 => picker.set_wanted(PieceIndex(piece), true),
                    1 => picker.set_wanted(PieceIndex(piece), false),
                    2 => picker.count(PieceIndex(piece), true),
                    _ => picker.count(PieceIndex(piece), false),
                }
                let listed: u32 = picker.classes.iter().map(|it| it.count).sum();
                proptest::prop_assert_eq!(listed, picker.wanted.held_count());
                for (count, list) in picker.classes.iter().enumerate() {
                    proptest::prop_assert_eq!(list.pieces().count(), list.count as usize);
                    for piece in list.pieces() {
                        proptest::prop_assert!(picker.wanted.has(piece));
                        proptest::prop_assert_eq!(class(picker.holders[piece.0 as usize]), count);
                    }
                }
            }
        }
    }
}
