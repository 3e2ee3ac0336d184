//! Outcomes as text for people.

use std::fmt::Write;

use crate::outcome::Outcome;
use crate::scenario::Figures;
use crate::units::{Bytes, Span};

/// Thousandths as a number.
fn ratio(thousandths: u64) -> String {
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

fn percent(part: u64, of: u64) -> String {
    let thousandths = (u128::from(part) * 100_000 / u128::from(of.max(1))) as u64;
    format!("{} %", ratio(thousandths))
}

/// Lines of a table: what, and one value a run.
fn rows(outcomes: &[Outcome]) -> Vec<(String, Vec<String>)> {
    let row = |what: &str, value: &dyn Fn(&Outcome) -> String| {
        (what.to_owned(), outcomes.iter().map(value).collect::<Vec<_>>())
    };
    let useful = |it: &Outcome| it.books.useful;
    let busiest = |it: &Outcome| it.sites.iter().map(|site| site.busy_in).max().unwrap_or(0);
    let most = |it: &Outcome| it.sites.iter().map(|site| site.copies_in).max().unwrap_or(0);
    let mut rows = vec![
        row("policy", &|it| it.policy.clone()),
        row("seed", &|it| it.seed.to_string()),
        row("complete", &|it| format!("{} of {}", it.complete, it.wanted)),
        row("time of half", &|it| Span(it.times.p50).to_string()),
        row("time of 99 in 100", &|it| Span(it.times.p99).to_string()),
        row("last done at", &|it| Span(it.last_at).to_string()),
        row("lower bound", &|it| Span(it.bound).to_string()),
        row("last / bound", &|it| ratio(it.last_over_bound)),
        row("mean / bound", &|it| ratio(it.mean_over_bound)),
        row("p99.9 / bound", &|it| ratio(it.p999_over_bound)),
        row("origin sent", &|it| Bytes(it.books.origin_sent).to_string()),
        row("origin copies", &|it| ratio(it.origin_copies)),
        row("seed copies", &|it| ratio(it.seed_copies)),
        row("between sites", &|it| Bytes(it.cross_bytes).to_string()),
        row("copies over the busiest site line", &|it| ratio(most(it))),
        row("busiest site line", &|it| percent(busiest(it), 1000)),
        row("bytes moved / needed", &|it| ratio(it.bytes_over_needed)),
        row("  duplicate", &|it| percent(it.books.duplicate, useful(it))),
        row("  bad", &|it| percent(it.books.bad, useful(it))),
        row("  unasked", &|it| percent(it.books.unasked, useful(it))),
        row("  cancelled at origins", &|it| percent(it.books.origin_cancelled, useful(it))),
        row("  towards the gone", &|it| percent(it.books.lost, useful(it))),
        row("control messages, bytes", &|it| percent(it.books.control_bytes, useful(it))),
        row("bans, of honest machines", &|it| format!("{}, {}", it.books.bans, it.books.honest_bans)),
        row("events", &|it| it.events.to_string()),
        row("trace", &|it| it.trace.clone()),
    ];
    if outcomes.iter().any(|it| it.reader_first.count > 0) {
        rows.push(row("readers begin after, half and the last", &|it| {
            format!("{}, {}", Span(it.reader_first.p50), Span(it.reader_first.most))
        }));
        rows.push(row("readers stand still, mean and most", &|it| {
            format!("{}, {}", Span(it.reader_stalled.mean), Span(it.reader_stalled.most))
        }));
    }
    let kinds = outcomes.iter().map(|it| it.kinds.len()).max().unwrap_or(0);
    for number in 0..kinds {
        let name = outcomes.iter().find_map(|it| it.kinds.get(number)).map_or("", |kind| kind.name.as_str());
        rows.push(row(&format!("{name}: from origin, from peers, mean, longest, late"), &|it| {
            it.kinds.get(number).map_or_else(String::new, |kind| {
                let (origins, peers) = (Bytes(kind.from_origins), Bytes(kind.from_peers));
                format!("{origins}, {peers}, {}, {}, {}", Span(kind.mean), Span(kind.longest), kind.late)
            })
        }));
    }
    rows
}

/// A table of runs side by side.
pub fn compared(outcomes: &[Outcome]) -> String {
    let rows = rows(outcomes);
    let first = rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..outcomes.len())
        .map(|column| rows.iter().map(|(_, values)| values.get(column).map_or(0, String::len)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (what, values) in &rows {
        let _ = write!(out, "{what:<first$}");
        for (value, width) in values.iter().zip(&widths) {
            let _ = write!(out, "  {value:>width$}");
        }
        out.push('\n');
    }
    for outcome in outcomes {
        if let Some(violation) = &outcome.violation {
            let _ = writeln!(out, "VIOLATED ({} {}): {violation}", outcome.policy, outcome.seed);
        }
    }
    out
}

/// What one run reached of its scenario's figures: whether all are, and a line each.
pub fn summary(outcome: &Outcome, figures: &Figures) -> (bool, String) {
    let site = outcome.sites.iter().map(|site| site.copies_in).max().unwrap_or(0);
    let copies = outcome.origin_copies;
    let list = [
        ("origin copies", copies, figures.origin_copies),
        ("copies across a site's line", site, figures.site_copies),
        ("last over bound", outcome.last_over_bound, figures.last),
        ("mean over bound", outcome.mean_over_bound, figures.mean),
        ("p99.9 over bound", outcome.p999_over_bound, figures.p999),
        ("bytes moved over needed", outcome.bytes_over_needed, figures.bytes),
        ("time of those who give over that of free riders", outcome.givers_over_riders(), figures.givers_over_riders),
    ];
    let mut all = outcome.violation.is_none() && outcome.complete == outcome.wanted;
    let mut out = String::new();
    if outcome.complete < outcome.wanted {
        let _ = writeln!(out, "MISSED   {} of {} downloads are complete", outcome.complete, outcome.wanted);
    }
    let late = outcome.kinds.iter().map(|kind| kind.late).sum();
    let list =
        list.map(|(what, value, wanted)| (what, ratio(value), wanted.map(|wanted| (value <= wanted, ratio(wanted)))));
    let stalled = outcome.reader_stalled.most / 1000;
    let whole = [
        ("reader stands still, ms", stalled, figures.reader_stall),
        ("downloads after their deadline", late, figures.late),
    ];
    let whole = whole.map(|(what, value, wanted): (_, u64, Option<u64>)| {
        (what, value.to_string(), wanted.map(|wanted| (value <= wanted, wanted.to_string())))
    });
    for (what, value, wanted) in list.into_iter().chain(whole) {
        let Some((reached, wanted)) = wanted else { continue };
        all &= reached;
        let word = if reached { "reached" } else { "MISSED " };
        let _ = writeln!(out, "{word}  {what}: {value} (at most {wanted})");
    }
    (all, out)
}
