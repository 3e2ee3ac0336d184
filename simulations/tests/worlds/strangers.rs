//! Strangers on the Internet: who gives, who does not, who comes later.

use piecework_sim::outcome::Outcome;
use piecework_sim::scenario::{Policy, builtin};

use crate::run_as;

fn free_riders(seed: u64, policy: Policy) -> Outcome {
    let outcome = run_as(builtin("free-riders").expect("it is built in"), seed, policy);
    assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted), "seed {seed}");
    outcome
}

#[test]
fn who_gives_is_done_clearly_before_who_does_not_and_latecomers_are_let_in() {
    let mut sum = 0;
    for seed in 1..5 {
        let outcome = free_riders(seed, Policy::Piecework);
        let [givers, riders, late] = &outcome.kinds[..] else { panic!("three kinds download: {:?}", outcome.kinds) };
        let plain = free_riders(seed, Policy::Bittorrent);
        println!(
            "seed {seed}: givers {} s, riders {} s, latecomers {} s on the mean; ratio {}, of a plain engine {}",
            givers.mean / 1_000_000,
            riders.mean / 1_000_000,
            late.mean / 1_000_000,
            outcome.givers_over_riders(),
            plain.givers_over_riders()
        );
        assert!(outcome.givers_over_riders() <= 930, "seed {seed}: {givers:?} {riders:?}");
        sum += outcome.givers_over_riders();
        assert!(outcome.givers_over_riders() < plain.givers_over_riders(), "seed {seed}");
        // Nobody who gives waits for the last of those who do not.
        assert!(givers.longest < riders.mean, "seed {seed}: {givers:?} {riders:?}");
        // Who comes late finds what others have, and needs no longer than who was there from the start.
        assert!(late.longest < givers.mean, "seed {seed}: {late:?} {givers:?}");
        // The first holder gives each piece once while any was not given: its line is what they all wait for.
        assert!(givers.mean * 1000 / outcome.bound <= 1350, "seed {seed}: {givers:?} {}", outcome.bound);
    }
    assert!(sum <= 4 * 870, "{} on the mean", sum / 4);
}
