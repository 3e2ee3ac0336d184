//! Random numbers from the seed handed in; their sequence is fixed by the generator's specification.

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// A number below `bound` (0 where that is 0), without a bias that matters for a `bound` far below 2^64.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    let wide = u128::from(rng.next_u64()) * u128::from(bound);
    // The high half of a product of two 64-bit numbers fits 64 bits.
    (wide >> 64) as u64
}

/// One well-mixed number from another (the finaliser of SplitMix64, Steele et al. 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_repeat_by_seed() {
        let draw = || {
            let mut rng = ChaCha8Rng::from_seed([9; 32]);
            (0..100).map(|_| below(&mut rng, 10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().all(|number| *number < 10));
        assert!((0..10).all(|number| draw().contains(&number)));
        assert_eq!(below(&mut ChaCha8Rng::from_seed([9; 32]), 0), 0);
    }
}
