//! What a machine's user wishes: to read while it comes, to wait, to have it by a time.

use piecework_sim::outcome::Outcome;
use piecework_sim::scenario::{Policy, builtin};

use crate::{run, run_as};

fn built_in(name: &str) -> &'static str {
    builtin(name).expect("it is built in")
}

fn sound(outcome: &Outcome) {
    assert_eq!((outcome.violation.as_deref(), outcome.complete), (None, outcome.wanted));
}

#[test]
fn readers_of_an_office_stand_still_no_longer_than_with_strict_order_and_cost_one_copy() {
    for seed in 1..4 {
        let outcome = run(built_in("streaming"), seed);
        sound(&outcome);
        let (first, stalled) = (outcome.reader_first, outcome.reader_stalled);
        println!(
            "seed {seed}: first piece {} ms at most, stalled {} ms on the mean, {} at most; {} copies, last {}",
            first.most / 1000,
            stalled.mean / 1000,
            stalled.most / 1000,
            outcome.origin_copies,
            outcome.last_over_bound
        );
        assert_eq!(first.count, 20);
        assert!(outcome.origin_copies <= 1010, "seed {seed}: {}", outcome.origin_copies);
        // As good for the reader as strict order, though what is beyond the window comes rarest first.
        let strict = run_as(built_in("streaming"), seed, Policy::Sequential).reader_stalled;
        assert!(stalled.mean <= strict.mean + 2_000_000, "seed {seed}: {} and {}", stalled.mean, strict.mean);
    }
}

#[test]
fn a_branch_that_does_not_wait_takes_from_its_head_office_what_the_origin_has_too() {
    let background = built_in("background");
    let foreground = background.replace("background = true\n", "");
    for seed in 1..4 {
        let (patient, waiting) = (run(background, seed), run(&foreground, seed));
        sound(&patient);
        sound(&waiting);
        println!(
            "seed {seed}: {} thousandths from the origin, {} where somebody waits; {} s and {} s",
            patient.origin_copies,
            waiting.origin_copies,
            patient.last_at / 1_000_000,
            waiting.last_at / 1_000_000
        );
        // The origin still helps a machine to which nothing comes for seconds.
        assert!(patient.origin_copies <= 250, "seed {seed}: {}", patient.origin_copies);
        assert!(waiting.origin_copies >= 500, "seed {seed}: {}", waiting.origin_copies);
    }
}

#[test]
fn the_origin_is_used_for_a_deadline_and_not_without_one() {
    for seed in 1..4 {
        let outcome = run(built_in("deadline"), seed);
        sound(&outcome);
        let [patient, due] = &outcome.kinds[..] else { panic!("two kinds download: {:?}", outcome.kinds) };
        println!("seed {seed}: {patient:?}\n{due:?}");
        // Before discovery has settled a piece in so many comes from the origin.
        assert!(patient.from_origins <= outcome.content_bytes / 50, "seed {seed}: {patient:?}");
        assert_eq!(due.late, 0, "seed {seed}: {due:?}");
        // In two minutes the holder brings 57 MiB; a seventh of the time is kept for what may fail.
        let least = outcome.content_bytes - (57 << 20);
        assert!((least..least + (24 << 20)).contains(&due.from_origins), "seed {seed}: {due:?}");
    }
}
