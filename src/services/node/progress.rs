//! What a download looks like from outside: bytes by where they came from, and how it ended. The books close: total =
//! from peers + from HTTP + already held, once complete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::content::bitfield::Bitfield;
use crate::content::code::Code;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::store;
use crate::services::node::moved::{Moved, Waste};
use crate::swarm::event::{Scope, Supplier};

/// Where a share stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Pieces are missing.
    Downloading,
    /// Every piece is here and the files stand under their names.
    Complete,
    /// It ended without; see the outcome.
    Failed,
}

/// Why a download failed.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With a code word, what went wrong, whose fault it is, and what to do.
    Failed {
        /// Code word.
        code: Code,
        /// What failed and why.
        message: String,
        /// On what: a peer, a URL, a path.
        culprit: Option<String>,
        /// What to do.
        remedy: Option<String>,
    },
    /// The manifest of a bare content id was a lie; another may be asked for.
    Condemned,
}

impl Outcome {
    pub(crate) fn disk(error: &store::Error) -> Self {
        Outcome::Failed {
            code: error.code(),
            message: error.to_string(),
            culprit: error.path().map(|path| path.display().to_string()),
            remedy: Some(error.remedy()),
        }
    }

    pub(crate) fn no_source(waited: Duration, troubles: &[String], condemned: bool) -> Self {
        let seconds = waited.as_secs();
        let (code, message, remedy) = if condemned {
            (
                Code::SourceChanged,
                "no peer delivers, and what the sources hold is not the file that this manifest describes".to_owned(),
                "ask the publisher for the current manifest, or name another source with --source or a peer with --peer",
            )
        } else {
            (
                Code::NoSource,
                format!(
                    "nobody delivered anything for {seconds} s: no peer holds what is missing and no source serves it"
                ),
                "name a peer with --peer HOST:PORT or a source with --source URL, or wait longer with --timeout; \
                 what was verified is kept and the next run goes on from there",
            )
        };
        let culprit = if troubles.is_empty() { None } else { Some(troubles.join("; ")) };
        Outcome::Failed { code, message, culprit, remedy: Some(remedy.to_owned()) }
    }
}

/// A snapshot of one share. Bytes are payload.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Verified bytes held now.
    pub bytes_held: u64,
    /// Of these, from peers in this run.
    pub bytes_from_peers: u64,
    /// Of these, over HTTP in this run.
    pub bytes_from_http: u64,
    /// Of those over HTTP, from cache hosts.
    pub bytes_from_cache_host: u64,
    /// Of these, held before this run.
    pub bytes_already_held: u64,
    /// Received in vain: duplicates, wrong bytes, unasked, cut.
    pub bytes_wasted: u64,
    /// Sent to peers in this run.
    pub bytes_to_peers: u64,
    /// From sources, of pieces that a connected peer held at that moment.
    pub bytes_http_with_peer_available: u64,
    /// Peers with a standing session.
    pub peers: usize,
    /// Peers that delivered within the last seconds.
    pub peers_active: usize,
    /// The network seems to isolate its machines: sources are asked without waiting for peers.
    pub isolated: bool,
    /// Sums of this run that never fall.
    pub moved: Moved,
    /// Set once failed.
    pub outcome: Option<Outcome>,
    /// What went wrong last with a supplier, where nothing has come since.
    pub trouble: Option<Arc<str>>,
    /// Every source there was is useless, and none is asked any more.
    pub sources_dropped: bool,
    /// When a byte came or went last; else when it was opened.
    pub moved_at: Instant,
    /// When peers were sent something last.
    pub sent_at: Option<Instant>,
    /// When this snapshot was made.
    pub(crate) told: Instant,
}

/// Counts what arrives.
pub(crate) struct Books {
    pub(crate) progress: Progress,
}

impl Books {
    pub(crate) fn new(manifest: &Manifest, held: &Bitfield, partial: &[(PieceIndex, Vec<BlockIndex>)]) -> Self {
        let layout = manifest.layout();
        let whole: u64 = held.iter_held().filter_map(|piece| layout.piece_length(piece)).sum();
        let started: u64 = partial
            .iter()
            .flat_map(|(piece, blocks)| blocks.iter().filter_map(|block| layout.block_length(*piece, *block)))
            .sum();
        let already = whole.saturating_add(started);
        Self {
            progress: Progress {
                phase: Phase::Downloading,
                bytes_total: layout.total_bytes(),
                bytes_held: already,
                bytes_from_peers: 0,
                bytes_from_http: 0,
                bytes_from_cache_host: 0,
                bytes_already_held: already,
                bytes_wasted: 0,
                bytes_to_peers: 0,
                bytes_http_with_peer_available: 0,
                peers: 0,
                peers_active: 0,
                isolated: false,
                moved: Moved::default(),
                outcome: None,
                trouble: None,
                sources_dropped: false,
                moved_at: Instant::now(),
                sent_at: None,
                told: Instant::now(),
            },
        }
    }

    /// Bytes were verified and stored; `cached`: from a cache host.
    pub(crate) fn stored(&mut self, supplier: Supplier, scope: Scope, bytes: u64, cached: bool) {
        let progress = &mut self.progress;
        progress.moved.stored(supplier, scope, bytes, cached);
        if cached {
            progress.bytes_from_cache_host = progress.bytes_from_cache_host.saturating_add(bytes);
        }
        progress.bytes_held = progress.bytes_held.saturating_add(bytes);
        let side = match supplier {
            Supplier::Peer(_) => &mut progress.bytes_from_peers,
            Supplier::Source(_) => &mut progress.bytes_from_http,
        };
        *side = side.saturating_add(bytes);
        (progress.moved_at, progress.trouble) = (Instant::now(), None);
    }

    /// Peers have been sent so many bytes in all.
    pub(crate) fn sent(&mut self, bytes: u64) {
        if self.progress.bytes_to_peers != bytes {
            self.progress.bytes_to_peers = bytes;
            let now = Instant::now();
            (self.progress.moved_at, self.progress.sent_at) = (now, Some(now));
        }
    }

    /// Bytes that were counted and are held no longer; they will arrive, and be counted, again.
    pub(crate) fn lost(&mut self, bytes: u64) {
        let progress = &mut self.progress;
        progress.bytes_held = progress.bytes_held.saturating_sub(bytes);
        let mut left = bytes;
        for side in [&mut progress.bytes_already_held, &mut progress.bytes_from_http, &mut progress.bytes_from_peers] {
            let taken = left.min(*side);
            *side -= taken;
            left -= taken;
        }
        progress.bytes_from_cache_host = progress.bytes_from_cache_host.min(progress.bytes_from_http);
        self.waste(Waste::Lost, bytes);
    }

    /// Bytes that came in vain.
    pub(crate) fn waste(&mut self, cause: Waste, bytes: u64) {
        self.progress.bytes_wasted = self.progress.bytes_wasted.saturating_add(bytes);
        self.progress.moved.wasted(cause, bytes);
    }

    pub(crate) fn count_peers(&mut self, peers: usize) {
        self.progress.peers = peers;
    }

    pub(crate) fn progress(&mut self, phase: Phase) -> Progress {
        self.progress.phase = phase;
        self.progress.told = Instant::now();
        self.progress.clone()
    }
}
