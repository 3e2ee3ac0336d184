//! `real`: a prediction, then the real node on the same lines, side by side.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::{BAD, MISSED, fail, load, yielding};
use crate::outcome::Quantiles;
use crate::real::{Bed, Setup};
use crate::scenario::Scenario;

/// Arguments of `real`.
#[derive(Debug, Args)]
pub(crate) struct Real {
    /// Files or built-in scenarios of one switch, one content, and one seed or origin; `yielding`, alone, measures what a
    /// background download costs others
    #[arg(required = true)]
    scenario: Vec<String>,
    /// The program to run on every host
    #[arg(long, value_name = "FILE", default_value = "target/release/piecework")]
    piecework: PathBuf,
    /// Runs of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Folder for the files of a run; a disk slower than the lines would be measured instead of them
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    scratch: PathBuf,
    /// TCP's congestion control on the hosts, as `cubic`, which most machines use; without this the machine's own. It must
    /// be among the machine's net.ipv4.tcp_allowed_congestion_control
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Times in microseconds, copies in thousandths of the file; each the median of the runs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Figures {
    p50: u64,
    p99: u64,
    holder_copies: u64,
}

/// One scenario's line.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    bound: u64,
    predicted: Figures,
    real: Figures,
}

impl Real {
    pub(crate) fn main(self) -> u8 {
        if self.scenario == ["yielding"] {
            return yielding::main(&self.bed(), self.runs, self.json);
        }
        let mut planned = Vec::new();
        for name in &self.scenario {
            let scenario = match load(name, None) {
                Ok(scenario) => scenario,
                Err(code) => return code,
            };
            match Setup::of(&scenario) {
                Ok(setup) => planned.push((name, scenario, setup)),
                Err(why) => return fail(BAD, &format!("{name}: no lab can be built of it: {why}")),
            }
        }
        let bed = self.bed();
        // Every prediction stands before the first real run.
        let mut rows = Vec::new();
        for (name, scenario, _) in &planned {
            match predict(name, scenario, self.runs) {
                Ok((bound, predicted)) => {
                    eprintln!("{name}: predicted {}", shown(&predicted));
                    rows.push(Row { scenario: (*name).clone(), bound, predicted, real: Figures::default() });
                }
                Err(code) => return code,
            }
        }
        for (row, (name, _, setup)) in rows.iter_mut().zip(&planned) {
            let mut runs = Vec::new();
            for number in 1..=self.runs {
                match setup.run(&bed) {
                    Ok(outcome) => {
                        let micros = |time: &std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                        let times = Quantiles::of(outcome.completions.iter().map(micros).collect());
                        let copies = thousandths(outcome.holder_sent_bytes, setup.file_bytes);
                        let figures = Figures { p50: times.p50, p99: times.p99, holder_copies: copies };
                        eprintln!(
                            "{name}: run {number} of {}, TCP {}: {}; {:.1} MiB over HTTP, {:.1} MiB in vain",
                            self.runs,
                            outcome.congestion,
                            shown(&figures),
                            outcome.http_bytes as f64 / f64::from(1 << 20),
                            outcome.wasted_bytes as f64 / f64::from(1 << 20),
                        );
                        if outcome.lost_frames > 0 {
                            let lost = outcome.lost_frames;
                            eprintln!("{name}: the lab's switch lost {lost} frames: this machine was too slow for it");
                        }
                        runs.push(figures);
                    }
                    Err(error) => return fail(MISSED, &format!("{name}: {error}")),
                }
            }
            row.real = medians(&runs);
        }
        self.show(&rows)
    }

    fn bed(&self) -> Bed {
        let (piecework, scratch) = (self.piecework.clone(), self.scratch.clone());
        Bed { piecework, scratch, congestion: self.congestion.clone() }
    }

    fn show(&self, rows: &[Row]) -> u8 {
        if self.json {
            return match serde_json::to_string_pretty(rows) {
                Ok(text) => {
                    println!("{text}");
                    0
                }
                Err(error) => fail(MISSED, &error),
            };
        }
        println!("medians of {} runs; times in seconds, differences of the real runs from the prediction", self.runs);
        println!(
            "{:<24} {:>7} | {:>8} {:>8} {:>7} | {:>8} {:>8} {:>7} | {:>7} {:>7} {:>11}",
            "scenario",
            "bound",
            "p50 pred",
            "p50 real",
            "differ",
            "p99 pred",
            "p99 real",
            "differ",
            "sent pr",
            "sent re",
            "real/bound"
        );
        for row in rows {
            println!(
                "{:<24} {:>7.2} | {:>8.2} {:>8.2} {:>6.1}% | {:>8.2} {:>8.2} {:>6.1}% | {:>7.3} {:>7.3} {:>11.3}",
                row.scenario,
                seconds(row.bound),
                seconds(row.predicted.p50),
                seconds(row.real.p50),
                percent(row.real.p50, row.predicted.p50),
                seconds(row.predicted.p99),
                seconds(row.real.p99),
                percent(row.real.p99, row.predicted.p99),
                row.predicted.holder_copies as f64 / 1000.0,
                row.real.holder_copies as f64 / 1000.0,
                row.real.p99 as f64 / row.bound.max(1) as f64,
            );
        }
        0
    }
}

/// The simulator's word on a scenario: medians over so many seeds.
fn predict(name: &str, scenario: &Scenario, runs: u64) -> Result<(u64, Figures), u8> {
    let mut bound = 0;
    let mut seen = Vec::new();
    for seed in 1..=runs {
        let outcome = crate::run(name, scenario.clone(), seed, scenario.engine.policy, &mut |_| {})
            .map_err(|error| fail(BAD, &error))?;
        bound = outcome.bound;
        // As the lab counts: of an origin the bodies, of a seed frames with their headers.
        let holder = if outcome.books.origin_sent > 0 {
            outcome.books.origin_sent
        } else {
            let peers = outcome.uploads.mean.saturating_mul(outcome.uploads.count);
            let payload = outcome.books.peers_sent.saturating_sub(peers);
            payload.saturating_add(payload / 1000 * u64::from(scenario.model.overhead_permille))
        };
        let copies = thousandths(holder, scenario.content.size.0);
        seen.push(Figures { p50: outcome.times.p50, p99: outcome.times.p99, holder_copies: copies });
    }
    Ok((bound, medians(&seen)))
}

fn medians(all: &[Figures]) -> Figures {
    let median = |of: fn(&Figures) -> u64| Quantiles::of(all.iter().map(of).collect()).p50;
    Figures { p50: median(|it| it.p50), p99: median(|it| it.p99), holder_copies: median(|it| it.holder_copies) }
}

fn shown(figures: &Figures) -> String {
    let sent = figures.holder_copies as f64 / 1000.0;
    format!("p50 {:.2} s, p99 {:.2} s, the holder sent {sent:.3} files", seconds(figures.p50), seconds(figures.p99))
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn percent(real: u64, predicted: u64) -> f64 {
    (real as f64 / predicted.max(1) as f64 - 1.0) * 100.0
}

fn thousandths(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}
