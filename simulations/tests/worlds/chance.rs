//! A hundred small worlds of chance: sites, links, origins, faults, troubles and liars drawn by the seed. Every invariant
//! is checked at every step, and once faults stop everybody finishes. `seeds.txt` keeps the seeds that ever failed.

use std::fmt::Write;

use piecework_sim::random::Random;

use crate::run;

const FAULTS: [&str; 6] = ["busy", "unreachable", "truncated", "no-ranges", "wrong-bytes", "silent"];
const TROUBLES: [&str; 5] = ["die", "vanish", "silence", "sleep", "rot"];
const MANNERS: [&str; 7] = ["wrong-bytes", "stall", "refuse", "false-bitfield", "claim", "trickle", "half-wrong"];

/// The world of a seed.
fn world(seed: u64) -> String {
    let mut random = Random::new(seed, 99);
    let size = [1, 300, 1024, 3000, 9000][random.below(5) as usize] + random.below(700);
    let mut text = format!("about = \"chance\"\nstop_after = \"2 h\"\n[content]\nsize = \"{size} KiB\"\n");
    for _ in 0..1 + random.below(2) {
        let (rate, latency) = (4 + random.below(200), random.below(50));
        let _ = write!(text, "[[origin]]\nrate = \"{rate} Mbit/s\"\nlatency = \"{latency} ms\"\n");
        if random.chance(400) {
            // Faults stop, so that everybody can finish; a wrong file would condemn the source for good.
            let kind = FAULTS[random.below(FAULTS.len() as u64) as usize];
            let (percent, until) = (10 + random.below(91), 1 + random.below(60));
            let _ = writeln!(text, "fault = [{{ kind = \"{kind}\", percent = {percent}, until = \"{until} s\" }}]");
        }
    }
    // One origin that never fails: who condemned another can still finish.
    text.push_str("[[origin]]\nrate = \"20 Mbit/s\"\n");
    for number in 0..1 + random.below(3) {
        let (down, up, nat) = (4 + random.below(100), 4 + random.below(100), random.chance(300));
        let group = if random.chance(500) { "company" } else { "" };
        let _ = write!(
            text,
            "[[site]]\nname = \"s{number}\"\ndown = \"{down} Mbit/s\"\nup = \"{up} Mbit/s\"\nnat = {nat}\ngroup = \"{group}\"\n"
        );
        let (count, within) = (1 + random.below(6), random.below(20));
        let (down, up) = (8 + random.below(200), 4 + random.below(200));
        let _ = write!(
            text,
            "[[machines]]\nname = \"m{number}\"\nsite = \"s{number}\"\ncount = {count}\ndown = \"{down} Mbit/s\"\nup = \"{up} Mbit/s\"\nwithin = \"{within} s\"\n"
        );
        if random.chance(200) {
            let _ = writeln!(text, "per_access_point = 3\naccess_point_rate = \"{} Mbit/s\"", 20 + random.below(200));
        }
    }
    for _ in 0..random.below(3) {
        let kind = TROUBLES[random.below(TROUBLES.len() as u64) as usize];
        let (percent, lasts) = (10 + random.below(60), 1 + random.below(40));
        let _ = write!(text, "[[trouble]]\nkind = \"{kind}\"\npercent = {percent}\nlasts = \"{lasts} s\"\n");
        if random.chance(500) {
            text.push_str("at_percent = [5, 95]\n");
        } else {
            let _ = write!(text, "after = \"{} s\"\nwithin = \"20 s\"\n", random.below(10));
        }
    }
    if random.chance(400) {
        let manner = MANNERS[random.below(MANNERS.len() as u64) as usize];
        let _ = write!(text, "[[trouble]]\nkind = \"lie\"\nmanner = \"{manner}\"\npercent = 34\n");
    }
    text
}

fn check(seed: u64) {
    let outcome = run(&world(seed), seed);
    let fine = outcome.violation.is_none() && outcome.complete == outcome.wanted;
    assert!(
        fine,
        "seed {seed}: {} of {} complete, {:?}; put the seed into simulations/seeds.txt\n{}",
        outcome.complete,
        outcome.wanted,
        outcome.violation,
        world(seed)
    );
}

#[test]
fn a_hundred_small_worlds_stay_safe_and_come_to_their_end() {
    (0..100).for_each(check);
}

#[test]
fn seeds_that_failed_once_fail_no_more() {
    let seeds = include_str!("../../seeds.txt");
    let lines = seeds.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok());
        check(seed.unwrap_or_else(|| panic!("`{line}` begins with no seed")));
    }
}
