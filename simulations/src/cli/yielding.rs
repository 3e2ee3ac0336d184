//! `real yielding`: what a background download costs others, against what it may cost.

use serde::Serialize;

use crate::cli::{MISSED, fail};
use crate::outcome::Quantiles;
use crate::real::{Bed, Politeness, Start};

/// Round trip that background work may add at p95, microseconds.
const ADDED_MAX: u64 = 5_000;
/// What a foreground flow may lose, thousandths.
const LOSS_MAX: u64 = 30;

/// Machines that download from one origin together.
const SITE_MACHINES: usize = 8;

/// Medians of the runs from one kind of holder. Microseconds, thousandths, bits a second; the noise is what two runs of the
/// foreground flow alone differ by.
#[derive(Debug, Serialize)]
struct Row {
    holder: &'static str,
    idle: u64,
    busy: u64,
    added: u64,
    loss: u64,
    noise: u64,
    background_bits: u64,
    reached: bool,
}

/// Measures from an origin, from a seed, and a whole site from an origin; the exit code.
pub(crate) fn main(bed: &Bed, runs: u64, json: bool) -> u8 {
    let mut rows = Vec::new();
    for (holder, start, machines) in
        [("origin", Start::Origin, 1), ("seed", Start::Seed, 1), ("a site", Start::Origin, SITE_MACHINES)]
    {
        let mut seen = Vec::new();
        for number in 1..=runs {
            match Politeness::measure(start, machines, bed) {
                Ok(run) => seen.push(run),
                Err(error) => return fail(MISSED, &format!("{holder}: {error}")),
            }
            let last = seen.last().map(std::slice::from_ref).unwrap_or_default();
            eprintln!("{number} of {runs}: {}", shown(&medians(holder, last)));
        }
        rows.push(medians(holder, &seen));
    }
    if json {
        match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(error) => return fail(MISSED, &error),
        }
    } else {
        println!("medians of {runs} runs, 100 Mbit/s; allowed: 5 ms more round trip at p95, 3 % of a foreground flow");
        rows.iter().for_each(|row| println!("{}", shown(row)));
    }
    if rows.iter().all(|row| row.reached) { 0 } else { MISSED }
}

fn medians(holder: &'static str, runs: &[Politeness]) -> Row {
    let median = |of: fn(&Politeness) -> u64| Quantiles::of(runs.iter().map(of).collect()).p50;
    let added = median(|run| micros(run.busy.saturating_sub(run.idle)));
    let loss = median(|run| {
        let alone = run.alone_bits.midpoint(run.again_bits);
        alone.saturating_sub(run.beside_bits).saturating_mul(1000) / alone.max(1)
    });
    let noise = median(|run| run.alone_bits.abs_diff(run.again_bits).saturating_mul(1000) / run.alone_bits.max(1));
    Row {
        holder,
        idle: median(|run| micros(run.idle)),
        busy: median(|run| micros(run.busy)),
        added,
        loss,
        noise,
        background_bits: median(|run| run.background_bits),
        reached: added <= ADDED_MAX && loss <= LOSS_MAX,
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn shown(row: &Row) -> String {
    let milli = |micros: u64| micros as f64 / 1000.0;
    let word = |value: u64, max: u64| if value <= max { "reached" } else { "MISSED" };
    format!(
        "{:<7} p95 idle {:.2} ms, busy {:.2} ms: {:.2} ms more ({}); a flow loses {:.1} % ({}), two alone differ by {:.1} %; download {:.1} Mbit/s",
        row.holder,
        milli(row.idle),
        milli(row.busy),
        milli(row.added),
        word(row.added, ADDED_MAX),
        row.loss as f64 / 10.0,
        word(row.loss, LOSS_MAX),
        row.noise as f64 / 10.0,
        row.background_bits as f64 / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_are_held_against_what_is_allowed() {
        let run = |busy, beside_bits| Politeness {
            idle: Duration::from_millis(1),
            busy: Duration::from_micros(busy),
            background_bits: 90_000_000,
            alone_bits: 100_000_000,
            again_bits: 100_000_000,
            beside_bits,
        };
        assert!(medians("seed", &[run(6_000, 97_000_000)]).reached);
        assert!(!medians("seed", &[run(6_001, 97_000_000)]).reached);
        assert!(!medians("seed", &[run(1_000, 96_900_000)]).reached);
        // Noise may make either better than the idle line.
        let better = medians("seed", &[run(900, 100_000_001)]);
        assert_eq!((better.added, better.loss), (0, 0));
        let text = shown(&medians("origin", &[run(7_000, 97_000_000), run(2_000, 50_000_000), run(3_000, 99_000_000)]));
        assert!(text.contains("2.00 ms more (reached)") && text.contains("3.0 % (reached)"), "{text}");
    }
}
