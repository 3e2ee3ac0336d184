//! `get` through the running daemon: it fetches into its cache, once for all who want the content; trust is judged here,
//! with this user's trust store, and the result comes through open files that the daemon passes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cli::error::CliError;
use crate::content::code::Code;
use crate::content::link::Link;
use crate::content::manifest::Manifest;
use crate::content::trust::TrustStore;
use crate::drivers::sources::{self, Gate, Source};
use crate::drivers::store::StateDir;
use crate::programs::peer::deliver::{Begun, Delivery};
use crate::programs::peer::get::Summary;
use crate::programs::peer::{Failure, Resolved, Wanted, accept, fresh, from_file_or_url};
use crate::surfaces::control::{Client, Events};

/// What is asked for, and what goes with it.
pub struct Request {
    /// What.
    pub wanted: Wanted,
    /// Peers to ask, as they were named.
    pub peers: Vec<String>,
    /// Where to; a folder means inside it.
    pub out: Option<PathBuf>,
    /// Replace another file at the destination.
    pub force: bool,
    /// Nobody waits for it.
    pub background: bool,
    /// When it should be there, from now on.
    pub within: Option<Duration>,
    /// How long nobody may deliver before it fails.
    pub timeout: Duration,
    /// Whom this user believes.
    pub trust: TrustStore,
    /// This user's state.
    pub state: Arc<StateDir>,
    /// How old a manifest may be.
    pub max_age: Option<Duration>,
}

/// How far it is, in bytes, as the daemon counts them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Bytes of all files.
    pub total: u64,
    /// Verified bytes that the daemon holds.
    pub held: u64,
    /// Of these, from peers, since this was asked for.
    pub from_peers: u64,
    /// Of these, over HTTP, since then.
    pub from_http: u64,
    /// Of those over HTTP, from cache hosts.
    pub from_cache_host: u64,
    /// Received in vain, since then.
    pub wasted: u64,
    /// Peers with a standing session.
    pub peers: u64,
    /// Peers that delivered within the last seconds.
    pub peers_active: u64,
}

/// What a person is told on the way.
pub enum News<'a> {
    /// What it is, and where it goes.
    Known(&'a Manifest, &'a std::path::Path),
    /// The daemon fetches; how it goes, and in one word what it does.
    Fetching(Figures, &'a str),
    /// It is here; bytes checked and written so far.
    Writing(u64),
    /// What lies at the destination is compared; bytes so far.
    Comparing(u64),
}

/// Why it did not come through the daemon.
pub enum Stopped {
    /// The daemon does not do it, for this reason; without it, it may work.
    NotHere(String),
    /// It failed.
    Failed(CliError),
}

impl<E: Into<CliError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Stopped::Failed(error.into())
    }
}

type Tell<'a> = &'a mut (dyn FnMut(News<'_>) + Send);

/// Runs it to its end; `interrupted` lets go of the download.
///
/// # Errors
/// See [`Stopped`].
pub async fn get(
    client: &Client,
    request: Request,
    tell: Tell<'_>,
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Summary, Stopped> {
    let began = Instant::now();
    let known = resolve(&request).await?;
    let mut delivery = None;
    if let Some(known) = &known {
        // Judged, and its destination looked at, before anybody is asked.
        match begin(&request, known, tell, interrupted).await? {
            Begun::Ready(ready) => delivery = Some(ready),
            Begun::AlreadyThere(out) => return Ok(already_there(known, out, began)),
        }
    }
    let mut body = json!({ "peers": request.peers, "background": request.background });
    if let Some(within) = request.within {
        body["within"] = u32::try_from(within.as_secs()).unwrap_or(u32::MAX).into();
    }
    match (&request.wanted, &known) {
        (_, Some(known)) => body["envelope"] = BASE64.encode(&known.envelope).into(),
        (wanted, None) => body["wanted"] = wanted.label().into(),
    }
    let refused = |error: crate::surfaces::control::Error| Stopped::NotHere(error.to_string());
    let mut wait = Wait::new(client.follow("/v1/holds", &body).await.map_err(refused)?);
    drop(body);
    let held_here = delivery.as_ref().map_or(0, Delivery::bytes_held);
    wait.until(&request, tell, interrupted, |seen| seen["manifest_id"].is_string()).await?;
    let known = match known {
        Some(known) => known,
        None => {
            wait.until(&request, tell, interrupted, |seen| !seen["bytes_total"].is_null()).await?;
            ask_manifest(client, &request, wait.number()).await?
        }
    };
    let delivery = match delivery {
        Some(delivery) => delivery,
        None => match begin(&request, &known, tell, interrupted).await? {
            Begun::Ready(ready) => ready,
            Begun::AlreadyThere(out) => return Ok(already_there(&known, out, began)),
        },
    };
    wait.until(&request, tell, interrupted, |seen| !seen["bytes_total"].is_null()).await?;
    if held_here > wait.figures.held {
        return Err(Stopped::NotHere("an earlier run has more of it than the daemon".to_owned()));
    }
    wait.until(&request, tell, interrupted, |seen| seen["status"] == "complete").await?;
    let out = take(client, &wait, &known.manifest, delivery, tell, interrupted).await?;
    let (figures, total) = (wait.figures, known.manifest.layout().total_bytes());
    Ok(Summary {
        out,
        bytes_total: total,
        bytes_from_peers: figures.from_peers,
        bytes_from_http: figures.from_http,
        bytes_from_cache_host: figures.from_cache_host,
        bytes_already_held: total.saturating_sub(figures.from_peers).saturating_sub(figures.from_http),
        bytes_wasted: figures.wasted,
        duration: began.elapsed(),
        streamed: None,
        manifest: known.manifest,
    })
}

fn already_there(known: &Resolved, out: PathBuf, began: Instant) -> Summary {
    let total = known.manifest.layout().total_bytes();
    Summary {
        manifest: known.manifest.clone(),
        out,
        bytes_total: total,
        bytes_from_peers: 0,
        bytes_from_http: 0,
        bytes_from_cache_host: 0,
        bytes_already_held: total,
        bytes_wasted: 0,
        duration: began.elapsed(),
        streamed: None,
    }
}

/// The manifest behind a file or a URL, judged; `None` for a link.
async fn resolve(request: &Request) -> Result<Option<Resolved>, Failure> {
    let mut gate = Gate::default();
    if let Wanted::Url(url) = &request.wanted
        && let Ok(source) = Source::new(url)
    {
        gate.give(source.url());
    }
    let http = sources::Client::new(sources::Options { gate, ..sources::Options::default() });
    from_file_or_url(&request.wanted, &http, &request.trust, &request.state).await
}

/// The manifest that the daemon found for a link, judged here.
async fn ask_manifest(client: &Client, request: &Request, number: u64) -> Result<Resolved, Stopped> {
    let answer = client.get(&format!("/v1/downloads/{number}/manifest")).await?;
    let envelope = answer["envelope"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let envelope = envelope.ok_or_else(|| CliError::new(Code::Protocol, "the daemon's manifest is not base64"))?;
    let Wanted::Link(Link { target, .. }) = &request.wanted else {
        return Err(CliError::new(Code::Protocol, "the daemon found a manifest that was not asked for").into());
    };
    Ok(accept(target, &envelope, "the daemon", &request.trust, &request.state)?)
}

/// Opens the destination on a thread that may wait.
async fn begin(
    request: &Request,
    known: &Resolved,
    tell: Tell<'_>,
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Begun, Stopped> {
    fresh(known, &request.state, request.max_age)?;
    let (compared, mut comparing) = mpsc::unbounded_channel();
    let (state, manifest, envelope) = (Arc::clone(&request.state), known.manifest.clone(), Arc::clone(&known.envelope));
    let (out, force) = (request.out.clone(), request.force);
    let open = move || {
        let mut said = |bytes| _ = compared.send(bytes);
        Delivery::open(&state, &manifest, &envelope, out.as_deref(), force, &mut said)
    };
    let mut opening = tokio::task::spawn_blocking(open);
    let begun = loop {
        tokio::select! {
            begun = &mut opening => break begun,
            Some(bytes) = comparing.recv() => tell(News::Comparing(bytes)),
            () = &mut *interrupted => return Err(interruption().into()),
        }
    };
    let begun = begun.map_err(|error| CliError::new(Code::Io, "the destination was not opened").because(error))??;
    if let Begun::Ready(delivery) = &begun {
        tell(News::Known(&known.manifest, delivery.out()));
    }
    Ok(begun)
}

fn interruption() -> CliError {
    CliError::new(Code::Interrupted, "stopped before it was complete")
        .remedy("run the same command again: what was verified is kept, and it goes on from there")
}

/// The daemon's word on how it goes.
struct Wait {
    events: Events,
    seen: Value,
    /// What the daemon had counted when this was asked for.
    base: Option<Figures>,
    figures: Figures,
    moved: tokio::time::Instant,
}

impl Wait {
    fn new(events: Events) -> Self {
        let moved = tokio::time::Instant::now();
        Self { events, seen: Value::Null, base: None, figures: Figures::default(), moved }
    }

    fn number(&self) -> u64 {
        self.seen["number"].as_u64().unwrap_or(0)
    }

    /// Follows until the daemon's word is as wanted.
    async fn until(
        &mut self,
        request: &Request,
        tell: Tell<'_>,
        interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<(), Stopped> {
        loop {
            if wanted(&self.seen) {
                return Ok(());
            }
            let next = tokio::select! {
                next = self.events.next() => next?,
                () = tokio::time::sleep_until(self.moved + request.timeout) => return Err(self.nobody(request).into()),
                () = &mut *interrupted => return Err(interruption().into()),
            };
            let ended = || CliError::new(Code::Interrupted, "the daemon ended the download").remedy("run it again");
            self.seen = next.ok_or_else(ended)?;
            self.count();
            let status = self.seen["status"].as_str().unwrap_or_default();
            tell(News::Fetching(self.figures, status));
            if status == "waiting" {
                return Err(self.failed());
            }
        }
    }

    fn count(&mut self) {
        let number = |key: &str| self.seen[key].as_u64().unwrap_or(0);
        let now = Figures {
            total: number("bytes_total"),
            held: number("bytes_held"),
            from_peers: number("bytes_from_peers"),
            from_http: number("bytes_from_http"),
            from_cache_host: number("bytes_from_cache_host"),
            wasted: number("bytes_wasted"),
            peers: number("peers"),
            peers_active: number("peers_active"),
        };
        let base = *self.base.get_or_insert(now);
        // An attempt that was begun anew counts from nothing.
        let since = |now: u64, base: u64| now.checked_sub(base).unwrap_or(now);
        let figures = Figures {
            from_peers: since(now.from_peers, base.from_peers),
            from_http: since(now.from_http, base.from_http),
            from_cache_host: since(now.from_cache_host, base.from_cache_host),
            wasted: since(now.wasted, base.wasted),
            ..now
        };
        if figures.held != self.figures.held {
            self.moved = tokio::time::Instant::now();
        }
        self.figures = figures;
    }

    /// The daemon tries on; whoever waits is told now.
    fn failed(&self) -> Stopped {
        let word = self.seen["code"].as_str().unwrap_or_default();
        let reason = self.seen["reason"].as_str().unwrap_or_default().to_owned();
        match Code::ALL.iter().find(|code| code.word() == word) {
            Some(code @ (Code::NoSource | Code::SourceChanged | Code::BadManifest)) => {
                CliError::new(*code, reason).into()
            }
            _ => Stopped::NotHere(reason),
        }
    }

    fn nobody(&self, request: &Request) -> CliError {
        let seconds = request.timeout.as_secs();
        match self.seen["status"].as_str() {
            Some("paused") => CliError::new(Code::Locked, format!("the daemon's downloads have been paused for {seconds} s"))
                .remedy("`piecework resume` lets them go on; `--no-daemon` fetches it without the daemon"),
            _ => CliError::new(Code::NoSource, format!("nobody delivered anything to the daemon for {seconds} s"))
                .remedy("name a peer with --peer or a source with --source, or wait longer with --timeout; what was verified is kept"),
        }
    }
}

/// Takes every file from the daemon's copy, checked piece by piece, and renames the whole into place.
async fn take(
    client: &Client,
    wait: &Wait,
    manifest: &Manifest,
    delivery: Delivery,
    tell: Tell<'_>,
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<PathBuf, Stopped> {
    let delivery = Arc::new(delivery);
    let stop = Arc::new(AtomicBool::new(false));
    let mut written = 0u64;
    for (file, entry) in (0u32..).zip(manifest.files()) {
        if entry.length == 0 {
            continue;
        }
        let path = format!("/v1/downloads/{}/contents/{}", wait.number(), entry.content_id);
        let copy = client.file(&path).await?;
        let (wrote, mut writing) = mpsc::unbounded_channel();
        let (job, stopped) = (Arc::clone(&delivery), Arc::clone(&stop));
        let mut taking = tokio::task::spawn_blocking(move || {
            let mut said = |bytes| wrote.send(bytes).is_ok() && !stopped.load(Ordering::Relaxed);
            job.take(file, &copy, &mut said)
        });
        let taken = loop {
            tokio::select! {
                taken = &mut taking => break taken,
                Some(bytes) = writing.recv() => {
                    written = written.saturating_add(bytes);
                    tell(News::Writing(written));
                }
                () = &mut *interrupted => {
                    stop.store(true, Ordering::Relaxed);
                    break taking.await;
                }
            }
        };
        let taken = taken.map_err(|error| CliError::new(Code::Io, "the copy ended early").because(error))?;
        if let Err(failure) = taken {
            if let Ok(delivery) = Arc::try_unwrap(delivery) {
                delivery.leave();
            }
            return Err(failure.into());
        }
    }
    let Ok(delivery) = Arc::try_unwrap(delivery) else {
        return Err(CliError::new(Code::Io, "the destination is still being written").into());
    };
    let finished = tokio::task::spawn_blocking(move || delivery.finish()).await;
    Ok(finished.map_err(|error| CliError::new(Code::Io, "the destination was not finished").because(error))??)
}
