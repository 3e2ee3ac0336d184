//! How answers look: plain structures with the words of the glossary. `openapi.json` describes each, and a test holds the
//! two against each other.

use data_encoding::BASE64;
use serde::Serialize;

use crate::content::bitfield::Bitfield;
use crate::drivers::store::CacheDescription;
use crate::drivers::transport::Path;
use crate::policy::Gate;
use crate::programs::peer::appliance::Reports;
use crate::programs::peer::doctor::{Diagnosis, Finding};
use crate::programs::peer::downloads::{DownloadReport, Standing};
use crate::programs::peer::ledger::{Account, Sums};
use crate::programs::peer::rates::Sample;
use crate::services::node::{PeerReport, Totals};
use crate::swarm::event::Scope;

/// `GET /v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub version: &'static str,
    pub mode: String,
    pub paused: bool,
    pub gates: Vec<GateView>,
    /// Those that downloads ask which begin now, in this order.
    pub cache_hosts: Vec<String>,
    pub uptime_seconds: u64,
    pub peer_id: String,
    pub listening: Vec<String>,
    pub peer_count: usize,
    /// Contents of the site that share the line's budget, as this node divides it; 0 where it takes nothing of one.
    pub line_shared_by: u32,
    pub totals: TotalsView,
    pub downloads: Vec<Download>,
    /// Of a seed of a site alone.
    pub appliance: Option<ApplianceView>,
}

/// What the seed of a site does besides.
#[derive(Debug, Serialize)]
pub(super) struct ApplianceView {
    /// Contents of watched folders that are served, and that are not there whole or not read yet.
    pub watched_served: usize,
    pub watched_waiting: usize,
    pub watched_refused: usize,
    /// The first of the refused ones.
    pub refused: Vec<RefusedView>,
    /// The content that is being hashed again.
    pub scrubbing: Option<String>,
    pub scrub_pieces_right: u64,
    pub scrub_pieces_lost: u64,
}

/// A manifest of a watched folder, or its content, that is not served.
#[derive(Debug, Serialize)]
pub(super) struct RefusedView {
    pub path: String,
    pub reason: String,
}

impl From<&Reports> for ApplianceView {
    fn from(reports: &Reports) -> Self {
        let (shelf, scrub) = (reports.shelf(), reports.scrub());
        let view =
            |(path, reason): (std::path::PathBuf, String)| RefusedView { path: path.display().to_string(), reason };
        Self {
            watched_served: shelf.served_count,
            watched_waiting: shelf.waiting_count,
            watched_refused: shelf.refused_count,
            refused: shelf.refused.into_iter().map(view).collect(),
            scrubbing: scrub.running,
            scrub_pieces_right: scrub.pieces_right,
            scrub_pieces_lost: scrub.pieces_lost,
        }
    }
}

/// A reason for not doing what is done otherwise.
#[derive(Debug, Serialize)]
pub(super) struct GateView {
    pub gate: &'static str,
    pub effect: &'static str,
    pub reason: String,
}

impl GateView {
    /// Announced by whoever is about to suspend the machine, so no policy opens it.
    pub(super) fn asleep() -> Self {
        Self {
            gate: "asleep",
            effect: "no peers, and nothing is fetched or served",
            reason: "this machine is about to sleep, as it was told".to_owned(),
        }
    }

    /// Not of the machine but of its network, so no policy opens it.
    pub(super) fn isolated() -> Self {
        Self {
            gate: "isolated",
            effect: "peers are not waited for",
            reason: "members are seen on this network and none can be connected: it seems to isolate its machines"
                .into(),
        }
    }
}

impl From<Gate> for GateView {
    fn from(gate: Gate) -> Self {
        Self { gate: gate.name, effect: gate.effect, reason: gate.reason }
    }
}

/// `GET /v1/diagnosis`.
#[derive(Debug, Serialize)]
pub(super) struct DiagnosisView {
    pub verdict: String,
    pub findings: Vec<FindingView>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct FindingView {
    pub check: &'static str,
    pub state: &'static str,
    pub text: String,
}

impl From<Diagnosis> for DiagnosisView {
    fn from(diagnosis: Diagnosis) -> Self {
        let view =
            |finding: Finding| FindingView { check: finding.check, state: finding.state.word(), text: finding.text };
        Self { verdict: diagnosis.verdict, findings: diagnosis.findings.into_iter().map(view).collect() }
    }
}

/// Sums since the start, bytes of payload.
#[derive(Debug, Serialize)]
pub(super) struct TotalsView {
    pub bytes_from_peers: u64,
    pub bytes_from_http: u64,
    /// Of these, from cache hosts.
    pub bytes_from_cache_host: u64,
    pub bytes_to_peers: u64,
    pub bytes_wasted: u64,
    pub bytes_http_with_peer_available: u64,
}

impl From<Totals> for TotalsView {
    fn from(totals: Totals) -> Self {
        Self {
            bytes_from_peers: totals.bytes_from_peers,
            bytes_from_http: totals.bytes_from_http,
            bytes_from_cache_host: totals.bytes_from_cache_host,
            bytes_to_peers: totals.bytes_to_peers,
            bytes_wasted: totals.bytes_wasted,
            bytes_http_with_peer_available: totals.bytes_http_with_peer_available,
        }
    }
}

/// One download.
#[derive(Debug, Serialize)]
pub(super) struct Download {
    pub number: u64,
    pub wanted: String,
    pub uid: Option<u32>,
    /// How many want it.
    pub claims: usize,
    pub priority: &'static str,
    pub status: &'static str,
    /// Code word and reason while it waits to be tried again.
    pub code: Option<&'static str>,
    pub reason: Option<String>,
    pub shared_with: Option<u64>,
    pub manifest_id: Option<String>,
    pub name: Option<String>,
    pub bytes_total: Option<u64>,
    pub bytes_held: u64,
    pub bytes_already_held: u64,
    pub bytes_from_peers: u64,
    pub bytes_from_http: u64,
    /// Of these, from cache hosts.
    pub bytes_from_cache_host: u64,
    pub bytes_to_peers: u64,
    pub bytes_wasted: u64,
    pub peers: usize,
    pub peers_active: usize,
    pub isolated: bool,
}

impl From<DownloadReport> for Download {
    fn from(report: DownloadReport) -> Self {
        let (code, reason) = match &report.standing {
            Standing::Waiting(code, reason) => (Some(code.word()), Some(reason.clone())),
            _ => (None, None),
        };
        let shared_with = match report.standing {
            Standing::SharedWith(number) => Some(number),
            _ => None,
        };
        let (manifest_id, name) = report.manifest.map(|(id, name)| (id.to_string(), name)).unzip();
        let seen = report.progress.as_ref();
        let count = |field: fn(&crate::services::node::progress::Progress) -> u64| seen.map_or(0, field);
        Self {
            number: report.number,
            wanted: report.wanted,
            uid: report.uid,
            claims: report.claim_count,
            priority: report.priority.word(),
            status: report.standing.word(),
            code,
            reason,
            shared_with,
            manifest_id,
            name,
            bytes_total: seen.map(|progress| progress.bytes_total),
            bytes_held: count(|progress| progress.bytes_held),
            bytes_already_held: count(|progress| progress.bytes_already_held),
            bytes_from_peers: count(|progress| progress.bytes_from_peers),
            bytes_from_http: count(|progress| progress.bytes_from_http),
            bytes_from_cache_host: count(|progress| progress.bytes_from_cache_host),
            bytes_to_peers: count(|progress| progress.bytes_to_peers),
            bytes_wasted: count(|progress| progress.bytes_wasted),
            peers: seen.map_or(0, |progress| progress.peers),
            peers_active: seen.map_or(0, |progress| progress.peers_active),
            isolated: seen.is_some_and(|progress| progress.isolated),
        }
    }
}

/// One peer.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub peer_id: String,
    pub address: String,
    pub inbound: bool,
    pub found_by: &'static str,
    pub path: &'static str,
    pub scope: &'static str,
    pub agent: String,
    pub round_trip_seconds: f64,
    pub topics: usize,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub members_refused: u64,
}

impl From<PeerReport> for Peer {
    fn from(report: PeerReport) -> Self {
        Self {
            peer_id: report.peer.to_string(),
            address: report.remote.to_string(),
            inbound: report.inbound,
            found_by: report.way.word(),
            path: match report.path {
                Path::Direct => "direct",
                Path::Stream => "stream",
                Path::Relayed => "relayed",
            },
            scope: match report.scope {
                Scope::Host => "host",
                Scope::Site => "site",
                Scope::Group => "group",
                Scope::Internet => "internet",
            },
            agent: report.agent,
            round_trip_seconds: report.round_trip.as_secs_f64(),
            topics: report.topics,
            bytes_received: report.bytes_received,
            bytes_sent: report.bytes_sent,
            members_refused: report.members_refused,
        }
    }
}

/// `GET /v1/perf`.
#[derive(Debug, Serialize)]
pub(super) struct Perf {
    pub uptime_seconds: u64,
    pub contents: usize,
    pub shares_open: usize,
    pub peer_count: usize,
    pub downloads: usize,
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub descriptors: usize,
    pub disk_free_bytes: u64,
    pub totals: TotalsView,
    pub month: MonthView,
    pub savings: Vec<SavingsView>,
}

/// What a calendar month has moved so far, bytes of payload.
#[derive(Debug, Serialize)]
pub(super) struct MonthView {
    /// `YYYY-MM`.
    pub month: String,
    pub bytes_from_lan: u64,
    pub bytes_from_group: u64,
    pub bytes_from_internet: u64,
    pub bytes_from_http: u64,
    /// Of these.
    pub bytes_from_cache_host: u64,
    pub bytes_to_lan: u64,
    pub bytes_to_group: u64,
    pub bytes_to_internet: u64,
    /// Of others, as a relay.
    pub bytes_carried: u64,
}

/// What peers and cache hosts saved within some days.
#[derive(Debug, Serialize)]
pub(super) struct SavingsView {
    /// So many days that end with today.
    pub days: u16,
    /// Null where nothing came.
    pub percent: Option<f64>,
    pub bytes_from_peers: u64,
    pub bytes_from_http: u64,
    /// Of these.
    pub bytes_from_cache_host: u64,
}

impl From<&Account> for MonthView {
    fn from(account: &Account) -> Self {
        let sums = &account.month;
        let [_, _, bytes_from_group, bytes_from_internet] = sums.from_peers;
        let [_, _, bytes_to_group, bytes_to_internet] = sums.to_peers;
        Self {
            month: account.today.to_string().chars().take("YYYY-MM".len()).collect(),
            bytes_from_lan: sums.from_lan(),
            bytes_from_group,
            bytes_from_internet,
            bytes_from_http: sums.from_http,
            bytes_from_cache_host: sums.from_cache_host,
            bytes_to_lan: sums.to_lan(),
            bytes_to_group,
            bytes_to_internet,
            bytes_carried: sums.carried,
        }
    }
}

impl From<&(u16, Sums)> for SavingsView {
    fn from((days, sums): &(u16, Sums)) -> Self {
        Self {
            days: *days,
            percent: sums.saved_percent(),
            bytes_from_peers: sums.from_all_peers(),
            bytes_from_http: sums.from_http,
            bytes_from_cache_host: sums.from_cache_host,
        }
    }
}

/// `GET /v1/rates`.
#[derive(Debug, Serialize)]
pub(super) struct RatesView {
    pub uptime_seconds: f64,
    pub samples: Vec<SampleView>,
}

/// Bytes of payload that were moved within one sample.
#[derive(Debug, Serialize)]
pub(super) struct SampleView {
    /// Its end, seconds since the daemon was started.
    pub at: f64,
    /// How long it is, seconds.
    pub seconds: f64,
    pub from_lan: u64,
    pub from_group: u64,
    pub from_internet: u64,
    pub from_http: u64,
    pub to_peers: u64,
}

impl From<Sample> for SampleView {
    fn from(sample: Sample) -> Self {
        let sums = sample.sums;
        let [_, _, from_group, from_internet] = sums.from_peers;
        Self {
            at: sample.at.as_secs_f64(),
            seconds: sample.length.as_secs_f64(),
            from_lan: sums.from_lan(),
            from_group,
            from_internet,
            from_http: sums.from_http,
            to_peers: sums.to_peers.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
        }
    }
}

/// `GET /v1/downloads/{number}/pieces`.
#[derive(Debug, Serialize)]
pub(super) struct PiecesView {
    pub number: u64,
    pub piece_count: u32,
    pub pieces_held: u32,
    /// A bit a piece, least significant first; base64.
    pub held: String,
}

impl PiecesView {
    pub(super) fn new(number: u64, held: &Bitfield) -> Self {
        let (piece_count, pieces_held) = (held.piece_count(), held.held_count());
        Self { number, piece_count, pieces_held, held: BASE64.encode(&held.to_bytes()) }
    }
}

/// One entry of the cache.
#[derive(Debug, Serialize)]
pub(super) struct CacheRow {
    pub manifest_id: String,
    /// `false`: its manifest cannot be read.
    pub readable: bool,
    pub name: Option<String>,
    pub bytes_total: u64,
    pub bytes_on_disk: u64,
    /// It stays, whatever the limits.
    pub pinned: bool,
    /// When it was of use last, seconds since the epoch; 0: not known.
    pub last_used: u64,
}

impl CacheRow {
    pub(super) fn new(manifest_id: String, described: Option<CacheDescription>) -> Self {
        let (bytes_total, bytes_on_disk) =
            described.as_ref().map_or((0, 0), |entry| (entry.bytes_total, entry.bytes_on_disk));
        Self {
            manifest_id,
            readable: described.is_some(),
            name: described.map(|entry| entry.name),
            bytes_total,
            bytes_on_disk,
            pinned: false,
            last_used: 0,
        }
    }
}

/// A page of the cache's entries.
#[derive(Debug, Serialize)]
pub(super) struct CachePage {
    pub entries: Vec<CacheRow>,
    /// Asked for with `?after=`, it gives the next page; null on the last.
    pub next: Option<String>,
}

/// `GET /v1/mode`.
#[derive(Debug, Serialize)]
pub(super) struct ModeView {
    pub mode: &'static str,
    /// Who set it.
    pub provider: String,
}

/// One policy.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ConfigRow {
    pub key: String,
    pub value: String,
    pub provider: String,
}

/// What a refusal looks like.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    pub code: &'static str,
    pub message: String,
}
