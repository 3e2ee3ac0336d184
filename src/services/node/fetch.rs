//! HTTP ranges: what the engine orders, carried out, verified like anything else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::content::layout::{BlockIndex, ByteRange, FilePlace, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::sources::{Body, Client, Error as SourceError, Source};
use crate::drivers::store::BlockBuf;
use crate::services::node::Inner;
use crate::services::node::cache_hosts::{CachePatience, Turns};
use crate::services::node::handle::{ShareEvent, ShareHandle};
use crate::services::node::receive::{Pulse, admit, admit_piece, room_to_write};
use crate::swarm::event::{Event, FetchId, SourceFault, SourceKey, Supplier};
use prost::bytes::Bytes;

/// The URLs of a manifest's files, by host: what the engine sees as one source each; and the client whose gate they
/// pass.
#[derive(Default)]
pub struct FetchSources {
    client: Option<Arc<Client>>,
    hosts: Vec<Host>,
    /// Cache hosts, in the order in which they are asked.
    cache_hosts: Vec<Host>,
    patience: CachePatience,
}

struct Host {
    name: String,
    /// By file of the manifest.
    urls: BTreeMap<u32, Arc<Source>>,
    dropped: Option<SourceFault>,
}

impl FetchSources {
    /// No source yet.
    pub fn new(client: Client) -> Self {
        Self { client: Some(Arc::new(client)), ..Self::default() }
    }

    /// How long cache hosts may bring nothing.
    pub fn cache_patience(&mut self, patience: CachePatience) {
        self.patience = patience;
    }

    /// Adds one URL of one file at a cache host, which is asked after those added before and before any origin.
    pub fn add_cache_host(&mut self, cache_host: &str, file: u32, source: Source) {
        let urls = match self.cache_hosts.iter_mut().find(|host| host.name == cache_host) {
            Some(host) => &mut host.urls,
            None => {
                self.cache_hosts.push(Host { name: cache_host.to_owned(), urls: BTreeMap::new(), dropped: None });
                match self.cache_hosts.last_mut() {
                    Some(host) => &mut host.urls,
                    None => return,
                }
            }
        };
        urls.entry(file).or_insert_with(|| Arc::new(source));
    }

    /// Adds one URL of one file.
    pub fn add(&mut self, file: u32, source: Source) {
        let name = source.url().host_str().unwrap_or_default().to_owned()
            + &source.url().port().map(|port| format!(":{port}")).unwrap_or_default();
        let urls = match self.hosts.iter_mut().find(|host| host.name == name && !host.urls.contains_key(&file)) {
            Some(host) => &mut host.urls,
            None => {
                self.hosts.push(Host { name, urls: BTreeMap::new(), dropped: None });
                match self.hosts.last_mut() {
                    Some(host) => &mut host.urls,
                    None => return,
                }
            }
        };
        urls.insert(file, Arc::new(source));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// The fetches of one share.
pub(crate) struct Fetches {
    client: Option<Arc<Client>>,
    /// Cache hosts first.
    hosts: Vec<Host>,
    running: BTreeMap<FetchId, (SourceKey, watch::Sender<bool>)>,
    turns: Turns,
    patience: CachePatience,
}

impl Fetches {
    pub(crate) fn new(sources: FetchSources) -> Self {
        let turns = Turns::new(sources.cache_hosts.len(), sources.patience.found);
        let hosts = sources.cache_hosts.into_iter().chain(sources.hosts).collect();
        Self { client: sources.client, hosts, running: BTreeMap::new(), turns, patience: sources.patience }
    }

    /// What the engine is offered now: each host with the flat pieces it can deliver.
    pub(crate) fn offers_of(&self, manifest: &Manifest) -> Vec<(SourceKey, Vec<Range<u32>>)> {
        let mut offers = Vec::new();
        let asked = self.turns.asked(self.hosts.len());
        for (number, host) in (0u32..).zip(&self.hosts).skip(asked.start).take(asked.len()) {
            let mut pieces: Vec<Range<u32>> = Vec::new();
            for place in manifest.layout().places().iter().filter(|place| host.urls.contains_key(&place.file)) {
                let range = flat_range(place);
                match pieces.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => pieces.push(range),
                }
            }
            offers.push((SourceKey(number), pieces));
        }
        offers
    }

    /// A source for people: its URL where it has one only, else its host.
    pub(crate) fn host(&self, source: SourceKey) -> Option<String> {
        let host = self.hosts.get(source.0 as usize)?;
        match host.urls.len() {
            1 => host.urls.values().next().map(|source| source.shown()),
            _ => Some(host.name.clone()),
        }
    }

    pub(crate) fn dropped(&mut self, source: SourceKey, fault: SourceFault) {
        if let Some(host) = self.hosts.get_mut(source.0 as usize) {
            host.dropped = Some(fault);
        }
        self.turns.ended(source.0 as usize, Some(fault), false);
    }

    /// Every source was found useless. `background`: nobody waits for the download.
    pub(crate) fn all_dropped(&self, background: bool) -> bool {
        let asked = self.turns.asked(self.hosts.len());
        let mut hosts = self.hosts.iter().skip(asked.start).take(asked.len());
        let last = self.turns.is_last(self.patience.of(background));
        !self.hosts.is_empty() && last && hosts.all(|host| host.dropped.is_some())
    }

    /// Whether a source is a cache host.
    pub(crate) fn is_cache_host(&self, source: SourceKey) -> bool {
        self.turns.is_cache_host(source.0 as usize)
    }

    /// A source has brought so many bytes.
    pub(crate) fn brought(&mut self, source: SourceKey, bytes: u64) {
        let more = self.is_running(source);
        self.turns.brought(source.0 as usize, bytes, more, Instant::now());
    }

    /// A range has ended.
    pub(crate) fn ended(&mut self, fetch: FetchId, fault: Option<SourceFault>) {
        if let Some((source, _)) = self.running.remove(&fetch) {
            self.turns.ended(source.0 as usize, fault, self.is_running(source));
        }
    }

    fn is_running(&self, source: SourceKey) -> bool {
        self.running.values().any(|(of, _)| *of == source)
    }

    /// Turns from a cache host to what comes after it, where it is time; returns the one that is asked no more.
    pub(crate) fn next_cache_host(&mut self, background: bool) -> Option<SourceKey> {
        let left = self.turns.next(self.patience.of(background), Instant::now())?;
        u32::try_from(left).ok().map(SourceKey)
    }

    /// One source at least holds another file.
    pub(crate) fn condemned(&self) -> bool {
        self.hosts.iter().any(|host| host.dropped == Some(SourceFault::Changed))
    }

    pub(crate) fn start(
        &mut self,
        node: &Arc<Inner>,
        share: &Arc<ShareHandle>,
        fetch: FetchId,
        source: SourceKey,
        pieces: Range<u32>,
        background: bool,
    ) {
        tracing::debug!(content = %share.name(), ?pieces, "range asked for");
        let (cancel, cancelled) = watch::channel(false);
        self.running.insert(fetch, (source, cancel));
        self.turns.asks(source.0 as usize, Instant::now());
        let place = share.manifest().layout().locate(PieceIndex(pieces.start)).map(|(place, _)| *place);
        let url = place
            .and_then(|place| self.hosts.get(source.0 as usize).and_then(|host| host.urls.get(&place.file)).cloned());
        let client = self.client.clone();
        let cached = self.is_cache_host(source);
        let job = Job { node: Arc::clone(node), share: Arc::clone(share), fetch, source, background, cached };
        tokio::spawn(async move {
            let ended = match (client, place, url) {
                (Some(client), Some(place), Some(url)) => job.run(&client, &place, &url, pieces, cancelled).await,
                _ => Err(None),
            };
            let (fault, retry_after) = match ended {
                Ok(()) => (None, None),
                Err(Some(error)) => {
                    let fault = error.fault();
                    job.share.post(ShareEvent::SourceTrouble { text: error.to_string() }).await;
                    (Some(fault), error.retry_after())
                }
                Err(None) => (Some(SourceFault::Truncated), None),
            };
            job.share.tell(Event::FetchEnded { fetch, fault, retry_after }).await;
        });
    }

    pub(crate) fn cancel(&mut self, fetch: FetchId) {
        if let Some((_, cancel)) = self.running.remove(&fetch) {
            cancel.send_replace(true);
        }
    }

    pub(crate) fn cancel_all(&mut self) {
        for (_, cancel) in std::mem::take(&mut self.running).into_values() {
            cancel.send_replace(true);
        }
    }
}

fn flat_range(place: &FilePlace) -> Range<u32> {
    place.first_piece..place.first_piece.saturating_add(place.layout.piece_count())
}

struct Job {
    node: Arc<Inner>,
    share: Arc<ShareHandle>,
    fetch: FetchId,
    source: SourceKey,
    /// Nobody waits for it.
    background: bool,
    /// From a cache host.
    cached: bool,
}

/// Well where every block was handed on, or the fetch was cancelled; else the source's error, or none where the body just
/// ended too early.
type Ended = Result<(), Option<SourceError>>;

impl Job {
    async fn run(
        &self,
        client: &Client,
        place: &FilePlace,
        url: &Source,
        pieces: Range<u32>,
        mut cancelled: watch::Receiver<bool>,
    ) -> Ended {
        let first = place.layout.piece(PieceIndex(pieces.start.saturating_sub(place.first_piece)));
        let last_within = pieces.end.saturating_sub(place.first_piece).saturating_sub(1);
        let last = place.layout.piece(PieceIndex(last_within));
        let (Some(first), Some(last)) = (first, last) else { return Err(None) };
        let range = ByteRange { offset: first.offset, length: last.end().saturating_sub(first.offset) };
        let began = Instant::now();
        let opened = tokio::select! {
            opened = client.open(url, range, place.layout.length()) => opened,
            _ = cancelled.wait_for(|cancelled| *cancelled) => return Ok(()),
        };
        let mut body = opened.map_err(Some)?;
        self.node.latencies.source.note(began.elapsed());
        let ends = body.ends().filter(|_| self.background);
        let _yields = ends.and_then(|(local, remote)| self.node.yielding.hold(local, remote));
        let mut from = pieces.start;
        let mut to = pieces.end;
        if body.is_whole_file() || body.start() != range.offset {
            let all = flat_range(place);
            (from, to) = (all.start, all.end);
            let (source, fetch) = (self.source, self.fetch);
            self.share.tell(Event::SourceWithoutRanges { source, fetch, pieces: all }).await;
        }
        // Every job on a disk thread holds a sender; the last one dropped says that all of them have reported.
        let (pending, mut reported) = mpsc::channel::<()>(1);
        let mut result = Ok(());
        let mut rest = Rest::default();
        for piece in from..to {
            let copied = tokio::select! {
                copied = self.piece(place, PieceIndex(piece), &mut body, &mut rest, &pending) => Some(copied),
                _ = cancelled.wait_for(|cancelled| *cancelled) => None,
            };
            let Some(copied) = copied else {
                self.share.post(ShareEvent::HttpWaste { bytes: rest.unused() }).await;
                break;
            };
            if let Err(error) = copied {
                self.share.post(ShareEvent::HttpWaste { bytes: rest.in_piece }).await;
                result = Err(error);
                break;
            }
            if piece + 1 == to {
                // The end of the body tells whether the server kept to what it promised, and frees the connection.
                result = body.chunk().await.map(|_| ()).map_err(Some);
            }
        }
        drop(pending);
        let _ = reported.recv().await;
        result
    }

    /// Takes one piece off the body and hands its blocks on.
    async fn piece(
        &self,
        place: &FilePlace,
        piece: PieceIndex,
        body: &mut Body,
        rest: &mut Rest,
        pending: &mpsc::Sender<()>,
    ) -> Ended {
        rest.in_piece = 0;
        let within = PieceIndex(piece.0.saturating_sub(place.first_piece));
        let block_count = place.layout.block_count(within).unwrap_or(0);
        let supplier = Supplier::Source(self.source);
        // One large piece in memory at a time: two half-read ones could wait for each other's buffers.
        let _large = if block_count > 1 { Some(self.node.large_piece.lock().await) } else { None };
        let pool = if block_count > 1 { &self.node.large_pool } else { &self.node.receive_pool };
        let mut blocks = Vec::with_capacity(block_count as usize);
        for block in 0..block_count {
            let length = place.layout.block(within, BlockIndex(block)).map_or(0, |range| range.length);
            let mut buffer = pool.acquire().await.map_err(|_| None)?;
            buffer.set_length(usize::try_from(length).unwrap_or(0));
            self.fill(body, rest, &mut buffer).await?;
            blocks.push(buffer);
        }
        if self.share.store().held().has(piece) {
            let bytes = blocks.iter().map(|block| block.as_ref().len() as u64).sum();
            self.share.post(ShareEvent::HttpWaste { bytes }).await;
        } else if block_count == 1 {
            if let Some(buffer) = blocks.pop() {
                let room = room_to_write(&self.node, &buffer).await.ok_or(None)?;
                let pending = Some(pending.clone());
                admit(&self.node, &self.share, supplier, piece, BlockIndex(0), None, buffer, room, pending);
            }
        } else {
            admit_piece(&self.node, &self.share, supplier, piece, blocks, pending.clone());
        }
        rest.in_piece = 0;
        Ok(())
    }

    /// Fills a buffer from the body.
    async fn fill(&self, body: &mut Body, rest: &mut Rest, buffer: &mut BlockBuf) -> Ended {
        let supplier = Supplier::Source(self.source);
        let mut pulse = Pulse::new();
        let mut filled = 0;
        while let Some(left) = buffer.filled_mut().get_mut(filled..).filter(|left| !left.is_empty()) {
            if rest.chunk.is_empty() {
                rest.chunk = body.chunk().await.map_err(Some)?.ok_or(None)?;
                continue;
            }
            let taken = rest.chunk.split_to(left.len().min(rest.chunk.len()));
            if let Some(target) = left.get_mut(..taken.len()) {
                target.copy_from_slice(&taken);
            }
            self.node.came(&self.share, taken.len() as u64).await;
            // A cache host stands in the house.
            if !self.cached {
                self.node.came_from_outside(&self.share, taken.len() as u64).await;
            }
            filled += taken.len();
            rest.in_piece = rest.in_piece.saturating_add(taken.len() as u64);
            if let Some(bytes) = pulse.beat(filled) {
                self.share.tell(Event::Receiving { supplier, bytes }).await;
            }
        }
        Ok(())
    }
}

/// What a chunk held beyond the buffer it was for, and what the piece under way has so far.
#[derive(Default)]
struct Rest {
    chunk: Bytes,
    in_piece: u64,
}

impl Rest {
    fn unused(&self) -> u64 {
        self.in_piece.saturating_add(self.chunk.len() as u64)
    }
}
