//! What is measured, under which name. `docs/metrics.md` explains each; a test holds the two against each other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::drivers::machine::process;
use crate::policy::gate::{GATES, NODE_GATES};
use crate::programs::peer::downloads::Standing;
use crate::programs::peer::keep::Daemon;
use crate::services::node::{Moved, SCOPES, Waste};
use crate::surfaces::metrics::text::{Labels, Page};

/// How long a disk thread may take to answer before the daemon counts as unwell.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The daemon that is measured.
#[derive(Clone)]
pub struct Subject {
    daemon: Daemon,
}

impl Subject {
    /// Of this daemon.
    pub fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    /// Whether the event loop and a disk thread answer.
    pub(super) async fn is_well(&self) -> bool {
        let answer = self.daemon.node.disk().run(|| ());
        tokio::time::timeout(ANSWER_MAX, answer).await.is_ok_and(|answer| answer.is_ok())
    }

    /// The page.
    pub(super) async fn page(&self) -> String {
        let mut page = Page::default();
        page.gauge(
            "piecework_build_info",
            "The version that runs, as a label; the value is 1.",
            [(&[("version", env!("CARGO_PKG_VERSION"))][..], 1.0)],
        );
        moved(&mut page, &self.daemon.node.totals().moved);
        self.standing(&mut page);
        self.latencies(&mut page);
        self.cache(&mut page).await;
        self.process(&mut page);
        page.finish()
    }

    fn standing(&self, page: &mut Page) {
        let downloads = self.daemon.downloads.list();
        let count = |word: &str| downloads.iter().filter(|report| report.standing.word() == word).count() as f64;
        let states: Vec<_> = Standing::WORDS.iter().map(|word| ([("state", *word)], count(word))).collect();
        page.gauge("piecework_downloads", "Downloads by where they stand.", labelled(&states));
        let peers = self.daemon.node.peers();
        let near = |scope| peers.iter().filter(|report| report.scope == scope).count() as f64;
        let scopes: Vec<_> = SCOPES.iter().map(|(scope, word)| ([("scope", *word)], near(*scope))).collect();
        page.gauge("piecework_peers", "Connected peers by how near they are.", labelled(&scopes));
        let shut = self.daemon.gates.verdict().gates;
        let by_machine = |name: &str| shut.iter().any(|gate| gate.name == name);
        let by_node = [self.daemon.node.is_isolated(), self.daemon.node.is_asleep()];
        let all = GATES.iter().map(|name| (*name, by_machine(name))).chain(NODE_GATES.into_iter().zip(by_node));
        let gates: Vec<_> = all.map(|(name, shut)| ([("gate", name)], f64::from(u8::from(shut)))).collect();
        page.gauge("piecework_gate_shut", "1 while the machine keeps the daemon from something.", labelled(&gates));
        let shares = self.daemon.node.shares().len() as f64;
        page.gauge(
            "piecework_contents_open",
            "Contents being fetched, or asked for by peers lately.",
            [(&[][..], shares)],
        );
    }

    fn latencies(&self, page: &mut Page) {
        let held = self.daemon.node.latencies();
        let help = "From a request to a peer until its piece has arrived.";
        page.histogram("piecework_piece_request_seconds", help, &held.piece);
        let help = "From an HTTP request until the head of its answer.";
        page.histogram("piecework_source_response_seconds", help, &held.source);
        page.histogram("piecework_block_write_seconds", "Hashing and writing one block.", &held.disk);
    }

    async fn cache(&self, page: &mut Page) {
        let cache = std::sync::Arc::clone(&self.daemon.cache);
        let look = move || (cache.count().unwrap_or(0), cache.free_bytes().unwrap_or(0));
        let (contents, free) = self.daemon.node.disk().run(look).await.unwrap_or_default();
        let rows = [
            ("piecework_cache_contents", "Contents in the cache, those in part included.", contents as f64),
            ("piecework_disk_free_bytes", "Free bytes of the volume on which the cache lies.", free as f64),
        ];
        rows.iter().for_each(|(name, help, value)| page.gauge(name, help, [(&[][..], *value)]));
    }

    fn process(&self, page: &mut Page) {
        let seen = process::look();
        page.counter("process_cpu_seconds", "Processor time of all threads.", [(&[][..], seen.cpu_seconds)]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started = now.saturating_sub(self.daemon.started.elapsed()).as_secs_f64();
        let rows = [
            ("process_resident_memory_bytes", "Resident memory.", seen.resident_bytes as f64),
            ("process_open_fds", "Open file descriptors.", seen.descriptors as f64),
            ("process_start_time_seconds", "When the process began, since the epoch.", started.floor()),
        ];
        rows.iter().for_each(|(name, help, value)| page.gauge(name, help, [(&[][..], *value)]));
    }
}

/// Samples that borrow their labels.
fn labelled<'a, const N: usize>(
    samples: &'a [([(&'a str, &'a str); N], f64)],
) -> impl Iterator<Item = (Labels<'a>, f64)> {
    samples.iter().map(|(labels, value)| (&labels[..], *value))
}

fn moved(page: &mut Page, moved: &Moved) {
    let by_scope = |bytes: &[u64; 4]| -> Vec<_> {
        SCOPES.iter().zip(bytes).map(|((_, word), bytes)| (*word, *bytes as f64)).collect()
    };
    let mut received: Vec<_> = by_scope(&moved.from_peers)
        .into_iter()
        .map(|(scope, bytes)| ([("source", "peer"), ("scope", scope)], bytes))
        .collect();
    let origins = moved.from_http.saturating_sub(moved.from_cache_host);
    received.push(([("source", "http"), ("scope", "")], origins as f64));
    received.push(([("source", "cache_host"), ("scope", "")], moved.from_cache_host as f64));
    let help = "Payload verified and stored, by where it came from; how near the peer was.";
    page.counter("piecework_received_bytes", help, labelled(&received));
    let sent: Vec<_> =
        by_scope(&moved.to_peers).into_iter().map(|(scope, bytes)| ([("scope", scope)], bytes)).collect();
    page.counter("piecework_sent_bytes", "Payload sent to peers, by how near they were.", labelled(&sent));
    let wasted: Vec<_> =
        Waste::ALL.iter().zip(moved.wasted).map(|((_, word), bytes)| ([("cause", *word)], bytes as f64)).collect();
    page.counter("piecework_wasted_bytes", "Payload received in vain, by cause.", labelled(&wasted));
    let help = "Payload from HTTP of pieces that a connected peer held at that moment.";
    let bytes = moved.http_with_peer_available as f64;
    page.counter("piecework_origin_with_peer_available_bytes", help, [(&[][..], bytes)]);
    let help = "Pieces verified and stored whole.";
    page.counter("piecework_pieces_verified", help, [(&[][..], moved.pieces_verified as f64)]);
    let help = "Pieces, or blocks of them, that did not match the manifest.";
    page.counter("piecework_pieces_rejected", help, [(&[][..], moved.pieces_rejected as f64)]);
}
