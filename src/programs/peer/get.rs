//! One download, from what a person names to verified files under their names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tokio::sync::watch;

use crate::content::code::Code;
use crate::content::manifest::Manifest;
use crate::content::trust::TrustStore;
use crate::drivers::sources::{self, Client, Gate};
use crate::drivers::store::{
    Download, DownloadOptions, Opened, PieceStore, Scratch, Seeding, StateDir, fresh_identity,
};
use crate::drivers::transport::{Identity, PathPreference, PeerId};
use crate::policy::of_line;
use crate::programs::peer::gates::watch_duties;
use crate::programs::peer::resolve::{Resolved, Wanted, fresh, from_file_or_url, from_peers, is_small};
use crate::programs::peer::sources::CacheHosts;
use crate::programs::peer::stream::{self, Sink, Streamed};
use crate::programs::peer::{Failure, sources as source_urls};
use crate::services::node::progress::{Outcome, Phase, Progress};
use crate::services::node::{self, Company, Node, PeerAddress, Share, ShareSpec};
use crate::swarm;

/// How many lying manifests are tried before a bare content id is given up.
const CONDEMNED_MAX: usize = 8;

/// What is wanted, and how.
pub struct Request {
    /// Manifest, URL or link.
    pub wanted: Wanted,
    /// Where to; a folder means inside it; unset: a name from the manifest, or the content id.
    pub out: Option<PathBuf>,
    /// Who reads it while it comes; `out` then means nothing.
    pub sink: Option<Sink>,
    /// Peers to dial.
    pub peers: Vec<PeerAddress>,
    /// URLs to use instead of the manifest's.
    pub sources: Vec<String>,
    /// Whom to meet.
    pub company: Company,
    /// Where to accept peers.
    pub listen: Vec<SocketAddr>,
    /// Any free port will do where those are taken.
    pub any_port_if_taken: bool,
    /// Serve on after the download until stopped.
    pub keep_seeding: bool,
    /// How long nobody may deliver before it fails.
    pub timeout: Duration,
    /// Replace another file at the destination.
    pub force: bool,
    /// Threads that verify, read and write.
    pub disk_threads: usize,
    /// The site that policy names, as the word that peers are told.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Bytes below which a lone file comes over HTTP, unless peers are named.
    pub min_file_size: u64,
    /// How old a manifest may be.
    pub max_age: Option<Duration>,
    /// Hosts that are asked before origins.
    pub cache_hosts: CacheHosts,
    /// Engine settings from policy.
    pub swarm: swarm::Options,
    /// Which way to peers.
    pub path: PathPreference,
    /// Rates that policy sets.
    pub rates: node::Rates,
    /// Per cents of the line that what somebody waits for may take, and what nobody waits for.
    pub line_percents: (u32, u32),
    /// `/`, or a folder that plays the machine in trials.
    pub machine: PathBuf,
}

/// What a person is told on the way.
pub enum News<'a> {
    /// One address at which this node accepts peers.
    Listening(&'a Multiaddr),
    /// The manifest is known and trusted; where it goes, and whether it was there already.
    Known {
        /// What.
        manifest: &'a Manifest,
        /// Where to.
        out: &'a Path,
    },
    /// How it goes.
    Progress(&'a Progress),
    /// An existing destination is being compared, bytes so far.
    Comparing(u64),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Summary {
    /// What.
    pub manifest: Manifest,
    /// Where it is now.
    pub out: PathBuf,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Of these, from peers.
    pub bytes_from_peers: u64,
    /// Of these, over HTTP.
    pub bytes_from_http: u64,
    /// Of those over HTTP, from cache hosts.
    pub bytes_from_cache_host: u64,
    /// Of these, held before.
    pub bytes_already_held: u64,
    /// Received in vain.
    pub bytes_wasted: u64,
    /// From the start to the renamed file.
    pub duration: Duration,
    /// How its reader was served, where it was read while it came.
    pub streamed: Option<Streamed>,
}

/// A finished download whose node may go on serving.
pub struct Got {
    /// The figures.
    pub summary: Summary,
    node: Option<Node>,
    share: Option<Share>,
}

impl Got {
    /// Serves until `stop` completes, then says goodbye.
    pub async fn serve_until(self, stop: impl Future<Output = ()>) {
        if self.node.is_some() {
            stop.await;
        }
        self.leave().await;
    }

    /// Says goodbye.
    pub async fn leave(self) {
        if let Some(share) = &self.share {
            share.stop().await;
        }
        if let Some(node) = &self.node {
            node.stop().await;
        }
    }
}

/// Runs one download to its end. Cancelling the future between two awaits loses nothing that was verified and synced.
///
/// # Errors
/// A [`Failure`] with code word, culprit and remedy.
pub async fn get(
    request: Request,
    trust: &TrustStore,
    state: &Arc<StateDir>,
    tell: &mut (dyn FnMut(News<'_>) + Send),
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Got, Failure> {
    let began = Instant::now();
    let mut manifest_gate = Gate::default();
    if let Wanted::Url(url) = &request.wanted
        && let Ok(source) = sources::Source::new(url)
    {
        manifest_gate.give(source.url());
    }
    let http = Client::new(sources::Options { gate: manifest_gate, ..sources::Options::default() });
    let resolved = from_file_or_url(&request.wanted, &http, trust, state).await?;
    let mut node = None;
    let named = request.peers.clone();
    if request.company.peers {
        // A local manifest is judged, and its destination looked at, before any socket is opened.
        if let Some(resolved) = &resolved {
            check_destination(&request, &resolved.manifest)?;
        }
        node = Some(start(&request, state).await?);
    }
    let mut first_attempts: Vec<_> = Vec::new();
    if let Some(node) = &node {
        if request.keep_seeding {
            node.listening().iter().for_each(|address| tell(News::Listening(address)));
        }
        let link_peers = match &request.wanted {
            Wanted::Link(link) => link.peers.iter().filter_map(|peer| peer.parse().ok()).collect(),
            _ => Vec::new(),
        };
        for address in named.into_iter().chain(link_peers) {
            first_attempts.push(node.keep_peer(address));
        }
    }
    let mut condemned = Vec::new();
    let mut resolved = resolved;
    loop {
        let known = match (&request.wanted, resolved.take()) {
            (_, Some(resolved)) => resolved,
            (Wanted::Link(link), None) => {
                let node = node.as_ref().ok_or_else(|| {
                    Failure::new(Code::Usage, "a link needs peers, and this mode, or this network, allows none")
                        .remedy("use another --mode, or name the manifest's file or URL")
                })?;
                tokio::select! {
                    found = from_peers(node, link, trust, state, request.timeout, &condemned) => found?,
                    () = &mut *interrupted => return Err(interruption()),
                }
            }
            (_, None) => return Err(Failure::new(Code::InputMissing, "no manifest")),
        };
        match download(
            &request,
            known,
            node.as_ref(),
            std::mem::take(&mut first_attempts),
            tell,
            interrupted,
            state,
            began,
        )
        .await
        {
            Ok((summary, share)) => return Ok(Got { summary, node, share }),
            Err(Ended::Condemned(Some(giver))) if condemned.len() < CONDEMNED_MAX => condemned.push(giver),
            Err(ended) => {
                if let Some(node) = &node {
                    node.stop().await;
                }
                return Err(match ended {
                    Ended::Condemned(_) => Outcome::Condemned.into(),
                    Ended::Failed(failure) => failure,
                });
            }
        }
    }
}

fn interruption() -> Failure {
    Failure::new(Code::Interrupted, "stopped before it was complete")
        .remedy("run the same command again: what was verified is kept, and it goes on from there")
}

async fn start(request: &Request, state: &Arc<StateDir>) -> Result<Node, Failure> {
    let mut seed = fresh_identity()?;
    let options = node::Options {
        identity: Identity::from_seed(&mut seed),
        listen: request.listen.clone(),
        any_port_if_taken: request.any_port_if_taken,
        company: request.company.clone(),
        site: request.site,
        peers_max: node::PEERS_MAX,
        disk_threads: request.disk_threads,
        path: request.path,
        rates: request.rates,
        state: Some(Arc::clone(state)),
        rendezvous: false,
        machine: request.machine.clone(),
    };
    let node = Node::start(options).await?;
    limit(&node, request);
    watch_duties(&node, request.machine.clone()).await;
    Ok(node)
}

/// Keeps to what policy leaves of the line, as far as its rate is known from before.
fn limit(node: &Node, request: &Request) {
    let ((foreground, background), line) = (request.line_percents, node.line_rate());
    let (foreground_outside, background_outside) = (of_line(foreground, line), of_line(background, line));
    node.limit(&node::Rates { foreground_outside, background_outside, ..request.rates });
}

enum Ended {
    Failed(Failure),
    /// The manifest was a lie; who gave it.
    Condemned(Option<PeerId>),
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended::Failed(error.into())
    }
}

/// The path that `-o` and the manifest give together, absolute.
pub(crate) fn destination(out: Option<&Path>, manifest: &Manifest) -> Result<PathBuf, Failure> {
    let own_name = || match (manifest.files(), manifest.is_directory()) {
        (_, true) | ([_, _, ..], _) => {
            manifest.name().rsplit('/').find(|part| !part.is_empty()).unwrap_or("content").to_owned()
        }
        ([file], false) => file.path.file_name().to_owned(),
        ([], false) => "content".to_owned(),
    };
    let safe_name = || {
        let name = own_name();
        if name == "." || name == ".." || name.contains('/') { "content".to_owned() } else { name }
    };
    let out = match out {
        Some(out) if out.is_dir() && !manifest.is_directory() => out.join(safe_name()),
        Some(out) if out.is_dir() && out.as_os_str().to_string_lossy().ends_with('/') => out.join(safe_name()),
        Some(out) => out.to_owned(),
        None => PathBuf::from(safe_name()),
    };
    std::path::absolute(&out).map_err(|error| Failure::input(&out, &error))
}

fn check_destination(request: &Request, manifest: &Manifest) -> Result<(), Failure> {
    if request.sink.is_some() {
        return stream::check(manifest);
    }
    let out = destination(request.out.as_deref(), manifest)?;
    let parent = out.parent().unwrap_or(&out);
    if !parent.is_dir() {
        return Err(Failure::new(Code::CannotCreate, format!("the folder {} does not exist", parent.display()))
            .culprit(parent.display().to_string())
            .remedy("create it, or name another destination with -o"));
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
async fn download(
    request: &Request,
    known: Resolved,
    node: Option<&Node>,
    first_attempts: Vec<impl Future<Output = ()> + Send + 'static>,
    tell: &mut (dyn FnMut(News<'_>) + Send),
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
    state: &Arc<StateDir>,
    began: Instant,
) -> Result<(Summary, Option<Share>), Ended> {
    fresh(&known, state, request.max_age)?;
    let manifest = known.manifest.clone();
    let out = match &request.sink {
        Some(_) => stream::check(&manifest).map(|()| PathBuf::from("-")),
        None => destination(request.out.as_deref(), &manifest),
    }?;
    tell(News::Known { manifest: &manifest, out: &out });
    let owned;
    let node = match node {
        Some(node) => node,
        None => {
            // Mode http-only: the same engine without sockets for peers.
            let mut seed = fresh_identity().map_err(Failure::from)?;
            owned = Node::start(node::Options {
                identity: Identity::from_seed(&mut seed),
                listen: Vec::new(),
                any_port_if_taken: false,
                company: Company { peers: false, ..Company::default() },
                site: request.site,
                peers_max: node::PEERS_MAX,
                disk_threads: request.disk_threads,
                path: request.path,
                rates: request.rates,
                state: Some(Arc::clone(state)),
                rendezvous: false,
                machine: request.machine.clone(),
            })
            .await
            .map_err(Failure::from)?;
            limit(&owned, request);
            &owned
        }
    };
    let store = open_store(node, request, &known, &out, state, tell, interrupted).await?;
    let peers = request.company.peers;
    let mut named_sources = request.sources.clone();
    if named_sources.is_empty()
        && let Wanted::Link(link) = &request.wanted
    {
        named_sources.extend(link.sources.iter().cloned());
    }
    let from_link = request.sources.is_empty() && !named_sources.is_empty();
    let finds = request.company.cache_hosts && named_sources.is_empty();
    let cache_hosts = request.cache_hosts.with_found(finds, request.company.awaits_cache_hosts, &manifest, node).await;
    let sources = match source_urls::of(&manifest, known.trusted.as_ref(), &named_sources, &cache_hosts) {
        Err(_) if from_link => source_urls::of(&manifest, known.trusted.as_ref(), &[], &cache_hosts),
        other => other,
    }?;
    let named = !request.peers.is_empty() || matches!(&request.wanted, Wanted::Link(link) if !link.peers.is_empty());
    let peers = peers && (named || !is_small(&manifest, request.min_file_size, !sources.is_empty()));
    let spec = ShareSpec {
        manifest: manifest.clone(),
        envelope: known.envelope,
        giver: known.giver,
        store: Arc::clone(&store),
        sources,
        peers,
        timeout: Some(request.timeout),
        swarm: request.swarm.clone(),
    };
    let share = node.share(spec).map_err(Failure::from)?;
    let settle = share.clone();
    tokio::spawn(async move {
        settle
            .settle(async {
                for attempt in first_attempts {
                    attempt.await;
                }
            })
            .await;
    });
    let followed = match &request.sink {
        None => follow(&share, tell, interrupted).await.map(|progress| (progress, None)),
        Some(sink) => {
            let reading = std::pin::pin!(stream::run(node, &share, &store, sink));
            follow_reader(&share, reading, tell, interrupted).await
        }
    };
    // What it has shown of the line is remembered.
    node.line_rate();
    let (progress, streamed) = match followed {
        Ok(followed) => followed,
        Err(failure) => {
            share.stop().await;
            return Err(failure.into());
        }
    };
    if streamed.is_none()
        && let Some(outcome) = progress.outcome.clone()
    {
        share.stop().await;
        return Err(match outcome {
            Outcome::Condemned => Ended::Condemned(known.giver),
            failed @ Outcome::Failed { .. } => Ended::Failed(failed.into()),
        });
    }
    let summary = Summary {
        manifest,
        out,
        bytes_total: progress.bytes_total,
        bytes_from_peers: progress.bytes_from_peers,
        bytes_from_http: progress.bytes_from_http,
        bytes_from_cache_host: progress.bytes_from_cache_host,
        bytes_already_held: progress.bytes_already_held,
        bytes_wasted: progress.bytes_wasted,
        duration: began.elapsed(),
        streamed,
    };
    Ok((summary, Some(share)))
}

/// Opens the destination on a disk thread, which may have to hash what lies there; that is told, and can be interrupted.
async fn open_store(
    node: &Node,
    request: &Request,
    known: &Resolved,
    out: &Path,
    state: &Arc<StateDir>,
    tell: &mut (dyn FnMut(News<'_>) + Send),
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Arc<dyn PieceStore>, Failure> {
    if request.sink.is_some() {
        let (state, manifest) = (Arc::clone(state), known.manifest.clone());
        return Ok(Arc::new(node.disk().run(move || Scratch::create(&state, manifest)).await??));
    }
    let (hashed, mut hashing) = watch::channel(0);
    let (job_state, job_out, job_manifest) = (Arc::clone(state), out.to_owned(), known.manifest.clone());
    let (job_envelope, force) = (Arc::clone(&known.envelope), request.force);
    let open = move || {
        let options = DownloadOptions {
            state: &job_state,
            out: &job_out,
            manifest: job_manifest,
            envelope: &job_envelope,
            force,
        };
        Download::open(options, &mut |progress| _ = hashed.send_replace(progress.done_bytes))
    };
    let mut opening = std::pin::pin!(node.disk().run(open));
    let opened = loop {
        tokio::select! {
            opened = &mut opening => break opened?,
            Ok(()) = hashing.changed() => tell(News::Comparing(*hashing.borrow_and_update())),
            () = &mut *interrupted => return Err(interruption()),
        }
    };
    Ok(match opened? {
        Opened::Ready(download) => Arc::<Download>::from(download),
        Opened::AlreadyThere => Arc::new(Seeding::open(out, known.manifest.clone())?),
    })
}

/// The same until the reader has everything or wants no more; the download may be whole long before.
async fn follow_reader(
    share: &Share,
    mut reading: Pin<&mut (impl Future<Output = Result<Streamed, Failure>> + Send)>,
    tell: &mut (dyn FnMut(News<'_>) + Send),
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<(Progress, Option<Streamed>), Failure> {
    let streamed = tokio::select! {
        streamed = &mut reading => streamed?,
        followed = follow(share, tell, interrupted) => {
            let progress = followed?;
            if progress.outcome.is_some() {
                return Ok((progress, None));
            }
            tokio::select! {
                streamed = &mut reading => streamed?,
                () = &mut *interrupted => return Err(interruption()),
            }
        }
    };
    let progress = share.progress().borrow().clone();
    Ok((progress, Some(streamed)))
}

/// Passes progress on until the share is complete or has failed.
async fn follow(
    share: &Share,
    tell: &mut (dyn FnMut(News<'_>) + Send),
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Progress, Failure> {
    let mut progress = share.progress();
    loop {
        let seen = progress.borrow_and_update().clone();
        tell(News::Progress(&seen));
        if seen.phase != Phase::Downloading {
            return Ok(seen);
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() {
                return Err(Failure::new(Code::Io, "the download ended without a word").remedy("run it again with -v"));
            },
            () = &mut *interrupted => return Err(interruption()),
        }
    }
}
