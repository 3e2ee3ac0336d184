//! Chance, all of it from one seed.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// 32 bytes from a run's seed and what they are for; nothing about one follows from another.
pub fn seed_bytes(seed: u64, purpose: u64) -> [u8; 32] {
    *blake3::hash(&[seed.to_le_bytes(), purpose.to_le_bytes()].concat()).as_bytes()
}

/// A generator of integers.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// A generator for one purpose of a run.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(ChaCha8Rng::from_seed(seed_bytes(seed, purpose)))
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// True in so many of a thousand cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// Up to `count` different numbers below `bound`, in no order.
    pub fn sample(&mut self, bound: usize, count: usize) -> Vec<usize> {
        // Floyd's algorithm (Bentley and Floyd 1987), then a shuffle, since it favours late numbers at late places.
        let count = count.min(bound);
        let mut chosen: Vec<usize> = Vec::with_capacity(count);
        for last in bound - count..bound {
            let draw = self.below(last as u64 + 1) as usize;
            chosen.push(if chosen.contains(&draw) { last } else { draw });
        }
        self.shuffle(&mut chosen);
        chosen
    }

    /// Puts a list into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// One well-mixed number from another (the finaliser of SplitMix64, Steele et al. 2014).
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_no_number_twice_and_every_number_has_its_chance() {
        let mut random = Random::new(3, 0);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            let mut sample = random.sample(10, 4);
            sample.iter().for_each(|number| seen[*number] += 1);
            sample.sort_unstable();
            sample.dedup();
            assert_eq!(sample.len(), 4);
        }
        assert!(seen.iter().all(|count| (330..470).contains(count)), "{seen:?}");
        assert_eq!(random.sample(3, 8).len(), 3);
    }
}
