//! Outcomes as CSV. Names hold no comma: they come from a fixed list, or are quoted.

use std::fmt::Write;

use crate::outcome::Outcome;

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// One line a completed download: run, seconds, part of all that is complete.
pub fn completions(outcomes: &[Outcome]) -> String {
    let mut out = String::from("policy,seed,microseconds,complete\n");
    for outcome in outcomes {
        for (done, at) in (1u64..).zip(&outcome.completions) {
            let _ = writeln!(out, "{},{},{at},{done}", outcome.policy, outcome.seed);
        }
    }
    out
}

/// One line a sample of a run's course.
pub fn samples(outcomes: &[Outcome]) -> String {
    let mut out = String::from("policy,seed,microseconds,origin_bytes,cross_bytes,complete,waste,useful\n");
    for outcome in outcomes {
        for it in &outcome.samples {
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{}",
                outcome.policy, outcome.seed, it.at, it.origin_bytes, it.cross_bytes, it.complete, it.waste, it.useful
            );
        }
    }
    out
}

/// One line a site: what went over its line.
pub fn sites(outcomes: &[Outcome]) -> String {
    let mut out =
        String::from("policy,seed,site,bytes_in,bytes_out,copies_in_permille,busy_in_permille,busy_out_permille\n");
    for outcome in outcomes {
        for it in &outcome.sites {
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{}",
                outcome.policy,
                outcome.seed,
                quoted(&it.name),
                it.bytes_in,
                it.bytes_out,
                it.copies_in,
                it.busy_in,
                it.busy_out
            );
        }
    }
    out
}
