//! Nothing beats theory: minimum distribution times over random links, and rounds of whole pieces.

use piecework_sim::random::Random;

use crate::{crowd, run};

#[test]
fn no_run_beats_the_minimum_distribution_time_over_random_links() {
    let mut random = Random::new(11, 0);
    for seed in 0..12 {
        let mut text = String::from("about = \"random links\"\n[content]\nsize = \"12 MiB\"\n");
        let (line, origin) = (2 + random.below(60), 5 + random.below(100));
        text += &format!("[[origin]]\nrate = \"{origin} Mbit/s\"\n");
        text += &format!("[[site]]\nname = \"lan\"\ndown = \"{line} Mbit/s\"\nup = \"10 Mbit/s\"\n");
        for number in 0..2 + random.below(8) {
            let (down, up) = (4 + random.below(100), 2 + random.below(60));
            let seeds = number == 0 && random.chance(500);
            text += &format!(
                "[[machines]]\nname = \"m{number}\"\nsite = \"lan\"\ncount = 1\ndown = \"{down} Mbit/s\"\nup = \"{up} Mbit/s\"\nseed = {seeds}\n"
            );
        }
        let outcome = run(&text, seed);
        assert_eq!((outcome.violation, outcome.complete), (None, outcome.wanted), "{text}");
        assert!(
            outcome.bound > 0 && outcome.last_at >= outcome.bound,
            "{} < {}\n{text}",
            outcome.last_at,
            outcome.bound
        );
    }
}

#[test]
fn no_run_beats_the_rounds_of_whole_pieces() {
    for (mib, machines) in [(1, 1), (1, 7), (4, 15), (16, 20), (24, 3)] {
        let outcome = run(&crowd(mib, machines), 1);
        let piece = (1u64 << 20) * 1_000_000 / 12_500_000;
        let rounds = mib + u64::from(machines.ilog2());
        assert!(outcome.last_at >= rounds * piece, "{mib} MiB to {machines} in {} us", outcome.last_at);
        assert_eq!((outcome.violation, outcome.complete), (None, machines));
    }
}
