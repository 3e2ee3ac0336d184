//! [`Outcome`]: a run in numbers.

use serde::{Deserialize, Serialize};

use crate::bounds::lower_bound;
use crate::checker::Books;
use crate::scenario::{Machines, Manner};
use crate::world::{NEVER, Sample, World};

/// What came of a run. Times are in microseconds, ratios in thousandths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The scenario.
    pub scenario: String,
    /// What every machine ran.
    pub policy: String,
    /// From which all chance came.
    pub seed: u64,
    /// Fingerprint of everything that happened, in order.
    pub trace: String,
    /// What must never be and was.
    pub violation: Option<String>,
    /// Machines.
    pub machines: u64,
    /// Downloads that should complete, one a machine and content.
    pub wanted: u64,
    /// Downloads that did.
    pub complete: u64,
    /// Virtual time at the end.
    pub ended_at: u64,
    /// Downloads' times from their start.
    pub times: Quantiles,
    /// When the last download was complete, from the first start.
    pub last_at: u64,
    /// No delivery takes less, where all start together.
    pub bound: u64,
    /// `last_at` over the bound.
    pub last_over_bound: u64,
    /// Mean time over the bound.
    pub mean_over_bound: u64,
    /// The time within which 999 of 1,000 were done over the bound.
    pub p999_over_bound: u64,
    /// Bytes of all contents together.
    pub content_bytes: u64,
    /// Payload by what became of it.
    pub books: Books,
    /// Payload from origins over the contents' bytes.
    pub origin_copies: u64,
    /// The most that any one content left the origins.
    pub origin_copies_max: u64,
    /// Payload sent by those that held everything from the start, over the contents' bytes.
    pub seed_copies: u64,
    /// Payload moved over payload needed.
    pub bytes_over_needed: u64,
    /// Payload that crossed between sites, origins left out.
    pub cross_bytes: u64,
    /// The engines' own count of bytes from origins that a peer had.
    pub origin_bytes_with_peer_available: u64,
    /// Each site's line.
    pub sites: Vec<SiteLoad>,
    /// How long readers waited for their first piece.
    #[serde(default)]
    pub reader_first: Quantiles,
    /// How long each reader stood still after that, in all.
    #[serde(default)]
    pub reader_stalled: Quantiles,
    /// Downloads by kind of machine, where any kind has a deadline or does not wait.
    #[serde(default)]
    pub kinds: Vec<KindLoad>,
    /// Payload sent by each machine that downloads.
    pub uploads: Quantiles,
    /// Requests, hedged and timed out ones, over all engines.
    pub requests: [u64; 3],
    /// Messages between peers.
    pub control_messages: u64,
    /// Events of the simulator.
    pub events: u64,
    /// Of these, events of engines.
    pub engine_events: u64,
    /// The run's course.
    pub samples: Vec<Sample>,
    /// When each download was complete, from the first start, ascending.
    pub completions: Vec<u64>,
}

/// A distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many values.
    pub count: u64,
    /// The least.
    pub least: u64,
    /// Half are no more.
    pub p50: u64,
    /// Ninety of a hundred are no more.
    pub p90: u64,
    /// 99 of a hundred.
    pub p99: u64,
    /// 999 of a thousand.
    pub p999: u64,
    /// The most.
    pub most: u64,
    /// The mean.
    pub mean: u64,
}

impl Quantiles {
    /// Of any values.
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let (Some(least), Some(most)) = (values.first().copied(), values.last().copied()) else {
            return Self::default();
        };
        let count = values.len();
        let at = |permille: usize| values[(count * permille).div_ceil(1000).clamp(1, count) - 1];
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        let mean = (sum / count as u128) as u64;
        Self { count: count as u64, least, p50: at(500), p90: at(900), p99: at(990), p999: at(999), most, mean }
    }
}

/// What went over one site's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteLoad {
    /// Which.
    pub name: String,
    /// Bytes towards it.
    pub bytes_in: u64,
    /// Bytes away from it.
    pub bytes_out: u64,
    /// Contents' sizes towards it, in thousandths.
    pub copies_in: u64,
    /// How busy the line towards it was until the last of its machines was done, in thousandths.
    pub busy_in: u64,
    /// The same away from it.
    pub busy_out: u64,
    /// Bytes that were over the budget of the line at most, where it has one.
    #[serde(default)]
    pub over_budget: u64,
}

/// What came of the machines of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindLoad {
    /// Their name.
    pub name: String,
    /// Useful payload from origins.
    pub from_origins: u64,
    /// Useful payload from peers.
    pub from_peers: u64,
    /// The longest time that one of them took.
    pub longest: u64,
    /// The mean of their times.
    #[serde(default)]
    pub mean: u64,
    /// They give nobody anything.
    #[serde(default)]
    pub rides_free: bool,
    /// How many missed their deadline.
    pub late: u64,
}

impl KindLoad {
    /// Of each kind that downloads.
    fn of(world: &World) -> Vec<Self> {
        let kinds = &world.scenario.machines;
        let told = |kind: &Machines| kind.background || kind.deadline.is_some() || kind.manner == Manner::FreeRide;
        if !kinds.iter().any(told) {
            return Vec::new();
        }
        let of_kind = |number: usize| {
            let its = move |share: &&crate::world::Share| {
                share.counts && world.machines[share.machine as usize].kind as usize == number
            };
            let its = || world.shares.iter().filter(its);
            let time = |share: &crate::world::Share| share.complete_at.saturating_sub(share.started_at);
            let due = kinds[number].deadline.map_or(NEVER, |within| within.0);
            Self {
                name: kinds[number].name.clone(),
                from_origins: its().map(|share| share.from_origins).sum(),
                from_peers: its().map(|share| share.from_peers).sum(),
                longest: its().map(time).max().unwrap_or(0),
                mean: Quantiles::of(its().map(time).collect()).mean,
                rides_free: kinds[number].manner == Manner::FreeRide,
                late: its().filter(|share| time(share) > due).count() as u64,
            }
        };
        (0..kinds.len()).filter(|number| !kinds[*number].seed).map(of_kind).collect()
    }
}

impl Outcome {
    /// Mean time of the kinds that give over the shortest mean of those that ride free, in thousandths: what giving is
    /// worth. 0 where nobody rides free.
    pub fn givers_over_riders(&self) -> u64 {
        let means = |rides_free: bool| self.kinds.iter().filter(move |kind| kind.rides_free == rides_free);
        let givers = means(false).map(|kind| kind.mean).max().unwrap_or(0);
        means(true).map(|kind| permille(givers, kind.mean)).max().unwrap_or(0)
    }
}

/// `a / b` in thousandths, rounded up: a figure is not reached by rounding.
fn permille(a: u64, b: u64) -> u64 {
    let value = (u128::from(a) * 1000).div_ceil(u128::from(b.max(1)));
    u64::try_from(value).unwrap_or(u64::MAX)
}

impl Outcome {
    /// Of a world that has run.
    pub fn of(world: &World, scenario: &str) -> Self {
        let counted = || world.shares.iter().filter(|share| share.counts);
        let first = counted().map(|share| share.started_at).min().unwrap_or(0);
        let done = || counted().filter(|share| share.complete_at != NEVER);
        let times = Quantiles::of(done().map(|share| share.complete_at - share.started_at).collect());
        let mut completions: Vec<u64> = done().map(|share| share.complete_at.saturating_sub(first)).collect();
        completions.sort_unstable();
        let last_at = completions.last().copied().unwrap_or(0);
        let bound = lower_bound(world);
        let one = world.contents.first().map_or(0, |content| content.layout.total_bytes());
        let content_bytes = one * world.contents.len() as u64;
        let moved = world.books.peers_sent + world.books.origin_sent;
        let stats = || world.shares.iter().filter_map(|share| share.engine.as_ref()?.stats());
        let readers = || counted().filter_map(|share| share.reader.as_ref());
        let sites = world.sites.iter().map(|site| {
            let (down, up) = (world.network.link(site.down), world.network.link(site.up));
            SiteLoad {
                name: site.name.clone(),
                bytes_in: down.bytes,
                bytes_out: up.bytes,
                copies_in: permille(down.bytes, content_bytes),
                busy_in: permille(down.busy, world.now),
                busy_out: permille(up.busy, world.now),
                over_budget: site.budget.over_most,
            }
        });
        Self {
            scenario: scenario.to_owned(),
            policy: world.policy.name().to_owned(),
            seed: world.seed,
            trace: format!("{:016x}", world.trace),
            violation: world.violation.as_ref().map(ToString::to_string),
            machines: world.machines.len() as u64,
            wanted: world.wanted,
            complete: world.complete,
            ended_at: world.now,
            last_at,
            bound,
            last_over_bound: permille(last_at, bound),
            mean_over_bound: permille(times.mean, bound),
            p999_over_bound: permille(times.p999, bound),
            times,
            content_bytes,
            books: world.books,
            origin_copies: permille(world.books.origin_sent, content_bytes),
            origin_copies_max: world.contents.iter().map(|it| permille(it.origin_bytes, one)).max().unwrap_or(0),
            seed_copies: permille(
                world.shares.iter().filter(|share| share.seed).map(|share| share.sent).sum(),
                content_bytes,
            ),
            bytes_over_needed: permille(moved, world.books.useful.saturating_sub(world.books.rotten)),
            cross_bytes: world.cross_bytes,
            origin_bytes_with_peer_available: stats().map(|it| it.origin_bytes_with_peer_available).sum(),
            sites: sites.collect(),
            reader_first: Quantiles::of(readers().map(|reader| reader.first_after).collect()),
            reader_stalled: Quantiles::of(readers().map(|reader| reader.stalled).collect()),
            kinds: KindLoad::of(world),
            uploads: Quantiles::of(counted().map(|share| share.sent).collect()),
            requests: stats().fold([0; 3], |sum, it| {
                [sum[0] + it.requests, sum[1] + it.requests_hedged, sum[2] + it.requests_timed_out]
            }),
            control_messages: world.control_messages,
            events: world.events,
            engine_events: world.engine_events,
            samples: world.samples.clone(),
            completions,
        }
    }
}
